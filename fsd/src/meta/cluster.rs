//! Data daemons and volumes: who is where, how much room there is, and the map that mounts follow.
//!
//! Which nodes and volumes exist is durable state of the machine. What the nodes report is kept here
//! and forgotten with the process: they report again within seconds.

use super::apply::{Command, Reply};
use super::gc;
use super::machine::Machine;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{BlockRef, NodeId, VolumeId};
use cairn_common::limits::NAME_MAX;
use cairn_common::proto::data::DataStat;
use cairn_common::proto::meta::{
    BLOCKS_PER_REPLY, ClusterMap, NodeInfo, RegisterReply, RegisterRequest, ReportReply, ReportRequest,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often a data daemon reports, at least.
pub const REPORT_EVERY: Duration = Duration::from_secs(2);
/// A node that missed this many reports is not alive.
const MISSED_REPORTS: u32 = 3;
/// Most blocks that one report says are deleted.
const DELETED_MAX: usize = gc::DELETE_PAGE;

struct Report {
    stat: DataStat,
    at: Instant,
}

impl Report {
    fn is_alive(&self) -> bool {
        self.at.elapsed() < REPORT_EVERY * MISSED_REPORTS
    }
}

/// See the module.
pub struct Cluster {
    machine: Machine,
    reports: Mutex<HashMap<NodeId, Report>>,
    reported: Notify,
    /// Counts changes of addresses and volumes, and daemons that come back; begins above that of every earlier incarnation.
    epoch: AtomicU64,
    started: Instant,
}

/// Bytes on all data daemons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub capacity: u64,
    pub available: u64,
}

impl Cluster {
    pub fn new(machine: Machine) -> Cluster {
        let first = (machine.epoch().0 << 32) | 1;
        Cluster {
            machine,
            reports: Mutex::default(),
            reported: Notify::new(),
            epoch: AtomicU64::new(first),
            started: Instant::now(),
        }
    }

    /// A data daemon says where it is. Nothing is logged if that is known already.
    pub async fn register(&self, request: RegisterRequest) -> FsResult<RegisterReply> {
        if request.address.is_empty() || request.address.len() > NAME_MAX {
            return Err(FsError::Invalid);
        }
        let nodes = self.machine.read(|snapshot| snapshot.nodes())?;
        let known = nodes.iter().find(|row| row.identity == request.identity);
        if request.node.is_some() && request.node != known.map(|row| row.node) {
            // Its number belongs to another directory, or was never given here.
            return Err(FsError::WrongPeer);
        }
        let node = match known {
            Some(row) if row.address == request.address => {
                let node = row.node;
                // It may be known for a moment only: this may be the second call, as no answer came to the first.
                self.machine.sync(self.machine.progress().applied).await?;
                node
            }
            _ => self.log_registration(request).await?,
        };
        let report_every_ms = u64::try_from(REPORT_EVERY.as_millis()).unwrap_or(u64::MAX);
        Ok(RegisterReply { node, cluster: self.machine.cluster(), report_every_ms })
    }

    async fn log_registration(&self, request: RegisterRequest) -> FsResult<NodeId> {
        let RegisterRequest { node, identity, address } = request;
        tracing::info!(target: "cairn", "data daemon at {address} registered");
        let command = Command::RegisterNode { node, identity, address };
        let node = match self.machine.submit(command).await?.reply {
            Reply::Node(node) => node,
            _ => return Err(FsError::Io),
        };
        self.epoch.fetch_add(1, Ordering::AcqRel);
        Ok(node)
    }

    /// Takes a report; answers what may be deleted. `Stale` for a node that is not registered.
    pub async fn report(&self, request: ReportRequest) -> FsResult<ReportReply> {
        let node = request.stat.node;
        if request.deleted.len() > DELETED_MAX {
            return Err(FsError::TooBig);
        }
        self.check_known(node)?;
        self.check_history(&request.stat);
        let report = Report { stat: request.stat, at: Instant::now() };
        let before = self.reports.lock().insert(node, report);
        if !before.is_some_and(|before| before.is_alive()) {
            // Mounts whose map says that it is away ask for another.
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.reported.notify_waiters();
        if !request.deleted.is_empty() {
            self.machine.submit(Command::Deleted { node, blocks: request.deleted }).await?;
        }
        Ok(ReportReply { delete: gc::dead_blocks(&self.machine, node).await? })
    }

    /// With its first report, a node that has volumes which were never given out here shows that this directory is older
    /// than what others remember of it.
    fn check_history(&self, stat: &DataStat) {
        if self.reports.lock().contains_key(&stat.node) {
            return;
        }
        let next = self.machine.next_volume();
        if let Some(volume) = stat.volumes.iter().map(|volume| volume.volume).filter(|id| *id >= next).max() {
            tracing::error!(
                target: "cairn",
                "data daemon {} has volume {volume}, and this metadata directory knows of none above {next}: it is an old copy. \
                 Stop this daemon and put the newest copy back; if there is none, what changed since is lost: mount again everywhere",
                stat.node
            );
        }
    }

    /// A new volume on a node.
    pub async fn create_volume(&self, node: NodeId) -> FsResult<VolumeId> {
        self.check_known(node)?;
        match self.machine.submit(Command::CreateVolume { node }).await?.reply {
            Reply::Volume(volume) => {
                self.epoch.fetch_add(1, Ordering::AcqRel);
                Ok(volume)
            }
            _ => Err(FsError::Io),
        }
    }

    /// The last block that files use in each volume of a node, for volumes above `after`.
    pub fn last_blocks(&self, node: NodeId, after: VolumeId) -> FsResult<Vec<BlockRef>> {
        self.check_known(node)?;
        self.machine.read(|snapshot| {
            let volumes = snapshot.volumes()?;
            let its = volumes.into_iter().filter(|(volume, on)| *on == node && *volume > after);
            let last = its.filter_map(|(volume, _)| snapshot.last_block(volume).transpose());
            last.take(BLOCKS_PER_REPLY).collect()
        })
    }

    fn check_known(&self, node: NodeId) -> FsResult<()> {
        let nodes = self.machine.read(|snapshot| snapshot.nodes())?;
        if nodes.iter().any(|row| row.node == node) { Ok(()) } else { Err(FsError::Stale) }
    }

    /// The map, if it is not the one that the caller has.
    pub fn map_since(&self, known: u64) -> FsResult<Option<ClusterMap>> {
        if known == self.epoch.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut map = self.map()?;
        for stat in map.nodes.iter_mut().filter_map(|node| node.stat.as_mut()) {
            // Mounts want to know the room, not each volume's state.
            stat.volumes = Vec::new();
        }
        Ok(Some(map))
    }

    /// The map with everything that is known.
    pub fn map(&self) -> FsResult<ClusterMap> {
        // Before reading: a change in between makes the next asker read again.
        let epoch = self.epoch.load(Ordering::Acquire);
        let (rows, volumes) = self.machine.read(|snapshot| Ok((snapshot.nodes()?, snapshot.volumes()?)))?;
        let reports = self.reports.lock();
        let node = |row: super::tables::NodeRow| {
            let report = reports.get(&row.node);
            NodeInfo {
                node: row.node,
                address: row.address,
                alive: report.is_some_and(Report::is_alive),
                stat: report.map(|report| report.stat.clone()),
            }
        };
        Ok(ClusterMap { epoch, nodes: rows.into_iter().map(node).collect(), volumes })
    }

    /// Room on all data daemons, by their last reports. Soon after a start it waits for the first ones.
    pub async fn space(&self) -> FsResult<Space> {
        let patience = (self.started + REPORT_EVERY * 2).into();
        loop {
            let reported = self.reported.notified();
            tokio::pin!(reported);
            reported.as_mut().enable();
            let complete = tokio::time::Instant::now() >= patience || self.all_have_reported()?;
            if complete || tokio::time::timeout_at(patience, reported).await.is_err() {
                return Ok(self.reported_space());
            }
        }
    }

    fn all_have_reported(&self) -> FsResult<bool> {
        let nodes = self.machine.read(|snapshot| snapshot.nodes())?;
        let reports = self.reports.lock();
        Ok(nodes.iter().all(|row| reports.contains_key(&row.node)))
    }

    /// The same, without waiting.
    pub fn reported_space(&self) -> Space {
        let reports = self.reports.lock();
        sum(reports.values().map(|report| (&report.stat, report.is_alive())))
    }
}

/// Room on daemons, each with whether it is alive: nothing can be written to one that is away, but its disk
/// and what is stored on it are still there.
fn sum<'a>(stats: impl Iterator<Item = (&'a DataStat, bool)>) -> Space {
    stats.fold(Space::default(), |sum, (stat, alive)| Space {
        capacity: sum.capacity.saturating_add(stat.capacity),
        available: sum.available.saturating_add(if alive { stat.available } else { 0 }),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::meta::machine::{Birth, MachineConfig};
    use cairn_common::attr::Timestamp;
    use cairn_common::ids::ClusterId;
    use futures::FutureExt;
    use std::pin::pin;
    use std::sync::Arc;

    /// Nothing becomes durable by itself.
    fn machine() -> Machine {
        let config = MachineConfig {
            segment_bytes: 8 << 10,
            reserve_bytes: 0,
            cache_bytes: 1 << 20,
            threads: false,
            ..MachineConfig::default()
        };
        let birth = Birth { cluster: ClusterId(5), time: Timestamp { secs: 1, nanos: 0 } };
        Machine::open_on(Arc::new(SimDisk::new()), None, config, &birth).unwrap()
    }

    /// Found by the simulation: the second call was answered by what the first had done, before that was durable. Power went,
    /// and a daemon that had written its number down was refused for ever.
    #[tokio::test]
    async fn a_daemon_that_registers_twice_is_told_a_number_that_lasts() {
        let machine = machine();
        let cluster = Cluster::new(machine.clone());
        let request = RegisterRequest { node: None, identity: 7, address: "here:1".into() };
        let (mut first, mut second) =
            (pin!(cluster.register(request.clone())), pin!(cluster.register(request.clone())));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none(), "its number is not durable yet");
        machine.sync_log();
        let node = first.await.unwrap().node;
        assert_eq!(second.await.unwrap().node, node);
        // When nothing is to be made durable, it is answered at once.
        let again = RegisterRequest { node: Some(node), ..request };
        assert_eq!(cluster.register(again).now_or_never().unwrap().unwrap().node, node);
    }

    #[test]
    fn room_on_a_daemon_that_is_away_is_not_free() {
        let stat = |node, capacity, available| DataStat {
            node: NodeId(node),
            capacity,
            available,
            puts: 0,
            gets: 0,
            put_bytes: 0,
            get_bytes: 0,
            syncs: 0,
            volumes: Vec::new(),
        };
        let (here, away) = (stat(1, 100, 60), stat(2, 1000, 900));
        let space = sum([(&here, true), (&away, false)].into_iter());
        assert_eq!(space, Space { capacity: 1100, available: 60 });
    }
}
