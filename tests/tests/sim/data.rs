//! The data daemon: the real lanes and volumes on a disk in memory. What its threads and tasks do happens here in events.

mod asks;
mod clean;

use crate::net::{Peer, Tag};
use crate::say;
use crate::world::{DriftingClock, Event, MILLI, Micros, SECOND, World};
use bytes::Bytes;
use cairn_common::env::SeededRng;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, ClusterId, NodeId, VolumeId};
use cairn_common::proto::data::{GetRequest, PutRequest};
use cairn_common::wire::checksum::verify_pieces;
use cairn_fsd::data::Owner;
use cairn_fsd::data::lanes::{Chore, Lanes, Put, PutJob, PutOutcome};
use cairn_fsd::data::opening::open_volumes;
use cairn_fsd::data::report::Counters;
use cairn_fsd::data::volume::Volume;
use cairn_fsd::data::volume::segment::Limits;
use cairn_fsd::disk::Disk;
use cairn_fsd::disk::sim::SimDisk;
use clean::Cleaning;
use parking_lot::Mutex;
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Small, so that volumes are sealed and followed by others all the time.
const LIMITS: Limits = Limits { volume_size: 96 << 10, reserve: RESERVE };
/// What blocks leave free, so that deletes go on when the disk is full. Cleaning may take 20 MiB of it.
pub const RESERVE: u64 = 32 << 20;
const REPORT_EVERY: Micros = 2 * SECOND;
const RETRY: Micros = SECOND;
const IDENTITY: u128 = 99;

/// What a mount asks.
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
}

/// The process, and the disk that outlives it.
pub struct Data {
    pub disk: SimDisk,
    pub life: u64,
    clock: Arc<DriftingClock>,
    node: Option<NodeId>,
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
    in_flight: Arc<Semaphore>,
    /// Puts for which there is no volume yet.
    waiting: Vec<(Tag, Put)>,
    wants_volume: bool,
    /// Timers that run.
    ask_planned: bool,
    report_planned: bool,
    deleted: Vec<BlockRef>,
    /// The call under way to the metadata daemon.
    asked: Option<u64>,
    calls: u64,
    cleaning: Cleaning,
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

    /// Writes blocks as one lane does; what there was no volume for comes back.
    fn put(&mut self, tag: Tag, request: PutRequest) -> Vec<(Tag, FsResult<BlockRef>)> {
        let permit = self.in_flight.clone().try_acquire_owned().expect("there are plenty");
        self.put_all(vec![(tag, Put { request, permit, has_failed: false })])
    }

    fn put_all(&mut self, puts: Vec<(Tag, Put)>) -> Vec<(Tag, FsResult<BlockRef>)> {
        let (queue, jobs) = crossbeam_channel::unbounded();
        let mut replies = Vec::new();
        for (tag, put) in puts {
            let (reply, outcome) = oneshot::channel();
            assert!(queue.send(PutJob { put, reply }).is_ok());
            replies.push((tag, outcome));
        }
        drop(queue);
        self.lanes.run(&jobs);
        let mut answers = Vec::new();
        for (tag, mut outcome) in replies {
            match outcome.try_recv().expect("each job is answered") {
                PutOutcome::Done(result) => answers.push((tag, result)),
                PutOutcome::NoVolume(put) => self.waiting.push((tag, put)),
            }
        }
        self.do_chores();
        answers
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
                // What fails is done at the next start.
                Chore::Seal(volume) => {
                    drop(volume.seal());
                    self.retire(&volume);
                }
                Chore::PrepareSpare => self.wants_volume |= self.lanes.open.lock().spare.is_none(),
            }
        }
        self.wants_volume |= !self.waiting.is_empty();
    }
}

fn owner(node: NodeId) -> Owner {
    Owner { cluster: ClusterId(7), node }
}

impl World {
    /// Starts the daemon on what its disk has.
    pub fn data_start(&mut self) {
        let disk: Arc<dyn Disk> = Arc::new(self.data.disk.clone());
        if self.now > 0 && self.now < self.plan.horizon && self.plan.data_power && self.chance(10) {
            self.data.disk.power_off_after(self.rng.random_range(0..12));
        }
        // Before it knows its number it has no volumes.
        let node = self.data.node.unwrap_or_default();
        let found = match open_volumes(&disk, owner(node), LIMITS) {
            Ok(found) => found,
            Err(error) if self.data.disk.is_off() => {
                say!(self, "power goes while data starts: {error}");
                return self.data_loses_power();
            }
            Err(error) => panic!("data does not start: {error}"),
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
            in_flight: Arc::new(Semaphore::new(1024)),
            waiting: Vec::new(),
            wants_volume: false,
            ask_planned: false,
            report_planned: false,
            deleted: Vec::new(),
            asked: None,
            calls: 0,
            cleaning: Cleaning::default(),
        };
        running.do_chores();
        if found.unclean {
            running.volumes.values().for_each(|volume| volume.punch_dead());
        }
        say!(self, "data {} up: {} volumes", self.data.life, running.volumes.len());
        self.data.running = Some(running);
        if self.data.disk.is_off() {
            return self.data_loses_power();
        }
        self.check_blocks_kept();
        self.data_timer(0, DataTimer::Register);
        self.plan_clean(clean::BUSY);
    }

    fn data_timer(&mut self, own: Micros, timer: DataTimer) {
        let (after, life) = (self.data.clock.until(own), self.data.life);
        self.schedule(after, Event::Data { life, timer });
    }

    pub fn data_timer_ends(&mut self, timer: DataTimer) {
        match timer {
            DataTimer::Start => self.data_start(),
            DataTimer::Register => self.data_registers(),
            DataTimer::Report => self.data_reports(),
            DataTimer::AskVolume => self.data_wants_volume(),
            DataTimer::Deadline(call) => self.data_lost_connection(self.data_tag(call)),
            DataTimer::Clean(pass) => self.clean_timer_ends(pass),
        }
    }

    /// The process is gone; the disk is `disk` from now on.
    pub fn data_dies(&mut self, disk: SimDisk) {
        let under_way = |running: Running| running.cleaning.is_under_way();
        self.record.cleanings_lost += u64::from(self.data.running.take().is_some_and(under_way));
        self.data.disk = disk;
        self.data.life += 1;
        let after = self.rng.random_range(MILLI..3 * SECOND);
        self.data_timer(after, DataTimer::Start);
    }

    pub fn data_loses_power(&mut self) {
        self.power_went |= self.data.disk.is_off();
        let after = self.data.disk.power_cycle(self.rng.random());
        drop(self.data.disk.kill());
        self.data_dies(after);
    }

    pub fn data_killed(&mut self) {
        let disk = self.data.disk.kill();
        self.data_dies(disk);
    }

    // Mounts --------------------------------------------------------------------------------------

    pub fn data_gets(&mut self, tag: Tag, life: u64, call: Call) {
        let running = self.data.running.as_mut().filter(|_| life == self.data.life);
        let Some(running) = running else { return self.refuse(tag) };
        match call {
            Call::Get(request) => {
                let answer = running.get(request);
                self.send_from_data(tag, Answer::Get(answer));
            }
            Call::Put(request) => {
                let answers = running.put(tag, request);
                self.data_answers(answers);
            }
        }
        self.data_power_check();
    }

    /// If the power went in the middle of what it was doing, that was its end.
    fn data_power_check(&mut self) {
        if self.data.is_up() && self.data.disk.is_off() {
            say!(self, "power of data went off");
            self.data_loses_power();
        }
    }

    fn data_answers(&mut self, answers: Vec<(Tag, FsResult<BlockRef>)>) {
        for (tag, answer) in answers {
            if tag.peer == Peer::Data {
                self.clean_is_stored(answer);
                continue;
            }
            self.data.full |= answer == Err(FsError::NoSpace);
            self.record.puts_without_room += u64::from(answer == Err(FsError::NoSpace));
            self.record.puts_with_room_again +=
                u64::from(answer.is_ok() && std::mem::take(&mut self.data.full));
            self.send_from_data(tag, Answer::Put(answer));
        }
        self.plan_ask(0);
    }

    fn plan_ask(&mut self, pause: Micros) {
        let Some(running) = self.data.running.as_mut() else { return };
        if running.wants_volume && !std::mem::replace(&mut running.ask_planned, true) {
            self.data_timer(pause, DataTimer::AskVolume);
        }
    }

    fn plan_report(&mut self, pause: Micros) {
        let Some(running) = self.data.running.as_mut() else { return };
        if !std::mem::replace(&mut running.report_planned, true) {
            self.data_timer(pause, DataTimer::Report);
        }
    }
}
