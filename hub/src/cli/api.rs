//! What the hub's API answers, as far as people are shown it. Fields that are not named here are ignored.

use hearthkey_core::{UnixTime, audit::ChainHead, session::Principal};
use serde::Deserialize;
use serde_json::Value;

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

/// What a device is to be, and what it says it is.
#[derive(Deserialize)]
pub(super) struct Twin {
    pub(super) device: String,
    pub(super) desired: Option<DesiredTwin>,
    pub(super) reported: Option<ReportedTwin>,
    pub(super) settled: bool,
}

/// What a device is to be.
#[derive(Deserialize)]
pub(super) struct DesiredTwin {
    pub(super) v: u64,
    pub(super) body: Value,
    pub(super) by: String,
    pub(super) at: UnixTime,
}

/// What a device says it is.
#[derive(Deserialize)]
pub(super) struct ReportedTwin {
    pub(super) v: Option<u64>,
    pub(super) body: Value,
    pub(super) at: UnixTime,
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

/// What the hub found in its own audit log.
#[derive(Deserialize)]
pub(super) struct Verified {
    pub(super) ok: bool,
    pub(super) entries: u64,
    pub(super) head: ChainHead,
    pub(super) fault: Option<String>,
}

/// A person.
#[derive(Deserialize)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) created_at: UnixTime,
    pub(super) has_password: bool,
}

/// Who asks.
#[derive(Deserialize)]
pub(super) struct Me {
    pub(super) principal: Principal,
    pub(super) role: Option<String>,
    pub(super) scope: String,
    pub(super) devices: Option<Vec<String>>,
    pub(super) credential: Option<Credential>,
    pub(super) expires_at: Option<UnixTime>,
}

/// A personal access token or an API key, without its secret.
#[derive(Deserialize)]
pub(super) struct Credential {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) subject: Principal,
    pub(super) scope: String,
    pub(super) profile: Option<String>,
    pub(super) devices: Option<Vec<String>>,
    #[serde(default)]
    pub(super) networks: Vec<String>,
    pub(super) created_at: UnixTime,
    pub(super) expires_at: Option<UnixTime>,
    pub(super) replaces: Option<String>,
    pub(super) replaced_at: Option<UnixTime>,
    pub(super) last_used: Option<LastUsed>,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
}

/// The last use of a credential.
#[derive(Deserialize)]
pub(super) struct LastUsed {
    pub(super) at: UnixTime,
    pub(super) source: String,
}

/// A credential that was just made.
#[derive(Deserialize)]
pub(super) struct Created {
    pub(super) credential: Credential,
    pub(super) secret: String,
}

/// The window in which devices may ask to join.
#[derive(Deserialize)]
pub(super) struct JoinWindow {
    pub(super) open_until: UnixTime,
}

/// Somebody who waits to be let in.
#[derive(Deserialize)]
pub(super) struct Approval {
    pub(super) user_code: String,
    pub(super) wanted: Wanted,
    pub(super) expires_at: UnixTime,
}

/// What somebody who waits wants.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Wanted {
    /// A device wants to join.
    Join {
        #[serde(default)]
        software: String,
        #[serde(default)]
        thumbprint: String,
    },
    /// A command line on another machine wants to log in.
    Login {
        #[serde(default)]
        client: String,
        #[serde(default)]
        source: String,
    },
}

/// RFC 8628 section 3.2.
#[derive(Deserialize)]
pub(super) struct DeviceAuthorization {
    pub(super) device_code: String,
    pub(super) user_code: String,
    pub(super) expires_in: u64,
    pub(super) interval: Option<u64>,
}

/// RFC 6749 section 5.1.
#[derive(Deserialize)]
pub(super) struct TokenResponse {
    pub(super) access_token: String,
}

const fn one() -> u64 {
    1
}
