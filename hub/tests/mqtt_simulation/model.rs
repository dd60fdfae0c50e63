//! What clients were promised: the reference that the front is held to. Knows nothing of packets.

use std::collections::{BTreeMap, BTreeSet};

/// How many topics and clients there are.
pub(crate) const TOPICS: usize = 3;
pub(crate) const CLIENTS: usize = 4;

/// A message as its publisher sent it; its number is its place in the list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Message {
    pub(crate) publisher: usize,
    pub(crate) topic: usize,
    pub(crate) qos: u8,
    pub(crate) step: usize,
    pub(crate) is_denied: bool,
    pub(crate) was_resent: bool,
    pub(crate) retain: bool,
    /// Without content: what is retained is removed.
    pub(crate) is_empty: bool,
    /// When it is no longer to be delivered, in seconds.
    pub(crate) expires_at: Option<u64>,
}

impl Message {
    pub(crate) fn is_expired(&self, now_s: u64) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now_s)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    /// Granted to what is published after this step.
    qos: u8,
    replaced_at: usize,
    /// The lowest QoS that it ever had, and the step at which it began.
    lowest_qos: u8,
    begun_at: usize,
    /// The right was lost for a while: messages of that time may be missing.
    pub(crate) is_weak: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) is_kept: bool,
    pub(crate) subscriptions: BTreeMap<usize, Subscription>,
    /// Highest QoS ever granted, by topic.
    granted: BTreeMap<usize, u8>,
    /// Messages that must still come.
    pub(crate) owed: BTreeMap<usize, Message>,
    /// By message: copies, and the connection and QoS of the last.
    got: BTreeMap<usize, (usize, usize, u8)>,
    /// By publisher, topic and QoS.
    last: BTreeMap<(usize, usize, u8), usize>,
    /// The topic whose retained message is to come, if there is one, and what came.
    pub(crate) awaits_retained: Option<usize>,
    pub(crate) came_retained: Option<usize>,
    /// By message: the connection of the last copy.
    got_retained: BTreeMap<usize, usize>,
}

/// What may be retained on each topic: one of these messages, or none.
#[derive(Debug, Default)]
pub(crate) struct Retained([BTreeSet<Option<usize>>; TOPICS]);

impl Retained {
    /// It may have been published.
    pub(crate) fn may_become(&mut self, number: usize, message: Message) {
        let values = &mut self.0[message.topic];
        if values.is_empty() {
            values.insert(None);
        }
        values.insert((!message.is_empty).then_some(number));
    }

    /// These were published last, in any order.
    pub(crate) fn becomes(&mut self, topic: usize, values: impl IntoIterator<Item = Option<usize>>) {
        self.0[topic] = values.into_iter().collect();
    }

    /// A subscriber got it: whether it may be that.
    pub(crate) fn check(&self, topic: usize, came: Option<usize>, is_expired: impl Fn(usize) -> bool) -> Result<(), String> {
        let known = |value: &Option<usize>| value.filter(|number| !is_expired(*number));
        let values = &self.0[topic];
        if values.iter().any(|value| known(value) == came) || values.is_empty() && came.is_none() {
            return Ok(());
        }
        Err(format!("{came:?} was retained on {topic}, should be one of {values:?}"))
    }
}

impl Session {
    pub(crate) fn new(is_kept: bool) -> Self {
        Self { is_kept, ..Self::default() }
    }

    /// It asks for a subscription that it may have, anew or in place of the one it has: messages may come before SUBACK.
    pub(crate) fn subscribe(&mut self, topic: usize, qos: u8, step: usize) {
        let highest = self.granted.entry(topic).or_default();
        *highest = qos.max(*highest);
        let begun = Subscription { qos, replaced_at: step, lowest_qos: qos, begun_at: step, is_weak: false };
        let replaced = self.subscriptions.get(&topic).filter(|earlier| !earlier.is_weak);
        let replaced =
            replaced.map(|earlier| Subscription { lowest_qos: earlier.lowest_qos.min(qos), begun_at: earlier.begun_at, ..begun });
        self.subscriptions.insert(topic, replaced.unwrap_or(begun));
    }

    pub(crate) fn unsubscribe(&mut self, topic: usize) {
        self.subscriptions.remove(&topic);
        self.forgive(topic);
    }

    /// Messages that have expired need not come any more.
    pub(crate) fn expire(&mut self, now_s: u64) {
        self.owed.retain(|_, message| !message.is_expired(now_s));
    }

    /// Messages of this topic need not come any more.
    pub(crate) fn forgive(&mut self, topic: usize) {
        self.owed.retain(|_, message| message.topic != topic);
    }

    /// A publish was acknowledged.
    pub(crate) fn promise(&mut self, number: usize, message: Message, can_read: bool) {
        let Some(subscription) = self.subscriptions.get(&message.topic) else { return };
        // What is published while a subscription is replaced has either QoS.
        let Subscription { qos, replaced_at, lowest_qos, begun_at, is_weak } = *subscription;
        let granted = if message.step > replaced_at { qos } else { lowest_qos };
        let holds = message.step > begun_at && granted.min(message.qos) > 0 && can_read;
        if holds && !self.got.contains_key(&number) && (self.is_kept || !is_weak) {
            self.owed.insert(number, message);
        }
    }

    /// A retained message came: once for each subscription that asked, and again only as a repetition.
    pub(crate) fn receive_retained(
        &mut self,
        number: usize,
        message: Message,
        (qos, dup, connection): (u8, bool, usize),
    ) -> Result<(), String> {
        let highest = self.granted.get(&message.topic).map_or(0, |highest| message.qos.min(*highest));
        let earlier = self.got_retained.insert(number, connection);
        if qos > highest {
            return Err(format!("retained at QoS {qos}, should be at most {highest}"));
        }
        if self.awaits_retained.take_if(|topic| *topic == message.topic).is_some() {
            self.came_retained = Some(number);
            return Ok(());
        }
        let is_repetition = dup && earlier.is_some_and(|on| on != connection);
        if is_repetition { Ok(()) } else { Err(format!("retained and not asked for, before {earlier:?}")) }
    }

    /// A message came: whether that breaks a promise. Whether its time was over, and
    /// whether the hub has restarted since it was published.
    pub(crate) fn receive(
        &mut self,
        number: usize,
        message: Message,
        (qos, dup, connection): (u8, bool, usize),
        (is_expired, has_restarted): (bool, bool),
    ) -> Result<(), String> {
        self.owed.remove(&number);
        let highest = self.granted.get(&message.topic).copied();
        if highest.is_none_or(|highest| qos > highest.min(message.qos)) {
            return Err(format!("QoS {qos} although granted {highest:?} and published at {}", message.qos));
        }
        let earlier = self.got.get(&number).copied();
        let copies = earlier.map_or(0, |(copies, ..)| copies) + 1;
        self.got.insert(number, (copies, connection, qos));
        if let Some((_, on, before)) = earlier {
            // What comes at QoS 0 does not wait for the disk: a power cut may take back that it was published.
            let is_excused = message.was_resent && (message.qos < 2 || has_restarted && qos.min(before) == 0);
            return match qos.max(before) {
                _ if is_excused => Ok(()),
                1 if on != connection && dup => Ok(()),
                _ => Err(format!("copy {copies}, at QoS {qos} with DUP {dup} on connection {connection}, before {earlier:?}")),
            };
        }
        if is_expired {
            return Err(format!("expired at {:?}", message.expires_at));
        }
        let last = self.last.entry((message.publisher, message.topic, qos)).or_default();
        if *last > number {
            return Err(format!("after message {last} of the same publisher, topic and QoS"));
        }
        *last = number;
        Ok(())
    }
}
