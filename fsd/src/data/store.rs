//! The volumes of one data directory, and what is done with them: put, get, delete, stat, list.
//!
//! All disk access happens on threads made for it: the lanes (see `lanes.rs`) write, and a bounded number
//! of tokio's blocking threads read, delete and seal. The maps here are locked for moments only.

use super::history::{self, Found};
use super::lanes::{Chore, Lanes, Put, PutJob, PutOutcome};
use super::opening::open_volumes;
use super::report::Counters;
use super::suspect::Suspects;
use super::volume::format::{FIRST_RECORD, record_len};
use super::volume::segment::Limits;
use super::volume::{Owner, Span, Volume, parse_volume_name, volume_name};
use super::{DataConfig, DataError, VolumeIds};
use crate::disk::{Disk, is_full};
use crate::durable::DirLock;
use bytes::Bytes;
use cairn_common::env::SystemRng;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, VolumeId};
use cairn_common::limits::{FRAME_PAYLOAD_MAX, PIECE};
use cairn_common::pool::PayloadBuffers;
use cairn_common::proto::data::{BlockStat, DataStat, GetReply, GetRequest, PutRequest, VolumeStat};
use cairn_common::rpc::detached;
use cairn_common::told::Told;
use cairn_common::wire::Payload;
use cairn_common::wire::checksum::piece_checksums;
use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{error, info, warn};

/// Reads of at most this size are tried from the page cache without a hand-over to another thread.
const INLINE_READ: usize = 4 * PIECE;
/// Most blocks in one answer of `list`.
const LIST_MAX: usize = 4096;
/// A volume that still takes blocks but has none left is given up from this size on: what it was takes space.
const EMPTY_MAX: u64 = 16 << 20;
/// How many numbers for a new volume may be taken already, before it is given up.
const TAKEN_MAX: usize = 1024;
/// Unit in which payload bytes in flight are counted.
const IN_FLIGHT_UNIT: usize = 4096;

/// The blocks of one data daemon.
pub struct Store {
    shared: Arc<Shared>,
    /// Closed at the stop.
    queue: Mutex<Option<Sender<PutJob>>>,
    lanes: Mutex<Vec<JoinHandle<()>>>,
    _lock: Option<DirLock>,
}

/// What [`Store::delete`] did.
#[derive(Debug, Default)]
pub struct Deleted {
    /// These are deleted, or never were here.
    pub gone: Vec<BlockRef>,
    /// Why others are not.
    pub failed: Option<FsError>,
}

impl Deleted {
    /// `Ok` if all are gone.
    pub fn all(self) -> FsResult<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

struct Shared {
    disk: Arc<dyn Disk>,
    owner: Owner,
    limits: Limits,
    ids: Arc<dyn VolumeIds>,
    counters: Arc<Counters>,
    volumes: RwLock<BTreeMap<VolumeId, Arc<Volume>>>,
    lanes: Arc<Lanes>,
    /// Bytes of puts that are not durable yet.
    in_flight: Arc<Semaphore>,
    in_flight_units: u32,
    /// Threads that read, delete or seal. Closed when the store has stopped.
    blocking: Arc<Semaphore>,
    io_threads: u32,
    buffers: PayloadBuffers,
    suspects: Suspects,
    /// Damaged blocks that the log names.
    damaged: Told<BlockRef>,
    /// Held by who makes a spare volume.
    making: tokio::sync::Mutex<()>,
    refusing: AtomicBool,
}

impl Store {
    /// Opens all volumes in `disk` and starts the lanes. To be called inside a tokio runtime.
    pub async fn open(
        disk: Arc<dyn Disk>,
        lock: Option<DirLock>,
        owner: Owner,
        config: &DataConfig,
        ids: Arc<dyn VolumeIds>,
    ) -> Result<Arc<Store>, DataError> {
        let limits = Limits { volume_size: config.volume_size.0, reserve: config.reserve.0 };
        let found = {
            let disk = disk.clone();
            blocking(move || open_volumes(&disk, owner, limits)).await??
        };
        let (chores, inbox) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let lanes = Arc::new(Lanes {
            disk: disk.clone(),
            counters: counters.clone(),
            rng: Arc::new(SystemRng),
            open: Mutex::new(found.open),
            chores: chores.clone(),
        });
        let units = config.in_flight.as_usize().div_ceil(IN_FLIGHT_UNIT);
        let shared = Arc::new(Shared {
            disk,
            owner,
            limits,
            ids,
            counters,
            volumes: RwLock::new(found.volumes),
            lanes: lanes.clone(),
            in_flight: Arc::new(Semaphore::new(units)),
            in_flight_units: u32::try_from(units).unwrap_or(u32::MAX),
            blocking: Arc::new(Semaphore::new(config.io_threads)),
            io_threads: u32::try_from(config.io_threads).unwrap_or(u32::MAX),
            buffers: PayloadBuffers::shared(),
            suspects: Suspects::default(),
            damaged: Told::default(),
            making: tokio::sync::Mutex::new(()),
            refusing: AtomicBool::new(false),
        });
        found.to_seal.into_iter().map(Chore::Seal).chain([Chore::PrepareSpare]).for_each(|chore| {
            let _ = chores.send(chore);
        });
        tokio::spawn(do_chores(Arc::downgrade(&shared), inbox));
        if found.unclean {
            tokio::spawn(punch_dead(Arc::downgrade(&shared)));
        }
        let (queue, receiver) = crossbeam_channel::unbounded();
        let threads = (0..config.put_threads)
            .map(|number| {
                let (lanes, receiver) = (lanes.clone(), receiver.clone());
                std::thread::Builder::new().name(format!("put-{number}")).spawn(move || lanes.run(&receiver))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Arc::new(Store {
            shared,
            queue: Mutex::new(Some(queue)),
            lanes: Mutex::new(threads),
            _lock: lock,
        }))
    }

    /// Stores a block; durable on return.
    pub async fn put(&self, request: PutRequest) -> FsResult<BlockRef> {
        if self.shared.refusing.load(Ordering::Acquire) {
            return Err(FsError::Unavailable);
        }
        check_put(&request, self.shared.limits.volume_size)?;
        let length = request.payload.len();
        let units = u32::try_from(length.div_ceil(IN_FLIGHT_UNIT)).map_err(|_| FsError::Invalid)?;
        let units = units.min(self.shared.in_flight_units);
        let permits = self.shared.in_flight.clone().acquire_many_owned(units);
        let permit = permits.await.map_err(|_| FsError::Unavailable)?;
        let result = self.put_somewhere(Put { request, permit, has_failed: false }).await;
        if result.is_ok() {
            self.shared.counters.puts.add(1);
            self.shared.counters.put_bytes.add(length as u64);
        }
        result
    }

    /// Queues a block until there is a volume for it. It ends: each time that there is none, the one that was made before has
    /// been filled by others, or has failed them. They are answered then, and no more than fit into `in_flight` come.
    async fn put_somewhere(&self, mut put: Put) -> FsResult<BlockRef> {
        loop {
            let (reply, outcome) = oneshot::channel();
            self.enqueue(PutJob { put, reply })?;
            put = match outcome.await {
                Ok(PutOutcome::Done(result)) => return result,
                Ok(PutOutcome::NoVolume(again)) => again,
                Err(_) => return Err(FsError::Unavailable),
            };
            // In a task of its own: a caller that goes away must not leave a half made volume.
            let shared = self.shared.clone();
            detached(async move { shared.make_spare().await }).await?;
        }
    }

    fn enqueue(&self, job: PutJob) -> FsResult<()> {
        let queue = self.queue.lock();
        let queue = queue.as_ref().ok_or(FsError::Unavailable)?;
        queue.send(job).map_err(|_| FsError::Unavailable)
    }

    /// Reads whole pieces of a block.
    pub async fn get(&self, request: GetRequest) -> FsResult<GetReply> {
        let volume = self.shared.volume(request.block.volume).ok_or(FsError::NotFound)?;
        let span = volume.locate(request.block, request.offset, request.length)?;
        let payload = self.shared.read(&volume, &span).await?;
        if !volume.is_live(request.block) {
            // Deleted while it was read: the bytes may be those of the hole.
            return Err(FsError::NotFound);
        }
        if self.shared.suspects.is_repeated(request.block, span.offset) {
            self.shared.look_at(request.block, &span, &payload);
        }
        self.shared.counters.gets.add(1);
        self.shared.counters.get_bytes.add(span.length as u64);
        Ok(GetReply { offset: span.offset, checksums: span.checksums, payload })
    }

    /// Deletes blocks; durable on return. Unknown ones count as gone, but what is not known of a volume
    /// that could not be opened does not: its file may come back into service. What fails in one volume
    /// keeps no other from being done.
    pub async fn delete(&self, blocks: Vec<BlockRef>) -> Deleted {
        let mut by_volume: BTreeMap<VolumeId, Vec<BlockRef>> = BTreeMap::new();
        for block in blocks {
            by_volume.entry(block.volume).or_default().push(block);
        }
        let mut deleted = Deleted::default();
        for (id, blocks) in by_volume {
            match self.shared.delete_of(id, blocks.clone()).await {
                Ok(()) => deleted.gone.extend(blocks),
                Err(error) => deleted.failed = Some(error),
            }
        }
        deleted
    }

    /// Puts are refused for now, until [`Store::take_puts`].
    pub fn refuse_puts(&self) {
        self.shared.refusing.store(true, Ordering::Release);
    }

    /// Puts are taken, from now on.
    pub fn take_puts(&self) {
        self.shared.refusing.store(false, Ordering::Release);
    }

    /// The first of `used`, the last blocks that files use in volumes of this daemon, that shows the directory to be older
    /// than the metadata. They must have been asked for before: what comes meanwhile is no loss.
    pub async fn beyond_end(&self, used: Vec<BlockRef>) -> FsResult<Option<BlockRef>> {
        let shared = self.shared.clone();
        // A volume's end is locked while it is written.
        self.shared.on_disk(move || shared.beyond_end(&used)).await?.map_err(|error| {
            error!("cannot list the data directory: {error}");
            FsError::Io
        })
    }

    /// Whether the disk hangs: calls to it do not return.
    #[must_use]
    pub fn disk_hangs(&self) -> bool {
        self.shared.disk.hangs()
    }

    /// State and counters.
    pub async fn stat(&self) -> FsResult<DataStat> {
        let disk = self.shared.disk.clone();
        let space = self.shared.on_disk(move || disk.space()).await?.map_err(|error| {
            error!("cannot tell the free space: {error}");
            FsError::Io
        })?;
        let counters = &self.shared.counters;
        let volumes = self.shared.volumes.read().values().map(|volume| volume.stat()).collect();
        Ok(DataStat {
            node: self.shared.owner.node,
            capacity: space.capacity,
            available: space.available.saturating_sub(self.shared.limits.reserve),
            puts: counters.puts.get(),
            gets: counters.gets.get(),
            put_bytes: counters.put_bytes.get(),
            get_bytes: counters.get_bytes.get(),
            syncs: counters.syncs.get(),
            volumes,
        })
    }

    /// Payload bytes that were stored since the start.
    #[must_use]
    pub fn put_bytes(&self) -> u64 {
        self.shared.counters.put_bytes.get()
    }

    /// Returns once more than `seen` bytes were stored since the start: an idle daemon does not look whether it is one.
    pub async fn stores_beyond(&self, seen: u64) {
        self.shared.counters.put_bytes.beyond(seen).await;
    }

    /// A block as it was stored, verified, and the length of its summary.
    ///
    /// # Errors
    /// `NotFound` if it is not here or deleted, `Corrupt` if it is damaged, which the log tells.
    pub async fn whole(&self, block: BlockRef) -> FsResult<(Bytes, u32)> {
        let volume = self.shared.volume(block.volume).ok_or(FsError::NotFound)?;
        let summary_len = volume.summary_len(block)?;
        let span = volume.locate(block, 0, u32::MAX)?;
        let payload = self.shared.read(&volume, &span).await?;
        if !volume.is_live(block) {
            return Err(FsError::NotFound);
        }
        if piece_checksums(payload.segments()) != span.checksums {
            self.shared.look_at(block, &span, &payload);
            return Err(FsError::Corrupt);
        }
        Ok((payload.into_bytes(), summary_len))
    }

    /// State of one volume; `None` if it is not here.
    #[must_use]
    pub fn volume_stat(&self, volume: VolumeId) -> Option<VolumeStat> {
        Some(self.shared.volume(volume)?.stat())
    }

    /// Marks the end of the volume that takes blocks, as the lanes do when they are idle.
    pub async fn mark_end(&self) -> FsResult<()> {
        let lanes = self.shared.lanes.clone();
        self.shared.on_disk(move || lanes.mark_end()).await
    }

    /// All volumes that are open.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeId> {
        self.shared.volumes.read().keys().copied().collect()
    }

    /// Blocks of a volume with a sequence above `after`, in order.
    pub fn list(&self, volume: VolumeId, after: u32) -> FsResult<Vec<BlockStat>> {
        Ok(self.shared.volume(volume).ok_or(FsError::NotFound)?.list(after, LIST_MAX))
    }

    /// Takes no more puts, makes durable what was taken, and ends the open volumes in order. On return nothing of it is at
    /// the disk any more: a volume that is still being sealed would be cut where the next daemon, who has the directory
    /// by then, has stored more.
    pub async fn stop(&self) -> FsResult<()> {
        self.queue.lock().take();
        let threads = std::mem::take(&mut *self.lanes.lock());
        // What is being done comes to its end, and nothing begins; closed already, it has been stopped before.
        let (all, count) = (self.shared.blocking.clone(), self.shared.io_threads);
        let Ok(_all) = all.acquire_many_owned(count).await else { return Ok(()) };
        self.shared.blocking.close();
        let volumes: Vec<_> = self.shared.volumes.read().values().cloned().collect();
        blocking(move || {
            let failed = threads.into_iter().filter_map(|thread| thread.join().err()).count();
            let mut result = if failed == 0 { Ok(()) } else { Err(FsError::Io) };
            for volume in volumes {
                if let Err(error) = volume.stop() {
                    result = Err(failure(volume.id(), &error));
                }
            }
            result
        })
        .await?
    }
}

impl Shared {
    fn volume(&self, id: VolumeId) -> Option<Arc<Volume>> {
        self.volumes.read().get(&id).cloned()
    }

    fn beyond_end(&self, used: &[BlockRef]) -> io::Result<Option<BlockRef>> {
        let newest = self.disk.list()?.iter().filter_map(|name| parse_volume_name(name)).max();
        let find =
            |block: BlockRef| self.volume(block.volume).map_or(Found::NoVolume, |volume| volume.find(block));
        Ok(history::beyond_end(used, newest, find))
    }

    /// Deletes blocks of one volume.
    async fn delete_of(self: &Arc<Self>, id: VolumeId, blocks: Vec<BlockRef>) -> FsResult<()> {
        let shared = self.clone();
        let delete = move || match shared.volume(id) {
            Some(volume) => {
                volume.delete(&blocks)?;
                shared.retire(&volume);
                Ok(())
            }
            None => shared.check_absent(id),
        };
        self.on_disk(delete).await?.map_err(|error| failure(id, &error))
    }

    /// Gives back what a volume without blocks takes: a sealed one goes, one that takes blocks is sealed first.
    fn retire(&self, volume: &Arc<Volume>) {
        if !volume.is_spent() {
            let stat = volume.stat();
            if !stat.sealed && stat.blocks == 0 && stat.bytes > EMPTY_MAX {
                self.lanes.roll(volume);
            }
            return;
        }
        let id = volume.id();
        if self.volumes.write().remove(&id).is_none() {
            return;
        }
        match volume.remove_files() {
            Ok(()) => info!("volume {id} has no block left and is removed"),
            // Nobody has a block of it; the next start tries again.
            Err(error) => error!("volume {id} has no block left and cannot be removed: {error}"),
        }
    }

    /// An error unless there is no file of the volume, and so nothing to delete.
    fn check_absent(&self, id: VolumeId) -> io::Result<()> {
        match self.disk.open(&volume_name(id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::other("cannot delete: the volume is not open")),
        }
    }

    async fn read(&self, volume: &Arc<Volume>, span: &Span) -> FsResult<Payload> {
        let mut buffer = self.buffers.take(span.length);
        if span.length <= INLINE_READ && volume.read_cached(span, &mut buffer.unfilled()[..span.length]) {
            buffer.advance(span.length);
            return Ok(Payload::from(buffer.freeze()));
        }
        let (volume, span) = (volume.clone(), span.clone());
        let read = move || {
            volume.read(&span, &mut buffer.unfilled()[..span.length])?;
            buffer.advance(span.length);
            Ok(buffer.freeze())
        };
        Ok(Payload::from(self.on_disk(read).await??))
    }

    /// Names a block in the log if its bytes are not what was stored. It is given out all the same: the reader
    /// verifies, and a tool that saves what can be saved wants it.
    fn look_at(&self, block: BlockRef, span: &Span, payload: &Payload) {
        let is_damaged = piece_checksums(payload.segments()) != span.checksums;
        if is_damaged && self.damaged.is_news(block) {
            error!(
                target: "cairn",
                "volume {}: block {} is damaged on disk, reads of it fail: 'cairn fsck' names its files, docs/operating/recovery.md tells what to do",
                block.volume, block.sequence
            );
        }
    }

    /// Runs `work` on a blocking thread, of which there is a bounded number.
    async fn on_disk<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> FsResult<R> {
        let permit = self.blocking.clone().acquire_owned().await.map_err(|_| FsError::Unavailable)?;
        // Kept until the work has ended, also if nobody waits for it any more.
        let work = move || {
            let result = work();
            drop(permit);
            result
        };
        blocking(work).await
    }

    /// Makes a spare volume unless there is one.
    async fn make_spare(&self) -> FsResult<()> {
        let _making = self.making.lock().await;
        if self.lanes.open.lock().spare.is_some() {
            return Ok(());
        }
        let volume = Arc::new(self.make_volume().await?);
        self.volumes.write().insert(volume.id(), volume.clone());
        self.lanes.open.lock().spare = Some(volume);
        Ok(())
    }

    async fn make_volume(&self) -> FsResult<Volume> {
        for _ in 0..TAKEN_MAX {
            let id = self.ids.allocate().await?;
            let (disk, owner, limits) = (self.disk.clone(), self.owner, self.limits);
            let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let create = move || Volume::create(disk, owner, id, created, rand::random(), limits);
            match self.on_disk(create).await? {
                Ok(volume) => return Ok(volume),
                // A metadata daemon on an old copy of its directory counts from there again.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    warn!("volume {id} is here already: asking for another number");
                }
                Err(error) => return Err(failure(id, &error)),
            }
        }
        Err(FsError::Io)
    }
}

/// The answer to a failed disk access; the log says what failed.
fn failure(id: VolumeId, error: &io::Error) -> FsError {
    if is_full(error) {
        return FsError::NoSpace;
    }
    error!("volume {id}: {error}");
    FsError::Io
}

async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> FsResult<R> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        error!("disk task failed: {error}");
        FsError::Io
    })
}

fn check_put(request: &PutRequest, volume_size: u64) -> FsResult<()> {
    let length = request.payload.len();
    let pieces = length.div_ceil(PIECE);
    if length == 0
        || length > FRAME_PAYLOAD_MAX
        // No volume would take it.
        || FIRST_RECORD + record_len(length) > volume_size
        || request.summary_len as usize > length
        || request.checksums.len() != pieces
    {
        return Err(FsError::Invalid);
    }
    // Bytes that were changed on the way here must not become durable.
    if piece_checksums(request.payload.segments()) != request.checksums {
        return Err(FsError::Corrupt);
    }
    Ok(())
}

/// Seals and prepares, one chore at a time, until the store is gone.
async fn do_chores(shared: Weak<Shared>, mut inbox: mpsc::UnboundedReceiver<Chore>) {
    while let Some(chore) = inbox.recv().await {
        let Some(shared) = shared.upgrade() else { return };
        match chore {
            Chore::Seal(volume) => {
                let id = volume.id();
                let retiring = shared.clone();
                let seal = move || volume.seal().map(|()| retiring.retire(&volume));
                match shared.on_disk(seal).await {
                    Ok(Ok(())) => {}
                    // It takes no blocks and is read by the index in memory; the next start tries again.
                    Ok(Err(error)) => warn!("volume {id} cannot be sealed yet: {error}"),
                    Err(_) => {}
                }
            }
            Chore::PrepareSpare => {
                if let Err(error) = shared.make_spare().await {
                    // The put that needs one asks again.
                    info!("no spare volume yet: {error}");
                }
            }
        }
    }
}

/// After an unclean stop: gives back the space of deleted blocks whose holes were lost.
async fn punch_dead(shared: Weak<Shared>) {
    let volumes: Vec<_> = match shared.upgrade() {
        Some(shared) => shared.volumes.read().values().cloned().collect(),
        None => return,
    };
    for volume in volumes {
        let Some(shared) = shared.upgrade() else { return };
        let _ = shared.on_disk(move || volume.punch_dead()).await;
    }
}
