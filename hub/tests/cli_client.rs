//! The command line against a hub over real TLS: what it asks, what it shows, how it ends.

mod fake_hub;

use fake_hub::{Answer, FakeHub, Request, TOKEN};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

struct Ran {
    exit: i32,
    out: String,
    err: String,
}

fn command(context: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearthkey"));
    command.args(args).env_clear().env("HEARTHKEY_CONTEXT", context).env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs one command against a hub with these answers; returns what it printed and what it asked.
fn run(answers: Vec<Answer>, args: &[&str]) -> (Ran, Vec<Request>) {
    let home = tempfile::tempdir().expect("a directory");
    let hub = FakeHub::answering(home.path(), answers);
    let output = command(&hub.context, args).output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let ran = Ran { exit: output.status.code().expect("not killed"), out: text(output.stdout), err: text(output.stderr) };
    assert!(!ran.out.contains(TOKEN) && !ran.err.contains(TOKEN), "the token was shown");
    (ran, hub.requests())
}

/// Ctrl-C.
fn interrupt(child: &Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::INT).expect("sent");
}

fn lamp(status: &str) -> Value {
    json!({"id": "lamp", "profile": "switch", "status": status, "connected": false, "keys": [], "secrets": 0, "children": [],
        "created_at": 1_780_000_000, "command_seq": 0})
}

fn on(state: &str) -> Value {
    json!({"id": "c-0123456789abcdef", "device": "lamp", "name": "on", "seq": 1, "by": "user owner",
        "created_at": 1_780_000_000, "expires_at": 1_780_000_030, "state": state, "reason": "bulb broken"})
}

#[test]
fn a_list_is_asked_for_with_the_token_in_its_header() {
    let (ran, requests) = run(vec![Answer::Json(200, json!({"items": [lamp("active")]}))], &["device", "list"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.out.contains("lamp  switch   active"), "{}", ran.out);
    assert_eq!(requests[0].line, "GET /api/v1/devices?limit=500");
    assert!(requests[0].headers.contains(&format!("authorization: Bearer {TOKEN}")), "{:?}", requests[0].headers);
}

#[test]
fn a_refusal_is_told_in_the_hubs_words_and_nothing_else() {
    let detail = "there is no device oven; `hearthkey device list` shows all";
    let problem = json!({"type": "about:blank", "title": "Not Found", "status": 404, "detail": detail});
    let (ran, _) = run(vec![Answer::Json(404, problem)], &["device", "revoke", "oven"]);
    assert_eq!((ran.exit, ran.out, ran.err), (1, String::new(), format!("{detail}\n")));
}

#[test]
fn a_token_that_the_hub_does_not_take_is_told_with_its_file() {
    let problem = json!({"title": "Unauthorized", "status": 401, "detail": "the token is unknown"});
    let (ran, _) = run(vec![Answer::Json(401, problem)], &["device", "list"]);
    assert_eq!(ran.exit, 1);
    assert!(ran.err.contains("/token: the token is unknown") && ran.err.contains("next: "), "{}", ran.err);
}

#[test]
fn adding_a_device_asks_for_what_was_typed_and_shows_how_to_enrol() {
    let answer = json!({"device": lamp("pending"), "enrolment": {"string": "hk1.QUJD", "expires_at": 1_780_000_900}});
    let args = ["device", "add", "lamp", "--profile", "switch", "--child", "bulb-1,bulb-2"];
    let (ran, requests) = run(vec![Answer::Json(201, answer)], &args);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.out.contains("\n  hk1.QUJD\n") && ran.out.contains("hearthkey-sim device --enrol hk1.QUJD"), "{}", ran.out);
    let body: Value = serde_json::from_str(&requests[0].body).expect("JSON");
    assert_eq!(body, json!({"id": "lamp", "profile": "switch", "authentication": "key", "children": ["bulb-1", "bulb-2"]}));

    let answer = json!({"device": lamp("active"), "client_secret": "hk_sec_x_y"});
    let (ran, requests) = run(vec![Answer::Json(200, answer)], &["device", "rotate", "lamp", "--secret", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).expect("JSON")["client_secret"], "hk_sec_x_y");
    assert_eq!(
        (requests[0].line.as_str(), requests[0].body.as_str()),
        ("POST /api/v1/devices/lamp/rotate", "{\"authentication\":\"secret\",\"overlap_s\":3600}")
    );
}

#[test]
fn a_decision_is_an_exit_code() {
    let answer = |allowed: bool| Answer::Json(200, json!({"allowed": allowed, "reason": "because"}));
    let args = ["can", "lamp", "subscribe", "dev/+/state"];
    let (ran, requests) = run(vec![answer(true)], &args);
    assert_eq!((ran.exit, ran.out.as_str()), (0, "yes  because\n"));
    assert_eq!(requests[0].line, "GET /api/v1/devices/lamp/can?action=subscribe&topic=dev%2F%2B%2Fstate");
    let (ran, _) = run(vec![answer(false)], &args);
    assert_eq!((ran.exit, ran.out.as_str()), (1, "no  because\n"));
}

#[test]
fn a_profile_is_shown_as_toml_and_written_back_as_it_stands() {
    let text = "name = \"blind\"\n[permissions.telemetry]\npublish = [\"dev/${device}/state\"]\n";
    let (ran, requests) = run(vec![Answer::Toml(text)], &["profile", "show", "blind"]);
    assert_eq!((ran.exit, ran.out.as_str()), (0, text));
    assert!(requests[0].headers.contains(&"accept: application/toml".to_owned()));

    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("blind.toml");
    std::fs::write(&file, text).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (ran, requests) = run(vec![Answer::Json(200, json!({"name": "blind"}))], &["profile", "apply", file]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert_eq!((requests[0].line.as_str(), requests[0].body.as_str()), ("PUT /api/v1/profiles/blind", text));
}

#[test]
fn a_command_is_told_as_it_goes_and_its_end_is_the_exit_code() {
    let states = |last: &str| {
        let event = |state| format!("event: state\ndata: {}\n\n", on(state));
        // The hub restarts on the way, and tells again what it told.
        let before: String = ["sent", "accepted"].map(event).concat();
        let after: String = ["sent", "accepted", "executing", last].map(event).concat();
        vec![Answer::Json(202, on("sent")), Answer::Events(before.leak()), Answer::Events(after.leak())]
    };
    let (ran, requests) = run(states("succeeded"), &["send", "lamp", "on", "{\"level\":3}", "--ttl", "1m"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let words: Vec<&str> = ran.out.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(words, ["sent", "accepted", "executing", "succeeded"]);
    assert_eq!(requests[0].line, "POST /api/v1/devices/lamp/commands/on");
    assert_eq!(requests[0].body, "{\"args\":{\"level\":3},\"ttl_s\":60}");
    assert_eq!(requests[1].line, "GET /api/v1/devices/lamp/commands/c-0123456789abcdef");
    assert!(requests[1].headers.contains(&"accept: text/event-stream".to_owned()));

    for (end, exit) in [("failed", 1), ("rejected", 1), ("expired", 1)] {
        let (ran, _) = run(states(end), &["send", "lamp", "on"]);
        assert_eq!(ran.exit, exit, "{end}");
        assert!(ran.out.contains("bulb broken"), "{}", ran.out);
    }
    let (ran, _) = run(states("succeeded"), &["send", "lamp", "on", "-o", "json"]);
    let told: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(told.iter().map(|told| &told["state"]).collect::<Vec<_>>(), ["sent", "accepted", "executing", "succeeded"]);
}

#[test]
fn a_command_that_does_not_end_in_time_is_its_own_exit_code() {
    let home = tempfile::tempdir().expect("a directory");
    // The hub hears the question and stays silent for longer than the command waits.
    let answers = vec![Answer::Json(202, on("sent")), Answer::OpenEvents(""), Answer::Json(200, lamp("active"))];
    let hub = FakeHub::answering(home.path(), answers);
    let output = command(&hub.context, &["send", "lamp", "on", "--wait", "5s"]).output().expect("the binary runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{err}");
    assert!(err.contains("on has not ended within 5s: it is sent; lamp is not connected"), "{err}");

    let (ran, requests) = run(vec![Answer::Json(202, on("sent"))], &["send", "lamp", "on", "--wait", "0s"]);
    assert_eq!((ran.exit, requests.len()), (0, 1), "on its way is all that was asked for");
}

const FIRST: &str =
    "event: message\ndata: {\"topic\":\"dev/lamp/state\",\"payload\":\"on\",\"qos\":0,\"retain\":false,\"time\":1780000000}\n\n";

#[test]
fn watching_outlives_the_hub_and_tells_what_was_lost() {
    let answers = vec![
        Answer::Events(FIRST),
        Answer::Events(
            "event: lost\ndata: {\"count\":5}\n\nevent: message\ndata: {\"topic\":\"dev/lamp/state\",\"payload\":\"off\",\"time\":1780000001}\n\n",
        ),
    ];
    let (ran, requests) = run(answers, &["watch", "dev/lamp/#", "--count", "2"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "20:26:40 dev/lamp/state on");
    assert!(lines[1].starts_with("5 messages were not shown"), "{lines:?}");
    assert_eq!(lines[2], "20:26:41 dev/lamp/state off");
    assert!(ran.err.contains("the hub went away") && ran.err.contains("the hub is back"), "{}", ran.err);
    assert_eq!(requests[1].line, "GET /api/v1/watch?filter=dev%2Flamp%2F%23");
}

#[test]
fn ctrl_c_ends_a_watch_without_complaint() {
    let home = tempfile::tempdir().expect("a directory");
    let hub = FakeHub::answering(home.path(), vec![Answer::OpenEvents(FIRST)]);
    let mut child = command(&hub.context, &["watch", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a message");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("one object a line")["payload"], "on");
    interrupt(&child);
    let ended = child.wait_with_output().expect("ended");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn the_audit_log_is_read_once_or_followed() {
    let record = |seq: u64| {
        json!({"seq": seq, "time": 1_780_000_000, "actor": "user owner", "action": "device.revoke", "target": "device lamp",
            "outcome": "success", "previous": "0"})
    };
    let page = json!({"items": [record(1), record(2)], "head": {"seq": 2, "hash": "0"}});
    let (ran, requests) = run(vec![Answer::Json(200, page)], &["audit", "tail", "-n", "2", "--no-follow", "-o", "json"]);
    assert_eq!((ran.exit, ran.out.lines().count()), (0, 2), "{}", ran.err);
    assert_eq!(requests[0].line, "GET /api/v1/audit?last=2");
}

#[test]
fn an_audit_log_that_is_followed_shows_each_entry_once_and_tells_of_gaps() {
    const RECORDS: [&str; 2] =
        ["event: record\ndata: {\"seq\":1}\n\n", "event: record\ndata: {\"seq\":1}\n\nevent: record\ndata: {\"seq\":4}\n\n"];
    let home = tempfile::tempdir().expect("a directory");
    let hub = FakeHub::answering(home.path(), vec![Answer::Events(RECORDS[0]), Answer::OpenEvents(RECORDS[1])]);
    let mut child = command(&hub.context, &["audit", "tail", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines: Vec<String> =
        BufReader::new(child.stdout.as_mut().expect("piped")).lines().take(2).map(|line| line.expect("UTF-8")).collect();
    assert_eq!(lines, ["{\"seq\":1}", "{\"seq\":4}"]);
    interrupt(&child);
    let ended = child.wait_with_output().expect("ended");
    assert_eq!(ended.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("2 entries passed unseen"));
}

#[test]
fn a_hub_of_another_home_gets_no_token() {
    let home = tempfile::tempdir().expect("a directory");
    let other: &Path = &home.path().join("other-ca");
    let hub = FakeHub::with_trusted_ca(home.path(), other, vec![Answer::Json(200, json!({"items": []}))]);
    let output = command(&hub.context, &["device", "list"]).output().expect("the binary runs");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("is not the hub of this home") && err.contains("other-ca"), "{err}");
    assert!(hub.requests().is_empty(), "a request went to a stranger");
}

#[test]
fn a_reader_that_leaves_early_ends_the_list_quietly() {
    let items: Vec<Value> = (0..4_000).map(|_| lamp("active")).collect();
    let home = tempfile::tempdir().expect("a directory");
    let hub = FakeHub::answering(home.path(), vec![Answer::Json(200, json!({ "items": items }))]);
    let mut child =
        command(&hub.context, &["device", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut heading = String::new();
    let mut reader = BufReader::with_capacity(16, child.stdout.take().expect("piped"));
    reader.read_line(&mut heading).expect("a line");
    drop(reader);
    let ended = child.wait_with_output().expect("ended");
    assert!(heading.starts_with("NAME"));
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}
