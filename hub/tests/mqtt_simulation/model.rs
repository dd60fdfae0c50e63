//! What was promised to sessions and groups: the reference that the front is held to. Knows nothing of packets.

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

/// How a message came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) client: usize,
    pub(crate) connection: usize,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
}

impl Copy {
    fn repeats(self, before: Self) -> bool {
        let is_elsewhere = self.client == before.client && self.connection != before.connection;
        self.dup && is_elsewhere && self.qos.max(before.qos) == 1
    }
}

/// The messages of one session, or of a group, each of which is for any one of its members.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Messages that must still come.
    pub(crate) owed: BTreeMap<usize, Message>,
    /// The last copy of each, and whether who got it has let go of it: another member may get it.
    got: BTreeMap<usize, (Copy, bool)>,
    /// By publisher, topic and QoS.
    last: BTreeMap<(usize, usize, u8), usize>,
}

impl Promises {
    pub(crate) fn owe(&mut self, number: usize, message: Message) {
        if !self.got.contains_key(&number) {
            self.owed.insert(number, message);
        }
    }

    /// A member is gone or may not see it any more: what it got with QoS 1 may go to another member, what it may know with
    /// QoS 2, up to a step, goes to nobody.
    pub(crate) fn let_go(&mut self, client: usize, known_until: usize) {
        self.owed.retain(|_, message| message.qos < 2 || message.step > known_until);
        self.got.values_mut().filter(|(copy, _)| copy.client == client).for_each(|(_, is_free)| *is_free = true);
    }

    /// A copy came: whether that breaks a promise, given whether its time was over, and whether the hub has restarted since it
    /// was published.
    pub(crate) fn receive(
        &mut self,
        number: usize,
        message: Message,
        copy: Copy,
        (is_expired, has_restarted): (bool, bool),
        is_shared: bool,
    ) -> Result<(), String> {
        self.owed.remove(&number);
        if let Some((before, is_free)) = self.got.insert(number, (copy, false)) {
            // What comes at QoS 0 does not wait for the disk: a power cut may take back that it was published.
            let is_excused = message.was_resent && (message.qos < 2 || has_restarted && copy.qos.min(before.qos) == 0);
            let is_handed_on = copy.client != before.client && is_free && before.qos == 1;
            let may_be = is_excused || is_handed_on || copy.repeats(before);
            return if may_be { Ok(()) } else { Err(format!("a second time, as {copy:?} after {before:?}, given up {is_free}")) };
        }
        let last = self.last.entry((message.publisher, message.topic, copy.qos)).or_default();
        if is_expired || !is_shared && *last > number {
            return Err(format!(
                "expired at {:?}, after message {last} of the same publisher, topic and QoS",
                message.expires_at
            ));
        }
        *last = number;
        Ok(())
    }
}

/// A session: what it subscribed to, by topic, and by [`TOPICS`] more for the group of a topic.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) is_kept: bool,
    /// From each step on the QoS that was granted: 0 promises nothing.
    granted: BTreeMap<usize, Vec<(usize, Option<u8>)>>,
    pub(crate) promises: Promises,
    /// The topic whose retained message is to come, if there is one, and what came.
    pub(crate) awaits_retained: Option<usize>,
    pub(crate) came_retained: Option<usize>,
    got_retained: BTreeMap<usize, Copy>,
}

impl Session {
    pub(crate) fn new(is_kept: bool) -> Self {
        Self { is_kept, ..Self::default() }
    }

    /// It asks for a subscription, anew or in place of the one it has (messages may come before SUBACK), or for none.
    pub(crate) fn subscribe(&mut self, key: usize, qos: Option<u8>, step: usize) {
        self.granted.entry(key).or_default().push((step, qos));
        if qos.is_none() {
            self.forgive(key);
        }
    }

    pub(crate) fn subscribes(&self, key: usize) -> bool {
        self.granted.get(&key).and_then(|granted| granted.last()).is_some_and(|(_, qos)| qos.is_some())
    }

    pub(crate) fn has_subscribed(&self, key: usize) -> bool {
        self.granted.contains_key(&key)
    }

    /// Whether a message must come: what is published while the subscription changes falls under any of what it was.
    pub(crate) fn is_promised(&self, key: usize, message: Message) -> bool {
        let granted = self.granted.get(&key).map_or(&[][..], Vec::as_slice);
        let before = granted.partition_point(|(step, _)| *step < message.step);
        message.qos > 0 && before > 0 && granted[before - 1..].iter().all(|(_, qos)| qos.is_some_and(|qos| qos > 0))
    }

    /// Messages of this topic need not come any more.
    pub(crate) fn forgive(&mut self, topic: usize) {
        self.promises.owed.retain(|_, message| message.topic != topic);
    }

    pub(crate) fn check_qos(&self, key: usize, message: Message, qos: u8) -> Result<(), String> {
        let highest = self.granted.get(&key).into_iter().flatten().filter_map(|(_, qos)| *qos).max();
        let is_right = highest.is_some_and(|highest| qos <= highest.min(message.qos));
        if is_right { Ok(()) } else { Err(format!("QoS {qos} although granted {highest:?} and published at {}", message.qos)) }
    }

    /// A retained message came: once for each subscription that asked, and again only as a repetition.
    pub(crate) fn receive_retained(&mut self, number: usize, message: Message, copy: Copy) -> Result<(), String> {
        let before = self.got_retained.insert(number, copy);
        if self.awaits_retained.take_if(|topic| *topic == message.topic).is_some() {
            self.came_retained = Some(number);
        } else if !before.is_some_and(|before| copy.repeats(before)) {
            return Err(format!("retained and not asked for, as {copy:?} after {before:?}"));
        }
        Ok(())
    }
}

/// What may be retained on each topic: one of these messages, or none.
#[derive(Debug)]
pub(crate) struct Retained([BTreeSet<Option<usize>>; TOPICS]);

impl Default for Retained {
    fn default() -> Self {
        Self(std::array::from_fn(|_| BTreeSet::from([None])))
    }
}

impl Retained {
    /// It may have been published.
    pub(crate) fn may_become(&mut self, number: usize, message: Message) {
        self.0[message.topic].insert((!message.is_empty).then_some(number));
    }

    /// These were published last, in any order.
    pub(crate) fn becomes(&mut self, topic: usize, values: impl IntoIterator<Item = Option<usize>>) {
        self.0[topic] = values.into_iter().collect();
    }

    /// A subscriber got it: whether it may be that.
    pub(crate) fn check(&self, topic: usize, came: Option<usize>, is_expired: impl Fn(usize) -> bool) -> Result<(), String> {
        let known = |value: &Option<usize>| value.filter(|number| !is_expired(*number));
        let is_right = self.0[topic].iter().any(|value| known(value) == came);
        if is_right { Ok(()) } else { Err(format!("{came:?} was retained on {topic}, should be one of {:?}", self.0[topic])) }
    }
}
