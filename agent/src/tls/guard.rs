//! Stands between the socket and the TLS engine and lets up only whole, legal records of the server.
//!
//! The engine takes some illegal records for legal ones, panics on others, and loses its place when a read is
//! cancelled in the middle of a record; behind this guard it meets neither. Knows nothing of keys or certificates.

use super::content;
use super::hello::{self, HelloError};
use core::cell::Cell;
use embassy_futures::select::{Either, select};
use embedded_io_async::{Error as _, ErrorKind, ErrorType, Read, Write};
use zeroize::Zeroize as _;

/// A record on the wire at its longest: 5 bytes of header, 2048 of plaintext, 1 of content type, 16 of tag.
pub(super) const MAX_RECORD: usize = HEADER + MAX_CIPHERTEXT;
/// What the engine's own buffer must hold: a record without its header.
pub(super) const MAX_CIPHERTEXT: usize = 2048 + 1 + TAG;
/// Outgoing bytes that may wait for the socket while reading goes on: two records of the largest MQTT packet's size.
pub(super) const OUTGOING: usize = 2560;

const HEADER: usize = 5;
const TAG: usize = 16;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// Why a record was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// The record is longer than 2048 bytes of plaintext, or too short to hold its tag and a content type.
    Length,
    /// The record's content type or version does not exist in TLS 1.3.
    Type,
    /// Plaintext where only encrypted records are legal: an attempt to inject or to truncate.
    PlaintextAfterServerHello,
    /// Something other than one ServerHello (or an alert) came first.
    BeforeServerHello,
    /// The ServerHello does not answer our offer.
    Hello(HelloError),
}

/// What the guard reports to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuardError {
    Record(RecordError),
    Io(ErrorKind),
}

impl core::fmt::Display for GuardError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, formatter)
    }
}

impl core::error::Error for GuardError {}

impl embedded_io_async::Error for GuardError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Record(_) => ErrorKind::InvalidData,
            Self::Io(kind) => *kind,
        }
    }
}

/// Decides which server records are legal where. Pure: headers and records in, verdicts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// ClientHello is out: one plaintext ServerHello, or an alert.
    AwaitingHello,
    /// Encrypted records, and at most one dummy change_cipher_spec (RFC 8446 D.4).
    Handshake { seen_change_cipher_spec: bool },
    /// Encrypted records, nothing else.
    Established,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// Legal and without meaning.
    Swallow,
}

impl Phase {
    /// Judges a header as soon as it is complete, so that no illegal record is waited for.
    fn judge_header(self, kind: u8, version: [u8; 2], length: usize) -> Result<(), RecordError> {
        if version != content::VERSION || !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) {
            return Err(RecordError::Type);
        }
        match (self, kind) {
            (Self::AwaitingHello, HANDSHAKE) => within(length, 4..=MAX_CIPHERTEXT),
            (Self::AwaitingHello, ALERT) => within(length, 2..=2),
            (Self::AwaitingHello, _) => Err(RecordError::BeforeServerHello),
            (Self::Handshake { .. } | Self::Established, APPLICATION_DATA) => within(length, TAG + 1..=MAX_CIPHERTEXT),
            (Self::Handshake { seen_change_cipher_spec: false }, CHANGE_CIPHER_SPEC) => within(length, 1..=1),
            (Self::Handshake { .. } | Self::Established, _) => Err(RecordError::PlaintextAfterServerHello),
        }
    }

    /// Judges a whole record, and moves on.
    fn judge_record(&mut self, kind: u8, content: &[u8]) -> Result<Verdict, RecordError> {
        match kind {
            HANDSHAKE => {
                hello::check_server_hello(content).map_err(RecordError::Hello)?;
                *self = Self::Handshake { seen_change_cipher_spec: false };
                Ok(Verdict::Pass)
            }
            CHANGE_CIPHER_SPEC if content == [1] => {
                *self = Self::Handshake { seen_change_cipher_spec: true };
                Ok(Verdict::Swallow)
            }
            CHANGE_CIPHER_SPEC => Err(RecordError::Type),
            _ => Ok(Verdict::Pass),
        }
    }
}

fn within(length: usize, legal: core::ops::RangeInclusive<usize>) -> Result<(), RecordError> {
    if legal.contains(&length) { Ok(()) } else { Err(RecordError::Length) }
}

/// What the owner of the connection sees and says while the engine holds the guard.
#[derive(Debug, Default)]
pub(super) struct Shared {
    established: Cell<bool>,
    waiting: Cell<usize>,
    refused: Cell<Option<RecordError>>,
}

impl Shared {
    pub(super) const fn new() -> Self {
        Self { established: Cell::new(false), waiting: Cell::new(0), refused: Cell::new(None) }
    }

    /// The engine finished the handshake: from here on only encrypted records are legal.
    pub(super) fn handshake_finished(&self) {
        self.established.set(true);
    }

    /// Bytes that can be written without waiting for the socket.
    pub(super) fn room(&self) -> usize {
        OUTGOING.saturating_sub(self.waiting.get())
    }

    /// The record that ended the connection, if one did.
    pub(super) fn refused(&self) -> Option<RecordError> {
        self.refused.get()
    }
}

/// The buffers of one guard.
pub(super) struct GuardBuffers {
    incoming: [u8; MAX_RECORD],
    outgoing: [u8; OUTGOING],
}

impl GuardBuffers {
    pub(super) fn wipe(&mut self) {
        self.incoming.zeroize();
        self.outgoing.zeroize();
    }

    pub(super) const fn new() -> Self {
        Self { incoming: [0; MAX_RECORD], outgoing: [0; OUTGOING] }
    }
}

/// The guard: a transport for the engine.
pub(super) struct RecordGuard<'a, R, W> {
    reader: R,
    writer: W,
    buffers: &'a mut GuardBuffers,
    /// Bytes of the record that is arriving.
    received: usize,
    /// Bytes of a complete, legal record that the engine took already; `None` while one is arriving.
    delivered: Option<usize>,
    phase: Phase,
    unflushed: bool,
    shared: &'a Shared,
}

impl<'a, R: Read, W: Write> RecordGuard<'a, R, W> {
    pub(super) fn new(reader: R, writer: W, buffers: &'a mut GuardBuffers, shared: &'a Shared) -> Self {
        Self { reader, writer, buffers, received: 0, delivered: None, phase: Phase::AwaitingHello, unflushed: false, shared }
    }

    /// How many bytes the record that is arriving has in all, as far as known: first its header, then the rest.
    fn record_length(&self) -> usize {
        match self.buffers.incoming.get(..HEADER) {
            Some(&[_, _, _, high, low]) if self.received >= HEADER => HEADER + usize::from(u16::from_be_bytes([high, low])),
            _ => HEADER,
        }
    }

    fn refuse<T>(&self, error: RecordError) -> Result<T, GuardError> {
        self.shared.refused.set(Some(error));
        Err(GuardError::Record(error))
    }

    /// Judges what has arrived. True once a record is ready for the engine.
    fn judge(&mut self) -> Result<bool, GuardError> {
        if self.received < HEADER {
            return Ok(false);
        }
        if self.shared.established.get() {
            self.phase = Phase::Established;
        }
        let &[kind, major, minor, ..] = &self.buffers.incoming;
        let length = self.record_length();
        if let Err(error) = self.phase.judge_header(kind, [major, minor], length - HEADER) {
            return self.refuse(error);
        }
        if self.received < length {
            return Ok(false);
        }
        let content = self.buffers.incoming.get(HEADER..length).unwrap_or_default();
        match self.phase.judge_record(kind, content) {
            Ok(Verdict::Pass) => {
                if self.phase == Phase::Established {
                    content::mark(&mut self.buffers.incoming);
                }
                self.delivered = Some(0);
                Ok(true)
            }
            Ok(Verdict::Swallow) => {
                self.received = 0;
                Ok(false)
            }
            Err(error) => self.refuse(error),
        }
    }

    fn hand_up(&mut self, out: &mut [u8], delivered: usize) -> usize {
        let left = self.buffers.incoming.get(delivered..self.received).unwrap_or_default();
        let count = left.len().min(out.len());
        out[..count].copy_from_slice(&left[..count]);
        if count == left.len() {
            self.received = 0;
            self.delivered = None;
        } else {
            self.delivered = Some(delivered + count);
        }
        count
    }

    /// Makes progress in whichever direction can: bytes in, or bytes out. Cancelling it loses nothing.
    async fn advance(&mut self) -> Result<(), GuardError> {
        let wanted = self.record_length().min(MAX_RECORD);
        let space = self.buffers.incoming.get_mut(self.received..wanted).unwrap_or_default();
        let outgoing = drain(&mut self.writer, &mut self.buffers.outgoing, &self.shared.waiting, &mut self.unflushed);
        // Outgoing first: a hub that never pauses must not keep us from answering.
        match select(outgoing, self.reader.read(space)).await {
            Either::First(Err(kind)) => Err(GuardError::Io(kind)),
            Either::First(Ok(never)) => match never {},
            Either::Second(Ok(0)) => Err(GuardError::Io(ErrorKind::ConnectionReset)),
            Either::Second(Ok(count)) => {
                self.received += count;
                Ok(())
            }
            Either::Second(Err(error)) => Err(GuardError::Io(error.kind())),
        }
    }
}

/// Sends what waits, for ever: it ends only when the socket fails.
async fn drain<W: Write>(
    writer: &mut W,
    outgoing: &mut [u8; OUTGOING],
    waiting: &Cell<usize>,
    unflushed: &mut bool,
) -> Result<core::convert::Infallible, ErrorKind> {
    drain_once(writer, outgoing, waiting, unflushed).await?;
    core::future::pending().await
}

async fn drain_once<W: Write>(
    writer: &mut W,
    outgoing: &mut [u8; OUTGOING],
    waiting: &Cell<usize>,
    unflushed: &mut bool,
) -> Result<(), ErrorKind> {
    while waiting.get() > 0 {
        let pending = outgoing.get(..waiting.get()).unwrap_or_default();
        let sent = match writer.write(pending).await {
            Ok(0) => return Err(ErrorKind::WriteZero),
            Ok(sent) => sent.min(pending.len()),
            Err(error) => return Err(error.kind()),
        };
        outgoing.copy_within(sent..waiting.get(), 0);
        waiting.set(waiting.get() - sent);
        *unflushed = true;
    }
    if *unflushed {
        writer.flush().await.map_err(|error| error.kind())?;
        *unflushed = false;
    }
    Ok(())
}

impl<R, W> ErrorType for RecordGuard<'_, R, W> {
    type Error = GuardError;
}

impl<R: Read, W: Write> Read for RecordGuard<'_, R, W> {
    /// Hands up bytes of whole records only: once the first byte of a record is given, the rest follows without waiting.
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, GuardError> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(delivered) = self.delivered {
                return Ok(self.hand_up(out, delivered));
            }
            if !self.judge()? {
                self.advance().await?;
            }
        }
    }
}

impl<R: Read, W: Write> Write for RecordGuard<'_, R, W> {
    /// Takes the bytes at once while there is room, and lets reading carry them out; waits only when there is none.
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, GuardError> {
        if self.shared.room() == 0 {
            self.flush().await?;
        }
        let waiting = self.shared.waiting.get();
        let space = self.buffers.outgoing.get_mut(waiting..).unwrap_or_default();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.shared.waiting.set(waiting + count);
        Ok(count)
    }

    async fn flush(&mut self) -> Result<(), GuardError> {
        drain_once(&mut self.writer, &mut self.buffers.outgoing, &self.shared.waiting, &mut self.unflushed)
            .await
            .map_err(GuardError::Io)
    }
}
