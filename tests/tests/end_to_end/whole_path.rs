//! The whole path of one device, from its owner's first command to its end.

use hearthkey_sim::{PublishError, SimEventKind};
use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::{Keyed, oauth_error};
use hearthkey_tests::mosquitto::{Mosquitto, shown};
use hearthkey_tests::process::{Running, binary, run};
use rustix::process::Signal;

#[tokio::test]
async fn a_device_enrols_reports_obeys_is_held_to_its_rights_and_is_cut_off_when_revoked() {
    from_enrolment_to_revocation(Hub::start().await).await;
}

#[tokio::test]
async fn all_of_it_goes_over_rumqttds_router_too() {
    let hub = Hub::start_with("[mqtt]\nfabric = \"router\"\n").await;
    assert_eq!(hub.started()["fabric"], "router");
    from_enrolment_to_revocation(hub).await;
}

async fn from_enrolment_to_revocation(hub: Hub) {
    let mut lamp = hub.agent("lamp", "thermostat").await;
    let mut oven = hub.agent("oven", "thermostat").await;
    lamp.connected().await;
    oven.connected().await;

    // What it publishes, its owner sees.
    let mut watch = hub.follow(&["watch", "dev/lamp/#"]);
    let seen =
        watch.json("telemetry", |message| (message["topic"] == "dev/lamp/tele/temperature").then(|| message.clone())).await;
    let payload: serde_json::Value = serde_json::from_str(seen["payload"].as_str().expect("text")).expect("JSON");
    assert!(payload["celsius"].is_number(), "{seen}");
    assert_eq!(hub.device("lamp").await["connected"], true);

    // What its owner says, it does.
    let command = hub.told(&["send", "lamp", "set-setpoint", r#"{"celsius":23.5}"#, "--wait", "30s"]).await;
    assert_eq!(command["state"], "succeeded", "{command}");
    let state = watch.json("the new setpoint", |message| {
        let payload = message["payload"].as_str()?;
        (message["topic"] == "dev/lamp/state" && payload.contains("23.5")).then_some(())
    });
    state.await;
    let rejected = hub.ran(&["send", "lamp", "set-setpoint", r#"{"celsius":900}"#, "--wait", "30s", "-o", "json"]).await;
    assert_eq!((rejected.exit, &rejected.json()["state"]), (1, &"rejected".into()), "{rejected:?}");

    // What is its neighbour's, it leaves alone.
    let refused = lamp.publish("dev/oven/tele/temperature", r#"{"celsius":99}"#).await.expect_err("not its topic");
    assert!(matches!(refused, PublishError::Refused { code: 0x87, .. }), "{refused:?}");
    lamp.publish("dev/lamp/tele/humidity", "55").await.expect("its own topic");

    // Its owner cuts it off: it knows why, its will is published, and it never comes back.
    let mut wills = Mosquitto::owner(&hub, "observer").subscribed(&["-q", "1", "-t", "dev/+/status"]).await;
    let online = wills.line("the lamp's status", |line| shown(line).filter(|message| message.topic == "dev/lamp/status")).await;
    assert_eq!((online.payload.as_str(), online.retain), ("online", true));
    assert_eq!(hub.told(&["device", "revoke", "lamp"]).await["status"], "revoked");
    let reason = lamp.disconnected().await;
    assert!(reason.starts_with("revoked"), "{reason}");
    let failure = lamp.stopped().await.expect("nobody asked it to stop");
    assert!(failure.contains("revoked"), "{failure}");
    let will = wills.line("the will", |line| shown(line).filter(|message| message.topic == "dev/lamp/status")).await;
    assert_eq!((will.payload.as_str(), will.qos), ("offline", 1));
    assert_eq!(hub.device("lamp").await["connected"], false);
    let unsent = hub.ran(&["send", "lamp", "identify"]).await;
    assert!(unsent.exit == 1 && unsent.err.contains("revoked"), "{unsent:?}");

    // Its neighbour goes on.
    oven.telemetry().await;
    assert_eq!(hub.told(&["send", "oven", "identify", "--wait", "30s"]).await["state"], "succeeded");
    assert!(!oven.seen().iter().any(|event| matches!(event.kind, SimEventKind::Disconnected { .. })), "{:#?}", oven.seen());

    // And all of it stands in the audit log.
    for (actor, action, target, outcome) in [
        ("user owner", "device.add", "device lamp", "success"),
        ("device lamp", "device.enrol", "device lamp", "success"),
        ("device lamp", "token.issue", "access token ", "success"),
        ("device lamp", "mqtt.connect", "client lamp", "success"),
        ("user owner", "command.send", "device lamp command set-setpoint ", "success"),
        ("device lamp", "mqtt.authorize", "client lamp", "denied"),
        ("user owner", "device.revoke", "device lamp", "success"),
        ("device lamp", "mqtt.disconnect", "client lamp", "denied"),
    ] {
        let is_it = |entry: &serde_json::Value| {
            entry["actor"] == actor
                && entry["action"] == action
                && entry["outcome"] == outcome
                && entry["target"].as_str().is_some_and(|text| text.starts_with(target))
        };
        hub.audited(&format!("{actor} {action} {target} {outcome}"), is_it).await;
    }
    let denial = hub.audited("the denial", |entry| entry["action"] == "mqtt.authorize").await;
    assert!(denial["reason"].as_str().is_some_and(|reason| reason.contains("dev/oven/tele/temperature")), "{denial}");
    oven.leave().await;
    hub.finish().await;
}

#[tokio::test]
async fn the_token_endpoint_knows_a_revoked_device_no_more() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    lamp.token(&hub).await;
    hub.told(&["device", "revoke", "lamp"]).await;
    let refusal = Keyed::request_token(&hub, &lamp.assertion(&hub)).await;
    assert_eq!(oauth_error(refusal).await, (400, "invalid_client".to_owned()));
    hub.finish().await;
}

#[tokio::test]
async fn the_simulators_own_program_is_a_device_too_and_keeps_its_identity() {
    let hub = Hub::start().await;
    let string = hub.add("lamp", "thermostat").await;
    let storage = hub.beside().join("lamp");
    let simulator = |enrol: Option<&str>| {
        let mut command = binary("hearthkey-sim");
        command.args(["device", "-o", "json", "--interval", "200ms", "--storage"]).arg(&storage);
        if let Some(string) = enrol {
            command.env("HEARTHKEY_ENROL", string);
        }
        command
    };
    for enrol in [Some(string.as_str()), None] {
        let mut device = Running::start(simulator(enrol));
        device.json("a session", |event| (event["event"] == "connected").then_some(())).await;
        device.json("an acknowledgement", |event| (event["event"] == "acknowledged").then_some(())).await;
        assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
        device.signal(Signal::INT);
        assert_eq!(device.ended().await, 0, "{}", device.err());
        hub.assert_shows_no_secret("the simulator", &format!("{}{}", device.out(), device.err()));
    }
    hub.told(&["device", "revoke", "lamp"]).await;
    let refused = run(simulator(None), "").await;
    assert!(refused.exit == 1 && refused.text().contains("revoked"), "{refused:?}");
    hub.finish().await;
}
