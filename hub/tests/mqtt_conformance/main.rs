//! One test for each normative statement of MQTT 5.0 and MQTT 3.1.1 that a server must keep, named after it: raw packets over
//! TCP to a real front. The first line of a test's description says which statements it holds, by specification; docs/conformance.md
//! is made of these lines and of the reasons in `index`.
#![allow(clippy::unwrap_used)]

mod connecting;
mod ending;
mod exactly_once;
mod index;
pub(crate) mod peer;
mod publishing;
mod session_state;
mod sharing;
mod strings;
mod subscribing;
#[path = "../mqtt_front/support.rs"]
pub(crate) mod support;
mod topics;
mod wills;
