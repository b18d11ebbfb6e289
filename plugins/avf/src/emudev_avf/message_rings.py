"""Rings in guest memory that can't be mapped: mirrored here, and carried by messages.

The kernels of the data plane work on memory of this process only. A queue whose ring is reached by
messages therefore gets a *mirror*: private memory that holds its ring and a buffer for each
descriptor on its way, with a table of its own in which the kernels find nothing else. Descriptors
(and what they send) are fetched into the mirror before the kernels are shown a tail that covers
them; what the kernels have completed is stored in guest memory afterwards: frames, then
descriptors, the done bit last, and the interrupt when the client has answered all of it. So one
data path serves both kinds of memory.

Nothing here waits: the client answers when it can. A QEMU that waits for an answer of ours serves
no message meanwhile. What may be on its way is bounded by `WINDOW` descriptors a queue, and by the
transport. Buffers of a mirrored queue may lie in memory of either kind.

A queue whose ring is mapped is mirrored, too, once a kernel has met a buffer that is not. A queue
keeps its mirror until it is disabled. Stores that had been sent by then can't be revoked,
and nothing else is sent; whoever answers for the queue waits until they are done (`busy`).

Source: avf.md sections 6.1 to 6.9; vfio-user specification, "VFIO_USER_DMA_READ" and
"VFIO_USER_DMA_WRITE".
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from emudev_core.loop import Loop, Watch
from emudev_core.memory import DmaTicket, MemoryRegion, MemoryTable
from emudev_net.memory import KernelTable

from .descriptors import (
    DTYPE_CONTEXT,
    DTYPE_DATA,
    DTYPE_DONE,
    DTYPE_MASK,
    RX_PBUF_SHIFT,
    TX_RS,
    TX_SIZE_MASK,
    TX_SIZE_SHIFT,
)
from .queues import RxRing

if TYPE_CHECKING:
    from .queues import Ring
    from .rings import Port

__all__ = ["MessagePlane", "MessageQueue"]

#: Descriptors of a queue on their way: more than the longest packet has.
WINDOW: Final = 256
#: Descriptors that are fetched at one time, and completed at one time.
BATCH: Final = 64
#: Bytes of buffers that are fetched at one time; a descriptor more may begin below.
FETCH: Final = 256 << 10
#: Bytes of a buffer in the mirror: a descriptor can't say more than one less.
SLOT: Final = 16 << 10

_RING_AT: Final = 4096  # of the mirror; the tail is at its start
_SLOTS_AT: Final = _RING_AT + (256 << 10)
_MIRROR: Final = _SLOTS_AT + WINDOW * SLOT

_TX: Final = struct.Struct("<QQ")
_RX: Final = struct.Struct("<QQQQ")
_RX_DONE: Final = 1  # bit 0 of qword 1, in all formats


class Mirror:
    """Private memory of one queue; pages are taken when they are touched, and kept.

    Attributes:
        address: Where it begins in this process.
        table: What kernels may reach: this, at its own addresses, and no more.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _MIRROR, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._view)
        self.table = KernelTable(MemoryTable([MemoryRegion(self.address, _MIRROR, self.address)]))


class MessageQueue:
    """One enabled ring in memory that only messages reach. On the loop's thread.

    Args:
        plane: Whose.
        ring: The ring.
        mirror: Where kernels see it.
        head: The next descriptor of the device.

    Attributes:
        stored: The next descriptor that the guest gets back.
        stores: Stores that the client has not answered.
    """

    def __init__(self, plane: MessagePlane, ring: Ring, mirror: Mirror, head: int) -> None:
        self._plane = plane
        self._ring = ring
        self._receive = isinstance(ring, RxRing)
        self._mirror = mirror
        self._tail = ctypes.c_uint32.from_address(mirror.address)
        self._base = ring.base
        self._length = ring.length
        self._window = min(WINDOW, ring.length - 1)
        self._fetched = head
        self._sequence = 0
        self._fetching = False
        self._storing = False
        self._stalled = False
        self._closed = False
        self._known: dict[int, tuple[int, int, int]] = {}  # address, qword 1, slot
        self._tickets: dict[int, tuple[DmaTicket, bool]] = {}
        self._number = 0
        self.stored = head
        self.stores = 0
        self._tail.value = head
        ring.doorbell.subscribe(self.rung)

    @property
    def ring_address(self) -> int:
        """Where kernels find the ring."""
        return self._mirror.address + _RING_AT

    @property
    def tail_address(self) -> int:
        """Where they find its tail."""
        return self._mirror.address

    @property
    def table_address(self) -> int:
        """Where they find what memory there is."""
        return self._mirror.table.address

    def rung(self) -> None:
        """The guest has moved the tail, or memory has come: there may be more to fetch."""
        self._stalled = False
        self._plane.mark()

    def run(self) -> None:
        """Do what can be done now."""
        if not self._storing:
            self._store()
        if not self._fetching and not self._stalled:
            self._fetch()

    def close(self) -> None:
        """Send nothing more, and show the kernels nothing more; they rest meanwhile."""
        self._closed = True
        self._ring.doorbell.unsubscribe(self.rung)
        tickets, self._tickets = self._tickets, {}
        for ticket, storing in tickets.values():
            if ticket.cancel() and storing:
                self.stores -= 1

    # -- fetching

    def _fetch(self) -> None:
        tail = self._ring.doorbell.value
        if tail >= self._length:
            self._show(tail)  # a fault of the guest, which the kernels count
            return
        room = self._window - (self._fetched - self.stored) % self._length
        count = min(
            (tail - self._fetched) % self._length, room, self._length - self._fetched, BATCH
        )
        if count <= 0:
            return
        self._fetching = True
        size = self._ring.SIZE
        self._get(self._base + self._fetched * size, count * size, self._take)

    def _take(self, data: bytes | None) -> None:
        """Descriptors have come."""
        if data is None:  # not mapped, or refused: once more when the guest rings again
            self._fetching = False
            self._stalled = True
        elif self._receive:
            self._take_received(data)
        else:
            self._take_sent(data)

    def _slot(self) -> int:
        at = self._mirror.address + _SLOTS_AT + self._sequence % WINDOW * SLOT
        self._sequence += 1
        return at

    def _take_received(self, data: bytes) -> None:
        entries = []
        room = self._ring.buffer_size  # type: ignore[attr-defined]  # it is an RxRing
        for i, (address, *_) in enumerate(_RX.iter_unpack(data)):
            slot = self._slot()
            self._known[self._fetched + i] = (address, 0, slot)
            # A buffer that can't be written is refused by the kernels, as any other.
            entries.append((slot if self._plane.allows(address, room) else 0, 0, 0, 0))
        self._publish(b"".join(_RX.pack(*entry) for entry in entries), len(entries))

    def _take_sent(self, data: bytes) -> None:
        entries: list[list[int]] = []
        wanted: list[tuple[int, int, int]] = []
        total = 0
        for address, qword1 in _TX.iter_unpack(data):
            if total >= FETCH:
                break
            slot = self._slot()
            self._known[self._fetched + len(entries)] = (address, qword1, slot)
            entry = [address, qword1]
            kind = qword1 & DTYPE_MASK
            if kind != DTYPE_CONTEXT:
                entry[1] |= TX_RS  # each asks for a report here: it tells that there is room
            if kind == DTYPE_DATA:
                size = qword1 >> TX_SIZE_SHIFT & TX_SIZE_MASK
                entry[0] = slot
                if size:
                    wanted.append((len(entries), address, size))
                    total += size
            entries.append(entry)
        left = len(wanted) + 1

        def came(place: int, part: bytes | None) -> None:
            nonlocal left
            if part is None:
                entries[place][0] = 0  # no address of the mirror: the kernels count it
            elif part:
                ctypes.memmove(entries[place][0], part, len(part))
            left -= 1
            if left == 0:
                self._publish(b"".join(_TX.pack(*entry) for entry in entries), len(entries))

        for place, address, size in wanted:
            self._get(address, size, partial(came, place))
        came(0, b"")

    def _publish(self, data: bytes, count: int) -> None:
        """Put descriptors into the mirror, and show the kernels a tail that covers them."""
        at = self.ring_address + self._fetched * self._ring.SIZE
        ctypes.memmove(at, data, len(data))
        self._fetched = (self._fetched + count) % self._length
        self._fetching = False
        self._show(self._fetched)
        self._plane.mark()

    def _show(self, tail: int) -> None:
        if self._tail.value != tail:
            self._tail.value = tail
            self._ring.doorbell.ring()

    # -- storing

    def _store(self) -> None:
        head = self._ring.next
        count = min((head - self.stored) % self._length, self._length - self.stored, BATCH)
        if count > 0:
            self._storing = True
            if self._receive:
                self._store_received(count)
            else:
                self._store_sent(count)

    def _store_sent(self, count: int) -> None:
        """Report the descriptors that asked for it."""
        report = struct.pack("<Q", DTYPE_DONE)
        places = []
        for index in range(self.stored, self.stored + count):
            _, qword1, _ = self._known.pop(index)
            if qword1 & TX_RS and qword1 & DTYPE_MASK != DTYPE_CONTEXT:
                places.append((self._base + index * self._ring.SIZE + 8, report))
        self._put(places, partial(self._stored, count, bool(places)))

    def _store_received(self, count: int) -> None:
        """Store frames, and descriptors that are not done yet."""
        size = self._ring.SIZE
        data = ctypes.string_at(self.ring_address + self.stored * size, count * size)
        flexible = self._ring.flexible  # type: ignore[attr-defined]  # it is an RxRing
        places = []
        undone = []
        for i, (q0, q1, q2, q3) in enumerate(_RX.iter_unpack(data)):
            address, _, slot = self._known.pop(self.stored + i)
            # Packet length of the flexible formats, buffer length of the legacy one.
            length = (q0 >> 32 if flexible else q1 >> RX_PBUF_SHIFT) & (SLOT - 1)
            if length:
                places.append((address, ctypes.string_at(slot, length)))
            undone.append(_RX.pack(q0, q1 & ~_RX_DONE, q2, q3))
        at = self._base + self.stored * size
        places.append((at, b"".join(undone)))
        self._put(places, lambda: self._put([(at, data)], partial(self._stored, count, True)))

    def _stored(self, count: int, tell: bool) -> None:
        """The client has them: the interrupt may come."""
        self.stored = (self.stored + count) % self._length
        self._storing = False
        vector = self._ring.vector
        if tell and vector is not None:
            self._plane.raise_vector(vector)
        self._plane.mark()

    # -- guest memory

    def _get(self, address: int, size: int, done: Callable[[bytes | None], None]) -> None:
        """Fetch bytes; `done` is not called once this is closed."""
        ranges = self._plane.ranges(address, size, writing=False)
        if not ranges:
            done(None)
            return
        parts: list[bytes | None] = [None] * len(ranges)
        left = len(ranges)

        def came(place: int, number: int, data: bytes | None) -> None:
            nonlocal left
            self._tickets.pop(number, None)
            parts[place] = data
            left -= 1
            if left == 0 and not self._closed:
                found = [part for part in parts if part is not None]
                done(b"".join(found) if len(found) == len(parts) else None)

        for place, (region, at, part) in enumerate(ranges):
            number = self._number = self._number + 1
            if region.host is not None:
                data = ctypes.string_at(region.host + at - region.guest, part)
                came(place, number, data)
                continue
            assert region.channel is not None
            before = left
            ticket = region.channel.fetch(at, part, partial(came, place, number))
            if left == before:
                self._tickets[number] = (ticket, False)

    def _put(self, places: list[tuple[int, bytes]], done: Callable[[], None]) -> None:
        """Store bytes in any order; `done` is called when all is there, or failed."""
        left = 1

        def came(number: int, _: bool) -> None:
            nonlocal left
            self._tickets.pop(number, None)
            self.stores -= 1
            if self._closed:
                self._plane.left(self)
                return
            left -= 1
            if left == 0:
                done()

        for address, data in places:
            start = 0
            for region, at, part in self._plane.ranges(address, len(data), writing=True):
                piece = data[start : start + part]
                start += part
                if region.host is not None:
                    ctypes.memmove(region.host + at - region.guest, piece, part)
                    continue
                number = self._number = self._number + 1
                assert region.channel is not None
                left += 1
                self.stores += 1
                before = self.stores
                ticket = region.channel.store(at, piece, partial(came, number))
                if self.stores == before:
                    self._tickets[number] = (ticket, True)
        left -= 1
        if left == 0:
            done()


class MessagePlane:
    """The queues of a port that are in memory which only messages reach. On the loop's thread.

    Args:
        loop: The process' loop.
        port: The data plane.
        idle: Called when `busy` ends.
    """

    def __init__(self, loop: Loop, port: Port, idle: Callable[[], None]) -> None:
        self._port = port
        self._idle = idle
        self._task = loop.task(self._run)
        self._queues: dict[Ring, MessageQueue] = {}
        self._leaving: set[MessageQueue] = set()
        self._mirrors: dict[Ring, Mirror] = {}
        # Kernels tell of what they have completed as they raise any vector, on any thread.
        self._fd = -1
        self._watch: Watch | None = None
        self._loop = loop
        port.messages = self
        self.mark = self._task.mark

    def open(self) -> None:
        """Be told by kernels, from the first memory on that only messages reach."""
        if self._fd >= 0:
            return
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watch = self._loop.watch(self._fd, self._woken)
        self._port.wake.bind(self._fd)
        self._port.wake.arm()

    @property
    def busy(self) -> bool:
        """Whether stores of queues that are disabled are with the client still."""
        return bool(self._leaving)

    def queue(self, ring: Ring) -> MessageQueue | None:
        """The mirrored queue of a ring, if it has one."""
        return self._queues.get(ring)

    def look(self, ring: Ring, *, buffers: bool = False) -> MessageQueue | None:
        """Mirror an enabled ring if messages are the way to it, or its buffers; kernels rest."""
        found = self._queues.get(ring)
        if found is not None:
            found.rung()
            return found
        if not buffers and not self._by_message(ring):
            return None
        self.open()
        mirror = self._mirrors.get(ring)
        if mirror is None:
            mirror = self._mirrors[ring] = Mirror()
        found = self._queues[ring] = MessageQueue(self, ring, mirror, ring.next)
        self.mark()
        return found

    def drop(self, ring: Ring) -> None:
        """The ring was disabled; kernels rest."""
        queue = self._queues.pop(ring, None)
        if queue is not None:
            queue.close()
            if queue.stores:
                self._leaving.add(queue)

    def left(self, queue: MessageQueue) -> None:
        """A store of a queue that was disabled has been answered."""
        if not queue.stores and queue in self._leaving:
            self._leaving.remove(queue)
            if not self._leaving:
                self._idle()

    def close(self) -> None:
        """Stop for good; queues are disabled."""
        self._task.close()
        if self._fd >= 0 and self._watch is not None:
            self._watch.close()
            self._port.wake.bind(None)
            os.close(self._fd)
            self._fd = -1

    def raise_vector(self, vector: int) -> None:
        """Raise a queue's vector."""
        self._port.vectors[vector].event()

    def _woken(self, _: int) -> None:
        os.eventfd_read(self._fd)
        self._port.wake.arm()
        for ring in (*self._port.rx, *self._port.tx):
            if ring.asks:
                with self._port.paused():
                    ring.locate(look=True)
                ring.doorbell.ring()
        self.mark()

    def _run(self) -> None:
        for queue in list(self._queues.values()):
            queue.run()

    # -- guest memory

    def ranges(
        self, address: int, size: int, *, writing: bool
    ) -> list[tuple[MemoryRegion, int, int]]:
        """The parts of a range: region, guest address, bytes; none at all if one is missing."""
        found = []
        table = self._port.memory
        while size > 0:
            region = table.find(address)
            if (
                region is None
                or not (region.writable if writing else region.readable)
                or (region.host is None and region.channel is None)
            ):
                return []
            part = min(size, region.end - address)
            found.append((region, address, part))
            address += part
            size -= part
        return found

    def allows(self, address: int, size: int) -> bool:
        """Whether all of a range can be written."""
        return bool(self.ranges(address, size, writing=True))

    def _by_message(self, ring: Ring) -> bool:
        size = ring.length * ring.SIZE
        found = self.ranges(ring.base, size, writing=True)
        return any(region.host is None for region, _, _ in found)
