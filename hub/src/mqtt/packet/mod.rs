//! MQTT 3.1.1 and 5 packets as a server reads and writes them.

pub mod property;
