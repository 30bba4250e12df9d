//! The data daemon: the real lanes and volumes on a disk in memory. What its threads and tasks do happens here in events.

use crate::net::{Peer, Tag};
use crate::say;
use crate::world::{DriftingClock, Event, MILLI, Micros, SECOND, World};
use bytes::Bytes;
use cairn_common::env::SeededRng;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, ClusterId, NodeId, VolumeId};
use cairn_common::proto::data::{DataStat, GetRequest, PutRequest};
use cairn_common::proto::meta::{MetaServiceRequest, MetaServiceResponse, RegisterRequest, ReportRequest};
use cairn_common::wire::checksum::verify_pieces;
use cairn_fsd::data::Owner;
use cairn_fsd::data::lanes::{Chore, Lanes, PutJob, PutOutcome};
use cairn_fsd::data::opening::open_volumes;
use cairn_fsd::data::report::Counters;
use cairn_fsd::data::volume::Volume;
use cairn_fsd::data::volume::segment::Limits;
use cairn_fsd::disk::sim::SimDisk;
use cairn_fsd::disk::{Disk, is_full};
use parking_lot::Mutex;
use rand::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Small, so that volumes are sealed and followed by others all the time.
const LIMITS: Limits = Limits { volume_size: 96 << 10, reserve: RESERVE };
/// What blocks leave free, so that deletes go on when the disk is full.
pub const RESERVE: u64 = 256 << 10;
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
}

/// The process, and the disk that outlives it.
pub struct Data {
    pub disk: SimDisk,
    pub life: u64,
    clock: Arc<DriftingClock>,
    node: Option<NodeId>,
    running: Option<Running>,
    /// The last put found no space.
    full: bool,
}

struct Running {
    volumes: BTreeMap<VolumeId, Arc<Volume>>,
    lanes: Lanes,
    chores: UnboundedReceiver<Chore>,
    in_flight: Arc<Semaphore>,
    /// Puts for which there is no volume yet.
    waiting: Vec<(Tag, PutRequest)>,
    wants_volume: bool,
    /// Timers that run.
    ask_planned: bool,
    report_planned: bool,
    deleted: Vec<BlockRef>,
    /// The call under way to the metadata daemon.
    asked: Option<u64>,
    calls: u64,
}

impl Data {
    pub fn new(clock: Arc<DriftingClock>) -> Data {
        Data { disk: SimDisk::new(), life: 0, clock, node: None, running: None, full: false }
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
    fn put(&mut self, puts: Vec<(Tag, PutRequest)>) -> Vec<(Tag, FsResult<BlockRef>)> {
        let (queue, jobs) = crossbeam_channel::unbounded();
        let mut replies = Vec::new();
        for (tag, request) in puts {
            let permit = self.in_flight.clone().try_acquire_owned().expect("there are plenty");
            let (reply, outcome) = oneshot::channel();
            assert!(queue.send(PutJob { request, reply, permit }).is_ok());
            replies.push((tag, outcome));
        }
        drop(queue);
        self.lanes.run(&jobs);
        let mut answers = Vec::new();
        for (tag, mut outcome) in replies {
            match outcome.try_recv().expect("each job is answered") {
                PutOutcome::Done(result) => answers.push((tag, result)),
                PutOutcome::NoVolume(request, _permit) => self.waiting.push((tag, request)),
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
            DataTimer::Deadline(call) => {
                if self.data.running.as_ref().is_some_and(|running| running.asked == Some(call)) {
                    self.data_lost_connection(self.data_tag(call));
                }
            }
        }
    }

    /// The process is gone; the disk is `disk` from now on.
    pub fn data_dies(&mut self, disk: SimDisk) {
        self.data.running = None;
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
                let answers = running.put(vec![(tag, request)]);
                self.data_answers(answers);
            }
        }
        if self.data.disk.is_off() {
            say!(self, "power of data went off");
            self.data_loses_power();
        }
    }

    fn data_answers(&mut self, answers: Vec<(Tag, FsResult<BlockRef>)>) {
        for (tag, answer) in answers {
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

    // The metadata daemon -------------------------------------------------------------------------

    fn data_tag(&self, call: u64) -> Tag {
        Tag { peer: Peer::Data, life: self.data.life, link: 0, call }
    }

    /// One call at a time.
    fn data_asks(&mut self, request: &MetaServiceRequest) {
        let Some(running) = self.data.running.as_mut() else { return };
        running.calls += 1;
        let call = running.calls;
        running.asked = Some(call);
        self.send_to_meta(self.data_tag(call), self.meta.life, request);
        self.data_timer(5 * SECOND, DataTimer::Deadline(call));
    }

    fn is_asking(&self) -> bool {
        self.data.running.as_ref().is_none_or(|running| running.asked.is_some())
    }

    fn data_registers(&mut self) {
        if self.is_asking() {
            return self.data_timer(RETRY, DataTimer::Register);
        }
        let request = RegisterRequest { node: self.data.node, identity: IDENTITY, address: "data:1".into() };
        self.data_asks(&MetaServiceRequest::Register { request });
    }

    fn data_wants_volume(&mut self) {
        let Some(running) = self.data.running.as_mut() else { return };
        running.ask_planned = false;
        let Some(node) = self.data.node.filter(|_| running.wants_volume) else { return };
        if self.is_asking() {
            return self.plan_ask(RETRY / 10);
        }
        self.data_asks(&MetaServiceRequest::CreateVolume { node });
    }

    fn data_reports(&mut self) {
        let Some(running) = self.data.running.as_mut() else { return };
        running.report_planned = false;
        let Some(node) = self.data.node else { return };
        if self.is_asking() {
            return self.plan_report(RETRY / 10);
        }
        let Some(running) = self.data.running.as_mut() else { return };
        let deleted = std::mem::take(&mut running.deleted);
        let stat = DataStat {
            node,
            capacity: 1 << 40,
            available: 1 << 39,
            puts: 0,
            gets: 0,
            put_bytes: 0,
            get_bytes: 0,
            syncs: 0,
            volumes: running.volumes.values().map(|volume| volume.stat()).collect(),
        };
        self.data_asks(&MetaServiceRequest::Report { request: ReportRequest { stat, deleted } });
    }

    pub fn data_lost_connection(&mut self, tag: Tag) {
        let Some(running) = self.data.running.as_mut() else { return };
        if tag.life != self.data.life || running.asked != Some(tag.call) {
            return;
        }
        running.asked = None;
        self.data_timer(RETRY, DataTimer::Register);
    }

    pub fn data_hears(&mut self, tag: Tag, answer: MetaServiceResponse) {
        let Some(running) = self.data.running.as_mut() else { return };
        if tag.life != self.data.life || running.asked != Some(tag.call) {
            return;
        }
        running.asked = None;
        if !matches!(answer, MetaServiceResponse::Report(Ok(_))) {
            say!(self, "data hears {answer:?}");
        }
        match answer {
            MetaServiceResponse::Register(Ok(reply)) => {
                assert!(self.data.node.is_none_or(|node| node == reply.node), "the node has another number");
                self.data.node = Some(reply.node);
                self.plan_report(0);
                self.plan_ask(0);
            }
            MetaServiceResponse::CreateVolume(Ok(volume)) => self.data_makes_volume(volume),
            MetaServiceResponse::Report(Ok(reply)) => self.data_deletes(reply.delete),
            _ => self.data_timer(RETRY, DataTimer::Register),
        }
        if self.data.disk.is_off() {
            say!(self, "power of data went off");
            self.data_loses_power();
        }
    }

    fn data_makes_volume(&mut self, id: VolumeId) {
        assert!(self.record.volumes.insert(id), "volume {id} is given twice");
        let (Some(node), nonce) = (self.data.node, self.rng.random()) else { return };
        let Some(running) = self.data.running.as_mut() else { return };
        running.wants_volume = false;
        let disk = running.lanes.disk.clone();
        match Volume::create(disk, owner(node), id, 0, nonce, LIMITS) {
            Ok(volume) => {
                let volume = Arc::new(volume);
                running.volumes.insert(id, volume.clone());
                running.lanes.open.lock().spare = Some(volume);
                let waiting = std::mem::take(&mut running.waiting);
                let answers = running.put(waiting);
                self.data_answers(answers);
            }
            Err(error) => {
                say!(self, "volume {id} not made: {error}");
                if let Some(running) = self.data.running.as_mut() {
                    running.wants_volume = true;
                }
                self.plan_ask(RETRY);
            }
        }
    }

    fn data_deletes(&mut self, blocks: Vec<BlockRef>) {
        self.record.deletes_begin(&blocks);
        let Some(running) = self.data.running.as_mut() else { return };
        let mut by_volume: BTreeMap<VolumeId, Vec<BlockRef>> = BTreeMap::new();
        for block in blocks {
            by_volume.entry(block.volume).or_default().push(block);
        }
        for (id, blocks) in by_volume {
            let volume = running.volumes.get(&id).cloned();
            let deleted = volume.as_ref().map_or(Ok(()), |volume| volume.delete(&blocks));
            let no_space = deleted.as_ref().is_err_and(is_full);
            // What is reserved is for this.
            assert!(!no_space || self.plan.data_disk, "a full disk keeps blocks from being deleted");
            if deleted.is_ok() {
                if self.data.full {
                    self.record.deletes_when_full += blocks.len() as u64;
                }
                volume.inspect(|volume| running.retire(volume));
                self.record.deletes_end(&blocks);
                running.deleted.extend(blocks);
            }
        }
        // What was deleted is confirmed at once: there may be more.
        let pause = if running.deleted.is_empty() { REPORT_EVERY } else { 0 };
        self.plan_report(pause);
    }
}
