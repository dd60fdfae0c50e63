//! The README's lines, as they stand there.

use std::time::Duration;

use hearthkey_sim::{Fleet, LocalHub};
use hearthkey_tests::process::binary;

#[tokio::test]
async fn the_readmes_three_lines_are_a_fleet_that_a_hub_serves() -> Result<(), Box<dyn std::error::Error>> {
    // Panics if the hub's program is older than its source.
    binary("hearthkey");
    // README
    let hub = LocalHub::start().await?;
    let fleet = Fleet::builder().devices(20).owner(hub.owner()).start().await?;
    fleet.everyone_online(Duration::from_secs(60)).await?;
    // end
    let summary = fleet.stop().await;
    assert_eq!((summary.enrolled, summary.reached, summary.refused), (20, 20, 0), "{summary:?}");

    let (_, from) = include_str!("readme.rs").split_once("// README\n").expect("a mark");
    let (lines, _) = from.split_once("    // end").expect("a mark");
    let lines: String = lines.lines().map(|line| format!("{}\n", line.trim())).collect();
    assert!(include_str!("../../../README.md").contains(&lines), "the README should show\n{lines}");
    Ok(())
}

#[tokio::test]
async fn a_fleet_that_cannot_come_online_says_why() {
    binary("hearthkey");
    let mut hub = LocalHub::start().await.expect("a hub");
    let fleet = Fleet::builder().devices(2).owner(hub.owner()).start().await.expect("a fleet");
    fleet.everyone_online(Duration::from_secs(60)).await.expect("a hub that serves it");
    hub.owner().revoke_device("sim-2").await.expect("revoked");
    assert!(fleet.wait_until(Duration::from_secs(60), |devices| devices[1].stopped).await);
    let not_online = fleet.everyone_online(Duration::ZERO).await.expect_err("one is revoked");
    let said = not_online.to_string();
    assert!(said.starts_with("1 of 2 devices are online; 1 x ") && said.contains("revoked"), "{said}");
    // What has lost its power comes back by itself, with its old identity.
    fleet.device(0).unwrap().cut_power();
    assert!(fleet.wait_until(Duration::from_secs(60), |devices| !devices[0].online).await);
    fleet.device(0).unwrap().restore_power();
    assert!(fleet.wait_until(Duration::from_secs(60), |devices| devices[0].online && devices[0].sessions >= 2).await);
    let end = fleet.command(&hub.owner(), 0, "identify", None).await.expect("an answer");
    assert_eq!(end.state, "succeeded");
    assert_eq!(fleet.summary().command.count, 1);
    hub.stop().await.expect("a clean end");
    assert!(fleet.wait_until(Duration::from_secs(60), |devices| !devices[0].online).await);
    hub.start_again().await.expect("the same hub");
    assert!(fleet.wait_until(Duration::from_secs(60), |devices| devices[0].online).await);
    let string = hub.owner().rotate_device("sim-1").await.expect("a new string");
    fleet.device(0).unwrap().enrol_anew(string);
    assert!(fleet.wait_until(Duration::from_secs(60), |devices| devices[0].sessions == 4).await);
    let summary = fleet.stop().await;
    assert_eq!(summary.enrolled, 3, "{summary:?}");
}
