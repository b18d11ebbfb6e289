"""What a function does when its guest writes to configuration space.

Bus mastering and INTx disable in the command register, the power state, masks and enables of MSI
and MSI-X, and the bit that starts a function level reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emudev_core.later import Later
from emudev_core.regions import ResetKind

from .capabilities import (
    MSI_CONTROL,
    MSI_ENABLE,
    MSI_MASK,
    MSI_PENDING,
    MSIX_CONTROL,
    MSIX_ENABLE,
    MSIX_MASK_ALL,
    PCIE_DEVICE_CONTROL,
    PCIE_DEVICE_STATUS,
    PCIE_FLR,
    PCIE_UNSUPPORTED_REQUEST,
    POWER_CONTROL,
    POWER_STATE,
    CapabilityId,
)
from .config_space import (
    COMMAND,
    COMMAND_BUS_MASTER,
    COMMAND_INTX_DISABLE,
    STATUS,
    STATUS_INTERRUPT,
    STATUS_RECEIVED_MASTER_ABORT,
)

if TYPE_CHECKING:
    from .function import PciFunction

__all__ = ["ConfigEvents"]


class ConfigEvents:
    """Watches the configuration space of one function.

    Args:
        function: The function, its configuration space built.
    """

    def __init__(self, function: PciFunction) -> None:
        self._function = function
        self._answer: Later | None = None
        space = self._space = function.config_space
        places = function.capability_offsets
        self._power = places.get(CapabilityId.POWER, 0)
        self._pcie = places.get(CapabilityId.PCIE, 0)
        self._msi = places.get(CapabilityId.MSI, 0)
        self._msix = places.get(CapabilityId.MSIX, 0)
        self._maskable = function.msi is not None and function.msi.maskable
        space.watch(COMMAND, 2, lambda old, written: self._apply_command())
        if function.intx:
            space.live(STATUS, 2, self._status)
        if self._power:
            space.watch(self._power + POWER_CONTROL, 2, self._power_written)
        if self._pcie:
            space.watch(self._pcie + PCIE_DEVICE_CONTROL, 2, self._device_control_written)
        if self._msix:
            space.watch(self._msix + MSIX_CONTROL, 2, lambda old, written: self._apply_masks())
        if self._msi:
            space.watch(self._msi + MSI_CONTROL, 2, lambda old, written: self._apply_masks())
            if self._maskable:
                space.watch(self._msi + MSI_MASK, 4, lambda old, written: self._apply_masks())
                space.live(self._msi + MSI_PENDING, 4, self._pending)

    def apply(self) -> None:
        """Bring the function in line with what configuration space says now."""
        self._apply_command()
        self._apply_masks()

    def take_answer(self) -> Later | bool:
        """What the write at hand has to wait for: a function level reset, or nothing (True)."""
        answer, self._answer = self._answer, None
        return True if answer is None else answer

    def report_fault(self) -> None:
        """Set the bits that say that a request of the device was refused."""
        status = self._space.get(STATUS, 2) | STATUS_RECEIVED_MASTER_ABORT
        self._space.put(STATUS, 2, status)
        if self._pcie:
            at = self._pcie + PCIE_DEVICE_STATUS
            self._space.put(at, 2, self._space.get(at, 2) | PCIE_UNSUPPORTED_REQUEST)

    def _apply_command(self) -> None:
        function = self._function
        command = self._space.get(COMMAND, 2)
        enabled = bool(command & COMMAND_BUS_MASTER)
        if enabled != function.bus_master:
            function.bus_master = enabled
            function.on_bus_master(enabled)
        disabled = bool(command & COMMAND_INTX_DISABLE)
        if disabled != function.intx_line.disabled:
            function.intx_line.disable(disabled)

    def _apply_masks(self) -> None:
        function = self._function
        all_masked = False
        if self._msix:
            control = self._space.get(self._msix + MSIX_CONTROL, 2)
            all_masked = control & MSIX_ENABLE != 0 and control & MSIX_MASK_ALL != 0
        masks, enabled = 0, 0
        if self._msi:
            control = self._space.get(self._msi + MSI_CONTROL, 2)
            if control & MSI_ENABLE:
                enabled = 1 << (control >> 4 & 7)
                masks = self._space.get(self._msi + MSI_MASK, 4) if self._maskable else 0
        for vector in function.vectors:
            # A guest that enables fewer MSI vectors gets the others' events on those it has.
            folded = 0 < enabled <= vector.number
            vector.alias = function.vectors[vector.number % enabled] if folded else None
            vector.mask(all_masked, "function")
            vector.mask(bool(masks >> vector.number & 1), "msi")

    def _power_written(self, old: int, written: int) -> None:
        if written & POWER_STATE in (1, 2):  # D1 and D2 are not there: the write is discarded
            at = self._power + POWER_CONTROL
            kept = self._space.get(at, 2) & ~POWER_STATE | old & POWER_STATE
            self._space.put(at, 2, kept)

    def _device_control_written(self, old: int, written: int) -> None:
        if written & PCIE_FLR:
            answer = self._function.context.device.reset(ResetKind.FUNCTION)
            self._answer = answer if isinstance(answer, Later) else None

    def _status(self, stored: int) -> int:
        return stored | (STATUS_INTERRUPT if self._function.intx_line.asserted else 0)

    def _pending(self, stored: int) -> int:
        return sum(1 << v.number for v in self._function.vectors[:32] if v.pending)
