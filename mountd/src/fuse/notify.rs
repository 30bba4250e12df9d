//! Taking back what the kernel caches.
//!
//! A notification can block: while the kernel holds a directory's lock for a request of ours,
//! `inval_entry` in that directory waits for our answer, un-killably; while a READ is in our hands, so does an
//! invalidation of its pages. Therefore:
//! - notifications are sent from [`NotifyThreads`] only, never from a FUSE thread or a tokio worker;
//! - no answer to a request may wait for a notification to be done;
//! - whoever sends one holds no lock that the handler of a request takes.

use cairn_common::ids::Ino;
use cairn_common::namespace::op::Name;
use crossbeam_channel::{Receiver, Sender};
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Threads that send notifications which may block: one that is held up by a request must not delay all
/// others. What never blocks has a thread of its own: it must come through even when all of these are held up by
/// requests that wait for a server.
const THREADS: usize = 4;
/// Notifications that wait for a thread; more senders wait themselves.
const QUEUED_MAX: usize = 1024;

/// What the kernel can be told. All of these may block: see the module.
pub trait KernelNotify: Send + Sync + 'static {
    /// Drops attributes and, from `offset` on, cached pages: `length` bytes, 0 for all. With offset -1
    /// attributes only. An inode that the kernel does not know is no error.
    fn inval_inode(&self, ino: Ino, offset: i64, length: i64) -> io::Result<()>;
    /// Drops a name, positive or negative. With `expire_only` it is asked for again at its next use,
    /// while the inode, its pages and mounts below stay.
    fn inval_entry(&self, parent: Ino, name: &[u8], expire_only: bool) -> io::Result<()>;
    /// Drops all names at once, without blocking. `InvalidInput` before Linux 6.16.
    fn epoch(&self) -> io::Result<()>;
}

/// The kernel, through the FUSE device.
#[derive(Clone, Debug)]
pub struct FuseNotifier(pub(super) Notifier);

impl KernelNotify for FuseNotifier {
    fn inval_inode(&self, ino: Ino, offset: i64, length: i64) -> io::Result<()> {
        self.0.inval_inode(INodeNo(ino.0), offset, length)
    }

    fn inval_entry(&self, parent: Ino, name: &[u8], expire_only: bool) -> io::Result<()> {
        let name = OsStr::from_bytes(name);
        if expire_only {
            self.0.expire_entry(INodeNo(parent.0), name)
        } else {
            self.0.inval_entry(INodeNo(parent.0), name)
        }
    }

    fn epoch(&self) -> io::Result<()> {
        self.0.inc_epoch()
    }
}

/// No kernel: for tests of what is above.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoKernel;

impl KernelNotify for NoKernel {
    fn inval_inode(&self, _ino: Ino, _offset: i64, _length: i64) -> io::Result<()> {
        Ok(())
    }

    fn inval_entry(&self, _parent: Ino, _name: &[u8], _expire_only: bool) -> io::Result<()> {
        Ok(())
    }

    fn epoch(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    InvalInode { ino: Ino, offset: i64, length: i64 },
    InvalEntry { parent: Ino, name: Name, expire_only: bool },
    Epoch,
}

impl Notice {
    /// Whether the kernel carries it out at once, whatever requests are in our hands.
    fn never_blocks(&self) -> bool {
        matches!(self, Notice::Epoch | Notice::InvalInode { offset: ..0, .. })
    }
}

struct Job {
    notice: Notice,
    done: oneshot::Sender<io::Result<()>>,
    _room: OwnedSemaphorePermit,
}

/// The threads that send notifications. They end when this is dropped and the queue is empty.
#[derive(Debug)]
pub struct NotifyThreads {
    queue: Queue,
    quick: Queue,
}

#[derive(Debug)]
struct Queue {
    jobs: Sender<Job>,
    // Bounds the queue. An async wait for room, where the channel's own would block a worker.
    room: Arc<Semaphore>,
}

impl Queue {
    fn start(kernel: &Arc<dyn KernelNotify>, name: &str, threads: usize) -> io::Result<Queue> {
        let (jobs, work_off) = crossbeam_channel::bounded(QUEUED_MAX);
        for index in 0..threads {
            let (kernel, jobs) = (Arc::clone(kernel), work_off.clone());
            std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(&*kernel, &jobs))?;
        }
        Ok(Queue { jobs, room: Arc::new(Semaphore::new(QUEUED_MAX)) })
    }

    /// Does not block: who has the permit has room.
    fn push(
        &self,
        notice: Notice,
        room: OwnedSemaphorePermit,
    ) -> io::Result<oneshot::Receiver<io::Result<()>>> {
        let (done, wait) = oneshot::channel();
        self.jobs.send(Job { notice, done, _room: room }).map_err(|_disconnected| gone())?;
        Ok(wait)
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "notification threads have ended")
}

impl NotifyThreads {
    /// Starts the threads.
    pub fn start(kernel: Arc<dyn KernelNotify>) -> io::Result<NotifyThreads> {
        Ok(NotifyThreads {
            queue: Queue::start(&kernel, "fuse-notify", THREADS)?,
            quick: Queue::start(&kernel, "fuse-notify-quick", 1)?,
        })
    }

    fn queue_of(&self, notice: &Notice) -> &Queue {
        if notice.never_blocks() { &self.quick } else { &self.queue }
    }

    /// Sends a notification and waits until the kernel has carried it out. Dropping the future does
    /// not take it back. Two that are under way at a time may be carried out in any order.
    pub async fn send(&self, notice: Notice) -> io::Result<()> {
        let queue = self.queue_of(&notice);
        let room = Arc::clone(&queue.room).acquire_owned().await.map_err(|_closed| gone())?;
        queue.push(notice, room)?.await.map_err(|_dropped| gone())?
    }

    /// Sends a notification without waiting for anything; false if there is no room for it now.
    pub fn post(&self, notice: Notice) -> bool {
        let queue = self.queue_of(&notice);
        match Arc::clone(&queue.room).try_acquire_owned() {
            Ok(room) => queue.push(notice, room).is_ok(),
            Err(_full) => false,
        }
    }
}

fn work(kernel: &dyn KernelNotify, jobs: &Receiver<Job>) {
    for Job { notice, done, _room } in jobs {
        let result = match notice {
            Notice::InvalInode { ino, offset, length } => kernel.inval_inode(ino, offset, length),
            Notice::InvalEntry { parent, name, expire_only } => {
                kernel.inval_entry(parent, &name, expire_only)
            }
            Notice::Epoch => kernel.epoch(),
        };
        // Nobody may wait for the result any more.
        let _unsent = done.send(result);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    /// Blocks each `inval_entry` until it is released, as the kernel does.
    #[derive(Default)]
    struct Stuck {
        released: Mutex<bool>,
        change: Condvar,
    }

    impl KernelNotify for Stuck {
        fn inval_inode(&self, _: Ino, _: i64, _: i64) -> io::Result<()> {
            Ok(())
        }
        fn inval_entry(&self, _: Ino, _: &[u8], _: bool) -> io::Result<()> {
            let guard = self.released.lock().unwrap();
            drop(self.change.wait_while(guard, |released| !*released).unwrap());
            Ok(())
        }
        fn epoch(&self) -> io::Result<()> {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    #[tokio::test]
    async fn what_never_blocks_comes_through_when_all_others_are_held_up() {
        let kernel = Arc::new(Stuck::default());
        let threads = Arc::new(NotifyThreads::start(kernel.clone()).unwrap());
        for name in [b"a", b"b", b"c", b"d", b"e"] {
            let name = Name::from_static(name);
            assert!(threads.post(Notice::InvalEntry { parent: Ino(1), name, expire_only: true }));
        }
        let limit = Duration::from_secs(10);
        let attributes = Notice::InvalInode { ino: Ino(2), offset: -1, length: 0 };
        tokio::time::timeout(limit, threads.send(attributes)).await.unwrap().unwrap();
        assert!(tokio::time::timeout(limit, threads.send(Notice::Epoch)).await.unwrap().is_err());
        *kernel.released.lock().unwrap() = true;
        kernel.change.notify_all();
    }

    #[tokio::test]
    async fn one_that_blocks_does_not_hold_up_others() {
        let kernel = Arc::new(Stuck::default());
        let threads = Arc::new(NotifyThreads::start(kernel.clone()).unwrap());
        let entry = Notice::InvalEntry { parent: Ino(1), name: Name::from_static(b"a"), expire_only: true };
        let blocked = tokio::spawn({
            let threads = Arc::clone(&threads);
            async move { threads.send(entry).await }
        });
        let limit = Duration::from_secs(10);
        let inode = Notice::InvalInode { ino: Ino(2), offset: -1, length: 0 };
        tokio::time::timeout(limit, threads.send(inode)).await.unwrap().unwrap();
        assert_eq!(threads.send(Notice::Epoch).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(!blocked.is_finished());
        *kernel.released.lock().unwrap() = true;
        kernel.change.notify_all();
        tokio::time::timeout(limit, blocked).await.unwrap().unwrap().unwrap();
    }
}
