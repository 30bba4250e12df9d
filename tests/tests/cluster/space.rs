//! `df` is exact, and what is deleted leaves the disk.

use crate::model::pattern;
use cairn_common::namespace::op::FallocateMode;
use cairn_common::namespace::tables::Totals;
use cairn_tests::harness::{Cluster, LIMIT, eventually};

async fn totals_are(cluster: &Cluster, expected: Totals, when: &str) {
    assert_eq!(cluster.totals().await, expected, "{when}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_are_exact_after_each_step() {
    let cluster = Cluster::new().await;
    let a = cluster.mount("a").await;
    let mut expected = cluster.totals().await;
    let empty = expected;
    a.mkdir("d").await.unwrap();
    for index in 0..10 {
        a.write_file(&format!("d/f{index}"), b"").await.unwrap();
    }
    expected.inodes += 11;
    totals_are(&cluster, expected, "ten empty files and a directory").await;
    a.link("d/f0", "d/l").await.unwrap();
    totals_are(&cluster, expected, "a second name").await;

    // Small and synchronous: inside the metadata.
    let file = a.open("d/f0", libc::O_RDWR).await.unwrap();
    file.write_at(0, &pattern(1, 1_000)).await.unwrap();
    file.fsync().await.unwrap();
    expected.allocated += 1_000;
    totals_are(&cluster, expected, "1,000 bytes synced").await;
    assert_eq!(file.stat().await.unwrap().allocated, 1_000);

    // Large: in blocks.
    file.write_at(0, &pattern(2, 300_000)).await.unwrap();
    assert_eq!(file.stat().await.unwrap().allocated, 300_000, "before it is stored");
    file.fsync().await.unwrap();
    let now = cluster.totals().await;
    expected.allocated += 299_000;
    assert!(now.block_bytes >= 300_000 && now.block_bytes < 310_000, "{now:?}");
    expected.block_bytes = now.block_bytes;
    totals_are(&cluster, expected, "300,000 bytes synced").await;

    file.fallocate(FallocateMode::Allocate { keep_size: true }, 300_000, 50_000).await.unwrap();
    expected.allocated += 50_000;
    totals_are(&cluster, expected, "preallocated").await;
    file.fallocate(FallocateMode::PunchHole, 100_000, 10_000).await.unwrap();
    expected.allocated -= 10_000;
    totals_are(&cluster, expected, "a hole").await;
    assert_eq!(file.stat().await.unwrap().allocated, expected.allocated);
    file.truncate(0).await.unwrap();
    expected.allocated = 0;
    expected.block_bytes = 0;
    totals_are(&cluster, expected, "truncated").await;
    file.close().await.unwrap();

    a.unlink("d/l").await.unwrap();
    totals_are(&cluster, expected, "a name less").await;
    for index in 0..10 {
        a.unlink(&format!("d/f{index}")).await.unwrap();
    }
    a.rmdir("d").await.unwrap();
    eventually("all is given back", LIMIT, || async {
        let now = cluster.totals().await;
        if now == empty { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let stat = a.statfs().await.unwrap();
    assert_eq!(stat.files - stat.ffree, empty.inodes);
    assert!(stat.blocks >= stat.bfree && stat.bfree > 0, "{stat:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_and_overwritten_data_leaves_the_disk() {
    const SIZE: usize = 10 << 20;
    let cluster = Cluster::new().await;
    let a = cluster.mount("a").await;
    let file = a.create("f").await.unwrap();
    file.write_at(0, &pattern(1, SIZE)).await.unwrap();
    file.fsync().await.unwrap();
    let stored = cluster.stored_bytes().await;
    assert!(stored >= SIZE as u64, "{stored} bytes stored of {SIZE}");
    file.write_at(0, &pattern(2, SIZE)).await.unwrap();
    file.fsync().await.unwrap();
    let fits = |most: u64| {
        let cluster = &cluster;
        move || async move {
            let stored = cluster.stored_bytes().await;
            if stored <= most { Ok(()) } else { Err(format!("{stored} bytes are stored")) }
        }
    };
    // What was overwritten goes, what is live stays and is right.
    eventually("overwritten data is deleted", LIMIT, fits(SIZE as u64 + (1 << 20))).await;
    assert!(file.read_all().await.unwrap() == pattern(2, SIZE));
    file.close().await.unwrap();
    a.unlink("f").await.unwrap();
    eventually("removed data is deleted", LIMIT, fits(0)).await;
    eventually("nothing is left to be deleted", LIMIT, || async {
        let queued = cluster.status().await.delete_queue;
        if queued == 0 { Ok(()) } else { Err(format!("{queued} blocks")) }
    })
    .await;
}
