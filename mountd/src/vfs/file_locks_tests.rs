//! Whoever decides, the answers are those of one table that saw every request; and whoever decides next
//! knows what is held.

use super::*;
use cairn_common::error::FsError;
use cairn_common::namespace::op::LockFamily;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;

const SESSION: SessionId = SessionId(7);

fn owner(owner: u64) -> LockOwner {
    LockOwner { family: if owner < 3 { LockFamily::Posix } else { LockFamily::Flock }, owner }
}

fn request(who: u64, kind: LockType, start: u64, end: u64) -> LockRequest {
    LockRequest { owner: owner(who), kind, start, end, pid: 1 }
}

/// What waits in the operation log for the server.
enum Sent {
    Lock(LockRequest),
    Release(LockOwner),
}

/// A mount's locks on one file, its server, and the truth.
#[derive(Default)]
struct World {
    locks: FileLocks,
    sole: bool,
    log: VecDeque<Sent>,
    server: Vec<HeldLock>,
    truth: Vec<HeldLock>,
    /// Of a move, for the server to take.
    moving: bool,
}

impl World {
    /// The server reads all of the log; what it answers last.
    fn drain(&mut self) -> FsResult<()> {
        let mut last = Ok(());
        while let Some(sent) = self.log.pop_front() {
            last = match sent {
                Sent::Lock(lock) => {
                    locks_after(&self.server, SESSION, &lock).map(|after| self.server = after)
                }
                Sent::Release(owner) => {
                    self.server.retain(|lock| lock.owner != owner);
                    Ok(())
                }
            };
        }
        last
    }

    fn finish_move(&mut self) {
        if std::mem::take(&mut self.moving) {
            self.drain().expect("nobody else holds what is moved");
            self.locks.moved(SESSION);
        }
    }

    fn set(&mut self, lock: &LockRequest) -> FsResult<()> {
        loop {
            match self.locks.set(SESSION, self.sole, lock) {
                Decision::Here(result) => return result,
                Decision::Server => {
                    self.log.push_back(Sent::Lock(*lock));
                    return self.drain();
                }
                Decision::Move(locks) => {
                    self.log.extend(locks.into_iter().map(Sent::Lock));
                    self.moving = true;
                }
                Decision::Wait => self.finish_move(),
            }
        }
    }

    fn release(&mut self, who: u64) {
        if self.locks.release(owner(who)).tell_server {
            self.log.push_back(Sent::Release(owner(who)));
        }
        self.truth.retain(|lock| lock.owner != owner(who));
    }

    fn hand_over(&mut self) {
        self.sole = false;
        loop {
            match self.locks.hand_over(SESSION) {
                Decision::Here(()) => break,
                Decision::Move(locks) => {
                    self.log.extend(locks.into_iter().map(Sent::Lock));
                    self.moving = true;
                }
                Decision::Wait => self.finish_move(),
                Decision::Server => unreachable!("there is nothing to ask"),
            }
        }
        self.drain().ok();
        assert_eq!(self.server, self.truth, "the server knows everything when another mount is let in");
    }

    fn step(&mut self, rng: &mut StdRng) {
        let who = rng.random_range(1..6);
        match rng.random_range(0..20) {
            0 => self.sole = true,
            1 => self.hand_over(),
            // A recall begins; what is held is told with the next request only.
            2 => self.sole = false,
            3..6 => self.release(who),
            _ => {
                let kind = [LockType::Read, LockType::Write, LockType::Unlock][rng.random_range(0..3)];
                let start = rng.random_range(0..20);
                let lock = request(who, kind, start, start + rng.random_range(0..10));
                let expected = locks_after(&self.truth, SESSION, &lock);
                assert_eq!(self.set(&lock), expected.clone().map(|_after| ()), "{lock:?}");
                self.truth = expected.unwrap_or_else(|_error| std::mem::take(&mut self.truth));
            }
        }
    }
}

#[test]
fn answers_are_those_of_one_table() {
    for seed in 0..2_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World { sole: true, ..World::default() };
        for _ in 0..100 {
            world.step(&mut rng);
        }
        world.hand_over();
    }
}

#[test]
fn a_sole_mount_asks_nobody() {
    let mut locks = FileLocks::default();
    assert_eq!(locks.set(SESSION, true, &request(1, LockType::Write, 0, 9)), Decision::Here(Ok(())));
    let other = request(2, LockType::Read, 5, 5);
    assert_eq!(locks.set(SESSION, true, &other), Decision::Here(Err(FsError::WouldBlock)));
    let Decision::Here(Ok(Some(held))) = locks.test(SESSION, true, &other) else { panic!("it is held") };
    assert_eq!((held.owner, held.write, held.end), (owner(1), true, 9));
    assert_eq!(locks.release(owner(1)), Released { tell_server: false, wake: true });
    assert_eq!(locks.set(SESSION, true, &other), Decision::Here(Ok(())));
}

#[test]
fn the_server_decides_until_nobody_holds_a_lock() {
    let mut locks = FileLocks::default();
    let lock = request(1, LockType::Write, 0, 9);
    assert_eq!(locks.set(SESSION, false, &lock), Decision::Server);
    assert_eq!(locks.set(SESSION, true, &request(2, LockType::Read, 20, 29)), Decision::Server);
    assert!(locks.release(owner(1)).tell_server);
    assert_eq!(locks.set(SESSION, true, &lock), Decision::Server);
    assert!(locks.release(owner(1)).tell_server && locks.release(owner(2)).tell_server);
    assert_eq!(locks.set(SESSION, true, &lock), Decision::Here(Ok(())));
}

#[test]
fn who_closes_during_a_move_is_not_told_again() {
    let mut locks = FileLocks::default();
    let (one, two) = (request(1, LockType::Write, 0, 9), request(2, LockType::Write, 10, 19));
    assert_eq!(locks.set(SESSION, true, &one), Decision::Here(Ok(())));
    assert_eq!(locks.set(SESSION, true, &two), Decision::Here(Ok(())));
    assert_eq!(locks.hand_over(SESSION), Decision::Move(vec![one, two]));
    assert_eq!(locks.hand_over(SESSION), Decision::Wait);
    assert!(locks.release(owner(1)).tell_server, "it was told of the lock");
    assert_eq!(locks.to_move(SESSION), [two]);
    locks.moved(SESSION);
    assert!(locks.to_move(SESSION).is_empty());
    assert_eq!(locks.hand_over(SESSION), Decision::Here(()));
}

#[test]
fn locks_end_with_their_session() {
    let mut locks = FileLocks::default();
    let lock = request(1, LockType::Write, 0, 9);
    assert_eq!(locks.set(SESSION, true, &lock), Decision::Here(Ok(())));
    let next = SessionId(8);
    assert_eq!(locks.set(next, true, &request(2, LockType::Write, 0, 9)), Decision::Here(Ok(())));
    assert_eq!(locks.hand_over(next), Decision::Move(vec![request(2, LockType::Write, 0, 9)]));
    locks.moved(SESSION);
    assert_eq!(locks.hand_over(next), Decision::Wait, "the old session's move is not the new one's");
}
