//! The words of the tests: a client of either protocol, and what it expects.

use crate::support::*;
use hearthkey::mqtt::Stats;

/// The protocol levels of CONNECT: 5 is MQTT 5.0, 4 is MQTT 3.1.1.
pub(crate) const BOTH: [u8; 2] = [5, 4];

/// A clean start of a client who may do all. `name` tells sessions apart.
pub(crate) fn owner(version: u8, name: &str) -> Connect {
    let name = format!("owner/{name}");
    if version == 5 { Connect::v5(&name) } else { Connect::v311(&name) }
}

/// The same, whose session is kept for an hour (or, in MQTT 3.1.1, for as long as the hub allows).
pub(crate) fn kept(version: u8, name: &str) -> Connect {
    let properties = if version == 5 { vec![0x11, 0, 0, 0x0E, 0x10] } else { Vec::new() };
    Connect { clean_start: false, properties, ..owner(version, name) }
}

pub(crate) fn with(mut connect: Connect, property_bytes: &[u8]) -> Connect {
    connect.properties.extend(property_bytes);
    connect
}

/// What CONNECT holds after protocol name and level, with the protocol level of the test.
pub(crate) fn connect_packet(version: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = string("MQTT");
    body.extend([version, flags, 0, 0]);
    if version == 5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x10, &body)
}

/// SUBSCRIBE or UNSUBSCRIBE with packet identifier 9: its payload as bytes.
pub(crate) fn request(first: u8, version: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 9];
    if version == 5 {
        body.push(0);
    }
    body.extend(payload);
    packet(first, &body)
}

/// PUBLISH with any flags; packet identifier 9 where the QoS wants one.
pub(crate) fn publish_bytes(version: u8, flags: u8, topic: &[u8], property_bytes: &[u8], payload: &str) -> Vec<u8> {
    let mut body = binary(topic);
    if flags & 0x06 != 0 {
        body.extend([0, 9]);
    }
    if version == 5 {
        body.extend(properties(property_bytes));
    }
    body.extend(payload.as_bytes());
    packet(0x30 | flags, &body)
}

/// The hub ends the connection: with a DISCONNECT of this reason code in MQTT 5, by a bare close in MQTT 3.1.1.
pub(crate) async fn ends(client: &mut Client, reason_code: u8) {
    if client.version == 5 {
        assert_eq!(client.disconnected().await.0, reason_code);
    } else {
        client.closed().await;
    }
}

/// A fresh client sends what breaks the protocol, and the connection ends.
pub(crate) async fn is_ended(home: &Home, version: u8, bytes: &[u8], reason_code: u8) {
    let mut client = home.connected(owner(version, "wrong")).await;
    client.send(bytes).await;
    ends(&mut client, reason_code).await;
}

/// What a CONNECT is answered with: its reason or return code and the close; or only the close.
pub(crate) async fn is_refused(home: &Home, bytes: &[u8], code: Option<u8>) {
    let mut stranger = home.stranger().await;
    stranger.send(bytes).await;
    if let Some(code) = code {
        let connack = stranger.receive().await;
        assert_eq!((connack.first, &connack.body[..2]), (0x20, &[0, code][..]), "{connack:?}");
    }
    stranger.closed().await;
}

/// A malformed CONNECT: 0x81 in MQTT 5, no answer in MQTT 3.1.1 ([MQTT-3.1.4-1] there).
pub(crate) async fn is_malformed(home: &Home, version: u8, bytes: &[u8]) {
    is_refused(home, bytes, (version == 5).then_some(0x81)).await;
}

pub(crate) fn session_present(client: &Client) -> bool {
    client.connack.body[0] & 1 == 1
}

/// The properties of a packet of the hub, which begin at `offset` of its body.
pub(crate) fn properties_of(packet: &Packet, offset: usize) -> Vec<(u8, Vec<u8>)> {
    let (length, header) = integer_at(&packet.body[offset..]);
    list_of(&packet.body[offset + header..offset + header + length])
}

/// Properties as a list.
pub(crate) fn list_of(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some((&identifier, rest)) = bytes.split_first() {
        let string_length = |at: usize| 2 + usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        let length = match identifier {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0B => integer_at(rest).1,
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => string_length(0),
            0x26 => string_length(0) + string_length(string_length(0)),
            other => panic!("no property of MQTT 5: {other:#04x}"),
        };
        found.push((identifier, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    found
}

/// Whether the packet holds a property.
pub(crate) fn holds(packet: &Packet, offset: usize, identifier: u8) -> bool {
    properties_of(packet, offset).iter().any(|(found, _)| *found == identifier)
}

fn integer_at(bytes: &[u8]) -> (usize, usize) {
    let (mut value, mut used) = (0, 0);
    loop {
        value |= usize::from(bytes[used] & 0x7F) << (7 * used);
        used += 1;
        if bytes[used - 1] & 0x80 == 0 {
            return (value, used);
        }
    }
}

/// A topic is published to by somebody else, at QoS 1.
pub(crate) async fn somebody_publishes(home: &Home, topic: &str, payload: &str) {
    let mut somebody = home.connected(owner(5, "somebody")).await;
    assert_eq!(somebody.publish1(topic, payload).await, 0);
    somebody.goodbye().await;
}

/// Waits until no more than `most` connections are left, wills and all.
pub(crate) async fn connections_left(home: &Home, most: usize) {
    until(home, |stats| stats.connections <= most).await;
}

/// Waits until the front's figures, which tell nobody when they change, are as said.
pub(crate) async fn until(home: &Home, is_so: impl Fn(&Stats) -> bool) {
    within(async {
        while !is_so(&home.front.stats()) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
}
