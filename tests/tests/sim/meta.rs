//! The metadata daemon: the real service over the real machine, log, tables and sessions, on a disk in memory. What its
//! threads and timers do, timers of the world do here.

use crate::net::{Peer, Tag};
use crate::power::At;
use crate::say;
use crate::world::{DriftingClock, Event, MILLI, Micros, SECOND, World};
use cairn_common::attr::{Caller, FileKind, Timestamp};
use cairn_common::env::Clock;
use cairn_common::error::FsError;
use cairn_common::ids::{ClusterId, Ino, Seq, SessionId};
use cairn_common::limits::FRAME_HEADER_MAX;
use cairn_common::namespace::op::{Create, Op, OpBody};
use cairn_common::proto::meta::{ClientInfo, MetaService, MetaServiceRequest, MetaServiceResponse};
use cairn_common::rpc::context_within;
use cairn_common::wire::codec;
use cairn_fsd::disk::Disk;
use cairn_fsd::disk::sim::SimDisk;
use cairn_fsd::durable::TEMPORARY;
use cairn_fsd::meta::apply::{Applied, Command, Reply};
use cairn_fsd::meta::log::Turn;
use cairn_fsd::meta::machine::{Birth, Machine, MachineConfig, OpenError};
use cairn_fsd::meta::reaper;
use cairn_fsd::meta::service::Service;
use cairn_fsd::meta::session::{ReapWork, SessionTimes};
use futures::FutureExt;
use rand::Rng;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tarpc::ServerError;
use tarpc::server::Serve;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

/// What only those who remove may take of its disk.
pub const RESERVE: u64 = 4 << 20;
/// The daemon's defaults.
pub const TIMES: SessionTimes = SessionTimes {
    timeout: Duration::from_secs(30),
    recall: Duration::from_secs(300),
    grace: Duration::from_secs(10),
};
/// How long the daemon keeps a call for events, or a sync whose batch has not come.
const EVENTS_KEPT: Micros = 10 * SECOND;
const ARRIVAL: Micros = 10 * SECOND;

/// After so many rounds without an answer nothing moves any more: a call starts a task, and the task's end ends the call.
const IDLE_ROUNDS: u32 = 3;

/// What the log takes for one event beside the requests that wait: ends of sessions, what is reaped.
const LOG_SLACK: u64 = 1 << 10;

/// What happens in the daemon by itself.
#[derive(Debug)]
pub enum MetaTimer {
    /// It is started (again).
    Start,
    /// The disk has made durable what is in the log.
    Synced,
    Checkpoint,
    /// Who is silent?
    Sweep,
    GraceEnds,
    Reap(Ino),
    /// It was begun, and has not come to its end.
    ReapAgain(Ino),
    Scan,
    /// A call that has waited long enough is answered without.
    GiveUp(Tag),
}

/// The process, and the disk that outlives it.
pub struct Meta {
    pub disk: SimDisk,
    /// Counts the processes.
    pub life: u64,
    pub clock: Arc<DriftingClock>,
    running: Option<Running>,
    /// Its disk is full.
    pub full: bool,
    /// Where everybody works together.
    pub shared: Shared,
}

/// Inodes that all mounts know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shared {
    pub journal: Ino,
    pub lock: Ino,
    pub dir: Ino,
}

type Answering = Pin<Box<dyn Future<Output = Result<MetaServiceResponse, ServerError>>>>;

struct Call {
    tag: Tag,
    work: Answering,
    /// The answer if it takes too long.
    otherwise: Option<MetaServiceResponse>,
    /// A session that is over when this is answered.
    ends: Option<SessionId>,
    /// The batch that it brings, by its first operation.
    batch: Option<(SessionId, Seq)>,
    /// Bytes of the request.
    size: u64,
}

/// In the order in which it ends.
struct Running {
    /// The sync of the log that is under way.
    turn: Option<Turn>,
    calls: Vec<Call>,
    service: Service,
    machine: Machine,
    reaper: UnboundedReceiver<ReapWork>,
    runtime: Runtime,
}

impl Meta {
    pub fn new(clock: Arc<DriftingClock>) -> Meta {
        Meta { disk: SimDisk::new(), life: 0, clock, running: None, full: false, shared: Shared::default() }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// The machine, while the daemon runs.
    pub fn machine(&self) -> Option<&Machine> {
        self.running.as_ref().map(|running| &running.machine)
    }
}

fn config() -> MachineConfig {
    MachineConfig {
        cache_bytes: 1 << 20,
        segment_bytes: 8 << 10,
        reserve_bytes: RESERVE,
        // As soon as half of their file holds nothing.
        slack_bytes: 0,
        threads: false,
        ..MachineConfig::default()
    }
}

fn open(disk: &SimDisk, runtime: &Runtime) -> Result<Machine, OpenError> {
    let _inside = runtime.enter();
    let birth = Birth { cluster: ClusterId(7), time: Timestamp { secs: 1_000_000_000, nanos: 0 } };
    Machine::open_on(Arc::new(disk.clone()), None, config(), &birth)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime without threads")
}

impl World {
    /// The first start, with what all mounts share.
    pub fn meta_first_start(&mut self) {
        let runtime = runtime();
        let machine = open(&self.meta.disk, &runtime).expect("an empty disk can be opened");
        let _inside = runtime.enter();
        let open = Command::OpenSession { client: ClientInfo::default(), time: Timestamp::default() };
        let Reply::Session(session) = now(&machine, open).reply else { panic!("no session") };
        let Reply::Inos(inos) = now(&machine, Command::AllocateInos { session }).reply else {
            panic!("no inos")
        };
        self.record.gives_inos(inos);
        let first = inos.first.0;
        let shared = Shared { journal: Ino(first), lock: Ino(first + 1), dir: Ino(first + 2) };
        let ops = vec![
            make("journal", shared.journal, FileKind::File),
            make("lock", shared.lock, FileKind::File),
            make("shared", shared.dir, FileKind::Dir),
        ];
        let batch = Command::Batch { session, first: Seq(1), ops, full: false };
        let Reply::Results(results) = now(&machine, batch).reply else { panic!("no results") };
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        now(&machine, Command::EndSession { session });
        drop(_inside);
        self.meta.shared = shared;
        drop((machine, runtime));
        self.limit_meta();
        self.plan_cut(At::Meta);
        self.meta_start();
    }

    /// Starts the daemon on what its disk has.
    fn meta_start(&mut self) {
        let runtime = runtime();
        if self.now < self.plan.horizon && self.plan.meta_power && self.chance(10) {
            self.meta.disk.power_off_after(self.rng.random_range(0..12));
        }
        let machine = match open(&self.meta.disk, &runtime) {
            Ok(machine) => machine,
            Err(error) if self.meta.disk.is_off() => {
                say!(self, "power goes while meta starts: {error}");
                drop(runtime);
                self.meta.disk = self.powerless_disk();
                return self.meta_timer(MILLI, MetaTimer::Start);
            }
            Err(error) if self.meta.full => {
                say!(self, "meta does not start on a full disk: {error}");
                drop(runtime);
                self.meta.disk = self.killed_disk();
                return self.meta_timer(SECOND, MetaTimer::Start);
            }
            Err(error) => panic!("meta does not start: {error}"),
        };
        let clock: Arc<dyn Clock> = self.meta.clock.clone();
        let (service, reaper) = Service::over(machine.clone(), TIMES, clock, self.meta.life);
        say!(
            self,
            "meta {} up: epoch {}, applied {}",
            self.meta.life,
            machine.epoch(),
            machine.progress().applied
        );
        let known: Vec<SessionId> = machine.sessions().iter().map(|info| info.session).collect();
        say!(self, "meta knows {known:?}");
        self.meta.running =
            Some(Running { calls: Vec::new(), service, machine, reaper, turn: None, runtime });
        self.check_after_restart();
        self.meta_timer(micros(TIMES.grace), MetaTimer::GraceEnds);
        self.meta_timer(0, MetaTimer::Sweep);
        self.plan_checkpoint();
        self.pump();
    }

    fn plan_checkpoint(&mut self) {
        let after = self.rng.random_range(SECOND / 4..20 * SECOND);
        self.meta_timer(after, MetaTimer::Checkpoint);
    }

    /// A timer of the daemon, on its clock.
    pub fn meta_timer(&mut self, own: Micros, timer: MetaTimer) {
        let (after, life) = (self.meta.clock.until(own), self.meta.life);
        self.schedule(after, Event::Meta { life, timer });
    }

    /// The process is gone, and what it was doing with it; the disk is `disk` from now on.
    pub fn meta_dies(&mut self, disk: SimDisk) {
        let Some(running) = self.meta.running.take() else { return };
        // Whoever waits hears of it: the system closes the connections.
        let tags: Vec<Tag> = running.calls.iter().map(|call| call.tag).collect();
        drop(running);
        self.meta.disk = disk;
        self.meta.life += 1;
        for tag in tags {
            self.refuse(tag);
        }
        let after = self.rng.random_range(MILLI..3 * SECOND);
        self.meta_timer(after, MetaTimer::Start);
    }

    /// What the next process finds after this one was killed.
    pub fn killed_disk(&mut self) -> SimDisk {
        self.meta.disk.kill()
    }

    /// What it finds after a loss of power.
    pub fn powerless_disk(&mut self) -> SimDisk {
        self.power_went |= self.meta.disk.is_off();
        let after = self.meta.disk.power_cycle(self.rng.random());
        drop(std::mem::replace(&mut self.meta.disk, after).kill());
        self.limit_meta();
        self.meta.disk.clone()
    }

    pub fn meta_gets(&mut self, tag: Tag, life: u64, request: &[u8]) {
        if life != self.meta.life || self.meta.running.is_none() {
            return self.refuse(tag);
        }
        let size = request.len() as u64;
        let request: MetaServiceRequest = codec::decode(request, FRAME_HEADER_MAX).expect("as it was sent");
        self.meta_call(tag, request, size);
        self.pump();
    }

    /// The daemon itself ends a session.
    pub fn meta_ends(&mut self, session: SessionId) {
        let own = Tag { peer: Peer::Nobody, life: 0, link: 0, call: session.0 };
        self.meta_call(own, MetaServiceRequest::Detach { session }, 0);
        self.pump();
    }

    fn meta_call(&mut self, tag: Tag, request: MetaServiceRequest, size: u64) {
        let (otherwise, kept) = match &request {
            MetaServiceRequest::Events { .. } => {
                (Some(MetaServiceResponse::Events(Ok(Vec::new()))), EVENTS_KEPT)
            }
            MetaServiceRequest::Sync { .. } => {
                (Some(MetaServiceResponse::Sync(Err(FsError::OutOfOrder))), ARRIVAL)
            }
            _ => (None, 0),
        };
        let ends = match &request {
            MetaServiceRequest::Detach { session } => Some(*session),
            _ => None,
        };
        if let Some(session) = ends {
            self.record.ending.insert(session);
        }
        let batch = match &request {
            MetaServiceRequest::Apply { batch } => Some((batch.session, batch.first)),
            _ => None,
        };
        let Some(running) = self.meta.running.as_mut() else { return };
        let waits = otherwise.is_some();
        let service = running.service.for_connection(tag.link);
        let work = Box::pin(service.serve().serve(context_within(Duration::from_secs(3600)), request));
        running.calls.push(Call { tag, work, otherwise, ends, batch, size });
        if waits {
            self.meta_timer(kept, MetaTimer::GiveUp(tag));
        }
    }

    pub fn meta_timer_ends(&mut self, timer: MetaTimer) {
        match timer {
            MetaTimer::Start => return self.meta_start(),
            MetaTimer::Checkpoint => {
                self.plan_checkpoint();
                self.checkpoint_now();
                return;
            }
            _ => {}
        }
        let Some(running) = self.meta.running.as_mut() else { return };
        let _inside = running.runtime.enter();
        match timer {
            MetaTimer::Start | MetaTimer::Checkpoint => {}
            MetaTimer::Synced => {
                running.turn.take().into_iter().for_each(Turn::sync);
            }
            MetaTimer::GraceEnds => running.service.sessions().end_recovery(),
            MetaTimer::Reap(ino) => {
                let begun = reaper::begin(running.service.sessions(), vec![ino]);
                drop(_inside);
                return begun.into_iter().for_each(|ino| self.reap(ino));
            }
            MetaTimer::ReapAgain(ino) => {
                drop(_inside);
                return self.reap(ino);
            }
            MetaTimer::Scan => {
                // An error of the disk shows as the machine's failure.
                let scanned = reaper::scan(&running.machine, running.service.sessions());
                say!(self, "looked for files without names: {scanned:?}");
            }
            MetaTimer::GiveUp(tag) => {
                let at = running.calls.iter().position(|call| call.tag == tag && call.otherwise.is_some());
                if let Some(call) = at.map(|at| running.calls.remove(at))
                    && let Some(answer) = call.otherwise
                {
                    drop(_inside);
                    self.send_from_meta(tag, answer);
                    return self.pump();
                }
            }
            MetaTimer::Sweep => {
                let (expired, next) = running.service.sessions().expired();
                drop(_inside);
                for (session, why) in expired {
                    say!(self, "meta evicts {session}: {why}");
                    self.record.evictions += 1;
                    self.meta_ends(session);
                }
                // The daemon is also woken when a session comes to be.
                let pause = next.map_or(SECOND, micros);
                self.meta_timer(pause, MetaTimer::Sweep);
                return self.pump();
            }
        }
        drop(_inside);
        self.pump();
    }

    /// Removes a file, if there is room to note it.
    fn reap(&mut self, ino: Ino) {
        self.make_log_room();
        let Some(running) = self.meta.running.as_ref() else { return };
        let inside = running.runtime.enter();
        let reaped = reaper::reap_some(&running.machine, running.service.sessions(), &[ino]).now_or_never();
        drop(inside);
        // Pending only where the disk failed: then the machine has, too.
        if let Some(Err(_)) = reaped {
            self.meta_timer(micros(reaper::RETRY_AFTER), MetaTimer::ReapAgain(ino));
        }
        self.pump();
    }

    /// False if the daemon is away.
    pub fn checkpoint_now(&mut self) -> bool {
        let Some(running) = self.meta.running.as_mut() else { return false };
        let inside = running.runtime.enter();
        // It waits for the sync under way.
        running.turn.take().into_iter().for_each(Turn::sync);
        running.machine.checkpoint();
        drop(inside);
        self.record.checkpoints += 1;
        self.pump();
        true
    }

    /// Lets everything in the daemon go on as far as it can.
    fn pump(&mut self) {
        self.make_log_room();
        let Some(running) = self.meta.running.as_mut() else { return };
        let mut answers = Vec::new();
        let mut idle = 0;
        while idle < IDLE_ROUNDS {
            running.runtime.block_on(async {
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            });
            let _inside = running.runtime.enter();
            let before = answers.len();
            let mut context = Context::from_waker(Waker::noop());
            running.calls.retain_mut(|call| match call.work.as_mut().poll(&mut context) {
                Poll::Ready(answer) => {
                    answers.push((call.tag, call.ends, call.batch, answer));
                    false
                }
                Poll::Pending => true,
            });
            idle = if answers.len() == before { idle + 1 } else { 0 };
        }
        let failed = running.machine.failed().now_or_never();
        let progress = running.machine.progress();
        let sync = running.turn.is_none() && progress.durable < progress.applied;
        let mut work = Vec::new();
        while let Ok(item) = running.reaper.try_recv() {
            work.push(item);
        }
        if let Some(why) = failed {
            return self.meta_failed(&why);
        }
        for (tag, ends, batch, answer) in answers {
            if let (Some((session, first)), Ok(MetaServiceResponse::Apply(Ok(reply)))) = (batch, &answer)
                && let Some(record) = self.record.sessions.get_mut(&session)
            {
                record.note_results(first, &reply.results);
            }
            if let Some(session) = ends {
                self.record.ended(session);
            }
            self.send_from_meta(tag, answer.expect("the service answers"));
        }
        for item in work {
            say!(self, "reaper: {item:?}");
            match item {
                ReapWork::Inode(ino) => self.meta_timer(micros(reaper::GRACE), MetaTimer::Reap(ino)),
                ReapWork::Scan => self.meta_timer(0, MetaTimer::Scan),
                ReapWork::ScanLater => self.meta_timer(micros(reaper::SCAN_DELAY), MetaTimer::Scan),
            }
        }
        if sync {
            self.begin_log_sync();
        }
    }

    /// What is written from now on is for the next.
    fn begin_log_sync(&mut self) {
        let newest = self.meta.disk.list().ok().and_then(|names| newest_segment(&names));
        let Some(running) = self.meta.running.as_mut() else { return };
        let Some(turn) = running.machine.begin_log_sync() else { return };
        running.turn = Some(turn);
        newest.iter().for_each(|name| self.meta.disk.begin_sync(name));
        let after = match self.rng.random_range(0..100) {
            0..60 => self.rng.random_range(100..5 * MILLI),
            60..98 => self.rng.random_range(5 * MILLI..SECOND),
            _ => 2 * SECOND,
        };
        self.meta_timer(after, MetaTimer::Synced);
    }

    /// A segment that is full is synced before the next is begun, and that waits for the sync under way. Nobody could end it
    /// then in this one thread, so that it ends before.
    fn make_log_room(&mut self) {
        let Some(running) = self.meta.running.as_mut() else { return };
        let largest: u64 = running.calls.iter().map(|call| call.size).sum();
        if running.turn.is_some() && running.machine.log_room() < largest + LOG_SLACK {
            running.turn.take().into_iter().for_each(Turn::sync);
        }
    }

    /// The disk failed or the power went: the daemon stops, as it says it must.
    fn meta_failed(&mut self, why: &str) {
        say!(self, "meta fails: {why}");
        self.record.failures += 1;
        let disk = if self.meta.disk.is_off() { self.powerless_disk() } else { self.killed_disk() };
        self.meta_dies(disk);
    }
}

/// The segment of the log that is written.
fn newest_segment(names: &[String]) -> Option<String> {
    names.iter().filter(|name| name.starts_with("log-") && !name.ends_with(TEMPORARY)).max().cloned()
}

/// Applies a command that may not fail, durably.
fn now(machine: &Machine, command: Command) -> Applied {
    let applied = machine.submit_then_sync(command, false).now_or_never().expect("nobody else is there");
    machine.sync_log();
    applied.expect("a new machine takes commands")
}

fn make(name: &'static str, ino: Ino, kind: FileKind) -> Op {
    let create = Create {
        parent: Ino::ROOT,
        name: name.into(),
        ino,
        kind,
        perm: 0o777,
        umask: 0,
        rdev: 0,
        exclusive: true,
        open: false,
    };
    Op { time: Timestamp::default(), caller: Caller::default(), body: OpBody::Create(create) }
}

fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).expect("short")
}
