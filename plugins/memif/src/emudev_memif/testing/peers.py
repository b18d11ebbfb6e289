"""Peers that join an interface over a real socket and move frames; rings by `plain_peer`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from emudev_core.memory import Mapping

from ..plain_peer import Descriptor, PlainRing
from .records import (
    ACK,
    COOKIE,
    HandMade,
    Turn,
    add_region,
    add_ring,
    connect,
    connected,
    event_file,
    hello,
    init,
    memory_file,
)

__all__ = ["MemifClient", "MemifServer"]


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

    def _gather(self, take: Callable[[], list[bytes]], count: int, seconds: float) -> list[bytes]:
        """Take frames until there are `count`."""
        found: list[bytes] = []
        deadline = time.monotonic() + seconds
        while True:
            found += take()
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} frames of {count} came"
            self._turn(0.002)

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
        turn: See `Turn`.
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
        ring = self.s2c[queue]

        def take() -> list[bytes]:
            frames = self._collect(ring, self._s2c_done, queue, ring.tail)
            self.offer(queue)
            return frames

        return self._gather(take, count, seconds)

    def close(self) -> None:
        """Go, as a killed process does. A second call does nothing."""
        super().close()
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1


class MemifServer(_Joined):
    """A server that an interface under test connects to; polling.

    Args:
        turn: See `Turn`.
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
        ring = self.c2s[queue]

        def take() -> list[bytes]:
            frames = self._collect(ring, self._c2s_done, queue, ring.head)
            ring.tail = self._c2s_done[queue]
            return frames

        return self._gather(take, count, seconds)

    def close(self) -> None:
        """Go, and listen no more. A second call does nothing."""
        super().close()
        self.listener.close()
