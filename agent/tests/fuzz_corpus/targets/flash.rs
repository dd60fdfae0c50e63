//! The life of a flash memory that somebody tampers with.

use super::Reading;
use embedded_storage::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use hearthkey_agent::flash::FlashRecords;
use hearthkey_agent::{Identity, Record};

const PAGE: usize = 1024;
const CAPACITY: usize = 2 * PAGE;
/// A life is no longer.
const MAX_DEEDS: usize = 200;

/// The records at their longest.
const LONGEST: [usize; 2] = [Identity::MAX_BYTES, 12];

/// Deeds of three bytes each: store, tamper, start again. Whatever was done to the flash, what was stored last is what is
/// loaded; until somebody tampers, nothing else is ever lost or comes back.
pub(crate) fn flash(data: &[u8]) -> Reading {
    match data.split_first() {
        Some((first, deeds)) if first % 2 == 0 => life::<4>(deeds),
        Some((_, deeds)) => life::<32>(deeds),
        None => Reading::Refused,
    }
}

fn life<const GRANULE: usize>(deeds: &[u8]) -> Reading {
    let mut records = opened(Nor::<GRANULE>(vec![0xff; CAPACITY]));
    let mut expected: [Option<Vec<u8>>; 2] = [None, None];
    let mut is_sound = true;
    let mut reading = Reading::Refused;
    for deed in deeds.chunks_exact(3).take(MAX_DEEDS) {
        let (what, high, low) = (deed[0], deed[1], deed[2]);
        match what % 8 {
            0..=3 => {
                let at = usize::from(what & 1);
                let bytes = vec![high; usize::from(low) * LONGEST[at] / 250];
                let stored = records.store([Record::Identity, Record::CommandSequence][at], &bytes);
                if bytes.len() > LONGEST[at] {
                    assert!(stored.is_err(), "longer than a record may be");
                    continue;
                }
                stored.expect("the flash works");
                reading = Reading::Taken;
                expected[at] = Some(bytes);
                if !is_sound {
                    // What was tampered with before counts for nothing; what is stored now does.
                    expected[1 - at] = loaded(&mut records, 1 - at);
                    is_sound = true;
                }
            }
            4 | 5 => records = opened(Nor(records.flash().0.clone())),
            // Bits that nobody erased are cleared.
            _ => {
                let place = usize::from(u16::from_be_bytes([high, low])) % CAPACITY;
                let before = records.flash().0[place];
                records.flash().0[place] &= what;
                is_sound &= before == records.flash().0[place];
                if !is_sound {
                    records = opened(Nor(records.flash().0.clone()));
                }
            }
        }
        let now = [loaded(&mut records, 0), loaded(&mut records, 1)];
        assert!(!is_sound || now == expected, "expected {expected:?}, loaded {now:?}");
    }
    reading
}

fn opened<const GRANULE: usize>(flash: Nor<GRANULE>) -> FlashRecords<Nor<GRANULE>> {
    FlashRecords::new(flash, 0..CAPACITY as u32).expect("the flash works")
}

fn loaded<const GRANULE: usize>(records: &mut FlashRecords<Nor<GRANULE>>, at: usize) -> Option<Vec<u8>> {
    let mut out = [0; Identity::MAX_BYTES];
    let length = records.load([Record::Identity, Record::CommandSequence][at], &mut out).expect("the flash works")?;
    Some(out[..length].to_vec())
}

/// NOR flash without failures of its own.
struct Nor<const GRANULE: usize>(Vec<u8>);

#[derive(Debug)]
struct OutOfPlace;

impl NorFlashError for OutOfPlace {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::NotAligned
    }
}

impl<const GRANULE: usize> ErrorType for Nor<GRANULE> {
    type Error = OutOfPlace;
}

impl<const GRANULE: usize> ReadNorFlash for Nor<GRANULE> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), OutOfPlace> {
        bytes.copy_from_slice(self.0.get(offset as usize..offset as usize + bytes.len()).ok_or(OutOfPlace)?);
        Ok(())
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }
}

impl<const GRANULE: usize> NorFlash for Nor<GRANULE> {
    const WRITE_SIZE: usize = GRANULE;
    const ERASE_SIZE: usize = PAGE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), OutOfPlace> {
        assert!((from as usize).is_multiple_of(PAGE) && (to as usize).is_multiple_of(PAGE));
        self.0.get_mut(from as usize..to as usize).ok_or(OutOfPlace)?.fill(0xff);
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), OutOfPlace> {
        assert!((offset as usize).is_multiple_of(GRANULE) && bytes.len().is_multiple_of(GRANULE));
        let place = self.0.get_mut(offset as usize..offset as usize + bytes.len()).ok_or(OutOfPlace)?;
        for (old, new) in place.iter_mut().zip(bytes) {
            *old &= new;
        }
        Ok(())
    }
}
