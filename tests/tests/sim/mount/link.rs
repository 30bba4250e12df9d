//! The connection of a mount: made, lost, and the session taken up over the next.

use super::{Asked, DATA_LINKS, DEADLINE, MountTimer, NOT_CONNECTED};
use crate::net::{Peer, Tag};
use crate::say;
use crate::world::{MILLI, World};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::SessionId;
use cairn_common::proto::meta::{AttachRequest, ClientInfo, MetaServiceRequest as Ask, OpenState, TakenUp};
use cairn_mountd::client::answers::{AfterAttach, Taken, attach_answered, opens_to_tell};
use rand::Rng;

impl World {
    pub(super) fn ask(&mut self, index: usize, asked: Asked, request: &Ask) {
        let life = self.mounts[index].life;
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        let (link, call) = (process.link, process.next_call);
        process.next_call += 1;
        process.calls.insert(call, asked);
        let server = process.server;
        self.send_to_meta(Tag { peer: Peer::Mount(index), life, link, call }, server, request);
        self.mount_timer(index, DEADLINE, MountTimer::Deadline { link, call });
    }

    /// The network breaks the connection; what is on its way may still arrive.
    pub fn cut(&mut self, index: usize) {
        if self.mounts[index].is_alive() {
            self.break_link(index);
        }
    }

    /// The connection is of no use any more: the session must be taken up again.
    pub(super) fn break_link(&mut self, index: usize) {
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        process.link += 1;
        process.server = NOT_CONNECTED;
        process.attached = false;
        process.calls.clear();
        process.sync_paused = false;
        process.batch_paused = false;
        process.attaching = true;
        let after = self.rng.random_range(MILLI..100 * MILLI);
        self.mount_timer(index, after, MountTimer::Reattach);
    }

    pub fn mount_lost_connection(&mut self, index: usize, tag: Tag) {
        if tag.life != self.mounts[index].life {
            return;
        }
        if tag.link >= DATA_LINKS {
            let at = (tag.link - DATA_LINKS) as usize;
            return self.data_call_failed(index, at, tag.call, FsError::Unavailable);
        }
        if self.process(index).is_some_and(|process| process.link == tag.link) {
            self.break_link(index);
        }
    }

    pub(super) fn attach(&mut self, index: usize) {
        let life = self.meta.life;
        let Some(process) = self.mounts[index].process.as_mut() else { return };
        if process.attached || process.is_asking(|asked| matches!(asked, Asked::Attach(_))) {
            return;
        }
        process.attaching = true;
        if process.server == NOT_CONNECTED {
            process.server = life;
        }
        let session = process.session;
        // What is to be closed is not among them any more.
        process.closes.clear();
        let opens = process.opens.iter().map(|(ino, (opens, writers))| OpenState {
            ino: *ino,
            opens: *opens,
            writers: *writers,
        });
        let opens = opens_to_tell(process.log.opened(), opens.collect());
        let client = ClientInfo { host: format!("host{index}"), ..ClientInfo::default() };
        let request = AttachRequest { session, client, opens };
        let opened = process.last.as_ref().and_then(|last| last.opened);
        self.ask(index, Asked::Attach(session), &Ask::TakeUp { request, opened });
    }

    pub(super) fn attach_is_answered(
        &mut self,
        index: usize,
        session: Option<SessionId>,
        answer: FsResult<TakenUp>,
    ) {
        let answer = answer.map(Taken::from);
        match session {
            Some(session) => self.again_attached(index, session, answer),
            None => self.first_attached(index, answer),
        }
    }

    pub(super) fn first_attached(&mut self, index: usize, answer: FsResult<Taken>) {
        let Ok(taken) = answer else { return self.break_link(index) };
        let reply = &taken.reply;
        say!(self, "mount {index} has session {}", reply.session);
        self.record.opens_session(reply.session);
        let Some(process) = self.process(index) else { return };
        process.session = Some(reply.session);
        process.attached = true;
        process.attaching = false;
        process.received = (reply.epoch, 0);
        process.last = Some(taken);
        self.mount_ready(index);
    }

    pub(super) fn again_attached(&mut self, index: usize, session: SessionId, answer: FsResult<Taken>) {
        let Some(process) = self.process(index) else { return };
        let before = process.last.clone().expect("it has a session");
        match attach_answered(&mut process.log, &before, answer.as_ref().map_err(|error| *error)) {
            AfterAttach::GoOn => {
                let Ok(taken) = answer else { return };
                let reply = taken.reply.clone();
                process.last = Some(taken);
                process.attached = true;
                process.attaching = false;
                process.sent = reply.applied;
                if process.received.0 != reply.epoch {
                    process.received = (reply.epoch, 0);
                }
                let record = self.record.sessions.get_mut(&session).expect("it was opened");
                record.told_durable(reply.durable);
                self.record.replays += u64::from(reply.applied < record.answered);
                say!(self, "mount {index} goes on: applied {}, durable {}", reply.applied, reply.durable);
                self.mount_ready(index);
            }
            AfterAttach::Over(why) => {
                say!(self, "mount {index}: {why:?}");
                assert!(
                    self.record.ending.contains(&session),
                    "session {session} is over ({why:?}), but nobody ended it"
                );
                process_over(self, index, session);
            }
            AfterAttach::Again(_) => self.break_link(index),
        }
    }
}

fn process_over(world: &mut World, index: usize, session: SessionId) {
    world.session_over(session);
    if let Some(process) = world.process(index) {
        process.forget_session();
        process.attaching = false;
    }
    world.attach(index);
}
