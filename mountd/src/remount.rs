//! `mount -o remount`: what the kernel keeps for a mount (ro, nosuid, noatime, ...) changes; what the mount
//! daemon was started with (caches, waits) stays until the next mount.

use crate::options::{AtimeMode, MountOptions};
use crate::table::{self, Mount};
use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount_remount};
use std::path::Path;

/// Changes a mount to `options`.
///
/// # Errors
/// One line: it is not ours, or what the kernel says.
pub fn remount(mount_point: &Path, options: &MountOptions) -> Result<()> {
    if !table::mounted_at(mount_point).as_ref().is_some_and(Mount::is_cairn) {
        bail!("{} is no mount of Cairn's", mount_point.display());
    }
    let defaults = MountOptions { remount: true, ..MountOptions::default() };
    if options.for_the_daemon() != defaults.for_the_daemon() {
        eprintln!(
            "cairn-mountd: only ro, nosuid, nodev, noexec, sync, dirsync and noatime change now; other options need a new mount"
        );
    }
    mount_remount(mount_point, flags(options), c"")
        .with_context(|| format!("remount {}", mount_point.display()))
}

fn flags(options: &MountOptions) -> MountFlags {
    let atime = match options.atime {
        AtimeMode::Relatime => MountFlags::RELATIME,
        AtimeMode::Noatime => MountFlags::NOATIME,
        AtimeMode::Strictatime => MountFlags::STRICTATIME,
    };
    let chosen = [
        (options.read_only, MountFlags::RDONLY),
        (options.nosuid, MountFlags::NOSUID),
        (options.nodev, MountFlags::NODEV),
        (options.noexec, MountFlags::NOEXEC),
        (options.sync, MountFlags::SYNCHRONOUS),
        (options.dirsync, MountFlags::DIRSYNC),
    ];
    chosen.into_iter().filter(|(on, _)| *on).fold(atime, |all, (_, flag)| all | flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_flags() {
        let mut options = MountOptions::default();
        options
            .parse("ro,noatime,remount,user_id=0,group_id=0,default_permissions")
            .expect("as mount(8) says it");
        assert!(options.remount);
        assert_eq!(flags(&options), MountFlags::RDONLY | MountFlags::NOATIME);
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        assert!(remount(Path::new("/"), &MountOptions::default()).is_err());
    }
}
