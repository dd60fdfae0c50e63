//! People: added, changed, removed; logging in.

use crate::home::{Answer, Home, PASSWORD, ask};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn the_owner_adds_changes_and_removes_people() {
    let home = Home::open().await;
    let added = home.owns(Method::POST, "/users", json!({"name": "ann", "role": "viewer"})).await;
    assert_eq!((added.status, added.header("location")), (201, "/api/v1/users/ann"));
    assert_eq!((&added.body["role"], &added.body["has_password"]), (&json!("viewer"), &json!(false)));
    let changed = home.owns(Method::PATCH, "/users/ann", json!({"role": "member", "password": PASSWORD})).await;
    assert_eq!((&changed.body["role"], &changed.body["has_password"]), (&json!("member"), &json!(true)));
    let list = home.get("/users", &home.owner).await;
    let names: Vec<_> = list.items().iter().map(|user| user["name"].clone()).collect();
    assert_eq!(names, ["ann", "owner"]);
    assert!(!list.body.to_string().contains("argon2"), "hashes are nobody's to see");
    assert_eq!(home.delete("/users/ann", &home.owner).await.status, 204);
    assert_eq!(home.get("/users/ann", &home.owner).await.refusal(), (404, "unknown_user"));

    for (method, path, body, refusal) in [
        (Method::POST, "/users", json!({"name": "owner", "role": "viewer"}), (409, "user_exists")),
        (Method::POST, "/users", json!({"name": "Ann", "role": "viewer"}), (422, "")),
        (Method::POST, "/users", json!({"name": "bob", "role": "king"}), (422, "")),
        (Method::POST, "/users", json!({"name": "bob", "role": "member", "password": "short"}), (422, "password")),
        (Method::PATCH, "/users/owner", json!({"role": "member"}), (409, "last_owner")),
        (Method::PATCH, "/users/nobody", json!({"role": "member"}), (404, "unknown_user")),
        (Method::PATCH, "/users/owner", json!({"name": "boss"}), (422, "")),
        (Method::DELETE, "/users/owner", Value::Null, (409, "last_owner")),
        (Method::DELETE, "/users/nobody", Value::Null, (404, "unknown_user")),
    ] {
        let answer = home.owns(method.clone(), path, body.clone()).await;
        assert_eq!(answer.refusal(), refusal, "{method} {path} {body} {answer:?}");
    }
}

#[tokio::test]
async fn members_and_viewers_do_not_manage_what_is_the_owners() {
    let home = Home::open().await;
    home.enrolled("lamp", "thermostat").await;
    let member = home.person("mia", "member").await;
    let viewer = home.person("vic", "viewer").await;
    let owner_only = [
        (Method::GET, "/users"),
        (Method::GET, "/users/owner"),
        (Method::POST, "/users"),
        (Method::PATCH, "/users/mia"),
        (Method::DELETE, "/users/vic"),
        (Method::POST, "/credentials/api-keys"),
        (Method::POST, "/signing-keys/rotate"),
        (Method::POST, "/backups"),
        (Method::POST, "/join"),
        (Method::GET, "/audit"),
        (Method::GET, "/audit/verify"),
        (Method::GET, "/audit/export"),
        (Method::POST, "/devices/lamp/revoke"),
    ];
    let body = json!({"name": "x", "role": "owner", "integration": "x", "profile": "switch", "for_s": 60});
    for (method, path) in owner_only {
        for token in [&member, &viewer] {
            // Whoever may not is told so before the body is looked at.
            let body = match path {
                "/users" => json!({"name": "x", "role": "owner"}),
                "/users/mia" => json!({"role": "owner"}),
                "/credentials/api-keys" => json!({"name": "x", "integration": "x", "profile": "switch"}),
                "/join" => json!({"for_s": 60}),
                _ => body.clone(),
            };
            let answer = ask(home.api(method.clone(), path, token).json(&body)).await;
            assert_eq!(answer.refusal(), (403, "insufficient_scope"), "{method} {path}");
            assert!(answer.header("www-authenticate").contains("insufficient_scope"));
        }
    }
    for token in [&member, &viewer] {
        for path in ["/devices", "/devices/lamp", "/me", "/credentials", "/approvals", "/profiles"] {
            assert_eq!(home.get(path, token).await.status, 200, "{path}");
        }
    }
    assert_eq!(home.post("/devices/lamp/commands/identify", &member, json!({})).await.status, 202);
    assert_eq!(home.post("/devices/lamp/commands/identify", &viewer, json!({})).await.status, 403);
}

#[tokio::test]
async fn everyone_is_told_who_they_are() {
    let home = Home::open().await;
    let me = home.get("/me", &home.owner).await;
    assert_eq!((&me.body["principal"], &me.body["role"]), (&json!({"user": "owner"}), &json!("owner")));
    assert!(me.body["scope"].as_str().expect("a scope").contains("users:manage"));
    assert!(me.body.get("expires_at").is_none(), "the local context has no end");
    let ann = home.person("ann", "member").await;
    let me = home.get("/me", &ann).await;
    assert_eq!(me.body["credential"]["name"], "login from 127.0.0.1");
    assert_eq!(me.body["expires_at"], me.body["credential"]["expires_at"]);
    home.owns(Method::PATCH, "/users/ann", json!({"role": "viewer"})).await;
    let scope = home.get("/me", &ann).await.body["scope"].clone();
    assert!(!scope.as_str().expect("a scope").contains("commands:send"), "what the user may now: {scope}");
    let secret = home.with_secret("dash", "service").await;
    let service = home.get("/me", &home.access_token("dash", &secret).await).await;
    assert_eq!(service.body["principal"], json!({"device": "dash"}));
    assert!(service.body["expires_at"].is_u64() && service.body.get("role").is_none());
    assert_eq!(ask(home.request(Method::GET, "/api/v1/me")).await.status, 401);
}

#[tokio::test]
async fn a_login_gives_a_token_of_hours_with_the_rights_of_its_person() {
    let home = Home::open().await;
    home.owns(Method::POST, "/users", json!({"name": "ann", "role": "member", "password": PASSWORD})).await;
    let login = home.login("ann", PASSWORD).await;
    assert_eq!(login.status, 201);
    let credential = &login.body["credential"];
    let lifetime = credential["expires_at"].as_u64().expect("a time") - credential["created_at"].as_u64().expect("a time");
    assert_eq!((lifetime, &credential["kind"]), (12 * 3_600, &json!("personal_access_token")));
    assert_eq!(home.get("/me", &login.secret()).await.body["principal"], json!({"user": "ann"}));
    let body = json!({"user": "ann", "password": PASSWORD, "expires_in_s": 60});
    let short = ask(home.request(Method::POST, "/api/v1/login").json(&body)).await;
    let credential = &short.body["credential"];
    assert_eq!(credential["expires_at"].as_u64(), credential["created_at"].as_u64().map(|at| at + 60));
    for expires_in_s in [json!(0), json!(31 * 86_400), json!(u64::MAX)] {
        let body = json!({"user": "ann", "password": PASSWORD, "expires_in_s": expires_in_s});
        let answer = ask(home.request(Method::POST, "/api/v1/login").json(&body)).await;
        assert_eq!(answer.refusal(), (422, "expires_in_s"));
    }
}

#[tokio::test]
async fn an_unknown_user_and_a_wrong_password_are_told_the_same() {
    let home = Home::open().await;
    home.person("ann", "member").await;
    home.owns(Method::POST, "/users", json!({"name": "bob", "role": "viewer"})).await;
    let told = |answer: &Answer| (answer.status, answer.body.clone(), answer.header("www-authenticate").to_owned());
    let wrong = home.login("ann", "open sesame").await;
    assert_eq!(wrong.refusal(), (401, "invalid_credentials"));
    for (user, password) in
        [("nobody", "open sesame"), ("bob", "open sesame"), ("NOT A NAME", "x"), ("", ""), ("ann", &"x".repeat(2_000))]
    {
        assert_eq!(told(&home.login(user, password).await), told(&wrong), "{user}");
    }
    let audit = home.audited("action=user.login&outcome=denied").await;
    assert!(!audit.to_string().contains("open sesame"));
}

#[tokio::test]
async fn guessing_a_password_is_slowed_down_and_its_owner_goes_on() {
    let home = Home::open().await;
    home.person("ann", "member").await;
    home.owns(Method::POST, "/users", json!({"name": "bob", "role": "member", "password": PASSWORD})).await;
    let slowed = async {
        for guess in 0..100 {
            let answer = home.login("bob", &format!("guess number {guess}")).await;
            if answer.status == 429 {
                return answer;
            }
            assert_eq!(answer.status, 401);
        }
        panic!("100 guesses were answered");
    };
    let slowed = slowed.await;
    assert_eq!(slowed.refusal().1, "slow_down");
    assert!(slowed.header("retry-after").parse::<u64>().expect("seconds") > 0);
    assert_eq!(home.login("bob", PASSWORD).await.status, 429, "the right guess does not show");
    assert_eq!(home.login("ann", PASSWORD).await.status, 201, "she has logged in from here before");
    assert_eq!(home.get("/me", &home.owner).await.status, 200, "tokens do not suffer");
}

#[tokio::test]
async fn a_person_sets_their_own_password_and_a_narrow_token_does_not() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let set =
        |token: String, password: &str| ask(home.api(Method::PUT, "/me/password", &token).json(&json!({ "password": password })));
    let narrow = home.token(&ann, json!({"name": "script", "scope": "credentials:own"})).await.secret();
    assert_eq!(set(narrow, "another good password").await.refusal(), (403, "insufficient_scope"));
    assert_eq!(set(ann.clone(), "short").await.refusal(), (422, "password"));
    assert_eq!(set(ann, "another good password").await.status, 204);
    assert_eq!(home.login("ann", PASSWORD).await.status, 401);
    assert_eq!(home.login("ann", "another good password").await.status, 201);
}

#[tokio::test]
async fn removing_a_person_ends_their_tokens_and_sessions_at_once() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let bob = home.person("bob", "member").await;
    let mut session = home.session("ann-laptop", &ann).await;
    let mut other = home.session("bob-laptop", &bob).await;
    assert!(session.is_alive().await);
    assert_eq!(home.delete("/users/ann", &home.owner).await.status, 204);
    assert_eq!(session.ended().await, 0x98);
    assert_eq!(home.get("/me", &ann).await.refusal(), (401, "invalid_token"));
    assert!(other.is_alive().await, "others stay");
    let again = home.owns(Method::POST, "/users", json!({"name": "ann", "role": "member"})).await;
    assert_eq!(again.status, 201);
    assert_eq!(home.get("/me", &ann).await.status, 401, "an old token is not good for a new person of that name");
}

#[tokio::test]
async fn people_and_their_logins_survive_a_restart() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let home = home.restarted().await;
    assert_eq!(home.get("/me", &ann).await.body["principal"], json!({"user": "ann"}));
    assert_eq!(home.login("ann", PASSWORD).await.status, 201);
}

#[tokio::test]
async fn a_backup_is_written_at_the_hub_for_who_manages_all_of_the_home() {
    let home = Home::open().await;
    home.enrolled("lamp", "thermostat").await;
    let limited = json!({"name": "limited", "devices": ["lamp"]});
    let narrow = json!({"name": "narrow", "scope": "devices:manage credentials:own"});
    for request in [limited, narrow] {
        let token = home.token(&home.owner, request).await.secret();
        assert_eq!(home.post("/backups", &token, json!({})).await.refusal(), (403, "insufficient_scope"));
    }
    let asked_for = home.root().join("backups/asked-for");
    assert!(!asked_for.exists());
    let answer = home.post("/backups", &home.owner, json!({})).await;
    assert_eq!((answer.status, answer.body), (201, json!({"file": asked_for})), "where it is, and nothing of it");
    let backup = std::fs::read(asked_for).expect("there");
    assert!(backup.windows(6).any(|six| six == b"\"lamp\""));
    let audit = home.get("/audit?action=backup&actor=user+owner", &home.owner).await;
    assert_eq!(audit.items().len(), 1);
}
