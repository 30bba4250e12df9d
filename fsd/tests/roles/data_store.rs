//! The store over a simulated disk and a real directory: what is put can be read, limits and failures
//! are told as they should.

use crate::data_common::{Ids, config, content, open, owner, put_request, put_segments, read_all};
use bytes::Bytes;
use cairn_common::config::ByteSize;
use cairn_common::error::FsError;
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::limits::{BLOCK_MAX, FRAME_PAYLOAD_MAX, PIECE};
use cairn_common::proto::data::{DataService, GetRequest, PutRequest};
use cairn_fsd::data::{DataConfig, DataDir, DataServer, Store};
use cairn_fsd::disk::Disk;
use cairn_fsd::disk::sim::{Call, SimDisk};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tarpc::context;

const VOLUME: u64 = 1 << 20;

/// Waits for what a background task will bring about.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Until the spare volume is made, so that an injected failure hits what the test does.
async fn spare_is_ready(disk: &SimDisk) {
    let names = || disk.list().unwrap();
    eventually("two volumes", || names().iter().filter(|n| n.ends_with(".cv")).count() == 2).await;
}

#[tokio::test]
async fn a_connection_that_reads_nothing_holds_two_blocks_and_no_other_waits_for_it() {
    let store = open(&SimDisk::new(), 64 << 20, &Arc::new(Ids::default())).await.unwrap();
    let data = content(1, BLOCK_MAX);
    let block = store.put(put_request(data.clone())).await.unwrap();
    let [slow, other] = [(); 2].map(|()| DataServer::new(store.clone()));
    let get = |server: &DataServer, length| {
        server.clone().get(context::current(), GetRequest { block, offset: 0, length })
    };
    let whole = u32::try_from(BLOCK_MAX).unwrap();
    let unread = (get(&slow, whole).await.unwrap(), get(&slow, whole).await.unwrap());
    let mut third = std::pin::pin!(get(&slow, whole));
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, third.as_mut()).await.is_err(), "a third takes memory");
    assert_eq!(get(&other, whole).await.unwrap().payload.into_bytes(), data);
    drop(unread);
    drop(third.await.unwrap());
    // What is asked for and is not there is not counted.
    let _unread = get(&slow, u32::MAX).await.unwrap();
    assert_eq!(get(&slow, whole).await.unwrap().payload.into_bytes(), data);
}

#[tokio::test]
async fn gets_widen_to_whole_pieces() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let data = content(1, 3 * PIECE + 100);
    let cut = PIECE + 7;
    let block = store.put(put_segments(vec![data.slice(..cut), data.slice(cut..)])).await.unwrap();
    let cases = [
        (0, 1, 0..PIECE),
        (PIECE - 1, 2, 0..2 * PIECE),
        (PIECE, PIECE, PIECE..2 * PIECE),
        (3 * PIECE, 1, 3 * PIECE..3 * PIECE + 100),
        (3 * PIECE + 99, usize::from(u16::MAX), 3 * PIECE..3 * PIECE + 100),
        (0, u32::MAX as usize, 0..3 * PIECE + 100),
    ];
    for (offset, length, expected) in cases {
        let (offset, length) = (u32::try_from(offset).unwrap(), u32::try_from(length).unwrap());
        let reply = store.get(GetRequest { block, offset, length }).await.unwrap();
        assert_eq!(reply.offset as usize, expected.start, "{offset}+{length}");
        assert_eq!(reply.checksums.len(), expected.len().div_ceil(PIECE));
        assert_eq!(reply.payload.into_bytes(), data.slice(expected), "{offset}+{length}");
    }
    for (offset, length) in [(u32::try_from(data.len()).unwrap(), 1), (u32::MAX, u32::MAX), (0, 0)] {
        let refused = store.get(GetRequest { block, offset, length }).await;
        assert_eq!(refused.unwrap_err(), FsError::Invalid);
    }
}

#[tokio::test]
async fn more_space_is_reserved_ahead_where_more_is_stored() {
    let disk = SimDisk::new();
    let store = open(&disk, 1 << 30, &Arc::new(Ids::default())).await.unwrap();
    let data = content(1, BLOCK_MAX);
    let mut reserved = Vec::new();
    for number in 1..=25 {
        store.put(put_request(data.clone())).await.unwrap();
        if number == 1 || number == 25 {
            reserved.push(disk.open("vol-00000001.cv").unwrap().allocated().unwrap() >> 20);
        }
    }
    // When 96 MiB were full, 92 had been stored: 32 more, not 16.
    assert_eq!(reserved, [16, 128]);
}

#[tokio::test]
async fn only_the_whole_name_finds_a_block() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let block = store.put(put_request(content(1, 10))).await.unwrap();
    assert_eq!(read_all(&store, block).await.unwrap(), content(1, 10));
    for wrong in [
        BlockRef { cookie: block.cookie ^ 1, ..block },
        BlockRef { sequence: block.sequence + 1, ..block },
        BlockRef { sequence: 0, ..block },
        BlockRef { volume: VolumeId(999), ..block },
    ] {
        assert_eq!(read_all(&store, wrong).await.unwrap_err(), FsError::NotFound, "{wrong}");
        store.delete(vec![wrong]).await.all().unwrap();
    }
    assert_eq!(read_all(&store, block).await.unwrap(), content(1, 10));
    store.delete(vec![block, block]).await.all().unwrap();
    store.delete(vec![block]).await.all().unwrap();
    assert_eq!(read_all(&store, block).await.unwrap_err(), FsError::NotFound);
    let stat = store.stat().await.unwrap();
    let volume = stat.volumes.iter().find(|v| v.volume == block.volume).unwrap();
    assert_eq!((volume.blocks, volume.deleted, volume.live_bytes), (0, 1, 0));
}

#[tokio::test]
async fn bad_requests_are_refused_before_anything_is_written() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let mut flipped = put_request(content(1, PIECE + 5));
    flipped.checksums[1] ^= 1;
    assert_eq!(store.put(flipped).await, Err(FsError::Corrupt));
    let mut short = put_request(content(1, PIECE + 5));
    short.checksums.pop();
    assert_eq!(store.put(short).await, Err(FsError::Invalid));
    let mut summary = put_request(content(1, 5));
    summary.summary_len = 6;
    assert_eq!(store.put(summary).await, Err(FsError::Invalid));
    assert_eq!(store.put(put_request(Bytes::new())).await, Err(FsError::Invalid));
    let large = put_request(vec![0; FRAME_PAYLOAD_MAX + 1].into());
    assert_eq!(store.put(large).await, Err(FsError::Invalid));
    assert!(store.stat().await.unwrap().volumes.iter().all(|v| v.blocks == 0));
}

#[tokio::test]
async fn full_volumes_are_sealed_and_reopened_by_their_index() {
    let disk = SimDisk::new();
    let ids = Arc::new(Ids::default());
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let mut blocks = Vec::new();
    for tag in 0..20 {
        blocks.push(store.put(put_request(content(tag, 200_000))).await.unwrap());
    }
    assert!(blocks.last().unwrap().volume > blocks[0].volume);
    store.delete(vec![blocks[1]]).await.all().unwrap();
    let index = format!("vol-{:08x}.ci", blocks[0].volume.0);
    eventually("the first volume is sealed", || disk.map(&index).is_ok()).await;
    store.stop().await.unwrap();
    assert_eq!(store.put(put_request(content(1, 1))).await, Err(FsError::Unavailable));
    drop(store);

    // As it is; with a bad index; without any.
    for damage in [None, Some(70), Some(usize::MAX)] {
        match damage {
            Some(usize::MAX) => disk.remove(&index).unwrap(),
            Some(offset) => disk.corrupt(&index, offset, &[0xff; 8]),
            None => {}
        }
        let store = open(&disk, VOLUME, &ids).await.unwrap();
        for (tag, block) in (0..).zip(&blocks) {
            let expected = if tag == 1 { Err(FsError::NotFound) } else { Ok(content(tag, 200_000)) };
            assert_eq!(read_all(&store, *block).await, expected, "{block}, damage {damage:?}");
        }
        let listed = store.list(blocks[0].volume, 0).unwrap();
        assert_eq!(listed.iter().map(|b| b.block).collect::<Vec<_>>(), blocks[..listed.len()]);
        assert_eq!(listed.iter().filter(|b| b.deleted).count(), 1);
        eventually("the index is made again", || disk.map(&index).is_ok()).await;
        store.stop().await.unwrap();
    }
}

#[tokio::test]
async fn goes_on_in_the_same_volume_after_a_restart() {
    let disk = SimDisk::new();
    let ids = Arc::new(Ids::default());
    let mut blocks = Vec::new();
    for tag in 0..5 {
        let store = open(&disk, VOLUME, &ids).await.unwrap();
        blocks.push(store.put(put_request(content(tag, 5000))).await.unwrap());
        for (tag, block) in (0..).zip(&blocks) {
            assert_eq!(read_all(&store, *block).await.unwrap(), content(tag, 5000));
        }
        store.stop().await.unwrap();
    }
    assert!(blocks.iter().all(|b| b.volume == blocks[0].volume), "{blocks:?}");
    assert_eq!(blocks.iter().map(|b| b.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_failed_sync_ends_the_volume_and_later_puts_go_elsewhere() {
    let disk = SimDisk::new();
    let ids = Arc::new(Ids::default());
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let before = store.put(put_request(content(1, 5000))).await.unwrap();
    spare_is_ready(&disk).await;
    disk.fail_once(Call::Sync, 0, ErrorKind::Other);
    assert_eq!(store.put(put_request(content(2, 5000))).await, Err(FsError::Io));
    let after = store.put(put_request(content(3, 5000))).await.unwrap();
    assert_ne!(before.volume, after.volume);
    for store in [store, open(&disk.power_cycle(3), VOLUME, &ids).await.unwrap()] {
        assert_eq!(read_all(&store, before).await.unwrap(), content(1, 5000));
        assert_eq!(read_all(&store, after).await.unwrap(), content(3, 5000));
        assert_eq!(store.list(before.volume, 0).unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_failed_write_goes_to_another_volume() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let before = store.put(put_request(content(1, 5000))).await.unwrap();
    spare_is_ready(&disk).await;
    disk.fail_once(Call::Write, 0, ErrorKind::Other);
    let after = store.put(put_request(content(2, 5000))).await.unwrap();
    assert_ne!(before.volume, after.volume);
    assert_eq!(read_all(&store, before).await.unwrap(), content(1, 5000));
    assert_eq!(read_all(&store, after).await.unwrap(), content(2, 5000));
    // A disk that fails for good is told, and does not take for ever.
    disk.fail_always(Call::Write, 0, ErrorKind::Other);
    assert_eq!(store.put(put_request(content(3, 5000))).await, Err(FsError::Io));
    assert_eq!(read_all(&store, before).await.unwrap(), content(1, 5000));
    disk.heal();
    store.put(put_request(content(4, 5000))).await.unwrap();
}

/// Each volume has room for one block, so of those that wait for one all but one have to wait again.
#[tokio::test]
async fn a_put_waits_for_a_volume_as_often_as_others_fill_it_before() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let puts = (0..12u64).map(|tag| store.put(put_request(content(tag, 600_000))));
    let blocks = futures::future::join_all(puts).await;
    for (tag, block) in (0..).zip(blocks) {
        assert_eq!(read_all(&store, block.unwrap()).await.unwrap(), content(tag, 600_000));
    }
    let too_large = content(1, usize::try_from(VOLUME).unwrap());
    assert_eq!(store.put(put_request(too_large)).await, Err(FsError::Invalid), "no volume takes it");
    store.stop().await.unwrap();
}

/// Volumes can be made on it, and written nowhere.
#[tokio::test]
async fn a_put_spends_two_volumes_on_a_broken_disk_and_no_more() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    // Near the reserve, each block asks for its own space.
    disk.set_available(config(VOLUME).reserve.0 + (2 << 20));
    let before = store.put(put_request(content(1, 5000))).await.unwrap();
    spare_is_ready(&disk).await;
    disk.fail_always(Call::Allocate, 0, ErrorKind::Other);
    for puts in 1..=3 {
        assert_eq!(store.put(put_request(content(2, 500_000))).await, Err(FsError::Io));
        assert_eq!(disk.failures(), 2 * puts, "one for each volume that was tried");
    }
    disk.heal();
    let after = store.put(put_request(content(3, 500_000))).await.unwrap();
    assert_eq!(read_all(&store, before).await.unwrap(), content(1, 5000));
    assert_eq!(read_all(&store, after).await.unwrap(), content(3, 500_000));
    store.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_is_told_and_harms_nothing() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let reserve = config(VOLUME).reserve.0;
    // Near the reserve, space is taken block by block.
    disk.set_available(reserve + 1_000_000);
    let first = store.put(put_request(content(1, 5000))).await.unwrap();
    spare_is_ready(&disk).await;
    // Too little beyond the reserve; the reservation fails; the write fails half way.
    disk.set_available(reserve + 100_000);
    assert_eq!(store.put(put_request(content(2, 500_000))).await, Err(FsError::NoSpace));
    // Cleaning makes room, and takes some of what is kept free before; also that has an end.
    let cleaning = |tag| PutRequest { session: SessionId::NOBODY, ..put_request(content(tag, 500_000)) };
    let cleaned = store.put(cleaning(6)).await.unwrap();
    assert_eq!(read_all(&store, cleaned).await.unwrap(), content(6, 500_000));
    disk.set_available(reserve - 4 * FRAME_PAYLOAD_MAX as u64);
    assert_eq!(store.put(cleaning(7)).await, Err(FsError::NoSpace));
    disk.set_available(reserve + 1_000_000);
    disk.fail_once(Call::Allocate, 0, ErrorKind::StorageFull);
    assert_eq!(store.put(put_request(content(3, 5000))).await, Err(FsError::NoSpace));
    disk.fail_once(Call::Write, 0, ErrorKind::StorageFull);
    assert_eq!(store.put(put_request(content(4, 5000))).await, Err(FsError::NoSpace));
    let second = store.put(put_request(content(5, 4000))).await.unwrap();
    assert_eq!(second.volume, first.volume);
    assert_eq!(read_all(&store, first).await.unwrap(), content(1, 5000));
    assert_eq!(read_all(&store, second).await.unwrap(), content(5, 4000));
    store.stop().await.unwrap();
    drop(store);
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    assert_eq!(read_all(&store, first).await.unwrap(), content(1, 5000));
    assert_eq!(read_all(&store, second).await.unwrap(), content(5, 4000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_share_syncs() {
    let disk = SimDisk::new();
    let store = open(&disk, VOLUME, &Arc::new(Ids::default())).await.unwrap();
    let tasks = (0..16_u64).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut blocks = Vec::new();
            for step in 0..40 {
                let tag = task * 1000 + step;
                let length = usize::try_from(1 + (tag * 7919) % 30_000).unwrap();
                let block = store.put(put_request(content(tag, length))).await.unwrap();
                assert_eq!(read_all(&store, block).await.unwrap(), content(tag, length));
                blocks.push((block, tag, length));
                if step % 5 == 4 {
                    let (gone, ..) = blocks.swap_remove(blocks.len() / 2);
                    store.delete(vec![gone]).await.all().unwrap();
                    assert_eq!(read_all(&store, gone).await, Err(FsError::NotFound));
                }
            }
            blocks
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.extend(task.await.unwrap());
    }
    let mut names: Vec<_> = all.iter().map(|(block, ..)| *block).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 16 * 32);
    for (block, tag, length) in all {
        assert_eq!(read_all(&store, block).await.unwrap(), content(tag, length));
    }
    let stat = store.stat().await.unwrap();
    assert_eq!(stat.puts, 16 * 40);
    assert!(stat.syncs <= stat.puts);
    store.stop().await.unwrap();
}

#[tokio::test]
async fn works_on_a_real_directory_that_only_one_may_use() {
    let dir = tempfile::tempdir().unwrap();
    let ids = Arc::new(Ids::default());
    let config = DataConfig { volume_size: ByteSize(16 << 20), ..DataConfig::new(dir.path().join("data")) };
    let mut data_dir = DataDir::open(&config).unwrap();
    let identity = data_dir.identity().identity;
    data_dir.assign(owner()).unwrap();
    let second = DataDir::open(&config).err().unwrap().to_string();
    assert!(second.ends_with("is in use by another daemon or a check"), "{second}");
    let store = data_dir.start(&config, ids.clone()).await.unwrap();
    let mut blocks = Vec::new();
    for tag in 0..12 {
        blocks.push(store.put(put_request(content(tag, 3 << 20))).await.unwrap());
    }
    store.delete(vec![blocks[3]]).await.all().unwrap();
    check(&store, &blocks).await;
    store.stop().await.unwrap();
    drop(store);

    let mut data_dir = DataDir::open(&config).unwrap();
    assert_eq!(data_dir.identity().identity, identity);
    let other = cairn_fsd::data::Owner { node: cairn_common::ids::NodeId(8), ..owner() };
    assert!(data_dir.assign(other).is_err());
    data_dir.assign(owner()).unwrap();
    let store = data_dir.start(&config, ids).await.unwrap();
    check(&store, &blocks).await;
    store.stop().await.unwrap();
}

async fn check(store: &Store, blocks: &[BlockRef]) {
    for (tag, block) in (0..).zip(blocks) {
        let expected = if tag == 3 { Err(FsError::NotFound) } else { Ok(content(tag, 3 << 20)) };
        assert_eq!(read_all(store, *block).await, expected, "{block}");
    }
}

/// Stores blocks until a volume is sealed; answers those in it.
async fn fill_a_volume(store: &Store, disk: &SimDisk) -> Vec<BlockRef> {
    let mut blocks = Vec::new();
    while blocks.first().is_none_or(|first: &BlockRef| {
        blocks.last().is_some_and(|last: &BlockRef| last.volume == first.volume)
    }) {
        blocks.push(store.put(put_request(content(1, 100_000))).await.unwrap());
    }
    let first = blocks[0].volume;
    eventually("the first is sealed", || disk.list().unwrap().contains(&format!("vol-{:08x}.ci", first.0)))
        .await;
    blocks.retain(|block| block.volume == first);
    blocks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_volume_without_blocks_is_removed() {
    let disk = SimDisk::new();
    let ids = Arc::new(Ids::default());
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let blocks = fill_a_volume(&store, &disk).await;
    let stem = format!("vol-{:08x}", blocks[0].volume.0);
    let files = || disk.list().unwrap().into_iter().filter(|name| name.starts_with(&stem)).count();
    store.delete(blocks[1..].to_vec()).await.all().unwrap();
    assert_eq!(files(), 3, "one block is left");
    store.delete(blocks[..1].to_vec()).await.all().unwrap();
    assert_eq!(files(), 0);
    // It is asked again, as after a lost answer.
    assert_eq!(store.delete(blocks.clone()).await.gone, blocks);
    assert_eq!(read_all(&store, blocks[0]).await, Err(FsError::NotFound));
    assert!(store.volumes().iter().all(|volume| *volume != blocks[0].volume));
}

/// Whatever of the removal survives a loss of power: the blocks do not come back, and the rest of it is made up for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_whose_removal_was_cut_short_goes_at_the_next_start() {
    let mut cut = 0;
    for round in 0..8 {
        for changes in 0.. {
            let disk = SimDisk::new();
            let ids = Arc::new(Ids::default());
            let store = open(&disk, VOLUME, &ids).await.unwrap();
            let blocks = fill_a_volume(&store, &disk).await;
            spare_is_made(&store).await;
            disk.power_off_after(changes);
            let deleted = store.delete(blocks.clone()).await.all().is_ok();
            cut += usize::from(disk.is_off());
            let (was_off, seed) = (disk.is_off(), round * 100 + changes);
            let after = disk.power_cycle(seed);
            drop(store);
            let store = open(&after, VOLUME, &ids).await.unwrap();
            let context = format!("seed {seed}, power off after {changes} changes");
            if deleted {
                let name = format!("vol-{:08x}.cv", blocks[0].volume.0);
                eventually(&format!("{context}: it is gone"), || !after.list().unwrap().contains(&name))
                    .await;
            }
            for block in &blocks {
                match read_all(&store, *block).await {
                    Ok(bytes) => assert!(!deleted && bytes == content(1, 100_000), "{context}: {block}"),
                    Err(error) => assert_eq!(error, FsError::NotFound, "{context}: {block}"),
                }
            }
            if !was_off {
                break;
            }
        }
    }
    assert!(cut > 100, "the power went only {cut} times");
}

/// Until nothing goes on in the background.
async fn spare_is_made(store: &Store) {
    eventually("three volumes", || store.volumes().len() == 3).await;
}

/// Whoever opens the directory next has it alone: a volume that was still being sealed then was cut where blocks had been
/// stored meanwhile, seldom, and found by `data_model.rs` under load.
#[tokio::test]
async fn a_store_has_stopped_when_nothing_of_it_is_at_the_disk() {
    let (disk, ids) = (SimDisk::new(), Arc::new(Ids::default()));
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    let mut blocks = Vec::new();
    for tag in 0..2 {
        blocks.push(store.put(put_request(content(tag, 1000))).await.unwrap());
    }
    // The first makes the log of deletes; the second waits for it.
    store.delete(vec![blocks[0]]).await.all().unwrap();
    disk.hold_syncs("vol-00000001.cd");
    let deleting = tokio::spawn({
        let (store, block) = (store.clone(), blocks[1]);
        async move { store.delete(vec![block]).await.all() }
    });
    tokio::task::yield_now().await;
    // Also if nobody waits for it any more.
    deleting.abort();
    assert!(deleting.await.unwrap_err().is_cancelled());
    let mut stopping = Box::pin(store.stop());
    let early = tokio::time::timeout(Duration::from_millis(100), &mut stopping).await;
    disk.release_syncs();
    assert!(early.is_err(), "stopped before its delete");
    stopping.await.unwrap();
    assert_eq!(store.delete(vec![blocks[1]]).await.all(), Err(FsError::Unavailable));
    store.stop().await.unwrap();
    let store = open(&disk, VOLUME, &ids).await.unwrap();
    assert_eq!(store.stat().await.unwrap().volumes.iter().map(|v| v.blocks).sum::<u64>(), 0);
}
