#!/usr/bin/env python3
"""Writes a source tree as projects have them: many small files in nested directories, some large, links, odd modes.

Usage: gentree.py DIR FILES [SEED]     the same seed gives the same tree
"""

import os
import random
import sys


def sizes(rng):
    """Log-normal around 4 KiB, as source trees are: most under 10 KiB, a few of hundreds."""
    return min(int(rng.lognormvariate(8.2, 1.3)), 400_000)


def main():
    root, files, rng = sys.argv[1], int(sys.argv[2]), random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    words = ["alloc", "block", "cache", "driver", "entry", "flags", "graph", "hash", "index", "journal", "kernel", "list", "map"]
    line = "static int {0}_{1}(struct {1} *p, size_t n) {{ return p->{0} + (int)n * {2}; }}\n"
    os.makedirs(root)
    directories = [root]
    for i in range(files // 20):
        parent = rng.choice(directories[-50:])
        if parent.count("/") - root.count("/") < 7:
            directories.append(f"{parent}/{rng.choice(words)}{i}")
            os.mkdir(directories[-1])
    for i in range(files):
        path = f"{rng.choice(directories)}/{rng.choice(words)}_{i}.{rng.choice(['c', 'c', 'h', 'txt'])}"
        size = sizes(rng)
        if i % 200 == 7:
            os.symlink(f"../{rng.choice(words)}_{i - 1}.c", path)
        elif i % 300 == 11:
            os.link(last, path)
        else:
            with open(path, "w") as f:
                while size > 0:
                    text = line.format(rng.choice(words), rng.choice(words), rng.randrange(1 << 30))
                    f.write(text[:size])
                    size -= len(text)
            os.chmod(path, rng.choice([0o644, 0o644, 0o600, 0o755]))
            os.utime(path, ns=(1_600_000_000_000_000_000 + i, 1_500_000_000_123_456_789 + i * 1_000_000_007))
            last = path


if __name__ == "__main__":
    main()
