//! Decodes what clients send. Every byte is accounted for: a packet that is too short, too long or holds what the
//! specification forbids is a [`Fault`].

use super::{
    Auth, ClientPacket, Connect, Fault, Publish, RetainHandling, Secret, Subscribe, SubscribeRequest, SubscriptionOptions,
    Version, Will,
    frame::{Frame, packet_type},
    property, reason,
};
use crate::mqtt::{
    limits::{MAX_FILTERS_PER_PACKET, MAX_USER_PROPERTIES},
    message::{ForwardedProperties, Message, QoS},
};
use bytes::{Buf, Bytes};
use hearthkey_core::topic::{SubscriptionFilter, TopicName};

/// Why a CONNECT could not be read, and in which dialect to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectFault {
    /// The protocol, if it was legible.
    pub version: Option<Version>,
    /// What is wrong.
    pub fault: Fault,
}

/// Decodes the first packet of a connection.
///
/// # Errors
/// [`ConnectFault`].
pub fn connect(frame: Frame) -> Result<Connect, ConnectFault> {
    let unversioned = |fault| ConnectFault { version: None, fault };
    if frame.first >> 4 != packet_type::CONNECT {
        return Err(unversioned(Fault::protocol("the first packet must be CONNECT")));
    }
    let mut reader = Reader(frame.body);
    let name = reader.string().map_err(unversioned)?;
    let level = reader.u8().map_err(unversioned)?;
    let unsupported = Fault { code: reason::UNSUPPORTED_PROTOCOL_VERSION, reason: "this hub speaks MQTT 3.1.1 and 5" };
    let version = match (&*name, level) {
        ("MQTT", 4) => Version::V311,
        ("MQTT", 5) => Version::V5,
        ("MQTT", level) if level > 5 => return Err(ConnectFault { version: Some(Version::V5), fault: unsupported }),
        ("MQTT" | "MQIsdp", _) => return Err(ConnectFault { version: Some(Version::V311), fault: unsupported }),
        _ => return Err(unversioned(Fault::malformed("not MQTT"))),
    };
    connect_body(&mut reader, version).map_err(|fault| ConnectFault { version: Some(version), fault })
}

fn connect_body(reader: &mut Reader, version: Version) -> Result<Connect, Fault> {
    let flags = reader.u8()?;
    let (has_user_name, has_password, will_retain) = (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x20 != 0);
    let (will_qos, has_will, clean_start) = ((flags >> 3) & 0x03, flags & 0x04 != 0, flags & 0x02 != 0);
    if flags & 0x01 != 0 {
        return Err(Fault::malformed("reserved CONNECT flag"));
    }
    if !has_will && (will_qos != 0 || will_retain) {
        return Err(Fault::malformed("will flags without a will"));
    }
    let will_qos = QoS::from_bits(will_qos).ok_or(Fault::malformed("will QoS 3"))?;
    if version == Version::V311 && has_password && !has_user_name {
        return Err(Fault::malformed("MQTT 3.1.1 allows no password without a user name"));
    }
    let keep_alive = reader.u16()?;
    let properties = reader.properties(version, Holder::Connect)?;
    let client_identifier = reader.string()?;
    let will = if has_will { Some(will(reader, version, will_qos, will_retain)?) } else { None };
    let user_name = if has_user_name { Some(reader.string()?) } else { None };
    let password = if has_password { Some(Secret(reader.binary()?)) } else { None };
    reader.end()?;
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(Fault::protocol("authentication data without a method"));
    }
    let session_expiry = match version {
        Version::V5 => properties.session_expiry.unwrap_or(0),
        Version::V311 if clean_start => 0,
        Version::V311 => u32::MAX,
    };
    Ok(Connect {
        version,
        clean_start,
        keep_alive,
        session_expiry,
        receive_maximum: properties.receive_maximum.unwrap_or(u16::MAX),
        maximum_packet_size: properties.maximum_packet_size.unwrap_or(u32::MAX),
        problem_information: properties.problem_information.unwrap_or(true),
        authentication_method: properties.authentication_method,
        authentication_data: properties.authentication_data,
        client_identifier,
        will,
        user_name,
        password,
    })
}

fn will(reader: &mut Reader, version: Version, qos: QoS, retain: bool) -> Result<Will, Fault> {
    let properties = reader.properties(version, Holder::Will)?;
    let topic = reader.binary()?;
    let topic = TopicName::from_bytes(&topic).map_err(|_| Fault { code: reason::TOPIC_NAME_INVALID, reason: "will topic" })?;
    let payload = reader.binary()?;
    let message = Message { payload, qos, retain, expires_at: None, properties: properties.forwarded };
    Ok(Will { topic, message, expiry: properties.message_expiry, delay: properties.will_delay.unwrap_or(0) })
}

/// Decodes a packet after CONNECT.
///
/// # Errors
/// [`Fault`].
pub fn packet(frame: Frame, version: Version) -> Result<ClientPacket, Fault> {
    let mut reader = Reader(frame.body);
    match frame.first >> 4 {
        packet_type::CONNECT => Ok(ClientPacket::Connect),
        packet_type::PUBLISH => publish(frame.first, reader, version).map(ClientPacket::Publish),
        kind @ (packet_type::PUBACK | packet_type::PUBREC | packet_type::PUBREL | packet_type::PUBCOMP) => {
            let packet_identifier = reader.packet_identifier()?;
            let reason_code = reader.reason_and_properties(version, Holder::Ack)?.0;
            Ok(match kind {
                packet_type::PUBACK => ClientPacket::PubAck { packet_identifier, reason_code },
                packet_type::PUBREC => ClientPacket::PubRec { packet_identifier, reason_code },
                packet_type::PUBREL => ClientPacket::PubRel { packet_identifier, reason_code },
                _ => ClientPacket::PubComp { packet_identifier, reason_code },
            })
        }
        packet_type::SUBSCRIBE => subscribe(reader, version).map(ClientPacket::Subscribe),
        packet_type::UNSUBSCRIBE => unsubscribe(reader, version),
        packet_type::PINGREQ => reader.end().map(|()| ClientPacket::PingReq),
        packet_type::DISCONNECT => {
            let (reason_code, properties) = reader.reason_and_properties(version, Holder::Disconnect)?;
            Ok(ClientPacket::Disconnect { reason_code, session_expiry: properties.session_expiry })
        }
        packet_type::AUTH => auth(reader, version).map(ClientPacket::Auth),
        // Framing lets nothing else through.
        _ => Err(Fault::protocol("a client does not send this packet type")),
    }
}

fn publish(first: u8, mut reader: Reader, version: Version) -> Result<Publish, Fault> {
    let qos = QoS::from_bits((first >> 1) & 0x03).ok_or(Fault::malformed("QoS 3"))?;
    let topic = reader.binary()?;
    let packet_identifier = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_identifier()?) };
    let properties = reader.properties(version, Holder::Publish)?;
    let message =
        Message { payload: reader.0, qos, retain: first & 0x01 != 0, expires_at: None, properties: properties.forwarded };
    Ok(Publish {
        dup: first & 0x08 != 0,
        packet_identifier,
        topic,
        topic_alias: properties.topic_alias,
        expiry: properties.message_expiry,
        message,
    })
}

fn subscribe(mut reader: Reader, version: Version) -> Result<Subscribe, Fault> {
    let packet_identifier = reader.packet_identifier()?;
    let properties = reader.properties(version, Holder::Subscribe)?;
    let mut requests = Vec::new();
    while reader.0.has_remaining() {
        if requests.len() == MAX_FILTERS_PER_PACKET {
            return Err(Fault { code: reason::QUOTA_EXCEEDED, reason: "too many filters in one packet" });
        }
        let filter = SubscriptionFilter::parse(&reader.string()?);
        let options = subscription_options(reader.u8()?, version)?;
        if options.no_local && filter.as_ref().is_ok_and(|filter| filter.share_name.is_some()) {
            return Err(Fault::protocol("no local on a shared subscription"));
        }
        requests.push(SubscribeRequest { filter, options });
    }
    if requests.is_empty() {
        return Err(Fault::protocol("SUBSCRIBE without a filter"));
    }
    Ok(Subscribe { packet_identifier, identifier: properties.subscription_identifier, requests })
}

fn subscription_options(byte: u8, version: Version) -> Result<SubscriptionOptions, Fault> {
    let reserved = match version {
        Version::V311 => 0xFC,
        Version::V5 => 0xC0,
    };
    if byte & reserved != 0 {
        return Err(Fault::malformed("reserved subscription options"));
    }
    let retain_handling = match (byte >> 4) & 0x03 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(Fault::protocol("retain handling 3")),
    };
    Ok(SubscriptionOptions {
        qos: QoS::from_bits(byte & 0x03).ok_or(Fault::malformed("QoS 3"))?,
        no_local: byte & 0x04 != 0,
        retain_as_published: byte & 0x08 != 0,
        retain_handling,
    })
}

fn unsubscribe(mut reader: Reader, version: Version) -> Result<ClientPacket, Fault> {
    let packet_identifier = reader.packet_identifier()?;
    reader.properties(version, Holder::Unsubscribe)?;
    let mut filters = Vec::new();
    while reader.0.has_remaining() {
        if filters.len() == MAX_FILTERS_PER_PACKET {
            return Err(Fault { code: reason::QUOTA_EXCEEDED, reason: "too many filters in one packet" });
        }
        filters.push(SubscriptionFilter::parse(&reader.string()?));
    }
    if filters.is_empty() {
        return Err(Fault::protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(ClientPacket::Unsubscribe { packet_identifier, filters })
}

fn auth(mut reader: Reader, version: Version) -> Result<Auth, Fault> {
    if version == Version::V311 {
        return Err(Fault::protocol("MQTT 3.1.1 knows no AUTH"));
    }
    let (reason_code, properties) = reader.reason_and_properties(version, Holder::Auth)?;
    if !matches!(reason_code, reason::CONTINUE_AUTHENTICATION | reason::REAUTHENTICATE) {
        return Err(Fault::protocol("a client sends AUTH 0x18 or 0x19"));
    }
    let method = properties.authentication_method.ok_or(Fault::protocol("AUTH without a method"))?;
    Ok(Auth { reason_code, method, data: properties.authentication_data })
}

/// What holds properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Connect,
    Will,
    Publish,
    Ack,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Auth,
}

impl Holder {
    /// MQTT 5 table 2-4, as far as clients send them.
    fn may_hold(self, identifier: u8) -> bool {
        use property as p;
        if identifier == p::USER_PROPERTY {
            return true;
        }
        match self {
            Self::Connect => matches!(
                identifier,
                p::SESSION_EXPIRY_INTERVAL
                    | p::AUTHENTICATION_METHOD
                    | p::AUTHENTICATION_DATA
                    | p::REQUEST_PROBLEM_INFORMATION
                    | p::REQUEST_RESPONSE_INFORMATION
                    | p::RECEIVE_MAXIMUM
                    | p::TOPIC_ALIAS_MAXIMUM
                    | p::MAXIMUM_PACKET_SIZE
            ),
            Self::Will => identifier == p::WILL_DELAY_INTERVAL || is_of_a_message(identifier),
            Self::Publish => identifier == p::TOPIC_ALIAS || is_of_a_message(identifier),
            Self::Ack => identifier == p::REASON_STRING,
            Self::Subscribe => identifier == p::SUBSCRIPTION_IDENTIFIER,
            Self::Unsubscribe => false,
            Self::Disconnect => matches!(identifier, p::SESSION_EXPIRY_INTERVAL | p::REASON_STRING),
            Self::Auth => matches!(identifier, p::AUTHENTICATION_METHOD | p::AUTHENTICATION_DATA | p::REASON_STRING),
        }
    }
}

const fn is_of_a_message(identifier: u8) -> bool {
    matches!(
        identifier,
        property::PAYLOAD_FORMAT_INDICATOR
            | property::MESSAGE_EXPIRY_INTERVAL
            | property::CONTENT_TYPE
            | property::RESPONSE_TOPIC
            | property::CORRELATION_DATA
    )
}

/// The properties of one packet, as far as the front uses them.
#[derive(Default)]
struct Properties {
    session_expiry: Option<u32>,
    receive_maximum: Option<u16>,
    maximum_packet_size: Option<u32>,
    problem_information: Option<bool>,
    authentication_method: Option<Box<str>>,
    authentication_data: Option<Secret>,
    will_delay: Option<u32>,
    message_expiry: Option<u32>,
    topic_alias: Option<u16>,
    subscription_identifier: Option<u32>,
    forwarded: ForwardedProperties,
}

/// Reads a packet's body from the front.
struct Reader(Bytes);

const TOO_SHORT: Fault = Fault::malformed("packet ends too early");

impl Reader {
    fn u8(&mut self) -> Result<u8, Fault> {
        self.0.try_get_u8().map_err(|_| TOO_SHORT)
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        self.0.try_get_u16().map_err(|_| TOO_SHORT)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.0.try_get_u32().map_err(|_| TOO_SHORT)
    }

    fn packet_identifier(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::protocol("packet identifier 0")),
            identifier => Ok(identifier),
        }
    }

    fn binary(&mut self) -> Result<Bytes, Fault> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, Fault> {
        if self.0.remaining() < length { Err(TOO_SHORT) } else { Ok(self.0.split_to(length)) }
    }

    /// MQTT 5 section 1.5.4.
    fn string(&mut self) -> Result<Box<str>, Fault> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Fault::malformed("a string is not UTF-8"))?;
        if text.contains('\0') { Err(Fault::malformed("a string holds U+0000")) } else { Ok(text.into()) }
    }

    /// MQTT 5 section 1.5.5.
    fn variable_byte_integer(&mut self) -> Result<u32, Fault> {
        let mut value = 0_u32;
        for index in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return if byte == 0 && index > 0 {
                    Err(Fault::malformed("an integer not in its shortest form"))
                } else {
                    Ok(value)
                };
            }
        }
        Err(Fault::malformed("an integer of more than four bytes"))
    }

    fn end(&self) -> Result<(), Fault> {
        if self.0.has_remaining() { Err(Fault::malformed("bytes after the end of the packet")) } else { Ok(()) }
    }

    /// A packet that may end before its reason code and before its properties (MQTT 5 sections 3.4.2.1, 3.14.2.1, 3.15.2.1).
    fn reason_and_properties(&mut self, version: Version, holder: Holder) -> Result<(u8, Properties), Fault> {
        if version == Version::V311 || !self.0.has_remaining() {
            self.end()?;
            return Ok((reason::SUCCESS, Properties::default()));
        }
        let reason_code = self.u8()?;
        if !self.0.has_remaining() {
            return Ok((reason_code, Properties::default()));
        }
        let properties = self.properties(version, holder)?;
        self.end()?;
        Ok((reason_code, properties))
    }

    fn properties(&mut self, version: Version, holder: Holder) -> Result<Properties, Fault> {
        if version == Version::V311 {
            return Ok(Properties::default());
        }
        let length = self.variable_byte_integer()? as usize;
        let mut reader = Self(self.take(length)?);
        let all = reader.0.clone();
        let mut properties = Properties::default();
        let mut user_properties = 0;
        let mut seen = 0_u64;
        // Runs of properties that are passed on; one run, the usual case, needs no copy.
        let mut forwarded: Vec<Bytes> = Vec::new();
        while reader.0.has_remaining() {
            let start = all.len() - reader.0.len();
            // Every identifier that the specification knows fits into one byte.
            let identifier = reader.u8()?;
            if !holder.may_hold(identifier) {
                return Err(Fault::malformed("a property that this packet does not hold"));
            }
            if identifier == property::USER_PROPERTY {
                user_properties += 1;
                if user_properties > MAX_USER_PROPERTIES {
                    return Err(Fault { code: reason::QUOTA_EXCEEDED, reason: "too many user properties" });
                }
            } else if seen & (1 << identifier) != 0 {
                return Err(Fault::protocol("a property twice"));
            } else {
                // All that `may_hold` lets through are below 64.
                seen |= 1 << identifier;
            }
            reader.property(identifier, &mut properties)?;
            if is_passed_on(identifier) {
                forwarded.push(all.slice(start..all.len() - reader.0.len()));
            }
        }
        properties.forwarded = ForwardedProperties::from_checked(match forwarded.as_slice() {
            [] => Bytes::new(),
            [only] => only.clone(),
            [..] => forwarded.concat().into(),
        });
        Ok(properties)
    }

    fn property(&mut self, identifier: u8, properties: &mut Properties) -> Result<(), Fault> {
        match identifier {
            property::SESSION_EXPIRY_INTERVAL => properties.session_expiry = Some(self.u32()?),
            property::RECEIVE_MAXIMUM => match self.u16()? {
                0 => return Err(Fault::protocol("receive maximum 0")),
                maximum => properties.receive_maximum = Some(maximum),
            },
            property::MAXIMUM_PACKET_SIZE => match self.u32()? {
                0 => return Err(Fault::protocol("maximum packet size 0")),
                size => properties.maximum_packet_size = Some(size),
            },
            property::REQUEST_PROBLEM_INFORMATION => properties.problem_information = Some(self.boolean()?),
            property::AUTHENTICATION_METHOD => properties.authentication_method = Some(self.string()?),
            property::AUTHENTICATION_DATA => properties.authentication_data = Some(Secret(self.binary()?)),
            property::WILL_DELAY_INTERVAL => properties.will_delay = Some(self.u32()?),
            property::MESSAGE_EXPIRY_INTERVAL => properties.message_expiry = Some(self.u32()?),
            property::TOPIC_ALIAS => properties.topic_alias = Some(self.u16()?),
            property::SUBSCRIPTION_IDENTIFIER => match self.variable_byte_integer()? {
                0 => return Err(Fault::protocol("subscription identifier 0")),
                identifier => properties.subscription_identifier = Some(identifier),
            },
            property::RESPONSE_TOPIC => {
                let topic = self.binary()?;
                TopicName::from_bytes(&topic).map_err(|_| Fault::protocol("response topic"))?;
            }
            property::USER_PROPERTY => {
                self.string()?;
                self.string()?;
            }
            property::PAYLOAD_FORMAT_INDICATOR | property::REQUEST_RESPONSE_INFORMATION => {
                self.boolean()?;
            }
            property::CONTENT_TYPE | property::REASON_STRING => {
                self.string()?;
            }
            property::CORRELATION_DATA => {
                self.binary()?;
            }
            property::TOPIC_ALIAS_MAXIMUM => {
                self.u16()?;
            }
            _ => return Err(Fault::malformed("unknown property")),
        }
        Ok(())
    }

    fn boolean(&mut self) -> Result<bool, Fault> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::protocol("a flag that is neither 0 nor 1")),
        }
    }
}

const fn is_passed_on(identifier: u8) -> bool {
    matches!(
        identifier,
        property::PAYLOAD_FORMAT_INDICATOR
            | property::CONTENT_TYPE
            | property::RESPONSE_TOPIC
            | property::CORRELATION_DATA
            | property::USER_PROPERTY
    )
}
