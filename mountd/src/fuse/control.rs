//! The kernel's control files of one connection (fusectl): how many requests wait, and ending the connection.
//! They belong to who mounted it.

use rustix::fs::{Mode, OFlags};
use rustix::io;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where their file system usually is.
const CONTROL: &str = "/sys/fs/fuse/connections";

/// The directory of one connection.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// The connection of the mount that the kernel calls `device` (`major:minor`).
    ///
    /// # Errors
    /// If there is none, or the files are out of reach: nobody has mounted them, and this is no process of root's.
    pub fn open(device: &str) -> io::Result<Control> {
        let (_major, minor) = device.split_once(':').ok_or(io::Errno::INVAL)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(Path::new(CONTROL).join(minor), flags, Mode::empty()) {
            Ok(directory) => Ok(Control(directory)),
            // As in most containers.
            Err(_) => Ok(Control(rustix::fs::openat(unmounted()?, minor, flags, Mode::empty())?)),
        }
    }

    /// Requests that wait for the daemon, or are being worked on.
    ///
    /// # Errors
    /// If the connection has ended, or what is there is no number.
    pub fn waiting(&self) -> io::Result<u64> {
        let file = rustix::fs::openat(&self.0, "waiting", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = [0; 24];
        let length = io::read(&file, &mut text)?;
        let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
        text.trim().parse().map_err(|_| io::Errno::INVAL)
    }

    /// Ends the connection: who waits for an answer gets an error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn abort(&self) -> io::Result<()> {
        let file = rustix::fs::openat(&self.0, "abort", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::write(&file, b"1").map(drop)
    }
}

/// The control file system without a place in the tree.
fn unmounted() -> io::Result<OwnedFd> {
    let control = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&control)?;
    rustix::mount::fsmount(&control, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_none_for_what_is_no_mount_of_ours() {
        assert!(Control::open("0").is_err());
        assert!(Control::open("0:99999999").is_err());
    }
}
