//! Many devices on a few threads: starting, watching, driving and stopping them. Knows nothing of what a device does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::builder::FleetBuilder;
use crate::device::{self, DeviceOptions};
use crate::enrolment::EnrolmentString;
use crate::event::{EventDoor, EventSink, Events, SimEvent, SimEventKind};
use crate::ledger::{Delivery, Ledger};
use crate::owner::{CommandEnd, Owner, OwnerError};
use crate::summary::{DeviceState, Summary, Tally, Window};

/// Publishes that wait for a device; a test or a demonstration sends one at a time.
const MAILBOX_LENGTH: usize = 16;
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
            let power = Arc::clone(&handle.power);
            handles.push(handle);
            shares[index % thread_count].push(Seat {
                options,
                orders,
                power,
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

/// Drives one device of a fleet.
#[derive(Clone, Debug)]
pub struct DeviceHandle {
    publishes: mpsc::Sender<PublishOrder>,
    stop: Arc<watch::Sender<bool>>,
    power: Arc<watch::Sender<Power>>,
}

/// Whether a device runs, and what it finds when it starts.
#[derive(Clone, Debug)]
pub(crate) struct Power {
    on: bool,
    /// Moves with each interruption, however short.
    cuts: u64,
    /// Makes a new key with this, once.
    enrolment: Option<EnrolmentString>,
}

/// Why a publish that was injected into a device did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The hub said no.
    #[error("the hub refused it: {reason} (0x{code:02X})")]
    Refused {
        /// Reason code of PUBACK.
        code: u8,
        /// Reason string of PUBACK, or the meaning of the code.
        reason: String,
    },
    /// The agent cannot send it: no valid topic, or too long.
    #[error("the device cannot send it: {0}")]
    Unsendable(String),
    /// The device has stopped, or stopped before the hub answered.
    #[error("the device has stopped")]
    Stopped,
}

impl DeviceHandle {
    fn new() -> (Self, Orders) {
        let (publishes, publish_orders) = mpsc::channel(MAILBOX_LENGTH);
        let (stop, stopping) = watch::channel(false);
        let power = Arc::new(watch::Sender::new(Power { on: true, cuts: 0, enrolment: None }));
        let handle = Self { publishes, stop: Arc::new(stop), power };
        let orders = Orders { publishes: Mailbox(Arc::new(Mutex::new(publish_orders))), stopping };
        (handle, orders)
    }

    /// Has the device publish to any topic, its neighbours' among them, as soon as it has a session, and waits for
    /// the hub's answer. The device's own code has no such door: the hub must hold against firmware that does.
    ///
    /// # Errors
    /// [`PublishError::Refused`] is what the hub owes a publish that the device has no right to.
    pub async fn publish(&self, topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Result<(), PublishError> {
        let (answer, answered) = oneshot::channel();
        let order = PublishOrder { topic: topic.into(), payload: payload.into(), answer };
        self.publishes.send(order).await.map_err(|_| PublishError::Stopped)?;
        answered.await.unwrap_or(Err(PublishError::Stopped))
    }

    /// Takes the power from the device: it says no goodbye and keeps what its storage holds.
    pub fn cut_power(&self) {
        self.power.send_modify(|power| (power.on, power.cuts) = (false, power.cuts + 1));
    }

    /// Gives it back: the device starts as after any power cut.
    pub fn restore_power(&self) {
        self.power.send_modify(|power| power.on = true);
    }

    /// Restarts the device with a fresh string of its owner: it makes a new key, as in a rotation.
    pub fn enrol_anew(&self, enrolment: EnrolmentString) {
        self.power.send_modify(|power| *power = Power { on: true, cuts: power.cuts + 1, enrolment: Some(enrolment) });
    }

    /// Asks the device to say goodbye and stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// What the device is asked to do from outside.
#[derive(Clone)]
pub(crate) struct Orders {
    pub(crate) publishes: Mailbox,
    stopping: watch::Receiver<bool>,
}

/// The publishes that a device is asked to do. It outlives the device's lives.
#[derive(Clone)]
pub(crate) struct Mailbox(Arc<Mutex<mpsc::Receiver<PublishOrder>>>);

impl Mailbox {
    /// The next one; `None` when nobody can ask any more. Dropping the future loses none.
    pub(crate) async fn recv(&mut self) -> Option<PublishOrder> {
        self.0.lock().await.recv().await
    }
}

impl Orders {
    /// Whether the device should stop.
    pub(crate) fn asked_to_stop(&self) -> bool {
        // An error means that every handle is gone: nobody is left to want the device.
        *self.stopping.borrow() || self.stopping.has_changed().is_err()
    }

    /// Resolves when the device should stop.
    pub(crate) fn stopping(&self) -> impl Future<Output = ()> + use<> {
        let mut stopping = self.stopping.clone();
        async move {
            // An error means the same as `true`.
            let _ = stopping.wait_for(|stop| *stop).await;
        }
    }
}

pub(crate) struct PublishOrder {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) answer: oneshot::Sender<Result<(), PublishError>>,
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

/// A device before it runs.
struct Seat {
    options: DeviceOptions,
    orders: Orders,
    power: Arc<watch::Sender<Power>>,
    /// How long after the fleet it starts.
    delay: Duration,
    reporter: Reporter,
    starting: Arc<Semaphore>,
}

fn run_share(runtime: &Runtime, share: Vec<Seat>) {
    LocalSet::new().block_on(runtime, async {
        let mut running = JoinSet::new();
        let mut reporters = HashMap::new();
        for seat in share {
            let reporter = seat.reporter.twin();
            let task = running.spawn_local(run_seat(seat));
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
async fn run_seat(seat: Seat) {
    let Seat { mut options, orders, power, delay, reporter, starting } = seat;
    let mut watched = power.subscribe();
    let stopped = || reporter.report(SimEventKind::Stopped { failure: None });
    let asked = orders.stopping();
    let stopping = orders.stopping();
    let patience = async {
        stopping.await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::pin!(asked, patience);
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = &mut asked => return stopped(),
    }
    loop {
        tokio::select! {
            () = becomes(&mut watched, |power| power.on) => {}
            () = &mut asked => return stopped(),
        }
        let (mut cuts, mut enrolment) = (0, None);
        power.send_modify(|power| (cuts, enrolment) = (power.cuts, power.enrolment.take()));
        if let Some(enrolment) = enrolment {
            (options.enrolment, options.erase) = (Some(enrolment), true);
        }
        let life = device::run(&mut options, orders.clone(), reporter.twin(), Arc::clone(&starting));
        tokio::select! {
            () = life => return,
            () = becomes(&mut watched, |power| power.cuts != cuts) => {
                reporter.report(SimEventKind::Disconnected { reason: POWER_CUT.to_owned() });
            }
            () = &mut patience => return stopped(),
        }
    }
}

/// Resolves once `there` is true of the power; never if nobody can change it any more.
async fn becomes(power: &mut watch::Receiver<Power>, there: impl FnMut(&Power) -> bool) {
    if power.wait_for(there).await.is_err() {
        std::future::pending().await
    }
}
