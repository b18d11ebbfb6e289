"""Packet functions: what a flow does to its packets on their way; compiled, by anybody.

A packet function is a queue kernel ``(state, burst, rows) -> rows made`` between the two ends of a
`flow.Flow`: it reads the packets that the source shows, `rows` rows of whole packets at `burst`,
and makes an output burst of those that are to go on. Each packet becomes one packet or none, in
order; one that is not emitted is dropped, and the flow counts it. The memory that the source shows
belongs to the peer and is never changed in place: a function changes a copy of the first up to
`HEAD` bytes, and the rest of the packet follows by reference, so that payload is copied by the
sink only. A module of one's own that swaps the addresses of each frame:

    from emudev_net.burst import packet_rows
    from emudev_net.jit import queue_kernel
    from emudev_net.packet_function import PacketFunction, copy_head, emit, head_size
    from emudev_net.primitives import copy, load16, load32, store16, store32

    @queue_kernel
    def swap(state: int, burst: int, rows: int) -> int:
        row = out = 0
        while row < rows:
            end = row + packet_rows(burst, row, rows)
            size = head_size(burst, row, end)
            if size >= 14:  # a shorter one is dropped
                head = copy_head(state, burst, row, end, size)
                low, high = load32(head), load16(head + 4)
                copy(head, head + 6, 6)
                store32(head + 6, low)
                store16(head + 10, high)
                out = emit(state, burst, row, end, out, head, size, size)
            row = end
        return out

    compile_now([swap, *flow.KERNELS])
    flow = Flow(loop, source, sink, edit=PacketFunction(swap))

**Words.** `state` is the address of the function's words: byte offsets `OUT` (address of the rows
that it makes), `OUT_CAPACITY` (how many there may be), `SCRATCH` and `SCRATCH_SIZE` (address and
bytes of the memory for header copies), which the flow fills in; from `OWN_WORDS` on they are the
function's own: counters, addresses, settings. The helpers below know that header; a function that
makes its rows by hand keeps their contract:

- a row as `burst` says, whole packets, at most `OUT_CAPACITY` rows;
- the word `burst.OWN` of a packet's first row is the number of source rows up to and including the
  packet that it was made of: the flow releases by it what the sink has taken.

There is room for all rows of the source and one more for each packet: helpers do not run out of it.

**Again.** What a sink has no room for is shown by the source again, and the function sees it again:
a function's own counters may count a packet twice, the flow's don't. A negative result says that
the function has failed: the flow stops, see `flow.Flow`.

**Metadata** (requests for checksums, segmentation and tags, the hash, the time) goes with a packet
as it is; change it in the row that was made (`out_row`). Who makes a header longer or shorter moves
the offsets in its offload word, too.

For work where speed does not matter `python_function` makes one of a Python function over bytes.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterable
from typing import Final

from emudev_core.queues import QueueKernel

from .burst import (
    ADDRESS,
    FIRST,
    FLAGS,
    HASH,
    LAST,
    LENGTH,
    OFFLOAD,
    OWN,
    ROW,
    TIME,
    VLAN,
    Burst,
    packet_rows,
)
from .checksum import gather
from .jit import inline
from .primitives import Words, copy, load64, store64

__all__ = [
    "HEAD",
    "HEADROOM",
    "OUT",
    "OUT_CAPACITY",
    "OWN_WORDS",
    "SCRATCH",
    "SCRATCH_SIZE",
    "SLOT",
    "PacketFunction",
    "copy_head",
    "emit",
    "head_size",
    "out_row",
    "pass_on",
    "python_function",
]

log = logging.getLogger(__name__)

# The words of a packet function, byte offsets from its state address.
OUT: Final = 0  #: address of the rows that it makes
OUT_CAPACITY: Final = 8  #: how many rows there may be
SCRATCH: Final = 16  #: address of memory for header copies: a `SLOT` for each row of the source
SCRATCH_SIZE: Final = 24  #: its bytes
OWN_WORDS: Final = 64  #: where the function's own words begin

HEAD: Final = 128  #: bytes of a packet that `copy_head` copies at most
HEADROOM: Final = 64  #: bytes in front of such a copy that a longer header may grow into
SLOT: Final = HEADROOM + HEAD  #: bytes of scratch memory for each row of the source


@inline
def head_size(burst: int, row: int, end: int) -> int:
    """How many bytes `copy_head` copies of a packet: all, but at most `HEAD`.

    Args:
        burst: Address of the source's burst.
        row: The packet's first row.
        end: The row behind it: ``row + packet_rows(burst, row, rows)``.
    """
    size = 0
    while row < end and size < HEAD:
        size += load64(burst + row * ROW + LENGTH)
        row += 1
    return min(size, HEAD)


@inline
def copy_head(state: int, burst: int, row: int, end: int, size: int) -> int:
    """Copy the first bytes of a packet to where they may be changed.

    Args:
        state: The function's words.
        burst: Address of the source's burst.
        row: The packet's first row.
        end: The row behind it.
        size: What `head_size` said.

    Returns:
        Address of the copy, a multiple of 64, good until the function is called again; there are
        `HEADROOM` bytes in front of it.
    """
    head = load64(state + SCRATCH) + row * SLOT + HEADROOM
    if load64(burst + row * ROW + LENGTH) < size:
        gather(burst, row, end - row, 0, head, size)
        return head
    address = load64(burst + row * ROW + ADDRESS)
    # Copies of a known length are a few vector moves, the others a call: two that overlap do.
    if size == HEAD:
        copy(head, address, 128)
    elif size >= 64:
        copy(head, address, 64)
        copy(head + size - 64, address + size - 64, 64)
    else:
        copy(head, address, size)
    return head


@inline
def out_row(state: int, out: int) -> int:
    """The address of row number `out` of those that are made."""
    return load64(state + OUT) + out * ROW


@inline
def emit(
    state: int, burst: int, row: int, end: int, out: int, head: int, size: int, skip: int
) -> int:
    """Let a packet go on with another beginning, its metadata as it is.

    Args:
        state: The function's words.
        burst: Address of the source's burst.
        row: The packet's first row.
        end: The row behind it.
        out: Rows made so far.
        head: Address of its new first bytes, such as of `copy_head`.
        size: How many they are, at least 1.
        skip: Bytes of the packet that they replace, 0 or more; what follows goes on by reference.

    Returns:
        Rows made now; `out` if there was no room, which drops the packet.
    """
    if out + end - row >= load64(state + OUT_CAPACITY):
        return out
    first = burst + row * ROW
    made = load64(state + OUT) + out * ROW
    if end - row == 1 and load64(first + LENGTH) <= skip:  # most packets: all of it is replaced
        copy(made, first, ROW)
        store64(made + ADDRESS, head)
        store64(made + LENGTH, size)
        store64(made + FLAGS, load64(first + FLAGS) | FIRST | LAST)
        store64(made + OWN, end)
        return out + 1
    store64(made + ADDRESS, head)
    store64(made + LENGTH, size)
    store64(made + OFFLOAD, load64(first + OFFLOAD))
    store64(made + VLAN, load64(first + VLAN))
    store64(made + HASH, load64(first + HASH))
    store64(made + OWN, end)
    store64(made + TIME, load64(first + TIME))
    flags = (load64(first + FLAGS) | FIRST) & ~LAST
    at = made
    while row < end:
        length = load64(burst + row * ROW + LENGTH)
        if length > skip:
            store64(at + FLAGS, flags)
            at += ROW
            store64(at + ADDRESS, load64(burst + row * ROW + ADDRESS) + skip)
            store64(at + LENGTH, length - skip)
            flags = 0
            skip = 0
        else:
            skip -= length
        row += 1
    store64(at + FLAGS, flags | LAST)
    return out + 1 + (at - made) // ROW


@inline
def pass_on(state: int, burst: int, row: int, end: int, out: int) -> int:
    """Let a packet go on as it is; nothing of it is copied.

    Args:
        state: The function's words.
        burst: Address of the source's burst.
        row: The packet's first row.
        end: The row behind it.
        out: Rows made so far.

    Returns:
        Rows made now; `out` if there was no room, which drops the packet.
    """
    if out + end - row > load64(state + OUT_CAPACITY):
        return out
    made = load64(state + OUT) + out * ROW
    copy(made, burst + row * ROW, (end - row) * ROW)
    store64(made + OWN, end)
    return out + end - row


class PacketFunction:
    """A packet function and its words, for one flow. Made and read on the loop's thread.

    Args:
        kernel: ``(state, burst, rows) -> rows made``; see the module.
        own: Its own words: their values at first, or how many zeroes.

    Attributes:
        kernel: As given.
        words: All of its words; its own begin at index ``OWN_WORDS // 8``.
    """

    def __init__(self, kernel: QueueKernel, own: Iterable[int] | int = 0) -> None:
        values = [0] * own if isinstance(own, int) else list(own)
        self.kernel = kernel
        self.words = Words(OWN_WORDS // 8 + len(values))
        for i, value in enumerate(values):
            self[i] = value
        self._out: Burst | None = None
        self._scratch: Words | None = None

    def __getitem__(self, index: int) -> int:
        """One of its own words."""
        return self.words[OWN_WORDS // 8 + index]

    def __setitem__(self, index: int, value: int) -> None:
        """Store into one of its own words; whoever runs the flow sees it at the next burst."""
        self.words[OWN_WORDS // 8 + index] = value

    def attach(self, rows: int) -> None:
        """Make memory for bursts of `rows` rows; the flow that runs it does this.

        Raises:
            ValueError: It belongs to a flow already.
        """
        if self._out is not None:
            raise ValueError("a packet function belongs to one flow; make one for each")
        self._out = Burst(2 * rows)
        self._scratch = Words(rows * SLOT // 8)
        self.words[OUT // 8] = self._out.address
        self.words[OUT_CAPACITY // 8] = self._out.rows
        self.words[SCRATCH // 8] = self._scratch.address
        self.words[SCRATCH_SIZE // 8] = rows * SLOT


_NATIVE: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class _PythonKernel:
    """A kernel that gathers each packet and asks a Python function for another one."""

    def __init__(self, function: Callable[[bytes], bytes | None]) -> None:
        self._function = function
        self._kept: list[ctypes.Array[ctypes.c_char]] = []
        self._native = _NATIVE(self)
        self.address = ctypes.cast(self._native, ctypes.c_void_p).value or 0

    def __call__(self, state: int, burst: int, rows: int, /) -> int:
        try:
            return self._run(state, burst, rows)
        except Exception:
            log.exception("a packet function failed")
            return -1

    def _run(self, state: int, burst: int, rows: int) -> int:
        self._kept.clear()  # the burst made before is done with
        row = out = 0
        while row < rows:
            end = row + packet_rows(burst, row, rows)
            places = [burst + i * ROW for i in range(row, end)]
            data = b"".join(
                ctypes.string_at(load64(at + ADDRESS), load64(at + LENGTH)) for at in places
            )
            made = self._function(data)
            if made:
                memory = ctypes.create_string_buffer(made, len(made))
                self._kept.append(memory)
                at = ctypes.addressof(memory)
                out = emit(state, burst, row, end, out, at, len(made), len(data))
            row = end
        return out


def python_function(function: Callable[[bytes], bytes | None]) -> PacketFunction:
    """A packet function of a Python function, for tests and for work without hurry.

    Each packet costs microseconds. The flow may be compiled and run by a worker nevertheless: the
    function is called on that thread, with the interpreter's lock, so it must be safe there.

    Args:
        function: Told the bytes of a frame; answers those that go on, or None (or nothing) to drop
            it. Metadata goes with the packet as it is. An exception is logged, and stops the flow.
    """
    return PacketFunction(_PythonKernel(function))
