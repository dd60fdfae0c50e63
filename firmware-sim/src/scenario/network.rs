//! A bad network between devices and hub: a TCP proxy on loopback that delays, loses, cuts and forgets, drawn from a seed.
//!
//! Sees bytes only: what goes through it is encrypted and belongs to others.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::file::{Fault, NetworkSettings};

/// What TCP sends at once over Ethernet and wireless networks.
const SEGMENT_BYTES: usize = 1_460;
/// The shortest time after which TCP sends a lost segment again (Linux).
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// A segment that is lost more often in a row has no luck, but arrives.
const MOST_LOSSES: u32 = 6;
/// How long the dead halves of a half-open connection are kept: longer than any keep alive of a scenario's devices.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// Connections at the same time: more than devices.
const MAX_CONNECTIONS: usize = 8_192;

/// The network; it is gone when this is dropped.
#[derive(Debug)]
pub(super) struct BadNetwork {
    ports: [u16; 2],
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

/// What it did.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    lost_segments: AtomicU64,
    resets: AtomicU64,
    truncations: AtomicU64,
    half_opened: AtomicU64,
}

impl BadNetwork {
    /// A way to each of the two ports of `host`.
    pub(super) async fn to(host: &str, ports: [u16; 2], settings: &NetworkSettings, seed: u64) -> io::Result<Self> {
        let counts = Arc::new(Counts::default());
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (mut tasks, mut ways) = (JoinSet::new(), [0; 2]);
        for (way, port) in ways.iter_mut().zip(ports) {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            *way = listener.local_addr()?.port();
            let mut targets = tokio::net::lookup_host((host, port)).await?;
            let target =
                targets.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the hub's host has no address"))?;
            let (settings, counts, room) = (settings.clone(), Arc::clone(&counts), Arc::clone(&room));
            tasks.spawn(carry(listener, target, settings, counts, room, seed));
        }
        Ok(Self { ports: ways, counts, _tasks: tasks })
    }

    /// Where its ways begin, on 127.0.0.1.
    pub(super) fn ports(&self) -> [u16; 2] {
        self.ports
    }

    /// What it did, in words.
    pub(super) fn in_words(&self) -> String {
        let Counts { connections, lost_segments, resets, truncations, half_opened } = &*self.counts;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} connections, {} segments lost, {} reset, {} cut short, {} half-open",
            count(connections),
            count(lost_segments),
            count(resets),
            count(truncations),
            count(half_opened)
        )
    }
}

async fn carry(
    listener: TcpListener,
    target: SocketAddr,
    settings: NetworkSettings,
    counts: Arc<Counts>,
    room: Arc<Semaphore>,
    seed: u64,
) {
    let mut connections = JoinSet::new();
    while let Ok(room) = Arc::clone(&room).acquire_owned().await {
        let Ok((device, _)) = listener.accept().await else {
            // Out of sockets for now.
            sleep(RETRANSMISSION).await;
            continue;
        };
        let number = counts.connections.fetch_add(1, Ordering::Relaxed);
        // Which connection comes first is up to the system; what happens to the n-th is not.
        let random = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (settings, counts) = (settings.clone(), Arc::clone(&counts));
        connections.spawn(async move {
            connection(device, target, &settings, &counts, random).await;
            drop(room);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    device: TcpStream,
    target: SocketAddr,
    settings: &NetworkSettings,
    counts: &Counts,
    mut random: fastrand::Rng,
) {
    let Ok(hub) = TcpStream::connect(target).await else { return };
    let end = settings.fault_every.map(|mean| {
        // Exponential: a fault is as likely in each moment.
        let after = mean.mul_f64(-(1.0 - random.f64()).ln());
        (after, settings.faults[random.usize(..settings.faults.len())])
    });
    let _ = (device.set_nodelay(true), hub.set_nodelay(true));
    let (mut from_device, mut to_device) = device.into_split();
    let (mut from_hub, mut to_hub) = hub.into_split();
    let (mut up, mut down) = (Line::new(settings, counts, random.fork()), Line::new(settings, counts, random.fork()));
    let fault = {
        let both = async { tokio::join!(up.carry(&mut from_device, &mut to_hub), down.carry(&mut from_hub, &mut to_device)) };
        let fault = async {
            match end {
                Some((after, fault)) => {
                    sleep(after).await;
                    fault
                }
                None => pending().await,
            }
        };
        tokio::select! {
            _ = both => return,
            fault = fault => fault,
        }
    };
    match fault {
        Fault::Reset => {
            counts.resets.fetch_add(1, Ordering::Relaxed);
            for half in [&to_device, &to_hub] {
                // Closing with what was not sent thrown away is a reset.
                let _ = half.as_ref().set_zero_linger();
            }
        }
        Fault::Truncate => {
            counts.truncations.fetch_add(1, Ordering::Relaxed);
            let mut segment = [0; SEGMENT_BYTES];
            if let Ok(length @ 1..) = from_hub.read(&mut segment).await {
                let _ = to_device.write_all(&segment[..length / 2]).await;
            }
        }
        Fault::HalfOpen => {
            counts.half_opened.fetch_add(1, Ordering::Relaxed);
            sleep(FORGOTTEN_AFTER).await;
        }
    }
}

/// One direction of a connection.
struct Line<'a> {
    delay: RangeInclusive<Duration>,
    loss: f64,
    counts: &'a Counts,
    random: fastrand::Rng,
}

impl<'a> Line<'a> {
    fn new(settings: &NetworkSettings, counts: &'a Counts, random: fastrand::Rng) -> Self {
        let delay = settings.delay.clone().unwrap_or(Duration::ZERO..=Duration::ZERO);
        Self { delay, loss: settings.loss, counts, random }
    }

    async fn carry(&mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let mut segment = [0; SEGMENT_BYTES];
        while let Ok(length @ 1..) = from.read(&mut segment).await {
            sleep(self.on_the_way()).await;
            if to.write_all(&segment[..length]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }

    fn on_the_way(&mut self) -> Duration {
        let (low, high) = (*self.delay.start(), *self.delay.end());
        let mut delay = low + (high - low).mul_f64(self.random.f64());
        let mut losses = 0;
        while losses < MOST_LOSSES && self.random.f64() < self.loss {
            losses += 1;
            self.counts.lost_segments.fetch_add(1, Ordering::Relaxed);
            delay += RETRANSMISSION;
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn through(settings: NetworkSettings, sent: &[u8]) -> (Vec<u8>, String) {
        let hub = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = hub.local_addr().expect("bound").port();
        let network = BadNetwork::to("127.0.0.1", [port, port], &settings, 7).await.expect("a network");
        let mut device = TcpStream::connect(("127.0.0.1", network.ports()[1])).await.expect("a way");
        let (mut socket, _) = hub.accept().await.expect("the way leads to the hub");
        let mut received = Vec::new();
        let sending = async {
            // The network may cut the connection; what arrived tells.
            let _ = socket.write_all(sent).await;
            let _ = socket.shutdown().await;
        };
        let _ = tokio::join!(sending, device.read_to_end(&mut received));
        (received, network.in_words())
    }

    fn settings(loss: f64, fault: Option<Fault>) -> NetworkSettings {
        let delay = Some(Duration::ZERO..=Duration::from_millis(1));
        let fault_every = fault.map(|_| Duration::from_millis(1));
        NetworkSettings { delay, loss, fault_every, faults: fault.into_iter().collect() }
    }

    #[tokio::test]
    async fn what_goes_through_arrives_whole_and_in_order_however_much_is_lost_below() {
        let sent: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        let (received, words) = through(settings(0.3, None), &sent).await;
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert!(!words.contains(" 0 segments lost"), "{words}");
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_delivers_less_than_was_sent() {
        let sent = vec![1; 5_000_000];
        for fault in [Fault::Reset, Fault::Truncate] {
            let (received, words) = through(settings(0.0, Some(fault)), &sent).await;
            assert!(received.len() < sent.len(), "{fault:?}: {words}");
        }
    }
}
