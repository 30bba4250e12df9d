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

/// Runs a query: dropped when its process is being killed.
pub async fn query<T: Timed, R: Answer<T>>(task: Task, future: impl Future<Output = FsResult<T>>, reply: R) {
    let result = tokio::select! {
        biased;
        result = future => result,
        () = task.interrupt.killed() => Err(FsError::Interrupted),
    };
    task.gate.send(task.begun, reply, result);
}

/// Runs a change: when its process is being killed, the process is let go, and the change runs to its
/// end. What it then returns is given back.
pub async fn change<O: FuseOps, T: Unwanted, R: Answer<T>>(
    task: Task,
    ops: Arc<O>,
    future: impl Future<Output = FsResult<T>>,
    reply: R,
    target: Target,
) {
    let mut future = pin!(future);
    tokio::select! {
        biased;
        result = &mut future => return task.gate.send(task.begun, reply, result),
        () = task.interrupt.killed() => reply.answer(Err(FsError::Interrupted)),
    }
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
