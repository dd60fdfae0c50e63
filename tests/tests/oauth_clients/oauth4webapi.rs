//! `oauth4webapi` from npm: discovery, registration, tokens, their validation as a resource server, and their end.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::wire::{Connect, Wire};
use serde_json::{Value, json};

use crate::foreign::{Library::Oauth4webapi, and, with_secret};

#[tokio::test]
async fn a_resource_server_that_knows_only_the_issuer_accepts_a_token() {
    let hub = Hub::start().await;
    for method in ["client_secret_basic", "client_secret_post"] {
        let plug = with_secret(&hub, &method.replace('_', "-"), "tasmota", method).await;
        let answer = Oauth4webapi.does(&hub, "token", &plug).await;
        assert_eq!(answer["token"]["token_type"], "bearer", "{answer}");
        let claims = &answer["as_bearer"]["claims"];
        assert_eq!((&claims["sub"], &claims["client_id"]), (&plug["client_id"], &plug["client_id"]), "{answer}");
        assert_eq!(claims["scope"], "commands telemetry", "{answer}");

        let less = Oauth4webapi.does(&hub, "token", &and(&plug, "scope", "telemetry")).await;
        assert_eq!((&less["token"]["scope"], &less["as_bearer"]["claims"]["scope"]), (&"telemetry".into(), &"telemetry".into()));
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_registered_key_gets_tokens_that_are_worth_something_only_with_it() {
    let hub = Hub::start().await;
    let lamp = Oauth4webapi.registered(&hub, "lamp", "thermostat").await;
    let answer = Oauth4webapi.does(&hub, "token", &lamp).await;
    let claims = &answer["with_proof"]["claims"];
    assert_eq!((&claims["sub"], &claims["iss"]), (&"lamp".into(), &hub.url("").into()), "{answer}");
    assert!(claims["cnf"]["jkt"].is_string(), "{answer}");
    // RFC 7800: who only found the token cannot show the key.
    assert!(answer["as_bearer"]["refused"].as_str().is_some_and(|why| why.contains("DPoP")), "{answer}");
    // The hub itself knows the session of the device by it.
    let token = answer["token"]["access_token"].as_str().expect("a token");
    assert_eq!(Wire::tls(&hub).await.connect(&Connect::by_password("lamp", token)).await.connack_code(), 0);
    hub.finish().await;
}

#[tokio::test]
async fn each_refusal_reads_as_the_standard_has_it() {
    let hub = Hub::start().await;
    let plug = with_secret(&hub, "plug", "tasmota", "client_secret_basic").await;
    let lamp = Oauth4webapi.registered(&hub, "lamp", "thermostat").await;
    let oven = Oauth4webapi.registered(&hub, "oven", "thermostat").await;
    let posted = and(&plug, "method", "client_secret_post");
    for (told, status, error) in [
        (and(&plug, "scope", "everything"), 400, "invalid_scope"),
        (and(&posted, "client_secret", "guess"), 400, "invalid_client"),
        (and(&lamp, "private_jwk", oven["private_jwk"].clone()), 400, "invalid_client"),
        (json!({ "client_id": "lamp", "method": "none" }), 400, "invalid_client"),
    ] {
        let refused = Oauth4webapi.does(&hub, "token", &told).await["refused"].clone();
        assert_eq!((&refused["status"], &refused["error"]), (&status.into(), &error.into()), "{refused}");
        assert!(refused["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{refused}");
    }
    let refused = Oauth4webapi.does(&hub, "token", &and(&plug, "client_secret", "guess")).await["refused"].clone();
    assert_eq!((&refused["status"], &refused["challenges"][0]["scheme"]), (&401.into(), &"basic".into()), "{refused}");
    let refused = Oauth4webapi.does(&hub, "register", &json!({ "code": "AAAAAAAAAAAAAAAAAAAAAA" })).await["refused"].clone();
    assert_eq!((&refused["status"], &refused["challenges"][0]["scheme"]), (&401.into(), &"bearer".into()), "{refused}");
    hub.finish().await;
}

#[tokio::test]
async fn a_revoked_token_is_worth_nothing_to_who_asks_and_to_the_broker() {
    let hub = Hub::start().await;
    let lamp = Oauth4webapi.registered(&hub, "lamp", "thermostat").await;
    let service = with_secret(&hub, "checker", "service", "client_secret_basic").await;
    let plug = with_secret(&hub, "plug", "tasmota", "client_secret_basic").await;
    let token = async || Oauth4webapi.does(&hub, "token", &lamp).await["token"]["access_token"].as_str().unwrap().to_owned();
    let (token, other) = (token().await, token().await);
    let introspection = async |token: &str| {
        let answer = Oauth4webapi.does(&hub, "introspect", &and(&service, "token", token)).await;
        assert!(answer["introspection"]["active"].is_boolean(), "{answer}");
        answer["introspection"].clone()
    };
    let active = introspection(&token).await;
    assert_eq!(
        (&active["active"], &active["client_id"], &active["sub"]),
        (&true.into(), &"lamp".into(), &"lamp".into()),
        "{active}"
    );
    for name in ["exp", "iat"] {
        assert!(active[name].is_u64(), "{active}");
    }
    assert_eq!((&active["iss"], &active["scope"]), (&hub.url("").into(), &"commands telemetry twin".into()), "{active}");
    let connect = Connect::by_password("lamp", &token);
    let mut session = Wire::tls(&hub).await;
    assert_eq!(session.connect(&connect).await.connack_code(), 0);

    // Another's token stays (RFC 7009 section 2.1); who may not ask is not told.
    Oauth4webapi.does(&hub, "revoke", &and(&plug, "token", &*token)).await;
    assert_eq!(introspection(&token).await["active"], true);
    let refused = Oauth4webapi.does(&hub, "introspect", &and(&plug, "token", &*token)).await["refused"].clone();
    assert!(refused["status"].as_u64().is_some_and(|status| [400, 401, 403].contains(&status)), "{refused}");

    assert_eq!(Oauth4webapi.does(&hub, "revoke", &and(&lamp, "token", &*token)).await, json!({ "revoked": true }));
    assert_eq!(introspection(&token).await, json!({ "active": false }));
    assert_eq!(session.receive().await.expect("a reason").disconnect_code(), 0x98);
    assert!(session.until_closed().await.is_empty());
    assert_eq!(Wire::tls(&hub).await.connect(&connect).await.connack_code(), 0x87);
    // That token, and no other; and once more does no harm (RFC 7009 section 2.2).
    assert_eq!(introspection(&other).await["active"], true);
    for unknown in [token.as_str(), "nonsense"] {
        assert_eq!(Oauth4webapi.does(&hub, "revoke", &and(&lamp, "token", unknown)).await, json!({ "revoked": true }));
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_login_from_another_machine_waits_for_its_user_and_gets_a_token() {
    let hub = Hub::start().await;
    let login = json!({ "client_id": "hearthkey-cli", "method": "none" });
    let mut waiting = Oauth4webapi.starts(&hub, "device", &login);
    let shown = waiting.json("the user's code", |line| line["shown"].is_object().then(|| line["shown"].clone())).await;
    let user_code = shown["user_code"].as_str().expect("a code");
    assert!(shown["verification_uri"].as_str().is_some_and(|uri| uri.starts_with(&hub.url(""))), "{shown}");
    let approval = hub.http().post(hub.url(&format!("/api/v1/approvals/{user_code}"))).bearer_auth(hub.owner_token());
    let approval = approval.json(&json!({ "expires_in_s": 3_600 })).send().await.expect("an answer");
    assert_eq!(approval.status(), 200, "{:?}", approval.text().await);
    let token = waiting.json("the token", |line| line["token"].is_object().then(|| line["token"].clone())).await;
    let access_token = token["access_token"].as_str().expect("a token");
    hub.remember_secret(access_token);
    let me = hub.http().get(hub.url("/api/v1/me")).bearer_auth(access_token).send().await.expect("an answer");
    let me: Value = me.json().await.expect("JSON");
    assert_eq!(me["principal"]["user"], "owner", "{me}");
    hub.finish().await;
}

#[tokio::test]
async fn a_login_that_its_user_denies_gets_nothing() {
    let hub = Hub::start().await;
    let login = json!({ "client_id": "hearthkey-cli", "method": "none" });
    let mut waiting = Oauth4webapi.starts(&hub, "device", &login);
    let user_code = waiting.json("the user's code", |line| line["shown"]["user_code"].as_str().map(str::to_owned)).await;
    let denial = hub.http().delete(hub.url(&format!("/api/v1/approvals/{user_code}"))).bearer_auth(hub.owner_token());
    assert_eq!(denial.send().await.expect("an answer").status(), 204);
    let refused = waiting.json("the refusal", |line| line["refused"].is_object().then(|| line["refused"].clone())).await;
    assert_eq!((&refused["status"], &refused["error"]), (&400.into(), &"access_denied".into()), "{refused}");
    hub.finish().await;
}
