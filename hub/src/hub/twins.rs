//! Twins at work: what is desired is published, retained, after it is durable; what is reported is kept.

use super::{Hub, NotDecided};
use crate::mqtt::message::Message;
use hearthkey_core::{
    DeviceId,
    registry::{DesiredTwin, Registry},
    rights::PublishPermit,
    topic::{TopicFilter, TopicName},
};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

/// How often it is looked whether something could not be published.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(60);

impl Hub {
    /// Publishes each desired twin whenever it differs from what is retained, and removes what is retained of those that are no
    /// more: after a change, after a restart, and once there is room again. Ends with the hub.
    pub async fn publish_twins(hub: Weak<Self>) {
        let Some(mut changes) = hub.upgrade().map(|hub| hub.seen.twins.subscribe()) else { return };
        let mut published_by_device = HashMap::new();
        loop {
            changes.borrow_and_update();
            let Some(running) = hub.upgrade() else { return };
            running.publish_changed_twins(&mut published_by_device).await;
            drop(running);
            if let Ok(Err(_)) = tokio::time::timeout(LOOK_AGAIN_EVERY, changes.changed()).await {
                return;
            }
        }
    }

    async fn publish_changed_twins(self: &Arc<Self>, published_by_device: &mut HashMap<DeviceId, u64>) {
        let Some(outlet) = self.seen.outlet() else { return };
        let changed: Vec<(DeviceId, DesiredTwin)> = self.view(|registry| {
            let differs = |(device, desired): &(&DeviceId, &DesiredTwin)| published_by_device.get(*device) != Some(&desired.v);
            registry.desired_twins().filter(differs).map(|(device, desired)| (device.clone(), desired.clone())).collect()
        });
        published_by_device.retain(|device, _| self.view(|registry| registry.twin(device).desired.is_some()));
        let all = TopicFilter::parse("dev/+/twin/desired").expect("a legal filter");
        for topic in outlet.retained_topics(&all) {
            let device = topic.as_str().split('/').nth(1).and_then(|device| DeviceId::parse(device).ok());
            if device.is_some_and(|device| self.view(|registry| registry.twin(&device).desired.is_none()))
                && let Err(why) = outlet.publish(PublishPermit::for_hub(topic), Message::at_least_once("").retained()).await
            {
                tracing::warn!(why, "the desired twin of a device that is no more is still retained");
            }
        }
        for (device, desired) in changed {
            let topic = desired_topic(&device);
            let payload = desired.payload();
            if outlet.retained(&topic).is_none_or(|retained| retained != payload) {
                let message = Message { retain: true, ..Message::at_least_once(payload) };
                if let Err(why) = outlet.publish(PublishPermit::for_hub(topic), message).await {
                    tracing::warn!(%device, why, "a desired twin is not published yet");
                    continue;
                }
            }
            published_by_device.insert(device, desired.v);
        }
    }

    /// Keeps what a device says it is; what does not parse is dropped. False if it could not be kept.
    pub async fn report_twin(&self, device: &DeviceId, payload: &[u8]) -> bool {
        let context = self.context(None, "");
        let decision = |registry: &Registry| registry.report_twin(device, payload, &context).ok_or(());
        match self.decide(decision).await {
            Ok(()) => true,
            Err(NotDecided::Refused(())) => {
                tracing::debug!(%device, "a reported twin says nothing that is to be kept");
                true
            }
            Err(NotDecided::Unavailable(why)) => {
                tracing::error!(%device, why, "a reported twin is not kept");
                false
            }
        }
    }
}

fn desired_topic(device: &DeviceId) -> TopicName {
    TopicName::parse(&format!("dev/{device}/twin/desired")).expect("an id is a legal level")
}
