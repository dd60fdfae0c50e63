//! The command line of people, their tokens and keys, of logins and those who ask to be let in, against a hub over real TLS.

mod fake_hub;

use fake_hub::{Answer, FakeHub, Request, TOKEN};
use hearthkey_core::{
    UnixTime,
    audit::{AuditDraft, ChainHead, Outcome},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
};

const SECRET: &str = "hk_pat_0aB3dE6gH9jK_shownonce";

struct Ran {
    exit: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

/// A command of somebody whose contexts are in `home`.
fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearthkey"));
    command.args(args).env_clear().env("HOME", home).env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().expect("ended");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { exit: output.status.code().expect("not killed"), out: text(output.stdout), err: text(output.stderr) }
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

fn run_in(home: &Path, args: &[&str]) -> Ran {
    ended(start(command(home, args)))
}

fn run_with_input(mut command: Command, input: &str) -> Ran {
    let mut child = start({
        command.stdin(Stdio::piped());
        command
    });
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    ended(child)
}

/// Runs one command with a context of a hub with these answers; returns what it printed and what it asked.
fn run(answers: Vec<Answer>, args: &[&str]) -> (Ran, Vec<Request>) {
    let home = tempfile::tempdir().expect("a directory");
    let hub = FakeHub::answering(home.path(), answers);
    let mut command = command(home.path(), args);
    command.env("HEARTHKEY_CONTEXT", &hub.context);
    let ran = ended(start(command));
    assert!(!ran.out.contains(TOKEN) && !ran.err.contains(TOKEN), "the token was shown");
    (ran, hub.requests())
}

fn body(request: &Request) -> Value {
    serde_json::from_str(&request.body).expect("JSON")
}

fn me() -> Answer {
    Answer::Json(
        200,
        json!({"principal": {"user": "ann"}, "role": "owner", "scope": "devices:read", "expires_at": 1_780_043_200}),
    )
}

fn code() -> Answer {
    Answer::Json(
        200,
        json!({"device_code": "d-1", "user_code": "WDJB-MJHT", "verification_uri": "https://localhost/approve", "expires_in": 600,
            "interval": 1}),
    )
}

fn oauth_error(code: &str) -> Answer {
    Answer::Json(400, json!({ "error": code }))
}

fn created(kind: &str, subject: Value) -> Answer {
    Answer::Json(201, json!({"credential": credential(kind, "0aB3dE6gH9jK", subject), "secret": SECRET}))
}

fn credential(kind: &str, id: &str, subject: Value) -> Value {
    json!({"id": id, "kind": kind, "name": "backup", "subject": subject, "scope": "devices:read", "created_at": 1_780_000_000,
        "warnings": []})
}

#[test]
fn a_login_is_approved_by_its_code_used_and_given_back() {
    let home = tempfile::tempdir().expect("a directory");
    let answers = vec![
        Answer::CaCertificate,
        code(),
        oauth_error("authorization_pending"),
        Answer::Json(200, json!({"access_token": SECRET, "token_type": "Bearer", "expires_in": 43_200, "scope": "devices:read"})),
        me(),
        Answer::Json(200, json!({"items": []})),
        Answer::Nothing,
    ];
    let hub = FakeHub::answering(home.path(), answers);
    let ran = run_in(home.path(), &["login", &hub.url, "--ca-sha256", &hub.ca_sha256, "--context", "cottage"]);
    assert_eq!(ran.exit, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("hearthkey approve WDJB-MJHT") && ran.out.contains("as user ann, owner"), "{}", ran.out);
    assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET), "the token was shown");

    let contexts = home.path().join(".config/hearthkey/contexts");
    let token = contexts.join("cottage.token");
    assert_eq!(fs::read_to_string(&token).expect("stored"), format!("{SECRET}\n"));
    assert_eq!(fs::metadata(&token).expect("stored").permissions().mode() & 0o777, 0o600);
    let ran = run_in(home.path(), &["device", "list"]);
    assert_eq!(ran.exit, 0, "the login is the current context: {}", ran.err);
    let ran = run_in(home.path(), &["logout"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert_eq!(fs::read_dir(&contexts).expect("there").count(), 0, "nothing is left");

    let requests = hub.requests();
    let lines: Vec<&str> = requests.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "GET /ca.pem",
            "POST /oauth2/device_authorization",
            "POST /oauth2/token",
            "POST /oauth2/token",
            "GET /api/v1/me",
            "GET /api/v1/devices?limit=500",
            "POST /oauth2/revoke"
        ]
    );
    assert_eq!(requests[1].body, "client_id=hearthkey-cli");
    assert_eq!(
        requests[3].body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=d-1&client_id=hearthkey-cli"
    );
    assert_eq!(requests[6].body, format!("token={SECRET}"));
    let bearer = format!("authorization: Bearer {SECRET}");
    let holds: Vec<bool> = requests.iter().map(|request| request.headers.contains(&bearer)).collect();
    assert_eq!(holds, [false, false, false, false, true, true, true]);
}

#[test]
fn a_login_that_is_denied_or_forgotten_stores_nothing() {
    for (error, exit) in [("access_denied", 1), ("expired_token", 4), ("invalid_client", 1)] {
        let home = tempfile::tempdir().expect("a directory");
        let hub = FakeHub::answering(home.path(), vec![code(), oauth_error(error)]);
        let ca = home.path().join("ca/ca.crt");
        let ran = run_in(home.path(), &["login", &hub.url, "--ca", ca.to_str().expect("UTF-8"), "-o", "json"]);
        assert_eq!(ran.exit, exit, "{error}: {}", ran.err);
        assert_eq!(ran.json()["user_code"], "WDJB-MJHT");
        assert!(!home.path().join(".config").exists(), "{error}");
    }
}

#[test]
fn a_hub_whose_ca_is_not_known_hears_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let hub = FakeHub::answering(home.path(), vec![Answer::CaCertificate]);
    let ran = run_in(home.path(), &["login", &hub.url]);
    assert_eq!(ran.exit, 2);
    assert!(ran.err.contains("hearthkey context show, on the hub's machine") && ran.err.contains("--ca-sha256"), "{}", ran.err);
    let ran = run_in(home.path(), &["login", &hub.url, "--ca-sha256", &"ab".repeat(32), "--user", "ann"]);
    assert_eq!(ran.exit, 3, "{}", ran.err);
    assert!(ran.err.contains("is not the hub of this home") && ran.err.contains("hearthkey context show"), "{}", ran.err);
    assert!(hub.requests().is_empty(), "a request went to a stranger");
}

#[test]
fn a_password_comes_from_a_file_and_the_second_login_knows_the_hub() {
    let home = tempfile::tempdir().expect("a directory");
    let wrong = json!({"title": "Unauthorized", "status": 401, "detail": "user name or password is wrong", "code": "invalid_credentials"});
    let login = || created("personal_access_token", json!({"user": "ann"}));
    let answers = vec![
        Answer::CaCertificate,
        Answer::Json(401, wrong),
        Answer::CaCertificate,
        login(),
        me(),
        login(),
        Answer::Nothing,
        me(),
    ];
    let hub = FakeHub::answering(home.path(), answers);
    let pinned = ["login", &hub.url, "--ca-sha256", &hub.ca_sha256, "--user", "ann", "--password-file", "-"];
    let ran = run_with_input(command(home.path(), &pinned), "wrong\n");
    assert_eq!((ran.exit, ran.err.as_str()), (1, "user name or password is wrong\n"));
    let ran = run_with_input(command(home.path(), &pinned), "correct horse\n");
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let again = ["login", &hub.url, "--user", "ann", "--password-file", "-", "--expires", "7d"];
    let ran = run_with_input(command(home.path(), &again), "correct horse");
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let requests = hub.requests();
    assert_eq!(body(&requests[3]), json!({"user": "ann", "password": "correct horse"}));
    assert_eq!(body(&requests[5]), json!({"user": "ann", "password": "correct horse", "expires_in_s": 604_800}));
    assert_eq!(requests[6].line, "POST /oauth2/revoke", "the earlier login ends");
    assert_eq!(fs::read_to_string(home.path().join(".config/hearthkey/current-context")).expect("set"), "localhost\n");
}

#[test]
fn without_a_terminal_a_password_is_asked_of_nobody() {
    let home = tempfile::tempdir().expect("a directory");
    let hub = FakeHub::answering(home.path(), vec![]);
    let args = ["user", "add", "ann", "--role", "member", "--context", &hub.context];
    // A session of its own has no terminal.
    let mut setsid = Command::new("setsid");
    setsid
        .arg("--wait")
        .arg(env!("CARGO_BIN_EXE_hearthkey"))
        .args(args)
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", "/usr/bin:/bin");
    setsid.stdin(Stdio::null());
    let ran = ended(start(setsid));
    assert_eq!(ran.exit, 2, "{}", ran.err);
    assert!(ran.err.contains("--password-file FILE"), "{}", ran.err);
    assert!(hub.requests().is_empty());
}

#[test]
fn people_are_added_changed_and_removed() {
    let ann = |role: &str| json!({"name": "ann", "role": role, "created_at": 1_780_000_000, "has_password": true});
    let home = tempfile::tempdir().expect("a directory");
    let answers = vec![Answer::Json(201, ann("member")), Answer::Json(200, ann("owner")), Answer::Nothing, Answer::Nothing];
    let hub = FakeHub::answering(home.path(), answers);
    let with_context = |args: &[&str]| command(home.path(), &[args, &["--context", &hub.context]].concat());
    let ran =
        run_with_input(with_context(&["user", "add", "ann", "--role", "member", "--password-file", "-"]), "correct horse\n");
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(!ran.out.contains("horse") && ran.out.contains("ann is added as member"), "{}", ran.out);
    assert!(ended(start(with_context(&["user", "role", "ann", "owner"]))).out.contains("ann is owner now"));
    assert_eq!(run_with_input(with_context(&["user", "password", "--password-file", "-"]), "battery staple").exit, 0);
    let ran = ended(start(with_context(&["user", "remove", "ann", "-o", "json"])));
    assert_eq!(ran.json(), json!({"name": "ann", "removed": true}));
    let asked: Vec<(String, String)> = hub.requests().into_iter().map(|request| (request.line, request.body)).collect();
    let expected = [
        ("POST /api/v1/users", "{\"name\":\"ann\",\"password\":\"correct horse\",\"role\":\"member\"}"),
        ("PATCH /api/v1/users/ann", "{\"role\":\"owner\"}"),
        ("PUT /api/v1/me/password", "{\"password\":\"battery staple\"}"),
        ("DELETE /api/v1/users/ann", ""),
    ];
    assert_eq!(asked, expected.map(|(line, body)| (line.to_owned(), body.to_owned())));
}

#[test]
fn a_token_goes_alone_into_a_pipe_or_into_a_file_and_nowhere_else() {
    let user = || json!({"user": "ann"});
    let args = [
        "pat",
        "create",
        "backup",
        "--scope",
        "devices:read",
        "--scope",
        "commands:send",
        "--device",
        "lamp",
        "--expires",
        "90d",
    ];
    let (ran, requests) = run(vec![created("personal_access_token", user())], &args);
    assert_eq!((ran.exit, ran.out), (0, format!("{SECRET}\n")), "{}", ran.err);
    assert!(ran.err.contains("the personal access token backup (0aB3dE6gH9jK) of user ann is made"), "{}", ran.err);
    assert_eq!(requests[0].line, "POST /api/v1/credentials/personal-access-tokens");
    let asked = json!({"name": "backup", "scope": "devices:read commands:send", "devices": ["lamp"], "expires_in_s": 7_776_000});
    assert_eq!(body(&requests[0]), asked);

    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("backup.token");
    let out = file.to_str().expect("UTF-8");
    let (ran, _) = run(vec![created("personal_access_token", user())], &["pat", "create", "backup", "--out", out, "-o", "json"]);
    assert_eq!((ran.json()["secret_file"].as_str(), ran.json().get("secret")), (Some(out), None));
    assert_eq!(fs::read_to_string(&file).expect("written"), format!("{SECRET}\n"));
    let (ran, requests) = run(vec![], &["pat", "create", "backup", "--out", out]);
    assert_eq!((ran.exit, requests.len()), (1, 0), "no token is made that could not be kept: {}", ran.err);

    let (ran, requests) = run(vec![created("personal_access_token", user())], &["pat", "rotate", "0aB3dE6gH9jK", "-o", "json"]);
    assert_eq!(
        (requests[0].line.as_str(), ran.json()["secret"].as_str()),
        ("POST /api/v1/credentials/0aB3dE6gH9jK/rotate", Some(SECRET))
    );
}

#[test]
fn ones_own_tokens_are_listed_to_the_last_page() {
    let own = |id: &str| credential("personal_access_token", id, json!({"user": "ann"}));
    let bens = credential("personal_access_token", "bensbensbens", json!({"user": "ben"}));
    let pages = || {
        [
            Answer::Json(200, json!({"items": [own("aaaaaaaaaaaa"), bens], "next": "c=1"})),
            Answer::Json(200, json!({"items": [own("zzzzzzzzzzzz")]})),
        ]
    };
    let (ran, requests) = run([me()].into_iter().chain(pages()).collect(), &["pat", "list"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.out.contains("aaaaaaaaaaaa") && ran.out.contains("zzzzzzzzzzzz") && !ran.out.contains("bens"), "{}", ran.out);
    assert_eq!(requests[2].line, "GET /api/v1/credentials?kind=personal_access_token&limit=500&cursor=c%3D1");
    let (ran, _) = run(pages().into(), &["pat", "list", "--all", "-o", "json"]);
    assert_eq!(ran.json()["items"].as_array().map(Vec::len), Some(3));
}

#[test]
fn keys_are_made_for_integrations_and_devices_rolled_and_revoked() {
    let key = |subject| created("api_key", subject);
    let args = ["key", "create", "kitchen", "--integration", "ha", "--profile", "home-assistant", "--network", "192.168.1.0/24"];
    let (ran, requests) = run(vec![key(json!({"integration": "ha"}))], &args);
    assert_eq!((ran.exit, ran.out), (0, format!("{SECRET}\n")));
    assert_eq!(requests[0].line, "POST /api/v1/credentials/api-keys");
    let asked = json!({"name": "kitchen", "integration": "ha", "profile": "home-assistant", "networks": ["192.168.1.0/24"]});
    assert_eq!(body(&requests[0]), asked);

    let (ran, requests) = run(vec![key(json!({"device": "plug"}))], &["key", "create", "plug", "--device", "plug"]);
    assert!(ran.err.contains("MQTT user name is plug"), "{}", ran.err);
    assert_eq!(body(&requests[0]), json!({"name": "plug", "device": "plug"}));

    let (ran, requests) = run(vec![key(json!({"device": "plug"}))], &["key", "roll", "0aB3dE6gH9jK", "--overlap", "2d"]);
    assert!(ran.err.contains("works for another 2 days"), "{}", ran.err);
    assert_eq!(
        (requests[0].line.as_str(), body(&requests[0])),
        ("POST /api/v1/credentials/0aB3dE6gH9jK/roll", json!({"overlap_s": 172_800}))
    );

    let (ran, requests) = run(vec![Answer::Nothing], &["key", "revoke", "0aB3dE6gH9jK"]);
    assert_eq!((ran.exit, requests[0].line.as_str()), (0, "DELETE /api/v1/credentials/0aB3dE6gH9jK"));
    let (ran, _) = run(vec![Answer::Nothing], &["signing-key", "rotate"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
}

fn waiting() -> Answer {
    Answer::Json(
        200,
        json!({"items": [
            {"user_code": "WDJB-MJHT", "wanted": {"join": {"software": "acme 1.0", "thumbprint": "abc_DEF"}}, "expires_at": 1_780_000_180},
            {"user_code": "BCDF-GHJK", "wanted": {"login": {"client": "hearthkey-cli", "source": "192.168.1.7"}}, "expires_at": 1_780_000_600}]}),
    )
}

#[test]
fn who_waits_is_let_in_by_code_or_turned_away() {
    let (ran, _) = run(vec![waiting()], &["approve"]);
    assert!(ran.out.contains("WDJB-MJHT") && ran.out.contains("a login from 192.168.1.7"), "{}", ran.out);

    let joined = Answer::Json(200, json!({"device": {"id": "lamp"}}));
    let (ran, requests) = run(vec![waiting(), joined], &["approve", "wdjbmjht", "--name", "lamp", "--profile", "switch"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert_eq!(
        (requests[1].line.as_str(), body(&requests[1])),
        ("POST /api/v1/approvals/WDJB-MJHT", json!({"name": "lamp", "profile": "switch"}))
    );

    let (ran, requests) = run(
        vec![waiting(), Answer::Json(200, json!({}))],
        &["approve", "BCDF-GHJK", "--scope", "devices:read", "--expires", "8h"],
    );
    assert!(ran.out.contains("acts for you"), "{}", ran.out);
    assert_eq!(body(&requests[1]), json!({"scope": "devices:read", "expires_in_s": 28_800}));

    let (ran, requests) = run(vec![waiting(), Answer::Nothing], &["deny", "BCDF-GHJK"]);
    assert_eq!((ran.exit, requests[1].line.as_str()), (0, "DELETE /api/v1/approvals/BCDF-GHJK"));
}

#[test]
fn a_word_that_does_not_fit_who_waits_lets_nobody_in() {
    for (args, exit, told) in [
        (&["approve", "WDJB-MJHT"][..], 2, "hearthkey approve WDJB-MJHT --name NAME --profile P"),
        (&["approve", "WDJB-MJHT", "--expires", "8h"], 2, "is a device"),
        (&["approve", "BCDF-GHJK", "--name", "lamp", "--profile", "switch"], 2, "is a login"),
        (&["approve", "XXXX-XXXX"], 1, "nobody waits with the code"),
        (&["deny", "XXXX-XXXX"], 1, "nobody waits with the code"),
    ] {
        let (ran, requests) = run(vec![waiting()], args);
        assert_eq!((ran.exit, requests.len()), (exit, 1), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(told), "{args:?}: {}", ran.err);
    }
}

#[test]
fn those_who_ask_to_join_are_shown_until_ctrl_c() {
    let home = tempfile::tempdir().expect("a directory");
    let window = Answer::Json(200, json!({"open_until": 1_780_000_180}));
    let closed = Answer::Json(200, json!({"open_until": 1_780_000_000}));
    let hub = FakeHub::answering(home.path(), vec![window, waiting(), closed]);
    let mut child = start(command(home.path(), &["join", "--for", "10m", "--context", &hub.context]));
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map(|line| line.expect("UTF-8"));
    assert!(lines.next().expect("the window").contains("devices may ask to join until 20:29:40"));
    assert!(lines.next().expect("a device").contains("WDJB-MJHT  a device, acme 1.0, with the key abc_DEF"));
    assert!(lines.next().expect("what to type").contains("hearthkey approve WDJB-MJHT"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).expect("sent");
    let ran = ended(child);
    assert_eq!((ran.exit, ran.err.contains("the window is closed")), (0, true), "{}", ran.err);
    let requests = hub.requests();
    assert_eq!((body(&requests[0]), body(&requests[2])), (json!({"for_s": 600}), json!({"for_s": 0})));
}

/// An exported log of `length` entries, and its head.
fn log(length: u64) -> (String, ChainHead) {
    let mut head = ChainHead::default();
    let lines = (0..length).map(|number| {
        let draft = AuditDraft {
            actor: "hub".to_owned(),
            action: "test",
            target: format!("entry {number}"),
            outcome: Outcome::Success,
            reason: String::new(),
            count: 1,
        };
        let (next, row) = head.append(draft, UnixTime(1_780_000_000), "", "");
        head = next;
        format!("{}\n", String::from_utf8(row).expect("JSON"))
    });
    (lines.collect(), head)
}

#[test]
fn an_audit_log_is_exported_once_and_proved_without_the_hub() {
    let (text, head) = log(1_200);
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("audit.ndjson");
    let name = file.to_str().expect("UTF-8");
    let (ran, requests) = run(vec![Answer::Text(text.clone())], &["audit", "export", name]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.out.contains("1200 entries") && ran.out.contains(&format!("head 1200 {}", head.hash)), "{}", ran.out);
    assert_eq!(
        (requests[0].line.as_str(), fs::read_to_string(&file).expect("written")),
        ("GET /api/v1/audit/export", text.clone())
    );
    let (ran, requests) = run(vec![], &["audit", "export", name]);
    assert_eq!((ran.exit, requests.len()), (1, 0), "an earlier export is kept: {}", ran.err);
    let (ran, _) = run(vec![Answer::Text(text.clone())], &["audit", "export"]);
    assert_eq!(ran.out, text, "byte for byte");

    let offline = |args: &[&str]| run_in(Path::new("/nonexistent"), &[&["audit", "verify"], args].concat());
    assert_eq!(offline(&[name, "--head", &head.hash]).exit, 0);
    fs::write(&file, text.replace("entry 700", "Entry 700")).expect("written");
    let ran = offline(&[name]);
    assert_eq!(ran.exit, 1);
    assert!(ran.out.starts_with("broken ") && ran.out.contains("audit entry 701"), "{}", ran.out);
}

#[test]
fn the_audit_log_is_filtered_by_the_hub_and_verified_by_it() {
    let page = json!({"items": [], "head": {"seq": 2, "hash": "0"}});
    let args = [
        "audit",
        "list",
        "--actor",
        "device lamp",
        "--action",
        "mqtt.",
        "--outcome",
        "denied",
        "--since",
        "2026-05-28T20:26:40Z",
        "-n",
        "5",
    ];
    let (ran, requests) = run(vec![Answer::Json(200, page)], &args);
    assert_eq!((ran.exit, ran.err.as_str()), (0, "no entry matches\n"));
    assert_eq!(requests[0].line, "GET /api/v1/audit?last=5&actor=device+lamp&action=mqtt.&outcome=denied&since=1780000000");
    let found = json!({"ok": false, "entries": 3, "head": {"seq": 3, "hash": "0"}, "anchor": {"seq": 0, "hash": "0"}, "fault": "audit entry 2 is missing"});
    let (ran, _) = run(vec![Answer::Json(200, found)], &["audit", "verify"]);
    assert_eq!((ran.exit, ran.out.as_str()), (1, "broken audit entry 2 is missing\n"));
}

#[test]
fn too_many_attempts_are_told_with_how_long_to_wait() {
    let (ran, _) = run(vec![Answer::TooMany(12)], &["whoami"]);
    assert_eq!((ran.exit, ran.err.as_str()), (1, "too many requests\n  next: try again in 12 s\n"));
}
