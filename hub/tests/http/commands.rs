//! Commands over HTTP: their steps as they happen, and an answer that waits for the end.

use crate::{
    home::{Home, header},
    streams::Events,
};
use hearthkey_core::DeviceId;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

const COMMANDS: &str = "/api/v1/devices/lamp/commands";

async fn home_with_lamp() -> Home {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp").await;
    assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), StatusCode::OK);
    home
}

fn identify(home: &Home) -> RequestBuilder {
    home.post(&format!("{COMMANDS}/identify")).bearer_auth(&home.owner)
}

async fn sent(home: &Home) -> String {
    let answer = identify(home).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let command: Value = answer.json().await.expect("JSON");
    command["id"].as_str().expect("an id").to_owned()
}

/// The device's answer.
async fn answers(home: &Home, id: &str, state: &str) {
    let payload = json!({"state": state, "reason": if state == "failed" { "stuck" } else { "" }}).to_string();
    let lamp = DeviceId::parse("lamp").expect("legal");
    home.hub.acknowledge_command(&lamp, &lamp, id, payload.as_bytes()).await;
}

async fn state_of(events: &mut Events) -> (String, Value) {
    let (name, command) = events.next().await.expect("a state");
    assert_eq!(name, "state");
    (command["state"].as_str().expect("a word").to_owned(), command)
}

#[tokio::test]
async fn each_step_of_a_command_is_told_as_it_happens_and_once_more_to_who_comes_late() {
    let home = home_with_lamp().await;
    let id = sent(&home).await;
    let path = format!("{COMMANDS}/{id}");
    let mut live = Events::of(&home, &path).await;
    assert_eq!(state_of(&mut live).await.0, "sent");
    for state in ["accepted", "executing", "failed"] {
        answers(&home, &id, state).await;
        let (told, command) = state_of(&mut live).await;
        assert_eq!(
            (told.as_str(), command["reason"].as_str().unwrap_or("")),
            (state, if state == "failed" { "stuck" } else { "" })
        );
    }
    assert_eq!(live.next().await, None, "nothing follows the end");
    // A second end is none.
    answers(&home, &id, "succeeded").await;
    let mut late = Events::of(&home, &path).await;
    for state in ["sent", "accepted", "executing", "failed"] {
        assert_eq!(state_of(&mut late).await.0, state);
    }
    assert_eq!(late.next().await, None);
    let kept: Value = home.get(&path).bearer_auth(&home.owner).send().await.expect("an answer").json().await.expect("JSON");
    let history: Vec<&str> =
        kept["history"].as_array().expect("steps").iter().filter_map(|step| step["state"].as_str()).collect();
    assert_eq!(history, ["sent", "accepted", "executing", "failed"]);
}

#[tokio::test]
async fn who_prefers_to_wait_gets_the_end_with_the_answer() {
    let home = home_with_lamp().await;
    let waiting = identify(&home).header("prefer", "respond-async, wait=30").send();
    let device = async {
        let mut changes = home.hub.command_changes();
        let lamp = DeviceId::parse("lamp").expect("legal");
        let id = loop {
            changes.borrow_and_update();
            if let Some(id) = home.hub.view(|registry| registry.commands_of(&lamp).next().map(|command| command.id.clone())) {
                break id;
            }
            changes.changed().await.expect("the hub goes on");
        };
        answers(&home, &id, "succeeded").await;
    };
    let (answer, ()) = tokio::join!(waiting, device);
    let answer = answer.expect("an answer");
    assert_eq!((answer.status(), header(&answer, "preference-applied")), (StatusCode::OK, "wait=30"));
    assert_eq!(answer.json::<Value>().await.expect("JSON")["state"], "succeeded");
    let impatient = identify(&home).header("prefer", "wait=0").send().await.expect("an answer");
    assert_eq!(impatient.status(), StatusCode::ACCEPTED);
    assert_eq!(impatient.json::<Value>().await.expect("JSON")["state"], "sent");
}

#[tokio::test]
async fn a_command_that_is_not_there_has_no_steps() {
    let home = home_with_lamp().await;
    let path = format!("{COMMANDS}/c-0123456789abcdef");
    let answer = home.get(&path).bearer_auth(&home.owner).header("accept", "text/event-stream").send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&answer, "content-type"), "application/problem+json");
}
