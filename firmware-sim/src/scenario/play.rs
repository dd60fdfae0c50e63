//! Plays a scenario by the wall clock: starts its fleet at a real hub, lets things happen, and has judged what was seen.

use std::collections::BTreeSet;
use std::time::Duration;

use hearthkey_agent::{Backoff, Config};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::attack::{Attempts, Battlefield};
use super::file::{Action, Scenario, Step};
use super::network::{BadNetwork, NetworkCounts};
use super::record::Record;
use super::verdict::{Seen, Verdict, judge, notes};
use super::witness::Witness;
use crate::device::DeviceOptions;
use crate::enrolment::EnrolmentString;
use crate::fleet::{Fleet, FleetOptions, POWER_CUT};
use crate::ledger::{Delivery, Ledger};
use crate::local_hub::LocalHub;
use crate::owner::Owner;
use crate::storage::Storage;
use crate::summary::{DeviceState, Summary};

/// How long anything may take that a scenario sets no bound for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks at the fleet while it is watched.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long readings that were acknowledged last may be on their way to the witness.
const STRAGGLERS: Duration = Duration::from_secs(30);
/// Commands that are under way at the same time: the hub lets one principal wait for sixteen.
const COMMANDS_AT_ONCE: usize = 8;
/// How long power or hub are gone if a step does not say.
const DOWN: Duration = Duration::from_secs(1);

/// Where a scenario is played.
#[derive(Debug)]
pub struct Stage {
    /// Who adds, revokes and commands.
    pub owner: Owner,
    /// The hub, if it may be stopped.
    pub hub: Option<LocalHub>,
    /// Devices are called `PREFIX-1` and so on.
    pub prefix: String,
    /// Their profile.
    pub profile: String,
    /// Threads that they share; one per processor if `None`.
    pub threads: Option<usize>,
}

/// What became of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub scenario: String,
    /// What chance drew from.
    pub seed: u64,
    /// Whether it was ended before its end.
    pub interrupted: bool,
    /// How long it took, seconds.
    pub took_s: f64,
    /// Each expectation, and whether it was met.
    pub verdicts: Vec<Verdict>,
    /// What happened that no expectation names.
    pub notes: Vec<String>,
    /// Readings and their fate, if a witness watched.
    pub delivery: Option<Delivery>,
    /// What the bad network did, if there was one.
    pub network: Option<NetworkCounts>,
    /// Counts and latencies.
    pub summary: Summary,
    /// The course of it.
    pub record: Record,
}

/// Why a scenario could not be played to its end.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {problem}")]
pub struct PlayError {
    doing: String,
    problem: String,
}

impl Outcome {
    /// Whether it came as expected, to the end.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        !self.interrupted && self.verdicts.iter().all(|verdict| verdict.met)
    }
}

/// Plays `scenario` until its end or until `interrupted`. `watch` is told a few times a second what goes on.
///
/// # Errors
/// [`PlayError`] when the hub or the system did not do what a story needs; a broken expectation is no error.
///
/// # Panics
/// For a scenario in virtual time.
pub async fn play(
    scenario: &Scenario,
    stage: &mut Stage,
    interrupted: impl Future<Output = ()>,
    mut watch: impl FnMut(&str, &Summary),
) -> Result<Outcome, PlayError> {
    assert!(scenario.clock == super::ClockKind::Wall, "virtual time has a world of its own");
    let began = Instant::now();
    if scenario.needs_own_hub() && stage.hub.is_none() {
        return Err(failed("this scenario stops the hub", "let it start one of its own, with --with-hub"));
    }
    watch("adding the devices", &Summary { devices: scenario.devices, ..Summary::default() });
    let added = stage.owner.add_devices(&stage.prefix, scenario.devices, &stage.profile, || {}).await;
    let strings = added.map_err(|error| failed("adding the devices", error))?;
    let first = hearthkey_agent::Enrolment::parse(strings.first().map_or("", EnrolmentString::as_str));
    let address = first.map_err(|error| failed("reading an enrolment string", error))?.hub().clone();
    let ports = [address.https_port, address.mqtt_port];
    let network = match &scenario.network {
        Some(settings) => {
            let network = BadNetwork::to(&address.host, ports, settings, scenario.seed).await;
            Some(network.map_err(|error| failed("making a bad network", error))?)
        }
        None => None,
    };
    let strings = match &network {
        Some(network) => strings.iter().map(|string| string.by_way_of("127.0.0.1", network.ports())).collect(),
        None => strings,
    };
    // Before the devices: what is acknowledged while nobody listens is promised to nobody.
    let ledger = Ledger::new(scenario.devices);
    let witness = if scenario.expect.no_reading_lost {
        let name = format!("witness-{}", stage.prefix);
        let witness = Witness::start(&stage.owner, &address.host, ports[1], &name, &ledger).await;
        Some(witness.map_err(|error| failed("following the readings", error))?)
    } else {
        None
    };
    let fleet = start_fleet(scenario, stage, strings, ledger.clone())?;
    let mut record = Record::default();
    let story = Story { scenario, host: address.host.to_string(), ports, fleet: &fleet };
    let (mut seen, mut now) = (Seen::default(), "starting".to_owned());
    let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
    let was_interrupted = {
        let telling = story.tell(stage, &mut seen, &told);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        tokio::pin!(telling, interrupted);
        loop {
            tokio::select! {
                told = &mut telling => break told.map(|()| false)?,
                () = &mut interrupted => break true,
                Some(what) = news.recv() => {
                    record.mark(&what);
                    now = what;
                }
                _ = looks.tick() => {
                    record.sample(&fleet);
                    watch(&now, &fleet.summary());
                }
            }
        }
    };
    record.sample(&fleet);
    watch("saying goodbye", &fleet.summary());
    let summary = fleet.stop().await;
    let delivery = match &witness {
        Some(witness) => Some(witness.delivery(STRAGGLERS).await),
        None => None,
    };
    let network = network.as_ref().map(BadNetwork::counts);
    let verdicts = judge(scenario, &seen, &summary, delivery, network.as_ref());
    let notes = notes(scenario, &seen);
    Ok(Outcome {
        scenario: scenario.name.clone(),
        seed: scenario.seed,
        interrupted: was_interrupted,
        took_s: began.elapsed().as_secs_f64(),
        verdicts,
        notes,
        delivery,
        network,
        summary,
        record,
    })
}

fn start_fleet(scenario: &Scenario, stage: &Stage, strings: Vec<EnrolmentString>, ledger: Ledger) -> Result<Fleet, PlayError> {
    let settings = scenario.agent;
    let agent = Config {
        keep_alive: u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX),
        backoff: Backoff { base: settings.backoff_base, cap: settings.backoff_cap, slow: settings.backoff_slow },
        ..Config::DEFAULT
    };
    let devices = strings.into_iter().enumerate().map(|(index, string)| DeviceOptions {
        enrolment: Some(string),
        interval: scenario.interval,
        seed: scenario.seed.wrapping_add(index as u64),
        agent,
        clock_error: scenario.clock_errors.get(index % scenario.clock_errors.len().max(1)).copied(),
        ..DeviceOptions::stored_in(Storage::memory())
    });
    let options = FleetOptions { threads: stage.threads, ramp: scenario.ramp, ..FleetOptions::default() };
    Ok(Fleet::start_with(devices.collect(), options, Some(ledger)).map_err(|error| failed("starting the fleet", error))?.0)
}

struct Story<'a> {
    scenario: &'a Scenario,
    host: String,
    ports: [u16; 2],
    fleet: &'a Fleet,
}

type News = tokio::sync::mpsc::UnboundedSender<String>;

impl Story<'_> {
    async fn tell(&self, stage: &mut Stage, seen: &mut Seen, news: &News) -> Result<(), PlayError> {
        let everyone: BTreeSet<usize> = (0..self.scenario.devices).collect();
        self.recovery("the start", &everyone, &[], self.scenario.ramp, seen).await;
        let began = Instant::now();
        for step in &self.scenario.steps {
            sleep_until(began + step.at).await;
            // Nobody reads the news of a story that was interrupted.
            let _ = news.send(in_words(step));
            self.happen(step, stage, seen).await?;
        }
        sleep_until(began + self.scenario.duration).await;
        self.recovery("the end", &everyone, &[], Duration::ZERO, seen).await;
        seen.end(self.fleet.states());
        Ok(())
    }

    async fn happen(&self, step: &Step, stage: &mut Stage, seen: &mut Seen) -> Result<(), PlayError> {
        let action = *step.r#do.get_ref();
        let chosen = self.choose(step, seen);
        let states = self.fleet.states();
        let before: Vec<u64> = states.iter().map(|state| state.sessions).collect();
        let what = in_words(step);
        match action {
            Action::RestartHub | Action::KillHub => {
                let Some(hub) = &mut stage.hub else { return Err(failed(&what, "the hub is not ours to stop")) };
                let process = hub.process_id();
                let stopped = if action == Action::KillHub { hub.kill().await } else { hub.stop().await };
                stopped.map_err(|error| failed(&what, error))?;
                tokio::time::sleep(step.down.unwrap_or(DOWN)).await;
                hub.start_again().await.map_err(|error| failed(&what, error))?;
                let is_another = process.is_some() && hub.process_id() != process;
                let everyone: BTreeSet<usize> = self.unrevoked(seen).collect();
                self.recovery(&what, &everyone, &before, Duration::ZERO, seen).await;
                let lost = self.count(&everyone, |index, state| is_another && state.sessions > before[index]);
                seen.step(&what, lost, everyone.len(), "lost their session and opened another");
            }
            Action::CutPower => {
                for device in chosen.iter().filter_map(|index| self.fleet.device(*index)) {
                    device.cut_power();
                }
                let is_dark = |state: &DeviceState| !state.online && state.last_reason.as_deref() == Some(POWER_CUT);
                self.fleet.wait_until(PATIENCE, |states| chosen.iter().all(|index| is_dark(&states[*index]))).await;
                seen.step(&what, self.count(&chosen, |_, state| is_dark(state)), chosen.len(), "went dark");
                tokio::time::sleep(step.down.unwrap_or(DOWN)).await;
                for device in chosen.iter().filter_map(|index| self.fleet.device(*index)) {
                    device.restore_power();
                }
                self.recovery(&what, &chosen, &before, Duration::ZERO, seen).await;
            }
            Action::Rotate => {
                for index in &chosen {
                    let id = format!("{}-{}", stage.prefix, index + 1);
                    let string = stage.owner.rotate_device(&id).await.map_err(|error| failed(&what, error))?;
                    if let Some(device) = self.fleet.device(*index) {
                        device.enrol_anew(string);
                    }
                }
                self.recovery(&what, &chosen, &before, Duration::ZERO, seen).await;
                let has_new_key = |index: usize, state: &DeviceState| {
                    state.enrolments > states[index].enrolments && state.id.is_some() && state.id == states[index].id
                };
                seen.step(&what, self.count(&chosen, has_new_key), chosen.len(), "enrolled a new key under their own name");
            }
            Action::Revoke => {
                seen.before_revocation(|| states);
                self.revoke(&chosen, stage, seen).await.map_err(|error| failed(&what, error))?;
                seen.step(&what, chosen.iter().filter(|index| seen.revoked.contains_key(index)).count(), chosen.len(), "revoked");
            }
            Action::Command => {
                let taken = self.command(&chosen, stage, seen).await;
                seen.step(&what, taken, chosen.len(), "commands were taken by the hub");
            }
            Action::StolenToken => self.attack(Battlefield::stolen_token, &what, stage, seen).await?,
            Action::ReplayedAssertion => self.attack(Battlefield::replayed_assertion, &what, stage, seen).await?,
            Action::ForeignTopics => self.attack(Battlefield::foreign_topics, &what, stage, seen).await?,
            Action::Flood => self.attack(Battlefield::flood, &what, stage, seen).await?,
        }
        Ok(())
    }

    fn unrevoked(&self, seen: &Seen) -> impl Iterator<Item = usize> {
        (0..self.scenario.devices).filter(|index| !seen.revoked.contains_key(index))
    }

    /// Of how many of `devices` `is_so` is true now, given the index of each.
    fn count(&self, devices: &BTreeSet<usize>, is_so: impl Fn(usize, &DeviceState) -> bool) -> usize {
        let states = self.fleet.states();
        devices.iter().filter(|index| states.get(**index).is_some_and(|state| is_so(**index, state))).count()
    }

    /// Draws from those who are not revoked.
    fn choose(&self, step: &Step, seen: &Seen) -> BTreeSet<usize> {
        let mut candidates: Vec<usize> = self.unrevoked(seen).collect();
        let mut random = fastrand::Rng::with_seed(self.scenario.seed ^ step.at.as_millis() as u64);
        random.shuffle(&mut candidates);
        candidates.truncate(step.count_of(self.scenario.devices));
        candidates.into_iter().collect()
    }

    /// Waits until each of the devices was seen online since, those who are revoked excepted. With `before`, a session counts
    /// only if it is a later one.
    async fn recovery(&self, what: &str, devices: &BTreeSet<usize>, before: &[u64], grace: Duration, seen: &mut Seen) {
        let began = Instant::now();
        let mut missing: BTreeSet<usize> = devices.iter().copied().filter(|index| !seen.revoked.contains_key(index)).collect();
        let bound = self.scenario.expect.online_within.unwrap_or(PATIENCE) + grace;
        let back = |states: &[DeviceState]| {
            missing.retain(|index| {
                let state = &states[*index];
                let earlier = before.get(*index).copied();
                let is_back = earlier.map_or(state.online, |earlier| state.sessions > earlier);
                !is_back
            });
            missing.is_empty()
        };
        self.fleet.wait_until(bound, back).await;
        seen.recoveries.push((what.to_owned(), began.elapsed(), missing.len()));
    }

    async fn revoke(&self, chosen: &BTreeSet<usize>, stage: &Stage, seen: &mut Seen) -> Result<(), crate::OwnerError> {
        for index in chosen {
            let asked = Instant::now();
            stage.owner.revoke_device(&format!("{}-{}", stage.prefix, index + 1)).await?;
            let bound = self.scenario.expect.revoked_within.unwrap_or(PATIENCE);
            if self.fleet.wait_until(bound, |states| !states[*index].online).await {
                seen.cut_after.push(asked.elapsed());
            } else {
                seen.went_on.insert(*index);
            }
            let sessions = self.fleet.states().get(*index).map(|state| state.sessions).unwrap_or_default();
            seen.revoked.insert(*index, sessions);
        }
        Ok(())
    }

    /// How many of the commands the hub took.
    async fn command(&self, chosen: &BTreeSet<usize>, stage: &Stage, seen: &mut Seen) -> usize {
        use futures_util::StreamExt as _;
        let owner = &stage.owner;
        let sending = chosen.iter().map(|index| async move { self.fleet.command(owner, *index, "identify", None).await });
        let ends: Vec<_> = futures_util::stream::iter(sending).buffer_unordered(COMMANDS_AT_ONCE).collect().await;
        let taken = ends.iter().filter(|end| end.is_ok()).count();
        for end in ends {
            seen.commands += 1;
            match end {
                Ok(end) if end.state == "succeeded" => {}
                Ok(end) => seen.failed_commands.push(format!("{}: {}", end.state, end.reason.unwrap_or_default())),
                Err(error) => seen.failed_commands.push(error.to_string()),
            }
        }
        taken
    }

    async fn attack<'s>(
        &'s self,
        way: impl AsyncFnOnce(&Battlefield<'s>) -> Result<Attempts, String>,
        what: &str,
        stage: &'s Stage,
        seen: &mut Seen,
    ) -> Result<(), PlayError> {
        let battlefield = Battlefield {
            owner: &stage.owner,
            fleet: self.fleet,
            host: &self.host,
            ports: self.ports,
            prefix: &stage.prefix,
            profile: &stage.profile,
            seed: self.scenario.seed,
        };
        let attempts = way(&battlefield).await.map_err(|error| failed(what, error))?;
        seen.attack(what, attempts);
        Ok(())
    }
}

fn in_words(step: &Step) -> String {
    match step.r#do.get_ref() {
        Action::RestartHub => "the hub restarts",
        Action::KillHub => "the hub is killed",
        Action::CutPower => "the power fails",
        Action::Rotate => "keys are rotated",
        Action::Revoke => "devices are revoked",
        Action::Command => "devices are commanded",
        Action::StolenToken => "a stolen token is used",
        Action::ReplayedAssertion => "an assertion is replayed",
        Action::ForeignTopics => "foreign topics are tried",
        Action::Flood => "the hub is flooded",
    }
    .to_owned()
}

fn failed(doing: &str, problem: impl std::fmt::Display) -> PlayError {
    PlayError { doing: doing.to_owned(), problem: problem.to_string() }
}
