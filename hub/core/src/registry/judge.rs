//! What an authority amounts to now: asked at each admission and again whenever the registry changed.

use super::{CredentialRecord, DeviceRecord, DeviceStatus, Registry, Role};
use crate::{
    DeviceId, UnixTime,
    profile::{FilterTemplate, Profile},
    rights::Rights,
    scope::{PermissionName, Scope},
    session::{Authority, CredentialId, EndReason, Principal, Proof, Standing},
};
use std::{marker::PhantomData, sync::Arc};

/// Proof that a user, or a service or integration to which the owner gave it, may do what the permission `P` names, by the
/// registry at which that was asked. It cannot leave the look at that registry: who has waited since asks again, at the registry
/// that it changes.
#[derive(Debug)]
pub struct UserPermit<'registry, P> {
    actor: Principal,
    /// All that the credential allows: what it can pass on at most.
    allowed: Scope,
    /// The only devices that it is about; none for all.
    limited_to: Option<Vec<DeviceId>>,
    /// The stored credential that asks, where it is one.
    credential: Option<CredentialId>,
    judged: PhantomData<(&'registry Registry, P)>,
}

/// A permission of people, as a type: a permit for one does not pass for another.
pub trait Permission {
    /// Its name in scopes.
    const NAME: &'static str;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;

        impl Permission for $name {
            const NAME: &'static str = $text;
        }
    )*};
}

permissions! {
    /// See devices, profiles and decisions.
    ReadDevices = "devices:read";
    /// Add, pause, revoke and rotate devices.
    ManageDevices = "devices:manage";
    /// Write profiles.
    ManageProfiles = "profiles:manage";
    /// See what devices publish.
    ReadTelemetry = "telemetry:read";
    /// Send commands.
    SendCommands = "commands:send";
    /// Read the audit log.
    ReadAudit = "audit:read";
    /// Add and remove people, change what they may do.
    ManageUsers = "users:manage";
    /// Make, roll and revoke API keys, see and revoke everyone's tokens, rotate signing keys.
    ManageCredentials = "credentials:manage";
    /// Make, rotate and revoke one's own personal access tokens, change one's own password.
    ManageOwnCredentials = "credentials:own";
    /// Ask what an access token amounts to (RFC 7662).
    IntrospectTokens = "tokens:introspect";
    /// See the hub's figures: `/metrics`.
    ReadMetrics = "metrics:read";
}

/// What an authority amounts to outside topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Who acts.
    pub principal: Principal,
    /// For people: what they may do.
    pub role: Option<Role>,
    /// What the credential allows now.
    pub scope: Scope,
    /// The only devices that it is about; none for all.
    pub devices: Option<Vec<DeviceId>>,
    /// The credential, where there is a stored one.
    pub credential: Option<CredentialRecord>,
    /// When it ends, if it does.
    pub expires_at: Option<UnixTime>,
}

/// Why somebody has no permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// The credential does not hold any more: RFC 6750's `invalid_token`.
    #[error("the credential does not hold any more: {}", .0.word())]
    Ended(EndReason),
    /// It lacks this permission, or its user lacks it now: RFC 6750's `insufficient_scope`.
    #[error("this needs the permission {0}, which the credential or its user does not have now")]
    Missing(&'static str),
}

/// The permissions of people, and the roles that hold them.
const USER_PERMISSIONS: [(&str, Role); 12] = [
    (ReadDevices::NAME, Role::Viewer),
    (ReadTelemetry::NAME, Role::Viewer),
    (ManageOwnCredentials::NAME, Role::Viewer),
    (SendCommands::NAME, Role::Member),
    (ManageDevices::NAME, Role::Owner),
    (ManageProfiles::NAME, Role::Owner),
    (ManageUsers::NAME, Role::Owner),
    (ManageCredentials::NAME, Role::Owner),
    (IntrospectTokens::NAME, Role::Owner),
    (ReadAudit::NAME, Role::Owner),
    (ReadMetrics::NAME, Role::Owner),
    (PUBLISH_BY_MQTT, Role::Owner),
];

/// Publishing by MQTT to whatever is not the hub's.
const PUBLISH_BY_MQTT: &str = "mqtt:publish";

/// What a token that is limited to some devices can still allow: with the rest it could reach the others.
const ABOUT_DEVICES: [&str; 5] =
    [ReadDevices::NAME, ReadTelemetry::NAME, SendCommands::NAME, ManageDevices::NAME, ManageOwnCredentials::NAME];

/// What integrations and services may never be given: keys do not make keys.
const FOR_PEOPLE_ONLY: [&str; 4] = [ManageUsers::NAME, ManageCredentials::NAME, ManageOwnCredentials::NAME, ManageProfiles::NAME];

impl Role {
    /// All that a role may do.
    #[must_use]
    pub fn scope(self) -> Scope {
        USER_PERMISSIONS
            .iter()
            .filter(|(_, least)| *least <= self)
            .filter_map(|(name, _)| PermissionName::parse(name).ok())
            .collect()
    }
}

impl<P: Permission> UserPermit<'_, P> {
    /// Who acts.
    #[must_use]
    pub fn actor(&self) -> &Principal {
        &self.actor
    }

    /// Whether it is about a device.
    #[must_use]
    pub fn covers(&self, device: &DeviceId) -> bool {
        self.limited_to.as_ref().is_none_or(|devices| devices.contains(device))
    }

    /// All that the credential allows.
    #[must_use]
    pub fn allowed(&self) -> &Scope {
        &self.allowed
    }

    /// What of a scope the credential lacks, and so cannot pass on; none if nothing.
    pub(super) fn lacks(&self, needed: &Scope) -> Option<Scope> {
        let missing: Scope = needed.iter().filter(|permission| !self.allowed.contains(permission.as_str())).collect();
        (!missing.is_empty()).then_some(missing)
    }

    /// The stored credential that asks, where it is one.
    #[must_use]
    pub fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }

    /// The only devices that it is about; none for all.
    #[must_use]
    pub fn limited_to(&self) -> Option<&[DeviceId]> {
        self.limited_to.as_deref()
    }
}

impl Registry {
    /// What an authority amounts to at `now`: its rights, or why it has none.
    ///
    /// # Errors
    /// [`EndReason`] for a session that must not go on.
    pub fn judge(&self, authority: &Authority, now: UnixTime) -> Result<Standing, EndReason> {
        match (&authority.principal, &authority.proof) {
            (Principal::Device(id), Proof::AccessToken { jti, expires_at, scope, epoch, .. }) => {
                let device = self.devices.get(id).ok_or(EndReason::Revoked)?;
                device_is_active(device)?;
                if device.epoch != *epoch || self.denied_tokens.contains_key(jti) {
                    return Err(EndReason::Revoked);
                }
                expired_at(Some(*expires_at), now)?;
                Ok(Standing { rights: Arc::new(self.rights_of_device(device, scope)?), expires_at: Some(*expires_at) })
            }
            (principal, Proof::Credential(id)) => {
                let credential = self.credentials.get(id).filter(|credential| credential.subject == *principal);
                let credential = credential.filter(|credential| credential.replaced_at.is_none()).ok_or(EndReason::Revoked)?;
                expired_at(credential.expires_at, now)?;
                Ok(Standing { rights: Arc::new(self.rights_of_credential(credential)?), expires_at: credential.expires_at })
            }
            (Principal::User(_) | Principal::Integration(_), Proof::AccessToken { .. }) => Err(EndReason::Revoked),
        }
    }

    /// Whether access tokens of a principal are good only with a proof of their key, as its profile demands.
    #[must_use]
    pub fn needs_proof(&self, principal: &Principal) -> bool {
        let Principal::Device(id) = principal else { return false };
        let profile = self.devices.get(id).and_then(|device| self.profiles.get(&device.profile));
        profile.is_some_and(|profile| !profile.proof.is_optional())
    }

    /// Proof that the holder of an authority may do what a permission names: the credential's scope and the holder's rights
    /// now must both hold it.
    ///
    /// # Errors
    /// [`NotPermitted`].
    pub fn permit_user<P: Permission>(&self, authority: &Authority, now: UnixTime) -> Result<UserPermit<'_, P>, NotPermitted> {
        self.judge(authority, now).map_err(NotPermitted::Ended)?;
        let (allowed, limited_to) = self.api_rights(authority).ok_or(NotPermitted::Missing(P::NAME))?;
        if !allowed.contains(P::NAME) {
            return Err(NotPermitted::Missing(P::NAME));
        }
        let credential = match &authority.proof {
            Proof::Credential(id) => Some(id.clone()),
            Proof::AccessToken { .. } => None,
        };
        Ok(UserPermit { actor: authority.principal.clone(), allowed, limited_to, credential, judged: PhantomData })
    }

    /// What an authority holds now, for its holder and for who may introspect it.
    ///
    /// # Errors
    /// [`EndReason`] for one that holds nothing any more.
    pub fn holding(&self, authority: &Authority, now: UnixTime) -> Result<Holding, EndReason> {
        let expires_at = self.judge(authority, now)?.expires_at;
        let (scope, devices, credential) = match &authority.proof {
            Proof::AccessToken { scope, .. } => (scope.clone(), None, None),
            Proof::Credential(id) => {
                let record = self.credentials.get(id).ok_or(EndReason::Revoked)?;
                let scope = match &record.subject {
                    Principal::User(_) => self.user_scope(record),
                    Principal::Device(_) | Principal::Integration(_) => record.scope.clone(),
                };
                let scope = if record.devices.is_some() { about_devices(&scope) } else { scope };
                (scope, record.devices.clone(), Some(record.clone()))
            }
        };
        let role = match &authority.principal {
            Principal::User(name) => self.users.get(name).map(|user| user.role),
            Principal::Device(_) | Principal::Integration(_) => None,
        };
        Ok(Holding { principal: authority.principal.clone(), role, scope, devices, credential, expires_at })
    }

    /// Proof that a client may do what a permission names by its profile, however it asks; its proof is used up elsewhere.
    pub(super) fn permit_device<P: Permission>(&self, device: &DeviceRecord) -> Option<UserPermit<'_, P>> {
        let profile = self.profiles.get(&device.profile)?;
        let allowed = api_permissions(profile, &profile.scope());
        let actor = Principal::Device(device.id.clone());
        allowed.contains(P::NAME).then_some(UserPermit {
            actor,
            allowed,
            limited_to: None,
            credential: None,
            judged: PhantomData,
        })
    }

    /// The API permissions of an authority that was judged good, and the devices that it is limited to.
    pub(super) fn api_rights(&self, authority: &Authority) -> Option<(Scope, Option<Vec<DeviceId>>)> {
        match (&authority.principal, &authority.proof) {
            (Principal::Device(id), Proof::AccessToken { scope, .. }) => {
                let profile = self.profiles.get(&self.devices.get(id)?.profile)?;
                Some((api_permissions(profile, scope), None))
            }
            (Principal::User(_), Proof::Credential(id)) => {
                let credential = self.credentials.get(id)?;
                let scope = self.user_scope(credential);
                let allowed = if credential.devices.is_some() { about_devices(&scope) } else { scope };
                Some((allowed, credential.devices.clone()))
            }
            (Principal::Integration(_), Proof::Credential(id)) => {
                let credential = self.credentials.get(id)?;
                let profile = self.profiles.get(credential.profile.as_ref()?)?;
                Some((api_permissions(profile, &credential.scope), None))
            }
            // A legacy device's key opens MQTT for the device and nothing else.
            (Principal::Device(_), Proof::Credential(_))
            | (Principal::User(_) | Principal::Integration(_), Proof::AccessToken { .. }) => None,
        }
    }

    pub(super) fn rights_of_device(&self, device: &DeviceRecord, scope: &Scope) -> Result<Rights, EndReason> {
        let profile = self.profiles.get(&device.profile).ok_or(EndReason::PolicyChanged)?;
        Ok(self.rights_by_profile(profile, scope, device))
    }

    /// Whether a principal is there no more: whoever gets its name later is another one.
    #[must_use]
    pub fn is_gone(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Device(id) => self.devices.get(id).is_none_or(|device| device.status == DeviceStatus::Revoked),
            Principal::User(name) => !self.users.contains_key(name),
            Principal::Integration(_) => !self.credentials.values().any(|credential| credential.subject == *principal),
        }
    }

    /// The devices that act for a device.
    pub fn gateways_of(&self, child: &DeviceId) -> impl Iterator<Item = &DeviceId> {
        self.devices.values().filter(|device| device.children.contains(child)).map(|device| &device.id)
    }

    /// Whether what a device does counts for another one: it is the same, or acts for it.
    #[must_use]
    pub fn acts_for(&self, device: &DeviceId, other: &DeviceId) -> bool {
        device == other || self.devices.get(device).is_some_and(|device| device.children.contains(other))
    }

    fn rights_by_profile(&self, profile: &Profile, scope: &Scope, device: &DeviceRecord) -> Rights {
        // The owner cut a child off by its own name: then nobody acts for it either.
        let cut_off = |child: &DeviceId| self.devices.get(child).is_some_and(|child| device_is_active(child).is_err());
        let children: Vec<DeviceId> = device.children.iter().filter(|child| !cut_off(child)).cloned().collect();
        Rights::of_device(profile, scope, &device.id, &children)
    }

    fn rights_of_credential(&self, credential: &CredentialRecord) -> Result<Rights, EndReason> {
        match &credential.subject {
            Principal::Device(id) => {
                let device = self.devices.get(id).ok_or(EndReason::Revoked)?;
                device_is_active(device)?;
                self.rights_of_device(device, &credential.scope)
            }
            Principal::Integration(integration) => {
                let name = credential.profile.as_ref().ok_or(EndReason::PolicyChanged)?;
                let profile = self.profiles.get(name).ok_or(EndReason::PolicyChanged)?;
                Ok(Rights::of_device(profile, &credential.scope, integration, &[]))
            }
            Principal::User(name) => {
                let user = self.users.get(name).ok_or(EndReason::Revoked)?;
                let scope = self.user_scope(credential);
                let devices = credential.devices.as_deref();
                Ok(rights_of_user(&format!("user {name}"), user.role, &scope, devices))
            }
        }
    }

    /// What a personal access token can do now: never more than its user.
    pub(super) fn user_scope(&self, credential: &CredentialRecord) -> Scope {
        match &credential.subject {
            Principal::User(name) => {
                self.users.get(name).map(|user| credential.scope.intersection(&user.role.scope())).unwrap_or_default()
            }
            Principal::Device(_) | Principal::Integration(_) => Scope::default(),
        }
    }
}

/// What a person's permissions amount to with topics, for all devices or some.
pub(super) fn rights_of_user(source: &str, role: Role, scope: &Scope, devices: Option<&[DeviceId]>) -> Rights {
    let everything = role == Role::Owner;
    let mut rights = Rights::default();
    for permission in scope.iter() {
        let text = |topics: &[&str]| topics.iter().map(|topic| (*topic).to_owned()).collect::<Vec<_>>();
        let (publish, subscribe) = match (permission.as_str(), devices) {
            (ReadTelemetry::NAME, Some(devices)) => {
                (Vec::new(), devices.iter().map(|device| format!("dev/{device}/#")).collect())
            }
            (ReadTelemetry::NAME, None) if everything => (Vec::new(), text(&["#", "$SYS/#"])),
            (ReadTelemetry::NAME, None) => (Vec::new(), text(&["dev/#"])),
            // A token that is limited to devices publishes nothing in their name.
            (PUBLISH_BY_MQTT, None) => (text(&["#"]), Vec::new()),
            _ => continue,
        };
        rights.extend(Rights::granting(source, &permission, &publish, &subscribe));
    }
    rights
}

/// The part of a scope that a token can have which is limited to some devices.
pub(super) fn about_devices(scope: &Scope) -> Scope {
    scope.iter().filter(|permission| ABOUT_DEVICES.contains(&permission.as_str())).collect()
}

/// What a person must be able to do to hand out rights of a profile to an integration: what they would let it do in the API, and
/// with topics.
pub(super) fn needed_to_grant(profile: &Profile, scope: &Scope) -> Scope {
    needed(profile, scope, |_| true)
}

/// What it takes, beside managing devices, to let a device in that has a profile, or to hand out a secret of one: nothing for
/// topics that are the device's own by its name. Who writes profiles names the other servers that its tokens are for.
pub(super) fn needed_to_let_in(profile: &Profile) -> Scope {
    let elsewhere = (!profile.resources.is_empty()).then(|| PermissionName::parse(ManageProfiles::NAME).ok());
    let needed = needed(profile, &profile.scope(), |template| !template.is_about_itself());
    needed.iter().chain(elsewhere.flatten()).collect()
}

fn needed(profile: &Profile, scope: &Scope, counts: impl Fn(&FilterTemplate) -> bool) -> Scope {
    let granted: Vec<_> =
        profile.permissions.iter().filter(|(name, _)| scope.contains(name.as_str())).map(|(_, it)| it).collect();
    let topics = [
        (granted.iter().any(|grant| grant.subscribe.iter().any(&counts)), ReadTelemetry::NAME),
        (granted.iter().any(|grant| grant.publish.iter().any(&counts)), PUBLISH_BY_MQTT),
    ];
    let by_topics = topics.into_iter().filter_map(|(needed, name)| needed.then(|| PermissionName::parse(name).ok())?);
    api_permissions(profile, scope).iter().chain(by_topics).collect()
}

fn api_permissions(profile: &Profile, scope: &Scope) -> Scope {
    let granted = profile.permissions.iter().filter(|(name, _)| scope.contains(name.as_str())).flat_map(|(_, grant)| &grant.api);
    granted.filter(|permission| !FOR_PEOPLE_ONLY.contains(&permission.as_str())).cloned().collect()
}

fn device_is_active(device: &DeviceRecord) -> Result<(), EndReason> {
    match device.status {
        DeviceStatus::Active | DeviceStatus::Pending => Ok(()),
        DeviceStatus::Disabled => Err(EndReason::Disabled),
        DeviceStatus::Revoked => Err(EndReason::Revoked),
    }
}

fn expired_at(expires_at: Option<UnixTime>, now: UnixTime) -> Result<(), EndReason> {
    match expires_at {
        Some(at) if at <= now => Err(EndReason::Expired { at }),
        _ => Ok(()),
    }
}
