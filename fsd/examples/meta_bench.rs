//! Measures the metadata machine in one process: no network, no FUSE.
//!
//! `cargo run --release -p cairn-fsd --example meta_bench -- DIR [INODES]` makes a cluster in DIR (which
//! should be on the disk that matters) and prints figures; with INODES it grows to that many inodes first
//! and measures how long a restart takes after a clean stop and after a kill with a full log tail.

#![allow(clippy::unwrap_used, reason = "a measurement that can't go on stops")]

use bytes::Bytes;
use cairn_common::attr::{Caller, FileKind, SetAttr, Timestamp};
use cairn_common::ids::{Ino, Seq, SessionId};
use cairn_common::namespace::op::{Create, Op, OpBody};
use cairn_common::namespace::{getattr, lookup};
use cairn_common::proto::meta::ClientInfo;
use cairn_fsd::meta::apply::{Command, Reply};
use cairn_fsd::meta::machine::{Machine, MachineConfig};
use std::path::Path;
use std::time::{Duration, Instant};

/// Files per directory: as in large source trees.
const FILES_PER_DIR: u64 = 1000;

struct Client {
    machine: Machine,
    session: SessionId,
    seq: Seq,
    next: Ino,
    end: Ino,
    dir: Ino,
    in_dir: u64,
    time: i64,
}

impl Client {
    async fn new(machine: Machine) -> Client {
        let open = Command::OpenSession { client: ClientInfo::default(), time: Timestamp::default() };
        let Reply::Session(session) = machine.submit(open).await.unwrap().reply else { panic!() };
        let (seq, none) = (Seq(1), Ino(0));
        Client { machine, session, seq, next: none, end: none, dir: none, in_dir: FILES_PER_DIR, time: 1 }
    }

    async fn ino(&mut self) -> Ino {
        if self.next == self.end {
            let command = Command::AllocateInos { session: self.session };
            let Reply::Inos(range) = self.machine.submit(command).await.unwrap().reply else { panic!() };
            (self.next, self.end) = (range.first, Ino(range.first.0 + range.count));
        }
        self.next = Ino(self.next.0 + 1);
        Ino(self.next.0 - 1)
    }

    async fn create(&mut self) -> Op {
        if self.in_dir == FILES_PER_DIR {
            let ino = self.ino().await;
            let op = self.make(Ino::ROOT, ino, FileKind::Dir);
            (self.dir, self.in_dir) = (ino, 0);
            return op;
        }
        self.in_dir += 1;
        let ino = self.ino().await;
        self.make(self.dir, ino, FileKind::File)
    }

    fn make(&mut self, parent: Ino, ino: Ino, kind: FileKind) -> Op {
        let name = Bytes::from(format!("file-{:08}", ino.0));
        let create = Create {
            parent,
            name,
            ino,
            kind,
            perm: 0o755,
            umask: 0o22,
            rdev: 0,
            exclusive: true,
            open: false,
        };
        self.op(OpBody::Create(create))
    }

    fn op(&mut self, body: OpBody) -> Op {
        self.time += 1;
        let time = Timestamp { secs: self.time, nanos: 0 };
        Op { time, caller: Caller::default(), body }
    }

    async fn batch(&mut self, ops: Vec<Op>) {
        let count = ops.len() as u64;
        let command = Command::Batch { session: self.session, first: self.seq, ops, full: false };
        let Reply::Results(results) = self.machine.submit(command).await.unwrap().reply else { panic!() };
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        self.seq = Seq(self.seq.0 + count);
    }

    async fn creates(&mut self, total: u64, per_batch: u64) -> Vec<Duration> {
        let mut times = Vec::new();
        for _ in 0..total / per_batch {
            let mut ops = Vec::new();
            for _ in 0..per_batch {
                ops.push(self.create().await);
            }
            let start = Instant::now();
            self.batch(ops).await;
            times.push(start.elapsed());
        }
        times
    }
}

fn report(what: &str, mut times: Vec<Duration>, ops_each: u32) {
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let count = u32::try_from(times.len()).unwrap();
    let rate = f64::from(count * ops_each) / total.as_secs_f64();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "{what}: median {:?}, p99 {:?}, max {:?}, {rate:.0} op/s",
        at(500),
        at(990),
        times[times.len() - 1]
    );
}

fn time<T>(count: usize, mut f: impl FnMut() -> T) -> Vec<Duration> {
    (0..count)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed()
        })
        .collect()
}

async fn small(dir: &Path) {
    let machine = Machine::open(dir, MachineConfig::default()).unwrap();
    let mut client = Client::new(machine.clone()).await;
    client.creates(1000, 1).await;
    report("create, one by one", client.creates(10_000, 1).await, 1);
    report("create, 100 per batch", client.creates(100_000, 100).await, 100);
    report("create, 500 per batch", client.creates(100_000, 500).await, 500);

    let mut times = Vec::new();
    for perm in 0..5000_u16 {
        let set = SetAttr { perm: Some(perm & 0o777), ..SetAttr::default() };
        let op = client.op(OpBody::SetAttr { ino: client.dir, set });
        let start = Instant::now();
        client.batch(vec![op]).await;
        times.push(start.elapsed());
    }
    report("chmod, one by one", times, 1);

    let mut times = Vec::new();
    for _ in 0..1000 {
        let op = client.create().await;
        let start = Instant::now();
        client.batch(vec![op]).await;
        machine.sync(machine.progress().applied).await.unwrap();
        times.push(start.elapsed());
    }
    report("create + sync", times, 1);

    let (parent, ino) = (client.dir, Ino(client.next.0 - 1));
    let name = format!("file-{:08}", ino.0);
    report("getattr", time(20_000, || machine.read(|s| getattr(s, ino)).unwrap()), 1);
    report("lookup", time(20_000, || machine.read(|s| lookup(s, parent, name.as_bytes())).unwrap()), 1);
    report("checkpoint", time(1, || machine.checkpoint()), 1);
    let worker = machine.clone();
    let checkpoints = tokio::task::spawn_blocking(move || {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(400));
            let start = Instant::now();
            worker.checkpoint();
            println!("checkpoint under load: {:?}", start.elapsed());
        }
    });
    let mut times = Vec::new();
    while !checkpoints.is_finished() {
        times.extend(client.creates(100, 20).await);
    }
    report("create, 20 per batch, meanwhile", times, 20);
    machine.shutdown().await.unwrap();
}

async fn large(dir: &Path, inodes: u64) {
    let machine = Machine::open(dir, MachineConfig::default()).unwrap();
    let mut client = Client::new(machine.clone()).await;
    let start = Instant::now();
    report("create, 200 per batch", client.creates(inodes, 200).await, 200);
    println!("{inodes} creates in {:?}", start.elapsed());
    machine.shutdown().await.unwrap();
    drop((client, machine));

    let start = Instant::now();
    let machine = Machine::open(dir, MachineConfig::default()).unwrap();
    println!("start after a clean stop: {:?}", start.elapsed());

    // As much as can be behind the last checkpoint.
    let mut client = Client::new(machine.clone()).await;
    let behind = || {
        let progress = machine.progress();
        progress.applied.0 - progress.checkpoint.0
    };
    let mut last = 0;
    while behind() >= last {
        last = behind();
        client.creates(1000, 10).await;
        if last > 10_000 {
            break;
        }
    }
    println!("{} entries behind the checkpoint", behind());
    drop((client, machine));
    let start = Instant::now();
    let machine = Machine::open(dir, MachineConfig::default()).unwrap();
    println!("start after a kill: {:?}", start.elapsed());
    machine.shutdown().await.unwrap();
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("a directory");
    let inodes = args.next().map(|count| count.parse().expect("a number of inodes"));
    match inodes {
        None => tokio::spawn(async move { small(Path::new(&dir)).await }).await.unwrap(),
        Some(inodes) => tokio::spawn(async move { large(Path::new(&dir), inodes).await }).await.unwrap(),
    }
}
