//! `POST /oauth2/register`: an enrolment code and a key become a client.

use crate::home::{Device, Home, REGISTER, code_of, header, refusal};
use hearthkey::http::limits::MAX_SOFTWARE_CHARACTERS;
use serde_json::{Value, json};

#[tokio::test]
async fn a_device_enrols_with_its_code_and_its_key() {
    let home = Home::open().await;
    let code = code_of(&home.add("lamp", "thermostat", false).await);
    let lamp = Device::new("lamp");
    let answer = home.post(REGISTER).bearer_auth(&code).json(&lamp.metadata()).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert!(answer.headers().contains_key("date"), "a device learns the time here");
    let body = answer.bytes().await.expect("a body");
    assert!(body.len() <= 1_024, "docs/protocol.md");
    let registration: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(registration["client_id"], "lamp");
    assert_eq!(registration["issuer"], home.base);
    assert_eq!(registration["scope"], "commands telemetry twin");
    assert_eq!(registration["token_endpoint_auth_method"], "private_key_jwt");
    assert_eq!(
        registration["jwks"]["keys"][0]["x"],
        lamp.metadata()["jwks"]["keys"][0]["x"],
        "RFC 7591 3.2.1: what was registered"
    );
    assert_eq!((&registration["software_id"], &registration["software_version"]), (&json!("acme-thermostat"), &json!("1.0.0")));
    assert!(registration["client_id_issued_at"].is_u64());
    assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), 200);
}

#[tokio::test]
async fn a_lost_answer_hurts_nobody_and_the_code_is_spent_at_first_use() {
    let home = Home::open().await;
    let code = code_of(&home.add("lamp", "thermostat", false).await);
    let lamp = Device::new("lamp");
    let ask =
        async |device: &Device| home.post(REGISTER).bearer_auth(&code).json(&device.metadata()).send().await.expect("an answer");
    let first: Value = ask(&lamp).await.json().await.expect("JSON");
    let again: Value = ask(&lamp).await.json().await.expect("JSON");
    assert_eq!(first, again);
    assert_eq!(refusal(ask(&Device::new("thief")).await).await, (401, "invalid_token".to_owned()), "another key");
    assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), 200);
    assert_eq!(refusal(ask(&lamp).await).await, (401, "invalid_token".to_owned()), "the key has been used");
}

#[tokio::test]
async fn no_code_and_a_wrong_code_are_challenged() {
    let home = Home::open().await;
    let lamp = Device::new("lamp");
    let none = home.post(REGISTER).json(&lamp.metadata()).send().await.expect("an answer");
    assert_eq!(header(&none, "www-authenticate"), "Bearer realm=\"hearthkey\"", "RFC 6750 3.1: no error code");
    assert_eq!(refusal(none).await.0, 401);
    let wrong = home.post(REGISTER).bearer_auth("AAAAAAAAAAAAAAAAAAAAAA").json(&lamp.metadata()).send().await.expect("an answer");
    assert!(header(&wrong, "www-authenticate").contains("error=\"invalid_token\""));
    assert_eq!(refusal(wrong).await, (401, "invalid_token".to_owned()));
}

#[tokio::test]
async fn each_malformed_registration_gets_the_error_of_rfc_7591_and_leaves_the_code_usable() {
    let home = Home::open().await;
    let code = code_of(&home.add("lamp", "thermostat", false).await);
    let lamp = Device::new("lamp");
    let with = |member: &str, value: Value| {
        let mut metadata = lamp.metadata();
        metadata[member] = value;
        metadata
    };
    let key = |change: &dyn Fn(&mut Value)| {
        let mut key = lamp.jwk();
        change(&mut key);
        with("jwks", json!({"keys": [key]}))
    };
    for metadata in [
        with("grant_types", json!(["authorization_code"])),
        with("grant_types", json!("client_credentials")),
        with("token_endpoint_auth_method", json!("client_secret_basic")),
        with("jwks", Value::Null),
        with("jwks", json!({"keys": []})),
        with("jwks", json!({"keys": [lamp.jwk(), Device::new("oven").jwk()]})),
        key(&|key| key["d"] = json!("c2VjcmV0")),
        key(&|key| key["crv"] = json!("P-384")),
        key(&|key| key["kty"] = json!("RSA")),
        key(&|key| key["x"] = key["y"].clone()),
        key(&|key| key["x"] = json!("AA")),
        key(&|key| drop(key.as_object_mut().expect("an object").remove("y"))),
        with("software_id", json!("x".repeat(5_000))),
        json!([]),
        json!(null),
    ] {
        let answer = home.post(REGISTER).bearer_auth(&code).json(&metadata).send().await.expect("an answer");
        let (status, error) = refusal(answer).await;
        assert_eq!(status, 400, "{metadata}");
        assert!(["invalid_client_metadata", "invalid_request"].contains(&error.as_str()), "{metadata}");
    }
    let form = home.post(REGISTER).bearer_auth(&code).form(&[("jwks", "x")]).send().await.expect("an answer");
    assert_eq!(refusal(form).await, (400, "invalid_client_metadata".to_owned()));
    let get = home.get(REGISTER).bearer_auth(&code).send().await.expect("an answer");
    assert_eq!(refusal(get).await, (405, "invalid_request".to_owned()));
    let good = home.post(REGISTER).bearer_auth(&code).json(&lamp.metadata()).send().await.expect("an answer");
    assert_eq!(good.status(), 201);
}

#[tokio::test]
async fn guessing_codes_is_slowed_down() {
    let home = Home::open().await;
    let lamp = Device::new("lamp");
    for guess in 0..200 {
        let code = format!("{guess:022}");
        let answer = home.post(REGISTER).bearer_auth(&code).json(&lamp.metadata()).send().await.expect("an answer");
        if answer.status() == 429 {
            assert!(!header(&answer, "retry-after").is_empty());
            assert_eq!(refusal(answer).await.1, "slow_down");
            return;
        }
    }
    panic!("200 guesses were answered");
}

#[tokio::test]
async fn what_a_device_says_of_its_software_is_kept_short_and_printable() {
    let home = Home::open().await;
    let code = code_of(&home.add("lamp", "thermostat", false).await);
    let mut metadata = Device::new("lamp").metadata();
    metadata["software_id"] = json!(format!("acme\u{1b}[2J{}", "x".repeat(500)));
    let answer = home.post(REGISTER).bearer_auth(code).json(&metadata).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    let id = hearthkey_core::DeviceId::parse("lamp").expect("legal");
    let software = home.hub.view(|registry| registry.device(&id).expect("enrolled").software.clone());
    assert_eq!(software.chars().count(), MAX_SOFTWARE_CHARACTERS);
    assert!(software.starts_with("acme[2Jxx"), "{software}");
}
