//! What a mount is answered and told.

use super::{Asked, MountTimer, Purpose, REFUSED_PAUSE};
use crate::checks::TAG;
use crate::net::Tag;
use crate::record::Expected;
use crate::say;
use crate::world::{MILLI, World};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Seq;
use cairn_common::namespace::op::OpReply;
use cairn_common::proto::meta::{
    BatchReply, Event as ServerEvent, EventBody, MetaServiceResponse as Answered,
};
use cairn_mountd::client::OpTicket;
use cairn_mountd::client::answers::{AfterBatch, AfterSync, batch_answered, sync_answered};
use futures::FutureExt;
use rand::Rng;

impl World {
    pub fn mount_hears(&mut self, index: usize, tag: Tag, answer: Answered) {
        if tag.life != self.mounts[index].life {
            return;
        }
        let done = self.mounts[index].steps_left == 0;
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        if process.link != tag.link {
            return;
        }
        let Some(asked) = process.calls.remove(&tag.call) else { return };
        match (asked, answer) {
            (Asked::Attach(session), Answered::TakeUp(answer)) => {
                self.attach_is_answered(index, session, answer);
            }
            (Asked::Apply(last), Answered::Apply(answer)) => self.batch_is_answered(index, last, answer),
            (Asked::Sync(through), Answered::Sync(answer)) => self.sync_is_answered(index, through, answer),
            (Asked::Inos, Answered::AllocateInos(Ok(range))) => {
                process.inos = Some(range);
                self.record.gives_inos(range);
                self.make_own_dir(index);
            }
            (Asked::Events, Answered::Events(Ok(events))) => self.events_arrive(index, events),
            (Asked::Acknowledge(event), Answered::Acknowledge(Ok(()))) => {
                process.owed.remove(&event);
            }
            (Asked::Detach(session), Answered::Detach(Ok(()))) => {
                process.detaches.remove(&session);
            }
            (Asked::Open(ino, write), Answered::Open(Ok(_))) => {
                let (opens, writers) = process.opens.entry(ino).or_default();
                *opens += 1;
                *writers += u32::from(write);
                if done {
                    process.closing.push((ino, process.log.last()));
                }
            }
            (Asked::Close, Answered::Close(Ok(()))) => {}
            (Asked::Map, Answered::ClusterMap(Ok(map))) => {
                map.into_iter().for_each(|map| process.nodes.update(map));
            }
            (Asked::Look(least), Answered::Getattr(Ok(attr))) => {
                let least = least.min(self.record.journal_told);
                assert!(
                    attr.size >= least,
                    "mount {index} sees {} bytes of the journal, not {least}",
                    attr.size
                );
                self.record.looks += 1;
            }
            (
                Asked::Events
                | Asked::Inos
                | Asked::Acknowledge(_)
                | Asked::Detach(_)
                | Asked::Map
                | Asked::Open(..)
                | Asked::Close
                | Asked::Look(_),
                _,
            ) => return self.break_link(index),
            (asked, answer) => panic!("{asked:?} is answered {answer:?}"),
        }
        self.mount_ready(index);
    }

    pub(super) fn batch_is_answered(&mut self, index: usize, last: Seq, answer: FsResult<BatchReply>) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let session = process.session.expect("it sent a batch");
        let durable = answer.as_ref().map(|reply| reply.durable.min(last)).unwrap_or_default();
        match batch_answered(&mut process.log, answer) {
            AfterBatch::Answered(refused) => {
                let record = self.record.sessions.get_mut(&session).expect("it was opened");
                record.answered = record.answered.max(last);
                record.told_durable(durable);
                for refused in refused {
                    self.could_not_be_repeated(index, &refused);
                }
                self.answer_tickets(index, last);
            }
            AfterBatch::Pause(error) => {
                process.batch_paused = true;
                say!(self, "mount {index}: changes are refused: {error}");
                self.mount_timer(index, REFUSED_PAUSE, MountTimer::BatchAgain);
            }
            AfterBatch::TakeUpAgain(error) => {
                assert!(error.is_some(), "the answer does not fit the batch");
                self.break_link(index);
            }
        }
    }

    fn next_answered(&mut self, index: usize, last: Seq) -> Option<(Expected, OpTicket, Purpose)> {
        self.process(index)?.tickets.pop_front_if(|(expected, ..)| expected.seq <= last)
    }

    pub(super) fn answer_tickets(&mut self, index: usize, last: Seq) {
        while let Some((expected, ticket, purpose)) = self.next_answered(index, last) {
            let result = ticket.now_or_never().expect("its batch is answered");
            self.record.answers += 1;
            let no_room = result == Err(FsError::NoSpace);
            if let Some(wanted) = expected.result.filter(|wanted| !no_room && *wanted != result) {
                let excused = self.is_excused(index, expected.seq.0, &result);
                assert!(excused, "mount {index}, operation {}: {result:?}, not {wanted:?}", expected.seq);
            }
            self.note_result(index, expected.seq.0, &result);
            if let Ok(OpReply::Appended { offset, .. }) = &result
                && purpose == Purpose::Shared
            {
                self.record.journal_told = self.record.journal_told.max(offset + TAG as u64);
            }
            if purpose == Purpose::Lock {
                self.lock_is_answered(index, expected.seq, &result);
            }
        }
        self.lock_is_certain(index, last);
    }

    pub(super) fn sync_is_answered(&mut self, index: usize, through: Seq, answer: FsResult<Seq>) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let session = process.session.expect("it asked for a sync");
        if let Ok(durable) = answer {
            let record = self.record.sessions.get_mut(&session).expect("it was opened");
            record.told_durable(durable.min(record.sent));
        }
        match sync_answered(&mut process.log, true, through, answer) {
            AfterSync::Durable => {
                say!(self, "mount {index} synced {through}");
                let Some(process) = self.process(index) else { return };
                process.sync_wanted = process.sync_wanted.filter(|wanted| *wanted > through);
            }
            AfterSync::Again => {}
            AfterSync::Pause => {
                process.sync_paused = true;
                self.mount_timer(index, REFUSED_PAUSE, MountTimer::SyncAgain);
            }
            AfterSync::Failed(error) if error.is_transient() => {
                process.sync_paused = true;
                self.mount_timer(index, REFUSED_PAUSE / 10, MountTimer::SyncAgain);
            }
            AfterSync::Failed(_) => self.break_link(index),
        }
    }

    pub(super) fn events_arrive(&mut self, index: usize, events: Vec<ServerEvent>) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let received = process.received.1;
        let new: Vec<ServerEvent> = events.into_iter().filter(|event| event.id > received).collect();
        if let Some(last) = new.last() {
            process.received.1 = last.id;
        }
        for event in new {
            match event.body {
                EventBody::Flush { .. }
                | EventBody::Uncache { .. }
                | EventBody::Invalidate { .. }
                | EventBody::Shared { .. } => {
                    let after = self.rng.random_range(100..20 * MILLI);
                    self.mount_timer(index, after, MountTimer::Done(event.id));
                }
                EventBody::LockReleased { .. } => self.lock_again(index),
                EventBody::Sole { .. } => {}
            }
        }
    }
}
