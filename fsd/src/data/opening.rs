//! The volumes that a daemon finds in its directory when it starts, and which of them go on growing.

use super::DataError;
use super::lanes::OpenVolumes;
use super::volume::segment::Limits;
use super::volume::{Condition, Owner, Volume, parse_volume_name};
use crate::disk::Disk;
use crate::durable;
use cairn_common::ids::VolumeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{error, info};

/// What a data directory holds.
pub struct Opened {
    pub volumes: BTreeMap<VolumeId, Arc<Volume>>,
    /// Those that go on taking blocks.
    pub open: OpenVolumes,
    /// Those that take no more and have no index yet, or no block left.
    pub to_seal: Vec<Arc<Volume>>,
    /// The daemon before did not stop in order.
    pub unclean: bool,
}

/// Opens all volumes in `disk`.
pub fn open_volumes(disk: &Arc<dyn Disk>, owner: Owner, limits: Limits) -> Result<Opened, DataError> {
    durable::settle_names(&**disk)?;
    let mut ids: Vec<VolumeId> = disk.list()?.iter().filter_map(|name| parse_volume_name(name)).collect();
    ids.sort_unstable();
    let mut opened = Opened {
        volumes: BTreeMap::new(),
        open: OpenVolumes::default(),
        to_seal: Vec::new(),
        unclean: false,
    };
    let mut growing = Vec::new();
    // Without a volume that ended in order nothing says that the daemon did.
    let mut clean = false;
    for id in ids {
        let (volume, condition) = match Volume::open(disk.clone(), owner, id, limits) {
            Ok((volume, condition)) => (Arc::new(volume), condition),
            Err(error) => {
                // The others are served all the same.
                error!("volume {id} cannot be opened and is left alone: {error}");
                continue;
            }
        };
        match condition {
            // Died before it could be removed; the chore finds it sealed.
            Condition::Sealed if volume.is_spent() => opened.to_seal.push(volume.clone()),
            Condition::Sealed => {}
            Condition::Unsealed => opened.to_seal.push(volume.clone()),
            Condition::Open => {
                clean = true;
                growing.push(volume.clone());
            }
            Condition::Recovered => {
                opened.unclean = true;
                growing.push(volume.clone());
            }
        }
        opened.volumes.insert(id, volume);
    }
    opened.unclean |= !clean;
    choose_open(growing, &mut opened);
    if opened.unclean && !opened.volumes.is_empty() {
        info!("recovered {} volumes after an unclean stop", opened.volumes.len());
    }
    Ok(opened)
}

/// The fullest growing volume goes on, the next is the spare; there are more only after crashes.
fn choose_open(mut growing: Vec<Arc<Volume>>, opened: &mut Opened) {
    growing.sort_by_key(|volume| volume.stat().bytes);
    opened.open.current = growing.pop();
    opened.open.spare = growing.pop();
    opened.to_seal.append(&mut growing);
}
