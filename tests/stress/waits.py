#!/usr/bin/env python3
"""Calls on a mount, at a moment that the caller chooses: each prepares, waits for the word, calls, tells how it went.

Usage: waits.py DIR MARK CALL...     on the mount, DIR/CALL is the call's own; MARK-CALL.ready, .go and .done are files outside of it
Prints call and process number of each, and returns while they run. MARK-CALL.done gets one line: errno (0: none) and milliseconds.
$BESIDE is DIR on another mount, $FULL is DIR on a third that has little memory for what is not stored.
"""
import errno
import fcntl
import mmap
import os
import signal
import sys
import time

LARGE = b"x" * 300_000  # too much to travel inside an operation
# More than $FULL takes while nothing is stored.
MANY = 100


def prepare(call, at):
    """Files to call with: the first is `file` itself. What is to be dirty is written later: it would be stored meanwhile."""
    path = f"{at}/file"
    if call in ("write", "osync", "mapfull"):
        path = f"{os.environ['FULL']}/{call}/file"
    if call in ("seekdata", "seekhole"):
        # Somebody else writes to it all the time, so that only the server knows what is in it.
        beside = os.open(f"{os.environ['BESIDE']}/{call}/file", os.O_RDWR | os.O_CREAT)
        os.write(beside, b"data")
    if call in ("read", "fault", "bus"):
        # Made through another mount, so that nothing of it is here.
        fd = os.open(path, os.O_RDONLY)
        return fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_SYNC if call == "osync" else 0))
    if call == "append":
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    if call in ("unlock", "close"):
        fcntl.lockf(fd, fcntl.LOCK_EX)
    if call in ("msync", "mapped", "mapfull"):
        os.ftruncate(fd, MANY * len(LARGE) if call == "mapfull" else len(LARGE))
        os.fsync(fd)
        return fd, mmap.mmap(fd, 0)
    if call == "copy":
        os.write(fd, b"data")
        os.fsync(fd)
    if call in ("copy", "copydirty"):
        return fd, os.open(f"{at}/copied", os.O_RDWR | os.O_CREAT)
    return fd, None


def carry_out(call, at, fd, other):
    path = f"{at}/file"
    calls = {
        "stat": lambda: os.stat(f"{at}/none"),
        "list": lambda: os.listdir(at),
        "open": lambda: os.open(path, os.O_RDONLY),
        "create": lambda: os.open(f"{at}/new", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        "mkdir": lambda: os.mkdir(f"{at}/dir"),
        "rename": lambda: os.rename(path, f"{at}/moved"),
        "link": lambda: os.link(path, f"{at}/linked"),
        "symlink": lambda: os.symlink("target", f"{at}/symbolic"),
        "unlink": lambda: os.unlink(path),
        "chmod": lambda: os.chmod(path, 0o600),
        "truncate": lambda: os.ftruncate(fd, 10),
        "setxattr": lambda: os.setxattr(path, "user.a", b"b"),
        "getxattr": lambda: os.getxattr(path, "user.none"),
        "fallocate": lambda: os.posix_fallocate(fd, 0, 10_000),
        "copy": lambda: os.copy_file_range(fd, other, 4, 0, 0),
        "seekdata": lambda: os.lseek(fd, 0, os.SEEK_DATA),
        "seekhole": lambda: os.lseek(fd, 0, os.SEEK_HOLE),
        "append": lambda: os.write(fd, b"record\n"),
        "read": lambda: os.pread(fd, 100, 0),
        "fault": lambda: other[0],
        "bus": lambda: in_child(lambda: other[0]),
        "write": lambda: [os.write(fd, LARGE) for _ in range(MANY)],
        "osync": lambda: os.write(fd, LARGE),
        "fsync": lambda: (os.write(fd, LARGE), os.fsync(fd)),
        "closing": lambda: (os.write(fd, LARGE), closing(fd)),
        "copydirty": lambda: (os.write(fd, LARGE), os.copy_file_range(fd, other, len(LARGE), 0, 0)),
        "msync": lambda: (other.write(LARGE), other.flush()),
        "mapped": lambda: other.write(LARGE),
        "mapfull": lambda: [other.write(LARGE) for _ in range(MANY)],
        "fsyncdir": lambda: os.fsync(os.open(at, os.O_RDONLY)),
        "flock": lambda: fcntl.flock(fd, fcntl.LOCK_EX),
        "lockf": lambda: fcntl.lockf(fd, fcntl.LOCK_EX),
        "unlock": lambda: fcntl.lockf(fd, fcntl.LOCK_UN),
        "close": lambda: os.close(fd),
    }
    try:
        calls[call]()
    except FileNotFoundError:
        # An answer like any other, and what `stat` is to get.
        return 0 if call == "stat" else errno.ENOENT
    except OSError as error:
        return 0 if call == "getxattr" and error.errno == errno.ENODATA else error.errno
    return 0


def closing(fd):
    """Closes descriptors of a file until one is told that it is not stored."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        os.close(os.dup(fd))
        time.sleep(0.05)


def in_child(touch):
    """A page that can't be had is no error number, but ends who touches it by SIGBUS."""
    child = os.fork()
    if child == 0:
        touch()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status != 0:
        raise OSError(errno.EIO if os.WTERMSIG(status) == signal.SIGBUS else errno.EINVAL, "touched")


def told(path, line):
    with open(path + ".part", "w") as file:
        file.write(line)
    os.rename(path + ".part", path)


def wait_and_call(call, at, mark):
    # As for programs that are no Python: it ends them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # One that is caught ends no wait.
    signal.signal(signal.SIGUSR1, lambda *_: None)
    fd, other = prepare(call, at)
    told(mark + ".ready", "")
    while not os.path.exists(mark + ".go"):
        time.sleep(0.01)
    start = time.monotonic()
    number = carry_out(call, at, fd, other)
    told(mark + ".done", f"{number} {int((time.monotonic() - start) * 1000)}\n")
    if call == "mapped":
        # Who is to be killed with changed pages must not end before.
        signal.pause()


def main():
    at, mark, *calls = sys.argv[1:]
    for call in calls:
        child = os.fork()
        if child == 0:
            try:
                wait_and_call(call, f"{at}/{call}", f"{mark}-{call}")
            except BaseException as error:
                os.write(2, f"{call}: {error!r}\n".encode())
            # What close would wait for is not asked here.
            os._exit(0)
        os.write(1, f"{call} {child}\n".encode())


main()
