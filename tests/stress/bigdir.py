#!/usr/bin/env python3
"""A directory of 200,000 entries, listed while others add and remove names: each stable entry appears exactly once.

Usage: bigdir.py DIR [OTHER_MOUNT_OF_IT] [--entries N]
"""

import argparse
import os
import sys
import threading
import time


def add(dir_fd, tag, first, last):
    for i in range(first, last):
        os.mknod(f"{tag}{i:07d}", dir_fd=dir_fd)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dir")
    parser.add_argument("other", nargs="?")
    parser.add_argument("--entries", type=int, default=200_000)
    args = parser.parse_args()
    here = os.path.join(os.path.abspath(args.dir), "bigdir")
    there = os.path.join(os.path.abspath(args.other or args.dir), "bigdir")
    os.mkdir(here)
    # Names are made relative to the open directory: with two mounts each component of a path is a round trip.
    dir_fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (here, there)]

    start = time.monotonic()
    share = args.entries // 4
    makers = [threading.Thread(target=add, args=(dir_fds[i % 2], "stable", i * share, (i + 1) * share)) for i in range(4)]
    for t in makers:
        t.start()
    for t in makers:
        t.join()
    print(f"{share * 4} entries made in {time.monotonic() - start:.0f} s", flush=True)
    stable = {f"stable{i:07d}" for i in range(share * 4)}

    stop = threading.Event()
    changed = [0, 0]

    def churn(which):
        """Adds and removes all over the hash range, so that names come and go before and behind each reader."""
        dir_fd, i = dir_fds[which], 0
        while not stop.is_set():
            os.mknod(f"churn{which}-{i}", dir_fd=dir_fd)
            if i >= 500:
                os.unlink(f"churn{which}-{i - 500}", dir_fd=dir_fd)
            i += 1
        changed[which] = i

    churners = [threading.Thread(target=churn, args=(which,)) for which in (0, 1)]
    for t in churners:
        t.start()
    problems = []
    try:
        for round_ in range(3):
            for path in (here, there):
                start = time.monotonic()
                with os.scandir(path) as entries:
                    names = [e.name for e in entries if e.name.startswith("stable")]
                missing, twice = len(stable - set(names)), len(names) - len(set(names))
                print(f"round {round_}: {len(names)} stable names, {missing} missing, {twice} twice, {time.monotonic() - start:.1f} s", flush=True)
                if missing or twice or set(names) - stable:
                    problems.append((path, missing, twice))
    finally:
        stop.set()
        for t in churners:
            t.join()
    print(f"{sum(changed)} names came while listing", flush=True)
    if problems:
        print("FAILED:", problems)
        sys.exit(1)
    if min(changed) < 100:
        print("FAILED: nothing was changed while listing, so nothing was tested")
        sys.exit(1)


if __name__ == "__main__":
    main()
