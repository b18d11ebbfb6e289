r"""memif peers by hand, over a real socket: what an interface meets in tests.

Messages are built of numbers, not by `wire`, and rings are walked by `plain_peer`, so that a
mistake does not repeat itself. Nothing here waits without turning somebody's loop: `turn` is called
with the seconds that it may take, such as ``host.loop.turn``.

    with MemifClient(host.loop.turn, b"\0/run/memif.sock", id=0) as client:
        client.send([b"..."])
        client.receive()                     # -> [b"..."]

Source: memif.md.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self

from emudev_core.memory import Mapping

from .plain_peer import Descriptor, PlainRing

__all__ = [
    "ACK",
    "COOKIE",
    "HandMade",
    "MemifClient",
    "MemifServer",
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
        turn: See the module.
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
            turn: See the module.
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


class _Joined:
    """What both peers share: a connection, a mapping, rings with buffers in one region."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.hand: HandMade | None = None
        self._mapping: Mapping | None = None
        self.c2s: list[PlainRing] = []
        self.s2c: list[PlainRing] = []
        self.c2s_fds: list[int] = []
        self.s2c_fds: list[int] = []
        self._c2s_done: list[int] = []
        self._s2c_done: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bytes(self, descriptor: Descriptor) -> bytes:
        assert self._mapping is not None
        assert descriptor.region == 0
        assert descriptor.offset + descriptor.length <= self._mapping.size
        return ctypes.string_at(self._mapping.address + descriptor.offset, descriptor.length)

    def _store(self, offset: int, data: bytes) -> None:
        assert self._mapping is not None
        assert offset + len(data) <= self._mapping.size
        ctypes.memmove(self._mapping.address + offset, data, len(data))

    def _kick(self, ring: PlainRing, fd: int) -> None:
        if not ring.flags & 1:
            os.eventfd_write(fd, 1)

    def _collect(self, ring: PlainRing, done: list[int], index: int, end: int) -> list[bytes]:
        frames, frame = [], b""
        while done[index] != end:
            descriptor = ring[done[index]]
            frame += self._bytes(descriptor)
            done[index] = (done[index] + 1) % 65536
            if not descriptor.flags & 1:
                frames.append(frame)
                frame = b""
        return frames

    def until(self, condition: Callable[[], Any], seconds: float = 3.0) -> None:
        """Turn until a condition holds.

        Raises:
            AssertionError: It does not in time.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            self._turn(0.002)

    def close(self) -> None:
        """Go, as a killed process does. A second call does nothing."""
        if self.hand is not None:
            self.hand.close()
        if self._mapping is not None:
            self._mapping.close()
        for fd in (*self.c2s_fds, *self.s2c_fds):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.c2s_fds, self.s2c_fds = [], []


class MemifClient(_Joined):
    """A client of an interface under test: one region, a buffer for each slot, polling.

    Args:
        turn: See the module.
        address: As for `HandMade.client`.
        id: The interface.
        pairs: Rings each way.
        log2: Of their size.
        buffer: Bytes of a buffer.
        secret: What admits it.
        polling: It sets MASK_INT on the rings that it receives from.
    """

    def __init__(
        self,
        turn: Turn,
        address: bytes,
        id: int = 0,
        *,
        pairs: int = 1,
        log2: int = 4,
        buffer: int = 2048,
        secret: bytes = b"",
        polling: bool = True,
    ) -> None:
        super().__init__(turn)
        self._slots = 1 << log2
        self._buffer = buffer
        ring = 128 + (16 << log2)
        self._buffers = 2 * pairs * ring
        size = self._buffers + 2 * pairs * self._slots * buffer
        self.memory = memory_file(size, cookies=[i * ring for i in range(2 * pairs)])
        self.hand = hand = HandMade.client(turn, address)
        try:
            self._mapping = Mapping(self.memory, 0, size)
            assert hand.receive()[0][:2] == b"\2\0"
            hand.send(init(id, secret))
            hand.expect(ACK)
            hand.send(add_region(0, size), self.memory)
            hand.expect(ACK)
            for i in range(2 * pairs):
                c2s = i < pairs
                fd = event_file()
                (self.c2s_fds if c2s else self.s2c_fds).append(fd)
                rings = self.c2s if c2s else self.s2c
                rings.append(PlainRing(self._mapping.address + i * ring, log2))
                hand.send(add_ring(c2s, i % pairs, 0, i * ring, log2), fd)
                hand.expect(ACK)
            hand.send(connect())
            self.answer = hand.receive()[0]
            assert self.answer[:2] == b"\7\0", f"expected CONNECTED, came {self.answer[:60]!r}"
        except BaseException:
            self.close()
            raise
        self._c2s_done = [0] * pairs
        self._s2c_done = [0] * pairs
        for index, mine in enumerate(self.s2c):
            mine.flags = int(polling)
            self.offer(index)

    def _place(self, number: int, counter: int) -> int:
        slot = number * self._slots + counter % self._slots
        return self._buffers + slot * self._buffer

    def offer(self, queue: int = 0) -> None:
        """Offer all free buffers of an S2C ring."""
        ring = self.s2c[queue]
        while (ring.head - self._s2c_done[queue]) % 65536 < self._slots:
            place = self._place(len(self.c2s) + queue, ring.head)
            ring[ring.head] = Descriptor(0, 0, self._buffer, place)
            ring.head += 1

    def send(self, frames: Iterable[bytes], queue: int = 0) -> int:
        """Send frames while there is room, in chains if need be; answers how many."""
        ring, sent = self.c2s[queue], 0
        for frame in frames:
            cut = range(0, len(frame), self._buffer)
            pieces = [frame[at : at + self._buffer] for at in cut]
            if len(pieces) > self._slots - (ring.head - ring.tail) % 65536:
                break
            for i, piece in enumerate(pieces):
                place = self._place(queue, ring.head + i)
                self._store(place, piece)
                more = int(i < len(pieces) - 1)
                ring[ring.head + i] = Descriptor(more, 0, len(piece), place)
            ring.head += len(pieces)
            sent += 1
        self._kick(ring, self.c2s_fds[queue])
        return sent

    def receive(self, queue: int = 0, count: int = 0, seconds: float = 3.0) -> list[bytes]:
        """Take what has come; with `count`, wait for as many frames."""
        ring, found = self.s2c[queue], []
        deadline = time.monotonic() + seconds
        while True:
            found += self._collect(ring, self._s2c_done, queue, ring.tail)
            self.offer(queue)
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} frames of {count} came"
            self._turn(0.002)

    def close(self) -> None:
        """Go, as a killed process does. A second call does nothing."""
        super().close()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1


class MemifServer(_Joined):
    """A server that an interface under test connects to; polling.

    Args:
        turn: See the module.
        address: As for `HandMade.client`; it listens at once.
        greeting: The HELLO that a client gets.
    """

    def __init__(self, turn: Turn, address: bytes, greeting: bytes | None = None) -> None:
        super().__init__(turn)
        self._greeting = hello() if greeting is None else greeting
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.listener.bind(address)
            self.listener.listen(1)
            self.listener.setblocking(False)
        except OSError:
            self.listener.close()
            raise
        self.messages: list[bytes] = []

    def accept(self, seconds: float = 3.0) -> HandMade:
        """Wait for a connection; HELLO is out when this returns.

        Raises:
            AssertionError: Nobody came.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                assert time.monotonic() < deadline, "nobody connected"
                self._turn(0.01)
            else:
                self.hand = HandMade(self._turn, sock)
                self.hand.send(self._greeting)
                return self.hand

    def join(self) -> None:
        """Take a client all the way to CONNECTED."""
        hand = self.accept()
        memory = -1
        try:
            while True:
                data, fds = hand.receive()
                self.messages.append(data)
                kind = data[0]
                if kind == 4:
                    memory = fds[0]
                    self._mapping = Mapping(memory, 0, struct.unpack_from("<Q", data, 4)[0])
                elif kind == 5:
                    self._add(data, fds)
                elif kind == 6:
                    break
                hand.send(ACK)
            self._c2s_done = [0] * len(self.c2s)
            self._s2c_done = [0] * len(self.s2c)
            for ring in self.c2s:
                ring.flags = 1
            hand.send(connected())
        finally:
            if memory >= 0:
                os.close(memory)

    def _add(self, data: bytes, fds: Sequence[int]) -> None:
        assert self._mapping is not None
        _, flags, index, region, offset, log2, private = struct.unpack_from("<HHHHIBH", data)
        assert (region, private) == (0, 0)
        rings, mine = (self.c2s, self.c2s_fds) if flags & 1 else (self.s2c, self.s2c_fds)
        assert index == len(rings)
        ring = PlainRing(self._mapping.address + offset, log2)
        assert ctypes.string_at(ring.address, 4) == COOKIE
        rings.append(ring)
        mine.extend(fds)

    def send(self, frames: Iterable[bytes], queue: int = 0) -> int:
        """Fill buffers of the client while there are some; answers how many frames went."""
        ring, sent = self.s2c[queue], 0
        for frame in frames:
            places, left = [], frame
            for i in range((ring.head - ring.tail) % 65536):
                places.append(ring[ring.tail + i])
                left = left[places[-1].length :]
                if not left:
                    break
            if left:
                break
            for i, place in enumerate(places):
                piece, frame = frame[: place.length], frame[place.length :]
                self._store(place.offset, piece)
                more = int(i < len(places) - 1)
                ring[ring.tail + i] = Descriptor(more, place.region, len(piece), place.offset)
            ring.tail += len(places)
            sent += 1
        self._kick(ring, self.s2c_fds[queue])
        return sent

    def receive(self, queue: int = 0, count: int = 0, seconds: float = 3.0) -> list[bytes]:
        """Take what has come, and give the buffers back; with `count`, wait for as many frames."""
        ring, found = self.c2s[queue], []
        deadline = time.monotonic() + seconds
        while True:
            found += self._collect(ring, self._c2s_done, queue, ring.head)
            ring.tail = self._c2s_done[queue]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} frames of {count} came"
            self._turn(0.002)

    def close(self) -> None:
        """Go, and listen no more. A second call does nothing."""
        super().close()
        self.listener.close()
