//! What lies beside the engine's files: the lock, the reserve, backups, damaged copies; and how all of it reaches the disk.
//!
//! ```text
//! DATA/store/            the engine's files
//! DATA/store.new/        a first creation or a restore, renamed to store/ when it is whole
//! DATA/store.lock        held while a hub runs
//! DATA/store.reserve     released when the store must be reopened, or rights be taken away, on a full disk
//! DATA/store.damaged-1/  what could not be opened when a backup was restored; never removed
//! DATA/backups/          store-<sequence>.backup, and `asked-for`: the last one that somebody asked for
//! ```
//!
//! Knows nothing of rows or of the engine, apart from the names of files that it leaves torn or unsynced.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, fdatasync, statvfs};
use rustix::io::Errno;

use super::StoreError;

/// Held back so that a store on a full disk can still be opened: the engine writes a snapshot and a segment then.
pub const RESERVE_BYTES: u64 = 16 << 20;

/// Batches are refused when fewer bytes are free: logs, certificates and a backup must still fit, and the reserve be remade.
pub const FREE_SPACE_FLOOR_BYTES: u64 = (32 << 20) + RESERVE_BYTES;

/// What must be free for a batch that takes rights away, the reserve file given up if need be: a few of the engine's segments.
pub const LAST_SPACE_BYTES: u64 = 4 << 20;

/// Most damaged copies that are moved aside; more means that the disk is at fault, and the owner must act.
pub const MAX_DAMAGED_KEPT: usize = 3;

/// Most backups that are kept; an older one is removed once a newer one is whole.
const MAX_BACKUPS_KEPT: usize = 2;

/// The data directory, locked for this process.
pub(super) struct Directory {
    data: PathBuf,
    /// The reserve was used; it is set aside again when there is room.
    reserve_is_gone: AtomicBool,
    lock: File,
}

impl Drop for Directory {
    fn drop(&mut self) {
        // To close it is not enough: a program that another thread is just starting holds a copy of it for a moment.
        let _ = self.lock.unlock();
    }
}

impl Directory {
    /// Makes the directory if need be and takes its lock.
    pub(super) fn lock(data: &Path) -> Result<Directory, StoreError> {
        create_private(data)?;
        let path = data.join("store.lock");
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(during("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(data.to_owned())),
            Err(TryLockError::Error(error)) => return Err(during("lock", &path)(error)),
        }
        Ok(Directory { data: data.to_owned(), reserve_is_gone: AtomicBool::new(false), lock: file })
    }

    /// The engine's directory.
    pub(super) fn engine(&self) -> PathBuf {
        self.data.join("store")
    }

    pub(super) fn backups(&self) -> PathBuf {
        self.data.join("backups")
    }

    /// Whether an engine was ever created here.
    pub(super) fn has_engine(&self) -> Result<bool, StoreError> {
        let engine = self.engine();
        engine.try_exists().map_err(during("look at", &engine))
    }

    /// Fills a directory out of sight, and gives it the engine's name once all of it is on the disk.
    ///
    /// An engine that is there already goes to the first free `store.<aside>-N` with N up to `most`; returns where. A cut
    /// between any two steps leaves the old one or the new one under the name, or [`Directory::finish_creation`] to do.
    pub(super) fn create_engine(
        &self,
        aside: &str,
        most: usize,
        fill: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<Option<PathBuf>, StoreError> {
        let (new, whole, engine) = (self.data.join("store.new"), self.whole(), self.engine());
        create_private(&new)?;
        fill(&new)?;
        sync_tree(&new)?;
        rename(&new, &whole)?;
        sync(&self.data)?;
        let moved_to = match self.has_engine()? {
            true => Some(self.free_name(aside, most)?),
            false => None,
        };
        if let Some(moved_to) = &moved_to {
            rename(&engine, moved_to)?;
            sync(&self.data)?;
        }
        rename(&whole, &engine)?;
        sync(&self.data)?;
        Ok(moved_to)
    }

    /// Ends or undoes a creation that was interrupted.
    pub(super) fn finish_creation(&self) -> Result<(), StoreError> {
        let whole = self.whole();
        remove_tree(&self.data.join("store.new"))?;
        if self.has_engine()? {
            return remove_tree(&whole);
        }
        if whole.is_dir() {
            rename(&whole, &self.engine())?;
            sync(&self.data)?;
        }
        Ok(())
    }

    fn whole(&self) -> PathBuf {
        self.data.join("store.whole")
    }

    /// Whether one more damaged copy may be kept.
    pub(super) fn may_keep_damaged(&self) -> bool {
        self.free_name("damaged", MAX_DAMAGED_KEPT).is_ok()
    }

    fn free_name(&self, aside: &str, most: usize) -> Result<PathBuf, StoreError> {
        (1..=most)
            .map(|n| self.data.join(format!("store.{aside}-{n}")))
            .find(|path| matches!(path.try_exists(), Ok(false)))
            .ok_or_else(|| during("move aside", &self.engine())(io::Error::other("no name is free")))
    }

    /// Removes snapshots that a kill left half written: the engine would take them for corruption.
    pub(super) fn remove_torn_snapshots(&self) -> Result<(), StoreError> {
        for path in list(&self.engine())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("snap.") && name.ends_with(".generating") {
                fs::remove_file(&path).map_err(during("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Brings to the disk what the engine writes on opening and leaves unsynced.
    pub(super) fn sync_engine(&self) -> Result<(), StoreError> {
        sync_tree(&self.engine())
    }

    /// The engine's log, through a descriptor of our own: it sees every error of writing back since now.
    pub(super) fn open_log(&self) -> Result<Log, StoreError> {
        let path = self.engine().join("db");
        let file = File::open(&path).map_err(during("open", &path))?;
        Ok(Log { file, path })
    }

    /// Bytes of the engine's files.
    pub(super) fn engine_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for path in list(&self.engine())?.into_iter().chain(list(&self.engine().join("blobs"))?) {
            bytes += fs::metadata(&path).map_err(during("look at", &path))?.len();
        }
        Ok(bytes)
    }

    /// Fails when fewer than [`FREE_SPACE_FLOOR_BYTES`] are free.
    pub(super) fn check_free_space(&self) -> Result<(), StoreError> {
        let free = self.free_space()?;
        if free < FREE_SPACE_FLOOR_BYTES {
            return Err(StoreError::LowSpace { path: self.data.clone(), free });
        }
        if self.reserve_is_gone.swap(false, Ordering::Relaxed)
            && let Err(error) = self.make_reserve()
        {
            self.reserve_is_gone.store(true, Ordering::Relaxed);
            tracing::warn!(%error, "there is no reserve: free some space");
        }
        Ok(())
    }

    /// Fails when a backup of so many bytes would leave fewer than [`FREE_SPACE_FLOOR_BYTES`] free.
    pub(super) fn check_room_for_backup(&self, needs: u64) -> Result<(), StoreError> {
        let free = self.free_space()?;
        match free.saturating_sub(needs) {
            left if left < FREE_SPACE_FLOOR_BYTES => Err(StoreError::NoRoomForBackup { path: self.data.clone(), needs, free }),
            _ => Ok(()),
        }
    }

    /// Makes room for a batch that takes rights away.
    pub(super) fn check_last_space(&self) -> Result<(), StoreError> {
        if self.free_space()? >= LAST_SPACE_BYTES {
            return Ok(());
        }
        if self.release_reserve()? {
            self.reserve_is_gone.store(true, Ordering::Relaxed);
            tracing::warn!("the disk is full: the reserve was released to take rights away; free some space");
        }
        match self.free_space()? {
            free if free < LAST_SPACE_BYTES => Err(StoreError::LowSpace { path: self.data.clone(), free }),
            _ => Ok(()),
        }
    }

    fn free_space(&self) -> Result<u64, StoreError> {
        let status = statvfs(&self.data).map_err(|errno| during("look at", &self.data)(errno.into()))?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// Sets the reserve aside, unless it is there already.
    pub(super) fn make_reserve(&self) -> Result<(), StoreError> {
        let path = self.data.join("store.reserve");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(during("create", &path))?;
        if file.metadata().map_err(during("look at", &path))?.len() == RESERVE_BYTES {
            return Ok(());
        }
        let allocated = match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
            Err(Errno::OPNOTSUPP) => (&file).write_all(&vec![0; RESERVE_BYTES as usize]).and_then(|()| file.sync_all()),
            outcome => outcome.map_err(io::Error::from),
        };
        allocated.map_err(|error| {
            // A reserve that is too short would look like one that is there.
            let _ = fs::remove_file(&path);
            during("set aside space in", &path)(error)
        })
    }

    /// Gives the reserve's space back; whether there was one.
    pub(super) fn release_reserve(&self) -> Result<bool, StoreError> {
        let path = self.data.join("store.reserve");
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(during("release", &path)(error)),
        }
    }

    /// Backups, newest first by the number in their names.
    pub(super) fn list_backups(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut backups = list(&self.backups())?;
        backups.retain(|path| path.extension().is_some_and(|extension| extension == "backup"));
        backups.sort_unstable_by(|a, b| b.cmp(a));
        Ok(backups)
    }

    /// Removes all but the newest [`MAX_BACKUPS_KEPT`].
    pub(super) fn prune_backups(&self) -> Result<(), StoreError> {
        for path in self.list_backups()?.into_iter().skip(MAX_BACKUPS_KEPT) {
            fs::remove_file(&path).map_err(during("remove", &path))?;
        }
        Ok(())
    }
}

/// See [`Directory::open_log`].
pub(super) struct Log {
    file: File,
    path: PathBuf,
}

impl Log {
    /// Returns when everything written to the log is on the disk, its length included.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        fdatasync(&self.file).map_err(|errno| during("sync", &self.path)(errno.into()))
    }
}

/// Writes a file that is either whole under its name or not there: 0600, synced, renamed into place.
pub(super) fn write_atomically(path: &Path, write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    // What a write that was interrupted left, or somebody else put there: its mode would stay.
    let _ = fs::remove_file(&partial);
    let written = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial).and_then(|file| {
        let mut buffered = io::BufWriter::new(&file);
        write(&mut buffered)?;
        buffered.flush()?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&partial);
        return Err(during("write", path)(error));
    }
    sync(parent)
}

/// Makes a directory that only its owner may enter, if it is not there, and has its name on the disk.
pub(super) fn create_private(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(during("create", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => sync(Path::new(".")),
    }
}

/// What an error of the operating system becomes.
pub(super) fn during(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Io { doing, path: path.to_owned(), full: is_full(&error), detail: error.to_string().into() }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// How many files lie in a directory; none if it is not there or cannot be listed.
pub(super) fn count(directory: &Path) -> usize {
    list(directory).map_or(0, |paths| paths.len())
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(during("rename", from))
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(during("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync_tree(directory: &Path) -> Result<(), StoreError> {
    for path in list(directory)? {
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(directory)
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(during("sync", path))
}

/// What is in a directory; nothing if there is no such directory.
fn list(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(during("list", directory)(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>().map_err(during("list", directory))
}
