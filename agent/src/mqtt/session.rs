//! The MQTT session as the device sees it: what is queued, what awaits acknowledgement, what must be sent again after a
//! reconnect, and whether the connection still lives. Outlives connections; builds packets, sends none.

use super::codec::{self, ConnAck, OutgoingPublish, PubAck, Qos};
use super::reason::ReasonCode;
use super::{MAX_OUTGOING_PACKET, MAX_PAYLOAD, MAX_TOPIC, MAX_TOPIC_LEVELS, RECEIVE_MAXIMUM};
use crate::buffer::{Buffer, BufferFull};
use crate::time::Instant;
use core::time::Duration;
use heapless::{Deque, String, Vec};

/// Publishes that may wait for transmission or acknowledgement at once.
pub const QUEUE: usize = 8;
/// What answers one command: that it is accepted, that it is executing, and what became of it.
pub const ANSWERS: usize = 3;
/// Of these, kept free for the agent's own: the answers to a command, what became of the one before it, and whether the device is
/// there. Both of the latter may be queued after a command was asked for.
pub const RESERVED: usize = ANSWERS + 2;
/// How long the hub may take to answer a PINGREQ.
const PING_PATIENCE: Duration = Duration::from_secs(20);
/// How long the hub may take over the next acknowledgement that it owes: its storage may be slow, but not for ever.
pub(crate) const ACKNOWLEDGEMENT_PATIENCE: Duration = Duration::from_secs(60);

/// Names one publish, so that its acknowledgement can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishId(pub u32);

/// For whom a publish is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The application: must leave [`RESERVED`] places.
    Application,
    /// The agent itself: may take the last place.
    Agent,
}

/// Why a publish was not queued. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotQueued {
    /// Too many publishes wait already; try again once one was acknowledged.
    Full,
    /// QoS 0 is not kept while there is no connection.
    Offline,
    /// The topic is empty, longer than [`MAX_TOPIC`], has more than [`MAX_TOPIC_LEVELS`], or holds a wildcard or a control
    /// character.
    Topic,
    /// The payload is longer than [`MAX_PAYLOAD`].
    Payload,
}

/// A publish that needs no more attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Which.
    pub id: PublishId,
    /// Where to.
    pub topic: String<MAX_TOPIC>,
    /// [`ReasonCode::SUCCESS`], or why the hub refused it.
    pub reason_code: ReasonCode,
}

/// What [`Session::next_packet`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// There is nothing to send now.
    Nothing,
    /// A packet was written.
    Written,
    /// A publish is larger than the hub takes; it was dropped.
    Dropped(Settled),
}

#[derive(Debug)]
struct Outgoing {
    id: PublishId,
    topic: String<MAX_TOPIC>,
    payload: Vec<u8, MAX_PAYLOAD>,
    retain: bool,
    qos: Qos,
    delivery: Delivery,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    Waiting,
    /// Sent on this connection.
    InFlight {
        packet_id: u16,
    },
    /// Sent on a former connection and not acknowledged. `dup` if the hub kept the session.
    ToRepeat {
        packet_id: u16,
        dup: bool,
    },
}

/// What holds for the present connection.
#[derive(Debug)]
struct Connected {
    receive_maximum: usize,
    maximum_packet: usize,
    maximum_qos: Qos,
    retain_available: bool,
    keep_alive: Duration,
    last_sent: Instant,
    last_received: Instant,
    ping_sent: Option<Instant>,
    /// Since when nothing was acknowledged, although something is in flight. The hub acknowledges in order (MQTT 5, 4.6).
    unacknowledged_since: Option<Instant>,
}

/// The session.
#[derive(Debug)]
pub(crate) struct Session {
    queue: Vec<Outgoing, QUEUE>,
    acknowledgements: Deque<(u16, ReasonCode), { RECEIVE_MAXIMUM as usize }>,
    last_packet_id: u16,
    last_publish_id: u32,
    connected: Option<Connected>,
}

impl Session {
    pub(crate) const fn new() -> Self {
        Self { queue: Vec::new(), acknowledgements: Deque::new(), last_packet_id: 0, last_publish_id: 0, connected: None }
    }

    /// Queues a publish.
    pub(crate) fn enqueue(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: Qos,
        retain: bool,
        class: Class,
    ) -> Result<PublishId, NotQueued> {
        // The hub ends the connection of a device that publishes to what is no topic, and would end the next one as well.
        let is_illegal = |character: char| matches!(character, '+' | '#') || character.is_control();
        if topic.is_empty() || topic.contains(is_illegal) || topic.split('/').count() > MAX_TOPIC_LEVELS {
            return Err(NotQueued::Topic);
        }
        let topic = String::try_from(topic).map_err(|_| NotQueued::Topic)?;
        let payload = Vec::from_slice(payload).map_err(|_| NotQueued::Payload)?;
        if qos == Qos::AtMostOnce && self.connected.is_none() {
            return Err(NotQueued::Offline);
        }
        let kept_free = if class == Class::Application { RESERVED } else { 0 };
        if self.free_places() <= kept_free {
            return Err(NotQueued::Full);
        }
        self.last_publish_id = self.last_publish_id.wrapping_add(1);
        let id = PublishId(self.last_publish_id);
        let outgoing = Outgoing { id, topic, payload, retain, qos, delivery: Delivery::Waiting };
        self.queue.push(outgoing).map_err(|_| NotQueued::Full)?;
        Ok(id)
    }

    pub(crate) fn free_places(&self) -> usize {
        QUEUE - self.queue.len()
    }

    /// What waits last for this topic. With a kept session it is sent again by itself.
    pub(crate) fn waiting(&self, topic: &str) -> Option<&[u8]> {
        self.queue.iter().rfind(|outgoing| outgoing.topic == topic).map(|outgoing| &*outgoing.payload)
    }

    /// Whether the next command would find places for its answers. Until then nothing is asked for or acknowledged, and the hub
    /// waits. The application cannot keep it so: it leaves these places.
    pub(crate) fn may_hear_more(&self) -> bool {
        self.free_places() >= RESERVED
    }

    pub(crate) fn is_settled(&self, id: PublishId) -> bool {
        self.queue.iter().all(|outgoing| outgoing.id != id)
    }

    /// The hub accepted the connection.
    pub(crate) fn connected(&mut self, connack: &ConnAck<'_>, keep_alive: u16, now: Instant) {
        let keep_alive = Duration::from_secs(u64::from(connack.server_keep_alive.unwrap_or(keep_alive)));
        for outgoing in &mut self.queue {
            if let Delivery::InFlight { packet_id } | Delivery::ToRepeat { packet_id, .. } = outgoing.delivery {
                outgoing.delivery = Delivery::ToRepeat { packet_id, dup: connack.session_present };
            }
        }
        let maximum_packet = connack.maximum_packet_size.map_or(MAX_OUTGOING_PACKET, |size| size as usize);
        self.connected = Some(Connected {
            receive_maximum: usize::from(connack.receive_maximum),
            maximum_packet: maximum_packet.min(MAX_OUTGOING_PACKET),
            maximum_qos: connack.maximum_qos,
            retain_available: connack.retain_available,
            keep_alive,
            last_sent: now,
            last_received: now,
            ping_sent: None,
            unacknowledged_since: None,
        });
    }

    /// The connection is gone. What was promised (QoS 1) stays queued, the rest goes.
    pub(crate) fn disconnected(&mut self) {
        self.connected = None;
        self.acknowledgements.clear();
        self.queue.retain(|outgoing| outgoing.qos == Qos::AtLeastOnce);
    }

    /// Any packet of the hub shows that the connection lives.
    pub(crate) fn received(&mut self, now: Instant) {
        if let Some(connected) = &mut self.connected {
            connected.last_received = now;
            connected.ping_sent = None;
        }
    }

    /// The hub acknowledged a publish. `None` if it acknowledged nothing that is in flight, which it may after a reconnect.
    pub(crate) fn receive_puback(&mut self, puback: &PubAck<'_>) -> Option<Settled> {
        let in_flight = Delivery::InFlight { packet_id: puback.packet_id };
        let position = self.queue.iter().position(|outgoing| outgoing.delivery == in_flight)?;
        let settled = self.settle(position, puback.reason_code);
        let is_in_flight = self.queue.iter().any(|outgoing| matches!(outgoing.delivery, Delivery::InFlight { .. }));
        if let Some(connected) = &mut self.connected {
            connected.unacknowledged_since = is_in_flight.then_some(connected.last_received);
        }
        Some(settled)
    }

    fn settle(&mut self, position: usize, reason_code: ReasonCode) -> Settled {
        let Outgoing { id, topic, .. } = self.queue.remove(position);
        Settled { id, topic, reason_code }
    }

    /// Queues our acknowledgement of a QoS 1 publish of the hub.
    ///
    /// # Errors
    /// The hub has more unacknowledged publishes than our Receive Maximum.
    pub(crate) fn acknowledge(&mut self, packet_id: u16, reason: ReasonCode) -> Result<(), (u16, ReasonCode)> {
        self.acknowledgements.push_back((packet_id, reason))
    }

    pub(crate) fn new_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let candidate = self.last_packet_id;
            let in_use = self.queue.iter().any(|outgoing| match outgoing.delivery {
                Delivery::Waiting => false,
                Delivery::InFlight { packet_id } | Delivery::ToRepeat { packet_id, .. } => packet_id == candidate,
            });
            if !in_use {
                return candidate;
            }
        }
    }

    /// Notes that a packet went out that the session did not build.
    pub(crate) fn sent(&mut self, now: Instant) {
        if let Some(connected) = &mut self.connected {
            connected.last_sent = now;
        }
    }

    /// Writes the next packet that is due: acknowledgements first if there [is room](Self::may_hear_more) for what they bring, then
    /// publishes in their order, then a ping.
    pub(crate) fn next_packet(&mut self, now: Instant, out: &mut Buffer<'_>) -> Result<Next, BufferFull> {
        let may_hear_more = self.may_hear_more();
        let Some(connected) = &mut self.connected else {
            return Ok(Next::Nothing);
        };
        if let Some(&(packet_id, reason)) = self.acknowledgements.front().filter(|_| may_hear_more) {
            codec::write_puback(out, packet_id, reason)?;
            self.acknowledgements.pop_front();
            connected.last_sent = now;
            return Ok(Next::Written);
        }
        let in_flight = self.queue.iter().filter(|it| matches!(it.delivery, Delivery::InFlight { .. })).count();
        let window_open = in_flight < connected.receive_maximum;
        let is_due = |outgoing: &Outgoing| match outgoing.delivery {
            Delivery::InFlight { .. } => false,
            Delivery::ToRepeat { .. } => window_open,
            Delivery::Waiting => window_open || outgoing.qos == Qos::AtMostOnce,
        };
        if let Some(position) = self.queue.iter().position(is_due) {
            return self.write_publish(position, now, out);
        }
        if now >= connected.ping_due() && connected.ping_sent.is_none() {
            codec::write_pingreq(out)?;
            connected.ping_sent = Some(now);
            connected.last_sent = now;
            return Ok(Next::Written);
        }
        Ok(Next::Nothing)
    }

    fn write_publish(&mut self, position: usize, now: Instant, out: &mut Buffer<'_>) -> Result<Next, BufferFull> {
        let new_packet_id = self.new_packet_id();
        let (Some(connected), Some(outgoing)) = (&mut self.connected, self.queue.get_mut(position)) else {
            return Ok(Next::Nothing);
        };
        let qos = outgoing.qos.min(connected.maximum_qos);
        let (packet_id, dup) = match outgoing.delivery {
            Delivery::ToRepeat { packet_id, dup } => (packet_id, dup),
            Delivery::Waiting | Delivery::InFlight { .. } => (new_packet_id, false),
        };
        let publish = OutgoingPublish {
            topic: &outgoing.topic,
            payload: &outgoing.payload,
            retain: outgoing.retain && connected.retain_available,
            packet_id: (qos == Qos::AtLeastOnce).then_some(packet_id),
            dup,
        };
        if publish.packet_length() > connected.maximum_packet {
            return Ok(Next::Dropped(self.settle(position, ReasonCode::PACKET_TOO_LARGE)));
        }
        publish.write(out)?;
        connected.last_sent = now;
        if qos == Qos::AtLeastOnce {
            outgoing.delivery = Delivery::InFlight { packet_id };
            connected.unacknowledged_since.get_or_insert(now);
        } else {
            self.queue.remove(position);
        }
        Ok(Next::Written)
    }

    /// When the session wants to be asked again: a ping is due, or its answer is overdue.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connected = self.connected.as_ref()?;
        let ping = match connected.ping_sent {
            Some(sent) => sent.after(PING_PATIENCE),
            None => connected.ping_due(),
        };
        let acknowledgement = connected.unacknowledged_since.map(|since| since.after(ACKNOWLEDGEMENT_PATIENCE));
        Some(acknowledgement.map_or(ping, |due| due.min(ping)))
    }

    /// Whether the hub acknowledges nothing any more.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        let since = self.connected.as_ref().and_then(|connected| connected.unacknowledged_since);
        since.is_some_and(|since| now.since(since) >= ACKNOWLEDGEMENT_PATIENCE)
    }

    /// Whether a PINGREQ went unanswered for too long.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        let ping_sent = self.connected.as_ref().and_then(|connected| connected.ping_sent);
        ping_sent.is_some_and(|sent| now.since(sent) >= PING_PATIENCE)
    }
}

impl Connected {
    /// Three quarters of the keep alive after the last packet in either direction: a device that only sends QoS 0 would
    /// otherwise never notice that nobody listens. Keep alive 0 means never.
    fn ping_due(&self) -> Instant {
        if self.keep_alive.is_zero() {
            return Instant::from_millis(u64::MAX);
        }
        self.last_sent.min(self.last_received).after(self.keep_alive * 3 / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connack(session_present: bool) -> ConnAck<'static> {
        let bytes: &'static [u8] = if session_present { &[0x20, 3, 1, 0, 0] } else { &[0x20, 3, 0, 0, 0] };
        match codec::decode(bytes) {
            Ok(codec::Packet::ConnAck(connack)) => connack,
            other => panic!("{other:?}"),
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1_000)
    }

    fn online(session: &mut Session, session_present: bool) {
        session.connected(&connack(session_present), 60, at(0));
    }

    fn publish(session: &mut Session, qos: Qos) -> Result<PublishId, NotQueued> {
        session.enqueue("dev/lamp/tele/x", b"1", qos, false, Class::Application)
    }

    fn sent(session: &mut Session, now: Instant) -> std::vec::Vec<u8> {
        let mut bytes = [0; MAX_OUTGOING_PACKET];
        let mut out = Buffer::new(&mut bytes);
        let _ = session.next_packet(now, &mut out).expect("fits");
        out.written().to_vec()
    }

    fn puback(packet_id: u16, reason_code: ReasonCode) -> PubAck<'static> {
        PubAck { packet_id, reason_code, reason_string: "" }
    }

    #[test]
    fn an_acknowledged_publish_is_settled_once() {
        let mut session = Session::new();
        online(&mut session, false);
        let id = publish(&mut session, Qos::AtLeastOnce).expect("room");
        assert_eq!(sent(&mut session, at(0))[0], 0x32);
        let settled = session.receive_puback(&puback(1, ReasonCode::NOT_AUTHORIZED)).expect("in flight");
        assert_eq!((settled.id, settled.reason_code), (id, ReasonCode::NOT_AUTHORIZED));
        assert_eq!(session.receive_puback(&puback(1, ReasonCode::SUCCESS)), None);
    }

    #[test]
    fn an_unacknowledged_publish_is_repeated_with_dup_only_if_the_hub_kept_the_session() {
        for session_present in [true, false] {
            let mut session = Session::new();
            online(&mut session, false);
            publish(&mut session, Qos::AtLeastOnce).expect("room");
            let first = sent(&mut session, at(0));
            session.disconnected();
            assert!(sent(&mut session, at(1)).is_empty(), "offline");
            online(&mut session, session_present);
            let mut again = sent(&mut session, at(2));
            assert_eq!(again[0] & 0x08 != 0, session_present);
            again[0] &= !0x08;
            assert_eq!(again, first, "same packet identifier, same message");
            assert!(session.receive_puback(&puback(1, ReasonCode::SUCCESS)).is_some());
        }
    }

    #[test]
    fn the_hubs_receive_maximum_is_respected_and_qos_0_does_not_count() {
        let mut session = Session::new();
        session.connected(&ConnAck { receive_maximum: 2, ..connack(false) }, 60, at(0));
        for qos in [Qos::AtLeastOnce, Qos::AtLeastOnce, Qos::AtLeastOnce, Qos::AtMostOnce] {
            session.enqueue("dev/lamp/tele/x", b"1", qos, false, Class::Agent).expect("room");
        }
        let first_bytes: std::vec::Vec<_> = (0..5).filter_map(|_| sent(&mut session, at(0)).first().copied()).collect();
        assert_eq!(first_bytes, [0x32, 0x32, 0x30]);
        session.receive_puback(&puback(1, ReasonCode::SUCCESS)).expect("in flight");
        assert_eq!(sent(&mut session, at(0))[0], 0x32);
    }

    #[test]
    fn a_publish_larger_than_the_hub_takes_is_dropped_and_told() {
        let mut session = Session::new();
        session.connected(&ConnAck { maximum_packet_size: Some(10), ..connack(false) }, 60, at(0));
        let id = publish(&mut session, Qos::AtLeastOnce).expect("room");
        let mut bytes = [0; 64];
        match session.next_packet(at(0), &mut Buffer::new(&mut bytes)) {
            Ok(Next::Dropped(settled)) => assert_eq!((settled.id, settled.reason_code), (id, ReasonCode::PACKET_TOO_LARGE)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_application_cannot_take_the_places_that_answer_a_command() {
        let mut session = Session::new();
        let queued = (0..QUEUE).filter(|_| publish(&mut session, Qos::AtLeastOnce).is_ok()).count();
        assert_eq!(queued, QUEUE - RESERVED);
        for _ in 0..RESERVED {
            session.enqueue("dev/lamp/ack/c-1", b"{}", Qos::AtLeastOnce, false, Class::Agent).expect("reserved");
        }
        assert_eq!(session.enqueue("t", b"", Qos::AtLeastOnce, false, Class::Agent), Err(NotQueued::Full));
    }

    #[test]
    fn what_cannot_be_published_is_not_queued() {
        let mut session = Session::new();
        assert_eq!(publish(&mut session, Qos::AtMostOnce), Err(NotQueued::Offline));
        let mut refuse = |topic: &str, payload: &[u8]| {
            session.enqueue(topic, payload, Qos::AtLeastOnce, false, Class::Agent).expect_err("refused")
        };
        assert_eq!(refuse("", b""), NotQueued::Topic);
        assert_eq!(refuse("dev/+/state", b""), NotQueued::Topic);
        assert_eq!(refuse(&"x".repeat(MAX_TOPIC + 1), b""), NotQueued::Topic);
        for unprintable in ["dev/lamp/tele/a\0", "dev/lamp/tele/\n", "dev/lamp/tele/\u{7f}", "dev/lamp/tele/\u{85}"] {
            assert_eq!(refuse(unprintable, b""), NotQueued::Topic, "{unprintable:?}");
        }
        assert_eq!(refuse(&"/".repeat(MAX_TOPIC_LEVELS), b""), NotQueued::Topic);
        assert_eq!(refuse("t", &[0; MAX_PAYLOAD + 1]), NotQueued::Payload);
        let levels = "/".repeat(MAX_TOPIC_LEVELS - 1);
        assert!(session.enqueue(&levels, b"", Qos::AtLeastOnce, false, Class::Agent).is_ok(), "as many as the hub takes");
    }

    #[test]
    fn a_silent_connection_is_pinged_and_given_up_when_nobody_answers() {
        let mut session = Session::new();
        online(&mut session, false);
        assert!(sent(&mut session, at(44)).is_empty());
        assert_eq!(session.deadline(), Some(at(45)));
        assert_eq!(sent(&mut session, at(45)), [0xc0, 0]);
        assert!(sent(&mut session, at(46)).is_empty(), "one ping at a time");
        assert!(!session.is_dead(at(64)));
        assert!(session.is_dead(at(65)));
        session.received(at(64));
        assert!(!session.is_dead(at(65)));
    }

    #[test]
    fn a_hub_that_acknowledges_is_given_its_time_for_each_and_one_that_stops_is_not() {
        let mut session = Session::new();
        online(&mut session, false);
        for _ in 0..2 {
            publish(&mut session, Qos::AtLeastOnce).expect("room");
            sent(&mut session, at(0));
        }
        assert!(!session.is_stuck(at(59)));
        session.received(at(59));
        assert!(session.receive_puback(&puback(1, ReasonCode::SUCCESS)).is_some());
        assert!(!session.is_stuck(at(118)) && session.is_stuck(at(119)));
        session.received(at(118));
        assert!(session.receive_puback(&puback(2, ReasonCode::SUCCESS)).is_some());
        assert!(!session.is_stuck(at(1_000)), "nothing is owed");
    }

    #[test]
    fn a_hub_that_exceeds_our_receive_maximum_is_noticed() {
        let mut session = Session::new();
        online(&mut session, false);
        session.acknowledge(1, ReasonCode::SUCCESS).expect("within the maximum");
        assert!(session.acknowledge(9, ReasonCode::SUCCESS).is_err());
        assert_eq!(sent(&mut session, at(0)), [0x40, 2, 0, 1]);
    }

    #[test]
    fn packet_identifiers_in_use_are_not_given_out_again() {
        let mut session = Session::new();
        online(&mut session, false);
        session.last_packet_id = u16::MAX - 1;
        publish(&mut session, Qos::AtLeastOnce).expect("room");
        sent(&mut session, at(0));
        assert_eq!(session.new_packet_id(), 1, "wraps around zero");
        session.last_packet_id = u16::MAX - 1;
        assert_eq!(session.new_packet_id(), 1, "skips the one in flight");
    }
}
