//! Whether a session that somebody names is the one that they mean: tables that were restored from an older copy have
//! sessions of numbers that other mounts remember. Pure.

use crate::meta::machine::SessionInfo;
use cairn_common::attr::Timestamp;
use cairn_common::proto::meta::ClientInfo;

/// Why it is another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Other {
    #[error("that of {host} at {mount_point}")]
    Client { host: String, mount_point: String },
    #[error("another one of that number")]
    Opened,
}

/// `opened`: when the session of `client` was opened, if it knows.
pub fn is_meant(info: &SessionInfo, client: &ClientInfo, opened: Option<Timestamp>) -> Result<(), Other> {
    if info.client != *client {
        let ClientInfo { host, mount_point, .. } = info.client.clone();
        return Err(Other::Client { host, mount_point });
    }
    if opened.is_some_and(|opened| !is_same(info, opened)) {
        return Err(Other::Opened);
    }
    Ok(())
}

/// Whether this is the session of its number that was opened then.
pub fn is_same(info: &SessionInfo, opened: Timestamp) -> bool {
    info.opened == opened
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_common::ids::{Seq, SessionId};

    const OPENED: Timestamp = Timestamp { secs: 100, nanos: 5 };
    const LATER: Timestamp = Timestamp { secs: 100, nanos: 6 };

    fn client(pid: u32) -> ClientInfo {
        ClientInfo { host: "h".into(), mount_point: "/m".into(), version: "v".into(), pid }
    }

    fn info() -> SessionInfo {
        let (applied, durable) = (Seq(4), Seq(3));
        SessionInfo { session: SessionId(7), client: client(1), opened: OPENED, applied, durable }
    }

    #[test]
    fn a_session_is_taken_up_by_its_client_only() {
        assert_eq!(is_meant(&info(), &client(1), Some(OPENED)), Ok(()));
        let other = Other::Client { host: "h".into(), mount_point: "/m".into() };
        assert_eq!(is_meant(&info(), &client(2), Some(OPENED)), Err(other.clone()));
        assert_eq!(is_meant(&info(), &client(2), None), Err(other));
    }

    #[test]
    fn a_session_of_the_same_number_and_client_is_another_if_it_was_opened_at_another_time() {
        assert_eq!(is_meant(&info(), &client(1), Some(LATER)), Err(Other::Opened));
        assert!(!is_same(&info(), LATER));
    }

    #[test]
    fn who_does_not_know_when_it_was_opened_is_believed() {
        assert_eq!(is_meant(&info(), &client(1), None), Ok(()));
    }
}
