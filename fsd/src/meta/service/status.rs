//! What `df` and `cairn status` show.

use super::Meta;
use crate::meta::cluster::Space;
use crate::meta::session::Contact;
use cairn_common::error::FsResult;
use cairn_common::ids::Seq;
use cairn_common::namespace::tables::Read;
use cairn_common::proto::meta::{FsStat, MetaStatus, SessionStatus};
use std::time::Duration;

/// `statfs`: exact totals of the tree, and the room that data daemons reported. None of it is free while the metadata
/// have no room: what a block is for could not be written down.
pub async fn statfs(meta: &Meta) -> FsResult<FsStat> {
    stat_with(meta, meta.cluster.space().await?)
}

/// Removed files count as gone at once, also while they wait to be reaped.
fn stat_with(meta: &Meta, space: Space) -> FsResult<FsStat> {
    let leaving = meta.sessions.tell(|leases| leases.leaving());
    let totals = meta.machine.read(|snapshot| {
        let mut totals = snapshot.totals()?;
        for ino in leaving {
            if let Some(inode) = snapshot.inode(ino)?.filter(|inode| inode.attr.nlink == 0) {
                totals.inodes -= 1;
                totals.allocated -= inode.attr.allocated;
            }
        }
        Ok(totals)
    })?;
    let available = if meta.machine.is_full() { 0 } else { space.available };
    Ok(FsStat { capacity: space.capacity, available, totals })
}

/// Everything an operator asks for; waits for nobody.
pub fn status(meta: &Meta) -> FsResult<MetaStatus> {
    let stat = stat_with(meta, meta.cluster.reported_space())?;
    let progress = meta.machine.progress();
    let (orphans, delete_queue) =
        meta.machine.read(|snapshot| Ok((snapshot.orphan_count()?, snapshot.delete_queue_len()?)))?;
    Ok(MetaStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: meta.machine.cluster(),
        epoch: meta.machine.epoch(),
        uptime_ms: millis(meta.started.elapsed()),
        log_index: progress.applied.0,
        durable_index: progress.durable.0,
        checkpoint_index: progress.checkpoint.0,
        stat,
        orphans,
        delete_queue,
        sessions: sessions(meta),
        map: meta.cluster.map()?,
    })
}

fn sessions(meta: &Meta) -> Vec<SessionStatus> {
    let status = |contact: Contact| {
        let info = meta.machine.session(contact.session);
        let (applied, durable) = info.map_or((Seq(0), Seq(0)), |info| (info.applied, info.durable));
        SessionStatus {
            session: contact.session,
            client: contact.client,
            applied,
            durable,
            idle_ms: millis(contact.idle),
            open_files: contact.open_files,
        }
    };
    meta.sessions.contacts().into_iter().map(status).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
