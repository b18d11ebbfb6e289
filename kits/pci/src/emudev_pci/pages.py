"""Memory of the guest's side: mapped here, and given to the device at guest addresses."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Final

from emudev_core.client import DeviceClient
from emudev_core.memory import Mapping

__all__ = ["Memory", "Page"]

#: Where automatic addresses start; a hole of a page is left behind each range.
FIRST: Final = 0x1000_0000


class Page:
    """A range of memory that the device was given. Offsets are from its start.

    Attributes:
        address: Guest address.
        size: Bytes.
        host: Address in this process, good until `close`; for compiled drivers.
    """

    def __init__(
        self,
        owner: Memory,
        address: int,
        size: int,
        fd: int | None,
        host: int,
        backing: Mapping | bytearray,
    ) -> None:
        self._owner: Memory | None = owner
        self._fd = fd
        self._backing = backing
        self.address = address
        self.size = size
        self.host = host

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes."""
        self._check(offset, size)
        return ctypes.string_at(self.host + offset, size)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes."""
        raw = bytes(data)
        self._check(offset, len(raw))
        ctypes.memmove(self.host + offset, raw, len(raw))

    def read_u8(self, offset: int) -> int:
        """Read one byte."""
        return self.read(offset, 1)[0]

    def read_u16(self, offset: int) -> int:
        """Read 2 bytes, little endian."""
        return int.from_bytes(self.read(offset, 2), "little")

    def read_u32(self, offset: int) -> int:
        """Read 4 bytes, little endian."""
        return int.from_bytes(self.read(offset, 4), "little")

    def read_u64(self, offset: int) -> int:
        """Read 8 bytes, little endian."""
        return int.from_bytes(self.read(offset, 8), "little")

    def write_u8(self, offset: int, value: int) -> None:
        """Write one byte."""
        self.write(offset, value.to_bytes(1, "little"))

    def write_u16(self, offset: int, value: int) -> None:
        """Write 2 bytes, little endian."""
        self.write(offset, value.to_bytes(2, "little"))

    def write_u32(self, offset: int, value: int) -> None:
        """Write 4 bytes, little endian."""
        self.write(offset, value.to_bytes(4, "little"))

    def write_u64(self, offset: int, value: int) -> None:
        """Write 8 bytes, little endian."""
        self.write(offset, value.to_bytes(8, "little"))

    def close(self) -> None:
        """Take the memory back from the device, then let it go. A second call does nothing."""
        owner = self._owner
        if owner is not None:
            owner.unmap(self)

    def forget(self) -> None:
        """Let the memory go without a word to the device, which has gone."""
        self._owner = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if isinstance(self._backing, Mapping):
            self._backing.close()

    def _check(self, offset: int, size: int) -> None:
        if self._owner is None:
            raise ValueError("the memory was taken back")
        if not 0 <= offset <= self.size - size:
            raise IndexError(f"{offset:#x}+{size:#x} is outside of {self.size:#x} bytes")


class Memory:
    """The pages of one client.

    Args:
        client: Given every page.
    """

    def __init__(self, client: DeviceClient) -> None:
        self._client = client
        self._pages: list[Page] = []
        self._next = FIRST

    def pages(self) -> Sequence[Page]:
        """What is mapped."""
        return tuple(self._pages)

    def map(
        self, size: int, address: int | None, *, by_message: bool, readable: bool, writable: bool
    ) -> Page:
        """Make a page; see `GuestFunction.map_memory`."""
        if size < 1:
            raise ValueError(f"expected a size above 0, came {size}")
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if address is None:
            address = self._next
            self._next += size + mmap.PAGESIZE
        fd: int | None = None
        backing: Mapping | bytearray
        if by_message:
            backing = bytearray(size)
            host = ctypes.addressof((ctypes.c_char * size).from_buffer(backing))
        else:
            fd = os.memfd_create("emudev-guest", os.MFD_CLOEXEC)
            try:
                os.ftruncate(fd, size)
                backing = Mapping(fd, 0, size)
            except BaseException:
                os.close(fd)
                raise
            host = backing.address
        page = Page(self, address, size, fd, host, backing)
        try:
            self._client.dma_map(
                address,
                size,
                fd=fd,
                readable=readable,
                writable=writable,
                memory=backing if isinstance(backing, bytearray) else None,
            )
        except BaseException:
            page.forget()
            raise
        self._pages.append(page)
        return page

    def unmap(self, page: Page) -> None:
        """Take a page back from the device."""
        self._pages.remove(page)
        try:
            self._client.dma_unmap(page.address, page.size)
        finally:
            page.forget()

    def forget(self) -> None:
        """Let all pages go; the client has gone."""
        while self._pages:
            self._pages.pop().forget()
