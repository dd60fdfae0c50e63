//! The shell around [`device`](crate::device): moves bytes between the hub and the core, and waits. Decides nothing.

use crate::application::{Application, Event, Farewell, Turn};
use crate::buffer::Buffer;
use crate::device::{Config, Device};
use crate::identity::{Identity, SEQUENCE_BYTES, sequence_in};
use crate::keys::Drbg;
use crate::lifecycle::{Awaited, Ending, Next};
use crate::mqtt::codec;
use crate::mqtt::{MAX_INCOMING_PACKET, MAX_OUTGOING_PACKET};
use crate::platform::{Platform, Record, StorageFailed, Transport as _};
use crate::time::{Clock, Instant};
use crate::tls::{Channel, Connection, TrustAnchor};
use crate::workspace::{InUse, Workspace};
use core::pin::pin;
use core::time::Duration;
use embassy_futures::select::{Either, Either3, select, select3};
use embedded_io_async::{Read, Write};
use zeroize::{Zeroize as _, Zeroizing};

/// How long connecting may take, and the handshake after it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the hub may leave bytes of ours unread.
const STALLED: Duration = Duration::from_secs(30);
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// The shortest wait: an application that asks for a past instant must not keep others from running.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// Why [`Agent::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The application asked to leave.
    Left(Farewell),
    /// The hub revoked this device. Its owner must enrol it anew.
    Revoked,
}

/// One enrolled device that stays connected to its hub.
#[derive(Debug)]
pub struct Agent {
    device: Device,
}

impl Agent {
    /// An agent for `identity` that does not know the date yet.
    #[must_use]
    pub fn new(identity: Identity, config: Config) -> Self {
        Self::with_clock(identity, config, Clock::unset())
    }

    /// An agent that knows the date from enrolment, which saves the first connection a round trip.
    #[must_use]
    pub fn with_clock(identity: Identity, config: Config, clock: Clock) -> Self {
        Self { device: Device::new(identity, config, clock) }
    }

    /// Who the device is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.device.identity
    }

    /// Connects, stays connected, comes back after every failure, until the application leaves or the hub revokes the
    /// device. Dropping the future breaks the connection; the hub then publishes the will.
    pub async fn run<P: Platform, A: Application>(
        &mut self,
        platform: &mut P,
        application: &mut A,
        workspace: &mut Workspace,
    ) -> Ended {
        // A former run that was dropped left it as it was.
        self.device.go_offline();
        let mut due = platform.now();
        loop {
            if !self.device.gate.is_read() {
                self.load_sequence(platform, application);
            }
            self.reseed(platform);
            if let Some(farewell) = self.wait(platform, application, due).await {
                return Ended::Left(farewell);
            }
            // Pinned where it is made: moving a future leaves a copy on the stack.
            let ending = {
                let in_use = &mut InUse(workspace);
                pin!(self.connection(platform, application, in_use.0)).await
            };
            let now = platform.now();
            let next = self.device.ended(&ending, now);
            let retry_in = match next {
                Next::ConnectAfter(delay) => Some(delay),
                Next::StopRevoked | Next::StopLeft => None,
            };
            application.event(Event::Disconnected { ending: &ending, retry_in });
            if let Some(delay) = retry_in {
                due = now.after(delay);
                continue;
            }
            return match ending {
                Ending::Left(farewell) => Ended::Left(farewell),
                _ => Ended::Revoked,
            };
        }
    }

    // Not inlined, for the stack of the handshake; so in the core.
    #[inline(never)]
    fn reseed<P: Platform>(&mut self, platform: &mut P) {
        let mut seed = Zeroizing::new([0; 32]);
        platform.entropy(&mut *seed);
        self.device.random = Drbg::from_seed(&seed, "hearthkey connection");
    }

    /// If storage cannot be read, no command is carried out.
    fn load_sequence<P: Platform, A: Application>(&mut self, platform: &mut P, application: &mut A) {
        let mut record = [0; SEQUENCE_BYTES];
        let loaded = platform.load(Record::CommandSequence, &mut record);
        self.device.diagnostics.storage(loaded.is_ok());
        if loaded.is_err() {
            application.event(Event::StorageFailed);
        }
        // Zero if there is none.
        self.device.gate.loaded(loaded.is_ok().then_some(sequence_in(&record)));
    }

    fn store_sequence<P: Platform, A: Application>(&mut self, platform: &mut P, application: &mut A, sequence: u64) {
        let stored = platform.store(Record::CommandSequence, &self.device.identity.sequence_record(sequence));
        self.device.diagnostics.storage(stored.is_ok());
        match stored {
            Ok(()) => self.device.gate.stored(sequence),
            Err(StorageFailed) => application.event(Event::StorageFailed),
        }
    }

    /// Waits without a connection until `due`; the application is asked meanwhile.
    async fn wait<P: Platform, A: Application>(
        &mut self,
        platform: &mut P,
        application: &mut A,
        due: Instant,
    ) -> Option<Farewell> {
        loop {
            let now = platform.now();
            let until = match self.device.poll_application(application, now) {
                Turn::Stop(farewell) => return Some(farewell),
                Turn::At(at) => at.max(now.after(SHORTEST_WAIT)).min(due),
                Turn::Idle => due,
            };
            if now >= due {
                return None;
            }
            select(platform.sleep_until(until), application.wake()).await;
        }
    }

    async fn connection<P: Platform, A: Application>(
        &mut self,
        platform: &mut P,
        application: &mut A,
        workspace: &mut Workspace,
    ) -> Ending {
        let Self { device } = self;
        let (host, port) = (device.identity.hub.host.clone(), device.identity.hub.mqtt_port);
        application.event(Event::Connecting { host: &host, port });
        let deadline = platform.now().after(PATIENCE);
        let mut transport = match select(platform.connect(&host, port), platform.sleep_until(deadline)).await {
            Either::First(Ok(transport)) => transport,
            Either::First(Err(error)) => return Ending::ConnectFailed(error),
            Either::Second(()) => return Ending::TimedOut(Awaited::Connection),
        };
        let (reader, writer) = transport.split();
        let Workspace { tls, incoming, outgoing } = workspace;
        let date = device.clock.at(platform.now()).unix;
        let anchor = TrustAnchor::Known(&device.identity.home_ca);
        let mut channel = Channel::new(reader, writer, tls);
        let deadline = platform.now().after(PATIENCE);
        let mut connection = {
            let handshake = pin!(channel.authenticated(anchor, date, &mut device.random));
            match select(handshake, platform.sleep_until(deadline)).await {
                Either::First(Ok(connection)) => connection,
                Either::First(Err(error)) => return Ending::Tls(error),
                Either::Second(()) => return Ending::TimedOut(Awaited::Handshake),
            }
        };
        self.device.begin(platform.now());
        let Err(ending) = self.converse(platform, application, &mut connection, incoming, outgoing).await;
        if let Ending::BadPacket(error) = ending {
            let mut bytes = [0; 8];
            let mut out = Buffer::new(&mut bytes);
            if codec::write_disconnect(&mut out, error.reason_code()).is_ok() && connection.has_room_for(out.len()) {
                // It ends either way.
                let _ = connection.write(out.written()).await;
            }
        }
        if matches!(ending, Ending::Left(_) | Ending::BadPacket(_)) {
            let farewell = platform.now().after(FAREWELL);
            select(channel.close(), platform.sleep_until(farewell)).await;
        }
        ending
    }

    /// Talks until something ends it. One loop: the application, what is to be sent, then whatever comes first of
    /// received bytes, a deadline and the application's own wish.
    async fn converse<P: Platform, A: Application, R: Read, W: Write>(
        &mut self,
        platform: &mut P,
        application: &mut A,
        connection: &mut Connection<'_, '_, R, W>,
        incoming: &mut [u8; MAX_INCOMING_PACKET],
        outgoing: &mut [u8; MAX_OUTGOING_PACKET],
    ) -> Result<core::convert::Infallible, Ending> {
        let mut received = 0;
        let mut stalled_since = None;
        loop {
            let now = platform.now();
            self.device.tick(now)?;
            let turn = self.device.poll_application(application, now);
            if let Turn::Stop(farewell) = turn {
                self.device.leave(farewell, now)?;
            }

            while connection.has_room_for(MAX_OUTGOING_PACKET) {
                let mut out = Buffer::new(outgoing);
                if !self.device.next_packet(now, application, &mut out)? {
                    break;
                }
                let length = out.len();
                connection.write(out.written()).await.map_err(Ending::Tls)?;
                outgoing.get_mut(..length).unwrap_or_default().zeroize();
            }
            if let Some(farewell) = self.device.said_farewell() {
                return Err(Ending::Left(farewell));
            }
            stalled_since = match (connection.has_room_for(MAX_OUTGOING_PACKET), stalled_since) {
                (true, _) => None,
                (false, Some(since)) if now.since(since) >= STALLED => {
                    return Err(Ending::TimedOut(Awaited::Reading));
                }
                (false, since) => since.or(Some(now)),
            };

            let asked = match turn {
                Turn::At(at) => Some(at),
                Turn::Idle | Turn::Stop(_) => None,
            };
            let stalled = stalled_since.map(|since| since.after(STALLED));
            let until = [self.device.deadline(), asked, stalled].into_iter().flatten().min();
            let until = until.unwrap_or(now.after(STALLED)).max(now.after(SHORTEST_WAIT));
            let space = incoming.get_mut(received..).unwrap_or_default();
            match select3(connection.read(space), platform.sleep_until(until), application.wake()).await {
                Either3::First(count) => received += count.map_err(Ending::Tls)?,
                Either3::Second(()) | Either3::Third(()) => continue,
            }
            let now = platform.now();
            while let Some(length) = complete_packet(incoming, received)? {
                let bytes = incoming.get(..length).unwrap_or_default();
                let packet = codec::decode(bytes).map_err(Ending::BadPacket)?;
                if let Some(sequence) = self.device.sequence_to_store(&packet, now) {
                    self.store_sequence(platform, application, sequence);
                }
                self.device.receive(&packet, now, application)?;
                incoming.copy_within(length..received, 0);
                received -= length;
                // What was behind the rest held a token, perhaps.
                incoming.get_mut(received..received + length).unwrap_or_default().zeroize();
            }
        }
    }
}

/// The length of the packet at the front, once it is whole.
fn complete_packet(incoming: &[u8], received: usize) -> Result<Option<usize>, Ending> {
    let bytes = incoming.get(..received).unwrap_or_default();
    let length = codec::packet_length(bytes, MAX_INCOMING_PACKET).map_err(Ending::BadPacket)?;
    Ok(length.filter(|length| *length <= received))
}
