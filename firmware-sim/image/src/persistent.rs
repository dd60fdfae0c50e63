//! What outlives a reset: the flash that the board has not, and a word from the former life.
//!
//! Both are PSRAM, which keeps its contents while the emulator runs and loses them when it ends. The flash keeps the rules of
//! NOR flash: erased by pages, a bit goes from one to zero only. A real board gives [`FlashRecords`] its own.

use core::fmt;
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use hearthkey_agent::flash::FlashRecords;

/// Behind the provisioning record.
const FLASH: usize = 0x2101_0000;
const LETTER: usize = 0x2102_0000;

const PAGE: usize = 4096;
const PAGES: usize = 2;

/// The longest reason of a panic that is kept.
const MAX_REASON: usize = 160;

/// The records of the agent on this board.
pub fn records() -> Option<FlashRecords<Flash>> {
    FlashRecords::new(Flash { writes: 0 }, 0..(PAGES * PAGE) as u32).ok()
}

/// Two pages of NOR flash.
pub struct Flash {
    /// Calls that changed it, since the start.
    pub writes: u32,
}

/// Outside of the flash, or not at a boundary.
#[derive(Debug)]
pub struct OutOfBounds;

impl NorFlashError for OutOfBounds {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::OutOfBounds
    }
}

impl Flash {
    /// The `length` bytes from `offset`.
    fn bytes(&mut self, offset: u32, length: usize) -> Result<&mut [u8], OutOfBounds> {
        let end = (offset as usize).checked_add(length).filter(|end| *end <= PAGES * PAGE).ok_or(OutOfBounds)?;
        // SAFETY: PSRAM that nothing else uses; there is one `Flash`, borrowed as long as the slice lives.
        Ok(unsafe { core::slice::from_raw_parts_mut((FLASH + end - length) as *mut u8, length) })
    }
}

impl ErrorType for Flash {
    type Error = OutOfBounds;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, out: &mut [u8]) -> Result<(), OutOfBounds> {
        out.copy_from_slice(self.bytes(offset, out.len())?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        PAGES * PAGE
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = 8;
    const ERASE_SIZE: usize = PAGE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), OutOfBounds> {
        self.writes += 1;
        let length = to.checked_sub(from).ok_or(OutOfBounds)?;
        self.bytes(from, length as usize)?.fill(0xff);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), OutOfBounds> {
        self.writes += 1;
        for (place, byte) in self.bytes(offset, bytes.len())?.iter_mut().zip(bytes) {
            *place &= byte;
        }
        Ok(())
    }
}

/// A letter from the former life to the next.
#[repr(C)]
pub struct Persistent {
    magic: [u8; 4],
    starts: u32,
    seed: [u8; 32],
    reason_length: usize,
    reason: [u8; MAX_REASON],
}

impl Persistent {
    /// The letter; an empty one when the power was off.
    ///
    /// # Safety
    /// Only one may live at a time.
    pub unsafe fn open() -> &'static mut Self {
        // SAFETY: PSRAM that nothing else uses, aligned; every pattern of bits is a `Persistent`.
        let letter = unsafe { &mut *(LETTER as *mut Self) };
        if letter.magic != *b"HKL1" {
            *letter = Self { magic: *b"HKL1", starts: 0, seed: [0; 32], reason_length: 0, reason: [0; MAX_REASON] };
        }
        letter
    }

    /// Counts this life; the first is 1.
    pub fn count_start(&mut self) -> u32 {
        self.starts = self.starts.wrapping_add(1);
        self.starts
    }

    /// What the former life left of its generator.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Leaves a seed to the next life.
    pub fn set_seed(&mut self, seed: &[u8; 32]) {
        self.seed = *seed;
    }

    /// Keeps why this life ends.
    pub fn note_panic(&mut self, reason: &impl fmt::Display) {
        self.reason_length = 0;
        // Cut off where it would not fit.
        let _ = fmt::write(self, format_args!("{reason}"));
    }

    /// Why the former life ended, if it panicked; told once.
    pub fn take_panic(&mut self) -> Option<&str> {
        let length = core::mem::take(&mut self.reason_length);
        core::str::from_utf8(self.reason.get(..length)?).ok().filter(|reason| !reason.is_empty())
    }
}

impl fmt::Write for Persistent {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.reason_length + text.len();
        self.reason.get_mut(self.reason_length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.reason_length = end;
        Ok(())
    }
}
