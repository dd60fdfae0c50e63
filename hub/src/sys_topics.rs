//! `$SYS/broker/…`: how the MQTT front stands, for programs that know brokers by these topics. Owners alone may subscribe;
//! `/metrics` says more. Retained in memory only: a restart says it anew.

use crate::mqtt::{Front, Gate, Stats, fabric::Fabric, message::Message};
use hearthkey_core::{rights::PublishPermit, topic::TopicName};
use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

/// How often what has changed is published.
const EVERY: Duration = Duration::from_secs(10);

/// Publishes at once and then again and again, until `stop`.
pub async fn publish<G: Gate, F: Fabric>(front: Front<G, F>, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    let started = Instant::now();
    let mut tick = tokio::time::interval(EVERY);
    let mut told: HashMap<&'static str, String> = HashMap::new();
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = tick.tick() => {}
        }
        for (name, value) in figures(&front.stats(), started.elapsed()) {
            if told.get(name) == Some(&value) {
                continue;
            }
            let Ok(topic) = TopicName::parse(&format!("$SYS/broker/{name}")) else { continue };
            let message = Message { payload: value.clone().into(), retain: true, ..Message::default() };
            match front.publish(PublishPermit::for_hub(topic), message).await {
                Ok(()) => drop(told.insert(name, value)),
                Err(error) => tracing::debug!(%error, name, "not published"),
            }
        }
    }
}

/// What is said, under the names that mosquitto gave it.
fn figures(now: &Stats, uptime: Duration) -> [(&'static str, String); 11] {
    [
        ("version", format!("hearthkey {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{} seconds", uptime.as_secs())),
        ("clients/connected", now.connections.to_string()),
        ("clients/disconnected", now.sessions.saturating_sub(now.connections).to_string()),
        ("clients/total", now.sessions.to_string()),
        ("messages/received", now.published.to_string()),
        ("messages/sent", now.delivered.to_string()),
        ("messages/stored", now.queued_messages.to_string()),
        ("publish/messages/dropped", now.lost.to_string()),
        ("retained messages/count", now.retained_messages.to_string()),
        ("subscriptions/count", now.subscriptions.to_string()),
    ]
}
