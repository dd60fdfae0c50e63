//! Keeps what the hub acknowledged, through `kill -9`, a full disk and a power cut.
//!
//! Owns the order of batches, their sequence numbers, and when a batch counts as durable. Knows nothing of what a row
//! means: a row is a table, a key and a value. Readers look at the hub's own view, which is rebuilt from [`Store::load`]
//! and follows [`Store::commit`]'s completions, so nothing is visible before it is durable.
//!
//! [`sled`] is the only file that names the engine; [`committer`] the queue and the group commit; [`directory`] what
//! lies beside the engine's files; [`backup`] the form of a backup.

mod backup;
mod committer;
mod directory;
mod sled;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use hearthkey_core::write::{Sequence, Table, Write};

pub use self::directory::{FREE_SPACE_FLOOR_BYTES, LAST_SPACE_BYTES, MAX_DAMAGED_KEPT, RESERVE_BYTES};
pub use self::sled::{Closed, Opened, RestoredFromBackup, SledStore, back_up_stopped, copy_backup, restore};

/// Longest key. The engine keeps keys inside its index nodes, which must stay small.
pub const MAX_KEY_BYTES: usize = 255;

/// Longest value; a longer one is the caller's to split into rows of one batch.
///
/// A leaf page that outgrows 128 KB goes to files that the engine neither syncs nor reclaims.
pub const MAX_VALUE_BYTES: usize = 4096;

/// Most operations in one batch, and in one group of batches that share a sync.
pub const MAX_BATCH_OPERATIONS: usize = 512;

/// Most bytes of keys and values in one batch, and in one group of batches that share a sync.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// Most batches that wait for the committer: some ten groups, or a second on a slow SD card.
pub const MAX_QUEUED_BATCHES: usize = 4096;

/// Most bytes of keys and values that wait for the committer.
pub const MAX_QUEUED_BYTES: usize = 16 << 20;

/// Most batches that [`Store::since`] remembers.
pub const MAX_RECENT_BATCHES: usize = 1024;

/// Most bytes of keys and values that [`Store::since`] remembers.
pub const MAX_RECENT_BYTES: usize = 4 << 20;

/// One stored row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Where the row lives.
    pub table: Table,
    /// At most [`MAX_KEY_BYTES`].
    pub key: Vec<u8>,
    /// At most [`MAX_VALUE_BYTES`].
    pub value: Vec<u8>,
}

/// A batch that is durable.
#[derive(Debug)]
pub struct Committed {
    /// The number of this batch: one more than the batch it followed.
    pub sequence: Sequence,
    /// What it wrote, in order.
    pub writes: Vec<Write>,
}

/// What runs once when a batch is durable or has failed.
pub type OnDone = Box<dyn FnOnce(Result<Sequence, StoreError>) + Send>;

/// A durable, ordered sequence of atomic batches of rows.
///
/// Fail-stop: after any error of the engine no batch is accepted and every waiter fails, until [`Store::reopen`] has
/// succeeded and the caller has rebuilt its view from [`Store::load`]. A batch that failed so may still be found stored
/// then: its fate was unknown when the disk refused.
pub trait Store: Send + Sync {
    /// Everything stored, in order of table and key: for rebuilding the view at start and after [`Store::reopen`].
    ///
    /// # Errors
    /// When the engine cannot read, or a row belongs to a table that this version does not know.
    fn load(&self) -> Result<Vec<Row>, StoreError>;

    /// The durable rows of one table whose keys are at or above `from`, in order, at most `limit`. For what is too much to
    /// keep in memory; may wait for the group that is being written.
    ///
    /// # Errors
    /// When the engine cannot read.
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;

    /// The number of the newest durable batch; 0 when nothing was ever stored.
    fn last_sequence(&self) -> Sequence;

    /// Enqueues a batch that follows `after`, and returns its number at once: `after + 1`.
    ///
    /// `after` is the number of the batch enqueued before, durable or not: batches may be pipelined. They become durable in
    /// the order of the calls, each whole or not at all. `on_done` runs exactly once when this returns `Ok`, and never when
    /// it returns `Err`. It runs on the committer's thread, in order, after the batch is on the disk and before the next
    /// group is written: it must be short, must not block, and must not call [`Store::reopen`] or [`Store::load`].
    ///
    /// # Errors
    /// Nothing was stored, and the number is not used up: [`StoreError::Conflict`], [`StoreError::KeyTooLarge`],
    /// [`StoreError::ValueTooLarge`], [`StoreError::BatchTooLarge`], [`StoreError::QueueFull`], [`StoreError::LowSpace`],
    /// [`StoreError::Stopped`].
    fn commit(&self, after: Sequence, batch: Vec<Write>, on_done: OnDone) -> Result<Sequence, StoreError>;

    /// As [`Store::commit`], for a batch that takes rights away: it is accepted below [`FREE_SPACE_FLOOR_BYTES`] too, at last in
    /// the space of the reserve file. Nobody keeps a lost lock because a disk is full.
    ///
    /// # Errors
    /// As [`Store::commit`]; [`StoreError::LowSpace`] only when the reserve is used up.
    fn commit_from_reserve(&self, after: Sequence, batch: Vec<Write>, on_done: OnDone) -> Result<Sequence, StoreError>;

    /// Whether a small batch would be accepted now: for readiness, and for asking before deciding.
    ///
    /// # Errors
    /// As [`Store::commit`].
    fn check_writable(&self) -> Result<(), StoreError>;

    /// The durable batches after `after`, oldest first; empty when there are none.
    ///
    /// # Errors
    /// [`StoreError::SequenceTooOld`] when that far back is no longer remembered: [`Store::load`] everything instead. At
    /// most [`MAX_RECENT_BATCHES`] and [`MAX_RECENT_BYTES`] are remembered, none across a restart.
    fn since(&self, after: Sequence) -> Result<Vec<Arc<Committed>>, StoreError>;

    /// Writes everything that is durable now to a file of the data directory that only its owner may read, in place of what was
    /// asked for before; those that the hub makes by itself stay. Returns the file. Commits wait while the store is read.
    ///
    /// # Errors
    /// [`StoreError::BackupUnderWay`] at once while another one asked; [`StoreError::NoRoomForBackup`]; and when the store is
    /// closed, or cannot be read, or the file cannot be written.
    fn back_up_as_asked(&self) -> Result<PathBuf, StoreError>;

    /// Closes the engine and opens it anew after a failure, releasing the reserve file if the disk is full.
    ///
    /// Batches still queued fail. Returns the newest durable number, which may be higher than the last one acknowledged.
    ///
    /// # Errors
    /// Whatever keeps the store from opening; it stays stopped and this may be called again.
    fn reopen(&self) -> Result<Sequence, StoreError>;
}

/// Why the store refused or failed. One error may go to many waiters, hence `Clone` and text for the cause.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it.
    #[error("the data directory {} is in use by another hearthkey; stop that one first, or choose another with --data", .0.display())]
    InUse(PathBuf),
    /// The batch was decided on a state that is not the newest.
    #[error("the batch follows {}, but the newest is {}; decide again", after.0, newest.0)]
    Conflict {
        /// What the caller knew.
        after: Sequence,
        /// What the store has accepted.
        newest: Sequence,
    },
    /// See [`MAX_KEY_BYTES`].
    #[error("a key of {bytes} bytes for {table:?} is longer than {MAX_KEY_BYTES}")]
    KeyTooLarge {
        /// Which table.
        table: Table,
        /// How long it was.
        bytes: usize,
    },
    /// See [`MAX_VALUE_BYTES`].
    #[error("a value of {bytes} bytes for {table:?} is longer than {MAX_VALUE_BYTES}")]
    ValueTooLarge {
        /// Which table.
        table: Table,
        /// How long it was.
        bytes: usize,
    },
    /// See [`MAX_BATCH_OPERATIONS`] and [`MAX_BATCH_BYTES`].
    #[error("a batch of {operations} operations and {bytes} bytes is more than {MAX_BATCH_OPERATIONS} and {MAX_BATCH_BYTES}")]
    BatchTooLarge {
        /// How many.
        operations: usize,
        /// Keys and values together.
        bytes: usize,
    },
    /// See [`MAX_QUEUED_BATCHES`] and [`MAX_QUEUED_BYTES`].
    #[error("{batches} batches ({bytes} bytes) wait for the disk; try again shortly")]
    QueueFull {
        /// How many wait.
        batches: usize,
        /// Keys and values together.
        bytes: usize,
    },
    /// See [`FREE_SPACE_FLOOR_BYTES`].
    #[error("only {free} bytes are free under {}, fewer than the {FREE_SPACE_FLOOR_BYTES} that are kept back; free some space", path.display())]
    LowSpace {
        /// The data directory.
        path: PathBuf,
        /// What a process without privileges may still use.
        free: u64,
    },
    /// See [`Store::back_up_as_asked`].
    #[error("a backup is being written already; ask again when it is there")]
    BackupUnderWay,
    /// A backup beside the store would take the space that is kept back for what the store itself writes.
    #[error(
        "a backup takes up to {needs} bytes, and only {free} are free under {}, of which {FREE_SPACE_FLOOR_BYTES} are kept back; \
        free some space, or stop the hub and let `hearthkey backup` write to another disk",
        path.display()
    )]
    NoRoomForBackup {
        /// The data directory.
        path: PathBuf,
        /// The most that it takes.
        needs: u64,
        /// What a process without privileges may still use.
        free: u64,
    },
    /// The store failed earlier and has not been reopened.
    #[error("the store has stopped: {0}")]
    Stopped(Arc<str>),
    /// Asked for batches that are no longer remembered.
    #[error("batches after {} are no longer remembered, only those after {}; load everything", after.0, oldest.0)]
    SequenceTooOld {
        /// What was asked.
        after: Sequence,
        /// The smallest number that may be asked.
        oldest: Sequence,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {detail}", path.display())]
    Io {
        /// A verb.
        doing: &'static str,
        /// Of what.
        path: PathBuf,
        /// What it said.
        detail: Arc<str>,
        /// Whether it was for want of space.
        full: bool,
    },
    /// The engine refused.
    #[error("cannot {doing}: {detail}")]
    Engine {
        /// A verb and its object.
        doing: &'static str,
        /// What it said.
        detail: Arc<str>,
    },
    /// The engine's files make no sense to it, and there is no backup to restore.
    #[error(
        "the store in {} is damaged ({detail}) and there is no backup of it; it was left where it is: restore one with \
         `hearthkey restore FILE`, or move the directory away to begin with an empty home", path.display()
    )]
    Damaged {
        /// The engine's directory.
        path: PathBuf,
        /// What it said.
        detail: Arc<str>,
    },
    /// It keeps happening: see [`MAX_DAMAGED_KEPT`].
    #[error(
        "the store in {} is damaged ({detail}) for the {MAX_DAMAGED_KEPT}th time; it was left where it is: replace the disk, or \
         move the directories *.damaged-* away", path.display()
    )]
    DamagedAgain {
        /// The engine's directory.
        path: PathBuf,
        /// What it said.
        detail: Arc<str>,
    },
    /// Written by a version that knows more.
    #[error("{what} was written by a newer hearthkey; upgrade this one")]
    Newer {
        /// What this version does not know.
        what: String,
    },
    /// Not a backup, or not a whole one.
    #[error("{} is not a whole backup: {detail}", path.display())]
    BadBackup {
        /// The file.
        path: PathBuf,
        /// Where it stopped making sense.
        detail: &'static str,
    },
}

/// Checks the bounds of a batch; returns the bytes of its keys and values.
fn measure(batch: &[Write]) -> Result<usize, StoreError> {
    let mut bytes = 0;
    for write in batch {
        let (table, key, value) = match write {
            Write::Put { table, key, value } => (*table, key.len(), value.len()),
            Write::Delete { table, key } => (*table, key.len(), 0),
        };
        if key > MAX_KEY_BYTES {
            return Err(StoreError::KeyTooLarge { table, bytes: key });
        }
        if value > MAX_VALUE_BYTES {
            return Err(StoreError::ValueTooLarge { table, bytes: value });
        }
        bytes += key + value;
    }
    if batch.len() > MAX_BATCH_OPERATIONS || bytes > MAX_BATCH_BYTES {
        return Err(StoreError::BatchTooLarge { operations: batch.len(), bytes });
    }
    Ok(bytes)
}
