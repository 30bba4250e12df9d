//! Exactly once: what each session has applied, and the replies that it may ask for again.
//!
//! This is part of the replicated state: it changes only by commands. It is kept in memory, stored by
//! each checkpoint together with the effects, and rebuilt by the replay of the log.

use crate::meta::tables::SessionRow;
use cairn_common::attr::Timestamp;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Seq, SessionId};
use cairn_common::namespace::op::OpResult;
use cairn_common::proto::meta::ClientInfo;
use std::collections::{BTreeMap, BTreeSet};

/// All sessions.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    rows: BTreeMap<SessionId, SessionRow>,
    /// Changed, made or ended since the last checkpoint.
    changed: BTreeSet<SessionId>,
}

/// What is to be done with a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nothing: it was applied before, these were the replies.
    Repeated(Vec<OpResult>),
    /// Its operations from `skip` on are new; `known` are the replies of those before.
    New { skip: usize, known: Vec<OpResult> },
}

impl Sessions {
    #[must_use]
    pub fn new(rows: Vec<(SessionId, SessionRow)>) -> Sessions {
        Sessions { rows: rows.into_iter().collect(), changed: BTreeSet::new() }
    }

    #[must_use]
    pub fn get(&self, session: SessionId) -> Option<&SessionRow> {
        self.rows.get(&session)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &SessionRow)> {
        self.rows.iter().map(|(session, row)| (*session, row))
    }

    pub fn begin(&mut self, session: SessionId, client: ClientInfo, opened: Timestamp) {
        let row = SessionRow { client, opened, applied: Seq(0), results: Vec::new() };
        self.rows.insert(session, row);
        self.changed.insert(session);
    }

    /// False if there is no such session.
    pub fn end(&mut self, session: SessionId) -> bool {
        self.changed.insert(session);
        self.rows.remove(&session).is_some()
    }

    /// Compares a batch of `count` operations from `first` on with what was applied.
    ///
    /// `Evicted` for an unknown session; `OutOfOrder` if operations before it are missing, or if it
    /// asks for replies that are not kept any more (a later batch has acknowledged them).
    pub fn admit(&self, session: SessionId, first: Seq, count: usize) -> FsResult<Admission> {
        let row = self.rows.get(&session).ok_or(FsError::Evicted)?;
        let next = row.applied.next();
        if first.0 == 0 || first > next {
            return Err(FsError::OutOfOrder);
        }
        let applied = usize::try_from(next.0 - first.0).unwrap_or(usize::MAX);
        let skip = applied.min(count);
        // `results` end with the reply of `applied`.
        let from = row.results.len().checked_sub(applied).ok_or(FsError::OutOfOrder)?;
        let known = row.results[from..from + skip].to_vec();
        Ok(if skip == count { Admission::Repeated(known) } else { Admission::New { skip, known } })
    }

    /// Keeps the replies of a batch that ends with operation `last`.
    pub fn applied(&mut self, session: SessionId, last: Seq, results: Vec<OpResult>) {
        if let Some(row) = self.rows.get_mut(&session) {
            row.applied = last;
            row.results = results;
            self.changed.insert(session);
        }
    }

    /// What the next checkpoint has to store: `None` for sessions that have ended.
    pub fn changes(&self) -> impl Iterator<Item = (SessionId, Option<&SessionRow>)> {
        self.changed.iter().map(|session| (*session, self.rows.get(session)))
    }

    /// A checkpoint has stored [`Sessions::changes`].
    pub fn stored(&mut self) {
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use cairn_common::namespace::op::OpReply;

    const S: SessionId = SessionId(3);

    fn replies(count: u32) -> Vec<OpResult> {
        (0..count).map(|n| Ok(OpReply::Unlinked { ino: cairn_common::ids::Ino(1), nlink: n })).collect()
    }

    /// Operations 1 to 5 applied, replies of 3 to 5 kept.
    fn sessions() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.begin(S, ClientInfo::default(), Timestamp::default());
        sessions.applied(S, Seq(5), replies(3));
        sessions
    }

    #[test]
    fn a_new_batch_goes_on_where_the_last_ended() {
        let new = Admission::New { skip: 0, known: Vec::new() };
        assert_eq!(sessions().admit(S, Seq(6), 10), Ok(new));
    }

    #[test]
    fn a_repeated_batch_gets_its_replies() {
        assert_eq!(sessions().admit(S, Seq(3), 3), Ok(Admission::Repeated(replies(3))));
        assert_eq!(sessions().admit(S, Seq(4), 2), Ok(Admission::Repeated(replies(3)[1..].to_vec())));
        assert_eq!(sessions().admit(S, Seq(3), 2), Ok(Admission::Repeated(replies(2))));
    }

    #[test]
    fn an_overlap_applies_only_what_is_new() {
        let known = replies(3)[2..].to_vec();
        assert_eq!(sessions().admit(S, Seq(5), 4), Ok(Admission::New { skip: 1, known }));
    }

    #[test]
    fn gaps_forgotten_replies_and_strangers_are_refused() {
        assert_eq!(sessions().admit(S, Seq(7), 1), Err(FsError::OutOfOrder));
        assert_eq!(sessions().admit(S, Seq(0), 1), Err(FsError::OutOfOrder));
        assert_eq!(sessions().admit(S, Seq(2), 1), Err(FsError::OutOfOrder));
        assert_eq!(sessions().admit(SessionId(4), Seq(1), 1), Err(FsError::Evicted));
        let mut ended = sessions();
        assert!(ended.end(S));
        assert!(!ended.end(S));
        assert_eq!(ended.admit(S, Seq(6), 1), Err(FsError::Evicted));
        assert_eq!(ended.changes().collect::<Vec<_>>(), [(S, None)]);
    }
}
