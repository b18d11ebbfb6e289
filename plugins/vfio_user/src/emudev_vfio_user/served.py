"""What a session needs of the device that it serves: a subset of the core's `Device`.

The hooks keep their names, less ``emudev_``; see `emudev_core.hooks.provider`. `VfioUserServer`
serves objects of its own through the same Protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from emudev_core.later import Later
from emudev_core.lifecycle import State
from emudev_core.memory import MemoryRegion, MemoryTable
from emudev_core.regions import IrqGroup, RegionInfo, ResetKind

__all__ = ["ServedDevice"]


class ServedDevice(Protocol):
    """A device as a session sees it. All calls are made on the loop's thread."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def state(self) -> State:
        """Nothing is served in ERROR."""

    def is_direct(self, hook: str, /) -> bool:
        """Whether no observer watches a hook."""

    def fail(self, reason: str | BaseException, hook: str = "", /) -> None:
        """Put the device in error; `hook` is where the reason was raised."""

    def get_regions(self) -> Sequence[RegionInfo]:
        """See the hook."""

    def get_irq_groups(self) -> Sequence[IrqGroup]:
        """See the hook."""

    def region_read(self, region: int, offset: int, size: int, /) -> int:
        """See the hook."""

    def region_write(self, region: int, offset: int, size: int, value: int, /) -> Later | bool:
        """See the hook."""

    def region_read_bulk(self, region: int, offset: int, size: int, /) -> bytes:
        """See the hook."""

    def region_write_bulk(self, region: int, offset: int, data: bytes, /) -> Later | bool:
        """See the hook."""

    def dma_map(self, table: MemoryTable, region: MemoryRegion, /) -> None:
        """See the hook."""

    def dma_unmap(self, table: MemoryTable, region: MemoryRegion, /) -> Later | bool:
        """See the hook."""

    def irq_bound(self, group: int, vector: int, fd: int | None, /) -> None:
        """See the hook."""

    def irq_masked(self, group: int, vector: int, masked: bool, /) -> None:
        """See the hook."""

    def irq_trigger(self, group: int, vector: int, /) -> None:
        """See the hook."""

    def reset(self, kind: ResetKind, /) -> Later | bool:
        """See the hook."""

    def client_attached(self, client: str, /) -> None:
        """See the hook."""

    def client_detached(self) -> None:
        """See the hook."""

    def status_changed(self, what: str, /) -> None:
        """See the hook."""
