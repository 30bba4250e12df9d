//! Which files use a block, and by which names a person knows them: for whoever tells of damage. Reads
//! everything once for all that is asked.

use super::check::Inventory;
use super::op::ExtentData;
use crate::attr::FileKind;
use crate::error::FsResult;
use crate::ids::{BlockRef, Ino};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A file that uses one of the blocks asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockUser {
    pub block: BlockRef,
    pub ino: Ino,
    /// From the root, with all names of the file; empty if it was removed and is still open.
    pub paths: Vec<Bytes>,
}

/// All users of `blocks`, by block and inode. Needs memory for each directory.
pub fn users<T: Inventory + ?Sized>(tables: &T, blocks: &BTreeSet<BlockRef>) -> FsResult<Vec<BlockUser>> {
    let mut files = Vec::new();
    let mut directories = Vec::new();
    tables.all_inodes(&mut |inode| match inode.attr.kind {
        FileKind::File => files.push(inode.attr.ino),
        FileKind::Dir => directories.push(inode.attr.ino),
        _ => {}
    })?;
    let mut uses = BTreeSet::new();
    for ino in files {
        tables.scan_extents(ino, 0, u64::MAX, &mut |extent| {
            if let ExtentData::Block { block, .. } = extent.data
                && blocks.contains(&block)
            {
                uses.insert((block, ino));
            }
            true
        })?;
    }
    let wanted = uses.iter().map(|(_, ino)| *ino).collect();
    let paths = paths(tables, &directories, &wanted)?;
    let user = |(block, ino)| BlockUser { block, ino, paths: paths.get(&ino).cloned().unwrap_or_default() };
    Ok(uses.into_iter().map(user).collect())
}

type Place = (Ino, Bytes);

fn paths<T: Inventory + ?Sized>(
    tables: &T,
    directories: &[Ino],
    wanted: &BTreeSet<Ino>,
) -> FsResult<BTreeMap<Ino, Vec<Bytes>>> {
    let mut above: BTreeMap<Ino, Place> = BTreeMap::new();
    let mut found: Vec<(Ino, Place)> = Vec::new();
    for parent in directories {
        tables.scan_dentries(*parent, 0, &mut |dentry| {
            let place = (*parent, dentry.name);
            if dentry.kind == FileKind::Dir {
                above.insert(dentry.ino, place);
            } else if wanted.contains(&dentry.ino) {
                found.push((dentry.ino, place));
            }
            true
        })?;
    }
    let mut paths: BTreeMap<Ino, Vec<Bytes>> = BTreeMap::new();
    for (ino, place) in found {
        paths.entry(ino).or_default().push(path_of(&above, place));
    }
    Ok(paths)
}

/// Damaged tables may lead round in a circle: no path has more parts than there are directories.
fn path_of(above: &BTreeMap<Ino, Place>, (mut parent, name): Place) -> Bytes {
    let mut parts = vec![name];
    while let Some((next, name)) = above.get(&parent)
        && parts.len() <= above.len()
    {
        parts.push(name.clone());
        parent = *next;
    }
    let mut path = Vec::new();
    for part in parts.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    Bytes::from(path)
}
