//! Fleets of simulated thermostats that run the real agent over real sockets and TLS.
//!
//! Owns this host as a device's platform and the threads that devices run on; the thermostat itself is `hearthkey-thermostat`. Speaks to a hub over the network only, and knows nothing of how one works.

mod application;
mod device;
mod enrolment;
mod event;
mod fleet;
mod host;
mod storage;
mod summary;

pub use device::DeviceOptions;
pub use enrolment::EnrolmentString;
pub use event::{EVENT_BACKLOG, Events, SimEvent, SimEventKind};
pub use fleet::{DeviceHandle, Fleet, FleetOptions, PublishError};
pub use hearthkey_agent::{Backoff, Config, EnrolmentStringError};
pub use storage::{Storage, StorageError};
pub use summary::{Latency, Summary};
