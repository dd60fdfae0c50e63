//! Application messages as the front passes them on, and the properties of MQTT 5 that travel with them.
//! Knows nothing of who may see them.

use bytes::{BufMut, Bytes, BytesMut};
use hearthkey_core::{UnixTime, topic::TopicName};

/// Quality of service (MQTT 5 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// From two bits of a packet; 3 is malformed.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A message without its topic: what is published.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The payload.
    pub payload: Bytes,
    /// How surely it is to arrive.
    pub qos: QoS,
    /// Whether it is kept for later subscribers. An empty payload then removes what was kept.
    pub retain: bool,
    /// When it is no longer worth delivering.
    pub expires_at: Option<UnixTime>,
    /// Properties that are passed on unaltered.
    pub properties: ForwardedProperties,
}

/// A message on its way: what subscribers are handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Where it was published.
    pub topic: TopicName,
    /// What was published.
    pub message: Message,
    /// The session that published it, for the no-local option; none for the hub.
    pub publisher: Option<u64>,
    /// The sessions, in order, that got it into their queues when it was published: what the fabric brings them of it would
    /// be a second copy. Decided once, so that it stays true if a subscription is replaced while the message is on its way.
    pub queued_for: Box<[u64]>,
}

/// The properties of PUBLISH that a server passes on: payload format indicator, content type, response topic, correlation
/// data and user properties, encoded as in the packet (MQTT 5 section 3.3.2.3), without their length.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ForwardedProperties(Bytes);

impl ForwardedProperties {
    /// From bytes that the decoder has checked.
    pub(crate) const fn from_checked(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// The encoded properties.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a user property; a name or value beyond 65,535 bytes is left out.
    #[must_use]
    pub fn with_user_property(self, name: &str, value: &str) -> Self {
        let (Ok(name_length), Ok(value_length)) = (u16::try_from(name.len()), u16::try_from(value.len())) else {
            return self;
        };
        let mut encoded = BytesMut::with_capacity(self.0.len() + 5 + name.len() + value.len());
        encoded.put_slice(&self.0);
        encoded.put_u8(crate::mqtt::packet::property::USER_PROPERTY);
        encoded.put_u16(name_length);
        encoded.put_slice(name.as_bytes());
        encoded.put_u16(value_length);
        encoded.put_slice(value.as_bytes());
        Self(encoded.freeze())
    }
}

impl Message {
    /// A QoS 1 message that is not kept and does not expire.
    #[must_use]
    pub fn at_least_once(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), qos: QoS::AtLeastOnce, ..Self::default() }
    }

    /// The same, to be dropped after a time.
    #[must_use]
    pub fn expiring_at(self, expires_at: UnixTime) -> Self {
        Self { expires_at: Some(expires_at), ..self }
    }

    /// The same, kept for later subscribers.
    #[must_use]
    pub fn retained(self) -> Self {
        Self { retain: true, ..self }
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// The same; the time is asked for only if it matters.
    pub(crate) fn is_expired_by(&self, now: impl FnOnce() -> UnixTime) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now())
    }
}

impl Routed {
    /// What it counts against byte bounds: content and a share of bookkeeping.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.topic.as_str().len()
            + self.message.payload.len()
            + self.message.properties.as_bytes().len()
            + 8 * self.queued_for.len()
            + 96
    }
}
