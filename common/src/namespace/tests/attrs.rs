//! Attributes: modes, owners, times, privileges, plain extended attributes.

use super::super::op::{Commit, Create, ExtentData, FallocateMode, FileCommit, OpBody, OpReply, XattrMode};
use super::super::{getxattr, listxattr};
use super::{ROOT, World, name};
use crate::attr::{Attr, FileKind, SetAttr, SetTime, Timestamp};
use crate::error::FsError;
use crate::ids::Ino;
use crate::limits::{XATTR_LIST_MAX, XATTR_SIZE_MAX};
use bytes::Bytes;

fn none() -> SetAttr {
    SetAttr::default()
}

fn perm(perm: u16) -> SetAttr {
    SetAttr { perm: Some(perm), ..none() }
}

fn set_xattr(
    world: &mut World,
    ino: Ino,
    text: &str,
    value: &[u8],
    mode: XattrMode,
) -> Result<Attr, FsError> {
    let value = Bytes::copy_from_slice(value);
    let reply = world.apply(OpBody::SetXattr { ino, name: name(text), value, mode })?;
    let OpReply::Attr(attr) = reply else { panic!("{reply:?}") };
    Ok(attr)
}

#[test]
fn setgid_directories_give_their_group() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    world.set(dir, SetAttr { gid: Some(77), perm: Some(0o2755), ..none() }).unwrap();
    let (file, inner) = (world.file(dir, "f"), world.dir(dir, "i"));
    assert_eq!((world.attr(file).gid, world.attr(file).perm), (77, 0o755));
    assert_eq!((world.attr(inner).gid, world.attr(inner).perm), (77, 0o2755));
    let plain = world.file(ROOT, "plain");
    assert_eq!(world.attr(plain).gid, world.caller.gid);
}

#[test]
fn chown_takes_privileges_away() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let dir = world.dir(ROOT, "d");
    let owner = SetAttr { uid: Some(5), ..none() };
    for (before, after) in [(0o6755, 0o755), (0o6745, 0o2745), (0o4644, 0o644), (0o1644, 0o1644)] {
        world.set(file, perm(before)).unwrap();
        assert_eq!(world.set(file, owner).unwrap().perm, after, "{before:o}");
    }
    world.set(dir, perm(0o6755)).unwrap();
    assert_eq!(world.set(dir, owner).unwrap().perm, 0o6755);
    let both = SetAttr { gid: Some(6), perm: Some(0o4755), ..none() };
    assert_eq!(world.set(file, both).unwrap().perm, 0o4755, "what is asked for wins");
}

#[test]
fn writing_takes_privileges_away_if_the_kernel_says_so() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let privileged = |world: &mut World| {
        world.set(file, perm(0o6755)).unwrap();
        set_xattr(world, file, "security.capability", b"cap", XattrMode::Set).unwrap();
    };
    let capability = |world: &World| getxattr(&world.twin, file, b"security.capability").is_ok();
    for kill in [false, true] {
        let left = if kill { 0o755 } else { 0o6755 };
        privileged(&mut world);
        world.set(file, SetAttr { size: Some(4), kill_suidgid: kill, ..none() }).unwrap();
        assert_eq!((world.attr(file).perm, capability(&world)), (left, false));

        privileged(&mut world);
        let data = ExtentData::Inline(Bytes::from_static(b"x"));
        world
            .apply(OpBody::Append { ino: file, length: 1, data, block_length: 0, kill_suidgid: kill })
            .unwrap();
        assert_eq!((world.attr(file).perm, capability(&world)), (left, false));

        privileged(&mut world);
        let size_at_least = world.attr(file).size + 1;
        let change = FileCommit { ino: file, size_at_least, mtime: None, kill_suidgid: kill };
        let commit = Commit { blocks: vec![], pieces: vec![], files: vec![change] };
        world.apply(OpBody::Commit(commit)).unwrap();
        assert_eq!((world.attr(file).perm, capability(&world)), (left, false));
    }
}

/// With these the kernel says nothing.
#[test]
fn fallocate_and_copies_of_others_than_root_take_privileges_away() {
    let mut world = World::new();
    let (from, file) = (world.file(ROOT, "a"), world.file(ROOT, "f"));
    world.set(from, SetAttr { size: Some(8192), ..none() }).unwrap();
    let allocate = OpBody::Fallocate {
        ino: file,
        mode: FallocateMode::Allocate { keep_size: false },
        offset: 0,
        length: 4096,
    };
    let clone = |length| OpBody::CloneRange { from, from_offset: 0, to: file, to_offset: 0, length };
    for (uid, left) in [(0, 0o6755), (1000, 0o755)] {
        for body in [allocate.clone(), clone(4096)] {
            world.set(file, perm(0o6755)).unwrap();
            world.caller.uid = uid;
            world.apply(body).unwrap();
            assert_eq!(world.attr(file).perm, left);
        }
    }
    world.set(file, perm(0o6755)).unwrap();
    world.apply(clone(0)).unwrap();
    assert_eq!(world.attr(file).perm, 0o6755, "nothing was copied");
}

#[test]
fn every_mode_of_fallocate_moves_both_times() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let modes = [
        FallocateMode::Allocate { keep_size: false },
        FallocateMode::Allocate { keep_size: true },
        FallocateMode::PunchHole,
        FallocateMode::ZeroRange { keep_size: true },
        FallocateMode::InsertRange,
        FallocateMode::CollapseRange,
    ];
    for mode in modes {
        world.apply(OpBody::Fallocate { ino: file, mode, offset: 0, length: 4096 }).unwrap();
        let attr = world.attr(file);
        assert_eq!((attr.mtime, attr.ctime), (world.now, world.now), "{mode:?}");
    }
}

#[test]
fn times_are_set_as_told() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let at = |secs| Timestamp { secs, nanos: 3 };
    let set = SetAttr { atime: Some(SetTime::At(at(-5))), mtime: Some(SetTime::At(at(9))), ..none() };
    let attr = world.set(file, set).unwrap();
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (at(-5), at(9), world.now));
    let set = SetAttr { atime: Some(SetTime::Now), ..none() };
    let attr = world.set(file, set).unwrap();
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (world.now, at(9), world.now));
    let nothing = world.set(file, none()).unwrap();
    assert_eq!(nothing, attr);
}

/// A file from the future: the next write has the time of the write.
#[test]
fn a_write_after_a_time_in_the_future_has_its_own() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let future = Timestamp { secs: 9_000_000, nanos: 0 };
    world.set(file, SetAttr { mtime: Some(SetTime::At(future)), ..none() }).unwrap();
    let attr = world.set(file, SetAttr { size: Some(1), ..none() }).unwrap();
    assert_eq!(attr.mtime, world.now);
}

#[test]
fn truncation_to_the_same_size_is_a_change() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let before = world.attr(file);
    let after = world.set(file, SetAttr { size: Some(0), ..none() }).unwrap();
    assert!(after.mtime > before.mtime && after.ctime == after.mtime);
    let dir = world.dir(ROOT, "d");
    let size = SetAttr { size: Some(0), ..none() };
    assert_eq!(world.set(dir, size), Err(FsError::IsDir));
    let fifo = world.make(ROOT, "p", FileKind::Fifo).unwrap();
    assert_eq!(world.set(fifo, size), Err(FsError::Invalid));
}

#[test]
fn extended_attributes_are_set_listed_and_removed() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let before = world.attr(file);
    assert_eq!(set_xattr(&mut world, file, "user.a", b"1", XattrMode::Replace), Err(FsError::NoAttr));
    let after = set_xattr(&mut world, file, "user.a", b"1", XattrMode::Create).unwrap();
    assert!(after.ctime > before.ctime && after.mtime == before.mtime);
    assert_eq!(set_xattr(&mut world, file, "user.a", b"2", XattrMode::Create), Err(FsError::Exists));
    set_xattr(&mut world, file, "user.a", b"", XattrMode::Replace).unwrap();
    assert_eq!(getxattr(&world.twin, file, b"user.a"), Ok(Bytes::new()));
    set_xattr(&mut world, file, "trusted.b", b"2", XattrMode::Set).unwrap();
    assert_eq!(listxattr(&world.twin, file), Ok(vec![name("trusted.b"), name("user.a")]));
    let remove = |text| OpBody::RemoveXattr { ino: file, name: name(text) };
    world.apply(remove("user.a")).unwrap();
    assert_eq!(world.apply(remove("user.a")), Err(FsError::NoAttr));
    assert_eq!(getxattr(&world.twin, file, b"user.a"), Err(FsError::NoAttr));
}

#[test]
fn extended_attributes_have_limits() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let mut set =
        |text: &str, value: &[u8]| set_xattr(&mut world, file, text, value, XattrMode::Set).map(drop);
    let long = format!("user.{}", "x".repeat(251));
    assert_eq!(set(&long, b""), Err(FsError::Range));
    assert_eq!(set("user.", b""), Err(FsError::Invalid));
    assert_eq!(set("other.a", b""), Err(FsError::NotSupported));
    assert_eq!(set("system.other", b""), Err(FsError::NotSupported));
    assert_eq!(set("user.a\0b", b""), Err(FsError::Invalid));
    assert_eq!(set("user.a", &vec![0; XATTR_SIZE_MAX + 1]), Err(FsError::TooBig));
    set("user.a", &vec![0; XATTR_SIZE_MAX]).unwrap();
    let mut count = 0;
    let refused = loop {
        count += 1;
        if let Err(error) = set(&format!("user.{}{count:05}", "y".repeat(240)), b"") {
            break error;
        }
    };
    assert_eq!(refused, FsError::NoSpace);
    assert_eq!(count, XATTR_LIST_MAX / 251 + 1);
    set("user.a", b"changing is possible").unwrap();
}

#[test]
fn the_umask_is_applied() {
    let mut world = World::new();
    let body = Create {
        parent: ROOT,
        name: name("f"),
        ino: Ino(50),
        kind: FileKind::File,
        perm: 0o4777,
        umask: 0o027,
        rdev: 0,
        exclusive: true,
        open: false,
    };
    let Ok(OpReply::Entry { attr, .. }) = world.apply(OpBody::Create(body)) else { panic!() };
    assert_eq!(attr.perm, 0o4750);
}
