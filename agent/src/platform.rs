//! What a device must bring: a clock, entropy, a few bytes of storage and a network. Nothing here decides anything.

use crate::time::Instant;
use embedded_io_async::{Read, Write};

/// The device under the agent. Implement it once per board or operating system; everything else is the agent's.
#[allow(async_fn_in_trait)] // The agent runs on one thread; no caller needs `Send`.
pub trait Platform {
    /// A connected byte stream, TCP as a rule.
    type Transport: Transport;

    /// The monotonic clock. Never goes back while the device is up; its start does not matter.
    fn now(&self) -> Instant;

    /// Resolves once [`now`](Self::now) has reached `deadline`. Dropped and asked again at will.
    async fn sleep_until(&self, deadline: Instant);

    /// Fills `out` from a source fit for keys: a hardware generator, or a reviewed generator seeded by one.
    /// Must not return with predictable bytes: if the source fails, do not return.
    fn entropy(&mut self, out: &mut [u8]);

    /// Reads the record `key` into `out` and says how long it is (zero is legal); `None` if it was never stored.
    ///
    /// # Errors
    /// [`StorageFailed`] if the medium failed or the record does not fit.
    fn load(&mut self, key: Record, out: &mut [u8]) -> Result<Option<usize>, StorageFailed>;

    /// Replaces the record `key`, durably and all or nothing: a power cut leaves the old bytes or the new.
    /// The identity is written twice in a device's life (its key, then its enrolment) and holds the secret key: on a system
    /// with other users, a file that only its owner reads. The command sequence is written before each command is carried out.
    ///
    /// # Errors
    /// [`StorageFailed`] if the medium failed.
    fn store(&mut self, key: Record, bytes: &[u8]) -> Result<(), StorageFailed>;

    /// Opens a connection to `host` (DNS name or IP literal). The agent drops the future when its patience ends, after some 30 s.
    ///
    /// # Errors
    /// [`ConnectFailed`] says why.
    async fn connect(&self, host: &str, port: u16) -> Result<Self::Transport, ConnectFailed>;
}

/// The records that the agent keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Key and enrolment, at most [`Identity::MAX_BYTES`](crate::Identity::MAX_BYTES) bytes, secret.
    Identity,
    /// The command sequence below which commands are refused after a restart, and whose it is: 12 bytes. Outlives the identity.
    CommandSequence,
}

impl Record {
    /// A name for the record, fit for a file: `identity`, `command-sequence`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::CommandSequence => "command-sequence",
        }
    }
}

/// The storage medium failed, or held more than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageFailed;

/// Why no connection came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailed {
    /// The host name has no address.
    HostNotFound,
    /// The host answered, and nothing listens on the port.
    Refused,
    /// No answer, or no route.
    Unreachable,
    /// The device has no socket or memory left.
    NoResources,
}

/// A connected stream whose two directions can be used at the same time.
///
/// Both halves must be cancel-safe: dropping a `read` or `write` future that was not ready moved no bytes. Sockets are.
pub trait Transport {
    /// The receiving half.
    type Reader<'a>: Read
    where
        Self: 'a;
    /// The sending half.
    type Writer<'a>: Write
    where
        Self: 'a;

    /// Borrows both halves.
    fn split(&mut self) -> (Self::Reader<'_>, Self::Writer<'_>);
}
