//! Address by DHCP and one TCP connection at a time, over smoltcp. Knows nothing of TLS or hubs.

use crate::board;
use crate::ethernet::Ethernet;
use core::cell::RefCell;
use core::future::poll_fn;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Poll;
use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use hearthkey_agent::{ConnectFailed, Transport};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

/// What TCP keeps until it is read or acknowledged: a segment, as the network carries them.
const TCP_BUFFER: usize = 1024;
/// A peer that acknowledges nothing for this long is gone.
const TCP_PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that TCP carried since the start, without its headers and without what it had to repeat.
#[derive(Clone, Copy)]
pub struct Carried {
    pub sent: u32,
    pub received: u32,
}

static SENT: AtomicU32 = AtomicU32::new(0);
static RECEIVED: AtomicU32 = AtomicU32::new(0);

impl Carried {
    /// At the start.
    pub const NOTHING: Self = Self { sent: 0, received: 0 };

    /// Until now.
    pub fn now() -> Self {
        Self { sent: SENT.load(Ordering::Relaxed), received: RECEIVED.load(Ordering::Relaxed) }
    }

    /// From then until now.
    pub fn since(self) -> Self {
        let Self { sent, received } = Self::now();
        Self { sent: sent - self.sent, received: received - self.received }
    }
}

/// The memory of a network.
pub struct Memory {
    ethernet: Ethernet,
    sockets: [SocketStorage<'static>; 2],
    received: [u8; TCP_BUFFER],
    to_send: [u8; TCP_BUFFER],
}

impl Memory {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            ethernet: Ethernet::new(),
            sockets: [SocketStorage::EMPTY; 2],
            received: [0; TCP_BUFFER],
            to_send: [0; TCP_BUFFER],
        }
    }
}

/// The network, shared by what waits for it; nothing keeps it borrowed while it waits.
pub struct Network(RefCell<Stack>);

struct Stack {
    ethernet: &'static mut Ethernet,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    tcp: SocketHandle,
    lease: Option<Lease>,
    next_port: u16,
}

#[derive(Clone, Copy)]
struct Lease {
    gateway: Option<Ipv4Addr>,
}

fn now() -> Instant {
    Instant::from_micros(board::micros() as i64)
}

impl Network {
    /// Starts the network; `seed` makes ports and sequence numbers hard to guess.
    pub fn start(memory: &'static mut Memory, seed: u64) -> Self {
        let Memory { ethernet, sockets, received, to_send } = memory;
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(ethernet.start())));
        config.random_seed = seed;
        let interface = Interface::new(config, ethernet, now());
        let mut sockets = SocketSet::new(&mut sockets[..]);
        let dhcp = sockets.add(dhcpv4::Socket::new());
        let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(&mut received[..]), tcp::SocketBuffer::new(&mut to_send[..]));
        // Each write of the agent is a whole TLS record, and it waits for the answer.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(TCP_PATIENCE));
        let tcp = sockets.add(socket);
        // The range of ephemeral ports, from somewhere within.
        let next_port = 49_152 + (seed >> 48) as u16 % 16_384;
        Self(RefCell::new(Stack { ethernet, interface, sockets, dhcp, tcp, lease: None, next_port }))
    }

    /// Moves frames both ways. True if something may have changed for somebody who waits.
    pub fn poll(&self) -> bool {
        let stack = &mut *self.0.borrow_mut();
        let changed = stack.interface.poll(now(), stack.ethernet, &mut stack.sockets) == PollResult::SocketStateChanged;
        let dhcp = stack.sockets.get_mut::<dhcpv4::Socket<'_>>(stack.dhcp);
        match dhcp.poll() {
            Some(dhcpv4::Event::Configured(configured)) => {
                say!("network: {}", configured.address);
                stack.interface.update_ip_addrs(|addresses| {
                    addresses.clear();
                    // There is room for one.
                    let _ = addresses.push(IpCidr::Ipv4(configured.address));
                });
                if let Some(router) = configured.router {
                    let _ = stack.interface.routes_mut().add_default_ipv4_route(router);
                }
                stack.lease = Some(Lease { gateway: configured.router });
                true
            }
            Some(dhcpv4::Event::Deconfigured) => {
                stack.interface.update_ip_addrs(|addresses| addresses.clear());
                stack.interface.routes_mut().remove_default_ipv4_route();
                stack.lease = None;
                true
            }
            None => changed,
        }
    }

    /// When [`poll`](Self::poll) has something to do again, in microseconds; `None` if nothing until a frame comes.
    pub fn due(&self) -> Option<u64> {
        let stack = &mut *self.0.borrow_mut();
        let delay = stack.interface.poll_delay(now(), &stack.sockets)?;
        Some(board::micros() + delay.total_micros())
    }

    /// Opens the one connection; a former one that is not closed yet is broken off.
    pub async fn connect(&'static self, host: &str, port: u16) -> Result<Socket, ConnectFailed> {
        let lease = poll_fn(|_| self.0.borrow().lease.map_or(Poll::Pending, Poll::Ready)).await;
        let address = match host.parse::<Ipv4Addr>() {
            Ok(address) if !address.is_loopback() => address,
            // A hub on the host's loopback, which QEMU's network shows at the gateway.
            Ok(_) => lease.gateway.ok_or(ConnectFailed::Unreachable)?,
            Err(_) if host == "localhost" => lease.gateway.ok_or(ConnectFailed::Unreachable)?,
            Err(_) => {
                say!(
                    "the hub's address is the name {}, and this board has no resolver: let `names` in the hub's configuration \
                     begin with an IP address, and add the device anew",
                    host
                );
                return Err(ConnectFailed::HostNotFound);
            }
        };
        self.with_tcp(|tcp| tcp.abort());
        self.poll();
        let socket = Socket(self);
        {
            let stack = &mut *self.0.borrow_mut();
            let local_port = stack.next_port;
            stack.next_port = local_port.checked_add(1).unwrap_or(49_152);
            let tcp = stack.sockets.get_mut::<tcp::Socket<'_>>(stack.tcp);
            tcp.connect(stack.interface.context(), (address, port), local_port).map_err(|_| ConnectFailed::NoResources)?;
        }
        poll_fn(|_| {
            self.with_tcp(|tcp| match tcp.state() {
                tcp::State::SynSent | tcp::State::SynReceived => Poll::Pending,
                tcp::State::Closed => Poll::Ready(Err(ConnectFailed::Refused)),
                _ => Poll::Ready(Ok(())),
            })
        })
        .await?;
        Ok(socket)
    }

    fn with_tcp<R>(&self, act: impl FnOnce(&mut tcp::Socket<'static>) -> R) -> R {
        let stack = &mut *self.0.borrow_mut();
        act(stack.sockets.get_mut::<tcp::Socket<'static>>(stack.tcp))
    }
}

/// The connection; closed when dropped.
pub struct Socket(&'static Network);

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.with_tcp(|tcp| tcp.close());
    }
}

/// One direction of a [`Socket`].
pub struct Half<'a>(&'a Network);

impl Transport for Socket {
    type Reader<'a> = Half<'a>;
    type Writer<'a> = Half<'a>;

    fn split(&mut self) -> (Half<'_>, Half<'_>) {
        (Half(self.0), Half(self.0))
    }
}

impl ErrorType for Half<'_> {
    type Error = ErrorKind;
}

impl Read for Half<'_> {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, ErrorKind> {
        poll_fn(|_| {
            self.0.with_tcp(|tcp| match tcp.recv_slice(out) {
                Ok(0) if !out.is_empty() => Poll::Pending,
                Ok(count) => {
                    RECEIVED.fetch_add(count as u32, Ordering::Relaxed);
                    Poll::Ready(Ok(count))
                }
                Err(tcp::RecvError::Finished) => Poll::Ready(Ok(0)),
                Err(tcp::RecvError::InvalidState) => Poll::Ready(Err(ErrorKind::ConnectionReset)),
            })
        })
        .await
    }
}

impl Write for Half<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        poll_fn(|_| {
            self.0.with_tcp(|tcp| match tcp.send_slice(bytes) {
                Ok(0) if !bytes.is_empty() => Poll::Pending,
                Ok(count) => {
                    SENT.fetch_add(count as u32, Ordering::Relaxed);
                    Poll::Ready(Ok(count))
                }
                Err(tcp::SendError::InvalidState) => Poll::Ready(Err(ErrorKind::ConnectionReset)),
            })
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(()) // What was written goes out at the next turn of the main loop.
    }
}
