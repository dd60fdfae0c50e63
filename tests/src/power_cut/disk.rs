//! A disk with a volatile write cache, on which an ordinary file system can be mounted: a FUSE file behind a loop device.
//!
//! What was written and not yet flushed is in the cache. At the cut each such write of 4 KB survives with a given
//! probability, by itself, as on a real disk that orders nothing. Needs root, `/dev/fuse` and a free loop device.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};

/// Room for the store, its reserve and its free-space floor.
const DISK_BYTES: u64 = 128 << 20;

/// What survives or is lost as one.
const BLOCK: usize = 4096;

const NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);

/// Why these tests cannot run here, if they cannot.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root");
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    match Command::new("losetup").arg("--find").output() {
        Ok(output) if output.status.success() => None,
        _ => Some("there is no free loop device"),
    }
}

/// The platters: a file with an ext4 file system, which outlives every cut.
pub struct Platters {
    image: PathBuf,
}

impl Platters {
    /// Makes the image and its file system.
    ///
    /// # Errors
    /// When the file cannot be made, or there is no `mkfs.ext4`.
    pub fn format(image: &Path) -> io::Result<Platters> {
        File::create(image)?.set_len(DISK_BYTES)?;
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-E", options]).arg(image))?;
        Ok(Platters { image: image.to_owned() })
    }

    /// Mounts the file system as it is, without a cache that could be lost.
    ///
    /// # Errors
    /// When the kernel refuses: the file system itself is broken.
    pub fn mount(&self, at: &Path) -> io::Result<Mounted> {
        Mounted::new(&self.image, at)
    }

    /// Powers the disk on, with its cache, and mounts the file system; the power fails at the write number `cut_at`.
    ///
    /// # Errors
    /// When FUSE, the loop device or the mount refuses.
    pub fn power_on(&self, directory: &Path, cut_at: u64) -> io::Result<Powered> {
        let (fuse, at) = (directory.join("fuse"), directory.join("mounted"));
        std::fs::create_dir_all(&fuse)?;
        let image = OpenOptions::new().read(true).write(true).open(&self.image)?;
        let cache =
            Arc::new(Mutex::new(Cache { image, pending: Vec::new(), newest: BTreeMap::new(), left: u64::MAX, at_the_cut: None }));
        let session = fuser::spawn_mount(CachedDisk { cache: Arc::clone(&cache) }, &fuse, &Config::default())?;
        let mounted = Mounted::new(&fuse.join(NAME), &at)?;
        // What mounting writes is not what is under test.
        lock(&cache).left = cut_at;
        Ok(Powered { mounted, _session: session, cache })
    }
}

/// A disk under power. Dropped in order: file system and loop device first, FUSE after.
pub struct Powered {
    mounted: Mounted,
    _session: BackgroundSession,
    cache: Arc<Mutex<Cache>>,
}

impl Powered {
    /// Where the file system is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted.at
    }

    /// Runs `then` when the power fails, or now if it has failed.
    pub fn at_the_cut(&self, then: impl FnOnce() + Send + 'static) {
        let mut cache = lock(&self.cache);
        match cache.left {
            0 => then(),
            _ => cache.at_the_cut = Some(Box::new(then)),
        }
    }

    /// Whether the power has failed.
    pub fn is_cut(&self) -> bool {
        lock(&self.cache).left == 0
    }

    /// Ends it, cutting the power if it has not failed by itself: of the cached writes each survives with the probability
    /// `survival`. Returns how many were cached, and how many of them were lost.
    ///
    /// # Errors
    /// When the surviving writes cannot be put on the platters.
    pub fn end(self, survival: f64, random: &mut fastrand::Rng) -> io::Result<(usize, usize)> {
        let Powered { mounted, _session: session, cache } = self;
        lock(&cache).left = 0;
        drop(mounted);
        drop(session);
        let mut cache = lock(&cache);
        let pending = std::mem::take(&mut cache.pending);
        let (cached, mut lost) = (pending.len(), 0);
        for Block { number, bytes } in pending {
            if random.f64() < survival {
                cache.image.write_all_at(&bytes, number * BLOCK as u64)?;
            } else {
                lost += 1;
            }
        }
        Ok((cached, lost))
    }
}

struct Cache {
    image: File,
    /// In the order of writing; a block may be there many times.
    pending: Vec<Block>,
    /// Where in `pending` the newest content of a block is.
    newest: BTreeMap<u64, usize>,
    /// Writes until the power fails; from then on everything fails.
    left: u64,
    at_the_cut: Option<Box<dyn FnOnce() + Send>>,
}

struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl Cache {
    fn check_power(&self) -> io::Result<()> {
        if self.left == 0 { Err(io::Error::other("the power has failed")) } else { Ok(()) }
    }

    fn read_block(&self, number: u64) -> io::Result<Vec<u8>> {
        if let Some(at) = self.newest.get(&number) {
            return Ok(self.pending[*at].bytes.clone());
        }
        let mut bytes = vec![0; BLOCK];
        self.image.read_exact_at(&mut bytes, number * BLOCK as u64)?;
        Ok(bytes)
    }

    fn read(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        self.check_power()?;
        let end = (offset + size as u64).min(DISK_BYTES);
        let (first, last) = (offset / BLOCK as u64, end.div_ceil(BLOCK as u64));
        let mut bytes = Vec::with_capacity((last.saturating_sub(first)) as usize * BLOCK);
        for number in first..last {
            bytes.extend(self.read_block(number)?);
        }
        let skipped = (offset - first * BLOCK as u64) as usize;
        Ok(bytes.split_off(skipped.min(bytes.len())).into_iter().take(end.saturating_sub(offset) as usize).collect())
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut at = offset;
        while !data.is_empty() {
            self.check_power()?;
            self.left -= 1;
            if self.left == 0
                && let Some(then) = self.at_the_cut.take()
            {
                then();
            }
            let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let length = data.len().min(BLOCK - within);
            let mut bytes = self.read_block(number)?;
            bytes[within..within + length].copy_from_slice(&data[..length]);
            self.newest.insert(number, self.pending.len());
            self.pending.push(Block { number, bytes });
            (at, data) = (at + length as u64, &data[length..]);
        }
        Ok(())
    }

    /// The disk's answer to a flush: everything before it is on the platters.
    fn flush(&mut self) -> io::Result<()> {
        self.check_power()?;
        for Block { number, bytes } in std::mem::take(&mut self.pending) {
            self.image.write_all_at(&bytes, number * BLOCK as u64)?;
        }
        self.newest.clear();
        Ok(())
    }
}

/// One file, [`NAME`], that is the disk.
struct CachedDisk {
    cache: Arc<Mutex<Cache>>,
}

/// Nothing changes but the content, so the kernel may remember all attributes.
const FOREVER: Duration = Duration::from_secs(3600);

fn attributes(ino: INodeNo) -> FileAttr {
    let is_root = ino == INodeNo::ROOT;
    FileAttr {
        ino,
        size: if is_root { 0 } else { DISK_BYTES },
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_root { FileType::Directory } else { FileType::RegularFile },
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK as u32,
        flags: 0,
    }
}

impl Filesystem for CachedDisk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&FOREVER, &attributes(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes(ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.cache).read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.cache).write(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // The close of a descriptor, which promises nothing.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match lock(&self.cache).flush() {
            Ok(()) => reply.ok(),
            Err(_) => reply.error(Errno::EIO),
        }
    }
}

/// A file system on a loop device, until dropped.
pub struct Mounted {
    at: PathBuf,
    device: String,
}

impl Mounted {
    fn new(file: &Path, at: &Path) -> io::Result<Mounted> {
        std::fs::create_dir_all(at)?;
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(file))?;
        let mounted = Mounted { at: at.to_owned(), device: device.trim().to_owned() };
        run(Command::new("mount").args(["-t", "ext4", "-o", "noatime", &mounted.device]).arg(at))?;
        Ok(mounted)
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.at));
        let _ = run(Command::new("losetup").args(["--detach", &self.device]));
    }
}

/// Runs a program to its end; its complaint is the error.
fn run(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {complaint}")))
}

fn lock(cache: &Mutex<Cache>) -> MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
