//! The agent against hubs, good and hostile, in memory and in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod about;
mod codec;
mod commands;
mod conversation;
mod enrolment;
mod handshake;
mod hostile;
mod joining;
mod storage;
mod support;
