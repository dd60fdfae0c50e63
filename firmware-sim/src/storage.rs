//! Where a device on this host keeps its records: in memory, or in a directory that only its owner may enter.
//!
//! A directory belongs to one running device at a time: two devices with one identity would take each other's session
//! over for ever. Knows nothing of what the records say.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Larger than any record of the agent (its identity, some 300 bytes).
const MAX_RECORD_BYTES: u64 = 4096;
/// Held by the running device.
const LOCK_FILE: &str = "lock";
/// Marks a record being written; what a kill leaves behind is removed at the next start.
const TEMPORARY_PREFIX: &str = ".new-";

/// The records of one device, by name.
pub struct Storage(Medium);

enum Medium {
    Memory(HashMap<&'static str, Zeroizing<Vec<u8>>>),
    Directory { path: PathBuf, _lock: Lock },
}

/// A file that one running device has locked.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // To close it is not enough: a program that another thread is just starting holds a copy of it for a moment.
        let _ = self.0.unlock();
    }
}

/// Why a directory cannot hold a device, or a record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another running device holds the directory.
    #[error("{} is in use by another running device: give each device its own --storage", .0.display())]
    InUse(PathBuf),
    /// Others may read or replace the device's key.
    #[error("{} is accessible to others (mode {mode:04o}): chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The record's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Longer than any record.
    #[error("{} is longer than a record can be: restore it, or remove it and enrol again", .0.display())]
    TooLong(PathBuf),
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Storage {
    /// Storage that is gone with the process.
    pub fn memory() -> Self {
        Self(Medium::Memory(HashMap::new()))
    }

    /// Storage in `path`, a directory of mode 0700 that is made if missing; records are files of mode 0600.
    ///
    /// # Errors
    /// [`StorageError::InUse`] while another device runs from it, [`StorageError::Exposed`] when a record is
    /// accessible to others, [`StorageError::Io`].
    pub fn directory(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        let fail = io_error(&path);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(fail)?;
        let lock = lock(&path)?;
        for entry in fs::read_dir(&path).map_err(io_error(&path))? {
            let file = entry.map_err(io_error(&path))?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(TEMPORARY_PREFIX) {
                fs::remove_file(&file).map_err(io_error(&file))?;
            } else {
                refuse_if_exposed(&file, &File::open(&file).map_err(io_error(&file))?)?;
            }
        }
        Ok(Self(Medium::Directory { path, _lock: lock }))
    }

    /// The bytes of record `name`; `None` if it was never stored.
    ///
    /// # Errors
    /// [`StorageError`] when the file cannot be read, is exposed, or is no record.
    pub fn load(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StorageError> {
        match &self.0 {
            Medium::Memory(records) => Ok(records.get(name).cloned()),
            Medium::Directory { path, .. } => read_record(&path.join(name)),
        }
    }

    /// Replaces record `name`: durable when this returns, and whole or not at all.
    ///
    /// # Errors
    /// [`StorageError::Io`] when the medium failed; the old bytes are still there.
    pub fn store(&mut self, name: &'static str, bytes: &[u8]) -> Result<(), StorageError> {
        match &mut self.0 {
            Medium::Memory(records) => {
                records.insert(name, Zeroizing::new(bytes.to_vec()));
                Ok(())
            }
            Medium::Directory { path, .. } => replace_record(path, name, bytes).map_err(io_error(&path.join(name))),
        }
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Medium::Memory(_) => f.write_str("Storage(memory)"),
            Medium::Directory { path, .. } => write!(f, "Storage({})", path.display()),
        }
    }
}

fn lock(dir: &Path) -> Result<Lock, StorageError> {
    let path = dir.join(LOCK_FILE);
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(fs::TryLockError::WouldBlock) => Err(StorageError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(StorageError::Io { path, source }),
    }
}

fn read_record(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StorageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path)(error)),
    };
    refuse_if_exposed(path, &file)?;
    // Reserved in one piece, so that growing leaves no copy of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_RECORD_BYTES as usize + 1));
    file.take(MAX_RECORD_BYTES + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.len() as u64 > MAX_RECORD_BYTES {
        return Err(StorageError::TooLong(path.to_owned()));
    }
    Ok(Some(bytes))
}

fn refuse_if_exposed(path: &Path, file: &File) -> Result<(), StorageError> {
    let mode = file.metadata().map_err(io_error(path))?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(StorageError::Exposed { path: path.to_owned(), mode })
}

/// Temporary file (0600), fsync, rename, fsync of the directory.
fn replace_record(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> StorageError + use<> {
    let path = path.to_owned();
    move |source| StorageError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[test]
    fn records_survive_a_restart_and_are_private() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let dir = home.path().join("lamp");
        let mut storage = Storage::directory(&dir).expect("made");
        assert_eq!(storage.load("identity").expect("readable"), None);
        storage.store("identity", b"first").expect("writable");
        storage.store("identity", b"second").expect("writable");
        drop(storage);

        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("identity")), 0o600);
        let storage = Storage::directory(&dir).expect("opened again");
        let loaded = storage.load("identity").expect("readable").expect("stored");
        assert_eq!(loaded.as_slice(), b"second");
    }

    #[test]
    fn a_record_that_others_may_access_is_refused_with_the_remedy() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut storage = Storage::directory(home.path()).expect("made");
        storage.store("identity", b"secret").expect("writable");
        let file = home.path().join("identity");
        for exposed in [0o644, 0o640, 0o602] {
            fs::set_permissions(&file, Permissions::from_mode(exposed)).expect("ours");
            let refused = storage.load("identity").expect_err("exposed");
            assert!(refused.to_string().contains(&format!("chmod 600 {}", file.display())), "{refused}");
        }
        drop(storage);
        let refused = Storage::directory(home.path()).expect_err("exposed at the start, too");
        assert!(matches!(refused, StorageError::Exposed { mode: 0o602, .. }));
    }

    #[test]
    fn two_running_devices_cannot_share_a_directory() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let first = Storage::directory(home.path()).expect("made");
        let refused = Storage::directory(home.path()).expect_err("in use");
        assert!(matches!(refused, StorageError::InUse(_)), "{refused}");
        // As a program does that is being started: it has a copy of every open file until it is another program.
        let Medium::Directory { _lock: Lock(file), .. } = &first.0 else { unreachable!("made in a directory") };
        let _inherited = file.try_clone().expect("a copy");
        drop(first);
        Storage::directory(home.path()).expect("free again");
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_old_record() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut storage = Storage::directory(home.path()).expect("made");
        storage.store("identity", b"old").expect("writable");
        drop(storage);
        fs::write(home.path().join(".new-Xy12"), "ne").expect("writable");

        let storage = Storage::directory(home.path()).expect("opened again");
        let loaded = storage.load("identity").expect("readable").expect("stored");
        assert_eq!(loaded.as_slice(), b"old");
        assert!(!home.path().join(".new-Xy12").exists());
    }

    #[test]
    fn what_is_too_long_for_a_record_is_refused() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut storage = Storage::directory(home.path()).expect("made");
        storage.store("identity", &[0; 4096]).expect("writable");
        assert_eq!(storage.load("identity").expect("readable").expect("stored").len(), 4096);
        storage.store("identity", &[0; 4097]).expect("writable");
        assert!(matches!(storage.load("identity"), Err(StorageError::TooLong(_))));
    }

    #[test]
    fn memory_keeps_each_record_apart() {
        let mut storage = Storage::memory();
        storage.store("identity", b"a").expect("memory");
        storage.store("command-sequence", b"b").expect("memory");
        let loaded = storage.load("identity").expect("memory").expect("stored");
        assert_eq!(loaded.as_slice(), b"a");
        assert_eq!(format!("{storage:?}"), "Storage(memory)");
    }
}
