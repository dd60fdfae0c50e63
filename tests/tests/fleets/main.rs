//! Fleets of real agents against the real hub: as a library in somebody's test, as a program, through a bad network,
//! and under attack.
#![allow(clippy::unwrap_used)]

mod ending;
mod readme;
mod refusals;
mod stories;
mod virtual_time;
