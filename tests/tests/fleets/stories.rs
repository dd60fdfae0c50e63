//! Every shipped story, smaller (`year` is in `virtual_time`), and stories that must fail.

use std::future::pending;

use hearthkey_sim::LocalHub;
use hearthkey_sim::scenario::{Outcome, Scenario, Stage, play};
use hearthkey_tests::patience::PATIENCE;
use hearthkey_tests::process::{binary, run};
use serde_json::json;

/// Devices of a story in a test, at most.
const DEVICES: usize = 12;

async fn played(scenario: &Scenario) -> Outcome {
    binary("hearthkey");
    let hub = LocalHub::start().await.expect("a hub");
    let owner = hub.owner();
    let (prefix, profile) = ("sim".to_owned(), "thermostat".to_owned());
    let mut stage = Stage { owner, hub: Some(hub), prefix, profile, threads: Some(1) };
    let outcome = play(scenario, &mut stage, pending(), |_, _| {}).await.expect("a hub that can be played with");
    stage.hub.unwrap().stop().await.expect("a clean end");
    outcome
}

fn shipped(name: &str) -> Scenario {
    let mut scenario = Scenario::shipped(name).expect("a story");
    scenario.devices = scenario.devices.min(DEVICES);
    // What a home's owner may expect is no measure for a machine that runs other tests beside.
    scenario.expect.revoked_within = scenario.expect.revoked_within.map(|_| PATIENCE);
    scenario
}

async fn comes_as_expected(name: &str) {
    let outcome = played(&shipped(name)).await;
    assert!(outcome.is_as_expected(), "{:#?}\n{:#?}", outcome.verdicts, outcome.summary);
}

#[tokio::test]
async fn everyone_wakes_in_the_morning() {
    comes_as_expected("morning").await;
}

#[tokio::test]
async fn everyone_comes_back_after_a_power_cut() {
    comes_as_expected("power-cut").await;
}

#[tokio::test]
async fn every_device_can_make_a_new_key() {
    comes_as_expected("rotation").await;
}

#[tokio::test]
async fn one_device_that_is_lost_is_cut_and_nobody_else_notices() {
    comes_as_expected("revoke-one").await;
}

#[tokio::test]
async fn half_a_home_that_is_revoked_is_cut_and_the_other_half_goes_on() {
    comes_as_expected("revoke-half").await;
}

#[tokio::test]
async fn no_clock_however_wrong_locks_a_device_out() {
    comes_as_expected("clock-skew").await;
}

#[tokio::test]
async fn a_bad_network_loses_nothing_that_was_acknowledged() {
    comes_as_expected("lossy-wifi").await;
}

#[tokio::test]
async fn no_attack_succeeds_and_the_home_goes_on() {
    comes_as_expected("hostile").await;
}

/// The smaller version of docs/fleet.md's measurement.
#[tokio::test]
async fn a_hundred_devices_survive_restarts_of_their_hub_and_no_acknowledged_reading_is_lost() {
    let scenario = Scenario { devices: 100, ..Scenario::shipped("hub-restart").expect("a story") };
    let outcome = played(&scenario).await;
    assert!(outcome.is_as_expected(), "{:#?}\n{:#?}", outcome.verdicts, outcome.summary);
    assert_eq!(outcome.summary.enrolled, 100);
}

#[tokio::test]
async fn a_story_that_does_not_come_as_expected_says_what_was_missed() {
    let text = "name = \"too-fast\"\nstory = \"Nothing is acknowledged in a nanosecond, and no lamp knows how to dance.\"\n\
                devices = 2\ninterval = \"100ms\"\nduration = \"1s\"\n[network]\nfault_every = \"24h\"\nfaults = [\"reset\"]\n\
                [expect]\npublish_p50 = \"1ns\"\nnothing_refused = true\n";
    let outcome = played(&Scenario::parse("too-fast.toml", text).expect("a story")).await;
    assert!(!outcome.is_as_expected());
    let missed: Vec<_> = outcome.verdicts.iter().filter(|verdict| !verdict.met).collect();
    assert_eq!(missed.len(), 2, "{missed:?}");
    assert_eq!(missed[0].expected, "every fault of the network occurs");
    assert!(missed[0].found.starts_with("reset 0; give it a longer duration"), "{missed:?}");
    assert!(missed[1].expected.starts_with("half publishes"), "{missed:?}");
}

#[tokio::test]
async fn the_program_plays_a_story_writes_its_report_and_fails_when_it_is_not_as_expected() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (story, report) = (home.path().join("my.toml"), home.path().join("report.html"));
    let text = "name = \"mine\"\nstory = \"Two devices report.\"\ndevices = 2\ninterval = \"200ms\"\nduration = \"2s\"\n\
                [network]\ndelay = \"1ms..2ms\"\n[expect]\nonline_within = \"60s\"\nno_reading_lost = true\n";
    let program = |with: &str| {
        std::fs::write(&story, format!("{text}{with}")).expect("written");
        let mut command = binary("hearthkey-sim");
        command.args(["fleet", "-o", "json", "--scenario"]).arg(&story).arg("--report").arg(&report);
        command
    };
    let good = run(program(""), "").await;
    assert_eq!(good.exit, 0, "{good:?}");
    let outcome = good.json();
    assert_eq!((&outcome["summary"]["enrolled"], &outcome["delivery"]["lost"]), (&2.into(), &0.into()), "{outcome}");
    assert!(outcome["network"]["delayed_segments"].as_u64() > Some(0), "{outcome}");
    // Nobody measured that.
    assert_eq!(outcome["summary"]["renew"], json!({ "count": 0, "p50_ms": null, "p99_ms": null, "max_ms": null }));
    let html = std::fs::read_to_string(&report).expect("a report");
    for shown in ["<svg", "<td>segments delayed</td>", "<td>renew</td><td class=\"number\">0</td><td class=\"number\">-</td>"] {
        assert!(html.contains(shown), "{shown}: {html}");
    }
    let bad = run(program("publish_p50 = \"1ns\"\n"), "").await;
    let outcome = bad.json();
    let unmet = outcome["verdicts"].as_array().unwrap().iter().filter(|verdict| verdict["met"] == false).collect::<Vec<_>>();
    assert_eq!((bad.exit, unmet.len()), (1, 1), "{bad:?}");
    assert!(unmet[0]["expected"].as_str().unwrap().starts_with("half publishes"), "{bad:?}");

    let mut check = binary("hearthkey-sim");
    check.args(["scenario", "check"]).arg(&story);
    std::fs::write(&story, "devicez = 2\n").expect("written");
    let refused = run(check, "").await;
    assert!(
        refused.exit == 1 && refused.err.contains("my.toml:1: unknown field `devicez`; did you mean `devices`?"),
        "{refused:?}"
    );
}
