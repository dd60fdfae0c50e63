//! The one file that names sled: opens it so that it survives what its own `open` does not, and writes so that a power cut
//! loses nothing acknowledged.
//!
//! sled's `flush` leaves data in the disk's cache, so each group ends with `fdatasync` on a descriptor of ours. All tables
//! live in one tree, a key being a table's tag and the row's key: one `apply_batch` is then one atomic write. The
//! sequence number is part of it.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock;
use hearthkey_core::registry::restored;
use hearthkey_core::write::{Sequence, Table, Write};
use tokio::sync::watch;

use super::backup::Backup;
use super::committer::{Committer, Engine};
use super::directory::{self, Directory, Log, MAX_DAMAGED_KEPT};
use super::{Committed, OnDone, Row, Store, StoreError};

/// The tag of the store's own rows; no table has it.
const META_TAG: u8 = 0xff;
const SEQUENCE_KEY: &[u8] = b"\xffsequence";
const FORMAT_KEY: &[u8] = b"\xffformat";
const FORMAT: &[u8] = &[1];

/// Pages that the engine may hold in memory beside what it is writing: the hub reads from its own view, so nothing gains from
/// more (the same CPU time per token with 32 MiB, which take 35).
const CACHE_BYTES: u64 = 1 << 20;

/// How long the engine's background threads may take to let go of its lock after it was closed in this process.
const CLOSING_WAIT: Duration = Duration::from_secs(10);

/// How long a flush may take before the watch asks whether it will ever end.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Groups between two looks at `blobs/`.
const GROUPS_BETWEEN_BLOB_CHECKS: u64 = 1024;

/// The engine's files may be this many times larger than its rows before it is worth an alarm.
const MAX_SIZE_RATIO: u64 = 5;

/// Below this the ratio says nothing: the engine allocates half-megabyte segments.
const UNREMARKABLE_SIZE_BYTES: u64 = 16 << 20;

/// A store in sled. One process at a time; shared by threads. Dropping it writes what is queued first.
pub struct SledStore {
    state: RwLock<State>,
    reopening: Mutex<()>,
    /// Two that write one file take turns.
    backing_up: Mutex<()>,
    /// The file that is written when somebody asks for it is another: only one writes it, and nobody waits for that.
    pub(super) backing_up_as_asked: Mutex<()>,
    directory: Directory,
    /// Goes last: whoever waits for its end finds the directory free.
    alive: watch::Sender<()>,
}

/// Tells when a store is closed and its directory free, whoever held it.
pub struct Closed(watch::Receiver<()>);

enum State {
    Running(Committer<SledEngine>),
    Closed { last: Sequence, cause: Arc<str> },
}

/// A store that was opened, and what the owner should know about it.
pub struct Opened {
    /// The store, accepting batches.
    pub store: SledStore,
    /// It was not there before.
    pub created: bool,
    /// The files were damaged and a backup was restored: what was stored after it is gone, revocations included.
    pub restored: Option<RestoredFromBackup>,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredFromBackup {
    /// The file that was restored.
    pub backup: PathBuf,
    /// Number of rows.
    pub rows: usize,
    /// Where the files that it replaced were moved; they are never removed.
    pub moved_to: Option<PathBuf>,
}

impl SledStore {
    /// Opens the store of a data directory, making both if they are not there.
    ///
    /// What an interrupted creation, opening or restore left is cleared up. Damaged files are moved aside, never removed,
    /// and the newest whole backup is restored; this is logged as an error and told in [`Opened::restored`].
    ///
    /// # Errors
    /// [`StoreError::InUse`]; [`StoreError::Damaged`] when there is no backup; [`StoreError::DamagedAgain`];
    /// [`StoreError::Newer`]; and whatever the disk says.
    pub fn open(data: &Path) -> Result<Opened, StoreError> {
        let directory = Directory::lock(data)?;
        directory.finish_creation()?;
        let created = !directory.has_engine()?;
        if created {
            // Whoever moved a store away keeps its backups; they must not pass for newer than what begins here.
            let empty = Backup { sequence: newest_backup(&directory)?, rows: Vec::new() };
            if empty.sequence != Sequence(0) {
                tracing::warn!("the home begins empty although there are backups; `hearthkey restore FILE` brings one back");
            }
            create(&directory, &empty, "replaced", usize::MAX)?;
        }
        let mut restored = None;
        let engine = match SledEngine::open(&directory) {
            Ok(engine) => engine,
            Err(Failure::Damage(detail)) => {
                restored = Some(restore_newest(&directory, detail)?);
                SledEngine::open(&directory).map_err(|failure| failure.for_good(&directory.engine()))?
            }
            Err(Failure::Other(error)) => return Err(error),
        };
        let state = State::Running(start(engine)?);
        let store = SledStore {
            state: RwLock::new(state),
            reopening: Mutex::new(()),
            backing_up: Mutex::new(()),
            backing_up_as_asked: Mutex::new(()),
            directory,
            alive: watch::Sender::new(()),
        };
        Ok(Opened { store, created, restored })
    }

    /// What tells of its end.
    #[must_use]
    pub fn closed(&self) -> Closed {
        Closed(self.alive.subscribe())
    }

    /// Writes everything that is durable now to `DATA/backups`, and removes all but the newest two. Returns the file.
    ///
    /// A damaged store is restored from there, so it is worth doing daily. Commits wait meanwhile.
    ///
    /// # Errors
    /// When the store is closed, or cannot be read, or the file cannot be written.
    pub fn back_up(&self) -> Result<PathBuf, StoreError> {
        let _turn = self.backing_up.lock().unwrap_or_else(PoisonError::into_inner);
        let backup = self.snapshot()?;
        directory::create_private(&self.directory.backups())?;
        let name = format!("store-{:020}.backup", backup.sequence.0);
        let path = self.directory.backups().join(name);
        backup.write_to(&path)?;
        self.directory.prune_backups()?;
        Ok(path)
    }

    /// Writes everything that is durable now to a file of the caller's choice, atomically, readable by its owner only.
    ///
    /// # Errors
    /// As [`SledStore::back_up`].
    pub fn back_up_to(&self, path: &Path) -> Result<(), StoreError> {
        self.snapshot()?.write_to(path)
    }

    /// Bytes of the engine's files on the disk.
    ///
    /// # Errors
    /// When they cannot be looked at.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.directory.engine_bytes()
    }

    fn snapshot(&self) -> Result<Backup, StoreError> {
        self.running(|committer| committer.with_engine(SledEngine::read))?
    }

    fn running<T>(&self, run: impl FnOnce(&Committer<SledEngine>) -> T) -> Result<T, StoreError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Running(committer) => Ok(run(committer)),
            State::Closed { cause, .. } => Err(StoreError::Stopped(Arc::clone(cause))),
        }
    }

    fn replace(&self, state: State) -> State {
        let mut guard = self.state.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut guard, state)
    }
}

impl Closed {
    /// Waits for it.
    pub async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Store for SledStore {
    fn back_up_as_asked(&self) -> Result<PathBuf, StoreError> {
        let _turn = match self.backing_up_as_asked.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(StoreError::BackupUnderWay),
        };
        // Rows take less in a backup than in the engine's files.
        self.directory.check_room_for_backup(self.directory.engine_bytes()?)?;
        directory::create_private(&self.directory.backups())?;
        // Not named as those that are restored by themselves and of which the oldest go.
        let path = self.directory.backups().join("asked-for");
        self.back_up_to(&path)?;
        Ok(path)
    }

    fn load(&self) -> Result<Vec<Row>, StoreError> {
        Ok(self.snapshot()?.rows)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.running(|committer| committer.with_engine(|engine| engine.scan(table, from, limit)))?
    }

    fn last_sequence(&self) -> Sequence {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Running(committer) => committer.durable(),
            State::Closed { last, .. } => *last,
        }
    }

    fn commit(&self, after: Sequence, batch: Vec<Write>, on_done: OnDone) -> Result<Sequence, StoreError> {
        self.directory.check_free_space()?;
        self.running(|committer| committer.commit(after, batch, on_done))?
    }

    fn commit_from_reserve(&self, after: Sequence, batch: Vec<Write>, on_done: OnDone) -> Result<Sequence, StoreError> {
        self.directory.check_last_space()?;
        self.running(|committer| committer.commit(after, batch, on_done))?
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        self.directory.check_free_space()?;
        self.running(Committer::check_writable)?
    }

    fn since(&self, after: Sequence) -> Result<Vec<Arc<Committed>>, StoreError> {
        self.running(|committer| committer.since(after))?
    }

    fn reopen(&self) -> Result<Sequence, StoreError> {
        if self.running(Committer::is_this_thread).unwrap_or(false) {
            return Err(StoreError::Stopped("it cannot be reopened from a completion".into()));
        }
        let _one_at_a_time = self.reopening.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last_sequence();
        let closed = State::Closed { last, cause: "it is being reopened".into() };
        drop(self.replace(closed));
        let opened =
            SledEngine::open(&self.directory).map_err(|failure| failure.for_good(&self.directory.engine())).and_then(start);
        match opened {
            Ok(committer) => {
                let last = committer.durable();
                self.replace(State::Running(committer));
                Ok(last)
            }
            Err(error) => {
                self.replace(State::Closed { last, cause: error.to_string().into() });
                Err(error)
            }
        }
    }
}

/// Writes everything in the store of a data directory that no hub uses to a file, atomically, readable by its owner only. Returns
/// the number of rows.
///
/// # Errors
/// [`StoreError::InUse`], [`StoreError::Damaged`], and whatever the disk says: nothing was written.
pub fn back_up_stopped(data: &Path, to: &Path) -> Result<usize, StoreError> {
    let directory = Directory::lock(data)?;
    directory.finish_creation()?;
    if !directory.has_engine()? {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(directory::during("open the store", &directory.engine())(missing));
    }
    let engine = SledEngine::open(&directory).map_err(|failure| failure.for_good(&directory.engine()))?;
    let backup = engine.read()?;
    backup.write_to(to)?;
    Ok(backup.rows.len())
}

/// Copies a backup that is whole, as [`back_up_stopped`] writes one. Returns the number of rows.
///
/// # Errors
/// [`StoreError::BadBackup`], [`StoreError::Newer`], and whatever the disk says: nothing was written.
pub fn copy_backup(from: &Path, to: &Path) -> Result<usize, StoreError> {
    let backup = Backup::read_from(from)?;
    backup.write_to(to)?;
    Ok(backup.rows.len())
}

/// Replaces the store of a data directory that no hub uses by a backup. What was there is moved aside, never removed.
///
/// # Errors
/// [`StoreError::BadBackup`] and [`StoreError::Newer`], and nothing was changed; [`StoreError::InUse`].
pub fn restore(data: &Path, backup: &Path) -> Result<RestoredFromBackup, StoreError> {
    let directory = Directory::lock(data)?;
    directory.finish_creation()?;
    restore_file(&directory, backup, "replaced", usize::MAX)
}

fn start(engine: SledEngine) -> Result<Committer<SledEngine>, StoreError> {
    let last = engine.last;
    Committer::start(engine, last).map_err(|error| failed("start the committer", error))
}

fn restore_newest(directory: &Directory, detail: Arc<str>) -> Result<RestoredFromBackup, StoreError> {
    let path = directory.engine();
    if !directory.may_keep_damaged() {
        return Err(StoreError::DamagedAgain { path, detail });
    }
    for backup in directory.list_backups()? {
        match restore_file(directory, &backup, "damaged", MAX_DAMAGED_KEPT) {
            Ok(restored) => {
                tracing::error!(
                    %detail,
                    moved_to = ?restored.moved_to,
                    backup = %restored.backup.display(),
                    "THE STORE WAS DAMAGED and a backup was restored: whatever changed after the backup is lost; \
                     check that revoked devices and tokens are still revoked"
                );
                return Ok(restored);
            }
            Err(error @ (StoreError::BadBackup { .. } | StoreError::Newer { .. })) => {
                tracing::error!(%error, "this backup is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Damaged { path, detail })
}

fn restore_file(directory: &Directory, path: &Path, aside: &str, most: usize) -> Result<RestoredFromBackup, StoreError> {
    let mut backup = Backup::read_from(path)?;
    // A backup of the abandoned future must not pass for newer than those made from here on.
    backup.sequence = backup.sequence.max(newest_backup(directory)?);
    let now = clock::now();
    for row in &mut backup.rows {
        row.value = restored(row.table, std::mem::take(&mut row.value), now);
    }
    let moved_to = create(directory, &backup, aside, most)?;
    Ok(RestoredFromBackup { backup: path.to_owned(), rows: backup.rows.len(), moved_to })
}

fn newest_backup(directory: &Directory) -> Result<Sequence, StoreError> {
    let numbers = directory
        .list_backups()?
        .into_iter()
        .filter_map(|path| path.file_stem()?.to_str()?.strip_prefix("store-")?.parse().ok().map(Sequence));
    Ok(numbers.max().unwrap_or_default())
}

/// Makes an engine that holds what a backup holds.
fn create(directory: &Directory, backup: &Backup, aside: &str, most: usize) -> Result<Option<PathBuf>, StoreError> {
    directory.create_engine(aside, most, |path| {
        let fill = || {
            let db = config(path).open()?;
            for Row { table, key, value } in &backup.rows {
                db.insert(engine_key(*table, key), value.as_slice())?;
            }
            db.insert(FORMAT_KEY, FORMAT)?;
            db.insert(SEQUENCE_KEY, &backup.sequence.0.to_be_bytes())?;
            Ok(db)
        };
        let fill = || {
            let db = guarded(fill)?;
            let watch = FlushWatch::start(db)?;
            guarded(|| watch.flush())
        };
        fill().map_err(|failure| failure.for_good(path))
    })
}

fn config(path: &Path) -> sled::Config {
    sled::Config::new()
        .path(path)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .cache_capacity(CACHE_BYTES)
        .use_compression(false)
}

/// sled, opened.
struct SledEngine {
    db: sled::Db,
    watch: FlushWatch,
    log: Log,
    last: Sequence,
    groups: u64,
    blobs: PathBuf,
}

impl SledEngine {
    fn open(directory: &Directory) -> Result<SledEngine, Failure> {
        directory.remove_torn_snapshots()?;
        let path = directory.engine();
        let db = match open_when_released(&path) {
            Err(Failure::Other(StoreError::Io { full: true, .. })) if directory.release_reserve()? => {
                tracing::warn!("the disk is full: the reserve was released to open the store");
                open_when_released(&path)
            }
            outcome => outcome,
        }?;
        directory.sync_engine()?;
        if let Err(error) = directory.make_reserve() {
            tracing::warn!(%error, "there is no reserve: free some space");
        }
        let engine = SledEngine {
            watch: FlushWatch::start(db.clone())?,
            log: directory.open_log()?,
            last: read_sequence(&db)?,
            groups: 0,
            blobs: path.join("blobs"),
            db,
        };
        engine.check_size(directory)?;
        let backed_up = newest_backup(directory)?;
        if engine.last < backed_up {
            // sled drops whatever lies behind a part of its log that it cannot read, without a word.
            let (last, backed_up) = (engine.last.0, backed_up.0);
            let detail = format!("it ends at batch {last}, but batch {backed_up} was backed up");
            return Err(Failure::Damage(detail.into()));
        }
        Ok(engine)
    }

    /// Reads every row, which also finds damage before anything relies on them.
    fn check_size(&self, directory: &Directory) -> Result<(), Failure> {
        let live = guarded(|| {
            self.db.iter().try_fold(0, |live, row| {
                let (key, value) = row?;
                Ok(live + (key.len() + value.len()) as u64)
            })
        })?;
        let stored = directory.engine_bytes()?;
        if stored > UNREMARKABLE_SIZE_BYTES.max(live.saturating_mul(MAX_SIZE_RATIO)) {
            tracing::warn!(
                stored,
                live,
                "the store's files are much larger than what they hold: back up and restore to shrink them"
            );
        }
        self.check_blobs();
        Ok(())
    }

    fn check_blobs(&self) {
        let count = directory::count(&self.blobs);
        if count > 0 {
            tracing::error!(count, "the engine wrote files that it does not sync: report this as a bug");
        }
    }

    fn read(&self) -> Result<Backup, StoreError> {
        let read = || {
            let mut rows = Vec::new();
            for row in self.db.iter() {
                let (key, value) = row?;
                rows.push((key, value));
            }
            Ok(rows)
        };
        let mut rows = Vec::new();
        for (key, value) in guarded(read).map_err(Failure::into_error)? {
            let Some((&tag, key)) = key.split_first() else {
                continue;
            };
            if tag == META_TAG {
                continue;
            }
            let table = Table::from_tag(tag).ok_or_else(|| StoreError::Newer { what: format!("table {tag} of the store") })?;
            rows.push(Row { table, key: key.to_vec(), value: value.to_vec() });
        }
        Ok(Backup { sequence: self.last, rows })
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let keys = engine_key(table, from)..vec![table.tag() + 1];
        let read = || self.db.range(keys).take(limit).collect::<sled::Result<Vec<_>>>();
        let rows = guarded(read).map_err(Failure::into_error)?;
        Ok(rows.into_iter().map(|(key, value)| Row { table, key: key[1..].to_vec(), value: value.to_vec() }).collect())
    }
}

impl Engine for SledEngine {
    fn write_durably(&mut self, batches: &mut dyn Iterator<Item = &[Write]>, last: Sequence) -> Result<(), StoreError> {
        let mut merged = sled::Batch::default();
        for write in batches.flatten() {
            match write {
                Write::Put { table, key, value } => {
                    merged.insert(engine_key(*table, key), value.as_slice());
                }
                Write::Delete { table, key } => merged.remove(engine_key(*table, key)),
            }
        }
        merged.insert(SEQUENCE_KEY, &last.0.to_be_bytes());
        let write = |doing| move |error| Failure::from_sled(doing, error).into_error();
        self.db.apply_batch(merged).map_err(write("write a batch"))?;
        self.watch.flush().map_err(write("flush a batch"))?;
        self.log.sync()?;
        self.last = last;
        self.groups += 1;
        if self.groups.is_multiple_of(GROUPS_BETWEEN_BLOB_CHECKS) {
            self.check_blobs();
        }
        Ok(())
    }
}

/// Ends a flush that sled has forgotten.
///
/// When a write fails on one of sled's own threads it may set the error without waking who waits in `flush` (0.34.7,
/// `Log::exit_reservation`); the wait is then endless. Another `flush` sees the error at once and wakes all. So this asks
/// again after [`FLUSH_PATIENCE`], and each time after twice as long, from a thread of its own: it may be the next to wait.
struct FlushWatch {
    db: sled::Db,
    progress: Arc<(Mutex<Progress>, Condvar)>,
    thread: Option<thread::JoinHandle<()>>,
}

enum Progress {
    Idle,
    Flushing { since: Instant, patience: Duration },
    Ended,
}

impl FlushWatch {
    fn start(db: sled::Db) -> Result<FlushWatch, StoreError> {
        let progress = Arc::new((Mutex::new(Progress::Idle), Condvar::new()));
        let (watched, progress_of_thread) = (db.clone(), Arc::clone(&progress));
        let thread = thread::Builder::new()
            .name("store-flush-watch".into())
            .spawn(move || watch(&watched, &progress_of_thread))
            .map_err(|error| failed("start the flush watch", error))?;
        Ok(FlushWatch { db, progress, thread: Some(thread) })
    }

    /// Returns when everything written is with the operating system, or a write has failed.
    fn flush(&self) -> sled::Result<()> {
        self.set(Progress::Flushing { since: Instant::now(), patience: FLUSH_PATIENCE });
        let flushed = self.db.flush();
        self.set(Progress::Idle);
        flushed.map(drop)
    }

    fn set(&self, progress: Progress) {
        *self.progress.0.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

impl Drop for FlushWatch {
    fn drop(&mut self) {
        self.set(Progress::Ended);
        self.progress.1.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(db: &sled::Db, (progress, ended): &(Mutex<Progress>, Condvar)) {
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match &mut *progress {
            Progress::Ended => return,
            Progress::Flushing { since, patience } if since.elapsed() >= *patience => {
                *patience *= 2;
                tracing::warn!(seconds = since.elapsed().as_secs(), "the disk is slow to take a batch");
                let db = db.clone();
                // Without a thread to spare, the next round may have one.
                let _ = thread::Builder::new().name("store-flush-again".into()).spawn(move || drop(db.flush()));
            }
            Progress::Flushing { .. } | Progress::Idle => {}
        }
        // Nobody wakes it for a flush: most take less than a thousandth of this.
        progress = ended.wait_timeout(progress, FLUSH_PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Opens sled, waiting for an earlier instance in this process to let go: the data directory's own lock is held, so it
/// can be nobody else.
fn open_when_released(path: &Path) -> Result<sled::Db, Failure> {
    let deadline = Instant::now() + CLOSING_WAIT;
    loop {
        match guarded(|| config(path).open()) {
            Err(Failure::Other(StoreError::Io { detail, .. }))
                if detail.contains("could not acquire lock") && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

fn read_sequence(db: &sled::Db) -> Result<Sequence, Failure> {
    let (format, sequence) = guarded(|| Ok((db.get(FORMAT_KEY)?, db.get(SEQUENCE_KEY)?)))?;
    match format.as_deref() {
        Some(FORMAT) => {}
        Some(_) => {
            return Err(StoreError::Newer { what: "the store".into() }.into());
        }
        None => return Err(Failure::Damage("its format row is missing".into())),
    }
    sequence
        .and_then(|bytes| bytes.as_ref().try_into().ok())
        .map(|bytes| Sequence(u64::from_be_bytes(bytes)))
        .ok_or_else(|| Failure::Damage("its sequence row is missing".into()))
}

fn engine_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut engine_key = Vec::with_capacity(1 + key.len());
    engine_key.push(table.tag());
    engine_key.extend_from_slice(key);
    engine_key
}

/// Why sled could not be opened or read.
enum Failure {
    /// The files make no sense; trying again will not help.
    Damage(Arc<str>),
    /// Anything else; the files may be whole.
    Other(StoreError),
}

impl Failure {
    fn from_sled(doing: &'static str, error: sled::Error) -> Failure {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match error {
            sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) | sled::Error::CollectionNotFound(_) => {
                Failure::Damage(error.to_string().into())
            }
            sled::Error::Io(error) if matches!(error.kind(), UnexpectedEof | InvalidData) => {
                Failure::Damage(error.to_string().into())
            }
            sled::Error::Io(error) => Failure::Other(directory::during(doing, Path::new("in the store"))(error)),
            sled::Error::Unsupported(detail) => Failure::Other(failed(doing, detail)),
        }
    }

    /// When there is nothing to restore from here.
    fn for_good(self, path: &Path) -> StoreError {
        match self {
            Failure::Damage(detail) => StoreError::Damaged { path: path.to_owned(), detail },
            Failure::Other(error) => error,
        }
    }

    fn into_error(self) -> StoreError {
        match self {
            Failure::Damage(detail) => failed("use the store", detail),
            Failure::Other(error) => error,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Other(error)
    }
}

fn failed(doing: &'static str, detail: impl Display) -> StoreError {
    StoreError::Engine { doing, detail: detail.to_string().into() }
}

/// Some damaged files make sled panic instead of returning an error.
fn guarded<T>(run: impl FnOnce() -> sled::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome.map_err(|error| Failure::from_sled("open or read", error)),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("nothing");
            Err(Failure::Damage(format!("the engine panicked and said: {said}").into()))
        }
    }
}
