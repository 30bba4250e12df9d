//! Opens and extents of files.

use super::Meta;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, SessionId};
use cairn_common::namespace as tree;
use cairn_common::proto::meta::{CloseItem, ExtentPage, OpenReply};

/// Registers an open, waits until nobody caches against it, and answers with the first extents.
pub async fn open(meta: &Meta, session: SessionId, ino: Ino, write: bool) -> FsResult<OpenReply> {
    meta.sessions.recovered().await;
    let (opened, waiting) =
        meta.sessions.enter_wait(session, |leases| match leases.open(session, ino, write) {
            Ok(opened) => (Ok(opened), opened.wait),
            Err(error) => (Err(error), None),
        })?;
    let opened = opened?;
    // Counted from here on; undone if the answer never gets to the mount's door.
    let registered = Registered { meta, session, ino, write, keep: false };
    if let Some(waiting) = waiting {
        // What another mount has written of it can't be stored now: not opened, rather than without that.
        waiting.done().await?;
    }
    let (attr, extents) = meta.machine.read(|snapshot| {
        let attr = tree::getattr(snapshot, ino)?;
        Ok((attr, tree::extents(snapshot, ino, 0, u64::MAX)?))
    })?;
    registered.keep();
    Ok(OpenReply { attr, lease: opened.lease, generation: opened.generation, extents })
}

/// An open in the table whose answer is not ready yet.
struct Registered<'a> {
    meta: &'a Meta,
    session: SessionId,
    ino: Ino,
    write: bool,
    keep: bool,
}

impl Registered<'_> {
    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if !self.keep {
            let item = CloseItem { ino: self.ino, opens: 1, writers: u32::from(self.write) };
            self.meta.sessions.tell(|leases| leases.close(self.session, item));
        }
    }
}

/// A page of a file's extents, after whoever caches writes of it has flushed.
pub async fn extents(
    meta: &Meta,
    session: SessionId,
    ino: Ino,
    start: u64,
    end: u64,
) -> FsResult<ExtentPage> {
    if start > end {
        return Err(FsError::Invalid);
    }
    super::look::settle(meta, session, &[ino]).await?;
    meta.machine.read(|snapshot| tree::extents(snapshot, ino, start, end))
}
