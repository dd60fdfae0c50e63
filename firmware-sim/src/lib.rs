//! Fleets of simulated thermostats that run the real agent over real sockets and TLS.
//!
//! In a test of your own, with the hub's program built beside it:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use hearthkey_sim::{Fleet, LocalHub};
//! # async fn test() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = LocalHub::start().await?;
//! let fleet = Fleet::builder().devices(20).owner(hub.owner()).start().await?;
//! fleet.everyone_online(Duration::from_secs(60)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Owns this host as a device's platform and the threads that devices run on; the thermostat itself is
//! `hearthkey-thermostat`. Speaks to a hub over the network only, and knows nothing of how one works.

mod application;
mod builder;
mod device;
mod enrolment;
mod event;
mod fleet;
mod handle;
mod host;
mod ledger;
mod local_hub;
mod owner;
#[cfg(feature = "scenarios")]
pub mod scenario;
mod storage;
mod summary;
#[cfg(feature = "scenarios")]
pub mod world;

pub use builder::{BuildError, FleetBuilder};
pub use device::DeviceOptions;
pub use enrolment::EnrolmentString;
pub use event::{EVENT_BACKLOG, Events, SimEvent, SimEventKind};
pub use fleet::{Fleet, FleetOptions, NotOnline};
pub use handle::{DeviceHandle, PublishError};
pub use hearthkey_agent::{Backoff, Config, EnrolmentStringError, HubLocation};
pub use ledger::Delivery;
pub use local_hub::{HUB_BINARY, LocalHub, LocalHubError};
pub use owner::{CommandEnd, Owner, OwnerError};
pub use storage::{Storage, StorageError};
pub use summary::{DeviceState, Latency, Summary, Window};
