//! What the metadata daemon answers.
//!
//! All changes go through [`MetaService::apply`]: a batch of operations of a session, exactly once
//! and in order. Everything else reads, or concerns the session itself.

use crate::attr::{Attr, FileKind, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::{BlockRef, ClusterId, Epoch, Ino, NodeId, Seq, SessionId, VolumeId};
use crate::namespace::op::{Extent, Name, Op, OpResult, Relocation};
use crate::namespace::tables::{BlockUse, HeldLock, Totals};
use crate::namespace::users::BlockUser;
use crate::proto::data::DataStat;
use crate::rpc::WireStub;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Open a session, or take one up again after a lost connection or a restart of the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The session to go on with; `None` for a new one. An unknown one is answered `Evicted`.
    pub session: Option<SessionId>,
    /// For `cairn status`: host, mount point, version.
    pub client: ClientInfo,
    /// Everything that this mount has open (or still dirty): the server's table is volatile.
    pub opens: Vec<OpenState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    pub host: String,
    pub mount_point: String,
    pub version: String,
    pub pid: u32,
}

/// How often an inode is open in a mount. Not at all: the mount has made, opened and closed it, and if the server has lost
/// that, it is not open when the operation comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenState {
    pub ino: Ino,
    /// Opens in all, and those of them that may write (or have unflushed data).
    pub opens: u32,
    pub writers: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachReply {
    pub session: SessionId,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    /// The last operation of the session that was applied: replay starts after it.
    pub applied: Seq,
    /// The last operation of the session that is on stable storage.
    pub durable: Seq,
    /// The server's clock when it answered.
    pub time: Timestamp,
    /// Without any contact for this long (milliseconds), the session may be evicted.
    pub session_timeout_ms: u64,
    /// This is the only session of the cluster: the mount may let the kernel cache freely until
    /// [`EventBody::Shared`] comes.
    pub sole: bool,
    /// Order of this answer among leases and recalls; see [`OpenReply::generation`].
    pub generation: u64,
}

/// Which session. Tables that were restored from an older copy may give a number again, but not at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionKey {
    pub session: SessionId,
    /// When it was opened, by the server's clock then.
    pub opened: Timestamp,
}

/// What [`MetaService::take_up`] answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TakenUp {
    pub reply: AttachReply,
    /// With the number, what to call the session from now on; see [`SessionKey`].
    pub opened: Timestamp,
    /// Drawn by the server at its start: the same epoch with another one is that of another history, as tables that were
    /// restored from an older copy repeat epochs.
    pub incarnation: u64,
}

/// Inode numbers for a session to give to what it makes: `first..first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InoRange {
    pub first: Ino,
    pub count: u64,
}

/// A batch of operations. `first` is the number of `ops[0]`; the rest follow one by one.
///
/// A batch that was applied already is answered with the same replies again. One with a gap before
/// it is refused with `OutOfOrder`. A session has at most one batch under way, so a new batch
/// acknowledges the replies of all before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Batch {
    pub session: SessionId,
    pub first: Seq,
    pub ops: Vec<Op>,
    /// A `sync` of these operations follows: the log is synced while they are applied. Only a hint.
    pub sync_follows: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchReply {
    /// One per operation, in order.
    pub results: Vec<OpResult>,
    /// The session's operations up to here are on stable storage: the mount may forget them.
    pub durable: Seq,
}

/// How a mount may treat the data of a file it has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataLease {
    /// No other mount has it open in a way that conflicts: cache, and buffer writes.
    Cached,
    /// Others have it open and someone writes: each read asks for extents, each write is committed
    /// before it is answered, the kernel caches nothing.
    Shared,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenReply {
    pub attr: Attr,
    pub lease: DataLease,
    /// Grows with each lease given or recalled by the server. An answer about an inode that is older
    /// than a recall already handled is not to be trusted: ask again.
    pub generation: u64,
    /// The first extents of the file.
    pub extents: ExtentPage,
}

/// Opens that ended, counted, so that order on the wire does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseItem {
    pub ino: Ino,
    pub opens: u32,
    pub writers: u32,
}

/// Extents of a file from `start` on, at most `EXTENTS_PER_REPLY`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentPage {
    /// The file's content changes with each version.
    pub data_version: u64,
    pub size: u64,
    /// What the page speaks of: extents outside of `start..end` are not in it.
    pub start: u64,
    pub end: u64,
    pub extents: Vec<Extent>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    pub name: Name,
    pub ino: Ino,
    pub kind: FileKind,
    /// Where the listing goes on after this entry.
    pub cookie: u64,
    /// With `plus`.
    pub attr: Option<Attr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirPage {
    pub entries: Vec<DirEntry>,
    /// No more entries after these.
    pub end: bool,
    /// The directory above, for `..`.
    pub parent: Ino,
}

/// What the server tells a mount without being asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows; the mount acknowledges by it ([`MetaService::acknowledge`]) when it has done what the event asks.
    pub id: u64,
    pub body: EventBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventBody {
    /// Commit all dirty data of these files (another mount looks at them), then acknowledge.
    Flush { inos: Vec<Ino> },
    /// From now on the file is [`DataLease::Shared`]: commit dirty data, drop cached data here and in
    /// the kernel, then acknowledge. Who can't store it refuses ([`MetaService::refuse`]).
    Uncache { ino: Ino, generation: u64 },
    /// Another mount changed data or attributes of this file: drop what is cached of it, then acknowledge.
    Invalidate { ino: Ino },
    /// A lock on this file was released: who waits tries again. No acknowledgement.
    LockReleased { ino: Ino },
    /// Another mount attaches: drop what the kernel caches of names and attributes, let it cache
    /// nothing any more, then acknowledge.
    Shared { generation: u64 },
    /// This session is the only one again. No acknowledgement.
    Sole { generation: u64 },
}

/// `statfs`, exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsStat {
    /// Bytes that data daemons have in all and free.
    pub capacity: u64,
    pub available: u64,
    pub totals: Totals,
}

/// A data daemon in the cluster map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub node: NodeId,
    /// `host:port`.
    pub address: String,
    /// Reported lately.
    pub alive: bool,
    /// The last report.
    pub stat: Option<DataStat>,
}

/// Where volumes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    pub epoch: u64,
    pub nodes: Vec<NodeInfo>,
    pub volumes: Vec<(VolumeId, NodeId)>,
}

/// A data daemon says who and where it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// Its number, if it has one; its directory remembers it.
    pub node: Option<NodeId>,
    /// Drawn once when its directory was made: a repeated first registration gets the same number.
    pub identity: u128,
    pub address: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RegisterReply {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Report at least this often (milliseconds).
    pub report_every_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportRequest {
    pub stat: DataStat,
    /// Blocks of the last reply that are deleted now.
    pub deleted: Vec<BlockRef>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportReply {
    /// Dead blocks to delete, at most 4096.
    pub delete: Vec<BlockRef>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    pub session: SessionId,
    pub client: ClientInfo,
    pub applied: Seq,
    pub durable: Seq,
    /// Milliseconds since the last contact.
    pub idle_ms: u64,
    pub open_files: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaStatus {
    pub version: String,
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub uptime_ms: u64,
    pub log_index: u64,
    pub durable_index: u64,
    pub checkpoint_index: u64,
    pub stat: FsStat,
    pub orphans: u64,
    pub delete_queue: u64,
    pub sessions: Vec<SessionStatus>,
    pub map: ClusterMap,
}

/// Most blocks in one question or answer about blocks.
pub const BLOCKS_PER_REPLY: usize = 4096;

/// A stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRange {
    pub ino: Ino,
    pub offset: u64,
    pub length: u32,
}

/// A stretch of a file whose bytes are in the block that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePiece {
    pub ino: Ino,
    /// First byte in the file.
    pub offset: u64,
    pub length: u32,
    /// First byte in the block.
    pub at: u32,
}

/// What is live of a block, all as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePieces {
    /// Live bytes of the whole block; 0 if no file uses it any more.
    pub live: u64,
    /// Those in the ranges that were asked about, in their order.
    pub pieces: Vec<LivePiece>,
}

/// A data daemon has stored, in a new block, copies of what is live of others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelocateRequest {
    /// The new block.
    pub block: BlockRef,
    /// Payload length of it, in bytes.
    pub length: u32,
    /// At most [`crate::limits::COMMIT_PIECES_MAX`].
    pub pieces: Vec<Relocation>,
}

/// The metadata compared with itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeReport {
    /// One line each; after the first 100 no more are looked for.
    pub problems: Vec<String>,
    pub totals: Totals,
}

/// What has become of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockFate {
    /// Files use it.
    Used(BlockUse),
    /// No file uses it any more: it waits for being deleted by its data daemon.
    Dying,
    /// Not committed yet, or never, or deleted.
    Unknown,
}

/// Files that use the blocks asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserReport {
    pub users: Vec<BlockUser>,
    /// False: there are more than one answer holds.
    pub complete: bool,
}

/// Calls a [`MetaService`] over a connection.
pub type MetaStub = MetaServiceClient<WireStub<MetaServiceRequest, MetaServiceResponse>>;

#[tarpc::service]
pub trait MetaService {
    // Sessions
    async fn attach(request: AttachRequest) -> FsResult<AttachReply>;
    /// Ends a session: all its operations are durable before this answers. Asked by its mount, or by another on the
    /// same machine that knows it to be dead. No error for a session that is over, or unknown.
    async fn detach(session: SessionId) -> FsResult<()>;
    /// A range of inode numbers, never given to anyone else.
    async fn allocate_inos(session: SessionId) -> FsResult<InoRange>;
    /// Applies a batch. Not durable yet when it answers: the mount keeps the operations until they are.
    async fn apply(batch: Batch) -> FsResult<BatchReply>;
    /// Answers when all operations of the session up to `through` are on stable storage. May be asked while
    /// the batch that brings them is under way: both then cost one round trip. `OutOfOrder` if they have not
    /// come after a while.
    async fn sync(session: SessionId, through: Seq) -> FsResult<Seq>;
    /// Waits for events (at most `wait_ms`); keeps the session alive. Events come again until the next
    /// call says that those up to `received` have arrived.
    async fn events(session: SessionId, received: u64, wait_ms: u64) -> FsResult<Vec<Event>>;
    /// What the event with this id asks for is done.
    async fn acknowledge(session: SessionId, event: u64) -> FsResult<()>;

    // Reading. The session matters: others are asked to flush what it is about to look at.
    async fn lookup(session: SessionId, parent: Ino, name: Name) -> FsResult<Attr>;
    async fn getattr(session: SessionId, ino: Ino) -> FsResult<Attr>;
    async fn readlink(session: SessionId, ino: Ino) -> FsResult<Bytes>;
    /// Entries after `cookie` (0: from the start; `.` and `..` are the mount's), about `max_bytes` of them.
    async fn readdir(
        session: SessionId,
        ino: Ino,
        cookie: u64,
        max_bytes: u32,
        plus: bool,
    ) -> FsResult<DirPage>;
    async fn getxattr(session: SessionId, ino: Ino, name: Bytes) -> FsResult<Bytes>;
    async fn listxattr(session: SessionId, ino: Ino) -> FsResult<Vec<Bytes>>;
    /// The first lock that conflicts with `lock`, for `F_GETLK`.
    async fn test_lock(
        session: SessionId,
        ino: Ino,
        lock: crate::namespace::op::LockRequest,
    ) -> FsResult<Option<HeldLock>>;
    async fn statfs(session: SessionId) -> FsResult<FsStat>;

    // Files
    async fn open(session: SessionId, ino: Ino, write: bool) -> FsResult<OpenReply>;
    async fn close(session: SessionId, items: Vec<CloseItem>) -> FsResult<()>;
    async fn extents(session: SessionId, ino: Ino, start: u64, end: u64) -> FsResult<ExtentPage>;
    async fn cluster_map(known_epoch: u64) -> FsResult<Option<ClusterMap>>;

    // Data daemons
    async fn register(request: RegisterRequest) -> FsResult<RegisterReply>;
    async fn report(request: ReportRequest) -> FsResult<ReportReply>;
    /// A new volume for a data daemon; the number is never given again.
    async fn create_volume(node: NodeId) -> FsResult<VolumeId>;

    // Operators
    async fn status() -> FsResult<MetaStatus>;

    // For `cairn fsck`, since version 2.
    /// Everything that is wrong with the tree as of one moment. Reads all of it; one is made at a time.
    async fn check() -> FsResult<TreeReport>;
    /// Blocks that files use, in order, the first above `after`; at most [`BLOCKS_PER_REPLY`]. Empty at the end.
    async fn blocks(after: BlockRef) -> FsResult<Vec<(BlockRef, BlockUse)>>;
    /// What has become of blocks, one answer for each; at most [`BLOCKS_PER_REPLY`].
    async fn fates(blocks: Vec<BlockRef>) -> FsResult<Vec<BlockFate>>;
    /// Those of the sessions that have ended for good: nothing of them is applied any more, also after a loss of power. At
    /// most [`BLOCKS_PER_REPLY`].
    async fn ended(sessions: Vec<SessionId>) -> FsResult<Vec<SessionId>>;
    /// Which files use these blocks. Reads the whole tree.
    async fn users(blocks: Vec<BlockRef>) -> FsResult<UserReport>;

    // For data daemons, since version 3.
    /// The last block that files use in each volume of a data daemon, for volumes above `after`, in order, at most
    /// [`BLOCKS_PER_REPLY`]; volumes without such blocks are left out. Empty at the end.
    async fn last_blocks(node: NodeId, after: VolumeId) -> FsResult<Vec<BlockRef>>;

    // For the cleaning of data daemons, since version 4.
    /// What of `block` is live in these ranges, at most [`BLOCKS_PER_REPLY`] of them. `TooBig` if that is more than one
    /// operation can move.
    async fn live_pieces(block: BlockRef, ranges: Vec<FileRange>) -> FsResult<LivePieces>;
    /// Changes extents over to a new block, as far as they are still as they were; durable when it answers. Not to be repeated:
    /// whoever hears no answer leaves the new block to the search for leaks.
    async fn relocate(request: RelocateRequest) -> FsResult<()>;

    // For mounts, since version 5.
    /// [`MetaService::attach`], for a caller who knows when the session that it goes on with was opened: one that was opened at
    /// another time is answered `Evicted`. `None`: a new session, or one of a server that did not tell.
    async fn take_up(request: AttachRequest, opened: Option<Timestamp>) -> FsResult<TakenUp>;
    /// [`MetaService::detach`], for this session only: no error, and no end, for another one of its number.
    async fn end(key: SessionKey) -> FsResult<()>;
    /// What the event with this id (`Flush` or `Uncache`) asks for can't be done now, and why: the mount keeps what it has
    /// written, and whoever waits for it gets this error.
    async fn refuse(session: SessionId, event: u64, error: FsError) -> FsResult<()>;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::wire::codec;

    const OPENED: Timestamp = Timestamp { secs: 1, nanos: 2 };

    fn round_trip<T: Serialize + serde::de::DeserializeOwned>(message: &T, golden: &[u8]) -> T {
        assert_eq!(codec::encode(message).unwrap(), golden);
        codec::decode(golden, golden.len()).unwrap()
    }

    /// The first byte is the call's place in the service: calls are added at the end only.
    #[test]
    fn golden_bytes_of_calls_that_name_a_session() {
        let detach = MetaServiceRequest::Detach { session: SessionId(7) };
        round_trip(&detach, &[1, 7]);
        let key = SessionKey { session: SessionId(7), opened: OPENED };
        let MetaServiceRequest::End { key: back } =
            round_trip(&MetaServiceRequest::End { key }, &[32, 7, 2, 2])
        else {
            panic!("another call")
        };
        assert_eq!(back, key);

        let client = ClientInfo { host: "h".into(), mount_point: "/m".into(), version: "v".into(), pid: 9 };
        let opens = vec![OpenState { ino: Ino(5), opens: 3, writers: 1 }];
        let request = AttachRequest { session: Some(SessionId(7)), client, opens };
        let ask = MetaServiceRequest::TakeUp { request, opened: Some(OPENED) };
        let golden = [31, 1, 7, 1, b'h', 2, b'/', b'm', 1, b'v', 9, 1, 5, 3, 1, 1, 2, 2];
        round_trip(&ask, &golden);
    }

    #[test]
    fn golden_bytes_of_a_session_taken_up() {
        let reply = AttachReply {
            session: SessionId(7),
            cluster: ClusterId(8),
            epoch: Epoch(9),
            applied: Seq(10),
            durable: Seq(11),
            time: Timestamp { secs: 3, nanos: 4 },
            session_timeout_ms: 12,
            sole: true,
            generation: 13,
        };
        let taken = MetaServiceResponse::TakeUp(Ok(TakenUp { reply, opened: OPENED, incarnation: 14 }));
        let golden = [31, 0, 7, 8, 9, 10, 11, 6, 4, 12, 1, 13, 2, 2, 14];
        let MetaServiceResponse::TakeUp(Ok(back)) = round_trip(&taken, &golden) else {
            panic!("another answer")
        };
        assert_eq!((back.opened, back.incarnation, back.reply.generation), (OPENED, 14, 13));
    }
}
