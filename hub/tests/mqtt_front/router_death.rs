//! The router is disposable.

use crate::support::*;
use hearthkey::mqtt::{Front, Limits, fabric_router::RouterFabric};
use std::sync::Arc;
use tokio::net::TcpListener;

const TEMPERATURE: &str = "dev/lamp/tele/temperature";

/// A home of which the test can kill the router.
async fn mortal() -> (Arc<RouterFabric>, Front<FakeGate, Arc<RouterFabric>>, Home) {
    // The home gives the helpers of the client side; its own front idles.
    let mut home = Home::new().await;
    let fabric = Arc::new(RouterFabric::new(100));
    let front = Front::with_fabric(home.gate.clone(), Limits::default(), [], fabric.clone());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    home.address = listener.local_addr().unwrap();
    let serving = front.clone();
    tokio::spawn(async move { serving.serve_tcp(listener, std::future::pending()).await });
    (fabric, front, home)
}

/// Publishes numbers while the router dies now and then; each is acknowledged.
async fn publish_through_deaths(fabric: Arc<RouterFabric>, lamp: &mut Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        if number % 40 == 20 {
            // At any moment: before, while and after the subscribers look for another.
            let fabric = fabric.clone();
            tokio::spawn(async move { fabric.kill().await });
        }
        assert_eq!(lamp.publish1(TEMPERATURE, &number.to_string()).await, 0);
    }
}

#[tokio::test]
async fn what_is_acknowledged_reaches_every_connected_subscriber_once_and_in_order_whenever_the_router_dies() {
    let (fabric, front, home) = mortal().await;
    let mut subscribers = Vec::new();
    for (name, filter) in [("owner", "dev/lamp/tele/+"), ("owner", "#")] {
        let mut subscriber = home.connected(Connect { client_identifier: filter.to_owned(), ..Connect::v5(name) }).await;
        subscriber.subscribe(filter, 1).await;
        subscribers.push(subscriber);
    }
    let mut lamp = home.v5("lamp").await;
    publish_through_deaths(fabric.clone(), &mut lamp, 0..200).await;
    lamp.publish1(TEMPERATURE, "end").await;
    for subscriber in &mut subscribers {
        for number in 0..200 {
            assert_eq!(subscriber.message().await.payload, number.to_string());
        }
        assert_eq!(subscriber.message().await.payload, "end");
        subscriber.nothing_came().await;
    }
    assert!(front.stats().router_replacements > 0);
    assert_eq!(front.stats().lost, 0);
}

#[tokio::test]
async fn a_router_that_gives_no_answer_is_replaced_and_nothing_is_lost() {
    let (fabric, front, home) = mortal().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    for round in 0..3_u32 {
        for number in 0..30 {
            if number == 15 {
                fabric.condemn();
            }
            assert_eq!(lamp.publish1(TEMPERATURE, &(round * 30 + number).to_string()).await, 0);
        }
        for number in 0..30 {
            assert_eq!(owner.message().await.payload, (round * 30 + number).to_string());
        }
    }
    owner.nothing_came().await;
    assert!(front.stats().router_replacements >= 3);
}

#[tokio::test]
async fn a_router_that_dies_where_nobody_listens_is_there_for_the_next_subscriber() {
    let (fabric, front, home) = mortal().await;
    let mut lamp = home.v5("lamp").await;
    lamp.publish1(TEMPERATURE, "before").await;
    fabric.kill().await;
    lamp.publish1(TEMPERATURE, "while").await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    lamp.publish1(TEMPERATURE, "after").await;
    assert_eq!(owner.message().await.payload, "after", "a subscription begins when it is made");
    assert!(front.stats().router_replacements >= 1);
}

#[tokio::test]
async fn subscriptions_that_come_and_go_while_the_router_dies_stay_what_they_are() {
    let (fabric, _, home) = mortal().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 0).await;
    owner.subscribe("dev/oven/tele/+", 0).await;
    let (mut lamp, mut oven) = (home.v5("lamp").await, home.v5("oven").await);
    fabric.kill().await;
    owner.unsubscribe("dev/oven/tele/+").await;
    owner.subscribe("dev/lamp/event/+", 0).await;
    fabric.kill().await;
    oven.publish1("dev/oven/tele/temperature", "nobody hears").await;
    lamp.publish1(TEMPERATURE, "telemetry").await;
    assert_eq!(owner.message().await.payload, "telemetry");
    lamp.publish1("dev/lamp/event/door", "event").await;
    assert_eq!(owner.message().await.payload, "event");
    owner.nothing_came().await;
}

#[tokio::test]
async fn what_a_kept_session_is_promised_does_not_depend_on_the_router() {
    let (fabric, front, home) = mortal().await;
    let mut owner = home.connected(Connect::kept("owner")).await;
    owner.subscribe("dev/lamp/tele/+", 1).await;
    let mut lamp = home.v5("lamp").await;
    for number in 0..90 {
        if number % 30 == 15 {
            fabric.kill().await;
        }
        assert_eq!(lamp.publish1(TEMPERATURE, &number.to_string()).await, 0);
    }
    for number in 0..90 {
        let message = owner.message().await;
        assert_eq!((message.payload, message.dup), (number.to_string(), false), "each once and in order");
    }
    owner.nothing_came().await;
    assert!(front.stats().router_replacements > 0);
}
