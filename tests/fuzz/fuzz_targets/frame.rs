//! Frames, cut out of bytes that arrive in any pieces.
//!
//! What arrives is a few good frames with a tail of any bytes behind them, or any bytes alone.
#![no_main]

use bytes::Bytes;
use cairn_common::pool::PayloadBuffers;
use cairn_common::wire::frame::{FIXED_LEN, FrameError, FrameHead, FrameKind, fixed_part};
use cairn_common::wire::receive::Receiver;
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, PartialEq)]
struct Whole {
    kind: FrameKind,
    header: Vec<u8>,
    payload: Bytes,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let step = usize::from(input.u8()) + 1;
    let mut stream = Vec::new();
    for _ in 0..input.u8() % 4 {
        let kind = if input.u8().is_multiple_of(2) { FrameKind::Hello } else { FrameKind::Message };
        let (header, payload) = (input.chunk(), input.chunk());
        stream.extend(fixed_part(kind, header, payload.len()).expect("far below the limits"));
        stream.extend(header);
        stream.extend(payload);
    }
    stream.extend(input.0);
    // A payload that a frame announces gets its buffer, of at most 5 MiB, before it comes.
    let received = within(8 * MIB, || receive(&stream, step));
    assert_eq!(received, expected(&stream), "in pieces of {step}");
});

/// All frames, and how it ended.
type Received = (Vec<Whole>, Result<bool, FrameError>);

/// What the receiver makes of the bytes in pieces of at most `step`: true if it then stands between two frames.
fn receive(mut rest: &[u8], step: usize) -> Received {
    let mut receiver = Receiver::new(PayloadBuffers::new());
    let mut frames = Vec::new();
    loop {
        loop {
            match receiver.next_frame() {
                Ok(Some(frame)) => {
                    let header = frame.header.to_vec();
                    frames.push(Whole { kind: frame.kind, header, payload: frame.payload });
                }
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        if rest.is_empty() {
            let idle = receiver.is_idle();
            receiver.release();
            return (frames, Ok(idle));
        }
        let space = receiver.space();
        let count = space.len().min(step).min(rest.len());
        assert!(count > 0, "no room for more");
        space[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        receiver.received(count);
    }
}

/// The same from the whole of the bytes.
fn expected(mut rest: &[u8]) -> Received {
    let mut frames = Vec::new();
    while let Some((fixed, behind)) = rest.split_first_chunk::<FIXED_LEN>() {
        let head = match FrameHead::parse(fixed) {
            Ok(head) => head,
            Err(error) => return (frames, Err(error)),
        };
        let Some((header, behind)) = behind.split_at_checked(head.header_len) else { break };
        if let Err(error) = head.verify(fixed, header) {
            return (frames, Err(error));
        }
        let Some((payload, behind)) = behind.split_at_checked(head.payload_len) else { break };
        let (header, payload) = (header.to_vec(), Bytes::copy_from_slice(payload));
        frames.push(Whole { kind: head.kind, header, payload });
        rest = behind;
    }
    let idle = rest.is_empty();
    (frames, Ok(idle))
}
