//! How a command ends: the exit codes, and failures that say what to type next.

use std::{fmt, io, process::ExitCode};

/// What scripts may rely on; told by `hearthkey --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, allowed, succeeded.
    Done = 0,
    /// Refused, denied, failed, not valid.
    Refused = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The hub is not there, or this user cannot reach it.
    Unreachable = 3,
    /// The wait ended before the command did.
    TimedOut = 4,
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// To be told to a person.
    Told {
        /// The exit code.
        exit: Exit,
        /// What failed and the value that explains it.
        what: String,
        /// Commands to type, or other remedies.
        next: Vec<String>,
    },
    /// Nobody reads the output any more, as in `hearthkey device list | head -1`: nothing to tell.
    OutputClosed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Failure {
    /// A failure that explains itself.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self::Told { exit, what: what.into(), next: Vec::new() }
    }

    /// Adds what to type next.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        if let Self::Told { next, .. } = &mut self {
            next.push(command.into());
        }
        self
    }

    /// The exit code; a closed output is no failure.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Told { exit, .. } => *exit,
            Self::OutputClosed => Exit::Done,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::new(Exit::Refused, format!("cannot write the output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told { what, next, .. } => {
                f.write_str(what)?;
                next.iter().try_for_each(|command| write!(f, "\n  next: {command}"))
            }
            Self::OutputClosed => f.write_str("the output was closed"),
        }
    }
}

impl std::error::Error for Failure {}
