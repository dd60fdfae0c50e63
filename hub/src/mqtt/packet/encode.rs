//! Encodes what a server sends, in the dialect of one connection. A packet never exceeds the size that the client takes:
//! words are left out, a message is not sent.

use super::{
    Version,
    frame::packet_type,
    property::{self as p},
    reason,
};
use crate::mqtt::message::{QoS, Routed};
use bytes::{BufMut, BytesMut};
use hearthkey_core::{UnixTime, rights::DeliveryPermit};

/// How one connection wants its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// The protocol.
    pub version: Version,
    /// Largest packet that the client takes.
    pub maximum_packet_size: u32,
    /// Whether reason strings and user properties may be sent on all packets.
    pub problem_information: bool,
}

/// CONNACK.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether an earlier session goes on.
    pub session_present: bool,
    /// MQTT 5 reason code.
    pub reason_code: u8,
    /// MQTT 3.1.1 return code.
    pub return_code: u8,
    /// If it differs from what was asked for.
    pub session_expiry: Option<u32>,
    /// Unacknowledged publishes that the hub takes at a time.
    pub receive_maximum: Option<u16>,
    /// Largest packet that the hub takes.
    pub maximum_packet_size: Option<u32>,
    /// Largest topic alias that the hub takes.
    pub topic_alias_maximum: Option<u16>,
    /// The keep alive that holds, if it is not the one that was asked for.
    pub server_keep_alive: Option<u16>,
    /// The name that a nameless client got.
    pub assigned_client_identifier: Option<Box<str>>,
    /// What went wrong.
    pub reason_string: Option<String>,
    /// The hub's time.
    pub date: Option<UnixTime>,
    /// Messages that the session's queue lost since its client was last told.
    pub messages_lost: Option<u64>,
    /// Authentication method.
    pub authentication_method: Option<Box<str>>,
    /// Authentication data.
    pub authentication_data: Option<Vec<u8>>,
}

/// One PUBLISH to a client, beyond the message itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Whether it was sent before.
    pub dup: bool,
    /// The QoS of this delivery.
    pub qos: QoS,
    /// None for QoS 0.
    pub packet_identifier: Option<u16>,
    /// RETAIN flag.
    pub retain: bool,
    /// The Subscription Identifiers of the subscriptions that match.
    pub subscription_identifiers: &'a [u32],
}

/// The answers to PUBLISH and to one another, by their first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ack {
    /// PUBACK: QoS 1 is done.
    PubAck = packet_type::PUBACK << 4,
    /// PUBREC: a QoS 2 message has arrived.
    PubRec = packet_type::PUBREC << 4,
    /// PUBREL: it will not be repeated.
    PubRel = packet_type::PUBREL << 4 | 0x02,
    /// PUBCOMP: QoS 2 is done.
    PubComp = packet_type::PUBCOMP << 4,
}

/// The packet would exceed what the client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

impl Dialect {
    /// The dialect in which a CONNECT is refused that could not be read to its end.
    #[must_use]
    pub const fn of_a_stranger(version: Version) -> Self {
        Self { version, maximum_packet_size: u32::MAX, problem_information: true }
    }

    /// CONNACK. Reports `TooLarge` if even without words it exceeds what the client takes.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn connack(&self, connack: &ConnAck, out: &mut BytesMut) -> Result<(), TooLarge> {
        let mut body = BytesMut::with_capacity(64);
        body.put_u8(u8::from(connack.session_present));
        if self.version == Version::V311 {
            body.put_u8(connack.return_code);
            return self.put(packet_type::CONNACK << 4, &body, out);
        }
        body.put_u8(connack.reason_code);
        let mut properties = BytesMut::with_capacity(64);
        if let Some(seconds) = connack.session_expiry {
            properties.put_u8(p::SESSION_EXPIRY_INTERVAL);
            properties.put_u32(seconds);
        }
        if connack.reason_code == reason::SUCCESS {
            if let Some(maximum) = connack.receive_maximum {
                properties.put_u8(p::RECEIVE_MAXIMUM);
                properties.put_u16(maximum);
            }
            if let Some(seconds) = connack.server_keep_alive {
                properties.put_u8(p::SERVER_KEEP_ALIVE);
                properties.put_u16(seconds);
            }
            if let Some(maximum) = connack.topic_alias_maximum {
                properties.put_u8(p::TOPIC_ALIAS_MAXIMUM);
                properties.put_u16(maximum);
            }
            if let Some(size) = connack.maximum_packet_size {
                properties.put_u8(p::MAXIMUM_PACKET_SIZE);
                properties.put_u32(size);
            }
        }
        if let Some(identifier) = &connack.assigned_client_identifier {
            put_binary(&mut properties, p::ASSIGNED_CLIENT_IDENTIFIER, identifier.as_bytes());
        }
        if let Some(method) = &connack.authentication_method {
            put_binary(&mut properties, p::AUTHENTICATION_METHOD, method.as_bytes());
        }
        if let Some(data) = &connack.authentication_data {
            put_binary(&mut properties, p::AUTHENTICATION_DATA, data);
        }
        self.put_with_words(
            packet_type::CONNACK << 4,
            body,
            properties,
            Words { reason_string: connack.reason_string.clone(), date: connack.date, messages_lost: connack.messages_lost },
            true,
            out,
        )
    }

    /// PUBLISH. The permit proves that the receiver may see the topic.
    ///
    /// # Errors
    /// [`TooLarge`]: the message is not sent (MQTT 5 section 3.1.2.11.4).
    pub fn publish(
        &self,
        permit: DeliveryPermit<'_>,
        routed: &Routed,
        delivery: &Delivery<'_>,
        now: UnixTime,
        out: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        debug_assert_eq!(permit.topic(), &routed.topic, "a permit for another topic");
        let topic = permit.topic().as_str().as_bytes();
        let message = &routed.message;
        let expiry = message.expires_at.map(|expires_at| u32::try_from(expires_at.since(now).0).unwrap_or(u32::MAX));
        let properties = message.properties.as_bytes();
        let (length, properties_length) = self.lengths_of_publish(routed, delivery.qos, delivery.subscription_identifiers);
        self.check(length)?;
        debug_assert_eq!(delivery.packet_identifier.is_none(), delivery.qos == QoS::AtMostOnce, "only QoS 0 has none");
        out.reserve(length + 5);
        out.put_u8(
            packet_type::PUBLISH << 4 | u8::from(delivery.dup) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain),
        );
        put_integer(out, length);
        // A topic has at most 512 bytes.
        out.put_u16(u16::try_from(topic.len()).unwrap_or(u16::MAX));
        out.put_slice(topic);
        if let Some(identifier) = delivery.packet_identifier {
            out.put_u16(identifier);
        }
        if self.version == Version::V5 {
            put_integer(out, properties_length);
            if let Some(seconds) = expiry {
                out.put_u8(p::MESSAGE_EXPIRY_INTERVAL);
                out.put_u32(seconds);
            }
            for &identifier in delivery.subscription_identifiers {
                out.put_u8(p::SUBSCRIPTION_IDENTIFIER);
                put_integer(out, identifier as usize);
            }
            out.put_slice(properties);
        }
        out.put_slice(&message.payload);
        Ok(())
    }

    /// Whether the client takes a packet of this size.
    #[must_use]
    pub fn takes(&self, routed: &Routed, qos: QoS, subscription_identifiers: &[u32]) -> bool {
        self.check(self.lengths_of_publish(routed, qos, subscription_identifiers).0).is_ok()
    }

    /// What follows the fixed header, and the properties in it.
    fn lengths_of_publish(&self, routed: &Routed, qos: QoS, subscription_identifiers: &[u32]) -> (usize, usize) {
        let message = &routed.message;
        let properties_length = message.properties.as_bytes().len()
            + message.expires_at.map_or(0, |_| 5)
            + subscription_identifiers.iter().map(|&identifier| 1 + integer_length(identifier as usize)).sum::<usize>();
        let packet_identifier = if qos == QoS::AtMostOnce { 0 } else { 2 };
        let length = 2 + routed.topic.as_str().len() + packet_identifier + message.payload.len();
        match self.version {
            Version::V5 => (length + integer_length(properties_length) + properties_length, properties_length),
            Version::V311 => (length, 0),
        }
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP; MQTT 3.1.1 has no reason code and is acknowledged in any case.
    pub fn ack(&self, ack: Ack, packet_identifier: u16, reason_code: u8, reason_string: Option<&str>, out: &mut BytesMut) {
        let first = ack as u8;
        let mut body = BytesMut::with_capacity(8);
        body.put_u16(packet_identifier);
        if self.version == Version::V311 || reason_code == reason::SUCCESS {
            // Fits: the smallest size that a client can take is checked at CONNECT.
            let _ = self.put(first, &body, out);
            return;
        }
        body.put_u8(reason_code);
        let words = Words { reason_string: reason_string.map(str::to_owned), ..Words::default() };
        let _ = self.put_with_words(first, body, BytesMut::new(), words, self.problem_information, out);
    }

    /// SUBACK, with MQTT 5 reason codes; MQTT 3.1.1 gets 0x80 for every refusal.
    ///
    /// # Errors
    /// [`TooLarge`]: there are more reason codes than the client takes.
    pub fn suback(
        &self,
        packet_identifier: u16,
        reason_codes: &[u8],
        reason_string: Option<&str>,
        out: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        self.acks(packet_type::SUBACK, packet_identifier, reason_codes, reason_string, out)
    }

    /// UNSUBACK; MQTT 3.1.1 has no reason codes.
    ///
    /// # Errors
    /// [`TooLarge`]: there are more reason codes than the client takes.
    pub fn unsuback(&self, packet_identifier: u16, reason_codes: &[u8], out: &mut BytesMut) -> Result<(), TooLarge> {
        self.acks(packet_type::UNSUBACK, packet_identifier, reason_codes, None, out)
    }

    fn acks(
        &self,
        kind: u8,
        packet_identifier: u16,
        reason_codes: &[u8],
        reason_string: Option<&str>,
        out: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        let mut body = BytesMut::with_capacity(8 + reason_codes.len());
        body.put_u16(packet_identifier);
        match self.version {
            Version::V5 => {
                let mut properties = BytesMut::new();
                let words = reason_string.filter(|_| self.problem_information);
                if let Some(words) = words {
                    put_binary(&mut properties, p::REASON_STRING, words.as_bytes());
                }
                if self.check(body.len() + integer_length(properties.len()) + properties.len() + reason_codes.len()).is_err() {
                    properties.clear();
                }
                put_integer(&mut body, properties.len());
                body.put_slice(&properties);
                body.put_slice(reason_codes);
            }
            Version::V311 if kind == packet_type::SUBACK => {
                body.extend(reason_codes.iter().map(|&code| if code >= 0x80 { 0x80 } else { code }));
            }
            Version::V311 => {}
        }
        self.put(kind << 4, &body, out)
    }

    /// PINGRESP.
    pub fn pingresp(&self, out: &mut BytesMut) {
        out.put_slice(&[packet_type::PINGRESP << 4, 0]);
    }

    /// DISCONNECT; nothing for MQTT 3.1.1, where a server has none.
    pub fn disconnect(&self, reason_code: u8, reason_string: &str, date: Option<UnixTime>, out: &mut BytesMut) {
        if self.version == Version::V311 {
            return;
        }
        let mut body = BytesMut::with_capacity(2);
        body.put_u8(reason_code);
        let words = Words { reason_string: Some(reason_string.to_owned()), date, ..Words::default() };
        let _ = self.put_with_words(packet_type::DISCONNECT << 4, body, BytesMut::new(), words, true, out);
    }

    /// AUTH; MQTT 5 only.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn auth(
        &self,
        reason_code: u8,
        method: &str,
        data: Option<&[u8]>,
        date: Option<UnixTime>,
        out: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        let mut body = BytesMut::with_capacity(2);
        body.put_u8(reason_code);
        let mut properties = BytesMut::with_capacity(64);
        put_binary(&mut properties, p::AUTHENTICATION_METHOD, method.as_bytes());
        if let Some(data) = data {
            put_binary(&mut properties, p::AUTHENTICATION_DATA, data);
        }
        let words = Words { date, ..Words::default() };
        self.put_with_words(packet_type::AUTH << 4, body, properties, words, self.problem_information, out)
    }

    /// Words are the first to go where they do not fit (MQTT 5 section 3.1.2.11.4) or are not wanted (3.1.2.11.7).
    fn put_with_words(
        &self,
        first: u8,
        mut body: BytesMut,
        mut properties: BytesMut,
        words: Words,
        wanted: bool,
        out: &mut BytesMut,
    ) -> Result<(), TooLarge> {
        let bare = properties.len();
        if let Some(words) = words.reason_string.filter(|_| wanted) {
            put_binary(&mut properties, p::REASON_STRING, words.as_bytes());
        }
        let date = words.date.map(|date| ("date", date.0));
        let messages_lost = words.messages_lost.map(|lost| ("messages_lost", lost));
        for (name, number) in [date, messages_lost].into_iter().flatten().filter(|_| wanted) {
            properties.put_u8(p::USER_PROPERTY);
            put_string(&mut properties, name);
            put_string(&mut properties, &number.to_string());
        }
        if self.check(body.len() + integer_length(properties.len()) + properties.len()).is_err() {
            properties.truncate(bare);
        }
        put_integer(&mut body, properties.len());
        body.put_slice(&properties);
        self.put(first, &body, out)
    }

    fn put(&self, first: u8, body: &[u8], out: &mut BytesMut) -> Result<(), TooLarge> {
        self.check(body.len())?;
        out.put_u8(first);
        put_integer(out, body.len());
        out.put_slice(body);
        Ok(())
    }

    fn check(&self, length: usize) -> Result<(), TooLarge> {
        let total = 1 + integer_length(length) + length;
        if total > self.maximum_packet_size as usize || length > 268_435_455 { Err(TooLarge) } else { Ok(()) }
    }
}

#[derive(Default)]
struct Words {
    reason_string: Option<String>,
    date: Option<UnixTime>,
    messages_lost: Option<u64>,
}

/// Longest text that is sent: words for people, not documents.
const MAX_WORDS_BYTES: usize = 1_024;

fn put_binary(out: &mut BytesMut, identifier: u8, bytes: &[u8]) {
    out.put_u8(identifier);
    let bytes = if identifier == p::REASON_STRING { shortened(bytes) } else { bytes };
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(&bytes[..usize::from(length)]);
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(&text.as_bytes()[..text.len().min(usize::from(u16::MAX))]);
}

/// At most [`MAX_WORDS_BYTES`], cut between characters, without control characters at risk of U+0000.
fn shortened(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= MAX_WORDS_BYTES {
        return bytes;
    }
    let mut end = MAX_WORDS_BYTES;
    while end > 0 && bytes[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    &bytes[..end]
}

/// Appends a variable byte integer (MQTT 5 section 1.5.5); callers stay below 268,435,456.
fn put_integer(out: &mut BytesMut, mut value: usize) {
    loop {
        // Seven bits fit.
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

const fn integer_length(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}
