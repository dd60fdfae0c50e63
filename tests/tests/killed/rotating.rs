//! Rotation: another key for a device, another secret for a person or an integration, another signing key for the hub.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use hearthkey_tests::patience::until;
use reqwest::Method;
use serde_json::{Value, json};

use crate::kills::{
    FILE_WRITES, STORE_WRITES, at_each_write, audited, done, is_active, opens, posted, registered, seen, token_by,
};

/// A device whose owner has it rotate: its key, the key to come, the code for that.
async fn rotating(hub: &Hub, id: &str) -> (Keyed, Keyed, String) {
    let old = Keyed::enrolled(hub, id, "thermostat").await;
    let code = hub.enrolment_string(&hub.told(&["device", "rotate", id]).await);
    (old, Keyed::new(id), code)
}

async fn works(hub: &Hub, device: &Keyed) -> bool {
    token_by(hub, &device.assertion(hub)).await.expect("it runs") == 200
}

#[tokio::test]
async fn a_rotation_is_begun_or_not_and_the_old_key_works_until_the_new_one_does() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, id: &str| Keyed::enrolled(hub, id, "thermostat").await;
    let rotate = async |hub: &Hub, old: &Keyed| {
        let answer = done(hub, Method::POST, &format!("/api/v1/devices/{}/rotate", old.id), Some(json!({}))).await?;
        Some(hub.enrolment_string(&answer))
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, rotate, async |hub, old, found| {
        let entries = audited(hub, &format!("action=device.rotate&target=device%20{}", old.id)).await;
        assert!(entries == 1 || found.acknowledged.is_none(), "{}", found.at);
        assert!(works(hub, old).await, "{}", found.at);
        let code = match &found.acknowledged {
            Some(code) => code.clone(),
            None => rotate(hub, old).await.expect("it runs"),
        };
        let new = Keyed::new(&old.id);
        assert_eq!(registered(hub, &new, &code).await, Some(201), "{}", found.at);
        assert!(works(hub, &new).await && works(hub, old).await, "{}", found.at);
    })
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn a_new_key_is_registered_or_not_and_registers_again() {
    let mut hub = Hub::start().await;
    let register = async |hub: &Hub, (_, new, code): &(Keyed, Keyed, String)| {
        registered(hub, new, code).await.inspect(|status| assert_eq!(*status, 201))
    };
    at_each_write(&mut hub, &STORE_WRITES, rotating, register, async |hub, (old, new, code), found| {
        let shown = hub.device(&old.id).await;
        let keys = shown["keys"].as_array().expect("keys").len();
        assert!(keys == 2 || keys == 1 && found.acknowledged.is_none(), "{}: {shown}", found.at);
        assert_eq!(audited(hub, &format!("action=device.enrol&actor=device%20{}", old.id)).await, keys, "{}", found.at);
        assert!(works(hub, old).await, "{}", found.at);
        assert_eq!(registered(hub, new, code).await, Some(201), "{}", found.at);
        assert!(works(hub, new).await && works(hub, old).await, "{}", found.at);
    })
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn a_new_key_takes_over_or_not_and_its_proof_is_used_up_only_with_that() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, id: &str| {
        let (old, new, code) = rotating(hub, id).await;
        assert_eq!(registered(hub, &new, &code).await, Some(201));
        let assertion = new.assertion(hub);
        (old, new, assertion)
    };
    let first_use = async |hub: &Hub, (_, _, assertion): &(Keyed, Keyed, String)| {
        token_by(hub, assertion).await.inspect(|status| assert_eq!(*status, 200))
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, first_use, async |hub, (old, new, assertion), found| {
        let shown = hub.device(&old.id).await;
        let key = |device: &Keyed| {
            let keys = shown["keys"].as_array().expect("keys");
            keys.iter().find(|key| key["thumbprint"] == device.thumbprint()).expect("a key").clone()
        };
        let is_used = key(new)["first_used_at"].is_u64();
        assert_eq!(key(old)["retires_at"].is_u64(), is_used, "{}: {shown}", found.at);
        assert!(is_used || found.acknowledged.is_none(), "{}: {shown}", found.at);
        let entries = audited(hub, &format!("action=token.issue&actor=device%20{}", old.id)).await;
        assert_eq!(entries, usize::from(is_used), "{}", found.at);
        let again = token_by(hub, assertion).await.expect("it runs");
        assert_eq!(again, if is_used { 400 } else { 200 }, "{}: the same assertion", found.at);
        assert!(works(hub, new).await && works(hub, old).await, "{}", found.at);
    })
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn a_personal_access_token_is_replaced_or_not_and_one_works_in_the_end() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, name: &str| {
        let made = posted(hub, "/api/v1/credentials/personal-access-tokens", json!({ "name": name })).await;
        (made["credential"]["id"].as_str().unwrap().to_owned(), secret(hub, &made))
    };
    let rotate = async |hub: &Hub, (id, _): &(String, String)| {
        let answer = done(hub, Method::POST, &format!("/api/v1/credentials/{id}/rotate"), None).await?;
        Some(secret(hub, &answer))
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, rotate, async |hub, (id, old), found| {
        let first = seen(hub, &format!("/api/v1/credentials/{id}")).await;
        let name = first["name"].as_str().expect("a name");
        let live: Vec<Value> = named(hub, name).await.into_iter().filter(|one| one["replaced_at"].is_null()).collect();
        // Once it is replaced there are two, until the new one is used for the first time.
        assert!([1, 2].contains(&live.len()), "{}: {live:?}", found.at);
        assert!(live.iter().any(|one| one["id"] == **id), "{}: {live:?}", found.at);
        assert!(live.len() == 2 || found.acknowledged.is_none(), "{}", found.at);
        let new = match &found.acknowledged {
            Some(new) => new.clone(),
            // Who got no answer asks again.
            None => rotate(hub, &(id.clone(), String::new())).await.expect("it runs"),
        };
        assert!(opens(hub, old).await, "{}: the old one works until the new one does", found.at);
        assert!(opens(hub, &new).await, "{}", found.at);
        assert!(!opens(hub, old).await, "{}: the old one ends with the first use of the new one", found.at);
        // And its use ends the family, behind the answer.
        until("the end of the family", async || (!opens(hub, &new).await).then_some(())).await;
    })
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn an_api_key_is_rolled_or_not_and_the_old_one_works_beside_the_new_one() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, name: &str| {
        let wish = json!({ "name": name, "integration": "ha", "profile": "home-assistant" });
        let made = posted(hub, "/api/v1/credentials/api-keys", wish).await;
        (made["credential"]["id"].as_str().unwrap().to_owned(), secret(hub, &made))
    };
    let roll = async |hub: &Hub, (id, _): &(String, String)| {
        let path = format!("/api/v1/credentials/{id}/roll");
        let answer = done(hub, Method::POST, &path, Some(json!({ "overlap_s": 3_600 }))).await?;
        Some(secret(hub, &answer))
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, roll, async |hub, (id, old), found| {
        let first = seen(hub, &format!("/api/v1/credentials/{id}")).await;
        let all = named(hub, first["name"].as_str().expect("a name")).await;
        let is_rolled = all.len() == 2;
        assert_eq!(first["expires_at"].is_u64(), is_rolled, "{}: {all:?}", found.at);
        assert!(is_rolled || found.acknowledged.is_none(), "{}", found.at);
        assert!(opens(hub, old).await, "{}", found.at);
        let new = match &found.acknowledged {
            Some(new) => new.clone(),
            None => {
                let latest = all.iter().find(|one| one["expires_at"].is_null()).expect("one without an end");
                roll(hub, &(latest["id"].as_str().unwrap().to_owned(), String::new())).await.expect("it runs")
            }
        };
        assert!(opens(hub, &new).await && opens(hub, old).await, "{}", found.at);
    })
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn the_signing_key_is_replaced_or_not_and_tokens_of_before_stay_good() {
    let mut hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let prepare = async |hub: &Hub, _: &str| lamp.token(hub).await;
    let rotate = async |hub: &Hub, _: &String| done(hub, Method::POST, "/api/v1/signing-keys/rotate", None).await;
    at_each_write(&mut hub, &[&STORE_WRITES[..], &FILE_WRITES].concat(), prepare, rotate, async |hub, before, found| {
        let keys = published(hub).await;
        assert!(keys.contains(&kid(before)), "{}: {keys:?}", found.at);
        assert!(is_active(hub, before).await, "{}", found.at);
        let after = lamp.token(hub).await;
        assert_eq!(keys.first(), Some(&kid(&after)), "{}", found.at);
        assert!(kid(&after) != kid(before) || found.acknowledged.is_none(), "{}", found.at);
        rotate(hub, before).await.expect("it runs");
        let last = lamp.token(hub).await;
        assert_ne!(kid(&last), kid(&after), "{}", found.at);
        for token in [before, &after, &last] {
            assert!(is_active(hub, token).await, "{}", found.at);
        }
    })
    .await;
    hub.finish().await;
}

fn secret(hub: &Hub, made: &Value) -> String {
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    hub.remember_secret(&secret);
    secret
}

async fn named(hub: &Hub, name: &str) -> Vec<Value> {
    let all = seen(hub, "/api/v1/credentials?limit=500").await;
    all["items"].as_array().expect("credentials").iter().filter(|one| one["name"] == name).cloned().collect()
}

/// The names of the published keys, the current one first.
async fn published(hub: &Hub) -> Vec<String> {
    let keys = seen(hub, "/oauth2/jwks").await;
    keys["keys"].as_array().expect("keys").iter().map(|key| key["kid"].as_str().expect("a name").to_owned()).collect()
}

fn kid(token: &str) -> String {
    let header = Base64UrlUnpadded::decode_vec(token.split('.').next().expect("a header")).expect("base64url");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a key's name").to_owned()
}
