"""What a client offers on its way to CONNECT: regions, rings and their descriptors, and the rules.

An offer is built message by message at the server. It owns every descriptor that it took, until it
is closed or somebody takes it over. Nothing is mapped here.

Source: memif.md 3 and 8 (control side, rules 4 and 5).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from emudev_core.errors import PeerError

from .layout import RingPlace
from .wire import AddRegion, AddRing, RingFlags
from .words import MAX_LOG2, MIN_LOG2, REGIONS

__all__ = ["Offer", "Region", "Ring"]

#: What a ring's offset is a multiple of; 64 would refuse DPDK's own. Source: memif.md 8, rule 5.
_ALIGNMENT: Final = 16


@attrs.frozen
class Region:
    """Memory that a client shares.

    Attributes:
        fd: Its file, owned by the offer.
        size: Bytes from the file's start.
    """

    fd: int
    size: int


@attrs.frozen
class Ring:
    """A ring in that memory.

    Attributes:
        c2s: It carries frames from client to server.
        index: Within its direction.
        place: Where it lies.
        fd: Its eventfd, owned by the offer.
    """

    c2s: bool
    index: int
    place: RingPlace
    fd: int

    @property
    def end(self) -> int:
        """Offset in its region behind its last descriptor."""
        return self.place.offset + self.place.bytes

    @property
    def name(self) -> str:
        """For messages."""
        return f"{'C2S' if self.c2s else 'S2C'} ring {self.index}"


class Offer:
    """See the module.

    Args:
        pairs: Rings that the interface has in each direction.
        check_region: Looks at a region's descriptor, size and number of bytes offered before, and
            raises `PeerError` if it must not be mapped.
        check_ring: Looks at a ring's descriptor likewise.

    Attributes:
        regions: By index.
        rings: In the order in which they came.
    """

    def __init__(
        self,
        pairs: int,
        check_region: Callable[[int, int, int], None],
        check_ring: Callable[[int], None],
    ) -> None:
        self._pairs = pairs
        self._check_region = check_region
        self._check_ring = check_ring
        self.regions: list[Region] = []
        self.rings: list[Ring] = []

    def add_region(self, message: AddRegion, fd: int) -> None:
        """Take a region; its descriptor belongs to the offer if this returns.

        Raises:
            PeerError: It breaks a rule; the descriptor stays the caller's.
        """
        expected = len(self.regions)
        if expected >= REGIONS:
            raise PeerError(f"Invalid region index: at most {REGIONS} regions are taken")
        if message.index != expected:
            raise PeerError(f"Invalid region index: expected {expected}, came {message.index}")
        if message.size == 0:
            raise PeerError(f"Invalid region size: region {message.index} is empty")
        self._check_region(fd, message.size, sum(region.size for region in self.regions))
        self.regions.append(Region(fd, message.size))

    def add_ring(self, message: AddRing, fd: int) -> None:
        """Take a ring; its descriptor belongs to the offer if this returns.

        Raises:
            PeerError: It breaks a rule; the descriptor stays the caller's.
        """
        ring = Ring(
            c2s=bool(message.flags & RingFlags.C2S),
            index=message.index,
            place=RingPlace(message.region, message.offset, message.log2_size),
            fd=fd,
        )
        if ring.index >= self._pairs:
            raise PeerError(f"Invalid ring index: {ring.name}, the interface has {self._pairs}")
        if any((other.c2s, other.index) == (ring.c2s, ring.index) for other in self.rings):
            raise PeerError(f"Invalid ring index: {ring.name} came twice")
        if not MIN_LOG2 <= ring.place.log2_size <= MAX_LOG2:
            log2 = ring.place.log2_size
            raise PeerError(f"Invalid ring size: log2 is {log2}, {MIN_LOG2} to {MAX_LOG2} expected")
        if message.private_size:
            raise PeerError(f"Invalid private header size: {message.private_size}, expected 0")
        self._check_place(ring)
        self._check_ring(fd)
        self.rings.append(ring)

    def _check_place(self, ring: Ring) -> None:
        place = ring.place
        if place.region >= len(self.regions):
            raise PeerError(f"Invalid region index: {ring.name} is in region {place.region}")
        if place.offset % _ALIGNMENT:
            raise PeerError(f"Invalid ring offset: {ring.name} at {place.offset:#x}")
        size = self.regions[place.region].size
        if ring.end > size:
            raise PeerError(f"{ring.name} ends at {ring.end:#x}, its region at {size:#x}")
        for other in self.rings:
            if (
                other.place.region == place.region
                and other.place.offset < ring.end
                and place.offset < other.end
            ):
                raise PeerError(f"{ring.name} overlaps {other.name}")

    def check_complete(self) -> None:
        """Whether a client may CONNECT with this.

        Raises:
            PeerError: There are no rings, or their indices have holes.
        """
        if not self.rings:
            raise PeerError("CONNECT without rings")
        for c2s in (True, False):
            rings = self.direction(c2s)
            for expected, ring in enumerate(rings):
                if ring.index != expected:
                    raise PeerError(f"{ring.name} without {rings[0].name[:3]} ring {expected}")

    def direction(self, c2s: bool) -> Sequence[Ring]:
        """The rings of one direction by index."""
        return sorted((r for r in self.rings if r.c2s == c2s), key=lambda ring: ring.index)

    def take(self) -> tuple[list[Region], list[Ring]]:
        """Hand everything over: the descriptors are the caller's now."""
        regions, rings = self.regions, self.rings
        self.regions, self.rings = [], []
        return regions, rings

    def close(self) -> None:
        """Close every descriptor. A second call does nothing."""
        regions, rings = self.take()
        for fd in (*(region.fd for region in regions), *(ring.fd for ring in rings)):
            with contextlib.suppress(OSError):
                os.close(fd)
