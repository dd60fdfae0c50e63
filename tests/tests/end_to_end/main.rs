//! Stories from outside: the real hub in its own process, the real agent, and clients that we did not write.
#![allow(clippy::unwrap_used)]

mod accounts;
mod bad_input;
mod credentials;
mod curl_client;
mod durability;
mod joining;
mod mosquitto_clients;
mod rights;
mod rumqttc_clients;
mod twin;
mod up;
mod websocket;
mod whole_path;
