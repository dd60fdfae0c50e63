//! MQTT 5 for one device, without sockets: packets ([`codec`]) and the session that outlives connections ([`session`]).
//! Knows nothing of tokens, commands or TLS.

pub mod codec;
mod property;
pub mod reason;
pub mod session;

/// The longest packet that the hub may send us (our Maximum Packet Size): a command of 1024 bytes, or a token response of
/// 1024 bytes, with topic and properties.
pub const MAX_INCOMING_PACKET: usize = 2048;
/// The longest packet that we send: a CONNECT with a token request, will and names.
pub const MAX_OUTGOING_PACKET: usize = 1280;
/// The longest topic that we publish to: `dev/<32>/ack/<40>` and some air.
pub const MAX_TOPIC: usize = 96;
/// The most levels of a topic that the hub takes.
pub const MAX_TOPIC_LEVELS: usize = 32;
/// The longest payload that we publish.
pub const MAX_PAYLOAD: usize = 512;
/// How many QoS 1 publishes of the hub may wait for our acknowledgement (our Receive Maximum). One: a command needs places for
/// its answers, and the acknowledgement of the one before says that there are some.
pub const RECEIVE_MAXIMUM: u16 = 1;
