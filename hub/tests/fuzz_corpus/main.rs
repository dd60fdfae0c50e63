//! Replays in CI what coverage-guided fuzzing found (tests/fuzz): the same functions over the same inputs.
#![allow(clippy::unwrap_used)]

use hearthkey::mqtt;

mod targets;

use std::fs;
use std::path::{Path, PathBuf};

/// Runs a target over all its inputs. A panic names the input.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let mut inputs: Vec<PathBuf> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() > 20, "{} holds {} inputs", corpus.display(), inputs.len());
    for input in inputs {
        let named = Named(&input);
        run(&fs::read(&input).unwrap());
        std::mem::forget(named);
    }
}

/// Says its name when it is dropped by a panic.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("input: {}", self.0.display());
        }
    }
}

#[test]
fn framing_stands_all_that_was_found() {
    replay("framing", targets::framing);
}

#[test]
fn connect_stands_all_that_was_found() {
    replay("connect", targets::connect);
}

#[test]
fn a_session_stands_all_that_was_found() {
    replay("session", targets::session);
}
