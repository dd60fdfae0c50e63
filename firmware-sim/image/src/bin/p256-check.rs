//! Answers elliptic-curve questions on the board, by the agent's own facade, so that a host can compare.
//!
//! A question is its kind (1 byte) and its fields. `v`: point, message, signature in DER. `s`: scalar, message.
//! `g`: seed. `x`: scalar, the other's point in SEC 1; the key exchange that the TLS engine does, by the crate p256 as it finds
//! it. The answer is one line each, in hexadecimal.
#![no_std]
#![no_main]
#![allow(dead_code, reason = "the board's terminal is needed, not all of the board")]

#[macro_use]
#[path = "../board.rs"]
mod board;
#[path = "../questions.rs"]
mod questions;

use core::fmt;
use cortex_m_rt::entry;
use hearthkey_agent::keys::{Drbg, PublicKey, SecretKey};
use p256::EncodedPoint;
use p256::ecdh::EphemeralSecret;
use questions::{Chosen, Questions, answer_all};

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

fn array<const N: usize>(questions: &mut Questions) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(questions.field());
    array
}

fn answer(questions: &mut Questions) {
    match questions.take(1) {
        b"v" => {
            let key = PublicKey::from_coordinates(array(questions));
            let (message, signature) = (questions.field(), questions.field());
            say!("answer {}", u8::from(key.verifies(message, signature)));
        }
        b"s" => {
            let scalar = array(questions);
            let message = questions.field();
            match SecretKey::from_bytes(&scalar).and_then(|key| key.sign(message).ok()) {
                Some(signature) => say!("answer {}", Hex(&signature)),
                None => say!("answer none"),
            }
        }
        b"g" => {
            let (_, public) = SecretKey::generate(&mut Drbg::from_seed(&array(questions), "check"));
            say!("answer {}", Hex(public.coordinates()));
        }
        b"x" => {
            let secret = EphemeralSecret::random(&mut Chosen(questions.field()));
            let own = EncodedPoint::from(&secret.public_key());
            match p256::PublicKey::from_sec1_bytes(questions.field()) {
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

#[entry]
fn main() -> ! {
    answer_all(answer)
}
