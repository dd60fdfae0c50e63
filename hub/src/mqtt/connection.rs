//! One connection after CONNACK: a single loop in which reading, writing, deliveries, the deadline and the word of the hub are
//! branches, so that none waits for another. Knows nothing of tokens and rows.

use super::{
    challenge::{Challenge, Method},
    fabric::{Fabric, Link},
    front::{Attachment, Front, Inner, Use},
    gate::{Admission, Ending, Gate, Happening, Refusal, SessionEvent},
    half_open::Place,
    handshake::{self, Guest, NoGuest, RefusedConnect},
    limits::{
        DENIALS_PER_SECOND, Limits, MAX_TOPIC_ALIASES, OUTBOX_HIGH_WATER, OUTBOX_LIMIT, PERSIST_BACKLOG_BYTES, RATE_REFUSAL_DELAY,
    },
    message::QoS,
    packet::{
        ClientPacket, Publish, Subscribe, Version, decode,
        encode::{ConnAck, Dialect},
        reason,
    },
    persister::Ticket,
    publishing::{Answer, Wait, next_answer},
    rate::Bucket,
    rows,
    session::{Stored, SubscriptionsByNumber},
    slot::{Control, Slot, lock},
    wire::{Outbox, Wire},
};
use futures_util::future::{BoxFuture, OptionFuture};
use hearthkey_core::{
    Seconds, UnixTime,
    rights::{Denied, Rights},
    session::{EndReason, Standing},
    topic::{InvalidTopic, SubscriptionFilter, TopicName},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep},
};

/// A connection for which nothing is due looks up this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

impl<G: Gate, F: Fabric> Front<G, F> {
    /// Serves one connection that speaks MQTT, to its end: TCP, TLS after its handshake, or WebSocket.
    pub async fn serve_connection<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let place = self.0.half_open.enter(peer.ip());
        let deadline = Instant::now() + self.0.limits.connect_timeout;
        self.serve_within(stream, peer, place, deadline).await;
    }

    /// The same, where TLS has used up some of the time.
    ///
    /// A task is as large as the largest of its steps for as long as it lives, and a connection lives by waiting: what is done
    /// once, or seldom, is boxed here and below.
    pub(super) fn serve_within<S>(
        &self,
        stream: S,
        peer: SocketAddr,
        place: Place,
        deadline: Instant,
    ) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        let begun = Box::pin(begin(&*self.0, Wire::new(stream), peer, place, deadline));
        async move {
            let Some(mut connection) = begun.await else { return };
            let ending = connection.run().await;
            Box::pin(connection.finish(ending)).await;
        }
    }
}

/// From the first byte to CONNACK 0x00; nothing if it does not come to that.
async fn begin<G: Gate, F: Fabric, S: AsyncRead + AsyncWrite + Send>(
    front: &Inner<G, F>,
    mut wire: Wire<S>,
    peer: SocketAddr,
    place: Place,
    deadline: Instant,
) -> Option<Box<Connection<'_, G, F, S>>> {
    let guest = tokio::select! {
        biased;
        () = place.taken_away() => Err(NoGuest::Gone),
        guest = handshake::welcome(&*front.gate, &mut wire, peer) => guest,
        () = tokio::time::sleep_until(deadline) => Err(NoGuest::Gone),
    };
    match guest {
        Ok(guest) => admit(front, wire, guest, peer, place).await,
        Err(NoGuest::Gone) => None,
        Err(NoGuest::Refused(refused)) => {
            refuse(front, wire, *refused, peer, place).await;
            None
        }
    }
}

async fn refuse<G: Gate, F: Fabric, S: AsyncRead + AsyncWrite>(
    front: &Inner<G, F>,
    mut wire: Wire<S>,
    refused: RefusedConnect,
    peer: SocketAddr,
    place: Place,
) {
    front.counters.refuse(refused.reason_code);
    if refused.reason_code == reason::CONNECTION_RATE_EXCEEDED {
        // Its next attempt follows the answer.
        tokio::select! {
            () = tokio::time::sleep(RATE_REFUSAL_DELAY) => {}
            () = place.taken_away() => {}
        }
    }
    let connack = handshake::refusal_connack(&refused, front.gate.now());
    front.gate.record(SessionEvent {
        client_identifier: refused.client_identifier,
        principal: refused.principal,
        peer,
        what: Happening::Refused { reason_code: refused.reason_code, reason: refused.reason },
    });
    // MQTT 3.1.1 closes without an answer where it has no return code.
    if let Some(dialect) = refused.dialect.filter(|dialect| dialect.version == Version::V5 || refused.return_code != 0) {
        // Too large only if the client takes next to nothing; then it sees the close.
        let _ = wire.outbound.push(|out| dialect.connack(&connack, out));
    }
    // It counts as half-open until it is gone, so that refusals are bounded too.
    tokio::select! {
        () = wire.linger() => {}
        () = place.taken_away() => {}
    }
}

async fn admit<G: Gate, F: Fabric, S: AsyncRead + AsyncWrite + Send>(
    front: &Inner<G, F>,
    wire: Wire<S>,
    guest: Guest,
    peer: SocketAddr,
    place: Place,
) -> Option<Box<Connection<'_, G, F, S>>> {
    let (mut attachment, assigned) = match handshake::seat(front, &guest) {
        Ok(seated) => seated,
        Err(refused) => {
            refuse(front, wire, refused, peer, place).await;
            return None;
        }
    };
    drop(place);
    // Before CONNACK, so that a client's "online" comes after its predecessor's "offline".
    front.publish_wills(std::mem::take(&mut attachment.wills)).await;
    let mut connection = Box::new(Connection::new(front, wire, &guest, attachment, peer));
    // The hub may have changed its mind between its decision and the session.
    front.judge(&connection.slot);
    match connection.greet(&guest, assigned).await {
        Ok(()) => Some(connection),
        Err(ending) => {
            Box::pin(connection.finish(ending)).await;
            None
        }
    }
}

pub(super) struct Connection<'a, G: Gate, F: Fabric, S> {
    pub(super) front: &'a Inner<G, F>,
    pub(super) wire: Wire<S>,
    pub(super) dialect: Dialect,
    pub(super) peer: SocketAddr,
    pub(super) slot: Arc<Slot>,
    pub(super) number: u64,
    pub(super) control: Arc<Control>,
    session: Greeting,
    pub(super) rights: Arc<Rights>,
    expires_at: Option<UnixTime>,
    deadline: Option<Instant>,
    /// The method of CONNECT; AUTH must name the same.
    pub(super) method: Option<Method>,
    /// What AUTH 0x18 is to answer.
    pub(super) challenged: Option<Challenge>,
    pub(super) renewal: Option<BoxFuture<'a, Result<Admission, Refusal>>>,
    pub(super) link: Option<F::Link>,
    /// Those that live on the fabric: none that is shared.
    pub(super) subscriptions: SubscriptionsByNumber,
    /// Those among them that are not on the link, since the rights did not cover them when it was made.
    pub(super) unlinked: BTreeSet<u32>,
    /// Whether the rights have changed since.
    pub(super) may_link_more: bool,
    /// What is to be answered, in order, and what each answer waits for.
    pub(super) answers: VecDeque<(Option<Wait>, Answer)>,
    /// Publishes among what is to be answered: with QoS 1, and those that are refused.
    pub(super) unanswered_publishes: usize,
    /// What the client means by its topic aliases.
    pub(super) topics_by_alias: BTreeMap<u16, TopicName>,
    pub(super) usage: Arc<Mutex<Use>>,
    keep_alive: Option<Duration>,
    last_heard: Instant,
    /// Rings when something may be due, and not later.
    alarm: Pin<Box<Sleep>>,
    denials: Bucket,
    /// What the rows of its publishes and its subscriptions count since the disk was last not behind.
    pub(super) unstored_bytes: usize,
    /// Until when the client is not read, since it publishes too fast.
    pub(super) throttled_until: Option<Instant>,
    /// Whether the session takes more from the fabric.
    pub(super) takes_forwards: bool,
    /// What the head of the session's queue waits for.
    pub(super) awaited: Option<Stored>,
    /// Messages of QoS 0 that it did not take in time.
    pub(super) missed: u64,
    /// Whether CONNACK 0x00 was sent.
    is_greeted: bool,
}

/// A packet that may have to wait for the fabric.
enum Patient {
    /// Opens the link.
    FirstPublish(Publish),
    Subscribe(Subscribe),
    Unsubscribe {
        packet_identifier: u16,
        filters: Vec<Result<SubscriptionFilter, InvalidTopic>>,
    },
}

/// What CONNACK says of the session.
struct Greeting {
    present: bool,
    expiry: Seconds,
    is_kept_as_asked: bool,
    /// Whether CONNECT asked for a session that outlives its connection.
    was_asked_for: bool,
    stored: Option<Ticket>,
}

impl<'a, G: Gate, F: Fabric, S: AsyncRead + AsyncWrite + Send> Connection<'a, G, F, S> {
    fn new(front: &'a Inner<G, F>, wire: Wire<S>, guest: &Guest, attachment: Attachment, peer: SocketAddr) -> Self {
        let Attachment { slot, connection, control, session_present, session_expiry, subscriptions, stored, usage, .. } =
            attachment;
        let is_kept_as_asked = attachment.is_kept_as_asked;
        let standing = &guest.admission.standing;
        let keep_alive = keep_alive(guest, &front.limits);
        Self {
            usage,
            front,
            wire,
            dialect: guest.dialect,
            peer,
            slot,
            number: connection,
            control,
            session: Greeting {
                present: session_present,
                expiry: session_expiry,
                is_kept_as_asked,
                was_asked_for: guest.connect.session_expiry > 0,
                stored,
            },
            rights: standing.rights.clone(),
            expires_at: standing.expires_at,
            deadline: deadline(standing.expires_at, front.gate.now()),
            method: guest.method,
            challenged: None,
            renewal: None,
            link: None,
            subscriptions: SubscriptionsByNumber::from(subscriptions),
            unlinked: BTreeSet::new(),
            may_link_more: false,
            answers: VecDeque::new(),
            unanswered_publishes: 0,
            topics_by_alias: BTreeMap::new(),
            // MQTT-3.1.2-22: one and a half times the keep alive; 0 means never.
            keep_alive: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1_500)),
            last_heard: Instant::now(),
            alarm: Box::pin(tokio::time::sleep(LONGEST_SLEEP)),
            denials: Bucket::new(DENIALS_PER_SECOND, DENIALS_PER_SECOND),
            throttled_until: None,
            unstored_bytes: 0,
            takes_forwards: true,
            awaited: None,
            missed: 0,
            is_greeted: false,
        }
    }

    /// Makes the session's subscriptions anew and sends CONNACK.
    async fn greet(&mut self, guest: &Guest, assigned: Option<Box<str>>) -> Result<(), Ending> {
        // A will alone need not be waited for: nothing that its client does now is durable before it. Unless the disk is behind, so
        // that no more wills wait for it than there are connections.
        let is_awaited = self.slot.is_durable || self.front.persister.is_backlogged();
        if let Some(stored) = self.session.stored.take().filter(|_| is_awaited)
            && !stored.durable().await
        {
            return Err(fault(reason::SERVER_UNAVAILABLE, "the session could not be stored"));
        }
        if !self.subscriptions.is_empty() {
            self.relink().await?;
        }
        let asked = guest.connect.session_expiry;
        let granted = u32::try_from(self.session.expiry.0).unwrap_or(u32::MAX);
        let lost = lock(&self.slot.state).dropped;
        let connack = ConnAck {
            session_present: self.session.present,
            session_expiry: (granted != asked).then_some(granted),
            receive_maximum: Some(self.front.limits.receive_maximum),
            maximum_packet_size: u32::try_from(self.front.limits.max_packet_bytes).ok(),
            topic_alias_maximum: Some(MAX_TOPIC_ALIASES),
            server_keep_alive: Some(keep_alive(guest, &self.front.limits)).filter(|&granted| granted != guest.connect.keep_alive),
            assigned_client_identifier: assigned,
            date: Some(self.front.gate.now()),
            messages_lost: Some(lost).filter(|&lost| lost > 0),
            authentication_method: guest.connect.authentication_method.clone(),
            authentication_data: guest.admission.token_response.clone(),
            ..ConnAck::default()
        };
        let dialect = self.dialect;
        if self.wire.outbound.push(|out| dialect.connack(&connack, out)).is_err() {
            return Err(fault(reason::PACKET_TOO_LARGE, "CONNACK exceeds the client's maximum packet size"));
        }
        // Even if what came with CONNECT ends the connection at once.
        self.wire.outbound.spare();
        self.is_greeted = true;
        self.record(Happening::Connected { session_present: self.session.present });
        if lost > 0 {
            lock(&self.slot.state).dropped -= lost;
            // MQTT 3.1.1 has no word for it.
            self.record_limit(format!("its queue was full: {lost} messages were dropped since it was last told"));
        }
        if !self.session.is_kept_as_asked {
            // MQTT 3.1.1 has no word for it: the log is all there is.
            self.limited("too many kept sessions: this one ends with its connection");
        }
        if self.session.present {
            self.offer_missed_commands();
        }
        Ok(())
    }

    /// Obeys the client and the hub until one of them ends it.
    async fn run(&mut self) -> Ending {
        // What came together with CONNECT.
        let mut result = self.take_packets().await;
        loop {
            if let Err(ending) = result {
                return ending;
            }
            result = self.turn().await;
        }
    }

    async fn turn(&mut self) -> Result<(), Ending> {
        self.obey()?;
        if std::mem::take(&mut self.may_link_more) {
            Box::pin(self.link_missing()).await?;
        }
        self.deliver()?;
        let pulls = self.takes_forwards && self.wire.outbound.len() < OUTBOX_HIGH_WATER;
        if !self.front.persister.is_backlogged() {
            self.unstored_bytes = 0;
        }
        let is_held_up = self.is_held_up();
        if is_held_up {
            // The client is not silent: the hub does not listen.
            self.last_heard = Instant::now();
        }
        self.set_alarm();
        let link = self.link.as_mut().filter(|_| pulls);
        let told = self.awaited.clone().map(|stored| Box::pin(self.front.persister.told(stored)));
        let drained = self.front.persister.is_backlogged().then(|| Box::pin(self.front.persister.drained()));
        tokio::select! {
            () = self.control.announced() => Ok(()),
            () = self.slot.wake.notified() => Ok(()),
            () = self.alarm.as_mut() => self.on_timer().await,
            written = self.wire.outbound.write_some(), if self.wire.outbound.is_pending() => {
                written.map_err(|_| Ending::ConnectionLost)
            }
            Some(forward) = OptionFuture::from(link.map(Link::pull)) => match forward {
                Ok(forward) => self.take_forwards(forward),
                Err(_) => Box::pin(self.relink()).await,
            },
            (answer, durable) = next_answer(&mut self.answers), if !self.answers.is_empty() => {
                self.take_answer(answer, durable)?;
                // Packets may have waited for room among the answers.
                self.take_packets().await
            }
            Some(decision) = OptionFuture::from(self.renewal.as_mut()) => {
                self.renewal = None;
                self.renew(decision)
            }
            Some(()) = OptionFuture::from(told) => Ok(()),
            Some(()) = OptionFuture::from(drained) => Ok(()),
            filled = self.wire.inbound.fill(), if !is_held_up => match filled {
                Ok(true) => self.take_packets().await,
                Ok(false) | Err(_) => Err(Ending::ConnectionLost),
            },
        }
    }

    /// Does what the hub has decided about this session. Before each packet, so that a cut session's next publish is not obeyed.
    fn obey(&mut self) -> Result<(), Ending> {
        let Some(word) = self.control.take() else { return Ok(()) };
        if let Some(reason) = word.end {
            return Err(Ending::ByHub(reason));
        }
        if let Some(standing) = word.standing {
            self.stand_on(standing);
        }
        Ok(())
    }

    pub(super) fn stand_on(&mut self, standing: Standing) {
        self.rights = standing.rights;
        self.may_link_more = !self.unlinked.is_empty();
        if self.expires_at != standing.expires_at {
            self.expires_at = standing.expires_at;
            self.deadline = deadline(standing.expires_at, self.front.gate.now());
        }
    }

    /// Moves the alarm forward if need be. What each packet puts off is found out when the alarm rings.
    fn set_alarm(&mut self) {
        let keep_alive = self.keep_alive.map(|keep_alive| self.last_heard + keep_alive);
        let due = [self.deadline, keep_alive, self.throttled_until].into_iter().flatten().min();
        let due = due.unwrap_or_else(|| self.last_heard + LONGEST_SLEEP);
        if due < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(due);
        }
    }

    async fn on_timer(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        if let Some(at) = self.expires_at.filter(|_| self.deadline.is_some_and(|deadline| deadline <= now)) {
            return Err(Ending::ByHub(EndReason::Expired { at }));
        }
        if self.is_held_up() {
            self.last_heard = now;
        }
        if self.keep_alive.is_some_and(|keep_alive| self.last_heard + keep_alive <= now) {
            return Err(Ending::KeepAliveTimeout);
        }
        if self.throttled_until.is_some_and(|until| until <= now) {
            self.throttled_until = None;
            return self.take_packets().await;
        }
        Ok(())
    }

    /// Whether the client is not read for now. When the disk is slow, only who gives it much to do: all connections together may
    /// have as much again on its way as makes it slow.
    fn is_held_up(&self) -> bool {
        let connections = self.front.counters.connections.load(Ordering::Relaxed).max(1);
        let is_slow = self.front.persister.is_backlogged();
        self.throttled_until.is_some()
            || self.has_too_many_answers()
            || is_slow && self.unstored_bytes > PERSIST_BACKLOG_BYTES / connections
    }

    fn has_too_many_answers(&self) -> bool {
        // MQTT 5 clients know the Receive Maximum; MQTT 3.1.1 clients are slowed down.
        self.answers.len() >= usize::from(self.front.limits.receive_maximum) + usize::from(self.dialect.version == Version::V5)
    }

    /// Obeys the packets that have arrived.
    async fn take_packets(&mut self) -> Result<(), Ending> {
        let result = self.take_each_packet().await;
        // What was accepted before a fault is carried all the same.
        let flushed = match &mut self.link {
            Some(link) => link.flush().await,
            None => Ok(()),
        };
        result?;
        if flushed.is_err() { Box::pin(self.relink()).await } else { Ok(()) }
    }

    async fn take_each_packet(&mut self) -> Result<(), Ending> {
        while let Some(patient) = self.take_packets_at_hand()? {
            Box::pin(self.take_patiently(patient)).await?;
        }
        Ok(())
    }

    /// Obeys packets up to one that may have to wait for the fabric.
    fn take_packets_at_hand(&mut self) -> Result<Option<Box<Patient>>, Ending> {
        while self.throttled_until.is_none() && !self.has_too_many_answers() {
            self.obey()?;
            self.check_answers()?;
            let frame =
                self.wire.inbound.next(self.front.limits.max_packet_bytes).map_err(|found| fault(found.code, found.reason))?;
            let Some(frame) = frame else { break };
            self.last_heard = Instant::now();
            let packet = decode::packet(frame, self.dialect.version).map_err(|found| fault(found.code, found.reason))?;
            if let Some(patient) = self.take_packet(packet)? {
                return Ok(Some(Box::new(patient)));
            }
        }
        Ok(None)
    }

    /// Ends a connection that asks and does not take the answers. The largest message may wait besides.
    fn check_answers(&mut self) -> Result<(), Ending> {
        let outbox = &mut self.wire.outbound;
        if outbox.len() >= OUTBOX_HIGH_WATER {
            // One read may hold many small packets: whoever takes the answers meanwhile is not to blame.
            outbox.write_at_once();
        }
        if outbox.weight() > self.front.limits.max_packet_bytes + OUTBOX_LIMIT {
            return Err(fault(reason::QUOTA_EXCEEDED, "too slow: the answers to what it asks are not taken"));
        }
        Ok(())
    }

    /// Obeys a packet, or gives it back if it may have to wait.
    fn take_packet(&mut self, packet: ClientPacket) -> Result<Option<Patient>, Ending> {
        match packet {
            ClientPacket::Connect => return Err(fault(reason::PROTOCOL_ERROR, "a second CONNECT")),
            ClientPacket::Publish(publish) if self.link.is_none() => return Ok(Some(Patient::FirstPublish(publish))),
            ClientPacket::Publish(publish) => self.publish(publish)?,
            ClientPacket::PubAck { packet_identifier, reason_code } => {
                self.acknowledged(packet_identifier, QoS::AtLeastOnce, reason_code);
            }
            ClientPacket::PubRec { packet_identifier, reason_code } => self.received(packet_identifier, reason_code)?,
            ClientPacket::PubRel { packet_identifier, .. } => self.released(packet_identifier)?,
            ClientPacket::PubComp { packet_identifier, .. } => self.completed(packet_identifier),
            ClientPacket::Subscribe(subscribe) => return Ok(Some(Patient::Subscribe(subscribe))),
            ClientPacket::Unsubscribe { packet_identifier, filters } => {
                return Ok(Some(Patient::Unsubscribe { packet_identifier, filters }));
            }
            ClientPacket::PingReq => {
                let dialect = self.dialect;
                self.wire.outbound.push(|out| dialect.pingresp(out));
            }
            ClientPacket::Disconnect { reason_code, session_expiry } => return Err(self.take_leave(reason_code, session_expiry)),
            ClientPacket::Auth(auth) => self.reauthenticate(auth)?,
        }
        Ok(None)
    }

    async fn take_patiently(&mut self, packet: Box<Patient>) -> Result<(), Ending> {
        match *packet {
            Patient::FirstPublish(publish) => {
                // Before anything is kept: a repetition of a QoS 2 publish that was taken is not carried.
                self.ensure_link().await?;
                self.publish(publish)
            }
            Patient::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Patient::Unsubscribe { packet_identifier, filters } => self.unsubscribe(packet_identifier, filters).await,
        }
    }

    fn take_leave(&mut self, reason_code: u8, session_expiry: Option<u32>) -> Ending {
        if let Some(asked) = session_expiry {
            let mut state = lock(&self.slot.state);
            // MQTT 5 section 3.14.2.2.2: what ends with its connection cannot be kept by an afterthought.
            if !self.session.was_asked_for && asked > 0 {
                return fault(reason::PROTOCOL_ERROR, "the session expiry interval was 0");
            }
            // Who asked and got none may not know it: the session ends all the same.
            if self.slot.is_durable && state.attached.as_ref().is_some_and(|attached| attached.connection == self.number) {
                state.expiry = Seconds(u64::from(asked)).min(self.front.limits.max_session_expiry);
                let row = rows::put_session(self.slot.number, &self.slot.row(state.expiry));
                self.front.persister.store_some_time(vec![row]);
            }
        }
        Ending::ByClient { reason_code }
    }

    /// Says why, publishes the will, and lets go.
    async fn finish(mut self: Box<Self>, ending: Ending) {
        let forget_will = matches!(ending, Ending::ByClient { reason_code: reason::SUCCESS });
        let will = self.front.detach(&self.slot, self.number, forget_will);
        let dialect = self.dialect;
        let is_greeted = self.is_greeted;
        let say = |outbox: &mut Outbox<S>, reason_code, words: &str| {
            outbox.cut();
            let date = Some(self.front.gate.now());
            if is_greeted {
                outbox.push(|out| dialect.disconnect(reason_code, words, date, out));
                return;
            }
            // MQTT-3.14.0-1: no DISCONNECT before CONNACK 0x00.
            let reason_string = Some(words.to_owned());
            let refusal = ConnAck { reason_code, return_code: 3, reason_string, date, ..ConnAck::default() };
            // Too large only if the client takes next to nothing; then it sees the close.
            let _ = outbox.push(|out| dialect.connack(&refusal, out));
        };
        let outbox = &mut self.wire.outbound;
        match &ending {
            Ending::ByHub(reason) => say(outbox, reason.reason_code(), &reason.reason_string()),
            Ending::KeepAliveTimeout => say(outbox, reason::KEEP_ALIVE_TIMEOUT, "nothing heard for 1.5 times the keep alive"),
            Ending::Fault { reason_code, reason } => say(outbox, *reason_code, reason),
            Ending::ByClient { .. } | Ending::ConnectionLost => {}
        }
        self.front.counters.end(&ending);
        if self.missed > 0 {
            self.record_limit(format!("too slow: {} messages of QoS 0 were dropped in all", self.missed));
        }
        self.record(Happening::Ended(ending));
        // The link's end also carries what was published before.
        self.link = None;
        let front = self.front;
        let Self { wire, usage, .. } = *self;
        tokio::join!(wire.linger(), front.publish_wills(will.into_iter().collect()));
        front.connection_is_gone(&usage);
    }

    pub(super) fn denied(&mut self, denied: Denied) {
        self.front.counters.denied.fetch_add(1, Ordering::Relaxed);
        if self.denials.take(Instant::now()).is_ok() {
            self.record(Happening::Denied(denied));
        }
    }

    pub(super) fn limited(&mut self, limit: &str) {
        self.front.counters.denied.fetch_add(1, Ordering::Relaxed);
        if self.denials.take(Instant::now()).is_ok() {
            self.record_limit(limit.to_owned());
        }
    }

    pub(super) fn record_limit(&self, limit: String) {
        self.record(Happening::Limited { limit });
    }

    pub(super) fn record(&self, what: Happening) {
        self.front.gate.record(SessionEvent {
            client_identifier: self.slot.key.client_identifier.clone(),
            principal: Some(self.slot.key.principal.clone()),
            peer: self.peer,
            what,
        });
    }
}

pub(super) fn has_too_many_levels(topic: &str, most: usize) -> bool {
    topic.split('/').count() > most
}

/// The keep alive that holds. MQTT 3.1.1 cannot be told another than it asked for.
fn keep_alive(guest: &Guest, limits: &Limits) -> u16 {
    let asked = guest.connect.keep_alive;
    let most = limits.max_keep_alive;
    let is_bounded = most < u16::MAX && guest.dialect.version == Version::V5;
    if is_bounded && (asked == 0 || asked > most) { most } else { asked }
}

pub(super) fn fault(reason_code: u8, reason: &str) -> Ending {
    Ending::Fault { reason_code, reason: reason.to_owned() }
}

pub(super) fn fault_of(reason_code: u8, error: &impl std::error::Error) -> Ending {
    Ending::Fault { reason_code, reason: error.to_string() }
}

/// The end of a standing on the monotonic clock, counted from now.
fn deadline(expires_at: Option<UnixTime>, now: UnixTime) -> Option<Instant> {
    // A time beyond what the clock can hold is as good as never.
    expires_at.and_then(|expires_at| Instant::now().checked_add(Duration::from_secs(expires_at.since(now).0)))
}
