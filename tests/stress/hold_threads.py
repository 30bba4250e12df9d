#!/usr/bin/env python3
"""Holds all threads of a process but the first, as a debugger does, until this is killed.

Usage: hold_threads.py PID READY     READY is made when they are held
"""
import ctypes
import os
import signal
import sys

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, tid):
    if libc.ptrace(request, tid, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {tid}")


def main():
    pid, ready = int(sys.argv[1]), sys.argv[2]
    for tid in map(int, os.listdir(f"/proc/{pid}/task")):
        if tid != pid:
            ptrace(PTRACE_SEIZE, tid)
            ptrace(PTRACE_INTERRUPT, tid)
    open(ready, "w").close()
    while True:
        # Threads that end, or begin to, are let go by the kernel; nobody else is.
        signal.pause()


main()
