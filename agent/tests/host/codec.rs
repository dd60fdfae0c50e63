//! The MQTT 5 codec against an independent one, against golden vectors, and against mutated input.

use crate::support::mqtt::{self, FromClient};
use hearthkey_agent::mqtt::codec::{self, Connect, OutgoingPublish, Packet, Qos};
use hearthkey_agent::mqtt::{MAX_INCOMING_PACKET, MAX_OUTGOING_PACKET};
use hearthkey_agent::{Buffer, BufferFull, ReasonCode};

const VECTORS: &str = include_str!("../../../tests/vectors/mqtt5.txt");

fn written(write: impl FnOnce(&mut Buffer<'_>) -> Result<(), BufferFull>) -> Vec<u8> {
    let mut bytes = [0; MAX_OUTGOING_PACKET];
    let mut out = Buffer::new(&mut bytes);
    write(&mut out).expect("fits");
    out.written().to_vec()
}

/// The packet of the vector `name`.
fn vector(name: &str) -> Vec<u8> {
    let mut lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
    let line = lines.find(|line| line.split_whitespace().next() == Some(name)).unwrap_or_else(|| panic!("no vector {name}"));
    let hex = line.split_whitespace().nth(1).expect("name, hex, description");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const FORM: &[u8] = b"grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJ.eyJ.c2ln";

/// The CONNECT of a lamp, with `data` as authentication data.
fn lamp_connect(data: &[u8]) -> Connect<'_> {
    Connect {
        client_identifier: "lamp",
        clean_start: true,
        keep_alive: 60,
        session_expiry: 3_600,
        receive_maximum: 1,
        maximum_packet_size: 2_048,
        authentication: Some(("client_credentials", data)),
        will: Some(("dev/lamp/status", b"offline")),
        user_name_and_password: None,
    }
}

/// What the device sends, by vector name.
fn sent_packets() -> Vec<(&'static str, Vec<u8>)> {
    let publish = |qos, payload, retain, dup| OutgoingPublish {
        topic: "dev/lamp/tele/temperature",
        payload,
        retain,
        packet_id: (qos == Qos::AtLeastOnce).then_some(7),
        dup,
    };
    let password = Connect {
        clean_start: false,
        session_expiry: 0,
        authentication: None,
        will: None,
        user_name_and_password: Some(("lamp", b"hk_key_x")),
        ..lamp_connect(b"")
    };
    vec![
        ("connect-without-date", written(|out| lamp_connect(b"").write(out))),
        ("connect-with-assertion", written(|out| lamp_connect(FORM).write(out))),
        ("connect-with-password", written(|out| password.write(out))),
        ("auth-continue", written(|out| codec::write_auth(out, ReasonCode::CONTINUE_AUTHENTICATION, "client_credentials", FORM))),
        ("auth-reauthenticate", written(|out| codec::write_auth(out, ReasonCode::REAUTHENTICATE, "client_credentials", FORM))),
        ("publish-qos0", written(|out| publish(Qos::AtMostOnce, b"21.5", false, false).write(out))),
        ("publish-qos1", written(|out| publish(Qos::AtLeastOnce, b"21.5", false, false).write(out))),
        ("publish-qos1-again", written(|out| publish(Qos::AtLeastOnce, b"21.5", false, true).write(out))),
        ("publish-retained", written(|out| publish(Qos::AtLeastOnce, &[b'x'; 120], true, false).write(out))),
        ("puback", written(|out| codec::write_puback(out, 7, ReasonCode::SUCCESS))),
        ("puback-refused", written(|out| codec::write_puback(out, 7, ReasonCode::PAYLOAD_FORMAT_INVALID))),
        ("subscribe", written(|out| codec::write_subscribe(out, 1, &["dev/lamp/cmd/+", "dev/lamp/twin/desired"]))),
        ("pingreq", written(codec::write_pingreq)),
        ("disconnect", written(|out| codec::write_disconnect(out, ReasonCode::SUCCESS))),
        ("disconnect-with-will", written(|out| codec::write_disconnect(out, ReasonCode::DISCONNECT_WITH_WILL))),
    ]
}

const TOKEN_RESPONSE: &[u8] =
    br#"{"access_token":"eyJ.eyJ.c2ln","token_type":"Bearer","expires_in":300,"scope":"commands telemetry twin"}"#;
const CHALLENGE: &[u8] = br#"{"issuer":"https://hub:8443","date":1780000000}"#;

/// What a hub sends, by vector name, from the independent codec.
fn received_packets() -> Vec<(&'static str, Vec<u8>)> {
    let command = r#"{"id":"c-1","seq":12,"ttl_s":30,"by":"owner","args":{"target_c":21.5}}"#;
    let limits = [0x21, 0, 16, 0x27, 0, 0, 16, 0, 0x13, 0, 30];
    vec![
        ("auth-challenge", mqtt::auth(0x18, CHALLENGE, None)),
        ("connack", mqtt::connack(false, TOKEN_RESPONSE, 1_780_000_000, &[])),
        ("connack-with-limits", mqtt::connack(true, TOKEN_RESPONSE, 1_780_000_000, &limits)),
        ("connack-refused", mqtt::connack_refused(0x87, "invalid_client: client lamp is revoked")),
        ("auth-success", mqtt::auth(0, TOKEN_RESPONSE, Some(1_780_000_200))),
        ("suback", mqtt::suback(1, &[1, 0x87])),
        ("puback-not-authorized", mqtt::puback(7, 0x87, "not yours")),
        ("command", mqtt::publish("dev/lamp/cmd/set", command, 9, false, Some(30))),
        ("pingresp", mqtt::PINGRESP.to_vec()),
        ("disconnect-revoked", mqtt::disconnect(0x98, "revoked")),
        ("disconnect-expired", mqtt::disconnect(0xa0, "access token expired at 12:00:30Z")),
    ]
}

#[test]
fn every_packet_is_as_the_golden_vectors_say() {
    for (name, packet) in sent_packets().into_iter().chain(received_packets()) {
        assert_eq!(hex(&packet), hex(&vector(name)), "{name}");
    }
}

#[test]
fn an_independent_codec_reads_what_the_device_writes() {
    for (name, packet) in sent_packets() {
        match (name, mqtt::parse(&packet)) {
            ("connect-with-assertion", FromClient::Connect(connect)) => {
                assert_eq!(connect.client_identifier, "lamp");
                assert_eq!((connect.clean_start, connect.keep_alive, connect.session_expiry), (true, 60, 3_600));
                assert_eq!((connect.receive_maximum, connect.maximum_packet_size), (1, 2_048));
                assert_eq!((connect.method.as_deref(), connect.data.as_deref()), (Some("client_credentials"), Some(FORM)));
                assert_eq!(connect.will, Some(("dev/lamp/status".into(), b"offline".to_vec(), 1, true)));
            }
            ("connect-without-date", FromClient::Connect(connect)) => assert_eq!(connect.data.as_deref(), Some([].as_slice())),
            ("connect-with-password", FromClient::Connect(connect)) => {
                assert_eq!((connect.method, connect.will), (None, None));
                assert_eq!(
                    (connect.user_name.as_deref(), connect.password.as_deref()),
                    (Some("lamp"), Some(b"hk_key_x".as_slice()))
                );
            }
            ("auth-continue", FromClient::Auth { reason, data, .. }) => assert_eq!((reason, data.as_slice()), (0x18, FORM)),
            ("auth-reauthenticate", FromClient::Auth { reason, data, .. }) => assert_eq!((reason, data.as_slice()), (0x19, FORM)),
            (_, FromClient::Publish { topic, payload, packet_id, retain, dup }) => {
                assert_eq!(topic, "dev/lamp/tele/temperature");
                assert_eq!(packet_id, (name != "publish-qos0").then_some(7));
                assert_eq!((retain, dup), (name == "publish-retained", name == "publish-qos1-again"));
                assert_eq!(payload.len(), if retain { 120 } else { 4 });
            }
            ("puback", other) => assert_eq!(other, FromClient::PubAck { packet_id: 7, reason: 0 }),
            ("puback-refused", other) => assert_eq!(other, FromClient::PubAck { packet_id: 7, reason: 0x99 }),
            ("subscribe", FromClient::Subscribe { packet_id: 1, filters }) => assert_eq!(filters.len(), 2),
            ("pingreq", other) => assert_eq!(other, FromClient::PingReq),
            ("disconnect", other) => assert_eq!(other, FromClient::Disconnect(0)),
            ("disconnect-with-will", other) => assert_eq!(other, FromClient::Disconnect(4)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_device_reads_what_an_independent_codec_writes() {
    for (name, packet) in received_packets() {
        match (name, codec::decode(&packet).unwrap_or_else(|error| panic!("{name}: {error:?}"))) {
            ("connack", Packet::ConnAck(connack)) => {
                assert_eq!((connack.session_present, connack.reason_code), (false, ReasonCode::SUCCESS));
                assert_eq!(connack.authentication_data, TOKEN_RESPONSE);
                assert_eq!(connack.date.map(|date| date.as_secs()), Some(1_780_000_000));
                assert_eq!((connack.receive_maximum, connack.maximum_packet_size), (u16::MAX, None));
            }
            ("connack-with-limits", Packet::ConnAck(connack)) => {
                assert!(connack.session_present);
                assert_eq!((connack.receive_maximum, connack.maximum_packet_size), (16, Some(4_096)));
                assert_eq!(connack.server_keep_alive, Some(30));
            }
            ("connack-refused", Packet::ConnAck(connack)) => {
                assert_eq!(connack.reason_code, ReasonCode::NOT_AUTHORIZED);
                assert_eq!(connack.reason_string, "invalid_client: client lamp is revoked");
            }
            ("auth-challenge", Packet::Auth(auth)) => {
                assert_eq!((auth.reason_code, auth.method, auth.data), (ReasonCode(0x18), "client_credentials", CHALLENGE));
            }
            ("auth-success", Packet::Auth(auth)) => {
                assert_eq!((auth.reason_code, auth.data), (ReasonCode::SUCCESS, TOKEN_RESPONSE));
                assert_eq!(auth.date.map(|date| date.as_secs()), Some(1_780_000_200));
            }
            ("suback", Packet::SubAck(suback)) => assert_eq!((suback.packet_id, suback.reason_codes), (1, [1, 0x87].as_slice())),
            ("puback-not-authorized", Packet::PubAck(puback)) => {
                assert_eq!((puback.packet_id, puback.reason_code), (7, ReasonCode::NOT_AUTHORIZED));
                assert_eq!(puback.reason_string, "not yours");
            }
            ("command", Packet::Publish(publish)) => {
                assert_eq!((publish.topic, publish.packet_id), ("dev/lamp/cmd/set", Some(9)));
                assert_eq!((publish.retain, publish.message_expiry), (false, Some(30)));
                assert!(publish.payload.starts_with(b"{\"id\":\"c-1\""));
            }
            ("pingresp", Packet::PingResp) => {}
            ("disconnect-revoked", Packet::Disconnect(said)) => {
                assert_eq!((said.reason_code, said.reason_string), (ReasonCode::ADMINISTRATIVE_ACTION, "revoked"));
            }
            ("disconnect-expired", Packet::Disconnect(said)) => {
                assert_eq!(said.reason_code, ReasonCode::MAXIMUM_CONNECT_TIME);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_packet_that_ends_early_is_waited_for_or_refused_never_read() {
    for (name, packet) in received_packets() {
        for end in 0..packet.len() {
            let part = &packet[..end];
            let length = codec::packet_length(part, MAX_INCOMING_PACKET).expect("so far so good");
            assert!(length.is_none_or(|length| length > end), "{name} after {end} bytes");
            assert!(codec::decode(part).is_err(), "{name} after {end} bytes");
        }
        let longer = [packet.clone(), vec![0]].concat();
        assert!(codec::decode(&longer).is_err(), "{name} with a byte more");
    }
}

#[test]
fn what_the_standard_forbids_is_refused() {
    let properties = |first: u8, head: &[u8], properties: &[u8]| {
        let body = [head, &mqtt::variable(properties.len()), properties].concat();
        mqtt::packet(first, &body)
    };
    for (why, packet) in [
        ("CONNECT from a server", mqtt::packet(0x10, &[])),
        ("PUBREL", mqtt::packet(0x62, &[0, 1])),
        ("flags of CONNACK", mqtt::packet(0x21, &[0, 0, 0])),
        ("acknowledge flags", mqtt::packet(0x20, &[2, 0, 0])),
        ("session present in a refusal", mqtt::packet(0x20, &[1, 0x87, 0])),
        ("CONNACK without properties", mqtt::packet(0x20, &[0, 0])),
        ("Receive Maximum of zero", properties(0x20, &[0, 0], &[0x21, 0, 0])),
        ("Maximum Packet Size of zero", properties(0x20, &[0, 0], &[0x27, 0, 0, 0, 0])),
        ("Maximum QoS of two", properties(0x20, &[0, 0], &[0x24, 2])),
        ("Retain Available of two", properties(0x20, &[0, 0], &[0x25, 2])),
        ("a property twice", properties(0x20, &[0, 0], &[0x13, 0, 1, 0x13, 0, 1])),
        ("a property of another packet", properties(0x20, &[0, 0], &[0x23, 0, 1])),
        ("an unknown property", properties(0x20, &[0, 0], &[0x2b, 0])),
        ("a property that ends early", properties(0x20, &[0, 0], &[0x21, 0])),
        ("a string that is not UTF-8", properties(0x20, &[0, 0], &[0x1f, 0, 1, 0xff])),
        ("a string with U+0000", properties(0x20, &[0, 0], &[0x1f, 0, 1, 0])),
        ("QoS 3", mqtt::packet(0x36, &[0, 1, b't', 0, 1, 0])),
        ("QoS 2", mqtt::packet(0x34, &[0, 1, b't', 0, 1, 0])),
        ("DUP with QoS 0", mqtt::packet(0x38, &[0, 1, b't', 0])),
        ("an empty topic", mqtt::packet(0x30, &[0, 0, 0])),
        ("a topic with a wildcard", mqtt::packet(0x30, &[0, 1, b'#', 0])),
        ("a topic alias", mqtt::packet(0x30, &[0, 1, b't', 3, 0x23, 0, 1])),
        ("packet identifier zero", mqtt::packet(0x32, &[0, 1, b't', 0, 0, 0])),
        ("PUBACK of packet identifier zero", mqtt::packet(0x40, &[0, 0])),
        ("SUBACK without codes", mqtt::packet(0x90, &[0, 1, 0])),
        ("PINGRESP with a body", mqtt::packet(0xd0, &[0])),
        ("session expiry in a server's DISCONNECT", properties(0xe0, &[0x98], &[0x11, 0, 0, 0, 1])),
        ("AUTH without properties", mqtt::packet(0xf0, &[0x18])),
        ("a length not in its shortest form", vec![0xd0, 0x80, 0x00]),
    ] {
        assert!(codec::decode(&packet).is_err(), "{why}: {packet:x?}");
    }
    assert!(codec::packet_length(&[0x30, 0x80, 0x80, 0x80, 0x80], 4_096).is_err());
    assert!(codec::packet_length(&[0x30, 0xff, 0x0f], MAX_INCOMING_PACKET).is_err(), "2050 bytes are two too many");
    assert!(codec::packet_length(&[0x30, 0xfd, 0x0f], MAX_INCOMING_PACKET).is_ok(), "2048 fit");
}

#[test]
fn what_the_standard_allows_is_read() {
    for (why, packet) in [
        ("PUBACK of two bytes", mqtt::packet(0x40, &[0, 1])),
        ("PUBACK with reason alone", mqtt::packet(0x40, &[0, 1, 0x10])),
        ("an empty DISCONNECT", mqtt::packet(0xe0, &[])),
        ("an empty AUTH", mqtt::packet(0xf0, &[])),
        ("user properties, several", mqtt::packet(0xe0, &[0x98, 14, 0x26, 0, 1, b'a', 0, 1, b'b', 0x26, 0, 1, b'a', 0, 1, b'b'])),
        ("subscription identifiers, several", mqtt::packet(0x30, &[0, 1, b't', 4, 0x0b, 1, 0x0b, 2])),
        (
            "a PUBLISH with everything",
            mqtt::packet(0x30, &[0, 1, b't', 17, 1, 1, 2, 0, 0, 0, 9, 3, 0, 1, b'x', 8, 0, 1, b'y', 0x0b, 1, b'!']),
        ),
    ] {
        assert!(codec::decode(&packet).is_ok(), "{why}: {:?}", codec::decode(&packet));
    }
}

/// Four hundred thousand mutated packets: no panic, and whatever is read lies within its packet.
#[test]
fn mutated_packets_never_panic() {
    let seeds: Vec<Vec<u8>> = received_packets().into_iter().map(|(_, packet)| packet).collect();
    let mut state = 0x5eed_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below.max(1)
    };
    let (mut readable, mut refused) = (0, 0);
    for _ in 0..400_000 {
        let mut packet = seeds[random(seeds.len())].clone();
        for _ in 0..=random(3) {
            let at = random(packet.len());
            match random(6) {
                0 => packet[at] = random(256) as u8,
                1 => packet[at] ^= 1 << random(8),
                2 => packet.truncate(at.max(1)),
                3 => packet.insert(at, random(256) as u8),
                4 => _ = packet.remove(at.min(packet.len() - 1)),
                _ => packet.extend_from_slice(&seeds[random(seeds.len())][..1]),
            }
            if packet.is_empty() {
                packet.push(random(256) as u8);
            }
        }
        // Half of them get an honest length again, so that the mutation reaches the fields.
        if random(2) == 0 && packet.len() > 2 {
            packet = mqtt::packet(packet[0], &packet[2..]);
        }
        let _ = codec::packet_length(&packet, MAX_INCOMING_PACKET);
        match codec::decode(&packet) {
            Ok(Packet::Publish(publish)) => {
                assert!(publish.topic.len() + publish.payload.len() < packet.len());
                readable += 1;
            }
            Ok(_) => readable += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(readable > 20_000 && refused > 20_000, "{readable} read, {refused} refused");
}

#[test]
fn a_packet_that_does_not_fit_leaves_the_buffer_as_it_was() {
    let mut bytes = [0; 40];
    let mut out = Buffer::new(&mut bytes);
    codec::write_pingreq(&mut out).expect("fits");
    assert_eq!(lamp_connect(FORM).write(&mut out), Err(BufferFull));
    assert_eq!(out.written(), [0xc0, 0]);
}
