//! The real agent over real sockets and TLS, as a device of a test.

use std::time::Duration;

use hearthkey_sim::{
    Backoff, Config, DeviceOptions, Events, Fleet, FleetOptions, PublishError, SimEvent, SimEventKind, Storage, Summary,
};

use crate::patience::{PATIENCE, within};

/// Time between two reports of a device: tests want to see some.
const INTERVAL: Duration = Duration::from_millis(250);
/// A device of a test need not spare its hub.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(100), cap: Duration::from_millis(500), slow: Duration::from_millis(500) };

/// One device that runs the real agent.
#[derive(Debug)]
pub struct Agent {
    fleet: Fleet,
    events: Events,
    seen: Vec<SimEvent>,
}

impl Agent {
    /// A device that has been given its enrolment string.
    ///
    /// # Panics
    /// When it is none.
    pub fn enrol(enrolment_string: &str) -> Self {
        let enrolment = enrolment_string.parse().expect("an enrolment string");
        Self::run(DeviceOptions::enrolling(enrolment))
    }

    /// A device that keeps its identity in `storage`, with an enrolment string for the first time.
    ///
    /// # Panics
    /// When it is none.
    pub fn stored(storage: Storage, enrolment_string: Option<&str>) -> Self {
        let enrolment = enrolment_string.map(|string| string.parse().expect("an enrolment string"));
        Self::run(DeviceOptions { enrolment, ..DeviceOptions::stored_in(storage) })
    }

    fn run(options: DeviceOptions) -> Self {
        let options = DeviceOptions {
            interval: INTERVAL,
            seed: fastrand::u64(..),
            agent: Config { backoff: BACKOFF, ..Config::DEFAULT },
            ..options
        };
        let fleet = Fleet::start(vec![options], FleetOptions { threads: Some(1), ..FleetOptions::default() });
        let (fleet, events) = fleet.expect("a thread");
        Self { fleet, events, seen: Vec::new() }
    }

    /// What `look` sees in the next event that shows it something; events before that are passed over.
    ///
    /// # Panics
    /// When no such event comes.
    pub async fn event<T>(&mut self, what: &str, mut look: impl FnMut(&SimEventKind) -> Option<T>) -> T {
        let waiting = tokio::time::timeout(PATIENCE, async {
            while let Some(event) = self.events.next().await {
                let seen = look(&event.kind);
                self.seen.push(event);
                if seen.is_some() {
                    return seen;
                }
            }
            None
        });
        let outcome = waiting.await;
        match outcome {
            Ok(Some(seen)) => seen,
            Ok(None) => panic!("the device stopped without {what}: {:#?}", self.seen),
            Err(_) => panic!("the device never had {what}: {:#?}", self.seen),
        }
    }

    /// Waits for a session.
    pub async fn connected(&mut self) {
        self.event("a session", |event| matches!(event, SimEventKind::Connected { .. }).then_some(())).await;
    }

    /// Waits for the end of its session, and answers why it ended.
    pub async fn disconnected(&mut self) -> String {
        self.event("the end of its session", |event| match event {
            SimEventKind::Disconnected { reason } => Some(reason.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until the hub has acknowledged telemetry; its payload.
    pub async fn telemetry(&mut self) -> String {
        self.event("telemetry that was acknowledged", |event| match event {
            SimEventKind::Acknowledged { topic, payload, .. } if topic.contains("/tele/") => Some(payload.clone()),
            _ => None,
        })
        .await
    }

    /// Waits until it gives up; why, when nobody asked it to stop.
    pub async fn stopped(&mut self) -> Option<String> {
        self.event("its end", |event| match event {
            SimEventKind::Stopped { failure } => Some(failure.clone()),
            _ => None,
        })
        .await
    }

    /// Has it publish, to topics that are not its own too, and waits for the hub's answer.
    ///
    /// # Errors
    /// What the hub refuses.
    ///
    /// # Panics
    /// When the hub does not answer.
    pub async fn publish(&self, topic: &str, payload: &str) -> Result<(), PublishError> {
        let device = self.fleet.device(0).expect("one device");
        within("an answer to a publish", device.publish(topic, payload)).await
    }

    /// Counts so far.
    pub fn summary(&self) -> Summary {
        self.fleet.summary()
    }

    /// All events that were looked at.
    pub fn seen(&self) -> &[SimEvent] {
        &self.seen
    }

    /// Says goodbye.
    pub async fn leave(self) -> Summary {
        self.fleet.stop().await
    }
}
