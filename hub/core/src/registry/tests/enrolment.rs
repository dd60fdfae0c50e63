use super::*;
use crate::limits::ENROLMENT_CODE_LIFETIME;

#[test]
fn a_device_enrols_with_its_code_and_gets_a_token_by_its_key() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    assert_eq!(world.device("lamp").status, DeviceStatus::Pending);
    let registered = world.register(&code, &key("lamp")).expect("the code is good");
    assert_eq!(registered.client_id, name("lamp"));
    assert_eq!(registered.scope.to_string(), "commands telemetry twin");
    assert_eq!(world.device("lamp").status, DeviceStatus::Active);
    let token = world.token("lamp").expect("the key is proved");
    assert_eq!(token.claims.scope, registered.scope);
    assert!(world.judge(&token).is_ok());
}

#[test]
fn a_wrong_code_enrols_nothing() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    let batches = world.batches.len();
    for wrong in [&b""[..], b"guess", &code[1..], &[&code[..], b"0"].concat()] {
        assert_eq!(world.register(wrong, &key("lamp")), Err(RegistrationRefused::UnknownCode));
    }
    assert_eq!((world.batches.len(), world.device("lamp").status), (batches, DeviceStatus::Pending));
}

#[test]
fn a_code_works_for_fifteen_minutes_and_not_a_second_longer() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    world.wait(ENROLMENT_CODE_LIFETIME.0);
    assert_eq!(world.register(&code, &key("lamp")), Err(RegistrationRefused::ExpiredCode(name("lamp"))));
    world.now = START.plus(ENROLMENT_CODE_LIFETIME).minus(Seconds(1));
    assert!(world.register(&code, &key("lamp")).is_ok());
}

#[test]
fn a_lost_answer_hurts_nobody_until_the_key_is_used() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    let first = world.register(&code, &key("lamp")).expect("the code is good");
    world.wait(30);
    let batches = world.batches.len();
    assert_eq!(world.register(&code, &key("lamp")), Ok(first), "the very same answer, the first time included");
    assert_eq!(world.batches.len(), batches, "and nothing is written");
    world.token("lamp").expect("the key is proved");
    assert_eq!(world.register(&code, &key("lamp")), Err(RegistrationRefused::UnknownCode), "the code is spent");
}

#[test]
fn a_code_that_one_key_used_is_of_no_use_to_another() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    world.register(&code, &key("lamp")).expect("the code is good");
    assert_eq!(world.register(&code, &key("thief")), Err(RegistrationRefused::UnknownCode));
    assert_eq!(world.device("lamp").keys.len(), 1);
}

#[test]
fn a_key_belongs_to_one_device() {
    let mut world = World::with_devices(&["lamp"]);
    let code = world.add("oven", "thermostat").expect("a free name");
    assert_eq!(world.register(&code, &key("lamp")), Err(RegistrationRefused::KeyInUse));
    assert!(world.register(&code, &key("oven")).is_ok(), "the code is still good for a key of its own");
}

#[test]
fn a_code_of_a_device_that_was_revoked_in_the_meantime_is_void() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    world.revoke("lamp");
    assert_eq!(world.register(&code, &key("lamp")), Err(RegistrationRefused::UnknownCode));
    world.add("lamp", "thermostat").expect("a revoked name is free again");
    assert_eq!(world.register(&code, &key("lamp")), Err(RegistrationRefused::UnknownCode), "and stays void");
}

#[test]
fn a_second_code_voids_the_first() {
    let mut world = World::new();
    let first = world.add("lamp", "thermostat").expect("a free name");
    let second = world.rotate_by_code("lamp").expect("known");
    assert_eq!(world.register(&first, &key("lamp")), Err(RegistrationRefused::UnknownCode));
    assert!(world.register(&second, &key("lamp")).is_ok());
}

#[test]
fn a_device_that_was_disabled_before_it_enrolled_stays_disabled_until_it_is_enabled() {
    let mut world = World::new();
    let code = world.add("lamp", "thermostat").expect("a free name");
    world.disable("lamp");
    world.register(&code, &key("lamp")).expect("the code is good");
    assert_eq!(world.token("lamp").expect_err("disabled").description, "client lamp is disabled");
    world.enable("lamp");
    assert!(world.token("lamp").is_ok());
}

#[test]
fn enabling_a_device_that_never_enrolled_leaves_it_waiting() {
    let mut world = World::new();
    world.add("lamp", "thermostat").expect("a free name");
    world.disable("lamp");
    world.enable("lamp");
    assert_eq!(world.device("lamp").status, DeviceStatus::Pending);
}

#[test]
fn a_name_in_use_and_an_unknown_profile_are_refused_with_what_to_type_next() {
    let mut world = World::with_devices(&["lamp"]);
    let taken = world.add("lamp", "thermostat").expect_err("taken");
    assert!(taken.to_string().contains("hearthkey device rotate lamp"), "{taken}");
    let unknown = world.add("oven", "toaster").expect_err("no such profile");
    assert!(unknown.to_string().contains("hearthkey profile list"), "{unknown}");
    assert!(world.registry.device(&name("oven")).is_none());
}

#[test]
fn every_step_of_an_enrolment_is_in_the_audit_chain() {
    let mut world = World::with_devices(&["lamp"]);
    world.token("lamp").expect("the key is proved");
    let actions: Vec<_> = world.audit().into_iter().map(|entry| format!("{}: {}", entry.actor, entry.action)).collect();
    let expected = [
        "user owner: user.create",
        "user owner: credential.create",
        "user owner: device.add",
        "device lamp: device.enrol",
        "device lamp: token.issue",
    ];
    assert_eq!(actions, expected);
}
