//! The life of a device on bare metal, told as that of one on a host.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::patience::until;
use hearthkey_tests::process::Running;
use serde_json::json;

use crate::emulated::Board;

/// A thermostat whose tokens live as short as the hub allows.
pub(crate) const HASTY: &str = r#"
name = "hasty"
description = "A thermostat whose tokens live ten seconds"
token_lifetime_s = 10
[permissions.commands]
publish = ["dev/${device}/ack/+"]
subscribe = ["dev/${device}/cmd/+"]
commands = ["set-setpoint", "set-mode", "identify"]
[permissions.telemetry]
publish = ["dev/${device}/status", "dev/${device}/about", "dev/${device}/state", "dev/${device}/tele/+"]
[permissions.twin]
subscribe = ["dev/${device}/twin/desired"]
publish = ["dev/${device}/twin/reported"]
"#;

async fn sees_telemetry(watch: &mut Running) {
    let temperature = watch.json("telemetry", |message| {
        let payload: serde_json::Value = serde_json::from_str(message["payload"].as_str()?).ok()?;
        (message["topic"] == "dev/board/tele/temperature").then(|| payload["celsius"].as_f64())?
    });
    let celsius = temperature.await;
    assert!((-30.0..60.0).contains(&celsius), "{celsius}");
}

#[tokio::test]
async fn a_board_enrols_reports_obeys_becomes_what_is_desired_renews_and_comes_back_after_its_hub_after_a_panic_and_after_a_fault()
 {
    let mut hub = Hub::start().await;
    hub.apply_profile(HASTY).await;
    let string = hub.add("board", "hasty").await;
    let mut board = Board::start(&string, &[]).await;
    board.said("enrolled as board").await;
    board.said("connected for 10 s").await;

    // What it publishes, its owner sees; what its owner says, it does.
    let mut watch = hub.follow(&["watch", "dev/board/#"]);
    sees_telemetry(&mut watch).await;
    let mut watch_about = hub.follow(&["watch", "dev/board/about"]);
    let about = watch_about.json("what it says of itself", |message| {
        let about: serde_json::Value = serde_json::from_str(message["payload"].as_str()?).ok()?;
        Some(about["agent"].clone())
    });
    assert_eq!(about.await, json!({"state": "online", "connections": 1, "failures": 0}));
    drop(watch_about);
    let command = hub.told(&["send", "board", "set-setpoint", r#"{"celsius":23.5}"#, "--wait", "30s"]).await;
    assert_eq!(command["state"], "succeeded", "{command}");
    let state = watch.json("the new setpoint", |message| {
        (message["topic"] == "dev/board/state" && message["payload"].as_str()?.contains("23.50")).then_some(())
    });
    state.await;
    let rejected = hub.ran(&["send", "board", "set-setpoint", r#"{"celsius":900}"#, "-o", "json"]).await;
    assert_eq!((rejected.exit, &rejected.json()["state"]), (1, &"rejected".into()), "{rejected:?}");

    // It becomes what its owner desires, and says so.
    hub.told(&["twin", "set", "board", "setpoint=19.5", "mode=off"]).await;
    board.said("desired: version 1").await;
    let twin = until("what is desired is obeyed", async || {
        let twin = hub.told(&["twin", "show", "board"]).await;
        (twin["settled"] == true).then_some(twin)
    });
    assert_eq!(twin.await["reported"]["body"], json!({"setpoint": 19.5, "mode": "off"}));

    // Its token is renewed in place, and nothing is written for that.
    let writes = board.shown().matches("stored ").count();
    for _ in 0..2 {
        board.said("renewed for 10 s").await;
    }
    assert_eq!(board.shown().matches("stored ").count(), writes, "{}", board.shown());
    assert!(!board.shown().contains("disconnected"), "{}", board.shown());

    // Its hub goes and comes back.
    drop(watch);
    hub.restart().await;
    board.said("disconnected").await;
    board.said("connected for").await;
    sees_telemetry(&mut hub.follow(&["watch", "dev/board/#"])).await;

    // A panic: its reason is shown, the board starts again and is still the same device.
    board.type_in("p").await;
    board.said("panicked at").await;
    board.said("hearthkey-board 0.1.0, start 2").await;
    board.said("the former life ended in a panic: panicked at").await;
    board.said("enrolled as board").await;
    board.said("connected for 10 s").await;
    sees_telemetry(&mut hub.follow(&["watch", "dev/board/#"])).await;

    // A fault ends in the same way.
    board.type_in("f").await;
    board.said("a fault at 0x").await;
    board.said("hearthkey-board 0.1.0, start 3").await;
    board.said("the former life ended in a panic: panicked at").await;
    board.said("a fault at 0x").await;
    board.said("connected for 10 s").await;

    // Revoked, it stops and says so. It has no identity any more, and enrols anew: not with a string that is used up.
    assert_eq!(hub.told(&["device", "revoke", "board"]).await["status"], "revoked");
    board.said("revoked: ").await;
    board.type_in("p").await;
    let failed = board.said("enrolment failed: ").await;
    assert!(failed.contains("create a new string"), "{failed}");
    hub.assert_shows_no_secret("the board", &board.shown());
    hub.finish().await;
}

#[tokio::test]
async fn a_board_without_entropy_does_not_start() {
    let mut board = Board::start("", &["--no-entropy"]).await;
    board.said("no entropy was provided").await;
    assert!(!board.shown().contains("network"), "{}", board.shown());
}

#[tokio::test]
async fn a_board_without_an_enrolment_string_says_what_it_needs() {
    let mut board = Board::start("", &[]).await;
    let needs = board.said("not enrolled").await;
    assert!(needs.contains("hearthkey device add"), "{needs}");
}

#[tokio::test]
async fn a_hub_that_is_given_by_name_is_refused_with_what_to_do() {
    // The golden vector whose host is `h`.
    let vectors = include_str!("../../vectors/enrolment.txt").lines().filter_map(|line| line.strip_suffix(" 1 65535 h"));
    let string = vectors.filter_map(|line| line.split(' ').next()).next().expect("the vector");
    let mut board = Board::start(string, &[]).await;
    let told = board.said("the hub's address is the name h, and this board has no resolver: ").await;
    assert!(told.contains("`names` in the hub's configuration") && told.contains("IP address"), "{told}");
    board.said("enrolment failed: no connection to the hub: HostNotFound").await;
}
