//! The threads that write blocks.
//!
//! Puts go through one queue to a few threads, the *lanes*. A lane that has the right to write takes what
//! is queued, writes it to the current volume, and then sees to a sync that covers it; meanwhile the next
//! lane writes. So the thread that writes also syncs (no hand-over), puts share syncs, and the disk is busy
//! with one batch while the next is copied. The last one that wrote marks the volume's end when nothing comes for a while;
//! then the lanes sleep in the queue, without any timer.

use super::report::Counters;
use super::volume::Volume;
use super::volume::format::{Record, RecordKind};
use super::volume::segment::{Done, Refused};
use crate::disk::Disk;
use cairn_common::env::Rng;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::proto::data::PutRequest;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Most payload bytes that one lane writes before it sees to a sync: the next lane's batch then overlaps.
const BATCH_BYTES: usize = 4 << 20;

/// A volume's end is marked when nothing was put for so long.
const IDLE: Duration = Duration::from_secs(1);

/// A block to store.
pub struct Put {
    pub request: PutRequest,
    /// Counts the payload among those in flight until it is durable or failed.
    pub permit: OwnedSemaphorePermit,
    /// The disk did not take it in one volume.
    pub has_failed: bool,
}

/// A [`Put`] in the queue.
pub struct PutJob {
    pub put: Put,
    pub reply: oneshot::Sender<PutOutcome>,
}

impl PutJob {
    fn refuse(self, error: FsError) {
        // Nobody waits any more if this fails.
        let _ = self.reply.send(PutOutcome::Done(Err(error)));
    }

    /// The disk did not take it. One volume may be at fault, and another takes it; two are a broken disk: whoever
    /// put it chooses another daemon, and no more volumes are spent on it.
    fn failed(mut self) -> Option<PutJob> {
        if self.put.has_failed {
            self.refuse(FsError::Io);
            return None;
        }
        self.put.has_failed = true;
        Some(self)
    }
}

/// What became of a [`PutJob`].
pub enum PutOutcome {
    Done(FsResult<BlockRef>),
    /// There is no volume to write to. Once there is, it can be queued again.
    NoVolume(Put),
}

/// Work that is nobody's put.
pub enum Chore {
    /// This volume takes no more blocks.
    Seal(Arc<Volume>),
    /// There is no spare volume.
    PrepareSpare,
}

/// What the lanes share.
pub struct Lanes {
    pub disk: Arc<dyn Disk>,
    pub counters: Arc<Counters>,
    /// Where cookies come from.
    pub rng: Arc<dyn Rng>,
    /// Where blocks go now, and where they will go next.
    pub open: Mutex<OpenVolumes>,
    /// At most two chores per volume: the channel need not be bounded.
    pub chores: mpsc::UnboundedSender<Chore>,
}

/// The volumes that take blocks.
#[derive(Default)]
pub struct OpenVolumes {
    pub current: Option<Arc<Volume>>,
    pub spare: Option<Arc<Volume>>,
}

impl Lanes {
    /// One lane's life: until the queue is closed and empty.
    pub fn run(&self, queue: &Receiver<PutJob>) {
        self.run_with(queue, |volume| {
            if volume.segment().make_durable(&**volume) {
                self.counters.syncs.add(1);
            }
        });
    }

    /// The same, where `make_durable` sees to it that what was written to a volume becomes durable.
    pub fn run_with(&self, queue: &Receiver<PutJob>, mut make_durable: impl FnMut(&Arc<Volume>)) {
        while let Ok(job) = queue.recv() {
            let mut next = Some(job);
            while let Some(job) = next.take() {
                self.serve(job, queue, &mut make_durable);
                next = self.rest(queue);
            }
        }
    }

    /// The next job, if one comes soon. Else marks the end of what was written, unless another lane has written since:
    /// that one will.
    fn rest(&self, queue: &Receiver<PutJob>) -> Option<PutJob> {
        let before = self.end();
        match queue.recv_timeout(IDLE) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Timeout) if self.end() == before => self.mark_end(),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        None
    }

    /// Where blocks go now, and how far that volume is durable.
    fn end(&self) -> Option<(VolumeId, u64)> {
        let open = self.open.lock();
        open.current.as_ref().map(|volume| (volume.id(), volume.stat().bytes))
    }

    /// Leaves a mark behind the last block, if all are durable: see [`Segment::mark_end`].
    ///
    /// [`Segment::mark_end`]: super::volume::segment::Segment::mark_end
    pub fn mark_end(&self) {
        let current = self.open.lock().current.clone();
        if let Some(volume) = current {
            volume.segment().mark_end();
        }
    }

    /// Writes `job` and what is queued behind it, and sees to it that they become durable.
    fn serve(&self, job: PutJob, queue: &Receiver<PutJob>, make_durable: &mut impl FnMut(&Arc<Volume>)) {
        let mut next = Some(job);
        while let Some(job) = next.take() {
            let Some(volume) = self.current() else {
                // Nobody waits any more if this fails.
                let _ = job.reply.send(PutOutcome::NoVolume(job.put));
                return;
            };
            next = self.fill(&volume, job, queue);
            if next.is_some() {
                self.roll(&volume);
            }
            make_durable(&volume);
        }
    }

    /// Appends jobs to `volume`; returns the one that it did not take.
    fn fill(&self, volume: &Volume, job: PutJob, queue: &Receiver<PutJob>) -> Option<PutJob> {
        let mut tail = volume.segment().writer();
        tail.reserve_ahead(volume.stat().live_bytes);
        let mut next = Some(job);
        let mut written = 0;
        while let Some(job) = next {
            let request = &job.put.request;
            written += request.payload.len();
            let record = record_of(request, self.rng.u32());
            let payload = request.payload.clone();
            let mut waiting = Some(job);
            let appended = volume.segment().append(&*self.disk, &mut tail, record, payload.segments(), |b| {
                let job = waiting.take().expect("called once");
                when_durable(job, BlockRef { volume: volume.id(), ..b })
            });
            let refused = match (appended, waiting) {
                (Err(Refused::NoSpace), Some(job)) => {
                    job.refuse(FsError::NoSpace);
                    None
                }
                (Err(Refused::Closed), refused) => refused,
                (Err(Refused::Failed), refused) => refused.and_then(PutJob::failed),
                _ => None,
            };
            if refused.is_some() {
                return refused;
            }
            next = if written < BATCH_BYTES { queue.try_recv().ok() } else { None };
        }
        None
    }

    fn current(&self) -> Option<Arc<Volume>> {
        let mut open = self.open.lock();
        if open.current.is_none() {
            open.current = open.spare.take();
            self.tell(Chore::PrepareSpare);
        }
        open.current.clone()
    }

    /// Goes on in the spare volume, unless another already has.
    pub fn roll(&self, full: &Arc<Volume>) {
        let mut open = self.open.lock();
        if open.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, full)) {
            open.current = open.spare.take();
            self.tell(Chore::Seal(full.clone()));
            self.tell(Chore::PrepareSpare);
        }
    }

    fn tell(&self, chore: Chore) {
        // At shutdown nobody listens; what is left undone is done at the next start.
        let _ = self.chores.send(chore);
    }
}

fn record_of(request: &PutRequest, cookie: u32) -> Record {
    Record {
        kind: RecordKind::Block,
        sequence: 0,
        cookie,
        session: request.session,
        payload_len: u32::try_from(request.payload.len()).expect("checked when it came in"),
        summary_len: request.summary_len,
        durable: 0,
        checksums: request.checksums.clone(),
    }
}

/// Answers the put. The payload is let go at once: it has been written.
fn when_durable(job: PutJob, block: BlockRef) -> Done {
    let PutJob { put: Put { permit, .. }, reply } = job;
    Box::new(move |result| {
        drop(permit);
        let _ = reply.send(PutOutcome::Done(result.map(|()| block)));
    })
}
