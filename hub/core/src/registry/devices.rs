//! The life of a device: added, enrolled, paused, rotated, revoked.

use super::{Change, CommandState, Context, Draft, ManageDevices, Registry, Twin, UserPermit, judge::needed_to_let_in};
use crate::{
    DeviceId, Seconds, UnixTime,
    jwt::PublicKey,
    limits::{
        ENROLMENT_CODE_LIFETIME, MAX_CHILDREN, MAX_DEVICES, MAX_KEYS_PER_CLIENT, MAX_OVERLAP, MAX_SECRETS_PER_CLIENT,
        MAX_SOFTWARE_CHARACTERS, ROTATION_GRACE,
    },
    profile::ProfileName,
    scope::Scope,
    secret::{CredentialKind, SecretHash},
    session::{CredentialId, Principal},
    write::Table,
};
use serde::{Deserialize, Serialize};

/// A device as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its name.
    pub id: DeviceId,
    /// What it may do.
    pub profile: ProfileName,
    /// Where it is in its life.
    pub status: DeviceStatus,
    /// The keys that it can prove; at most [`MAX_KEYS_PER_CLIENT`].
    pub keys: Vec<ClientKey>,
    /// Moves when all that was issued before must end: access tokens carry it.
    pub epoch: u64,
    /// For whom a gateway acts too; at most [`MAX_CHILDREN`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<DeviceId>,
    /// When the owner added it.
    pub created_at: UnixTime,
    /// When it enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_at: Option<UnixTime>,
    /// What it says it is: `software_id software_version`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub software: String,
    /// The sequence of the last command; the device refuses a lower one.
    pub command_seq: u64,
    /// How long keys and secrets work on after the first use of one that replaces them; what the last rotation asked for.
    #[serde(default = "rotation_grace", skip_serializing_if = "is_rotation_grace")]
    pub overlap: Seconds,
}

const fn rotation_grace() -> Seconds {
    ROTATION_GRACE
}

fn is_rotation_grace(span: &Seconds) -> bool {
    *span == ROTATION_GRACE
}

/// Where a device is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceStatus {
    /// Added, has not enrolled.
    Pending,
    /// May get tokens.
    Active,
    /// Paused by the owner; keeps its keys.
    Disabled,
    /// Cut off for good; its keys prove nothing any more but that it is revoked.
    Revoked,
}

/// A key that a client can prove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientKey {
    /// RFC 7638 thumbprint.
    pub thumbprint: Box<str>,
    /// The key.
    pub public_key: PublicKey,
    /// When it was registered.
    pub added_at: UnixTime,
    /// When it was first used: then the keys before it begin to retire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_used_at: Option<UnixTime>,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retires_at: Option<UnixTime>,
}

/// An enrolment code, kept by its keyed hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// For which device.
    pub device: DeviceId,
    /// Until when it can be used.
    pub expires_at: UnixTime,
    /// The thumbprint of the key that used it: the same key may ask again until it is first used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<Box<str>>,
}

/// What the owner asks for with `device add`.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Its name.
    pub id: DeviceId,
    /// What it may do.
    pub profile: ProfileName,
    /// For whom it acts too.
    pub children: Vec<DeviceId>,
}

/// How a new or rotated device will prove itself.
#[derive(Debug, Clone)]
pub enum NewEnrolment {
    /// By a key that it registers with this code.
    Code(SecretHash),
    /// By a secret, for a device that cannot sign.
    Secret(CredentialId, SecretHash),
    /// By a key that it has shown and the owner has compared: a device that joined without a string.
    Key {
        /// The key.
        public_key: PublicKey,
        /// What it says it is.
        software: String,
    },
}

/// What a device sends to register (RFC 7591).
#[derive(Debug, Clone)]
pub struct RegistrationRequest {
    /// The keyed hash of its enrolment code.
    pub code: SecretHash,
    /// Its key.
    pub public_key: PublicKey,
    /// `software_id` and `software_version`; [`MAX_SOFTWARE_CHARACTERS`] without control characters are kept.
    pub software: String,
}

/// A registration that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// The `client_id`.
    pub client_id: DeviceId,
    /// When the key was registered.
    pub issued_at: UnixTime,
    /// All permissions of its profile.
    pub scope: Scope,
}

/// Why the owner's change to a device is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceRefused {
    /// No such device.
    #[error("there is no device {0}; `hearthkey device list` shows all")]
    Unknown(DeviceId),
    /// The name is taken.
    #[error("there is a device {0} already; choose another name, or `hearthkey device rotate {0}` to enrol it anew")]
    Exists(DeviceId),
    /// A name whose earlier device still has a connection.
    #[error("the earlier device {0} is still being cut off; try again in a moment")]
    Leaving(DeviceId),
    /// The asker's token is about other devices.
    #[error("your token is limited to other devices than {0}")]
    OutOfReach(DeviceId),
    /// A profile that reaches beyond the devices that the asker's token is about.
    #[error("profile {0} reaches beyond the device itself, and your token is limited to some devices; ask with one that is not")]
    ReachesOthers(ProfileName),
    /// A profile with rights that the asker's credential lacks.
    #[error(
        "profile {profile} gives a device more than its own topics; whoever passes that on needs a credential with {missing} as well"
    )]
    BeyondOwnRights {
        /// Which.
        profile: ProfileName,
        /// What the asker's credential lacks.
        missing: Scope,
    },
    /// The key belongs to another device already.
    #[error("that key is registered for another device already")]
    KeyInUse,
    /// No such profile.
    #[error("there is no profile {0}; `hearthkey profile list` shows all")]
    UnknownProfile(ProfileName),
    /// What is revoked stays revoked.
    #[error("device {0} is revoked; `hearthkey device add {0} --profile …` enrols it anew")]
    Revoked(DeviceId),
    /// A grace period beyond [`MAX_OVERLAP`].
    #[error("the old key or secret works on for at most {max} days", max = MAX_OVERLAP.0 / 86_400)]
    Overlap,
    /// More devices, children, keys or secrets than there may be.
    #[error("{0}")]
    TooMany(String),
}

/// Why a registration is refused; each looks the same to the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationRefused {
    /// No such code, or used up by another key.
    #[error("the enrolment code is unknown or was used by another device")]
    UnknownCode,
    /// Too late.
    #[error("the enrolment code of device {0} has expired")]
    ExpiredCode(DeviceId),
    /// The device went in the meantime.
    #[error("device {0} was revoked or removed since the code was made")]
    Gone(DeviceId),
    /// The key belongs to another device, or is the one that a rotation is about to retire.
    #[error("the key is registered already, for another device or as one that retires")]
    KeyInUse,
}

impl DeviceRecord {
    fn add_key(&mut self, public_key: PublicKey, software: &str, added_at: UnixTime, now: UnixTime) {
        self.keys.retain(|key| key.retires_at.is_none_or(|retires| now < retires));
        if self.keys.len() >= MAX_KEYS_PER_CLIENT {
            // The key that was used last stays; of the others the oldest goes.
            let in_use = self.keys.iter().enumerate().max_by_key(|(_, key)| key.first_used_at).map(|(index, _)| index);
            self.keys.remove(usize::from(in_use == Some(0)));
        }
        let thumbprint = public_key.thumbprint();
        self.keys.push(ClientKey { thumbprint, public_key, added_at, first_used_at: None, retires_at: None });
        if self.status == DeviceStatus::Pending {
            self.status = DeviceStatus::Active;
        }
        self.enrolled_at = Some(now);
        self.software = software.chars().filter(|c| !c.is_control()).take(MAX_SOFTWARE_CHARACTERS).collect();
    }

    fn target(&self) -> String {
        format!("device {}", self.id)
    }

    /// The keys that work at `now`.
    pub fn usable_keys(&self, now: UnixTime) -> impl Iterator<Item = &ClientKey> {
        self.keys.iter().filter(move |key| key.retires_at.is_none_or(|retires| now < retires))
    }
}

impl Registry {
    /// Adds a device that will enrol with a code, or has a secret at once. A revoked name can be used again: it starts anew.
    ///
    /// # Errors
    /// [`DeviceRefused`].
    pub fn add_device(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        new: NewDevice,
        enrolment: NewEnrolment,
        context: &Context,
    ) -> Result<Change<DeviceRecord>, DeviceRefused> {
        let NewDevice { id, profile, children } = new;
        within_reach(permit, &id)?;
        let earlier = self.devices.get(&id);
        if earlier.is_some_and(|device| device.status != DeviceStatus::Revoked) {
            return Err(DeviceRefused::Exists(id));
        }
        if !self.profiles.contains_key(&profile) {
            return Err(DeviceRefused::UnknownProfile(profile));
        }
        self.refuse_beyond(permit, &profile, &children)?;
        if earlier.is_none() && self.devices.len() >= MAX_DEVICES {
            return Err(DeviceRefused::TooMany(format!("a hub has at most {MAX_DEVICES} devices")));
        }
        if children.len() > MAX_CHILDREN {
            return Err(DeviceRefused::TooMany(format!("a gateway acts for at most {MAX_CHILDREN} children")));
        }
        self.refuse_known_key(&enrolment)?;
        let device = DeviceRecord {
            id,
            profile,
            status: DeviceStatus::Pending,
            keys: Vec::new(),
            epoch: earlier.map_or(0, |device| device.epoch + 1),
            children,
            created_at: context.now,
            enrolled_at: None,
            software: String::new(),
            // A device that kept its memory refuses lower numbers, so they go on.
            command_seq: earlier.map_or(0, |device| device.command_seq),
            overlap: ROTATION_GRACE,
        };
        let mut draft = self.draft(context);
        draft.audit(permit.actor(), "device.add", device.target());
        self.forget_what_it_had(&device.id, &mut draft);
        Ok(self.enrol(permit, device, enrolment, draft))
    }

    /// Lets a device prove itself by a new key or secret; the old ones work until the new one was used, and for `overlap` after
    /// that, [`ROTATION_GRACE`] if the owner says nothing.
    ///
    /// # Errors
    /// [`DeviceRefused`].
    pub fn rotate_device(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        id: &DeviceId,
        enrolment: NewEnrolment,
        overlap: Option<Seconds>,
        context: &Context,
    ) -> Result<Change<DeviceRecord>, DeviceRefused> {
        let overlap = overlap.unwrap_or(ROTATION_GRACE);
        if overlap > MAX_OVERLAP {
            return Err(DeviceRefused::Overlap);
        }
        let device = DeviceRecord { overlap, ..self.device_in_reach(permit, id)?.clone() };
        if device.status == DeviceStatus::Revoked {
            return Err(DeviceRefused::Revoked(device.id));
        }
        self.refuse_beyond(permit, &device.profile, &device.children)?;
        self.refuse_known_key(&enrolment)?;
        let secrets = self.client_secrets(id).count();
        if matches!(enrolment, NewEnrolment::Secret(..)) && secrets >= MAX_SECRETS_PER_CLIENT {
            return Err(DeviceRefused::TooMany(format!(
                "device {id} has {secrets} secrets already; revoke it, or wait until one retires"
            )));
        }
        let mut draft = self.draft(context);
        draft.audit(permit.actor(), "device.rotate", device.target());
        // One open door at a time: whoever holds an older code, used or not, is told the new one.
        for (hash, _) in self.enrolments_by_code_hash.iter().filter(|(_, record)| record.device == *id) {
            draft.delete(Table::EnrolmentCode, hash.as_bytes());
        }
        Ok(self.enrol(permit, device, enrolment, draft))
    }

    /// Pauses a device: its tokens end, its sessions are cut, its keys stay.
    ///
    /// # Errors
    /// [`DeviceRefused`].
    pub fn disable_device(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        id: &DeviceId,
        context: &Context,
    ) -> Result<Change<DeviceRecord>, DeviceRefused> {
        self.set_status(permit, id, "device.disable", DeviceStatus::Disabled, context)
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// [`DeviceRefused`].
    pub fn enable_device(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        id: &DeviceId,
        context: &Context,
    ) -> Result<Change<DeviceRecord>, DeviceRefused> {
        let device = self.device_in_reach(permit, id)?;
        let subject = Principal::Device(id.clone());
        let enrolled = !device.keys.is_empty() || self.credentials.values().any(|record| record.subject == subject);
        let status = if enrolled { DeviceStatus::Active } else { DeviceStatus::Pending };
        self.set_status(permit, id, "device.enable", status, context)
    }

    /// Cuts a device off for good: its tokens, secrets, codes, twin and commands end, its sessions are cut. Its keys stay on record so that
    /// it can be told that it is revoked, and for nothing else.
    ///
    /// # Errors
    /// [`DeviceRefused`].
    pub fn revoke_device(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        id: &DeviceId,
        context: &Context,
    ) -> Result<Change<DeviceRecord>, DeviceRefused> {
        let mut device = self.device_in_reach(permit, id)?.clone();
        device.status = DeviceStatus::Revoked;
        device.epoch += 1;
        let mut draft = self.draft(context);
        draft.put(Table::Device, device.id.as_str(), &device);
        self.forget_what_it_had(id, &mut draft);
        draft.audit(permit.actor(), "device.revoke", device.target());
        for command in self.commands_of(id).filter(|command| !command.state.is_final()) {
            draft.end_command(command, CommandState::Failed, "the device was revoked");
        }
        Ok(draft.finish(device))
    }

    /// Registers a device's key by its enrolment code (RFC 7591). The same code with the same key gets the same answer until
    /// the key is first used: a lost answer hurts nobody.
    ///
    /// # Errors
    /// [`RegistrationRefused`].
    pub fn register(&self, request: &RegistrationRequest, context: &Context) -> Result<Change<Registered>, RegistrationRefused> {
        let code = request.code.to_hex();
        let enrolment = self.enrolments_by_code_hash.get(&code).ok_or(RegistrationRefused::UnknownCode)?;
        let thumbprint = request.public_key.thumbprint();
        if enrolment.used_by.as_ref().is_some_and(|user| *user != thumbprint) {
            return Err(RegistrationRefused::UnknownCode);
        }
        if enrolment.expires_at <= context.now {
            return Err(RegistrationRefused::ExpiredCode(enrolment.device.clone()));
        }
        let gone = || RegistrationRefused::Gone(enrolment.device.clone());
        let device =
            self.devices.get(&enrolment.device).filter(|device| device.status != DeviceStatus::Revoked).ok_or_else(gone)?;
        let profile = self.profiles.get(&device.profile).ok_or_else(gone)?;
        let registered = |issued_at| Registered { client_id: device.id.clone(), issued_at, scope: profile.scope() };
        let mut draft = self.draft(context);
        let used = EnrolmentRecord { used_by: Some(thumbprint.clone()), ..enrolment.clone() };
        if let Some(key) = device.keys.iter().find(|key| key.thumbprint == thumbprint) {
            // A rotation replaces the old key; to go on with it would be none.
            if key.retires_at.is_some() {
                return Err(RegistrationRefused::KeyInUse);
            }
            if enrolment.used_by.is_none() {
                draft.put(Table::EnrolmentCode, code, &used);
            }
            return Ok(draft.finish(registered(key.added_at)));
        }
        if self.knows_key(&thumbprint) {
            return Err(RegistrationRefused::KeyInUse);
        }
        let mut device = device.clone();
        let added_at = self.time_of_next_credential(&device, context.now);
        let answer = registered(added_at);
        device.add_key(request.public_key.clone(), &request.software, added_at, context.now);
        draft.put(Table::Device, device.id.as_str(), &device);
        draft.put(Table::EnrolmentCode, code, &used);
        draft.audit(&Principal::Device(device.id.clone()), "device.enrol", device.target());
        Ok(draft.finish(answer))
    }

    fn knows_key(&self, thumbprint: &str) -> bool {
        self.devices.values().any(|device| device.keys.iter().any(|key| *key.thumbprint == *thumbprint))
    }

    fn refuse_known_key(&self, enrolment: &NewEnrolment) -> Result<(), DeviceRefused> {
        match enrolment {
            NewEnrolment::Key { public_key, .. } if self.knows_key(&public_key.thumbprint()) => Err(DeviceRefused::KeyInUse),
            NewEnrolment::Code(_) | NewEnrolment::Secret(..) | NewEnrolment::Key { .. } => Ok(()),
        }
    }

    /// Refuses a device, and a way in for one, that can do more than who asks for it.
    fn refuse_beyond(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        profile: &ProfileName,
        children: &[DeviceId],
    ) -> Result<(), DeviceRefused> {
        children.iter().try_for_each(|child| within_reach(permit, child))?;
        let needed = self.profiles.get(profile).map(needed_to_let_in).unwrap_or_default();
        if permit.limited_to().is_some() && !needed.is_empty() {
            return Err(DeviceRefused::ReachesOthers(profile.clone()));
        }
        match permit.lacks(&needed) {
            Some(missing) => Err(DeviceRefused::BeyondOwnRights { profile: profile.clone(), missing }),
            None => Ok(()),
        }
    }

    fn device_in_reach(&self, permit: &UserPermit<'_, ManageDevices>, id: &DeviceId) -> Result<&DeviceRecord, DeviceRefused> {
        within_reach(permit, id)?;
        self.devices.get(id).ok_or_else(|| DeviceRefused::Unknown(id.clone()))
    }

    /// The secrets of a client that cannot sign.
    pub fn client_secrets(&self, id: &DeviceId) -> impl Iterator<Item = &super::CredentialRecord> {
        let subject = Principal::Device(id.clone());
        self.credentials.values().filter(move |record| record.kind == CredentialKind::ClientSecret && record.subject == subject)
    }

    /// When a new key or secret of a client is said to be made: later than each one before it, whatever the clock does,
    /// because that order decides which of them retires the others.
    fn time_of_next_credential(&self, device: &DeviceRecord, now: UnixTime) -> UnixTime {
        let keys = device.keys.iter().map(|key| key.added_at);
        let secrets = self.client_secrets(&device.id).map(|secret| secret.created_at);
        keys.chain(secrets).max().map_or(now, |last| now.max(last.plus(Seconds(1))))
    }

    fn set_status(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        id: &DeviceId,
        action: &'static str,
        status: DeviceStatus,
        context: &Context,
    ) -> Result<Change<DeviceRecord>, DeviceRefused> {
        let mut device = self.device_in_reach(permit, id)?.clone();
        match device.status {
            DeviceStatus::Revoked => return Err(DeviceRefused::Revoked(device.id)),
            unchanged if unchanged == status => return Ok(Change { writes: Vec::new(), answer: device }),
            DeviceStatus::Pending | DeviceStatus::Active | DeviceStatus::Disabled => {}
        }
        device.status = status;
        if status == DeviceStatus::Disabled {
            device.epoch += 1;
        }
        let mut draft = self.draft(context);
        draft.put(Table::Device, device.id.as_str(), &device);
        draft.audit(permit.actor(), action, device.target());
        Ok(draft.finish(device))
    }

    fn enrol(
        &self,
        permit: &UserPermit<'_, ManageDevices>,
        mut device: DeviceRecord,
        enrolment: NewEnrolment,
        mut draft: Draft<'_>,
    ) -> Change<DeviceRecord> {
        let now = draft.context.now;
        match enrolment {
            NewEnrolment::Code(hash) => {
                let record =
                    EnrolmentRecord { device: device.id.clone(), expires_at: now.plus(ENROLMENT_CODE_LIFETIME), used_by: None };
                draft.put(Table::EnrolmentCode, hash.to_hex(), &record);
            }
            NewEnrolment::Key { public_key, software } => {
                let added_at = self.time_of_next_credential(&device, now);
                device.add_key(public_key, &software, added_at, now);
                draft.audit(&Principal::Device(device.id.clone()), "device.enrol", device.target());
            }
            NewEnrolment::Secret(id, hash) => {
                if device.status == DeviceStatus::Pending {
                    device.status = DeviceStatus::Active;
                    device.enrolled_at = Some(now);
                }
                let created_at = self.time_of_next_credential(&device, now);
                let subject = Principal::Device(device.id.clone());
                let secret = super::CredentialRecord {
                    scope: self.profiles.get(&device.profile).map(crate::profile::Profile::scope).unwrap_or_default(),
                    ..super::CredentialRecord::new(CredentialKind::ClientSecret, subject, "client secret", (id, hash), created_at)
                };
                draft.put(Table::Credential, secret.id.as_bytes(), &secret);
                draft.audit(permit.actor(), "credential.create", format!("client secret {} of {}", secret.id, device.target()));
            }
        }
        draft.put(Table::Device, device.id.as_str(), &device);
        draft.finish(device)
    }

    /// What a device had and was to be: whoever gets its name later is another one.
    fn forget_what_it_had(&self, id: &DeviceId, draft: &mut Draft<'_>) {
        for (hash, _) in self.enrolments_by_code_hash.iter().filter(|(_, record)| record.device == *id) {
            draft.delete(Table::EnrolmentCode, hash.as_bytes());
        }
        let subject = Principal::Device(id.clone());
        for credential in self.credentials.values().filter(|record| record.subject == subject) {
            draft.delete(Table::Credential, credential.id.as_bytes());
        }
        let Twin { desired, reported } = self.twin(id);
        if desired.is_some() {
            draft.delete(Table::DesiredTwin, id.as_str());
        }
        if reported.is_some() {
            draft.delete(Table::ReportedTwin, id.as_str());
        }
    }
}

fn within_reach(permit: &UserPermit<'_, ManageDevices>, id: &DeviceId) -> Result<(), DeviceRefused> {
    if permit.covers(id) { Ok(()) } else { Err(DeviceRefused::OutOfReach(id.clone())) }
}
