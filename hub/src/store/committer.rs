//! Orders batches, groups them under one sync, and stops for good at the first error.
//!
//! Knows no engine and no file: what makes a group durable is behind [`Engine`].

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use hearthkey_core::write::{Sequence, Write};

use super::{
    Committed, MAX_BATCH_BYTES, MAX_BATCH_OPERATIONS, MAX_QUEUED_BATCHES, MAX_QUEUED_BYTES, MAX_RECENT_BATCHES, MAX_RECENT_BYTES,
    OnDone, StoreError, measure,
};

/// Makes groups of batches durable.
pub(super) trait Engine: Send + 'static {
    /// Applies the writes of all batches, in order, and the number `last`: all or nothing, on the disk on return.
    fn write_durably(&mut self, batches: &mut dyn Iterator<Item = &[Write]>, last: Sequence) -> Result<(), StoreError>;
}

/// A handle to the one thread that writes; dropping it writes what is queued, and drops the engine.
pub(super) struct Committer<E> {
    shared: Arc<Shared<E>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<E> {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Held while a group is half written; nobody else sees the engine then.
    engine: Mutex<E>,
    durable: AtomicU64,
    recent: Mutex<Recent>,
}

struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    newest: Sequence,
    state: State,
}

enum State {
    Open,
    Closing,
    Failed(StoreError),
}

struct Waiting {
    sequence: Sequence,
    writes: Vec<Write>,
    bytes: usize,
    on_done: OnDone,
}

impl<E: Engine> Committer<E> {
    /// Starts the thread; `last` is the newest number that the engine holds.
    pub(super) fn start(engine: E, last: Sequence) -> std::io::Result<Committer<E>> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { waiting: VecDeque::new(), bytes: 0, newest: last, state: State::Open }),
            wake: Condvar::new(),
            engine: Mutex::new(engine),
            durable: AtomicU64::new(last.0),
            recent: Mutex::new(Recent::after(last)),
        });
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("store-committer".into()).spawn(move || for_thread.run())?;
        Ok(Committer { shared, thread: Some(thread) })
    }

    /// See [`super::Store::commit`].
    pub(super) fn commit(&self, after: Sequence, writes: Vec<Write>, on_done: OnDone) -> Result<Sequence, StoreError> {
        let bytes = measure(&writes)?;
        let mut queue = lock(&self.shared.queue);
        queue.check_open()?;
        if after != queue.newest {
            return Err(StoreError::Conflict { after, newest: queue.newest });
        }
        queue.check_room(bytes)?;
        let sequence = after.next();
        queue.newest = sequence;
        queue.bytes += bytes;
        queue.waiting.push_back(Waiting { sequence, writes, bytes, on_done });
        drop(queue);
        self.shared.wake.notify_one();
        Ok(sequence)
    }

    /// See [`super::Store::check_writable`].
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        let queue = lock(&self.shared.queue);
        queue.check_open()?;
        queue.check_room(0)
    }

    pub(super) fn durable(&self) -> Sequence {
        Sequence(self.shared.durable.load(Ordering::Acquire))
    }

    pub(super) fn since(&self, after: Sequence) -> Result<Vec<Arc<Committed>>, StoreError> {
        lock(&self.shared.recent).since(after)
    }

    /// Reads the engine between two groups.
    pub(super) fn with_engine<T>(&self, read: impl FnOnce(&E) -> T) -> T {
        read(&lock(&self.shared.engine))
    }

    pub(super) fn is_this_thread(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id())
    }
}

impl<E> Drop for Committer<E> {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        if matches!(queue.state, State::Open) {
            queue.state = State::Closing;
        }
        drop(queue);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's committer panicked");
        }
    }
}

impl<E: Engine> Shared<E> {
    fn run(&self) {
        while let Some(group) = self.next_group() {
            if let Err(error) = self.write(group) {
                tracing::error!(%error, "the store has stopped; nothing more is accepted until it is reopened");
                return;
            }
        }
    }

    /// Waits for work; `None` when closing and nothing is left.
    fn next_group(&self) -> Option<Vec<Waiting>> {
        let mut queue = lock(&self.queue);
        loop {
            if !queue.waiting.is_empty() {
                return Some(queue.take_group());
            }
            if !matches!(queue.state, State::Open) {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, group: Vec<Waiting>) -> Result<(), StoreError> {
        let last = group.last().expect("a group is never empty").sequence;
        let written = catch_unwind(AssertUnwindSafe(|| {
            let mut batches = group.iter().map(|waiting| waiting.writes.as_slice());
            lock(&self.engine).write_durably(&mut batches, last)
        }))
        .unwrap_or_else(|_| Err(StoreError::Engine { doing: "write a batch", detail: "it panicked".into() }));
        if let Err(error) = written {
            return Err(self.fail(group, error));
        }
        self.durable.store(last.0, Ordering::Release);
        let mut group = group.into_iter();
        while let Some(Waiting { sequence, writes, bytes, on_done }) = group.next() {
            lock(&self.recent).push(Committed { sequence, writes }, bytes);
            if catch_unwind(AssertUnwindSafe(|| on_done(Ok(sequence)))).is_err() {
                // The view that should have followed is in an unknown state; the rows are not.
                let error = StoreError::Stopped("a completion panicked".into());
                return Err(self.fail(group.collect(), error));
            }
        }
        Ok(())
    }

    /// Refuses every batch from here on, then fails all that wait, in order.
    fn fail(&self, group: Vec<Waiting>, error: StoreError) -> StoreError {
        let mut queue = lock(&self.queue);
        queue.state = State::Failed(error.clone());
        queue.bytes = 0;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        for Waiting { on_done, .. } in group.into_iter().chain(waiting) {
            let error = error.clone();
            if catch_unwind(AssertUnwindSafe(|| on_done(Err(error)))).is_err() {
                tracing::error!("a completion panicked when told that the store has stopped");
            }
        }
        error
    }
}

impl Queue {
    fn check_open(&self) -> Result<(), StoreError> {
        match &self.state {
            State::Open => Ok(()),
            State::Closing => Err(StoreError::Stopped("it is being closed".into())),
            State::Failed(cause) => Err(StoreError::Stopped(cause.to_string().into())),
        }
    }

    fn check_room(&self, bytes: usize) -> Result<(), StoreError> {
        if self.waiting.len() >= MAX_QUEUED_BATCHES || self.bytes + bytes > MAX_QUEUED_BYTES {
            return Err(StoreError::QueueFull { batches: self.waiting.len(), bytes: self.bytes });
        }
        Ok(())
    }

    /// Takes the first batch and as many after it as fit under the bounds of a group.
    fn take_group(&mut self) -> Vec<Waiting> {
        let (mut operations, mut bytes, mut count) = (0, 0, 0);
        for waiting in &self.waiting {
            operations += waiting.writes.len();
            bytes += waiting.bytes;
            if count > 0 && (operations > MAX_BATCH_OPERATIONS || bytes > MAX_BATCH_BYTES) {
                bytes -= waiting.bytes;
                break;
            }
            count += 1;
        }
        self.bytes -= bytes;
        self.waiting.drain(..count).collect()
    }
}

/// The newest durable batches, under two bounds.
struct Recent {
    batches: VecDeque<(Arc<Committed>, usize)>,
    bytes: usize,
    /// The number before the oldest batch.
    before: Sequence,
}

impl Recent {
    fn after(before: Sequence) -> Recent {
        Recent { batches: VecDeque::new(), bytes: 0, before }
    }

    fn push(&mut self, committed: Committed, bytes: usize) {
        self.bytes += bytes;
        self.batches.push_back((Arc::new(committed), bytes));
        while self.batches.len() > MAX_RECENT_BATCHES || self.bytes > MAX_RECENT_BYTES {
            let Some((oldest, bytes)) = self.batches.pop_front() else {
                break;
            };
            self.bytes -= bytes;
            self.before = oldest.sequence;
        }
    }

    fn since(&self, after: Sequence) -> Result<Vec<Arc<Committed>>, StoreError> {
        if after < self.before {
            return Err(StoreError::SequenceTooOld { after, oldest: self.before });
        }
        let known = self.batches.iter().map(|(committed, _)| committed);
        Ok(known.filter(|committed| committed.sequence > after).cloned().collect())
    }
}

/// A panic while a lock was held has already stopped the committer; what the lock guards is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use hearthkey_core::write::Table;

    use super::*;

    #[test]
    fn batches_become_durable_in_the_order_of_the_calls() {
        let (engine, _gate) = Scripted::new();
        let committer = Committer::start(engine, Sequence(7)).expect("starts");
        let (done, results) = mpsc::channel();
        for after in 7..107 {
            commit(&committer, after, vec![put(1)], &done).expect("accepted");
        }
        let numbers: Vec<u64> = results.iter().take(100).map(|result| result.expect("durable").0).collect();
        assert_eq!(numbers, (8..108).collect::<Vec<u64>>());
        assert_eq!(committer.durable(), Sequence(107));
    }

    #[test]
    fn batches_that_wait_together_share_one_sync() {
        let (engine, gate) = Scripted::new();
        let groups = engine.groups.clone();
        let held = gate.lock().expect("the gate");
        let committer = Committer::start(engine, Sequence(0)).expect("starts");
        let (done, results) = mpsc::channel();
        for after in 0..1000 {
            commit(&committer, after, vec![put(1), put(1)], &done).expect("accepted");
        }
        drop(held);
        assert!(results.iter().take(1000).all(|result| result.is_ok()));
        let groups = groups.lock().expect("groups");
        assert!(groups.len() <= 5, "{groups:?}");
        assert!(groups.iter().all(|operations| *operations <= MAX_BATCH_OPERATIONS), "{groups:?}");
    }

    #[test]
    fn a_batch_that_does_not_follow_the_newest_is_a_conflict() {
        let (engine, _gate) = Scripted::new();
        let committer = Committer::start(engine, Sequence(3)).expect("starts");
        let (done, _results) = mpsc::channel();
        for after in [0, 2, 4] {
            let refused = commit(&committer, after, vec![put(1)], &done).expect_err("refused");
            assert!(matches!(refused, StoreError::Conflict { newest: Sequence(3), .. }));
        }
        assert_eq!(commit(&committer, 3, vec![put(1)], &done).expect("follows"), Sequence(4));
    }

    #[test]
    fn the_queue_is_bounded_and_what_it_accepted_is_kept() {
        let (engine, gate) = Scripted::new();
        let held = gate.lock().expect("the gate");
        let committer = Committer::start(engine, Sequence(0)).expect("starts");
        let (done, results) = mpsc::channel();
        let mut accepted = 0;
        let refused = loop {
            match commit(&committer, accepted, vec![put(1)], &done) {
                Ok(_) => accepted += 1,
                Err(refused) => break refused,
            }
        };
        assert!(matches!(refused, StoreError::QueueFull { batches: MAX_QUEUED_BATCHES, .. }));
        assert!(matches!(committer.check_writable(), Err(StoreError::QueueFull { .. })));
        drop(held);
        drop(committer);
        drop(done);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count() as u64, accepted);
    }

    #[test]
    fn bytes_that_wait_are_bounded_too() {
        let (engine, gate) = Scripted::new();
        let _held = gate.lock().expect("the gate");
        let committer = Committer::start(engine, Sequence(0)).expect("starts");
        let (done, _results) = mpsc::channel();
        let mut accepted = 0;
        while commit(&committer, accepted, vec![put(4096); 200], &done).is_ok() {
            accepted += 1;
        }
        assert!(accepted < 30, "{accepted} batches of 800 KB");
        drop(_held);
    }

    #[test]
    fn after_an_error_every_waiter_fails_and_nothing_more_is_accepted() {
        for failure in [Failure::Error, Failure::Panic] {
            let (mut engine, gate) = Scripted::new();
            engine.fail_at = Some((2, failure));
            let committer = Committer::start(engine, Sequence(0)).expect("starts");
            let (done, results) = mpsc::channel();
            commit(&committer, 0, vec![put(1)], &done).expect("accepted");
            assert_eq!(results.recv().expect("done").expect("durable"), Sequence(1));
            let held = gate.lock().expect("the gate");
            for after in 1..1001 {
                commit(&committer, after, vec![put(1)], &done).expect("accepted");
            }
            drop(held);
            assert!(results.iter().take(1000).all(|result| result.is_err()));
            let refused = commit(&committer, 1001, vec![put(1)], &done).expect_err("stopped");
            assert!(matches!(refused, StoreError::Stopped(_)), "{refused}");
            assert_eq!(committer.durable(), Sequence(1));
        }
    }

    #[test]
    fn a_completion_that_panics_stops_the_store() {
        let (engine, _gate) = Scripted::new();
        let committer = Committer::start(engine, Sequence(0)).expect("starts");
        committer.commit(Sequence(0), vec![put(1)], Box::new(|_| panic!("a bug in a completion"))).expect("accepted");
        let (done, results) = mpsc::channel();
        let outcome = commit(&committer, 1, vec![put(1)], &done).and_then(|_| results.recv().expect("called once"));
        assert!(outcome.is_err(), "{outcome:?}");
    }

    #[test]
    fn recent_batches_are_remembered_under_a_bound() {
        let (engine, _gate) = Scripted::new();
        let committer = Committer::start(engine, Sequence(5)).expect("starts");
        let (done, results) = mpsc::channel();
        assert!(matches!(committer.since(Sequence(4)), Err(StoreError::SequenceTooOld { .. })));
        for after in 5..8 {
            commit(&committer, after, vec![put(after as usize)], &done).expect("accepted");
        }
        assert_eq!(results.iter().take(3).count(), 3);
        let batches = committer.since(Sequence(6)).expect("remembered");
        assert_eq!(batches.iter().map(|batch| batch.sequence.0).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(batches[0].writes, [put(6)]);
        assert!(committer.since(Sequence(8)).expect("none").is_empty());
        for after in 8..8 + MAX_RECENT_BATCHES as u64 {
            commit(&committer, after, vec![put(1)], &done).expect("accepted");
        }
        assert_eq!(results.iter().take(MAX_RECENT_BATCHES).count(), MAX_RECENT_BATCHES);
        assert!(matches!(committer.since(Sequence(7)), Err(StoreError::SequenceTooOld { oldest: Sequence(8), .. })));
        assert_eq!(committer.since(Sequence(8)).expect("just").len(), MAX_RECENT_BATCHES);
    }

    /// Waits at its gate before each group, and fails when told to.
    struct Scripted {
        gate: Arc<Mutex<()>>,
        groups: Arc<Mutex<Vec<usize>>>,
        fail_at: Option<(usize, Failure)>,
    }

    #[derive(Clone, Copy)]
    enum Failure {
        Error,
        Panic,
    }

    impl Scripted {
        fn new() -> (Scripted, Arc<Mutex<()>>) {
            let gate = Arc::new(Mutex::new(()));
            (Scripted { gate: gate.clone(), groups: Arc::default(), fail_at: None }, gate)
        }
    }

    impl Engine for Scripted {
        fn write_durably(&mut self, batches: &mut dyn Iterator<Item = &[Write]>, _last: Sequence) -> Result<(), StoreError> {
            let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            let count = {
                let mut groups = lock(&self.groups);
                groups.push(batches.map(<[Write]>::len).sum());
                groups.len()
            };
            match self.fail_at {
                Some((at, Failure::Error)) if at == count => Err(StoreError::Engine { doing: "write", detail: "no more".into() }),
                Some((at, Failure::Panic)) if at == count => panic!("a bug in the engine"),
                _ => Ok(()),
            }
        }
    }

    fn put(bytes: usize) -> Write {
        Write::Put { table: Table::ALL[0], key: b"key".to_vec(), value: vec![0; bytes] }
    }

    fn commit(
        committer: &Committer<Scripted>,
        after: u64,
        writes: Vec<Write>,
        done: &mpsc::Sender<Result<Sequence, StoreError>>,
    ) -> Result<Sequence, StoreError> {
        let done = done.clone();
        let on_done = Box::new(move |result| drop(done.send(result)));
        committer.commit(Sequence(after), writes, on_done)
    }
}
