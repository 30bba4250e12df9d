//! Dirty data of files without names. Most temporary files are gone before they are stored, and never need to be.
//! But the kernel opens files by number, and may have looked the name up just before it was removed or
//! replaced: so the data stays for a moment. Who comes later still is told that the file is gone, and
//! never finds it empty.

use super::Vfs;
use super::inode::State;
use crate::client::{DataClient, MetaClient};
use cairn_common::ids::Ino;
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Longer than the kernel needs from a lookup to the open that it was for.
const GRACE: Duration = Duration::from_millis(250);
/// Discarded files remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16 << 10).expect("not zero");

/// See the module.
#[derive(Debug)]
pub struct Unlinked {
    // Both are taken after an inode's lock, for a few instructions. The queue has one entry per close or
    // unlink of a file with dirty data.
    queue: Mutex<VecDeque<(Instant, Ino)>>,
    discarded: Mutex<LruCache<Ino, ()>>,
    added: Notify,
}

impl Default for Unlinked {
    fn default() -> Unlinked {
        Unlinked {
            queue: Mutex::default(),
            discarded: Mutex::new(LruCache::new(REMEMBERED)),
            added: Notify::new(),
        }
    }
}

impl Unlinked {
    /// Whether data of `ino` was thrown away.
    pub fn was_discarded(&self, ino: Ino) -> bool {
        self.discarded.lock().contains(&ino)
    }

    fn due(&self) -> Option<Instant> {
        self.queue.lock().front().map(|(due, _)| *due)
    }

    fn pop(&self) -> Option<Ino> {
        self.queue.lock().pop_front().map(|(_, ino)| ino)
    }
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// If nobody can reach `ino` any more, its dirty data is thrown away soon.
    pub(super) fn discard_later(&self, ino: Ino, state: &MutexGuard<'_, State>) {
        if state.unlinked && state.handles == 0 && !state.dirty.is_empty() {
            self.unlinked.queue.lock().push_back((Instant::now() + GRACE, ino));
            self.unlinked.added.notify_one();
        }
    }

    fn discard(&self, ino: Ino) {
        let Some(inode) = self.inodes.get(ino) else { return };
        let mut state = inode.lock();
        if !state.unlinked || state.handles > 0 || state.opening > 0 || state.dirty.is_empty() {
            return;
        }
        self.unlinked.discarded.lock().put(ino, ());
        self.free_dirty(&mut state, 0, u64::MAX);
        drop(state);
        self.retire(ino);
    }

    /// Throws away what is waiting for it: nobody opens anything any more.
    pub(super) fn discard_all(&self) {
        while let Some(ino) = self.unlinked.pop() {
            self.discard(ino);
        }
    }
}

/// Throws data away when its time has come.
pub(super) async fn discard_old<M: MetaClient, D: DataClient>(vfs: Arc<Vfs<M, D>>) {
    loop {
        match vfs.unlinked.due() {
            None => vfs.unlinked.added.notified().await,
            Some(due) if Instant::now() < due => tokio::time::sleep_until(due.into()).await,
            Some(_) => {
                if let Some(ino) = vfs.unlinked.pop() {
                    vfs.discard(ino);
                }
            }
        }
    }
}
