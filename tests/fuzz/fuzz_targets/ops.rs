//! Operations as a mount may send them, applied to a small tree: each is done, or refused and nothing happened, and what
//! must hold in any tree goes on to hold.
#![no_main]

use cairn_common::attr::{Caller, FileKind, SECOND, Timestamp};
use cairn_common::error::FsError;
use cairn_common::ids::SessionId;
use cairn_common::limits::{FILE_SIZE_MAX, FRAME_HEADER_MAX, SYMLINK_MAX};
use cairn_common::namespace::check::{self, Inventory};
use cairn_common::namespace::op::Op;
use cairn_common::namespace::tables::Inode;
use cairn_common::namespace::twin::Twin;
use cairn_common::namespace::{apply, init_root, reap};
use cairn_common::wire::codec::{decode, encode};
use cairn_fuzz::{Input, MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut tree = if input.u8().is_multiple_of(2) { Twin::new() } else { Twin::colliding(2) };
    init_root(&mut tree, Timestamp { secs: 1, nanos: 0 }, &Caller::default(), 0o755).expect("it is empty");
    while !input.is_empty() {
        let session = SessionId(u64::from(input.u8() % 3));
        // The codec believes no length above 64 MiB.
        let Ok(op) = within(66 * MIB, || decode::<Op>(input.chunk(), FRAME_HEADER_MAX)) else { continue };
        assert_eq!(encode(&op).and_then(|bytes| decode(&bytes, FRAME_HEADER_MAX)).as_ref(), Ok(&op));
        within(8 * MIB, || step(&mut tree, session, &op));
    }
    within(8 * MIB, || clean_up(tree));
});

fn step(tree: &mut Twin, session: SessionId, op: &Op) {
    let before = tree.clone();
    match apply(tree, session, op) {
        Ok(_) => assert_sound(tree, op),
        Err(error) => {
            assert!(error != FsError::Io && error != FsError::Corrupt, "{error:?} for {op:?}");
            assert!(*tree == before, "{error:?}, but something changed: {op:?}");
        }
    }
}

/// All that has no name any more can go.
fn clean_up(mut tree: Twin) {
    let mut orphans = Vec::new();
    Inventory::all_orphans(&tree, &mut |ino| orphans.push(ino)).expect("a tree in memory can be read");
    for ino in orphans {
        assert_eq!(reap(&mut tree, ino, usize::MAX), Ok(true));
    }
    assert_sound(&tree, &"the end");
}

fn assert_sound(tree: &Twin, after: &dyn std::fmt::Debug) {
    let problems = check::check(tree).expect("a tree in memory can be read");
    assert!(problems.is_empty(), "{problems:?} after {after:?}");
    Inventory::all_inodes(tree, &mut |inode| assert_storable(&inode, after)).expect("as above");
}

/// What a dump is allowed to say of an inode.
fn assert_storable(Inode { attr, target, .. }: &Inode, after: &dyn std::fmt::Debug) {
    assert!(attr.perm <= 0o7777, "{:o} after {after:?}", attr.perm);
    assert!(attr.size <= FILE_SIZE_MAX, "{} bytes after {after:?}", attr.size);
    let times = [attr.atime, attr.mtime, attr.ctime, attr.btime];
    assert!(times.iter().all(|time| time.nanos < SECOND), "{times:?} after {after:?}");
    assert!(target.len() <= SYMLINK_MAX && (target.is_empty() || attr.kind == FileKind::Symlink));
}
