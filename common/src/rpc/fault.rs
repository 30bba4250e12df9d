//! The one place where tarpc's errors become ours.

use super::transport::WireError;
use crate::error::FsError;
use crate::wire::codec::CodecError;
use crate::wire::frame::FrameError;
use crate::wire::send::PushError;
use tarpc::client::RpcError;

/// What a failed call means to the caller.
///
/// `Unavailable`: the request may or may not have reached the server, whose connection is gone.
/// `TimedOut`: no answer before the deadline. In both cases it is unknown whether the operation
/// happened, so only idempotent or numbered requests may be repeated.
#[must_use]
pub fn fs_error(error: &RpcError) -> FsError {
    match error {
        RpcError::Shutdown | RpcError::Channel(_) => FsError::Unavailable,
        RpcError::DeadlineExceeded => FsError::TimedOut,
        RpcError::Send(cause) => match cause.downcast_ref::<WireError>() {
            Some(WireError::Push(cause)) => unsendable(cause),
            _ => FsError::Unavailable,
        },
        // The server had an answer that it could not send: a fault of ours, not of the caller.
        RpcError::Server(_) => FsError::Io,
    }
}

/// True if the connection is of no more use after `error`.
#[must_use]
pub fn breaks_connection(error: &RpcError) -> bool {
    matches!(error, RpcError::Shutdown | RpcError::Channel(_))
}

fn unsendable(error: &PushError) -> FsError {
    match error {
        PushError::Codec(CodecError::TooLarge { .. })
        | PushError::Frame(FrameError::HeaderTooLarge(_) | FrameError::PayloadTooLarge(_)) => FsError::TooBig,
        _ => FsError::Invalid,
    }
}
