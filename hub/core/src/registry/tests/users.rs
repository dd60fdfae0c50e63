use super::*;
use crate::topic::{SubscriptionFilter, TopicName};

impl World {
    /// Stores a credential as its shell will; the answer is its secret text.
    pub(super) fn credential(
        &mut self,
        kind: CredentialKind,
        subject: Principal,
        scope: &str,
        expires_at: Option<UnixTime>,
    ) -> String {
        let (id, secret) = Secret::generate(kind, &random64(self.fresh()));
        let hash = self.pepper.hash(secret.expose().as_bytes());
        let record = CredentialRecord {
            scope: Scope::parse(scope).expect("legal"),
            expires_at,
            ..CredentialRecord::new(kind, subject, "test", (id, hash), self.now)
        };
        self.put(Table::Credential, record.id.as_bytes(), &record);
        secret.expose().to_owned()
    }

    pub(super) fn put(&mut self, table: Table, key: &[u8], row: &impl Serialize) {
        let value = serde_json::to_vec(row).expect("plain JSON");
        self.commit(Change { writes: vec![Write::Put { table, key: key.to_vec(), value }], answer: () });
    }

    pub(super) fn set_role(&mut self, user: &str, role: Role) {
        let record = UserRecord { name: name(user), role, created_at: self.now, password: None };
        self.put(Table::User, user.as_bytes(), &record);
    }

    pub(super) fn present(&self, secret: &str) -> Option<Authority> {
        self.registry.authenticate_credential(&PresentedCredential::parse(secret).ok()?, &self.pepper)
    }

    /// Which of our permissions the holder of an authority has.
    fn permitted(&self, authority: &Authority) -> Vec<&'static str> {
        fn ask<P: Permission>(world: &World, authority: &Authority) -> Option<&'static str> {
            world.registry.permit_user::<P>(authority, world.now).ok().map(|_| P::NAME)
        }
        let all = [
            ask::<ReadDevices>,
            ask::<ManageDevices>,
            ask::<ManageProfiles>,
            ask::<ReadTelemetry>,
            ask::<SendCommands>,
            ask::<ReadAudit>,
        ];
        all.iter().filter_map(|ask| ask(self, authority)).collect()
    }
}

const EVERYTHING: &str =
    "audit:read commands:send devices:manage devices:read mqtt:publish profiles:manage telemetry:read users:manage";

fn person(world: &mut World, role: Role, scope: &str) -> Authority {
    world.set_role("kim", role);
    let secret = world.credential(CredentialKind::PersonalAccessToken, Principal::User(name("kim")), scope, None);
    world.present(&secret).expect("the secret is right")
}

#[test]
fn a_role_bounds_what_a_token_can_do_however_wide_its_scope() {
    let mut world = World::new();
    let expected: [(Role, &[&str]); 3] = [
        (Role::Viewer, &["devices:read", "telemetry:read"]),
        (Role::Member, &["devices:read", "telemetry:read", "commands:send"]),
        (Role::Owner, &["devices:read", "devices:manage", "profiles:manage", "telemetry:read", "commands:send", "audit:read"]),
    ];
    for (role, permissions) in expected {
        let kim = person(&mut world, role, EVERYTHING);
        assert_eq!(world.permitted(&kim), permissions, "{role:?}");
    }
}

#[test]
fn a_scope_bounds_what_an_owner_can_do_with_a_token() {
    let mut world = World::new();
    let kim = person(&mut world, Role::Owner, "devices:read");
    assert_eq!(world.permitted(&kim), ["devices:read"]);
    let refused = world.registry.permit_user::<ManageDevices>(&kim, world.now).expect_err("beyond its scope");
    assert!(refused.to_string().contains("devices:manage"), "{refused}");
}

#[test]
fn a_user_who_lost_a_right_or_left_loses_it_at_once() {
    let mut world = World::new();
    let kim = person(&mut world, Role::Owner, EVERYTHING);
    world.set_role("kim", Role::Viewer);
    assert_eq!(world.permitted(&kim), ["devices:read", "telemetry:read"]);
    world.commit(Change { writes: vec![Write::Delete { table: Table::User, key: b"kim".to_vec() }], answer: () });
    assert_eq!(world.permitted(&kim), [""; 0]);
    assert_eq!(world.registry.judge(&kim, world.now).map(drop), Err(EndReason::Revoked));
}

#[test]
fn an_expired_token_permits_nothing() {
    let mut world = World::new();
    world.set_role("kim", Role::Owner);
    let until = world.now.plus(Seconds(60));
    let secret = world.credential(CredentialKind::PersonalAccessToken, Principal::User(name("kim")), EVERYTHING, Some(until));
    let kim = world.present(&secret).expect("the secret is right");
    world.wait(59);
    assert!(!world.permitted(&kim).is_empty());
    world.wait(1);
    assert_eq!(world.permitted(&kim), [""; 0]);
    assert_eq!(world.registry.judge(&kim, world.now).map(drop), Err(EndReason::Expired { at: until }));
}

#[test]
fn an_unknown_wrong_or_removed_token_is_nobodys() {
    let mut world = World::new();
    let kim = person(&mut world, Role::Owner, EVERYTHING);
    let (_, unknown) = Secret::generate(CredentialKind::PersonalAccessToken, &random64(99));
    assert_eq!(world.present(unknown.expose()), None);
    let Proof::Credential(id) = &kim.proof else { panic!("a credential") };
    // The right public id with another secret part: only the whole text counts.
    let forged = format!("hk_pat_{id}_{}", &unknown.expose()[20..52]);
    let mut crc = u64::from(crc32fast::hash(forged.as_bytes()));
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[usize::try_from(crc % 62).expect("small")];
        crc /= 62;
    }
    let forged = forged + std::str::from_utf8(&digits).expect("ASCII");
    assert!(PresentedCredential::parse(&forged).is_ok(), "well-formed");
    assert_eq!(world.present(&forged), None);
    world.commit(Change { writes: vec![Write::Delete { table: Table::Credential, key: id.as_bytes().to_vec() }], answer: () });
    assert_eq!(world.permitted(&kim), [""; 0], "removed");
    assert_eq!(world.registry.judge(&kim, world.now).map(drop), Err(EndReason::Revoked));
}

#[test]
fn no_devices_token_permits_what_people_may() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("the key is proved");
    assert_eq!(world.permitted(&token.authority()), [""; 0]);
    let secret = world.credential(CredentialKind::ApiKey, Principal::Integration(name("key")), EVERYTHING, None);
    let key = world.present(&secret).expect("the secret is right");
    assert_eq!(world.permitted(&key), [""; 0], "an API key cannot manage credentials or devices");
}

#[test]
fn people_see_devices_by_mqtt_and_only_an_owner_publishes() {
    let mut world = World::new();
    let subscription = |text| SubscriptionFilter::parse(text).expect("legal");
    let topic = |text| TopicName::parse(text).expect("legal");
    for (role, sees_devices, sees_all, publishes) in
        [(Role::Viewer, true, false, false), (Role::Member, true, false, false), (Role::Owner, true, true, true)]
    {
        let kim = person(&mut world, role, EVERYTHING);
        let rights = world.registry.judge(&kim, world.now).expect("good").rights;
        assert_eq!(rights.authorize_subscribe(subscription("dev/+/tele/#")).is_ok(), sees_devices, "{role:?}");
        assert_eq!(rights.authorize_subscribe(subscription("#")).is_ok(), sees_all, "{role:?}");
        assert_eq!(rights.authorize_publish(topic("homeassistant/status")).is_ok(), publishes, "{role:?}");
        assert!(rights.authorize_publish(topic("dev/lamp/cmd/on")).is_err(), "commands go through the hub: {role:?}");
    }
    let blind = person(&mut world, Role::Owner, "devices:manage");
    let rights = world.registry.judge(&blind, world.now).expect("good").rights;
    assert!(rights.authorize_subscribe(subscription("dev/lamp/tele/x")).is_err(), "not in its scope");
}
