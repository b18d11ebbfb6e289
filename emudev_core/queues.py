"""Queues, their kernels, doorbells and interrupts: what a provider shows a backend.

A queue number says the direction too: queue ``2 * pair`` carries frames towards the guest (RX, the
guest posts buffers), queue ``2 * pair + 1`` frames from the guest (TX).
"""

from __future__ import annotations

import ctypes
import enum
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from .subscribers import Shortcut, Subscribers

__all__ = [
    "Direction",
    "Offload",
    "QueueKernel",
    "QueueKernels",
    "QueueStats",
    "QueueInfo",
    "IrqInfo",
    "Shortcut",
    "Doorbell",
    "DoorbellFlag",
    "DeviceInfo",
    "rx_queue",
    "tx_queue",
]


class Direction(enum.Enum):
    """Which way a queue carries frames, seen from the guest."""

    RX = "rx"
    TX = "tx"


def rx_queue(pair: int) -> int:
    """The number of the queue towards the guest of a queue pair."""
    return 2 * pair


def tx_queue(pair: int) -> int:
    """The number of the queue from the guest of a queue pair."""
    return 2 * pair + 1


class Offload(enum.IntFlag):
    """What the receiving end of a burst takes as it is; the rest is done in software before.

    The meanings follow ``struct virtio_net_hdr``.
    """

    NONE = 0
    CSUM = 1  #: a checksum that is still to be completed
    TSO4 = 2  #: TCP over IPv4, unsegmented
    TSO6 = 4  #: TCP over IPv6, unsegmented
    USO = 8  #: UDP, unsegmented
    VLAN = 16  #: a VLAN tag beside the frame instead of in it
    CRC32C = 32  #: an SCTP checksum that is still to be computed


class QueueKernel(Protocol):
    """A function over plain memory, compiled or not.

    Attributes:
        address: Native address of an ``int64(int64, int64, int64)`` function, or 0 if not compiled.
    """

    @property
    def address(self) -> int:
        """Native address, or 0."""

    def __call__(self, state: int, burst: int, rows: int, /) -> int:
        """Run it from Python."""


@attrs.frozen
class QueueStats:
    """What a queue has counted since its device was made; the numbers only grow.

    Attributes:
        packets: Packets that were completed: released, or taken by `push`.
        bytes: Their bytes, without FCS.
        dropped: Packets that were lost at this queue, by reason, such as ``length``.
    """

    packets: int = 0
    bytes: int = 0
    dropped: Mapping[str, int] = attrs.field(factory=dict)


@attrs.frozen
class QueueKernels:
    """How frames leave and enter a queue; design section 5, "A packet".

    All run on one thread at a time for one device, or for one queue if the device says so
    (`DeviceInfo.parallel`); none within `Device.paused`. `burst` is the address of an
    ``int64[n, 8]`` table; counts are rows, always of whole packets.

    Attributes:
        state: Address of the queue's int64 words, good until the device is closed.
        peek: ``(state, burst, capacity) -> rows``: references to the packets that are ready,
            without copying; what was peeked and not released is shown again. None for a queue that
            only takes.
        push: ``(state, burst, rows) -> rows taken``: copies whole packets from the front of the
            burst; fewer than given means there is no room now. None for a queue that only gives.
        release: ``(state, burst, rows) -> 0``: completes packets that were peeked.
        notify: ``(state, 0, 0) -> 0``: raises the interrupts that became due since the last call.
        takes: What `push` takes as it is.
        stats: Tells what the queue has counted; any thread, at any time. None if it counts nothing.
        kind: What memory format `state` stands for, such as ``memif-server-push``; empty: nobody
            need know. It lets a source offer a shorter way to sinks that it knows.
        forward: ``(source state, sink state, rows) -> rows``: kernels of a source that do peek,
            push and release in one for a sink of a kind, with the same result and the same
            counters. They move packets of one row each (so that a row is a packet to whoever
            counts), at most `rows`, and stop before whatever they do not handle (more rows, an
            offload, no room): peek, push and release deal with that.
        compiled: Whether the kernels have native addresses.
    """

    state: int
    peek: QueueKernel | None
    push: QueueKernel | None
    release: QueueKernel | None
    notify: QueueKernel | None
    takes: Offload = Offload.NONE
    stats: Callable[[], QueueStats] | None = None
    kind: str = ""
    forward: Mapping[str, QueueKernel] = attrs.field(factory=dict)

    @property
    def compiled(self) -> bool:
        """Whether each kernel that is there has a native address."""
        kernels = (self.peek, self.push, self.release, self.notify)
        return all(k.address != 0 for k in kernels if k is not None)


@attrs.frozen
class QueueInfo:
    """A queue of a device (RFC v1, queue info).

    Attributes:
        queue: Number, see `rx_queue` and `tx_queue`.
        direction: Which way it carries frames.
        base: Guest address of its ring, 0 if not configured.
        size: Ring length in descriptors, 0 if not configured.
        doorbell: Id of its doorbell.
        vector: Its interrupt vector, or None.
        enabled: Whether the guest has enabled it.
        kernels: How frames go in or out; None for a device whose queues carry no frames.
        private: The provider's own; None or documented by it.
    """

    queue: int
    direction: Direction
    base: int
    size: int
    doorbell: int
    vector: int | None
    enabled: bool
    kernels: QueueKernels | None = None
    private: Any = None


@attrs.frozen
class IrqInfo:
    """An interrupt vector of a device (RFC v1, interrupt info).

    Attributes:
        vector: Number.
        fd: Eventfd that raises it in the guest; the transport owns it. None while the guest has
            none.
        trigger: Raises the vector by the device's rules (masks, latching); loop thread only.
        private: The provider's own.
    """

    vector: int
    fd: int | None
    trigger: Callable[[], None]
    private: Any = None


class DoorbellFlag(enum.IntFlag):
    """How a doorbell tells (RFC v1, doorbell flags)."""

    FD = 1  #: by a descriptor that becomes readable
    MEMORY = 2  #: by the word in memory


class Doorbell:
    """A doorbell of a device (RFC v1, doorbell info): a word and whoever waits for it.

    A guest's write is stored in the word first and rings then, on the loop's thread; the word
    always has the latest value. A transport that knows the word (`RegionInfo.doorbells`) does both
    itself.

    Args:
        id: Number within the device.
        address: Address of a 4-byte word, kept alive by the provider.
        private: The provider's own.
        on_polled: Called when `polled` changes: the peer may be asked to ring, or not to.
        every: Each write counts: the subscribers are told of it before the next one is stored.
            Else the last one does, as for the tail of a ring.

    Attributes:
        flags: `DoorbellFlag.MEMORY`, and `FD` once `fileno` was asked for.
        every: As given.
        size: Bytes of the word: 4.
        subscribers: Who is told of rings.
        signal_fd: A descriptor of the provider that is readable from when the peer has rung until
            the loop has taken notice, for threads that sleep beside the loop; the same for the
            life of the device. -1: there is none.
    """

    __slots__ = (
        "_fd",
        "_on_polled",
        "_polled",
        "_word",
        "address",
        "every",
        "id",
        "private",
        "signal_fd",
        "size",
        "subscribers",
    )

    def __init__(
        self,
        id: int,
        address: int,
        private: Any = None,
        on_polled: Callable[[bool], None] | None = None,
        every: bool = False,
    ) -> None:
        self._on_polled = on_polled
        self.every = every
        self._polled = False
        self.id = id
        self.address = address
        self.size = 4
        self.signal_fd = -1
        self.private = private
        self._word = ctypes.c_uint32.from_address(address)
        self.subscribers = Subscribers()
        self._fd: int | None = None

    @property
    def flags(self) -> DoorbellFlag:
        """How it tells now."""
        return DoorbellFlag.MEMORY | (DoorbellFlag.FD if self._fd is not None else 0)

    @property
    def value(self) -> int:
        """The word: what was written last."""
        return self._word.value

    def write(self, value: int) -> None:
        """Store a value and ring."""
        self._word.value = value
        self.subscribers.call()

    @property
    def chain(self) -> int:
        """For waits that ring without the interpreter; see `Subscribers`."""
        return self.subscribers.chain

    def ring(self) -> None:
        """Tell the subscribers; the word is already stored."""
        self.subscribers.call()

    def subscribe(
        self, callback: Callable[[], None], shortcut: Shortcut | Subscribers | None = None
    ) -> None:
        """Call `callback` at each ring, on the loop's thread; it must be short (mark a task).

        Args:
            callback: What to call.
            shortcut: What may be run in its place, see `Subscribers.add`.
        """
        self.subscribers.add(callback, shortcut)

    def unsubscribe(self, callback: Callable[[], None]) -> None:
        """Undo `subscribe`; unknown callbacks are ignored."""
        self.subscribers.remove(callback)

    @property
    def polled(self) -> bool:
        """Whether its user looks by itself, again and again, and needs no ring.

        Set by whoever runs the queue's kernels, on the loop's thread. Rings may still come.
        """
        return self._polled

    @polled.setter
    def polled(self, polled: bool) -> None:
        if polled != self._polled:
            self._polled = polled
            if self._on_polled is not None:
                self._on_polled(polled)

    def fileno(self) -> int:
        """An eventfd that becomes readable at each ring; made at the first call, owned by this."""
        if self._fd is None:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._fd = fd
            self.subscribe(lambda: os.eventfd_write(fd, 1))
        return self._fd

    def close(self) -> None:
        """Forget the subscribers and close the eventfd."""
        self.subscribers.clear()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@attrs.frozen
class DeviceInfo:
    """What a device is (RFC v1, device info).

    Attributes:
        type: Short name of the kind, such as ``avf``.
        max_queue_pairs: Largest number of queue pairs; 0 for a device without queues.
        max_events: Largest number of kinds of events that it posts.
        vectors: Number of interrupt vectors.
        doorbells: Number of doorbells.
        max_frame: Largest frame the device can take towards the guest, bytes, without FCS; 0 if
            none.
        parallel: Kernels of different queues may run on different threads at the same time; those
            of one queue on one at a time.
        link_first: Its queues are enabled only while its link is up, which is all that it knows of
            a link: two such devices, joined, must not wait for each other.
    """

    type: str
    max_queue_pairs: int = 0
    max_events: int = 0
    vectors: int = 0
    doorbells: int = 0
    max_frame: int = 0
    parallel: bool = False
    link_first: bool = False
