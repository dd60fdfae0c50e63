//! What `hearthkey-sim fleet` says when it cannot do as asked: before anything is added at the hub, and with the way out.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::process::{binary, run};
use tokio::process::Command;

async fn refusal(mut command: Command, arguments: &[&str]) -> String {
    let ran = run(
        {
            command.args(arguments);
            command
        },
        "",
    )
    .await;
    assert!(ran.exit != 0 && ran.out.is_empty(), "{ran:?}");
    ran.err
}

#[tokio::test]
async fn a_fleet_that_cannot_run_is_refused_with_the_way_out_and_leaves_the_hub_as_it_was() {
    let (hub, stranger) = (Hub::start().await, Hub::start().await);
    let path = |path: std::path::PathBuf| path.to_str().expect("UTF-8").to_owned();
    let (data, ca, foreign_ca) = (path(hub.data()), path(hub.ca_file()), path(stranger.ca_file()));
    let (url, token) = (hub.url(""), path(hub.data().join("contexts/local.token")));
    let two_at = |url: &str, ca: &str| {
        ["fleet", "--devices", "2", "--owner-token-file", &token, "--hub", url, "--ca", ca].map(str::to_owned)
    };
    let words = |arguments: &[&str]| arguments.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    for (arguments, says) in [
        (
            two_at(&url, &foreign_ca).to_vec(),
            "invalid peer certificate: UnknownIssuer; a hub keeps its CA certificate in ca/ca.crt",
        ),
        (two_at("https://localhost:1", &ca).to_vec(), "Connection refused (os error 111); is `hearthkey up` running there?"),
        (words(&["fleet", "--devices", "2", "--data", "/nowhere"]), "no hub was started with this data directory"),
        (
            words(&["fleet", "--devices", "2", "--data", &data, "--report", "/nowhere/x"]),
            "no report can be written to /nowhere/x",
        ),
        (words(&["fleet", "--scenario", "hub-restart", "--for", "1s"]), "is after the end, duration = 1s"),
        (words(&["fleet", "--scenario", "morningg"]), "there is no scenario `morningg`; there are morning, "),
        (words(&["fleet", "--scenario", "/nowhere.toml"]), "`hearthkey-sim scenario list` names"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = refusal(binary("hearthkey-sim"), &arguments).await;
        assert!(said.starts_with("hearthkey-sim: ") && said.contains(says), "{arguments:?}: {said}");
    }
    assert_eq!(hub.told(&["device", "list"]).await, serde_json::json!({ "items": [] }), "nobody was added");
}

#[tokio::test]
async fn a_fleet_takes_the_open_files_that_it_needs_and_says_so_if_the_system_allows_fewer() {
    let hub = Hub::start().await;
    let (data, story) = (hub.data(), hub.beside().join("many.toml"));
    let text = "name = \"many\"\nstory = \"Thirty devices come online.\"\ndevices = 30\ninterval = \"1s\"\nduration = \"0s\"\n\
                [expect]\nonline_within = \"60s\"\n";
    std::fs::write(&story, text).expect("written");
    let with_limit = |limit: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\"")]).arg(binary("hearthkey-sim").as_std().get_program());
        shell.args(["fleet", "-o", "json", "--data"]).arg(&data).arg("--scenario").arg(&story);
        shell
    };
    let said = refusal(with_limit("-n 70"), &[]).await;
    assert!(said.contains("need 94 open files, and a program may have 70 here: take fewer --devices"), "{said}");
    let ran = run(with_limit("-S -n 20"), "").await;
    assert_eq!((ran.exit, &ran.json()["summary"]["reached"]), (0, &30.into()), "{ran:?}");
}
