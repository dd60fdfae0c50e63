//! Enrolment: a device's first key, by a one-time code.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::Keyed;
use reqwest::Method;
use serde_json::json;

use crate::kills::{STORE_WRITES, at_each_write, audited, done, registered, seen, token_by};

#[tokio::test]
async fn a_device_is_added_or_not_and_its_owner_adds_it_again() {
    let mut hub = Hub::start().await;
    let add = async |hub: &Hub, id: &String| {
        let body = json!({ "id": id, "profile": "thermostat" });
        done(hub, Method::POST, "/api/v1/devices", Some(body)).await.map(|answer| hub.enrolment_string(&answer))
    };
    at_each_write(
        &mut hub,
        &STORE_WRITES,
        async |_, id| id.to_owned(),
        add,
        async |hub, id, found| {
            let devices = seen(hub, "/api/v1/devices?limit=500").await;
            let is_there = devices["items"].as_array().expect("devices").iter().any(|device| device["id"] == **id);
            assert!(is_there || found.acknowledged.is_none(), "{}", found.at);
            assert_eq!(
                audited(hub, &format!("action=device.add&target=device%20{id}")).await,
                usize::from(is_there),
                "{}",
                found.at
            );
            // The code of a device that was added without an answer is lost: another takes its place.
            let code = match &found.acknowledged {
                Some(code) => code.clone(),
                None if is_there => hub.enrolment_string(&hub.told(&["device", "rotate", id]).await),
                None => add(hub, id).await.expect("it runs"),
            };
            let device = Keyed::new(id);
            assert_eq!(registered(hub, &device, &code).await, Some(201), "{}", found.at);
            assert_eq!(token_by(hub, &device.assertion(hub)).await, Some(200), "{}", found.at);
        },
    )
    .await;
    hub.finish().await;
}

#[tokio::test]
async fn a_device_is_enrolled_or_not_and_enrols_again_with_the_same_code() {
    let mut hub = Hub::start().await;
    let prepare = async |hub: &Hub, id: &str| (Keyed::new(id), hub.add(id, "thermostat").await);
    let enrol = async |hub: &Hub, (device, code): &(Keyed, String)| {
        registered(hub, device, code).await.inspect(|status| assert_eq!(*status, 201))
    };
    at_each_write(&mut hub, &STORE_WRITES, prepare, enrol, async |hub, (device, code), found| {
        let shown = hub.device(&device.id).await;
        let keys = shown["keys"].as_array().expect("keys").len();
        let status = if keys == 0 { "pending" } else { "active" };
        assert!(keys == 1 || found.acknowledged.is_none(), "{}: {shown}", found.at);
        assert_eq!(shown["status"], status, "{}: {shown}", found.at);
        let entries = async || audited(hub, &format!("action=device.enrol&actor=device%20{}", device.id)).await;
        assert_eq!(entries().await, keys, "{}", found.at);

        assert_eq!(registered(hub, device, code).await, Some(201), "{}", found.at);
        assert_eq!(hub.device(&device.id).await["keys"].as_array().map(Vec::len), Some(1));
        assert_eq!(token_by(hub, &device.assertion(hub)).await, Some(200), "{}", found.at);
        assert_eq!(entries().await, 1, "{}", found.at);
    })
    .await;
    hub.finish().await;
}
