//! mosquitto's own clients at a hub: both dialects, with and without TLS, sessions that outlive connections.

use hearthkey_tests::hub::{Hub, TALKER};
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::mosquitto::{Mosquitto, Shown, shown};

fn message(qos: u8, retain: bool, topic: &str, payload: &str) -> Shown {
    Shown { qos, retain, topic: topic.to_owned(), payload: payload.to_owned() }
}

#[tokio::test]
async fn both_dialects_reach_each_other_with_and_without_tls_at_each_qos() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let lamp = Mosquitto::new(&hub, "lamp", &token);
    let owner = Mosquitto::owner(&hub, "owner");
    let mut subscribers = Vec::new();
    for (name, owner) in
        [("a", owner.clone()), ("b", owner.clone().v311()), ("c", owner.clone().plain()), ("d", owner.v311().plain())]
    {
        subscribers.push((name, owner.named(name).subscribed(&["-q", "2", "-t", "dev/+/tele/#", "-t", "dev/lamp/state"]).await));
    }
    let publishers = [lamp.clone(), lamp.clone().v311(), lamp.clone().plain(), lamp.clone().v311().plain()];
    for (number, lamp) in publishers.into_iter().enumerate() {
        for qos in [0, 1, 2] {
            let payload = format!("{number} at {qos}");
            lamp.publishes("dev/lamp/tele/n", &payload, &["-q", &qos.to_string()]).await;
            for (name, subscriber) in &mut subscribers {
                let seen = subscriber.line("the message", shown).await;
                assert_eq!(seen, message(qos, false, "dev/lamp/tele/n", &payload), "{name}");
            }
        }
    }
    hub.finish().await;
}

#[tokio::test]
async fn the_last_retained_message_waits_for_whoever_subscribes_until_it_is_cleared() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let lamp = Mosquitto::new(&hub, "lamp", &token);
    lamp.publishes("dev/lamp/state", "old", &["-r", "-q", "1"]).await;
    lamp.publishes("dev/lamp/state", "new", &["-r", "-q", "1"]).await;
    lamp.publishes("dev/lamp/tele/n", "not retained", &["-q", "1"]).await;
    for owner in [Mosquitto::owner(&hub, "five"), Mosquitto::owner(&hub, "three").v311()] {
        let mut subscriber = owner.subscribed(&["-q", "1", "-t", "dev/lamp/#"]).await;
        assert_eq!(subscriber.line("the retained message", shown).await, message(1, true, "dev/lamp/state", "new"));
        // What comes after the subscription is no retained message.
        lamp.publishes("dev/lamp/tele/n", "live", &["-q", "1"]).await;
        assert_eq!(subscriber.line("a live message", shown).await, message(1, false, "dev/lamp/tele/n", "live"));
    }
    let cleared = lamp.publish(&["-t", "dev/lamp/state", "-r", "-n", "-q", "1"]).await;
    assert_eq!(cleared.exit, 0, "{cleared:?}");
    let mut subscriber = Mosquitto::owner(&hub, "later").subscribed(&["-q", "1", "-t", "dev/lamp/#"]).await;
    lamp.publishes("dev/lamp/tele/n", "live", &["-q", "1"]).await;
    assert_eq!(subscriber.line("a message", shown).await.payload, "live", "and nothing retained before it");
    hub.finish().await;
}

#[tokio::test]
async fn a_will_is_published_for_who_vanishes_and_not_for_who_says_goodbye() {
    let hub = Hub::start().await;
    let mut watching = Mosquitto::owner(&hub, "observer").subscribed(&["-q", "1", "-t", "dev/+/status"]).await;
    for (name, plain) in [("lamp", false), ("oven", true)] {
        let token = Keyed::enrolled(&hub, name, "thermostat").await.token(&hub).await;
        let client = Mosquitto::new(&hub, name, &token);
        let client = if plain { client.v311().plain() } else { client };
        let (topic, filter) = (format!("dev/{name}/status"), format!("dev/{name}/cmd/+"));
        let will = ["--will-topic", &topic, "--will-payload", "offline", "--will-qos", "1", "--will-retain"];

        client.publishes(&topic, "said goodbye", &[&["-q", "1"], &will[..]].concat()).await;
        assert_eq!(watching.line("a status", shown).await, message(1, false, &topic, "said goodbye"));
        client.publishes(&topic, "still no will", &["-q", "1"]).await;
        assert_eq!(watching.line("a status", shown).await, message(1, false, &topic, "still no will"));

        let will = [&will[..], &["-t", &filter]].concat();
        let mut rude = client.subscribed(&will).await;
        rude.signal(rustix::process::Signal::KILL);
        rude.ended().await;
        assert_eq!(watching.line("the will", shown).await, message(1, false, &topic, "offline"));
        let mut later = Mosquitto::owner(&hub, "later").subscribed(&["-q", "1", "-t", &topic]).await;
        assert_eq!(later.line("the retained will", shown).await, message(1, true, &topic, "offline"));
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_words_of_each_dialect() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let lamp = Mosquitto::new(&hub, "lamp", &token);
    let denied = lamp.publish(&["-q", "1", "-t", "dev/oven/state", "-m", "on"]).await;
    assert!(denied.err.contains("Not authorized"), "{denied:?}");
    for (lamp, code) in [(lamp.clone(), "135"), (lamp.clone().v311(), "128")] {
        let mut denied = lamp.subscribe(&["-q", "1", "-t", "dev/oven/#"]);
        denied.line("the refusal", |line| (line.starts_with("Subscribed") && line.ends_with(code)).then_some(())).await;
        denied.ended().await;
        assert!(denied.err().contains("All subscription requests were denied"), "{}", denied.err());
    }
    for (stranger, words) in [
        (Mosquitto::new(&hub, "lamp", "no token"), "Not authorized"),
        (Mosquitto::new(&hub, "lamp", "no token").v311(), "not authorised"),
        (Mosquitto::new(&hub, "oven", &token), "Client Identifier not valid"),
        (Mosquitto::new(&hub, "oven", &token).v311(), "identifier rejected"),
    ] {
        let refused = stranger.publish(&["-q", "1", "-t", "dev/lamp/state", "-m", "on"]).await;
        assert_ne!(refused.exit, 0, "{refused:?}");
        assert!(refused.text().contains(words), "{words}: {refused:?}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_device_without_a_key_gets_its_token_by_secret_and_speaks_its_own_scheme() {
    let hub = Hub::start().await;
    let secret = hub.add_with_secret("old-plug", "tasmota").await;
    let request = hub.http().post(hub.url("/oauth2/token")).basic_auth("old-plug", Some(&secret));
    let answer = request.form(&[("grant_type", "client_credentials")]).send().await.expect("an answer");
    let answer: serde_json::Value = answer.json().await.expect("JSON");
    let token = answer["access_token"].as_str().expect("a token");
    hub.remember_secret(token);
    let mut watch = Mosquitto::owner(&hub, "observer").subscribed(&["-t", "tele/#"]).await;
    let plug = Mosquitto::new(&hub, "old-plug", token).v311().plain();
    plug.publishes("tele/old-plug/STATE", r#"{"POWER":"ON"}"#, &["-q", "1"]).await;
    assert_eq!(watch.line("its state", shown).await.topic, "tele/old-plug/STATE");
    // Its secret itself is no password, and its neighbour's scheme is not its own.
    let refused = Mosquitto::new(&hub, "old-plug", &secret).publish(&["-t", "tele/old-plug/STATE", "-m", "x"]).await;
    assert_ne!(refused.exit, 0, "{refused:?}");
    let denied = Mosquitto::new(&hub, "old-plug", token).publish(&["-q", "1", "-t", "tele/other/STATE", "-m", "x"]).await;
    assert!(denied.err.contains("Not authorized"), "{denied:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_session_that_is_kept_gets_what_it_missed_even_if_the_hub_restarts_or_is_killed() {
    let mut hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    for (round, how) in ["running", "restarted", "killed"].into_iter().enumerate() {
        let token = lamp.token(&hub).await;
        for v311 in [false, true] {
            let keeper = Mosquitto::owner(&hub, &format!("keeper-{round}-{v311}"));
            let keeper = if v311 { keeper.v311() } else { keeper };
            let expiry: &[&str] = if v311 { &[] } else { &["-x", "3600"] };
            let kept = [&["-c", "-q", "1", "-t", "dev/lamp/tele/#"], expiry].concat();
            assert_eq!(keeper.subscribe(&[&["-E"], &kept[..]].concat()).ended().await, 0);
            let publisher = Mosquitto::new(&hub, "lamp", &token);
            publisher.publishes("dev/lamp/tele/n", "first", &["-q", "1"]).await;
            publisher.publishes("dev/lamp/tele/n", "second", &["-q", "1"]).await;
            match how {
                "restarted" => hub.restart().await,
                "killed" => {
                    hub.kill().await;
                    hub.start_again().await;
                }
                _ => {}
            }
            let mut resumed = keeper.subscribe(&kept);
            for payload in ["first", "second"] {
                let seen = resumed.line("what it missed", shown).await;
                assert_eq!(seen, message(1, false, "dev/lamp/tele/n", payload), "{how}, v311 {v311}");
            }
        }
    }
    hub.finish().await;
}

#[tokio::test]
async fn what_mqtt_5_adds_works_for_them_too() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    let lamp = Mosquitto::new(&hub, "lamp", &token);
    let owner = Mosquitto::owner(&hub, "owner");

    // Members of a shared subscription take turns; an alias stands for the topic after the first line.
    let shared = ["-q", "1", "-t", "$share/kitchen/dev/lamp/tele/#"];
    let mut members = [owner.clone().named("a").subscribed(&shared).await, owner.clone().named("b").subscribed(&shared).await];
    let aliased = ["-q", "1", "-t", "dev/lamp/tele/n", "-D", "publish", "topic-alias", "3", "-l"];
    let sent = lamp.publish_lines(&aliased, &["1", "2", "3", "4"]).await;
    assert_eq!((sent.exit, sent.err.as_str()), (0, ""), "{sent:?}");
    let mut seen = Vec::new();
    for _ in 0..2 {
        for member in &mut members {
            let Shown { topic, payload, .. } = member.line("its share", shown).await;
            assert_eq!(topic, "dev/lamp/tele/n");
            seen.push(payload);
        }
    }
    seen.sort();
    assert_eq!(seen, ["1", "2", "3", "4"]);

    // A delayed will waits for the end of the delay, or of the session.
    let will = ["--will-topic", "dev/lamp/status", "--will-payload", "offline", "--will-qos", "1"];
    let delayed = ["-c", "-x", "3600", "-D", "will", "will-delay-interval", "3600", "-t", "dev/lamp/cmd/+"];
    let mut watching = owner.clone().subscribed(&["-q", "1", "-t", "dev/lamp/status"]).await;
    let mut rude = lamp.subscribed(&[&will[..], &delayed].concat()).await;
    rude.signal(rustix::process::Signal::KILL);
    rude.ended().await;
    lamp.clone().publishes("dev/lamp/status", "clean", &["-q", "1"]).await;
    let mut statuses = [watching.line("a status", shown).await.payload, watching.line("a status", shown).await.payload];
    statuses.sort();
    assert_eq!(statuses, ["clean", "offline"], "the clean start of the second client ended the session of the first");

    // What is retained for an hour says so.
    lamp.publishes("dev/lamp/state", "on", &["-q", "1", "-r", "-D", "publish", "message-expiry-interval", "3600"]).await;
    let mut later = owner.named("later").subscribe(&["-q", "1", "-t", "dev/lamp/state", "-F", "expires %E"]);
    let seconds = later.line("how long it lasts", |line| line.strip_prefix("expires ")?.parse::<u32>().ok()).await;
    assert!((1..=3600).contains(&seconds), "{seconds}");
    hub.finish().await;
}

#[tokio::test]
async fn mosquitto_rr_gets_its_answer_at_the_response_topic_that_it_named() {
    let hub = Hub::start().await;
    hub.apply_profile(TALKER).await;
    let asks = Keyed::enrolled(&hub, "asks", "talker").await.token(&hub).await;
    let answers = Keyed::enrolled(&hub, "answers", "talker").await.token(&hub).await;
    let answers = Mosquitto::new(&hub, "answers", &answers);
    let listens = ["-q", "1", "-t", "rpc/answers/requests", "-F", "asked %R %D"];
    let mut listening = answers.clone().named("answers/ear").subscribed(&listens).await;
    let mut asking = Mosquitto::new(&hub, "asks", &asks).request(&[
        "-q",
        "1",
        "-t",
        "rpc/answers/requests",
        "-e",
        "rpc/asks/answers",
        "-m",
        "the time?",
        "-D",
        "publish",
        "correlation-data",
        "7",
    ]);
    let asked = |line: &str| line.strip_prefix("asked ").map(str::to_owned);
    assert_eq!(listening.line("the request", asked).await, "rpc/asks/answers 7");
    answers.publishes("rpc/asks/answers", "late", &["-q", "1", "-D", "publish", "correlation-data", "7"]).await;
    assert_eq!(asking.line("the answer", |line| (line == "late").then_some(line.len())).await, 4);
    assert_eq!(asking.ended().await, 0);
    hub.finish().await;
}
