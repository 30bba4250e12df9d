//! One record of a segment: an entry of the log with what is needed to believe it.
//!
//! Drawn in `docs/formats/log.md`. All numbers are big-endian; records begin at multiples of 8. Behind the last there may
//! be a *mark*: a header without payload, which is no entry and only says that all before it were on stable storage.

use cairn_common::ids::LogIndex;
use cairn_common::wire::checksum::crc32c_of_parts;

/// Bytes before the payload.
pub const HEADER: usize = 32;
/// Largest payload: a batch at its limit, and what the command adds.
pub const PAYLOAD_MAX: usize = 4 << 20;
/// Records begin at multiples of this.
pub const ALIGN: usize = 8;
/// Bytes of a mark: fewer than of any record, so that the next one covers it.
pub const MARK: usize = HEADER;

/// A record as found in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub index: LogIndex,
    /// Entries up to here were on stable storage when this record was written. A bad record at or
    /// below a later record's mark has been damaged after it was synced: it is no torn write.
    pub durable: LogIndex,
    /// Checksum of the record before, or of the segment's header: what is left of an older tail does
    /// not fit behind a new record.
    pub previous: u32,
    pub checksum: u32,
    pub payload: &'a [u8],
}

/// Bytes that a record with this payload takes, padding included.
#[must_use]
pub fn stored_len(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(ALIGN)
}

/// Appends a record of the segment with `nonce` to `out`, padded; answers its checksum.
pub fn encode(
    out: &mut Vec<u8>,
    nonce: u64,
    index: LogIndex,
    durable: LogIndex,
    previous: u32,
    payload: &[u8],
) -> u32 {
    debug_assert!(!payload.is_empty(), "without payload it would be a mark");
    put(out, nonce, index, durable, previous, payload)
}

/// The mark behind the entry `last`, whose checksum is `previous`: all entries are on stable storage.
#[must_use]
pub fn mark(nonce: u64, last: LogIndex, previous: u32) -> [u8; MARK] {
    let mut out = Vec::with_capacity(MARK);
    put(&mut out, nonce, last.next(), last, previous, &[]);
    out.try_into().expect("a header and no payload")
}

fn put(
    out: &mut Vec<u8>,
    nonce: u64,
    index: LogIndex,
    durable: LogIndex,
    previous: u32,
    payload: &[u8],
) -> u32 {
    let start = out.len();
    let length = u32::try_from(payload.len()).expect("the log refuses payloads above PAYLOAD_MAX");
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&previous.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&index.0.to_be_bytes());
    out.extend_from_slice(&durable.0.to_be_bytes());
    out.extend_from_slice(payload);
    let checksum = checksum(nonce, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_be_bytes());
    out.resize(start + stored_len(payload.len()), 0);
    checksum
}

/// The nonce is part of it: payloads are what users have written, and one that looks like a record must
/// not be taken for one when a scan begins in the middle of it.
fn checksum(nonce: u64, covered: &[u8]) -> u32 {
    crc32c_of_parts(&[&nonce.to_be_bytes(), covered])
}

/// What begins at some place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    Record(Record<'a>),
    /// A record without payload: it takes no index, and the next entry overwrites it.
    Mark(Record<'a>),
    /// Zeros where a record's header would be, or no room for one: nothing was written here.
    Nothing,
    /// Bytes that are no record.
    Bad,
}

/// Reads what begins at the start of `bytes`, which go to the end of the segment with `nonce`.
#[must_use]
pub fn decode(bytes: &[u8], nonce: u64) -> Found<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Found::Nothing };
    if header.iter().all(|b| *b == 0) {
        return Found::Nothing;
    }
    let length = be32(header, 4) as usize;
    if length > PAYLOAD_MAX || length > rest.len() || be32(header, 12) != 0 {
        return Found::Bad;
    }
    let stored = be32(header, 0);
    if checksum(nonce, &bytes[4..HEADER + length]) != stored {
        return Found::Bad;
    }
    let record = Record {
        index: LogIndex(be64(header, 16)),
        durable: LogIndex(be64(header, 24)),
        previous: be32(header, 8),
        checksum: stored,
        payload: &rest[..length],
    };
    if length == 0 { Found::Mark(record) } else { Found::Record(record) }
}

fn be32(header: &[u8; HEADER], at: usize) -> u32 {
    u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes inside the header"))
}

fn be64(header: &[u8; HEADER], at: usize) -> u64 {
    u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes inside the header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONCE: u64 = 0x0011_2233_4455_6677;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        let checksum = encode(&mut out, NONCE, LogIndex(0x0102), LogIndex(0x0101), 0xaabb_ccdd, b"hello");
        assert_eq!(&out[..4], &checksum.to_be_bytes());
        let expected = [
            0xbf, 0xfd, 0x6f, 0x2c, // checksum, nonce first
            0, 0, 0, 5, // length
            0xaa, 0xbb, 0xcc, 0xdd, // checksum of the record before
            0, 0, 0, 0, // reserved
            0, 0, 0, 0, 0, 0, 1, 2, // index
            0, 0, 0, 0, 0, 0, 1, 1, // durable
            b'h', b'e', b'l', b'l', b'o', 0, 0, 0, // payload, padded to 8
        ];
        assert_eq!(out, expected);
        let Found::Record(record) = decode(&out, NONCE) else { panic!("no record") };
        assert_eq!(record.index, LogIndex(0x0102));
        assert_eq!(record.durable, LogIndex(0x0101));
        assert_eq!(record.previous, 0xaabb_ccdd);
        assert_eq!(record.payload, b"hello");
    }

    #[test]
    fn golden_mark() {
        let expected = [
            0x16, 0x6d, 0x8b, 0x72, // checksum, nonce first
            0, 0, 0, 0, // length
            0xaa, 0xbb, 0xcc, 0xdd, // checksum of the record before
            0, 0, 0, 0, // reserved
            0, 0, 0, 0, 0, 0, 1, 2, // index: that of the next entry
            0, 0, 0, 0, 0, 0, 1, 1, // durable: the last entry
        ];
        let out = mark(NONCE, LogIndex(0x0101), 0xaabb_ccdd);
        assert_eq!(out, expected);
        let Found::Mark(mark) = decode(&out, NONCE) else { panic!("no mark") };
        assert_eq!((mark.index, mark.durable), (LogIndex(0x0102), LogIndex(0x0101)));
        assert_eq!((mark.previous, mark.payload), (0xaabb_ccdd, &[][..]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut out = Vec::new();
        encode(&mut out, NONCE, LogIndex(7), LogIndex(6), 1, b"payload!");
        for mut bytes in [out, mark(NONCE, LogIndex(7), 1).to_vec()] {
            let whole = bytes.clone();
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&bytes, NONCE), Found::Bad, "bit {bit}");
                bytes.copy_from_slice(&whole);
            }
            assert!(matches!(decode(&bytes, NONCE), Found::Record(_) | Found::Mark(_)));
        }
    }

    #[test]
    fn records_of_another_segment_are_bad() {
        let mut out = Vec::new();
        encode(&mut out, NONCE, LogIndex(7), LogIndex(6), 1, b"payload!");
        assert_eq!(decode(&out, NONCE + 1), Found::Bad);
    }

    #[test]
    fn zeros_and_short_rests_are_nothing() {
        assert_eq!(decode(&[0; 64], NONCE), Found::Nothing);
        assert_eq!(decode(&[1; HEADER - 1], NONCE), Found::Nothing);
        assert_eq!(decode(&[], NONCE), Found::Nothing);
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            (nonce, index, durable, previous) in any::<(u64, u64, u64, u32)>(),
            payload in proptest::collection::vec(any::<u8>(), 1..100),
        ) {
            let mut out = Vec::new();
            let (index, durable) = (LogIndex(index), LogIndex(durable));
            let checksum = encode(&mut out, nonce, index, durable, previous, &payload);
            prop_assert_eq!(out.len(), stored_len(payload.len()));
            let payload = &payload[..];
            let record = Record { index, durable, previous, checksum, payload };
            prop_assert_eq!(decode(&out, nonce), Found::Record(record));
        }

        #[test]
        fn garbage_is_no_record(bytes: Vec<u8>, nonce: u64) {
            prop_assert!(!matches!(decode(&bytes, nonce), Found::Record(_) | Found::Mark(_)));
        }
    }
}
