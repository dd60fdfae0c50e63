//! Slows down whoever fails to prove itself, by source and by client separately. Knows nothing of what was tried.
//!
//! governor's keyed limiters count every call and forget no key by themselves; here only failures count, a look costs
//! nothing, and memory is bounded. Nobody is locked out by the failures of others elsewhere:
//! - a source that fails too often must wait, except with a client that proved itself from there lately;
//! - a client that others fail to be is refused only where it was failed at: a source that has not yet failed with it
//!   is always heard.

use hearthkey_core::DeviceId;
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Most sources, clients and pairs of both that are remembered, each: a home has fewer than 500 devices. At the bound the one that
/// would be forgotten first is.
pub const MAX_TRACKED: usize = 4_096;

/// Failures that a source may make at once: a fleet whose clocks are off, behind one address.
pub const SOURCE_BURST: u32 = 30;
/// A source regains one failure in this time.
pub const SOURCE_INTERVAL: Duration = Duration::from_secs(2);
/// Failures that may be made with one client's name at once, from anywhere.
pub const CLIENT_BURST: u32 = 20;
/// A client regains one failure in this time.
pub const CLIENT_INTERVAL: Duration = Duration::from_secs(5);
/// Failures that a client may make at once where it has proved itself.
pub const KNOWN_BURST: u32 = 10;
/// It regains one in this time.
pub const KNOWN_INTERVAL: Duration = Duration::from_secs(5);
/// How long a proof is remembered in favour of a client and its source.
pub const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest name of a client that is told apart; what is longer is no client of ours.
const MAX_NAME_BYTES: usize = 64;

/// Failures with one person's name at once, from wherever it was failed before: people choose passwords, machines do not.
pub const PASSWORD_BURST: u32 = 10;
/// A person regains one in this time.
pub const PASSWORD_INTERVAL: Duration = Duration::from_secs(30);

/// Failures, counted.
#[derive(Debug)]
pub struct Throttle {
    by_client: Rate,
    tables: Mutex<Tables>,
}

/// Requests that succeed, counted by client: each costs a write of the disk and an entry of the audit log, whoever is right to
/// ask.
#[derive(Debug)]
pub struct Pace {
    rate: Rate,
    by_client: Mutex<Buckets<DeviceId>>,
}

/// What it takes to look at a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A stored secret, which one HMAC checks. Its 190 bits cannot be guessed, so a good one is heard whatever was tried with its
    /// id or its client's name; failures slow down failures only.
    Stored,
    /// A signature, or what is no proof at all: failures are counted before it is looked at.
    Other,
}

/// Too many failures: come back after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many failures; try again in {} s", .0.as_secs().max(1))]
pub struct SlowDown(pub Duration);

#[derive(Debug, Default)]
struct Tables {
    failures_by_source: Buckets<IpAddr>,
    failures_by_client: Buckets<Box<str>>,
    failures_by_pair: Buckets<(IpAddr, Box<str>)>,
    known_pairs: HashMap<(IpAddr, Box<str>), Instant>,
}

/// One leaky bucket each (GCRA): the time at which it will have run empty. An empty bucket is not kept.
#[derive(Debug)]
struct Buckets<K>(HashMap<K, Instant>);

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    interval: Duration,
}

const SOURCE: Rate = Rate { burst: SOURCE_BURST, interval: SOURCE_INTERVAL };
const CLIENT: Rate = Rate { burst: CLIENT_BURST, interval: CLIENT_INTERVAL };
const PASSWORD: Rate = Rate { burst: PASSWORD_BURST, interval: PASSWORD_INTERVAL };
const KNOWN: Rate = Rate { burst: KNOWN_BURST, interval: KNOWN_INTERVAL };

impl Default for Throttle {
    fn default() -> Self {
        Self { by_client: CLIENT, tables: Mutex::default() }
    }
}

impl Proof {
    /// The kind of a secret or token, by its look.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        if text.starts_with(b"hk_") { Self::Stored } else { Self::Other }
    }
}

impl Throttle {
    /// One for what people choose and others may guess.
    #[must_use]
    pub fn for_passwords() -> Self {
        Self { by_client: PASSWORD, tables: Mutex::default() }
    }

    /// Whether a proof from `source` may be looked at. `client` tells whom the peer claims to be, if it says so beforehand.
    ///
    /// # Errors
    /// [`SlowDown`].
    pub fn admit(&self, source: IpAddr, client: impl FnOnce() -> Option<String>, now: Instant) -> Result<(), SlowDown> {
        let source = share(source);
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        // The usual case: nobody fails.
        if tables.failures_by_source.0.is_empty() && tables.failures_by_client.0.is_empty() {
            return Ok(());
        }
        let pair = client().map(|client| (source, shortened(&client)));
        if let Some(pair) = &pair {
            if tables.known_pairs.get(pair).is_some_and(|until| now < *until) {
                return tables.failures_by_pair.room(pair, KNOWN, now);
            }
            if tables.failures_by_pair.has(pair, now) {
                tables.failures_by_client.room(&pair.1, self.by_client, now)?;
            }
        }
        tables.failures_by_source.room(&source, SOURCE, now)
    }

    /// Counts a failure.
    pub fn failed(&self, source: IpAddr, client: Option<&str>, now: Instant) {
        let source = share(source);
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client {
            let client = shortened(client);
            let pair = (source, client.clone());
            let known = tables.known_pairs.get(&pair).is_some_and(|until| now < *until);
            tables.failures_by_pair.fill(pair, KNOWN, now);
            tables.failures_by_client.fill(client, self.by_client, now);
            if known {
                return;
            }
        }
        tables.failures_by_source.fill(source, SOURCE, now);
    }

    /// Remembers a proof in favour of the client and its source.
    pub fn succeeded(&self, source: IpAddr, client: &str, now: Instant) {
        let pair = (share(source), shortened(client));
        let tables = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.failures_by_pair.0.remove(&pair);
        if tables.known_pairs.len() >= MAX_TRACKED && !tables.known_pairs.contains_key(&pair) {
            forget_first(&mut tables.known_pairs, now);
        }
        tables.known_pairs.insert(pair, now + KNOWN_FOR);
    }

    /// How many sources, clients and pairs are remembered.
    #[must_use]
    pub fn tracked(&self) -> usize {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.failures_by_source.0.len()
            + tables.failures_by_client.0.len()
            + tables.failures_by_pair.0.len()
            + tables.known_pairs.len()
    }
}

impl Pace {
    /// So many a minute, and as many at once.
    #[must_use]
    pub fn each_minute(most: u32) -> Self {
        let burst = most.max(1);
        Self { rate: Rate { burst, interval: Duration::from_secs(60) / burst }, by_client: Mutex::default() }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// The client asks too often: how long until it is heard again. Nothing was counted.
    pub fn take(&self, client: &DeviceId, now: Instant) -> Result<(), Duration> {
        let buckets = &mut *self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.room(client, self.rate, now).map_err(|SlowDown(wait)| wait)?;
        buckets.fill(client.clone(), self.rate, now);
        Ok(())
    }
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Buckets<K> {
    fn has(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_some_and(|empty_at| now < *empty_at)
    }

    fn room(&self, key: &K, rate: Rate, now: Instant) -> Result<(), SlowDown> {
        let Some(empty_at) = self.0.get(key) else { return Ok(()) };
        let level = empty_at.saturating_duration_since(now);
        let most = rate.interval * (rate.burst - 1);
        if level <= most { Ok(()) } else { Err(SlowDown(level - most)) }
    }

    fn fill(&mut self, key: K, rate: Rate, now: Instant) {
        if self.0.len() >= MAX_TRACKED && !self.0.contains_key(&key) {
            forget_first(&mut self.0, now);
        }
        let empty_at = self.0.entry(key).or_insert(now);
        *empty_at = ((*empty_at).max(now) + rate.interval).min(now + rate.interval * rate.burst);
    }
}

/// Makes room: what is over goes, or else a part of what would be over first, so that room is not made anew for each.
fn forget_first<K: Hash + Eq>(until_by_key: &mut HashMap<K, Instant>, now: Instant) {
    until_by_key.retain(|_, until| now < *until);
    if until_by_key.len() >= MAX_TRACKED {
        let mut ends: Vec<Instant> = until_by_key.values().copied().collect();
        let (_, end, _) = ends.select_nth_unstable(MAX_TRACKED / 16);
        let end = *end;
        let mut most = MAX_TRACKED / 16;
        until_by_key.retain(|_, until| {
            let goes = *until <= end && most > 0;
            most -= usize::from(goes);
            !goes
        });
    }
}

/// A source as it is told apart: one IPv4 address, one IPv6 subnet, of which each host has 2^64 addresses to choose from.
pub(crate) fn share(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

fn shortened(client: &str) -> Box<str> {
    let end = (0..=MAX_NAME_BYTES.min(client.len())).rev().find(|end| client.is_char_boundary(*end)).unwrap_or(0);
    client[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 7));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 8));

    fn admit(throttle: &Throttle, source: IpAddr, client: Option<&str>, now: Instant) -> Result<(), SlowDown> {
        throttle.admit(source, || client.map(str::to_owned), now)
    }

    fn fail_until_refused(throttle: &Throttle, source: IpAddr, client: Option<&str>, now: Instant) -> u32 {
        (0..1_000)
            .find(|_| admit(throttle, source, client, now).map(|()| throttle.failed(source, client, now)).is_err())
            .expect("a bound")
    }

    #[test]
    fn a_source_that_fails_too_often_waits_and_is_heard_again() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(fail_until_refused(&throttle, HERE, None, now), SOURCE_BURST);
        let SlowDown(wait) = admit(&throttle, HERE, Some("anybody"), now).expect_err("refused");
        assert!(admit(&throttle, HERE, None, now + wait).is_ok());
        assert!(admit(&throttle, THERE, None, now).is_ok(), "others are not concerned");
    }

    #[test]
    fn guesses_at_a_client_are_refused_where_they_are_made_and_nowhere_else() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(fail_until_refused(&throttle, HERE, Some("lamp"), now), CLIENT_BURST);
        assert!(admit(&throttle, HERE, Some("oven"), now).is_ok(), "the source may still be another client");
        assert!(admit(&throttle, THERE, Some("lamp"), now).is_ok(), "the client itself is elsewhere");
        throttle.failed(THERE, Some("lamp"), now);
        assert!(admit(&throttle, THERE, Some("lamp"), now).is_err(), "from many sources each has one try");
    }

    #[test]
    fn a_client_that_proved_itself_is_not_locked_out_by_others_at_the_same_address() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        throttle.succeeded(HERE, "lamp", now);
        fail_until_refused(&throttle, HERE, Some("oven"), now);
        fail_until_refused(&throttle, HERE, None, now);
        assert!(admit(&throttle, HERE, None, now).is_err());
        assert!(admit(&throttle, HERE, Some("lamp"), now).is_ok());
        assert!(admit(&throttle, HERE, Some("lamp"), now + KNOWN_FOR).is_ok(), "the source is heard again by then");
    }

    #[test]
    fn a_client_that_fails_where_it_was_known_waits_without_harm_to_its_neighbours() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        throttle.succeeded(HERE, "lamp", now);
        assert_eq!(fail_until_refused(&throttle, HERE, Some("lamp"), now), KNOWN_BURST);
        assert!(admit(&throttle, HERE, Some("oven"), now).is_ok());
        throttle.succeeded(HERE, "lamp", now);
        assert!(admit(&throttle, HERE, Some("lamp"), now).is_ok(), "a proof wipes the slate");
    }

    #[test]
    fn a_client_that_succeeds_too_often_waits_and_nobody_else_does() {
        let (pace, now) = (Pace::each_minute(3), Instant::now());
        let [lamp, oven] = ["lamp", "oven"].map(|id| DeviceId::parse(id).expect("legal"));
        assert!((0..3).all(|_| pace.take(&lamp, now).is_ok()));
        assert_eq!(pace.take(&lamp, now), Err(Duration::from_secs(20)));
        assert!(pace.take(&oven, now).is_ok());
        assert!(pace.take(&lamp, now + Duration::from_secs(20)).is_ok());
        assert!(pace.take(&lamp, now + Duration::from_secs(20)).is_err());
    }

    #[test]
    fn memory_stays_bounded_whoever_comes() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for number in 0..3 * MAX_TRACKED as u32 {
            let source = IpAddr::from(std::net::Ipv4Addr::from(number));
            let client = format!("client-{number}-{}", "x".repeat(200));
            throttle.failed(source, Some(&client), now);
            throttle.succeeded(source, &client, now);
        }
        assert!(throttle.tracked() <= 4 * MAX_TRACKED, "{}", throttle.tracked());
    }

    #[test]
    fn hosts_of_one_subnet_share_their_failures() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let host = |last: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, last));
        (0..1_000).for_each(|last| throttle.failed(host(last), None, now));
        assert!(admit(&throttle, host(7), None, now).is_err());
        assert!(admit(&throttle, IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1)), None, now).is_ok());
        assert!(admit(&throttle, "::ffff:192.168.1.7".parse().expect("an address"), None, now).is_ok());
    }
}
