//! All that the hub knows, and every decision that changes it.
//!
//! A decision takes `&self` and returns a [`Change`]: the rows to write and what to answer once they are durable. The
//! shell applies the same rows to the head (to decide the next request) and, when they are durable, to the view that
//! answers reads. Nothing else changes the registry, so what survives a crash is exactly what was written.

mod clients;
mod commands;
mod credentials;
mod devices;
mod explain;
mod judge;
mod rows;
mod sweep;
#[cfg(test)]
mod tests;
mod twins;
mod used_assertions;
mod users;

pub use clients::{AuthenticatedClient, IssuedToken};
pub use commands::{Acknowledgement, CommandArgs, CommandRecord, CommandRefused, CommandState, CommandStep, NewCommand};
pub use credentials::{
    CredentialRecord, CredentialRefused, CredentialWarning, KeyHolder, LastUsed, NewApiKey, NewPersonalAccessToken,
    ProfileRefused,
};
pub use devices::{
    ClientKey, DeviceRecord, DeviceRefused, DeviceStatus, EnrolmentRecord, NewDevice, NewEnrolment, Registered,
    RegistrationRefused, RegistrationRequest,
};
pub use explain::{Decision, Question, Subject};
pub use judge::{
    Holding, IntrospectTokens, ManageCredentials, ManageDevices, ManageOwnCredentials, ManageProfiles, ManageUsers, NotPermitted,
    Permission, ReadAudit, ReadDevices, ReadMetrics, ReadTelemetry, SendCommands, UserPermit,
};
pub use rows::{CorruptRow, restored};
pub use twins::{DesiredTwin, ReportedTwin, Twin, TwinBody, TwinChange, TwinRefused};
pub use users::{LoginRefused, PasswordHash, UserChange, UserRefused};

use crate::{
    DeviceId, UnixTime,
    audit::{AuditDraft, ChainHead, Outcome},
    audit_flood::Entry,
    profile::{Profile, ProfileName},
    session::{CredentialId, Principal, UserName},
    write::{Table, Write},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use used_assertions::UsedAssertions;

/// The state of a home.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    devices: BTreeMap<DeviceId, DeviceRecord>,
    profiles: BTreeMap<ProfileName, Profile>,
    users: BTreeMap<UserName, UserRecord>,
    credentials: BTreeMap<CredentialId, CredentialRecord>,
    enrolments_by_code_hash: BTreeMap<String, EnrolmentRecord>,
    used_assertions: UsedAssertions,
    denied_tokens: BTreeMap<Box<str>, UnixTime>,
    commands: BTreeMap<(DeviceId, u64), CommandRecord>,
    desired_twins: BTreeMap<DeviceId, DesiredTwin>,
    reported_twins: BTreeMap<DeviceId, ReportedTwin>,
    audit_head: ChainHead,
    audit_anchor: ChainHead,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// What the person is called.
    pub name: UserName,
    /// What the person may do.
    pub role: Role,
    /// When the record was made.
    pub created_at: UnixTime,
    /// The argon2id hash of the password (PHC string format), for who logs in from another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordHash>,
}

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees devices and what they publish.
    Viewer,
    /// Sees and sends commands.
    Member,
    /// Everything.
    Owner,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "a viewer",
            Self::Member => "a member",
            Self::Owner => "an owner",
        })
    }
}

/// Where a request comes from and when: what a decision may know of the world.
#[derive(Debug, Clone)]
pub struct Context {
    /// The time, for all that the decision writes.
    pub now: UnixTime,
    /// The peer's address, or empty.
    pub source: String,
    /// The request's id, or empty.
    pub request_id: String,
}

/// How much of one kind a registry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Of what: a word of `[a-z_]`.
    pub kind: &'static str,
    /// So many.
    pub count: usize,
    /// At most so many.
    pub most: usize,
}

/// Rows to write and the answer to give once they are durable.
#[derive(Debug)]
#[must_use = "a change is nothing until its rows are durable"]
pub struct Change<T> {
    /// The rows, one atomic batch.
    pub writes: Vec<Write>,
    /// The answer.
    pub answer: T,
}

/// Collects the rows of one decision and chains its audit entries.
struct Draft<'a> {
    registry: &'a Registry,
    context: &'a Context,
    writes: Vec<Write>,
    head: ChainHead,
}

impl Registry {
    /// An empty home with the profiles that ship with the hub.
    #[must_use]
    pub fn new() -> Self {
        Self { profiles: Profile::shipped().map(|profile| (profile.name.clone(), profile)).collect(), ..Self::default() }
    }

    /// Applies the rows of a batch. Rows of the tables `Audit` and `Mqtt` are not the registry's and change nothing.
    ///
    /// # Errors
    /// [`CorruptRow`] names a row that cannot be read; the rows before it have been applied.
    pub fn apply(&mut self, writes: &[Write]) -> Result<(), CorruptRow> {
        writes.iter().try_for_each(|write| rows::apply(self, write))
    }

    /// A device by name.
    #[must_use]
    pub fn device(&self, id: &DeviceId) -> Option<&DeviceRecord> {
        self.devices.get(id)
    }

    /// All devices by name.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.devices.values()
    }

    /// A profile by name: the owner's, or one that ships with the hub.
    #[must_use]
    pub fn profile(&self, name: &ProfileName) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// All profiles by name.
    pub fn profiles(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.values()
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &UserName) -> Option<&UserRecord> {
        self.users.get(name)
    }

    /// A credential by its public id.
    #[must_use]
    pub fn credential(&self, id: &str) -> Option<&CredentialRecord> {
        self.credentials.get(id)
    }

    /// The end of the audit chain.
    #[must_use]
    pub fn audit_head(&self) -> &ChainHead {
        &self.audit_head
    }

    /// What the oldest audit entry that is kept continues.
    #[must_use]
    pub fn audit_anchor(&self) -> &ChainHead {
        &self.audit_anchor
    }

    /// Appends audit entries about what the shell saw, each with the address that it is about: connections, denials.
    pub fn record(&self, entries: Vec<Entry>, now: UnixTime) -> Change<()> {
        let context = Context { now, source: String::new(), request_id: String::new() };
        let mut draft = self.draft(&context);
        for (entry, source) in entries {
            draft.audit_entry_from(entry, &source);
        }
        draft.finish(())
    }

    /// How much of each kind there is, beside how much there may be where that is bounded at all.
    #[must_use]
    pub fn sizes(&self) -> [Size; 10] {
        use crate::limits;
        let size = |kind, count, most| Size { kind, count, most };
        [
            size("devices", self.devices.len(), limits::MAX_DEVICES),
            size("profiles", self.profiles.len(), limits::MAX_PROFILES),
            size("users", self.users.len(), limits::MAX_USERS),
            size("credentials", self.credentials.len(), limits::MAX_CREDENTIALS),
            size("desired_twins", self.desired_twins.len(), limits::MAX_DEVICES),
            size("reported_twins", self.reported_twins.len(), limits::MAX_DEVICES),
            size("enrolments", self.enrolments_by_code_hash.len(), limits::MAX_DEVICES),
            size("used_assertions", self.used_assertions.len(), limits::MAX_USED_ASSERTIONS),
            size("denied_tokens", self.denied_tokens.len(), limits::MAX_DENIED_TOKENS),
            size(
                "commands",
                self.commands.len(),
                limits::MAX_DEVICES * (limits::MAX_PENDING_COMMANDS_PER_DEVICE + limits::MAX_ENDED_COMMANDS_PER_DEVICE),
            ),
        ]
    }

    fn draft<'a>(&'a self, context: &'a Context) -> Draft<'a> {
        Draft { registry: self, context, writes: Vec::new(), head: self.audit_head.clone() }
    }
}

impl Draft<'_> {
    fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, row: &impl Serialize) {
        let value = serde_json::to_vec(row).expect("rows are plain JSON");
        self.writes.push(Write::Put { table, key: key.into(), value });
    }

    fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.writes.push(Write::Delete { table, key: key.into() });
    }

    fn audit(&mut self, actor: &Principal, action: &'static str, target: impl ToString) {
        self.audit_entry(AuditDraft {
            actor: actor.to_string(),
            action,
            target: target.to_string(),
            outcome: Outcome::Success,
            reason: String::new(),
            count: 1,
        });
    }

    fn audit_entry(&mut self, entry: AuditDraft) {
        self.audit_entry_from(entry, &self.context.source);
    }

    fn audit_entry_from(&mut self, entry: AuditDraft, source: &str) {
        let (head, row) = self.head.append(entry, self.context.now, source, &self.context.request_id);
        self.writes.push(Write::Put { table: Table::Audit, key: head.seq.to_be_bytes().to_vec(), value: row });
        self.head = head;
    }

    fn finish<T>(mut self, answer: T) -> Change<T> {
        if self.head != self.registry.audit_head {
            let head = self.head.clone();
            self.put(Table::Meta, rows::AUDIT_HEAD, &head);
        }
        Change { writes: self.writes, answer }
    }
}
