//! Access times. The kernel leaves them to us, and shows us only reads that its own cache does not answer.
//! The first read by a handle may move the time; nobody waits for that.

use super::Vfs;
use super::handle::File;
use super::inode::Inode;
use crate::client::{DataClient, MetaClient, OpTicket};
use crate::options::AtimeMode;
use cairn_common::attr::{Attr, Caller, Timestamp};
use cairn_common::namespace::op::OpBody;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// With `relatime`, an access time older than this many seconds is moved in any case: a day, as in the kernel.
const STALE_SECS: i64 = 24 * 3600;

/// A time that has been sent, and whose answer is awaited.
pub(super) type Sent = (OpTicket, Option<Arc<Inode>>);

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// `file` has been read from.
    pub(super) fn note_read(&self, file: &File) {
        if self.config.atime == AtimeMode::Noatime || file.was_read.swap(true, Ordering::Relaxed) {
            return;
        }
        let now = self.meta.now();
        let due = {
            let state = file.inode.lock();
            // A shared file's attributes are not known here; another mount's open would tell.
            state.attr.is_some_and(|attr| self.config.atime.moves(&state.view(attr), now))
        };
        if !due {
            return;
        }
        let ino = file.inode.ino;
        let (ticket, inode) =
            self.submit_on(&Caller::default(), ino, OpBody::Touch { ino, atime: now }, |state| {
                if let Some(attr) = &mut state.attr {
                    attr.atime = attr.atime.max(now);
                }
            });
        // The receiver ends with the vfs only.
        let _ended = self.touched.send((ticket, inode));
    }
}

impl AtimeMode {
    /// Whether a read at `now` moves the access time.
    fn moves(self, attr: &Attr, now: Timestamp) -> bool {
        match self {
            AtimeMode::Noatime => false,
            AtimeMode::Strictatime => true,
            AtimeMode::Relatime => {
                attr.atime <= attr.mtime.max(attr.ctime) || now.secs - attr.atime.secs >= STALE_SECS
            }
        }
    }
}

/// Takes in the answers.
pub(super) async fn settle<M: MetaClient, D: DataClient>(
    vfs: Arc<Vfs<M, D>>,
    mut sent: mpsc::UnboundedReceiver<Sent>,
) {
    while let Some((ticket, inode)) = sent.recv().await {
        let Some(ino) = inode.as_ref().map(|inode| inode.ino) else { continue };
        if let Err(error) = vfs.settle(ino, ticket, inode).await {
            tracing::debug!(%ino, %error, "move access time");
        }
    }
}
