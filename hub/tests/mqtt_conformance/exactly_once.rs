//! Sections 3.5 to 3.7 and 4.3.3: PUBREC, PUBREL, PUBCOMP, and the delivery that happens once.

use crate::{peer::*, support::*};

fn pubrec(identifier: u16) -> Vec<u8> {
    packet(0x50, &identifier.to_be_bytes())
}

fn pubrel(identifier: u16) -> Vec<u8> {
    packet(0x62, &identifier.to_be_bytes())
}

fn pubcomp(identifier: u16) -> Vec<u8> {
    packet(0x70, &identifier.to_be_bytes())
}

/// PUBREC, PUBREL or PUBCOMP of this identifier; its reason code.
async fn answered(client: &mut Client, first: u8, identifier: u16) -> u8 {
    let packet = client.receive().await;
    assert_eq!((packet.first, &packet.body[..2]), (first, &identifier.to_be_bytes()[..]), "{packet:?}");
    packet.body.get(2).copied().unwrap_or(0)
}

/// A whole publication at QoS 2 with packet identifier 9.
async fn publishes_once(client: &mut Client, payload: &str) {
    client.send(&publish_bytes(client.version, 0x04, b"a", &[], payload)).await;
    assert_eq!(answered(client, 0x50, 9).await, 0);
    client.send(&pubrel(9)).await;
    assert_eq!(answered(client, 0x70, 9).await, 0);
}

async fn somebody_publishes_once(home: &Home, payload: &str) {
    let mut somebody = home.connected(owner(5, "somebody")).await;
    publishes_once(&mut somebody, payload).await;
    somebody.goodbye().await;
}

/// A kept session that is subscribed to `a` at QoS 2.
async fn subscriber(home: &Home, version: u8) -> Client {
    let mut client = home.connected(kept(version, "a")).await;
    assert_eq!(client.subscribe("a", 2).await, 2);
    client
}

/// 5: 3.5.2-1, 3.6.2-1, 3.7.2-1
#[tokio::test]
async fn mqtt_3_5_2_1_the_acknowledgements_have_reason_codes_of_their_tables() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    lamp.send(&publish_bytes(5, 0x04, b"dev/oven/status", &[], "x")).await;
    assert_eq!(answered(&mut lamp, 0x50, 9).await, 0x87);
    lamp.send(&pubrel(7)).await;
    assert_eq!(answered(&mut lamp, 0x70, 7).await, 0x92, "packet identifier not found");
    lamp.send(&pubrec(7)).await;
    assert_eq!(answered(&mut lamp, 0x62, 7).await, 0x92);
}

/// 5: 3.5.2-2, 3.5.2-3, 3.6.2-2, 3.6.2-3, 3.7.2-2, 3.7.2-3
#[tokio::test]
async fn mqtt_3_5_2_2_words_that_do_not_fit_are_left_out_of_the_acknowledgements() {
    let home = Home::new().await;
    let mut lamp = home.connected(with(Connect::v5("lamp"), &[0x27, 0, 0, 0, 30])).await;
    for (bytes, first) in [(publish_bytes(5, 0x04, b"dev/oven/status", &[], "x"), 0x50), (pubrel(7), 0x70), (pubrec(7), 0x62)] {
        lamp.send(&bytes).await;
        let answer = lamp.receive().await;
        assert!(answer.first == first && answer.body.len() <= 28, "{answer:?}");
    }
}

/// 5: 3.6.1-1 · 3.1.1: 3.6.1-1
#[tokio::test]
async fn mqtt_3_6_1_1_pubrel_has_the_flags_0010() {
    for version in BOTH {
        let home = Home::new().await;
        for flags in (0..16).filter(|flags| *flags != 2) {
            is_ended(&home, version, &packet(0x60 | flags, &[0, 1]), 0x81).await;
        }
    }
}

/// 5: 4.3.3-1, 4.3.3-2, 4.3.3-4 · 3.1.1: 4.3.3-1
#[tokio::test]
async fn mqtt_4_3_3_4_the_hub_delivers_by_publish_pubrec_pubrel_pubcomp() {
    for version in BOTH {
        for connect in [kept(version, "kept"), owner(version, "clean")] {
            let home = Home::new().await;
            let mut client = home.connected(connect).await;
            client.subscribe("a", 2).await;
            let mut used = Vec::new();
            for payload in ["1", "2"] {
                somebody_publishes_once(&home, payload).await;
                let message = client.message_unacknowledged().await;
                assert_eq!((message.payload.as_str(), message.qos, message.dup), (payload, 2, false));
                client.send(&pubrec(message.packet_identifier)).await;
                assert_eq!(answered(&mut client, 0x62, message.packet_identifier).await, 0);
                used.push(message.packet_identifier);
            }
            assert!(used[0] != used[1] && !used.contains(&0), "both are in use: {used:?}");
            for identifier in used {
                client.send(&pubcomp(identifier)).await;
            }
            client.nothing_came().await;
        }
    }
}

/// 5: 4.3.3-3
#[tokio::test]
async fn mqtt_4_3_3_3_until_pubrec_the_publish_is_unacknowledged() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = subscriber(&home, version).await;
        somebody_publishes_once(&home, "x").await;
        let message = client.message_unacknowledged().await;
        drop(client);
        let mut client = home.connected(kept(version, "a")).await;
        assert_eq!(client.message_unacknowledged().await, Published { dup: true, ..message });
    }
}

/// 5: 4.3.3-5, 4.3.3-6
#[tokio::test]
async fn mqtt_4_3_3_5_until_pubcomp_the_pubrel_is_repeated_and_the_publish_is_not() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = subscriber(&home, version).await;
        somebody_publishes_once(&home, "x").await;
        let identifier = client.message_unacknowledged().await.packet_identifier;
        client.send(&pubrec(identifier)).await;
        answered(&mut client, 0x62, identifier).await;
        for _ in 0..2 {
            drop(client);
            client = home.connected(kept(version, "a")).await;
            answered(&mut client, 0x62, identifier).await;
            client.nothing_came().await;
        }
        client.send(&pubcomp(identifier)).await;
        client.nothing_came().await;
        drop(client);
        home.connected(kept(version, "a")).await.nothing_came().await;
    }
}

/// 5: 4.3.3-7
/// What was sent is repeated although its time is over.
#[tokio::test]
async fn mqtt_4_3_3_7_what_was_sent_does_not_expire() {
    let home = Home::new().await;
    let mut client = subscriber(&home, 5).await;
    let mut somebody = home.connected(owner(5, "somebody")).await;
    somebody.send(&publish_bytes(5, 0x04, b"a", &[0x02, 0, 0, 0, 10], "x")).await;
    answered(&mut somebody, 0x50, 9).await;
    let message = client.message_unacknowledged().await;
    drop(client);
    home.gate.state.lock().unwrap().later = 20;
    let mut client = home.connected(kept(5, "a")).await;
    let again = client.message_unacknowledged().await;
    assert_eq!((again.payload, again.packet_identifier), (message.payload, message.packet_identifier));
}

/// 5: 4.3.3-8, 4.6.0-3 · 3.1.1: 4.6.0-3
#[tokio::test]
async fn mqtt_4_3_3_8_qos_2_is_answered_by_pubrec_in_order() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        let mut bytes = Vec::new();
        for _ in 0..5 {
            bytes.extend(client.publish_packet("a", "x", 2, false, &[]));
        }
        client.send(&bytes).await;
        for identifier in 1..=5 {
            answered(&mut client, 0x50, identifier).await;
        }
    }
}

/// 5: 4.3.3-9
#[tokio::test]
async fn mqtt_4_3_3_9_after_a_refusing_pubrec_the_identifier_is_a_new_publication() {
    let home = Home::new().await;
    let mut watcher = home.connected(owner(5, "watcher")).await;
    watcher.subscribe("dev/#", 0).await;
    let mut lamp = home.v5("lamp").await;
    lamp.send(&publish_bytes(5, 0x04, b"dev/oven/status", &[], "denied")).await;
    assert_eq!(answered(&mut lamp, 0x50, 9).await, 0x87);
    lamp.send(&publish_bytes(5, 0x04, b"dev/lamp/status", &[], "allowed")).await;
    assert_eq!(answered(&mut lamp, 0x50, 9).await, 0);
    assert_eq!(watcher.message().await.payload, "allowed");
}

/// 5: 4.3.3-10 · 3.1.1: 4.3.3-2
/// On the same connection, and on the next one of a session that is kept.
#[tokio::test]
async fn mqtt_4_3_3_10_until_pubrel_a_repetition_is_acknowledged_and_not_delivered() {
    for version in BOTH {
        let home = Home::new().await;
        let mut watcher = home.connected(owner(5, "watcher")).await;
        watcher.subscribe("a", 0).await;
        let mut client = home.connected(kept(version, "publisher")).await;
        client.send(&publish_bytes(version, 0x04, b"a", &[], "x")).await;
        answered(&mut client, 0x50, 9).await;
        client.send(&publish_bytes(version, 0x0C, b"a", &[], "x")).await;
        answered(&mut client, 0x50, 9).await;
        drop(client);
        let mut client = home.connected(kept(version, "publisher")).await;
        client.send(&publish_bytes(version, 0x0C, b"a", &[], "x")).await;
        answered(&mut client, 0x50, 9).await;
        client.send(&pubrel(9)).await;
        answered(&mut client, 0x70, 9).await;
        assert_eq!(watcher.message().await.payload, "x");
        watcher.nothing_came().await;
    }
}

/// 5: 4.3.3-11, 4.6.0-4 · 3.1.1: 4.6.0-4
#[tokio::test]
async fn mqtt_4_3_3_11_pubrel_is_answered_by_pubcomp() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        for _ in 0..3 {
            publishes_once(&mut client, "x").await;
        }
        client.nothing_came().await;
    }
}

/// 5: 4.3.3-12
#[tokio::test]
async fn mqtt_4_3_3_12_after_pubcomp_the_identifier_is_a_new_publication() {
    for version in BOTH {
        let home = Home::new().await;
        let mut watcher = home.connected(owner(5, "watcher")).await;
        watcher.subscribe("a", 0).await;
        let mut client = home.connected(owner(version, "a")).await;
        for payload in ["1", "2"] {
            publishes_once(&mut client, payload).await;
            assert_eq!(watcher.message().await.payload, payload);
        }
    }
}

/// 5: 4.3.3-13
#[tokio::test]
async fn mqtt_4_3_3_13_what_has_expired_is_acknowledged_to_its_end() {
    let home = Home::new().await;
    let mut client = home.connected(owner(5, "a")).await;
    client.send(&publish_bytes(5, 0x04, b"a", &[0x02, 0, 0, 0, 1], "x")).await;
    answered(&mut client, 0x50, 9).await;
    home.gate.state.lock().unwrap().later = 20;
    client.send(&pubrel(9)).await;
    assert_eq!(answered(&mut client, 0x70, 9).await, 0);
}
