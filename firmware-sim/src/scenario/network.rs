//! A bad network between devices and hub: a TCP proxy on loopback that delays, loses, cuts and forgets, drawn from a seed.
//!
//! Sees bytes only: what goes through it is encrypted and belongs to others.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
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

/// What a bad network did; each count is taken where the thing is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkCounts {
    /// Connections that went through it.
    pub connections: u64,
    /// Segments that it kept back for a while ([`NetworkSettings::delay`]).
    pub delayed_segments: u64,
    /// Segments that it lost ([`NetworkSettings::loss`]), each time that it lost them.
    pub lost_segments: u64,
    /// Connections that it reset.
    pub resets: u64,
    /// Connections that it ended in the midst of a segment.
    pub truncations: u64,
    /// Connections that it left open to both sides and carried no further.
    pub half_open: u64,
}

impl NetworkCounts {
    /// The counts with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("connections through the network", self.connections),
            ("segments delayed", self.delayed_segments),
            ("segments lost", self.lost_segments),
            ("connections reset", self.resets),
            ("connections truncated", self.truncations),
            ("connections left half-open", self.half_open),
        ]
    }

    /// What `settings` promise, in their own words, and how often it came.
    #[must_use]
    pub fn of_promised(&self, settings: &NetworkSettings) -> Vec<(&'static str, u64)> {
        let delays = settings.delay.as_ref().is_some_and(|delay| *delay.end() > Duration::ZERO);
        let has = |fault| settings.faults.contains(&fault);
        let all = [
            (delays, "delay", self.delayed_segments),
            (settings.loss > 0.0, "loss", self.lost_segments),
            (has(Fault::Reset), "reset", self.resets),
            (has(Fault::Truncate), "truncate", self.truncations),
            (has(Fault::HalfOpen), "half-open", self.half_open),
        ];
        all.into_iter().filter(|(promised, ..)| *promised).map(|(_, name, count)| (name, count)).collect()
    }
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    delayed_segments: AtomicU64,
    lost_segments: AtomicU64,
    resets: AtomicU64,
    truncations: AtomicU64,
    half_open: AtomicU64,
    /// Faults that were due: they take turns, so that none stays away for long.
    due: AtomicU64,
}

fn one_more(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed)
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

    /// What it did so far.
    pub(super) fn counts(&self) -> NetworkCounts {
        let Counts { connections, delayed_segments, lost_segments, resets, truncations, half_open, due: _ } = &*self.counts;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetworkCounts {
            connections: count(connections),
            delayed_segments: count(delayed_segments),
            lost_segments: count(lost_segments),
            resets: count(resets),
            truncations: count(truncations),
            half_open: count(half_open),
        }
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
        let number = one_more(&counts.connections);
        // Which connection comes first is up to the system; when something happens to the n-th is not.
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
    // Exponential: a fault is as likely in each moment.
    let fault_after = settings.fault_every.map(|mean| mean.mul_f64(-(1.0 - random.f64()).ln()));
    let _ = (device.set_nodelay(true), hub.set_nodelay(true));
    let (mut from_device, mut to_device) = device.into_split();
    let (mut from_hub, mut to_hub) = hub.into_split();
    let (goes_on, cut_next) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut up = Line::new(settings, counts, random.fork(), &goes_on);
    let mut down = Line::new(settings, counts, random.fork(), &cut_next);
    let mut both =
        Box::pin(async { tokio::try_join!(up.carry(&mut from_device, &mut to_hub), down.carry(&mut from_hub, &mut to_device)) });
    let fault = async {
        match fault_after {
            Some(after) => {
                sleep(after).await;
                settings.faults[one_more(&counts.due) as usize % settings.faults.len()]
            }
            None => pending().await,
        }
    };
    let fault = tokio::select! {
        _ = &mut both => return,
        fault = fault => fault,
    };
    match fault {
        Fault::Reset => {
            drop(both);
            // Closing with what was not sent thrown away is a reset.
            let reset = [&to_device, &to_hub].map(|half| half.as_ref().set_zero_linger().is_ok());
            if reset.contains(&true) {
                one_more(&counts.resets);
            }
        }
        Fault::Truncate => {
            // What the hub says next is cut, and that is the end: what went before arrives.
            cut_next.store(true, Ordering::Relaxed);
            let _ = both.await;
        }
        Fault::HalfOpen => {
            one_more(&counts.half_open);
            sleep(FORGOTTEN_AFTER).await;
        }
    }
}

/// A segment arrived in part: nothing follows.
struct Truncated;

/// One direction of a connection.
struct Line<'a> {
    delay: RangeInclusive<Duration>,
    loss: f64,
    counts: &'a Counts,
    random: fastrand::Rng,
    /// The next segment is to be the last, and to arrive in part.
    cut_next: &'a AtomicBool,
}

impl<'a> Line<'a> {
    fn new(settings: &NetworkSettings, counts: &'a Counts, random: fastrand::Rng, cut_next: &'a AtomicBool) -> Self {
        let delay = settings.delay.clone().unwrap_or(Duration::ZERO..=Duration::ZERO);
        Self { delay, loss: settings.loss, counts, random, cut_next }
    }

    async fn carry(&mut self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> Result<(), Truncated> {
        let mut segment = [0; SEGMENT_BYTES];
        while let Ok(length @ 1..) = from.read(&mut segment).await {
            sleep(self.on_the_way()).await;
            if self.cut_next.load(Ordering::Relaxed) {
                if to.write_all(&segment[..length / 2]).await.is_ok() {
                    one_more(&self.counts.truncations);
                }
                return Err(Truncated);
            }
            if to.write_all(&segment[..length]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
        Ok(())
    }

    fn on_the_way(&mut self) -> Duration {
        let (low, high) = (*self.delay.start(), *self.delay.end());
        let mut delay = low + (high - low).mul_f64(self.random.f64());
        if delay > Duration::ZERO {
            one_more(&self.counts.delayed_segments);
        }
        let mut losses = 0;
        while losses < MOST_LOSSES && self.random.f64() < self.loss {
            losses += 1;
            one_more(&self.counts.lost_segments);
            delay += RETRANSMISSION;
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `sent` becomes on its way from a hub that then waits for the end, and what the network counted.
    async fn through(settings: NetworkSettings, sent: &[u8]) -> (Vec<u8>, NetworkCounts) {
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
        (received, network.counts())
    }

    fn settings(loss: f64, fault: Option<Fault>) -> NetworkSettings {
        let delay = Some(Duration::ZERO..=Duration::from_millis(1));
        let fault_every = fault.map(|_| Duration::from_millis(1));
        NetworkSettings { delay, loss, fault_every, faults: fault.into_iter().collect() }
    }

    #[tokio::test]
    async fn what_goes_through_arrives_whole_and_in_order_however_much_is_lost_below() {
        let sent: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
        let (received, counts) = through(settings(0.3, None), &sent).await;
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert!(counts.lost_segments > 0 && counts.delayed_segments >= 14, "{counts:?}");
        assert_eq!((counts.resets, counts.truncations, counts.half_open), (0, 0, 0), "{counts:?}");
    }

    #[tokio::test]
    async fn a_good_network_counts_no_fault() {
        let good = NetworkSettings { delay: None, loss: 0.0, fault_every: None, faults: Vec::new() };
        let (received, counts) = through(good.clone(), &[1; 20_000]).await;
        assert_eq!((received.len(), counts), (20_000, NetworkCounts { connections: 1, ..NetworkCounts::default() }));
        assert_eq!(counts.of_promised(&good), []);
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_delivers_less_than_was_sent_and_counts_as_what_was_done_to_it() {
        let sent = vec![1; 5_000_000];
        for fault in [Fault::Reset, Fault::Truncate] {
            let (received, counts) = through(settings(0.0, Some(fault)), &sent).await;
            assert!(received.len() < sent.len(), "{fault:?}: {counts:?}");
            let expected = if fault == Fault::Reset { (1, 0, 0) } else { (0, 1, 0) };
            assert_eq!((counts.resets, counts.truncations, counts.half_open), expected, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_of_which_nothing_more_comes_is_not_truncated() {
        let [hub, way] =
            [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await].map(|bound| bound.expect("a port"));
        let (counts, settings) = (Counts::default(), settings(0.0, Some(Fault::Truncate)));
        let mut device = TcpStream::connect(way.local_addr().expect("bound")).await.expect("a way");
        let (carried, _) = way.accept().await.expect("the device came");
        let target = hub.local_addr().expect("bound");
        let connection = connection(carried, target, &settings, &counts, fastrand::Rng::with_seed(7));
        // The hub ends it when the fault is due, before it has said anything that could be cut.
        let silent_hub = async {
            let _socket = hub.accept().await.expect("the way leads to the hub");
            while counts.due.load(Ordering::Relaxed) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let leaving_device = async move {
            let mut heard = Vec::new();
            device.read_to_end(&mut heard).await.expect("an orderly end");
            heard
        };
        let ((), (), heard) = tokio::join!(connection, silent_hub, leaving_device);
        assert_eq!((heard.len(), counts.truncations.into_inner()), (0, 0));
    }

    #[tokio::test]
    async fn a_half_open_connection_is_counted_and_carries_nothing_more_to_its_end() {
        let hub = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = hub.local_addr().expect("bound").port();
        let settings = settings(0.0, Some(Fault::HalfOpen));
        let network = BadNetwork::to("127.0.0.1", [port, port], &settings, 7).await.expect("a network");
        let mut device = TcpStream::connect(("127.0.0.1", network.ports()[0])).await.expect("a way");
        let (mut socket, _) = hub.accept().await.expect("the way leads to the hub");
        while network.counts().half_open == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        device.write_all(b"anybody there?").await.expect("nobody was told");
        device.shutdown().await.expect("nobody was told");
        assert_eq!(network.counts().of_promised(&settings)[1..], [("half-open", 1)]);
        drop(network);
        let mut heard = Vec::new();
        // The end of the network is no orderly one.
        let _ = socket.read_to_end(&mut heard).await;
        assert_eq!(heard, b"");
    }

    #[test]
    fn a_network_promises_what_its_settings_say_and_nothing_else() {
        let all = [Fault::Reset, Fault::Truncate, Fault::HalfOpen];
        let everything = NetworkSettings { faults: all.to_vec(), ..settings(0.1, None) };
        let counts = NetworkCounts { delayed_segments: 1, lost_segments: 2, resets: 3, truncations: 4, ..Default::default() };
        let named = [("delay", 1), ("loss", 2), ("reset", 3), ("truncate", 4), ("half-open", 0)];
        assert_eq!(counts.of_promised(&everything), named);
        assert_eq!(counts.of_promised(&settings(0.0, Some(Fault::Reset))), [("delay", 1), ("reset", 3)]);
    }
}
