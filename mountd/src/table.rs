//! The kernel's table of mounts: what is mounted where.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The type that the kernel shows for our mounts.
pub const FS_TYPE: &str = "fuse.cairn";

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`, the kernel's name for the file system.
    pub device: String,
    pub fs_type: String,
    pub source: String,
}

impl Mount {
    /// Whether it is one of ours, whoever serves it.
    #[must_use]
    pub fn is_cairn(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// The topmost mount at `mount_point`. (Not by `stat`, which would ask who serves it.)
#[must_use]
pub fn mounted_at(mount_point: &Path) -> Option<Mount> {
    topmost(&fs::read("/proc/self/mountinfo").ok()?, mount_point)
}

/// At how many places that this process can see the file system is mounted.
#[must_use]
pub fn places(device: &str) -> usize {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    lines(&table).filter(|line| line.fields.get(2).is_some_and(|field| *field == device.as_bytes())).count()
}

struct Line<'a> {
    /// Up to the optional fields, and what stands after the dash that ends those.
    fields: Vec<&'a [u8]>,
    after_dash: Vec<&'a [u8]>,
}

fn lines(table: &[u8]) -> impl DoubleEndedIterator<Item = Line<'_>> {
    table.split(|byte| *byte == b'\n').map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let fields = words.by_ref().take_while(|word| *word != b"-").collect();
        Line { fields, after_dash: words.collect() }
    })
}

fn topmost(table: &[u8], mount_point: &Path) -> Option<Mount> {
    let wanted = escaped(mount_point);
    let line = lines(table).rfind(|line| line.fields.get(4).is_some_and(|path| *path == wanted))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Mount {
        device: text(line.fields.get(2)?),
        fs_type: text(line.after_dash.first()?),
        source: text(&plain(line.after_dash.get(1)?)),
    })
}

/// A path as the kernel prints it in its tables.
fn escaped(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

/// The same back.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok());
        out.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 22 0:40 / /mnt/a\\040b rw shared:3 master:1 - fuse.cairn m:/ rw\n\
        31 30 0:41 / /mnt/a\\040b rw - fuse.cairn n:/x\\040y rw\n";

    #[test]
    fn the_topmost_mount_is_found() {
        let top = topmost(TABLE, Path::new("/mnt/a b")).expect("it is in the table");
        assert!(top.is_cairn());
        assert_eq!((top.device.as_str(), top.source.as_str()), ("0:41", "n:/x y"));
        assert_eq!(topmost(TABLE, Path::new("/mnt")), None);
        assert!(!topmost(TABLE, Path::new("/")).expect("it is in the table").is_cairn());
    }

    #[test]
    fn escapes_go_both_ways() {
        let path = Path::new("/a b\\040\tc\nd");
        assert_eq!(plain(&escaped(path)), path.as_os_str().as_bytes());
        assert_eq!(plain(b"end\\0"), b"end\\0");
    }
}
