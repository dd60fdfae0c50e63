//! Devices let in. What is left of an earlier one of the name goes first: whoever gets the name is another device.

use super::{Hub, NotDecided, Outlet, Refusal};
use crate::mqtt::message::Message;
use hearthkey_core::{
    DeviceId,
    registry::{Context, DeviceRecord, DeviceRefused, DeviceStatus, NewDevice, NewEnrolment, Registry},
    rights::PublishPermit,
    session::{Authority, Principal},
    topic::TopicFilter,
};
use std::time::Duration;

/// How long the connections of a revoked device may take to end; they were cut when it was revoked.
const CUT_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Hub {
    /// Adds a device. A name that was revoked starts anew: when this returns nothing is left of the earlier device's sessions and
    /// of what was retained on its topics.
    ///
    /// # Errors
    /// [`NotDecided`].
    pub async fn add_device(
        &self,
        authority: &Authority,
        new: NewDevice,
        enrolment: NewEnrolment,
        context: &Context,
    ) -> Result<DeviceRecord, NotDecided<Refusal<DeviceRefused>>> {
        // Asked once more when nothing of the earlier device is left: whoever waits that long may not be let do it any more.
        let decision = |registry: &Registry| {
            let permit = registry.permit_user(authority, self.now())?;
            registry.add_device(&permit, new.clone(), enrolment.clone(), context).map_err(Refusal::Policy)
        };
        let starts_anew = self.view(|registry| {
            let is_revoked = registry.device(&new.id).is_some_and(|device| device.status == DeviceStatus::Revoked);
            is_revoked && decision(registry).is_ok()
        });
        if starts_anew && let Some(outlet) = self.seen.outlet() {
            forget_earlier(&*outlet, &new.id).await?;
        }
        self.decide(decision).await
    }
}

async fn forget_earlier(outlet: &dyn Outlet, id: &DeviceId) -> Result<(), NotDecided<Refusal<DeviceRefused>>> {
    let principal = Principal::Device(id.clone());
    let cut = async {
        while outlet.is_online(&principal) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let still_there = |_| NotDecided::Refused(Refusal::Policy(DeviceRefused::Leaving(id.clone())));
    tokio::time::timeout(CUT_WITHIN, cut).await.map_err(still_there)?;
    let own_topics = TopicFilter::parse(&format!("dev/{id}/#")).expect("an id is a legal level");
    for topic in outlet.retained_topics(&own_topics) {
        let removed = outlet.publish(PublishPermit::for_hub(topic), Message::at_least_once("").retained()).await;
        removed.map_err(NotDecided::Unavailable)?;
    }
    Ok(())
}
