//! What a client publishes: taken, kept, carried and acknowledged; QoS 2 once for each packet identifier. And the order in
//! which a connection answers.

use super::{
    connection::{Connection, fault, has_too_many_levels},
    direct::{Kept, Publisher},
    fabric::{Fabric, Link},
    gate::{Ending, Gate, Noting},
    limits::MAX_TOPIC_ALIASES,
    message::QoS,
    packet::{
        Publish, Version,
        encode::{Ack, TooLarge},
        reason,
    },
    persister::Ticket,
    rows,
    session::Stored,
    slot::lock,
    subscribing::SubAck,
};
use bytes::Bytes;
use hearthkey_core::{
    Seconds,
    topic::{InvalidTopic, TopicName},
};
use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::atomic::Ordering,
    task::{Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

/// What an answer waits for.
pub(super) enum Wait {
    Rows(Ticket),
    /// The hub, and rows if there are any.
    Noting(Noting),
}

/// What became of a QoS 2 publish that was taken.
#[derive(Debug, Clone, Copy)]
enum Taken {
    /// It is stored, or will be.
    ForGood,
    /// It was carried, but the store refused it.
    AndRefused,
}

/// What is answered when rows are durable.
#[derive(Debug)]
pub(super) enum Answer {
    /// PUBACK or PUBREC.
    Publish(u16, QoS),
    /// PUBACK or PUBREC of what was not taken: its reason code, and why in words.
    Refused(u16, QoS, u8, String),
    /// PUBREL, with its reason code.
    Release(u16, u8),
    /// PUBCOMP, with its reason code.
    Complete(u16, u8),
    Subscribe(SubAck),
    Unsubscribe(u16, Vec<u8>),
}

impl<G: Gate, F: Fabric, S: AsyncRead + AsyncWrite + Send> Connection<'_, G, F, S> {
    pub(super) fn publish(&mut self, publish: Publish) -> Result<(), Ending> {
        let Publish { dup, packet_identifier, topic, topic_alias, expiry, mut message } = publish;
        let topic = self.topic_of(&topic, topic_alias)?;
        if has_too_many_levels(topic.as_str(), self.front.limits.max_topic_levels) {
            return Err(fault(reason::TOPIC_NAME_INVALID, "the topic has more levels than this hub takes"));
        }
        self.throttled_until = lock(&self.usage).publishes.take(Instant::now()).err();
        let answered = packet_identifier.map(|identifier| (identifier, message.qos));
        let identifier = answered.filter(|(_, qos)| *qos == QoS::ExactlyOnce).map(|(identifier, _)| identifier);
        let earlier = identifier.and_then(|identifier| self.taken(identifier));
        if let (Some(identifier), Some(Taken::ForGood)) = (identifier, earlier) {
            // A repetition: PUBREC after what the first one waits for.
            let ticket = self.slot.is_durable.then(|| self.front.persister.store(Vec::new()));
            return self.answer_when(ticket, Answer::Publish(identifier, QoS::ExactlyOnce));
        }
        // MQTT 3.1.1 knows no Receive Maximum.
        if answered.is_some() && self.dialect.version == Version::V5 && self.is_beyond_receive_maximum() {
            return Err(fault(reason::RECEIVE_MAXIMUM_EXCEEDED, "more unacknowledged publishes than the Receive Maximum"));
        }
        let permit = match self.rights.authorize_publish(topic) {
            Ok(permit) => permit,
            Err(denied) => {
                let words = denied.to_string();
                self.denied(denied);
                return self.refuse(answered, reason::NOT_AUTHORIZED, words);
            }
        };
        let taken = match answered {
            Some((identifier, QoS::ExactlyOnce)) => {
                let mut state = lock(&self.slot.state);
                if state.attached.as_ref().is_none_or(|attached| attached.connection != self.number) {
                    // Taken over: the successor will hear the publish again.
                    return Ok(());
                }
                let stored = Stored::default();
                state.session.unreleased.insert(identifier, stored.clone());
                self.slot.is_durable.then_some((identifier, stored))
            }
            Some(_) | None => None,
        };
        message.expires_at = expiry.map(|seconds| self.front.gate.now().plus(Seconds(u64::from(seconds))));
        let publisher = Publisher { client: Some(&self.slot.key), session: Some(self.slot.number) };
        let Kept { ticket, bytes, queued_for } = match self.front.keep(&permit, &message, publisher, taken, Vec::new()) {
            Ok(kept) => kept,
            Err(full) => {
                self.limited(full.words());
                self.not_taken(answered);
                return self.refuse(answered, reason::QUOTA_EXCEEDED, full.words().to_owned());
            }
        };
        self.unstored_bytes += bytes;
        let is_carried = dup && matches!(earlier, Some(Taken::AndRefused));
        if let Some(link) = self.link.as_mut().filter(|_| !is_carried) {
            link.publish(&permit, &message, Some(self.slot.number), queued_for);
        }
        self.front.counters.published.fetch_add(1, Ordering::Relaxed);
        let noting = self.front.note_acknowledgement(&self.slot.key.principal, permit.topic(), &message.payload);
        match answered {
            Some((identifier, qos)) => self.answer_after(ticket, noting, Answer::Publish(identifier, qos)),
            None => Ok(()),
        }
    }

    /// Whether a QoS 2 publish of this packet identifier was taken, and what became of it.
    fn taken(&self, packet_identifier: u16) -> Option<Taken> {
        let state = lock(&self.slot.state);
        let stored = state.session.unreleased.get(&packet_identifier)?;
        Some(if stored.is_refused() { Taken::AndRefused } else { Taken::ForGood })
    }

    fn is_beyond_receive_maximum(&self) -> bool {
        let state = lock(&self.slot.state);
        let unreleased = state.session.unreleased.values().filter(|stored| !stored.is_refused()).count();
        self.unanswered_publishes + unreleased >= usize::from(self.front.limits.receive_maximum)
    }

    /// The topic of a publish, by name or by alias (MQTT 5 section 3.3.2.3.4).
    fn topic_of(&mut self, name: &Bytes, alias: Option<u16>) -> Result<TopicName, Ending> {
        let Some(alias) = alias else {
            return match name.is_empty() && self.dialect.version == Version::V5 {
                true => Err(fault(reason::PROTOCOL_ERROR, "neither a topic name nor a topic alias")),
                false => parse(name),
            };
        };
        if alias == 0 || alias > MAX_TOPIC_ALIASES {
            let words = format!("topic aliases are 1 to {MAX_TOPIC_ALIASES}");
            return Err(fault(reason::TOPIC_ALIAS_INVALID, &words));
        }
        if !name.is_empty() {
            let topic = parse(name)?;
            self.topics_by_alias.insert(alias, topic.clone());
            return Ok(topic);
        }
        let known = self.topics_by_alias.get(&alias).cloned();
        known.ok_or_else(|| fault(reason::PROTOCOL_ERROR, "a topic alias that stands for nothing yet"))
    }

    /// Refuses a publish: MQTT 5 hears why, MQTT 3.1.1 has no word for it.
    fn refuse(&mut self, answered: Option<(u16, QoS)>, reason_code: u8, words: String) -> Result<(), Ending> {
        match answered {
            Some((identifier, qos)) => self.answer_when(None, Answer::Refused(identifier, qos, reason_code, words)),
            None => Ok(()),
        }
    }

    fn not_taken(&self, answered: Option<(u16, QoS)>) {
        if let Some((identifier, QoS::ExactlyOnce)) = answered {
            lock(&self.slot.state).session.unreleased.remove(&identifier);
        }
    }

    /// PUBREL: the client will not repeat the publish. PUBCOMP follows when that is durable, since the client may then use the
    /// packet identifier for another message.
    pub(super) fn released(&mut self, packet_identifier: u16) -> Result<(), Ending> {
        let was_taken = lock(&self.slot.state).session.unreleased.remove(&packet_identifier).is_some();
        let forget = || vec![rows::delete_unreleased(self.slot.number, packet_identifier)];
        let ticket = self.slot.is_durable.then(|| self.front.persister.store(forget()));
        let code = if was_taken { reason::SUCCESS } else { reason::PACKET_IDENTIFIER_NOT_FOUND };
        self.answer_when(ticket, Answer::Complete(packet_identifier, code))
    }

    /// Answers when the rows are durable, after all earlier answers (MQTT 5 section 4.6).
    pub(super) fn answer_when(&mut self, ticket: Option<Ticket>, answer: Answer) -> Result<(), Ending> {
        self.answer_after(ticket, None, answer)
    }

    /// The same, and when the hub has kept what concerns it.
    fn answer_after(&mut self, ticket: Option<Ticket>, noting: Option<Noting>, answer: Answer) -> Result<(), Ending> {
        if ticket.is_none() && noting.is_none() && self.answers.is_empty() {
            return self.answer(answer, true);
        }
        self.unanswered_publishes += answer.counts();
        let wait = match (ticket, noting) {
            (ticket, None) => ticket.map(Wait::Rows),
            (None, Some(noting)) => Some(Wait::Noting(noting)),
            (Some(ticket), Some(noting)) => Some(Wait::Noting(Box::pin(async move { ticket.durable().await && noting.await }))),
        };
        self.answers.push_back((wait, answer));
        Ok(())
    }

    /// An answer whose time has come.
    pub(super) fn take_answer(&mut self, answer: Answer, durable: bool) -> Result<(), Ending> {
        self.unanswered_publishes -= answer.counts();
        self.answer(answer, durable)
    }

    fn answer(&mut self, answer: Answer, durable: bool) -> Result<(), Ending> {
        let taken = match answer {
            Answer::Publish(identifier, QoS::ExactlyOnce) => self.taken(identifier),
            Answer::Publish(..) | Answer::Refused(..) | Answer::Release(..) | Answer::Complete(..) => None,
            Answer::Subscribe(_) | Answer::Unsubscribe(..) => None,
        };
        // Also what is repeated before it was known that the store refuses it.
        let was_refused = matches!(taken, Some(Taken::AndRefused));
        if !durable || was_refused {
            if let Answer::Publish(identifier, qos) = answer
                && !was_refused
            {
                self.not_taken(Some((identifier, qos)));
            }
            // No acknowledgement: the client keeps what it sent and comes again.
            return Err(fault(reason::IMPLEMENTATION_SPECIFIC, "the hub could not store it; try again later"));
        }
        let dialect = self.dialect;
        let mut ack = |ack, identifier, code, words: Option<&str>| {
            self.wire.outbound.push(|out| dialect.ack(ack, identifier, code, words, out));
            Ok(())
        };
        let answered = match &answer {
            Answer::Publish(identifier, qos) => ack(ack_of(*qos), *identifier, reason::SUCCESS, None),
            Answer::Refused(identifier, qos, code, words) => ack(ack_of(*qos), *identifier, *code, Some(words)),
            Answer::Release(identifier, code) => ack(Ack::PubRel, *identifier, *code, None),
            Answer::Complete(identifier, code) => ack(Ack::PubComp, *identifier, *code, None),
            Answer::Subscribe(SubAck { packet_identifier, reason_codes, words, .. }) => {
                self.wire.outbound.push(|out| dialect.suback(*packet_identifier, reason_codes, words.as_deref(), out))
            }
            Answer::Unsubscribe(packet_identifier, codes) => {
                self.wire.outbound.push(|out| dialect.unsuback(*packet_identifier, codes, out))
            }
        };
        if answered == Err(TooLarge) {
            let words = "the answer is too large for the client; name fewer filters";
            return Err(fault(reason::PACKET_TOO_LARGE, words));
        }
        if let Answer::Subscribe(suback) = answer {
            suback.want_retained.iter().for_each(|subscription| self.offer_retained(subscription));
            self.offer_commands(&suback.begun);
        }
        Ok(())
    }
}

/// The first answer, when its time has come, and whether what it waited for is durable. May be dropped while it waits. There
/// must be one.
pub(super) async fn next_answer(answers: &mut VecDeque<(Option<Wait>, Answer)>) -> (Answer, bool) {
    poll_fn(|context| {
        let Some((wait, _)) = answers.front_mut() else { return Poll::Pending };
        let durable = match wait {
            Some(Wait::Rows(ticket)) => ready!(ticket.poll_durable(context)),
            Some(Wait::Noting(noting)) => ready!(noting.as_mut().poll(context)),
            None => true,
        };
        answers.pop_front().map_or(Poll::Pending, |(_, answer)| Poll::Ready((answer, durable)))
    })
    .await
}

impl Answer {
    /// How much it counts against the Receive Maximum while it waits; QoS 2 that is taken counts by its packet identifier until
    /// PUBREL.
    const fn counts(&self) -> usize {
        match self {
            Self::Publish(_, QoS::AtLeastOnce) | Self::Refused(..) => 1,
            Self::Publish(..) | Self::Release(..) | Self::Complete(..) | Self::Subscribe(_) | Self::Unsubscribe(..) => 0,
        }
    }
}

const fn ack_of(qos: QoS) -> Ack {
    match qos {
        QoS::AtMostOnce | QoS::AtLeastOnce => Ack::PubAck,
        QoS::ExactlyOnce => Ack::PubRec,
    }
}

fn parse(name: &Bytes) -> Result<TopicName, Ending> {
    TopicName::from_bytes(name).map_err(|invalid| Ending::Fault {
        reason_code: match invalid {
            // MQTT-1.5.4-1: what is no UTF-8 is malformed.
            InvalidTopic::Utf8 => reason::MALFORMED_PACKET,
            InvalidTopic::Length
            | InvalidTopic::Levels
            | InvalidTopic::Control
            | InvalidTopic::WildcardInName
            | InvalidTopic::WildcardMisplaced
            | InvalidTopic::Share => reason::TOPIC_NAME_INVALID,
        },
        reason: invalid.to_string(),
    })
}
