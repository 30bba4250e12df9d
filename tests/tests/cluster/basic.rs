//! The path through all parts, once.

use cairn_common::error::FsError;
use cairn_tests::harness::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_mount_writes_another_reads() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    a.mkdir("dir").await.unwrap();
    assert_eq!(a.mkdir("dir").await, Err(FsError::Exists));
    a.write_file("dir/file", b"hello").await.unwrap();
    assert_eq!(b.read_file("dir/file").await.unwrap(), b"hello");
    b.rename("dir/file", "dir/other").await.unwrap();
    assert_eq!(a.stat("dir/file").await, Err(FsError::NotFound));
    assert_eq!(a.stat("dir/other").await.unwrap().size, 5);
    let large: Vec<u8> = (0..9_u32 << 20).map(|i| (i / 7) as u8).collect();
    b.write_file("large", &large).await.unwrap();
    assert!(a.read_file("large").await.unwrap() == large, "9 MiB differ");
    a.leave().await;
    b.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_after_both_daemons_restarted() {
    let mut cluster = Cluster::new().await;
    let a = cluster.mount("a").await;
    a.write_file("before", b"1").await.unwrap();
    cluster.meta.stop().await;
    cluster.meta.start().await;
    a.write_file("between", b"2").await.unwrap();
    cluster.data[0].stop().await;
    cluster.data[0].start().await;
    a.write_file("after", &[3; 100_000]).await.unwrap();
    a.leave().await;
    let b = cluster.mount("b").await;
    assert_eq!(b.read_file("before").await.unwrap(), b"1");
    assert_eq!(b.read_file("between").await.unwrap(), b"2");
    assert_eq!(b.read_file("after").await.unwrap(), [3; 100_000]);
    b.leave().await;
}
