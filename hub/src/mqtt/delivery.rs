//! From the fabric and from the session's queue to the client: each message authorized at the moment at which it is sent.

use super::{
    connection::Connection,
    direct::goes_directly,
    fabric::{Fabric, Forward, Link},
    front::Inner,
    gate::{Ending, Gate},
    limits::OUTBOX_HIGH_WATER,
    message::{Message, QoS, Routed},
    packet::{
        encode::{Ack, Delivery},
        reason,
    },
    publishing::Answer,
    rows,
    session::{Discarded, Keep, Next, Pending, Received},
    slot::{Slot, SlotState, lock},
};
use hearthkey_core::{DeviceId, UnixTime, session::Principal};
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite};

impl<G: Gate, F: Fabric, S: AsyncRead + AsyncWrite + Send> Connection<'_, G, F, S> {
    /// Takes a forward from the fabric, and those that have come with it.
    pub(super) fn take_forwards(&mut self, first: Forward) -> Result<(), Ending> {
        let mut next = Some(first);
        while let Some(forward) = next {
            self.take_forward(forward)?;
            let goes_on = self.takes_forwards && self.wire.outbound.len() < OUTBOX_HIGH_WATER;
            next = self.link.as_mut().filter(|_| goes_on).and_then(Link::try_pull);
        }
        Ok(())
    }

    fn take_forward(&mut self, forward: Forward) -> Result<(), Ending> {
        let Forward { subscription, routed, lost } = forward;
        let Some(subscription) = self.subscriptions.get(subscription) else { return Ok(()) };
        let options = subscription.options;
        if lost > 0 {
            self.front.counters.lost.fetch_add(lost, Ordering::Relaxed);
            // What a durable session is promised does not come this way; QoS 0 promises nothing.
            if options.qos != QoS::AtMostOnce && !self.slot.is_durable {
                let reason = format!("too slow: {lost} messages for {} were dropped; subscribe again", subscription.filter);
                return Err(Ending::Fault { reason_code: reason::QUOTA_EXCEEDED, reason });
            }
            if options.qos == QoS::AtMostOnce {
                if self.missed == 0 {
                    self.record_limit(format!("too slow: messages for {} are dropped", subscription.filter));
                }
                self.missed += lost;
            }
        }
        let is_queued = !routed.queued_for.is_empty() && routed.queued_for.binary_search(&self.slot.number).is_ok();
        let is_own = options.no_local && routed.publisher == Some(self.slot.number);
        if is_queued || is_own || routed.message.is_expired_by(|| self.front.gate.now()) {
            return Ok(());
        }
        let qos = match routed.message.qos.min(options.qos) {
            // It would have been queued if this QoS had been granted when it was published: no more than QoS 0 was.
            granted_since if goes_directly(&self.slot, granted_since, &routed.topic) => QoS::AtMostOnce,
            qos => qos,
        };
        let retain = options.retain_as_published && routed.message.retain;
        let identifiers: &[u32] = subscription.identifier.as_slice();
        let mut state = lock(&self.slot.state);
        if state.attached.as_ref().is_none_or(|attached| attached.connection != self.number) {
            return Ok(());
        }
        if self.front.was_offered(&state, &self.slot, &routed) {
            return Ok(());
        }
        let outbound = &mut state.session.outbound;
        if !outbound.may_bypass(qos) {
            let subscription_identifiers = identifiers.into();
            let pending = Pending { retain, subscription_identifiers, ..Pending::of(routed, qos) };
            // Nothing is dropped here: beyond the bound, by this message at most, no more is taken, and the fabric tells the loss.
            outbound.offer_unbounded(pending);
            self.takes_forwards = !outbound.is_full();
            return Ok(());
        }
        let permit = match self.rights.authorize_delivery(&routed.topic) {
            Ok(permit) => permit,
            Err(denied) => {
                drop(state);
                self.denied(denied);
                return Ok(());
            }
        };
        let packet_identifier = (qos != QoS::AtMostOnce).then(|| outbound.bypass(qos));
        let delivery = Delivery { dup: false, qos, packet_identifier, retain, subscription_identifiers: identifiers };
        let (dialect, now) = (self.dialect, time_if_needed(&routed.message, &*self.front.gate));
        match self.wire.outbound.push(|out| dialect.publish(permit, &routed, &delivery, now, out)) {
            Ok(()) => {
                self.front.counters.delivered.fetch_add(1, Ordering::Relaxed);
                if qos == QoS::AtMostOnce {
                    self.front.note_delivery(&self.slot, &routed);
                }
            }
            // The client does not take packets of this size: as if it had acknowledged (MQTT-3.1.2-25).
            Err(_) => {
                if let Some(packet_identifier) = packet_identifier {
                    outbound.acknowledge(packet_identifier, qos);
                }
            }
        }
        Ok(())
    }

    /// Sends what waits in the session's queue, each message authorized by the rights of this moment.
    pub(super) fn deliver(&mut self) -> Result<(), Ending> {
        let slot = self.slot.clone();
        let mut state = lock(&slot.state);
        if state.attached.as_ref().is_none_or(|attached| attached.connection != self.number) {
            return Ok(());
        }
        if state.lost > 0 {
            let reason = format!("too slow: {} messages were dropped; subscribe again", state.lost);
            return Err(Ending::Fault { reason_code: reason::QUOTA_EXCEEDED, reason });
        }
        let keep_all = if slot.is_durable { Keep::ForRepetition } else { Keep::No };
        let mut denials = Vec::new();
        let mut writes = Vec::new();
        let mut for_others = Vec::new();
        let dialect = self.dialect;
        let outbound = &mut state.session.outbound;
        while self.wire.outbound.len() < OUTBOX_HIGH_WATER {
            if let Some(refused) = outbound.take_refused() {
                writes.extend(slot.forget_row(&refused));
                continue;
            }
            let Some(next) = outbound.next() else { break };
            let (again, pending) = match next {
                Next::Again(packet_identifier, pending) => (Some(packet_identifier), pending.clone()),
                Next::First(pending) => (None, pending.clone()),
                Next::Release(packet_identifier) => {
                    self.wire.outbound.push(|out| dialect.ack(Ack::PubRel, packet_identifier, reason::SUCCESS, None, out));
                    outbound.sent(keep_all);
                    continue;
                }
            };
            let routed = &pending.routed;
            let now = time_if_needed(&routed.message, &*self.front.gate);
            let permit = match self.rights.authorize_delivery(&routed.topic) {
                // MQTT-4.3.3-7: expiry no longer counts for a QoS 2 message that was sent. MQTT-3.1.2-25: what the client does not
                // take counts as sent.
                Ok(permit)
                    if dialect.takes(routed, pending.qos, &pending.subscription_identifiers)
                        && (!routed.message.is_expired(now) || again.is_some() && pending.qos == QoS::ExactlyOnce) =>
                {
                    permit
                }
                refused => {
                    let is_denied = refused.is_err();
                    denials.extend(refused.err());
                    match outbound.discard_next() {
                        Some(Discarded::Gone(pending)) => match &pending.share {
                            Some(group) if is_denied => {
                                for_others.push((group.clone(), pending.routed.clone(), slot.forget_row(&pending)));
                            }
                            Some(_) | None => writes.extend(slot.forget_row(&pending)),
                        },
                        Some(Discarded::Refused(pending)) => writes.extend(slot.forget_row(&pending)),
                        Some(Discarded::Released(pending)) => writes.extend(slot.release_row(&pending, again)),
                        None => {}
                    }
                    continue;
                }
            };
            // A command is remembered until it is acknowledged, so that the hub can be told.
            let keep = if device_of_command(&slot, routed).is_some() { Keep::ForRepetition } else { keep_all };
            let first = outbound.sent(keep);
            if pending.qos == QoS::AtMostOnce {
                self.front.note_delivery(&slot, routed);
            }
            let delivery = Delivery {
                dup: again.is_some() || pending.reserved.is_some_and(|reserved| reserved.may_be_known),
                qos: pending.qos,
                packet_identifier: again.or(first),
                retain: pending.retain,
                subscription_identifiers: &pending.subscription_identifiers,
            };
            // Not too large: the client was asked above.
            let _ = self.wire.outbound.push(|out| dialect.publish(permit, routed, &delivery, now, out));
            self.front.counters.delivered.fetch_add(1, Ordering::Relaxed);
        }
        self.takes_forwards = !outbound.is_full();
        self.awaited = outbound.awaited();
        self.front.persister.store_some_time(writes);
        drop(state);
        for (group, routed, forget) in for_others {
            self.front.share_again(&group, &routed, forget);
        }
        denials.into_iter().for_each(|denied| self.denied(denied));
        Ok(())
    }

    /// PUBACK, or a PUBREC that refuses.
    pub(super) fn acknowledged(&mut self, packet_identifier: u16, qos: QoS, reason_code: u8) {
        let mut state = lock(&self.slot.state);
        // An acknowledgement that nobody asked for is ignored: it may answer what a takeover interrupted.
        let acknowledged = state.session.outbound.acknowledge(packet_identifier, qos);
        if let Some(Some(pending)) = acknowledged {
            self.front.persister.store_some_time(self.slot.forget_row(&pending));
            self.front.note_delivery(&self.slot, &pending.routed);
            if reason_code >= reason::UNSPECIFIED_ERROR {
                drop(state);
                self.front.note_refusal(&self.slot, &pending.routed, reason_code);
            }
        }
    }

    /// PUBREC: PUBREL follows when it is durable that the message has arrived, since a client that has seen PUBREL takes the
    /// message for another one.
    pub(super) fn received(&mut self, packet_identifier: u16, reason_code: u8) -> Result<(), Ending> {
        if reason_code >= reason::UNSPECIFIED_ERROR {
            self.acknowledged(packet_identifier, QoS::ExactlyOnce, reason_code);
            return Ok(());
        }
        let (ticket, code) = {
            let mut state = lock(&self.slot.state);
            let store = |writes| self.slot.is_durable.then(|| self.front.persister.store(writes));
            match state.session.outbound.received(packet_identifier) {
                Received::First(kept) => {
                    kept.iter().for_each(|kept| self.front.note_delivery(&self.slot, &kept.routed));
                    let writes = kept.map_or_else(Vec::new, |kept| self.slot.release_row(&kept, Some(packet_identifier)));
                    (store(writes), reason::SUCCESS)
                }
                // After what the first one waits for.
                Received::Again => (store(Vec::new()), reason::SUCCESS),
                Received::Unknown => (None, reason::PACKET_IDENTIFIER_NOT_FOUND),
            }
        };
        self.answer_when(ticket, Answer::Release(packet_identifier, code))
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, packet_identifier: u16) {
        let mut state = lock(&self.slot.state);
        if let Some(Some(row)) = state.session.outbound.completed(packet_identifier) {
            self.front.persister.store_some_time(vec![rows::delete_released(self.slot.number, row)]);
        }
    }
}

impl<G: Gate, F: Fabric> Inner<G, F> {
    /// Whether a message is a command that a session has got, or gets, because it waited for it.
    pub(super) fn was_offered(&self, state: &SlotState, slot: &Slot, routed: &Routed) -> bool {
        !state.offered.is_empty()
            && device_of_command(slot, routed).is_some()
            && self.gate.command_id(&routed.message.payload).is_some_and(|id| state.offered.has(&id))
    }

    /// Tells the hub that a device's session has a command.
    fn note_delivery(&self, slot: &Slot, routed: &Routed) {
        if let (Principal::Device(listener), Some(device)) = (&slot.key.principal, device_of_command(slot, routed)) {
            self.gate.delivered(listener, &device, &routed.message.payload);
        }
    }

    /// Tells the hub that a device's session does not take a command.
    fn note_refusal(&self, slot: &Slot, routed: &Routed, reason_code: u8) {
        if let (Principal::Device(listener), Some(device)) = (&slot.key.principal, device_of_command(slot, routed)) {
            self.gate.refused(listener, &device, &routed.message.payload, reason_code);
        }
    }
}

/// For whom a message is a command, if it is one and this is a device's session: its own, a gateway's for its child, or one
/// that merely listens.
pub(super) fn device_of_command(slot: &Slot, routed: &Routed) -> Option<DeviceId> {
    if routed.publisher.is_some() || !matches!(slot.key.principal, Principal::Device(_)) {
        return None;
    }
    let mut levels = routed.topic.as_str().split('/');
    match (levels.next(), levels.next(), levels.next()) {
        (Some("dev"), Some(device), Some("cmd")) => DeviceId::parse(device).ok(),
        _ => None,
    }
}

/// The time is asked for only where it matters.
fn time_if_needed<G: Gate>(message: &Message, gate: &G) -> UnixTime {
    if message.expires_at.is_some() { gate.now() } else { UnixTime(0) }
}
