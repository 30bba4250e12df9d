//! Daemons stop, are killed and come back under load: no program sees an error, and nothing is lost.

use crate::model::pattern;
use cairn_tests::harness::{Cluster, LIMIT, Mount, Options, eventually, within};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Rounds of all workers between two disturbances.
const PROGRESS: u64 = 12;
const WORKERS: u64 = 2;

/// Content by path: seed and length of the pattern.
type Files = BTreeMap<String, (u64, usize)>;

/// Workers on each mount, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Files>>,
}

impl Load {
    fn start(mounts: &[&Mount]) -> Load {
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut workers = vec![];
        for mount in mounts {
            for worker in 0..WORKERS {
                let dir = format!("{}{worker}", mount.name());
                workers.push(tokio::spawn(work((*mount).clone(), dir, stop.clone(), rounds.clone())));
            }
        }
        Load { stop, rounds, workers }
    }

    /// Waits until all has gone on for a while.
    async fn goes_on(&self) {
        let from = self.rounds.load(Ordering::SeqCst);
        eventually("the load goes on", LIMIT, || async {
            assert!(self.workers.iter().all(|worker| !worker.is_finished()), "a worker has failed");
            let done = self.rounds.load(Ordering::SeqCst) - from;
            if done >= PROGRESS { Ok(()) } else { Err(format!("{done} rounds")) }
        })
        .await;
    }

    async fn end(self) -> Files {
        self.stop.store(true, Ordering::SeqCst);
        let mut files = Files::new();
        for worker in self.workers {
            files.extend(within("the load ends", worker).await.unwrap());
        }
        files
    }
}

/// Makes, syncs, renames, reads and removes files.
async fn work(mount: Mount, dir: String, stop: Arc<AtomicBool>, rounds: Arc<AtomicU64>) -> Files {
    let mut files = Files::new();
    mount.mkdir(&dir).await.unwrap();
    for round in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (temporary, path) = (format!("{dir}/new"), format!("{dir}/f{round}"));
        let (seed, length) = (round * 31, [100, 5_000, 70_000][round as usize % 3]);
        let file = mount.create(&temporary).await.unwrap();
        file.write_at(0, &pattern(seed, length)).await.unwrap();
        if round % 2 == 0 {
            file.fsync().await.unwrap();
        }
        file.close().await.unwrap();
        mount.rename(&temporary, &path).await.unwrap();
        files.insert(path, (seed, length));
        if round % 5 == 4 {
            let old = format!("{dir}/f{}", round - 3);
            mount.unlink(&old).await.unwrap();
            files.remove(&old);
        }
        let (path, (seed, length)) = files.iter().nth(round as usize * 7 % files.len()).unwrap();
        assert!(mount.read_file(path).await.unwrap() == pattern(*seed, *length), "content of {path}");
        rounds.fetch_add(1, Ordering::SeqCst);
    }
    files
}

async fn check(mount: &Mount, files: &Files) {
    for (path, (seed, length)) in files {
        let data = mount.read_file(path).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(data == pattern(*seed, *length), "content of {path} on {}", mount.name());
    }
    let dirs: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|path| path.split('/').next()).collect();
    for dir in dirs {
        let expected = files.keys().filter(|path| path.split('/').next() == Some(dir)).count();
        assert_eq!(mount.list(dir).await.unwrap().len(), expected, "names in {dir} on {}", mount.name());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clean_restarts_under_load_are_not_noticed() {
    let mut cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let load = Load::start(&[&a, &b]);
    load.goes_on().await;
    for _ in 0..2 {
        cluster.meta.stop().await;
        cluster.meta.start().await;
        load.goes_on().await;
        cluster.data[0].stop().await;
        cluster.data[0].start().await;
        load.goes_on().await;
    }
    let files = load.end().await;
    check(&a, &files).await;
    check(&b, &files).await;
    a.leave().await;
    b.leave().await;
    let c = cluster.mount("c").await;
    check(&c, &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_are_not_noticed() {
    let mut cluster = Cluster::start(Options::default().processes()).await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let load = Load::start(&[&a, &b]);
    load.goes_on().await;
    for _ in 0..2 {
        cluster.meta.kill();
        cluster.meta.start().await;
        load.goes_on().await;
        cluster.data[0].kill();
        cluster.data[0].start().await;
        load.goes_on().await;
    }
    cluster.meta.kill();
    cluster.data[0].kill();
    cluster.meta.start().await;
    cluster.data[0].start().await;
    load.goes_on().await;
    let files = load.end().await;
    check(&a, &files).await;
    check(&b, &files).await;
    a.leave().await;
    b.leave().await;
    let c = cluster.mount("c").await;
    check(&c, &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_is_there_when_everything_died() {
    let options =
        Options::default().processes().grace(Duration::from_secs(1)).timeout(Duration::from_secs(3));
    let mut cluster = Cluster::start(options).await;
    let a = cluster.mount("a").await;
    let mut files = Files::new();
    for round in 0..20 {
        let (path, length) = (format!("f{round}"), [10, 40_000, 200_000][round as usize % 3]);
        let file = a.create(&path).await.unwrap();
        file.write_at(0, &pattern(round, length)).await.unwrap();
        file.fsync().await.unwrap();
        // Not synced: may be there or not.
        file.write_at(length as u64, b"more").await.unwrap();
        files.insert(path, (round, length));
    }
    cluster.meta.kill();
    cluster.data[0].kill();
    a.crash();
    cluster.meta.start().await;
    cluster.data[0].start().await;
    let b = cluster.mount("b").await;
    for (path, (seed, length)) in &files {
        let data = b.read_file(path).await.unwrap();
        assert!(data.len() >= *length && data[..*length] == pattern(*seed, *length), "content of {path}");
        assert!(data.len() == *length || &data[*length..] == b"more", "end of {path}");
    }
    b.leave().await;
}

/// After a restart, the metadata daemon waits for those that it knew, but not for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_is_gone_holds_a_restart_up_for_a_while_only() {
    let options = Options::default().grace(Duration::from_secs(1)).timeout(Duration::from_secs(3));
    let mut cluster = Cluster::start(options).await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    a.write_file("f", &pattern(1, 5_000)).await.unwrap();
    b.write_file("g", &pattern(2, 5_000)).await.unwrap();
    b.crash();
    cluster.meta.stop().await;
    cluster.meta.start().await;
    assert!(a.read_file("f").await.unwrap() == pattern(1, 5_000));
    a.write_file("h", b"goes on").await.unwrap();
    eventually("the dead one is put out", LIMIT, || async {
        let sessions = cluster.status().await.sessions;
        let left: Vec<_> = sessions.iter().map(|session| session.session).collect();
        if left == [a.session()] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    a.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_data_daemons_share_the_load_and_one_may_be_away() {
    let mut cluster = Cluster::start(Options { data_daemons: 2, ..Options::default() }).await;
    let a = cluster.mount("a").await;
    a.write_file("before", &pattern(1, 12 << 20)).await.unwrap();
    a.open("before", libc::O_RDWR).await.unwrap().fsync().await.unwrap();
    let puts = [cluster.data_stat(0).await.puts, cluster.data_stat(1).await.puts];
    assert!(puts.iter().all(|puts| *puts > 0), "one daemon got all: {puts:?}");
    cluster.data[0].stop().await;
    let file = a.create("while").await.unwrap();
    file.write_at(0, &pattern(2, 9 << 20)).await.unwrap();
    file.fsync().await.unwrap();
    file.close().await.unwrap();
    cluster.data[0].start().await;
    assert!(a.read_file("before").await.unwrap() == pattern(1, 12 << 20));
    assert!(a.read_file("while").await.unwrap() == pattern(2, 9 << 20));
    a.leave().await;
}
