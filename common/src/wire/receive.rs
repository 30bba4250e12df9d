//! Bytes as they arrive, cut into frames: no I/O, so that a test can feed any pieces.
//!
//! Small frames, also several at once, are read in one go into a read buffer. A payload that is not
//! there yet is received straight into a pooled buffer of its own. The read buffer is borrowed from
//! the pool only while there is something in it or a read is due: idle connections hold none.

use super::frame::{FIXED_LEN, FrameError, FrameHead, FrameKind};
use crate::pool::{PayloadBuffers, PooledBuf};
use bytes::Bytes;

/// What one read may bring along.
const READ_AHEAD: usize = 64 << 10;
/// So much of a payload has to be there before memory is taken for all that was announced.
const SIGN_OF_LIFE: usize = 16 << 10;

/// A received frame. The header is borrowed: decode it before going on.
#[derive(Debug)]
pub struct Frame<'a> {
    pub kind: FrameKind,
    pub header: &'a [u8],
    pub payload: Bytes,
}

/// Collects bytes and gives out frames.
#[derive(Debug)]
pub struct Receiver {
    buffers: PayloadBuffers,
    /// Bytes read and not given out, from `start` on.
    read: Option<PooledBuf>,
    start: usize,
    /// The frame begun at `start` whose fixed part and header are checked, and its payload so far.
    /// The bytes of the payload that came with the header are already taken out of `read`.
    open: Option<(FrameHead, PooledBuf)>,
    /// Whether memory is taken only while there is room for it.
    bounded: bool,
    /// What the next step needs, and there was no room for.
    wanted: Option<usize>,
}

impl Receiver {
    #[must_use]
    pub fn new(buffers: PayloadBuffers) -> Receiver {
        Receiver { buffers, read: None, start: 0, open: None, bounded: false, wanted: None }
    }

    /// Takes memory for a frame only while its buffers have room: see [`Receiver::wanted`].
    pub fn bound(&mut self) {
        self.bounded = true;
    }

    /// Bytes that there is no room for: nothing may be received before there is, and then [`Receiver::next_frame`] is to be
    /// asked again.
    #[must_use]
    pub fn wanted(&self) -> Option<usize> {
        self.wanted
    }

    /// The buffers, to wait for room in them.
    #[must_use]
    pub fn buffers(&self) -> &PayloadBuffers {
        &self.buffers
    }

    /// True between two frames: the connection may end here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.available().is_empty()
    }

    /// The next complete frame; `None` until more bytes were received. An error is final.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        self.wanted = None;
        if self.open.is_none() {
            self.open_frame()?;
        }
        match self.open.take() {
            Some((head, payload)) if payload.len() == head.payload_len => {
                let header_at = self.start + FIXED_LEN;
                self.start = header_at + head.header_len;
                let read = self.read.as_deref().unwrap_or_default();
                let header = &read[header_at..self.start];
                Ok(Some(Frame { kind: head.kind, header, payload: payload.freeze() }))
            }
            unfinished => {
                self.open = unfinished;
                Ok(None)
            }
        }
    }

    /// Where to read to next: never empty, never beyond what may be received now.
    pub fn space(&mut self) -> &mut [u8] {
        if let Some((head, payload)) = &mut self.open {
            let missing = head.payload_len - payload.len();
            return &mut payload.unfilled()[..missing];
        }
        let read = self.read.get_or_insert_with(|| self.buffers.take(READ_AHEAD));
        if self.start == read.len() {
            read.clear();
            self.start = 0;
        }
        if read.remaining() == 0 {
            // Only reached with a partial frame at the end: `open_frame` made sure that it fits.
            read.drop_front(self.start);
            self.start = 0;
        }
        read.unfilled()
    }

    /// Says that `count` bytes were read into [`Receiver::space`].
    pub fn received(&mut self, count: usize) {
        match (&mut self.open, &mut self.read) {
            (Some((_, payload)), _) => payload.advance(count),
            (None, Some(read)) => read.advance(count),
            (None, None) => {}
        }
    }

    /// Gives the read buffer back if nothing is in it.
    pub fn release(&mut self) {
        if self.is_idle() {
            self.read = None;
            self.start = 0;
        }
    }

    fn available(&self) -> &[u8] {
        self.read.as_deref().map_or(&[], |read| &read[self.start..])
    }

    /// Opens the frame at `start` once its fixed part and header are there.
    fn open_frame(&mut self) -> Result<(), FrameError> {
        let Some((fixed, rest)) = self.available().split_first_chunk::<FIXED_LEN>() else {
            self.make_room(FIXED_LEN);
            return Ok(());
        };
        let head = FrameHead::parse(fixed)?;
        let Some(header) = rest.get(..head.header_len) else {
            let whole = FIXED_LEN + head.header_len;
            self.make_room(whole);
            return Ok(());
        };
        if self.bounded && rest.len() - head.header_len < head.payload_len.min(SIGN_OF_LIFE) {
            let begun = FIXED_LEN + head.header_len + SIGN_OF_LIFE;
            self.make_room(begun);
            return Ok(());
        }
        head.verify(fixed, header)?;
        if self.bounded && !self.buffers.has_room(head.payload_len) {
            self.wanted = Some(head.payload_len);
            return Ok(());
        }
        let mut payload = take(&self.buffers, self.bounded, head.payload_len);
        let there = &rest[head.header_len..];
        let taken = payload.append(&there[..there.len().min(head.payload_len)]);
        self.cut(FIXED_LEN + head.header_len, taken);
        self.open = Some((head, payload));
        Ok(())
    }

    /// Removes `count` bytes that follow the first `keep` available ones.
    fn cut(&mut self, keep: usize, count: usize) {
        let Some(read) = &mut self.read else { return };
        if count == 0 {
            return;
        }
        // Move the header (small) up to what follows, not what follows (maybe much) down.
        let start = self.start;
        read.copy_within(start..start + keep, start + count);
        self.start = start + count;
    }

    /// Makes sure that the first `len` bytes of the frame at `start` fit into the read buffer, or as much of them as is
    /// there and once more: who only announces much gets no memory for it.
    fn make_room(&mut self, len: usize) {
        let there = self.available().len();
        let Some(read) = &mut self.read else { return };
        let len = len.min((2 * there).max(READ_AHEAD));
        if len <= read.capacity() - self.start {
            return;
        }
        if len <= read.capacity() {
            read.drop_front(self.start);
        } else if self.bounded && !self.buffers.has_room(len) {
            self.wanted = Some(len);
            return;
        } else {
            let mut larger = take(&self.buffers, self.bounded, len);
            larger.append(&read[self.start..]);
            *read = larger;
        }
        self.start = 0;
    }
}

/// What is read into while nothing is known yet does not count: there is one for each connection.
fn take(buffers: &PayloadBuffers, counted: bool, len: usize) -> PooledBuf {
    if counted { buffers.take_counted(len) } else { buffers.take(len) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::super::frame::fixed_part;
    use super::*;
    use proptest::prelude::*;

    fn frame(header: &[u8], payload: &[u8]) -> Vec<u8> {
        let fixed = fixed_part(FrameKind::Message, header, payload.len()).unwrap();
        [&fixed[..], header, payload].concat()
    }

    /// Feeds `bytes` in pieces of at most `step` and returns what comes out.
    fn run(bytes: &[u8], step: usize) -> Result<Vec<(Vec<u8>, Bytes)>, FrameError> {
        let free = receive(Receiver::new(PayloadBuffers::new()), bytes, step);
        let mut bounded = Receiver::new(PayloadBuffers::new());
        bounded.bound();
        let bounded = receive(bounded, bytes, step);
        assert!(free == bounded, "with a bound it is the same");
        free
    }

    fn receive(
        mut receiver: Receiver,
        bytes: &[u8],
        step: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, FrameError> {
        let (mut out, mut rest) = (Vec::new(), bytes);
        loop {
            while let Some(frame) = receiver.next_frame()? {
                out.push((frame.header.to_vec(), frame.payload));
            }
            if rest.is_empty() {
                return if receiver.is_idle() { Ok(out) } else { Err(FrameError::Truncated) };
            }
            let space = receiver.space();
            let count = space.len().min(rest.len()).min(step);
            assert!(count > 0, "there must always be space");
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            receiver.received(count);
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect()
    }

    #[test]
    fn frames_of_all_sizes_in_steps_of_all_sizes() {
        let sizes =
            [(0, 0), (1, 0), (0, 1), (100, 5000), (70_000, 10), (65_000, 300_000), (3, 65_516), (9, 0)];
        let frames: Vec<_> = sizes.iter().map(|&(h, p)| (pattern(h), Bytes::from(pattern(p)))).collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|(h, p)| frame(h, p)).collect();
        for step in [7, 19, 20, 21, 4096, 65_535, 65_536, usize::MAX] {
            assert!(run(&bytes, step).unwrap() == frames, "step {step}");
        }
    }

    #[test]
    fn half_a_frame_is_no_frame() {
        let bytes = frame(b"header", b"payload");
        for len in 1..bytes.len() {
            assert_eq!(run(&bytes[..len], usize::MAX).unwrap_err(), FrameError::Truncated, "{len} bytes");
        }
    }

    #[test]
    fn an_idle_receiver_holds_no_buffer() {
        let buffers = PayloadBuffers::new();
        let mut receiver = Receiver::new(buffers.clone());
        receiver.space();
        assert_eq!(buffers.free_bytes(), 0);
        receiver.release();
        assert_eq!(buffers.free_bytes(), READ_AHEAD);
    }

    #[test]
    fn who_only_announces_much_gets_little() {
        let buffers = PayloadBuffers::new();
        let head = |header: u32, payload: u32| {
            let mut fixed = fixed_part(FrameKind::Message, b"", 0).unwrap();
            fixed[8..12].copy_from_slice(&header.to_be_bytes());
            fixed[12..16].copy_from_slice(&payload.to_be_bytes());
            fixed.to_vec()
        };
        let payload = fixed_part(FrameKind::Message, b"header", 5 << 20).unwrap();
        for begun in [head(4 << 20, 0), [&payload[..], b"header", &[0; 1000]].concat()] {
            let mut receiver = Receiver::new(buffers.clone());
            receiver.bound();
            receiver.space()[..begun.len()].copy_from_slice(&begun);
            receiver.received(begun.len());
            assert!(receiver.next_frame().unwrap().is_none());
            assert!(!receiver.space().is_empty());
            assert_eq!(buffers.budget().used(), 0);
        }
    }

    #[test]
    fn a_bounded_receiver_waits_for_room() {
        let buffers = PayloadBuffers::within(1 << 20);
        let mut receiver = Receiver::new(buffers.clone());
        receiver.bound();
        let bytes = frame(b"header", &pattern(300_000));
        let other = buffers.take_counted(1 << 20);
        let begin = &bytes[..20_000];
        receiver.space()[..begin.len()].copy_from_slice(begin);
        receiver.received(begin.len());
        assert!(receiver.next_frame().unwrap().is_none());
        assert_eq!(receiver.wanted(), Some(300_000));
        drop(other);
        assert!(receiver.next_frame().unwrap().is_none());
        assert_eq!(receiver.wanted(), None);
        let mut rest = &bytes[begin.len()..];
        while !rest.is_empty() {
            let space = receiver.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            receiver.received(count);
            rest = &rest[count..];
        }
        assert!(receiver.next_frame().unwrap().unwrap().payload == pattern(300_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn cuts_do_not_matter(
            frames in proptest::collection::vec((0..600_usize, 0..100_000_usize), 1..6),
            step in 1..70_000_usize,
        ) {
            let frames: Vec<_> =
                frames.into_iter().map(|(h, p)| (pattern(h), Bytes::from(pattern(p)))).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(|(h, p)| frame(h, p)).collect();
            prop_assert!(run(&bytes, step).unwrap() == frames);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, step in 1..50_usize) {
            let _ = run(&bytes, step);
            let _ = run(&[&frame(b"x", b"y")[..], &bytes].concat(), step);
        }
    }
}
