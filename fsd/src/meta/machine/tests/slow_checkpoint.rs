//! A checkpoint whose disk takes its time: nobody waits for it until memory is full, and a crash in the
//! middle of it loses nothing.

use super::*;
use crate::disk::sim::SimDisk;
use std::sync::Arc;

const TABLES: &str = "tables";

/// A machine whose checkpoints wait for its disk, a session of it, and numbers for inodes.
struct Slow {
    disk: SimDisk,
    machine: Machine,
    session: SessionId,
    next: u64,
    first: Ino,
}

impl Slow {
    async fn start(checkpoint_bytes: u64) -> Slow {
        let disk = SimDisk::new();
        let birth = Birth { cluster: ClusterId(1), time: time(1) };
        let config = MachineConfig { checkpoint_bytes, ..small() };
        let machine = Machine::open_on(Arc::new(disk.clone()), None, config, &birth).unwrap();
        let session = open_session(&machine).await;
        let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply
        else {
            panic!("no numbers")
        };
        Slow { disk, machine, session, next: 1, first: range.first }
    }

    fn make_next(&mut self) -> Command {
        let op = make(&format!("file {}", self.next), Ino(self.first.0 + self.next));
        let first = Seq(self.next);
        self.next += 1;
        Command::Batch { session: self.session, first, ops: vec![op], full: false }
    }

    fn touch_root(&mut self) -> Command {
        let set = SetAttr { perm: Some(0o755), ..SetAttr::default() };
        let body = OpBody::SetAttr { ino: Ino::ROOT, set };
        let op = Op { time: time(2), caller: Caller::default(), body };
        let first = Seq(self.next);
        self.next += 1;
        Command::Batch { session: self.session, first, ops: vec![op], full: false }
    }

    async fn make_file(&mut self) {
        let command = self.make_next();
        self.machine.submit(command).await.unwrap();
    }

    fn begin_checkpoint(&self) -> JoinHandle<()> {
        let machine = self.machine.clone();
        let thread = std::thread::spawn(move || machine.checkpoint());
        while !self.machine.inner.shared.core.lock().view.as_ref().unwrap().is_frozen() {
            std::thread::yield_now();
        }
        thread
    }
}

fn files(machine: &Machine) -> u64 {
    machine.read(|snapshot| Ok(snapshot.inode(Ino::ROOT)?.unwrap().entries)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_checkpoint_and_a_crash_within_it_loses_nothing() {
    let mut slow = Slow::start(1 << 20).await;
    slow.make_file().await;
    slow.disk.hold_syncs(TABLES);
    let thread = slow.begin_checkpoint();
    for _ in 0..50 {
        slow.make_file().await;
    }
    assert_eq!(files(&slow.machine), 51);
    assert_eq!(slow.machine.check().unwrap(), Vec::<String>::new());
    let before = slow.machine.progress();
    assert!(before.checkpoint < before.applied);
    slow.disk.release_syncs();
    thread.join().unwrap();
    assert!(slow.machine.progress().checkpoint > before.checkpoint, "it came to its end");
    assert_eq!(files(&slow.machine), 51);

    // The next one does not.
    slow.disk.hold_syncs(TABLES);
    let thread = slow.begin_checkpoint();
    slow.make_file().await;
    let killed = slow.disk.kill();
    slow.disk.release_syncs();
    thread.join().unwrap();
    drop(slow);
    let birth = Birth { cluster: ClusterId(2), time: time(9) };
    let again = Machine::open_on(Arc::new(killed), None, small(), &birth).unwrap();
    assert_eq!(files(&again), 52);
    assert_eq!(again.check().unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fills_the_memory_waits_for_the_checkpoint() {
    let checkpoint_bytes = 32 << 10;
    let mut slow = Slow::start(checkpoint_bytes).await;
    slow.disk.hold_syncs(TABLES);
    let mut answered = 0;
    let waiting = loop {
        let (machine, command) = (slow.machine.clone(), slow.make_next());
        let mut call = tokio::spawn(async move { machine.submit(command).await });
        match tokio::time::timeout(Duration::from_secs(2), &mut call).await {
            Ok(done) => done.unwrap().map(|_| answered += 1).unwrap(),
            Err(_waits) => break call,
        }
        assert!(answered < 10_000, "memory is not bounded");
    };
    let rows = slow.machine.inner.shared.core.lock().view.as_ref().unwrap().active_bytes() as u64;
    assert!((4 * checkpoint_bytes..5 * checkpoint_bytes).contains(&rows), "{rows} bytes of rows wait");
    assert_eq!(files(&slow.machine), answered, "readers do not wait");
    slow.disk.release_syncs();
    waiting.await.unwrap().unwrap();
    assert_eq!(files(&slow.machine), answered + 1);
    slow.machine.shutdown().await.unwrap();
}

/// Found by review: one row that changes again and again takes no memory, but log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fills_the_log_waits_for_the_checkpoint() {
    let checkpoint_bytes = 32 << 10;
    let mut slow = Slow::start(checkpoint_bytes).await;
    slow.disk.hold_syncs(TABLES);
    slow.make_file().await;
    let thread = slow.begin_checkpoint();
    let (mut answered, before) = (0_u64, slow.machine.progress().applied);
    let waiting = loop {
        let command = slow.touch_root();
        let bytes = command.encode().unwrap().len() as u64;
        let machine = slow.machine.clone();
        let mut call = tokio::spawn(async move { machine.submit(command).await });
        match tokio::time::timeout(Duration::from_secs(2), &mut call).await {
            Ok(done) => done.unwrap().map(|_| answered += 1).unwrap(),
            Err(_waits) => break call,
        }
        assert!(answered * bytes < 16 * checkpoint_bytes, "the log is not bounded");
    };
    assert_eq!(slow.machine.progress().applied.0, before.0 + answered);
    slow.disk.release_syncs();
    waiting.await.unwrap().unwrap();
    thread.join().unwrap();
    slow.machine.shutdown().await.unwrap();
    slow.machine.shutdown().await.expect("it is closed in good order already");
}
