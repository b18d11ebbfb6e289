"""Regions as the wire shows them: GET_REGION_INFO, both ways.

Source: vfio-user specification, "VFIO_USER_DEVICE_GET_REGION_INFO".
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from typing import Final

from emudev_core.errors import DecodeError, PeerError
from emudev_core.queues import Doorbell
from emudev_core.regions import MapArea, RegionFlag, RegionInfo

from .messages import (
    Capability,
    CapabilityHead,
    RegionInfoFlags,
    RegionInfoHead,
    SparseMmapArea,
    SparseMmapHead,
)

__all__ = [
    "MIN_REGIONS",
    "check_regions",
    "count_regions",
    "decode_region",
    "encode_region",
    "find_doorbells",
    "readable_sizes",
    "region_info",
]

#: Regions that a PCI device always has: BARs, ROM, configuration space, VGA. Source: linux/vfio.h.
MIN_REGIONS: Final = 9


#: Capabilities of one region that a client walks before it gives up.
_MAX_CAPS: Final = 64


def check_regions(regions: Sequence[RegionInfo]) -> dict[int, RegionInfo]:
    """The regions by index.

    Raises:
        ValueError: An index appears twice, or a mappable area is not page aligned, reaches out of
            its region, or has no memory behind it.
    """
    found: dict[int, RegionInfo] = {}
    for info in regions:
        if info.index in found:
            raise ValueError(f"region {info.index} appears twice")
        found[info.index] = info
        for area in info.areas:
            if area.offset % mmap.PAGESIZE or area.size % mmap.PAGESIZE or area.size <= 0:
                raise ValueError(
                    f"region {info.index}: mappable area {area.offset:#x}+{area.size:#x} is not "
                    "page aligned"
                )
            if area.offset < 0 or area.offset + area.size > info.size:
                raise ValueError(
                    f"region {info.index}: mappable area {area.offset:#x}+{area.size:#x} reaches "
                    f"out of the region of {info.size:#x} bytes"
                )
            if info.fd is None:
                raise ValueError(f"region {info.index}: a mappable area needs a descriptor")
    return found


def count_regions(regions: Mapping[int, RegionInfo]) -> int:
    """How many regions a client is told of: those of any PCI device, and all that are there."""
    return max(MIN_REGIONS, max(regions, default=-1) + 1)


def readable_sizes(regions: Mapping[int, RegionInfo]) -> dict[int, int]:
    """Bytes of each region that can be read, by index."""
    return {i: info.size for i, info in regions.items() if info.flags & RegionFlag.READ}


def find_doorbells(regions: Mapping[int, RegionInfo]) -> dict[tuple[int, int], Doorbell]:
    """The doorbells of all regions, by index and offset."""
    return {
        (info.index, window.offset + i * window.stride): bell
        for info in regions.values()
        for window in info.doorbells
        for i, bell in enumerate(window.doorbells)
    }


def region_info(
    regions: dict[int, RegionInfo], count: int, payload: bytes, limit: int
) -> tuple[bytes, list[int]]:
    """Answer a request.

    Args:
        regions: The device's, by index.
        count: Indices that exist; one without a region is answered with size 0.
        payload: Of the request.
        limit: The longest payload that the client takes, bytes.

    Returns:
        Payload of the reply, and the descriptors to send along, still owned by the device.

    Raises:
        PeerError: EINVAL for a short payload, a small argsz or an unknown index.
    """
    request = RegionInfoHead.unpack(payload)
    if request.argsz < RegionInfoHead.SIZE:
        raise PeerError(f"GET_REGION_INFO: argsz {request.argsz} is below {RegionInfoHead.SIZE}")
    if request.index >= count:
        raise PeerError(f"GET_REGION_INFO: region {request.index}, there are {count}")
    info = regions.get(request.index, RegionInfo(request.index, 0))
    return encode_region(info, min(request.argsz, limit))


def encode_region(info: RegionInfo, room: int) -> tuple[bytes, list[int]]:
    """The payload of a reply and its descriptors; capabilities only if they fit `room`."""
    flags = int(info.flags & (RegionFlag.READ | RegionFlag.WRITE))
    areas = info.areas if info.fd is not None else ()
    needed = RegionInfoHead.SIZE
    if areas:
        flags |= RegionInfoFlags.MMAP
        needed += CapabilityHead.SIZE + SparseMmapHead.SIZE + SparseMmapArea.SIZE * len(areas)
    head = RegionInfoHead(
        argsz=needed,
        flags=flags,
        index=info.index,
        size=info.size,
        offset=info.fd_offset if areas else 0,
    )
    if not areas or needed > room or info.fd is None:
        return head.pack(), []
    head = head.replace(flags=flags | RegionInfoFlags.CAPS, cap_offset=RegionInfoHead.SIZE)
    parts = [
        head.pack(),
        CapabilityHead(id=Capability.SPARSE_MMAP, version=1, next=0).pack(),
        SparseMmapHead(nr_areas=len(areas)).pack(),
    ]
    parts += [SparseMmapArea(area.offset, area.size).pack() for area in areas]
    return b"".join(parts), [info.fd]


def decode_region(payload: bytes, fd: int | None) -> RegionInfo:
    """A region from a full reply.

    Raises:
        DecodeError: A capability points outside the payload, or the chain does not end.
    """
    head = RegionInfoHead.unpack(payload)
    areas: tuple[MapArea, ...] = ()
    at = head.cap_offset if head.flags & RegionInfoFlags.CAPS else 0
    for _ in range(_MAX_CAPS):
        if not at:
            break
        cap = CapabilityHead.unpack(payload, at)
        if cap.id == Capability.SPARSE_MMAP:
            sparse = SparseMmapHead.unpack(payload, at + CapabilityHead.SIZE)
            first = at + CapabilityHead.SIZE + SparseMmapHead.SIZE
            records = SparseMmapArea.unpack_many(payload, sparse.nr_areas, first)
            areas = tuple(MapArea(r.offset, r.size) for r in records)
        at = cap.next
    else:
        raise DecodeError(f"region {head.index}: more than {_MAX_CAPS} capabilities")
    if head.flags & RegionInfoFlags.MMAP and fd is not None and not areas:
        areas = (MapArea(0, head.size),)
    return RegionInfo(
        index=head.index,
        size=head.size,
        flags=RegionFlag(head.flags & 7),
        fd=fd,
        fd_offset=head.offset,
        areas=areas,
    )
