//! The microcontroller's image on the emulated board, against the real hub. `.ci/setup test` brings emulator and compiler;
//! without them these tests fail.
#![allow(clippy::unwrap_used)]

mod emulated;
mod figures;
mod life;
mod p256;
