#!/usr/bin/env python3
"""Strangers at the daemons' ports: garbage, foreign protocols, frames that are too large or half, idle connections by the
thousand, a reader that never reads. Each ends, or costs little; the mount beside them goes on.

Usage: strangers.py MOUNTED_DIR VOLUME:NUMBER:COOKIE NAME=ADDR=PID=LOG ...      names a block; SEED=N repeats a run's garbage
"""
import os
import random
import re
import resource
import socket
import struct
import sys
import time

IDLE = 10_000
# What may be added to a daemon's memory, in MiB. A connection has two tasks and its buffers' bookkeeping.
IDLE_GROWTH = 300
FLOOD_GROWTH = 150
# Of 20 connections, each with two blocks of 4 MiB.
BLOCKS_GROWTH = 200
# Of halves of frames: 512 MiB may be in use for all that is received, and what is behind it.
RECEIVED_GROWTH = 700
# Lines that one kind of stranger may write into a log, however many come.
LOG_LINES = 20
# How long an operation beside them may take, in seconds.
PATIENCE = 5.0
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
rng = random.Random(SEED)


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def head(kind, header_len, payload_len, header=None):
    """The fixed part of a frame; its checksum is right if the header is given."""
    fixed = b"CRNF" + bytes([1, kind, 0, 0]) + struct.pack(">II", header_len, payload_len)
    return fixed + struct.pack(">I", crc32c(fixed + header) if header is not None else 0)


def frame_of(header, announced, payload):
    """A frame whose payload is less than it says."""
    fixed = b"CRNF" + bytes([1, 2, 0, 0]) + struct.pack(">II", len(header), announced)
    return fixed + struct.pack(">I", crc32c(fixed + header)) + header + payload


def frame(kind, header):
    return head(kind, len(header), 0, header) + header


class Daemon:
    def __init__(self, text):
        self.name, address, pid, self.log = text.split("=")
        host, port = address.rsplit(":", 1)
        self.address, self.pid = (host, int(port)), int(pid)
        service = 1 if self.name == "meta" else 2
        hello = struct.pack(">HH", 1, 0xFFFF) + bytes(16) + bytes([service, 8]) + b"stranger"
        self.hello = frame(1, hello)

    def connect(self):
        connection = socket.create_connection(self.address, timeout=10)
        connection.settimeout(10)
        return connection

    def greeted(self):
        """A connection after the first exchange."""
        connection = self.connect()
        connection.sendall(self.hello)
        answer = b""
        while len(answer) < 20 or len(answer) < 20 + struct.unpack(">I", answer[8:12])[0]:
            piece = connection.recv(4096)
            if not piece:
                raise SystemExit(f"{self.name} refuses a new connection")
            answer += piece
        return connection

    def memory(self):
        with open(f"/proc/{self.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        return int(line.split()[1]) // 1024

    def lines(self):
        with open(self.log, errors="replace") as log:
            return log.read().splitlines()


def closes(connection, limit):
    """Whether the other side closes within so many seconds."""
    connection.settimeout(limit)
    try:
        while connection.recv(65536):
            pass
        return True
    except socket.timeout:
        return False
    except OSError:
        return True


def beside(directory, when, patience=PATIENCE):
    """The mount goes on, with data that has to reach both daemons."""
    began = time.monotonic()
    path = os.path.join(directory, f"beside-{rng.randrange(1 << 40)}")
    content = rng.randbytes(100_000)
    with open(path, "xb") as file:
        file.write(content)
        os.fsync(file.fileno())
    with open(path, "rb") as file:
        assert file.read() == content, when
    os.unlink(path)
    took = time.monotonic() - began
    assert took < patience, f"{when}: an operation took {took:.1f} s"


def kinds(daemon):
    """Name, bytes, whether the first exchange comes before, whether the other side has to end it at once, and what its log says then."""
    garbage = rng.randbytes(300)
    yield "garbage", garbage, False, True, "refused: peer does not speak Cairn's protocol: check the address and port"
    yield "HTTP", b"GET / HTTP/1.1\r\nHost: cairn\r\n\r\n", False, True, "refused: peer speaks HTTP, not Cairn's protocol: check the address and port"
    yield "TLS", bytes.fromhex("16030100c8010000c40303") + garbage, False, True, "refused: peer speaks TLS, not Cairn's protocol: check the address and port"
    yield "another frame version", b"CRNF\x63\x01" + bytes(14), False, True, "refused: first exchange damaged: frame version 99, expected 1"
    yield "a first exchange too large", head(1, 1 << 20, 0), False, True, "refused: peer does not speak Cairn's protocol"
    yield "half a first exchange", daemon.hello[:11], False, False, "refused: no answer within 5 s"
    yield "silence", b"", False, False, "refused: no answer within 5 s"
    yield "garbage after the first exchange", garbage, True, True, "ended: not a Cairn connection (starts with"
    yield "a frame too large", head(2, 0xFFFFFFFF, 0), True, True, "ended: frame header of 4294967295 bytes is above the limit"
    yield "a payload too large", head(2, 10, 0xFFFFFFFF), True, True, "ended: frame payload of 4294967295 bytes is above the limit"
    yield "a wrong checksum", head(2, 4, 0) + b"1234", True, True, "ended: frame checksum does not match: the connection damages data"
    yield "a message that is none", frame(2, b"\xfa" * 40), True, True, "ended: received: "


def tells(line, said):
    """Whether a line of the log has the address of one of ours, and the reason."""
    return re.search(r" connection from 127\.0\.0\.1:\d+ " + re.escape(said), line)


def each_kind(daemon, directory):
    for name, data, greeted, at_once, said in kinds(daemon):
        before = len(daemon.lines())
        connections = []
        for _ in range(200):
            connection = daemon.greeted() if greeted else daemon.connect()
            try:
                connection.sendall(data)
            except OSError:
                pass  # closed already
            connections.append(connection)
        beside(directory, f"{daemon.name}, {name}")
        limit = 3 if at_once else 8
        for connection in connections:
            assert closes(connection, limit), f"{daemon.name}: {name} is not ended within {limit} s"
            connection.close()
        # In the same minute the first few of a kind are in the log, the others are counted.
        assert any(tells(line, said) for line in daemon.lines()), f"{daemon.name}: {name}: no line says '{said}'"
        lines = daemon.lines()[before:]
        assert len(lines) <= LOG_LINES, f"{daemon.name}: {name} by 200 connections wrote {len(lines)} lines: {lines[:3]}"
        print(f"{daemon.name}: {name}: ended, {len(lines)} lines of log")


def half_frames(daemon, directory):
    before = daemon.memory()
    half = head(2, 4 << 20, 5 << 20) + bytes(1000)
    connections = [daemon.greeted() for _ in range(500)]
    for connection in connections:
        connection.sendall(half)
    beside(directory, f"{daemon.name}, half frames")
    grown = daemon.memory() - before
    assert grown < FLOOD_GROWTH, f"{daemon.name}: 500 half frames take {grown} MiB"
    print(f"{daemon.name}: 500 half frames that announce 9 MiB each: {grown} MiB")
    for connection in connections:
        connection.close()


def half_payloads(daemon, directory):
    """More than the memory for all that is received at once, and nothing follows: those who wait for it go on soon."""
    before = daemon.memory()
    begun = frame_of(b"none", 5 << 20, bytes(4 << 20))
    connections = [daemon.greeted() for _ in range(200)]
    for connection in connections:
        connection.setblocking(False)
    left, end = {connection: memoryview(begun) for connection in connections}, time.monotonic() + 5
    while left and time.monotonic() < end:
        for connection, rest in list(left.items()):
            try:
                left[connection] = rest[connection.send(rest):]
            except BlockingIOError:
                continue
            except OSError:
                del left[connection]
                continue
            if not left[connection]:
                del left[connection]
    grown = daemon.memory() - before
    assert 100 < grown < RECEIVED_GROWTH, f"{daemon.name}: 200 large halves of frames take {grown} MiB"
    # The first ones are ended when others wait, and a mount among these comes to its turn.
    beside(directory, f"{daemon.name}, large halves of frames", patience=15)
    print(f"{daemon.name}: 200 halves of frames of 5 MiB: {grown} MiB")
    for connection in connections:
        connection.close()


def idle(daemon, directory):
    before = daemon.memory()
    connections = [daemon.greeted() for _ in range(IDLE)]
    beside(directory, f"{daemon.name}, {IDLE} idle connections")
    grown = daemon.memory() - before
    assert grown < IDLE_GROWTH, f"{daemon.name}: {IDLE} idle connections take {grown} MiB"
    daemon.greeted().close()
    print(f"{daemon.name}: {IDLE} idle connections: {grown} MiB, and there is room for more")
    for connection in connections:
        connection.close()


def number32(value):
    """As the wire has a number."""
    return bytes([value]) if value < 251 else b"\xfc" + struct.pack("<I", value)


def calls(method, arguments=b""):
    """Questions with as much time for the answer as is granted: an hour, in microseconds."""
    ask = number32(3_600_000_000) + bytes([method]) + arguments
    return b"".join(frame(2, bytes([0, number % 200]) + ask) for number in range(200))


def never_reads(daemon, directory, what, call, most):
    """Asks for `what` again and again, and reads no answer."""
    before = daemon.memory()
    connections = [daemon.greeted() for _ in range(20)]
    for connection in connections:
        connection.setblocking(False)
    sent, end = 0, time.monotonic() + 3
    while time.monotonic() < end:
        for connection in connections:
            try:
                sent += connection.send(call)
            except (BlockingIOError, ConnectionError):
                pass
        time.sleep(0.01)
    beside(directory, f"{daemon.name}, readers that never read")
    grown = daemon.memory() - before
    assert grown < most, f"{daemon.name}: 20 that ask for {what} and never read take {grown} MiB"
    print(f"{daemon.name}: {sent >> 10} KiB of questions for {what} whose answers nobody reads: {grown} MiB")
    for connection in connections:
        connection.close()


def main():
    directory, daemons = sys.argv[1], [Daemon(text) for text in sys.argv[3:]]
    volume, number, cookie = sys.argv[2].split(":")
    block = b"".join(number32(value) for value in (int(volume), int(number), int(cookie, 16), 0, 4 << 20))
    print(f"seed {SEED}")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    assert most > IDLE + 1000, f"this process may have only {most} files open"
    for daemon in daemons:
        each_kind(daemon, directory)
        half_frames(daemon, directory)
        half_payloads(daemon, directory)
        never_reads(daemon, directory, "its status", calls(22 if daemon.name == "meta" else 3), FLOOD_GROWTH)
        if daemon.name == "data":
            never_reads(daemon, directory, "a block of 4 MiB", calls(1, block), BLOCKS_GROWTH)
        idle(daemon, directory)
    for daemon in daemons:
        bad = [line for line in daemon.lines() if "panicked" in line or " ERROR " in line]
        assert not bad, f"{daemon.name}: {bad[:3]}"
    beside(directory, "afterwards")


main()
