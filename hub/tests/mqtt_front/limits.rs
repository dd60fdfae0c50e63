//! Bounds of connections, topics and rates: what happens there, and that nobody else pays for it.

use crate::support::*;
use hearthkey::mqtt::{
    Limits,
    gate::{Ending, Happening},
    message::Message,
};
use hearthkey_core::{rights::PublishPermit, topic::TopicName};
use tokio::io::AsyncWriteExt;

fn second_connection(name: &str) -> Connect {
    Connect { client_identifier: format!("{name}/2"), ..Connect::v5(name) }
}

#[tokio::test]
async fn one_principal_does_not_use_up_the_connections_of_all() {
    let limits = Limits { max_connections_per_principal: 1, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let lamp = home.v5("lamp").await;
    let (code, words) = home.refusal(second_connection("lamp")).await;
    assert!(code == 0x97 && words.contains("as many connections"), "{words}");
    home.v5("oven").await.nothing_came().await;
    let mut replaced = lamp;
    let lamp = home.v5("lamp").await;
    assert_eq!(replaced.disconnected().await.0, 0x8E, "its own session it may take over");
    lamp.goodbye().await;
    within(async {
        while home.front.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    home.connected(second_connection("lamp")).await.nothing_came().await;
}

#[tokio::test]
async fn a_device_that_connects_again_and_again_is_slowed_down_and_told_so() {
    let limits = Limits { device_connects_per_minute: 3, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    // Two programs with one name cut each other off, each time anew.
    for _ in 0..3 {
        home.v5("lamp").await;
    }
    for (connect, told) in [(Connect::v5("lamp"), 0x9F), (second_connection("lamp"), 0x9F), (Connect::v311("lamp"), 3)] {
        let (code, words) = home.refusal(connect).await;
        assert_eq!(code, told);
        assert!(code == 3 || words.contains("connects too often; try again in"), "{words}");
    }
    home.gate.event(|event| matches!(event.what, Happening::Refused { reason_code: 0x9F, .. })).await;
    // Nobody else pays for it, and least of all the owner.
    for name in ["oven", "owner", "owner", "owner", "owner", "owner"] {
        home.v5(name).await;
    }
    assert_eq!(home.front.stats().refused_by_code.get(&0x9F), Some(&3));
}

#[tokio::test]
async fn topics_and_filters_deeper_than_the_bound_are_refused() {
    let limits = Limits { max_topic_levels: 4, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut owner = home.v5("owner").await;
    assert_eq!((owner.subscribe("a/b/c/#", 0).await, owner.subscribe("a/b/c/d/#", 0).await), (0, 0x8F));
    assert_eq!(owner.publish("a/b/c/d", "x", false, &[]).await, 0);
    let deep = owner.publish_packet("a/b/c/d/e", "x", 1, false, &[]);
    owner.send(&deep).await;
    while owner.receive().await.first != 0xE0 {}
    home.v5("oven").await.nothing_came().await;
}

#[tokio::test]
async fn two_connections_of_one_device_publish_no_faster_than_one() {
    let limits = Limits { publish_rate: 500, publish_burst: 10, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 0).await;
    let mut both = [home.v5("lamp").await, home.connected(second_connection("lamp")).await];
    let started = std::time::Instant::now();
    for lamp in &mut both {
        let burst: Vec<u8> = (0..50).flat_map(|_| lamp.publish_packet("dev/lamp/tele/x", "1", 0, false, &[])).collect();
        lamp.send(&burst).await;
    }
    for _ in 0..100 {
        owner.message().await;
    }
    // A lower bound on time cannot fail on a slow machine: 90 messages beyond the burst at 500 a second.
    assert!(started.elapsed() >= std::time::Duration::from_millis(150), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_one_principal_retains_is_bounded_in_bytes_too_and_counts_after_a_restart() {
    let limits = Limits {
        max_retained_bytes: 2_000,
        max_retained_bytes_per_principal: 1_000,
        max_retained_messages_per_principal: 2,
        ..Limits::default()
    };
    let home = Home::with(FakeGate::of_a_home(), limits.clone()).await;
    let mut lamp = home.connected(Connect::v5("lamp").will("dev/lamp/status", "offline", true)).await;
    assert_eq!(lamp.publish("dev/lamp/tele/a", &"x".repeat(900), true, &[]).await, 0x97, "more than a thousand bytes of one");
    for topic in ["dev/lamp/tele/a", "dev/lamp/status"] {
        assert_eq!(lamp.publish(topic, "online", true, &[]).await, 0);
    }
    assert_eq!(lamp.publish("dev/lamp/tele/b", "1", true, &[]).await, 0x97, "a third message of one");
    home.gate
        .event(|event| matches!(&event.what, Happening::Limited { limit } if limit.contains("retained messages of one client")))
        .await;
    // The others have their room, a will that is longer than what it replaces has its own, and who keeps what is known after
    // a restart.
    let mut oven = home.v5("oven").await;
    assert_eq!(oven.publish("dev/oven/status", "online", true, &[]).await, 0);
    drop(lamp);
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/status", 0).await;
    while owner.message().await.payload != "offline" {}
    let gate = FakeGate::of_a_home();
    gate.state.lock().unwrap().rows = home.gate.rows().into_iter().collect();
    let home = Home::with(gate, limits).await;
    let mut lamp = home.v5("lamp").await;
    assert_eq!(lamp.publish("dev/lamp/tele/b", "1", true, &[]).await, 0x97);
    assert_eq!(lamp.publish("dev/lamp/tele/a", "", true, &[]).await, 0);
    assert_eq!(lamp.publish("dev/lamp/tele/b", "1", true, &[]).await, 0);
}

#[tokio::test]
async fn what_clients_retain_does_not_stop_the_hub() {
    let limits = Limits { max_retained_messages: 1, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    assert_eq!(home.v5("lamp").await.publish("dev/lamp/status", "on", true, &[]).await, 0);
    assert_eq!(home.v5("oven").await.publish("dev/oven/status", "on", true, &[]).await, 0x97);
    let desired = TopicName::parse("dev/lamp/twin/desired").unwrap();
    let message = Message::at_least_once(r#"{"v":1}"#).retained();
    home.front.publish(PublishPermit::for_hub(desired.clone()), message).await.expect("the hub's own is kept");
    assert_eq!(home.front.retained(&desired).unwrap(), br#"{"v":1}"#);
}

#[tokio::test]
async fn one_principal_does_not_use_up_the_kept_sessions_of_all() {
    let told_zero = |client: &Client| client.connack.body.windows(5).any(|window| window == [0x11, 0, 0, 0, 0]);
    let limits = Limits { max_kept_sessions: 2, max_kept_sessions_per_principal: 1, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits.clone()).await;
    let second = |name: &str| Connect { client_identifier: format!("{name}/2"), ..Connect::kept(name) };
    assert!(!told_zero(&home.connected(Connect::kept("lamp")).await));
    assert!(told_zero(&home.connected(second("lamp")).await));
    assert!(!told_zero(&home.connected(Connect::kept("lamp")).await), "its own session goes on");
    // MQTT 3.1.1 cannot be told; the log says it.
    home.connected(Connect { client_identifier: "lamp/3".to_owned(), clean_start: false, ..Connect::v311("lamp") }).await;
    home.gate
        .event(|event| {
            &*event.client_identifier == "lamp/3"
                && matches!(&event.what, Happening::Limited { limit } if limit.contains("too many kept sessions"))
        })
        .await;
    assert!(!told_zero(&home.connected(Connect::kept("oven")).await));
    // What was kept counts after a restart, and no more once it is gone.
    let gate = FakeGate::of_a_home();
    gate.state.lock().unwrap().rows = home.gate.rows().into_iter().collect();
    let home = Home::with(gate, Limits { max_kept_sessions: 9, ..limits }).await;
    assert!(told_zero(&home.connected(second("lamp")).await));
    home.connected(Connect::v5("lamp")).await;
    assert!(!told_zero(&home.connected(second("lamp")).await));
}

#[tokio::test]
async fn who_asks_without_taking_the_answers_is_cut_and_the_hub_holds_a_bounded_number_of_them() {
    let home = Home::new().await;
    let (hub_end, mut client) = tokio::io::duplex(1_024);
    let front = home.front.clone();
    tokio::spawn(async move { front.serve_connection(hub_end, ([127, 0, 0, 1], 9).into()).await });
    client.write_all(&Connect::v5("lamp").packet()).await.unwrap();
    let asking = tokio::spawn(async move {
        let mut asked = 0;
        // PINGREQ, four hundred at a time, until the connection ends.
        while client.write_all(&[0xC0, 0].repeat(400)).await.is_ok() {
            asked += 400;
        }
        asked
    });
    let too_slow = |what: &Happening| matches!(what, Happening::Ended(Ending::Fault { reason_code: 0x97, reason }) if reason.starts_with("too slow"));
    home.gate.event(|event| too_slow(&event.what)).await;
    // Each answer takes ten bytes; some are on their way.
    let most = ((1 << 20) + Limits::default().max_packet_bytes) / 10;
    let asked = within(asking).await.unwrap();
    assert!(asked <= most + 4_096, "{asked}");
}

#[tokio::test]
async fn who_subscribes_again_and_again_is_read_no_faster_than_who_publishes() {
    let limits = Limits { publish_rate: 500, publish_burst: 10, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut owner = home.v5("owner").await;
    let started = std::time::Instant::now();
    for number in 1..=20_u16 {
        let mut body = number.to_be_bytes().to_vec();
        body.push(0);
        for _ in 0..10 {
            body.extend(string("dev/#"));
            body.push(0);
        }
        owner.send(&packet(0x82, &body)).await;
        assert_eq!(owner.receive().await.body[3..], [0; 10]);
    }
    // A lower bound on time cannot fail on a slow machine: of 200 filters 10 are free, and the last answer waits for nothing.
    assert!(started.elapsed() >= std::time::Duration::from_millis(300), "{:?}", started.elapsed());
}

#[tokio::test]
async fn who_unsubscribes_again_and_again_is_read_no_faster_than_who_publishes() {
    let limits = Limits { publish_rate: 500, publish_burst: 10, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut owner = home.v5("owner").await;
    let started = std::time::Instant::now();
    for number in 1..=20_u16 {
        let filters = string("dev/#").repeat(10);
        owner.send(&packet(0xA2, &[&number.to_be_bytes()[..], &[0], &filters].concat())).await;
        assert_eq!(owner.receive().await.body[3..], [0x11; 10], "no subscription existed, which costs no less");
    }
    // A lower bound on time cannot fail on a slow machine: of 200 filters 10 are free, and the last answer waits for nothing.
    assert!(started.elapsed() >= std::time::Duration::from_millis(300), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_that_keeps_the_disk_busy_holds_up_itself_alone_and_is_not_taken_for_silent() {
    let home = Home::new().await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    owner.goodbye().await;
    let mut lamp = home.connected(Connect { keep_alive: 1, ..Connect::v5("lamp") }).await;
    home.gate.disk.set(DiskMode::Hangs);
    // More than eight mebibytes, at once.
    let payload = "x".repeat(205_000);
    let lamp = tokio::spawn(async move {
        for _ in 0..60 {
            let publish = lamp.publish_packet("dev/lamp/tele/x", &payload, 1, false, &[]);
            lamp.send(&publish).await;
        }
        lamp
    });
    within(async {
        while home.front.stats().published < 41 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut oven = home.connected(Connect { keep_alive: 3, ..Connect::v5("oven") }).await;
    oven.nothing_came().await;
    assert_eq!(oven.publish1("dev/oven/tele/x", "1").await, 0, "what needs no row is answered");
    // Who is silent is cut; who is not read meanwhile is not.
    assert_eq!(oven.disconnected().await.0, 0x8D);
    assert!(home.front.is_online(&device("lamp")));
    home.gate.disk.set(DiskMode::Works);
    let mut lamp = within(lamp).await.unwrap();
    for identifier in 1..=60 {
        assert_eq!(lamp.puback_of(identifier).await, 0);
    }
}
