//! Locks against a table that says for each owner and byte what is held.

use super::super::op::{LockFamily, LockOwner, LockRequest, LockType, OpBody};
use super::super::tables::{Read, Tables};
use super::super::{end_session_locks, test_lock};
use super::{ROOT, World};
use crate::error::FsError;
use crate::ids::{Ino, SessionId};
use crate::limits::LOCKS_PER_INODE_MAX;
use proptest::prelude::*;

/// The last byte stands for the rest of the file.
const BYTES: usize = 16;
const OWNERS: usize = 4;
const LAST: u64 = u64::MAX >> 1;

type Table = [[LockType; BYTES]; OWNERS];

#[derive(Clone, Debug)]
enum Step {
    Lock { owner: usize, kind: LockType, start: usize, end: usize },
    Release(usize),
    EndSession(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        3 => Just(LockType::Read), 2 => Just(LockType::Write), 2 => Just(LockType::Unlock)
    ];
    let lock = (0..OWNERS, kind, 0..BYTES, 0..BYTES).prop_map(|(owner, kind, one, two)| Step::Lock {
        owner,
        kind,
        start: one.min(two),
        end: one.max(two),
    });
    let step = prop_oneof![
        20 => lock, 1 => (0..OWNERS).prop_map(Step::Release), 1 => (0..2u64).prop_map(Step::EndSession)
    ];
    prop::collection::vec(step, 1..50)
}

/// Two sessions with two owners each; their owners have the same numbers.
fn identity(owner: usize, family: LockFamily) -> (SessionId, LockOwner) {
    (SessionId(owner as u64 / 2), LockOwner { family, owner: owner as u64 % 2 })
}

fn request(owner: usize, family: LockFamily, kind: LockType, start: u64, end: u64) -> LockRequest {
    LockRequest { owner: identity(owner, family).1, kind, start, end, pid: 5 }
}

fn excludes(table: &Table, owner: usize, kind: LockType, bytes: std::ops::RangeInclusive<usize>) -> bool {
    kind != LockType::Unlock
        && (0..OWNERS).filter(|other| *other != owner).any(|other| {
            table[other][bytes.clone()]
                .iter()
                .any(|held| *held == LockType::Write || (*held == LockType::Read && kind == LockType::Write))
        })
}

fn held(world: &World, ino: Ino) -> Table {
    let mut table = [[LockType::Unlock; BYTES]; OWNERS];
    for lock in world.twin.locks(ino).unwrap() {
        let owner = (lock.session.0 * 2 + lock.owner.owner) as usize;
        let end = if lock.end == LAST { BYTES - 1 } else { lock.end as usize };
        table[owner][lock.start as usize..=end].fill(if lock.write {
            LockType::Write
        } else {
            LockType::Read
        });
    }
    table
}

fn run(family: LockFamily, steps: &[Step]) {
    let mut world = World::new();
    let ino = world.file(ROOT, "a");
    let mut table = [[LockType::Unlock; BYTES]; OWNERS];
    for step in steps {
        match *step {
            Step::Lock { owner, kind, start, end } => {
                let last = if end == BYTES - 1 { LAST } else { end as u64 };
                let lock = request(owner, family, kind, start as u64, last);
                let bytes = if family == LockFamily::Flock { 0..=BYTES - 1 } else { start..=end };
                let blocked = excludes(&table, owner, kind, bytes.clone());
                world.session = identity(owner, family).0;
                let asked = test_lock(&world.twin, world.session, ino, &lock).unwrap();
                assert_eq!(asked.is_some(), blocked, "{step:?}");
                let result = world.apply(OpBody::Lock { ino, lock });
                assert_eq!(result.is_err(), blocked, "{step:?}: {result:?}");
                if !blocked {
                    table[owner][bytes].fill(kind);
                }
            }
            Step::Release(owner) => {
                let (session, owner_id) = identity(owner, family);
                world.session = session;
                world.apply(OpBody::ReleaseLocks { ino, owner: owner_id }).unwrap();
                table[owner].fill(LockType::Unlock);
            }
            Step::EndSession(session) => {
                end_session_locks(&mut world.twin, SessionId(session)).unwrap();
                assert_eq!(world.twin.locked_by(SessionId(session)).unwrap(), []);
                table[session as usize * 2..][..2].fill([LockType::Unlock; BYTES]);
            }
        }
        assert_eq!(held(&world, ino), table, "{step:?}");
        // As few locks as can say it.
        for pair in world.twin.locks(ino).unwrap().windows(2) {
            let goes_on = pair[0].end.checked_add(1) == Some(pair[1].start);
            let same = (pair[0].session, pair[0].owner, pair[0].write)
                == (pair[1].session, pair[1].owner, pair[1].write);
            assert!(!(goes_on && same), "{pair:?}");
        }
    }
}

proptest! {
    #[test]
    fn byte_ranges_are_what_the_table_says(steps in steps()) {
        run(LockFamily::Posix, &steps);
    }

    #[test]
    fn flock_is_about_whole_files(steps in steps()) {
        run(LockFamily::Flock, &steps);
    }
}

#[test]
fn the_two_families_do_not_see_each_other() {
    let mut world = World::new();
    let ino = world.file(ROOT, "a");
    for (owner, family) in [(0, LockFamily::Posix), (1, LockFamily::Flock)] {
        let lock = request(owner, family, LockType::Write, 0, LAST);
        world.session = SessionId(owner as u64);
        world.apply(OpBody::Lock { ino, lock }).unwrap();
    }
    assert_eq!(world.twin.locks(ino).unwrap().len(), 2);
}

#[test]
fn ranges_are_checked_and_inodes_too() {
    let mut world = World::new();
    let ino = world.file(ROOT, "a");
    let lock = request(0, LockFamily::Posix, LockType::Read, 9, 8);
    assert_eq!(world.apply(OpBody::Lock { ino, lock }), Err(FsError::Invalid));
    let lock = request(0, LockFamily::Posix, LockType::Read, 9, u64::MAX);
    world.apply(OpBody::Lock { ino, lock }).unwrap();
    assert_eq!(world.twin.locks(ino).unwrap()[0].end, LAST);
    assert_eq!(world.apply(OpBody::Lock { ino: Ino(77), lock }), Err(FsError::Stale));
}

#[test]
fn locks_on_an_inode_are_bounded() {
    let mut world = World::new();
    let ino = world.file(ROOT, "a");
    let (session, owner) = identity(0, LockFamily::Posix);
    world.session = session;
    let one = |at: usize| request(0, LockFamily::Posix, LockType::Read, at as u64 * 2, at as u64 * 2);
    let held: Vec<_> = (0..LOCKS_PER_INODE_MAX)
        .map(|at| super::super::tables::HeldLock {
            session,
            owner,
            write: false,
            start: at as u64 * 2,
            end: at as u64 * 2,
            pid: 5,
        })
        .collect();
    world.twin.put_locks(ino, &held).unwrap();
    let mut apply = |lock| {
        let op =
            super::Op { time: world.now, caller: world.caller.clone(), body: OpBody::Lock { ino, lock } };
        super::apply(&mut world.twin, session, &op)
    };
    assert_eq!(apply(one(LOCKS_PER_INODE_MAX)), Err(FsError::NoLocks));
    let joins = LockRequest { start: 1, end: 1, ..one(0) };
    apply(joins).unwrap();
    apply(one(LOCKS_PER_INODE_MAX)).unwrap();
    assert_eq!(apply(one(LOCKS_PER_INODE_MAX + 1)), Err(FsError::NoLocks));
    assert_eq!(world.twin.locks(ino).unwrap().len(), LOCKS_PER_INODE_MAX);
}
