"""The messages of the control channel: one record, always 128 bytes, in this machine's order.

Source: memif.md 2.2. Everything is packed; the bytes behind the last field are zero.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

from emudev_core.errors import DecodeError
from emudev_core.wire import Wire, pad, raw, u8, u16, u32, u64, wire

from .words import MAX_LOG2

__all__ = [
    "ETHERNET",
    "MESSAGE_SIZE",
    "VERSION",
    "Ack",
    "AddRegion",
    "AddRing",
    "Connect",
    "Connected",
    "Disconnect",
    "Hello",
    "Init",
    "Message",
    "MessageType",
    "RingFlags",
    "decode",
    "string",
    "text",
]

MESSAGE_SIZE: Final = 128  #: bytes of every message
VERSION: Final = 0x0200  #: 2.0: major in the high byte
ETHERNET: Final = 0  #: the only mode of an interface that is spoken here


class MessageType(enum.IntEnum):
    """The first two bytes of a message."""

    NONE = 0  #: never sent
    ACK = 1
    HELLO = 2
    INIT = 3
    ADD_REGION = 4
    ADD_RING = 5
    CONNECT = 6
    CONNECTED = 7
    DISCONNECT = 8


class RingFlags(enum.IntFlag):
    """Flags of ADD_RING."""

    C2S = 1  #: frames from client to server; without it, from server to client


@wire(size=MESSAGE_SIZE)
class Ack(Wire):
    """The server took the client's last message."""

    type: int = u16("MessageType.ACK", default=MessageType.ACK)
    _1: bytes = pad(126)


@wire(size=MESSAGE_SIZE)
class Hello(Wire):
    """The server's first message: what it can take. The limits are indices, not counts."""

    type: int = u16("MessageType.HELLO", default=MessageType.HELLO)
    name: bytes = raw(32, "name of the server's program", default=b"")
    min_version: int = u16("lowest version it takes", default=VERSION)
    max_version: int = u16("highest version it takes", default=VERSION)
    max_region: int = u16("highest region index", default=255)
    max_s2c_ring: int = u16("highest index of a ring from server to client", default=0)
    max_c2s_ring: int = u16("highest index of a ring from client to server", default=0)
    max_log2: int = u8("largest log2 of a ring's size", default=MAX_LOG2)
    _1: bytes = pad(83)


@wire(size=MESSAGE_SIZE)
class Init(Wire):
    """The client's first message: which interface it wants."""

    type: int = u16("MessageType.INIT", default=MessageType.INIT)
    version: int = u16("version that the client chose", default=VERSION)
    id: int = u32("interface", default=0)
    mode: int = u8("0 ethernet, 1 IP, 2 punt/inject", default=ETHERNET)
    secret: bytes = raw(24, "what admits the client", default=b"")
    name: bytes = raw(32, "name of the client's program", default=b"")
    _1: bytes = pad(63)


@wire(size=MESSAGE_SIZE)
class AddRegion(Wire):
    """Memory that the client shares; its descriptor rides along."""

    type: int = u16("MessageType.ADD_REGION", default=MessageType.ADD_REGION)
    index: int = u16("region index, counting up from 0", default=0)
    size: int = u64("bytes", default=0)
    _1: bytes = pad(116)


@wire(size=MESSAGE_SIZE)
class AddRing(Wire):
    """A ring in that memory; its eventfd rides along."""

    type: int = u16("MessageType.ADD_RING", default=MessageType.ADD_RING)
    flags: int = u16("RingFlags", default=0)
    index: int = u16("within its direction", default=0)
    region: int = u16("region that holds the ring", default=0)
    offset: int = u32("of the ring in that region, bytes", default=0)
    log2_size: int = u8("log2 of the number of descriptors", default=0)
    private_size: int = u16("bytes of a private header in each descriptor; 0", default=0)
    _1: bytes = pad(113)


@wire(size=MESSAGE_SIZE)
class Connect(Wire):
    """The client has told all regions and rings."""

    type: int = u16("MessageType.CONNECT", default=MessageType.CONNECT)
    name: bytes = raw(32, "name of the client's interface", default=b"")
    _1: bytes = pad(94)


@wire(size=MESSAGE_SIZE)
class Connected(Wire):
    """The server uses the rings from now on."""

    type: int = u16("MessageType.CONNECTED", default=MessageType.CONNECTED)
    name: bytes = raw(32, "name of the server's interface", default=b"")
    _1: bytes = pad(94)


@wire(size=MESSAGE_SIZE)
class Disconnect(Wire):
    """The sender leaves, and closes the socket."""

    type: int = u16("MessageType.DISCONNECT", default=MessageType.DISCONNECT)
    code: int = u32("for programs; all known senders put 0", default=0)
    reason: bytes = raw(96, "for people", default=b"")
    _1: bytes = pad(26)


Message: TypeAlias = Ack | Hello | Init | AddRegion | AddRing | Connect | Connected | Disconnect

_CLASSES: Final[dict[int, type[Message]]] = {
    MessageType.ACK: Ack,
    MessageType.HELLO: Hello,
    MessageType.INIT: Init,
    MessageType.ADD_REGION: AddRegion,
    MessageType.ADD_RING: AddRing,
    MessageType.CONNECT: Connect,
    MessageType.CONNECTED: Connected,
    MessageType.DISCONNECT: Disconnect,
}


def decode(data: bytes) -> Message:
    """The message that a record holds.

    Raises:
        DecodeError: It has not 128 bytes, or no known type.
    """
    if len(data) != MESSAGE_SIZE:
        raise DecodeError(f"Invalid message size: expected {MESSAGE_SIZE} bytes, came {len(data)}")
    number = int.from_bytes(data[:2], "little")
    found = _CLASSES.get(number)
    if found is None:
        raise DecodeError(f"Invalid message type: {number}")
    return found.unpack(data)


def string(value: str, size: int) -> bytes:
    """A text for a field of `size` bytes, cut so that a NUL ends it."""
    return value.encode()[: size - 1].ljust(size, b"\0")


def text(field: bytes) -> str:
    """The text of a field, for people: up to its NUL, if it has one; never anything unprintable."""
    decoded = field.partition(b"\0")[0].decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in decoded)
