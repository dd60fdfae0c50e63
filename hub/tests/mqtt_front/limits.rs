//! Bounds of connections, topics and rates: what happens there, and that nobody else pays for it.

use crate::support::*;
use hearthkey::mqtt::{Limits, gate::Happening};

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
