//! Questions that a launcher puts into the board's memory for a program that checks something, and the end of such a program. Knows
//! neither what is asked nor what is answered.
//!
//! At [`ADDRESS`] stand their count (4 bytes, little endian) and the questions, one behind the other; a field in one is a length (2 bytes,
//! little endian) and bytes.

use crate::board;
use rand_core::{CryptoRng, RngCore};

/// Where the questions lie, and how long they may be.
const ADDRESS: usize = 0x2110_0000;
const LENGTH: usize = 0x10_0000;

/// What is left of them.
pub struct Questions(&'static [u8]);

impl Questions {
    /// So many bytes.
    pub fn take(&mut self, count: usize) -> &'static [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// A field.
    pub fn field(&mut self) -> &'static [u8] {
        let length = self.take(2);
        self.take(usize::from(u16::from_le_bytes([length[0], length[1]])))
    }
}

/// A generator that draws what a question says, without a copy of its own.
pub struct Chosen(pub &'static [u8]);

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

/// Answers each question, and then sleeps.
pub fn answer_all(mut answer: impl FnMut(&mut Questions)) -> ! {
    board::start();
    // SAFETY: PSRAM that the launcher filled and nothing changes.
    let mut questions = Questions(unsafe { core::slice::from_raw_parts(ADDRESS as *const u8, LENGTH) });
    let count = questions.take(4);
    for _ in 0..u32::from_le_bytes([count[0], count[1], count[2], count[3]]) {
        answer(&mut questions);
    }
    say!("answered in {} us", board::busy_micros());
    sleep()
}

#[panic_handler]
fn panicked(reason: &core::panic::PanicInfo<'_>) -> ! {
    say!("{}", reason);
    sleep()
}

fn sleep() -> ! {
    loop {
        board::sleep_until(u64::MAX);
    }
}
