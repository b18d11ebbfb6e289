"""What a transport shows of a device: its regions and its groups of interrupts.

The core knows no PCI: the numbers of regions and groups are an agreement between providers and
clients. For PCI functions they are those of VFIO (the PCI kit names them).
"""

from __future__ import annotations

import enum

import attrs

from .queues import Doorbell

__all__ = ["DoorbellWindow", "IrqGroup", "MapArea", "RegionFlag", "RegionInfo", "ResetKind"]


class RegionFlag(enum.IntFlag):
    """What a client may do with a region."""

    NONE = 0
    READ = 1
    WRITE = 2
    MMAP = 4


@attrs.frozen
class MapArea:
    """A part of a region that a client may map, page aligned.

    Attributes:
        offset: In the region, bytes.
        size: Bytes.
    """

    offset: int
    size: int


@attrs.frozen
class DoorbellWindow:
    """A row of 32-bit doorbells in a region, which a transport may serve by itself.

    Attributes:
        offset: Of the first one in the region, bytes.
        stride: From one to the next, bytes.
        doorbells: In order.
    """

    offset: int
    stride: int
    doorbells: tuple[Doorbell, ...]


@attrs.frozen
class RegionInfo:
    """A region of a device.

    Attributes:
        index: Number, from 0.
        size: Bytes; 0 for one that is not there.
        flags: What a client may do.
        doorbells: Rows of doorbells in it.
        fd: Descriptor of the memory behind `areas`, owned by the provider; None if nothing is
            mappable.
        fd_offset: Where the region starts in it.
        areas: Mappable parts.
    """

    index: int
    size: int
    flags: RegionFlag = RegionFlag.NONE
    doorbells: tuple[DoorbellWindow, ...] = ()
    fd: int | None = None
    fd_offset: int = 0
    areas: tuple[MapArea, ...] = ()


@attrs.frozen
class IrqGroup:
    """A group of interrupt vectors of one kind.

    Attributes:
        index: Number, from 0.
        count: Vectors; 0 for a group that is not there.
        maskable: A client may mask and unmask them.
        automasked: A vector is masked by its own signal until the client unmasks it (levels).
    """

    index: int
    count: int
    maskable: bool = False
    automasked: bool = False


class ResetKind(enum.Enum):
    """Why a device is reset."""

    POWER = "power"  #: the machine's reset: everything back to power-on values
    FUNCTION = "function"  #: a function level reset by the guest
    CLIENT_GONE = "client-gone"  #: the client went away in the middle of whatever it did
