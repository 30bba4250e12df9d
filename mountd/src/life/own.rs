//! The life file of this process, which follows its session.

use super::files::{Held, LifeFiles};
use cairn_common::attr::Timestamp;
use cairn_common::ids::{ClusterId, SessionId};
use parking_lot::Mutex;

/// See the module.
#[derive(Debug)]
pub struct OwnLife {
    files: LifeFiles,
    held: Mutex<Option<Held>>,
}

impl OwnLife {
    #[must_use]
    pub fn new(files: LifeFiles) -> OwnLife {
        OwnLife { files, held: Mutex::new(None) }
    }

    #[must_use]
    pub fn files(&self) -> &LifeFiles {
        &self.files
    }

    /// From now on this process lives for `session`. A few calls to the file system.
    pub fn is_for(&self, cluster: ClusterId, session: SessionId, opened: Option<Timestamp>) {
        // First: a server whose tables are an old copy may have given the same number again, and so the file the same name.
        self.is_over();
        *self.held.lock() = self.files.hold(cluster, session, opened);
    }

    /// The session has ended at the server. Without this call the file tells whoever finds it that it has to
    /// be ended, once this process is gone.
    pub fn is_over(&self) {
        let old = self.held.lock().take();
        remove(old);
    }
}

fn remove(held: Option<Held>) {
    // It stays, then, and whoever finds it ends a session that is over already.
    if let Some(Err(error)) = held.map(Held::remove) {
        tracing::debug!(%error, "life file not removed");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::life::BootId;

    #[test]
    fn the_file_follows_the_session() {
        const CLUSTER: ClusterId = ClusterId(5);
        let dir = tempfile::tempdir().unwrap();
        let files = LifeFiles::at(dir.path().to_owned(), BootId(1), String::new());
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        let own = OwnLife::new(files.clone());
        own.is_for(CLUSTER, SessionId(1), None);
        for opened in [3, 4] {
            own.is_for(CLUSTER, SessionId(2), Some(Timestamp { secs: opened, nanos: 0 }));
            assert_eq!(count(), 1);
        }
        own.is_over();
        own.is_over();
        assert_eq!(count(), 0);
        own.is_for(CLUSTER, SessionId(3), None);
        drop(own);
        assert_eq!(files.dead(CLUSTER)[0].session, SessionId(3));
    }
}
