//! A store over the simulated disk, and payloads that can be told apart.

use bytes::Bytes;
use cairn_common::config::ByteSize;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, ClusterId, NodeId, SessionId, VolumeId};
use cairn_common::proto::data::{GetRequest, PutRequest};
use cairn_common::wire::Payload;
use cairn_common::wire::checksum::piece_checksums;
use cairn_fsd::data::{DataConfig, DataError, Owner, Store, VolumeIds};
use cairn_fsd::disk::sim::SimDisk;
use futures::future::{BoxFuture, FutureExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers for volumes, as the metadata daemon gives them: never twice.
#[derive(Default)]
pub struct Ids(AtomicU32);

impl VolumeIds for Ids {
    fn allocate(&self) -> BoxFuture<'_, FsResult<VolumeId>> {
        async { Ok(VolumeId(self.0.fetch_add(1, Ordering::Relaxed) + 1)) }.boxed()
    }
}

pub fn owner() -> Owner {
    Owner { cluster: ClusterId(0xc1), node: NodeId(7) }
}

pub fn config(volume_size: u64) -> DataConfig {
    DataConfig { volume_size: ByteSize(volume_size), ..DataConfig::new("unused".into()) }
}

pub async fn open(disk: &SimDisk, volume_size: u64, ids: &Arc<Ids>) -> Result<Arc<Store>, DataError> {
    Store::open(Arc::new(disk.clone()), None, owner(), &config(volume_size), ids.clone()).await
}

/// Bytes that depend on `tag` at each place.
pub fn content(tag: u64, length: usize) -> Bytes {
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

pub fn put_request(payload: Bytes) -> PutRequest {
    put_segments(vec![payload])
}

pub fn put_segments(segments: Vec<Bytes>) -> PutRequest {
    PutRequest {
        session: SessionId(3),
        summary_len: 0,
        checksums: piece_checksums(&segments),
        payload: Payload::from_segments(segments),
    }
}

/// Reads a whole block and verifies it against its checksums.
pub async fn read_all(store: &Store, block: BlockRef) -> FsResult<Bytes> {
    let reply = store.get(GetRequest { block, offset: 0, length: u32::MAX }).await?;
    let bytes = reply.payload.into_bytes();
    assert_eq!(piece_checksums(std::slice::from_ref(&bytes)), reply.checksums, "{block}");
    Ok(bytes)
}

/// All files of a directory, as they are now.
pub fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}
