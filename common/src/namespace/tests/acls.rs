//! ACLs: their format, how they and the mode move together, inheritance.

use super::super::getxattr;
use super::super::op::{Create, OpBody, OpReply, XattrMode};
use super::{ROOT, World, name};
use crate::attr::{Attr, FileKind, SetAttr};
use crate::error::FsError;
use crate::ids::Ino;
use bytes::Bytes;

pub(super) const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

const USER_OBJ: u8 = 1;
const USER: u8 = 2;
const GROUP_OBJ: u8 = 4;
const GROUP: u8 = 8;
const MASK: u8 = 16;
const OTHER: u8 = 32;

/// As the kernel writes it: entries of (tag, permissions, id); 255 stands for no id.
fn acl(entries: &[(u8, u8, u8)]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0];
    for &(tag, perm, id) in entries {
        let high = if id == 255 { 255 } else { 0 };
        out.extend([tag, 0, perm, 0, id, high, high, high]);
    }
    out
}

/// `u::U,u:7:rwx,g::G,m::M,o::O`
pub(super) fn extended(user: u8, group: u8, mask: u8, other: u8) -> Vec<u8> {
    acl(&[
        (USER_OBJ, user, 255),
        (USER, 7, 7),
        (GROUP_OBJ, group, 255),
        (MASK, mask, 255),
        (OTHER, other, 255),
    ])
}

fn minimal(user: u8, group: u8, other: u8) -> Vec<u8> {
    acl(&[(USER_OBJ, user, 255), (GROUP_OBJ, group, 255), (OTHER, other, 255)])
}

fn set(world: &mut World, ino: Ino, text: &str, value: Vec<u8>) -> Result<Attr, FsError> {
    let value = Bytes::from(value);
    let body = OpBody::SetXattr { ino, name: name(text), value, mode: XattrMode::Set };
    world.apply(body).map(|reply| match reply {
        OpReply::Attr(attr) => attr,
        other => panic!("{other:?}"),
    })
}

fn get(world: &World, ino: Ino, text: &str) -> Option<Vec<u8>> {
    getxattr(&world.twin, ino, text.as_bytes()).ok().map(|value| value.to_vec())
}

fn create(world: &mut World, parent: Ino, text: &str, kind: FileKind, perm: u16) -> Attr {
    let ino = world.next_ino();
    let (name, umask) = (name(text), 0o077);
    let body = Create { parent, name, ino, kind, perm, umask, rdev: 0, exclusive: true, open: false };
    let Ok(OpReply::Entry { attr, .. }) = world.apply(OpBody::Create(body)) else { panic!() };
    attr
}

#[test]
fn malformed_acls_are_refused() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let no_mask = acl(&[(USER_OBJ, 7, 255), (USER, 7, 7), (GROUP_OBJ, 5, 255), (OTHER, 5, 255)]);
    let no_id =
        acl(&[(USER_OBJ, 7, 255), (USER, 7, 255), (GROUP_OBJ, 5, 255), (MASK, 5, 255), (OTHER, 5, 255)]);
    let unordered = acl(&[(GROUP_OBJ, 7, 255), (USER_OBJ, 5, 255), (OTHER, 5, 255)]);
    let twice = acl(&[(USER_OBJ, 7, 255), (USER_OBJ, 7, 255), (GROUP_OBJ, 5, 255), (OTHER, 5, 255)]);
    let incomplete = acl(&[(USER_OBJ, 7, 255), (GROUP_OBJ, 5, 255)]);
    let perm = minimal(8, 5, 5);
    let tag = acl(&[(USER_OBJ, 7, 255), (3, 7, 7), (GROUP_OBJ, 5, 255), (OTHER, 5, 255)]);
    let cut = minimal(7, 5, 5)[..20].to_vec();
    let short = vec![2, 0, 0];
    for value in [no_mask, no_id, unordered, twice, incomplete, perm, tag, cut, short] {
        assert_eq!(set(&mut world, file, ACCESS, value.clone()), Err(FsError::Invalid), "{value:?}");
    }
    let mut version = minimal(7, 5, 5);
    version[0] = 1;
    assert_eq!(set(&mut world, file, ACCESS, version), Err(FsError::NotSupported));
    assert_eq!(set(&mut world, file, DEFAULT, minimal(7, 5, 5)), Err(FsError::Access));
    let body = OpBody::Symlink { parent: ROOT, name: name("l"), ino: Ino(50), target: name("x") };
    world.apply(body).unwrap();
    assert_eq!(set(&mut world, Ino(50), ACCESS, minimal(7, 5, 5)), Err(FsError::NotSupported));
}

#[test]
fn an_access_acl_changes_the_mode() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    assert_eq!(set(&mut world, file, ACCESS, extended(6, 7, 4, 1)).unwrap().perm, 0o641);
    assert_eq!(get(&world, file, ACCESS), Some(extended(6, 7, 4, 1)));
    assert_eq!(set(&mut world, file, ACCESS, minimal(7, 5, 0)).unwrap().perm, 0o750);
    assert_eq!(get(&world, file, ACCESS), None, "the mode says it all");
}

#[test]
fn chmod_changes_owner_mask_and_others() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    set(&mut world, file, ACCESS, extended(6, 7, 4, 1)).unwrap();
    world.set(file, SetAttr { perm: Some(0o4753), ..SetAttr::default() }).unwrap();
    assert_eq!(get(&world, file, ACCESS), Some(extended(7, 7, 5, 3)));
    assert_eq!(world.attr(file).perm, 0o4753);
}

#[test]
fn removing_an_access_acl_leaves_the_mode() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let remove = || OpBody::RemoveXattr { ino: file, name: name(ACCESS) };
    set(&mut world, file, ACCESS, extended(6, 7, 4, 1)).unwrap();
    world.apply(remove()).unwrap();
    assert_eq!((world.attr(file).perm, get(&world, file, ACCESS)), (0o641, None));
    world.apply(remove()).unwrap();
    set(&mut world, file, ACCESS, extended(6, 7, 4, 1)).unwrap();
    for empty in [vec![], acl(&[])] {
        set(&mut world, file, ACCESS, empty).unwrap();
        assert_eq!(get(&world, file, ACCESS), None);
    }
}

#[test]
fn a_default_acl_is_inherited_instead_of_the_umask() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    set(&mut world, dir, DEFAULT, extended(7, 5, 6, 4)).unwrap();
    assert_eq!(world.attr(dir).perm, 0o755, "the default ACL is not about the directory itself");

    let file = create(&mut world, dir, "f", FileKind::File, 0o666);
    assert_eq!(file.perm, 0o664);
    assert_eq!(get(&world, file.ino, ACCESS), Some(extended(6, 5, 6, 4)));
    assert_eq!(get(&world, file.ino, DEFAULT), None);

    let inner = create(&mut world, dir, "i", FileKind::Dir, 0o1701);
    assert_eq!(inner.perm, 0o1700);
    assert_eq!(get(&world, inner.ino, ACCESS), Some(extended(7, 5, 0, 0)));
    assert_eq!(get(&world, inner.ino, DEFAULT), Some(extended(7, 5, 6, 4)));

    let ino = world.next_ino();
    world.apply(OpBody::Tmpfile { parent: dir, ino, perm: 0o600, umask: 0o777 }).unwrap();
    assert_eq!(world.attr(ino).perm, 0o600);
    assert_eq!(get(&world, ino, ACCESS), Some(extended(6, 5, 0, 0)));

    let ino = world.next_ino();
    let body = OpBody::Symlink { parent: dir, name: name("l"), ino, target: name("x") };
    world.apply(body).unwrap();
    assert_eq!((world.attr(ino).perm, get(&world, ino, ACCESS)), (0o777, None));
}

#[test]
fn a_default_acl_without_names_only_limits_the_mode() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    set(&mut world, dir, DEFAULT, minimal(7, 5, 1)).unwrap();
    let file = create(&mut world, dir, "f", FileKind::File, 0o4777);
    assert_eq!((file.perm, get(&world, file.ino, ACCESS)), (0o4751, None));
    set(&mut world, dir, DEFAULT, vec![]).unwrap();
    let file = create(&mut world, dir, "g", FileKind::File, 0o777);
    assert_eq!(file.perm, 0o700, "the umask counts again");
}

#[test]
fn setgid_goes_when_a_stranger_to_the_group_sets_an_acl() {
    let mut world = World::new();
    let (file, dir) = (world.file(ROOT, "f"), world.dir(ROOT, "d"));
    for ino in [file, dir] {
        world.set(ino, SetAttr { gid: Some(5), perm: Some(0o2755), ..SetAttr::default() }).unwrap();
    }
    assert_eq!(set(&mut world, file, ACCESS, minimal(7, 5, 5)).unwrap().perm, 0o755);
    assert_eq!(set(&mut world, dir, ACCESS, minimal(7, 5, 5)).unwrap().perm, 0o2755);
    world.set(file, SetAttr { perm: Some(0o2755), ..SetAttr::default() }).unwrap();
    world.caller.gid = 5;
    assert_eq!(set(&mut world, file, ACCESS, minimal(7, 5, 5)).unwrap().perm, 0o2755);
}

#[test]
fn acls_name_groups_too() {
    let mut world = World::new();
    let file = world.file(ROOT, "f");
    let value = acl(&[
        (USER_OBJ, 6, 255),
        (USER, 7, 7),
        (USER, 4, 9),
        (GROUP_OBJ, 4, 255),
        (GROUP, 7, 7),
        (GROUP, 1, 8),
        (MASK, 2, 255),
        (OTHER, 0, 255),
    ]);
    assert_eq!(set(&mut world, file, ACCESS, value.clone()).unwrap().perm, 0o620);
    assert_eq!(get(&world, file, ACCESS), Some(value));
}
