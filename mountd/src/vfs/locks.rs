//! Locks on files: asks who decides ([`FileLocks`]) and does what that takes. A waiter tries again when it
//! is told of a release.

use super::file_locks::{Decision, FileLocks, Released};
use super::inode::{Inode, State};
use super::{Vfs, flush};
use crate::client::{DataClient, MetaClient, OpTicket};
use crate::fuse::interrupt::Interrupt;
use crate::fuse::ops::LockInfo;
use cairn_common::attr::Caller;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, SessionId};
use cairn_common::namespace::op::{LockFamily, LockOwner, LockRequest, LockType, OpBody};
use futures::FutureExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// A waiter tries again after this long, should the word of a release have been lost.
const RETRY: Duration = Duration::from_secs(1);

/// Pause before the server is told again of locks that it refused to take over.
const TELL_PAUSE: Duration = Duration::from_millis(100);

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

    /// A lock on `ino` was released, or another place decides about it now.
    pub fn wake(&self, ino: Ino) {
        if let Some(notify) = self.files.lock().get(&ino) {
            notify.notify_waiters();
        }
    }
}

/// What follows from a [`Decision`].
enum Step<T, S> {
    Here(T),
    /// The server was asked: by what was done while the decision could not change.
    Server(S),
    Move(SessionId, Vec<OpTicket>),
    Wait,
}

/// A process that asks for a lock.
#[derive(Clone, Copy)]
struct Asking<'a> {
    caller: &'a Caller,
    inode: &'a Arc<Inode>,
    lock: LockRequest,
    /// Its owner had taken no lock on the file before.
    is_new: bool,
    interrupt: &'a Interrupt,
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    pub(super) async fn test_lock(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        lock: LockRequest,
    ) -> FsResult<Option<LockInfo>> {
        let decided = self.decided(inode, |locks, session, sole| locks.test(session, sole, &lock), || ());
        let held = match decided.await {
            Ok(held) => held?,
            Err(()) => self.meta.test_lock(inode.ino, lock).await?,
        };
        let ours = self.meta.session();
        Ok(held.map(|held| LockInfo {
            write: held.write,
            start: held.start,
            end: held.end,
            pid: if held.session == ours { held.pid } else { 0 },
        }))
    }

    pub(super) async fn set_lock(
        self: &Arc<Self>,
        caller: &Caller,
        inode: &Arc<Inode>,
        lock: LockRequest,
        wait: bool,
        interrupt: &Interrupt,
    ) -> FsResult<()> {
        let asking = Asking { caller, inode, lock, is_new: !inode.lock().locks.knows(lock.owner), interrupt };
        match self.ask_for_lock(&asking).await {
            Err(FsError::WouldBlock) if !asking.is_new && lock.owner.family == LockFamily::Flock => {
                // As Linux does: a `flock` that changes its kind is given up first, also if the new one cannot be
                // had. Else two holders that both want to become exclusive would wait for each other.
                let unlock = LockRequest { kind: LockType::Unlock, ..lock };
                self.ask_for_lock(&Asking { lock: unlock, ..asking }).await?;
            }
            Err(FsError::WouldBlock) => {}
            other => return other,
        }
        if !wait {
            return Err(FsError::WouldBlock);
        }
        let notify = self.lock_waiters.join(inode.ino);
        let result = self.wait_for_lock(&asking, &notify).await;
        self.lock_waiters.leave(inode.ino, notify);
        result
    }

    /// [`Vfs::try_lock`], unless its process need not wait for the server any longer. What was asked for may be
    /// granted later, and nobody would know: so it is given up by what follows it in the operation log. Not if
    /// its owner had locks on the file before, which would go with it; that one gives up both by its next
    /// `unlock` or `close`.
    async fn ask_for_lock(self: &Arc<Self>, asking: &Asking<'_>) -> FsResult<()> {
        let Asking { caller, inode, lock, is_new, interrupt } = *asking;
        let error = tokio::select! {
            biased;
            result = self.try_lock(caller, inode, lock) => return result,
            () = interrupt.killed() => FsError::Interrupted,
            () = self.meta.given_up() => FsError::TimedOut,
        };
        if is_new && lock.kind != LockType::Unlock {
            let unlock = LockRequest { kind: LockType::Unlock, ..lock };
            // Submitted at once if the lock was. The answer says nothing to anyone.
            let _answer = self.try_lock(caller, inode, unlock).now_or_never();
        }
        Err(error)
    }

    /// May be dropped at any `await`: what was submitted stays in the operation log.
    async fn try_lock(
        self: &Arc<Self>,
        caller: &Caller,
        inode: &Arc<Inode>,
        lock: LockRequest,
    ) -> FsResult<()> {
        let decided = self.decided(
            inode,
            |locks, session, sole| locks.set(session, sole, &lock),
            || self.meta.submit(caller, OpBody::Lock { ino: inode.ino, lock }),
        );
        match decided.await {
            Ok(result) => {
                if lock.kind != LockType::Write {
                    self.lock_waiters.wake(inode.ino);
                }
                result
            }
            Err(asked) => asked.await.map(|_done| ()),
        }
    }

    async fn wait_for_lock(self: &Arc<Self>, asking: &Asking<'_>, notify: &Notify) -> FsResult<()> {
        loop {
            // Listening begins before the try: a release between the two is not missed.
            let mut released = std::pin::pin!(notify.notified());
            released.as_mut().enable();
            match self.ask_for_lock(asking).await {
                Err(FsError::WouldBlock) => {}
                other => return other,
            }
            tokio::select! {
                () = released => {}
                () = tokio::time::sleep(RETRY) => {}
                () = asking.interrupt.signalled() => return Err(FsError::Interrupted),
                () = self.cancel.cancelled() => return Err(FsError::Interrupted),
            }
        }
    }

    /// Drops all locks of an owner whose descriptor is closed; the ticket is the server's answer, if it was told.
    pub(super) fn release_locks(
        &self,
        caller: &Caller,
        inode: &Inode,
        state: &mut State,
        owner: LockOwner,
    ) -> Option<OpTicket> {
        let Released { tell_server, wake } = state.locks.release(owner);
        if wake {
            self.lock_waiters.wake(inode.ino);
        }
        tell_server.then(|| self.meta.submit(caller, OpBody::ReleaseLocks { ino: inode.ino, owner }))
    }

    /// Another mount is about to be let in: the server decides about all locks when this returns.
    pub(super) async fn hand_over(self: &Arc<Self>) {
        for inode in self.inodes.all() {
            // Nothing is asked of the server but what a move takes.
            let (Ok(()) | Err(())) =
                self.decided(&inode, |locks, session, _sole| locks.hand_over(session), || ()).await;
        }
    }

    /// The answer of `ask` if this mount decides, what `server` returned if the server does. What has to be
    /// moved before is moved, in a task of its own: who asks may leave at any time.
    async fn decided<T, S>(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        ask: impl Fn(&mut FileLocks, SessionId, bool) -> Decision<T>,
        server: impl Fn() -> S,
    ) -> Result<T, S> {
        loop {
            match self.step(inode, &ask, &server) {
                Step::Here(answer) => return Ok(answer),
                Step::Server(asked) => return Err(asked),
                Step::Move(session, told) => {
                    let (vfs, inode) = (Arc::clone(self), Arc::clone(inode));
                    flush::spawn(self, async move { vfs.tell_server(&inode, session, told).await });
                }
                Step::Wait => self.wait_for_move(inode).await,
            }
        }
    }

    async fn wait_for_move(&self, inode: &Inode) {
        let notify = self.lock_waiters.join(inode.ino);
        {
            let mut moved = std::pin::pin!(notify.notified());
            // Before the look: an end between the two is not missed.
            moved.as_mut().enable();
            if inode.lock().locks.is_moving() {
                // Either way the caller looks again.
                let _end = tokio::time::timeout(RETRY, moved).await;
            }
        }
        self.lock_waiters.leave(inode.ino, notify);
    }

    /// Under the inode's lock as a whole: the operation log has what follows from decisions in their order.
    fn step<T, S>(
        &self,
        inode: &Inode,
        ask: &impl Fn(&mut FileLocks, SessionId, bool) -> Decision<T>,
        server: &impl Fn() -> S,
    ) -> Step<T, S> {
        let mut state = inode.lock();
        let session = self.meta.session();
        match ask(&mut state.locks, session, self.policy.is_sole()) {
            Decision::Here(answer) => Step::Here(answer),
            Decision::Server => Step::Server(server()),
            Decision::Move(locks) => Step::Move(session, self.submit_locks(inode, locks)),
            Decision::Wait => Step::Wait,
        }
    }

    fn submit_locks(&self, inode: &Inode, locks: Vec<LockRequest>) -> Vec<OpTicket> {
        let caller = Caller::default();
        let submit = |lock| self.meta.submit(&caller, OpBody::Lock { ino: inode.ino, lock });
        locks.into_iter().map(submit).collect()
    }

    /// Waits until the server has taken all locks over. What it refuses (its disk is full, say) is told again:
    /// a lock that a program holds cannot be taken from it. If it goes on refusing, it ends the session, and the
    /// locks with it.
    async fn tell_server(&self, inode: &Inode, session: SessionId, mut told: Vec<OpTicket>) {
        let mut said = false;
        loop {
            let mut refused = None;
            for answer in told {
                refused = answer.await.err().or(refused);
            }
            let Some(error) = refused.filter(|error| *error != FsError::Evicted) else { break };
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(ino = %inode.ino, %error, "the metadata daemon does not take a lock over; trying again");
            }
            tokio::time::sleep(TELL_PAUSE).await;
            let state = inode.lock();
            let locks = state.locks.to_move(session);
            if locks.is_empty() {
                break;
            }
            told = self.submit_locks(inode, locks);
        }
        inode.lock().locks.moved(session);
        self.lock_waiters.wake(inode.ino);
    }
}
