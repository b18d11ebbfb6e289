"""The data plane of a memif interface: all its queues, and the control of them.

A `RingSet` owns the words of each queue of one device for the whole life of that; queue numbers and
state addresses never change, whether a peer is there or not. The control side brings it up with
`attach` when a peer is connected and takes it down with `detach`; backends get `QueueKernels`.

    rings = RingSet(Role.CLIENT, pairs=1)
    memory = create(layout(c2s=1, s2c=1))
    rings.attach(memory.regions, memory.layout.c2s, memory.layout.s2c, [fd0], [fd1], memory.layout)
    ...
    with device.paused():
        rings.detach()
    memory.close()

All methods are for the loop's thread; kernels may run on others, those of one queue on one at a
time. What kernels look at changes within `paused` only, as the caller sees to.

Source: memif.md sections 3, 4 and 8.
"""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Callable, Sequence
from typing import Final

from emudev_core.queues import Offload, QueueKernels, QueueStats
from emudev_net.jit import Compilation, Kernel, compile_all, jit_wanted
from emudev_net.primitives import Words

from . import client_kernels, forward_kernels, server_kernels
from .layout import Layout, RingMemory, RingPlace, create, layout
from .pieces import notify
from .words import (
    BROKEN,
    FAULTS,
    MASK_INT,
    MAX_LOG2,
    MIN_LOG2,
    OFF,
    ON,
    Q_ARMED,
    Q_BUFFERS,
    Q_BYTES,
    Q_CAPACITY,
    Q_CURSOR,
    Q_DUE,
    Q_EPOCH,
    Q_FAULT,
    Q_FAULT_REASON,
    Q_HEAD,
    Q_HELD,
    Q_KICK,
    Q_MASK,
    Q_MAX_FRAME,
    Q_OFFSET,
    Q_PACKETS,
    Q_POLLED,
    Q_REASONS,
    Q_REGION,
    Q_REGIONS,
    Q_RING,
    Q_SHOWN_ROWS,
    Q_STATE,
    Q_STRIDE,
    QUEUE_WORDS,
    REASONS,
    REGIONS,
    RING_FLAGS,
    RING_HEAD,
    RING_TAIL,
)

__all__ = [
    "KERNELS",
    "Layout",
    "RingMemory",
    "RingPlace",
    "RingSet",
    "Role",
    "create",
    "layout",
]

#: Longest frame by default, bytes; libmemif and VPP take about as much.
MAX_FRAME: Final = 9728
MAX_PAIRS: Final = 256

#: All kernels of the data plane, of both roles.
KERNELS: Final[tuple[Kernel, ...]] = (
    *server_kernels.KERNELS,
    *client_kernels.KERNELS,
    *forward_kernels.KERNELS,
)


class Role(enum.Enum):
    """Which end of the socket this is; the *peer* is the other one."""

    SERVER = "server"  #: it maps memory that the client made
    CLIENT = "client"  #: it makes the memory


class RingSet:
    """All queues of one memif interface.

    Queue ``2 * p`` carries frames towards the peer (`push`), ``2 * p + 1`` frames from the peer
    (`peek`), in both roles. A queue without ring (nobody connected, or the peer has fewer) shows
    nothing, and drops what is pushed, counted under ``link``.

    Args:
        role: This side's.
        pairs: Queue pairs, 1 to 256.
        max_frame: Longest frame, bytes without FCS; longer ones are dropped and counted both ways.

    Attributes:
        role: As given.
        pairs: As given.
        attached: Whether a peer's rings are in use.
        fault_fd: An eventfd that becomes readable when a kernel finds that the peer broke a rule
            which leaves nothing to go on with; then `broken` says what. Watch it, drain it,
            disconnect. Owned by this.
    """

    def __init__(self, role: Role, pairs: int, max_frame: int = MAX_FRAME) -> None:
        if not 1 <= pairs <= MAX_PAIRS:
            raise ValueError(f"an interface has 1 to {MAX_PAIRS} queue pairs, not {pairs}")
        self.role = role
        self.pairs = pairs
        self.attached = False
        self.fault_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._table = Words(2 * REGIONS)
        self._words = Words(2 * pairs * QUEUE_WORDS)
        for queue in range(2 * pairs):
            self._set(queue, Q_REGIONS, self._table.address)
            self._set(queue, Q_KICK, -1)
            self._set(queue, Q_FAULT, self.fault_fd)
        self.set_max_frame(max_frame)

    def _get(self, queue: int, word: int) -> int:
        return self._words[queue * QUEUE_WORDS + word // 8]

    def _set(self, queue: int, word: int, value: int) -> None:
        self._words[queue * QUEUE_WORDS + word // 8] = value

    def state(self, queue: int) -> int:
        """Address of the words of a queue; good until `close`."""
        return self._words.word(queue * QUEUE_WORDS)

    # -- up and down

    def attach(
        self,
        regions: Sequence[tuple[int, int]],
        c2s: Sequence[RingPlace],
        s2c: Sequence[RingPlace],
        c2s_fds: Sequence[int],
        s2c_fds: Sequence[int],
        layout: Layout | None = None,
    ) -> None:
        """Go up: head and tail of each ring become 0, kernels find the rings from now on.

        A server calls it before it sends CONNECTED, a client when that has arrived. A queue that
        receives and is not polled begins with its signal armed: kick whoever runs it once after
        this. Rings beyond `pairs` are left alone.

        Args:
            regions: Address in this process and size of each region, by index; they stay mapped
                until `detach` has returned.
            c2s: The rings from client to server.
            s2c: The rings from server to client.
            c2s_fds: Their eventfds, which stay the caller's and open until `detach` has returned.
            s2c_fds: The same for the other direction.
            layout: A client's own layout, of which `c2s` and `s2c` are (the first) rings; None for
                a server.

        Raises:
            ValueError: A ring is not where a ring can be, or numbers do not fit each other. Nothing
                has changed then.
        """
        if self.attached:
            raise ValueError("rings are attached already; detach them first")
        if (layout is None) != (self.role is Role.SERVER):
            raise ValueError("a client attaches with its layout, a server without one")
        if len(c2s_fds) != len(c2s) or len(s2c_fds) != len(s2c):
            raise ValueError(
                f"each ring has an eventfd: {len(c2s)} and {len(s2c)} rings, "
                f"{len(c2s_fds)} and {len(s2c_fds)} eventfds"
            )
        if len(regions) > REGIONS:
            raise ValueError(f"there are at most {REGIONS} regions, not {len(regions)}")
        for place in (*c2s, *s2c):
            _check_place(place, regions)
        for i, (base, size) in enumerate(regions):
            self._table[2 * i] = base
            self._table[2 * i + 1] = size
        server = self.role is Role.SERVER
        groups = (
            (c2s, c2s_fds, layout.c2s_buffers if layout is not None else (), server),
            (s2c, s2c_fds, layout.s2c_buffers if layout is not None else (), not server),
        )
        for places, fds, buffers, receives in groups:
            for i, (place, fd) in enumerate(zip(places, fds, strict=True)):
                if i >= self.pairs:
                    break
                queue = 2 * i + int(receives)
                if layout is not None:
                    self._set(queue, Q_BUFFERS, regions[place.region][0] + buffers[i])
                    self._set(queue, Q_STRIDE, layout.stride)
                    self._set(queue, Q_CAPACITY, layout.buffer_size)
                    self._set(queue, Q_OFFSET, buffers[i])
                    self._set(queue, Q_REGION, place.region)
                ring = regions[place.region][0] + place.offset
                self._bring_up(queue, ring, place.slots, fd, receives)
        self.attached = True

    def _bring_up(self, queue: int, ring: int, slots: int, fd: int, receives: bool) -> None:
        ctypes.c_uint16.from_address(ring + RING_HEAD).value = 0
        ctypes.c_uint16.from_address(ring + RING_TAIL).value = 0
        armed = int(receives and not self._get(queue, Q_POLLED))
        if receives:
            flags = 0 if armed else MASK_INT
            ctypes.c_uint16.from_address(ring + RING_FLAGS).value = flags
        self._set(queue, Q_RING, ring)
        self._set(queue, Q_MASK, slots - 1)
        self._set(queue, Q_KICK, fd)
        self._set(queue, Q_ARMED, armed)
        for word in (Q_CURSOR, Q_HEAD, Q_DUE, Q_HELD, Q_FAULT_REASON, Q_SHOWN_ROWS):
            self._set(queue, word, 0)
        self._set(queue, Q_EPOCH, self._get(queue, Q_EPOCH) + 1 & 0x7FFF_FFFF)
        self._set(queue, Q_STATE, ON)

    def detach(self) -> None:
        """Go down: all queues are without ring when this returns.

        The caller holds `Device.paused()`; regions may be unmapped and eventfds closed afterwards.
        Rows that were peeked before complete nothing any more. Counters stay. Twice is once.
        """
        for queue in range(2 * self.pairs):
            self._set(queue, Q_STATE, OFF)
            self._set(queue, Q_RING, 0)
            self._set(queue, Q_MASK, 0)
            self._set(queue, Q_KICK, -1)
            self._set(queue, Q_BUFFERS, 0)
            for word in (Q_ARMED, Q_DUE, Q_HELD, Q_FAULT_REASON, Q_SHOWN_ROWS):
                self._set(queue, word, 0)
            self._set(queue, Q_EPOCH, self._get(queue, Q_EPOCH) + 1 & 0x7FFF_FFFF)
        for i in range(2 * REGIONS):
            self._table[i] = 0
        self.attached = False

    def close(self) -> None:
        """Detach and close `fault_fd`. The words stay readable. Twice is once."""
        self.detach()
        if self.fault_fd >= 0:
            os.close(self.fault_fd)
            self.fault_fd = -1
            for queue in range(2 * self.pairs):
                self._set(queue, Q_FAULT, -1)

    # -- knobs

    def set_max_frame(self, max_frame: int) -> None:
        """Set the longest frame, 14 to 65535 bytes without FCS; within `paused` if attached."""
        if not 14 <= max_frame <= 0xFFFF:
            raise ValueError(
                f"the longest frame has 14 to 65535 bytes without FCS, not {max_frame}"
            )
        for queue in range(2 * self.pairs):
            self._set(queue, Q_MAX_FRAME, max_frame)

    def set_polled(self, queue: int, polled: bool) -> None:
        """Say whether a receiving queue is looked at again and again (MASK_INT), or sleeps.

        It takes effect with the next peek, on its thread. After True -> False, kick whoever runs
        the queue: it is that peek which finds nothing that asks the peer to signal. Any time.
        """
        self._set(queue, Q_POLLED, int(polled))

    def wake(self, queue: int) -> None:
        """Write the eventfd of the queue's ring, so that its receiver looks. Any time."""
        fd = self._get(queue, Q_KICK)
        if fd >= 0:
            try:
                os.eventfd_write(fd, 1)
            except BlockingIOError:  # full: it is readable, that is all it is for
                return

    # -- what is known

    def connected(self, queue: int) -> bool:
        """Whether the queue has a ring and the peer has not broken it."""
        return self._get(queue, Q_STATE) == ON

    def size(self, queue: int) -> int:
        """Slots of the queue's ring, 0 without one."""
        return self._get(queue, Q_MASK) + 1 if self._get(queue, Q_RING) else 0

    def pending(self, queue: int) -> bool:
        """Whether a receiving queue may have packets for its next peek; one load, any time.

        For the timer that looks after a receiver that sleeps (memif.md section 4, Interrupts).
        """
        if self._get(queue, Q_STATE) != ON:
            return False
        word = RING_HEAD if self.role is Role.SERVER else RING_TAIL
        counter: int = ctypes.c_uint16.from_address(self._get(queue, Q_RING) + word).value
        return counter != self._get(queue, Q_CURSOR)

    def held(self, queue: int) -> bool:
        """Whether the last push of a sending queue stopped for want of room.

        memif has no signal for room: who holds packets back has to try again by a timer.
        """
        return self._get(queue, Q_HELD) != 0

    @property
    def broken(self) -> str | None:
        """What the peer did that stopped a queue: which queue, and the rule; else None."""
        for queue in range(2 * self.pairs):
            if self._get(queue, Q_STATE) == BROKEN:
                return f"queue {queue}: {FAULTS[self._get(queue, Q_FAULT_REASON)]}"
        return None

    def stats(self, queue: int) -> QueueStats:
        """What a queue has counted since this was made; any thread, any time."""
        at = queue * QUEUE_WORDS
        reasons = {
            name: self._words[at + Q_REASONS // 8 + i]
            for i, name in enumerate(REASONS)
            if name in (_SENDER_REASONS if queue & 1 == 0 else _RECEIVER_REASONS)
        }
        return QueueStats(self._words[at + Q_PACKETS // 8], self._words[at + Q_BYTES // 8], reasons)

    # -- kernels

    def kernels(self, queue: int) -> QueueKernels:
        """The kernels of a queue; they stay the same for the life of this."""
        server = self.role is Role.SERVER
        name = self.role.value
        if queue & 1:
            return QueueKernels(
                state=self.state(queue),
                peek=server_kernels.peek if server else client_kernels.peek,
                push=None,
                release=server_kernels.release if server else client_kernels.release,
                notify=None,
                stats=lambda: self.stats(queue),
                kind=f"memif-{name}-peek",
                forward=forward_kernels.BY_SINK[f"memif-{name}-peek"],
            )
        return QueueKernels(
            state=self.state(queue),
            peek=None,
            push=server_kernels.push if server else client_kernels.push,
            release=None,
            notify=notify,
            takes=Offload.NONE,
            stats=lambda: self.stats(queue),
            kind=f"memif-{name}-push",
        )

    @property
    def ready(self) -> bool:
        """Whether the kernels are as fast as they get: compiled, unless nothing compiles."""
        return not jit_wanted() or all(kernel.address for kernel in KERNELS)

    def compile(
        self,
        done: Callable[[Exception | None], None] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Compilation:
        """Compile the kernels in a thread of their own, or load them from the cache.

        Args:
            done: Called when they are, with None, or with what went wrong; on that thread, or on
                this one if nothing is to be compiled. Hand it to the loop with
                `Loop.call_threadsafe`.
            progress: Told in words what is done when it takes longer, on that thread.

        Returns:
            What can be cancelled and waited for.
        """
        return compile_all(KERNELS, done, progress)


_SENDER_REASONS: Final = ("link", "length", "buffer")
_RECEIVER_REASONS: Final = ("length", "region", "bounds", "chain", "segments")


def _check_place(place: RingPlace, regions: Sequence[tuple[int, int]]) -> None:
    if not MIN_LOG2 <= place.log2_size <= MAX_LOG2:
        raise ValueError(
            f"log2 of a ring's size is {MIN_LOG2} to {MAX_LOG2}, not {place.log2_size}"
        )
    if not 0 <= place.region < len(regions):
        raise ValueError(f"a ring is in region {place.region}; there are {len(regions)} regions")
    base, size = regions[place.region]
    if place.offset % 16 or base % 16:
        raise ValueError(f"a ring's place is a multiple of 16, not {base:#x} + {place.offset:#x}")
    if not 0 <= place.offset <= size - place.bytes:
        raise ValueError(
            f"a ring of {place.bytes} bytes at {place.offset:#x} goes beyond its region of "
            f"{size} bytes"
        )
