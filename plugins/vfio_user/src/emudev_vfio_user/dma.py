"""The table of guest memory that a client has mapped.

Pure bookkeeping and mmap; who is told, and in which order, is the session's. An entry with a
descriptor is mapped into this process and the descriptor closed at once; one without is reached
through the session's `DmaChannel`.

A client may truncate its file while it is mapped: a guard of the net kit puts zeroes in the place
of pages that are gone, and the device is told (`on_fault`).

Source: vfio-user specification, "VFIO_USER_DMA_MAP" and "VFIO_USER_DMA_UNMAP".
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from emudev_core.errors import PeerError
from emudev_core.loop import Loop
from emudev_core.memory import DmaChannel, Mapping, MemoryRegion, MemoryTable
from emudev_net.sigbus import Guard, guard

from .messages import DmaMap, DmaMapFlags, DmaUnmap, DmaUnmapFlags
from .protocol import close_fds

__all__ = ["DmaEntry", "DmaTable", "MAX_MAPS", "MAX_SIZE"]

MAX_MAPS: Final = 65535  #: mappings at a time
MAX_SIZE: Final = 8 << 40  #: of one mapping, bytes
_END: Final = 1 << 64
_KNOWN: Final = 0xF


@attrs.frozen(eq=False)
class DmaEntry:
    """One mapping.

    Attributes:
        region: What the memory table shows of it.
        mapping: The memory in this process, or None for message DMA.
        identity: Tells whether a second request asks for the same again.
        guard: Watches over the mapping, if there is one.
    """

    region: MemoryRegion
    mapping: Mapping | None
    identity: tuple[int, ...]
    guard: Guard | None = None

    def close(self) -> None:
        """Unmap it; nobody may use its addresses any more."""
        if self.guard is not None:
            self.guard.close()
        if self.mapping is not None:
            self.mapping.close()


class DmaTable:
    """Mappings by guest address.

    Args:
        channel: Reaches memory that came without a descriptor.
        generation: Of the first snapshot.
        loop: Whose thread is told of faults.
        on_fault: Called when memory was touched that its file no longer has.

    Attributes:
        table: The present snapshot; a new one with the next generation after each change.
        mapped_bytes: Of all entries that are mapped into this process.
        message_bytes: Of all others.
    """

    def __init__(
        self,
        channel: DmaChannel,
        generation: int = 0,
        loop: Loop | None = None,
        on_fault: Callable[[Guard], None] | None = None,
    ) -> None:
        self._channel = channel
        self._loop = loop
        self._on_fault = on_fault
        self._entries: dict[int, DmaEntry] = {}
        self.table = MemoryTable((), generation)
        self.mapped_bytes = 0
        self.message_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def map(self, request: DmaMap, fds: list[int]) -> DmaEntry | None:
        """Add a mapping; the descriptors are closed in any case.

        Returns:
            The new entry, or None if the very same mapping was there already.

        Raises:
            PeerError: EINVAL for what the specification forbids, an overlap or a range behind the
                end of the file; ENOSPC for more than `MAX_SIZE`; else the errno of mmap(2).
        """
        try:
            return self._map(request, fds)
        finally:
            close_fds(fds)

    def _map(self, request: DmaMap, fds: list[int]) -> DmaEntry | None:
        where = f"DMA_MAP {request.address:#x}+{request.size:#x}"
        flags = request.flags
        if request.argsz < DmaMap.SIZE:
            raise PeerError(f"{where}: argsz {request.argsz} is below {DmaMap.SIZE}")
        if flags & ~_KNOWN:
            raise PeerError(f"{where}: unknown flags {flags:#x}")
        if flags & (DmaMapFlags.MMAP | DmaMapFlags.FILE_IO) and not fds:
            raise PeerError(f"{where}: flags {flags:#x} need a descriptor, none came")
        if len(fds) > 1:
            raise PeerError(f"{where}: {len(fds)} descriptors came, at most 1 is taken")
        if not flags & (DmaMapFlags.READ | DmaMapFlags.WRITE):
            raise PeerError(f"{where}: neither readable nor writable")
        if request.size > MAX_SIZE:
            raise PeerError(f"{where}: larger than {MAX_SIZE:#x}", errno=errno.ENOSPC)
        if request.size == 0 or request.address + request.size > _END:
            raise PeerError(f"{where}: size is 0 or the end is beyond 2**64")
        identity = self._identity(request, fds)
        existing = self._entries.get(request.address)
        if existing is not None and existing.identity == identity:
            return None
        other = self.table.overlap(request.address, request.size)
        if other is not None:
            raise PeerError(f"{where}: overlaps {other.guest:#x}+{other.size:#x}")
        if len(self._entries) >= MAX_MAPS:
            raise PeerError(f"{where}: {MAX_MAPS} mappings exist already")
        readable = bool(flags & DmaMapFlags.READ)
        writable = bool(flags & DmaMapFlags.WRITE)
        mapping, host, watch = None, None, None
        if fds:
            mapping, host, page = _map_file(where, fds[0], request, readable, writable)
            watch = self._guard(where, mapping, page)
        region = MemoryRegion(
            guest=request.address,
            size=request.size,
            host=host,
            readable=readable,
            writable=writable,
            channel=None if fds else self._channel,
        )
        entry = DmaEntry(region, mapping, identity, watch)
        self._entries[request.address] = entry
        self.table = self.table.plus(region)
        self._count(entry, region.size)
        return entry

    def _guard(self, where: str, mapping: Mapping, page: int) -> Guard:
        try:
            return guard(mapping.address, mapping.size, self._loop, self._on_fault, page_size=page)
        except OSError as exc:
            mapping.close()
            raise PeerError(f"{where}: {exc}", errno=exc.errno or errno.EINVAL) from exc

    def select(self, request: DmaUnmap) -> list[DmaEntry]:
        """The mappings that an unmap request means; none is changed.

        A range that matches no mapping exactly means all mappings that lie wholly inside it (QEMU
        with a virtual IOMMU sends such ranges).

        Raises:
            PeerError: EINVAL for what the specification forbids, ENOENT if nothing matches.
        """
        where = f"DMA_UNMAP {request.address:#x}+{request.size:#x}"
        if request.argsz < DmaUnmap.SIZE:
            raise PeerError(f"{where}: argsz {request.argsz} is below {DmaUnmap.SIZE}")
        if request.flags == DmaUnmapFlags.ALL:
            if request.address or request.size:
                raise PeerError(f"{where}: address and size must be 0 when all is unmapped")
            return [self._entries[r.guest] for r in self.table.regions]
        if request.flags:
            raise PeerError(f"{where}: flags {request.flags:#x} are not supported")
        end = request.address + request.size
        if end > _END:
            raise PeerError(f"{where}: the end is beyond 2**64")
        exact = self._entries.get(request.address)
        if exact is not None and exact.region.size == request.size:
            return [exact]
        inside = [
            self._entries[r.guest]
            for r in self.table.regions
            if request.address <= r.guest and r.end <= end
        ]
        if not inside:
            raise PeerError(f"{where}: no mapping matches", errno=errno.ENOENT)
        return inside

    def remove(self, entries: Iterable[DmaEntry]) -> None:
        """Take entries out and publish the table without them; their memory stays mapped."""
        gone = [self._entries.pop(entry.region.guest) for entry in entries]
        self.table = self.table.minus([entry.region for entry in gone])
        for entry in gone:
            self._count(entry, -entry.region.size)

    def entries(self, most: int | None = None) -> list[DmaEntry]:
        """All entries by guest address, or the first few."""
        return [self._entries[r.guest] for r in self.table.regions[:most]]

    def _count(self, entry: DmaEntry, size: int) -> None:
        if entry.mapping is not None:
            self.mapped_bytes += size
        else:
            self.message_bytes += size

    @staticmethod
    def _identity(request: DmaMap, fds: list[int]) -> tuple[int, ...]:
        identity: tuple[int, ...] = (
            request.address,
            request.size,
            request.offset,
            request.flags & 3,
        )
        if fds:
            status = os.fstat(fds[0])
            identity += (status.st_dev, status.st_ino)
        return identity


def _map_file(
    where: str, fd: int, request: DmaMap, readable: bool, writable: bool
) -> tuple[Mapping, int, int]:
    """Map the range of a request: mapping, address of the range's first byte, size of a page."""
    status = os.fstat(fd)
    end = request.offset + request.size
    if end > status.st_size:
        # The kernel would map it, and the first access would be a SIGBUS.
        raise PeerError(
            f"{where}: {request.offset:#x}+{request.size:#x} of the file ends behind its end at "
            f"{status.st_size:#x}"
        )
    # Huge pages can only be mapped and unmapped whole.
    page = max(mmap.PAGESIZE, status.st_blksize)
    if page & (page - 1):
        page = mmap.PAGESIZE
    delta = request.offset % page
    length = min(-(-(end) // page) * page, status.st_size) - (request.offset - delta)
    try:
        mapping = Mapping(fd, request.offset - delta, length, readable=readable, writable=writable)
    except (OSError, OverflowError) as exc:
        number = (exc.errno if isinstance(exc, OSError) else None) or errno.EINVAL
        raise PeerError(f"{where}: mmap failed: {exc}", errno=number) from exc
    return mapping, mapping.address + delta, page
