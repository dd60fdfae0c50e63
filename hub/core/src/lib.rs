//! What the hub decides: identities, permissions, tokens, registry, sessions.
//!
//! Everything here takes bytes, time and randomness as arguments and returns what should happen. It owns policy and
//! refuses to know sockets, files, clocks, entropy, sled and rumqttd; `hub/` is the shell that performs.

pub mod audit;
pub mod audit_flood;
pub mod claims;
pub mod device_authorization;
pub mod device_id;
pub mod hex;
pub mod jwt;
pub mod limits;
pub mod network;
pub mod oauth;
pub mod profile;
pub mod registry;
pub mod rights;
pub mod scope;
pub mod secret;
pub mod session;
pub mod time;
pub mod topic;
pub mod write;

pub use device_id::DeviceId;
pub use time::{Seconds, UnixTime};
