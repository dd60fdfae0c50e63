//! `/api/v1`: devices, commands, profiles, audit, as an owner and as somebody else.

use crate::home::{Device, Home, REGISTER, code_of, header};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

/// An answer of the API: status and JSON.
async fn ask(request: RequestBuilder) -> (u16, Value) {
    read(request.send().await.expect("an answer")).await
}

async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let problem = header(&response, "content-type") == "application/problem+json";
    assert_eq!(problem, status >= 400, "errors and only errors are problems: {status}");
    let body: Value = response.json().await.expect("JSON");
    if problem {
        assert_eq!(body["status"], status);
        assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()) && body["title"].is_string());
    }
    (status, body)
}

impl Home {
    fn owner_get(&self, path: &str) -> RequestBuilder {
        self.get(&format!("/api/v1{path}")).bearer_auth(&self.owner)
    }

    fn owner_post(&self, path: &str) -> RequestBuilder {
        self.post(&format!("/api/v1{path}")).bearer_auth(&self.owner)
    }

    fn owner_put(&self, path: &str) -> RequestBuilder {
        self.client.put(self.url(&format!("/api/v1{path}"))).bearer_auth(&self.owner)
    }
}

#[tokio::test]
async fn the_owner_adds_a_device_enrols_pauses_rotates_and_revokes_it() {
    let home = Home::open().await;
    let added =
        home.owner_post("/devices").json(&json!({"id": "lamp", "profile": "thermostat"})).send().await.expect("an answer");
    assert_eq!(header(&added, "location"), "/api/v1/devices/lamp");
    let (status, added) = read(added).await;
    assert_eq!((status, &added["device"]["status"], &added["device"]["connected"]), (201, &json!("pending"), &json!(false)));
    assert!(added["enrolment"]["expires_at"].as_u64().expect("a time") > home.hub.now().0 + 800);
    let lamp = Device::new("lamp");
    let code = code_of(added["enrolment"]["string"].as_str().expect("a string"));
    assert_eq!(home.post(REGISTER).bearer_auth(code).json(&lamp.metadata()).send().await.expect("an answer").status(), 201);

    let (_, shown) = ask(home.owner_get("/devices/lamp")).await;
    assert_eq!((&shown["status"], &shown["software"]), (&json!("active"), &json!("acme-thermostat 1.0.0")));
    assert!(shown["keys"][0]["thumbprint"].is_string() && shown["keys"][0].get("public_key").is_none());
    let (_, list) = ask(home.owner_get("/devices")).await;
    assert_eq!(list["items"], json!([shown]));

    let (_, disabled) = ask(home.owner_post("/devices/lamp/disable")).await;
    assert_eq!(disabled["status"], "disabled");
    assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), 400);
    let (_, enabled) = ask(home.owner_post("/devices/lamp/enable")).await;
    assert_eq!(enabled["status"], "active");
    assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), 200);
    let (status, rotated) = ask(home.owner_post("/devices/lamp/rotate").json(&json!({}))).await;
    assert_eq!((status, rotated["enrolment"]["string"].is_string()), (200, true));
    let (_, revoked) = ask(home.owner_post("/devices/lamp/revoke")).await;
    assert_eq!(revoked["status"], "revoked");
    assert_eq!(home.by_assertion(&lamp.assertion(&home)).await.status(), 400);
    let (status, problem) = ask(home.owner_post("/devices/lamp/enable")).await;
    assert_eq!((status, &problem["code"]), (409, &json!("device_revoked")));
}

#[tokio::test]
async fn a_device_with_a_secret_is_shown_it_once() {
    let home = Home::open().await;
    let body = json!({"id": "plug", "profile": "switch", "authentication": "secret"});
    let (status, added) = ask(home.owner_post("/devices").json(&body)).await;
    assert_eq!((status, &added["device"]["status"], &added["device"]["secrets"]), (201, &json!("active"), &json!(1)));
    let secret = added["client_secret"].as_str().expect("a secret");
    let form = [("grant_type", "client_credentials"), ("client_id", "plug"), ("client_secret", secret)];
    assert_eq!(home.token_request(&form).await.status(), 200);
    let (_, shown) = ask(home.owner_get("/devices/plug")).await;
    assert!(!shown.to_string().contains("hk_sec_"));
    let (_, audit) = ask(home.owner_get("/audit?limit=1000")).await;
    assert!(!audit.to_string().contains("hk_sec_") && !audit.to_string().contains("hk_pat_"), "no secret is audited");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_a_sentence_that_helps() {
    let home = Home::open().await;
    home.add("lamp", "thermostat", false).await;
    let post = |path: &str, body: Value| home.owner_post(path).json(&body);
    for (request, expected) in [
        (post("/devices", json!({"id": "lamp", "profile": "thermostat"})), (409, Some("device_exists"))),
        (post("/devices", json!({"id": "oven", "profile": "rocket"})), (422, Some("unknown_profile"))),
        (post("/devices", json!({"id": "Öven", "profile": "switch"})), (422, None)),
        (post("/devices", json!({"id": "oven"})), (422, None)),
        (post("/devices", json!({"id": "oven", "profile": "switch", "colour": "red"})), (422, None)),
        (post("/devices", json!({"id": "oven", "profile": "switch", "authentication": "trust"})), (422, None)),
        (post("/devices", json!([])), (422, None)),
        (home.owner_post("/devices").header("content-type", "application/json").body("{"), (400, None)),
        (home.owner_post("/devices").header("content-type", "text/plain").body("{}"), (415, None)),
        (home.owner_post("/devices").header("content-type", "application/json").body("x".repeat(20_000)), (413, None)),
        (post("/devices/oven/revoke", json!({})), (404, Some("unknown_device"))),
        (post("/devices/..%2f/revoke", json!({})), (404, None)),
        (home.owner_get("/devices/%ff"), (404, None)),
        (home.owner_get("/devices/oven"), (404, Some("unknown_device"))),
        (home.owner_get("/devices?colour=red"), (400, None)),
        (home.owner_get("/devices/lamp/can?action=fly&topic=a"), (400, None)),
        (home.owner_get("/devices/lamp/can?action=publish"), (400, None)),
        (home.owner_get("/devices/lamp/can?action=publish&topic=a%2F%23"), (422, None)),
        (home.owner_get("/devices/lamp/commands/c-1"), (404, Some("unknown_command"))),
        (home.owner_get("/devices/lamp/commands/c-1?wait_s=30"), (404, Some("unknown_command"))),
        (post("/devices/lamp/commands/identify", json!({})), (409, Some("device_unable"))),
        (post("/devices/oven/commands/identify", json!({})), (404, Some("unknown_device"))),
        (home.owner_get("/profiles/rocket"), (404, Some("unknown_profile"))),
        (home.owner_get("/audit?limit=1001"), (422, None)),
        (home.owner_get("/audit?after=1&last=2"), (400, None)),
        (home.owner_get("/nothing"), (404, None)),
        (home.owner_put("/devices"), (405, None)),
        (home.owner_get("/devices/lamp/revoke"), (405, None)),
    ] {
        let shown = format!("{request:?}");
        let (status, problem) = ask(request).await;
        assert_eq!((status, problem["code"].as_str()), expected, "{shown} {problem}");
    }
    let wrong_method = home.owner_put("/devices").send().await.expect("an answer");
    assert_eq!(header(&wrong_method, "allow"), "GET,HEAD,POST");
}

#[tokio::test]
async fn without_a_good_credential_nothing_is_told() {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp").await;
    let token: Value = home.by_assertion(&lamp.assertion(&home)).await.json().await.expect("JSON");
    let token = token["access_token"].as_str().expect("a token");
    for path in ["/status", "/devices", "/devices/lamp", "/profiles", "/audit", "/audit/tail", "/watch", "/devices/lamp/commands"]
    {
        let url = format!("/api/v1{path}");
        let bare = home.get(&url).send().await.expect("an answer");
        assert_eq!(header(&bare, "www-authenticate"), "Bearer realm=\"hearthkey\"");
        assert_eq!(read(bare).await.0, 401, "{path}");
        let device = home.get(&url).bearer_auth(token).send().await.expect("an answer");
        assert!(header(&device, "www-authenticate").contains("insufficient_scope"));
        let (status, problem) = read(device).await;
        assert_eq!((status, problem["code"].as_str()), (403, Some("insufficient_scope")), "{path}: a device is no owner");
    }
    for bad in [&home.owner[..home.owner.len() - 1], "hk_pat_nonsense", "a.b.c", "x", &format!("{token}x")] {
        let answer = home.get("/api/v1/devices").bearer_auth(bad).send().await.expect("an answer");
        assert!(header(&answer, "www-authenticate").contains("error=\"invalid_token\""));
        assert_eq!(read(answer).await.0, 401, "{bad}");
    }
    let basic = home.get("/api/v1/devices").basic_auth("owner", Some(&home.owner)).send().await.expect("an answer");
    assert_eq!(read(basic).await.0, 401);
    let in_uri = home.get(&format!("/api/v1/devices?access_token={}", home.owner)).send().await.expect("an answer");
    assert_eq!(read(in_uri).await.0, 401, "RFC 6750 2.3 is not offered");
}

#[tokio::test]
async fn guessing_credentials_is_slowed_down_and_the_owner_goes_on() {
    let home = Home::open().await;
    assert_eq!(ask(home.owner_get("/status")).await.0, 200);
    let slowed = async {
        for guess in 0..200 {
            let answer = home.get("/api/v1/status").bearer_auth(format!("guess-{guess}")).send().await.expect("an answer");
            if answer.status() == 429 {
                return answer;
            }
        }
        panic!("200 guesses were answered");
    };
    let slowed = slowed.await;
    assert!(!header(&slowed, "retry-after").is_empty());
    assert_eq!(read(slowed).await.1["code"], "slow_down");
    assert_eq!(ask(home.owner_get("/status")).await.0, 200, "the owner has proved it before");
}

#[tokio::test]
async fn the_status_says_what_runs() {
    let home = Home::open().await;
    home.add("lamp", "thermostat", false).await;
    let (_, status) = ask(home.owner_get("/status")).await;
    assert_eq!((&status["issuer"], &status["devices"], &status["connections"]), (&json!(home.base), &json!(1), &json!(0)));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime_s"].is_u64());
}

#[tokio::test]
async fn can_names_the_rule_or_the_lack_of_one() {
    let home = Home::open().await;
    home.enrolled("lamp").await;
    let ask_can = async |action: &str, topic: &str| {
        let query = [("action", action), ("topic", topic)];
        let (status, decision) = ask(home.owner_get("/devices/lamp/can").query(&query)).await;
        assert_eq!(status, 200);
        assert!(decision["reason"].is_string());
        decision
    };
    let yes = ask_can("publish", "dev/lamp/tele/temperature").await;
    assert_eq!((&yes["allowed"], &yes["rule"]["template"]), (&json!(true), &json!("dev/${device}/tele/+")));
    assert_eq!(ask_can("publish", "dev/oven/tele/temperature").await["allowed"], false);
    assert_eq!(ask_can("subscribe", "dev/lamp/cmd/+").await["allowed"], true);
    assert_eq!(ask_can("subscribe", "#").await["allowed"], false);
    assert_eq!(ask_can("command", "identify").await["allowed"], true);
    assert_eq!(ask_can("command", "explode").await["allowed"], false);
}

#[tokio::test]
async fn a_command_is_numbered_waited_for_and_listed() {
    let home = Home::open().await;
    home.enrolled("lamp").await;
    let send = home.owner_post("/devices/lamp/commands/identify").json(&json!({"args": {"times": 3}, "ttl_s": 60}));
    let sent = send.send().await.expect("an answer");
    let location = header(&sent, "location").to_owned();
    let (status, command) = read(sent).await;
    assert_eq!((status, &command["state"], &command["seq"], &command["by"]), (202, &json!("sent"), &json!(1), &json!("owner")));
    assert_eq!(command["expires_at"].as_u64(), command["created_at"].as_u64().map(|at| at + 60));
    assert_eq!(location, format!("/api/v1/devices/lamp/commands/{}", command["id"].as_str().expect("an id")));

    let id = hearthkey_core::DeviceId::parse("lamp").expect("legal");
    let waiting = ask(home.get(&format!("{location}?wait_s=60")).bearer_auth(&home.owner));
    let acknowledging =
        home.hub.acknowledge_command(&id, &id, command["id"].as_str().expect("an id"), br#"{"state":"succeeded"}"#);
    let ((status, ended), is_kept) = tokio::join!(waiting, acknowledging);
    assert!(is_kept);
    assert_eq!((status, &ended["state"]), (200, &json!("succeeded")));

    let bare = ask(home.owner_post("/devices/lamp/commands/identify")).await;
    assert_eq!((bare.0, &bare.1["seq"]), (202, &json!(2)), "no body is needed");
    let (_, list) = ask(home.owner_get("/devices/lamp/commands")).await;
    assert_eq!(list["items"].as_array().expect("a list").iter().map(|item| &item["seq"]).collect::<Vec<_>>(), [1, 2]);

    for (name, body, expected) in [
        ("explode", json!({}), 422),
        ("identify", json!({"ttl_s": 0}), 422),
        ("identify", json!({"ttl_s": 10_000_000}), 422),
        ("identify", json!({"args": "x".repeat(2_000)}), 413),
        ("identify", json!({"retain": true}), 422),
        ("identify!", json!({}), 404),
    ] {
        let (status, problem) = ask(home.owner_post(&format!("/devices/lamp/commands/{name}")).json(&body)).await;
        assert_eq!(status, expected, "{name} {body} {problem}");
    }
}

#[tokio::test]
async fn profiles_are_read_written_and_checked() {
    let home = Home::open().await;
    let (_, list) = ask(home.owner_get("/profiles")).await;
    let names: Vec<_> = list["items"].as_array().expect("a list").iter().map(|profile| profile["name"].clone()).collect();
    assert!(names.contains(&json!("thermostat")) && list["items"][0]["permissions"].is_array());
    let toml = home.owner_get("/profiles/thermostat").header("accept", "application/toml").send().await.expect("an answer");
    assert_eq!(header(&toml, "content-type"), "application/toml");
    let text = toml.text().await.expect("a body").replace("thermostat", "boiler");
    let put = async |name: &str, text: &str, media_type: &str| {
        ask(home.owner_put(&format!("/profiles/{name}")).header("content-type", media_type).body(text.to_owned())).await
    };
    assert_eq!(put("boiler", &text, "application/toml").await.0, 201);
    let (status, profile) = put("boiler", &text, "application/toml; charset=utf-8").await;
    assert_eq!((status, &profile["name"]), (200, &json!("boiler")));
    let (_, shown) = ask(home.owner_get("/profiles/boiler")).await;
    assert_eq!(shown, profile);
    assert_eq!(put("other", &text, "application/toml").await.0, 422, "another name");
    assert_eq!(put("boiler", &text, "application/json").await.0, 415);
    let (status, problem) =
        put("boiler", "name = \"boiler\"\n[permissions.x]\npublish = [\"dev/x${device}\"]\n", "application/toml").await;
    assert_eq!(status, 422);
    assert!(problem["detail"].as_str().expect("text").contains("line 3"), "{problem}");
    assert_eq!(put("boiler", &"#".repeat(5_000), "application/toml").await.0, 413);
}

#[tokio::test]
async fn the_audit_log_is_paged_and_its_chain_can_be_checked_by_the_reader() {
    let home = Home::open().await;
    for number in 0..5 {
        home.add(&format!("lamp-{number}"), "thermostat", false).await;
    }
    let (_, all) = ask(home.owner_get("/audit?limit=1000")).await;
    let items = all["items"].as_array().expect("a list");
    assert_eq!(items.last().expect("entries")["seq"], all["head"]["seq"]);
    assert!(items.iter().any(|entry| entry["action"] == "device.add" && entry["actor"] == "user owner"));
    let (_, page) = ask(home.owner_get("/audit?after=2&limit=2")).await;
    assert_eq!(page["items"].as_array().expect("a list"), &items[2..4]);
    let (_, last) = ask(home.owner_get("/audit?last=3")).await;
    assert_eq!(last["items"].as_array().expect("a list"), &items[items.len() - 3..]);
}
