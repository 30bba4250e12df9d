//! tarpc's messages over a byte stream.
//!
//! One write per flush in the common case: queued frames and payload segments go out in one
//! vectored write. One read per message: header and a small payload come together, the rest of a
//! large payload is read straight into the buffer that the service gets. The sender is held back
//! by bytes, not by messages.

use super::gate::{Admission, Gate};
use super::message::WireMessage;
use crate::pool::PayloadBuffers;
use crate::wire::codec::CodecError;
use crate::wire::frame::{FrameError, FrameKind};
use crate::wire::payload::decode_with;
use crate::wire::receive::{Frame, Receiver};
use crate::wire::send::{PushError, SendQueue};
use futures::{Sink, Stream, ready};
use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tarpc::{ClientMessage, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// No message is taken while so many bytes wait to be written: about one large payload, so that the next is there when
/// the socket has taken it.
pub const QUEUED_MAX: usize = 4 << 20;
/// Slices per vectored write. The kernel takes up to 1024; these stand on the stack.
const SLICES: usize = 128;

/// What a client's stub speaks over.
pub type ClientTransport<Req, Resp, S = TcpStream> = Transport<Response<Resp>, ClientMessage<Req>, S>;
/// What a server's channel speaks over.
pub type ServerTransport<Req, Resp, S = TcpStream> = Transport<ClientMessage<Req>, Response<Resp>, S>;

/// Why a connection ended, or why one message could not be sent ([`WireError::Push`]).
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("received: {0}")]
    Codec(#[from] CodecError),
    #[error("not sent: {0}")]
    Push(#[from] PushError),
    #[error("a frame did not come to its end within {} s", .0.as_secs())]
    Late(Duration),
}

/// How long a frame may take to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// At most.
    pub longest: Duration,
    /// How often it is looked whether others wait for the memory that it takes; then it must have come further since the
    /// last look.
    pub pressed: Duration,
}

/// How far: more than a trickle. Honest peers that share a slow network are much faster.
const PROGRESS: u64 = 64 << 10;

/// Since when a frame has been coming, and when it is looked whether that takes too long.
#[derive(Debug)]
struct Late {
    begun: Instant,
    look: Pin<Box<Sleep>>,
    /// What had been received at the last look.
    seen: u64,
}

/// Receives `In`, sends `Out`.
#[derive(Debug)]
pub struct Transport<In, Out, S = TcpStream> {
    stream: S,
    receiver: Receiver,
    queue: SendQueue,
    queued_max: usize,
    gate: Option<Arc<Gate>>,
    patience: Option<Patience>,
    /// Of a frame that has begun to come.
    late: Option<Late>,
    received: u64,
    messages: PhantomData<fn(Out) -> In>,
}

impl<In, Out, S> Transport<In, Out, S> {
    /// A transport over a stream whose first exchange is done.
    #[must_use]
    pub fn new(stream: S, buffers: PayloadBuffers) -> Self {
        let (receiver, queue) = (Receiver::new(buffers), SendQueue::default());
        let (queued_max, gate, patience, late, received) = (QUEUED_MAX, None, None, None, 0);
        Transport {
            stream,
            receiver,
            queue,
            queued_max,
            gate,
            patience,
            late,
            received,
            messages: PhantomData,
        }
    }

    /// Takes no message while `bytes` wait to be written, instead of [`QUEUED_MAX`].
    #[must_use]
    pub fn queueing(self, bytes: usize) -> Self {
        Transport { queued_max: bytes.max(1), ..self }
    }

    /// Gives out messages only while `gate` is open.
    #[must_use]
    pub fn gated(self, gate: Arc<Gate>) -> Self {
        Transport { gate: Some(gate), ..self }
    }

    /// For peers that are not to be trusted: receives a frame only while the buffers have room for it, and ends with
    /// [`WireError::Late`] if one that has begun takes too long to come.
    #[must_use]
    pub fn bounded(mut self, patience: Patience) -> Self {
        self.receiver.bound();
        Transport { patience: Some(patience), ..self }
    }

    /// Bytes taken and not written yet.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }
}

impl<In, Out, S: AsyncRead + AsyncWrite + Unpin> Transport<In, Out, S> {
    /// Reads once; the number of bytes, 0 at the end of the stream.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = ReadBuf::new(self.receiver.space());
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut space))?;
        let count = space.filled().len();
        self.receiver.received(count);
        self.received += count as u64;
        Poll::Ready(Ok(count))
    }

    /// Writes until at most `rest` bytes are queued; waits while the socket is full.
    fn poll_drain(&mut self, context: &mut Context<'_>, rest: usize) -> Poll<Result<(), WireError>> {
        while self.queue.len() > rest {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.queue.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write_vectored(context, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            self.queue.sent(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing came, or there is no room for it: ready when a frame that has begun takes too long.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<WireError> {
        let Some(Patience { longest, pressed }) = self.patience.filter(|_| !self.receiver.is_idle()) else {
            self.late = None;
            return Poll::Pending;
        };
        let (now, received) = (Instant::now(), self.received);
        let late = self.late.get_or_insert_with(|| Late {
            begun: now,
            look: Box::pin(sleep(pressed.min(longest))),
            seen: received,
        });
        loop {
            ready!(late.look.as_mut().poll(context));
            let took = late.begun.elapsed();
            // A wait for room is ours, and not the peer's fault; but it holds what has come so far.
            let stalls = self.receiver.wanted().is_none() && received - late.seen < PROGRESS;
            if took >= longest || (stalls && self.receiver.buffers().budget().is_short()) {
                return Poll::Ready(WireError::Late(took));
            }
            late.seen = received;
            late.look.as_mut().reset(late.begun + (took + pressed).min(longest));
        }
    }

    fn poll_admission(&self, context: &mut Context<'_>) -> Poll<Admission> {
        self.gate.as_ref().map_or(Poll::Ready(Admission::Open), |gate| gate.poll_admission(context))
    }
}

impl<In: WireMessage, Out, S: AsyncRead + AsyncWrite + Unpin> Stream for Transport<In, Out, S> {
    type Item = Result<In, WireError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if ready!(this.poll_admission(context)) == Admission::Closed {
            return Poll::Ready(None);
        }
        loop {
            if let Some(frame) = this.receiver.next_frame()? {
                let message = decode_frame(frame);
                this.receiver.release();
                this.late = None;
                return Poll::Ready(Some(message));
            }
            if let Some(wanted) = this.receiver.wanted() {
                if this.receiver.buffers().budget().poll_room(context, wanted).is_ready() {
                    continue;
                }
                return this.poll_late(context).map(|error| Some(Err(error)));
            }
            let Poll::Ready(read) = this.poll_receive(context) else {
                this.receiver.release();
                return this.poll_late(context).map(|error| Some(Err(error)));
            };
            if read? == 0 {
                let idle = this.receiver.is_idle();
                return Poll::Ready(if idle { None } else { Some(Err(FrameError::Truncated.into())) });
            }
        }
    }
}

impl<In, Out: WireMessage, S: AsyncRead + AsyncWrite + Unpin> Sink<Out> for Transport<In, Out, S> {
    type Error = WireError;

    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let this = self.get_mut();
        this.poll_drain(context, this.queued_max - 1)
    }

    fn start_send(self: Pin<&mut Self>, message: Out) -> Result<(), WireError> {
        let queue = &mut self.get_mut().queue;
        let Err(error) = queue.push(FrameKind::Message, |out| message.encode(out)) else {
            return Ok(());
        };
        match message.replacement(&error.to_string()) {
            Some(other) => Ok(queue.push(FrameKind::Message, |out| other.encode(out))?),
            None => Err(error.into()),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        self.get_mut().poll_drain(context, 0)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context, 0))?;
        Pin::new(&mut this.stream).poll_shutdown(context).map_err(WireError::from)
    }
}

fn decode_frame<In: WireMessage>(frame: Frame<'_>) -> Result<In, WireError> {
    if frame.kind != FrameKind::Message {
        return Err(CodecError::Malformed("unexpected kind of frame".into()).into());
    }
    let (message, left) = decode_with(frame.payload, || In::decode(frame.header));
    let message = message?;
    if left.is_empty() { Ok(message) } else { Err(CodecError::Trailing(left.len()).into()) }
}
