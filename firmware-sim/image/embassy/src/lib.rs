//! The agent's `Platform` on embassy, for any board that embassy-net and a NOR flash driver know. An example to copy: it
//! compiles for a Cortex-M4F in CI, and docs/porting.md goes through it.
#![no_std]

use core::cell::Cell;
use core::ops::Range;
use embassy_net::Stack;
use embassy_net::dns::DnsQueryType;
use embassy_net::tcp::{ConnectError, TcpReader, TcpSocket, TcpWriter};
use embassy_time::{Duration, Timer};
use embedded_storage::nor_flash::NorFlash;
use hearthkey_agent::flash::FlashRecords;
use hearthkey_agent::{ConnectFailed, Instant, Platform, Record, StorageFailed, Transport};
use rand_core::{CryptoRng, RngCore};

/// A peer that acknowledges nothing for this long is gone.
const TCP_PATIENCE: Duration = Duration::from_secs(60);

/// Where the one socket of the device rests while nobody uses it. In a `StaticCell`, for the socket borrows its buffers
/// for ever: `Cell::new(Some(TcpSocket::new(stack, received, to_send)))`, 1.5 KB each or more.
pub type SocketPlace = Cell<Option<TcpSocket<'static>>>;

/// An embassy board under the agent: `F` is its flash, `R` its generator of random numbers.
pub struct EmbassyPlatform<F, R> {
    stack: Stack<'static>,
    socket: &'static SocketPlace,
    records: FlashRecords<F>,
    random: R,
}

impl<F: NorFlash, R: RngCore + CryptoRng> EmbassyPlatform<F, R> {
    /// `range` is where the records live in the flash: two pages that the linker script leaves alone. `random` must be a
    /// hardware generator, or be seeded by one.
    ///
    /// # Errors
    /// [`StorageFailed`] if the range is not whole pages, or the flash fails.
    pub fn new(
        stack: Stack<'static>,
        socket: &'static SocketPlace,
        flash: F,
        range: Range<u32>,
        random: R,
    ) -> Result<Self, StorageFailed> {
        Ok(Self { stack, socket, records: FlashRecords::new(flash, range)?, random })
    }
}

impl<F: NorFlash, R: RngCore + CryptoRng> Platform for EmbassyPlatform<F, R> {
    type Transport = Socket;

    fn now(&self) -> Instant {
        Instant::from_millis(embassy_time::Instant::now().as_millis())
    }

    async fn sleep_until(&self, deadline: Instant) {
        // The end of time is later than the timer can say.
        match embassy_time::Instant::try_from_millis(deadline.as_millis()) {
            Some(deadline) => Timer::at(deadline).await,
            None => core::future::pending().await,
        }
    }

    fn entropy(&mut self, out: &mut [u8]) {
        self.random.fill_bytes(out);
    }

    fn load(&mut self, record: Record, out: &mut [u8]) -> Result<Option<usize>, StorageFailed> {
        self.records.load(record, out)
    }

    fn store(&mut self, record: Record, bytes: &[u8]) -> Result<(), StorageFailed> {
        self.records.store(record, bytes)
    }

    async fn connect(&self, host: &str, port: u16) -> Result<Socket, ConnectFailed> {
        self.stack.wait_config_up().await;
        let found = self.stack.dns_query(host, DnsQueryType::A).await;
        let address = found.ok().and_then(|found| found.first().copied()).ok_or(ConnectFailed::HostNotFound)?;
        // Back in its place as soon as this is dropped, connected or not.
        let mut socket = Socket { socket: Some(self.socket.take().ok_or(ConnectFailed::NoResources)?), place: self.socket };
        let Some(tcp) = &mut socket.socket else { return Err(ConnectFailed::NoResources) };
        tcp.set_nagle_enabled(false); // each write of the agent is a whole TLS record
        tcp.set_timeout(Some(TCP_PATIENCE));
        tcp.connect((address, port)).await.map_err(|error| match error {
            ConnectError::ConnectionReset => ConnectFailed::Refused,
            ConnectError::TimedOut | ConnectError::NoRoute => ConnectFailed::Unreachable,
            ConnectError::InvalidState => ConnectFailed::NoResources,
        })?;
        Ok(socket)
    }
}

/// The one connection.
pub struct Socket {
    /// Always there until it is dropped.
    socket: Option<TcpSocket<'static>>,
    place: &'static SocketPlace,
}

impl Transport for Socket {
    type Reader<'a> = TcpReader<'a>;
    type Writer<'a> = TcpWriter<'a>;

    fn split(&mut self) -> (TcpReader<'_>, TcpWriter<'_>) {
        self.socket.as_mut().expect("taken only when dropped").split()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(mut socket) = self.socket.take() {
            socket.abort();
            self.place.set(Some(socket));
        }
    }
}
