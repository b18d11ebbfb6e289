"""What users say about a memif interface: DPDK's device arguments."""

from __future__ import annotations

from emudev_core.config import ProviderConfig

__all__ = ["MemifConfig"]


class MemifConfig(ProviderConfig):
    """Keys of ``emu_memif``."""
