//! What was acknowledged outlives `kill -9`, and devices come back by themselves.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::PermissionsExt;

use hearthkey_sim::SimEventKind;
use hearthkey_tests::agent::Agent;
use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::{Keyed, oauth_error};
use hearthkey_tests::mosquitto::{Mosquitto, shown};
use hearthkey_tests::patience::until;
use hearthkey_tests::power_cut::skip_even_in_ci;
use hearthkey_tests::process::{Running, binary, run};
use hearthkey_tests::wire::{Connect, Wire};

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill_at_that_very_moment() {
    let mut hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let token = lamp.token(&hub).await;
    let used = lamp.assertion(&hub);
    assert_eq!(Keyed::request_token(&hub, &used).await.status(), 200);
    let keeper = Mosquitto::owner(&hub, "keeper");
    keeper.subscribe(&["-E", "-c", "-x", "3600", "-q", "1", "-t", "dev/+/tele/#"]).ended().await;
    let publisher = Mosquitto::new(&hub, "lamp", &token);

    // Each is acknowledged, and in the next moment the hub is dead.
    publisher.publishes("dev/lamp/state", "retained", &["-r", "-q", "1"]).await;
    hub.kill().await;
    hub.start_again().await;
    publisher.publishes("dev/lamp/tele/n", "queued", &["-q", "1"]).await;
    hub.kill().await;
    hub.start_again().await;
    let enrolment_string = hub.add("oven", "switch").await;
    hub.kill().await;
    hub.start_again().await;
    let command = hub.told(&["send", "lamp", "identify", "--ttl", "1h", "--wait", "0s"]).await;
    hub.kill().await;
    hub.start_again().await;
    hub.apply_profile("name = \"mine\"\n[permissions.telemetry]\npublish = [\"dev/${device}/tele/+\"]\n").await;
    hub.kill().await;
    hub.start_again().await;
    Keyed::enrolled(&hub, "late", "mine").await;
    hub.kill().await;
    hub.start_again().await;
    hub.told(&["device", "disable", "late"]).await;
    hub.kill().await;
    hub.start_again().await;

    let mut later = Mosquitto::owner(&hub, "later").subscribed(&["-q", "1", "-t", "dev/lamp/state"]).await;
    let retained = later.line("the retained message", shown).await;
    assert_eq!((retained.payload.as_str(), retained.retain), ("retained", true));
    let mut kept = keeper.subscribe(&["-c", "-x", "3600", "-q", "1", "-t", "dev/+/tele/#"]);
    assert_eq!(kept.line("the queued message", shown).await.payload, "queued");
    assert_eq!(hub.device("oven").await["status"], "pending");
    assert_eq!(Keyed::new("oven").register(&hub, &enrolment_string).await.status(), 201, "the code still works");
    assert_eq!(hub.device("late").await["status"], "disabled");
    assert!(hub.ran(&["profile", "show", "mine"]).await.out.contains("dev/${device}/tele/+"));
    let (_, error) = oauth_error(Keyed::request_token(&hub, &used).await).await;
    assert_eq!(error, "invalid_client", "an assertion that was used stays used");
    assert_eq!(Wire::tls(&hub).await.connect(&Connect::by_password("lamp", &token)).await.connack_code(), 0, "tokens go on");

    // The command waits for its device, and reaches it when it comes.
    let mut device = Mosquitto::new(&hub, "lamp", &token).subscribed(&["-q", "1", "-t", "dev/lamp/cmd/+"]).await;
    let seen = device.line("the command", shown).await;
    assert_eq!((seen.topic.as_str(), seen.retain), ("dev/lamp/cmd/identify", false));
    let body: serde_json::Value = serde_json::from_str(&seen.payload).expect("JSON");
    assert_eq!((&body["id"], &body["seq"]), (&command["id"], &command["seq"]));

    // A revocation is final from the moment on in which it was acknowledged.
    hub.told(&["device", "revoke", "lamp"]).await;
    hub.kill().await;
    hub.start_again().await;
    assert_eq!(hub.device("lamp").await["status"], "revoked");
    assert_eq!(Wire::tls(&hub).await.connect(&Connect::by_password("lamp", &token)).await.connack_code(), 0x87);
    hub.finish().await;
}

#[tokio::test]
async fn an_agent_comes_back_by_itself_and_loses_nothing_that_was_acknowledged() {
    let mut hub = Hub::start().await;
    let enrolment_string = hub.add("lamp", "thermostat").await;
    let storage = hub.storage_of("lamp");
    let mut lamp = Agent::stored(storage, Some(&enrolment_string));
    lamp.connected().await;
    // Each publish of the test is told apart by its payload; a kept session of the owner gets them all.
    let keeper = Mosquitto::owner(&hub, "keeper");
    let arguments = ["-c", "-x", "3600", "-q", "1", "-t", "dev/lamp/tele/n"];
    let mut kept = keeper.subscribed(&arguments).await;
    let mut number = 0;
    for ending in ["kill", "restart", "kill"] {
        for _ in 0..5 {
            number += 1;
            lamp.publish("dev/lamp/tele/n", &number.to_string()).await.expect("allowed");
        }
        // The owner's client shows all of them before it goes: it acknowledges first and prints then, so that one killed in
        // between has had what nobody ever sees.
        kept.line("the last of them", |line| (shown(line)?.payload == number.to_string()).then_some(())).await;
        // It goes before the hub does: its session keeps what comes. By force, since its handler of SIGTERM waits for itself
        // when it comes in the middle of a PUBACK.
        kept.signal(rustix::process::Signal::KILL);
        kept.ended().await;
        number += 1;
        lamp.publish("dev/lamp/tele/n", &number.to_string()).await.expect("allowed");
        let mut acknowledged = HashSet::from([number.to_string()]);
        match ending {
            "kill" => {
                hub.kill().await;
                lamp.disconnected().await;
                hub.start_again().await;
            }
            _ => hub.restart().await,
        }
        lamp.connected().await;
        // What was under way when the hub died is sent again and answered.
        number += 1;
        lamp.publish("dev/lamp/tele/n", &number.to_string()).await.expect("allowed");
        acknowledged.insert(number.to_string());
        kept = keeper.subscribe(&arguments);
        while !acknowledged.is_empty() {
            let message = kept.line("what was acknowledged", shown).await;
            acknowledged.remove(&message.payload);
        }
    }
    let identity_before = std::fs::metadata(hub.beside().join("lamp/identity")).and_then(|file| file.modified()).expect("stored");
    assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
    let summary = lamp.leave().await;
    assert_eq!((summary.enrolled, summary.refused), (1, 0), "{summary:?}");

    // Its identity is all that it needs to come back.
    let mut again = Agent::stored(hub.storage_of("lamp"), None);
    again.connected().await;
    again.telemetry().await;
    again.leave().await;
    let identity_after = std::fs::metadata(hub.beside().join("lamp/identity")).and_then(|file| file.modified()).expect("stored");
    assert_eq!(identity_before, identity_after, "connecting writes nothing to flash");
    hub.finish().await;
}

#[tokio::test]
async fn after_a_backup_was_restored_a_device_obeys_again() {
    let mut hub = Hub::start().await;
    let mut lamp = hub.agent("lamp", "thermostat").await;
    lamp.connected().await;
    // The hub backs itself up at each start, in its own time.
    hub.restart().await;
    lamp.connected().await;
    let backups = hub.data().join("backups");
    let with_the_lamp = |path: &std::path::Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        path.extension().is_some_and(|extension| extension == "backup") && bytes.windows(6).any(|six| six == b"\"lamp\"")
    };
    let backup = until("a backup", async || {
        let mut files = std::fs::read_dir(&backups).ok()?.flatten().map(|entry| entry.path());
        files.find(|path| with_the_lamp(path))
    });
    let backup = backup.await;
    for _ in 0..3 {
        assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
    }
    let file = backup.to_str().expect("UTF-8");
    let refused = hub.ran(&["restore", file]).await;
    assert!(refused.exit == 1 && refused.err.contains("stop that one first"), "{refused:?}");
    hub.stop().await;
    let restored = hub.ran(&["restore", file]).await;
    assert!(restored.exit == 0 && restored.out.contains("what was there is in"), "{restored:?}");
    hub.start_again().await;
    lamp.connected().await;
    assert_eq!(hub.told(&["send", "lamp", "identify", "--wait", "30s"]).await["state"], "succeeded");
    lamp.leave().await;
    let mut nowhere = binary("hearthkey");
    nowhere.args(["restore", file, "--data", "/nowhere"]);
    let nowhere = run(nowhere, "").await;
    assert!(nowhere.exit == 1 && nowhere.err.contains("/nowhere is no data directory"), "{nowhere:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_backup_of_a_running_and_of_a_stopped_hub_brings_back_the_devices_of_its_time() {
    let mut hub = Hub::start().await;
    hub.add_with_secret("lamp", "switch").await;
    let path = |name: &str| hub.beside().join(name).to_str().expect("UTF-8").to_owned();
    let (running, stopped, taken) = (path("running"), path("stopped"), path("taken"));
    let mode = |file: &str| std::fs::metadata(file).expect("there").permissions().mode() & 0o777;
    let written = hub.told(&["backup", &running]).await;
    assert!(written["rows"].as_u64() > Some(0) && written["written_by"] == "hub", "{written}");
    assert_eq!((written["backup"].as_str(), mode(&running)), (Some(running.as_str()), 0o600));
    hub.audited("the backup", |entry| entry["action"] == "backup.write" && entry["actor"] == "user owner").await;
    // What is there already stays as it is.
    std::fs::write(&taken, "a photograph").expect("written");
    let refused = hub.ran(&["backup", &taken]).await;
    assert!(refused.exit == 1 && refused.err.contains("--force"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&taken).expect("there"), "a photograph");
    hub.add_with_secret("oven", "switch").await;
    hub.stop().await;
    let offline = hub.told(&["backup", &stopped]).await;
    assert!(offline["written_by"] == "command" && mode(&stopped) == 0o600, "{offline}");
    let forced = hub.ran(&["backup", "--force", &taken]).await;
    assert!(forced.exit == 0 && forced.out.contains("hearthkey restore"), "{forced:?}");
    assert_eq!((std::fs::read(&taken).expect("there"), mode(&taken)), (std::fs::read(&stopped).expect("there"), 0o600));
    for (file, devices) in [(&running, vec!["lamp"]), (&stopped, vec!["lamp", "oven"])] {
        assert_eq!(hub.ran(&["restore", file]).await.exit, 0);
        hub.start_again().await;
        let listed = hub.told(&["device", "list"]).await;
        let ids: Vec<_> = listed["items"].as_array().expect("a list").iter().map(|device| &device["id"]).collect();
        assert_eq!(ids, devices);
        hub.stop().await;
    }
    hub.start_again().await;
    hub.finish().await;
}

#[tokio::test]
async fn a_command_reaches_a_device_that_was_away_once_and_not_after_its_time() {
    let mut hub = Hub::start().await;
    let enrolment_string = hub.add("lamp", "thermostat").await;
    let mut lamp = Agent::stored(hub.storage_of("lamp"), Some(&enrolment_string));
    lamp.connected().await;
    // Its session is kept: the command waits in it, whatever becomes of the hub.
    lamp.leave().await;
    let away = hub.ran(&["send", "lamp", "set-setpoint", r#"{"celsius":25}"#, "--ttl", "1h", "--wait", "1s"]).await;
    assert!(away.exit == 4 && away.err.contains("lamp is not connected"), "{away:?}");
    let late = hub.told(&["send", "lamp", "identify", "--ttl", "1s", "--wait", "0s"]).await;
    hub.kill().await;
    hub.start_again().await;
    let state_of = async |hub: &Hub, id: &serde_json::Value| {
        let path = format!("/api/v1/devices/lamp/commands/{}", id.as_str().expect("an id"));
        let request = hub.http().get(hub.url(&path)).bearer_auth(hub.owner_token());
        request.send().await.expect("an answer").json::<serde_json::Value>().await.expect("JSON")["state"].clone()
    };
    until("the end of what nobody took", async || (state_of(&hub, &late["id"]).await == "expired").then_some(())).await;
    let mut lamp = Agent::stored(hub.storage_of("lamp"), None);
    let done = lamp.event("a command", |event| match event {
        SimEventKind::Command { name, rejected, .. } => Some((name.clone(), rejected.clone())),
        _ => None,
    });
    assert_eq!(done.await, (Some("set-setpoint".to_owned()), None));
    lamp.telemetry().await;
    let summary = lamp.leave().await;
    assert_eq!((summary.commands_succeeded, summary.commands_rejected), (1, 0), "{summary:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_command_that_was_sent_before_the_first_connection_is_not_lost() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let early = hub.told(&["send", "lamp", "identify", "--wait", "0s"]).await;
    assert_eq!(early["state"], "sent");
    let token = lamp.token(&hub).await;
    let mut device = Mosquitto::new(&hub, "lamp", &token).subscribed(&["-q", "1", "-t", "dev/lamp/cmd/+"]).await;
    let seen = device.line("the command", shown).await;
    assert!(seen.payload.contains(early["id"].as_str().expect("an id")), "{seen:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_hub_that_stops_says_so() {
    let mut hub = Hub::start().await;
    let mut lamp = hub.agent("lamp", "thermostat").await;
    lamp.connected().await;
    hub.stop().await;
    let reason = lamp.disconnected().await;
    assert!(reason.starts_with("hub stopping"), "{reason}");
    hub.start_again().await;
    lamp.connected().await;
    assert!(lamp.seen().iter().any(|event| matches!(event.kind, SimEventKind::Disconnected { .. })));
    lamp.leave().await;
    hub.finish().await;
}

#[tokio::test]
async fn after_a_kill_of_the_hub_who_stays_away_is_announced_dead_and_who_comes_back_is_not() {
    // On a machine so slow that nobody is back in time, once more with more time.
    for grace_s in [5, 20, 50] {
        if told_apart(grace_s).await {
            return;
        }
    }
    panic!("the oven was never back in time");
}

/// Whether the oven was back before the hub lost its patience with the lamp, and so with the oven.
async fn told_apart(grace_s: u32) -> bool {
    let mut hub = Hub::start_with(&format!("[limits]\nwill_grace_s = {grace_s}\n")).await;
    let [lamp, oven] = ["lamp", "oven"].map(async |id| {
        let token = Keyed::enrolled(&hub, id, "thermostat").await.token(&hub).await;
        let program = Mosquitto::new(&hub, id, &token);
        program.publishes(&format!("dev/{id}/status"), "online", &["-r", "-q", "1"]).await;
        program
    });
    let (lamp, oven) = (lamp.await, oven.await);
    let will = ["--will-payload", "offline", "--will-retain", "--will-qos", "1", "-q", "1"];
    let of_the_lamp = [&will[..], &["--will-topic", "dev/lamp/status", "-t", "dev/lamp/twin/desired"]].concat();
    let of_the_oven = [&will[..], &["--will-topic", "dev/oven/status", "-t", "dev/oven/twin/desired"]].concat();
    let programs = [lamp.subscribed(&of_the_lamp).await, oven.subscribed(&of_the_oven).await];
    hub.kill().await;
    for mut program in programs {
        program.signal(rustix::process::Signal::KILL);
        program.ended().await;
    }
    hub.start_again().await;
    let arguments = ["-q", "1", "-t", "dev/+/status", "-t", "dev/marker"];
    let mut observer = Mosquitto::owner(&hub, "observer").subscribed(&arguments).await;
    // What is published before this is seen before this.
    let until_marker = async |observer: &mut Running, seen: &mut BTreeSet<String>| {
        Mosquitto::owner(&hub, "owner").publishes("dev/marker", "now", &["-q", "1"]).await;
        loop {
            let message = observer.line("the marker", shown).await;
            if message.topic == "dev/marker" {
                return;
            }
            seen.insert(format!("{} {}", message.topic, message.payload));
        }
    };
    let _back = oven.subscribed(&of_the_oven).await;
    let mut seen = BTreeSet::new();
    until_marker(&mut observer, &mut seen).await;
    let is_in_time = seen.iter().all(|status| status.ends_with("online"));
    if is_in_time {
        let dead = observer.line("the will of the lamp", |line| shown(line).filter(|message| message.payload == "offline")).await;
        assert_eq!(dead.topic, "dev/lamp/status");
        until_marker(&mut observer, &mut seen).await;
        assert_eq!(seen.iter().collect::<Vec<_>>(), ["dev/lamp/status online", "dev/oven/status online"]);
    }
    hub.finish().await;
    is_in_time
}

#[tokio::test]
async fn a_full_disk_keeps_nobodys_rights_alive() {
    let mut hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    hub.stop().await;
    let Some(disk) = SmallDisk::under(&hub.data()) else {
        return skip_even_in_ci("a_full_disk_keeps_nobodys_rights_alive", "this user may not mount");
    };
    hub.start_again().await;
    let mut session = Wire::tls(&hub).await;
    assert_eq!(session.connect(&Connect::by_password("lamp", &token)).await.connack_code(), 0);
    // Somebody else fills it to the last byte.
    let filler = disk.0.join("filler");
    let full = std::fs::write(&filler, vec![1; 200 << 20]).expect_err("the disk is smaller");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    let refused = hub.ran(&["device", "add", "oven", "--profile", "switch"]).await;
    assert!(refused.exit != 0 && refused.err.contains("cannot write to its store"), "{refused:?}");
    hub.told(&["device", "revoke", "lamp"]).await;
    assert_eq!(session.receive().await.expect("a reason").disconnect_code(), 0x98);
    assert_eq!(Wire::tls(&hub).await.connect(&Connect::by_password("lamp", &token)).await.connack_code(), 0x87);

    std::fs::remove_file(&filler).expect("removed");
    hub.add("oven", "switch").await;
    assert!(hub.data().join("store.reserve").is_file(), "the reserve is set aside again");
    hub.kill().await;
    hub.start_again().await;
    assert_eq!(hub.device("lamp").await["status"], "revoked");
    hub.finish().await;
}

/// A file system of 100 MB in memory, over a data directory.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None` for who may not mount.
    fn under(data: &std::path::Path) -> Option<Self> {
        use std::process::Command;
        let before = data.with_extension("before");
        std::fs::rename(data, &before).expect("renamed");
        std::fs::create_dir(data).expect("created");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=100m,mode=700", "tmpfs"]).arg(data).output();
        let disk = mounted.ok().filter(|output| output.status.success()).map(|_| Self(data.to_owned()))?;
        let copied = Command::new("cp").arg("-a").arg(before.join(".")).arg(data).status();
        assert!(copied.expect("cp runs").success());
        Some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}
