//! Content of files that two mounts have open at the same time.

use crate::model::pattern;
use cairn_common::attr::SetAttr;
use cairn_tests::harness::{Cluster, File, Mount, random, seed, within};
use rand::Rng;
use std::collections::HashSet;

const RW: i32 = libc::O_RDWR;

async fn two() -> (Cluster, Mount, Mount) {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    (cluster, a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_is_neither_synced_nor_closed_is_read_elsewhere() {
    let (_cluster, a, b) = two().await;
    let file = a.create("f").await.unwrap();
    for (step, length) in [(1, 10), (2, 5_000), (3, 300_000), (4, 4096)] {
        let data = pattern(step, length);
        file.write_at(0, &data).await.unwrap();
        file.truncate(length as u64).await.unwrap();
        assert_eq!(b.stat("f").await.unwrap().size, length as u64, "step {step}");
        assert!(b.read_file("f").await.unwrap() == data, "step {step}");
        let (seen, own) = (b.stat("f").await.unwrap(), file.stat().await.unwrap());
        assert_eq!((seen.mtime, seen.ctime), (own.mtime, own.ctime), "step {step}");
    }
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_write_different_ranges_of_one_open_file() {
    const RECORDS: u64 = 60;
    const SIZE: usize = 1_000;
    let (_cluster, a, b) = two().await;
    let first = a.create("f").await.unwrap();
    let second = b.open("f", RW).await.unwrap();
    let write = |file: File, parity: u64| async move {
        for record in (0..RECORDS).filter(|record| record % 2 == parity) {
            file.write_at(record * SIZE as u64, &pattern(record, SIZE)).await.unwrap();
        }
        file
    };
    let (first, second) = (tokio::spawn(write(first, 0)), tokio::spawn(write(second, 1)));
    let (first, second) =
        (within("a writes", first).await.unwrap(), within("b writes", second).await.unwrap());
    let expected: Vec<u8> = (0..RECORDS).flat_map(|record| pattern(record, SIZE)).collect();
    for file in [&first, &second] {
        assert!(file.read_all().await.unwrap() == expected, "read on {}", file.mount().name());
    }
    first.close().await.unwrap();
    second.close().await.unwrap();
    assert!(b.read_file("f").await.unwrap() == expected);
}

/// A reader that had the file open before the writer came sees each write at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_reader_sees_writes_of_the_other_mount() {
    let (_cluster, a, b) = two().await;
    a.write_file("f", &pattern(0, 20_000)).await.unwrap();
    let reader = a.open("f", libc::O_RDONLY).await.unwrap();
    assert!(reader.read_all().await.unwrap() == pattern(0, 20_000));
    let writer = b.open("f", RW).await.unwrap();
    for step in 1..20 {
        let at = step * 3_000;
        writer.write_at(at, &pattern(step, 100)).await.unwrap();
        assert_eq!(reader.read_at(at, 100).await.unwrap(), pattern(step, 100), "step {step}");
        assert_eq!(reader.stat().await.unwrap().size, 20_000.max(at + 100), "step {step}");
    }
    writer.close().await.unwrap();
    reader.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_appended_by_both_are_whole_and_there_once() {
    const RECORDS: u64 = 60;
    let seed = seed("records_appended_by_both");
    let (_cluster, a, b) = two().await;
    a.write_file("log", b"").await.unwrap();
    let append = |mount: Mount, writer: u64| async move {
        let mut rng = random(seed + writer);
        let file = mount.open("log", RW | libc::O_APPEND).await.unwrap();
        for record in 0..RECORDS {
            let length = rng.random_range(1..4_000);
            file.append(&frame(writer, record, length)).await.unwrap();
        }
        file.close().await.unwrap();
    };
    let writers: Vec<_> = [(&a, 1), (&b, 2), (&a, 3), (&b, 4)]
        .map(|(mount, writer)| tokio::spawn(append(mount.clone(), writer)))
        .into();
    for writer in writers {
        within("all append", writer).await.unwrap();
    }
    let log = a.read_file("log").await.unwrap();
    assert!(log == b.read_file("log").await.unwrap(), "the mounts read different content");
    let found = unframe(&log);
    assert_eq!(found.len() as u64, 4 * RECORDS);
    assert_eq!(found.iter().collect::<HashSet<_>>().len() as u64, 4 * RECORDS);
    for writer in 1..=4 {
        let own: Vec<u64> = found.iter().filter(|(w, _)| *w == writer).map(|(_, record)| *record).collect();
        assert!(own.is_sorted(), "records of one writer are in order");
    }
}

/// A record that tells its writer, its number and its length, and fills the rest with a pattern.
pub fn frame(writer: u64, record: u64, length: usize) -> Vec<u8> {
    let mut frame = vec![];
    frame.extend(u32::try_from(length).unwrap().to_be_bytes());
    frame.extend(writer.to_be_bytes());
    frame.extend(record.to_be_bytes());
    frame.extend(pattern(writer * 1_000_000 + record, length));
    frame
}

/// Takes a file of frames apart; panics where one is torn.
pub fn unframe(mut log: &[u8]) -> Vec<(u64, u64)> {
    let mut found = vec![];
    while !log.is_empty() {
        let length = u32::from_be_bytes(log[..4].try_into().unwrap()) as usize;
        let writer = u64::from_be_bytes(log[4..12].try_into().unwrap());
        let record = u64::from_be_bytes(log[12..20].try_into().unwrap());
        assert!(log[20..20 + length] == pattern(writer * 1_000_000 + record, length), "a torn record");
        found.push((writer, record));
        log = &log[20 + length..];
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_cuts_what_the_other_mount_has_not_stored_yet() {
    let (_cluster, a, b) = two().await;
    let file = a.create("f").await.unwrap();
    let data = pattern(7, 100_000);
    file.write_at(0, &data).await.unwrap();
    assert_eq!(b.truncate("f", 10_000).await.unwrap().size, 10_000);
    assert_eq!(file.stat().await.unwrap().size, 10_000);
    assert!(file.read_all().await.unwrap() == data[..10_000]);
    // What was cut is zero when the file grows again, for both.
    file.write_at(50_000, b"end").await.unwrap();
    let mut expected = data[..10_000].to_vec();
    expected.resize(50_000, 0);
    expected.extend(b"end");
    assert!(b.read_file("f").await.unwrap() == expected);
    assert!(file.read_all().await.unwrap() == expected);
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_with_truncation_empties_a_file_that_is_open_elsewhere() {
    let (_cluster, a, b) = two().await;
    let file = a.create("f").await.unwrap();
    file.write_at(0, &pattern(1, 5_000)).await.unwrap();
    let other = b.open("f", RW | libc::O_TRUNC).await.unwrap();
    assert_eq!(file.stat().await.unwrap().size, 0);
    other.write_at(0, b"new").await.unwrap();
    assert_eq!(file.read_all().await.unwrap(), b"new");
    file.close().await.unwrap();
    other.close().await.unwrap();
}

/// Times set by `utimensat` are not undone by data that was written before, and stored after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_were_set_stay_when_written_data_is_stored() {
    use cairn_common::attr::{SetTime, Timestamp};
    let (_cluster, a, b) = two().await;
    let file = a.create("f").await.unwrap();
    file.write_at(0, &pattern(1, 5_000)).await.unwrap();
    let then = Timestamp { secs: 1_000_000, nanos: 5 };
    let set = SetAttr { mtime: Some(SetTime::At(then)), ..SetAttr::default() };
    a.set("f", set).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!(a.stat("f").await.unwrap().mtime, then);
    assert_eq!(b.stat("f").await.unwrap().mtime, then);
    file.close().await.unwrap();
    assert_eq!(b.stat("f").await.unwrap().mtime, then);
}
