//! `hearthkey up` as a person runs it: the simulation, how it ends, and who may share its directory.

use hearthkey_tests::hub::{Hub, Ports};
use hearthkey_tests::process::{Running, binary, run};
use rustix::process::Signal;
use tokio::process::Command;

fn up(data: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = binary("hearthkey");
    command
        .arg("up")
        .arg("--data")
        .arg(data)
        .args(["--https-port", "0", "--mqtts-port", "0", "--mqtt-port", "0"])
        .args(arguments);
    command
}

#[tokio::test]
async fn a_simulated_home_shows_what_is_allowed_refused_and_obeyed_and_runs_again() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    // The devices keep the hub's address: a second run listens where the first did.
    let ports = Ports::free();
    let ports = [ports.https, ports.mqtts, ports.mqtt].map(|port| port.to_string());
    let [https, mqtts, mqtt] = &ports;
    for run_number in 0..2 {
        let mut command = binary("hearthkey");
        command.args(["up", "--simulate", "3", "--for", "30s", "--data"]).arg(&data);
        command.args(["--https-port", https, "--mqtts-port", mqtts, "--mqtt-port", mqtt]);
        let ran = run(command, "").await;
        assert_eq!(ran.exit, 0, "{ran:?}");
        for part in ["dev/thermostat-1/tele/", "refused", "set-setpoint", "next", "after 30 s"] {
            assert!(ran.out.contains(part), "{part} in run {run_number}: {}\n{}", ran.out, ran.err);
        }
        for device in 1..=3 {
            assert!(ran.out.contains(&format!("thermostat-{device}")), "{}", ran.out);
        }
        assert!(!ran.text().contains("hk1.") && !ran.text().contains("hk_pat_") && !ran.text().contains("eyJ"), "{ran:?}");
        assert!(!ran.text().contains("panicked"), "{ran:?}");
    }
}

#[tokio::test]
async fn a_simulation_tells_programs_the_same() {
    let home = tempfile::tempdir().expect("a directory");
    let mut running = Running::start(up(&home.path().join("data"), &["--simulate", "2", "-o", "json"]));
    running.json("the start", |line| (line["event"] == "started").then_some(())).await;
    running.json("a refusal", |line| (line["event"] == "refused").then_some(())).await;
    let command = running.json("a command", |line| (line["event"] == "command").then(|| line.clone())).await;
    assert!(command["states"].as_array().is_some_and(|states| states.iter().any(|state| state == "succeeded")), "{command}");
    running.signal(Signal::INT);
    assert_eq!(running.ended().await, 0, "{}", running.err());
    let last = running.out().lines().last().map(str::to_owned).expect("a summary");
    let summary: serde_json::Value = serde_json::from_str(&last).expect("JSON");
    assert_eq!((&summary["summary"]["enrolled"], &summary["summary"]["refused"]), (&2.into(), &1.into()), "{summary}");
}

#[tokio::test]
async fn ctrl_c_and_a_service_manager_end_it_cleanly() {
    for signal in [Signal::INT, Signal::TERM] {
        let home = tempfile::tempdir().expect("a directory");
        let mut running = Running::start(up(&home.path().join("data"), &[]));
        running.line("that it listens", |line| line.starts_with("mqtts").then_some(())).await;
        running.signal(signal);
        assert_eq!(running.ended().await, 0, "{signal:?}: {}", running.err());
        assert!(!running.err().contains("ERROR") && !running.err().contains("panicked"), "{}", running.err());
    }
}

#[tokio::test]
async fn a_data_directory_has_one_hub() {
    let hub = Hub::start().await;
    let second = run(up(&hub.data(), &[]), "").await;
    assert_eq!(second.exit, 1, "{second:?}");
    let data = hub.data().display().to_string();
    assert!(second.err.contains("in use") || second.err.contains("another hub"), "{}", second.err);
    assert!(second.err.contains(&data), "{}", second.err);
    assert!(second.out.is_empty(), "{second:?}");
    // The first one did not notice.
    hub.add("lamp", "thermostat").await;
    hub.finish().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_the_remedy() {
    let hub = Hub::start().await;
    let home = tempfile::tempdir().expect("a directory");
    let port = hub.ports().mqtts.to_string();
    let mut command = binary("hearthkey");
    command.arg("up").arg("--data").arg(home.path().join("data"));
    command.args(["--https-port", "0", "--mqtts-port", &port, "--mqtt-port", "0"]);
    let ran = run(command, "").await;
    assert_eq!(ran.exit, 1, "{ran:?}");
    assert!(ran.err.contains(&format!("127.0.0.1:{port}")) && ran.err.contains("another"), "{}", ran.err);
    hub.finish().await;
}

#[tokio::test]
async fn the_data_directory_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut hub = Hub::start().await;
    hub.agent("lamp", "thermostat").await.connected().await;
    // While it runs, it renames and removes files.
    hub.stop().await;
    let mut secrets = Vec::new();
    let mut left = vec![hub.data()];
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path).expect("there");
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("readable").map(|entry| entry.expect("an entry").path()));
        }
        if mode & 0o077 == 0 {
            secrets.push(path);
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            assert!(path.starts_with(hub.data()) && path != hub.data() && !name.contains("key"), "{mode:o} {}", path.display());
        }
    }
    for secret in ["", "keys", "keys/pepper", "ca/ca.key", "contexts/local.token"] {
        let path = if secret.is_empty() { hub.data() } else { hub.data().join(secret) };
        assert!(secrets.contains(&path), "{} is not there, or not private", path.display());
    }
    hub.start_again().await;
    hub.finish().await;
}
