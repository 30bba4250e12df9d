//! A batch of operations: who has to flush before, what is registered, who has to hear of it after.

use super::Meta;
use crate::meta::apply::{Command, Effects, Reply};
use crate::meta::lease::Leases;
use crate::meta::recall::WaitId;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, Seq, SessionId};
use cairn_common::limits::{BATCH_OPS_MAX, COMMIT_PIECES_MAX};
use cairn_common::namespace::op::{Commit, LockType, Op, OpBody, OpReply, OpResult};
use cairn_common::proto::meta::{Batch, BatchReply, CloseItem};

/// Applies a batch and does all that other mounts need done before it is answered.
pub async fn apply(meta: &Meta, batch: Batch) -> FsResult<BatchReply> {
    check(&batch)?;
    meta.sessions.recovered().await;
    let Batch { session, first, ops, sync_follows } = batch;
    let alone = meta.sessions.enter(session, |leases| leases.is_alone())?;
    let mut plan = Plan::new(session, first, &ops, alone);
    if !plan.is_empty() {
        let ((), waiting) = meta.sessions.enter_wait(session, |leases| ((), plan.before(leases)))?;
        if let Some(waiting) = waiting {
            waiting.settled().await?;
        }
    }
    // What was registered stays when this fails: another copy of the batch may have been applied, or is to come.
    let command = Command::Batch { session, first, ops, full: false };
    let applied = meta.machine.submit_then_sync(command, sync_follows).await?;
    let Reply::Results(results) = applied.reply else { return Err(FsError::Io) };
    let waiting = meta.sessions.tell_wait(|leases| plan.after(leases, &results, applied.effects));
    if let Some(waiting) = waiting {
        // To forget cannot be refused.
        let _ = waiting.done().await;
    }
    let durable = meta.machine.durable_seq(session).ok_or(FsError::Evicted)?;
    Ok(BatchReply { results, durable })
}

fn check(batch: &Batch) -> FsResult<()> {
    if batch.ops.len() > BATCH_OPS_MAX || batch.first.0 == 0 {
        return Err(FsError::Invalid);
    }
    let commit_too_long = |commit: &Commit| {
        commit.pieces.len() > COMMIT_PIECES_MAX
            || commit.files.len() > COMMIT_PIECES_MAX
            || commit.blocks.len() > COMMIT_PIECES_MAX
    };
    let too_long = |op: &Op| match &op.body {
        OpBody::Commit(commit) => commit_too_long(commit),
        OpBody::CommitAndMove { commit, moves } => commit_too_long(commit) || moves.len() > COMMIT_PIECES_MAX,
        _ => false,
    };
    if batch.ops.iter().any(too_long) { Err(FsError::TooBig) } else { Ok(()) }
}

/// What a batch means for other sessions, taken from its operations before they go into the log.
struct Plan {
    session: SessionId,
    /// The number of the first operation.
    first: Seq,
    /// Operations that make and open an inode.
    creates: Vec<(usize, Ino)>,
    links: Vec<(usize, Ino)>,
    /// Attempts for a lock, and whether the session was registered as waiting for this one.
    locks: Vec<(usize, Ino, bool)>,
    /// Inodes that the operations look at or change.
    targets: Vec<Ino>,
    /// Inodes whose content or size they change.
    content: Vec<Ino>,
}

impl Plan {
    /// `alone`: nobody else was there when the batch came. Whoever comes later is told of what the batch
    /// changes by its effects.
    fn new(session: SessionId, first: Seq, ops: &[Op], alone: bool) -> Plan {
        let (creates, links, locks) = (Vec::new(), Vec::new(), Vec::new());
        let (targets, content) = (Vec::new(), Vec::new());
        let mut plan = Plan { session, first, creates, links, locks, targets, content };
        for (index, op) in ops.iter().enumerate() {
            plan.add_own(index, &op.body);
            if !alone {
                plan.add_targets(&op.body);
            }
        }
        for list in [&mut plan.targets, &mut plan.content] {
            list.sort_unstable();
            list.dedup();
        }
        plan
    }

    /// Nothing to do before the operations are applied.
    fn is_empty(&self) -> bool {
        self.creates.is_empty() && self.locks.is_empty() && self.targets.is_empty()
    }

    fn add_own(&mut self, index: usize, body: &OpBody) {
        match body {
            OpBody::Create(create) if create.open => self.creates.push((index, create.ino)),
            OpBody::Tmpfile { ino, .. } => self.creates.push((index, *ino)),
            OpBody::Link { ino, .. } => self.links.push((index, *ino)),
            OpBody::Lock { ino, lock } if lock.kind != LockType::Unlock => {
                self.locks.push((index, *ino, false));
            }
            _ => {}
        }
    }

    fn add_targets(&mut self, body: &OpBody) {
        match body {
            OpBody::SetAttr { ino, set } => {
                self.targets.push(*ino);
                if set.size.is_some() {
                    self.content.push(*ino);
                }
            }
            OpBody::SetXattr { ino, .. } | OpBody::RemoveXattr { ino, .. } => self.targets.push(*ino),
            // What only moves is the same for everybody.
            OpBody::Commit(commit) | OpBody::CommitAndMove { commit, .. } => {
                self.targets.extend(commit.files.iter().map(|file| file.ino));
                self.content.extend(commit.files.iter().map(|file| file.ino));
            }
            OpBody::Append { ino, .. } | OpBody::Fallocate { ino, .. } => {
                self.targets.push(*ino);
                self.content.push(*ino);
            }
            OpBody::CloneRange { from, to, .. } => {
                self.targets.extend([*from, *to]);
                self.content.push(*to);
            }
            _ => {}
        }
    }

    /// Registers what is about to be opened: another session may find the new name before we are told
    /// that it was made.
    fn before(&mut self, leases: &mut Leases) -> Option<WaitId> {
        for (index, ino) in &self.creates {
            leases.creating(self.session, Seq(self.first.0 + *index as u64), *ino);
        }
        for (_, ino, new) in &mut self.locks {
            *new = leases.lock_attempt(self.session, *ino);
        }
        leases.before_change(self.session, &self.targets)
    }

    fn after(&mut self, leases: &mut Leases, results: &[OpResult], effects: Effects) -> Option<WaitId> {
        for (index, ino) in &self.creates {
            let made = matches!(results.get(*index), Some(Ok(OpReply::Entry { created: true, .. })));
            if !made {
                leases.close(self.session, CloseItem { ino: *ino, opens: 1, writers: 1 });
            }
        }
        for (index, ino) in &self.links {
            // Not of a repeated batch, which has no effects: what it linked may have lost all names since.
            let changed = effects.attrs.binary_search(ino).is_ok() || effects.data.binary_search(ino).is_ok();
            if changed && matches!(results.get(*index), Some(Ok(_))) {
                leases.linked(*ino);
            }
        }
        for (index, ino, new) in &self.locks {
            if *new && results.get(*index) != Some(&Err(FsError::WouldBlock)) {
                leases.lock_granted(self.session, *ino);
            }
        }
        for ino in effects.unlocked {
            leases.lock_released(ino);
        }
        for ino in effects.orphaned {
            leases.orphan(ino);
        }
        if leases.is_alone() {
            return None;
        }
        // A repeated batch has no effects, but its first answer may not have got this far.
        self.content.extend(effects.data);
        self.content.sort_unstable();
        self.content.dedup();
        leases.after_change(self.session, &self.content)
    }
}
