//! The power fails, on a real file system over a disk with a volatile cache: nothing acknowledged is lost, and a plain flush
//! in the place of the store's sync does lose, which shows that the test can tell.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;

use hearthkey_tests::power_cut::child::{Committing, StoreChild, Verdict};
use hearthkey_tests::power_cut::disk::{self, Platters};
use hearthkey_tests::power_cut::{SURVIVAL, seed, skip_even_in_ci};

/// Cuts in a row on one store, each after a restart from what the last one left.
const CHAIN: usize = 4;

/// Chains for each probability of survival, unless `POWER_CUT_CHAINS` says otherwise.
const CHAINS: usize = 3;

/// Writes of 4 KB to the disk before the power fails: some while the directory is being created, some long after.
const WRITES: std::ops::Range<u64> = 1..2500;

const ENDLESS: u64 = 1_000_000;

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    if let Some(missing) = disk::missing() {
        return skip_even_in_ci("power cuts on a disk with a cache", missing);
    }
    let tally = cut("commit");
    assert!(tally.values().all(|tally| tally.kept_its_word == tally.cuts), "{tally:#?}");
    assert!(tally.values().any(|tally| tally.lost_writes > 100), "the cuts cut nothing: {tally:#?}");
    assert!(tally.values().all(|tally| tally.acknowledged > 100), "hardly anything was acknowledged: {tally:#?}");
}

#[test]
fn a_plain_flush_loses_what_it_acknowledged() {
    if let Some(missing) = disk::missing() {
        return skip_even_in_ci("the negative control of power cuts", missing);
    }
    let tally = cut("unsafe");
    let broken: usize = tally.values().map(|tally| tally.cuts - tally.kept_its_word).sum();
    assert!(broken > 0, "this test could not tell a store that syncs from one that does not: {tally:#?}");
}

#[derive(Debug, Default)]
struct Tally {
    cuts: usize,
    kept_its_word: usize,
    acknowledged: u64,
    cached_writes: usize,
    lost_writes: usize,
}

/// Cuts chains of runs of a child; the tally by percent of survival.
fn cut(mode: &str) -> BTreeMap<u32, Tally> {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tallies = BTreeMap::<u32, Tally>::new();
    for survival in SURVIVAL {
        let tally = tallies.entry((survival * 100.0) as u32).or_default();
        for _ in 0..chains() {
            let directory = tempfile::tempdir().expect("a directory");
            let platters = Platters::format(&directory.path().join("image")).expect("a file system");
            let mut newest = 0;
            for link in 0..CHAIN {
                let verdict = cut_once(mode, &platters, directory.path(), survival, newest, tally, &mut random);
                match verdict {
                    Verdict::Whole(found) => newest = found,
                    Verdict::Damaged(said) => {
                        report(&format!("{mode}: seed {seed}, survival {survival}, cut {link} of a chain: {said}"));
                        break;
                    }
                }
            }
        }
    }
    report(&format!("{mode}, seed {seed}: {tallies:#?}"));
    tallies
}

fn cut_once(
    mode: &str,
    platters: &Platters,
    directory: &Path,
    survival: f64,
    newest: u64,
    tally: &mut Tally,
    random: &mut fastrand::Rng,
) -> Verdict {
    let child = StoreChild::new(env!("CARGO_BIN_EXE_store-child"));
    let powered = platters.power_on(directory, random.u64(WRITES)).expect("power on");
    let mut committing = Committing::start(child.command(mode, &powered.path().join("data"), ENDLESS));
    // With the disk its machine goes, too. (sled may wait forever for a disk that is gone.)
    powered.at_the_cut(committing.killer());
    let (acknowledged, _) = committing.finish();
    assert!(powered.is_cut(), "the child ended before the power failed");
    let (cached, lost) = powered.end(survival, random).expect("the image can be written");
    let mounted = platters.mount(&directory.join("mounted")).expect("ext4 survives what it flushed");
    let verdict = child.verify(&mounted.path().join("data"));
    tally.cuts += 1;
    tally.kept_its_word += usize::from(verdict.holds(acknowledged.max(newest)));
    tally.acknowledged += acknowledged.saturating_sub(newest);
    tally.cached_writes += cached;
    tally.lost_writes += lost;
    verdict
}

fn chains() -> usize {
    std::env::var("POWER_CUT_CHAINS").ok().and_then(|chains| chains.parse().ok()).unwrap_or(CHAINS)
}

/// For whoever reads the log of a run that was captured.
#[allow(clippy::print_stderr)]
fn report(line: &str) {
    eprintln!("{line}");
}
