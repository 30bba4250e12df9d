//! CRC-32C (Castagnoli) of whole byte strings and of payloads piece by piece.

use crate::limits::PIECE;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

/// CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// CRC-32C of the concatenation of `parts`.
#[must_use]
pub fn crc32c_of_parts(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part));
    narrow(digest.finalize())
}

/// CRC-64/NVME, piece by piece: for bytes that must be told from others, where [`crc32c`] is too short.
#[derive(Clone, Debug)]
pub struct Crc64(Digest);

impl Default for Crc64 {
    fn default() -> Crc64 {
        Crc64(Digest::new(CrcAlgorithm::Crc64Nvme))
    }
}

impl Crc64 {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum of all bytes so far.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.0.finalize()
    }
}

/// CRC-64/NVME of `bytes`.
#[must_use]
pub fn crc64(bytes: &[u8]) -> u64 {
    let mut sum = Crc64::default();
    sum.update(bytes);
    sum.finish()
}

/// CRC-32C of each [`PIECE`] of the bytes in `segments` taken together; the last may be shorter.
#[must_use]
pub fn piece_checksums(segments: &[Bytes]) -> Vec<u32> {
    let total: usize = segments.iter().map(Bytes::len).sum();
    let mut sums = Vec::with_capacity(total.div_ceil(PIECE));
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut room = PIECE; // bytes until the current piece is full
    for segment in segments {
        let mut rest = &segment[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(room));
            digest.update(now);
            room -= now.len();
            rest = later;
            if room == 0 {
                sums.push(narrow(digest.finalize_reset()));
                room = PIECE;
            }
        }
    }
    if room < PIECE {
        sums.push(narrow(digest.finalize()));
    }
    sums
}

/// Checks `bytes`, which begin at a piece, against one checksum per piece; returns the index of the
/// first piece that does not match. A wrong number of checksums counts as a mismatch.
pub fn verify_pieces(bytes: &[u8], checksums: &[u32]) -> Result<(), usize> {
    let pieces = bytes.chunks(PIECE);
    if pieces.len() != checksums.len() {
        return Err(pieces.len().min(checksums.len()));
    }
    match pieces.zip(checksums).position(|(piece, sum)| crc32c(piece) != *sum) {
        None => Ok(()),
        Some(index) => Err(index),
    }
}

fn narrow(sum: u64) -> u32 {
    u32::try_from(sum).expect("a 32-bit CRC fits 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn they_are_the_standard_ones() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888, "the check value of CRC-64/NVME");
        assert_eq!(crc32c_of_parts(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }

    #[test]
    fn a_flipped_bit_names_its_piece() {
        let mut bytes = vec![7_u8; 3 * PIECE + 10];
        let sums = piece_checksums(&[Bytes::from(bytes.clone())]);
        assert_eq!(sums.len(), 4);
        assert_eq!(verify_pieces(&bytes, &sums), Ok(()));
        assert_eq!(verify_pieces(&bytes, &sums[..3]), Err(3));
        bytes[2 * PIECE] ^= 1;
        assert_eq!(verify_pieces(&bytes, &sums), Err(2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn segments_do_not_matter(cuts in proptest::collection::vec(0..200_000_usize, 0..6)) {
            let bytes: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i * 31 % 251).unwrap_or(0)).collect();
            let mut cuts = cuts;
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let segments: Vec<Bytes> =
                cuts.windows(2).map(|w| Bytes::copy_from_slice(&bytes[w[0]..w[1]])).collect();
            let naive: Vec<u32> = bytes.chunks(PIECE).map(crc32c).collect();
            prop_assert_eq!(piece_checksums(&segments), naive);
        }
    }
}
