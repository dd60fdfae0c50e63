//! Sections 3.3 and 3.4: PUBLISH and PUBACK.

use crate::{peer::*, support::*};

/// A client that has subscribed to the topic `a` with these options.
async fn subscriber(home: &Home, version: u8, options: u8) -> Client {
    let mut client = home.connected(owner(version, "subscriber")).await;
    assert_eq!(client.subscribe("a", options).await, options & 3);
    client
}

/// What a subscriber of both kinds, connected and kept, gets of the properties of a PUBLISH, and in which order.
async fn is_forwarded_unaltered(property_bytes: &[u8]) {
    let home = Home::new().await;
    for connect in [owner(5, "a"), kept(5, "b")] {
        let mut client = home.connected(connect).await;
        client.subscribe("a", 1).await;
        let mut somebody = home.connected(owner(5, "somebody")).await;
        somebody.publish("a", "x", false, property_bytes).await;
        assert_eq!(client.message().await.properties, property_bytes);
        client.goodbye().await;
    }
}

/// 5: 3.3.1-1 · 3.1.1: 3.3.1-1
#[tokio::test]
async fn mqtt_3_3_1_1_a_repetition_has_dup() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.subscribe("a", 1).await;
        somebody_publishes(&home, "a", "x").await;
        assert!(!client.message_unacknowledged().await.dup);
        drop(client);
        let mut client = home.connected(kept(version, "a")).await;
        assert!(client.message().await.dup);
    }
}

/// 5: 3.3.1-2, 4.3.1-1 · 3.1.1: 3.3.1-2, 4.3.1-1
#[tokio::test]
async fn mqtt_3_3_1_2_qos_0_has_no_dup() {
    for version in BOTH {
        let home = Home::new().await;
        is_ended(&home, version, &publish_bytes(version, 0x08, b"a", &[], "x"), 0x81).await;
        let mut client = subscriber(&home, version, 0).await;
        client.publish0("a", "x").await;
        assert_eq!(client.receive().await.first, 0x30);
    }
}

/// 5: 3.3.1-3 · 3.1.1: 3.3.1-3
#[tokio::test]
async fn mqtt_3_3_1_3_dup_is_not_passed_on() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = subscriber(&home, version, 1).await;
        let mut somebody = home.connected(owner(version, "somebody")).await;
        somebody.send(&publish_bytes(version, 0x0A, b"a", &[], "x")).await;
        assert!(!client.message().await.dup);
    }
}

/// 5: 3.3.1-4 · 3.1.1: 3.3.1-4
#[tokio::test]
async fn mqtt_3_3_1_4_there_is_no_qos_3() {
    for version in BOTH {
        let home = Home::new().await;
        is_ended(&home, version, &publish_bytes(version, 0x06, b"a", &[], "x"), 0x81).await;
    }
}

/// 5: 3.3.1-5 · 3.1.1: 3.3.1-5
#[tokio::test]
async fn mqtt_3_3_1_5_a_retained_message_is_kept_with_its_qos_and_replaces_the_one_before() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.publish("a", "one", true, &[]).await;
        client.publish("a", "two", true, &[]).await;
        let mut late = subscriber(&home, version, 1).await;
        let message = late.message().await;
        assert_eq!((message.payload.as_str(), message.qos, message.retain), ("two", 1, true));
        late.nothing_came().await;
    }
}

/// 5: 3.3.1-6, 3.3.1-7 · 3.1.1: 3.3.1-10, 3.3.1-11
#[tokio::test]
async fn mqtt_3_3_1_6_an_empty_retained_message_removes_and_is_delivered() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = subscriber(&home, version, 0).await;
        let mut somebody = home.connected(owner(version, "somebody")).await;
        somebody.publish("a", "one", true, &[]).await;
        somebody.publish("a", "", true, &[]).await;
        assert_eq!((client.message().await.payload, client.message().await.payload), ("one".to_owned(), String::new()));
        let mut late = home.connected(owner(version, "late")).await;
        late.subscribe("a", 0).await;
        late.nothing_came().await;
    }
}

/// 5: 3.3.1-8 · 3.1.1: 3.3.1-12
#[tokio::test]
async fn mqtt_3_3_1_8_a_message_without_retain_leaves_the_retained_one() {
    for version in BOTH {
        let home = Home::new().await;
        let mut somebody = home.connected(owner(version, "somebody")).await;
        somebody.publish("a", "kept", true, &[]).await;
        somebody.publish("a", "passing", false, &[]).await;
        somebody.publish("a", "", false, &[]).await;
        somebody.publish("b", "passing", false, &[]).await;
        let mut late = home.connected(owner(version, "late")).await;
        late.subscribe("#", 0).await;
        assert_eq!(late.message().await.payload, "kept");
        late.nothing_came().await;
    }
}

/// 3.1.1: 3.3.1-7
#[tokio::test]
async fn mqtt_311_3_3_1_7_a_retained_message_of_qos_0_replaces_the_one_before() {
    let home = Home::new().await;
    let mut somebody = home.connected(owner(4, "somebody")).await;
    somebody.publish("a", "one", true, &[]).await;
    somebody.send(&publish_bytes(4, 0x01, b"a", &[], "two")).await;
    somebody.nothing_came().await;
    let mut late = subscriber(&home, 4, 1).await;
    let message = late.message().await;
    assert_eq!((message.payload.as_str(), message.qos), ("two", 0));
}

/// 5: 3.3.1-9, 3.8.4-4 · 3.1.1: 3.3.1-6
#[tokio::test]
async fn mqtt_3_3_1_9_retain_handling_0_sends_all_that_match_each_time() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.publish("a/1", "one", true, &[]).await;
        client.publish("a/2", "two", true, &[]).await;
        client.publish("b", "other", true, &[]).await;
        for _ in 0..2 {
            client.subscribe("a/+", 0).await;
            let mut payloads = [client.message().await.payload, client.message().await.payload];
            payloads.sort();
            assert_eq!(payloads, ["one", "two"]);
            client.nothing_came().await;
        }
    }
}

/// 5: 3.3.1-10
#[tokio::test]
async fn mqtt_3_3_1_10_retain_handling_1_sends_them_once() {
    let home = Home::new().await;
    let mut client = home.connected(owner(5, "a")).await;
    client.publish("a", "one", true, &[]).await;
    client.subscribe("a", 0x10).await;
    assert_eq!(client.message().await.payload, "one");
    client.subscribe("a", 0x10).await;
    client.nothing_came().await;
}

/// 5: 3.3.1-11
#[tokio::test]
async fn mqtt_3_3_1_11_retain_handling_2_sends_none() {
    let home = Home::new().await;
    let mut client = home.connected(owner(5, "a")).await;
    client.publish("a", "one", true, &[]).await;
    client.subscribe("a", 0x20).await;
    client.nothing_came().await;
}

/// 5: 3.3.1-12 · 3.1.1: 3.3.1-8, 3.3.1-9
/// RETAIN says that the message was kept before the subscription.
#[tokio::test]
async fn mqtt_3_3_1_12_retain_is_0_on_what_is_published_after_the_subscription() {
    for version in BOTH {
        let home = Home::new().await;
        for mut client in [home.connected(owner(version, "a")).await, home.connected(kept(version, "b")).await] {
            let mut somebody = home.connected(owner(version, "somebody")).await;
            somebody.publish("a", "", true, &[]).await;
            client.subscribe("a", 1).await;
            somebody.publish("a", "x", true, &[]).await;
            assert!(!client.message().await.retain);
            client.subscribe("a", 1).await;
            assert!(client.message().await.retain);
        }
    }
}

/// 5: 3.3.1-13
#[tokio::test]
async fn mqtt_3_3_1_13_retain_as_published_keeps_the_flag() {
    let home = Home::new().await;
    let mut client = subscriber(&home, 5, 0x09).await;
    let mut somebody = home.connected(owner(5, "somebody")).await;
    for retain in [true, false] {
        somebody.publish("a", "x", retain, &[]).await;
        assert_eq!(client.message().await.retain, retain);
    }
}

/// 5: 3.3.2-1 · 3.1.1: 3.3.2-1
#[tokio::test]
async fn mqtt_3_3_2_1_the_topic_is_the_first_field_and_utf_8() {
    for version in BOTH {
        let home = Home::new().await;
        is_ended(&home, version, &packet(0x30, &[]), 0x81).await;
        is_ended(&home, version, &packet(0x30, &[0, 9, b'a']), 0x81).await;
        is_ended(&home, version, &publish_bytes(version, 0, &[b'a', 0x80], &[], "x"), 0x81).await;
    }
}

/// 5: 3.3.2-2, 4.7.0-1 · 3.1.1: 3.3.2-2, 4.7.1-1
#[tokio::test]
async fn mqtt_3_3_2_2_a_topic_has_no_wildcard() {
    for version in BOTH {
        let home = Home::new().await;
        for topic in ["+", "#", "a/+", "a/#", "a+", "a#b"] {
            is_ended(&home, version, &publish_bytes(version, 0, topic.as_bytes(), &[], "x"), 0x90).await;
        }
    }
}

/// 5: 3.3.2-3 · 3.1.1: 3.3.2-3
#[tokio::test]
async fn mqtt_3_3_2_3_a_delivery_matches_the_filter() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.subscribe("a/+/c", 0).await;
        for topic in ["a/b", "a/b/d", "b/b/c", "a/b/c/d", "a/b/c"] {
            client.publish0(topic, "x").await;
        }
        assert_eq!(client.message().await.topic, "a/b/c");
        client.nothing_came().await;
    }
}

/// 5: 3.3.2-4
#[tokio::test]
async fn mqtt_3_3_2_4_the_payload_format_indicator_is_forwarded() {
    is_forwarded_unaltered(&[0x01, 1]).await;
}

/// 5: 3.3.2-5
#[tokio::test]
async fn mqtt_3_3_2_5_what_has_expired_is_not_delivered() {
    let home = Home::new().await;
    let mut client = home.connected(kept(5, "a")).await;
    client.subscribe("a", 1).await;
    client.goodbye().await;
    let mut somebody = home.connected(owner(5, "somebody")).await;
    somebody.publish("a", "short", false, &[0x02, 0, 0, 0, 10]).await;
    somebody.publish("a", "long", false, &[0x02, 0, 0, 0, 20]).await;
    home.gate.state.lock().unwrap().later = 10;
    let mut client = home.connected(kept(5, "a")).await;
    assert_eq!(client.message().await.payload, "long");
    client.nothing_came().await;
}

/// 5: 3.3.2-6
#[tokio::test]
async fn mqtt_3_3_2_6_the_time_that_a_message_waited_is_subtracted() {
    let home = Home::new().await;
    let mut client = home.connected(kept(5, "a")).await;
    client.subscribe("a", 1).await;
    client.goodbye().await;
    let mut somebody = home.connected(owner(5, "somebody")).await;
    somebody.publish("a", "x", true, &[0x02, 0, 0, 1, 0]).await;
    home.gate.state.lock().unwrap().later = 6;
    let mut client = home.connected(kept(5, "a")).await;
    assert_eq!(client.message().await.properties, [0x02, 0, 0, 0, 250]);
    somebody.subscribe("a", 0).await;
    assert_eq!(somebody.message().await.properties, [0x02, 0, 0, 0, 250], "as a retained message too");
}

/// 5: 3.3.2-13, 3.3.2-14
#[tokio::test]
async fn mqtt_3_3_2_14_a_response_topic_is_a_topic() {
    let home = Home::new().await;
    for topic in [&b"a/+"[..], b"#", &[0xFF], b""] {
        is_ended(&home, 5, &publish_bytes(5, 0, b"a", &[vec![0x08], binary(topic)].concat(), "x"), 0x82).await;
    }
}

/// 5: 3.3.2-15
#[tokio::test]
async fn mqtt_3_3_2_15_the_response_topic_is_forwarded() {
    is_forwarded_unaltered(&[vec![0x08], string("answers/here")].concat()).await;
}

/// 5: 3.3.2-16
#[tokio::test]
async fn mqtt_3_3_2_16_the_correlation_data_are_forwarded() {
    is_forwarded_unaltered(&[vec![0x09], binary(&[0, 0xFF, 0x80])].concat()).await;
}

/// 5: 3.3.2-17, 3.3.2-18
#[tokio::test]
async fn mqtt_3_3_2_18_user_properties_are_forwarded_in_their_order() {
    let pair = |name: &str, value: &str| [vec![0x26], string(name), string(value)].concat();
    is_forwarded_unaltered(&[pair("b", "1"), pair("a", "2"), pair("b", "1"), pair("", "")].concat()).await;
}

/// 5: 3.3.2-19
#[tokio::test]
async fn mqtt_3_3_2_19_the_content_type_is_a_utf_8_string() {
    let home = Home::new().await;
    is_ended(&home, 5, &publish_bytes(5, 0, b"a", &[0x03, 0, 1, 0xFF], "x"), 0x81).await;
}

/// 5: 3.3.2-20
#[tokio::test]
async fn mqtt_3_3_2_20_the_content_type_is_forwarded() {
    is_forwarded_unaltered(&[vec![0x03], string("text/plain")].concat()).await;
}

/// 5: 3.3.4-2 · 3.1.1: 3.3.5-1
#[tokio::test]
async fn mqtt_3_3_4_2_of_overlapping_subscriptions_the_highest_qos_counts() {
    for version in BOTH {
        let home = Home::new().await;
        for mut client in [home.connected(owner(version, "a")).await, home.connected(kept(version, "b")).await] {
            for (filter, qos) in [("a/#", 0), ("a/b", 1), ("a/+", 0), ("end", 1)] {
                client.subscribe(filter, qos).await;
            }
            somebody_publishes(&home, "a/b", "x").await;
            somebody_publishes(&home, "end", "x").await;
            let mut qos = Vec::new();
            loop {
                let message = client.message().await;
                if message.topic == "end" {
                    break;
                }
                qos.push(message.qos);
            }
            assert_eq!((qos.iter().max(), qos.iter().filter(|qos| **qos == 1).count()), (Some(&1), 1), "{qos:?}");
            // Copies of lower QoS may still be under way.
            drop(client);
        }
    }
}

/// 5: 3.3.4-3, 3.3.4-4, 3.3.4-5
/// Whether one copy comes or several: each identifier comes once.
#[tokio::test]
async fn mqtt_3_3_4_3_subscription_identifiers_of_all_that_match_come() {
    let home = Home::new().await;
    for connect in [owner(5, "a"), kept(5, "b")] {
        let mut client = home.connected(connect).await;
        client.subscribe_with("a/#", 1, &[0x0B, 1]).await;
        client.subscribe_with("a/b", 1, &[0x0B, 2]).await;
        client.subscribe_with("other", 1, &[0x0B, 3]).await;
        somebody_publishes(&home, "a/b", "x").await;
        let mut identifiers = Vec::new();
        while identifiers.len() < 2 {
            let message = client.message().await;
            identifiers.extend(list_of(&message.properties).into_iter().map(|(identifier, value)| (identifier, value[0])));
        }
        identifiers.sort_unstable();
        assert_eq!(identifiers, [(0x0B, 1), (0x0B, 2)]);
        client.nothing_came().await;
        client.goodbye().await;
    }
}

/// 5: 3.3.4-6
#[tokio::test]
async fn mqtt_3_3_4_6_a_client_sends_no_subscription_identifier() {
    let home = Home::new().await;
    is_ended(&home, 5, &publish_bytes(5, 0, b"a", &[0x0B, 1], "x"), 0x81).await;
}

/// 5: 3.3.4-9, 4.9.0-1, 4.9.0-2
#[tokio::test]
async fn mqtt_3_3_4_9_no_more_than_receive_maximum_are_unacknowledged() {
    let home = Home::new().await;
    for connect in [owner(5, "a"), kept(5, "b")] {
        let mut client = home.connected(with(connect, &[0x21, 0, 2])).await;
        client.subscribe("a", 1).await;
        for payload in ["1", "2", "3", "4"] {
            somebody_publishes(&home, "a", payload).await;
        }
        let first = client.message_unacknowledged().await;
        let second = client.message_unacknowledged().await;
        client.nothing_came().await;
        client.puback(second.packet_identifier).await;
        assert_eq!(client.message_unacknowledged().await.payload, "3");
        client.nothing_came().await;
        client.puback(first.packet_identifier).await;
        assert_eq!(client.message_unacknowledged().await.payload, "4");
        client.goodbye().await;
    }
}

/// 5: 3.3.4-10, 4.9.0-3
#[tokio::test]
async fn mqtt_3_3_4_10_a_closed_window_delays_nothing_else() {
    let home = Home::new().await;
    let mut client = home.connected(with(owner(5, "a"), &[0x21, 0, 1])).await;
    client.subscribe("a", 1).await;
    client.subscribe("b", 0).await;
    somebody_publishes(&home, "a", "1").await;
    client.message_unacknowledged().await;
    somebody_publishes(&home, "a", "2").await;
    client.nothing_came().await;
    assert_eq!(client.publish1("c", "x").await, 0);
    client.subscribe("c", 1).await;
    client.unsubscribe("c").await;
    client.send(&packet(0xE0, &[])).await;
    client.closed().await;
}

/// 3.1.1: 3.3.5-2
/// What is denied is acknowledged and goes nowhere.
#[tokio::test]
async fn mqtt_311_3_3_5_2_a_publish_that_is_denied_is_acknowledged() {
    let home = Home::new().await;
    let mut watcher = home.connected(owner(4, "watcher")).await;
    watcher.subscribe("#", 0).await;
    let mut lamp = home.v311("lamp").await;
    lamp.publish1("dev/oven/status", "x").await;
    lamp.publish1("dev/lamp/status", "y").await;
    assert_eq!(watcher.message().await.payload, "y");
}

/// 5: 3.4.2-1
#[tokio::test]
async fn mqtt_3_4_2_1_puback_has_a_reason_code_of_its_table() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    for (topic, codes) in [("dev/lamp/status", &[0x00, 0x10][..]), ("dev/oven/status", &[0x87])] {
        let code = lamp.publish1(topic, "x").await;
        assert!(codes.contains(&code), "{topic}: {code:#04x}");
    }
}

/// 5: 3.4.2-2, 3.4.2-3
#[tokio::test]
async fn mqtt_3_4_2_2_words_that_do_not_fit_are_left_out_of_puback() {
    let home = Home::new().await;
    for (size, worded) in [(30, false), (200, true)] {
        let mut lamp = home.connected(with(Connect::v5("lamp"), &[0x27, 0, 0, 0, size])).await;
        lamp.send(&publish_bytes(5, 2, b"dev/oven/status", &[], "x")).await;
        let puback = lamp.receive().await;
        assert_eq!((puback.body[2], puback.body.len() > 4), (0x87, worded));
    }
}

/// 5: 4.3.2-2, 4.3.2-3 · 3.1.1: 4.3.2-1
#[tokio::test]
async fn mqtt_4_3_2_3_qos_1_is_unacknowledged_until_its_puback() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.subscribe("a", 1).await;
        somebody_publishes(&home, "a", "x").await;
        let message = client.message_unacknowledged().await;
        assert_eq!((message.qos, message.dup), (1, false));
        drop(client);
        let mut client = home.connected(kept(version, "a")).await;
        assert_eq!(client.message().await.packet_identifier, message.packet_identifier);
        client.goodbye().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.nothing_came().await;
        client.goodbye().await;
    }
}

/// 5: 4.3.2-4, 3.3.4-1 · 3.1.1: 3.3.4-1
/// QoS 0 gets no answer, QoS 1 its PUBACK; QoS 2 is in `exactly_once`.
#[tokio::test]
async fn mqtt_4_3_2_4_qos_1_is_answered_by_puback() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.publish0("a", "x").await;
        client.nothing_came().await;
        client.publish1("a", "x").await;
        client.nothing_came().await;
    }
}

/// 5: 4.3.2-5 · 3.1.1: 4.3.2-2
#[tokio::test]
async fn mqtt_4_3_2_5_after_its_puback_a_packet_identifier_is_a_new_publication() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = subscriber(&home, version, 0).await;
        let mut somebody = home.connected(owner(version, "somebody")).await;
        for flags in [0x02, 0x02, 0x0A] {
            somebody.send(&publish_bytes(version, flags, b"a", &[], "x")).await;
            somebody.puback_of(9).await;
        }
        for _ in 0..3 {
            assert_eq!(client.message().await.payload, "x");
        }
    }
}
