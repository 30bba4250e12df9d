//! The lines of a dump that are no rows.

use super::text::{Hex64, Hex128};
use crate::meta::tables::State;
use cairn_common::ids::{ClusterId, Epoch, Ino, LogIndex, NodeId, SessionId, VolumeId};
use cairn_common::namespace::tables::Totals;
use serde::{Deserialize, Serialize};

/// The first line. Later versions may say more in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub cairn_dump: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: u32,
}

/// The second line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateLine {
    pub state: StateFields,
}

/// Counters and positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFields {
    cluster: Hex128,
    epoch: Epoch,
    applied: LogIndex,
    next_ino: Ino,
    next_session: SessionId,
    next_node: NodeId,
    next_volume: VolumeId,
    inodes: u64,
    allocated: u64,
    block_bytes: u64,
}

/// The last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndLine {
    pub end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Lines between the second and this one.
    pub rows: u64,
    /// CRC-64/NVME of all lines before, with their ends.
    pub crc64: Hex64,
}

impl From<State> for StateFields {
    fn from(state: State) -> StateFields {
        StateFields {
            cluster: Hex128(state.cluster.0),
            epoch: state.epoch,
            applied: state.applied,
            next_ino: state.next_ino,
            next_session: state.next_session,
            next_node: state.next_node,
            next_volume: state.next_volume,
            inodes: state.totals.inodes,
            allocated: state.totals.allocated,
            block_bytes: state.totals.block_bytes,
        }
    }
}

impl From<StateFields> for State {
    fn from(fields: StateFields) -> State {
        let StateFields { inodes, allocated, block_bytes, .. } = fields;
        State {
            cluster: ClusterId(fields.cluster.0),
            epoch: fields.epoch,
            applied: fields.applied,
            next_ino: fields.next_ino,
            next_session: fields.next_session,
            next_node: fields.next_node,
            next_volume: fields.next_volume,
            totals: Totals { inodes, allocated, block_bytes },
        }
    }
}
