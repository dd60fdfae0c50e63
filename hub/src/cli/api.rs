//! What the hub's API answers, as far as people are shown it. Fields that are not named here are ignored.

use hearthkey_core::UnixTime;
use serde::Deserialize;

/// A list.
#[derive(Deserialize)]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
}

/// A device.
#[derive(Deserialize)]
pub(super) struct Device {
    pub(super) id: String,
    pub(super) profile: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) connected: bool,
    #[serde(default)]
    pub(super) keys: Vec<DeviceKey>,
    #[serde(default)]
    pub(super) secrets: u64,
    #[serde(default)]
    pub(super) children: Vec<String>,
    pub(super) created_at: UnixTime,
    pub(super) enrolled_at: Option<UnixTime>,
    pub(super) software: Option<String>,
}

/// A key that a device can prove.
#[derive(Deserialize)]
pub(super) struct DeviceKey {
    pub(super) thumbprint: String,
    pub(super) added_at: UnixTime,
    pub(super) first_used_at: Option<UnixTime>,
    pub(super) retires_at: Option<UnixTime>,
}

/// The answer to adding or rotating a device: a string to enrol with, or a secret.
#[derive(Deserialize)]
pub(super) struct Enrolment {
    pub(super) device: Device,
    pub(super) enrolment: Option<EnrolmentString>,
    pub(super) client_secret: Option<String>,
}

/// `hk1.…`.
#[derive(Deserialize)]
pub(super) struct EnrolmentString {
    pub(super) string: String,
    pub(super) expires_at: UnixTime,
}

/// A decision explained.
#[derive(Deserialize)]
pub(super) struct Decision {
    pub(super) allowed: bool,
    pub(super) reason: String,
}

/// A command.
#[derive(Deserialize)]
pub(super) struct Command {
    pub(super) id: String,
    pub(super) device: String,
    pub(super) name: String,
    pub(super) expires_at: UnixTime,
    pub(super) state: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

/// A profile in a list.
#[derive(Deserialize)]
pub(super) struct ProfileSummary {
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) token_lifetime_s: u64,
    pub(super) permissions: Vec<String>,
}

/// A message that passed the hub.
#[derive(Deserialize)]
pub(super) struct Message {
    pub(super) topic: String,
    #[serde(default)]
    pub(super) payload: Option<String>,
    #[serde(default)]
    pub(super) payload_base64: Option<String>,
    #[serde(default)]
    pub(super) retain: bool,
    pub(super) time: UnixTime,
}

/// Messages that were not shown.
#[derive(Deserialize)]
pub(super) struct Lost {
    pub(super) count: u64,
}

/// An entry of the audit log.
#[derive(Deserialize)]
pub(super) struct AuditRecord {
    pub(super) seq: u64,
    pub(super) time: UnixTime,
    pub(super) actor: String,
    pub(super) action: String,
    pub(super) target: String,
    pub(super) outcome: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) source: String,
    #[serde(default = "one")]
    pub(super) count: u64,
}

const fn one() -> u64 {
    1
}
