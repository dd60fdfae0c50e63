//! Shared subscriptions (MQTT 5 section 4.8.2): groups by name and filter, and which member gets a message. Knows nothing of
//! how it gets there.

use super::{
    direct::{Direct, Match},
    limits::MAX_GROUP_MEMBERS,
    message::QoS,
    session::Subscription,
    slot::{Slot, lock},
    trie::Trie,
};
use hearthkey_core::topic::{SubscriptionFilter, TopicName};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// All groups, found without a lock when there are none.
#[derive(Default)]
pub(super) struct SharedSubscriptions {
    groups: RwLock<Groups>,
    is_used: AtomicBool,
}

#[derive(Default)]
struct Groups {
    by_name: HashMap<Arc<SubscriptionFilter>, Arc<Share>>,
    by_filter: Trie<Arc<Share>>,
}

/// One group: those who share the messages of one filter.
struct Share {
    name: Arc<SubscriptionFilter>,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    members: Vec<Direct>,
    /// Whose turn it is.
    turn: usize,
}

/// The group has as many members as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupFull;

impl SharedSubscriptions {
    /// Makes a session a member of its group, or changes how it is one.
    pub(super) fn put(&self, slot: &Arc<Slot>, subscription: &Subscription) -> Result<(), GroupFull> {
        let name = subscription.name();
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Share { name: Arc::new(name.clone()), members: Mutex::default() });
        let share = groups.by_name.get(&name).cloned().unwrap_or_else(fresh);
        {
            let members = &mut lock(&share.members).members;
            let member = Direct::of(slot, subscription);
            let is_full = members.len() >= MAX_GROUP_MEMBERS;
            match members.iter_mut().find(|member| member.is(slot, subscription)) {
                Some(earlier) => *earlier = member,
                None if is_full => return Err(GroupFull),
                None => members.push(member),
            }
        }
        if !groups.by_name.contains_key(&name) {
            groups.by_filter.insert(&name.filter, share.clone());
            groups.by_name.insert(share.name.clone(), share);
        }
        self.is_used.store(!groups.by_name.is_empty(), Ordering::Release);
        Ok(())
    }

    /// Ends a membership, and the group with its last member.
    pub(super) fn remove(&self, slot: &Arc<Slot>, subscription: &Subscription) {
        let name = subscription.name();
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let Some(share) = groups.by_name.get(&name).cloned() else { return };
        let is_empty = {
            let mut members = lock(&share.members);
            members.members.retain(|member| !member.is(slot, subscription));
            members.members.is_empty()
        };
        if is_empty {
            groups.by_name.remove(&name);
            groups.by_filter.remove(&name.filter, |other| Arc::ptr_eq(other, &share));
        }
        self.is_used.store(!groups.by_name.is_empty(), Ordering::Release);
    }

    /// Adds a message for one member of each group that matches.
    pub(super) fn choose(&self, topic: &TopicName, qos: QoS, matches: &mut Vec<Match>) {
        if !self.is_used.load(Ordering::Acquire) {
            return;
        }
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.by_filter.each_match(topic, |share| matches.extend(share.choose(topic, qos)));
    }

    /// The message of one group for the member that takes it; nothing if there is none.
    pub(super) fn choose_of(&self, group: &SubscriptionFilter, topic: &TopicName, qos: QoS) -> Option<Match> {
        let share = self.groups.read().unwrap_or_else(PoisonError::into_inner).by_name.get(group).cloned()?;
        share.choose(topic, qos)
    }
}

/// How well a member can take a message; the best is chosen, among equals the one whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// Its queue is full: something will be lost.
    Full,
    /// It comes back for its messages.
    Absent,
    /// It is there, but slow.
    Busy,
    Ready,
}

impl Share {
    /// The message for the member that takes it.
    fn choose(&self, topic: &TopicName, qos: QoS) -> Option<Match> {
        let mut members = lock(&self.members);
        let count = members.members.len();
        let in_turn = (0..count).map(|offset| (members.turn + offset) % count);
        let mut best: Option<(Fitness, usize)> = None;
        for index in in_turn {
            let member = members.members.get(index)?;
            let fitness = member.fitness(topic, member.qos.min(qos));
            if fitness > best.map(|(fitness, _)| fitness) {
                best = fitness.map(|fitness| (fitness, index));
            }
            if fitness == Some(Fitness::Ready) {
                break;
            }
        }
        let (_, index) = best?;
        members.turn = index + 1;
        members.members.get(index).map(|member| member.chosen(qos, self.name.clone()))
    }
}

impl Direct {
    /// Nothing if the member is not to have the message at all.
    fn fitness(&self, topic: &TopicName, qos: QoS) -> Option<Fitness> {
        let state = lock(&self.slot.state);
        if state.is_discarded {
            return None;
        }
        let outbound = &state.session.outbound;
        match &state.attached {
            // What it may not see would be lost on it.
            Some(attached) if attached.rights.authorize_delivery(topic).is_err() => None,
            _ if outbound.is_full() => Some(Fitness::Full),
            Some(_) if outbound.room() > 0 => Some(Fitness::Ready),
            Some(_) => Some(Fitness::Busy),
            None if qos == QoS::AtMostOnce => None,
            None => Some(Fitness::Absent),
        }
    }
}
