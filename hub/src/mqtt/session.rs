//! One MQTT session: its subscriptions, and the messages on their way to the client. Pure; knows nothing of sockets, rights
//! and rows. A session outlives its connection if the client asked for it.

use super::{
    message::{QoS, Routed},
    packet::SubscriptionOptions,
};
use hearthkey_core::topic::TopicFilter;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// What a session keeps between connections.
#[derive(Debug)]
pub struct Session {
    /// By filter.
    subscriptions: BTreeMap<TopicFilter, Subscription>,
    next_number: u32,
    /// What is on its way.
    pub outbound: Outbound,
}

/// One subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
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
        Self { subscriptions: BTreeMap::new(), next_number: 1, outbound: Outbound::new(bounds) }
    }

    /// Adds a subscription or replaces the one of the same filter. Tells whether it is new.
    ///
    /// # Errors
    /// [`TooManySubscriptions`] at `max`.
    pub fn subscribe(
        &mut self,
        filter: TopicFilter,
        options: SubscriptionOptions,
        identifier: Option<u32>,
        max: usize,
    ) -> Result<(Subscription, bool), TooManySubscriptions> {
        let earlier = self.subscriptions.get(&filter).map(|earlier| earlier.number);
        if earlier.is_none() && self.subscriptions.len() >= max {
            return Err(TooManySubscriptions);
        }
        let number = earlier.unwrap_or(self.next_number);
        let subscription = Subscription { filter: filter.clone(), options, identifier, number };
        self.restore_subscription(subscription.clone());
        Ok((subscription, earlier.is_none()))
    }

    /// Puts a subscription back as it was.
    pub fn restore_subscription(&mut self, subscription: Subscription) {
        self.next_number = self.next_number.max(subscription.number.saturating_add(1));
        self.subscriptions.insert(subscription.filter.clone(), subscription);
    }

    /// Removes a subscription.
    pub fn unsubscribe(&mut self, filter: &TopicFilter) -> Option<Subscription> {
        self.subscriptions.remove(filter)
    }

    /// All subscriptions.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.values()
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
}

/// The messages on their way to one client: a queue, then the window of those that it has not acknowledged.
#[derive(Debug)]
pub struct Outbound {
    bounds: QueueBounds,
    window: usize,
    last_packet_identifier: u16,
    queue: VecDeque<Pending>,
    queued_bytes: usize,
    /// In the order of their first sending, which is also the order of repetition (MQTT 5 section 4.6).
    in_flight: VecDeque<InFlight>,
    /// How many of `in_flight`, from the front, were sent on this connection.
    repeated: usize,
}

#[derive(Debug)]
struct InFlight {
    packet_identifier: u16,
    /// For repetition after a resumption; none if the session ends with its connection.
    kept: Option<Pending>,
}

/// What is to be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// Once more, with DUP.
    Again(u16, &'a Pending),
    /// For the first time.
    First(&'a Pending),
}

/// Whether a message is to be kept for repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The session outlives its connection.
    ForRepetition,
    /// It does not.
    No,
}

impl Outbound {
    fn new(bounds: QueueBounds) -> Self {
        Self {
            bounds,
            window: 0,
            last_packet_identifier: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            in_flight: VecDeque::new(),
            repeated: 0,
        }
    }

    /// A connection begins: unacknowledged messages are to be repeated, at most `window` are unacknowledged at a time.
    pub fn resume(&mut self, window: usize) {
        self.window = window;
        self.repeated = 0;
    }

    /// Queues a message. Returns the oldest ones, in order, that had to go to stay within the bounds.
    pub fn offer(&mut self, pending: Pending) -> Vec<Pending> {
        self.queued_bytes += pending.routed.weight();
        self.queue.push_back(pending);
        let mut dropped = Vec::new();
        while self.queue.len() > self.bounds.messages || self.queued_bytes > self.bounds.bytes {
            match self.pop_queue() {
                Some(oldest) => dropped.push(oldest),
                None => break,
            }
        }
        dropped
    }

    /// Queues a message in front of nobody's bound: kept messages, which share their content with the store of kept messages,
    /// and commands that waited, which are few.
    pub fn offer_retained(&mut self, pending: Pending) {
        self.queued_bytes += pending.routed.weight();
        self.queue.push_back(pending);
    }

    /// What can be sent now.
    #[must_use]
    pub fn next(&self) -> Option<Next<'_>> {
        // A window may shrink between connections: repetitions respect it too.
        if self.repeated < self.in_flight.len() {
            let in_flight = self.in_flight.get(self.repeated).filter(|_| self.repeated < self.window)?;
            return in_flight.kept.as_ref().map(|pending| Next::Again(in_flight.packet_identifier, pending));
        }
        let head = self.queue.front()?;
        (head.qos == QoS::AtMostOnce || self.in_flight.len() < self.window).then_some(Next::First(head))
    }

    /// What [`Outbound::next`] showed is being sent. Returns its packet identifier if it has one.
    pub fn sent(&mut self, keep: Keep) -> Option<u16> {
        if self.repeated < self.in_flight.len() {
            self.repeated += 1;
            return None;
        }
        let pending = self.pop_queue()?;
        match pending.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                Some(self.enter_window(if keep == Keep::ForRepetition { Some(pending) } else { None }))
            }
        }
    }

    /// What [`Outbound::next`] showed is not to be sent at all.
    pub fn discard_next(&mut self) -> Option<Pending> {
        if self.repeated < self.in_flight.len() {
            return self.in_flight.remove(self.repeated).and_then(|in_flight| in_flight.kept);
        }
        self.pop_queue()
    }

    /// Whether a message may pass the queue: nothing waits, and there is room in the window.
    #[must_use]
    pub fn may_bypass(&self, qos: QoS) -> bool {
        self.queue.is_empty()
            && self.repeated == self.in_flight.len()
            && (qos == QoS::AtMostOnce || self.in_flight.len() < self.window)
    }

    /// A QoS 1 message that passes the queue and is not repeated gets its packet identifier.
    pub fn bypass(&mut self) -> u16 {
        self.enter_window(None)
    }

    /// The client has acknowledged. Nothing if it was not asked; else the message, if it was kept.
    pub fn acknowledge(&mut self, packet_identifier: u16) -> Option<Option<Pending>> {
        let index = self.in_flight.iter().position(|in_flight| in_flight.packet_identifier == packet_identifier)?;
        if index >= self.repeated {
            return None;
        }
        self.repeated -= 1;
        self.in_flight.remove(index).map(|in_flight| in_flight.kept)
    }

    /// Whether nothing more should be fetched for this client.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.len() >= self.bounds.messages || self.queued_bytes >= self.bounds.bytes
    }

    /// Messages that wait, and those that are not acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// Whether nothing waits for the client or for its acknowledgement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All messages that are kept, oldest first.
    pub fn kept(&self) -> impl Iterator<Item = &Pending> {
        self.in_flight.iter().filter_map(|in_flight| in_flight.kept.as_ref()).chain(&self.queue)
    }

    fn pop_queue(&mut self) -> Option<Pending> {
        let pending = self.queue.pop_front()?;
        self.queued_bytes = self.queued_bytes.saturating_sub(pending.routed.weight());
        Some(pending)
    }

    fn enter_window(&mut self, kept: Option<Pending>) -> u16 {
        // The window has at most 65,535 places, and a place is free: the search ends.
        loop {
            self.last_packet_identifier = self.last_packet_identifier.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|in_flight| in_flight.packet_identifier != self.last_packet_identifier) {
                break;
            }
        }
        self.in_flight.push_back(InFlight { packet_identifier: self.last_packet_identifier, kept });
        self.repeated += 1;
        self.last_packet_identifier
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{message::Message, packet::RetainHandling};
    use hearthkey_core::topic::TopicName;

    const BOUNDS: QueueBounds = QueueBounds { messages: 3, bytes: 100_000 };

    fn pending(text: &'static str, qos: QoS) -> Pending {
        let topic = TopicName::parse("a").expect("legal");
        let message = Message { payload: text.into(), qos, ..Message::default() };
        let routed = Arc::new(Routed { topic, message, publisher: None });
        Pending { routed, qos, retain: false, subscription_identifiers: Box::new([]), row: None }
    }

    fn text(pending: &Pending) -> String {
        String::from_utf8(pending.routed.message.payload.to_vec()).expect("text")
    }

    /// Sends all that may be sent: (DUP, packet identifier, text).
    fn drain(outbound: &mut Outbound) -> Vec<(bool, Option<u16>, String)> {
        let mut sent = Vec::new();
        while let Some(next) = outbound.next() {
            let (again, text) = match next {
                Next::Again(identifier, pending) => (Some(identifier), text(pending)),
                Next::First(pending) => (None, text(pending)),
            };
            let identifier = outbound.sent(Keep::ForRepetition);
            sent.push((again.is_some(), again.or(identifier), text));
        }
        sent
    }

    #[test]
    fn no_more_than_the_window_is_unacknowledged() {
        let mut outbound = Outbound::new(BOUNDS);
        outbound.resume(2);
        for text in ["a", "b", "c"] {
            assert!(outbound.offer(pending(text, QoS::AtLeastOnce)).is_empty());
        }
        assert_eq!(drain(&mut outbound), [(false, Some(1), "a".into()), (false, Some(2), "b".into())]);
        assert!(outbound.acknowledge(7).is_none(), "nobody asked for 7");
        assert!(outbound.acknowledge(2).is_some() && outbound.acknowledge(2).is_none());
        assert_eq!(drain(&mut outbound), [(false, Some(3), "c".into())]);
    }

    #[test]
    fn what_was_not_acknowledged_is_repeated_first_and_in_order() {
        let mut outbound = Outbound::new(BOUNDS);
        outbound.resume(2);
        for text in ["a", "b", "c"] {
            outbound.offer(pending(text, QoS::AtLeastOnce));
        }
        drain(&mut outbound);
        outbound.resume(2);
        assert!(outbound.acknowledge(1).is_none(), "not yet repeated on this connection");
        assert_eq!(drain(&mut outbound), [(true, Some(1), "a".into()), (true, Some(2), "b".into())]);
        outbound.resume(1);
        assert_eq!(drain(&mut outbound), [(true, Some(1), "a".into())], "a smaller window holds for repetitions");
        assert!(outbound.acknowledge(1).is_some());
        assert_eq!(drain(&mut outbound), [(true, Some(2), "b".into())]);
    }

    #[test]
    fn at_the_bound_the_oldest_message_goes() {
        let mut outbound = Outbound::new(BOUNDS);
        for text in ["a", "b", "c"] {
            assert!(outbound.offer(pending(text, QoS::AtLeastOnce)).is_empty());
        }
        assert!(outbound.is_full());
        let dropped: Vec<_> = outbound.offer(pending("d", QoS::AtLeastOnce)).iter().map(text).collect();
        assert_eq!(dropped, ["a"]);
        let mut bytes = Outbound::new(QueueBounds { messages: 10, bytes: 250 });
        assert!(bytes.offer(pending("a", QoS::AtLeastOnce)).is_empty() && bytes.offer(pending("b", QoS::AtLeastOnce)).is_empty());
        assert_eq!(bytes.offer(pending("c", QoS::AtLeastOnce)).len(), 1, "the third exceeds 250 bytes");
    }

    #[test]
    fn a_message_that_is_not_to_be_sent_leaves_the_next_one_in_its_place() {
        let mut outbound = Outbound::new(BOUNDS);
        outbound.resume(5);
        outbound.offer(pending("a", QoS::AtLeastOnce));
        outbound.offer(pending("b", QoS::AtLeastOnce));
        drain(&mut outbound);
        outbound.resume(5);
        assert_eq!(outbound.discard_next().as_ref().map(text), Some("a".to_owned()));
        assert_eq!(drain(&mut outbound), [(true, Some(2), "b".into())]);
        outbound.offer(pending("c", QoS::AtMostOnce));
        assert_eq!(outbound.discard_next().as_ref().map(text), Some("c".to_owned()));
        assert_eq!(outbound.next(), None);
    }

    #[test]
    fn packet_identifiers_in_use_are_passed_over_and_zero_never_comes() {
        let mut outbound = Outbound::new(BOUNDS);
        outbound.resume(10);
        assert_eq!(outbound.bypass(), 1);
        outbound.last_packet_identifier = u16::MAX - 1;
        assert_eq!((outbound.bypass(), outbound.bypass()), (u16::MAX, 2));
    }

    #[test]
    fn qos_0_is_not_held_up_by_a_window_but_by_its_place_in_the_queue() {
        let mut outbound = Outbound::new(BOUNDS);
        outbound.resume(1);
        outbound.offer(pending("a", QoS::AtLeastOnce));
        outbound.offer(pending("b", QoS::AtMostOnce));
        outbound.offer(pending("c", QoS::AtLeastOnce));
        assert_eq!(drain(&mut outbound), [(false, Some(1), "a".into()), (false, None, "b".into())]);
        assert!(!outbound.may_bypass(QoS::AtMostOnce), "c waits");
    }

    #[test]
    fn subscribing_anew_replaces_and_counts_once() {
        let options =
            |qos| SubscriptionOptions { qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send };
        let filter = |text| TopicFilter::parse(text).expect("legal");
        let mut session = Session::new(BOUNDS);
        let (first, new) = session.subscribe(filter("a"), options(QoS::AtMostOnce), None, 1).expect("room");
        assert!(new);
        assert_eq!(session.subscribe(filter("b"), options(QoS::AtMostOnce), None, 1), Err(TooManySubscriptions));
        let (again, new) = session.subscribe(filter("a"), options(QoS::AtLeastOnce), Some(4), 1).expect("same filter");
        assert!(!new && again.number == first.number && again.identifier == Some(4));
        assert_eq!(session.unsubscribe(&filter("a")), Some(again));
        assert_eq!(session.unsubscribe(&filter("a")), None);
    }
}
