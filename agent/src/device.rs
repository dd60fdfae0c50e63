//! The device's half of the conversation, without sockets, clock or entropy: packets, instants and seeds in; packets,
//! questions to the application and endings out.

use crate::application::{Application, Event, Farewell, Outbox, Outcome, Reply, Turn};
use crate::buffer::{Buffer, BufferFull};
use crate::command::{CommandGate, CommandRefusal, MAX_COMMAND_ID};
use crate::diagnostics::Diagnostics;
use crate::enrolment::is_issuer;
use crate::identity::{Identity, MAX_ISSUER};
use crate::json::{self, JsonError, Object};
use crate::keys::Drbg;
use crate::lifecycle::{Awaited, Backoff, Ending, Lifecycle, Next as Course};
use crate::mqtt::codec::{self, Auth, ConnAck, Connect, DecodeError, Packet, Publish, Qos, SubAck};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::session::{ACKNOWLEDGEMENT_PATIENCE, ANSWERS, Class, Next, PublishId, QUEUE, RESERVED, Session, Settled};
use crate::mqtt::{MAX_INCOMING_PACKET, MAX_PAYLOAD, MAX_TOPIC, RECEIVE_MAXIMUM};
use crate::oauth::{self, Grant, MAX_TOKEN_REQUEST};
use crate::time::{Clock, Instant, UnixTime};
use crate::tls::{Refusal, TlsError};
use core::fmt::Write as _;
use core::time::Duration;
use heapless::String;
use zeroize::Zeroizing;

/// The authentication method of docs/protocol.md.
const METHOD: &str = "client_credentials";
/// How long the hub may take over CONNECT or a renewal.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest time between two `about` of one connection: a person reads it.
const ABOUT_INTERVAL: Duration = Duration::from_secs(60);
/// How long a clean farewell waits for `offline` to be acknowledged.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(3);

/// What an owner of the agent may adjust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Seconds between packets at most (MQTT keep alive). A vanished device is noticed after one and a half times this.
    pub keep_alive: u16,
    /// Seconds that the hub keeps subscriptions and undelivered commands after a connection broke.
    pub session_expiry: u32,
    /// How patient to be with a hub that refuses or is not there.
    pub backoff: Backoff,
}

impl Config {
    /// Keep alive 60 s, session expiry 1 hour, the default back-off.
    pub const DEFAULT: Self = Self { keep_alive: 60, session_expiry: 3_600, backoff: Backoff::DEFAULT };
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where a connection stands.
#[derive(Debug)]
enum Phase {
    Offline,
    /// CONNECT is to be sent, or an answer to it is awaited.
    Authenticating {
        step: Step,
        deadline: Instant,
    },
    Online(Online),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    SendConnect,
    AwaitAnswer,
    /// The hub asked for the token request by itself, now that it told us the date.
    SendAuth,
}

#[derive(Debug)]
struct Online {
    since: Instant,
    renewal: Renewal,
    subscribe: Subscribe,
    announce_status: bool,
    about_told: Option<Instant>,
    leaving: Option<Leaving>,
}

#[derive(Debug, Clone, Copy)]
enum Renewal {
    Due(Instant),
    Awaited { deadline: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subscribe {
    ToSend,
    Awaited {
        packet_id: u16,
        deadline: Instant,
    },
    /// Not all of it was granted: asked again with the next token, whose rights may be others.
    Refused,
    Done,
}

#[derive(Debug, Clone, Copy)]
enum Leaving {
    /// `offline` is to be queued, unless it is; then DISCONNECT.
    Clean {
        offline: Option<PublishId>,
        deadline: Instant,
    },
    WithWill,
    Said(Farewell),
}

/// One device: its identity, its session, its clock, its place in a connection.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) random: Drbg,
    pub(crate) gate: CommandGate,
    audience: String<MAX_ISSUER>,
    session: Session,
    lifecycle: Lifecycle,
    pub(crate) diagnostics: Diagnostics,
    phase: Phase,
    /// The first connection after a restart drops what the hub queued for the former life.
    clean_start: bool,
    executing: Option<String<MAX_COMMAND_ID>>,
    finished: Option<Outcome>,
}

// What is not to be inlined keeps its temporaries off the stack on which the shell makes a TLS handshake.
impl Device {
    pub(crate) fn new(identity: Identity, config: Config, clock: Clock) -> Self {
        let audience = identity.issuer.clone();
        Self {
            identity,
            config,
            clock,
            random: Drbg::from_seed(&[0; 32], "replaced before use"),
            gate: CommandGate::unread(),
            audience,
            session: Session::new(),
            lifecycle: Lifecycle::new(),
            diagnostics: Diagnostics::new(),
            phase: Phase::Offline,
            clean_start: true,
            executing: None,
            finished: None,
        }
    }

    /// A connection to the hub is open and authenticated: CONNECT comes next.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.phase = Phase::Authenticating { step: Step::SendConnect, deadline: now.after(PATIENCE) };
    }

    /// There is no connection, whatever there was.
    pub(crate) fn go_offline(&mut self) {
        self.phase = Phase::Offline;
        self.session.disconnected();
    }

    /// The connection is over: decides what follows.
    #[inline(never)]
    pub(crate) fn ended(&mut self, ending: &Ending, now: Instant) -> Course {
        let lasted = match &self.phase {
            Phase::Online(online) => Some(now.since(online.since)),
            Phase::Offline | Phase::Authenticating { .. } => None,
        };
        self.go_offline();
        self.diagnostics.ended(ending);
        if let Ending::Refused { reason_code: ReasonCode::NOT_AUTHORIZED, .. }
        | Ending::Disconnected { reason_code: ReasonCode::NOT_AUTHORIZED, .. }
        | Ending::Tls(TlsError::Refused(Refusal::OutsideValidity)) = ending
        {
            // Perhaps our date or the issuer's name is wrong: have the hub say both before the next assertion. The date was
            // the hub's own, who may have been wrong when it told it: its certificate must not lock us out for ever then.
            self.clock.forget();
        }
        self.lifecycle.after(ending, lasted, &self.config.backoff, &mut self.random)
    }

    /// Asks the application what it wants, and carries out what it finished.
    pub(crate) fn poll_application<A: Application>(&mut self, application: &mut A, now: Instant) -> Turn {
        let moment = self.clock.at(now);
        let turn = application.poll(moment, &mut self.outbox());
        self.settle_finished_command(application);
        turn
    }

    fn outbox(&mut self) -> Outbox<'_> {
        Outbox {
            session: &mut self.session,
            client_id: &self.identity.client_id,
            online: matches!(self.phase, Phase::Online(_)),
            executing: &mut self.executing,
            finished: &mut self.finished,
        }
    }

    /// The application wants to leave. Idempotent.
    pub(crate) fn leave(&mut self, farewell: Farewell, now: Instant) -> Result<(), Ending> {
        let Phase::Online(online) = &mut self.phase else {
            return Err(Ending::Left(farewell));
        };
        if online.leaving.is_none() {
            online.leaving = Some(match farewell {
                Farewell::Clean => Leaving::Clean { offline: None, deadline: now.after(FAREWELL_PATIENCE) },
                Farewell::WithWill => Leaving::WithWill,
            });
        }
        Ok(())
    }

    /// The farewell that was sent, if it was.
    pub(crate) fn said_farewell(&self) -> Option<Farewell> {
        match &self.phase {
            Phase::Online(Online { leaving: Some(Leaving::Said(farewell)), .. }) => Some(*farewell),
            _ => None,
        }
    }

    /// When to be asked again at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Offline => None,
            Phase::Authenticating { deadline, .. } => Some(*deadline),
            Phase::Online(online) => {
                let renewal = match online.renewal {
                    Renewal::Due(at) => at,
                    Renewal::Awaited { deadline } => deadline,
                };
                let farewell = match online.leaving {
                    Some(Leaving::Clean { deadline, .. }) => Some(deadline),
                    _ => None,
                };
                let suback = match online.subscribe {
                    Subscribe::Awaited { deadline, .. } => Some(deadline),
                    Subscribe::ToSend | Subscribe::Refused | Subscribe::Done => None,
                };
                [self.session.deadline(), farewell, suback].into_iter().flatten().fold(renewal, Instant::min).into()
            }
        }
    }

    /// Ends what the hub left unanswered for too long.
    pub(crate) fn tick(&self, now: Instant) -> Result<(), Ending> {
        match &self.phase {
            Phase::Authenticating { deadline, .. } if now >= *deadline => Err(Ending::TimedOut(Awaited::ConnAck)),
            Phase::Online(Online { renewal: Renewal::Awaited { deadline }, .. }) if now >= *deadline => {
                Err(Ending::TimedOut(Awaited::Renewal))
            }
            Phase::Online(Online { subscribe: Subscribe::Awaited { deadline, .. }, .. }) if now >= *deadline => {
                Err(Ending::TimedOut(Awaited::Acknowledgement))
            }
            Phase::Online(_) if self.session.is_dead(now) => Err(Ending::TimedOut(Awaited::PingResp)),
            Phase::Online(_) if self.session.is_stuck(now) => Err(Ending::TimedOut(Awaited::Acknowledgement)),
            Phase::Offline | Phase::Authenticating { .. } | Phase::Online(_) => Ok(()),
        }
    }

    /// Writes the next packet to send. False if there is none.
    pub(crate) fn next_packet<A: Application>(
        &mut self,
        now: Instant,
        application: &mut A,
        out: &mut Buffer<'_>,
    ) -> Result<bool, Ending> {
        match &mut self.phase {
            Phase::Offline | Phase::Authenticating { step: Step::AwaitAnswer, .. } => Ok(false),
            Phase::Authenticating { step, .. } => {
                let sending = core::mem::replace(step, Step::AwaitAnswer);
                if sending == Step::SendConnect { self.write_connect(now, out) } else { self.write_auth(now, false, out) }?;
                Ok(true)
            }
            Phase::Online(_) => self.next_packet_online(now, application, out),
        }
    }

    #[inline(never)]
    fn write_connect(&mut self, now: Instant, out: &mut Buffer<'_>) -> Result<(), Ending> {
        let mut request = Zeroizing::new([0; MAX_TOKEN_REQUEST]);
        let mut form = Buffer::new(&mut *request);
        if let Some(date) = self.clock.at(now).unix {
            oauth::write_token_request(&mut form, &self.identity, &self.audience, date, &mut self.random)
                .map_err(Ending::Assertion)?;
        }
        let status = topic(&self.identity, "status");
        let connect = Connect {
            client_identifier: &self.identity.client_id,
            clean_start: self.clean_start,
            keep_alive: self.config.keep_alive,
            session_expiry: self.config.session_expiry,
            receive_maximum: RECEIVE_MAXIMUM,
            maximum_packet_size: MAX_INCOMING_PACKET as u32,
            authentication: Some((METHOD, form.written())),
            will: Some((&status, b"offline")),
            user_name_and_password: None,
        };
        connect.write(out).map_err(too_large)
    }

    #[inline(never)]
    fn write_auth(&mut self, now: Instant, is_renewal: bool, out: &mut Buffer<'_>) -> Result<(), Ending> {
        // A date is always known here: the challenge or the CONNACK told it.
        let date = self.clock.at(now).unix.ok_or(Ending::BadAuthentication)?;
        let mut request = Zeroizing::new([0; MAX_TOKEN_REQUEST]);
        let mut form = Buffer::new(&mut *request);
        oauth::write_token_request(&mut form, &self.identity, &self.audience, date, &mut self.random)
            .map_err(Ending::Assertion)?;
        let reason = if is_renewal { ReasonCode::REAUTHENTICATE } else { ReasonCode::CONTINUE_AUTHENTICATION };
        codec::write_auth(out, reason, METHOD, form.written()).map_err(too_large)
    }

    #[inline(never)]
    fn next_packet_online<A: Application>(
        &mut self,
        now: Instant,
        application: &mut A,
        out: &mut Buffer<'_>,
    ) -> Result<bool, Ending> {
        self.announce(now, application);
        if self.write_farewell(now, out)? {
            return Ok(true);
        }
        let Phase::Online(online) = &mut self.phase else {
            return Ok(false);
        };
        if online.subscribe == Subscribe::ToSend && self.session.may_hear_more() {
            let packet_id = self.session.new_packet_id();
            let filters = [topic(&self.identity, "cmd/+"), topic(&self.identity, "twin/desired")];
            codec::write_subscribe(out, packet_id, &[&filters[0], &filters[1]]).map_err(too_large)?;
            online.subscribe = Subscribe::Awaited { packet_id, deadline: now.after(ACKNOWLEDGEMENT_PATIENCE) };
            self.session.sent(now);
            return Ok(true);
        }
        if matches!(online.renewal, Renewal::Due(at) if now >= at) {
            online.renewal = Renewal::Awaited { deadline: now.after(PATIENCE) };
            self.write_auth(now, true, out)?;
            self.session.sent(now);
            return Ok(true);
        }
        loop {
            match self.session.next_packet(now, out).map_err(too_large)? {
                Next::Nothing => return Ok(false),
                Next::Written => return Ok(true),
                Next::Dropped(settled) => tell_settled(application, &settled, ""),
            }
        }
    }

    /// Queues what each connection begins with, as soon as there is room, and news of `about` when the device is awake anyway.
    #[inline(never)]
    fn announce<A: Application>(&mut self, now: Instant, application: &mut A) {
        let Phase::Online(online) = &mut self.phase else {
            return;
        };
        if online.announce_status {
            let status = topic(&self.identity, "status");
            // One that no former connection acknowledged is sent again: connections that break must not fill the queue.
            online.announce_status = match self.session.waiting(&status) {
                Some(said) => said != b"online",
                None => self.session.enqueue(&status, b"online", Qos::AtLeastOnce, true, Class::Agent).is_err(),
            };
        }
        let free = self.session.free_places();
        let place = topic(&self.identity, "about");
        // The first time is certain to arrive, after what a former connection left of it. News goes out at once, and takes no
        // place from what the application queues.
        let (is_due, qos) = match online.about_told {
            None => (free > RESERVED && self.session.waiting(&place).is_none(), Qos::AtLeastOnce),
            Some(told) => {
                let may_tell = free == QUEUE && now.since(told) >= ABOUT_INTERVAL;
                (self.diagnostics.has_news() && may_tell, Qos::AtMostOnce)
            }
        };
        if is_due {
            online.about_told = Some(now);
            let mut about = [0; MAX_PAYLOAD];
            let mut about = Buffer::new(&mut about);
            if application.about(&mut about).is_ok() && !about.is_empty() {
                self.diagnostics.add_to(&mut about);
                // There is room, and the topic and length are legal.
                let _ = self.session.enqueue(&place, about.written(), qos, true, Class::Agent);
            }
            self.diagnostics.told();
        }
    }

    fn write_farewell(&mut self, now: Instant, out: &mut Buffer<'_>) -> Result<bool, Ending> {
        let Phase::Online(online) = &mut self.phase else {
            return Ok(false);
        };
        let (reason, farewell) = match online.leaving {
            None | Some(Leaving::Said(_)) => return Ok(false),
            Some(Leaving::WithWill) => (ReasonCode::DISCONNECT_WITH_WILL, Farewell::WithWill),
            Some(Leaving::Clean { offline: None, deadline }) if now < deadline => {
                let status = topic(&self.identity, "status");
                if let Ok(id) = self.session.enqueue(&status, b"offline", Qos::AtLeastOnce, true, Class::Agent) {
                    online.leaving = Some(Leaving::Clean { offline: Some(id), deadline });
                }
                return Ok(false);
            }
            Some(Leaving::Clean { offline: Some(id), deadline }) if now < deadline && !self.session.is_settled(id) => {
                return Ok(false);
            }
            // Acknowledged; or nobody acknowledges, and the will must speak for us.
            Some(Leaving::Clean { deadline, .. }) if now < deadline => (ReasonCode::SUCCESS, Farewell::Clean),
            Some(Leaving::Clean { .. }) => (ReasonCode::DISCONNECT_WITH_WILL, Farewell::Clean),
        };
        codec::write_disconnect(out, reason).map_err(too_large)?;
        online.leaving = Some(Leaving::Said(farewell));
        Ok(true)
    }

    /// Takes one packet of the hub.
    #[inline(never)]
    pub(crate) fn receive<A: Application>(
        &mut self,
        packet: &Packet<'_>,
        now: Instant,
        application: &mut A,
    ) -> Result<(), Ending> {
        self.session.received(now);
        let is_online = matches!(self.phase, Phase::Online(_));
        match packet {
            Packet::ConnAck(connack) if !is_online => self.receive_connack(connack, now, application),
            Packet::Auth(auth) if is_online => self.receive_renewal(auth, now, application),
            Packet::Auth(auth) => self.receive_challenge(auth, now, application),
            Packet::Disconnect(said) => Err(Ending::disconnected(said.reason_code, said.reason_string)),
            Packet::Publish(publish) if is_online => self.receive_publish(publish, now, application),
            Packet::PubAck(puback) if is_online => {
                if let Some(settled) = self.session.receive_puback(puback) {
                    if settled.reason_code.is_failure() {
                        self.diagnostics.publish_refused(settled.reason_code);
                    }
                    tell_settled(application, &settled, puback.reason_string);
                }
                Ok(())
            }
            Packet::SubAck(suback) if is_online => self.receive_suback(suback, application),
            Packet::PingResp if is_online => Ok(()),
            Packet::ConnAck(_) | Packet::Publish(_) | Packet::PubAck(_) | Packet::SubAck(_) | Packet::PingResp => {
                Err(Ending::BadPacket(DecodeError::Protocol("packet out of order")))
            }
        }
    }

    /// What storage must hold before [`receive`](Self::receive) takes this packet: the command that it brings, if any, is refused
    /// unless the gate is told that it does.
    pub(crate) fn sequence_to_store(&self, packet: &Packet<'_>, now: Instant) -> Option<u64> {
        let Packet::Publish(publish) = packet else { return None };
        let name = self.below_own(publish.topic)?.strip_prefix("cmd/")?;
        if self.hindrance() == Some(CommandRefusal::NoRoom) {
            return None;
        }
        self.gate.sequence_to_store(name, publish, now)
    }

    /// What follows `dev/<client_id>/`.
    fn below_own<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix("dev/")?.strip_prefix(self.identity.client_id.as_str())?.strip_prefix('/')
    }

    fn learn<A: Application>(&mut self, date: Option<UnixTime>, now: Instant, application: &mut A) {
        if let Some(date) = date {
            self.clock.learn(now, date);
            application.event(Event::ClockSet(date));
        }
    }

    fn receive_connack<A: Application>(
        &mut self,
        connack: &ConnAck<'_>,
        now: Instant,
        application: &mut A,
    ) -> Result<(), Ending> {
        if connack.reason_code != ReasonCode::SUCCESS {
            return Err(Ending::refused(connack.reason_code, connack.reason_string));
        }
        if self.clean_start && connack.session_present {
            return Err(Ending::BadPacket(DecodeError::Protocol("session present after a clean start")));
        }
        if connack.authentication_method != METHOD {
            return Err(Ending::BadAuthentication);
        }
        let grant = Grant::from_token_response(connack.authentication_data).map_err(|_| Ending::BadAuthentication)?;
        self.learn(connack.date, now, application);
        self.diagnostics.connected();
        self.session.connected(connack, self.config.keep_alive, now);
        self.clean_start = false;
        self.phase = Phase::Online(Online {
            since: now,
            renewal: Renewal::Due(grant.renew_at(now, &mut self.random)),
            subscribe: Subscribe::ToSend,
            announce_status: true,
            about_told: None,
            leaving: None,
        });
        let session_present = connack.session_present;
        application.event(Event::Connected { session_present, expires_in: grant.lifetime, scope: &grant.scope });
        Ok(())
    }

    /// The hub says issuer and date, and waits for the token request (docs/protocol.md, step 2).
    fn receive_challenge<A: Application>(&mut self, auth: &Auth<'_>, now: Instant, application: &mut A) -> Result<(), Ending> {
        let Phase::Authenticating { step, .. } = &mut self.phase else {
            return Err(Ending::BadAuthentication);
        };
        if *step != Step::AwaitAnswer || auth.reason_code != ReasonCode::CONTINUE_AUTHENTICATION || auth.method != METHOD {
            return Err(Ending::BadAuthentication);
        }
        let challenge = Object::parse(auth.data).map_err(|JsonError| Ending::BadAuthentication)?;
        let date = challenge.number("date").ok_or(Ending::BadAuthentication)?;
        if let Some(issuer) = challenge.get("issuer") {
            let issuer = issuer.as_str().filter(|issuer| is_issuer(issuer)).and_then(|issuer| String::try_from(issuer).ok());
            self.audience = issuer.ok_or(Ending::BadAuthentication)?;
        }
        *step = Step::SendAuth;
        self.learn(Some(UnixTime::from_secs(date)), now, application);
        Ok(())
    }

    fn receive_renewal<A: Application>(&mut self, auth: &Auth<'_>, now: Instant, application: &mut A) -> Result<(), Ending> {
        let Phase::Online(online) = &mut self.phase else {
            return Err(Ending::BadAuthentication);
        };
        let Renewal::Awaited { deadline } = online.renewal else {
            return Err(Ending::BadAuthentication);
        };
        if auth.reason_code != ReasonCode::SUCCESS || auth.method != METHOD {
            return Err(Ending::BadAuthentication);
        }
        let grant = Grant::from_token_response(auth.data).map_err(|_| Ending::BadAuthentication)?;
        online.renewal = Renewal::Due(grant.renew_at(now, &mut self.random));
        if online.subscribe == Subscribe::Refused {
            online.subscribe = Subscribe::ToSend;
        }
        self.learn(auth.date, now, application);
        let took = PATIENCE.saturating_sub(deadline.since(now));
        application.event(Event::Renewed { expires_in: grant.lifetime, scope: &grant.scope, took });
        Ok(())
    }

    fn receive_suback<A: Application>(&mut self, suback: &SubAck<'_>, application: &mut A) -> Result<(), Ending> {
        let Phase::Online(online) = &mut self.phase else {
            return Ok(());
        };
        let is_awaited = matches!(online.subscribe, Subscribe::Awaited { packet_id, .. } if packet_id == suback.packet_id);
        if !is_awaited || suback.reason_codes.len() != 2 {
            return Err(Ending::BadPacket(DecodeError::Protocol("SUBACK that answers no SUBSCRIBE")));
        }
        let refused = suback.reason_codes.iter().map(|code| ReasonCode(*code)).find(|code| code.is_failure());
        online.subscribe = if refused.is_some() { Subscribe::Refused } else { Subscribe::Done };
        self.diagnostics.subscribed(refused);
        for (&code, filter) in suback.reason_codes.iter().zip(["cmd/+", "twin/desired"]) {
            if ReasonCode(code).is_failure() {
                let filter = topic(&self.identity, filter);
                application.event(Event::SubscriptionRefused { filter: &filter, reason_code: ReasonCode(code) });
            }
        }
        Ok(())
    }

    fn receive_publish<A: Application>(
        &mut self,
        publish: &Publish<'_>,
        now: Instant,
        application: &mut A,
    ) -> Result<(), Ending> {
        let reason = match self.below_own(publish.topic).map(|below| (below.strip_prefix("cmd/"), below)) {
            Some((Some(name), _)) => self.receive_command(name, publish, now, application),
            Some((None, "twin/desired")) => {
                if let Ok(desired) = Object::parse(publish.payload) {
                    application.twin_desired(desired, &mut self.outbox());
                    self.settle_finished_command(application);
                    ReasonCode::SUCCESS
                } else {
                    ReasonCode::PAYLOAD_FORMAT_INVALID
                }
            }
            // We subscribed to nothing else.
            Some((None, _)) | None => ReasonCode::TOPIC_NAME_INVALID,
        };
        match publish.packet_id {
            Some(packet_id) => self
                .session
                .acknowledge(packet_id, reason)
                .map_err(|_| Ending::BadPacket(DecodeError::Protocol("more publishes than our Receive Maximum"))),
            None => Ok(()),
        }
    }

    /// Judges and begins a command. The reason code is that of the PUBACK.
    fn receive_command<A: Application>(
        &mut self,
        name: &str,
        publish: &Publish<'_>,
        now: Instant,
        application: &mut A,
    ) -> ReasonCode {
        let command = match self.gate.admit(name, publish, now, self.hindrance()) {
            Ok(command) => command,
            Err(refused) => {
                application.event(Event::CommandRefused { id: refused.id, refusal: refused.refusal });
                return match (refused.id, refused.refusal) {
                    (None, _) => ReasonCode::PAYLOAD_FORMAT_INVALID,
                    // The first delivery was answered, or will be.
                    (Some(_), CommandRefusal::Repeated) => ReasonCode::SUCCESS,
                    (Some(_), CommandRefusal::NoRoom) => ReasonCode::QUOTA_EXCEEDED,
                    (Some(id), refusal) => {
                        self.answer(id, "rejected", refusal.reason());
                        ReasonCode::SUCCESS
                    }
                };
            }
        };
        self.answer(command.id(), "accepted", "");
        self.answer(command.id(), "executing", "");
        application.event(Event::Command(command));
        // The gate checked that the id fits.
        self.executing = String::try_from(command.id()).ok();
        match application.command(&command, self.clock.at(now)) {
            Reply::Done(outcome) => self.finished = Some(outcome),
            Reply::Begun => {}
        }
        self.settle_finished_command(application);
        ReasonCode::SUCCESS
    }

    /// Why no command can be carried out now.
    fn hindrance(&self) -> Option<CommandRefusal> {
        // Without room for every answer the hub would be left in doubt.
        let has_room = self.session.free_places() >= ANSWERS;
        if has_room { self.executing.as_ref().map(|_| CommandRefusal::Busy) } else { Some(CommandRefusal::NoRoom) }
    }

    fn settle_finished_command<A: Application>(&mut self, application: &mut A) {
        if self.finished.is_none() || self.session.free_places() == 0 {
            return;
        }
        if let (Some(id), Some(outcome)) = (self.executing.take(), self.finished.take()) {
            match &outcome {
                Outcome::Succeeded => self.answer(&id, "succeeded", ""),
                Outcome::Failed(reason) => self.answer(&id, "failed", reason),
                Outcome::Rejected(reason) => self.answer(&id, "rejected", reason),
            }
            application.event(Event::CommandFinished { id: &id, outcome: &outcome });
        }
    }

    fn answer(&mut self, id: &str, state: &str, reason: &str) {
        let mut place = topic(&self.identity, "ack/");
        let mut payload = [0; MAX_PAYLOAD];
        let mut payload = Buffer::new(&mut payload);
        if place.push_str(id).is_err() || write_answer(&mut payload, state, reason).is_err() {
            return; // Ids and reasons are bounded so that both fit.
        }
        // Places are counted before a command is taken.
        let _ = self.session.enqueue(&place, payload.written(), Qos::AtLeastOnce, false, Class::Agent);
    }
}

fn write_answer(out: &mut Buffer<'_>, state: &str, reason: &str) -> Result<(), BufferFull> {
    write!(out, r#"{{"state":"{state}""#)?;
    if !reason.is_empty() {
        out.push(br#","reason":"#)?;
        json::write_string(out, reason)?;
    }
    out.push(b"}")
}

/// `dev/<client_id>/<rest>`. Fits by the bounds of client_id and of what the agent appends.
fn topic(identity: &Identity, rest: &str) -> String<MAX_TOPIC> {
    let mut topic = String::new();
    let _ = write!(topic, "dev/{}/{rest}", identity.client_id);
    topic
}

fn too_large(BufferFull: BufferFull) -> Ending {
    Ending::Assertion(oauth::AssertionError::BufferFull)
}

fn tell_settled<A: Application>(application: &mut A, settled: &Settled, reason: &str) {
    let Settled { id, topic, reason_code } = settled;
    if reason_code.is_failure() {
        application.event(Event::Refused { id: *id, topic, reason_code: *reason_code, reason });
    } else {
        application.event(Event::Acknowledged { id: *id, topic });
    }
}
