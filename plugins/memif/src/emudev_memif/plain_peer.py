"""The other end of memif rings in plain Python, without a socket; for tests and measurements.

Written from memif.md alone, and slow: the oracle of the kernels. Numbers are written out, so that a
mistake in `words` does not repeat itself here. Memory lies between guard pages: a kernel that goes
beyond a region ends the process.

    joined = Joined(Role.SERVER)             # a server, and a plain client as its peer
    joined.peer.send(0, [b"..."])
    joined.take()                            # -> [b"..."]
    joined.push([b"..."])
    joined.receive()                         # -> [b"..."]

Source: memif.md sections 3 and 4.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from emudev_net.burst import Burst, Packet

from .layout import Layout, RingMemory, RingPlace, create, layout
from .rings import MAX_FRAME, RingSet, Role

__all__ = ["Descriptor", "Guarded", "Joined", "PlainClient", "PlainRing", "PlainServer"]

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_PAGE: Final = mmap.PAGESIZE


class Guarded:
    """Memory that ends, on both sides, at a page that can't be touched.

    Args:
        size: Bytes, rounded up to whole pages.

    Attributes:
        address: Where it lies.
        size: Its bytes.
    """

    def __init__(self, size: int) -> None:
        whole = size + _PAGE - 1 & -_PAGE
        self._map = mmap.mmap(-1, whole + 2 * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = ctypes.c_char.from_buffer(self._map)
        start = ctypes.addressof(view)
        del view
        self.address = start + _PAGE
        self.size = whole
        for at in (start, self.address + whole):
            if _libc.mprotect(at, _PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at an offset."""
        return ctypes.string_at(self.address + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes at an offset."""
        ctypes.memmove(self.address + offset, data, len(data))


class Descriptor(NamedTuple):
    """A descriptor's fields: u16, u16, u32, u32."""

    flags: int
    region: int
    length: int
    offset: int


class PlainRing:
    """A ring at an address.

    Args:
        address: Where its header lies.
        log2_size: Logarithm of its descriptors.

    Attributes:
        size: Descriptors.
    """

    def __init__(self, address: int, log2_size: int) -> None:
        self.address = address
        self.size = 1 << log2_size

    def _get(self, offset: int) -> int:
        return ctypes.c_uint16.from_address(self.address + offset).value

    def _set(self, offset: int, value: int) -> None:
        ctypes.c_uint16.from_address(self.address + offset).value = value & 0xFFFF

    @property
    def flags(self) -> int:
        """Bit 0: MASK_INT."""
        return self._get(4)

    @flags.setter
    def flags(self, value: int) -> None:
        self._set(4, value)

    @property
    def head(self) -> int:
        """The client's counter."""
        return self._get(6)

    @head.setter
    def head(self, value: int) -> None:
        self._set(6, value)

    @property
    def tail(self) -> int:
        """The server's counter."""
        return self._get(64)

    @tail.setter
    def tail(self, value: int) -> None:
        self._set(64, value)

    def __getitem__(self, counter: int) -> Descriptor:
        at = self.address + 128 + 16 * (counter % self.size)
        flags, region, length, offset, _ = struct.unpack("<HHIII", ctypes.string_at(at, 16))
        return Descriptor(flags, region, length, offset)

    def __setitem__(self, counter: int, descriptor: Sequence[int]) -> None:
        at = self.address + 128 + 16 * (counter % self.size)
        ctypes.memmove(at, struct.pack("<HHIII", *descriptor, 0), 16)


def _cut(frame: bytes, sizes: Iterable[int]) -> list[bytes]:
    """A frame in pieces of at most these sizes, as many as it needs or as there are."""
    pieces = []
    for size in sizes:
        pieces.append(frame[:size])
        frame = frame[size:]
        if not frame:
            break
    return pieces


class _Peer:
    """What both roles have: rings, an eventfd for each, and cursors of their own."""

    def __init__(self, pairs: int) -> None:
        self.c2s: list[PlainRing] = []
        self.s2c: list[PlainRing] = []
        self.c2s_fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(pairs)]
        self.s2c_fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(pairs)]
        self.c2s_cursors = [0] * pairs
        self.s2c_cursors = [0] * pairs

    def close(self) -> None:
        """Close the eventfds; twice is once."""
        for fd in (*self.c2s_fds, *self.s2c_fds):
            os.close(fd)
        self.c2s_fds, self.s2c_fds = [], []


class PlainClient(_Peer):
    """A client: the memory is its own. Regions 0 and 1 hold the rings, further ones the buffers.

    The buffers of a ring lie in region ``2 + number of the ring``, backwards and with gaps, since
    nothing says that they must not.

    Args:
        pairs: Rings each way.
        log2_size: Logarithm of their descriptors.
        buffer_size: Bytes of a buffer.
    """

    def __init__(self, pairs: int = 1, log2_size: int = 4, buffer_size: int = 2048) -> None:
        super().__init__(pairs)
        self.buffer_size = buffer_size
        ring = 128 + (16 << log2_size)
        self.stride = buffer_size + 64
        buffers = self.stride << log2_size
        self.regions = [Guarded(pairs * ring), Guarded(pairs * ring)]
        self.regions += [Guarded(buffers) for _ in range(2 * pairs)]
        self.c2s_places = [RingPlace(0, i * ring, log2_size) for i in range(pairs)]
        self.s2c_places = [RingPlace(1, i * ring, log2_size) for i in range(pairs)]
        self.c2s = [PlainRing(self.regions[0].address + i * ring, log2_size) for i in range(pairs)]
        self.s2c = [PlainRing(self.regions[1].address + i * ring, log2_size) for i in range(pairs)]
        for r in (*self.c2s, *self.s2c):
            ctypes.c_uint32.from_address(r.address).value = 0x03E31F20

    def join(self, rings: RingSet) -> None:
        """Attach a server's rings to this."""
        rings.attach(
            [(r.address, r.size) for r in self.regions],
            self.c2s_places,
            self.s2c_places,
            self.c2s_fds,
            self.s2c_fds,
        )
        self.c2s_cursors = [0] * len(self.c2s)
        self.s2c_cursors = [0] * len(self.s2c)

    def place(self, ring: int, counter: int) -> tuple[int, int]:
        """Region and offset of a slot's buffer; C2S rings are numbered first, then S2C."""
        size = self.c2s[0].size
        memory = self.regions[2 + ring]
        offset = memory.size - (1 + counter % size) * self.stride + 64
        return 2 + ring, offset

    def room(self, queue: int = 0) -> int:
        """Free slots of a C2S ring."""
        ring = self.c2s[queue]
        return ring.size - (ring.head - ring.tail) % 65536

    def send(self, queue: int, frames: Iterable[bytes], split: int = 0) -> int:
        """Hand frames to the server, while there is room.

        Args:
            queue: The C2S ring.
            frames: Frames.
            split: Bytes of a piece at most, 0 for as many as a buffer has.

        Returns:
            Frames sent.
        """
        ring = self.c2s[queue]
        sent = 0
        for frame in frames:
            part = split or self.buffer_size
            pieces = _cut(frame, [part] * (len(frame) // part + 1))
            if len(pieces) > self.room(queue):
                break
            for i, piece in enumerate(pieces):
                region, offset = self.place(queue, ring.head + i)
                self.regions[region].write(offset, piece)
                more = int(i < len(pieces) - 1)
                ring[ring.head + i] = Descriptor(more, region, len(piece), offset)
            ring.head += len(pieces)
            sent += 1
        return sent

    def offer(self, queue: int, slots: int | None = None) -> None:
        """Offer buffers of an S2C ring: so many more, or all that are free."""
        ring = self.s2c[queue]
        free = (self.s2c_cursors[queue] + ring.size - ring.head) % 65536
        for _ in range(free if slots is None else slots):
            region, offset = self.place(len(self.c2s) + queue, ring.head)
            ring[ring.head] = Descriptor(0, region, self.buffer_size, offset)
            ring.head += 1

    def receive(self, queue: int = 0) -> list[bytes]:
        """Take what the server has sent; offers nothing."""
        ring = self.s2c[queue]
        frames = []
        frame = b""
        while self.s2c_cursors[queue] != ring.tail:
            descriptor = ring[self.s2c_cursors[queue]]
            frame += self.regions[descriptor.region].read(descriptor.offset, descriptor.length)
            self.s2c_cursors[queue] = (self.s2c_cursors[queue] + 1) % 65536
            if not descriptor.flags & 1:
                frames.append(frame)
                frame = b""
        return frames


class PlainServer(_Peer):
    """A server: it maps what a client made.

    Args:
        layout: The client's layout; its memory is made here, and is this object's.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(len(layout.c2s))
        self.memory: RingMemory = create(layout)
        self.c2s = [PlainRing(self.memory.address + p.offset, p.log2_size) for p in layout.c2s]
        self.s2c = [PlainRing(self.memory.address + p.offset, p.log2_size) for p in layout.s2c]

    def close(self) -> None:
        """Unmap the memory and close all; twice is once."""
        super().close()
        self.memory.close()

    def join(self, rings: RingSet) -> None:
        """Attach a client's rings to this."""
        layout = self.memory.layout
        fds = (self.c2s_fds, self.s2c_fds)
        rings.attach(self.memory.regions, layout.c2s, layout.s2c, *fds, layout)
        self.c2s_cursors = [0] * len(self.c2s)
        self.s2c_cursors = [0] * len(self.s2c)

    def _buffer(self, descriptor: Descriptor) -> int:
        if descriptor.region != 0 or descriptor.offset + descriptor.length > self.memory.size:
            raise ValueError(f"not within region 0 of {self.memory.size} bytes: {descriptor}")
        return self.memory.address + descriptor.offset

    def receive(self, queue: int = 0) -> list[bytes]:
        """Take what the client has sent, and give the buffers back."""
        ring = self.c2s[queue]
        frames = []
        frame = b""
        while self.c2s_cursors[queue] != ring.head:
            descriptor = ring[self.c2s_cursors[queue]]
            frame += ctypes.string_at(self._buffer(descriptor), descriptor.length)
            self.c2s_cursors[queue] = (self.c2s_cursors[queue] + 1) % 65536
            if not descriptor.flags & 1:
                frames.append(frame)
                frame = b""
        ring.tail = self.c2s_cursors[queue]
        return frames

    def room(self, queue: int = 0) -> int:
        """Buffers that the client has offered."""
        ring = self.s2c[queue]
        return (ring.head - ring.tail) % 65536

    def send(self, queue: int, frames: Iterable[bytes], split: int = 0) -> int:
        """Fill buffers of the client, while there are some; arguments as for `PlainClient.send`."""
        ring = self.s2c[queue]
        sent = 0
        for frame in frames:
            sizes = [ring[ring.tail + i].length for i in range(self.room(queue))]
            pieces = _cut(frame, [min(size, split or size) for size in sizes])
            if b"".join(pieces) != frame:
                break
            for i, piece in enumerate(pieces):
                old = ring[ring.tail + i]
                ctypes.memmove(self._buffer(old), piece, len(piece))
                more = int(i < len(pieces) - 1)
                ring[ring.tail + i] = Descriptor(more, old.region, len(piece), old.offset)
            ring.tail += len(pieces)
            sent += 1
        return sent


class Joined:
    """An interface and a plain peer, joined without a socket, its kernels called from Python.

    Args:
        role: The interface's; the peer has the other one.
        pairs: Queue pairs of both.
        log2_size: Logarithm of the descriptors of each ring.
        buffer_size: Bytes of a buffer.
        max_frame: The interface's longest frame.

    Attributes:
        rings: The interface's data plane.
        peer: The peer.
        burst: What `peek` writes to.
        rows: Rows that it wrote last.
    """

    def __init__(
        self,
        role: Role,
        pairs: int = 1,
        log2_size: int = 4,
        buffer_size: int = 2048,
        max_frame: int = MAX_FRAME,
    ) -> None:
        self.rings = RingSet(role, pairs, max_frame)
        self.peer: PlainClient | PlainServer
        if role is Role.SERVER:
            self.peer = PlainClient(pairs, log2_size, buffer_size)
        else:
            self.peer = PlainServer(layout(pairs, pairs, log2_size, buffer_size))
        self.burst = Burst(256)
        self.rows = 0
        self.join()

    def join(self) -> None:
        """Attach, and have the client among the two offer its buffers."""
        self.peer.join(self.rings)
        for queue in range(self.rings.pairs):
            if isinstance(self.peer, PlainClient):
                self.peer.offer(queue)
            else:
                self.peek(queue=queue)

    def close(self) -> None:
        """Let go of everything."""
        self.rings.close()
        self.peer.close()

    @property
    def source(self) -> PlainRing:
        """The first ring from the peer."""
        return self.peer.c2s[0] if self.rings.role is Role.SERVER else self.peer.s2c[0]

    @property
    def sink(self) -> PlainRing:
        """The first ring towards the peer."""
        return self.peer.s2c[0] if self.rings.role is Role.SERVER else self.peer.c2s[0]

    @property
    def source_fd(self) -> int:
        """Its eventfd: the peer writes it."""
        return self.peer.c2s_fds[0] if self.rings.role is Role.SERVER else self.peer.s2c_fds[0]

    @property
    def sink_fd(self) -> int:
        """Its eventfd: `notify` writes it."""
        return self.peer.s2c_fds[0] if self.rings.role is Role.SERVER else self.peer.c2s_fds[0]

    def peek(self, capacity: int = 256, queue: int = 0) -> list[bytes]:
        """The frames that are shown; queues are numbered by pair."""
        kernels = self.rings.kernels(2 * queue + 1)
        assert kernels.peek is not None
        self.rows = kernels.peek(kernels.state, self.burst.address, capacity)
        return [p.data for p in self.burst.packets(self.rows)]

    def release(self, rows: int | None = None, queue: int = 0) -> None:
        """Complete rows of the last peek, by default all."""
        kernels = self.rings.kernels(2 * queue + 1)
        assert kernels.release is not None
        kernels.release(kernels.state, self.burst.address, self.rows if rows is None else rows)

    def take(self, capacity: int = 256, queue: int = 0) -> list[bytes]:
        """Peek and release."""
        found = self.peek(capacity, queue)
        self.release(queue=queue)
        return found

    def push(
        self, packets: Burst | Iterable[bytes | Packet], split: int = 0, queue: int = 0
    ) -> int:
        """Push packets, cut into segments of `split` bytes; returns rows taken."""
        made = packets if isinstance(packets, Burst) else Burst.of(packets, split)
        kernels = self.rings.kernels(2 * queue)
        assert kernels.push is not None
        return kernels.push(kernels.state, made.address, made.count)

    def notify(self, queue: int = 0) -> int:
        """Signal the peer if it is due."""
        kernels = self.rings.kernels(2 * queue)
        assert kernels.notify is not None
        return kernels.notify(kernels.state, 0, 0)

    def drops(self, queue: int) -> dict[str, int]:
        """Packets of one of the device's queues that were dropped, by reason; no zeroes."""
        return {why: n for why, n in self.rings.stats(queue).dropped.items() if n}

    def receive(self, queue: int = 0) -> list[bytes]:
        """What the peer got; a client offers its buffers again."""
        found = self.peer.receive(queue)
        if isinstance(self.peer, PlainClient):
            self.peer.offer(queue)
        return found
