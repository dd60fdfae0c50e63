//! A command: on record first, published then, and the hub dies between the two.

use std::cell::Cell;

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::wire::{Connect, Wire, publish, subscribe};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::kills::{Found, STORE_WRITES, at_each_write, done, posted, seen};

/// How often it is tried to kill the hub between a command's record and its publish.
const MOST_TRIES: u32 = 10;

/// A device that listens for commands and reads none of them before the hub has died.
struct Listener {
    id: String,
    connect: Connect,
    connection: Mutex<Wire<TcpStream>>,
}

impl Listener {
    async fn prepared(hub: &Hub, id: &str, is_kept: bool) -> Self {
        let token = Keyed::enrolled(hub, id, "thermostat").await.token(hub).await;
        let connect = Connect { is_kept, ..Connect::by_password(id, &token) };
        let mut connection = Wire::plain(hub).await;
        assert_eq!(connection.connect(&connect).await.connack_code(), 0);
        subscribed(&mut connection, id).await;
        Self { id: id.to_owned(), connect, connection: Mutex::new(connection) }
    }

    /// Comes back to its session, or with another one.
    async fn returned(&self, hub: &Hub) -> Wire<TcpStream> {
        let mut connection = Wire::plain(hub).await;
        let connack = connection.connect(&self.connect).await;
        assert_eq!((connack.connack_code(), connack.body[0] == 1), (0, self.connect.is_kept), "{connack:?}");
        if !self.connect.is_kept {
            subscribed(&mut connection, &self.id).await;
        }
        connection
    }

    fn commands(&self) -> String {
        format!("/api/v1/devices/{}/commands", self.id)
    }
}

async fn subscribed(connection: &mut Wire<TcpStream>, id: &str) {
    connection.send(&subscribe(5, &format!("dev/{id}/cmd/+"))).await;
    assert_eq!(connection.receive().await.expect("an answer").first, 0x90);
}

/// All that came until the hub answers a PINGREQ.
async fn until_pong(connection: &mut Wire<TcpStream>) -> Vec<u8> {
    connection.send(&[0xc0, 0]).await;
    let mut came = Vec::new();
    loop {
        match connection.receive().await.expect("an answer").first {
            0xd0 => return came,
            other => came.push(other),
        }
    }
}

fn is_publish(first: u8) -> bool {
    first >> 4 == 3
}

/// Takes the one command that waits and carries it out.
async fn carry_out(connection: &mut Wire<TcpStream>, device: &str) {
    let command = connection.receive().await.expect("the command");
    assert!(is_publish(command.first), "{command:?}");
    let topic_length = usize::from(u16::from_be_bytes([command.body[0], command.body[1]]));
    let [high, low] = [command.body[2 + topic_length], command.body[3 + topic_length]];
    let payload = command.body.iter().position(|&byte| byte == b'{').expect("JSON");
    let body: Value = serde_json::from_slice(&command.body[payload..]).expect("JSON");
    connection.send(&[0x40, 2, high, low]).await;
    let answer = format!("dev/{device}/ack/{}", body["id"].as_str().expect("an id"));
    connection.send(&publish(5, &answer, br#"{"state":"succeeded"}"#, 7)).await;
    assert_eq!(connection.receive().await.expect("an answer").first, 0x40);
    assert!(until_pong(connection).await.is_empty(), "nothing comes besides");
}

async fn a_command_is_sent_or_not(is_kept: bool) {
    let mut hub = Hub::start().await;
    let died_between = Cell::new(0);
    let send = async |hub: &Hub, lamp: &Listener| {
        done(hub, Method::POST, &format!("{}/identify", lamp.commands()), Some(json!({}))).await
    };
    let prepare = async |hub: &Hub, id: &str| Listener::prepared(hub, id, is_kept).await;
    let verify = async |hub: &Hub, lamp: &Listener, found: &Found<Value>| {
        let all = async || seen(hub, &lamp.commands()).await["items"].as_array().expect("commands").clone();
        let came = lamp.connection.lock().await.until_closed().await;
        let was_published = came.windows(5).any(|bytes| bytes == b"/cmd/");
        let is_recorded = !all().await.is_empty();
        assert!(is_recorded || found.acknowledged.is_none() && !was_published, "{}", found.at);
        if !is_recorded {
            posted(hub, &format!("{}/identify", lamp.commands()), json!({})).await;
        }
        died_between.set(died_between.get() + u32::from(is_recorded && !was_published));

        carry_out(&mut lamp.returned(hub).await, &lamp.id).await;
        let again = until_pong(&mut lamp.returned(hub).await).await;
        assert!(!again.into_iter().any(is_publish), "{}", found.at);
        let [command] = &all().await[..] else { panic!("{}: {:?}", found.at, all().await) };
        assert_eq!(command["state"], "succeeded", "{}", found.at);
        let states: Vec<_> = command["history"].as_array().expect("steps").iter().map(|step| &step["state"]).collect();
        assert_eq!(states, ["sent", "succeeded"], "{}", found.at);
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, send, verify).await;
    // Once more if something else was written just then, each time: before it is on the disk for good it is not published.
    for _ in 0..MOST_TRIES {
        if died_between.get() > 0 {
            break;
        }
        at_each_write(&mut hub, &STORE_WRITES[1..], prepare, send, verify).await;
    }
    assert!(died_between.get() > 0, "no command was on record when the hub died before it published it");
    hub.finish().await;
}

#[tokio::test]
async fn a_command_to_a_session_that_is_kept_is_sent_or_not_and_carried_out_once() {
    a_command_is_sent_or_not(true).await;
}

#[tokio::test]
async fn a_command_to_a_session_that_ends_with_the_hub_is_sent_or_not_and_carried_out_once() {
    a_command_is_sent_or_not(false).await;
}
