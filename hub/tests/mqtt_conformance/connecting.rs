//! Sections 3.1 and 3.2: CONNECT and CONNACK.

use std::time::Duration;

use crate::{peer::*, support::*};

/// 5: 3.1.0-1 · 3.1.1: 3.1.0-1
#[tokio::test]
async fn mqtt_3_1_0_1_the_first_packet_is_connect() {
    let home = Home::new().await;
    for bytes in
        [vec![0xC0, 0], publish_bytes(4, 0, b"a", &[], "x"), request(0x82, 4, &[string("a"), vec![0]].concat()), vec![0xE0, 0]]
    {
        is_refused(&home, &bytes, None).await;
    }
}

/// 5: 3.1.0-2, 3.2.0-2 · 3.1.1: 3.1.0-2
/// A second CONNECT gets no second CONNACK.
#[tokio::test]
async fn mqtt_3_1_0_2_a_second_connect_is_a_protocol_error() {
    for version in BOTH {
        let home = Home::new().await;
        is_ended(&home, version, &owner(version, "wrong").packet(), 0x82).await;
    }
}

/// 5: 3.1.2-1 · 3.1.1: 3.1.2-1
#[tokio::test]
async fn mqtt_3_1_2_1_another_protocol_name_is_not_served() {
    for version in BOTH {
        let home = Home::new().await;
        for name in [&b"MQTX"[..], b"mqtt", b"MQT", b"", b"MQTTT"] {
            let mut packet = connect_packet(version, 0x02, &string("owner"));
            packet.splice(2..8, binary(name));
            packet[1] = u8::try_from(packet.len() - 2).unwrap();
            is_refused(&home, &packet, None).await;
        }
    }
}

/// 5: 3.1.2-2 · 3.1.1: 3.1.2-2
#[tokio::test]
async fn mqtt_3_1_2_2_another_protocol_level_is_refused_with_its_code() {
    let home = Home::new().await;
    for level in [6, 7, 255] {
        is_refused(&home, &connect_packet(level, 0x02, &string("owner")), Some(0x84)).await;
    }
    for level in [0, 1, 2, 3] {
        is_refused(&home, &connect_packet(level, 0x02, &string("owner")), Some(0x01)).await;
    }
}

/// 5: 3.1.2-3, 3.1.4-1 · 3.1.1: 3.1.2-3, 3.1.4-1
#[tokio::test]
async fn mqtt_3_1_2_3_the_reserved_flag_of_connect_is_zero() {
    for version in BOTH {
        let home = Home::new().await;
        is_malformed(&home, version, &connect_packet(version, 0x03, &string("owner"))).await;
    }
}

/// 5: 3.1.2-4, 3.1.4-4, 3.2.2-2 · 3.1.1: 3.1.2-6, 3.1.4-3, 3.2.2-1
#[tokio::test]
async fn mqtt_3_1_2_4_a_clean_start_forgets_the_session() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.subscribe("a", 1).await;
        client.goodbye().await;
        somebody_publishes(&home, "a", "while away").await;
        let mut client = home.connected(owner(version, "a")).await;
        assert!(!session_present(&client));
        somebody_publishes(&home, "a", "afterwards").await;
        client.nothing_came().await;
    }
}

/// 5: 3.1.2-5, 3.1.2-23, 3.2.2-3 · 3.1.1: 3.1.2-4, 3.2.2-2
#[tokio::test]
async fn mqtt_3_1_2_5_without_clean_start_the_session_goes_on() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.subscribe("a", 1).await;
        client.goodbye().await;
        let mut client = home.connected(kept(version, "a")).await;
        assert!(session_present(&client));
        somebody_publishes(&home, "a", "x").await;
        assert_eq!(client.message().await.payload, "x");
    }
}

/// 5: 3.1.2-6 · 3.1.1: 3.2.2-3
#[tokio::test]
async fn mqtt_3_1_2_6_without_a_session_a_new_one_begins() {
    for version in BOTH {
        let home = Home::new().await;
        let client = home.connected(kept(version, "a")).await;
        assert!(!session_present(&client));
    }
}

/// 5: 3.1.2-16, 3.1.2-18 · 3.1.1: 3.1.2-18, 3.1.2-20
/// What no flag announces is one byte too many.
#[tokio::test]
async fn mqtt_3_1_2_16_without_its_flag_a_user_name_or_password_is_malformed() {
    for version in BOTH {
        let home = Home::new().await;
        let payload = [string("owner"), string("owner")].concat();
        is_malformed(&home, version, &connect_packet(version, 0x02, &payload)).await;
        let payload = [payload, string("owner")].concat();
        is_malformed(&home, version, &connect_packet(version, 0x82, &payload)).await;
    }
}

/// 5: 3.1.2-17, 3.1.2-19 · 3.1.1: 3.1.2-19, 3.1.2-21
#[tokio::test]
async fn mqtt_3_1_2_17_with_its_flag_a_user_name_or_password_is_there() {
    for version in BOTH {
        let home = Home::new().await;
        is_malformed(&home, version, &connect_packet(version, 0x82, &string("owner"))).await;
        is_malformed(&home, version, &connect_packet(version, 0xC2, &[string("owner"), string("owner")].concat())).await;
    }
}

/// 3.1.1: 3.1.2-22
#[tokio::test]
async fn mqtt_311_3_1_2_22_no_password_without_a_user_name() {
    let home = Home::new().await;
    let payload = [string("owner"), string("owner")].concat();
    is_malformed(&home, 4, &connect_packet(4, 0x42, &payload)).await;
    let mut client = home.stranger().await;
    client.send(&connect_packet(5, 0x42, &payload)).await;
    assert_eq!(client.receive().await.body[1], 0, "MQTT 5 allows it");
}

/// 5: 3.1.2-22, 3.2.2-22 · 3.1.1: 3.1.2-24
#[tokio::test]
async fn mqtt_3_1_2_22_who_is_silent_for_one_and_a_half_keep_alives_is_cut() {
    for version in BOTH {
        let home = Home::new().await;
        let begun = tokio::time::Instant::now();
        let mut client = home.connected(Connect { keep_alive: 1, ..owner(version, "a") }).await;
        ends(&mut client, 0x8D).await;
        assert!(begun.elapsed() >= Duration::from_millis(1_500));
    }
}

/// 5: 3.1.2-24
/// A client that takes 40 bytes gets none larger.
#[tokio::test]
async fn mqtt_3_1_2_24_no_packet_exceeds_the_maximum_packet_size() {
    let home = Home::new().await;
    let mut client = home.connected(with(owner(5, "a"), &[0x27, 0, 0, 0, 40])).await;
    client.subscribe("a", 0).await;
    somebody_publishes(&home, "a", &"x".repeat(35)).await;
    somebody_publishes(&home, "a", &"x".repeat(34)).await;
    assert_eq!(client.message().await.payload.len(), 34, "2 + 3 + 1 + 34 bytes fit, one more does not");
    client.nothing_came().await;
}

/// 5: 3.1.2-25
/// Had it not been counted as sent, the window of one would be closed for ever.
#[tokio::test]
async fn mqtt_3_1_2_25_what_is_too_large_counts_as_sent() {
    let home = Home::new().await;
    for connect in [owner(5, "a"), kept(5, "b")] {
        let mut client = home.connected(with(connect, &[0x27, 0, 0, 0, 40, 0x21, 0, 1])).await;
        client.subscribe("a", 1).await;
        for payload in [&"x".repeat(100), "small", &"y".repeat(100), "also small"] {
            somebody_publishes(&home, "a", payload).await;
        }
        assert_eq!(client.message().await.payload, "small");
        assert_eq!(client.message().await.payload, "also small");
    }
}

/// 5: 3.1.2-26, 3.1.2-27, 3.3.2-11
#[tokio::test]
async fn mqtt_3_1_2_27_no_topic_alias_beyond_what_the_client_takes() {
    let home = Home::new().await;
    for maximum in [None, Some(0_u16), Some(1)] {
        let alias: Vec<u8> = maximum.iter().flat_map(|maximum| [&[0x22], &maximum.to_be_bytes()[..]].concat()).collect();
        let mut client = home.connected(with(owner(5, "a"), &alias)).await;
        client.subscribe("+", 0).await;
        for topic in ["a", "b", "a", "b"] {
            client.publish0(topic, "x").await;
            let message = client.message().await;
            let aliases: Vec<_> =
                list_of(&message.properties).into_iter().filter(|(identifier, _)| *identifier == 0x23).collect();
            let allowed = maximum.unwrap_or(0) > 0 && aliases == [(0x23, vec![0, 1])];
            assert!(aliases.is_empty() && message.topic == topic || allowed, "{message:?}");
        }
    }
}

/// 5: 3.1.2-28
#[tokio::test]
async fn mqtt_3_1_2_28_no_response_information_unasked() {
    let home = Home::new().await;
    for asked in [&[][..], &[0x19, 0]] {
        assert!(!holds(&home.connected(with(owner(5, "a"), asked)).await.connack, 2, 0x1A));
    }
}

/// 5: 3.1.2-29
#[tokio::test]
async fn mqtt_3_1_2_29_who_wants_no_problem_information_gets_none() {
    let home = Home::new().await;
    for (asked, told) in [(&[0x17, 0][..], false), (&[0x17, 1], true), (&[], true)] {
        let mut lamp = home.connected(with(Connect::v5("lamp"), asked)).await;
        lamp.send(&publish_bytes(5, 2, b"dev/oven/status", &[], "x")).await;
        let puback = lamp.receive().await;
        assert_eq!((puback.first, puback.body[2], puback.body.len() > 4), (0x40, 0x87, told));
        lamp.send(&request(0x82, 5, &[string("dev/oven/status"), vec![0]].concat())).await;
        let suback = lamp.receive().await;
        assert_eq!((suback.first, holds(&suback, 2, 0x1F)), (0x90, told));
    }
}

/// 5: 3.1.2-30, 4.12.0-2, 4.12.0-3
#[tokio::test]
async fn mqtt_3_1_2_30_a_challenge_is_answered_by_auth_and_by_nothing_else() {
    let home = Home::new().await;
    let challenged = async || {
        let mut client = home.stranger().await;
        client.send(&Connect::by_method("lamp", "client_credentials", b"").packet()).await;
        let auth = client.receive().await;
        assert_eq!((auth.first, auth.body[0]), (0xF0, 0x18), "{auth:?}");
        client
    };
    let answer = |code: u8| {
        let answer = [vec![0x15], string("client_credentials"), vec![0x16], string("lamp")].concat();
        packet(0xF0, &[vec![code], properties(&answer)].concat())
    };
    let mut client = challenged().await;
    client.send(&answer(0x18)).await;
    assert_eq!(client.receive().await.body[1], 0);
    for wrong in [vec![0xC0, 0], publish_bytes(5, 0, b"a", &[], "x"), answer(0x19)] {
        let mut client = challenged().await;
        client.send(&wrong).await;
        let connack = client.receive().await;
        assert_eq!((connack.first, connack.body[1]), (0x20, 0x82));
        client.closed().await;
    }
}

/// 5: 3.1.3-1 · 3.1.1: 3.1.3-1
#[tokio::test]
async fn mqtt_3_1_3_1_client_identifier_will_user_name_password_come_in_this_order() {
    for version in BOTH {
        let home = Home::new().await;
        let will: Vec<u8> = if version == 5 { vec![0] } else { Vec::new() };
        let will = [will, string("will/topic"), string("the will")].concat();
        let payload = [string("owner/a"), will, string("somebody"), string("owner")].concat();
        let mut watcher = home.connected(owner(5, "watcher")).await;
        watcher.subscribe("will/topic", 0).await;
        let mut client = home.stranger().await;
        client.send(&connect_packet(version, 0xC6, &payload)).await;
        assert_eq!(client.receive().await.body[1], 0);
        drop(client);
        assert_eq!(watcher.message().await.payload, "the will");
    }
}

/// 5: 3.1.3-2 · 3.1.1: 3.1.3-2
#[tokio::test]
async fn mqtt_3_1_3_2_the_client_identifier_names_the_session() {
    for version in BOTH {
        let home = Home::new().await;
        home.connected(kept(version, "a")).await.goodbye().await;
        assert!(!session_present(&home.connected(kept(version, "b")).await));
        assert!(session_present(&home.connected(kept(version, "a")).await));
    }
}

/// 5: 3.1.3-3 · 3.1.1: 3.1.3-3
#[tokio::test]
async fn mqtt_3_1_3_3_the_client_identifier_is_there() {
    for version in BOTH {
        let home = Home::new().await;
        is_malformed(&home, version, &connect_packet(version, 0x02, &[])).await;
    }
}

/// 5: 3.1.3-4 · 3.1.1: 3.1.3-4
#[tokio::test]
async fn mqtt_3_1_3_4_the_client_identifier_is_a_utf_8_string() {
    for version in BOTH {
        let home = Home::new().await;
        let payload = [binary(&[b'a', 0xF5]), string("owner"), string("owner")].concat();
        is_malformed(&home, version, &connect_packet(version, 0xC2, &payload)).await;
    }
}

/// 5: 3.1.3-5 · 3.1.1: 3.1.3-5
#[tokio::test]
async fn mqtt_3_1_3_5_one_to_23_letters_and_digits_are_a_client_identifier() {
    for version in BOTH {
        let home = Home::new().await;
        for name in ["0", "0123456789abcdefghijklm", "nopqrstuvwxyzABCDEFGHIJ", "KLMNOPQRSTUVWXYZ"] {
            let connect = Connect { client_identifier: name.to_owned(), ..owner(version, "a") };
            home.connected(connect).await.goodbye().await;
        }
    }
}

/// 5: 3.1.3-6, 3.1.3-7, 3.2.2-16 · 3.1.1: 3.1.3-6
#[tokio::test]
async fn mqtt_3_1_3_6_the_nameless_get_a_name_of_their_own() {
    let home = Home::new().await;
    let mut names = Vec::new();
    let mut clients = Vec::new();
    for version in [5, 5, 5, 4, 4] {
        let client = home.connected(Connect { client_identifier: String::new(), ..owner(version, "") }).await;
        if version == 5 {
            names.extend(properties_of(&client.connack, 2).into_iter().filter(|(identifier, _)| *identifier == 0x12));
        }
        clients.push(client);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3);
    for mut client in clients {
        client.nothing_came().await;
    }
}

/// 5: 3.1.3-8 · 3.1.1: 3.1.3-9
#[tokio::test]
async fn mqtt_3_1_3_8_a_client_identifier_that_is_not_the_devices_is_refused() {
    let home = Home::new().await;
    for (version, code) in [(5, 0x85), (4, 0x02)] {
        let connect = Connect { client_identifier: "oven".to_owned(), version, ..Connect::v311("lamp") };
        is_refused(&home, &connect.packet(), Some(code)).await;
    }
}

/// 3.1.1: 3.1.3-8
#[tokio::test]
async fn mqtt_311_3_1_3_8_the_nameless_cannot_have_a_kept_session() {
    let home = Home::new().await;
    let connect = Connect { client_identifier: String::new(), clean_start: false, ..Connect::v311("owner") };
    is_refused(&home, &connect.packet(), Some(0x02)).await;
}

/// 5: 3.1.3-12 · 3.1.1: 3.1.3-11
#[tokio::test]
async fn mqtt_3_1_3_12_the_user_name_is_a_utf_8_string() {
    for version in BOTH {
        let home = Home::new().await;
        let payload = [string("owner"), binary(&[0xC3]), string("owner")].concat();
        is_malformed(&home, version, &connect_packet(version, 0xC2, &payload)).await;
    }
}

/// 5: 3.1.4-2, 3.2.2-7, 4.13.2-1 · 3.1.1: 3.2.2-5
#[tokio::test]
async fn mqtt_3_1_4_2_who_is_not_authorized_is_refused_and_closed() {
    let home = Home::new().await;
    for (version, code) in [(5, 0x87), (4, 0x05)] {
        for password in [Some("guess".to_owned()), None] {
            let connect = Connect { password, ..owner(version, "a") };
            is_refused(&home, &connect.packet(), Some(code)).await;
        }
    }
}

/// 5: 3.1.4-3 · 3.1.1: 3.1.4-2
#[tokio::test]
async fn mqtt_3_1_4_3_the_session_goes_to_the_newcomer() {
    for version in BOTH {
        let home = Home::new().await;
        let mut first = home.connected(owner(version, "a")).await;
        let mut second = home.connected(owner(version, "a")).await;
        ends(&mut first, 0x8E).await;
        second.nothing_came().await;
    }
}

/// 5: 3.1.4-5, 3.2.0-1 · 3.1.1: 3.1.4-4, 3.2.0-1
/// Although messages wait, CONNACK is the first packet.
#[tokio::test]
async fn mqtt_3_1_4_5_connack_is_the_first_answer() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(kept(version, "a")).await;
        client.subscribe("a", 1).await;
        client.goodbye().await;
        somebody_publishes(&home, "a", "waits").await;
        let mut client = home.stranger().await;
        client.version = version;
        client.send(&[kept(version, "a").packet(), vec![0xC0, 0]].concat()).await;
        let connack = client.receive().await;
        assert_eq!((connack.first, &connack.body[..2]), (0x20, &[1, 0][..]));
        assert_eq!(home.front.stats().connections, 1);
    }
}

/// 5: 3.1.4-6 · 3.1.1: 3.1.4-5
#[tokio::test]
async fn mqtt_3_1_4_6_what_follows_a_refused_connect_is_not_obeyed() {
    let home = Home::new().await;
    let mut watcher = home.connected(owner(5, "watcher")).await;
    watcher.subscribe("#", 0).await;
    for version in BOTH {
        let refused = Connect { password: Some("guess".to_owned()), ..owner(version, "a") };
        let mut client = home.stranger().await;
        client.send(&[refused.packet(), publish_bytes(version, 0, b"a", &[], "x")].concat()).await;
        assert_eq!(client.receive().await.first, 0x20);
        client.closed().await;
    }
    somebody_publishes(&home, "a", "marker").await;
    assert_eq!(watcher.message().await.payload, "marker");
}

/// 5: 3.2.2-1, 3.2.2-6 · 3.1.1: 3.2.2-4
/// Also where the refused could have resumed a session.
#[tokio::test]
async fn mqtt_3_2_2_1_connack_has_no_flag_but_session_present() {
    for version in BOTH {
        let home = Home::new().await;
        assert_eq!(home.connected(kept(version, "a")).await.connack.body[0], 0);
        assert_eq!(home.connected(kept(version, "a")).await.connack.body[0], 1);
        let mut client = home.stranger().await;
        client.send(&Connect { password: Some("guess".to_owned()), ..kept(version, "a") }.packet()).await;
        assert_eq!(client.receive().await.body[0], 0);
    }
}

/// 5: 3.2.2-8 · 3.1.1: 3.2.2-6
#[tokio::test]
async fn mqtt_3_2_2_8_connack_has_a_reason_code_of_its_table() {
    let home = Home::new().await;
    let listed = |version: u8, code: u8| match version {
        5 => matches!(code, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F),
        _ => code <= 5,
    };
    for version in BOTH {
        for password in ["owner", "guess", "too fast", "no store"] {
            let mut client = home.stranger().await;
            client.send(&Connect { password: Some(password.to_owned()), ..owner(version, "a") }.packet()).await;
            let code = client.receive().await.body[1];
            assert!(listed(version, code) && (code == 0) == (password == "owner"), "{password}: {code:#04x}");
        }
    }
}

/// 5: 3.2.2-19, 3.2.2-20
#[tokio::test]
async fn mqtt_3_2_2_19_words_that_do_not_fit_are_left_out_of_connack() {
    let home = Home::new().await;
    for (size, worded) in [(5, false), (20, false), (200, true)] {
        let connect = Connect { password: Some("guess".to_owned()), ..with(owner(5, "a"), &[0x27, 0, 0, 0, size]) };
        let mut client = home.stranger().await;
        client.send(&connect.packet()).await;
        let connack = client.receive().await;
        assert_eq!((connack.body[1], connack.body.len() > 3), (0x87, worded));
        assert!(connack.body.len() + 2 <= usize::from(size));
    }
}

/// 5: 3.2.2-9, 3.2.2-10, 3.2.2-12
/// No Maximum QoS is announced, and each is taken: of a will, of a subscription, of a publish.
#[tokio::test]
async fn mqtt_3_2_2_9_every_qos_is_taken_as_no_maximum_is_announced() {
    let home = Home::new().await;
    for qos in [0, 1, 2] {
        let will = Some(("last".to_owned(), b"will".to_vec(), qos, false, Vec::new()));
        let mut client = home.connected(Connect { will, ..owner(5, "a") }).await;
        assert!(!holds(&client.connack, 2, 0x24), "{:?}", client.connack);
        assert_eq!(client.subscribe("a", qos).await, qos);
        let mut somebody = home.connected(owner(5, "somebody")).await;
        assert_eq!(somebody.publish2("a", "x").await, 0);
        assert_eq!(client.message().await.qos, qos);
    }
}

/// 5: 3.2.2-13
/// Retained messages are not said to be unavailable, and a will may be one.
#[tokio::test]
async fn mqtt_3_2_2_13_a_retained_will_is_taken_as_retaining_is_not_denied() {
    let home = Home::new().await;
    let will = Some(("last".to_owned(), b"will".to_vec(), 1, true, Vec::new()));
    let client = home.connected(Connect { will, ..owner(5, "a") }).await;
    assert!(!holds(&client.connack, 2, 0x25), "{:?}", client.connack);
    client.goodbye().await;
}

/// 5: 4.2.0-1 · 3.1.1: 7.0.0-2, 7.1.1-1
/// TCP is enough, and so is MQTT: user name and password, no extension. Packets come in any pieces, and in their order.
#[tokio::test]
async fn mqtt_4_2_0_1_packets_are_a_stream_of_bytes_over_tcp() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.stranger().await;
        client.version = version;
        for byte in owner(version, "a").packet() {
            client.send(&[byte]).await;
        }
        assert_eq!(client.receive().await.body[1], 0);
        client.subscribe("a", 0).await;
        let publishes: Vec<u8> =
            ["1", "2", "3"].iter().flat_map(|payload| publish_bytes(version, 0, b"a", &[], payload)).collect();
        let (one, other) = publishes.split_at(publishes.len() / 2);
        client.send(one).await;
        client.send(other).await;
        for payload in ["1", "2", "3"] {
            assert_eq!(client.message().await.payload, payload);
        }
    }
}
