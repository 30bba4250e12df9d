//! Two mounts change the same few names at the same time. Nobody can say what comes of it, but both
//! must show the same, every answer must be one that a program can understand, and the totals must fit.

use crate::model::pattern;
use cairn_common::attr::FileKind;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_tests::harness::{Cluster, LIMIT, Mount, eventually, random, seed, within};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, HashMap};

const WORKERS: u64 = 4;
const STEPS: u32 = 150;

/// Errors that a program gets when another one was faster.
fn expected(error: FsError) -> bool {
    use FsError::{Exists, Invalid, IsDir, NotDir, NotEmpty, NotFound, NotPermitted, Stale};
    matches!(error, Exists | Invalid | IsDir | NotDir | NotEmpty | NotFound | NotPermitted | Stale)
}

fn path(rng: &mut StdRng) -> String {
    let name = rng.random_range(0..5);
    match rng.random_range(0..3) {
        0 => format!("n{name}"),
        dir => format!("d{dir}/n{name}"),
    }
}

async fn step(mount: &Mount, rng: &mut StdRng) -> FsResult<()> {
    let (one, two) = (path(rng), path(rng));
    let data = pattern(rng.random(), rng.random_range(1..20_000));
    match rng.random_range(0..12) {
        0..3 => mount.write_file(&one, &data).await,
        3 => mount.mkdir(&one).await.map(|_attr| ()),
        4 => mount.unlink(&one).await,
        5 => mount.rmdir(&one).await,
        6..8 => mount.rename(&one, &two).await,
        8 => mount.link(&one, &two).await.map(|_attr| ()),
        9 => mount.list(one.rsplit_once('/').map_or("", |(dir, _)| dir)).await.map(|_entries| ()),
        10 => mount.read_file(&one).await.map(|_content| ()),
        _ => {
            let file = mount.open(&one, libc::O_RDWR | libc::O_APPEND).await?;
            let appended = file.append(&data).await;
            let synced = if rng.random() { file.fsync().await } else { Ok(()) };
            file.close().await?;
            appended.and(synced)
        }
    }
}

async fn work(mount: Mount, seed: u64) {
    let mut rng = random(seed);
    for number in 0..STEPS {
        if let Err(error) = step(&mount, &mut rng).await {
            assert!(expected(error), "step {number} on {}: {error}", mount.name());
        }
    }
}

/// What a mount shows: per path, what it is, and what it holds.
type Shown = BTreeMap<String, (Ino, FileKind, u32, u64, Vec<u8>)>;

async fn all(mount: &Mount) -> Shown {
    let mut shown = Shown::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        for entry in mount.list(&dir).await.unwrap() {
            let name = String::from_utf8(entry.name.to_vec()).unwrap();
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let attr = mount.stat(&path).await.unwrap_or_else(|error| panic!("{path} is listed: {error}"));
            assert_eq!((attr.ino, attr.kind), (entry.ino, entry.kind), "{path} as listed");
            let mut content = vec![];
            if attr.kind == FileKind::Dir {
                dirs.push(path.clone());
            } else {
                content = mount.read_file(&path).await.unwrap();
                assert_eq!(content.len() as u64, attr.size, "{path} on {}", mount.name());
            }
            shown.insert(path, (attr.ino, attr.kind, attr.nlink, attr.allocated, content));
        }
    }
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_that_race_show_the_same_in_the_end() {
    let seed = seed("mounts_that_race");
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.mount("a").await, cluster.mount("b").await);
    let before = cluster.totals().await;
    for dir in ["d1", "d2"] {
        a.mkdir(dir).await.unwrap();
    }
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| tokio::spawn(work([&a, &b][worker as usize % 2].clone(), seed + worker)))
        .collect();
    for worker in workers {
        within("the race ends", worker).await.unwrap();
    }
    let (on_a, on_b) = (all(&a).await, all(&b).await);
    for (path, shown) in &on_a {
        let other = on_b.get(path).unwrap_or_else(|| panic!("{path} is only on a"));
        assert!(shown == other, "{path}: {:?} and {:?}", &shown.3, &other.3);
    }
    assert_eq!(on_a.len(), on_b.len(), "{:?}", on_b.keys().collect::<Vec<_>>());
    // Each name counts, and nothing is lost or kept.
    let mut files: HashMap<Ino, (u32, u32, u64)> = HashMap::new();
    for (ino, kind, nlink, allocated, _) in on_a.values() {
        let names = if *kind == FileKind::Dir { *nlink } else { 1 };
        files.entry(*ino).or_insert((0, *nlink, *allocated)).0 += names;
    }
    for (ino, (names, nlink, _)) in &files {
        assert_eq!(names, nlink, "names of inode {ino}");
    }
    let allocated: u64 = files.values().map(|(_, _, allocated)| allocated).sum();
    eventually("the totals fit the tree", LIMIT, || async {
        let now = cluster.totals().await;
        let fits = (now.inodes, now.allocated) == (before.inodes + files.len() as u64, allocated);
        if fits { Ok(()) } else { Err(format!("{now:?}, {} inodes, {allocated} bytes", files.len())) }
    })
    .await;
    a.leave().await;
    b.leave().await;
    let c = cluster.mount("c").await;
    assert!(all(&c).await == on_a, "a third mount shows something else");
}
