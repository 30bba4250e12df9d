//! Which data daemon holds what, as the mount knows it: the cluster map, and which daemon a new
//! block goes to. Pure.

use cairn_common::error::FsError;
use cairn_common::ids::{NodeId, VolumeId};
use cairn_common::proto::meta::{ClusterMap, NodeInfo};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a daemon that failed a put is passed over where there is another.
const AVOID: Duration = Duration::from_secs(5);

/// A block that a disk did not take is put so often: a volume whose write or sync failed takes no more, and the next may be good.
const DISK_TRIES: u32 = 3;

/// The newest map, and what this mount has seen itself.
#[derive(Debug, Default)]
pub struct Nodes {
    epoch: u64,
    nodes: HashMap<NodeId, NodeInfo>,
    volumes: HashMap<VolumeId, NodeId>,
    failed: HashMap<NodeId, Instant>,
    turn: usize,
}

impl Nodes {
    /// Epoch of the map, 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes a newer map over, or one of another start of the metadata daemon: it may run on an old copy of its directory.
    pub fn update(&mut self, map: ClusterMap) {
        if map.epoch < self.epoch && start_of(map.epoch) == start_of(self.epoch) {
            return;
        }
        self.epoch = map.epoch;
        self.nodes = map.nodes.into_iter().map(|info| (info.node, info)).collect();
        self.volumes = map.volumes.into_iter().collect();
        self.failed.retain(|node, _| self.nodes.contains_key(node));
    }

    /// Node and address that hold a volume.
    #[must_use]
    pub fn holder(&self, volume: VolumeId) -> Option<(NodeId, String)> {
        let node = self.volumes.get(&volume)?;
        self.nodes.get(node).map(|info| (*node, info.address.clone()))
    }

    /// Remembers that a volume is on `node`: blocks were just stored there.
    pub fn learn(&mut self, volume: VolumeId, node: NodeId) {
        self.volumes.insert(volume, node);
    }

    /// Where the next block goes: the daemons in turn, without those that failed lately or are not
    /// alive, unless there is no other; never one that is `full`.
    pub fn choose(&mut self, now: Instant, full: &[NodeId]) -> Option<(NodeId, String)> {
        let mut candidates: Vec<&NodeInfo> =
            self.nodes.values().filter(|info| !full.contains(&info.node)).collect();
        candidates.sort_by_key(|info| {
            let avoided = self.failed.get(&info.node).is_some_and(|at| now.duration_since(*at) < AVOID);
            (avoided, !info.alive, info.node)
        });
        let best = candidates.first().map(|info| (self.is_avoided(info.node, now), info.alive))?;
        let equal: Vec<_> =
            candidates.iter().filter(|info| (self.is_avoided(info.node, now), info.alive) == best).collect();
        let chosen = equal[self.turn % equal.len()];
        let chosen = (chosen.node, chosen.address.clone());
        self.turn = self.turn.wrapping_add(1);
        Some(chosen)
    }

    /// A daemon lives that is not among the `full` ones.
    #[must_use]
    pub fn has_room_beside(&self, full: &[NodeId]) -> bool {
        self.nodes.values().any(|info| info.alive && !full.contains(&info.node))
    }

    /// A put to `node` failed.
    pub fn failed(&mut self, node: NodeId, now: Instant) {
        self.failed.insert(node, now);
    }

    fn is_avoided(&self, node: NodeId, now: Instant) -> bool {
        self.failed.get(&node).is_some_and(|at| now.duration_since(*at) < AVOID)
    }
}

/// The tries to store one block.
#[derive(Debug, Default)]
pub struct Tries {
    full: Vec<NodeId>,
    disk_errors: u32,
}

impl Tries {
    /// Daemons that have no room for it.
    #[must_use]
    pub fn full(&self) -> &[NodeId] {
        &self.full
    }

    /// `node` has refused the block: whether it is tried again at once, with a map asked for now. A daemon may have been added
    /// because of that.
    pub fn go_on(&mut self, node: NodeId, error: FsError) -> bool {
        match error {
            FsError::Io => {
                self.disk_errors += 1;
                self.disk_errors < DISK_TRIES
            }
            FsError::NoSpace => {
                self.full.push(node);
                true
            }
            _ => false,
        }
    }

    /// Whether that helps, by the new map: there is no space only if all daemons that live say so. After an error of a disk another
    /// is chosen, if there is one, or the same makes a new volume.
    #[must_use]
    pub fn may_help(&self, error: FsError, nodes: &Nodes) -> bool {
        error != FsError::NoSpace || nodes.has_room_beside(&self.full)
    }
}

/// Bytes that are free on data daemons of a map that are away; `None` if it is not known of one what it has.
#[must_use]
pub fn away(map: &ClusterMap) -> Option<u64> {
    map.nodes.iter().try_fold(0, |sum: u64, node| {
        let available = node.stat.as_ref()?.available;
        Some(sum.saturating_add(if node.alive { 0 } else { available }))
    })
}

/// Which start of the metadata daemon a map is from.
fn start_of(epoch: u64) -> u64 {
    epoch >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_common::proto::data::DataStat;

    fn node(id: u32, alive: bool) -> NodeInfo {
        NodeInfo { node: NodeId(id), address: format!("n{id}:1"), alive, stat: None }
    }

    fn nodes(list: &[NodeInfo]) -> Nodes {
        let mut nodes = Nodes::default();
        nodes.update(ClusterMap { epoch: 1, nodes: list.to_vec(), volumes: vec![(VolumeId(5), NodeId(1))] });
        nodes
    }

    #[test]
    fn the_living_take_turns() {
        let mut nodes = nodes(&[node(1, true), node(2, true), node(3, false)]);
        let now = Instant::now();
        let chosen: Vec<u32> = (0..4).filter_map(|_| nodes.choose(now, &[])).map(|(n, _)| n.0).collect();
        assert_eq!(chosen, [1, 2, 1, 2]);
    }

    #[test]
    fn a_failed_one_is_passed_over_for_a_while() {
        let mut nodes = nodes(&[node(1, true), node(2, true)]);
        let now = Instant::now();
        nodes.failed(NodeId(1), now);
        assert_eq!(nodes.choose(now, &[]).map(|(n, _)| n), Some(NodeId(2)));
        assert_eq!(nodes.choose(now, &[]).map(|(n, _)| n), Some(NodeId(2)));
        let later = now + AVOID;
        let both: std::collections::HashSet<_> = (0..2).filter_map(|_| nodes.choose(later, &[])).collect();
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn the_only_one_is_tried_again() {
        let mut nodes = nodes(&[node(1, false)]);
        let now = Instant::now();
        nodes.failed(NodeId(1), now);
        assert_eq!(nodes.choose(now, &[]).map(|(n, _)| n), Some(NodeId(1)));
        assert_eq!(Nodes::default().choose(now, &[]), None);
    }

    #[test]
    fn a_full_one_is_not_chosen_and_others_have_room_only_if_they_live() {
        let mut nodes = nodes(&[node(1, true), node(2, true), node(3, false)]);
        let now = Instant::now();
        nodes.failed(NodeId(2), now);
        let full = [NodeId(1)];
        assert!(nodes.has_room_beside(&full));
        // It failed lately, so one that may be back comes before it.
        assert_eq!(nodes.choose(now, &full).map(|(n, _)| n), Some(NodeId(3)));
        nodes.failed(NodeId(3), now);
        assert_eq!(nodes.choose(now, &full).map(|(n, _)| n), Some(NodeId(2)));
        let full = [NodeId(1), NodeId(2)];
        assert!(!nodes.has_room_beside(&full));
        assert_eq!(nodes.choose(now, &[NodeId(1), NodeId(2), NodeId(3)]), None);
    }

    #[test]
    fn a_block_is_tried_where_there_is_room_and_a_few_times_where_a_disk_fails() {
        let nodes = nodes(&[node(1, true), node(2, true), node(3, false)]);
        let mut tries = Tries::default();
        assert!(tries.go_on(NodeId(1), FsError::NoSpace) && tries.may_help(FsError::NoSpace, &nodes));
        assert!(tries.go_on(NodeId(2), FsError::Io) && tries.may_help(FsError::Io, &nodes));
        assert!(tries.go_on(NodeId(2), FsError::NoSpace) && !tries.may_help(FsError::NoSpace, &nodes));
        assert_eq!(tries.full(), [NodeId(1), NodeId(2)]);
        assert!(tries.go_on(NodeId(2), FsError::Io) && !tries.go_on(NodeId(2), FsError::Io));
        assert!(!Tries::default().go_on(NodeId(1), FsError::Unavailable));
    }

    #[test]
    fn an_older_map_counts_only_if_it_is_of_another_start() {
        let map = |start: u64, count: u64, volume| {
            let volumes = vec![(VolumeId(volume), NodeId(1))];
            ClusterMap { epoch: start << 32 | count, nodes: vec![node(1, true)], volumes }
        };
        let mut nodes = Nodes::default();
        nodes.update(map(3, 5, 1));
        nodes.update(map(3, 4, 2));
        assert_eq!(nodes.holder(VolumeId(2)), None);
        nodes.update(map(2, 9, 2));
        assert!(nodes.holder(VolumeId(2)).is_some());
    }

    #[test]
    fn room_of_the_absent_is_unknown_if_one_has_not_told() {
        let told = |id, alive, available| {
            let stat = DataStat { node: NodeId(id), available, ..DataStat::default() };
            NodeInfo { stat: Some(stat), ..node(id, alive) }
        };
        let mut map =
            ClusterMap { epoch: 1, nodes: vec![told(1, true, 5), told(2, false, 7)], volumes: Vec::new() };
        assert_eq!(away(&map), Some(7));
        map.nodes.push(node(3, true));
        assert_eq!(away(&map), None);
    }

    #[test]
    fn volumes_are_found() {
        let mut nodes = nodes(&[node(1, true)]);
        assert_eq!(nodes.holder(VolumeId(5)).map(|(n, _)| n), Some(NodeId(1)));
        assert_eq!(nodes.holder(VolumeId(6)), None);
        nodes.learn(VolumeId(6), NodeId(1));
        assert_eq!(nodes.holder(VolumeId(6)).map(|(n, _)| n), Some(NodeId(1)));
    }
}
