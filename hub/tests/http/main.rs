//! The HTTP side of a real hub: real TLS, a real store in a temporary directory, clients that we did not write.

mod api;
mod commands;
mod connections;
mod home;
mod hostile;
mod metrics;
mod register;
mod revoked_meanwhile;
mod streams;
mod token;
mod websocket;
