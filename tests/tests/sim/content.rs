//! What a directory has, down to the bytes of its files: not in which blocks they are, since cleaning moves them.

use crate::record::Stored;
use crate::work::names;
use bytes::Bytes;
use cairn_common::ids::{BlockRef, Ino};
use cairn_common::namespace::op::{Extent, ExtentData};
use cairn_common::namespace::tables::{Inode, Read};
use std::collections::BTreeMap;
use std::fmt;

/// The blocks that were stored.
pub type Blocks = BTreeMap<BlockRef, Stored>;

/// Everything of one entry.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    parent: Ino,
    name: Bytes,
    inode: Option<Inode>,
    content: Vec<Stretch>,
    xattrs: Vec<(Bytes, Option<Bytes>)>,
}

/// Where the bytes of a stretch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Blocks,
    Metadata,
    Nowhere,
}

/// A run of a file's bytes that are all in the same kind of place.
#[derive(PartialEq, Eq)]
struct Stretch {
    offset: u64,
    length: u64,
    place: Place,
    bytes: Vec<u8>,
}

impl fmt::Debug for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stretch { offset, length, place, bytes } = self;
        let sum = bytes.iter().fold(0u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
        write!(f, "{length} bytes at {offset} in {place:?}, sum {sum:08x}")
    }
}

impl Stretch {
    fn goes_on_in(&self, next: &Stretch) -> bool {
        self.place == next.place && self.offset + self.length == next.offset
    }
}

fn stretch(extent: Extent, blocks: &Blocks) -> Stretch {
    let Extent { offset, length, data } = extent;
    let (place, bytes) = match data {
        ExtentData::Block { block, offset: at } => {
            let stored = blocks.get(&block);
            let stored = stored.unwrap_or_else(|| panic!("nobody was told that block {block} is stored"));
            let at = at as usize;
            (Place::Blocks, stored.bytes[at..at + length as usize].to_vec())
        }
        ExtentData::Inline(bytes) => (Place::Metadata, bytes.to_vec()),
        ExtentData::Reserved => (Place::Nowhere, Vec::new()),
    };
    Stretch { offset, length, place, bytes }
}

fn content<T: Read + ?Sized>(tables: &T, ino: Ino, blocks: &Blocks) -> Vec<Stretch> {
    let mut content: Vec<Stretch> = Vec::new();
    let visit = &mut |extent| {
        let next = stretch(extent, blocks);
        match content.last_mut().filter(|last| last.goes_on_in(&next)) {
            Some(last) => {
                last.length += next.length;
                last.bytes.extend(next.bytes);
            }
            None => content.push(next),
        }
        true
    };
    tables.scan_extents(ino, 0, u64::MAX, visit).expect("readable tables");
    content
}

/// A directory and all below.
pub fn tree<T: Read + ?Sized>(tables: &T, dir: Ino, blocks: &Blocks) -> Vec<Node> {
    let node = |parent, name, ino| {
        let xattrs = tables.xattr_names(ino).expect("readable tables").into_iter();
        let xattrs = xattrs.map(|name| (name.clone(), tables.xattr(ino, &name).expect("readable tables")));
        let inode = tables.inode(ino).expect("readable tables");
        let content = content(tables, ino, blocks);
        Node { parent, name, inode, content, xattrs: xattrs.collect() }
    };
    let mut nodes = vec![node(Ino::ROOT, Bytes::new(), dir)];
    nodes.extend(names(tables, dir).into_iter().map(|named| node(named.parent, named.name, named.ino)));
    nodes
}
