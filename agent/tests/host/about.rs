//! What a device tells its owner of itself, in `dev/<id>/about`: at each connection, and within it when something changed.

use crate::support::hub::{Call, Home, Hub, LIFETIME, Lamp, token_response};
use crate::support::mqtt::{self, FromClient};
use hearthkey_agent::{Qos, Turn};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// A hub that answers everything, and what it heard.
struct Answering {
    call: Call,
    since: Instant,
    /// How it answers the two subscriptions, and each publish but of the agent's own.
    subscriptions: [u8; 2],
    publishes: Vec<u8>,
    /// Each `about`: seconds since the first, whether it is to be acknowledged, what it says of the agent.
    told: Vec<(u64, bool, serde_json::Value)>,
    /// Publishes of the application.
    published: usize,
}

impl Answering {
    async fn new(hub: &mut Hub, subscriptions: [u8; 2], publishes: &[u8]) -> Self {
        let publishes = publishes.to_vec();
        Self { call: hub.admit().await, since: Instant::now(), subscriptions, publishes, told: vec![], published: 0 }
    }

    /// Answers the next packet.
    async fn answer(&mut self, hub: &Hub) {
        match self.call.packet().await {
            FromClient::Subscribe { packet_id, .. } => self.call.send(&mqtt::suback(packet_id, &self.subscriptions)).await,
            FromClient::Publish { topic, payload, packet_id, retain, .. } => {
                let mut reason = 0;
                if topic == "dev/lamp/about" {
                    assert!(retain);
                    let about: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
                    assert_eq!(about["model"], "lamp");
                    self.told.push((self.since.elapsed().as_secs(), packet_id.is_some(), about["agent"].clone()));
                } else if topic.contains("/tele/") {
                    reason = self.publishes[self.published % self.publishes.len()];
                    self.published += 1;
                }
                if let Some(packet_id) = packet_id {
                    self.call.send(&mqtt::puback(packet_id, reason, "")).await;
                }
            }
            FromClient::Auth { reason: 0x19, .. } => {
                self.call.send(&mqtt::auth(0, &token_response(LIFETIME), Some(hub.date()))).await;
            }
            FromClient::PubAck { .. } => {}
            FromClient::PingReq => self.call.send(&mqtt::PINGRESP).await,
            other => panic!("{other:?}"),
        }
    }

    /// The next `about`: what is told of state and last error, and how many seconds after the one before.
    async fn about(&mut self, hub: &Hub) -> (u64, String, String) {
        let (before, known) = (self.told.last().map_or(0, |told| told.0), self.told.len());
        while self.told.len() == known {
            self.answer(hub).await;
        }
        let (at, is_acknowledged, agent) = self.told[known].clone();
        assert_eq!(is_acknowledged, known == 0, "only the first one takes a place in the queue");
        let text = |name: &str| agent[name].as_str().unwrap_or_default().to_owned();
        (at - before, text("state"), text("last_error"))
    }

    async fn answer_for(&mut self, hub: &Hub, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while tokio::time::timeout_at(end, self.answer(hub)).await.is_ok() {}
    }
}

fn said(seconds: u64, state: &str, last_error: &str) -> (u64, String, String) {
    (seconds, state.to_owned(), last_error.to_owned())
}

/// A lamp that publishes every so many seconds, and how often there was no room for it.
fn lamp(every: Duration) -> (Lamp, Rc<Cell<usize>>) {
    let crowded_out = Rc::new(Cell::new(0));
    let (mut due, crowded) = (None, crowded_out.clone());
    let poll = move |now: hearthkey_agent::Now, outbox: &mut hearthkey_agent::Outbox<'_>| {
        let at = *due.get_or_insert(now.instant.after(every));
        if outbox.is_online() && now.instant >= at {
            crowded.set(crowded.get() + usize::from(outbox.telemetry("on", b"1", Qos::AtLeastOnce).is_err()));
            due = Some(at.after(every));
        }
        Turn::At(due.unwrap_or(at))
    };
    (Lamp { poll: Box::new(poll), ..Lamp::default() }, crowded_out)
}

/// A minute, and what may pass then until a lamp that has nothing to say is awake for a ping: three quarters of its keep alive.
const NEXT_WAKE: std::ops::RangeInclusive<u64> = 60..=60 + 45;
const NEVER: Duration = Duration::from_secs(1_000_000);

#[tokio::test(start_paused = true)]
async fn an_owner_reads_of_refused_subscriptions_and_of_the_token_that_brings_them() {
    let mut home = Home::new(60).await;
    let script = async |hub: &mut Hub| {
        let mut owner = Answering::new(hub, [0x87, 1], &[0]).await;
        assert_eq!(owner.about(hub).await, said(0, "online", ""));
        let (later, state, last_error) = owner.about(hub).await;
        assert!(NEXT_WAKE.contains(&later), "{later}");
        assert_eq!((state.as_str(), last_error.as_str()), ("restricted", "subscribe-refused 0x87"));
        owner.subscriptions = [1, 1];
        let (later, state, last_error) = owner.about(hub).await;
        assert!((60..LIFETIME).contains(&later), "{later}");
        assert_eq!((state.as_str(), last_error.as_str()), ("online", "subscribe-refused 0x87"));
        owner.answer_for(hub, 1_000).await;
        assert_eq!(owner.told.len(), 3, "no news, no about: {:?}", owner.told);
    };
    home.run(lamp(NEVER).0, script).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_reads_of_storage_that_fails_and_of_its_recovery() {
    let mut home = Home::new(61).await;
    let is_broken = home.platform.is_broken.clone();
    let script = async |hub: &mut Hub| {
        let mut owner = Answering::new(hub, [1, 1], &[0]).await;
        assert_eq!(owner.about(hub).await, said(0, "online", ""));
        owner.answer_for(hub, 100).await;
        for (sequence, state) in [(1, "storage-failed"), (2, "online")] {
            is_broken.set(sequence == 1);
            let body = format!(r#"{{"id":"c-{sequence}","seq":{sequence},"ttl_s":30}}"#);
            owner.call.send(&mqtt::publish("dev/lamp/cmd/set", &body, sequence, false, Some(30))).await;
            let (seconds, ..) = owner.about(hub).await;
            // At once, since the last time is long ago; then not before its minute.
            assert!(if sequence == 1 { seconds == 100 } else { NEXT_WAKE.contains(&seconds) }, "{seconds}");
            let (_, _, agent) = owner.told.last().expect("told");
            assert_eq!((&agent["state"], &agent["last_error"]), (&state.into(), &"storage-failed".into()));
        }
    };
    home.run(lamp(NEVER).0, script).await;
}

#[tokio::test(start_paused = true)]
async fn what_ended_the_last_connection_is_told_once_in_the_next() {
    let mut home = Home::new(62).await;
    let script = async |hub: &mut Hub| {
        hub.let_in().await.send(&mqtt::disconnect(0x8b, "hub stopping")).await;
        let mut owner = Answering::new(hub, [1, 1], &[0]).await;
        assert_eq!(owner.about(hub).await, said(0, "online", "disconnected 0x8B"));
        owner.answer_for(hub, 1_000).await;
        assert_eq!(owner.told.len(), 1, "{:?}", owner.told);
    };
    home.run(lamp(NEVER).0, script).await;
}

/// A hub that refuses each publish for another reason makes as much news as can be made.
#[tokio::test(start_paused = true)]
async fn however_much_news_there_is_a_minute_hears_one_about() {
    let mut home = Home::new(63).await;
    let (lamp, crowded_out) = lamp(Duration::from_secs(1));
    let script = async |hub: &mut Hub| {
        let mut owner = Answering::new(hub, [1, 1], &[0x87, 0x97]).await;
        owner.answer_for(hub, 600).await;
        let seconds: Vec<u64> = owner.told.iter().map(|told| told.0).collect();
        assert_eq!(seconds, [0, 60, 120, 180, 240, 300, 360, 420, 480, 540]);
        assert!(owner.published > 590, "{}", owner.published);
    };
    home.run(lamp, script).await;
    assert_eq!(crowded_out.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_about_waits_as_long_as_anything_else_is_queued() {
    let mut home = Home::new(64).await;
    let (lamp, crowded_out) = lamp(Duration::from_secs(20));
    let script = async |hub: &mut Hub| {
        let mut call = hub.admit().await;
        let mut unacknowledged = vec![];
        let end = Instant::now() + Duration::from_secs(70);
        while let Ok(packet) = tokio::time::timeout_at(end, call.packet()).await {
            match packet {
                FromClient::Subscribe { packet_id, .. } => call.send(&mqtt::suback(packet_id, &[1, 0x87])).await,
                FromClient::Publish { topic, packet_id: Some(packet_id), .. } if topic.contains("/tele/") => {
                    unacknowledged.push(packet_id);
                }
                FromClient::Publish { topic, packet_id: None, .. } => panic!("{topic} in spite of {unacknowledged:?}"),
                FromClient::Publish { packet_id: Some(packet_id), .. } => call.send(&mqtt::puback(packet_id, 0, "")).await,
                FromClient::PingReq => call.send(&mqtt::PINGRESP).await,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(unacknowledged.len(), 3, "all that an application may queue");
        for packet_id in unacknowledged.drain(..) {
            call.send(&mqtt::puback(packet_id, 0, "")).await;
        }
        let told = tokio::time::timeout(Duration::from_secs(1), call.packet()).await.expect("at once");
        assert!(matches!(&told, FromClient::Publish { topic, packet_id: None, .. } if topic == "dev/lamp/about"), "{told:?}");
    };
    home.run(lamp, script).await;
    assert_eq!(crowded_out.get(), 0);
}
