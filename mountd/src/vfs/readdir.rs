//! Directory streams. A page of the server holds more than the kernel asks for at a time; the rest is kept
//! for the next call, its attributes as long as nothing changed.

use super::Vfs;
use super::recent::Moment;
use crate::client::{DataClient, MetaClient};
use crate::fuse::ops::{DirEntry, ReadDir};
use bytes::Bytes;
use cairn_common::attr::FileKind;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::proto::meta::{self, DirPage};
use parking_lot::Mutex;
use std::sync::Arc;

/// Cookies of `.` and `..`; those of real entries are hashes, and above.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
/// Bytes of names asked of the server at a time.
const PAGE: u32 = 64 << 10;

/// An open directory.
#[derive(Debug)]
pub struct Stream {
    pub ino: Ino,
    page: Mutex<Option<Arc<Page>>>,
}

#[derive(Debug)]
struct Page {
    /// The page continues the listing after this entry.
    after: u64,
    /// When it was asked for.
    moment: Moment,
    plus: bool,
    body: DirPage,
}

impl Stream {
    #[must_use]
    pub fn new(ino: Ino) -> Stream {
        Stream { ino, page: Mutex::new(None) }
    }

    /// The page that holds what comes after `cookie`, and from which entry on.
    fn find(&self, cookie: u64, plus: bool) -> Option<(Arc<Page>, usize)> {
        let page = self.page.lock().clone()?;
        if plus && !page.plus {
            return None;
        }
        let entries = &page.body.entries;
        let start = if page.after == cookie {
            0
        } else {
            entries.iter().position(|entry| entry.cookie == cookie)? + 1
        };
        (start < entries.len() || page.body.end).then_some((page, start))
    }
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    pub(super) async fn list(&self, read: &ReadDir) -> FsResult<Vec<DirEntry>> {
        let stream = self.handles.dir(read.fh).ok_or(FsError::BadHandle)?;
        let mut out = Room { entries: Vec::new(), left: read.max_bytes, plus: read.plus };
        let after = if read.cookie <= DOT_DOT { 0 } else { read.cookie };
        let (page, start) = self.page(&stream, after, read.plus).await?;
        if read.cookie < DOT {
            out.push(dot(Bytes::from_static(b"."), self.to_kernel(stream.ino), DOT));
        }
        if read.cookie < DOT_DOT {
            let above = if stream.ino == self.config.root { stream.ino } else { page.body.parent };
            out.push(dot(Bytes::from_static(b".."), self.to_kernel(above), DOT_DOT));
        }
        for entry in &page.body.entries[start..] {
            if !out.push(self.dir_entry(entry, page.moment)) {
                break;
            }
        }
        Ok(out.entries)
    }

    async fn page(&self, stream: &Stream, after: u64, plus: bool) -> FsResult<(Arc<Page>, usize)> {
        // With nothing to be cached in the kernel, it asks for each name's attributes anyway.
        let plus = plus && !self.policy.attr_ttl().is_zero();
        // From the start again: a fresh listing, as rewinddir promises.
        if after != 0
            && let Some(found) = stream.find(after, plus)
        {
            return Ok(found);
        }
        let moment = self.recent.now();
        let body = self.meta.readdir(stream.ino, after, PAGE, plus).await?;
        let page = Arc::new(Page { after, moment, plus, body });
        *stream.page.lock() = Some(Arc::clone(&page));
        Ok((page, 0))
    }

    fn dir_entry(&self, entry: &meta::DirEntry, moment: Moment) -> DirEntry {
        let fresh = entry.attr.filter(|attr| !self.recent.changed_since(attr.ino, moment));
        DirEntry {
            name: entry.name.clone(),
            ino: self.to_kernel(entry.ino),
            kind: entry.kind,
            cookie: entry.cookie,
            child: fresh.map(|attr| self.entry(self.overlaid(attr))),
        }
    }
}

fn dot(name: Bytes, ino: Ino, cookie: u64) -> DirEntry {
    DirEntry { name, ino, kind: FileKind::Dir, cookie, child: None }
}

/// Entries as far as they fit the kernel's buffer.
struct Room {
    entries: Vec<DirEntry>,
    left: usize,
    plus: bool,
}

impl Room {
    fn push(&mut self, entry: DirEntry) -> bool {
        let header = if self.plus { 152 } else { 24 };
        let size = header + entry.name.len().next_multiple_of(8);
        if size > self.left {
            return false;
        }
        self.left -= size;
        self.entries.push(entry);
        true
    }
}
