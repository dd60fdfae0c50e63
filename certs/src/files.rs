//! The two files of the CA: `ca.key` (0600) and `ca.crt` in a directory of mode 0700.
//!
//! The key is written first, each file appears whole or not at all, and nothing is ever replaced: so a certificate
//! means a complete CA, and a key alone is a creation that was cut short. Knows nothing of what the files say.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::Error;

/// The CA's private key, PKCS #8 in PEM.
pub const KEY_FILE: &str = "ca.key";
/// The CA's certificate, PEM; give it to clients, for example `curl --cacert`.
pub const CERTIFICATE_FILE: &str = "ca.crt";

/// A P-256 key or certificate in PEM takes under 1 KB; more is not ours.
const MAX_FILE_BYTES: u64 = 16 * 1024;
/// Marks a file being written; what a kill leaves behind is removed at the next start.
const TEMPORARY_PREFIX: &str = ".ca.new-";

/// Makes `dir` with mode 0700 if it is missing, durably, and removes what an interrupted creation left.
pub(crate) fn prepare_directory(dir: &Path) -> Result<(), Error> {
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))?;
        if let Some(parent) = dir.parent() {
            sync_directory(parent)?;
        }
    }
    for entry in fs::read_dir(dir).map_err(io_error(dir))? {
        let entry = entry.map_err(io_error(dir))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            fs::remove_file(entry.path()).map_err(io_error(&entry.path()))?;
        }
    }
    Ok(())
}

pub(crate) fn read_key(dir: &Path) -> Result<Option<Zeroizing<String>>, Error> {
    let path = dir.join(KEY_FILE);
    let Some(file) = open(&path)? else {
        return Ok(None);
    };
    let mode = file.metadata().map_err(io_error(&path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::KeyExposed { path, mode });
    }
    read_text(file, &path).map(Some)
}

pub(crate) fn read_certificate(dir: &Path) -> Result<Option<Zeroizing<String>>, Error> {
    let path = dir.join(CERTIFICATE_FILE);
    open(&path)?.map(|file| read_text(file, &path)).transpose()
}

pub(crate) fn write_key(dir: &Path, pem: &str) -> Result<(), Error> {
    write_new(dir, KEY_FILE, 0o600, pem)
}

pub(crate) fn write_certificate(dir: &Path, pem: &str) -> Result<(), Error> {
    write_new(dir, CERTIFICATE_FILE, 0o644, pem)
}

/// Temporary file, fsync, rename that replaces nothing, fsync of the directory.
fn write_new(dir: &Path, name: &str, mode: u32, text: &str) -> Result<(), Error> {
    let path = dir.join(name);
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(io_error(dir))?;
    file.write_all(text.as_bytes()).map_err(io_error(&path))?;
    file.as_file().sync_all().map_err(io_error(&path))?;
    file.persist_noclobber(&path).map_err(|refused| {
        if refused.error.kind() == ErrorKind::AlreadyExists {
            Error::Exists(path.clone())
        } else {
            io_error(&path)(refused.error)
        }
    })?;
    sync_directory(dir)
}

fn open(path: &Path) -> Result<Option<File>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path)(error)),
    }
}

fn read_text(file: File, path: &Path) -> Result<Zeroizing<String>, Error> {
    // Reserved in one piece, so that growing leaves no copy of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE_BYTES as usize + 1));
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(io_error(path))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::Damaged { path: path.to_owned(), problem: "too long" });
    }
    Ok(text)
}

fn sync_directory(dir: &Path) -> Result<(), Error> {
    // The parent of a relative path of one component is the empty path.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(io_error(dir))
}

fn io_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
