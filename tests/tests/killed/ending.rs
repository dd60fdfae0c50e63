//! Revocation: of a device, of one access token, of a person's token.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::{Keyed, token_form};
use reqwest::Method;
use serde_json::json;

use crate::kills::{STORE_WRITES, api, at_each_write, audited, done, form, is_active, opens, posted, token_by};

#[tokio::test]
async fn a_device_is_revoked_with_all_that_it_holds_or_not_at_all() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, id: &str| {
        let lamp = Keyed::enrolled(hub, id, "thermostat").await;
        let token = lamp.token(hub).await;
        (lamp, token)
    };
    let revoke = async |hub: &Hub, (lamp, _): &(Keyed, String)| {
        done(hub, Method::POST, &format!("/api/v1/devices/{}/revoke", lamp.id), None).await
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, revoke, async |hub, (lamp, token), found| {
        let is_revoked = hub.device(&lamp.id).await["status"] == "revoked";
        assert!(is_revoked || found.acknowledged.is_none(), "{}", found.at);
        let entries = async || audited(hub, &format!("action=device.revoke&target=device%20{}", lamp.id)).await;
        assert_eq!(entries().await, usize::from(is_revoked), "{}", found.at);
        assert_eq!(is_active(hub, token).await, !is_revoked, "{}", found.at);
        let status = token_by(hub, &lamp.assertion(hub)).await;
        assert_eq!(status, Some(if is_revoked { 400 } else { 200 }), "{}", found.at);

        let again = revoke(hub, &(Keyed::new(&lamp.id), String::new())).await.expect("it runs");
        assert_eq!(again["status"], "revoked", "{}", found.at);
        assert!(!is_active(hub, token).await, "{}", found.at);
        assert_eq!(token_by(hub, &lamp.assertion(hub)).await, Some(400), "{}", found.at);
    })
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn an_access_token_is_revoked_or_not_and_no_other_with_it() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, id: &str| {
        let lamp = Keyed::enrolled(hub, id, "thermostat").await;
        let (token, other) = (lamp.token(hub).await, lamp.token(hub).await);
        (lamp, token, other)
    };
    let revoke = async |hub: &Hub, (lamp, token, _): &(Keyed, String, String)| {
        let proof = token_form(&lamp.assertion(hub)).replace("grant_type=client_credentials&", "");
        let (status, answer) = form(hub, "/oauth2/revoke", None, format!("{proof}&token={token}")).await?;
        assert_eq!(status, 200, "{answer}");
        Some(())
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, revoke, async |hub, prepared, found| {
        let (lamp, token, other) = prepared;
        let is_revoked = !is_active(hub, token).await;
        assert!(is_revoked || found.acknowledged.is_none(), "{}", found.at);
        let entries = audited(hub, &format!("action=token.revoke&actor=device%20{}", lamp.id)).await;
        assert_eq!(entries, usize::from(is_revoked), "{}", found.at);
        revoke(hub, prepared).await.expect("it runs");
        assert!(!is_active(hub, token).await && is_active(hub, other).await, "{}", found.at);
    })
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn a_personal_access_token_is_revoked_or_not() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, name: &str| {
        let made = posted(hub, "/api/v1/credentials/personal-access-tokens", json!({ "name": name })).await;
        let secret = made["secret"].as_str().expect("a secret").to_owned();
        hub.remember_secret(&secret);
        (made["credential"]["id"].as_str().unwrap().to_owned(), secret)
    };
    let revoke =
        async |hub: &Hub, (id, _): &(String, String)| done(hub, Method::DELETE, &format!("/api/v1/credentials/{id}"), None).await;
    at_each_write(&mut hub, &STORE_WRITES, prepare, revoke, async |hub, (id, secret), found| {
        let is_revoked = !opens(hub, secret).await;
        assert!(is_revoked || found.acknowledged.is_none(), "{}", found.at);
        let (status, again) = api(hub, Method::DELETE, &format!("/api/v1/credentials/{id}"), None).await.expect("it runs");
        assert_eq!(status, if is_revoked { 404 } else { 204 }, "{}: {again}", found.at);
        assert!(!opens(hub, secret).await, "{}", found.at);
    })
    .await;
    hub.finish().await;
}
