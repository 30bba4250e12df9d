"""The table of workloads: groups of phases that build on each other, run on one system at a time in a fresh directory."""

import os
import shutil
import sqlite3
import subprocess
import time

from systems import drop_caches

RATE, BANDWIDTH = "op/s", "MB/s"


class Bench:
    """One group on one system in one round: runs phases, notes the figures."""

    def __init__(self, system, directory, loader, tree, scale, note):
        self.system, self.directory, self.loader, self.tree, self.scale, self.note = system, directory, loader, tree, scale, note

    def count(self, number):
        return max(1, int(number * self.scale))

    def load(self, row, phase, threads, count, unit=RATE, below=""):
        """A phase of cairn-bench-load, timed by itself."""
        done = subprocess.run([self.loader, phase, os.path.join(self.directory, below), str(threads), str(count)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{phase} on {self.system.name}: {done.stderr.strip()}")
        operations, seconds, size = done.stdout.split()
        self.note(row, unit, (float(size) / 1e6 if unit == BANDWIDTH else float(operations)) / float(seconds))

    def command(self, row, operations, *words):
        """A program of every day, timed from start to end."""
        start = time.monotonic()
        done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        seconds = time.monotonic() - start
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()[-300:]}")
        self.note(row, "files/s", operations / seconds)

    def settle(self):
        """What earlier phases left to be written must not be part of the next figure."""
        os.sync()

    def cold(self):
        self.system.cold()


def small_files(b, threads):
    files, t = b.count(1600 if threads == 1 else 800), f", {threads} thread{'s' if threads > 1 else ''}"
    b.load("create+write+close 4 KiB" + t, "create", threads, files)
    b.settle()
    for row, phase in (("stat", "stat"), ("list+stat", "list-stat"), ("open+read+close 4 KiB", "read")):
        b.cold()
        b.load(f"{row}, cold{t}", phase, threads, files)
        b.load(f"{row}, warm{t}", phase, threads, files)
    b.load("rename" + t, "rename", threads, files)
    b.load("unlink" + t, "unlink", threads, files)


def small_files_1(b):
    small_files(b, 1)


def small_files_4(b):
    small_files(b, 4)


def small_fsync(b):
    b.load("create+write+fsync 4 KiB, 1 thread", "create-fsync", 1, b.count(300), below="one")
    b.load("create+write+fsync 4 KiB, 4 threads", "create-fsync", 4, b.count(150), below="four")


def trees(b):
    files, at = b.tree.files, b.directory
    with open(b.tree.archive, "rb") as f:
        while f.read(1 << 20):
            pass
    b.command("untar", files, "tar", "-C", at, "-xf", b.tree.archive)
    b.settle()
    b.cold()
    b.command("find, cold", files, "find", at, "-size", "-1c")
    b.command("find, warm", files, "find", at, "-size", "-1c")
    b.cold()
    b.command("tar c, cold", files, "sh", "-c", f"tar -C '{at}' -cf - tree | cat >/dev/null")
    b.command("tar c, warm", files, "sh", "-c", f"tar -C '{at}' -cf - tree | cat >/dev/null")
    b.command("cp -r", files, "cp", "-r", f"{at}/tree", f"{at}/copy")
    b.settle()
    b.command("rm -rf", files, "rm", "-rf", f"{at}/copy")


def large_file(b):
    megabytes = b.count(512)
    b.load("sequential write+fsync 1 MiB", "seq-write", 1, megabytes, BANDWIDTH)
    b.cold()
    b.load("sequential read 1 MiB, cold", "seq-read", 1, megabytes, BANDWIDTH)
    b.load("sequential read 1 MiB, warm", "seq-read", 1, megabytes, BANDWIDTH)
    b.cold()
    b.load("random read 4 KiB, cold", "rand-read", 1, b.count(2000))
    b.load("random read 4 KiB, warm", "rand-read", 1, b.count(2000))
    b.settle()
    b.load("random write 4 KiB, buffered", "rand-write", 1, b.count(8000))
    b.settle()
    b.load("random write 4 KiB, one fsync at the end", "rand-write-end", 1, b.count(8000))
    b.load("random write+fsync 4 KiB", "rand-write-fsync", 1, b.count(300))


def sqlite(b):
    for mode, count in (("DELETE", b.count(60)), ("WAL", b.count(200))):
        path = f"{b.directory}/{mode}.db"
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        start = time.monotonic()
        for _ in range(count):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO t(v) VALUES (randomblob(200))")
            db.execute("COMMIT")
        b.note(f"SQLite transactions, {mode}", RATE, count / (time.monotonic() - start))
        db.close()


GROUPS = {"small1": small_files_1, "small4": small_files_4, "fsync": small_fsync, "tree": trees, "large": large_file, "sqlite": sqlite}

# What is promised, by row: (start of the row's name, compared with, at least). Shown in the table, never a test.
TARGETS = [
    ("sequential write+fsync", "local", 0.85, 800), ("sequential read 1 MiB, cold", "local", 0.85, 800),
    ("create+write+close", "moosefs", 1.3, None), ("untar", "moosefs", 1.3, None),
    ("random write 4 KiB, buffered", "moosefs", 3.0, None), ("create+write+fsync", "moosefs", 0.7, None),
    ("random write+fsync", "moosefs", 0.7, None), ("SQLite", "moosefs", 0.7, None), ("stat, warm", "moosefs", 0.5, None),
    ("list+stat, warm", "moosefs", 0.5, None), ("open+read+close 4 KiB, warm", "moosefs", 0.5, None), ("find, warm", "moosefs", 0.5, None),
]


def target_of(row):
    return next((target for target in TARGETS if row.startswith(target[0])), None)


class Tree:
    """The source tree that is unpacked and copied: made once, outside of all that is measured."""

    def __init__(self, work, generator, files):
        source = os.path.join(work, "source")
        os.makedirs(source)
        subprocess.run(["python3", generator, f"{source}/tree", str(files)], check=True)
        self.archive, self.files = os.path.join(work, "tree.tar"), files
        subprocess.run(["tar", "-C", source, "--sort=name", "-cf", self.archive, "tree"], check=True)
        shutil.rmtree(source)


def packing(cairn, loader, puts):
    """How many puts 10,000 files of 4 KiB without fsync make at the data daemon; None when it does not say."""
    directory = os.path.join(cairn.path, "packing")
    os.mkdir(directory)
    before = puts()
    subprocess.run([loader, "create", directory, "1", "10000"], check=True, stdout=subprocess.DEVNULL)
    os.sync()
    after = puts()
    return None if before is None or after is None else after - before


__all__ = ["Bench", "GROUPS", "Tree", "drop_caches", "packing", "target_of"]
