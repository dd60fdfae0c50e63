//! Hands rows to the hub one batch after another, in the order in which they came, and tells who waits when theirs are
//! durable. Knows nothing of what rows mean.

use super::{
    gate::{Gate, PersistError},
    limits::{PERSIST_BACKLOG_BYTES, PERSIST_BATCH_BYTES, PERSIST_BATCH_ROWS},
    session::Stored,
};
use hearthkey_core::write::Write;
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};
use tokio::sync::{Notify, mpsc, oneshot};

/// The way to durable rows. Its queue is bounded by its users: whoever sees [`Persister::is_backlogged`] stops reading from
/// its client, and each client has a bounded number of answers outstanding.
#[derive(Debug, Clone)]
pub(super) struct Persister {
    requests: mpsc::UnboundedSender<Request>,
    backlog: Arc<Backlog>,
}

#[derive(Debug, Default)]
struct Backlog {
    bytes: AtomicUsize,
    drained: Notify,
}

#[derive(Debug)]
struct Request {
    writes: Vec<Write>,
    bytes: usize,
    done: Option<oneshot::Sender<bool>>,
    stored: Option<Stored>,
}

/// Becomes true when the rows are durable, false if they could not be stored.
#[derive(Debug)]
pub(super) struct Ticket(oneshot::Receiver<bool>);

impl Ticket {
    /// Waits. False also if the front is gone.
    pub(super) async fn durable(mut self) -> bool {
        poll_fn(|context| self.poll_durable(context)).await
    }

    /// The same; not to be asked again once it has said.
    pub(super) fn poll_durable(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.0).poll(context).map(|told| told.unwrap_or(false))
    }
}

impl Persister {
    /// Starts the task that calls [`Gate::persist`]; it ends when all handles are gone.
    pub(super) fn start<G: Gate>(gate: Arc<G>) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let backlog = Arc::new(Backlog::default());
        tokio::spawn(write_batches(gate, receiver, backlog.clone()));
        Self { requests, backlog }
    }

    /// Stores rows and says when that is done.
    pub(super) fn store(&self, writes: Vec<Write>) -> Ticket {
        let (done, ticket) = oneshot::channel();
        self.send(writes, Some(done), None);
        Ticket(ticket)
    }

    /// The same; `stored` is settled too.
    pub(super) fn store_and_tell(&self, writes: Vec<Write>, stored: Stored) -> Ticket {
        let (done, ticket) = oneshot::channel();
        self.send(writes, Some(done), Some(stored));
        Ticket(ticket)
    }

    /// Waits until it is settled.
    pub(super) async fn told(&self, stored: Stored) {
        loop {
            let drained = self.backlog.drained.notified();
            if stored.is_settled() {
                return;
            }
            drained.await;
        }
    }

    /// Stores rows on whose durability nobody waits.
    pub(super) fn store_some_time(&self, writes: Vec<Write>) {
        if !writes.is_empty() {
            self.send(writes, None, None);
        }
    }

    /// Whether so much waits for the disk that clients should be slowed down.
    #[must_use]
    pub(super) fn is_backlogged(&self) -> bool {
        self.backlog.bytes.load(Ordering::Relaxed) > PERSIST_BACKLOG_BYTES
    }

    /// Waits until that is over.
    pub(super) async fn drained(&self) {
        loop {
            let drained = self.backlog.drained.notified();
            if !self.is_backlogged() {
                return;
            }
            drained.await;
        }
    }

    fn send(&self, writes: Vec<Write>, done: Option<oneshot::Sender<bool>>, stored: Option<Stored>) {
        let bytes = weight_of(&writes);
        self.backlog.bytes.fetch_add(bytes, Ordering::Relaxed);
        // If the task is gone, so is the runtime; the ticket says false.
        let _ = self.requests.send(Request { writes, bytes, done, stored });
    }
}

/// What rows count while they wait.
pub(super) fn weight_of(writes: &[Write]) -> usize {
    writes.iter().map(weight).sum()
}

fn weight(write: &Write) -> usize {
    match write {
        Write::Put { key, value, .. } => key.len() + value.len() + 64,
        Write::Delete { key, .. } => key.len() + 64,
    }
}

/// Whether the store takes these as one batch: all of them or none.
pub(super) fn fit_in_one_batch(writes: &[Write]) -> bool {
    writes.len() <= PERSIST_BATCH_ROWS && weight_of(writes) <= PERSIST_BATCH_BYTES
}

/// As one batch, or as several if the store does not take so much at once, in order: a message of which not all parts are
/// stored counts as not stored.
async fn persist_all<G: Gate>(gate: &G, writes: Vec<Write>) -> Result<(), PersistError> {
    let mut batch = Vec::with_capacity(writes.len());
    let mut bytes = 0;
    for write in writes {
        bytes += weight(&write);
        if batch.len() == PERSIST_BATCH_ROWS || bytes > PERSIST_BATCH_BYTES {
            bytes = weight(&write);
            gate.persist(std::mem::take(&mut batch)).await?;
        }
        batch.push(write);
    }
    if batch.is_empty() { Ok(()) } else { gate.persist(batch).await }
}

async fn write_batches<G: Gate>(gate: Arc<G>, mut requests: mpsc::UnboundedReceiver<Request>, backlog: Arc<Backlog>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(request) => request,
            None => match requests.recv().await {
                Some(request) => request,
                None => return,
            },
        };
        let (mut writes, mut bytes, mut waiting) = (first.writes, first.bytes, Vec::from_iter(first.done));
        let mut stored = Vec::from_iter(first.stored);
        while let Ok(request) = requests.try_recv() {
            if writes.len() + request.writes.len() > PERSIST_BATCH_ROWS || bytes + request.bytes > PERSIST_BATCH_BYTES {
                next = Some(request);
                break;
            }
            writes.extend(request.writes);
            bytes += request.bytes;
            waiting.extend(request.done);
            stored.extend(request.stored);
        }
        let result = persist_all(&*gate, writes).await;
        if let Err(error) = &result {
            tracing::error!(%error, "MQTT rows are not durable");
        }
        stored.iter().for_each(|stored| stored.settle(result.is_ok()));
        backlog.bytes.fetch_sub(bytes, Ordering::Relaxed);
        backlog.drained.notify_waiters();
        for done in waiting {
            let _ = done.send(result.is_ok());
        }
    }
}
