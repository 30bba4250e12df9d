//! Files without names live as long as some mount has them open, and not longer.

use crate::model::pattern;
use cairn_common::error::FsError;
use cairn_common::namespace::tables::Totals;
use cairn_tests::harness::{Cluster, LIMIT, Options, eventually};
use std::time::Duration;

/// Waits until the space is given back.
async fn back_to(cluster: &Cluster, before: Totals) {
    eventually("the totals return", LIMIT, || async {
        let now = cluster.totals().await;
        if now == before { Ok(()) } else { Err(format!("{now:?} instead of {before:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_readable_until_the_last_close_on_any_mount() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let before = cluster.totals().await;
    let data = pattern(3, 200_000);
    a.write_file("f", &data).await.unwrap();
    let (one, two) = (a.open("f", libc::O_RDWR).await.unwrap(), b.open("f", libc::O_RDWR).await.unwrap());
    a.unlink("f").await.unwrap();
    assert_eq!(b.stat("f").await, Err(FsError::NotFound));
    assert_eq!(two.stat().await.unwrap().nlink, 0);
    assert!(two.read_all().await.unwrap() == data);
    one.write_at(5, b"still").await.unwrap();
    one.close().await.unwrap();
    let mut changed = data.clone();
    changed[5..10].copy_from_slice(b"still");
    assert!(two.read_all().await.unwrap() == changed);
    // Another file with the same name is another file.
    a.write_file("f", b"new").await.unwrap();
    assert!(two.read_all().await.unwrap() == changed);
    a.unlink("f").await.unwrap();
    // The server hears of closes a moment later.
    eventually("only the open file is left", LIMIT, || async {
        let left = cluster.totals().await.inodes - before.inodes;
        if left == 1 { Ok(()) } else { Err(format!("{left} inodes")) }
    })
    .await;
    two.close().await.unwrap();
    back_to(&cluster, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dirty_data_of_an_unlinked_file_is_readable_and_then_gone() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let before = cluster.totals().await;
    let one = a.create("f").await.unwrap();
    one.write_at(0, &pattern(1, 50_000)).await.unwrap();
    b.unlink("f").await.unwrap();
    one.write_at(50_000, &pattern(2, 1_000)).await.unwrap();
    let mut expected = pattern(1, 50_000);
    expected.extend(pattern(2, 1_000));
    assert!(one.read_all().await.unwrap() == expected);
    one.fsync().await.unwrap();
    assert!(one.read_all().await.unwrap() == expected);
    one.close().await.unwrap();
    back_to(&cluster, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_replaced_by_a_rename_lives_for_who_has_it_open() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let before = cluster.totals().await;
    a.write_file("old", &pattern(1, 40_000)).await.unwrap();
    let open = b.open("old", libc::O_RDONLY).await.unwrap();
    a.write_file("new", &pattern(2, 40_000)).await.unwrap();
    a.rename("new", "old").await.unwrap();
    assert!(open.read_all().await.unwrap() == pattern(1, 40_000));
    assert!(b.read_file("old").await.unwrap() == pattern(2, 40_000));
    open.close().await.unwrap();
    a.unlink("old").await.unwrap();
    back_to(&cluster, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_metadata_daemon_keeps_an_unlinked_file_for_its_opener() {
    let mut cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let before = cluster.totals().await;
    let data = pattern(9, 100_000);
    a.write_file("f", &data).await.unwrap();
    let open = b.open("f", libc::O_RDWR).await.unwrap();
    a.unlink("f").await.unwrap();
    cluster.meta.stop().await;
    cluster.meta.start().await;
    assert!(open.read_all().await.unwrap() == data);
    assert_eq!(cluster.totals().await.inodes, before.inodes + 1);
    open.close().await.unwrap();
    back_to(&cluster, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_dies_keeps_nothing_alive() {
    let cluster = Cluster::start(Options::default().timeout(Duration::from_secs(2))).await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let before = cluster.totals().await;
    a.write_file("f", &pattern(4, 100_000)).await.unwrap();
    let open = b.open("f", libc::O_RDWR).await.unwrap();
    a.unlink("f").await.unwrap();
    assert_eq!(cluster.totals().await.inodes, before.inodes + 1);
    drop(open);
    b.crash();
    back_to(&cluster, before).await;
}
