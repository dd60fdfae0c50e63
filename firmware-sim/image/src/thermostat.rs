//! The thermostat as the agent's application on this board, with a terminal to tell what happens.

use crate::board;
use crate::network::Carried;
use core::time::Duration;
use hearthkey_agent::json::Object;
use hearthkey_agent::{Application, Buffer, BufferFull, Command, Event, Now, Outbox, Reply, Turn};
use hearthkey_thermostat::Reporting;

/// A thermostat that tells what happens, and what it cost.
pub struct BoardThermostat {
    reporting: Reporting,
    /// Microseconds awake when the agent began what is measured.
    busy: u64,
    /// Bytes on the wire by then.
    carried: Carried,
    is_connecting: bool,
    /// Whether a publish of this life was acknowledged.
    has_published: bool,
}

impl BoardThermostat {
    /// A thermostat in the room that `seed` draws, which reports each `interval` seconds.
    pub fn new(seed: u64, interval: u16) -> Self {
        let interval = Duration::from_secs(u64::from(interval.max(1)));
        Self {
            reporting: Reporting::new(seed, interval, 60),
            busy: 0,
            carried: Carried::now(),
            is_connecting: false,
            has_published: false,
        }
    }

    fn begins(&mut self) {
        (self.busy, self.carried) = (board::busy_micros(), Carried::now());
    }

    fn cost(&self) -> u64 {
        board::busy_micros() - self.busy
    }
}

impl Application for BoardThermostat {
    fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        self.reporting.thermostat().write_about("thermostat on mps2-an386", out)
    }

    fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn {
        // The turn in which a renewal is due begins here, and ends when its answer came.
        if !self.is_connecting {
            self.begins();
        }
        self.reporting.poll(now.instant, outbox, |_| {})
    }

    fn command(&mut self, command: &Command<'_>, _: Now) -> Reply {
        self.reporting.command(command)
    }

    fn twin_desired(&mut self, desired: Object<'_>, _: &mut Outbox<'_>) {
        say!("desired: version {}", desired.get("v").map_or("?", |version| version.as_raw()));
        self.reporting.twin_desired(&desired);
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Connecting { host, port } => {
                self.is_connecting = true;
                self.begins();
                say!("connecting to {}:{}", host, port);
            }
            Event::Connected { expires_in, scope, .. } => {
                self.reporting.connected();
                self.is_connecting = false;
                say!("figure connect {}", self.cost());
                say!("connected for {} s: {}", expires_in.as_secs(), scope);
            }
            Event::Renewed { expires_in, .. } => {
                say!("figure renewal {}", self.cost());
                Carried::report(self.carried, "renewal");
                say!("renewed for {} s", expires_in.as_secs());
            }
            Event::Acknowledged { topic, .. } => {
                if !core::mem::replace(&mut self.has_published, true) {
                    say!("figure first-publish {}", board::busy_micros());
                    Carried::report(Carried::NOTHING, "first-publish");
                }
                say!("acknowledged {}", topic);
            }
            Event::Refused { topic, reason, .. } => say!("refused {}: {}", topic, reason),
            Event::SubscriptionRefused { filter, reason_code } => say!("refused {}: {}", filter, reason_code),
            Event::Command(command) => say!("command {}", command.name()),
            Event::CommandFinished { outcome, .. } => say!("command {}", outcome),
            Event::CommandRefused { refusal, .. } => say!("command refused: {}", refusal.reason()),
            Event::Disconnected { ending, retry_in } => {
                self.is_connecting = false;
                say!("disconnected: {}", ending);
                if let Some(delay) = retry_in {
                    say!("trying again in {} ms", delay.as_millis() as u64);
                }
            }
            Event::StorageFailed => say!("the flash does not work; going on without it"),
            Event::ClockSet(_) => {}
        }
    }
}
