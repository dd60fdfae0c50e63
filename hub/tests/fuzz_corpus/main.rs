//! Replays in CI what coverage-guided fuzzing found (tests/fuzz): the same functions over the same inputs.
#![allow(clippy::unwrap_used)]

use hearthkey::mqtt;

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;
mod targets;

use replay::replay;

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
