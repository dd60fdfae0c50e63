//! The messages that are kept for later subscribers, one per topic. Pure; knows nothing of who may see them.

use super::{message::Routed, rows};
use hearthkey_core::{
    UnixTime,
    topic::{TopicFilter, TopicName},
    write::Write,
};
use std::{collections::HashMap, sync::Arc};

/// Kept messages.
#[derive(Debug)]
pub(super) struct Retained {
    by_topic: HashMap<TopicName, Kept>,
    bytes: usize,
    next_number: u64,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    routed: Arc<Routed>,
}

/// No room for another kept message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RetainedFull;

impl Retained {
    /// Takes over what was stored.
    #[must_use]
    pub(super) fn new(max_messages: usize, max_bytes: usize, stored: Vec<(u64, Routed)>) -> Self {
        let mut retained = Self { by_topic: HashMap::new(), bytes: 0, next_number: 1, max_messages, max_bytes };
        for (number, routed) in stored {
            retained.next_number = retained.next_number.max(number + 1);
            retained.bytes += routed.weight();
            retained.by_topic.insert(routed.topic.clone(), Kept { number, routed: Arc::new(routed) });
        }
        retained
    }

    /// Keeps a message in place of the one on its topic, or removes that one if the payload is empty. Returns the rows to write.
    ///
    /// # Errors
    /// [`RetainedFull`]: nothing has changed.
    pub(super) fn set(&mut self, routed: &Routed) -> Result<Vec<Write>, RetainedFull> {
        if routed.message.payload.is_empty() {
            return Ok(self.remove(&routed.topic));
        }
        let earlier = self.by_topic.get(&routed.topic);
        let earlier_weight = earlier.map_or(0, |earlier| earlier.routed.weight());
        let full = earlier.is_none() && self.by_topic.len() >= self.max_messages;
        if full || self.bytes - earlier_weight + routed.weight() > self.max_bytes {
            return Err(RetainedFull);
        }
        let (number, earlier_parts) = match earlier {
            Some(earlier) => (earlier.number, rows::retained_parts(&earlier.routed)),
            None => (self.next_number, 0),
        };
        self.next_number = self.next_number.max(number + 1);
        self.bytes = self.bytes - earlier_weight + routed.weight();
        let writes = rows::put_retained(number, routed, earlier_parts);
        self.by_topic.insert(routed.topic.clone(), Kept { number, routed: Arc::new(routed.clone()) });
        Ok(writes)
    }

    /// The messages that match a filter and have not expired.
    #[must_use]
    pub(super) fn matching(&self, filter: &TopicFilter, now: UnixTime) -> Vec<Arc<Routed>> {
        let fresh = |kept: &&Kept| !kept.routed.message.is_expired(now);
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

    /// The topics on which a message is kept.
    pub(super) fn topics(&self) -> impl Iterator<Item = &TopicName> {
        self.by_topic.keys()
    }

    /// How many messages and bytes are kept.
    #[must_use]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.by_topic.len(), self.bytes)
    }

    fn remove(&mut self, topic: &TopicName) -> Vec<Write> {
        let Some(kept) = self.by_topic.remove(topic) else { return Vec::new() };
        self.bytes -= kept.routed.weight();
        rows::delete_retained(kept.number, rows::retained_parts(&kept.routed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::message::Message;

    fn routed(topic: &str, payload: &'static str) -> Routed {
        let message = Message { payload: payload.into(), retain: true, ..Message::default() };
        Routed { topic: TopicName::parse(topic).expect("legal"), message, publisher: None, queued_for: Box::default() }
    }

    fn texts(retained: &Retained, filter: &str) -> Vec<String> {
        let filter = TopicFilter::parse(filter).expect("legal");
        let found = retained.matching(&filter, UnixTime(10));
        let mut texts: Vec<_> = found.iter().map(|routed| format!("{}={:?}", routed.topic, routed.message.payload)).collect();
        texts.sort();
        texts
    }

    #[test]
    fn one_message_a_topic_is_kept_until_an_empty_one_removes_it() {
        let mut retained = Retained::new(10, 10_000, Vec::new());
        assert_eq!(retained.set(&routed("a/x", "1")).expect("room").len(), 1);
        assert_eq!(retained.set(&routed("a/x", "2")).expect("room").len(), 1);
        retained.set(&routed("a/y", "3")).expect("room");
        assert_eq!(texts(&retained, "a/+"), [r#"a/x=b"2""#, r#"a/y=b"3""#]);
        assert_eq!(texts(&retained, "a/x"), [r#"a/x=b"2""#]);
        assert_eq!(retained.set(&routed("a/x", "")).expect("room").len(), 1);
        assert_eq!(retained.set(&routed("a/x", "")).expect("room").len(), 0, "nothing is left to delete");
        assert_eq!(texts(&retained, "#"), [r#"a/y=b"3""#]);
        retained.set(&routed("a/y", "")).expect("room");
        assert_eq!(retained.size(), (0, 0));
    }

    #[test]
    fn both_bounds_refuse_and_leave_what_was_there() {
        let mut few = Retained::new(1, 10_000, Vec::new());
        few.set(&routed("a", "1")).expect("room");
        assert_eq!(few.set(&routed("b", "1")), Err(RetainedFull));
        few.set(&routed("a", "2")).expect("the same topic");
        let mut small = Retained::new(10, 150, Vec::new());
        small.set(&routed("a", "1")).expect("room");
        assert_eq!(small.set(&routed("b", "1")), Err(RetainedFull));
        assert_eq!(texts(&small, "#").len(), 1);
        small.set(&routed("a", "")).expect("removal always works");
        small.set(&routed("b", "1")).expect("room again");
    }

    #[test]
    fn an_expired_message_is_neither_found_nor_kept() {
        let mut retained = Retained::new(10, 10_000, Vec::new());
        let mut short_lived = routed("a", "1");
        short_lived.message.expires_at = Some(UnixTime(10));
        retained.set(&short_lived).expect("room");
        assert_eq!(texts(&retained, "#").len(), 0);
        assert_eq!(retained.expire(UnixTime(9)).len(), 0);
        assert_eq!(retained.expire(UnixTime(10)).len(), 1);
        assert_eq!(retained.size(), (0, 0));
    }
}
