//! A device of a virtual world: the agent's state machine, a thermostat, and a flash memory that survives power cuts.

#![expect(clippy::result_large_err, reason = "how connections end is the agent's to say, and it allocates nothing")]

use std::time::Duration;

use hearthkey_agent::mqtt::MAX_OUTGOING_PACKET;
use hearthkey_agent::sans_io::{After, SansIo};
use hearthkey_agent::{
    Application, Buffer, BufferFull, Command, Config, ConnectFailed, Ending, Event, Identity, Instant, Now, Outbox, Qos, Reply,
    Turn,
};
use hearthkey_core::DeviceId;
use hearthkey_thermostat::Reporting;

use super::hub::{ConnectionId, ISSUER, random_bytes};

/// As the agent's shell: the shortest time between two turns.
const SHORTEST_WAIT_MS: u64 = 5;

/// What a device does to the world.
#[derive(Debug)]
pub(super) enum Deed {
    Connect,
    Send(Vec<u8>),
    Ended(Ending),
    WakeAt(u64),
}

pub(super) struct VirtualDevice {
    pub(super) id: DeviceId,
    pub(super) powered: bool,
    pub(super) connection: Option<ConnectionId>,
    /// Where its next turn stands in the world's queue.
    pub(super) wake: Option<(u64, u64)>,
    core: Option<SansIo>,
    thermostat: VirtualThermostat,
    config: Config,
    /// What it wrote to its flash memory.
    sequence: Option<u64>,
    /// A flash memory that keeps nothing.
    forgets: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { until_ms: u64 },
    Connected,
    Stopped,
}

/// A thermostat, and now and then firmware that reaches for what is not its own.
struct VirtualThermostat {
    reporting: Reporting,
    reach_for: Option<String>,
    executed: Vec<String>,
    sessions: u64,
}

impl VirtualDevice {
    pub(super) fn new(id: &DeviceId, config: Config, interval: Duration, seed: u64, random: &mut fastrand::Rng) -> Self {
        let reporting = Reporting::new(seed, interval, 1);
        Self {
            id: id.clone(),
            powered: true,
            connection: None,
            wake: None,
            core: Some(SansIo::new(new_identity(id, random), config, None)),
            thermostat: VirtualThermostat { reporting, reach_for: None, executed: Vec::new(), sessions: 0 },
            config,
            sequence: None,
            forgets: false,
            state: State::Waiting { until_ms: 0 },
        }
    }

    /// Its public key as an uncompressed point.
    pub(super) fn point(&self) -> [u8; 65] {
        let mut point = [4; 65];
        if let Some(core) = &self.core {
            point[1..].copy_from_slice(core.identity().public_key().coordinates());
        }
        point
    }

    /// How many sessions it has had.
    pub(super) fn sessions(&self) -> u64 {
        self.thermostat.sessions
    }

    /// Makes a new key, as in an enrolment anew. What it stored of the commands is of the same hub and name, and stays.
    pub(super) fn replace_key(&mut self, random: &mut fastrand::Rng) {
        self.core = Some(SansIo::new(new_identity(&self.id, random), self.config, self.sequence));
    }

    pub(super) fn lose_power(&mut self) {
        self.powered = false;
        self.core = self.core.take().map(|core| core.restarted(self.sequence));
        if self.state != State::Stopped {
            self.state = State::Waiting { until_ms: 0 };
        }
    }

    /// Its flash memory keeps nothing of what it is told to keep.
    pub(super) fn forget_sequences(&mut self) {
        self.forgets = true;
    }

    /// What it carried out since it was last asked.
    pub(super) fn executed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.thermostat.executed)
    }

    /// Its firmware will publish to this topic.
    pub(super) fn reach_for(&mut self, topic: String) {
        self.thermostat.reach_for = Some(topic);
    }

    /// A connection to the hub is open.
    pub(super) fn connected(&mut self, id: ConnectionId, seed: &[u8; 32], now_ms: u64) {
        (self.connection, self.state) = (Some(id), State::Connected);
        if let Some(core) = &mut self.core {
            core.reseed(seed);
            core.begin(Instant::from_millis(now_ms));
        }
    }

    /// Nothing listens at the hub's address.
    pub(super) fn refused(&mut self, now_ms: u64) {
        self.ended(&Ending::ConnectFailed(ConnectFailed::Refused), now_ms);
    }

    /// Its connection is over, or none came about.
    pub(super) fn ended(&mut self, ending: &Ending, now_ms: u64) {
        let Some(core) = &mut self.core else { return };
        self.connection = None;
        self.state = match core.ended(ending, Instant::from_millis(now_ms)) {
            After::Connect(delay) => State::Waiting { until_ms: now_ms + delay.as_millis() as u64 },
            After::Revoked | After::Left => State::Stopped,
        };
    }

    /// Takes a packet of the hub.
    pub(super) fn receive(&mut self, packet: &[u8], now_ms: u64) -> Result<(), Ending> {
        let Some(core) = &mut self.core else { return Ok(()) };
        let stored = &mut self.sequence;
        let forgets = self.forgets;
        core.receive(packet, Instant::from_millis(now_ms), &mut self.thermostat, |sequence| {
            if !forgets {
                *stored = Some(sequence);
            }
            true
        })
    }

    /// Does what is due.
    pub(super) fn drive(&mut self, now_ms: u64) -> Vec<Deed> {
        let mut deeds = Vec::new();
        if self.powered
            && self.state != State::Stopped
            && let Err(ending) = self.turn(now_ms, &mut deeds)
        {
            deeds.push(Deed::Ended(ending));
        }
        deeds
    }

    fn turn(&mut self, now_ms: u64, deeds: &mut Vec<Deed>) -> Result<(), Ending> {
        let now = Instant::from_millis(now_ms);
        let Some(core) = &mut self.core else { return Ok(()) };
        if let State::Waiting { until_ms } = self.state {
            core.poll_application(&mut self.thermostat, now);
            deeds.push(if now_ms >= until_ms { Deed::Connect } else { Deed::WakeAt(until_ms) });
            return Ok(());
        }
        core.tick(now)?;
        let turn = core.poll_application(&mut self.thermostat, now);
        loop {
            let mut bytes = [0; MAX_OUTGOING_PACKET];
            let mut out = Buffer::new(&mut bytes);
            if !core.next_packet(now, &mut self.thermostat, &mut out)? {
                break;
            }
            deeds.push(Deed::Send(out.written().to_vec()));
        }
        let asked = if let Turn::At(at) = turn { Some(at) } else { None };
        if let Some(at) = [core.deadline(), asked].into_iter().flatten().min() {
            deeds.push(Deed::WakeAt(at.as_millis().max(now_ms + SHORTEST_WAIT_MS)));
        }
        Ok(())
    }
}

/// How a connection ends that the other side, or the network, has closed.
pub(super) fn broken() -> Ending {
    Ending::Tls(hearthkey_agent::tls::TlsError::Closed)
}

fn new_identity(id: &DeviceId, random: &mut fastrand::Rng) -> Identity {
    Identity::simulated(&random_bytes(random), id.as_str(), ISSUER).expect("id and issuer are short")
}

impl Application for VirtualThermostat {
    fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        self.reporting.thermostat().write_about("virtual thermostat", out)
    }

    fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn {
        if outbox.is_online()
            && let Some(topic) = self.reach_for.take()
        {
            // If its queue is full, another attack will come.
            let _ = outbox.publish(&topic, b"{}", Qos::AtLeastOnce, false);
        }
        self.reporting.poll(now.instant, outbox, |_| {})
    }

    fn command(&mut self, command: &Command<'_>, _now: Now) -> Reply {
        self.executed.push(command.id().to_owned());
        self.reporting.command(command)
    }

    fn event(&mut self, event: Event<'_>) {
        if let Event::Connected { .. } = event {
            self.sessions += 1;
            self.reporting.connected();
        }
    }
}
