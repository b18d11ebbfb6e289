"""Memory by the page, for files and rings: zeroed, and not there before it is used."""

from __future__ import annotations

import ctypes
import mmap

__all__ = ["Pages"]


class Pages:
    """Anonymous memory that goes when this object goes.

    Args:
        size: Bytes, at least 1.

    Attributes:
        size: As given.
        address: Where it lies; good as long as this object lives.
        bytes: Its bytes.
    """

    __slots__ = ("_start", "address", "bytes", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Both keep the map; nobody closes it while either is there.
        self._start = ctypes.c_char.from_buffer(memory)
        self.address: int = ctypes.addressof(self._start)
        self.bytes = memoryview(memory)
