//! This host as the device under an agent: tokio's clock and sockets, the system's entropy, files or memory.
//!
//! The one implementation of the agent's `Platform` for hosts. Decides nothing.

use std::io::ErrorKind;
use std::time::Duration;

use embedded_io_adapters::tokio_1::FromTokio;
use hearthkey_agent::{ConnectFailed, Instant, Platform, Record, StorageFailed, Transport};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::storage::Storage;

/// A device that lives on this host.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    storage: &'a mut Storage,
    started: tokio::time::Instant,
}

impl<'a> Host<'a> {
    /// A device with these records; its clock starts here.
    pub(crate) fn new(storage: &'a mut Storage) -> Self {
        Self { storage, started: tokio::time::Instant::now() }
    }
}

impl Platform for Host<'_> {
    type Transport = Socket;

    fn now(&self) -> Instant {
        let elapsed = self.started.elapsed().as_millis();
        Instant::from_millis(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    async fn sleep_until(&self, deadline: Instant) {
        let after_start = Duration::from_millis(deadline.as_millis());
        match self.started.checked_add(after_start) {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            // Later than any clock can say.
            None => std::future::pending().await,
        }
    }

    fn entropy(&mut self, out: &mut [u8]) {
        getrandom::fill(out).expect("the system has entropy; without it no key may be made");
    }

    fn load(&mut self, key: Record, out: &mut [u8]) -> Result<Option<usize>, StorageFailed> {
        let loaded = self.storage.load(key.name()).map_err(|error| {
            tracing::error!("{error}");
            StorageFailed
        })?;
        let Some(bytes) = loaded else { return Ok(None) };
        let Some(target) = out.get_mut(..bytes.len()) else {
            tracing::error!(record = key.name(), bytes = bytes.len(), "a record is longer than the agent takes");
            return Err(StorageFailed);
        };
        target.copy_from_slice(&bytes);
        Ok(Some(bytes.len()))
    }

    fn store(&mut self, key: Record, bytes: &[u8]) -> Result<(), StorageFailed> {
        self.storage.store(key.name(), bytes).map_err(|error| {
            tracing::error!("{error}");
            StorageFailed
        })
    }

    async fn connect(&self, host: &str, port: u16) -> Result<Socket, ConnectFailed> {
        let connected = TcpStream::connect((host, port)).await;
        let socket = connected.map_err(|error| why_no_connection(&error))?;
        // Each write of the agent is a whole TLS record; waiting for more only adds delay.
        let _ = socket.set_nodelay(true);
        Ok(Socket(socket))
    }
}

fn why_no_connection(error: &std::io::Error) -> ConnectFailed {
    // EMFILE and ENFILE have no stable `ErrorKind`.
    const TOO_MANY_OPEN_FILES: [i32; 2] = [23, 24];
    match error.kind() {
        ErrorKind::ConnectionRefused => ConnectFailed::Refused,
        ErrorKind::OutOfMemory => ConnectFailed::NoResources,
        _ if error.raw_os_error().is_some_and(|code| TOO_MANY_OPEN_FILES.contains(&code)) => ConnectFailed::NoResources,
        // What the resolver says carries no error number of a socket.
        _ if error.raw_os_error().is_none() => ConnectFailed::HostNotFound,
        _ => ConnectFailed::Unreachable,
    }
}

/// A TCP connection of a device.
#[derive(Debug)]
pub(crate) struct Socket(TcpStream);

impl Transport for Socket {
    type Reader<'a> = FromTokio<ReadHalf<'a>>;
    type Writer<'a> = FromTokio<WriteHalf<'a>>;

    fn split(&mut self) -> (Self::Reader<'_>, Self::Writer<'_>) {
        let (reader, writer) = self.0.split();
        (FromTokio::new(reader), FromTokio::new(writer))
    }
}
