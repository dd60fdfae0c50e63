//! QoS 2 in both directions: once, whatever breaks in between.

use crate::support::*;
use hearthkey::mqtt::{
    Front, Limits,
    fabric_router::RouterFabric,
    gate::{Ending, Happening},
};
use std::sync::Arc;
use tokio::net::TcpListener;

const TEMPERATURE: &str = "dev/lamp/tele/temperature";
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

/// A session of `owner` that follows the lamp's telemetry with QoS 2.
async fn follower(home: &Home, connect: Connect) -> Client {
    let mut owner = home.connected(connect).await;
    assert_eq!(owner.subscribe("dev/lamp/tele/+", 2).await, 2);
    owner
}

#[tokio::test]
async fn a_publish_is_delivered_once_however_often_it_is_repeated_before_its_release() {
    let home = Home::new().await;
    for version in [Connect::v5("lamp"), Connect::v311("lamp")] {
        let mut owner = follower(&home, Connect::v5("owner")).await;
        let mut lamp = home.connected(version).await;
        let mut publish = lamp.publish_packet(TEMPERATURE, "21", 2, false, &[]);
        lamp.send(&publish).await;
        assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
        publish[0] |= 0x08;
        for _ in 0..3 {
            lamp.send(&publish).await;
            assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
        }
        let message = owner.message().await;
        assert_eq!((message.payload.as_str(), message.qos, message.dup), ("21", 2, false));
        owner.nothing_came().await;
        lamp.ack(PUBREL, 1).await;
        assert_eq!(lamp.expect_ack(PUBCOMP, 1).await, 0);
        // Released: the same packet identifier is another message.
        lamp.send(&publish).await;
        assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
        assert_eq!(owner.message().await.payload, "21");
        owner.goodbye().await;
    }
}

#[tokio::test]
async fn the_lower_qos_of_publish_and_subscription_counts() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    for (subscribed, kept) in [(0, false), (1, false), (2, false), (0, true), (1, true), (2, true)] {
        let connect = if kept { Connect::kept("owner") } else { Connect::v5("owner") };
        let mut owner = home.connected(Connect { clean_start: true, ..connect }).await;
        assert_eq!(owner.subscribe("dev/lamp/tele/+", subscribed).await, subscribed);
        lamp.publish0(TEMPERATURE, "0").await;
        assert_eq!(owner.message().await.qos, 0);
        assert_eq!(lamp.publish1(TEMPERATURE, "1").await, 0);
        assert_eq!(owner.message().await.qos, subscribed.min(1));
        assert_eq!(lamp.publish2(TEMPERATURE, "2").await, 0);
        assert_eq!(owner.message().await.qos, subscribed, "kept: {kept}");
        owner.nothing_came().await;
    }
}

#[tokio::test]
async fn a_denied_publish_is_refused_by_pubrec_and_its_packet_identifier_is_free() {
    let home = Home::new().await;
    let mut owner = follower(&home, Connect::v5("owner")).await;
    owner.subscribe("dev/oven/tele/+", 2).await;
    let mut lamp = home.v5("lamp").await;
    let denied = lamp.publish_packet("dev/oven/tele/x", "x", 2, false, &[]);
    lamp.send(&denied).await;
    assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0x87);
    lamp.ack(PUBREL, 1).await;
    assert_eq!(lamp.expect_ack(PUBCOMP, 1).await, 0x92);
    // MQTT 3.1.1 has no word for it: the exchange goes its way, the message does not.
    let mut old = home.v311("oven").await;
    assert_eq!(old.publish2("dev/lamp/tele/x", "x").await, 0);
    assert_eq!(lamp.publish2(TEMPERATURE, "21").await, 0);
    assert_eq!(owner.message().await.payload, "21");
}

#[tokio::test]
async fn acknowledgements_of_nothing_are_answered_as_such() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    lamp.ack(PUBREL, 9).await;
    assert_eq!(lamp.expect_ack(PUBCOMP, 9).await, 0x92);
    lamp.ack(PUBREC, 9).await;
    assert_eq!(lamp.expect_ack(PUBREL, 9).await, 0x92);
    lamp.ack(PUBCOMP, 9).await;
    lamp.ack(0x40, 9).await;
    lamp.nothing_came().await;
}

#[tokio::test]
async fn more_unreleased_publishes_than_the_receive_maximum_end_an_mqtt_5_connection() {
    let limits = Limits { receive_maximum: 2, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut lamp = home.v5("lamp").await;
    for identifier in [1, 2] {
        let publish = lamp.publish_packet(TEMPERATURE, "x", 2, false, &[]);
        lamp.send(&publish).await;
        lamp.expect_ack(PUBREC, identifier).await;
    }
    let third = lamp.publish_packet(TEMPERATURE, "x", 1, false, &[]);
    lamp.send(&third).await;
    assert_eq!(lamp.disconnected().await.0, 0x93);
    let mut old = home.v311("lamp").await;
    for identifier in 1..=10 {
        let publish = old.publish_packet(TEMPERATURE, "x", 2, false, &[]);
        old.send(&publish).await;
        old.expect_ack(PUBREC, identifier).await;
    }
}

#[tokio::test]
async fn an_unfinished_exchange_counts_against_the_clients_receive_maximum() {
    let home = Home::new().await;
    let mut connect = Connect::v5("owner");
    connect.properties = vec![0x21, 0, 1];
    let mut owner = follower(&home, connect).await;
    let mut lamp = home.v5("lamp").await;
    for text in ["a", "b"] {
        lamp.publish2(TEMPERATURE, text).await;
    }
    let first = owner.message_unacknowledged().await;
    owner.ack(PUBREC, first.packet_identifier).await;
    assert_eq!(owner.expect_ack(PUBREL, first.packet_identifier).await, 0);
    owner.nothing_came().await;
    owner.ack(PUBCOMP, first.packet_identifier).await;
    assert_eq!(owner.message().await.payload, "b");
}

#[tokio::test]
async fn a_client_may_refuse_a_message_and_gets_the_next() {
    let home = Home::new().await;
    let mut owner = follower(&home, Connect::kept("owner")).await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish2(TEMPERATURE, "a").await;
    let refused = owner.message_unacknowledged().await;
    owner.send(&packet(PUBREC, &[&refused.packet_identifier.to_be_bytes()[..], &[0x97]].concat())).await;
    lamp.publish2(TEMPERATURE, "b").await;
    assert_eq!(owner.message().await.payload, "b");
    drop(owner);
    let mut owner = home.connected(Connect::kept("owner")).await;
    owner.nothing_came().await;
}

#[tokio::test]
async fn taken_means_durable_with_the_packet_identifier() {
    let home = Home::new().await;
    let owner = follower(&home, Connect::kept("owner")).await;
    owner.goodbye().await;
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    home.gate.disk.set(DiskMode::Hangs);
    let mut publish = lamp.publish_packet(TEMPERATURE, "21", 2, false, &[]);
    lamp.send(&publish).await;
    // No PUBREC while a power cut would lose the message or the memory of it.
    lamp.nothing_came().await;
    home.gate.disk.set(DiskMode::Works);
    assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
    // The power fails before the client has seen PUBREC: it repeats, and the message is not taken twice.
    let home = home.after_a_power_cut().await;
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    assert_eq!(lamp.connack.body[0], 1);
    publish[0] |= 0x08;
    lamp.send(&publish).await;
    assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
    lamp.ack(PUBREL, 1).await;
    assert_eq!(lamp.expect_ack(PUBCOMP, 1).await, 0);
    let mut owner = home.connected(Connect::kept("owner")).await;
    assert_eq!(owner.message().await.payload, "21");
    owner.nothing_came().await;
    // And the release is durable too: after another power cut the packet identifier means another message.
    let home = home.after_a_power_cut().await;
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    lamp.send(&publish).await;
    assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
    let mut owner = home.connected(Connect::kept("owner")).await;
    assert_eq!(owner.message().await.payload, "21");
}

#[tokio::test]
async fn a_power_cut_between_the_batches_of_a_large_publish_neither_repeats_nor_loses_it() {
    let large = "x".repeat(200_000);
    let kept = |number: u8| Connect { client_identifier: format!("owner/{number}"), ..Connect::kept("owner") };
    let batches = |home: &Home| home.gate.state.lock().unwrap().batches;
    // 2.4 MB: three batches.
    for cut in 0..=3 {
        let home = Home::new().await;
        for number in 0..12 {
            follower(&home, kept(number)).await.goodbye().await;
        }
        let mut lamp = home.connected(Connect::kept("lamp")).await;
        lamp.nothing_came().await;
        let before = batches(&home);
        home.gate.disk.set(DiskMode::HangsAfter(before + cut));
        let mut publish = lamp.publish_packet(TEMPERATURE, &large, 2, false, &[]);
        lamp.send(&publish).await;
        if cut == 3 {
            assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
            assert_eq!(batches(&home) - before, cut);
        } else {
            within(async {
                while batches(&home) < before + cut {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            lamp.nothing_came().await;
        }
        let home = home.after_a_power_cut().await;
        let mut lamp = home.connected(Connect::kept("lamp")).await;
        publish[0] |= 0x08;
        lamp.send(&publish).await;
        assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
        for number in 0..12 {
            let mut owner = home.connected(kept(number)).await;
            assert_eq!(owner.message().await.payload, large, "after {cut} batches");
            owner.nothing_came().await;
        }
    }
}

/// What a client that follows the specification takes for messages: each packet identifier once until its PUBREL.
async fn taken_by_the_book(owner: &mut Client, unreleased: &mut Vec<u16>, upto: usize) -> Vec<String> {
    let mut taken = Vec::new();
    while taken.len() < upto {
        let packet = owner.receive().await;
        match packet.first {
            PUBREL => {
                let identifier = u16::from_be_bytes([packet.body[0], packet.body[1]]);
                unreleased.retain(|known| *known != identifier);
                owner.ack(PUBCOMP, identifier).await;
            }
            _ => {
                let message = packet.published(5);
                if !unreleased.contains(&message.packet_identifier) {
                    unreleased.push(message.packet_identifier);
                    taken.push(message.payload);
                }
                owner.ack(PUBREC, message.packet_identifier).await;
            }
        }
    }
    taken
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_a_delivery_neither_repeats_nor_loses_it() {
    for step in 0..4 {
        let home = Home::new().await;
        let mut owner = follower(&home, Connect::kept("owner")).await;
        let mut lamp = home.v5("lamp").await;
        lamp.publish2(TEMPERATURE, "a").await;
        let message = owner.message_unacknowledged().await;
        let identifier = message.packet_identifier;
        let mut unreleased = vec![identifier];
        if step >= 1 {
            owner.ack(PUBREC, identifier).await;
            assert_eq!(owner.expect_ack(PUBREL, identifier).await, 0);
        }
        if step >= 2 {
            unreleased.clear();
        }
        if step >= 3 {
            owner.ack(PUBCOMP, identifier).await;
            owner.nothing_came().await;
        }
        let home = home.after_a_power_cut().await;
        let mut owner = home.connected(Connect::kept("owner")).await;
        assert_eq!(owner.connack.body[0], 1);
        // More messages than were before, so that packet identifiers come again.
        let mut lamp = home.v5("lamp").await;
        for text in ["b", "c", "d"] {
            lamp.publish2(TEMPERATURE, text).await;
        }
        assert_eq!(taken_by_the_book(&mut owner, &mut unreleased, 3).await, ["b", "c", "d"], "step {step}");
    }
}

#[tokio::test]
async fn after_a_power_cut_what_was_not_acknowledged_comes_with_its_packet_identifier() {
    let home = Home::new().await;
    let mut owner = follower(&home, Connect::kept("owner")).await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "a").await;
    lamp.publish2(TEMPERATURE, "b").await;
    lamp.publish1(TEMPERATURE, "c").await;
    let (a, b, c) =
        (owner.message_unacknowledged().await, owner.message_unacknowledged().await, owner.message_unacknowledged().await);
    owner.puback(a.packet_identifier).await;
    owner.nothing_came().await;
    let home = home.restarted().await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    for earlier in [b, c] {
        let again = owner.message_unacknowledged().await;
        assert_eq!(again, Published { dup: true, ..earlier });
    }
    owner.nothing_came().await;
}

#[tokio::test]
async fn what_waits_for_pubrec_or_pubcomp_goes_on_with_the_next_connection() {
    let home = Home::new().await;
    let mut owner = follower(&home, Connect::kept("owner")).await;
    let mut lamp = home.v5("lamp").await;
    for text in ["a", "b"] {
        lamp.publish2(TEMPERATURE, text).await;
    }
    let (first, second) = (owner.message_unacknowledged().await, owner.message_unacknowledged().await);
    owner.ack(PUBREC, first.packet_identifier).await;
    assert_eq!(owner.expect_ack(PUBREL, first.packet_identifier).await, 0);
    drop(owner);
    let mut owner = home.connected(Connect::kept("owner")).await;
    assert_eq!(owner.expect_ack(PUBREL, first.packet_identifier).await, 0);
    let again = owner.message_unacknowledged().await;
    assert_eq!((again.dup, again.packet_identifier, again.payload), (true, second.packet_identifier, second.payload));
}

#[tokio::test]
async fn a_retained_message_and_a_will_come_with_qos_2() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    let retained = lamp.publish_packet("dev/lamp/status", "online", 2, true, &[]);
    lamp.send(&retained).await;
    lamp.expect_ack(PUBREC, 1).await;
    lamp.goodbye().await;
    let mut connect = Connect::v5("lamp");
    connect.will = Some(("dev/lamp/status".to_owned(), b"offline".to_vec(), 2, true, Vec::new()));
    let lamp = home.connected(connect).await;
    for connect in [Connect::v5("owner"), Connect::kept("owner")] {
        let mut owner = home.connected(connect).await;
        assert_eq!(owner.subscribe("dev/lamp/status", 2).await, 2);
        let message = owner.message().await;
        assert_eq!((message.payload.as_str(), message.qos, message.retain), ("online", 2, true));
    }
    let mut owner = home.connected(Connect::kept("owner")).await;
    drop(lamp);
    let message = owner.message().await;
    assert_eq!((message.payload.as_str(), message.qos, message.retain), ("offline", 2, false));
}

#[tokio::test]
async fn rights_that_end_while_a_message_is_on_its_way_end_its_exchange_and_not_the_session() {
    let home = Home::new().await;
    let mut owner = follower(&home, Connect::kept("owner")).await;
    owner.subscribe("dev/oven/tele/+", 2).await;
    home.v5("lamp").await.publish2(TEMPERATURE, "secret").await;
    let message = owner.message_unacknowledged().await;
    drop(owner);
    home.gate.grant("owner", user("owner"), rights(&[], &["dev/oven/#"]), None);
    let mut owner = home.connected(Connect::kept("owner")).await;
    // Not repeated; the packet identifier is released, since the client may hold it.
    assert_eq!(owner.expect_ack(PUBREL, message.packet_identifier).await, 0);
    owner.ack(PUBCOMP, message.packet_identifier).await;
    home.v5("oven").await.publish2("dev/oven/tele/x", "seen").await;
    assert_eq!(owner.message().await.payload, "seen");
    owner.nothing_came().await;
}

#[tokio::test]
async fn the_death_of_the_router_neither_repeats_nor_loses_a_message() {
    let mut home = Home::new().await;
    let fabric = Arc::new(RouterFabric::new(100));
    let front = Front::with_fabric(home.gate.clone(), Limits::default(), [], fabric.clone());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    home.address = listener.local_addr().unwrap();
    let serving = front.clone();
    tokio::spawn(async move { serving.serve_tcp(listener, std::future::pending()).await });
    for connect in [Connect::v5("owner"), Connect::kept("owner")] {
        let mut owner = follower(&home, connect).await;
        let mut lamp = home.v5("lamp").await;
        for number in 0..60 {
            if number % 20 == 10 {
                fabric.kill().await;
            }
            assert_eq!(lamp.publish2(TEMPERATURE, &number.to_string()).await, 0);
        }
        let expected: Vec<_> = (0..60).map(|number| number.to_string()).collect();
        assert_eq!(taken_by_the_book(&mut owner, &mut Vec::new(), 60).await, expected, "each once and in order");
        lamp.publish2(TEMPERATURE, "end").await;
        assert_eq!(taken_by_the_book(&mut owner, &mut Vec::new(), 1).await, ["end"]);
    }
}

#[tokio::test]
async fn a_reader_that_lags_too_far_behind_is_cut_when_it_reads_on_and_costs_nobody_else() {
    let home = Home::new().await;
    let mut connect = Connect::v5("owner");
    connect.properties = vec![0x21, 0, 1];
    let mut slow = follower(&home, connect).await;
    let quick = Connect { client_identifier: "quick".to_owned(), ..Connect::v5("owner") };
    let mut quick = follower(&home, quick).await;
    let mut lamp = home.v5("lamp").await;
    // More than all queues between the front and a client that acknowledges nothing.
    let large = "x".repeat(10_000);
    for number in 0..600 {
        lamp.publish2(TEMPERATURE, &format!("{number} {large}")).await;
        assert!(quick.message().await.payload.starts_with(&format!("{number} ")));
    }
    let mut came = 0;
    let cut = loop {
        let packet = slow.receive().await;
        let identifier = |at: usize| u16::from_be_bytes([packet.body[at], packet.body[at + 1]]);
        match packet.first {
            0xE0 => break packet,
            PUBREL => slow.ack(PUBCOMP, identifier(0)).await,
            _ => {
                assert_eq!(
                    packet.published(5).payload.split(' ').next(),
                    Some(came.to_string().as_str()),
                    "none is missing so far"
                );
                came += 1;
                slow.ack(PUBREC, identifier(2 + TEMPERATURE.len())).await;
            }
        }
    };
    assert!(cut.body[0] == 0x97 && String::from_utf8_lossy(&cut.body).contains("too slow"), "{cut:?}");
}

#[tokio::test]
async fn what_a_client_may_hold_is_released_when_its_queue_overflows_after_a_power_cut() {
    let home = Home::new().await;
    let mut owner = follower(&home, Connect::kept("owner")).await;
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.publish2(TEMPERATURE, "held").await, 0);
    let held = owner.message_unacknowledged().await;
    // The power fails before the client says that it has it, and many more come before it is back.
    let gate = FakeGate::of_a_home();
    gate.state.lock().unwrap().rows = home.gate.rows().into_iter().collect();
    let home = Home::with(gate, Limits { max_queued_messages: 2, ..Limits::default() }).await;
    let mut lamp = home.v5("lamp").await;
    for text in ["a", "b", "c"] {
        assert_eq!(lamp.publish2(TEMPERATURE, text).await, 0);
    }
    for home in [home.after_a_power_cut().await, home] {
        let mut owner = home.connected(Connect::kept("owner")).await;
        assert_eq!(owner.expect_ack(PUBREL, held.packet_identifier).await, 0, "it may let it go");
        owner.ack(PUBCOMP, held.packet_identifier).await;
        for text in ["b", "c"] {
            let message = owner.message_unacknowledged().await;
            assert!(message.payload == text && message.packet_identifier != held.packet_identifier, "{message:?}");
        }
    }
}

#[tokio::test]
async fn what_the_store_refused_comes_once_when_its_publisher_repeats_it() {
    for (connect, qos) in [(Connect::kept("owner"), 1), (Connect::kept("owner"), 2), (Connect::v5("owner"), 2)] {
        let home = Home::new().await;
        let mut owner = follower(&home, connect.clone()).await;
        let mut lamp = home.connected(Connect::kept("lamp")).await;
        lamp.nothing_came().await;
        home.gate.disk.set(DiskMode::Fails);
        let mut publish = lamp.publish_packet(TEMPERATURE, "21", qos, false, &[]);
        for _ in 0..2 {
            lamp.send(&publish).await;
            assert_eq!(lamp.disconnected().await.0, 0x83);
            home.gate.disk.set(DiskMode::Works);
            lamp = home.connected(Connect::kept("lamp")).await;
            home.gate.disk.set(DiskMode::Fails);
            publish[0] |= 0x08;
        }
        home.gate.disk.set(DiskMode::Works);
        lamp.send(&publish).await;
        assert_eq!(lamp.expect_ack(if qos == 1 { 0x40 } else { PUBREC }, 1).await, 0);
        let message = owner.message().await;
        assert_eq!((message.payload.as_str(), message.qos), ("21", qos));
        owner.nothing_came().await;
        if qos == 2 {
            lamp.ack(PUBREL, 1).await;
            assert_eq!(lamp.expect_ack(PUBCOMP, 1).await, 0);
        }
        // And nothing of the attempts comes after a power cut.
        drop(owner);
        let home = home.after_a_power_cut().await;
        home.connected(connect).await.nothing_came().await;
    }
}

#[tokio::test]
async fn what_the_store_refused_after_its_publisher_had_gone_is_kept_when_it_is_repeated() {
    let home = Home::new().await;
    follower(&home, Connect::kept("owner")).await.goodbye().await;
    let mut live = follower(&home, Connect { client_identifier: "live".to_owned(), ..Connect::v5("owner") }).await;
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    lamp.nothing_came().await;
    home.gate.disk.set(DiskMode::Hangs);
    let mut publish = lamp.publish_packet(TEMPERATURE, "21", 2, false, &[]);
    lamp.send(&publish).await;
    assert_eq!(live.message().await.payload, "21");
    drop(lamp);
    home.gate.event(|event| matches!(event.what, Happening::Ended(Ending::ConnectionLost))).await;
    home.gate.disk.set(DiskMode::Fails);
    // Behind what was refused.
    assert_eq!(home.refusal(Connect::kept("lamp")).await.0, 0x88);
    home.gate.disk.set(DiskMode::Works);
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    publish[0] |= 0x08;
    lamp.send(&publish).await;
    assert_eq!(lamp.expect_ack(PUBREC, 1).await, 0);
    live.nothing_came().await;
    let home = home.after_a_power_cut().await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    assert_eq!(owner.message().await.payload, "21");
    owner.nothing_came().await;
}

#[tokio::test]
async fn a_repetition_that_the_client_takes_no_more_is_released() {
    let home = Home::new().await;
    let mut owner = follower(&home, Connect::kept("owner")).await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish2(TEMPERATURE, &"x".repeat(200)).await;
    let held = owner.message_unacknowledged().await;
    drop(owner);
    // Maximum Packet Size 100.
    let mut connect = Connect::kept("owner");
    connect.properties.extend([0x27, 0, 0, 0, 100]);
    let mut owner = home.connected(connect).await;
    assert_eq!(owner.expect_ack(PUBREL, held.packet_identifier).await, 0, "the client may hold it");
    owner.ack(PUBCOMP, held.packet_identifier).await;
    lamp.publish2(TEMPERATURE, "short").await;
    assert_eq!(owner.message().await.payload, "short");
    owner.nothing_came().await;
}
