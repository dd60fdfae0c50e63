//! A simulated client's own memory, and one connection of it: bytes to the front and packets back.

use crate::support::*;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

/// What a client remembers between its connections.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Publishes without their last acknowledgement, by packet identifier: message, and whether PUBREL is due.
    pub(crate) unacknowledged: BTreeMap<u64, Unacknowledged>,
    pub(crate) next: u64,
    /// QoS 2 deliveries whose PUBREL has not come.
    pub(crate) taken: BTreeSet<u16>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Unacknowledged {
    pub(crate) identifier: u16,
    pub(crate) message: usize,
    pub(crate) is_released: bool,
}

impl Memory {
    /// A packet identifier that is free; the key keeps the order.
    pub(crate) fn remember(&mut self, message: usize) -> u16 {
        self.next += 1;
        let identifier = u16::try_from(self.next % 60_000).unwrap() + 1;
        self.unacknowledged.insert(self.next, Unacknowledged { identifier, message, is_released: false });
        identifier
    }

    pub(crate) fn find(&mut self, identifier: u16) -> Option<u64> {
        self.unacknowledged.iter().find(|(_, entry)| entry.identifier == identifier).map(|(key, _)| *key)
    }
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) number: usize,
    outward: WriteHalf<DuplexStream>,
    inward: mpsc::UnboundedReceiver<Packet>,
    served: JoinHandle<()>,
    reading: JoinHandle<()>,
    /// Acknowledgements that the client has not sent yet.
    pub(crate) withheld: Vec<Vec<u8>>,
}

impl Connection {
    /// `served` is the front's task for the other end.
    pub(crate) fn new(number: usize, stream: DuplexStream, served: JoinHandle<()>) -> Self {
        let (reader, outward) = tokio::io::split(stream);
        let (found, inward) = mpsc::unbounded_channel();
        let reading = tokio::spawn(read(reader, found));
        Self { number, outward, inward, served, reading, withheld: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The front may have closed.
        let _ = self.outward.write_all(bytes).await;
    }

    /// The next packet, if it has come; `Err` at the end.
    pub(crate) fn packet(&mut self) -> Result<Option<Packet>, ()> {
        match self.inward.try_recv() {
            Ok(packet) => Ok(Some(packet)),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(()),
        }
    }

    /// Tells when the front is done with this connection.
    pub(crate) fn served(&self) -> AbortHandle {
        self.served.abort_handle()
    }

    /// Ends at once, both sides: the hub is dead.
    pub(crate) fn abort(self) {
        self.served.abort();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The stream closes when both of its halves are gone.
        self.reading.abort();
    }
}

/// How a message says its number, also if it has no content: Correlation Data.
pub(crate) fn number_property(number: usize) -> Vec<u8> {
    [&[0x09][..], &string(&number.to_string())].concat()
}

/// The number, and whether it comes by a subscription with an identifier: a shared one.
pub(crate) fn number_of(published: &Published) -> Option<(usize, bool)> {
    let (mut rest, mut number, mut is_shared) = (published.properties.as_slice(), None, false);
    while let [identifier, value @ ..] = rest {
        let length = match identifier {
            0x02 => 4,
            0x09 => 2 + usize::from(*value.get(1)?),
            0x0B => 1,
            _ => return None,
        };
        is_shared |= *identifier == 0x0B;
        if *identifier == 0x09 {
            number = std::str::from_utf8(value.get(2..length)?).ok()?.parse().ok();
        }
        rest = value.get(length..)?;
    }
    Some((number?, is_shared))
}

async fn read(mut reader: ReadHalf<DuplexStream>, found: mpsc::UnboundedSender<Packet>) {
    let mut one = async || -> std::io::Result<Packet> {
        let first = reader.read_u8().await?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = reader.read_u8().await?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        Ok(Packet { first, body })
    };
    while let Ok(packet) = one().await {
        if found.send(packet).is_err() {
            break;
        }
    }
}
