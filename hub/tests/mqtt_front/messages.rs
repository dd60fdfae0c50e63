//! Publish, subscribe, deliver: what arrives, what does not, and what is said about it.

use crate::support::*;
use hearthkey::mqtt::{Limits, gate::Happening, message::Message, watch::Watched};
use hearthkey_core::{
    UnixTime,
    rights::PublishPermit,
    topic::{SubscriptionFilter, TopicName},
};

const TEMPERATURE: &str = "dev/lamp/tele/temperature";

#[tokio::test]
async fn what_a_device_publishes_reaches_who_may_see_it_in_both_dialects() {
    let home = Home::new().await;
    let mut owner5 = home.v5("owner").await;
    let mut owner4 = home.connected(Connect { client_identifier: "second".to_owned(), ..Connect::v311("owner") }).await;
    assert_eq!((owner5.subscribe("dev/+/tele/#", 1).await, owner4.subscribe("dev/lamp/tele/+", 2).await), (1, 2));
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.publish1(TEMPERATURE, "21").await, 0);
    lamp.publish0(TEMPERATURE, "22").await;
    let mut oven = home.v311("oven").await;
    assert_eq!(oven.publish1("dev/oven/tele/temperature", "180").await, 0);
    for owner in [&mut owner5, &mut owner4] {
        let (first, second) = (owner.message().await, owner.message().await);
        assert_eq!((first.topic.as_str(), first.payload.as_str(), first.qos, first.retain), (TEMPERATURE, "21", 1, false));
        assert_eq!((second.payload.as_str(), second.qos), ("22", 0));
    }
    assert_eq!(owner5.message().await.payload, "180");
    owner4.nothing_came().await;
}

#[tokio::test]
async fn a_publish_to_a_neighbours_topic_is_denied_by_the_word_of_each_protocol_and_arrives_nowhere() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("#", 0).await;
    let mut lamp = home.v5("lamp").await;
    for topic in ["dev/oven/tele/x", "dev/lamp/cmd/set-mode", "dev/lamp/twin/desired", "$SYS/x", "dev/lamp", "öfen/x"] {
        let publish = lamp.publish_packet(topic, "x", 1, false, &[]);
        lamp.send(&publish).await;
        let puback = lamp.receive().await;
        assert_eq!(puback.body[2], 0x87, "{topic}");
        assert!(String::from_utf8_lossy(&puback.body).contains(topic), "the reason names the topic: {puback:?}");
        lamp.publish0(topic, "x").await;
    }
    let mut old = home.v311("oven").await;
    assert_eq!(old.publish1("dev/lamp/tele/x", "x").await, 0, "MQTT 3.1.1 has no word for it");
    old.publish0("dev/lamp/tele/x", "x").await;
    assert_eq!(lamp.publish1(TEMPERATURE, "21").await, 0);
    assert_eq!(owner.message().await.payload, "21", "nothing of the denied came before");
    home.gate
        .event(|event| matches!(&event.what, Happening::Denied(denied) if denied.to_string().contains("dev/oven/tele/x")))
        .await;
    assert_eq!(home.front.stats().denied, 14);
}

#[tokio::test]
async fn denials_without_end_are_recorded_with_a_bound_and_counted_in_full() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    for _ in 0..200 {
        lamp.publish0("dev/oven/tele/x", "x").await;
    }
    lamp.nothing_came().await;
    let recorded =
        home.gate.state.lock().unwrap().events.iter().filter(|event| matches!(event.what, Happening::Denied(_))).count();
    assert_eq!(home.front.stats().denied, 200);
    assert!((1..200).contains(&recorded), "{recorded}");
}

#[tokio::test]
async fn a_subscription_beyond_the_rights_is_denied_by_the_word_of_each_protocol() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    let mut old = home.connected(Connect { client_identifier: "lamp/old".to_owned(), ..Connect::v311("lamp") }).await;
    for filter in ["#", "dev/+/cmd/+", "dev/oven/cmd/+", "dev/lamp/#", "+/lamp/cmd/+", "$SYS/#"] {
        assert_eq!((lamp.subscribe(filter, 1).await, old.subscribe(filter, 1).await), (0x87, 0x80), "{filter}");
    }
    assert_eq!((lamp.subscribe("dev/lamp/cmd/+", 1).await, old.subscribe("dev/lamp/cmd/+", 0).await), (1, 0));
    for filter in ["a/#/b", "a+", "", "$share/g"] {
        assert_eq!((lamp.subscribe(filter, 1).await, old.subscribe(filter, 1).await), (0x8F, 0x80), "{filter}");
    }
    assert_eq!(lamp.subscribe("$share/g/dev/lamp/cmd/+", 1).await, 1);
    assert_eq!(lamp.subscribe("$share/g/dev/oven/cmd/+", 1).await, 0x87, "the filter inside counts");
}

#[tokio::test]
async fn rights_that_shrink_stop_deliveries_of_a_subscription_that_stands() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    assert_eq!(owner.subscribe("dev/#", 1).await, 1);
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "before").await;
    assert_eq!(owner.message().await.payload, "before");
    home.gate.grant("owner", user("owner"), rights(&[], &["dev/oven/#"]), None);
    home.reconsider(user("owner"));
    lamp.publish1(TEMPERATURE, "after").await;
    home.v5("oven").await.publish1("dev/oven/tele/x", "seen").await;
    assert_eq!(owner.message().await.payload, "seen", "the session goes on with what it may still see");
    home.gate.event(|event| matches!(&event.what, Happening::Denied(denied) if denied.to_string().contains("receive"))).await;
    assert_eq!(owner.publish1("dev/oven/x", "x").await, 0x87);
}

#[tokio::test]
async fn retained_messages_are_handed_to_later_subscribers_until_they_are_removed() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.publish("dev/lamp/status", "online", true, &[]).await, 0);
    assert_eq!(lamp.publish("dev/lamp/status", "busy", true, &[]).await, 0);
    let retained0 = lamp.publish_packet("dev/lamp/state", "{}", 0, true, &[]);
    lamp.send(&retained0).await;
    lamp.nothing_came().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/status", 1).await;
    let status = owner.message().await;
    assert_eq!((status.payload.as_str(), status.retain, status.qos), ("busy", true, 1));
    assert_eq!(owner.subscribe("dev/+/state", 1).await, 1);
    let state = owner.message().await;
    assert_eq!((state.payload.as_str(), state.retain, state.qos), ("{}", true, 0));
    lamp.publish("dev/lamp/status", "live", true, &[]).await;
    let live = owner.message().await;
    assert_eq!((live.payload.as_str(), live.retain), ("live", false), "to a subscription that stands, it is news");
    lamp.publish("dev/lamp/status", "", true, &[]).await;
    assert_eq!(owner.message().await.payload, "", "the removal is a message too");
    let mut late = home.connected(Connect { client_identifier: "late".to_owned(), ..Connect::v5("owner") }).await;
    late.subscribe("dev/lamp/status", 1).await;
    late.nothing_came().await;
    assert_eq!(home.front.stats().retained_messages, 1);
}

#[tokio::test]
async fn a_retained_message_needs_the_right_at_the_moment_of_delivery() {
    let gate = FakeGate::of_a_home();
    gate.grant("guest", user("guest"), rights(&[], &["dev/oven/#"]), None);
    let home = Home::with(gate, Limits::default()).await;
    for id in ["lamp", "oven"] {
        home.v5(id).await.publish(&format!("dev/{id}/status"), id, true, &[]).await;
    }
    let mut guest = home.v5("guest").await;
    assert_eq!(guest.subscribe("dev/+/status", 0).await, 0x87);
    assert_eq!(guest.subscribe("dev/oven/+", 0).await, 0);
    assert_eq!(guest.message().await.payload, "oven");
    guest.nothing_came().await;
}

#[tokio::test]
async fn subscription_options_are_obeyed() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish("dev/lamp/status", "online", true, &[]).await;
    let mut owner = home.v5("owner").await;
    // Retain handling 2: never.
    owner.subscribe("dev/lamp/status", 0x20).await;
    owner.nothing_came().await;
    // Retain handling 1: only for a new subscription.
    owner.subscribe("dev/lamp/status", 0x10).await;
    owner.nothing_came().await;
    owner.subscribe("dev/+/status", 0x10).await;
    assert_eq!(owner.message().await.payload, "online");
    owner.unsubscribe("dev/lamp/status").await;
    // Retain as published.
    owner.subscribe("dev/+/status", 0x18).await;
    lamp.publish("dev/lamp/status", "news", true, &[]).await;
    assert!(owner.message().await.retain);
    // No local.
    owner.subscribe("test/own", 0x04).await;
    owner.subscribe("test/heard", 0x00).await;
    owner.publish0("test/own", "silence").await;
    owner.publish0("test/heard", "echo").await;
    assert_eq!(owner.message().await.payload, "echo");
    // Subscription identifier 300.
    owner.subscribe_with("test/named", 1, &[0x0B, 0xAC, 0x02]).await;
    let publish = owner.publish_packet("test/named", "x", 0, false, &[]);
    owner.send(&publish).await;
    assert_eq!(owner.message().await.properties, [0x0B, 0xAC, 0x02]);
}

#[tokio::test]
async fn after_unsubscribe_nothing_comes_any_more() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    owner.subscribe("dev/lamp/event/+", 1).await;
    assert_eq!(owner.unsubscribe("dev/lamp/tele/+").await.body[3..], [0]);
    assert_eq!(owner.unsubscribe("dev/lamp/tele/+").await.body[3..], [0x11]);
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "21").await;
    lamp.publish1("dev/lamp/event/pressed", "once").await;
    assert_eq!(owner.message().await.payload, "once");
    assert_eq!(home.v311("owner").await.unsubscribe("x").await.body.len(), 2, "MQTT 3.1.1 has no reason codes here");
}

#[tokio::test]
async fn properties_travel_to_mqtt_5_and_do_not_disturb_mqtt_3() {
    let home = Home::new().await;
    let mut owner5 = home.v5("owner").await;
    owner5.subscribe("dev/lamp/tele/+", 0).await;
    let mut owner4 = home.connected(Connect { client_identifier: "second".to_owned(), ..Connect::v311("owner") }).await;
    owner4.subscribe("dev/lamp/tele/+", 0).await;
    let mut sent = vec![0x01, 1, 0x03];
    sent.extend(string("text/plain"));
    sent.push(0x08);
    sent.extend(string("dev/lamp/answers"));
    sent.push(0x09);
    sent.extend(binary(&[0xFF, 0x00]));
    for name in ["a", "b"] {
        sent.push(0x26);
        sent.extend(string(name));
        sent.extend(string("ü"));
    }
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.publish(TEMPERATURE, "21", false, &sent).await, 0);
    assert_eq!(owner5.message().await.properties, sent);
    assert_eq!(owner4.message().await.payload, "21");
}

#[tokio::test]
async fn an_expired_message_is_not_delivered_and_a_fresh_one_says_how_long_it_lasts() {
    let home = Home::new().await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    owner.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish(TEMPERATURE, "stale", false, &[0x02, 0, 0, 0, 10]).await;
    lamp.publish(TEMPERATURE, "fresh", false, &[0x02, 0, 0, 0, 60]).await;
    home.gate.state.lock().unwrap().later = 20;
    let mut owner = home.connected(Connect::kept("owner")).await;
    let message = owner.message().await;
    assert_eq!((message.payload.as_str(), message.properties), ("fresh", vec![0x02, 0, 0, 0, 40]));
    owner.nothing_came().await;
}

#[tokio::test]
async fn the_hub_publishes_commands_that_no_client_may_and_hears_the_answer() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.subscribe("dev/lamp/cmd/+", 1).await, 1);
    let permit = PublishPermit::for_hub(TopicName::parse("dev/lamp/cmd/identify").unwrap());
    let command = Message::at_least_once(&br#"{"id":"c-1"}"#[..]).expiring_at(UnixTime(NOW.0 + 30));
    home.front.publish(permit, command).await.unwrap();
    let command = lamp.message().await;
    assert_eq!((command.payload.as_str(), command.qos, command.retain), (r#"{"id":"c-1"}"#, 1, false));
    assert_eq!(command.properties, [0x02, 0, 0, 0, 30]);
    assert_eq!(lamp.publish1("dev/lamp/ack/c-1", r#"{"state":"succeeded"}"#).await, 0);
    assert_eq!(lamp.publish1("dev/oven/ack/c-1", r#"{"state":"succeeded"}"#).await, 0x87);
    let acknowledged = home.gate.state.lock().unwrap().acknowledged.clone();
    assert_eq!(acknowledged, [("lamp".to_owned(), "c-1".to_owned(), br#"{"state":"succeeded"}"#.to_vec())]);
}

#[tokio::test]
async fn a_watcher_sees_what_its_rights_cover_and_nothing_else() {
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish("dev/lamp/status", "online", true, &[]).await;
    let filter = |text| SubscriptionFilter::parse(text).unwrap();
    let narrow = rights(&[], &["dev/lamp/#"]);
    assert!(home.front.watch(filter("dev/#"), narrow.clone()).await.is_err());
    let mut watch = home.front.watch(filter("dev/lamp/#"), narrow).await.unwrap();
    let seen = |watched: Option<Watched>| match watched {
        Some(Watched::Retained(routed)) => (true, routed.topic.to_string(), routed.message.payload),
        Some(Watched::Message(routed)) => (false, routed.topic.to_string(), routed.message.payload),
        other => panic!("{other:?}"),
    };
    assert_eq!(seen(within(watch.next()).await), (true, "dev/lamp/status".to_owned(), "online".into()));
    lamp.publish1(TEMPERATURE, "21").await;
    assert_eq!(seen(within(watch.next()).await), (false, TEMPERATURE.to_owned(), "21".into()));
    watch.replace_rights(rights(&[], &["dev/lamp/event/+"]));
    lamp.publish1(TEMPERATURE, "22").await;
    lamp.publish1("dev/lamp/event/pressed", "x").await;
    assert_eq!(seen(within(watch.next()).await).1, "dev/lamp/event/pressed");
}

#[tokio::test]
async fn one_principal_does_not_use_up_the_retained_messages_of_all() {
    let limits = Limits { max_retained_messages_per_principal: 2, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut lamp = home.v5("lamp").await;
    let retains = async |client: &mut Client, channel: &str, payload: &str| {
        client.publish(&format!("dev/lamp/tele/{channel}"), payload, true, &[]).await
    };
    for (channel, payload, code) in [("a", "x", 0), ("b", "x", 0), ("c", "x", 0x97), ("a", "y", 0), ("a", "", 0), ("c", "x", 0)] {
        assert_eq!(retains(&mut lamp, channel, payload).await, code, "{channel}={payload}");
    }
    let mut again = home.connected(Connect { client_identifier: "lamp/2".to_owned(), ..Connect::v5("lamp") }).await;
    assert_eq!(retains(&mut again, "d", "x").await, 0x97, "another connection is no way round");
    assert_eq!(lamp.publish1("dev/lamp/tele/d", "x").await, 0, "what is not retained is not counted");
    assert_eq!(home.v5("oven").await.publish("dev/oven/tele/a", "x", true, &[]).await, 0);
}

#[tokio::test]
async fn a_device_answers_more_commands_than_it_may_retain_messages() {
    let limits = Limits { max_retained_messages_per_principal: 2, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut lamp = home.v5("lamp").await;
    for number in 0..3 {
        assert_eq!(lamp.publish1(&format!("dev/lamp/ack/c-{number}"), r#"{"state":"succeeded"}"#).await, 0);
    }
    let heard: Vec<_> = home.gate.state.lock().unwrap().acknowledged.iter().map(|(_, id, _)| id.clone()).collect();
    assert_eq!(heard, ["c-0", "c-1", "c-2"]);
}

#[tokio::test]
async fn retained_messages_and_subscriptions_are_bounded() {
    let limits = Limits { max_retained_messages: 1, max_subscriptions: 1, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut owner = home.v5("owner").await;
    assert_eq!((owner.subscribe("a", 0).await, owner.subscribe("b", 0).await, owner.subscribe("a", 1).await), (0, 0x97, 1));
    assert_eq!(owner.publish("x", "1", true, &[]).await, 0);
    assert_eq!(owner.publish("y", "1", true, &[]).await, 0x97);
    assert_eq!(owner.publish("x", "", true, &[]).await, 0);
    assert_eq!(owner.publish("y", "1", true, &[]).await, 0);
}

#[tokio::test]
async fn a_client_that_publishes_too_fast_is_slowed_down_and_loses_nothing() {
    let limits = Limits { publish_rate: 500, publish_burst: 10, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 0).await;
    let mut lamp = home.v5("lamp").await;
    let mut burst = Vec::new();
    for number in 0..100 {
        burst.extend(lamp.publish_packet(TEMPERATURE, &number.to_string(), 0, false, &[]));
    }
    let started = std::time::Instant::now();
    lamp.send(&burst).await;
    for number in 0..100 {
        assert_eq!(owner.message().await.payload, number.to_string());
    }
    // A lower bound on time cannot fail on a slow machine: 90 messages beyond the burst at 500 a second.
    assert!(started.elapsed() >= std::time::Duration::from_millis(150), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_slow_reader_costs_only_itself() {
    let home = Home::new().await;
    let mut slow = home.v5("owner").await;
    slow.subscribe("dev/lamp/tele/+", 0).await;
    let mut quick = home.connected(Connect { client_identifier: "quick".to_owned(), ..Connect::v5("owner") }).await;
    quick.subscribe("dev/lamp/tele/+", 0).await;
    let mut lamp = home.v5("lamp").await;
    let large = "x".repeat(20_000);
    // 40 MB: far beyond all buffers between the front and a reader that does not read.
    for number in 0..2_000 {
        lamp.publish0(TEMPERATURE, &format!("{number} {large}")).await;
        assert!(quick.message().await.payload.starts_with(&format!("{number} ")));
    }
    // The slow one is still there, and finds that messages are missing.
    let mut last = 0;
    let mut lost = 0;
    while last < 1_999 {
        let payload = slow.message().await.payload;
        let number: usize = payload.split(' ').next().unwrap().parse().unwrap();
        lost += number.saturating_sub(last + 1);
        last = number;
    }
    assert!(lost > 0);
    assert_eq!(home.front.stats().lost as usize, lost, "the hub knows what was lost");
    // The audit log says so at once, and in the end how much it was.
    let recorded = async |text: &str| {
        home.gate.event(|event| matches!(&event.what, Happening::Limited { limit } if limit == text)).await;
    };
    recorded("too slow: messages for dev/lamp/tele/+ are dropped").await;
    slow.goodbye().await;
    recorded(&format!("too slow: {lost} messages of QoS 0 were dropped in all")).await;
}

#[tokio::test]
async fn a_device_gets_the_commands_that_were_sent_before_it_listened_and_nobody_else_does() {
    let home = Home::new().await;
    home.gate
        .state
        .lock()
        .unwrap()
        .commands_waiting
        .insert("lamp".to_owned(), vec!["set-mode".to_owned(), "identify".to_owned()]);
    let mut owner = home.v5("owner").await;
    assert_eq!(owner.subscribe("dev/lamp/cmd/+", 1).await, 1);
    owner.nothing_came().await;
    let mut oven = home.v5("oven").await;
    assert_eq!(oven.subscribe("dev/oven/cmd/+", 1).await, 1);
    oven.nothing_came().await;

    let mut lamp = home.connected(Connect::kept("lamp")).await;
    assert_eq!(lamp.subscribe("dev/lamp/twin/desired", 1).await, 1);
    lamp.nothing_came().await;
    assert_eq!(lamp.subscribe("dev/lamp/cmd/+", 1).await, 1);
    for name in ["set-mode", "identify"] {
        let command = lamp.message().await;
        assert_eq!((command.topic.as_str(), command.qos, command.retain), (&*format!("dev/lamp/cmd/{name}"), 1, false));
    }
    // What comes after that reaches it as it comes: the same subscription again begins nothing.
    assert_eq!(lamp.subscribe("dev/lamp/cmd/+", 1).await, 1);
    lamp.nothing_came().await;
}

#[tokio::test]
async fn an_answer_to_a_command_is_acknowledged_when_the_hub_has_kept_it() {
    const ANSWER: &str = r#"{"state":"succeeded"}"#;
    let home = Home::new().await;
    let mut lamp = home.v5("lamp").await;
    for qos in [1, 2] {
        home.gate.disk.set(DiskMode::Hangs);
        let answer = lamp.publish_packet("dev/lamp/ack/c-1", ANSWER, qos, false, &[]);
        lamp.send(&answer).await;
        lamp.nothing_came().await;
        home.gate.disk.set(DiskMode::Works);
        assert_eq!(lamp.receive().await.first, if qos == 1 { 0x40 } else { 0x50 });
    }
    // The device keeps it and comes again.
    home.gate.disk.set(DiskMode::Fails);
    let answer = lamp.publish_packet("dev/lamp/ack/c-1", ANSWER, 1, false, &[]);
    lamp.send(&answer).await;
    let (code, words) = lamp.disconnected().await;
    assert!(code == 0x83 && words.contains("could not store it"), "{words}");
}

#[tokio::test]
async fn a_topic_alias_stands_for_its_topic_on_its_connection() {
    let home = Home::new().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/#", 0).await;
    let mut lamp = home.v5("lamp").await;
    assert!(lamp.connack.body.windows(3).any(|window| window == [0x22, 0, 32]), "{:?}", lamp.connack);
    let alias = |number: u8| [0x23, 0, number];
    assert_eq!(lamp.publish(TEMPERATURE, "a", false, &alias(1)).await, 0);
    assert_eq!(lamp.publish("dev/lamp/tele/humidity", "b", false, &alias(32)).await, 0);
    for (number, payload) in [(1, "c"), (32, "d")] {
        assert_eq!(lamp.publish("", payload, false, &alias(number)).await, 0);
    }
    // It may be given another meaning, also one that is denied.
    assert_eq!(lamp.publish("dev/oven/tele/x", "denied", false, &alias(1)).await, 0x87);
    assert_eq!(lamp.publish("", "denied", false, &alias(1)).await, 0x87);
    for (topic, payload) in
        [(TEMPERATURE, "a"), ("dev/lamp/tele/humidity", "b"), (TEMPERATURE, "c"), ("dev/lamp/tele/humidity", "d")]
    {
        let message = owner.message().await;
        assert_eq!((message.topic.as_str(), message.payload.as_str(), &message.properties[..]), (topic, payload, &[][..]));
    }
    drop(lamp);
    let mut lamp = home.v5("lamp").await;
    let aliased = lamp.publish_packet("", "x", 0, false, &alias(1));
    lamp.send(&aliased).await;
    assert_eq!(lamp.disconnected().await.0, 0x82, "another connection knows no aliases");
}

#[tokio::test]
async fn the_hub_is_told_which_commands_a_device_has() {
    for (connect, qos) in
        [(Connect::v5("lamp"), 1), (Connect::kept("lamp"), 1), (Connect::v5("lamp"), 2), (Connect::v5("lamp"), 0)]
    {
        let home = Home::new().await;
        home.gate.state.lock().unwrap().commands_waiting.insert("lamp".to_owned(), vec!["set-mode".to_owned()]);
        let mut owner = home.v5("owner").await;
        owner.subscribe("dev/lamp/cmd/+", 1).await;
        let mut lamp = home.connected(connect).await;
        lamp.subscribe("dev/lamp/cmd/+", qos).await;
        let earlier = lamp.message_unacknowledged().await;
        let permit = PublishPermit::for_hub(TopicName::parse("dev/lamp/cmd/identify").unwrap());
        home.front.publish(permit, Message::at_least_once("identify")).await.unwrap();
        let later = lamp.message_unacknowledged().await;
        // That the owner looks on means nothing.
        assert_eq!(owner.message().await.payload, "identify");
        owner.nothing_came().await;
        let told = |count: usize| {
            let names = ["set-mode", "identify"].map(|name| ("lamp".to_owned(), name.as_bytes().to_vec()));
            assert_eq!(home.gate.state.lock().unwrap().delivered, names[..count], "{qos}");
        };
        if qos > 0 {
            told(0);
            for (command, count) in [(earlier, 1), (later, 2)] {
                lamp.puback(command.packet_identifier).await;
                lamp.nothing_came().await;
                told(count);
            }
        }
        told(2);
    }
}

#[tokio::test]
async fn a_command_that_waits_comes_once_however_many_filters_match_it() {
    for (wide, narrow) in [(1, 1), (0, 0), (0, 1), (1, 0)] {
        for connect in [Connect::v5("lamp"), Connect::kept("lamp")] {
            let home = Home::new().await;
            home.gate.state.lock().unwrap().commands_waiting.insert("lamp".to_owned(), vec!["identify".to_owned()]);
            let mut lamp = home.connected(connect).await;
            let mut body = vec![0, 9, 2, 0x0B, 7];
            for (filter, qos) in [("dev/lamp/cmd/+", wide), ("dev/lamp/cmd/identify", narrow)] {
                body.extend(string(filter));
                body.push(qos);
            }
            lamp.send(&packet(0x82, &body)).await;
            assert_eq!(lamp.receive().await.first, 0x90);
            let command = lamp.message_unacknowledged().await;
            // As it comes when it is published: the highest QoS, the identifiers of all.
            let expected = ("identify", wide.max(narrow), &[0x0B, 7, 0x0B, 7][..]);
            assert_eq!((command.payload.as_str(), command.qos, &command.properties[..]), expected);
            // The one that is on its way does not come again by a third.
            lamp.subscribe("dev/lamp/cmd/#", 1).await;
            lamp.nothing_came().await;
        }
    }
}

#[tokio::test]
async fn a_command_that_a_device_got_because_it_waited_does_not_come_again_when_it_is_published_only_then() {
    for (granted, is_acknowledged) in [(1, false), (1, true), (2, true), (0, true)] {
        for connect in [Connect::v5("lamp"), Connect::kept("lamp")] {
            let home = Home::new().await;
            let mut onlooker = home.v5("owner").await;
            onlooker.subscribe("dev/lamp/cmd/+", 1).await;
            // A second session of the device, which listens from the beginning: it gets what is published.
            let mut other = home.connected(Connect { client_identifier: "lamp/2".to_owned(), ..connect.clone() }).await;
            other.subscribe("dev/lamp/cmd/+", 1).await;
            // Kept, and not published yet.
            home.gate.state.lock().unwrap().commands_waiting.insert("lamp".to_owned(), vec!["identify".to_owned()]);
            let mut lamp = home.connected(connect).await;
            lamp.subscribe("dev/lamp/cmd/+", granted).await;
            let command = lamp.message_unacknowledged().await;
            assert_eq!(command.payload, "identify");
            if is_acknowledged && granted > 0 {
                lamp.puback(command.packet_identifier).await;
                lamp.nothing_came().await;
            }
            for name in ["identify", "set-mode"] {
                let permit = PublishPermit::for_hub(TopicName::parse(&format!("dev/lamp/cmd/{name}")).unwrap());
                home.front.publish(permit, Message::at_least_once(name)).await.unwrap();
                assert_eq!(onlooker.message().await.payload, name);
                assert_eq!(other.message().await.payload, name);
            }
            let next = lamp.message().await;
            assert_eq!(next.payload, "set-mode", "granted {granted}");
            lamp.nothing_came().await;
        }
    }
}
