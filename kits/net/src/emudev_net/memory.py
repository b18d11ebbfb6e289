"""Guest memory for kernels: the memory table as words, and the only way to it by guest address.

Guest addresses are 64 bits; in kernels they are signed numbers (2**63 and up are negative), as
`load64` gives them. Whatever the guest says, an address that comes out of `translate` lies, with
all of the length asked for, in one mapping that allows the access. Regions that are reached by
message only allow none.

The words: number of rows, generation, the row that was hit last; from byte 64 on the rows, sorted,
32 bytes each: first and last guest address (top bit flipped, so that signed numbers sort as
unsigned ones), address in this process, access bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

from emudev_core.memory import MemoryRegion, MemoryTable

from .jit import inline
from .primitives import Words, load64, load64_relaxed, store64_relaxed

__all__ = ["READ", "WRITE", "KernelTable", "signed", "span", "translate"]

READ: Final = 0  #: the device reads
WRITE: Final = 1  #: the device writes

_COUNT: Final = 0
_HIT: Final = 16
_ROWS: Final = 64
_ROW: Final = 32
_FIRST: Final = 0
_LAST: Final = 8
_HOST: Final = 16
_ACCESS: Final = 24  # bit READ, bit WRITE
_SIGN: Final = -(1 << 63)


@inline
def _search(memory: int, key: int) -> int:
    """The address of the row that holds `key`, or 0; remembers it."""
    low = 0
    high = load64(memory + _COUNT)
    while low < high:
        middle = (low + high) >> 1
        row = memory + _ROWS + middle * _ROW
        if key < load64(row + _FIRST):
            high = middle
        elif key > load64(row + _LAST):
            low = middle + 1
        else:
            store64_relaxed(memory + _HIT, middle)
            return row
    return 0


@inline
def _find(memory: int, key: int) -> int:
    """The address of the row that holds `key`, the last hit tried first, or 0."""
    row = memory + _ROWS + load64_relaxed(memory + _HIT) * _ROW
    if load64(row + _FIRST) <= key and key <= load64(row + _LAST):
        return row
    return _search(memory, key)


@inline
def translate(memory: int, guest: int, size: int, access: int) -> int:
    """The address in this process of guest memory, or 0 if that can't be had.

    Args:
        memory: `KernelTable.address`.
        guest: Guest address, a signed 64-bit number; any value.
        size: Bytes, any value; below 1 gives 0.
        access: `READ` or `WRITE`.

    Returns:
        An address, good for `size` bytes, until the table is replaced; 0 if no region holds all of
        them or it doesn't allow the access.
    """
    if size < 1:
        return 0
    key = guest ^ _SIGN
    row = _find(memory, key)
    if row == 0 or load64(row + _ACCESS) >> access & 1 == 0:
        return 0
    if size - 1 > load64(row + _LAST) - key:
        return 0
    return load64(row + _HOST) + (key - load64(row + _FIRST))


@inline
def span(memory: int, guest: int, size: int, access: int) -> int:
    """How many of `size` bytes from `guest` on lie in its region; 0 if none can be accessed.

    To walk a range over adjacent regions: take ``part = span(...)``, use
    ``translate(memory, guest, part, access)``, go on at ``guest + part``. Arguments as for
    `translate`.
    """
    if size < 1:
        return 0
    key = guest ^ _SIGN
    row = _find(memory, key)
    if row == 0 or load64(row + _ACCESS) >> access & 1 == 0:
        return 0
    return min(size, load64(row + _LAST) - key + 1)


def signed(address: int) -> int:
    """A guest address of 0 to 2**64 - 1 as kernels have it."""
    return address - (1 << 64) if address >> 63 else address


class KernelTable:
    """A memory table in the form that kernels use; immutable but for the last hit.

    A guest with an IOMMU maps and unmaps pages by the thousand: a table that came from another by
    one change takes over that one's rows, at the price of a copy.

    Args:
        table: What the transport published; its mappings must outlive the use of this.
        former: The kernels' form of any table before; it stays as it is.

    Attributes:
        address: What `translate` and `span` take; good as long as this object lives.
        generation: The table's.
    """

    __slots__ = ("_token", "_words", "address", "generation")

    def __init__(self, table: MemoryTable, former: KernelTable | None = None) -> None:
        regions = table.regions
        # The last hit of an empty table is a row of impossible bounds: the address 2**63 would lie
        # within zeroes.
        self._words = Words(8 + 4 * max(1, len(regions)))
        self._token = table.token
        self.address = self._words.address
        self.generation = table.generation
        words = self._words
        words[8], words[9] = 1, 0
        step = table.step
        rows = self.address + _ROWS
        if former is not None and step is not None and former._token is step[0]:
            _, first, gone, come = step
            there = former.address + _ROWS
            ctypes.memmove(rows, there, _ROW * first)
            self._fill(regions, first, first + come)
            rest = len(regions) - first - come
            if rest:
                ctypes.memmove(
                    rows + _ROW * (first + come), there + _ROW * (first + gone), _ROW * rest
                )
        else:
            self._fill(regions, 0, len(regions))
        words[0] = len(regions)
        words[1] = table.generation

    def _fill(self, regions: Sequence[MemoryRegion], first: int, end: int) -> None:
        words = self._words
        for i in range(first, end):
            region = regions[i]
            at = 8 + 4 * i
            words[at] = region.guest - (1 << 63)
            words[at + 1] = region.guest + region.size - 1 - (1 << 63)
            if region.host is None:
                words[at + 2] = words[at + 3] = 0
            else:
                words[at + 2] = region.host
                words[at + 3] = int(region.readable) << READ | int(region.writable) << WRITE
