//! Frames waiting to be written: small ones side by side in buffers of bounded size, payload segments as they
//! are, so that a vectored write sends all of it without joining or copying.

use super::codec::CodecError;
use super::frame::{FIXED_LEN, FrameError, FrameKind, fixed_part};
use super::payload::encode_with;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::IoSlice;

/// An empty queue keeps no more memory than this for the next small frames.
const KEEP_CAPACITY: usize = 4 << 10;
/// A buffer of frames takes no further one at this length. One buffer for all that a slow reader leaves waiting would
/// be copied each time that it grows, and be up to twice as large as what is in it.
const BUFFER_FULL: usize = 32 << 10;

/// Frames in order, partly sent at the front.
#[derive(Debug, Default)]
pub struct SendQueue {
    segments: VecDeque<Bytes>,
    /// Frames without payload, after all `segments`.
    tail: BytesMut,
    queued: usize,
}

/// Why a message can't be sent. The queue is as before.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PushError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl SendQueue {
    /// Appends one frame: `encode` writes the header; payloads it meets follow.
    pub fn push(
        &mut self,
        kind: FrameKind,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), CodecError>,
    ) -> Result<(), PushError> {
        let start = self.tail.len();
        self.tail.extend_from_slice(&[0; FIXED_LEN]);
        let (result, payload) = encode_with(|| encode(&mut self.tail));
        let payload_len: usize = payload.iter().map(Bytes::len).sum();
        let fixed = result
            .map_err(PushError::Codec)
            .and_then(|()| Ok(fixed_part(kind, &self.tail[start + FIXED_LEN..], payload_len)?));
        let fixed = fixed.inspect_err(|_| self.tail.truncate(start))?;
        self.tail[start..start + FIXED_LEN].copy_from_slice(&fixed);
        self.queued += self.tail.len() - start + payload_len;
        if !payload.is_empty() {
            self.segments.push_back(self.tail.split().freeze());
            self.segments.extend(payload);
        } else if self.tail.len() >= BUFFER_FULL {
            // With a buffer of its own, the next does not begin in the rest of this one, to be copied when that is full.
            let next = BytesMut::with_capacity(BUFFER_FULL + KEEP_CAPACITY);
            self.segments.push_back(std::mem::replace(&mut self.tail, next).freeze());
        }
        Ok(())
    }

    /// Bytes not sent yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued
    }

    /// True when everything was sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// Fills `slices` from the front with what to write next; returns how many.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = self.segments.iter().map(|segment| &segment[..]);
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let mut count = 0;
        for (slot, part) in slices.iter_mut().zip(parts.chain(tail)) {
            *slot = IoSlice::new(part);
            count += 1;
        }
        count
    }

    /// Says that `count` bytes were written.
    pub fn sent(&mut self, mut count: usize) {
        self.queued -= count;
        while let Some(front) = self.segments.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.segments.pop_front();
        }
        self.tail.advance(count);
        if self.tail.is_empty() && self.tail.capacity() > KEEP_CAPACITY {
            self.tail = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::super::Payload;
    use super::super::codec;
    use super::super::receive::Receiver;
    use super::*;
    use crate::limits::{FRAME_HEADER_MAX, FRAME_PAYLOAD_MAX};
    use crate::pool::PayloadBuffers;

    fn push(queue: &mut SendQueue, message: &(u32, Payload)) -> Result<(), PushError> {
        queue.push(FrameKind::Message, |out| codec::encode_into(message, out, FRAME_HEADER_MAX))
    }

    /// Writes at most `step` bytes at a time.
    fn drain(queue: &mut SendQueue, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = queue.slices(&mut slices);
            let now: Vec<u8> = slices[..count].iter().flat_map(|s| s.to_vec()).take(step).collect();
            assert!(!now.is_empty());
            queue.sent(now.len());
            out.extend(now);
        }
        out
    }

    #[test]
    fn segments_arrive_joined_and_in_order() {
        let segments =
            Payload::from_segments(vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"de")]);
        for step in [1, 5, 1000] {
            let mut queue = SendQueue::default();
            for message in [(1, Payload::default()), (2, segments.clone()), (3, Payload::default())] {
                push(&mut queue, &message).unwrap();
            }
            let total = queue.len();
            let bytes = drain(&mut queue, step);
            assert_eq!(bytes.len(), total);
            let mut receiver = Receiver::new(PayloadBuffers::new());
            receiver.space()[..total].copy_from_slice(&bytes);
            receiver.received(total);
            let payloads: Vec<Bytes> =
                std::iter::from_fn(|| receiver.next_frame().unwrap().map(|frame| frame.payload)).collect();
            assert_eq!(payloads, [&b""[..], b"abcde", b""]);
        }
    }

    #[test]
    fn small_frames_share_one_slice() {
        let mut queue = SendQueue::default();
        for i in 0..10 {
            push(&mut queue, &(i, Payload::default())).unwrap();
        }
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(queue.slices(&mut slices), 1);
    }

    #[test]
    fn what_waits_takes_little_more_memory_than_it_has_bytes() {
        let (mut queue, mut taken) = (SendQueue::default(), 0);
        while queue.len() < 1 << 20 {
            let (buffers, capacity) = (queue.segments.len(), queue.tail.capacity());
            push(&mut queue, &(1, Payload::default())).unwrap();
            taken += if queue.segments.len() > buffers { capacity } else { 0 };
        }
        // The first grows by doubling, all others have their size from the begin.
        assert!(taken + queue.tail.capacity() <= queue.len() + queue.len() / 4, "{taken} bytes");
        assert!(
            queue.segments.iter().all(|segment| (BUFFER_FULL..BUFFER_FULL + 100).contains(&segment.len()))
        );
        let total = queue.len();
        assert_eq!(drain(&mut queue, 50_000).len(), total);
        assert!(queue.tail.capacity() <= KEEP_CAPACITY);
    }

    #[test]
    fn what_is_too_large_leaves_the_queue_alone() {
        let mut queue = SendQueue::default();
        push(&mut queue, &(1, Payload::default())).unwrap();
        let before = queue.len();
        let huge = Bytes::from(vec![0; FRAME_PAYLOAD_MAX / 2 + 1]);
        let error = push(&mut queue, &(2, Payload::from_segments(vec![huge.clone(), huge]))).unwrap_err();
        assert!(matches!(error, PushError::Frame(FrameError::PayloadTooLarge(_))));
        assert_eq!(queue.len(), before);
        assert_eq!(drain(&mut queue, 7).len(), before);
    }
}
