//! The one error type that crosses the wire. Each variant is a condition a caller can branch on;
//! `errno.rs` says what a program sees.

use serde::{Deserialize, Serialize};

/// Why a request was refused or failed.
///
/// The order is part of the wire format (bincode encodes the index): new variants go to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("file exists")]
    Exists,
    #[error("not a directory")]
    NotDir,
    #[error("is a directory")]
    IsDir,
    #[error("directory not empty")]
    NotEmpty,
    #[error("permission denied")]
    Access,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("invalid argument")]
    Invalid,
    #[error("name too long")]
    NameTooLong,
    #[error("too many links")]
    TooManyLinks,
    #[error("file too large")]
    FileTooLarge,
    #[error("no space left")]
    NoSpace,
    #[error("no such attribute")]
    NoAttr,
    #[error("result does not fit the buffer")]
    Range,
    #[error("argument list or value too big")]
    TooBig,
    #[error("read-only file system")]
    ReadOnly,
    #[error("not supported")]
    NotSupported,
    #[error("crosses file systems")]
    CrossDevice,
    #[error("would wait for a lock")]
    WouldBlock,
    #[error("deadlock")]
    Deadlock,
    #[error("no lock slots left")]
    NoLocks,
    #[error("interrupted")]
    Interrupted,
    #[error("stale inode or session")]
    Stale,
    #[error("no data in that range")]
    NoData,
    #[error("too many symbolic links")]
    Loop,
    #[error("bad file handle")]
    BadHandle,
    #[error("text file or resource busy")]
    Busy,
    #[error("quota exceeded")]
    Quota,
    /// The disk of a server, or data on it, failed. The server's log names what.
    #[error("i/o error")]
    Io,
    /// A checksum did not match; the data is not returned.
    #[error("corrupt data")]
    Corrupt,
    /// The server can't be reached or answers too late. Retrying may help.
    #[error("server unavailable")]
    Unavailable,
    /// The deadline passed. Whether the operation happened is unknown.
    #[error("timed out")]
    TimedOut,
    /// The session was ended by the server: nothing it sends can be committed any more.
    #[error("session evicted")]
    Evicted,
    /// The peer speaks another protocol version or belongs to another cluster.
    #[error("wrong peer")]
    WrongPeer,
    /// A batch came out of order: the server has not applied what comes before it.
    #[error("operation out of order")]
    OutOfOrder,
    /// A volume takes no more blocks; put elsewhere.
    #[error("volume sealed")]
    Sealed,
    /// The compare part of a compare-and-set did not hold.
    #[error("changed meanwhile")]
    Changed,
    /// The mount has as many files open as it may.
    #[error("too many open files")]
    TooManyOpen,
}

/// Result of a file system operation.
pub type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// True where the same request may succeed later without anything else changing.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, FsError::Unavailable | FsError::TimedOut)
    }
}

/// An error with its causes, in one line. A cause that the text before it ends with is not said twice: many
/// errors, some not ours, name their cause and also hand it out.
#[must_use]
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("open x: {source}")]
        Told { source: std::io::Error },
        #[error("open x")]
        Untold(#[source] std::io::Error),
    }

    #[test]
    fn a_cause_is_said_once() {
        let source = || std::io::Error::from_raw_os_error(libc::ENOENT);
        let expected = "open x: No such file or directory (os error 2)";
        assert_eq!(one_line(&Sample::Told { source: source() }), expected);
        assert_eq!(one_line(&Sample::Untold(source())), expected);
    }
}
