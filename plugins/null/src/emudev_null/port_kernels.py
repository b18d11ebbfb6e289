"""Kernels of ``net_null``: packets without end from a table of rows, and a place where they go.

A receive queue has a table of rows that `peek` copies, all at once: each is a whole packet of the
same size. They show the same zeroes; with ``copy`` each has memory of its own, and `peek` copies
the packet there first. `push` looks at lengths only, or with ``copy`` copies what it drops.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import ADDRESS, FLAGS, LAST, LENGTH, ROW
from emudev_net.jit import queue_kernel
from emudev_net.primitives import copy, load64, store64

__all__ = ["KERNELS", "peek", "push", "release"]

# Words of a queue.
TABLE: Final = 0  #: address of the rows that `peek` shows
ROWS: Final = 1  #: how many; 0 for a queue that receives nothing
PACKET: Final = 2  #: address of the bytes of a packet
SIZE: Final = 3  #: its bytes
COPY: Final = 4  #: 1: copy each packet
PACKETS: Final = 5  #: counted
BYTES: Final = 6
WORDS: Final = 8


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show as many packets as there is room for."""
    rows = min(capacity, load64(state + 8 * ROWS))
    table = load64(state + 8 * TABLE)
    if load64(state + 8 * COPY):
        size = load64(state + 8 * SIZE)
        packet = load64(state + 8 * PACKET)
        for i in range(rows):
            copy(load64(table + i * ROW + ADDRESS), packet, size)
    copy(burst, table, rows * ROW)
    return rows


@queue_kernel
def release(state: int, _burst: int, rows: int) -> int:
    """Count them."""
    store64(state + 8 * PACKETS, load64(state + 8 * PACKETS) + rows)
    store64(state + 8 * BYTES, load64(state + 8 * BYTES) + rows * load64(state + 8 * SIZE))
    return 0


@queue_kernel
def push(state: int, burst: int, rows: int) -> int:
    """Take everything, and drop it."""
    packets = 0
    total = 0
    row = burst
    for _ in range(rows):
        total += load64(row + LENGTH)
        if load64(row + FLAGS) & LAST:
            packets += 1
        row += ROW
    if load64(state + 8 * COPY):
        packet = load64(state + 8 * PACKET)
        size = load64(state + 8 * SIZE)
        for i in range(rows):
            row = burst + i * ROW
            copy(packet, load64(row + ADDRESS), min(load64(row + LENGTH), size))
    store64(state + 8 * PACKETS, load64(state + 8 * PACKETS) + packets)
    store64(state + 8 * BYTES, load64(state + 8 * BYTES) + total)
    return rows


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (peek, push, release)
