//! The statements of the specifications once more, on rumqttd's router: the helpers know this program by its name.

#[path = "mqtt_conformance/main.rs"]
mod mqtt_conformance;

use mqtt_conformance::{peer, support};
