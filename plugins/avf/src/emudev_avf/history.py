"""The last messages between a guest and its PF side, for people who look for a fault.

A ring of fixed length: a guest that asks for ever costs no more than one that asks 256 times.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from emudev_core.sections import Row

from .virtchnl.opcodes import Op, Status

__all__ = ["DEPTH", "Entry", "History"]

#: Entries that are kept.
DEPTH: Final = 256
#: Characters of a reason that are kept.
_REASON: Final = 200


@attrs.define(slots=True)
class Entry:
    """One request, with its reply once there is one, or an event of the PF side.

    Attributes:
        time: Seconds since 1970.
        opcode: Of the message.
        size: Bytes of the request; -1 for an event.
        status: Of the reply; None while there is none, and for what gets none.
        answer: Bytes of the reply or event.
        reason: Why it was refused.
    """

    time: float
    opcode: int
    size: int
    status: int | None = None
    answer: int = 0
    reason: str = ""


class History:
    """See the module. For the loop's thread."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=DEPTH)
        self._open: Entry | None = None

    def request(self, opcode: int, size: int) -> None:
        """A request was taken."""
        self._open = Entry(time.time(), opcode, size)
        self._entries.append(self._open)

    def refuse(self, reason: str) -> None:
        """The request at hand is refused; its reply comes next."""
        if self._open is not None:
            self._open.reason = reason[:_REASON]

    def sent(self, opcode: int, status: int, size: int) -> None:
        """A message went to the guest: the reply to the request at hand, or an event."""
        entry = self._open
        if entry is not None and entry.opcode == opcode and opcode != Op.EVENT:
            entry.status, entry.answer = status, size
            self._open = None
        else:
            self._entries.append(Entry(time.time(), opcode, -1, status, size))

    def __iter__(self) -> Iterator[Entry]:
        """The entries, oldest first."""
        return iter(tuple(self._entries))

    def rows(self) -> Iterator[Row]:
        """For a section of `emudev ctl show`."""
        for entry in self:
            yield {
                "time": round(entry.time, 6),
                "from": "pf" if entry.size < 0 else "guest",
                "opcode": entry.opcode,
                "name": _name(Op, entry.opcode),
                "request_bytes": max(entry.size, 0),
                "status": None if entry.status is None else _name(Status, entry.status),
                "reply_bytes": entry.answer,
                "reason": entry.reason,
            }


def _name(kind: type[Op] | type[Status], value: int) -> str:
    try:
        return kind(value).name
    except ValueError:
        return str(value)
