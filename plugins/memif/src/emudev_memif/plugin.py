"""What emudev-memif offers: the provider ``emu_memif``. Loading it imports no device code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from emudev_core import ProviderSpec, hookimpl

from .config import MemifConfig

if TYPE_CHECKING:
    from emudev_core.specs import ProviderContext

    from .device import MemifDevice

__all__ = ["build", "emudev_providers"]


def build(config: MemifConfig, context: ProviderContext) -> MemifDevice:
    """Make the device."""
    from .device import MemifDevice

    return MemifDevice(config, context)


@hookimpl
def emudev_providers() -> Iterable[ProviderSpec]:
    """The device."""
    yield ProviderSpec(
        name="emu_memif",
        summary="A memif 2.0 shared-memory packet interface, server or client",
        config=MemifConfig,
        build=build,
        transport="",
    )
