//! Being told when a mount may have died: the kernel closes the files of a process that ends, and a life file
//! is the only kind here that is open for writing. Costs nothing while nobody dies.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::path::Path;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// See the module.
#[derive(Debug)]
pub struct Watch {
    /// Not a pipe, but read like one, and so without unsafe code.
    notifications: Receiver,
}

impl Watch {
    pub(super) fn start(dir: &Path) -> io::Result<Watch> {
        let notifications = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&notifications, dir, WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR)?;
        Ok(Watch { notifications: Receiver::from_owned_fd_unchecked(notifications)? })
    }

    /// Waits until a life file was closed since the last call. Its lock goes a moment later.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn closed(&mut self) -> io::Result<()> {
        // Which ones does not matter, and after an overflow would not be known.
        let mut names = [0; 4096];
        self.notifications.read(&mut names).await.map(|_length| ())
    }
}
