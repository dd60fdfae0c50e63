//! What outlives a connection, a restart and a power cut.

use crate::support::*;
use hearthkey::mqtt::{
    Limits,
    gate::{Ending, Happening},
    message::Message,
};
use hearthkey_core::{rights::PublishPermit, session::EndReason, topic::TopicName};
use std::time::Duration;

const TEMPERATURE: &str = "dev/lamp/tele/temperature";

async fn kept_owner(home: &Home) -> Client {
    home.connected(Connect::kept("owner")).await
}

fn session_present(client: &Client) -> bool {
    client.connack.body[0] == 1
}

#[tokio::test]
async fn a_kept_session_gets_what_came_while_it_was_away_in_order() {
    let home = Home::new().await;
    let mut owner = kept_owner(&home).await;
    assert!(!session_present(&owner));
    assert_eq!(owner.subscribe("dev/lamp/tele/+", 1).await, 1);
    owner.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    for number in 0..20 {
        assert_eq!(lamp.publish1(TEMPERATURE, &number.to_string()).await, 0);
    }
    lamp.publish0(TEMPERATURE, "QoS 0 is not kept").await;
    lamp.nothing_came().await;
    let mut owner = kept_owner(&home).await;
    assert!(session_present(&owner));
    for number in 0..20 {
        let message = owner.message().await;
        assert_eq!((message.payload, message.qos, message.dup), (number.to_string(), 1, false));
    }
    owner.nothing_came().await;
    lamp.publish1(TEMPERATURE, "live").await;
    assert_eq!(owner.message().await.payload, "live", "the subscription still stands");
}

#[tokio::test]
async fn mqtt_3_keeps_a_session_too_and_a_clean_one_forgets() {
    let home = Home::new().await;
    let kept = Connect { clean_start: false, ..Connect::v311("owner") };
    let mut owner = home.connected(kept.clone()).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    owner.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "21").await;
    let mut owner = home.connected(kept.clone()).await;
    assert!(session_present(&owner));
    assert_eq!(owner.message().await.payload, "21");
    owner.goodbye().await;
    home.connected(Connect { clean_start: true, ..kept.clone() }).await.goodbye().await;
    lamp.publish1(TEMPERATURE, "22").await;
    let mut owner = home.connected(kept).await;
    assert!(!session_present(&owner));
    owner.nothing_came().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_and_says_so() {
    let home = Home::new().await;
    let mut owner = kept_owner(&home).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    for text in ["a", "b", "c"] {
        lamp.publish1(TEMPERATURE, text).await;
    }
    let first = owner.message_unacknowledged().await;
    let second = owner.message_unacknowledged().await;
    let third = owner.message_unacknowledged().await;
    owner.puback(second.packet_identifier).await;
    owner.nothing_came().await;
    drop(owner);
    let mut owner = kept_owner(&home).await;
    for earlier in [first, third] {
        let again = owner.message().await;
        assert_eq!((again.dup, again.packet_identifier, again.payload), (true, earlier.packet_identifier, earlier.payload));
    }
    owner.nothing_came().await;
}

#[tokio::test]
async fn no_more_is_in_flight_than_the_client_takes() {
    let home = Home::new().await;
    let mut connect = Connect::v5("owner");
    connect.properties = vec![0x21, 0, 2];
    let mut owner = home.connected(connect).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    for number in 0..5 {
        lamp.publish1(TEMPERATURE, &number.to_string()).await;
    }
    let first = owner.message_unacknowledged().await;
    owner.message_unacknowledged().await;
    owner.nothing_came().await;
    owner.puback(first.packet_identifier).await;
    assert_eq!(owner.message_unacknowledged().await.payload, "2");
    owner.nothing_came().await;
}

#[tokio::test]
async fn sessions_queues_and_retained_messages_survive_a_restart() {
    let home = Home::new().await;
    let mut owner = kept_owner(&home).await;
    owner.subscribe_with("dev/lamp/tele/+", 1, &[0x0B, 7]).await;
    owner.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    let large = "x".repeat(30_000);
    for text in ["a", &large, "c"] {
        lamp.publish1(TEMPERATURE, text).await;
    }
    lamp.publish("dev/lamp/status", "online", true, &[]).await;
    let home = home.restarted().await;
    let mut owner = kept_owner(&home).await;
    assert!(session_present(&owner));
    for text in ["a", &large, "c"] {
        let message = owner.message().await;
        assert_eq!((message.payload.as_str(), &message.properties[..]), (text, &[0x0B, 7][..]));
    }
    owner.nothing_came().await;
    assert_eq!(owner.subscribe("dev/+/status", 0).await, 0);
    assert_eq!(owner.message().await.payload, "online");
    // What was acknowledged does not come again after the next restart, and the subscription is still there.
    let home = home.restarted().await;
    let mut owner = kept_owner(&home).await;
    owner.nothing_came().await;
    home.v5("lamp").await.publish1(TEMPERATURE, "d").await;
    assert_eq!(owner.message().await.payload, "d");
}

#[tokio::test]
async fn acknowledged_means_durable() {
    let home = Home::new().await;
    let mut owner = kept_owner(&home).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    owner.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    home.gate.disk.set(DiskMode::Hangs);
    for (topic, retain) in [(TEMPERATURE, false), ("dev/lamp/status", true)] {
        let publish = lamp.publish_packet(topic, "21", 1, retain, &[]);
        lamp.send(&publish).await;
    }
    // The disk hangs: a ping is answered, the publishes are not, and a power cut now would lose them.
    lamp.nothing_came().await;
    assert!(!kept_owner(&home.after_a_power_cut().await).await.connack.body.is_empty());
    home.gate.disk.set(DiskMode::Works);
    assert_eq!((lamp.puback_of(1).await, lamp.puback_of(2).await), (0, 0));
    // Acknowledged: the same power cut loses nothing.
    let home = home.after_a_power_cut().await;
    let mut owner = kept_owner(&home).await;
    assert_eq!(owner.message().await.payload, "21");
    owner.subscribe("dev/lamp/status", 0).await;
    assert_eq!(owner.message().await.payload, "21");
}

#[tokio::test]
async fn what_needs_no_row_does_not_wait_for_the_disk() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    home.gate.disk.set(DiskMode::Hangs);
    assert_eq!(lamp.publish1(TEMPERATURE, "21").await, 0);
    assert_eq!(owner.message().await.payload, "21");
}

#[tokio::test]
async fn what_could_not_be_stored_is_not_acknowledged() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    home.gate.disk.set(DiskMode::Fails);
    let publish = lamp.publish_packet("dev/lamp/status", "on", 1, true, &[]);
    lamp.send(&publish).await;
    let (code, words) = lamp.disconnected().await;
    assert_eq!(code, 0x83);
    assert!(words.contains("could not store"), "{words}");
    assert_eq!(home.refusal(Connect::kept("owner")).await.0, 0x88);
}

#[tokio::test]
async fn a_full_queue_drops_the_oldest_and_says_so_to_the_hub() {
    let limits = Limits { max_queued_messages: 3, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut owner = kept_owner(&home).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    owner.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    for number in 0..6 {
        lamp.publish1(TEMPERATURE, &number.to_string()).await;
    }
    home.gate.event(|event| matches!(&event.what, Happening::Limited { limit } if limit.contains("queue"))).await;
    assert_eq!(home.front.stats().lost, 3);
    let home = home.after_a_power_cut().await;
    let mut owner = kept_owner(&home).await;
    for number in 3..6 {
        assert_eq!(owner.message().await.payload, number.to_string());
    }
    owner.nothing_came().await;
}

#[tokio::test]
async fn queued_messages_need_the_right_at_the_moment_of_replay() {
    let home = Home::new().await;
    let mut owner = kept_owner(&home).await;
    owner.subscribe("dev/#", 1).await;
    owner.goodbye().await;
    for id in ["lamp", "oven"] {
        home.v5(id).await.publish1(&format!("dev/{id}/tele/x"), id).await;
    }
    home.gate.grant("owner", user("owner"), rights(&[], &["dev/oven/#"]), None);
    let mut owner = kept_owner(&home).await;
    assert_eq!(owner.message().await.payload, "oven");
    owner.nothing_came().await;
    // And what was withheld is gone for good.
    home.gate.grant("owner", user("owner"), rights(&[], &["#"]), None);
    home.reconsider(user("owner"));
    owner.nothing_came().await;
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over() {
    let home = Home::new().await;
    let mut short = Connect::kept("owner");
    short.properties = vec![0x11, 0, 0, 0, 1];
    let mut owner = home.connected(short.clone()).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    owner.goodbye().await;
    within(async {
        while home.front.stats().kept_sessions > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!session_present(&home.connected(Connect { clean_start: true, ..short }).await));
    within(async {
        while home.gate.rows().len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_may_change_how_long_a_session_is_kept_but_not_revive_one() {
    let home = Home::new().await;
    let mut owner = kept_owner(&home).await;
    owner.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]).await;
    owner.closed().await;
    let mut owner = kept_owner(&home).await;
    assert!(!session_present(&owner));
    owner.nothing_came().await;
    let mut brief = home.connected(Connect { client_identifier: "brief".to_owned(), ..Connect::v5("owner") }).await;
    brief.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]).await;
    assert_eq!(brief.disconnected().await.0, 0x82);
}

#[tokio::test]
async fn at_the_bound_of_kept_sessions_a_new_one_ends_with_its_connection_and_is_told() {
    let limits = Limits { max_kept_sessions: 1, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let owner = kept_owner(&home).await;
    let lamp = home.connected(Connect::kept("lamp")).await;
    let told_zero = [0x11, 0, 0, 0, 0];
    assert!(lamp.connack.body.windows(5).any(|window| window == told_zero), "{:?}", lamp.connack);
    assert!(!owner.connack.body.windows(5).any(|window| window == told_zero));
}

#[tokio::test]
async fn a_longer_expiry_than_the_hub_keeps_is_shortened_and_told() {
    let home = Home::new().await;
    let mut forever = Connect::kept("owner");
    forever.properties = vec![0x11, 0xFF, 0xFF, 0xFF, 0xFF];
    let owner = home.connected(forever).await;
    let week = [0x11, 0, 0x09, 0x3A, 0x80];
    assert!(owner.connack.body.windows(5).any(|window| window == week), "{:?}", owner.connack);
}

#[tokio::test]
async fn a_subscription_is_heard_again_once_the_rights_are_back_with_or_without_another_subscribe() {
    for subscribes_anew in [false, true] {
        let home = Home::new().await;
        let mut owner = kept_owner(&home).await;
        assert_eq!(owner.subscribe("dev/+/tele/+", 0).await, 0);
        owner.goodbye().await;
        home.gate.grant("owner", user("owner"), rights(&[], &["dev/oven/#"]), None);
        let mut owner = kept_owner(&home).await;
        assert_eq!(owner.subscribe("dev/+/tele/+", 0).await, 0x87);
        let mut lamp = home.v5("lamp").await;
        lamp.publish0(TEMPERATURE, "not for those eyes").await;
        lamp.nothing_came().await;
        owner.nothing_came().await;
        home.gate.grant("owner", user("owner"), rights(&[], &["#"]), None);
        home.reconsider(user("owner"));
        if subscribes_anew {
            assert_eq!(owner.subscribe("dev/+/tele/+", 0).await, 0);
        }
        // What the hub said to the connection is obeyed before this is answered.
        owner.nothing_came().await;
        lamp.publish0(TEMPERATURE, "21").await;
        assert_eq!(owner.message().await.payload, "21");
        owner.nothing_came().await;
    }
}

#[tokio::test]
async fn a_kept_session_with_qos_0_gets_the_commands_that_were_sent_while_it_was_away_once() {
    let home = Home::new().await;
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    assert_eq!((lamp.subscribe("dev/lamp/cmd/+", 0).await, lamp.subscribe("dev/lamp/cmd/identify", 1).await), (0, 1));
    lamp.goodbye().await;
    for name in ["identify", "set-mode"] {
        let permit = PublishPermit::for_hub(TopicName::parse(&format!("dev/lamp/cmd/{name}")).unwrap());
        home.front.publish(permit, Message::at_least_once(name)).await.unwrap();
        home.gate.state.lock().unwrap().commands_waiting.entry("lamp".to_owned()).or_default().push(name.to_owned());
    }
    let mut lamp = home.connected(Connect::kept("lamp")).await;
    let first = lamp.message().await;
    assert_eq!((first.payload.as_str(), first.qos), ("identify", 1), "the queue kept it");
    let second = lamp.message().await;
    assert_eq!((second.payload.as_str(), second.qos), ("set-mode", 0));
    lamp.nothing_came().await;
}

#[tokio::test]
async fn who_gets_the_name_of_a_revoked_device_does_not_get_its_session() {
    for is_connected in [true, false] {
        let home = Home::new().await;
        let mut lamp = home.connected(Connect::kept("lamp")).await;
        assert_eq!(lamp.subscribe("dev/lamp/twin/desired", 1).await, 1);
        home.connected(Connect::kept("oven")).await.goodbye().await;
        let connected = if is_connected {
            Some(lamp)
        } else {
            lamp.goodbye().await;
            None
        };
        home.gate.end(device("lamp"), EndReason::Revoked);
        home.gate.state.lock().unwrap().gone.insert(device("lamp"));
        home.reconsider(device("lamp"));
        if let Some(mut lamp) = connected {
            assert_eq!(lamp.disconnected().await.0, 0x98);
            home.gate.event(|event| matches!(event.what, Happening::Ended(Ending::ByHub(_)))).await;
        }
        {
            let mut state = home.gate.state.lock().unwrap();
            (state.ends, state.gone) = Default::default();
        }
        assert!(!session_present(&home.connected(Connect::kept("lamp")).await), "{is_connected}");
        assert!(session_present(&home.connected(Connect::kept("oven")).await), "nobody else's is lost");
    }
}

#[tokio::test]
async fn the_session_of_a_device_that_went_before_a_power_cut_is_not_restored() {
    let home = Home::new().await;
    home.connected(Connect::kept("lamp")).await.goodbye().await;
    let gate = FakeGate::of_a_home();
    gate.state.lock().unwrap().rows = home.gate.state.lock().unwrap().rows.clone();
    gate.state.lock().unwrap().gone.insert(device("lamp"));
    let home = Home::with(gate, Limits::default()).await;
    assert_eq!(home.front.stats().kept_sessions, 0);
}

#[tokio::test]
async fn who_asked_for_a_session_that_the_hub_does_not_keep_may_still_say_goodbye() {
    let home = Home::with(FakeGate::of_a_home(), Limits { max_kept_sessions: 0, ..Limits::default() }).await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/status", 1).await;
    let mut lamp = home.connected(Connect::kept("lamp").will("dev/lamp/status", "offline", false)).await;
    lamp.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]).await;
    lamp.closed().await;
    owner.nothing_came().await;
}

#[tokio::test]
async fn a_command_that_a_kept_session_lost_comes_when_its_device_is_back_and_before_those_that_were_sent_later() {
    for qos in [1, 2] {
        let home = Home::new().await;
        let mut lamp = home.connected(Connect::kept("lamp")).await;
        assert_eq!(lamp.subscribe("dev/lamp/cmd/+", qos).await, qos);
        // What the client has not acknowledged is not lost.
        publish_command(&home, "identify").await;
        assert_eq!(lamp.message_unacknowledged().await.payload, "identify");
        drop(lamp);
        home.gate.event(|event| event.what == Happening::Ended(Ending::ConnectionLost)).await;
        publish_command(&home, "set-target").await;
        let waiting = ["identify", "set-mode", "set-target"].map(ToOwned::to_owned).to_vec();
        home.gate.state.lock().unwrap().commands_waiting.insert("lamp".to_owned(), waiting);
        let mut lamp = home.connected(Connect::kept("lamp")).await;
        for name in ["identify", "set-mode", "set-target"] {
            let command = lamp.message().await;
            assert_eq!((command.payload.as_str(), command.qos), (name, 1), "granted {qos}");
        }
        lamp.nothing_came().await;
        lamp.goodbye().await;
        home.connected(Connect::kept("lamp")).await.nothing_came().await;
    }
}

async fn publish_command(home: &Home, name: &str) {
    let permit = PublishPermit::for_hub(TopicName::parse(&format!("dev/lamp/cmd/{name}")).unwrap());
    home.front.publish(permit, Message::at_least_once(name.to_owned())).await.unwrap();
}

#[tokio::test]
async fn the_time_of_a_session_passes_while_the_hub_is_down_and_does_not_begin_anew_when_it_starts() {
    let left = async |gate: &FakeGate| {
        let is_left = |(key, row): &(Vec<u8>, Vec<u8>)| key[0] == b's' && row.windows(7).any(|word| word == b"left_at");
        within(async {
            while !gate.rows().iter().any(is_left) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        gate.rows()
    };
    let mut connect = Connect::kept("owner");
    connect.properties = vec![0x11, 0, 0, 0x03, 0xE8];
    for (says_goodbye, first_start, second_start, is_present) in
        [(true, 300, 900, true), (true, 300, 1_000, false), (false, 300, 1_200, true), (false, 300, 1_300, false)]
    {
        let home = Home::new().await;
        let owner = home.connected(connect.clone()).await;
        // Who was there when the power failed has been away since then; that is known at the first start.
        let mut rows = home.gate.rows();
        if says_goodbye {
            owner.goodbye().await;
            rows = left(&home.gate).await;
        }
        let start = async |rows: Vec<(Vec<u8>, Vec<u8>)>, later: u64| {
            let gate = FakeGate::of_a_home();
            {
                let mut state = gate.state.lock().unwrap();
                (state.rows, state.later) = (rows.into_iter().collect(), later);
            }
            Home::with(gate, Limits::default()).await
        };
        let home = start(rows, first_start).await;
        let home = start(left(&home.gate).await, second_start).await;
        assert_eq!(session_present(&home.connected(connect.clone()).await), is_present, "{says_goodbye}, {second_start} s");
    }
}

#[tokio::test]
async fn no_more_messages_are_on_their_way_to_a_client_than_the_hub_allows() {
    for connect in [Connect::v5("owner"), Connect::kept("owner")] {
        let home = Home::with(FakeGate::of_a_home(), Limits { max_in_flight: 2, ..Limits::default() }).await;
        let mut owner = home.connected(connect).await;
        assert_eq!(owner.subscribe("dev/lamp/tele/+", 1).await, 1);
        let mut lamp = home.v5("lamp").await;
        for number in 1..=3 {
            assert_eq!(lamp.publish1(TEMPERATURE, &number.to_string()).await, 0);
        }
        let first = owner.message_unacknowledged().await;
        assert_eq!((first.payload.as_str(), owner.message_unacknowledged().await.payload.as_str()), ("1", "2"));
        owner.nothing_came().await;
        owner.puback(first.packet_identifier).await;
        assert_eq!(owner.message().await.payload, "3");
    }
}
