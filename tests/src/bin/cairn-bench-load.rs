//! The load that `scripts/bench` measures: one workload on one directory, timed inside of this process, so that neither the start
//! of a program nor an interpreter is part of the figure.
//!
//! Each call runs one phase and prints `OPERATIONS SECONDS BYTES`. Phases build on what earlier ones left (`stat` needs the files of
//! `create`), so that the caller can drop caches between them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const SMALL: usize = 4096;
const LARGE: usize = 1 << 20;

/// What one thread, or all together, did.
#[derive(Clone, Copy, Default)]
struct Done {
    operations: u64,
    bytes: u64,
}

/// The arguments: PHASE DIR THREADS COUNT, where COUNT is files per thread, operations, or megabytes.
struct Job {
    phase: String,
    dir: PathBuf,
    threads: usize,
    count: usize,
}

/// xorshift64*: random offsets and orders that are the same in each run.
struct Random(u64);

impl Random {
    fn new(seed: usize) -> Random {
        Random(0x9E37_79B9_7F4A_7C15 ^ (seed as u64 + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Content that no file system can compress or find twice.
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next().to_be_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).expect("below a usize");
            order.swap(last, other);
        }
        order
    }
}

fn main() -> ExitCode {
    match parse().and_then(|job| run(&job)) {
        Ok((done, took)) => {
            println!("{} {:.6} {}", done.operations, took.as_secs_f64(), done.bytes);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cairn-bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> io::Result<Job> {
    let usage = || io::Error::other("usage: cairn-bench-load PHASE DIR THREADS COUNT");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [phase, dir, threads, count] = &words[..] else { return Err(usage()) };
    let number = |word: &String| word.parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(usage);
    Ok(Job { phase: phase.clone(), dir: dir.into(), threads: number(threads)?, count: number(count)? })
}

fn run(job: &Job) -> io::Result<(Done, Duration)> {
    let work: fn(&Job, usize) -> io::Result<Done> = match job.phase.as_str() {
        "create" => |job, thread| create(job, thread, false),
        "create-fsync" => |job, thread| create(job, thread, true),
        "stat" => stat,
        "list-stat" => list_stat,
        "read" => read,
        "rename" => rename,
        "unlink" => unlink,
        "seq-write" => seq_write,
        "seq-read" => seq_read,
        "rand-read" => rand_read,
        "rand-write" => |job, thread| rand_write(job, thread, Flush::Never),
        "rand-write-end" => |job, thread| rand_write(job, thread, Flush::AtEnd),
        "rand-write-fsync" => |job, thread| rand_write(job, thread, Flush::Each),
        other => return Err(io::Error::other(format!("no phase {other}"))),
    };
    if job.phase.starts_with("create") {
        (0..job.threads).try_for_each(|thread| fs::create_dir_all(small_dir(job, thread)))?;
    }
    on_threads(job, work)
}

/// All threads start together; the time is from the first start to the last end, as the threads saw it: whoever only waits for
/// them may be woken late.
fn on_threads(job: &Job, work: fn(&Job, usize) -> io::Result<Done>) -> io::Result<(Done, Duration)> {
    let barrier = Barrier::new(job.threads);
    let timed = |thread| {
        barrier.wait();
        let start = Instant::now();
        work(job, thread).map(|done| (done, start, Instant::now()))
    };
    let results = std::thread::scope(|scope| {
        let timed = &timed;
        let handles: Vec<_> = (0..job.threads).map(|thread| scope.spawn(move || timed(thread))).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().map_err(|_| io::Error::other("a thread panicked"))?)
            .collect::<io::Result<Vec<_>>>()
    })?;
    let first = results.iter().map(|(_, start, _)| *start).min().expect("at least one thread");
    let last = results.iter().map(|(_, _, end)| *end).max().expect("at least one thread");
    let total = results.iter().fold(Done::default(), |sum, (done, ..)| Done {
        operations: sum.operations + done.operations,
        bytes: sum.bytes + done.bytes,
    });
    Ok((total, last - first))
}

// ---- small files -----------------------------------------------------------------------------------------------------

fn small_dir(job: &Job, thread: usize) -> PathBuf {
    job.dir.join(format!("t{thread}"))
}

/// Each file of this thread once, in random order: what was made together is not asked for in that order.
fn each_file(
    job: &Job,
    thread: usize,
    bytes: usize,
    mut action: impl FnMut(&Path, usize) -> io::Result<()>,
) -> io::Result<Done> {
    let dir = small_dir(job, thread);
    for number in Random::new(thread).order(job.count) {
        action(&dir.join(format!("f{number}")), number)?;
    }
    Ok(Done { operations: job.count as u64, bytes: (job.count * bytes) as u64 })
}

fn create(job: &Job, thread: usize, sync: bool) -> io::Result<Done> {
    let (dir, mut random, mut data) = (small_dir(job, thread), Random::new(thread), vec![0; SMALL]);
    for number in 0..job.count {
        random.fill(&mut data[..64]);
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(dir.join(format!("f{number}")))?;
        file.write_all(&data)?;
        if sync {
            file.sync_all()?;
        }
    }
    Ok(Done { operations: job.count as u64, bytes: (job.count * SMALL) as u64 })
}

fn stat(job: &Job, thread: usize) -> io::Result<Done> {
    each_file(job, thread, 0, |path, _| fs::symlink_metadata(path).map(|_| ()))
}

fn list_stat(job: &Job, thread: usize) -> io::Result<Done> {
    let mut operations = 0;
    for entry in fs::read_dir(small_dir(job, thread))? {
        entry?.metadata()?;
        operations += 1;
    }
    Ok(Done { operations, bytes: 0 })
}

fn read(job: &Job, thread: usize) -> io::Result<Done> {
    let mut data = vec![0; SMALL];
    each_file(job, thread, SMALL, |path, _| File::open(path)?.read_exact(&mut data))
}

/// To another name in the same directory; `unlink` finds the files under either.
fn rename(job: &Job, thread: usize) -> io::Result<Done> {
    let dir = small_dir(job, thread);
    each_file(job, thread, 0, |path, number| fs::rename(path, dir.join(format!("renamed{number}"))))
}

fn unlink(job: &Job, thread: usize) -> io::Result<Done> {
    let dir = small_dir(job, thread);
    let renamed = dir.join("renamed0").exists();
    each_file(job, thread, 0, |path, number| {
        if renamed { fs::remove_file(dir.join(format!("renamed{number}"))) } else { fs::remove_file(path) }
    })
}

// ---- one large file per thread ---------------------------------------------------------------------------------------

fn large_path(job: &Job, thread: usize) -> PathBuf {
    job.dir.join(format!("large{thread}"))
}

/// COUNT megabytes in pieces of 1 MiB, then one fsync, which is part of the time.
fn seq_write(job: &Job, thread: usize) -> io::Result<Done> {
    let mut data = vec![0; LARGE];
    Random::new(thread).fill(&mut data);
    let mut file = File::create(large_path(job, thread))?;
    for number in 0..job.count {
        data[..8].copy_from_slice(&(number as u64).to_be_bytes());
        file.write_all(&data)?;
    }
    file.sync_all()?;
    Ok(Done { operations: job.count as u64, bytes: (job.count * LARGE) as u64 })
}

fn seq_read(job: &Job, thread: usize) -> io::Result<Done> {
    let mut data = vec![0; LARGE];
    let mut file = File::open(large_path(job, thread))?;
    for _ in 0..job.count {
        file.read_exact(&mut data)?;
    }
    Ok(Done { operations: job.count as u64, bytes: (job.count * LARGE) as u64 })
}

/// COUNT random, aligned pieces of 4 KiB of the large file.
fn at_random(
    job: &Job,
    file: &File,
    thread: usize,
    mut action: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<Done> {
    let pieces = file.metadata()?.len() / SMALL as u64;
    if pieces == 0 {
        return Err(io::Error::other("no large file: run seq-write first"));
    }
    let mut random = Random::new(thread + 1000);
    (0..job.count).try_for_each(|_| action(random.below(pieces) * SMALL as u64))?;
    Ok(Done { operations: job.count as u64, bytes: (job.count * SMALL) as u64 })
}

fn rand_read(job: &Job, thread: usize) -> io::Result<Done> {
    let file = File::open(large_path(job, thread))?;
    let mut data = vec![0; SMALL];
    at_random(job, &file, thread, |offset| file.read_exact_at(&mut data, offset))
}

/// When written data is flushed.
#[derive(Clone, Copy, PartialEq)]
enum Flush {
    Never,
    AtEnd,
    Each,
}

fn rand_write(job: &Job, thread: usize, flush: Flush) -> io::Result<Done> {
    let file = OpenOptions::new().write(true).open(large_path(job, thread))?;
    let (mut data, mut random) = (vec![0; SMALL], Random::new(thread + 2000));
    random.fill(&mut data);
    let done = at_random(job, &file, thread, |offset| {
        data[..8].copy_from_slice(&random.next().to_be_bytes());
        file.write_all_at(&data, offset)?;
        if flush == Flush::Each { file.sync_data() } else { Ok(()) }
    })?;
    if flush == Flush::AtEnd {
        file.sync_data()?;
    }
    Ok(done)
}
