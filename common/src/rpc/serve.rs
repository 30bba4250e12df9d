//! The server's side: accept, first exchange, requests as tasks, an orderly end.
//!
//! tarpc drops a request's handler when its deadline passes, when the caller goes away and when the
//! connection ends. For a read that is right. A mutation must not stop half-way: its handler runs
//! the work through [`detached`], in a task that nobody but itself ends.

use super::gate::Gate;
use super::handshake::{HandshakeError, Peer, exchange};
use super::refusals::{Kind, Refusals, cause, of_connection, of_exchange};
use super::socket::tune;
use super::transport::{Patience, QUEUED_MAX, ServerTransport, WireError};
use crate::env::files;
use crate::error::{FsError, FsResult};
use crate::pool::PayloadBuffers;
use crate::wire::hello::Identity;
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tarpc::ChannelError;
use tarpc::server::{BaseChannel, Channel, Config, InFlightRequest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

/// Most replies that wait for the connection's task; more wait in their handlers.
const PENDING_REPLIES: usize = 100;
/// Bytes of small replies that wait for a slow reader.
const SMALL_REPLIES: usize = 1 << 20;
/// Requests of one connection that run at once if each may hold a block.
const BULK_IN_FLIGHT: usize = 16;
/// Most connections at once; at most three quarters of what this process may have open, which has files of its own.
const CONNECTIONS_MAX: usize = 20_000;
/// Who has asked nothing so long after the first exchange is in the way of others: those who want something connect
/// when they do.
const FIRST_REQUEST: Duration = Duration::from_secs(60);
/// How long a frame may take to come: the largest one from somebody with 0.7 Mbit/s.
const FRAME_TIME: Patience = Patience { longest: Duration::from_secs(60), pressed: Duration::from_secs(2) };
/// Pause after a failed `accept` (out of file descriptors): others may end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds and identity of a server.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// What is said in the first exchange.
    pub identity: Identity,
    /// Most connections at once; further ones are closed at once.
    pub max_connections: usize,
    /// Most requests of one connection that run at once; more stay in the socket. Memory for one
    /// connection is at most about this times the largest message, and for all of them what `buffers` may have in use.
    pub in_flight: usize,
    /// Most bytes of replies of one connection that wait for its reader, and one reply more.
    pub queued: usize,
    /// How long a connection may be open without any request.
    pub first_request: Duration,
    /// How long a frame may take to come.
    pub frame_time: Patience,
    /// How long running requests may take to end after the shutdown began.
    pub grace: Duration,
    /// Where payloads are received into.
    pub buffers: PayloadBuffers,
}

impl ServeOptions {
    /// Bounds for many small requests.
    #[must_use]
    pub fn new(identity: Identity) -> ServeOptions {
        ServeOptions {
            identity,
            max_connections: CONNECTIONS_MAX.min(files::limit() / 4 * 3),
            in_flight: 1024,
            queued: SMALL_REPLIES,
            first_request: FIRST_REQUEST,
            frame_time: FRAME_TIME,
            grace: Duration::from_secs(5),
            buffers: PayloadBuffers::shared(),
        }
    }

    /// Bounds for few requests with large payloads.
    #[must_use]
    pub fn bulk(identity: Identity) -> ServeOptions {
        ServeOptions { in_flight: BULK_IN_FLIGHT, queued: QUEUED_MAX, ..ServeOptions::new(identity) }
    }
}

/// Serves until `shutdown`, then ends all connections: running requests get `grace` to finish.
///
/// `connected` is called for each connection and returns what handles its requests:
///
/// ```ignore
/// serve(listener, options, shutdown, move |peer| {
///     let service = service.for_peer(peer);
///     move |request| request.execute(service.clone().serve())
/// })
/// ```
pub async fn serve<Req, Resp, Connected, Handle, Running>(
    listener: TcpListener,
    options: ServeOptions,
    shutdown: CancellationToken,
    connected: Connected,
) where
    Req: Serialize + DeserializeOwned + Send + 'static,
    Resp: Serialize + DeserializeOwned + Send + 'static,
    Connected: Fn(Peer) -> Handle + Send + Sync + 'static,
    Handle: Fn(InFlightRequest<Req, Resp>) -> Running + Send + 'static,
    Running: Future<Output = ()> + Send + 'static,
{
    let server = Arc::new(Server { options, shutdown, connected, refusals: Refusals::default() });
    let slots = Arc::new(Semaphore::new(server.options.max_connections));
    let tasks = TaskTracker::new();
    let mut accepted = 0;
    while let Some((stream, address)) = server.accept(&listener).await {
        accepted += 1;
        let connection = accepted;
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            let places = server.options.max_connections;
            let line = format_args!("connection from {address} refused: all {places} places are taken");
            server.refusals.say(Kind::NoRoom, line);
            continue;
        };
        let server = server.clone();
        tasks.spawn(async move {
            server.connection(stream, address, connection).await;
            drop(slot);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Runs `work` to its end even if the caller goes away or its deadline passes. It begins with the call, so that what
/// waits for it is small. A panic in it is an I/O error for the caller; the panic itself is reported by the runtime.
pub fn detached<T: Send + 'static>(
    work: impl Future<Output = FsResult<T>> + Send + 'static,
) -> impl Future<Output = FsResult<T>> + Send {
    let task = tokio::spawn(work);
    async move { task.await.unwrap_or(Err(FsError::Io)) }
}

struct Server<Connected> {
    options: ServeOptions,
    shutdown: CancellationToken,
    connected: Connected,
    refusals: Refusals,
}

impl<Connected> Server<Connected> {
    /// The next connection; `None` once the shutdown began.
    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = self.shutdown.run_until_cancelled(listener.accept()).await?;
            match accepted {
                Ok(connection) => return Some(connection),
                Err(error) => {
                    self.refusals.say(Kind::Accept, format_args!("cannot accept connections: {error}"));
                    self.shutdown.run_until_cancelled(sleep(ACCEPT_PAUSE)).await?;
                }
            }
        }
    }

    async fn connection<Req, Resp, Handle, Running>(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        connection: u64,
    ) where
        Req: Serialize + DeserializeOwned + Send + 'static,
        Resp: Serialize + DeserializeOwned + Send + 'static,
        Connected: Fn(Peer) -> Handle,
        Handle: Fn(InFlightRequest<Req, Resp>) -> Running,
        Running: Future<Output = ()> + Send + 'static,
    {
        if let Err(error) = tune(&stream) {
            debug!(%address, %error, "set socket options");
        }
        let hello = exchange(&mut stream, address, &self.options.identity);
        match self.shutdown.run_until_cancelled(hello).await {
            Some(Ok(peer)) => {
                debug!(%address, role = peer.role, version = peer.version, "connected");
                let handle = (self.connected)(Peer { connection, ..peer });
                self.requests(stream, address, handle).await;
            }
            Some(Err(error)) => self.report_refusal(address, &error),
            None => {}
        }
    }

    fn report_refusal(&self, address: SocketAddr, error: &HandshakeError) {
        match of_exchange(error) {
            Some(kind) => {
                self.refusals.say(kind, format_args!("connection from {address} refused: {error}"));
            }
            None => debug!(%address, %error, "no first exchange"),
        }
    }

    fn report_end(&self, address: SocketAddr, error: &ChannelError<WireError>) {
        let cause = cause(error);
        match of_connection(error) {
            Some(kind) => self.refusals.say(kind, format_args!("connection from {address} ended: {cause}")),
            None => info!(%address, %error, %cause, "connection ended"),
        }
    }

    /// Takes requests until the peer closes, the connection breaks or the shutdown is through.
    async fn requests<Req, Resp, Handle, Running>(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        handle: Handle,
    ) where
        Req: Serialize + DeserializeOwned + Send + 'static,
        Resp: Serialize + DeserializeOwned + Send + 'static,
        Handle: Fn(InFlightRequest<Req, Resp>) -> Running,
        Running: Future<Output = ()> + Send + 'static,
    {
        let gate = Gate::new(self.options.in_flight);
        let transport: ServerTransport<Req, Resp> =
            ServerTransport::new(stream, self.options.buffers.clone())
                .queueing(self.options.queued)
                .bounded(self.options.frame_time)
                .gated(gate.clone());
        // A part of the requests: replies that wait for a slow reader count as well.
        let pending_response_buffer = (self.options.in_flight / 8).clamp(1, PENDING_REPLIES);
        let config = Config { pending_response_buffer };
        let mut requests = std::pin::pin!(BaseChannel::new(config, transport).requests());
        let mut end: Option<Instant> = None;
        let idle_until = Instant::now() + self.options.first_request;
        let mut asked = false;
        loop {
            tokio::select! {
                biased;
                next = requests.next() => match next {
                    Some(Ok(request)) => {
                        asked = true;
                        let (running, work) = (gate.enter(), handle(request));
                        tokio::spawn(async move {
                            work.await;
                            drop(running);
                        });
                    }
                    Some(Err(error)) => {
                        self.report_end(address, &error);
                        return;
                    }
                    None => return,
                },
                () = self.shutdown.cancelled(), if end.is_none() => {
                    gate.close();
                    end = Some(Instant::now() + self.options.grace);
                }
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return,
                () = sleep_until(idle_until), if !asked => {
                    let time = self.options.first_request.as_secs();
                    let line = format_args!("connection from {address} ended: it asked nothing within {time} s");
                    self.refusals.say(Kind::Idle, line);
                    return;
                }
            }
        }
    }
}
