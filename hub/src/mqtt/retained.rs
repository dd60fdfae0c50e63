//! The messages that are kept for later subscribers, one per topic. Pure; knows nothing of who may see them.

use super::{limits::Limits, message::Routed, rows, slot::SessionKey};
use hearthkey_core::{
    UnixTime,
    session::Principal,
    topic::{TopicFilter, TopicName},
    write::Write,
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// Kept messages.
#[derive(Debug)]
pub(super) struct Retained {
    by_topic: HashMap<TopicName, Kept>,
    held: Held,
    held_by_principal: HashMap<Principal, Held>,
    next_number: u64,
    bounds: RetainedBounds,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    routed: Arc<Routed>,
    /// The hub's own have none.
    author: Option<Author>,
}

/// Who had a message kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Author {
    /// On whose account it is.
    pub(super) principal: Principal,
    /// By which client, for the no-local option: it is told by its client identifier (MQTT-3.8.3-3). Nothing in what earlier hubs stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_identifier: Option<Box<str>>,
}

/// What is kept, of all or of one principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Held {
    messages: usize,
    bytes: usize,
}

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetainedBounds {
    all: Held,
    one: Held,
}

/// No room for another kept message, or for a longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetainedFull {
    /// Of all together.
    All,
    /// Of this publisher.
    One,
}

impl From<&SessionKey> for Author {
    fn from(client: &SessionKey) -> Self {
        Self { principal: client.principal.clone(), client_identifier: Some(client.client_identifier.clone()) }
    }
}

impl Kept {
    fn principal(&self) -> Option<&Principal> {
        self.author.as_ref().map(|author| &author.principal)
    }
}

impl RetainedFull {
    /// What the publisher is told.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::All => "too many retained messages",
            Self::One => "too many retained messages of one client; remove some",
        }
    }
}

impl RetainedBounds {
    pub(super) const fn of(limits: &Limits) -> Self {
        Self {
            all: Held { messages: limits.max_retained_messages, bytes: limits.max_retained_bytes },
            one: Held { messages: limits.max_retained_messages_per_principal, bytes: limits.max_retained_bytes_per_principal },
        }
    }
}

impl Held {
    fn add(&mut self, routed: &Routed) {
        self.messages += 1;
        self.bytes += routed.weight();
    }

    fn take(&mut self, routed: &Routed) {
        self.messages -= 1;
        self.bytes -= routed.weight();
    }

    /// Whether a message fits, perhaps in place of one that is counted here; what does not grow always does.
    fn has_room(self, bounds: Self, routed: &Routed, earlier: Option<&Routed>) -> bool {
        let earlier_weight = earlier.map_or(0, Routed::weight);
        (earlier.is_some() || self.messages < bounds.messages)
            && (routed.weight() <= earlier_weight || self.bytes - earlier_weight + routed.weight() <= bounds.bytes)
    }
}

impl Retained {
    /// Takes over what was stored: numbers, messages and authors.
    #[must_use]
    pub(super) fn new(bounds: RetainedBounds, stored: Vec<(u64, Routed, Option<Author>)>) -> Self {
        let mut retained =
            Self { by_topic: HashMap::new(), held: Held::default(), held_by_principal: HashMap::new(), next_number: 1, bounds };
        for (number, routed, author) in stored {
            retained.next_number = retained.next_number.max(number + 1);
            retained.insert(Kept { number, routed: Arc::new(routed), author });
        }
        retained
    }

    /// Keeps a message in place of the one on its topic, or removes that one if the payload is empty. The hub's own, without
    /// `author`, are few and pass the bounds: what a client keeps does not stop them. Returns the rows to write.
    ///
    /// # Errors
    /// [`RetainedFull`]: nothing has changed.
    pub(super) fn set(&mut self, routed: &Routed, author: Option<&Author>) -> Result<Vec<Write>, RetainedFull> {
        if routed.message.payload.is_empty() {
            return Ok(self.remove(&routed.topic));
        }
        let earlier = self.by_topic.get(&routed.topic);
        if let Some(Author { principal, .. }) = author {
            let of_one = self.held_by_principal.get(principal).copied().unwrap_or_default();
            let earlier_of_one = earlier.filter(|earlier| earlier.principal() == Some(principal));
            if !of_one.has_room(self.bounds.one, routed, earlier_of_one.map(|earlier| &*earlier.routed)) {
                return Err(RetainedFull::One);
            }
            if !self.held.has_room(self.bounds.all, routed, earlier.map(|earlier| &*earlier.routed)) {
                return Err(RetainedFull::All);
            }
        }
        let (number, earlier_parts) = match earlier {
            Some(earlier) => (earlier.number, rows::retained_parts(&earlier.routed, earlier.author.as_ref())),
            None => (self.next_number, 0),
        };
        self.next_number = self.next_number.max(number + 1);
        let writes = rows::put_retained(number, routed, author, earlier_parts);
        self.insert(Kept { number, routed: Arc::new(routed.clone()), author: author.cloned() });
        Ok(writes)
    }

    /// The messages that match a filter and have not expired, but for those of this author.
    #[must_use]
    pub(super) fn matching(&self, filter: &TopicFilter, besides: Option<&Author>, now: UnixTime) -> Vec<Arc<Routed>> {
        let is_own = |kept: &Kept| besides.is_some() && kept.author.as_ref() == besides;
        let fresh = |kept: &&Kept| !is_own(kept) && !kept.routed.message.is_expired(now);
        if !filter.as_str().contains(['+', '#']) {
            let exact = TopicName::parse(filter.as_str()).ok().and_then(|topic| self.by_topic.get(&topic));
            return exact.filter(fresh).map(|kept| kept.routed.clone()).into_iter().collect();
        }
        let matching = self.by_topic.iter().filter(|(topic, _)| filter.matches(topic)).map(|(_, kept)| kept);
        matching.filter(fresh).map(|kept| kept.routed.clone()).collect()
    }

    /// Removes what has expired. Returns the rows to write.
    pub(super) fn expire(&mut self, now: UnixTime) -> Vec<Write> {
        let expired: Vec<_> = self
            .by_topic
            .iter()
            .filter(|(_, kept)| kept.routed.message.is_expired(now))
            .map(|(topic, _)| topic.clone())
            .collect();
        expired.iter().flat_map(|topic| self.remove(topic)).collect()
    }

    /// How many messages and bytes are kept.
    #[must_use]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.held.messages, self.held.bytes)
    }

    fn insert(&mut self, kept: Kept) {
        self.held.add(&kept.routed);
        if let Some(principal) = kept.principal() {
            self.held_by_principal.entry(principal.clone()).or_default().add(&kept.routed);
        }
        if let Some(earlier) = self.by_topic.insert(kept.routed.topic.clone(), kept) {
            self.count_out(&earlier);
        }
    }

    fn remove(&mut self, topic: &TopicName) -> Vec<Write> {
        let Some(kept) = self.by_topic.remove(topic) else { return Vec::new() };
        self.count_out(&kept);
        rows::delete_retained(kept.number, rows::retained_parts(&kept.routed, kept.author.as_ref()))
    }

    fn count_out(&mut self, kept: &Kept) {
        self.held.take(&kept.routed);
        let Some(principal) = kept.principal() else { return };
        if let Some(held) = self.held_by_principal.get_mut(principal) {
            held.take(&kept.routed);
            if held.messages == 0 {
                self.held_by_principal.remove(principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::message::Message;
    use hearthkey_core::DeviceId;

    /// One principal may keep as much as all.
    fn at_most(messages: usize, bytes: usize) -> Retained {
        let all = Held { messages, bytes };
        Retained::new(RetainedBounds { all, one: all }, Vec::new())
    }

    fn device(id: &str) -> Author {
        let principal = Principal::Device(DeviceId::parse(id).expect("legal"));
        Author { principal, client_identifier: Some(id.into()) }
    }

    fn set(retained: &mut Retained, topic: &str, payload: &'static str) -> Result<usize, RetainedFull> {
        retained.set(&routed(topic, payload), Some(&device("lamp"))).map(|writes| writes.len())
    }

    fn routed(topic: &str, payload: &'static str) -> Routed {
        let message = Message { payload: payload.into(), retain: true, ..Message::default() };
        Routed { topic: TopicName::parse(topic).expect("legal"), message, publisher: None, queued_for: Box::default() }
    }

    fn texts(retained: &Retained, filter: &str) -> Vec<String> {
        let filter = TopicFilter::parse(filter).expect("legal");
        let found = retained.matching(&filter, None, UnixTime(10));
        let mut texts: Vec<_> = found.iter().map(|routed| format!("{}={:?}", routed.topic, routed.message.payload)).collect();
        texts.sort();
        texts
    }

    #[test]
    fn one_message_a_topic_is_kept_until_an_empty_one_removes_it() {
        let mut retained = at_most(10, 10_000);
        assert_eq!(set(&mut retained, "a/x", "1").expect("room"), 1);
        assert_eq!(set(&mut retained, "a/x", "2").expect("room"), 1);
        set(&mut retained, "a/y", "3").expect("room");
        assert_eq!(texts(&retained, "a/+"), [r#"a/x=b"2""#, r#"a/y=b"3""#]);
        assert_eq!(texts(&retained, "a/x"), [r#"a/x=b"2""#]);
        assert_eq!(set(&mut retained, "a/x", "").expect("room"), 1);
        assert_eq!(set(&mut retained, "a/x", "").expect("room"), 0, "nothing is left to delete");
        assert_eq!(texts(&retained, "#"), [r#"a/y=b"3""#]);
        set(&mut retained, "a/y", "").expect("room");
        assert_eq!(retained.size(), (0, 0));
    }

    #[test]
    fn both_bounds_refuse_and_leave_what_was_there() {
        let mut few = at_most(1, 10_000);
        set(&mut few, "a", "1").expect("room");
        assert_eq!(set(&mut few, "b", "1"), Err(RetainedFull::One));
        set(&mut few, "a", "2").expect("the same topic");
        let mut small = at_most(10, 150);
        set(&mut small, "a", "1").expect("room");
        assert_eq!(set(&mut small, "b", "1"), Err(RetainedFull::One));
        assert_eq!(texts(&small, "#").len(), 1);
        set(&mut small, "a", "").expect("removal always works");
        set(&mut small, "b", "1").expect("room again");
    }

    #[test]
    fn an_expired_message_is_neither_found_nor_kept() {
        let mut retained = at_most(10, 10_000);
        let mut short_lived = routed("a", "1");
        short_lived.message.expires_at = Some(UnixTime(10));
        retained.set(&short_lived, None).expect("room");
        assert_eq!(texts(&retained, "#").len(), 0);
        assert_eq!(retained.expire(UnixTime(9)).len(), 0);
        assert_eq!(retained.expire(UnixTime(10)).len(), 1);
        assert_eq!(retained.size(), (0, 0));
    }

    #[test]
    fn one_publisher_does_not_use_up_the_room_of_all_and_nobody_stops_the_hub() {
        let bounds = RetainedBounds { all: Held { messages: 4, bytes: 500 }, one: Held { messages: 2, bytes: 250 } };
        let mut retained = Retained::new(bounds, Vec::new());
        let (lamp, oven) = (device("lamp"), device("oven"));
        for topic in ["a", "b"] {
            retained.set(&routed(topic, "1"), Some(&lamp)).expect("room");
        }
        assert_eq!(retained.set(&routed("c", "1"), Some(&lamp)), Err(RetainedFull::One));
        retained.set(&routed("a", "2"), Some(&lamp)).expect("in place of its own");
        assert_eq!(retained.set(&routed("a", &*"x".repeat(60).leak()), Some(&lamp)), Err(RetainedFull::One), "as bytes go, too");
        // What another puts in its place is the other's.
        retained.set(&routed("a", "3"), Some(&oven)).expect("room");
        retained.set(&routed("c", "1"), Some(&lamp)).expect("room again");
        retained.set(&routed("d", "1"), Some(&oven)).expect("room");
        assert_eq!(retained.set(&routed("e", "1"), Some(&device("fan"))), Err(RetainedFull::All));
        retained.set(&routed("e", "the hub's"), None).expect("always");
        retained.set(&routed("d", "1"), Some(&oven)).expect("what does not grow is taken, however full it is");
        for topic in ["a", "b", "c", "d", "e"] {
            retained.set(&routed(topic, ""), Some(&lamp)).expect("removal always works");
        }
        assert_eq!((retained.size(), retained.held_by_principal.len()), ((0, 0), 0));
    }

    #[test]
    fn many_topics_come_and_go_and_leave_no_room_behind() {
        let mut retained = at_most(10, 10_000);
        for number in 0..200_000 {
            set(&mut retained, &format!("a/{number}"), "1").expect("room");
            set(&mut retained, &format!("a/{number}"), "").expect("removal always works");
        }
        assert_eq!((retained.size(), retained.held_by_principal.len()), ((0, 0), 0));
        assert!(retained.by_topic.capacity() < 16, "{}", retained.by_topic.capacity());
    }
}
