#!/usr/bin/env python3
"""Loads of space.sh: they write what leaves blocks partly dead, and know each byte of what must be there.

overwrite FILE MIB TIMES SEED   pages of one file in random order, as many as it has, TIMES over
rewrite FILE MIB TIMES HOW      one file from its begin to its end, TIMES over; HOW is `kept`, or `cut` to nothing each time before
                                (both print how many times its size the data directory, $DATA_DIR, took when it was synced: at most,
                                and in the median)
scatter DIR FILES KEEP_EACH     many small files; all but each KEEP_EACH-th are removed
names DIR FILES                 small files, synced
verify DIR KEEP_EACH            those that were kept, byte for byte
watch DIR KEEP_EACH FLAG        the same again and again until the file FLAG is there; prints how often
"""

import os
import random
import statistics
import sys

PAGE = 4096


def used(directory):
    """Bytes that the files of a directory take on its disk. Its daemon may remove some meanwhile."""
    total = 0
    for entry in os.scandir(directory):
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * 512
        except FileNotFoundError:
            pass
    return total


def page(number, version):
    return (b"%012d %012d " % (number, version)).ljust(PAGE, b"%c" % (65 + version % 26))


def report(taken, size):
    print(f"{max(taken) / size:.2f} {statistics.median(taken) / size:.2f}")


def overwrite(path, mib, times, seed):
    pages = int(mib) * 256
    rng = random.Random(int(seed))
    versions = [0] * pages
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    for number in range(pages):
        os.pwrite(fd, page(number, 0), number * PAGE)
    os.fsync(fd)
    taken = []
    for time in range(1, int(times) + 1):
        for _ in range(pages):
            number = rng.randrange(pages)
            versions[number] = time
            os.pwrite(fd, page(number, time), number * PAGE)
        os.fsync(fd)
        taken.append(used(os.environ["DATA_DIR"]))
    for number in range(pages):
        if os.pread(fd, PAGE, number * PAGE) != page(number, versions[number]):
            sys.exit(f"page {number} is not what was written last")
    report(taken, pages * PAGE)


def rewrite(path, mib, times, how):
    """Each MiB begins with its number and the time that it was written."""
    rest, taken = random.Random(1).randbytes((1 << 20) - 16), []
    for time in range(int(times) + 1):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if how == "cut" else 0), 0o644)
        for number in range(int(mib)):
            os.pwrite(fd, b"%07d %07d " % (number, time) + rest, number << 20)
        os.fsync(fd)
        # The first time there is nothing to give back.
        if time:
            taken.append(used(os.environ["DATA_DIR"]))
        if time < int(times):
            os.close(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for number in range(int(mib)):
        if os.pread(fd, 1 << 20, number << 20) != b"%07d %07d " % (number, int(times)) + rest:
            sys.exit(f"MiB {number} is not what was written last")
    report(taken, int(mib) << 20)


def content(number):
    return random.Random(number).randbytes(2000 + number % 9000)


def scatter(directory, files, keep):
    for number in range(int(files)):
        with open(f"{directory}/{number}", "wb") as file:
            file.write(content(number))
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)
    for number in range(int(files)):
        if number % int(keep):
            os.unlink(f"{directory}/{number}")


def names(directory, files):
    for number in range(int(files)):
        with open(f"{directory}/a file with the number {number}", "wb") as file:
            file.write(b"x" * 1000)
    fd = os.open(directory, os.O_RDONLY)
    os.fsync(fd)


def verify(directory, keep):
    names = os.listdir(directory)
    for name in names:
        number = int(name)
        if number % int(keep):
            sys.exit(f"{name} was removed")
        with open(f"{directory}/{name}", "rb") as file:
            if file.read() != content(number):
                sys.exit(f"{name} is not what was written")
    return len(names)


def watch(directory, keep, flag):
    times = 0
    while not os.path.exists(flag):
        for name in os.listdir(directory):
            # Not what the kernel has.
            fd = os.open(f"{directory}/{name}", os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        verify(directory, keep)
        times += 1
    print(times)


def main():
    commands = {"overwrite": overwrite, "rewrite": rewrite, "scatter": scatter, "names": names, "verify": lambda *args: print(verify(*args)), "watch": watch}
    commands[sys.argv[1]](*sys.argv[2:])


main()
