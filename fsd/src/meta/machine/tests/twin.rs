//! The rules over redb against the same rules over maps: same replies, same tree.

use super::random::Random;
use super::*;
use crate::disk::sim::SimDisk;
use cairn_common::namespace::apply;
use cairn_common::namespace::check::Inventory;
use cairn_common::namespace::tables::Tables;
use cairn_common::namespace::twin::Twin;
use cairn_common::namespace::{end_session_locks, init_root, reap};
use std::sync::Arc;

/// The tree of a snapshot in maps.
fn copy(snapshot: &Snapshot) -> FsResult<Twin> {
    let mut twin = Twin::new();
    let mut inodes = Vec::new();
    snapshot.all_inodes(&mut |inode| inodes.push(inode))?;
    for inode in inodes {
        let ino = inode.attr.ino;
        twin.put_inode(&inode)?;
        snapshot.scan_dentries(ino, 0, &mut |dentry| twin.put_dentry(ino, &dentry).is_ok())?;
        snapshot.scan_extents(ino, 0, u64::MAX, &mut |extent| twin.put_extent(ino, &extent).is_ok())?;
        for name in snapshot.xattr_names(ino)? {
            twin.put_xattr(ino, &name, &snapshot.xattr(ino, &name)?.unwrap())?;
        }
        let locks = snapshot.locks(ino)?;
        if !locks.is_empty() {
            twin.put_locks(ino, &locks)?;
        }
    }
    snapshot.all_blocks(&mut |block, usage| twin.put_block(block, usage).unwrap())?;
    for block in snapshot.delete_queue(VolumeId(1), usize::MAX)? {
        twin.queue_delete(block)?;
    }
    snapshot.all_orphans(&mut |ino| twin.put_orphan(ino).unwrap())?;
    twin.put_totals(snapshot.totals()?)?;
    Ok(twin)
}

fn assert_same(machine: &Machine, twin: &Twin, context: &str) {
    assert_eq!(machine.check().unwrap(), Vec::<String>::new(), "{context}");
    let found = machine.read(copy).unwrap();
    assert!(found == *twin, "{context}: the trees differ:\n{found:#?}\n{twin:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redb_and_maps_agree() {
    for seed in 100..106 {
        let birth = Birth { cluster: ClusterId(1), time: time(1) };
        let machine = Machine::open_on(Arc::new(SimDisk::new()), None, small(), &birth).unwrap();
        let mut twin = Twin::new();
        init_root(&mut twin, time(1), &Caller::default(), 0o755).unwrap();
        let sessions = [open_session(&machine).await, open_session(&machine).await];
        let allocate = Command::AllocateInos { session: sessions[0] };
        let Reply::Inos(range) = machine.submit(allocate).await.unwrap().reply else { panic!("no numbers") };
        let mut random = Random::new(seed, range.first);
        let mut next = [1, 1];
        for round in 0..24 {
            let context = format!("seed {seed}, round {round}");
            let at = round % 2;
            let ops = random.ops(1 + round * 2);
            let expected: Vec<OpResult> = ops.iter().map(|op| apply(&mut twin, sessions[at], op)).collect();
            let count = ops.len() as u64;
            assert_eq!(batch(&machine, sessions[at], next[at], ops).await.unwrap(), expected, "{context}");
            next[at] += count;
            if round % 6 == 5 {
                let inos = machine.read(|snapshot| snapshot.orphans(Ino(0), 3)).unwrap();
                inos.iter().for_each(|ino| assert!(reap(&mut twin, *ino, 4096).unwrap()));
                let reaped = machine.submit(Command::Reap { inos: inos.clone() }).await.unwrap();
                assert_eq!(reaped.reply, Reply::Reaped { unfinished: Vec::new() });
                assert_eq!(reaped.effects.removed, inos, "{context}");
            }
            assert_same(&machine, &twin, &context);
        }
        let unlocked = end_session_locks(&mut twin, sessions[0]).unwrap();
        let ended = machine.submit(Command::EndSession { session: sessions[0] }).await.unwrap();
        assert_eq!(ended.effects.unlocked, unlocked);
        assert_same(&machine, &twin, "after the end of a session");
    }
}
