//! The front as a whole: who is connected, which sessions are kept, and where a message goes. Knows nothing of packets.

use super::{
    direct::{DirectSubscriptions, Publisher},
    fabric::{Fabric, FabricGone, Link},
    fabric_chosen::{ChosenFabric, FabricKind},
    gate::{Affected, Gate, Noting},
    half_open::HalfOpen,
    limits::Limits,
    message::{Message, Routed},
    packet::Will,
    persister::{Persister, Ticket},
    rate::Bucket,
    retained::{Author, Retained, RetainedBounds, RetainedFull},
    rows::{self, SessionRow},
    session::{QueueBounds, Session, Stored, Subscription},
    shared::{GroupFull, SharedSubscriptions},
    slot::{Attached, Control, SessionKey, Slot, SlotState, lock},
    stats::Counters,
    watch::{Watch, WatchError},
    wills::{Armed, Firing, LeftBehind},
};
use hearthkey_core::{
    DeviceId, Seconds, UnixTime,
    rights::{PublishPermit, Rights},
    session::{Authority, EndReason, Principal, Proof, Standing},
    topic::{SubscriptionFilter, TopicFilter, TopicName},
    write::Write,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// The MQTT front. A handle: clones are the same front.
pub struct Front<G: Gate, F: Fabric = ChosenFabric>(pub(super) Arc<Inner<G, F>>);

pub(super) struct Inner<G: Gate, F: Fabric> {
    pub(super) gate: Arc<G>,
    pub(super) limits: Limits,
    pub(super) fabric: F,
    pub(super) persister: Persister,
    pub(super) half_open: HalfOpen,
    pub(super) counters: Counters,
    pub(super) sessions_by_key: Mutex<HashMap<SessionKey, Arc<Slot>>>,
    pub(super) direct: DirectSubscriptions,
    pub(super) shared: SharedSubscriptions,
    pub(super) retained: Mutex<Retained>,
    pub(super) left_behind: Mutex<LeftBehind>,
    uses_by_principal: Mutex<HashMap<Principal, Arc<Mutex<Use>>>>,
    hub_link: tokio::sync::Mutex<Option<F::Link>>,
    /// Of the next session, or will.
    next_number: AtomicU64,
    next_connection: AtomicU64,
    pub(super) kept_sessions: AtomicUsize,
    stopping: AtomicBool,
    connection_gone: Notify,
}

/// What a principal uses of what all share, over all its connections.
#[derive(Debug)]
pub(super) struct Use {
    /// Its connections of now.
    connections: usize,
    /// Its sessions that outlive their connections.
    kept_sessions: usize,
    pub(super) publishes: Bucket,
    /// CONNECTs that were accepted.
    connects: Bucket,
}

/// Why a message of the hub's own was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too many retained messages, of all or of one client; does not happen to the hub's own.
    #[error("{0}")]
    RetainedFull(&'static str),
    /// The rows that must survive a power cut could not be stored; subscribers may have got the message all the same.
    #[error("the message could not be stored")]
    NotStored,
    /// The router is dead and none could be started.
    #[error(transparent)]
    Fabric(#[from] FabricGone),
}

impl<G: Gate, F: Fabric> Clone for Front<G, F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<G: Gate> Front<G> {
    /// A front over the default fabric, with the rows of `Table::Mqtt` as (key, value) of an earlier run. Starts tasks, so it
    /// must be called within a tokio runtime.
    #[must_use]
    pub fn new(gate: Arc<G>, limits: Limits, restored_rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        Self::on(FabricKind::default(), gate, limits, restored_rows)
    }

    /// The same over a fabric of one's choice.
    #[must_use]
    pub fn on(
        kind: FabricKind,
        gate: Arc<G>,
        limits: Limits,
        restored_rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Self {
        // One link per connection; some to spare for the hub itself, for watchers, and for links that are about to end.
        let fabric = ChosenFabric::new(kind, limits.max_connections + 256);
        Self::with_fabric(gate, limits, restored_rows, fabric)
    }
}

impl<G: Gate, F: Fabric> Front<G, F> {
    /// A front over another fabric.
    #[must_use]
    pub fn with_fabric(
        gate: Arc<G>,
        limits: Limits,
        restored_rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        fabric: F,
    ) -> Self {
        let persister = Persister::start(gate.clone());
        let stored = rows::restore(restored_rows);
        persister.store_some_time(stored.orphans);
        let mut sessions_by_key = HashMap::new();
        let (direct, shared) = (DirectSubscriptions::default(), SharedSubscriptions::default());
        let bounds = QueueBounds { messages: limits.max_queued_messages, bytes: limits.max_queued_bytes };
        let mut last_number = stored.wills.last().map_or(0, |will| will.number);
        let now = gate.now();
        for mut session in stored.sessions {
            if session.row.left_at.is_none() {
                // Its connection ended with the hub: now at the latest, and not anew at each start.
                session.row.left_at = Some(now);
                persister.store_some_time(vec![rows::put_session(session.number, &session.row)]);
            }
            last_number = last_number.max(session.number);
            let slot = Arc::new(Slot::restored(session, bounds, now));
            for subscription in lock(&slot.state).session.subscriptions() {
                match subscription.share_name {
                    None => direct.put(&slot, subscription),
                    // The bound was kept when it was subscribed.
                    Some(_) => drop(shared.put(&slot, subscription)),
                }
            }
            sessions_by_key.insert(slot.key.clone(), slot);
        }
        let retained = Retained::new(RetainedBounds::of(&limits), stored.retained);
        let kept_for = |key: &SessionKey| sessions_by_key.get(key).map_or(Seconds(0), |slot| lock(&slot.state).expiry);
        let (left_behind, replaced) = LeftBehind::new(stored.wills, limits.will_grace, kept_for);
        persister.store_some_time(replaced);
        let inner = Arc::new(Inner {
            gate,
            fabric,
            persister,
            half_open: HalfOpen::new(limits.max_half_open),
            counters: Counters::default(),
            kept_sessions: AtomicUsize::new(sessions_by_key.len()),
            sessions_by_key: Mutex::new(sessions_by_key),
            direct,
            shared,
            retained: Mutex::new(retained),
            left_behind: Mutex::new(left_behind),
            uses_by_principal: Mutex::default(),
            hub_link: tokio::sync::Mutex::new(None),
            next_number: AtomicU64::new(last_number + 1),
            next_connection: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            connection_gone: Notify::new(),
            limits,
        });
        for slot in lock(&inner.sessions_by_key).values() {
            lock(&inner.use_of(&slot.key.principal)).kept_sessions += 1;
        }
        for slot in inner.slots(|_| true) {
            inner.discard_if_gone(&slot);
        }
        tokio::spawn(sweep(Arc::downgrade(&inner)));
        Self(inner)
    }

    /// Judges the sessions concerned anew: rights are replaced in place; what may not go on is cut at once, with the reason.
    /// When this returns, no packet of a cut session is obeyed any more. Calls [`Gate::judge`], so hold no lock of the gate.
    pub fn reconsider(&self, affected: &Affected) {
        let slots = self.0.slots(|key| match affected {
            Affected::Principal(principal) => key.principal == *principal,
            Affected::AccessToken(_) | Affected::Everything => true,
        });
        for slot in slots {
            match affected {
                Affected::AccessToken(jti) if !slot.rests_on(jti) => {}
                Affected::AccessToken(_) => self.0.judge(&slot),
                Affected::Principal(_) | Affected::Everything => {
                    self.0.judge(&slot);
                    self.0.discard_if_gone(&slot);
                }
            }
        }
    }

    /// Publishes a message of the hub's own. Returns when it was handed to the router and, for QoS 1, when the rows of
    /// sessions that are kept for absent clients are durable.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, permit: PublishPermit, message: Message) -> Result<(), PublishError> {
        self.0.publish(&permit, &message, None, Vec::new()).await
    }

    /// Follows what is published, as far as `rights` allow: retained messages first, then each new one.
    ///
    /// # Errors
    /// [`WatchError`]: the filter is not covered by the rights, or the router is gone.
    pub async fn watch(&self, subscription: SubscriptionFilter, rights: Arc<Rights>) -> Result<Watch<F::Link>, WatchError> {
        let permit = rights.authorize_subscribe(subscription)?;
        let mut link = self.0.fabric.link().await?;
        link.subscribe(&permit, 1).await?;
        let retained = self.0.retained_matching(&permit.subscription().filter, None);
        Ok(Watch::new(link, rights, retained))
    }

    /// What is retained on a topic.
    #[must_use]
    pub fn retained(&self, topic: &TopicName) -> Option<Vec<u8>> {
        let filter = TopicFilter::parse(topic.as_str()).ok()?;
        self.0.retained_matching(&filter, None).first().map(|routed| routed.message.payload.to_vec())
    }

    /// The topics on which something is retained that a filter matches.
    #[must_use]
    pub fn retained_topics(&self, filter: &TopicFilter) -> Vec<TopicName> {
        self.0.retained_matching(filter, None).iter().map(|routed| routed.topic.clone()).collect()
    }

    /// Whether a principal has an open session.
    #[must_use]
    pub fn is_online(&self, principal: &Principal) -> bool {
        self.0.slots(|key| key.principal == *principal).iter().any(|slot| lock(&slot.state).attached.is_some())
    }

    /// Ends all sessions with 0x8B, publishes their wills, and waits until all connections are gone: at most some seconds.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        self.0.half_open.close();
        for slot in self.0.slots(|_| true) {
            if let Some(attached) = &lock(&slot.state).attached {
                attached.control.end(EndReason::HubStopping);
            }
        }
        loop {
            let gone = self.0.connection_gone.notified();
            if self.0.counters.connections.load(Ordering::Acquire) == 0 {
                break;
            }
            gone.await;
        }
        // What waits for the disk is the hub's promise.
        self.0.persister.store(Vec::new()).durable().await;
    }

    /// The bounds that hold.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }
}

/// What a connection brings to its session.
pub(super) struct Arrival {
    pub(super) key: SessionKey,
    pub(super) authority: Authority,
    pub(super) standing: Standing,
    pub(super) clean_start: bool,
    pub(super) session_expiry: u32,
    pub(super) will: Option<Will>,
    pub(super) window: usize,
}

/// What a connection gets.
pub(super) struct Attachment {
    pub(super) slot: Arc<Slot>,
    pub(super) connection: u64,
    pub(super) control: Arc<Control>,
    pub(super) session_present: bool,
    pub(super) session_expiry: Seconds,
    /// False if there are too many kept sessions for this one to be kept.
    pub(super) is_kept_as_asked: bool,
    /// Those that live on the fabric.
    pub(super) subscriptions: Vec<Subscription>,
    /// Becomes true when the rows of the session and of its will are durable, if it has any.
    pub(super) stored: Option<Ticket>,
    /// Wills of earlier connections: to be published first.
    pub(super) wills: Vec<Firing>,
    pub(super) usage: Arc<Mutex<Use>>,
}

/// The hub is full or stops, or the client asks for too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Busy {
    Full,
    Stopping,
    /// The principal has as many connections as one may have.
    TooMany,
    /// The principal connects again and again; the next one is heard after this time.
    TooOften(Duration),
}

impl<G: Gate, F: Fabric> Inner<G, F> {
    /// Gives a connection its session: the earlier one, or a new one. A connection that holds it is cut.
    pub(super) fn attach(&self, arrival: Arrival) -> Result<Attachment, Busy> {
        let mut sessions = lock(&self.sessions_by_key);
        if self.stopping.load(Ordering::Acquire) {
            return Err(Busy::Stopping);
        }
        if self.counters.connections.load(Ordering::Relaxed) >= self.limits.max_connections {
            return Err(Busy::Full);
        }
        let usage = self.use_of(&arrival.key.principal);
        // Who comes for its own session takes the place of the connection that holds it.
        let takes_over = sessions.get(&arrival.key).is_some_and(|slot| lock(&slot.state).attached.is_some());
        lock(&usage).connect(self.limits.max_connections_per_principal + usize::from(takes_over), Instant::now())?;
        let (mut wills, mut forget) = (Vec::new(), Vec::new());
        let mut discarded = None;
        let earlier = sessions.get(&arrival.key).cloned();
        let resumed = earlier.filter(|slot| {
            let mut state = lock(&slot.state);
            let was_attached = state.attached.take();
            if let Some(attached) = &was_attached {
                attached.control.end(EndReason::TakenOver);
            }
            let resumes = slot.is_durable && !arrival.clean_start && !state.is_over(Instant::now());
            // A will with delay is cancelled by a connection that goes on with the session (MQTT 5 section 3.1.3.2.2).
            if let Some(armed) = state.armed.take() {
                match !resumes || armed.will.delay == 0 && was_attached.is_some() {
                    true => wills.push(armed.fires(&slot.key, was_attached.map(|attached| attached.rights))),
                    false => forget.extend(armed.forget()),
                }
            }
            if !resumes {
                discarded = Some(slot.clone());
            }
            resumes
        });
        if let Some(left) = lock(&self.left_behind).take(&arrival.key) {
            match discarded.is_some() || left.is_due(Instant::now()) {
                true => wills.push(left.fires(&arrival.key, None)),
                false => forget.extend(left.forget()),
            }
        }
        if let Some(slot) = discarded {
            sessions.remove(&slot.key);
            self.discard(&slot);
        }
        let session_present = resumed.is_some();
        let asked = Seconds(u64::from(arrival.session_expiry)).min(self.limits.max_session_expiry);
        let room = session_present
            || self.kept_sessions.load(Ordering::Relaxed) < self.limits.max_kept_sessions
                && lock(&usage).kept_sessions < self.limits.max_kept_sessions_per_principal;
        let session_expiry = if room { asked } else { Seconds(0) };
        let slot = resumed.unwrap_or_else(|| {
            let number = self.next_number.fetch_add(1, Ordering::Relaxed);
            let slot = Arc::new(Slot::new(arrival.key.clone(), number, session_expiry, self.queue_bounds()));
            sessions.insert(arrival.key, slot.clone());
            if slot.is_durable {
                self.kept_sessions.fetch_add(1, Ordering::Relaxed);
                lock(&usage).kept_sessions += 1;
            }
            slot
        });
        let control = Arc::new(Control::default());
        let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(&slot.state);
        let mut writes = Vec::new();
        if slot.is_durable {
            writes.push(rows::put_session(slot.number, &slot.row(session_expiry)));
        }
        state.armed = arrival.will.map(|will| {
            let number = self.next_number.fetch_add(1, Ordering::Relaxed);
            let (armed, rows) = Armed::new(number, will, &slot.key, &arrival.authority);
            writes.extend(rows);
            Box::new(armed)
        });
        writes.extend(forget);
        let stored = (!writes.is_empty()).then(|| self.persister.store(writes));
        state.expiry = session_expiry;
        state.detached_at = None;
        (state.lost, state.overflowed) = (0, false);
        state.session.outbound.resume(arrival.window);
        state.attached = Some(Attached {
            connection,
            authority: arrival.authority,
            rights: arrival.standing.rights,
            judged: 0,
            control: control.clone(),
        });
        let on_the_fabric = |subscription: &&Subscription| subscription.share_name.is_none();
        let subscriptions = state.session.subscriptions().filter(on_the_fabric).cloned().collect();
        self.counters.connections.fetch_add(1, Ordering::AcqRel);
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        drop(state);
        let is_kept_as_asked = room || asked.0 == 0;
        Ok(Attachment {
            slot,
            connection,
            control,
            session_present,
            session_expiry,
            is_kept_as_asked,
            subscriptions,
            stored,
            wills,
            usage,
        })
    }

    /// A connection ends. Returns the will if it is to be published now. To be called once for each attachment.
    pub(super) fn detach(&self, slot: &Arc<Slot>, connection: u64, forget_will: bool) -> Option<Firing> {
        // To the session of who is gone nobody comes back: it ends now, and no will waits for a return.
        let is_gone = slot.is_durable && self.gate.is_gone(&slot.key.principal);
        let mut sessions = lock(&self.sessions_by_key);
        let mut state = lock(&slot.state);
        if state.attached.as_ref().is_none_or(|attached| attached.connection != connection) {
            // Taken over: the successor has the session and has published the will.
            return None;
        }
        let attached = state.attached.take()?;
        let mut armed = state.armed.take();
        if let Some(armed) = armed.take_if(|_| forget_will) {
            self.persister.store_some_time(armed.forget().collect());
        }
        let fires = |armed: Option<Box<Armed>>| armed.map(|armed| armed.fires(&slot.key, Some(attached.rights)));
        if state.expiry.0 == 0 || is_gone {
            drop(state);
            sessions.remove(&slot.key);
            self.discard(slot);
            return fires(armed);
        }
        let now = Instant::now();
        state.detached_at = Some(now);
        let row = SessionRow { left_at: Some(self.gate.now()), ..slot.row(state.expiry) };
        self.persister.store_some_time(vec![rows::put_session(slot.number, &row)]);
        let delayed = armed.as_ref().is_some_and(|armed| armed.will.delay > 0);
        if delayed && let Some(mut armed) = armed.take() {
            armed.due = Some(now + Duration::from_secs(u64::from(armed.will.delay)));
            state.armed = Some(armed);
        }
        drop((state, sessions));
        self.discard_if_gone(slot);
        fires(armed)
    }

    /// Forgets a session to which nobody will come back: who gets the name of its principal later is another one. A connection
    /// that still holds it is being cut, and this is asked again when it is gone.
    fn discard_if_gone(&self, slot: &Arc<Slot>) {
        let is_held = || lock(&slot.state).attached.is_some();
        if !slot.is_durable || is_held() || !self.gate.is_gone(&slot.key.principal) {
            return;
        }
        let mut sessions = lock(&self.sessions_by_key);
        if !is_held() && sessions.get(&slot.key).is_some_and(|known| Arc::ptr_eq(known, slot)) {
            sessions.remove(&slot.key);
            self.discard(slot);
        }
    }

    /// The connection's task is about to end.
    pub(super) fn connection_is_gone(&self, usage: &Mutex<Use>) {
        lock(usage).connections -= 1;
        self.counters.connections.fetch_sub(1, Ordering::AcqRel);
        self.connection_gone.notify_waiters();
    }

    /// Judges an open session anew.
    pub(super) fn judge(&self, slot: &Slot) {
        loop {
            let Some((authority, control)) =
                lock(&slot.state).attached.as_ref().map(|attached| (attached.authority.clone(), attached.control.clone()))
            else {
                return;
            };
            // Whoever changes rights asks after the change: an answer to an earlier question does not undo that to a later one.
            let question = slot.questions.fetch_add(1, Ordering::Relaxed) + 1;
            let judgement = self.gate.judge(&authority);
            let mut state = lock(&slot.state);
            match &mut state.attached {
                Some(attached) if attached.authority == authority && Arc::ptr_eq(&attached.control, &control) => {
                    if question < attached.judged {
                        return;
                    }
                    attached.judged = question;
                    match judgement {
                        Ok(standing) => {
                            attached.rights = standing.rights.clone();
                            control.replace_standing(standing);
                        }
                        Err(reason) => control.end(reason),
                    }
                    return;
                }
                // A renewal or another connection came between.
                Some(_) => {}
                None => return,
            }
        }
    }

    /// A subscription begins or changes, as far as it does not live on the fabric.
    pub(super) fn subscribed(&self, slot: &Arc<Slot>, subscription: &Subscription) -> Result<Option<Ticket>, GroupFull> {
        match subscription.share_name {
            None => self.direct.put(slot, subscription),
            Some(_) => self.shared.put(slot, subscription)?,
        }
        // Its row is handed over under the lock: before those by which the session is forgotten.
        let state = lock(&slot.state);
        if state.is_discarded {
            drop(state);
            self.forget_subscription(slot, subscription);
            return Ok(None);
        }
        Ok(slot.is_durable.then(|| self.persister.store(vec![rows::put_subscription(slot.number, subscription)])))
    }

    /// A subscription ends.
    pub(super) fn unsubscribed(&self, slot: &Arc<Slot>, subscription: &Subscription) -> Option<Ticket> {
        self.forget_subscription(slot, subscription);
        slot.is_durable.then(|| self.persister.store(vec![rows::delete_subscription(slot.number, subscription.number)]))
    }

    fn forget_subscription(&self, slot: &Arc<Slot>, subscription: &Subscription) {
        match subscription.share_name {
            None => self.direct.remove(slot, subscription),
            Some(_) => self.shared.remove(slot, subscription),
        }
    }

    /// Forgets a session and all its rows. The caller has taken it off the map.
    fn discard(&self, slot: &Arc<Slot>) {
        let mut state = lock(&slot.state);
        if std::mem::replace(&mut state.is_discarded, true) {
            return;
        }
        let (mut writes, mut shared) = (Vec::new(), Vec::new());
        writes.extend(state.armed.take().iter().flat_map(|armed| armed.forget()));
        let session = &state.session;
        let subscriptions: Vec<_> = session.subscriptions().cloned().collect();
        for (pending, group) in session.outbound.kept_and_groups() {
            let forget = slot.forget_row(pending);
            match group {
                Some(group) => shared.push((group.clone(), pending.routed.clone(), forget)),
                None => writes.extend(forget),
            }
        }
        if slot.is_durable {
            self.kept_sessions.fetch_sub(1, Ordering::Relaxed);
            lock(&self.use_of(&slot.key.principal)).kept_sessions -= 1;
            let number = slot.number;
            writes.push(rows::delete_session(number));
            writes.extend(subscriptions.iter().map(|subscription| rows::delete_subscription(number, subscription.number)));
            writes.extend(session.outbound.released().map(|position| rows::delete_released(number, position)));
            writes.extend(session.unreleased.keys().map(|&identifier| rows::delete_unreleased(number, identifier)));
        }
        drop(state);
        for subscription in &subscriptions {
            self.forget_subscription(slot, subscription);
        }
        for (group, routed, forget) in shared {
            self.share_again(&group, &routed, forget);
        }
        self.persister.store_some_time(writes);
    }

    /// Publishes a will of a client, whose rows go with it, or a message of the hub's own.
    pub(super) async fn publish(
        &self,
        permit: &PublishPermit,
        message: &Message,
        client: Option<&SessionKey>,
        forget: Vec<Write>,
    ) -> Result<(), PublishError> {
        let publisher = Publisher { client, session: None };
        let full = |full: RetainedFull| PublishError::RetainedFull(full.words());
        let kept = self.keep(permit, message, publisher, None, forget).map_err(full)?;
        self.publish_on_hub_link(permit, message, kept.queued_for).await?;
        let durable = match kept.ticket {
            Some(ticket) => ticket.durable().await,
            None => true,
        };
        if durable { Ok(()) } else { Err(PublishError::NotStored) }
    }

    async fn publish_on_hub_link(
        &self,
        permit: &PublishPermit,
        message: &Message,
        queued_for: Box<[u64]>,
    ) -> Result<(), FabricGone> {
        let mut hub_link = self.hub_link.lock().await;
        let mut link = match hub_link.take() {
            Some(link) => link,
            None => self.fabric.link().await?,
        };
        link.publish(permit, message, None, queued_for);
        if link.flush().await.is_err() {
            link = self.fabric.replace(link).await?;
            link.flush().await?;
        }
        *hub_link = Some(link);
        Ok(())
    }

    /// Tells the hub of an answer to a command, and of what a device is said to be. Returns what the acknowledgement of the
    /// publish has to wait for.
    pub(super) fn note_acknowledgement(&self, publisher: &Principal, topic: &TopicName, payload: &[u8]) -> Option<Noting> {
        let mut levels = topic.as_str().split('/');
        let (Some("dev"), Some(device), Some(kind), Some(last), None) =
            (levels.next(), levels.next(), levels.next(), levels.next(), levels.next())
        else {
            return None;
        };
        match (kind, last, DeviceId::parse(device)) {
            ("ack", command_id, Ok(device)) => self.gate.acknowledged(publisher, &device, command_id, payload),
            ("twin", "reported", Ok(device)) => self.gate.twin_reported(publisher, &device, payload),
            _ => None,
        }
    }

    /// The retained messages that match, but for those of this author.
    pub(super) fn retained_matching(&self, filter: &TopicFilter, besides: Option<&Author>) -> Vec<Arc<Routed>> {
        lock(&self.retained).matching(filter, besides, self.gate.now())
    }

    /// What a principal uses.
    fn use_of(&self, principal: &Principal) -> Arc<Mutex<Use>> {
        let limits = &self.limits;
        let connects = match principal {
            Principal::Device(_) => limits.device_connects_per_minute,
            Principal::User(_) | Principal::Integration(_) => limits.connects_per_minute,
        };
        let fresh = || {
            Arc::new(Mutex::new(Use {
                connections: 0,
                kept_sessions: 0,
                publishes: Bucket::new(limits.publish_rate, limits.publish_burst),
                connects: Bucket::each(Duration::from_secs(60) / connects.max(1), connects),
            }))
        };
        lock(&self.uses_by_principal).entry(principal.clone()).or_insert_with(fresh).clone()
    }

    /// What may wait for one client beyond the bounds of its queue, because it has subscribed: all that is retained twice over,
    /// since filters overlap, and some more where that is little.
    pub(super) fn most_extra(&self) -> QueueBounds {
        let (messages, bytes) = lock(&self.retained).size();
        QueueBounds {
            messages: self.limits.max_retained_messages.max(2 * messages),
            bytes: 2 * bytes + self.limits.max_queued_bytes,
        }
    }

    fn queue_bounds(&self) -> QueueBounds {
        QueueBounds { messages: self.limits.max_queued_messages, bytes: self.limits.max_queued_bytes }
    }

    fn slots(&self, wanted: impl Fn(&SessionKey) -> bool) -> Vec<Arc<Slot>> {
        lock(&self.sessions_by_key).iter().filter(|(key, _)| wanted(key)).map(|(_, slot)| slot.clone()).collect()
    }
}

impl Use {
    fn connect(&mut self, most: usize, now: Instant) -> Result<(), Busy> {
        if self.connections >= most {
            return Err(Busy::TooMany);
        }
        self.connects.take_if_any(now).map_err(Busy::TooOften)?;
        self.connections += 1;
        Ok(())
    }
}

/// Ends sessions whose time is over and publishes the wills that are due, to the second. Ends with the front.
async fn sweep<G: Gate, F: Fabric>(front: Weak<Inner<G, F>>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    every_second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for tick in 0_u64.. {
        every_second.tick().await;
        let Some(front) = front.upgrade() else { return };
        front.sweep_sessions().await;
        if tick % 60 == 0 {
            let now = front.gate.now();
            let mut retained = lock(&front.retained);
            front.persister.store_some_time(retained.expire(now));
        }
    }
}

impl<G: Gate, F: Fabric> Inner<G, F> {
    async fn sweep_sessions(&self) {
        let mut wills = Vec::new();
        let now = Instant::now();
        self.publish_wills_left_behind(now).await;
        {
            let mut sessions = lock(&self.sessions_by_key);
            let mut over = Vec::new();
            for slot in sessions.values() {
                let mut state = lock(&slot.state);
                let is_over = state.is_over(now);
                if is_over || state.armed.as_ref().is_some_and(|armed| armed.is_due(now)) {
                    wills.extend(state.armed.take().map(|armed| armed.fires(&slot.key, None)));
                }
                if is_over {
                    over.push(slot.clone());
                }
            }
            for slot in over {
                sessions.remove(&slot.key);
                self.discard(&slot);
            }
        }
        self.publish_wills(wills).await;
    }
}

impl SlotState {
    /// Whether the session's time is over.
    fn is_over(&self, now: Instant) -> bool {
        self.detached_at.is_some_and(|detached_at| now.duration_since(detached_at).as_secs() >= self.expiry.0)
    }
}

impl Slot {
    /// Whether a connection holds it by this access token.
    fn rests_on(&self, token: &str) -> bool {
        let state = lock(&self.state);
        let proof = state.attached.as_ref().map(|attached| &attached.authority.proof);
        proof.is_some_and(|proof| matches!(proof, Proof::AccessToken { jti, .. } if **jti == *token))
    }

    fn restored(stored: rows::StoredSession, bounds: QueueBounds, now: UnixTime) -> Self {
        let mut session = Session::new(bounds);
        for subscription in stored.subscriptions {
            session.restore_subscription(subscription);
        }
        let mut next_position = 1;
        for (position, packet_identifier) in stored.released {
            next_position = next_position.max(position + 1);
            session.outbound.restore_released(packet_identifier, position);
        }
        session.unreleased.extend(stored.unreleased.into_iter().map(|identifier| (identifier, Stored::default())));
        for pending in stored.queue {
            next_position = next_position.max(pending.row.map_or(0, |row| row + 1));
            session.outbound.offer_unbounded(pending);
        }
        let key = SessionKey { principal: stored.row.principal, client_identifier: stored.row.client_identifier };
        let away = stored.row.left_at.map_or(Seconds(0), |left_at| now.since(left_at));
        let left = Seconds(stored.row.expiry.saturating_sub(away.0));
        // Also one whose time is over has rows.
        let slot = Self { is_durable: true, ..Self::new(key, stored.number, left, bounds) };
        {
            let mut state = lock(&slot.state);
            state.session = session;
            state.next_position = next_position;
            state.detached_at = Some(Instant::now());
        }
        slot
    }
}
