"""The client: it makes the memory, and connects again and again until a server takes it.

Source: memif.md 2.2 to 2.4, 3.1 and 8 (rule 7).
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final, TypeAlias

import attrs

from emudev_core.errors import ConfigError, PeerError
from emudev_core.loop import Loop, Timer

from . import sockets
from .channel import HANDSHAKE, Channel
from .ends import Peer, Rings, User, program
from .layout import RingMemory, RingPlace, create, layout
from .offers import Region, Ring
from .protocol import Accepted, ClientProtocol, Closed, Event, Greeted, Up
from .sockets import Address
from .wire import Hello
from .words import MIN_LOG2

__all__ = ["RETRY", "ClientEnd", "ClientOptions"]

log = logging.getLogger(__name__)

#: From the end of one connection, or of an attempt, to the next attempt, seconds.
RETRY: Final = 1.0

_Channel: TypeAlias = Channel[ClientProtocol]


@attrs.frozen
class ClientOptions:
    """What a client asks for.

    Attributes:
        address: Of the server.
        id: Of the interface.
        log2_size: Of the number of descriptors of a ring; the server may want fewer.
        buffer_size: Bytes of a buffer.
    """

    address: Address
    id: int
    log2_size: int = 10
    buffer_size: int = 2048


class _Offer:
    """The memory and the eventfds of one connection, owned by this."""

    def __init__(self, memory: RingMemory) -> None:
        self.memory = memory
        self.rings: list[Ring] = []
        self.peer = Peer()

    def add(self, c2s: bool, index: int, place: RingPlace) -> None:
        """Make a ring's eventfd."""
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.rings.append(Ring(c2s, index, place, fd))

    def attached(self) -> Rings:
        """For the device."""
        c2s = [ring for ring in self.rings if ring.c2s]
        s2c = [ring for ring in self.rings if not ring.c2s]
        return Rings(
            regions=self.memory.regions,
            c2s=[ring.place for ring in c2s],
            s2c=[ring.place for ring in s2c],
            c2s_fds=[ring.fd for ring in c2s],
            s2c_fds=[ring.fd for ring in s2c],
            layout=self.memory.layout,
        )

    def close(self) -> None:
        """Give everything back. A second call does nothing."""
        rings, self.rings = self.rings, []
        for ring in rings:
            os.close(ring.fd)
        self.memory.close()


class ClientEnd:
    """The client's side of one interface; see `ends.End`.

    Args:
        user: The device.
        loop: The process' loop.
        options: What to ask for.
    """

    def __init__(self, user: User, loop: Loop, options: ClientOptions) -> None:
        self._user = user
        self._loop = loop
        self._options = options
        self._opened = False
        self._timer: Timer | None = None
        self._channel: _Channel | None = None
        self._offer: _Offer | None = None
        self._up = False

    # -- what the device asks

    def open(self) -> str:
        """Connect as soon as the interface is up.

        Raises:
            ConfigError: The address is no client's.
        """
        address = self._options.address
        if address.inherited:
            raise ConfigError(
                "a client connects; an inherited listening socket is for role=server",
                where=f"socket={address.name}",
            )
        self._opened = True
        self._try_soon(0.0)
        return f"memif:{address}"

    def update(self) -> None:
        """Connect, or leave."""
        if not self._user.wanted:
            self.disconnect("Link is down")
        else:
            self._try_soon(0.0)

    def disconnect(self, reason: str) -> None:
        """Leave."""
        if self._channel is not None:
            self._channel.close(reason)

    def close(self) -> None:
        """Leave, and connect no more."""
        self._opened = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.disconnect("Interface has stopped")

    def release(self) -> None:
        """Give back what was kept since somebody might still have used it; nobody does any more."""
        offer, self._offer = self._offer, None
        if offer is not None:
            offer.close()

    # -- one server

    def _try_soon(self, delay: float) -> None:
        if not self._opened or not self._user.wanted or self._channel is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay, self._attempt)

    def _attempt(self) -> None:
        self._timer = None
        options = self._options
        if not self._opened or not self._user.wanted or self._channel is not None:
            return
        if self._offer is not None:
            self._user.refused("the memory of the last connection is still in use")
            return
        try:
            sock = sockets.connect(options.address)
        except OSError as exc:
            self._user.refused(_explain(options.address, exc))
            self._try_soon(RETRY)
            return
        protocol = ClientProtocol(options.id, self._user.secret, program(), self._user.name)
        channel = Channel(self._loop, sock, protocol, self._handle)
        if channel.open:
            self._channel = channel

    def _handle(self, channel: _Channel, event: Event) -> None:
        try:
            if isinstance(event, Greeted):
                self._make_offer(channel, event.hello, event.server)
            elif isinstance(event, Accepted):
                channel.limit(HANDSHAKE)
            elif isinstance(event, Up):
                self._bring_up(channel, event.interface)
            elif isinstance(event, Closed):
                self._end(event.reason)
        except PeerError as exc:
            channel.close(str(exc))
        except OSError as exc:
            channel.close(f"No memory for rings: {exc.strerror}")

    def _make_offer(self, channel: _Channel, hello: Hello, server: str) -> None:
        """Make rings: as many as both sides can have.

        Raises:
            PeerError: The server takes none.
            OSError: The system has no memory or descriptor for them.
        """
        options, pairs = self._options, self._user.pairs
        log2_size = min(options.log2_size, hello.max_log2)
        if log2_size < MIN_LOG2:
            raise PeerError(f"The server takes rings of 2**{hello.max_log2} descriptors")
        c2s = min(hello.max_c2s_ring + 1, pairs)
        s2c = min(hello.max_s2c_ring + 1, pairs)
        offer = _Offer(create(layout(c2s, s2c, log2_size, options.buffer_size)))
        self._offer = offer
        places = offer.memory.layout
        for index, place in enumerate(places.c2s):
            offer.add(True, index, place)
        for index, place in enumerate(places.s2c):
            offer.add(False, index, place)
        offer.peer = Peer(server, "", channel.peer)
        channel.protocol.offer([Region(offer.memory.fd, offer.memory.size)], offer.rings)
        channel.limit(None)  # a server whose interface is not up yet may let us wait

    def _bring_up(self, channel: _Channel, interface: str) -> None:
        assert self._offer is not None
        self._user.went_up(
            self._offer.attached(), attrs.evolve(self._offer.peer, interface=interface)
        )
        self._up = True
        channel.limit(None)

    def _end(self, reason: str) -> None:
        self._channel = None
        up, self._up = self._up, False
        if not up:
            self._user.refused(reason)
            self.release()
        elif self._user.went_down(reason):
            self.release()
        self._try_soon(RETRY)


def _explain(address: Address, exc: OSError) -> str:
    if exc.errno in (errno.ECONNREFUSED, errno.ENOENT):
        return f"nobody listens at {address}"
    if exc.errno == errno.EPROTOTYPE:
        return f"{address} is a socket of another type"
    return f"can't connect to {address}: {exc.strerror}"
