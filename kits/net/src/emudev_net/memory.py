"""Guest memory for kernels: the memory table as words, and lookups that a hostile guest can't defeat.

A table in words is made from each `MemoryTable` that the transport publishes and replaced as a whole; the
owner swaps its address into the words of its queues and keeps the old one until no kernel can be inside.
Regions that only messages reach are left out: kernels don't see them.
"""

from __future__ import annotations

from typing import Final

from emudev_core.memory import MemoryTable

from .jit import inline
from .primitives import Words, load64, store64, unsigned_below

__all__ = ["READ", "WRITE", "KernelTable", "span", "translate"]

READ: Final = 1  #: the device may read
WRITE: Final = 2  #: the device may write

GENERATION: Final = 0
COUNT: Final = 1
LAST_HIT: Final = 2  #: the row that the last lookup found
ROWS: Final = 8  #: first word of the rows
# A row.
START: Final = 0  #: first guest address
LAST: Final = 1  #: last guest address: the end may be 2**64, which 64 bits can't say
HOST: Final = 2  #: address of the first byte in this process
ACCESS: Final = 3  #: READ and WRITE
ROW_WORDS: Final = 4


class KernelTable:
    """A memory table as kernels read it.

    Args:
        table: The snapshot; its mappings have to outlive the use of this.

    Attributes:
        address: For `translate` and `span`; good while this object lives.
        generation: Of the snapshot.
    """

    def __init__(self, table: MemoryTable) -> None:
        rows = [r for r in table.regions if r.host is not None]
        self.words = Words(ROWS + ROW_WORDS * max(len(rows), 1))
        self.address = self.words.address
        self.generation = table.generation
        self.words[GENERATION] = table.generation
        self.words[COUNT] = len(rows)
        for i, region in enumerate(rows):
            at = ROWS + i * ROW_WORDS
            self.words[at + START] = region.guest
            self.words[at + LAST] = region.end - 1
            self.words[at + HOST] = region.host or 0
            self.words[at + ACCESS] = READ * region.readable | WRITE * region.writable


@inline
def _find(table: int, guest: int) -> int:
    """Address of the row that holds a guest address, or 0."""
    count = load64(table + 8 * COUNT)
    if count == 0:
        return 0
    rows = table + 8 * ROWS
    hit = load64(table + 8 * LAST_HIT)
    if hit < count:
        row = rows + hit * 32
        if not unsigned_below(guest, load64(row)) and not unsigned_below(load64(row + 8), guest):
            return row
    low = 0
    high = count
    while low < high:  # the first row that starts behind the address
        middle = (low + high) >> 1
        if unsigned_below(guest, load64(rows + middle * 32)):
            high = middle
        else:
            low = middle + 1
    if low == 0:
        return 0
    row = rows + (low - 1) * 32
    if unsigned_below(load64(row + 8), guest):
        return 0
    store64(table + 8 * LAST_HIT, low - 1)
    return row


@inline
def span(table: int, guest: int, length: int, access: int) -> int:
    """How many bytes from a guest address lie in one region that allows the access.

    Args:
        table: `KernelTable.address`.
        guest: Guest address, all 64 bits.
        length: Bytes wanted, >= 0.
        access: `READ`, `WRITE` or both.

    Returns:
        0 to `length`.
    """
    row = _find(table, guest)
    if row == 0 or load64(row + 24) & access != access:
        return 0
    left = load64(row + 8) - guest  # as unsigned numbers; the last byte is not counted
    if unsigned_below(left, length):
        return left + 1
    return length


@inline
def translate(table: int, guest: int, length: int, access: int) -> int:
    """Address in this process of a range of guest memory.

    Args:
        table: `KernelTable.address`.
        guest: Guest address, all 64 bits.
        length: Bytes, >= 1.
        access: `READ`, `WRITE` or both.

    Returns:
        The address, or 0 if not all of the range lies in one region that allows the access.
    """
    row = _find(table, guest)
    if row == 0 or load64(row + 24) & access != access:
        return 0
    if unsigned_below(load64(row + 8) - guest, length - 1):
        return 0
    return load64(row + 16) + (guest - load64(row))
