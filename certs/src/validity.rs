//! When a certificate holds, and when it should be replaced. Knows no clock: the time is an argument.

use std::time::Duration;

use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

use crate::Error;

/// Every certificate begins this long before it is issued: a day forgives a peer's clock that is set to the wrong
/// time zone (at most 14 hours off) or has drifted.
pub const BACKDATED_BY: Duration = Duration::from_secs(24 * 60 * 60);

/// The first and the last second of a certificate, Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second, inclusive.
    pub not_before: u64,
    /// Last second, inclusive.
    pub not_after: u64,
}

impl Validity {
    /// A validity that holds at `now`, begins [`BACKDATED_BY`] earlier and ends `lifetime` later.
    pub(crate) fn starting(now: UnixTime, lifetime: Duration) -> Self {
        Self {
            not_before: now.as_secs().saturating_sub(BACKDATED_BY.as_secs()),
            not_after: now.as_secs().saturating_add(lifetime.as_secs()),
        }
    }

    /// The part of `self` that lies within `outer`: nothing may outlive its issuer.
    pub(crate) fn within(self, outer: Self) -> Self {
        Self { not_before: self.not_before.max(outer.not_before), not_after: self.not_after.min(outer.not_after) }
    }

    /// Whether a certificate of this validity is accepted at `now`.
    pub fn holds(&self, now: UnixTime) -> bool {
        (self.not_before..=self.not_after).contains(&now.as_secs())
    }

    /// Whether the certificate should be replaced: two thirds of its life are over, or it has not begun (the clock was
    /// wrong when it was issued).
    pub fn renewal_due(&self, now: UnixTime) -> bool {
        let life = self.not_after.saturating_sub(self.not_before);
        let due_at = self.not_after.saturating_sub(life / 3);
        now.as_secs() >= due_at || now.as_secs() < self.not_before
    }
}

pub(crate) fn date(seconds: u64) -> Result<OffsetDateTime, Error> {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or(Error::TimeOutOfRange(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn renewal_is_due_from_two_thirds_of_the_life_on() {
        let validity = Validity { not_before: 1000, not_after: 4000 };
        assert!(!validity.renewal_due(at(1000)));
        assert!(!validity.renewal_due(at(2999)));
        assert!(validity.renewal_due(at(3000)));
        assert!(validity.renewal_due(at(5000)));
    }

    #[test]
    fn a_certificate_from_the_future_is_due_for_renewal() {
        let validity = Validity { not_before: 1000, not_after: 4000 };
        assert!(validity.renewal_due(at(999)));
        assert!(!validity.holds(at(999)));
    }

    #[test]
    fn a_certificate_holds_from_its_first_to_its_last_second() {
        let validity = Validity { not_before: 1000, not_after: 4000 };
        assert!(validity.holds(at(1000)) && validity.holds(at(4000)));
        assert!(!validity.holds(at(4001)));
    }

    #[test]
    fn a_clock_at_the_end_of_time_overflows_nothing() {
        let validity = Validity::starting(at(u64::MAX), Duration::from_secs(10));
        assert_eq!(validity.not_after, u64::MAX);
        assert!(date(u64::MAX).is_err());
    }
}
