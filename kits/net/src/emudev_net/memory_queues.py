"""Queues in plain memory: a source that shows prepared packets, a sink that collects what it gets.

For tests, measurements, and as the shortest example of queue kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Final

from emudev_core.queues import Offload, QueueKernels, QueueStats

from .burst import ADDRESS, FLAGS, LAST, LENGTH, OFFLOAD, OWN, ROW, Burst, Packet, packet_rows
from .jit import queue_kernel
from .primitives import Words, copy, load64, store64

__all__ = ["KERNELS", "MemorySink", "MemorySource"]

# Words of a source.
_TABLE: Final = 0  #: address of its rows
_HEAD: Final = 8  #: the first row that was not released
_TAIL: Final = 16  #: behind the last row
_AGAIN: Final = 24  #: how often it begins anew
_PACKETS: Final = 32  #: released
_RELEASED_BYTES: Final = 40
# Words of a sink.
_ARENA: Final = 0  #: address of the memory for frames
_SIZE: Final = 8  #: its bytes
_USED: Final = 16
_ROOM: Final = 24  #: packets that it takes until it is full
_LIST: Final = 32  #: address of entries: offset, length, flags, offload word, VLAN word
_FRAMES: Final = 40
_BYTES: Final = 48
_WRAP: Final = 56  #: 1 = begin at the start of the memory again, keep no list
_SIGNALS: Final = 64  #: calls of notify
_ENTRY: Final = 64


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show the packets that were not released."""
    table = load64(state + _TABLE)
    head = load64(state + _HEAD)
    tail = load64(state + _TAIL)
    if head == tail and load64(state + _AGAIN) > 0:
        store64(state + _AGAIN, load64(state + _AGAIN) - 1)
        head = 0
        store64(state + _HEAD, 0)
    rows = 0
    while head + rows < tail:
        count = packet_rows(table, head + rows, tail)
        if rows + count > capacity:
            break
        rows += count
    copy(burst, table + head * ROW, rows * ROW)
    return rows


@queue_kernel
def release(state: int, burst: int, rows: int) -> int:
    """Let go of the first rows, and count."""
    head = load64(state + _HEAD)
    row = load64(state + _TABLE) + head * ROW
    packets = 0
    total = 0
    for _ in range(rows):
        total += load64(row + LENGTH)
        if load64(row + FLAGS) & LAST:
            packets += 1
        row += ROW
    store64(state + _HEAD, head + rows)
    store64(state + _PACKETS, load64(state + _PACKETS) + packets)
    store64(state + _RELEASED_BYTES, load64(state + _RELEASED_BYTES) + total)
    return 0


@queue_kernel
def push(state: int, burst: int, rows: int) -> int:
    """Copy packets into the memory, while there is room for frames and bytes."""
    arena = load64(state + _ARENA)
    size = load64(state + _SIZE)
    used = load64(state + _USED)
    room = load64(state + _ROOM)
    frames = load64(state + _FRAMES)
    total = load64(state + _BYTES)
    wrap = load64(state + _WRAP)
    done = 0
    while done < rows and room > 0:
        count = packet_rows(burst, done, rows)
        length = 0
        for i in range(done, done + count):
            length += load64(burst + i * ROW + LENGTH)
        if used + length > size:
            if wrap == 0 or length > size:
                break
            used = 0
        if wrap == 0:
            entry = load64(state + _LIST) + frames * _ENTRY
            first = burst + done * ROW
            store64(entry, used)
            store64(entry + 8, length)
            for i in range(2, 8):
                store64(entry + 8 * i, load64(first + 8 * i))
            store64(entry + 16, load64(first + FLAGS) | LAST)
        for i in range(done, done + count):
            part = load64(burst + i * ROW + LENGTH)
            copy(arena + used, load64(burst + i * ROW + ADDRESS), part)
            used += part
        done += count
        room -= 1
        frames += 1
        total += length
    store64(state + _USED, used)
    store64(state + _ROOM, room)
    store64(state + _FRAMES, frames)
    store64(state + _BYTES, total)
    return done


@queue_kernel
def notify(state: int, burst: int, rows: int) -> int:
    """Count the calls."""
    store64(state + _SIGNALS, load64(state + _SIGNALS) + 1)
    return 0


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (peek, push, release, notify)


class MemorySource:
    """A source of prepared packets.

    Args:
        burst: Its packets, `Burst.count` rows; kept. The own word of each row becomes its number.
        again: How often all of them are shown again after the first time.

    Attributes:
        kernels: `peek` and `release`.
    """

    def __init__(self, burst: Burst, again: int = 0) -> None:
        self._burst = burst
        self._words = Words(8)
        for i in range(burst.count):
            burst.words[8 * i + OWN // 8] = i + 1
        self._words[_TABLE // 8] = burst.address
        self._words[_TAIL // 8] = burst.count
        self._words[_AGAIN // 8] = again
        self.kernels = QueueKernels(
            self._words.address, peek, None, release, None, stats=self.stats
        )

    def stats(self) -> QueueStats:
        """Packets released, and their bytes; any thread."""
        return QueueStats(self._words[_PACKETS // 8], self._words[_RELEASED_BYTES // 8])

    def feed(self, packets: Iterable[bytes | Packet]) -> None:
        """Show more packets behind those that wait; on the thread that runs the kernels.

        Raises:
            ValueError: The burst has no rows left.
        """
        burst, words = self._burst, self._words
        if words[_HEAD // 8] == words[_TAIL // 8]:  # all released: their rows are free again
            burst.clear()
            words[_HEAD // 8] = 0
        more = Burst.of(packets)
        burst.extend(more)
        for i in range(burst.count - more.count, burst.count):
            burst.words[8 * i + OWN // 8] = i + 1
        words[_TAIL // 8] = burst.count

    @property
    def shown(self) -> int:
        """Rows that `peek` may show, whole packets; all of them at first."""
        return self._words[_TAIL // 8]

    @shown.setter
    def shown(self, rows: int) -> None:
        self._words[_TAIL // 8] = rows

    @property
    def released(self) -> int:
        """Rows that were released since the last start."""
        return self._words[_HEAD // 8]


class MemorySink:
    """A sink that collects frames.

    Args:
        takes: What it takes as it is.
        room: Packets that it takes until it is full.
        size: Bytes of memory.
        wrap: Write over its memory again and again and keep no list, for measurements.

    Attributes:
        kernels: `push` and `notify`.
    """

    def __init__(
        self,
        takes: Offload = Offload.NONE,
        room: int = 4096,
        size: int = 1 << 20,
        wrap: bool = False,
    ) -> None:
        self._arena = Words(size // 8 + 1)
        self._list = Words(8 * (1 if wrap else room))
        self._words = Words(16)
        words = self._words
        words[_ARENA // 8] = self._arena.address
        words[_SIZE // 8] = size
        words[_LIST // 8] = self._list.address
        words[_ROOM // 8] = room
        words[_WRAP // 8] = int(wrap)
        self._most = room
        self._frames = self._bytes = 0  # of what was taken out
        self.kernels = QueueKernels(
            self._words.address, None, push, None, notify, takes, stats=self.stats
        )

    @property
    def frames(self) -> int:
        """Frames taken."""
        return self._frames + self._words[_FRAMES // 8]

    @property
    def bytes(self) -> int:
        """Bytes taken."""
        return self._bytes + self._words[_BYTES // 8]

    def stats(self) -> QueueStats:
        """Frames and bytes taken; any thread."""
        return QueueStats(self.frames, self.bytes)

    def clear(self) -> list[Packet]:
        """Take out what was taken, and make its room free; on the thread that runs the kernels."""
        found = self.packets()
        words = self._words
        self._frames += words[_FRAMES // 8]
        self._bytes += words[_BYTES // 8]
        words[_ROOM // 8] += words[_FRAMES // 8]
        words[_FRAMES // 8] = words[_BYTES // 8] = words[_USED // 8] = 0
        return found

    @property
    def signals(self) -> int:
        """Calls of notify."""
        return self._words[_SIGNALS // 8]

    @property
    def room(self) -> int:
        """Packets that it takes until it is full; set it lower to fill it up, or higher again."""
        return self._words[_ROOM // 8]

    @room.setter
    def room(self, room: int) -> None:
        self._words[_ROOM // 8] = min(room, self._most - self._words[_FRAMES // 8])

    def packets(self) -> list[Packet]:
        """What it has taken and nobody took out."""
        found = []
        for i in range(self._words[_FRAMES // 8]):
            entry = self._list.view[8 * i : 8 * i + 8]
            data = ctypes.string_at(self._arena.address + entry[0], entry[1])
            found.append(
                Packet(
                    data=data,
                    flags=entry[FLAGS // 8],
                    offload=entry[OFFLOAD // 8],
                    vlan=entry[4],
                    hash=entry[5],
                    own=entry[6],
                    time=entry[7],
                )
            )
        return found
