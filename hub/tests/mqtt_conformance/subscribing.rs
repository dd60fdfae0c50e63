//! Sections 3.8 to 3.11: SUBSCRIBE and UNSUBSCRIBE and their answers.

use crate::{peer::*, support::*};

fn filters(all: &[(&str, u8)]) -> Vec<u8> {
    all.iter().flat_map(|(filter, options)| [string(filter), vec![*options]].concat()).collect()
}

fn codes(version: u8, answer: &Packet) -> &[u8] {
    if version == 5 { &answer.body[3 + usize::from(answer.body[2])..] } else { &answer.body[2..] }
}

/// 5: 3.8.1-1, 3.10.1-1 · 3.1.1: 3.8.1-1, 3.10.1-1
#[tokio::test]
async fn mqtt_3_8_1_1_subscribe_and_unsubscribe_have_the_flags_0010() {
    for version in BOTH {
        let home = Home::new().await;
        for flags in (0..16).filter(|flags| *flags != 2) {
            is_ended(&home, version, &request(0x80 | flags, version, &filters(&[("a", 0)])), 0x81).await;
            is_ended(&home, version, &request(0xA0 | flags, version, &string("a")), 0x81).await;
        }
    }
}

/// 5: 3.8.3-1, 3.10.3-1 · 3.1.1: 3.8.3-1, 3.10.3-1
#[tokio::test]
async fn mqtt_3_8_3_1_filters_are_utf_8_strings() {
    for version in BOTH {
        let home = Home::new().await;
        is_ended(&home, version, &request(0x82, version, &[binary(b"a/\xFF"), vec![0]].concat()), 0x81).await;
        is_ended(&home, version, &request(0xA2, version, &binary(b"a/\xFF")), 0x81).await;
    }
}

/// 5: 3.8.3-2, 3.10.3-2 · 3.1.1: 3.8.3-3, 3.10.3-2
#[tokio::test]
async fn mqtt_3_8_3_2_there_is_at_least_one_filter() {
    for version in BOTH {
        let home = Home::new().await;
        for first in [0x82, 0xA2] {
            is_ended(&home, version, &request(first, version, &[]), 0x82).await;
        }
        is_ended(&home, version, &request(0x82, version, &string("a")), 0x81).await;
    }
}

/// 5: 3.8.3-3
/// The client identifier decides: another connection of the same user is not local.
#[tokio::test]
async fn mqtt_3_8_3_3_no_local_spares_the_publisher_and_nobody_else() {
    let home = Home::new().await;
    for connect in [owner(5, "a"), kept(5, "b")] {
        let mut client = home.connected(connect).await;
        client.subscribe("a", 0x05).await;
        client.publish1("a", "mine").await;
        somebody_publishes(&home, "a", "another's").await;
        assert_eq!(client.message().await.payload, "another's");
        client.nothing_came().await;
        client.goodbye().await;
    }
}

/// 5: 3.8.3-4
#[tokio::test]
async fn mqtt_3_8_3_4_no_local_on_a_shared_subscription_is_a_protocol_error() {
    let home = Home::new().await;
    is_ended(&home, 5, &request(0x82, 5, &filters(&[("$share/g/a", 0x04)])), 0x82).await;
}

/// 5: 3.8.3-5 · 3.1.1: 3.8.3-4
#[tokio::test]
async fn mqtt_3_8_3_5_reserved_bits_of_the_options_are_zero() {
    let home = Home::new().await;
    for options in [0x40, 0x80, 0xC0, 0x03] {
        is_ended(&home, 5, &request(0x82, 5, &filters(&[("a", options)])), 0x81).await;
    }
    for options in [0x03, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80] {
        is_ended(&home, 4, &request(0x82, 4, &filters(&[("a", options)])), 0x81).await;
    }
}

/// 5: 3.8.4-1, 3.8.4-6, 3.9.3-1 · 3.1.1: 3.8.4-1, 3.8.4-5, 3.9.3-1
/// A code for each filter, in their order; the refused stand between the granted.
#[tokio::test]
async fn mqtt_3_8_4_6_suback_has_a_code_for_each_filter_in_their_order() {
    let home = Home::new().await;
    for (version, denied) in [(5, 0x87), (4, 0x80)] {
        let mut lamp = if version == 5 { home.v5("lamp").await } else { home.v311("lamp").await };
        let asked = [("dev/oven/cmd/+", 1), ("dev/lamp/cmd/+", 1), ("#", 0), ("dev/lamp/cmd/+", 0)];
        lamp.send(&request(0x82, version, &filters(&asked))).await;
        let suback = lamp.receive().await;
        assert_eq!((suback.first, codes(version, &suback)), (0x90, &[denied, 1, denied, 0][..]));
    }
}

/// 5: 3.8.4-3 · 3.1.1: 3.8.4-3
#[tokio::test]
async fn mqtt_3_8_4_3_the_same_filter_replaces_the_subscription() {
    for version in BOTH {
        let home = Home::new().await;
        for mut client in [home.connected(owner(version, "a")).await, home.connected(kept(version, "b")).await] {
            client.subscribe("a", 0).await;
            client.subscribe("a", 1).await;
            somebody_publishes(&home, "a", "x").await;
            assert_eq!(client.message().await.qos, 1);
            client.nothing_came().await;
            client.goodbye().await;
        }
    }
}

/// 5: 3.8.4-5 · 3.1.1: 3.8.4-4
#[tokio::test]
async fn mqtt_3_8_4_5_many_filters_are_as_many_subscriptions() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.send(&request(0x82, version, &filters(&[("a", 0), ("b", 1), ("a", 1)]))).await;
        assert_eq!(codes(version, &client.receive().await), [0, 1, 1]);
        somebody_publishes(&home, "a", "x").await;
        assert_eq!(client.message().await.qos, 1, "the later one of the same filter replaced the first");
        somebody_publishes(&home, "b", "y").await;
        assert_eq!(client.message().await.payload, "y");
        client.nothing_came().await;
    }
}

/// 5: 3.8.4-7, 3.9.3-2 · 3.1.1: 3.9.3-2
#[tokio::test]
async fn mqtt_3_8_4_7_suback_says_the_granted_qos_or_why_not() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        for asked in [0, 1, 2] {
            let granted = client.subscribe("a", asked).await;
            assert!(granted <= asked && granted >= asked.min(1), "{asked}: {granted:#04x}");
        }
        let refused = client.subscribe("a/#/b", 0).await;
        assert_eq!(refused, if version == 5 { 0x8F } else { 0x80 });
    }
}

/// 5: 3.8.4-8 · 3.1.1: 3.8.4-6
#[tokio::test]
async fn mqtt_3_8_4_8_the_qos_of_a_delivery_is_the_lower_of_both() {
    for version in BOTH {
        let home = Home::new().await;
        for (granted, published, gets) in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1)] {
            let mut client = home.connected(owner(version, "a")).await;
            client.subscribe("a", granted).await;
            let mut somebody = home.connected(owner(version, "somebody")).await;
            somebody.send(&publish_bytes(version, published << 1, b"a", &[], "x")).await;
            assert_eq!(client.message().await.qos, gets);
        }
    }
}

/// 5: 3.9.2-1, 3.9.2-2
#[tokio::test]
async fn mqtt_3_9_2_1_words_that_do_not_fit_are_left_out_of_suback() {
    let home = Home::new().await;
    for (size, worded) in [(30, false), (200, true)] {
        let mut lamp = home.connected(with(Connect::v5("lamp"), &[0x27, 0, 0, 0, size])).await;
        lamp.send(&request(0x82, 5, &filters(&[("dev/oven/cmd/+", 0)]))).await;
        let suback = lamp.receive().await;
        assert_eq!((codes(5, &suback), suback.body[2] > 0), (&[0x87][..], worded));
    }
}

/// 5: 3.10.4-1 · 3.1.1: 3.10.4-1
#[tokio::test]
async fn mqtt_3_10_4_1_only_the_very_same_filter_is_removed() {
    for version in BOTH {
        let home = Home::new().await;
        for mut client in [home.connected(owner(version, "a")).await, home.connected(kept(version, "b")).await] {
            client.subscribe("a/+", 1).await;
            for other in ["a/b", "a/#", "A/+", "a/+/"] {
                client.unsubscribe(other).await;
            }
            somebody_publishes(&home, "a/b", "x").await;
            assert_eq!(client.message().await.payload, "x");
            client.unsubscribe("a/+").await;
            somebody_publishes(&home, "a/b", "y").await;
            client.nothing_came().await;
            client.goodbye().await;
        }
    }
}

/// 5: 3.10.4-2 · 3.1.1: 3.10.4-2
#[tokio::test]
async fn mqtt_3_10_4_2_after_unsuback_nothing_new_comes() {
    for version in BOTH {
        let home = Home::new().await;
        for mut client in [home.connected(owner(version, "a")).await, home.connected(kept(version, "b")).await] {
            client.subscribe("a", 1).await;
            client.unsubscribe("a").await;
            somebody_publishes(&home, "a", "x").await;
            client.nothing_came().await;
            client.goodbye().await;
        }
        let mut back = home.connected(kept(version, "b")).await;
        back.nothing_came().await;
        back.goodbye().await;
    }
}

/// 5: 3.10.4-3 · 3.1.1: 3.10.4-3
#[tokio::test]
async fn mqtt_3_10_4_3_what_was_begun_is_delivered_to_its_end() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.subscribe("a", 1).await;
        somebody_publishes(&home, "a", "begun").await;
        let begun = client.message_unacknowledged().await;
        client.unsubscribe("a").await;
        drop(client);
        let mut client = home.connected(kept(version, "a")).await;
        let again = client.message().await;
        assert_eq!((again.payload.as_str(), again.packet_identifier, again.dup), ("begun", begun.packet_identifier, true));
    }
}

/// 5: 3.10.4-4, 3.10.4-6, 3.11.3-1, 3.11.3-2 · 3.1.1: 3.10.4-6
#[tokio::test]
async fn mqtt_3_10_4_6_one_unsuback_has_a_code_for_each_filter_in_their_order() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.subscribe("a", 0).await;
        client.subscribe("b", 0).await;
        let asked: Vec<_> = ["a", "none", "b", "a"].into_iter().flat_map(string).collect();
        client.send(&request(0xA2, version, &asked)).await;
        let unsuback = client.receive().await;
        let expected: &[u8] = if version == 5 { &[0x00, 0x11, 0x00, 0x11] } else { &[] };
        assert_eq!((unsuback.first, codes(version, &unsuback)), (0xB0, expected));
        somebody_publishes(&home, "a", "x").await;
        somebody_publishes(&home, "b", "x").await;
        client.nothing_came().await;
    }
}

/// 5: 3.11.2-1, 3.11.2-2
/// It has none at all, whether they would fit or not.
#[tokio::test]
async fn mqtt_3_11_2_1_unsuback_carries_no_words() {
    let home = Home::new().await;
    for largest in [&[][..], &[0x27, 0, 0, 0, 40]] {
        let mut client = home.connected(with(owner(5, "a"), largest)).await;
        client.send(&request(0xA2, 5, &string("none"))).await;
        let unsuback = client.receive().await;
        assert_eq!((unsuback.first, &unsuback.body[..]), (0xB0, &[0, 9, 0, 0x11][..]));
    }
}
