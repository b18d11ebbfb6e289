"""Steps that tests of interfaces take again and again, and the frames that they send."""

from __future__ import annotations

import time
from typing import Final

from emudev_core.device import Device
from emudev_core.host import Host

from .records import ACK, HandMade, add_region, add_ring, event_file, init

__all__ = ["RING", "frames", "offer", "start"]

#: Bytes of a ring of 16 descriptors.
RING: Final = 128 + 16 * 16


def frames(count: int, size: int = 60, first: int = 0) -> list[bytes]:
    """Frames that differ in each byte's place and between each other.

    Args:
        count: How many.
        size: Bytes of each.
        first: The first byte of the first one, modulo 251.
    """
    return [bytes((first + i + j) % 251 for j in range(size)) for i in range(count)]


def start(host: Host, *vdevs: str, link: bool = True) -> list[Device]:
    """Start devices with their links up, and wait until they would take a peer."""
    devices = [host.add(vdev) for vdev in vdevs]
    host.start()
    for device in devices:
        if link:
            device.set_attr("link", True)
        provider = device.members[0].plugin
        deadline = time.monotonic() + 60
        while not provider._ready:
            assert time.monotonic() < deadline
            host.loop.turn(0.01)
    return devices


def offer(hand: HandMade, file: int, *, id: int = 5, log2: int = 4) -> None:
    """Take a connection to where CONNECT is due: one ring each way.

    Args:
        hand: Connected.
        file: The memory; stays the caller's.
        id: The interface.
        log2: Of the rings' size.
    """
    hand.send(init(id))
    hand.expect(ACK)
    hand.send(add_region(0, 1 << 20), file)
    hand.expect(ACK)
    for c2s in (True, False):
        hand.give(add_ring(c2s, 0, 0, 0 if c2s else RING, log2), event_file())
        hand.expect(ACK)
