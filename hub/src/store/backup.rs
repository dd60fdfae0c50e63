//! The form of a backup: every row and the sequence number they stand for, under one checksum.
//!
//! ```text
//! "hearthkey-backup 1\n"  sequence u64  rows u64  { tag u8  key_length u16  value_length u16  key  value }*  SHA-256 of all before
//! ```
//! Numbers are big-endian. The checksum tells a torn or flipped file from a whole one; it does not tell who wrote it.

use std::fs;
use std::io;
use std::path::Path;

use hearthkey_core::write::{Sequence, Table};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};

use super::directory::{during, write_atomically};
use super::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Row, StoreError};

const MAGIC: &[u8] = b"hearthkey-backup 1\n";
const MAGIC_OF_ANY_VERSION: &[u8] = b"hearthkey-backup ";

/// Everything that a store held at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Backup {
    pub(super) sequence: Sequence,
    pub(super) rows: Vec<Row>,
}

impl Backup {
    /// Writes the file atomically, readable by its owner only.
    pub(super) fn write_to(&self, path: &Path) -> Result<(), StoreError> {
        write_atomically(path, |file| {
            let mut context = Context::new(&SHA256);
            self.encode(&mut |bytes| {
                context.update(bytes);
                file.write_all(bytes)
            })?;
            file.write_all(context.finish().as_ref())
        })
    }

    fn encode(&self, put: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        put(MAGIC)?;
        put(&self.sequence.0.to_be_bytes())?;
        put(&(self.rows.len() as u64).to_be_bytes())?;
        for Row { table, key, value } in &self.rows {
            let too_long = |_| io::Error::other("a row is longer than the store allows");
            put(&[table.tag()])?;
            put(&u16::try_from(key.len()).map_err(too_long)?.to_be_bytes())?;
            put(&u16::try_from(value.len()).map_err(too_long)?.to_be_bytes())?;
            put(key)?;
            put(value)?;
        }
        Ok(())
    }

    /// Reads a whole file; a torn, altered or foreign one is [`StoreError::BadBackup`].
    pub(super) fn read_from(path: &Path) -> Result<Backup, StoreError> {
        let bytes = fs::read(path).map_err(during("read", path))?;
        let bad = |detail| StoreError::BadBackup { path: path.to_owned(), detail };
        if !bytes.starts_with(MAGIC_OF_ANY_VERSION) {
            return Err(bad("it does not begin as one"));
        }
        let (body, checksum) =
            bytes.split_at_checked(bytes.len().saturating_sub(SHA256_OUTPUT_LEN)).ok_or_else(|| bad("it is too short"))?;
        if digest(&SHA256, body).as_ref() != checksum {
            return Err(bad("its checksum does not match"));
        }
        let Some(body) = body.strip_prefix(MAGIC) else {
            return Err(StoreError::Newer { what: path.display().to_string() });
        };
        Reader { rest: body }.backup(path)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn backup(mut self, path: &Path) -> Result<Backup, StoreError> {
        let bad = |detail| StoreError::BadBackup { path: path.to_owned(), detail };
        let short = || bad("it ends early");
        let sequence = Sequence(u64::from_be_bytes(self.array().ok_or_else(short)?));
        let count = u64::from_be_bytes(self.array().ok_or_else(short)?);
        let mut rows = Vec::new();
        for _ in 0..count {
            let [tag] = self.array().ok_or_else(short)?;
            let key = usize::from(u16::from_be_bytes(self.array().ok_or_else(short)?));
            let value = usize::from(u16::from_be_bytes(self.array().ok_or_else(short)?));
            if key > MAX_KEY_BYTES || value > MAX_VALUE_BYTES {
                return Err(bad("a row is longer than the store allows"));
            }
            let table =
                Table::from_tag(tag).ok_or_else(|| StoreError::Newer { what: format!("table {tag} in {}", path.display()) })?;
            let key = self.take(key).ok_or_else(short)?.to_vec();
            let value = self.take(value).ok_or_else(short)?.to_vec();
            rows.push(Row { table, key, value });
        }
        if !self.rest.is_empty() {
            return Err(bad("it goes on after its last row"));
        }
        Ok(Backup { sequence, rows })
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_reads_back_what_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.backup");
        for rows in [vec![], vec![row(0, 0), row(1, 1), row(255, 4096)]] {
            let backup = Backup { sequence: Sequence(42), rows };
            backup.write_to(&path).expect("written");
            assert_eq!(Backup::read_from(&path).expect("whole"), backup);
        }
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_backup_with_any_byte_altered_or_cut_off_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.backup");
        let backup = Backup { sequence: Sequence(1), rows: vec![row(3, 5), row(2, 0)] };
        backup.write_to(&path).expect("written");
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 0x20;
            fs::write(&path, &altered).expect("written");
            assert!(Backup::read_from(&path).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).expect("written");
            assert!(Backup::read_from(&path).is_err(), "cut at {at}");
        }
    }

    fn row(key: usize, value: usize) -> Row {
        Row { table: Table::ALL[0], key: vec![7; key], value: vec![9; value] }
    }
}
