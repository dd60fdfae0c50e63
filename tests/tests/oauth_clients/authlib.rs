//! `Authlib` from PyPI, as its documentation has it used.

use hearthkey_tests::hub::Hub;
use serde_json::json;

use crate::foreign::{Library::Authlib, and, with_secret};

#[tokio::test]
async fn a_key_and_a_secret_get_tokens_that_the_published_keys_verify() {
    let hub = Hub::start().await;
    let lamp = Authlib.registered(&hub, "lamp", "thermostat").await;
    let plug = with_secret(&hub, "plug", "tasmota", "client_secret_basic").await;
    let posting = with_secret(&hub, "posting", "tasmota", "client_secret_post").await;
    for client in [lamp, plug, posting] {
        let answer = Authlib.does(&hub, "token", &client).await;
        assert_eq!(answer["header"]["typ"], "at+jwt", "{answer}");
        assert_eq!(answer["claims"]["sub"], client["client_id"], "{answer}");
        assert_eq!(answer["claims"]["cnf"]["jkt"].is_string(), client["method"] == "private_key_jwt", "{answer}");
        assert_eq!(answer["token"]["scope"], answer["claims"]["scope"], "{answer}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_wrong_key_secret_or_scope_gets_none() {
    let hub = Hub::start().await;
    let lamp = Authlib.registered(&hub, "lamp", "thermostat").await;
    let oven = Authlib.registered(&hub, "oven", "thermostat").await;
    let plug = with_secret(&hub, "plug", "tasmota", "client_secret_basic").await;
    for (told, error) in [
        (and(&lamp, "private_jwk", oven["private_jwk"].clone()), "invalid_client"),
        (and(&plug, "client_secret", "guess"), "invalid_client"),
        (and(&plug, "scope", "everything"), "invalid_scope"),
    ] {
        let answer = Authlib.does(&hub, "token", &told).await;
        assert_eq!(answer["refused"]["error"], error, "{answer}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_token_ends_when_its_client_revokes_it() {
    let hub = Hub::start().await;
    let lamp = Authlib.registered(&hub, "lamp", "thermostat").await;
    let service = Authlib.registered(&hub, "checker", "service").await;
    let token = Authlib.does(&hub, "token", &lamp).await["token"]["access_token"].as_str().expect("a token").to_owned();
    let before = Authlib.does(&hub, "introspect", &and(&service, "token", &*token)).await;
    assert_eq!((&before["introspection"]["active"], &before["introspection"]["client_id"]), (&true.into(), &"lamp".into()));
    assert_eq!(Authlib.does(&hub, "revoke", &and(&lamp, "token", &*token)).await, json!({ "status": 200 }));
    let after = Authlib.does(&hub, "introspect", &and(&service, "token", &*token)).await;
    assert_eq!(after, json!({ "status": 200, "introspection": { "active": false } }));
    hub.finish().await;
}
