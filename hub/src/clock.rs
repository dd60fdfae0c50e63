//! The system clock: the one file that reads it.

use hearthkey_core::UnixTime;
use std::time::SystemTime;

/// The time by the system's clock; 1970 for a clock set before that.
#[must_use]
pub fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
