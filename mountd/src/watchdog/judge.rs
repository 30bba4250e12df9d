//! When a mount is beyond help. Pure: what is seen comes in, with the time.

use std::time::{Duration, Instant};

/// A process that is being killed may take so long to be gone: it has memory to give back.
const DYING: Duration = Duration::from_secs(5);

/// What the mount daemon's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Runs,
    /// Somebody has stopped it, and may let it go on: SIGSTOP, a debugger.
    Stopped,
    /// It is being killed, and is not gone because a thread of its waits in the kernel.
    Dying,
}

/// What became of a question that a mount answers whatever servers are away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Not asked, as nobody waits for the mount.
    Unasked,
    Answered,
    Waits,
}

/// Why the connection has to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Dying,
    Wedged,
}

/// See the module.
#[derive(Debug)]
pub struct Judge {
    /// How long a mount may leave the probe unanswered.
    limit: Duration,
    dying_since: Option<Instant>,
    silent_since: Option<Instant>,
}

impl Judge {
    #[must_use]
    pub fn new(limit: Duration) -> Judge {
        Judge { limit, dying_since: None, silent_since: None }
    }

    /// Takes in one look.
    pub fn look(&mut self, now: Instant, process: Process, probe: Probe) -> Option<End> {
        let lasts = |since: &mut Option<Instant>, holds: bool, limit: Duration| {
            *since = if holds { since.or(Some(now)) } else { None };
            since.is_some_and(|since| now.duration_since(since) >= limit)
        };
        let waits = process == Process::Runs && probe == Probe::Waits;
        let wedged = lasts(&mut self.silent_since, waits, self.limit);
        let dying = lasts(&mut self.dying_since, process == Process::Dying, DYING);
        match (dying, wedged) {
            (true, _) => Some(End::Dying),
            (_, true) => Some(End::Wedged),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);
    const STEP: Duration = Duration::from_secs(1);

    /// The verdict of each look, one a second.
    fn looks(seen: impl IntoIterator<Item = (Process, Probe)>) -> Vec<Option<End>> {
        let (mut judge, start) = (Judge::new(LIMIT), Instant::now());
        let look = |(second, (process, probe))| judge.look(start + STEP * second, process, probe);
        (0..).zip(seen).map(look).collect()
    }

    #[test]
    fn a_mount_that_answers_is_never_ended() {
        let seen = [Probe::Unasked, Probe::Answered, Probe::Waits, Probe::Answered];
        let seen = seen.into_iter().cycle().take(5000).map(|probe| (Process::Runs, probe));
        assert!(looks(seen).iter().all(Option::is_none));
    }

    #[test]
    fn one_that_never_answers_is_ended_after_the_limit() {
        let found = looks(vec![(Process::Runs, Probe::Waits); 301]);
        assert_eq!((found[299], found[300]), (None, Some(End::Wedged)));
    }

    #[test]
    fn one_that_is_stopped_gets_all_its_time_again() {
        let mut seen = vec![(Process::Runs, Probe::Waits); 299];
        seen.extend(vec![(Process::Stopped, Probe::Waits); 5000]);
        seen.extend(vec![(Process::Runs, Probe::Waits); 300]);
        assert!(looks(seen).iter().all(Option::is_none));
    }

    #[test]
    fn one_that_is_killed_and_does_not_end_is_ended_soon() {
        let found = looks(vec![(Process::Dying, Probe::Unasked); 6]);
        assert_eq!((found[4], found[5]), (None, Some(End::Dying)));
    }
}
