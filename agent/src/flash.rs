//! The agent's records in two halves of NOR flash: appended, checked, and moved to the other half when one is full.
//! A reference to build a [`Platform`](crate::Platform) on. Keeps nothing in memory and knows nothing of what it stores.
//!
//! A half is a header and entries; what counts is the half with the highest sequence, and of each record its last entry.
//! An entry or a header is written once, by one call, with its CRC: after a power cut it is there or it is not. Behind an
//! entry that is neither whole nor blank nothing is written any more; the next record goes to the other half, which is
//! erased, filled and only then given its header. What was moved is erased at once, so that no old key stays behind.

use crate::platform::{Record, StorageFailed};
use core::ops::Range;
use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};
use zeroize::{Zeroize as _, Zeroizing};

/// The longest record.
const MAX_RECORD: usize = crate::identity::Identity::MAX_BYTES;
const MAX_SEQUENCE: usize = crate::identity::SEQUENCE_BYTES;
/// Length, record, one spare byte, CRC.
const ENTRY_HEADER: usize = 8;
/// The coarsest granule of NOR flash (STM32H7: 32 bytes of one ECC word).
const MAX_GRANULE: usize = 32;
/// An entry at its longest, in granules of any size.
const MAX_ENTRY: usize = (ENTRY_HEADER + MAX_RECORD).next_multiple_of(MAX_GRANULE);
/// `HKF1`, sequence, CRC.
const HALF_HEADER: usize = 12;
const MAGIC: [u8; 4] = *b"HKF1";

const RECORDS: [Record; 2] = [Record::Identity, Record::CommandSequence];

/// Records in the flash that it is given for itself.
///
/// Wear: the command sequence is written once per command. 4 KB in granules of at most 32 bytes take 42 of these, beside the
/// longest identity and the key that was stored before it, before two erasures follow: flash that bears 10,000 bears
/// 400,000 commands. A renewal writes nothing.
#[derive(Debug)]
pub struct FlashRecords<F> {
    flash: F,
    range: Range<u32>,
}

/// A half whose header is whole.
#[derive(Debug, Clone, Copy)]
struct Half {
    start: u32,
    sequence: u32,
}

/// Where a half's entries end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All that follows is blank.
    Blank(u32),
    /// Something follows that no write of ours completed.
    Torn,
}

impl<F: NorFlash> FlashRecords<F> {
    /// What is read and written at once.
    const GRANULE: usize = if F::WRITE_SIZE > F::READ_SIZE { F::WRITE_SIZE } else { F::READ_SIZE };
    const FITS: () = {
        assert!(Self::GRANULE <= MAX_GRANULE && MAX_GRANULE.is_multiple_of(Self::GRANULE), "an unusual granule");
        assert!(Self::GRANULE.is_multiple_of(F::WRITE_SIZE) && Self::GRANULE.is_multiple_of(F::READ_SIZE), "an unusual granule");
        assert!(F::ERASE_SIZE.is_multiple_of(Self::GRANULE), "an unusual granule");
    };

    /// Takes a range of the flash: two or more pages, an even number; the records of a former life in it are found again.
    ///
    /// # Errors
    /// [`StorageFailed`] if the range is not whole pages within the flash, or half of it is less than 1 KB.
    pub fn new(flash: F, range: Range<u32>) -> Result<Self, StorageFailed> {
        let () = Self::FITS;
        let length = range.end.checked_sub(range.start).ok_or(StorageFailed)?;
        let page = u32::try_from(F::ERASE_SIZE).map_err(|_| StorageFailed)?;
        let is_whole = range.start.is_multiple_of(page) && length.is_multiple_of(2 * page);
        let is_within = usize::try_from(range.end).is_ok_and(|end| end <= flash.capacity());
        if !is_whole || !is_within || length < 2 * 1024 {
            return Err(StorageFailed);
        }
        let mut records = Self { flash, range };
        records.finish_move()?;
        Ok(records)
    }

    /// A power cut may have come before the half that counts no more was erased.
    fn finish_move(&mut self) -> Result<(), StorageFailed> {
        let Some(half) = self.active()? else { return Ok(()) };
        let start = if half.start == self.range.start { self.middle() } else { self.range.start };
        if self.is_blank(start..self.half_end(start))? { Ok(()) } else { self.erase_half(start) }
    }

    fn is_blank(&mut self, range: Range<u32>) -> Result<bool, StorageFailed> {
        let mut granule = [0; MAX_GRANULE];
        let granule = granule.get_mut(..Self::GRANULE).unwrap_or_default();
        for at in range.step_by(Self::GRANULE) {
            self.read(at, granule)?;
            if granule.iter().any(|byte| *byte != 0xff) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The flash, for whoever looks after it.
    pub fn flash(&mut self) -> &mut F {
        &mut self.flash
    }

    /// [`Platform::load`](crate::Platform::load).
    ///
    /// # Errors
    /// [`StorageFailed`] if the flash failed, or the record is longer than `out`.
    pub fn load(&mut self, record: Record, out: &mut [u8]) -> Result<Option<usize>, StorageFailed> {
        let Some(half) = self.active()? else { return Ok(None) };
        let mut entry = Zeroizing::new([0; MAX_ENTRY]);
        let Some(length) = self.find(half, record, &mut entry)? else { return Ok(None) };
        let payload = entry.get(ENTRY_HEADER..ENTRY_HEADER + length).ok_or(StorageFailed)?;
        out.get_mut(..length).ok_or(StorageFailed)?.copy_from_slice(payload);
        Ok(Some(length))
    }

    /// [`Platform::store`](crate::Platform::store). An empty record erases what it replaces for good.
    ///
    /// # Errors
    /// [`StorageFailed`] if the flash failed, or the record is longer than it may be.
    pub fn store(&mut self, record: Record, bytes: &[u8]) -> Result<(), StorageFailed> {
        let mut entry = Zeroizing::new([0; MAX_ENTRY]);
        let length = write_entry(&mut entry, record, bytes, Self::GRANULE)?;
        let active = self.active()?;
        if let Some(half) = active
            && !bytes.is_empty()
            && let End::Blank(at) = self.end(half)?
            && at as usize + length <= self.half_end(half.start) as usize
        {
            return self.write(at, entry.get(..length).unwrap_or_default());
        }
        self.move_with(active, record, &mut entry, length)
    }

    /// Fills the other half: what still counts, and the new entry.
    fn move_with(
        &mut self,
        from: Option<Half>,
        record: Record,
        entry: &mut [u8; MAX_ENTRY],
        length: usize,
    ) -> Result<(), StorageFailed> {
        let middle = self.middle();
        let start = if from.is_some_and(|half| half.start == self.range.start) { middle } else { self.range.start };
        self.erase_half(start)?;
        let mut at = start + HALF_HEADER.next_multiple_of(Self::GRANULE) as u32;
        self.write(at, entry.get(..length).unwrap_or_default())?;
        at += length as u32;
        if let Some(half) = from {
            for other in RECORDS.into_iter().filter(|other| *other != record) {
                entry.zeroize();
                if let Some(payload) = self.find(half, other, entry)? {
                    let length = (ENTRY_HEADER + payload).next_multiple_of(Self::GRANULE);
                    self.write(at, entry.get(..length).unwrap_or_default())?;
                    at += length as u32;
                }
            }
        }
        let mut header = [0xff; MAX_GRANULE];
        header[..4].copy_from_slice(&MAGIC);
        let sequence = from.map_or(1, |half| half.sequence.wrapping_add(1));
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        let crc = crc32(&[&header[..8]]);
        header[8..12].copy_from_slice(&crc.to_be_bytes());
        // From here on the new half counts.
        self.write(start, header.get(..HALF_HEADER.next_multiple_of(Self::GRANULE)).unwrap_or_default())?;
        match from {
            Some(half) => self.erase_half(half.start),
            None => Ok(()),
        }
    }

    /// The half that counts.
    fn active(&mut self) -> Result<Option<Half>, StorageFailed> {
        let mut found: Option<Half> = None;
        for start in [self.range.start, self.middle()] {
            let mut header = [0; MAX_GRANULE];
            self.read(start, header.get_mut(..HALF_HEADER.next_multiple_of(Self::GRANULE)).unwrap_or_default())?;
            let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let is_whole = header[..4] == MAGIC && header[8..12] == crc32(&[&header[..8]]).to_be_bytes();
            // Of two, one follows the other: the cut came before the former was erased.
            if is_whole && found.is_none_or(|other| sequence == other.sequence.wrapping_add(1)) {
                found = Some(Half { start, sequence });
            }
        }
        Ok(found)
    }

    /// The last whole entry of `record`, left in `entry`; the length of its payload.
    fn find(&mut self, half: Half, record: Record, entry: &mut [u8; MAX_ENTRY]) -> Result<Option<usize>, StorageFailed> {
        let mut found = None;
        let mut at = self.first(half);
        while let Some((of, length)) = self.entry(half, at, entry)? {
            if of == number(record) {
                found = Some(at);
            }
            at += length as u32;
        }
        let Some(at) = found else { return Ok(None) };
        self.entry(half, at, entry)?.ok_or(StorageFailed)?;
        Ok(Some(usize::from(u16::from_be_bytes([entry[0], entry[1]]))))
    }

    fn end(&mut self, half: Half) -> Result<End, StorageFailed> {
        let mut entry = Zeroizing::new([0; MAX_ENTRY]);
        let mut at = self.first(half);
        while let Some((_, length)) = self.entry(half, at, &mut entry)? {
            at += length as u32;
        }
        let is_blank = self.is_blank(at..self.half_end(half.start))?;
        Ok(if is_blank { End::Blank(at) } else { End::Torn })
    }

    /// The whole entry at `at`, left in `entry`: its record's number and its length in flash.
    fn entry(&mut self, half: Half, at: u32, entry: &mut [u8; MAX_ENTRY]) -> Result<Option<(u8, usize)>, StorageFailed> {
        let end = self.half_end(half.start);
        let head = ENTRY_HEADER.next_multiple_of(Self::GRANULE);
        if at as usize + head > end as usize {
            return Ok(None);
        }
        self.read(at, entry.get_mut(..head).unwrap_or_default())?;
        let payload = usize::from(u16::from_be_bytes([entry[0], entry[1]]));
        let length = (ENTRY_HEADER + payload).next_multiple_of(Self::GRANULE);
        if payload > MAX_RECORD || at as usize + length > end as usize {
            return Ok(None);
        }
        self.read(at, entry.get_mut(..length).unwrap_or_default())?;
        let whole = entry.get(ENTRY_HEADER..ENTRY_HEADER + payload).unwrap_or_default();
        let is_whole = entry[4..8] == crc32(&[&entry[..4], whole]).to_be_bytes();
        Ok(is_whole.then_some((entry[2], length)))
    }

    fn first(&self, half: Half) -> u32 {
        half.start + HALF_HEADER.next_multiple_of(Self::GRANULE) as u32
    }

    fn middle(&self) -> u32 {
        self.range.start + (self.range.end - self.range.start) / 2
    }

    fn half_end(&self, start: u32) -> u32 {
        if start == self.range.start { self.middle() } else { self.range.end }
    }

    fn erase_half(&mut self, start: u32) -> Result<(), StorageFailed> {
        self.flash.erase(start, self.half_end(start)).map_err(|_| StorageFailed)
    }

    fn read(&mut self, at: u32, out: &mut [u8]) -> Result<(), StorageFailed> {
        ReadNorFlash::read(&mut self.flash, at, out).map_err(|_| StorageFailed)
    }

    fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), StorageFailed> {
        self.flash.write(at, bytes).map_err(|_| StorageFailed)
    }
}

/// A record at its longest. Together with a header, all records fit the smallest half.
const fn longest(record: Record) -> usize {
    match record {
        Record::Identity => MAX_RECORD,
        Record::CommandSequence => MAX_SEQUENCE,
    }
}

/// A record's number in flash; never changed, never used again.
const fn number(record: Record) -> u8 {
    match record {
        Record::Identity => 1,
        Record::CommandSequence => 2,
    }
}

/// Length (2 bytes, big endian), record, 0, CRC (4, big endian) over these and the payload, payload, padding of ones.
fn write_entry(entry: &mut [u8; MAX_ENTRY], record: Record, payload: &[u8], granule: usize) -> Result<usize, StorageFailed> {
    entry.fill(0xff);
    let room = entry.get_mut(ENTRY_HEADER..ENTRY_HEADER + payload.len()).filter(|_| payload.len() <= longest(record));
    room.ok_or(StorageFailed)?.copy_from_slice(payload);
    let [high, low] = u16::try_from(payload.len()).map_err(|_| StorageFailed)?.to_be_bytes();
    entry[..4].copy_from_slice(&[high, low, number(record), 0]);
    let crc = crc32(&[&entry[..4], payload]);
    entry[4..8].copy_from_slice(&crc.to_be_bytes());
    Ok((ENTRY_HEADER + payload.len()).next_multiple_of(granule))
}

/// CRC-32 of IEEE 802.3, bit by bit: a few hundred bytes, a few times in a device's life.
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xedb8_8320 })
    })
}

#[cfg(test)]
#[path = "flash_tests.rs"]
mod tests;
