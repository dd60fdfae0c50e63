//! MQTT packets of a server, one after the other.

use super::{Reading, mqtt};
use hearthkey_agent::UnixTime;
use hearthkey_agent::mqtt::MAX_INCOMING_PACKET;
use hearthkey_agent::mqtt::codec::{Auth, ConnAck, Disconnect, Packet, PubAck, Publish, Qos, SubAck, decode, packet_length};

/// Whatever the pieces in which bytes arrive: the same packets, the same fault. What was read, written again by an independent
/// codec, reads the same.
pub(crate) fn packets(data: &[u8]) -> Reading {
    let mut rest = data;
    let mut reading = Reading::Refused;
    loop {
        let first = (0..=rest.len()).find_map(|end| packet_length(&rest[..end], MAX_INCOMING_PACKET).transpose());
        assert_eq!(packet_length(rest, MAX_INCOMING_PACKET), first.transpose(), "in single bytes");
        let Ok(Some(length)) = packet_length(rest, MAX_INCOMING_PACKET) else { return reading };
        assert!((2..=MAX_INCOMING_PACKET).contains(&length));
        let Some((packet, behind)) = rest.split_at_checked(length) else {
            assert!(decode(rest).is_err(), "a packet that is not whole");
            return reading;
        };
        if let Ok(packet) = decode(packet) {
            reads_again(&packet);
            reading = Reading::Taken;
        }
        rest = behind;
    }
}

fn reads_again(packet: &Packet<'_>) {
    let written = match packet {
        Packet::ConnAck(connack) => connack_again(connack),
        Packet::Publish(publish) => publish_again(publish),
        Packet::PubAck(PubAck { packet_id, reason_code, reason_string }) => {
            mqtt::puback(*packet_id, reason_code.0, reason_string)
        }
        Packet::SubAck(SubAck { packet_id, reason_codes }) => mqtt::suback(*packet_id, reason_codes),
        Packet::PingResp => mqtt::PINGRESP.to_vec(),
        Packet::Disconnect(Disconnect { reason_code, reason_string }) => mqtt::disconnect(reason_code.0, reason_string),
        Packet::Auth(auth) => auth_again(auth),
    };
    assert_eq!(decode(&written), Ok(*packet), "written again");
}

fn connack_again(connack: &ConnAck<'_>) -> Vec<u8> {
    let mut properties = authentication(connack.authentication_method, connack.authentication_data, connack.date);
    properties.extend(text(0x1f, connack.reason_string.as_bytes()));
    properties.push(0x21);
    properties.extend(connack.receive_maximum.to_be_bytes());
    if let Some(size) = connack.maximum_packet_size {
        properties.push(0x27);
        properties.extend(size.to_be_bytes());
    }
    if connack.maximum_qos == Qos::AtMostOnce {
        properties.extend([0x24, 0]);
    }
    properties.extend([0x25, u8::from(connack.retain_available)]);
    if let Some(seconds) = connack.server_keep_alive {
        properties.push(0x13);
        properties.extend(seconds.to_be_bytes());
    }
    if let Some(seconds) = connack.session_expiry {
        properties.push(0x11);
        properties.extend(seconds.to_be_bytes());
    }
    let head = vec![u8::from(connack.session_present), connack.reason_code.0];
    mqtt::packet(0x20, &[head, mqtt::variable(properties.len()), properties].concat())
}

fn auth_again(auth: &Auth<'_>) -> Vec<u8> {
    let properties = authentication(auth.method, auth.data, auth.date);
    mqtt::packet(0xf0, &[vec![auth.reason_code.0], mqtt::variable(properties.len()), properties].concat())
}

fn publish_again(publish: &Publish<'_>) -> Vec<u8> {
    let mut body = mqtt::binary(publish.topic.as_bytes());
    body.extend(publish.packet_id.iter().flat_map(|id| id.to_be_bytes()));
    match publish.message_expiry {
        Some(seconds) => body.extend([[5, 2].as_slice(), &seconds.to_be_bytes()].concat()),
        None => body.push(0),
    }
    body.extend(publish.payload);
    let qos = u8::from(publish.packet_id.is_some());
    mqtt::packet(0x30 | u8::from(publish.dup) << 3 | qos << 1 | u8::from(publish.retain), &body)
}

fn authentication(method: &str, data: &[u8], date: Option<UnixTime>) -> Vec<u8> {
    let date = date.map(|date| [vec![0x26], mqtt::binary(b"date"), mqtt::binary(date.as_secs().to_string().as_bytes())].concat());
    [text(0x15, method.as_bytes()), text(0x16, data), date.unwrap_or_default()].concat()
}

fn text(identifier: u8, text: &[u8]) -> Vec<u8> {
    [vec![identifier], mqtt::binary(text)].concat()
}
