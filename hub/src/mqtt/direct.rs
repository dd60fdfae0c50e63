//! The direct way of a message: from its publish into the queues of the sessions that it is promised to, with their rows
//! stored before the publish is acknowledged. All that goes to a session which outlives its connections (QoS 1 and 2),
//! commands to a device, and what a group shares. Depends neither on the fabric nor on who is connected.
//!
//! The fabric brings the message to the same sessions. Which way counts is decided once, when it is published: those that
//! have it in their queues are named in it ([`Routed::queued_for`]).

use super::{
    fabric::Fabric,
    front::Inner,
    gate::{Gate, Happening, SessionEvent},
    message::{Message, QoS, Routed},
    persister::{Ticket, fit_in_one_batch, weight_of},
    retained::{Author, RetainedFull},
    rows,
    session::{Discarded, Pending, Stored, Subscription},
    slot::{SessionKey, Slot, SlotState, lock},
    trie::Trie,
};
use bytes::Bytes;
use hearthkey_core::{
    rights::{PublishPermit, is_reserved_for_hub, reaches_reserved},
    session::Principal,
    topic::{SubscriptionFilter, TopicName},
    write::Write,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// The subscriptions of sessions to which messages may go directly, found without a lock when there are none.
#[derive(Default)]
pub(super) struct DirectSubscriptions {
    by_filter: RwLock<Trie<Direct>>,
    is_used: AtomicBool,
}

/// One such subscription.
#[derive(Debug, Clone)]
pub(super) struct Direct {
    pub(super) slot: Arc<Slot>,
    number: u32,
    pub(super) qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    identifier: Option<u32>,
}

/// A message for one session.
pub(super) struct Match {
    pub(super) slot: Arc<Slot>,
    qos: QoS,
    retain_as_published: bool,
    identifiers: Vec<u32>,
    share: Option<Arc<SubscriptionFilter>>,
}

/// Whether a message goes directly to a session that gets it with this QoS; else the fabric carries it.
pub(super) fn goes_directly(slot: &Slot, qos: QoS, topic: &TopicName) -> bool {
    // Commands: the hub wants to know whether they arrived.
    qos != QoS::AtMostOnce && may_go_directly(slot) && (slot.is_durable || is_reserved_for_hub(topic))
}

/// Whether a session can have such messages.
fn may_go_directly(slot: &Slot) -> bool {
    slot.is_durable || matches!(slot.key.principal, Principal::Device(_))
}

/// Whether a subscription can. What cannot is not filed: most sessions of devices are not kept, and would be looked through
/// with each publish on a topic that they all listen to.
fn may_bring_directly(slot: &Slot, subscription: &Subscription) -> bool {
    slot.is_durable || may_go_directly(slot) && reaches_reserved(&subscription.filter)
}

impl Direct {
    pub(super) fn of(slot: &Arc<Slot>, subscription: &Subscription) -> Self {
        Self {
            slot: slot.clone(),
            number: subscription.number,
            qos: subscription.options.qos,
            no_local: subscription.options.no_local,
            retain_as_published: subscription.options.retain_as_published,
            identifier: subscription.identifier,
        }
    }

    /// Whether it is this subscription, as it is or as it was.
    pub(super) fn is(&self, slot: &Arc<Slot>, subscription: &Subscription) -> bool {
        Arc::ptr_eq(&self.slot, slot) && self.number == subscription.number
    }

    /// The message of a group for this member.
    pub(super) fn chosen(&self, message: QoS, share: Arc<SubscriptionFilter>) -> Match {
        Match {
            slot: self.slot.clone(),
            qos: self.qos.min(message),
            retain_as_published: self.retain_as_published,
            identifiers: self.identifier.into_iter().collect(),
            share: Some(share),
        }
    }
}

impl DirectSubscriptions {
    /// Files a subscription that is not shared, in place of what it was before.
    pub(super) fn put(&self, slot: &Arc<Slot>, subscription: &Subscription) {
        if !may_bring_directly(slot, subscription) {
            return;
        }
        let mut by_filter = self.by_filter.write().unwrap_or_else(PoisonError::into_inner);
        by_filter.remove(&subscription.filter, |direct| direct.is(slot, subscription));
        by_filter.insert(&subscription.filter, Direct::of(slot, subscription));
        self.is_used.store(true, Ordering::Release);
    }

    /// Removes a subscription.
    pub(super) fn remove(&self, slot: &Arc<Slot>, subscription: &Subscription) {
        if !may_bring_directly(slot, subscription) {
            return;
        }
        let mut by_filter = self.by_filter.write().unwrap_or_else(PoisonError::into_inner);
        by_filter.remove(&subscription.filter, |direct| direct.is(slot, subscription));
        self.is_used.store(!by_filter.is_empty(), Ordering::Release);
    }

    /// One message for each session that gets it directly.
    fn matches(&self, topic: &TopicName, qos: QoS, publisher: Option<u64>) -> Vec<Match> {
        let mut found: Vec<Match> = Vec::new();
        if qos == QoS::AtMostOnce || !self.is_used.load(Ordering::Acquire) {
            return found;
        }
        let is_reserved = is_reserved_for_hub(topic);
        let mut index_by_session = HashMap::new();
        self.by_filter.read().unwrap_or_else(PoisonError::into_inner).each_match(topic, |direct| {
            let qos = direct.qos.min(qos);
            let is_own = direct.no_local && publisher == Some(direct.slot.number);
            if is_own || !direct.slot.is_durable && !is_reserved {
                return;
            }
            let index = *index_by_session.entry(direct.slot.number).or_insert_with(|| {
                let (slot, identifiers) = (direct.slot.clone(), Vec::new());
                found.push(Match { slot, qos, retain_as_published: false, identifiers, share: None });
                found.len() - 1
            });
            if let Some(matched) = found.get_mut(index) {
                // MQTT-3.3.4-2: one copy has the highest QoS of all.
                matched.qos = matched.qos.max(qos);
                matched.retain_as_published |= direct.retain_as_published;
                matched.identifiers.extend(direct.identifier);
            }
        });
        found.retain(|matched| goes_directly(&matched.slot, matched.qos, topic));
        found
    }
}

/// Who publishes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Publisher<'a> {
    /// On whose account a retained message is; none for the hub.
    pub(super) client: Option<&'a SessionKey>,
    /// Not a will's, nor the hub's.
    pub(super) session: Option<u64>,
}

/// What a publish leaves behind before it is carried.
pub(super) struct Kept {
    /// What to wait for before it is acknowledged.
    pub(super) ticket: Option<Ticket>,
    /// What the rows count while they wait for the disk.
    pub(super) bytes: usize,
    /// For [`Routed::queued_for`].
    pub(super) queued_for: Box<[u64]>,
}

/// What came of queueing a message.
enum Queued {
    Whole,
    /// So many messages, this one perhaps among them, were dropped; whether that is to be recorded.
    WithLoss(u64, bool),
    /// The session has ended.
    TooLate,
}

impl<G: Gate, F: Fabric> Inner<G, F> {
    /// Keeps what must be kept of a publish: the retained message, and what goes directly into queues. `taken` is the packet
    /// identifier by which a QoS 2 publish of a session that outlives its connection is known as taken, and what is to say
    /// whether it was stored; `forget` the rows of a will that is published by this: they are stored together with them.
    pub(super) fn keep(
        &self,
        permit: &PublishPermit,
        message: &Message,
        publisher: Publisher<'_>,
        taken: Option<(u16, Stored)>,
        forget: Vec<Write>,
    ) -> Result<Kept, RetainedFull> {
        let Publisher { client, session: publisher } = publisher;
        let mut matches = self.direct.matches(permit.topic(), message.qos, publisher);
        let mut queued_for: Box<[u64]> = matches.iter().map(|matched| matched.slot.number).collect();
        queued_for.sort_unstable();
        self.shared.choose(permit.topic(), message.qos, &mut matches);
        if !message.retain && matches.is_empty() && taken.is_none() {
            self.persister.store_some_time(forget);
            return Ok(Kept { ticket: None, bytes: 0, queued_for });
        }
        // A copy: what came from a socket is a slice of a larger buffer.
        let payload = Bytes::copy_from_slice(&message.payload);
        let message = Message { payload, ..message.clone() };
        let routed = Routed { topic: permit.topic().clone(), message, publisher, queued_for: Box::default() };
        let promised = routed.message.qos != QoS::AtMostOnce;
        let mut writes = Vec::new();
        let mut retained = routed.message.retain.then(|| lock(&self.retained));
        if let Some(retained) = &mut retained {
            let author = client.map(Author::from);
            let rows = retained.set(&routed, author.as_ref())?;
            // What the hub says of itself is said anew after a restart.
            if !permit.topic().as_str().starts_with('$') {
                writes.extend(rows);
            }
        }
        let store = |writes: Vec<Write>, stored: Stored| match writes.is_empty() {
            true => {
                stored.settle(true);
                None
            }
            false if promised => Some(self.persister.store_and_tell(writes, stored)),
            false => {
                self.persister.store_some_time(writes);
                None
            }
        };
        // A client repeats what was not stored; a will and what the hub says come this once.
        let (identifier, stored) = match (taken, publisher) {
            (Some((identifier, stored)), _) => (Some(identifier), stored),
            (None, Some(_)) => (None, Stored::default()),
            (None, None) => (None, Stored::of_a_promise()),
        };
        // The lock on what is retained is held meanwhile, so that the rows of two publishes keep their order.
        let (ticket, bytes) = self.queue(&Arc::new(routed), matches, stored, writes, |mut writes, stored| {
            if let Some((publisher, identifier)) = publisher.zip(identifier) {
                writes.push(rows::put_unreleased(publisher, identifier));
                if !fit_in_one_batch(&writes) {
                    writes = rows::all_or_none(publisher, identifier, writes);
                }
            }
            writes.extend(forget);
            let bytes = weight_of(&writes);
            (store(writes, stored), bytes)
        });
        drop(retained);
        Ok(Kept { ticket, bytes, queued_for })
    }

    /// Queues a message for each session, and stores all rows as one batch.
    fn queue<T>(
        &self,
        routed: &Arc<Routed>,
        mut matches: Vec<Match>,
        rows_stored: Stored,
        mut writes: Vec<Write>,
        store: impl FnOnce(Vec<Write>, Stored) -> T,
    ) -> T {
        // In one order of locks, so that two publishers never wait for each other.
        matches.sort_by_key(|matched| matched.slot.number);
        let mut queued = Vec::with_capacity(matches.len());
        let stored = {
            let by_slot = matches.chunk_by(|one, other| Arc::ptr_eq(&one.slot, &other.slot));
            let mut states: Vec<_> =
                by_slot.filter_map(|same| same.first().map(|first| (same, lock(&first.slot.state)))).collect();
            for (same, state) in &mut states {
                queued.extend(same.iter().map(|matched| {
                    // What is shared is offered to nobody.
                    match matched.share.is_none() && self.was_offered(state, &matched.slot, routed) {
                        true => Queued::Whole,
                        false => matched.queue(state, routed, &mut writes, &rows_stored),
                    }
                }));
            }
            // Under the locks, so that a row is stored before its deletion.
            store(writes, rows_stored)
        };
        for (matched, queued) in matches.iter().zip(queued) {
            match (queued, &matched.share) {
                (Queued::Whole, _) => matched.slot.wake.notify_one(),
                (Queued::WithLoss(lost, is_first), _) => {
                    self.counters.lost.fetch_add(lost, Ordering::Relaxed);
                    if is_first {
                        self.record_loss(&matched.slot);
                    }
                    matched.slot.wake.notify_one();
                }
                (Queued::TooLate, Some(group)) => self.share_again(group, routed, Vec::new()),
                (Queued::TooLate, None) => {}
            }
        }
        stored
    }

    /// Gives a message of a group to another member, if there is one. `forget` are the rows by which the member that had it
    /// loses it: they go with its new rows, after them, so that a power cut leaves it with one of the two.
    pub(super) fn share_again(&self, group: &SubscriptionFilter, routed: &Arc<Routed>, forget: Vec<Write>) {
        match self.shared.choose_of(group, &routed.topic, routed.message.qos) {
            Some(matched) => self.queue(routed, vec![matched], Stored::of_a_promise(), Vec::new(), |mut writes, stored| {
                writes.extend(forget);
                drop(self.persister.store_and_tell(writes, stored));
            }),
            None => self.persister.store_some_time(forget),
        }
    }

    fn record_loss(&self, slot: &Slot) {
        tracing::warn!(client_identifier = %slot.key.client_identifier, "a kept session's queue is full: the oldest messages go");
        self.gate.record(SessionEvent {
            client_identifier: slot.key.client_identifier.clone(),
            principal: Some(slot.key.principal.clone()),
            peer: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
            what: Happening::Limited { limit: "queue of a kept session is full: the oldest messages are dropped".to_owned() },
        });
    }
}

impl Match {
    fn queue(&self, state: &mut SlotState, routed: &Arc<Routed>, writes: &mut Vec<Write>, stored: &Stored) -> Queued {
        let slot = &self.slot;
        if state.is_discarded {
            return Queued::TooLate;
        }
        let is_promised = self.qos != QoS::AtMostOnce;
        // A session that ends with its connection is cut rather than told less than it was promised.
        if !slot.is_durable && state.session.outbound.is_full() {
            state.lost += u64::from(is_promised);
            return Queued::WithLoss(1, false);
        }
        let pending = Pending {
            retain: self.retain_as_published && routed.message.retain,
            subscription_identifiers: self.identifiers.as_slice().into(),
            share: self.share.clone(),
            ..Pending::of(routed.clone(), self.qos)
        };
        let Some(pending) = slot.prepare(state, pending, writes, stored) else {
            state.dropped += 1;
            return Queued::WithLoss(1, !std::mem::replace(&mut state.overflowed, true));
        };
        let mut lost = 0;
        for dropped in state.session.outbound.offer(pending) {
            let pending = match &dropped {
                Discarded::Refused(pending) => {
                    writes.extend(slot.forget_row(pending));
                    continue;
                }
                Discarded::Gone(pending) => {
                    writes.extend(slot.forget_row(pending));
                    pending
                }
                Discarded::Released(pending) => {
                    writes.extend(slot.release_row(pending, None));
                    pending
                }
            };
            lost += 1;
            state.dropped += 1;
            state.lost += u64::from(!slot.is_durable && pending.qos != QoS::AtMostOnce);
        }
        if lost == 0 {
            return Queued::Whole;
        }
        let is_first = slot.is_durable && !std::mem::replace(&mut state.overflowed, true);
        Queued::WithLoss(lost, is_first)
    }
}

impl Slot {
    /// Gives a message what it needs to outlive the hub, if the session does: a position, a packet identifier, rows.
    /// Nothing if no packet identifier is free for a message that counts.
    /// `stored` is to be settled when it is known whether the rows are.
    pub(super) fn prepare(
        &self,
        state: &mut SlotState,
        pending: Pending,
        writes: &mut Vec<Write>,
        stored: &Stored,
    ) -> Option<Pending> {
        if !self.is_durable || pending.qos == QoS::AtMostOnce {
            // Had one member seen it, and a power cut taken it back, its publisher's repetition would go to another.
            let is_for_one = pending.share.is_some() && pending.qos == QoS::ExactlyOnce;
            return Some(Pending { stored: is_for_one.then(|| stored.clone()), ..pending });
        }
        let Some(reserved) = state.session.outbound.reserve(pending.is_extra) else {
            // More is retained than there are packet identifiers: it comes all the same, but does not outlive the hub.
            return pending.is_extra.then_some(pending);
        };
        let position = state.next_position;
        state.next_position += 1;
        let pending = Pending { row: Some(position), reserved: Some(reserved), stored: Some(stored.clone()), ..pending };
        writes.extend(rows::put_queued(self.number, position, &pending));
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{
        packet::{RetainHandling, SubscriptionOptions},
        session::{QueueBounds, Session},
    };
    use hearthkey_core::{DeviceId, Seconds};

    const BOUNDS: QueueBounds = QueueBounds { messages: 9, bytes: 9_000 };

    fn slot(number: u64, expiry: Seconds) -> Arc<Slot> {
        let principal = Principal::Device(DeviceId::parse(&format!("lamp-{number}")).expect("legal"));
        Arc::new(Slot::new(SessionKey { principal, client_identifier: "".into() }, number, expiry, BOUNDS))
    }

    fn subscription(filter: &str, qos: QoS, identifier: u32) -> Subscription {
        let filter = SubscriptionFilter::parse(filter).expect("legal");
        let options =
            SubscriptionOptions { qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send };
        Session::new(BOUNDS).subscribe(filter, options, Some(identifier), 1).expect("room").0
    }

    fn matches(subscriptions: &DirectSubscriptions, topic: &str) -> Vec<(u64, QoS, Vec<u32>)> {
        let topic = TopicName::parse(topic).expect("legal");
        let found = subscriptions.matches(&topic, QoS::ExactlyOnce, None).into_iter();
        let mut found: Vec<_> = found.map(|found| (found.slot.number, found.qos, found.identifiers)).collect();
        found.iter_mut().for_each(|(_, _, identifiers)| identifiers.sort_unstable());
        found.sort_unstable_by_key(|(number, _, _)| *number);
        found
    }

    #[test]
    fn a_device_whose_session_is_not_kept_is_filed_for_commands_alone() {
        let subscriptions = DirectSubscriptions::default();
        let brief = slot(1, Seconds(0));
        let mode = subscription("home/mode", QoS::AtLeastOnce, 1);
        subscriptions.put(&brief, &mode);
        assert!(!subscriptions.is_used.load(Ordering::Relaxed));
        subscriptions.remove(&brief, &mode);
        let commands = subscription("dev/+/cmd/#", QoS::AtLeastOnce, 2);
        subscriptions.put(&brief, &commands);
        assert_eq!(matches(&subscriptions, "dev/lamp-1/cmd/x"), [(1, QoS::AtLeastOnce, vec![2])]);
        subscriptions.put(&brief, &subscription("#", QoS::AtLeastOnce, 3));
        assert_eq!(matches(&subscriptions, "home/mode"), []);
        subscriptions.put(&slot(2, Seconds(9)), &mode);
        assert_eq!(matches(&subscriptions, "home/mode"), [(2, QoS::AtLeastOnce, vec![1])]);
    }

    #[test]
    fn a_session_gets_one_message_however_many_of_its_subscriptions_match() {
        let subscriptions = DirectSubscriptions::default();
        let slots: Vec<_> = (1..=3).map(|number| slot(number, Seconds(9))).collect();
        for slot in &slots {
            for (identifier, filter, qos) in [(1, "home/+", QoS::ExactlyOnce), (2, "home/mode", QoS::AtLeastOnce)] {
                let mut subscription = subscription(filter, qos, identifier);
                subscription.number = identifier;
                subscriptions.put(slot, &subscription);
            }
        }
        let each = |number| (number, QoS::ExactlyOnce, vec![1, 2]);
        assert_eq!(matches(&subscriptions, "home/mode"), [each(1), each(2), each(3)]);
    }
}
