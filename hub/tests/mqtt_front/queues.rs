//! What waits for a client: how much, what goes first where it is too much, and what the client is told of what it lost.

use crate::support::*;
use hearthkey::mqtt::{Limits, gate::Happening};

const TEMPERATURE: &str = "dev/lamp/tele/temperature";
/// Receive Maximum 1.
const ONE_AT_A_TIME: [u8; 3] = [0x21, 0, 1];

fn kept_owner(properties: &[u8]) -> Connect {
    let mut connect = Connect::kept("owner");
    connect.properties.extend(properties);
    connect
}

async fn follower(home: &Home, properties: &[u8]) -> Client {
    let mut owner = home.connected(kept_owner(properties)).await;
    assert_eq!(owner.subscribe("dev/lamp/tele/+", 1).await, 1);
    owner
}

/// The hub starts again, with these limits, on what is durable.
async fn after_a_power_cut(home: &Home, limits: &Limits) -> Home {
    let gate = FakeGate::of_a_home();
    gate.state.lock().unwrap().rows = home.gate.rows().into_iter().collect();
    Home::with(gate, limits.clone()).await
}

fn overflows(home: &Home) -> usize {
    let is_overflow =
        |what: &Happening| matches!(what, Happening::Limited { limit } if limit.contains("the oldest messages are dropped"));
    home.gate.state.lock().unwrap().events.iter().filter(|event| is_overflow(&event.what)).count()
}

#[tokio::test]
async fn what_is_published_next_does_not_push_out_the_retained_messages_that_wait() {
    for is_cut in [false, true] {
        let limits = Limits { max_queued_messages: 3, ..Limits::default() };
        let mut home = Home::with(FakeGate::of_a_home(), limits.clone()).await;
        let mut lamp = home.v5("lamp").await;
        for number in 0..6 {
            assert_eq!(lamp.publish(&format!("dev/lamp/tele/{number}"), "retained", true, &[]).await, 0);
        }
        let mut owner = follower(&home, &ONE_AT_A_TIME).await;
        let first = owner.message_unacknowledged().await;
        if is_cut {
            home = after_a_power_cut(&home, &limits).await;
            lamp = home.v5("lamp").await;
        }
        for number in 0..4 {
            assert_eq!(lamp.publish1(TEMPERATURE, &number.to_string()).await, 0);
        }
        if is_cut {
            owner = home.connected(kept_owner(&ONE_AT_A_TIME)).await;
            assert_eq!(owner.message_unacknowledged().await, Published { dup: true, ..first.clone() });
        }
        owner.puback(first.packet_identifier).await;
        let mut retained = vec![first.topic];
        for _ in 0..5 {
            let message = owner.message().await;
            assert!(message.retain && message.payload == "retained", "{message:?}");
            retained.push(message.topic);
        }
        retained.sort_unstable();
        assert_eq!(retained, (0..6).map(|number| format!("dev/lamp/tele/{number}")).collect::<Vec<_>>());
        for number in 1..4 {
            assert_eq!(owner.message().await.payload, number.to_string(), "the bound holds for what was published");
        }
        owner.nothing_came().await;
    }
}

#[tokio::test]
async fn who_asks_for_retained_messages_again_and_again_without_taking_them_is_cut_and_told() {
    let limits = Limits { max_retained_messages: 6, max_queued_messages: 1, ..Limits::default() };
    let home = Home::with(FakeGate::of_a_home(), limits).await;
    let mut lamp = home.v5("lamp").await;
    for number in 0..6 {
        lamp.publish(&format!("dev/lamp/tele/{number}"), "retained", true, &[]).await;
    }
    let mut owner = home.connected(kept_owner(&ONE_AT_A_TIME)).await;
    let subscribe = |number: u16| packet(0x82, &[&number.to_be_bytes()[..], &[0], &string("dev/lamp/tele/+"), &[1]].concat());
    // Twice over they may wait.
    owner.send(&[subscribe(1), subscribe(2)].concat()).await;
    // The first message may overtake the second SUBACK.
    let came = [owner.receive().await, owner.receive().await, owner.receive().await];
    let (granted, mut messages): (Vec<_>, Vec<_>) = came.into_iter().partition(|packet| packet.first == 0x90);
    assert_eq!((granted.len(), messages.len()), (2, 1));
    let first = messages.remove(0).published(owner.version);
    owner.nothing_came().await;
    owner.send(&subscribe(3)).await;
    let (code, words) = owner.disconnected().await;
    assert!(code == 0x97 && words.contains("too slow: 6 messages were dropped"), "{code:#x} {words}");
    // What waits already is not lost, and nobody is cut for it again.
    let mut owner = home.connected(kept_owner(&ONE_AT_A_TIME)).await;
    assert_eq!(owner.message().await.packet_identifier, first.packet_identifier);
    for _ in 0..11 {
        assert_eq!(owner.message().await.payload, "retained");
    }
    owner.nothing_came().await;
}

#[tokio::test]
async fn each_time_that_a_queue_overflows_is_recorded_once() {
    let home = Home::with(FakeGate::of_a_home(), Limits { max_queued_messages: 2, ..Limits::default() }).await;
    let mut lamp = home.v5("lamp").await;
    follower(&home, &[]).await.goodbye().await;
    for times in 1..=2 {
        for number in 0..5 {
            lamp.publish1(TEMPERATURE, &number.to_string()).await;
        }
        assert_eq!(overflows(&home), times);
        let mut owner = home.connected(kept_owner(&[])).await;
        assert_eq!((owner.message().await.payload, owner.message().await.payload), ("3".to_owned(), "4".to_owned()));
        owner.nothing_came().await;
        owner.goodbye().await;
    }
}

#[tokio::test]
async fn what_the_store_refused_pushes_out_nothing_that_it_took() {
    let home = Home::with(FakeGate::of_a_home(), Limits { max_queued_messages: 3, ..Limits::default() }).await;
    follower(&home, &[]).await.goodbye().await;
    let mut lamp = home.v5("lamp").await;
    for text in ["a", "b"] {
        assert_eq!(lamp.publish1(TEMPERATURE, text).await, 0);
    }
    home.gate.disk.set(DiskMode::Fails);
    for _ in 0..5 {
        let publish = lamp.publish_packet(TEMPERATURE, "refused", 1, false, &[]);
        lamp.send(&publish).await;
        assert_eq!(lamp.disconnected().await.0, 0x83);
        lamp = home.v5("lamp").await;
    }
    home.gate.disk.set(DiskMode::Works);
    assert_eq!(lamp.publish1(TEMPERATURE, "c").await, 0);
    for home in [after_a_power_cut(&home, &Limits::default()).await, home] {
        let mut owner = home.connected(kept_owner(&[])).await;
        for text in ["a", "b", "c"] {
            assert_eq!(owner.message().await.payload, text);
        }
        owner.nothing_came().await;
    }
}

#[tokio::test]
async fn a_client_that_is_back_is_told_once_how_many_messages_its_queue_lost() {
    let told = [&[0x26][..], &string("messages_lost"), &string("3")].concat();
    let is_told = |client: &Client| client.connack.body.windows(told.len()).any(|window| window == told);
    for version in [5, 4] {
        let home = Home::with(FakeGate::of_a_home(), Limits { max_queued_messages: 2, ..Limits::default() }).await;
        let kept = if version == 5 { kept_owner(&[]) } else { Connect { clean_start: false, ..Connect::v311("owner") } };
        let mut owner = home.connected(kept.clone()).await;
        owner.subscribe("dev/lamp/tele/+", 1).await;
        assert!(!is_told(&owner));
        owner.goodbye().await;
        let mut lamp = home.v5("lamp").await;
        for number in 0..5 {
            lamp.publish1(TEMPERATURE, &number.to_string()).await;
        }
        let mut owner = home.connected(kept.clone()).await;
        assert_eq!(is_told(&owner), version == 5);
        // For all the owner of the home finds it in the audit log.
        let lost = |what: &Happening| matches!(what, Happening::Limited { limit } if limit.contains("3 messages were dropped"));
        home.gate.event(|event| lost(&event.what) && &*event.client_identifier == "owner").await;
        assert_eq!((owner.message().await.payload, owner.message().await.payload), ("3".to_owned(), "4".to_owned()));
        owner.goodbye().await;
        assert!(!is_told(&home.connected(kept).await), "it was told");
    }
}

#[tokio::test]
async fn a_client_does_not_get_what_it_retained_itself_if_it_says_so() {
    let home = Home::new().await;
    for connect in [Connect::v5("owner"), Connect::kept("owner")] {
        let mut owner = home.connected(connect.clone()).await;
        assert_eq!(owner.publish("dev/lamp/tele/x", "its own", true, &[]).await, 0);
        let no_local = 0x04 | 1;
        assert_eq!(owner.subscribe("dev/lamp/tele/+", no_local).await, 1);
        owner.nothing_came().await;
        assert_eq!(owner.subscribe("dev/lamp/tele/+", 1).await, 1);
        assert_eq!(owner.message().await.payload, "its own");
        // Its client identifier says who it is, not its session (MQTT-3.8.3-3).
        let mut owner = home.connected(Connect { clean_start: true, ..connect }).await;
        assert_eq!(owner.subscribe("dev/lamp/tele/+", no_local).await, 1);
        owner.nothing_came().await;
        let home = after_a_power_cut(&home, &Limits::default()).await;
        let mut owner = home.v5("owner").await;
        assert_eq!(owner.subscribe("dev/lamp/tele/+", no_local).await, 1);
        owner.nothing_came().await;
        let another = Connect { client_identifier: "another".to_owned(), ..Connect::v5("owner") };
        let mut another = home.connected(another).await;
        assert_eq!(another.subscribe("dev/lamp/tele/+", no_local).await, 1);
        assert_eq!(another.message().await.payload, "its own");
    }
}
