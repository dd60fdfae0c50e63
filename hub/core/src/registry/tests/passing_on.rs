//! What a credential can pass on by way of devices, keys and profiles: at most what it has.

use super::{credentials::pat, *};
use crate::registry::{CredentialRefused, KeyHolder, NewApiKey, NewPersonalAccessToken, ProfileRefused};

/// Profiles that reach beyond a device's own topics, each with what it takes to let a device in that has it.
const FAR_REACHING: [(&str, &str); 8] = [
    ("service", "commands:send devices:read telemetry:read tokens:introspect"),
    ("home-assistant", "mqtt:publish telemetry:read"),
    ("eavesdropper", "telemetry:read"),
    ("impostor", "mqtt:publish"),
    ("by-the-end", "telemetry:read"),
    ("by-the-start", "mqtt:publish"),
    ("of-another", "telemetry:read"),
    ("elsewhere", "profiles:manage"),
];

const WRITTEN: [&str; 6] = [
    "name = \"eavesdropper\"\n[permissions.all]\nsubscribe = [\"dev/oven/#\"]\n",
    "name = \"impostor\"\n[permissions.all]\npublish = [\"dev/oven/tele/x\"]\n",
    "name = \"by-the-end\"\n[permissions.all]\nsubscribe = [\"dev/+/cmd/${device}\"]\n",
    "name = \"by-the-start\"\n[permissions.all]\npublish = [\"${device}/#\"]\n",
    "name = \"of-another\"\n[permissions.all]\nsubscribe = [\"dev/oven/${device}\"]\n",
    "name = \"elsewhere\"\nresources = [\"https://grafana.local\"]\n[permissions.all]\npublish = [\"dev/${device}/tele/+\"]\n",
];

const ORDINARY: [&str; 5] = ["thermostat", "sensor", "switch", "gateway", "tasmota"];

impl World {
    fn with_profiles() -> Self {
        let mut world = Self::new();
        WRITTEN.iter().for_each(|toml| world.apply_profile(toml));
        world
    }

    /// A person may have only so many tokens.
    fn another_owner(&mut self) -> String {
        let owner = format!("owner-{}", self.fresh());
        self.user_token(&owner, Role::Owner)
    }

    /// An owner's token that may do this and nothing else.
    fn token_of(&mut self, scope: &str) -> String {
        let owner = self.another_owner();
        let scope = format!("credentials:own {scope}");
        self.create_pat(&owner, pat(Some(scope.trim_end()), 30)).expect("a subset").1
    }

    /// An owner's token about these devices, which has all that such a token can have.
    fn token_about(&mut self, devices: &[&str]) -> String {
        let owner = self.another_owner();
        let devices = Some(devices.iter().map(|device| name(device)).collect());
        self.create_pat(&owner, NewPersonalAccessToken { devices, ..pat(None, 30) }).expect("legal").1
    }

    fn add_by(&mut self, token: &str, id: &str, profile: &str, children: &[&str]) -> Result<(), DeviceRefused> {
        let (_, enrolment) = self.new_secret();
        let new = NewDevice { id: name(id), profile: name(profile), children: children.iter().map(|id| name(id)).collect() };
        self.registry.add_device(&self.permit(token), new, enrolment, &self.context()).map(drop)
    }

    fn rotate_by(&mut self, token: &str, id: &str) -> Result<(), DeviceRefused> {
        let (_, enrolment) = self.new_secret();
        self.registry.rotate_device(&self.permit(token), &name(id), enrolment, None, &self.context()).map(drop)
    }

    fn apply_by(&self, token: &str, toml: &str) -> Result<(), ProfileRefused> {
        let profile = Profile::from_toml(toml).expect("legal");
        self.registry.apply_profile(&self.permit(token), profile, &self.context()).map(drop)
    }
}

fn scope(text: &str) -> Scope {
    Scope::parse(text).expect("legal")
}

fn without(scope: &Scope, one: &str) -> Scope {
    scope.iter().filter(|permission| permission.as_str() != one).collect()
}

#[test]
fn a_token_that_manages_devices_lets_ordinary_ones_in_and_rotates_them() {
    let mut world = World::new();
    let token = world.token_of("devices:manage");
    for profile in ORDINARY {
        assert_eq!(world.add_by(&token, "lamp", profile, &["oven"]), Ok(()), "{profile}");
        let id = format!("{profile}-1");
        world.add(&id, profile).expect("new");
        assert_eq!(world.rotate_by(&token, &id), Ok(()), "{profile}");
    }
}

#[test]
fn who_lets_a_device_in_or_rotates_it_has_what_it_gets_beyond_its_own_topics() {
    let mut world = World::with_profiles();
    for (profile, takes) in FAR_REACHING {
        let takes = scope(takes);
        let id = format!("{profile}-1");
        world.add(&id, profile).expect("an owner may");
        let refused = |missing| DeviceRefused::BeyondOwnRights { profile: name(profile), missing };
        let alone = world.token_of("devices:manage");
        assert_eq!(world.add_by(&alone, "new", profile, &[]), Err(refused(takes.clone())), "{profile}");
        assert_eq!(world.rotate_by(&alone, &id), Err(refused(takes.clone())), "{profile}");
        let enough = world.token_of(&format!("devices:manage {takes}"));
        assert_eq!(world.add_by(&enough, "new", profile, &[]), Ok(()), "{profile}");
        assert_eq!(world.rotate_by(&enough, &id), Ok(()), "{profile}");
        for missing in takes.iter() {
            let token = world.token_of(&format!("devices:manage {}", without(&takes, missing.as_str())));
            let missing = [missing].into_iter().collect::<Scope>();
            assert_eq!(world.add_by(&token, "new", profile, &[]), Err(refused(missing)), "{profile}");
        }
    }
}

#[test]
fn a_token_limited_to_devices_lets_nothing_in_that_reaches_the_others() {
    let mut world = World::with_profiles();
    world.add("oven", "switch").expect("new");
    world.add("lamp", "switch").expect("new");
    world.add("bulb", "switch").expect("new");
    let token = world.token_about(&["lamp", "bulb"]);
    world.revoke("lamp");
    for profile in ORDINARY {
        assert_eq!(world.add_by(&token, "lamp", profile, &["bulb"]), Ok(()), "{profile}");
    }
    for (children, foreign) in [(["oven", "bulb"], "oven"), (["bulb", "nobody-yet"], "nobody-yet")] {
        assert_eq!(world.add_by(&token, "lamp", "gateway", &children), Err(DeviceRefused::OutOfReach(name(foreign))));
    }
    for (profile, _) in FAR_REACHING {
        assert_eq!(world.add_by(&token, "lamp", profile, &[]), Err(DeviceRefused::ReachesOthers(name(profile))), "{profile}");
    }
}

#[test]
fn a_token_limited_to_devices_gets_no_secret_of_one_that_reaches_the_others() {
    let mut world = World::with_profiles();
    world.add("oven", "switch").expect("new");
    world.add_with_children("gate", "gateway", &["oven"]).expect("new");
    for (profile, _) in FAR_REACHING {
        world.add(profile, profile).expect("new");
    }
    let devices: Vec<&str> = FAR_REACHING.map(|(profile, _)| profile).into_iter().chain(["gate"]).collect();
    let token = world.token_about(&devices);
    for (profile, _) in FAR_REACHING {
        assert_eq!(world.rotate_by(&token, profile), Err(DeviceRefused::ReachesOthers(name(profile))), "{profile}");
    }
    assert_eq!(world.rotate_by(&token, "gate"), Err(DeviceRefused::OutOfReach(name("oven"))));
    let token = world.token_about(&["gate", "oven"]);
    assert_eq!(world.rotate_by(&token, "gate"), Ok(()));
}

#[test]
fn a_key_for_a_device_takes_what_the_device_would_get() {
    let mut world = World::with_profiles();
    for (profile, takes) in FAR_REACHING {
        world.add(profile, profile).expect("new");
        let key =
            NewApiKey { name: "key".to_owned(), holder: KeyHolder::Device(name(profile)), lifetime: None, networks: Vec::new() };
        let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
        let made = world.registry.create_api_key(&world.owner(), key.clone(), fresh, &world.context()).expect("an owner may");
        let id = world.commit(made).id;
        for (token, answer) in [("", Err(CredentialRefused::KeyBeyondOwnRights { missing: scope(takes) })), (takes, Ok(()))] {
            let token = world.token_of(&format!("credentials:manage devices:manage {token}"));
            let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
            let made =
                world.registry.create_api_key(&world.permit(&token), key.clone(), fresh.clone(), &world.context()).map(drop);
            assert_eq!(made, answer, "{profile}");
            let rolled = world.registry.roll_api_key(&world.permit(&token), &id, Seconds(60), fresh, &world.context()).map(drop);
            assert_eq!(rolled, answer, "{profile}");
        }
    }
}

#[test]
fn who_changes_a_profile_has_what_its_devices_and_keys_would_get() {
    let mut world = World::new();
    let token = world.token_of("profiles:manage");
    for toml in WRITTEN {
        assert_eq!(world.apply_by(&token, toml), Ok(()), "nobody has it yet");
    }
    world.enrol("lamp", "thermostat");
    let refused = |missing| Err(ProfileRefused::BeyondOwnRights { missing: scope(missing) });
    let thermostat = |grant: &str| format!("name = \"thermostat\"\n[permissions.telemetry]\n{grant}\n");
    for (grant, takes) in [
        ("publish = [\"dev/#\"]", "mqtt:publish"),
        ("subscribe = [\"dev/#\"]", "telemetry:read"),
        ("api = [\"devices:manage\"]", "devices:manage"),
    ] {
        assert_eq!(world.apply_by(&token, &thermostat(grant)), refused(takes), "{grant}");
        let enough = world.token_of(&format!("profiles:manage {takes}"));
        assert_eq!(world.apply_by(&enough, &thermostat(grant)), Ok(()), "{grant}");
    }
    let own = thermostat("publish = [\"dev/${device}/tele/+\"]");
    assert_eq!(world.apply_by(&token, &own), Ok(()), "its own topics are a device's by its name");
    world.revoke("lamp");
    assert_eq!(world.apply_by(&token, &thermostat("publish = [\"dev/#\"]")), Ok(()), "who is revoked has nothing");

    let holder = KeyHolder::Integration { name: name("ha"), profile: name("sensor"), scope: Some(scope("telemetry")) };
    let key = NewApiKey { name: "ha".to_owned(), holder, lifetime: None, networks: Vec::new() };
    let (fresh, _) = world.fresh_credential(CredentialKind::ApiKey);
    let made = world.registry.create_api_key(&world.owner(), key, fresh, &world.context()).expect("an owner may");
    world.commit(made);
    let sensor = |permission: &str| format!("name = \"sensor\"\n[permissions.{permission}]\nsubscribe = [\"home/#\"]\n");
    assert_eq!(world.apply_by(&token, &sensor("telemetry")), refused("telemetry:read"));
    assert_eq!(world.apply_by(&token, &sensor("more")), Ok(()), "the key does not have that permission");
}
