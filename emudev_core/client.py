"""The other end of a device: what a transport's `connect` returns.

Reference drivers, tests and benchmarks drive a device through this Protocol, over a socket or
inside one process, without importing a transport. The PCI kit builds its guest's view of a function
on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from .regions import IrqGroup, RegionInfo

__all__ = ["DeviceClient"]


@runtime_checkable
class DeviceClient(Protocol):
    """A client of one device. Not thread-safe: one thread uses it.

    Calls raise `PeerError` with the errno that the device's end answered, `TransportError` if it
    has gone.
    """

    def regions(self) -> Sequence[RegionInfo]:
        """The device's regions."""

    def irq_groups(self) -> Sequence[IrqGroup]:
        """The device's groups of interrupts."""

    def region_read(self, region: int, offset: int, size: int) -> bytes:
        """Read `size` bytes of a region."""

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write bytes to a region; a posted write does not wait for an answer."""

    def dma_map(
        self,
        address: int,
        size: int,
        *,
        fd: int | None = None,
        offset: int = 0,
        readable: bool = True,
        writable: bool = True,
        memory: bytearray | memoryview | None = None,
    ) -> None:
        """Give the device a range of guest memory at guest address `address`.

        Args:
            address: Guest address of its first byte.
            size: Bytes.
            fd: Memory behind it, kept by the caller; None for memory that only messages reach:
                `memory` answers them.
            offset: Where the range starts in `fd`.
            readable: The device may read it.
            writable: The device may write it.
            memory: What the device's messages read and write if there is no `fd`; at least `size`
                bytes, kept by the caller.
        """

    def dma_unmap(self, address: int, size: int) -> None:
        """Take a range back; the device does not touch it any more when this returns."""

    def irq_bind(self, group: int, vector: int, fd: int | None) -> None:
        """Let a vector signal an eventfd (kept by the caller), or None to unbind it."""

    def irq_mask(self, group: int, vector: int, masked: bool) -> None:
        """Mask or unmask a vector of a maskable group."""

    def reset(self) -> None:
        """Reset the device."""

    def wait(self, fd: int, timeout: float) -> bool:
        """Let the device's end run until `fd` is readable or `timeout` seconds have passed.

        Returns:
            Whether it is readable.
        """

    def pause(self, seconds: float) -> None:
        """Let the device's end run for a while."""

    def close(self) -> None:
        """Go away; the device serves the next client."""
