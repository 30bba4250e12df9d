//! Power that goes once, at a moment that is not left to chance: during the n-th change (a write, a sync, a name) that one of
//! the two daemons makes on its disk. What was not synced survives sector by sector, as the seed says.
//!
//! The same script (`script.rs`) runs for each n, until it gets through with the power on, for each way in which the power
//! can go. After each loss all that `checks.rs` knows must hold, the script must come to its end, and once more power
//! goes everywhere.

use crate::plan::Plan;
use crate::say;
use crate::world::World;
use crate::{FIRST, number, run};
use rand::Rng;

/// Runs of each moment, with other remains and other times; `CAIRN_POWER_SEEDS` says otherwise.
const SEEDS: u64 = 2;
/// In so many of a hundred runs it goes again soon after, while the daemons recover.
const AGAIN_PERCENT: u32 = 30;

/// Whose disk is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Meta,
    Data,
}

/// What loses its power in the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// This daemon only.
    Own,
    /// Both daemons.
    Servers,
    /// The mounts, too.
    All,
}

/// One loss of power.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub at: At,
    /// So many changes are made before.
    pub after: u64,
    pub circuit: Circuit,
}

impl World {
    /// Before a daemon has done anything.
    pub fn plan_cut(&mut self, at: At) {
        let Some(cut) = self.plan.cut.filter(|cut| cut.at == at && !self.cut_is_over) else { return };
        match at {
            At::Meta => self.meta.disk.power_off_after(cut.after),
            At::Data => self.datas[0].disk.power_off_after(cut.after),
        }
    }

    /// A daemon's power is gone. In the same moment the others' goes, who hang on the same circuit.
    pub fn cut_spreads(&mut self) {
        let Some(cut) = self.plan.cut.filter(|_| self.power_went && !self.cut_is_over) else { return };
        say!(self, "{cut:?}");
        self.cut_is_over = true;
        self.record.faults += 1;
        if cut.circuit == Circuit::Own {
            return;
        }
        if self.meta.is_up() {
            let disk = self.powerless_disk();
            self.meta_dies(disk);
        }
        if self.datas[0].is_up() {
            self.data_loses_power(0);
        }
        if cut.circuit == Circuit::All {
            (0..self.mounts.len()).for_each(|index| self.mount_dies(index));
        }
        if self.chance(AGAIN_PERCENT) {
            self.meta.disk.power_off_after(self.rng.random_range(0..16));
            self.datas[0].disk.power_off_after(self.rng.random_range(0..16));
        }
    }
}

/// Runs the script with a loss of power at each moment; answers how many there are.
fn sweep(seed: u64, at: At, circuit: Circuit) -> u64 {
    for after in 0.. {
        let world = run(seed, Plan::scripted(Cut { at, after, circuit }), false);
        if !world.cut_is_over {
            check_script(&world);
            return after;
        }
    }
    unreachable!("the script has an end")
}

/// What the script does not reach proves nothing.
fn check_script(world: &World) {
    let record = &world.record;
    let happened = [record.volumes.len() as u64, record.commits, record.deletes, record.checkpoints];
    assert!(record.cleanings > 0, "the script waits for a cleaning");
    assert!(happened[0] >= 4 && happened[1] >= 8 && happened[2] >= 6 && happened[3] >= 3, "{happened:?}");
}

/// For each moment of `at`'s disk, and each seed.
fn sweeps(at: At, moments_least: u64) {
    let seeds = number("CAIRN_POWER_SEEDS").unwrap_or(SEEDS);
    let first = number(FIRST).unwrap_or(0);
    for circuit in [Circuit::Own, Circuit::Servers, Circuit::All] {
        let moments: Vec<u64> = (first..first + seeds).map(|seed| sweep(seed, at, circuit)).collect();
        println!("{at:?}, {circuit:?}: power went at each of {moments:?} moments");
        // Less would not be the whole script.
        assert!(moments.iter().all(|count| *count > moments_least), "{moments:?}");
    }
}

#[test]
fn power_goes_at_each_change_of_the_metadata() {
    sweeps(At::Meta, 100);
}

#[test]
fn power_goes_at_each_change_of_the_data() {
    sweeps(At::Data, 60);
}
