//! Cuts the power, kills the process and fills the disk under the hub's store, and looks at what is left.
//!
//! [`workload`] is a sequence of batches that anybody can recompute; [`child`] a process that commits them and prints what
//! was acknowledged; [`disk`] a disk with a volatile write cache; [`recorded`] rebuilds from one recorded run what a disk
//! might hold after a cut. The rule that all share: [`child::Verdict::holds`].

pub mod child;
pub mod disk;
pub mod recorded;
pub mod workload;

use std::io::Write as _;
use std::process::Command;

/// How likely it is that a write which was not synced survives a cut: lost all, a coin, nearly all, all.
pub const SURVIVAL: [f64; 4] = [0.0, 0.5, 0.9, 1.0];

/// Says, where no test harness swallows it, that a test could not run here.
///
/// # Panics
/// When `CI` is set: there, a test that cannot run is a failure.
pub fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{test} cannot run in CI: {reason}");
    skip_even_in_ci(test, reason);
}

/// As [`skip`], for what a CI without privileges cannot offer either.
pub fn skip_even_in_ci(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Whether a program can be run here.
pub fn has_program(name: &str) -> bool {
    let run = Command::new(name).arg("--version").output();
    run.is_ok_and(|output| output.status.success())
}

/// What the random choices of a run follow from; `POWER_CUT_SEED` repeats or varies a run.
pub fn seed() -> u64 {
    std::env::var("POWER_CUT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}
