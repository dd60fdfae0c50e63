//! What every client can rely on, whoever wrote it.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;

use crate::foreign::{ALL, Dialect, Session};

/// The QoS levels of the stories.
const LEVELS: [u8; 3] = [0, 1, 2];

async fn api_key(hub: &Hub) -> String {
    let made = hub.told(&["key", "create", "kitchen", "--integration", "ha", "--profile", "home-assistant"]).await;
    let key = made["secret"].as_str().expect("a key").to_owned();
    hub.remember_secret(&key);
    key
}

#[tokio::test]
async fn a_token_a_personal_access_token_and_an_api_key_open_sessions_and_messages_arrive_at_each_qos() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let key = api_key(&hub).await;
    for which in ALL {
        let (mut owner, _) = Session::new(&hub, which, "owner", &hub.owner_token()).connected().await;
        let (mut integration, _) = Session::new(&hub, which, "integration", &key).connected().await;
        let (mut lamp, _) = Session::new(&hub, which, "lamp", &token).connected().await;
        let highest = LEVELS[LEVELS.len() - 1];
        for client in [&mut owner, &mut integration] {
            assert_eq!(client.subscribe("dev/+/tele/#", highest).await, u64::from(highest), "{which:?}");
        }
        for qos in LEVELS {
            let payload = format!("{which:?} at {qos}");
            assert_eq!(lamp.publish("dev/lamp/tele/n", &payload, qos, false).await, 0, "{payload}");
            for client in [&mut owner, &mut integration] {
                let expected = ("dev/lamp/tele/n".to_owned(), payload.clone(), u64::from(qos), false);
                assert_eq!(client.message().await, expected);
            }
        }
        for client in [owner, integration, lamp] {
            client.leave().await;
        }
    }
    hub.finish().await;
}

#[tokio::test]
async fn the_will_of_who_vanishes_is_retained_and_who_leaves_has_none() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let topic = "dev/lamp/status".to_owned();
    for which in ALL {
        let (mut owner, _) = Session::new(&hub, which, "owner", &hub.owner_token()).connected().await;
        let lamp = Session::new(&hub, which, "lamp", &token).and("will", topic.as_str());
        let (mut polite, _) = lamp.connected().await;
        assert_eq!(polite.publish(&topic, "online", 1, true).await, 0);
        polite.leave().await;
        owner.subscribe(&topic, 1).await;
        assert_eq!(owner.message().await, (topic.clone(), "online".to_owned(), 1, true), "{which:?}");
        lamp.connected().await.0.vanish().await;
        assert_eq!(owner.message().await, (topic.clone(), "offline".to_owned(), 1, false), "{which:?}");
        let (mut later, _) = Session::new(&hub, which, "later", &hub.owner_token()).connected().await;
        later.subscribe(&topic, 1).await;
        assert_eq!(later.message().await, (topic.clone(), "offline".to_owned(), 1, true), "{which:?}");
        later.leave().await;
        owner.leave().await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_in_the_words_of_each_dialect() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for which in ALL {
        let is_5 = which.dialect() == Dialect::Five;
        let (mut lamp, _) = Session::new(&hub, which, "lamp", &token).connected().await;
        // MQTT 3.1.1 has no word for it; the message goes nowhere.
        assert_eq!(lamp.publish("dev/oven/state", "on", 1, false).await, if is_5 { 0x87 } else { 0 }, "{which:?}");
        // paho-mqtt goes on with PUBREL, whatever PUBREC says, and shows the answer to that.
        let refused = lamp.publish("dev/oven/state", "on", 2, false).await;
        assert!(if is_5 { [0x87, 0x92].contains(&refused) } else { refused == 0 }, "{which:?}: {refused}");
        assert_eq!(lamp.subscribe("dev/oven/#", 1).await, if is_5 { 0x87 } else { 0x80 }, "{which:?}");
        assert_eq!(lamp.publish("dev/lamp/tele/n", "1", 1, false).await, 0, "the session goes on");
        lamp.leave().await;
        let mut stranger = Session::new(&hub, which, "lamp", "guess").opened().await;
        let refused = stranger.event("refused").await;
        if is_5 {
            assert_eq!(refused["refused"], 0x87, "{which:?}: {refused}");
        }
        let mut other = Session::new(&hub, which, "oven", &token).opened().await;
        other.event("refused").await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_revoked_device_is_cut_and_reads_why() {
    let hub = Hub::start().await;
    for (number, which) in ALL.into_iter().enumerate() {
        let name = format!("lamp-{number}");
        let token = Keyed::enrolled(&hub, &name, "thermostat").await.token(&hub).await;
        let session = Session::new(&hub, which, &name, &token);
        let (mut lamp, _) = session.connected().await;
        hub.told(&["device", "revoke", &name]).await;
        let ended = lamp.event("ended").await;
        if which.dialect() == Dialect::Five {
            assert_eq!(ended["ended"], 0x98, "{which:?}: {ended}");
            assert!(ended["words"].as_str().is_some_and(|words| words.starts_with("revoked")), "{ended}");
        }
        session.opened().await.event("refused").await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_kept_session_gets_what_it_missed_also_after_a_restart_of_the_hub() {
    let mut hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    for (number, which) in ALL.into_iter().enumerate() {
        let keeper = Session::new(&hub, which, &format!("keeper-{number}"), &hub.owner_token()).kept_for(3600);
        let (mut first, present) = keeper.connected().await;
        assert!(!present, "{which:?}");
        first.subscribe("dev/lamp/tele/#", 2).await;
        first.leave().await;
        let (mut device, _) = Session::new(&hub, which, "lamp", &lamp.token(&hub).await).connected().await;
        for qos in [1, 2] {
            assert_eq!(device.publish("dev/lamp/tele/n", "missed", qos, false).await, 0, "{which:?}");
        }
        device.leave().await;
        if number % 2 == 0 {
            hub.restart().await;
        }
        let (mut again, present) = keeper.connected().await;
        assert!(present, "{which:?}");
        for qos in [1, 2] {
            assert_eq!(again.message().await, ("dev/lamp/tele/n".to_owned(), "missed".to_owned(), qos, false), "{which:?}");
        }
        again.leave().await;
    }
    hub.finish().await;
}
