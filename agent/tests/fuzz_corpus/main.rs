//! Replays in CI what coverage-guided fuzzing found (tests/fuzz): the same functions over the same inputs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::result_large_err)]

#[path = "../../../tests/fuzz/replay.rs"]
mod replay;
mod targets;

use hearthkey_agent::http::{HttpError, Response, read_response};
use replay::replay;
use std::panic::catch_unwind;
use targets::{Reading, TARGETS};

/// Replays a target. Its corpus must reach behind the door: some of it is taken, some refused.
fn stands_all_that_was_found(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let readings = replay(name, target);
    for reading in [Reading::Taken, Reading::Refused] {
        assert!(readings.contains(&reading), "nothing in the corpus of {name} is {reading:?}");
    }
}

#[test]
fn certificates_stand_all_that_was_found() {
    stands_all_that_was_found("agent_certificates");
}

#[test]
fn a_conversation_stands_all_that_was_found() {
    stands_all_that_was_found("agent_conversation");
}

#[test]
fn an_enrolment_string_stands_all_that_was_found() {
    stands_all_that_was_found("agent_enrolment");
}

#[test]
fn a_flash_memory_stands_all_that_was_found() {
    stands_all_that_was_found("agent_flash");
}

#[test]
fn a_handshake_stands_all_that_was_found() {
    stands_all_that_was_found("agent_handshake");
}

#[test]
fn http_stands_all_that_was_found() {
    stands_all_that_was_found("agent_http");
}

#[test]
fn json_stands_all_that_was_found() {
    stands_all_that_was_found("agent_json");
}

#[test]
fn packets_stand_all_that_was_found() {
    stands_all_that_was_found("agent_packets");
}

#[test]
fn records_stand_all_that_was_found() {
    stands_all_that_was_found("agent_records");
}

/// Without this, a replay that passes would mean nothing.
#[test]
fn a_reader_or_a_device_with_a_fault_does_not_stand_the_replay() {
    /// Cannot wait for a body.
    fn hasty(data: &[u8], capacity: usize) -> Result<Option<Response<'_>>, HttpError> {
        match read_response(data, capacity) {
            Ok(None) if data.ends_with(b"\n\r\n") => Err(HttpError::Malformed),
            read => read,
        }
    }
    assert!(catch_unwind(|| replay("agent_http", |data| targets::http_by(hasty, data))).is_err(), "HTTP read too early");
    // Acknowledges the packet identifier beside the right one.
    let beside: fn(&mut Vec<u8>) = |packet| {
        if packet.first() == Some(&0x40) {
            packet[3] ^= 1;
        }
    };
    let replayed = catch_unwind(|| replay("agent_conversation", |data| targets::conversation_with(beside, data)));
    assert!(replayed.is_err(), "a wrong acknowledgement");
}
