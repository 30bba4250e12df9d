//! What `cairn status` shows: one structure, as JSON or as text for people.

use cairn_common::proto::data::DataStat;
use cairn_common::proto::meta::{MetaStatus, NodeInfo, SessionStatus};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

#[derive(Debug, Serialize)]
pub struct Status {
    /// Version of this command.
    version: &'static str,
    cluster: String,
    meta: Meta,
    space: Space,
    sessions: Vec<Session>,
    data: Data,
}

#[derive(Debug, Serialize)]
struct Meta {
    address: String,
    version: String,
    epoch: u64,
    uptime_ms: u64,
    log_index: u64,
    durable_index: u64,
    checkpoint_index: u64,
    orphans: u64,
    delete_queue: u64,
}

#[derive(Debug, Serialize)]
struct Space {
    capacity: u64,
    available: u64,
    inodes: u64,
    allocated: u64,
    block_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Session {
    session: u64,
    host: String,
    mount_point: String,
    version: String,
    pid: u32,
    idle_ms: u64,
    open_files: u64,
    applied: u64,
    durable: u64,
}

#[derive(Debug, Serialize)]
struct Data {
    nodes: Vec<DataNode>,
}

/// One data daemon.
#[derive(Debug, Serialize)]
pub struct DataNode {
    node: u32,
    address: String,
    /// It answered just now; else the figures are those of its last report.
    answers: bool,
    capacity: u64,
    available: u64,
    volumes: u64,
    blocks: u64,
    live_bytes: u64,
    volume_bytes: u64,
    puts: u64,
    gets: u64,
    put_bytes: u64,
    get_bytes: u64,
    syncs: u64,
}

impl DataNode {
    /// A daemon and what is known of it.
    pub fn new(info: &NodeInfo, stat: Option<&DataStat>, answers: bool) -> DataNode {
        let volumes = stat.map_or(&[][..], |stat| &stat.volumes);
        let count = |f: fn(&DataStat) -> u64| stat.map_or(0, f);
        DataNode {
            node: info.node.0,
            address: info.address.clone(),
            answers,
            capacity: count(|s| s.capacity),
            available: count(|s| s.available),
            volumes: volumes.len() as u64,
            blocks: volumes.iter().map(|v| v.blocks).sum(),
            live_bytes: volumes.iter().map(|v| v.live_bytes).sum(),
            volume_bytes: volumes.iter().map(|v| v.bytes).sum(),
            puts: count(|s| s.puts),
            gets: count(|s| s.gets),
            put_bytes: count(|s| s.put_bytes),
            get_bytes: count(|s| s.get_bytes),
            syncs: count(|s| s.syncs),
        }
    }
}

impl Status {
    /// Puts together what the daemons said.
    pub fn new(address: &str, meta: &MetaStatus, nodes: Vec<DataNode>) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION"),
            cluster: meta.cluster.to_string(),
            meta: Meta {
                address: address.to_owned(),
                version: meta.version.clone(),
                epoch: meta.epoch.0,
                uptime_ms: meta.uptime_ms,
                log_index: meta.log_index,
                durable_index: meta.durable_index,
                checkpoint_index: meta.checkpoint_index,
                orphans: meta.orphans,
                delete_queue: meta.delete_queue,
            },
            space: Space {
                capacity: meta.stat.capacity,
                available: meta.stat.available,
                inodes: meta.stat.totals.inodes,
                allocated: meta.stat.totals.allocated,
                block_bytes: meta.stat.totals.block_bytes,
            },
            sessions: meta.sessions.iter().map(Session::new).collect(),
            data: Data { nodes },
        }
    }

    /// None of what data daemons have free can be used.
    fn metadata_is_full(&self) -> bool {
        self.space.available == 0 && self.data.nodes.iter().any(|node| node.answers && node.available > 0)
    }

    /// All daemons answered, and there is at least one for data.
    pub fn complete(&self) -> bool {
        !self.data.nodes.is_empty() && self.data.nodes.iter().all(|node| node.answers)
    }
}

impl Session {
    fn new(status: &SessionStatus) -> Session {
        Session {
            session: status.session.0,
            host: status.client.host.clone(),
            mount_point: status.client.mount_point.clone(),
            version: status.client.version.clone(),
            pid: status.client.pid,
            idle_ms: status.idle_ms,
            open_files: status.open_files,
            applied: status.applied.0,
            durable: status.durable.0,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = &self.meta;
        writeln!(f, "cluster   {}", self.cluster)?;
        writeln!(
            f,
            "metadata  {} version {}, up {}, log {} (on disk {}, checkpoint {})",
            meta.address,
            meta.version,
            Ago(meta.uptime_ms),
            meta.log_index,
            meta.durable_index,
            meta.checkpoint_index
        )?;
        let space = &self.space;
        writeln!(
            f,
            "space     {} of {} free; {} inodes hold {}",
            Size(space.available),
            Size(space.capacity),
            space.inodes,
            Size(space.allocated)
        )?;
        if self.metadata_is_full() {
            writeln!(
                f,
                "          NOTHING CAN BE MADE: the metadata daemon's disk is full, data daemons have room"
            )?;
        }
        if meta.orphans > 0 || meta.delete_queue > 0 {
            writeln!(f, "          {} open-unlinked, {} blocks to delete", meta.orphans, meta.delete_queue)?;
        }
        if self.data.nodes.is_empty() {
            writeln!(f, "data      no data daemon has registered")?;
        }
        for node in &self.data.nodes {
            let state = if node.answers { "up" } else { "DOES NOT ANSWER" };
            writeln!(
                f,
                "data {:<4} {} {state}, {} of {} free, {} volumes, {} blocks, {} puts, {} gets",
                node.node,
                node.address,
                Size(node.available),
                Size(node.capacity),
                node.volumes,
                node.blocks,
                node.puts,
                node.gets
            )?;
        }
        for session in &self.sessions {
            writeln!(
                f,
                "mount {:<3} {}:{} version {}, pid {}, heard of {} ago, {} open files",
                session.session,
                session.host,
                session.mount_point,
                session.version,
                session.pid,
                Ago(session.idle_ms),
                session.open_files
            )?;
        }
        Ok(())
    }
}

/// Bytes for people: three digits and a unit of 1024.
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut whole = self.0;
        let mut tenths = 0;
        let mut unit = "";
        for next in UNITS {
            if whole < 1024 {
                break;
            }
            tenths = whole % 1024 * 10 / 1024;
            whole /= 1024;
            unit = next;
        }
        if whole < 100 { write!(f, "{whole}.{tenths} {unit}") } else { write!(f, "{whole} {unit}") }
    }
}

/// Milliseconds for people.
struct Ago(u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_millis(self.0).as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0),
            1..120 => write!(f, "{seconds} s"),
            120..7200 => write!(f, "{} min", seconds / 60),
            7200..172_800 => write!(f, "{} h", seconds / 3600),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_for_people() {
        let sizes: Vec<String> =
            [0, 1023, 1024, 1536, 100 << 10, 3 << 30, u64::MAX].map(|n| Size(n).to_string()).into();
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "100 KiB", "3.0 GiB", "16383 PiB"]);
        let times: Vec<String> =
            [5, 5000, 600_000, 10_000_000, 864_000_000].map(|n| Ago(n).to_string()).into();
        assert_eq!(times, ["5 ms", "5 s", "10 min", "2 h", "10 days"]);
    }
}
