//! The command line as an owner meets it without a hub: help, completions, offline checks, and errors that say what to
//! type next.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

struct Ran {
    exit: i32,
    out: String,
    err: String,
}

/// Runs the command with nothing of this user's environment.
fn hearthkey(args: &[&str]) -> Ran {
    run(&mut command(args))
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearthkey"));
    command.args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { exit: status.code().expect("not killed"), out: text(stdout), err: text(stderr) }
}

/// A context whose hub is at `url` and whose CA is a certificate of its own.
fn context_for(url: &str, home: &Path) -> String {
    let ca = hearthkey_certs::HomeCa::load_or_create(&home.join("ca"), rustls::pki_types::UnixTime::now()).expect("a CA");
    drop(ca);
    fs::write(home.join("token"), "hk_pat_abc_neverprinted\n").expect("written");
    fs::set_permissions(home.join("token"), fs::Permissions::from_mode(0o600)).expect("set");
    let file = home.join("context.toml");
    let ca_file = Path::new("ca").join(hearthkey_certs::CERTIFICATE_FILE);
    fs::write(&file, format!("url = \"{url}\"\nca_file = \"{}\"\ntoken_file = \"token\"\n", ca_file.display())).expect("written");
    file.display().to_string()
}

#[test]
fn help_teaches_with_examples_and_tells_the_exit_codes() {
    let Ran { exit, out, .. } = hearthkey(&["--help"]);
    assert_eq!(exit, 0);
    for expected in ["hearthkey up --simulate 3", "hearthkey device add", "Exit codes:", "3  the hub is not running"] {
        assert!(out.contains(expected), "{expected} in {out}");
    }
    for command in [
        &["up"][..],
        &["device", "add"],
        &["device", "rotate"],
        &["profile", "apply"],
        &["can"],
        &["send"],
        &["watch"],
        &["audit", "tail"],
        &["audit", "list"],
        &["audit", "verify"],
        &["audit", "export"],
        &["login"],
        &["logout"],
        &["context"],
        &["user", "add"],
        &["pat", "create"],
        &["pat", "rotate"],
        &["key", "create"],
        &["key", "roll"],
        &["join"],
        &["approve"],
        &["check"],
        &["backup"],
        &["restore"],
        &["completions"],
    ] {
        let Ran { exit, out, .. } = hearthkey(&[command, &["--help"]].concat());
        assert_eq!(exit, 0, "{command:?}");
        assert!(out.contains("Example"), "{command:?} has no example: {out}");
        assert!(out.contains("--output"), "{command:?} has no -o");
    }
}

#[test]
fn a_slip_of_the_finger_gets_a_suggestion() {
    let Ran { exit, err, .. } = hearthkey(&["device", "lst"]);
    assert_eq!(exit, 2);
    assert!(err.contains("'list'"), "{err}");
}

#[test]
fn a_name_that_could_reach_beyond_its_topic_is_refused_without_a_hub() {
    for name in ["+", "#", "a/b", "Lamp", ""] {
        let Ran { exit, err, .. } = hearthkey(&["device", "add", name, "--profile", "switch"]);
        assert_eq!(exit, 2, "{name}: {err}");
    }
    let Ran { err, .. } = hearthkey(&["device", "add", "Living Room", "--profile", "switch"]);
    assert!(err.contains("living-room-2"), "the message gives an example: {err}");
}

#[test]
fn completions_know_the_commands_of_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let Ran { exit, out, .. } = hearthkey(&["completions", shell]);
        assert_eq!(exit, 0);
        assert!(out.contains("revoke"), "{shell}");
    }
    assert_eq!(hearthkey(&["completions", "tcsh"]).exit, 2);
}

#[test]
fn before_the_first_start_every_command_says_how_to_start() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let data = data.to_str().expect("UTF-8");
    for args in [
        &["device", "list"][..],
        &["device", "add", "lamp", "--profile", "switch"],
        &["send", "lamp", "on"],
        &["watch"],
        &["audit", "tail"],
        &["can", "lamp", "publish", "dev/lamp/state"],
        &["profile", "list"],
        &["context", "show"],
        &["whoami"],
        &["pat", "list"],
        &["approve"],
        &["audit", "verify"],
    ] {
        let Ran { exit, out, err } = hearthkey(&[args, &["--data", data]].concat());
        assert_eq!((exit, out.as_str()), (3, ""), "{args:?}: {err}");
        assert!(err.contains("does not exist") && err.contains(&format!("next: hearthkey up --data {data}")), "{err}");
        assert!(!err.contains("Error") && !err.contains("panicked"), "{err}");
    }
}

#[test]
fn the_default_data_directory_follows_xdg() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().to_str().expect("UTF-8");
    let told = run(command(&["device", "list"]).env("HOME", path));
    assert!(
        told.err.contains(&format!("{path}/.local/share/hearthkey")) && told.err.contains("next: hearthkey up\n"),
        "{}",
        told.err
    );
    let told = run(command(&["device", "list"]).env("XDG_DATA_HOME", path));
    assert!(told.err.contains(&format!("{path}/hearthkey ")), "{}", told.err);
    let told = run(command(&["device", "list"]).env_remove("HOME"));
    assert_eq!(told.exit, 2);
    assert!(told.err.contains("--data DIR"), "{}", told.err);
}

#[test]
fn a_hub_that_does_not_run_is_told_apart_from_one_that_cannot_be_trusted() {
    let home = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let context = context_for(&format!("https://127.0.0.1:{port}"), home.path());
    // Whoever answers without TLS, or with another certificate, gets no token.
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut first = [0; 4096];
        let length = stream.read(&mut first).expect("a ClientHello");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("written");
        drop((stream, listener));
        String::from_utf8_lossy(&first[..length]).contains("hk_pat_")
    });
    let Ran { exit, err, .. } = hearthkey(&["device", "list", "--context", &context]);
    assert_eq!(exit, 3, "{err}");
    assert!(err.contains("is not the hub of this home"), "{err}");
    assert!(!stranger.join().expect("no panic"), "the token went to a stranger");

    let Ran { exit, err, .. } = hearthkey(&["device", "list", "--context", &context]);
    assert_eq!(exit, 3, "{err}");
    assert!(err.contains("not running") && err.contains("next: hearthkey up"), "{err}");
}

#[test]
fn the_token_is_never_shown() {
    let home = tempfile::tempdir().expect("a directory");
    let context = context_for("https://127.0.0.1:9", home.path());
    for args in [&["context", "show"][..], &["context", "show", "-o", "json"], &["device", "list"]] {
        let Ran { out, err, .. } = run(command(args).env("HEARTHKEY_CONTEXT", &context));
        assert!(!out.contains("neverprinted") && !err.contains("neverprinted"), "{out}{err}");
    }
    let Ran { exit, out, .. } = hearthkey(&["context", "show", "-o", "json", "--context", &context]);
    assert_eq!(exit, 0);
    let shown: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(shown["url"], "https://127.0.0.1:9/");
}

#[test]
fn a_file_is_checked_without_a_hub_and_a_mistake_is_told_with_its_line() {
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let file = home.path().join(name);
        fs::write(&file, text).expect("written");
        file.display().to_string()
    };
    let profile = write("blind.toml", "name = \"blind\"\n[permissions.telemetry]\npublish = [\"dev/${device}/state\"]\n");
    let Ran { exit, out, .. } = hearthkey(&["check", &profile]);
    assert_eq!(exit, 0);
    assert!(out.contains("ok ") && out.contains("dev/${device}/state") && out.contains("hearthkey profile apply"), "{out}");

    let foreign = write("bad.toml", "name = \"blind\"\n[permissions.telemetry]\npublish = [\"$SYS/x\"]\n");
    let Ran { exit, err, .. } = hearthkey(&["check", &foreign]);
    assert_eq!(exit, 1);
    assert!(err.contains("line 3") && err.contains("no valid profile"), "{err}");

    let config = write("hub.toml", "lan = true\n");
    let Ran { exit, out, .. } = hearthkey(&["check", &config, "-o", "json"]);
    assert_eq!(exit, 0);
    let shown: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&shown["kind"], &shown["listeners"]["https"]), (&"config".into(), &"0.0.0.0:8443".into()));

    let typo = write("typo.toml", "lan = true\n\n[listners]\nhttps = \"127.0.0.1:1\"\n");
    for args in [&["check", &typo][..], &["up", "--config", &typo, "--data", "/nonexistent/data"]] {
        let Ran { exit, err, .. } = hearthkey(args);
        assert_eq!(exit, 1, "{args:?}");
        assert!(err.contains("line 3") && err.contains("listeners"), "{err}");
    }
    let Ran { exit, err, .. } = hearthkey(&["check", "/nonexistent/file.toml"]);
    assert_eq!(exit, 1);
    assert!(err.contains("/nonexistent/file.toml"), "{err}");
}

#[test]
fn a_reader_that_leaves_early_ends_the_command_quietly() {
    let mut child = command(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut first = String::new();
    // The pipe holds less than the script: the command is still writing when its reader goes.
    let mut reader = BufReader::with_capacity(16, child.stdout.take().expect("piped"));
    reader.read_line(&mut first).expect("a line");
    drop(reader);
    let Output { status, stderr, .. } = child.wait_with_output().expect("ended");
    assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
}

#[test]
fn colours_stay_out_of_pipes() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("c.toml");
    fs::write(&config, "").expect("written");
    let file = config.to_str().expect("UTF-8");
    assert!(!hearthkey(&["check", file]).out.contains('\u{1b}'));
    assert!(!hearthkey(&["--help"]).out.contains('\u{1b}'));
    assert!(run(command(&["check", file]).env("CLICOLOR_FORCE", "1")).out.contains('\u{1b}'), "unless they are asked for");
}
