//! The steps of a mount's programs: operations in its own directory, data in blocks, and what all mounts share.

use crate::mount::{Lock, MountTimer, Purpose, Write};
use crate::say;
use crate::work;
use crate::world::{MILLI, World};
use bytes::{BufMut, Bytes, BytesMut};
use cairn_common::attr::FileKind;
use cairn_common::error::FsError;
use cairn_common::ids::{Ino, Seq};
use cairn_common::namespace::op::{LockFamily, LockOwner, LockRequest, LockType, OpBody, OpResult, Rename};
use cairn_common::summary;
use cairn_common::wire::Payload;
use cairn_mountd::client::oplog::Refused;
use rand::Rng;

impl World {
    pub fn step(&mut self, index: usize) {
        let steps = self.mounts[index].steps_left;
        if steps == 0 {
            return;
        }
        if self.plan.cut.is_some() {
            return self.scripted_step(index);
        }
        let pause = self.plan.horizon / u64::from(self.plan.steps);
        let after = self.rng.random_range(MILLI..2 * pause);
        self.mount_timer(index, after, MountTimer::Step);
        if self.process(index).is_none_or(|process| process.own.is_none()) {
            // It waits for its session, as its programs do.
            return;
        }
        self.mounts[index].steps_left -= 1;
        match self.rng.random_range(0..100) {
            0..40 => self.own_operations(index),
            40..58 => self.write(index),
            58..65 => self.fsync(index),
            65..73 => self.append_to_journal(index),
            73..78 => self.shared_operation(index),
            78..85 => self.lock_step(index),
            85..90 => self.unnamed_step(index),
            90..93 => self.journal_step(index),
            93..96 => self.look_at_journal(index),
            _ => self.read(index),
        }
        if self.mounts[index].steps_left == 0 {
            self.unlock(index);
            self.close_all(index);
        }
        self.mount_ready(index);
    }

    fn own_operations(&mut self, index: usize) {
        for _ in 0..self.rng.random_range(1..6) {
            let process = self.mounts[index].process.as_mut().expect("it lives");
            let Some(own) = process.own.take() else { return };
            let body = own.random(&mut self.rng, &mut || process.fresh());
            process.own = Some(own);
            self.submit(index, body, Purpose::Own);
        }
    }

    fn fsync(&mut self, index: usize) {
        if let Some(process) = self.process(index) {
            process.sync_wanted = Some(process.log.last());
        }
    }

    // Open files ----------------------------------------------------------------------------------

    /// A file that loses its name while it is open lives on until it is closed, whoever dies meanwhile.
    fn unnamed_step(&mut self, index: usize) {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let Some(ino) = process.unnamed.first().copied() else { return self.make_unnamed(index) };
        if self.chance(60) {
            self.submit(index, work::append(ino, Bytes::from_static(b"still here")), Purpose::Own);
        } else {
            self.close(index, ino);
        }
    }

    pub fn make_unnamed(&mut self, index: usize) {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let Some(own) = process.own.as_ref() else { return };
        let (parent, ino) = (own.dir, process.fresh());
        process.opens.insert(ino, (1, 1));
        process.unnamed.insert(ino);
        let name = Bytes::from(format!("open{ino}"));
        let mut create = work::create(parent, name.clone(), ino, FileKind::File);
        if let OpBody::Create(create) = &mut create {
            create.open = true;
        }
        self.submit(index, create, Purpose::Own);
        self.submit(index, OpBody::Unlink { parent, name }, Purpose::Own);
    }

    fn close(&mut self, index: usize, ino: Ino) {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        process.unnamed.remove(&ino);
        if process.closing.iter().all(|(closing, _)| *closing != ino) {
            process.closing.push((ino, process.log.last()));
        }
    }

    fn journal_step(&mut self, index: usize) {
        let journal = self.meta.shared.journal;
        let write = self.chance(50);
        if self.process(index).is_some_and(|process| process.opens.contains_key(&journal)) {
            self.close(index, journal);
        } else {
            self.open_journal(index, write);
        }
    }

    pub fn close_all(&mut self, index: usize) {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        for ino in process.opens.keys().copied().collect::<Vec<_>>() {
            self.close(index, ino);
        }
    }

    // Data ----------------------------------------------------------------------------------------

    fn write(&mut self, index: usize) {
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let files = process.files();
        if files.is_empty() {
            return;
        }
        let stretches = work::stretches(&files, &mut self.rng);
        self.write_stretches(index, stretches);
    }

    /// New bytes, in one block.
    pub fn write_stretches(&mut self, index: usize, stretches: work::Stretches) {
        let entries = work::entries(&stretches);
        let mut bytes = vec![0; entries.iter().map(|entry| entry.length as usize).sum()];
        self.rng.fill(&mut bytes[..]);
        let summary = summary::encode(&entries);
        let summary_len = summary.len() as u32;
        let payload = Payload::from_segments(vec![bytes.into(), summary.into()]);
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let id = process.next_call;
        process.next_call += 1;
        let write = Write::new(payload, summary_len, stretches);
        process.writes.insert(id, write);
        self.put(index, id);
    }

    // Together ------------------------------------------------------------------------------------

    /// A record that says who wrote it, as which operation.
    fn append_to_journal(&mut self, index: usize) {
        let journal = self.meta.shared.journal;
        for _ in 0..self.rng.random_range(1..4) {
            let process = self.mounts[index].process.as_ref().expect("it lives");
            let (session, seq) = (process.session.expect("it is attached"), process.log.last().next());
            let mut bytes = BytesMut::new();
            bytes.put_u64(session.0);
            bytes.put_u64(seq.0);
            let submitted = self.submit(index, work::append(journal, bytes.freeze()), Purpose::Shared);
            assert_eq!(submitted, seq);
            self.record.sessions.get_mut(&session).expect("it was opened").appends.insert(seq.0);
        }
    }

    /// Names for which all mounts fight.
    fn shared_operation(&mut self, index: usize) {
        let dir = self.meta.shared.dir;
        let (name, other) = (work::some_name(&mut self.rng), work::some_name(&mut self.rng));
        let process = self.mounts[index].process.as_mut().expect("it lives");
        let body = match self.rng.random_range(0..4) {
            0 | 1 => work::create(dir, name, process.fresh(), FileKind::File),
            2 => OpBody::Unlink { parent: dir, name },
            _ => OpBody::Rename(Rename {
                parent: dir,
                name,
                new_parent: dir,
                new_name: other,
                flags: 0,
                whiteout: Ino(0),
            }),
        };
        self.submit(index, body, Purpose::Shared);
    }

    /// Operations that depend on what others do may be refused when they are repeated; own ones never.
    pub fn could_not_be_repeated(&mut self, index: usize, refused: &Refused) {
        say!(self, "mount {index} lost {:?}: {}", refused.op.body, refused.error);
        if self.note_refused(index, refused) {
            return;
        }
        let shared = self.meta.shared;
        match &refused.op.body {
            OpBody::Create(create) if create.parent == shared.dir => {}
            OpBody::Unlink { parent, .. } if *parent == shared.dir => {}
            OpBody::Rename(rename) if rename.parent == shared.dir => {}
            OpBody::Lock { ino, .. } if *ino == shared.lock => {
                self.record.lost_locks += 1;
                if let Some(process) = self.process(index)
                    && matches!(process.lock, Lock::Held { .. })
                {
                    process.lock = Lock::Free;
                }
            }
            // Its file was closed meanwhile, had no name, and is gone.
            OpBody::Append { ino, .. } if self.mounts[index].has_closed(*ino) => {}
            other => panic!("mount {index}: {other:?} was done, lost, and refused: {}", refused.error),
        }
    }

    // The lock ------------------------------------------------------------------------------------

    fn lock_step(&mut self, index: usize) {
        match self.process(index).map(|process| process.lock) {
            Some(Lock::Free) => self.try_lock(index),
            Some(Lock::Held { .. }) => self.unlock(index),
            _ => {}
        }
    }

    fn lock_body(&self, kind: LockType) -> OpBody {
        let owner = LockOwner { family: LockFamily::Flock, owner: 1 };
        let lock = LockRequest { owner, kind, start: 0, end: u64::MAX >> 1, pid: 1 };
        OpBody::Lock { ino: self.meta.shared.lock, lock }
    }

    fn try_lock(&mut self, index: usize) {
        let body = self.lock_body(LockType::Write);
        self.submit(index, body, Purpose::Lock);
        if let Some(process) = self.process(index) {
            process.lock = Lock::Asked;
        }
        self.mount_ready(index);
    }

    /// A waiter tries again, unless its program has ended.
    pub fn lock_again(&mut self, index: usize) {
        let done = self.mounts[index].steps_left == 0;
        let Some(process) = self.process(index) else { return };
        if process.lock != Lock::Refused {
            return;
        }
        if done {
            process.lock = Lock::Free;
        } else {
            self.try_lock(index);
        }
    }

    fn unlock(&mut self, index: usize) {
        let Some(process) = self.process(index) else { return };
        if matches!(process.lock, Lock::Held { .. }) {
            process.lock = Lock::Free;
            let body = self.lock_body(LockType::Unlock);
            self.submit(index, body, Purpose::Shared);
        }
    }

    pub fn lock_is_answered(&mut self, index: usize, seq: Seq, result: &OpResult) {
        let done = self.mounts[index].steps_left == 0;
        let Some(process) = self.process(index) else { return };
        match result {
            Ok(_) => {
                process.lock = Lock::Held { seq, certain: true };
                self.record.grants += 1;
                self.check_one_holder(index);
                if done {
                    self.unlock(index);
                }
            }
            Err(FsError::WouldBlock | FsError::NoSpace) => {
                process.lock = Lock::Refused;
                self.plan_lock_retry(index);
            }
            Err(error) => panic!("mount {index}: lock answered {error}"),
        }
    }

    /// A server that had lost power has the lock again.
    pub fn lock_is_certain(&mut self, index: usize, last: Seq) {
        let Some(process) = self.process(index) else { return };
        if let Lock::Held { seq, certain: false } = process.lock
            && seq <= last
        {
            process.lock = Lock::Held { seq, certain: true };
            self.check_one_holder(index);
        }
    }
}
