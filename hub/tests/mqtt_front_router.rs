//! The stories of the MQTT front once more, on rumqttd's router: its helpers know this program by its name.

#[path = "mqtt_front/main.rs"]
mod mqtt_front;

use mqtt_front::support;
