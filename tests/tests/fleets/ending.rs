//! How `hearthkey-sim fleet --with-hub` ends, with the real programs: by Ctrl-C once, by Ctrl-C twice, and by SIGKILL.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearthkey_tests::patience::{until, within};
use hearthkey_tests::process::{Running, binary};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// A simulator at work as at a terminal, with a hub of its own.
struct Terminal {
    /// Where its temporary files lie.
    home: TempDir,
    /// Tells which process the hub is.
    wrapper: TempDir,
    simulator: Running,
    /// Follows what passes the hub.
    watch: Running,
    /// Where the hub listens.
    port: u16,
}

impl Terminal {
    /// Resolves when both devices have a session.
    async fn with_two_devices() -> Self {
        let [home, wrapper] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let (hub, starts_hub) = (binary("hearthkey"), wrapper.path().join("hub"));
        let script = format!("#!/bin/sh\necho $$ > \"$0.pid\"\nexec {:?} \"$@\"\n", hub.as_std().get_program());
        std::fs::write(&starts_hub, script).expect("ours");
        std::fs::set_permissions(&starts_hub, std::fs::Permissions::from_mode(0o700)).expect("ours");

        let mut command = binary("hearthkey-sim");
        command.args(["fleet", "--devices", "2", "--with-hub", "--interval", "100ms", "--seed", "17", "-o", "json"]);
        command.arg("--hub-binary").arg(&starts_hub).env("TMPDIR", home.path()).process_group(0);
        let simulator = Running::start(command);
        let data = until("word of where the hub is", async || {
            simulator.err().lines().find_map(|line| Some(PathBuf::from(line.split_once("--data ")?.1)))
        });
        let data = data.await;
        let mut command = binary("hearthkey");
        command.args(["watch", "dev/+/status", "-o", "json", "--data"]).arg(&data);
        let mut watch = Running::start(command);
        everyone_is(&mut watch, "online").await;
        Self { port: https_port(&data), home, wrapper, simulator, watch }
    }

    /// Ctrl-C goes to everyone at the terminal.
    fn ctrl_c(&self) {
        let group = self.simulator.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("it runs");
        kill_process_group(group, Signal::INT).expect("ours");
    }

    /// Stops the hub as Ctrl-Z does: it says nothing any more.
    fn freeze_hub(&self) {
        let said = std::fs::read_to_string(self.wrapper.path().join("hub.pid")).expect("written before the hub started");
        let hub = said.trim().parse().ok().and_then(Pid::from_raw).expect("a process");
        kill_process(hub, Signal::STOP).expect("ours");
    }

    async fn hub_is_gone(&self) {
        within("the end of the hub", async {
            // Refused once nobody listens. The end of a connection that was still let in says when to look again.
            while let Ok(mut hub) = TcpStream::connect(("127.0.0.1", self.port)).await {
                let _ = hub.read_u8().await;
            }
        })
        .await;
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        self.home.path().read_dir().expect("ours").map(|entry| entry.expect("readable").path()).collect()
    }
}

async fn everyone_is(watch: &mut Running, status: &str) {
    let mut missing = BTreeSet::from(["dev/sim-1/status", "dev/sim-2/status"]);
    watch
        .json("the status of both devices", |message| {
            missing.retain(|topic| message["topic"] != *topic || message["payload"] != status);
            missing.is_empty().then_some(())
        })
        .await;
}

fn https_port(data: &Path) -> u16 {
    let context = std::fs::read_to_string(data.join("contexts/local.toml")).expect("the owner's context");
    let (_, port) = context.split_once("https://localhost:").expect("an address");
    port.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a port")
}

#[tokio::test]
async fn after_ctrl_c_the_devices_leave_first_and_their_hub_after_them() {
    let mut terminal = Terminal::with_two_devices().await;
    terminal.ctrl_c();
    assert_eq!(terminal.simulator.ended().await, 0, "{}", terminal.simulator.err());
    let summary: serde_json::Value = serde_json::from_str(&terminal.simulator.out()).expect("one document");
    assert_eq!((&summary["reached"], &summary["disconnected_by_reason"]), (&2.into(), &serde_json::json!({})), "{summary}");
    // What repeats it, and how long it took.
    assert_eq!(summary["seed"], 17, "{summary}");
    assert!(summary["took_s"].as_f64() > Some(0.0) && summary["enrol"]["p50_ms"].is_f64(), "{summary}");
    // There are two, and what every fleet costs however small it is. The system counts roughly, and may have swapped it all out.
    let resident = summary["resident_bytes_per_device"].as_u64().unwrap();
    assert!(resident < 10_000_000, "{summary}");
    assert!(summary["command"]["p50_ms"].is_null(), "nobody commanded: {summary}");
    terminal.hub_is_gone().await;
    assert_eq!(terminal.leftovers(), Vec::<PathBuf>::new());
    // Each said goodbye to a hub that still served.
    everyone_is(&mut terminal.watch, "offline").await;
}

#[tokio::test]
async fn ctrl_c_again_ends_devices_and_hub_at_once_and_leaves_nothing_behind() {
    let mut terminal = Terminal::with_two_devices().await;
    // After a first Ctrl-C the simulator waits for it.
    terminal.freeze_hub();
    let mut again = tokio::time::interval(Duration::from_millis(100));
    let exit = loop {
        tokio::select! {
            exit = terminal.simulator.ended() => break exit,
            _ = again.tick() => {}
        }
        terminal.ctrl_c();
    };
    assert_eq!(exit, 130, "{}", terminal.simulator.err());
    assert_eq!(terminal.simulator.out(), "");
    terminal.hub_is_gone().await;
    assert_eq!(terminal.leftovers(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn no_hub_outlives_a_simulator_that_was_killed() {
    let mut terminal = Terminal::with_two_devices().await;
    terminal.simulator.signal(Signal::KILL);
    assert_eq!(terminal.simulator.ended().await, 128 + 9);
    terminal.hub_is_gone().await;
}
