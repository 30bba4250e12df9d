//! Locks across mounts: the server holds them; a waiter here tries again when it is told of a release.

use super::Vfs;
use crate::client::{DataClient, MetaClient};
use crate::fuse::interrupt::Interrupt;
use crate::fuse::ops::LockInfo;
use cairn_common::attr::Caller;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{LockFamily, LockRequest, LockType, OpBody};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A waiter tries again after this long, should the word of a release have been lost.
const RETRY: Duration = Duration::from_secs(1);

/// Who waits for a lock, by file.
#[derive(Debug, Default)]
pub struct LockWaiters {
    files: Mutex<HashMap<Ino, Arc<Notify>>>,
}

impl LockWaiters {
    fn join(&self, ino: Ino) -> Arc<Notify> {
        Arc::clone(self.files.lock().entry(ino).or_default())
    }

    /// Forgets the file if `own` was the last waiter's.
    fn leave(&self, ino: Ino, own: Arc<Notify>) {
        let mut files = self.files.lock();
        drop(own);
        if files.get(&ino).is_some_and(|notify| Arc::strong_count(notify) == 1) {
            files.remove(&ino);
        }
    }

    /// A lock on `ino` was released.
    pub fn wake(&self, ino: Ino) {
        if let Some(notify) = self.files.lock().get(&ino) {
            notify.notify_waiters();
        }
    }
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    pub(super) async fn test_lock(&self, ino: Ino, lock: LockRequest) -> FsResult<Option<LockInfo>> {
        let held = self.meta.test_lock(ino, lock).await?;
        let ours = self.meta.session();
        Ok(held.map(|held| LockInfo {
            write: held.write,
            start: held.start,
            end: held.end,
            pid: if held.session == ours { held.pid } else { 0 },
        }))
    }

    pub(super) async fn set_lock(
        &self,
        caller: &Caller,
        ino: Ino,
        lock: LockRequest,
        wait: bool,
        interrupt: &Interrupt,
    ) -> FsResult<()> {
        let mut known = false;
        if lock.kind != LockType::Unlock
            && let Some(inode) = self.inodes.get(ino)
        {
            known = !inode.lock().lock_owners.insert(lock.owner);
        }
        match self.try_lock(caller, ino, lock).await {
            Err(FsError::WouldBlock) if known && lock.owner.family == LockFamily::Flock => {
                // As Linux does: a `flock` that changes its kind is given up first, also if the new one cannot be
                // had. Else two holders that both want to become exclusive would wait for each other.
                self.try_lock(caller, ino, LockRequest { kind: LockType::Unlock, ..lock }).await?;
            }
            Err(FsError::WouldBlock) => {}
            other => return other,
        }
        if !wait {
            return Err(FsError::WouldBlock);
        }
        let notify = self.lock_waiters.join(ino);
        let result = self.wait_for_lock(caller, ino, lock, &notify, interrupt).await;
        self.lock_waiters.leave(ino, notify);
        result
    }

    async fn try_lock(&self, caller: &Caller, ino: Ino, lock: LockRequest) -> FsResult<()> {
        self.meta.submit(caller, OpBody::Lock { ino, lock }).await.map(|_done| ())
    }

    async fn wait_for_lock(
        &self,
        caller: &Caller,
        ino: Ino,
        lock: LockRequest,
        notify: &Notify,
        interrupt: &Interrupt,
    ) -> FsResult<()> {
        loop {
            // Listening begins before the try: a release between the two is not missed.
            let mut released = std::pin::pin!(notify.notified());
            released.as_mut().enable();
            match self.try_lock(caller, ino, lock).await {
                Err(FsError::WouldBlock) => {}
                other => return other,
            }
            tokio::select! {
                () = released => {}
                () = tokio::time::sleep(RETRY) => {}
                () = interrupt.signalled() => return Err(FsError::Interrupted),
                () = self.cancel.cancelled() => return Err(FsError::Interrupted),
            }
        }
    }
}
