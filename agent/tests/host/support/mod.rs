//! A device, a home and a hub to test with. Everything runs in one thread, in memory, in tokio's paused time.

pub mod hub;
pub mod mqtt;
pub mod pki;
pub mod tls13;

use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use hearthkey_agent::{ConnectFailed, Instant, Platform, Record, StorageFailed, Transport};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

/// A device whose network is a channel of pipes: whoever holds the other end is the hub.
pub struct TestPlatform {
    started: tokio::time::Instant,
    calls: mpsc::UnboundedSender<DuplexStream>,
    pub storage: Rc<RefCell<BTreeMap<&'static str, Vec<u8>>>>,
    pub writes: Rc<Cell<usize>>,
    /// Its storage takes nothing more.
    pub is_broken: Rc<Cell<bool>>,
    /// Its storage does not give this back.
    pub unreadable: Rc<Cell<Option<Record>>>,
    seed: u64,
}

impl TestPlatform {
    /// The device, and the end at which its calls arrive.
    pub fn new(seed: u64) -> (Self, mpsc::UnboundedReceiver<DuplexStream>) {
        let (calls, answered) = mpsc::unbounded_channel();
        let platform = Self {
            started: tokio::time::Instant::now(),
            calls,
            storage: Rc::default(),
            writes: Rc::default(),
            is_broken: Rc::default(),
            unreadable: Rc::default(),
            seed,
        };
        (platform, answered)
    }
}

impl Platform for TestPlatform {
    type Transport = Pipe;

    fn now(&self) -> Instant {
        Instant::from_millis(self.started.elapsed().as_millis() as u64)
    }

    async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep_until(self.started + Duration::from_millis(deadline.as_millis())).await;
    }

    fn entropy(&mut self, out: &mut [u8]) {
        for byte in out {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.seed >> 56) as u8;
        }
    }

    fn load(&mut self, key: Record, out: &mut [u8]) -> Result<Option<usize>, StorageFailed> {
        if self.unreadable.get() == Some(key) {
            return Err(StorageFailed);
        }
        let storage = self.storage.borrow();
        let Some(bytes) = storage.get(key.name()) else { return Ok(None) };
        out.get_mut(..bytes.len()).ok_or(StorageFailed)?.copy_from_slice(bytes);
        Ok(Some(bytes.len()))
    }

    fn store(&mut self, key: Record, bytes: &[u8]) -> Result<(), StorageFailed> {
        if self.is_broken.get() {
            return Err(StorageFailed);
        }
        self.writes.set(self.writes.get() + 1);
        self.storage.borrow_mut().insert(key.name(), bytes.to_vec());
        Ok(())
    }

    async fn connect(&self, _: &str, _: u16) -> Result<Pipe, ConnectFailed> {
        let (ours, theirs) = tokio::io::duplex(4096);
        self.calls.send(theirs).map_err(|_| ConnectFailed::Refused)?;
        let (reader, writer) = tokio::io::split(ours);
        Ok(Pipe { reader, writer })
    }
}

pub struct Pipe {
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
}

impl Transport for Pipe {
    type Reader<'a> = PipeReader<'a>;
    type Writer<'a> = PipeWriter<'a>;

    fn split(&mut self) -> (PipeReader<'_>, PipeWriter<'_>) {
        (PipeReader(&mut self.reader), PipeWriter(&mut self.writer))
    }
}

pub struct PipeReader<'a>(&'a mut ReadHalf<DuplexStream>);
pub struct PipeWriter<'a>(&'a mut WriteHalf<DuplexStream>);

impl ErrorType for PipeReader<'_> {
    type Error = ErrorKind;
}

impl ErrorType for PipeWriter<'_> {
    type Error = ErrorKind;
}

impl Read for PipeReader<'_> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        self.0.read(out).await.map_err(|_| ErrorKind::ConnectionReset)
    }
}

impl Write for PipeWriter<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.write(bytes).await.map_err(|_| ErrorKind::ConnectionReset)
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        self.0.flush().await.map_err(|_| ErrorKind::ConnectionReset)
    }
}
