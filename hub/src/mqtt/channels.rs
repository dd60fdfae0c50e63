//! What keeps a log-shaped router from growing, and what lets it die. Pure; knows nothing of the router.
//!
//! The router never forgets a topic or a filter that it has seen. So it sees neither: each filter in use has a channel, a
//! number that is used again when nobody uses the filter any more, and a message goes to the channels of the filters that
//! match it. The router knows as many channels as there were filters in use at one time, whatever comes and goes.
//!
//! The messages of a channel are numbered without gaps. A reader that knows the position it expects sees what is missing and
//! what comes twice. The latest messages of all channels are kept for a while: a reader whose router died asks for those from
//! its position on.

use super::{
    limits::{ROUTER_REPLAY_BYTES, ROUTER_REPLAY_MESSAGES},
    message::Routed,
    trie::Trie,
};
use hearthkey_core::topic::TopicFilter;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Number of a channel.
pub(super) type Channel = u32;

/// The channels in use and what was sent on them lately.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_filter: HashMap<TopicFilter, Channel>,
    by_topic: Trie<Channel>,
    states: Vec<State>,
    free: Vec<Channel>,
    recent: VecDeque<Sent>,
    recent_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    readers: usize,
    /// Goes on when the channel is used again, so that a late message of its earlier life is told from the new ones.
    next_position: u64,
}

/// A message on a channel.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) channel: Channel,
    pub(super) position: u64,
    pub(super) routed: Arc<Routed>,
}

impl Channels {
    /// A reader of a filter comes: the channel, and the position of what is sent from now on.
    pub(super) fn enter(&mut self, filter: &TopicFilter) -> (Channel, u64) {
        let channel = match self.by_filter.get(filter) {
            Some(&channel) => channel,
            None => {
                let channel = self.free.pop().unwrap_or_else(|| {
                    self.states.push(State::default());
                    // More than four thousand million filters in use do not fit into memory.
                    Channel::try_from(self.states.len() - 1).unwrap_or(Channel::MAX)
                });
                self.by_filter.insert(filter.clone(), channel);
                self.by_topic.insert(filter, channel);
                channel
            }
        };
        let state = &mut self.states[channel as usize];
        state.readers += 1;
        (channel, state.next_position)
    }

    /// A reader of a filter goes.
    pub(super) fn leave(&mut self, filter: &TopicFilter) {
        let Some(&channel) = self.by_filter.get(filter) else { return };
        let state = &mut self.states[channel as usize];
        state.readers -= 1;
        if state.readers == 0 {
            self.by_filter.remove(filter);
            self.by_topic.remove(filter, |_| true);
            self.free.push(channel);
            if self.free.len() > self.by_filter.len() * 2 + 64 {
                self.by_filter.shrink_to_fit();
            }
        }
    }

    /// Numbers a message for each channel that it goes to, and keeps it for a while.
    pub(super) fn send(&mut self, routed: &Arc<Routed>, mut on: impl FnMut(&Sent)) {
        let Self { by_topic, states, recent, recent_bytes, .. } = self;
        by_topic.each_match(&routed.topic, |&channel| {
            let state = &mut states[channel as usize];
            let sent = Sent { channel, position: state.next_position, routed: routed.clone() };
            state.next_position += 1;
            on(&sent);
            *recent_bytes += routed.weight();
            recent.push_back(sent);
        });
        while self.recent.len() > ROUTER_REPLAY_MESSAGES || self.recent_bytes > ROUTER_REPLAY_BYTES {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes = self.recent_bytes.saturating_sub(oldest.routed.weight());
        }
    }

    /// What was sent lately on a channel, from a position on.
    pub(super) fn since(&self, channel: Channel, position: u64) -> impl Iterator<Item = &Sent> {
        self.recent.iter().filter(move |sent| sent.channel == channel && sent.position >= position)
    }

    /// How many channels there have been at one time: what the router has seen.
    #[cfg(test)]
    pub(super) fn ever(&self) -> usize {
        self.states.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::message::Message;
    use hearthkey_core::topic::TopicName;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).expect("legal")
    }

    fn routed(topic: &str, payload: Vec<u8>) -> Arc<Routed> {
        let message = Message { payload: payload.into(), ..Message::default() };
        Arc::new(Routed { topic: TopicName::parse(topic).expect("legal"), message, publisher: None, queued_for: Box::default() })
    }

    fn send(channels: &mut Channels, topic: &str) -> Vec<(Channel, u64)> {
        let mut on = Vec::new();
        channels.send(&routed(topic, vec![0; 100]), |sent| on.push((sent.channel, sent.position)));
        on.sort_unstable();
        on
    }

    #[test]
    fn readers_of_one_filter_share_a_channel_and_each_channel_counts_for_itself() {
        let mut channels = Channels::default();
        assert_eq!(channels.enter(&filter("a/+")), (0, 0));
        assert_eq!(channels.enter(&filter("a/b")), (1, 0));
        assert_eq!(send(&mut channels, "a/b"), [(0, 0), (1, 0)]);
        assert_eq!(send(&mut channels, "a/c"), [(0, 1)]);
        assert_eq!(channels.enter(&filter("a/+")), (0, 2), "who comes later expects what comes later");
        channels.leave(&filter("a/+"));
        assert_eq!(send(&mut channels, "a/c"), [(0, 2)], "the other reader is still there");
        channels.leave(&filter("a/+"));
        assert_eq!(send(&mut channels, "a/c"), []);
    }

    #[test]
    fn a_channel_that_is_used_again_goes_on_counting() {
        let mut channels = Channels::default();
        channels.enter(&filter("a"));
        send(&mut channels, "a");
        channels.leave(&filter("a"));
        assert_eq!(channels.enter(&filter("b")), (0, 1));
        assert_eq!(channels.since(0, 1).count(), 0, "nothing of its earlier life");
    }

    #[test]
    fn a_reader_finds_what_was_sent_since_its_position() {
        let mut channels = Channels::default();
        channels.enter(&filter("a"));
        channels.enter(&filter("b"));
        for topic in ["a", "b", "a", "a"] {
            send(&mut channels, topic);
        }
        assert_eq!(channels.since(0, 1).map(|sent| sent.position).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_kept_is_bounded_in_messages_and_bytes() {
        let mut channels = Channels::default();
        channels.enter(&filter("a"));
        for _ in 0..ROUTER_REPLAY_MESSAGES + 10 {
            channels.send(&routed("a", Vec::new()), |_| {});
        }
        assert_eq!(channels.recent.len(), ROUTER_REPLAY_MESSAGES);
        for _ in 0..10 {
            channels.send(&routed("a", vec![0; ROUTER_REPLAY_BYTES / 4]), |_| {});
        }
        assert!(channels.recent_bytes <= ROUTER_REPLAY_BYTES && channels.recent.len() == 3);
    }

    #[test]
    fn a_million_topics_and_filters_come_and_go_and_the_router_has_seen_a_handful() {
        let mut channels = Channels::default();
        for number in 0..100_000 {
            let (own, other) = (filter(&format!("a/{number}/+")), filter(&format!("a/{number}/1")));
            channels.enter(&own);
            channels.enter(&other);
            for leaf in 0..10 {
                channels.send(&routed(&format!("a/{number}/{leaf}"), Vec::new()), |_| {});
            }
            channels.leave(&own);
            channels.leave(&other);
        }
        assert_eq!(channels.ever(), 2);
        assert!(channels.by_topic.is_bare() && channels.by_filter.is_empty());
        assert!(channels.recent.len() <= ROUTER_REPLAY_MESSAGES);
    }
}
