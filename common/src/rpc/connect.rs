//! The client's side: a connection that comes back by itself.
//!
//! One task owns the connection: it connects when somebody asks, tries all addresses at once, runs
//! the connection until it breaks, and then waits for the next who asks. What it does is published
//! in a watch channel; each new connection has a higher *generation*, so that a session notices that
//! it must attach again.

use super::deadline::context_within;
use super::fault::{breaks_connection, fs_error};
use super::handshake::{HandshakeError, Peer, exchange};
use super::message::WireMessage;
use super::outage::Outage;
use super::socket::tune;
use super::stub::{Dispatch, WireStub};
use crate::config::Address;
use crate::error::{FsError, FsResult, one_line};
use crate::pool::PayloadBuffers;
use crate::wire::hello::Identity;
use futures::stream::{FuturesUnordered, StreamExt};
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tarpc::client::RpcError;
use tarpc::context::Context;
use tarpc::{ClientMessage, RequestName, Response};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

/// Pause before the second attempt; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two attempts: a server that is back should answer within 300 ms, also after a long time. A thousand
/// clients then knock some 5,000 times a second at a machine that refuses them, which costs it little.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A connection that lived so long resets the pause.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Where to connect to, and as whom.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Addresses of one server or of equal ones; the first that answers is taken.
    pub addresses: Vec<Address>,
    /// Port of addresses that name none.
    pub default_port: u16,
    /// What is said in the first exchange.
    pub identity: Identity,
    /// How long one attempt may take, name lookup and first exchange included.
    pub connect_timeout: Duration,
    /// Where payloads are received into.
    pub buffers: PayloadBuffers,
    /// What the log has been told of the server.
    pub outage: Outage,
}

impl ConnectOptions {
    /// Options with usual bounds.
    #[must_use]
    pub fn new(addresses: Vec<Address>, default_port: u16, identity: Identity) -> ConnectOptions {
        ConnectOptions {
            addresses,
            default_port,
            identity,
            connect_timeout: Duration::from_secs(5),
            buffers: PayloadBuffers::shared(),
            outage: Outage::default(),
        }
    }
}

/// A live connection's stub, and which connection it is.
#[derive(Clone, Debug)]
pub struct Live<C> {
    client: C,
    generation: u64,
    peer: Arc<Peer>,
    broken: CancellationToken,
}

impl<C> Live<C> {
    /// Counts the connections made: higher than that of each earlier one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who answers.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Ends when this connection is broken or given up.
    pub async fn broken(&self) {
        self.broken.cancelled().await;
    }
}

impl<C> Deref for Live<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.client
    }
}

/// What the connection does, for status and for who waits.
#[derive(Clone, Debug)]
pub enum LinkState {
    /// Nobody asked yet, or nobody asked since the connection broke.
    Idle,
    /// An attempt runs or the pause before it; `last_error` is why the one before failed.
    Connecting {
        failed_attempts: u32,
        last_error: Option<String>,
    },
    Up {
        generation: u64,
        peer: Arc<Peer>,
    },
}

/// What the task publishes.
#[derive(Debug)]
struct Published<C> {
    state: LinkState,
    live: Option<Live<C>>,
    /// Failed attempts since the start, and the last one's error.
    failures: u64,
    last_failure: FsError,
}

/// A client that reconnects. Cloning shares the connection; dropping the last clone closes it.
#[derive(Debug)]
pub struct Reconnecting<C> {
    inner: Arc<Inner<C>>,
}

#[derive(Debug)]
struct Inner<C> {
    published: watch::Receiver<Published<C>>,
    generation: watch::Receiver<u64>,
    wanted: Arc<Notify>,
    _closed: DropGuard,
}

impl<C> Clone for Reconnecting<C> {
    fn clone(&self) -> Self {
        Reconnecting { inner: self.inner.clone() }
    }
}

impl<C: Clone + Send + Sync + 'static> Reconnecting<C> {
    /// A client that connects when first asked. `make` is the service's client around a stub: `DataStub::from`.
    /// Needs a tokio runtime.
    pub fn new<Req, Resp>(
        options: ConnectOptions,
        make: impl Fn(WireStub<Req, Resp>) -> C + Send + Sync + 'static,
    ) -> Reconnecting<C>
    where
        Req: RequestName + Send + 'static,
        Resp: Send + 'static,
        Response<Resp>: WireMessage,
        ClientMessage<Req>: WireMessage,
    {
        let (publish, published) = watch::channel(Published {
            state: LinkState::Idle,
            live: None,
            failures: 0,
            last_failure: FsError::Unavailable,
        });
        let (generations, generation) = watch::channel(0);
        let (wanted, closed) = (Arc::new(Notify::new()), CancellationToken::new());
        let buffers = options.buffers.clone();
        let start = move |stream, ended| {
            let (stub, dispatch) = WireStub::over(stream, buffers.clone(), ended);
            (make(stub), dispatch)
        };
        let keeper =
            Keeper { options, start, publish, generations, wanted: wanted.clone(), pause: Pause::new() };
        let stop = closed.clone();
        tokio::spawn(async move { stop.run_until_cancelled(keeper.run()).await });
        let inner = Inner { published, generation, wanted, _closed: closed.drop_guard() };
        Reconnecting { inner: Arc::new(inner) }
    }

    /// A live stub; connects if there is none and waits as long as it takes. Bound the wait with
    /// [`Reconnecting::get_within`]. `WrongPeer` comes at once: waiting would not help.
    pub async fn get(&self) -> FsResult<Live<C>> {
        let mut published = self.inner.published.clone();
        let failures_before = published.borrow().failures;
        loop {
            {
                let now = published.borrow_and_update();
                if let Some(live) = now.live.as_ref().filter(|live| !live.broken.is_cancelled()) {
                    return Ok(live.clone());
                }
                if now.failures > failures_before && now.last_failure == FsError::WrongPeer {
                    return Err(FsError::WrongPeer);
                }
            }
            self.inner.wanted.notify_one();
            published.changed().await.map_err(|_| FsError::Unavailable)?;
        }
    }

    /// As [`Reconnecting::get`], but `Unavailable` after `limit`.
    pub async fn get_within(&self, limit: Duration) -> FsResult<Live<C>> {
        timeout(limit, self.get()).await.unwrap_or(Err(FsError::Unavailable))
    }

    /// One call with a deadline for all of it, connecting included. Not repeated on an error: only
    /// the caller knows whether that is safe.
    ///
    /// ```ignore
    /// client.call(DEFAULT_DEADLINE, |stub, context| async move { stub.stat(context).await }).await
    /// ```
    pub async fn call<T, Calling>(
        &self,
        limit: Duration,
        call: impl FnOnce(C, Context) -> Calling,
    ) -> FsResult<T>
    where
        Calling: Future<Output = Result<FsResult<T>, RpcError>>,
    {
        let context = context_within(limit);
        let live = self.get_within(limit).await?;
        match call(live.client.clone(), context).await {
            Ok(answer) => answer,
            Err(error) => Err(self.on_error(&live, &error)),
        }
    }

    /// To be told each failed call: gives a broken connection up, so that the next
    /// [`Reconnecting::get`] makes a new one. Returns what the error means to the caller.
    pub fn on_error(&self, live: &Live<C>, error: &RpcError) -> FsError {
        if breaks_connection(error) {
            live.broken.cancel();
        }
        fs_error(error)
    }

    /// Gives `live` up though no call failed: say, because its server lost the session.
    pub fn invalidate(&self, live: &Live<C>) {
        live.broken.cancel();
    }

    /// What the connection does right now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.inner.published.borrow().state.clone()
    }

    /// Generation of the newest connection, 0 before the first; changes with each reconnect.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.inner.generation.clone()
    }
}

/// The task that owns the connection.
struct Keeper<C, Start> {
    options: ConnectOptions,
    start: Start,
    publish: watch::Sender<Published<C>>,
    generations: watch::Sender<u64>,
    wanted: Arc<Notify>,
    pause: Pause,
}

impl<C, Start> Keeper<C, Start>
where
    C: Clone + Send + Sync + 'static,
    Start: Fn(TcpStream, CancellationToken) -> (C, Dispatch) + Send,
{
    async fn run(mut self) {
        loop {
            self.wanted.notified().await;
            self.pause.wait().await;
            match self.attempt().await {
                Ok((stream, peer)) => self.keep(stream, peer).await,
                Err(error) => self.failed(&error),
            }
        }
    }

    async fn attempt(&self) -> Result<(TcpStream, Peer), HandshakeError> {
        self.publish.send_if_modified(|published| {
            let from_idle = matches!(published.state, LinkState::Idle);
            if from_idle {
                published.state = LinkState::Connecting { failed_attempts: 0, last_error: None };
            }
            from_idle
        });
        let limit = self.options.connect_timeout;
        timeout(limit, connect_any(&self.options)).await.map_err(|_| HandshakeError::Timeout)?
    }

    /// Runs a connection until it breaks or is given up.
    async fn keep(&mut self, stream: TcpStream, peer: Peer) {
        self.options.identity.learn_cluster(peer.cluster);
        let generation = *self.generations.borrow() + 1;
        let (broken, peer) = (CancellationToken::new(), Arc::new(peer));
        // Also when nobody wants the connection any more and this future is dropped: calls still run.
        let _ended = broken.clone().drop_guard();
        let (client, dispatch) = (self.start)(stream, broken.clone());
        let live = Live { client, generation, peer: peer.clone(), broken: broken.clone() };
        if let Some(what) = self.options.outage.up() {
            log_up(what, &peer);
        }
        self.publish.send_modify(|published| {
            published.state = LinkState::Up { generation, peer: peer.clone() };
            published.live = Some(live);
        });
        self.generations.send_replace(generation);
        let since = Instant::now();
        let reason = match broken.run_until_cancelled(dispatch).await {
            Some(Ok(())) => "closed by the server".to_owned(),
            Some(Err(error)) => one_line(&error),
            None => "given up after a failed call".to_owned(),
        };
        broken.cancel();
        self.pause.connection_ended(since.elapsed());
        if self.options.outage.lost() {
            info!(target: "cairn", "connection to {} ({}) lost: {reason}", peer.address, peer.role);
        }
        self.publish.send_modify(|published| {
            published.state = LinkState::Idle;
            published.live = None;
        });
    }

    fn failed(&mut self, error: &HandshakeError) {
        self.pause.attempt_failed();
        let text = error.to_string();
        if self.options.outage.failed(error.fs_error()) {
            log_failure(&self.options, error);
        }
        self.publish.send_modify(|published| {
            let attempts = match &published.state {
                LinkState::Connecting { failed_attempts, .. } => failed_attempts.saturating_add(1),
                LinkState::Idle | LinkState::Up { .. } => 1,
            };
            published.state = LinkState::Connecting { failed_attempts: attempts, last_error: Some(text) };
            published.failures += 1;
            published.last_failure = error.fs_error();
        });
    }
}

/// How long to wait before the next attempt.
struct Pause {
    next: Option<Duration>,
}

impl Pause {
    fn new() -> Pause {
        Pause { next: None }
    }

    /// A part of the pause by chance: clients that lost one server don't come back all at once.
    async fn wait(&self) {
        if let Some(pause) = self.next {
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
        }
    }

    fn attempt_failed(&mut self) {
        self.next = Some(self.next.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)));
    }

    fn connection_ended(&mut self, lived: Duration) {
        if lived >= STABLE_AFTER {
            self.next = None;
        } else {
            self.attempt_failed();
        }
    }
}

/// Tries all addresses at once; the first that completes the first exchange wins. If all fail, a
/// mismatch is the error to report: it says more than "connection refused".
async fn connect_any(options: &ConnectOptions) -> Result<(TcpStream, Peer), HandshakeError> {
    let mut attempts: FuturesUnordered<_> =
        options.addresses.iter().map(|address| connect_one(options, address)).collect();
    let mut worst =
        HandshakeError::Io(io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to"));
    while let Some(result) = attempts.next().await {
        match result {
            Ok(connection) => return Ok(connection),
            Err(error) if matches!(worst, HandshakeError::Mismatch(_)) => debug!(%error, "connect"),
            Err(error) => worst = error,
        }
    }
    Err(worst)
}

async fn connect_one(
    options: &ConnectOptions,
    address: &Address,
) -> Result<(TcpStream, Peer), HandshakeError> {
    let port = address.port.unwrap_or(options.default_port);
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("no address for host {}", address.host));
    for target in lookup_host((address.host.as_str(), port)).await? {
        match TcpStream::connect(target).await {
            Ok(mut stream) => {
                tune(&stream)?;
                let peer = exchange(&mut stream, target, &options.identity).await?;
                return Ok((stream, peer));
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

fn log_up(what: &str, peer: &Peer) {
    info!(target: "cairn", "{what} to {} ({}), protocol version {}", peer.address, peer.role, peer.version);
}

fn log_failure(options: &ConnectOptions, error: &HandshakeError) {
    let addresses: Vec<String> = options.addresses.iter().map(ToString::to_string).collect();
    let service = options.identity.hello().service;
    warn!(target: "cairn", "can't connect to the {service} service at {}: {error}; it is tried again and again", addresses.join(","));
}
