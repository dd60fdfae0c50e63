//! What devices publish, as it is published.

use super::{Problem, forbidden};
use crate::{
    http::{
        Http,
        extract::{Caller, QueryOf, ended},
        streams::{Events, StreamEnd},
    },
    mqtt::{
        fabric::Link,
        message::Routed,
        watch::{Watch, WatchError, Watched},
    },
};
use axum::{extract::State, response::Response};
use base64ct::{Base64, Encoding};
use hearthkey_core::{
    UnixTime,
    registry::ReadTelemetry,
    topic::{SubscriptionFilter, TopicFilter},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchQuery {
    #[serde(default = "all_devices")]
    filter: String,
}

fn all_devices() -> String {
    "dev/#".to_owned()
}

#[derive(Serialize)]
struct Message<'a> {
    topic: &'a str,
    #[serde(flatten)]
    payload: Payload<'a>,
    qos: u8,
    retain: bool,
    time: UnixTime,
}

#[derive(Serialize)]
enum Payload<'a> {
    #[serde(rename = "payload")]
    Text(&'a str),
    #[serde(rename = "payload_base64")]
    Bytes(String),
}

#[derive(Serialize)]
struct Lost {
    count: u64,
}

/// `GET /watch`.
pub(super) async fn watch(
    State(http): State<Arc<Http>>,
    caller: Caller,
    QueryOf(WatchQuery { filter }): QueryOf<WatchQuery>,
) -> Result<Response, Problem> {
    caller.may::<ReadTelemetry>(&http)?;
    let filter =
        TopicFilter::parse(&filter).map_err(|why| Problem::unprocessable(format!("the filter is no topic filter: {why}")))?;
    let subscription = SubscriptionFilter { share_name: None, filter };
    let front = http.surroundings.front.as_ref().ok_or_else(|| Problem::unavailable("this hub has no MQTT front"))?;
    let rights = http.hub.judge(&caller.authority).map_err(ended)?.rights;
    let watch = front.watch(subscription.clone(), rights).await.map_err(|error| match error {
        WatchError::Denied(denied) => forbidden(denied, "filter_denied"),
        WatchError::Fabric(gone) => Problem::unavailable(gone.to_string()),
    })?;
    Events::<ReadTelemetry>::stream(&http, caller, |events| follow(events, watch, subscription))
}

async fn follow<L: Link>(mut events: Events<ReadTelemetry>, mut watch: Watch<L>, subscription: SubscriptionFilter) {
    // What changed while the subscription was made was told to nobody.
    let mut going_on = look_again(&mut events, &mut watch, &subscription);
    let end = loop {
        match going_on {
            Ok(()) => going_on = step(&mut events, &mut watch, &subscription).await,
            Err(end) => break end,
        }
    };
    events.end(&end);
}

async fn step<L: Link>(
    events: &mut Events<ReadTelemetry>,
    watch: &mut Watch<L>,
    subscription: &SubscriptionFilter,
) -> Result<(), StreamEnd> {
    match events.wait(watch.next()).await? {
        Some(Some(Watched::Message(routed))) => tell(events, &routed, routed.message.retain).await,
        Some(Some(Watched::Retained(routed))) => tell(events, &routed, true).await,
        Some(Some(Watched::Lost(count))) => events.send("lost", &Lost { count }).await,
        Some(None) => Err(StreamEnd::Broken("interrupted; watch again")),
        // Something changed in the hub: perhaps what the caller may see.
        None => look_again(events, watch, subscription),
    }
}

fn look_again<L: Link>(
    events: &mut Events<ReadTelemetry>,
    watch: &mut Watch<L>,
    subscription: &SubscriptionFilter,
) -> Result<(), StreamEnd> {
    let rights = events.rights()?;
    rights.authorize_subscribe(subscription.clone()).map_err(|denied| StreamEnd::NotAllowed(denied.to_string()))?;
    watch.replace_rights(rights);
    Ok(())
}

async fn tell(events: &mut Events<ReadTelemetry>, routed: &Routed, retain: bool) -> Result<(), StreamEnd> {
    let payload = match std::str::from_utf8(&routed.message.payload) {
        Ok(text) => Payload::Text(text),
        Err(_) => Payload::Bytes(Base64::encode_string(&routed.message.payload)),
    };
    let (topic, qos, time) = (routed.topic.as_str(), routed.message.qos as u8, events.http().hub.now());
    events.send("message", &Message { topic, payload, qos, retain, time }).await
}
