//! A connection that is cut in the middle of messages, again and again: each change happens exactly
//! once, whether the request was lost or its answer.

use crate::data::{frame, unframe};
use crate::model::pattern;
use cairn_tests::harness::{Cluster, File, Mount, MountSettings, Proxy, random, seed, within};
use rand::Rng;

/// Bytes after which a connection is cut: an attach needs some hundreds of them.
const CUT: std::ops::Range<u64> = 300..6_000;
const WORKERS: u64 = 3;
const ROUNDS: u64 = 20;
/// Each record waits for the other mount, too.
const RECORDS: u64 = 40;

/// Every call must succeed as it would have on a connection that lives.
async fn work(mount: Mount, worker: u64) {
    let dir = format!("w{worker}");
    mount.mkdir(&dir).await.unwrap();
    for round in 0..ROUNDS {
        let (new, path) = (format!("{dir}/new{round}"), format!("{dir}/f{round}"));
        let file = mount.create(&new).await.unwrap();
        file.write_at(0, &pattern(worker * 1_000 + round, 500)).await.unwrap();
        if round % 4 == 0 {
            file.fsync().await.unwrap();
        }
        file.close().await.unwrap();
        mount.rename(&new, &path).await.unwrap();
        mount.link(&path, &format!("{dir}/l{round}")).await.unwrap();
        mount.set_xattr(&path, "user.round", &round.to_be_bytes()).await.unwrap();
        if round % 3 == 0 {
            mount.unlink(&format!("{dir}/l{round}")).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_change_exactly_once_over_a_broken_network() {
    let seed = seed("names_change_exactly_once");
    let cluster = Cluster::new().await;
    let before = cluster.totals().await;
    let b = cluster.mount("b").await;
    let proxy = Proxy::new(cluster.meta.address()).await;
    let a = Mount::attach("a", proxy.address(), MountSettings::default()).await;
    proxy.cut_after(seed, CUT);
    let workers: Vec<_> = (0..WORKERS).map(|worker| tokio::spawn(work(a.clone(), worker))).collect();
    for worker in workers {
        within("the work is done", worker).await.unwrap();
    }
    println!("{} cuts", proxy.cuts());
    assert!(proxy.cuts() > 10, "the network worked too well");
    for worker in 0..WORKERS {
        let mut names: Vec<_> = b.list(&format!("w{worker}")).await.unwrap();
        names.sort_by(|one, two| one.name.cmp(&two.name));
        let mut expected: Vec<String> = (0..ROUNDS).map(|round| format!("f{round}")).collect();
        expected.extend((0..ROUNDS).filter(|round| round % 3 != 0).map(|round| format!("l{round}")));
        expected.sort();
        let expected: Vec<&[u8]> = expected.iter().map(String::as_bytes).collect();
        assert_eq!(names.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), expected);
        for round in 0..ROUNDS {
            let path = format!("w{worker}/f{round}");
            let attr = b.stat(&path).await.unwrap();
            assert_eq!(attr.nlink, if round % 3 == 0 { 1 } else { 2 }, "{path}");
            assert_eq!(b.xattr(&path, "user.round").await.unwrap(), round.to_be_bytes()[..]);
            assert!(b.read_file(&path).await.unwrap() == pattern(worker * 1_000 + round, 500), "{path}");
        }
    }
    assert_eq!(cluster.totals().await.inodes, before.inodes + WORKERS * (ROUNDS + 1));
    proxy.mend();
    a.leave().await;
    b.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_appended_exactly_once_over_a_broken_network() {
    let seed = seed("records_are_appended_exactly_once");
    let cluster = Cluster::new().await;
    let b = cluster.mount("b").await;
    b.write_file("log", b"").await.unwrap();
    // Open for writing on both mounts: each append is an operation of its own.
    let other = b.open("log", libc::O_RDWR | libc::O_APPEND).await.unwrap();
    let proxy = Proxy::new(cluster.meta.address()).await;
    let a = Mount::attach("a", proxy.address(), MountSettings::default()).await;
    // Before the cuts begin: an answer to `open` tells what small records the file holds, and soon
    // no connection would live long enough for that.
    let mut files = Vec::new();
    for _ in 0..WORKERS {
        files.push(a.open("log", libc::O_RDWR | libc::O_APPEND).await.unwrap());
    }
    proxy.cut_after(seed, CUT);
    let append = |file: File, writer: u64| async move {
        let mut rng = random(seed + writer);
        for record in 0..RECORDS {
            file.append(&frame(writer, record, rng.random_range(1..600))).await.unwrap();
        }
        file.close().await.unwrap();
    };
    let writers: Vec<_> =
        files.into_iter().zip(1..).map(|(file, writer)| tokio::spawn(append(file, writer))).collect();
    for record in 0..RECORDS {
        other.append(&frame(9, record, 100)).await.unwrap();
    }
    for writer in writers {
        within("all have appended", writer).await.unwrap();
    }
    println!("{} cuts", proxy.cuts());
    assert!(proxy.cuts() > 5, "the network worked too well");
    let mut found = unframe(&other.read_all().await.unwrap());
    found.sort_unstable();
    let writers = (1..=WORKERS).chain([9]);
    let expected: Vec<_> =
        writers.flat_map(|writer| (0..RECORDS).map(move |record| (writer, record))).collect();
    assert_eq!(found, expected);
    other.close().await.unwrap();
    proxy.mend();
    a.leave().await;
}
