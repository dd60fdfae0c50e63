//! Who comes in, and what the others are told.

use crate::support::*;
use hearthkey::mqtt::{
    Limits,
    gate::{Ending, Happening},
};
use hearthkey_core::session::EndReason;
use std::{net::IpAddr, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_device_comes_in_by_password_in_both_dialects_and_is_recorded() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.connack.body[0], 0, "no session was there before");
    home.v311("oven").await.nothing_came().await;
    lamp.nothing_came().await;
    let event = home.gate.event(|event| event.principal == Some(device("lamp"))).await;
    assert_eq!((&*event.client_identifier, event.what), ("lamp", Happening::Connected { session_present: false }));
    assert!(home.front.is_online(&device("lamp")) && !home.front.is_online(&device("kettle")));
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_the_reason_and_recorded() {
    let home = Home::new().await;
    let mut wrong = Connect::v5("lamp");
    wrong.password = Some("wrong".to_owned());
    let (code, words) = home.refusal(wrong.clone()).await;
    assert_eq!(code, 0x87);
    assert!(words.contains("invalid_client: client authentication failed"), "{words}");
    assert!(words.contains("date") && words.contains("1780000000"), "the refused learn the time too");
    assert_eq!(home.refusal(Connect { version: 4, user_name: Some("lamp".to_owned()), ..wrong }).await.0, 5);
    let none = Connect { password: None, ..Connect::v5("lamp") };
    assert_eq!(home.refusal(none).await.0, 0x87);
    home.gate.event(|event| matches!(&event.what, Happening::Refused { reason_code: 0x87, .. })).await;
    assert_eq!(home.front.stats().refused, 3);
}

#[tokio::test]
async fn each_kind_of_refusal_has_its_code_in_each_dialect() {
    let home = Home::new().await;
    for (password, v5, v311) in [("too fast", 0x97, 3), ("no store", 0x88, 3), ("wrong", 0x87, 5)] {
        let mut connect = Connect { password: Some(password.to_owned()), ..Connect::v5("lamp") };
        assert_eq!(home.refusal(connect.clone()).await.0, v5);
        (connect.version, connect.user_name) = (4, Some("lamp".to_owned()));
        assert_eq!(home.refusal(connect).await.0, v311);
    }
}

#[tokio::test]
async fn a_device_is_called_by_its_own_name_or_that_with_a_suffix() {
    let home = Home::new().await;
    let second = Connect { client_identifier: "lamp/2".to_owned(), ..Connect::v5("lamp") };
    home.connected(second).await.nothing_came().await;
    for name in ["oven", "lamp2", "lamp+", "", "LAMP", "#"] {
        let connect = Connect { client_identifier: name.to_owned(), ..Connect::v5("lamp") };
        assert_eq!(home.refusal(connect.clone()).await.0, 0x85, "{name}");
        let connect = Connect { version: 4, user_name: Some("lamp".to_owned()), ..connect };
        assert_eq!(home.refusal(connect).await.0, 2, "{name}");
    }
    let long = Connect { client_identifier: "x".repeat(129), ..Connect::v5("owner") };
    assert_eq!(home.refusal(long).await.0, 0x85);
}

#[tokio::test]
async fn a_nameless_program_of_a_person_gets_a_name() {
    let home = Home::new().await;
    let nameless = Connect { client_identifier: String::new(), ..Connect::v5("owner") };
    let first = home.connected(nameless.clone()).await;
    let second = home.connected(nameless.clone()).await;
    let words = |client: &Client| String::from_utf8_lossy(&client.connack.body).into_owned();
    assert!(words(&first).contains("auto-") && words(&first) != words(&second));
    let old = Connect { version: 4, user_name: Some("owner".to_owned()), ..nameless };
    home.connected(old.clone()).await.nothing_came().await;
    assert_eq!(home.refusal(Connect { clean_start: false, ..old }).await.0, 2, "what is kept needs a name");
}

#[tokio::test]
async fn two_principals_with_one_client_identifier_do_not_disturb_each_other() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    let mut owner = home.connected(Connect { client_identifier: "lamp".to_owned(), ..Connect::v5("owner") }).await;
    owner.nothing_came().await;
    lamp.nothing_came().await;
}

#[tokio::test]
async fn token_and_session_come_in_one_handshake() {
    let home = Home::new().await;
    let lamp = home.connected(Connect::by_method("lamp", "client_credentials", b"lamp")).await;
    let words = String::from_utf8_lossy(&lamp.connack.body).into_owned();
    assert!(words.contains("client_credentials") && words.contains(r#"{"access_token":"lamp"}"#), "{words}");
    assert!(words.contains("date") && words.contains("1780000000"), "{words}");
    let (code, words) = home.refusal(Connect::by_method("lamp", "client_credentials", b"forged")).await;
    assert_eq!(code, 0x87);
    assert!(words.contains("invalid_client"), "{words}");
    let (code, words) = home.refusal(Connect::by_method("lamp", "SCRAM-SHA-256", b"lamp")).await;
    assert_eq!(code, 0x8C);
    assert!(words.contains("client_credentials"), "the refusal names what would work: {words}");
}

fn auth(reason_code: u8, method: &str, data: &[u8]) -> Vec<u8> {
    let mut auth_properties = vec![0x15];
    auth_properties.extend(string(method));
    auth_properties.push(0x16);
    auth_properties.extend(binary(data));
    let mut body = vec![reason_code];
    body.extend(properties(&auth_properties));
    packet(0xF0, &body)
}

#[tokio::test]
async fn a_device_without_a_clock_is_told_audience_and_time() {
    let home = Home::new().await;
    let mut lamp = home.stranger().await;
    lamp.send(&Connect::by_method("lamp", "client_credentials", b"").packet()).await;
    let challenge = lamp.receive().await;
    let words = String::from_utf8_lossy(&challenge.body).into_owned();
    assert_eq!((challenge.first, challenge.body[0]), (0xF0, 0x18));
    assert!(words.contains(r#""issuer":"https://hub:8443""#) && words.contains(r#""date":1780000000"#), "{words}");
    lamp.send(&auth(0x18, "client_credentials", b"lamp")).await;
    let connack = lamp.receive().await;
    assert_eq!((connack.first, connack.body[1]), (0x20, 0));
    lamp.nothing_came().await;

    // And the opposite: a wrong answer, another method, another packet.
    for (answer, code) in [
        (auth(0x18, "client_credentials", b"forged"), 0x87),
        (auth(0x18, "SCRAM-SHA-256", b"lamp"), 0x8C),
        (auth(0x19, "client_credentials", b"lamp"), 0x82),
        (vec![0xC0, 0], 0x82),
    ] {
        let mut lamp = home.stranger().await;
        lamp.send(&Connect::by_method("lamp", "client_credentials", b"").packet()).await;
        assert_eq!(lamp.receive().await.first, 0xF0);
        lamp.send(&answer).await;
        let connack = lamp.receive().await;
        assert_eq!((connack.first, connack.body[1]), (0x20, code));
        lamp.closed().await;
    }
}

#[tokio::test]
async fn a_renewed_token_moves_the_deadline_and_replaces_the_rights_while_the_session_goes_on() {
    let gate = FakeGate::of_a_home();
    gate.grant("first", device("lamp"), rights(&["dev/lamp/a"], &["dev/lamp/+"]), Some(NOW.plus(hearthkey_core::Seconds(1))));
    gate.grant("second", device("lamp"), rights(&["dev/lamp/b"], &["dev/lamp/+"]), Some(NOW.plus(hearthkey_core::Seconds(900))));
    gate.grant("third", device("lamp"), rights(&["dev/lamp/b"], &[]), Some(NOW.plus(hearthkey_core::Seconds(1))));
    let home = Home::with(gate, Limits::default()).await;
    let mut lamp = home.connected(Connect::by_method("lamp", "client_credentials", b"first")).await;
    assert_eq!(lamp.subscribe("dev/lamp/+", 0).await, 0);
    assert_eq!((lamp.publish1("dev/lamp/b", "x").await, home.front.stats().denied), (0x87, 1));
    lamp.send(&auth(0x19, "client_credentials", b"second")).await;
    let renewed = lamp.receive().await;
    let words = String::from_utf8_lossy(&renewed.body).into_owned();
    assert_eq!((renewed.first, renewed.body[0]), (0xF0, 0));
    assert!(words.contains(r#"{"access_token":"second"}"#) && words.contains("date"), "{words}");
    assert_eq!(lamp.publish1("dev/lamp/a", "x").await, 0x87);
    // A token of the same lifetime as the first ends a session; the one that was renewed outlives it.
    let mut other = home.connected(Connect::by_method("lamp/2", "client_credentials", b"third")).await;
    assert_eq!(other.disconnected().await.0, 0xA0);
    let publish = lamp.publish_packet("dev/lamp/b", "on", 0, false, &[]);
    lamp.send(&publish).await;
    assert_eq!(lamp.message().await.payload, "on", "the subscription of before the renewal lives");
    home.gate.event(|event| event.what == Happening::Renewed).await;
}

#[tokio::test]
async fn a_renewal_must_come_from_the_same_principal_by_the_same_method() {
    let home = Home::new().await;
    for (renewal, code) in [
        (auth(0x19, "client_credentials", b"oven"), 0x87),
        (auth(0x19, "client_credentials", b"forged"), 0x87),
        (auth(0x19, "client_credentials", b"too fast"), 0x97),
        (auth(0x19, "SCRAM-SHA-256", b"lamp"), 0x8C),
        (auth(0x00, "client_credentials", b"lamp"), 0x82),
    ] {
        let mut lamp = home.connected(Connect::by_method("lamp", "client_credentials", b"lamp")).await;
        lamp.send(&renewal).await;
        assert_eq!(lamp.disconnected().await.0, code);
    }
    let mut by_password = home.v5("lamp").await;
    by_password.send(&auth(0x19, "client_credentials", b"lamp")).await;
    assert_eq!(by_password.disconnected().await.0, 0x82);
}

#[tokio::test]
async fn other_protocols_and_versions_are_told_so_or_closed() {
    let home = Home::new().await;
    let mut old = string("MQIsdp");
    old.extend([3, 2, 0, 0]);
    old.extend(string("x"));
    for (first_packet, answer) in [
        (packet(0x10, &old), Some(vec![0x20, 2, 0, 1])),
        (Connect { version: 3, user_name: None, password: None, ..Connect::v5("x") }.packet(), Some(vec![0x20, 2, 0, 1])),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
        (vec![0xC0, 0], None),
        (vec![0x20, 2, 0, 0], None),
    ] {
        let mut stranger = home.stranger().await;
        stranger.send(&first_packet).await;
        if let Some(answer) = answer {
            let connack = stranger.receive().await;
            assert_eq!((vec![connack.first], connack.body), (answer[..1].to_vec(), answer[2..].to_vec()));
        }
        stranger.closed().await;
    }
    assert_eq!(home.refusal(Connect { version: 6, ..Connect::v5("lamp") }).await.0, 0x84);
}

#[tokio::test]
async fn who_says_nothing_is_closed_after_the_time_for_connect() {
    let limits = Limits { connect_timeout: Duration::from_secs(1), ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    home.stranger().await.closed().await;
    let mut half = home.stranger().await;
    half.send(&Connect::v5("lamp").packet()[..9]).await;
    half.closed().await;
    let mut challenged = home.stranger().await;
    challenged.send(&Connect::by_method("lamp", "client_credentials", b"").packet()).await;
    assert_eq!(challenged.receive().await.first, 0xF0);
    challenged.closed().await;
}

#[tokio::test]
async fn a_thousand_that_say_nothing_do_not_keep_out_one_that_does() {
    let home = Home::new().await;
    let mut silent = Vec::new();
    // Both ends are in this process: 2 x 400 descriptors stay below the usual 1,024.
    for _ in 0..400 {
        silent.push(home.stranger().await);
    }
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.publish1("dev/lamp/tele/temperature", "21").await, 0);
}

#[tokio::test]
async fn at_the_bound_of_half_open_connections_the_oldest_goes() {
    let limits = Limits { max_half_open: 3, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(home.stranger().await);
    }
    let mut lamp = home.v5("lamp").await;
    silent.remove(0).closed().await;
    lamp.nothing_came().await;
    let mut youngest = silent.pop().unwrap();
    youngest.send(&Connect::v5("oven").packet()).await;
    assert_eq!(youngest.receive().await.first, 0x20, "the younger ones still have their chance");
}

#[tokio::test]
async fn a_full_hub_says_that_it_is_busy() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let lamp = home.v5("lamp").await;
    assert_eq!(home.refusal(Connect::v5("oven")).await.0, 0x89);
    assert_eq!(home.refusal(Connect::v311("oven")).await.0, 3);
    lamp.goodbye().await;
    home.gate.event(|event| matches!(event.what, Happening::Ended(_))).await;
    // The place is free as soon as the connection is gone.
    let free = async {
        while home.front.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
    };
    within(free).await;
    home.v5("oven").await.nothing_came().await;
}

#[tokio::test]
async fn a_keep_alive_beyond_the_bound_is_replaced_and_told() {
    let limits = Limits { max_keep_alive: 120, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let tells = |client: &Client| client.connack.body.windows(3).any(|window| window == [0x13, 0, 120]);
    for (asked, is_told) in [(0, true), (121, true), (120, false), (60, false)] {
        let lamp = home.connected(Connect { keep_alive: asked, ..Connect::v5("lamp") }).await;
        assert_eq!(tells(&lamp), is_told, "{asked}");
    }
    // MQTT 3.1.1 has no way to be told, and keeps what it asked for.
    assert_eq!(home.v311("lamp").await.connack.body.len(), 2);
}

#[tokio::test]
async fn a_renewal_is_asked_for_and_a_challenge_answered_by_codes_of_their_own() {
    const METHOD: &str = "client_credentials";
    let home = Home::new().await;
    let connect = Connect::by_method("lamp", METHOD, b"lamp");
    let mut lamp = home.connected(connect.clone()).await;
    lamp.send(&auth(0x19, METHOD, b"")).await;
    let challenge = lamp.receive().await;
    assert_eq!((challenge.first, challenge.body[0]), (0xF0, 0x18));
    lamp.send(&auth(0x18, METHOD, b"lamp")).await;
    let renewed = lamp.receive().await;
    assert_eq!((renewed.first, renewed.body[0]), (0xF0, 0));
    // MQTT 5 section 4.12: 0x18 answers a challenge, and that one is answered.
    lamp.send(&auth(0x18, METHOD, b"lamp")).await;
    assert_eq!(lamp.disconnected().await.0, 0x82);
    let mut lamp = home.connected(connect).await;
    lamp.send(&auth(0x19, METHOD, b"")).await;
    assert_eq!(lamp.receive().await.body[0], 0x18);
    lamp.send(&auth(0x18, METHOD, b"")).await;
    assert_eq!(lamp.disconnected().await.0, 0x82, "an answer that says nothing");
}

#[tokio::test]
async fn who_takes_a_session_over_while_its_renewal_is_being_decided_gets_nothing_of_it() {
    let home = Home::new().await;
    home.gate.grant("newer", device("lamp"), rights(&["newer/#"], &[]), None);
    let mut replaced =
        home.connected(Connect { clean_start: false, ..Connect::by_method("lamp", "client_credentials", b"lamp") }).await;
    home.gate.undecided.send_replace(true);
    replaced.send(&auth(0x19, "client_credentials", b"newer")).await;
    replaced.nothing_came().await;
    let mut lamp = home.v5("lamp").await;
    home.gate.undecided.send_replace(false);
    assert_eq!(replaced.disconnected().await.0, 0x8E);
    assert_eq!((lamp.publish1("newer/x", "x").await, lamp.publish1("dev/lamp/tele/x", "x").await), (0x87, 0));
    home.gate.event(|event| event.what == Happening::Ended(Ending::ByHub(EndReason::TakenOver))).await;
    assert!(home.gate.state.lock().unwrap().events.iter().all(|event| event.what != Happening::Renewed));
}

#[tokio::test]
async fn one_source_of_half_open_connections_does_not_push_out_the_others() {
    let limits = Limits { max_half_open: 8, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let visitor = |from: &str| {
        let (hub_end, stranger) = tokio::io::duplex(4_096);
        let (front, peer) = (home.front.clone(), (from.parse::<IpAddr>().unwrap(), 9).into());
        tokio::spawn(async move { front.serve_connection(hub_end, peer).await });
        stranger
    };
    let entered = async |count: usize| {
        within(async {
            while home.front.stats().half_open != count {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    let mut slow = visitor("192.0.2.1");
    entered(1).await;
    let mut crowd = Vec::new();
    for number in 0..20_u32 {
        // A subnet of IPv6 is one source: each host has as many addresses as it likes.
        crowd.push(visitor(&format!("2001:db8::{number:x}")));
        entered(8.min(2 + number as usize)).await;
    }
    // Each of the first has made room for a later one of the same source.
    for first in &mut crowd[..13] {
        assert_eq!(within(first.read(&mut [0])).await.unwrap(), 0);
    }
    slow.write_all(&Connect::v5("lamp").packet()).await.unwrap();
    let mut connack = [0; 4];
    within(slow.read_exact(&mut connack)).await.unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0));
}
