//! What a mount sends, whenever there is something to send.

use super::{Asked, EVENTS_WAIT_MS};
use crate::world::World;
use cairn_common::ids::{Seq, SessionId};
use cairn_common::proto::meta::{Batch, CloseItem, MetaServiceRequest as Ask};

impl World {
    /// Sends whatever can be sent now.
    pub fn mount_ready(&mut self, index: usize) {
        let done = self.mounts[index].steps_left == 0;
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let Some(session) = process.session.filter(|_| process.attached) else { return };
        if done && process.sync_wanted.is_none() && !process.log.is_empty() {
            process.sync_wanted = Some(process.log.last());
        }
        self.send_batch(index, session);
        self.send_sync(index, session);
        self.send_closes(index, session);
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        if process.inos.is_none() && !process.is_asking(|asked| matches!(asked, Asked::Inos)) {
            self.ask(index, Asked::Inos, &Ask::AllocateInos { session });
        }
        self.send_events(index, session);
    }

    pub(super) fn send_batch(&mut self, index: usize, session: SessionId) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        if process.batch_paused || process.is_asking(|asked| matches!(asked, Asked::Apply(_))) {
            return;
        }
        let next = process.log.batch_under_way().or_else(|| process.log.next_batch());
        let Some((first, ops)) = next else { return };
        let last = Seq(first.0 + ops.len() as u64 - 1);
        process.sent = process.sent.max(last);
        let record = self.record.sessions.get_mut(&session).expect("it was opened");
        record.sent = record.sent.max(last);
        record.batch = first;
        let batch = Batch { session, first, ops, sync_follows: false };
        self.ask(index, Asked::Apply(last), &Ask::Apply { batch });
    }

    pub(super) fn send_sync(&mut self, index: usize, session: SessionId) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let Some(through) = process.sync_wanted else { return };
        if process.log.is_durable(through) {
            process.sync_wanted = None;
            return;
        }
        let asking = process.is_asking(|asked| matches!(asked, Asked::Sync(_)));
        if !asking && !process.sync_paused && process.sent >= through {
            self.ask(index, Asked::Sync(through), &Ask::Sync { session, through });
        }
    }

    /// A file is closed when all that was done to it is answered.
    pub(super) fn send_closes(&mut self, index: usize, session: SessionId) {
        let (answered, journal) = (self.record.sessions[&session].answered, self.meta.shared.journal);
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        if process.log.is_repeating() {
            return;
        }
        let (over, closing): (Vec<_>, Vec<_>) =
            process.closing.drain(..).partition(|(_, seq)| *seq <= answered);
        process.closing = closing;
        for (ino, _) in over {
            if let Some((opens, writers)) = process.opens.remove(&ino) {
                process.closes.push(CloseItem { ino, opens, writers });
                process.gone.insert(ino);
            }
        }
        process.gone.remove(&journal);
        if !process.closes.is_empty() && !process.is_asking(|asked| matches!(asked, Asked::Close)) {
            let items = std::mem::take(&mut process.closes);
            self.ask(index, Asked::Close, &Ask::Close { session, items });
        }
    }

    /// Opens the journal, as anyone may.
    pub fn open_journal(&mut self, index: usize, write: bool) {
        let ino = self.meta.shared.journal;
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let Some(session) = process.session.filter(|_| process.attached) else { return };
        if !process.is_asking(|asked| matches!(asked, Asked::Open(..))) {
            self.ask(index, Asked::Open(ino, write), &Ask::Open { session, ino, write });
        }
    }

    /// Whatever others were told is done before, is seen.
    pub fn look_at_journal(&mut self, index: usize) {
        let (ino, least) = (self.meta.shared.journal, self.record.journal_told);
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let Some(session) = process.session.filter(|_| process.attached) else { return };
        self.ask(index, Asked::Look(least), &Ask::Getattr { session, ino });
    }

    pub(super) fn send_events(&mut self, index: usize, session: SessionId) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let owed = process.owed.clone();
        let detaches = process.detaches.clone();
        let asks = !process.is_asking(|asked| matches!(asked, Asked::Events));
        let received = process.received.1;
        for event in owed {
            let is_same = |asked: &Asked| matches!(asked, Asked::Acknowledge(id) if *id == event);
            if self.process(index).is_some_and(|process| !process.is_asking(is_same)) {
                self.ask(index, Asked::Acknowledge(event), &Ask::Acknowledge { session, event });
            }
        }
        for dead in detaches {
            let is_same = |asked: &Asked| matches!(asked, Asked::Detach(id) if *id == dead);
            if self.process(index).is_some_and(|process| !process.is_asking(is_same)) {
                self.ask(index, Asked::Detach(dead), &Ask::Detach { session: dead });
            }
        }
        if asks {
            let request = Ask::Events { session, received, wait_ms: EVENTS_WAIT_MS };
            self.ask(index, Asked::Events, &request);
        }
    }
}
