//! Sections 4.1 and 4.4 to 4.6: what a session keeps, what is repeated, and in which order.

use crate::{peer::*, support::*};
use hearthkey::mqtt::Limits;

/// 5: 4.1.0-1 · 3.1.1: 4.1.0-1, 4.1.0-2
/// The shortest session lasts as long as its connection.
#[tokio::test]
async fn mqtt_4_1_0_1_a_session_lasts_as_long_as_its_connection() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.subscribe("a", 1).await;
        home.gate.state.lock().unwrap().later += 1_000_000;
        somebody_publishes(&home, "a", "x").await;
        assert_eq!(client.message().await.payload, "x");
    }
}

/// 5: 4.1.0-2
#[tokio::test]
async fn mqtt_4_1_0_2_a_session_ends_when_its_interval_has_passed() {
    let home = Home::new().await;
    // No interval: it ends with the connection.
    let brief = || Connect { clean_start: false, ..owner(5, "a") };
    home.connected(brief()).await.goodbye().await;
    connections_left(&home, 0).await;
    assert!(!session_present(&home.connected(brief()).await));
    // DISCONNECT may shorten it.
    let mut client = home.connected(kept(5, "b")).await;
    client.send(&packet(0xE0, &[0, 5, 0x11, 0, 0, 0, 0])).await;
    client.closed().await;
    connections_left(&home, 0).await;
    assert!(!session_present(&home.connected(kept(5, "b")).await));
    // A second of time is given, and passes.
    let second = || with(Connect { clean_start: false, ..owner(5, "c") }, &[0x11, 0, 0, 0, 1]);
    home.connected(second()).await.goodbye().await;
    until(&home, |stats| stats.kept_sessions <= 1).await;
    assert!(!session_present(&home.connected(second()).await));
}

/// 3.1.1: 3.1.2-7
#[tokio::test]
async fn mqtt_311_3_1_2_7_retained_messages_outlive_the_session() {
    let home = Home::new().await;
    let mut client = home.connected(owner(4, "a")).await;
    client.publish("a", "kept", true, &[]).await;
    client.goodbye().await;
    connections_left(&home, 0).await;
    let mut late = home.connected(owner(4, "late")).await;
    late.subscribe("a", 0).await;
    assert_eq!(late.message().await.payload, "kept");
}

/// 5: 4.4.0-1, 4.6.0-1 · 3.1.1: 4.4.0-1, 4.6.0-1
/// All that is unacknowledged, in its order, with its packet identifier; and only at a reconnection.
#[tokio::test]
async fn mqtt_4_4_0_1_the_unacknowledged_is_repeated_when_the_session_goes_on() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.subscribe("a", 1).await;
        for payload in ["1", "2", "3"] {
            somebody_publishes(&home, "a", payload).await;
        }
        let mut before = Vec::new();
        for _ in 0..3 {
            before.push(client.message_unacknowledged().await);
        }
        client.nothing_came().await;
        client.puback(before.remove(1).packet_identifier).await;
        client.nothing_came().await;
        drop(client);
        let mut client = home.connected(kept(version, "a")).await;
        for message in before {
            let again = client.message().await;
            assert_eq!(again, Published { dup: true, ..message });
        }
        client.nothing_came().await;
    }
}

/// 5: 4.4.0-2
#[tokio::test]
async fn mqtt_4_4_0_2_a_refusing_puback_is_an_acknowledgement() {
    let home = Home::new().await;
    let mut client = home.connected(kept(5, "a")).await;
    client.subscribe("a", 1).await;
    somebody_publishes(&home, "a", "x").await;
    let message = client.message_unacknowledged().await;
    client.send(&packet(0x40, &[&message.packet_identifier.to_be_bytes()[..], &[0x83]].concat())).await;
    client.nothing_came().await;
    drop(client);
    home.connected(kept(5, "a")).await.nothing_came().await;
}

/// 5: 4.5.0-1 · 3.1.1: 4.5.0-1, 3.1.2-5
/// Of those who are connected and of those who are away.
#[tokio::test]
async fn mqtt_4_5_0_1_a_message_goes_to_each_session_with_a_matching_subscription() {
    for version in BOTH {
        let home = Home::new().await;
        let mut away = home.connected(kept(version, "away")).await;
        away.subscribe("a/+", 1).await;
        away.goodbye().await;
        let mut connected = home.connected(owner(version, "connected")).await;
        connected.subscribe("#", 1).await;
        let mut other = home.connected(owner(version, "other")).await;
        other.subscribe("b", 1).await;
        somebody_publishes(&home, "a/b", "x").await;
        assert_eq!(connected.message().await.payload, "x");
        other.nothing_came().await;
        let mut away = home.connected(kept(version, "away")).await;
        assert_eq!(away.message().await.payload, "x");
    }
}

/// 5: 4.6.0-2 · 3.1.1: 4.6.0-2
/// As the receiver, the hub keeps the order of its acknowledgements, also where one has to wait for the disk.
#[tokio::test]
async fn mqtt_4_6_0_2_pubacks_come_in_the_order_of_the_publishes() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        home.gate.disk.set(DiskMode::Hangs);
        let retained = client.publish_packet("a", "x", 1, true, &[]);
        let passing = client.publish_packet("b", "x", 1, false, &[]);
        client.send(&[retained, passing].concat()).await;
        client.nothing_came().await;
        home.gate.disk.set(DiskMode::Works);
        client.puback_of(1).await;
        client.puback_of(2).await;
        client.goodbye().await;
        // Nor does a refusal overtake: of what is denied, or beyond a bound.
        for (qos, ack) in [(1, 0x40), (2, 0x50)] {
            let home = Home::with(FakeGate::of_a_home(), Limits { max_retained_messages: 1, ..Limits::default() }).await;
            let mut lamp = home.connected(Connect { version, user_name: Some("lamp".to_owned()), ..Connect::v5("lamp") }).await;
            home.gate.disk.set(DiskMode::Hangs);
            let mut publishes = Vec::new();
            for (topic, retain) in [("dev/lamp/status", true), ("dev/oven/status", false), ("dev/lamp/state", true)] {
                publishes.extend(lamp.publish_packet(topic, "x", qos, retain, &[]));
            }
            lamp.send(&publishes).await;
            lamp.nothing_came().await;
            home.gate.disk.set(DiskMode::Works);
            for (identifier, code) in [(1, 0), (2, 0x87), (3, 0x97)] {
                let told = lamp.expect_ack(ack, identifier).await;
                assert_eq!(told, if version == 5 { code } else { 0 });
            }
        }
    }
}

/// 5: 4.6.0-5, 4.6.0-6 · 3.1.1: 4.6.0-5, 4.6.0-6
#[tokio::test]
async fn mqtt_4_6_0_5_messages_of_one_client_keep_their_order() {
    /// Fewer than the hub's Receive Maximum.
    const MESSAGES: usize = 60;
    for version in BOTH {
        let home = Home::new().await;
        for qos in [0, 1] {
            for connect in [owner(version, "a"), kept(version, "b")] {
                let mut client = home.connected(connect).await;
                client.subscribe("a", qos).await;
                let mut somebody = home.connected(owner(version, "somebody")).await;
                let mut burst = Vec::new();
                for number in 0..MESSAGES {
                    burst.extend(somebody.publish_packet("a", &number.to_string(), qos, false, &[]));
                }
                somebody.send(&burst).await;
                for number in 0..MESSAGES {
                    assert_eq!(client.message().await.payload, number.to_string());
                }
                client.goodbye().await;
            }
        }
    }
}
