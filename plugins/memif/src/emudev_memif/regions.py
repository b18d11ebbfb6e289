"""A peer's shared memory: what is looked at before it is mapped, and the mapping.

Whoever owns a file can truncate it afterwards, and an access behind its end is a SIGBUS: a seal
against shrinking rules that out. A file that is no memory (a disk's, a FUSE server's) can make an
access wait for as long as its owner likes: those are refused.

Source: memif.md 3.1 and 8 (control side, rules 4 and 5).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from emudev_core.errors import PeerError
from emudev_core.memory import Mapping, MemoryRegion, MemoryTable

from .offers import Region, Ring
from .words import COOKIE

__all__ = ["GUEST_SHIFT", "PeerMemory", "check_eventfd", "check_memory", "shrinkable", "table"]

log = logging.getLogger(__name__)

#: A region's first address in the memory table of a device is its index shifted by this.
GUEST_SHIFT: Final = 48

# Source: Linux, include/uapi/linux/magic.h.
_TMPFS: Final = 0x0102_1994
_RAMFS: Final = 0x8584_58F6
_HUGETLBFS: Final = 0x9584_58F6

_libc = ctypes.CDLL(None, use_errno=True)


def _file_system(fd: int) -> tuple[int, int]:
    """Magic number and block size of the file system that a file is on; fstatfs(2)."""
    words = (ctypes.c_long * 32)()  # struct statfs begins with f_type and f_bsize
    if _libc.fstatfs(fd, ctypes.byref(words)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return words[0] & 0xFFFF_FFFF, words[1]


def check_memory(fd: int, size: int, before: int, limit: int) -> None:
    """Look at the descriptor of a region.

    Args:
        fd: The caller's.
        size: Bytes that are offered.
        before: Bytes of the regions before this one.
        limit: Bytes that a peer may have mapped here in all.

    Raises:
        PeerError: It must not be mapped.
    """
    if size > limit - before:
        raise PeerError(f"Invalid region size: {before + size} bytes in all, {limit} are allowed")
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise PeerError("Invalid region: its descriptor is not that of a memory file")
    if size > status.st_size:
        raise PeerError(f"Invalid region size: {size} bytes, its file has {status.st_size}")
    magic, _ = _file_system(fd)
    if magic not in (_TMPFS, _RAMFS, _HUGETLBFS):
        raise PeerError(f"Invalid region: its file is not in memory (file system {magic:#x})")


def shrinkable(fd: int) -> bool:
    """Whether a file's owner can still truncate it."""
    try:
        return not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:
        return True  # a file that knows no seals


def check_eventfd(fd: int) -> None:
    """See that a ring's descriptor is an eventfd, and that a write to it does not wait.

    Raises:
        PeerError: It is something else.
    """
    try:
        kind = os.readlink(f"/proc/self/fd/{fd}")
    except OSError as exc:
        raise PeerError(f"Invalid ring: its descriptor can't be looked at: {exc}") from exc
    if kind != "anon_inode:[eventfd]":
        raise PeerError("Invalid ring: its descriptor is not an eventfd")
    os.set_blocking(fd, False)


class PeerMemory:
    """The regions of a client, mapped for reading and writing.

    Args:
        regions: By index. Their descriptors are closed in any case, an exception included.
        rings: Their cookies are looked at.
        guard: Keeps an access behind the end of a file from ending the process; called with
            address and size of each mapping, answers what to call before it is unmapped.

    Attributes:
        regions: Address in this process and size of each.

    Raises:
        PeerError: The system can't map one, or a ring has no cookie. Nothing is mapped then.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        rings: Iterable[Ring],
        guard: Callable[[int, int], Callable[[], None]] | None = None,
    ) -> None:
        self._mappings: list[Mapping] = []
        self._guards: list[Callable[[], None]] = []
        self.regions: list[tuple[int, int]] = []
        try:
            for region in regions:
                self._map(region, guard)
            for ring in rings:
                _check_cookie(regions[ring.place.region].fd, ring)
        except BaseException:
            self.close()
            raise
        finally:
            for region in regions:
                with suppress(OSError):
                    os.close(region.fd)

    def _map(self, region: Region, guard: Callable[[int, int], Callable[[], None]] | None) -> None:
        size = region.size
        try:
            magic, block = _file_system(region.fd)
            if magic == _HUGETLBFS:
                size = -(-size // block) * block  # else it could not be unmapped again
            mapping = Mapping(region.fd, 0, size)
        except OSError as exc:
            index = len(self.regions)
            raise PeerError(f"Region {index} can't be mapped: {exc.strerror or exc}") from exc
        self._mappings.append(mapping)
        if guard is not None:
            self._guards.append(guard(mapping.address, size))
        self.regions.append((mapping.address, region.size))

    def close(self) -> None:
        """Unmap; nobody may use it any more. A second call does nothing."""
        for release in self._guards:
            release()
        for mapping in self._mappings:
            mapping.close()
        self._guards.clear()
        self._mappings.clear()


def _check_cookie(fd: int, ring: Ring) -> None:
    # By pread: a file that shrinks just now gives fewer bytes instead of a SIGBUS.
    try:
        data = os.pread(fd, 4, ring.place.offset)
    except OSError as exc:
        number = errno.errorcode.get(exc.errno or 0, "?")
        raise PeerError(f"Wrong cookie: {ring.name} can't be read ({number})") from exc
    if data != struct.pack("<I", COOKIE):
        raise PeerError(f"Wrong cookie: expected {COOKIE:#x} in {ring.name}, came {data.hex()}")


def table(regions: Iterable[tuple[int, int]], generation: int) -> MemoryTable:
    """Shared memory as a memory table: offset o of region r has the address ``r << 48 | o``.

    Args:
        regions: Address in this process and size of each.
        generation: Of the table.
    """
    return MemoryTable(
        (
            MemoryRegion(index << GUEST_SHIFT, size, address)
            for index, (address, size) in enumerate(regions)
        ),
        generation,
    )
