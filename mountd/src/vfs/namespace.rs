//! Names: every change is an operation that is waited for; the rules are the server's.

use super::Vfs;
use super::dirs::Change;
use super::names::Names;
use crate::client::{DataClient, MetaClient};
use crate::fuse::ops::{Entry, Lookup, Make};
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, FileKind};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, Seq};
use cairn_common::limits::NAME_MAX;
use cairn_common::namespace::op::{Create, Name, OpBody, OpReply, Rename};
use std::sync::atomic::Ordering;
use std::time::Duration;

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// What the kernel is told of an inode.
    pub(super) fn entry(&self, attr: Attr) -> Entry {
        let entry_ttl = self.policy.entry_ttl();
        let attr_ttl = self.attr_ttl(&attr);
        let attr = Attr { ino: self.to_kernel(attr.ino), ..attr };
        Entry { attr, generation: 0, entry_ttl, attr_ttl }
    }

    /// How long the kernel may keep these attributes.
    pub(super) fn attr_ttl(&self, attr: &Attr) -> Duration {
        let ttl = self.policy.attr_ttl();
        if ttl.is_zero() || attr.kind != FileKind::Dir || attr.ino == self.config.root {
            return ttl;
        }
        let take_back = |ino| self.notify.get().is_some_and(|threads| threads.post(self.no_attributes(ino)));
        if self.dirs.grant(attr.ino, take_back) { ttl } else { Duration::ZERO }
    }

    pub(super) async fn find(&self, parent: Ino, name: Name) -> FsResult<Lookup> {
        if parent == self.config.root && &name[..] == b".." {
            // Asked for by handles of exported file systems; there is nothing above for this mount.
            return Ok(Lookup::Found(self.entry(self.attr_now(parent).await?)));
        }
        let moment = self.recent.now();
        match self.meta.lookup(parent, name).await {
            Ok(attr) if self.recent.changed_since(attr.ino, moment) => {
                Ok(Lookup::Found(self.entry(self.attr_now(attr.ino).await?)))
            }
            Ok(attr) => Ok(Lookup::Found(self.entry(self.overlaid(attr)))),
            Err(FsError::NotFound) => Ok(Lookup::Missing { ttl: self.policy.entry_ttl() }),
            Err(error) => Err(error),
        }
    }

    /// A name that is certainly not there.
    pub(super) fn find_missing(&self, parent: Ino, name: &[u8]) -> Option<Lookup> {
        // Names that cannot be there for other reasons are answered by the rules.
        let plain = name != b"." && name != b".." && name.len() <= NAME_MAX;
        let missing = plain && self.policy.is_sole() && self.names.lacks(parent, name);
        missing.then(|| Lookup::Missing { ttl: self.policy.entry_ttl() })
    }

    pub(super) async fn make_node(&self, caller: &Caller, make: Make) -> FsResult<Attr> {
        let Make { parent, name, kind, perm, umask, rdev } = make;
        let ino = self.new_ino().await?;
        let create = Create { parent, name, ino, kind, perm, umask, rdev, exclusive: true, open: false };
        self.new_entry(caller, parent, OpBody::Create(create)).await
    }

    pub(super) async fn make_symlink(
        &self,
        caller: &Caller,
        parent: Ino,
        name: Name,
        target: Bytes,
    ) -> FsResult<Attr> {
        let ino = self.new_ino().await?;
        self.new_entry(caller, parent, OpBody::Symlink { parent, name, ino, target }).await
    }

    pub(super) async fn make_link(
        &self,
        caller: &Caller,
        ino: Ino,
        parent: Ino,
        name: Name,
    ) -> FsResult<Attr> {
        let attr = self.new_entry(caller, parent, OpBody::Link { ino, parent, name }).await?;
        if let Some(inode) = self.inodes.get(ino) {
            inode.lock().unlinked = false;
        }
        Ok(self.overlaid(attr))
    }

    async fn new_entry(&self, caller: &Caller, parent: Ino, body: OpBody) -> FsResult<Attr> {
        let (reply, seq) = self.change_in(caller, parent, body).await?;
        let attr = super::attr_of(&reply).ok_or(FsError::Io)?;
        self.note_attr(attr, seq);
        Ok(attr)
    }

    /// An operation on one name in `dir`.
    pub(super) async fn change_in(
        &self,
        caller: &Caller,
        dir: Ino,
        body: OpBody,
    ) -> FsResult<(OpReply, Seq)> {
        let time = self.meta.now();
        let is_rmdir = matches!(body, OpBody::Rmdir { .. });
        let is_unnamed = matches!(body, OpBody::Tmpfile { .. });
        let naming = Naming::of(&body);
        let era = self.names.era();
        let new_dir = match &body {
            OpBody::Create(create) if create.kind == FileKind::Dir => Some(create.ino),
            _ => None,
        };
        self.dirs.begin(dir);
        new_dir.into_iter().for_each(|made| self.names.expect(made));
        naming.begin(&self.names, dir);
        let ticket = self.meta.submit_at(time, caller, body);
        let seq = ticket.seq;
        let result = ticket.await;
        naming.end(&self.names, dir, seq, result.is_ok());
        match (&result, new_dir) {
            (Ok(OpReply::Entry { created: true, .. }), Some(made)) => self.names.born(made, era),
            (_, Some(made)) => self.names.forget(made),
            _ => {}
        }
        let change = match &result {
            Ok(OpReply::Entry { .. }) if is_unnamed => Change::Nothing,
            Ok(OpReply::Entry { attr, created: true }) => Change::Added(attr.kind),
            Ok(OpReply::Entry { .. }) | Err(_) => Change::Nothing,
            Ok(OpReply::Unlinked { .. }) if is_rmdir => Change::Removed(FileKind::Dir),
            // Whether it was a file or a fifo makes no difference to the directory.
            Ok(OpReply::Unlinked { .. }) => Change::Removed(FileKind::File),
            Ok(_) => Change::Unknown,
        };
        self.recent.mark(dir);
        self.dirs.end(dir, seq, time, change);
        result.map(|reply| (reply, seq))
    }

    pub(super) async fn remove(&self, caller: &Caller, parent: Ino, body: OpBody) -> FsResult<()> {
        if let (OpReply::Unlinked { ino, nlink }, _) = self.change_in(caller, parent, body).await? {
            self.lost_name(ino, nlink);
        }
        Ok(())
    }

    /// `ino` has lost a name; with none left and nobody who has it open, its dirty data is of no use.
    fn lost_name(&self, ino: Ino, nlink: u32) {
        self.recent.mark(ino);
        self.dirs.forget(ino);
        self.names.forget(ino);
        let Some(inode) = self.inodes.get(ino) else { return };
        let mut state = inode.lock();
        state.stamp += 1;
        // Its attributes have changed in a way that the answer does not tell.
        state.attr_epoch = u64::MAX;
        state.unlinked = nlink == 0;
        self.discard_later(ino, &state);
        drop(state);
        self.retire(ino);
    }

    pub(super) async fn rename_entry(
        &self,
        caller: &Caller,
        from: (Ino, Name),
        to: (Ino, Name),
        flags: u32,
    ) -> FsResult<()> {
        let target_is_new = self.names.lacks(to.0, &to.1);
        let plain = flags & !libc::RENAME_NOREPLACE == 0;
        let (old, new) = (from.clone(), to.clone());
        let whiteout = if flags & libc::RENAME_WHITEOUT == 0 { Ino(0) } else { self.new_ino().await? };
        let rename =
            Rename { parent: from.0, name: from.1, new_parent: to.0, new_name: to.1, flags, whiteout };
        let time = self.meta.now();
        self.dirs.begin(from.0);
        self.dirs.begin(to.0);
        self.names.adding(new.0, &new.1);
        let ticket = self.meta.submit_at(time, caller, OpBody::Rename(rename));
        let seq = ticket.seq;
        let result = ticket.await;
        self.names.added(new.0, &new.1, seq);
        // Onto a link of the same inode it does nothing, and the old name stays.
        let replaced = matches!(&result, Ok(OpReply::Renamed { replaced: Some(_) }));
        if result.is_ok() && plain && (target_is_new || replaced) {
            self.names.removed(old.0, &old.1, seq);
        }
        // The moved inodes have new times, and the answer does not tell which they are.
        self.attr_epoch.fetch_add(1, Ordering::SeqCst);
        for dir in [from.0, to.0] {
            self.recent.mark(dir);
        }
        // Nor whether it changed anything: a rename onto a link of the same inode does not.
        let change = if result.is_ok() { Change::Unknown } else { Change::Nothing };
        self.dirs.end(from.0, seq, time, change);
        self.dirs.end(to.0, seq, time, change);
        if let OpReply::Renamed { replaced: Some((ino, nlink)) } = result? {
            self.lost_name(ino, nlink);
        }
        Ok(())
    }
}

/// What an operation in a directory does to its names.
enum Naming {
    Adds(Name),
    Removes(Name),
    Nothing,
}

impl Naming {
    fn of(body: &OpBody) -> Naming {
        match body {
            OpBody::Create(Create { name, .. })
            | OpBody::Symlink { name, .. }
            | OpBody::Link { name, .. } => Naming::Adds(name.clone()),
            OpBody::Unlink { name, .. } | OpBody::Rmdir { name, .. } => Naming::Removes(name.clone()),
            _ => Naming::Nothing,
        }
    }

    fn begin(&self, names: &Names, dir: Ino) {
        if let Naming::Adds(name) = self {
            names.adding(dir, name);
        }
    }

    fn end(&self, names: &Names, dir: Ino, seq: Seq, done: bool) {
        match self {
            Naming::Adds(name) => names.added(dir, name, seq),
            Naming::Removes(name) if done => names.removed(dir, name, seq),
            Naming::Removes(_) | Naming::Nothing => {}
        }
    }
}
