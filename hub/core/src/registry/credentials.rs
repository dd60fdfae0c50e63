//! Personal access tokens, API keys and client secrets: kept as keyed hashes under their public id.

use super::{Change, Context, ManageProfiles, Registry, Role, UserPermit, UserRecord};
use crate::{
    UnixTime,
    limits::MAX_PROFILES,
    profile::{Profile, ProfileName},
    scope::Scope,
    secret::{CredentialKind, Pepper, PresentedCredential, SecretHash},
    session::{Authority, CredentialId, Principal, Proof, UserName},
    write::Table,
};
use serde::{Deserialize, Serialize};

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
}

impl CredentialRecord {
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

    /// The first start of a hub: its owner, and the credential by which the command line on the same machine acts.
    pub fn found(&self, owner: UserName, local: (CredentialId, SecretHash), context: &Context) -> Change<()> {
        let mut draft = self.draft(context);
        let actor = Principal::User(owner.clone());
        let user = UserRecord { name: owner.clone(), role: Role::Owner, created_at: context.now };
        draft.put(Table::User, owner.as_str(), &user);
        draft.audit(&actor, "user.create", &actor);
        let credential = CredentialRecord {
            id: local.0,
            kind: CredentialKind::PersonalAccessToken,
            subject: actor.clone(),
            name: "local owner context".to_owned(),
            hash: local.1,
            scope: Role::Owner.scope(),
            profile: None,
            created_at: context.now,
            expires_at: None,
        };
        draft.put(Table::Credential, credential.id.as_bytes(), &credential);
        draft.audit(&actor, "credential.create", format!("personal access token {}", credential.id));
        draft.finish(())
    }

    /// Stores a profile that the owner wrote; sessions of its devices are judged anew.
    ///
    /// # Errors
    /// [`TooManyProfiles`].
    pub fn apply_profile(
        &self,
        permit: &UserPermit<ManageProfiles>,
        profile: Profile,
        context: &Context,
    ) -> Result<Change<()>, TooManyProfiles> {
        if !self.profiles.contains_key(&profile.name) && self.profiles.len() >= MAX_PROFILES {
            return Err(TooManyProfiles);
        }
        let mut draft = self.draft(context);
        draft.put(Table::Profile, profile.name.as_str(), &profile);
        draft.audit(permit.actor(), "profile.apply", format!("profile {}", profile.name));
        Ok(draft.finish(()))
    }
}

/// The home has [`MAX_PROFILES`] profiles already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a home has at most {MAX_PROFILES} profiles")]
pub struct TooManyProfiles;
