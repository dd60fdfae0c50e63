//! The agent that runs on a device: identity, tokens and one MQTT session, without an allocator.
//!
//! A device [enrols](enrol) once with a string from its owner. From then on its [`Agent`] proves possession of its key,
//! gets short-lived access tokens and keeps one MQTT 5 session with the home's hub, all over one TLS 1.3 connection
//! (docs/protocol.md). Two things are yours: a [`Platform`] (clock, entropy, storage, network) and an [`Application`].
//!
//! ```
//! use hearthkey_agent::*;
//!
//! struct Lamp { on: bool, next: Instant }
//!
//! impl Application for Lamp {
//!     fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
//!         out.push(br#"{"model":"lamp","commands":["set"]}"#)
//!     }
//!     fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn {
//!         if now.instant >= self.next && outbox.is_online() {
//!             self.next = now.instant.after(core::time::Duration::from_secs(60));
//!             let _ = outbox.telemetry("on", if self.on { b"true" } else { b"false" }, Qos::AtLeastOnce);
//!         }
//!         Turn::At(self.next)
//!     }
//!     fn command(&mut self, command: &Command<'_>, _: Now) -> Reply {
//!         match (command.name(), command.args().and_then(|args| args.as_object()?.get("on")?.as_bool())) {
//!             ("set", Some(on)) => { self.on = on; Reply::Done(Outcome::Succeeded) }
//!             _ => Reply::Done(Outcome::rejected("only set {\"on\":true|false}")),
//!         }
//!     }
//! }
//!
//! async fn device(platform: &mut impl Platform, workspace: &mut Workspace, from_owner: &str) -> Result<Ended, EnrolError> {
//!     let identity = match Identity::load(platform)? {
//!         Some(identity) => identity,
//!         None => {
//!             let enrolment = Enrolment::parse(from_owner)?;
//!             enrol(platform, &enrolment, Software { id: "acme-lamp", version: "1.0.0" }, workspace).await?.identity
//!         }
//!     };
//!     let mut lamp = Lamp { on: false, next: platform.now() };
//!     let ended = Agent::new(identity, Config::DEFAULT).run(platform, &mut lamp, workspace).await;
//!     if ended == Ended::Revoked {
//!         // The next start enrols anew, with the string that it is given then.
//!         Identity::erase(platform).map_err(IdentityError::from)?;
//!     }
//!     Ok(ended)
//! }
//! ```
//!
//! Nothing here allocates, blocks, reads a clock or panics on input; whatever a peer may send is bounded, and the bounds
//! have names. Decisions live in pure code ([`mqtt`], `device`, `lifecycle`); `agent`, [`enrol`] and [`tls`] move bytes.
#![no_std]
// Without an allocator nothing can be boxed.
#![allow(clippy::large_enum_variant, clippy::result_large_err)]

#[cfg(test)]
extern crate std;

mod agent;
mod application;
mod buffer;
mod command;
mod der;
mod device;
mod diagnostics;
mod enrolment;
pub mod flash;
pub mod http;
mod identity;
mod join;
pub mod json;
pub mod keys;
mod lifecycle;
pub mod mqtt;
pub mod oauth;
mod platform;
#[cfg(feature = "sans-io")]
pub mod sans_io;
pub mod time;
pub mod tls;
mod workspace;

pub use agent::{Agent, Ended};
pub use application::{Application, Event, Farewell, MAX_REASON, Outbox, Outcome, Reply, Turn};
pub use buffer::{Buffer, BufferFull};
pub use command::{Command, CommandGate, CommandRefusal, MAX_COMMAND_ID, MAX_COMMAND_NAME, MAX_COMMAND_PAYLOAD, Refused};
pub use device::Config;
pub use enrolment::{EnrolError, Enrolled, Enrolment, EnrolmentStringError, MAX_ENROLMENT_STRING, Refusal, Software, enrol};
pub use identity::{DeviceKey, HubAddress, Identity, IdentityError, MAX_CLIENT_ID, MAX_HOST, MAX_ISSUER};
pub use join::{HubLocation, JoinCode, JoinError, Joining, MAX_DEVICE_CODE, join};
pub use lifecycle::{Awaited, Backoff, Ending, MAX_HUB_REASON};
pub use mqtt::codec::Qos;
pub use mqtt::reason::ReasonCode;
pub use mqtt::session::{NotQueued, PublishId};
pub use platform::{ConnectFailed, Platform, Record, StorageFailed, Transport};
pub use time::{Clock, Instant, Now, UnixTime};
pub use workspace::Workspace;
