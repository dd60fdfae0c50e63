//! One MQTT session: its subscriptions, the messages on their way to the client, and the QoS 2 publishes that the client has
//! not released. Pure; knows nothing of sockets, rights and rows. A session outlives its connection if the client asked for it.

#[cfg(test)]
mod tests;

use super::{
    message::{QoS, Routed},
    packet::SubscriptionOptions,
};
use hearthkey_core::topic::{SubscriptionFilter, TopicFilter};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
};

/// What a session keeps between connections.
#[derive(Debug)]
pub struct Session {
    /// In the order of their names: a list, since most sessions have few or none.
    subscriptions: Vec<Subscription>,
    next_number: u32,
    /// What is on its way.
    pub outbound: Outbound,
    /// The packet identifiers of QoS 2 publishes that were taken and that the client has not released by PUBREL: the same
    /// again is a repetition. As many as there are identifiers; MQTT 5 clients keep to the Receive Maximum. What the store
    /// refused was carried all the same: it is to be kept when the client repeats it, and not carried again.
    pub unreleased: BTreeMap<u16, Stored>,
}

/// One subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The group that shares the messages, if it is a shared subscription.
    pub share_name: Option<Box<str>>,
    /// What is subscribed to.
    pub filter: TopicFilter,
    /// How it is delivered; the QoS is the granted one.
    pub options: SubscriptionOptions,
    /// Subscription Identifier.
    pub identifier: Option<u32>,
    /// Our number for it within the session; stays when the client subscribes anew.
    pub number: u32,
}

/// No more subscriptions fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManySubscriptions;

impl Session {
    /// A session without subscriptions.
    #[must_use]
    pub fn new(bounds: QueueBounds) -> Self {
        Self { subscriptions: Vec::new(), next_number: 1, outbound: Outbound::new(bounds), unreleased: BTreeMap::new() }
    }

    /// Adds a subscription or replaces the one of the same filter. Tells whether it is new.
    ///
    /// # Errors
    /// [`TooManySubscriptions`] at `max`.
    pub fn subscribe(
        &mut self,
        asked: SubscriptionFilter,
        options: SubscriptionOptions,
        identifier: Option<u32>,
        max: usize,
    ) -> Result<(Subscription, bool), TooManySubscriptions> {
        let earlier = self.position(&asked).ok().and_then(|at| self.subscriptions.get(at)).map(|earlier| earlier.number);
        if earlier.is_none() && self.subscriptions.len() >= max {
            return Err(TooManySubscriptions);
        }
        let number = earlier.unwrap_or(self.next_number);
        let SubscriptionFilter { share_name, filter } = asked;
        let subscription = Subscription { share_name, filter, options, identifier, number };
        self.restore_subscription(subscription.clone());
        Ok((subscription, earlier.is_none()))
    }

    /// Puts a subscription back as it was.
    pub fn restore_subscription(&mut self, subscription: Subscription) {
        self.next_number = self.next_number.max(subscription.number.saturating_add(1));
        let at = self.position(&subscription.name());
        match at.map(|at| self.subscriptions.get_mut(at)) {
            Ok(Some(earlier)) => *earlier = subscription,
            Ok(None) => {}
            Err(at) => self.subscriptions.insert(at, subscription),
        }
    }

    /// Removes a subscription.
    pub fn unsubscribe(&mut self, filter: &SubscriptionFilter) -> Option<Subscription> {
        self.position(filter).ok().map(|at| self.subscriptions.remove(at))
    }

    /// All subscriptions.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.iter()
    }

    /// Where the subscription of this name is, or would be.
    fn position(&self, name: &SubscriptionFilter) -> Result<usize, usize> {
        let wanted = (&name.share_name, &name.filter);
        self.subscriptions.binary_search_by(|held| (&held.share_name, &held.filter).cmp(&wanted))
    }
}

impl Subscription {
    /// What the client calls it.
    #[must_use]
    pub fn name(&self) -> SubscriptionFilter {
        SubscriptionFilter { share_name: self.share_name.clone(), filter: self.filter.clone() }
    }
}

/// Subscriptions in the order of their numbers.
#[derive(Debug, Default)]
pub struct SubscriptionsByNumber(Vec<Subscription>);

impl From<Vec<Subscription>> for SubscriptionsByNumber {
    fn from(mut subscriptions: Vec<Subscription>) -> Self {
        subscriptions.sort_unstable_by_key(|subscription| subscription.number);
        Self(subscriptions)
    }
}

impl SubscriptionsByNumber {
    /// The subscription of a number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Subscription> {
        self.position(number).ok().and_then(|at| self.0.get(at))
    }

    /// Adds a subscription, in place of the one of its number.
    pub fn insert(&mut self, subscription: Subscription) {
        match self.position(subscription.number).map(|at| self.0.get_mut(at)) {
            Ok(Some(earlier)) => *earlier = subscription,
            Ok(None) => {}
            Err(at) => self.0.insert(at, subscription),
        }
    }

    /// Removes the subscription of a number.
    pub fn remove(&mut self, number: u32) -> Option<Subscription> {
        self.position(number).ok().map(|at| self.0.remove(at))
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn position(&self, number: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&number, |subscription| subscription.number)
    }
}

/// What may wait for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueBounds {
    /// Messages.
    pub messages: usize,
    /// Bytes.
    pub bytes: usize,
}

/// A message that waits for the client, or for the client's acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The message.
    pub routed: Arc<Routed>,
    /// The QoS of this delivery.
    pub qos: QoS,
    /// The RETAIN flag of this delivery.
    pub retain: bool,
    /// The Subscription Identifiers of this delivery.
    pub subscription_identifiers: Box<[u32]>,
    /// The position of its stored row, if it has one.
    pub row: Option<u64>,
    /// The packet identifier that it will have: stored with the message, so that after a power cut it is sent as what the
    /// client may know already (MQTT-4.4.0-1).
    pub reserved: Option<Reserved>,
    /// The group whose message it is, if it is shared: another member may get it if this session ends, or may not see it.
    pub share: Option<Arc<SubscriptionFilter>>,
    /// What it waits for before it is sent, with QoS 2: had the client seen it, and a power cut taken it back, its publisher's
    /// repetition would be a second one.
    pub stored: Option<Stored>,
    /// Whether it waits beyond the bounds of the queue, and no other message makes it go: what was retained, and a command
    /// that waited, come because the client subscribed.
    pub is_extra: bool,
}

impl Pending {
    /// A message without anything that is special about it.
    #[must_use]
    pub fn of(routed: Arc<Routed>, qos: QoS) -> Self {
        Self {
            routed,
            qos,
            retain: false,
            subscription_identifiers: Box::default(),
            row: None,
            reserved: None,
            share: None,
            stored: None,
            is_extra: false,
        }
    }

    /// Whether the store refused it: it counts as never published.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.stored.as_ref().is_some_and(Stored::is_refused)
    }

    /// The packet identifier under which the client may know it as a QoS 2 message.
    fn known(&self) -> Option<Reserved> {
        self.reserved.filter(|reserved| reserved.may_be_known && self.qos == QoS::ExactlyOnce)
    }
}

/// Whether rows are durable: shared by the store and those who wait for it.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Nothing as long as nobody knows.
    is_kept: Arc<OnceLock<bool>>,
    is_promised: bool,
}

impl Stored {
    /// Of a message that nobody will repeat: it is sent even if its rows were refused.
    #[must_use]
    pub fn of_a_promise() -> Self {
        Self { is_promised: true, ..Self::default() }
    }

    /// They are durable, or never will be. The first word stands.
    pub fn settle(&self, is_durable: bool) {
        let _ = self.is_kept.set(is_durable || self.is_promised);
    }

    /// Whether it is known.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_kept.get().is_some()
    }

    /// Whether the message counts as never published: its publisher was told so, and will repeat it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.is_kept.get() == Some(&false)
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.is_kept.get() == other.is_kept.get()
    }
}

impl Eq for Stored {}

/// A packet identifier that is set apart for a message that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    /// The identifier.
    pub packet_identifier: u16,
    /// Whether an earlier run of the hub may have sent the message.
    pub may_be_known: bool,
}

/// The messages on their way to one client: a queue, then the window of those whose exchange has not ended.
#[derive(Debug)]
pub struct Outbound {
    bounds: QueueBounds,
    window: usize,
    last_packet_identifier: u16,
    queue: Queue,
    /// The packet identifiers that messages in the queue will have.
    reserved: BTreeSet<u16>,
    /// In the order of their first sending, which is also the order of repetition (MQTT 5 section 4.6).
    in_flight: VecDeque<InFlight>,
    /// How many of `in_flight`, from the front, were sent on this connection.
    repeated: usize,
}

/// What waits to be sent, in the order in which it came: two lanes, so that the oldest that counts is found at once.
#[derive(Debug, Default)]
struct Queue {
    counted: Lane,
    /// What waits beyond the bounds.
    extra: Lane,
    next_turn: u64,
}

#[derive(Debug, Default)]
struct Lane {
    /// Each with its turn among both lanes.
    messages: VecDeque<(u64, Pending)>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, pending: Pending) {
        let turn = self.next_turn;
        self.next_turn += 1;
        let lane = if pending.is_extra { &mut self.extra } else { &mut self.counted };
        lane.bytes += pending.routed.weight();
        lane.messages.push_back((turn, pending));
    }

    /// Into the lane of what does not count: it shares the turn of that before which it comes.
    fn insert_before(&mut self, pending: Pending, comes_later: impl Fn(&Pending) -> bool) {
        let first = |lane: &Lane| lane.messages.iter().find(|(_, queued)| comes_later(queued)).map(|(turn, _)| *turn);
        let Some(turn) = [first(&self.extra), first(&self.counted)].into_iter().flatten().min() else {
            self.push(pending);
            return;
        };
        let is_behind = |(other, queued): &(u64, Pending)| *other > turn || *other == turn && comes_later(queued);
        let place = self.extra.messages.iter().position(is_behind).unwrap_or(self.extra.messages.len());
        self.extra.bytes += pending.routed.weight();
        self.extra.messages.insert(place, (turn, pending));
    }

    fn front(&self) -> Option<&Pending> {
        let (counted, extra) = (self.counted.messages.front(), self.extra.messages.front());
        // Of one turn the extra ones come first.
        [extra, counted].into_iter().flatten().min_by_key(|(turn, _)| turn).map(|(_, pending)| pending)
    }

    fn pop(&mut self) -> Option<Pending> {
        let is_extra = self.front()?.is_extra;
        if is_extra { &mut self.extra } else { &mut self.counted }.pop()
    }

    /// The head, if the store refused it.
    fn pop_refused(&mut self) -> Option<Pending> {
        self.front().filter(|head| head.is_refused())?;
        self.pop()
    }

    /// Oldest first in each lane.
    fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.counted.messages.iter().chain(&self.extra.messages).map(|(_, pending)| pending)
    }

    fn len(&self) -> usize {
        self.counted.messages.len() + self.extra.messages.len()
    }
}

impl Lane {
    fn pop(&mut self) -> Option<Pending> {
        let (_, pending) = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(pending.routed.weight());
        Some(pending)
    }

    /// The newest, if the store refused it.
    fn pop_refused(&mut self) -> Option<Pending> {
        self.messages.back().filter(|(_, newest)| newest.is_refused())?;
        let (_, pending) = self.messages.pop_back()?;
        self.bytes = self.bytes.saturating_sub(pending.routed.weight());
        Some(pending)
    }
}

#[derive(Debug)]
struct InFlight {
    packet_identifier: u16,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// PUBLISH was sent: until PUBACK or PUBREC. Kept for repetition after a resumption; not if the session ends with its
    /// connection.
    Published { qos: QoS, kept: Option<Pending> },
    /// QoS 2: the client has the message, or is not to have it: until PUBCOMP. The position of the stored row, if it has one.
    Released { row: Option<u64> },
}

/// What is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// Once more, with DUP.
    Again(u16, &'a Pending),
    /// For the first time on this connection.
    First(&'a Pending),
    /// PUBREL.
    Release(u16),
}

/// What became of a message that was not to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discarded {
    /// It is gone.
    Gone(Pending),
    /// The client may know it as a QoS 2 message: it is gone, and its packet identifier is to be released.
    Released(Pending),
    /// The store refused it: it counts as never published.
    Refused(Pending),
}

/// What a PUBREC means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// The client has the message: it may be forgotten, if it was kept, and PUBREL follows.
    First(Option<Pending>),
    /// It said so before: PUBREL follows once more.
    Again,
    /// No such message is on its way.
    Unknown,
}

/// Whether a message is to be kept for repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The session outlives its connection.
    ForRepetition,
    /// It does not.
    No,
}

/// Most packet identifiers that are set apart, of 65,535: the window needs some too. `queued_messages` may use most of them.
const MAX_RESERVED: usize = 40_000;
/// Largest window: the largest `in_flight`.
const MAX_WINDOW: usize = 16_384;

impl Outbound {
    fn new(bounds: QueueBounds) -> Self {
        Self {
            bounds,
            window: 0,
            last_packet_identifier: 0,
            queue: Queue::default(),
            reserved: BTreeSet::new(),
            in_flight: VecDeque::new(),
            repeated: 0,
        }
    }

    /// A connection begins: unacknowledged messages are to be repeated, at most `window` are unacknowledged at a time.
    pub fn resume(&mut self, window: usize) {
        self.window = window.min(MAX_WINDOW);
        self.repeated = 0;
    }

    /// Sets a packet identifier apart for a message that will be queued; nothing if too many are. What waits beyond the bounds
    /// leaves enough for what counts.
    pub fn reserve(&mut self, is_extra: bool) -> Option<Reserved> {
        let left_free = if is_extra { self.bounds.messages + 1 } else { 0 };
        if self.reserved.len() + left_free >= MAX_RESERVED {
            return None;
        }
        let packet_identifier = self.free_identifier()?;
        self.reserved.insert(packet_identifier);
        Some(Reserved { packet_identifier, may_be_known: false })
    }

    /// Puts back a packet identifier that an earlier run of the hub was about to release.
    pub fn restore_released(&mut self, packet_identifier: u16, row: u64) {
        self.in_flight.push_back(InFlight { packet_identifier, stage: Stage::Released { row: Some(row) } });
    }

    /// Queues a message. Returns what had to go: what the store refused meanwhile, and the oldest ones, in order, to stay within
    /// the bounds.
    pub fn offer(&mut self, pending: Pending) -> Vec<Discarded> {
        let mut dropped = Vec::new();
        while let Some(refused) = self.queue.counted.pop_refused() {
            self.release(&refused);
            dropped.push(Discarded::Refused(refused));
        }
        self.offer_unbounded(pending);
        while self.queue.counted.messages.len() > self.bounds.messages || self.queue.counted.bytes > self.bounds.bytes {
            let oldest = self.queue.counted.pop();
            match oldest.map(|oldest| self.discard(oldest)) {
                Some(oldest) => dropped.push(oldest),
                None => break,
            }
        }
        dropped
    }

    /// Queues a message whatever the bounds: what does not count, what was stored, and what comes from the fabric, of which
    /// nothing is taken once the queue is full.
    pub fn offer_unbounded(&mut self, pending: Pending) {
        self.reserved.extend(pending.reserved.map(|reserved| reserved.packet_identifier));
        self.queue.push(pending);
    }

    /// Whether so much may wait beyond the bounds besides what does already. The first always may.
    #[must_use]
    pub fn has_room_for_extra(&self, offered: QueueBounds, most: QueueBounds) -> bool {
        let Lane { messages, bytes } = &self.queue.extra;
        messages.is_empty() || messages.len() + offered.messages <= most.messages && bytes + offered.bytes <= most.bytes
    }

    /// Queues a message that does not count and has no packet identifier yet, before the first that `comes_later`.
    pub fn offer_before(&mut self, pending: Pending, comes_later: impl Fn(&Pending) -> bool) {
        self.queue.insert_before(Pending { is_extra: true, ..pending }, comes_later);
    }

    /// What the head of the queue waits for.
    #[must_use]
    pub fn awaited(&self) -> Option<Stored> {
        self.queue.front()?.stored.clone().filter(|stored| !stored.is_settled())
    }

    /// Takes the head of the queue if the store refused it.
    pub fn take_refused(&mut self) -> Option<Pending> {
        self.queue.pop_refused().inspect(|refused| self.release(refused))
    }

    /// What can be sent now.
    #[must_use]
    pub fn next(&self) -> Option<Next<'_>> {
        if self.repeated < self.in_flight.len() {
            let InFlight { packet_identifier, stage } = self.in_flight.get(self.repeated)?;
            return match stage {
                Stage::Released { .. } => Some(Next::Release(*packet_identifier)),
                // A window may shrink between connections: repetitions respect it too.
                Stage::Published { kept, .. } if self.repeated < self.window => {
                    kept.as_ref().map(|pending| Next::Again(*packet_identifier, pending))
                }
                Stage::Published { .. } => None,
            };
        }
        let is_ready = |stored: &Stored| stored.is_settled() && !stored.is_refused();
        let head = self.queue.front().filter(|head| head.stored.as_ref().is_none_or(is_ready))?;
        (head.qos == QoS::AtMostOnce || self.in_flight.len() < self.window).then_some(Next::First(head))
    }

    /// What [`Outbound::next`] showed is being sent. Returns its packet identifier if it is a new one.
    pub fn sent(&mut self, keep: Keep) -> Option<u16> {
        if self.repeated < self.in_flight.len() {
            self.repeated += 1;
            return None;
        }
        let pending = self.queue.pop()?;
        self.release(&pending);
        match pending.qos {
            QoS::AtMostOnce => None,
            qos @ (QoS::AtLeastOnce | QoS::ExactlyOnce) => {
                let reserved = pending.reserved.map(|reserved| reserved.packet_identifier);
                let is_kept = keep == Keep::ForRepetition || pending.share.is_some();
                Some(self.enter_window(reserved, qos, is_kept.then_some(pending)))
            }
        }
    }

    /// What [`Outbound::next`] showed is not to be sent at all.
    pub fn discard_next(&mut self) -> Option<Discarded> {
        if self.repeated < self.in_flight.len() {
            let in_flight = self.in_flight.get_mut(self.repeated)?;
            if let Stage::Published { qos: QoS::ExactlyOnce, kept } = &mut in_flight.stage {
                let kept = kept.take()?;
                in_flight.stage = Stage::Released { row: kept.row };
                return Some(Discarded::Released(kept));
            }
            return match self.in_flight.remove(self.repeated)?.stage {
                Stage::Published { kept, .. } => kept.map(Discarded::Gone),
                Stage::Released { .. } => None,
            };
        }
        let head = self.queue.pop()?;
        Some(self.discard(head))
    }

    /// Drops what was taken from the queue. If the client may know it as a QoS 2 message, its packet identifier is nobody else's
    /// until the client has let it go. Of more than a window can hold the client knows nothing.
    fn discard(&mut self, pending: Pending) -> Discarded {
        self.release(&pending);
        match pending.known().filter(|_| self.in_flight.len() < MAX_WINDOW) {
            Some(Reserved { packet_identifier, .. }) => {
                self.in_flight.push_back(InFlight { packet_identifier, stage: Stage::Released { row: pending.row } });
                Discarded::Released(pending)
            }
            None => Discarded::Gone(pending),
        }
    }

    /// Whether a message may pass the queue: nothing waits, and there is room in the window.
    #[must_use]
    pub fn may_bypass(&self, qos: QoS) -> bool {
        self.queue.len() == 0
            && self.repeated == self.in_flight.len()
            && (qos == QoS::AtMostOnce || self.in_flight.len() < self.window)
    }

    /// A QoS 1 or 2 message that passes the queue and is not repeated gets its packet identifier.
    pub fn bypass(&mut self, qos: QoS) -> u16 {
        self.enter_window(None, qos, None)
    }

    /// The exchange of a message has ended: PUBACK for QoS 1; PUBREC with a refusal for QoS 2. Nothing if the client was not
    /// asked; else the message, if it was kept.
    pub fn acknowledge(&mut self, packet_identifier: u16, of: QoS) -> Option<Option<Pending>> {
        let index = self.index_of(packet_identifier).filter(|&index| index < self.repeated)?;
        match self.in_flight.get(index)?.stage {
            Stage::Published { qos, .. } if qos == of => {}
            Stage::Published { .. } | Stage::Released { .. } => return None,
        }
        self.repeated -= 1;
        match self.in_flight.remove(index)?.stage {
            Stage::Published { kept, .. } => Some(kept),
            Stage::Released { .. } => None,
        }
    }

    /// PUBREC: the client has a QoS 2 message.
    pub fn received(&mut self, packet_identifier: u16) -> Received {
        let found = self.index_of(packet_identifier).and_then(|index| self.in_flight.get_mut(index));
        match found.map(|in_flight| &mut in_flight.stage) {
            Some(Stage::Released { .. }) => Received::Again,
            Some(stage @ Stage::Published { qos: QoS::ExactlyOnce, .. }) => {
                let row = stage.kept().and_then(|kept| kept.row);
                match std::mem::replace(stage, Stage::Released { row }) {
                    Stage::Published { kept, .. } => Received::First(kept),
                    Stage::Released { .. } => Received::Again,
                }
            }
            Some(Stage::Published { .. }) | None => Received::Unknown,
        }
    }

    /// PUBCOMP: the exchange of a QoS 2 message has ended. Nothing if the client was not asked; else the position of the
    /// stored row, if there is one.
    pub fn completed(&mut self, packet_identifier: u16) -> Option<Option<u64>> {
        let index = self.index_of(packet_identifier)?;
        let Stage::Released { row } = self.in_flight.get(index)?.stage else { return None };
        self.in_flight.remove(index);
        self.repeated -= usize::from(index < self.repeated);
        Some(row)
    }

    /// Whether nothing more should be fetched for this client.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let Lane { messages, bytes } = &self.queue.counted;
        messages.len() >= self.bounds.messages || *bytes >= self.bounds.bytes
    }

    /// Messages that wait, and those whose exchange has not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// How many more messages the client takes before it acknowledges one.
    #[must_use]
    pub fn room(&self) -> usize {
        self.window.saturating_sub(self.len())
    }

    /// Whether nothing waits for the client or for its acknowledgement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All messages that are kept, oldest first, each with the group of which another member may get it if the session ends
    /// now. Not what was sent with QoS 2, or may have been (MQTT-4.8.2-5), nor what the store refused.
    pub fn kept_and_groups(&self) -> impl Iterator<Item = (&Pending, Option<&Arc<SubscriptionFilter>>)> {
        let sent = self.in_flight.iter().filter_map(|in_flight| in_flight.stage.kept());
        let sent = sent.map(|pending| (pending, pending.qos == QoS::AtLeastOnce));
        let queued = self.queue.iter().map(|pending| (pending, pending.known().is_none() && !pending.is_refused()));
        sent.chain(queued).map(|(pending, is_free)| (pending, pending.share.as_ref().filter(|_| is_free)))
    }

    /// The positions of the rows of released packet identifiers.
    pub fn released(&self) -> impl Iterator<Item = u64> {
        self.in_flight.iter().filter_map(|in_flight| match in_flight.stage {
            Stage::Released { row } => row,
            Stage::Published { .. } => None,
        })
    }

    fn index_of(&self, packet_identifier: u16) -> Option<usize> {
        self.in_flight.iter().position(|in_flight| in_flight.packet_identifier == packet_identifier)
    }

    /// The packet identifier of a message that waits no more is set apart no more.
    fn release(&mut self, pending: &Pending) {
        if let Some(reserved) = pending.reserved {
            self.reserved.remove(&reserved.packet_identifier);
        }
    }

    fn free_identifier(&mut self) -> Option<u16> {
        (0..u16::MAX).find_map(|_| {
            self.last_packet_identifier = self.last_packet_identifier.checked_add(1).unwrap_or(1);
            let candidate = self.last_packet_identifier;
            (!self.reserved.contains(&candidate) && self.index_of(candidate).is_none()).then_some(candidate)
        })
    }

    fn enter_window(&mut self, reserved: Option<u16>, qos: QoS, kept: Option<Pending>) -> u16 {
        let packet_identifier = reserved
            .or_else(|| self.free_identifier())
            .expect("reserved identifiers and the window together are fewer than all identifiers");
        self.in_flight.push_back(InFlight { packet_identifier, stage: Stage::Published { qos, kept } });
        self.repeated += 1;
        packet_identifier
    }
}

impl Stage {
    const fn kept(&self) -> Option<&Pending> {
        match self {
            Self::Published { kept, .. } => kept.as_ref(),
            Self::Released { .. } => None,
        }
    }
}
