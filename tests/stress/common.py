"""What the drivers share: system calls Python has no name for, and checks that say what they saw."""

import ctypes
import os
import random
import sys
import time

_libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, UNSHARE_RANGE = 1, 2, 8, 16, 32, 64
AT_FDCWD = -100


class Failed(Exception):
    """A check that did not hold: the message is the whole report."""


def check(condition, *message):
    if not condition:
        raise Failed(" ".join(str(part) for part in message))


def same(seen, expected, *what):
    if seen != expected:
        raise Failed(" ".join(str(part) for part in what) + f": saw {_short(seen)}, expected {_short(expected)}")


def _short(value):
    if isinstance(value, (bytes, bytearray)):
        head = bytes(value[:48]).hex()
        return f"{len(value)} bytes {head}{'...' if len(value) > 48 else ''}"
    text = repr(value)
    return text if len(text) < 400 else text[:400] + "..."


def same_bytes(seen, expected, *what):
    """Like `same`, and tells the first byte that differs."""
    if seen == expected:
        return
    at = next((i for i, (a, b) in enumerate(zip(seen, expected)) if a != b), min(len(seen), len(expected)))
    raise Failed(" ".join(str(part) for part in what)
                 + f": {len(seen)} bytes, expected {len(expected)}; first difference at {at}:"
                 + f" saw {_short(seen[at:at + 16])}, expected {_short(expected[at:at + 16])}")


def fails_with(error, call, *args, **kwargs):
    """The call must fail with this errno."""
    try:
        call(*args, **kwargs)
    except OSError as e:
        same(os.strerror(e.errno), os.strerror(error), f"errno of {getattr(call, '__name__', call)}{args}")
        return
    raise Failed(f"{getattr(call, '__name__', call)}{args} worked, expected {os.strerror(error)}")


def _result(code, *what):
    if code < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), *what)
    return code


def fallocate(fd, mode, offset, length):
    _result(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def renameat2(old, new, flags):
    _result(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags), old)


def linkat_fd(fd, new):
    """Give a name to an open file (AT_SYMLINK_FOLLOW through /proc)."""
    _result(_libc.linkat(AT_FDCWD, os.fsencode(f"/proc/self/fd/{fd}"), AT_FDCWD, os.fsencode(new), 0x400), new)


def wait_for(condition, seconds, what):
    """Poll until the condition holds; the bound is a failure, never a reason to go on."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        check(time.monotonic() < deadline, f"not within {seconds} s: {what}")
        time.sleep(0.01)


def seeded(name, seed=None):
    """A random generator whose seed is printed, so that a failure can be repeated with SEED=..."""
    seed = seed if seed is not None else int(os.environ.get("SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"{name}: seed {seed}", flush=True)
    return random.Random(seed)


def run_all(cases, argument, only=None):
    """Run each case with its own fresh argument; print a line for each; the exit code tells whether all passed."""
    failed = 0
    for case in cases:
        if only and only not in case.__name__:
            continue
        start = time.monotonic()
        try:
            case(argument(case.__name__))
            print(f"ok      {case.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
        except Failed as e:
            failed += 1
            print(f"FAILED  {case.__name__}: {e}", flush=True)
        except OSError as e:
            failed += 1
            line = next((f"line {t.tb_lineno}" for t in _frames(e.__traceback__) if t.tb_frame.f_code.co_filename == sys.argv[0]), "")
            print(f"FAILED  {case.__name__}: {e} ({line})", flush=True)
    sys.exit(1 if failed else 0)


def _frames(trace):
    frames = []
    while trace:
        frames.append(trace)
        trace = trace.tb_next
    return reversed(frames)
