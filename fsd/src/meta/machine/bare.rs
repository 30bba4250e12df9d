//! A machine's directory as its files lie there, without a daemon: for who checks it or writes it down. Nothing on
//! disk is changed: what recovery does to the files stays in memory.

use super::core::Core;
use super::open::{DATA_FILE, Found, contained, find, open_store, refuse_half_loaded, tables_failed};
use super::{OpenError, read_contained};
use crate::disk::{Disk, Overlay, RealDisk};
use crate::durable::DirLock;
use crate::meta::losses::{self, Losses};
use crate::meta::tables::{Files, Snapshot, State, Store, Survey, View};
use cairn_common::error::FsResult;
use cairn_common::ids::{ClusterId, SessionId};
use std::path::Path;
use std::sync::Arc;

/// Bytes of redb's cache.
const CACHE: usize = 64 << 20;

/// A directory that nobody else changes as long as this exists.
pub struct BareDir {
    disk: Arc<dyn Disk>,
    _lock: Option<DirLock>,
}

impl BareDir {
    /// Keeps daemons out of the directory.
    pub fn open(dir: &Path) -> Result<BareDir, OpenError> {
        DirLock::refuse(dir, DATA_FILE, "data")?;
        let lock = DirLock::share(dir)?;
        let failed = |source| OpenError::Io { path: dir.to_owned(), source };
        Ok(BareDir { disk: Arc::new(RealDisk::read_only(dir).map_err(failed)?), _lock: Some(lock) })
    }

    /// Any disk, which the caller lets nobody change.
    pub fn on(disk: Arc<dyn Disk>) -> BareDir {
        BareDir { disk, _lock: None }
    }

    /// Compares each page of the tables with its checksum. Reads the whole file; a daemon, and [`BareDir::load`], read
    /// the pages without that. `Corrupt` says what does not match.
    pub fn verify(&self) -> Result<(), OpenError> {
        refuse_half_loaded(&*self.disk)?;
        contained(|| Ok(open_store(&Overlay::new(self.disk.clone()), CACHE)?.verify()?))
    }

    /// What pages that can't be read touch, in the tables as of the last checkpoint. `Corrupt` if so much is damaged that
    /// nothing can be told.
    pub fn losses(&self) -> Result<Losses, OpenError> {
        refuse_half_loaded(&*self.disk)?;
        contained(|| {
            let files = Files::open(&Overlay::new(self.disk.clone())).map_err(tables_failed)?;
            Ok(losses::find(&mut Survey::open(files)?)?)
        })
    }

    /// The state: the last checkpoint, with what the log has behind it.
    pub fn load(&self) -> Result<Bare, OpenError> {
        refuse_half_loaded(&*self.disk)?;
        contained(|| Bare::new(find(&Overlay::new(self.disk.clone()), CACHE)?))
    }
}

/// See the module.
pub struct Bare {
    core: Core,
    view: Arc<View>,
    /// What the view's base is read from.
    _store: Store,
}

impl Bare {
    fn new(found: Found) -> Result<Bare, OpenError> {
        let Found { store, mut core, .. } = found;
        core.store_sessions().map_err(|error| OpenError::Corrupt(format!("a session: {error}")))?;
        let view = core.shown().ok_or_else(|| OpenError::Corrupt("no tables".into()))?;
        Ok(Bare { core, view, _store: store })
    }

    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.core.state.cluster
    }

    /// Counters and positions.
    #[must_use]
    pub fn state(&self) -> State {
        self.core.state
    }

    /// Reads the state. `Corrupt` if what is read is damaged.
    pub fn read<T>(&self, f: impl FnOnce(&Snapshot) -> FsResult<T>) -> FsResult<T> {
        let snapshot = Snapshot::new(self.view.clone(), self.core.state.totals);
        read_contained(|| f(&snapshot))
    }

    /// Whether this was a session that is over. Not true of one that was never given.
    #[must_use]
    pub fn has_ended(&self, session: SessionId) -> bool {
        self.core.state.was_given(session) && self.core.sessions.get(session).is_none()
    }
}
