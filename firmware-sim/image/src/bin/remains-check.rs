//! Uses secrets on the board, by the agent's own facade and by the key exchange of its TLS engine, and then searches all RAM for
//! what is left of them.
//!
//! A question is its kind (1 byte), two fields, the number of needles (1 byte) and as many fields, the needles. `s` signs: scalar,
//! message. `g` makes a key: seed, nothing. `x` exchanges keys: scalar, the other's point in SEC 1. `c` is the control: what it leaves
//! on the stack, nothing. A needle is found wherever 16 bytes of it in a row are, in any order of bytes and words. The answer is one
//! line each: `clean`, or which needle is where.
#![no_std]
#![no_main]
#![allow(dead_code, reason = "the board's terminal is needed, not all of the board")]

#[macro_use]
#[path = "../board.rs"]
mod board;
#[path = "../questions.rs"]
mod questions;

use core::hint::black_box;
use core::ops::Range;
use cortex_m_rt::entry;
use hearthkey_agent::keys::{Drbg, SecretKey};
use p256::ecdh::EphemeralSecret;
use questions::{Chosen, Questions, answer_all};

/// All RAM that the image is linked for.
const RAM: Range<usize> = 0x2000_0000..0x2002_0000;
/// So much of a needle is too much.
const WINDOW: usize = 16;
/// How far below the searcher the work is done, lest the search cover what it looks for.
const DEPTH: usize = 2048;

fn answer(questions: &mut Questions, key: &mut Option<SecretKey>) {
    let kind = questions.take(1)[0];
    let (secret, input) = (questions.field(), questions.field());
    let mut needles = [[].as_slice(); 8];
    let count = usize::from(questions.take(1)[0]);
    needles[..count].fill_with(|| questions.field());
    let needles = &needles[..count];

    // What a key is moved through on its way to its place is the caller's, and painted over here.
    prepare(kind, secret, key);
    paint();
    let mut work = || work(kind, secret, input, key);
    at_depth(&mut work);
    let place = core::ptr::from_ref(key) as usize;
    let used = search(needles, place..place + size_of_val(key));
    *key = None;
    // Nor in its place, once it is dropped.
    match used.or_else(|| search(needles, 0..0)) {
        None => say!("answer clean"),
        Some((needle, at)) => say!("answer needle {} at {:#x}", needle, at),
    }
}

/// The key that is there before it is used.
#[inline(never)]
fn prepare(kind: u8, secret: &'static [u8], key: &mut Option<SecretKey>) {
    if kind == b's' {
        *key = secret.try_into().ok().and_then(SecretKey::from_bytes);
    }
}

#[inline(never)]
fn work(kind: u8, secret: &'static [u8], input: &'static [u8], key: &Option<SecretKey>) {
    match (kind, key) {
        (b's', Some(key)) => {
            black_box(key.sign(input)).unwrap_or_else(|_| unreachable!("a key signs"));
        }
        (b'g', _) => {
            let mut seed = [0; 32];
            seed.copy_from_slice(secret);
            let mut random = Drbg::from_seed(&seed, "check");
            let made = SecretKey::generate(&mut random);
            black_box(&made);
        }
        (b'x', _) => {
            let Ok(other) = p256::PublicKey::from_sec1_bytes(input) else { unreachable!("a point") };
            let own = EphemeralSecret::random(&mut Chosen(secret));
            let shared = own.diffie_hellman(&other);
            black_box(&shared);
        }
        (b'c', _) => {
            let mut left = [0_u8; 32];
            left.copy_from_slice(secret);
            black_box(&left);
        }
        _ => unreachable!("no such question"),
    }
}

/// Works far below on the stack.
#[inline(never)]
fn at_depth(work: &mut dyn FnMut()) {
    let depth = [0_u8; DEPTH];
    black_box(&depth);
    work();
    black_box(&depth);
}

/// Overwrites all of the stack that is not in use.
#[inline(never)]
fn paint() {
    let end = cortex_m::register::msp::read() as usize;
    for at in (stack_end()..end).step_by(4) {
        // SAFETY: words of the stack below the one in use; no interrupt is ever taken.
        unsafe { (at as *mut u32).write_volatile(0x5a5a_5a5a) };
    }
}

fn stack_end() -> usize {
    unsafe extern "C" {
        static _stack_end: u32;
    }
    &raw const _stack_end as usize
}

/// The first needle of which a window is in RAM, but for `except`: which, and where.
#[inline(never)]
fn search(needles: &[&'static [u8]], except: Range<usize>) -> Option<(usize, usize)> {
    let read = |at: usize| {
        // SAFETY: a byte of RAM.
        unsafe { (at as *const u8).read_volatile() }
    };
    needles.iter().enumerate().find_map(|(number, needle)| {
        let mut occurs = [false; 256];
        needle.iter().for_each(|byte| occurs[usize::from(*byte)] = true);
        let last = needle.len() - 1;
        let orders: [fn(usize, usize) -> usize; 4] =
            [|at, _| at, |at, last| last - at, |at, _| at ^ 3, |at, last| (last - at) ^ 3];
        let begins_at = |at: usize| {
            orders.iter().any(|order| {
                (0..=needle.len() - WINDOW)
                    .any(|first| (0..WINDOW).all(|byte| read(at + byte) == needle[order(first + byte, last)]))
            })
        };
        let mut places = (RAM.start..RAM.end - WINDOW).filter(|at| !except.contains(at) && occurs[usize::from(read(*at))]);
        places.find(|at| begins_at(*at)).map(|at| (number, at))
    })
}

#[entry]
fn main() -> ! {
    let Some(key) = cortex_m::singleton!(: Option<SecretKey> = None) else { unreachable!("main runs once") };
    answer_all(|questions| answer(questions, key))
}
