//! What the factory gives a device before its first start, and what this emulated one needs at every start.
//!
//! The launcher writes a record to [`ADDRESS`] (little endian):
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `HKP1` |
//! | 4 | 32 | entropy, from the launcher's system |
//! | 36 | 2 | seconds between two reports |
//! | 38 | 2 | length of the enrolment string, 0 if none |
//! | 40 | .. | the enrolment string |
//!
//! The entropy stands in for a hardware generator, which this board has not. It is wiped when read. A reset makes the emulator
//! write the same record again, so the seed is mixed with what the former life left behind: no two lives share a seed.

use crate::persistent::Persistent;
use hearthkey_agent::MAX_ENROLMENT_STRING;
use hearthkey_agent::keys::Drbg;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

/// Where the record lies: the beginning of the PSRAM.
const ADDRESS: usize = 0x2100_0000;
const LENGTH: usize = 40 + MAX_ENROLMENT_STRING;

/// The record, read and checked.
pub struct Provisioning {
    /// Seconds between two reports.
    pub interval: u16,
    string: Zeroizing<[u8; MAX_ENROLMENT_STRING]>,
    length: usize,
}

/// There is no record, or its entropy is none.
#[derive(Debug)]
pub struct NoEntropy;

impl Provisioning {
    /// Takes the record out of memory, once in a life, and makes of its entropy the generator of everything random.
    pub fn take(persistent: &mut Persistent) -> Result<(Self, Drbg), NoEntropy> {
        let mut record = Zeroizing::new([0; LENGTH]);
        for (at, byte) in record.iter_mut().enumerate() {
            let place = (ADDRESS + at) as *mut u8;
            // SAFETY: the PSRAM is there, and nothing but this function uses its first 256 bytes.
            unsafe {
                *byte = place.read_volatile();
                place.write_volatile(0);
            }
        }
        let (entropy, rest) = record[4..].split_at(32);
        // All alike is what memory looks like that nobody wrote.
        if record[..4] != *b"HKP1" || entropy.iter().all(|byte| *byte == entropy[0]) {
            return Err(NoEntropy);
        }
        let mut hash = Sha256::new();
        hash.update(entropy);
        hash.update(persistent.seed());
        let mut seed = Zeroizing::new(<[u8; 32]>::from(hash.finalize()));
        let mut random = Drbg::from_seed(&seed, "hearthkey board");
        rand_core::RngCore::fill_bytes(&mut random, &mut *seed);
        persistent.set_seed(&seed);
        seed.zeroize();

        let interval = u16::from_le_bytes([rest[0], rest[1]]);
        let length = usize::from(u16::from_le_bytes([rest[2], rest[3]])).min(MAX_ENROLMENT_STRING);
        let mut string = Zeroizing::new([0; MAX_ENROLMENT_STRING]);
        string.copy_from_slice(&rest[4..]);
        Ok((Self { interval, string, length }, random))
    }

    /// Wipes the enrolment string: its code is used up.
    pub fn forget_enrolment_string(&mut self) {
        self.string.zeroize();
        self.length = 0;
    }

    /// The enrolment string, if one was given.
    pub fn enrolment_string(&self) -> Option<&str> {
        core::str::from_utf8(self.string.get(..self.length)?).ok().filter(|text| !text.is_empty())
    }
}
