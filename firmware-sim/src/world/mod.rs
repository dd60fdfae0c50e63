//! A home in virtual time: real agents, the hub's real core, a simulated network and clock, and chance drawn from a seed.
//! A year of a hundred devices passes in seconds, and after each step the world looks whether it still is as it should be.
//!
//! Real: the agent's state machine with its signatures (`hearthkey_agent::sans_io`), the thermostat, and every decision of
//! the hub's core. Simulated: network, clock, power, storage, chance. Left out: TLS and enrolment over HTTP (real sockets
//! test those), and what [`hub`] names.

mod device;
mod hub;
mod truth;
mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hasher as _;
use std::time::Duration;

use hearthkey_agent::{Backoff, Config};
use hearthkey_core::{DeviceId, UnixTime};
use serde::Serialize;

use self::device::{Deed, VirtualDevice};
use self::hub::{ConnectionId, Hub, Output, random_bytes};
use self::truth::Truth;
use crate::scenario::{Chances, Scenario};

/// The world begins on 2026-01-01.
const BEGINNING: u64 = 1_767_225_600;
/// A year, as chances count it.
const YEAR_MS: f64 = 365.0 * 86_400_000.0;
/// What is to be expected so often does come: that it stays away altogether has a chance of one in 20,000.
const PROMISED: f64 = 10.0;
/// How often the hub sweeps and the whole world is looked at.
const LOOK_EVERY_MS: u64 = 600_000;
/// The longest that a device or the hub is without power.
const LONGEST_OUTAGE_MS: u64 = 3_600_000;
/// In a home where power fails, one of so many commands costs its device the power (a relay, a bug in the firmware).
const ONE_COMMAND_IN: u8 = 8;
/// And the device is back within this, when the command still waits.
const LATEST_REBOOT_MS: u64 = 60_000;
/// How long a disabled device waits for its owner at most.
const LONGEST_PAUSE_MS: u64 = 86_400_000;
/// A packet takes from the first to the second to its destination.
const LATENCY_MS: std::ops::Range<u64> = 2..60;
/// Token requests that an eavesdropper keeps, to use them again.
const OVERHEARD: usize = 64;

/// A way to break the world on purpose: the control that its checks can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Sabotage {
    AcceptForeignTopics,
    KeepRevokedSessions,
    ForgetUsedAssertions,
    KeepEveryRow,
    LockOut,
    KeepBothSessions,
    ForgetSequences,
    InventCommands,
    EndCommandsTwice,
    EndCommandsEarly,
    HearTheCut,
    IssueToAnyone,
    KeepDeadConnections,
    LeaveLinksOpen,
    LeaveWakesDue,
    OutliveTokens,
}

/// What happened in a world.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Chronicle {
    /// What chance drew from.
    pub seed: u64,
    /// Virtual time that passed, seconds.
    pub passed_s: u64,
    /// Steps that were taken, each followed by its checks.
    pub steps: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Tokens that were issued, with sessions and by renewal.
    pub tokens: u64,
    /// Publishes that the hub accepted.
    pub accepted: u64,
    /// Publishes that the hub refused: of devices that reached for what is not theirs.
    pub refused: u64,
    /// Commands that were sent.
    pub commands: u64,
    /// Commands whose device told their end.
    pub commands_ended: u64,
    /// Power cuts of devices.
    pub power_cuts: u64,
    /// Connections that broke.
    pub breaks: u64,
    /// Restarts of the hub.
    pub hub_restarts: u64,
    /// Keys that were replaced.
    pub rotations: u64,
    /// Devices that were disabled for a while.
    pub disablings: u64,
    /// Devices that were revoked.
    pub revocations: u64,
    /// Assertions that were replayed, all in vain.
    pub replays: u64,
    /// Most rows that the hub kept at a time.
    pub most_rows: usize,
    /// The longest that a device which should have had a session had none, seconds.
    pub longest_absence_s: u64,
    /// A digest of every packet: two worlds of one seed have the same. Hexadecimal in JSON, whose numbers are too short.
    #[serde(serialize_with = "in_hexadecimal")]
    pub digest: u64,
}

impl Chronicle {
    /// What `chances` promise to so many devices in the time that passed, and how often it came. What is so rare that it may well
    /// not come is no promise.
    #[must_use]
    pub fn of_promised(&self, chances: &Chances, devices: usize) -> Vec<(&'static str, u64)> {
        let years = self.passed_s as f64 * 1e3 / YEAR_MS;
        // To the revoked nothing happens any more, and a small home may lose all.
        let survivors = devices.saturating_sub(usize::try_from(self.revocations).unwrap_or(usize::MAX));
        let alive = survivors as f64 / devices.max(1) as f64;
        let all = [
            (Chance::PowerCut, 1.0, "power cuts", self.power_cuts),
            (Chance::Break, 1.0, "breaks", self.breaks),
            (Chance::HubRestart, 1.0, "hub restarts", self.hub_restarts),
            (Chance::Command, 1.0, "commands", self.commands),
            (Chance::Rotation, 1.0, "rotations", self.rotations),
            (Chance::Disabling, 1.0, "disablings", self.disablings),
            (Chance::Revocation, 1.0, "revocations", self.revocations),
            // One of two attacks is the one, the other the other.
            (Chance::Attack, 0.5 * alive, "replays", self.replays),
            (Chance::Attack, 0.5 * alive, "refused publishes", self.refused),
        ];
        let is_promised = |chance: Chance, share| chance.in_a_year(chances, survivors) * share * years >= PROMISED;
        let promised = all.into_iter().filter(|(chance, share, ..)| is_promised(*chance, *share));
        promised.map(|(_, _, name, count)| (name, count)).collect()
    }
}

/// The world is not as it should be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("seed {seed}, day {}, step {step}: {what}; the same seed shows it again", .at_ms / 86_400_000)]
pub struct Violation {
    /// What chance drew from.
    pub seed: u64,
    /// When, milliseconds since the beginning.
    pub at_ms: u64,
    /// After how many steps.
    pub step: u64,
    /// What should not be.
    pub what: String,
}

/// A world that goes from step to step.
pub struct World {
    now_ms: u64,
    end_ms: u64,
    order: u64,
    due: BTreeMap<(u64, u64), Event>,
    hub: Hub,
    /// Until when the hub is down.
    hub_down_until: u64,
    devices: Vec<VirtualDevice>,
    chances: Chances,
    links: BTreeMap<ConnectionId, Link>,
    next_connection: ConnectionId,
    overheard: VecDeque<Vec<u8>>,
    random: fastrand::Rng,
    truth: Truth,
    chronicle: Chronicle,
    digest: std::hash::DefaultHasher,
    sabotage: Option<Sabotage>,
}

/// A connection between a device and the hub.
struct Link {
    device: usize,
    latency_ms: u64,
    /// Nothing arrives any more, and nobody is told.
    half_open: bool,
    /// When the hub looks at it next.
    look_at: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
enum Event {
    Wake(usize),
    ToHub(ConnectionId, Vec<u8>),
    ToDevice(ConnectionId, Vec<u8>),
    ClosedForHub(ConnectionId),
    ClosedForDevice(ConnectionId),
    HubLook(ConnectionId),
    HubUp,
    Look,
    PowerUp(usize),
    Enable(usize),
    Chance(Chance),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chance {
    PowerCut,
    Break,
    HubRestart,
    Command,
    Rotation,
    Disabling,
    Revocation,
    Attack,
}

impl Chance {
    /// How often it comes in a year of so many devices.
    fn in_a_year(self, chances: &Chances, devices: usize) -> f64 {
        let Chances { power_cuts, breaks, hub_restarts, commands, rotations, disablings, revocations, attacks } = chances;
        let each = |chance: &f64| chance * devices as f64;
        match self {
            Self::PowerCut => each(power_cuts),
            Self::Break => each(breaks),
            Self::HubRestart => *hub_restarts,
            Self::Command => each(commands),
            Self::Rotation => each(rotations),
            Self::Disabling => each(disablings),
            Self::Revocation => *revocations,
            Self::Attack => *attacks,
        }
    }
}

impl World {
    /// The world of a scenario in virtual time.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        Self::with_sabotage(scenario, None)
    }

    /// A world that is broken on purpose.
    #[must_use]
    #[doc(hidden)]
    pub fn with_sabotage(scenario: &Scenario, sabotage: Option<Sabotage>) -> Self {
        let mut random = fastrand::Rng::with_seed(scenario.seed);
        let hub = Hub::new(random.fork(), date(0), sabotage);
        let settings = scenario.agent;
        let config = Config {
            keep_alive: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
            session_expiry: 0,
            backoff: Backoff { base: settings.backoff_base, cap: settings.backoff_cap, slow: settings.backoff_slow },
        };
        let patience = 2 * settings.keep_alive + settings.backoff_cap + settings.backoff_slow;
        let mut world = Self {
            now_ms: 0,
            end_ms: scenario.duration.as_millis() as u64,
            order: 0,
            due: BTreeMap::new(),
            hub,
            hub_down_until: 0,
            devices: Vec::new(),
            chances: scenario.chances.unwrap_or_default(),
            links: BTreeMap::new(),
            next_connection: 0,
            overheard: VecDeque::new(),
            random,
            truth: Truth::new(scenario.devices, patience + Duration::from_millis(LOOK_EVERY_MS)),
            chronicle: Chronicle { seed: scenario.seed, ..Chronicle::default() },
            digest: std::hash::DefaultHasher::new(),
            sabotage,
        };
        let ramp_ms = scenario.ramp.as_millis() as u64 + 60_000;
        for index in 0..scenario.devices {
            let id = DeviceId::parse(&format!("virtual-{}", index + 1)).expect("legal");
            let seed = scenario.seed.wrapping_add(index as u64);
            let mut device = VirtualDevice::new(&id, config, scenario.interval, seed, &mut world.random);
            if sabotage == Some(Sabotage::ForgetSequences) {
                device.forget_sequences();
            }
            world.hub.add_device(&id, &device.point(), date(0));
            world.devices.push(device);
            let at = world.random.u64(..ramp_ms);
            world.at(at, Event::Wake(index));
        }
        world.at(LOOK_EVERY_MS, Event::Look);
        for chance in [
            Chance::PowerCut,
            Chance::Break,
            Chance::HubRestart,
            Chance::Command,
            Chance::Rotation,
            Chance::Disabling,
            Chance::Revocation,
            Chance::Attack,
        ] {
            world.draw(chance);
        }
        world
    }

    /// Lets the whole time pass.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run(mut self) -> Result<Chronicle, Violation> {
        while self.step()? {}
        Ok(self.chronicle())
    }

    /// Takes one step; false when the time is over.
    ///
    /// # Errors
    /// [`Violation`], and then the world is of no further use.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some(((at, _), event)) = self.due.pop_first() else { return Ok(false) };
        if at >= self.end_ms {
            self.now_ms = self.end_ms;
            return Ok(false);
        }
        self.now_ms = at;
        self.chronicle.steps += 1;
        self.happen(event).map_err(|what| self.violation(what))?;
        Ok(true)
    }

    /// What happened so far.
    #[must_use]
    pub fn chronicle(&self) -> Chronicle {
        let (passed_s, digest) = (self.now_ms / 1_000, self.digest.finish());
        let sessions = self.devices.iter().map(VirtualDevice::sessions).sum();
        Chronicle {
            passed_s,
            digest,
            sessions,
            longest_absence_s: self.truth.longest_absence_ms / 1_000,
            ..self.chronicle.clone()
        }
    }

    fn violation(&self, what: String) -> Violation {
        Violation { seed: self.chronicle.seed, at_ms: self.now_ms, step: self.chronicle.steps, what }
    }

    fn at(&mut self, at: u64, event: Event) -> (u64, u64) {
        self.order += 1;
        self.due.insert((at, self.order), event);
        (at, self.order)
    }

    fn hub_is_up(&self) -> bool {
        self.now_ms >= self.hub_down_until
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Wake(index) => {
                self.devices[index].wake = None;
                self.drive(index)
            }
            Event::ToHub(id, packet) => {
                self.digest.write(&packet);
                let mut out = Vec::new();
                self.hub.receive(id, &packet, self.now_ms, &mut out)?;
                self.perform(out)?;
                self.look_at_connection_in_time(id);
                Ok(())
            }
            Event::ToDevice(id, packet) => {
                self.digest.write(&packet);
                let Some(index) = self.links.get(&id).map(|link| link.device) else { return Ok(()) };
                if self.devices[index].connection != Some(id) {
                    return Ok(());
                }
                let received = self.devices[index].receive(&packet, self.now_ms);
                for command in self.devices[index].executed() {
                    self.truth.executed(index, &command)?;
                    if self.chances.power_cuts > 0.0 && self.random.u8(..ONE_COMMAND_IN) == 0 {
                        // Before anybody hears of it.
                        self.chronicle.power_cuts += 1;
                        let after = self.random.u64(1_000..LATEST_REBOOT_MS);
                        self.lose_power(index, after);
                        return Ok(());
                    }
                }
                match received {
                    Ok(()) => self.drive(index),
                    Err(ending) => self.device_ends(index, &ending),
                }
            }
            Event::ClosedForHub(id) => {
                self.hub.lost(id);
                Ok(())
            }
            Event::ClosedForDevice(id) => {
                let Some(link) = self.links.remove(&id) else { return Ok(()) };
                if self.devices[link.device].connection == Some(id) {
                    return self.device_ends(link.device, &device::broken());
                }
                Ok(())
            }
            Event::HubLook(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.look_at = None;
                }
                let mut out = Vec::new();
                self.hub.tick(id, self.now_ms, &mut out);
                self.perform(out)?;
                self.look_at_connection_in_time(id);
                Ok(())
            }
            Event::HubUp => Ok(()),
            Event::Look => self.look(),
            Event::PowerUp(index) => {
                self.devices[index].powered = true;
                self.drive(index)
            }
            Event::Enable(index) => {
                if self.truth.is_revoked(index) {
                    return Ok(());
                }
                let mut out = Vec::new();
                let id = self.devices[index].id.clone();
                self.hub.set_enabled(&id, true, date(self.now_ms), &mut out);
                self.truth.enabled(index, self.now_ms);
                self.perform(out)
            }
            Event::Chance(chance) => {
                self.draw(chance);
                if self.hub_is_up() { self.strike(chance) } else { Ok(()) }
            }
        }
    }

    /// Draws when this happens next.
    fn draw(&mut self, chance: Chance) {
        let in_a_year = chance.in_a_year(&self.chances, self.devices.len());
        if in_a_year > 0.0 {
            let after = YEAR_MS / in_a_year * -(1.0 - self.random.f64()).ln();
            self.at(self.now_ms + after as u64 + 1, Event::Chance(chance));
        }
    }

    fn strike(&mut self, chance: Chance) -> Result<(), String> {
        let index = self.random.usize(..self.devices.len());
        let (now, mut out) = (date(self.now_ms), Vec::new());
        let id = self.devices[index].id.clone();
        match chance {
            Chance::PowerCut if self.devices[index].powered => {
                self.chronicle.power_cuts += 1;
                let after = self.random.u64(1_000..LONGEST_OUTAGE_MS);
                self.lose_power(index, after);
            }
            Chance::Break => {
                let Some(id) = self.devices[index].connection else { return Ok(()) };
                self.chronicle.breaks += 1;
                let half_open = self.random.bool();
                if half_open {
                    self.links.entry(id).and_modify(|link| link.half_open = true);
                } else {
                    self.at(self.now_ms, Event::ClosedForHub(id));
                    self.at(self.now_ms, Event::ClosedForDevice(id));
                }
            }
            Chance::HubRestart => {
                self.chronicle.hub_restarts += 1;
                self.hub.restart();
                let told = self.links.iter().filter(|(_, link)| !link.half_open);
                let ids: Vec<_> = told.map(|(id, _)| *id).collect();
                for id in ids {
                    self.at(self.now_ms + 1, Event::ClosedForDevice(id));
                }
                self.hub_down_until = self.now_ms + self.random.u64(1_000..LONGEST_OUTAGE_MS);
                self.at(self.hub_down_until, Event::HubUp);
            }
            Chance::Command => {
                if let Some(command) = self.hub.command(&id, now, &mut out) {
                    self.chronicle.commands += 1;
                    self.truth.commanded(index, command);
                }
            }
            Chance::Rotation if self.truth.may_rotate(index) && self.devices[index].powered => {
                self.chronicle.rotations += 1;
                self.devices[index].replace_key(&mut self.random);
                let point = self.devices[index].point();
                self.hub.rotate_device(&id, &point, now);
                self.lose_power(index, 1_000);
            }
            Chance::Disabling if self.truth.is_active(index) => {
                self.chronicle.disablings += 1;
                self.truth.disabled(index);
                self.hub.set_enabled(&id, false, now, &mut out);
                let after = self.random.u64(60_000..LONGEST_PAUSE_MS);
                self.at(self.now_ms + after, Event::Enable(index));
            }
            Chance::Revocation if !self.truth.is_revoked(index) => {
                self.chronicle.revocations += 1;
                self.truth.revoked(index);
                self.hub.revoke(&id, now, &mut out);
            }
            Chance::Attack => return self.attack(index),
            Chance::PowerCut | Chance::Rotation | Chance::Disabling | Chance::Revocation => {}
        }
        self.perform(out)?;
        self.truth.sessions_are_right(&self.hub, now)
    }

    /// Somebody uses an overheard request again, or a device's firmware reaches for what is not its own.
    fn attack(&mut self, index: usize) -> Result<(), String> {
        if self.random.bool() {
            let neighbour = self.random.usize(..self.devices.len()) + 2;
            let topic = match self.random.u8(..3) {
                0 => format!("dev/virtual-{neighbour}-x/state"),
                1 => format!("dev/{}/cmd/identify", self.devices[index].id),
                _ => "home/door".to_owned(),
            };
            self.devices[index].reach_for(topic);
            return self.drive(index);
        }
        // The newest is the one that could still be good.
        let overheard = if self.random.bool() { self.overheard.back() } else { self.random.choice(&self.overheard) };
        let Some(form) = overheard.cloned() else { return Ok(()) };
        self.chronicle.replays += 1;
        match self.hub.token(&form, date(self.now_ms), &mut Vec::new()) {
            Ok(_) => Err("an overheard token request was good a second time".to_owned()),
            Err(_) => Ok(()),
        }
    }

    /// Looks at everything, and lets the hub sweep.
    fn look(&mut self) -> Result<(), String> {
        self.at(self.now_ms + LOOK_EVERY_MS, Event::Look);
        let now = date(self.now_ms);
        if self.hub_is_up() {
            self.hub.sweep(now);
            self.truth.sessions_are_right(&self.hub, now)?;
        } else {
            self.truth.hub_is_down();
        }
        let (rows, connections) = self.hub.size();
        self.chronicle.most_rows = self.chronicle.most_rows.max(rows);
        self.truth.nothing_grows(rows, connections, self.due.len(), self.links.len())?;
        let present: BTreeSet<_> = self.hub.sessions().map(|(id, ..)| id).collect();
        for (index, device) in self.devices.iter().enumerate() {
            self.truth.is_reachable(index, device, present.contains(&device.id), self.now_ms)?;
        }
        Ok(())
    }

    fn lose_power(&mut self, index: usize, for_ms: u64) {
        self.drop_connection(index);
        self.devices[index].lose_power();
        self.at(self.now_ms + for_ms, Event::PowerUp(index));
    }

    /// The device's end of its connection is gone; the hub hears of it, if the way is open.
    fn drop_connection(&mut self, index: usize) {
        let Some(id) = self.devices[index].connection.take() else { return };
        let Some(link) = self.links.get(&id) else { return };
        if !link.half_open {
            self.at(self.now_ms + link.latency_ms, Event::ClosedForHub(id));
        }
        if self.sabotage == Some(Sabotage::LeaveLinksOpen) {
            return;
        }
        if let Some(at) = self.links.remove(&id).and_then(|link| link.look_at) {
            // The hub goes on looking at it by itself.
            self.at(at.0, Event::HubLook(id));
            self.due.remove(&at);
        }
    }

    fn device_ends(&mut self, index: usize, ending: &hearthkey_agent::Ending) -> Result<(), String> {
        self.drop_connection(index);
        self.devices[index].ended(ending, self.now_ms);
        self.drive(index)
    }

    /// Lets a device do what it has to do now, and notes when it wants to be woken.
    fn drive(&mut self, index: usize) -> Result<(), String> {
        loop {
            let wake = self.devices[index].wake.take().filter(|_| self.sabotage != Some(Sabotage::LeaveWakesDue));
            if let Some(at) = wake {
                self.due.remove(&at);
            }
            let deeds = self.devices[index].drive(self.now_ms);
            let (mut ended, mut again) = (None, false);
            for deed in deeds {
                match deed {
                    Deed::Connect => {
                        self.connect(index);
                        again = true;
                    }
                    Deed::Send(packet) => {
                        let Some(id) = self.devices[index].connection else { continue };
                        let Some(link) = self.links.get(&id).filter(|link| !link.half_open) else { continue };
                        let at = self.now_ms + link.latency_ms;
                        self.at(at, Event::ToHub(id, packet));
                    }
                    Deed::Ended(ending) => ended = Some(ending),
                    Deed::WakeAt(at) => {
                        let key = self.at(at.max(self.now_ms + 1), Event::Wake(index));
                        self.devices[index].wake = Some(key);
                    }
                }
            }
            if let Some(ending) = ended {
                self.drop_connection(index);
                self.devices[index].ended(&ending, self.now_ms);
                again = true;
            }
            if !again {
                return Ok(());
            }
        }
    }

    fn connect(&mut self, index: usize) {
        let seed = random_bytes(&mut self.random);
        if !self.hub_is_up() {
            self.devices[index].refused(self.now_ms);
            return;
        }
        self.next_connection += 1;
        let (id, latency_ms) = (self.next_connection, self.random.u64(LATENCY_MS));
        self.links.insert(id, Link { device: index, latency_ms, half_open: false, look_at: None });
        self.hub.opened(id, self.now_ms);
        self.devices[index].connected(id, &seed, self.now_ms);
        self.look_at_connection_in_time(id);
    }

    /// Has the hub look at a connection when its time may be over.
    fn look_at_connection_in_time(&mut self, id: ConnectionId) {
        let Some(deadline) = self.hub.deadline_ms(id) else { return };
        let scheduled = self.links.get(&id).and_then(|link| link.look_at);
        if scheduled.is_some_and(|(at, _)| at <= deadline) {
            return;
        }
        if let Some(later) = scheduled {
            self.due.remove(&later);
        }
        let key = self.at(deadline.max(self.now_ms + 1), Event::HubLook(id));
        if let Some(link) = self.links.get_mut(&id) {
            link.look_at = Some(key);
        }
    }

    /// Does what the hub wants, and checks it against what should be.
    fn perform(&mut self, outputs: Vec<Output>) -> Result<(), String> {
        for output in outputs {
            match output {
                Output::Send(id, packet) => self.send_to_device(id, packet),
                Output::Close(id, packet) => {
                    if !packet.is_empty() {
                        self.send_to_device(id, packet);
                    }
                    if let Some(link) = self.links.get(&id).filter(|link| !link.half_open) {
                        self.at(self.now_ms + link.latency_ms, Event::ClosedForDevice(id));
                    }
                }
                Output::Accepted { by, topic } => {
                    self.chronicle.accepted += 1;
                    self.truth.accepted(&by, &topic)?;
                }
                Output::Refused => self.chronicle.refused += 1,
                Output::Issued { to, request } => {
                    self.chronicle.tokens += 1;
                    self.truth.issued(&to, &request)?;
                    if self.overheard.len() == OVERHEARD {
                        self.overheard.pop_front();
                    }
                    self.overheard.push_back(request);
                }
                Output::CommandEnded { device, id } => {
                    self.chronicle.commands_ended += 1;
                    self.truth.command_ended(&device, &id)?;
                }
            }
        }
        Ok(())
    }

    fn send_to_device(&mut self, id: ConnectionId, packet: Vec<u8>) {
        if let Some(link) = self.links.get(&id).filter(|link| !link.half_open) {
            let at = self.now_ms + link.latency_ms;
            self.at(at, Event::ToDevice(id, packet));
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now_ms", &self.now_ms).field("chronicle", &self.chronicle).finish_non_exhaustive()
    }
}

fn in_hexadecimal<S: serde::Serializer>(digest: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{digest:016x}"))
}

fn date(now_ms: u64) -> UnixTime {
    UnixTime(BEGINNING + now_ms / 1_000)
}

/// The first moment of a date, in the world's time.
fn millis(date: UnixTime) -> u64 {
    date.0.saturating_sub(BEGINNING).saturating_mul(1_000)
}
