//! The MQTT front over real sockets, with a gate made by hand: each story and its opposite.
#![allow(clippy::unwrap_used)]

mod admission;
mod bad_input;
mod denials;
mod ends;
mod exactly_once;
mod foreign_clients;
mod limits;
mod messages;
mod possession;
mod queues;
mod replacing;
mod router_death;
mod sessions;
mod shared;
pub(crate) mod support;
mod tls;
mod vectors;
mod wills;
