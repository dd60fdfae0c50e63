//! What the front counts, and how it stands now: for `/metrics` and `$SYS`. No peer adds a label.

use super::{
    fabric::Fabric,
    front::Front,
    gate::{Ending, Gate},
    slot::lock,
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// Counts since the start, and of now.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicUsize,
    pub(super) accepted: AtomicU64,
    pub(super) published: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) denied: AtomicU64,
    pub(super) lost: AtomicU64,
    refused_by_code: Mutex<BTreeMap<u8, u64>>,
    ended_by_word: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// A CONNECT is refused.
    pub(super) fn refuse(&self, reason_code: u8) {
        *lock(&self.refused_by_code).entry(reason_code).or_default() += 1;
    }

    /// A connection ends after CONNACK.
    pub(super) fn end(&self, ending: &Ending) {
        *lock(&self.ended_by_word).entry(ending.word()).or_default() += 1;
    }
}

/// Figures of a front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Admitted connections now.
    pub connections: usize,
    /// Connections without a finished CONNECT now.
    pub half_open: usize,
    /// Sessions now, connected or kept.
    pub sessions: usize,
    /// Sessions that outlive their connection, now.
    pub kept_sessions: usize,
    /// Subscriptions of all sessions now.
    pub subscriptions: usize,
    /// Messages that wait for a client or for its acknowledgement now.
    pub queued_messages: usize,
    /// Retained messages now.
    pub retained_messages: usize,
    /// Their bytes.
    pub retained_bytes: usize,
    /// Connections ever admitted.
    pub accepted: u64,
    /// Connections ever refused.
    pub refused: u64,
    /// The same by MQTT 5 reason code.
    pub refused_by_code: BTreeMap<u8, u64>,
    /// Connections that ended after CONNACK, by [`Ending::word`].
    pub ended_by_word: BTreeMap<&'static str, u64>,
    /// Publishes ever accepted from clients.
    pub published: u64,
    /// Messages ever handed to clients.
    pub delivered: u64,
    /// Publishes, subscriptions and deliveries ever denied.
    pub denied: u64,
    /// Messages ever dropped at a bound.
    pub lost: u64,
    /// How often the router was replaced.
    pub router_replacements: u64,
}

impl<G: Gate, F: Fabric> Front<G, F> {
    /// Figures of now. Looks at each session.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let front = &*self.0;
        let counters = &front.counters;
        let (retained_messages, retained_bytes) = lock(&front.retained).size();
        let refused_by_code = lock(&counters.refused_by_code).clone();
        let slots: Vec<_> = lock(&front.sessions_by_key).values().cloned().collect();
        let (mut subscriptions, mut queued_messages) = (0, 0);
        for slot in &slots {
            let state = lock(&slot.state);
            subscriptions += state.session.subscriptions().count();
            queued_messages += state.session.outbound.len();
        }
        Stats {
            connections: counters.connections.load(Ordering::Relaxed),
            half_open: front.half_open.len(),
            sessions: slots.len(),
            kept_sessions: front.kept_sessions.load(Ordering::Relaxed),
            subscriptions,
            queued_messages,
            retained_messages,
            retained_bytes,
            accepted: counters.accepted.load(Ordering::Relaxed),
            refused: refused_by_code.values().sum(),
            refused_by_code,
            ended_by_word: lock(&counters.ended_by_word).clone(),
            published: counters.published.load(Ordering::Relaxed),
            delivered: counters.delivered.load(Ordering::Relaxed),
            denied: counters.denied.load(Ordering::Relaxed),
            lost: counters.lost.load(Ordering::Relaxed),
            router_replacements: front.fabric.replacements(),
        }
    }
}
