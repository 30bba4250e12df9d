"""Programs that have promises of their own: sqlite3 in both journal modes, and git. What they committed is there, whole."""

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import time

# Rows that a database keeps.
KEPT = 200


def run(part, root, record, before, stop):
    """Commits until `stop`; the record has each number before and each commit after. The slowest took so many seconds."""
    program = Git(root) if part == "git" else Sqlite(root, part)
    program.take_up()
    number, slowest = max((entry.get("begin", 0) for entry in before), default=0), 0.0
    while not stop.is_set():
        number, start = number + 1, time.monotonic()
        record.line(begin=number)
        committed = program.commit(number)
        record.line(committed=number, as_=committed)
        slowest = max(slowest, time.monotonic() - start)
    program.close()
    return slowest


def check(part, root, entries):
    """Problems, and a line about what was found."""
    begun = max((entry.get("begin", 0) for entry in entries), default=0)
    committed = {entry["committed"]: entry["as_"] for entry in entries if "committed" in entry}
    if not committed:
        return [], f"{part}: nothing was committed"
    try:
        program = Git(root) if part == "git" else Sqlite(root, part)
        return program.check(begun, committed), f"{part}: {max(committed)} commits"
    except (OSError, sqlite3.Error, subprocess.CalledProcessError) as e:
        return [f"{part}: {type(e).__name__}: {e}"], part


class Sqlite:
    def __init__(self, root, mode):
        self.path, self.mode, self.rng, self.db = f"{root}/{mode}.db", mode, random.Random(), None

    def open(self):
        # Nobody else uses it; but sqlite3 takes any error of a lock on its shared memory for one that another holds.
        self.db = sqlite3.connect(self.path, timeout=5, isolation_level=None)
        return self.db

    def take_up(self):
        db = self.open()
        db.execute(f"PRAGMA journal_mode={self.mode}")
        # The end of a transaction is durable in WAL mode with FULL, with a journal that is removed only with EXTRA.
        db.execute(f"PRAGMA synchronous={'FULL' if self.mode == 'wal' else 'EXTRA'}")
        db.execute("PRAGMA wal_autocheckpoint=60")
        db.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, data BLOB, hash TEXT)")
        db.execute("CREATE INDEX IF NOT EXISTS by_hash ON t(hash)")
        db.execute("CREATE TABLE IF NOT EXISTS last(n INT)")
        db.execute("INSERT INTO last SELECT 0 WHERE NOT EXISTS (SELECT * FROM last)")

    def commit(self, number):
        data = self.rng.randbytes(self.rng.choice([10, 1000, 3000, 30000]))
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO t VALUES (?, ?, ?)", (number, data, hashlib.sha256(data).hexdigest()))
        db.execute("DELETE FROM t WHERE n <= ?", (number - KEPT,))
        db.execute("UPDATE last SET n = ?", (number,))
        db.execute("COMMIT")
        return None

    def close(self):
        self.db.close()

    def check(self, begun, committed):
        db = self.open()
        problems = [f"{self.path}: {row[0]}" for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        rows = {n: hash_ == hashlib.sha256(data).hexdigest() for n, data, hash_ in db.execute("SELECT n, data, hash FROM t")}
        last = db.execute("SELECT n FROM last").fetchone()[0]
        db.close()
        problems += [f"{self.path}: row {n} has other bytes than were inserted" for n, right in rows.items() if not right]
        lost = [n for n in committed if n > last - KEPT and n not in rows]
        if lost or last < max(committed) or last > begun:
            problems.append(f"{self.path}: last is {last}, committed {max(committed)}, begun {begun}; lost rows: {lost[:10]}")
        if max(rows, default=0) != last:
            problems.append(f"{self.path}: half a transaction: last row {max(rows, default=0)}, last {last}")
        return problems


class Git:
    # All that git writes is synced by it; which of it is there must be decided by nobody else.
    OPTIONS = ["-c", "core.fsync=all", "-c", "gc.auto=0", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]

    def __init__(self, root):
        self.dir, self.rng = f"{root}/repository", random.Random()

    def git(self, *words):
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        git = subprocess.Popen(
            ["git", "-C", self.dir, *self.OPTIONS, *words],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
        )
        while True:
            try:
                out, err = git.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                self.end_in_dead_mount(git)
        if git.returncode:
            raise OSError(f"git {' '.join(words)}: exit code {git.returncode}: {err.strip()[:2000]} {out.strip()[:500]}")
        return out

    def end_in_dead_mount(self, git):
        """git 2.39 reads a directory whose file system is gone again and again, for ever, and says each time that it fails."""
        try:
            os.statvfs(self.dir)
        except OSError:
            os.killpg(git.pid, signal.SIGKILL)

    def take_up(self):
        if not os.path.exists(f"{self.dir}/.git/HEAD"):
            os.makedirs(self.dir, exist_ok=True)
            self.git("init", "-q")
        # What a git that was killed leaves, and asks its user to remove.
        for where, _, names in os.walk(f"{self.dir}/.git"):
            for name in names:
                if name.endswith(".lock"):
                    os.unlink(f"{where}/{name}")
        if os.listdir(f"{self.dir}/.git/refs/heads"):
            self.git("reset", "-q", "--hard")

    def commit(self, number):
        for name in (f"new-{number % 50}", f"same-{self.rng.randrange(5)}"):
            with open(f"{self.dir}/{name}", "w") as f:
                f.write(f"{number} {self.rng.random()}\n" * self.rng.randrange(1, 2000))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", str(number))
        commit = self.git("rev-parse", "HEAD").strip()
        if number % 20 == 0:
            self.git("repack", "-adq")
        # git renames the branch's new value into place, and leaves it to the system when that is durable.
        fd = os.open(f"{self.dir}/.git/refs/heads", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)
        return commit

    def close(self):
        pass

    def check(self, _begun, committed):
        found = self.git("fsck", "--full", "--no-progress", "--no-dangling").strip()
        last = committed[max(committed)]
        self.git("merge-base", "--is-ancestor", last, "HEAD")
        return [f"git fsck: {found}"] if found else []
