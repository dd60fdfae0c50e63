//! Records what a process asks of the file system, and rebuilds from it what a disk might hold after a cut. Needs no root.
//!
//! The model is harsher than any one file system: data of a file is safe only after `fsync` or `fdatasync` of that file; each
//! 4 KB piece of what was written since survives or not by itself. A name is safe only after `fsync` of its directory; of the
//! changes of names since, a prefix survives, as in a journal. `sync_file_range` promises nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::child::StoreChild;

/// What survives or is lost as one.
const PIECE: usize = 4096;

/// System calls that are recorded.
const CALLS: &str = "openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,rename,unlink,unlinkat,mkdir,lseek,writev,pwritev,\
                     renameat,renameat2,mkdirat,rmdir,copy_file_range,sendfile,dup,dup2,dup3,mmap";

/// One run, call by call.
#[derive(Debug, Default)]
pub struct Recording {
    steps: Vec<Step>,
}

type Inode = usize;

#[derive(Debug)]
enum Step {
    Name(NameChange),
    Write {
        inode: Inode,
        offset: usize,
        data: Vec<u8>,
    },
    SetLength {
        inode: Inode,
        length: usize,
    },
    /// Covers what was complete before the step `since`, when the call began.
    SyncFile {
        inode: Inode,
        since: usize,
    },
    SyncDirectory {
        path: PathBuf,
        since: usize,
    },
    Acknowledged(u64),
}

#[derive(Clone, Debug)]
enum NameChange {
    MakeDirectory(PathBuf),
    Create(PathBuf, Inode),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Recording {
    /// Runs `store-child MODE DATA COUNT` under strace on an empty directory.
    ///
    /// # Panics
    /// When strace cannot run, or says something that this does not understand.
    pub fn of(child: &StoreChild, mode: &str, count: u64) -> Recording {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().canonicalize().expect("it is there").join("data");
        fs::create_dir(&data).expect("made");
        let trace = directory.path().join("trace");
        let (calls, output) = (format!("trace={CALLS}"), trace.display().to_string());
        let wrapper = ["strace", "-f", "-y", "-xx", "-s", "2000000", "-e", &calls, "-e", "signal=none", "-o", &output];
        let status = child.command_under(&wrapper, mode, &data, count).stdout(std::process::Stdio::piped()).status();
        // The child's few lines fit in the pipe that nobody reads.
        assert!(status.expect("strace runs").success(), "the recorded child failed");
        let text = fs::read_to_string(&trace).expect("strace wrote ASCII");
        Reader::new(data).read(&text)
    }

    /// How many steps there are to cut after.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Lays out under `data` what may be left if the power fails after `cut` steps and each piece that was not synced survives
    /// with the probability `survival`. Returns the highest number that had been acknowledged.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn rebuild(&self, data: &Path, cut: usize, survival: f64, random: &mut fastrand::Rng) -> io::Result<u64> {
        let steps = &self.steps[..cut];
        let mut acknowledged = 0;
        let mut synced_until = BTreeMap::<Inode, usize>::new();
        let mut names = Vec::new();
        let mut safe_names = 0;
        for (at, step) in steps.iter().enumerate() {
            match step {
                Step::Acknowledged(number) => acknowledged = *number,
                Step::SyncFile { inode, since } => drop(synced_until.insert(*inode, *since)),
                Step::Name(change) => names.push((at, change)),
                Step::SyncDirectory { path, since } => {
                    let covered = |(at, change): &(usize, &NameChange)| at < since && change.is_in(path);
                    safe_names = safe_names.max(names.iter().rposition(covered).map_or(0, |last| last + 1));
                }
                Step::Write { .. } | Step::SetLength { .. } => {}
            }
        }
        let mut contents = BTreeMap::<Inode, Vec<u8>>::new();
        for (at, step) in steps.iter().enumerate() {
            let safe = |inode: &Inode| synced_until.get(inode).is_some_and(|until| at < *until);
            match step {
                Step::Write { inode, offset, data } => {
                    let content = contents.entry(*inode).or_default();
                    for (offset, piece) in pieces(*offset, data) {
                        if safe(inode) || random.f64() < survival {
                            content.resize(content.len().max(offset + piece.len()), 0);
                            content[offset..offset + piece.len()].copy_from_slice(piece);
                        }
                    }
                }
                Step::SetLength { inode, length } if safe(inode) || random.f64() < survival => {
                    contents.entry(*inode).or_default().resize(*length, 0);
                }
                _ => {}
            }
        }
        let mut surviving = safe_names;
        while surviving < names.len() && random.f64() < survival {
            surviving += 1;
        }
        let mut tree = Tree::default();
        for (_, change) in &names[..surviving] {
            tree.apply(change);
        }
        tree.lay_out(data, &contents)?;
        Ok(acknowledged)
    }
}

/// Cuts a write where a disk might: at multiples of [`PIECE`].
fn pieces(offset: usize, data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let length = (PIECE - (offset + start) % PIECE).min(data.len() - start);
        at += length;
        (length > 0).then(|| (offset + start, &data[start..at]))
    })
}

impl NameChange {
    /// Whether a sync of this directory makes it last.
    fn is_in(&self, directory: &Path) -> bool {
        match self {
            NameChange::MakeDirectory(path) | NameChange::Create(path, _) | NameChange::Remove(path) => {
                path.parent() == Some(directory)
            }
            NameChange::Rename(_, to) => to.parent() == Some(directory),
        }
    }
}

/// Names, relative to the data directory.
#[derive(Default)]
struct Tree {
    files: BTreeMap<PathBuf, Inode>,
    directories: BTreeSet<PathBuf>,
}

impl Tree {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::MakeDirectory(path) => drop(self.directories.insert(path.clone())),
            NameChange::Create(path, inode) => drop(self.files.insert(path.clone(), *inode)),
            NameChange::Remove(path) => {
                self.files.remove(path);
                self.directories.remove(path);
            }
            NameChange::Rename(from, to) => {
                let moved = |path: &PathBuf| match path.strip_prefix(from) {
                    Ok(rest) if rest.as_os_str().is_empty() => to.clone(),
                    Ok(rest) => to.join(rest),
                    Err(_) => path.clone(),
                };
                self.files.remove(to);
                self.files = self.files.iter().map(|(path, inode)| (moved(path), *inode)).collect();
                self.directories = self.directories.iter().map(moved).collect();
            }
        }
    }

    fn lay_out(&self, data: &Path, contents: &BTreeMap<Inode, Vec<u8>>) -> io::Result<()> {
        for directory in &self.directories {
            fs::create_dir_all(data.join(directory))?;
        }
        for (path, inode) in &self.files {
            fs::write(data.join(path), contents.get(inode).map_or(&[][..], Vec::as_slice))?;
        }
        Ok(())
    }
}

/// Reads what strace wrote.
struct Reader {
    data: PathBuf,
    tree: Tree,
    inodes: Inode,
    /// Where `write` continues, by descriptor.
    positions: BTreeMap<String, usize>,
    /// Calls that another thread interrupted, by thread: their beginning, and the number of steps then.
    unfinished: BTreeMap<String, (String, usize)>,
    recording: Recording,
}

impl Reader {
    fn new(data: PathBuf) -> Reader {
        let (tree, recording) = (Tree::default(), Recording::default());
        Reader { data, tree, inodes: 0, positions: BTreeMap::new(), unfinished: BTreeMap::new(), recording }
    }

    fn read(mut self, text: &str) -> Recording {
        for line in text.lines() {
            let (thread, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.trim_start();
            if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
                self.unfinished.insert(thread.into(), (begun.into(), self.recording.len()));
            } else if let Some(resumed) = rest.strip_prefix("<... ") {
                let (_, end) = resumed.split_once(" resumed>").expect("strace says what resumed");
                let (begun, since) = self.unfinished.remove(thread).expect("what resumes has begun");
                self.call(&format!("{begun}{end}"), since);
            } else if !rest.starts_with("+++") && !rest.starts_with("---") {
                self.call(rest, self.recording.len());
            }
        }
        self.recording
    }

    /// One whole call: `name(arguments) = result`.
    fn call(&mut self, text: &str, since: usize) {
        let (call, result) = text.rsplit_once(" = ").unwrap_or_else(|| panic!("not a call: {text:.200}"));
        if result.starts_with(['-', '?']) {
            return;
        }
        let (name, arguments) = call.trim_end().trim_end_matches(')').split_once('(').expect("a call has arguments");
        let arguments: Vec<&str> = arguments.split(", ").collect();
        match name {
            "openat" => self.open(&arguments, result),
            "mkdir" => self.name(self.relative(&text_of(arguments[0])).map(NameChange::MakeDirectory)),
            "unlink" => self.name(self.relative(&text_of(arguments[0])).map(NameChange::Remove)),
            "unlinkat" => {
                let (_, directory) = descriptor(arguments[0]);
                let path = directory.join(text_of(arguments[1]));
                self.name(self.relative(&path).map(NameChange::Remove));
            }
            "rename" => {
                let to = self.relative(&text_of(arguments[1]));
                let from = self.relative(&text_of(arguments[0]));
                self.name(from.zip(to).map(|(from, to)| NameChange::Rename(from, to)));
            }
            "write" => self.write(arguments[0], arguments[1], None, result),
            "pwrite64" => self.write(arguments[0], arguments[1], Some(number(arguments[3])), result),
            "lseek" => {
                let (fd, _) = descriptor(arguments[0]);
                self.positions.insert(fd, number(result));
            }
            "ftruncate" => {
                if let Some(inode) = self.inode(arguments[0]) {
                    self.recording.steps.push(Step::SetLength { inode, length: number(arguments[1]) });
                }
            }
            // The reserve. Its length is not what is under test, and sixteen megabytes a state would be slow.
            "fallocate" => {}
            "fsync" | "fdatasync" => {
                if let Some(inode) = self.inode(arguments[0]) {
                    self.recording.steps.push(Step::SyncFile { inode, since });
                } else if let Some(path) = self.relative(&descriptor(arguments[0]).1) {
                    self.recording.steps.push(Step::SyncDirectory { path, since });
                }
            }
            "mmap" | "dup" | "dup2" | "dup3" | "writev" | "pwritev" | "copy_file_range" | "sendfile" => {
                let touches = arguments.iter().any(|argument| argument.contains('<') && self.inode(argument).is_some());
                assert!(!touches, "{name} on a file of the store is not modelled: {text:.300}");
            }
            "rmdir" | "renameat" | "renameat2" | "mkdirat" => panic!("{name} is not modelled: {text:.300}"),
            other => panic!("{other} was not asked for: {text:.300}"),
        }
    }

    fn open(&mut self, arguments: &[&str], result: &str) {
        let (fd, path) = descriptor(result);
        self.positions.insert(fd, 0);
        let Some(path) = self.relative(&path) else { return };
        let flags = arguments[2];
        if flags.contains("O_CREAT") && !self.tree.files.contains_key(&path) {
            self.inodes += 1;
            self.name(Some(NameChange::Create(path, self.inodes)));
        } else if flags.contains("O_TRUNC") {
            let inode = self.tree.files[&path];
            self.recording.steps.push(Step::SetLength { inode, length: 0 });
        }
    }

    fn name(&mut self, change: Option<NameChange>) {
        if let Some(change) = change {
            self.tree.apply(&change);
            self.recording.steps.push(Step::Name(change));
        }
    }

    fn write(&mut self, target: &str, data: &str, at: Option<usize>, result: &str) {
        let (fd, _) = descriptor(target);
        let data = unescape(data.trim_matches('"'));
        let written = number(result);
        let Some(inode) = self.inode(target) else {
            if fd == "1" {
                let said = String::from_utf8_lossy(&data);
                let acknowledged = said.trim().strip_prefix("acked ").and_then(|number| number.parse().ok());
                self.recording.steps.extend(acknowledged.map(Step::Acknowledged));
            }
            return;
        };
        let position = self.positions.entry(fd).or_default();
        let offset = at.unwrap_or(*position);
        if at.is_none() {
            *position += written;
        }
        assert!(data.len() >= written, "strace cut a write of {written} bytes short");
        self.recording.steps.push(Step::Write { inode, offset, data: data[..written].to_vec() });
    }

    fn inode(&self, target: &str) -> Option<Inode> {
        self.tree.files.get(&self.relative(&descriptor(target).1)?).copied()
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.data).ok().map(Path::to_owned)
    }
}

/// `5<\x2f\x74…>` is descriptor 5 of the file `/t…`.
fn descriptor(text: &str) -> (String, PathBuf) {
    let (fd, rest) = text.split_once('<').unwrap_or((text, ""));
    let path = unescape(rest.split('>').next().unwrap_or(""));
    (fd.trim().into(), PathBuf::from(String::from_utf8_lossy(&path).into_owned()))
}

fn text_of(literal: &str) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(&unescape(literal.trim_matches('"'))).into_owned())
}

/// `\x61\x62` is `ab`.
fn unescape(text: &str) -> Vec<u8> {
    let digits = text.split("\\x").filter(|digits| !digits.is_empty());
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("not escaped: {text:.100}"))).collect()
}

fn number(text: &str) -> usize {
    text.trim().parse().unwrap_or_else(|_| panic!("not a number: {text:.100}"))
}
