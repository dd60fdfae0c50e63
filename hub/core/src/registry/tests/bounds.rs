//! What happens at each bound of limits.rs that the registry keeps; the others are tested where they stand.

use super::{
    used_assertions::{JtiHash, UsedAssertions},
    *,
};
use crate::{
    audit::{AuditDraft, Outcome},
    limits::{
        ACCESS_TOKEN_LIFETIME_RANGE, MAX_AUDIT_KINDS, MAX_CHILDREN, MAX_DEVICES, MAX_FILTERS_PER_PROFILE, MAX_FORM_BYTES,
        MAX_FORM_PARAMETERS, MAX_PERMISSIONS_PER_PROFILE, MAX_PROFILE_BYTES, MAX_PROFILES, MAX_SCOPE_BYTES_PER_PROFILE,
        MAX_SCOPES, MAX_SECRETS_PER_CLIENT, MAX_TOPIC_BYTES, MAX_TOPIC_LEVELS, MAX_USED_ASSERTIONS,
        MAX_USED_ASSERTIONS_PER_CLIENT,
    },
    oauth::ErrorCode,
    profile::InvalidProfile,
};

fn longest_name(number: usize) -> String {
    format!("{}{number:04}", "x".repeat(28))
}

#[test]
fn the_largest_device_fits_into_a_row() {
    let mut world = World::new();
    let children: Vec<String> = (0..MAX_CHILDREN).map(longest_name).collect();
    let children: Vec<&str> = children.iter().map(String::as_str).collect();
    let gateway = longest_name(9_999);
    for hostile in ["\"", "\u{0}", "😀"] {
        world.revoke_if_there(&gateway);
        let mut code = world.add_with_children(&gateway, "home-assistant", &children).expect("a free name");
        for round in 0..MAX_KEYS_PER_CLIENT {
            let key = key(&format!("{hostile}{round}"));
            let request =
                RegistrationRequest { code: world.pepper.hash(&code), public_key: public(&key), software: hostile.repeat(5_000) };
            let change = world.registry.register(&request, &world.context()).expect("the code is good");
            world.commit(change);
            world.token_by(&gateway, &key).expect("in use");
            code = world.rotate_by_code(&gateway).expect("known");
        }
    }
}

#[test]
fn a_hub_has_so_many_devices_and_one_more_is_refused() {
    let mut world = World::with_devices(&["lamp"]);
    let record = world.device("lamp").clone();
    for number in 1..MAX_DEVICES {
        let id = format!("d-{number}");
        world.put(Table::Device, id.as_bytes(), &DeviceRecord { id: name(&id), keys: Vec::new(), ..record.clone() });
    }
    let refused = world.add("one-more", "thermostat").expect_err("full");
    assert!(matches!(refused, DeviceRefused::TooMany(_)), "{refused}");
    world.revoke("lamp");
    assert!(world.add("lamp", "thermostat").is_ok(), "a revoked name needs no further place");
}

#[test]
fn a_gateway_has_so_many_children_and_no_more() {
    let mut world = World::new();
    let children: Vec<String> = (0..=MAX_CHILDREN).map(longest_name).collect();
    let children: Vec<&str> = children.iter().map(String::as_str).collect();
    assert!(matches!(world.add_with_children("bridge", "gateway", &children), Err(DeviceRefused::TooMany(_))));
    assert!(world.add_with_children("bridge", "gateway", &children[1..]).is_ok());
}

#[test]
fn a_client_has_so_many_secrets_and_a_retired_one_makes_room() {
    let mut world = World::new();
    let mut newest = world.add_with_secret("plug", "switch").expect("a free name");
    for _ in 1..MAX_SECRETS_PER_CLIENT {
        newest = world.rotate_by_secret("plug").expect("room");
    }
    let refused = world.rotate_by_secret("plug").expect_err("full");
    assert!(matches!(refused, DeviceRefused::TooMany(_)), "{refused}");
    world.token_by_secret("plug", &newest).expect("its first use retires the others");
    world.wait(crate::limits::ROTATION_GRACE.0);
    world.sweep();
    assert!(world.rotate_by_secret("plug").is_ok());
}

#[test]
fn an_owner_writes_so_many_profiles_and_may_always_replace_one() {
    let mut world = World::new();
    let toml = |number: usize| format!("name = \"p-{number}\"\n[permissions]\n");
    let room = MAX_PROFILES - world.registry.profiles().count();
    for number in 0..room {
        world.apply_profile(&toml(number));
    }
    let one_more = Profile::from_toml(&toml(room)).expect("legal");
    assert!(world.registry.apply_profile(&world.owner(), one_more, &world.context()).is_err());
    world.apply_profile(&toml(0));
}

#[test]
fn the_largest_profile_fits_into_a_row() {
    let start = "name = \"lamp\"\ndescription = '''";
    let end = "'''\n[permissions]\n";
    for (hostile, fits) in [("x", true), ("\"", false), ("\n", false), ("\\", false)] {
        let room = MAX_PROFILE_BYTES - start.len() - end.len();
        let profile = Profile::from_toml(&format!("{start}{}{end}", hostile.repeat(room)));
        assert_eq!(profile.as_ref().err(), (!fits).then_some(&InvalidProfile::TooLarge), "{hostile:?}");
        if let Ok(profile) = profile {
            let mut world = World::new();
            let change = world.registry.apply_profile(&world.owner(), profile, &world.context()).expect("room");
            world.commit(change);
        }
    }
}

#[test]
fn a_profile_has_so_many_permissions_and_filters_and_no_more() {
    let permissions = |count: usize| {
        (0..count).map(|number| format!("[permissions.p{number:02}]\n")).fold("name = \"lamp\"\n".to_owned(), |a, b| a + &b)
    };
    assert!(Profile::from_toml(&permissions(MAX_PERMISSIONS_PER_PROFILE)).is_ok());
    assert_eq!(Profile::from_toml(&permissions(MAX_PERMISSIONS_PER_PROFILE + 1)), Err(InvalidProfile::TooMany));
    let filters = |count: usize| format!("name = \"lamp\"\n[permissions.p]\npublish = [{}]\n", "\"a\",".repeat(count));
    assert!(Profile::from_toml(&filters(MAX_FILTERS_PER_PROFILE)).is_ok());
    assert_eq!(Profile::from_toml(&filters(MAX_FILTERS_PER_PROFILE + 1)), Err(InvalidProfile::TooMany));
}

#[test]
fn a_token_response_fits_into_the_buffer_of_a_device_whatever_the_profile() {
    const RESPONSE_BYTES: usize = 1_024;
    let profile = |bytes: usize| {
        let (first, second, third, rest) = ("a".repeat(32), "b".repeat(32), "c".repeat(32), "d".repeat(bytes - 99));
        format!("name = \"wide\"\n[permissions.{first}]\n[permissions.{second}]\n[permissions.{third}]\n[permissions.{rest}]\n")
    };
    assert_eq!(Profile::from_toml(&profile(MAX_SCOPE_BYTES_PER_PROFILE + 1)), Err(InvalidProfile::ScopeTooLong));
    let mut world = World::new();
    world.apply_profile(&profile(MAX_SCOPE_BYTES_PER_PROFILE));
    let device = longest_name(0);
    world.enrol(&device, "wide");
    let mut token = world.token(&device).expect("the key is proved");
    token.claims.jti = "x".repeat(22).into();
    token.claims.epoch = 1_000;
    let response = json!({
        "access_token": signed(&token), "token_type": "Bearer", "expires_in": 86_400, "scope": token.claims.scope,
    });
    let bytes = response.to_string().len();
    assert!(bytes <= RESPONSE_BYTES, "{bytes} bytes");
}

#[test]
fn a_client_that_asks_without_end_is_slowed_down_alone_and_served_again_later() {
    let mut world = World::with_devices(&["lamp", "oven"]);
    for _ in 0..MAX_USED_ASSERTIONS_PER_CLIENT {
        world.token("lamp").expect("within its bound");
    }
    assert_eq!(world.token("lamp").expect_err("beyond").code, ErrorCode::SlowDown);
    assert!(world.token("oven").is_ok(), "others are not touched");
    world.wait(120);
    for _ in 0..2 * MAX_USED_ASSERTIONS_PER_CLIENT {
        world.wait(1);
        world.token("lamp").expect("a token a second is no flood, swept or not");
    }
    assert!(world.registry.used_assertions.len() <= MAX_USED_ASSERTIONS_PER_CLIENT + 1);
}

#[test]
fn the_memory_of_assertions_is_bounded_whatever_the_number_of_clients() {
    let mut world = World::with_devices(&["lamp"]);
    let until = world.now.plus(Seconds(420));
    for number in 0..MAX_USED_ASSERTIONS {
        let client = name(&format!("d-{}", number / MAX_USED_ASSERTIONS_PER_CLIENT));
        world.registry.used_assertions.set(client, JtiHash::of(&number.to_string()), Some(until));
    }
    assert_eq!(world.token("lamp").expect_err("full").code, ErrorCode::SlowDown);
    world.registry.used_assertions = UsedAssertions::default();
    assert!(world.token("lamp").is_ok());
}

#[test]
fn a_device_has_one_open_code_at_a_time() {
    let mut world = World::new();
    world.add("lamp", "thermostat").expect("a free name");
    for round in 0..20 {
        let code = world.rotate_by_code("lamp").expect("known");
        if round % 2 == 0 {
            world.register(&code, &key(&format!("lamp-{round}"))).expect("the code is good");
        }
        assert_eq!(world.registry.enrolments_by_code_hash.len(), 1);
    }
}

#[test]
fn the_aggregated_audit_of_a_flood_fits_into_one_batch() {
    let mut world = World::new();
    let entry = |number: usize| {
        let draft = AuditDraft {
            actor: "\0".repeat(1_000),
            action: "mqtt.authorize",
            target: format!("{number} {}", "\"".repeat(2_000)),
            outcome: Outcome::Denied,
            reason: "\0".repeat(2_000),
            count: u64::MAX,
        };
        (draft, "x".repeat(1_000))
    };
    let change = world.registry.record((0..MAX_AUDIT_KINDS).map(entry).collect(), world.now);
    world.commit(change);
}

#[test]
fn topics_scopes_and_forms_are_read_up_to_their_bounds() {
    use crate::topic::{TopicFilter, TopicName};
    let topic = |bytes: usize| "x".repeat(bytes);
    let levels = |count: usize| vec!["x"; count].join("/");
    for (text, good) in [
        (topic(MAX_TOPIC_BYTES), true),
        (topic(MAX_TOPIC_BYTES + 1), false),
        (levels(MAX_TOPIC_LEVELS), true),
        (levels(MAX_TOPIC_LEVELS + 1), false),
    ] {
        assert_eq!((TopicName::parse(&text).is_ok(), TopicFilter::parse(&text).is_ok()), (good, good), "{text}");
    }
    let scope = |count: usize| (0..count).map(|number| format!("p{number}")).collect::<Vec<_>>().join(" ");
    assert!(Scope::parse(&scope(MAX_SCOPES)).is_ok());
    assert!(Scope::parse(&scope(MAX_SCOPES + 1)).is_err());
    let form = |count: usize| (0..count).map(|number| format!("p{number}=x")).collect::<Vec<_>>().join("&");
    assert!(TokenRequest::parse(form(MAX_FORM_PARAMETERS).as_bytes()).is_ok());
    assert!(TokenRequest::parse(form(MAX_FORM_PARAMETERS + 1).as_bytes()).is_err());
    let body = |bytes: usize| format!("a={}", "x".repeat(bytes - 2));
    assert!(TokenRequest::parse(body(MAX_FORM_BYTES).as_bytes()).is_ok());
    assert!(TokenRequest::parse(body(MAX_FORM_BYTES + 1).as_bytes()).is_err());
    let lifetime = |seconds: u64| Profile::from_toml(&format!("name = \"p\"\ntoken_lifetime_s = {seconds}\n[permissions]\n"));
    let (shortest, longest) = ACCESS_TOKEN_LIFETIME_RANGE.into_inner();
    assert!(lifetime(shortest).is_ok() && lifetime(longest).is_ok());
    assert!(lifetime(shortest - 1).is_err() && lifetime(longest + 1).is_err());
}
