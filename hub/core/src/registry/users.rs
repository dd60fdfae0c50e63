//! People: added, given a role and a password, removed. A home always keeps an owner.

use super::{
    Change, Context, CredentialRecord, CredentialRefused, ManageOwnCredentials, ManageUsers, Registry, Role, UserPermit,
    UserRecord,
};
use crate::{
    Seconds,
    limits::{MAX_LOGIN_LIFETIME, MAX_PERSONAL_ACCESS_TOKENS_PER_USER, MAX_USERS},
    secret::{CredentialKind, SecretHash},
    session::{CredentialId, Principal, UserName},
    write::Table,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// An argon2id hash in PHC string format. Not a secret as such, and nobody's to see.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

/// What is to change about a person; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    /// What the person may do.
    pub role: Option<Role>,
    /// The password.
    pub password: Option<PasswordHash>,
}

/// Why a person who knows the password gets no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    /// The user or the password changed while the password was verified.
    #[error("the password was changed meanwhile")]
    PasswordChanged,
    /// A life that is too long or none.
    #[error("a login lasts from 1 s to {max} days", max = MAX_LOGIN_LIFETIME.0 / 86_400)]
    Lifetime,
    /// No room for another token.
    #[error("{0}")]
    Credential(#[from] CredentialRefused),
}

/// Why a change to people is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserRefused {
    /// No such user.
    #[error("there is no user {0}; `hearthkey user list` shows all")]
    Unknown(UserName),
    /// The name is taken.
    #[error("there is a user {0} already")]
    Exists(UserName),
    /// A home without an owner could not be managed any more.
    #[error("{0} is the only owner; make somebody else an owner first")]
    LastOwner(UserName),
    /// More than there may be.
    #[error("a home has at most {MAX_USERS} users")]
    TooMany,
    /// Who holds a part of a person's rights does not get the whole by a new password.
    #[error("this token may less than {0} may; log in, or ask with a token that has all rights, to change the password")]
    NarrowToken(UserName),
    /// Whoever makes another person, or sets their password, could act as that person.
    #[error("a token gives no rights that it lacks, and this one lacks some of {0}'s; log in, or use a token with all of them")]
    BeyondOwnRights(Role),
    /// Passwords are for people.
    #[error("only people have passwords")]
    NotAPerson,
}

impl PasswordHash {
    /// Takes a PHC string.
    #[must_use]
    pub fn new(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string, for verification.
    #[must_use]
    pub fn as_phc(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

impl Registry {
    /// All people by name.
    pub fn users(&self) -> impl Iterator<Item = &UserRecord> {
        self.users.values()
    }

    /// Adds a person.
    ///
    /// # Errors
    /// [`UserRefused`].
    pub fn add_user(
        &self,
        permit: &UserPermit<'_, ManageUsers>,
        name: UserName,
        role: Role,
        password: Option<PasswordHash>,
        context: &Context,
    ) -> Result<Change<UserRecord>, UserRefused> {
        if self.users.contains_key(&name) {
            return Err(UserRefused::Exists(name));
        }
        if self.users.len() >= MAX_USERS {
            return Err(UserRefused::TooMany);
        }
        refuse_beyond(permit, role)?;
        let user = UserRecord { name, role, created_at: context.now, password };
        Ok(self.put_user(permit.actor(), "user.create", user, context))
    }

    /// Changes what a person may do, or the password, or both; open sessions and tokens follow at once.
    ///
    /// # Errors
    /// [`UserRefused`].
    pub fn change_user(
        &self,
        permit: &UserPermit<'_, ManageUsers>,
        name: &UserName,
        change: UserChange,
        context: &Context,
    ) -> Result<Change<UserRecord>, UserRefused> {
        let UserChange { role, password } = change;
        let mut user = self.known_user(name)?.clone();
        if role.is_some_and(|role| role != Role::Owner) {
            self.refuse_last_owner(&user)?;
        }
        if role.is_some() || password.is_some() {
            refuse_beyond(permit, role.unwrap_or(user.role))?;
        }
        let target = Principal::User(name.clone());
        let mut draft = self.draft(context);
        if let Some(role) = role.filter(|role| *role != user.role) {
            user.role = role;
            draft.audit(permit.actor(), "user.role", &target);
        }
        if password.is_some() {
            user.password = password;
            draft.audit(permit.actor(), "user.password", &target);
        }
        if self.users.get(name) != Some(&user) {
            draft.put(Table::User, name.as_str(), &user);
        }
        Ok(draft.finish(user))
    }

    /// Changes one's own password, with a credential that has all rights of its user.
    ///
    /// # Errors
    /// [`UserRefused`].
    pub fn set_own_password(
        &self,
        permit: &UserPermit<'_, ManageOwnCredentials>,
        password: PasswordHash,
        context: &Context,
    ) -> Result<Change<UserRecord>, UserRefused> {
        let Principal::User(name) = permit.actor() else { return Err(UserRefused::NotAPerson) };
        let user = UserRecord { password: Some(password), ..self.known_user(name)?.clone() };
        if permit.limited_to().is_some() || !user.role.scope().is_subset_of(permit.allowed()) {
            return Err(UserRefused::NarrowToken(name.clone()));
        }
        Ok(self.put_user(permit.actor(), "user.password", user, context))
    }

    /// Makes a personal access token for a person whose password was verified against `verified`: with all rights of the
    /// person, for `lifetime`.
    ///
    /// # Errors
    /// [`LoginRefused`].
    pub fn log_in(
        &self,
        name: &UserName,
        verified: &PasswordHash,
        fresh: (CredentialId, SecretHash),
        lifetime: Seconds,
        context: &Context,
    ) -> Result<Change<CredentialRecord>, LoginRefused> {
        let user = self.users.get(name).filter(|user| user.password.as_ref() == Some(verified));
        let user = user.ok_or(LoginRefused::PasswordChanged)?;
        if !(1..=MAX_LOGIN_LIFETIME.0).contains(&lifetime.0) {
            return Err(LoginRefused::Lifetime);
        }
        let subject = Principal::User(name.clone());
        self.room_for_credentials(&subject, MAX_PERSONAL_ACCESS_TOKENS_PER_USER)?;
        let called = format!("login from {}", context.source);
        let credential = CredentialRecord {
            scope: user.role.scope(),
            expires_at: Some(context.now.plus(lifetime)),
            ..CredentialRecord::new(CredentialKind::PersonalAccessToken, subject.clone(), &called, fresh, context.now)
        };
        let mut draft = self.draft(context);
        draft.audit(&subject, "user.login", &subject);
        draft.put_credential(&subject, "credential.create", &credential);
        Ok(draft.finish(credential))
    }

    /// Removes a person; all their tokens end.
    ///
    /// # Errors
    /// [`UserRefused`].
    pub fn remove_user(
        &self,
        permit: &UserPermit<'_, ManageUsers>,
        name: &UserName,
        context: &Context,
    ) -> Result<Change<()>, UserRefused> {
        self.refuse_last_owner(self.known_user(name)?)?;
        let gone = Principal::User(name.clone());
        let mut draft = self.draft(context);
        for credential in self.credentials.values().filter(|record| record.subject == gone) {
            draft.end_credential(permit.actor(), "credential.revoke", credential);
        }
        draft.delete(Table::User, name.as_str());
        draft.audit(permit.actor(), "user.remove", &gone);
        Ok(draft.finish(()))
    }

    fn put_user(&self, actor: &Principal, action: &'static str, user: UserRecord, context: &Context) -> Change<UserRecord> {
        let mut draft = self.draft(context);
        draft.put(Table::User, user.name.as_str(), &user);
        draft.audit(actor, action, Principal::User(user.name.clone()));
        draft.finish(user)
    }

    fn known_user(&self, name: &UserName) -> Result<&UserRecord, UserRefused> {
        self.users.get(name).ok_or_else(|| UserRefused::Unknown(name.clone()))
    }

    fn refuse_last_owner(&self, user: &UserRecord) -> Result<(), UserRefused> {
        let owners = self.users.values().filter(|user| user.role == Role::Owner).count();
        if user.role == Role::Owner && owners <= 1 { Err(UserRefused::LastOwner(user.name.clone())) } else { Ok(()) }
    }
}

fn refuse_beyond(permit: &UserPermit<'_, ManageUsers>, role: Role) -> Result<(), UserRefused> {
    if role.scope().is_subset_of(permit.allowed()) { Ok(()) } else { Err(UserRefused::BeyondOwnRights(role)) }
}
