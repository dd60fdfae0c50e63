//! What MQTT 5 adds, between two libraries that know nothing of each other.

use hearthkey_tests::hub::{Hub, TALKER};
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::patience::until;
use serde_json::json;

use crate::foreign::{FIVE, Session};

/// Longer than any test.
const AN_HOUR: u32 = 3600;

#[tokio::test]
async fn a_delayed_will_spares_who_returns_and_is_published_when_the_session_or_the_delay_ends() {
    let hub = Hub::start().await;
    for (number, (which, other)) in FIVE.into_iter().enumerate() {
        let name = format!("lamp-{number}");
        let status = format!("dev/{name}/status");
        let token = Keyed::enrolled(&hub, &name, "thermostat").await.token(&hub).await;
        let (mut owner, _) = Session::new(&hub, other, "owner", &hub.owner_token()).connected().await;
        owner.subscribe(&status, 1).await;
        let lamp = Session::new(&hub, which, &name, &token).and("will", status.as_str());
        let patient = lamp.clone().kept_for(AN_HOUR).and("will_delay", AN_HOUR);
        patient.connected().await.0.vanish().await;
        let (mut returned, present) = patient.connected().await;
        assert!(present, "{which:?}");
        assert_eq!(returned.publish(&status, "online", 1, false).await, 0);
        assert_eq!(owner.payload().await, "online", "{which:?}: and no will before it");
        returned.vanish().await;
        // A clean start ends the session that was kept.
        lamp.connected().await.0.leave().await;
        assert_eq!(owner.payload().await, "offline", "{which:?}");
        lamp.kept_for(AN_HOUR).and("will_delay", 1).connected().await.0.vanish().await;
        assert_eq!(owner.payload().await, "offline", "{which:?}");
        owner.leave().await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn each_message_of_a_shared_subscription_goes_to_one_of_its_members() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for (which, other) in FIVE {
        let (mut one, _) = Session::new(&hub, which, "one", &hub.owner_token()).connected().await;
        let (mut two, _) = Session::new(&hub, other, "two", &hub.owner_token()).connected().await;
        for member in [&mut one, &mut two] {
            assert_eq!(member.subscribe("$share/kitchen/dev/+/tele/#", 2).await, 2, "{which:?}");
        }
        let (mut lamp, _) = Session::new(&hub, which, "lamp", &token).connected().await;
        let sent = [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2), ("f", 2)];
        for (payload, qos) in sent {
            assert_eq!(lamp.publish("dev/lamp/tele/n", payload, qos, false).await, 0, "{which:?}");
        }
        let mut seen = Vec::new();
        for _ in 0..sent.len() / 2 {
            seen.extend([one.payload().await, two.payload().await]);
        }
        seen.sort();
        assert_eq!(seen, sent.map(|(payload, _)| payload), "{which:?} with {other:?}");
        for client in [one, two, lamp] {
            client.leave().await;
        }
    }
    hub.finish().await;
}

#[tokio::test]
async fn an_alias_stands_for_the_topic_that_it_was_last_given() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for (which, other) in FIVE {
        let (mut owner, _) = Session::new(&hub, other, "owner", &hub.owner_token()).connected().await;
        owner.subscribe("dev/lamp/tele/#", 2).await;
        let (mut lamp, _) = Session::new(&hub, which, "lamp", &token).connected().await;
        for (topic, means, qos) in [
            ("dev/lamp/tele/a", "dev/lamp/tele/a", 1),
            ("", "dev/lamp/tele/a", 0),
            ("dev/lamp/tele/b", "dev/lamp/tele/b", 0),
            ("", "dev/lamp/tele/b", 1),
            ("", "dev/lamp/tele/b", 2),
        ] {
            assert_eq!(lamp.publish_with(topic, "21", qos, json!({ "alias": 7 })).await, 0, "{which:?}: {topic}");
            assert_eq!(owner.message().await.0, means, "{which:?}");
        }
        lamp.leave().await;
        owner.leave().await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_request_is_answered_at_the_response_topic_with_its_correlation_data() {
    let hub = Hub::start().await;
    hub.apply_profile(TALKER).await;
    let asks = Keyed::enrolled(&hub, "asks", "talker").await.token(&hub).await;
    let answers = Keyed::enrolled(&hub, "answers", "talker").await.token(&hub).await;
    for (which, other) in FIVE {
        let (mut asks, _) = Session::new(&hub, which, "asks", &asks).connected().await;
        let (mut answers, _) = Session::new(&hub, other, "answers", &answers).connected().await;
        asks.subscribe("rpc/asks/answers", 1).await;
        answers.subscribe("rpc/answers/requests", 1).await;
        for number in ["1", "2"] {
            let back = json!({ "response_topic": "rpc/asks/answers", "correlation": number });
            assert_eq!(asks.publish_with("rpc/answers/requests", "the time?", 1, back).await, 0, "{which:?}");
            let request = answers.whole_message().await;
            assert_eq!(request["correlation"], number, "{other:?} from {which:?}");
            let (topic, same) = (request["response_topic"].as_str().unwrap(), json!({ "correlation": request["correlation"] }));
            assert_eq!(answers.publish_with(topic, "late", 1, same).await, 0, "{other:?}");
            let answer = asks.whole_message().await;
            assert_eq!(
                (&answer["payload"], &answer["correlation"]),
                (&json!("late"), &json!(number)),
                "{which:?} from {other:?}"
            );
        }
        asks.leave().await;
        answers.leave().await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn what_has_expired_is_neither_retained_nor_queued_and_what_has_not_says_how_long_it_lasts() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for (which, other) in FIVE {
        let keeper = Session::new(&hub, other, "keeper", &hub.owner_token()).kept_for(AN_HOUR);
        let (mut away, _) = keeper.connected().await;
        away.subscribe("dev/lamp/event/+", 1).await;
        away.leave().await;
        let (mut lamp, _) = Session::new(&hub, which, "lamp", &token).connected().await;
        lamp.publish_with("dev/lamp/event/brief", "passed", 1, json!({ "expiry": 1 })).await;
        lamp.publish_with("dev/lamp/event/long", "waits", 1, json!({ "expiry": AN_HOUR })).await;
        lamp.publish_with("dev/lamp/state", "brief", 1, json!({ "expiry": 1, "retain": true })).await;
        lamp.publish_with("dev/lamp/about", "long", 1, json!({ "expiry": AN_HOUR, "retain": true })).await;
        let (mut owner, _) = Session::new(&hub, other, "owner", &hub.owner_token()).connected().await;
        let [(payload, seconds)] = until("the end of the retained message that expires", async || {
            owner.subscribe("dev/lamp/+", 1).await;
            lamp.publish("dev/lamp/status", "that is all", 1, false).await;
            let mut seen = Vec::new();
            loop {
                let message = owner.whole_message().await;
                match message["payload"].as_str().unwrap() {
                    "that is all" => break,
                    payload => seen.push((payload.to_owned(), message["expiry"].as_u64().expect("seconds"))),
                }
            }
            <[_; 1]>::try_from(seen).ok()
        })
        .await;
        assert!(payload == "long" && (1..=u64::from(AN_HOUR)).contains(&seconds), "{which:?}: {payload} for {seconds} s");
        // What was queued has expired before what was retained later.
        let (mut again, present) = keeper.connected().await;
        assert!(present, "{which:?}");
        assert_eq!(again.payload().await, "waits", "{which:?}");
        again.leave().await;
        lamp.leave().await;
        owner.leave().await;
        Session::new(&hub, other, "keeper", &hub.owner_token()).connected().await.0.leave().await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_session_is_kept_as_long_as_it_asked_and_no_longer() {
    let hub = Hub::start().await;
    for (which, _) in FIVE {
        for seconds in [AN_HOUR, 1] {
            let session = Session::new(&hub, which, &format!("keeper-{seconds}"), &hub.owner_token()).kept_for(seconds);
            let (mut first, present) = session.connected().await;
            assert!(!present, "{which:?}");
            first.subscribe("dev/+/state", 1).await;
            first.leave().await;
        }
        until("the end of the brief session", async || {
            let figures = hub.http().get(hub.url("/metrics")).send().await.ok()?.text().await.ok()?;
            figures.contains("\nhearthkey_mqtt_kept_sessions 1\n").then_some(())
        })
        .await;
        for (seconds, is_present) in [(AN_HOUR, true), (1, false)] {
            let session = Session::new(&hub, which, &format!("keeper-{seconds}"), &hub.owner_token());
            let (client, present) = session.clone().kept_for(seconds).connected().await;
            assert_eq!(present, is_present, "{which:?}: {seconds} s");
            client.leave().await;
            session.connected().await.0.leave().await;
        }
    }
    hub.finish().await;
}
