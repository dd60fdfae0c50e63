//! Answers elliptic-curve questions on the board, by the agent's own facade, so that a host can compare.
//!
//! The launcher writes the questions to [`ADDRESS`]: their count (4 bytes, little endian), and for each its kind (1 byte) and its
//! fields, each a length (2 bytes, little endian) and bytes. `v`: point, message, signature in DER. `s`: scalar, message.
//! `g`: seed. `x`: scalar, the other's point in SEC 1; the key exchange that the TLS engine does, by the crate p256 as it finds
//! it. The answer is one line each, in hexadecimal.
#![no_std]
#![no_main]
#![allow(dead_code, reason = "the board's terminal is needed, not all of the board")]

#[macro_use]
#[path = "../board.rs"]
mod board;

use core::fmt;
use cortex_m_rt::entry;
use hearthkey_agent::keys::{Drbg, PublicKey, SecretKey};
use p256::EncodedPoint;
use p256::ecdh::EphemeralSecret;
use rand_core::{CryptoRng, RngCore};

/// Where the questions lie, and how long they may be.
const ADDRESS: usize = 0x2110_0000;
const LENGTH: usize = 0x10_0000;

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A generator that draws what the question says.
struct Chosen([u8; 32]);

impl RngCore for Chosen {
    fn next_u32(&mut self) -> u32 {
        unreachable!("a scalar is drawn as bytes")
    }

    fn next_u64(&mut self) -> u64 {
        unreachable!("a scalar is drawn as bytes")
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        out.copy_from_slice(&self.0[..out.len()]);
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl CryptoRng for Chosen {}

struct Questions(&'static [u8]);

impl Questions {
    fn take(&mut self, count: usize) -> &'static [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn field(&mut self) -> &'static [u8] {
        let length = self.take(2);
        self.take(usize::from(u16::from_le_bytes([length[0], length[1]])))
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(self.field());
        array
    }

    fn answer(&mut self) {
        match self.take(1) {
            b"v" => {
                let key = PublicKey::from_coordinates(self.array());
                let (message, signature) = (self.field(), self.field());
                say!("answer {}", u8::from(key.verifies(message, signature)));
            }
            b"s" => {
                let scalar = self.array();
                let message = self.field();
                match SecretKey::from_bytes(&scalar).and_then(|key| key.sign(message).ok()) {
                    Some(signature) => say!("answer {}", Hex(&signature)),
                    None => say!("answer none"),
                }
            }
            b"g" => {
                let (_, public) = SecretKey::generate(&mut Drbg::from_seed(&self.array(), "check"));
                say!("answer {}", Hex(public.coordinates()));
            }
            b"x" => {
                let secret = EphemeralSecret::random(&mut Chosen(self.array()));
                let own = EncodedPoint::from(&secret.public_key());
                match p256::PublicKey::from_sec1_bytes(self.field()) {
                    Ok(other) => {
                        let shared = secret.diffie_hellman(&other);
                        say!("answer {} {}", Hex(own.as_bytes()), Hex(shared.raw_secret_bytes()));
                    }
                    Err(_) => say!("answer {} none", Hex(own.as_bytes())),
                }
            }
            kind => panic!("unknown kind {kind:?}"),
        }
    }
}

#[entry]
fn main() -> ! {
    board::start();
    // SAFETY: PSRAM that the launcher filled and nothing changes.
    let mut questions = Questions(unsafe { core::slice::from_raw_parts(ADDRESS as *const u8, LENGTH) });
    let count = questions.take(4);
    for _ in 0..u32::from_le_bytes([count[0], count[1], count[2], count[3]]) {
        questions.answer();
    }
    say!("answered in {} us", board::busy_micros());
    loop {
        board::sleep_until(u64::MAX);
    }
}

#[panic_handler]
fn panicked(reason: &core::panic::PanicInfo<'_>) -> ! {
    say!("{}", reason);
    loop {
        board::sleep_until(u64::MAX);
    }
}
