//! One network connection as bytes: what has arrived, and what waits to be written, by packets. Knows nothing of their meaning.

use super::{
    limits::LINGER,
    packet::{
        Fault,
        frame::{self, Frame},
    },
};
use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};

/// The two directions of a connection.
pub(super) struct Wire<S> {
    pub(super) inbound: Inbound<S>,
    pub(super) outbound: Outbox<S>,
}

/// What arrives.
pub(super) struct Inbound<S> {
    half: ReadHalf<S>,
    bytes: BytesMut,
    read_size: usize,
}

/// What waits to be written.
pub(super) struct Outbox<S> {
    half: WriteHalf<S>,
    bytes: BytesMut,
    /// Most bytes that waited since nothing did.
    peak: usize,
    /// What is left of each packet, the first possibly begun.
    packets: VecDeque<usize>,
    first_is_begun: bool,
    /// How many of them, from the front, a cut spares.
    spared: usize,
    needs_flush: bool,
}

/// A quiet connection reads this much at a time, and holds nothing while it waits; a busy one up to `LARGE_READ`.
const SMALL_READ: usize = 1024;
const LARGE_READ: usize = 64 * 1024;
/// A buffer that had no more to hold than this is given back when it is empty.
const SMALL_WRITE: usize = 256;

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            inbound: Inbound { half: reader, bytes: BytesMut::new(), read_size: SMALL_READ },
            outbound: Outbox {
                half: writer,
                bytes: BytesMut::new(),
                peak: 0,
                packets: VecDeque::new(),
                first_is_begun: false,
                spared: 0,
                needs_flush: false,
            },
        }
    }

    /// Writes what is left and waits for the peer to close, so that a reset does not destroy the last packet on its way.
    pub(super) async fn linger(mut self) {
        let farewell = async {
            self.outbound.write_all().await?;
            self.outbound.half.shutdown().await?;
            let mut scrap = [0; 1024];
            while self.inbound.half.read(&mut scrap).await? > 0 {}
            io::Result::Ok(())
        };
        // Whatever happens here, the connection is over.
        let _ = tokio::time::timeout(LINGER, farewell).await;
    }
}

impl<S: AsyncRead> Inbound<S> {
    /// The next whole packet among what has arrived.
    pub(super) fn next(&mut self, max_packet_bytes: usize) -> Result<Option<Frame>, Fault> {
        frame::next(&mut self.bytes, max_packet_bytes)
    }

    /// Reads more. False at the end of the stream. May be dropped while it waits.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        if self.bytes.is_empty() && self.read_size == SMALL_READ {
            return self.fill_from_nothing().await;
        }
        self.bytes.reserve(self.read_size);
        let room = self.bytes.capacity() - self.bytes.len();
        let read = self.half.read_buf(&mut self.bytes).await?;
        if read == room {
            self.read_size = (self.read_size * 2).min(LARGE_READ);
        } else if read < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(SMALL_READ);
        }
        Ok(read > 0)
    }

    /// Most connections wait most of the time: they do so without a buffer.
    async fn fill_from_nothing(&mut self) -> io::Result<bool> {
        self.bytes = BytesMut::new();
        let read = poll_fn(|context| {
            let mut room = [MaybeUninit::uninit(); SMALL_READ];
            let mut arrived = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.half).poll_read(context, &mut arrived))?;
            self.bytes.extend_from_slice(arrived.filled());
            Poll::Ready(io::Result::Ok(arrived.filled().len()))
        });
        let read = read.await?;
        if read == SMALL_READ {
            self.read_size *= 2;
        }
        Ok(read > 0)
    }

    /// The next whole packet, waiting for it; nothing at the end of the stream.
    pub(super) async fn packet(&mut self, max_packet_bytes: usize) -> io::Result<Result<Option<Frame>, Fault>> {
        loop {
            match self.next(max_packet_bytes) {
                Ok(None) if self.fill().await? => {}
                result => return Ok(result),
            }
        }
    }
}

impl<S: AsyncWrite> Outbox<S> {
    /// Appends one packet.
    pub(super) fn push<T>(&mut self, encode: impl FnOnce(&mut BytesMut) -> T) -> T {
        let before = self.bytes.len();
        let result = encode(&mut self.bytes);
        if self.bytes.len() > before {
            self.packets.push_back(self.bytes.len() - before);
            self.peak = self.peak.max(self.bytes.len());
        }
        result
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The memory that what waits takes: its bytes, and a length for each packet.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len() + self.packets.len() * size_of::<usize>()
    }

    /// Writes what can be written without waiting. An error comes again when it is waited for.
    pub(super) fn write_at_once(&mut self) {
        while !self.bytes.is_empty()
            && let Some(Ok(())) = self.write_some().now_or_never()
        {}
    }

    /// Whether there is something to write or to flush.
    pub(super) fn is_pending(&self) -> bool {
        !self.bytes.is_empty() || self.needs_flush
    }

    /// Writes some. May be dropped while it waits.
    pub(super) async fn write_some(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            self.half.flush().await?;
            self.needs_flush = false;
            return Ok(());
        }
        let written = self.half.write(&self.bytes).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.needs_flush = true;
        self.advance(written);
        Ok(())
    }

    /// What waits now is written whatever comes.
    pub(super) fn spare(&mut self) {
        self.spared = self.packets.len();
    }

    /// Drops the packets of which nothing is written yet, but not those that are [spared](Self::spare).
    pub(super) fn cut(&mut self) {
        let spared = self.spared.max(usize::from(self.first_is_begun));
        self.bytes.truncate(self.packets.iter().take(spared).sum());
        self.packets.truncate(spared);
    }

    async fn write_all(&mut self) -> io::Result<()> {
        while self.is_pending() {
            self.write_some().await?;
        }
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes.advance(written);
        while let Some(first) = self.packets.front_mut() {
            if written < *first {
                *first -= written;
                self.first_is_begun |= written > 0;
                break;
            }
            written -= *first;
            self.packets.pop_front();
            self.first_is_begun = false;
            self.spared = self.spared.saturating_sub(1);
        }
        if self.bytes.is_empty() {
            if self.peak <= SMALL_WRITE || self.bytes.capacity() > LARGE_READ {
                self.bytes = BytesMut::new();
                self.packets = VecDeque::new();
            }
            self.peak = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;

    #[tokio::test]
    async fn a_cut_leaves_only_what_was_begun() {
        let (stream, mut peer) = tokio::io::duplex(5);
        let mut wire = Wire::new(stream);
        for packet in [&b"abc"[..], b"defg", b"hi"] {
            wire.outbound.push(|out| out.put_slice(packet));
        }
        wire.outbound.write_some().await.expect("five bytes fit");
        wire.outbound.cut();
        wire.outbound.push(|out| out.put_slice(b"END"));
        tokio::spawn(wire.linger());
        let mut text = String::new();
        peer.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "abcdefgEND");
    }

    #[tokio::test]
    async fn a_cut_spares_what_must_come_first() {
        let (stream, mut peer) = tokio::io::duplex(100);
        let mut wire = Wire::new(stream);
        wire.outbound.push(|out| out.put_slice(b"abc"));
        wire.outbound.spare();
        wire.outbound.push(|out| out.put_slice(b"defg"));
        wire.outbound.cut();
        wire.outbound.push(|out| out.put_slice(b"END"));
        tokio::spawn(wire.linger());
        let mut text = String::new();
        peer.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "abcEND");
    }

    #[tokio::test]
    async fn a_cut_between_packets_leaves_nothing() {
        let (stream, mut peer) = tokio::io::duplex(3);
        let mut wire = Wire::new(stream);
        for packet in [&b"abc"[..], b"defg"] {
            wire.outbound.push(|out| out.put_slice(packet));
        }
        wire.outbound.write_some().await.expect("three bytes fit");
        wire.outbound.cut();
        tokio::spawn(wire.linger());
        let mut text = String::new();
        peer.read_to_string(&mut text).await.expect("text");
        assert_eq!(text, "abc");
    }
}
