//! The checker sees each kind of damage: a small tree is broken in one way after the other, by rows that no operation
//! writes, and exactly what was broken is told.

use super::super::check::{Finding, PROBLEMS_MAX, Rule, findings};
use super::super::dentry::{self, PROBES_MAX};
use super::super::op::{
    Commit, Extent, ExtentData, FallocateMode, LockFamily, LockOwner, LockRequest, LockType, OpBody, Piece,
    XattrMode,
};
use super::super::reap;
use super::super::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Tables, Totals};
use super::super::twin::Twin;
use super::acls::{ACCESS, extended};
use super::{ROOT, World, name};
use crate::attr::FileKind;
use crate::ids::{BlockRef, Ino, SessionId, VolumeId};
use bytes::Bytes;

/// `/dir`
const DIR: Ino = Ino(2);
/// `/dir/below`
const BELOW: Ino = Ino(3);
/// `/dir/below/file` and `/again`: 100 bytes in a block, 10 in the metadata, 100 set aside.
const FILE: Ino = Ino(4);
/// `/other`, with an access ACL and locks: 50 bytes in each of the two blocks.
const OTHER: Ino = Ino(5);
/// `/link`
const LINK: Ino = Ino(6);
/// A file that lost its name and is open.
const REMOVED: Ino = Ino(7);
/// A directory that lost its name; the one that it was in is gone.
const REMOVED_DIR: Ino = Ino(8);
/// A file that never had a name.
const NAMELESS: Ino = Ino(9);
/// Nothing has this number.
const GONE: Ino = Ino(99);

const BLOCK_1: BlockRef = BlockRef { volume: VolumeId(1), sequence: 1, cookie: 7 };
const BLOCK_2: BlockRef = BlockRef { sequence: 2, ..BLOCK_1 };
/// No extent points to it.
const UNUSED: BlockRef = BlockRef { sequence: 3, ..BLOCK_1 };

const TOTALS: Totals = Totals { inodes: 9, allocated: 310, block_bytes: 250 };

fn in_block(block: BlockRef, offset: u32) -> ExtentData {
    ExtentData::Block { block, offset }
}

fn inline(length: usize) -> ExtentData {
    ExtentData::Inline(Bytes::from(vec![b'x'; length]))
}

fn extent(offset: u64, length: u64, data: ExtentData) -> Extent {
    Extent { offset, length, data }
}

/// Something for each rule to look at.
fn tree() -> Twin {
    let mut world = World::new();
    assert_eq!(world.dir(ROOT, "dir"), DIR);
    assert_eq!(world.dir(DIR, "below"), BELOW);
    assert_eq!(world.file(BELOW, "file"), FILE);
    assert_eq!(world.file(ROOT, "other"), OTHER);
    world.link(FILE, ROOT, "again").unwrap();
    make_link(&mut world);
    make_orphans(&mut world);
    fill(&mut world);
    let value = Bytes::from(extended(6, 7, 4, 1));
    world.apply(OpBody::SetXattr { ino: OTHER, name: name(ACCESS), value, mode: XattrMode::Set }).unwrap();
    lock(&mut world);
    assert_eq!(findings(&world.twin), Ok(vec![]));
    world.twin
}

fn make_link(world: &mut World) {
    assert_eq!(world.next_ino(), LINK);
    let body = OpBody::Symlink { parent: ROOT, name: name("link"), ino: LINK, target: name("dir") };
    world.apply(body).unwrap();
}

fn make_orphans(world: &mut World) {
    assert_eq!(world.file(DIR, "removed"), REMOVED);
    assert_eq!(world.dir(DIR, "removed too"), REMOVED_DIR);
    world.unlink(DIR, "removed").unwrap();
    assert_eq!(world.next_ino(), NAMELESS);
    world.apply(OpBody::Tmpfile { parent: DIR, ino: NAMELESS, perm: 0o600, umask: 0 }).unwrap();
    let passing = world.dir(ROOT, "passing");
    world.rename((DIR, "removed too"), (passing, "removed too"), 0).unwrap();
    world.rmdir(passing, "removed too").unwrap();
    world.rmdir(ROOT, "passing").unwrap();
    assert_eq!(reap(&mut world.twin, passing, 1), Ok(true));
}

fn fill(world: &mut World) {
    let piece = |ino, offset, length, data| Piece { ino, extent: extent(offset, length, data) };
    let pieces = vec![
        piece(FILE, 0, 100, in_block(BLOCK_1, 0)),
        piece(FILE, 100, 10, inline(10)),
        piece(OTHER, 0, 50, in_block(BLOCK_1, 100)),
        piece(OTHER, 50, 50, in_block(BLOCK_2, 0)),
    ];
    let blocks = vec![(BLOCK_1, 200), (BLOCK_2, 50)];
    world.apply(OpBody::Commit(Commit { blocks, pieces, files: vec![] })).unwrap();
    let mode = FallocateMode::Allocate { keep_size: false };
    world.apply(OpBody::Fallocate { ino: FILE, mode, offset: 200, length: 100 }).unwrap();
}

/// Two who read the same bytes, one of whom writes others, and a lock on the whole file in the other family.
fn lock(world: &mut World) {
    for (family, owner, kind, start) in [
        (LockFamily::Posix, 1, LockType::Read, 0),
        (LockFamily::Posix, 2, LockType::Read, 0),
        (LockFamily::Posix, 1, LockType::Write, 20),
        (LockFamily::Flock, 1, LockType::Write, 0),
    ] {
        let lock = LockRequest { owner: LockOwner { family, owner }, kind, start, end: start + 9, pid: 5 };
        world.apply(OpBody::Lock { ino: OTHER, lock }).unwrap();
    }
}

/// A tree that was broken in one way.
struct Case {
    what: &'static str,
    broken: Twin,
    finds: Vec<Finding>,
}

fn case(what: &'static str, damage: impl FnOnce(&mut Twin), finds: &[(Rule, &str)]) -> Case {
    let mut broken = tree();
    damage(&mut broken);
    let finds = finds.iter().map(|(rule, problem)| (*rule, (*problem).to_owned())).collect();
    Case { what, broken, finds }
}

fn change(tree: &mut Twin, ino: Ino, change: impl FnOnce(&mut Inode)) {
    let mut inode = tree.inode(ino).unwrap().unwrap();
    change(&mut inode);
    tree.put_inode(&inode).unwrap();
}

fn change_totals(tree: &mut Twin, change: impl FnOnce(&mut Totals)) {
    let mut totals = tree.totals().unwrap();
    change(&mut totals);
    tree.put_totals(totals).unwrap();
}

fn entry(tree: &Twin, parent: Ino, text: &str) -> Dentry {
    dentry::find(tree, parent, text.as_bytes()).unwrap().taken().unwrap()
}

/// Gives a name as an operation would, but whatever has it and wherever it is.
fn enter(tree: &mut Twin, parent: Ino, text: &str, ino: Ino) {
    let kind = tree.inode(ino).unwrap().unwrap().attr.kind;
    let cookie = dentry::find(tree, parent, text.as_bytes()).unwrap().vacant().unwrap();
    dentry::insert(tree, parent, cookie, &name(text), (ino, kind)).unwrap();
    change(tree, parent, |directory| directory.entry_added(kind));
}

/// Takes a name away, and leaves what had it as it is.
fn leave(tree: &mut Twin, parent: Ino, text: &str) {
    let entry = entry(tree, parent, text);
    dentry::remove(tree, parent, &entry).unwrap();
    change(tree, parent, |directory| directory.entry_removed(entry.kind));
}

fn root_cases() -> Vec<Case> {
    let file_as_root = |tree: &mut Twin| {
        let mut root = tree.inode(ROOT).unwrap().unwrap();
        (root.attr.kind, root.attr.nlink, root.parent, root.entries) = (FileKind::File, 0, Ino(0), 0);
        *tree = Twin::new();
        tree.put_inode(&root).unwrap();
        change_totals(tree, |totals| totals.inodes = 1);
    };
    let finds = [(Rule::Root, "there is no root directory")];
    vec![
        case("everything is lost", |tree| *tree = Twin::new(), &finds),
        case("the root is a file", file_as_root, &finds),
    ]
}

fn entry_cases() -> Vec<Case> {
    vec![
        case(
            "an entry lies where nobody looks for it",
            |tree| {
                let row = entry(tree, BELOW, "file");
                tree.remove_dentry(BELOW, row.cookie).unwrap();
                tree.put_dentry(BELOW, &Dentry { cookie: row.cookie + 1, ..row }).unwrap();
            },
            &[(Rule::EntryFound, r#"entry b"file" of 3 is not found by its name"#)],
        ),
        case(
            "two entries have one name",
            |tree| {
                let (row, other) = (entry(tree, ROOT, "link"), entry(tree, ROOT, "other"));
                tree.remove_dentry(ROOT, row.cookie).unwrap();
                let row = Dentry { cookie: other.cookie + 1, name: other.name, ..row };
                tree.put_dentry(ROOT, &row).unwrap();
            },
            &[(Rule::EntryFound, r#"entry b"other" of 1 is not found by its name"#)],
        ),
        case(
            "an entry has a name with a slash",
            |tree| {
                leave(tree, ROOT, "link");
                enter(tree, ROOT, "li/nk", LINK);
            },
            &[(Rule::EntryName, r#"entry b"li/nk" of 1 has a name that nothing can have"#)],
        ),
        case(
            "an entry says another kind",
            |tree| {
                let row = entry(tree, ROOT, "link");
                tree.put_dentry(ROOT, &Dentry { kind: FileKind::File, ..row }).unwrap();
            },
            &[(Rule::EntryKind, r#"entry b"link" of 1 says File, inode 6 is Some(Symlink)"#)],
        ),
        case(
            "an entry names what is not there",
            |tree| {
                tree.remove_inode(LINK).unwrap();
                change_totals(tree, |totals| totals.inodes -= 1);
            },
            &[(Rule::EntryKind, r#"entry b"link" of 1 says Symlink, inode 6 is None"#)],
        ),
    ]
}

fn directory_cases() -> Vec<Case> {
    vec![
        case(
            "a directory counts an entry too many",
            |tree| change(tree, BELOW, |directory| directory.entries += 1),
            &[(Rule::EntryCount, "3 has 1 entries, its count says otherwise")],
        ),
        case(
            "a link counts entries",
            |tree| change(tree, LINK, |link| link.entries = 1),
            &[(Rule::EntryCount, "6 has 0 entries, its count says otherwise")],
        ),
        case(
            "a link has an entry",
            |tree| {
                let size = tree.inode(LINK).unwrap().unwrap().attr.size;
                enter(tree, LINK, "file", FILE);
                change(tree, LINK, |link| link.attr.size = size);
                change(tree, FILE, |file| file.attr.nlink += 1);
            },
            &[(Rule::EntriesInDirectory, "6 is no directory, but has entries")],
        ),
        case(
            "a directory has the size of an empty one",
            |tree| change(tree, BELOW, |directory| directory.attr.size = 4096),
            &[(Rule::DirectorySize, "directory 3 has a wrong size")],
        ),
        case(
            "a removed directory has an entry",
            |tree| {
                enter(tree, REMOVED_DIR, "file", FILE);
                change(tree, FILE, |file| file.attr.nlink += 1);
            },
            &[(Rule::RemovedIsEmpty, "directory 8 has no name, but 1 entries")],
        ),
    ]
}

fn data_cases() -> Vec<Case> {
    vec![
        case(
            "an extent has no bytes",
            |tree| tree.put_extent(FILE, &extent(500, 0, ExtentData::Reserved)).unwrap(),
            &[(Rule::ExtentNotEmpty, "4 has an empty extent")],
        ),
        case(
            "an extent at the beginning has no bytes",
            |tree| tree.put_extent(REMOVED, &extent(0, 0, ExtentData::Reserved)).unwrap(),
            &[(Rule::ExtentNotEmpty, "7 has an empty extent")],
        ),
        case(
            "bytes in the metadata are cut off",
            |tree| tree.put_extent(FILE, &extent(100, 10, inline(9))).unwrap(),
            &[(
                Rule::ExtentInData,
                "4: extent of 10 bytes at 100 (9 in the metadata) is outside of its data",
            )],
        ),
        case(
            "an extent reaches beyond its block",
            |tree| tree.put_extent(OTHER, &extent(50, 50, in_block(BLOCK_2, 1))).unwrap(),
            &[(
                Rule::ExtentInData,
                "5: extent of 50 bytes at 50 (block 1/2:00000007 from 1 on) is outside of its data",
            )],
        ),
        case(
            "a link has an extent",
            |tree| {
                tree.put_extent(LINK, &extent(0, 8, ExtentData::Reserved)).unwrap();
                change(tree, LINK, |link| link.attr.allocated = 8);
                change_totals(tree, |totals| totals.allocated += 8);
            },
            &[(Rule::ExtentsInFile, "6 is no file, but has extents")],
        ),
        case(
            "a file says that it holds a byte too many",
            |tree| change(tree, FILE, |file| file.attr.allocated += 1),
            &[(Rule::Allocated, "4 holds 210 bytes, its attributes say 211")],
        ),
    ]
}

fn order_cases() -> Vec<Case> {
    vec![
        case(
            "extents share a byte",
            |tree| {
                tree.remove_extent(FILE, 100).unwrap();
                tree.put_extent(FILE, &extent(99, 10, inline(10))).unwrap();
            },
            &[(
                Rule::ExtentsApart,
                "4: extent of 100 bytes at 0 (block 1/1:00000007 from 0 on) and \
                 extent of 10 bytes at 99 (10 in the metadata) overlap or are not joined",
            )],
        ),
        case(
            "an extent in a block is in two pieces",
            |tree| {
                tree.put_extent(FILE, &extent(0, 60, in_block(BLOCK_1, 0))).unwrap();
                tree.put_extent(FILE, &extent(60, 40, in_block(BLOCK_1, 60))).unwrap();
            },
            &[(
                Rule::ExtentsApart,
                "4: extent of 60 bytes at 0 (block 1/1:00000007 from 0 on) and \
                 extent of 40 bytes at 60 (block 1/1:00000007 from 60 on) overlap or are not joined",
            )],
        ),
        case(
            "what is set aside is in two pieces",
            |tree| {
                tree.put_extent(FILE, &extent(200, 50, ExtentData::Reserved)).unwrap();
                tree.put_extent(FILE, &extent(250, 50, ExtentData::Reserved)).unwrap();
            },
            &[(
                Rule::ExtentsApart,
                "4: extent of 50 bytes at 200 (set aside) and extent of 50 bytes at 250 (set aside) \
                 overlap or are not joined",
            )],
        ),
    ]
}

/// Lengths that add up to more than there are numbers.
fn overflow_cases() -> Vec<Case> {
    let hold_all = |tree: &mut Twin, ino| {
        change(tree, ino, |file| file.attr.allocated = u64::MAX);
        change_totals(tree, |totals| totals.allocated = u64::MAX);
    };
    let half = u64::MAX / 2;
    let told = |one, two| {
        format!(
            "7: extent of {half} bytes at {one} (set aside) and extent of {half} bytes at {two} (set aside) \
             overlap or are not joined"
        )
    };
    vec![
        case(
            "three extents hold more bytes than can be counted",
            |tree| {
                for offset in 0..3 {
                    tree.put_extent(REMOVED, &extent(offset, half, ExtentData::Reserved)).unwrap();
                }
                hold_all(tree, REMOVED);
            },
            &[(Rule::ExtentsApart, &told(0, 1)), (Rule::ExtentsApart, &told(1, 2))],
        ),
        case(
            "more of a block is live than can be counted",
            |tree| {
                tree.put_extent(OTHER, &extent(50, u64::MAX, in_block(BLOCK_2, 1))).unwrap();
                tree.put_block(BLOCK_2, BlockUse { length: 50, live: u64::MAX }).unwrap();
                hold_all(tree, OTHER);
            },
            &[(
                Rule::ExtentInData,
                "5: extent of 18446744073709551615 bytes at 50 (block 1/2:00000007 from 1 on) \
                 is outside of its data",
            )],
        ),
    ]
}

fn acl_cases() -> Vec<Case> {
    let finds = [(Rule::AclIsMode, "5: access ACL and mode 641 do not agree")];
    let set = |value: &'static [u8]| {
        move |tree: &mut Twin| tree.put_xattr(OTHER, ACCESS.as_bytes(), value).unwrap()
    };
    vec![
        case(
            "a mode changes without its ACL",
            |tree| change(tree, OTHER, |file| file.attr.perm = 0o600),
            &[(Rule::AclIsMode, "5: access ACL and mode 600 do not agree")],
        ),
        case("an ACL is none", set(b"rwx"), &finds),
        case("an ACL is empty", set(b""), &finds),
        default_acl("a default ACL is none", DIR, b"rwx"),
        default_acl("a default ACL is empty", DIR, b""),
        default_acl("a file has a default ACL", FILE, &extended(6, 7, 4, 1)),
    ]
}

fn default_acl(what: &'static str, ino: Ino, value: &[u8]) -> Case {
    let problem = format!("{ino}: its default ACL is none, or it is no directory");
    let put = |tree: &mut Twin| tree.put_xattr(ino, b"system.posix_acl_default", value).unwrap();
    case(what, put, &[(Rule::DefaultAcl, &problem)])
}

fn target_cases() -> Vec<Case> {
    let wrong = |what, ino: Ino, broken: &dyn Fn(&mut Inode)| {
        let problem = format!("{ino}: the target of a symbolic link and its size or kind do not agree");
        case(what, |tree| change(tree, ino, broken), &[(Rule::SymlinkIsTarget, &problem)])
    };
    vec![
        wrong("a link is longer than its target", LINK, &|link| link.attr.size += 1),
        wrong("a link leads nowhere", LINK, &|link| (link.target, link.attr.size) = (Bytes::new(), 0)),
        wrong("a file has a target", OTHER, &|file| file.target = Bytes::from_static(b"dir")),
    ]
}

fn lock_cases() -> Vec<Case> {
    let read = HeldLock {
        session: SessionId(1),
        owner: LockOwner { family: LockFamily::Posix, owner: 1 },
        write: false,
        start: 0,
        end: 9,
        pid: 5,
    };
    let again = HeldLock { start: 9, end: 12, ..read };
    let write = HeldLock { session: SessionId(2), write: true, ..again };
    let put = |locks: [HeldLock; 2]| move |tree: &mut Twin| tree.put_locks(OTHER, &locks).unwrap();
    let told = |one, two| format!("5: locks {one:?} and {two:?} exclude each other");
    let excluding = |what, one, two| case(what, put([one, two]), &[(Rule::LocksExclude, &told(one, two))]);
    vec![
        case(
            "a lock ends before it starts",
            put([HeldLock { start: 25, end: 24, ..read }, read]),
            &[(Rule::LockRange, "5: a lock ends before it starts")],
        ),
        excluding("an owner has two locks on a byte", read, again),
        excluding("one writes what another reads", read, write),
        excluding("one reads what another writes", write, read),
    ]
}

fn link_count_cases() -> Vec<Case> {
    let too_many = |what, ino, problem: &str| {
        case(what, |tree| change(tree, ino, |inode| inode.attr.nlink += 1), &[(Rule::LinkCount, problem)])
    };
    vec![
        too_many("a file has a link too many", FILE, "4 has nlink 3, not 2"),
        too_many("a directory has a link too many", BELOW, "3 has nlink 3, not 2"),
        too_many("the root has a link too many", ROOT, "1 has nlink 4, not 3"),
        too_many("an orphan has a link", REMOVED, "7 has nlink 1, not 0"),
        case(
            "a removed directory has a link",
            |tree| change(tree, REMOVED_DIR, |directory| directory.attr.nlink = 2),
            &[
                (Rule::LinkCount, "8 has nlink 2, not 0"),
                (Rule::BelowRoot, "directory 8 does not hang below the root"),
            ],
        ),
        case(
            "a name is lost",
            |tree| leave(tree, ROOT, "link"),
            &[
                (Rule::LinkCount, "6 has nlink 1, not 0"),
                (Rule::NamedOrOrphan, "6 has 0 names, orphan: false"),
            ],
        ),
    ]
}

fn orphan_cases() -> Vec<Case> {
    let mark = |what, ino, problem: &str| {
        case(what, |tree| tree.put_orphan(ino).unwrap(), &[(Rule::NamedOrOrphan, problem)])
    };
    let forget = |what, ino, problem: &str| {
        case(what, |tree| tree.remove_orphan(ino).unwrap(), &[(Rule::NamedOrOrphan, problem)])
    };
    vec![
        mark("a link with a name is an orphan", LINK, "6 has 1 names, orphan: true"),
        mark("a directory with a name is an orphan", BELOW, "3 has 1 names, orphan: true"),
        mark("the root is an orphan", ROOT, "1 has 0 names, orphan: true"),
        forget("a removed file is no orphan", REMOVED, "7 has 0 names, orphan: false"),
        forget("a removed directory is no orphan", REMOVED_DIR, "8 has 0 names, orphan: false"),
        forget("a file that never had a name is no orphan", NAMELESS, "9 has 0 names, orphan: false"),
    ]
}

fn place_cases() -> Vec<Case> {
    vec![
        case(
            "a directory says that it is elsewhere",
            |tree| change(tree, BELOW, |directory| directory.parent = ROOT),
            &[(Rule::DirectoryAbove, "directory 3 is in 2, not 1")],
        ),
        case(
            "the root says that it is in a directory",
            |tree| change(tree, ROOT, |root| root.parent = DIR),
            &[(Rule::DirectoryAbove, "directory 1 is in 1, not 2")],
        ),
        case(
            "a directory has a second name",
            |tree| enter(tree, ROOT, "second", BELOW),
            &[(Rule::DirectoryNamedOnce, "directory 3 has 2 names, not 1")],
        ),
        case(
            "the root has a name",
            |tree| enter(tree, DIR, "up", ROOT),
            &[(Rule::DirectoryNamedOnce, "directory 1 has 1 names, not 0")],
        ),
        case(
            "a link with a name says where it was made",
            |tree| change(tree, LINK, |link| link.parent = ROOT),
            &[(Rule::NamedHasNoParent, "6 has names, but also a parent")],
        ),
    ]
}

fn reach_cases() -> Vec<Case> {
    vec![
        case(
            "a directory is in itself",
            |tree| {
                leave(tree, DIR, "below");
                enter(tree, BELOW, "below", BELOW);
                change(tree, BELOW, |directory| directory.parent = BELOW);
            },
            &[(Rule::BelowRoot, "directory 3 does not hang below the root")],
        ),
        case(
            "two directories are in each other",
            |tree| {
                leave(tree, ROOT, "dir");
                enter(tree, BELOW, "dir", DIR);
                change(tree, DIR, |directory| directory.parent = BELOW);
            },
            &[
                (Rule::BelowRoot, "directory 2 does not hang below the root"),
                (Rule::BelowRoot, "directory 3 does not hang below the root"),
            ],
        ),
        case(
            "the directory above is gone",
            |tree| {
                let row = entry(tree, ROOT, "dir");
                leave(tree, ROOT, "dir");
                tree.put_dentry(GONE, &row).unwrap();
                change(tree, DIR, |directory| directory.parent = GONE);
            },
            &[
                (Rule::LinkCount, "2 has nlink 3, not 0"),
                (Rule::NamedOrOrphan, "2 has 0 names, orphan: false"),
                (Rule::RemovedIsEmpty, "directory 2 has no name, but 1 entries"),
                (Rule::BelowRoot, "directory 2 does not hang below the root"),
                (Rule::BelowRoot, "directory 3 does not hang below the root"),
                (Rule::OwnerExists, "99 is gone, but rows of it are left"),
            ],
        ),
    ]
}

/// Rows of an inode that is gone, in each table.
fn rest_cases() -> Vec<Case> {
    fn left(what: &'static str, damage: impl FnOnce(&mut Twin)) -> Case {
        case(what, damage, &[(Rule::OwnerExists, "99 is gone, but rows of it are left")])
    }
    vec![
        left("an orphan is left", |tree| tree.put_orphan(GONE).unwrap()),
        left("an entry is left", |tree| {
            // A marker names nothing.
            let row = Dentry { cookie: 100, name: Bytes::new(), ino: Ino(0), kind: FileKind::File };
            tree.put_dentry(GONE, &row).unwrap();
        }),
        left("an extent is left", |tree| {
            tree.put_extent(GONE, &extent(0, 8, ExtentData::Reserved)).unwrap();
        }),
        left("an attribute is left", |tree| tree.put_xattr(GONE, b"user.a", b"b").unwrap()),
        left("a lock is left", |tree| tree.put_locks(GONE, &tree.locks(OTHER).unwrap()).unwrap()),
    ]
}

fn block_cases() -> Vec<Case> {
    vec![
        case(
            "a block counts a live byte too many",
            |tree| tree.put_block(BLOCK_1, BlockUse { length: 200, live: 151 }).unwrap(),
            &[(Rule::LiveBytes, "block 1/1:00000007 has 150 live bytes, its row says 151")],
        ),
        case(
            "a block that nothing uses was not deleted",
            |tree| {
                tree.put_block(UNUSED, BlockUse { length: 9, live: 0 }).unwrap();
                change_totals(tree, |totals| totals.block_bytes += 9);
            },
            &[(Rule::LiveBytes, "block 1/3:00000007 has 0 live bytes, its row says 0")],
        ),
        case(
            "a block that is used was deleted",
            |tree| {
                tree.queue_delete(BLOCK_2).unwrap();
                change_totals(tree, |totals| totals.block_bytes -= 50);
            },
            &[
                (
                    Rule::ExtentInData,
                    "5: extent of 50 bytes at 50 (block 1/2:00000007 from 0 on) is outside of its data",
                ),
                (Rule::BlockKnown, "block 1/2:00000007 is used, but not known"),
            ],
        ),
        case(
            "a block that is used is about to be deleted",
            |tree| {
                let usage = tree.block(BLOCK_2).unwrap().unwrap();
                tree.queue_delete(BLOCK_2).unwrap();
                tree.put_block(BLOCK_2, usage).unwrap();
            },
            &[(Rule::UsedIsKept, "block 1/2:00000007 is used, and waits for being deleted")],
        ),
    ]
}

fn totals_cases() -> Vec<Case> {
    let wrong = |what, totals: Totals| {
        let problem = format!("totals are {totals:?}, should be {TOTALS:?}");
        case(what, |tree| tree.put_totals(totals).unwrap(), &[(Rule::Totals, &problem)])
    };
    vec![
        wrong("an inode too many is counted", Totals { inodes: 10, ..TOTALS }),
        wrong("a byte of files too few is counted", Totals { allocated: 309, ..TOTALS }),
        wrong("a byte of blocks too many is counted", Totals { block_bytes: 251, ..TOTALS }),
    ]
}

fn cases() -> Vec<Case> {
    [
        root_cases(),
        entry_cases(),
        directory_cases(),
        data_cases(),
        order_cases(),
        overflow_cases(),
        acl_cases(),
        target_cases(),
        lock_cases(),
        link_count_cases(),
        orphan_cases(),
        place_cases(),
        reach_cases(),
        rest_cases(),
        block_cases(),
        totals_cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn what_is_broken_is_found_and_nothing_else() {
    for Case { what, broken, finds } in cases() {
        assert_eq!(findings(&broken).unwrap(), finds, "{what}");
    }
}

#[test]
fn each_rule_is_broken_by_a_case() {
    let cases = cases();
    for rule in Rule::ALL {
        let broken = cases.iter().flat_map(|case| &case.finds).any(|(broken, _)| broken == rule);
        assert!(broken, "nothing breaks {rule:?}");
    }
}

/// An operation would be refused; a check goes on with the rest.
#[test]
fn a_name_behind_more_others_than_are_searched_is_a_finding() {
    let mut world = World::over(Twin::colliding(1));
    let file = world.file(ROOT, "0");
    let first = entry(&world.twin, ROOT, "0");
    for at in 1..=PROBES_MAX as u64 {
        let row = Dentry { cookie: first.cookie + at, name: name(&at.to_string()), ..first.clone() };
        world.twin.put_dentry(ROOT, &row).unwrap();
        change(&mut world.twin, ROOT, |root| root.entry_added(FileKind::File));
        change(&mut world.twin, file, |file| file.attr.nlink += 1);
    }
    let problem = format!("entry b\"{PROBES_MAX}\" of 1 is not found by its name");
    assert_eq!(findings(&world.twin), Ok(vec![(Rule::EntryFound, problem)]));
}

#[test]
fn so_many_findings_are_listed_and_no_more() {
    let mut tree = tree();
    for ino in 0..PROBLEMS_MAX as u64 + 1 {
        tree.put_orphan(Ino(GONE.0 + ino)).unwrap();
    }
    assert_eq!(findings(&tree).unwrap().len(), PROBLEMS_MAX);
}
