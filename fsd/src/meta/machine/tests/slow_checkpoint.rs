//! A checkpoint whose disk takes its time: nobody waits for it until memory is full, and a crash in the
//! middle of it loses nothing.

use super::*;
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, DiskFile, Mapping, Space};
use parking_lot::Condvar;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// Holds syncs up while it is closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set_closed(&self, closed: bool) {
        *self.closed.lock() = closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.closed.lock();
        self.opened.wait_while(&mut closed, |closed| *closed);
    }
}

/// Syncs of `tables` go through a gate.
struct SlowDisk {
    inner: SimDisk,
    gate: Arc<Gate>,
}

struct SlowFile {
    inner: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for SlowDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(name)?;
        Ok(if name == "tables" { Arc::new(SlowFile { inner, gate: self.gate.clone() }) } else { inner })
    }
    fn map(&self, name: &str) -> io::Result<Mapping> {
        self.inner.map(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.inner.sync_dir()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

impl DiskFile for SlowFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn read_cached(&self, buf: &mut [u8], offset: u64) -> Option<usize> {
        self.inner.read_cached(buf, offset)
    }
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.inner.write_at(bufs, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.inner.sync_data()
    }
    fn forget_cache(&self) -> io::Result<()> {
        self.inner.forget_cache()
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
}

/// A machine whose checkpoints wait for a gate, a session of it, and numbers for inodes.
struct Slow {
    disk: SimDisk,
    gate: Arc<Gate>,
    machine: Machine,
    session: SessionId,
    next: u64,
    first: Ino,
}

impl Slow {
    async fn start(checkpoint_bytes: u64) -> Slow {
        let (disk, gate) = (SimDisk::new(), Arc::<Gate>::default());
        let slow = Arc::new(SlowDisk { inner: disk.clone(), gate: gate.clone() });
        let birth = Birth { cluster: ClusterId(1), time: time(1) };
        let config = MachineConfig { checkpoint_bytes, ..small() };
        let machine = Machine::open_on(slow, None, config, &birth).unwrap();
        let session = open_session(&machine).await;
        let Reply::Inos(range) = machine.submit(Command::AllocateInos { session }).await.unwrap().reply
        else {
            panic!("no numbers")
        };
        Slow { disk, gate, machine, session, next: 1, first: range.first }
    }

    fn make_next(&mut self) -> Command {
        let op = make(&format!("file {}", self.next), Ino(self.first.0 + self.next));
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
    slow.gate.set_closed(true);
    let thread = slow.begin_checkpoint();
    for _ in 0..50 {
        slow.make_file().await;
    }
    assert_eq!(files(&slow.machine), 51);
    assert_eq!(slow.machine.check().unwrap(), Vec::<String>::new());
    let before = slow.machine.progress();
    assert!(before.checkpoint < before.applied);
    slow.gate.set_closed(false);
    thread.join().unwrap();
    assert!(slow.machine.progress().checkpoint > before.checkpoint, "it came to its end");
    assert_eq!(files(&slow.machine), 51);

    // The next one does not.
    slow.gate.set_closed(true);
    let thread = slow.begin_checkpoint();
    slow.make_file().await;
    let killed = slow.disk.kill();
    slow.gate.set_closed(false);
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
    slow.gate.set_closed(true);
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
    slow.gate.set_closed(false);
    waiting.await.unwrap().unwrap();
    assert_eq!(files(&slow.machine), answered + 1);
    slow.machine.shutdown().await.unwrap();
}
