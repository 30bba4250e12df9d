//! Bulk bytes that travel beside a message's header, not inside it.
//!
//! serde would copy a payload into the encoded message and out of it again. A [`Payload`] instead
//! encodes only its length; its bytes are handed to the frame encoder (and come from the frame
//! decoder) through a thread-local that lives as long as the call of [`encode_with`] or
//! [`decode_with`]. Both are synchronous, so a payload can't end up in another message's frame.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::cell::RefCell;

thread_local! {
    static OUTGOING: RefCell<Option<Vec<Bytes>>> = const { RefCell::new(None) };
    static INCOMING: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Bytes beside a header: a list of segments when sent, one segment when received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    segments: Vec<Bytes>,
}

impl Payload {
    /// A payload of several segments, sent one after the other without being joined.
    #[must_use]
    pub fn from_segments(segments: Vec<Bytes>) -> Payload {
        Payload { segments }
    }

    /// The segments in order.
    #[must_use]
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(Bytes::len).sum()
    }

    /// True if there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(Bytes::is_empty)
    }

    /// All bytes as one: free for a received payload, a copy for one of several segments.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        match self.segments.len() {
            0 => Bytes::new(),
            1 => self.segments.swap_remove(0),
            _ => self.segments.concat().into(),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload { segments: vec![bytes] }
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        OUTGOING.with_borrow_mut(|out| match out {
            Some(list) => {
                list.extend(self.segments.iter().filter(|s| !s.is_empty()).cloned());
                serializer.serialize_u64(self.len() as u64)
            }
            None => Err(ser::Error::custom("payload encoded outside of a frame")),
        })
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Payload, D::Error> {
        let length = u64::deserialize(deserializer)?;
        INCOMING.with_borrow_mut(|slot| {
            let available =
                slot.as_mut().ok_or_else(|| de::Error::custom("payload decoded outside of a frame"))?;
            match usize::try_from(length) {
                Ok(length) if length <= available.len() => Ok(Payload::from(available.split_to(length))),
                _ => Err(de::Error::custom("payload longer than its frame")),
            }
        })
    }
}

/// Runs `encode` and returns its result with the segments of all payloads it met, in order.
pub fn encode_with<R>(encode: impl FnOnce() -> R) -> (R, Vec<Bytes>) {
    OUTGOING.set(Some(Vec::new()));
    let result = encode();
    (result, OUTGOING.take().unwrap_or_default())
}

/// Runs `decode` with `payload` as the bytes beside its header; returns what no payload took, too.
pub fn decode_with<R>(payload: Bytes, decode: impl FnOnce() -> R) -> (R, Bytes) {
    INCOMING.set(Some(payload));
    let result = decode();
    (result, INCOMING.take().unwrap_or_default())
}
