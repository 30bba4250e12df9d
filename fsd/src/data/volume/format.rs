//! Bytes of a volume file: the superblock and the record headers. Drawn in `docs/formats/volume.md`.
//!
//! All numbers are big-endian. Everything starts on a page, so that punching a hole gives the whole
//! payload back, and a header with its piece checksums is exactly one page.

use cairn_common::ids::{ClusterId, NodeId, SessionId, VolumeId};
use cairn_common::limits::{FRAME_PAYLOAD_MAX, PIECE};
use cairn_common::wire::checksum::crc32c_of_parts;

/// Alignment of records and payloads, and the size of the superblock and of a record header.
pub const PAGE: usize = 4096;
/// [`PAGE`] as a file offset: where the first record begins.
pub const FIRST_RECORD: u64 = PAGE as u64;

const VOLUME_MAGIC: [u8; 8] = *b"CAIRNVOL";
const VOLUME_VERSION: u32 = 1;
const RECORD_MAGIC: u32 = u32::from_be_bytes(*b"CBLK");
/// Bytes of a record header before its piece checksums.
const RECORD_FIXED: usize = 64;
/// Where the CRC stands in a superblock and in a record header.
const SUPER_CRC: usize = 60;
const RECORD_CRC: usize = 60;

// One page holds the checksums of the largest payload.
const _: () = assert!(RECORD_FIXED + FRAME_PAYLOAD_MAX.div_ceil(PIECE) * 4 <= PAGE);

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("not a file of this kind")]
    Magic,
    #[error("written by a newer version ({0})")]
    Version(u32),
    #[error("checksum mismatch")]
    Checksum,
    #[error("field out of range")]
    Field,
}

/// First page of a volume file. Never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub volume: VolumeId,
    /// Seconds since 1970.
    pub created: u64,
    /// Random, repeated in each record and never sent to anyone: file content made to look like a
    /// record can't be taken for one.
    pub nonce: u64,
}

impl Superblock {
    /// The page as stored.
    #[must_use]
    pub fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let mut fields = Writer::new(&mut page);
        fields.put(&VOLUME_MAGIC);
        fields.put(&VOLUME_VERSION.to_be_bytes());
        fields.put(&self.volume.0.to_be_bytes());
        fields.put(&self.cluster.0.to_be_bytes());
        fields.put(&self.node.0.to_be_bytes());
        fields.put(&u32::try_from(PIECE).expect("a piece is small").to_be_bytes());
        fields.put(&self.created.to_be_bytes());
        fields.put(&self.nonce.to_be_bytes());
        let crc = crc32c_of_parts(&[&page[..SUPER_CRC]]);
        page[SUPER_CRC..SUPER_CRC + 4].copy_from_slice(&crc.to_be_bytes());
        page
    }

    /// Reads a superblock back.
    pub fn decode(page: &[u8; PAGE]) -> Result<Superblock, FormatError> {
        let mut fields = Reader::new(page);
        if fields.take() != VOLUME_MAGIC {
            return Err(FormatError::Magic);
        }
        // Before the version is believed: a rotten page is not a newer format.
        if crc32c_of_parts(&[&page[..SUPER_CRC]]) != read_u32(page, SUPER_CRC) {
            return Err(FormatError::Checksum);
        }
        match fields.u32() {
            VOLUME_VERSION => {}
            other => return Err(FormatError::Version(other)),
        }
        let volume = VolumeId(fields.u32());
        let cluster = ClusterId(u128::from_be_bytes(fields.take()));
        let node = NodeId(fields.u32());
        if fields.u32() as usize != PIECE {
            return Err(FormatError::Field);
        }
        Ok(Superblock { cluster, node, volume, created: fields.u64(), nonce: fields.u64() })
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A block: header, then payload.
    Block,
    /// No payload: everything before was durable when the daemon stopped in order.
    Stop,
    /// No payload: nothing follows, ever.
    Seal,
    /// No payload: all before is durable, and the next record is written over this one.
    Mark,
}

impl RecordKind {
    fn code(self) -> u32 {
        match self {
            RecordKind::Block => 1,
            RecordKind::Stop => 2,
            RecordKind::Seal => 3,
            RecordKind::Mark => 4,
        }
    }

    fn from_code(code: u32) -> Option<RecordKind> {
        [RecordKind::Block, RecordKind::Stop, RecordKind::Seal, RecordKind::Mark]
            .into_iter()
            .find(|k| k.code() == code)
    }
}

/// Header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    /// Number of the block; of another record, that of the last block before.
    pub sequence: u32,
    pub cookie: u32,
    pub session: SessionId,
    pub payload_len: u32,
    pub summary_len: u32,
    /// The file was durable below this offset when the header was made. Recovery believes payloads
    /// below the greatest one it meets, and verifies those above.
    pub durable: u64,
    pub checksums: Vec<u32>,
}

impl Record {
    /// One that is no block: behind block `sequence` of a file that was durable below `durable`.
    #[must_use]
    pub fn without_payload(kind: RecordKind, sequence: u32, durable: u64) -> Record {
        let session = SessionId::NOBODY;
        let (cookie, payload_len, summary_len, checksums) = (0, 0, 0, Vec::new());
        Record { kind, sequence, cookie, session, payload_len, summary_len, durable, checksums }
    }

    /// The header page as stored at `offset` in the volume with `nonce`.
    #[must_use]
    pub fn encode(&self, nonce: u64, offset: u64) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let mut fields = Writer::new(&mut page);
        fields.put(&RECORD_MAGIC.to_be_bytes());
        fields.put(&self.kind.code().to_be_bytes());
        fields.put(&nonce.to_be_bytes());
        fields.put(&offset.to_be_bytes());
        fields.put(&self.durable.to_be_bytes());
        fields.put(&self.session.0.to_be_bytes());
        fields.put(&self.sequence.to_be_bytes());
        fields.put(&self.cookie.to_be_bytes());
        fields.put(&self.payload_len.to_be_bytes());
        fields.put(&self.summary_len.to_be_bytes());
        fields.put(&u32::try_from(self.checksums.len()).expect("fits a page").to_be_bytes());
        fields.skip(4);
        for checksum in &self.checksums {
            fields.put(&checksum.to_be_bytes());
        }
        let crc = record_crc(&page, self.checksums.len());
        page[RECORD_CRC..RECORD_CRC + 4].copy_from_slice(&crc.to_be_bytes());
        page
    }

    /// Reads the header that should stand at `offset` in the volume with `nonce`.
    pub fn decode(page: &[u8; PAGE], nonce: u64, offset: u64) -> Result<Record, FormatError> {
        let mut fields = Reader::new(page);
        if fields.u32() != RECORD_MAGIC {
            return Err(FormatError::Magic);
        }
        let kind = fields.u32();
        if fields.u64() != nonce || fields.u64() != offset {
            return Err(FormatError::Magic);
        }
        let (durable, session) = (fields.u64(), SessionId(fields.u64()));
        let (sequence, cookie) = (fields.u32(), fields.u32());
        let (payload_len, summary_len) = (fields.u32(), fields.u32());
        let count = fields.u32() as usize;
        if payload_len as usize > FRAME_PAYLOAD_MAX || count != (payload_len as usize).div_ceil(PIECE) {
            return Err(FormatError::Field);
        }
        if record_crc(page, count) != fields.u32() {
            return Err(FormatError::Checksum);
        }
        let kind = RecordKind::from_code(kind).ok_or(FormatError::Field)?;
        // A mark is only ever written where all before it is durable.
        let durable_fits = if kind == RecordKind::Mark { durable == offset } else { durable <= offset };
        if summary_len > payload_len || !durable_fits || (kind == RecordKind::Block) != (payload_len > 0) {
            return Err(FormatError::Field);
        }
        let checksums = (0..count).map(|_| fields.u32()).collect();
        Ok(Record { kind, sequence, cookie, session, payload_len, summary_len, durable, checksums })
    }

    /// Where the record behind this one begins, which stands at `offset`.
    #[must_use]
    pub fn next(&self, offset: u64) -> u64 {
        if self.kind == RecordKind::Mark { offset } else { offset + self.stored_len() }
    }

    /// Bytes of the record in the file: header page and payload, up to the next page.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        record_len(self.payload_len as usize)
    }
}

/// Bytes that a record with `payload_len` bytes of payload takes.
#[must_use]
pub fn record_len(payload_len: usize) -> u64 {
    (PAGE + payload_len.next_multiple_of(PAGE)) as u64
}

fn record_crc(page: &[u8; PAGE], checksums: usize) -> u32 {
    crc32c_of_parts(&[&page[..RECORD_CRC], &page[RECORD_FIXED..RECORD_FIXED + checksums * 4]])
}

/// A big-endian `u32` at `at`.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    Reader { bytes, at }.u32()
}

/// Writes fields one after the other.
pub(super) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(bytes: &'a mut [u8]) -> Writer<'a> {
        Writer { bytes, at: 0 }
    }

    pub(super) fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.at += count;
    }
}

/// Reads fields one after the other. The caller has checked that they are there.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = self.bytes[self.at..self.at + N].try_into().expect("the slice has N bytes");
        self.at += N;
        field
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use proptest::prelude::*;

    fn superblock() -> Superblock {
        Superblock {
            cluster: ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            node: NodeId(7),
            volume: VolumeId(0xab),
            created: 1_700_000_000,
            nonce: 0x1122_3344_5566_7788,
        }
    }

    fn record() -> Record {
        Record {
            kind: RecordKind::Block,
            sequence: 3,
            cookie: 0xdead_beef,
            session: SessionId(9),
            payload_len: 70_000,
            summary_len: 100,
            durable: 8192,
            checksums: vec![0x0a0b_0c0d, 0x0102_0304],
        }
    }

    #[test]
    fn golden_superblock() {
        let page = superblock().encode();
        let golden = "434149524e564f4c00000001000000ab0102030405060708090a0b0c0d0e0f10\
                      0000000700010000000000006553f10011223344556677880000000033d907ad";
        assert_eq!(hex(&page[..64]), golden);
        assert!(page[64..].iter().all(|b| *b == 0));
        assert_eq!(Superblock::decode(&page), Ok(superblock()));
    }

    #[test]
    fn golden_record() {
        let page = record().encode(0x1122_3344_5566_7788, 12_288);
        let golden = "43424c4b00000001112233445566778800000000000030000000000000002000\
                      000000000000000900000003deadbeef00011170000000640000000242c9b6b1\
                      0a0b0c0d01020304";
        assert_eq!(hex(&page[..72]), golden);
        assert!(page[72..].iter().all(|b| *b == 0));
        assert_eq!(Record::decode(&page, 0x1122_3344_5566_7788, 12_288), Ok(record()));
    }

    #[test]
    fn golden_mark() {
        let mark = Record::without_payload(RecordKind::Mark, 3, 12_288);
        let page = mark.encode(0x1122_3344_5566_7788, 12_288);
        let golden = "43424c4b00000004112233445566778800000000000030000000000000003000\
                      00000000000000000000000300000000000000000000000000000000e3b7ba94";
        assert_eq!(hex(&page[..64]), golden);
        assert!(page[64..].iter().all(|b| *b == 0));
        assert_eq!(Record::decode(&page, 0x1122_3344_5566_7788, 12_288), Ok(mark.clone()));
        assert_eq!(mark.next(12_288), 12_288, "it is written over");
        assert_eq!(record().next(12_288), 12_288 + 4096 + 73_728);
        // All before it is durable, or it is none.
        let early = Record { durable: 8192, ..mark };
        assert_eq!(Record::decode(&early.encode(5, 12_288), 5, 12_288), Err(FormatError::Field));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (sb, rec) = (superblock().encode(), record().encode(5, 8192));
        for bit in 0..64 * 8 {
            let mut page = sb;
            page[bit / 8] ^= 1 << (bit % 8);
            // The four bytes before the CRC are reserved but covered too.
            assert!(Superblock::decode(&page).is_err(), "superblock bit {bit}");
        }
        for bit in 0..72 * 8 {
            let mut page = rec;
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&page, 5, 8192).is_err(), "record bit {bit}");
        }
    }

    #[test]
    fn a_record_belongs_to_its_place_and_volume() {
        let page = record().encode(5, 8192);
        assert_eq!(Record::decode(&page, 6, 8192), Err(FormatError::Magic));
        assert_eq!(Record::decode(&page, 5, 12_288), Err(FormatError::Magic));
        assert_eq!(Record::decode(&[0; PAGE], 5, 8192), Err(FormatError::Magic));
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    proptest! {
        #[test]
        fn any_superblock_comes_back((cluster, node, volume, created, nonce) in any::<(u128, u32, u32, u64, u64)>()) {
            let (cluster, node, volume) = (ClusterId(cluster), NodeId(node), VolumeId(volume));
            let superblock = Superblock { cluster, node, volume, created, nonce };
            prop_assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
        }

        #[test]
        fn any_record_comes_back(
            (sequence, cookie, session, nonce) in any::<(u32, u32, u64, u64)>(),
            (offset, durable) in any::<(u64, u64)>(),
            (payload_len, summary_len) in (1..=FRAME_PAYLOAD_MAX, 0..=FRAME_PAYLOAD_MAX),
        ) {
            let record = Record {
                kind: RecordKind::Block,
                sequence,
                cookie,
                session: SessionId(session),
                payload_len: u32::try_from(payload_len).unwrap(),
                summary_len: u32::try_from(summary_len.min(payload_len)).unwrap(),
                durable: durable.min(offset),
                checksums: (0..payload_len.div_ceil(PIECE)).map(|piece| u32::try_from(piece).unwrap()).collect(),
            };
            prop_assert_eq!(Record::decode(&record.encode(nonce, offset), nonce, offset), Ok(record));
        }
    }
}
