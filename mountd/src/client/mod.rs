//! What the mount asks of the servers, as traits: the vfs is tested over fakes, and what stands
//! behind an operation (a round trip now, a leased cache later) is not its business.

pub mod answers;
pub mod calls;
pub mod clock;
pub mod closes;
pub mod data;
mod events;
pub mod inos;
mod keyed;
mod neighbours;
pub mod nodes;
pub mod oplog;
pub mod session;
pub mod silence;

use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Ino, Seq, SessionId};
use cairn_common::namespace::op::{LockRequest, Name, OpBody, OpResult};
use cairn_common::namespace::tables::HeldLock;
use cairn_common::proto::meta::{CloseItem, DirPage, ExtentPage, FsStat, OpenReply, OpenState};
use cairn_common::wire::Payload;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// An operation in the log of this session. It is applied whether or not anyone waits for this.
#[derive(Debug)]
pub struct OpTicket {
    /// Its place in the session's operation log.
    pub seq: Seq,
    reply: oneshot::Receiver<OpResult>,
}

impl OpTicket {
    /// A ticket, and the sender that answers it.
    #[must_use]
    pub fn new(seq: Seq) -> (oneshot::Sender<OpResult>, OpTicket) {
        let (sender, reply) = oneshot::channel();
        (sender, OpTicket { seq, reply })
    }
}

impl Future for OpTicket {
    type Output = OpResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<OpResult> {
        // The sender is dropped only when the session has ended.
        Pin::new(&mut self.reply).poll(context).map(|answer| answer.unwrap_or(Err(FsError::Evicted)))
    }
}

/// Somebody is about to wait for stable storage; over when this is dropped.
#[derive(Debug)]
pub struct SyncFollows(Arc<AtomicUsize>);

impl SyncFollows {
    /// One more of those that `count` counts.
    #[must_use]
    pub fn new(count: &Arc<AtomicUsize>) -> SyncFollows {
        count.fetch_add(1, Ordering::Relaxed);
        SyncFollows(Arc::clone(count))
    }
}

impl Drop for SyncFollows {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The metadata daemon, as the vfs sees it.
pub trait MetaClient: Send + Sync + 'static {
    /// Puts an operation into the log: order of calls is order of effects. Never waits.
    fn submit(&self, caller: &Caller, body: OpBody) -> OpTicket {
        self.submit_at(self.now(), caller, body)
    }
    /// The same for something that happened at `time`.
    fn submit_at(&self, time: Timestamp, caller: &Caller, body: OpBody) -> OpTicket;
    /// The last operation that was submitted.
    fn last_submitted(&self) -> Seq;
    /// Says that somebody will wait for what is submitted while the answer is kept: the server then begins
    /// to sync it as soon as it has it.
    fn sync_follows(&self) -> SyncFollows;
    /// Waits until all operations up to `through` are on stable storage.
    fn sync(&self, through: Seq) -> impl Future<Output = FsResult<()>> + Send;
    /// Waits until operations can be sent at all. With `soft`, `TimedOut` if that takes too long: then nothing
    /// of what was to follow has happened, and nothing will.
    fn reachable(&self) -> impl Future<Output = FsResult<()>> + Send {
        std::future::ready(Ok(()))
    }
    /// Ready when the server has kept answers back for as long as this mount waits (`soft`); never with `hard`.
    fn given_up(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
    /// Ready with the server's next answer to an operation.
    fn news(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
    /// The server's clock, as far as it is known here.
    fn now(&self) -> Timestamp;
    fn session(&self) -> SessionId;
    /// A new inode number, if one is at hand.
    fn try_new_ino(&self) -> Option<Ino>;
    /// A new inode number of the session's range.
    fn new_ino(&self) -> impl Future<Output = FsResult<Ino>> + Send;

    fn lookup(&self, parent: Ino, name: Name) -> impl Future<Output = FsResult<Attr>> + Send;
    fn getattr(&self, ino: Ino) -> impl Future<Output = FsResult<Attr>> + Send;
    fn readlink(&self, ino: Ino) -> impl Future<Output = FsResult<Bytes>> + Send;
    fn readdir(
        &self,
        ino: Ino,
        cookie: u64,
        max_bytes: u32,
        plus: bool,
    ) -> impl Future<Output = FsResult<DirPage>> + Send;
    fn getxattr(&self, ino: Ino, name: Bytes) -> impl Future<Output = FsResult<Bytes>> + Send;
    fn listxattr(&self, ino: Ino) -> impl Future<Output = FsResult<Vec<Bytes>>> + Send;
    fn test_lock(
        &self,
        ino: Ino,
        lock: LockRequest,
    ) -> impl Future<Output = FsResult<Option<HeldLock>>> + Send;
    fn statfs(&self) -> impl Future<Output = FsResult<FsStat>> + Send;
    /// Bytes that were free on data daemons that are away now, when they last told. `None` if one has not told since the metadata
    /// daemon started.
    fn away(&self) -> impl Future<Output = FsResult<Option<u64>>> + Send;
    fn open(&self, ino: Ino, write: bool) -> impl Future<Output = FsResult<OpenReply>> + Send;
    /// Opens that have ended. Sent in the background, repeated until the server has it.
    fn close(&self, item: CloseItem);
    fn extents(&self, ino: Ino, start: u64, end: u64) -> impl Future<Output = FsResult<ExtentPage>> + Send;
}

/// The data daemons, as the vfs sees them.
pub trait DataClient: Send + Sync + 'static {
    /// Stores a block (content, then `summary_len` bytes of summary); it is on stable storage when this answers.
    fn put(&self, payload: Payload, summary_len: u32) -> impl Future<Output = FsResult<BlockRef>> + Send;
    /// Verified whole pieces that cover the range, and the offset of their first byte in the block.
    fn get(
        &self,
        block: BlockRef,
        offset: u32,
        length: u32,
    ) -> impl Future<Output = FsResult<(u32, Bytes)>> + Send;
}

/// What the server asks of this mount; called by the session's event task, each call in a task of
/// its own, and acknowledged when it returns, or refused with the error that it returns.
pub trait EventSink: Send + Sync + 'static {
    /// Commit all dirty data of these files.
    fn flush(&self, inos: Vec<Ino>) -> impl Future<Output = FsResult<()>> + Send;
    /// Commit dirty data, drop what is cached here and in the kernel; the file is shared from now on. With an error the data
    /// stays here, and is stored as soon as that is possible.
    fn uncache(&self, ino: Ino, generation: u64) -> impl Future<Output = FsResult<()>> + Send;
    /// A server that cannot be refused has its way: what is dirty is lost, and told. Stored later, it would lie over what
    /// others have written since.
    fn give_up(&self, ino: Ino, error: FsError);
    /// Drop what is cached here and in the kernel: another mount changed the file.
    fn invalidate(&self, ino: Ino) -> impl Future<Output = ()> + Send;
    fn lock_released(&self, ino: Ino);
    /// Let the kernel cache no names and attributes any more, and drop those that it has.
    fn shared(&self, generation: u64) -> impl Future<Output = ()> + Send;
    /// Tell the server of all locks that were decided here. Waits for its answers, so not to be called while
    /// the session is being taken up.
    fn hand_over_locks(self: Arc<Self>) -> impl Future<Output = ()> + Send;
    /// This is the only mount: the kernel may cache names and attributes, locks are decided here.
    fn sole(&self, generation: u64);
    /// All that is open or dirty here, for taking the session up again.
    fn open_states(&self) -> Vec<OpenState>;
    /// The session was ended by the server: what was not committed is lost, and programs must be told.
    fn evicted(&self);
}
