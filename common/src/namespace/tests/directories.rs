//! Listing, cookies, probe chains.

use super::super::dentry::FIRST_COOKIE;
use super::super::tables::Read;
use super::super::twin::Twin;
use super::super::{lookup, name_hash, readdir};
use super::{ROOT, World, name};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Ino;
use std::collections::BTreeMap;

/// The hash is part of the format of the tables. The values come from a SipHash-1-3 written apart.
#[test]
fn the_hash_of_a_name_never_changes() {
    assert_eq!(name_hash(b"a"), 0x5aadc9fb0f14e7fb);
    assert_eq!(name_hash(b"lost+found"), 0x41a05ec64b469986);
}

/// Pages while entries come and go: what stays is listed exactly once.
fn list_under_change(twin: Twin) {
    let mut world = World::over(twin);
    let stable: BTreeMap<Ino, String> = (0..120)
        .map(|at| {
            let text = format!("stable{at}");
            (world.file(ROOT, &text), text)
        })
        .collect();
    for at in 0..40 {
        world.file(ROOT, &format!("old{at}"));
    }
    let mut seen: BTreeMap<Ino, u32> = BTreeMap::new();
    let (mut cookie, mut pages) = (0, 0);
    loop {
        let page = readdir(&world.twin, ROOT, cookie, 500, false).unwrap();
        assert!(!page.entries.is_empty() || page.end);
        for entry in &page.entries {
            assert!(entry.cookie > cookie && entry.cookie >= FIRST_COOKIE);
            cookie = entry.cookie;
            *seen.entry(entry.ino).or_default() += 1;
        }
        if page.end {
            break;
        }
        if pages < 40 {
            world.unlink(ROOT, &format!("old{pages}")).unwrap();
            world.file(ROOT, &format!("new{pages}"));
        }
        pages += 1;
    }
    assert!(pages > 10);
    for (ino, text) in &stable {
        assert_eq!(seen.get(ino), Some(&1), "{text}");
    }
    assert!(seen.values().all(|count| *count == 1));
}

#[test]
fn what_stays_is_listed_exactly_once() {
    list_under_change(Twin::new());
}

#[test]
fn what_stays_is_listed_exactly_once_where_names_collide() {
    list_under_change(Twin::colliding(20));
}

#[test]
fn a_chain_leaves_nothing_behind() {
    let mut world = World::over(Twin::colliding(1));
    let dir = world.dir(ROOT, "d");
    for text in ["a", "b", "c"] {
        world.file(dir, text);
    }
    world.unlink(dir, "b").unwrap();
    world.unlink(dir, "a").unwrap();
    let rows = |world: &World| {
        let mut rows = 0;
        world
            .twin
            .scan_dentries(dir, 0, &mut |_| {
                rows += 1;
                true
            })
            .unwrap();
        rows
    };
    assert_eq!(rows(&world), 3, "two markers before the last one");
    lookup(&world.twin, dir, b"c").unwrap();
    world.file(dir, "e");
    assert_eq!(rows(&world), 3, "the first marker is used again");
    world.unlink(dir, "c").unwrap();
    assert_eq!(rows(&world), 1);
    world.unlink(dir, "e").unwrap();
    assert_eq!(rows(&world), 0);
}

#[test]
fn a_page_has_attributes_if_asked() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    let file = world.file(dir, "a");
    let page = readdir(&world.twin, dir, 0, 1, true).unwrap();
    assert_eq!(page.entries[0].attr, Some(world.attr(file)));
    assert_eq!((page.parent, page.end), (ROOT, true));
    assert_eq!(readdir(&world.twin, file, 0, 1, true), Err(FsError::NotDir));
    assert_eq!(readdir(&world.twin, Ino(99), 0, 1, true), Err(FsError::NotFound));
}

#[test]
fn dots_are_understood_by_lookup() {
    let mut world = World::new();
    let dir = world.dir(ROOT, "d");
    let inner = world.dir(dir, "i");
    assert_eq!(lookup(&world.twin, inner, b"..").unwrap().ino, dir);
    assert_eq!(lookup(&world.twin, inner, b".").unwrap().ino, inner);
    assert_eq!(lookup(&world.twin, ROOT, b"..").unwrap().ino, ROOT);
}

#[test]
fn names_are_checked() {
    let mut world = World::new();
    let long = "x".repeat(256);
    for (text, error) in [
        ("", FsError::Invalid),
        (".", FsError::Invalid),
        ("..", FsError::Invalid),
        ("a/b", FsError::Invalid),
        ("a\0b", FsError::Invalid),
        (&long[..], FsError::NameTooLong),
    ] {
        assert_eq!(world.make(ROOT, text, FileKind::File), Err(error), "{text:?}");
    }
    world.file(ROOT, &long[1..]);
    assert_eq!(lookup(&world.twin, ROOT, long.as_bytes()), Err(FsError::NameTooLong));
    assert_eq!(name("a").len(), 1);
}

/// The rows of a removed directory are gone at once, also markers that no chain needs any more.
#[test]
fn a_removed_directory_has_no_rows() {
    let mut world = World::over(Twin::colliding(3));
    let dir = world.dir(ROOT, "d");
    for at in 0..12 {
        world.file(dir, &at.to_string());
    }
    for at in [5, 4, 6, 1, 0, 11, 10, 2, 3, 9, 8, 7] {
        world.unlink(dir, &at.to_string()).unwrap();
    }
    world.rmdir(ROOT, "d").unwrap();
    let mut rows = 0;
    world
        .twin
        .scan_dentries(dir, 0, &mut |_| {
            rows += 1;
            true
        })
        .unwrap();
    assert_eq!(rows, 0);
    assert!(world.twin.is_orphan(dir).unwrap());
    assert_eq!(world.make(dir, "x", FileKind::File), Err(FsError::NotFound));
    assert!(readdir(&world.twin, dir, 0, 100, true).unwrap().entries.is_empty());
    assert_eq!(lookup(&world.twin, dir, b"..").unwrap().ino, ROOT);
}
