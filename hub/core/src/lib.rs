//! What the hub decides: identities, permissions, tokens, registry, sessions.
//!
//! Everything here takes bytes, time and randomness as arguments and returns what should happen. It owns policy and
//! refuses to know sockets, files, clocks, entropy, sled and rumqttd; `hub/` is the shell that performs.

pub mod device_id;
pub mod limits;
pub mod profile;
pub mod rights;
pub mod scope;
pub mod session;
pub mod time;
pub mod topic;
pub mod write;

pub use device_id::DeviceId;
pub use time::{Seconds, UnixTime};
