//! Event streams: what they tell, and when they end.

use crate::home::Home;
use hearthkey::mqtt::message::{Message, QoS};
use hearthkey_core::{registry::ManageOwnCredentials, rights::PublishPermit, topic::TopicName};
use reqwest::Response;
use serde_json::{Value, json};

/// Reads an event stream.
pub(crate) struct Events {
    response: Response,
    text: String,
}

impl Events {
    pub(crate) async fn of(home: &Home, path: &str) -> Self {
        let response =
            home.get(path).bearer_auth(&home.owner).header("accept", "text/event-stream").send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(crate::home::header(&response, "content-type"), "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event and its data; none at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
                if let (Some(name), Some(data)) = (field("event:"), field("data:")) {
                    return Some((name, serde_json::from_str(&data).expect("JSON")));
                }
                continue;
            }
            let chunk = self.response.chunk().await.ok().flatten()?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}

#[tokio::test]
async fn the_tail_of_the_audit_log_shows_what_was_and_what_comes() {
    let home = Home::open().await;
    home.add("lamp", "thermostat", false).await;
    let mut tail = Events::of(&home, "/api/v1/audit/tail?last=1").await;
    let (name, record) = tail.next().await.expect("an event");
    assert_eq!((name.as_str(), record["action"].as_str()), ("record", Some("device.add")));
    home.add("oven", "thermostat", false).await;
    let (_, record) = tail.next().await.expect("an event");
    assert_eq!((record["action"].as_str(), record["target"].as_str()), (Some("device.add"), Some("device oven")));
}

#[tokio::test]
async fn a_stream_ends_when_the_hub_stops_and_says_so() {
    let home = Home::open().await;
    let mut tail = Events::of(&home, "/api/v1/audit/tail").await;
    home.stop.send(true).expect("the server listens");
    let (name, end) = tail.next().await.expect("an event");
    assert_eq!((name.as_str(), end["reason"].as_str()), ("end", Some("hub stopping; try again shortly")));
    assert_eq!(tail.next().await, None);
    home.server.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn nobody_opens_streams_without_bound() {
    let home = Home::open().await;
    let mut open = Vec::new();
    for _ in 0..hearthkey::http::limits::MAX_STREAMS_PER_PRINCIPAL {
        open.push(Events::of(&home, "/api/v1/audit/tail").await);
    }
    let refused = home.get("/api/v1/audit/tail").bearer_auth(&home.owner).send().await.expect("an answer");
    assert_eq!(refused.status(), 429);
    assert_eq!(home.get("/api/v1/status").bearer_auth(&home.owner).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_stream_ends_with_its_credential() {
    let home = Home::open().await;
    let mut tail = Events::of(&home, "/api/v1/audit/tail").await;
    let id = home.owner.split('_').nth(2).expect("the public id").to_owned();
    let authority = home.hub.admit(&home.owner).expect("the owner").0;
    let context = home.hub.context(None, "");
    let revoked = home.hub.decide(|registry| {
        let permit = registry.permit_user::<ManageOwnCredentials>(&authority, context.now).expect("the owner may");
        registry.revoke_credential(&permit, &id, &context)
    });
    revoked.await.expect("revoked");
    let (name, end) = tail.next().await.expect("an event");
    assert_eq!((name.as_str(), end["reason"].as_str()), ("end", Some("revoked by the owner")));
    assert_eq!(tail.next().await, None);
    assert_eq!(home.get("/api/v1/status").bearer_auth(&home.owner).send().await.expect("an answer").status(), 401);
}

#[tokio::test]
async fn a_waiting_request_is_answered_when_the_hub_stops() {
    let home = Home::open().await;
    home.enrolled("lamp").await;
    let sent = home.post("/api/v1/devices/lamp/commands/identify").bearer_auth(&home.owner).send().await.expect("an answer");
    let command: Value = sent.json().await.expect("JSON");
    let path = format!("/api/v1/devices/lamp/commands/{}?wait_s=60", command["id"].as_str().expect("an id"));
    let waiting = home.get(&path).bearer_auth(&home.owner).send();
    let stopping = async {
        // Answered later than the waiting request was read, on the same connection.
        home.get("/healthz").send().await.expect("an answer");
        home.stop.send(true).expect("the server listens");
    };
    let (answer, ()) = tokio::join!(waiting, stopping);
    assert_eq!(answer.expect("an answer").status(), 503);
    home.server.await.expect("no panic").expect("no error");
}

async fn publish(home: &Home, topic: &str, message: Message) {
    let topic = TopicName::parse(topic).expect("legal");
    home.front.publish(PublishPermit::for_hub(topic), message).await.expect("published");
}

#[tokio::test]
async fn who_watches_sees_what_was_kept_and_what_comes() {
    let home = Home::open().await;
    publish(&home, "dev/lamp/state", Message::at_least_once(r#"{"on":true}"#).retained()).await;
    let mut watch = Events::of(&home, "/api/v1/watch?filter=dev%2Flamp%2F%23").await;
    let (name, message) = watch.next().await.expect("an event");
    assert_eq!((name.as_str(), &message["topic"], &message["retain"]), ("message", &json!("dev/lamp/state"), &json!(true)));
    assert_eq!((&message["payload"], &message["qos"]), (&json!(r#"{"on":true}"#), &json!(1)));
    publish(&home, "dev/oven/tele/x", Message::at_least_once("not asked for")).await;
    publish(&home, "dev/lamp/tele/x", Message::at_least_once(vec![0xff, 0xfe])).await;
    let (_, message) = watch.next().await.expect("an event");
    assert_eq!((&message["topic"], &message["payload_base64"]), (&json!("dev/lamp/tele/x"), &json!("//4=")));
    assert!(message.get("payload").is_none() && message["time"].as_u64().is_some());
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_what_was_lost() {
    let home = Home::open().await;
    let mut watch = Events::of(&home, "/api/v1/watch").await;
    for _ in 0..24_000 {
        publish(&home, "dev/lamp/tele/x", Message { qos: QoS::AtMostOnce, ..Message::at_least_once(vec![b'x'; 1_024]) }).await;
    }
    let mut seen = 0;
    loop {
        let (name, event) = watch.next().await.expect("an event");
        if name == "lost" {
            assert!(event["count"].as_u64().expect("a count") > 0);
            break;
        }
        seen += 1;
        assert!(seen < 24_000, "all of 24 MB was kept for one reader");
    }
}

#[tokio::test]
async fn a_watch_is_refused_for_what_is_no_filter() {
    let home = Home::open().await;
    for filter in ["", "a%2F%23%2Fb", "%23a", "a%00"] {
        let answer =
            home.get(&format!("/api/v1/watch?filter={filter}")).bearer_auth(&home.owner).send().await.expect("an answer");
        assert_eq!(answer.status(), 422, "{filter}");
    }
}
