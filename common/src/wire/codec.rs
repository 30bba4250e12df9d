//! Messages to bytes and back: the only module that knows bincode.
//!
//! bincode's standard configuration: little-endian, variable-length integers, enum variants and list
//! lengths as such integers, structs field by field. So the order of fields and variants is the
//! format: change it only with a new protocol version.

use crate::limits::FRAME_HEADER_MAX;
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bytes::{BufMut, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// What bincode may count while it decodes: the width of each number, not the bytes that it took. One byte
/// may stand for 16 (a `u128`), so no message that fits a frame gets this far; encoded bytes have limits of
/// their own. It is there for length fields: nobody is believed to send more than this.
const DECODED_MAX: usize = 16 * FRAME_HEADER_MAX;
type Config = Configuration<LittleEndian, Varint, Limit<DECODED_MAX>>;
const CONFIG: Config = bincode::config::standard().with_limit::<DECODED_MAX>();

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The encoded message is above the limit.
    #[error("message of more than {limit} bytes")]
    TooLarge { limit: usize },
    /// The bytes end before the message does.
    #[error("message ends early")]
    Truncated,
    /// Bytes are left over after the message.
    #[error("{0} bytes left over after the message")]
    Trailing(usize),
    /// The bytes are no such message.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// Encodes `message` into bytes of their own.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = BytesMut::new();
    encode_into(message, &mut out, FRAME_HEADER_MAX)?;
    Ok(out.into())
}

/// Appends the encoded `message` to `out`; on error `out` is as before.
pub fn encode_into<T: Serialize>(message: &T, out: &mut BytesMut, limit: usize) -> Result<(), CodecError> {
    let start = out.len();
    let mut writer = Bounded { out, end: start + limit, overflow: false };
    let result = bincode::serde::encode_into_writer(message, &mut writer, CONFIG);
    let overflow = writer.overflow;
    result.map_err(|error| {
        out.truncate(start);
        if overflow { CodecError::TooLarge { limit } } else { encode_error(&error) }
    })
}

/// Decodes a message that fills `bytes` exactly; refuses more than `limit` bytes unread.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { limit });
    }
    let (message, used) =
        bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|error| decode_error(&error))?;
    match bytes.len() - used {
        0 => Ok(message),
        left => Err(CodecError::Trailing(left)),
    }
}

fn encode_error(error: &EncodeError) -> CodecError {
    CodecError::Malformed(error.to_string())
}

fn decode_error(error: &DecodeError) -> CodecError {
    match error {
        DecodeError::UnexpectedEnd { .. } => CodecError::Truncated,
        DecodeError::LimitExceeded => CodecError::TooLarge { limit: DECODED_MAX },
        other => CodecError::Malformed(other.to_string()),
    }
}

/// Appends to a buffer up to a limit.
struct Bounded<'a> {
    out: &'a mut BytesMut,
    end: usize,
    overflow: bool,
}

impl Writer for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.out.len() + bytes.len() > self.end {
            self.overflow = true;
            return Err(EncodeError::UnexpectedEnd);
        }
        self.out.put_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::error::FsError;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        small: u64,
        large: u64,
        signed: i64,
        text: String,
        list: Vec<u32>,
        none: Option<u8>,
        error: Result<u8, FsError>,
    }

    fn sample() -> Sample {
        Sample {
            small: 5,
            large: 0x0102_0304_0506,
            signed: -2,
            text: "ab".into(),
            list: vec![1, 300],
            none: None,
            error: Err(FsError::Exists),
        }
    }

    #[test]
    fn golden_bytes() {
        let expected = [
            5, // small
            253, 6, 5, 4, 3, 2, 1, 0, 0, // large: marker 253, eight bytes
            3, // signed: zigzag
            2, b'a', b'b', // text
            2, 1, 251, 44, 1, // list: length, 1, marker 251 and two bytes
            0, // none
            1, 1, // Err, index of Exists
        ];
        assert_eq!(encode(&sample()).unwrap(), expected);
        assert_eq!(decode::<Sample>(&expected, 100).unwrap(), sample());
    }

    #[test]
    fn refuses_what_does_not_fit_exactly() {
        let mut bytes = encode(&sample()).unwrap();
        assert_eq!(decode::<Sample>(&bytes, 4).unwrap_err(), CodecError::TooLarge { limit: 4 });
        bytes.push(0);
        assert_eq!(decode::<Sample>(&bytes, 100).unwrap_err(), CodecError::Trailing(1));
        bytes.truncate(bytes.len() - 2);
        assert_eq!(decode::<Sample>(&bytes, 100).unwrap_err(), CodecError::Truncated);
        assert!(matches!(decode::<bool>(&[7], 9), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn a_message_above_the_limit_leaves_the_buffer_alone() {
        let mut out = BytesMut::from(&b"before"[..]);
        let error = encode_into(&vec![7_u64; 100], &mut out, 50).unwrap_err();
        assert_eq!(error, CodecError::TooLarge { limit: 50 });
        assert_eq!(&out[..], b"before");
    }

    /// bincode counts 16 bytes for what takes 3 here.
    #[test]
    fn what_fits_when_encoded_is_decoded() {
        let message = vec![(1_u64, 1_u32, 1_u32); FRAME_HEADER_MAX / 3 - 2];
        let bytes = encode(&message).unwrap();
        assert!(decode::<Vec<(u64, u32, u32)>>(&bytes, FRAME_HEADER_MAX).unwrap() == message);
        let message = vec![1_u128; FRAME_HEADER_MAX - 5];
        let bytes = encode(&message).unwrap();
        assert!(decode::<Vec<u128>>(&bytes, FRAME_HEADER_MAX).unwrap() == message);
    }

    #[test]
    fn a_huge_length_field_allocates_nothing() {
        let bytes = [253, 255, 255, 255, 255, 255, 255, 255, 0];
        assert!(decode::<Vec<u64>>(&bytes, 100).is_err());
        assert!(decode::<String>(&bytes, 100).is_err());
    }

    proptest! {
        #[test]
        fn garbage_gives_an_error_or_a_value_never_a_panic(bytes: Vec<u8>) {
            let _ = decode::<Sample>(&bytes, 1 << 16);
        }
    }
}
