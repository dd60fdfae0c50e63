//! Every bound of the MQTT front, each with its reason and what happens there.

use hearthkey_core::{
    Seconds,
    limits::{MAX_PENDING_COMMANDS_PER_DEVICE, MAX_TOPIC_LEVELS},
};
use std::time::Duration;

/// The bounds that an owner may change: `[limits]` in the configuration, docs/limits.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most connections that were admitted; a further CONNECT is refused with 0x89 (server busy).
    pub max_connections: usize,
    /// Most connections of one principal; a further CONNECT is refused with 0x97.
    pub max_connections_per_principal: usize,
    /// CONNECTs of one device in a minute, as many at once; a further one is refused with 0x9F, after a second.
    pub device_connects_per_minute: u32,
    /// The same for a user or an integration, over all their programs.
    pub connects_per_minute: u32,
    /// Access tokens that one client gets a minute, by MQTT and by HTTP, and at once; beyond that `slow_down`.
    pub tokens_per_minute: u32,
    /// Longest keep alive of an MQTT 5 client, in seconds: a longer one, or none, is replaced by this and told in CONNACK. 65,535
    /// lets clients choose.
    pub max_keep_alive: u16,
    /// Most connections without a finished CONNECT; at the bound the oldest of the source that has most is closed, so that a
    /// newcomer gets its chance and nobody pays for another's crowd.
    pub max_half_open: usize,
    /// How long TLS handshake and CONNECT may take together; then the connection is closed.
    pub connect_timeout: Duration,
    /// Largest packet that is accepted, in bytes: announced to MQTT 5 clients; a larger one ends the connection with 0x95.
    pub max_packet_bytes: usize,
    /// Most QoS 1 and 2 publishes of one client without PUBACK or PUBCOMP: announced as Receive Maximum; more end the connection with 0x93.
    pub receive_maximum: u16,
    /// Most QoS 1 and 2 messages on their way to one client, whatever Receive Maximum it allows: bounds memory.
    pub max_in_flight: u16,
    /// Most subscriptions of one session; a further one is refused with 0x97.
    pub max_subscriptions: usize,
    /// Most levels of a topic or filter; a deeper topic ends the connection with 0x90, a deeper filter is refused with 0x8F.
    pub max_topic_levels: usize,
    /// Most messages that wait for one session; at the bound a kept session loses the oldest, which is recorded.
    pub max_queued_messages: usize,
    /// Most bytes of messages that wait for one session; same consequence.
    pub max_queued_bytes: usize,
    /// Most kept sessions; at the bound a new session is not kept beyond its connection, and told so in CONNACK.
    pub max_kept_sessions: usize,
    /// Most kept sessions of one principal; same consequence.
    pub max_kept_sessions_per_principal: usize,
    /// Longest Session Expiry Interval; a longer one is shortened, and told so in CONNACK. Also what MQTT 3.1.1 gets.
    pub max_session_expiry: Seconds,
    /// How long the hub, when it starts again, waits for those who were connected before it publishes their wills.
    pub will_grace: Duration,
    /// Most retained messages; a further topic is refused with 0x97.
    pub max_retained_messages: usize,
    /// Most bytes of retained messages; same consequence.
    pub max_retained_bytes: usize,
    /// Most retained messages of one principal; a further topic is refused with 0x97. The hub's own are on nobody's account.
    pub max_retained_messages_per_principal: usize,
    /// Most bytes of retained messages of one principal; same consequence.
    pub max_retained_bytes_per_principal: usize,
    /// Publishes per second of one principal, over all its connections; beyond the burst it is read no faster than this. A
    /// filter in SUBSCRIBE or UNSUBSCRIBE counts as one, in SUBSCRIBE as one more for each [`RETAINED_PER_PUBLISH`] retained messages.
    pub publish_rate: u32,
    /// Publishes that may come at once.
    pub publish_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A home has fewer than 500 devices; owners' programs come on top.
            max_connections: 5_000,
            // A home server's programs under one key.
            max_connections_per_principal: 256,
            // One that works connects a few times an hour; a crash loop or two devices of one name, without end.
            device_connects_per_minute: 60,
            // Scripts that connect for each message.
            connects_per_minute: 600,
            // A device with one session needs one in some minutes.
            tokens_per_minute: 60,
            max_keep_alive: u16::MAX,
            // More than the thousand that a worm-ridden camera opens.
            max_half_open: 2_048,
            // A P-256 handshake on a Cortex-M4 takes about two seconds.
            connect_timeout: Duration::from_secs(15),
            // A camera's snapshot; telemetry is a thousandth of it.
            max_packet_bytes: 256 * 1024,
            receive_maximum: 64,
            max_in_flight: 256,
            // A home automation server subscribes to some dozens of filters.
            max_subscriptions: 128,
            max_topic_levels: MAX_TOPIC_LEVELS,
            max_queued_messages: 1_000,
            max_queued_bytes: 1024 * 1024,
            max_kept_sessions: 1_024,
            // A device has one or two, an owner's programs some.
            max_kept_sessions_per_principal: 64,
            max_session_expiry: Seconds::days(7),
            // A device that was refused for long tries again within 60 s; then come TLS and CONNECT.
            will_grace: Duration::from_secs(75),
            max_retained_messages: 10_000,
            max_retained_bytes: 16 * 1024 * 1024,
            // A bridge's discovery of a hundred devices; a stolen credential takes a tenth of what all share.
            max_retained_messages_per_principal: 1_024,
            // Eight snapshots of the largest kind.
            max_retained_bytes_per_principal: 2 * 1024 * 1024,
            // Telemetry of a home server's bridge; a device sends one a second.
            publish_rate: 5_000,
            publish_burst: 10_000,
        }
    }
}

/// How long the refusal of who connects too often is held back.
pub const RATE_REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// Largest packet before admission: a token request of 4 KiB, a will, names.
pub const MAX_CONNECT_BYTES: usize = 16 * 1024;
/// Longest client identifier: a device id, a slash and a suffix.
pub const MAX_CLIENT_IDENTIFIER_BYTES: usize = 128;
/// Retained messages that are looked through for a filter with wildcards at the price of one publish.
pub const RETAINED_PER_PUBLISH: usize = 64;
/// Most filters in one SUBSCRIBE or UNSUBSCRIBE: bounds the work of one packet.
pub const MAX_FILTERS_PER_PACKET: usize = 256;
/// How often the fabric may die while a connection subscribes anew; then the connection ends with 0x88.
pub const MAX_FABRIC_DEATHS_IN_A_ROW: usize = 10;
/// Most members of one shared subscription: bounds the work of one publish. A further one is refused with 0x97.
pub const MAX_GROUP_MEMBERS: usize = 128;
/// Topic aliases of one connection: announced as Topic Alias Maximum. A device publishes to a dozen topics.
pub const MAX_TOPIC_ALIASES: u16 = 32;
/// Most user properties in one packet: bounds the work of one packet.
pub const MAX_USER_PROPERTIES: usize = 64;
/// Bytes that wait for a client's socket before the front stops taking messages for it.
pub const OUTBOX_HIGH_WATER: usize = 64 * 1024;
/// Most memory of answers that wait for a client's socket, beside the largest message: their bytes, and eight for each. A client
/// that asks without reading is cut with 0x97.
pub const OUTBOX_LIMIT: usize = 1024 * 1024;
/// Most commands that a session remembers to have got because they waited: those of a gateway with sixteen children. It forgets
/// the oldest, which may then come once more if it is published only now.
pub const MAX_OFFERED_COMMANDS: usize = 16 * MAX_PENDING_COMMANDS_PER_DEVICE;
/// How long a connection lingers after DISCONNECT, so that a reset does not destroy the reason on its way.
pub const LINGER: Duration = Duration::from_secs(1);
/// Denials of one connection that are recorded in a second; more are counted only.
pub const DENIALS_PER_SECOND: u32 = 10;
/// Bytes of rows that wait for the disk before publishers are slowed down: a connection is not read while it has more on its
/// way than its share of as much again.
pub const PERSIST_BACKLOG_BYTES: usize = 8 * 1024 * 1024;
/// Most rows handed to the store as one batch: what it takes.
pub const PERSIST_BATCH_ROWS: usize = 512;
/// Most bytes handed to the store as one batch: what it takes.
pub const PERSIST_BATCH_BYTES: usize = 1 << 20;
/// Largest part of a message in one stored row: the store takes 4,096 bytes.
pub const ROW_CHUNK_BYTES: usize = 4_000;
/// Events that wait for the router's thread before publishers are slowed down; its channel holds 1,000 and then blocks.
pub const ROUTER_EVENTS_HIGH_WATER: usize = 800;
/// Bytes of one segment of a filter's log in the router. The router keeps a log for as many filters as were in use at one
/// time, full to this or twice this, whether or not anybody lags behind.
pub const ROUTER_SEGMENT_BYTES: usize = 256 * 1024;
/// Segments of a filter's log: what a slow reader can lag behind before it loses messages.
pub const ROUTER_SEGMENTS: usize = 2;
/// Bytes that the router has not begun to handle before publishers are slowed down.
pub const ROUTER_UNHANDLED_BYTES: usize = 1024 * 1024;
/// Messages that are kept for subscribers whose router dies. It takes them some 100 ms to find another; what is published
/// beyond this in that time is lost to them, and told.
pub const ROUTER_REPLAY_MESSAGES: usize = 16 * 1024;
/// Bytes of such messages; same consequence.
pub const ROUTER_REPLAY_BYTES: usize = 4 * 1024 * 1024;
/// How often the router's watchdog sends a message through it.
pub const ROUTER_WATCH_EVERY: Duration = Duration::from_secs(10);
/// Messages that wait for one link of the native fabric; then the oldest go, and the link is told. Holds what one publisher
/// may send between two turns of a subscriber that reads.
pub const NATIVE_QUEUE_MESSAGES: usize = 2_048;
/// Bytes of messages that wait for one link of the native fabric; same consequence. As much again may have been taken by the
/// connection and wait for its socket.
pub const NATIVE_QUEUE_BYTES: usize = 1024 * 1024;
/// Longest time that the router may take for an answer before it counts as dead.
pub const ROUTER_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often somebody who waits for the router's answer looks whether it is still alive.
pub const ROUTER_LIFE_CHECK: Duration = Duration::from_millis(10);
