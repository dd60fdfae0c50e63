//! The microcontroller's image on the emulated board, against the real hub. `.ci/setup test` brings emulator and compiler;
//! without them these tests fail.
#![allow(clippy::unwrap_used)]

mod emulated;
mod figures;
mod hostile;
mod life;
mod p256;
mod remains;

// The servers that the agent's own tests break TLS with; not all of what they can do is needed here.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../agent/tests/host/support/pki.rs"]
mod pki;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../agent/tests/host/support/tls13.rs"]
mod tls13;
