use super::super::op::{Commit, Extent, ExtentData, FileCommit, OpBody, Piece};
use super::super::users::users;
use super::{ROOT, World};
use crate::ids::{BlockRef, Ino, VolumeId};
use std::collections::BTreeSet;

fn block(sequence: u32) -> BlockRef {
    BlockRef { volume: VolumeId(1), sequence, cookie: 7 }
}

/// A block that holds the first bytes of each of `files`.
fn commit(world: &mut World, block: BlockRef, files: &[Ino]) {
    let piece = |(index, ino): (usize, &Ino)| {
        let data = ExtentData::Block { block, offset: index as u32 * 100 };
        Piece { ino: *ino, extent: Extent { offset: 0, length: 100, data } }
    };
    let file = |ino: &Ino| FileCommit { ino: *ino, size_at_least: 100, mtime: None, kill_suidgid: false };
    let pieces = files.iter().enumerate().map(piece).collect();
    let files = files.iter().map(file).collect();
    world.apply(OpBody::Commit(Commit { blocks: vec![(block, 1000)], pieces, files })).unwrap();
}

#[test]
fn damage_is_told_by_the_names_of_the_files() {
    let mut world = World::new();
    let deep = world.dir(ROOT, "a");
    let deep = world.dir(deep, "b");
    let (one, two, three) = (world.file(deep, "one"), world.file(ROOT, "two"), world.file(ROOT, "three"));
    let removed = world.file(ROOT, "removed");
    commit(&mut world, block(1), &[one, two, removed]);
    commit(&mut world, block(2), &[three]);
    world.link(one, ROOT, "again").unwrap();
    world.unlink(ROOT, "removed").unwrap();

    let found = users(&world.twin, &BTreeSet::from([block(1), block(9)])).unwrap();
    assert!(found.iter().all(|user| user.block == block(1)));
    let paths = |ino| {
        let user = found.iter().find(|user| user.ino == ino).unwrap();
        user.paths.iter().map(|path| String::from_utf8(path.to_vec()).unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(paths(one), BTreeSet::from(["/a/b/one".to_owned(), "/again".to_owned()]));
    assert_eq!(paths(two), BTreeSet::from(["/two".to_owned()]));
    assert_eq!(paths(removed), BTreeSet::new());
    assert_eq!(found.len(), 3);
}
