//! Death at any point: of the process, and of the power.

use super::random::Random;
use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Call, SimDisk};
use crate::meta::tables::Dump;
use std::sync::Arc;

const BIRTH: Birth = Birth { cluster: ClusterId(5), time: Timestamp { secs: 1, nanos: 0 } };

fn config() -> MachineConfig {
    MachineConfig {
        segment_bytes: 8 << 10,
        reserve_bytes: 0,
        cache_bytes: 4 << 20,
        sync_after: Duration::from_secs(3600),
        checkpoint_after: Duration::from_secs(3600),
        ..MachineConfig::default()
    }
}

pub fn open_on(disk: &SimDisk) -> Result<Machine, OpenError> {
    Machine::open_on(Arc::new(disk.clone()), None, config(), &BIRTH)
}

/// A machine with one session that has inode numbers, and its random operations.
pub async fn begin(disk: &SimDisk, seed: u64) -> FsResult<(Machine, SessionId, Random)> {
    let machine = open_on(disk).map_err(|_| FsError::Io)?;
    let open = Command::OpenSession { client: ClientInfo::default(), time: time(1) };
    let Reply::Session(session) = machine.submit(open).await?.reply else { panic!("no session") };
    let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await?.reply else {
        panic!("no numbers")
    };
    Ok((machine, session, Random::new(seed, range.first)))
}

fn dump(machine: &Machine) -> Dump {
    machine.read(|snapshot| snapshot.dump()).unwrap()
}

/// Batches of one session on a new directory, with what they are answered and the tables that they lead to.
pub struct Script {
    batches: Vec<Vec<Op>>,
    results: Vec<Vec<OpResult>>,
    /// The last operation and the tables: before the first batch, and after each.
    states: Vec<(Seq, Dump)>,
}

/// How far the session of a [`Script`] has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// The last operation that was answered.
    pub done: Seq,
    /// The last one that was said to be on stable storage.
    pub synced: Seq,
}

impl Script {
    /// Random batches of these sizes, as a machine that never dies answers them, one operation at a time.
    pub async fn new(seed: u64, sizes: &[usize]) -> Script {
        let (machine, session, mut random) = begin(&SimDisk::new(), seed).await.unwrap();
        let batches: Vec<Vec<Op>> = sizes.iter().map(|size| random.ops(*size)).collect();
        let mut last = Seq(0);
        let (mut results, mut states) = (Vec::new(), vec![(last, dump(&machine))]);
        for ops in &batches {
            let mut answers = Vec::new();
            for op in ops {
                last = last.next();
                answers.extend(batch(&machine, session, last.0, vec![op.clone()]).await.unwrap());
            }
            results.push(answers);
            states.push((last, dump(&machine)));
        }
        Script { batches, results, states }
    }

    /// Goes on where the session is, with checkpoints and syncs in between, until batch `end` is done or something fails.
    /// What is answered is right.
    pub async fn go_on(
        &self,
        machine: &Machine,
        session: SessionId,
        end: usize,
        reached: &mut Reached,
    ) -> FsResult<()> {
        let mut done = machine.session(session).ok_or(FsError::Evicted)?.applied;
        for n in self.batches_until(done)..end {
            let results = batch(machine, session, done.next().0, self.batches[n].clone()).await?;
            assert_eq!(results, self.results[n], "batch {n}");
            done = self.states[n + 1].0;
            reached.done = done;
            if n % 3 == 2 {
                machine.checkpoint();
            } else if n % 2 == 1 {
                reached.synced = machine.sync_session(session, done, Duration::ZERO).await?;
                // As when it is idle; the next batch is written over it.
                machine.mark_log();
            }
            reached.synced = reached.synced.max(machine.durable_seq(session).unwrap_or_default());
        }
        Ok(())
    }

    /// After a start: the session has at least the operations up to `least`, and the tables are those of some number of
    /// batches, whole.
    pub fn check(&self, machine: &Machine, session: SessionId, least: Seq, context: &str) {
        let info = machine.session(session).unwrap_or_else(|| panic!("{context}: no session"));
        assert!(info.applied >= least, "{context}: {info:?}");
        assert_eq!(info.durable, info.applied, "{context}");
        assert!(dump(machine) == *self.tables_at(info.applied), "{context}: {info:?}: other tables");
    }

    /// The tables after operation `last`.
    pub fn tables_at(&self, last: Seq) -> &Dump {
        &self.states[self.batches_until(last)].1
    }

    /// How many batches end with operation `last`.
    fn batches_until(&self, last: Seq) -> usize {
        self.states.iter().position(|(end, _)| *end == last).expect("batches are applied whole")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grouping_does_not_matter() {
    for seed in 0..5 {
        let (machine, session, mut random) = begin(&SimDisk::new(), seed).await.unwrap();
        let mut next = 1;
        for size in [1, 50, 3, 200, 46] {
            batch(&machine, session, next, random.ops(size)).await.unwrap();
            next += size as u64;
        }
        let one_by_one = Script::new(seed, &[300]).await;
        assert_eq!(dump(&machine), *one_by_one.tables_at(Seq(300)), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_gives_the_same_tables_and_replies() {
    for seed in 10..14 {
        let disk = SimDisk::new();
        let (machine, session, mut random) = begin(&disk, seed).await.unwrap();
        let mut last = (1, Vec::new(), Vec::new());
        for n in 0..12_u64 {
            let ops = random.ops(15);
            let results = batch(&machine, session, n * 15 + 1, ops.clone()).await.unwrap();
            last = (n * 15 + 1, ops, results);
            if n == seed - 8 {
                machine.checkpoint();
            }
        }
        let before = dump(&machine);
        let killed = disk.kill();
        drop(machine);
        let machine = open_on(&killed).unwrap();
        assert_eq!(dump(&machine), before, "seed {seed}");
        let again = batch(&machine, session, last.0, last.1.clone()).await.unwrap();
        assert_eq!(again, last.2, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_keeps_a_prefix_with_all_that_was_synced() {
    const BATCHES: usize = 8;
    for seed in 20..23 {
        let script = Script::new(seed, &[6; BATCHES]).await;
        for changes in (0..).step_by(3) {
            let disk = SimDisk::new();
            let (machine, session, _) = begin(&disk, seed).await.unwrap();
            disk.power_off_after(changes);
            let mut reached = Reached::default();
            let finished = script.go_on(&machine, session, BATCHES, &mut reached).await.is_ok();
            drop(machine);
            let context = format!("seed {seed}, power off at {changes}, {reached:?}");
            let machine =
                open_on(&disk.power_cycle(seed ^ changes)).unwrap_or_else(|e| panic!("{context}: {e}"));
            script.check(&machine, session, reached.synced, &context);
            if finished {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_while_the_directory_is_made() {
    for changes in 0.. {
        let disk = SimDisk::new();
        disk.power_off_after(changes);
        let made = open_on(&disk).is_ok();
        let after = disk.power_cycle(changes);
        let machine = open_on(&after).unwrap_or_else(|error| panic!("power off at {changes}: {error}"));
        assert!(machine.read(|s| s.inode(Ino::ROOT)).unwrap().is_some());
        if made {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_stops_the_machine() {
    for (call, cause) in [(Call::Write, "append"), (Call::Sync, "sync")] {
        let disk = SimDisk::new();
        let (machine, session, mut random) = begin(&disk, 1).await.unwrap();
        batch(&machine, session, 1, random.ops(3)).await.unwrap();
        let before = dump(&machine);
        disk.fail_once(call, 0, io::ErrorKind::Other);
        let second = batch(&machine, session, 4, random.ops(3)).await;
        let synced = machine.sync(LogIndex(machine.progress().applied.0 + 1)).await;
        assert_eq!(synced, Err(FsError::Io));
        assert!(machine.failed().await.contains(cause), "{}", machine.failed().await);
        assert_eq!(batch(&machine, session, 4, random.ops(3)).await, Err(FsError::Io));
        assert_eq!(machine.shutdown().await, Err(FsError::Io));
        drop(machine);
        disk.heal();
        let machine = open_on(&disk).unwrap();
        if second.is_err() {
            assert_eq!(dump(&machine), before);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_whose_sync_failed_is_not_found_by_the_restart() {
    let disk = SimDisk::new();
    let (machine, session, mut random) = begin(&disk, 2).await.unwrap();
    batch(&machine, session, 1, random.ops(30)).await.unwrap();
    let progress = machine.progress();
    machine.sync(progress.applied).await.unwrap();
    let before = dump(&machine);
    // redb syncs its pages first, then the header that names them; the checksums are synced before each.
    disk.fail_once(Call::Sync, 3, io::ErrorKind::Other);
    machine.checkpoint();
    assert!(machine.failed().await.contains("checkpoint"));
    // The kernel still shows the new tables.
    let killed = disk.kill();
    drop(machine);
    let machine = open_on(&killed).unwrap();
    assert_eq!(machine.progress().checkpoint, progress.checkpoint);
    assert_eq!(dump(&machine), before);
}

/// Garbage in the files is refused in words, or does not matter; it never hangs or panics at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_are_refused_in_words() {
    let made = SimDisk::new();
    let (machine, session, mut random) = begin(&made, 3).await.unwrap();
    batch(&machine, session, 1, random.ops(30)).await.unwrap();
    machine.shutdown().await.unwrap();
    drop(machine);
    let mut refused = 0;
    for offset in [0, 3, 9, 12, 30, 64, 128, 200, 4096, 4100, 8192, 12_288, 20_480] {
        let disk = made.kill();
        disk.corrupt("tables", offset, &[0x5a; 16]);
        match open_on(&disk) {
            Ok(machine) => drop(machine),
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("tables"), "at {offset}: {error}");
            }
        }
    }
    assert!(refused > 0);
    let disk = made.kill();
    let name = disk.list().unwrap().into_iter().find(|name| name.starts_with("log-")).unwrap();
    disk.corrupt(&name, 0, b"garbage!");
    let line = open_on(&disk).map(|_| ()).unwrap_err().to_string();
    assert!(line.contains(&format!("{name} is not a log segment")), "{line}");
}
