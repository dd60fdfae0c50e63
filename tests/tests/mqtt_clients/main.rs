//! MQTT clients that we did not write, paho-mqtt and mqtt.js, at a whole hub: each story in both dialects, over TLS and WebSocket.
#![allow(clippy::unwrap_used)]

mod foreign;
mod stories;
