//! The packets that agent and hub agree on (tests/vectors/mqtt5.txt), without sharing code.

use bytes::BytesMut;
use hearthkey::mqtt::{
    message::{ForwardedProperties, Message, QoS, Routed},
    packet::{
        ClientPacket, Connect, Version, decode,
        encode::{Ack, ConnAck, Delivery, Dialect},
        frame,
    },
};
use hearthkey_core::{
    UnixTime,
    rights::Rights,
    scope::PermissionName,
    topic::{TopicFilter, TopicName},
};
use std::collections::HashMap;

fn vectors() -> HashMap<String, Vec<u8>> {
    let text = include_str!("../../../tests/vectors/mqtt5.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let (name, hex) = (words.next().unwrap(), words.next().unwrap());
            let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
            (name.to_owned(), bytes)
        })
        .collect()
}

fn frame_of(bytes: &[u8]) -> frame::Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::next(&mut buffer, 16 * 1024).unwrap().unwrap();
    assert!(buffer.is_empty());
    frame
}

#[test]
fn the_hub_reads_each_packet_of_a_device() {
    let vectors = vectors();
    let connect = |name: &str| -> Connect { decode::connect(frame_of(&vectors[name])).unwrap() };
    let read = |name: &str| -> ClientPacket { decode::packet(frame_of(&vectors[name]), Version::V5).unwrap() };

    let without_date = connect("connect-without-date");
    assert_eq!((&*without_date.client_identifier, without_date.clean_start, without_date.keep_alive), ("lamp", true, 60));
    assert_eq!((without_date.session_expiry, without_date.receive_maximum, without_date.maximum_packet_size), (3_600, 1, 2_048));
    assert_eq!(without_date.authentication_method.as_deref(), Some("client_credentials"));
    assert!(without_date.authentication_data.as_ref().unwrap().expose().is_empty());
    let will = without_date.will.unwrap();
    assert_eq!((will.topic.as_str(), &will.message.payload[..]), ("dev/lamp/status", &b"offline"[..]));
    assert!(will.message.retain && will.message.qos == QoS::AtLeastOnce);
    let form = connect("connect-with-assertion").authentication_data.unwrap();
    assert!(form.expose().starts_with(b"grant_type=client_credentials&client_assertion_type="));
    let with_password = connect("connect-with-password");
    assert_eq!(with_password.user_name.as_deref(), Some("lamp"));
    assert_eq!(with_password.password.unwrap().expose(), b"hk_key_x");
    assert!(!with_password.clean_start && with_password.will.is_none());

    for (name, code) in [("auth-continue", 0x18), ("auth-reauthenticate", 0x19)] {
        let ClientPacket::Auth(auth) = read(name) else { panic!("{name}") };
        assert_eq!((auth.reason_code, &*auth.method), (code, "client_credentials"));
        assert_eq!(auth.data.unwrap().expose(), form.expose());
    }
    for (name, identifier, dup, retain) in [
        ("publish-qos0", None, false, false),
        ("publish-qos1", Some(7), false, false),
        ("publish-qos1-again", Some(7), true, false),
        ("publish-retained", Some(7), false, true),
    ] {
        let ClientPacket::Publish(publish) = read(name) else { panic!("{name}") };
        assert_eq!(&publish.topic[..], b"dev/lamp/tele/temperature");
        assert_eq!((publish.packet_identifier, publish.dup, publish.message.retain), (identifier, dup, retain), "{name}");
        let payload = if retain { vec![b'x'; 120] } else { b"21.5".to_vec() };
        assert_eq!(publish.message.payload, payload);
    }
    for (name, reason_code) in [("puback", 0), ("puback-refused", 0x99)] {
        assert_eq!(read(name), ClientPacket::PubAck { packet_identifier: 7, reason_code });
    }
    let ClientPacket::Subscribe(subscribe) = read("subscribe") else { panic!("SUBSCRIBE") };
    let filters: Vec<_> = subscribe.requests.iter().map(|request| request.filter.clone().unwrap().filter).collect();
    let expected = ["dev/lamp/cmd/+", "dev/lamp/twin/desired"].map(|text| TopicFilter::parse(text).unwrap());
    assert!(filters == expected && subscribe.requests.iter().all(|request| request.options.qos == QoS::AtLeastOnce));
    assert_eq!(read("pingreq"), ClientPacket::PingReq);
    for (name, reason_code) in [("disconnect", 0), ("disconnect-with-will", 4)] {
        assert_eq!(read(name), ClientPacket::Disconnect { reason_code, session_expiry: None });
    }
}

#[test]
fn a_device_packet_cut_or_lengthened_by_a_byte_is_malformed() {
    for (name, bytes) in vectors() {
        let Ok(first) = frame::next(&mut BytesMut::from(&bytes[..]), 16 * 1024) else { continue };
        let frame = first.unwrap();
        // PUBLISH ends with a payload of any length, and short forms of PUBACK and DISCONNECT are legal.
        if matches!(frame.first >> 4, 3 | 4 | 14) || frame.body.is_empty() {
            continue;
        }
        let mut longer = frame.clone();
        longer.body = [&frame.body[..], &[0]].concat().into();
        let mut shorter = frame;
        shorter.body.truncate(shorter.body.len() - 1);
        for frame in [longer, shorter] {
            let read = if name.starts_with("connect") {
                decode::connect(frame).is_ok()
            } else {
                decode::packet(frame, Version::V5).is_ok()
            };
            assert!(!read, "{name}");
        }
    }
}

const DIALECT: Dialect = Dialect { version: Version::V5, maximum_packet_size: 2_048, problem_information: true };

fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

/// The properties at an offset of a packet whose lengths have one or two bytes, each whole.
fn properties_at(bytes: &[u8], offset: usize) -> Vec<Vec<u8>> {
    let integer = |at: usize| {
        let low = usize::from(bytes[at] & 0x7F);
        if bytes[at] & 0x80 == 0 { (low, 1) } else { (low | usize::from(bytes[at + 1]) << 7, 2) }
    };
    let mut at = 1 + integer(1).1 + offset;
    let (length, size) = integer(at);
    at += size;
    let end = at + length;
    let mut found = Vec::new();
    while at < end {
        let string = |at: usize| 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let size = 1 + match bytes[at] {
            0x24 | 0x2A => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x02 | 0x11 | 0x27 => 4,
            0x26 => string(at + 1) + string(at + 1 + string(at + 1)),
            0x12 | 0x15 | 0x16 | 0x1F => string(at + 1),
            other => panic!("property {other:#x}"),
        };
        found.push(bytes[at..at + size].to_vec());
        at += size;
    }
    found
}

/// The same packet, up to the order of properties and to properties that the hub tells beyond those of the vector.
fn assert_says_at_least(written: &[u8], vector: &[u8], fixed: usize, what: &str) {
    let body = |bytes: &[u8]| if bytes[1] & 0x80 == 0 { 2 } else { 3 };
    assert_eq!(written[0], vector[0], "{what}");
    assert_eq!(written[body(written)..][..fixed], vector[body(vector)..][..fixed], "{what}");
    let told = properties_at(written, fixed);
    for property in properties_at(vector, fixed) {
        assert!(told.contains(&property), "{what}: {property:x?} is missing in {told:x?}");
    }
}

#[test]
fn the_hub_writes_each_packet_as_a_device_reads_it() {
    let vectors = vectors();
    let method = "client_credentials";
    let challenge = br#"{"issuer":"https://hub:8443","date":1780000000}"#;
    let written_challenge = written(|out| DIALECT.auth(0x18, method, Some(challenge), None, out).unwrap());
    assert_eq!(written_challenge, vectors["auth-challenge"]);

    let token = br#"{"access_token":"eyJ.eyJ.c2ln","token_type":"Bearer","expires_in":300,"scope":"commands telemetry twin"}"#;
    let mut connack = ConnAck {
        authentication_method: Some(method.into()),
        authentication_data: Some(token.to_vec()),
        date: Some(UnixTime(1_780_000_000)),
        ..ConnAck::default()
    };
    assert_says_at_least(&written(|out| DIALECT.connack(&connack, out).unwrap()), &vectors["connack"], 2, "connack");
    connack.session_present = true;
    connack.receive_maximum = Some(16);
    connack.maximum_packet_size = Some(4_096);
    let with_limits = written(|out| DIALECT.connack(&connack, out).unwrap());
    let told = properties_at(&with_limits, 2);
    assert!(told.contains(&vec![0x21, 0, 16]) && told.contains(&vec![0x27, 0, 0, 16, 0]), "{told:x?}");
    let refused = ConnAck {
        reason_code: 0x87,
        reason_string: Some("invalid_client: client lamp is revoked".to_owned()),
        ..ConnAck::default()
    };
    assert_eq!(written(|out| DIALECT.connack(&refused, out).unwrap()), vectors["connack-refused"]);
    let renewed = written(|out| DIALECT.auth(0, method, Some(token), Some(UnixTime(1_780_000_200)), out).unwrap());
    assert_says_at_least(&renewed, &vectors["auth-success"], 1, "auth-success");

    assert_eq!(written(|out| DIALECT.suback(1, &[1, 0x87], None, out).expect("it fits")), vectors["suback"]);
    assert_eq!(written(|out| DIALECT.ack(Ack::PubAck, 7, 0x87, Some("not yours"), out)), vectors["puback-not-authorized"]);
    assert_eq!(written(|out| DIALECT.pingresp(out)), vectors["pingresp"]);
    assert_eq!(written(|out| DIALECT.disconnect(0x98, "revoked", None, out)), vectors["disconnect-revoked"]);
    let expired = written(|out| DIALECT.disconnect(0xA0, "access token expired at 12:00:30Z", None, out));
    assert_eq!(expired, vectors["disconnect-expired"]);

    let topic = TopicName::parse("dev/lamp/cmd/set").unwrap();
    let message = Message {
        payload: br#"{"id":"c-1","seq":12,"ttl_s":30,"by":"owner","args":{"target_c":21.5}}"#.as_slice().into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: Some(UnixTime(130)),
        properties: ForwardedProperties::default(),
    };
    let routed = Routed { topic: topic.clone(), message, publisher: None, queued_for: Box::default() };
    let all = Rights::granting("test", &PermissionName::parse("all").unwrap(), &["#"], &["#"]);
    let permit = all.authorize_delivery(&topic).unwrap();
    let delivery =
        Delivery { dup: false, qos: QoS::AtLeastOnce, packet_identifier: Some(9), retain: false, subscription_identifiers: &[] };
    let command = written(|out| DIALECT.publish(permit, &routed, &delivery, UnixTime(100), out).unwrap());
    assert_eq!(command, vectors["command"]);
}
