//! MQTT 5 packets: writes those that a client sends, reads those that a server sends (OASIS MQTT 5.0).
//! Refuses what is malformed; keeps no state between packets.

use super::property::{self, Properties, Property, Reader};
use super::reason::ReasonCode;
use crate::buffer::{Buffer, BufferFull};
use crate::time::{UnixTime, decimal};

/// Delivery promise of a PUBLISH. QoS 2 is neither sent nor subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// Sent once, never repeated.
    AtMostOnce,
    /// Repeated after a reconnect until acknowledged.
    AtLeastOnce,
}

/// What is wrong with a packet of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// It does not follow the format (reason code 0x81).
    Malformed(&'static str),
    /// It follows the format and breaks a rule (0x82).
    Protocol(&'static str),
    /// It is longer than the Maximum Packet Size that we declared (0x95).
    TooLarge,
}

impl DecodeError {
    /// The reason code of the DISCONNECT that answers it.
    #[must_use]
    pub const fn reason_code(self) -> ReasonCode {
        match self {
            Self::Malformed(_) => ReasonCode::MALFORMED_PACKET,
            Self::Protocol(_) => ReasonCode::PROTOCOL_ERROR,
            Self::TooLarge => ReasonCode::PACKET_TOO_LARGE,
        }
    }
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Malformed(why) | Self::Protocol(why) => formatter.write_str(why),
            Self::TooLarge => formatter.write_str("larger than our Maximum Packet Size"),
        }
    }
}

/// A packet that a server may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Answer to CONNECT.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// Answer to our PUBLISH of QoS 1.
    PubAck(PubAck<'a>),
    /// Answer to SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Answer to PINGREQ.
    PingResp,
    /// The server ends the connection.
    Disconnect(Disconnect<'a>),
    /// A step of an authentication exchange.
    Auth(Auth<'a>),
}

/// CONNACK (3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether the server still holds our session.
    pub session_present: bool,
    /// 0x00, or why not.
    pub reason_code: ReasonCode,
    /// Why, in words; empty if not said.
    pub reason_string: &'a str,
    /// How many QoS 1 publishes we may have unacknowledged; 65535 if not said.
    pub receive_maximum: u16,
    /// The largest packet that the server takes; no limit if not said.
    pub maximum_packet_size: Option<u32>,
    /// The largest QoS that the server takes; QoS 2 if not said, which is more than we send.
    pub maximum_qos: Qos,
    /// Whether the server takes retained messages.
    pub retain_available: bool,
    /// The keep alive to use instead of ours, in seconds.
    pub server_keep_alive: Option<u16>,
    /// The session expiry to expect instead of ours, in seconds.
    pub session_expiry: Option<u32>,
    /// Authentication method; empty if not said.
    pub authentication_method: &'a str,
    /// Authentication data: the token response.
    pub authentication_data: &'a [u8],
    /// The user property `date`: the hub's time.
    pub date: Option<UnixTime>,
}

/// PUBLISH (3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent before, perhaps.
    pub dup: bool,
    /// The packet identifier, which only QoS 1 has.
    pub packet_id: Option<u16>,
    /// Whether this is a retained message rather than a live one.
    pub retain: bool,
    /// Topic name, without wildcards.
    pub topic: &'a str,
    /// How long the message still matters, in seconds.
    pub message_expiry: Option<u32>,
    /// The message.
    pub payload: &'a [u8],
}

/// PUBACK (3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PubAck<'a> {
    /// Which PUBLISH.
    pub packet_id: u16,
    /// 0x00 or 0x10, or why it was refused.
    pub reason_code: ReasonCode,
    /// Why, in words; empty if not said.
    pub reason_string: &'a str,
}

/// SUBACK (3.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Which SUBSCRIBE.
    pub packet_id: u16,
    /// One reason code per topic filter, in order.
    pub reason_codes: &'a [u8],
}

/// DISCONNECT (3.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why.
    pub reason_code: ReasonCode,
    /// Why, in words; empty if not said.
    pub reason_string: &'a str,
}

/// AUTH (3.15).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// 0x00 success or 0x18 continue.
    pub reason_code: ReasonCode,
    /// The method; empty if not said.
    pub method: &'a str,
    /// A challenge, or the token response.
    pub data: &'a [u8],
    /// The user property `date`: the hub's time.
    pub date: Option<UnixTime>,
}

// Authentication data and passwords are not shown.
impl core::fmt::Debug for ConnAck<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { session_present, reason_code, reason_string, .. } = self;
        write!(formatter, "ConnAck {{ {session_present}, {reason_code}, {reason_string:?}, .. }}")
    }
}

impl core::fmt::Debug for Auth<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "Auth {{ {}, {:?}, .. }}", self.reason_code, self.method)
    }
}

impl core::fmt::Debug for Connect<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "Connect {{ {:?}, .. }}", self.client_identifier)
    }
}

/// The length of the packet at the front of `bytes`, header included; `None` while its header is incomplete.
///
/// # Errors
/// [`DecodeError`] as soon as the header shows a packet that we do not read.
pub fn packet_length(bytes: &[u8], maximum: usize) -> Result<Option<usize>, DecodeError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    check_first_byte(first)?;
    let Some((length, field)) = property::variable_integer(rest)? else {
        return Ok(None);
    };
    let whole = 1 + field + length as usize;
    if whole > maximum { Err(DecodeError::TooLarge) } else { Ok(Some(whole)) }
}

fn check_first_byte(first: u8) -> Result<(), DecodeError> {
    match (first >> 4, first & 0x0f) {
        (3, flags) if flags & 0x06 == 0x06 => Err(DecodeError::Malformed("QoS 3")),
        (3, flags) if flags & 0x06 == 0x04 => Err(DecodeError::Protocol("QoS 2, which we never subscribe to")),
        (3, flags) if flags & 0x0e == 0x08 => Err(DecodeError::Malformed("DUP with QoS 0")),
        (3, _) | (2 | 4 | 9 | 13 | 14 | 15, 0) => Ok(()),
        (2 | 4 | 9 | 13 | 14 | 15, _) => Err(DecodeError::Malformed("reserved flags set")),
        _ => Err(DecodeError::Protocol("packet type that a server must not send us")),
    }
}

/// Reads one packet that fills `bytes` exactly, as [`packet_length`] measured it.
///
/// # Errors
/// [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    if packet_length(bytes, bytes.len())? != Some(bytes.len()) {
        return Err(DecodeError::Malformed("packet ends early"));
    }
    let mut body = Reader(bytes);
    let first = body.u8()?;
    body.variable_integer()?;
    match first >> 4 {
        2 => connack(body).map(Packet::ConnAck),
        3 => publish(first, body).map(Packet::Publish),
        4 => puback(body).map(Packet::PubAck),
        9 => suback(body).map(Packet::SubAck),
        13 => body.end().map(|()| Packet::PingResp),
        14 => disconnect(body).map(Packet::Disconnect),
        15 => auth(body).map(Packet::Auth),
        _ => Err(DecodeError::Protocol("packet type that a server must not send us")),
    }
}

fn connack(mut body: Reader<'_>) -> Result<ConnAck<'_>, DecodeError> {
    let flags = body.u8()?;
    if flags > 1 {
        return Err(DecodeError::Malformed("reserved flags set"));
    }
    let reason_code = ReasonCode(body.u8()?);
    if flags == 1 && reason_code != ReasonCode::SUCCESS {
        return Err(DecodeError::Protocol("session present in a refusal"));
    }
    let mut connack = ConnAck {
        session_present: flags == 1,
        reason_code,
        reason_string: "",
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        maximum_qos: Qos::AtLeastOnce,
        retain_available: true,
        server_keep_alive: None,
        session_expiry: None,
        authentication_method: "",
        authentication_data: &[],
        date: None,
    };
    let mut properties = body.properties()?;
    body.end()?;
    while let Some(property) = properties.next(property::CONNACK)? {
        match property {
            Property::ReasonString(text) => connack.reason_string = text,
            Property::ReceiveMaximum(maximum) => connack.receive_maximum = maximum,
            Property::MaximumPacketSize(size) => connack.maximum_packet_size = Some(size),
            Property::MaximumQos(0) => connack.maximum_qos = Qos::AtMostOnce,
            Property::RetainAvailable(available) => connack.retain_available = available,
            Property::ServerKeepAlive(seconds) => connack.server_keep_alive = Some(seconds),
            Property::SessionExpiryInterval(seconds) => connack.session_expiry = Some(seconds),
            Property::AuthenticationMethod(method) => connack.authentication_method = method,
            Property::AuthenticationData(data) => connack.authentication_data = data,
            Property::User("date", value) => connack.date = date(value),
            _ => {}
        }
    }
    Ok(connack)
}

fn date(value: &str) -> Option<UnixTime> {
    decimal(value.as_bytes()).map(UnixTime::from_secs)
}

fn publish(first: u8, mut body: Reader<'_>) -> Result<Publish<'_>, DecodeError> {
    let topic = body.string()?;
    if topic.is_empty() || topic.contains(['+', '#']) {
        return Err(DecodeError::Protocol("topic name that is empty or holds wildcards"));
    }
    let packet_id = if first & 0x06 == 0 { None } else { Some(packet_id(&mut body)?) };
    let mut message_expiry = None;
    let mut properties = body.properties()?;
    while let Some(property) = properties.next(property::PUBLISH)? {
        match property {
            Property::MessageExpiryInterval(seconds) => message_expiry = Some(seconds),
            Property::TopicAlias => {
                return Err(DecodeError::Protocol("topic alias, of which we allow none"));
            }
            _ => {}
        }
    }
    Ok(Publish { dup: first & 0x08 != 0, packet_id, retain: first & 0x01 != 0, topic, message_expiry, payload: body.0 })
}

fn packet_id(body: &mut Reader<'_>) -> Result<u16, DecodeError> {
    match body.u16()? {
        0 => Err(DecodeError::Protocol("packet identifier of zero")),
        id => Ok(id),
    }
}

/// Reason code and reason string of a packet that may leave out both (3.4.2.1, 3.14.2.1).
fn reason<'a>(body: &mut Reader<'a>, allowed: u64) -> Result<(ReasonCode, &'a str), DecodeError> {
    if body.0.is_empty() {
        return Ok((ReasonCode::SUCCESS, ""));
    }
    let reason_code = ReasonCode(body.u8()?);
    if body.0.is_empty() {
        return Ok((reason_code, ""));
    }
    let mut properties = body.properties()?;
    body.end()?;
    Ok((reason_code, reason_string(&mut properties, allowed)?))
}

fn reason_string<'a>(properties: &mut Properties<'a>, allowed: u64) -> Result<&'a str, DecodeError> {
    let mut text = "";
    while let Some(property) = properties.next(allowed)? {
        if let Property::ReasonString(said) = property {
            text = said;
        }
    }
    Ok(text)
}

fn puback(mut body: Reader<'_>) -> Result<PubAck<'_>, DecodeError> {
    let packet_id = packet_id(&mut body)?;
    let (reason_code, reason_string) = reason(&mut body, property::ACKNOWLEDGEMENT)?;
    Ok(PubAck { packet_id, reason_code, reason_string })
}

fn suback(mut body: Reader<'_>) -> Result<SubAck<'_>, DecodeError> {
    let packet_id = packet_id(&mut body)?;
    reason_string(&mut body.properties()?, property::ACKNOWLEDGEMENT)?;
    if body.0.is_empty() {
        return Err(DecodeError::Protocol("SUBACK without reason codes"));
    }
    Ok(SubAck { packet_id, reason_codes: body.0 })
}

fn disconnect(mut body: Reader<'_>) -> Result<Disconnect<'_>, DecodeError> {
    let (reason_code, reason_string) = reason(&mut body, property::DISCONNECT)?;
    Ok(Disconnect { reason_code, reason_string })
}

fn auth(mut body: Reader<'_>) -> Result<Auth<'_>, DecodeError> {
    let mut auth = Auth { reason_code: ReasonCode::SUCCESS, method: "", data: &[], date: None };
    if body.0.is_empty() {
        return Ok(auth);
    }
    auth.reason_code = ReasonCode(body.u8()?);
    let mut properties = body.properties()?;
    body.end()?;
    while let Some(property) = properties.next(property::AUTH)? {
        match property {
            Property::AuthenticationMethod(method) => auth.method = method,
            Property::AuthenticationData(data) => auth.data = data,
            Property::User("date", value) => auth.date = date(value),
            _ => {}
        }
    }
    Ok(auth)
}

/// What a CONNECT says (3.1). The protocol is MQTT 5.
#[derive(Clone, Copy)]
pub struct Connect<'a> {
    /// Client identifier.
    pub client_identifier: &'a str,
    /// Whether to drop the session that the server may hold.
    pub clean_start: bool,
    /// Seconds between packets at most; 0 for no limit.
    pub keep_alive: u16,
    /// Seconds that the session outlives the connection.
    pub session_expiry: u32,
    /// Our Receive Maximum.
    pub receive_maximum: u16,
    /// Our Maximum Packet Size.
    pub maximum_packet_size: u32,
    /// Authentication method and data.
    pub authentication: Option<(&'a str, &'a [u8])>,
    /// What the server publishes, retained, at QoS 1, if we vanish: topic and payload.
    pub will: Option<(&'a str, &'a [u8])>,
    /// User name and password, for brokers without authentication methods.
    pub user_name_and_password: Option<(&'a str, &'a [u8])>,
}

impl Connect<'_> {
    /// Writes the packet.
    ///
    /// # Errors
    /// [`BufferFull`] if it does not fit; `out` is as before then.
    pub fn write(&self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        packet(out, 0x10, |out| {
            out.push(b"\0\x04MQTT\x05")?;
            let mut flags = u8::from(self.clean_start) << 1;
            if self.will.is_some() {
                flags |= 0b0010_1100; // will, at QoS 1, retained
            }
            if self.user_name_and_password.is_some() {
                flags |= 0b1100_0000;
            }
            out.push(&[flags])?;
            out.push(&self.keep_alive.to_be_bytes())?;
            with_length(out, |out| {
                if self.session_expiry > 0 {
                    out.push(&[0x11])?;
                    out.push(&self.session_expiry.to_be_bytes())?;
                }
                out.push(&[0x21])?;
                out.push(&self.receive_maximum.to_be_bytes())?;
                out.push(&[0x27])?;
                out.push(&self.maximum_packet_size.to_be_bytes())?;
                self.authentication.map_or(Ok(()), |(method, data)| authentication_properties(out, method, data))
            })?;
            binary(out, self.client_identifier.as_bytes())?;
            if let Some((topic, payload)) = self.will {
                out.push(&[0])?; // no will properties
                binary(out, topic.as_bytes())?;
                binary(out, payload)?;
            }
            if let Some((user_name, password)) = self.user_name_and_password {
                binary(out, user_name.as_bytes())?;
                binary(out, password)?;
            }
            Ok(())
        })
    }
}

fn authentication_properties(out: &mut Buffer<'_>, method: &str, data: &[u8]) -> Result<(), BufferFull> {
    out.push(&[0x15])?;
    binary(out, method.as_bytes())?;
    // Empty data is sent as such: it says that we know no date.
    out.push(&[0x16])?;
    binary(out, data)
}

/// Writes an AUTH with method and data.
///
/// # Errors
/// [`BufferFull`] if it does not fit; `out` is as before then.
pub fn write_auth(out: &mut Buffer<'_>, reason: ReasonCode, method: &str, data: &[u8]) -> Result<(), BufferFull> {
    packet(out, 0xf0, |out| {
        out.push(&[reason.0])?;
        with_length(out, |out| authentication_properties(out, method, data))
    })
}

/// What our PUBLISH says.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingPublish<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// The message.
    pub payload: &'a [u8],
    /// Whether the server keeps it for later subscribers.
    pub retain: bool,
    /// The packet identifier makes it QoS 1; without one it is QoS 0.
    pub packet_id: Option<u16>,
    /// Sent before, perhaps.
    pub dup: bool,
}

impl OutgoingPublish<'_> {
    /// The length of the packet.
    #[must_use]
    pub fn packet_length(&self) -> usize {
        let body = 2 + self.topic.len() + usize::from(self.packet_id.is_some()) * 2 + 1 + self.payload.len();
        1 + if body < 128 { 1 } else { 2 } + body
    }

    /// Writes the packet.
    ///
    /// # Errors
    /// [`BufferFull`] if it does not fit; `out` is as before then.
    pub fn write(&self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let qos = u8::from(self.packet_id.is_some());
        packet(out, 0x30 | u8::from(self.dup) << 3 | qos << 1 | u8::from(self.retain), |out| {
            binary(out, self.topic.as_bytes())?;
            if let Some(packet_id) = self.packet_id {
                out.push(&packet_id.to_be_bytes())?;
            }
            out.push(&[0])?;
            out.push(self.payload)
        })
    }
}

/// Writes a PUBACK.
///
/// # Errors
/// [`BufferFull`] if it does not fit; `out` is as before then.
pub fn write_puback(out: &mut Buffer<'_>, packet_id: u16, reason: ReasonCode) -> Result<(), BufferFull> {
    packet(out, 0x40, |out| {
        out.push(&packet_id.to_be_bytes())?;
        if reason == ReasonCode::SUCCESS { Ok(()) } else { out.push(&[reason.0]) }
    })
}

/// Writes a SUBSCRIBE to `filters` at QoS 1.
///
/// # Errors
/// [`BufferFull`] if it does not fit; `out` is as before then.
pub fn write_subscribe(out: &mut Buffer<'_>, packet_id: u16, filters: &[&str]) -> Result<(), BufferFull> {
    packet(out, 0x82, |out| {
        out.push(&packet_id.to_be_bytes())?;
        out.push(&[0])?;
        filters.iter().try_for_each(|filter| {
            binary(out, filter.as_bytes())?;
            out.push(&[1])
        })
    })
}

/// Writes a PINGREQ.
///
/// # Errors
/// [`BufferFull`] if it does not fit; `out` is as before then.
pub fn write_pingreq(out: &mut Buffer<'_>) -> Result<(), BufferFull> {
    packet(out, 0xc0, |_| Ok(()))
}

/// Writes a DISCONNECT.
///
/// # Errors
/// [`BufferFull`] if it does not fit; `out` is as before then.
pub fn write_disconnect(out: &mut Buffer<'_>, reason: ReasonCode) -> Result<(), BufferFull> {
    packet(out, 0xe0, |out| if reason == ReasonCode::SUCCESS { Ok(()) } else { out.push(&[reason.0]) })
}

fn packet(
    out: &mut Buffer<'_>,
    first: u8,
    write_body: impl FnOnce(&mut Buffer<'_>) -> Result<(), BufferFull>,
) -> Result<(), BufferFull> {
    let start = out.len();
    let written = out.push(&[first]).and_then(|()| with_length(out, write_body));
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Writes a part, then its length in front of it, which is known only then.
fn with_length(
    out: &mut Buffer<'_>,
    write_part: impl FnOnce(&mut Buffer<'_>) -> Result<(), BufferFull>,
) -> Result<(), BufferFull> {
    let start = out.len();
    write_part(out)?;
    let mut rest = out.len() - start;
    let mut field = [0_u8; 4];
    let mut count = 0;
    for byte in &mut field {
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        count += 1;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    let field = field.get(..count).ok_or(BufferFull)?;
    out.open_gap(start, count)?.copy_from_slice(field);
    Ok(())
}

fn binary(out: &mut Buffer<'_>, bytes: &[u8]) -> Result<(), BufferFull> {
    out.push(&u16::try_from(bytes.len()).map_err(|_| BufferFull)?.to_be_bytes())?;
    out.push(bytes)
}
