"""Where a client puts rings and buffers, and the shared memory that it makes of that.

One region holds all of it: the C2S rings, the S2C rings, then a buffer for each descriptor, in the
order of the rings. Source: memif.md sections 3.1 to 3.3, 5 and 7.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Final

import attrs

from .words import COOKIE, DESCRIPTOR, MAX_LOG2, MIN_LOG2, RING_HEADER

__all__ = ["Layout", "RingMemory", "RingPlace", "create", "layout"]

#: Least distance of two buffers. Servers of DPDK 23.03 and later may write as much into a buffer,
#: whatever was offered (memif.md section 7).
MIN_STRIDE: Final = 2048
_LINE: Final = 64
_PAGE: Final = 4096


@attrs.frozen
class RingPlace:
    """Where a ring lies; what ADD_RING says of it.

    Attributes:
        region: Index of the region.
        offset: Bytes from the region's start, a multiple of 16.
        log2_size: Logarithm of the number of descriptors, 1 to 14.
    """

    region: int
    offset: int
    log2_size: int

    @property
    def slots(self) -> int:
        """Descriptors."""
        return 1 << self.log2_size

    @property
    def bytes(self) -> int:
        """Bytes of the ring: header and descriptors."""
        return RING_HEADER + (DESCRIPTOR << self.log2_size)


@attrs.frozen
class Layout:
    """A client's only region.

    Attributes:
        c2s: The rings towards the server, by index.
        s2c: The rings from the server, by index.
        buffer_size: Bytes of a buffer, as its descriptor says.
        stride: Bytes from buffer to buffer.
        c2s_buffers: Offset of the first buffer of each C2S ring; that of slot i is i strides on.
        s2c_buffers: The same for the S2C rings.
        size: Bytes of the region, whole pages.
    """

    c2s: tuple[RingPlace, ...]
    s2c: tuple[RingPlace, ...]
    buffer_size: int
    stride: int
    c2s_buffers: tuple[int, ...]
    s2c_buffers: tuple[int, ...]
    size: int


def layout(c2s: int, s2c: int, log2_size: int = 10, buffer_size: int = 2048) -> Layout:
    """Lay out a client's region.

    Args:
        c2s: Number of rings towards the server.
        s2c: Number of rings from the server.
        log2_size: Logarithm of the number of descriptors of each ring, 1 to 14.
        buffer_size: Bytes of a packet buffer, 64 to 65535.

    Raises:
        ValueError: Out of range, or beyond what a 32-bit offset reaches.
    """
    if not MIN_LOG2 <= log2_size <= MAX_LOG2:
        raise ValueError(f"log2 of a ring's size is {MIN_LOG2} to {MAX_LOG2}, not {log2_size}")
    if not 64 <= buffer_size <= 65535:
        raise ValueError(f"a buffer has 64 to 65535 bytes, not {buffer_size}")
    if not (1 <= c2s <= 256 and 1 <= s2c <= 256):
        raise ValueError(f"there are 1 to 256 rings each way, not {c2s} and {s2c}")
    stride = max(MIN_STRIDE, buffer_size + _LINE - 1 & -_LINE)
    ring = RING_HEADER + (DESCRIPTOR << log2_size)
    places = [RingPlace(0, i * ring, log2_size) for i in range(c2s + s2c)]
    start = len(places) * ring + _LINE - 1 & -_LINE
    buffers = [start + (i * stride << log2_size) for i in range(len(places))]
    size = start + (len(places) * stride << log2_size) + _PAGE - 1 & -_PAGE
    if size > 1 << 32:
        raise ValueError(
            f"{len(places)} rings of {1 << log2_size} buffers of {stride} bytes make {size} bytes; "
            "offsets of memif reach 4 GiB"
        )
    return Layout(
        c2s=tuple(places[:c2s]),
        s2c=tuple(places[c2s:]),
        buffer_size=buffer_size,
        stride=stride,
        c2s_buffers=tuple(buffers[:c2s]),
        s2c_buffers=tuple(buffers[c2s:]),
        size=size,
    )


class RingMemory:
    """The shared memory of a client, made by `create`. It owns descriptor and mapping.

    Attributes:
        fd: The memory file, for ADD_REGION; stays this object's.
        address: Where it is mapped in this process.
        size: Bytes.
        layout: What is where.
    """

    __slots__ = ("_map", "address", "fd", "layout", "size")

    def __init__(self, fd: int, memory: mmap.mmap, layout: Layout) -> None:
        self.fd = fd
        self._map = memory
        view = ctypes.c_char.from_buffer(memory)
        self.address = ctypes.addressof(view)
        del view  # an exported buffer would keep the mapping from being closed
        self.size = layout.size
        self.layout = layout

    @property
    def regions(self) -> Sequence[tuple[int, int]]:
        """Address and size of each region, as `RingSet.attach` takes them."""
        return ((self.address, self.size),)

    def close(self) -> None:
        """Unmap and close; no kernel may use it any more. Twice is once."""
        if self.fd >= 0:
            self._map.close()
            os.close(self.fd)
            self.fd = -1


def create(layout: Layout) -> RingMemory:
    """Make a client's shared memory: sealed against shrinking, rings written, nothing offered yet.

    Raises:
        OSError: The system has no memory for it.
    """
    fd = os.memfd_create("emudev-memif", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, layout.size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        memory = mmap.mmap(fd, layout.size, mmap.MAP_SHARED)
    except OSError:
        os.close(fd)
        raise
    rings = zip((*layout.c2s, *layout.s2c), (*layout.c2s_buffers, *layout.s2c_buffers), strict=True)
    for place, buffers in rings:
        struct.pack_into("<I", memory, place.offset, COOKIE)
        at = place.offset + RING_HEADER
        for i in range(place.slots):
            # Flags, region, length, offset, metadata.
            offset = buffers + i * layout.stride
            struct.pack_into("<HHIII", memory, at, 0, 0, layout.buffer_size, offset, 0)
            at += DESCRIPTOR
    return RingMemory(fd, memory, layout)
