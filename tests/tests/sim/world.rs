//! The world of a run: time, chance, the queue of what happens next, and everyone in it.
//!
//! One thread, no real clock: whatever happens is an event at a time, and among events of one time the seed decides. So
//! a seed gives the same run, to the last byte on the disks.

use crate::data::{Data, DataTimer};
use crate::faults::Fault;
use crate::meta::{Meta, MetaTimer};
use crate::mount::{Mount, MountTimer};
use crate::net::{Net, Tag};
use crate::plan::Plan;
use crate::record::Record;
use crate::trace::Trace;
use bytes::Bytes;
use cairn_common::attr::Timestamp;
use cairn_common::env::Clock;
use cairn_common::proto::meta::MetaServiceResponse;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Simulated time, in microseconds since the start.
pub type Micros = u64;
pub const MILLI: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Longest time after the last fault until all is done and tidy again.
const HEALED_WITHIN: Micros = 300 * SECOND;
/// Most events of one run: a run that goes on and on is one in which somebody never gets on.
const EVENTS_MAX: u64 = 400_000;

/// What happens.
pub enum Event {
    /// A request reaches the metadata daemon, if it is the one that the connection was made to.
    ToMeta {
        tag: Tag,
        life: u64,
        request: Bytes,
    },
    /// Its answer comes back.
    FromMeta {
        tag: Tag,
        answer: MetaServiceResponse,
    },
    ToData {
        tag: Tag,
        at: usize,
        life: u64,
        request: crate::data::Call,
    },
    FromData {
        tag: Tag,
        answer: crate::data::Answer,
    },
    /// The peer hears that its connection is gone.
    Broken {
        tag: Tag,
    },
    Meta {
        life: u64,
        timer: MetaTimer,
    },
    Data {
        at: usize,
        life: u64,
        timer: DataTimer,
    },
    Mount {
        index: usize,
        life: u64,
        timer: MountTimer,
    },
    Fault(Fault),
    FaultsEnd,
}

struct Scheduled {
    at: Micros,
    chance: u32,
    number: u64,
    event: Event,
}

impl Scheduled {
    fn key(&self) -> (Micros, u32, u64) {
        (self.at, self.chance, self.number)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// One process's clock: it began somewhere, and runs a little fast or slow.
#[derive(Debug)]
pub struct DriftingClock {
    now: Arc<AtomicU64>,
    began: Instant,
    offset: Micros,
    /// Parts in a thousand of true speed.
    rate: u64,
}

impl DriftingClock {
    fn micros(&self) -> Micros {
        self.offset + self.now.load(Ordering::Relaxed) * self.rate / 1000
    }

    /// For those who measure with it.
    pub fn instant(&self) -> Instant {
        self.began + Duration::from_micros(self.micros())
    }

    /// True time until this clock has gone on by `own`.
    pub fn until(&self, own: Micros) -> Micros {
        own * 1000 / self.rate + 1
    }
}

impl Clock for DriftingClock {
    fn now(&self) -> Timestamp {
        let micros = self.micros();
        let secs = 1_000_000_000 + i64::try_from(micros / SECOND).expect("small");
        Timestamp { secs, nanos: (micros % SECOND * 1000) as u32 }
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros())
    }
}

/// See the module.
pub struct World {
    pub now: Micros,
    shown: Arc<AtomicU64>,
    pub rng: StdRng,
    queue: BinaryHeap<Reverse<Scheduled>>,
    numbers: u64,
    pub plan: Plan,
    pub net: Net,
    pub meta: Meta,
    pub datas: Vec<Data>,
    pub mounts: Vec<Mount>,
    pub record: Record,
    pub trace: Trace,
    /// The power of a daemon has gone in the middle of something.
    pub power_went: bool,
    /// The plan's loss of power has been.
    pub cut_is_over: bool,
}

impl World {
    pub fn new(seed: u64, plan: Plan, trace: Trace) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let shown = Arc::new(AtomicU64::new(0));
        let (drift, began) = (plan.drift, Instant::now());
        let mut clock = || {
            let rate = 1000 - drift + rng.random_range(0..=2 * drift);
            let offset = rng.random_range(0..SECOND);
            Arc::new(DriftingClock { now: shown.clone(), began, offset, rate })
        };
        let meta = Meta::new(clock());
        let datas = (0..plan.datas).map(|_| Data::new(clock())).collect();
        let mounts = (0..plan.mounts).map(|index| Mount::new(index, clock(), plan.steps)).collect();
        World {
            now: 0,
            shown,
            rng,
            queue: BinaryHeap::new(),
            numbers: 0,
            net: Net::default(),
            plan,
            meta,
            datas,
            mounts,
            record: Record::default(),
            trace,
            power_went: false,
            cut_is_over: false,
        }
    }

    /// The whole run; panics where something that must hold does not.
    pub fn run(&mut self) {
        self.meta_first_start();
        self.data_first_starts();
        for index in 0..self.mounts.len() {
            let after = self.rng.random_range(0..SECOND);
            self.mount_timer(index, after, MountTimer::Start);
        }
        self.plan_faults();
        let horizon = self.plan.horizon;
        self.schedule(horizon, Event::FaultsEnd);
        self.run_until(horizon + 1);
        let end = horizon + HEALED_WITHIN;
        while !self.is_tidy() {
            assert!(self.now < end, "somebody waits for ever: {}", self.who_waits());
            self.run_until(self.now + SECOND / 4);
        }
        self.check_at_the_end();
        self.give_back();
    }

    pub fn run_until(&mut self, end: Micros) {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= end) {
            let Some(Reverse(next)) = self.queue.pop() else { return };
            self.now = next.at;
            self.shown.store(self.now, Ordering::Relaxed);
            self.record.events += 1;
            assert!(self.record.events < EVENTS_MAX, "too much happens: {}", self.who_waits());
            self.happen(next.event);
            self.cut_spreads();
        }
        self.now = end;
        self.shown.store(end, Ordering::Relaxed);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::ToMeta { tag, life, request } => self.meta_gets(tag, life, &request),
            Event::FromMeta { tag, answer } => self.answer_arrives(tag, answer),
            Event::ToData { tag, at, life, request } => self.data_gets(tag, at, life, request),
            Event::FromData { tag, answer } => self.mount_hears_data(tag, answer),
            Event::Broken { tag } => self.connection_broke(tag),
            Event::Meta { life, timer } if life == self.meta.life => self.meta_timer_ends(timer),
            Event::Data { at, life, timer } if life == self.datas[at].life => self.data_timer_ends(at, timer),
            Event::Mount { index, life, timer } if life == self.mounts[index].life => {
                self.mount_timer_ends(index, timer);
            }
            // Of a process that is gone.
            Event::Meta { .. } | Event::Data { .. } | Event::Mount { .. } => {}
            Event::Fault(fault) => self.fault(fault),
            Event::FaultsEnd => self.faults_end(),
        }
    }

    /// Puts an event `after` from now into the queue.
    pub fn schedule(&mut self, after: Micros, event: Event) {
        self.numbers += 1;
        let (at, chance, number) = (self.now + after, self.rng.random(), self.numbers);
        self.queue.push(Reverse(Scheduled { at, chance, number, event }));
    }

    /// How long a sync takes. Most take no time worth an event, but where the disks are slow.
    pub fn sync_time(&mut self) -> Micros {
        if !self.plan.slow_syncs || self.now >= self.plan.horizon {
            return 0;
        }
        match self.rng.random_range(0..100) {
            0..70 => self.rng.random_range(100..5 * MILLI),
            70..95 => self.rng.random_range(5 * MILLI..SECOND),
            _ => 2 * SECOND,
        }
    }

    /// True with `percent` %.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }
}

/// A line of the run's story; it is part of what two runs of a seed must have in common.
#[macro_export]
macro_rules! say {
    ($world:expr, $($text:tt)*) => { $world.trace.say($world.now, format_args!($($text)*)) };
}
