//! The thermostat as the agent's application on this board, with a terminal to tell what happens.

use crate::figures::Phase;
use core::time::Duration;
use hearthkey_agent::json::Object;
use hearthkey_agent::{Application, Buffer, BufferFull, Command, Event, Now, Outbox, Reply, Turn};
use hearthkey_thermostat::Reporting;

/// A thermostat that tells what happens, and what it cost.
pub struct BoardThermostat {
    reporting: Reporting,
    phase: Phase,
    stage: Stage,
    /// What was published in this turn.
    published: usize,
    /// Whether a publish of this life was acknowledged.
    has_published: bool,
}

/// What the agent does, as far as its questions show it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Connecting, and the TLS handshake: it asks nothing.
    Connecting,
    Authenticating,
    /// Or waiting for its next call.
    Online,
}

impl BoardThermostat {
    /// A thermostat in the room that `seed` draws, which reports each `interval` seconds.
    pub fn new(seed: u64, interval: u16) -> Self {
        let interval = Duration::from_secs(u64::from(interval.max(1)));
        Self {
            reporting: Reporting::new(seed, interval, 60),
            phase: Phase::LIFE,
            stage: Stage::Online,
            published: 0,
            has_published: false,
        }
    }
}

impl Application for BoardThermostat {
    fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        self.reporting.thermostat().write_about("thermostat on mps2-an386", out)
    }

    fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn {
        if self.stage == Stage::Connecting {
            self.phase.end("connect");
            self.stage = Stage::Authenticating;
            self.phase = Phase::begin();
        } else if self.stage == Stage::Online {
            // The turn in which a publish or a renewal is due begins here, and ends when its answer came.
            self.phase = Phase::begin();
        }
        let mut published = 0;
        let turn = self.reporting.poll(now.instant, outbox, |_| published += 1);
        self.published = published;
        turn
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
                (self.stage, self.phase) = (Stage::Connecting, Phase::begin());
                say!("connecting to {}:{}", host, port);
            }
            Event::Connected { expires_in, scope, .. } => {
                self.reporting.connected();
                self.phase.end("token");
                self.stage = Stage::Online;
                say!("connected for {} s: {}", expires_in.as_secs(), scope);
            }
            Event::Renewed { expires_in, .. } => {
                if self.published == 0 {
                    self.phase.end("renewal");
                }
                say!("renewed for {} s", expires_in.as_secs());
            }
            Event::Acknowledged { topic, .. } => {
                if !core::mem::replace(&mut self.has_published, true) {
                    Phase::LIFE.end("first-publish");
                } else if self.published == 1 && topic.ends_with("temperature") {
                    self.phase.end("publish");
                }
                say!("acknowledged {}", topic);
            }
            Event::Refused { topic, reason, .. } => say!("refused {}: {}", topic, reason),
            Event::SubscriptionRefused { filter, reason_code } => say!("refused {}: {}", filter, reason_code),
            Event::Command(command) => say!("command {}", command.name()),
            Event::CommandFinished { outcome, .. } => say!("command {}", outcome),
            Event::CommandRefused { refusal, .. } => say!("command refused: {}", refusal.reason()),
            Event::Disconnected { ending, retry_in } => {
                self.stage = Stage::Online;
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
