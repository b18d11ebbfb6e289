"""The server: a listening socket, shared by all interfaces of this process that have its address.

A connection belongs to the listener until its INIT names an interface, and to that one from then
on. While the interface is down its client is kept waiting for the answer to INIT, which all known
clients do patiently: DPDK's tries only once, so refusing it would lose it. An interface that goes
down lets its client go, and takes the next one.

Source: memif.md 2.1, 2.3, 2.4 and 8.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

import attrs

from emudev_core.errors import ConfigError, PeerError
from emudev_core.loop import READ, Loop

from . import sockets
from .channel import HANDSHAKE, Channel
from .ends import Peer, Rings, User, program
from .protocol import Claimed, Closed, Event, Offered, ServerProtocol, State
from .regions import PeerMemory
from .sockets import Address
from .wire import Hello, string

__all__ = ["Listener", "ServerEnd", "SocketOptions"]

log = logging.getLogger(__name__)

#: Connections of one socket that have not named an interface yet.
PENDING: Final = 16
_RETRY: Final = 0.1  # after a failed accept, seconds

_Channel: TypeAlias = Channel[ServerProtocol]


@attrs.frozen
class SocketOptions:
    """How a socket is made.

    Attributes:
        address: Where.
        mode: Permissions of its file.
        uid, gid: Owner and group of its file, -1 leaves them.
    """

    address: Address
    mode: int = 0o600
    uid: int = -1
    gid: int = -1


class Listener:
    """A listening socket and its clients that have not named an interface. On the loop's thread.

    Args:
        loop: The process' loop.
        options: Where and how.

    Raises:
        ConfigError: The address can't be used.
        TransportError: It is in use, or the system refused.
    """

    _all: Final[WeakKeyDictionary[Loop, dict[Address, Listener]]] = WeakKeyDictionary()

    def __init__(self, loop: Loop, options: SocketOptions) -> None:
        self._loop = loop
        self._options = options
        self._members: dict[int, ServerEnd] = {}
        self._pending: set[_Channel] = set()
        self._socket = sockets.listen(options.address, options.mode, options.uid, options.gid)
        self._watch = loop.watch(self._socket.sock.fileno(), self._accept, READ)

    @classmethod
    def join(cls, loop: Loop, options: SocketOptions, id: int, end: ServerEnd) -> Listener:
        """Serve one more interface at a socket, which is made for the first one.

        Raises:
            ConfigError: The interface is served there already, or the socket was made otherwise.
            TransportError: As for the class.
        """
        listeners = cls._all.setdefault(loop, {})
        listener = listeners.get(options.address)
        if listener is None:
            listener = listeners[options.address] = cls(loop, options)
        elif listener._options != options:
            raise ConfigError(
                f"socket {options.address} is shared by interfaces that want another mode or owner"
            )
        if id in listener._members:
            other = listener._members[id].name
            raise ConfigError(
                f"socket {options.address} has an interface {id} already: {other}",
                hint="each one needs a number of its own",
            )
        listener._members[id] = end
        return listener

    def leave(self, id: int) -> None:
        """Serve an interface no more; the socket goes with the last one."""
        self._members.pop(id, None)
        if self._members:
            return
        self._all[self._loop].pop(self._options.address, None)
        self._watch.close()
        for channel in tuple(self._pending):
            channel.close("The server has stopped")
        self._socket.close()

    def _hello(self) -> Hello:
        """What is promised before the interface is known: as many rings as the largest one has.

        A client then makes fewer rings than it could, instead of being refused some later.
        """
        highest = max((end.pairs for end in self._members.values()), default=1) - 1
        return Hello(name=string(program(), 32), max_s2c_ring=highest, max_c2s_ring=highest)

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._socket.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:  # out of descriptors: try again soon instead of spinning
            log.error("%s: accept failed: %s", self._options.address, exc)
            self._watch.set(0)
            self._loop.call_later(_RETRY, self._arm)
            return
        sock.setblocking(False)
        protocol = ServerProtocol(self._hello(), self._members.get)
        channel = Channel(self._loop, sock, protocol, self._handle)
        if channel.open:
            self._pending.add(channel)
            self._arm()

    def _arm(self) -> None:
        self._watch.set(READ if len(self._pending) < PENDING else 0)

    def _handle(self, channel: _Channel, event: Event) -> None:
        self._pending.discard(channel)
        self._arm()
        if isinstance(event, Claimed):
            self._members[event.id].claim(channel, event.client)
        elif isinstance(event, Closed):
            log.debug("%s: %s: %s", self._options.address, channel.peer, event.reason)
            asked = channel.protocol.asked
            if asked is not None and asked in self._members:
                self._members[asked].refused(event.reason)


class ServerEnd:
    """The server's side of one interface; see `ends.End`.

    Args:
        user: The device.
        loop: The process' loop.
        options: Where to listen.
        id: Of the interface.
        guard: See `PeerMemory`.
    """

    def __init__(
        self,
        user: User,
        loop: Loop,
        options: SocketOptions,
        id: int,
        guard: Callable[[int, int], Callable[[], None]] | None = None,
    ) -> None:
        self._user = user
        self._loop = loop
        self._options = options
        self._id = id
        self._guard = guard
        self._listener: Listener | None = None
        self._channel: _Channel | None = None
        self._client = ""
        self._memory: PeerMemory | None = None
        self._fds: list[int] = []

    # -- what the listener and the protocol ask

    @property
    def name(self) -> str:
        """Of the interface."""
        return self._user.name

    @property
    def pairs(self) -> int:
        """Rings in each direction."""
        return self._user.pairs

    @property
    def secret(self) -> bytes:
        """What a client has to know."""
        return self._user.secret

    @property
    def taken(self) -> bool:
        """Whether a client has the interface."""
        return self._channel is not None

    def check_region(self, fd: int, size: int, before: int) -> None:
        """See `Interface`."""
        self._user.check_region(fd, size, before)

    def check_ring(self, fd: int) -> None:
        """See `Interface`."""
        self._user.check_ring(fd)

    # -- what the device asks

    def open(self) -> str:
        """Let clients come."""
        self._listener = Listener.join(self._loop, self._options, self._id, self)
        return f"memif:{self._options.address}"

    def update(self) -> None:
        """Answer the client that waits, or let the one go that is there."""
        channel = self._channel
        if channel is None:
            return
        waits = channel.protocol.state is State.CLAIMED
        if self._user.wanted and waits:
            self._accept(channel)
        elif not self._user.wanted and not waits:
            channel.close("Link is down")

    def disconnect(self, reason: str) -> None:
        """Let the client go."""
        if self._channel is not None:
            self._channel.close(reason)

    def close(self) -> None:
        """Let the client go, and take no more."""
        self.disconnect("Interface has stopped")
        if self._listener is not None:
            self._listener.leave(self._id)
            self._listener = None

    # -- one client

    def refused(self, reason: str) -> None:
        """A client asked for this interface and did not get it."""
        self._user.refused(reason)

    def claim(self, channel: _Channel, client: str) -> None:
        """A client whose INIT was sound is this interface's from now on."""
        self._channel = channel
        self._client = client
        channel.handler = self._handle
        channel.limit(None)
        channel.pause()
        if self._user.wanted:
            self._accept(channel)

    def _accept(self, channel: _Channel) -> None:
        channel.protocol.accept()
        channel.limit(HANDSHAKE)
        channel.resume()

    def _handle(self, channel: _Channel, event: Event) -> None:
        if isinstance(event, Offered):
            try:
                self._bring_up(channel, event)
            except PeerError as exc:
                channel.close(str(exc))
        elif isinstance(event, Closed):
            self._channel = None
            if self._memory is None:
                self._user.refused(event.reason)
            elif self._user.went_down(event.reason):
                self._release()

    def _bring_up(self, channel: _Channel, event: Offered) -> None:
        if self._memory is not None:
            for fd in (*(r.fd for r in event.regions), *(r.fd for r in event.rings)):
                os.close(fd)
            raise PeerError("The memory of the last client is still in use")
        fds = [ring.fd for ring in event.rings]
        memory: PeerMemory | None = None
        try:
            memory = PeerMemory(event.regions, event.rings, self._guard)
            c2s = [ring for ring in event.rings if ring.c2s]
            s2c = [ring for ring in event.rings if not ring.c2s]
            rings = Rings(
                regions=memory.regions,
                c2s=[ring.place for ring in c2s],
                s2c=[ring.place for ring in s2c],
                c2s_fds=[ring.fd for ring in c2s],
                s2c_fds=[ring.fd for ring in s2c],
            )
            self._user.went_up(rings, Peer(self._client, event.interface, channel.peer))
        except BaseException:
            if memory is not None:
                memory.close()
            for fd in fds:
                os.close(fd)
            raise
        self._memory, self._fds = memory, fds
        channel.limit(None)
        channel.protocol.connected(self._user.name)

    def _release(self) -> None:
        """Unmap and close what the client gave."""
        memory, self._memory = self._memory, None
        fds, self._fds = self._fds, []
        if memory is not None:
            memory.close()
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)

    def release(self) -> None:
        """Give back what was kept since somebody might still have used it; nobody does any more."""
        self._release()
