"""The messages of vfio-user: commands, flags and the structs that follow the header.

All numbers are little endian. An open set of numbers (commands, capability ids) is an `IntEnum` for
names only: fields are plain ints, so that unknown values survive decoding.

Source: vfio-user protocol specification (QEMU, docs/interop/vfio-user.rst), version 0.x.
"""

from __future__ import annotations

import enum
from typing import Final

from emudev_core.wire import Wire, raw, u16, u32, u64, wire

__all__ = [
    "Command",
    "Flags",
    "Header",
    "Version",
    "DmaMap",
    "DmaMapFlags",
    "DmaUnmap",
    "DmaUnmapFlags",
    "DeviceInfo",
    "DeviceFlags",
    "RegionInfoHead",
    "RegionInfoFlags",
    "CapabilityHead",
    "Capability",
    "SparseMmapHead",
    "SparseMmapArea",
    "IrqInfo",
    "IrqFlags",
    "SetIrqs",
    "SetIrqsFlags",
    "RegionAccess",
    "DmaAccess",
    "WriteMultiHead",
    "WriteMultiRecord",
    "FeatureHead",
    "HEADER",
    "POSTED",
    "REPLY",
    "ERROR_REPLY",
    "DEFAULT_DATA",
    "MAX_DATA",
    "MAX_FDS",
    "MAX_MESSAGE",
    "command_name",
]


class Command(enum.IntEnum):
    """What a message is about."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    GET_INFO = 4
    GET_REGION_INFO = 5
    GET_REGION_IO_FDS = 6
    GET_IRQ_INFO = 7
    SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    RESET = 13
    DIRTY_PAGES = 14
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


def command_name(number: int) -> str:
    """The name of a command, or ``command 99`` for one that is not known."""
    try:
        return Command(number).name
    except ValueError:
        return f"command {number}"


class Flags(enum.IntFlag):
    """Flags of the header. Bits 0 to 3 are the type: 0 a command, 1 a reply."""

    COMMAND = 0
    REPLY = 0x01
    NO_REPLY = 0x10
    ERROR = 0x20


HEADER: Final = 16  #: bytes of a header
POSTED: Final = 0x10  #: flags of a command that gets no reply
REPLY: Final = 0x01  #: flags of a reply
ERROR_REPLY: Final = 0x21  #: flags of an error reply

DEFAULT_DATA: Final = 1 << 20  #: data a transfer may carry if a peer says nothing, bytes
MAX_DATA: Final = 1 << 20  #: data a transfer to us may carry, bytes
MAX_FDS: Final = 64  #: descriptors a message to us may carry
MAX_MESSAGE: Final = MAX_DATA + 2 * HEADER  #: the longest message to us: a full REGION_WRITE, bytes


@wire(size=16)
class Header(Wire):
    """Start of every message. Source: vfio-user specification, "Header"."""

    msg_id: int = u16("chosen by the sender of the command, echoed in the reply")
    command: int = u16("a Command; unknown values are kept")
    msg_size: int = u32("header and payload, bytes")
    flags: int = u32("Flags", default=0)
    error: int = u32("errno of an error reply, else 0", default=0)


@wire(size=4)
class Version(Wire):
    """Head of VERSION, both ways; JSON text with its NUL may follow."""

    major: int = u16("0")
    minor: int = u16("at most what the client asked for")


class DmaMapFlags(enum.IntFlag):
    """Flags of DMA_MAP. The last two are libvfio-user's."""

    READ = 1
    WRITE = 2
    MMAP = 4
    FILE_IO = 8


@wire(size=32)
class DmaMap(Wire):
    """Request of DMA_MAP, with 0 or 1 descriptor; the reply is a header."""

    argsz: int = u32("length of this struct, 32")
    flags: int = u32("DmaMapFlags")
    offset: int = u64("where the range starts in the descriptor, bytes")
    address: int = u64("guest (IO virtual) address")
    size: int = u64("bytes; address + size is at most 2**64")


class DmaUnmapFlags(enum.IntFlag):
    """Flags of DMA_UNMAP."""

    GET_DIRTY_BITMAP = 1
    ALL = 2


@wire(size=24)
class DmaUnmap(Wire):
    """Request of DMA_UNMAP, echoed in the reply."""

    argsz: int = u32("24; more with a dirty bitmap")
    flags: int = u32("DmaUnmapFlags")
    address: int = u64("guest address; 0 with ALL")
    size: int = u64("bytes; 0 with ALL")


class DeviceFlags(enum.IntFlag):
    """Flags of GET_INFO."""

    RESET = 1
    PCI = 2


@wire(size=16)
class DeviceInfo(Wire):
    """GET_INFO, both ways."""

    argsz: int = u32("room for the reply's payload; in the reply 16")
    flags: int = u32("DeviceFlags", default=0)
    num_regions: int = u32("regions, indices from 0", default=0)
    num_irqs: int = u32("groups of interrupts, indices from 0", default=0)


class RegionInfoFlags(enum.IntFlag):
    """Flags of GET_REGION_INFO."""

    READ = 1
    WRITE = 2
    MMAP = 4
    CAPS = 8


@wire(size=32)
class RegionInfoHead(Wire):
    """GET_REGION_INFO, both ways; the reply may have capabilities behind it and one descriptor."""

    argsz: int = u32("room for the reply's payload; in the reply, what all of it needs")
    flags: int = u32("RegionInfoFlags", default=0)
    index: int = u32("region", default=0)
    cap_offset: int = u32("of the first capability from the start of this struct, or 0", default=0)
    size: int = u64("bytes of the region, 0 if it is not there", default=0)
    offset: int = u64("of the region in the descriptor that comes along", default=0)


class Capability(enum.IntEnum):
    """Ids of region capabilities."""

    SPARSE_MMAP = 1
    TYPE = 2
    MSIX_MAPPABLE = 3


@wire(size=8)
class CapabilityHead(Wire):
    """Start of a region capability."""

    id: int = u16("a Capability; unknown values are kept")
    version: int = u16("1")
    next: int = u32("of the next one from the start of RegionInfoHead, 0 at the end")


@wire(size=8)
class SparseMmapHead(Wire):
    """What follows `CapabilityHead` in SPARSE_MMAP; `SparseMmapArea`s follow."""

    nr_areas: int = u32("number of areas")
    reserved: int = u32("0", default=0)


@wire(size=16)
class SparseMmapArea(Wire):
    """One mappable area."""

    offset: int = u64("from the start of the region, bytes")
    size: int = u64("bytes")


class IrqFlags(enum.IntFlag):
    """Flags of GET_IRQ_INFO."""

    EVENTFD = 1
    MASKABLE = 2
    AUTOMASKED = 4
    NORESIZE = 8


@wire(size=16)
class IrqInfo(Wire):
    """GET_IRQ_INFO, both ways."""

    argsz: int = u32("room for the reply's payload; in the reply 16")
    flags: int = u32("IrqFlags", default=0)
    index: int = u32("group", default=0)
    count: int = u32("vectors, 0 if the group is not there", default=0)


class SetIrqsFlags(enum.IntFlag):
    """Flags of SET_IRQS: one kind of data and one action."""

    DATA_NONE = 0x01
    DATA_BOOL = 0x02
    DATA_EVENTFD = 0x04
    MASK = 0x08
    UNMASK = 0x10
    TRIGGER = 0x20


@wire(size=20)
class SetIrqs(Wire):
    """Request of SET_IRQS; `count` bytes follow with DATA_BOOL. The reply is a header."""

    argsz: int = u32("length of this struct and its data")
    flags: int = u32("SetIrqsFlags")
    index: int = u32("group")
    start: int = u32("first vector")
    count: int = u32("number of vectors")


@wire(size=16)
class RegionAccess(Wire):
    """Head of REGION_READ and REGION_WRITE, both ways; data follows where there is some."""

    offset: int = u64("in the region, bytes")
    region: int = u32("index")
    count: int = u32("bytes of data")


@wire(size=16)
class DmaAccess(Wire):
    """Head of DMA_READ and DMA_WRITE, both ways; data follows where there is some."""

    address: int = u64("guest address")
    count: int = u64("bytes of data")


@wire(size=8)
class WriteMultiHead(Wire):
    """Head of REGION_WRITE_MULTI and its reply; records follow in the request."""

    wr_cnt: int = u64("number of records")


@wire(size=24)
class WriteMultiRecord(Wire):
    """One write of REGION_WRITE_MULTI."""

    offset: int = u64("in the region, bytes")
    region: int = u32("index")
    count: int = u32("bytes of data that count, 1 to 8")
    data: bytes = raw(8, "data, filled up with anything")


@wire(size=8)
class FeatureHead(Wire):
    """Head of DEVICE_FEATURE, which is not served; clients may send it all the same."""

    argsz: int = u32("room for the reply's payload")
    flags: int = u32("bits 0-15 the feature, 16 GET, 17 SET, 18 PROBE")
