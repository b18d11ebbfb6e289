"""Null peers: far ends of memif interfaces that cost next to nothing, so that only the DUT limits.

A peer is a real client: it makes the shared memory and connects over the control socket with the
client of emudev-memif, whoever serves. Its rings are then driven by compiled loops, which write
descriptors and counters but no payload (*null*), or also the first 8 bytes of each packet they send
and read the first 8 of each they get (*dirty*). They poll: MASK_INT is set on what they receive
from. Source: datapath.md section 1.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from emudev_core.loop import Loop
from emudev_memif.client import ClientEnd, ClientOptions
from emudev_memif.ends import Peer, Rings
from emudev_memif.layout import Layout, RingPlace
from emudev_memif.sockets import Address
from emudev_memif.words import (
    DESCRIPTOR,
    MASK_INT,
    RING_FLAGS,
    RING_HEAD,
    RING_HEADER,
    RING_TAIL,
)
from emudev_net.jit import Kernel, compile_now, inline, queue_kernel
from emudev_net.primitives import (
    Words,
    fence,
    load16,
    load16_acquire,
    load64,
    load64_relaxed,
    now_ns,
    pause,
    store16_release,
    store64,
    store64_relaxed,
)
from emudev_net.system_calls import poll, read, signal_eventfd

LOG2: Final = 10
BUFFER: Final = 2048
BATCH: Final = 64

# Words of the two ends that a loop drives: it sends at one and receives at the other.
STOP = 8 * 0
LENGTH = 8 * 1  # of each packet, bytes
DIRTY = 8 * 2
MASK = 8 * 3  # of both rings
TX_RING = 8 * 4  # a C2S ring; these three words follow one another
TX_BUFFERS = 8 * 5  # addresses
TX_OFFSET = 8 * 6  # offset of the first buffer
RX_RING = 8 * 7  # an S2C ring, the same
RX_BUFFERS = 8 * 8
RX_OFFSET = 8 * 9
STRIDE = 8 * 10
HEAD = 8 * 11
CURSOR = 8 * 12
# What it counts.
SENT = 8 * 16
RECEIVED = 8 * 17
SUM = 8 * 18
# Only for what is not memif at the sending end: its own words begin here.
GUEST = 8 * 24
# Only for `first_packets`.
GAP = 8 * 24  # rest between two packets, ns
TIMES = 8 * 25  # address of a table for what each took, ns
COUNT = 8 * 26  # its entries
DONE = 8 * 27  # entries that are filled
KICK = 8 * 28  # eventfd of the C2S ring
WAKE = 8 * 29  # eventfd of the S2C ring
POLLS = 8 * 30  # address of a struct pollfd for that, and of 8 bytes
WORDS = 48


@inline
def memif_send(state: int) -> int:
    """Fill what room there is in the C2S ring, at most a batch; answers packets."""
    ring = load64(state + TX_RING)
    mask = load64(state + MASK)
    head = load64(state + HEAD)
    room = mask + 1 - ((head - load16_acquire(ring + RING_TAIL)) & 0xFFFF)
    count = min(room, BATCH)
    if count <= 0:
        return 0
    length = load64(state + LENGTH) << 32
    offset = load64(state + TX_OFFSET)
    stride = load64(state + STRIDE)
    for i in range(head, head + count):
        slot = ring + RING_HEADER + (i & mask) * DESCRIPTOR
        store64(slot, length)
        store64(slot + 8, offset + (i & mask) * stride)
    if load64(state + DIRTY):
        buffers = load64(state + TX_BUFFERS)
        for i in range(head, head + count):
            store64(buffers + (i & mask) * stride, i)
    head = (head + count) & 0xFFFF
    store64(state + HEAD, head)
    store16_release(ring + RING_HEAD, head)
    store64_relaxed(state + SENT, load64(state + SENT) + count)
    return count


@inline
def memif_receive(state: int) -> int:
    """Take what has come on the S2C ring, at most a batch, and offer the buffers again."""
    ring = load64(state + RX_RING)
    mask = load64(state + MASK)
    cursor = load64(state + CURSOR)
    count = min((load16_acquire(ring + RING_TAIL) - cursor) & 0xFFFF, BATCH)
    if count == 0:
        return 0
    offset = load64(state + RX_OFFSET)
    stride = load64(state + STRIDE)
    for i in range(cursor, cursor + count):
        slot = ring + RING_HEADER + (i & mask) * DESCRIPTOR
        store64(slot, BUFFER << 32)
        store64(slot + 8, offset + (i & mask) * stride)
    if load64(state + DIRTY):
        buffers = load64(state + RX_BUFFERS)
        total = 0
        for i in range(cursor, cursor + count):
            total += load64(buffers + (i & mask) * stride)
        store64(state + SUM, load64(state + SUM) + total)
    cursor = (cursor + count) & 0xFFFF
    store64(state + CURSOR, cursor)
    store16_release(ring + RING_HEAD, (cursor + mask + 1) & 0xFFFF)
    store64_relaxed(state + RECEIVED, load64(state + RECEIVED) + count)
    return count


@queue_kernel
def memif_to_memif(state: int, _burst: int, _rows: int) -> int:
    """Send on one ring and receive on another until told to stop."""
    while load64_relaxed(state + STOP) == 0:
        sent = memif_send(state)
        if memif_receive(state) + sent == 0:
            pause()
    return 0


@queue_kernel
def first_packets(state: int, _burst: int, _rows: int) -> int:
    """Rest, send one packet, sleep until it is there, again and again: interrupt mode at both ends.

    A packet that has not come after a second counts as a second.
    """
    ring = load64(state + TX_RING)
    mask = load64(state + MASK)
    sleepers = load64(state + POLLS)  # struct pollfd of the S2C ring's eventfd, 8 bytes for reading
    rest = load64(state + GAP)
    store16_release(load64(state + RX_RING) + RING_FLAGS, 0)  # signals are wanted
    while load64_relaxed(state + STOP) == 0:
        done = load64(state + DONE)
        if done >= load64(state + COUNT):
            break
        start = now_ns()
        while now_ns() - start < rest:
            poll(0, 0, 10)
        head = load64(state + HEAD)
        slot = ring + RING_HEADER + (head & mask) * DESCRIPTOR
        start = now_ns()
        store64(slot, load64(state + LENGTH) << 32)
        store64(slot + 8, load64(state + TX_OFFSET) + (head & mask) * load64(state + STRIDE))
        head = (head + 1) & 0xFFFF
        store64(state + HEAD, head)
        store16_release(ring + RING_HEAD, head)
        fence()
        if load16(ring + RING_FLAGS) & MASK_INT == 0:
            signal_eventfd(load64(state + KICK))
        came = 0
        took = 0
        while came == 0 and took < 1_000_000_000:
            if poll(sleepers, 1, 1000) > 0:
                read(load64(state + WAKE), sleepers + 8, 8)
            took = now_ns() - start
            came = memif_receive(state)
        store64(load64(state + TIMES) + 8 * done, took)
        store64_relaxed(state + DONE, done + 1)
    return 0


class MemifClient:
    """A client on a loop of its own, connected when this is made; `ends.User` for its end.

    Args:
        path: Of the server's socket.
        id: Of its interface.
        seconds: How long the server may refuse or not be there.

    Raises:
        RuntimeError: It was not taken in time.
    """

    pairs = 1
    secret = b""
    name = "null peer"
    wanted = True

    def __init__(self, path: Path, id: int = 0, seconds: float = 20.0) -> None:
        self._rings: Rings | None = None
        self._reason = "nothing happened"
        self.loop = Loop()
        options = ClientOptions(Address(str(path), False), id, LOG2, BUFFER)
        self._end = ClientEnd(self, self.loop, options)
        self._end.open()
        deadline = time.monotonic() + seconds
        while self._rings is None:
            self.loop.turn(0.02)
            self._end.update()  # try at once, not after the usual second
            if time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"no memif connection at {path}: {self._reason}")

    @property
    def rings(self) -> Rings:
        """Where the rings are, and their eventfds."""
        assert self._rings is not None
        return self._rings

    @property
    def address(self) -> int:
        """Where its only region is mapped."""
        return self.rings.regions[0][0]

    @property
    def layout(self) -> Layout:
        """What is where in that region."""
        layout = self.rings.layout
        assert layout is not None
        return layout

    # -- `ends.User`

    def check_region(self, fd: int, size: int, before: int) -> None:
        """A client is shown none."""

    def check_ring(self, fd: int) -> None:
        """A client is shown none."""

    def went_up(self, rings: Rings, peer: Peer) -> None:
        """The memory is shared."""
        self._rings = rings

    def went_down(self, reason: str) -> bool:
        """The server has gone; the memory is kept as long as loops may run."""
        self._reason = reason
        return False

    def refused(self, reason: str) -> None:
        """It is tried again."""
        self._reason = reason

    def close(self) -> None:
        """Go; no loop may run on the rings any more."""
        self._end.close()
        self._end.release()
        self.loop.close()


class ClientMemory(Protocol):
    """The only region of a client: of a `MemifClient`, or `emudev_memif.layout.RingMemory`.

    Attributes:
        address: Where it is mapped.
        layout: What is where.
    """

    @property
    def address(self) -> int: ...  # noqa: D102
    @property
    def layout(self) -> Layout: ...  # noqa: D102


class Ends:
    """The words of a loop, set up for memif clients at both ends or at one.

    Args:
        size: Bytes of each packet.
        dirty: Payload is touched.
        sender: Sends on its C2S ring.
        receiver: Receives on its S2C ring.
    """

    def __init__(
        self,
        size: int,
        dirty: bool,
        sender: ClientMemory | None,
        receiver: ClientMemory | None,
    ) -> None:
        self.words = Words(WORDS)
        self.set(LENGTH, size)
        self.set(DIRTY, int(dirty))
        self.set(MASK, (1 << LOG2) - 1)
        if sender is not None:
            layout = sender.layout
            self._place(sender, layout.c2s[0], layout.c2s_buffers[0], TX_RING)
        if receiver is not None:
            layout = receiver.layout
            ring = self._place(receiver, layout.s2c[0], layout.s2c_buffers[0], RX_RING)
            store16_release(ring + RING_FLAGS, MASK_INT)  # it polls
            store16_release(ring + RING_HEAD, 1 << LOG2)  # all buffers are offered

    def _place(self, memory: ClientMemory, place: RingPlace, buffers: int, words: int) -> int:
        """Tell a ring in the three words from `words` on; answers its address."""
        ring = memory.address + place.offset
        self.set(STRIDE, memory.layout.stride)
        for i, value in enumerate((ring, memory.address + buffers, buffers)):
            self.set(words + 8 * i, value)
        return ring

    def set(self, word: int, value: int) -> None:
        """Set a word, named by its offset."""
        self.words[word // 8] = value

    def get(self, word: int) -> int:
        """A word, named by its offset."""
        return self.words[word // 8]


class PeerThread:
    """Runs a loop on a core of its own, from when the context is entered until it ends.

    Args:
        kernel: Ends when word 0 is not 0.
        words: Its words.
        core: The core.
    """

    def __init__(self, kernel: Callable[[int, int, int], int], words: Words, core: int) -> None:
        if isinstance(kernel, Kernel) and not compile_now([kernel]):
            raise RuntimeError("kernels are not compiled: llvmlite is missing, or EMUDEV_JIT=0")
        self._words = words
        self._kernel = kernel
        self._core = core
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        os.sched_setaffinity(0, {self._core})
        self._began.set()
        self._kernel(self._words.address, 0, 0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._began.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._words[0] = 1
        self._thread.join()

    @property
    def id(self) -> int:
        """Of the running thread, for the kernel."""
        assert self._thread.native_id is not None
        return self._thread.native_id
