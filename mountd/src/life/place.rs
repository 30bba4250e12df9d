//! Where life files are: a directory that nobody else can write to, on this machine.

use super::record::BootId;
use rustix::fs::{self, Mode, OFlags};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Names another directory.
pub const VARIABLE: &str = "CAIRN_RUN_DIR";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The directory for a user: `named` is what [`VARIABLE`] says, `runtime` what `XDG_RUNTIME_DIR` says.
#[must_use]
pub fn choose(uid: u32, named: Option<PathBuf>, runtime: Option<PathBuf>) -> PathBuf {
    let runtime = runtime.filter(|path| path.is_absolute());
    match (named.filter(|path| path.is_absolute()), uid, runtime) {
        (Some(named), _, _) => named,
        (None, 0, _) => "/run/cairn".into(),
        (None, _, Some(runtime)) => runtime.join("cairn"),
        // Not below the home directory, which other machines may share.
        (None, uid, None) => format!("/tmp/cairn-{uid}").into(),
    }
}

/// The directory of this process, made if it is missing.
///
/// # Errors
/// If it can't be made, or is not ours alone.
pub fn open() -> io::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let uid = rustix::process::geteuid().as_raw();
    let path = choose(uid, variable(VARIABLE), variable("XDG_RUNTIME_DIR"));
    prepare(&path, uid)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(path)
}

fn prepare(path: &Path, uid: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Not through a link that somebody else may have put there.
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = std::fs::File::from(fs::open(path, flags, Mode::empty())?);
    let metadata = directory.metadata()?;
    if metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may write to it"));
    }
    Ok(())
}

/// Which run of which kernel this is.
///
/// # Errors
/// If the kernel does not say so.
pub fn boot_id() -> io::Result<BootId> {
    parse_boot_id(&std::fs::read_to_string(BOOT_ID)?)
        .ok_or_else(|| io::Error::other(format!("{BOOT_ID} is not understood")))
}

fn parse_boot_id(text: &str) -> Option<BootId> {
    u128::from_str_radix(&text.trim().replace('-', ""), 16).ok().map(BootId)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn each_user_has_a_directory() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(choose(0, None, path("/run/user/0")), Path::new("/run/cairn"));
        assert_eq!(choose(7, None, path("/run/user/7")), Path::new("/run/user/7/cairn"));
        assert_eq!(choose(7, None, None), Path::new("/tmp/cairn-7"));
        assert_eq!(choose(7, None, path("relative")), Path::new("/tmp/cairn-7"));
        assert_eq!(choose(0, path("/elsewhere"), None), Path::new("/elsewhere"));
        assert_eq!(choose(0, path("relative"), None), Path::new("/run/cairn"));
    }

    #[test]
    fn a_directory_is_made_for_its_owner_only() {
        let (dir, uid) = (tempfile::tempdir().unwrap(), rustix::process::geteuid().as_raw());
        let path = dir.path().join("cairn");
        prepare(&path, uid).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o700);
        prepare(&path, uid).unwrap();
        assert!(prepare(&path, uid + 1).is_err(), "of somebody else");
        symlink(&path, dir.path().join("link")).unwrap();
        assert!(prepare(&dir.path().join("link"), uid).is_err(), "a link");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(prepare(&path, uid).is_err(), "others may write");
        assert!(prepare(&dir.path().join("missing/cairn"), uid).is_err());
    }

    #[test]
    fn the_kernel_names_its_run() {
        assert_eq!(parse_boot_id("00000000-0000-0000-0000-0000000000ff\n"), Some(BootId(255)));
        assert_eq!(parse_boot_id("nothing"), None);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
