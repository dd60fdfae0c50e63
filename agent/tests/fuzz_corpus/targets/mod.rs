//! What is fuzzed of the agent: functions that take any bytes and panic where the agent breaks a promise. Used by the fuzzer in
//! tests/fuzz and by the replay of its corpus. Each says whether the agent took the bytes for what they pretend to be.

mod certificates;
mod conversation;
mod flash;
mod handshake;
mod http;
mod json;
mod packets;
mod records;

#[path = "../../host/support/mqtt.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]
mod mqtt;
#[path = "../../host/support/tls13.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used)]
mod tls13;

/// What the agent made of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reading {
    /// It is what it pretends to be.
    Taken,
    /// It is not.
    Refused,
}

impl Reading {
    fn of<T, E>(read: &Result<T, E>) -> Self {
        if read.is_ok() { Self::Taken } else { Self::Refused }
    }
}

/// A target.
pub(crate) type Target = fn(&[u8]) -> Reading;

/// All targets, by the name of their corpus.
pub(crate) const TARGETS: [(&str, Target); 9] = [
    ("agent_certificates", certificates::certificates),
    ("agent_conversation", conversation::conversation),
    ("agent_enrolment", records::enrolment),
    ("agent_flash", flash::flash),
    ("agent_handshake", handshake::handshake),
    ("agent_http", http::http),
    ("agent_json", json::json),
    ("agent_packets", packets::packets),
    ("agent_records", records::records),
];

pub(crate) use conversation::conversation_with;
pub(crate) use http::http_by;

/// Files of a home that was made once, so that a run repeats.
mod home {
    pub(super) const CA: &[u8] = include_bytes!("../../../../tests/vectors/home/ca.der");
    pub(super) const HUB: &[u8] = include_bytes!("../../../../tests/vectors/home/hub.der");
    pub(super) const HUB_KEY: &[u8; 32] = include_bytes!("../../../../tests/vectors/home/hub.key");
    /// Within the validity of both.
    pub(super) const NOW: u64 = 1_800_000_000;
}
