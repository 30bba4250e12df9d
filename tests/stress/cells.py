"""Files that say of each of their bytes who wrote it: what may be left of them after a crash, and what never.

A file is a row of *cells* of 128 bytes. Each names its file, its place in it and the number of the write that it came with, and
has a checksum of its own. So foreign bytes, torn ones and ones at a wrong place are told apart from what an earlier write
left, and a reader needs nothing but the record of what was written, kept outside.

A change of a file is a tuple: ("write", number, first cell, count) or ("cut", number, cells).
"""

import os
import struct
import zlib

CELL = 128
_HEAD = struct.Struct(">8sQQQ")
_MAGIC = b"CELLCELL"
_FILL = CELL - _HEAD.size - 4
HOLE, BAD = 0, -1


def cells(tag, number, first, count):
    """The bytes of `count` cells from `first` on, as write `number` of file `tag` makes them."""
    fill = bytes((number + i) & 0xFF or 1 for i in range(_FILL))
    out = bytearray()
    for place in range(first, first + count):
        body = _HEAD.pack(_MAGIC, tag, number, place) + fill
        out += body + zlib.crc32(body).to_bytes(4, "big")
    return bytes(out)


def number_of(tag, place, data):
    """Which write a cell's bytes came with; HOLE for zeros; BAD for what no write of this file put there."""
    if not data.strip(b"\0"):
        return HOLE
    if len(data) != CELL or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        return BAD
    magic, of, number, at = _HEAD.unpack_from(data)
    return number if (magic, of, at) == (_MAGIC, tag, place) else BAD


def look(path, tag):
    """Size in cells (rounded up) and the number of each."""
    with open(path, "rb", buffering=0) as f:
        data = f.read(os.fstat(f.fileno()).st_size)
    places = range((len(data) + CELL - 1) // CELL)
    return len(data), [number_of(tag, place, data[place * CELL:(place + 1) * CELL]) for place in places]


class History:
    """What was done with one file. `certain`: how many of the changes must have survived."""

    def __init__(self):
        self.changes, self.certain = [], 0

    def problem(self, path, tag):
        """One line about what is wrong with the file now, or None."""
        try:
            size, seen = look(path, tag)
        except OSError as e:
            return f"{path}: {e}"
        base = apply(self.changes[:self.certain])
        sizes = {len(base)}
        allowed, now = {}, list(base)
        for change in self.changes[self.certain:]:
            before = now
            now = apply([change], before)
            sizes.add(len(now))
            for place in touched(change, before):
                allowed.setdefault(place, set()).add(now[place] if place < len(now) else HOLE)
                # A size that is there before the bytes: zeros, if nothing was there.
                if place >= len(before):
                    allowed[place].add(HOLE)
        # Of what is not certain a shorter file may be left: the writes of one call need not come together.
        if size % CELL or not (size // CELL in sizes or min(sizes) < size // CELL < max(sizes)):
            return f"{path}: {size} bytes, of {sorted(s * CELL for s in sizes)[:20]}"
        for place in range(max(len(seen), len(base))):
            is_now = seen[place] if place < len(seen) else HOLE
            was = base[place] if place < len(base) else HOLE
            if is_now != was and is_now not in allowed.get(place, ()):
                return (f"{path}: cell {place} of {len(seen)} has {name(is_now)}; {name(was)} is certain,"
                        f" {sorted(allowed.get(place, ()))} may have come after")
        return None


def name(number):
    return {HOLE: "zeros", BAD: "foreign or torn bytes"}.get(number, f"write {number}")


def apply(changes, before=()):
    now = list(before)
    for kind, number, first, *count in changes:
        if kind == "cut":
            now = now[:first] + [HOLE] * (first - len(now))
        else:
            now += [HOLE] * (first + count[0] - len(now))
            now[first:first + count[0]] = [number] * count[0]
    return now


def touched(change, before):
    kind, _, first, *count = change
    if kind == "cut":
        return range(min(first, len(before)), max(first, len(before)))
    return range(min(first, len(before)), first + count[0])
