"""Records of the control socket, built of numbers, and a socket that carries them by hand."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

__all__ = [
    "ACK",
    "COOKIE",
    "HandMade",
    "Turn",
    "add_region",
    "add_ring",
    "connect",
    "connected",
    "disconnect",
    "event_file",
    "hello",
    "init",
    "memory_file",
    "reason_of",
    "record",
]

COOKIE: Final = b"\x20\x1f\xe3\x03"

#: A turn of whatever the peer under test runs on, for at most so many seconds.
Turn = Callable[[float], Any]


# -- records


def record(layout: str, *values: Any) -> bytes:
    """A record of packed little-endian fields, filled up with zeroes to its 128 bytes."""
    return struct.pack("<" + layout, *values).ljust(128, b"\0")


ACK: Final = record("H", 1)


def hello(
    low: int = 0x200,
    high: int = 0x200,
    region: int = 255,
    s2c: int = 255,
    c2s: int = 255,
    log2: int = 14,
    name: bytes = b"by hand",
) -> bytes:
    """HELLO, with the limits of DPDK."""
    return record("H32sHHHHHB", 2, name, low, high, region, s2c, c2s, log2)


def init(
    id: int = 0,
    secret: bytes = b"",
    version: int = 0x200,
    mode: int = 0,
    name: bytes = b"by hand",
) -> bytes:
    """INIT."""
    return record("HHIB24s32s", 3, version, id, mode, secret, name)


def add_region(index: int = 0, size: int = 1 << 20) -> bytes:
    """ADD_REGION; a memory file goes with it."""
    return record("HHQ", 4, index, size)


def add_ring(
    c2s: bool = True,
    index: int = 0,
    region: int = 0,
    offset: int = 0,
    log2: int = 10,
    private: int = 0,
) -> bytes:
    """ADD_RING; an eventfd goes with it."""
    return record("HHHHIBH", 5, int(c2s), index, region, offset, log2, private)


def connect(name: bytes = b"hand0") -> bytes:
    """CONNECT."""
    return record("H32s", 6, name)


def connected(name: bytes = b"hand0") -> bytes:
    """CONNECTED."""
    return record("H32s", 7, name)


def disconnect(reason: bytes = b"", code: int = 0) -> bytes:
    """DISCONNECT."""
    return record("HI96s", 8, code, reason)


def reason_of(data: bytes) -> str:
    """The reason in a DISCONNECT.

    Raises:
        AssertionError: It is none.
    """
    assert len(data) == 128, f"a record of {len(data)} bytes came"
    assert data[:6] == b"\x08\0\0\0\0\0", f"expected DISCONNECT, came {data[:16].hex()}"
    return data[6:102].partition(b"\0")[0].decode()


def memory_file(size: int = 1 << 20, *, seal: bool = True, cookies: Iterable[int] = ()) -> int:
    """A memory file as clients make one; the caller's.

    Args:
        size: Bytes.
        seal: Against shrinking.
        cookies: Offsets of rings.
    """
    fd = os.memfd_create("memif-by-hand", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    for offset in cookies:
        os.pwrite(fd, COOKIE, offset)
    if seal:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


def event_file() -> int:
    """An eventfd as clients make one; the caller's."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


# -- a socket


class HandMade:
    """One end of a control socket.

    Args:
        turn: See `Turn`.
        sock: Connected; owned by this.
    """

    def __init__(self, turn: Turn, sock: socket.socket) -> None:
        self._turn = turn
        self.sock = sock
        sock.setblocking(False)

    @classmethod
    def client(cls, turn: Turn, address: bytes) -> Self:
        """Connect to a server.

        Args:
            turn: See `Turn`.
            address: A path, or an abstract name with a NUL in front.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return cls(turn, sock)

    def send(self, data: bytes, *fds: int) -> None:
        """Send a record; its descriptors stay here."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        self.sock.sendmsg([data], [rights] if fds else [])

    def give(self, data: bytes, *fds: int) -> None:
        """Send a record, and close its descriptors here."""
        self.send(data, *fds)
        for fd in fds:
            os.close(fd)

    def receive(self, seconds: float = 3.0) -> tuple[bytes, list[int]]:
        """Wait for a record and its descriptors; ``b""`` is the end.

        Raises:
            AssertionError: Nothing came in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 256, 8, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                assert time.monotonic() < deadline, "no record came"
                self._turn(0.01)
            except ConnectionResetError:
                return b"", []
            else:
                return data, list(fds)

    def expect(self, data: bytes) -> None:
        """Wait for exactly this record.

        Raises:
            AssertionError: Another one came.
        """
        came, fds = self.receive()
        assert came == data, f"expected {data[:16].hex()}, came {came[:16].hex()} {came[6:60]!r}"
        assert fds == []

    def refused(self) -> str:
        """Wait for a DISCONNECT and the end of the connection; answers the reason."""
        reason = reason_of(self.receive()[0])
        assert self.receive()[0] == b"", "the connection goes on"
        return reason

    def ended(self) -> bool:
        """Wait for the end of the connection, whatever comes before it."""
        while self.receive()[0]:
            pass
        return True

    def quiet(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes for some time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._turn(0.01)
            try:
                self.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            return False
        return True

    def close(self) -> None:
        """Go, as a killed process does. A second call does nothing."""
        self.sock.close()
