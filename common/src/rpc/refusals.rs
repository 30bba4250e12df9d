//! What a server's log says of connections that it can't serve, or ends: one line each with address and reason, and few
//! of each kind, so that one that comes in thousands neither fills the log nor hides the others.

use super::handshake::HandshakeError;
use super::hush::Hush;
use super::transport::WireError;
use crate::wire::frame::FrameError;
use crate::wire::hello::{Foreign, Mismatch};
use std::fmt::Arguments;
use std::time::Instant;
use tarpc::ChannelError;
use tracing::{debug, warn};

/// Kinds of lines. Each has a bound of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A failed `accept`.
    Accept,
    /// All places are taken.
    NoRoom,
    Http,
    Tls,
    Ssh,
    /// Another protocol, or garbage.
    Foreign,
    /// Another version, service or cluster of ours.
    Mismatch,
    /// Said too little in the first exchange.
    Silent,
    /// Asked nothing after it.
    Idle,
    /// In place of a frame's beginning is something else.
    Garbage,
    LargeHeader,
    LargePayload,
    Checksum,
    /// A whole frame that is no message.
    Undecodable,
    /// Half a frame.
    Late,
}

const KINDS: usize = Kind::Late as usize + 1;

/// The kind of a failed first exchange. `None` for what is no news: port scans, and checks that only connect.
pub(super) fn of_exchange(error: &HandshakeError) -> Option<Kind> {
    match error {
        HandshakeError::Mismatch(Mismatch::NotCairn(Foreign::Http)) => Some(Kind::Http),
        HandshakeError::Mismatch(Mismatch::NotCairn(Foreign::Tls)) => Some(Kind::Tls),
        HandshakeError::Mismatch(Mismatch::NotCairn(Foreign::Ssh)) => Some(Kind::Ssh),
        HandshakeError::Mismatch(Mismatch::NotCairn(Foreign::Unknown)) => Some(Kind::Foreign),
        HandshakeError::Mismatch(_) => Some(Kind::Mismatch),
        HandshakeError::Frame(error) => of_frame(error),
        HandshakeError::Timeout => Some(Kind::Silent),
        HandshakeError::Io(_) => None,
    }
}

/// The kind of what ended a connection. `None` for what is no news: peers die, also in the middle of a frame, and
/// networks are cut.
pub(super) fn of_connection(error: &ChannelError<WireError>) -> Option<Kind> {
    match cause(error) {
        WireError::Frame(error) => of_frame(error),
        WireError::Codec(_) => Some(Kind::Undecodable),
        WireError::Late(_) => Some(Kind::Late),
        WireError::Io(_) | WireError::Push(_) => None,
    }
}

/// What tarpc has as the source of its own errors.
pub(super) fn cause(error: &ChannelError<WireError>) -> &WireError {
    match error {
        ChannelError::Read(cause)
        | ChannelError::Ready(cause)
        | ChannelError::Write(cause)
        | ChannelError::Flush(cause)
        | ChannelError::Close(cause) => cause,
    }
}

fn of_frame(error: &FrameError) -> Option<Kind> {
    match error {
        FrameError::Version(_) => Some(Kind::Mismatch),
        FrameError::Magic(_) | FrameError::Kind(..) => Some(Kind::Garbage),
        FrameError::HeaderTooLarge(_) => Some(Kind::LargeHeader),
        FrameError::PayloadTooLarge(_) => Some(Kind::LargePayload),
        FrameError::Checksum => Some(Kind::Checksum),
        FrameError::Truncated => None,
    }
}

/// The lines of one server.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    hushes: [Hush; KINDS],
}

impl Refusals {
    /// Writes the line, or counts it if there were many of its kind.
    pub fn say(&self, kind: Kind, line: Arguments<'_>) {
        match self.hushes[kind as usize].admit(Instant::now()) {
            Some(0) => warn!(target: "cairn", "{line}"),
            Some(left_out) => warn!(target: "cairn", "{line} ({left_out} lines like this were left out)"),
            None => debug!("{line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    #[test]
    fn what_a_peer_did_wrong_is_news_and_what_happens_to_any_is_not() {
        let read = |error: WireError| ChannelError::Read(Arc::new(error));
        let ended = |error| of_connection(&read(error));
        assert_eq!(ended(FrameError::Checksum.into()), Some(Kind::Checksum));
        assert_eq!(ended(FrameError::PayloadTooLarge(1 << 30).into()), Some(Kind::LargePayload));
        assert_eq!(ended(FrameError::Magic(*b"GET ").into()), Some(Kind::Garbage));
        assert_eq!(ended(FrameError::Truncated.into()), None);
        assert_eq!(ended(io::Error::from(io::ErrorKind::ConnectionReset).into()), None);
        assert_eq!(of_exchange(&HandshakeError::Timeout), Some(Kind::Silent));
        assert_eq!(of_exchange(&io::Error::from(io::ErrorKind::UnexpectedEof).into()), None);
        assert_eq!(of_exchange(&Mismatch::NotCairn(Foreign::Tls).into()), Some(Kind::Tls));
    }
}
