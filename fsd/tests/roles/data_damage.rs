//! A disk that rots: what is damaged is told or missing, everything else is served, nothing is cut.

use crate::data_common::{Ids, content, open, put_request, read_all};
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::proto::data::GetRequest;
use cairn_common::wire::checksum::verify_pieces;
use cairn_fsd::data::Store;
use cairn_fsd::disk::Disk;
use cairn_fsd::disk::sim::{Call, SimDisk};
use std::sync::Arc;
use std::time::Duration;

const VOLUME: u64 = 4 << 20;
const LENGTH: usize = 10_000;
/// Bytes of one record: a header page and three pages of payload.
const RECORD: usize = 4 * 4096;

/// Ten blocks in one volume, and how the daemon ended.
async fn ten_blocks(disk: &SimDisk, ids: &Arc<Ids>, in_order: bool) -> Vec<BlockRef> {
    let store = open(disk, VOLUME, ids).await.unwrap();
    let blocks = put_ten(&store).await;
    if in_order {
        store.stop().await.unwrap();
    }
    blocks
}

async fn put_ten(store: &Store) -> Vec<BlockRef> {
    let mut blocks = Vec::new();
    for tag in 0..10 {
        blocks.push(store.put(put_request(content(tag, LENGTH))).await.unwrap());
    }
    assert!(blocks.iter().all(|b| b.volume == blocks[0].volume));
    blocks
}

fn volume_file(block: BlockRef) -> String {
    format!("vol-{:08x}.cv", block.volume.0)
}

fn header_of(position: usize) -> usize {
    4096 + position * RECORD
}

async fn is_sealed(store: &Store, volume: VolumeId) -> bool {
    store.stat().await.unwrap().volumes.iter().any(|stat| stat.volume == volume && stat.sealed)
}

/// Waits until something holds that the daemon sees to by itself.
async fn until(holds: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not come to hold");
}

async fn check(store: &Store, blocks: &[BlockRef], missing: &[usize]) {
    for (position, block) in blocks.iter().enumerate() {
        let expected = if missing.contains(&position) {
            Err(FsError::NotFound)
        } else {
            Ok(content(position as u64, LENGTH))
        };
        assert_eq!(read_all(store, *block).await, expected, "block {position}");
    }
}

#[tokio::test]
async fn a_broken_header_hides_its_block_only() {
    for in_order in [true, false] {
        for broken in [vec![0], vec![4], vec![3, 4, 5], vec![2, 6]] {
            let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
            let blocks = ten_blocks(&disk, &ids, in_order).await;
            let disk = disk.power_cycle(1);
            for position in &broken {
                disk.corrupt(&volume_file(blocks[0]), header_of(*position) + 20, &[0xff; 4]);
            }
            let length = disk.map(&volume_file(blocks[0])).unwrap().len();
            let store = open(&disk, VOLUME, &ids).await.unwrap();
            check(&store, &blocks, &broken).await;
            // It takes no more blocks, and is as long as it was.
            let later = store.put(put_request(content(99, LENGTH))).await.unwrap();
            assert_ne!(later.volume, blocks[0].volume);
            assert_eq!(disk.map(&volume_file(blocks[0])).unwrap().len(), length);
            store.stop().await.unwrap();
            drop(store);
            let store = open(&disk, VOLUME, &ids).await.unwrap();
            check(&store, &blocks, &broken).await;
            assert_eq!(read_all(&store, later).await.unwrap(), content(99, LENGTH));
        }
    }
}

/// Nothing comes behind the last block that would tell damage from a put that was torn: but the lanes mark the end.
#[tokio::test]
async fn a_broken_last_header_is_damage_when_the_daemon_was_idle() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let idle = open(&disk, VOLUME, &ids).await.unwrap();
    let blocks = put_ten(&idle).await;
    let is_marked = || disk.map(&volume_file(blocks[0])).unwrap()[header_of(10)..][..4] == *b"CBLK";
    until(async || is_marked()).await;
    let disk = disk.kill();
    disk.corrupt(&volume_file(blocks[0]), header_of(9) + 20, &[0xff; 4]);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    check(&store, &blocks, &[9]).await;
    assert_eq!(store.beyond_end(vec![blocks[9]]).await, Ok(None), "this is no old copy");
    assert_ne!(store.put(put_request(content(99, LENGTH))).await.unwrap().volume, blocks[0].volume);
}

#[tokio::test]
async fn a_broken_payload_is_given_out_with_checksums_that_tell() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let blocks = ten_blocks(&disk, &ids, false).await;
    let disk = disk.power_cycle(2);
    disk.corrupt(&volume_file(blocks[0]), header_of(4) + 5000, &[1, 2, 3]);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let reply = store.get(GetRequest { block: blocks[4], offset: 0, length: 1 }).await.unwrap();
    assert!(verify_pieces(&reply.payload.into_bytes(), &reply.checksums).is_err());
    check(&store, &blocks[..4], &[]).await;
    assert_eq!(read_all(&store, blocks[9]).await.unwrap(), content(9, LENGTH));
}

#[tokio::test]
async fn a_broken_superblock_takes_its_volume_out_of_service_only() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let blocks = ten_blocks(&disk, &ids, true).await;
    disk.corrupt(&volume_file(blocks[0]), 30, &[0xff; 4]);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    assert_eq!(read_all(&store, blocks[0]).await, Err(FsError::NotFound));
    let later = store.put(put_request(content(1, 10))).await.unwrap();
    assert_ne!(later.volume, blocks[0].volume);
    // The file is kept for whoever wants to repair it.
    assert!(disk.map(&volume_file(blocks[0])).is_ok());
}

#[tokio::test]
async fn broken_tombstones_forget_deletes_but_nothing_else() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let blocks = ten_blocks(&disk, &ids, true).await;
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    store.delete(vec![blocks[2], blocks[5]]).await.all().unwrap();
    store.stop().await.unwrap();
    drop(store);
    let log = volume_file(blocks[0]).replace(".cv", ".cd");
    disk.corrupt(&log, 3, &[0xff]);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    // The header is broken, the records are not.
    check(&store, &blocks, &[2, 5]).await;
    store.delete(vec![blocks[7]]).await.all().unwrap();
    store.stop().await.unwrap();
    drop(store);
    let store = open(&disk.power_cycle(3), VOLUME, &ids).await.unwrap();
    check(&store, &blocks, &[2, 5, 7]).await;
}

/// The metadata daemon forgets what is confirmed, so nothing is confirmed for a volume that is only out of
/// service; one whose file is gone has no blocks.
#[tokio::test]
async fn deletes_are_not_confirmed_for_a_volume_that_is_not_open() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let blocks = ten_blocks(&disk, &ids, true).await;
    let lost = BlockRef { volume: VolumeId(999), ..blocks[0] };
    let superblock = disk.map(&volume_file(blocks[0])).unwrap()[30..34].to_vec();
    disk.corrupt(&volume_file(blocks[0]), 30, &[0xff; 4]);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let later = store.put(put_request(content(1, 10))).await.unwrap();
    let deleted = store.delete(vec![blocks[0], lost, later]).await;
    assert_eq!(deleted.gone, [later, lost]);
    assert_eq!(deleted.failed, Some(FsError::Io));
    store.stop().await.unwrap();
    drop(store);

    // Back in service, it is asked for again.
    disk.corrupt(&volume_file(blocks[0]), 30, &superblock);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    assert_eq!(store.delete(vec![blocks[0]]).await.gone, [blocks[0]]);
    check(&store, &blocks, &[0]).await;
}

#[tokio::test]
async fn a_volume_that_cannot_delete_keeps_no_other_from_it() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let first = ten_blocks(&disk, &ids, true).await;
    // The next volume is another one.
    disk.corrupt(&volume_file(first[0]), header_of(9) + 20, &[0xff; 4]);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let second = store.put(put_request(content(50, LENGTH))).await.unwrap();
    assert!(second.volume > first[0].volume);
    // The sealing of the first volume and the making of a spare one write, too: the write that fails is none of theirs.
    until(async || is_sealed(&store, first[0].volume).await && store.volumes().len() == 3).await;
    disk.fail_once(Call::Write, 0, std::io::ErrorKind::Other);
    let deleted = store.delete(vec![second, first[1], first[2]]).await;
    assert_eq!((deleted.gone, deleted.failed), (vec![second], Some(FsError::Io)));
    assert_eq!(store.delete(first[1..3].to_vec()).await.gone, first[1..3]);
    check(&store, &first[..5], &[1, 2]).await;
}

/// A mapping over a bad sector kills the daemon, at each start: so the index is read first. What is read
/// only once is not mapped at all.
#[tokio::test]
async fn an_index_that_cannot_be_read_is_made_again() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let blocks = ten_blocks(&disk, &ids, true).await;
    // Damage has the volume sealed at the next start.
    disk.corrupt(&volume_file(blocks[0]), header_of(3) + 20, &[0xff; 4]);
    let index = volume_file(blocks[0]).replace(".cv", ".ci");
    let made = async |store: Arc<Store>| {
        until(async || is_sealed(&store, blocks[0].volume).await).await;
        check(&store, &blocks, &[3]).await;
        store.stop().await.unwrap();
    };
    made(open(&disk, VOLUME, &ids).await.unwrap()).await;
    let good = disk.map(&index).unwrap().to_vec();

    disk.make_unreadable(&index);
    made(open(&disk, VOLUME, &ids).await.unwrap()).await;
    assert!(disk.map(&index).unwrap()[..] == good, "a new file of the same content");
}

/// A volume whose disk failed has no end mark: only its index says that it takes no more. Blocks that it took while that could
/// not be read were gone at the next start.
#[tokio::test]
async fn a_volume_whose_index_cannot_be_read_for_once_takes_no_blocks() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let first = store.put(put_request(content(0, LENGTH))).await.unwrap();
    until(async || store.volumes().len() == 2).await;
    disk.fail_once(Call::Sync, 0, std::io::ErrorKind::Other);
    assert_eq!(store.put(put_request(content(1, LENGTH))).await, Err(FsError::Io));
    let second = store.put(put_request(content(1, LENGTH / 10))).await.unwrap();
    until(async || is_sealed(&store, first.volume).await).await;
    store.stop().await.unwrap();
    drop(store);

    let index = volume_file(first).replace(".cv", ".ci");
    let good = disk.map(&index).unwrap()[..4].to_vec();
    disk.corrupt(&index, 0, &[0xff; 4]);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let third = store.put(put_request(content(2, LENGTH))).await.unwrap();
    assert_eq!(read_all(&store, first).await.unwrap(), content(0, LENGTH));
    let disk = disk.kill();
    disk.corrupt(&index, 0, &good);
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    check(&store, &[first], &[]).await;
    assert_eq!(read_all(&store, second).await.unwrap(), content(1, LENGTH / 10));
    assert_eq!(read_all(&store, third).await.unwrap(), content(2, LENGTH));
}

#[tokio::test]
async fn tombstones_that_cannot_be_read_take_their_volume_out_of_service_only() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let blocks = ten_blocks(&disk, &ids, true).await;
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    store.delete(vec![blocks[2]]).await.all().unwrap();
    store.stop().await.unwrap();
    drop(store);
    disk.make_unreadable(&volume_file(blocks[0]).replace(".cv", ".cd"));
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    assert_eq!(read_all(&store, blocks[0]).await, Err(FsError::NotFound));
    assert_ne!(store.put(put_request(content(1, 10))).await.unwrap().volume, blocks[0].volume);
}

/// The kernel goes on showing what it could not sync: a process that believed it would confirm deletes that go with the power,
/// and write behind blocks that are not on the disk.
#[tokio::test]
async fn what_a_failed_sync_left_in_memory_is_not_believed_by_the_next_process() {
    for seed in 0..8 {
        let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
        let blocks = ten_blocks(&disk, &ids, true).await;
        let store = open(&disk, VOLUME, &ids).await.unwrap();
        store.delete(vec![blocks[1]]).await.all().unwrap();
        until(async || store.volumes().len() == 2).await;
        disk.fail_always(Call::Sync, 0, std::io::ErrorKind::Other);
        assert_eq!(store.delete(vec![blocks[2]]).await.failed, Some(FsError::Io));
        assert_eq!(store.put(put_request(content(70, LENGTH))).await, Err(FsError::Io));

        let disk = disk.kill();
        let store = open(&disk, VOLUME, &ids).await.unwrap();
        store.delete(vec![blocks[2]]).await.all().unwrap();
        let mut later = Vec::new();
        for tag in 0..3 {
            later.push(store.put(put_request(content(tag, LENGTH))).await.unwrap());
        }
        let store = open(&disk.power_cycle(seed), VOLUME, &ids).await.unwrap();
        check(&store, &blocks, &[1, 2]).await;
        check(&store, &later, &[]).await;
        let mut listed = store.list(blocks[0].volume, 0).unwrap();
        listed.retain(|block| !block.deleted);
        let whole = listed.iter().map(|block| async { read_all(&store, block.block).await.unwrap() });
        futures::future::join_all(whole).await;
        let volumes = store.stat().await.unwrap().volumes;
        assert!(
            volumes.iter().all(|volume| !volume.sealed),
            "damage is seen where there is none: {volumes:?}"
        );
    }
}
