//! What a seed has in store: how many mounts, how long they work, and which faults there are.

use crate::power::Cut;
use crate::script::SCRIPT;
use crate::world::{Micros, SECOND};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One of so many seeds is without faults.
const CALM: u64 = 20;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The script in place of random steps, and one loss of power in place of random faults.
    pub cut: Option<Cut>,
    pub mounts: usize,
    /// Data daemons.
    pub datas: usize,
    /// Nothing goes wrong, so nobody may wait long.
    pub calm: bool,
    /// What each mount does, in steps.
    pub steps: u32,
    /// Faults end here.
    pub horizon: Micros,
    /// How many there are.
    pub faults: u32,
    pub loss_permille: u32,
    pub repeat_permille: u32,
    /// Clocks run so many parts in a thousand fast or slow, at most.
    pub drift: u64,
    pub meta_kill: bool,
    pub meta_power: bool,
    pub meta_disk: bool,
    pub data_kill: bool,
    pub data_power: bool,
    pub data_disk: bool,
    /// The data daemon's disk runs full, and has room again later.
    pub data_full: bool,
    /// The same of the metadata daemon's.
    pub meta_full: bool,
    /// Syncs take their time.
    pub slow_syncs: bool,
    /// Data daemons do not wait to delete what a session that has ended left: what comes late of it is found by itself.
    pub hasty_search: bool,
    pub mount_dies: bool,
    pub cuts: bool,
    pub partitions: bool,
}

impl Plan {
    /// Any mixture of all that there is.
    pub fn of_seed(seed: u64) -> Plan {
        // Another sequence than that of the world.
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed_0f7a_91a9_0001);
        let mut often = |percent: u32| rng.random_range(0..100) < percent;
        let plan = Plan {
            calm: seed % CALM == 3,
            drift: if often(50) { 100 } else { 0 },
            meta_kill: often(60),
            meta_power: often(60),
            meta_disk: often(30),
            data_kill: often(40),
            data_power: often(40),
            data_disk: often(20),
            mount_dies: often(40),
            cuts: often(60),
            partitions: often(40),
            ..Plan::default()
        };
        let mut plan = Plan {
            mounts: rng.random_range(1..=4),
            steps: rng.random_range(20..80),
            horizon: rng.random_range(10..60) * SECOND,
            faults: rng.random_range(1..16),
            loss_permille: [0, 0, 2, 20][rng.random_range(0..4)],
            repeat_permille: [0, 50, 300][rng.random_range(0..3)],
            ..plan
        };
        // Drawn last, so that other seeds stay what they were.
        plan.data_full = rng.random_range(0..100) < 30;
        plan.meta_full = rng.random_range(0..100) < 30;
        plan.datas = rng.random_range(1..=3);
        plan.slow_syncs = rng.random_range(0..100) < 40;
        plan.hasty_search = rng.random_range(0..100) < 50;
        if plan.calm {
            (plan.data_full, plan.meta_full) = (false, false);
            (plan.faults, plan.loss_permille) = (0, 0);
            (plan.meta_power, plan.data_power) = (false, false);
        }
        plan
    }

    /// The script, with one loss of power. Nothing else goes wrong; but who comes anew waits until a session that nobody
    /// has any more is over.
    pub fn scripted(cut: Cut) -> Plan {
        Plan { cut: Some(cut), mounts: 1, datas: 1, steps: SCRIPT.len() as u32, ..Plan::default() }
    }
}
