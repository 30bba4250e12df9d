//! When the log says that written data is not stored. On a full disk one block may find room and the next one not, for hours.

use cairn_common::error::FsError;
use std::time::{Duration, Instant};

/// The same trouble is said again when something was done meanwhile, and it has not come for so long.
const QUIET: Duration = Duration::from_secs(60);

/// What went wrong last, and when.
#[derive(Debug, Default)]
pub struct Complaint {
    last: Option<(FsError, Instant)>,
    went_on: bool,
}

impl Complaint {
    /// Takes in that something failed `now`; whether the log should say so.
    pub fn is_news(&mut self, error: FsError, now: Instant) -> bool {
        let went_on = std::mem::take(&mut self.went_on);
        let last = self.last.replace((error, now));
        last.is_none_or(|(said, then)| said != error || went_on && now.duration_since(then) >= QUIET)
    }

    /// What had failed is done with, or something else was.
    pub fn goes_on(&mut self) {
        self.went_on = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_said_once_and_again_when_it_comes_back() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(complaint.is_news(FsError::NoSpace, start));
        // Now and then one finds room.
        for seconds in 1..200 {
            complaint.goes_on();
            assert!(!complaint.is_news(FsError::NoSpace, at(seconds)));
        }
        // A soft mount tries once in a long while.
        assert!(!complaint.is_news(FsError::NoSpace, at(900)));
        complaint.goes_on();
        assert!(complaint.is_news(FsError::NoSpace, at(960)));
        assert!(complaint.is_news(FsError::Io, at(961)));
        assert!(!complaint.is_news(FsError::Io, at(962)));
        assert!(complaint.is_news(FsError::NoSpace, at(963)));
    }
}
