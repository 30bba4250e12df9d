//! tarpc's messages in our own form on the wire: independent of tarpc's serde layout, without its
//! trace context, and with the deadline as a bounded number (tarpc's own form panics on a deadline
//! that overflows the clock).

use super::deadline::{context_within, remaining};
use crate::limits::FRAME_HEADER_MAX;
use crate::wire::codec::{CodecError, decode, encode_into};
use bytes::BytesMut;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use std::time::Duration;
use tarpc::{ClientMessage, Request, Response, ServerError};

/// Longest text of a refusal on the wire.
const DETAIL_MAX: usize = 200;

/// A message that the transport can carry.
pub trait WireMessage: Sized {
    /// Appends the header; payloads go beside it.
    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError>;
    /// Reads what [`WireMessage::encode`] wrote.
    fn decode(header: &[u8]) -> Result<Self, CodecError>;
    /// What to send in place of this message when it can't be encoded; `None`: the sender is told.
    fn replacement(&self, reason: &str) -> Option<Self> {
        let _ = reason;
        None
    }
}

/// Client to server. Borrowed when encoded, owned when decoded.
#[derive(Serialize, Deserialize)]
enum CallForm<T> {
    Call { id: u64, timeout_micros: u64, message: T },
    Cancel { id: u64 },
}

/// Server to client.
#[derive(Serialize, Deserialize)]
enum ReplyForm<T> {
    Done { id: u64, message: T },
    Refused { id: u64, detail: String },
}

impl<T: Serialize + DeserializeOwned> WireMessage for ClientMessage<T> {
    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        let form = match self {
            ClientMessage::Request(request) => CallForm::Call {
                id: request.id,
                timeout_micros: micros(remaining(&request.context)),
                message: &request.message,
            },
            ClientMessage::Cancel { request_id, .. } => CallForm::Cancel { id: *request_id },
            _ => return Err(CodecError::Malformed("unknown kind of message".into())),
        };
        encode_into(&form, out, FRAME_HEADER_MAX)
    }

    fn decode(header: &[u8]) -> Result<Self, CodecError> {
        Ok(match decode(header, FRAME_HEADER_MAX)? {
            CallForm::Call { id, timeout_micros, message } => {
                let context = context_within(Duration::from_micros(timeout_micros));
                ClientMessage::Request(Request { context, id, message })
            }
            CallForm::Cancel { id } => {
                let trace_context = context_within(Duration::ZERO).trace_context;
                ClientMessage::Cancel { trace_context, request_id: id }
            }
        })
    }
}

impl<T: Serialize + DeserializeOwned> WireMessage for Response<T> {
    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        let form = match &self.message {
            Ok(message) => ReplyForm::Done { id: self.request_id, message },
            Err(error) => {
                let detail = error.detail.chars().take(DETAIL_MAX).collect();
                ReplyForm::Refused { id: self.request_id, detail }
            }
        };
        encode_into(&form, out, FRAME_HEADER_MAX)
    }

    fn decode(header: &[u8]) -> Result<Self, CodecError> {
        Ok(match decode(header, FRAME_HEADER_MAX)? {
            ReplyForm::Done { id, message } => Response { request_id: id, message: Ok(message) },
            ReplyForm::Refused { id, detail } => {
                let error = ServerError::new(io::ErrorKind::Other, detail);
                Response { request_id: id, message: Err(error) }
            }
        })
    }

    fn replacement(&self, reason: &str) -> Option<Self> {
        let error = ServerError::new(io::ErrorKind::InvalidData, format!("reply not sendable: {reason}"));
        Some(Response { request_id: self.request_id, message: Err(error) })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::ids::{Ino, SessionId};
    use crate::limits::{NAME_MAX, OPENS_MAX};
    use crate::proto::meta::{AttachRequest, ClientInfo, OpenState};
    use proptest::prelude::*;
    use std::time::Instant;

    fn bytes<M: WireMessage>(message: &M) -> BytesMut {
        let mut out = BytesMut::new();
        message.encode(&mut out).unwrap();
        out
    }

    #[test]
    fn an_attach_with_all_opens_that_there_may_be_fits_a_frame() {
        let longest = |length: usize| "x".repeat(length);
        let client = ClientInfo {
            host: longest(NAME_MAX),
            mount_point: longest(4096),
            version: longest(NAME_MAX),
            pid: u32::MAX,
        };
        let open = |ino| OpenState { ino: Ino(u64::MAX - ino), opens: u32::MAX, writers: u32::MAX };
        let opens: Vec<OpenState> = (0..OPENS_MAX as u64).map(open).collect();
        let request = AttachRequest { session: Some(SessionId(u64::MAX)), client, opens: opens.clone() };
        let call = Request { context: context_within(Duration::MAX), id: u64::MAX, message: request };
        let bytes = bytes(&ClientMessage::Request(call));
        let ClientMessage::Request(back) = ClientMessage::<AttachRequest>::decode(&bytes).unwrap() else {
            panic!("not the request");
        };
        assert!(back.message.opens == opens);
    }

    #[test]
    fn golden_bytes() {
        let done = Response { request_id: 300, message: Ok(7_u8) };
        assert_eq!(&bytes(&done)[..], [0, 251, 44, 1, 7]);
        let trace_context = context_within(Duration::ZERO).trace_context;
        let cancel = ClientMessage::<u8>::Cancel { trace_context, request_id: 5 };
        assert_eq!(&bytes(&cancel)[..], [1, 5]);
    }

    #[test]
    fn a_call_keeps_its_id_and_deadline() {
        let context = context_within(Duration::from_secs(5));
        let call = ClientMessage::Request(Request { context, id: 9, message: "hi".to_owned() });
        let ClientMessage::Request(back) = ClientMessage::<String>::decode(&bytes(&call)).unwrap() else {
            panic!("not a request");
        };
        assert_eq!((back.id, back.message.as_str()), (9, "hi"));
        let left = back.context.deadline - Instant::now();
        assert!(left > Duration::from_secs(4) && left <= Duration::from_secs(5), "{left:?}");
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_cut() {
        let call = CallForm::Call { id: 1, timeout_micros: u64::MAX, message: 3_u8 };
        let header = crate::wire::codec::encode(&call).unwrap();
        let ClientMessage::Request(back) = ClientMessage::<u8>::decode(&header).unwrap() else {
            panic!("not a request");
        };
        assert!(remaining(&back.context) <= super::super::deadline::LONGEST_DEADLINE);
    }

    #[test]
    fn a_refusal_crosses_the_wire() {
        let refused = Response { request_id: 2, message: Ok(1_u8) }.replacement("too large").unwrap();
        let back = Response::<u8>::decode(&bytes(&refused)).unwrap();
        assert!(back.message.unwrap_err().detail.contains("too large"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = ClientMessage::<(u64, String)>::decode(&bytes);
            let _ = Response::<(u64, String)>::decode(&bytes);
        }
    }
}
