//! What an MQTT session stands on: who opened it, by which credential, and how it ends. Knows nothing of packets.

use crate::{DeviceId, UnixTime, rights::Rights, scope::Scope};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// The name of a user; the alphabet of a device id.
pub type UserName = DeviceId;

/// The name of an integration; the alphabet of a device id.
pub type IntegrationName = DeviceId;

/// The public part of a personal access token, an API key or a client secret: 12 base62 characters, no secret.
pub type CredentialId = Box<str>;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// A device or a service that is an OAuth client.
    Device(DeviceId),
    /// A person, or a script with the person's token.
    User(UserName),
    /// What holds an API key: Home Assistant, a script of somebody else's.
    Integration(IntegrationName),
}

/// By what a session was opened: enough to decide at any later moment whether it may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Who acts.
    pub principal: Principal,
    /// What proved it.
    pub proof: Proof,
}

/// What proved who acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// An access token (RFC 9068).
    AccessToken {
        /// Its `jti`.
        jti: Box<str>,
        /// Its `iat`.
        issued_at: UnixTime,
        /// Its `exp`.
        expires_at: UnixTime,
        /// Its `scope`.
        scope: Scope,
        /// The epoch of the client's credentials at issuance: revocation moves it.
        epoch: u64,
    },
    /// A personal access token or an API key, looked up anew at each decision.
    Credential(CredentialId),
}

/// What an authority amounts to now.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What may be done with topics.
    pub rights: Arc<Rights>,
    /// When the session must end unless renewed; none for a credential without expiry.
    pub expires_at: Option<UnixTime>,
}

/// Why a session ends (docs/protocol.md, "How a session ends").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The access token or credential ran out.
    Expired {
        /// When it did.
        at: UnixTime,
    },
    /// The device, its key or the credential was revoked or removed.
    Revoked,
    /// The owner paused the device.
    Disabled,
    /// Rights were withdrawn in a way that the session cannot survive.
    PolicyChanged,
    /// Another connection opened the same session.
    TakenOver,
    /// The hub stops.
    HubStopping,
}

impl EndReason {
    /// The MQTT 5 reason code of the DISCONNECT.
    #[must_use]
    pub const fn reason_code(&self) -> u8 {
        match self {
            Self::Expired { .. } => 0xA0,
            Self::Revoked | Self::Disabled | Self::PolicyChanged => 0x98,
            Self::TakenOver => 0x8E,
            Self::HubStopping => 0x8B,
        }
    }

    /// The Reason String; devices act on its first words, people read all of it.
    #[must_use]
    pub fn reason_string(&self) -> String {
        match self {
            Self::Expired { at } => format!("access token expired at {}; ask for a new one", at.0),
            Self::Revoked => "revoked by the owner".to_owned(),
            Self::Disabled => "disabled by the owner; try again later".to_owned(),
            Self::PolicyChanged => "policy changed; connect again".to_owned(),
            Self::TakenOver => "taken over by another connection of the same client".to_owned(),
            Self::HubStopping => "hub stopping; try again shortly".to_owned(),
        }
    }

    /// One word for the audit log.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "expired",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
            Self::PolicyChanged => "policy_changed",
            Self::TakenOver => "taken_over",
            Self::HubStopping => "hub_stopping",
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => write!(f, "device {id}"),
            Self::User(name) => write!(f, "user {name}"),
            Self::Integration(name) => write!(f, "integration {name}"),
        }
    }
}
