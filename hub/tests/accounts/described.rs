//! The description of the API, held to what the hub really does.

use crate::home::{Home, ask};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Something to stand in a path.
fn filled(path: &str) -> String {
    let fill = |segment: &str| match segment {
        "{user_code}" => "BCDF-GHJK".to_owned(),
        "{command}" => "c-0123456789abcdef".to_owned(),
        segment if segment.starts_with('{') => "nothing".to_owned(),
        segment => segment.to_owned(),
    };
    path.split('/').map(fill).collect::<Vec<_>>().join("/")
}

fn operations(document: &Value) -> Vec<(String, Method, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            operations.push((path.clone(), method, operation.clone()));
        }
    }
    operations
}

#[tokio::test]
async fn anyone_may_read_what_the_api_is() {
    let home = Home::open().await;
    let answer = ask(home.request(Method::GET, "/api/v1/openapi.json")).await;
    assert_eq!((answer.status, &answer.body["openapi"]), (200, &json!("3.1.0")));
    assert_eq!(answer.body["servers"], json!([{"url": home.base}]));
}

#[tokio::test]
async fn each_path_takes_the_methods_that_are_described_and_no_others() {
    let home = Home::open().await;
    let document = ask(home.request(Method::GET, "/api/v1/openapi.json")).await.body;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let described: BTreeSet<String> = item.as_object().expect("methods").keys().map(|method| method.to_uppercase()).collect();
        let answer = home.request(Method::TRACE, &filled(path)).bearer_auth(&home.owner).send().await.expect("an answer");
        assert_eq!(answer.status(), 405, "{path}");
        let allow = answer.headers()["allow"].to_str().expect("ASCII").to_owned();
        let allowed: BTreeSet<String> = allow.split(',').filter(|method| *method != "HEAD").map(str::to_owned).collect();
        assert_eq!(allowed, described, "{path}");
    }
}

#[tokio::test]
async fn each_operation_answers_as_is_described_with_and_without_a_credential() {
    let home = Home::open().await;
    let document = ask(home.request(Method::GET, "/api/v1/openapi.json")).await.body;
    for (path, method, operation) in operations(&document) {
        // These two last as long as somebody reads, and rotating is tried elsewhere.
        if path.ends_with("/watch") || path.ends_with("/tail") {
            continue;
        }
        for credential in [None, Some(&home.owner), Some(&"hk_pat_nonsense".to_owned())] {
            for body in [None, Some("{}"), Some("{\"surprise\":true}")] {
                let mut request = home.request(method.clone(), &filled(&path));
                if let Some(credential) = credential {
                    request = request.bearer_auth(credential);
                }
                if let Some(body) = body {
                    request = request.header("content-type", "application/json").body(body);
                }
                let response = request.send().await.expect("an answer");
                let shown = format!("{method} {path} {body:?} {}: {}", credential.is_some(), response.status());
                let described = &operation["responses"][response.status().as_str()];
                assert!(described.is_object(), "{shown} is not described");
                let content_type = response.headers().get("content-type").map(|value| value.to_str().expect("ASCII"));
                let essence = content_type.and_then(|value| value.split(';').next()).map(str::to_owned);
                let text = response.text().await.expect("text");
                match (described.get("content").and_then(Value::as_object), essence) {
                    (Some(content), Some(essence)) => assert!(content.contains_key(&essence), "{shown} {essence}"),
                    (Some(content), None) => panic!("{shown} without {content:?}"),
                    (None, _) => assert_eq!(text, "", "{shown}"),
                }
            }
        }
    }
}
