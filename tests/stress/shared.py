#!/usr/bin/env python3
"""Two mounts of one tree: appends, open-unlinked files, locks with waiters, mmap, listings while names come and go.

Usage: shared.py DIR_A DIR_B [CASE]     two mounts of the same tree (or, to test the test, one directory and a bind mount of it)
"""

import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import sys
import threading
import time

from common import Failed, check, fails_with, run_all, same, same_bytes, seeded, wait_for

# How long a waiter may take to be told that a lock is free. Generous for a loaded machine; a poll would show in the average.
WAKE_SECONDS = 3


class Pair:
    """One directory, seen through both mounts."""

    def __init__(self, a, b):
        self.a, self.b = a, b


def child(code, *args):
    """A process of its own (locks belong to processes). It prints one line for each thing it has done."""
    prelude = ("import fcntl, os, struct, sys\n"
               "def say(text): print(text, flush=True)\n"
               "def wait(): sys.stdin.readline()\n")
    return subprocess.Popen([sys.executable, "-c", prelude + code, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def expect(process, line, seconds=20):
    """The next line of the child, which must be this one; a child that says nothing is a failure, not a hang."""
    got = []
    thread = threading.Thread(target=lambda: got.append(process.stdout.readline().strip()), daemon=True)
    thread.start()
    thread.join(seconds)
    if not got:
        process.kill()
        raise Failed(f"no answer in {seconds} s, expected '{line}'")
    same(got[0], line, "the other process said")


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def finish(*processes):
    for process in processes:
        process.stdin.close()
        check(process.wait(20) in (0, -9), "a helper process failed")


# ---- data ------------------------------------------------------------------------------------------------------------

APPENDER = """
path, who, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
fd = os.open(path, os.O_WRONLY | os.O_APPEND)
for i in range(count):
    line = f"{who} {i:06d} " + "x" * (i * 37 % 180) + "\\n"
    assert os.write(fd, line.encode()) == len(line)
say("done")
"""


def append_from_both(d):
    """2+2 processes append records of different lengths: each is there once, whole, and in its writer's order."""
    count = 500
    open(f"{d.a}/log", "w").close()
    writers = [child(APPENDER, f"{(d.a, d.b)[i % 2]}/log", f"w{i}", str(count)) for i in range(4)]
    for writer in writers:
        expect(writer, "done", 120)
    finish(*writers)
    for side in (d.a, d.b):
        seen = {f"w{i}": [] for i in range(4)}
        with open(f"{side}/log", "rb") as f:
            lines = f.read().decode(errors="replace").split("\n")
        same(lines.pop(), "", "the end of the file")
        for line in lines:
            parts = line.split(" ")
            check(len(parts) == 3 and parts[0] in seen and parts[1].isdigit(), f"a torn record in {side}: {line!r}")
            same(len(parts[2]), int(parts[1]) * 37 % 180, f"the length of {parts[0]} {parts[1]}")
            seen[parts[0]].append(int(parts[1]))
        for who, numbers in seen.items():
            same(numbers, list(range(count)), f"records of {who} in {side}")


def append_sees_remote_growth(d):
    one, two = (os.open(f"{side}/f", os.O_RDWR | os.O_CREAT | os.O_APPEND) for side in (d.a, d.b))
    want = b""
    for i in range(300):
        data = b"%d:%s\n" % (i, b"y" * (i % 50))
        os.write(one if i % 2 else two, data)
        want += data
        other = two if i % 2 else one
        same(os.fstat(other).st_size, len(want), "size on the other mount")
    same_bytes(os.pread(one, 1 << 20, 0), want, "content")
    same_bytes(os.pread(two, 1 << 20, 0), want, "content")


def writes_without_close_are_seen(d):
    rng = seeded("writes_without_close")
    fds = [os.open(f"{side}/f", os.O_RDWR | os.O_CREAT) for side in (d.a, d.b)]
    model = bytearray()
    for step in range(300):
        writer, at, data = rng.randrange(2), rng.randrange(200000), rng.randbytes(rng.randrange(1, 9000))
        os.pwrite(fds[writer], data, at)
        model.extend(bytes(max(0, at + len(data) - len(model))))
        model[at:at + len(data)] = data
        same_bytes(os.pread(fds[1 - writer], len(model) + 1, 0), bytes(model), f"step {step}, read on the other mount")


def writers_of_different_parts(d):
    """Both sides write their own, interleaved parts of one page each: no write may undo the neighbour's."""
    fds = [os.open(f"{side}/f", os.O_RDWR | os.O_CREAT) for side in (d.a, d.b)]
    os.pwrite(fds[0], bytes(64 * 1024), 0)

    def fill(which):
        for i in range(which, 640, 2):
            os.pwrite(fds[which], bytes([1 + which]) * 100, i * 100)

    threads = [threading.Thread(target=fill, args=(which,)) for which in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    want = b"".join(bytes([1 + i % 2]) * 100 for i in range(640)) + bytes(64 * 1024 - 64000)
    for fd in fds:
        same_bytes(os.pread(fd, 1 << 17, 0), want, "content")


def mmap_sees_after_msync(d):
    size = 1 << 20
    with open(f"{d.a}/f", "wb") as f:
        f.write(bytes(size))
    fd = os.open(f"{d.a}/f", os.O_RDWR)
    with mmap.mmap(fd, size) as m:
        for i in range(20):
            m[i * 50000:i * 50000 + 5] = b"%05d" % i
            m.flush()
            with open(f"{d.b}/f", "rb") as f:
                f.seek(i * 50000)
                same(f.read(5), b"%05d" % i, "what the other mount reads after msync")


def truncate_elsewhere(d):
    fd = os.open(f"{d.a}/f", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * 100000, 0)
    os.truncate(f"{d.b}/f", 10)
    same(os.fstat(fd).st_size, 10, "size")
    same_bytes(os.pread(fd, 100, 0), b"x" * 10, "content")
    os.pwrite(fd, b"y", 20)
    with open(f"{d.b}/f", "rb") as f:
        same_bytes(f.read(), b"x" * 10 + bytes(10) + b"y", "the gap reads as zeroes")


def big_file_is_whole(d):
    rng = seeded("big_file")
    digest = hashlib.sha256()
    with open(f"{d.a}/f", "wb") as f:
        for _ in range(40):
            data = rng.randbytes(1 << 20)
            digest.update(data)
            f.write(data)
    seen = hashlib.sha256()
    with open(f"{d.b}/f", "rb") as f:
        while data := f.read(1 << 20):
            seen.update(data)
    same(seen.hexdigest(), digest.hexdigest(), "checksum on the other mount")


# ---- names -----------------------------------------------------------------------------------------------------------

def open_unlinked_elsewhere(d):
    fd = os.open(f"{d.a}/f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"still here" * 5000)
    os.unlink(f"{d.b}/f")
    fails_with(errno.ENOENT, os.stat, f"{d.a}/f")
    same(os.fstat(fd).st_nlink, 0, "links")
    same_bytes(os.pread(fd, 60000, 0), b"still here" * 5000, "content after unlink elsewhere")
    os.pwrite(fd, b"and written", 100000)
    os.fsync(fd)
    same_bytes(os.pread(fd, 11, 100000), b"and written", "written after unlink elsewhere")
    # A reader only, opened on B, unlinked on A.
    with open(f"{d.a}/g", "wb") as f:
        f.write(b"g" * 10000)
    reader = os.open(f"{d.b}/g", os.O_RDONLY)
    os.unlink(f"{d.a}/g")
    same_bytes(os.pread(reader, 20000, 0), b"g" * 10000, "a reader keeps the file")
    # Replaced by rename.
    with open(f"{d.a}/h", "wb") as f:
        f.write(b"old" * 1000)
    reader = os.open(f"{d.b}/h", os.O_RDONLY)
    with open(f"{d.a}/new", "wb") as f:
        f.write(b"new" * 1000)
    os.rename(f"{d.a}/new", f"{d.a}/h")
    same_bytes(os.pread(reader, 9000, 0), b"old" * 1000, "the replaced file")
    with open(f"{d.b}/h", "rb") as f:
        same_bytes(f.read(), b"new" * 1000, "the new file")
    same(os.listdir(d.b), ["h"], "names left")


def space_comes_back_after_last_close(d):
    if os.environ.get("EXCLUSIVE") != "1":
        return
    inodes = lambda: (lambda s: s.f_files - s.f_ffree)(os.statvfs(d.a))
    before = inodes()
    fds = [os.open(f"{d.a}/f", os.O_RDWR | os.O_CREAT), os.open(f"{d.b}/f", os.O_RDWR)]
    os.unlink(f"{d.a}/f")
    same(inodes() - before, 1, "inodes while held open on both")
    os.close(fds[0])
    same_bytes(os.pread(fds[1], 10, 0), b"", "still readable on the second")
    os.close(fds[1])
    wait_for(lambda: inodes() == before, 20, "the inode is free after the last close on any mount")


def exclusive_create(d):
    """O_EXCL: of 2+2 processes only one makes each file."""
    code = """
path, who = sys.argv[1], sys.argv[2]
won = 0
for i in range(200):
    try:
        os.close(os.open(f"{path}/x{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        won += 1
    except FileExistsError:
        pass
say(str(won))
"""
    processes = [child(code, (d.a, d.b)[i % 2], str(i)) for i in range(4)]
    total = sum(int(p.stdout.readline()) for p in processes)
    finish(*processes)
    same(total, 200, "files made")
    same((len(os.listdir(d.a)), len(os.listdir(d.b))), (200, 200), "names")


def rename_race(d):
    """Both sides rename one file on and on: each step is done, by one of two, and the file is never lost nor there twice.

    Both may be told that it was theirs: Linux looks up the two names one after the other, and when the other mount renames in between,
    both lead to one inode, for which it answers success without asking the file system.
    """
    open(f"{d.a}/0", "w").close()
    code = """
path = sys.argv[1]
won = 0
for i in range(300):
    try:
        os.rename(f"{path}/{i}", f"{path}/{i + 1}")
        won += 1
    except FileNotFoundError:
        while not os.path.exists(f"{path}/{i + 1}") and not any(int(n) > i for n in os.listdir(path)):
            pass
say(str(won))
"""
    processes = [child(code, side) for side in (d.a, d.b)]
    total = sum(int(p.stdout.readline()) for p in processes)
    finish(*processes)
    check(300 <= total <= 330, "renames that worked:", total)
    same((os.listdir(d.a), os.listdir(d.b)), (["300"], ["300"]), "the one name")


def negative_lookups(d):
    for i in range(200):
        fails_with(errno.ENOENT, os.stat, f"{d.b}/n{i}")
        open(f"{d.a}/n{i}", "w").close()
        os.stat(f"{d.b}/n{i}")
        os.unlink(f"{d.a}/n{i}")
        fails_with(errno.ENOENT, os.stat, f"{d.b}/n{i}")


def listing_while_changing(d):
    """Both sides list while both add and remove: names that stay appear exactly once in each listing."""
    stable = {f"stable-{i:05d}" for i in range(3000)}
    for name in stable:
        open(f"{d.a}/{name}", "w").close()
    stop, problems = threading.Event(), []

    def churn(side, tag):
        i = 0
        while not stop.is_set():
            open(f"{side}/churn-{tag}-{i}", "w").close()
            if i >= 50:
                os.unlink(f"{side}/churn-{tag}-{i - 50}")
            i += 1

    churners = [threading.Thread(target=churn, args=(side, tag)) for side, tag in ((d.a, "a"), (d.b, "b"))]
    for t in churners:
        t.start()
    try:
        for _ in range(10):
            for side in (d.a, d.b):
                names = [n for n in os.listdir(side) if n.startswith("stable")]
                if len(names) != len(set(names)):
                    problems.append(f"{len(names) - len(set(names))} names twice")
                if set(names) != stable:
                    problems.append(f"{len(stable - set(names))} names missing")
    finally:
        stop.set()
        for t in churners:
            t.join()
    same(problems, [], "listings")


# ---- locks -----------------------------------------------------------------------------------------------------------

HOLDER = """
kind, path, start, length, how = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
fd = os.open(path, os.O_RDWR)
def lock(op):
    fcntl.flock(fd, op) if kind == "flock" else fcntl.lockf(fd, op, length, start)
op = fcntl.LOCK_SH if "shared" in how else fcntl.LOCK_EX
if "try" in how:
    try:
        lock(op | fcntl.LOCK_NB)
        say("locked")
    except (BlockingIOError, PermissionError):
        say("busy")
        sys.exit(0)
else:
    say("waiting")
    lock(op)
    say("locked")
wait()
if "close" in how:
    os.close(fd)
elif "die" not in how:
    lock(fcntl.LOCK_UN)
if "die" not in how:
    say("released")
    wait()
"""


def holder(kind, path, how, start=0, length=0):
    process = child(HOLDER, kind, path, str(start), str(length), how)
    if "try" not in how:
        expect(process, "waiting")
    return process


def lock_case(kind, d, release):
    open(f"{d.a}/f", "w").close()
    first = holder(kind, f"{d.a}/f", "exclusive " + release)
    expect(first, "locked")
    tried = holder(kind, f"{d.b}/f", "try exclusive")
    expect(tried, "busy")
    tried_shared = holder(kind, f"{d.b}/f", "try shared")
    expect(tried_shared, "busy")
    second = holder(kind, f"{d.b}/f", "exclusive")
    time.sleep(0.3)
    start = time.monotonic()
    if release == "kill":
        first.kill()
        first.wait()
    else:
        go(first)
        if release != "die":
            expect(first, "released")
    expect(second, "locked", WAKE_SECONDS)
    took = time.monotonic() - start
    check(took < WAKE_SECONDS, "the waiter was told after", took, "s")
    # And back again, the other way round.
    third = holder(kind, f"{d.a}/f", "exclusive")
    go(second)
    expect(second, "released")
    expect(third, "locked", WAKE_SECONDS)
    go(third)
    expect(third, "released")
    for process in (first, tried, tried_shared, second, third):
        process.kill()
        process.wait()


def flock_released(d):
    lock_case("flock", d, "unlock")


def flock_closed(d):
    lock_case("flock", d, "close")


def flock_holder_killed(d):
    lock_case("flock", d, "kill")


def fcntl_released(d):
    lock_case("fcntl", d, "unlock")


def fcntl_closed(d):
    lock_case("fcntl", d, "close")


def fcntl_holder_killed(d):
    lock_case("fcntl", d, "kill")


def fcntl_ranges(d):
    open(f"{d.a}/f", "w").close()
    first = holder("fcntl", f"{d.a}/f", "exclusive", 100, 100)
    expect(first, "locked")
    inside, beside = holder("fcntl", f"{d.b}/f", "try exclusive", 150, 10), holder("fcntl", f"{d.b}/f", "try exclusive", 200, 100)
    expect(inside, "busy")
    expect(beside, "locked")
    probe = child("""
fd = os.open(sys.argv[1], os.O_RDWR)
seen = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
kind, _, start, length, _ = struct.unpack("hhqqi4x", seen)
say(f"{kind == fcntl.F_WRLCK} {start} {length}")
""", f"{d.b}/f")
    expect(probe, "True 100 100")
    finish(probe)
    across = holder("fcntl", f"{d.b}/f", "exclusive", 0, 0)
    time.sleep(0.2)
    go(first)
    expect(first, "released")
    time.sleep(0.2)
    check(across.poll() is None, "the waiter for the whole file still waits for the second range")
    go(beside)
    expect(beside, "released")
    expect(across, "locked", WAKE_SECONDS)
    for process in (first, inside, beside, across):
        process.kill()
        process.wait()


def shared_locks_meet(d):
    for kind in ("flock", "fcntl"):
        path = f"f-{kind}"
        open(f"{d.a}/{path}", "w").close()
        readers = [holder(kind, f"{side}/{path}", "try shared") for side in (d.a, d.b, d.a)]
        for reader in readers:
            expect(reader, "locked")
        writer = holder(kind, f"{d.b}/{path}", "exclusive")
        for reader in readers:
            check(writer.poll() is None, "the writer waits")
            go(reader)
            expect(reader, "released")
        expect(writer, "locked", WAKE_SECONDS)
        for process in (*readers, writer):
            process.kill()
            process.wait()


def flock_and_fcntl_are_apart(d):
    open(f"{d.a}/f", "w").close()
    first, second = holder("flock", f"{d.a}/f", "try exclusive"), holder("fcntl", f"{d.b}/f", "try exclusive")
    expect(first, "locked")
    expect(second, "locked")
    for process in (first, second):
        process.kill()
        process.wait()


def waiter_can_be_killed(d):
    """A waiter that is killed leaves nothing behind: the lock is free for the next."""
    for kind in ("flock", "fcntl"):
        path = f"f-{kind}"
        open(f"{d.a}/{path}", "w").close()
        first = holder(kind, f"{d.a}/{path}", "try exclusive")
        expect(first, "locked")
        waiter = holder(kind, f"{d.b}/{path}", "exclusive")
        time.sleep(0.3)
        waiter.terminate()
        try:
            waiter.wait(10)
        except subprocess.TimeoutExpired:
            raise Failed(f"a {kind} waiter did not end on SIGTERM") from None
        go(first)
        expect(first, "released")
        third = holder(kind, f"{d.b}/{path}", "exclusive")
        expect(third, "locked", WAKE_SECONDS)
        for process in (first, third):
            process.kill()
            process.wait()


def lock_passes_data(d):
    """A counter in a file, read and written under a lock by 2+2 processes: no step is lost."""
    code = """
path, kind = sys.argv[1], sys.argv[2]
fd = os.open(path, os.O_RDWR)
for _ in range(100):
    fcntl.flock(fd, fcntl.LOCK_EX) if kind == "flock" else fcntl.lockf(fd, fcntl.LOCK_EX)
    value = int(os.pread(fd, 20, 0) or b"0")
    os.pwrite(fd, b"%d" % (value + 1), 0)
    fcntl.flock(fd, fcntl.LOCK_UN) if kind == "flock" else fcntl.lockf(fd, fcntl.LOCK_UN)
say("done")
"""
    for kind in ("flock", "fcntl"):
        open(f"{d.a}/{kind}", "w").close()
        processes = [child(code, f"{(d.a, d.b)[i % 2]}/{kind}", kind) for i in range(4)]
        for process in processes:
            expect(process, "done", 120)
        finish(*processes)
        for side in (d.a, d.b):
            same(open(f"{side}/{kind}").read(), "400", f"the counter under {kind}")


CASES = [value for key, value in list(globals().items())
         if callable(value) and getattr(value, "__module__", "") == "__main__" and hasattr(value, "__code__")
         and value.__code__.co_varnames[:value.__code__.co_argcount] == ("d",)]


def main():
    roots = [os.path.join(os.path.abspath(p), "shared") for p in sys.argv[1:3]]
    shutil.rmtree(roots[0], ignore_errors=True)
    os.makedirs(roots[0])

    def fresh(name):
        os.mkdir(os.path.join(roots[0], name))
        return Pair(*(os.path.join(root, name) for root in roots))

    run_all(CASES, fresh, sys.argv[3] if len(sys.argv) > 3 else None)


if __name__ == "__main__":
    main()
