"""The two ends of the control channel, without I/O: records in, events and records out.

    server                                 client
    ------                                 ------
    HELLO  -> GREETED                      GREETING -- HELLO ->  ASKING   (sends INIT)
    INIT   -> CLAIMED  (event Claimed)     ASKING   -- ACK ->    OFFERING
    accept() -> OFFERED (sends ACK)        OFFERING -- ACK ->    OFFERING (sends the next message)
    ADD_REGION, ADD_RING -> ACK each                  ... the last one is CONNECT
    CONNECT -> COMPLETE (event Offered)    OFFERING -- CONNECTED -> CONNECTED
    connected() -> CONNECTED

A server decides about an INIT and about a CONNECT outside: it reads nothing more from the socket
until it has called `accept`, `connected` or `refuse`. DISCONNECT is taken in every state.

Whatever is refused ends the connection: a DISCONNECT with the reason is sent, the event `Closed`
says it, and every descriptor that the connection had is closed. A client writes one message for
each that it receives, as DPDK's and libmemif's do; a server takes what is sent ahead.

Source: memif.md 2.2 to 2.4 and 8.
"""

from __future__ import annotations

import contextlib
import enum
import hmac
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import attrs

from emudev_core.errors import PeerError

from .offers import Offer, Region, Ring
from .wire import (
    ETHERNET,
    VERSION,
    Ack,
    AddRegion,
    AddRing,
    Connect,
    Connected,
    Disconnect,
    Hello,
    Init,
    Message,
    MessageType,
    RingFlags,
    decode,
    string,
    text,
)

__all__ = [
    "CLIENT",
    "SERVER",
    "Accepted",
    "Claimed",
    "ClientProtocol",
    "Closed",
    "Event",
    "Greeted",
    "Interface",
    "MemifProtocol",
    "Offered",
    "ServerProtocol",
    "State",
    "Up",
]


class State(enum.Enum):
    """Where a connection is."""

    GREETED = "greeted"  #: server: HELLO is out, INIT is awaited
    CLAIMED = "claimed"  #: server: INIT was sound, `accept` is awaited
    OFFERED = "offered"  #: server: regions, rings and CONNECT are awaited
    COMPLETE = "complete"  #: server: CONNECT was sound, `connected` is awaited
    GREETING = "greeting"  #: client: HELLO is awaited
    ASKING = "asking"  #: client: the ACK of INIT is awaited
    OFFERING = "offering"  #: client: the ACKs of regions and rings, and CONNECTED are awaited
    CONNECTED = "connected"  #: both: frames may flow
    CLOSED = "closed"  #: both: it is over


_S, _T = State, MessageType

#: What a server takes in each state, and the next one; all else is refused.
SERVER: Final[Mapping[tuple[State, MessageType], State]] = {
    (_S.GREETED, _T.INIT): _S.CLAIMED,
    (_S.OFFERED, _T.ADD_REGION): _S.OFFERED,
    (_S.OFFERED, _T.ADD_RING): _S.OFFERED,
    (_S.OFFERED, _T.CONNECT): _S.COMPLETE,
    **{
        (state, _T.DISCONNECT): _S.CLOSED
        for state in (_S.GREETED, _S.CLAIMED, _S.OFFERED, _S.COMPLETE, _S.CONNECTED)
    },
}

#: What a client takes in each state, and the next one.
CLIENT: Final[Mapping[tuple[State, MessageType], State]] = {
    (_S.GREETING, _T.HELLO): _S.ASKING,
    (_S.ASKING, _T.ACK): _S.OFFERING,
    (_S.OFFERING, _T.ACK): _S.OFFERING,
    (_S.OFFERING, _T.CONNECTED): _S.CONNECTED,
    **{
        (state, _T.DISCONNECT): _S.CLOSED
        for state in (_S.GREETING, _S.ASKING, _S.OFFERING, _S.CONNECTED)
    },
}

#: Messages that carry a descriptor.
_WITH_FD: Final = (MessageType.ADD_REGION, MessageType.ADD_RING)


@attrs.frozen
class Claimed:
    """Server: a client wants an interface; answer with `accept` or `refuse`.

    Attributes:
        id: The interface, which the rules allow.
        client: Name of the client's program.
    """

    id: int
    client: str


@attrs.frozen
class Offered:
    """Server: everything is there; map it, then answer with `connected` or `refuse`.

    Attributes:
        regions: By index; whoever gets the event owns the descriptors.
        rings: In order of direction and index; likewise.
        interface: Name of the client's interface.
    """

    regions: Sequence[Region]
    rings: Sequence[Ring]
    interface: str


@attrs.frozen
class Greeted:
    """Client: what the server can take; answer with `offer`.

    Attributes:
        server: Name of the server's program.
        hello: The message.
    """

    server: str
    hello: Hello


@attrs.frozen
class Accepted:
    """Client: the server knows the interface, and the first region or ring is on its way."""


@attrs.frozen
class Up:
    """Client: the server uses the rings.

    Attributes:
        interface: Name of the server's interface.
    """

    interface: str


@attrs.frozen
class Closed:
    """It is over: send what waits and close the socket.

    Attributes:
        reason: Why, for people.
        refused: This side refused what the peer sent; else the peer left.
    """

    reason: str
    refused: bool


Event: TypeAlias = Claimed | Offered | Greeted | Accepted | Up | Closed


class Interface(Protocol):
    """What a server has to know of an interface to judge an INIT and what follows it."""

    @property
    def pairs(self) -> int:
        """Rings in each direction."""

    @property
    def secret(self) -> bytes:
        """What a client has to know; empty: anybody may come."""

    @property
    def taken(self) -> bool:
        """Whether a client has it."""

    def check_region(self, fd: int, size: int, before: int) -> None:
        """Raise `PeerError` if a region's descriptor must not be mapped; see `Offer`."""

    def check_ring(self, fd: int) -> None:
        """Raise `PeerError` if a ring's descriptor is no eventfd."""


class MemifProtocol:
    """What both ends share. Descriptors that `receive` is given belong to it.

    Attributes:
        state: Where the connection is.
        reason: Why it is over; empty before.
    """

    table: Mapping[tuple[State, MessageType], State]

    def __init__(self, state: State) -> None:
        self.state = state
        self.reason = ""
        self._out: deque[tuple[bytes, int | None]] = deque()

    def receive(self, data: bytes, fds: Sequence[int], truncated: bool = False) -> list[Event]:
        """Take one record.

        Args:
            data: The whole record, as many bytes as it had.
            fds: The descriptors that came with it; they are this object's from now on.
            truncated: Descriptors were lost on the way (``MSG_CTRUNC``).

        Returns:
            What happened, at most one event. Nothing once it is over.
        """
        kept = False
        try:
            if self.state is State.CLOSED:
                return []
            message = decode(data)
            kind = MessageType(message.type)
            after = self._judge(kind, fds, truncated)
            if isinstance(message, Disconnect):
                return [self._end(text(message.reason) or "the peer gave no reason", False)]
            events = self._take(message, fds[0] if fds else None)
            kept = bool(fds)
            self.state = after
            return events
        except PeerError as exc:
            return [self.refuse(str(exc))]
        finally:
            if not kept:
                _close(fds)

    def _judge(self, kind: MessageType, fds: Sequence[int], truncated: bool) -> State:
        """The state after a message of a kind.

        Raises:
            PeerError: It may not come now, or not with so many descriptors.
        """
        after = self.table.get((self.state, kind))
        if after is None:
            raise PeerError(f"Unexpected message: {kind.name} while {self.state.value}")
        if truncated:
            raise PeerError(f"{kind.name} lost file descriptors on its way")
        expected = int(kind in _WITH_FD)
        if len(fds) != expected:
            wanted = "a file descriptor" if expected else "no file descriptor"
            raise PeerError(f"{kind.name} comes with {wanted}, not {len(fds)}")
        return after

    def _take(self, message: Message, fd: int | None) -> list[Event]:
        raise NotImplementedError

    def _drop(self) -> None:
        """Close what the connection owns."""

    def refuse(self, reason: str) -> Closed:
        """End it with a reason that the peer is told. The answer is the event to act on.

        Args:
            reason: At most 95 bytes of it are sent.
        """
        if self.state is not State.CLOSED:
            self._out.clear()  # nobody waits for these any more, and they may hold descriptors
            self._send(Disconnect(reason=string(reason, 96)))
        return self._end(reason, True)

    def gone(self, reason: str = "the peer closed the connection") -> Closed:
        """End it without a message: the socket says that nobody reads it any more."""
        self._out.clear()
        return self._end(reason, False)

    def _end(self, reason: str, refused: bool) -> Closed:
        if self.state is not State.CLOSED:
            self.state = State.CLOSED
            self.reason = reason
            self._drop()
        return Closed(reason, refused)

    def _send(self, message: Message, fd: int | None = None) -> None:
        self._out.append((message.pack(), fd))

    def pending(self) -> tuple[bytes, int | None] | None:
        """The record to send next and the descriptor that goes with it, which is not given away."""
        return self._out[0] if self._out else None

    def sent(self) -> None:
        """The record of `pending` is out."""
        self._out.popleft()


class ServerProtocol(MemifProtocol):
    """A server's end of one connection.

    Args:
        hello: The first message, sent at once.
        find: Answers the interface of an id, or None.

    Attributes:
        asked: The interface that the client asked for; None before INIT.
    """

    table = SERVER

    def __init__(self, hello: Hello, find: Callable[[int], Interface | None]) -> None:
        super().__init__(State.GREETED)
        self.asked: int | None = None
        self._find = find
        self._offer: Offer | None = None
        self._send(hello)

    def _take(self, message: Message, fd: int | None) -> list[Event]:
        if isinstance(message, Init):
            return [self._claim(message)]
        assert self._offer is not None
        if isinstance(message, Connect):
            self._offer.check_complete()
            ordered = [*self._offer.direction(True), *self._offer.direction(False)]
            regions, _ = self._offer.take()
            return [Offered(regions, ordered, text(message.name))]
        assert fd is not None
        if isinstance(message, AddRegion):
            self._offer.add_region(message, fd)
        else:
            assert isinstance(message, AddRing)
            self._offer.add_ring(message, fd)
        self._send(Ack())
        return []

    def _claim(self, message: Init) -> Claimed:
        if message.version != VERSION:
            raise PeerError(f"Unsupported version {message.version:#06x}, expected {VERSION:#06x}")
        self.asked = message.id
        interface = self._find(message.id)
        if interface is None:
            raise PeerError(f"ID not found: there is no interface {message.id}")
        if message.mode != ETHERNET:
            raise PeerError(f"Mode mismatch: expected ethernet ({ETHERNET}), came {message.mode}")
        if interface.secret:
            given = message.secret.partition(b"\0")[0]
            if not hmac.compare_digest(given, interface.secret):
                raise PeerError("Incorrect secret" if given else "Secret required")
        if interface.taken:
            raise PeerError("Already connected")
        self._offer = Offer(interface.pairs, interface.check_region, interface.check_ring)
        return Claimed(message.id, text(message.name))

    def accept(self) -> None:
        """Answer INIT: the client may go on."""
        assert self.state is State.CLAIMED
        self._send(Ack())
        self.state = State.OFFERED

    def connected(self, name: str) -> None:
        """Answer CONNECT: the rings are in use.

        Args:
            name: Of this side's interface.
        """
        assert self.state is State.COMPLETE
        self._send(Connected(name=string(name, 32)))
        self.state = State.CONNECTED

    def _drop(self) -> None:
        if self._offer is not None:
            self._offer.close()
            self._offer = None


class ClientProtocol(MemifProtocol):
    """A client's end of one connection.

    Args:
        id: The interface that is wanted.
        secret: What admits this side, at most 23 bytes.
        program: Name of this program.
        name: Name of this side's interface.
    """

    table = CLIENT

    def __init__(self, id: int, secret: bytes, program: str, name: str) -> None:
        super().__init__(State.GREETING)
        self._init = Init(id=id, secret=secret[:23], name=string(program, 32))
        self._connect = Connect(name=string(name, 32))
        self._waiting: deque[tuple[Message, int | None]] = deque()

    def _take(self, message: Message, fd: int | None) -> list[Event]:
        if isinstance(message, Hello):
            if not message.min_version <= VERSION <= message.max_version:
                raise PeerError(
                    f"Unsupported version: the server takes {message.min_version:#06x} to "
                    f"{message.max_version:#06x}, expected {VERSION:#06x}"
                )
            return [Greeted(text(message.name), message)]
        if isinstance(message, Connected):
            if self._waiting:
                raise PeerError("CONNECTED before CONNECT")
            return [Up(text(message.name))]
        assert isinstance(message, Ack)
        if not self._waiting:
            raise PeerError("ACK without a question")
        self._send(*self._waiting.popleft())
        return [Accepted()] if self.state is State.ASKING else []

    def offer(self, regions: Iterable[Region], rings: Iterable[Ring]) -> None:
        """Answer HELLO: ask for the interface, and offer these one by one after it.

        Args:
            regions: By index. Descriptors stay the caller's, open until the connection is up or
                over.
            rings: All C2S rings by index, then all S2C rings; likewise.
        """
        self._send(self._init)
        for index, region in enumerate(regions):
            self._waiting.append((AddRegion(index=index, size=region.size), region.fd))
        for ring in rings:
            message = AddRing(
                flags=RingFlags.C2S if ring.c2s else 0,
                index=ring.index,
                region=ring.place.region,
                offset=ring.place.offset,
                log2_size=ring.place.log2_size,
            )
            self._waiting.append((message, ring.fd))
        self._waiting.append((self._connect, None))

    def _drop(self) -> None:
        self._waiting.clear()


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
