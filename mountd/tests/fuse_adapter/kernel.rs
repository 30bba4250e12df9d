//! What arrives of each kind of request, and what the kernel makes of the answers.

use super::Mounted;
use cairn_common::ids::Ino;
use cairn_mountd::fuse::control::Control;
use cairn_mountd::fuse::mount::MountOptions;
use cairn_mountd::fuse::notify::KernelNotify;
use cairn_mountd::store_all::{self, store_all};
use cairn_mountd::table;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

fn both(test: impl Fn(Mounted)) {
    for fast in [true, false] {
        if let Some(mounted) = Mounted::new(fast) {
            test(mounted);
        }
    }
}

#[test]
fn files_are_made_written_read_and_removed() {
    both(|m| {
        let path = m.path("a");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let data: Vec<u8> = (0..3 << 20).map(|n| (n % 251) as u8).collect();
        file.write_all(&data).unwrap();
        file.rewind().unwrap();
        let mut back = Vec::new();
        file.read_to_end(&mut back).unwrap();
        assert!(back == data);
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), data.len() as u64);
        drop(file);
        fs::copy(&path, m.path("b")).unwrap();
        assert!(fs::read(m.path("b")).unwrap() == data);
        fs::remove_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let record = m.fs.take_record();
        assert!(record.iter().any(|what| what == "fsync datasync=true"), "{record:?}");
        assert!(record.iter().any(|what| what == "fsync datasync=false"), "{record:?}");
    });
}

#[test]
fn all_kinds_of_inodes_are_made() {
    both(|m| {
        fs::create_dir(m.path("dir")).unwrap();
        std::os::unix::fs::symlink("a target", m.path("link")).unwrap();
        assert_eq!(fs::read_link(m.path("link")).unwrap().to_str(), Some("a target"));
        let at = rustix::fs::CWD;
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(at, m.path("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(at, m.path("null"), rustix::fs::FileType::CharacterDevice, mode, null).unwrap();
        assert!(fs::metadata(m.path("fifo")).unwrap().file_type().is_fifo());
        assert_eq!(fs::metadata(m.path("null")).unwrap().rdev(), null);
        fs::write(m.path("null"), b"x").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(m.path("sock")).unwrap();
        assert!(fs::metadata(m.path("sock")).unwrap().file_type().is_socket());
        fs::write(m.path("file"), b"x").unwrap();
        fs::hard_link(m.path("file"), m.path("file2")).unwrap();
        assert_eq!(fs::metadata(m.path("file2")).unwrap().ino(), fs::metadata(m.path("file")).unwrap().ino());
        fs::remove_dir(m.path("dir")).unwrap();
    });
}

#[test]
fn the_umask_comes_to_us() {
    let Some(m) = Mounted::new(true) else { return };
    let mask = fs::read_to_string("/proc/self/status").unwrap();
    let mask = mask.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap().trim().to_owned();
    let mask = u32::from_str_radix(&mask, 8).unwrap();
    OpenOptions::new().write(true).create_new(true).mode(0o666).open(m.path("a")).unwrap();
    assert_eq!(fs::metadata(m.path("a")).unwrap().permissions().mode() & 0o777, 0o666 & !mask);
    assert!(m.fs.take_record().contains(&format!("create 666 umask {mask:o}")));
}

#[test]
fn rename_flags_arrive() {
    both(|m| {
        fs::write(m.path("a"), b"a").unwrap();
        fs::write(m.path("b"), b"b").unwrap();
        m.fs.take_record();
        let rename = |from, to, flags| {
            rustix::fs::renameat_with(rustix::fs::CWD, m.path(from), rustix::fs::CWD, m.path(to), flags)
        };
        rename("a", "b", RenameFlags::EXCHANGE).unwrap();
        assert_eq!(fs::read(m.path("a")).unwrap(), b"b");
        rename("a", "c", RenameFlags::NOREPLACE).unwrap();
        // The kernel answers this one itself.
        assert_eq!(rename("b", "c", RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
        rename("c", "d", RenameFlags::WHITEOUT).unwrap();
        rename("d", "b", RenameFlags::empty()).unwrap();
        let record = m.fs.take_record();
        let flags: Vec<_> = record.iter().filter(|what| what.starts_with("rename")).collect();
        assert_eq!(flags, ["rename flags 2", "rename flags 1", "rename flags 4", "rename flags 0"]);
    });
}

/// Measured on Linux 6.18: `COLLAPSE_RANGE`, `INSERT_RANGE` and `UNSHARE_RANGE` are refused with
/// EOPNOTSUPP by the kernel's FUSE before it asks us; the rest arrives.
#[test]
fn which_fallocate_modes_arrive() {
    let Some(m) = Mounted::new(true) else { return };
    fs::write(m.path("a"), vec![1; 64 << 10]).unwrap();
    let file = OpenOptions::new().write(true).open(m.path("a")).unwrap();
    let keep = FallocateFlags::KEEP_SIZE;
    let punch = FallocateFlags::PUNCH_HOLE | keep;
    let (zero, zero_keep) = (FallocateFlags::ZERO_RANGE, FallocateFlags::ZERO_RANGE | keep);
    for mode in [FallocateFlags::empty(), keep, punch, zero, zero_keep] {
        rustix::fs::fallocate(&file, mode, 4096, 8192).unwrap();
    }
    let arrived: Vec<_> =
        m.fs.take_record().into_iter().filter(|what| what.starts_with("fallocate")).collect();
    let expected = [
        "fallocate Allocate { keep_size: false } 4096 8192",
        "fallocate Allocate { keep_size: true } 4096 8192",
        "fallocate PunchHole 4096 8192",
        "fallocate ZeroRange { keep_size: false } 4096 8192",
        "fallocate ZeroRange { keep_size: true } 4096 8192",
    ];
    assert_eq!(arrived, expected);
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE, FallocateFlags::UNSHARE_RANGE]
    {
        let refused = rustix::fs::fallocate(&file, mode, 4096, 8192);
        assert_eq!(refused, Err(rustix::io::Errno::OPNOTSUPP), "{mode:?}");
    }
    assert!(!m.fs.take_record().iter().any(|what| what.starts_with("fallocate")), "the kernel has changed");
}

#[test]
fn unnamed_files_get_a_name_later() {
    both(|m| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let fd = rustix::fs::open(m.dir.path(), flags, Mode::from_raw_mode(0o600)).unwrap();
        let mut file = File::from(fd);
        file.write_all(b"unnamed").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        let proc = format!("/proc/self/fd/{}", file.as_raw_fd());
        let at = rustix::fs::CWD;
        rustix::fs::linkat(at, &proc, at, m.path("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
        assert_eq!(fs::read(m.path("named")).unwrap(), b"unnamed");
        assert!(m.fs.take_record().contains(&"tmpfile excl=false".to_owned()));
    });
}

#[test]
fn truncation_by_open_is_a_setattr() {
    let Some(m) = Mounted::new(true) else { return };
    fs::write(m.path("a"), b"something").unwrap();
    m.fs.take_record();
    drop(OpenOptions::new().write(true).truncate(true).open(m.path("a")).unwrap());
    let record = m.fs.take_record();
    // Root keeps CAP_FSETID, so nothing is to be cleared.
    assert!(record.contains(&"setattr size=Some(0) kill=false".to_owned()), "{record:?}");
    assert_eq!(fs::metadata(m.path("a")).unwrap().len(), 0);
}

/// The kernel refuses to cut a running program, but with `ATOMIC_O_TRUNC` only after the file system has
/// cut it in `open`: the program was lost, and died of it.
#[test]
fn a_running_program_is_not_cut() {
    let Some(m) = Mounted::new(true) else { return };
    let program = m.path("program");
    // Not written by this process: a child that another test forks would hold it open for writing.
    assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
    let mut running = Command::new(&program).arg("60").spawn().unwrap();
    let cut = OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(&program);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(cut.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
    assert_eq!(fs::read(&program).unwrap(), fs::read("/bin/sleep").unwrap());
}

#[test]
fn large_directories_are_listed_whole() {
    both(|m| {
        let names: Vec<String> = (0..3000).map(|n| format!("{n:04}-{}", "x".repeat(n % 200))).collect();
        for name in &names {
            drop(File::create(m.path(name)).unwrap());
        }
        for _pass in 0..2 {
            let mut seen: Vec<String> = Vec::new();
            for entry in fs::read_dir(m.dir.path()).unwrap() {
                let entry = entry.unwrap();
                assert!(entry.metadata().unwrap().is_file());
                seen.push(entry.file_name().into_string().unwrap());
            }
            seen.sort();
            assert!(seen == names, "{} names", seen.len());
        }
    });
}

#[test]
fn data_in_pieces_arrives_whole() {
    both(|m| {
        // 1: more segments than one reply can carry; 100,000: holes that are longer than the block of zeros.
        for size in [1, 700, 100_000, 300_000] {
            let path = m.path(&format!("pieces-{size}"));
            let mut data: Vec<u8> = (0..900_000_u32).map(|n| (n % 253) as u8).collect();
            data[200_000..600_000].fill(0);
            fs::write(&path, &data).unwrap();
            let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
            for (offset, length) in [(0, 900_000), (100, 5000), (199_999, 300), (899_000, 4096)] {
                let mut buffer = vec![0xee; length];
                let count = file.read_at(&mut buffer, offset as u64).unwrap();
                let end = data.len().min(offset + length);
                assert!(buffer[..count] == data[offset..end], "pieces of {size}, {offset}+{length}");
            }
        }
    });
}

#[test]
fn xattrs_honour_the_size_of_the_buffer() {
    both(|m| {
        fs::write(m.path("a"), b"").unwrap();
        let path = m.path("a");
        rustix::fs::setxattr(&path, "user.one", b"first value", XattrFlags::CREATE).unwrap();
        let again = rustix::fs::setxattr(&path, "user.one", b"x", XattrFlags::CREATE);
        assert_eq!(again, Err(rustix::io::Errno::EXIST));
        rustix::fs::setxattr(&path, "user.two", b"2", XattrFlags::empty()).unwrap();
        let mut buffer = [0; 64];
        let length = rustix::fs::getxattr(&path, "user.one", &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"first value");
        let short = rustix::fs::getxattr(&path, "user.one", &mut [0_u8; 3][..]);
        assert_eq!(short, Err(rustix::io::Errno::RANGE));
        let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: both strings end in NUL; a null buffer of size 0 asks for the size.
        let size = unsafe { libc::getxattr(c_path.as_ptr(), c"user.one".as_ptr(), std::ptr::null_mut(), 0) };
        assert_eq!(size, 11);
        let length = rustix::fs::listxattr(&path, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"user.one\0user.two\0");
        rustix::fs::removexattr(&path, "user.one").unwrap();
        let gone = rustix::fs::getxattr(&path, "user.one", &mut buffer);
        assert_eq!(gone, Err(rustix::io::Errno::NODATA));
    });
}

#[test]
fn seek_copy_range_and_statfs() {
    both(|m| {
        fs::write(m.path("a"), b"0123456789").unwrap();
        let from = File::open(m.path("a")).unwrap();
        assert_eq!(rustix::fs::seek(&from, SeekFrom::Data(3)), Ok(3));
        assert_eq!(rustix::fs::seek(&from, SeekFrom::Hole(3)), Ok(10));
        assert_eq!(rustix::fs::seek(&from, SeekFrom::Data(10)), Err(rustix::io::Errno::NXIO));
        let to = OpenOptions::new().write(true).create(true).truncate(true).open(m.path("b")).unwrap();
        let copied = rustix::fs::copy_file_range(&from, Some(&mut 2), &to, Some(&mut 0), 100).unwrap();
        assert_eq!(copied, 8);
        assert_eq!(fs::read(m.path("b")).unwrap(), b"23456789");
        let stat = rustix::fs::statvfs(m.dir.path()).unwrap();
        assert_eq!((stat.f_blocks, stat.f_bavail, stat.f_ffree, stat.f_namemax), (1000, 400, 8, 255));
    });
}

#[test]
fn times_keep_nanoseconds_also_before_1970() {
    let Some(m) = Mounted::new(true) else { return };
    let file = File::create(m.path("a")).unwrap();
    for time in [Duration::new(1_700_000_000, 123_456_789), Duration::new(0, 1)] {
        file.set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
        let modified = fs::metadata(m.path("a")).unwrap();
        assert_eq!(
            (modified.mtime(), modified.mtime_nsec()),
            (time.as_secs() as i64, i64::from(time.subsec_nanos()))
        );
    }
    file.set_modified(SystemTime::UNIX_EPOCH - Duration::new(1, 250_000_000)).unwrap();
    let modified = fs::metadata(m.path("a")).unwrap();
    assert_eq!((modified.mtime(), modified.mtime_nsec()), (-2, 750_000_000));
}

#[test]
fn a_panic_costs_one_request() {
    let Some(m) = Mounted::new(true) else { return };
    for name in ["panic", "panic-now", "panic-now", "panic-now", "panic-now"] {
        let error = fs::metadata(m.path(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
    fs::write(m.path("a"), b"still here").unwrap();
    assert_eq!(fs::read(m.path("a")).unwrap(), b"still here");
}

#[test]
fn what_the_kernel_caches_is_taken_back() {
    let Some(m) = Mounted::new(true) else { return };
    fs::write(m.path("a"), b"old").unwrap();
    let ino = fs::metadata(m.path("a")).unwrap().ino();
    assert_eq!(fs::read(m.path("a")).unwrap(), b"old");
    // A read makes the kernel ask for attributes once more (atime).
    fs::metadata(m.path("a")).unwrap();
    m.fs.change_data(ino, b"newer");
    assert_eq!(fs::metadata(m.path("a")).unwrap().len(), 3);
    let kernel = m.session().notifier();
    kernel.inval_inode(Ino(ino), 0, 0).unwrap();
    assert_eq!(fs::metadata(m.path("a")).unwrap().len(), 5);
    assert_eq!(fs::read(m.path("a")).unwrap(), b"newer");
    // Not known to the kernel: no error.
    kernel.inval_inode(Ino(999), -1, 0).unwrap();
    kernel.inval_entry(Ino::ROOT, b"never seen", true).unwrap();
    m.fs.wait_for_lookups("a", 1);
    kernel.inval_entry(Ino::ROOT, b"a", true).unwrap();
    fs::metadata(m.path("a")).unwrap();
    m.fs.wait_for_lookups("a", 2);
    kernel.inval_entry(Ino::ROOT, b"a", false).unwrap();
    m.fs.wait_for_lookups("a", 0);
    match kernel.epoch() {
        Ok(()) => {
            fs::metadata(m.path("a")).unwrap();
            m.fs.wait_for_lookups("a", 1);
        }
        // Before Linux 6.16.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
    }
}

/// A recall that comes while a lookup is under way: its answer must not be cached.
#[test]
fn answers_under_way_are_not_cached_after_a_recall() {
    for recalled in [false, true] {
        let Some(m) = Mounted::new(true) else { return };
        m.fs.add_file("hold");
        let path = m.path("hold");
        let lookup = std::thread::spawn(move || fs::metadata(path).unwrap());
        m.fs.wait_for("held hold");
        if recalled {
            m.fs.gate.revoke();
        }
        m.fs.release_held();
        lookup.join().unwrap();
        m.fs.take_record();
        fs::metadata(m.path("hold")).unwrap();
        let asked_again = m.fs.take_record().iter().any(|what| what == "held hold");
        assert_eq!(asked_again, recalled);
    }
}

#[test]
fn mount_options_reach_the_kernel() {
    let options = MountOptions {
        source: "host1,host2:/a b".into(),
        read_only: true,
        allow_other: true,
        nosuid: true,
        nodev: true,
        noexec: true,
        noatime: true,
        kernel: vec!["max_read=65536".into()],
        ..MountOptions::default()
    };
    let Some(m) = Mounted::with(true, &options) else { return };
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(m.dir.path().to_str().unwrap())).unwrap();
    let fields: Vec<&str> = line.split(' ').collect();
    assert_eq!(fields[0], "host1,host2:/a\\040b");
    assert_eq!(fields[2], "fuse.cairn");
    let words: Vec<&str> = fields[3].split(',').collect();
    for word in
        ["ro", "nosuid", "nodev", "noexec", "noatime", "default_permissions", "allow_other", "max_read=65536"]
    {
        assert!(words.contains(&word), "{word} in {line}");
    }
    assert_eq!(fs::write(m.path("a"), b"x").unwrap_err().raw_os_error(), Some(libc::EROFS));
}

#[test]
fn a_busy_mount_goes_on_and_can_be_unmounted_later() {
    let Some(mut m) = Mounted::new(true) else { return };
    let mut file = File::create(m.path("a")).unwrap();
    let refused = m.session().unmount(false).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EBUSY));
    file.write_all(b"goes on").unwrap();
    drop(file);
    // RELEASE is sent after close has returned, and keeps the mount busy until then.
    m.fs.wait_for("release");
    assert_eq!(m.fs.opens(), 0);
    let ended = m.session().ended();
    assert!(!ended.is_cancelled());
    m.session().unmount(false).unwrap();
    m.session.take().unwrap().join().unwrap();
    assert!(ended.is_cancelled());
    assert!(m.fs.take_record().contains(&"destroy".to_owned()));
    assert_eq!(fs::read_dir(m.dir.path()).unwrap().count(), 0);
}

#[test]
fn an_unmount_from_outside_ends_the_session() {
    let Some(mut m) = Mounted::new(true) else { return };
    let ended = m.session().ended();
    let status = std::process::Command::new("umount").arg(m.dir.path()).status().unwrap();
    assert!(status.success());
    m.session.take().unwrap().join().unwrap();
    assert!(ended.is_cancelled());
}

#[test]
fn everything_is_stored_on_request() {
    let Some(m) = Mounted::new(true) else { return };
    assert_eq!(store_all(&store_all::open(m.dir.path()).unwrap()), Ok(std::process::id()));
    assert!(m.fs.take_record().contains(&"store_all".to_owned()));
    // Elsewhere nobody knows the question.
    assert_eq!(store_all(&store_all::open(Path::new("/proc")).unwrap()), Err(rustix::io::Errno::NOTTY));
}

#[test]
fn an_abort_lets_everyone_go() {
    let Some(mut m) = Mounted::new(true) else { return };
    let path = m.path("hold");
    let waiting = std::thread::spawn(move || fs::metadata(path).unwrap_err());
    m.fs.wait_for("held hold");
    assert!(m.session().abort().unwrap());
    let error = waiting.join().unwrap().raw_os_error();
    assert!(matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error:?}");
    m.session.take().unwrap().join().unwrap();
    assert_eq!(fs::read_dir(m.dir.path()).unwrap().count(), 0);
}

#[test]
fn the_control_files_count_who_waits_and_end_the_connection() {
    let Some(mut m) = Mounted::new(true) else { return };
    let place = m.dir.path().canonicalize().unwrap();
    let device = table::mounted_at(&place).unwrap().device;
    let control = Control::open(&device).unwrap();
    assert!(Control::open(device.split_once(':').unwrap().1).is_err(), "half of its number");
    assert_eq!(control.waiting().unwrap(), 0);
    let path = m.path("hold");
    let (told, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(fs::metadata(path).unwrap_err()));
    m.fs.wait_for("held hold");
    assert_eq!(control.waiting().unwrap(), 1);
    // Another connection's files are not these.
    let other = Mounted::new(true).unwrap();
    let elsewhere = table::mounted_at(&other.dir.path().canonicalize().unwrap()).unwrap().device;
    assert_eq!(Control::open(&elsewhere).unwrap().waiting().unwrap(), 0);
    control.abort().unwrap();
    let error = waiting.recv_timeout(Duration::from_secs(20)).expect("it waits on").raw_os_error();
    assert!(matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error:?}");
    assert_eq!(fs::read_dir(other.dir.path()).unwrap().count(), 0, "it goes on");
    // Takes away the mount, which is still there.
    assert!(m.session().abort().unwrap());
    m.session.take().unwrap().join().unwrap();
    // Not by its number, which is another test's by now, perhaps.
    assert_eq!(table::mounted_at(&place), None);
}

#[test]
fn a_mount_that_was_left_lazily_can_be_aborted() {
    let Some(mut m) = Mounted::new(true) else { return };
    // Somebody stays in it, and the tree is gone from the name space: only the kernel's control files are left.
    let inside = fs::File::open(m.dir.path()).unwrap();
    m.session().unmount(true).unwrap();
    assert!(!m.session().ended().is_cancelled());
    assert!(m.session().abort().unwrap());
    m.session.take().unwrap().join().unwrap();
    drop(inside);
}
