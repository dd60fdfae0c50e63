//! The power fails, rebuilt from a recording of one run: what `power_cut_disk` does on a disk, without root.
#![allow(missing_docs)]

use hearthkey_tests::power_cut::child::StoreChild;
use hearthkey_tests::power_cut::recorded::Recording;
use hearthkey_tests::power_cut::{SURVIVAL, has_program, seed, skip};

/// Batches of the recorded run, its first creation included.
const BATCHES: u64 = 150;

/// States that are rebuilt for each probability of survival.
const STATES: usize = 30;

#[test]
fn no_state_that_a_cut_may_leave_lacks_what_was_acknowledged() {
    if !has_program("strace") {
        return skip("rebuilt power cuts", "strace is not installed");
    }
    let broken = rebuild("commit");
    assert!(broken.is_empty(), "{} of {}: {broken:#?}", broken.len(), STATES * SURVIVAL.len());
}

#[test]
fn a_plain_flush_leaves_states_that_lack_what_was_acknowledged() {
    if !has_program("strace") {
        return skip("the negative control of rebuilt power cuts", "strace is not installed");
    }
    let broken = rebuild("unsafe");
    assert!(!broken.is_empty(), "this test could not tell a store that syncs from one that does not");
}

/// Rebuilds states after cuts anywhere in a run of the child; returns those that broke a promise.
fn rebuild(mode: &str) -> Vec<String> {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let child = StoreChild::new(env!("CARGO_BIN_EXE_store-child"));
    let recording = Recording::of(&child, mode, BATCHES);
    assert!(recording.len() as u64 > BATCHES, "{} steps", recording.len());
    let mut broken = Vec::new();
    let mut most_acknowledged = 0;
    for survival in SURVIVAL {
        for _ in 0..STATES {
            let data = tempfile::tempdir().expect("a directory");
            let cut = random.usize(0..=recording.len());
            let acknowledged = recording.rebuild(data.path(), cut, survival, &mut random).expect("rebuilt");
            most_acknowledged = most_acknowledged.max(acknowledged);
            let verdict = child.verify(data.path());
            if !verdict.holds(acknowledged) {
                broken.push(format!("seed {seed}, survival {survival}, step {cut}: {acknowledged} acked, {verdict:?}"));
            }
        }
    }
    assert!(most_acknowledged > BATCHES / 2, "{most_acknowledged} acknowledged");
    report(&format!("{mode}, seed {seed}: {} of {} broke a promise", broken.len(), STATES * SURVIVAL.len()));
    broken
}

/// For whoever reads the log of a run that was captured.
#[allow(clippy::print_stderr)]
fn report(line: &str) {
    eprintln!("{line}");
}
