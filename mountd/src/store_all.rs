//! "Store everything now": how `umount` asks a mount daemon. The kernel does not do it for FUSE: it passes no
//! `syncfs` on, and an unmount does not wait for the daemon.

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::os::fd::OwnedFd;
use std::path::Path;

/// What the answer is: the daemon's process, as it sees itself.
type Answer = [u8; 4];
/// The `ioctl`, on any directory of a mount.
pub const COMMAND: Opcode = opcode::read::<Answer>(b'c', 1);

/// The answer of this process.
#[must_use]
pub fn answer() -> Answer {
    std::process::id().to_be_bytes()
}

/// The root of a mount, for [`store_all`].
///
/// # Errors
/// `NOTCONN`: the mount is dead. `ACCESS`: it serves another user only.
pub fn open(mount_point: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(mount_point, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Stores everything that was written through the mount with this root, durably; the number of the daemon's
/// process. Waits as long as the servers take, and make progress.
///
/// # Errors
/// `NOTCONN`: the mount is dead. `NOTTY`: the daemon does not know the question. Others: what the
/// daemon could not do.
pub fn store_all(root: &OwnedFd) -> rustix::io::Result<u32> {
    // What programs changed through mappings is in the kernel still.
    rustix::fs::syncfs(root)?;
    let mut answer = Answer::default();
    // SAFETY: the command's number says that the kernel writes as many bytes as an `Answer` has.
    let command = unsafe { Updater::<COMMAND, Answer>::new(&mut answer) };
    // SAFETY: other file systems either do not know the command, or take its number for what it says.
    unsafe { ioctl(root, command) }?;
    Ok(u32::from_be_bytes(answer))
}
