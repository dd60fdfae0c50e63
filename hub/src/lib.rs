//! The hub of a home: authorization server, device registry and MQTT front in one.
//!
//! This crate is the shell: it reads clocks, sockets and files and performs what `hearthkey-core` decides.

pub mod approvals;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod enrolment_string;
pub mod entropy;
pub mod gate;
pub mod http;
pub mod hub;
pub mod mqtt;
pub mod passwords;
pub mod server;
pub mod signing_key;
mod simulate;
pub mod store;
pub mod sys_topics;
pub mod throttle;
pub mod tls;
pub mod up;
