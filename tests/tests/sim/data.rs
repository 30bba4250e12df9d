//! The data daemons: the real lanes and volumes, each on a disk in memory. What their threads and tasks do happens here in
//! events.

mod asks;
mod clean;
mod leaks;
mod puts;

pub use asks::daemon_at;

use crate::net::Tag;
use crate::power::At;
use crate::say;
use crate::world::{DriftingClock, Event, MILLI, Micros, SECOND, World};
use bytes::Bytes;
use cairn_common::env::SeededRng;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, ClusterId, NodeId, VolumeId};
use cairn_common::proto::data::{BlockStat, GetRequest, PutRequest, VolumeStat};
use cairn_common::wire::checksum::verify_pieces;
use cairn_fsd::data::Owner;
use cairn_fsd::data::lanes::{Chore, Lanes};
use cairn_fsd::data::opening::open_volumes;
use cairn_fsd::data::report::Counters;
use cairn_fsd::data::volume::Volume;
use cairn_fsd::data::volume::segment::Limits;
use cairn_fsd::disk::Disk;
use cairn_fsd::disk::sim::SimDisk;
use clean::Cleaning;
use leaks::Search;
use parking_lot::Mutex;
use puts::Incoming;
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;

/// Small, so that volumes are sealed and followed by others all the time.
const LIMITS: Limits = Limits { volume_size: 96 << 10, reserve: RESERVE };
/// What blocks leave free, so that deletes go on when the disk is full. Cleaning may take 20 MiB of it.
pub const RESERVE: u64 = 32 << 20;
const REPORT_EVERY: Micros = 2 * SECOND;
const RETRY: Micros = SECOND;
/// The first daemon's; the others' follow.
const IDENTITY: u128 = 99;

/// What a mount asks.
#[derive(Clone)]
pub enum Call {
    Put(PutRequest),
    Get(GetRequest),
}

/// What it is answered.
pub enum Answer {
    Put(FsResult<BlockRef>),
    /// First byte, and verified bytes.
    Get(FsResult<(u32, Bytes)>),
}

#[derive(Debug)]
pub enum DataTimer {
    Start,
    Register,
    Report,
    AskVolume,
    /// A call to the metadata daemon has taken too long.
    Deadline(u64),
    /// This pass of the cleaner begins, or goes on.
    Clean(u64),
    /// The sync of a volume ends.
    Synced(VolumeId),
    /// It is looked for blocks that nobody will commit.
    Search,
}

/// The process, and the disk that outlives it.
pub struct Data {
    pub disk: SimDisk,
    pub life: u64,
    clock: Arc<DriftingClock>,
    pub node: Option<NodeId>,
    running: Option<Running>,
    /// The last put of a mount found no space.
    full: bool,
    /// Nothing is cleaned any more.
    pub rests: bool,
}

struct Running {
    volumes: BTreeMap<VolumeId, Arc<Volume>>,
    lanes: Lanes,
    chores: UnboundedReceiver<Chore>,
    /// To be sealed when no sync of them is under way.
    to_seal: Vec<Arc<Volume>>,
    incoming: Incoming,
    wants_volume: bool,
    /// Timers that run.
    ask_planned: bool,
    report_planned: bool,
    deleted: Vec<BlockRef>,
    /// The call under way to the metadata daemon.
    asked: Option<u64>,
    calls: u64,
    cleaning: Cleaning,
    search: Search,
}

impl Data {
    pub fn new(clock: Arc<DriftingClock>) -> Data {
        Data { disk: SimDisk::new(), life: 0, clock, node: None, running: None, full: false, rests: false }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// The bytes of a block as it is now; `None` while the daemon is away.
    pub fn look(&self, request: GetRequest) -> Option<FsResult<(u32, Bytes)>> {
        self.running.as_ref().map(|running| running.get(request))
    }

    /// Each volume, and its blocks that are not deleted. Nothing while the daemon is away.
    pub fn contents(&self) -> Vec<(VolumeStat, Vec<BlockStat>)> {
        let volumes = self.running.iter().flat_map(|running| running.volumes.values());
        let live = |volume: &Volume| {
            let mut blocks = volume.list(0, usize::MAX);
            blocks.retain(|block| !block.deleted);
            blocks
        };
        volumes.map(|volume| (volume.stat(), live(volume))).collect()
    }
}

impl Running {
    fn get(&self, request: GetRequest) -> FsResult<(u32, Bytes)> {
        let volume = self.volumes.get(&request.block.volume).ok_or(FsError::NotFound)?;
        let span = volume.locate(request.block, request.offset, request.length)?;
        let mut bytes = vec![0; span.length];
        volume.read(&span, &mut bytes)?;
        // As the mount does.
        verify_pieces(&bytes, &span.checksums).map_err(|_piece| FsError::Corrupt)?;
        Ok((span.offset, bytes.into()))
    }

    /// As the store does: a sealed volume without blocks goes.
    fn retire(&mut self, volume: &Volume) {
        if volume.is_spent() && self.volumes.remove(&volume.id()).is_some() {
            drop(volume.remove_files());
        }
    }

    fn do_chores(&mut self) {
        while let Ok(chore) = self.chores.try_recv() {
            match chore {
                Chore::Seal(volume) => self.to_seal.push(volume),
                Chore::PrepareSpare => self.wants_volume |= self.lanes.open.lock().spare.is_none(),
            }
        }
        let all = std::mem::take(&mut self.to_seal).into_iter();
        let (later, now): (Vec<_>, Vec<_>) = all.partition(|volume| self.incoming.is_syncing(volume.id()));
        self.to_seal = later;
        for volume in now {
            // What fails is done at the next start.
            drop(volume.seal());
            self.retire(&volume);
        }
        self.wants_volume |= self.incoming.lacks_volume();
    }
}

fn owner(node: NodeId) -> Owner {
    Owner { cluster: ClusterId(7), node }
}

impl World {
    pub fn data_first_starts(&mut self) {
        self.plan_cut(At::Data);
        (0..self.datas.len()).for_each(|at| self.data_start(at));
    }

    /// Starts a daemon on what its disk has.
    fn data_start(&mut self, at: usize) {
        let disk: Arc<dyn Disk> = Arc::new(self.datas[at].disk.clone());
        if self.now > 0 && self.now < self.plan.horizon && self.plan.data_power && self.chance(10) {
            self.datas[at].disk.power_off_after(self.rng.random_range(0..12));
        }
        // Before it knows its number it has no volumes.
        let node = self.datas[at].node.unwrap_or_default();
        let found = match open_volumes(&disk, owner(node), LIMITS) {
            Ok(found) => found,
            Err(error) if self.datas[at].disk.is_off() => {
                say!(self, "power goes while data {at} starts: {error}");
                return self.data_loses_power(at);
            }
            Err(error) => panic!("data {at} does not start: {error}"),
        };
        let (chores, inbox) = mpsc::unbounded_channel();
        found.to_seal.into_iter().map(Chore::Seal).chain([Chore::PrepareSpare]).for_each(|chore| {
            let _ = chores.send(chore);
        });
        let rng = Arc::new(SeededRng::new(self.rng.random()));
        let lanes = Lanes {
            disk,
            counters: Arc::new(Counters::default()),
            rng,
            open: Mutex::new(found.open),
            chores,
        };
        let mut running = Running {
            volumes: found.volumes,
            lanes,
            chores: inbox,
            to_seal: Vec::new(),
            incoming: Incoming::default(),
            wants_volume: false,
            ask_planned: false,
            report_planned: false,
            deleted: Vec::new(),
            asked: None,
            calls: 0,
            cleaning: Cleaning::default(),
            search: Search::default(),
        };
        running.do_chores();
        if found.unclean {
            running.volumes.values().for_each(|volume| volume.punch_dead());
        }
        say!(self, "data {at}.{} up: {} volumes", self.datas[at].life, running.volumes.len());
        self.datas[at].running = Some(running);
        if self.datas[at].disk.is_off() {
            return self.data_loses_power(at);
        }
        self.check_blocks_kept(at);
        self.data_timer(at, 0, DataTimer::Register);
        self.plan_clean(at, clean::BUSY);
        self.plan_search(at);
    }

    fn data_timer(&mut self, at: usize, own: Micros, timer: DataTimer) {
        let (after, life) = (self.datas[at].clock.until(own), self.datas[at].life);
        self.schedule(after, Event::Data { at, life, timer });
    }

    pub fn data_timer_ends(&mut self, at: usize, timer: DataTimer) {
        match timer {
            DataTimer::Start => self.data_start(at),
            DataTimer::Register => self.data_registers(at),
            DataTimer::Report => self.data_reports(at),
            DataTimer::AskVolume => self.data_wants_volume(at),
            DataTimer::Deadline(call) => self.data_lost_connection(at, self.data_tag(at, call)),
            DataTimer::Clean(pass) => self.clean_timer_ends(at, pass),
            DataTimer::Synced(volume) => self.data_synced(at, volume),
            DataTimer::Search => self.search_begins(at),
        }
    }

    /// The process is gone; the disk is `disk` from now on.
    pub fn data_dies(&mut self, at: usize, disk: SimDisk) {
        if let Some(running) = self.datas[at].running.take() {
            self.record.cleanings_lost += u64::from(running.cleaning.is_under_way());
            self.record.died_syncing += u64::from(running.incoming.is_any_syncing());
        }
        self.datas[at].disk = disk;
        self.datas[at].life += 1;
        let after = self.rng.random_range(MILLI..3 * SECOND);
        self.data_timer(at, after, DataTimer::Start);
    }

    pub fn data_loses_power(&mut self, at: usize) {
        self.power_went |= self.datas[at].disk.is_off();
        let after = self.datas[at].disk.power_cycle(self.rng.random());
        drop(self.datas[at].disk.kill());
        self.data_dies(at, after);
    }

    pub fn data_killed(&mut self, at: usize) {
        let disk = self.datas[at].disk.kill();
        self.data_dies(at, disk);
    }

    pub fn data_gets(&mut self, tag: Tag, at: usize, life: u64, call: Call) {
        let data = &mut self.datas[at];
        let running = data.running.as_mut().filter(|_| life == data.life);
        let Some(running) = running else { return self.refuse(tag) };
        match call {
            Call::Get(request) => {
                let answer = running.get(request);
                self.send_from_data(tag, at, Answer::Get(answer));
            }
            Call::Put(request) => self.data_put(at, tag, request),
        }
        self.data_power_check(at);
    }

    /// If the power went in the middle of what it was doing, that was its end.
    fn data_power_check(&mut self, at: usize) {
        if self.datas[at].is_up() && self.datas[at].disk.is_off() {
            say!(self, "power of data {at} went off");
            self.data_loses_power(at);
        }
    }

    fn plan_ask(&mut self, at: usize, pause: Micros) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        if running.wants_volume && !std::mem::replace(&mut running.ask_planned, true) {
            self.data_timer(at, pause, DataTimer::AskVolume);
        }
    }

    fn plan_report(&mut self, at: usize, pause: Micros) {
        let Some(running) = self.datas[at].running.as_mut() else { return };
        if !std::mem::replace(&mut running.report_planned, true) {
            self.data_timer(at, pause, DataTimer::Report);
        }
    }
}
