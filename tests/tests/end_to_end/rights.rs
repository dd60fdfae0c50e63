//! What a device may publish, subscribe to and receive, on the wire and while its profile changes.

use hearthkey_sim::{PublishError, SimEventKind};
use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::mosquitto::{Mosquitto, shown};
use hearthkey_tests::wire::{Connect, Wire, publish, subscribe};

/// Sees what all devices measure.
const OBSERVER: &str = "name = \"observer\"\n[permissions.observe]\nsubscribe = [\"dev/+/tele/+\"]\n";
const BLIND_OBSERVER: &str = "name = \"observer\"\n[permissions.observe]\nsubscribe = [\"dev/${device}/tele/+\"]\n";

/// What the hub says of itself.
fn is_the_hubs(topic: &str, payload: &str) -> bool {
    topic.starts_with("$SYS/") && (topic != "$SYS/broker/uptime" || payload.ends_with(" seconds"))
}

#[tokio::test]
async fn a_device_keeps_to_its_own_topics_in_both_dialects() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    Keyed::enrolled(&hub, "oven", "thermostat").await;
    let token = lamp.token(&hub).await;
    let publishes = [
        ("dev/lamp/tele/temperature", true),
        ("dev/lamp/state", true),
        ("dev/oven/tele/temperature", false),
        ("dev/lamp2/tele/temperature", false),
        ("dev/lamp", false),
        ("dev/lamp/tele", false),
        ("dev/lamp/tele/a/b", false),
        ("dev/lamp/cmd/identify", false),
        ("dev/lamp/twin/desired", false),
        ("$SYS/broker/uptime", false),
        // What was denied before it has not been delivered.
        ("dev/lamp/about", true),
    ];
    let subscribes = [
        ("dev/lamp/cmd/+", true),
        ("dev/lamp/twin/desired", true),
        ("dev/oven/cmd/+", false),
        ("dev/+/cmd/+", false),
        ("dev/#", false),
        ("#", false),
        ("+/lamp/cmd/identify", false),
    ];
    let mut all = Mosquitto::owner(&hub, "observer").subscribed(&["-t", "#", "-t", "$SYS/#"]).await;
    for version in [5, 4] {
        for (topic, allowed) in publishes {
            let mut wire = Wire::plain(&hub).await;
            let connect = Connect { version, ..Connect::by_password("lamp", &token) };
            assert_eq!(wire.connect(&connect).await.connack_code(), 0);
            wire.send(&publish(version, topic, version.to_string().as_bytes(), 7)).await;
            let answer = wire.receive().await;
            match (version, allowed) {
                (5, false) => assert_eq!(answer.expect("PUBACK").body.get(2), Some(&0x87), "{topic}"),
                (5, true) => assert!(answer.expect("PUBACK").body.get(2).is_none_or(|code| *code < 0x80), "{topic}"),
                // MQTT 3.1.1 has no word for it: section 3.3.5 has the server acknowledge what it drops.
                _ => assert_eq!(answer.expect("PUBACK").first, 0x40, "{topic}"),
            }
            if allowed {
                let seen =
                    all.line("the publish", |line| shown(line).filter(|seen| !is_the_hubs(&seen.topic, &seen.payload))).await;
                assert_eq!((seen.topic.as_str(), seen.payload.as_str()), (topic, format!("{version}").as_str()), "and no other");
            }
        }
        for (filter, allowed) in subscribes {
            let mut wire = Wire::plain(&hub).await;
            let connect = Connect { version, ..Connect::by_password("lamp", &token) };
            assert_eq!(wire.connect(&connect).await.connack_code(), 0);
            wire.send(&subscribe(version, filter)).await;
            let suback = wire.receive().await.expect("SUBACK");
            let denied = if version == 5 { 0x87 } else { 0x80 };
            let expected = if allowed { 1 } else { denied };
            assert_eq!((suback.first, suback.body.last()), (0x90, Some(&expected)), "{filter}: {suback:?}");
        }
    }
    // `hearthkey can` tells the same.
    for (topic, allowed) in publishes.into_iter().filter(|(topic, _)| !topic.starts_with('$')) {
        let ran = hub.ran(&["can", "lamp", "publish", topic, "-o", "json"]).await;
        assert_eq!((ran.exit == 0, ran.json()["allowed"] == true), (allowed, allowed), "{topic}: {ran:?}");
    }
    for (filter, allowed) in subscribes.into_iter().filter(|(filter, _)| !filter.starts_with('$')) {
        assert_eq!(hub.ran(&["can", "lamp", "subscribe", filter]).await.exit == 0, allowed, "{filter}");
    }
    assert_eq!(hub.ran(&["can", "lamp", "command", "set-setpoint"]).await.exit, 0);
    assert_eq!(hub.ran(&["can", "lamp", "command", "self-destruct"]).await.exit, 1);
    hub.finish().await;
}

#[tokio::test]
async fn a_will_is_a_publish_like_any_other() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for (topic, code) in [("dev/lamp/status", 0), ("dev/oven/status", 0x87)] {
        let will = Some((topic.to_owned(), "offline".to_owned()));
        let connect = Connect { will, ..Connect::by_password("lamp", &token) };
        assert_eq!(Wire::plain(&hub).await.connect(&connect).await.connack_code(), code, "{topic}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn commands_come_from_the_hub_alone_and_only_those_of_the_profile() {
    let hub = Hub::start().await;
    let mut lamp = hub.agent("lamp", "thermostat").await;
    lamp.connected().await;
    // Not even the owner's own token publishes below cmd/.
    let forged = r#"{"id":"c-1","seq":999,"ttl_s":30,"by":"owner"}"#;
    let owner = Mosquitto::owner(&hub, "forger");
    let ran = owner.publish(&["-q", "1", "-t", "dev/lamp/cmd/identify", "-m", forged]).await;
    assert!(ran.text().contains("Not authorized"), "{ran:?}");
    let unknown = hub.ran(&["send", "lamp", "self-destruct"]).await;
    assert!(unknown.exit == 1 && unknown.err.contains("self-destruct"), "{unknown:?}");
    assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
    let summary = lamp.leave().await;
    assert_eq!((summary.commands_succeeded, summary.commands_rejected), (1, 0), "{summary:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_profile_that_changes_acts_on_sessions_that_are_open_both_ways() {
    let hub = Hub::start().await;
    let thermostat = hub.ran(&["profile", "show", "thermostat"]).await.out;
    let own = thermostat.replace(r#"name = "thermostat""#, r#"name = "mine""#);
    let muted = own.replace(r#""dev/${device}/tele/+""#, r#""dev/${device}/muted/+""#);
    assert_ne!(own, muted, "{own}");
    hub.apply_profile(&own).await;
    let mut lamp = hub.agent("lamp", "mine").await;
    lamp.connected().await;
    lamp.publish("dev/lamp/tele/humidity", "50").await.expect("allowed so far");

    hub.apply_profile(&muted).await;
    let refused = lamp.publish("dev/lamp/tele/humidity", "51").await.expect_err("not allowed any more");
    assert!(matches!(refused, PublishError::Refused { code: 0x87, .. }), "{refused:?}");
    hub.apply_profile(&own).await;
    lamp.publish("dev/lamp/tele/humidity", "52").await.expect("allowed again");
    lamp.telemetry().await;
    assert!(!lamp.seen().iter().any(|event| matches!(event.kind, SimEventKind::Disconnected { .. })), "{:#?}", lamp.seen());
    lamp.leave().await;
    hub.finish().await;
}

#[tokio::test]
async fn what_a_profile_no_longer_lets_a_device_see_is_not_delivered_to_it() {
    let hub = Hub::start().await;
    hub.apply_profile(OBSERVER).await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let observer = Keyed::enrolled(&hub, "observer", "observer").await.token(&hub).await;
    let lamp = Mosquitto::new(&hub, "lamp", &lamp);
    let mut observer = Mosquitto::new(&hub, "observer", &observer).subscribed(&["-q", "1", "-t", "dev/+/tele/+"]).await;

    lamp.publishes("dev/lamp/tele/n", "1", &["-q", "1"]).await;
    assert_eq!(observer.line("a message", shown).await.payload, "1");
    hub.apply_profile(BLIND_OBSERVER).await;
    lamp.publishes("dev/lamp/tele/n", "2", &["-q", "1"]).await;
    hub.apply_profile(OBSERVER).await;
    lamp.publishes("dev/lamp/tele/n", "3", &["-q", "1"]).await;
    assert_eq!(observer.line("a message", shown).await.payload, "3");
    hub.finish().await;
}
