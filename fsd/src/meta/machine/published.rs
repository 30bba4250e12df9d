//! What the machine shows of itself to those who do not hold its core: copied out after each commit, so
//! that nobody waits for the disk to read it.

use super::SessionInfo;
use crate::meta::tables::{SessionRow, State, View};
use cairn_common::ids::{LogIndex, Seq, SessionId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Most marks per session; beyond that they get coarser.
const MARKS_MAX: usize = 1024;

/// See the module.
pub struct Published {
    pub state: State,
    /// The tables as of the same entry; `None` after the shutdown.
    pub view: Option<Arc<View>>,
    pub checkpoint: LogIndex,
    sessions: BTreeMap<SessionId, Marked>,
}

/// A session with what of it is durable.
struct Marked {
    info: SessionInfo,
    /// Which entry of the log brought the session how far, oldest first; only those that were not
    /// durable when last looked at.
    marks: VecDeque<(LogIndex, Seq)>,
}

impl Published {
    /// After recovery: all that is applied is durable.
    pub fn new<'r>(
        state: State,
        view: Option<Arc<View>>,
        checkpoint: LogIndex,
        sessions: impl Iterator<Item = (SessionId, &'r SessionRow)>,
    ) -> Published {
        let marked = sessions.map(|(session, row)| (session, Marked::new(session, row)));
        Published { state, view, checkpoint, sessions: marked.collect() }
    }

    /// The session is as in `row` since entry `index`; `None`: it has ended.
    pub fn session_changed(
        &mut self,
        session: SessionId,
        row: Option<&SessionRow>,
        index: LogIndex,
        durable: LogIndex,
    ) {
        let Some(row) = row else {
            self.sessions.remove(&session);
            return;
        };
        let marked = self.sessions.entry(session).or_insert_with(|| Marked::new(session, row));
        if row.applied > marked.info.applied {
            marked.settle(durable);
            marked.mark(index, row.applied);
        }
    }

    /// The session, with what is durable if entries up to `durable` are.
    pub fn session(&self, session: SessionId, durable: LogIndex) -> Option<SessionInfo> {
        self.sessions.get(&session).map(|marked| marked.info_at(durable))
    }

    pub fn sessions(&self, durable: LogIndex) -> Vec<SessionInfo> {
        self.sessions.values().map(|marked| marked.info_at(durable)).collect()
    }

    /// The entry that must be durable for operation `through` to be so; `Ok(None)` if it is already.
    /// `Err` with the last applied operation if `through` is above it.
    pub fn entry_of(&self, session: SessionId, through: Seq) -> Option<Result<Option<LogIndex>, Seq>> {
        self.sessions.get(&session).map(|marked| marked.entry_of(through))
    }
}

impl Marked {
    fn new(session: SessionId, row: &SessionRow) -> Marked {
        let info = SessionInfo {
            session,
            client: row.client.clone(),
            opened: row.opened,
            applied: row.applied,
            durable: row.applied,
        };
        Marked { info, marks: VecDeque::new() }
    }

    fn mark(&mut self, index: LogIndex, applied: Seq) {
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_back();
        }
        self.marks.push_back((index, applied));
        self.info.applied = applied;
    }

    /// Drops marks that are durable.
    fn settle(&mut self, durable: LogIndex) {
        while let Some((index, seq)) = self.marks.front().copied()
            && index <= durable
        {
            self.info.durable = seq;
            self.marks.pop_front();
        }
    }

    fn info_at(&self, durable: LogIndex) -> SessionInfo {
        let settled = self.marks.partition_point(|(index, _)| *index <= durable);
        let mut info = self.info.clone();
        if settled > 0 {
            info.durable = self.marks[settled - 1].1;
        }
        info
    }

    fn entry_of(&self, through: Seq) -> Result<Option<LogIndex>, Seq> {
        if through > self.info.applied {
            return Err(self.info.applied);
        }
        if through <= self.info.durable {
            return Ok(None);
        }
        let at = self.marks.partition_point(|(_, seq)| *seq < through);
        Ok(self.marks.get(at).map(|(index, _)| *index))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use cairn_common::ids::{ClusterId, Epoch, Ino, NodeId, VolumeId};

    const S: SessionId = SessionId(1);

    fn row(applied: u64) -> SessionRow {
        SessionRow {
            client: Default::default(),
            opened: Default::default(),
            applied: Seq(applied),
            results: Vec::new(),
        }
    }

    fn published() -> Published {
        let state = State {
            cluster: ClusterId(0),
            epoch: Epoch(1),
            applied: LogIndex(0),
            next_ino: Ino(2),
            next_session: SessionId(2),
            next_node: NodeId(1),
            next_volume: VolumeId(1),
            totals: Default::default(),
        };
        Published::new(state, None, LogIndex(0), [(S, &row(10))].into_iter())
    }

    #[test]
    fn durable_follows_the_log() {
        let mut published = published();
        published.session_changed(S, Some(&row(12)), LogIndex(5), LogIndex(4));
        published.session_changed(S, Some(&row(15)), LogIndex(6), LogIndex(4));
        let durable = |p: &Published, index| p.session(S, LogIndex(index)).unwrap().durable.0;
        assert_eq!([4, 5, 6].map(|index| durable(&published, index)), [10, 12, 15]);
        assert_eq!(published.entry_of(S, Seq(10)), Some(Ok(None)));
        assert_eq!(published.entry_of(S, Seq(12)), Some(Ok(Some(LogIndex(5)))));
        assert_eq!(published.entry_of(S, Seq(13)), Some(Ok(Some(LogIndex(6)))));
        assert_eq!(published.entry_of(S, Seq(16)), Some(Err(Seq(15))));
        published.session_changed(S, None, LogIndex(7), LogIndex(6));
        assert_eq!(published.session(S, LogIndex(7)), None);
    }

    #[test]
    fn too_many_marks_only_make_it_coarser() {
        let mut published = published();
        for n in 1..=5000 {
            published.session_changed(S, Some(&row(10 + n)), LogIndex(n), LogIndex(0));
        }
        let Some(Ok(Some(entry))) = published.entry_of(S, Seq(2000)) else { panic!("no entry") };
        assert!(entry >= LogIndex(1990), "never too early: {entry}");
        assert_eq!(published.session(S, LogIndex(5000)).unwrap().durable, Seq(5010));
    }
}
