//! Counts and latencies of a whole fleet, in bounded memory. Knows nothing of how they are shown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::event::SimEventKind;

/// Longer waits than an hour count as an hour.
const LONGEST_MICROSECONDS: u64 = 3_600_000_000;
/// Two digits: a latency is right to one percent.
const SIGNIFICANT_DIGITS: u8 = 2;
/// Distinct reasons are kept up to this number: they are the hub's words, and a hub may say anything.
const MAX_REASONS: usize = 32;
const OTHER_REASONS: &str = "other reasons";

/// What a fleet did so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Devices in the fleet.
    pub devices: usize,
    /// Enrolments since the start; devices that brought a stored identity are not among them.
    pub enrolled: u64,
    /// Devices with an open session.
    pub online: u64,
    /// Devices that had at least one session.
    pub reached: u64,
    /// Publishes that the hub acknowledged.
    pub acknowledged: u64,
    /// Publishes that the hub refused.
    pub refused: u64,
    /// Commands carried out.
    pub commands_succeeded: u64,
    /// Commands rejected.
    pub commands_rejected: u64,
    /// Tokens renewed within a session.
    pub renewed: u64,
    /// Ended sessions by reason.
    pub disconnected_by_reason: BTreeMap<String, u64>,
    /// Devices that gave up, by reason.
    pub failed_by_reason: BTreeMap<String, u64>,
    /// Enrolment, from the first connection attempt to the stored identity.
    pub enrol: Latency,
    /// From the TCP connection to CONNACK.
    pub connect: Latency,
    /// From handing a publish to the agent to PUBACK.
    pub publish: Latency,
}

/// How long something took, right to one percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How often it was measured.
    pub count: u64,
    /// Half took at most this long, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took at most this long, milliseconds.
    pub p99_ms: f64,
    /// The longest, milliseconds.
    pub max_ms: f64,
}

/// Where the devices of a fleet count.
#[derive(Clone, Debug)]
pub(crate) struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    summary: Summary,
    enrol: Histogram<u64>,
    connect: Histogram<u64>,
    publish: Histogram<u64>,
    sessions: Vec<Sessions>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sessions {
    online: bool,
    reached: bool,
}

impl Tally {
    pub(crate) fn new(devices: usize) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_MICROSECONDS, SIGNIFICANT_DIGITS)
                .expect("the bounds are a valid range and two digits are supported")
        };
        Self(Arc::new(Mutex::new(Counts {
            summary: Summary { devices, ..Summary::default() },
            enrol: histogram(),
            connect: histogram(),
            publish: histogram(),
            sessions: vec![Sessions::default(); devices],
        })))
    }

    pub(crate) fn count(&self, device: usize, event: &SimEventKind) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { summary, enrol, connect, publish, sessions } = &mut *counts;
        let Some(session) = sessions.get_mut(device) else {
            return;
        };
        match event {
            SimEventKind::Enrolled { took } => {
                summary.enrolled += 1;
                record(enrol, *took);
            }
            SimEventKind::Connected { took } => {
                *session = Sessions { online: true, reached: true };
                record(connect, *took);
            }
            SimEventKind::Acknowledged { took, .. } => {
                summary.acknowledged += 1;
                record(publish, *took);
            }
            SimEventKind::Refused { .. } => summary.refused += 1,
            SimEventKind::Command { rejected: None, .. } => summary.commands_succeeded += 1,
            SimEventKind::Command { rejected: Some(_), .. } => summary.commands_rejected += 1,
            SimEventKind::Renewed => summary.renewed += 1,
            SimEventKind::Retrying { .. } => {}
            SimEventKind::Disconnected { reason } => {
                session.online = false;
                count_reason(&mut summary.disconnected_by_reason, reason);
            }
            SimEventKind::Stopped { failure } => {
                session.online = false;
                if let Some(reason) = failure {
                    count_reason(&mut summary.failed_by_reason, reason);
                }
            }
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let with = |what: fn(&Sessions) -> bool| counts.sessions.iter().filter(|session| what(session)).count() as u64;
        Summary {
            online: with(|session| session.online),
            reached: with(|session| session.reached),
            enrol: latency(&counts.enrol),
            connect: latency(&counts.connect),
            publish: latency(&counts.publish),
            ..counts.summary.clone()
        }
    }
}

fn count_reason(by_reason: &mut BTreeMap<String, u64>, reason: &str) {
    let known = by_reason.contains_key(reason) || by_reason.len() < MAX_REASONS;
    let reason = if known { reason } else { OTHER_REASONS };
    *by_reason.entry(reason.to_owned()).or_default() += 1;
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let milliseconds = |microseconds: u64| microseconds as f64 / 1e3;
    Latency {
        count: histogram.len(),
        p50_ms: milliseconds(histogram.value_at_quantile(0.50)),
        p99_ms: milliseconds(histogram.value_at_quantile(0.99)),
        max_ms: milliseconds(histogram.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_one_percent() {
        let tally = Tally::new(1);
        for milliseconds in 1..=1000 {
            let took = Duration::from_millis(milliseconds);
            tally.count(0, &SimEventKind::Connected { took });
        }
        let connect = tally.summary().connect;
        assert_eq!(connect.count, 1000);
        assert!((connect.p50_ms - 500.0).abs() < 5.0, "{connect:?}");
        assert!((connect.p99_ms - 990.0).abs() < 10.0, "{connect:?}");
    }

    #[test]
    fn a_device_is_online_between_connected_and_disconnected() {
        let tally = Tally::new(2);
        let took = Duration::ZERO;
        tally.count(0, &SimEventKind::Connected { took });
        tally.count(1, &SimEventKind::Connected { took });
        let reason = "hub stopping".to_owned();
        tally.count(1, &SimEventKind::Disconnected { reason });
        let summary = tally.summary();
        assert_eq!((summary.online, summary.reached), (1, 2));
        assert_eq!(summary.disconnected_by_reason["hub stopping"], 1);
    }

    #[test]
    fn a_hub_that_invents_reasons_fills_no_memory() {
        let tally = Tally::new(1);
        for n in 0..1000 {
            let reason = format!("reason {n}");
            tally.count(0, &SimEventKind::Disconnected { reason });
        }
        let by_reason = tally.summary().disconnected_by_reason;
        assert_eq!(by_reason.len(), MAX_REASONS + 1);
        assert_eq!(by_reason[OTHER_REASONS], 1000 - MAX_REASONS as u64);
    }

    #[test]
    fn an_endless_wait_counts_as_an_hour() {
        let tally = Tally::new(1);
        tally.count(0, &SimEventKind::Enrolled { took: Duration::MAX });
        let enrol = tally.summary().enrol;
        assert!((3_500_000.0..=3_700_000.0).contains(&enrol.max_ms), "{enrol:?}");
    }

    #[test]
    fn an_idle_fleet_has_no_latencies() {
        assert_eq!(Tally::new(3).summary(), Summary { devices: 3, ..Summary::default() });
    }
}
