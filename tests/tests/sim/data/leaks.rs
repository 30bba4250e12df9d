//! The search for blocks that were stored and that nobody will commit: of a mount that died before, of a put that was repeated,
//! of a cleaning that was given up. Which ones they are is decided by real code; what its task does in one go happens here step
//! by step.

use super::{Data, DataTimer, Running};
use crate::say;
use crate::world::{Micros, SECOND, World};
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, MetaServiceRequest, MetaServiceResponse};
use cairn_fsd::data::leaks::{Unsettled, leaked};
use std::collections::BTreeMap;
use std::mem::take;
use std::time::{Duration, Instant};

/// Between two looks.
const EVERY: Micros = 8 * SECOND;
/// As the daemon's hour: what is under way when it is looked at what cleaning stored, has come by then.
const GRACE: Duration = Duration::from_secs(10);
/// The same at the end of a run, when nothing takes long any more.
const EVERY_AT_THE_END: Micros = SECOND / 2;
const GRACE_AT_THE_END: Duration = Duration::from_secs(1);

/// The search of one process.
#[derive(Default)]
pub struct Search {
    unsettled: Unsettled,
    /// When it was last looked at what cleaning stored, and the last block of each volume at that time.
    marks: Option<(Instant, BTreeMap<VolumeId, u32>)>,
    /// The call to the metadata daemon that it waits for.
    call: Option<u64>,
    step: Step,
}

#[derive(Default)]
enum Step {
    #[default]
    Rest,
    /// It hears which of these have ended.
    Ended(Vec<SessionId>),
    /// It hears what became of these blocks: of sessions that are over, and perhaps of cleaning.
    Fates { over: Vec<SessionId>, cleaned: bool, asked: Vec<BlockRef> },
}

impl Search {
    pub fn waits_for(&self, call: u64) -> bool {
        self.call == Some(call)
    }

    pub fn call(&self) -> Option<u64> {
        self.call
    }
}

impl Running {
    /// Takes note of blocks that are new; whose there are.
    fn look_around(&mut self) -> Vec<SessionId> {
        let unsettled = &mut self.search.unsettled;
        let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
        unsettled.keep(&ids);
        for (id, volume) in &self.volumes {
            let page = volume.list(unsettled.seen(*id), usize::MAX);
            unsettled.add(*id, &page);
        }
        unsettled.sessions().into_iter().collect()
    }

    /// What a session left, up to a block in each volume.
    fn left_by(&self, session: SessionId, up_to: impl Fn(VolumeId) -> u32) -> Vec<BlockRef> {
        let volumes = self.search.unsettled.volumes_of(session).into_iter();
        let volumes = volumes.filter_map(|id| self.volumes.get(&id));
        let listed = volumes.flat_map(|volume| volume.list(0, usize::MAX));
        let left = listed.filter(|stat| stat.session == session && !stat.deleted);
        left.map(|stat| stat.block).filter(|block| block.sequence <= up_to(block.volume)).collect()
    }
}

impl Data {
    fn search_times(&self) -> (Micros, Duration) {
        if self.rests { (EVERY_AT_THE_END, GRACE_AT_THE_END) } else { (EVERY, GRACE) }
    }
}

impl World {
    pub(super) fn plan_search(&mut self, at: usize) {
        let (every, _) = self.datas[at].search_times();
        self.data_timer(at, every, DataTimer::Search);
    }

    fn search_asks(&mut self, at: usize, step: Step, request: &MetaServiceRequest) {
        let call = self.data_calls(at, request);
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.search.call = call;
        running.search.step = step;
    }

    pub(super) fn search_begins(&mut self, at: usize) {
        let known = self.datas[at].node.is_some();
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let sessions = running.look_around();
        if !known || sessions.is_empty() {
            return self.plan_search(at);
        }
        let request = MetaServiceRequest::Ended { sessions: sessions.clone() };
        self.search_asks(at, Step::Ended(sessions), &request);
    }

    pub(super) fn search_hears(&mut self, at: usize, answer: MetaServiceResponse) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.search.call = None;
        match (take(&mut running.search.step), answer) {
            (Step::Ended(sessions), MetaServiceResponse::Ended(Ok(ended))) => {
                self.search_has_heard(at, &sessions, &ended);
            }
            (Step::Fates { over, cleaned, asked }, MetaServiceResponse::Fates(Ok(fates))) => {
                let blocks = leaked(&asked, &fates);
                say!(self, "data {at}: {} of {} blocks are nobody's", blocks.len(), asked.len());
                self.record.leaks += blocks.len() as u64;
                if self.delete_leaked(at, blocks) {
                    self.search_settled(at, &over, cleaned);
                }
                self.plan_search(at);
            }
            (_, answer) => {
                say!(self, "data {at} searches in vain: {answer:?}");
                self.plan_search(at);
            }
        }
    }

    /// Its answer also says that all is durable that was changed over until it was asked.
    fn search_has_heard(&mut self, at: usize, sessions: &[SessionId], ended: &[SessionId]) {
        let (now, (_, grace)) = (self.datas[at].clock.instant(), self.datas[at].search_times());
        let session_grace = if self.plan.hasty_search { Duration::ZERO } else { grace };
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let over = running.search.unsettled.due(sessions, ended, now, session_grace);
        let mut asked: Vec<BlockRef> =
            over.iter().flat_map(|session| running.left_by(*session, |_| u32::MAX)).collect();
        let marks = running.search.marks.as_ref();
        let cleaned = marks.is_none_or(|(since, _)| now.duration_since(*since) >= grace);
        if let Some((_, marks)) = marks.filter(|_| cleaned) {
            asked.extend(
                running.left_by(SessionId::NOBODY, |volume| marks.get(&volume).copied().unwrap_or(0)),
            );
        }
        assert!(asked.len() <= BLOCKS_PER_REPLY, "there are few here");
        if asked.is_empty() {
            self.search_settled(at, &over, cleaned);
            return self.plan_search(at);
        }
        let request = MetaServiceRequest::Fates { blocks: asked.clone() };
        self.search_asks(at, Step::Fates { over, cleaned, asked }, &request);
    }

    fn search_settled(&mut self, at: usize, over: &[SessionId], cleaned: bool) {
        let now = self.datas[at].clock.instant();
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let Search { unsettled, marks, .. } = &mut running.search;
        for session in over {
            unsettled.volumes_of(*session).into_iter().for_each(|volume| unsettled.settled(volume, *session));
            unsettled.forget(*session);
        }
        if cleaned {
            *marks = Some((now, unsettled.ends()));
        }
    }

    /// The connection was lost: it begins anew.
    pub(super) fn search_is_lost(&mut self, at: usize) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.search.call = None;
        running.search.step = Step::Rest;
        self.plan_search(at);
    }
}
