//! SUBSCRIBE and UNSUBSCRIBE of one connection, and the link to the fabric on which its subscriptions live.

use super::{
    connection::{Connection, fault, fault_of, has_too_many_levels},
    delivery::device_of_command,
    fabric::{Fabric, Link},
    gate::{Ending, Gate},
    limits::{MAX_FABRIC_DEATHS_IN_A_ROW, MAX_GROUP_MEMBERS, RETAINED_PER_PUBLISH},
    message::{Message, Routed},
    packet::{RetainHandling, Subscribe, SubscribeRequest, reason},
    persister::{Ticket, weight_of},
    publishing::Answer,
    retained::Author,
    session::{Pending, QueueBounds, Stored, Subscription},
    slot::{SlotState, lock},
};
use hearthkey_core::{
    DeviceId,
    session::{EndReason, Principal},
    topic::{InvalidTopic, SubscriptionFilter, TopicFilter, TopicName},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, MutexGuard, atomic::Ordering},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

/// What is answered to a SUBSCRIBE, and what follows the answer.
#[derive(Debug, Default)]
pub(super) struct SubAck {
    pub(super) packet_identifier: u16,
    pub(super) reason_codes: Vec<u8>,
    /// Why the first of the refused was refused.
    pub(super) words: Option<String>,
    /// The subscriptions that get the retained messages.
    pub(super) want_retained: Vec<Subscription>,
    /// The subscriptions that the session did not have before: what was sent until now has passed them by.
    pub(super) begun: Vec<Subscription>,
}

/// In publishes: a filter with wildcards is compared with all retained messages.
fn price_of(request: &SubscribeRequest, retained: usize) -> u32 {
    let is_wide = request.filter.as_ref().is_ok_and(|asked| asked.filter.as_str().contains(['+', '#']));
    let looked_through = if is_wide { retained } else { 0 };
    u32::try_from(1 + looked_through / RETAINED_PER_PUBLISH).unwrap_or(u32::MAX)
}

/// Of which device the topics are that a filter matches, if it says so.
fn device_in(filter: &TopicFilter) -> Option<DeviceId> {
    let mut levels = filter.as_str().split('/');
    match (levels.next(), levels.next()) {
        (Some("dev"), Some(device)) => DeviceId::parse(device).ok(),
        _ => None,
    }
}

impl SubAck {
    fn refuse(&mut self, reason_code: u8, words: String) {
        self.reason_codes.push(reason_code);
        self.words.get_or_insert(words);
    }
}

impl<G: Gate, F: Fabric, S: AsyncRead + AsyncWrite + Send> Connection<'_, G, F, S> {
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), Ending> {
        let mut suback = SubAck { packet_identifier: subscribe.packet_identifier, ..SubAck::default() };
        let mut ticket = None;
        let retained = lock(&self.front.retained).size().0;
        self.charge(subscribe.requests.iter().map(|request| price_of(request, retained)).fold(0, u32::saturating_add));
        for request in subscribe.requests {
            // What is durable is durable in order: the last is all.
            ticket = self.subscribe_one(request, subscribe.identifier, &mut suback).await?.or(ticket);
        }
        self.answer_when(ticket, Answer::Subscribe(suback))
    }

    /// Counts a SUBSCRIBE or UNSUBSCRIBE against what a principal may publish: the hub works for it without the client sending more.
    /// A burst at most, so that nobody is left waiting for long.
    fn charge(&mut self, price: u32) {
        let price = price.min(self.front.limits.publish_burst);
        self.throttled_until = lock(&self.usage).publishes.take_many(price, Instant::now()).err();
    }

    async fn subscribe_one(
        &mut self,
        request: SubscribeRequest,
        identifier: Option<u32>,
        suback: &mut SubAck,
    ) -> Result<Option<Ticket>, Ending> {
        let asked = match request.filter {
            Ok(asked) => asked,
            Err(invalid) => {
                suback.refuse(reason::TOPIC_FILTER_INVALID, invalid.to_string());
                return Ok(None);
            }
        };
        if has_too_many_levels(asked.filter.as_str(), self.front.limits.max_topic_levels) {
            suback.refuse(reason::TOPIC_FILTER_INVALID, "the filter has more levels than this hub takes".to_owned());
            return Ok(None);
        }
        let permit = match self.rights.authorize_subscribe(asked) {
            Ok(permit) => permit,
            Err(denied) => {
                suback.refuse(reason::NOT_AUTHORIZED, denied.to_string());
                self.denied(denied);
                return Ok(None);
            }
        };
        let options = request.options;
        let max = self.front.limits.max_subscriptions;
        let subscribed = self.held()?.session.subscribe(permit.subscription().clone(), options, identifier, max);
        let Ok((subscription, is_new)) = subscribed else {
            suback.refuse(reason::QUOTA_EXCEEDED, format!("a session has at most {max} subscriptions"));
            self.limited("too many subscriptions");
            return Ok(None);
        };
        let Ok(ticket) = self.front.subscribed(&self.slot, &subscription) else {
            lock(&self.slot.state).session.unsubscribe(&subscription.name());
            suback.refuse(reason::QUOTA_EXCEEDED, format!("a shared subscription has at most {MAX_GROUP_MEMBERS} members"));
            self.limited("too many members of a shared subscription");
            return Ok(None);
        };
        if subscription.share_name.is_some() {
            // MQTT-4.8: no retained messages, and nothing on the fabric.
            suback.reason_codes.push(options.qos as u8);
            return Ok(ticket);
        }
        let is_known = self.subscriptions.get(subscription.number).is_some();
        self.subscriptions.insert(subscription.clone());
        // Also one that the session has and the link lacks.
        let is_linked = is_known && !self.unlinked.remove(&subscription.number);
        self.ensure_link().await?;
        if !is_linked
            && let Some(link) = &mut self.link
            && link.subscribe(&permit, subscription.number).await.is_err()
        {
            self.relink().await?;
        }
        suback.reason_codes.push(options.qos as u8);
        if is_new {
            suback.begun.push(subscription.clone());
        }
        match options.retain_handling {
            RetainHandling::Send => suback.want_retained.push(subscription),
            RetainHandling::SendIfNew if is_new => suback.want_retained.push(subscription),
            RetainHandling::SendIfNew | RetainHandling::DoNotSend => {}
        }
        Ok(ticket)
    }

    /// Hands a device the commands that wait for it and that these subscriptions hear: those that were sent before it listened.
    pub(super) fn offer_commands(&mut self, listening: &[Subscription]) {
        let Principal::Device(listener) = &self.slot.key.principal else { return };
        // A gateway listens for its children as well: whose commands they are, the filter says.
        let devices: BTreeSet<_> = listening.iter().filter_map(|subscription| device_in(&subscription.filter)).collect();
        for device in devices {
            let waiting = self.front.gate.commands_waiting(listener, &device);
            if !waiting.is_empty() {
                self.offer_waiting(&device, waiting, listening);
            }
        }
    }

    /// Hands a device that is back those that its session does not have: no queue kept them, or it lost them.
    pub(super) fn offer_missed_commands(&mut self) {
        let subscriptions: Vec<_> = self.subscriptions.iter().cloned().collect();
        self.offer_commands(&subscriptions);
    }

    /// Each once, whatever subscriptions match, as it comes when it is published; in its place among those that the session
    /// has: a device refuses one that comes after a later one.
    fn offer_waiting(&self, device: &DeviceId, waiting: Vec<(TopicName, Message)>, listening: &[Subscription]) {
        let gate = &self.front.gate;
        let mut state = lock(&self.slot.state);
        let SlotState { session, offered, .. } = &mut *state;
        let outbound = &mut session.outbound;
        let mut held: HashMap<String, Arc<Routed>> = HashMap::new();
        for (pending, _) in outbound.kept_and_groups() {
            let routed = &pending.routed;
            if !pending.is_refused() && device_of_command(&self.slot, routed).as_ref() == Some(device) {
                held.extend(gate.command_id(&routed.message.payload).map(|id| (id, routed.clone())));
            }
        }
        let mut later: Vec<Arc<Routed>> = Vec::new();
        for (topic, message) in waiting.into_iter().rev() {
            let id = gate.command_id(&message.payload);
            // Less is left of its time than when it was queued: its id tells that it is the same.
            if let Some(known) = id.as_ref().and_then(|id| held.get(id)) {
                later.push(known.clone());
                continue;
            }
            if !listening.iter().any(|subscription| subscription.filter.matches(&topic)) {
                continue;
            }
            let matching = || self.subscriptions.iter().filter(|subscription| subscription.filter.matches(&topic));
            let granted = matching().map(|subscription| subscription.options.qos).max().unwrap_or_default();
            let subscription_identifiers = matching().filter_map(|subscription| subscription.identifier).collect();
            let qos = message.qos.min(granted);
            let routed = Arc::new(Routed { topic, message, publisher: None, queued_for: Box::default() });
            // Without a row: a command that waits is the hub's to send again.
            let pending = Pending { subscription_identifiers, ..Pending::of(routed.clone(), qos) };
            id.iter().for_each(|id| offered.remember(id));
            outbound.offer_before(pending, |queued| later.iter().any(|later| Arc::ptr_eq(later, &queued.routed)));
            later.push(routed);
        }
    }

    pub(super) fn offer_retained(&mut self, subscription: &Subscription) {
        let own = Author::from(&self.slot.key);
        let besides = subscription.options.no_local.then_some(&own);
        let messages = self.front.retained_matching(&subscription.filter, besides);
        let (mut writes, stored) = (Vec::new(), Stored::of_a_promise());
        let slot = self.slot.clone();
        let offered = QueueBounds { messages: messages.len(), bytes: messages.iter().map(|routed| routed.weight()).sum() };
        let most = self.front.most_extra();
        let mut state = lock(&slot.state);
        if !state.session.outbound.has_room_for_extra(offered, most) {
            // A client that subscribes again and again without reading: it is told by the end of its connection.
            let lost = offered.messages as u64;
            self.front.counters.lost.fetch_add(lost, Ordering::Relaxed);
            state.lost += lost;
            return;
        }
        for routed in messages {
            let qos = routed.message.qos.min(subscription.options.qos);
            let subscription_identifiers = subscription.identifier.into_iter().collect();
            let pending = Pending { retain: true, subscription_identifiers, is_extra: true, ..Pending::of(routed, qos) };
            if let Some(pending) = slot.prepare(&mut state, pending, &mut writes, &stored) {
                state.session.outbound.offer_unbounded(pending);
            }
        }
        self.unstored_bytes += weight_of(&writes);
        drop(self.front.persister.store_and_tell(writes, stored));
    }

    pub(super) async fn unsubscribe(
        &mut self,
        packet_identifier: u16,
        filters: Vec<Result<SubscriptionFilter, InvalidTopic>>,
    ) -> Result<(), Ending> {
        let mut reason_codes = Vec::with_capacity(filters.len());
        let mut ticket = None;
        self.charge(u32::try_from(filters.len()).unwrap_or(u32::MAX));
        for filter in filters {
            let removed = match &filter {
                Ok(asked) => self.held()?.session.unsubscribe(asked),
                Err(_) => {
                    reason_codes.push(reason::TOPIC_FILTER_INVALID);
                    continue;
                }
            };
            let Some(subscription) = removed else {
                reason_codes.push(reason::NO_SUBSCRIPTION_EXISTED);
                continue;
            };
            reason_codes.push(reason::SUCCESS);
            ticket = self.front.unsubscribed(&self.slot, &subscription).or(ticket);
            self.unlinked.remove(&subscription.number);
            if self.subscriptions.remove(subscription.number).is_some()
                && let Some(link) = &mut self.link
                && link.unsubscribe(&subscription.filter).await.is_err()
            {
                self.relink().await?;
            }
        }
        self.answer_when(ticket, Answer::Unsubscribe(packet_identifier, reason_codes))
    }

    /// The session, which a successor may hold already: then what is subscribed to on this connection would be on no other.
    fn held(&self) -> Result<MutexGuard<'_, SlotState>, Ending> {
        let state = lock(&self.slot.state);
        let is_held = state.attached.as_ref().is_some_and(|attached| attached.connection == self.number);
        if is_held { Ok(state) } else { Err(Ending::ByHub(EndReason::TakenOver)) }
    }

    pub(super) async fn ensure_link(&mut self) -> Result<(), Ending> {
        if self.link.is_none() {
            self.link = Some(self.front.fabric.link().await.map_err(|gone| fault_of(reason::SERVER_UNAVAILABLE, &gone))?);
        }
        Ok(())
    }

    /// Puts on the link what the rights did not cover before.
    pub(super) async fn link_missing(&mut self) -> Result<(), Ending> {
        self.ensure_link().await?;
        for number in std::mem::take(&mut self.unlinked) {
            let Some(subscription) = self.subscriptions.get(number) else { continue };
            let Ok(permit) = self.rights.authorize_subscribe(subscription.name()) else {
                self.unlinked.insert(number);
                continue;
            };
            if let Some(link) = &mut self.link
                && link.subscribe(&permit, number).await.is_err()
            {
                return self.relink().await;
            }
        }
        Ok(())
    }

    /// A new link in place of a dead one or of none, with all subscriptions that the rights still cover.
    pub(super) async fn relink(&mut self) -> Result<(), Ending> {
        let gone = |gone| fault_of(reason::SERVER_UNAVAILABLE, &gone);
        for _ in 0..MAX_FABRIC_DEATHS_IN_A_ROW {
            let mut link = match self.link.take() {
                Some(dead) => self.front.fabric.replace(dead).await.map_err(gone)?,
                None => self.front.fabric.link().await.map_err(gone)?,
            };
            let mut alive = link.flush().await.is_ok();
            let mut unlinked = BTreeSet::new();
            for subscription in self.subscriptions.iter() {
                match self.rights.authorize_subscribe(subscription.name()) {
                    Ok(permit) if alive => alive = link.subscribe(&permit, subscription.number).await.is_ok(),
                    Ok(_) => {}
                    Err(_) => drop(unlinked.insert(subscription.number)),
                }
            }
            self.unlinked = unlinked;
            self.link = Some(link);
            if alive {
                return Ok(());
            }
        }
        Err(fault(reason::SERVER_UNAVAILABLE, "the message fabric died"))
    }
}
