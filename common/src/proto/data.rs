//! What a data daemon answers: blocks in, blocks out.
//!
//! Checksums are CRC-32C (Castagnoli), one per [`crate::limits::PIECE`] bytes of the payload, made by
//! the writer and verified by each reader: end to end.

use crate::error::FsResult;
use crate::ids::{BlockRef, NodeId, SessionId, VolumeId};
use crate::rpc::WireStub;
use crate::wire::Payload;
use serde::{Deserialize, Serialize};

/// Store one block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PutRequest {
    /// The writing session: blocks that it never commits are found by it.
    pub session: SessionId,
    /// How many bytes at the end of the payload are the block's summary.
    pub summary_len: u32,
    /// CRC-32C of each piece of the payload.
    pub checksums: Vec<u32>,
    /// Content and summary; 1 byte to `FRAME_PAYLOAD_MAX`.
    pub payload: Payload,
}

/// Read part of a block.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetRequest {
    pub block: BlockRef,
    /// First byte wanted, within the payload.
    pub offset: u32,
    /// How many bytes; the reply is widened to whole pieces and cut at the block's end.
    pub length: u32,
}

/// Whole pieces that cover what was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetReply {
    /// Offset of the first returned byte in the block: a multiple of the piece size.
    pub offset: u32,
    /// One per returned piece, as the writer made them. The reader verifies.
    pub checksums: Vec<u32>,
    pub payload: Payload,
}

/// State of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStat {
    pub volume: VolumeId,
    pub sealed: bool,
    /// Size of the volume file in bytes.
    pub bytes: u64,
    /// Blocks stored and not deleted.
    pub blocks: u64,
    /// Payload bytes of those blocks.
    pub live_bytes: u64,
    /// Blocks marked deleted.
    pub deleted: u64,
}

/// State of a data daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataStat {
    pub node: NodeId,
    /// Size and free bytes of the file system below the data directory.
    pub capacity: u64,
    pub available: u64,
    /// Counters since the start.
    pub puts: u64,
    pub gets: u64,
    pub put_bytes: u64,
    pub get_bytes: u64,
    pub syncs: u64,
    pub volumes: Vec<VolumeStat>,
}

/// One block of a volume, as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStat {
    pub block: BlockRef,
    pub session: SessionId,
    /// Payload length with the summary.
    pub length: u32,
    pub summary_len: u32,
    pub deleted: bool,
}

/// Calls a [`DataService`] over a connection.
pub type DataStub = DataServiceClient<WireStub<DataServiceRequest, DataServiceResponse>>;

#[tarpc::service]
pub trait DataService {
    /// Stores a block and answers when it is on stable storage.
    async fn put(request: PutRequest) -> FsResult<BlockRef>;
    /// Reads whole pieces of a block. `NotFound` for an unknown or deleted block or a wrong cookie.
    async fn get(request: GetRequest) -> FsResult<GetReply>;
    /// Marks blocks deleted and gives their space back. Unknown blocks are no error (a repeated call).
    async fn delete(blocks: Vec<BlockRef>) -> FsResult<()>;
    /// State and counters. `TimedOut` while the daemon's disk hangs.
    async fn stat() -> FsResult<DataStat>;
    /// Blocks of `volume` with a sequence above `after`, at most 4096, in order.
    async fn list(volume: VolumeId, after: u32) -> FsResult<Vec<BlockStat>>;
}
