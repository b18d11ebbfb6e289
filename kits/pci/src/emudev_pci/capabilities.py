"""Capabilities: what stands in the lists of configuration space, and where.

A capability is an image with masks, made by the functions below from declared structs, so that each
bit is written down once. `place` puts them into a `ConfigSpace`: the first at 0x40, each next one
at the next multiple of 4, or where it asks to be; the extended ones from 0x100.

Sources: PCI Local Bus Specification 3.0, section 6.7 and 6.8; PCI Power Management 1.2, section
3.2; PCI Express Base 4.0, sections 7.5.3, 7.9.3 and 7.9.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from emudev_core.wire import Wire, pad, u8, u16, u32, wire

from .config_space import (
    CAPABILITIES,
    CONVENTIONAL,
    STATUS,
    STATUS_CAPABILITIES,
    ConfigSpace,
)

__all__ = [
    "Capability",
    "CapabilityError",
    "CapabilityId",
    "MsiCapability",
    "MsixCapability",
    "PcieCapability",
    "PowerCapability",
    "message_signalled",
    "message_signalled_x",
    "pci_express",
    "place",
    "power_management",
    "serial_number",
    "vendor",
    "vendor_extended",
]

FIRST: Final = 0x40
FIRST_EXTENDED: Final = 0x100


class CapabilityError(ValueError):
    """Capabilities that can't be placed; found when the function is made."""


class CapabilityId:
    """Numbers of the capabilities that the kit knows."""

    POWER: Final = 0x01
    MSI: Final = 0x05
    VENDOR: Final = 0x09
    PCIE: Final = 0x10
    MSIX: Final = 0x11
    EXTENDED_SERIAL: Final = 0x0003
    EXTENDED_VENDOR: Final = 0x000B


@attrs.frozen
class Capability:
    """One capability.

    Attributes:
        id: Its number.
        image: All bytes after a reset, header included; the next pointer is filled in.
        writable: Bits that can be written, from the start.
        w1c: Bits that writing 1 clears, from the start.
        at: Where it has to be, bytes; None: the next free place.
        version: Of an extended capability; 0 for one of the standard list.
    """

    id: int
    image: bytes = attrs.field(repr=False)
    writable: bytes = attrs.field(default=b"", repr=False)
    w1c: bytes = attrs.field(default=b"", repr=False)
    at: int | None = attrs.field(default=None, kw_only=True)
    version: int = attrs.field(default=0, kw_only=True)

    @property
    def extended(self) -> bool:
        """Whether it stands in the extended list."""
        return self.version > 0


@wire(size=8)
class PowerCapability(Wire):
    """Power management."""

    id: int = u8("1", default=0)
    next: int = u8("offset of the next one", default=0)
    capabilities: int = u16("version, states and events", default=0)
    control: int = u16("bits 1:0 the state, bit 3 no soft reset", default=0)
    bridge: int = u8("0", default=0)
    data: int = u8("0", default=0)


@wire(size=24)
class MsiCapability(Wire):
    """MSI with 64-bit addresses; without masks it ends after `data`."""

    id: int = u8("5", default=0)
    next: int = u8("offset of the next one", default=0)
    control: int = u16("bit 0 enable, 3:1 offered, 6:4 enabled, 7 64 bits, 8 masks", default=0)
    address: int = u32("low half of the message address", default=0)
    address_high: int = u32("high half of it", default=0)
    data: int = u16("message data", default=0)
    _reserved: bytes = pad(2)
    mask: int = u32("a bit for each vector", default=0)
    pending: int = u32("a bit for each vector, read-only", default=0)


@wire(size=12)
class MsixCapability(Wire):
    """MSI-X."""

    id: int = u8("0x11", default=0)
    next: int = u8("offset of the next one", default=0)
    control: int = u16("10:0 vectors less one, 14 function mask, 15 enable", default=0)
    table: int = u32("offset of the table, 2:0 its BAR", default=0)
    pending: int = u32("offset of the pending bits, 2:0 their BAR", default=0)


@wire(size=60)
class PcieCapability(Wire):
    """PCI Express, version 2."""

    id: int = u8("0x10", default=0)
    next: int = u8("offset of the next one", default=0)
    flags: int = u16("3:0 version, 7:4 port type", default=0)
    device_capabilities: int = u32("2:0 payload, 15 role based errors, 28 FLR", default=0)
    device_control: int = u16("15 starts a function level reset", default=0)
    device_status: int = u16("3:0 errors seen", default=0)
    link_capabilities: int = u32("3:0 speed, 9:4 width", default=0)
    link_control: int = u16("0 here", default=0)
    link_status: int = u16("3:0 speed, 9:4 width", default=0)
    slot_capabilities: int = u32("0 for an endpoint", default=0)
    slot_control: int = u16("0 for an endpoint", default=0)
    slot_status: int = u16("0 for an endpoint", default=0)
    root_control: int = u16("0 for an endpoint", default=0)
    root_capabilities: int = u16("0 for an endpoint", default=0)
    root_status: int = u32("0 for an endpoint", default=0)
    device_capabilities_2: int = u32("4: completion timeouts can be disabled", default=0)
    device_control_2: int = u16("4: completion timeouts are disabled", default=0)
    device_status_2: int = u16("0", default=0)
    link_capabilities_2: int = u32("0", default=0)
    link_control_2: int = u16("0", default=0)
    link_status_2: int = u16("0", default=0)
    slot_capabilities_2: int = u32("0 for an endpoint", default=0)
    slot_control_2: int = u16("0 for an endpoint", default=0)
    slot_status_2: int = u16("0 for an endpoint", default=0)


POWER_CONTROL: Final = 4  #: offset of PowerCapability.control
POWER_STATE: Final = 3  #: D0 is 0, D3hot is 3
MSI_CONTROL: Final = 2  #: offset of MsiCapability.control
MSI_ENABLE: Final = 1 << 0
MSI_MASK: Final = 16  #: offset of MsiCapability.mask
MSI_PENDING: Final = 20  #: offset of MsiCapability.pending
MSIX_CONTROL: Final = 2  #: offset of MsixCapability.control
MSIX_MASK_ALL: Final = 1 << 14
MSIX_ENABLE: Final = 1 << 15
PCIE_DEVICE_CONTROL: Final = 8  #: offset of PcieCapability.device_control
PCIE_DEVICE_STATUS: Final = 10  #: offset of PcieCapability.device_status
PCIE_UNSUPPORTED_REQUEST: Final = 1 << 3
PCIE_FLR: Final = 1 << 15


def power_management(*, at: int | None = None) -> Capability:
    """D0 and D3hot, without events; coming back from D3hot resets nothing (NoSoftReset)."""
    return Capability(
        CapabilityId.POWER,
        PowerCapability(id=CapabilityId.POWER, capabilities=0x0003, control=1 << 3).pack(),
        PowerCapability(control=POWER_STATE).pack(),
        at=at,
    )


def message_signalled(vectors: int, *, maskable: bool = True, at: int | None = None) -> Capability:
    """MSI with 64-bit addresses.

    Args:
        vectors: 1, 2, 4, 8, 16 or 32.
        maskable: With mask and pending bits.
        at: Where it has to be.
    """
    if vectors not in (1, 2, 4, 8, 16, 32):
        raise CapabilityError(f"MSI: expected 1, 2, 4, 8, 16 or 32 vectors, came {vectors}")
    control = (vectors.bit_length() - 1) << 1 | 1 << 7 | (1 << 8 if maskable else 0)
    size = MsiCapability.SIZE if maskable else 14
    all_ones = 0xFFFF_FFFF
    writable = MsiCapability(
        control=0x0071,
        address=all_ones & ~3,
        address_high=all_ones,
        data=0xFFFF,
        mask=(1 << vectors) - 1,
    )
    image = MsiCapability(id=CapabilityId.MSI, control=control)
    return Capability(CapabilityId.MSI, image.pack()[:size], writable.pack()[:size], at=at)


def message_signalled_x(
    vectors: int, bar: int, table: int, pending: int, *, at: int | None = None
) -> Capability:
    """MSI-X.

    Args:
        vectors: 1 to 2048.
        bar: Number of the BAR with both.
        table: Offset of the table in it, a multiple of 8.
        pending: Offset of the pending bits in it, a multiple of 8.
        at: Where it has to be.
    """
    if not 1 <= vectors <= 2048:
        raise CapabilityError(f"MSI-X: expected 1 to 2048 vectors, came {vectors}")
    if table % 8 or pending % 8:
        raise CapabilityError(
            f"MSI-X: table at {table:#x}, pending bits at {pending:#x}: multiples of 8 are needed"
        )
    image = MsixCapability(
        id=CapabilityId.MSIX, control=vectors - 1, table=table | bar, pending=pending | bar
    )
    writable = MsixCapability(control=MSIX_ENABLE | MSIX_MASK_ALL)
    return Capability(CapabilityId.MSIX, image.pack(), writable.pack(), at=at)


def pci_express(*, flr: bool = True, at: int | None = None) -> Capability:
    """PCI Express, version 2, an endpoint on a link of one lane at 2.5 GT/s.

    Args:
        flr: The function can be reset alone. The bit that starts it reads 0.
        at: Where it has to be.
    """
    link = 1 | 1 << 4
    image = PcieCapability(
        id=CapabilityId.PCIE,
        flags=0x0002,
        device_capabilities=0x8001 | (1 << 28 if flr else 0),
        device_control=0x2010,
        link_capabilities=link,
        link_status=link,
        device_capabilities_2=1 << 4,
    )
    writable = PcieCapability(device_control=0x78FF, link_control=0x00C3, device_control_2=1 << 4)
    w1c = PcieCapability(device_status=0x000F)
    return Capability(CapabilityId.PCIE, image.pack(), writable.pack(), w1c.pack(), at=at)


def vendor(data: bytes, writable: bytes = b"", *, at: int | None = None) -> Capability:
    """A capability of the vendor's own: at most 252 bytes after id, next pointer and length."""
    image = bytes([CapabilityId.VENDOR, 0, 3 + len(data)]) + data
    return Capability(CapabilityId.VENDOR, image, bytes(3) + writable, at=at)


def serial_number(number: int, *, at: int | None = None) -> Capability:
    """Extended: the device serial number, 64 bits."""
    image = bytes(4) + number.to_bytes(8, "little")
    return Capability(CapabilityId.EXTENDED_SERIAL, image, at=at, version=1)


def vendor_extended(
    id: int, revision: int, data: bytes, writable: bytes = b"", *, at: int | None = None
) -> Capability:
    """Extended: a capability of the vendor's own.

    Args:
        id: 16 bits, the vendor's own.
        revision: 4 bits.
        data: What follows the two headers.
        writable: Bits of `data` that can be written.
        at: Where it has to be.
    """
    head = id | revision << 16 | (8 + len(data)) << 20
    image = bytes(4) + head.to_bytes(4, "little") + data
    return Capability(CapabilityId.EXTENDED_VENDOR, image, bytes(8) + writable, at=at, version=1)


def place(space: ConfigSpace, capabilities: Sequence[Capability]) -> dict[int, int]:
    """Put capabilities into configuration space and link them in the order given.

    Returns:
        Offset by id; extended ones by ``id | 0x10000``, the first of an id.

    Raises:
        CapabilityError: No room, a place that is taken or not allowed, or extended ones without
            PCI Express.
    """
    standard = [c for c in capabilities if not c.extended]
    extended = [c for c in capabilities if c.extended]
    if extended and not any(c.id == CapabilityId.PCIE for c in standard):
        raise CapabilityError("extended capabilities need the PCI Express capability")
    found: dict[int, int] = {}
    places = _places(standard, FIRST, CONVENTIONAL)
    pointer = CAPABILITIES
    for one, at in zip(standard, places, strict=True):
        space.define(at, bytes([one.id, 0]) + one.image[2:], one.writable, one.w1c)
        space.amend(pointer, bytes([at]))
        pointer = at + 1
        found.setdefault(one.id, at)
    if standard:
        status = space.get(STATUS, 2) | STATUS_CAPABILITIES
        space.amend(STATUS, status.to_bytes(2, "little"))
    places = _places(extended, FIRST_EXTENDED, space.size)
    if places and places[0] != FIRST_EXTENDED:
        raise CapabilityError(
            f"the first extended capability has to be at {FIRST_EXTENDED:#x}, not {places[0]:#x}"
        )
    for one, at, following in zip(extended, places, [*places[1:], 0], strict=False):
        head = one.id | one.version << 16 | following << 20
        space.define(at, head.to_bytes(4, "little") + one.image[4:], one.writable, one.w1c)
        found.setdefault(one.id | 0x10000, at)
    return found


def _places(wanted: Sequence[Capability], first: int, end: int) -> list[int]:
    """Where each capability of a list goes; those that ask for a place get it first."""
    taken: list[tuple[int, int, int]] = []
    found: dict[int, int] = {}
    for i, one in sorted(enumerate(wanted), key=lambda pair: pair[1].at is None):
        size = len(one.image)
        where = f"capability {one.id:#x} of {size} bytes"
        if one.at is None:
            at = first
            for start, last, _ in sorted(taken):
                if start < at + size and at < last:
                    at = last + 3 & ~3
        else:
            at = one.at
            if at < first or at % 4:
                raise CapabilityError(
                    f"{where} can't be at {at:#x}: expected a multiple of 4 from {first:#x} on"
                )
        for start, last, other in taken:
            if start < at + size and at < last:
                raise CapabilityError(
                    f"{where} at {at:#x} overlaps capability {other:#x} at "
                    f"{start:#x}+{last - start}"
                )
        if at + size > end:
            raise CapabilityError(f"no room for {where}: the list ends at {end:#x}")
        taken.append((at, at + size, one.id))
        found[i] = at
    return [found[i] for i in range(len(wanted))]
