//! Counts and latencies of a whole fleet, in bounded memory. Knows nothing of how they are shown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::watch;

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
    /// From the wish to connect to CONNACK.
    pub connect: Latency,
    /// From handing a publish to the agent to PUBACK.
    pub publish: Latency,
    /// A renewal, from the request to the new token.
    pub renew: Latency,
    /// A command, from its owner's request to the device's answer in the owner's hands; only what a scenario or
    /// [`crate::Fleet::command`] sends.
    pub command: Latency,
}

impl Summary {
    /// The latencies with their names, in the order of a device's life.
    pub fn latencies(&self) -> [(&'static str, Latency); 5] {
        [
            ("enrol", self.enrol),
            ("token and connect", self.connect),
            ("publish to ack", self.publish),
            ("renew", self.renew),
            ("command", self.command),
        ]
    }

    /// The counts with their names.
    pub fn counts(&self) -> [(&'static str, u64); 7] {
        [
            ("devices", self.devices as u64),
            ("had a session", self.reached),
            ("publishes acknowledged", self.acknowledged),
            ("publishes refused", self.refused),
            ("commands succeeded", self.commands_succeeded),
            ("commands rejected", self.commands_rejected),
            ("tokens renewed", self.renewed),
        ]
    }
}

/// How long something took, right to one percent; `None` where it was never measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// How often it was measured.
    pub count: u64,
    /// Half took at most this long, milliseconds.
    pub p50_ms: Option<f64>,
    /// 99 of 100 took at most this long, milliseconds.
    pub p99_ms: Option<f64>,
    /// The longest, milliseconds.
    pub max_ms: Option<f64>,
}

/// Where the devices of a fleet count.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    counts: Arc<Mutex<Counts>>,
    /// Moves whenever a device comes online, goes offline, says why, or stops.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Counts {
    summary: Summary,
    enrol: Histogram<u64>,
    connect: Histogram<u64>,
    publish: Histogram<u64>,
    renew: Histogram<u64>,
    command: Histogram<u64>,
    /// Publishes since the last sample.
    window: Histogram<u64>,
    devices: Vec<DeviceState>,
}

/// Where one device stands.
#[derive(Clone, Debug, Default)]
pub struct DeviceState {
    /// Its id, once it is known.
    pub id: Option<Arc<str>>,
    /// Whether it has an open session.
    pub online: bool,
    /// How many sessions it has had.
    pub sessions: u64,
    /// How often it has enrolled, each time with a new key.
    pub enrolments: u64,
    /// How many of its publishes the hub acknowledged.
    pub acknowledged: u64,
    /// Whether it started with a wrong date and has the hub's.
    pub clock_corrected: bool,
    /// Whether it will do nothing more.
    pub stopped: bool,
    /// Why its last session ended, or why it gave up.
    pub last_reason: Option<Arc<str>>,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Window {
    /// Publishes that the hub acknowledged.
    pub acknowledged: u64,
    /// How long they took.
    pub publish: Latency,
}

impl Tally {
    pub(crate) fn new(devices: usize) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_MICROSECONDS, SIGNIFICANT_DIGITS)
                .expect("the bounds are a valid range and two digits are supported")
        };
        let counts = Counts {
            summary: Summary { devices, ..Summary::default() },
            enrol: histogram(),
            connect: histogram(),
            publish: histogram(),
            renew: histogram(),
            command: histogram(),
            window: histogram(),
            devices: vec![DeviceState::default(); devices],
        };
        Self { counts: Arc::new(Mutex::new(counts)), changed: watch::Sender::new(0) }
    }

    pub(crate) fn identify(&self, device: usize, id: &Arc<str>) {
        if let Some(device) = self.lock().devices.get_mut(device) {
            device.id = Some(Arc::clone(id));
        }
    }

    /// A command that was sent from outside took so long.
    pub(crate) fn count_command(&self, took: Duration) {
        record(&mut self.lock().command, took);
    }

    /// Tells when a device comes online, goes offline, says why, or stops.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&[DeviceState]) -> T) -> T {
        look(&self.lock().devices)
    }

    /// Takes what was counted since the last call.
    pub(crate) fn take_window(&self) -> Window {
        let mut counts = self.lock();
        let window = Window { acknowledged: counts.window.len(), publish: latency(&counts.window) };
        counts.window.reset();
        window
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, device: usize, event: &SimEventKind) {
        let mut counts = self.lock();
        let Counts { summary, enrol, connect, publish, renew, window, devices, .. } = &mut *counts;
        let Some(state) = devices.get_mut(device) else {
            return;
        };
        let before = (state.online, state.stopped, state.last_reason.clone());
        match event {
            SimEventKind::Enrolled { took } => {
                summary.enrolled += 1;
                state.enrolments += 1;
                record(enrol, *took);
            }
            SimEventKind::Connected { took } => {
                (state.online, state.sessions) = (true, state.sessions + 1);
                record(connect, *took);
            }
            SimEventKind::Acknowledged { took, .. } => {
                summary.acknowledged += 1;
                state.acknowledged += 1;
                record(publish, *took);
                record(window, *took);
            }
            SimEventKind::Refused { .. } => summary.refused += 1,
            SimEventKind::Command { rejected: None, .. } => summary.commands_succeeded += 1,
            SimEventKind::Command { rejected: Some(_), .. } => summary.commands_rejected += 1,
            SimEventKind::Renewed { took } => {
                summary.renewed += 1;
                record(renew, *took);
            }
            SimEventKind::ClockCorrected { .. } => state.clock_corrected = true,
            SimEventKind::Joining { .. } | SimEventKind::Retrying { .. } => {}
            SimEventKind::Disconnected { reason } => {
                (state.online, state.last_reason) = (false, Some(reason.as_str().into()));
                count_reason(&mut summary.disconnected_by_reason, reason);
            }
            SimEventKind::Stopped { failure } => {
                (state.online, state.stopped) = (false, true);
                if let Some(reason) = failure {
                    state.last_reason = Some(reason.as_str().into());
                    count_reason(&mut summary.failed_by_reason, reason);
                }
            }
        }
        let is_change = before != (state.online, state.stopped, state.last_reason.clone());
        drop(counts);
        if is_change {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let counts = self.lock();
        let with = |what: fn(&DeviceState) -> bool| counts.devices.iter().filter(|device| what(device)).count() as u64;
        Summary {
            online: with(|device| device.online),
            reached: with(|device| device.sessions > 0),
            enrol: latency(&counts.enrol),
            connect: latency(&counts.connect),
            publish: latency(&counts.publish),
            renew: latency(&counts.renew),
            command: latency(&counts.command),
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
    let milliseconds = |microseconds: u64| (!histogram.is_empty()).then_some(microseconds as f64 / 1e3);
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
        let is_near = |found: Option<f64>, expected: f64| found.is_some_and(|found| (found - expected).abs() <= expected / 100.0);
        assert!(is_near(connect.p50_ms, 500.0) && is_near(connect.p99_ms, 990.0), "{connect:?}");
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
        assert!(enrol.max_ms.is_some_and(|longest| (3_500_000.0..=3_700_000.0).contains(&longest)), "{enrol:?}");
    }

    #[test]
    fn what_nobody_measured_is_null_and_a_wait_of_no_time_is_not() {
        let tally = Tally::new(3);
        assert_eq!(tally.summary(), Summary { devices: 3, ..Summary::default() });
        tally.count(0, &SimEventKind::Enrolled { took: Duration::ZERO });
        let summary = serde_json::to_value(tally.summary()).expect("JSON");
        assert_eq!(summary["enrol"], serde_json::json!({ "count": 1, "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0 }));
        assert_eq!(summary["renew"], serde_json::json!({ "count": 0, "p50_ms": null, "p99_ms": null, "max_ms": null }));
        assert_eq!(tally.take_window(), Window::default());
    }
}
