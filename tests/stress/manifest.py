#!/usr/bin/env python3
"""Everything of a tree that a program can see, one line for each name: to compare two states of it.

Usage: manifest.py DIR            (access times and the directory's own name are left out)
       manifest.py --fill DIR     makes a tree with something of each kind in DIR
"""
import hashlib
import os
import stat
import sys


def content(path, kind):
    if stat.S_ISREG(kind):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return ascii(os.readlink(path)) if stat.S_ISLNK(kind) else "-"


def line(root, path):
    look = os.lstat(path)
    xattrs = {}
    if not stat.S_ISLNK(look.st_mode):
        xattrs = {name: os.getxattr(path, name).hex() for name in sorted(os.listxattr(path))}
    name = ascii(os.path.relpath(path, root))
    fields = (look.st_ino, oct(look.st_mode), look.st_nlink, look.st_uid, look.st_gid, look.st_rdev, look.st_size,
              look.st_blocks, look.st_mtime_ns, look.st_ctime_ns)
    return f"{name} {fields} {xattrs} {content(path, look.st_mode)}"


def show(root):
    lines = [line(root, root)]
    for directory, names, files in os.walk(root):
        lines += [line(root, os.path.join(directory, name)) for name in names + files]
    print("\n".join(sorted(lines)))


def fill(root):
    os.makedirs(f"{root}/a/b/c")
    for number in range(300):
        path = f"{root}/a/b/{number}"
        with open(path, "wb") as file:
            file.write(os.urandom(number * 37))
        os.chmod(path, 0o600 + number % 64)
        os.utime(path, ns=(number, 10**18 + number))
    with open(f"{root}/sparse", "wb") as file:
        file.seek(10 << 20)
        file.write(b"behind a hole")
        os.posix_fallocate(file.fileno(), 20 << 20, 1 << 20)
    os.link(f"{root}/a/b/7", f"{root}/seven")
    os.link(f"{root}/a/b/7", f"{root}/a/another seven")
    os.symlink("a/b/../b/7", f"{root}/link")
    os.mkfifo(f"{root}/fifo", 0o640)
    os.chown(f"{root}/a/b/c", 1234, 5678)
    os.chmod(f"{root}/a/b/c", 0o3775)
    for name in (b"not \xff text", b"two\nlines", "\u00fcn\u00efcode \u2603".encode()):
        with open(os.fsencode(root) + b"/" + name, "wb") as file:
            file.write(name)
    os.setxattr(f"{root}/seven", "user.bytes", bytes(range(256)))
    os.setxattr(f"{root}/a", "user.marked", b"MARKED-IN-THE-TABLES")


if sys.argv[1] == "--fill":
    fill(sys.argv[2])
else:
    show(sys.argv[1])
