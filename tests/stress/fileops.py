#!/usr/bin/env python3
"""Single-mount semantics that no outside suite covers: fallocate modes, holes, rename flags, copies, exact space counts.

Usage: fileops.py DIR [CASE]
"""

import errno
import hashlib
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading

from common import (COLLAPSE_RANGE, INSERT_RANGE, KEEP_SIZE, PUNCH_HOLE, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT,
                    ZERO_RANGE, check, fails_with, fallocate, linkat_fd, renameat2, run_all, same, same_bytes, seeded, wait_for)

BLOCK = 4096


def new_file(path, data=b""):
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    check(os.write(fd, data) == len(data), "short write")
    return fd


def content(fd):
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


def pattern(blocks, start=1):
    return b"".join(bytes([start + i]) * BLOCK for i in range(blocks))


# ---- fallocate -------------------------------------------------------------------------------------------------------

def fallocate_plain_grows(d):
    fd = new_file(f"{d}/f", b"abc")
    fallocate(fd, 0, 0, 3 * BLOCK)
    same(os.fstat(fd).st_size, 3 * BLOCK, "size")
    same_bytes(content(fd), b"abc" + bytes(3 * BLOCK - 3), "content")
    check(os.fstat(fd).st_blocks * 512 >= 3 * BLOCK, "preallocated space is counted: st_blocks", os.fstat(fd).st_blocks)


def fallocate_keep_size(d):
    fd = new_file(f"{d}/f", b"abc")
    fallocate(fd, KEEP_SIZE, 0, 10 * BLOCK)
    same(os.fstat(fd).st_size, 3, "size")
    same_bytes(content(fd), b"abc", "content")
    os.ftruncate(fd, 2 * BLOCK)
    same_bytes(content(fd), b"abc" + bytes(2 * BLOCK - 3), "content after growing into what was preallocated")


def fallocate_punch_hole(d):
    fd = new_file(f"{d}/f", pattern(6))
    before = os.fstat(fd)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, BLOCK + 100, 3 * BLOCK)
    want = bytearray(pattern(6))
    want[BLOCK + 100:4 * BLOCK + 100] = bytes(3 * BLOCK)
    same_bytes(content(fd), bytes(want), "content")
    os.fsync(fd)
    after = os.fstat(fd)
    same(after.st_size, before.st_size, "size")
    check(after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns, "times move")
    check(after.st_blocks * 512 <= 4 * BLOCK, "the hole is not counted: st_blocks", after.st_blocks)
    same_bytes(os.pread(os.open(f"{d}/f", os.O_RDONLY), 6 * BLOCK, 0), bytes(want), "through another open")
    fails_with(errno.EOPNOTSUPP, fallocate, fd, PUNCH_HOLE, 0, BLOCK)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 5 * BLOCK, 100 * BLOCK)
    same(os.fstat(fd).st_size, 6 * BLOCK, "size after a hole beyond the end")


def fallocate_zero_range(d):
    fd = new_file(f"{d}/f", pattern(4))
    fallocate(fd, ZERO_RANGE, 100, 2 * BLOCK)
    want = bytearray(pattern(4))
    want[100:2 * BLOCK + 100] = bytes(2 * BLOCK)
    same_bytes(content(fd), bytes(want), "content")
    fallocate(fd, ZERO_RANGE | KEEP_SIZE, 3 * BLOCK, 5 * BLOCK)
    same(os.fstat(fd).st_size, 4 * BLOCK, "size with KEEP_SIZE")
    fallocate(fd, ZERO_RANGE, 3 * BLOCK, 5 * BLOCK)
    same(os.fstat(fd).st_size, 8 * BLOCK, "size without")
    want[3 * BLOCK:] = bytes(5 * BLOCK)
    same_bytes(content(fd), bytes(want), "content after growing")


def shifts_ranges(d):
    """Whether COLLAPSE_RANGE and INSERT_RANGE can reach the file system: Linux refuses both for all of FUSE, before asking."""
    fd = new_file(f"{d}/shifts", pattern(3))
    try:
        fallocate(fd, COLLAPSE_RANGE, 0, BLOCK)
        return True
    except OSError as e:
        same(os.strerror(e.errno), os.strerror(errno.EOPNOTSUPP), "errno of COLLAPSE_RANGE")
        same_bytes(content(fd), pattern(3), "content after the refusal")
        kind = subprocess.run(["stat", "-f", "-c", "%T", d], capture_output=True, text=True, check=True).stdout.strip()
        check(kind.startswith("fuse"), "COLLAPSE_RANGE is refused on", kind)
        return False


def fallocate_collapse_range(d):
    if not shifts_ranges(d):
        return
    fd = new_file(f"{d}/f", pattern(6) + b"tail")
    fallocate(fd, COLLAPSE_RANGE, BLOCK, 2 * BLOCK)
    same_bytes(content(fd), pattern(1) + pattern(3, 4) + b"tail", "content")
    os.fsync(fd)
    same_bytes(content(os.open(f"{d}/f", os.O_RDONLY)), pattern(1) + pattern(3, 4) + b"tail", "after fsync")
    fails_with(errno.EINVAL, fallocate, fd, COLLAPSE_RANGE, 3 * BLOCK, 10 * BLOCK)


def fallocate_insert_range(d):
    if not shifts_ranges(d):
        return
    fd = new_file(f"{d}/f", pattern(4) + b"tail")
    fallocate(fd, INSERT_RANGE, 2 * BLOCK, 3 * BLOCK)
    want = pattern(2) + bytes(3 * BLOCK) + pattern(2, 3) + b"tail"
    same_bytes(content(fd), want, "content")
    os.pwrite(fd, b"x" * 10, 2 * BLOCK)
    os.fsync(fd)
    same_bytes(content(fd), want[:2 * BLOCK] + b"x" * 10 + want[2 * BLOCK + 10:], "after writing into the gap")
    fails_with(errno.EINVAL, fallocate, fd, INSERT_RANGE, 20 * BLOCK, BLOCK)


def fallocate_refusals(d):
    fd = new_file(f"{d}/f", b"abc")
    fails_with(errno.EINVAL, fallocate, fd, 0, 0, 0)
    fails_with(errno.EINVAL, fallocate, fd, 0, -1, 10)
    fails_with(errno.EBADF, fallocate, os.open(f"{d}/f", os.O_RDONLY), 0, 0, 10)
    # The kernel answers EFBIG, or the file system does; what may not happen is success or a size that changed.
    fails_with(errno.EFBIG, fallocate, fd, 0, (1 << 63) - BLOCK, 2 * BLOCK)
    same(os.fstat(fd).st_size, 3, "size after refusals")


def holes_random(d):
    """Random writes, holes, zeroes, truncates, collapses and insertions against a byte array."""
    rng, shifts = seeded("holes_random"), shifts_ranges(d)
    fd = new_file(f"{d}/f")
    model = bytearray()
    for step in range(400):
        kind = rng.choice(["write", "write", "punch", "zero", "truncate", "collapse", "insert", "fsync", "reopen"])
        at, length = rng.randrange(0, 40 * BLOCK), rng.randrange(1, 6 * BLOCK)
        if kind == "write":
            data = rng.randbytes(length)
            model.extend(bytes(max(0, at + length - len(model))))
            model[at:at + length] = data
            os.pwrite(fd, data, at)
        elif kind == "punch":
            fallocate(fd, PUNCH_HOLE | KEEP_SIZE, at, length)
            end = min(at + length, len(model))
            if at < end:
                model[at:end] = bytes(end - at)
        elif kind == "zero":
            fallocate(fd, ZERO_RANGE, at, length)
            model.extend(bytes(max(0, at + length - len(model))))
            model[at:at + length] = bytes(length)
        elif kind == "truncate":
            os.ftruncate(fd, at)
            model = model[:at] + bytes(max(0, at - len(model)))
        elif kind in ("collapse", "insert"):
            if not shifts:
                continue
            at, length = at // BLOCK * BLOCK, (length // BLOCK + 1) * BLOCK
            if kind == "collapse" and at + length < len(model):
                fallocate(fd, COLLAPSE_RANGE, at, length)
                del model[at:at + length]
            elif kind == "insert" and at < len(model):
                fallocate(fd, INSERT_RANGE, at, length)
                model[at:at] = bytes(length)
        elif kind == "fsync":
            os.fsync(fd)
        else:
            os.close(fd)
            fd = os.open(f"{d}/f", os.O_RDWR)
        same_bytes(content(fd), bytes(model), f"step {step} {kind} {at}+{length}")


# ---- holes -----------------------------------------------------------------------------------------------------------

def seek_hole_and_data(d):
    fd = new_file(f"{d}/f")
    data_ranges = [(1 << 20, 64 << 10), (8 << 20, 64 << 10)]
    for at, length in data_ranges:
        os.pwrite(fd, b"d" * length, at)
    os.ftruncate(fd, 16 << 20)
    for moment in ("before", "after"):
        where, seen = 0, []
        while True:
            try:
                start = os.lseek(fd, where, os.SEEK_DATA)
            except OSError as e:
                same(e.errno, errno.ENXIO, "errno past the last data")
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            seen.append((start, end - start))
            where = end
        same(seen, data_ranges, f"data ranges {moment} fsync")
        same(os.lseek(fd, 0, os.SEEK_HOLE), 0, "first hole")
        same(os.lseek(fd, 15 << 20, os.SEEK_HOLE), 15 << 20, "hole at the end")
        same(os.lseek(fd, 8 << 20, os.SEEK_HOLE), (8 << 20) + (64 << 10), "hole after data")
        fails_with(errno.ENXIO, os.lseek, fd, 16 << 20, os.SEEK_HOLE)
        fails_with(errno.ENXIO, os.lseek, fd, 16 << 20, os.SEEK_DATA)
        os.fsync(fd)
    full = new_file(f"{d}/full", b"x" * 10000)
    same(os.lseek(full, 0, os.SEEK_HOLE), 10000, "a file without holes has one at its end")
    fails_with(errno.ENXIO, os.lseek, new_file(f"{d}/empty"), 0, os.SEEK_DATA)


def sparse_huge(d):
    fd = new_file(f"{d}/f")
    os.pwrite(fd, b"end", (1 << 40) - 3)
    same(os.fstat(fd).st_size, 1 << 40, "size")
    os.fsync(fd)
    check(os.fstat(fd).st_blocks * 512 <= 64 << 10, "a sparse terabyte is small: st_blocks", os.fstat(fd).st_blocks)
    same_bytes(os.pread(fd, 100, 1 << 39), bytes(100), "the hole")
    same_bytes(os.pread(fd, 100, (1 << 40) - 5), b"\0\0end", "the end")
    os.ftruncate(fd, 0)
    same(os.fstat(fd).st_blocks, 0, "blocks after truncation")


# ---- rename, links ---------------------------------------------------------------------------------------------------

def rename_noreplace(d):
    os.close(new_file(f"{d}/a", b"a"))
    os.close(new_file(f"{d}/b", b"b"))
    fails_with(errno.EEXIST, renameat2, f"{d}/a", f"{d}/b", RENAME_NOREPLACE)
    renameat2(f"{d}/a", f"{d}/c", RENAME_NOREPLACE)
    same(sorted(os.listdir(d)), ["b", "c"], "names")
    fails_with(errno.EINVAL, renameat2, f"{d}/b", f"{d}/c", RENAME_NOREPLACE | RENAME_EXCHANGE)
    fails_with(errno.EINVAL, renameat2, f"{d}/b", f"{d}/c", 64)


def rename_exchange(d):
    os.close(new_file(f"{d}/file", b"file"))
    os.makedirs(f"{d}/x/dir/sub")
    file_ino, dir_ino = os.stat(f"{d}/file").st_ino, os.stat(f"{d}/x/dir").st_ino
    renameat2(f"{d}/file", f"{d}/x/dir", RENAME_EXCHANGE)
    same((os.stat(f"{d}/x/dir").st_ino, os.stat(f"{d}/file").st_ino), (file_ino, dir_ino), "inodes")
    same(os.listdir(f"{d}/file"), ["sub"], "directory moved")
    same((os.stat(d).st_nlink, os.stat(f"{d}/x").st_nlink), (4, 2), "parents' links")
    fails_with(errno.ENOENT, renameat2, f"{d}/file", f"{d}/none", RENAME_EXCHANGE)
    fails_with(errno.EINVAL, renameat2, f"{d}/file", f"{d}/file/sub", RENAME_EXCHANGE)


def rename_whiteout(d):
    if os.geteuid() != 0:
        return
    os.close(new_file(f"{d}/a", b"a"))
    renameat2(f"{d}/a", f"{d}/b", RENAME_WHITEOUT)
    left = os.lstat(f"{d}/a")
    check(stat.S_ISCHR(left.st_mode) and left.st_rdev == 0, "a whiteout is a character device 0/0, saw mode", oct(left.st_mode))
    same(open(f"{d}/b", "rb").read(), b"a", "content")


def rename_replace_is_atomic(d):
    """A reader of the name sees the old or the new file whole, and never none."""
    versions = [bytes([65 + i]) * 5000 for i in range(5)]
    os.close(new_file(f"{d}/f", versions[0]))
    stop, errors = threading.Event(), []

    def reader():
        while not stop.is_set():
            try:
                with open(f"{d}/f", "rb") as f:
                    if f.read() not in versions:
                        errors.append("a mixed or short file")
            except OSError as e:
                errors.append(str(e))

    thread = threading.Thread(target=reader)
    thread.start()
    for i in range(300):
        os.close(new_file(f"{d}/tmp", versions[i % 5]))
        os.rename(f"{d}/tmp", f"{d}/f")
    stop.set()
    thread.join()
    same(errors[:3], [], "what the reader saw")


def unlinked_but_open(d):
    fd = new_file(f"{d}/f", b"before")
    os.unlink(f"{d}/f")
    same(os.listdir(d), [], "names")
    os.pwrite(fd, b"after!" * 10000, 0)
    os.fsync(fd)
    same(os.fstat(fd).st_nlink, 0, "links")
    same_bytes(content(fd), b"after!" * 10000, "content")
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    same_bytes(content(again), b"after!" * 10000, "through a second open")


def tmpfile_and_linkat(d):
    try:
        fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as e:
        check(e.errno == errno.EOPNOTSUPP, "O_TMPFILE may be refused only with EOPNOTSUPP, saw", e)
        return
    os.write(fd, b"anonymous")
    same(os.listdir(d), [], "no name yet")
    linkat_fd(fd, f"{d}/named")
    same(open(f"{d}/named", "rb").read(), b"anonymous", "content")


# ---- copies, maps ----------------------------------------------------------------------------------------------------

def copy_file_range_everywhere(d):
    rng = seeded("copy_file_range")
    data = rng.randbytes(3 << 20)
    source, target = new_file(f"{d}/s", data), new_file(f"{d}/t")
    model = bytearray()
    for _ in range(60):
        at, to, length = rng.randrange(len(data)), rng.randrange(2 << 20), rng.randrange(1, 300000)
        copied = os.copy_file_range(source, target, length, at, to)
        check(copied > 0, "nothing copied")
        model.extend(bytes(max(0, to + copied - len(model))))
        model[to:to + copied] = data[at:at + copied]
    same_bytes(content(target), bytes(model), "target")
    same_bytes(content(source), data, "source")
    os.pwrite(source, b"changed", 1000)
    same_bytes(content(target), bytes(model), "target after the source changed")


def copy_shares_space(d):
    """A copy by copy_file_range takes (nearly) no new space. Only where the file system shares extents."""
    if os.environ.get("EXPECT_SHARED_COPY") != "1":
        return
    fd = new_file(f"{d}/s", os.urandom(16 << 20))
    os.fsync(fd)
    before = os.statvfs(d)
    target, done = new_file(f"{d}/t"), 0
    while done < 16 << 20:
        done += os.copy_file_range(fd, target, (16 << 20) - done, done, done)
    os.fsync(target)
    after = os.statvfs(d)
    taken = (before.f_bfree - after.f_bfree) * before.f_frsize
    check(taken < 1 << 20, "a shared copy of 16 MiB took", taken, "bytes")
    same_bytes(content(target), content(fd), "copy")


def mmap_shared(d):
    fd = new_file(f"{d}/f", bytes(1 << 20))
    with mmap.mmap(fd, 1 << 20) as m:
        m[100:105] = b"mmap!"
        m[-5:] = b"final"
        same_bytes(os.pread(fd, 5, 100), b"mmap!", "read sees the map")
        os.pwrite(fd, b"write", 5000)
        same_bytes(m[5000:5005], b"write", "map sees the write")
        m.flush()
    same_bytes(hashlib.sha256(content(os.open(f"{d}/f", os.O_RDONLY))).digest(), hashlib.sha256(content(fd)).digest(), "after unmap")
    same_bytes(os.pread(fd, 5, (1 << 20) - 5), b"final", "last bytes")


def append_mode(d):
    fd = os.open(f"{d}/f", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    other = os.open(f"{d}/f", os.O_WRONLY | os.O_APPEND)
    for i in range(200):
        os.write(fd if i % 2 else other, b"%07d\n" % i)
    same_bytes(content(fd), b"".join(b"%07d\n" % i for i in range(200)), "content")


# ---- attributes ------------------------------------------------------------------------------------------------------

def times_move_forward(d):
    fd = new_file(f"{d}/f", b"x")
    last = os.fstat(fd)
    for name, action in [("write", lambda: os.pwrite(fd, b"y", 0)), ("truncate", lambda: os.ftruncate(fd, 0)),
                         ("append", lambda: os.pwrite(fd, b"zz", 0))] * 20:
        # A file system with coarse time stamps (ext4: one kernel tick) needs a moment; then each change must show.
        wait_for(lambda: _touch_moves(fd, action, last), 1, f"mtime and ctime move after {name}")
        last = os.fstat(fd)
    ctime = last.st_ctime_ns
    for action in (lambda: os.fchmod(fd, 0o600), lambda: os.link(f"{d}/f", f"{d}/g"), lambda: os.unlink(f"{d}/g")):
        threading.Event().wait(0.02)
        action()
        check(os.fstat(fd).st_ctime_ns > ctime, "ctime moves")
        ctime = os.fstat(fd).st_ctime_ns
    same(os.fstat(fd).st_mtime_ns, last.st_mtime_ns, "mtime stays when only attributes change")


def _touch_moves(fd, action, last):
    action()
    now = os.fstat(fd)
    return now.st_mtime_ns > last.st_mtime_ns and now.st_ctime_ns > last.st_ctime_ns


def nanosecond_times(d):
    os.close(new_file(f"{d}/f"))
    for when in (0, 1, 1234567890_123456789, 4294967296_000000001, -1_000000001):
        os.utime(f"{d}/f", ns=(when, when))
        st = os.stat(f"{d}/f")
        same((st.st_atime_ns, st.st_mtime_ns), (when, when), "times")


def xattrs(d):
    path = f"{d}/f"
    os.close(new_file(path))
    names = [f"user.n{i}" for i in range(20)]
    for i, name in enumerate(names):
        os.setxattr(path, name, os.urandom(i * 10))
    same(sorted(n for n in os.listxattr(path) if n.startswith("user.")), sorted(names), "names")
    fails_with(errno.EEXIST, os.setxattr, path, "user.n1", b"", os.XATTR_CREATE)
    fails_with(errno.ENODATA, os.setxattr, path, "user.none", b"", os.XATTR_REPLACE)
    fails_with(errno.ENODATA, os.getxattr, path, "user.none")
    fails_with(errno.ENODATA, os.removexattr, path, "user.none")
    fails_with(errno.EINVAL, os.setxattr, path, "user.", b"x")
    os.setxattr(path, "user.n1", b"new", os.XATTR_REPLACE)
    same(os.getxattr(path, "user.n1"), b"new", "value")
    for name in names:
        os.removexattr(path, name)
    same([n for n in os.listxattr(path) if n.startswith("user.")], [], "names after removal")


def only_root_sees_trusted_xattrs(d):
    if os.geteuid() != 0:
        return
    path = f"{d}/f"
    os.close(new_file(path))
    os.setxattr(path, "trusted.secret", b"x")
    same("trusted.secret" in os.listxattr(path), True, "trusted name for root")
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os._exit(1 if "trusted.secret" in os.listxattr(path) else 0)
        except PermissionError:
            os._exit(0)  # a directory above, or a mount for its owner only
    same(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, "trusted name for others")


def suid_cleared_by_write(d):
    if os.geteuid() != 0:
        return
    fd = new_file(f"{d}/f", b"x")
    os.chmod(f"{d}/f", 0o6777)
    os.chmod(d, 0o777)
    subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", f"printf y >>'{d}/f'"], check=True)
    same(oct(os.fstat(fd).st_mode & 0o7777), oct(0o777), "mode after a write by another user")


# ---- space -----------------------------------------------------------------------------------------------------------

def statfs_counts_inodes(d):
    """Each name made is one inode less, exactly; needs a file system that nobody else uses."""
    if os.environ.get("EXCLUSIVE") != "1":
        return
    before = os.statvfs(d)
    for i in range(50):
        os.close(new_file(f"{d}/f{i}"))
    os.mkdir(f"{d}/dir")
    os.symlink("x", f"{d}/link")
    os.link(f"{d}/f0", f"{d}/hard")
    during = os.statvfs(d)
    same((during.f_files - during.f_ffree) - (before.f_files - before.f_ffree), 52, "inodes taken")
    shutil.rmtree(f"{d}/dir")
    for name in os.listdir(d):
        os.unlink(f"{d}/{name}")
    after = os.statvfs(d)
    same(after.f_files - after.f_ffree, before.f_files - before.f_ffree, "inodes after removing all")


def statfs_counts_bytes(d):
    if os.environ.get("EXCLUSIVE") != "1":
        return
    used = lambda: (lambda s: (s.f_blocks - s.f_bfree) * s.f_frsize)(os.statvfs(d))
    os.sync()
    before = used()
    size = 24 << 20
    fd = new_file(f"{d}/f")
    for _ in range(24):
        os.write(fd, os.urandom(1 << 20))
    os.fsync(fd)
    taken = used() - before
    check(size <= taken <= size + (256 << 10), "24 MiB written, df grew by", taken)
    out = subprocess.run(["df", "-B1", "--output=used", d], capture_output=True, text=True, check=True).stdout
    same(int(out.split()[-1]) - before, taken, "df and statvfs")
    os.close(fd)
    os.unlink(f"{d}/f")
    wait_for(lambda: abs(used() - before) <= 64 << 10, 20, "df returns to where it was after unlink")


def du_is_exact(d):
    os.mkdir(f"{d}/t")
    total = 0
    for i, size in enumerate([1, 511, 4096, 4097, 100000, 1 << 20]):
        fd = new_file(f"{d}/t/f{i}", os.urandom(size))
        os.fsync(fd)
        blocks = os.fstat(fd).st_blocks * 512
        check(size <= blocks < size + 4096, f"st_blocks of {size} bytes says", blocks)
        total += blocks
    total += os.stat(f"{d}/t").st_blocks * 512
    os.link(f"{d}/t/f5", f"{d}/t/again")
    out = subprocess.run(["du", "-s", "-B1", f"{d}/t"], capture_output=True, text=True, check=True).stdout
    same(int(out.split()[0]), total, "du (a hard link counted once)")
    apparent = subprocess.run(["du", "-b", f"{d}/t/f4"], capture_output=True, text=True, check=True).stdout
    same(int(apparent.split()[0]), 100000, "du --apparent-size")


def special_files(d):
    os.mkfifo(f"{d}/fifo")
    check(stat.S_ISFIFO(os.lstat(f"{d}/fifo").st_mode), "fifo")
    import socket
    with socket.socket(socket.AF_UNIX) as s:
        here = os.open(d, os.O_RDONLY)
        s.bind(f"/proc/self/fd/{here}/sock")
        s.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{here}/sock")
    check(stat.S_ISSOCK(os.lstat(f"{d}/sock").st_mode), "socket")

    def write():
        with open(f"{d}/fifo", "wb") as f:
            f.write(b"through the fifo")

    thread = threading.Thread(target=write)
    thread.start()
    with open(f"{d}/fifo", "rb") as f:
        same(f.read(), b"through the fifo", "fifo content")
    thread.join()


def long_names_and_paths(d):
    name = "n" * 255
    os.close(new_file(f"{d}/{name}"))
    same(os.listdir(d), [name], "names")
    fails_with(errno.ENAMETOOLONG, os.mkdir, f"{d}/{name}x")
    deep = os.open(d, os.O_RDONLY)
    for i in range(60):
        os.mkdir(f"d{i:03}" * 20, dir_fd=deep)
        deep = os.open(f"d{i:03}" * 20, os.O_RDONLY, dir_fd=deep)
    same(os.listdir(deep), [], "the deepest directory")
    os.symlink("t" * 4000, f"{d}/link")
    same(os.readlink(f"{d}/link"), "t" * 4000, "a long symlink")


CASES = [value for key, value in list(globals().items())
         if callable(value) and getattr(value, "__module__", "") == "__main__" and not key.startswith("_")
         and key != "shifts_ranges" and value.__code__.co_varnames[:value.__code__.co_argcount] == ("d",)]


def main():
    base = os.path.join(os.path.abspath(sys.argv[1]), "fileops")
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)

    def fresh(name):
        os.mkdir(os.path.join(base, name))
        return os.path.join(base, name)

    run_all(CASES, fresh, sys.argv[2] if len(sys.argv) > 2 else None)


if __name__ == "__main__":
    main()
