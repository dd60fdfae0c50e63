//! MQTT clients that we did not write, paho-mqtt, mqtt.js and rumqttc, at a whole hub: each story in both dialects, over TLS and
//! WebSocket, and those of MQTT 5 between two of them.
#![allow(clippy::unwrap_used)]

mod foreign;
mod mqtt_5;
mod stories;
