"""Both ends of the protocol without a socket, by hand: what is given to them, what they sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import attrs

from ..layout import RingPlace
from ..offers import Region, Ring
from ..protocol import Claimed, ClientProtocol, Greeted, ServerProtocol, State
from ..regions import check_eventfd, check_memory
from ..wire import Hello
from .records import (
    ACK,
    add_region,
    add_ring,
    connected,
    event_file,
    hello,
    init,
    memory_file,
    reason_of,
)

__all__ = ["RING", "Client", "Interface", "Server", "make_descriptors"]

#: Bytes of a ring of 1024 descriptors.
RING: Final = 128 + 16 * 1024


@attrs.define
class Interface:
    """What a server asks; the checks of descriptors are the real ones."""

    pairs: int = 2
    secret: bytes = b""
    taken: bool = False
    limit: int = 1 << 30

    def check_region(self, fd: int, size: int, before: int) -> None:
        """See `protocol.Interface`."""
        check_memory(fd, size, before, self.limit)

    def check_ring(self, fd: int) -> None:
        """See `protocol.Interface`."""
        check_eventfd(fd)


class Server:
    """A server's end with interface 7, and what it sent."""

    def __init__(self, **keys: Any) -> None:
        self.interface = Interface(**keys)
        self.protocol = ServerProtocol(Hello(name=b"test"), {7: self.interface}.get)
        self.sent: list[bytes] = []
        self.collect()
        self.hello = self.sent.pop()

    def collect(self) -> None:
        """Take what waits to be sent."""
        while (waiting := self.protocol.pending()) is not None:
            assert waiting[1] is None  # a server sends no descriptors
            self.sent.append(waiting[0])
            self.protocol.sent()

    def give(self, data: bytes, *fds: int, truncated: bool = False) -> list[Any]:
        """Give it a record; answers the events."""
        events = self.protocol.receive(data, fds, truncated)
        self.collect()
        return events

    def claim(self) -> None:
        """Take it to where regions and rings are awaited."""
        assert self.give(init(7)) == [Claimed(7, "by hand")]
        self.protocol.accept()
        self.collect()
        assert self.sent.pop() == ACK

    def offer(self, rings: int = 1) -> None:
        """Offer a region and so many rings each way."""
        self.claim()
        assert self.give(add_region(0, 1 << 20), memory_file()) == []
        for c2s in (True, False):
            for index in range(rings):
                at = RING * (index if c2s else rings + index)
                assert self.give(add_ring(c2s, index, 0, at), event_file()) == []
        assert self.sent == [ACK] * (1 + 2 * rings)
        self.sent.clear()

    def refused(self) -> str:
        """The reason that was sent, with nothing before it."""
        assert self.protocol.state is State.CLOSED
        (data,) = self.sent
        return reason_of(data)


class Client:
    """A client's end with a region and a ring each way, and what it sent."""

    def __init__(self) -> None:
        self.protocol = ClientProtocol(7, b"abc", "emudev", "memif_emudev_0")
        self.memory, self.c2s, self.s2c = memory_file(), event_file(), event_file()
        self.sent: list[tuple[bytes, int | None]] = []

    def give(self, data: bytes, *fds: int, truncated: bool = False) -> list[Any]:
        """Give it a record; answers the events."""
        events = self.protocol.receive(data, fds, truncated)
        if events and isinstance(events[0], Greeted):
            rings = [
                Ring(True, 0, RingPlace(0, 0, 10), self.c2s),
                Ring(False, 0, RingPlace(0, RING, 10), self.s2c),
            ]
            self.protocol.offer([Region(self.memory, 1 << 20)], rings)
        while (waiting := self.protocol.pending()) is not None:
            self.sent.append(waiting)
            self.protocol.sent()
        return events

    def reach(self, state: State) -> None:
        """Take it to a state by what a sound server sends."""
        steps = {State.GREETING: 0, State.ASKING: 1, State.OFFERING: 2, State.CONNECTED: 6}
        sound = [hello(), ACK, ACK, ACK, ACK, connected()]
        for data in sound[: steps[state]]:
            self.give(data)
        assert self.protocol.state is state
        self.sent.clear()

    def refused(self) -> str:
        """The reason that was sent, with nothing before it."""
        assert self.protocol.state is State.CLOSED
        ((data, fd),) = self.sent
        assert fd is None
        return reason_of(data)

    def close(self) -> None:
        """Close what it offers."""
        for fd in (self.memory, self.c2s, self.s2c):
            os.close(fd)


def make_descriptors(kind: str) -> list[int]:
    """Descriptors of a kind that a record may come with, sound or not; the caller's.

    Args:
        kind: ``memory``, ``eventfd``, ``two``, ``pipe`` or ``disk``; another one makes none.
    """
    if kind == "memory":
        return [memory_file()]
    if kind == "eventfd":
        return [event_file()]
    if kind == "two":
        return [event_file(), memory_file()]
    if kind == "pipe":
        near, far = os.pipe()
        os.close(near)
        return [far]
    if kind == "disk":
        path = Path(__file__)
        return [os.open(path, os.O_RDONLY)]
    return []
