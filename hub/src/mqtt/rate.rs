//! A token bucket. Pure.

use std::time::Duration;
use tokio::time::Instant;

/// Lets through so many a second, and a burst at once.
#[derive(Debug)]
pub(super) struct Bucket {
    interval: Duration,
    burst: Duration,
    /// When the bucket will be full again (the generic cell rate algorithm's theoretical arrival time).
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self::each(Duration::from_secs(1) / per_second.max(1), burst)
    }

    /// One that regains one in each `interval`.
    pub(super) fn each(interval: Duration, burst: u32) -> Self {
        Self { interval, burst: interval * burst.max(1), full_at: None }
    }

    /// Takes one if there is one.
    ///
    /// # Errors
    /// The bucket is empty: how long until there is one. Nothing was taken.
    pub(super) fn take_if_any(&mut self, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.filter(|full_at| *full_at > now).unwrap_or(now) + self.interval;
        let wait = full_at.saturating_duration_since(now + self.burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = Some(full_at);
        Ok(())
    }

    /// Takes one.
    ///
    /// # Errors
    /// The bucket is empty: when there will be one more. It was taken on credit all the same, a burst at most.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.take_many(1, now)
    }

    /// Takes several at once; what is missing is taken on credit, by all who share the bucket together: a burst or as much as
    /// that at most.
    ///
    /// # Errors
    /// The same.
    pub(super) fn take_many(&mut self, count: u32, now: Instant) -> Result<(), Instant> {
        let wanted = self.interval * count;
        let full_at = self.full_at.filter(|full_at| *full_at > now).unwrap_or(now) + wanted;
        let full_at = full_at.min(now + self.burst + self.burst.max(wanted));
        self.full_at = Some(full_at);
        if full_at <= now + self.burst { Ok(()) } else { Err(full_at - self.burst) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3);
        assert!((0..3).all(|_| bucket.take(start).is_ok()));
        assert_eq!(bucket.take(start), Err(start + Duration::from_millis(100)));
        let later = start + Duration::from_secs(10);
        assert_eq!(bucket.take_if_any(start), Err(Duration::from_millis(200)), "who only looks takes nothing on credit");
        assert!((0..3).all(|_| bucket.take(later).is_ok()), "a rest fills the bucket, no more");
        assert!(bucket.take(later).is_err());
        let much_later = later + Duration::from_secs(10);
        assert_eq!(bucket.take_many(2, much_later), Ok(()));
        assert_eq!(bucket.take_many(5, much_later), Err(much_later + Duration::from_millis(400)), "one of five was there");
        assert_eq!(bucket.take_many(5, much_later), Err(much_later + Duration::from_millis(500)), "credit is bounded");
    }
}
