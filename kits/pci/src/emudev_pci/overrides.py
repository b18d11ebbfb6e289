"""What a function does on its own account: the methods of `PciFunction` that a subclass overrides.

All are called on the loop's thread and never wait. None of these here does anything, so that an
overriding one need not call it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emudev_core.later import Later
from emudev_core.memory import MemoryRegion, MemoryTable
from emudev_core.regions import ResetKind

__all__ = ["Overrides"]


class Overrides:
    """See the module."""

    def on_reset(self, kind: ResetKind) -> Later | bool:
        """Come to rest and forget what the guest set up.

        Called before registers, configuration space, pending interrupts and INTx are put at their
        reset values. Bound vectors and guest memory stay (with `CLIENT_GONE` they have gone
        already), and so does what the host set (`attributes`).

        Returns:
            True, or a `Later` while somebody still works on guest memory; all else is reset when
            it is finished.
        """
        return True

    def after_reset(self, kind: ResetKind) -> None:
        """Set the registers whose value after a reset is not that of the map.

        Called at the end of each reset, when everything is at its reset value. A register that
        starts with what the configuration says is set here and in ``__init__``.
        """

    def on_memory(self, table: MemoryTable) -> None:
        """Guest memory changed; `table` is the new snapshot, whatever `bus_master` says."""

    def on_unmap(self, table: MemoryTable, region: MemoryRegion) -> Later | bool:
        """Guest memory is being taken away: let go of `region`; `on_memory` was called before.

        Returns:
            True, or a `Later` while somebody still uses the region's addresses.
        """
        return True

    def on_bus_master(self, enabled: bool) -> None:
        """The guest allowed or forbade the function to reach its memory; also at resets."""

    def on_vector(self, vector: int, fd: int | None) -> None:
        """The descriptor to signal for a vector changed: bound, unbound, masked or unmasked.

        For devices that signal on their own; `vectors` follow by themselves. A former descriptor
        is closed after this call.
        """

    def on_client(self, attached: bool) -> None:
        """A client came or went."""

    def on_close(self) -> None:
        """Give everything back."""

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        """A read of 1 to 8 bytes in a BAR without a map."""
        return 0

    def bar_write(self, bar: int, offset: int, size: int, value: int) -> None:
        """A write of 1 to 8 bytes in a BAR without a map."""

    def save_state(self) -> dict[str, Any]:
        """What the device remembers beside registers and configuration space."""
        return {}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `save_state` gave.

        Raises:
            DecodeError: Bad values; the device is as it was.
        """
