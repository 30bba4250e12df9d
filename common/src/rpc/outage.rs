//! What has been said of a server in the log: that it went away once, and that it is back once, however many
//! connections there are to it and however often each is tried.

use crate::error::FsError;
use parking_lot::Mutex;
use std::sync::Arc;

/// See the module. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Outage(Arc<Mutex<Said>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    Connected,
    Lost,
    CannotConnect(FsError),
}

impl Outage {
    /// A connection works: what to say, if anything.
    pub fn up(&self) -> Option<&'static str> {
        match std::mem::replace(&mut *self.0.lock(), Said::Connected) {
            Said::Connected => None,
            Said::Nothing => Some("connected"),
            Said::Lost | Said::CannotConnect(_) => Some("connected again"),
        }
    }

    /// A connection has ended: whether to say so.
    #[must_use]
    pub fn lost(&self) -> bool {
        let mut said = self.0.lock();
        let first = *said == Said::Connected;
        if first {
            *said = Said::Lost;
        }
        first
    }

    /// No connection could be made: whether to say so. The same again is no news.
    #[must_use]
    pub fn failed(&self, error: FsError) -> bool {
        let now = Said::CannotConnect(error);
        std::mem::replace(&mut *self.0.lock(), now) != now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once() {
        let (one, other) = (Outage::default(), Outage::default());
        let two = one.clone();
        assert!(!one.lost(), "there was none yet");
        assert_eq!((one.up(), two.up(), other.up()), (Some("connected"), None, Some("connected")));
        assert_eq!((one.lost(), two.lost(), one.lost()), (true, false, false));
        assert!(one.failed(FsError::Unavailable) && !two.failed(FsError::Unavailable));
        assert!(!two.lost(), "of a server that cannot be reached");
        assert!(two.failed(FsError::WrongPeer), "another one is there now");
        assert_eq!((one.up(), two.up()), (Some("connected again"), None));
        assert!(two.lost());
        assert_eq!((two.up(), one.up()), (Some("connected again"), None), "without a failure in between");
    }
}
