"""How a PCI function is laid out: configuration space and regions from a few declarations."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from emudev_core.regions import DoorbellWindow, IrqGroup, RegionFlag, RegionInfo

from .bars import BarError, IoBar, MemoryBar, bar_registers, power_of_two
from .capabilities import (
    Capability,
    CapabilityId,
    message_signalled,
    message_signalled_x,
    pci_express,
    place,
    power_management,
)
from .config_space import (
    COMMAND_WRITABLE,
    CONVENTIONAL,
    EXPRESS,
    STATUS_W1C,
    ConfigHeader,
    ConfigSpace,
    PciIds,
)
from .interrupts import IrqIndex, Msi, Msix

__all__ = ["CONFIG", "Layout", "Region"]


class Region(enum.IntEnum):
    """Numbers of regions; a BAR's is its own. Source: Linux, include/uapi/linux/vfio.h."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


CONFIG: Final = int(Region.CONFIG)  #: compared in each access: an int costs less than the enum
_BOTH: Final = RegionFlag.READ | RegionFlag.WRITE


@attrs.frozen
class Layout:
    """What a function is made of.

    Attributes:
        ids: Who it is.
        bars: Its BARs by number; the one of MSI-X is added if it is not among them.
        msix: Its MSI-X, or None.
        msi: Its MSI, or None.
        intx: Whether it has INTA.
        pcie: Whether it is a PCI Express endpoint, with function level reset.
        power: Whether it has power management.
        capabilities: Further ones; one of PCI Express or power management takes the place of the
            kit's.
    """

    ids: PciIds
    bars: Mapping[int, MemoryBar | IoBar]
    msix: Msix | None = None
    msi: Msi | None = None
    intx: bool = False
    pcie: bool = True
    power: bool = True
    capabilities: Sequence[Capability] = ()

    def all_bars(self) -> dict[int, MemoryBar | IoBar]:
        """The BARs, with that of MSI-X.

        Raises:
            BarError: MSI-X does not fit into its BAR, or overlaps registers in it.
        """
        bars = dict(self.bars)
        msix = self.msix
        if msix is None:
            return bars
        bar = bars.setdefault(msix.bar, MemoryBar(size=max(4096, power_of_two(msix.end))))
        where = f"MSI-X of {msix.vectors} vectors in BAR {msix.bar}"
        if isinstance(bar, IoBar):
            raise BarError(f"{where}: expected a memory BAR")
        if msix.end > bar.bytes:
            raise BarError(f"{where} needs {msix.end:#x} bytes, the BAR has {bar.bytes:#x}")
        areas = (
            ("table", msix.table, msix.table_size),
            ("pending bits", msix.pending_offset, msix.pending_size),
        )
        if msix.table < areas[1][1] + areas[1][2] and areas[1][1] < msix.table + msix.table_size:
            raise BarError(f"{where}: table and pending bits overlap")
        for what, start, size in areas if bar.map is not None else ():
            assert bar.map is not None
            if bar.map.find(start, size):
                raise BarError(
                    f"{where}: its {what} at {start:#x}+{size:#x} overlap "
                    f"{bar.map.label(bar.map.find(start, size)[0][1])} of {bar.map.name}"
                )
        return bars

    def all_capabilities(self) -> list[Capability]:
        """The capabilities, in the order of the list."""
        given = {one.id for one in self.capabilities if not one.extended}
        found = []
        if self.power and CapabilityId.POWER not in given:
            found.append(power_management())
        if self.msi is not None:
            msi = self.msi
            found.append(message_signalled(msi.vectors, maskable=msi.maskable, at=msi.at))
        if self.msix is not None:
            msix = self.msix
            found.append(
                message_signalled_x(
                    msix.vectors, msix.bar, msix.table, msix.pending_offset, at=msix.at
                )
            )
        if self.pcie and CapabilityId.PCIE not in given:
            found.append(pci_express())
        return [*found, *self.capabilities]

    def build(self) -> tuple[ConfigSpace, dict[int, int]]:
        """Make the configuration space.

        Returns:
            It, and the places of its capabilities; see `capabilities.place`.

        Raises:
            BarError, CapabilityError: What was declared is impossible; the message says why.
        """
        ids = self.ids
        bars, bar_masks = bar_registers(self.all_bars())
        subsystem_vendor = ids.vendor if ids.subsystem_vendor is None else ids.subsystem_vendor
        image = ConfigHeader(
            vendor=ids.vendor,
            device=ids.device,
            revision=ids.revision,
            class_code=ids.class_code.to_bytes(3, "little"),
            bars=bars,
            subsystem_vendor=subsystem_vendor,
            subsystem=ids.subsystem,
            pin=1 if self.intx else 0,
        )
        writable = ConfigHeader(
            command=COMMAND_WRITABLE, cache_line=0xFF, bars=bar_masks, line=0xFF
        )
        w1c = ConfigHeader(status=STATUS_W1C)
        capabilities = self.all_capabilities()
        express = any(one.id == CapabilityId.PCIE and not one.extended for one in capabilities)
        space = ConfigSpace(EXPRESS if express else CONVENTIONAL)
        space.define(0, image.pack(), writable.pack(), w1c.pack())
        return space, place(space, capabilities)

    def regions(
        self, config_size: int, doorbells: Mapping[int, tuple[DoorbellWindow, ...]]
    ) -> tuple[RegionInfo, ...]:
        """The nine regions of a PCI function, those that are not there with size 0.

        Args:
            config_size: Of configuration space, bytes.
            doorbells: By BAR.
        """
        found = {int(number): RegionInfo(int(number), 0) for number in Region}
        for number, bar in self.all_bars().items():
            windows = doorbells.get(number, ())
            found[number] = RegionInfo(number, bar.bytes, _BOTH, doorbells=windows)
        found[CONFIG] = RegionInfo(CONFIG, config_size, _BOTH)
        return tuple(found.values())

    def irq_groups(self) -> tuple[IrqGroup, ...]:
        """The five groups of interrupts of a PCI function."""
        return (
            IrqGroup(int(IrqIndex.INTX), int(self.intx), maskable=True, automasked=True),
            IrqGroup(int(IrqIndex.MSI), self.msi.vectors if self.msi else 0),
            IrqGroup(int(IrqIndex.MSIX), self.msix.vectors if self.msix else 0),
            IrqGroup(int(IrqIndex.ERR), 1),
            IrqGroup(int(IrqIndex.REQ), 1),
        )
