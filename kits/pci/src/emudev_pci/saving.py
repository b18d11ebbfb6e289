"""A function's state as values that msgspec encodes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from emudev_core.errors import DecodeError

if TYPE_CHECKING:
    from .function import PciFunction

__all__ = ["restore_function", "save_function"]

VERSION: Final = 1


def save_function(function: PciFunction) -> dict[str, Any]:
    """Registers, configuration space, interrupts, and what `PciFunction.save_state` adds."""
    table = function.msix_table
    return {
        "version": VERSION,
        "registers": {str(bar): file.save() for bar, file in function.bar_regs.items()},
        "config": function.config_space.save(),
        "msix": table.save() if table is not None else b"",
        "pending": [v.number for v in function.vectors if v.pending],
        "intx": function.intx_line.asserted,
        "device": function.save_state(),
    }


def restore_function(function: PciFunction, state: Mapping[str, Any]) -> None:
    """Take back what `save_function` gave.

    Raises:
        DecodeError: Bad values; the function is as it was.
    """
    before = save_function(function)
    try:
        _restore(function, state)
    except DecodeError:
        _restore(function, before)
        raise


def _restore(function: PciFunction, state: Mapping[str, Any]) -> None:
    where = f"{function.name}: saved state"
    if state.get("version") != VERSION:
        raise DecodeError(f"{where}: expected version {VERSION}, came {state.get('version')!r}")
    registers, pending = state.get("registers"), state.get("pending")
    bars = [str(bar) for bar in function.bar_regs]
    if not isinstance(registers, dict) or {*registers} != {*bars}:
        raise DecodeError(f"{where}: expected registers of BARs {', '.join(bars) or 'none'}")
    known = range(len(function.vectors))
    if not isinstance(pending, list) or not all(number in known for number in pending):
        raise DecodeError(f"{where}: pending vectors {pending!r}, it has {len(known)}")
    for bar, file in function.bar_regs.items():
        file.restore(registers[str(bar)])
    function.config_space.restore(state.get("config", b""))
    if function.msix_table is not None:
        function.msix_table.restore(state.get("msix", b""))
    device = state.get("device")
    if not isinstance(device, dict):
        raise DecodeError(f"{where}: the device's own part is missing")
    function.restore_state(device)
    for vector in function.vectors:
        vector.pending = vector.number in pending
    function.intx_line.asserted = bool(state.get("intx"))
    function.config_events.apply()
