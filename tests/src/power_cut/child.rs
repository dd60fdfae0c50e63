//! Runs `store-child`, and judges what it says.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// How to run the child.
#[derive(Clone, Debug)]
pub struct StoreChild {
    program: PathBuf,
}

/// A child that commits.
#[derive(Debug)]
pub struct Committing {
    child: Child,
    lines: BufReader<ChildStdout>,
    /// The highest number that it acknowledged, as far as was read.
    pub acknowledged: u64,
    /// How often it said that it had reopened its store.
    pub reopened: u32,
}

/// What was found in a store after the fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It opened, and holds exactly the batches up to this one.
    Whole(u64),
    /// It did not open, or holds anything else; what the child said of it.
    Damaged(String),
}

impl Verdict {
    /// Whether the store kept its word: every acknowledged batch is whole, and none is half there.
    pub fn holds(&self, acknowledged: u64) -> bool {
        matches!(self, Verdict::Whole(newest) if *newest >= acknowledged)
    }
}

impl StoreChild {
    /// `program` is the path of the `store-child` binary.
    pub fn new(program: impl Into<PathBuf>) -> StoreChild {
        StoreChild { program: program.into() }
    }

    /// The command `store-child MODE DATA COUNT`.
    pub fn command(&self, mode: &str, data: &Path, count: u64) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(mode).arg(data).arg(count.to_string());
        command
    }

    /// The same command run by another: `wrapper… store-child MODE DATA COUNT`.
    pub fn command_under(&self, wrapper: &[&str], mode: &str, data: &Path, count: u64) -> Command {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(&self.program).arg(mode).arg(data).arg(count.to_string());
        command
    }

    /// Opens a store in a process of its own, and compares every row.
    pub fn verify(&self, data: &Path) -> Verdict {
        let run = Command::new(&self.program).arg("verify").arg(data).output();
        let output = run.expect("store-child can be run");
        let said = String::from_utf8_lossy(&output.stdout);
        match said.trim().strip_prefix("whole ").and_then(|number| number.parse().ok()) {
            Some(newest) if output.status.success() => Verdict::Whole(newest),
            _ => Verdict::Damaged(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Committing {
    /// Starts a command made by [`StoreChild`].
    pub fn start(mut command: Command) -> Committing {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("store-child can be run");
        let lines = BufReader::new(child.stdout.take().expect("piped above"));
        Committing { child, lines, acknowledged: 0, reopened: 0 }
    }

    /// Reads until `number` or more is acknowledged; `false` if the child ended before.
    pub fn wait_for(&mut self, number: u64) -> bool {
        while self.acknowledged < number {
            if !self.read_line() {
                return false;
            }
        }
        true
    }

    /// Kills the child where it stands, and reads what it had said. Returns the highest number acknowledged.
    pub fn kill(mut self) -> u64 {
        let _ = self.child.kill();
        self.finish().0
    }

    /// Kills the child from elsewhere; for use before it was waited for.
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let process = Pid::from_child(&self.child);
        move || {
            let _ = kill_process(process, Signal::KILL);
        }
    }

    /// Reads until the child ends; returns the highest number acknowledged, and whether it ended well.
    pub fn finish(&mut self) -> (u64, bool) {
        while self.read_line() {}
        let ended = self.child.wait().expect("a child can be waited for");
        (self.acknowledged, ended.success())
    }

    fn read_line(&mut self) -> bool {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).expect("the child writes UTF-8");
        match line.trim().split_once(' ') {
            Some(("acked", number)) => {
                let number = number.parse().expect("a number");
                assert!(number > self.acknowledged, "{number} came after {}", self.acknowledged);
                self.acknowledged = number;
            }
            Some(("reopened", _)) => self.reopened += 1,
            _ => {}
        }
        read > 0
    }
}

impl Drop for Committing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
