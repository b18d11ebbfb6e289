"""Queues driven without a device: a guest's memory between guard pages, and its ends of the rings.

For tests and measurements of the data plane. Descriptors are put into the rings as numbers, so that
what they mean is up to the test.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any, Final

from emudev_core.memory import MemoryRegion, MemoryTable
from emudev_net.burst import Burst, Packet

from ..descriptors import RX_SIZE, TX_SIZE, RxFlexWriteback, RxWriteback, tx_data_qword1
from ..queues import Ring
from ..rings import Port

__all__ = ["Guarded", "Guest"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PAGE: Final = mmap.PAGESIZE
ROWS: Final = 256


class Guarded:
    """Memory that ends, on both sides, at a page that can't be touched.

    Args:
        guest: Guest address of its first byte.
        size: Bytes, whole pages.
        readable: What the table says.
        writable: What the table says; if not, the pages can't be written.
    """

    def __init__(
        self, guest: int, size: int, *, readable: bool = True, writable: bool = True
    ) -> None:
        self._map = mmap.mmap(-1, size + 2 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = (ctypes.c_char * (size + 2 * PAGE)).from_buffer(self._map)
        start = ctypes.addressof(self._view)
        self.host = start + PAGE
        self.guest = guest
        self.size = size
        for at in (start, self.host + size):
            _libc.mprotect(at, PAGE, 0)
        if not writable:
            _libc.mprotect(self.host, size, mmap.PROT_READ)
        self.region = MemoryRegion(guest, size, self.host, readable=readable, writable=writable)

    def read(self, guest: int, size: int) -> bytes:
        """Bytes at a guest address."""
        return ctypes.string_at(self.host + guest - self.guest, size)

    def write(self, guest: int, data: bytes) -> None:
        """Store bytes at a guest address."""
        ctypes.memmove(self.host + guest - self.guest, data, len(data))


class Guest:
    """A guest with one region of memory (more may be added), and a port.

    The first pages of the memory hold the rings, the rest is for buffers.

    Args:
        pairs: Queue pairs; vector p + 1 is that of pair p, and is enabled and bound.
        length: Descriptors of each ring.
        buffer_size: Bytes of a receive buffer.
        max_packet: Longest received frame.
        crc_disable: Deliver the frame check sequence.
        size: Bytes of memory.
        rxdid: Format of the receive descriptors.
        rx_usecs_high: Least time between two interrupts of a guest that only listens, µs.
    """

    BASE = 0x1_0000_0000

    def __init__(
        self,
        pairs: int = 1,
        length: int = 64,
        *,
        buffer_size: int = 2048,
        max_packet: int = 9728,
        crc_disable: bool = False,
        size: int = 1 << 20,
        rxdid: int = 0,
        rx_usecs_high: int = 0,
    ) -> None:
        self._flexible = rxdid > 1
        self.memory = Guarded(self.BASE, size)
        self.length = length
        self.buffer_size = buffer_size
        self.port = Port(pairs, pairs + 1, rx_usecs_high=rx_usecs_high)
        self.burst = Burst(ROWS)
        self._next = self.BASE
        self._regions = [self.memory.region]
        self.show()
        self.eventfds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(pairs + 1)]
        self.tx_tail = [0] * pairs
        self.rx_tail = [0] * pairs
        self.rx_next = [0] * pairs
        self.posted: list[list[int]] = [[0] * length for _ in range(pairs)]
        for pair in range(pairs):
            tx, rx = self.port.tx[pair], self.port.rx[pair]
            tx.configure(self.take(TX_SIZE * length), length)
            ring = self.take(RX_SIZE * length)
            rx.configure(ring, length, buffer_size, max_packet, crc_disable, rxdid)
            self.port.map_queue(True, pair, pair + 1)
            self.port.map_queue(False, pair, pair + 1)
            tx.enable()
            rx.enable()
        self.port.set_promiscuous(True, True)
        for vector, fd in zip(self.port.vectors, self.eventfds, strict=True):
            vector.bind(fd)
            vector.control(1)

    def close(self) -> None:
        """Close the port and the eventfds; a second call does nothing."""
        self.port.close()
        while self.eventfds:
            os.close(self.eventfds.pop())

    def add(self, memory: Guarded) -> None:
        """Map another region."""
        self._regions.append(memory.region)
        self.show()

    def show(self) -> None:
        """Publish the memory table."""
        self.port.set_memory(MemoryTable(self._regions, self.port.memory.generation + 1))

    def take(self, size: int, align: int = 128) -> int:
        """The guest address of `size` fresh bytes."""
        at = self._next + align - 1 & ~(align - 1)
        self._next = at + size
        assert self._next <= self.BASE + self.memory.size
        return at

    def hold(self, data: bytes, align: int = 1) -> int:
        """The guest address of a copy of some bytes."""
        at = self.take(len(data), align)
        self.memory.write(at, data)
        return at

    def signals(self, vector: int) -> int:
        """Interrupts of a vector since the last call."""
        try:
            return os.eventfd_read(self.eventfds[vector])
        except BlockingIOError:
            return 0

    # -- transmit

    def entry(self, ring: Ring, index: int) -> int:
        """Guest address of a descriptor."""
        return ring.base + index % ring.length * ring.SIZE

    def put(self, *descriptors: tuple[int, int], pair: int = 0, ring_doorbell: bool = True) -> None:
        """Append transmit descriptors (qword 0, qword 1), and write the tail."""
        tx = self.port.tx[pair]
        for qword0, qword1 in descriptors:
            mask = (1 << 64) - 1
            raw = struct.pack("<QQ", qword0 & mask, qword1 & mask)
            self.memory.write(self.entry(tx, self.tx_tail[pair]), raw)
            self.tx_tail[pair] = (self.tx_tail[pair] + 1) % tx.length
        if ring_doorbell:
            tx.doorbell.write(self.tx_tail[pair])

    def send(
        self, frame: bytes, command: int = 7, pieces: Sequence[int] = (), **lengths: int
    ) -> None:
        """Append a frame in one data descriptor, or in several of these sizes.

        The offload bits and header lengths are in each, EOP and RS in the last one only.
        """
        sizes = list(pieces)
        if sum(sizes) < len(frame):
            sizes.append(len(frame) - sum(sizes))
        at = 0
        for i, size in enumerate(sizes):
            bits = command if i == len(sizes) - 1 else command & ~3
            address = self.hold(frame[at : at + size])
            self.put((address, tx_data_qword1(size, bits, **lengths)))
            at += size

    def peek(self, pair: int = 0, rows: int = ROWS) -> list[Packet]:
        """What the transmit kernel shows."""
        kernels = self.port.kernels(2 * pair + 1)
        assert kernels.peek is not None
        self.rows = kernels.peek(kernels.state, self.burst.address, rows)
        return self.burst.packets(self.rows)

    def release(self, rows: int | None = None, pair: int = 0) -> None:
        """Complete what was shown last, and notify."""
        kernels = self.port.kernels(2 * pair + 1)
        assert kernels.release is not None
        assert kernels.notify is not None
        kernels.release(kernels.state, self.burst.address, self.rows if rows is None else rows)
        kernels.notify(kernels.state, 0, 0)

    def tx_qword1(self, index: int, pair: int = 0) -> int:
        """Qword 1 of a transmit descriptor, as it is in memory."""
        raw = self.memory.read(self.entry(self.port.tx[pair], index) + 8, 8)
        return int.from_bytes(raw, "little")

    # -- receive

    def post(self, count: int, pair: int = 0, addresses: Sequence[int] = ()) -> None:
        """Post receive buffers, fresh ones or these, and write the tail."""
        rx = self.port.rx[pair]
        for i in range(count):
            address = addresses[i] if addresses else self.take(self.buffer_size)
            index = self.rx_tail[pair]
            self.memory.write(self.entry(rx, index), struct.pack("<QQQQ", address, 0, 0, 0))
            self.posted[pair][index] = address
            self.rx_tail[pair] = (index + 1) % rx.length
        rx.doorbell.write(self.rx_tail[pair])

    def push(self, burst: Burst, pair: int = 0) -> int:
        """Deliver a burst, and notify; returns the rows taken."""
        kernels = self.port.kernels(2 * pair)
        assert kernels.push is not None
        assert kernels.notify is not None
        taken = kernels.push(kernels.state, burst.address, burst.count)
        kernels.notify(kernels.state, 0, 0)
        return taken

    def deliver(self, *frames: bytes | Packet, pair: int = 0, split: int = 0) -> int:
        """Deliver frames, in segments of at most `split` bytes."""
        return self.push(Burst.of(frames, split), pair)

    def received(self, pair: int = 0) -> list[tuple[bytes, list[Any]]]:
        """Frames that were written back since the last call, with their descriptors."""
        rx = self.port.rx[pair]
        kind = RxFlexWriteback if self._flexible else RxWriteback
        found: list[tuple[bytes, list[Any]]] = []
        data: bytes = b""
        parts: list[Any] = []
        while True:
            index = self.rx_next[pair]
            done = kind.unpack(self.memory.read(self.entry(rx, index), RX_SIZE))
            status = done.status_error0 if isinstance(done, RxFlexWriteback) else done.qword1
            if not status & 1 or index == self.rx_tail[pair]:
                return found
            parts.append(done)
            address = self.posted[pair][index]
            if done.length:
                data += self.memory.read(address, done.length)
            self.rx_next[pair] = (index + 1) % rx.length
            if status & 2:
                found.append((data, parts))
                data, parts = b"", []
