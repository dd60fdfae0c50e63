//! Sections 1.5 and 2: data representation, fixed header, packet identifiers, properties.

use crate::{peer::*, support::*};

const SURROGATE: &[u8] = &[0xED, 0xA0, 0x80];

/// 5: 1.5.4-1 · 3.1.1: 1.5.3-1
/// Ill-formed UTF-8, surrogates included, closes the connection, whichever string holds it.
#[tokio::test]
async fn mqtt_1_5_4_1_a_string_is_well_formed_utf_8() {
    for version in BOTH {
        let home = Home::new().await;
        for text in [&[0xFF][..], SURROGATE, &[0xC0, 0x80]] {
            is_malformed(&home, version, &connect_packet(version, 0x02, &binary(text))).await;
            is_ended(&home, version, &request(0x82, version, &[binary(text), vec![0]].concat()), 0x81).await;
            is_ended(&home, version, &request(0xA2, version, &binary(text)), 0x81).await;
            is_ended(&home, version, &publish_bytes(version, 0, text, &[], "x"), 0x81).await;
        }
    }
}

/// 5: 1.5.4-2 · 3.1.1: 1.5.3-2
#[tokio::test]
async fn mqtt_1_5_4_2_a_string_holds_no_null_character() {
    for version in BOTH {
        let home = Home::new().await;
        is_malformed(&home, version, &connect_packet(version, 0x02, &string("owner\0"))).await;
        is_ended(&home, version, &request(0x82, version, &[string("a\0"), vec![0]].concat()), 0x81).await;
        is_ended(&home, version, &publish_bytes(version, 0, b"a\0b", &[], "x"), 0x90).await;
    }
}

/// 5: 1.5.4-3 · 3.1.1: 1.5.3-3
/// U+FEFF is a character like others: with it, a topic is another one.
#[tokio::test]
async fn mqtt_1_5_4_3_a_byte_order_mark_is_not_stripped() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.subscribe("\u{FEFF}a", 0).await;
        client.publish0("a", "without").await;
        client.publish0("\u{FEFF}a", "with").await;
        let message = client.message().await;
        assert_eq!((message.topic.as_str(), message.payload.as_str()), ("\u{FEFF}a", "with"));
    }
}

/// 5: 1.5.5-1
#[tokio::test]
async fn mqtt_1_5_5_1_a_variable_byte_integer_has_its_shortest_form() {
    let home = Home::new().await;
    let filter = [string("a"), vec![0]].concat();
    is_ended(&home, 5, &packet(0x82, &[&[0, 9, 0x83, 0x00, 0x0B, 0x01, 0x00], &filter[..]].concat()), 0x81).await;
    is_ended(&home, 5, &packet(0x82, &[&[0, 9, 3, 0x0B, 0x81, 0x00], &filter[..]].concat()), 0x81).await;
    is_ended(&home, 5, &[0xC0, 0x80, 0x00], 0x81).await;
    let mut client = home.connected(owner(5, "a")).await;
    client.subscribe_with("a", 0, &[0x0B, 0x80, 0x01]).await;
    client.publish0("a", "x").await;
    assert_eq!(client.message().await.properties, [0x0B, 0x80, 0x01], "128 in two bytes");
}

/// 5: 1.5.7-1
#[tokio::test]
async fn mqtt_1_5_7_1_both_strings_of_a_pair_are_utf_8_strings() {
    let home = Home::new().await;
    for (name, value) in [(SURROGATE, &b"v"[..]), (b"n", SURROGATE), (b"n\0", b"v"), (b"n", b"v\0")] {
        let pair = [vec![0x26], binary(name), binary(value)].concat();
        is_ended(&home, 5, &publish_bytes(5, 0, b"a", &pair, "x"), 0x81).await;
    }
}

/// 5: 2.1.3-1 · 3.1.1: 2.2.2-1, 2.2.2-2
/// Every packet type that a client may send, with every value of its flags that is reserved.
#[tokio::test]
async fn mqtt_2_1_3_1_reserved_flags_have_the_value_listed() {
    for version in BOTH {
        let home = Home::new().await;
        for (kind, legal) in [(4, 0), (5, 0), (6, 2), (7, 0), (8, 2), (10, 2), (12, 0), (14, 0), (15, 0)] {
            for flags in (0..16).filter(|flags| *flags != legal) {
                is_ended(&home, version, &[kind << 4 | flags, 0], 0x81).await;
            }
        }
    }
    let home = Home::new().await;
    for flags in 1..16 {
        is_refused(&home, &[0x10 | flags, 0], None).await;
    }
}

/// 5: 2.2.1-2 · 3.1.1: 2.3.1-5
#[tokio::test]
async fn mqtt_2_2_1_2_a_publish_of_qos_0_has_no_packet_identifier() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.subscribe("a", 0).await;
        // Two bytes that could be an identifier are the payload.
        client.publish0("a", "\u{1}\u{2}").await;
        let got = client.receive().await;
        let tail = if version == 5 { &[0, 1, 2][..] } else { &[1, 2] };
        assert_eq!((got.first, &got.body[3..]), (0x30, tail));
    }
}

/// 5: 2.2.1-3 · 3.1.1: 2.3.1-1
#[tokio::test]
async fn mqtt_2_2_1_3_a_packet_identifier_is_not_zero() {
    for version in BOTH {
        let home = Home::new().await;
        let nothing: &[u8] = if version == 5 { &[0] } else { &[] };
        for (first, head, tail) in [
            (0x32, [string("a"), vec![0, 0]].concat(), vec![b'x']),
            (0x34, [string("a"), vec![0, 0]].concat(), vec![b'x']),
            (0x82, vec![0, 0], [string("a"), vec![0]].concat()),
            (0xA2, vec![0, 0], string("a")),
        ] {
            is_ended(&home, version, &packet(first, &[&head, nothing, &tail].concat()), 0x82).await;
        }
    }
}

/// 5: 2.2.1-4, 4.3.2-1 · 3.1.1: 2.3.1-4
#[tokio::test]
async fn mqtt_2_2_1_4_the_server_assigns_packet_identifiers_that_are_unused_and_not_zero() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.subscribe("a", 1).await;
        let mut used = Vec::new();
        for _ in 0..5 {
            somebody_publishes(&home, "a", "x").await;
            used.push(client.message_unacknowledged().await.packet_identifier);
        }
        used.sort_unstable();
        used.dedup();
        assert!(used.len() == 5 && !used.contains(&0), "{used:?}");
    }
}

/// 5: 2.2.1-5 · 3.1.1: 2.3.1-6
#[tokio::test]
async fn mqtt_2_2_1_5_an_acknowledgement_has_the_packet_identifier_of_its_publish() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        for identifier in [1_u16, 0x1234, 0xFFFF, 7] {
            let mut publish = publish_bytes(version, 2, b"a", &[], "x");
            let at = publish.windows(2).position(|two| two == [0, 9]).unwrap();
            publish[at..at + 2].copy_from_slice(&identifier.to_be_bytes());
            client.send(&publish).await;
            client.puback_of(identifier).await;
        }
    }
}

/// 5: 2.2.1-6, 3.8.4-2, 3.10.4-5 · 3.1.1: 2.3.1-7, 3.8.4-2, 3.10.4-4, 3.10.4-5
#[tokio::test]
async fn mqtt_2_2_1_6_suback_and_unsuback_have_the_packet_identifier_of_the_request() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.send(&request(0x82, version, &[string("a"), vec![0]].concat())).await;
        let suback = client.receive().await;
        assert_eq!((suback.first, &suback.body[..2]), (0x90, &[0, 9][..]));
        for filter in ["a", "was never there"] {
            client.send(&request(0xA2, version, &string(filter))).await;
            let unsuback = client.receive().await;
            assert_eq!((unsuback.first, &unsuback.body[..2]), (0xB0, &[0, 9][..]));
        }
    }
}

/// 5: 2.2.2-1
#[tokio::test]
async fn mqtt_2_2_2_1_no_properties_are_a_length_of_zero() {
    let home = Home::new().await;
    is_ended(&home, 5, &packet(0xA2, &[0, 9]), 0x81).await;
    is_ended(&home, 5, &packet(0x30, &string("a")), 0x81).await;
    let mut client = home.connected(owner(5, "a")).await;
    client.send(&request(0x82, 5, &[string("a"), vec![0]].concat())).await;
    assert_eq!(client.receive().await.body, [0, 9, 0, 0]);
    client.publish0("a", "x").await;
    assert_eq!(client.receive().await.body, [0, 1, b'a', 0, b'x']);
}
