//! Personal access tokens and API keys: their whole life, and what they never do.

use super::*;
use crate::{
    limits::{
        MAX_CREDENTIAL_NAME, MAX_CREDENTIALS, MAX_DEVICES_PER_TOKEN, MAX_KEYS_PER_HOLDER, MAX_NETWORKS_PER_KEY,
        MAX_PERSONAL_ACCESS_TOKENS_PER_USER, MAX_USERS,
    },
    registry::{
        CredentialRefused, KeyHolder, ManageCredentials, ManageOwnCredentials, ManageUsers, NewApiKey, NewPersonalAccessToken,
        PasswordHash, UserChange, UserRefused,
    },
    secret::SecretHash,
    session::CredentialId,
    topic::TopicName,
};

impl World {
    pub(super) fn fresh_credential(&mut self, kind: CredentialKind) -> ((CredentialId, SecretHash), String) {
        let (id, secret) = Secret::generate(kind, &random64(self.fresh()));
        ((id, self.pepper.hash(secret.expose().as_bytes())), secret.expose().to_owned())
    }

    pub(super) fn create_pat(
        &mut self,
        by: &str,
        new: NewPersonalAccessToken,
    ) -> Result<(CredentialId, String), CredentialRefused> {
        let (fresh, text) = self.fresh_credential(CredentialKind::PersonalAccessToken);
        let context = self.context();
        let change = self.registry.create_personal_access_token(&self.permit(by), new, fresh, &context)?;
        Ok((self.commit(change).id, text))
    }

    pub(super) fn rotate_pat(&mut self, by: &str, id: &str) -> Result<(CredentialId, String), CredentialRefused> {
        let (fresh, text) = self.fresh_credential(CredentialKind::PersonalAccessToken);
        let change = self.registry.rotate_personal_access_token(&self.permit(by), id, fresh, &self.context())?;
        Ok((self.commit(change).id, text))
    }

    /// Notes a use of a token, as the hub does.
    pub(super) fn use_pat(&mut self, token: &str) {
        let change = self.registry.note_use(&self.id_of(token), &self.context()).expect("its first use");
        self.commit(change);
    }

    /// Somebody uses a credential that was replaced.
    fn reuse(&mut self, id: &str) {
        let change = self.registry.revoke_family(id, &self.context());
        self.commit(change);
    }

    fn id_of(&self, token: &str) -> CredentialId {
        PresentedCredential::parse(token).expect("ours").id.into()
    }

    pub(super) fn permit<P: Permission>(&self, token: &str) -> UserPermit<'_, P> {
        let authority = self.present(token).expect("known");
        self.registry.permit_user(&authority, self.now).expect("permitted")
    }

    fn may<P: Permission>(&self, token: &str) -> bool {
        self.present(token).is_some_and(|authority| self.registry.permit_user::<P>(&authority, self.now).is_ok())
    }

    pub(super) fn user_token(&mut self, user: &str, role: Role) -> String {
        self.set_role(user, role);
        let scope = role.scope().to_string();
        self.credential(CredentialKind::PersonalAccessToken, Principal::User(name(user)), &scope, None)
    }
}

pub(super) fn pat(scope: Option<&str>, days: u64) -> NewPersonalAccessToken {
    NewPersonalAccessToken {
        name: "script".to_owned(),
        scope: scope.map(|text| Scope::parse(text).expect("legal")),
        devices: None,
        lifetime: Seconds::days(days),
    }
}

#[test]
fn a_token_passes_on_no_more_than_it_has_itself() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Member);
    let (_, narrow) = world.create_pat(&ann, pat(Some("credentials:own devices:read"), 30)).expect("a subset");
    assert!(world.may::<ReadDevices>(&narrow) && !world.may::<SendCommands>(&narrow));
    let beyond = world.create_pat(&narrow, pat(Some("commands:send"), 30));
    assert!(matches!(beyond, Err(CredentialRefused::BeyondOwnRights { .. })), "{beyond:?}");
    let owner_like = world.create_pat(&ann, pat(Some("devices:manage"), 30));
    assert!(matches!(owner_like, Err(CredentialRefused::BeyondOwnRights { .. })), "{owner_like:?}");
}

#[test]
fn a_token_never_exceeds_its_user_at_the_time_of_use() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Owner);
    assert!(world.may::<ManageDevices>(&ann));
    world.set_role("ann", Role::Viewer);
    assert!(!world.may::<ManageDevices>(&ann) && world.may::<ReadDevices>(&ann));
}

#[test]
fn a_token_lives_as_long_as_was_asked_and_at_most_a_year() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Member);
    assert_eq!(world.create_pat(&ann, pat(None, 367)).err(), Some(CredentialRefused::Lifetime));
    assert_eq!(world.create_pat(&ann, pat(None, 0)).err(), Some(CredentialRefused::Lifetime));
    let (_, token) = world.create_pat(&ann, pat(None, 1)).expect("legal");
    world.now = world.now.plus(Seconds::days(1)).minus(Seconds(1));
    assert!(world.may::<ReadDevices>(&token));
    world.now = world.now.plus(Seconds(1));
    assert!(!world.may::<ReadDevices>(&token));
}

#[test]
fn a_rotated_token_ends_when_the_new_one_is_used_and_its_reuse_ends_the_family() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Member);
    let (id, old) = world.create_pat(&ann, pat(None, 30)).expect("legal");
    let (_, new) = world.rotate_pat(&ann, &id).expect("ours");
    assert!(world.may::<ReadDevices>(&old), "a rotation whose answer was lost takes nothing away");
    world.use_pat(&new);
    assert!(!world.may::<ReadDevices>(&old) && world.may::<ReadDevices>(&new));
    assert_eq!(world.rotate_pat(&ann, &id).err(), Some(CredentialRefused::Replaced(id.clone())));
    assert!(world.audit().iter().any(|entry| entry.action == "credential.replace"));

    world.reuse(&id);
    assert!(!world.may::<ReadDevices>(&new), "whoever held the old one may hold the new one");
    assert!(world.may::<ReadDevices>(&ann), "another family goes on");
}

#[test]
fn a_token_that_rotates_itself_again_after_a_lost_answer_gets_another() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Member);
    let (id, old) = world.create_pat(&ann, pat(None, 30)).expect("legal");
    world.use_pat(&old);
    let (lost_id, lost) = world.rotate_pat(&old, &id).expect("its own");
    let (_, new) = world.rotate_pat(&old, &id).expect("again, as the answer was lost");
    assert!(!world.may::<ReadDevices>(&lost), "one takes its place, not two");
    world.use_pat(&new);
    assert!(world.may::<ReadDevices>(&new) && !world.may::<ReadDevices>(&old));
    world.reuse(&lost_id);
    assert!(!world.may::<ReadDevices>(&new), "what was lost is in other hands");
}

#[test]
fn a_thief_who_rotates_a_token_is_noticed_as_soon_as_its_holder_goes_on() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Member);
    let (id, old) = world.create_pat(&ann, pat(None, 30)).expect("legal");
    let (_, thiefs) = world.rotate_pat(&old, &id).expect("whoever holds it may");
    assert!(world.may::<ReadDevices>(&old));
    world.use_pat(&thiefs);
    assert!(!world.may::<ReadDevices>(&old), "the thief's first use ends the holder's token");
    world.reuse(&id);
    assert!(!world.may::<ReadDevices>(&thiefs), "and the holder's next use the thief's");
}

#[test]
fn a_token_that_was_never_used_makes_way_for_its_successor() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Member);
    let (id, old) = world.create_pat(&ann, pat(None, 30)).expect("legal");
    let (second_id, second) = world.rotate_pat(&ann, &id).expect("ours");
    let (_, third) = world.rotate_pat(&ann, &second_id).expect("ours");
    assert!(world.may::<ReadDevices>(&old) && !world.may::<ReadDevices>(&second));
    world.use_pat(&third);
    assert!(!world.may::<ReadDevices>(&old) && world.may::<ReadDevices>(&third));

    let (fourth_id, fourth) = world.rotate_pat(&third, &world.id_of(&third)).expect("its own");
    let (_, fifth) = world.rotate_pat(&fourth, &fourth_id).expect("it asks for itself, which is a use");
    assert!(!world.may::<ReadDevices>(&third) && world.may::<ReadDevices>(&fourth));
    world.use_pat(&fifth);
    assert!(!world.may::<ReadDevices>(&fourth) && world.may::<ReadDevices>(&fifth));
}

#[test]
fn everyone_revokes_their_own_and_the_owner_everyones() {
    let mut world = World::new();
    let (ann, bob) = (world.user_token("ann", Role::Member), world.user_token("bob", Role::Member));
    let owner = world.user_token("olga", Role::Owner);
    let (id, token) = world.create_pat(&ann, pat(None, 30)).expect("legal");
    let context = world.context();
    let foreign = world.registry.revoke_credential(&world.permit(&bob), &id, &context);
    assert_eq!(foreign.map(drop), Err(CredentialRefused::Unknown(id.clone())));
    assert!(world.may::<ReadDevices>(&token));
    let change = world.registry.revoke_credential(&world.permit(&owner), &id, &context).expect("the owner may");
    world.commit(change);
    assert!(!world.may::<ReadDevices>(&token));
    assert_eq!(world.registry.credentials_seen_by(&world.permit(&bob)).count(), 1);
}

#[test]
fn removing_a_user_ends_their_tokens_and_the_last_owner_stays() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    let ann = world.user_token("ann", Role::Owner);
    let context = world.context();
    let owners: Vec<_> = world.registry.users().filter(|user| user.role == Role::Owner).map(|user| user.name.clone()).collect();
    for gone in owners.iter().filter(|owner| owner.as_str() != "olga") {
        let change = world.registry.remove_user(&world.permit(&owner), gone, &context).expect("others are left");
        world.commit(change);
    }
    assert!(world.present(&ann).is_none());
    assert!(world.registry.remove_user(&world.permit(&owner), &name("olga"), &context).is_err());
    let demoted = UserChange { role: Some(Role::Viewer), password: None };
    assert!(world.registry.change_user(&world.permit(&owner), &name("olga"), demoted, &context).is_err());
}

#[test]
fn a_token_limited_to_devices_reaches_no_other() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    world.add("lamp", "switch").expect("new");
    world.add("oven", "switch").expect("new");
    let limited = NewPersonalAccessToken { devices: Some(vec![name("lamp")]), ..pat(None, 30) };
    let (_, token) = world.create_pat(&owner, limited).expect("legal");
    let permit = world.permit::<ManageDevices>(&token);
    let context = world.context();
    assert!(world.registry.disable_device(&permit, &name("lamp"), &context).is_ok());
    assert_eq!(
        world.registry.disable_device(&permit, &name("oven"), &context).map(drop),
        Err(DeviceRefused::OutOfReach(name("oven")))
    );
    let standing = world.registry.judge(&world.present(&token).expect("known"), world.now).expect("good");
    let receives = |topic: &str| standing.rights.authorize_delivery(&TopicName::parse(topic).expect("legal")).is_ok();
    assert!(receives("dev/lamp/tele/x") && !receives("dev/oven/tele/x"));
    assert!(standing.rights.authorize_publish(TopicName::parse("home/x").expect("legal")).is_err());
    let widened = world.create_pat(&token, NewPersonalAccessToken { devices: Some(vec![name("oven")]), ..pat(None, 30) });
    assert_eq!(widened.map(drop), Err(CredentialRefused::OutOfReach(name("oven"))));
}

#[test]
fn an_api_key_rolls_with_an_overlap_and_cannot_manage_credentials() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    let profile = "name = \"greedy\"\n[permissions.all]\napi = [\"devices:read\", \"credentials:manage\", \"users:manage\", \"credentials:own\"]\nsubscribe = [\"dev/#\"]\n";
    let profile = Profile::from_toml(profile).expect("legal");
    world.put(Table::Profile, b"greedy", &profile);
    let holder = KeyHolder::Integration { name: name("ha"), profile: name("greedy"), scope: None };
    let new = NewApiKey {
        name: "Home Assistant".to_owned(),
        holder,
        lifetime: None,
        networks: vec!["10.0.0.0/8".parse().expect("legal")],
    };
    let (fresh, old) = world.fresh_credential(CredentialKind::ApiKey);
    let context = world.context();
    let change = world.registry.create_api_key(&world.permit(&owner), new, fresh, &context).expect("legal");
    let id = world.commit(change).id;
    assert!(world.may::<ReadDevices>(&old));
    assert!(!world.may::<ManageCredentials>(&old) && !world.may::<ManageUsers>(&old) && !world.may::<ManageOwnCredentials>(&old));
    let record = world.registry.credential(&id).expect("kept");
    assert!(record.may_come_from([10, 1, 2, 3].into()) && !record.may_come_from([192, 168, 0, 1].into()));

    let (fresh, new) = world.fresh_credential(CredentialKind::ApiKey);
    let change = world.registry.roll_api_key(&world.permit(&owner), &id, Seconds(60), fresh, &context).expect("ours");
    world.commit(change);
    assert!(world.may::<ReadDevices>(&old) && world.may::<ReadDevices>(&new), "both work for the overlap");
    world.now = world.now.plus(Seconds(60));
    assert!(!world.may::<ReadDevices>(&old) && world.may::<ReadDevices>(&new));
}

#[test]
fn a_key_may_do_no_more_than_who_makes_it() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    world.add("plug", "tasmota").expect("new");
    let integration = |profile: &str| KeyHolder::Integration { name: name("ha"), profile: name(profile), scope: None };
    let key = |holder: KeyHolder| NewApiKey { name: "key".to_owned(), holder, lifetime: None, networks: Vec::new() };
    for (scope, holder, missing) in [
        ("credentials:manage", integration("home-assistant"), Some("mqtt:publish telemetry:read")),
        ("credentials:manage telemetry:read", integration("home-assistant"), Some("mqtt:publish")),
        ("credentials:manage", KeyHolder::Device(name("plug")), Some("devices:manage")),
        ("credentials:manage mqtt:publish telemetry:read", integration("home-assistant"), None),
        ("credentials:manage devices:manage", KeyHolder::Device(name("plug")), None),
    ] {
        let (_, maker) = world.create_pat(&owner, pat(Some(&format!("credentials:own {scope}")), 30)).expect("a subset");
        let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
        let made = world.registry.create_api_key(&world.permit(&maker), key(holder.clone()), fresh, &world.context());
        let lacks = missing.map(|text| CredentialRefused::KeyBeyondOwnRights { missing: Scope::parse(text).expect("legal") });
        assert_eq!(made.as_ref().map(drop).err(), lacks.as_ref(), "{scope} for {holder:?}");

        let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
        let change =
            world.registry.create_api_key(&world.owner(), key(holder.clone()), fresh, &world.context()).expect("an owner");
        let id = world.commit(change).id;
        let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
        let rolled = world.registry.roll_api_key(&world.permit(&maker), &id, Seconds(60), fresh, &world.context());
        assert_eq!(rolled.as_ref().map(drop).err(), lacks.as_ref(), "rolling hands it out too: {scope} for {holder:?}");
    }
}

#[test]
fn a_device_that_may_not_connect_gets_no_key() {
    let mut world = World::new();
    world.add("plug", "tasmota").expect("new");
    let make = |world: &mut World| {
        let new =
            NewApiKey { name: "key".to_owned(), holder: KeyHolder::Device(name("plug")), lifetime: None, networks: Vec::new() };
        let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
        world.registry.create_api_key(&world.owner(), new, fresh, &world.context()).map(drop)
    };
    assert_eq!(make(&mut world), Ok(()));
    world.disable("plug");
    assert_eq!(make(&mut world), Err(CredentialRefused::DisabledDevice(name("plug"))));
    world.revoke("plug");
    assert_eq!(make(&mut world), Err(CredentialRefused::RevokedDevice(name("plug"))));
}

#[test]
fn a_token_that_lacks_rights_cannot_give_them_to_a_person() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    world.set_role("ann", Role::Member);
    let scope = format!("users:manage {}", Role::Member.scope());
    let (_, narrow) = world.create_pat(&owner, pat(Some(&scope), 30)).expect("a subset");
    let (permit, context) = (world.permit::<ManageUsers>(&narrow), world.context());
    let password = || Some(PasswordHash::new("$argon2id$…".to_owned()));
    let add = |role| world.registry.add_user(&permit, name("eve"), role, password(), &context).map(drop);
    assert_eq!((add(Role::Member), add(Role::Owner)), (Ok(()), Err(UserRefused::BeyondOwnRights(Role::Owner))));
    let change = |user: &str, role, password| {
        world.registry.change_user(&permit, &name(user), UserChange { role, password }, &context).map(drop)
    };
    assert_eq!(change("ann", Some(Role::Owner), None), Err(UserRefused::BeyondOwnRights(Role::Owner)));
    assert_eq!(change("olga", None, password()), Err(UserRefused::BeyondOwnRights(Role::Owner)));
    assert_eq!(change("ann", Some(Role::Viewer), password()), Ok(()));
}

#[test]
fn the_last_use_is_known_without_a_write_for_each() {
    let mut world = World::new();
    let token = world.user_token("ann", Role::Member);
    let id = PresentedCredential::parse(&token).expect("ours").id.to_owned();
    let context = Context { source: "10.0.0.1".to_owned(), ..world.context() };
    let change = world.registry.note_use(&id, &context).expect("the first use is news");
    world.commit(change);
    assert!(world.registry.note_use(&id, &context).is_none());
    let elsewhere = Context { source: "10.0.0.2".to_owned(), ..context.clone() };
    assert!(world.registry.note_use(&id, &elsewhere).is_some());
    let later = Context { now: context.now.plus(crate::limits::LAST_USED_RESOLUTION), ..context };
    assert!(world.registry.note_use(&id, &later).is_some());
}

#[test]
fn a_token_limited_to_devices_cannot_widen_itself_by_way_of_users_profiles_keys_or_another_token() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    world.add("lamp", "switch").expect("new");
    let (unlimited, _) = world.create_pat(&owner, pat(None, 30)).expect("legal");
    let limited = NewPersonalAccessToken { devices: Some(vec![name("lamp")]), ..pat(None, 30) };
    let (own, token) = world.create_pat(&owner, limited).expect("legal");
    assert!(world.may::<ManageDevices>(&token) && world.may::<SendCommands>(&token) && world.may::<ReadTelemetry>(&token));
    assert!(!world.may::<ManageUsers>(&token) && !world.may::<ManageCredentials>(&token));
    assert!(!world.may::<ManageProfiles>(&token) && !world.may::<ReadAudit>(&token));
    let (fresh, _) = world.fresh_credential(CredentialKind::PersonalAccessToken);
    let context = world.context();
    let widened = world.registry.rotate_personal_access_token(&world.permit(&token), &unlimited, fresh.clone(), &context);
    assert!(widened.is_err());
    assert!(world.registry.rotate_personal_access_token(&world.permit(&token), &own, fresh, &context).is_ok(), "its own it may");
    let password = || PasswordHash::new("$argon2id$…".to_owned());
    let refused = world.registry.set_own_password(&world.permit(&token), password(), &context);
    assert_eq!(refused.map(drop), Err(UserRefused::NarrowToken(name("olga"))));
    assert!(world.registry.set_own_password(&world.permit(&owner), password(), &context).is_ok());
}

#[test]
fn a_token_with_a_part_of_a_persons_rights_cannot_set_the_persons_password() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    let (_, narrow) = world.create_pat(&owner, pat(Some("credentials:own"), 30)).expect("a subset");
    let refused =
        world.registry.set_own_password(&world.permit(&narrow), PasswordHash::new("$argon2id$…".to_owned()), &world.context());
    assert_eq!(refused.map(drop), Err(UserRefused::NarrowToken(name("olga"))));
}

#[test]
fn rotating_without_end_keeps_so_many_tokens_and_no_more() {
    let mut world = World::new();
    let ann = world.user_token("ann", Role::Member);
    let (mut id, _) = world.create_pat(&ann, pat(None, 30)).expect("legal");
    for round in 0..4 * MAX_PERSONAL_ACCESS_TOKENS_PER_USER {
        world.wait(1);
        let (next, text) = world.rotate_pat(&ann, &id).expect("its own");
        match round % 3 {
            0 => world.use_pat(&text),
            1 => continue,
            _ => {}
        }
        id = next;
        let held = world.registry.credentials_seen_by(&world.permit(&ann)).count();
        assert!(held <= MAX_PERSONAL_ACCESS_TOKENS_PER_USER, "{held}");
    }
}

#[test]
fn people_tokens_and_keys_have_bounds_and_the_largest_fit_into_a_row() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    let context = world.context();
    let devices: Vec<DeviceId> =
        (0..=MAX_DEVICES_PER_TOKEN).map(|number| name(&format!("{}{number:04}", "x".repeat(28)))).collect();
    for device in &devices {
        world.add(device.as_str(), "switch").expect("new");
    }
    let about = |count: usize| NewPersonalAccessToken {
        name: "\"".repeat(MAX_CREDENTIAL_NAME),
        devices: Some(devices[..count].to_vec()),
        ..pat(None, 30)
    };
    assert!(world.create_pat(&owner, about(MAX_DEVICES_PER_TOKEN)).is_ok());
    assert!(matches!(world.create_pat(&owner, about(MAX_DEVICES_PER_TOKEN + 1)), Err(CredentialRefused::TooMany(_))));
    for bad in ["", " ", "a\nb", &"x".repeat(MAX_CREDENTIAL_NAME + 1)] {
        let named = NewPersonalAccessToken { name: bad.to_owned(), ..pat(None, 30) };
        assert_eq!(world.create_pat(&owner, named).map(drop), Err(CredentialRefused::Name), "{bad:?}");
    }
    let held = world
        .registry
        .credentials_seen_by(&world.permit(&owner))
        .filter(|record| record.subject == Principal::User(name("olga")))
        .count();
    for _ in held..MAX_PERSONAL_ACCESS_TOKENS_PER_USER {
        world.create_pat(&owner, pat(None, 30)).expect("room");
    }
    assert!(matches!(world.create_pat(&owner, pat(None, 30)), Err(CredentialRefused::TooMany(_))));

    let key = |networks: usize| NewApiKey {
        name: "\"".repeat(MAX_CREDENTIAL_NAME),
        holder: KeyHolder::Integration { name: name("ha"), profile: name("home-assistant"), scope: None },
        lifetime: None,
        networks: vec!["fd00:aaaa:bbbb:cccc:dddd:eeee:ffff:0123/128".parse().expect("legal"); networks],
    };
    let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
    let refused = world.registry.create_api_key(&world.permit(&owner), key(MAX_NETWORKS_PER_KEY + 1), fresh, &context);
    assert!(matches!(refused, Err(CredentialRefused::TooMany(_))));
    for _ in 0..MAX_KEYS_PER_HOLDER {
        let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
        let change =
            world.registry.create_api_key(&world.permit(&owner), key(MAX_NETWORKS_PER_KEY), fresh, &context).expect("room");
        world.commit(change);
    }
    let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
    assert!(matches!(
        world.registry.create_api_key(&world.permit(&owner), key(0), fresh, &context),
        Err(CredentialRefused::TooMany(_))
    ));

    for number in world.registry.users().count()..MAX_USERS {
        let change = world
            .registry
            .add_user(&world.permit(&owner), name(&format!("u-{number}")), Role::Viewer, None, &context)
            .expect("room");
        world.commit(change);
    }
    assert_eq!(
        world.registry.add_user(&world.permit(&owner), name("one-more"), Role::Viewer, None, &context).map(drop),
        Err(UserRefused::TooMany)
    );
}

#[test]
fn a_hub_keeps_so_many_credentials_and_no_more() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    let record = world.registry.credentials.values().next().expect("the owner's").clone();
    for number in world.registry.credentials.len()..MAX_CREDENTIALS {
        let id: CredentialId = format!("x{number:011}").into();
        let subject = Principal::User(name(&format!("u-{}", number % MAX_USERS)));
        let record = CredentialRecord { id: id.clone(), subject, ..record.clone() };
        world.put(Table::Credential, id.as_bytes(), &record);
    }
    assert!(matches!(world.create_pat(&owner, pat(None, 30)), Err(CredentialRefused::TooMany(_))));
}

#[test]
fn a_legacy_device_that_was_paused_is_active_again_afterwards() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    world.add("plug", "tasmota").expect("new");
    let new =
        NewApiKey { name: "plug".to_owned(), holder: KeyHolder::Device(name("plug")), lifetime: None, networks: Vec::new() };
    let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
    let change = world.registry.create_api_key(&world.permit(&owner), new, fresh, &world.context()).expect("legal");
    world.commit(change);
    assert_eq!(world.device("plug").status, DeviceStatus::Active);
    world.disable("plug");
    world.enable("plug");
    assert_eq!(world.device("plug").status, DeviceStatus::Active);
}

#[test]
fn a_token_limited_to_devices_sees_and_ends_no_token_that_reaches_further() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    for device in ["lamp", "oven"] {
        world.add(device, "switch").expect("new");
    }
    let about = |devices: &[&str]| NewPersonalAccessToken {
        devices: Some(devices.iter().map(|device| name(device)).collect()),
        ..pat(None, 30)
    };
    let (own, token) = world.create_pat(&owner, about(&["lamp"])).expect("legal");
    let (like, _) = world.create_pat(&owner, about(&["lamp"])).expect("legal");
    let (wider, _) = world.create_pat(&owner, about(&["lamp", "oven"])).expect("legal");
    let (unlimited, _) = world.create_pat(&owner, pat(None, 30)).expect("legal");
    let permit = world.permit::<ManageOwnCredentials>(&token);
    let mut seen: Vec<_> = world.registry.credentials_seen_by(&permit).map(|record| record.id.clone()).collect();
    let mut expected = [own, like];
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    for other in [wider, unlimited] {
        let revoked = world.registry.revoke_credential(&permit, &other, &world.context());
        assert_eq!(revoked.map(drop), Err(CredentialRefused::Unknown(other)));
    }
}

#[test]
fn who_sees_no_devices_does_not_learn_of_one_by_asking_for_a_credential() {
    let mut world = World::new();
    let owner = world.user_token("olga", Role::Owner);
    world.add("lamp", "switch").expect("new");
    for (scope, of_a_ghost) in
        [("credentials:own", Ok(())), ("credentials:own devices:read", Err(CredentialRefused::UnknownDevice(name("ghost"))))]
    {
        let (_, token) = world.create_pat(&owner, pat(Some(scope), 30)).expect("a subset");
        let about = |device: &str| NewPersonalAccessToken { devices: Some(vec![name(device)]), ..pat(None, 30) };
        assert_eq!(world.create_pat(&token, about("lamp")).map(drop), Ok(()), "{scope}");
        assert_eq!(world.create_pat(&token, about("ghost")).map(drop), of_a_ghost, "{scope}");
    }
    let (_, blind) = world.create_pat(&owner, pat(Some("credentials:own credentials:manage"), 30)).expect("a subset");
    for device in ["lamp", "ghost"] {
        let holder = KeyHolder::Device(name(device));
        let key = NewApiKey { name: "key".to_owned(), holder, lifetime: None, networks: Vec::new() };
        let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
        let made = world.registry.create_api_key(&world.permit(&blind), key, fresh, &world.context()).map(drop);
        let missing = Scope::parse("devices:manage").expect("legal");
        assert_eq!(made, Err(CredentialRefused::KeyBeyondOwnRights { missing }), "{device}");
    }
}
