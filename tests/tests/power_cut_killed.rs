//! The hub dies by `kill -9`, while it writes and while it opens, and its disk refuses: nothing acknowledged is lost.
#![allow(missing_docs)]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use hearthkey_tests::power_cut::child::{Committing, StoreChild, Verdict};
use hearthkey_tests::power_cut::{has_program, seed, skip, skip_even_in_ci};
use tempfile::TempDir;

const KILLS: u64 = 40;

/// More batches than any of these children lives to commit.
const ENDLESS: u64 = 1_000_000;

/// System calls that change what is on the disk.
const WRITING_CALLS: [&str; 10] =
    ["write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range", "rename", "unlink", "mkdir"];

#[test]
fn what_was_acknowledged_outlives_kill_9_again_and_again() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let (child, data) = (child(), directory());
    let mut newest = 0;
    for kill in 0..KILLS {
        let mut committing = Committing::start(child.command("commit", data.path(), ENDLESS));
        assert!(committing.wait_for(newest + random.u64(1..60)), "it ended by itself; seed {seed}, kill {kill}");
        let acknowledged = committing.kill();
        let verdict = child.verify(data.path());
        assert!(verdict.holds(acknowledged), "{acknowledged} was acknowledged, {verdict:?}; seed {seed}, kill {kill}");
        let Verdict::Whole(found) = verdict else { unreachable!("it holds") };
        newest = found;
    }
}

#[test]
fn a_kill_at_any_point_of_the_first_creation_leaves_a_directory_that_opens() {
    let template = directory();
    let kills = kill_at_each_call("first creation", template.path(), 0);
    assert!(kills.is_none_or(|kills| kills >= 25), "{kills:?} kills");
}

#[test]
fn a_kill_at_any_point_of_opening_loses_nothing() {
    let (child, template) = (child(), directory());
    let (acknowledged, ended) = Committing::start(child.command("commit", template.path(), 200)).finish();
    assert!(ended && acknowledged == 200);
    let kills = kill_at_each_call("opening", template.path(), 200);
    assert!(kills.is_none_or(|kills| kills >= 10), "{kills:?} kills");
}

/// Opens a copy of `template` and kills at the n-th call of each kind, for each n, then verifies. Returns the number of kills.
fn kill_at_each_call(what: &str, template: &Path, newest: u64) -> Option<usize> {
    if !has_program("strace") {
        skip(what, "strace is not installed");
        return None;
    }
    let child = child();
    let mut kills = 0;
    for call in WRITING_CALLS {
        for n in 1.. {
            let data = copy_of(template);
            let (inject, trace) = (format!("inject={call}:signal=SIGKILL:when={n}"), format!("trace={call}"));
            let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let status = child.command_under(&wrapper, "commit", data.path(), 0).status().expect("strace runs");
            let verdict = child.verify(data.path());
            assert_eq!(verdict, Verdict::Whole(newest), "killed at {call} number {n}");
            if status.success() {
                break;
            }
            assert!(status.signal() == Some(9), "{status} at {call} number {n}");
            kills += 1;
        }
    }
    Some(kills)
}

#[test]
fn a_disk_that_refuses_stops_the_store_and_reopening_loses_nothing() {
    if !has_program("strace") {
        return skip("a disk that refuses", "strace is not installed");
    }
    let child = child();
    for (call, error) in [("pwrite64", "ENOSPC"), ("pwrite64", "EIO"), ("fdatasync", "EIO"), ("fdatasync", "ENOSPC")] {
        let mut reopened = 0;
        for at in [12, 25, 38] {
            let data = directory();
            assert!(Committing::start(child.command("commit", data.path(), 30)).finish().1);
            let inject = format!("inject={call}:error={error}:when={at}..{}", at + 1);
            let trace = format!("trace={call}");
            let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let mut committing = Committing::start(child.command_under(&wrapper, "persist", data.path(), 400));
            let (acknowledged, ended) = committing.finish();
            assert!(ended, "{call} {error} at {at}: gave up after {acknowledged}");
            reopened += committing.reopened;
            assert_eq!(child.verify(data.path()), Verdict::Whole(430), "{call} {error} at {at}");
        }
        assert!(reopened > 0, "{call} {error} never struck");
    }
}

/// sled 0.34.7 forgets to wake a flush when the write that it waits for fails a moment later, on another thread.
#[test]
fn a_write_that_fails_late_stops_the_store_instead_of_holding_its_waiters_forever() {
    if !has_program("strace") {
        return skip("a write that fails late", "strace is not installed");
    }
    let child = child();
    for at in [3, 6, 9, 11, 12, 15, 17, 20, 23, 24] {
        let data = directory();
        let inject = format!("inject=pwrite64:error=EIO:delay_enter=60000:when={at}+");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64", "-e", &inject];
        // A minute is forever here: the store gives such a flush a second or two.
        let wrapper = [&strace[..], &["timeout", "-s", "KILL", "60"]].concat();
        let mut committing = child.command_under(&wrapper, "commit", data.path(), ENDLESS);
        let output = committing.output().expect("strace runs");
        assert_eq!(output.status.code(), Some(1), "at {at}: it did not give up by itself");
        let said = String::from_utf8_lossy(&output.stdout);
        let acknowledged = said.lines().filter(|line| line.starts_with("acked ")).count() as u64;
        let verdict = child.verify(data.path());
        assert!(verdict.holds(acknowledged), "at {at}: {acknowledged} were acknowledged, {verdict:?}");
    }
}

#[test]
fn a_file_that_may_not_grow_stops_the_store_and_loses_nothing() {
    let (child, data) = (child(), directory());
    assert!(Committing::start(child.command("commit", data.path(), 30)).finish().1);
    // In blocks of 512 bytes: the log outgrows two megabytes soon.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "sh"];
    let committing = child.command_under(&limited, "commit", data.path(), ENDLESS);
    let (acknowledged, ended) = Committing::start(committing).finish();
    assert!(!ended && acknowledged > 30, "{acknowledged}");
    let verdict = child.verify(data.path());
    assert!(verdict.holds(acknowledged), "{acknowledged} was acknowledged, {verdict:?}");
}

#[test]
fn a_full_disk_refuses_batches_and_still_opens() {
    let Some(disk) = SmallDisk::mount() else {
        return skip_even_in_ci("a full disk", "mounting needs root");
    };
    let (child, data) = (child(), disk.0.path().join("data"));
    let (acknowledged, ended) = Committing::start(child.command("commit", &data, 100)).finish();
    assert!(ended && acknowledged == 100);
    // Somebody else fills it to the last byte.
    let filler = disk.0.path().join("filler");
    let full = fs::write(&filler, vec![1; 200 << 20]).expect_err("the disk is smaller");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let (acknowledged, ended) = Committing::start(child.command("commit", &data, 1)).finish();
    assert!(!ended && acknowledged == 0, "below the floor batches are refused");
    for _ in 0..3 {
        assert_eq!(child.verify(&data), Verdict::Whole(100));
    }
    fs::remove_file(&filler).expect("removed");
    assert_eq!(Committing::start(child.command("commit", &data, 1)).finish(), (101, true));
    assert!(data.join("store.reserve").is_file(), "the reserve is set aside again");
}

/// A file system of 100 MB in memory.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let disk = SmallDisk(directory());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=100m", "tmpfs"]).arg(disk.0.path());
        mount.output().ok().filter(|output| output.status.success()).map(|_| disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

fn copy_of(template: &Path) -> TempDir {
    let copy = directory();
    let copied = Command::new("cp").arg("-a").arg(template.join(".")).arg(copy.path()).status();
    assert!(copied.expect("cp runs").success());
    copy
}

fn child() -> StoreChild {
    StoreChild::new(env!("CARGO_BIN_EXE_store-child"))
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}
