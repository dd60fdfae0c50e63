//! The device without its shell, for simulations that bring a network and a clock of their own: the very state machine that
//! [`Agent`](crate::Agent) runs, with packets in and packets out. TLS and enrolment are the shell's and are not here.
//!
//! Only with the feature `sans-io`. Firmware has no use for it: whoever drives this can leave the hub's authentication out.

pub mod readers;

use crate::application::{Application, Farewell, Turn};
use crate::buffer::Buffer;
use crate::command::CommandGate;
use crate::device::{Config, Device};
use crate::identity::{DeviceKey, HubAddress, Identity};
use crate::keys::{Drbg, PublicKey, SecretKey};
use crate::lifecycle::{Ending, Next};
use crate::mqtt::codec;
use crate::time::{Clock, Instant, UnixTime};
use crate::tls::HomeCa;
use crate::workspace::Workspace;
use core::time::Duration;
use heapless::{String, Vec};

/// What follows when a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Connect again after this time.
    Connect(Duration),
    /// The hub revoked the device: it stops.
    Revoked,
    /// The application left.
    Left,
}

/// A device's state machine.
#[derive(Debug)]
pub struct SansIo(Device);

impl Identity {
    /// An identity as enrolment leaves it behind, with a key drawn from `seed`. Its home CA vouches for nobody.
    #[must_use]
    pub fn simulated(seed: &[u8; 32], client_id: &str, issuer: &str) -> Option<Self> {
        let (secret, public) = SecretKey::generate(&mut Drbg::from_seed(seed, "simulated identity"));
        Some(Self {
            key: DeviceKey { secret, public },
            client_id: String::try_from(client_id).ok()?,
            issuer: String::try_from(issuer).ok()?,
            hub: HubAddress { host: String::new(), https_port: 0, mqtt_port: 0 },
            home_ca: HomeCa {
                public_key: PublicKey::from_coordinates([0; 64]),
                subject: Vec::new(),
                not_before: UnixTime::from_secs(0),
                not_after: UnixTime::from_secs(0),
            },
        })
    }
}

impl Workspace {
    /// Whether no packet or request is left in it.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.incoming.iter().chain(&self.outgoing).all(|byte| *byte == 0)
    }
}

impl SansIo {
    /// A device that has just started. `sequence` is the stored command sequence, if there is one.
    #[must_use]
    pub fn new(identity: Identity, config: Config, sequence: Option<u64>) -> Self {
        let mut device = Device::new(identity, config, Clock::unset());
        device.gate = CommandGate::new(sequence.unwrap_or(0));
        Self(device)
    }

    /// The same device after its power was cut: all is forgotten that was not stored.
    #[must_use]
    pub fn restarted(self, sequence: Option<u64>) -> Self {
        let Device { identity, config, .. } = self.0;
        Self::new(identity, config, sequence)
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Fresh randomness; the shell gives some before each connection.
    pub fn reseed(&mut self, seed: &[u8; 32]) {
        self.0.random = Drbg::from_seed(seed, "hearthkey connection");
    }

    /// A connection is open.
    pub fn begin(&mut self, now: Instant) {
        self.0.begin(now);
    }

    /// The connection is over.
    pub fn ended(&mut self, ending: &Ending, now: Instant) -> After {
        match self.0.ended(ending, now) {
            Next::ConnectAfter(delay) => After::Connect(delay),
            Next::StopRevoked => After::Revoked,
            Next::StopLeft => After::Left,
        }
    }

    /// Asks the application what it wants.
    pub fn poll_application<A: Application>(&mut self, application: &mut A, now: Instant) -> Turn {
        self.0.poll_application(application, now)
    }

    /// The application wants to leave.
    ///
    /// # Errors
    /// [`Ending::Left`] at once while there is no session.
    pub fn leave(&mut self, farewell: Farewell, now: Instant) -> Result<(), Ending> {
        self.0.leave(farewell, now)
    }

    /// When to be asked again at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    /// Ends what the hub left unanswered for too long.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn tick(&self, now: Instant) -> Result<(), Ending> {
        self.0.tick(now)
    }

    /// Writes the next packet to send; false if there is none.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn next_packet<A: Application>(
        &mut self,
        now: Instant,
        application: &mut A,
        out: &mut Buffer<'_>,
    ) -> Result<bool, Ending> {
        self.0.next_packet(now, application, out)
    }

    /// Takes one whole packet of the hub. If it is a command, its sequence goes to `store` first, which says whether it is in
    /// storage now.
    ///
    /// # Errors
    /// How the connection ends.
    pub fn receive<A: Application>(
        &mut self,
        packet: &[u8],
        now: Instant,
        application: &mut A,
        store: impl FnOnce(u64) -> bool,
    ) -> Result<(), Ending> {
        let packet = codec::decode(packet).map_err(Ending::BadPacket)?;
        if let Some(sequence) = self.0.sequence_to_store(&packet, now).filter(|sequence| store(*sequence)) {
            self.0.gate.stored(sequence);
        }
        self.0.receive(&packet, now, application)
    }
}
