//! What stands around each message on a connection: lengths, kind and a checksum.
//!
//! Drawn in `docs/formats/frame.md`. Lengths are checked against the limits before a byte is
//! allocated for them.

use super::checksum::crc32c_of_parts;
use crate::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX};

/// "CRNF": Cairn frame.
pub const MAGIC: [u8; 4] = *b"CRNF";
/// Version of the frame's own layout; the protocol's version is agreed in the first exchange.
pub const FRAME_VERSION: u8 = 1;
/// Length of the fixed part.
pub const FIXED_LEN: usize = 20;
/// Bytes of the fixed part that the checksum covers: all before it.
const COVERED: usize = 16;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The first exchange: see `hello.rs`.
    Hello,
    /// An RPC message.
    Message,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    pub kind: FrameKind,
    /// Bytes of the header, which follows the fixed part.
    pub header_len: usize,
    /// Bytes of the payload, which follows the header.
    pub payload_len: usize,
    checksum: u32,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not a Cairn connection (starts with {0:02x?})")]
    Magic([u8; 4]),
    #[error("frame version {0}, expected {FRAME_VERSION}")]
    Version(u8),
    #[error("frame of unknown kind {0} or with unknown flags {1:#x}")]
    Kind(u8, u16),
    #[error("frame header of {0} bytes is above the limit of {FRAME_HEADER_MAX}")]
    HeaderTooLarge(u32),
    #[error("frame payload of {0} bytes is above the limit of {FRAME_PAYLOAD_MAX}")]
    PayloadTooLarge(u32),
    #[error("frame checksum does not match: the connection damages data")]
    Checksum,
    #[error("connection closed in the middle of a frame")]
    Truncated,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            FrameKind::Hello => 1,
            FrameKind::Message => 2,
        }
    }

    fn from_code(code: u8) -> Option<FrameKind> {
        match code {
            1 => Some(FrameKind::Hello),
            2 => Some(FrameKind::Message),
            _ => None,
        }
    }
}

/// The fixed part for a frame of `header` and `payload_len` bytes; refuses what a receiver would.
pub fn fixed_part(kind: FrameKind, header: &[u8], payload_len: usize) -> Result<[u8; FIXED_LEN], FrameError> {
    let header_len = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let payload_len = u32::try_from(payload_len).unwrap_or(u32::MAX);
    check_lengths(header_len, payload_len)?;
    let mut fixed = [0; FIXED_LEN];
    fixed[0..4].copy_from_slice(&MAGIC);
    fixed[4] = FRAME_VERSION;
    fixed[5] = kind.code();
    // fixed[6..8]: flags, none defined
    fixed[8..12].copy_from_slice(&header_len.to_be_bytes());
    fixed[12..16].copy_from_slice(&payload_len.to_be_bytes());
    let sum = crc32c_of_parts(&[&fixed[..COVERED], header]);
    fixed[COVERED..].copy_from_slice(&sum.to_be_bytes());
    Ok(fixed)
}

impl FrameHead {
    /// Reads a fixed part and checks everything but the checksum, which needs the header.
    pub fn parse(fixed: &[u8; FIXED_LEN]) -> Result<FrameHead, FrameError> {
        let magic = array(&fixed[0..4]);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        if fixed[4] != FRAME_VERSION {
            return Err(FrameError::Version(fixed[4]));
        }
        let flags = u16::from_be_bytes(array(&fixed[6..8]));
        let kind = FrameKind::from_code(fixed[5]).filter(|_| flags == 0);
        let kind = kind.ok_or(FrameError::Kind(fixed[5], flags))?;
        let header_len = u32::from_be_bytes(array(&fixed[8..12]));
        let payload_len = u32::from_be_bytes(array(&fixed[12..16]));
        check_lengths(header_len, payload_len)?;
        Ok(FrameHead {
            kind,
            header_len: header_len as usize,
            payload_len: payload_len as usize,
            checksum: u32::from_be_bytes(array(&fixed[COVERED..])),
        })
    }

    /// Checks the header that belongs to `fixed`, of which this was parsed.
    pub fn verify(&self, fixed: &[u8; FIXED_LEN], header: &[u8]) -> Result<(), FrameError> {
        let matches = crc32c_of_parts(&[&fixed[..COVERED], header]) == self.checksum;
        if matches { Ok(()) } else { Err(FrameError::Checksum) }
    }
}

fn check_lengths(header_len: u32, payload_len: u32) -> Result<(), FrameError> {
    if header_len as usize > FRAME_HEADER_MAX {
        return Err(FrameError::HeaderTooLarge(header_len));
    }
    if payload_len as usize > FRAME_PAYLOAD_MAX {
        return Err(FrameError::PayloadTooLarge(payload_len));
    }
    Ok(())
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the caller slices N bytes")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let fixed = fixed_part(FrameKind::Message, b"header", 0x0102).unwrap();
        assert_eq!(
            fixed,
            [
                b'C', b'R', b'N', b'F', 1, 2, 0, 0, // magic, version, kind, flags
                0, 0, 0, 6, 0, 0, 1, 2, // header and payload length
                0xb4, 0xd0, 0xf2, 0x7d, // CRC-32C
            ]
        );
        let head = FrameHead::parse(&fixed).unwrap();
        assert_eq!((head.kind, head.header_len, head.payload_len), (FrameKind::Message, 6, 0x0102));
        assert_eq!(head.verify(&fixed, b"header"), Ok(()));
        assert_eq!(head.verify(&fixed, b"hexder"), Err(FrameError::Checksum));
    }

    #[test]
    fn lengths_above_the_limits_are_refused_on_both_sides() {
        let huge = vec![0; FRAME_HEADER_MAX + 1];
        assert!(matches!(fixed_part(FrameKind::Message, &huge, 0), Err(FrameError::HeaderTooLarge(_))));
        let payload = fixed_part(FrameKind::Message, b"", FRAME_PAYLOAD_MAX + 1);
        assert!(matches!(payload, Err(FrameError::PayloadTooLarge(_))));
        let mut fixed = fixed_part(FrameKind::Message, b"", 0).unwrap();
        fixed[8] = 0xff;
        assert!(matches!(FrameHead::parse(&fixed), Err(FrameError::HeaderTooLarge(_))));
        fixed[8] = 0;
        fixed[12] = 0xff;
        assert!(matches!(FrameHead::parse(&fixed), Err(FrameError::PayloadTooLarge(_))));
    }

    #[test]
    fn http_is_not_a_frame() {
        let error = FrameHead::parse(b"GET / HTTP/1.1\r\nHost").unwrap_err();
        assert_eq!(error, FrameError::Magic(*b"GET "));
    }

    proptest! {
        #[test]
        fn any_single_damage_is_noticed(position in 0..FIXED_LEN + 6, flip in 1..=255_u8) {
            let header = *b"header";
            let mut bytes = fixed_part(FrameKind::Message, &header, 9).unwrap().to_vec();
            bytes.extend(header);
            bytes[position] ^= flip;
            let fixed: [u8; FIXED_LEN] = array(&bytes[..FIXED_LEN]);
            let result = FrameHead::parse(&fixed).and_then(|head| head.verify(&fixed, &bytes[FIXED_LEN..]));
            prop_assert!(result.is_err());
        }

        #[test]
        fn garbage_never_panics(bytes: [u8; FIXED_LEN]) {
            let _ = FrameHead::parse(&bytes);
        }
    }
}
