//! fuser's requests to calls of [`FuseOps`], one method each: copies what is borrowed. No decisions.

use super::convert::{self, caller, errno, ino, name};
use super::dispatch::Adapter;
use super::flags;
use super::interrupt::Delivery;
use super::near;
use super::ops::{CopyRange, Fh, FuseOps, Make, ReadAt, Seek, WriteAt};
use super::reply::{Answer, DirBuffer, XattrAnswer};
use super::task::{Begin, Target};
use crate::store_all;
use bytes::Bytes;
use cairn_common::attr::FileKind;
use cairn_common::error::FsError;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, ForgetOne, INodeNo,
    InterruptReply, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, RequestId, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

impl<O: FuseOps> Filesystem for Adapter<O> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        flags::negotiate(config);
        Ok(())
    }

    fn destroy(&mut self) {
        self.ops.destroy();
        self.ended.cancel();
    }

    fn interrupt(&self, _req: &Request, unique: RequestId) -> InterruptReply {
        match self.interrupts.deliver(unique.0) {
            Delivery::Done => InterruptReply::Accepted,
            Delivery::TryAgain => InterruptReply::Requeue,
        }
    }

    // --- Names

    fn lookup(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        let now = |ops: &O| ops.try_lookup(&caller(req), ino(parent), child.as_bytes());
        self.try_query(req, reply, now, |ops| ops.lookup(caller(req), ino(parent), name(child)));
    }

    fn forget(&self, _req: &Request, number: INodeNo, nlookup: u64) {
        self.ops.forget(ino(number), nlookup);
    }

    fn batch_forget(&self, _req: &Request, nodes: &[ForgetOne]) {
        for node in nodes {
            self.ops.forget(ino(node.nodeid()), node.nlookup());
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = FileKind::from_mode(mode) else {
            return reply.error(errno(FsError::Invalid));
        };
        let (perm, umask) = (convert::perm(mode), convert::perm(umask));
        self.make(req, Make { parent: ino(parent), name: name(child), kind, perm, umask, rdev }, reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, child: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (perm, umask) = (convert::perm(mode), convert::perm(umask));
        let (parent, name, kind) = (ino(parent), name(child), FileKind::Dir);
        self.make(req, Make { parent, name, kind, perm, umask, rdev: 0 }, reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, child: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        self.change(req, reply, |ops| ops.symlink(caller(req), ino(parent), name(child), target));
    }

    fn readlink(&self, req: &Request, number: INodeNo, reply: ReplyData) {
        self.query(req, reply, |ops| ops.readlink(ino(number)));
    }

    fn link(&self, req: &Request, number: INodeNo, parent: INodeNo, child: &OsStr, reply: ReplyEntry) {
        self.change(req, reply, |ops| ops.link(caller(req), ino(number), ino(parent), name(child)));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        self.change(req, reply, |ops| ops.unlink(caller(req), ino(parent), name(child)));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, child: &OsStr, reply: ReplyEmpty) {
        self.change(req, reply, |ops| ops.rmdir(caller(req), ino(parent), name(child)));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        new_parent: INodeNo,
        new_child: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((ino(parent), name(child)), (ino(new_parent), name(new_child)));
        self.change(req, reply, |ops| ops.rename(caller(req), from, to, flags.bits()));
    }

    // --- Attributes

    fn getattr(&self, req: &Request, number: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let fh = fh.map(|fh| Fh(fh.0));
        let now = |ops: &O| ops.try_getattr(&caller(req), ino(number), fh);
        self.try_query(req, reply, now, |ops| ops.getattr(caller(req), ino(number), fh));
    }

    fn setattr(
        &self,
        req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        kill_suidgid: bool,
        reply: ReplyAttr,
    ) {
        let set = convert::set_attr(mode, (uid, gid), size, (atime, mtime), kill_suidgid);
        let fh = fh.map(|fh| Fh(fh.0));
        self.change(req, reply, |ops| ops.setattr(caller(req), ino(number), fh, set));
    }

    fn getxattr(&self, req: &Request, number: INodeNo, key: &OsStr, size: u32, reply: ReplyXattr) {
        let reply = XattrAnswer { reply, size };
        let now = |ops: &O| ops.try_getxattr(&caller(req), ino(number), key.as_bytes());
        self.try_query(req, reply, now, |ops| ops.getxattr(caller(req), ino(number), name(key)));
    }

    fn listxattr(&self, req: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let reply = XattrAnswer { reply, size };
        self.query(req, reply, |ops| ops.listxattr(caller(req), ino(number)));
    }

    fn setxattr(
        &self,
        req: &Request,
        number: INodeNo,
        key: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let value = Bytes::copy_from_slice(value);
        match convert::xattr_mode(flags) {
            Ok(mode) => {
                self.change(req, reply, |ops| ops.setxattr(caller(req), ino(number), name(key), value, mode));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn removexattr(&self, req: &Request, number: INodeNo, key: &OsStr, reply: ReplyEmpty) {
        self.change(req, reply, |ops| ops.removexattr(caller(req), ino(number), name(key)));
    }

    fn statfs(&self, req: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let now = |ops: &O| ops.try_statfs();
        self.try_query(req, reply, now, |ops| ops.statfs());
    }

    /// The kernel checks permissions itself (`default_permissions`); told this once, it never asks.
    fn access(&self, _req: &Request, _number: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    // --- Files

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        child: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        _kill_suidgid: bool,
        reply: ReplyCreate,
    ) {
        let make = Make {
            parent: ino(parent),
            name: name(child),
            kind: FileKind::File,
            perm: convert::perm(mode),
            umask: convert::perm(umask),
            rdev: 0,
        };
        let target = Target { flags, ..Target::NONE };
        self.try_change(req, reply, target, |_ops| None, |ops| ops.create(caller(req), make, flags));
    }

    fn tmpfile(&self, req: &Request, parent: INodeNo, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let (perm, umask) = (convert::perm(mode), convert::perm(umask));
        let target = Target { flags, ..Target::NONE };
        let later = |ops: Arc<O>| ops.tmpfile(caller(req), ino(parent), perm, umask, flags);
        self.try_change(req, reply, target, |_ops| None, later);
    }

    fn open(&self, req: &Request, number: INodeNo, flags: OpenFlags, _kill_suidgid: bool, reply: ReplyOpen) {
        let (ino, flags) = (ino(number), flags.0);
        let now = |ops: &O| ops.try_open(ino, flags);
        let later = |ops: Arc<O>| ops.open(ino, flags);
        self.try_change(req, reply, Target { ino, dir: false, flags }, now, later);
    }

    fn read(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        near::moves(size as usize);
        let read = ReadAt { ino: ino(number), fh: Fh(fh.0), offset, size, flags: flags.0 };
        let now = |ops: &O| ops.try_read(&read);
        self.try_query(req, reply, now, |ops| ops.read(read));
    }

    fn write(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        near::moves(data.len());
        let write = WriteAt {
            ino: ino(number),
            fh: Fh(fh.0),
            offset,
            flags: flags.0,
            from_mapping: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            kill_suidgid: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        };
        let now = |ops: &O| ops.try_write(&caller(req), &write, data);
        let later = |ops: Arc<O>| ops.write(caller(req), write, Bytes::copy_from_slice(data));
        self.try_change(req, reply, Target::NONE, now, later);
    }

    fn flush(&self, req: &Request, number: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let (ino, fh) = (ino(number), Fh(fh.0));
        let now = |ops: &O| ops.try_flush(ino, fh, owner.0);
        let later = |ops: Arc<O>| ops.flush(caller(req), ino, fh, owner.0);
        self.try_begin(req, reply, Target::NONE, Begin::Now, now, later);
    }

    fn release(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (ino, fh, owner) = (ino(number), Fh(fh.0), lock_owner.map(|owner| owner.0));
        let now = |ops: &O| ops.try_release(ino, fh, flags.0, owner);
        let later = |ops: Arc<O>| ops.release(ino, fh, flags.0, owner);
        self.try_begin(req, reply, Target::NONE, Begin::Now, now, later);
    }

    fn fsync(&self, req: &Request, number: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.change(req, reply, |ops| ops.fsync(ino(number), Fh(fh.0), datasync));
    }

    fn fallocate(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match convert::fallocate_mode(mode) {
            Ok(mode) => self.change(req, reply, |ops| {
                ops.fallocate(caller(req), ino(number), Fh(fh.0), mode, offset, length)
            }),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn lseek(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(errno(FsError::Invalid)),
        };
        match u64::try_from(offset) {
            Ok(offset) => self.query(req, reply, |ops| ops.seek(ino(number), Fh(fh.0), offset, seek)),
            Err(_negative) => reply.error(errno(FsError::NoData)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        from: INodeNo,
        from_fh: FileHandle,
        from_offset: u64,
        to: INodeNo,
        to_fh: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copy = CopyRange {
            from: ino(from),
            from_fh: Fh(from_fh.0),
            from_offset,
            to: ino(to),
            to_fh: Fh(to_fh.0),
            to_offset,
            length: length.min(u64::from(u32::MAX)),
        };
        self.change(req, reply, |ops| ops.copy_range(caller(req), copy));
    }

    // --- Directories

    fn opendir(&self, req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (ino, flags) = (ino(number), flags.0);
        let now = |ops: &O| ops.try_opendir(&caller(req), ino, flags);
        let later = |ops: Arc<O>| ops.opendir(caller(req), ino, flags);
        self.try_change(req, reply, Target { ino, dir: true, flags }, now, later);
    }

    fn readdir(&self, req: &Request, dir: INodeNo, fh: FileHandle, cookie: u64, reply: ReplyDirectory) {
        self.list(req, dir, fh, cookie, DirBuffer::Plain(reply));
    }

    fn readdirplus(
        &self,
        req: &Request,
        dir: INodeNo,
        fh: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list(req, dir, fh, cookie, DirBuffer::Plus(reply));
    }

    fn releasedir(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let (ino, fh) = (ino(number), Fh(fh.0));
        let now = |ops: &O| ops.try_releasedir(ino, fh, flags.0);
        let later = |ops: Arc<O>| ops.releasedir(ino, fh, flags.0);
        self.try_begin(req, reply, Target::NONE, Begin::Now, now, later);
    }

    fn fsyncdir(&self, req: &Request, number: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.change(req, reply, |ops| ops.fsyncdir(ino(number), Fh(fh.0), datasync));
    }

    // --- Locks

    fn getlk(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        flock: bool,
        reply: ReplyLock,
    ) {
        match convert::lock_request(owner.0, flock, (start, end), kind, pid) {
            Ok(lock) => {
                self.query(req, reply, |ops| ops.getlk(caller(req), ino(number), Fh(fh.0), lock));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setlk(
        &self,
        req: &Request,
        number: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        wait: bool,
        flock: bool,
        reply: ReplyEmpty,
    ) {
        let lock = match convert::lock_request(owner.0, flock, (start, end), kind, pid) {
            Ok(lock) => lock,
            Err(error) => return reply.error(errno(error)),
        };
        // Neither dropped nor let go: only the call itself knows whether it holds the lock.
        let interrupt = self.interrupts.register(req.unique().0, req.pid());
        let ops = Arc::clone(&self.ops);
        let call = ops.setlk(caller(req), ino(number), Fh(fh.0), lock, wait, interrupt);
        self.runtime.spawn(async move { reply.answer(call.await) });
    }

    fn ioctl(
        &self,
        req: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        if cmd == store_all::COMMAND {
            // Whoever waits for it may leave at any time.
            self.query(req, reply, |ops| ops.store_all());
        } else {
            // Without a word in the log, where fuser's default warns.
            reply.error(Errno::ENOTTY);
        }
    }

    // --- What we do not offer. Answered without a word in the log, where fuser's defaults warn.

    fn poll(
        &self,
        _req: &Request,
        _number: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS); // Always ready; the kernel does not ask again.
    }

    fn bmap(&self, _req: &Request, _number: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }
}
