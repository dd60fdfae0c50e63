//! Fleets of simulated thermostats that run the real agent over real sockets and TLS.
//!
//! Owns the heat model ([`heat`]), the thermostat's application ([`thermostat`]), this host as a device's platform
//! and the threads that devices run on. Speaks to a hub over the network only, and knows nothing of how one works.

mod application;
mod device;
mod enrolment;
mod event;
mod fleet;
pub mod heat;
mod host;
mod storage;
mod summary;
pub mod thermostat;

pub use device::DeviceOptions;
pub use enrolment::EnrolmentString;
pub use event::{EVENT_BACKLOG, Events, SimEvent, SimEventKind};
pub use fleet::{DeviceHandle, Fleet, FleetOptions, PublishError};
pub use hearthkey_agent::{Backoff, Config, EnrolmentStringError};
pub use storage::{Storage, StorageError};
pub use summary::{Latency, Summary};
