//! From the write buffer to the servers. Three tasks: `seal_old` ends a segment whose oldest byte is old
//! enough; `store` puts sealed segments, several at a time, and submits one commit for each, in the order of sealing;
//! `complete` waits for the commits' answers, in order, and makes what they carried clean.
//!
//! A commit is built when its block is stored, under the inodes' locks: what was overwritten, cut or
//! removed meanwhile is not in it. If the mount dies, what survives is what had been submitted: a prefix.

use super::inode::Inode;
use super::room::Refused;
use super::{Vfs, atime, unlinked};
use crate::client::{DataClient, MetaClient, OpTicket};
use crate::writeback::buffer::Sealed;
use crate::writeback::dirty::{Dirty, Slot};
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, Ino, Seq};
use cairn_common::limits::COMMIT_PIECES_MAX;
use cairn_common::namespace::op::{
    Commit, Extent, ExtentData, FileCommit, Move, OpBody, OpReply, OpResult, Piece,
};
use cairn_common::summary::{self, SummaryEntry};
use cairn_common::wire::Payload;
use cairn_common::wire::checksum::crc64;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Blocks on their way at a time.
const PUTS: usize = 4;
/// Commits whose answers are awaited; the buffer's size bounds them more tightly.
const COMMITS: usize = 256;
/// Pauses before something that failed is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same for a commit that a full disk refused: it is small.
const LONGEST_FULL_PAUSE: Duration = Duration::from_secs(1);

/// How far the flush has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// All segments up to this one are finished.
    pub done: u64,
    /// Failures so far, and why the oldest segment cannot be stored at the moment.
    pub failures: u64,
    pub stuck: Option<FsError>,
}

/// A segment whose commit has been submitted.
struct Committing {
    sealed: Sealed,
    commits: Vec<Submitted>,
}

struct Submitted {
    ticket: OpTicket,
    block: BlockRef,
    files: Vec<Ino>,
    /// Which part of the segment it carries; without `to`, all the rest.
    from: Cursor,
    to: Option<Cursor>,
}

/// Where in a segment the next commit goes on: at this byte of the file, in this entry.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    entry: usize,
    offset: u64,
}

/// An inline commit carries bytes of the segment at the moment.
struct UnderInlineCommit;

/// Starts the tasks; they end with the vfs's token.
pub(super) fn start<M: MetaClient, D: DataClient>(
    vfs: &Arc<Vfs<M, D>>,
    touched: mpsc::UnboundedReceiver<atime::Sent>,
) {
    spawn(vfs, atime::settle(Arc::clone(vfs), touched));
    let (sender, receiver) = mpsc::channel(COMMITS);
    spawn(vfs, unlinked::discard_old(Arc::clone(vfs)));
    spawn(vfs, seal_old(Arc::clone(vfs)));
    spawn(vfs, store(Arc::clone(vfs), sender));
    spawn(vfs, complete(Arc::clone(vfs), receiver));
}

/// Starts a task that ends with the vfs's token.
pub(super) fn spawn<M: MetaClient, D: DataClient>(
    vfs: &Vfs<M, D>,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let cancelled = vfs.cancel.clone().cancelled_owned();
    let task = async move {
        tokio::select! {
            () = cancelled => {}
            () = task => {}
        }
    };
    vfs.tasks.spawn_on(task, &vfs.runtime);
}

async fn seal_old<M: MetaClient, D: DataClient>(vfs: Arc<Vfs<M, D>>) {
    loop {
        let Some(since) = vfs.buffer.open_since() else {
            vfs.buffer.opened.notified().await;
            continue;
        };
        let due = since + vfs.config.flush_after;
        if Instant::now() >= due {
            vfs.buffer.seal(None);
        } else {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

async fn store<M: MetaClient, D: DataClient>(vfs: Arc<Vfs<M, D>>, commits: mpsc::Sender<Committing>) {
    let mut flying: VecDeque<(Sealed, JoinHandle<Option<BlockRef>>)> = VecDeque::new();
    loop {
        while flying.len() < PUTS
            && let Some((sealed, _live)) = vfs.buffer.next_sealed()
        {
            let put = put_until_stored(Arc::clone(&vfs), sealed.clone());
            flying.push_back((sealed, vfs.runtime.spawn(put)));
        }
        let room = flying.len() < PUTS;
        let Some((_, head)) = flying.front_mut() else {
            vfs.buffer.sealed.notified().await;
            continue;
        };
        let block = tokio::select! {
            block = head => block.ok().flatten(),
            () = vfs.buffer.sealed.notified(), if room => continue,
        };
        let Some((sealed, _)) = flying.pop_front() else { continue };
        let submitted = match block {
            Some(block) => submit_all(&vfs, &sealed, block).await,
            None => Vec::new(),
        };
        if commits.send(Committing { sealed, commits: submitted }).await.is_err() {
            return;
        }
    }
}

/// Puts a block, however often it takes. `None`: nothing in it is needed any more.
async fn put_until_stored<M: MetaClient, D: DataClient>(
    vfs: Arc<Vfs<M, D>>,
    sealed: Sealed,
) -> Option<BlockRef> {
    let mut pause = FIRST_PAUSE;
    loop {
        if !vfs.buffer.is_live(sealed.segment) {
            return None;
        }
        let summary = Bytes::from(summary::encode(&sealed.entries));
        let summary_len = length_of(&summary);
        let payload = Payload::from_segments(vec![sealed.bytes.clone(), summary]);
        let error = match vfs.data.put(payload, summary_len).await {
            Ok(block) => return Some(block),
            Err(error) => error,
        };
        vfs.store_failed(&sealed, error);
        let refused = is_full(error).then(|| Refused::new(u64::from(block_len(&sealed))));
        tokio::select! {
            () = vfs.pause_after(sealed.segment, refused, pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = vfs.cancel.cancelled() => return None,
        }
    }
}

/// Submits what is still needed of a stored segment: one operation, unless newer writes have cut it into
/// very many pieces. Each operation has a block of its own. If two shared one, what the first made visible
/// could be overwritten before the second is applied; the block would be deleted, and the second would
/// point to nothing.
async fn submit_all<M: MetaClient, D: DataClient>(
    vfs: &Arc<Vfs<M, D>>,
    sealed: &Sealed,
    block: BlockRef,
) -> Vec<Submitted> {
    let mut submitted = Vec::new();
    let (mut block, mut cursor) = (Some(block), Cursor::default());
    // It ends: the cursor moves on by as many pieces as a commit can have.
    while let Some(stored) = block {
        let (commit, rest) = submit_one(vfs, sealed, stored, cursor).await;
        submitted.extend(commit);
        let Some(rest) = rest else { break };
        cursor = rest;
        block = put_until_stored(Arc::clone(vfs), sealed.clone()).await;
    }
    submitted
}

/// [`Vfs::submit_commit`] as soon as no inline commit carries bytes of the segment: they would be
/// committed twice, and the second time perhaps after a recall that found them clean was acknowledged.
async fn submit_one<M: MetaClient, D: DataClient>(
    vfs: &Arc<Vfs<M, D>>,
    sealed: &Sealed,
    block: BlockRef,
    cursor: Cursor,
) -> (Option<Submitted>, Option<Cursor>) {
    loop {
        let mut settled = std::pin::pin!(vfs.inline_settled.notified());
        settled.as_mut().enable();
        match vfs.submit_commit(sealed, block, cursor) {
            Ok(submitted) => return submitted,
            // It is before us in the operation log, so this waits no longer than our own would have to.
            Err(UnderInlineCommit) => settled.await,
        }
    }
}

async fn complete<M: MetaClient, D: DataClient>(
    vfs: Arc<Vfs<M, D>>,
    mut commits: mpsc::Receiver<Committing>,
) {
    while let Some(Committing { sealed, mut commits }) = commits.recv().await {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut failed = None;
            for Submitted { ticket, block, files, from, to } in commits {
                let seq = ticket.seq;
                let result = ticket.await;
                if let Err(error) = vfs.committed(&sealed, (from, to), &files, seq, result) {
                    // One block is needed for the next try.
                    failed
                        .replace((error, block))
                        .into_iter()
                        .for_each(|(_, unused)| vfs.discard_block(&sealed, unused));
                }
            }
            let Some((error, block)) = failed else { break };
            vfs.store_failed(&sealed, error);
            if !may_succeed_later(error) {
                vfs.give_up(&sealed, error);
                vfs.discard_block(&sealed, block);
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(if is_full(error) { LONGEST_FULL_PAUSE } else { LONGEST_PAUSE });
            // Its commit failed, so the block is not known yet.
            commits = submit_all(&vfs, &sealed, block).await;
        }
        vfs.finish(&sealed);
    }
}

fn may_succeed_later(error: FsError) -> bool {
    error.is_transient() || is_full(error)
}

/// A disk has no room, for now.
pub(super) fn is_full(error: FsError) -> bool {
    matches!(error, FsError::NoSpace | FsError::Quota)
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// Submits what is still needed of a stored segment from `cursor` on, as much as fits one operation; where
    /// the rest begins, if there is one.
    fn submit_commit(
        &self,
        sealed: &Sealed,
        block: BlockRef,
        cursor: Cursor,
    ) -> Result<(Option<Submitted>, Option<Cursor>), UnderInlineCommit> {
        // Nobody cuts dirty data and submits the operation for it in between.
        let _order = self.order.lock();
        if self.is_under_inline_commit(sealed) {
            return Err(UnderInlineCommit);
        }
        let mut building = Building::default();
        let mut rest = None;
        for (index, entry) in sealed.entries.iter().enumerate().skip(cursor.entry) {
            let from = if index == cursor.entry { cursor.offset } else { 0 };
            rest = self.add_entry(&mut building, sealed, (index, entry), from, block);
            if rest.is_some() {
                break;
            }
        }
        if building.is_empty() {
            self.discard_block(sealed, block);
            return Ok((None, rest));
        }
        let files = building.inos().collect();
        let ticket = self.submit_built(building, vec![(block, block_len(sealed))]);
        Ok((Some(Submitted { ticket, block, files, from: cursor, to: rest }), rest))
    }

    fn is_under_inline_commit(&self, sealed: &Sealed) -> bool {
        sealed.entries.iter().any(|entry| {
            let slot = Slot { segment: sealed.segment, at: entry.at };
            let carried = |inode: Arc<Inode>| {
                let state = inode.lock();
                state
                    .dirty
                    .remaining(entry.offset, u64::from(entry.length), slot)
                    .any(|dirty| dirty.commit != 0)
            };
            self.inodes.get(entry.ino).is_some_and(carried)
        })
    }

    /// A block that was stored for nothing: its bytes were overwritten or removed meanwhile. The server is told
    /// of it, so that it is deleted; nobody waits for that.
    fn discard_block(&self, sealed: &Sealed, block: BlockRef) {
        drop(self.submit_built(Building::default(), vec![(block, block_len(sealed))]));
    }

    /// Adds what is left of an entry from byte `from` of the file on; where to go on if the commit is full.
    fn add_entry(
        &self,
        building: &mut Building,
        sealed: &Sealed,
        (index, entry): (usize, &SummaryEntry),
        from: u64,
        block: BlockRef,
    ) -> Option<Cursor> {
        let inode = self.inodes.get(entry.ino)?;
        let mut state = inode.lock();
        let slot = Slot { segment: sealed.segment, at: entry.at };
        let left: Vec<_> = state.dirty.remaining(entry.offset, u64::from(entry.length), slot).collect();
        let (mtime, kill) = (state.write_time, state.kill_suidgid);
        for dirty in left.into_iter().filter(|dirty| dirty.offset >= from) {
            if building.len() >= COMMIT_PIECES_MAX {
                return Some(Cursor { entry: index, offset: dirty.offset });
            }
            let data = ExtentData::Block { block, offset: dirty.slot.at };
            let extent = Extent { offset: dirty.offset, length: dirty.length, data };
            if state.is_cached() {
                state.extents.replace(&extent);
            }
            let first = if dirty.stored {
                building.add_move(self.moving(entry.ino, block, &dirty))
            } else {
                building.add(entry.ino, extent, mtime, kill)
            };
            if first {
                state.pending += 1;
                state.stamp += 1;
            }
        }
        None
    }

    pub(super) fn submit_built(&self, building: Building, blocks: Vec<(BlockRef, u32)>) -> OpTicket {
        let Building { pieces, files, moves, .. } = building;
        let commit = Commit { blocks, pieces, files };
        let body =
            if moves.is_empty() { OpBody::Commit(commit) } else { OpBody::CommitAndMove { commit, moves } };
        self.meta.submit(&Caller::default(), body)
    }

    /// The server moves these bytes if they are still what the file has: others may have changed it meanwhile.
    fn moving(&self, ino: Ino, block: BlockRef, dirty: &Dirty) -> Move {
        let length = usize::try_from(dirty.length).expect("an interval is at most one segment long");
        let sum = crc64(&self.buffer.read(dirty.slot, length));
        Move { ino, offset: dirty.offset, length: dirty.length, block, at: dirty.slot.at, sum }
    }

    /// A commit of `sealed` has been answered.
    fn committed(
        &self,
        sealed: &Sealed,
        (from, to): (Cursor, Option<Cursor>),
        files: &[Ino],
        seq: Seq,
        result: OpResult,
    ) -> FsResult<()> {
        let (attrs, kept) = match &result {
            Ok(OpReply::Committed { files }) => (files.as_slice(), &[][..]),
            Ok(OpReply::Moved { files, kept }) => (files.as_slice(), kept.as_slice()),
            _ => (&[][..], &[][..]),
        };
        let attrs: HashMap<Ino, Attr> = attrs.iter().map(|attr| (attr.ino, *attr)).collect();
        let clean = result.is_ok();
        let inodes: HashMap<Ino, Arc<Inode>> =
            files.iter().filter_map(|ino| Some((*ino, self.inodes.get(*ino)?))).collect();
        let last = to.map_or(sealed.entries.len(), |to| to.entry + 1);
        let carried = sealed.entries[from.entry.min(last)..last].iter().zip(from.entry..);
        for (entry, index) in carried.filter(|_| clean) {
            let Some(inode) = inodes.get(&entry.ino) else { continue };
            let end = entry.offset + u64::from(entry.length);
            let start = if index == from.entry { entry.offset.max(from.offset) } else { entry.offset };
            let end = to.filter(|to| to.entry == index).map_or(end, |to| end.min(to.offset));
            let skipped = u32::try_from(start - entry.offset).expect("within the entry");
            let slot = Slot { segment: sealed.segment, at: entry.at + skipped };
            let buffer = &self.buffer;
            inode.lock().dirty.clean(start, end - start, slot, &mut |segment, bytes| {
                buffer.release(segment, bytes);
            });
        }
        for (ino, inode) in inodes {
            if kept.contains(&ino) {
                // Not all is where it was said to be.
                inode.lock().extents.clear();
            }
            self.answered(&inode, attrs.get(&ino).copied(), seq, clean);
        }
        result.map(|_reply| ())
    }

    pub(super) fn answered(&self, inode: &Inode, attr: Option<Attr>, seq: Seq, clean: bool) {
        // Before the data is clean for others: what they asked meanwhile is out of date.
        self.recent.mark(inode.ino);
        let mut state = inode.lock();
        state.pending -= 1;
        match attr {
            Some(attr) => state.learn_attr(attr, seq, self.attr_epoch.load(Ordering::SeqCst)),
            None => {
                state.stamp += 1;
                state.settle_times();
            }
        }
        if !clean {
            state.extents.clear();
        } else if attr.is_none() && state.handles > 0 {
            // The server keeps an open file. Without it the bytes went nowhere: its creation was lost with
            // the server's power and could not be repeated.
            state.store_error(FsError::Stale);
        }
        drop(state);
        self.retire(inode.ino);
    }

    /// A segment could not be stored (yet): every file in it is told, and who waits.
    fn store_failed(&self, sealed: &Sealed, error: FsError) {
        if self.complaint.lock().is_news(error, Instant::now()) {
            tracing::warn!(
                target: "cairn",
                "written data of {} files is not stored: {error}; it is tried again and again",
                sealed.entries.iter().map(|entry| entry.ino).collect::<HashSet<_>>().len()
            );
        }
        let mut last = None;
        for entry in &sealed.entries {
            if last.replace(entry.ino) == Some(entry.ino) {
                continue;
            }
            if let Some(inode) = self.inodes.get(entry.ino) {
                inode.lock().not_stored(sealed.segment, error);
            }
        }
        self.progress.send_modify(|progress| {
            progress.failures += 1;
            progress.stuck = Some(error);
        });
    }

    /// A segment can never be stored: its data is lost, and its files have been told.
    fn give_up(&self, sealed: &Sealed, error: FsError) {
        for entry in &sealed.entries {
            let Some(inode) = self.inodes.get(entry.ino) else { continue };
            let slot = Slot { segment: sealed.segment, at: entry.at };
            let buffer = &self.buffer;
            let mut state = inode.lock();
            let before = state.dirty.unstored_bytes();
            state.dirty.clean(entry.offset, u64::from(entry.length), slot, &mut |segment, bytes| {
                buffer.release(segment, bytes);
            });
            let lost = before - state.dirty.unstored_bytes();
            state.drop_cached();
            drop(state);
            if lost > 0 {
                tracing::error!(ino = %entry.ino, offset = entry.offset, lost, %error, "written data is lost");
            }
            self.retire(entry.ino);
        }
    }

    fn finish(&self, sealed: &Sealed) {
        self.buffer.finish(sealed.segment);
        self.complaint.lock().goes_on();
        self.progress.send_modify(|progress| {
            progress.done = sealed.segment;
            progress.stuck = None;
        });
    }

    /// Stores and commits what is dirty of `ino` now; the operation after which all of it is applied.
    pub(super) async fn flush_inode(&self, ino: Ino) -> FsResult<Seq> {
        let newest = self.inodes.get(ino).and_then(|inode| inode.lock().dirty.newest_segment());
        if let Some(segment) = newest {
            self.flush_through(segment).await?;
        }
        Ok(self.meta.last_submitted())
    }

    /// Stores and commits everything. Also ends what is on its way for nothing: a block that is stored
    /// and not told of would stay on the data daemon for ever.
    pub(super) async fn flush_all(&self) -> FsResult<()> {
        if self.buffer.is_clean() && self.progress.borrow().done >= self.buffer.last_sealed() {
            return Ok(());
        }
        self.flush_through(self.buffer.last_segment()).await
    }

    async fn flush_through(&self, segment: u64) -> FsResult<()> {
        let mut progress = self.progress.subscribe();
        let failures = progress.borrow().failures;
        self.buffer.seal(Some(segment));
        let last = self.buffer.last_sealed().min(segment);
        let ended = progress.wait_for(|now| now.done >= last || now.failures > failures).await;
        match ended {
            Ok(now) if now.done >= last => Ok(()),
            Ok(now) => Err(now.stuck.unwrap_or(FsError::Io)),
            Err(_closed) => Err(FsError::Io),
        }
    }
}

/// A commit being put together.
#[derive(Default)]
pub(super) struct Building {
    pieces: Vec<Piece>,
    files: Vec<FileCommit>,
    index: HashMap<Ino, usize>,
    moves: Vec<Move>,
    /// Files of moves.
    moved: HashSet<Ino>,
}

impl Building {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pieces and moves.
    fn len(&self) -> usize {
        self.pieces.len() + self.moves.len()
    }

    /// All files, each once.
    fn inos(&self) -> impl Iterator<Item = Ino> + '_ {
        let only_moved = self.moved.iter().filter(|ino| !self.index.contains_key(ino));
        self.index.keys().chain(only_moved).copied()
    }

    /// Adds a move; true if it is the first of its file, pieces included.
    fn add_move(&mut self, moving: Move) -> bool {
        self.moves.push(moving);
        self.moved.insert(moving.ino) && !self.index.contains_key(&moving.ino)
    }

    /// Adds a piece; true if it is the first of its file, moves included.
    pub(super) fn add(
        &mut self,
        ino: Ino,
        extent: Extent,
        mtime: Option<Timestamp>,
        kill_suidgid: bool,
    ) -> bool {
        let end = extent.offset + extent.length;
        self.pieces.push(Piece { ino, extent });
        if let Some(file) = self.index.get(&ino).and_then(|index| self.files.get_mut(*index)) {
            file.size_at_least = file.size_at_least.max(end);
            return false;
        }
        self.index.insert(ino, self.files.len());
        self.files.push(FileCommit { ino, size_at_least: end, mtime, kill_suidgid });
        !self.moved.contains(&ino)
    }
}

impl super::inode::State {
    /// An error that the next write, fsync or close of each handle tells.
    pub fn store_error(&mut self, error: FsError) {
        self.error.count += 1;
        self.error.last = Some(error);
    }

    /// `segment` could not be stored. No harm to bytes in it that the server has inside its metadata, or that
    /// an inline commit carries there.
    fn not_stored(&mut self, segment: u64, error: FsError) {
        if self.dirty.unstored().any(|dirty| dirty.slot.segment == segment && dirty.commit == 0) {
            self.store_error(error);
        }
    }
}

/// Length of the block that a segment becomes, its summary included.
fn block_len(sealed: &Sealed) -> u32 {
    length_of(&sealed.bytes) + summary_len(sealed)
}

fn summary_len(sealed: &Sealed) -> u32 {
    u32::try_from(summary::encoded_len(sealed.entries.len())).expect("a summary is far shorter than 4 GiB")
}

fn length_of(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a block is far shorter than 4 GiB")
}
