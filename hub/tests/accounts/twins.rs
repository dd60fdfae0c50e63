//! Twins: what a device is to be reaches it, what it says it is comes back, and both survive a restart.

use crate::home::{Answer, Home, PATIENCE, ask};
use reqwest::{Method, header};
use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Packet, PubAckReason},
    },
};
use serde_json::{Value, json};

const TWIN: &str = "/devices/plug/twin";
const DESIRED: &str = "dev/plug/twin/desired";
const REPORTED: &str = "dev/plug/twin/reported";

async fn patch(home: &Home, credential: &str, body: Value) -> Answer {
    let request = home.api(Method::PATCH, TWIN, credential).header(header::CONTENT_TYPE, "application/merge-patch+json");
    ask(request.body(body.to_string())).await
}

/// The device, connected and listening.
async fn plug(home: &Home, secret: &str) -> (AsyncClient, EventLoop) {
    let token = home.access_token("plug", secret).await;
    let address = home.server.addresses().mqtt.expect("MQTT without TLS");
    let mut options = MqttOptions::new("plug", address.ip().to_string(), address.port());
    options.set_credentials("plug", token).set_connection_timeout(PATIENCE.as_secs());
    let (client, events) = AsyncClient::new(options, 8);
    client.subscribe(DESIRED, QoS::AtLeastOnce).await.expect("queued");
    (client, events)
}

async fn seen<T>(events: &mut EventLoop, look: impl Fn(&Packet) -> Option<T>) -> T {
    let seen = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.expect("connected")
                && let Some(seen) = look(&packet)
            {
                return seen;
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("what must come did not come")
}

async fn desired(events: &mut EventLoop) -> Value {
    seen(events, |packet| match packet {
        Packet::Publish(publish) => serde_json::from_slice(&publish.payload).ok(),
        _ => None,
    })
    .await
}

async fn acknowledged(events: &mut EventLoop) -> PubAckReason {
    seen(events, |packet| if let Packet::PubAck(ack) = packet { Some(ack.reason) } else { None }).await
}

/// The twin once the device is heard of.
async fn reported(home: &Home, is_it: impl Fn(&Value) -> bool) -> Value {
    let heard = async {
        loop {
            let twin = home.get(TWIN, &home.owner).await.body;
            if is_it(&twin) {
                return twin;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("the report is kept")
}

#[tokio::test]
async fn what_is_desired_reaches_the_device_and_its_report_comes_back_and_both_survive_a_restart() {
    let home = Home::open().await;
    let secret = home.with_secret("plug", "thermostat").await;
    let (client, mut events) = plug(&home, &secret).await;
    seen(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;

    let first = home.owns(Method::PUT, TWIN, json!({"setpoint": 21.5, "plan": {"day": 21, "night": 17}})).await;
    assert_eq!((first.status, first.header("etag")), (200, "\"1\""));
    assert_eq!(first.body["settled"], false);
    assert_eq!(desired(&mut events).await, json!({"v": 1, "setpoint": 21.5, "plan": {"day": 21, "night": 17}}));

    let second = patch(&home, &home.owner, json!({"setpoint": null, "plan": {"night": 16}})).await;
    assert_eq!((second.status, second.header("etag")), (200, "\"2\""));
    assert_eq!(desired(&mut events).await, json!({"v": 2, "plan": {"day": 21, "night": 16}}));
    let same = patch(&home, &home.owner, json!({"plan": {"night": 16}})).await;
    assert_eq!(same.header("etag"), "\"2\"", "what changes nothing counts no version");

    client.publish(REPORTED, QoS::AtLeastOnce, false, r#"{"v":2,"plan":{"day":21,"night":16}}"#).await.expect("queued");
    assert_eq!(acknowledged(&mut events).await, PubAckReason::Success);
    let twin = reported(&home, |twin| twin["settled"] == true).await;
    assert_eq!(twin["reported"]["body"], json!({"plan": {"day": 21, "night": 16}}));
    for junk in ["[1]", "no JSON", ""] {
        client.publish(REPORTED, QoS::AtLeastOnce, false, junk).await.expect("queued");
        assert_eq!(acknowledged(&mut events).await, PubAckReason::Success);
    }
    client.publish(DESIRED, QoS::AtLeastOnce, true, r#"{"v":9}"#).await.expect("queued");
    assert_eq!(acknowledged(&mut events).await, PubAckReason::NotAuthorized, "only the hub desires");
    home.audited("action=twin.desire&actor=user+owner").await;

    let home = home.restarted().await;
    let again = home.get(TWIN, &home.owner).await;
    assert_eq!((again.header("etag"), &again.body), ("\"2\"", &twin));
    let (_client, mut events) = plug(&home, &secret).await;
    assert_eq!(desired(&mut events).await["v"], 2, "a device that comes later is told as well");
}

#[tokio::test]
async fn an_edit_upon_another_version_is_refused() {
    let home = Home::open().await;
    home.with_secret("plug", "thermostat").await;
    let put = async |version: &str, setpoint: u64| {
        let request = home.api(Method::PUT, TWIN, &home.owner).header(header::IF_MATCH, version);
        ask(request.json(&json!({"setpoint": setpoint}))).await.status
    };
    assert_eq!(put("\"1\"", 20).await, 412);
    assert_eq!(put("\"0\"", 20).await, 200);
    assert_eq!(put("\"0\"", 21).await, 412);
    assert_eq!(put("\"1\"", 21).await, 200);
    assert_eq!(home.get(TWIN, &home.owner).await.body["desired"]["body"], json!({"setpoint": 21}));
}

#[tokio::test]
async fn who_may_not_send_commands_desires_nothing_and_what_makes_no_sense_is_refused() {
    let home = Home::open().await;
    home.with_secret("plug", "thermostat").await;
    home.with_secret("shy", "gateway").await;
    let viewer = home.person("vera", "viewer").await;
    assert_eq!(patch(&home, &viewer, json!({"setpoint": 20})).await.refusal(), (403, "insufficient_scope"));
    assert_eq!(home.get(TWIN, &viewer).await.status, 200);
    let elsewhere =
        home.token(&home.owner, json!({"name": "x", "scope": "commands:send devices:read", "devices": ["shy"]})).await;
    assert_eq!(patch(&home, &elsewhere.secret(), json!({"setpoint": 20})).await.refusal(), (403, "out_of_reach"));
    for version in ["\"0\"", "\"1\"", "*"] {
        for device in ["plug", "ghost"] {
            let request = home.api(Method::PUT, &format!("/devices/{device}/twin"), &elsewhere.secret());
            let refused = ask(request.header(header::IF_MATCH, version).json(&json!({"setpoint": 20}))).await;
            assert_eq!(refused.refusal(), (403, "out_of_reach"), "of the version of {device} it learns nothing: {version}");
        }
    }
    assert_eq!(patch(&home, &home.owner, json!({"v": 7})).await.refusal(), (422, "v"));
    assert_eq!(patch(&home, &home.owner, json!({"x": "x".repeat(1_100)})).await.status, 413);
    assert_eq!(patch(&home, &home.owner, json!([1])).await.status, 422);
    assert_eq!(home.owns(Method::PUT, "/devices/ghost/twin", json!({})).await.refusal(), (404, "unknown_device"));
    home.with_secret("probe", "sensor").await;
    let no_twin = home.owns(Method::PUT, "/devices/probe/twin", json!({"x": 1})).await;
    assert_eq!(no_twin.refusal(), (409, "device_unable"));
    assert_eq!(home.get(TWIN, &home.owner).await.body, json!({"device": "plug", "settled": true}));
}

#[tokio::test]
async fn a_name_that_starts_anew_gets_nothing_of_the_device_before() {
    let home = Home::open().await;
    let secret = home.with_secret("plug", "thermostat").await;
    home.owns(Method::PUT, TWIN, json!({"setpoint": 20})).await;
    let (client, mut events) = plug(&home, &secret).await;
    assert_eq!(desired(&mut events).await["setpoint"], 20);
    for (topic, retain) in [("dev/plug/state", true), (REPORTED, true)] {
        client.publish(topic, QoS::AtLeastOnce, retain, r#"{"v":1}"#).await.expect("queued");
        assert_eq!(acknowledged(&mut events).await, PubAckReason::Success);
    }
    let cut = async { while events.poll().await.is_ok() {} };
    let replaced = async {
        assert_eq!(home.owns(Method::POST, "/devices/plug/revoke", json!({})).await.status, 200);
        home.with_secret("plug", "thermostat").await
    };
    let ((), secret) = tokio::join!(cut, replaced);
    assert_eq!(home.get(TWIN, &home.owner).await.body, json!({"device": "plug", "settled": true}));

    let mut owner = home.session("watcher", &home.owner).await;
    assert_eq!(owner.subscribe("dev/plug/#").await, 1);
    let (_client, mut events) = plug(&home, &secret).await;
    seen(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    assert_eq!(home.owns(Method::PUT, TWIN, json!({"mode": "off"})).await.header("etag"), "\"1\"");
    assert_eq!(desired(&mut events).await, json!({"v": 1, "mode": "off"}));
    assert_eq!(owner.message().await, DESIRED, "nothing was retained");
}
