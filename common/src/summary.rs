//! The summary at the end of a block: for which file ranges each stretch of the block was written.
//! A cleaner finds by it what may still be live, a repair tool rebuilds files from bare volumes by
//! it. The drawing is in `docs/formats/volume.md`. All numbers are big-endian.

use crate::ids::Ino;

/// "CSUM".
const MAGIC: [u8; 4] = *b"CSUM";
/// Raised when the layout changes.
const VERSION: u16 = 1;
const HEADER: usize = 12;
/// Bytes of one entry.
pub const ENTRY: usize = 24;
const TRAILER: usize = 4;

/// One stretch of a block. Stretches lie in the block in this order without gaps, from its first byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SummaryEntry {
    pub ino: Ino,
    /// Where in the file.
    pub offset: u64,
    /// Where in the block.
    pub at: u32,
    pub length: u32,
}

/// Why bytes are no summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SummaryError {
    #[error("summary has a wrong length or magic")]
    Malformed,
    #[error("summary version {0} is unknown")]
    Version(u16),
    #[error("summary checksum does not match")]
    Checksum,
}

/// Encoded length of a summary with `entries` entries.
#[must_use]
pub fn encoded_len(entries: usize) -> usize {
    HEADER + entries * ENTRY + TRAILER
}

/// Encodes a summary.
#[must_use]
pub fn encode(entries: &[SummaryEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(entries.len()));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    let count = u32::try_from(entries.len()).expect("limits keep a block's entries far below 2^32");
    out.extend_from_slice(&count.to_be_bytes());
    for entry in entries {
        out.extend_from_slice(&entry.ino.0.to_be_bytes());
        out.extend_from_slice(&entry.offset.to_be_bytes());
        out.extend_from_slice(&entry.at.to_be_bytes());
        out.extend_from_slice(&entry.length.to_be_bytes());
    }
    out.extend_from_slice(&checksum(&out).to_be_bytes());
    out
}

/// Decodes the bytes of a summary.
pub fn decode(bytes: &[u8]) -> Result<Vec<SummaryEntry>, SummaryError> {
    let body = bytes.len().checked_sub(TRAILER).ok_or(SummaryError::Malformed)?;
    let (body, trailer) = bytes.split_at(body);
    if body.len() < HEADER || body[..4] != MAGIC {
        return Err(SummaryError::Malformed);
    }
    if trailer != checksum(body).to_be_bytes() {
        return Err(SummaryError::Checksum);
    }
    let version = u16::from_be_bytes([body[4], body[5]]);
    if version != VERSION {
        return Err(SummaryError::Version(version));
    }
    let count = u32::from_be_bytes([body[8], body[9], body[10], body[11]]);
    let (entries, rest) = body[HEADER..].as_chunks::<ENTRY>();
    if entries.len() as u64 != u64::from(count) || !rest.is_empty() {
        return Err(SummaryError::Malformed);
    }
    Ok(entries.iter().map(entry).collect())
}

fn entry(bytes: &[u8; ENTRY]) -> SummaryEntry {
    let long = |at: usize| bytes[at..at + 8].iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
    let short = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    SummaryEntry { ino: Ino(long(0)), offset: long(8), at: short(16), length: short(20) }
}

fn checksum(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes))
        .expect("a 32-bit checksum fits 32 bits")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use proptest::prelude::*;

    const ENTRIES: [SummaryEntry; 2] = [
        SummaryEntry { ino: Ino(0x0102), offset: 0x1000, at: 0, length: 0x20 },
        SummaryEntry { ino: Ino(3), offset: 0, at: 0x20, length: 5 },
    ];

    #[test]
    fn golden_bytes() {
        let hex: String = encode(&ENTRIES).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = concat!(
            "4353554d",
            "0001",
            "0000",
            "00000002",
            "0000000000000102",
            "0000000000001000",
            "00000000",
            "00000020",
            "0000000000000003",
            "0000000000000000",
            "00000020",
            "00000005",
        );
        assert_eq!(&hex[..expected.len()], expected);
        assert_eq!(hex.len(), encoded_len(2) * 2);
        assert_eq!(&hex[expected.len()..], "73d9b40c");
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode(&encode(&ENTRIES)).unwrap(), ENTRIES);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(&ENTRIES);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_err(), "length {length}");
        }
    }

    proptest! {
        #[test]
        fn any_entries_come_back(entries in proptest::collection::vec(any::<(u64, u64, u32, u32)>(), 0..20)) {
            let entry = |&(ino, offset, at, length): &_| SummaryEntry { ino: Ino(ino), offset, at, length };
            let entries: Vec<SummaryEntry> = entries.iter().map(entry).collect();
            prop_assert_eq!(decode(&encode(&entries)), Ok(entries));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let with_checksum = [&bytes[..], &checksum(&bytes).to_be_bytes()].concat();
            let _ = (decode(&bytes), decode(&with_checksum));
        }
    }
}
