//! The metadata daemon's disk runs full, and has room again later. What it refuses has no effect, neither then nor when it is
//! repeated after a loss of power; so what is there is checked without it, and what mounts expect is found anew.

use crate::meta::RESERVE;
use crate::mount::Purpose;
use crate::record::SessionRecord;
use crate::say;
use crate::work::Own;
use crate::world::World;
use cairn_common::error::FsError;
use cairn_common::ids::{Ino, SessionId};
use cairn_common::namespace::op::{OpBody, OpResult};
use cairn_fsd::meta::apply::{Applied, Command, Reply};
use cairn_fsd::meta::machine::Machine;
use cairn_mountd::client::oplog::Refused;
use futures::FutureExt;
use rand::Rng;
use std::collections::BTreeMap;

/// In so many of a hundred cases there is room for what removes, else perhaps not even for that.
const NEARLY_PERCENT: u32 = 70;

/// The mount's own directory without what failed, and what each operation answers then.
fn without_failed(session: SessionId, dir: Ino, record: &SessionRecord) -> (Own, BTreeMap<u64, OpResult>) {
    let mut own = Own::new(dir);
    let mut results = BTreeMap::new();
    for (seq, op) in (1..).zip(&record.ops) {
        if !record.failed.contains(&seq) {
            results.insert(seq, own.apply(session, op));
        }
    }
    (own, results)
}

impl World {
    pub fn meta_runs_full(&mut self) {
        self.meta.full = true;
        self.limit_meta();
    }

    pub fn meta_has_room(&mut self) {
        self.meta.full = false;
        self.limit_meta();
    }

    /// What the disk has left, in a world in which it may run full: never so much that nobody looks any more.
    pub fn limit_meta(&mut self) {
        if !self.plan.meta_full {
            return;
        }
        let more = if !self.meta.full {
            2 * RESERVE
        } else if self.chance(NEARLY_PERCENT) {
            self.rng.random_range(RESERVE / 2..RESERVE)
        } else {
            self.rng.random_range(0..RESERVE / 8)
        };
        self.meta.disk.limit(Some(more));
    }

    /// An operation of a mount is answered for the first time.
    pub fn note_result(&mut self, index: usize, seq: u64, result: &OpResult) {
        let session = self.mounts[index].session().expect("it sent a batch");
        let record = self.record.sessions.get_mut(&session).expect("it was opened");
        if result.is_err() {
            record.failed.insert(seq);
        }
        if *result == Err(FsError::NoSpace) {
            assert!(self.plan.meta_full, "mount {index}: no space for operation {seq}");
            record.has_refusals = true;
            self.record.refusals += 1;
            self.forget_operation(index, session, seq);
        }
    }

    /// An operation may be answered otherwise than expected if it concerns a file that has lost its name, since the operation
    /// that gave it another was refused: nobody has it open, so it may be gone. The server decides.
    pub fn is_excused(&mut self, index: usize, seq: u64, result: &OpResult) -> bool {
        let Some(session) = self.mounts[index].session() else { return false };
        let record = &self.record.sessions[&session];
        let Some(own) = self.mounts[index].process.as_ref().and_then(|process| process.own.as_ref()) else {
            return false;
        };
        let body = &record.ops[seq as usize - 1].body;
        let excused = self.plan.meta_full && record.has_refusals && own.has_nameless(body);
        if excused && result.is_err() {
            self.record.sessions.get_mut(&session).expect("it was opened").failed.insert(seq);
            self.forget_operation(index, session, seq);
        }
        excused
    }

    /// An operation that was done, lost, and refused when it was repeated. True if it was for want of room, for it or for
    /// one before it.
    pub fn note_refused(&mut self, index: usize, refused: &Refused) -> bool {
        let session = self.mounts[index].session().expect("it sent a batch");
        let record = self.record.sessions.get_mut(&session).expect("it was opened");
        let same = |(seq, op): &(u64, &_)| **op == refused.op && !record.failed.contains(seq);
        let (seq, _) = (1..).zip(&record.ops).find(same).expect("it was submitted");
        let expected = record.dir.and_then(|dir| without_failed(session, dir, record).1.remove(&seq));
        let for_room = refused.error == FsError::NoSpace || expected == Some(Err(refused.error));
        record.failed.insert(seq);
        if self.plan.meta_full && for_room {
            record.has_refusals = true;
            say!(self, "mount {index} lost operation {seq}: {}", refused.error);
            self.forget_operation(index, session, seq);
            return true;
        }
        false
    }

    /// The mount goes on as if it had never had this operation.
    fn forget_operation(&mut self, index: usize, session: SessionId, seq: u64) {
        let record = self.record.sessions.get_mut(&session).expect("it was opened");
        record.appends.remove(&seq);
        let body = record.ops[seq as usize - 1].body.clone();
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        if let Some(dir) = process.own.as_ref().map(|own| own.dir) {
            let (own, results) = without_failed(session, dir, record);
            for (expected, ..) in &mut process.tickets {
                if expected.result.is_some() {
                    expected.result = results.get(&expected.seq.0).cloned();
                }
            }
            process.own = Some(own);
        }
        let OpBody::Create(create) = &body else { return };
        if create.open {
            process.never_opened(create.ino);
        }
        if Some(create.ino) == process.own.as_ref().map(|own| own.dir) {
            // It can do nothing without.
            self.submit(index, body, Purpose::Own);
        }
    }

    /// Results of batches whose answers went with the daemon: the next has them, for mounts that ask again.
    pub fn note_results_kept(&mut self, machine: &Machine) {
        for (session, record) in &mut self.record.sessions {
            let applied = machine.session(*session).map_or(0, |info| info.applied.0);
            let first = record.batch;
            if first.0 == 0 || first.0 > applied {
                continue;
            }
            let ops = record.ops[first.0 as usize - 1..applied as usize].to_vec();
            let again = Command::Batch { session: *session, first, ops, full: false };
            let before = machine.progress().applied;
            let answer = machine.submit_then_sync(again, false).now_or_never().expect("it needs no entry");
            assert_eq!(machine.progress().applied, before, "session {session}: batch {first} happened twice");
            match answer {
                Ok(Applied { reply: Reply::Results(results), .. }) => record.note_results(first, &results),
                other => panic!("session {session}: batch {first} was applied, and is answered {other:?}"),
            }
        }
    }
}
