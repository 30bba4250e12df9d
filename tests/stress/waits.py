#!/usr/bin/env python3
"""One call on a mount, at a moment that the caller chooses: prepares, waits for the word, calls, tells how it went.

Usage: waits.py CALL DIR MARK     DIR is the call's own, on the mount; MARK.ready, MARK.go and MARK.done are files outside of it
MARK.done gets one line: errno (0: none) and milliseconds.
"""
import errno
import fcntl
import os
import signal
import sys
import time

LARGE = b"x" * 300_000  # too much to travel inside an operation


def prepare(call, at):
    path = f"{at}/file"
    if call == "read":
        # Made through another mount, so that nothing of it is here.
        return os.open(path, os.O_RDONLY)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    if call == "fsync":
        os.write(fd, LARGE)
    if call == "append":
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    if call == "unlock":
        fcntl.lockf(fd, fcntl.LOCK_EX)
    return fd


def carry_out(call, at, fd):
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
        "append": lambda: os.write(fd, b"record\n"),
        "read": lambda: os.pread(fd, 100, 0),
        "fsync": lambda: os.fsync(fd),
        "fsyncdir": lambda: os.fsync(os.open(at, os.O_RDONLY)),
        "flock": lambda: fcntl.flock(fd, fcntl.LOCK_EX),
        "lockf": lambda: fcntl.lockf(fd, fcntl.LOCK_EX),
        "unlock": lambda: fcntl.lockf(fd, fcntl.LOCK_UN),
    }
    try:
        calls[call]()
    except FileNotFoundError:
        # An answer like any other, and what `stat` is to get.
        return 0 if call == "stat" else errno.ENOENT
    except OSError as error:
        return error.errno
    return 0


def main():
    call, at, mark = sys.argv[1:]
    # As for programs that are no Python: it ends them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fd = prepare(call, at)
    open(mark + ".ready", "w").close()
    while not os.path.exists(mark + ".go"):
        time.sleep(0.01)
    start = time.monotonic()
    number = carry_out(call, at, fd)
    with open(mark + ".part", "w") as done:
        done.write(f"{number} {int((time.monotonic() - start) * 1000)}\n")
    os.rename(mark + ".part", mark + ".done")
    # What close would wait for is not asked here.
    os._exit(0)


main()
