//! What is known of the servers' free space, and what follows from it for data that is only in memory: pure decisions.
//!
//! As long as there is plenty, `close` promises room without asking anyone. Figures are some seconds old, and other mounts
//! write too, so near the end nothing is promised any more: there `close` waits until the data is stored, or refused.

use std::time::{Duration, Instant};

/// How long a figure counts.
const FRESH: Duration = Duration::from_secs(1);
/// When servers that did not answer are asked again.
const SILENT: Duration = Duration::from_secs(5);
/// So much is left to what other mounts, and daemons before their next report, have stored meanwhile: another mount's whole buffer.
const MARGIN: u64 = 256 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Room {
    /// When it was asked for last.
    asked: Option<Instant>,
    /// `None`: the servers have not told.
    known: Option<Figure>,
    /// They did not answer when they were asked last.
    is_silent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Figure {
    free: u64,
    /// So much of what was ever written here had been stored then.
    stored: u64,
}

impl Room {
    /// It is time to ask again.
    #[must_use]
    pub fn is_old(&self, now: Instant) -> bool {
        let counts = if self.is_silent { SILENT } else { FRESH };
        self.asked.is_none_or(|asked| now.duration_since(asked) >= counts)
    }

    /// What was answered to a question asked `now`, when `stored` bytes had been stored; without an answer the last one goes on to count.
    pub fn learn(&mut self, now: Instant, free: Option<u64>, stored: u64) {
        self.asked = Some(now);
        self.is_silent = free.is_none();
        self.known = free.map(|free| Figure { free, stored }).or(self.known);
    }

    /// The servers are away, as it seems: nobody can be told by them whether there is room.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Whether all of what was `written` here can be promised to find room. Where nothing is known, the servers are away, and writes
    /// wait for them.
    #[must_use]
    pub fn is_plenty(&self, written: u64) -> bool {
        self.known.is_none_or(|known| is_plenty(known.free, written.saturating_sub(known.stored)))
    }

    /// Bytes that were free, if the servers have told.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        self.known.map(|known| known.free)
    }
}

/// Whether so much free space has room for what is `claimed`, whatever others do.
#[must_use]
pub fn is_plenty(free: u64, claimed: u64) -> bool {
    free >= claimed.saturating_add(MARGIN)
}

/// A block that found no room, and when to send it again: blocks are large, and a full disk should not be sent the same ones
/// all the time.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    length: u64,
    /// The least that was free since.
    least: Option<u64>,
}

impl Refused {
    #[must_use]
    pub fn new(length: u64) -> Refused {
        Refused { length, least: None }
    }

    /// Whether the block may fit now. Not if only the daemons' rests are larger in sum: none of them had room for it.
    pub fn may_fit(&mut self, free: Option<u64>) -> bool {
        let Some(free) = free else { return false };
        let least = self.least.map_or(free, |least| least.min(free));
        self.least = Some(least);
        free - least >= self.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_was_written_since_the_figure_counts_as_taken() {
        let mut room = Room::default();
        let now = Instant::now();
        assert!(room.is_plenty(u64::MAX), "nothing is known");
        // 50 of 60 bytes had been stored.
        room.learn(now, Some(GIB), 50);
        assert!(room.is_plenty(60));
        let most = 50 + GIB - MARGIN;
        assert!(room.is_plenty(most) && !room.is_plenty(most + 1));
        room.learn(now, Some(MARGIN - 1), 60);
        assert!(!room.is_plenty(60));
        room.learn(now, Some(MARGIN), 60);
        assert!(room.is_plenty(60));
    }

    #[test]
    fn a_figure_grows_old_and_the_last_one_counts_while_there_is_no_other() {
        let mut room = Room::default();
        let now = Instant::now();
        assert!(room.is_old(now));
        room.learn(now, Some(5), 0);
        assert!(!room.is_old(now) && room.is_old(now + FRESH));
        assert!(!room.is_silent());
        room.learn(now + FRESH, None, 0);
        assert!(room.is_silent() && !room.is_old(now + FRESH * 2), "it was asked, and nobody answered");
        assert!(room.is_old(now + FRESH + SILENT));
        assert_eq!(room.free(), Some(5));
        assert!(!room.is_plenty(0));
        room.learn(now + SILENT, Some(6), 0);
        assert!(!room.is_silent());
    }

    #[test]
    fn a_block_is_sent_again_once_room_for_it_has_come() {
        let mut refused = Refused::new(100);
        assert!(!refused.may_fit(None));
        // On no single daemon.
        assert!(!refused.may_fit(Some(150)));
        assert!(!refused.may_fit(Some(20)));
        assert!(!refused.may_fit(Some(119)));
        assert!(refused.may_fit(Some(120)));
    }
}
