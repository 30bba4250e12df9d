//! Results become replies: for each kind of request, how an answer of [`super::ops`] is sent.

use super::convert::{errno, file_attr, file_type, fopen_flags};
use super::ops::{
    AttrReply, Created, DirEntry, Entry, FuseOps, LockInfo, Lookup, Opened, ReadData, ReadDir, Segment,
    StatFs,
};
use crate::store_all;
use bytes::Bytes;
use cairn_common::error::{FsError, FsResult};
use fuser::{
    FileHandle, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr,
};
use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A request that waits for a `T`. It is answered exactly once: dropped, it answers EIO.
pub trait Answer<T>: Send + 'static {
    fn answer(self, result: FsResult<T>);
}

/// What holes are sent from.
static ZEROS: [u8; 128 << 10] = [0; 128 << 10];
/// `writev` takes 1024 pieces, one of which is the header; past this many, data is joined.
const SEGMENTS_MAX: usize = 512;

macro_rules! answer {
    ($reply:ident, $value:ty, |$r:ident, $v:ident| $send:expr) => {
        impl Answer<$value> for $reply {
            fn answer(self, result: FsResult<$value>) {
                let $r = self;
                match result {
                    Ok($v) => $send,
                    Err(error) => $r.error(errno(error)),
                }
            }
        }
    };
}

answer!(ReplyEmpty, (), |reply, _done| reply.ok());
answer!(ReplyIoctl, (), |reply, _done| reply.ioctl(0, &store_all::answer()));
answer!(ReplyEntry, Entry, |reply, entry| send_entry(reply, &entry));
answer!(ReplyEntry, Lookup, |reply, lookup| match lookup {
    Lookup::Found(entry) => send_entry(reply, &entry),
    Lookup::Missing { ttl } => reply.negative(&ttl),
});
answer!(ReplyAttr, AttrReply, |reply, attr| reply.attr(&attr.ttl, &file_attr(&attr.attr)));
answer!(ReplyOpen, Opened, |reply, opened| reply.opened(FileHandle(opened.fh.0), fopen_flags(&opened)));
answer!(ReplyCreate, Created, |reply, created| {
    let Created { entry, opened } = created;
    reply.created_with_ttls(
        &entry.entry_ttl,
        &entry.attr_ttl,
        &file_attr(&entry.attr),
        Generation(entry.generation),
        FileHandle(opened.fh.0),
        fopen_flags(&opened),
    );
});
answer!(ReplyData, Bytes, |reply, bytes| reply.data(&bytes));
answer!(ReplyData, ReadData, |reply, data| send_data(reply, &data));
answer!(ReplyWrite, u32, |reply, count| reply.written(count));
// The request asks for less than 4 GiB, and no more than asked for is copied.
answer!(ReplyWrite, u64, |reply, count| reply.written(u32::try_from(count).unwrap_or(u32::MAX)));
answer!(ReplyLseek, u64, |reply, offset| match i64::try_from(offset) {
    Ok(offset) => reply.offset(offset),
    Err(_) => reply.error(errno(FsError::Range)),
});
answer!(ReplyStatfs, StatFs, |reply, s| {
    reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize);
});
answer!(ReplyLock, Option<LockInfo>, |reply, lock| match lock {
    None => reply.locked(0, 0, libc::F_UNLCK, 0),
    Some(lock) => {
        let kind = if lock.write { libc::F_WRLCK } else { libc::F_RDLCK };
        reply.locked(lock.start, lock.end, kind, lock.pid);
    }
});

fn send_entry(reply: ReplyEntry, entry: &Entry) {
    let generation = Generation(entry.generation);
    reply.entry_with_ttls(&entry.attr_ttl, &entry.entry_ttl, &file_attr(&entry.attr), generation);
}

fn send_data(reply: ReplyData, data: &ReadData) {
    let mut segments = data.segments();
    match (segments.next(), segments.next()) {
        (None, _) => reply.data(&[]),
        (Some(Segment::Data(bytes)), None) => reply.data(bytes),
        _ => send_vectored(reply, data),
    }
}

fn send_vectored(reply: ReplyData, data: &ReadData) {
    let mut pieces = Vec::with_capacity(16);
    for segment in data.segments() {
        match segment {
            Segment::Data(bytes) => pieces.push(&bytes[..]),
            Segment::Zeros(length) => {
                pieces.extend(std::iter::repeat_n(&ZEROS[..], length / ZEROS.len()));
                pieces.push(&ZEROS[..length % ZEROS.len()]);
            }
        }
    }
    if pieces.len() > SEGMENTS_MAX {
        return reply.data(&pieces.concat());
    }
    let slices: Vec<IoSlice<'_>> = pieces.into_iter().map(IoSlice::new).collect();
    reply.data_vectored(&slices);
}

/// GETXATTR and LISTXATTR: the caller's buffer size decides what is sent. 0 asks for the size.
pub struct XattrAnswer {
    pub reply: ReplyXattr,
    pub size: u32,
}

impl XattrAnswer {
    fn send(self, value: &[u8]) {
        match (u32::try_from(value.len()), self.size) {
            (Ok(length), 0) => self.reply.size(length),
            (Ok(length), size) if length <= size => self.reply.data(value),
            _ => self.reply.error(errno(FsError::Range)),
        }
    }
}

impl Answer<Bytes> for XattrAnswer {
    fn answer(self, result: FsResult<Bytes>) {
        match result {
            Ok(value) => self.send(&value),
            Err(error) => self.reply.error(errno(error)),
        }
    }
}

impl Answer<Vec<Bytes>> for XattrAnswer {
    /// Names are sent one after the other, each ended by a NUL.
    fn answer(self, result: FsResult<Vec<Bytes>>) {
        match result {
            Ok(names) => {
                let length = names.iter().map(|name| name.len() + 1).sum();
                let mut list = Vec::with_capacity(length);
                for name in &names {
                    list.extend_from_slice(name);
                    list.push(0);
                }
                self.send(&list);
            }
            Err(error) => self.reply.error(errno(error)),
        }
    }
}

/// The buffer of a READDIR or READDIRPLUS request.
pub enum DirBuffer {
    Plain(ReplyDirectory),
    Plus(ReplyDirectoryPlus),
}

impl DirBuffer {
    pub fn max_bytes(&self) -> usize {
        match self {
            DirBuffer::Plain(reply) => reply.max_size(),
            DirBuffer::Plus(reply) => reply.max_size(),
        }
    }

    /// Adds an entry; false if it does not fit.
    fn add(&mut self, entry: &DirEntry) -> bool {
        let name = OsStr::from_bytes(&entry.name);
        let (ino, kind) = (INodeNo(entry.ino.0), file_type(entry.kind));
        let full = match (self, &entry.child) {
            (DirBuffer::Plain(reply), _) => reply.add(ino, entry.cookie, kind, name),
            (DirBuffer::Plus(reply), None) => reply.add_plain(ino, entry.cookie, kind, name),
            (DirBuffer::Plus(reply), Some(child)) => reply.add_with_ttls(
                INodeNo(child.attr.ino.0),
                entry.cookie,
                name,
                &child.entry_ttl,
                &child.attr_ttl,
                &file_attr(&child.attr),
                Generation(child.generation),
            ),
        };
        !full
    }

    fn ok(self) {
        match self {
            DirBuffer::Plain(reply) => reply.ok(),
            DirBuffer::Plus(reply) => reply.ok(),
        }
    }

    fn error(self, error: FsError) {
        match self {
            DirBuffer::Plain(reply) => reply.error(errno(error)),
            DirBuffer::Plus(reply) => reply.error(errno(error)),
        }
    }
}

/// A listing that waits for a page of entries: sends as many as fit, and says which they were.
pub struct DirAnswer<O> {
    pub buffer: DirBuffer,
    pub ops: Arc<O>,
    pub read: ReadDir,
}

impl<O: FuseOps> Answer<Vec<DirEntry>> for DirAnswer<O> {
    fn answer(mut self, result: FsResult<Vec<DirEntry>>) {
        match result {
            Ok(entries) => {
                let fit = entries.iter().take_while(|entry| self.buffer.add(entry)).count();
                if fit == 0 && !entries.is_empty() {
                    // An empty reply would mean the end of the directory.
                    return self.buffer.error(FsError::Invalid);
                }
                // Before the reply: a FORGET may follow it at once.
                self.ops.entries_sent(&self.read, &entries[..fit]);
                self.buffer.ok();
            }
            Err(error) => self.buffer.error(error),
        }
    }
}
