//! A device without an enrolment string: it asks, shows a code, and the owner types the code.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::process::{Running, binary, run};
use hearthkey_tests::wire::{Connect, Wire};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

/// A thermostat that knows the hub's address and nothing else.
fn newcomer(hub: &Hub, name: &str) -> Command {
    let mut command = binary("hearthkey-sim");
    command.args(["device", "-o", "json", "--interval", "200ms", "--join"]);
    command.arg(format!("localhost:{}", hub.ports().https)).arg("--storage").arg(hub.beside().join(name));
    command
}

/// The code that the device shows.
async fn shown(device: &mut Running) -> String {
    device.json("a code", |event| Some(event["code"].as_str()?.to_owned())).await
}

async fn open_window(hub: &Hub) -> Running {
    let mut window = hub.follow(&["join", "--for", "5m"]);
    window.json("that the window is open", |line| line["open_until"].is_number().then_some(())).await;
    window
}

#[tokio::test]
async fn a_device_without_a_string_shows_a_code_and_is_let_in_under_it() {
    let hub = Hub::start().await;
    let closed = run(newcomer(&hub, "lamp"), "").await;
    assert_eq!(closed.exit, 1, "{closed:?}");
    assert!(closed.text().contains("hearthkey join --for 3m"), "it says what to do: {closed:?}");

    let mut window = open_window(&hub).await;
    let mut device = Running::start(newcomer(&hub, "lamp"));
    let code = shown(&mut device).await;
    let listed = window.json("the device", |line| Some(line["user_code"].as_str()?.to_owned())).await;
    assert_eq!(listed, code, "both show the same");
    let unknown = hub.ran(&["approve", "BCDF-GHJK", "--name", "lamp", "--profile", "thermostat"]).await;
    assert_eq!(unknown.exit, 1, "another code lets nobody in: {unknown:?}");

    let approved = hub.told(&["approve", &code, "--name", "lamp", "--profile", "thermostat"]).await;
    assert_eq!(approved["id"], "lamp");
    device.json("a session", |event| (event["event"] == "connected").then_some(())).await;
    device.json("telemetry", |event| (event["topic"] == "dev/lamp/tele/temperature").then_some(())).await;
    assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
    device.signal(Signal::INT);
    assert_eq!(device.ended().await, 0, "{}", device.err());

    // From now on it is a device like any other, and asks nobody.
    let mut again = Running::start(newcomer(&hub, "lamp"));
    let first = again.json("an event", |event| Some(event["event"].clone())).await;
    assert_eq!(first, Value::from("connected"));
    again.signal(Signal::INT);
    assert_eq!(again.ended().await, 0, "{}", again.err());
    window.signal(Signal::INT);
    window.ended().await;
    hub.finish().await;
}

#[tokio::test]
async fn a_device_that_is_turned_away_stops_asking() {
    let hub = Hub::start().await;
    let mut window = open_window(&hub).await;
    let mut device = Running::start(newcomer(&hub, "lamp"));
    let code = shown(&mut device).await;
    assert_eq!(hub.ran(&["deny", &code]).await.exit, 0);
    assert_eq!(device.ended().await, 1);
    assert!(device.out().contains("turned this device away"), "{}", device.out());
    window.signal(Signal::INT);
    window.ended().await;
    hub.finish().await;
}

#[tokio::test]
async fn a_hub_that_forgot_who_waits_is_asked_anew() {
    let mut hub = Hub::start().await;
    let mut window = open_window(&hub).await;
    let mut device = Running::start(newcomer(&hub, "lamp"));
    shown(&mut device).await;
    window.signal(Signal::INT);
    window.ended().await;
    hub.restart().await;
    assert_eq!(device.ended().await, 1);
    assert!(device.out().contains("nobody approved in time"), "{}", device.out());
    hub.finish().await;
}

#[tokio::test]
async fn a_device_enrols_or_joins_and_works_where_its_profile_takes_no_token_that_is_merely_shown() {
    let hub = Hub::start().await;
    let thermostat = hub.ran(&["profile", "show", "thermostat"]).await.out;
    hub.apply_profile(&format!("proof = \"required\"\n{thermostat}")).await;

    let mut window = open_window(&hub).await;
    let mut joined = Running::start(newcomer(&hub, "oven"));
    let code = shown(&mut joined).await;
    hub.told(&["approve", &code, "--name", "oven", "--profile", "thermostat"]).await;
    joined.json("telemetry", |event| (event["topic"] == "dev/oven/tele/temperature").then_some(())).await;
    let mut enrolled = hub.agent("lamp", "thermostat").await;
    enrolled.telemetry().await;
    for device in ["oven", "lamp"] {
        assert_eq!(hub.told(&["send", device, "identify", "--wait", "30s"]).await["state"], "succeeded");
    }

    // The same by a token and without its key.
    let porch = Keyed::enrolled(&hub, "porch", "thermostat").await;
    let token = porch.token(&hub).await;
    let refused = Wire::tls(&hub).await.connect(&Connect::by_password("porch", &token)).await;
    assert!(refused.connack_code() == 0x87 && refused.says("must be proven"), "{refused:?}");
    let by_https = hub.http().get(hub.url("/api/v1/me")).bearer_auth(&token).send().await.expect("an answer");
    assert_eq!(by_https.status(), 401);

    for running in [&mut joined, &mut window] {
        running.signal(Signal::INT);
        running.ended().await;
    }
    enrolled.leave().await;
    hub.finish().await;
}
