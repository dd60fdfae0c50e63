//! `POST /oauth2/token` and what clients learn beforehand.

use crate::home::{Device, Home, TOKEN, basic, header, refusal};
use hearthkey_core::oauth::JWT_BEARER;
use serde_json::{Value, json};

#[tokio::test]
async fn a_device_with_its_key_gets_a_token_that_the_hub_accepts() {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp").await;
    let answer = home.by_assertion(&lamp.assertion(&home)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "content-type"), "application/json");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert!(answer.headers().contains_key("date"));
    let token: Value = answer.json().await.expect("JSON");
    assert_eq!((&token["token_type"], &token["expires_in"]), (&json!("Bearer"), &json!(300)));
    assert_eq!(token["scope"], "commands telemetry twin");
    let authority = home.hub.admit(token["access_token"].as_str().expect("a token")).expect("accepted").0;
    assert_eq!(authority.principal.to_string(), "device lamp");
}

#[tokio::test]
async fn an_assertion_is_refused_when_it_is_used_again_or_anything_in_it_is_wrong() {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp").await;
    let once = lamp.assertion(&home);
    assert_eq!(home.by_assertion(&once).await.status(), 200);
    assert_eq!(refusal(home.by_assertion(&once).await).await, (400, "invalid_client".to_owned()), "replay");
    let now = home.hub.now().0;
    for (claim, wrong) in [
        ("iss", json!("oven")),
        ("sub", json!("oven")),
        ("aud", json!("https://elsewhere:8443")),
        ("aud", Value::Null),
        ("exp", json!(now - 61)),
        ("iat", json!(now - 361)),
        ("exp", json!((now + 60).to_string())),
        ("iat", json!(now + 600)),
        ("nbf", json!(now + 600)),
        ("jti", json!("")),
        ("jti", json!("x".repeat(65))),
    ] {
        let mut claims = lamp.claims(&home);
        claims[claim] = wrong.clone();
        let (_, error) = refusal(home.by_assertion(&lamp.sign(&claims)).await).await;
        assert_eq!(error, "invalid_client", "{claim} = {wrong}");
        assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), 200, "unaltered");
    }
    let impostor = Device::new("lamp");
    assert_eq!(refusal(home.by_assertion(&impostor.assertion(&home)).await).await, (400, "invalid_client".to_owned()));
}

#[tokio::test]
async fn a_client_with_a_secret_gets_a_token_by_basic_and_by_post() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let grant = [("grant_type", "client_credentials")];
    let answer = home.post(TOKEN).header("authorization", basic("plug", &secret)).form(&grant).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let form = [("grant_type", "client_credentials"), ("client_id", "plug"), ("client_secret", &secret), ("scope", "")];
    assert_eq!(home.token_request(&form).await.status(), 200);
}

#[tokio::test]
async fn a_smaller_scope_is_granted_and_a_larger_one_refused() {
    let home = Home::open().await;
    let secret = home.add("plug", "thermostat", true).await;
    let ask = async |scope: &str| {
        let form = [("grant_type", "client_credentials"), ("client_id", "plug"), ("client_secret", &secret), ("scope", scope)];
        home.token_request(&form).await
    };
    let token: Value = ask("telemetry").await.json().await.expect("JSON");
    assert_eq!(token["scope"], "telemetry");
    for scope in ["devices:manage", "telemetry admin", "TELEMETRY", "telemetry  twin"] {
        assert_eq!(refusal(ask(scope).await).await, (400, "invalid_scope".to_owned()), "{scope}");
    }
}

#[tokio::test]
async fn unknown_client_and_wrong_secret_look_alike() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let other = home.add("oven", "switch", true).await;
    let mut seen = Vec::new();
    for (id, secret) in [("nobody", &secret), ("plug", &other), ("plug", &"hk_sec_nonsense".to_owned())] {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        let posted = home.token_request(&form).await;
        assert_eq!((posted.status().as_u16(), header(&posted, "www-authenticate")), (400, ""));
        seen.push(posted.text().await.expect("a body"));
        let tried = home.post(TOKEN).header("authorization", basic(id, secret)).form(&form[..1]).send().await.expect("an answer");
        assert!(header(&tried, "www-authenticate").starts_with("Basic realm="), "RFC 6749 5.2");
        assert_eq!(refusal(tried).await, (401, "invalid_client".to_owned()));
    }
    assert!(seen.iter().all(|body| body == &seen[0]), "{seen:?}");
}

#[tokio::test]
async fn a_revoked_and_a_disabled_client_are_told_so_once_they_proved_their_key() {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp").await;
    let id = hearthkey_core::DeviceId::parse("lamp").expect("legal");
    let description = async || {
        let answer = home.by_assertion(&lamp.assertion(&home)).await;
        assert_eq!(answer.status(), 400);
        let document: Value = answer.json().await.expect("JSON");
        document["error_description"].as_str().expect("text").to_owned()
    };
    home.change(|registry, permit, context| registry.disable_device(permit, &id, context)).await;
    assert_eq!(description().await, "client lamp is disabled");
    home.change(|registry, permit, context| registry.enable_device(permit, &id, context)).await;
    assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), 200);
    home.change(|registry, permit, context| registry.revoke_device(permit, &id, context)).await;
    assert_eq!(description().await, "client lamp is revoked");
}

#[tokio::test]
async fn each_malformed_token_request_gets_the_error_of_rfc_6749() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let good = format!("grant_type=client_credentials&client_id=plug&client_secret={secret}");
    let send = async |body: String| {
        home.post(TOKEN).header("content-type", "application/x-www-form-urlencoded").body(body).send().await.expect("an answer")
    };
    assert_eq!(send(good.clone()).await.status(), 200);
    for (body, error) in [
        (String::new(), "invalid_client"),
        (good.replace("client_credentials", "authorization_code"), "unsupported_grant_type"),
        (good.replace("grant_type", "grant"), "invalid_request"),
        (format!("{good}&client_id=plug"), "invalid_request"),
        (format!("{good}&client_assertion=x&client_assertion_type={JWT_BEARER}"), "invalid_request"),
        (format!("{good}&resource=https://elsewhere"), "invalid_target"),
        (format!("{good}&padding={}", "x".repeat(4_096)), "invalid_request"),
        (format!("{good}{}", "&a=b".repeat(3)), "invalid_request"),
        ("grant_type=client_credentials&client_secret=x".to_owned(), "invalid_request"),
        ("\0\u{1}%%%=&&&==".to_owned(), "invalid_client"),
    ] {
        assert_eq!(refusal(send(body.clone()).await).await, (400, error.to_owned()), "{body}");
    }
    let json = home.post(TOKEN).json(&json!({"grant_type": "client_credentials"})).send().await.expect("an answer");
    assert_eq!(refusal(json).await, (400, "invalid_request".to_owned()), "wrong content type");
    let bare = home.post(TOKEN).body(good.clone()).send().await.expect("an answer");
    assert_eq!(refusal(bare).await, (400, "invalid_request".to_owned()), "no content type");
    let in_uri = home.post(&format!("{TOKEN}?{good}")).send().await.expect("an answer");
    assert_eq!(refusal(in_uri).await, (400, "invalid_request".to_owned()), "credentials in the URI");
    let bearer = home.post(TOKEN).bearer_auth("x").form(&[("grant_type", "client_credentials")]).send().await.expect("an answer");
    assert!(header(&bearer, "www-authenticate").starts_with("Basic "));
    assert_eq!(refusal(bearer).await, (401, "invalid_client".to_owned()));
    let two_ways = home
        .post(TOKEN)
        .header("authorization", basic("plug", &secret))
        .header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(refusal(two_ways.body(good).send().await.expect("an answer")).await, (400, "invalid_request".to_owned()));
}

#[tokio::test]
async fn another_method_than_post_is_told_which_to_use() {
    let home = Home::open().await;
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let answer = home.client.request(method.clone(), home.url(TOKEN)).send().await.expect("an answer");
        assert_eq!(header(&answer, "allow"), "POST", "{method}");
        assert_eq!(refusal(answer).await, (405, "invalid_request".to_owned()), "{method}");
    }
}

#[tokio::test]
async fn the_metadata_is_true() {
    let home = Home::open().await;
    let metadata: Value =
        home.get("/.well-known/oauth-authorization-server").send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(metadata["issuer"], home.base, "byte-equal");
    assert_eq!(metadata["response_types_supported"], json!([]));
    let device_code = "urn:ietf:params:oauth:grant-type:device_code";
    assert_eq!(metadata["grant_types_supported"], json!(["client_credentials", device_code]));
    assert_eq!(metadata["token_endpoint_auth_signing_alg_values_supported"], json!(["ES256", "EdDSA", "Ed25519"]));
    let endpoints: Vec<_> = metadata.as_object().expect("an object").keys().filter(|name| name.ends_with("_endpoint")).collect();
    assert_eq!(endpoints.len(), 5);
    for name in endpoints.into_iter().map(String::as_str).chain(["jwks_uri"]) {
        let url = metadata[name].as_str().expect("a URL");
        let answer = home.client.get(url).send().await.expect("an answer");
        assert_ne!(answer.status(), 404, "{name}");
    }
    assert!(metadata["scopes_supported"].as_array().expect("scopes").contains(&json!("telemetry")));

    let lamp = home.enrolled("lamp").await;
    let token: Value = home.by_assertion(&lamp.assertion(&home)).await.json().await.expect("JSON");
    let keys: Value = home.get("/oauth2/jwks").send().await.expect("an answer").json().await.expect("JSON");
    let key: hearthkey_core::jwt::Jwk = serde_json::from_value(keys["keys"][0].clone()).expect("a JWK");
    assert!(keys["keys"][0].get("d").is_none(), "never the private part");
    let jwt = token["access_token"].as_str().expect("a token");
    let jwt = hearthkey_core::jwt::UnverifiedJwt::parse(jwt).expect("a JWT");
    assert_eq!(jwt.header().kid, key.kid);
    let claims: Value = jwt.verify(&key.to_public_key().expect("a key")).expect("verified by the published key");
    assert_eq!((&claims["iss"], &claims["sub"]), (&json!(home.base), &json!("lamp")));
    assert!(claims["cnf"]["jkt"].is_string());
}

#[tokio::test]
async fn guesses_are_slowed_down_and_the_right_client_is_not_locked_out() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let wrong = home.add("oven", "switch", true).await;
    let ask = async |id: &str, secret: &str| {
        home.token_request(&[("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)]).await
    };
    assert_eq!(ask("plug", &secret).await.status(), 200);
    let mut slowed = None;
    for guess in 0..200 {
        let answer = ask(&format!("guess-{guess}"), &wrong).await;
        if answer.status() == 429 {
            slowed = Some(answer);
            break;
        }
    }
    let slowed = slowed.expect("guessing is slowed down");
    assert!(header(&slowed, "retry-after").parse::<u64>().expect("seconds") >= 1);
    assert_eq!(refusal(slowed).await, (429, "slow_down".to_owned()));
    assert_eq!(ask("plug", &secret).await.status(), 200, "it has proved itself from here");
}
