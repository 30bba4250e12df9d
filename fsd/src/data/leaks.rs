//! Blocks that a session stored and will never commit: it died between storing and committing. Found here and deleted.
//!
//! Like `cairn fsck --repair`, and for the same reason nothing is lost: a block is leaked only if its session had ended,
//! durably, before the metadata daemon was asked about the block and did not know it. Each block of each session is
//! asked about once, when the session has ended, so that an idle daemon asks one small question per look.
//!
//! That a session has ended is heard twice, an hour apart: if the metadata directory was replaced by an old copy by mistake, it
//! knows nothing of the latest blocks and thinks their sessions have ended. Putting the right one back must find all of them.
//!
//! Blocks that were stored by cleaning (`cleaner/`) are of no session, and may be changed over to while their question is under
//! way. So each is asked about when it is as old as that hour.

use super::Store;
use super::link::MetaLink;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, SessionId, VolumeId};
use cairn_common::proto::data::BlockStat;
use cairn_common::proto::meta::{BLOCKS_PER_REPLY, BlockFate};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// How long after a session was first said to have ended its blocks are looked at.
const GRACE: Duration = Duration::from_secs(3600);
/// Pause after each page of blocks: after a start there are many, and nobody waits for this.
const PAGE_PAUSE: Duration = Duration::from_millis(10);

/// Looks until the shutdown.
pub async fn run(store: Arc<Store>, meta: Arc<dyn MetaLink>, shutdown: CancellationToken) {
    let mut leaks = Leaks::new(store, meta, GRACE);
    while shutdown.run_until_cancelled(sleep(EVERY)).await.is_some() {
        match shutdown.run_until_cancelled(leaks.look()).await {
            Some(Ok(0)) => {}
            Some(Ok(blocks)) => {
                info!(target: "cairn", "deleted {blocks} blocks of sessions that ended without committing them");
            }
            // What was not settled is looked at again.
            Some(Err(error)) => info!("cannot look for blocks that nobody will commit: {error}"),
            None => return,
        }
    }
}

/// The search, and what it has left to do.
pub struct Leaks {
    store: Arc<Store>,
    meta: Arc<dyn MetaLink>,
    grace: Duration,
    unsettled: Unsettled,
    /// When it was last looked at what cleaning stored, and the last block of each volume at that time.
    marks: Option<(Instant, BTreeMap<VolumeId, u32>)>,
}

impl Leaks {
    #[must_use]
    pub fn new(store: Arc<Store>, meta: Arc<dyn MetaLink>, grace: Duration) -> Leaks {
        Leaks { store, meta, grace, unsettled: Unsettled::default(), marks: None }
    }

    /// Looks at what is new and at whose session has ended since; how many blocks were deleted.
    pub async fn look(&mut self) -> FsResult<u64> {
        let volumes = self.store.volumes();
        self.unsettled.keep(&volumes);
        for volume in volumes {
            loop {
                let page = self.page(volume, self.unsettled.seen(volume))?;
                if page.is_empty() {
                    break;
                }
                self.unsettled.add(volume, &page);
                tokio::task::yield_now().await;
            }
        }
        let mut deleted = 0;
        let sessions: Vec<SessionId> = self.unsettled.sessions().into_iter().collect();
        for page in sessions.chunks(BLOCKS_PER_REPLY) {
            let ended = self.meta.ended(page.to_vec()).await?;
            for session in self.unsettled.due(page, &ended, Instant::now(), self.grace) {
                for volume in self.unsettled.volumes_of(session) {
                    deleted += self.settle(volume, session, u32::MAX).await?;
                    self.unsettled.settled(volume, session);
                }
                self.unsettled.forget(session);
            }
        }
        Ok(deleted + self.unfinished(Instant::now()).await?)
    }

    /// Deletes what cleaning stored a while ago, and nothing was changed over to.
    async fn unfinished(&mut self, now: Instant) -> FsResult<u64> {
        let mut deleted = 0;
        if let Some((since, marks)) = &self.marks {
            if now.duration_since(*since) < self.grace {
                return Ok(0);
            }
            // Its answer comes when all is durable that was changed over until now.
            self.meta.ended(vec![SessionId::NOBODY]).await?;
            for volume in self.unsettled.volumes_of(SessionId::NOBODY) {
                let up_to = marks.get(&volume).copied().unwrap_or(0);
                deleted += self.settle(volume, SessionId::NOBODY, up_to).await?;
            }
        }
        self.marks = Some((now, self.unsettled.ends()));
        Ok(deleted)
    }

    /// Deletes what a session left in a volume, up to a block.
    async fn settle(&self, volume: VolumeId, session: SessionId, up_to: u32) -> FsResult<u64> {
        let (mut after, mut deleted) = (0, 0);
        loop {
            let mut page = self.page(volume, after)?;
            page.retain(|stat| stat.block.sequence <= up_to);
            let Some(last) = page.last() else { return Ok(deleted) };
            after = last.block.sequence;
            let live = page.iter().filter(|stat| stat.session == session && !stat.deleted);
            let asked: Vec<BlockRef> = live.map(|stat| stat.block).collect();
            sleep(PAGE_PAUSE).await;
            if asked.is_empty() {
                continue;
            }
            let fates = self.meta.fates(asked.clone()).await?;
            let leaked = leaked(&asked, &fates);
            deleted += leaked.len() as u64;
            self.store.delete(leaked).await.all()?;
        }
    }

    /// The next blocks of a volume; none of one that is gone meanwhile.
    fn page(&self, volume: VolumeId, after: u32) -> FsResult<Vec<BlockStat>> {
        match self.store.list(volume, after) {
            Err(FsError::NotFound) => Ok(Vec::new()),
            page => page,
        }
    }
}

/// Those of the blocks that the metadata daemon does not know. An answer that does not fit the question says nothing.
#[must_use]
pub fn leaked(asked: &[BlockRef], fates: &[BlockFate]) -> Vec<BlockRef> {
    if asked.len() != fates.len() {
        return Vec::new();
    }
    let unknown = asked.iter().zip(fates).filter(|(_, fate)| matches!(fate, BlockFate::Unknown));
    unknown.map(|(block, _)| *block).collect()
}

/// Which sessions have blocks that were not asked about since they ended.
#[derive(Default)]
pub struct Unsettled {
    volumes: BTreeMap<VolumeId, Left>,
    /// When each was first said to have ended.
    heard: BTreeMap<SessionId, Instant>,
}

#[derive(Default)]
struct Left {
    /// Blocks up to this sequence have been looked at.
    seen: u32,
    sessions: BTreeSet<SessionId>,
}

impl Unsettled {
    /// There are no other volumes any more.
    pub fn keep(&mut self, volumes: &[VolumeId]) {
        self.volumes.retain(|volume, _| volumes.contains(volume));
    }

    /// Blocks of the volume up to this sequence have been looked at.
    #[must_use]
    pub fn seen(&self, volume: VolumeId) -> u32 {
        self.volumes.get(&volume).map_or(0, |left| left.seen)
    }

    /// The next blocks of a volume. A session that was settled comes back with a block that arrived late.
    pub fn add(&mut self, volume: VolumeId, page: &[BlockStat]) {
        let left = self.volumes.entry(volume).or_default();
        for stat in page {
            left.seen = left.seen.max(stat.block.sequence);
            if !stat.deleted {
                left.sessions.insert(stat.session);
            }
        }
    }

    /// The last block of each volume.
    #[must_use]
    pub fn ends(&self) -> BTreeMap<VolumeId, u32> {
        self.volumes.iter().map(|(volume, left)| (*volume, left.seen)).collect()
    }

    /// Whose blocks were seen and are not settled.
    #[must_use]
    pub fn sessions(&self) -> BTreeSet<SessionId> {
        self.volumes.values().flat_map(|left| left.sessions.iter().copied()).collect()
    }

    /// Of the sessions `asked` about those that were said to have ended all the time since `grace`. One that is said to live
    /// after all begins anew.
    pub fn due(
        &mut self,
        asked: &[SessionId],
        ended: &[SessionId],
        now: Instant,
        grace: Duration,
    ) -> Vec<SessionId> {
        let mut due = Vec::new();
        for session in asked {
            if !ended.contains(session) {
                self.heard.remove(session);
            } else if now.duration_since(*self.heard.entry(*session).or_insert(now)) >= grace {
                due.push(*session);
            }
        }
        due
    }

    /// Where a session has blocks that are not settled.
    #[must_use]
    pub fn volumes_of(&self, session: SessionId) -> Vec<VolumeId> {
        let has = |(_, left): &(&VolumeId, &Left)| left.sessions.contains(&session);
        self.volumes.iter().filter(has).map(|(volume, _)| *volume).collect()
    }

    /// All that the session left was asked about.
    pub fn forget(&mut self, session: SessionId) {
        self.heard.remove(&session);
    }

    /// All that the session left in the volume was asked about.
    pub fn settled(&mut self, volume: VolumeId, session: SessionId) {
        if let Some(left) = self.volumes.get_mut(&volume) {
            left.sessions.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_due_when_it_was_over_for_a_while_without_a_break() {
        let (mut unsettled, begin) = (Unsettled::default(), Instant::now());
        let session = [SessionId(1)];
        let mut due = |ended: &[SessionId], minutes: u64| {
            let now = begin + Duration::from_secs(60 * minutes);
            !unsettled.due(&session, ended, now, GRACE).is_empty()
        };
        assert!(!due(&session, 0));
        assert!(!due(&session, 59));
        assert!(!due(&[], 60), "the right metadata is back, and knows it");
        assert!(!due(&session, 61));
        assert!(!due(&session, 120));
        assert!(due(&session, 121));
    }
}
