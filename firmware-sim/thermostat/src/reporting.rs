//! When a thermostat says what, as the application of an agent: readings at an interval, its state when it changed.

use core::fmt::Write as _;
use core::time::Duration;

use hearthkey_agent::json::Object;
use hearthkey_agent::{Buffer, BufferFull, Command, Instant, Outbox, Outcome, PublishId, Qos, Reply, Turn};

use crate::thermostat::{State, Thermostat};

/// The longest payload of a thermostat.
const MAX_PAYLOAD: usize = 96;

/// A thermostat that reports.
#[derive(Clone, Debug)]
pub struct Reporting {
    thermostat: Thermostat,
    interval: Duration,
    time_scale: u32,
    random: fastrand::Rng,
    /// When the room was last looked at.
    stepped_at: Option<Instant>,
    report_due: Option<Instant>,
    /// What the hub's retained state says in this connection.
    published_state: Option<State>,
    /// The number of the next reading, where readings are numbered.
    next_number: Option<u32>,
    /// The version of the desired twin that is to be reported.
    twin_due: Option<u64>,
}

/// Something that the agent took to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published<'a> {
    /// The agent's name for it.
    pub id: PublishId,
    /// Its JSON.
    pub payload: &'a [u8],
}

impl Reporting {
    /// A thermostat in the room that `seed` draws. Reports its temperature each `interval`; `time_scale` seconds pass in its
    /// room per second.
    #[must_use]
    pub fn new(seed: u64, interval: Duration, time_scale: u32) -> Self {
        Self {
            thermostat: Thermostat::seeded(seed),
            interval,
            time_scale,
            // A stream of its own, so that the moments of reports say nothing of the room.
            random: fastrand::Rng::with_seed(!seed),
            stepped_at: None,
            report_due: None,
            published_state: None,
            next_number: None,
            twin_due: None,
        }
    }

    /// Numbers the readings from `first` on, `"n":17`, so that a test can tell whether one was lost.
    pub fn number_readings_from(&mut self, first: u32) {
        self.next_number = Some(first);
    }

    /// The thermostat.
    #[must_use]
    pub fn thermostat(&self) -> &Thermostat {
        &self.thermostat
    }

    /// A session began: what the hub retains may be of a former one.
    pub fn connected(&mut self) {
        self.published_state = None;
    }

    /// Lets time pass and publishes what is due; `published` is told of each.
    pub fn poll(&mut self, now: Instant, outbox: &mut Outbox<'_>, mut published: impl FnMut(Published<'_>)) -> Turn {
        let elapsed = self.stepped_at.map_or(Duration::ZERO, |then| now.since(then));
        self.stepped_at = Some(now);
        self.thermostat.step(elapsed.saturating_mul(self.time_scale));
        if !outbox.is_online() {
            return Turn::Idle;
        }
        self.report_temperature(now, outbox, &mut published);
        self.report_state(outbox, &mut published);
        self.report_twin(outbox, &mut published);
        self.report_due.map_or(Turn::Idle, Turn::At)
    }

    /// Obeys a command.
    #[must_use]
    pub fn command(&mut self, command: &Command<'_>) -> Reply {
        let args = command.args().map_or("", |args| args.as_raw());
        Reply::Done(match self.thermostat.execute(command.name(), args.as_bytes()) {
            Ok(()) => Outcome::Succeeded,
            Err(rejection) => Outcome::Rejected(rejection.0),
        })
    }

    /// Becomes what is desired; the next [`poll`](Self::poll) says what it became.
    pub fn twin_desired(&mut self, desired: &Object<'_>) {
        self.thermostat.become_desired(desired);
        self.twin_due = desired.get("v").and_then(|version| version.as_u64());
    }

    fn report_twin(&mut self, outbox: &mut Outbox<'_>, published: &mut impl FnMut(Published<'_>)) {
        let Some(version) = self.twin_due else { return };
        let mut payload = [0; MAX_PAYLOAD];
        let mut payload = Buffer::new(&mut payload);
        if self.thermostat.write_twin(version, &mut payload).is_ok()
            && let Ok(id) = outbox.twin_reported(payload.written())
        {
            self.twin_due = None;
            published(Published { id, payload: payload.written() });
        }
    }

    fn report_temperature(&mut self, now: Instant, outbox: &mut Outbox<'_>, published: &mut impl FnMut(Published<'_>)) {
        let is_first = self.report_due.is_none();
        if self.report_due.is_some_and(|due| now < due) {
            return;
        }
        // After the first report, devices that started together drift apart by up to an interval.
        let spread = if is_first { self.interval / 256 * u32::from(self.random.u8(..)) } else { Duration::ZERO };
        self.report_due = Some(now.after(self.interval + spread));
        let mut payload = [0; MAX_PAYLOAD];
        let mut payload = Buffer::new(&mut payload);
        // It fits; and a full queue means that the hub is behind: a thermostat skips a reading then.
        if self.write_reading(&mut payload).is_ok()
            && let Ok(id) = outbox.telemetry("temperature", payload.written(), Qos::AtLeastOnce)
        {
            self.next_number = self.next_number.map(|number| number.saturating_add(1));
            published(Published { id, payload: payload.written() });
        }
    }

    fn write_reading(&self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let Some(number) = self.next_number else { return self.thermostat.reading().write(out) };
        let mut reading = [0; MAX_PAYLOAD];
        let mut reading = Buffer::new(&mut reading);
        self.thermostat.reading().write(&mut reading)?;
        out.push(reading.written().strip_suffix(b"}").unwrap_or_default())?;
        write!(out, r#","n":{number}}}"#).map_err(|_| BufferFull)
    }

    /// Publishes the state when something other than the temperature differs from what the hub retains.
    fn report_state(&mut self, outbox: &mut Outbox<'_>, published: &mut impl FnMut(Published<'_>)) {
        let state = self.thermostat.state();
        let settings = |state: State| (state.setpoint, state.mode, state.heating);
        if self.published_state.is_some_and(|published| settings(published) == settings(state)) {
            return;
        }
        let mut payload = [0; MAX_PAYLOAD];
        let mut payload = Buffer::new(&mut payload);
        if state.write(&mut payload).is_ok()
            && let Ok(id) = outbox.state(payload.written())
        {
            self.published_state = Some(state);
            published(Published { id, payload: payload.written() });
        }
    }
}
