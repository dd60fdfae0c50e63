//! Fleets of simulated thermostats that run the real agent over real sockets and TLS.
//!
//! Owns the heat model ([`heat`]), the thermostat's application ([`thermostat`]) and where a device on this host keeps
//! its records. Speaks to a hub over the network only, and knows nothing of how one works.

mod enrolment;
pub mod heat;
mod storage;
pub mod thermostat;

pub use enrolment::{EnrolmentString, InvalidEnrolmentString};
pub use storage::{Storage, StorageError};
