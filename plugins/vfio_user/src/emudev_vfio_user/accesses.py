"""Accesses to registers on the short way: what is in them, and those that come alone.

A guest that reads registers waits for each answer, and one that is not busy rings a doorbell for
each packet: the message is the only one in the buffer. It is checked and done at once, with the
answer that `session` gives to one in a row; whatever is unusual about it is left to the session.

Source: vfio-user specification, "Header", "VFIO_USER_REGION_READ" and "VFIO_USER_REGION_WRITE".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from emudev_core.lifecycle import State

from .messages import POSTED, REPLY
from .protocol import Phase

if TYPE_CHECKING:
    from .session import Session

__all__ = [
    "ACCESS",
    "LONE_READ",
    "LONE_WRITE",
    "READ_REPLY",
    "WRITE4",
    "answer_alone",
    "ring_alone",
]

LONE_READ: Final = 32  #: length of a REGION_READ, bytes
LONE_WRITE: Final = 36  #: length of a REGION_WRITE of 4 bytes

#: What follows a header: offset, region and count, and the value of a write of 4 bytes.
ACCESS: Final = struct.Struct("<QII").unpack_from
WRITE4: Final = struct.Struct("<QIII").unpack_from

# The same with the header in front.
_READ: Final = struct.Struct("<HHIIIQII").unpack_from
_WRITE: Final = struct.Struct("<HHIIIQIII").unpack_from

#: By size of the access: a whole reply of REGION_READ.
READ_REPLY: Final[dict[int, Callable[..., bytes]]] = {
    size: struct.Struct(f"<HHIIIQII{letter}").pack
    for size, letter in zip((1, 2, 4, 8), "BHIQ", strict=True)
}

#: Looked up once: an enum's members cost more than a name of the module.
_SERVING: Final = Phase.SERVING
_ERROR: Final = State.ERROR


def answer_alone(session: Session, buffer: bytearray) -> bool:
    """Answer the one read of a register in the buffer; False if it is anything else."""
    msg_id, command, size, flags, _, offset, region, count = _READ(buffer)
    pack = READ_REPLY.get(count)
    if (
        command != 9
        or size != LONE_READ
        or flags
        or pack is None
        or offset % count
        or offset + count > session.readable.get(region, 0)
        or session.phase is not _SERVING
        or session.device.state is _ERROR
    ):
        return False
    nested, session.answering = session.answering, True
    try:
        value = session.device.region_read(region, offset, count)
        reply = pack(msg_id, 9, 32 + count, REPLY, 0, offset, region, count, value)
    except Exception as exc:
        session.refuse(msg_id, command, flags, exc)
        session.out.flush()
    else:
        session.out.send(reply)
        session.loop.expecting = True
    session.answering = nested
    if not nested and session.channel.waits and session.phase is _SERVING:
        session.channel.pump()
    return True


def ring_alone(session: Session, buffer: bytearray) -> bool:
    """Do the one posted write to a doorbell in the buffer; False if it is anything else."""
    msg_id, command, size, flags, _, offset, region, count, value = _WRITE(buffer)
    bell = session.bells.get((region, offset))
    if (
        bell is None
        or command != 10
        or size != LONE_WRITE
        or flags != POSTED
        or count != 4
        or session.phase is not _SERVING
        or session.device.state is _ERROR
        or not session.device.is_direct("emudev_region_write")
    ):
        return False
    nested, session.answering = session.answering, True
    try:
        bell.write(value)
    except Exception as exc:
        session.refuse(msg_id, command, flags, exc)
    session.answering = nested
    if not nested and session.channel.waits and session.phase is _SERVING:
        session.channel.pump()
    return True
