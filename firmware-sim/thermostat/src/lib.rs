//! A thermostat and the room that it heats, for a host and for a microcontroller: no allocator, no clock, no network.
//!
//! Owns the heat model ([`heat`]), what a thermostat is, says and obeys ([`thermostat`]), and when it says it
//! ([`reporting`]). Knows nothing of MQTT, hubs or boards: an agent's application asks it.
#![no_std]

#[cfg(test)]
extern crate std;

mod hundredths;

pub mod heat;
pub mod reporting;
pub mod thermostat;

pub use hundredths::Hundredths;
pub use reporting::{Published, Reporting};
pub use thermostat::{Rejection, State, TemperatureReading, Thermostat};
