//! The session's operation log in the mount: what was submitted and is not yet known to be on the
//! server's stable storage. Pure: no socket, no clock; `session.rs` moves the batches.
//!
//! An operation is *queued*, then *under way* in the one batch that the server may be working on,
//! then *applied* (its reply is known), and is forgotten when it is *durable*. After a lost
//! connection [`OpLog::reattached`] decides what is sent again:
//!
//! - the batch under way, as it was, if the server has it: the stored replies come back;
//! - everything after what the server has applied, if it lost applied operations that were not on
//!   stable storage (power loss): their replies were given long ago and are not given again.

use super::OpTicket;
use cairn_common::error::FsError;
use cairn_common::ids::{Ino, Seq};
use cairn_common::limits::{BATCH_BYTES_MAX, BATCH_OPS_MAX};
use cairn_common::namespace::op::{Commit, ExtentData, Op, OpBody, OpResult};
use std::collections::VecDeque;
use tokio::sync::oneshot;

#[derive(Debug)]
struct Entry {
    op: Op,
    /// Answers the ticket; gone once answered.
    reply: Option<oneshot::Sender<OpResult>>,
    /// The ticket was told that it is done.
    done: bool,
}

/// An operation that was told done and could not be repeated.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub op: Op,
    pub error: FsError,
}

/// What stands for an operation that has failed, so that the numbers of those behind it stay: if the server loses it with
/// its power, it must not succeed when it comes again. Its program was told that it had not happened.
const NOTHING: OpBody = OpBody::Relocate;

/// The answer to a batch has other operations than the batch.
#[derive(Debug, PartialEq, Eq)]
pub struct DoesNotFit;

/// The operations after `durable`, in order, without gaps.
#[derive(Debug)]
pub struct OpLog {
    entries: VecDeque<Entry>,
    /// Number of `entries[0]`.
    first: Seq,
    /// Everything below has been answered by the server.
    next_to_send: Seq,
    /// How many operations from `next_to_send` on are under way.
    under_way: usize,
    /// On stable storage up to here; may be ahead of the answers, which entries wait for.
    durable: Seq,
}

impl Default for OpLog {
    fn default() -> OpLog {
        OpLog { entries: VecDeque::new(), first: Seq(1), next_to_send: Seq(1), under_way: 0, durable: Seq(0) }
    }
}

impl OpLog {
    /// Adds an operation at the end.
    pub fn push(&mut self, op: Op) -> OpTicket {
        let (reply, ticket) = OpTicket::new(self.end());
        self.entries.push_back(Entry { op, reply: Some(reply), done: false });
        ticket
    }

    /// The number that the next pushed operation gets.
    fn end(&self) -> Seq {
        Seq(self.first.0 + self.entries.len() as u64)
    }

    /// The last submitted operation (0 if there was none).
    #[must_use]
    pub fn last(&self) -> Seq {
        Seq(self.end().0 - 1)
    }

    /// Operations kept in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if everything is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether operations wait for their answers.
    #[must_use]
    pub fn owes_answers(&self) -> bool {
        self.next_to_send < self.end()
    }

    /// The next batch to send; it is under way from now on. `None` if one is, or nothing is queued.
    pub fn next_batch(&mut self) -> Option<(Seq, Vec<Op>)> {
        if self.under_way > 0 {
            return None;
        }
        let mut ops = Vec::new();
        let mut bytes = 0;
        for entry in self.entries.range(self.position(self.next_to_send)..) {
            bytes += weight(&entry.op);
            if !ops.is_empty() && (bytes > BATCH_BYTES_MAX || ops.len() == BATCH_OPS_MAX) {
                break;
            }
            ops.push(entry.op.clone());
        }
        self.under_way = ops.len();
        (!ops.is_empty()).then_some((self.next_to_send, ops))
    }

    /// The batch under way once more, as it was.
    #[must_use]
    pub fn batch_under_way(&self) -> Option<(Seq, Vec<Op>)> {
        let start = self.position(self.next_to_send);
        let range = start..start + self.under_way;
        (self.under_way > 0)
            .then(|| (self.next_to_send, self.entries.range(range).map(|e| e.op.clone()).collect()))
    }

    /// Inodes that operations made and opened, which the server may yet lose: they would come again.
    #[must_use]
    pub fn opened(&self) -> Vec<Ino> {
        let made = |entry: &Entry| match &entry.op.body {
            OpBody::Create(create) if create.open => Some(create.ino),
            OpBody::Tmpfile { ino, .. } => Some(*ino),
            _ => None,
        };
        self.entries.iter().filter(|entry| entry.done).filter_map(made).collect()
    }

    /// True while operations that were answered are on their way again, because the server lost them.
    #[must_use]
    pub fn is_repeating(&self) -> bool {
        let next = self.entries.get(self.position(self.next_to_send));
        next.is_some_and(|entry| entry.reply.is_none())
    }

    /// True if `seq` and all before are on stable storage.
    #[must_use]
    pub fn is_durable(&self, seq: Seq) -> bool {
        seq <= self.durable
    }

    /// The server answered the batch under way. Returns the operations that had been told done, which the
    /// server lost and now refused: what others did before them came in another order this time.
    ///
    /// # Errors
    /// If the answer does not fit the batch.
    pub fn answered(&mut self, results: Vec<OpResult>, durable: Seq) -> Result<Vec<Refused>, DoesNotFit> {
        if results.len() != self.under_way || durable > self.last_sent() {
            return Err(DoesNotFit);
        }
        let mut refused = Vec::new();
        let start = self.position(self.next_to_send);
        for (entry, result) in self.entries.range_mut(start..).zip(results) {
            let failed = result.as_ref().err().copied();
            let done = std::mem::replace(&mut entry.done, failed.is_none());
            match entry.reply.take() {
                // A dropped ticket is no error: not everyone waits.
                Some(reply) => drop(reply.send(result)),
                None if done => {
                    refused.extend(failed.map(|error| Refused { op: entry.op.clone(), error }));
                }
                None => {}
            }
            if failed.is_some() {
                entry.op.body = NOTHING;
            }
        }
        self.next_to_send = Seq(self.next_to_send.0 + self.under_way as u64);
        self.under_way = 0;
        self.forget(durable);
        Ok(refused)
    }

    /// The last operation of the batch under way, or the last that was answered.
    fn last_sent(&self) -> Seq {
        Seq(self.next_to_send.0 + self.under_way as u64 - 1)
    }

    /// Operations up to `durable` are on stable storage. Those of them whose answers are still to come stay
    /// until then.
    pub fn forget(&mut self, durable: Seq) {
        self.durable = self.durable.max(durable.min(self.last_sent()));
        while self.first <= self.durable && self.first < self.next_to_send {
            self.entries.pop_front();
            self.first = self.first.next();
        }
    }

    /// The session was taken up again by a server that has applied up to `applied`. False if that
    /// is not a point of this log: then the server speaks of another history.
    #[must_use]
    pub fn reattached(&mut self, applied: Seq, durable: Seq) -> bool {
        if applied > self.last_sent() || applied < self.durable {
            return false;
        }
        if applied.next() < self.next_to_send {
            self.next_to_send = applied.next();
            self.under_way = 0;
        } else if applied.next() == self.next_to_send {
            self.under_way = 0;
        }
        self.forget(durable);
        true
    }

    /// The session is over: every waiting ticket is answered `Evicted` (by dropping its sender).
    pub fn clear(&mut self) {
        *self = OpLog::default();
    }

    fn position(&self, seq: Seq) -> usize {
        usize::try_from(seq.0 - self.first.0).expect("positions in the log are indexes in memory")
    }
}

/// What a piece, a file or a move takes, about, in bytes.
const PIECE: usize = 48;

fn weight_of_commit(commit: &Commit) -> usize {
    commit.pieces.iter().map(|piece| PIECE + inline_len(&piece.extent.data)).sum::<usize>()
        + PIECE * commit.files.len()
}

/// Roughly the encoded size of an operation, in bytes.
fn weight(op: &Op) -> usize {
    const FIXED: usize = 128;
    FIXED
        + match &op.body {
            OpBody::Commit(commit) => weight_of_commit(commit),
            OpBody::CommitAndMove { commit, moves } => weight_of_commit(commit) + PIECE * moves.len(),
            OpBody::Append { data, .. } => inline_len(data),
            OpBody::SetXattr { value, name, .. } => value.len() + name.len(),
            OpBody::Symlink { target, name, .. } => target.len() + name.len(),
            _ => 512,
        }
}

fn inline_len(data: &ExtentData) -> usize {
    match data {
        ExtentData::Inline(bytes) => bytes.len(),
        ExtentData::Block { .. } | ExtentData::Reserved => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_common::attr::{Caller, Timestamp};
    use cairn_common::namespace::op::OpReply;

    fn op(n: u64) -> Op {
        let time = Timestamp { secs: i64::try_from(n).expect("small"), nanos: 0 };
        let body = OpBody::RemoveXattr { ino: Ino(n), name: "user.a".into() };
        Op { time, caller: Caller::default(), body }
    }

    fn done(count: usize) -> Vec<OpResult> {
        vec![Ok(OpReply::Done); count]
    }

    #[test]
    fn what_queues_up_while_a_batch_is_under_way_goes_into_the_next() {
        let mut log = OpLog::default();
        let _first = log.push(op(1));
        assert_eq!(log.next_batch(), Some((Seq(1), vec![op(1)])));
        let _second = log.push(op(2));
        let _third = log.push(op(3));
        assert_eq!(log.next_batch(), None, "one batch at a time");
        assert_eq!(log.answered(done(1), Seq(0)), Ok(vec![]));
        assert_eq!(log.next_batch(), Some((Seq(2), vec![op(2), op(3)])));
    }

    #[test]
    fn tickets_are_answered_in_order_and_durable_operations_forgotten() {
        let mut log = OpLog::default();
        let mut first = log.push(op(1));
        let mut second = log.push(op(2));
        log.next_batch();
        assert!(log.owes_answers());
        assert_eq!(log.answered(vec![Ok(OpReply::Done), Err(FsError::NoAttr)], Seq(1)), Ok(vec![]));
        assert!(!log.owes_answers());
        assert_eq!(first.reply.try_recv(), Ok(Ok(OpReply::Done)));
        assert_eq!(second.reply.try_recv(), Ok(Err(FsError::NoAttr)));
        assert_eq!(log.len(), 1, "the second is not durable yet");
        log.forget(Seq(2));
        assert!(log.is_empty());
        assert_eq!(log.last(), Seq(2));
    }

    #[test]
    fn a_lost_answer_sends_the_same_batch_again() {
        let mut log = OpLog::default();
        let _a = log.push(op(1));
        let _b = log.push(op(2));
        log.next_batch();
        let _c = log.push(op(3));
        assert!(log.reattached(Seq(2), Seq(0)));
        assert_eq!(log.batch_under_way(), Some((Seq(1), vec![op(1), op(2)])), "without the third");
    }

    #[test]
    fn a_batch_that_never_arrived_is_sent_with_what_came_since() {
        let mut log = OpLog::default();
        let _a = log.push(op(1));
        log.next_batch();
        let _b = log.push(op(2));
        assert!(log.reattached(Seq(0), Seq(0)));
        assert_eq!(log.next_batch(), Some((Seq(1), vec![op(1), op(2)])));
    }

    #[test]
    fn operations_that_the_server_lost_are_replayed() {
        let mut log = OpLog::default();
        let mut tickets: Vec<_> = (1..=3).map(|n| log.push(op(n))).collect();
        log.next_batch();
        assert_eq!(log.answered(done(3), Seq(1)), Ok(vec![]));
        assert!(tickets[2].reply.try_recv().is_ok());
        let _d = log.push(op(4));
        log.next_batch();
        assert!(!log.is_repeating());
        assert!(log.reattached(Seq(1), Seq(1)), "the server lost power after making the first durable");
        assert!(log.is_repeating());
        assert_eq!(log.next_batch(), Some((Seq(2), vec![op(2), op(3), op(4)])));
        assert_eq!(log.answered(done(3), Seq(4)), Ok(vec![]), "answered tickets are not answered again");
        assert!(log.is_empty());
    }

    #[test]
    fn what_was_done_and_cannot_be_repeated_is_told() {
        let mut log = OpLog::default();
        let _tickets: Vec<_> = (1..=3).map(|n| log.push(op(n))).collect();
        log.next_batch();
        assert_eq!(
            log.answered(vec![Ok(OpReply::Done), Err(FsError::NoAttr), Ok(OpReply::Done)], Seq(0)),
            Ok(vec![])
        );
        assert!(log.reattached(Seq(0), Seq(0)));
        log.next_batch();
        let again = vec![Ok(OpReply::Done), Err(FsError::NoAttr), Err(FsError::NotFound)];
        let refused = Refused { op: op(3), error: FsError::NotFound };
        assert_eq!(log.answered(again, Seq(0)), Ok(vec![refused]));
    }

    /// Found by the simulation: a lock that was refused, say, was taken when it came again, and nobody knew.
    #[test]
    fn what_has_failed_is_not_tried_again() {
        let mut log = OpLog::default();
        let _tickets: Vec<_> = (1..=3).map(|n| log.push(op(n))).collect();
        log.next_batch();
        let results = vec![Ok(OpReply::Done), Err(FsError::WouldBlock), Ok(OpReply::Done)];
        assert_eq!(log.answered(results, Seq(0)), Ok(vec![]));
        let nothing = |n| Op { body: NOTHING, ..op(n) };
        for round in 0..2 {
            assert!(log.reattached(Seq(0), Seq(0)), "the server lost power");
            let third = if round == 0 { op(3) } else { nothing(3) };
            assert_eq!(log.next_batch(), Some((Seq(1), vec![op(1), nothing(2), third])));
            // The third is lost this time; that is told once, and stays so.
            let again = vec![Ok(OpReply::Done), Err(FsError::NotSupported), Err(FsError::NoSpace)];
            let refused = Refused { op: op(3), error: FsError::NoSpace };
            let told = if round == 0 { vec![refused] } else { vec![] };
            assert_eq!(log.answered(again, Seq(0)), Ok(told));
        }
    }

    #[test]
    fn a_server_with_another_history_is_noticed() {
        let mut log = OpLog::default();
        let _a = log.push(op(1));
        assert!(!log.reattached(Seq(1), Seq(0)), "it can't have applied what was never sent");
        log.next_batch();
        assert_eq!(log.answered(done(1), Seq(1)), Ok(vec![]));
        assert!(!log.reattached(Seq(0), Seq(0)), "it said that the first is durable");
    }

    #[test]
    fn what_is_durable_before_it_is_answered_is_forgotten_with_its_answer() {
        let mut log = OpLog::default();
        let mut ticket = log.push(op(1));
        log.next_batch();
        log.forget(Seq(1));
        assert!(log.is_durable(Seq(1)));
        assert_eq!(log.len(), 1, "the ticket waits for its answer");
        assert!(log.reattached(Seq(1), Seq(1)), "the connection is lost between the two");
        assert_eq!(log.batch_under_way(), Some((Seq(1), vec![op(1)])), "the answer is asked for again");
        assert_eq!(log.answered(done(1), Seq(0)), Ok(vec![]), "an answer from before the sync says less");
        assert_eq!(ticket.reply.try_recv(), Ok(Ok(OpReply::Done)));
        assert!(log.is_empty());
        assert!(!log.reattached(Seq(0), Seq(0)), "what was durable is not lost");
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        let mut log = OpLog::default();
        let _a = log.push(op(1));
        log.next_batch();
        assert_eq!(log.answered(done(2), Seq(0)), Err(DoesNotFit));
        assert_eq!(log.answered(done(1), Seq(2)), Err(DoesNotFit));
        assert_eq!(log.answered(done(1), Seq(1)), Ok(vec![]));
    }

    #[test]
    fn batches_are_bounded() {
        let mut log = OpLog::default();
        let _tickets: Vec<_> = (0..BATCH_OPS_MAX as u64 + 1).map(|n| log.push(op(n))).collect();
        let (first, ops) = log.next_batch().expect("operations are queued");
        assert_eq!(first, Seq(1));
        assert!(ops.len() <= BATCH_OPS_MAX);
        assert!(!ops.is_empty());
    }
}
