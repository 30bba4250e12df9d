//! A small service over real sockets, for the tests of `rpc`.

use bytes::Bytes;
use cairn_common::config::Address;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::ClusterId;
use cairn_common::rpc::{ConnectOptions, Peer, Reconnecting, ServeOptions, WireStub, detached, serve};
use cairn_common::wire::Payload;
use cairn_common::wire::hello::{Identity, ServiceKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tarpc::context::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub type EchoCalls = EchoClient<WireStub<EchoRequest, EchoResponse>>;

#[tarpc::service]
pub trait Echo {
    async fn ping() -> FsResult<()>;
    async fn echo(number: u32, payload: Payload) -> FsResult<(u32, Payload)>;
    async fn produce(len: u64) -> FsResult<Payload>;
    async fn header(len: u64) -> FsResult<String>;
    async fn wait(millis: u64) -> FsResult<()>;
    async fn mutate(millis: u64) -> FsResult<u64>;
}

/// What the service did, seen from the test.
#[derive(Debug, Default)]
pub struct Counters {
    pub started: AtomicUsize,
    pub running: AtomicUsize,
    pub most_running: AtomicUsize,
    pub mutations: AtomicU64,
}

#[derive(Clone)]
struct EchoServer(Arc<Counters>);

/// Counts a running handler, also one that is dropped.
struct Running(Arc<Counters>);

impl Running {
    fn new(counters: &Arc<Counters>) -> Running {
        counters.started.fetch_add(1, Ordering::SeqCst);
        let now = counters.running.fetch_add(1, Ordering::SeqCst) + 1;
        counters.most_running.fetch_max(now, Ordering::SeqCst);
        Running(counters.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Echo for EchoServer {
    async fn ping(self, _: Context) -> FsResult<()> {
        Ok(())
    }
    async fn echo(self, _: Context, number: u32, payload: Payload) -> FsResult<(u32, Payload)> {
        Ok((number, payload))
    }
    async fn produce(self, _: Context, len: u64) -> FsResult<Payload> {
        let _running = Running::new(&self.0);
        Ok(Payload::from(Bytes::from(vec![7; usize::try_from(len).unwrap()])))
    }
    async fn header(self, _: Context, len: u64) -> FsResult<String> {
        Ok("x".repeat(usize::try_from(len).unwrap()))
    }
    async fn wait(self, _: Context, millis: u64) -> FsResult<()> {
        let _running = Running::new(&self.0);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(())
    }
    async fn mutate(self, _: Context, millis: u64) -> FsResult<u64> {
        let counters = self.0.clone();
        detached(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok(counters.mutations.fetch_add(1, Ordering::SeqCst) + 1)
        })
        .await
    }
}

/// A running server; stopped by dropping it or by [`Server::stop`].
pub struct Server {
    pub address: SocketAddr,
    pub counters: Arc<Counters>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(change: impl FnOnce(&mut ServeOptions)) -> Server {
        Self::start_at("127.0.0.1:0".parse().unwrap(), change).await
    }

    pub async fn start_at(address: SocketAddr, change: impl FnOnce(&mut ServeOptions)) -> Server {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::default());
        let mut options = ServeOptions::new(Identity::new(ServiceKind::Data, ClusterId(7), "echo server"));
        change(&mut options);
        let (shutdown, service) = (CancellationToken::new(), EchoServer(counters.clone()));
        let task = tokio::spawn(serve(listener, options, shutdown.clone(), move |_: Peer| {
            let service = service.clone();
            move |request: tarpc::server::InFlightRequest<EchoRequest, EchoResponse>| {
                request.execute(service.clone().serve())
            }
        }));
        Server { address, counters, shutdown, task }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

pub fn options(address: SocketAddr, cluster: u128) -> ConnectOptions {
    let identity = Identity::new(ServiceKind::Data, ClusterId(cluster), "test client");
    ConnectOptions::new(vec![Address::from(address)], 1, identity)
}

pub fn connect_with(options: ConnectOptions) -> Reconnecting<EchoCalls> {
    Reconnecting::new(options, EchoCalls::from)
}

pub fn connect(address: SocketAddr) -> Reconnecting<EchoCalls> {
    connect_with(options(address, 7))
}

/// Waits until `holds`, at most ten seconds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn ping(client: &Reconnecting<EchoCalls>) -> FsResult<()> {
    client.call(Duration::from_secs(5), |stub, context| async move { stub.ping(context).await }).await
}

pub const UNAVAILABLE: Result<(), FsError> = Err(FsError::Unavailable);
