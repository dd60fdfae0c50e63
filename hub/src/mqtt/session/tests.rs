//! What a session promises about its queue, its window and its identifiers.

use super::*;
use crate::mqtt::{message::Message, packet::RetainHandling};
use hearthkey_core::topic::TopicName;

const BOUNDS: QueueBounds = QueueBounds { messages: 3, bytes: 100_000 };

fn pending(text: &'static str, qos: QoS) -> Pending {
    let topic = TopicName::parse("a").expect("legal");
    let message = Message { payload: text.into(), qos, ..Message::default() };
    let routed = Arc::new(Routed { topic, message, publisher: None, queued_for: Box::default() });
    Pending::of(routed, qos)
}

fn text(pending: &Pending) -> String {
    String::from_utf8(pending.routed.message.payload.to_vec()).expect("text")
}

/// Sends all that may be sent: (DUP, packet identifier, text).
fn drain(outbound: &mut Outbound) -> Vec<(bool, Option<u16>, String)> {
    let mut sent = Vec::new();
    while let Some(next) = outbound.next() {
        let (again, text) = match next {
            Next::Again(identifier, pending) => (Some(identifier), text(pending)),
            Next::First(pending) => (None, text(pending)),
            Next::Release(identifier) => (Some(identifier), "PUBREL".to_owned()),
        };
        let identifier = outbound.sent(Keep::ForRepetition);
        sent.push((again.is_some(), again.or(identifier), text));
    }
    sent
}

#[test]
fn no_more_than_the_window_is_unacknowledged() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(2);
    for text in ["a", "b", "c"] {
        assert!(outbound.offer(pending(text, QoS::AtLeastOnce)).is_empty());
    }
    assert_eq!(drain(&mut outbound), [(false, Some(1), "a".into()), (false, Some(2), "b".into())]);
    assert!(outbound.acknowledge(7, QoS::AtLeastOnce).is_none(), "nobody asked for 7");
    assert!(outbound.acknowledge(2, QoS::AtLeastOnce).is_some() && outbound.acknowledge(2, QoS::AtLeastOnce).is_none());
    assert_eq!(drain(&mut outbound), [(false, Some(3), "c".into())]);
}

#[test]
fn what_was_not_acknowledged_is_repeated_first_and_in_order() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(2);
    for text in ["a", "b", "c"] {
        outbound.offer(pending(text, QoS::AtLeastOnce));
    }
    drain(&mut outbound);
    outbound.resume(2);
    assert!(outbound.acknowledge(1, QoS::AtLeastOnce).is_none(), "not yet repeated on this connection");
    assert_eq!(drain(&mut outbound), [(true, Some(1), "a".into()), (true, Some(2), "b".into())]);
    outbound.resume(1);
    assert_eq!(drain(&mut outbound), [(true, Some(1), "a".into())], "a smaller window holds for repetitions");
    assert!(outbound.acknowledge(1, QoS::AtLeastOnce).is_some());
    assert_eq!(drain(&mut outbound), [(true, Some(2), "b".into())]);
}

#[test]
fn at_the_bound_the_oldest_message_goes() {
    let mut outbound = Outbound::new(BOUNDS);
    for text in ["a", "b", "c"] {
        assert!(outbound.offer(pending(text, QoS::AtLeastOnce)).is_empty());
    }
    assert!(outbound.is_full());
    assert_eq!(outbound.offer(pending("d", QoS::AtLeastOnce)), [Discarded::Gone(pending("a", QoS::AtLeastOnce))]);
    let mut bytes = Outbound::new(QueueBounds { messages: 10, bytes: 250 });
    assert!(bytes.offer(pending("a", QoS::AtLeastOnce)).is_empty() && bytes.offer(pending("b", QoS::AtLeastOnce)).is_empty());
    assert_eq!(bytes.offer(pending("c", QoS::AtLeastOnce)).len(), 1, "the third exceeds 250 bytes");
}

#[test]
fn what_waits_beyond_the_bounds_stays_in_its_place_and_makes_nothing_go() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(20);
    let extra = |text| Pending { is_extra: true, ..pending(text, QoS::AtLeastOnce) };
    let offered = |messages| QueueBounds { messages, bytes: 100 * messages };
    assert!(outbound.has_room_for_extra(offered(9), offered(2)), "the first always fits");
    outbound.offer(pending("a", QoS::AtLeastOnce));
    for text in ["1", "2", "3", "4"] {
        outbound.offer_unbounded(extra(text));
    }
    assert!(outbound.has_room_for_extra(offered(2), offered(6)) && !outbound.has_room_for_extra(offered(3), offered(6)));
    assert!(!outbound.has_room_for_extra(QueueBounds { messages: 1, bytes: 300 }, offered(6)), "in bytes, too");
    assert!(outbound.offer(pending("b", QoS::AtLeastOnce)).is_empty() && !outbound.is_full());
    assert!(outbound.offer(pending("c", QoS::AtLeastOnce)).is_empty() && outbound.is_full());
    outbound.offer_unbounded(extra("5"));
    assert_eq!(outbound.offer(pending("d", QoS::AtLeastOnce)), [Discarded::Gone(pending("a", QoS::AtLeastOnce))]);
    let sent: Vec<_> = drain(&mut outbound).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(sent, ["1", "2", "3", "4", "b", "c", "5", "d"]);
    assert!(!outbound.is_full());
}

#[test]
fn what_the_store_refused_is_not_sent_and_makes_nothing_go() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(20);
    let awaited = |text, stored: &Stored| Pending { stored: Some(stored.clone()), ..pending(text, QoS::AtLeastOnce) };
    let (taken, refused, promised) = (Stored::default(), Stored::default(), Stored::of_a_promise());
    outbound.offer(awaited("refused", &refused));
    assert_eq!(outbound.take_refused(), None, "nobody knows yet");
    assert_eq!(outbound.next(), None);
    for (text, stored) in [("taken", &taken), ("promised", &promised)] {
        outbound.offer(awaited(text, stored));
    }
    [&refused, &promised].into_iter().for_each(|stored| stored.settle(false));
    taken.settle(true);
    assert_eq!((outbound.next(), outbound.awaited()), (None, None));
    assert_eq!(outbound.take_refused().map(|refused| text(&refused)), Some("refused".to_owned()));
    let again = Stored::default();
    assert!(outbound.offer(awaited("again", &again)).is_empty());
    again.settle(false);
    let dropped = outbound.offer(pending("last", QoS::AtLeastOnce));
    assert_eq!(dropped, [Discarded::Refused(awaited("again", &again))]);
    let sent: Vec<_> = drain(&mut outbound).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(sent, ["taken", "promised", "last"]);
}

#[test]
fn a_message_that_is_not_to_be_sent_leaves_the_next_one_in_its_place() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(5);
    outbound.offer(pending("a", QoS::AtLeastOnce));
    outbound.offer(pending("b", QoS::AtLeastOnce));
    drain(&mut outbound);
    outbound.resume(5);
    let gone = |discarded| match discarded {
        Some(Discarded::Gone(pending)) => text(&pending),
        other => panic!("{other:?}"),
    };
    assert_eq!(gone(outbound.discard_next()), "a");
    assert_eq!(drain(&mut outbound), [(true, Some(2), "b".into())]);
    outbound.offer(pending("c", QoS::AtMostOnce));
    assert_eq!(gone(outbound.discard_next()), "c");
    assert_eq!(outbound.next(), None);
}

#[test]
fn packet_identifiers_in_use_are_passed_over_and_zero_never_comes() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(10);
    assert_eq!(outbound.bypass(QoS::AtLeastOnce), 1);
    outbound.last_packet_identifier = u16::MAX - 1;
    assert_eq!((outbound.bypass(QoS::AtLeastOnce), outbound.bypass(QoS::AtLeastOnce)), (u16::MAX, 2));
}

#[test]
fn what_was_sent_earlier_takes_its_place_among_what_counts_and_what_does_not() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(10);
    for (text, is_extra) in [("a", false), ("c", true), ("d", false), ("f", true)] {
        outbound.offer_unbounded(Pending { is_extra, ..pending(text, QoS::AtLeastOnce) });
    }
    for new in ["g", "e", "d2", "c0", "c5", "b"] {
        outbound.offer_before(pending(new, QoS::AtLeastOnce), |queued| *text(queued) > *new);
    }
    let sent: Vec<String> = drain(&mut outbound).into_iter().map(|(_, _, text)| text).collect();
    assert_eq!(sent, ["a", "b", "c", "c0", "c5", "d", "d2", "e", "f", "g"]);
    assert_eq!((outbound.queue.counted.bytes, outbound.queue.extra.bytes), (0, 0));
}

#[test]
fn qos_0_is_not_held_up_by_a_window_but_by_its_place_in_the_queue() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(1);
    outbound.offer(pending("a", QoS::AtLeastOnce));
    outbound.offer(pending("b", QoS::AtMostOnce));
    outbound.offer(pending("c", QoS::AtLeastOnce));
    assert_eq!(drain(&mut outbound), [(false, Some(1), "a".into()), (false, None, "b".into())]);
    assert!(!outbound.may_bypass(QoS::AtMostOnce), "c waits");
}

#[test]
fn a_qos_2_message_is_repeated_until_pubrec_and_its_release_until_pubcomp() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(2);
    for text in ["a", "b", "c"] {
        let reserved = outbound.reserve(false);
        outbound.offer(Pending { reserved, row: Some(7), ..pending(text, QoS::ExactlyOnce) });
    }
    let sent = |dup, identifier, text: &str| (dup, Some(identifier), text.to_owned());
    assert_eq!(drain(&mut outbound), [sent(false, 1, "a"), sent(false, 2, "b")]);
    assert_eq!(outbound.acknowledge(1, QoS::AtLeastOnce), None, "PUBACK is for QoS 1");
    assert_eq!(outbound.completed(1), None, "PUBCOMP before PUBREC");
    assert!(matches!(outbound.received(1), Received::First(Some(_))));
    assert_eq!((outbound.received(1), outbound.received(9)), (Received::Again, Received::Unknown));
    assert_eq!(drain(&mut outbound), [], "the place in the window is free only after PUBCOMP");
    outbound.resume(2);
    assert_eq!(drain(&mut outbound), [sent(true, 1, "PUBREL"), sent(true, 2, "b")]);
    assert_eq!((outbound.completed(1), outbound.completed(1)), (Some(Some(7)), None));
    assert_eq!(drain(&mut outbound), [sent(false, 3, "c")]);
    assert!(outbound.acknowledge(3, QoS::ExactlyOnce).is_some(), "PUBREC with a refusal ends it at once");
    assert_eq!(outbound.len(), 1);
}

#[test]
fn a_qos_2_message_that_the_client_may_know_is_released_rather_than_forgotten() {
    let mut outbound = Outbound::new(BOUNDS);
    let known = Reserved { packet_identifier: 1, may_be_known: true };
    outbound.offer(Pending { reserved: Some(known), row: Some(4), ..pending("a", QoS::ExactlyOnce) });
    outbound.resume(5);
    assert!(matches!(outbound.discard_next(), Some(Discarded::Released(_))));
    assert_eq!(outbound.next(), Some(Next::Release(1)));
    assert_eq!((outbound.sent(Keep::ForRepetition), outbound.next()), (None, None));
    assert_eq!(outbound.bypass(QoS::AtLeastOnce), 2, "the identifier is in use until PUBCOMP");
    assert_eq!(outbound.completed(1), Some(Some(4)));
}

#[test]
fn a_full_queue_releases_a_qos_2_message_that_the_client_may_know() {
    let mut outbound = Outbound::new(BOUNDS);
    let restored = |packet_identifier| Pending {
        reserved: Some(Reserved { packet_identifier, may_be_known: true }),
        row: Some(u64::from(packet_identifier)),
        ..pending("restored", QoS::ExactlyOnce)
    };
    for packet_identifier in [1, 2] {
        outbound.offer_unbounded(restored(packet_identifier));
    }
    let fresh = |outbound: &mut Outbound| {
        let reserved = outbound.reserve(false);
        outbound.offer(Pending { reserved, ..pending("fresh", QoS::ExactlyOnce) })
    };
    assert_eq!(fresh(&mut outbound), []);
    assert_eq!(fresh(&mut outbound), [Discarded::Released(restored(1))]);
    outbound.last_packet_identifier = 0;
    assert_eq!(outbound.reserve(false).map(|reserved| reserved.packet_identifier), Some(5), "1 is not free before PUBCOMP");
    outbound.resume(5);
    assert_eq!(outbound.next(), Some(Next::Release(1)));
    assert_eq!((outbound.sent(Keep::ForRepetition), outbound.completed(1)), (None, Some(Some(1))));
}

#[test]
fn reserved_packet_identifiers_are_nobody_elses() {
    let mut outbound = Outbound::new(BOUNDS);
    outbound.resume(5);
    let reserved = outbound.reserve(false);
    assert_eq!((reserved.map(|reserved| reserved.packet_identifier), outbound.bypass(QoS::AtLeastOnce)), (Some(1), 2));
    outbound.last_packet_identifier = u16::MAX;
    assert_eq!(outbound.bypass(QoS::AtLeastOnce), 3);
    let all: Vec<_> = std::iter::from_fn(|| outbound.reserve(false)).collect();
    assert_eq!(all.len() + 1, MAX_RESERVED);
}

#[test]
fn subscribing_anew_replaces_and_counts_once() {
    let options =
        |qos| SubscriptionOptions { qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send };
    let filter = |text| SubscriptionFilter::parse(text).expect("legal");
    let mut session = Session::new(BOUNDS);
    let (first, new) = session.subscribe(filter("a"), options(QoS::AtMostOnce), None, 1).expect("room");
    assert!(new);
    assert_eq!(session.subscribe(filter("b"), options(QoS::AtMostOnce), None, 1), Err(TooManySubscriptions));
    let (again, new) = session.subscribe(filter("a"), options(QoS::AtLeastOnce), Some(4), 1).expect("same filter");
    assert!(!new && again.number == first.number && again.identifier == Some(4));
    assert_eq!(session.unsubscribe(&filter("a")), Some(again));
    assert_eq!(session.unsubscribe(&filter("a")), None);
}
