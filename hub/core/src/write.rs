//! What the core asks the shell to keep: rows in tables, batched, each batch following a sequence number.

use serde::{Deserialize, Serialize};

/// Longest value of a row, in bytes: what the store takes. Each row of ours fits, whatever peers and owners put into it.
pub const MAX_VALUE_BYTES: usize = 4_096;

/// A kind of row. The tag is the first byte of the stored key and never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Singletons: format version, issuer, audit anchor.
    Meta = 0,
    /// Devices by id.
    Device = 1,
    /// Profiles that the owner wrote, by name.
    Profile = 2,
    /// Users by name.
    User = 3,
    /// Client secrets, personal access tokens and API keys by public id.
    Credential = 4,
    /// Enrolment codes by hash.
    EnrolmentCode = 5,
    /// Used client assertions by client and hash of `jti`.
    UsedAssertion = 6,
    /// Access tokens revoked before their end, by `jti`.
    DeniedToken = 7,
    /// Commands by device and sequence.
    Command = 8,
    /// Audit records by sequence number.
    Audit = 9,
    /// MQTT sessions, subscriptions, queued and retained messages (the MQTT front's own rows).
    Mqtt = 10,
    /// What devices are to be, by device.
    DesiredTwin = 11,
    /// What devices say they are, by device.
    ReportedTwin = 12,
}

impl Table {
    /// All tables, in the order of their tags.
    pub const ALL: [Self; 13] = [
        Self::Meta,
        Self::Device,
        Self::Profile,
        Self::User,
        Self::Credential,
        Self::EnrolmentCode,
        Self::UsedAssertion,
        Self::DeniedToken,
        Self::Command,
        Self::Audit,
        Self::Mqtt,
        Self::DesiredTwin,
        Self::ReportedTwin,
    ];

    /// The stored tag.
    #[must_use]
    pub const fn tag(self) -> u8 {
        self as u8
    }

    /// The table of a stored tag, if it is one of ours.
    #[must_use]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.get(usize::from(tag)).copied()
    }
}

/// One change of a batch. Keys have at most 255 bytes, values at most [`MAX_VALUE_BYTES`]; a batch has at most 512
/// writes and 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Stores a row, replacing an earlier one of the same key.
    Put {
        /// The kind of row.
        table: Table,
        /// The key within its table.
        key: Vec<u8>,
        /// The row.
        value: Vec<u8>,
    },
    /// Removes a row; nothing happens if there is none.
    Delete {
        /// The kind of row.
        table: Table,
        /// The key within its table.
        key: Vec<u8>,
    },
}

impl Write {
    /// The table that this changes.
    #[must_use]
    pub const fn table(&self) -> Table {
        match self {
            Self::Put { table, .. } | Self::Delete { table, .. } => *table,
        }
    }

    /// The key that this changes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

/// The number of a batch: the first is 1, none skipped; 0 means nothing has been stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The number of the batch that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
