//! A fleet described step by step: how many devices, where they enrol, how they behave. Knows nothing of how they run.

use std::io;
use std::time::Duration;

use hearthkey_agent::Config;

use crate::device::DeviceOptions;
use crate::enrolment::EnrolmentString;
use crate::fleet::{Fleet, FleetOptions};
use crate::owner::{Owner, OwnerError};
use crate::storage::Storage;

/// A fleet to be. Each method has a default that suits a test.
#[derive(Debug)]
pub struct FleetBuilder {
    devices: usize,
    owner: Option<Owner>,
    enrolments: Vec<EnrolmentString>,
    profile: String,
    prefix: String,
    interval: Duration,
    seed: u64,
    time_scale: u32,
    agent: Config,
    options: FleetOptions,
}

/// Why a fleet does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Nothing to enrol with.
    #[error("the devices cannot enrol: give the builder their .owner(…), or .enrolments(…) with a string for each of them")]
    NoEnrolments,
    /// The hub did not add a device.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The system refused a thread.
    #[error("the fleet's threads cannot be started: {0}")]
    System(#[from] io::Error),
}

impl FleetBuilder {
    pub(crate) fn new() -> Self {
        Self {
            devices: 1,
            owner: None,
            enrolments: Vec::new(),
            profile: "thermostat".to_owned(),
            prefix: "sim".to_owned(),
            interval: Duration::from_secs(5),
            seed: 1,
            time_scale: 60,
            agent: Config::DEFAULT,
            options: FleetOptions::default(),
        }
    }

    /// How many (1).
    #[must_use]
    pub fn devices(mut self, devices: usize) -> Self {
        self.devices = devices;
        self
    }

    /// Who adds them at the hub, before they start.
    #[must_use]
    pub fn owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Enrolment strings of devices that were added already; as many devices start.
    #[must_use]
    pub fn enrolments(mut self, enrolments: Vec<EnrolmentString>) -> Self {
        (self.devices, self.enrolments) = (enrolments.len(), enrolments);
        self
    }

    /// The profile that their owner gives them (`thermostat`).
    #[must_use]
    pub fn profile(mut self, profile: &str) -> Self {
        profile.clone_into(&mut self.profile);
        self
    }

    /// They are called `PREFIX-1`, `PREFIX-2` and so on (`sim`).
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Time between two reports of a device (5 s).
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Draws rooms, weather and the moments of reports (1).
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How many seconds pass in a room per second (60).
    #[must_use]
    pub fn time_scale(mut self, time_scale: u32) -> Self {
        self.time_scale = time_scale;
        self
    }

    /// How the agents keep their connections.
    #[must_use]
    pub fn agent(mut self, agent: Config) -> Self {
        self.agent = agent;
        self
    }

    /// The devices start one after another over this time (at once).
    #[must_use]
    pub fn ramp(mut self, ramp: Duration) -> Self {
        self.options.ramp = ramp;
        self
    }

    /// How many devices may be opening their first session at the same time (8).
    #[must_use]
    pub fn starting_at_once(mut self, starting_at_once: usize) -> Self {
        self.options.starting_at_once = starting_at_once;
        self
    }

    /// Threads that the devices share (one per processor).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.options.threads = Some(threads);
        self
    }

    /// Numbers the readings, so that [`Fleet::delivery`] can tell whether the hub lost one.
    #[must_use]
    pub fn number_readings(mut self) -> Self {
        self.options.number_readings = true;
        self
    }

    /// Adds the devices at the hub, if an owner is given, and starts them. Their identities are gone with the fleet.
    ///
    /// # Errors
    /// [`BuildError`]; devices that were added already stay at the hub.
    pub async fn start(self) -> Result<Fleet, BuildError> {
        let enrolments = match &self.owner {
            _ if !self.enrolments.is_empty() => self.enrolments,
            Some(owner) => owner.add_devices(&self.prefix, self.devices, &self.profile, || {}).await?,
            None => return Err(BuildError::NoEnrolments),
        };
        let device = |(enrolment, index): (EnrolmentString, u64)| DeviceOptions {
            enrolment: Some(enrolment),
            interval: self.interval,
            seed: self.seed.wrapping_add(index),
            time_scale: self.time_scale,
            agent: self.agent,
            ..DeviceOptions::stored_in(Storage::memory())
        };
        let devices = enrolments.into_iter().zip(0..).map(device).collect();
        Ok(Fleet::start(devices, self.options)?.0)
    }
}
