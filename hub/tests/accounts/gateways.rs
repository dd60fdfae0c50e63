//! Devices that act for others, devices that merely listen to them, and what all of them say to the hub.

use crate::home::{Home, Session};
use reqwest::Method;
use serde_json::json;

/// A gateway that acts for `bulb`, and its session.
async fn bridge(home: &Home) -> Session {
    let body = json!({"id": "bridge", "profile": "gateway", "authentication": "secret", "children": ["bulb"]});
    let secret = home.owns(Method::POST, "/devices", body).await.body["client_secret"].as_str().expect("a secret").to_owned();
    home.session("bridge", &home.access_token("bridge", &secret).await).await
}

#[tokio::test]
async fn what_a_gateway_may_do_for_a_child_ends_with_the_child() {
    let home = Home::open().await;
    home.with_secret("bulb", "thermostat").await;
    let mut bridge = bridge(&home).await;
    assert_eq!(bridge.publish("dev/bulb/tele/power", "1").await, 0);
    for (verb, code) in [("disable", 0x87), ("enable", 0), ("revoke", 0x87)] {
        let done = home.owns(Method::POST, &format!("/devices/bulb/{verb}"), json!({})).await;
        assert!(done.status < 300, "{done:?}");
        assert_eq!(bridge.publish("dev/bulb/tele/power", "2").await, code, "{verb}");
        assert_eq!(bridge.publish("dev/bridge/tele/power", "2").await, 0, "it may go on for itself");
    }
}

#[tokio::test]
async fn a_command_that_another_client_has_seen_still_waits_for_its_device() {
    let home = Home::open().await;
    let lamp = home.with_secret("lamp", "thermostat").await;
    let watcher = home.with_secret("ha", "home-assistant").await;
    home.with_secret("bulb", "thermostat").await;
    let mut watcher = home.session("ha", &home.access_token("ha", &watcher).await).await;
    assert_eq!(watcher.subscribe("dev/#").await, 1);
    assert_eq!(home.owns(Method::POST, "/devices/lamp/commands/identify", json!({"ttl_s": 600})).await.status, 202);
    assert_eq!(watcher.message().await, "dev/lamp/cmd/identify");
    assert!(watcher.is_alive().await, "its acknowledgement has arrived");

    // What a gateway gets for its child has arrived; notes are taken in their order.
    let mut bridge = bridge(&home).await;
    assert_eq!(bridge.subscribe("dev/bulb/cmd/+").await, 1);
    assert_eq!(home.owns(Method::POST, "/devices/bulb/commands/identify", json!({"ttl_s": 600})).await.status, 202);
    assert_eq!(bridge.message().await, "dev/bulb/cmd/identify");
    home.until("/devices/bulb/commands", |commands| commands["items"][0].get("delivered_at").is_some()).await;

    let mut lamp = home.session("lamp", &home.access_token("lamp", &lamp).await).await;
    assert_eq!(lamp.subscribe("dev/lamp/cmd/+").await, 1);
    assert_eq!(lamp.message().await, "dev/lamp/cmd/identify");
}

#[tokio::test]
async fn what_a_device_was_acknowledged_is_known_to_the_hub_then() {
    let home = Home::open().await;
    let lamp = home.with_secret("lamp", "thermostat").await;
    let mut lamp = home.session("lamp", &home.access_token("lamp", &lamp).await).await;
    for seq in 0..3 {
        let sent = home.owns(Method::POST, "/devices/lamp/commands/identify", json!({})).await;
        let id = sent.body["id"].as_str().expect("an id").to_owned();
        assert_eq!(lamp.publish(&format!("dev/lamp/ack/{id}"), r#"{"state":"succeeded"}"#).await, 0);
        let command = home.get(&format!("/devices/lamp/commands/{id}"), &home.owner).await.body;
        assert_eq!(command["state"], "succeeded", "{command}");
        let large = json!({"state": "failed", "reason": "x".repeat(2_000)}).to_string();
        assert_eq!(lamp.publish(&format!("dev/lamp/ack/{id}"), &large).await, 0, "what is too large is passed on and not heard");
        assert_eq!(lamp.publish("dev/lamp/twin/reported", &json!({"v": seq, "on": seq}).to_string()).await, 0);
        let twin = home.get("/devices/lamp/twin", &home.owner).await.body;
        assert_eq!(twin["reported"]["body"]["on"], seq, "{twin}");
    }
}

#[tokio::test]
async fn what_others_publish_in_a_devices_name_answers_no_command_and_is_no_report() {
    let home = Home::open().await;
    let lamp = home.with_secret("lamp", "thermostat").await;
    home.with_secret("bulb", "thermostat").await;
    let mut lamp = home.session("lamp", &home.access_token("lamp", &lamp).await).await;
    let mut bridge = bridge(&home).await;
    let mut owner = home.session("script", &home.owner).await;
    for (device, speaker, actor) in [("lamp", &mut lamp, "device lamp"), ("bulb", &mut bridge, "device bridge")] {
        let sent = home.owns(Method::POST, &format!("/devices/{device}/commands/identify"), json!({"ttl_s": 600})).await;
        let id = sent.body["id"].as_str().expect("an id").to_owned();
        let (answers, reports) = (format!("dev/{device}/ack/{id}"), format!("dev/{device}/twin/reported"));
        let state = async || home.get(&format!("/devices/{device}/commands/{id}"), &home.owner).await.body["state"].clone();
        let reported = async || home.get(&format!("/devices/{device}/twin"), &home.owner).await.body.get("reported").is_some();
        let says = async |speaker: &mut Session| {
            let answer = speaker.publish(&answers, r#"{"state":"succeeded"}"#).await;
            (answer, speaker.publish(&reports, r#"{"on":1}"#).await)
        };
        assert_eq!(says(&mut owner).await, (0, 0), "an owner may publish there");
        assert_eq!((state().await, reported().await), (json!("sent"), false));
        assert_eq!(says(speaker).await, (0, 0));
        assert_eq!((state().await, reported().await), (json!("succeeded"), true));
        let ended = home.audited(&format!("action=command.end&target=device+{device}+command")).await;
        assert_eq!(ended["actor"], actor);
    }
}
