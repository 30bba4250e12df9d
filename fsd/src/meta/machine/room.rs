//! What the machine knows of the disk's free space, and what follows from it: pure decisions.
//!
//! redb never overwrites a page in place, so a checkpoint may write a page for each row that changed, and the
//! pages from before are free only after it. On a disk that fills up, checkpoints are therefore made as small
//! as what is free asks for: otherwise removing a tree could use up the very space that it makes.
//!
//! The tables' file does not become shorter by itself, and is not written anew (see [`super::renew`]) where there is no room for that. What it
//! has free inside counts as free too, or a disk that was full would stay so for ever; finding out how much reads the whole file, so that is
//! done only when it matters.

/// How many bytes of log may pass between two looks at the free space.
const LOOK_EVERY: u64 = 1 << 20;
/// The disk is looked at before each group while less than so many times the reserve is free.
const NEAR: u64 = 4;
/// What is free inside of the tables' file is wanted already while such a part of the reserve is free above it.
const SOON: u64 = 4;
/// What a changed row costs in a checkpoint at worst: a page of redb.
const PAGE: u64 = 4096;
/// A checkpoint begins when it may cost this part of what is free. Four times as much may gather while it runs,
/// and that much again may be held by what the one before it has freed.
const SHARE: u64 = 16;
/// Smaller checkpoints than this would only be slow.
const BUDGET_MIN: u64 = 256 << 10;

/// See the module.
pub struct Room {
    reserve: u64,
    /// `None`: the disk did not say.
    available: Option<u64>,
    since_look: u64,
    /// Bytes known to be free inside of the tables' file.
    idle: u64,
    /// It has been told that the disk is full.
    told: bool,
}

/// What waits for the next checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiting {
    pub log_bytes: u64,
    pub rows: u64,
    /// Memory that the rows take.
    pub row_bytes: u64,
}

impl Room {
    /// A room that wants to be looked at first. Of its space, `reserve` bytes are for those who remove.
    pub fn new(reserve: u64) -> Room {
        Room { reserve, available: None, since_look: LOOK_EVERY, idle: 0, told: false }
    }

    pub fn logged(&mut self, bytes: u64) {
        self.since_look += bytes;
    }

    pub fn wants_a_look(&self) -> bool {
        self.is_near() || self.since_look >= LOOK_EVERY
    }

    pub fn looked(&mut self, available: Option<u64>) {
        self.available = available;
        self.since_look = 0;
    }

    /// Nothing may grow.
    pub fn is_full(&self) -> bool {
        self.available.is_some_and(|available| available.saturating_add(self.idle) < self.reserve)
    }

    /// True once each time that nothing may grow any more: not again before there was plenty of room.
    pub fn is_news(&mut self) -> bool {
        self.told &= self.is_near();
        self.is_full() && !std::mem::replace(&mut self.told, true)
    }

    /// What growing leaves free.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// It matters how much is free inside of the tables' file, or will soon: who grows is refused until that is known.
    pub fn wants_idle(&self) -> bool {
        self.available.is_some_and(|available| available < self.reserve + self.reserve / SOON)
    }

    pub fn found_idle(&mut self, bytes: u64) {
        self.idle = bytes;
    }

    /// A checkpoint of rows that take so much memory has begun: about what they add to pages that are half full.
    pub fn stored(&mut self, row_bytes: u64) {
        self.idle = self.idle.saturating_sub(row_bytes);
    }

    /// Groups should be small, so that the free space is looked at before much has changed.
    pub fn is_near(&self) -> bool {
        self.available.is_some_and(|available| available < NEAR * self.reserve)
    }

    /// How urgent a checkpoint is, on the scale of `checkpoint_bytes`: from there on it should begin.
    pub fn urgency(&self, waiting: Waiting, checkpoint_bytes: u64) -> u64 {
        // A long row that is replaced again and again fills the log; many short ones fill the memory.
        let plain = waiting.log_bytes.max(waiting.row_bytes / 2);
        let Some(available) = self.available else { return plain };
        let budget = u128::from((available / SHARE).max(BUDGET_MIN));
        let cost = u128::from(waiting.rows * PAGE + waiting.log_bytes);
        let share = cost * u128::from(checkpoint_bytes) / budget;
        plain.max(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESERVE: u64 = 128 << 20;
    const CHECKPOINT: u64 = 16 << 20;

    fn room(available: u64) -> Room {
        let mut room = Room::new(RESERVE);
        room.looked(Some(available));
        room
    }

    #[test]
    fn it_is_looked_at_once_per_so_much_log_and_always_when_near_full() {
        let mut room = Room::new(RESERVE);
        assert!(room.wants_a_look() && !room.is_full() && !room.is_near());
        room.looked(Some(NEAR * RESERVE));
        assert!(!room.wants_a_look() && !room.is_near());
        room.logged(LOOK_EVERY);
        assert!(room.wants_a_look());
        room.looked(Some(NEAR * RESERVE - 1));
        assert!(room.wants_a_look() && room.is_near() && !room.is_full());
        room.looked(Some(RESERVE - 1));
        assert!(room.is_full());
        room.looked(None);
        assert!(!room.is_full() && !room.wants_a_look());
    }

    #[test]
    fn what_is_free_in_the_tables_counts_until_it_is_used() {
        let soon = RESERVE + RESERVE / SOON;
        assert!(!room(soon).wants_idle() && room(soon - 1).wants_idle() && !room(soon - 1).is_full());
        let mut room = room(RESERVE - 1);
        assert!(room.is_full() && room.wants_idle());
        room.found_idle(1000);
        assert!(!room.is_full() && room.wants_idle() && room.is_near());
        room.stored(999);
        assert!(!room.is_full());
        room.stored(1);
        assert!(room.is_full());
    }

    #[test]
    fn it_is_told_once_that_the_disk_is_full() {
        let mut room = room(RESERVE);
        assert!(!room.is_news());
        room.looked(Some(RESERVE - 1));
        assert!(room.is_news() && !room.is_news());
        room.looked(Some(RESERVE));
        assert!(!room.is_news());
        room.looked(Some(RESERVE - 1));
        assert!(!room.is_news(), "to and fro is no news");
        room.looked(Some(NEAR * RESERVE));
        assert!(!room.is_news());
        room.looked(Some(0));
        assert!(room.is_news());
    }

    #[test]
    fn an_empty_disk_waits_for_the_log_or_the_memory() {
        let waiting = Waiting { log_bytes: 100, rows: 100_000, row_bytes: 20 << 20 };
        assert_eq!(room(1 << 40).urgency(waiting, CHECKPOINT), 10 << 20);
        let waiting = Waiting { log_bytes: 17 << 20, ..waiting };
        assert_eq!(room(1 << 40).urgency(waiting, CHECKPOINT), 17 << 20);
    }

    /// With the most that may gather, rows never cost more than a quarter of what is free.
    #[test]
    fn the_fuller_the_disk_the_smaller_the_checkpoint() {
        for available in [RESERVE / 8, RESERVE, 16 * RESERVE] {
            let rows = available / SHARE / PAGE;
            let of = |rows| Waiting { rows, ..Waiting::default() };
            assert!(room(available).urgency(of(rows - 1), CHECKPOINT) < CHECKPOINT);
            assert!(room(available).urgency(of(rows), CHECKPOINT) >= CHECKPOINT);
        }
        let least = Waiting { rows: BUDGET_MIN / PAGE - 1, ..Waiting::default() };
        assert!(room(0).urgency(least, CHECKPOINT) < CHECKPOINT, "or it would never come to work");
    }
}
