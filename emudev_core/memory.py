"""Guest memory: mappings, and the immutable table of them that a transport publishes.

The transport owns the mappings. It publishes a `MemoryTable`, which provider and backends pass on
and never change; a new one with the next generation number replaces it when a mapping comes or
goes. An address taken from a table is good until the unmapping that follows has been answered
(`emudev_dma_unmap`), no longer.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap as _mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Protocol, Self

import attrs

from .errors import MemoryAccessError

__all__ = ["DmaChannel", "DmaTicket", "Mapping", "MemoryRegion", "MemoryTable", "EMPTY_TABLE"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_longlong,
)
_libc.munmap.restype = ctypes.c_int
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


class Mapping:
    """A range of a file, mapped shared into this process.

    Made with mmap(2) itself: Python's `mmap` duplicates the descriptor and can't be closed while
    anything views it. The caller keeps the descriptor and may close it at once.

    Args:
        fd: A descriptor that can be mapped.
        offset: Start in the file, bytes; need not be page aligned.
        size: Bytes, at least 1.
        readable: Map for reading.
        writable: Map for writing.

    Attributes:
        address: Where byte `offset` of the file lies in this process.
        size: Bytes.

    Raises:
        OSError: The kernel refused, or (ENXIO) the range ends behind the end of the file, where an
            access would be a SIGBUS.
    """

    def __init__(
        self, fd: int, offset: int, size: int, *, readable: bool = True, writable: bool = True
    ) -> None:
        end = os.fstat(fd).st_size
        if offset + size > end:
            raise OSError(6, f"{offset:#x}+{size:#x} ends behind the file's end at {end:#x}")
        delta = offset % _mmap.PAGESIZE
        protection = (_mmap.PROT_READ if readable else 0) | (_mmap.PROT_WRITE if writable else 0)
        base = _libc.mmap(None, size + delta, protection, _mmap.MAP_SHARED, fd, offset - delta)
        if base == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._base: int | None = base
        self._length = size + delta
        self.address: int = base + delta
        self.size = size

    def close(self) -> None:
        """Unmap; the address is invalid afterwards. A second call does nothing."""
        base, self._base = self._base, None
        if base is not None:
            _libc.munmap(base, self._length)


class DmaTicket(Protocol):
    """An access by message that is on its way."""

    def cancel(self) -> bool:
        """Take it back as far as nothing has been sent.

        Returns:
            True if nothing has been: it will not happen, and nobody is told. False if it (or a part
            of it) is with the client already, or over: its callback comes, or came.
        """


class DmaChannel(Protocol):
    """How a transport reaches guest memory that it can't map: by messages to the client.

    On the loop's thread. Inside a handler that the client waits for, `read` raises
    `MemoryAccessError` and `write` is queued until the reply is out; see design, "A register
    access". `fetch` and `store` never wait and may be called anywhere; requests go out in the order
    in which they were made, and several may be on their way.
    """

    def read(self, address: int, size: int) -> bytes:
        """Fetch `size` bytes at guest address `address`; further commands are served meanwhile."""

    def write(self, address: int, data: bytes) -> None:
        """Store `data` at guest address `address`, in order with other writes."""

    def fetch(self, address: int, size: int, done: Callable[[bytes | None], None]) -> DmaTicket:
        """Ask for `size` bytes, at least 1; `done` gets them, or None if they can't be had.

        `done` is called exactly once, also when the client leaves; at once if it has gone.
        """

    def store(
        self, address: int, data: bytes, done: Callable[[bool], None], *, ordered: bool = False
    ) -> DmaTicket:
        """Store `data`, not empty; `done` is told when the client has, or (False) could not.

        Args:
            address: Guest address.
            data: What to store.
            done: Called exactly once, as for `fetch`.
            ordered: Begin when everything that was asked for before has been answered.
        """


@attrs.frozen
class MemoryRegion:
    """One range of guest addresses.

    Attributes:
        guest: First guest (IO virtual) address.
        size: Bytes, at least 1; `guest + size` may be 2**64 and no more.
        host: Address of the first byte in this process, or None where only messages reach it.
        readable: The device may read it.
        writable: The device may write it.
        channel: Reaches the region by message; set where `host` is None.
    """

    guest: int
    size: int
    host: int | None
    readable: bool = True
    writable: bool = True
    channel: DmaChannel | None = attrs.field(default=None, repr=False, eq=False)

    @property
    def end(self) -> int:
        """The guest address behind the last byte."""
        return self.guest + self.size


def _overlap(a: MemoryRegion, b: MemoryRegion) -> str:
    return f"{a.guest:#x}+{a.size:#x} and {b.guest:#x}+{b.size:#x} overlap"


class MemoryTable:
    """An immutable snapshot of guest memory, sorted by guest address, without overlaps.

    Args:
        regions: In any order.
        generation: Grows by one with each table that the same transport publishes.

    Attributes:
        regions: All of them, by guest address.
        generation: As given.
        by_message: How many of them only messages reach.
        token: Stands for this table, and no other.
        step: How it came from another table by one change, for whoever keeps a form of its own of
            each: the other's token, the number of the first region that differs, how many of the
            other's are gone from there on, and how many have come. None: nobody knows.

    Raises:
        ValueError: Two regions overlap; the message names both.
    """

    __slots__ = ("_starts", "by_message", "generation", "regions", "step", "token")

    def __init__(self, regions: Iterable[MemoryRegion] = (), generation: int = 0) -> None:
        self.regions = tuple(sorted(regions, key=lambda r: r.guest))
        self.generation = generation
        self.by_message = sum(r.host is None for r in self.regions)
        self.token = object()
        self.step: tuple[object, int, int, int] | None = None
        self._starts = [r.guest for r in self.regions]
        for a, b in itertools.pairwise(self.regions):
            if a.end > b.guest:
                raise ValueError(_overlap(a, b))

    def plus(self, region: MemoryRegion) -> Self:
        """The next table, with one region more; costs a copy, while making one anew sorts.

        Raises:
            ValueError: It overlaps another; the message names both.
        """
        other = self.overlap(region.guest, region.size)
        if other is not None:
            raise ValueError(_overlap(*sorted((other, region), key=lambda r: r.guest)))
        at = bisect_left(self._starts, region.guest)
        return self._next(
            (*self.regions[:at], region, *self.regions[at:]),
            [*self._starts[:at], region.guest, *self._starts[at:]],
            self.by_message + (region.host is None),
            (self.token, at, 0, 1),
        )

    def minus(self, regions: Iterable[MemoryRegion]) -> Self:
        """The next table, without these regions; those that are not there are ignored."""
        gone = {region.guest for region in regions}
        if len(gone) == 1:  # an IOMMU unmaps page by page, of thousands
            at = bisect_left(self._starts, *gone)
            if self._starts[at : at + 1] == [*gone]:
                by_message = self.by_message - (self.regions[at].host is None)
                return self._next(
                    self.regions[:at] + self.regions[at + 1 :],
                    self._starts[:at] + self._starts[at + 1 :],
                    by_message,
                    (self.token, at, 1, 0),
                )
        rest = tuple(r for r in self.regions if r.guest not in gone)
        return self._next(rest, [r.guest for r in rest], sum(r.host is None for r in rest))

    def _next(
        self,
        regions: tuple[MemoryRegion, ...],
        starts: list[int],
        by_message: int,
        step: tuple[object, int, int, int] | None = None,
    ) -> Self:
        made = type(self).__new__(type(self))
        made.regions, made.generation, made._starts = regions, self.generation + 1, starts
        made.by_message, made.token, made.step = by_message, object(), step
        return made

    def overlap(self, address: int, size: int) -> MemoryRegion | None:
        """A region that holds any byte of `address`..`address + size`, or None."""
        at = max(0, bisect_right(self._starts, address) - 1)
        for region in self.regions[at : at + 2]:
            if region.guest < address + size and address < region.end:
                return region
        return None

    def find(self, address: int, size: int = 1) -> MemoryRegion | None:
        """The region that holds all of `address`..`address + size`, or None."""
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        region = self.regions[i]
        return region if address + size <= region.end else None

    def read(self, address: int, size: int) -> bytes:
        """Copy `size` bytes out of guest memory; may span adjacent regions.

        Raises:
            MemoryAccessError: Not mapped, not readable, or not reachable inside this handler.
        """
        parts = []
        while size > 0:
            region = self._region(address, size)
            if not region.readable:
                raise MemoryAccessError(address, size, "not readable by the device")
            part = min(size, region.end - address)
            if region.host is None:
                assert region.channel is not None
                parts.append(region.channel.read(address, part))
            else:
                parts.append(ctypes.string_at(region.host + address - region.guest, part))
            address += part
            size -= part
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Copy bytes into guest memory; may span adjacent regions.

        Nothing is written unless all of the range is mapped and writable.

        Raises:
            MemoryAccessError: Not mapped or read-only.
        """
        raw = bytes(data)
        plan = []
        done = 0
        while done < len(raw):
            region = self._region(address + done, len(raw) - done)
            if not region.writable:
                raise MemoryAccessError(address, len(raw), "read-only for the device")
            part = min(len(raw) - done, region.end - address - done)
            plan.append((region, done, part))
            done += part
        for region, start, part in plan:
            piece = raw[start : start + part]
            if region.host is None:
                assert region.channel is not None
                region.channel.write(address + start, piece)
            else:
                ctypes.memmove(region.host + address + start - region.guest, piece, part)

    def _region(self, address: int, size: int) -> MemoryRegion:
        region = self.find(address)
        if region is None:
            raise MemoryAccessError(address, size, "not mapped")
        if region.host is None and region.channel is None:
            raise MemoryAccessError(address, size, "mapped without a descriptor or a channel")
        return region

    def read_u32(self, address: int) -> int:
        """The little-endian 32-bit number at a guest address."""
        return int.from_bytes(self.read(address, 4), "little")

    def write_u32(self, address: int, value: int) -> None:
        """Store a little-endian 32-bit number at a guest address."""
        self.write(address, (value & 0xFFFF_FFFF).to_bytes(4, "little"))

    def read_u64(self, address: int) -> int:
        """The little-endian 64-bit number at a guest address."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        """Store a little-endian 64-bit number at a guest address."""
        self.write(address, (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))


#: The table of a device that no client has given memory to.
EMPTY_TABLE = MemoryTable()
