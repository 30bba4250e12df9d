//! Measures the RPC layer alone between two processes on loopback:
//! `cargo run --release --example rpc_bench [worker threads, default 1]`.
//!
//! Prints the round trip of an empty call, calls per second with many at once, throughput of 1 MiB
//! and 4 MiB puts and gets on one connection, and memory per idle connection. Figures depend on
//! the machine: compare only figures of one machine.

#![allow(clippy::unwrap_used, reason = "a measurement ends at the first failure")]
#![allow(clippy::cast_precision_loss, reason = "figures are printed with two digits")]

use bytes::Bytes;
use cairn_common::config::Address;
use cairn_common::error::FsResult;
use cairn_common::ids::ClusterId;
use cairn_common::pool::PayloadBuffers;
use cairn_common::rpc::transport::QUEUED_MAX;
use cairn_common::rpc::{ConnectOptions, Reconnecting, ServeOptions, WireStub, serve};
use cairn_common::wire::Payload;
use cairn_common::wire::hello::{Identity, ServiceKind};
use futures::stream::{FuturesUnordered, StreamExt};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tarpc::context::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);

type BenchCalls = BenchClient<WireStub<BenchRequest, BenchResponse>>;

#[tarpc::service]
trait Bench {
    async fn ping() -> FsResult<()>;
    async fn put(payload: Payload) -> FsResult<()>;
    async fn get(len: u32) -> FsResult<Payload>;
    async fn memory() -> FsResult<u64>;
}

#[derive(Clone)]
struct BenchServer {
    data: Bytes,
}

impl Bench for BenchServer {
    async fn ping(self, _: Context) -> FsResult<()> {
        Ok(())
    }
    async fn put(self, _: Context, payload: Payload) -> FsResult<()> {
        drop(payload);
        Ok(())
    }
    async fn get(self, _: Context, len: u32) -> FsResult<Payload> {
        Ok(Payload::from(self.data.slice(..len as usize)))
    }
    async fn memory(self, _: Context) -> FsResult<u64> {
        Ok(resident_kib())
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    let serving = first.as_deref() == Some("serve");
    let threads = if serving { arguments.next() } else { first };
    let threads: usize = threads.map_or(1, |text| text.parse().expect("number of worker threads"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    if serving {
        runtime.block_on(run_server());
        return;
    }
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["serve", &threads.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let address = first_line(&mut server).parse().unwrap();
    println!("{threads} worker threads in each of two processes");
    runtime.block_on(async { tokio::spawn(measure(address)).await.unwrap() });
    server.kill().unwrap();
    server.wait().unwrap();
}

fn first_line(server: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

async fn run_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let identity = Identity::new(ServiceKind::Data, ClusterId(1), "bench server");
    let service = BenchServer { data: Bytes::from(vec![1; 4 << 20]) };
    let stop = CancellationToken::new();
    let options = ServeOptions { queued: QUEUED_MAX, ..ServeOptions::new(identity) };
    serve(listener, options, stop, move |_| {
        let service = service.clone();
        move |request: tarpc::server::InFlightRequest<BenchRequest, BenchResponse>| {
            request.execute(service.clone().serve())
        }
    })
    .await;
}

fn client(address: std::net::SocketAddr) -> Reconnecting<BenchCalls> {
    let identity = Identity::new(ServiceKind::Data, ClusterId(0), "bench client");
    let options = ConnectOptions::new(vec![Address::from(address)], 0, identity);
    Reconnecting::new(options, BenchCalls::from)
}

async fn measure(address: std::net::SocketAddr) {
    let client = client(address);
    round_trips(&client, 2000).await;
    round_trips(&client, 20_000).await;
    for at_once in [4, 16, 64] {
        calls_at_once(&client, at_once, 100_000).await;
    }
    for size in [4 << 10, 64 << 10, 1 << 20, 4 << 20] {
        for at_once in [1, 4] {
            puts(&client, size, at_once).await;
            gets(&client, size, at_once).await;
        }
    }
    idle_connections(address, 2000).await;
}

async fn ping(client: &Reconnecting<BenchCalls>) {
    client.call(LIMIT, |stub, context| async move { stub.ping(context).await }).await.unwrap();
}

async fn round_trips(client: &Reconnecting<BenchCalls>, count: usize) {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        ping(client).await;
        times.push(begin.elapsed().as_nanos() as f64 / 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let (median, late) = (times[count / 2], times[count * 99 / 100]);
    println!("round trip: median {median:.1} µs, 99 % below {late:.1} µs ({count} calls)");
}

async fn calls_at_once(client: &Reconnecting<BenchCalls>, at_once: usize, count: usize) {
    let begin = Instant::now();
    run(at_once, count, || ping(client)).await;
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    println!("{at_once} calls at once: {:.1} k/s", rate / 1000.0);
}

async fn puts(client: &Reconnecting<BenchCalls>, size: usize, at_once: usize) {
    let data = Bytes::from(vec![2; size]);
    let begin = Instant::now();
    let count = rounds(size);
    run(at_once, count, || async {
        let payload = Payload::from(data.clone());
        client.call(LIMIT, |stub, context| async move { stub.put(context, payload).await }).await.unwrap();
    })
    .await;
    throughput("put", size, at_once, count, begin);
}

async fn gets(client: &Reconnecting<BenchCalls>, size: usize, at_once: usize) {
    let len = u32::try_from(size).unwrap();
    let begin = Instant::now();
    let count = rounds(size);
    run(at_once, count, || async {
        let payload =
            client.call(LIMIT, |stub, context| async move { stub.get(context, len).await }).await.unwrap();
        assert_eq!(payload.len(), size);
    })
    .await;
    throughput("get", size, at_once, count, begin);
}

fn rounds(size: usize) -> usize {
    ((2 << 30) / size).min(20_000)
}

fn throughput(what: &str, size: usize, at_once: usize, count: usize, begin: Instant) {
    let seconds = begin.elapsed().as_secs_f64();
    let (rate, each) = ((size * count) as f64 / seconds / 1e9, seconds * 1e6 / count as f64);
    println!("{what} of {:4} KiB, {at_once} at once: {rate:.2} GB/s, {each:.0} µs each", size >> 10);
}

/// Runs `count` of what `make` makes, `at_once` at a time.
async fn run<F: Future<Output = ()>>(at_once: usize, count: usize, make: impl Fn() -> F) {
    let mut running: FuturesUnordered<F> = (0..at_once).map(|_| make()).collect();
    for _ in at_once..count {
        running.next().await;
        running.push(make());
    }
    while running.next().await.is_some() {}
}

async fn idle_connections(address: std::net::SocketAddr, count: usize) {
    let memory = client(address);
    let ask = || memory.call(LIMIT, |stub, context| async move { stub.memory(context).await });
    let (ours, theirs) = (resident_kib(), ask().await.unwrap());
    let clients: Vec<_> = (0..count).map(|_| client(address)).collect();
    for client in &clients {
        ping(client).await;
    }
    let (ours, theirs) = (resident_kib().saturating_sub(ours), ask().await.unwrap().saturating_sub(theirs));
    println!(
        "idle connection: {:.1} KiB in the client, {:.1} KiB in the server; free payload buffers {} KiB",
        ours as f64 / count as f64,
        theirs as f64 / count as f64,
        PayloadBuffers::shared().free_bytes() >> 10,
    );
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
