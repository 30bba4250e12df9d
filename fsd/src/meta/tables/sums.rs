//! What each part of the tables' file must read as: a checksum for each 4 KiB, kept in a file beside it.
//!
//! redb has a checksum of each page in the page above it, and compares none when it reads. Here is what is known, what
//! of it has yet to be stored, and how it is stored: sectors that a torn write leaves old or new, each with its own
//! number and checksum. Drawn in `docs/formats/metadata.md`. No I/O here.

use cairn_common::wire::checksum::crc32c;
use std::collections::BTreeSet;

/// Bytes of the tables that have one sum: redb's page, so it never writes or reads less, but for its header.
pub const UNIT: usize = 4096;
/// What a disk writes as a whole.
pub const SECTOR: usize = 512;
/// First bytes of each sector; the last one is the format's version.
const MAGIC: [u8; 4] = *b"CSU\x01";
/// Sums in a sector.
const PER_SECTOR: usize = 124;
/// Unit 0 is redb's header, the only one that is changed in place: it has two slots, and the others follow.
const FIRST_SLOT: usize = 1;

/// The sum of one unit; never 0, which means that it is not known.
#[must_use]
pub fn sum_of(unit: &[u8]) -> u32 {
    crc32c(unit).max(1)
}

/// Sectors one after the other, to be written at `offset`.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// See the module.
pub struct Sums {
    /// The header as it is durable, the header as it may be by now, then units from 1 on.
    slots: Vec<u32>,
    /// Sectors that have yet to be stored.
    dirty: BTreeSet<usize>,
}

impl Sums {
    /// Nothing is known about `units` units.
    #[must_use]
    pub fn unknown(units: usize) -> Sums {
        let mut sums = Sums { slots: Vec::new(), dirty: BTreeSet::new() };
        sums.resize(units);
        sums
    }

    /// As they were stored. `None` if a sector is damaged or missing. What lies behind them is of a file that was longer.
    #[must_use]
    pub fn decode(stored: &[u8], units: usize) -> Option<Sums> {
        let count = slots_of(units);
        let mut slots = Vec::with_capacity(count.next_multiple_of(PER_SECTOR));
        for number in 0..count.div_ceil(PER_SECTOR) {
            let sector = stored.get(number * SECTOR..(number + 1) * SECTOR)?;
            decode_sector(sector, number, &mut slots)?;
        }
        slots.truncate(count);
        Some(Sums { slots, dirty: BTreeSet::new() })
    }

    /// Whether the header may read like this.
    #[must_use]
    pub fn header_fits(&self, sum: u32) -> bool {
        self.slots[..=FIRST_SLOT].contains(&sum)
    }

    /// The header is `durable`, and about to become `next`: a crash leaves one of them.
    pub fn set_header(&mut self, durable: u32, next: u32) {
        self.set_slot(0, durable);
        self.set_slot(FIRST_SLOT, next);
    }

    /// Of a unit that is not the header; 0 if it is not known.
    #[must_use]
    pub fn get(&self, unit: usize) -> u32 {
        self.slots.get(unit + FIRST_SLOT).copied().unwrap_or(0)
    }

    /// Of a unit that is not the header.
    pub fn set(&mut self, unit: usize, sum: u32) {
        self.set_slot(unit + FIRST_SLOT, sum);
    }

    fn set_slot(&mut self, slot: usize, sum: u32) {
        if let Some(old) = self.slots.get_mut(slot)
            && *old != sum
        {
            *old = sum;
            self.dirty.insert(slot / PER_SECTOR);
        }
    }

    /// The file has so many units now; nothing is known of those that are new. True if it is longer than before.
    pub fn resize(&mut self, units: usize) -> bool {
        let (old, new) = (self.slots.len(), slots_of(units));
        self.slots.resize(new, 0);
        // What stands on disk for slots that are gone must not be there when they come back.
        let first = old.min(new) / PER_SECTOR;
        let end = new.div_ceil(PER_SECTOR);
        self.dirty.split_off(&end);
        if old != new {
            self.dirty.extend(first..end);
        }
        new > old
    }

    /// Everything has yet to be stored.
    pub fn mark_all(&mut self) {
        self.dirty.extend(0..self.slots.len().div_ceil(PER_SECTOR));
    }

    /// What has yet to be stored; from now on it counts as stored.
    #[must_use]
    pub fn take_dirty(&mut self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for number in std::mem::take(&mut self.dirty) {
            let offset = (number * SECTOR) as u64;
            let sector = self.encode_sector(number);
            match runs.last_mut() {
                Some(run) if run.offset + run.bytes.len() as u64 == offset => run.bytes.extend(sector),
                _ => runs.push(Run { offset, bytes: sector.to_vec() }),
            }
        }
        runs
    }

    fn encode_sector(&self, number: usize) -> [u8; SECTOR] {
        let mut sector = [0; SECTOR];
        let (content, check) = sector.split_at_mut(SECTOR - 4);
        content[..4].copy_from_slice(&MAGIC);
        content[4..12].copy_from_slice(&(number as u64).to_be_bytes());
        let slots = self.slots.iter().skip(number * PER_SECTOR);
        for (place, slot) in content[12..].chunks_exact_mut(4).zip(slots) {
            place.copy_from_slice(&slot.to_be_bytes());
        }
        check.copy_from_slice(&crc32c(content).to_be_bytes());
        sector
    }
}

/// Slots for `units` units; the header's are always there.
fn slots_of(units: usize) -> usize {
    units.max(1) + FIRST_SLOT
}

fn decode_sector(sector: &[u8], number: usize, slots: &mut Vec<u32>) -> Option<()> {
    let (content, check) = sector.split_last_chunk::<4>()?;
    let (head, sums) = content.split_first_chunk::<12>()?;
    let (magic, stored_number) = head.split_at(4);
    let fits = crc32c(content) == u32::from_be_bytes(*check)
        && magic == MAGIC
        && stored_number == (number as u64).to_be_bytes();
    let (sums, _) = sums.as_chunks::<4>();
    slots.extend(sums.iter().map(|sum| u32::from_be_bytes(*sum)));
    fits.then_some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    /// The file after everything that is dirty was written.
    fn store(sums: &mut Sums, file: &mut Vec<u8>) {
        for run in sums.take_dirty() {
            let at = usize::try_from(run.offset).unwrap();
            file.resize(file.len().max(at + run.bytes.len()), 0);
            file[at..at + run.bytes.len()].copy_from_slice(&run.bytes);
        }
    }

    #[test]
    fn golden_sector() {
        let mut sums = Sums::unknown(4);
        sums.set_header(0x0102_0304, 0x0506_0708);
        sums.set(1, 0x090a_0b0c);
        sums.set(3, 0xffff_ffff);
        let [Run { offset: 0, bytes }]: [Run; 1] = sums.take_dirty().try_into().unwrap() else {
            panic!("one sector")
        };
        let mut expected =
            b"CSU\x01\0\0\0\0\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c".to_vec();
        expected.extend([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        expected.resize(508, 0);
        expected.extend([0x1f, 0xd9, 0x60, 0x55]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn comes_back_as_it_was_stored_and_only_what_changed_is_written() {
        let mut file = Vec::new();
        let mut sums = Sums::unknown(1000);
        store(&mut sums, &mut file);
        assert_eq!(file.len(), 1001_usize.div_ceil(PER_SECTOR) * SECTOR);
        for unit in [1, 122, 123, 500, 999] {
            sums.set(unit, u32::try_from(unit).unwrap());
        }
        let offsets: Vec<u64> = sums.dirty.iter().map(|sector| (sector * SECTOR) as u64).collect();
        store(&mut sums, &mut file);
        assert_eq!(offsets, [0, 512, 4 * 512, 8 * 512]);
        sums.set(500, 500);
        assert!(sums.take_dirty().is_empty(), "it was so before");
        let read = Sums::decode(&file, 1000).unwrap();
        assert_eq!(read.slots, sums.slots);
        assert!([1, 122, 123, 500, 999].iter().all(|unit| read.get(*unit) as usize == *unit));
    }

    #[test]
    fn neighbours_are_written_at_once() {
        let mut sums = Sums::unknown(1000);
        let [run]: [Run; 1] = sums.take_dirty().try_into().unwrap();
        assert_eq!((run.offset, run.bytes.len()), (0, 9 * SECTOR));
    }

    /// A file that was cut and grew again does not know the sums from before.
    #[test]
    fn what_was_cut_is_forgotten_on_disk_too() {
        let mut file = Vec::new();
        let mut sums = Sums::unknown(500);
        (1..500).for_each(|unit| sums.set(unit, 7));
        store(&mut sums, &mut file);
        assert!(!sums.resize(200));
        store(&mut sums, &mut file);
        assert!(sums.resize(400));
        store(&mut sums, &mut file);
        let read = Sums::decode(&file, 400).unwrap();
        assert_eq!((read.get(199), read.get(200), read.get(399)), (7, 0, 0));
        assert!(Sums::decode(&file[..SECTOR], 400).is_none(), "the end is missing");
    }

    #[test]
    fn a_changed_bit_anywhere_is_found() {
        let mut file = Vec::new();
        store(&mut Sums::unknown(200), &mut file);
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(Sums::decode(&file, 200).is_none(), "bit {bit}");
            file[bit / 8] ^= 1 << (bit % 8);
        }
        let (first, second) = file.split_at_mut(SECTOR);
        first.swap_with_slice(second);
        assert!(Sums::decode(&file, 200).is_none(), "sectors in the wrong place");
    }

    #[test]
    fn the_header_may_be_the_old_or_the_new() {
        let mut sums = Sums::unknown(2);
        sums.set_header(5, 6);
        assert!(sums.header_fits(5) && sums.header_fits(6) && !sums.header_fits(7));
        assert_eq!(sum_of(&[]), 1, "0 is kept for what is not known");
    }
}
