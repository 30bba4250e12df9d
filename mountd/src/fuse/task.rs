//! Requests that can't be answered on the FUSE thread run as tokio tasks. What happens to a task whose
//! process is being killed depends on what it does: see [`super::ops`].

use super::gate::{ReplyGate, Stamp, Timed};
use super::interrupt::Interrupt;
use super::ops::{AttrReply, Created, Entry, Fh, FuseOps, Opened};
use super::reply::Answer;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

/// A request that runs as a task, apart from what it asks for and how it is answered.
pub struct Task {
    pub gate: Arc<ReplyGate>,
    pub begun: Stamp,
    pub interrupt: Interrupt,
}

/// Runs a query: dropped when its process is being killed, or has waited long enough.
pub async fn query<O: FuseOps, T: Timed, R: Answer<T>>(
    task: Task,
    ops: Arc<O>,
    future: impl Future<Output = FsResult<T>>,
    reply: R,
) {
    let result = tokio::select! {
        biased;
        result = future => result,
        error = let_go(&task, &*ops, Begin::WhenReachable) => Err(error),
    };
    task.gate.send(task.begun, reply, result);
}

/// Why a process need not wait any longer, as soon as that is so.
async fn let_go<O: FuseOps>(task: &Task, ops: &O, begin: Begin) -> FsError {
    tokio::select! {
        () = task.interrupt.killed() => FsError::Interrupted,
        () = task.interrupt.left(), if begin == Begin::Now => FsError::Interrupted,
        () = ops.given_up() => FsError::TimedOut,
    }
}

/// When a change is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// As soon as it can be carried out. It is not, if its process does not wait so long.
    WhenReachable,
    /// Now: it gives something back, which nobody would do later.
    Now,
}

/// Runs a change. Once it is begun, and its process need not wait any longer, the process is let go, and the change
/// runs to its end. What it then returns is given back.
pub async fn change<O: FuseOps, T: Unwanted, R: Answer<T>>(
    task: Task,
    ops: Arc<O>,
    future: impl Future<Output = FsResult<T>>,
    reply: R,
    target: Target,
    begin: Begin,
) {
    if begin == Begin::WhenReachable {
        let reachable = tokio::select! {
            biased;
            reachable = ops.reachable() => reachable,
            () = task.interrupt.killed() => Err(FsError::Interrupted),
        };
        if let Err(error) = reachable {
            return reply.answer(Err(error));
        }
    }
    let mut future = pin!(future);
    let error = tokio::select! {
        biased;
        result = &mut future => return task.gate.send(task.begun, reply, result),
        error = let_go(&task, &*ops, begin) => error,
    };
    reply.answer(Err(error));
    drop(task);
    if let Ok(value) = future.await {
        value.give_back(ops, target).await;
    }
}

/// What a change opens, for giving it back.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub ino: Ino,
    pub dir: bool,
    pub flags: i32,
}

impl Target {
    /// For changes that return neither a lookup nor a handle.
    pub const NONE: Target = Target { ino: Ino(0), dir: false, flags: 0 };
}

/// A result that nobody waits for any more.
pub trait Unwanted: Timed + Send + 'static {
    /// Undoes what the result entitles the kernel to: lookups and open handles.
    fn give_back<O: FuseOps>(self, ops: Arc<O>, target: Target) -> impl Future<Output = ()> + Send;
}

macro_rules! nothing_to_give_back {
    ($($value:ty),*) => {
        $(impl Unwanted for $value {
            async fn give_back<O: FuseOps>(self, _ops: Arc<O>, _target: Target) {}
        })*
    };
}

nothing_to_give_back!((), u32, u64, AttrReply);

impl Unwanted for Entry {
    async fn give_back<O: FuseOps>(self, ops: Arc<O>, _target: Target) {
        ops.forget(self.attr.ino, 1);
    }
}

impl Unwanted for Opened {
    async fn give_back<O: FuseOps>(self, ops: Arc<O>, target: Target) {
        // Nobody is there to be told of an error.
        let _ended = if target.dir {
            ops.releasedir(target.ino, self.fh, target.flags).await
        } else {
            release(ops, target.ino, self.fh, target.flags).await
        };
    }
}

impl Unwanted for Created {
    async fn give_back<O: FuseOps>(self, ops: Arc<O>, target: Target) {
        let ino = self.entry.attr.ino;
        let _ended = release(Arc::clone(&ops), ino, self.opened.fh, target.flags).await;
        ops.forget(ino, 1);
    }
}

async fn release<O: FuseOps>(ops: Arc<O>, ino: Ino, fh: Fh, flags: i32) -> FsResult<()> {
    ops.release(ino, fh, flags, None).await
}
