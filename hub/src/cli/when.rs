//! How times look to people: the reader's time zone, and how long ago.

use hearthkey_core::UnixTime;
use jiff::{Timestamp, tz::TimeZone};

/// Now, and the reader's time zone.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    now: UnixTime,
    zone: TimeZone,
}

impl Clock {
    pub(super) fn system() -> Self {
        Self { now: crate::clock::now(), zone: TimeZone::system() }
    }

    /// Now.
    pub(super) fn now(&self) -> UnixTime {
        self.now
    }

    /// `2026-08-01T12:03:04+02:00`.
    pub(super) fn moment(&self, at: UnixTime) -> String {
        self.format(at, "%Y-%m-%dT%H:%M:%S%:z")
    }

    /// `12:03:04`.
    pub(super) fn time_of_day(&self, at: UnixTime) -> String {
        self.format(at, "%H:%M:%S")
    }

    /// `3 min ago`, `in 15 min`.
    pub(super) fn relative(&self, at: UnixTime) -> String {
        let (ahead, behind) = (at.since(self.now).0, self.now.since(at).0);
        match (ahead, behind) {
            (0, 0..=2) | (1..=2, _) => "now".to_owned(),
            (0, ago) => format!("{} ago", span(ago)),
            (ahead, _) => format!("in {}", span(ahead)),
        }
    }

    /// `2026-08-01T12:03:04+02:00 (3 min ago)`.
    pub(super) fn full(&self, at: UnixTime) -> String {
        format!("{} ({})", self.moment(at), self.relative(at))
    }

    fn format(&self, at: UnixTime, format: &str) -> String {
        match i64::try_from(at.0).ok().and_then(|second| Timestamp::from_second(second).ok()) {
            Some(timestamp) => timestamp.to_zoned(self.zone.clone()).strftime(format).to_string(),
            None => format!("{} s after 1970", at.0),
        }
    }
}

/// A span in its largest whole unit: enough to judge by.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
impl Clock {
    /// A clock that stands, in UTC.
    pub(super) fn standing(now: u64) -> Self {
        Self { now: UnixTime(now), zone: TimeZone::UTC }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_with_their_zone_and_how_long_ago() {
        let clock = Clock::standing(1_780_000_000);
        assert_eq!(clock.full(UnixTime(1_780_000_000 - 185)), "2026-05-28T20:23:35+00:00 (3 min ago)");
        assert_eq!(clock.relative(UnixTime(1_780_000_000 + 900)), "in 15 min");
        assert_eq!(clock.relative(UnixTime(1_780_000_000)), "now");
        assert_eq!(clock.relative(UnixTime(1_780_000_000 - 90_000)), "25 h ago");
        assert_eq!(clock.relative(UnixTime(0)), "20601 days ago");
    }

    #[test]
    fn a_time_beyond_the_calendar_is_told_all_the_same() {
        assert_eq!(Clock::standing(0).moment(UnixTime(u64::MAX)), "18446744073709551615 s after 1970");
    }
}
