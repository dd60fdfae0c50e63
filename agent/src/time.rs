//! Instants, dates, and the best date known. Reads no clock: the platform gives instants, the hub teaches dates.

use core::time::Duration;

/// A point on the device's monotonic clock, in milliseconds since an arbitrary start such as the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(u64);

impl Instant {
    /// The instant `millis` milliseconds after the clock's start.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the clock's start.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The instant `duration` later; stays at the end of time rather than wrap.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

const fn millis(duration: Duration) -> u64 {
    let millis = duration.as_millis();
    if millis > u64::MAX as u128 { u64::MAX } else { millis as u64 }
}

/// Seconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The time `seconds` after the epoch.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The time `seconds` later.
    #[must_use]
    pub const fn after_secs(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// A calendar date and time in UTC; `None` if a field is out of range or the year is before 1970.
    #[must_use]
    pub(crate) fn from_calendar(year: u64, month: u64, day: u64, hour: u64, minute: u64, second: u64) -> Option<Self> {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days_in_month = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        let in_range = (1970..=9999).contains(&year) && (1..=days_in_month).contains(&day);
        if !in_range || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        // Days from the civil calendar, counted in years that begin in March.
        let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let era_days = shifted_year / 400 * 146_097;
        let year_of_era = shifted_year % 400;
        let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
        let days = era_days + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
        Some(Self(days * 86_400 + hour * 3_600 + minute * 60 + second))
    }

    /// Reads the `Date` header of HTTP in its one modern form, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 5.6.7).
    #[must_use]
    pub fn from_http_date(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let separators = [(3, b','), (4, b' '), (7, b' '), (11, b' '), (16, b' '), (19, b':'), (22, b':')];
        if bytes.len() != 29 || !text.ends_with(" GMT") || separators.iter().any(|&(at, want)| bytes.get(at) != Some(&want)) {
            return None;
        }
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let month = MONTHS.iter().position(|name| text.get(8..11) == Some(name))? as u64 + 1;
        let number = |range: core::ops::Range<usize>| decimal(bytes.get(range)?);
        Self::from_calendar(number(12..16)?, month, number(5..7)?, number(17..19)?, number(20..22)?, number(23..25)?)
    }
}

/// A run of ASCII digits as a number; nothing else is accepted, not even a sign.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = u64::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?);
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Now, as far as the device knows: always a monotonic instant, and the date only once the hub told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic instant.
    pub instant: Instant,
    /// The date; `None` until the hub said it, never 1970.
    pub unix: Option<UnixTime>,
}

/// The best date known: what the hub last said, carried forward by the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    learnt: Option<(Instant, UnixTime)>,
}

impl Clock {
    /// A clock that knows no date.
    #[must_use]
    pub const fn unset() -> Self {
        Self { learnt: None }
    }

    /// Takes a date from an authenticated answer of the hub, received at `instant`.
    pub fn learn(&mut self, instant: Instant, date: UnixTime) {
        self.learnt = Some((instant, date));
    }

    /// Drops what was learnt, so that the next session asks the hub for the date.
    pub fn forget(&mut self) {
        self.learnt = None;
    }

    /// The instant with the date that belongs to it.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Now {
        let unix = self.learnt.map(|(then, date)| date.after_secs(instant.since(then).as_secs()));
        Now { instant, unix }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_date_is_read_to_the_second() {
        assert_eq!(UnixTime::from_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(UnixTime(784_111_777)));
        assert_eq!(UnixTime::from_http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(UnixTime(1_709_251_199)));
        assert_eq!(UnixTime::from_http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(UnixTime(0)));
    }

    #[test]
    fn a_date_that_does_not_exist_is_no_date() {
        for wrong in [
            "Thu, 30 Feb 2024 23:59:59 GMT",
            "Thu, 29 Feb 2023 23:59:59 GMT",
            "Thu, 29 Feb 2024 24:00:00 GMT",
            "Thu, 29 Fev 2024 23:00:00 GMT",
            "Thu, 29 Feb 2024 23:00:00 CET",
            "Thu, 29 Feb 2024 2+:00:00 GMT",
            "Thursday, 29-Feb-24 23:59:59 GMT",
            "",
        ] {
            assert_eq!(UnixTime::from_http_date(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_clock_carries_the_date_forward_and_never_invents_one() {
        let mut clock = Clock::unset();
        assert_eq!(clock.at(Instant::from_millis(5)).unix, None);
        clock.learn(Instant::from_millis(1_000), UnixTime(1_780_000_000));
        assert_eq!(clock.at(Instant::from_millis(61_999)).unix, Some(UnixTime(1_780_000_060)));
    }
}
