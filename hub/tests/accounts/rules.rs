//! What holds for all resources: pages, entity tags, idempotency keys, malformed requests.

use crate::home::{Answer, Home, ask};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

impl Home {
    async fn read_all(&self, path: &str, limit: usize) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit={limit}{cursor}"), &self.owner).await;
            assert!(page.items().len() <= limit);
            items.extend(page.items().to_vec());
            match page.body["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
            assert!(items.len() < 1_000, "the list does not end");
        }
    }

    fn keyed(&self, key: &str, path: &str, body: &Value) -> RequestBuilder {
        self.api(Method::POST, path, &self.owner).header("idempotency-key", key).json(body)
    }
}

#[tokio::test]
async fn each_list_comes_in_pages_that_hold_each_item_once() {
    let home = Home::open().await;
    home.enrolled("lamp", "thermostat").await;
    for number in 0..5 {
        home.with_secret(&format!("plug-{number}"), "switch").await;
        home.owns(Method::POST, "/users", json!({"name": format!("ann-{number}"), "role": "viewer"})).await;
        home.token(&home.owner, json!({"name": "x"})).await;
        home.owns(Method::POST, "/devices/lamp/commands/identify", json!({"ttl_s": 600})).await;
        home.oauth("device_authorization", &[("client_id", "hearthkey-cli")]).await;
    }
    for (path, at_least) in
        [("/devices", 6), ("/users", 6), ("/credentials", 11), ("/profiles", 5), ("/devices/lamp/commands", 5), ("/approvals", 5)]
    {
        let whole = home.get(path, &home.owner).await;
        assert!(whole.items().len() >= at_least && whole.body.get("next").is_none(), "{path}");
        for limit in [1, 4, 500] {
            assert_eq!(home.read_all(path, limit).await, whole.items(), "{path} by {limit}");
        }
        for (query, refusal) in [
            ("limit=0", (422, "")),
            ("limit=501", (422, "")),
            ("limit=x", (400, "")),
            ("cursor=!", (400, "invalid_cursor")),
            ("page=2", (400, "")),
        ] {
            assert_eq!(home.get(&format!("{path}?{query}"), &home.owner).await.refusal(), refusal, "{path}?{query}");
        }
    }
}

#[tokio::test]
async fn an_edit_upon_an_old_state_is_refused() {
    let home = Home::open().await;
    home.owns(Method::POST, "/users", json!({"name": "ann", "role": "viewer"})).await;
    let patch = async |tag: &str, role: &str| {
        ask(home.api(Method::PATCH, "/users/ann", &home.owner).header("if-match", tag).json(&json!({"role": role}))).await
    };
    let first = home.get("/users/ann", &home.owner).await.header("etag").to_owned();
    let changed = patch(&first, "member").await;
    assert_eq!(changed.status, 200);
    let second = changed.header("etag").to_owned();
    assert_ne!(first, second);
    assert_eq!(patch(&first, "owner").await.refusal(), (412, "changed"));
    assert_eq!(patch(&format!("W/{second}"), "owner").await.status, 412, "a weak tag does not match");
    assert_eq!(patch("nonsense", "owner").await.status, 400);
    assert_eq!(home.get("/users/ann", &home.owner).await.body["role"], "member");
    assert_eq!(patch(&format!("{first}, {second}"), "owner").await.status, 200);
    assert_eq!(patch("*", "viewer").await.status, 200);
    let password = json!({"password": "a good long password"});
    let before = home.get("/users/ann", &home.owner).await.header("etag").to_owned();
    home.owns(Method::PATCH, "/users/ann", password).await;
    assert_eq!(patch(&before, "owner").await.status, 412, "a new password is a new state");
    let delete = home.api(Method::DELETE, "/users/ann", &home.owner).header("if-match", &first);
    assert_eq!(ask(delete).await.status, 412);

    let shown = home.api(Method::GET, "/profiles/switch", &home.owner).header("accept", "application/toml");
    let shown = shown.send().await.expect("an answer");
    let tag = shown.headers()["etag"].clone();
    let toml = shown.text().await.expect("text");
    let put = async |name: &str, field: &str, value: &str| {
        let request = home.api(Method::PUT, &format!("/profiles/{name}"), &home.owner).header(field, value);
        ask(request.header("content-type", "application/toml").body(toml.replace("\"switch\"", &format!("\"{name}\"")))).await
    };
    assert_eq!(put("switch", "if-match", tag.to_str().expect("ASCII")).await.status, 200);
    assert_eq!(put("switch", "if-match", "\"other\"").await.status, 412);
    assert_eq!(put("switch", "if-none-match", "*").await.status, 412);
    assert_eq!(put("relay", "if-match", "*").await.status, 412, "there is none yet");
    assert_eq!(put("relay", "if-none-match", "*").await.status, 201);
}

#[tokio::test]
async fn a_repeated_request_counts_once() {
    let home = Home::open().await;
    let body = json!({"name": "backup"});
    let path = "/credentials/personal-access-tokens";
    let first = ask(home.keyed("k-1", path, &body)).await;
    let again = ask(home.keyed("k-1", path, &body)).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body, "the same credential and no other secret");
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(first.header("location"), again.header("location"));
    let made = home.get("/credentials", &home.owner).await;
    assert_eq!(made.items().iter().filter(|item| item["name"] == "backup").count(), 1);

    assert_eq!(ask(home.keyed("k-1", path, &json!({"name": "other"}))).await.refusal(), (422, "idempotency_key_reused"));
    assert_eq!(ask(home.keyed("k-1", "/users", &body)).await.refusal(), (422, "idempotency_key_reused"));
    assert_ne!(ask(home.keyed("k-2", path, &body)).await.id(), first.id());
    let (one, other) = tokio::join!(ask(home.keyed("k-3", path, &body)), ask(home.keyed("k-3", path, &body)));
    let told: Vec<_> = [&one, &other].into_iter().filter(|answer| answer.status == 201).map(Answer::id).collect();
    assert!(told.windows(2).all(|ids| ids[0] == ids[1]) && !told.is_empty());
    for answer in [one, other] {
        assert!(answer.status == 201 || answer.refusal() == (409, "in_progress"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_key_belongs_to_the_credential_that_used_it() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let narrow = home.token(&ann, json!({"name": "narrow", "scope": "devices:read"})).await.secret();
    let body = json!({"name": "backup"});
    let path = "/credentials/personal-access-tokens";
    let by = |token: &str| ask(home.api(Method::POST, path, token).header("idempotency-key", "k").json(&body));
    let hers = by(&ann).await;
    assert_eq!(by(&narrow).await.refusal(), (403, "insufficient_scope"), "her other token is shown nothing");
    assert_eq!(by(&ann).await.id(), hers.id());
    assert_ne!(by(&home.owner).await.id(), hers.id());
    assert_eq!(by("nonsense").await.status, 401);
}

#[tokio::test]
async fn a_key_does_not_pass_to_another_device_that_gets_the_name() {
    let home = Home::open().await;
    home.with_secret("lamp", "switch").await;
    let replayed = async || {
        let secret = home.with_secret("dash", "service").await;
        let token = home.access_token("dash", &secret).await;
        let mut replayed = Vec::new();
        for _ in 0..2 {
            let request = home.api(Method::POST, "/devices/lamp/commands/on", &token).header("idempotency-key", "k");
            let answer = ask(request).await;
            assert_eq!(answer.status, 202);
            replayed.push(answer.header("idempotency-replayed").to_owned());
        }
        replayed
    };
    assert_eq!(replayed().await, ["", "true"]);
    assert_eq!(home.owns(Method::POST, "/devices/dash/revoke", json!({})).await.status, 200);
    assert_eq!(replayed().await, ["", "true"]);
}

#[tokio::test]
async fn a_refusal_is_not_kept_and_a_bad_key_is_refused() {
    let home = Home::open().await;
    let command = || home.keyed("go", "/devices/lamp/commands/identify", &json!({}));
    assert_eq!(ask(command()).await.status, 404);
    home.enrolled("lamp", "thermostat").await;
    let sent = ask(command()).await;
    assert_eq!((sent.status, ask(command()).await.body), (202, sent.body), "one command, however often it is asked");
    assert_eq!(home.get("/devices/lamp/commands", &home.owner).await.items().len(), 1);
    for key in ["", "with space", &"x".repeat(65)] {
        let answer = ask(home.keyed(key, "/users", &json!({"name": "x", "role": "viewer"}))).await;
        assert_eq!(answer.refusal(), (400, "idempotency_key"), "{key:?}");
    }
    let large = home.api(Method::POST, "/users", &home.owner).header("idempotency-key", "k").body("x".repeat(20_000));
    assert_eq!(ask(large).await.status, 413);
}

#[tokio::test]
async fn answers_that_are_kept_are_bounded() {
    let home = Home::open().await;
    home.owns(Method::POST, "/users", json!({"name": "ann", "role": "viewer"})).await;
    let kept = hearthkey::http::limits::MAX_IDEMPOTENT_ANSWERS_PER_PRINCIPAL;
    let open = |key: usize| ask(home.keyed(&format!("k-{key}"), "/join", &json!({"for_s": 0})));
    for key in 0..=kept {
        assert_eq!(open(key).await.header("idempotency-replayed"), "");
    }
    assert_eq!(open(kept).await.header("idempotency-replayed"), "true", "the newest is there");
    assert_eq!(open(0).await.header("idempotency-replayed"), "", "the oldest made room");
}

fn public_id(credential: &str) -> Option<String> {
    credential.split('_').nth(2).map(str::to_owned)
}

/// The same public id, another secret, and a check sum (CRC-32, six digits of base 62) that fits.
fn with_another_secret(credential: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let (known, _) = credential.rsplit_once('_').expect("three parts");
    let text = format!("{known}_{}", "x".repeat(32));
    let mut crc = text.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    }) ^ u32::MAX;
    let mut sum = [0; 6];
    for digit in sum.iter_mut().rev() {
        *digit = DIGITS[crc as usize % DIGITS.len()];
        crc /= 62;
    }
    format!("{text}{}", String::from_utf8_lossy(&sum))
}

#[tokio::test]
async fn a_good_credential_is_heard_however_many_bad_ones_bear_its_id() {
    let home = Home::open().await;
    let wrong = with_another_secret(&home.owner);
    assert_eq!(
        hearthkey_core::secret::PresentedCredential::parse(&wrong).map(|it| it.id.to_owned()).ok(),
        public_id(&home.owner)
    );
    assert_eq!(home.get("/me", &home.owner).await.status, 200);
    let slowed = async {
        for _ in 0..100 {
            if home.get("/me", &wrong).await.status == 429 {
                return;
            }
        }
        panic!("100 guesses were answered");
    };
    slowed.await;
    assert_eq!(home.get("/me", &home.owner).await.status, 200);
    assert_eq!(home.get("/me", &wrong).await.status, 401, "whoever proves it begins anew");
}

#[tokio::test]
async fn a_good_credential_is_heard_by_mqtt_however_many_bad_ones_were_tried_with_its_name() {
    const QUOTA_EXCEEDED: u8 = 0x97;
    let home = Home::open().await;
    let wrong = with_another_secret(&home.owner);
    let slowed = async |password: &str| {
        for _ in 0..100 {
            if home.connect("lamp", password).await.err() == Some(QUOTA_EXCEEDED) {
                return;
            }
        }
        panic!("100 guesses were answered");
    };
    slowed(&wrong).await;
    assert!(home.session("lamp", &home.owner).await.is_alive().await, "it cannot have been guessed");
    slowed("no.credential.of.ours").await;
    assert!(home.session("lamp", &home.owner).await.is_alive().await);
}

#[tokio::test]
async fn a_good_client_secret_is_heard_however_many_bad_ones_were_tried_with_its_name() {
    let home = Home::open().await;
    let secret = home.with_secret("plug", "switch").await;
    let wrong = with_another_secret(&secret);
    let ask_with = async |secret: &str| {
        let form = [("grant_type", "client_credentials"), ("client_id", "plug"), ("client_secret", secret)];
        home.oauth("token", &form).await
    };
    let slowed = async {
        for _ in 0..100 {
            let answer = ask_with(&wrong).await;
            if answer.status == 429 {
                return answer;
            }
        }
        panic!("100 guesses were answered");
    };
    assert!(!slowed.await.header("retry-after").is_empty());
    assert_eq!(ask_with(&secret).await.status, 200);
}

#[tokio::test]
async fn whoever_sends_too_much_is_told_so_on_a_connection_that_goes_on() {
    let home = Home::open().await;
    let mut expected = Vec::new();
    for credential in [&home.owner, &"hk_pat_nonsense".to_owned()] {
        for size in [17_000, 100_000] {
            let request = home.api(Method::POST, "/devices", credential).header("content-type", "application/json");
            expected.push(ask(request.body("x".repeat(size))).await.status);
        }
    }
    assert_eq!(expected, [413, 413, 401, 401]);
    assert_eq!(home.get("/me", &home.owner).await.status, 200);
}

#[tokio::test]
async fn malformed_requests_are_told_what_is_wrong_with_them() {
    let home = Home::open().await;
    let takes_json = [
        (Method::POST, "/users"),
        (Method::PATCH, "/users/owner"),
        (Method::PUT, "/me/password"),
        (Method::POST, "/credentials/personal-access-tokens"),
        (Method::POST, "/credentials/api-keys"),
        (Method::POST, "/credentials/x/roll"),
        (Method::POST, "/login"),
        (Method::POST, "/join"),
        (Method::POST, "/approvals/BCDF-GHJK"),
        (Method::POST, "/devices"),
    ];
    for (method, path) in takes_json {
        let request = || home.api(method.clone(), path, &home.owner);
        let json = |body: String| request().header("content-type", "application/json").body(body);
        for (request, status) in [
            (request().body("{}"), 415),
            (request().header("content-type", "text/plain").body("{}"), 415),
            (json(String::new()), 400),
            (json("{".to_owned()), 400),
            (json("x".to_owned()), 400),
            (json("[]".to_owned()), 422),
            (json("null".to_owned()), 422),
            (json("{\"surprise\":1}".to_owned()), 422),
            (json(format!("{{\"name\":\"{}\"}}", "x".repeat(20_000))), 413),
            (json("[".repeat(10_000)), 422),
        ] {
            let shown = format!("{method} {path} {request:?}");
            let answer = ask(request).await;
            assert_eq!(answer.status, status, "{shown} {}", answer.body["detail"]);
        }
    }
    for (method, path, status) in [
        (Method::GET, "/users/Not%20a%20name", 404),
        (Method::GET, "/users/%ff", 404),
        (Method::GET, "/credentials/%00", 404),
        (Method::GET, "/credentials/%2e%2e", 404),
        (Method::DELETE, "/users", 405),
        (Method::PUT, "/users/owner", 405),
        (Method::GET, "/login", 405),
        (Method::GET, "/me?x=y", 400),
        (Method::GET, "/audit/verify?x=y", 400),
    ] {
        assert_eq!(ask(home.api(method.clone(), path, &home.owner)).await.status, status, "{method} {path}");
    }
}
