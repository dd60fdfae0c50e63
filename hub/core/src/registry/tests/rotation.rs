use super::*;
use crate::limits::{MAX_OVERLAP, ROTATION_GRACE};

#[test]
fn the_old_key_works_until_the_new_one_is_used_and_for_an_hour_after() {
    let mut world = World::with_devices(&["lamp"]);
    let code = world.rotate_by_code("lamp").expect("known");
    assert!(world.token("lamp").is_ok(), "a rotation that was only asked for changes nothing");
    world.register(&code, &key("lamp-2")).expect("the code is good");
    world.wait(10 * ROTATION_GRACE.0);
    assert!(world.token("lamp").is_ok(), "the new key was never used");
    assert!(world.token_by("lamp", &key("lamp-2")).is_ok(), "its first use");
    world.wait(ROTATION_GRACE.0 - 1);
    assert!(world.token("lamp").is_ok(), "the grace period's last second");
    world.wait(1);
    assert!(world.token("lamp").is_err(), "retired");
    assert!(world.token_by("lamp", &key("lamp-2")).is_ok());
    world.sweep();
    assert_eq!(world.device("lamp").keys.len(), 1, "and swept away");
}

#[test]
fn the_owner_sets_how_long_the_old_key_works_beside_the_new_one() {
    for overlap in [0, 60, 2 * 3_600, MAX_OVERLAP.0] {
        let mut world = World::new();
        let old_secret = world.add_with_secret("lamp", "thermostat").expect("a free name");
        let code = world.rotate_by_code("lamp").expect("known");
        world.register(&code, &key("lamp")).expect("the code is good");
        let code = world.rotate_with_overlap("lamp", Some(Seconds(overlap))).expect("within bounds");
        world.register(&code, &key("lamp-2")).expect("the code is good");
        world.wait(600);
        assert!(world.token_by_secret("lamp", &old_secret).is_ok(), "nothing ends before the new key is used");
        assert!(world.token_by("lamp", &key("lamp-2")).is_ok(), "its first use");
        if overlap > 0 {
            world.wait(overlap - 1);
            assert!(
                world.token("lamp").is_ok() && world.token_by_secret("lamp", &old_secret).is_ok(),
                "{overlap} s are not over"
            );
            world.wait(1);
        }
        assert!(world.token("lamp").is_err() && world.token_by_secret("lamp", &old_secret).is_err(), "{overlap} s are over");
        assert!(world.token_by("lamp", &key("lamp-2")).is_ok());
    }
    let mut world = World::with_devices(&["lamp"]);
    let beyond = world.rotate_with_overlap("lamp", Some(Seconds(MAX_OVERLAP.0 + 1)));
    assert_eq!(beyond, Err(DeviceRefused::Overlap));
}

#[test]
fn using_the_new_key_again_does_not_lengthen_the_old_ones_grace() {
    let mut world = World::with_devices(&["lamp"]);
    let code = world.rotate_by_code("lamp").expect("known");
    world.register(&code, &key("lamp-2")).expect("the code is good");
    world.token_by("lamp", &key("lamp-2")).expect("its first use");
    let retires = world.device("lamp").keys[0].retires_at;
    world.wait(600);
    world.token_by("lamp", &key("lamp-2")).expect("its second use");
    assert_eq!(world.device("lamp").keys[0].retires_at, retires);
}

#[test]
fn the_old_secret_works_until_the_new_one_is_used_and_for_an_hour_after() {
    let mut world = World::new();
    let old = world.add_with_secret("plug", "switch").expect("a free name");
    world.wait(1);
    let new = world.rotate_by_secret("plug").expect("known");
    world.wait(10 * ROTATION_GRACE.0);
    assert!(world.token_by_secret("plug", &old).is_ok(), "the new one was never used");
    assert!(world.token_by_secret("plug", &new).is_ok(), "its first use");
    world.wait(ROTATION_GRACE.0 - 1);
    assert!(world.token_by_secret("plug", &old).is_ok(), "the grace period's last second");
    world.wait(1);
    assert!(world.token_by_secret("plug", &old).is_err(), "retired, swept away or not");
    world.sweep();
    assert!(world.token_by_secret("plug", &old).is_err());
    assert!(world.token_by_secret("plug", &new).is_ok());
}

#[test]
fn the_newer_of_two_secrets_is_the_newer_one_even_if_both_were_made_in_one_second() {
    for seed in 0..8 {
        let mut world = World::new();
        world.serial = seed;
        let old = world.add_with_secret("plug", "switch").expect("a free name");
        let new = world.rotate_by_secret("plug").expect("known");
        world.token_by_secret("plug", &old).expect("the old one works");
        world.token_by_secret("plug", &new).expect("its first use");
        world.wait(ROTATION_GRACE.0);
        world.sweep();
        assert!(world.token_by_secret("plug", &new).is_ok(), "seed {seed}");
        assert!(world.token_by_secret("plug", &old).is_err(), "seed {seed}");
    }
}

#[test]
fn a_rotation_from_a_secret_to_a_key_retires_the_secret() {
    let mut world = World::new();
    let secret = world.add_with_secret("plug", "switch").expect("a free name");
    let code = world.rotate_by_code("plug").expect("known");
    world.register(&code, &key("plug")).expect("the code is good");
    assert!(world.token_by_secret("plug", &secret).is_ok(), "until the key is used");
    assert!(world.token("plug").is_ok());
    world.wait(ROTATION_GRACE.0 - 1);
    assert!(world.token_by_secret("plug", &secret).is_ok(), "the grace period's last second");
    world.wait(1);
    assert!(world.token_by_secret("plug", &secret).is_err());
}

#[test]
fn a_rotation_from_a_key_to_a_secret_retires_the_key() {
    let mut world = World::with_devices(&["lamp"]);
    let secret = world.rotate_by_secret("lamp").expect("known");
    assert!(world.token("lamp").is_ok(), "until the secret is used");
    assert!(world.token_by_secret("lamp", &secret).is_ok());
    world.wait(ROTATION_GRACE.0);
    assert!(world.token("lamp").is_err());
    assert!(world.token_by_secret("lamp", &secret).is_ok());
}

#[test]
fn rotating_leaves_tokens_and_sessions_alone() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("the key is proved");
    let code = world.rotate_by_code("lamp").expect("known");
    world.register(&code, &key("lamp-2")).expect("the code is good");
    world.token_by("lamp", &key("lamp-2")).expect("its first use");
    assert!(world.judge(&token).is_ok());
}

#[test]
fn a_device_that_offers_its_own_key_again_spends_the_code_for_others() {
    let mut world = World::with_devices(&["lamp"]);
    let code = world.rotate_by_code("lamp").expect("known");
    world.register(&code, &key("lamp")).expect("its own key, after a lost answer");
    assert_eq!(world.register(&code, &key("thief")), Err(RegistrationRefused::UnknownCode));
}

#[test]
fn a_retiring_key_cannot_be_registered_again() {
    let mut world = World::with_devices(&["lamp"]);
    let code = world.rotate_by_code("lamp").expect("known");
    world.register(&code, &key("lamp-2")).expect("the code is good");
    world.token_by("lamp", &key("lamp-2")).expect("its first use");
    let code = world.rotate_by_code("lamp").expect("known");
    assert_eq!(world.register(&code, &key("lamp")), Err(RegistrationRefused::KeyInUse));
    world.wait(ROTATION_GRACE.0);
    let code = world.rotate_by_code("lamp").expect("known");
    assert_eq!(world.register(&code, &key("lamp")), Err(RegistrationRefused::KeyInUse), "retired, not swept away yet");
}

#[test]
fn a_revoked_device_cannot_be_rotated() {
    let mut world = World::with_devices(&["lamp"]);
    world.revoke("lamp");
    assert_eq!(world.rotate_by_code("lamp"), Err(DeviceRefused::Revoked(name("lamp"))));
    assert_eq!(world.rotate_by_code("oven"), Err(DeviceRefused::Unknown(name("oven"))));
}

#[test]
fn a_key_retired_between_its_proof_and_its_token_gets_none() {
    let mut world = World::with_devices(&["lamp"]);
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    let authentication = ClientAuthentication::Assertion { client_id: None, assertion: &assertion };
    let client = world.registry.authenticate_client(&authentication, &audiences(), &world.pepper, world.now).expect("proved");
    world.revoke("lamp");
    world.add_with_secret("lamp", "thermostat").expect("a revoked name is free again");
    assert!(world.issue(&client, GRANT).is_err(), "the name is active again, but not for that key");
}

#[test]
fn of_too_many_keys_the_one_in_use_is_kept() {
    let mut world = World::with_devices(&["lamp"]);
    world.token("lamp").expect("in use");
    for round in 0..2 * MAX_KEYS_PER_CLIENT {
        let code = world.rotate_by_code("lamp").expect("known");
        world.register(&code, &key(&format!("lamp-{round}"))).expect("the code is good");
        assert!(world.device("lamp").keys.len() <= MAX_KEYS_PER_CLIENT);
        assert!(world.token("lamp").is_ok(), "after {round} keys that nobody used");
    }
}
