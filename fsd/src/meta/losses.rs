//! What damaged pages of the tables touch, in terms of who uses the file system: which rows are lost to them, and which files
//! these belong to, by the names that can still be read. Needs memory for each inode and each directory.

use super::tables::{Effort, Gap, StoreError, Survey, Table, keys, values};
use bytes::Bytes;
use cairn_common::attr::FileKind;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Files that are named, in all.
const NAMED_MAX: usize = 1000;

#[derive(Debug, Default)]
pub struct Losses {
    pub rows: Vec<Loss>,
    /// Inodes that must have had a name.
    pub nameless: Named<Ino>,
    /// The counters and positions are lost.
    pub state: bool,
}

/// Rows of a table that can't be read, neighbours by their keys.
#[derive(Debug)]
pub struct Loss {
    pub table: Table,
    /// What they belong to: inodes, or what else the table's keys begin with. The first and the last may have lost nothing.
    pub owners: RangeInclusive<u64>,
    /// Bytes of the file where reading failed.
    pub places: Vec<u64>,
    /// False: rows between these could perhaps be read.
    pub complete: bool,
    pub files: Named<File>,
}

/// Some by name, and how many more there are.
#[derive(Debug)]
pub struct Named<T> {
    pub some: Vec<T>,
    pub more: u64,
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named { some: Vec::new(), more: 0 }
    }
}

/// A file that a loss touches.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// From the root; from an inode by its number where the names above can't be read.
    pub path: Bytes,
    /// For a directory that has lost names: how many.
    pub names: u64,
}

/// Looks at everything.
pub fn find(survey: &mut Survey) -> Result<Losses, StoreError> {
    let mut effort = Effort::default();
    let mut tree = Tree::default();
    let mut rows = Vec::new();
    // Inodes first, which the others are compared with; names last, as only those of touched files are kept.
    let names_last = Table::ALL.into_iter().filter(|table| *table != Table::Dentry);
    for table in names_last {
        let gaps = survey.gaps(table, &mut effort, &mut |key, value| tree.row(table, key, value))?;
        rows.extend(gaps.into_iter().map(|gap| Loss::new(table, gap)));
    }
    let mut names = Names::new(&mut tree, &rows);
    let gaps = survey.gaps(Table::Dentry, &mut effort, &mut |key, value| names.row(key, value))?;
    let mut room = NAMED_MAX;
    let (above, found) = names.end(&mut room);
    rows.iter_mut().zip(found).for_each(|(loss, files)| loss.files = files);
    let mut nameless = Named::default();
    if !gaps.is_empty() {
        tree.nameless().for_each(|ino| nameless.add(&mut room, || ino));
    }
    for mut loss in gaps.into_iter().map(|gap| Loss::new(Table::Dentry, gap)) {
        loss.files = tree.without_names(&loss, &above, &mut room);
        rows.push(loss);
    }
    Ok(Losses { rows, nameless, state: !survey.has_state()? })
}

impl<T> Named<T> {
    pub(super) fn add(&mut self, room: &mut usize, one: impl FnOnce() -> T) {
        if *room > 0 {
            *room -= 1;
            self.some.push(one());
        } else {
            self.more += 1;
        }
    }
}

impl Loss {
    fn new(table: Table, gap: Gap) -> Loss {
        // A key that is no more than its owner is not itself lost.
        let whole = u64::from(is_owner_alone(table));
        let first = gap.after.map_or(0, |key| owner(table, &key).saturating_add(whole));
        let last = gap.before.map_or(u64::MAX, |key| owner(table, &key).saturating_sub(whole));
        Loss {
            table,
            owners: first..=last,
            places: gap.places.into_iter().collect(),
            complete: gap.complete,
            files: Named::default(),
        }
    }

    /// Whether this file has lost something; `known` is its inode, if that can be read.
    fn touches(&self, ino: Ino, known: Option<&Known>) -> bool {
        let within = self.owners.contains(&ino.0);
        match self.table {
            Table::Inode | Table::Xattr | Table::Lock => within,
            Table::Extent => within && known.is_some_and(|known| known.held < known.allocated),
            _ => false,
        }
    }
}

/// The first number of a key.
fn owner(table: Table, key: &[u8]) -> u64 {
    let four = || key.first_chunk().map(|bytes| u64::from(u32::from_be_bytes(*bytes)));
    let eight = || key.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let number = match table {
        Table::Block | Table::Delete | Table::Node | Table::Volume => four(),
        _ => eight(),
    };
    number.unwrap_or(0)
}

fn is_owner_alone(table: Table) -> bool {
    match table {
        Table::Inode | Table::Lock | Table::Orphan | Table::Node | Table::Volume | Table::Session => true,
        Table::Dentry
        | Table::Extent
        | Table::Xattr
        | Table::LockBySession
        | Table::Block
        | Table::Delete => false,
    }
}

/// What is read of an inode.
struct Known {
    kind: FileKind,
    /// Bytes that its extents should hold, and do.
    allocated: u64,
    held: u64,
    /// Names that it should have as a directory, and has.
    entries: u64,
    found: u64,
    /// It has a name, or needs none.
    named: bool,
}

#[derive(Default)]
struct Tree {
    known: BTreeMap<Ino, Known>,
}

fn number(key: &[u8]) -> FsResult<Ino> {
    Ok(keys::ino_of(key.first_chunk().ok_or(FsError::Corrupt)?))
}

impl Tree {
    fn row(&mut self, table: Table, key: &[u8], value: &[u8]) -> FsResult<()> {
        match table {
            Table::Inode => self.inode(number(key)?, value),
            Table::Extent => self.extent(number(key)?, value),
            Table::Orphan => {
                if let Some(known) = self.known.get_mut(&number(key)?) {
                    known.named = true;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn inode(&mut self, ino: Ino, value: &[u8]) -> FsResult<()> {
        let inode = values::decode_inode(ino, value)?;
        let (kind, allocated, entries) = (inode.attr.kind, inode.attr.allocated, inode.entries);
        let known = Known { kind, allocated, held: 0, entries, found: 0, named: ino == Ino::ROOT };
        self.known.insert(ino, known);
        Ok(())
    }

    fn extent(&mut self, ino: Ino, value: &[u8]) -> FsResult<()> {
        let length = values::decode_extent(0, value)?.length;
        if let Some(known) = self.known.get_mut(&ino) {
            known.held = known.held.saturating_add(length);
        }
        Ok(())
    }

    fn nameless(&self) -> impl Iterator<Item = Ino> {
        self.known.iter().filter(|(_, known)| !known.named).map(|(ino, _)| *ino)
    }

    /// Directories that have lost names, each told once.
    fn without_names(&mut self, loss: &Loss, above: &Above, room: &mut usize) -> Named<File> {
        let mut files = Named::default();
        let (first, last) = (Ino(*loss.owners.start()), Ino(*loss.owners.end()));
        for (ino, known) in self.known.range_mut(first..=last) {
            let lost = known.entries.saturating_sub(known.found);
            known.found = known.entries;
            if known.kind == FileKind::Dir && lost > 0 {
                files.add(room, || File { path: above.path(*ino), names: lost });
            }
        }
        files
    }
}

type Place = (Ino, Bytes);

/// The place of each directory.
#[derive(Default)]
struct Above(BTreeMap<Ino, Place>);

impl Above {
    fn path(&self, ino: Ino) -> Bytes {
        let mut parts = Vec::new();
        let mut at = ino;
        // Damage may lead round in a circle.
        while let Some((parent, name)) = self.0.get(&at)
            && parts.len() <= self.0.len()
        {
            parts.push(name);
            at = *parent;
        }
        let mut path = if at == Ino::ROOT { Vec::new() } else { format!("(inode {at})").into_bytes() };
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(part);
        }
        if path.is_empty() { Bytes::from_static(b"/") } else { path.into() }
    }

    fn path_in(&self, (parent, name): &Place) -> Bytes {
        let mut path = match self.path(*parent) {
            root if root == "/" => Vec::new(),
            parent => parent.to_vec(),
        };
        path.push(b'/');
        path.extend_from_slice(name);
        path.into()
    }
}

/// Reads the names.
struct Names<'n> {
    tree: &'n mut Tree,
    losses: &'n [Loss],
    above: Above,
    /// For each loss.
    found: Vec<Named<Place>>,
    room: usize,
}

impl<'n> Names<'n> {
    fn new(tree: &'n mut Tree, losses: &'n [Loss]) -> Names<'n> {
        let found = losses.iter().map(|_| Named::default()).collect();
        Names { tree, losses, above: Above::default(), found, room: NAMED_MAX }
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> FsResult<()> {
        let key: &[u8; 16] = key.try_into().map_err(|_| FsError::Corrupt)?;
        let parent = Ino(keys::first_of(key));
        let dentry = values::decode_dentry(keys::second_of(key), value)?;
        if dentry.ino == Ino(0) {
            // Of a name that was removed.
            return Ok(());
        }
        if let Some(above) = self.tree.known.get_mut(&parent) {
            above.found += 1;
        }
        let known = self.tree.known.get_mut(&dentry.ino).map(|known| {
            known.named = true;
            &*known
        });
        for (loss, found) in self.losses.iter().zip(&mut self.found) {
            if loss.touches(dentry.ino, known) {
                found.add(&mut self.room, || (parent, dentry.name.clone()));
            }
        }
        if dentry.kind == FileKind::Dir {
            self.above.0.insert(dentry.ino, (parent, dentry.name));
        }
        Ok(())
    }

    /// All paths, as all directories are known by now.
    fn end(mut self, room: &mut usize) -> (Above, Vec<Named<File>>) {
        *room = self.room;
        // No name leads to the root.
        for (loss, found) in self.losses.iter().zip(&mut self.found) {
            if loss.touches(Ino::ROOT, self.tree.known.get(&Ino::ROOT)) {
                found.add(room, || (Ino::ROOT, Bytes::new()));
            }
        }
        let above = self.above;
        let file = |place: Place| File { path: above.path_in(&place), names: 0 };
        let named = |found: Named<Place>| Named {
            some: found.some.into_iter().map(file).collect(),
            more: found.more,
        };
        let files = self.found.into_iter().map(named).collect();
        (above, files)
    }
}
