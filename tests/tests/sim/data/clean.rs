//! The cleaner of the data daemon. What it decides, packs and asks is real, and so are those who answer; what its task does in
//! one go happens here step by step, so that between two of them anything else may.

use super::{Data, DataTimer, Running};
use crate::mount::passes;
use crate::net::{Peer, Tag};
use crate::say;
use crate::world::{Micros, SECOND, World};
use bytes::Bytes;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::BlockRef;
use cairn_common::namespace::tables::BlockUse;
use cairn_common::proto::data::GetRequest;
use cairn_common::proto::meta::{MetaServiceRequest, MetaServiceResponse, RelocateRequest};
use cairn_fsd::data::cleaner::{Batch, Candidate, Found, Packed, best, candidates, entries, ranges};
use rand::Rng;
use std::collections::BTreeMap;

/// Most blocks that one pass packs: few, so that there are many passes.
const SOURCES: usize = 3;
/// Longest time between two passes, after one that has moved something and after others.
pub const BUSY: Micros = SECOND;
const QUIET: Micros = 4 * SECOND;
/// Longest pause between two steps, and in how many of a hundred cases there is one. A script does not wait for that.
const PAUSE: Micros = 2 * SECOND;
const PAUSE_PERCENT: u32 = 20;
/// Where its puts come from.
const LINK: u64 = 1;

/// The passes of one process.
#[derive(Default)]
pub struct Cleaning {
    /// Counts them.
    pass: u64,
    /// The call to the metadata daemon that it waits for.
    call: Option<u64>,
    /// What is still to be looked at, the best last.
    left: Vec<Candidate>,
    batch: Batch,
    step: Step,
    /// Blocks that can't be moved as long as so many bytes of them are live.
    unmovable: BTreeMap<BlockRef, u64>,
}

/// How far a pass is.
#[derive(Default)]
enum Step {
    /// It has not begun.
    #[default]
    Rest,
    /// It hears which blocks files use.
    Look,
    /// It goes on to the next block, or to the new one.
    Gather,
    /// It hears what is live of this block, which has these bytes.
    Ask(Candidate, Bytes),
    /// The new block is being stored.
    Store(Packed),
    /// It is on stable storage.
    Stored(RelocateRequest),
    /// So many bytes in this block are being changed over to.
    Relocate(BlockRef, u64),
}

impl Cleaning {
    pub fn waits_for(&self, call: u64) -> bool {
        self.call == Some(call)
    }

    pub fn call(&self) -> Option<u64> {
        self.call
    }

    pub fn is_under_way(&self) -> bool {
        !matches!(self.step, Step::Rest)
    }
}

impl Data {
    /// None of the blocks that files use could be moved.
    pub fn is_clean(&self, uses: &[(BlockRef, BlockUse)]) -> bool {
        self.running.as_ref().is_some_and(|running| running.sparse(uses).is_empty())
    }
}

impl Running {
    /// What is worth cleaning.
    fn sparse(&self, uses: &[(BlockRef, BlockUse)]) -> Vec<Candidate> {
        let mut sparse = Vec::new();
        for uses in uses.chunk_by(|(one, _), (next, _)| one.volume == next.volume) {
            let Some(volume) = self.volumes.get(&uses[0].0.volume) else { continue };
            sparse.extend(candidates(uses, &volume.stat()));
        }
        let unmovable = &self.cleaning.unmovable;
        sparse.retain(|candidate| unmovable.get(&candidate.block) != Some(&candidate.live));
        sparse
    }

    /// All of a block, and how much of that is its summary.
    fn whole(&self, block: BlockRef) -> FsResult<(Bytes, u32)> {
        let volume = self.volumes.get(&block.volume).ok_or(FsError::NotFound)?;
        let summary_len = volume.summary_len(block)?;
        let (_, payload) = self.get(GetRequest { block, offset: 0, length: u32::MAX })?;
        Ok((payload, summary_len))
    }
}

impl World {
    pub(super) fn plan_clean(&mut self, at: usize, most: Micros) {
        let Some(running) = self.datas[at].running.as_ref() else { return };
        let pass = running.cleaning.pass;
        // Many daemons together look as often as one.
        let after = self.rng.random_range(0..most * self.plan.datas as u64);
        self.data_timer(at, after, DataTimer::Clean(pass));
    }

    /// The next pass of each daemon need not wait. True if there is nothing to be cleaned.
    pub fn clean_now(&mut self) -> bool {
        if self.is_clean() {
            return true;
        }
        for at in 0..self.datas.len() {
            if let Some(running) = self.datas[at].running.as_mut()
                && !running.cleaning.is_under_way()
            {
                running.cleaning.pass += 1;
                self.clean_looks(at);
            }
        }
        false
    }

    /// It is on with `step`, now or after a while.
    fn clean_later(&mut self, at: usize, step: Step) {
        let scripted = self.plan.cut.is_some();
        let pauses = !scripted && self.chance(PAUSE_PERCENT);
        let after = if pauses { self.rng.random_range(0..PAUSE) } else { 0 };
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.cleaning.step = step;
        let pass = running.cleaning.pass;
        self.data_timer(at, after, DataTimer::Clean(pass));
    }

    pub(super) fn clean_timer_ends(&mut self, at: usize, pass: u64) {
        let rests = self.datas[at].rests;
        let Some(running) = self.datas[at].running.as_mut() else { return };
        if rests || running.cleaning.pass != pass {
            return;
        }
        match std::mem::take(&mut running.cleaning.step) {
            Step::Rest => self.clean_looks(at),
            Step::Gather => self.clean_gathers(at),
            Step::Stored(request) => self.clean_relocates(at, request),
            Step::Look | Step::Ask(..) | Step::Store(_) | Step::Relocate(..) => {
                unreachable!("it waits for an answer")
            }
        }
        self.data_power_check(at);
    }

    fn clean_asks(&mut self, at: usize, step: Step, request: &MetaServiceRequest) {
        let call = self.data_calls(at, request);
        let Some(running) = self.datas[at].running.as_mut() else { return };
        running.cleaning.call = call;
        running.cleaning.step = step;
    }

    fn clean_looks(&mut self, at: usize) {
        if self.datas[at].node.is_none() {
            return self.plan_clean(at, QUIET);
        }
        self.clean_asks(at, Step::Look, &MetaServiceRequest::Blocks { after: BlockRef::default() });
    }

    pub(super) fn clean_hears(&mut self, at: usize, answer: MetaServiceResponse) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let cleaning = &mut running.cleaning;
        cleaning.call = None;
        match (std::mem::take(&mut cleaning.step), answer) {
            (Step::Look, MetaServiceResponse::Blocks(Ok(uses))) => {
                let mut sparse = running.sparse(&uses);
                best(&mut sparse, usize::MAX);
                sparse.reverse();
                running.cleaning.left = sparse;
                self.clean_later(at, Step::Gather);
            }
            (Step::Ask(candidate, payload), MetaServiceResponse::LivePieces(Ok(pieces))) => {
                match candidate.found(pieces, &payload) {
                    Found::Source(source) => {
                        assert!(cleaning.batch.has_room(&source), "blocks are small here");
                        cleaning.batch.add(source, candidate.taken);
                    }
                    Found::Unmovable(live) => drop(cleaning.unmovable.insert(candidate.block, live)),
                    Found::Nothing => {}
                }
                self.clean_later(at, Step::Gather);
            }
            (Step::Relocate(block, live), MetaServiceResponse::Relocate(Ok(()))) => {
                self.count_cleaning(at, block, live);
                self.clean_ends(at, BUSY);
            }
            (_, answer) => {
                say!(self, "cleaning ends: {answer:?}");
                self.clean_is_lost(at);
            }
        }
    }

    /// The next block, or the new one of those that there are.
    fn clean_gathers(&mut self, at: usize) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        while running.cleaning.batch.len() < SOURCES {
            let Some(candidate) = running.cleaning.left.pop() else { break };
            let block = candidate.block;
            let (payload, summary_len) = match running.whole(block) {
                Ok(whole) => whole,
                Err(FsError::NotFound) => continue,
                Err(error) => panic!("the cleaner can't read {block}: {error}"),
            };
            let entries = entries(&payload, summary_len).expect("each block has a summary");
            let request = MetaServiceRequest::LivePieces { block, ranges: ranges(&entries) };
            return self.clean_asks(at, Step::Ask(candidate, payload), &request);
        }
        if running.cleaning.batch.is_empty() { self.clean_ends(at, QUIET) } else { self.clean_stores(at) }
    }

    fn clean_stores(&mut self, at: usize) {
        let life = self.datas[at].life;
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let batch = std::mem::take(&mut running.cleaning.batch);
        let packed = batch.pack().expect("blocks are small here");
        let tag = Tag { peer: Peer::Data(at), life, link: LINK, call: running.cleaning.pass };
        let put = packed.put.clone();
        running.cleaning.step = Step::Store(packed);
        self.data_puts(at, vec![(tag, put)]);
    }

    pub(super) fn clean_is_stored(&mut self, at: usize, answer: FsResult<BlockRef>) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let step = std::mem::take(&mut running.cleaning.step);
        let Step::Store(packed) = step else { panic!("the cleaner stores nothing") };
        match answer {
            Ok(block) => {
                self.record.stores(block, packed.put.payload.clone().into_bytes());
                self.clean_later(at, Step::Stored(packed.stored_as(block)));
            }
            Err(error) => {
                assert!(passes(error), "a put of the cleaner is answered {error}");
                self.clean_is_lost(at);
            }
        }
    }

    fn clean_relocates(&mut self, at: usize, request: RelocateRequest) {
        let live = request.pieces.iter().map(|piece| u64::from(piece.length)).sum();
        say!(self, "cleans {live} bytes into {}", request.block);
        self.clean_asks(at, Step::Relocate(request.block, live), &MetaServiceRequest::Relocate { request });
    }

    /// How much of what was changed over is used now.
    fn count_cleaning(&mut self, at: usize, block: BlockRef, live: u64) {
        let Some(used) = self.bytes_used(block) else { return };
        say!(self, "cleaned: {used} of {live} bytes in {block}");
        self.record.cleanings += u64::from(used > 0);
        self.record.cleanings_in_part += u64::from(used > 0 && used < live);
        self.record.cleanings_in_vain += u64::from(used == 0);
        self.record.cleanings_when_full += u64::from(used > 0 && self.datas[at].full);
    }

    /// Given up, and not repeated: what was asked may still happen.
    pub(super) fn clean_is_lost(&mut self, at: usize) {
        self.record.cleanings_lost += 1;
        self.clean_ends(at, BUSY);
    }

    fn clean_ends(&mut self, at: usize, most: Micros) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        let Cleaning { pass, unmovable, .. } = std::mem::take(&mut running.cleaning);
        running.cleaning = Cleaning { pass: pass + 1, unmovable, ..Cleaning::default() };
        self.plan_clean(at, most);
    }
}
