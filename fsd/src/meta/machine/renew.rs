//! The tables written anew. redb gives back what is free at the end of its file, and uses what is free within it again; so the
//! file of a large tree that was removed would stay as large as it was. When little is left of it, that is copied to a new file.
//!
//! The checkpoint thread does it, between two checkpoints: the old file and the new one have the same rows, so whichever a
//! crash leaves is right, and one that finds the checksums of the other verifies its pages (see `docs/formats/metadata.md`).
//! Who reads the old file goes on reading it; its space is free when the last one is done.

use super::core::Shared;
use crate::meta::tables::{Files, Store};
use cairn_common::error::FsResult;
use std::io;

/// More than a row with its share of pages takes, unless it has much data in it.
const ROW: u64 = 512;
/// No more than this is copied: it should take about a second, for which there is no checkpoint.
const COPY_MAX: u64 = 64 << 20;
/// So many times the space of the rows is needed for them at most: pages are half full where they were split last.
const COPY_COST: u64 = 4;

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
    /// What the file was like when it was looked at last.
    looked: Option<Footprint>,
}

impl Slack {
    /// Nothing is done for less than `least` bytes.
    #[must_use]
    pub fn new(least: u64) -> Slack {
        Slack { least, looked: None }
    }

    /// Whether it may be worth it. To know, one has to read all that the file holds: that is done once, and again when half of the rows
    /// are gone, or the file has become twice as large.
    #[must_use]
    pub fn wants_a_look(&self, now: Footprint) -> bool {
        let is_new = |then: Footprint| {
            now.rows <= then.rows / 2 || now.allocated / 2 >= then.allocated.max(self.least)
        };
        now.allocated >= self.least + now.rows.saturating_mul(ROW) && self.looked.is_none_or(is_new)
    }

    /// Takes in that of this file so much holds nothing; whether that is worth a copy of the rest.
    pub fn looked(&mut self, now: Footprint, idle: u64) -> bool {
        self.looked = Some(now);
        let used = now.allocated.saturating_sub(idle);
        idle >= self.least && idle >= used && used <= COPY_MAX
    }

    /// It could not be done now.
    pub fn look_again(&mut self) {
        self.looked = None;
    }

    /// The file is another one.
    pub fn renewed(&mut self, now: Footprint) {
        self.looked = Some(now);
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
        let copy = match self.copy(store) {
            Ok(copy) => copy,
            Err(error) => {
                // Nothing depends on it: they stay as large as they are.
                tracing::warn!("metadata tables could not be written anew, to take less space: {error}");
                return;
            }
        };
        // From here on it is not known which of the two a restart finds.
        match self.switch_to(&copy) {
            Ok(now) => renewal.slack.renewed(now),
            Err(error) => {
                return self.fail(format!("metadata tables: the new file can't be put in place: {error}"));
            }
        }
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
        let idle = store.idle_bytes()?;
        let used = now.allocated.saturating_sub(idle);
        let worth_it = slack.looked(now, idle);
        if worth_it && room < used.saturating_mul(COPY_COST) {
            slack.look_again();
            return Ok(false);
        }
        Ok(worth_it)
    }

    /// The same tables in new files that have no names yet.
    fn copy(&self, store: &Store) -> Result<Store, String> {
        let said = |error: io::Error| error.to_string();
        Files::abandon(&*self.disk).map_err(said)?;
        let copied = Files::create(&*self.disk)
            .map_err(said)
            .and_then(|files| store.copy_to(files).map_err(|error| error.to_string()));
        copied.inspect_err(|_| drop(Files::abandon(&*self.disk)))
    }

    /// Gives the copy its names, durably, and shows it to all who read from now on.
    fn switch_to(&self, copy: &Store) -> Result<Footprint, String> {
        Files::publish(&*self.disk).map_err(|error| error.to_string())?;
        let base = copy.base().map_err(|error| error.to_string())?;
        let checkpoint = self.published.read().checkpoint;
        let mut core = self.core.lock();
        self.thaw(&mut core, base, checkpoint);
        // Known of the old file.
        core.room.found_idle(0);
        drop(core);
        footprint_of(copy).map_err(|error| error.to_string())
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
        assert!(slack.looked(file(100, 1000), 99 * MIB));
        slack.renewed(file(1, 1000));
        assert!(!slack.wants_a_look(file(1, 1000)));
        // It grows again, and is emptied again.
        assert!(!slack.wants_a_look(file(100, 1_000_000)));
        assert!(slack.wants_a_look(file(100, 1000)));
    }

    #[test]
    fn what_is_not_worth_it_is_not_looked_at_again_until_much_has_changed() {
        let mut slack = Slack::new(2 * MIB);
        // Few rows with much data in them.
        assert!(slack.wants_a_look(file(100, 1000)));
        assert!(!slack.looked(file(100, 1000), 49 * MIB));
        assert!(!slack.wants_a_look(file(120, 1100)) && !slack.wants_a_look(file(100, 501)));
        assert!(slack.wants_a_look(file(100, 500)) && slack.wants_a_look(file(200, 1000)));
        assert!(!slack.looked(file(3, 500), 2 * MIB - 1), "too little");
        assert!(slack.looked(file(4, 500), 2 * MIB));
        assert!(!slack.looked(file(500, 500), 400 * MIB), "too much to be copied");
    }
}
