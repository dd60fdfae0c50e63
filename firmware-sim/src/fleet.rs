//! Many devices on a few threads: starting, watching, driving and stopping them. Knows nothing of what a device does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::builder::FleetBuilder;
use crate::device::{self, DeviceOptions};
use crate::event::{EventDoor, EventSink, Events, SimEvent, SimEventKind};
use crate::handle::{DeviceHandle, Orders};
use crate::ledger::{Delivery, Ledger};
use crate::owner::{CommandEnd, Owner, OwnerError};
use crate::summary::{DeviceState, Summary, Tally, Window};

/// A device that has not said goodbye by then is dropped, and the hub publishes its will. The agent takes up to 5 s.
const FAREWELL: Duration = Duration::from_secs(8);

/// Why the session of a device ended that lost its power.
pub(crate) const POWER_CUT: &str = "power cut";

/// How a fleet runs.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Threads that the devices share; one per processor if `None`.
    pub threads: Option<usize>,
    /// How many devices may be opening their first session at the same time: a fleet that starts at once would
    /// measure its own queue.
    pub starting_at_once: usize,
    /// Devices start one after another over this time; zero starts them all.
    pub ramp: Duration,
    /// Whether each reading bears a number, so that [`Fleet::delivery`] can tell whether the hub lost any.
    pub number_readings: bool,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self { threads: None, starting_at_once: 8, ramp: Duration::ZERO, number_readings: false }
    }
}

/// Running devices. They stop when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    devices: Vec<DeviceHandle>,
    threads: Vec<thread::JoinHandle<()>>,
    tally: Tally,
    ledger: Option<Ledger>,
    events: EventDoor,
}

/// Not every device came online.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{online} of {devices} devices are online{}", self.in_words())]
pub struct NotOnline {
    /// How many are.
    pub online: usize,
    /// How many there are.
    pub devices: usize,
    /// Why some are not, each with how many.
    pub reasons: BTreeMap<String, usize>,
}

impl NotOnline {
    fn in_words(&self) -> String {
        self.reasons.iter().map(|(reason, count)| format!("; {count} x {reason}")).collect()
    }
}

impl Fleet {
    /// A fleet that is described step by step; see [`FleetBuilder`].
    pub fn builder() -> FleetBuilder {
        FleetBuilder::new()
    }

    /// Starts the devices and answers the events from the very first on.
    ///
    /// # Errors
    /// When the system refuses a thread or its event queue.
    pub fn start(devices: Vec<DeviceOptions>, options: FleetOptions) -> io::Result<(Self, Events)> {
        let ledger = options.number_readings.then(|| Ledger::new(devices.len()));
        Self::start_with(devices, options, ledger)
    }

    /// As [`Fleet::start`], with readings that are numbered in `ledger`.
    pub(crate) fn start_with(
        devices: Vec<DeviceOptions>,
        options: FleetOptions,
        ledger: Option<Ledger>,
    ) -> io::Result<(Self, Events)> {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let thread_count = options.threads.unwrap_or_else(processors).clamp(1, devices.len().max(1));
        let tally = Tally::new(devices.len());
        let step = options.ramp / u32::try_from(devices.len().max(1)).unwrap_or(u32::MAX);
        let sink = EventSink::new();
        let events = sink.watch();
        let starting = Arc::new(Semaphore::new(options.starting_at_once.max(1)));

        let mut handles = Vec::with_capacity(devices.len());
        let mut shares: Vec<Vec<Seat>> = (0..thread_count).map(|_| Vec::new()).collect();
        for (index, options) in devices.into_iter().enumerate() {
            let (handle, orders) = DeviceHandle::new();
            handles.push(handle);
            shares[index % thread_count].push(Seat {
                options,
                orders,
                delay: step * u32::try_from(index).unwrap_or(u32::MAX),
                reporter: Reporter { index, device: None, sink: sink.clone(), tally: tally.clone(), ledger: ledger.clone() },
                starting: Arc::clone(&starting),
            });
        }
        let threads = Vec::with_capacity(thread_count);
        let mut fleet = Self { devices: handles, threads, tally, ledger, events: sink.door() };
        for (number, share) in shares.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = thread::Builder::new().name(format!("devices-{number}"));
            fleet.threads.push(thread.spawn(move || run_share(&runtime, share))?);
        }
        Ok((fleet, events))
    }

    /// Counts and latencies so far.
    pub fn summary(&self) -> Summary {
        self.tally.summary()
    }

    /// What happened since the last call of this.
    pub fn take_window(&self) -> Window {
        self.tally.take_window()
    }

    /// What became of the readings; `None` unless they are numbered ([`FleetOptions::number_readings`]). Counts as arrived
    /// what a witness saw.
    pub fn delivery(&self) -> Option<Delivery> {
        self.ledger.as_ref().map(Ledger::delivery)
    }

    /// Where each device stands, in the order in which they were given.
    pub fn states(&self) -> Vec<DeviceState> {
        self.tally.look(<[DeviceState]>::to_vec)
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        self.events.watch()
    }

    /// How many devices there are.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether there is no device.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Waits until `there` is true of all devices' states, or `patience` is over; whether it is.
    pub async fn wait_until(&self, patience: Duration, mut there: impl FnMut(&[DeviceState]) -> bool) -> bool {
        let mut changes = self.tally.changes();
        let waiting = async {
            while !self.tally.look(&mut there) {
                // The tally lives as long as the fleet.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(patience, waiting).await.is_ok()
    }

    /// Waits until every device has an open session.
    ///
    /// # Errors
    /// [`NotOnline`] says why some have none when `patience` is over, or as soon as one has given up.
    pub async fn everyone_online(&self, patience: Duration) -> Result<(), NotOnline> {
        self.wait_until(patience, |devices| {
            devices.iter().all(|device| device.online) || devices.iter().any(|device| device.stopped)
        })
        .await;
        self.tally.look(|devices| {
            let mut reasons = BTreeMap::new();
            for device in devices.iter().filter(|device| !device.online) {
                let reason = device.last_reason.as_deref().unwrap_or("not started yet, or waiting for the hub");
                *reasons.entry(reason.to_owned()).or_default() += 1;
            }
            let online = devices.iter().filter(|device| device.online).count();
            if online == devices.len() { Ok(()) } else { Err(NotOnline { online, devices: devices.len(), reasons }) }
        })
    }

    /// Sends a command to the device at `index` in its owner's name and waits for its end, which counts in the summary.
    ///
    /// # Errors
    /// [`OwnerError`]; a device whose id is not known yet gets none.
    pub async fn command(&self, owner: &Owner, index: usize, name: &str, args: Option<Value>) -> Result<CommandEnd, OwnerError> {
        let id = self.tally.look(|devices| devices.get(index).and_then(|device| device.id.clone()));
        let what = format!("send {name} to device {index}");
        let id = id.ok_or(OwnerError::BadAnswer { what, missing: "such device yet" })?;
        let asked = tokio::time::Instant::now();
        let end = owner.command(&id, name, args).await?;
        self.tally.count_command(asked.elapsed());
        Ok(end)
    }

    /// The device at `index`, from 0, in the order in which they were given.
    pub fn device(&self, index: usize) -> Option<&DeviceHandle> {
        self.devices.get(index)
    }

    /// Stops every device, waits until they have said goodbye (a few seconds at most), and sums up.
    pub async fn stop(mut self) -> Summary {
        self.ask_all_to_stop();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the fleet panicked");
                }
            }
        });
        // The closure does not panic, and nothing cancels it.
        let _ = joined.await;
        self.tally.summary()
    }

    fn ask_all_to_stop(&self) {
        for device in &self.devices {
            device.stop();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.ask_all_to_stop();
    }
}

/// Tells watchers and the tally what happens to one device.
pub(crate) struct Reporter {
    index: usize,
    device: Option<Arc<str>>,
    sink: EventSink,
    tally: Tally,
    ledger: Option<Ledger>,
}

impl Reporter {
    pub(crate) fn identify(&mut self, client_id: &str) {
        if self.device.as_deref() != Some(client_id) {
            let id: Arc<str> = client_id.into();
            self.tally.identify(self.index, &id);
            if let Some(ledger) = &self.ledger {
                ledger.identify(self.index, &id);
            }
            self.device = Some(id);
        }
    }

    /// The number of the device's next reading, if readings are numbered.
    pub(crate) fn next_number(&self) -> Option<u32> {
        self.ledger.as_ref().map(|ledger| ledger.next_number(self.index))
    }

    /// The agent took this to be published.
    pub(crate) fn published(&self, payload: &[u8]) {
        if let Some(ledger) = &self.ledger {
            ledger.published(self.index, payload);
        }
    }

    pub(crate) fn report(&self, kind: SimEventKind) {
        self.tally.count(self.index, &kind);
        if let (Some(ledger), SimEventKind::Acknowledged { payload, .. }) = (&self.ledger, &kind) {
            ledger.acknowledged(self.index, payload);
        }
        self.sink.report(SimEvent { index: self.index, device: self.device.clone(), kind });
    }

    fn twin(&self) -> Self {
        Self {
            index: self.index,
            device: self.device.clone(),
            sink: self.sink.clone(),
            tally: self.tally.clone(),
            ledger: self.ledger.clone(),
        }
    }
}

/// A device's place in the fleet, for all its lives.
struct Seat {
    options: DeviceOptions,
    orders: Orders,
    /// How long after the fleet it starts.
    delay: Duration,
    reporter: Reporter,
    starting: Arc<Semaphore>,
}

impl Drop for Seat {
    /// At the end of its last life, and if a bug of ours ended that.
    fn drop(&mut self) {
        self.orders.end();
    }
}

fn run_share(runtime: &Runtime, share: Vec<Seat>) {
    LocalSet::new().block_on(runtime, async {
        let mut running = JoinSet::new();
        let mut reporters = HashMap::new();
        for seat in share {
            let reporter = seat.reporter.twin();
            let task = running.spawn_local(run_seat(Box::new(seat)));
            reporters.insert(task.id(), reporter);
        }
        while let Some(ended) = running.join_next_with_id().await {
            if let Err(panicked) = ended
                && let Some(reporter) = reporters.get(&panicked.id())
            {
                let failure = Some(format!("a bug in the simulator: {panicked}"));
                reporter.report(SimEventKind::Stopped { failure });
            }
        }
    });
}

/// Runs a device through its lives: from one interruption of its power to the next, until it stops.
async fn run_seat(mut seat: Box<Seat>) {
    let Seat { options, orders, delay, reporter, starting } = &mut *seat;
    let stopped = || reporter.report(SimEventKind::Stopped { failure: None });
    tokio::select! {
        () = tokio::time::sleep(*delay) => {}
        () = orders.stopping() => return stopped(),
    }
    loop {
        let Some(mut life) = orders.next_life().await else { return stopped() };
        if let Some(enrolment) = life.enrolment.take() {
            (options.enrolment, options.erase) = (Some(enrolment), true);
        }
        let patience = async {
            orders.stopping().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = device::run(options, orders, reporter.twin(), starting) => return,
            () = orders.power_cut(&life) => reporter.report(SimEventKind::Disconnected { reason: POWER_CUT.to_owned() }),
            () = patience => return stopped(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_takes_hardly_more_than_the_agent_that_it_runs() {
        /// The agent and the future in which it runs, of which the simulator cannot spare any.
        const AGENT: usize = 12_300;
        let (_handle, orders) = DeviceHandle::new();
        let (sink, tally) = (EventSink::new(), Tally::new(1));
        let seat = Seat {
            options: DeviceOptions::stored_in(crate::Storage::memory()),
            orders,
            delay: Duration::ZERO,
            reporter: Reporter { index: 0, device: None, sink, tally, ledger: None },
            starting: Arc::new(Semaphore::new(1)),
        };
        let bytes = size_of::<Seat>() + size_of_val(&run_seat(Box::new(seat)));
        assert!(bytes < AGENT + 2_500, "{bytes} bytes");
    }
}
