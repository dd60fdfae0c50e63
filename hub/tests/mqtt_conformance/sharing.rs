//! Section 4.8.2 and topic aliases: what only MQTT 5 has.

use crate::{peer::*, support::*};

/// 5: 4.8.2-1, 4.8.2-2
#[tokio::test]
async fn mqtt_4_8_2_1_a_shared_subscription_has_a_group_and_a_filter() {
    let home = Home::new().await;
    let mut client = home.connected(owner(5, "a")).await;
    for wrong in ["$share/", "$share//a", "$share/g", "$share/g/", "$share/g+/a", "$share/#/a", "$share/+/a"] {
        assert_eq!(client.subscribe(wrong, 0).await, 0x8F, "{wrong}");
    }
    assert_eq!(client.subscribe("$share/g/a", 1).await, 1);
    somebody_publishes(&home, "a", "x").await;
    assert_eq!(client.message().await.payload, "x");
}

/// 5: 4.8.2-3
#[tokio::test]
async fn mqtt_4_8_2_3_a_group_keeps_to_the_qos_of_each_member() {
    let home = Home::new().await;
    let mut client = home.connected(owner(5, "a")).await;
    client.subscribe("$share/g/a", 0).await;
    for _ in 0..3 {
        somebody_publishes(&home, "a", "x").await;
        assert_eq!(client.message().await.qos, 0);
    }
}

/// 5: 4.8.2-4
#[tokio::test]
async fn mqtt_4_8_2_4_what_was_begun_with_a_member_is_completed_when_it_returns() {
    let home = Home::new().await;
    let mut away = home.connected(kept(5, "away")).await;
    away.subscribe("$share/g/a", 2).await;
    let mut somebody = home.connected(owner(5, "somebody")).await;
    somebody.send(&publish_bytes(5, 0x04, b"a", &[], "x")).await;
    somebody.receive().await;
    let message = away.message_unacknowledged().await;
    drop(away);
    let mut other = home.connected(owner(5, "other")).await;
    other.subscribe("$share/g/a", 2).await;
    other.nothing_came().await;
    let mut away = home.connected(kept(5, "away")).await;
    let again = away.message_unacknowledged().await;
    assert_eq!((again.payload, again.packet_identifier, again.dup), (message.payload, message.packet_identifier, true));
}

/// 5: 4.8.2-5
#[tokio::test]
async fn mqtt_4_8_2_5_what_was_begun_at_qos_2_goes_to_no_other_member() {
    let home = Home::new().await;
    let mut first = home.connected(owner(5, "first")).await;
    first.subscribe("$share/g/a", 2).await;
    let mut somebody = home.connected(owner(5, "somebody")).await;
    somebody.send(&publish_bytes(5, 0x04, b"a", &[], "x")).await;
    somebody.receive().await;
    first.message_unacknowledged().await;
    let mut other = home.connected(owner(5, "other")).await;
    other.subscribe("$share/g/a", 2).await;
    drop(first);
    connections_left(&home, 2).await;
    other.nothing_came().await;
}

/// 5: 4.8.2-6
#[tokio::test]
async fn mqtt_4_8_2_6_what_a_member_refuses_goes_to_no_other() {
    let home = Home::new().await;
    let mut members = [home.connected(owner(5, "a")).await, home.connected(owner(5, "b")).await];
    for member in &mut members {
        member.subscribe("$share/g/a", 1).await;
    }
    somebody_publishes(&home, "a", "x").await;
    // Whoever has it answers a ping after it.
    let mut came = 0;
    for member in &mut members {
        member.send(&[0xC0, 0]).await;
        let packet = member.receive().await;
        if packet.first >> 4 == 3 {
            came += 1;
            let identifier = packet.published(5).packet_identifier;
            assert_eq!(member.receive().await.first, 0xD0);
            member.send(&packet_refusing(identifier)).await;
        }
    }
    assert_eq!(came, 1);
    for member in &mut members {
        member.nothing_came().await;
    }
}

fn packet_refusing(identifier: u16) -> Vec<u8> {
    packet(0x40, &[&identifier.to_be_bytes()[..], &[0x83]].concat())
}

/// The Topic Alias Maximum that the hub announced.
fn alias_maximum(client: &Client) -> u16 {
    let found = properties_of(&client.connack, 2).into_iter().find(|(identifier, _)| *identifier == 0x22);
    found.map_or(0, |(_, value)| u16::from_be_bytes([value[0], value[1]]))
}

fn alias(number: u16) -> Vec<u8> {
    [&[0x23], &number.to_be_bytes()[..]].concat()
}

/// 5: 3.3.2-7
#[tokio::test]
async fn mqtt_3_3_2_7_an_alias_ends_with_its_connection() {
    let home = Home::new().await;
    let mut client = home.connected(kept(5, "a")).await;
    client.send(&publish_bytes(5, 0, b"a", &alias(1), "x")).await;
    client.goodbye().await;
    let mut client = home.connected(kept(5, "a")).await;
    client.send(&publish_bytes(5, 0, b"", &alias(1), "x")).await;
    assert_eq!(client.disconnected().await.0, 0x82);
}

/// 5: 3.2.2-17, 3.3.2-8, 3.3.2-9
#[tokio::test]
async fn mqtt_3_3_2_8_an_alias_is_not_zero_and_not_beyond_the_maximum() {
    let home = Home::new().await;
    let maximum = alias_maximum(&home.connected(owner(5, "a")).await);
    for number in [0, maximum + 1, u16::MAX] {
        is_ended(&home, 5, &publish_bytes(5, 0, b"a", &alias(number), "x"), 0x94).await;
    }
}

/// 5: 3.3.2-12
#[tokio::test]
async fn mqtt_3_3_2_12_every_alias_up_to_the_maximum_is_taken() {
    let home = Home::new().await;
    let mut client = home.connected(owner(5, "a")).await;
    let maximum = alias_maximum(&client);
    assert!(maximum > 0);
    client.subscribe("+", 0).await;
    for number in [1, 2, maximum] {
        client.send(&publish_bytes(5, 0, format!("t{number}").as_bytes(), &alias(number), "x")).await;
        client.message().await;
    }
    for number in [maximum, 1, 2] {
        client.send(&publish_bytes(5, 0, b"", &alias(number), "y")).await;
        assert_eq!(client.message().await.topic, format!("t{number}"));
    }
    client.send(&publish_bytes(5, 0, b"other", &alias(1), "x")).await;
    client.send(&publish_bytes(5, 0, b"", &alias(1), "x")).await;
    for _ in 0..2 {
        assert_eq!(client.message().await.topic, "other", "the later mapping holds");
    }
}
