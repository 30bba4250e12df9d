//! The whole in one process and one thread, from one seed: the metadata daemon's service, machine, log and tables, the data
//! daemon's lanes and volumes, the mounts' operation logs, on disks in memory, over a network and through clocks and
//! deaths that the seed decides. `docs/testing.md` tells how to run more, and how to look at one.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "tests panic on purpose, and their numbers are small"
)]

mod checks;
mod content;
mod data;
mod end;
mod faults;
mod found;
mod full;
mod meta;
mod mount;
mod net;
mod plan;
mod power;
mod record;
mod script;
mod steps;
mod trace;
mod work;
mod world;

use plan::Plan;
use record::Record;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use trace::Trace;
use world::World;

/// Seeds of a usual run, from 0 on; [`ROUNDS_WANTED`] and [`FIRST`] say otherwise.
const ROUNDS: u64 = 1100;
/// Beside them, so many that no run had before.
const FRESH: u64 = 300;
const ROUNDS_WANTED: &str = "CAIRN_SIM_ROUNDS";
/// The first of them.
const FIRST: &str = "CAIRN_SIM_FIRST";
/// How to run a test of this file.
const TEST: &str = "cargo test --profile ci -p cairn-tests --test sim";
/// Replays this one, aloud.
const SEED: &str = "CAIRN_SIM_SEED";

/// Runs one seed. If it fails, says what led to it and how to see it again.
fn run(seed: u64, plan: Plan, loud: bool) -> World {
    let mut world = World::new(seed, plan, Trace::new(loud));
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.run())) {
        eprintln!("{}", world.trace.last_lines());
        eprintln!("{:#?}", world.plan);
        let again = match world.plan.cut {
            Some(_) => {
                format!("{FIRST}={seed} CAIRN_POWER_SEEDS=1 {TEST} power_goes")
            }
            None => format!("{SEED}={seed} {TEST} random_seeds"),
        };
        eprintln!("seed {seed} fails; again: {again}");
        // What it holds may be in no state to be dropped.
        std::mem::forget(world);
        resume_unwind(panic);
    }
    world
}

fn run_seed(seed: u64) -> World {
    run(seed, Plan::of_seed(seed), false)
}

/// Runs seeds; answers what happened in all of them together.
fn run_seeds(seeds: Range<u64>) -> Record {
    let mut sum = Record::default();
    for seed in seeds {
        let record = run_seed(seed).record;
        sum.events += record.events;
        sum.faults += record.faults;
        sum.repeats += record.repeats;
        sum.restarts += record.restarts;
        sum.failures += record.failures;
        sum.checkpoints += record.checkpoints;
        sum.evictions += record.evictions;
        sum.replays += record.replays;
        sum.answers += record.answers;
        sum.commits += record.commits;
        sum.deletes += record.deletes;
        sum.reads += record.reads;
        sum.grants += record.grants;
        sum.lost_locks += record.lost_locks;
        sum.looks += record.looks;
        sum.puts_without_room += record.puts_without_room;
        sum.deletes_when_full += record.deletes_when_full;
        sum.puts_with_room_again += record.puts_with_room_again;
        sum.refusals += record.refusals;
        sum.data_repeats += record.data_repeats;
        sum.leaks += record.leaks;
        sum.elsewhere += record.elsewhere;
        sum.died_syncing += record.died_syncing;
        sum.cleanings += record.cleanings;
        sum.cleanings_in_part += record.cleanings_in_part;
        sum.cleanings_in_vain += record.cleanings_in_vain;
        sum.cleanings_lost += record.cleanings_lost;
        sum.cleanings_when_full += record.cleanings_when_full;
    }
    sum
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn random_seeds() {
    if let Some(seed) = number(SEED) {
        run(seed, Plan::of_seed(seed), true);
        return;
    }
    let rounds = number(ROUNDS_WANTED).unwrap_or(ROUNDS);
    let first = number(FIRST).unwrap_or(0);
    let sum = run_seeds(first..first + rounds);
    println!(
        "{rounds} seeds from {first} on: {} events, {} faults, {} restarts of meta, {} failures of its disk, {} checkpoints, {} evictions, \
         {} replays, {} repeated messages, {} answers checked, {} commits, {} blocks deleted, {} reads, {} lock grants, \
         {} locks lost with the power, {} looks, {} puts without room, {} blocks deleted then, {} with room again, \
         {} cleanings, {} of them in part, {} in vain, {} lost, {} on a full disk, {} operations refused for want of room, \
         {} messages to data daemons repeated, {} blocks of nobody, {} blocks stored elsewhere, {} data daemons died during a sync",
        sum.events,
        sum.faults,
        sum.restarts,
        sum.failures,
        sum.checkpoints,
        sum.evictions,
        sum.replays,
        sum.repeats,
        sum.answers,
        sum.commits,
        sum.deletes,
        sum.reads,
        sum.grants,
        sum.lost_locks,
        sum.looks,
        sum.puts_without_room,
        sum.deletes_when_full,
        sum.puts_with_room_again,
        sum.cleanings,
        sum.cleanings_in_part,
        sum.cleanings_in_vain,
        sum.cleanings_lost,
        sum.cleanings_when_full,
        sum.refusals,
        sum.data_repeats,
        sum.leaks,
        sum.elsewhere,
        sum.died_syncing
    );
    // What never happens proves nothing.
    let happened = [
        sum.faults,
        sum.restarts,
        sum.failures,
        sum.checkpoints,
        sum.evictions,
        sum.replays,
        sum.repeats,
        sum.commits,
        sum.deletes,
        sum.reads,
        sum.grants,
        sum.looks,
        sum.puts_without_room,
        sum.puts_with_room_again,
        sum.cleanings,
        sum.cleanings_in_part,
        sum.cleanings_lost,
        sum.refusals,
        sum.data_repeats,
        sum.leaks,
        sum.elsewhere,
    ];
    assert!(rounds < ROUNDS || happened.iter().all(|count| *count > rounds / 10), "{happened:?}");
    // Most deletes come of new data, for which there is no room.
    assert!(rounds < ROUNDS || sum.deletes_when_full > rounds / 50);
    assert!(rounds < ROUNDS || sum.died_syncing > rounds / 50);
    // Others must change or remove just what is being moved.
    assert!(rounds < ROUNDS || sum.cleanings_in_vain > rounds / 100);
    assert!(rounds < ROUNDS || sum.cleanings_when_full > rounds / 100);
}

/// What the seeds above do not find, because they are always the same.
#[test]
fn fresh_seeds() {
    if number(SEED).or(number(FIRST)).is_some() {
        return;
    }
    let first = u64::from(rand::random::<u32>());
    println!("again: {FIRST}={first} {ROUNDS_WANTED}={FRESH} {TEST} random_seeds");
    run_seeds(first..first + FRESH);
}

/// Else a seed that fails could not be looked at.
#[test]
fn a_seed_gives_the_same_run() {
    for seed in 0..12 {
        let sums = [(); 2].map(|()| run_seed(seed).trace.sum());
        assert_eq!(sums[0], sums[1], "seed {seed}");
    }
}
