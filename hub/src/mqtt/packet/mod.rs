//! MQTT 3.1.1 and 5 packets as a server reads and writes them: framing, decoding of what clients send, encoding of what they
//! get. Pure; checks all that the specifications call malformed. Knows nothing of sessions and rights.
//!
//! rumqttd's own codec stays unused: it takes passwords for UTF-8, knows no AUTH, hides packet identifiers and QoS, ignores
//! trailing bytes and panics on packets that only a server may send.

pub mod decode;
pub mod encode;
pub mod frame;
pub mod property;
pub mod reason;

use super::message::{Message, QoS};
use bytes::Bytes;
use hearthkey_core::topic::{InvalidTopic, SubscriptionFilter, TopicName};
use std::fmt;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// What the peer did wrong: the reason code of MQTT 5 and a few words for its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// The reason code (MQTT 5 section 2.4).
    pub code: u8,
    /// What is wrong.
    pub reason: &'static str,
}

impl Fault {
    /// A packet that breaks its format.
    #[must_use]
    pub const fn malformed(reason: &'static str) -> Self {
        Self { code: reason::MALFORMED_PACKET, reason }
    }

    /// A well-formed packet that may not come here or hold this.
    #[must_use]
    pub const fn protocol(reason: &'static str) -> Self {
        Self { code: reason::PROTOCOL_ERROR, reason }
    }
}

/// A packet from a client, after CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientPacket {
    /// A second CONNECT; always an error.
    Connect,
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK.
    PubAck {
        /// Which of our publishes.
        packet_identifier: u16,
        /// 0x80 and above: the client refuses the message.
        reason_code: u8,
    },
    /// PUBREC.
    PubRec {
        /// Which of our publishes.
        packet_identifier: u16,
        /// 0x80 and above: the client refuses the message.
        reason_code: u8,
    },
    /// PUBREL.
    PubRel {
        /// Which of the client's publishes.
        packet_identifier: u16,
        /// 0x92: the client does not know it.
        reason_code: u8,
    },
    /// PUBCOMP.
    PubComp {
        /// Which of our publishes.
        packet_identifier: u16,
        /// 0x92: the client does not know it.
        reason_code: u8,
    },
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// UNSUBSCRIBE.
    Unsubscribe {
        /// To be answered with.
        packet_identifier: u16,
        /// As the client wrote them.
        filters: Vec<Result<SubscriptionFilter, InvalidTopic>>,
    },
    /// PINGREQ.
    PingReq,
    /// DISCONNECT.
    Disconnect {
        /// 0x00 suppresses the will.
        reason_code: u8,
        /// A new Session Expiry Interval.
        session_expiry: Option<u32>,
    },
    /// AUTH.
    Auth(Auth),
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// The protocol.
    pub version: Version,
    /// Whether an earlier session is to be forgotten: Clean Start, Clean Session.
    pub clean_start: bool,
    /// Seconds; 0 means no keep alive.
    pub keep_alive: u16,
    /// How long the session is kept after the connection, in seconds; `u32::MAX` means for ever.
    pub session_expiry: u32,
    /// Unacknowledged QoS 1 and 2 publishes that the client takes at a time; at least 1.
    pub receive_maximum: u16,
    /// Largest packet that the client takes.
    pub maximum_packet_size: u32,
    /// Whether reason strings and user properties may be sent on all packets.
    pub problem_information: bool,
    /// Authentication method.
    pub authentication_method: Option<Box<str>>,
    /// Authentication data.
    pub authentication_data: Option<Secret>,
    /// Client identifier, possibly empty.
    pub client_identifier: Box<str>,
    /// What is published when the connection is lost.
    pub will: Option<Will>,
    /// User name.
    pub user_name: Option<Box<str>>,
    /// Password.
    pub password: Option<Secret>,
}

/// The will of a CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where.
    pub topic: TopicName,
    /// What; without expiry, since that counts from publication.
    pub message: Message,
    /// Its Message Expiry Interval in seconds.
    pub expiry: Option<u32>,
    /// Will Delay Interval in seconds.
    pub delay: u32,
}

/// Bytes that never show: passwords, assertions.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// PUBLISH from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Whether it may be a repetition.
    pub dup: bool,
    /// To be answered with; none for QoS 0.
    pub packet_identifier: Option<u16>,
    /// The topic as it came: not yet parsed, empty if an alias stands for it.
    pub topic: Bytes,
    /// Topic alias.
    pub topic_alias: Option<u16>,
    /// Message Expiry Interval in seconds.
    pub expiry: Option<u32>,
    /// What is published; without expiry, which is relative in the packet.
    pub message: Message,
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// To be answered with.
    pub packet_identifier: u16,
    /// Subscription Identifier, for each delivery.
    pub identifier: Option<u32>,
    /// What is subscribed to.
    pub requests: Vec<SubscribeRequest>,
}

/// One line of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// The filter, or why it is none.
    pub filter: Result<SubscriptionFilter, InvalidTopic>,
    /// How it is to be delivered.
    pub options: SubscriptionOptions,
}

/// Subscription Options (MQTT 5 section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Highest QoS of deliveries.
    pub qos: QoS,
    /// Not what the session itself publishes.
    pub no_local: bool,
    /// Deliver with the RETAIN flag of the publisher.
    pub retain_as_published: bool,
    /// Whether kept messages are sent.
    pub retain_handling: RetainHandling,
}

/// Whether kept messages are sent on SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainHandling {
    /// Always.
    Send,
    /// Only if the subscription did not exist.
    SendIfNew,
    /// Never.
    DoNotSend,
}

/// AUTH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// 0x18 continue or 0x19 re-authenticate.
    pub reason_code: u8,
    /// Authentication method.
    pub method: Box<str>,
    /// Authentication data.
    pub data: Option<Secret>,
}
