//! What the store makes of a disk: puts in MB/s and latency, against plain append and sync, and gets.
//!
//! `cargo run --release -p cairn-fsd --example data_bench -- DIRECTORY`
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a measuring tool")]

use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, ClusterId, NodeId, SessionId, VolumeId};
use cairn_common::proto::data::{GetRequest, PutRequest};
use cairn_common::wire::Payload;
use cairn_common::wire::checksum::piece_checksums;
use cairn_fsd::data::{DataConfig, DataDir, Owner, Store, VolumeIds};
use cairn_fsd::disk::{Disk, RealDisk, write_all_at};
use futures::future::{BoxFuture, FutureExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

struct Ids(AtomicU32);

impl VolumeIds for Ids {
    fn allocate(&self) -> BoxFuture<'_, FsResult<VolumeId>> {
        async { Ok(VolumeId(self.0.fetch_add(1, Ordering::Relaxed))) }.boxed()
    }
}

fn content(length: usize) -> Bytes {
    (0..length).map(|_| rand::random::<u8>()).collect::<Vec<u8>>().into()
}

fn request(payload: &Bytes) -> PutRequest {
    PutRequest {
        session: SessionId(1),
        summary_len: 0,
        checksums: piece_checksums(std::slice::from_ref(payload)),
        payload: Payload::from(payload.clone()),
    }
}

fn show(what: &str, bytes: usize, mut latencies: Vec<Duration>, elapsed: Duration) {
    latencies.sort_unstable();
    let count = latencies.len();
    println!(
        "{what:44} {:7.0} MB/s  {:7.0}/s  median {:6} µs  p99 {:6} µs",
        (bytes * count) as f64 / elapsed.as_secs_f64() / 1e6,
        count as f64 / elapsed.as_secs_f64(),
        latencies[count / 2].as_micros(),
        latencies[count * 99 / 100].as_micros()
    );
}

fn plain(dir: &Path, length: usize, count: usize, reserve: bool) {
    let disk = RealDisk::open(dir).unwrap();
    let file = disk.create("plain").unwrap();
    if reserve {
        file.allocate(0, (length * count) as u64).unwrap();
    }
    let payload = content(length);
    let start = Instant::now();
    let latencies = (0..count)
        .map(|i| {
            let start = Instant::now();
            write_all_at(&*file, &[&payload], (i * length) as u64).unwrap();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    let name = if reserve { "append + fdatasync, reserved" } else { "append + fdatasync" };
    show(&format!("{name}, {} KiB", length >> 10), length, latencies, start.elapsed());
    disk.remove("plain").unwrap();
}

async fn puts(store: &Arc<Store>, length: usize, count: usize, at_once: usize) -> Vec<BlockRef> {
    let payload = content(length);
    let start = Instant::now();
    let tasks: Vec<_> = (0..at_once)
        .map(|_| {
            let (store, payload) = (store.clone(), payload.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                for _ in 0..count / at_once {
                    let start = Instant::now();
                    let block = store.put(request(&payload)).await.unwrap();
                    done.push((block, start.elapsed()));
                }
                done
            })
        })
        .collect();
    let mut blocks = Vec::new();
    let mut latencies = Vec::new();
    for task in tasks {
        for (block, latency) in task.await.unwrap() {
            blocks.push(block);
            latencies.push(latency);
        }
    }
    show(&format!("put {} KiB, {at_once} at once", length >> 10), length, latencies, start.elapsed());
    blocks
}

async fn gets(store: &Arc<Store>, blocks: &[BlockRef], length: usize, at_once: usize, what: &str) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..at_once)
        .map(|task| {
            let (store, blocks) = (store.clone(), blocks.to_vec());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for block in blocks.into_iter().skip(task).step_by(at_once) {
                    let start = Instant::now();
                    let length = u32::try_from(length).unwrap();
                    store.get(GetRequest { block, offset: 0, length }).await.unwrap();
                    latencies.push(start.elapsed());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    show(&format!("get {} KiB {what}, {at_once} at once", length >> 10), length, latencies, start.elapsed());
}

async fn open(dir: &Path, ids: &Arc<Ids>) -> Arc<Store> {
    let config = DataConfig::new(dir.join("store"));
    let mut data = DataDir::open(&config).unwrap();
    data.assign(Owner { cluster: ClusterId(1), node: NodeId(1) }).unwrap();
    let start = Instant::now();
    let store = data.start(&config, ids.clone()).await.unwrap();
    println!("open {:44} {:?}", "", start.elapsed());
    store
}

#[tokio::main]
async fn main() {
    let dir = std::env::args().nth(1).expect("usage: data_bench DIRECTORY");
    let dir = tempfile::tempdir_in(dir).unwrap();
    let dir = dir.path();
    let ids = Arc::new(Ids(AtomicU32::new(1)));
    for round in 0..2 {
        println!("round {round}");
        plain(dir, 4 << 20, 60, false);
        plain(dir, 4 << 20, 60, true);
        plain(dir, 8 << 10, 1000, true);
        let store = open(dir, &ids).await;
        puts(&store, 4 << 10, 1000, 1).await;
        puts(&store, 4 << 10, 4000, 16).await;
        let mut blocks = Vec::new();
        for at_once in if round == 0 { [1, 2, 4] } else { [4, 2, 1] } {
            blocks = puts(&store, 4 << 20, 100, at_once).await;
        }
        gets(&store, &blocks, 4 << 20, 1, "cached").await;
        gets(&store, &blocks, 64 << 10, 1, "cached").await;
        store.stop().await.unwrap();
        drop(store);
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        let store = open(dir, &ids).await;
        gets(&store, &blocks[..blocks.len() / 2], 4 << 20, 1, "cold").await;
        gets(&store, &blocks[blocks.len() / 2..], 4 << 20, 4, "cold").await;
        store.stop().await.unwrap();
    }
}
