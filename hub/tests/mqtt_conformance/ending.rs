//! Sections 3.12 to 3.15, 4.12 and 4.13: PINGREQ, DISCONNECT, AUTH, and how errors end a connection.

use crate::{peer::*, support::*};
use hearthkey::mqtt::Gate;

const METHOD: &str = "client_credentials";

fn auth(code: u8, method: &str, form: &str) -> Vec<u8> {
    let data = [vec![0x15], string(method), vec![0x16], string(form)].concat();
    packet(0xF0, &[vec![code], properties(&data)].concat())
}

async fn by_method(home: &Home) -> Client {
    home.connected(Connect::by_method("lamp", METHOD, b"lamp")).await
}

fn method_of(packet: &Packet, offset: usize) -> Option<Vec<u8>> {
    properties_of(packet, offset).into_iter().find(|(identifier, _)| *identifier == 0x15).map(|(_, value)| value)
}

/// 5: 3.12.4-1 · 3.1.1: 3.12.4-1
#[tokio::test]
async fn mqtt_3_12_4_1_pingreq_is_answered_by_pingresp() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.nothing_came().await;
        client.send(&[0xC0, 0, 0xC0, 0]).await;
        for _ in 0..2 {
            assert_eq!(client.receive().await, Packet { first: 0xD0, body: Vec::new() });
        }
    }
}

/// 5: 3.14.0-1
/// A CONNECT that is refused or malformed is answered by CONNACK and never by DISCONNECT; so is one whose session cannot be
/// stored, or whose CONNACK the client does not take. What comes with CONNECT and ends the connection ends it after CONNACK.
#[tokio::test]
async fn mqtt_3_14_0_1_no_disconnect_before_connack() {
    let home = Home::new().await;
    let refused = Connect { password: Some("guess".to_owned()), ..owner(5, "a") };
    for bytes in [refused.packet(), connect_packet(5, 0x03, &string("a")), connect_packet(6, 0x02, &string("a"))] {
        let mut client = home.stranger().await;
        client.send(&bytes).await;
        assert_eq!(client.receive().await.first, 0x20);
        client.closed().await;
    }
    is_refused(&home, &with(owner(5, "a"), &[0x27, 0, 0, 0, 10]).packet(), Some(0x95)).await;
    for version in BOTH {
        let mut client = home.stranger().await;
        client.version = version;
        client.send(&[owner(version, "a").packet(), vec![0x00, 0x00]].concat()).await;
        let connack = client.receive().await;
        assert_eq!((connack.first, connack.body[1]), (0x20, 0));
        ends(&mut client, 0x81).await;
    }
    home.gate.disk.set(DiskMode::Fails);
    for (version, code) in [(5, 0x88), (4, 0x03)] {
        is_refused(&home, &kept(version, "b").packet(), Some(code)).await;
    }
}

/// 5: 3.14.1-1 · 3.1.1: 3.14.1-1
/// The will is published: this was no normal disconnection.
#[tokio::test]
async fn mqtt_3_14_1_1_reserved_bits_of_disconnect_are_zero() {
    for version in BOTH {
        let home = Home::new().await;
        let mut watcher = home.connected(owner(5, "watcher")).await;
        watcher.subscribe("last", 0).await;
        let mut client = home.connected(owner(version, "a").will("last", "will", false)).await;
        client.send(&[0xE1, 0]).await;
        ends(&mut client, 0x81).await;
        assert_eq!(watcher.message().await.payload, "will");
    }
}

/// 5: 3.14.2-1
#[tokio::test]
async fn mqtt_3_14_2_1_disconnect_has_a_reason_code_of_its_table() {
    let home = Home::new().await;
    for bytes in [
        publish_bytes(5, 0x06, b"a", &[], "x"),
        publish_bytes(5, 0, b"+", &[], "x"),
        vec![0x00, 0],
        vec![0x62, 0],
        request(0x82, 5, &[]),
        packet(0x30, &vec![0; 300 * 1024]),
    ] {
        let mut client = home.connected(owner(5, "a")).await;
        // The hub may close before it has read all of the largest.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &bytes).await;
        let code = client.disconnected().await.0;
        assert!(matches!(code, 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2), "{code:#04x}");
    }
}

/// 5: 3.14.2-2
#[tokio::test]
async fn mqtt_3_14_2_2_the_hub_sends_no_session_expiry_interval_on_disconnect() {
    let home = Home::new().await;
    let mut client = home.connected(kept(5, "a")).await;
    client.send(&[0x00, 0]).await;
    let disconnect = client.receive().await;
    assert!(disconnect.first == 0xE0 && !holds(&disconnect, 1, 0x11), "{disconnect:?}");
}

/// 5: 3.14.2-3, 3.14.2-4
#[tokio::test]
async fn mqtt_3_14_2_3_words_that_do_not_fit_are_left_out_of_disconnect() {
    let home = Home::new().await;
    for (size, worded) in [(30, false), (250, true)] {
        let mut client = home.connected(with(owner(5, "a"), &[0x27, 0, 0, 0, size])).await;
        client.send(&[0x00, 0]).await;
        let disconnect = client.receive().await;
        assert_eq!((disconnect.first, disconnect.body[0], holds(&disconnect, 1, 0x1F)), (0xE0, 0x81, worded));
    }
}

/// 5: 3.14.4-1, 3.14.4-2, 4.13.1-1 · 3.1.1: 4.8.0-1
/// Messages for the client arrive all the while; `ends` sees nothing but the DISCONNECT and the close.
#[tokio::test]
async fn mqtt_3_14_4_1_disconnect_is_the_last_packet_and_the_connection_closes() {
    for version in BOTH {
        let home = Home::new().await;
        let mut client = home.connected(owner(version, "a")).await;
        client.subscribe("other", 1).await;
        client.send(&[0x00, 0]).await;
        somebody_publishes(&home, "other", "x").await;
        if version == 5 {
            let disconnect = client.receive().await;
            assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x81));
        }
        client.closed().await;
    }
}

/// 3.1.1: 4.8.0-2
/// A disk that refuses is the transient error at hand.
#[tokio::test]
async fn mqtt_311_4_8_0_2_a_transient_error_closes_the_connection() {
    for version in BOTH {
        let home = Home::new().await;
        home.gate.disk.set(DiskMode::Works);
        let mut client = home.connected(owner(version, "a")).await;
        home.gate.disk.set(DiskMode::Fails);
        let publish = client.publish_packet("a", "x", 1, true, &[]);
        client.send(&publish).await;
        ends(&mut client, 0x83).await;
    }
}

/// 5: 3.15.1-1
#[tokio::test]
async fn mqtt_3_15_1_1_reserved_bits_of_auth_are_zero() {
    let home = Home::new().await;
    for flags in 1..16 {
        let mut client = by_method(&home).await;
        let mut renewal = auth(0x19, METHOD, "lamp");
        renewal[0] |= flags;
        client.send(&renewal).await;
        ends(&mut client, 0x81).await;
    }
}

/// 5: 3.15.2-1
/// Of the client's codes; the hub's own are 0x18 and 0x00.
#[tokio::test]
async fn mqtt_3_15_2_1_auth_has_one_of_its_reason_codes() {
    let home = Home::new().await;
    let mut client = by_method(&home).await;
    client.send(&auth(0x19, METHOD, "lamp")).await;
    let answer = client.receive().await;
    assert!(answer.first == 0xF0 && matches!(answer.body.first(), None | Some(0x00)), "{answer:?}");
    for code in [0x00, 0x17, 0x80, 0x87] {
        let mut client = by_method(&home).await;
        client.send(&auth(code, METHOD, "lamp")).await;
        ends(&mut client, 0x82).await;
    }
}

/// 5: 3.15.2-2, 3.15.2-3
/// The hub's words in AUTH are its time, a user property; it never sends a reason string there.
#[tokio::test]
async fn mqtt_3_15_2_2_words_that_do_not_fit_are_left_out_of_auth() {
    let home = Home::new().await;
    let renewed = async |largest: u8| {
        let connect = with(Connect::by_method("lamp", METHOD, b"lamp"), &[0x27, 0, 0, 0, largest]);
        let mut client = home.connected(connect).await;
        client.send(&auth(0x19, METHOD, "lamp")).await;
        let answer = client.receive().await;
        assert_eq!((answer.first, answer.body[0]), (0xF0, 0x00), "{answer:?}");
        assert!(!holds(&answer, 1, 0x1F), "{answer:?}");
        (client.connack.body.len() + 2, answer)
    };
    let (connack, whole) = renewed(200).await;
    assert!(holds(&whole, 1, 0x26), "the time: {whole:?}");
    // CONNACK without the time is larger than AUTH without it, and smaller than AUTH with it.
    let time = 1 + 2 + "date".len() + 2 + home.gate.now().0.to_string().len();
    let largest = connack - time;
    assert!(largest < whole.body.len() + 2);
    let (_, cut) = renewed(u8::try_from(largest).unwrap()).await;
    assert!(!holds(&cut, 1, 0x26) && cut.body.len() + 2 <= largest, "{cut:?}");
}

/// 5: 4.12.0-1
#[tokio::test]
async fn mqtt_4_12_0_1_an_unknown_method_is_refused() {
    let home = Home::new().await;
    is_refused(&home, &Connect::by_method("lamp", "SCRAM-SHA-1", b"x").packet(), Some(0x8C)).await;
}

/// 5: 4.12.0-4
#[tokio::test]
async fn mqtt_4_12_0_4_an_authentication_that_fails_is_refused_and_closed() {
    let home = Home::new().await;
    is_refused(&home, &Connect::by_method("lamp", METHOD, b"guess").packet(), Some(0x87)).await;
    let mut client = home.stranger().await;
    client.send(&Connect::by_method("lamp", METHOD, b"").packet()).await;
    assert_eq!(client.receive().await.first, 0xF0);
    client.send(&auth(0x18, METHOD, "guess")).await;
    assert_eq!(client.receive().await.body[1], 0x87);
    client.closed().await;
}

/// 5: 4.12.0-5
#[tokio::test]
async fn mqtt_4_12_0_5_every_auth_and_connack_names_the_method() {
    let home = Home::new().await;
    let mut client = home.stranger().await;
    client.send(&Connect::by_method("lamp", METHOD, b"").packet()).await;
    assert_eq!(method_of(&client.receive().await, 1), Some(string(METHOD)));
    client.send(&auth(0x18, METHOD, "lamp")).await;
    assert_eq!(method_of(&client.receive().await, 2), Some(string(METHOD)));
    client.send(&auth(0x19, METHOD, "lamp")).await;
    assert_eq!(method_of(&client.receive().await, 1), Some(string(METHOD)));
}

/// 5: 4.12.0-6
#[tokio::test]
async fn mqtt_4_12_0_6_without_a_method_there_is_no_auth() {
    let home = Home::new().await;
    let client = home.connected(owner(5, "a")).await;
    assert_eq!(method_of(&client.connack, 2), None);
}

/// 5: 4.12.0-7
#[tokio::test]
async fn mqtt_4_12_0_7_without_a_method_auth_is_a_protocol_error() {
    let home = Home::new().await;
    is_ended(&home, 5, &auth(0x19, METHOD, "owner"), 0x82).await;
    is_ended(&home, 4, &auth(0x19, METHOD, "owner"), 0x82).await;
}

/// 5: 4.12.1-1
#[tokio::test]
async fn mqtt_4_12_1_1_a_renewal_names_the_method_of_connect() {
    let home = Home::new().await;
    let mut client = by_method(&home).await;
    client.send(&auth(0x19, "other", "lamp")).await;
    let (code, _) = client.disconnected().await;
    assert!(matches!(code, 0x82 | 0x8C), "{code:#04x}");
}

/// 5: 4.12.1-2
#[tokio::test]
async fn mqtt_4_12_1_2_a_renewal_that_fails_closes() {
    let home = Home::new().await;
    let mut client = by_method(&home).await;
    client.send(&auth(0x19, METHOD, "guess")).await;
    ends(&mut client, 0x87).await;
}
