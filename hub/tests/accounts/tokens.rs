//! What becomes of access tokens: revoked, introspected, verified after their key was replaced.

use crate::{
    device::basic,
    home::{Answer, Home, ask},
};
use hearthkey_core::oauth::JWT_BEARER;
use reqwest::Method;
use serde_json::{Value, json};

impl Home {
    async fn introspect(&self, credential: &str, token: &str) -> Answer {
        ask(self.request(Method::POST, "/oauth2/introspect").bearer_auth(credential).form(&[("token", token)])).await
    }

    async fn is_active(&self, token: &str) -> bool {
        let answer = self.introspect(&self.owner, token).await;
        assert_eq!(answer.status, 200);
        match answer.body["active"].as_bool() {
            Some(true) => true,
            _ => {
                assert_eq!(answer.body, json!({"active": false}), "exactly this");
                false
            }
        }
    }

    async fn kids(&self) -> Vec<Value> {
        let keys = ask(self.request(Method::GET, "/oauth2/jwks")).await;
        keys.body["keys"].as_array().expect("keys").iter().map(|key| key["kid"].clone()).collect()
    }
}

#[tokio::test]
async fn a_revoked_access_token_ends_its_session_and_no_other() {
    let home = Home::open().await;
    let (lamp, oven) = (home.with_secret("lamp", "switch").await, home.with_secret("oven", "switch").await);
    let (stolen, fresh) = (home.access_token("lamp", &lamp).await, home.access_token("lamp", &lamp).await);
    let others = home.access_token("oven", &oven).await;
    let mut session = home.session("lamp", &stolen).await;
    let mut other = home.session("oven", &others).await;
    assert!(session.is_alive().await && home.is_active(&stolen).await);
    let form = [("client_id", "lamp"), ("client_secret", &lamp), ("token", &stolen), ("token_type_hint", "access_token")];
    let revoked = home.oauth("revoke", &form).await;
    assert_eq!((revoked.status, &revoked.body), (200, &Value::Null));
    assert_eq!(session.ended().await, 0x98);
    assert!(home.connect("lamp", &stolen).await.is_err());
    assert!(!home.is_active(&stolen).await && home.is_active(&fresh).await && other.is_alive().await);
    assert_eq!(home.oauth("revoke", &form).await.status, 200, "once more says the same");
    let mut session = home.session("lamp", &fresh).await;
    assert!(session.is_alive().await);

    let foreign = [("client_id", "lamp"), ("client_secret", lamp.as_str()), ("token", &others)];
    assert_eq!(home.oauth("revoke", &foreign).await.refusal(), (400, "unauthorized_client"));
    assert!(home.is_active(&others).await);
    let home = home.restarted().await;
    assert!(!home.is_active(&stolen).await, "a restart forgets no revocation");
}

#[tokio::test]
async fn revocation_needs_a_client_and_asks_no_more() {
    let home = Home::open().await;
    let secret = home.with_secret("lamp", "switch").await;
    let token = home.access_token("lamp", &secret).await;
    for unknown in ["x", "a.b.c", "hk_pat_x", &format!("{token}x")] {
        let form = [("client_id", "lamp"), ("client_secret", secret.as_str()), ("token", unknown)];
        assert_eq!(home.oauth("revoke", &form).await.status, 200, "{unknown}");
    }
    for (form, refusal) in [
        (vec![("token", token.as_str())], (400, "invalid_client")),
        (vec![("client_id", "lamp"), ("client_secret", "wrong"), ("token", &token)], (400, "invalid_client")),
        (vec![("client_id", "ghost"), ("client_secret", &secret), ("token", &token)], (400, "invalid_client")),
        (vec![("client_id", "lamp"), ("client_secret", &secret)], (400, "invalid_request")),
        (vec![("client_id", "lamp"), ("client_secret", &secret), ("token", "")], (400, "invalid_request")),
    ] {
        assert_eq!(home.oauth("revoke", &form).await.refusal(), refusal, "{form:?}");
    }
    let request = home.request(Method::POST, "/oauth2/revoke").form(&[("token", token.as_str())]);
    let wrong = ask(request.header("authorization", basic("lamp", "wrong"))).await;
    assert_eq!(wrong.refusal(), (401, "invalid_client"));
    assert!(wrong.header("www-authenticate").starts_with("Basic"));
    assert!(home.is_active(&token).await);
    for (method, path) in
        [(Method::GET, "/oauth2/revoke"), (Method::PUT, "/oauth2/introspect"), (Method::GET, "/oauth2/device_authorization")]
    {
        let answer = ask(home.request(method, path)).await;
        assert_eq!((answer.refusal(), answer.header("allow")), ((405, "invalid_request"), "POST"), "{path}");
    }
    let json = ask(home.request(Method::POST, "/oauth2/revoke").json(&json!({"token": token}))).await;
    assert_eq!(json.refusal(), (400, "invalid_request"));
}

#[tokio::test]
async fn an_assertion_revokes_once_and_gets_no_token_afterwards() {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp", "thermostat").await;
    let now = home.server.hub().now().0;
    let claims = json!({"iss": "lamp", "sub": "lamp", "aud": home.base, "jti": "once", "iat": now, "exp": now + 120});
    let assertion = lamp.sign(&claims);
    let by_assertion = [("client_assertion_type", JWT_BEARER), ("client_assertion", assertion.as_str())];
    let unknown = [by_assertion.as_slice(), &[("token", "unknown")]].concat();
    assert_eq!(home.oauth("revoke", &unknown).await.status, 200);
    let token = [by_assertion.as_slice(), &[("grant_type", "client_credentials")]].concat();
    assert_eq!(home.oauth("token", &token).await.refusal(), (400, "invalid_client"), "the assertion is used up");
}

#[tokio::test]
async fn a_persons_token_and_a_key_end_themselves_and_nothing_else() {
    let home = Home::open().await;
    let ann = home.person("ann", "viewer").await;
    let key = json!({"name": "ha", "integration": "ha", "profile": "service"});
    let key = home.owns(Method::POST, "/credentials/api-keys", key).await.secret();
    let narrow = home.token(&ann, json!({"name": "narrow", "scope": "devices:read"})).await.secret();
    let revoke = async |bearer: &str, token: &str| {
        ask(home.request(Method::POST, "/oauth2/revoke").bearer_auth(bearer).form(&[("token", token)])).await
    };
    assert_eq!(revoke(&narrow, &ann).await.refusal(), (400, "unauthorized_client"));
    for credential in [&narrow, &key] {
        let mut session = home.session("any", credential).await;
        assert_eq!(revoke(credential, credential).await.status, 200);
        assert_eq!(session.ended().await, 0x98);
        assert_eq!(home.get("/me", credential).await.status, 401);
        assert_eq!(revoke(credential, credential).await.refusal(), (401, "invalid_token"));
    }
    assert_eq!(home.get("/me", &ann).await.status, 200);
    let secret = home.with_secret("lamp", "switch").await;
    let token = home.access_token("lamp", &secret).await;
    assert_eq!(revoke(&token, &token).await.refusal(), (400, "invalid_client"), "a client proves itself for that");
    let by_token = home.request(Method::POST, "/oauth2/token").bearer_auth(&ann).form(&[("grant_type", "client_credentials")]);
    assert_eq!(ask(by_token).await.refusal(), (401, "invalid_client"));
}

#[tokio::test]
async fn introspection_tells_what_a_token_amounts_to_now() {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp", "thermostat").await;
    let now = home.server.hub().now().0;
    let claims = json!({"iss": "lamp", "sub": "lamp", "aud": home.base, "jti": "1", "iat": now, "exp": now + 120});
    let assertion = lamp.sign(&claims);
    let form =
        [("grant_type", "client_credentials"), ("client_assertion_type", JWT_BEARER), ("client_assertion", assertion.as_str())];
    let issued = home.oauth("token", &form).await;
    let token = issued.body["access_token"].as_str().expect("a token");
    let told = home.introspect(&home.owner, token).await;
    assert_eq!(told.header("cache-control"), "no-store");
    let told = told.body;
    assert_eq!((&told["active"], &told["sub"], &told["client_id"]), (&json!(true), &json!("lamp"), &json!("lamp")));
    assert_eq!((&told["iss"], &told["aud"], &told["scope"]), (&json!(home.base), &json!(home.base), &issued.body["scope"]));
    assert_eq!((&told["token_type"], told["exp"].as_u64()), (&json!("Bearer"), told["iat"].as_u64().map(|at| at + 300)));
    assert!(told["cnf"]["jkt"].is_string() && told["jti"].is_string() && told.get("username").is_none());

    let ann = home.person("ann", "viewer").await;
    let told = home.introspect(&home.owner, &ann).await.body;
    assert_eq!((&told["sub"], &told["username"], told.get("client_id")), (&json!("ann"), &json!("ann"), None));
    assert!(home.is_active(&ann).await);
    home.delete("/users/ann", &home.owner).await;
    assert!(!home.is_active(&ann).await);
    home.owns(Method::POST, "/devices/lamp/disable", json!({})).await;
    assert!(!home.is_active(token).await, "a paused device's token is not good");
    for nonsense in ["x", "a.b.c", "hk_pat_x", "hk_sec_x"] {
        assert!(!home.is_active(nonsense).await, "{nonsense}");
    }
    let key = json!({"name": "ha", "integration": "ha", "profile": "service", "networks": ["192.0.2.0/24"]});
    let key = home.owns(Method::POST, "/credentials/api-keys", key).await.secret();
    assert_eq!(home.get("/me", &key).await.status, 401, "from here it is not good");
    let told = home.introspect(&home.owner, &key).await.body;
    assert_eq!((&told["active"], &told["networks"]), (&json!(true), &json!(["192.0.2.0/24"])), "the one who asks may judge");
    let secret = home.with_secret("plug", "switch").await;
    assert!(!home.is_active(&secret).await, "a client secret is no token");
}

#[tokio::test]
async fn a_service_introspects_by_its_profile_and_a_device_does_not() {
    let home = Home::open().await;
    let (dash, lamp) = (home.with_secret("dash", "service").await, home.with_secret("lamp", "switch").await);
    let token = home.access_token("lamp", &lamp).await;
    let as_client = async |id: &str, secret: &str| {
        home.oauth("introspect", &[("client_id", id), ("client_secret", secret), ("token", &token)]).await
    };
    assert_eq!(as_client("dash", &dash).await.body["sub"], "lamp");
    assert_eq!(as_client("lamp", &lamp).await.refusal(), (400, "unauthorized_client"));
    assert_eq!(as_client("dash", "wrong").await.refusal(), (400, "invalid_client"));
    let by_token = home.access_token("dash", &dash).await;
    assert_eq!(home.introspect(&by_token, &token).await.body["sub"], "lamp");
    let denied = home.introspect(&token, &token).await;
    assert_eq!(denied.refusal(), (403, "insufficient_scope"));
    assert!(denied.header("www-authenticate").contains("tokens:introspect"));
    assert_eq!(home.introspect("nonsense", &token).await.refusal(), (401, "invalid_token"));
    assert_eq!(home.oauth("introspect", &[("token", token.as_str())]).await.refusal(), (400, "invalid_client"));
    let without = ask(home.request(Method::POST, "/oauth2/introspect").bearer_auth(&home.owner).form(&[("x", "y")])).await;
    assert_eq!(without.refusal(), (400, "invalid_request"));
}

#[tokio::test]
async fn a_service_uses_the_api_with_its_access_token_as_far_as_its_profile_goes() {
    let home = Home::open().await;
    home.enrolled("lamp", "thermostat").await;
    let secret = home.with_secret("dash", "service").await;
    let token = home.access_token("dash", &secret).await;
    assert_eq!(home.get("/devices/lamp", &token).await.status, 200);
    assert_eq!(home.post("/devices/lamp/commands/identify", &token, json!({})).await.body["by"], "device dash");
    for path in ["/users", "/credentials", "/audit"] {
        assert_eq!(home.get(path, &token).await.refusal(), (403, "insufficient_scope"), "{path}");
    }
    let form = [("grant_type", "client_credentials"), ("client_id", "dash"), ("client_secret", &secret), ("scope", "read")];
    let narrow = home.oauth("token", &form).await.body["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(home.get("/devices/lamp", &narrow).await.status, 200);
    assert_eq!(home.post("/devices/lamp/commands/identify", &narrow, json!({})).await.status, 403);
    home.owns(Method::POST, "/devices/dash/revoke", json!({})).await;
    assert_eq!(home.get("/devices/lamp", &token).await.status, 401);
}

#[tokio::test]
async fn tokens_of_a_signing_key_that_was_replaced_stay_good() {
    let home = Home::open().await;
    let secret = home.with_secret("lamp", "switch").await;
    let before = home.access_token("lamp", &secret).await;
    let mut session = home.session("lamp", &before).await;
    let old = home.kids().await;
    let rotated = ask(home.api(Method::POST, "/signing-keys/rotate", &home.owner)).await;
    assert_eq!(rotated.status, 204);
    let kids = home.kids().await;
    assert_eq!((kids.len(), &kids[1]), (2, &old[0]), "the new key first, the old one still there");
    let after = home.access_token("lamp", &secret).await;
    assert!(home.is_active(&before).await && home.is_active(&after).await && session.is_alive().await);
    let audit = home.get("/audit?action=signing_key&actor=user+owner", &home.owner).await;
    assert_eq!(audit.items().len(), 1);
    let home = home.restarted().await;
    assert!(home.is_active(&before).await && home.is_active(&after).await);
    assert_eq!(home.kids().await, kids);
}

#[tokio::test]
async fn a_replaced_signing_key_is_published_until_its_last_token_has_ended_and_no_longer() {
    let home = Home::open().await;
    let secret = home.with_secret("lamp", "switch").await;
    let before = home.access_token("lamp", &secret).await;
    assert_eq!(ask(home.api(Method::POST, "/signing-keys/rotate", &home.owner)).await.status, 204);
    let kids = home.kids().await;
    // As if its time had come: the hub reads the clock of the system.
    let file = home.root().join("keys/signing.json");
    let mut history: Value = serde_json::from_slice(&std::fs::read(&file).expect("there")).expect("JSON");
    let until = &mut history["retired"][0]["verifies_until"];
    let now = home.server.hub().now().0;
    assert!(until.as_u64().expect("a time") > now, "{until}");
    *until = json!(now);
    std::fs::write(&file, history.to_string()).expect("ours");
    let home = home.restarted().await;
    assert_eq!(home.kids().await, kids[..1]);
    assert!(!home.is_active(&before).await, "its tokens would have ended before");
    let after = home.access_token("lamp", &secret).await;
    assert!(home.is_active(&after).await);
}

#[tokio::test]
async fn a_token_for_another_server_is_introspected_and_ended_and_opens_nothing_here() {
    let home = Home::open().await;
    let profile = "name = \"dash\"\nresources = [\"https://grafana.local\"]\n[permissions.read]\napi = [\"devices:read\"]\n";
    let put = home.api(Method::PUT, "/profiles/dash", &home.owner).header("content-type", "application/toml").body(profile);
    assert_eq!(ask(put).await.status, 201);
    let secret = home.with_secret("board", "dash").await;
    let by_secret = [("client_id", "board"), ("client_secret", secret.as_str())];
    let grant = [("grant_type", "client_credentials"), ("resource", "https://grafana.local")];
    let token =
        home.oauth("token", &[&by_secret[..], &grant].concat()).await.body["access_token"].as_str().expect("one").to_owned();
    assert_eq!(home.get("/devices", &token).await.refusal(), (401, "invalid_token"));
    assert!(home.connect("board", &token).await.is_err());
    assert_eq!(home.introspect(&home.owner, &token).await.body["aud"], "https://grafana.local");
    assert_eq!(home.oauth("revoke", &[&by_secret[..], &[("token", token.as_str())]].concat()).await.status, 200);
    assert!(!home.is_active(&token).await);
    let elsewhere = [("grant_type", "client_credentials"), ("resource", "https://elsewhere.local")];
    assert_eq!(home.oauth("token", &[&by_secret[..], &elsewhere].concat()).await.refusal(), (400, "invalid_target"));
}
