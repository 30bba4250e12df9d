//! Inodes that are open or dirty here, and what this mount knows of each. Others are not in the table:
//! the kernel's inode number is the server's, so a lookup leaves nothing to remember.

use super::file_locks::FileLocks;
use crate::cache::extent::ExtentCache;
use crate::writeback::dirty::DirtyMap;
use cairn_common::attr::{Attr, Timestamp};
use cairn_common::error::FsError;
use cairn_common::ids::{Ino, Seq};
use cairn_common::namespace::op::Name;
use cairn_common::proto::meta::{CloseItem, DataLease, OpenState};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 16;

/// An inode that is open or dirty.
#[derive(Debug)]
pub struct Inode {
    pub ino: Ino,
    // Order of locks: `Vfs::order`, a shard of the table, this, the write buffer. Never held over I/O.
    state: Mutex<State>,
}

/// What is known of an inode.
#[derive(Debug, Default)]
pub struct State {
    /// Open handles here, and those of them that may write.
    pub handles: u32,
    pub writers: u32,
    /// Opens that the server counts for us.
    pub registered: Registered,
    /// Opens under way: the entry stays.
    pub opening: u32,
    pub lease: Option<DataLease>,
    /// The last recall of this file's lease: an older answer to `open` is void.
    pub recalled: u64,
    /// As the server has it after operation `attr_seq`, with `Cached` lease only.
    pub attr: Option<Attr>,
    pub attr_seq: Seq,
    /// `Vfs::attr_epoch` when `attr` was learnt.
    pub attr_epoch: u64,
    /// `Vfs::attr_epoch` when it was certain that the file has no `security.capability`.
    pub no_capability: Option<u64>,
    /// Counts beginnings and ends of `setxattr` by this mount while the file is in the table.
    pub xattr_changes: u64,
    /// Grows whenever something about the file changes here: an answer asked for before does not count.
    pub stamp: u64,
    /// Size with everything that was written or submitted; valid with `attr`.
    pub size: u64,
    pub dirty: DirtyMap,
    /// Time of the last write that is not committed, unless `utimensat` came after it.
    pub write_time: Option<Timestamp>,
    /// Uncommitted writes clear setuid and setgid.
    pub kill_suidgid: bool,
    pub extents: ExtentCache,
    /// Operations on the file's data that have not been answered.
    pub pending: u32,
    pub error: StoredError,
    /// The name under which it was made here, for the log: it may be renamed since.
    pub name: Option<Name>,
    /// No names left: dirty data need not be stored once nobody has it open.
    pub unlinked: bool,
    pub locks: FileLocks,
    /// Bytes of a shared file that went into the metadata since it was opened.
    pub inline_bytes: u64,
}

/// Opens that the server counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    pub opens: u32,
    pub writers: u32,
}

/// An error of a background flush. Each open handle is told once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredError {
    /// How many there were.
    pub count: u64,
    pub last: Option<FsError>,
}

impl State {
    /// Whether this mount may cache the file's data.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.lease == Some(DataLease::Cached)
    }

    /// Nothing keeps the inode here.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.handles == 0 && self.opening == 0 && self.pending == 0 && self.dirty.is_empty()
    }

    /// Whether something is on its way that the server does not have. Bytes that are only to be moved change nothing.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.pending > 0 || self.dirty.has_unstored()
    }

    /// Takes in attributes that operation `seq` replied.
    pub fn learn_attr(&mut self, attr: Attr, seq: Seq, epoch: u64) {
        self.stamp += 1;
        self.settle_times();
        if !self.is_cached() || seq < self.attr_seq {
            return;
        }
        self.attr = Some(attr);
        self.attr_seq = seq;
        self.attr_epoch = epoch;
        self.settle_size();
    }

    /// With nothing under way, the server's size is the size.
    pub fn settle_size(&mut self) {
        self.settle_times();
        if self.is_busy() {
            return;
        }
        if let Some(attr) = self.attr {
            self.size = attr.size;
            if self.extents.allocated().is_some_and(|bytes| bytes != attr.allocated) {
                // What was foreseen here is not what the server did: start again from its answer.
                self.extents.clear();
            }
        }
    }

    /// With nothing under way, what writes did to times and mode bits is in the server's attributes. Also
    /// for a file that is shared: what is kept here would hide what others do to it.
    pub fn settle_times(&mut self) {
        if !self.is_busy() {
            self.write_time = None;
            self.kill_suidgid = false;
        }
    }

    /// The data is not ours to cache any more.
    pub fn drop_cached(&mut self) {
        self.attr = None;
        self.extents.clear();
        self.stamp += 1;
    }

    /// `attr` of the server as a program must see it: with what was written here and not committed.
    #[must_use]
    pub fn view(&self, mut attr: Attr) -> Attr {
        if self.is_cached() && self.attr.is_some() {
            if self.is_busy() {
                attr.size = self.size;
            }
            if let Some(bytes) = self.extents.allocated() {
                let dirty: u64 =
                    self.dirty.unstored().map(|d| self.extents.uncovered(d.offset, d.end())).sum();
                attr.allocated = bytes + dirty;
            }
        } else {
            attr.size = attr.size.max(self.dirty.end());
        }
        if let Some(time) = self.write_time {
            attr.mtime = time;
            attr.ctime = attr.ctime.max(time);
        }
        if self.kill_suidgid {
            attr.perm = without_suidgid(attr.perm);
        }
        attr
    }

    /// What the server is to be told when nobody here has the file open any more.
    pub fn take_close(&mut self, ino: Ino) -> Option<CloseItem> {
        let Registered { opens, writers } = std::mem::take(&mut self.registered);
        (opens > 0).then_some(CloseItem { ino, opens, writers })
    }
}

/// Mode bits after a write by an unprivileged user: setgid without group execution means mandatory locking, and stays.
#[must_use]
pub fn without_suidgid(perm: u16) -> u16 {
    let kept = perm & !0o4000;
    if kept & 0o010 != 0 { kept & !0o2000 } else { kept }
}

impl Inode {
    /// Locks the state; see the field for the order.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The inodes that are open or dirty.
#[derive(Debug)]
pub struct InodeTable {
    shards: Vec<Mutex<HashMap<Ino, Arc<Inode>>>>,
    len: AtomicUsize,
}

impl Default for InodeTable {
    fn default() -> InodeTable {
        InodeTable { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), len: AtomicUsize::new(0) }
    }
}

impl InodeTable {
    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Arc<Inode>>> {
        let index = usize::try_from(ino.0 % SHARDS as u64).expect("less than the number of shards");
        &self.shards[index]
    }

    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.shard(ino).lock().get(&ino).cloned()
    }

    /// The entry of `ino`, made if it is not there; `prepare` makes sure that it stays.
    pub fn hold<R>(&self, ino: Ino, prepare: impl FnOnce(&mut State) -> R) -> (Arc<Inode>, R) {
        let mut shard = self.shard(ino).lock();
        let entry = shard.entry(ino).or_insert_with(|| {
            self.len.fetch_add(1, Ordering::Relaxed);
            Arc::new(Inode { ino, state: Mutex::new(State::default()) })
        });
        let result = prepare(&mut entry.lock());
        (Arc::clone(entry), result)
    }

    /// Removes `ino` if nothing keeps it; what is then to be told the server.
    pub fn retire(&self, ino: Ino) -> Option<(CloseItem, Option<Attr>)> {
        let mut shard = self.shard(ino).lock();
        let inode = shard.get(&ino)?;
        let mut state = inode.lock();
        if !state.is_idle() {
            return None;
        }
        let told = state.take_close(ino);
        let attr = state.attr.filter(|_| state.is_cached());
        drop(state);
        shard.remove(&ino);
        self.len.fetch_sub(1, Ordering::Relaxed);
        told.map(|item| (item, attr))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// All entries.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Inode>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// Everything that the server should count as open.
    #[must_use]
    pub fn open_states(&self) -> Vec<OpenState> {
        let state_of = |inode: &Arc<Inode>| {
            let Registered { opens, writers } = inode.lock().registered;
            (opens > 0).then_some(OpenState { ino: inode.ino, opens, writers })
        };
        self.all().iter().filter_map(state_of).collect()
    }
}
