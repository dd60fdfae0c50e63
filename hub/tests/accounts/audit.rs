//! The audit log: filtered, proved, exported.

use crate::home::{Home, ask};
use hearthkey_core::audit::{ChainHead, verify};
use reqwest::Method;
use serde_json::{Value, json};

fn seqs(items: &[Value]) -> Vec<u64> {
    items.iter().map(|item| item["seq"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn the_log_is_filtered_by_the_hub_and_read_in_pages() {
    let home = Home::open().await;
    for number in 0..7 {
        home.with_secret(&format!("lamp-{number}"), "switch").await;
        home.owns(Method::POST, "/users", json!({"name": format!("ann-{number}"), "role": "viewer"})).await;
    }
    let list = async |query: &str| home.get(&format!("/audit?{query}"), &home.owner).await;
    let added = list("action=device.add").await;
    assert_eq!(added.items().len(), 7);
    assert!(added.items().iter().all(|entry| entry["action"] == "device.add" && entry["actor"] == "user owner"));
    assert!(added.body.get("next_after").is_some_and(Value::is_u64) || added.items().len() < 100);
    let all = seqs(added.items());
    let (mut paged, mut after) = (Vec::new(), 0);
    loop {
        let page = list(&format!("action=device.add&limit=3&after={after}")).await;
        assert!(page.items().len() <= 3);
        paged.extend(seqs(page.items()));
        match page.body["next_after"].as_u64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(paged, all);
    assert_eq!(seqs(list("action=device.add&last=2").await.items()), all[5..]);
    assert_eq!(seqs(list("action=device.add&target=device+lamp-3").await.items()), [all[3]]);
    assert_eq!(list("action=user&target=user+ann").await.items().len(), 7);
    assert_eq!(list("actor=device").await.items().len(), 0);
    assert_eq!(list("outcome=failure").await.items().len(), 0);
    let now = home.server.hub().now().0;
    assert_eq!(list(&format!("since={}", now + 60)).await.items().len(), 0);
    assert!(list(&format!("since={}&until={}", now - 600, now + 60)).await.items().len() > 14);
    for bad in ["outcome=maybe", "since=yesterday", "limit=-1", "colour=red", "after=1&last=1"] {
        assert_eq!(list(bad).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn the_log_is_proved_and_exported_byte_for_byte() {
    let home = Home::open().await;
    for number in 0..30 {
        home.with_secret(&format!("lamp-{number}"), "switch").await;
    }
    let verified = home.get("/audit/verify", &home.owner).await;
    assert_eq!((&verified.body["ok"], verified.body.get("fault")), (&json!(true), None));
    assert_eq!(verified.body["entries"], verified.body["head"]["seq"]);
    let response = home.api(Method::GET, "/audit/export", &home.owner).send().await.expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let exported = response.bytes().await.expect("the whole of it");
    let rows: Vec<&[u8]> = exported.strip_suffix(b"\n").expect("lines").split(|byte| *byte == b'\n').collect();
    let head: ChainHead = serde_json::from_value(verified.body["head"].clone()).expect("a head");
    let entries = verify(&ChainHead::default(), rows.iter(), &head).expect("the chain holds as exported");
    assert_eq!(Some(entries), verified.body["entries"].as_u64());
    let changed: Vec<Vec<u8>> =
        rows.iter().map(|row| String::from_utf8_lossy(row).replace("lamp-7", "lamp-8").into_bytes()).collect();
    assert!(verify(&ChainHead::default(), changed.iter(), &head).is_err());
}

#[tokio::test]
async fn a_limited_token_reads_no_log() {
    let home = Home::open().await;
    home.enrolled("lamp", "thermostat").await;
    let limited = home.token(&home.owner, json!({"name": "l", "devices": ["lamp"]})).await.secret();
    for path in ["/audit", "/audit/verify", "/audit/export"] {
        assert_eq!(ask(home.api(Method::GET, path, &limited)).await.status, 403, "{path}");
    }
}
