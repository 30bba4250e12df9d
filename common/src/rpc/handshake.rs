//! The first exchange over a socket: each side sends its hello, reads the other's and decides.

use crate::error::FsError;
use crate::ids::ClusterId;
use crate::wire::frame::{FIXED_LEN, FrameError, FrameHead, FrameKind, MAGIC, fixed_part};
use crate::wire::hello::{Foreign, HELLO_MAX, Hello, Identity, Mismatch, agree};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long the exchange may take.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// What the peer says it is, for logs and status.
    pub role: String,
    /// 0 while the peer does not know.
    pub cluster: ClusterId,
    /// The protocol version to speak with it.
    pub version: u16,
    /// Of a server: its connections in the order in which it accepted them, from 1. Otherwise 0.
    pub connection: u64,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error("first exchange damaged: {0}")]
    Frame(FrameError),
    #[error("no answer within {} s", HELLO_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl HandshakeError {
    /// What a caller sees.
    #[must_use]
    pub fn fs_error(&self) -> FsError {
        match self {
            HandshakeError::Mismatch(_) => FsError::WrongPeer,
            HandshakeError::Frame(_) | HandshakeError::Timeout | HandshakeError::Io(_) => {
                FsError::Unavailable
            }
        }
    }
}

/// Introduces us to a peer. Also on a mismatch our own hello was sent, so that the peer can tell
/// its operator the same. Learns the cluster if we don't know ours.
pub async fn exchange<S>(
    stream: &mut S,
    address: SocketAddr,
    identity: &Identity,
) -> Result<Peer, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ours = identity.hello();
    let talk = async {
        send(stream, &ours).await?;
        receive(stream).await
    };
    let theirs = tokio::time::timeout(HELLO_TIMEOUT, talk).await.map_err(|_| HandshakeError::Timeout)??;
    let version = agree(&ours, &theirs)?;
    Ok(Peer { address, role: theirs.role, cluster: theirs.cluster, version, connection: 0 })
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, hello: &Hello) -> Result<(), HandshakeError> {
    let header = hello.encode();
    let fixed = fixed_part(FrameKind::Hello, &header, 0).map_err(HandshakeError::Frame)?;
    stream.write_all(&[&fixed[..], &header].concat()).await?;
    Ok(())
}

/// Reads exactly one hello frame: what follows belongs to the transport.
async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Hello, HandshakeError> {
    let mut fixed = [0; FIXED_LEN];
    // What others say first may be shorter than a frame.
    let (magic, rest) = fixed.split_at_mut(MAGIC.len());
    stream.read_exact(magic).await?;
    if magic != MAGIC {
        return Err(Mismatch::NotCairn(Foreign::of(magic)).into());
    }
    stream.read_exact(rest).await?;
    let head = FrameHead::parse(&fixed).map_err(HandshakeError::Frame)?;
    if head.kind != FrameKind::Hello || head.header_len > HELLO_MAX || head.payload_len > 0 {
        return Err(Mismatch::NotCairn(Foreign::Unknown).into());
    }
    let mut header = [0; HELLO_MAX];
    let header = &mut header[..head.header_len];
    stream.read_exact(header).await?;
    head.verify(&fixed, header).map_err(HandshakeError::Frame)?;
    Ok(Hello::decode(header)?)
}
