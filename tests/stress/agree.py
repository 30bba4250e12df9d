#!/usr/bin/env python3
"""Two mounts agree: random changes through either of two directories, each seen at once through the other.

A model in memory knows what the tree must look like. After each step the names involved are looked at through the mount that
did *not* make the change (and now and then through both): attributes, content, listing, extended attributes, and files held
open since before. No waiting: what was done before an operation began is seen by it.

Usage: agree.py DIR_A DIR_B [STEPS]     SEED=N repeats a run
"""

import errno
import os
import shutil
import stat
import sys
import time

from common import KEEP_SIZE, PUNCH_HOLE, Failed, check, fallocate, renameat2, RENAME_EXCHANGE, same, same_bytes, seeded

MAX_FILES, MAX_SIZE = 60, 300_000


class Node:
    """What an inode must look like. `names` counts links, `open` holds descriptors by side."""

    def __init__(self, kind, mode):
        self.kind, self.mode, self.names = kind, mode, 1
        self.data, self.xattrs, self.target, self.children, self.ino = bytearray(), {}, None, {}, None
        self.open = {}


class World:
    def __init__(self, roots, rng):
        self.roots, self.rng = roots, rng
        self.top = Node("dir", 0o755)
        self.step, self.counter, self.log = 0, 0, []

    # -- choosing ------------------------------------------------------------------------------------------------------

    def entries(self, kinds, node=None, path=""):
        """All (parent node, name, node, path) of these kinds."""
        found = []
        for name, child in (node or self.top).children.items():
            where = f"{path}/{name}"
            if child.kind in kinds:
                found.append(((node or self.top), name, child, where))
            if child.kind == "dir":
                found += self.entries(kinds, child, where)
        return found

    def pick(self, *kinds):
        found = self.entries(kinds)
        return self.rng.choice(found) if found else None

    def pick_dir(self):
        dirs = [(self.top, "")] + [(node, path) for _, _, node, path in self.entries(("dir",))]
        return self.rng.choice(dirs)

    def new_name(self):
        self.counter += 1
        return f"n{self.counter}" + "x" * self.rng.choice([0, 0, 0, 30, 200])

    def at(self, side, path):
        return self.roots[side] + path

    # -- looking -------------------------------------------------------------------------------------------------------

    def look(self, side, path, node):
        full = self.at(side, path)
        st = os.lstat(full)
        if node.ino is None:
            node.ino = st.st_ino
        same(st.st_ino, node.ino, "inode number of", full)
        if node.kind == "file":
            same(st.st_size, len(node.data), "size of", full)
            same(oct(stat.S_IMODE(st.st_mode)), oct(node.mode), "mode of", full)
            same(st.st_nlink, node.names, "links of", full)
            with open(full, "rb", buffering=0) as f:
                same_bytes(f.read(len(node.data) + 1) or b"", bytes(node.data), "content of", full)
            seen = {n: os.getxattr(full, n) for n in os.listxattr(full) if n.startswith("user.")}
            same(seen, node.xattrs, "xattrs of", full)
        elif node.kind == "link":
            same(os.readlink(full), node.target, "target of", full)
        else:
            same(oct(stat.S_IMODE(st.st_mode)), oct(node.mode), "mode of", full)
            same(sorted(os.listdir(full)), sorted(node.children), "listing of", full)
            same(st.st_nlink, 2 + sum(c.kind == "dir" for c in node.children.values()), "links of", full)
        for held, fd in node.open.items():
            self.look_open(held, fd, node)

    def look_open(self, side, fd, node):
        st = os.fstat(fd)
        same(st.st_size, len(node.data), f"size through a descriptor held open on {self.roots[side]}")
        same(st.st_nlink, node.names, f"links through a descriptor held open on {self.roots[side]}")
        same_bytes(os.pread(fd, len(node.data) + 1, 0), bytes(node.data), f"content through a descriptor held open on {self.roots[side]}")

    def look_gone(self, side, path):
        try:
            os.lstat(self.at(side, path))
        except OSError as e:
            same(e.errno, errno.ENOENT, "errno of", self.at(side, path))
            return
        raise Failed(f"{self.at(side, path)} is still there")

    def look_everywhere(self):
        for side in (0, 1):
            self.look(side, "", self.top)
            for _, _, node, path in self.entries(("file", "dir", "link")):
                self.look(side, path, node)

    # -- changing: each returns a list of things to look at from the other side ----------------------------------------

    def create(self, side):
        if len(self.entries(("file",))) >= MAX_FILES:
            return self.unlink(side)
        parent, path = self.pick_dir()
        name, node = self.new_name(), Node("file", self.rng.choice([0o600, 0o644, 0o755]))
        fd = os.open(self.at(side, f"{path}/{name}"), os.O_CREAT | os.O_EXCL | os.O_RDWR, node.mode)
        parent.children[name] = node
        if self.rng.random() < 0.7:
            node.data[:] = self.rng.randbytes(self.rng.choice([1, 100, 4096, 20000]))
            os.write(fd, node.data)
        if self.rng.random() < 0.3:
            node.open[side] = fd
        else:
            os.close(fd)
        return [(f"{path}/{name}", node), (path, parent)]

    def write(self, side):
        entry = self.pick("file")
        if not entry:
            return self.create(side)
        _, _, node, path = entry
        length = self.rng.choice([1, 10, 1000, 4096, 5000, 70000])
        offset = self.rng.randrange(0, min(MAX_SIZE - length, len(node.data) + 10000))
        data = self.rng.randbytes(length)
        held = node.open.get(side)
        fd = held if held is not None else os.open(self.at(side, path), os.O_RDWR)
        os.pwrite(fd, data, offset)
        node.data.extend(bytes(max(0, offset + length - len(node.data))))
        node.data[offset:offset + length] = data
        if self.rng.random() < 0.1:
            os.fsync(fd)
        if held is None:
            os.close(fd)
        return [(path, node)]

    def append(self, side):
        entry = self.pick("file")
        if not entry or len(entry[2].data) > MAX_SIZE:
            return self.create(side)
        _, _, node, path = entry
        data = self.rng.randbytes(self.rng.randrange(1, 3000))
        fd = os.open(self.at(side, path), os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        node.data += data
        return [(path, node)]

    def truncate(self, side):
        entry = self.pick("file")
        if not entry:
            return self.create(side)
        _, _, node, path = entry
        size = self.rng.choice([0, len(node.data) // 2, len(node.data) + 5000, self.rng.randrange(MAX_SIZE)])
        os.truncate(self.at(side, path), size)
        node.data[:] = node.data[:size] + bytes(max(0, size - len(node.data)))
        return [(path, node)]

    def punch(self, side):
        entry = self.pick("file")
        if not entry or not entry[2].data:
            return self.create(side)
        _, _, node, path = entry
        start = self.rng.randrange(len(node.data))
        end = min(len(node.data), start + self.rng.randrange(1, 20000))
        fd = os.open(self.at(side, path), os.O_RDWR)
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, start, end - start)
        os.close(fd)
        node.data[start:end] = bytes(end - start)
        return [(path, node)]

    def hold_open(self, side):
        entry = self.pick("file")
        if not entry:
            return self.create(side)
        _, _, node, path = entry
        if side in node.open:
            os.close(node.open.pop(side))
        else:
            node.open[side] = os.open(self.at(side, path), os.O_RDWR)
        return [(path, node)]

    def chmod(self, side):
        entry = self.pick("file", "dir")
        if not entry:
            return self.create(side)
        _, _, node, path = entry
        node.mode = self.rng.choice([0o600, 0o640, 0o644]) if node.kind == "file" else self.rng.choice([0o700, 0o755])
        os.chmod(self.at(side, path), node.mode)
        return [(path, node)]

    def xattr(self, side):
        entry = self.pick("file")
        if not entry:
            return self.create(side)
        _, _, node, path = entry
        if node.xattrs and self.rng.random() < 0.4:
            name = self.rng.choice(list(node.xattrs))
            os.removexattr(self.at(side, path), name)
            del node.xattrs[name]
        else:
            name, value = f"user.a{self.rng.randrange(4)}", self.rng.randbytes(self.rng.randrange(100))
            os.setxattr(self.at(side, path), name, value)
            node.xattrs[name] = value
        return [(path, node)]

    def mkdir(self, side):
        parent, path = self.pick_dir()
        if path.count("/") > 4 or len(self.entries(("dir",))) > 15:
            return self.rename(side)
        name, node = self.new_name(), Node("dir", 0o755)
        os.mkdir(self.at(side, f"{path}/{name}"), 0o755)
        parent.children[name] = node
        return [(f"{path}/{name}", node), (path, parent)]

    def rmdir(self, side):
        empty = [e for e in self.entries(("dir",)) if not e[2].children]
        if not empty:
            return self.mkdir(side)
        parent, name, _, path = self.rng.choice(empty)
        os.rmdir(self.at(side, path))
        del parent.children[name]
        return [(path, None), (path.rsplit("/", 1)[0], parent)]

    def symlink(self, side):
        parent, path = self.pick_dir()
        if len(self.entries(("link",))) > 10:
            return self.unlink(side)
        name, node = self.new_name(), Node("link", 0o777)
        node.target = "t" * self.rng.randrange(1, 500)
        os.symlink(node.target, self.at(side, f"{path}/{name}"))
        parent.children[name] = node
        return [(f"{path}/{name}", node), (path, parent)]

    def link(self, side):
        entry = self.pick("file")
        if not entry or len(self.entries(("file",))) >= MAX_FILES:
            return self.create(side)
        _, _, node, old = entry
        parent, path = self.pick_dir()
        name = self.new_name()
        os.link(self.at(side, old), self.at(side, f"{path}/{name}"))
        parent.children[name] = node
        node.names += 1
        return [(f"{path}/{name}", node), (old, node), (path, parent)]

    def forget_name(self, parent, name):
        node = parent.children.pop(name)
        node.names -= 1
        return node

    def unlink(self, side):
        entry = self.pick("file", "link")
        if not entry:
            return self.create(side)
        parent, name, node, path = entry
        os.unlink(self.at(side, path))
        self.forget_name(parent, name)
        if not node.names:
            for held, fd in node.open.items():
                self.look_open(held, fd, node)
                os.close(fd)
            node.open = {}
        return [(path, None), (path.rsplit("/", 1)[0], parent)]

    def rename(self, side):
        entry = self.pick("file", "dir", "link")
        if not entry:
            return self.create(side)
        parent, name, node, path = entry
        target, target_path = self.pick_dir()
        if node.kind == "dir" and (target_path + "/").startswith(path + "/"):
            return self.create(side)
        new = self.new_name()
        victims = [n for n, c in target.children.items() if c.kind == "file" and c is not node]
        if node.kind == "file" and victims and self.rng.random() < 0.5:
            new = self.rng.choice(victims)
        os.rename(self.at(side, path), self.at(side, f"{target_path}/{new}"))
        if new in target.children:
            victim = self.forget_name(target, new)
            if not victim.names:
                for held, fd in victim.open.items():
                    self.look_open(held, fd, victim)
                    os.close(fd)
        del parent.children[name]
        target.children[new] = node
        return [(path, None), (f"{target_path}/{new}", node), (target_path, target)] + ([(path.rsplit("/", 1)[0], parent)])

    def exchange(self, side):
        one, two = self.pick("file"), self.pick("file")
        if not one or not two or one[2] is two[2]:
            return self.create(side)
        renameat2(self.at(side, one[3]), self.at(side, two[3]), RENAME_EXCHANGE)
        one[0].children[one[1]], two[0].children[two[1]] = two[2], one[2]
        return [(one[3], two[2]), (two[3], one[2])]

    CHOICES = (["create"] * 6 + ["write"] * 10 + ["append"] * 4 + ["truncate"] * 4 + ["punch"] * 2 + ["hold_open"] * 4 + ["chmod"] * 3
               + ["xattr"] * 3 + ["mkdir"] * 2 + ["rmdir"] + ["symlink"] * 2 + ["link"] * 2 + ["unlink"] * 4 + ["rename"] * 5 + ["exchange"])

    def one_step(self):
        side, action = self.rng.randrange(2), self.rng.choice(self.CHOICES)
        self.log.append(f"{self.step} {'AB'[side]} {action}")
        affected = getattr(self, action)(side)
        self.log[-1] += " " + ", ".join(path or "/" for path, _ in affected)
        for looker in ((1 - side,) if self.step % 10 else (1 - side, side)):
            for path, node in affected:
                self.log[-1] += f" | {'AB'[looker]} looks at {path or '/'}"
                if node is None:
                    self.look_gone(looker, path)
                elif not (node.names == 0):
                    self.look(looker, path, node)
        self.step += 1


def main():
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 4000
    roots = [os.path.join(os.path.abspath(p), "agree") for p in sys.argv[1:3]]
    shutil.rmtree(roots[0], ignore_errors=True)
    os.umask(0)
    os.mkdir(roots[0], 0o755)
    world = World(roots, seeded("agree"))
    start = time.monotonic()
    try:
        for i in range(steps):
            world.one_step()
            if i % 500 == 499:
                world.look_everywhere()
        world.look_everywhere()
    except (Failed, OSError) as e:
        print(f"FAILED at step {world.step}: {e}")
        print("last steps:\n  " + "\n  ".join(world.log[-12:]))
        sys.exit(1)
    print(f"ok      {steps} steps agreed on both sides ({time.monotonic() - start:.1f} s)")


if __name__ == "__main__":
    main()
