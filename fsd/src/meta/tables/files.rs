//! The two files of the tables, made and opened together.

use crate::disk::{Disk, DiskFile, trust_only_the_disk};
use crate::durable::TEMPORARY;
use std::io;
use std::sync::Arc;

/// redb's file.
pub const TABLES: &str = "tables";
/// The checksums of its pages.
pub const SUMS: &str = "tables.sums";

/// See the module. Clones share the files.
#[derive(Clone)]
pub struct Files {
    pub tables: Arc<dyn DiskFile>,
    pub sums: Arc<dyn DiskFile>,
}

impl Files {
    /// Makes them under other names, so that whatever is called `tables` is whole.
    pub fn create(disk: &dyn Disk) -> io::Result<Files> {
        let create = |name: &str| disk.create(&format!("{name}{TEMPORARY}"));
        Ok(Files { tables: create(TABLES)?, sums: create(SUMS)? })
    }

    /// Gives what [`Files::create`] has made its names, durably. What a crash leaves half named has no `tables`.
    pub fn publish(disk: &dyn Disk) -> io::Result<()> {
        for name in [SUMS, TABLES] {
            disk.rename(&format!("{name}{TEMPORARY}"), name)?;
        }
        disk.sync_dir()
    }

    /// Removes what [`Files::create`] has made, and nobody has published.
    pub fn abandon(disk: &dyn Disk) -> io::Result<()> {
        for name in [SUMS, TABLES] {
            match disk.remove(&format!("{name}{TEMPORARY}")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Those that are there. Checksums that are missing begin empty.
    pub fn open(disk: &dyn Disk) -> io::Result<Files> {
        let tables = disk.open(TABLES)?;
        let sums = match disk.open(SUMS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_sums(disk)?,
            opened => opened?,
        };
        // A checkpoint whose sync failed must not be found here, and then lost.
        trust_only_the_disk(&*tables)?;
        trust_only_the_disk(&*sums)?;
        Ok(Files { tables, sums })
    }
}

fn create_sums(disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(SUMS)?;
    disk.sync_dir()?;
    Ok(file)
}
