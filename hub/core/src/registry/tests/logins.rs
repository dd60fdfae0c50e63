//! People: what changes about them, and what a password gives.

use super::*;
use crate::{
    limits::{EXPIRES_SOON, MAX_LOGIN_LIFETIME, UNUSED_AFTER},
    registry::{CredentialWarning, LoginRefused, ManageUsers, PasswordHash, UserChange, UserRefused},
};

fn hash(text: &str) -> PasswordHash {
    PasswordHash::new(text.to_owned())
}

impl World {
    fn add_person(&mut self, user: &str, role: Role, password: Option<&str>) {
        let change = self.registry.add_user(&self.owner(), name(user), role, password.map(hash), &self.context());
        self.commit(change.expect("a free name"));
    }

    fn change_person(&mut self, user: &str, role: Option<Role>, password: Option<&str>) -> Result<UserRecord, UserRefused> {
        let change = UserChange { role, password: password.map(hash) };
        let change = self.registry.change_user(&self.owner(), &name(user), change, &self.context())?;
        Ok(self.commit(change))
    }

    fn log_in(&mut self, user: &str, verified: &str, lifetime: Seconds) -> Result<(CredentialRecord, String), LoginRefused> {
        let (fresh, text) = self.fresh_credential(CredentialKind::PersonalAccessToken);
        let change = self.registry.log_in(&name(user), &hash(verified), fresh, lifetime, &self.context())?;
        Ok((self.commit(change), text))
    }

    fn actions(&self) -> Vec<String> {
        self.audit().into_iter().map(|entry| entry.action).collect()
    }
}

#[test]
fn role_and_password_change_together_or_one_by_one() {
    let mut world = World::new();
    world.add_person("ann", Role::Viewer, None);
    let both = world.change_person("ann", Some(Role::Owner), Some("new")).expect("known");
    assert_eq!((both.role, both.password), (Role::Owner, Some(hash("new"))));
    let role = world.change_person("ann", Some(Role::Member), None).expect("the founder is an owner too");
    assert_eq!((role.role, role.password), (Role::Member, Some(hash("new"))), "the password stays");
    let entries = world.actions();
    assert_eq!(entries[entries.len() - 3..], ["user.role", "user.password", "user.role"]);
    world.change_person("ann", Some(Role::Member), None).expect("nothing to do");
    assert_eq!(world.actions(), entries, "what changes nothing is not audited");
    assert_eq!(world.change_person("bob", None, Some("x")).map(drop), Err(UserRefused::Unknown(name("bob"))));
    let last = world.change_person("owner", Some(Role::Member), None);
    assert_eq!(last.map(drop), Err(UserRefused::LastOwner(name("owner"))));
    assert!(world.change_person("owner", None, Some("x")).is_ok(), "the last owner may still get a password");
}

#[test]
fn a_password_gives_a_token_with_the_rights_of_its_person() {
    let mut world = World::new();
    world.add_person("ann", Role::Member, Some("right"));
    let (record, token) = world.log_in("ann", "right", Seconds(60)).expect("the password is right");
    assert_eq!((record.name.as_str(), &record.scope), ("login from 192.0.2.7:4711", &Role::Member.scope()));
    assert_eq!(record.expires_at, Some(world.now.plus(Seconds(60))));
    let authority = world.present(&token).expect("the secret is right");
    assert!(world.registry.permit_user::<SendCommands>(&authority, world.now).is_ok());
    assert!(world.registry.permit_user::<ManageUsers>(&authority, world.now).is_err());
    assert!(world.actions().contains(&"user.login".to_owned()));
    world.wait(60);
    assert!(world.registry.judge(&authority, world.now).is_err());
}

#[test]
fn a_password_that_was_changed_while_it_was_verified_gives_nothing() {
    let mut world = World::new();
    world.add_person("ann", Role::Member, Some("old"));
    world.add_person("bob", Role::Member, None);
    world.change_person("ann", None, Some("new")).expect("known");
    for (user, verified) in [("ann", "old"), ("bob", "old"), ("nobody", "old")] {
        assert_eq!(world.log_in(user, verified, Seconds(60)).map(drop), Err(LoginRefused::PasswordChanged), "{user}");
    }
    for lifetime in [Seconds(0), Seconds(MAX_LOGIN_LIFETIME.0 + 1), Seconds(u64::MAX)] {
        assert_eq!(world.log_in("ann", "new", lifetime).map(drop), Err(LoginRefused::Lifetime));
    }
    assert!(world.log_in("ann", "new", MAX_LOGIN_LIFETIME).is_ok());
}

#[test]
fn whoever_logs_in_without_end_meets_a_bound() {
    let mut world = World::new();
    world.add_person("ann", Role::Member, Some("right"));
    let refused = (0..100).find_map(|_| world.log_in("ann", "right", Seconds(60)).err());
    assert!(matches!(refused, Some(LoginRefused::Credential(_))), "{refused:?}");
    world.wait(60);
    world.sweep();
    assert!(world.log_in("ann", "right", Seconds(60)).is_ok(), "ended tokens make room");
}

#[test]
fn a_credential_that_ends_soon_or_lies_unused_is_pointed_out() {
    let mut world = World::new();
    let until = |world: &World, span: Seconds| Some(world.now.plus(span));
    let year = until(&world, Seconds::days(366));
    let hours = until(&world, Seconds(3_600));
    let subject = Principal::User(name("owner"));
    for expires_at in [year, hours, None] {
        world.credential(CredentialKind::PersonalAccessToken, subject.clone(), "devices:read", expires_at);
    }
    let warnings = |world: &World, expires_at| {
        let named = |record: &&CredentialRecord| record.name == "test" && record.expires_at == expires_at;
        let record = world.registry.credentials.values().find(named).expect("kept").clone();
        (record.warnings(world.now), CredentialRecord { replaced_at: Some(world.now), ..record }.warnings(world.now))
    };
    assert_eq!(warnings(&world, year).0, []);
    assert_eq!(warnings(&world, hours).0, [], "it was made for hours");
    world.wait(UNUSED_AFTER.0 - 1);
    assert_eq!(warnings(&world, None).0, []);
    world.wait(1);
    assert_eq!(warnings(&world, None), (vec![CredentialWarning::Unused], vec![]), "a replaced one is history");
    world.now = year.expect("set").minus(EXPIRES_SOON);
    assert_eq!(warnings(&world, year).0, [CredentialWarning::ExpiresSoon, CredentialWarning::Unused]);
    world.now = world.now.minus(Seconds(1));
    assert_eq!(warnings(&world, year).0, [CredentialWarning::Unused]);
}
