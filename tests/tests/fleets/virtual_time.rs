//! Homes in virtual time, from many seeds; and broken ones, which must be found out.

use hearthkey_sim::scenario::{Chances, Scenario};
use hearthkey_sim::world::{Chronicle, Sabotage, World};

/// Repeats one seed: `HEARTHKEY_SEED=17 cargo test -p hearthkey-tests --test fleets virtual_time`.
const SEED: &str = "HEARTHKEY_SEED";

/// A home in which much happens.
fn troubled(devices: usize, days: u64, seed: u64) -> Scenario {
    let mut scenario = Scenario::shipped("year").expect("a story");
    scenario.chances = Some(Chances {
        power_cuts: 100.0,
        breaks: 400.0,
        hub_restarts: 300.0,
        commands: 500.0,
        rotations: 20.0,
        disablings: 20.0,
        revocations: 20.0,
        attacks: 10_000.0,
    });
    scenario.duration = std::time::Duration::from_secs(days * 86_400);
    (scenario.devices, scenario.seed) = (devices, seed);
    scenario
}

fn lived(scenario: &Scenario) -> Chronicle {
    World::new(scenario).run().unwrap_or_else(|violation| panic!("{violation} ({SEED}={})", scenario.seed))
}

#[test]
fn from_many_seeds_two_troubled_weeks_leave_every_home_as_it_should_be() {
    let seeds = match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..16).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        let chronicle = lived(&troubled(6, 15, seed));
        // Everything that could go wrong was tried.
        for (what, count) in [
            ("sessions", chronicle.sessions),
            ("publishes", chronicle.accepted),
            ("refusals", chronicle.refused),
            ("commands that ended", chronicle.commands_ended),
            ("power cuts", chronicle.power_cuts),
            ("breaks", chronicle.breaks),
            ("restarts", chronicle.hub_restarts),
            ("rotations", chronicle.rotations),
            ("replays", chronicle.replays),
        ] {
            assert!(count > 0, "no {what}: {chronicle:#?}");
        }
    }
}

#[test]
fn a_year_of_a_home_passes() {
    let mut scenario = Scenario::shipped("year").expect("a story");
    scenario.devices = 5;
    let chronicle = lived(&scenario);
    assert!(chronicle.passed_s > 364 * 86_400 && chronicle.revocations > 0, "{chronicle:#?}");
}

#[test]
fn the_same_seed_is_the_same_life_to_the_last_byte_and_another_is_not() {
    let [first, again, other] = [1, 1, 2].map(|seed| lived(&troubled(4, 10, seed)));
    assert_eq!((first.digest, first.steps), (again.digest, again.steps));
    assert_ne!(first.digest, other.digest);
}

/// The control: the checks find what they are there for.
#[test]
fn a_home_that_is_broken_on_purpose_is_found_out() {
    for (sabotage, says) in [
        (Sabotage::AcceptForeignTopics, "which is not its own"),
        (Sabotage::KeepRevokedSessions, "has a session, and is Some(Revoked)"),
        (Sabotage::ForgetUsedAssertions, "good a second time"),
        (Sabotage::KeepEveryRow, "rows, more than"),
        (Sabotage::LockOut, "virtual-1 is locked out"),
        (Sabotage::KeepBothSessions, "has two sessions"),
        (Sabotage::ForgetSequences, "twice"),
        (Sabotage::InventCommands, "which nobody sent"),
        (Sabotage::EndCommandsTwice, "ended twice"),
        (Sabotage::EndCommandsEarly, "after its end"),
        (Sabotage::HearTheCut, "was accepted, which is Some(Disabled)"),
        (Sabotage::IssueToAnyone, "a token was issued to"),
        (Sabotage::KeepDeadConnections, "connections at the hub, more than"),
        (Sabotage::LeaveLinksOpen, "connections, more than"),
        (Sabotage::LeaveWakesDue, "events that wait, more than"),
        (Sabotage::OutliveTokens, "after its token expired"),
    ] {
        let mut scenario = troubled(4, 200, 5);
        scenario.chances = match sabotage {
            // A hub that starts again trips over what it kept, or has forgotten it: other ways to find out, or not to.
            Sabotage::KeepEveryRow => Some(Chances { commands: 500.0, ..Chances::default() }),
            Sabotage::KeepDeadConnections => Some(Chances { breaks: 1_000.0, ..Chances::default() }),
            _ => scenario.chances,
        };
        let found = World::with_sabotage(&scenario, Some(sabotage)).run();
        let violation = found.expect_err("it was broken");
        assert!(violation.what.contains(says), "{sabotage:?}: {violation}");
        assert!(violation.to_string().starts_with("seed 5, day "), "{violation}");
        let again = World::with_sabotage(&scenario, Some(sabotage)).run().expect_err("the same seed shows it again");
        assert_eq!((again.at_ms, again.step, again.what), (violation.at_ms, violation.step, violation.what));
    }
}
