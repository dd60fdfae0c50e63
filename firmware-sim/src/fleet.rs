//! Many devices on a few threads: starting, watching, driving and stopping them. Knows nothing of what a device does.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::device::{self, DeviceOptions};
use crate::event::{EventSink, Events, SimEvent, SimEventKind};
use crate::summary::{Summary, Tally};

/// Publishes that wait for a device; a test or a demonstration sends one at a time.
const MAILBOX_LENGTH: usize = 16;
/// A device that has not said goodbye by then is dropped, and the hub publishes its will. The agent takes up to 5 s.
const FAREWELL: Duration = Duration::from_secs(8);

/// How a fleet runs.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Threads that the devices share; one per processor if `None`.
    pub threads: Option<usize>,
    /// How many devices may be opening their first session at the same time: a fleet that starts at once would
    /// measure its own queue.
    pub starting_at_once: usize,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self { threads: None, starting_at_once: 8 }
    }
}

/// Running devices. They stop when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    devices: Vec<DeviceHandle>,
    threads: Vec<thread::JoinHandle<()>>,
    tally: Tally,
}

impl Fleet {
    /// Starts the devices and answers the events from the very first on.
    ///
    /// # Errors
    /// When the system refuses a thread or its event queue.
    pub fn start(devices: Vec<DeviceOptions>, options: FleetOptions) -> io::Result<(Self, Events)> {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let thread_count = options.threads.unwrap_or_else(processors).clamp(1, devices.len().max(1));
        let tally = Tally::new(devices.len());
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
                reporter: Reporter { index, device: None, sink: sink.clone(), tally: tally.clone() },
                starting: Arc::clone(&starting),
            });
        }
        let mut fleet = Self { devices: handles, threads: Vec::with_capacity(thread_count), tally };
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
        let handle = Self { publishes, stop: Arc::new(stop) };
        let orders = Orders { publishes: publish_orders, stopping };
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

    /// Asks the device to say goodbye and stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// What the device is asked to do from outside.
pub(crate) struct Orders {
    pub(crate) publishes: mpsc::Receiver<PublishOrder>,
    stopping: watch::Receiver<bool>,
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
}

impl Reporter {
    pub(crate) fn identify(&mut self, client_id: &str) {
        if self.device.as_deref() != Some(client_id) {
            self.device = Some(client_id.into());
        }
    }

    pub(crate) fn report(&self, kind: SimEventKind) {
        self.tally.count(self.index, &kind);
        self.sink.report(SimEvent { index: self.index, device: self.device.clone(), kind });
    }

    fn twin(&self) -> Self {
        Self { index: self.index, device: self.device.clone(), sink: self.sink.clone(), tally: self.tally.clone() }
    }
}

/// A device before it runs.
struct Seat {
    options: DeviceOptions,
    orders: Orders,
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

async fn run_seat(seat: Seat) {
    let Seat { options, orders, reporter, starting } = seat;
    let stopping = orders.stopping();
    let patience = async {
        stopping.await;
        tokio::time::sleep(FAREWELL).await;
    };
    let farewell = reporter.twin();
    tokio::select! {
        () = device::run(options, orders, reporter, starting) => {}
        () = patience => farewell.report(SimEventKind::Stopped { failure: None }),
    }
}
