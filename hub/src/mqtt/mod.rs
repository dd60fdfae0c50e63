//! The MQTT front: terminates MQTT 3.1.1 and 5, authorizes each CONNECT, PUBLISH, SUBSCRIBE and delivery, and keeps sessions.
//! Knows nothing of tokens, the registry or files: it asks a [`gate::Gate`].
//!
//! ```text
//! listener -> wire -> packet -> handshake -> connection -> session          per connection
//!                                                 |
//!                                               front: sessions, retained, direct queues -> persister -> Gate::persist
//!                                                 |
//!                                               fabric (fabric_chosen: fabric_router over rumqttd, or fabric_native)
//! ```
//!
//! Two ways lead from a publish to a subscriber. The fabric carries messages to those who are connected, and may die. What
//! a session that outlives its connection is promised (QoS 1 and 2) goes directly into its queue and is stored before the
//! publish is acknowledged, so it depends neither on the fabric nor on who is connected. Shared subscriptions
//! and commands take the direct way too.

mod challenge;
mod channels;
mod connection;
mod delivery;
mod direct;
pub mod fabric;
pub mod fabric_chosen;
pub mod fabric_native;
pub mod fabric_router;
pub mod front;
pub mod gate;
mod half_open;
mod handshake;
pub mod limits;
mod listener;
pub mod message;
pub mod packet;
mod persister;
mod publishing;
mod rate;
mod renewal;
mod retained;
mod rows;
pub mod session;
mod shared;
mod slot;
pub mod stats;
mod subscribing;
mod trie;
pub mod watch;
mod wills;
mod wire;

pub use fabric_chosen::FabricKind;
pub use front::{Front, PublishError};
pub use gate::Gate;
pub use limits::Limits;
pub use stats::Stats;
