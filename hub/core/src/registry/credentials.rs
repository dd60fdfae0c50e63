//! Personal access tokens, API keys and client secrets: kept as keyed hashes under their public id.

use super::{
    Change, Context, DeviceRecord, DeviceStatus, Draft, ManageCredentials, ManageDevices, ManageOwnCredentials, ManageProfiles,
    Permission, ReadDevices, Registry, Role, UserPermit, UserRecord,
    judge::{about_devices, needed_to_grant, needed_to_let_in},
};
use crate::{
    DeviceId, Seconds, UnixTime,
    limits::{
        EXPIRES_SOON, LAST_USED_RESOLUTION, MAX_CREDENTIAL_NAME, MAX_CREDENTIALS, MAX_DEVICES_PER_TOKEN, MAX_KEYS_PER_HOLDER,
        MAX_NETWORKS_PER_KEY, MAX_OVERLAP, MAX_PERSONAL_ACCESS_TOKEN_LIFETIME, MAX_PERSONAL_ACCESS_TOKENS_PER_USER, MAX_PROFILES,
        UNUSED_AFTER,
    },
    network::Network,
    profile::{Profile, ProfileName},
    scope::{PermissionName, Scope},
    secret::{CredentialKind, Pepper, PresentedCredential, SecretHash},
    session::{Authority, CredentialId, IntegrationName, Principal, Proof, UserName},
    write::Table,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A credential as it is kept: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialRecord {
    /// The public id, part of the credential's text.
    pub id: CredentialId,
    /// What it is.
    pub kind: CredentialKind,
    /// Whom it speaks for.
    pub subject: Principal,
    /// For people: what it is for.
    pub name: String,
    /// The keyed hash of its whole text.
    pub hash: SecretHash,
    /// What it may do at most.
    pub scope: Scope,
    /// For an integration: the profile that its scope is taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileName>,
    /// When it was made.
    pub created_at: UnixTime,
    /// When it ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixTime>,
    /// For a user's token: the only devices that it is about; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceId>>,
    /// For an API key: the networks from which it may be used; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// The first credential of the line that this continues by rotation; itself if it is the first.
    #[serde(default)]
    pub family: CredentialId,
    /// The token that ends when this one is used for the first time; none once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<CredentialId>,
    /// When another took its place. Whoever uses it afterwards found it: the whole family ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_at: Option<UnixTime>,
    /// When and from where it was last used; not more exact than [`LAST_USED_RESOLUTION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<LastUsed>,
}

/// The last use of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUsed {
    /// When.
    pub at: UnixTime,
    /// From which address.
    pub source: String,
}

/// What the holder of a credential should look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialWarning {
    /// It ends within [`EXPIRES_SOON`], though it was made for longer.
    ExpiresSoon,
    /// Nobody has used it for [`UNUSED_AFTER`].
    Unused,
}

/// A personal access token to make.
#[derive(Debug, Clone)]
pub struct NewPersonalAccessToken {
    /// What it is for; 1 to [`MAX_CREDENTIAL_NAME`] characters.
    pub name: String,
    /// What it may do; none for all that its maker may.
    pub scope: Option<Scope>,
    /// The only devices that it is about; none for all that its maker may.
    pub devices: Option<Vec<DeviceId>>,
    /// How long it lives; at most [`MAX_PERSONAL_ACCESS_TOKEN_LIFETIME`].
    pub lifetime: Seconds,
}

/// An API key to make.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// What it is for; 1 to [`MAX_CREDENTIAL_NAME`] characters.
    pub name: String,
    /// For whom.
    pub holder: KeyHolder,
    /// How long it lives; none for until it is revoked.
    pub lifetime: Option<Seconds>,
    /// From where it may be used; empty for anywhere.
    pub networks: Vec<Network>,
}

/// For whom an API key is.
#[derive(Debug, Clone)]
pub enum KeyHolder {
    /// An integration with the rights of a profile, or some of them.
    Integration {
        /// What it is called.
        name: IntegrationName,
        /// Where its rights come from.
        profile: ProfileName,
        /// Which of them; none for all.
        scope: Option<Scope>,
    },
    /// A legacy device that knows a user name and a password.
    Device(DeviceId),
}

/// Why a change to credentials is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialRefused {
    /// No such credential, or not the asker's to see.
    #[error("there is no credential {0}; `hearthkey pat list` and `hearthkey key list` show those that you may see")]
    Unknown(CredentialId),
    /// A name that says nothing or too much.
    #[error("a name has 1 to {MAX_CREDENTIAL_NAME} characters")]
    Name,
    /// More than the asker may itself.
    #[error("you can pass on only what you may do yourself: {allowed}")]
    BeyondOwnRights {
        /// What the asker may do.
        allowed: Scope,
    },
    /// A key with rights that the asker's credential lacks.
    #[error("a key may do no more than who makes it; this one needs a credential with {missing} as well")]
    KeyBeyondOwnRights {
        /// What the asker's credential lacks.
        missing: Scope,
    },
    /// A device that the asker's token is not about.
    #[error("your token is limited to other devices than {0}")]
    OutOfReach(DeviceId),
    /// A life that is too long or none.
    #[error("a personal access token lives from 1 s to {max} days", max = MAX_PERSONAL_ACCESS_TOKEN_LIFETIME.0 / 86_400)]
    Lifetime,
    /// An overlap beyond [`MAX_OVERLAP`].
    #[error("an old key works for at most {max} days beside the new one", max = MAX_OVERLAP.0 / 86_400)]
    Overlap,
    /// Personal access tokens belong to people.
    #[error("only people have personal access tokens; make an API key instead")]
    NotAPerson,
    /// No such device.
    #[error("there is no device {0}; `hearthkey device list` shows all")]
    UnknownDevice(DeviceId),
    /// A device that may not connect.
    #[error("device {0} is disabled and could not use a key; `hearthkey device enable {0}` first")]
    DisabledDevice(DeviceId),
    /// A device that was cut off for good.
    #[error("device {0} is revoked; `hearthkey device add {0} --profile …` lets it in anew")]
    RevokedDevice(DeviceId),
    /// No such profile.
    #[error("there is no profile {0}; `hearthkey profile list` shows all")]
    UnknownProfile(ProfileName),
    /// A scope that the profile does not have.
    #[error("the profile has these permissions: {0}")]
    UnknownPermission(Scope),
    /// It was rotated, rolled or revoked already.
    #[error("credential {0} was replaced already; use the one that took its place")]
    Replaced(CredentialId),
    /// Rotation is for tokens, rolling for keys, and client secrets go with their device.
    #[error("credential {0} is of another kind; `hearthkey device rotate` is for client secrets")]
    Kind(CredentialId),
    /// More than there may be.
    #[error("{0}")]
    TooMany(String),
}

/// The name of the credential that the command line on the hub's machine uses.
const LOCAL_CONTEXT: &str = "local owner context";

impl CredentialRecord {
    /// The record after a use at `context`; `None` if that use is known exactly enough.
    pub(super) fn after_use(&self, context: &Context) -> Option<Self> {
        let known = |last: &LastUsed| last.source == context.source && context.now.since(last.at) < LAST_USED_RESOLUTION;
        if self.last_used.as_ref().is_some_and(known) {
            return None;
        }
        let last_used = LastUsed { at: context.now, source: context.source.clone() };
        Some(Self { last_used: Some(last_used), ..self.clone() })
    }

    /// A credential that allows nothing yet and has no end.
    pub(super) fn new(
        kind: CredentialKind,
        subject: Principal,
        name: &str,
        (id, hash): (CredentialId, SecretHash),
        created_at: UnixTime,
    ) -> Self {
        Self {
            family: id.clone(),
            id,
            kind,
            subject,
            name: name.to_owned(),
            hash,
            scope: Scope::default(),
            profile: None,
            created_at,
            expires_at: None,
            devices: None,
            networks: Vec::new(),
            replaces: None,
            replaced_at: None,
            last_used: None,
        }
    }

    fn successor(&self, (id, hash): (CredentialId, SecretHash), expires_at: Option<UnixTime>, created_at: UnixTime) -> Self {
        Self { id, hash, expires_at, created_at, replaces: None, last_used: None, ..self.clone() }
    }

    /// Whether it may be used from an address.
    #[must_use]
    pub fn may_come_from(&self, source: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(source))
    }

    /// What its holder should look at. A replaced credential is history.
    #[must_use]
    pub fn warnings(&self, now: UnixTime) -> Vec<CredentialWarning> {
        if self.replaced_at.is_some() {
            return Vec::new();
        }
        let ends_soon = |ends: UnixTime| ends.since(now) <= EXPIRES_SOON && ends.since(self.created_at) > EXPIRES_SOON;
        let known_at = self.last_used.as_ref().map_or(self.created_at, |last| last.at);
        let warnings = [
            (self.expires_at.is_some_and(ends_soon), CredentialWarning::ExpiresSoon),
            (now.since(known_at) >= UNUSED_AFTER, CredentialWarning::Unused),
        ];
        warnings.into_iter().filter_map(|(holds, warning)| holds.then_some(warning)).collect()
    }

    /// Whether it has not run out at `now`.
    #[must_use]
    pub fn is_usable(&self, now: UnixTime) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }
}

impl Registry {
    /// Who a presented credential speaks for. Whether it is still good is for [`Registry::judge`] to say.
    /// Client secrets are for the token endpoint only and are not accepted here.
    #[must_use]
    pub fn authenticate_credential(&self, presented: &PresentedCredential<'_>, pepper: &Pepper) -> Option<Authority> {
        let record = self.credentials.get(presented.id).filter(|record| record.kind == presented.kind);
        // Unknown id and wrong secret take the same way.
        let expected = record.map_or(&SecretHash::OF_NOTHING, |record| &record.hash);
        let fits = presented.hash(pepper) == *expected;
        let record = record.filter(|record| fits && record.kind != CredentialKind::ClientSecret)?;
        Some(Authority { principal: record.subject.clone(), proof: Proof::Credential(record.id.clone()) })
    }

    /// The first start of a hub: its owner, and the credential by which the command line on the same machine acts. Also
    /// when the file with that credential was lost: then the one before it ends.
    pub fn found(&self, owner: UserName, local: (CredentialId, SecretHash), context: &Context) -> Change<()> {
        let mut draft = self.draft(context);
        let actor = Principal::User(owner.clone());
        if !self.users.contains_key(&owner) {
            let user = UserRecord { name: owner.clone(), role: Role::Owner, created_at: context.now, password: None };
            draft.put(Table::User, owner.as_str(), &user);
            draft.audit(&actor, "user.create", &actor);
        }
        for earlier in self.credentials.values().filter(|record| record.subject == actor && record.name == LOCAL_CONTEXT) {
            draft.end_credential(&actor, "credential.revoke", earlier);
        }
        let credential = CredentialRecord {
            scope: Role::Owner.scope(),
            ..CredentialRecord::new(CredentialKind::PersonalAccessToken, actor.clone(), LOCAL_CONTEXT, local, context.now)
        };
        draft.put_credential(&actor, "credential.create", &credential);
        draft.finish(())
    }

    /// Makes a personal access token. It can do at most what the permit's credential can, and never more than its user at
    /// the time of use.
    ///
    /// # Errors
    /// [`CredentialRefused`].
    pub fn create_personal_access_token(
        &self,
        permit: &UserPermit<'_, ManageOwnCredentials>,
        new: NewPersonalAccessToken,
        fresh: (CredentialId, SecretHash),
        context: &Context,
    ) -> Result<Change<CredentialRecord>, CredentialRefused> {
        let Principal::User(_) = permit.actor() else { return Err(CredentialRefused::NotAPerson) };
        let devices = new.devices.or_else(|| permit.limited_to().map(<[DeviceId]>::to_vec));
        let allowed = if devices.is_some() { about_devices(permit.allowed()) } else { permit.allowed().clone() };
        let scope = new.scope.unwrap_or_else(|| allowed.clone());
        if !scope.is_subset_of(&allowed) {
            return Err(CredentialRefused::BeyondOwnRights { allowed });
        }
        if let Some(devices) = &devices {
            if let Some(foreign) = devices.iter().find(|device| !permit.covers(device)) {
                return Err(CredentialRefused::OutOfReach(foreign.clone()));
            }
            // Whether there is a device is told only to who sees devices.
            let sees = permit.allowed().contains(ReadDevices::NAME);
            if let Some(unknown) = devices.iter().find(|device| sees && !self.devices.contains_key(*device)) {
                return Err(CredentialRefused::UnknownDevice(unknown.clone()));
            }
            if devices.len() > MAX_DEVICES_PER_TOKEN {
                return Err(CredentialRefused::TooMany(format!("a token is about at most {MAX_DEVICES_PER_TOKEN} devices")));
            }
        }
        if !(1..=MAX_PERSONAL_ACCESS_TOKEN_LIFETIME.0).contains(&new.lifetime.0) {
            return Err(CredentialRefused::Lifetime);
        }
        self.room_for_credentials(permit.actor(), MAX_PERSONAL_ACCESS_TOKENS_PER_USER)?;
        let credential = CredentialRecord {
            scope,
            devices,
            expires_at: Some(context.now.plus(new.lifetime)),
            ..CredentialRecord::new(
                CredentialKind::PersonalAccessToken,
                permit.actor().clone(),
                &legal_name(&new.name)?,
                fresh,
                context.now,
            )
        };
        let mut draft = self.draft(context);
        draft.put_credential(permit.actor(), "credential.create", &credential);
        Ok(draft.finish(credential))
    }

    /// Replaces a personal access token by a fresh one of the same rights and length of life. The fresh one becomes active on first
    /// use: then the old one ends, and whoever uses it afterwards ends the fresh one too. Until then the old one works, so that
    /// a lost answer hurts nobody: who asks again gets another, and the one that was lost counts as replaced.
    ///
    /// # Errors
    /// [`CredentialRefused`].
    pub fn rotate_personal_access_token(
        &self,
        permit: &UserPermit<'_, ManageOwnCredentials>,
        id: &str,
        fresh: (CredentialId, SecretHash),
        context: &Context,
    ) -> Result<Change<CredentialRecord>, CredentialRefused> {
        let old = self.replaceable(id, CredentialKind::PersonalAccessToken, |record| record.subject == *permit.actor())?;
        if !old.scope.is_subset_of(permit.allowed()) {
            return Err(CredentialRefused::BeyondOwnRights { allowed: permit.allowed().clone() });
        }
        if permit.limited_to().is_some() {
            let devices = old.devices.as_deref().ok_or_else(|| CredentialRefused::Unknown(id.into()))?;
            if let Some(foreign) = devices.iter().find(|device| !permit.covers(device)) {
                return Err(CredentialRefused::OutOfReach(foreign.clone()));
            }
        }
        let lifetime = old.expires_at.map(|expires_at| expires_at.since(old.created_at));
        let successor = old.successor(fresh, lifetime.map(|lifetime| context.now.plus(lifetime)), context.now);
        let mut draft = self.draft(context);
        let lost = self.credentials.values().filter(|record| record.replaces.as_deref() == Some(id));
        lost.for_each(|record| draft.replace_credential(record));
        let replaces = match &old.replaces {
            // It asks for itself, which is a use.
            Some(_) if permit.credential() == Some(id) => {
                self.activate(old, &mut draft);
                old.id.clone()
            }
            // It was never used: it makes way at once, and what it was to replace waits for its successor.
            Some(before) => {
                draft.replace_credential(old);
                before.clone()
            }
            None => old.id.clone(),
        };
        let credential = CredentialRecord { replaces: Some(replaces), ..successor };
        draft.put_credential(permit.actor(), "credential.rotate", &credential);
        // Each replaced token is kept to notice its re-use, but not without end: the oldest make room.
        let held = self.credentials.values().filter(|record| record.subject == *permit.actor());
        let mut earlier: Vec<_> = held.clone().filter(|record| record.replaced_at.is_some()).collect();
        earlier.sort_by_key(|record| record.replaced_at);
        let surplus = (held.count() + 1).saturating_sub(MAX_PERSONAL_ACCESS_TOKENS_PER_USER);
        for forgotten in earlier.iter().take(surplus) {
            draft.delete(Table::Credential, forgotten.id.as_bytes());
        }
        Ok(draft.finish(credential))
    }

    /// Makes an API key. It can do at most what the permit's credential can; one for a device takes what adding a device takes.
    ///
    /// # Errors
    /// [`CredentialRefused`].
    pub fn create_api_key(
        &self,
        permit: &UserPermit<'_, ManageCredentials>,
        new: NewApiKey,
        fresh: (CredentialId, SecretHash),
        context: &Context,
    ) -> Result<Change<CredentialRecord>, CredentialRefused> {
        let name = legal_name(&new.name)?;
        let (subject, profile_name, scope) = match new.holder {
            KeyHolder::Integration { name, profile, scope } => (Principal::Integration(name), profile, scope),
            KeyHolder::Device(id) => {
                // What becomes of a device is told only to who manages devices.
                refuse_lack(permit, &PermissionName::parse(ManageDevices::NAME).into_iter().collect())?;
                let device = self.devices.get(&id).ok_or_else(|| CredentialRefused::UnknownDevice(id.clone()))?;
                match device.status {
                    DeviceStatus::Pending | DeviceStatus::Active => {}
                    DeviceStatus::Disabled => return Err(CredentialRefused::DisabledDevice(id)),
                    DeviceStatus::Revoked => return Err(CredentialRefused::RevokedDevice(id)),
                }
                (Principal::Device(id), device.profile.clone(), None)
            }
        };
        let profile = self.profiles.get(&profile_name).ok_or_else(|| CredentialRefused::UnknownProfile(profile_name.clone()))?;
        let scope = scope.unwrap_or_else(|| profile.scope());
        if !scope.is_subset_of(&profile.scope()) {
            return Err(CredentialRefused::UnknownPermission(profile.scope()));
        }
        refuse_beyond(permit, &subject, profile, &scope)?;
        if new.networks.len() > MAX_NETWORKS_PER_KEY {
            return Err(CredentialRefused::TooMany(format!("a key is limited to at most {MAX_NETWORKS_PER_KEY} networks")));
        }
        self.room_for_credentials(&subject, MAX_KEYS_PER_HOLDER)?;
        let credential = CredentialRecord {
            scope,
            profile: matches!(subject, Principal::Integration(_)).then_some(profile_name),
            networks: new.networks,
            expires_at: new.lifetime.map(|lifetime| context.now.plus(lifetime)),
            ..CredentialRecord::new(CredentialKind::ApiKey, subject, &name, fresh, context.now)
        };
        let mut draft = self.draft(context);
        draft.put_credential(permit.actor(), "credential.create", &credential);
        if let Principal::Device(id) = &credential.subject
            && let Some(device) = self.devices.get(id).filter(|device| device.status == DeviceStatus::Pending)
        {
            // A legacy device is enrolled by its key.
            let device = DeviceRecord { status: DeviceStatus::Active, enrolled_at: Some(context.now), ..device.clone() };
            draft.put(Table::Device, id.as_str(), &device);
        }
        Ok(draft.finish(credential))
    }

    /// Replaces an API key by a fresh one with the same rights; the old one works for `overlap` more.
    ///
    /// # Errors
    /// [`CredentialRefused`].
    pub fn roll_api_key(
        &self,
        permit: &UserPermit<'_, ManageCredentials>,
        id: &str,
        overlap: Seconds,
        fresh: (CredentialId, SecretHash),
        context: &Context,
    ) -> Result<Change<CredentialRecord>, CredentialRefused> {
        if overlap > MAX_OVERLAP {
            return Err(CredentialRefused::Overlap);
        }
        let old = self.replaceable(id, CredentialKind::ApiKey, |_| true)?;
        let profile = match (&old.subject, &old.profile) {
            (Principal::Device(id), _) => self.devices.get(id).and_then(|device| self.profiles.get(&device.profile)),
            (_, name) => name.as_ref().and_then(|name| self.profiles.get(name)),
        };
        if let Some(profile) = profile {
            refuse_beyond(permit, &old.subject, profile, &old.scope)?;
        }
        self.room_for_credentials(&old.subject, MAX_KEYS_PER_HOLDER)?;
        let credential = old.successor(fresh, old.expires_at, context.now);
        let mut draft = self.draft(context);
        let ends = context.now.plus(overlap);
        let replaced =
            CredentialRecord { expires_at: Some(old.expires_at.map_or(ends, |expires_at| expires_at.min(ends))), ..old.clone() };
        draft.put(Table::Credential, replaced.id.as_bytes(), &replaced);
        draft.put_credential(permit.actor(), "credential.roll", &credential);
        Ok(draft.finish(credential))
    }

    /// Ends a credential at once: one's own token, or anyone's token or key for who may manage them.
    ///
    /// # Errors
    /// [`CredentialRefused`].
    pub fn revoke_credential(
        &self,
        permit: &UserPermit<'_, ManageOwnCredentials>,
        id: &str,
        context: &Context,
    ) -> Result<Change<CredentialRecord>, CredentialRefused> {
        let record = self.credentials_seen_by(permit).find(|record| *record.id == *id);
        let record = record.ok_or_else(|| CredentialRefused::Unknown(id.into()))?.clone();
        if record.kind == CredentialKind::ClientSecret {
            return Err(CredentialRefused::Kind(record.id));
        }
        let mut draft = self.draft(context);
        draft.end_credential(permit.actor(), "credential.revoke", &record);
        Ok(draft.finish(record))
    }

    /// Ends the credential that an authority rests on, by its holder; an access token is not ended so.
    pub fn revoke_itself(&self, authority: &Authority, context: &Context) -> Change<()> {
        let mut draft = self.draft(context);
        if let Proof::Credential(id) = &authority.proof
            && let Some(record) = self.credentials.get(id).filter(|record| record.subject == authority.principal)
        {
            draft.end_credential(&authority.principal, "credential.revoke", record);
        }
        draft.finish(())
    }

    /// The credentials that a person may see: one's own, or everyone's. Who is limited to some devices sees those that are too.
    pub fn credentials_seen_by<'a>(
        &'a self,
        permit: &'a UserPermit<'_, ManageOwnCredentials>,
    ) -> impl Iterator<Item = &'a CredentialRecord> {
        let all = permit.allowed().contains(ManageCredentials::NAME);
        let within_reach = |record: &CredentialRecord| match (permit.limited_to(), &record.devices) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(devices)) => devices.iter().all(|device| permit.covers(device)),
        };
        self.credentials.values().filter(move |record| (all || record.subject == *permit.actor()) && within_reach(record))
    }

    /// Ends the whole family of a credential that was used after it was replaced: somebody else holds it.
    pub fn revoke_family(&self, id: &str, context: &Context) -> Change<()> {
        let mut draft = self.draft(context);
        if let Some(stolen) = self.credentials.get(id).filter(|record| record.replaced_at.is_some()) {
            for record in self.credentials.values().filter(|record| record.family == stolen.family) {
                draft.end_credential(&record.subject, "credential.reuse", record);
            }
        }
        draft.finish(())
    }

    /// Notes that a credential was used; what it replaces ends with its first use. `None` if that is known exactly enough.
    #[must_use]
    pub fn note_use(&self, id: &str, context: &Context) -> Option<Change<()>> {
        let record = self.credentials.get(id).filter(|record| record.replaced_at.is_none())?;
        let used = record.after_use(context)?;
        let mut draft = self.draft(context);
        self.activate(&used, &mut draft);
        Some(draft.finish(()))
    }

    /// Stores a token that is in use: what it replaces has ended.
    fn activate(&self, token: &CredentialRecord, draft: &mut Draft<'_>) {
        if let Some(old) = token.replaces.as_ref().and_then(|old| self.credentials.get(old)) {
            draft.replace_credential(old);
            draft.audit(&token.subject, "credential.replace", format!("{} {} of {}", old.kind.words(), old.id, old.subject));
        }
        let active = CredentialRecord { replaces: None, ..token.clone() };
        draft.put(Table::Credential, active.id.as_bytes(), &active);
    }

    fn replaceable(
        &self,
        id: &str,
        kind: CredentialKind,
        may: impl Fn(&CredentialRecord) -> bool,
    ) -> Result<&CredentialRecord, CredentialRefused> {
        let record =
            self.credentials.get(id).filter(|record| may(record)).ok_or_else(|| CredentialRefused::Unknown(id.into()))?;
        if record.kind != kind {
            return Err(CredentialRefused::Kind(id.into()));
        }
        if record.replaced_at.is_some() {
            return Err(CredentialRefused::Replaced(id.into()));
        }
        Ok(record)
    }

    pub(super) fn room_for_credentials(&self, subject: &Principal, most: usize) -> Result<(), CredentialRefused> {
        let all = self.credentials.len();
        let held = self.credentials.values().filter(|record| record.subject == *subject).count();
        if held >= most {
            return Err(CredentialRefused::TooMany(format!("{subject} has {held} credentials already; revoke one first")));
        }
        if all >= MAX_CREDENTIALS {
            return Err(CredentialRefused::TooMany(format!(
                "a hub keeps at most {MAX_CREDENTIALS} credentials; revoke some first"
            )));
        }
        Ok(())
    }

    /// Stores a profile that the owner wrote; sessions of its devices are judged anew. Who has it already gets no more by it than
    /// the asker could give them.
    ///
    /// # Errors
    /// [`ProfileRefused`].
    pub fn apply_profile(
        &self,
        permit: &UserPermit<'_, ManageProfiles>,
        profile: Profile,
        context: &Context,
    ) -> Result<Change<()>, ProfileRefused> {
        if !self.profiles.contains_key(&profile.name) && self.profiles.len() >= MAX_PROFILES {
            return Err(ProfileRefused::TooMany);
        }
        if let Some(missing) = permit.lacks(&self.needed_to_apply(&profile)) {
            return Err(ProfileRefused::BeyondOwnRights { missing });
        }
        let mut draft = self.draft(context);
        draft.put(Table::Profile, profile.name.as_str(), &profile);
        draft.audit(permit.actor(), "profile.apply", format!("profile {}", profile.name));
        Ok(draft.finish(()))
    }

    /// What it takes to give a profile to all who have one of its name now.
    fn needed_to_apply(&self, profile: &Profile) -> Scope {
        let has_it = |device: &DeviceRecord| device.profile == profile.name && device.status != DeviceStatus::Revoked;
        let by_devices = if self.devices.values().any(has_it) { needed_to_let_in(profile) } else { Scope::default() };
        let keys = self.credentials.values().filter(|key| key.profile.as_ref() == Some(&profile.name));
        let by_keys: Vec<Scope> = keys.map(|key| needed_to_grant(profile, &key.scope)).collect();
        by_keys.iter().chain([&by_devices]).flat_map(Scope::iter).collect()
    }
}

/// Why a profile is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileRefused {
    /// The home has [`MAX_PROFILES`] profiles already.
    #[error("a home has at most {MAX_PROFILES} profiles")]
    TooMany,
    /// Those who have it would get more than the asker's credential could give them.
    #[error(
        "devices or keys with this profile would get more than you can pass on; to change it so takes a credential with {missing} as well"
    )]
    BeyondOwnRights {
        /// What the asker's credential lacks.
        missing: Scope,
    },
}

impl Draft<'_> {
    pub(super) fn put_credential(&mut self, actor: &Principal, action: &'static str, record: &CredentialRecord) {
        self.put(Table::Credential, record.id.as_bytes(), record);
        self.audit(actor, action, format!("{} {} of {}", record.kind.words(), record.id, record.subject));
    }

    /// Another takes its place; it is kept to notice its re-use.
    fn replace_credential(&mut self, record: &CredentialRecord) {
        let replaced = CredentialRecord { replaced_at: Some(self.context.now), replaces: None, ..record.clone() };
        self.put(Table::Credential, replaced.id.as_bytes(), &replaced);
    }

    pub(super) fn end_credential(&mut self, actor: &Principal, action: &'static str, record: &CredentialRecord) {
        self.delete(Table::Credential, record.id.as_bytes());
        self.audit(actor, action, format!("{} {} of {}", record.kind.words(), record.id, record.subject));
    }
}

/// Refuses a key that can do more than who asks for it.
fn refuse_beyond(
    permit: &UserPermit<'_, ManageCredentials>,
    subject: &Principal,
    profile: &Profile,
    scope: &Scope,
) -> Result<(), CredentialRefused> {
    let needed = match subject {
        Principal::Device(_) => needed_to_let_in(profile).iter().chain(PermissionName::parse(ManageDevices::NAME).ok()).collect(),
        Principal::User(_) | Principal::Integration(_) => needed_to_grant(profile, scope),
    };
    refuse_lack(permit, &needed)
}

fn refuse_lack(permit: &UserPermit<'_, ManageCredentials>, needed: &Scope) -> Result<(), CredentialRefused> {
    permit.lacks(needed).map_or(Ok(()), |missing| Err(CredentialRefused::KeyBeyondOwnRights { missing }))
}

fn legal_name(name: &str) -> Result<String, CredentialRefused> {
    let name = name.trim();
    let length = name.chars().count();
    if (1..=MAX_CREDENTIAL_NAME).contains(&length) && !name.chars().any(char::is_control) {
        Ok(name.to_owned())
    } else {
        Err(CredentialRefused::Name)
    }
}
