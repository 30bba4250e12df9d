#!/usr/bin/env python3
"""A mixed load, and a record outside of what it was told: what must be there after anything has died.

Parts, each a process of its own: `witness` (whole small files, see witness.py), `cells` (small and large files, appends, replacing
by rename; see cells.py), `wal` and `delete` (sqlite3 in both journal modes), `git` (commits in a loop). The databases and the
repository go on from round to round; the files of a round are its own.

Usage: fire.py run DIR RECORDS ROUND [PART]...   until SIGTERM, or until the mount is gone (exit code 3); 1: an error that no program should see
       fire.py check DIR RECORDS ROUND [--told]  what was synced must be there; with --told also what was only answered
       fire.py goes-on RECORDS ROUND SECONDS     each part that runs gets on within so many seconds
"""

import argparse
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import fire_programs
import witness
from cells import CELL, History, cells, look

SMALL, LARGE, LOGS, SWAPS = range(100, 124), range(200, 202), range(300, 304), range(400, 406)
SMALL_CELLS, LARGE_CELLS, SWAP_CELLS = 60, 160_000, 300
# Lines of a part's record that are progress.
ON_LINES = 6


class Record:
    """JSON lines, each written at once."""

    def __init__(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.fd, self.lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), threading.Lock()

    def line(self, **fields):
        with self.lock:
            os.write(self.fd, json.dumps(fields).encode() + b"\n")


def lines(path):
    try:
        with open(path) as f:
            return [json.loads(line) for line in f]
    except FileNotFoundError:
        return []


class Load(threading.Thread):
    """One thread of the part `cells`: one change after the other of files of its own."""

    def __init__(self, root, record, stop, tags, change):
        super().__init__()
        self.root, self.record, self.stop, self.tags, self.change = root, record, stop, tags, change
        self.rng, self.sizes, self.number, self.error, self.slowest = random.Random(), dict.fromkeys(tags, 0), 0, None, 0.0

    def run(self):
        try:
            while not self.stop.is_set():
                start = time.monotonic()
                self.number += 1
                self.change(self, self.rng.choice(self.tags))
                self.slowest = max(self.slowest, time.monotonic() - start)
                time.sleep(0.002)
        except OSError as e:
            self.error = e

    def path(self, tag):
        return f"{self.root}/{tag}"

    def does(self, tag, change, call, sync):
        """`call` makes the change; the record has it before and after."""
        self.record.line(file=tag, change=change)
        fd = os.open(self.path(tag), os.O_WRONLY | (os.O_APPEND if tag in LOGS else 0))
        call(fd)
        self.record.line(file=tag, told=True)
        if sync:
            os.fsync(fd)
            self.record.line(file=tag, synced=True)
        os.close(fd)

    def writes(self, tag, first, count, sync):
        data = cells(tag, self.number, first, count)
        self.does(tag, ["write", self.number, first, count], lambda fd: write_at(fd, data, first * CELL, tag in LOGS), sync)
        self.sizes[tag] = max(self.sizes[tag], first + count)

    def cuts(self, tag, to, sync):
        self.does(tag, ["cut", self.number, to], lambda fd: os.ftruncate(fd, to * CELL), sync)
        self.sizes[tag] = to


def write_at(fd, data, at, append):
    while data:
        done = os.write(fd, data) if append else os.pwrite(fd, data, at)
        data, at = data[done:], at + done


def small(load, tag):
    size = load.sizes[tag]
    if load.rng.random() < 0.1:
        return load.cuts(tag, load.rng.choice([0, size // 2, size + 3]), load.rng.random() < 0.5)
    first = load.rng.randrange(min(size + 5, SMALL_CELLS))
    load.writes(tag, first, load.rng.randrange(1, SMALL_CELLS - first + 1), load.rng.random() < 0.4)


def large(load, tag):
    size = load.sizes[tag]
    first = size if load.rng.random() < 0.6 and size < LARGE_CELLS else load.rng.randrange(size + 1)
    load.writes(tag, first, load.rng.choice([33, 512, 8192]), load.rng.random() < 0.1)


def append(load, tag):
    load.writes(tag, load.sizes[tag], load.rng.randrange(1, 40), load.rng.random() < 0.1)


def swap(load, tag):
    """Replaces a file as editors do: write another, sync it, rename it."""
    count, synced = load.rng.randrange(1, SWAP_CELLS), load.rng.random() < 0.3
    fd = os.open(f"{load.path(tag)}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    write_at(fd, cells(tag, load.number, 0, count), 0, False)
    os.fsync(fd)
    os.close(fd)
    load.record.line(swap=tag, number=load.number, count=count)
    os.rename(f"{load.path(tag)}.new", load.path(tag))
    load.record.line(swap=tag, told=True)
    if synced:
        sync_dir(load.root)
        load.record.line(swap=tag, synced=True)


def sync_dir(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def run_cells(root, record, stop):
    os.makedirs(root, exist_ok=True)
    for tag in (*SMALL, *LARGE, *LOGS):
        fd = os.open(f"{root}/{tag}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.fsync(fd)
        os.close(fd)
    sync_dir(root)
    record.line(made=True)
    loads = [Load(root, record, stop, *of) for of in ((SMALL, small), (LARGE, large), (LOGS, append), (SWAPS, swap))]
    for load in loads:
        load.start()
    for load in loads:
        load.join()
    for load in loads:
        if load.error:
            raise load.error
    return max(load.slowest for load in loads)


def check_cells(root, entries, told):
    """Problems, one line each, and how many files were looked at."""
    if {"made": True} not in entries:
        return [], 0
    histories, swaps = {tag: History() for tag in (*SMALL, *LARGE, *LOGS)}, {tag: [(None, 0)] for tag in SWAPS}
    certain = dict.fromkeys(SWAPS, 0)
    for entry in entries:
        sure = entry.get("synced") or (told and entry.get("told"))
        if "file" in entry:
            history = histories[entry["file"]]
            if "change" in entry:
                history.changes.append(tuple(entry["change"]))
            elif sure:
                history.certain = len(history.changes)
        elif "swap" in entry:
            if "number" in entry:
                swaps[entry["swap"]].append((entry["number"], entry["count"]))
            elif sure:
                certain[entry["swap"]] = len(swaps[entry["swap"]]) - 1
    problems = [histories[tag].problem(f"{root}/{tag}", tag) for tag in histories]
    problems += [swap_problem(f"{root}/{tag}", tag, states[certain[tag]:]) for tag, states in swaps.items()]
    return [p for p in problems if p], len(problems)


def swap_problem(path, tag, states):
    """A file that is replaced by rename is always one of its versions, whole."""
    if not os.path.exists(path):
        return None if states[0] == (None, 0) else f"{path} is gone"
    size, seen = look(path, tag)
    whole = (seen[0], len(seen)) if seen and len(set(seen)) == 1 and size == len(seen) * CELL else None
    return None if whole in states else f"{path}: {size} bytes of {sorted(set(seen))}, and not one of {states[:10]}"


PARTS = ["witness", "cells", "wal", "delete", "git"]


def record_of(records, round_name, part):
    return f"{records}/{round_name}/{part}" if part in ("witness", "cells") else f"{records}/{part}"


def is_gone(root):
    try:
        os.statvfs(root)
        return False
    except OSError as e:
        return e.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def run_part(args):
    stop, part = threading.Event(), args.part
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    path = record_of(args.records, args.round, part)
    try:
        if part == "witness":
            os.makedirs(os.path.dirname(path), exist_ok=True)
            witness.run(argparse.Namespace(dir=f"{args.dir}/{args.round}/witness", record=path))
        elif part == "cells":
            slowest = run_cells(f"{args.dir}/{args.round}/cells", Record(path), stop)
            print(f"cells: slowest change {slowest:.1f} s")
        else:
            slowest = fire_programs.run(part, args.dir, Record(path), lines(path), stop)
            print(f"{part}: slowest commit {slowest:.1f} s")
    except Exception as e:  # Whatever it is, a program saw an error: the mount tells whether it should have.
        print(f"{part}: {type(e).__name__}: {e}")
        sys.exit(3 if is_gone(args.dir) else 1)


def run(args):
    """Runs all parts; ends them when it is told to, or when one of them has ended by itself."""
    os.makedirs(f"{args.dir}/{args.round}", exist_ok=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    command = [sys.executable, __file__, "part", args.dir, args.records, args.round]
    parts = {part: subprocess.Popen([*command, part]) for part in args.parts or PARTS}
    while not stop.wait(0.05) and all(process.poll() is None for process in parts.values()):
        pass
    for process in parts.values():
        process.terminate()
    codes = {part: process.wait() for part, process in parts.items()}
    bad = {part: code for part, code in codes.items() if code}
    # One that maps a file of a mount that dies is killed by the kernel (SIGBUS).
    gone = all(code == 3 or code < 0 for code in bad.values()) and is_gone(args.dir)
    if bad:
        print(f"ended with {bad}")
    sys.exit(0 if not bad else 3 if gone else 1)


def check(args):
    problems, said = [], []
    seen = lines(record_of(args.records, args.round, "cells"))
    found, count = check_cells(f"{args.dir}/{args.round}/cells", seen, args.told)
    problems += found
    said.append(f"{count} files of cells")
    for part in ("wal", "delete", "git"):
        found, line = fire_programs.check(part, args.dir, lines(record_of(args.records, args.round, part)))
        problems += found
        said.append(line)
    print(", ".join(said) + f", {len(problems)} wrong")
    print("\n".join(problems[:15]))
    sys.exit(1 if problems else 0)


def goes_on(args):
    """Counts lines of the records of a round, and of those that go through all rounds."""
    def count(part):
        try:
            with open(record_of(args.records, args.round, part), "rb") as f:
                return f.read().count(b"\n")
        except FileNotFoundError:
            return 0

    start, before = time.monotonic(), {part: count(part) for part in PARTS}
    still = PARTS
    while still:
        if time.monotonic() - start > args.seconds:
            print(f"not on within {args.seconds:.0f} s: {', '.join(still)}")
            sys.exit(1)
        time.sleep(0.02)
        still = [part for part in still if count(part) < before[part] + ON_LINES]
    print(f"{time.monotonic() - start:.1f}")


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("part", run_part), ("check", check)):
        command = commands.add_parser(name)
        command.add_argument("dir")
        command.add_argument("records")
        command.add_argument("round")
        command.set_defaults(function=function)
        if name == "run":
            command.add_argument("parts", nargs="*")
        elif name == "part":
            command.add_argument("part", choices=PARTS)
        else:
            command.add_argument("--told", action="store_true")
    command = commands.add_parser("goes-on")
    command.add_argument("records")
    command.add_argument("round")
    command.add_argument("seconds", type=float)
    command.set_defaults(function=goes_on)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
