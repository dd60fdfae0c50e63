//! Device authorization (RFC 8628): joining, and logging in from another machine.

use crate::{
    device::Device,
    home::{Answer, Home, ask},
};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use hearthkey_core::{
    device_authorization::{JoinCommitment, UserCode},
    jwt::Jwk,
};
use reqwest::Method;
use serde_json::{Value, json};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

impl Home {
    async fn ask_to_log_in(&self) -> Answer {
        self.oauth("device_authorization", &[("client_id", "hearthkey-cli")]).await
    }

    async fn ask_to_join(&self, device: &Device) -> Answer {
        let jwk = device.jwk().to_string();
        let form = [("client_id", "hearthkey-join"), ("jwk", jwk.as_str()), ("software", "acme 1.0")];
        self.oauth("device_authorization", &form).await
    }

    async fn poll(&self, asked: &Answer, client_id: &str) -> Answer {
        let device_code = asked.body["device_code"].as_str().expect("a device code");
        self.oauth("token", &[("grant_type", GRANT), ("device_code", device_code), ("client_id", client_id)]).await
    }

    async fn approve(&self, credential: &str, asked: &Answer, word: Value) -> Answer {
        self.post(&format!("/approvals/{}", user_code(asked)), credential, word).await
    }
}

fn user_code(asked: &Answer) -> &str {
    asked.body["user_code"].as_str().unwrap_or_else(|| panic!("a code: {asked:?}"))
}

#[tokio::test]
async fn a_person_logs_in_from_another_machine() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let asked = home.ask_to_log_in().await;
    assert_eq!((asked.status, &asked.body["interval"], &asked.body["expires_in"]), (200, &json!(5), &json!(600)));
    let uri = asked.body["verification_uri"].as_str().expect("a URI");
    let page = home.request(Method::GET, uri.strip_prefix(&home.base).expect("ours")).send().await.expect("an answer");
    assert!(page.text().await.expect("text").contains("hearthkey approve CODE"));

    let list = home.get("/approvals", &ann).await;
    let waiting = &list.items()[0];
    assert_eq!(waiting["user_code"], user_code(&asked));
    assert_eq!(waiting["wanted"], json!({"login": {"client": "hearthkey-cli", "source": "127.0.0.1"}}));
    assert!(waiting["expires_at"].as_u64().expect("a time") <= home.server.hub().now().0 + 600);
    let approved = home.approve(&ann, &asked, json!({"scope": "devices:read", "expires_in_s": 3_600})).await;
    assert_eq!(approved.status, 200, "{approved:?}");
    assert_eq!(home.get("/approvals", &ann).await.items(), [Value::Null; 0]);

    let lost = home.poll(&asked, "hearthkey-cli").await;
    let granted = home.poll(&asked, "hearthkey-cli").await;
    assert_eq!(granted.body, lost.body, "an answer that got lost can be fetched again");
    assert_eq!((granted.status, &granted.body["token_type"]), (200, &json!("Bearer")));
    assert_eq!((&granted.body["expires_in"], &granted.body["scope"]), (&json!(3_600), &json!("devices:read")));
    assert_eq!(granted.header("cache-control"), "no-store");
    let token = granted.body["access_token"].as_str().expect("a token");
    let me = home.get("/me", token).await;
    assert_eq!((&me.body["principal"], &me.body["scope"]), (&json!({"user": "ann"}), &json!("devices:read")));
    let id = token.split('_').nth(2).expect("a public id");
    home.used(id).await;
    assert_eq!(home.poll(&asked, "hearthkey-cli").await.refusal(), (400, "expired_token"), "it has arrived, as it was used");
}

#[tokio::test]
async fn a_device_without_a_string_joins_while_the_window_is_open() {
    let home = Home::open().await;
    let lamp = Device::new("lamp");
    assert_eq!(home.ask_to_join(&lamp).await.refusal(), (400, "access_denied"), "no window is open");
    let opened = home.owns(Method::POST, "/join", json!({"for_s": 180})).await;
    assert!(opened.body["open_until"].as_u64().expect("a time") > home.server.hub().now().0);
    let asked = home.ask_to_join(&lamp).await;
    assert_eq!(asked.status, 200);
    let list = home.get("/approvals", &home.owner).await;
    let wanted = &list.items()[0]["wanted"]["join"];
    assert_eq!((&wanted["software"], wanted["thumbprint"].is_string()), (&json!("acme 1.0"), true));

    let member = home.person("mia", "member").await;
    assert_eq!(home.get("/approvals", &member).await.items(), [Value::Null; 0], "devices are the owner's");
    let word = json!({"name": "lamp", "profile": "thermostat"});
    assert_eq!(home.approve(&member, &asked, word.clone()).await.refusal(), (403, "insufficient_scope"));
    assert_eq!(home.delete(&format!("/approvals/{}", user_code(&asked)), &member).await.status, 403);
    assert_eq!(home.approve(&home.owner, &asked, json!({})).await.refusal(), (409, "other_kind"));
    assert_eq!(home.approve(&home.owner, &asked, json!({"name": "lamp"})).await.refusal(), (422, "other_kind"));
    let rocket = json!({"name": "lamp", "profile": "rocket"});
    assert_eq!(home.approve(&home.owner, &asked, rocket).await.refusal(), (422, "unknown_profile"));
    let approved = home.approve(&home.owner, &asked, word).await;
    assert_eq!((approved.status, &approved.body["id"], &approved.body["status"]), (200, &json!("lamp"), &json!("active")));

    let lost = home.poll(&asked, "hearthkey-join").await;
    assert_eq!((lost.status, &lost.body["client_id"]), (200, &json!("lamp")), "an answer that may get lost");
    let granted = home.poll(&asked, "hearthkey-join").await;
    assert_eq!((&granted.body["client_id"], &granted.body["issuer"]), (&json!("lamp"), &json!(home.base)));
    let mut session = home.session("lamp", granted.body["access_token"].as_str().expect("a token")).await;
    assert!(session.is_alive().await);
    let now = home.server.hub().now().0;
    let assertion = lamp.sign(&json!({"iss": "lamp", "sub": "lamp", "aud": home.base, "jti": "1", "exp": now + 60}));
    let jwt_bearer = hearthkey_core::oauth::JWT_BEARER;
    let form =
        [("grant_type", "client_credentials"), ("client_assertion_type", jwt_bearer), ("client_assertion", assertion.as_str())];
    assert_eq!(home.oauth("token", &form).await.status, 200, "it proves its key from now on");
    assert_eq!(home.poll(&asked, "hearthkey-join").await.refusal(), (400, "expired_token"), "and needs its code no more");

    assert_eq!(home.owns(Method::POST, "/join", json!({"for_s": 0})).await.status, 200);
    assert_eq!(home.ask_to_join(&Device::new("oven")).await.refusal(), (400, "access_denied"), "the window is closed");
    assert_eq!(home.owns(Method::POST, "/join", json!({"for_s": 901})).await.refusal(), (422, "for_s"));
}

#[tokio::test]
async fn a_device_that_does_not_know_the_home_is_found_by_a_code_that_both_show() {
    let home = Home::open().await;
    home.owns(Method::POST, "/join", json!({"for_s": 180})).await;
    let (lamp, nonce) = (Device::new("lamp"), [7; 16]);
    let encoded = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
    let commitment = encoded(ring::digest::digest(&ring::digest::SHA256, &nonce).as_ref());
    let jwk = lamp.jwk().to_string();
    let ask = |commitment: String| {
        let form =
            [("client_id", "hearthkey-join"), ("jwk", jwk.as_str()), ("commitment", &commitment)].map(|(k, v)| (k, v.to_owned()));
        let home = &home;
        async move {
            let form = form.each_ref().map(|(name, value)| (*name, value.as_str()));
            home.oauth("device_authorization", &form).await
        }
    };
    assert_eq!(ask("short".to_owned()).await.refusal(), (400, "invalid_client_metadata"));
    let asked = ask(commitment.clone()).await;
    assert_eq!(asked.status, 200, "{asked:?}");
    assert_eq!(home.get("/approvals", &home.owner).await.items(), [Value::Null; 0], "there is no code to compare yet");

    let device_code = asked.body["device_code"].as_str().expect("a device code");
    let form = [("grant_type", GRANT), ("client_id", "hearthkey-join"), ("device_code", device_code)];
    let poll = async |nonce: Option<&str>| {
        let nonce = nonce.map(|nonce| ("nonce", nonce));
        home.oauth("token", &form.into_iter().chain(nonce).collect::<Vec<_>>()).await
    };
    for nonce in [None, Some(""), Some("AAAA"), Some(encoded(&[8; 16]).as_str())] {
        assert_eq!(poll(nonce).await.refusal(), (400, "invalid_request"), "{nonce:?} is not what was committed to");
    }
    let nonce_text = encoded(&nonce);
    assert_eq!(poll(Some(&nonce_text)).await.refusal(), (400, "authorization_pending"));
    let share = UserCode::parse(user_code(&asked)).expect("a code");
    let key = serde_json::from_str::<Jwk>(&jwk).expect("a JWK").to_public_key().expect("a key");
    let committed = JoinCommitment::parse(&commitment).expect("a commitment");
    let code =
        committed.code(&home.server.hub().ca_sha256(), &key.point().expect("of P-256")[1..], &nonce, &share).expect("its nonce");
    assert_eq!(home.get("/approvals", &home.owner).await.items()[0]["user_code"], code.to_string());

    let word = json!({"name": "lamp", "profile": "thermostat"});
    assert_eq!(home.approve(&home.owner, &asked, word.clone()).await.refusal(), (404, "unknown_code"), "the share is no code");
    assert_eq!(home.post(&format!("/approvals/{code}"), &home.owner, word).await.status, 200);
    assert_eq!(poll(None).await.status, 200, "the nonce has said what it had to");
    let granted = poll(Some(&nonce_text)).await;
    assert_eq!((&granted.body["client_id"], &granted.body["issuer"]), (&json!("lamp"), &json!(home.base)));
    assert_eq!(granted.body["mqtts_port"], json!(home.server.addresses().mqtts.port()));
}

#[tokio::test]
async fn who_is_denied_or_polls_wrongly_gets_nothing() {
    let home = Home::open().await;
    let asked = home.ask_to_log_in().await;
    assert_eq!(home.poll(&asked, "hearthkey-join").await.refusal(), (400, "expired_token"), "the code of another client");
    assert_eq!(home.poll(&asked, "hearthkey-cli").await.refusal(), (400, "authorization_pending"));
    assert_eq!(home.poll(&asked, "hearthkey-cli").await.refusal(), (400, "slow_down"));
    assert_eq!(home.delete(&format!("/approvals/{}", user_code(&asked)), &home.owner).await.status, 204);
    assert_eq!(home.delete(&format!("/approvals/{}", user_code(&asked)), &home.owner).await.refusal(), (404, "unknown_code"));
    assert_eq!(home.approve(&home.owner, &asked, json!({})).await.refusal(), (404, "unknown_code"), "too late");
    let denied = home.get("/audit?action=approval", &home.owner).await;
    assert_eq!(denied.items().len(), 1);

    let denied = home.ask_to_log_in().await;
    assert_eq!(home.delete(&format!("/approvals/{}", user_code(&denied)), &home.owner).await.status, 204);
    assert_eq!(home.poll(&denied, "hearthkey-cli").await.refusal(), (400, "access_denied"));

    for form in [
        vec![("grant_type", GRANT)],
        vec![("grant_type", GRANT), ("device_code", "x")],
        vec![("grant_type", GRANT), ("client_id", "hearthkey-cli")],
    ] {
        assert_eq!(home.oauth("token", &form).await.refusal(), (400, "invalid_request"), "{form:?}");
    }
}

#[tokio::test]
async fn what_makes_no_request_for_approval_is_refused() {
    let home = Home::open().await;
    home.owns(Method::POST, "/join", json!({"for_s": 60})).await;
    let private = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"}).to_string();
    let off_curve = json!({"kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)}).to_string();
    for (form, refusal) in [
        (vec![], "invalid_request"),
        (vec![("client_id", "other")], "invalid_client"),
        (vec![("client_id", "hearthkey-join")], "invalid_client_metadata"),
        (vec![("client_id", "hearthkey-join"), ("jwk", "{")], "invalid_client_metadata"),
        (vec![("client_id", "hearthkey-join"), ("jwk", "{}")], "invalid_client_metadata"),
        (vec![("client_id", "hearthkey-join"), ("jwk", &private)], "invalid_client_metadata"),
        (vec![("client_id", "hearthkey-join"), ("jwk", &off_curve)], "invalid_client_metadata"),
    ] {
        assert_eq!(home.oauth("device_authorization", &form).await.refusal(), (400, refusal), "{form:?}");
    }
    for code in ["BCDF-GHJK", "x", "%20", "0000-0000"] {
        assert_eq!(home.delete(&format!("/approvals/{code}"), &home.owner).await.refusal(), (404, "unknown_code"), "{code}");
    }
}

#[tokio::test]
async fn nobody_fills_the_list_of_those_who_wait() {
    let home = Home::open().await;
    let mut asked = Vec::new();
    let refused = loop {
        let answer = home.ask_to_log_in().await;
        if answer.status != 200 {
            break answer;
        }
        asked.push(answer);
        assert!(asked.len() < 64);
    };
    assert_eq!(refused.refusal(), (429, "slow_down"));
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(home.approve(&home.owner, &asked[0], json!({})).await.status, 200);
    assert_eq!(home.ask_to_log_in().await.status, 200, "whoever was answered makes room");
}

#[tokio::test]
async fn guessing_codes_is_slowed_down() {
    let home = Home::open().await;
    let letters = b"BCDFGHJKLMNPQRSTVWXZ";
    let slowed = async {
        for guess in 0..200 {
            let code: String = (0..8).map(|place| char::from(letters[(guess >> place) % letters.len()])).collect();
            let answer = ask(home.api(Method::DELETE, &format!("/approvals/{code}"), &home.owner)).await;
            if answer.status == 429 {
                return answer;
            }
            assert_eq!(answer.status, 404);
        }
        panic!("200 guesses were answered");
    };
    assert_eq!(slowed.await.refusal().1, "slow_down");
}
