#!/usr/bin/env python3
"""A witness: changes files under a directory and writes down, outside of it, what it was told is done.

The record is a list of JSON lines: an *intent* before each change, and a *done* after it. Two kinds of files:
`synced` ones are fsynced (file and directory) before the done line: they must survive everything.
`told` ones are only closed: they must survive a crash of any server while the mount lives, and a clean end of the mount.

Usage: witness.py run DIR RECORD       until SIGTERM, or until the mount is gone (exit code 3)
       witness.py check DIR RECORD [--told]
       witness.py count RECORD
"""

import argparse
import errno
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time

LIVE_FILES = 150


class Record:
    def __init__(self, path):
        self.fd, self.lock, self.number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), threading.Lock(), 0

    def line(self, **fields):
        fields["time"] = time.time()
        with self.lock:
            os.write(self.fd, json.dumps(fields).encode() + b"\n")


class Worker(threading.Thread):
    """One thread, one kind of files, one change after the other."""

    def __init__(self, root, kind, record, stop, tag):
        super().__init__()
        self.root, self.kind, self.record, self.stop, self.tag = root, kind, record, stop, tag
        self.rng, self.live, self.number, self.error, self.slowest = random.Random(), {}, 0, None, 0.0

    def run(self):
        try:
            while not self.stop.is_set():
                start = time.monotonic()
                self.change()
                self.slowest = max(self.slowest, time.monotonic() - start)
        except OSError as e:
            self.error = e

    def sync(self, fd=None):
        """Make durable what was done: the file, when there is one, and the directory."""
        if self.kind != "synced":
            return
        if fd is not None:
            os.fsync(fd)
        directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def change(self):
        choice = self.rng.random()
        if len(self.live) < 20 or (choice < 0.4 and len(self.live) < LIVE_FILES):
            self.create()
        elif choice < 0.7:
            self.overwrite()
        elif choice < 0.85:
            self.rename()
        else:
            self.remove()

    def new_name(self):
        self.number += 1
        return f"{self.tag}-{self.number}"

    def intent(self, *names):
        self.record.line(kind=self.kind, intent=names)

    def done(self, **states):
        """States are name=content hash, or None for a name that is gone."""
        self.record.line(kind=self.kind, done=states)

    def create(self):
        name, data = self.new_name(), self.rng.randbytes(self.rng.choice([1, 300, 4096, 20000, 200000]))
        self.intent(name)
        fd = os.open(f"{self.root}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        write_all(fd, data)
        self.sync(fd)
        os.close(fd)
        self.live[name] = bytearray(data)
        self.done(**{name: digest(data)})

    def overwrite(self):
        name = self.rng.choice(list(self.live))
        data, content = self.rng.randbytes(self.rng.choice([10, 4096, 30000])), self.live[name]
        at = self.rng.randrange(len(content) + 1)
        content.extend(bytes(max(0, at + len(data) - len(content))))
        content[at:at + len(data)] = data
        self.intent(name)
        fd = os.open(f"{self.root}/{name}", os.O_WRONLY)
        os.lseek(fd, at, os.SEEK_SET)
        write_all(fd, data)
        self.sync(fd)
        os.close(fd)
        self.done(**{name: digest(content)})

    def rename(self):
        old, new = self.rng.choice(list(self.live)), self.new_name()
        self.intent(old, new)
        os.rename(f"{self.root}/{old}", f"{self.root}/{new}")
        self.sync()
        self.live[new] = self.live.pop(old)
        self.done(**{old: None, new: digest(self.live[new])})

    def remove(self):
        name = self.rng.choice(list(self.live))
        self.intent(name)
        os.unlink(f"{self.root}/{name}")
        self.sync()
        del self.live[name]
        self.done(**{name: None})


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def run(args):
    os.makedirs(args.dir, exist_ok=True)
    record, stop, run_id = Record(args.record), threading.Event(), f"{time.time_ns():x}"
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    workers = [Worker(args.dir, kind, record, stop, f"{run_id}{which}") for which, kind in enumerate(["synced", "synced", "told"])]
    for worker in workers:
        worker.start()
    for worker in workers:
        while worker.is_alive():
            worker.join(0.1)
    print(f"slowest change {max(w.slowest for w in workers):.1f} s")
    gone = [w for w in workers if w.error and w.error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOENT)]
    for worker in workers:
        if worker.error:
            print(f"{worker.kind}: {worker.error}")
    sys.exit(0 if not any(w.error for w in workers) else 3 if gone else 1)


def read_record(path, kinds):
    """The state each name must have; names with an intent that was never done are open: either state is right."""
    states, pending = {}, {}
    with open(path) as f:
        for line in f:
            entry = json.loads(line)
            if entry["kind"] not in kinds:
                continue
            for name in entry.get("intent", ()):
                pending[name] = True
            for name, state in entry.get("done", {}).items():
                pending.pop(name, None)
                states[name] = state
    return states, set(pending)


def check(args):
    states, pending = read_record(args.record, {"synced", "told"} if args.told else {"synced"})
    present, problems = set(os.listdir(args.dir)), []
    for name, state in states.items():
        if name in pending:
            continue
        if state is None:
            if name in present:
                problems.append(f"{name} was removed and is back")
            continue
        try:
            with open(f"{args.dir}/{name}", "rb") as f:
                data = f.read()
        except OSError as e:
            problems.append(f"{name}: {e}")
            continue
        if digest(data) != state:
            problems.append(f"{name}: wrong content, {len(data)} bytes, {data.count(0)} of them zero")
        if name not in present:
            problems.append(f"{name} is missing in the listing")
    checked = sum(state is not None and name not in pending for name, state in states.items())
    print(f"{checked} files checked, {len(pending)} undecided, {len(problems)} wrong")
    print("\n".join(problems[:15]))
    sys.exit(1 if problems else 0)


def count(args):
    with open(args.record) as f:
        print(sum('"done"' in line for line in f))


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("check", check), ("count", count)):
        command = commands.add_parser(name)
        if name != "count":
            command.add_argument("dir")
        command.add_argument("record")
        command.add_argument("--told", action="store_true")
        command.set_defaults(function=function)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
