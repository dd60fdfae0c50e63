//! `/metrics`: figures that follow what happens, for those who may see them.

use crate::home::{Device, Home, header};
use serde_json::{Value, json};

async fn figures(home: &Home) -> String {
    let answer = home.get("/metrics").send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(header(&answer, "content-type").starts_with("application/openmetrics-text"));
    answer.text().await.expect("text")
}

/// The value of one figure, by its name and labels as written.
fn value(figures: &str, name: &str) -> f64 {
    let line = figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {figures}")).parse().expect("a number")
}

#[tokio::test]
async fn the_figures_follow_what_happens() {
    let home = Home::open().await;
    let before = figures(&home).await;
    assert!(before.ends_with("# EOF\n"));
    let device = home.enrolled("lamp").await;
    assert_eq!(home.by_assertion(&device.assertion(&home)).await.status(), 200);
    assert_eq!(home.by_assertion(&Device::new("lamp").assertion(&home)).await.status(), 400, "another key");
    let after = figures(&home).await;
    let grown = |name: &str| value(&after, name) - value(&before, name);
    assert_eq!(grown("hearthkey_registry_entries{kind=\"devices\"}"), 1.0);
    assert_eq!(grown("hearthkey_tokens_issued_total"), 1.0);
    assert_eq!(value(&after, "hearthkey_token_requests_refused_total{error=\"invalid_client\"}"), 1.0);
    assert!(grown("hearthkey_store_commits_total") >= 2.0 && grown("hearthkey_audit_entries_total") >= 2.0);
    assert_eq!(value(&after, "hearthkey_http_connections"), 1.0, "this one");
    let secret = home.add("plug", "switch", true).await;
    let text = figures(&home).await;
    for secret in [secret.as_str(), home.owner.as_str(), "lamp", "plug", "127.0.0.1"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn each_bound_stands_beside_its_figure() {
    let home = Home::open().await;
    let text = figures(&home).await;
    for (name, bound) in home.front.limits().values() {
        assert_eq!(value(&text, &format!("hearthkey_mqtt_limit{{name=\"{name}\"}}")), bound as f64);
    }
    let limits: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once("_limit ")).map(|(name, _)| name).collect();
    assert!(limits.len() >= 12, "{limits:?}");
    for name in limits.into_iter().filter(|name| *name != "hearthkey_mqtt") {
        assert!(text.lines().any(|line| line.starts_with(&format!("# TYPE {name} gauge"))), "{name}");
    }
}

#[tokio::test]
async fn who_is_not_on_this_machine_needs_the_permission() {
    let home = Home::open().await;
    let through_a_proxy = |token: Option<&str>| {
        let request = home.get("/metrics").header("x-forwarded-for", "192.168.1.7");
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
        .send()
    };
    assert_eq!(through_a_proxy(None).await.expect("an answer").status(), 401);
    assert_eq!(through_a_proxy(Some(&home.owner)).await.expect("an answer").status(), 200);
    for (scope, status) in [("metrics:read", 200), ("devices:read audit:read", 403)] {
        let wanted = json!({"name": "prometheus", "scope": scope});
        let created = home.post("/api/v1/credentials/personal-access-tokens").bearer_auth(&home.owner).json(&wanted);
        let created: Value = created.send().await.expect("an answer").json().await.expect("JSON");
        let token = created["secret"].as_str().expect("a token");
        assert_eq!(through_a_proxy(Some(token)).await.expect("an answer").status(), status, "{scope}");
    }
}
