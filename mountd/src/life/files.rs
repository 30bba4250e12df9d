//! Life files on the disk: holding one's own, finding those that nobody holds any more.
//!
//! Nothing is synced: after a restart of the machine no file proves anything, so none has to survive it.

use super::judge::{self, Named, TEMPORARY, Verdict, judge, named};
use super::place;
use super::record::{BootId, LifeRecord, RECORD_MAX};
use super::watch::Watch;
use cairn_common::attr::Timestamp;
use cairn_common::ids::{ClusterId, SessionId};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags, flock};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most names that are looked at.
const NAMES_MAX: usize = 65_536;
/// Most dead mounts found at a time; each has an open file.
const DEAD_MAX: usize = 128;
/// How often a file is made anew that somebody took for left behind.
const TRIES: u32 = 8;

/// The life files that this process can see, and how it makes its own. Clones share it.
#[derive(Clone, Debug)]
pub struct LifeFiles {
    /// `None`: there is no place for them.
    place: Option<Arc<Place>>,
}

#[derive(Debug)]
struct Place {
    dir: PathBuf,
    boot: BootId,
    /// For people: what this process mounts where.
    about: String,
    /// Files that were complained of: once is enough.
    reported: Mutex<HashSet<OsString>>,
}

/// The own life file, locked. Dropped without [`Held::remove`] it stays, and proves that its session can be ended.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    _lock: File,
}

/// A session whose mount is dead. Locked: nobody else finds it meanwhile.
#[derive(Debug)]
pub struct Dead {
    pub session: SessionId,
    /// When it was opened, if its server told.
    pub opened: Option<Timestamp>,
    /// For people: what was mounted where.
    pub about: String,
    file: Held,
}

impl LifeFiles {
    /// Those of the user who runs this process.
    #[must_use]
    pub fn open(about: String) -> LifeFiles {
        match place::open().and_then(|dir| Ok((dir, place::boot_id()?))) {
            Ok((dir, boot)) => LifeFiles::at(dir, boot, about),
            Err(error) => {
                tracing::warn!(
                    target: "cairn",
                    "no life file: {error}. If this mount is killed, the next one waits for the session time-out"
                );
                LifeFiles::none()
            }
        }
    }

    /// Those in `dir`.
    #[must_use]
    pub fn at(dir: PathBuf, boot: BootId, about: String) -> LifeFiles {
        LifeFiles { place: Some(Arc::new(Place { dir, boot, about, reported: Mutex::default() })) }
    }

    /// None at all.
    #[must_use]
    pub fn none() -> LifeFiles {
        LifeFiles { place: None }
    }

    /// Makes and locks the life file of a session that was just opened, then if that is known.
    #[must_use]
    pub fn hold(&self, cluster: ClusterId, session: SessionId, opened: Option<Timestamp>) -> Option<Held> {
        let place = self.place.as_ref()?;
        match place.make(cluster, session, opened) {
            Ok(held) => Some(held),
            Err(error) => {
                tracing::warn!(
                    target: "cairn",
                    "no life file in {}: {error}. If this mount is killed, the next one waits for the session time-out",
                    place.dir.display()
                );
                None
            }
        }
    }

    /// Sessions of `cluster` whose mounts have died. Removes what is of no use to anyone.
    #[must_use]
    pub fn dead(&self, cluster: ClusterId) -> Vec<Dead> {
        let Some(place) = self.place.as_ref() else { return Vec::new() };
        let names = place.names().unwrap_or_else(|error| {
            place.report(place.dir.as_os_str(), &format!("can't be read: {error}"));
            Vec::new()
        });
        names.iter().filter_map(|name| place.look_at(name, cluster)).take(DEAD_MAX).collect()
    }

    /// Tells when there may be more of them.
    #[must_use]
    pub fn watch(&self) -> Option<Watch> {
        let place = self.place.as_ref()?;
        Watch::start(&place.dir)
            .inspect_err(|error| tracing::debug!(%error, "no watch of {}", place.dir.display()))
            .ok()
    }
}

impl Place {
    fn make(&self, cluster: ClusterId, session: SessionId, opened: Option<Timestamp>) -> io::Result<Held> {
        let record = LifeRecord { cluster, session, opened, boot: self.boot, about: self.about.clone() };
        let name = judge::name(cluster, session);
        let (path, temporary) = (self.dir.join(&name), self.dir.join(name + TEMPORARY));
        for _ in 0..TRIES {
            match put_in_place(&temporary, &path, &record.encode()) {
                // Somebody looked between our making and locking it, and took it for left behind.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    // The first error is the one to tell.
                    let _ = std::fs::remove_file(&temporary);
                    return Err(error);
                }
                Ok(lock) => return Ok(Held { path, _lock: lock }),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(&self.dir)?.take(NAMES_MAX).map(|entry| Ok(entry?.file_name())).collect()
    }

    fn look_at(&self, name: &OsStr, cluster: ClusterId) -> Option<Dead> {
        let path = self.dir.join(name);
        let looked = match named(&name.to_string_lossy(), cluster) {
            Named::Ours(session) => self.look_at_session(path, cluster, session),
            Named::Unfinished => {
                unlocked(&path).and_then(|left| left.map_or(Ok(()), Held::remove)).map(|()| None)
            }
            Named::OtherCluster => Ok(None),
            Named::Foreign => Err(io::Error::other("is not a life file")),
        };
        looked.unwrap_or_else(|error| {
            // What we say of a file ourselves goes on from its name; what the system says does not.
            let why = if error.raw_os_error().is_some() {
                format!("can't be used: {error}")
            } else {
                error.to_string()
            };
            self.report(name, &why);
            None
        })
    }

    fn look_at_session(
        &self,
        path: PathBuf,
        cluster: ClusterId,
        session: SessionId,
    ) -> io::Result<Option<Dead>> {
        let Some(file) = unlocked(&path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        (&file._lock).take(RECORD_MAX as u64 + 1).read_to_end(&mut bytes)?;
        match judge(&bytes, cluster, session, self.boot) {
            Verdict::Dead { opened, about } => Ok(Some(Dead { session, opened, about, file })),
            Verdict::Stale => file.remove().map(|()| None),
            Verdict::Damaged(why) => Err(io::Error::other(why)),
        }
    }

    fn report(&self, name: &OsStr, why: &str) {
        if self.reported.lock().insert(name.to_owned()) {
            tracing::warn!(target: "cairn", "{} {why}: left alone", self.dir.join(name).display());
        }
    }
}

/// Locked before it has its name, so that nobody ever finds it unlocked while this process lives.
fn put_in_place(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<File> {
    // Open for writing as long as it is held: only then is its end told to who watches.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    // Whoever has the lock is about to remove the file, which the rename will tell.
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
    file.write_all(bytes)?;
    std::fs::rename(temporary, path)?;
    Ok(file)
}

/// The lock of a file that nobody else holds. `None` for one that is held, or gone.
fn unlocked(path: &Path) -> io::Result<Option<Held>> {
    // Neither through links nor waiting for the other end of a pipe.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("is not a file of this user"));
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    // Who had it before us may have removed it.
    let gone = file.metadata()?.nlink() == 0;
    Ok((!gone).then(|| Held { path: path.to_owned(), _lock: file }))
}

impl Held {
    /// Removes the file: its session is over.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Dead {
    /// Removes the file: the session is ended.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(self) -> io::Result<()> {
        self.file.remove()
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
