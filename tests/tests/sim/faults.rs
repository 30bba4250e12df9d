//! What goes wrong, and when it ends.

use crate::data::RESERVE;
use crate::mount::MountTimer;
use crate::net::{Direction, Peer};
use crate::say;
use crate::world::{Event, MILLI, SECOND, World};
use cairn_fsd::disk::sim::Call;
use rand::Rng;
use std::io::ErrorKind;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    MetaKill,
    MetaPower,
    /// Power goes in the middle of some write that is still to come.
    MetaPowerSoon,
    MetaDisk,
    DataKill,
    DataPower,
    DataPowerSoon,
    DataDisk,
    DataFull,
    DataHasRoom,
    MetaFull,
    MetaHasRoom,
    MountDies,
    Cut,
    Partition,
}

impl World {
    pub fn plan_faults(&mut self) {
        if self.plan.data_full {
            self.plan_full_disk(Fault::DataFull, Fault::DataHasRoom);
        }
        if self.plan.meta_full {
            self.plan_full_disk(Fault::MetaFull, Fault::MetaHasRoom);
        }
        let plan = self.plan.clone();
        let kinds: Vec<Fault> = [
            (plan.meta_kill, Fault::MetaKill),
            (plan.meta_power, Fault::MetaPower),
            (plan.meta_power, Fault::MetaPowerSoon),
            (plan.meta_disk, Fault::MetaDisk),
            (plan.data_kill, Fault::DataKill),
            (plan.data_power, Fault::DataPower),
            (plan.data_power, Fault::DataPowerSoon),
            (plan.data_disk, Fault::DataDisk),
            (plan.mount_dies, Fault::MountDies),
            (plan.cuts, Fault::Cut),
            (plan.partitions, Fault::Partition),
        ]
        .into_iter()
        .filter_map(|(wanted, fault)| wanted.then_some(fault))
        .collect();
        if kinds.is_empty() {
            return;
        }
        for _ in 0..plan.faults {
            let fault = kinds[self.rng.random_range(0..kinds.len())];
            let after = self.rng.random_range(SECOND / 2..plan.horizon);
            self.schedule(after, Event::Fault(fault));
        }
    }

    /// Some bytes are left, and some are free again later.
    fn plan_full_disk(&mut self, runs_full: Fault, has_room: Fault) {
        let half = self.plan.horizon / 2;
        let full = self.rng.random_range(SECOND / 2..half);
        self.schedule(full, Event::Fault(runs_full));
        let room = full + self.rng.random_range(half / 2..half);
        self.schedule(room, Event::Fault(has_room));
    }

    pub fn fault(&mut self, fault: Fault) {
        let at = self.rng.random_range(0..self.datas.len());
        say!(self, "fault {fault:?}");
        self.record.faults += 1;
        match fault {
            Fault::MetaKill if self.meta.is_up() => {
                let disk = self.killed_disk();
                self.meta_dies(disk);
            }
            Fault::MetaPower if self.meta.is_up() => {
                let disk = self.powerless_disk();
                self.meta_dies(disk);
            }
            Fault::MetaPowerSoon if self.meta.is_up() => {
                self.meta.disk.power_off_after(self.rng.random_range(0..30));
            }
            Fault::MetaDisk if self.meta.is_up() => {
                let call = [Call::Write, Call::Sync, Call::Allocate, Call::Name][self.rng.random_range(0..4)];
                let count = self.rng.random_range(0..20);
                self.meta.disk.fail_once(call, count, ErrorKind::Other);
            }
            Fault::DataKill if self.datas[at].is_up() => self.data_killed(at),
            Fault::DataPower if self.datas[at].is_up() => self.data_loses_power(at),
            Fault::DataPowerSoon if self.datas[at].is_up() => {
                self.datas[at].disk.power_off_after(self.rng.random_range(0..10));
            }
            Fault::DataDisk if self.datas[at].is_up() => {
                let call = [Call::Write, Call::Sync, Call::Allocate, Call::Name][self.rng.random_range(0..4)];
                let kind = [ErrorKind::Other, ErrorKind::StorageFull][self.rng.random_range(0..2)];
                let count = self.rng.random_range(0..6);
                self.datas[at].disk.fail_once(call, count, kind);
            }
            Fault::DataFull => {
                let all = self.chance(50);
                for data in 0..self.datas.len() {
                    let more = RESERVE + self.rng.random_range(0..16 << 10);
                    if all || data == at {
                        self.datas[data].disk.limit(Some(more));
                    }
                }
            }
            Fault::DataHasRoom => self.data_has_room(),
            Fault::MetaFull => self.meta_runs_full(),
            Fault::MetaHasRoom => self.meta_has_room(),
            Fault::MountDies => {
                let index = self.rng.random_range(0..self.mounts.len());
                self.mount_dies(index);
            }
            Fault::Cut => {
                let index = self.rng.random_range(0..=self.mounts.len());
                if index < self.mounts.len() { self.cut(index) } else { self.data_cut(at) }
            }
            Fault::Partition => self.partition(),
            _ => {}
        }
    }

    fn partition(&mut self) {
        let direction =
            [Direction::Both, Direction::ToServer, Direction::FromServer][self.rng.random_range(0..3)];
        let index = self.rng.random_range(0..self.mounts.len() + self.datas.len());
        let data = index.checked_sub(self.mounts.len());
        let peer = data.map_or(Peer::Mount(index), Peer::Data);
        // Some so long that sessions end.
        let time = if self.chance(50) {
            self.rng.random_range(MILLI..5 * SECOND)
        } else {
            self.rng.random_range(5 * SECOND..50 * SECOND)
        };
        self.net.partition(peer, self.now + time, direction);
    }

    /// From now on nothing goes wrong any more.
    pub fn faults_end(&mut self) {
        if self.plan.faults == 0 {
            return;
        }
        say!(self, "faults end");
        self.net.heal();
        self.heal_meta();
        self.heal_data();
        for index in 0..self.mounts.len() {
            if !self.mounts[index].is_alive() {
                let after = self.rng.random_range(0..SECOND);
                self.mount_timer(index, after, MountTimer::Start);
            }
        }
    }

    /// What was to fail soon, fails now.
    fn heal_meta(&mut self) {
        self.meta_has_room();
        if self.meta.is_up() {
            let disk = if self.chance(50) { self.killed_disk() } else { self.powerless_disk() };
            self.meta_dies(disk);
        }
    }

    fn data_has_room(&mut self) {
        self.datas.iter().for_each(|data| data.disk.limit(None));
    }

    fn heal_data(&mut self) {
        self.data_has_room();
        for at in 0..self.datas.len() {
            if self.datas[at].is_up() {
                self.data_killed(at);
            }
        }
    }
}
