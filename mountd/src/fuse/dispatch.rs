//! Where a request is answered: in place on the FUSE thread if the file system can, else by a tokio task.

use super::convert::{caller, ino};
use super::gate::{ReplyGate, Stamp, Timed};
use super::interrupt::Interrupts;
use super::near;
use super::ops::{Fh, FuseOps, Make, ReadDir};
use super::reply::{Answer, DirAnswer, DirBuffer};
use super::task::{self, Begin, Target, Task, Unwanted};
use cairn_common::error::{FsError, FsResult};
use fuser::{FileHandle, INodeNo, ReplyEntry, Request};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// The FUSE file system that serves `O`.
pub struct Adapter<O> {
    pub(super) ops: Arc<O>,
    pub(super) runtime: Handle,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) ended: CancellationToken,
    gate: Arc<ReplyGate>,
    refusing: Arc<AtomicBool>,
}

impl<O: FuseOps> Adapter<O> {
    /// Slow calls run on `runtime`; `ended` is cancelled when the mount is gone.
    pub fn new(ops: Arc<O>, runtime: Handle, ended: CancellationToken) -> Adapter<O> {
        let gate = ops.gate().unwrap_or_default();
        Adapter { ops, runtime, interrupts: Arc::default(), ended, gate, refusing: Arc::default() }
    }

    /// Once it is set, every request is refused: for a mount that is gone, but whose users the kernel keeps.
    pub fn refusing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.refusing)
    }

    fn refused<T>(&self) -> Option<FsResult<T>> {
        self.refusing.load(Ordering::SeqCst).then_some(Err(FsError::Evicted))
    }

    /// Registers a request that runs as a task.
    fn task(&self, req: &Request, begun: Stamp) -> Task {
        let interrupt = self.interrupts.register(req.unique().0, req.pid());
        Task { gate: Arc::clone(&self.gate), begun, interrupt }
    }

    /// Runs a query.
    pub(super) fn query<T, R, F>(&self, req: &Request, reply: R, later: impl FnOnce(Arc<O>) -> F)
    where
        T: Timed + Send + 'static,
        R: Answer<T>,
        F: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.try_query(req, reply, |_ops| None, later);
    }

    /// Answers in place if `now` could, else runs `later` as a query.
    pub(super) fn try_query<T, R, F>(
        &self,
        req: &Request,
        reply: R,
        now: impl FnOnce(&O) -> Option<FsResult<T>>,
        later: impl FnOnce(Arc<O>) -> F,
    ) where
        T: Timed + Send + 'static,
        R: Answer<T>,
        F: Future<Output = FsResult<T>> + Send + 'static,
    {
        let begun = self.gate.stamp();
        match self.refused().or_else(|| now(&self.ops)) {
            Some(result) => {
                self.gate.send(begun, reply, result);
                near::answered(req.pid());
            }
            None => {
                near::others_work();
                let ops = Arc::clone(&self.ops);
                let call = later(Arc::clone(&ops));
                self.runtime.spawn(task::query(self.task(req, begun), ops, call, reply));
            }
        }
    }

    /// Runs a change that opens nothing.
    pub(super) fn change<T, R, F>(&self, req: &Request, reply: R, later: impl FnOnce(Arc<O>) -> F)
    where
        T: Unwanted,
        R: Answer<T>,
        F: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.try_change(req, reply, Target::NONE, |_ops| None, later);
    }

    /// Answers in place if `now` could, else runs `later` as a change, which may open `target`.
    pub(super) fn try_change<T, R, F>(
        &self,
        req: &Request,
        reply: R,
        target: Target,
        now: impl FnOnce(&O) -> Option<FsResult<T>>,
        later: impl FnOnce(Arc<O>) -> F,
    ) where
        T: Unwanted,
        R: Answer<T>,
        F: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.try_begin(req, reply, target, Begin::WhenReachable, now, later);
    }

    /// The same, begun as `begin` says.
    pub(super) fn try_begin<T, R, F>(
        &self,
        req: &Request,
        reply: R,
        target: Target,
        begin: Begin,
        now: impl FnOnce(&O) -> Option<FsResult<T>>,
        later: impl FnOnce(Arc<O>) -> F,
    ) where
        T: Unwanted,
        R: Answer<T>,
        F: Future<Output = FsResult<T>> + Send + 'static,
    {
        let begun = self.gate.stamp();
        match self.refused().or_else(|| now(&self.ops)) {
            Some(result) => {
                self.gate.send(begun, reply, result);
                near::answered(req.pid());
            }
            None => {
                near::others_work();
                let ops = Arc::clone(&self.ops);
                let call = later(Arc::clone(&ops));
                self.runtime.spawn(task::change(self.task(req, begun), ops, call, reply, target, begin));
            }
        }
    }

    /// MKNOD and MKDIR.
    pub(super) fn make(&self, req: &Request, make: Make, reply: ReplyEntry) {
        self.change(req, reply, |ops| ops.make(caller(req), make));
    }

    /// READDIR and READDIRPLUS.
    pub(super) fn list(&self, req: &Request, dir: INodeNo, fh: FileHandle, cookie: u64, buffer: DirBuffer) {
        let plus = matches!(buffer, DirBuffer::Plus(_));
        let read = ReadDir { ino: ino(dir), fh: Fh(fh.0), cookie, max_bytes: buffer.max_bytes(), plus };
        let reply = DirAnswer { buffer, ops: Arc::clone(&self.ops), read };
        let now = |ops: &O| ops.try_readdir(&caller(req), &read);
        self.try_query(req, reply, now, |ops| ops.readdir(caller(req), read));
    }
}
