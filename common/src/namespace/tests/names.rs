//! Making, linking and removing: what the models do not look at.

use super::super::op::{Create, OpBody, OpReply};
use super::super::tables::Read;
use super::super::twin::Twin;
use super::super::{init_root, readlink, reap};
use super::{ROOT, World, name};
use crate::attr::{Caller, FileKind, SetAttr};
use crate::error::FsError;
use crate::ids::Ino;
use crate::limits::{LINK_MAX, SYMLINK_MAX};
use bytes::Bytes;

fn open(parent: Ino, text: &str, ino: Ino) -> Create {
    Create {
        parent,
        name: name(text),
        ino,
        kind: FileKind::File,
        perm: 0o666,
        umask: 0o022,
        rdev: 0,
        exclusive: false,
        open: true,
    }
}

#[test]
fn open_with_creation_takes_a_file_that_is_there() {
    let mut world = World::new();
    let (file, dir) = (world.file(ROOT, "file"), world.dir(ROOT, "dir"));
    let _ = dir;
    world.make(ROOT, "fifo", FileKind::Fifo).unwrap();
    let body = OpBody::Symlink { parent: ROOT, name: name("link"), ino: Ino(50), target: name("file") };
    world.apply(body).unwrap();
    let mut open = |text| world.apply(OpBody::Create(open(ROOT, text, Ino(60))));
    let Ok(OpReply::Entry { attr, created: false }) = open("file") else { panic!() };
    assert_eq!(attr.ino, file);
    assert_eq!(open("dir"), Err(FsError::IsDir));
    assert_eq!(open("link"), Err(FsError::Exists));
    assert_eq!(open("fifo"), Err(FsError::Exists));
    let Ok(OpReply::Entry { attr, created: true }) = open("new") else { panic!() };
    assert_eq!((attr.ino, attr.perm), (Ino(60), 0o644));
}

#[test]
fn numbers_are_never_given_twice() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    for ino in [Ino(0), ROOT, file] {
        assert_eq!(world.apply(OpBody::Create(open(ROOT, "b", ino))), Err(FsError::Invalid));
        let tmpfile = OpBody::Tmpfile { parent: ROOT, ino, perm: 0o600, umask: 0 };
        assert_eq!(world.apply(tmpfile), Err(FsError::Invalid));
        let symlink = OpBody::Symlink { parent: ROOT, name: name("b"), ino, target: name("x") };
        assert_eq!(world.apply(symlink), Err(FsError::Invalid));
    }
}

#[test]
fn kinds_have_what_is_theirs() {
    let mut world = World::new();
    let mut make = |kind, ino| {
        let create = Create { kind, rdev: 0x0103, ..open(ROOT, &format!("{kind:?}"), ino) };
        let Ok(OpReply::Entry { attr, .. }) = world.apply(OpBody::Create(create)) else { panic!() };
        (attr.nlink, attr.rdev, attr.size)
    };
    assert_eq!(make(FileKind::CharDevice, Ino(10)), (1, 0x0103, 0));
    assert_eq!(make(FileKind::BlockDevice, Ino(11)), (1, 0x0103, 0));
    assert_eq!(make(FileKind::Socket, Ino(12)), (1, 0, 0));
    assert_eq!(make(FileKind::Dir, Ino(13)), (2, 0, 4096));
    let symlink = Create { kind: FileKind::Symlink, ..open(ROOT, "s", Ino(14)) };
    assert_eq!(world.apply(OpBody::Create(symlink)), Err(FsError::Invalid));
    assert_eq!(world.attr(ROOT).nlink, 3);
    assert_eq!(world.attr(ROOT).size, 4096 + 4 * 32);
}

#[test]
fn symbolic_links_keep_their_target() {
    let mut world = World::new();
    let mut symlink = |target: Bytes, ino| {
        let body = OpBody::Symlink { parent: ROOT, name: name("l"), ino, target };
        world.apply(body).map(drop)
    };
    assert_eq!(symlink(name(""), Ino(20)), Err(FsError::NotFound));
    assert_eq!(symlink(name("a\0b"), Ino(20)), Err(FsError::Invalid));
    let longest = Bytes::from(vec![b'x'; SYMLINK_MAX + 1]);
    assert_eq!(symlink(longest.clone(), Ino(20)), Err(FsError::NameTooLong));
    symlink(longest.slice(1..), Ino(20)).unwrap();
    let attr = world.attr(Ino(20));
    assert_eq!((attr.size, attr.perm), (SYMLINK_MAX as u64, 0o777));
    assert_eq!(readlink(&world.twin, Ino(20)).unwrap().len(), SYMLINK_MAX);
    assert_eq!(readlink(&world.twin, ROOT), Err(FsError::Invalid));
}

#[test]
fn links_end_at_the_limit() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    let mut inode = world.twin.inode(file).unwrap().unwrap();
    inode.attr.nlink = LINK_MAX;
    super::super::tables::Tables::put_inode(&mut world.twin, &inode).unwrap();
    let op = super::Op {
        time: world.now,
        caller: Caller::default(),
        body: OpBody::Link { ino: file, parent: ROOT, name: name("b") },
    };
    let result = super::apply(&mut world.twin, world.session, &op);
    assert_eq!(result, Err(FsError::TooManyLinks));
}

#[test]
fn a_file_lives_on_without_a_name_until_it_is_reaped() {
    let mut world = World::new();
    let file = world.file(ROOT, "a");
    world.link(file, ROOT, "b").unwrap();
    assert_eq!(world.unlink(ROOT, "a"), Ok(OpReply::Unlinked { ino: file, nlink: 1 }));
    assert_eq!(reap(&mut world.twin, file, 10), Ok(true));
    assert_eq!(world.attr(file).nlink, 1, "with a name it is not reaped");
    assert_eq!(world.unlink(ROOT, "b"), Ok(OpReply::Unlinked { ino: file, nlink: 0 }));
    let set = SetAttr { size: Some(10), perm: Some(0o600), ..SetAttr::default() };
    assert_eq!(world.set(file, set).unwrap().size, 10);
    assert_eq!(world.link(file, ROOT, "c"), Err(FsError::NotFound));
    assert_eq!(reap(&mut world.twin, file, 10), Ok(true));
    world.check();
    assert_eq!(world.set(file, set), Err(FsError::Stale));
    assert_eq!(world.link(file, ROOT, "c"), Err(FsError::Stale));
    assert_eq!(world.twin.totals().unwrap().inodes, 1);
}

#[test]
fn a_file_without_a_name_can_get_one_once() {
    let mut world = World::new();
    let ino = world.next_ino();
    let body = OpBody::Tmpfile { parent: ROOT, ino, perm: 0o666, umask: 0o027 };
    let Ok(OpReply::Entry { attr, .. }) = world.apply(body) else { panic!() };
    assert_eq!((attr.nlink, attr.perm, world.twin.is_orphan(ino)), (0, 0o640, Ok(true)));
    world.link(ino, ROOT, "a").unwrap();
    assert_eq!(world.twin.is_orphan(ino), Ok(false));
    world.unlink(ROOT, "a").unwrap();
    assert_eq!(world.link(ino, ROOT, "a"), Err(FsError::NotFound));
}

#[test]
fn times_of_directories_and_files_move_with_names() {
    let mut world = World::new();
    let (one, two) = (world.dir(ROOT, "one"), world.dir(ROOT, "two"));
    let file = world.file(one, "a");
    let times = |world: &World, ino| (world.attr(ino).mtime, world.attr(ino).ctime);

    let (before_file, before_one) = (times(&world, file), times(&world, one));
    world.rename((one, "a"), (two, "b"), 0).unwrap();
    let now = world.now;
    assert_eq!(times(&world, one), (now, now));
    assert_eq!(times(&world, two), (now, now));
    assert_eq!(times(&world, file), (before_file.0, now));
    assert!(before_one.0 < now);

    world.link(file, one, "c").unwrap();
    assert_eq!(times(&world, file), (before_file.0, world.now));
    assert_eq!(times(&world, one), (world.now, world.now));
    let before_two = times(&world, two);
    world.unlink(one, "c").unwrap();
    assert_eq!(times(&world, file), (before_file.0, world.now));
    assert_eq!(times(&world, one), (world.now, world.now));
    assert_eq!(times(&world, two), before_two);
}

/// Each change shows in `ctime`, also when the clock stands still or goes back.
#[test]
fn times_move_forward_when_the_clock_does_not() {
    let mut world = World::new();
    let mut last = world.attr(ROOT);
    for at in 0..5 {
        world.now.secs -= 2;
        world.file(ROOT, &at.to_string());
        let attr = world.attr(ROOT);
        assert!(attr.ctime > last.ctime && attr.mtime > last.mtime);
        last = attr;
    }
}

#[test]
fn a_whiteout_is_a_device_of_zero() {
    let mut world = World::new();
    world.file(ROOT, "a");
    world.rename((ROOT, "a"), (ROOT, "b"), libc::RENAME_WHITEOUT).unwrap();
    let attr = super::super::lookup(&world.twin, ROOT, b"a").unwrap();
    assert_eq!((attr.kind, attr.rdev, attr.perm, attr.nlink), (FileKind::CharDevice, 0, 0, 1));
}

#[test]
fn the_reply_to_a_rename_tells_what_was_replaced() {
    let mut world = World::new();
    let (one, two) = (world.file(ROOT, "a"), world.file(ROOT, "b"));
    world.link(two, ROOT, "c").unwrap();
    let replaced = |left| Ok(OpReply::Renamed { replaced: Some((two, left)) });
    assert_eq!(world.rename((ROOT, "a"), (ROOT, "b"), 0), replaced(1));
    assert_eq!(world.rename((ROOT, "b"), (ROOT, "c"), 0), replaced(0));
    assert_eq!(world.attr(one).nlink, 1);
    assert_eq!(world.twin.is_orphan(two), Ok(true));
}

#[test]
fn the_root_is_made_once() {
    let mut twin = Twin::new();
    init_root(&mut twin, Default::default(), &Caller::default(), 0o755).unwrap();
    let again = init_root(&mut twin, Default::default(), &Caller::default(), 0o755);
    assert_eq!(again, Err(FsError::Exists));
}
