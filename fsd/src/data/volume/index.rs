//! Where the blocks of a volume are: in memory while it grows, a mapped flat file once it is sealed.
//!
//! The index is a cache of what the record headers say. The piece checksums are kept in it (64 KiB per
//! GiB of large blocks), so that a read costs one disk access, not two.

use super::format::{FIRST_RECORD, FormatError, PAGE, Reader, Record, Writer, read_u32, record_len};
use crate::disk::Mapping;
use cairn_common::ids::{SessionId, VolumeId};
use cairn_common::limits::{FRAME_PAYLOAD_MAX, PIECE};
use cairn_common::wire::checksum::crc32c_of_parts;
use std::ops::Range;

const MAGIC: [u8; 8] = *b"CAIRNIDX";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const HEADER_CRC: usize = 60;
const ENTRY: usize = 32;

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub sequence: u32,
    pub cookie: u32,
    pub session: SessionId,
    /// Where the payload begins, in pages.
    page: u32,
    pub payload_len: u32,
    pub summary_len: u32,
    /// Position of its first piece's checksum among those of the volume.
    first_checksum: u32,
}

impl Entry {
    /// Where the payload begins in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.page) * PAGE as u64
    }

    fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let mut fields = Writer::new(&mut bytes);
        fields.put(&self.sequence.to_be_bytes());
        fields.put(&self.cookie.to_be_bytes());
        fields.put(&self.session.0.to_be_bytes());
        fields.put(&self.page.to_be_bytes());
        fields.put(&self.payload_len.to_be_bytes());
        fields.put(&self.summary_len.to_be_bytes());
        fields.put(&self.first_checksum.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Entry {
        let mut fields = Reader::new(bytes);
        Entry {
            sequence: fields.u32(),
            cookie: fields.u32(),
            session: SessionId(fields.u64()),
            page: fields.u32(),
            payload_len: fields.u32(),
            summary_len: fields.u32(),
            first_checksum: fields.u32(),
        }
    }
}

/// The index of one volume.
pub enum Index {
    Memory(MemoryIndex),
    Mapped(MappedIndex),
}

impl Index {
    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Index::Memory(index) => index.entries.len(),
            Index::Mapped(index) => index.shape.count,
        }
    }

    /// True if there are no blocks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `position`th block, in order of sequence.
    #[must_use]
    pub fn at(&self, position: usize) -> Entry {
        match self {
            Index::Memory(index) => index.entries[position],
            Index::Mapped(index) => index.entry(position),
        }
    }

    /// Where the block `sequence` stands, or would stand.
    fn search(&self, sequence: u32) -> Result<usize, usize> {
        // Without damage the block n stands at n - 1.
        let guess = (sequence as usize).wrapping_sub(1);
        if guess < self.len() && self.at(guess).sequence == sequence {
            return Ok(guess);
        }
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.at(middle).sequence.cmp(&sequence) {
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Which block `sequence` is, for [`Index::at`].
    #[must_use]
    pub fn position(&self, sequence: u32) -> Option<usize> {
        self.search(sequence).ok()
    }

    /// The block `sequence`.
    #[must_use]
    pub fn get(&self, sequence: u32) -> Option<Entry> {
        self.position(sequence).map(|position| self.at(position))
    }

    /// Up to `limit` blocks with a sequence above `after`, in order.
    #[must_use]
    pub fn after(&self, after: u32, limit: usize) -> Vec<Entry> {
        self.positions_after(after, limit).map(|position| self.at(position)).collect()
    }

    /// Which ones these are.
    #[must_use]
    pub fn positions_after(&self, after: u32, limit: usize) -> Range<usize> {
        let Some(next) = after.checked_add(1) else { return 0..0 };
        let (Ok(from) | Err(from)) = self.search(next);
        from..self.len().min(from.saturating_add(limit))
    }

    /// The checksums of `count` pieces of a block, from its piece `first` on.
    #[must_use]
    pub fn checksums(&self, entry: &Entry, first: usize, count: usize) -> Vec<u32> {
        let from = entry.first_checksum as usize + first;
        match self {
            Index::Memory(index) => index.checksums[from..from + count].to_vec(),
            Index::Mapped(index) => (from..from + count).map(|i| index.checksum(i)).collect(),
        }
    }
}

/// An index that grows.
#[derive(Default)]
pub struct MemoryIndex {
    entries: Vec<Entry>,
    checksums: Vec<u32>,
}

impl MemoryIndex {
    /// Adds a block whose record stands at `offset`. Sequences only grow.
    pub fn push(&mut self, record: &Record, offset: u64) {
        debug_assert!(self.entries.last().is_none_or(|last| last.sequence < record.sequence));
        let page = u32::try_from(offset / PAGE as u64 + 1).expect("volumes are far below 16 TiB");
        let first_checksum = u32::try_from(self.checksums.len()).expect("far fewer pieces than pages");
        self.entries.push(Entry {
            sequence: record.sequence,
            cookie: record.cookie,
            session: record.session,
            page,
            payload_len: record.payload_len,
            summary_len: record.summary_len,
            first_checksum,
        });
        self.checksums.extend_from_slice(&record.checksums);
    }

    /// The bytes of the index file of a volume that ends at `end`: header and body.
    #[must_use]
    pub fn encode(&self, volume: VolumeId, nonce: u64, end: u64) -> (Vec<u8>, Vec<u8>) {
        let mut body = Vec::with_capacity(self.entries.len() * ENTRY + self.checksums.len() * 4);
        self.entries.iter().for_each(|entry| body.extend_from_slice(&entry.encode()));
        self.checksums.iter().for_each(|checksum| body.extend_from_slice(&checksum.to_be_bytes()));

        let mut header = vec![0; HEADER];
        let mut fields = Writer::new(&mut header);
        fields.put(&MAGIC);
        fields.put(&VERSION.to_be_bytes());
        fields.put(&volume.0.to_be_bytes());
        fields.put(&nonce.to_be_bytes());
        fields.put(&end.to_be_bytes());
        fields.put(&u32::try_from(self.entries.len()).expect("sequences are 32 bits").to_be_bytes());
        fields.put(&u32::try_from(self.checksums.len()).expect("checked at push").to_be_bytes());
        fields.put(&crc32c_of_parts(&[&body]).to_be_bytes());
        let crc = crc32c_of_parts(&[&header[..HEADER_CRC]]);
        header[HEADER_CRC..].copy_from_slice(&crc.to_be_bytes());
        (header, body)
    }
}

/// What the header of a good index file says.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of the file.
    length: usize,
    count: usize,
    end: u64,
}

impl Shape {
    /// Checks an index file that was read against the volume it should belong to.
    pub fn verify(bytes: &[u8], volume: VolumeId, nonce: u64) -> Result<Shape, FormatError> {
        if bytes.len() < HEADER || bytes[..8] != MAGIC {
            return Err(FormatError::Magic);
        }
        if crc32c_of_parts(&[&bytes[..HEADER_CRC]]) != read_u32(bytes, HEADER_CRC) {
            return Err(FormatError::Checksum);
        }
        let mut fields = Reader::new(&bytes[8..HEADER]);
        match fields.u32() {
            VERSION => {}
            other => return Err(FormatError::Version(other)),
        }
        if fields.u32() != volume.0 || fields.u64() != nonce {
            return Err(FormatError::Field);
        }
        let end = fields.u64();
        let (count, checksums) = (fields.u32() as usize, fields.u32() as usize);
        let body = &bytes[HEADER..];
        if body.len() != count * ENTRY + checksums * 4 {
            return Err(FormatError::Field);
        }
        if crc32c_of_parts(&[body]) != fields.u32() {
            return Err(FormatError::Checksum);
        }
        let shape = Shape { length: bytes.len(), count, end };
        shape.validate(bytes, checksums)?;
        Ok(shape)
    }

    /// Checks what a right checksum does not prove: that nothing points outside, or into another block.
    fn validate(&self, bytes: &[u8], checksums: usize) -> Result<(), FormatError> {
        let (mut last, mut free) = (0, FIRST_RECORD);
        for position in 0..self.count {
            let entry = entry_at(bytes, position);
            let length = entry.payload_len as usize;
            let has_checksums = entry.first_checksum as usize + length.div_ceil(PIECE) <= checksums;
            let sized = (1..=FRAME_PAYLOAD_MAX).contains(&length) && entry.summary_len <= entry.payload_len;
            if entry.sequence <= last || entry.offset() < free + PAGE as u64 || !sized || !has_checksums {
                return Err(FormatError::Field);
            }
            last = entry.sequence;
            free = entry.offset() - PAGE as u64 + record_len(length);
        }
        if self.end >= free && self.end.is_multiple_of(PAGE as u64) {
            Ok(())
        } else {
            Err(FormatError::Field)
        }
    }
}

/// An index in a mapped file, all of which was read and verified before.
pub struct MappedIndex {
    bytes: Mapping,
    shape: Shape,
}

impl MappedIndex {
    /// The mapping of the file that was verified.
    pub fn new(bytes: Mapping, shape: Shape) -> Result<MappedIndex, FormatError> {
        if bytes.len() == shape.length { Ok(MappedIndex { bytes, shape }) } else { Err(FormatError::Field) }
    }

    /// Where the volume ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.shape.end
    }

    fn entry(&self, position: usize) -> Entry {
        entry_at(&self.bytes, position)
    }

    fn checksum(&self, position: usize) -> u32 {
        read_u32(&self.bytes, HEADER + self.shape.count * ENTRY + position * 4)
    }
}

fn entry_at(bytes: &[u8], position: usize) -> Entry {
    let from = HEADER + position * ENTRY;
    Entry::decode(&bytes[from..from + ENTRY])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::super::format::RecordKind;
    use super::*;

    fn record(sequence: u32, checksums: Vec<u32>) -> Record {
        Record {
            kind: RecordKind::Block,
            sequence,
            cookie: sequence * 10,
            session: SessionId(1),
            payload_len: u32::try_from(checksums.len() * PIECE).unwrap() - 5,
            summary_len: 2,
            durable: 0,
            checksums,
        }
    }

    fn sample() -> MemoryIndex {
        let mut index = MemoryIndex::default();
        index.push(&record(1, vec![11, 12]), 4096);
        // A gap, as damage leaves.
        index.push(&record(4, vec![41]), 200_704);
        index
    }

    fn mapped(bytes: Vec<u8>) -> Result<MappedIndex, FormatError> {
        let shape = Shape::verify(&bytes, VolumeId(3), 77)?;
        MappedIndex::new(Box::new(bytes), shape)
    }

    fn encoded() -> Vec<u8> {
        let (header, body) = sample().encode(VolumeId(3), 77, 1 << 20);
        [header, body].concat()
    }

    #[test]
    fn golden_bytes() {
        let hex: String = encoded()[..96].iter().map(|b| format!("{b:02x}")).collect();
        let header = "434149524e4944580000000100000003000000000000004d0000000000100000\
                      00000002000000035e3277c900000000000000000000000000000000a33e156f";
        let entry = "000000010000000a0000000000000001000000020001fffb0000000200000000";
        assert_eq!(hex, [header, entry].concat());
        assert_eq!(encoded().len(), 64 + 2 * 32 + 3 * 4);
    }

    #[test]
    fn mapped_equals_memory() {
        let memory = Index::Memory(sample());
        let mapped = Index::Mapped(mapped(encoded()).unwrap());
        for index in [&memory, &mapped] {
            assert_eq!(index.len(), 2);
            let first = index.get(1).unwrap();
            assert_eq!((first.cookie, first.offset()), (10, 8192));
            assert_eq!(index.checksums(&first, 1, 1), [12]);
            let second = index.get(4).unwrap();
            assert_eq!(index.checksums(&second, 0, 1), [41]);
            for missing in [0, 2, 3, 5, u32::MAX] {
                assert_eq!(index.get(missing), None);
            }
            assert_eq!(index.after(0, 9).len(), 2);
            assert_eq!(index.after(1, 9)[0].sequence, 4);
            assert_eq!(index.after(0, 1).len(), 1);
            assert!(index.after(4, 9).is_empty() && index.after(u32::MAX, 9).is_empty());
        }
    }

    /// The daemon believed an end within a page (found by fuzzing), and blocks longer than there are (found on reading).
    #[test]
    fn with_right_checksums_what_points_elsewhere_is_refused() {
        let refused = |entries: Vec<Entry>, end: u64| {
            let (header, body) = MemoryIndex { entries, ..sample() }.encode(VolumeId(3), 77, end);
            mapped([header, body].concat()).err() == Some(FormatError::Field)
        };
        let [first, second] = [sample().entries[0], sample().entries[1]];
        assert!(!refused(vec![first, second], 1 << 20));
        assert!(!refused(Vec::new(), FIRST_RECORD) && refused(Vec::new(), 0));
        assert!(refused(vec![first, second], (1 << 20) + 1), "the end is within a page");
        assert!(refused(vec![first, second], 200_704), "the end is before the last block");
        let end_of_first = 8192 + 2 * PIECE as u64;
        assert!(!refused(vec![first], end_of_first) && refused(vec![first], end_of_first - PAGE as u64));
        let longest = u32::try_from(FRAME_PAYLOAD_MAX).unwrap();
        for bad in [
            Entry { page: 1, ..first },
            Entry { payload_len: 0, summary_len: 0, ..first },
            Entry { payload_len: longest + 1, ..first },
            Entry { summary_len: first.payload_len + 1, ..first },
            Entry { first_checksum: 2, ..first },
            Entry { page: second.page, ..first },
        ] {
            assert!(refused(vec![bad, second], 1 << 30), "{bad:?}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = encoded();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(mapped(bytes).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(mapped(good[..len].to_vec()).is_err(), "length {len}");
        }
        assert!(Shape::verify(&good, VolumeId(3), 78).is_err());
        let shape = Shape::verify(&good, VolumeId(3), 77).unwrap();
        assert!(MappedIndex::new(Box::new(good[1..].to_vec()), shape).is_err(), "not the file that was read");
    }
}
