//! The data directory: what lies where, who may read it, and how a secret file comes to be.
//!
//! ```text
//! DATA/            0700
//!   ca/            the home CA (hearthkey-certs)
//!   store/         the registry (store/)
//!   keys/          signing keys and the pepper, 0600
//!   contexts/      local.toml, local.token: what the command line on this machine uses
//!   issuers        the issuer, and earlier ones that devices may still name
//! ```

use crate::entropy;
use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The data directory of a hub.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// A verb.
        doing: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read a secret.
    #[error("{} can be read by others (mode {mode:o}); run: chmod {wanted:o} {}", path.display(), path.display())]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        wanted: u32,
    },
    /// A file holds something else than it should.
    #[error("{} is damaged: {why}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

impl DataDir {
    /// Opens a data directory, making it with mode 0700 if it is missing.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open(root: &Path) -> Result<Self, DataDirError> {
        let dir = Self { root: root.to_owned() };
        for path in [root.to_owned(), dir.keys(), dir.contexts()] {
            if path.is_dir() {
                refuse_exposed(&path, 0o700)?;
            } else {
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
                made.map_err(|source| DataDirError::Io { doing: "create", path: path.clone(), source })?;
            }
        }
        Ok(dir)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the CA is.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// Where signing keys and the pepper are.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// Where contexts are.
    #[must_use]
    pub fn contexts(&self) -> PathBuf {
        self.root.join("contexts")
    }

    /// The file of the pepper, made at the first start.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn pepper(&self) -> Result<[u8; 32], DataDirError> {
        let path = self.keys().join("pepper");
        let bytes = read_or_create_secret(&path, || Zeroizing::new(entropy::random::<32>().to_vec()))?;
        bytes.as_slice().try_into().map_err(|_| DataDirError::Damaged { path, why: "it does not have 32 bytes" })
    }

    /// The issuer, then those of earlier times. It stays as it was at the first start until `wanted` names another, or until a hub
    /// that only its own machine could reach is `reachable` by others: `localhost` means something else to each of them.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn issuers(&self, wanted: Option<&str>, reachable: &str) -> Result<Vec<String>, DataDirError> {
        let path = self.root.join("issuers");
        let stored = match fs::read_to_string(&path) {
            Ok(text) => text.lines().map(str::to_owned).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(DataDirError::Io { doing: "read", path, source }),
        };
        let kept = stored.first().map(String::as_str).filter(|kept| !is_local(kept) || is_local(reachable));
        let current = wanted.or(kept).unwrap_or(reachable).to_owned();
        let mut issuers = vec![current];
        issuers
            .extend(stored.iter().filter(|issuer| **issuer != issuers[0]).take(MAX_EARLIER_ISSUERS).cloned().collect::<Vec<_>>());
        if issuers != stored {
            replace_file(&path, format!("{}\n", issuers.join("\n")).as_bytes())?;
        }
        Ok(issuers)
    }
}

/// Whether an issuer means another machine to each that reads it.
fn is_local(issuer: &str) -> bool {
    issuer.strip_prefix("https://localhost").is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// Most earlier issuers that devices may still name: each change of the hub's address adds one.
const MAX_EARLIER_ISSUERS: usize = 8;

/// Reads a secret file that only its owner can read, or makes it.
///
/// # Errors
/// [`DataDirError`].
pub fn read_or_create_secret(path: &Path, make: impl FnOnce() -> Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, DataDirError> {
    match fs::read(path) {
        Ok(bytes) => {
            refuse_exposed(path, 0o600)?;
            Ok(Zeroizing::new(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = make();
            replace_file(path, &secret)?;
            Ok(secret)
        }
        Err(source) => Err(DataDirError::Io { doing: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file with mode 0600 so that after a power cut it is whole or not there: temporary file, fsync, rename, fsync of the directory.
///
/// # Errors
/// [`DataDirError`].
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::Io { doing: "write", path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    // A temporary file is 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

fn refuse_exposed(path: &Path, wanted: u32) -> Result<(), DataDirError> {
    let metadata = fs::metadata(path).map_err(|source| DataDirError::Io { doing: "look at", path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(DataDirError::Exposed { path: path.to_owned(), mode, wanted }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_can_read_it() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::open(&temp.path().join("data")).expect("new");
        let pepper = dir.pepper().expect("made");
        assert_eq!(dir.pepper().expect("read"), pepper);
        let path = dir.keys().join("pepper");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        let error = dir.pepper().expect_err("exposed").to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let root = temp.path().join("data");
        DataDir::open(&root).expect("new");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("ours");
        assert!(matches!(DataDir::open(&root), Err(DataDirError::Exposed { .. })));
    }

    #[test]
    fn an_issuer_stays_until_another_is_wanted_and_earlier_ones_are_remembered() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::open(&temp.path().join("data")).expect("new");
        assert_eq!(dir.issuers(None, "https://a").expect("new"), ["https://a"]);
        assert_eq!(dir.issuers(None, "https://b").expect("kept"), ["https://a"]);
        assert_eq!(dir.issuers(Some("https://c"), "https://b").expect("changed"), ["https://c", "https://a"]);
        assert_eq!(dir.issuers(None, "https://b").expect("kept"), ["https://c", "https://a"]);
    }

    #[test]
    fn an_issuer_of_this_machine_alone_makes_way_when_others_can_reach_the_hub() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::open(&temp.path().join("data")).expect("new");
        let local = "https://localhost:8443";
        assert_eq!(dir.issuers(None, local).expect("new"), [local]);
        assert_eq!(dir.issuers(None, "https://localhost:9443").expect("kept"), [local]);
        assert_eq!(dir.issuers(None, "https://192.168.1.5:8443").expect("changed"), ["https://192.168.1.5:8443", local]);
        let kept = dir.issuers(None, "https://192.168.1.6:8443").expect("kept");
        assert_eq!(kept, ["https://192.168.1.5:8443", local], "another address is for the owner to name");
        assert_eq!(dir.issuers(None, local).expect("kept"), kept, "nor does going back to loopback change it");
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::open(&temp.path().join("data")).expect("new");
        assert_eq!(dir.issuers(Some(local), "https://192.168.1.5:8443").expect("new"), [local], "as wanted");
    }
}
