use super::*;
use crate::{
    limits::MAX_DENIED_TOKENS,
    profile::CommandName,
    topic::{SubscriptionFilter, TopicFilter, TopicName},
};

fn topic(text: &str) -> TopicName {
    TopicName::parse(text).expect("legal")
}

fn publishes(standing: &Standing, text: &str) -> bool {
    standing.rights.authorize_publish(topic(text)).is_ok()
}

#[test]
fn a_token_is_good_until_its_last_second() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("the key is proved");
    assert_eq!(world.judge(&token).expect("good").expires_at, Some(token.claims.exp));
    world.wait(299);
    assert!(world.judge(&token).is_ok());
    world.wait(1);
    assert_eq!(world.judge(&token).map(drop), Err(EndReason::Expired { at: token.claims.exp }));
}

#[test]
fn a_revoked_or_disabled_device_has_no_rights_from_that_moment() {
    let mut world = World::with_devices(&["lamp", "oven", "fan"]);
    let tokens = ["lamp", "oven", "fan"].map(|device| world.token(device).expect("the key is proved"));
    world.revoke("lamp");
    world.disable("oven");
    assert_eq!(world.judge(&tokens[0]).map(drop), Err(EndReason::Revoked));
    assert_eq!(world.judge(&tokens[1]).map(drop), Err(EndReason::Disabled));
    assert!(world.judge(&tokens[2]).is_ok(), "others go on");
}

#[test]
fn enabling_a_device_does_not_revive_tokens_from_before() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("the key is proved");
    world.disable("lamp");
    world.enable("lamp");
    assert_eq!(world.judge(&token).map(drop), Err(EndReason::Revoked));
    let fresh = world.token("lamp").expect("the key still proves it");
    assert!(world.judge(&fresh).is_ok());
}

#[test]
fn adding_a_revoked_name_again_revives_neither_token_nor_key() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("the key is proved");
    world.revoke("lamp");
    let code = world.add("lamp", "thermostat").expect("a revoked name is free again");
    assert_eq!(world.judge(&token).map(drop), Err(EndReason::Revoked), "while it waits");
    assert!(world.token("lamp").is_err(), "the old key proves nothing");
    world.register(&code, &key("lamp-2")).expect("the code is good");
    assert_eq!(world.judge(&token).map(drop), Err(EndReason::Revoked), "once it enrolled");
    assert!(world.token("lamp").is_err());
    assert!(world.token_by("lamp", &key("lamp-2")).is_ok());
}

#[test]
fn a_token_of_another_device_or_an_unknown_one_gives_nothing() {
    let mut world = World::with_devices(&["lamp"]);
    let mut token = world.token("lamp").expect("the key is proved");
    token.claims.sub = name("ghost");
    assert_eq!(world.judge(&token).map(drop), Err(EndReason::Revoked));
    let Authority { proof, .. } = token.authority();
    for principal in [Principal::User(name("owner")), Principal::Integration(name("lamp"))] {
        let authority = Authority { principal, proof: proof.clone() };
        assert_eq!(world.registry.judge(&authority, world.now).map(drop), Err(EndReason::Revoked), "no token makes a person");
    }
}

#[test]
fn a_profile_that_is_narrowed_narrows_live_sessions() {
    let mut world = World::new();
    world.apply_profile("name = \"custom\"\n[permissions.a]\npublish = [\"dev/${device}/tele/+\", \"extra/${device}\"]\n");
    world.enrol("lamp", "custom");
    let token = world.token("lamp").expect("the key is proved");
    assert!(publishes(&world.judge(&token).expect("good"), "extra/lamp"));
    world.apply_profile("name = \"custom\"\n[permissions.a]\npublish = [\"dev/${device}/tele/+\"]\n");
    let narrowed = world.judge(&token).expect("good");
    assert!(!publishes(&narrowed, "extra/lamp") && publishes(&narrowed, "dev/lamp/tele/x"));
    world.apply_profile("name = \"custom\"\n[permissions.b]\npublish = [\"dev/${device}/tele/+\"]\n");
    assert!(!publishes(&world.judge(&token).expect("good"), "dev/lamp/tele/x"), "the token's scope names a only");
}

#[test]
fn a_smaller_scope_means_smaller_rights() {
    let mut world = World::with_devices(&["lamp"]);
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    let token = world.post(&format!("{GRANT}&scope=commands"), &assertion).expect("a part of its scope");
    let standing = world.judge(&token).expect("good");
    assert!(publishes(&standing, "dev/lamp/ack/c-1") && !publishes(&standing, "dev/lamp/tele/x"));
    assert!(standing.rights.authorize_subscribe(SubscriptionFilter::parse("dev/lamp/cmd/+").expect("legal")).is_ok());
}

#[test]
fn a_gateway_acts_for_its_children_and_for_a_revoked_child_no_longer() {
    let mut world = World::with_devices(&["leaf"]);
    let code = world.add_with_children("bridge", "gateway", &["leaf", "twig"]).expect("a free name");
    world.register(&code, &key("bridge")).expect("the code is good");
    let token = world.token("bridge").expect("the key is proved");
    let standing = world.judge(&token).expect("good");
    assert!(publishes(&standing, "dev/leaf/tele/x") && publishes(&standing, "dev/twig/tele/x"));
    assert!(!publishes(&standing, "dev/other/tele/x"));
    for cut_off in [World::disable as fn(&mut World, &str), World::revoke] {
        cut_off(&mut world, "leaf");
        let standing = world.judge(&token).expect("good");
        assert!(!publishes(&standing, "dev/leaf/tele/x"), "the owner cut the child off");
        assert!(publishes(&standing, "dev/twig/tele/x") && publishes(&standing, "dev/bridge/tele/x"));
        let question = Question::Publish(topic("dev/leaf/tele/x"));
        assert!(!world.registry.explain(&name("bridge"), &question).allowed, "and `can` says the same");
    }
}

#[test]
fn a_client_revokes_its_own_token_and_keeps_the_others() {
    let mut world = World::with_devices(&["lamp"]);
    let (first, second) = (world.token("lamp").expect("proved"), world.token("lamp").expect("proved"));
    world.revoke_token_by("lamp", &key("lamp"), &first).expect("its own");
    assert_eq!(world.judge(&first).map(drop), Err(EndReason::Revoked));
    assert!(world.judge(&second).is_ok());
    world.wait(300);
    world.sweep();
    assert!(world.registry.denied_tokens.is_empty(), "it is forgotten when it would have ended");
    assert_eq!(world.judge(&first).map(drop), Err(EndReason::Expired { at: first.claims.exp }));
}

#[test]
fn a_client_revokes_no_other_clients_token() {
    let mut world = World::with_devices(&["lamp", "thief"]);
    let token = world.token("lamp").expect("proved");
    let refused = world.revoke_token_by("thief", &key("thief"), &token).expect_err("not its own");
    assert_eq!(refused.to_string(), "unauthorized_client: the token was issued to another client");
    assert!(world.judge(&token).is_ok());
}

#[test]
fn revoking_a_token_that_has_ended_writes_no_denial() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("proved");
    world.wait(300);
    world.revoke_token_by("lamp", &key("lamp"), &token).expect("its own");
    assert!(world.registry.denied_tokens.is_empty());
}

#[test]
fn where_no_further_denial_fits_all_tokens_of_the_client_end() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let until = world.now.plus(Seconds(300));
    for number in 0..MAX_DENIED_TOKENS {
        world.put(Table::DeniedToken, format!("other-{number}").as_bytes(), &until);
    }
    let tokens = ["lamp", "lamp", "oven"].map(|device| world.token(device).expect("proved"));
    world.revoke_token_by("lamp", &key("lamp"), &tokens[0]).expect("its own");
    assert_eq!(world.registry.denied_tokens.len(), MAX_DENIED_TOKENS);
    assert_eq!(world.judge(&tokens[0]).map(drop), Err(EndReason::Revoked));
    assert_eq!(world.judge(&tokens[1]).map(drop), Err(EndReason::Revoked));
    assert!(world.judge(&tokens[2]).is_ok(), "others are not touched");
    let fresh = world.token("lamp").expect("proved");
    assert!(world.judge(&fresh).is_ok());
}

#[test]
fn a_legacy_device_stands_and_falls_with_its_credential_and_its_record() {
    let mut world = World::with_devices(&["plug"]);
    let secret =
        world.credential(CredentialKind::ApiKey, Principal::Device(name("plug")), "telemetry", Some(world.now.plus(Seconds(60))));
    let authority = world.present(&secret).expect("the secret is right");
    let standing = world.registry.judge(&authority, world.now).expect("good");
    assert!(publishes(&standing, "dev/plug/tele/x") && !publishes(&standing, "dev/plug/ack/x"));
    world.disable("plug");
    assert_eq!(world.registry.judge(&authority, world.now).map(drop), Err(EndReason::Disabled));
    world.enable("plug");
    assert!(world.registry.judge(&authority, world.now).is_ok());
    world.wait(60);
    assert_eq!(world.registry.judge(&authority, world.now).map(drop), Err(EndReason::Expired { at: world.now }));
    world.revoke("plug");
    assert_eq!(world.registry.judge(&authority, world.now).map(drop), Err(EndReason::Revoked));
}

#[test]
fn an_authority_whose_credential_is_someone_elses_gives_nothing() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let secret = world.credential(CredentialKind::ApiKey, Principal::Device(name("lamp")), "telemetry", None);
    let Authority { proof, .. } = world.present(&secret).expect("the secret is right");
    for principal in [Principal::Device(name("oven")), Principal::User(name("owner"))] {
        let authority = Authority { principal, proof: proof.clone() };
        assert_eq!(world.registry.judge(&authority, world.now).map(drop), Err(EndReason::Revoked));
    }
    let ghost = Authority { principal: Principal::Device(name("lamp")), proof: Proof::Credential("nothing".into()) };
    assert_eq!(world.registry.judge(&ghost, world.now).map(drop), Err(EndReason::Revoked));
}

#[test]
fn a_client_secret_opens_no_session_by_itself() {
    let mut world = World::new();
    let secret = world.add_with_secret("plug", "switch").expect("a free name");
    assert_eq!(world.present(&secret), None);
}

#[test]
fn can_names_the_rule_that_allows_and_says_what_is_missing() {
    let mut world = World::with_devices(&["lamp"]);
    world.add("new", "sensor").expect("a free name");
    world.enrol("off", "sensor");
    world.disable("off");
    world.enrol("gone", "sensor");
    world.revoke("gone");
    let can = |device: &str, question: Question| {
        let decision = world.registry.explain(&name(device), &question);
        assert_eq!(decision.allowed, decision.rule.is_some());
        (decision.allowed, decision.reason)
    };
    let publish = |text: &str| Question::Publish(topic(text));
    let subscribe = |text: &str| Question::Subscribe(TopicFilter::parse(text).expect("legal"));
    let command = |text: &str| Question::Command(CommandName::parse(text).expect("legal"));
    let yes = |reason: &str| (true, reason.to_owned());
    let no = |reason: &str| (false, reason.to_owned());
    assert_eq!(
        can("lamp", publish("dev/lamp/tele/x")),
        yes("device lamp may publish to dev/lamp/tele/x: profile thermostat, permission telemetry, rule dev/${device}/tele/+")
    );
    assert_eq!(
        can("lamp", subscribe("dev/lamp/cmd/+")),
        yes("device lamp may subscribe to dev/lamp/cmd/+: profile thermostat, permission commands, rule dev/${device}/cmd/+")
    );
    assert_eq!(
        can("lamp", command("set-mode")),
        yes("device lamp may take the command set-mode: profile thermostat, permission commands, rule set-mode")
    );
    assert_eq!(
        can("lamp", publish("dev/oven/tele/x")),
        no("no permission of profile thermostat lets device lamp publish to dev/oven/tele/x")
    );
    assert_eq!(can("lamp", subscribe("#")), no("no permission of profile thermostat lets device lamp subscribe to #"));
    assert_eq!(
        can("lamp", command("explode")),
        no("no permission of profile thermostat lets device lamp take the command explode")
    );
    assert_eq!(can("lamp", publish("dev/lamp/cmd/x")), no("only the hub publishes to dev/lamp/cmd/x"));
    assert_eq!(can("new", publish("dev/new/tele/x")), no("device new has not enrolled yet"));
    assert_eq!(can("off", publish("dev/off/tele/x")), no("device off is disabled: it can do nothing"));
    assert_eq!(can("gone", publish("dev/gone/tele/x")), no("device gone is revoked: it can do nothing"));
    assert_eq!(can("ghost", publish("dev/ghost/tele/x")), no("there is no device ghost"));
}
