//! What the server's answers mean for a session: what is done next. Pure: no socket, no clock; `session.rs` does it,
//! and a simulation of the whole does the same.

use super::oplog::{DoesNotFit, OpLog, Refused};
use cairn_common::attr::Timestamp;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, Seq};
use cairn_common::limits::OPENS_MAX;
use cairn_common::proto::meta::{AttachReply, BatchReply, EventBody, OpenState, TakenUp};
use std::collections::HashSet;

/// After the answer to a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum AfterBatch {
    /// It is answered, the next may go. These had been told done, were lost and cannot be repeated.
    Answered(Vec<Refused>),
    /// The server refuses changes for now: the same batch again, after a pause.
    Pause(FsError),
    /// The session has to be taken up again. `None`: the answer has other operations than the batch.
    TakeUpAgain(Option<FsError>),
}

/// The server answered the batch under way.
pub fn batch_answered(log: &mut OpLog, answer: FsResult<BatchReply>) -> AfterBatch {
    match answer {
        Ok(reply) => match log.answered(reply.results, reply.durable) {
            Ok(refused) => AfterBatch::Answered(refused),
            Err(DoesNotFit) => AfterBatch::TakeUpAgain(None),
        },
        Err(error @ (FsError::Evicted | FsError::OutOfOrder)) => AfterBatch::TakeUpAgain(Some(error)),
        Err(error) => AfterBatch::Pause(error),
    }
}

/// What to tell of open files when the session is taken up again. `open`: those that are. `opened`: what
/// [`OpLog::opened`] said before; of these, a file that is closed by now must not be open for ever when it is made again.
#[must_use]
pub fn opens_to_tell(opened: Vec<Ino>, open: Vec<OpenState>) -> Vec<OpenState> {
    let known: HashSet<_> = open.iter().map(|state| state.ino).collect();
    let closed = opened.into_iter().filter(|ino| !known.contains(ino));
    let closed = closed.map(|ino| OpenState { ino, opens: 0, writers: 0 });
    let room = OPENS_MAX.saturating_sub(open.len());
    let mut told = open;
    told.extend(closed.take(room));
    told
}

/// The answer to an attach.
#[derive(Clone, Debug)]
pub struct Taken {
    pub reply: AttachReply,
    /// When the session was opened, and the number of the start that answers. `None` from a server that does not tell.
    pub opened: Option<Timestamp>,
    pub incarnation: Option<u64>,
}

impl From<TakenUp> for Taken {
    fn from(TakenUp { reply, opened, incarnation }: TakenUp) -> Taken {
        Taken { reply, opened: Some(opened), incarnation: Some(incarnation) }
    }
}

impl From<AttachReply> for Taken {
    fn from(reply: AttachReply) -> Taken {
        Taken { reply, opened: None, incarnation: None }
    }
}

impl Taken {
    /// True if whoever answered this runs on an older copy of the tables than who answered `before`: each start has a higher
    /// epoch, so the same one can only be that of the same process. (What a process speaks does not change either.)
    #[must_use]
    pub fn is_of_an_old_copy(&self, before: &Taken) -> bool {
        let (now, then) = (self.reply.epoch, before.reply.epoch);
        now < then || (now == then && self.incarnation != before.incarnation)
    }
}

/// After the answer to an attach of a session that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAttach {
    /// It goes on: the log knows what to send again.
    GoOn,
    /// It is over: nothing of it can be committed any more. The mount goes on with a new one.
    Over(Over),
    /// Not now.
    Again(FsError),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The server ended it.
    Evicted,
    /// The server speaks of another history than ours.
    OtherHistory,
    /// Files that it makes are not refused, so it can have more open than it can name: it would be refused each time,
    /// until it is evicted.
    TooManyOpen,
}

/// The server answered an attach of the session of `log`. `before` is what the last attach was answered: a server that is
/// behind it has another history, because its tables were restored from an old copy.
pub fn attach_answered(log: &mut OpLog, before: &Taken, answer: Result<&Taken, FsError>) -> AfterAttach {
    match answer {
        Ok(taken) if taken.is_of_an_old_copy(before) => AfterAttach::Over(Over::OtherHistory),
        Ok(Taken { reply, .. }) if reply.generation < before.reply.generation => {
            AfterAttach::Over(Over::OtherHistory)
        }
        Ok(Taken { reply, .. }) if log.reattached(reply.applied, reply.durable) => AfterAttach::GoOn,
        Ok(_) => AfterAttach::Over(Over::OtherHistory),
        Err(FsError::Evicted) => AfterAttach::Over(Over::Evicted),
        Err(FsError::TooBig) => AfterAttach::Over(Over::TooManyOpen),
        Err(error) => AfterAttach::Again(error),
    }
}

/// After the answer to a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterSync {
    /// All that was asked for is on stable storage.
    Durable,
    /// Not all of it yet: to be asked again.
    Again,
    /// The operations have not come to the server: the batch waits there, or the server lost operations with its power,
    /// and they are on their way again. To be asked again after a pause.
    Pause,
    Failed(FsError),
}

/// The server answered a sync of operations up to `through`. `goes_on`: the session that asked is still that of `log`;
/// a call that was repeated for the next session says nothing of this one.
pub fn sync_answered(log: &mut OpLog, goes_on: bool, through: Seq, answer: FsResult<Seq>) -> AfterSync {
    match answer {
        Ok(_) if !goes_on => AfterSync::Failed(FsError::Evicted),
        Ok(durable) => {
            log.forget(durable);
            if durable >= through { AfterSync::Durable } else { AfterSync::Again }
        }
        Err(FsError::OutOfOrder) => AfterSync::Pause,
        Err(error) => AfterSync::Failed(error),
    }
}

/// After a try to do what an event asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEvent {
    Acknowledge,
    /// It can't be done now, and the data stays here.
    Refuse(FsError),
    /// To be tried on: this server can't be refused, and evicts in the end.
    Again,
    /// This server can't be refused: what could not be stored of the file is lost.
    GiveUp(Ino, FsError),
}

/// First version of the protocol in which a mount may refuse.
const REFUSALS_SINCE: u16 = 5;

/// A try to do what an event asks for has ended. `version`: of the protocol with the server.
#[must_use]
pub fn event_done(asked: &EventBody, done: FsResult<()>, version: u16) -> AfterEvent {
    match (done, asked) {
        (Ok(()), _) => AfterEvent::Acknowledge,
        // The others see the file without this data; to its writers it is an error that they have been told.
        (Err(error), EventBody::Flush { .. }) if !error.is_transient() => AfterEvent::Acknowledge,
        (Err(error), _) if version >= REFUSALS_SINCE => AfterEvent::Refuse(error),
        (Err(error), EventBody::Uncache { ino, .. }) if !error.is_transient() => {
            AfterEvent::GiveUp(*ino, error)
        }
        (Err(_), _) => AfterEvent::Again,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use cairn_common::attr::Caller;
    use cairn_common::ids::{ClusterId, Epoch, SessionId};
    use cairn_common::namespace::op::{Op, OpBody, OpReply};

    /// One operation under way.
    fn log() -> OpLog {
        let body = OpBody::RemoveXattr { ino: Ino(2), name: "user.a".into() };
        let mut log = OpLog::default();
        let _ticket = log.push(Op { time: Timestamp::default(), caller: Caller::default(), body });
        log.next_batch().unwrap();
        log
    }

    fn reply(count: usize, durable: u64) -> BatchReply {
        BatchReply { results: vec![Ok(OpReply::Done); count], durable: Seq(durable) }
    }

    #[test]
    fn a_batch_is_answered_or_sent_again() {
        assert_eq!(batch_answered(&mut log(), Ok(reply(1, 0))), AfterBatch::Answered(vec![]));
        assert_eq!(batch_answered(&mut log(), Ok(reply(2, 0))), AfterBatch::TakeUpAgain(None));
        for error in [FsError::Evicted, FsError::OutOfOrder] {
            assert_eq!(batch_answered(&mut log(), Err(error)), AfterBatch::TakeUpAgain(Some(error)));
        }
        let mut full = log();
        assert_eq!(batch_answered(&mut full, Err(FsError::NoSpace)), AfterBatch::Pause(FsError::NoSpace));
        assert!(full.batch_under_way().is_some(), "the same batch again");
    }

    #[test]
    fn what_was_opened_and_closed_is_told_as_long_as_it_may_come_again() {
        let make = |ino| OpBody::Tmpfile { parent: Ino::ROOT, ino, perm: 0, umask: 0 };
        let mut log = OpLog::default();
        for ino in [2, 3, 4] {
            let (time, caller) = (Timestamp::default(), Caller::default());
            let _ticket = log.push(Op { time, caller, body: make(Ino(ino)) });
        }
        log.next_batch().unwrap();
        let open = vec![OpenState { ino: Ino(3), opens: 1, writers: 1 }];
        assert_eq!(opens_to_tell(log.opened(), open.clone()), open, "they are not answered");
        batch_answered(&mut log, Ok(reply(3, 1)));
        let closed = OpenState { ino: Ino(4), opens: 0, writers: 0 };
        assert_eq!(opens_to_tell(log.opened(), open.clone()), [open[0], closed], "the first is durable");
    }

    /// What a start of the server answers, of a session of which nothing was applied.
    fn taken(epoch: u64, incarnation: Option<u64>, generation: u64) -> Taken {
        let reply = AttachReply {
            session: SessionId(7),
            cluster: ClusterId(1),
            epoch: Epoch(epoch),
            applied: Seq(0),
            durable: Seq(0),
            time: Timestamp::default(),
            session_timeout_ms: 1,
            sole: false,
            generation,
        };
        Taken { reply, opened: None, incarnation }
    }

    fn after(before: &Taken, now: &Taken) -> AfterAttach {
        attach_answered(&mut log(), before, Ok(now))
    }

    #[test]
    fn a_session_goes_on_with_the_same_start_and_with_later_ones() {
        let before = taken(5, Some(1), 10);
        for now in [taken(5, Some(1), 10), taken(5, Some(1), 11), taken(6, Some(2), 20), taken(9, None, 20)] {
            assert_eq!(after(&before, &now), AfterAttach::GoOn, "{now:?}");
        }
    }

    /// Also if all else fits: that it counts on from higher numbers is mere chance.
    #[test]
    fn the_same_epoch_of_another_start_is_another_history() {
        let other = AfterAttach::Over(Over::OtherHistory);
        let before = taken(5, Some(1), 10);
        for now in [taken(5, Some(2), 11), taken(4, Some(2), 11), taken(5, None, 11), taken(5, Some(1), 9)] {
            assert_eq!(after(&before, &now), other, "{now:?}");
        }
    }

    #[test]
    fn of_a_server_that_does_not_tell_its_start_the_generation_decides() {
        let before = taken(5, None, 10);
        assert_eq!(after(&before, &taken(5, None, 11)), AfterAttach::GoOn);
        assert_eq!(after(&before, &taken(5, None, 9)), AfterAttach::Over(Over::OtherHistory));
        let newer = taken(5, Some(1), 11);
        assert_eq!(after(&before, &newer), AfterAttach::Over(Over::OtherHistory), "it is another process");
    }

    #[test]
    fn what_cannot_be_given_back_is_refused_where_that_is_known() {
        let uncache = EventBody::Uncache { ino: Ino(7), generation: 1 };
        let flush = EventBody::Flush { inos: vec![Ino(7)] };
        assert_eq!(event_done(&uncache, Ok(()), 5), AfterEvent::Acknowledge);
        let (full, away) = (FsError::NoSpace, FsError::Unavailable);
        assert_eq!(event_done(&uncache, Err(full), 5), AfterEvent::Refuse(full));
        assert_eq!(event_done(&uncache, Err(away), 5), AfterEvent::Refuse(away));
        assert_eq!(event_done(&uncache, Err(full), 4), AfterEvent::GiveUp(Ino(7), full));
        assert_eq!(event_done(&uncache, Err(away), 4), AfterEvent::Again);
        assert_eq!(event_done(&flush, Err(full), 5), AfterEvent::Acknowledge, "others see what is stored");
        assert_eq!(event_done(&flush, Err(away), 5), AfterEvent::Refuse(away));
        assert_eq!(event_done(&flush, Err(away), 4), AfterEvent::Again);
    }

    #[test]
    fn what_was_synced_for_another_session_says_nothing() {
        let mut log = log();
        let other = sync_answered(&mut log, false, Seq(1), Ok(Seq(9)));
        assert_eq!(other, AfterSync::Failed(FsError::Evicted));
        assert!(!log.is_durable(Seq(1)));
        assert_eq!(sync_answered(&mut log, true, Seq(1), Ok(Seq(0))), AfterSync::Again);
        assert_eq!(sync_answered(&mut log, true, Seq(1), Err(FsError::OutOfOrder)), AfterSync::Pause);
        assert_eq!(sync_answered(&mut log, true, Seq(1), Ok(Seq(1))), AfterSync::Durable);
        assert!(log.is_durable(Seq(1)));
    }
}
