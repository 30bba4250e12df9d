//! The tables written anew. redb gives back what is free at the end of its file, and uses what is free within it again; so the
//! file of a large tree that was removed would stay as large as it was. When little is left of it, that is copied to a new file.
//!
//! The checkpoint thread does it, between two checkpoints: the old file and the new one have the same rows, so whichever a
//! crash leaves is right, and one that finds the checksums of the other verifies its pages (see `docs/formats/metadata.md`).
//! Who reads the old file goes on reading it; its space is free with the next checkpoint after that.

use super::core::Shared;
use crate::meta::tables::{Files, Store};
use cairn_common::error::FsResult;
use std::io;

/// More than a row with its share of pages takes, unless it has much data in it.
const ROW: u64 = 512;
/// No more than this is read and copied: it should take about a second, for which there is no checkpoint.
const COPY_MAX: u64 = 64 << 20;
/// Keys and values take at most so many times their length: pages are half full where they were split last.
const PAGES: u64 = 2;

/// The tables' file, and what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Bytes of the disk that the file takes.
    pub allocated: u64,
    pub rows: u64,
}

/// Decides when the tables are written anew. Pure.
#[derive(Debug)]
pub struct Slack {
    least: u64,
    /// The file when it was looked at last, with the most rows that it has had since.
    looked: Option<Footprint>,
}

impl Slack {
    /// Nothing is done for less than `least` bytes.
    #[must_use]
    pub fn new(least: u64) -> Slack {
        Slack { least, looked: None }
    }

    /// Whether it may be worth it. To know, one has to read what the file holds: that is done once, and again when half of the
    /// rows are gone, or the file has become twice as large.
    pub fn wants_a_look(&mut self, now: Footprint) -> bool {
        let is_new = self.looked.as_mut().is_none_or(|then| {
            then.rows = then.rows.max(now.rows);
            now.rows <= then.rows / 2 || now.allocated / 2 >= then.allocated.max(self.least)
        });
        is_new && now.allocated >= self.least + now.rows.saturating_mul(ROW)
    }

    /// Takes in how many bytes of keys and values there are, `None` if too many to be copied; whether a copy is worth it.
    pub fn looked(&mut self, now: Footprint, content: Option<u64>) -> bool {
        self.looked = Some(now);
        let Some(needed) = content.map(|content| content * PAGES) else { return false };
        let gain = now.allocated.saturating_sub(needed);
        gain >= self.least && gain >= needed
    }

    /// It could not be done now.
    pub fn look_again(&mut self) {
        self.looked = None;
    }
}

/// What belongs to writing the tables anew.
pub struct Renewal {
    slack: Slack,
    /// The file before, for as long as somebody reads it.
    retired: Option<Store>,
}

impl Renewal {
    #[must_use]
    pub fn new(least: u64) -> Renewal {
        Renewal { slack: Slack::new(least), retired: None }
    }

    #[cfg(test)]
    pub fn has_retired(&self) -> bool {
        self.retired.is_some()
    }

    /// The file before is not needed any more.
    pub fn forget(&mut self) {
        self.retired = None;
    }
}

impl Shared {
    /// Writes the tables anew if that gives back much space. Only right after a checkpoint; blocks.
    pub fn renew(&self, store: &mut Store) {
        let mut renewal = self.renewal.lock();
        renewal.retired.take_if(|old| !old.is_read());
        if renewal.retired.is_some() || self.failure.borrow().is_some() {
            return;
        }
        match self.is_worth_it(store, &mut renewal.slack) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.fail(format!("metadata tables: {error}")),
        }
        let (copy, footprint) = match self.copy(store) {
            Ok(copied) => copied,
            // redb answers nothing more.
            Err(error) if self.tables_failure.get().is_some() => {
                return self.fail(format!("metadata tables: {error}"));
            }
            Err(error) => {
                // Nothing depends on it: they stay as large as they are.
                tracing::warn!("metadata tables could not be written anew, to take less space: {error}");
                return;
            }
        };
        // From here on it is not known which of the two a restart finds.
        if let Err(error) = self.switch_to(&copy) {
            return self.fail(format!("metadata tables: the new file can't be put in place: {error}"));
        }
        renewal.slack.looked = Some(footprint);
        renewal.retired = Some(std::mem::replace(store, copy)).filter(Store::is_read);
    }

    fn is_worth_it(&self, store: &Store, slack: &mut Slack) -> FsResult<bool> {
        let now = footprint_of(store)?;
        let reserve = self.core.lock().room.reserve();
        // The reserve is for those who remove.
        let room = self.disk.space().map_or(0, |space| space.available.saturating_sub(reserve));
        if room == 0 || !slack.wants_a_look(now) {
            return Ok(false);
        }
        let content = store.content_bytes(COPY_MAX)?;
        if !slack.looked(now, content) {
            return Ok(false);
        }
        // redb writes a page more than once while it grows.
        let has_room = content.is_some_and(|content| room >= 2 * PAGES * content);
        if !has_room {
            slack.look_again();
        }
        Ok(has_room)
    }

    /// The same tables in new files that have no names yet.
    fn copy(&self, store: &Store) -> Result<(Store, Footprint), String> {
        let said = |error: io::Error| error.to_string();
        Files::abandon(&*self.disk).map_err(said)?;
        let copied = Files::create(&*self.disk).map_err(said).and_then(|files| {
            let copy = store.copy_to(files).map_err(|error| error.to_string())?;
            let footprint = footprint_of(&copy).map_err(|error| error.to_string())?;
            Ok((copy, footprint))
        });
        copied.inspect_err(|_| drop(Files::abandon(&*self.disk)))
    }

    /// Gives the copy its names, durably, and shows it to all who read from now on.
    fn switch_to(&self, copy: &Store) -> Result<(), String> {
        let base = copy.base().map_err(|error| error.to_string())?;
        Files::publish(&*self.disk).map_err(|error| error.to_string())?;
        let checkpoint = self.published.read().checkpoint;
        let mut core = self.core.lock();
        self.thaw(&mut core, base, checkpoint);
        // Known of the old file.
        core.room.found_idle(0);
        Ok(())
    }
}

fn footprint_of(store: &Store) -> FsResult<Footprint> {
    Ok(Footprint { allocated: store.allocated_bytes()?, rows: store.rows()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn file(mib: u64, rows: u64) -> Footprint {
        Footprint { allocated: mib * MIB, rows }
    }

    #[test]
    fn a_file_that_little_is_left_of_is_written_anew() {
        let mut slack = Slack::new(2 * MIB);
        assert!(!slack.wants_a_look(file(1, 10)), "too small");
        assert!(!slack.wants_a_look(file(100, 1_000_000)), "full of rows");
        assert!(slack.wants_a_look(file(100, 1000)));
        assert!(slack.looked(file(100, 1000), Some(MIB / 4)));
        slack.looked = Some(file(1, 1000));
        assert!(!slack.wants_a_look(file(1, 1000)));
        // It grows again, and is emptied again, though not to half of what was left.
        assert!(!slack.wants_a_look(file(3, 20_000)));
        assert!(slack.wants_a_look(file(3, 1000)));
    }

    #[test]
    fn what_is_not_worth_it_is_not_looked_at_again_until_much_has_changed() {
        let mut slack = Slack::new(2 * MIB);
        // Few rows with much data in them.
        assert!(slack.wants_a_look(file(100, 1000)));
        assert!(!slack.looked(file(100, 1000), Some(26 * MIB)));
        assert!(!slack.wants_a_look(file(120, 1000)) && !slack.wants_a_look(file(100, 501)));
        assert!(slack.wants_a_look(file(100, 500)) && slack.wants_a_look(file(200, 1000)));
        assert!(slack.looked(file(100, 1000), Some(25 * MIB)));
        assert!(!slack.looked(file(3, 500), Some(MIB / 2 + 1)), "too little");
        assert!(slack.looked(file(3, 500), Some(MIB / 2)));
        assert!(!slack.looked(file(500, 500), None), "too much to be copied");
    }
}
