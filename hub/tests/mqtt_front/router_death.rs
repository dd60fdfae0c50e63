//! The router is disposable.

use crate::support::*;
use hearthkey::mqtt::{Front, Limits, fabric_router::RouterFabric};
use std::{sync::Arc, time::Duration};
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

#[tokio::test]
async fn connections_and_subscriptions_survive_the_death_of_the_router() {
    let (fabric, front, home) = mortal().await;
    let mut owner = home.v5("owner").await;
    owner.subscribe("dev/lamp/tele/+", 0).await;
    let mut lamp = home.v5("lamp").await;
    for round in 1..=3 {
        lamp.publish1(TEMPERATURE, "before").await;
        assert_eq!(owner.message().await.payload, "before");
        fabric.kill().await;
        // What is published before the subscriber has found the new router is lost to it; soon nothing is.
        let publishing = tokio::spawn(async move {
            for _ in 0..500 {
                assert_eq!(lamp.publish1(TEMPERATURE, "after").await, 0);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            lamp
        });
        assert_eq!(owner.message().await.payload, "after");
        publishing.abort();
        assert_eq!(front.stats().router_replacements, round);
        lamp = home.v5("lamp").await;
        lamp.publish1(TEMPERATURE, "end").await;
        while owner.message().await.payload != "end" {}
    }
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
    assert_eq!(front.stats().router_replacements, 3);
}
