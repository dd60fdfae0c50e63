//! Records on NOR flash whose power goes at every write and every erasure.

use super::*;
use embedded_storage::nor_flash::{ErrorType, NorFlashError, NorFlashErrorKind};
use std::vec::Vec;

const PAGE: usize = 1024;
const CAPACITY: usize = 4 * PAGE;

/// NOR flash that loses power at the `n`-th granule written or page erased, and leaves that one half done; or fails a read.
#[derive(Debug, Clone)]
struct Nor<const WRITE: usize> {
    bytes: Vec<u8>,
    /// Granules written since they were erased: a second write is a mistake.
    written: Vec<bool>,
    until_cut: Option<usize>,
    /// Reads that succeed before one fails.
    until_misread: Option<usize>,
    is_off: bool,
    random: u64,
    writes: usize,
    erasures: usize,
}

#[derive(Debug)]
struct NoPower;

impl NorFlashError for NoPower {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl<const WRITE: usize> Nor<WRITE> {
    fn new(filled_with: u8) -> Self {
        Self {
            bytes: std::vec![filled_with; CAPACITY],
            written: std::vec![filled_with != 0xff; CAPACITY / WRITE],
            until_cut: None,
            until_misread: None,
            is_off: false,
            random: 1,
            writes: 0,
            erasures: 0,
        }
    }

    fn random(&mut self) -> u8 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 56) as u8
    }

    /// Whether this operation is the one that is cut.
    fn is_cut(&mut self) -> Result<bool, NoPower> {
        if self.is_off {
            return Err(NoPower);
        }
        self.is_off = self.until_cut == Some(0);
        self.until_cut = self.until_cut.map(|left| left.saturating_sub(1));
        Ok(self.is_off)
    }

    fn power_again(&mut self, until_cut: Option<usize>) {
        self.is_off = false;
        self.until_cut = until_cut;
    }

    fn contains(&self, bytes: &[u8]) -> bool {
        self.bytes.windows(bytes.len()).any(|window| window == bytes)
    }
}

impl<const WRITE: usize> ErrorType for Nor<WRITE> {
    type Error = NoPower;
}

impl<const WRITE: usize> ReadNorFlash for Nor<WRITE> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NoPower> {
        let is_misread = self.until_misread == Some(0);
        self.until_misread = self.until_misread.and_then(|left| left.checked_sub(1));
        if self.is_off || is_misread {
            return Err(NoPower);
        }
        bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }
}

impl<const WRITE: usize> NorFlash for Nor<WRITE> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = PAGE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NoPower> {
        assert!((from as usize).is_multiple_of(PAGE) && (to as usize).is_multiple_of(PAGE) && from < to);
        for page in (from as usize..to as usize).step_by(PAGE) {
            let is_cut = self.is_cut()?;
            self.erasures += 1;
            for at in page..page + PAGE {
                if !is_cut || self.random().is_multiple_of(2) {
                    self.bytes[at] = 0xff;
                }
            }
            if is_cut {
                return Err(NoPower);
            }
            self.written[page / WRITE..(page + PAGE) / WRITE].fill(false);
        }
        Ok(())
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NoPower> {
        assert!((offset as usize).is_multiple_of(WRITE) && bytes.len().is_multiple_of(WRITE));
        self.writes += 1;
        for (granule, bytes) in (offset as usize / WRITE..).zip(bytes.chunks(WRITE)) {
            let is_cut = self.is_cut()?;
            assert!(!core::mem::replace(&mut self.written[granule], true), "granule {granule} is written twice");
            for (at, byte) in (granule * WRITE..).zip(bytes) {
                // A cut leaves some of the bits unset.
                let kept = if is_cut { self.random() } else { 0 };
                self.bytes[at] &= byte | kept;
            }
            if is_cut {
                return Err(NoPower);
            }
        }
        Ok(())
    }
}

fn records<const WRITE: usize>(flash: Nor<WRITE>) -> Result<FlashRecords<Nor<WRITE>>, StorageFailed> {
    FlashRecords::new(flash, 0..CAPACITY as u32)
}

fn loaded<const WRITE: usize>(records: &mut FlashRecords<Nor<WRITE>>, record: Record) -> Option<Vec<u8>> {
    let mut out = [0; MAX_RECORD];
    let length = records.load(record, &mut out).expect("the flash works")?;
    Some(out[..length].to_vec())
}

fn sequence_record(sequence: u64) -> Vec<u8> {
    [sequence.to_be_bytes().as_slice(), b"lamp"].concat()
}

/// A life of a device: enrolled, commanded, enrolled anew, commanded; long enough that halves fill up.
fn life() -> Vec<(Record, Vec<u8>)> {
    let identity = |fill: u8, length| (Record::Identity, std::vec![fill; length]);
    let commands = |from: u64, to| (from..to).map(|sequence: u64| (Record::CommandSequence, sequence_record(sequence)));
    let mut life = std::vec![identity(0xa1, 97), identity(0xa1, 400)];
    life.extend(commands(0, 40));
    life.extend([identity(0, 0), identity(0xb2, 97), identity(0xb2, MAX_RECORD)]);
    life.extend(commands(40, 60));
    life
}

#[test]
fn what_was_stored_last_is_loaded_also_from_flash_full_of_anything() {
    for filled_with in [0xff, 0, 0x5a] {
        let mut records = records(Nor::<4>::new(filled_with)).expect("fits");
        assert_eq!(loaded(&mut records, Record::Identity), None);
        let mut last = [None, None];
        for (record, bytes) in life() {
            records.store(record, &bytes).expect("the flash works");
            last[usize::from(record == Record::Identity)] = Some(bytes);
            for record in RECORDS {
                assert_eq!(loaded(&mut records, record), last[usize::from(record == Record::Identity)]);
            }
        }
    }
}

/// Cuts the power at each granule and each page of a life, and once more at each step of the recovery.
fn survives_power_cuts<const WRITE: usize>() {
    let mut cuts = 0;
    for cut in 0.. {
        let mut records = records(Nor::<WRITE>::new(0xff)).expect("fits");
        records.flash().until_cut = Some(cut);
        let mut before: [Option<Vec<u8>>; 2] = [None, None];
        let interrupted = life().into_iter().find(|(record, bytes)| {
            let stored = records.store(*record, bytes);
            if stored.is_ok() {
                before[usize::from(*record == Record::Identity)] = Some(bytes.clone());
            }
            stored.is_err()
        });
        let Some((record, bytes)) = interrupted else { break };
        cuts += 1;
        let mut flash = records.flash().clone();
        for cut_again in 0..8 {
            flash.power_again(Some(cut_again));
            if let Ok(mut records) = self::records(flash.clone()) {
                let _ = records.store(Record::CommandSequence, &[7; MAX_SEQUENCE]);
                if let Ok(Some(MAX_SEQUENCE)) = records.load(Record::CommandSequence, &mut [0; MAX_SEQUENCE]) {
                    before[0] = loaded(&mut records, Record::CommandSequence);
                }
                flash = records.flash().clone();
            }
        }
        flash.power_again(None);
        let mut records = self::records(flash).expect("there is power");
        let (identity, sequence) = (loaded(&mut records, Record::Identity), loaded(&mut records, Record::CommandSequence));
        let new = Some(bytes);
        assert!(identity == before[1] || record == Record::Identity && identity == new, "cut {cut}: {identity:?}");
        let is_ours = sequence == Some([7; MAX_SEQUENCE].to_vec()) || sequence == before[0];
        assert!(is_ours || record == Record::CommandSequence && sequence == new, "cut {cut}: {sequence:?}");
        records.store(Record::Identity, b"life goes on").expect("there is power");
        assert_eq!(loaded(&mut records, Record::Identity).as_deref(), Some(b"life goes on".as_slice()));
    }
    assert!(cuts > 100, "{cuts}");
}

#[test]
fn a_power_cut_at_any_write_or_erasure_leaves_the_old_record_or_the_new_one() {
    survives_power_cuts::<4>();
    survives_power_cuts::<8>();
    survives_power_cuts::<32>();
}

/// Fails each read of a start and of a command once, with a half that has room and with one that is full.
#[test]
fn a_read_that_fails_is_told_and_costs_no_record() {
    let identity = [0xa1; 400];
    for commands in [1, 100] {
        let mut records = records(Nor::<8>::new(0xff)).expect("fits");
        records.store(Record::Identity, &identity).expect("the flash works");
        let mut stored = 0_u64;
        let mut misreads = 0;
        for sequence in 1..=commands {
            records.store(Record::CommandSequence, &sequence_record(sequence)).expect("the flash works");
            stored = sequence;
        }
        let healthy = records.flash().clone();
        for misread in 0.. {
            let mut flash = healthy.clone();
            flash.until_misread = Some(misread);
            // It begins anew after a failure, as a board does that panics.
            let mut records = self::records(flash.clone()).unwrap_or_else(|StorageFailed| {
                flash.until_misread = None;
                self::records(flash).expect("read at the second time")
            });
            let mut out = [0; MAX_RECORD];
            let loaded = records.load(Record::Identity, &mut out);
            assert!(loaded.is_err() || loaded == Ok(Some(400)) && out[..400] == identity, "{misread}: {loaded:?}");
            assert_eq!(records.flash().bytes, healthy.bytes, "{misread}: a failure to read is no reason to write");
            let told = records.store(Record::CommandSequence, &sequence_record(stored + 1));
            let all_was_read = records.flash().until_misread.take().is_some();
            assert_eq!(self::loaded(&mut records, Record::Identity).as_deref(), Some(identity.as_slice()), "{misread}");
            let now = self::loaded(&mut records, Record::CommandSequence).expect("stored");
            let (old, new) = (sequence_record(stored), sequence_record(stored + 1));
            assert!(now == new || told.is_err() && now == old, "{misread}: {told:?} {now:?}");
            if all_was_read {
                break;
            }
            misreads += 1;
        }
        assert!(misreads > 20, "{misreads}");
    }
}

#[test]
fn an_erased_identity_leaves_nothing_behind_whatever_happens_to_the_power() {
    let secret = [0xa1; 16];
    for cut in [None].into_iter().chain((0..).map(Some)) {
        let mut records = records(Nor::<4>::new(0xff)).expect("fits");
        records.store(Record::Identity, &[0xa1; 200]).expect("there is power");
        records.flash().until_cut = cut;
        let erased = records.store(Record::Identity, &[]);
        let mut flash = records.flash().clone();
        let was_cut = flash.is_off;
        flash.power_again(None);
        let mut records = self::records(flash).expect("there is power");
        match loaded(&mut records, Record::Identity) {
            Some(bytes) if bytes.is_empty() => assert!(!records.flash().contains(&secret), "{cut:?}"),
            old => assert_eq!((old, erased), (Some([0xa1; 200].to_vec()), Err(StorageFailed)), "{cut:?}"),
        }
        if cut.is_some() && !was_cut {
            break;
        }
    }
}

#[test]
fn forty_two_writes_of_the_sequence_erase_nothing() {
    let mut records = FlashRecords::new(Nor::<32>::new(0xff), 0..CAPACITY as u32).expect("fits");
    for length in [97, MAX_RECORD] {
        records.store(Record::Identity, &std::vec![1; length]).expect("there is power");
    }
    let (writes, erasures) = (records.flash().writes, records.flash().erasures);
    for sequence in 0..42_u64 {
        records.store(Record::CommandSequence, &sequence_record(sequence)).expect("there is power");
    }
    assert_eq!((records.flash().writes - writes, records.flash().erasures - erasures), (42, 0));
}

#[test]
fn a_range_that_is_not_whole_pages_is_refused_and_so_is_a_record_too_long() {
    for range in [0..1024, 0..3072, 512..4096, 4096..8192] {
        assert!(FlashRecords::new(Nor::<4>::new(0xff), range).is_err());
    }
    let mut records = records(Nor::<4>::new(0xff)).expect("fits");
    assert_eq!(records.store(Record::Identity, &[0; MAX_RECORD + 1]), Err(StorageFailed));
    records.store(Record::Identity, &[0; 9]).expect("fits");
    assert_eq!(records.load(Record::Identity, &mut [0; 8]), Err(StorageFailed));
}
