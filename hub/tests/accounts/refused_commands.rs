//! Commands whose message somebody does not take.

use crate::home::Home;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn a_command_that_its_device_does_not_take_ends_as_rejected_and_one_that_a_watcher_does_not_take_waits() {
    let home = Home::open().await;
    let lamp = home.with_secret("lamp", "thermostat").await;
    let watcher = home.with_secret("ha", "home-assistant").await;
    let mut watcher = home.session("ha", &home.access_token("ha", &watcher).await).await;
    assert_eq!(watcher.subscribe("dev/#").await, 1);
    assert_eq!(home.owns(Method::POST, "/devices/lamp/commands/identify", json!({"ttl_s": 600})).await.status, 202);
    assert_eq!(watcher.refused_message(0x97).await, "dev/lamp/cmd/identify");
    assert!(watcher.is_alive().await, "its refusal has arrived");

    let mut lamp = home.session("lamp", &home.access_token("lamp", &lamp).await).await;
    assert_eq!(lamp.subscribe("dev/lamp/cmd/+").await, 1);
    assert_eq!(lamp.refused_message(0x97).await, "dev/lamp/cmd/identify", "what a watcher says ends nothing");
    home.until("/devices/lamp/commands", |commands| commands["items"][0]["state"] == "rejected").await;
    let commands = home.get("/devices/lamp/commands", &home.owner).await.body;
    assert_eq!(commands["items"][0]["reason"], "the device refused the message (0x97)", "{commands}");
}
