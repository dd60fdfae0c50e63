//! What the owner of the agent writes: the device's own behaviour. The agent asks, the application answers;
//! it never sees packets, keys or tokens.

use crate::buffer::{Buffer, BufferFull};
use crate::command::{Command, CommandRefusal};
use crate::enrolment::cut;
use crate::json::Object;
use crate::lifecycle::Ending;
use crate::mqtt::codec::Qos;
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::session::{Class, NotQueued, PublishId, Session};
use crate::mqtt::{MAX_PAYLOAD, MAX_TOPIC};
use crate::time::{Instant, Now, UnixTime};
use core::fmt::Write as _;
use core::time::Duration;
use heapless::String;

/// The longest reason that a command's outcome carries; longer ones are cut.
pub const MAX_REASON: usize = 96;

/// The behaviour of one device.
#[allow(async_fn_in_trait)] // The agent runs on one thread; no caller needs `Send`.
pub trait Application {
    /// Writes the `about` of the device, a JSON object of at most [`MAX_PAYLOAD`] bytes: model, firmware, capabilities.
    /// Published retained at each connection, with a member `agent` for the owner's eye as far as it fits (docs/protocol.md):
    /// `{"state":"online","connections":2,"failures":1,"last_error":"disconnected 0x8B"}`, counted since the start. Asked again,
    /// once a minute at most, when that changed within a connection.
    ///
    /// # Errors
    /// [`BufferFull`] if it does not fit; nothing is published then.
    fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull>;

    /// Does what is due at `now` (measure, publish) and says when to be asked next.
    /// Asked often: at the time it named, after each packet and after [`wake`](Self::wake); do nothing if nothing is due.
    /// Also asked while there is no connection: QoS 1 is queued then, as far as there is room.
    fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn;

    /// Carries out a command that passed every check, or begins to.
    fn command(&mut self, command: &Command<'_>, now: Now) -> Reply;

    /// The owner's desired state, `{"v":7,…}`; comes at each connection and each change. Answer by
    /// [`Outbox::twin_reported`] with the same `v`.
    fn twin_desired(&mut self, desired: Object<'_>, outbox: &mut Outbox<'_>) {
        let _ = (desired, outbox);
    }

    /// Something happened that an owner or a developer may want to see.
    fn event(&mut self, event: Event<'_>) {
        let _ = event;
    }

    /// Resolves when [`poll`](Self::poll) should be called before the time it named. Dropped and called anew at every turn,
    /// so it must lose nothing when dropped.
    async fn wake(&mut self) {
        core::future::pending().await
    }
}

/// What [`Application::poll`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Ask again at this instant, or soon after.
    At(Instant),
    /// Ask again when something happens.
    Idle,
    /// Leave the hub and end [`Agent::run`](crate::Agent::run).
    Stop(Farewell),
}

/// How to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Publish `offline`, then DISCONNECT 0x00: the will is not published.
    Clean,
    /// DISCONNECT 0x04: the hub publishes the will, which says `offline`.
    WithWill,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Succeeded,
    /// Tried in vain, and why.
    Failed(String<MAX_REASON>),
    /// Not tried, and why: an unknown name, arguments that make no sense.
    Rejected(String<MAX_REASON>),
}

impl core::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Succeeded => formatter.write_str("succeeded"),
            Self::Failed(reason) => write!(formatter, "failed: {reason}"),
            Self::Rejected(reason) => write!(formatter, "rejected: {reason}"),
        }
    }
}

impl Outcome {
    /// [`Failed`](Self::Failed) with `reason`, cut to [`MAX_REASON`] bytes.
    #[must_use]
    pub fn failed(reason: &str) -> Self {
        Self::Failed(cut(reason))
    }

    /// [`Rejected`](Self::Rejected) with `reason`, cut to [`MAX_REASON`] bytes.
    #[must_use]
    pub fn rejected(reason: &str) -> Self {
        Self::Rejected(cut(reason))
    }
}

/// The answer of [`Application::command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is over.
    Done(Outcome),
    /// It takes a while. Until [`Outbox::finish_command`], other commands are rejected as busy.
    Begun,
}

/// Where the application puts what it wants to publish. All publishes of one device share [`QUEUE`] places.
///
/// [`QUEUE`]: crate::mqtt::session::QUEUE
#[derive(Debug)]
pub struct Outbox<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) client_id: &'a str,
    pub(crate) online: bool,
    pub(crate) executing: &'a mut Option<String<{ crate::command::MAX_COMMAND_ID }>>,
    pub(crate) finished: &'a mut Option<Outcome>,
}

impl Outbox<'_> {
    /// Whether the hub is connected and has accepted the device.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// The device's name at the hub.
    #[must_use]
    pub fn client_id(&self) -> &str {
        self.client_id
    }

    /// Publishes to `dev/<id>/tele/<channel>`.
    ///
    /// # Errors
    /// [`NotQueued`]; nothing was sent.
    pub fn telemetry(&mut self, channel: &str, payload: &[u8], qos: Qos) -> Result<PublishId, NotQueued> {
        self.publish_below(format_args!("tele/{channel}"), payload, qos, false)
    }

    /// Publishes to `dev/<id>/event/<kind>`, QoS 1.
    ///
    /// # Errors
    /// [`NotQueued`]; nothing was sent.
    pub fn event(&mut self, kind: &str, payload: &[u8]) -> Result<PublishId, NotQueued> {
        self.publish_below(format_args!("event/{kind}"), payload, Qos::AtLeastOnce, false)
    }

    /// Publishes the latest values to `dev/<id>/state`, retained, QoS 1.
    ///
    /// # Errors
    /// [`NotQueued`]; nothing was sent.
    pub fn state(&mut self, payload: &[u8]) -> Result<PublishId, NotQueued> {
        self.publish_below(format_args!("state"), payload, Qos::AtLeastOnce, true)
    }

    /// Publishes to `dev/<id>/twin/reported`, QoS 1.
    ///
    /// # Errors
    /// [`NotQueued`]; nothing was sent.
    pub fn twin_reported(&mut self, payload: &[u8]) -> Result<PublishId, NotQueued> {
        self.publish_below(format_args!("twin/reported"), payload, Qos::AtLeastOnce, false)
    }

    /// Publishes to any topic; the hub decides whether the device may.
    ///
    /// # Errors
    /// [`NotQueued`]; nothing was sent.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: Qos, retain: bool) -> Result<PublishId, NotQueued> {
        self.session.enqueue(topic, payload, qos, retain, Class::Application)
    }

    /// Says what became of the command that [`Application::command`] only began.
    /// Returns false if none was begun, or it is finished already.
    pub fn finish_command(&mut self, outcome: Outcome) -> bool {
        if self.executing.is_none() || self.finished.is_some() {
            return false;
        }
        *self.finished = Some(outcome);
        true
    }

    fn publish_below(
        &mut self,
        rest: core::fmt::Arguments<'_>,
        payload: &[u8],
        qos: Qos,
        retain: bool,
    ) -> Result<PublishId, NotQueued> {
        let mut topic = String::<MAX_TOPIC>::new();
        write!(topic, "dev/{}/{rest}", self.client_id).map_err(|_| NotQueued::Topic)?;
        self.session.enqueue(&topic, payload, qos, retain, Class::Application)
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// The agent calls the hub.
    Connecting {
        /// DNS name or IP literal.
        host: &'a str,
        /// Port of MQTT over TLS.
        port: u16,
    },
    /// The hub accepted the device.
    Connected {
        /// Whether the hub still held the session.
        session_present: bool,
        /// How long the access token lives.
        expires_in: Duration,
        /// The permission names granted.
        scope: &'a str,
    },
    /// The access token was renewed; the session goes on.
    Renewed {
        /// How long the new access token lives.
        expires_in: Duration,
        /// The permission names granted.
        scope: &'a str,
        /// From the request to the answer.
        took: Duration,
    },
    /// The hub told the date.
    ClockSet(UnixTime),
    /// The hub acknowledged a publish: it is durable there.
    Acknowledged {
        /// Which publish.
        id: PublishId,
        /// Where to.
        topic: &'a str,
    },
    /// The hub refused a publish, and will refuse it again.
    Refused {
        /// Which publish.
        id: PublishId,
        /// Where to.
        topic: &'a str,
        /// Why: 0x87 when the device may not.
        reason_code: ReasonCode,
        /// Why, in words; empty if not said.
        reason: &'a str,
    },
    /// The hub refused a subscription.
    SubscriptionRefused {
        /// The topic filter.
        filter: &'a str,
        /// Why.
        reason_code: ReasonCode,
    },
    /// A command arrived and is carried out.
    Command(Command<'a>),
    /// A command is over.
    CommandFinished {
        /// Which.
        id: &'a str,
        /// What became of it.
        outcome: &'a Outcome,
    },
    /// A command was refused before the application saw it.
    CommandRefused {
        /// Which, if its body could be read.
        id: Option<&'a str>,
        /// Why.
        refusal: CommandRefusal,
    },
    /// The connection ended, or none came about. What follows is in `next`.
    Disconnected {
        /// Why.
        ending: &'a Ending,
        /// When the agent tries again; `None` if it does not.
        retry_in: Option<Duration>,
    },
    /// Storage failed; the agent goes on with what it has in memory.
    StorageFailed,
}

const _: () = assert!(MAX_PAYLOAD <= crate::mqtt::MAX_OUTGOING_PACKET - MAX_TOPIC - 16, "a publish fits a packet");
