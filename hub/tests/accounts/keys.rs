//! Personal access tokens and API keys: their whole life.

use crate::home::{Home, ask};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_token_is_made_shown_once_used_listed_and_revoked() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let made = home.token(&ann, json!({"name": "backup", "scope": "devices:read"})).await;
    assert_eq!(made.status, 201);
    let (id, secret) = (made.id(), made.secret());
    assert_eq!(made.header("location"), format!("/api/v1/credentials/{id}"));
    let credential = &made.body["credential"];
    assert_eq!(credential["expires_at"].as_u64(), credential["created_at"].as_u64().map(|at| at + 30 * 86_400));
    assert_eq!((&credential["warnings"], credential.get("last_used")), (&json!([]), None));
    assert!(secret.starts_with("hk_pat_") && secret.contains(&id));

    assert_eq!(home.get("/devices", &secret).await.status, 200);
    assert_eq!(home.get("/credentials", &secret).await.refusal(), (403, "insufficient_scope"));
    let list = home.get("/credentials", &ann).await;
    assert!(list.items().iter().any(|item| item["id"] == *id) && !list.body.to_string().contains(&secret));
    assert_eq!(home.get(&format!("/credentials/{id}"), &ann).await.body["name"], "backup");

    let used = home.used(&id).await;
    assert_eq!(used["source"], "127.0.0.1");
    let mut session = home.session("script", &secret).await;
    assert_eq!(home.delete(&format!("/credentials/{id}"), &ann).await.status, 204);
    assert_eq!(session.ended().await, 0x98);
    assert_eq!(home.get("/devices", &secret).await.refusal(), (401, "invalid_token"));
    assert_eq!(home.delete(&format!("/credentials/{id}"), &ann).await.refusal(), (404, "unknown_credential"));
    assert!(home.connect("script", &secret).await.is_err());
}

#[tokio::test]
async fn a_token_does_no_more_than_its_maker_and_only_with_its_devices() {
    let home = Home::open().await;
    for device in ["lamp", "oven"] {
        home.enrolled(device, "thermostat").await;
    }
    let ann = home.person("ann", "member").await;
    let narrow = home.token(&ann, json!({"name": "n", "scope": "devices:read credentials:own"})).await.secret();
    let wider = home.token(&narrow, json!({"name": "w", "scope": "commands:send"})).await;
    assert_eq!(wider.refusal(), (403, "insufficient_scope"));
    let limited = home.token(&ann, json!({"name": "l", "devices": ["lamp"]})).await.secret();
    let list = home.get("/devices", &limited).await;
    assert_eq!(list.items().iter().map(|device| device["id"].clone()).collect::<Vec<_>>(), ["lamp"]);
    assert_eq!(home.get("/me", &limited).await.body["devices"], json!(["lamp"]));
    for path in [
        "/devices/oven",
        "/devices/oven/commands",
        "/devices/oven/can?action=command&topic=identify",
        "/can?subject=user:ann&action=command&topic=oven/identify",
        "/can?subject=user:ann&action=command&topic=ghost/identify",
    ] {
        assert_eq!(home.get(path, &limited).await.refusal(), (403, "out_of_reach"), "{path}");
    }
    let command = async |device: &str| home.post(&format!("/devices/{device}/commands/identify"), &limited, json!({})).await;
    assert_eq!((command("lamp").await.status, command("oven").await.refusal()), (202, (403, "out_of_reach")));
    assert_eq!(home.get("/devices/lamp", &limited).await.status, 200);
    assert_eq!(home.get("/status", &limited).await.body["devices"], 1);

    for (wish, refusal) in [
        (json!({"name": ""}), (422, "name")),
        (json!({"name": "x".repeat(65)}), (422, "name")),
        (json!({"name": "x", "expires_in_s": 0}), (422, "expires_in_s")),
        (json!({"name": "x", "expires_in_s": 367 * 86_400}), (422, "expires_in_s")),
        (json!({"name": "x", "devices": ["ghost"]}), (422, "unknown_device")),
        (json!({"name": "x", "scope": "devices:read "}), (422, "")),
        (json!({"name": "x", "scope": "users:manage"}), (403, "insufficient_scope")),
        (json!({"name": "x", "sope": "devices:read"}), (422, "")),
    ] {
        assert_eq!(home.token(&ann, wish.clone()).await.refusal(), refusal, "{wish}");
    }
}

#[tokio::test]
async fn a_token_lends_a_device_nothing_that_it_lacks_itself() {
    let home = Home::open().await;
    for device in ["lamp", "oven"] {
        home.with_secret(device, "switch").await;
    }
    let wish = json!({"name": "script", "devices": ["lamp"]});
    let limited = home.token(&home.owner, wish).await.secret();
    let wish = json!({"name": "adder", "scope": "devices:manage profiles:manage"});
    let adder = home.token(&home.owner, wish).await.secret();
    assert_eq!(home.post("/devices/lamp/revoke", &limited, json!({})).await.status, 200);
    let add = async |token: &str, profile: &str, children: Value| {
        let body = json!({"id": "lamp", "profile": profile, "children": children, "authentication": "secret"});
        home.post("/devices", token, body).await
    };
    assert_eq!(add(&limited, "gateway", json!(["oven"])).await.refusal(), (403, "out_of_reach"));
    for profile in ["service", "home-assistant"] {
        assert_eq!(add(&limited, profile, json!([])).await.refusal(), (403, "out_of_reach"), "{profile}");
        let refused = add(&adder, profile, json!([])).await;
        assert_eq!(refused.refusal(), (403, "insufficient_scope"), "{profile}");
        assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("telemetry:read")), "{refused:?}");
    }
    assert_eq!(add(&limited, "switch", json!([])).await.status, 201);
    assert_eq!(home.post("/devices/lamp/revoke", &adder, json!({})).await.status, 200);
    assert_eq!(add(&adder, "thermostat", json!([])).await.status, 201);
    let profile = "name = \"thermostat\"\n[permissions.all]\nsubscribe = [\"dev/#\"]\n";
    let put = home.api(Method::PUT, "/profiles/thermostat", &adder).header("content-type", "application/toml");
    assert_eq!(ask(put.body(profile)).await.refusal(), (403, "insufficient_scope"));

    let service = json!({"id": "dash", "profile": "service", "authentication": "secret"});
    let all = home.token(&home.owner, json!({"name": "all"})).await.secret();
    assert_eq!(home.post("/devices", &all, service).await.status, 201, "who may everything passes everything on");
}

#[tokio::test]
async fn a_rotated_token_ends_when_the_new_one_is_used_and_whoever_uses_it_later_ends_its_family() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let first = home.token(&ann, json!({"name": "script", "scope": "devices:read"})).await;
    let rotate = |id: &str| ask(home.api(Method::POST, &format!("/credentials/{id}/rotate"), &ann));
    let second = rotate(&first.id()).await;
    assert_eq!(second.status, 201);
    assert_eq!(second.body["credential"]["scope"], first.body["credential"]["scope"]);
    assert_eq!(second.body["credential"]["replaces"], json!(first.id()));
    assert_eq!(home.get("/devices", &first.secret()).await.status, 200, "the answer may have been lost");
    let lost = second;
    let second = rotate(&first.id()).await;
    assert_eq!(second.status, 201, "so it may be asked for again");
    let mut session = home.session("script", &second.secret()).await;
    assert_eq!(home.get("/devices", &second.secret()).await.status, 200);
    assert_eq!(rotate(&first.id()).await.refusal(), (409, "replaced"));
    assert_eq!(rotate(&lost.id()).await.refusal(), (409, "replaced"));

    assert_eq!(home.get("/devices", &first.secret()).await.refusal(), (401, "invalid_token"));
    assert_eq!(session.ended().await, 0x98, "the thief and the owner both hold it: neither goes on");
    assert_eq!(home.get("/devices", &second.secret()).await.status, 401);
    let reuse = home.audited(&format!("action=credential.reuse&target=personal+access+token+{}", second.id())).await;
    assert_eq!(reuse["actor"], "user ann");
    assert_eq!(home.get("/me", &ann).await.status, 200, "her other tokens stay");
}

#[tokio::test]
async fn a_token_that_is_rotated_has_its_sessions_ended() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let first = home.token(&ann, json!({"name": "script"})).await;
    let mut session = home.session("script", &first.secret()).await;
    let second = ask(home.api(Method::POST, &format!("/credentials/{}/rotate", first.id()), &ann)).await;
    assert!(session.is_alive().await, "until the new one is used");
    assert_eq!(home.get("/me", &second.secret()).await.status, 200);
    assert_eq!(home.get("/me", &first.secret()).await.status, 401, "and no later than its answer");
    assert_eq!(session.ended().await, 0x98);
}

#[tokio::test]
async fn the_owner_sees_and_revokes_everyones_and_others_only_their_own() {
    let home = Home::open().await;
    let (ann, bob) = (home.person("ann", "member").await, home.person("bob", "member").await);
    let anns = home.token(&ann, json!({"name": "hers"})).await;
    home.with_secret("plug", "switch").await;
    let path = format!("/credentials/{}", anns.id());
    assert_eq!(home.get(&path, &bob).await.refusal(), (404, "unknown_credential"));
    assert_eq!(home.delete(&path, &bob).await.refusal(), (404, "unknown_credential"));
    assert_eq!(ask(home.api(Method::POST, &format!("{path}/rotate"), &bob)).await.status, 404);
    assert_eq!(
        ask(home.api(Method::POST, &format!("{path}/rotate"), &home.owner)).await.status,
        404,
        "nor does the owner get hers"
    );
    let own = home.get("/credentials", &bob).await;
    assert!(own.items().iter().all(|item| item["subject"] == json!({"user": "bob"})));
    let subjects = async |query: &str| -> Vec<Value> {
        let list = home.get(&format!("/credentials?{query}"), &home.owner).await;
        list.items().iter().map(|item| item["subject"].clone()).collect()
    };
    assert_eq!(subjects("subject=ann&kind=personal_access_token").await, vec![json!({"user": "ann"}); 2]);
    assert_eq!(subjects("subject=user:bob").await, [json!({"user": "bob"})]);
    assert_eq!(subjects("subject=device:bob").await, [Value::Null; 0]);
    assert_eq!(subjects("kind=client_secret").await, [json!({"device": "plug"})]);
    assert_eq!(home.get("/credentials?kind=cookie", &home.owner).await.status, 400);
    let secret = home.get("/credentials?kind=client_secret", &home.owner).await.items()[0]["id"].clone();
    let revoked = home.delete(&format!("/credentials/{}", secret.as_str().expect("an id")), &home.owner).await;
    assert_eq!(revoked.refusal(), (409, "other_kind"), "a client secret goes with its device");
    assert_eq!(home.delete(&path, &home.owner).await.status, 204);
    assert_eq!(home.get("/me", &anns.secret()).await.status, 401);
}

#[tokio::test]
async fn an_integration_has_its_key_for_http_and_mqtt_and_manages_nothing() {
    let home = Home::open().await;
    let profile =
        "name = \"panel\"\n[permissions.see]\napi = [\"devices:read\", \"credentials:manage\"]\nsubscribe = [\"dev/#\"]\n";
    let put = home.api(Method::PUT, "/profiles/panel", &home.owner).header("content-type", "application/toml").body(profile);
    assert_eq!(ask(put).await.status, 201);
    let wish = json!({"name": "wall panel", "integration": "panel", "profile": "panel"});
    let made = home.owns(Method::POST, "/credentials/api-keys", wish).await;
    assert_eq!((made.status, &made.body["credential"]["subject"]), (201, &json!({"integration": "panel"})));
    assert!(made.body["credential"].get("expires_at").is_none());
    let key = made.secret();
    assert!(key.starts_with("hk_key_"));
    assert_eq!(home.get("/devices", &key).await.status, 200);
    for path in ["/credentials", "/users", "/audit"] {
        assert_eq!(home.get(path, &key).await.refusal(), (403, "insufficient_scope"), "{path}");
    }
    assert_eq!(home.token(&key, json!({"name": "x"})).await.status, 403);
    let mut session = home.session("panel", &key).await;
    assert!(session.is_alive().await);
    assert_eq!(home.delete(&format!("/credentials/{}", made.id()), &home.owner).await.status, 204);
    assert_eq!(session.ended().await, 0x98);
}

#[tokio::test]
async fn a_legacy_device_has_its_key_for_mqtt_and_not_for_the_api() {
    let home = Home::open().await;
    home.owns(Method::POST, "/devices", json!({"id": "plug", "profile": "switch"})).await;
    let made = home.owns(Method::POST, "/credentials/api-keys", json!({"name": "tasmota", "device": "plug"})).await;
    assert_eq!((made.status, &made.body["credential"]["subject"]), (201, &json!({"device": "plug"})));
    let mut session = home.session("plug", &made.secret()).await;
    assert!(session.is_alive().await);
    assert_eq!(home.get("/devices", &made.secret()).await.refusal(), (403, "insufficient_scope"));
    assert_eq!(home.get("/devices/plug", &home.owner).await.body["status"], "active");
}

#[tokio::test]
async fn a_key_that_is_bound_to_networks_is_good_from_there_only() {
    let home = Home::open().await;
    let key = async |networks: Value| {
        let wish = json!({"name": "ha", "integration": "ha", "profile": "service", "networks": networks});
        home.owns(Method::POST, "/credentials/api-keys", wish).await
    };
    let here = key(json!(["127.0.0.0/8"])).await;
    assert_eq!(here.body["credential"]["networks"], json!(["127.0.0.0/8"]));
    assert_eq!(home.get("/devices", &here.secret()).await.status, 200);
    let elsewhere = key(json!(["192.168.1.0/24", "fd00::/8"])).await;
    assert_eq!(home.get("/devices", &elsewhere.secret()).await.refusal(), (401, "invalid_token"));
    assert!(home.connect("ha", &elsewhere.secret()).await.is_err());
    for (networks, status) in [(json!(["10.0.0.0/33"]), 422), (json!("127.0.0.1"), 422), (json!(vec!["127.0.0.1"; 17]), 409)] {
        assert_eq!(key(networks.clone()).await.status, status, "{networks}");
    }
}

#[tokio::test]
async fn a_rolled_key_works_for_its_overlap_and_without_one_ends_at_once() {
    let home = Home::open().await;
    let wish = json!({"name": "ha", "integration": "ha", "profile": "service"});
    let first = home.owns(Method::POST, "/credentials/api-keys", wish).await;
    let roll = async |id: String, overlap_s: u64| {
        home.owns(Method::POST, &format!("/credentials/{id}/roll"), json!({ "overlap_s": overlap_s })).await
    };
    let second = roll(first.id(), 3_600).await;
    assert_eq!(second.status, 201);
    for key in [first.secret(), second.secret()] {
        assert_eq!(home.get("/devices", &key).await.status, 200);
    }
    let old = home.get(&format!("/credentials/{}", first.id()), &home.owner).await;
    assert!(old.body["expires_at"].as_u64().expect("an end") <= home.server.hub().now().0 + 3_600);
    let mut session = home.session("ha", &second.secret()).await;
    let third = roll(second.id(), 0).await;
    assert_eq!(home.get("/devices", &second.secret()).await.status, 401);
    assert!(matches!(session.ended().await, 0x98 | 0xA0));
    assert_eq!(home.get("/devices", &third.secret()).await.status, 200);
}

#[tokio::test]
async fn what_makes_no_credential_is_refused() {
    let home = Home::open().await;
    for (device, end) in [("paused", "disable"), ("gone", "revoke")] {
        home.with_secret(device, "switch").await;
        assert_eq!(home.owns(Method::POST, &format!("/devices/{device}/{end}"), json!({})).await.status, 200);
    }
    let pat = home.token(&home.owner, json!({"name": "x"})).await.id();
    let key = json!({"name": "ha", "integration": "ha", "profile": "service"});
    let key = home.owns(Method::POST, "/credentials/api-keys", key).await.id();
    for (path, body, refusal) in [
        ("api-keys".to_owned(), json!({"name": "x"}), (422, "holder")),
        ("api-keys".to_owned(), json!({"name": "x", "integration": "x"}), (422, "holder")),
        ("api-keys".to_owned(), json!({"name": "x", "integration": "x", "profile": "service", "device": "x"}), (422, "holder")),
        ("api-keys".to_owned(), json!({"name": "x", "integration": "x", "profile": "rocket"}), (422, "unknown_profile")),
        ("api-keys".to_owned(), json!({"name": "x", "device": "ghost"}), (422, "unknown_device")),
        ("api-keys".to_owned(), json!({"name": "x", "device": "paused"}), (409, "device_disabled")),
        ("api-keys".to_owned(), json!({"name": "x", "device": "gone"}), (409, "device_revoked")),
        (
            "api-keys".to_owned(),
            json!({"name": "x", "integration": "x", "profile": "service", "scope": "y"}),
            (422, "unknown_permission"),
        ),
        (
            "api-keys".to_owned(),
            json!({"name": "x", "integration": "x", "profile": "service", "expires_in_s": 0}),
            (422, "expires_in_s"),
        ),
        (format!("{pat}/roll"), json!({"overlap_s": 60}), (409, "other_kind")),
        (format!("{key}/rotate"), json!({}), (404, "unknown_credential")),
        (format!("{key}/roll"), json!({"overlap_s": 31 * 86_400}), (422, "overlap_s")),
        (format!("{key}/roll"), json!({}), (422, "")),
        ("nonsense/roll".to_owned(), json!({"overlap_s": 60}), (404, "unknown_credential")),
    ] {
        let answer = home.owns(Method::POST, &format!("/credentials/{path}"), body.clone()).await;
        assert_eq!(answer.refusal(), refusal, "{path} {body} {answer:?}");
    }
}

#[tokio::test]
async fn no_secret_is_stored_or_audited() {
    let home = Home::open().await;
    let ann = home.person("ann", "member").await;
    let made = home.token(&ann, json!({"name": "x"})).await.secret();
    let random = made.rsplit('_').next().expect("three parts").to_owned();
    let audit = home.get("/audit?limit=1000", &home.owner).await;
    assert!(!audit.body.to_string().contains(&random));
    let root = home.root().clone();
    let home = home.restarted().await;
    let mut files = vec![root];
    let mut looked_at = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).expect("readable").map(|entry| entry.expect("an entry").path()));
        } else {
            let bytes = std::fs::read(&path).expect("readable");
            assert!(!bytes.windows(random.len()).any(|window| window == random.as_bytes()), "{}", path.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > 5);
    drop(home);
}
