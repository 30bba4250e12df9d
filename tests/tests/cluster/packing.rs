//! Small files travel together.

use crate::model::pattern;
use cairn_tests::harness::{Cluster, LIMIT, Mount, eventually, within};

const FILES: u64 = 10_000;
const SIZE: usize = 4096;
const WORKERS: u64 = 8;

fn name(index: u64) -> String {
    format!("d{}/f{index}", index % WORKERS)
}

async fn write(mount: Mount, worker: u64) {
    mount.mkdir(&format!("d{worker}")).await.unwrap();
    for index in (0..FILES).filter(|index| index % WORKERS == worker) {
        mount.write_file(&name(index), &pattern(index, SIZE)).await.unwrap();
    }
}

async fn read(mount: Mount, worker: u64) {
    for index in (0..FILES).filter(|index| index % WORKERS == worker) {
        let data = mount.read_file(&name(index)).await.unwrap();
        assert!(data == pattern(index, SIZE), "content of {}", name(index));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_files_take_fewer_than_a_hundred_puts() {
    let cluster = Cluster::new().await;
    let a = cluster.mount("a").await;
    let workers: Vec<_> = (0..WORKERS).map(|worker| tokio::spawn(write(a.clone(), worker))).collect();
    for worker in workers {
        within("all files are written", worker).await.unwrap();
    }
    // Nobody asks for it: it gets there by itself.
    eventually("all is stored", LIMIT, || async {
        let bytes = cluster.totals().await.allocated;
        if bytes == FILES * SIZE as u64 { Ok(()) } else { Err(format!("{bytes} bytes")) }
    })
    .await;
    let stat = cluster.data_stat(0).await;
    println!("{FILES} files: {} puts, {} bytes, {} syncs", stat.puts, stat.put_bytes, stat.syncs);
    assert!(stat.puts < 100, "{} puts", stat.puts);
    a.leave().await;
    let b = cluster.mount("b").await;
    let workers: Vec<_> = (0..WORKERS).map(|worker| tokio::spawn(read(b.clone(), worker))).collect();
    for worker in workers {
        within("all files are read", worker).await.unwrap();
    }
    let gets = cluster.data_stat(0).await.gets;
    println!("read back with {gets} gets");
    b.leave().await;
}
