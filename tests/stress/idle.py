#!/usr/bin/env python3
"""Watches daemons that have nothing to do: they wake up seldom, and take next to no processor time.

What a wake-up costs is the machine's: 10 to 30 us, on virtual machines that lose their processor whenever they halt several times that.
A process that does nothing but wake up is measured in the same seconds, to tell a failure by that from one of ours; the limit
of 0.3 % stays. How often daemons wake up depends on no machine: 6 to 8 times a second, and the limit is what
one more that looks for work ten times a second would pass.

Usage: idle.py SECONDS PID...     exit code 1: over a limit
"""

import os
import subprocess
import sys
import time

CPU_MAX, WAKES_MAX = 0.003, 15
CONTROL = "import time\nwhile True: time.sleep(0.05)"


def processes(pids):
    """The ns of processor time that they have used, also in threads that have ended."""
    return sum(time.clock_gettime_ns((~int(pid) << 3) | 2) for pid in pids)


def threads(pids):
    """What each thread has used: {(thread, name): (ns of processor time, times that it went to sleep)}."""
    found = {}
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{task}/comm") as f:
                    name = f.read().strip()
                with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                    ns = int(f.read().split()[0])
                with open(f"/proc/{pid}/task/{task}/status") as f:
                    slept = next(int(line.split()[1]) for line in f if line.startswith("voluntary_ctxt_switches"))
                found[task, name] = ns, slept
            except FileNotFoundError:
                pass  # It has ended.
    return found


def used(before, after):
    """What each thread used between; of one that ended meanwhile nothing is seen."""
    return {of: tuple(now - then for now, then in zip(at, before.get(of, (0, 0)))) for of, at in after.items()}


def watch(seconds, pids):
    """For each second how long it was, the ns of all processes, and what each thread used."""
    seen, last = [], (time.monotonic(), processes(pids), threads(pids))
    for _ in range(seconds):
        time.sleep(1)
        now = time.monotonic(), processes(pids), threads(pids)
        seen.append((now[0] - last[0], now[1] - last[1], used(last[2], now[2])))
        last = now
    return seen


def main():
    seconds, pids = int(sys.argv[1]), sys.argv[2:]
    control = subprocess.Popen([sys.executable, "-c", CONTROL])
    try:
        time.sleep(1)
        before = threads([control.pid])
        seen = watch(seconds, pids)
        (control_ns, control_wakes), = used(before, threads([control.pid])).values()
    finally:
        control.kill()
        control.wait()
    took = sum(second for second, _, _ in seen)
    cpu = sum(ns for _, ns, _ in seen) / took / 1e9
    wakes = sum(slept for _, _, of in seen for _, slept in of.values()) / took
    wake_us = control_ns / control_wakes / 1000
    print(f"idle: {cpu:.4%} of a CPU (limit {CPU_MAX:.1%}; a wake-up takes {wake_us:.0f} us here), {wakes:.1f} wake-ups a second (limit {WAKES_MAX})")
    if cpu <= CPU_MAX and wakes <= WAKES_MAX:
        return
    for at, (_, ns, of) in enumerate(seen):
        most = sorted(((ns, slept, *thread) for thread, (ns, slept) in of.items() if ns or slept), reverse=True)[:4]
        print(f"second {at}: {ns / 1e6:.2f} ms;", ", ".join(f"{name} {task}: {ns / 1e6:.2f} ms, {slept} sleeps" for ns, slept, task, name in most))
    sys.exit(1)


if __name__ == "__main__":
    main()
