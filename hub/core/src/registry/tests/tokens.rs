use super::*;
use crate::{
    claims::{AceProfile, Confirmation, InvalidAccessToken},
    limits::{CLOCK_SKEW, MAX_ASSERTION_LIFETIME, MAX_JTI_BYTES},
    oauth::ErrorCode,
};

const FAILED: &str = "client authentication failed";

/// What the lamp is told when its assertion is altered so, signed with its own key.
fn told(alter: impl Fn(&World, Draft) -> Draft) -> Result<IssuedToken, String> {
    let mut world = World::with_devices(&["lamp"]);
    let draft = world.assertion("lamp", &key("lamp"));
    let assertion = alter(&world, draft).sign(&key("lamp"));
    world.post(GRANT, &assertion).map_err(|error| error.to_string())
}

#[test]
fn a_token_says_whom_it_is_for_what_it_allows_and_which_key_holds_it() {
    let mut world = World::with_devices(&["lamp"]);
    let token = world.token("lamp").expect("the key is proved");
    let claims = verifier().verify(&signed(&token), world.now).expect("signed by the hub");
    assert_eq!(claims, token.claims);
    assert_eq!((claims.iss.as_str(), claims.aud.as_str()), (ISSUER, ISSUER));
    assert_eq!((&claims.sub, &claims.client_id), (&name("lamp"), &name("lamp")));
    assert_eq!(claims.exp, world.now.plus(Seconds(300)));
    assert_eq!(claims.cnf, Some(Confirmation::Registered { jkt: public(&key("lamp")).thumbprint() }));
    assert_eq!(claims.ace_profile, None);
}

#[test]
fn a_secret_gets_a_token_too_bound_to_no_key() {
    let mut world = World::new();
    let secret = world.add_with_secret("plug", "switch").expect("a free name");
    let token = world.token_by_secret("plug", &secret).expect("the secret is right");
    assert_eq!(token.claims.cnf, None);
    assert!(world.judge(&token).is_ok());
}

#[test]
fn a_token_of_the_ace_profile_is_bound_to_a_key_and_nothing_that_can_only_be_shown() {
    let mut world = World::with_devices(&["lamp"]);
    let secret = world.add_with_secret("plug", "switch").expect("a free name");
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    let form = format!("{GRANT}&ace_profile=mqtt_tls");
    let signed_for = world.post(&form, &assertion).expect("the key is proved");
    assert_eq!(signed_for.claims.cnf, Some(Confirmation::Registered { jkt: public(&key("lamp")).thumbprint() }));
    let with_secret = ClientAuthentication::Secret { client_id: "plug", client_secret: &secret };
    let shared = world.post_as(with_secret, &form).expect("the secret is right");
    assert_eq!(shared.claims.cnf, Some(Confirmation::Shared { kid: shared.claims.jti.clone() }));
    for token in [signed_for, shared] {
        assert_eq!(token.claims.ace_profile, Some(AceProfile::MqttTls));
        assert_eq!(verifier().verify(&signed(&token), world.now), Err(InvalidAccessToken::NeedsPossession));
        assert_eq!(verifier().verify_for_holder(&signed(&token), world.now), Ok(token.claims.clone()));
        assert!(world.judge(&token).is_ok());
    }
}

#[test]
fn another_ace_profile_and_one_for_another_server_are_refused() {
    let mut world = World::new();
    let secret = world.add_with_secret("plug", "switch").expect("a free name");
    let mut code = |form: &str| {
        let with_secret = ClientAuthentication::Secret { client_id: "plug", client_secret: &secret };
        world.post_as(with_secret, &format!("{GRANT}{form}")).map(|token| token.claims.ace_profile).map_err(|error| error.code)
    };
    assert_eq!(code("&ace_profile=coap_dtls"), Err(ErrorCode::IncompatibleAceProfiles));
    assert_eq!(code("&ace_profile=mqtt_tls&resource=https%3A%2F%2Fother.example"), Err(ErrorCode::InvalidTarget));
    assert_eq!(code("&ace_profile="), Ok(None), "RFC 6749 3.2: empty is left out");
}

#[test]
fn a_profile_may_demand_that_its_tokens_are_proven_and_then_each_has_a_key() {
    let mut world = World::new();
    let profile = |proof: &str| format!("name = \"vault\"\n{proof}resources = [\"https://other.example\"]\n[permissions.a]\n");
    world.apply_profile(&profile("proof = \"required\"\n"));
    world.enrol("lock", "vault");
    let secret = world.add_with_secret("siren", "vault").expect("a free name");
    let signed_for = world.token("lock").expect("the key is proved");
    assert!(signed_for.claims.cnf.is_some() && signed_for.claims.ace_profile.is_none(), "as our agent understands it");
    let shared = world.token_by_secret("siren", &secret).expect("the secret is right");
    assert_eq!((shared.claims.cnf.is_some(), shared.claims.ace_profile), (true, Some(AceProfile::MqttTls)));
    assert!(["lock", "siren"].iter().all(|id| world.registry.needs_proof(&Principal::Device(name(id)))));
    let for_another = |world: &mut World| {
        let with_secret = ClientAuthentication::Secret { client_id: "siren", client_secret: &secret };
        let form = format!("{GRANT}&resource=https%3A%2F%2Fother.example");
        world.post_as(with_secret, &form).map(|token| token.claims.cnf).map_err(|error| error.code)
    };
    assert_eq!(for_another(&mut world), Err(ErrorCode::InvalidTarget), "where nobody asks for a proof");
    world.apply_profile(&profile(""));
    assert_eq!(for_another(&mut world), Ok(None));
    assert!(!world.registry.needs_proof(&Principal::Device(name("lock"))));
    assert!(Profile::from_toml("name = \"p\"\nproof = \"sometimes\"\n[permissions]\n").is_err());
}

#[test]
fn an_unknown_client_and_a_wrong_proof_look_alike() {
    let mut world = World::with_devices(&["lamp"]);
    let secret = world.add_with_secret("plug", "switch").expect("a free name");
    world.add("new", "switch").expect("a free name");
    let (_, foreign) = Secret::generate(CredentialKind::ClientSecret, &random64(77));
    let (_, token_of_person) = Secret::generate(CredentialKind::PersonalAccessToken, &[1; 64]);
    let mut refusals = vec![
        world.token_by("lamp", &key("thief")),
        world.token_by("nobody", &key("thief")),
        world.token_by("new", &key("thief")),
        world.token_by("plug", &key("thief")),
        world.token_by("NOT AN ID", &key("thief")),
        world.token_by_secret("plug", foreign.expose()),
        world.token_by_secret("nobody", &secret),
        world.token_by_secret("lamp", &secret),
        world.token_by_secret("NOT AN ID", &secret),
        world.token_by_secret("plug", "hunter2"),
        world.token_by_secret("plug", &secret[..40]),
        world.token_by_secret("owner", token_of_person.expose()),
    ];
    let without_kid = world.assertion("lamp", &key("thief")).without("kid").sign(&key("thief"));
    refusals.push(world.post(GRANT, &without_kid));
    let foreign_kid = world.assertion("lamp", &key("lamp")).sign(&key("thief"));
    refusals.push(world.post(GRANT, &foreign_kid));
    for (place, refusal) in refusals.into_iter().enumerate() {
        let error = refusal.expect_err("refused");
        assert_eq!((error.code, error.description.as_str()), (ErrorCode::InvalidClient, FAILED), "refusal {place}");
    }
}

#[test]
fn an_assertion_works_once() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let draft = world.assertion("lamp", &key("lamp"));
    let assertion = draft.sign(&key("lamp"));
    world.post(GRANT, &assertion).expect("its first use");
    let replayed = world.post(GRANT, &assertion).expect_err("its second");
    assert_eq!((replayed.description.as_str(), replayed.evidence.as_str()), (FAILED, "the assertion was used before (replay)"));
    // The same jti in another assertion of the same client is a replay as well, of another client it is not.
    let again = draft.clone().claim("exp", json!(world.now.0 + 61)).sign(&key("lamp"));
    assert!(world.post(GRANT, &again).is_err());
    let other =
        draft.claim("iss", json!("oven")).claim("sub", json!("oven")).header("kid", json!(public(&key("oven")).thumbprint()));
    assert!(world.post(GRANT, &other.sign(&key("oven"))).is_ok());
}

#[test]
fn two_requests_that_race_with_one_assertion_get_one_token() {
    let mut world = World::with_devices(&["lamp"]);
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    let authentication = ClientAuthentication::Assertion { client_id: None, assertion: &assertion };
    let prove = |world: &World| world.registry.authenticate_client(&authentication, &audiences(), &world.pepper, world.now);
    let (first, second) = (prove(&world).expect("proved"), prove(&world).expect("proved"));
    assert!(world.issue(&first, GRANT).is_ok());
    assert!(world.issue(&second, GRANT).is_err());
}

#[test]
fn an_assertion_is_remembered_as_long_as_it_could_be_used() {
    let mut world = World::with_devices(&["lamp"]);
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    world.post(GRANT, &assertion).expect("its first use");
    for _ in 0..130 {
        world.wait(1);
        world.sweep();
        assert!(world.post(GRANT, &assertion).is_err(), "at {} s", world.now.since(START).0);
    }
    assert!(world.registry.used_assertions.len() == 0, "and no longer");
}

#[test]
fn an_assertion_is_for_this_hub_alone() {
    let other = "https://elsewhere.example";
    assert!(told(|_, draft| draft.claim("aud", json!(format!("{ISSUER}/oauth2/token")))).is_ok());
    assert!(told(|_, draft| draft.claim("aud", json!([ISSUER]))).is_ok());
    assert!(told(|_, draft| draft.claim("aud", json!(audiences()))).is_ok());
    for aud in [json!(other), json!([other]), json!([ISSUER, other]), json!([]), json!(""), json!(format!("{ISSUER}/"))] {
        let refusal = told(|_, draft| draft.claim("aud", aud.clone())).expect_err("refused");
        assert_eq!(refusal, format!("invalid_client: the audience of the assertion is not {ISSUER}"), "{aud}");
    }
    for aud in [json!(null), json!(7), json!([7]), json!({"aud": ISSUER})] {
        assert_eq!(told(|_, draft| draft.claim("aud", aud.clone())).expect_err("refused"), format!("invalid_client: {FAILED}"));
    }
}

#[test]
fn sixty_seconds_of_clock_difference_are_forgiven_and_no_more() {
    let skew = CLOCK_SKEW.0;
    let at = |member: &'static str, offset: i64| {
        told(move |world, draft| draft.claim(member, json!(world.now.0.checked_add_signed(offset).expect("in range"))))
    };
    let skew_signed = i64::try_from(skew).expect("small");
    assert!(at("exp", 1 - skew_signed).is_ok(), "expired 59 s ago");
    assert_eq!(at("exp", -skew_signed).expect_err("late"), "invalid_client: the assertion expired 60 s ago by the hub's clock");
    for member in ["iat", "nbf"] {
        assert!(at(member, skew_signed).is_ok(), "{member} 60 s ahead");
        let early = at(member, skew_signed + 1).expect_err("early");
        assert_eq!(early, "invalid_client: the assertion is from the future by the hub's clock");
    }
    let longest = i64::try_from(MAX_ASSERTION_LIFETIME.0 + skew).expect("small");
    let ending = |offset: i64| {
        told(move |world, draft| {
            let exp = world.now.0.checked_add_signed(offset).expect("in range");
            draft.claim("iat", json!(null)).claim("exp", json!(exp))
        })
    };
    assert!(ending(longest).is_ok());
    assert_eq!(ending(longest + 1).expect_err("long"), "invalid_client: the assertion lives longer than 300 s");
}

#[test]
fn an_assertion_of_an_hour_is_good_and_remembered_for_five_minutes_from_when_it_was_made() {
    let mut world = World::with_devices(&["lamp"]);
    let hour = world.now.0 + 3_600;
    let fresh = world.assertion("lamp", &key("lamp")).claim("exp", json!(hour)).sign(&key("lamp"));
    let late = world.assertion("lamp", &key("lamp")).claim("exp", json!(hour)).claim("jti", json!("late")).sign(&key("lamp"));
    world.post(GRANT, &fresh).expect("its first use");
    world.wait(MAX_ASSERTION_LIFETIME.0 + CLOCK_SKEW.0 - 1);
    world.sweep();
    assert!(world.post(GRANT, &fresh).expect_err("its second").evidence.contains("replay"));
    world.wait(1);
    world.sweep();
    assert!(world.registry.used_assertions.len() == 0);
    for assertion in [&fresh, &late] {
        let refusal = world.post(GRANT, assertion).expect_err("late").to_string();
        assert_eq!(refusal, "invalid_client: the assertion expired 60 s ago by the hub's clock");
    }
}

#[test]
fn a_jti_has_one_to_sixty_four_visible_characters() {
    for good in ["x".to_owned(), "~/a:b".to_owned(), "x".repeat(MAX_JTI_BYTES)] {
        assert!(told(|_, draft| draft.claim("jti", json!(good))).is_ok(), "{good}");
    }
    for bad in [String::new(), "x".repeat(MAX_JTI_BYTES + 1), "a b".to_owned(), "ä".to_owned(), "a\n".to_owned(), "\0".to_owned()]
    {
        let refusal = told(|_, draft| draft.claim("jti", json!(bad))).expect_err("refused");
        assert!(refusal.starts_with("invalid_client: jti must have"), "{bad:?}: {refusal}");
    }
}

#[test]
fn a_client_speaks_for_itself_only() {
    assert_eq!(
        told(|_, draft| draft.claim("sub", json!("oven"))).expect_err("another subject"),
        "invalid_client: iss and sub of the assertion differ"
    );
    let mut world = World::with_devices(&["lamp", "oven"]);
    for (client_id, outcome) in [("lamp", Ok(())), ("oven", Err("client_id is not the subject of the assertion"))] {
        let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
        let authentication = ClientAuthentication::Assertion { client_id: Some(client_id), assertion: &assertion };
        let answer = world.post_as(authentication, GRANT);
        assert_eq!(answer.map(drop).map_err(|error| error.description), outcome.map_err(str::to_owned), "{client_id}");
    }
}

#[test]
fn only_a_client_that_proved_itself_is_told_that_it_is_revoked_or_disabled() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    let secret = world.add_with_secret("plug", "switch").expect("a free name");
    world.revoke("lamp");
    world.disable("oven");
    world.disable("plug");
    assert_eq!(world.token("lamp").expect_err("revoked").to_string(), "invalid_client: client lamp is revoked");
    assert_eq!(world.token("oven").expect_err("disabled").to_string(), "invalid_client: client oven is disabled");
    assert_eq!(
        world.token_by_secret("plug", &secret).expect_err("disabled").to_string(),
        "invalid_client: client plug is disabled"
    );
    for device in ["lamp", "oven"] {
        assert_eq!(world.token_by(device, &key("thief")).expect_err("a wrong key").description, FAILED);
    }
    world.revoke("plug");
    assert_eq!(world.token_by_secret("plug", &secret).expect_err("its secret went with it").description, FAILED);
    world.enable("oven");
    assert!(world.token("oven").is_ok());
}

#[test]
fn a_client_revoked_between_its_proof_and_its_token_gets_none() {
    let mut world = World::with_devices(&["lamp"]);
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    let authentication = ClientAuthentication::Assertion { client_id: None, assertion: &assertion };
    let client = world.registry.authenticate_client(&authentication, &audiences(), &world.pepper, world.now).expect("proved");
    world.revoke("lamp");
    assert!(world.issue(&client, GRANT).is_err());
}

#[test]
fn a_client_asks_for_all_that_it_may_or_for_less_and_never_for_more() {
    let mut world = World::with_devices(&["lamp"]);
    let mut ask = |scope: &str| {
        let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
        let form = format!("{GRANT}&scope={scope}");
        world.post(&form, &assertion).map(|token| token.claims.scope.to_string()).map_err(|error| error.to_string())
    };
    assert_eq!(ask(""), Ok("commands telemetry twin".to_owned()));
    assert_eq!(ask("telemetry"), Ok("telemetry".to_owned()));
    assert_eq!(ask("twin+commands"), Ok("commands twin".to_owned()));
    for more in ["telemetry+control", "devices:manage", "*"] {
        assert!(ask(more).expect_err("more").starts_with("invalid_scope: "), "{more}");
    }
    assert_eq!(ask("control").expect_err("more"), "invalid_scope: this client may ask for: commands telemetry twin");
}

#[test]
fn only_the_hub_is_a_resource_and_only_client_credentials_a_grant() {
    let mut world = World::with_devices(&["lamp"]);
    let mut ask = |form: &str| {
        let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
        world.post(form, &assertion).map(drop).map_err(|error| error.code)
    };
    assert_eq!(ask(&format!("{GRANT}&resource={ISSUER}")), Ok(()));
    assert_eq!(ask(&format!("{GRANT}&resource=https://elsewhere.example")), Err(ErrorCode::InvalidTarget));
    assert_eq!(ask("grant_type=password"), Err(ErrorCode::UnsupportedGrantType));
    assert_eq!(ask("grant_type=Client_Credentials"), Err(ErrorCode::UnsupportedGrantType));
    assert_eq!(ask("scope=telemetry"), Err(ErrorCode::InvalidRequest));
}

#[test]
fn a_refused_request_writes_nothing_and_its_assertion_can_be_used_again() {
    let mut world = World::with_devices(&["lamp"]);
    let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    let batches = world.batches.len();
    assert!(world.post(&format!("{GRANT}&scope=everything"), &assertion).is_err());
    assert_eq!(world.batches.len(), batches);
    assert!(world.post(GRANT, &assertion).is_ok());
}

#[test]
fn what_a_refused_client_reads_is_legal_in_an_oauth_error() {
    // RFC 6749 section 5.2: %x20-21 / %x23-5B / %x5D-7E.
    let legal = |text: &str| text.bytes().all(|byte| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    let mut world = World::with_devices(&["lamp"]);
    let wild = "%22%5C%00%C3%A4%0A";
    let forms = [
        format!("{GRANT}&scope={wild}"),
        format!("{GRANT}&resource={wild}"),
        format!("grant_type={wild}"),
        format!("{GRANT}&{wild}={wild}&{wild}={wild}"),
        "x=".to_owned() + &"x".repeat(5_000),
    ];
    for form in &forms {
        let assertion = world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
        let error = world.post(form, &assertion).expect_err("refused");
        assert!(legal(&error.description), "{error}");
    }
    for (claim, value) in [("sub", json!("\"\\ä")), ("aud", json!("\"\\ä")), ("jti", json!("\"\\ä")), ("iss", json!("\"\\ä"))]
    {
        let assertion = world.assertion("lamp", &key("lamp")).claim(claim, value).sign(&key("lamp"));
        let error = world.post(GRANT, &assertion).expect_err("refused");
        assert!(legal(&error.description), "{error}");
    }
}

#[test]
fn a_profile_chooses_the_life_of_its_tokens() {
    let mut world = World::new();
    world.apply_profile(
        "name = \"short\"\ntoken_lifetime_s = 10\n[permissions.telemetry]\npublish = [\"dev/${device}/tele/+\"]\n",
    );
    world.enrol("lamp", "short");
    let token = world.token("lamp").expect("the key is proved");
    assert_eq!((token.expires_in, token.claims.exp), (Seconds(10), world.now.plus(Seconds(10))));
}

#[test]
fn a_token_for_another_server_is_given_to_who_may_ask_for_it_and_the_hub_does_not_take_it() {
    let mut world = World::new();
    let profile = |resources: &str| format!("name = \"dash\"\n{resources}[permissions.read]\napi = [\"devices:read\"]\n");
    world.apply_profile(&profile("resources = [\"https://grafana.local\"]\n"));
    world.enrol("board", "dash");
    world.enrol("lamp", "thermostat");
    let ask = |world: &mut World, device: &str, resource: &str| {
        let assertion = world.assertion(device, &key(device)).sign(&key(device));
        world.post(&format!("{GRANT}&resource={resource}"), &assertion)
    };
    let token = ask(&mut world, "board", "https%3A%2F%2Fgrafana.local").expect("its profile names it");
    assert_eq!(token.claims.aud, "https://grafana.local");
    let text = signed(&token);
    assert_eq!(verifier().verify(&text, world.now), Err(InvalidAccessToken::Audience), "RFC 9700: not for us");
    assert_eq!(verifier().verify_for_any(&text, world.now).expect("ours").jti, token.claims.jti);
    for (device, resource) in [("board", "https%3A%2F%2Felsewhere.local"), ("lamp", "https%3A%2F%2Fgrafana.local")] {
        assert_eq!(ask(&mut world, device, resource).expect_err("not on its list").code, ErrorCode::InvalidTarget, "{device}");
    }
    for bad in ["grafana", "https://a#b", "https:", "1:x", "https://a b", &format!("https://{}", "x".repeat(128))] {
        assert!(Profile::from_toml(&profile(&format!("resources = [\"{bad}\"]\n"))).is_err(), "{bad}");
    }
    let many = (0..9).map(|number| format!("\"https://s{number}\"")).collect::<Vec<_>>().join(",");
    assert!(Profile::from_toml(&profile(&format!("resources = [{many}]\n"))).is_err());
}
