//! Twins: what a device is to be (desired, by people) and what it says it is (reported), each kept, each with a version.

use super::{Change, Context, DeviceStatus, Registry, SendCommands, UserPermit};
use crate::{
    DeviceId, UnixTime,
    limits::{MAX_TWIN_DESIRED_BYTES, MAX_TWIN_REPORTED_BYTES},
    topic::TopicFilter,
    write::Table,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON object.
pub type TwinBody = Map<String, Value>;

/// The member that carries the version on the wire.
const VERSION: &str = "v";

/// What a device is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredTwin {
    /// Counts the changes, from 1.
    pub v: u64,
    /// What is wanted.
    pub body: TwinBody,
    /// Who changed it last.
    pub by: String,
    /// When.
    pub at: UnixTime,
}

/// What a device says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedTwin {
    /// The desired version that the device has obeyed, as far as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v: Option<u64>,
    /// What it says.
    pub body: TwinBody,
    /// When.
    pub at: UnixTime,
}

/// Both sides of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Twin {
    /// Nothing is desired yet where there is none.
    pub desired: Option<DesiredTwin>,
    /// The device has said nothing yet where there is none.
    pub reported: Option<ReportedTwin>,
}

/// How a desired twin is to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TwinChange {
    /// This in place of all.
    Replace(TwinBody),
    /// These members anew, those that are null removed (RFC 7396).
    Merge(TwinBody),
}

/// Why a desired twin does not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TwinRefused {
    /// No such device.
    #[error("there is no device {0}; `hearthkey device list` shows all")]
    UnknownDevice(DeviceId),
    /// The asker's token is about other devices.
    #[error("your token is limited to other devices than {0}")]
    OutOfReach(DeviceId),
    /// The owner cut the device off.
    #[error("device {0} is revoked")]
    Revoked(DeviceId),
    /// The device's profile lets it hear of no twin.
    #[error("device {device} has no twin: its profile {profile} does not let it subscribe to dev/${{device}}/twin/desired")]
    None {
        /// Which device.
        device: DeviceId,
        /// The profile.
        profile: String,
    },
    /// A member that is the hub's own.
    #[error("`v` is the version, which the hub counts; leave it out (If-Match says on which version an edit rests)")]
    Version,
    /// Too much for a device.
    #[error("the desired twin would have {0} bytes; {MAX_TWIN_DESIRED_BYTES} are allowed")]
    TooLarge(usize),
}

impl DesiredTwin {
    /// The message on `dev/<id>/twin/desired`: `{"v":7,…}`.
    ///
    /// # Panics
    /// Never: an object is plain JSON.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        payload(self.v, &self.body)
    }
}

impl Twin {
    /// Whether the device has obeyed the version that is desired.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let desired = self.desired.as_ref().map(|desired| desired.v);
        desired.is_none() || self.reported.as_ref().and_then(|reported| reported.v) == desired
    }
}

impl TwinChange {
    fn applied_to(self, before: Option<&DesiredTwin>) -> TwinBody {
        match self {
            Self::Replace(body) => merged(Map::new(), body),
            Self::Merge(patch) => merged(before.map(|before| before.body.clone()).unwrap_or_default(), patch),
        }
    }
}

/// RFC 7396 section 2, for objects.
fn merged(mut target: TwinBody, patch: TwinBody) -> TwinBody {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(patch) => {
                let before = match target.remove(&name) {
                    Some(Value::Object(before)) => before,
                    _ => Map::new(),
                };
                target.insert(name, Value::Object(merged(before, patch)));
            }
            value => {
                target.insert(name, value);
            }
        }
    }
    target
}

fn payload(v: u64, body: &TwinBody) -> Vec<u8> {
    let mut whole = Map::from_iter([(VERSION.to_owned(), Value::from(v))]);
    whole.extend(body.iter().map(|(name, value)| (name.clone(), value.clone())));
    serde_json::to_vec(&whole).expect("an object is plain JSON")
}

impl Registry {
    /// Both sides of a device's twin; empty where nothing was said.
    #[must_use]
    pub fn twin(&self, device: &DeviceId) -> Twin {
        Twin { desired: self.desired_twins.get(device).cloned(), reported: self.reported_twins.get(device).cloned() }
    }

    /// All desired twins, by device.
    pub fn desired_twins(&self) -> impl Iterator<Item = (&DeviceId, &DesiredTwin)> {
        self.desired_twins.iter()
    }

    /// Changes what a device is to be. What changes nothing counts no version.
    ///
    /// # Errors
    /// [`TwinRefused`].
    pub fn change_twin(
        &self,
        permit: &UserPermit<'_, SendCommands>,
        id: &DeviceId,
        change: TwinChange,
        context: &Context,
    ) -> Result<Change<DesiredTwin>, TwinRefused> {
        if !permit.covers(id) {
            return Err(TwinRefused::OutOfReach(id.clone()));
        }
        let device = self.devices.get(id).ok_or_else(|| TwinRefused::UnknownDevice(id.clone()))?;
        if device.status == DeviceStatus::Revoked {
            return Err(TwinRefused::Revoked(id.clone()));
        }
        let topic = TopicFilter::parse(&format!("dev/{id}/twin/desired")).expect("an id is a legal level");
        let profile = self.profiles.get(&device.profile);
        let hears = profile.is_some_and(|profile| {
            profile.permissions.values().flat_map(|grant| &grant.subscribe).any(|template| template.expand(id).covers(&topic))
        });
        if !hears {
            return Err(TwinRefused::None { device: id.clone(), profile: device.profile.to_string() });
        }
        let before = self.desired_twins.get(id);
        let body = change.applied_to(before);
        if body.contains_key(VERSION) {
            return Err(TwinRefused::Version);
        }
        let draft = self.draft(context);
        if let Some(before) = before.filter(|before| before.body == body) {
            return Ok(draft.finish(before.clone()));
        }
        let v = before.map_or(0, |before| before.v) + 1;
        let size = payload(v, &body).len();
        if size > MAX_TWIN_DESIRED_BYTES {
            return Err(TwinRefused::TooLarge(size));
        }
        let desired = DesiredTwin { v, body, by: permit.actor().to_string(), at: context.now };
        let mut draft = draft;
        draft.put(Table::DesiredTwin, id.as_str(), &desired);
        draft.audit(permit.actor(), "twin.desire", format!("device {id} twin version {v}"));
        Ok(draft.finish(desired))
    }

    /// Takes what a device says it is: an object of at most [`MAX_TWIN_REPORTED_BYTES`], in which `v` is the desired version
    /// that it has obeyed. `None` if it is no such thing, or says what is known.
    #[must_use]
    pub fn report_twin(&self, id: &DeviceId, payload: &[u8], context: &Context) -> Option<Change<()>> {
        let is_there = self.devices.get(id).is_some_and(|device| device.status != DeviceStatus::Revoked);
        if payload.len() > MAX_TWIN_REPORTED_BYTES || !is_there {
            return None;
        }
        let mut body: TwinBody = serde_json::from_slice(payload).ok()?;
        let v = body.remove(VERSION).and_then(|v| v.as_u64());
        let known = self.reported_twins.get(id);
        if known.is_some_and(|known| known.v == v && known.body == body) {
            return None;
        }
        let mut draft = self.draft(context);
        draft.put(Table::ReportedTwin, id.as_str(), &ReportedTwin { v, body, at: context.now });
        Some(draft.finish(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> TwinBody {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_patch_merges_as_rfc_7396_has_it() {
        // Appendix A, as far as both are objects.
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merged(object(target.clone()), object(patch.clone())), object(result), "{target} {patch}");
        }
    }

    #[test]
    fn the_version_stands_beside_what_is_wanted() {
        let desired = DesiredTwin { v: 7, body: object(json!({"setpoint": 21.5})), by: "user owner".to_owned(), at: UnixTime(0) };
        assert_eq!(serde_json::from_slice::<Value>(&desired.payload()).expect("JSON"), json!({"v": 7, "setpoint": 21.5}));
    }
}
