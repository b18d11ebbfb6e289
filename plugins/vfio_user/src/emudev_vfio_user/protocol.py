"""Framing without I/O: bytes and descriptors in, messages out.

`Receiver` cuts a stream into messages. The shell around it receives into the room that
`Receiver.room` offers, tells how much came with `received`, and takes messages from `messages()`.
Bytes are not copied: a message is a tuple of numbers that points into `Receiver.buffer` and is
good until the next receive.

Descriptors travel as ancillary data with the first bytes of a message. The kernel ends a receive
behind the bytes that it found descriptors with, but may put earlier bytes in front, so descriptors
belong to the message that holds the last byte they came with. The receiver owns them: while a
message is at hand, `take_fds` hands over its descriptors; those that nobody took are closed when
the next message is asked for, on an error, and at `close`. Each descriptor thus has one owner at
any time.

`Phase` is the life of a connection, as a table.
"""

from __future__ import annotations

import enum
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from emudev_core.errors import LifecycleError, PeerError

from .messages import ERROR_REPLY, HEADER, MAX_MESSAGE, command_name

__all__ = [
    "NEXT",
    "FrameError",
    "Message",
    "Phase",
    "PhaseEvent",
    "Receiver",
    "close_fds",
    "error_reply",
    "step",
]

#: id, command, flags, error, start and end of the payload in `Receiver.buffer`.
Message = tuple[int, int, int, int, int, int]

_HEADER: Final = struct.Struct("<HHIII")

#: How much room a receive gets at least, bytes.
_ROOM: Final = 64 << 10


class Phase(enum.Enum):
    """Where a connection is in its life."""

    GREETING = "greeting"  #: nothing but VERSION is answered
    SERVING = "serving"  #: commands are answered in order
    PARKED = "parked"  #: an answer comes later; no further command is read
    LEAVING = "leaving"  #: the client has gone; memory and interrupts are taken back
    GONE = "gone"  #: nothing is left


class PhaseEvent(enum.Enum):
    """What moves a connection on."""

    AGREED = "agreed"  #: VERSION was answered
    PARK = "park"  #: a provider answers later
    RESUME = "resume"  #: the answer is there
    LEAVE = "leave"  #: end of stream, lost framing, or the server stops
    CLEARED = "cleared"  #: everything was taken back


_P, _E = Phase, PhaseEvent

#: Every transition; what is not here is refused.
NEXT: Final[Mapping[tuple[Phase, PhaseEvent], Phase]] = {
    (_P.GREETING, _E.AGREED): _P.SERVING,
    (_P.SERVING, _E.PARK): _P.PARKED,
    (_P.PARKED, _E.RESUME): _P.SERVING,
    (_P.GREETING, _E.LEAVE): _P.LEAVING,
    (_P.SERVING, _E.LEAVE): _P.LEAVING,
    (_P.PARKED, _E.LEAVE): _P.LEAVING,
    (_P.LEAVING, _E.CLEARED): _P.GONE,
}


def step(phase: Phase, event: PhaseEvent) -> Phase:
    """The phase after an event.

    Raises:
        LifecycleError: The event is not allowed; nothing has changed.
    """
    try:
        return NEXT[phase, event]
    except KeyError:
        can = ", ".join(e.value for e in PhaseEvent if (phase, e) in NEXT) or "nothing more"
        raise LifecycleError(
            f"connection is {phase.value}: {event.value} is not allowed (allowed: {can})"
        ) from None


class FrameError(PeerError):
    """A header that can't be believed: the place of the next message is unknown.

    Attributes:
        msg_id: Of the message.
        command: Of the message.
        answer: Whether an error reply may be sent before the connection ends.
    """

    def __init__(self, message: str, *, msg_id: int, command: int, answer: bool) -> None:
        super().__init__(message, fatal=True)
        self.msg_id = msg_id
        self.command = command
        self.answer = answer


def error_reply(msg_id: int, command: int, errno: int) -> bytes:
    """An error reply: a header and nothing else."""
    return _HEADER.pack(msg_id, command, HEADER, ERROR_REPLY, errno)


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors that came from a peer."""
    for fd in fds:
        os.close(fd)


class Receiver:
    """Cuts a stream into messages; see the module.

    Args:
        limit: Length of the longest message, bytes.

    Attributes:
        buffer: What came; `Message` points into it. Grows in place up to `limit` and a receive, as
            long messages come: most clients send none.
        end: Bytes of `buffer` in use: 0 if all that came before has been handed out and forgotten.
        fds_lost: Whether the message at hand had more descriptors than could be received.
    """

    __slots__ = (
        "_fds",
        "_first",
        "_limit",
        "_marks",
        "_start",
        "_view",
        "buffer",
        "end",
        "fds_lost",
    )

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        self._limit = limit
        self.buffer = bytearray(min(2 * _ROOM, limit + _ROOM))
        self._view = memoryview(self.buffer)
        self._first = self._view[:_ROOM]
        self._start = 0
        self.end = 0
        #: (position behind the bytes they came with, descriptors, whether some were lost)
        self._marks: deque[tuple[int, list[int], bool]] = deque()
        self._fds: list[int] = []
        self.fds_lost = False

    @property
    def waiting(self) -> int:
        """Bytes that are no message yet."""
        return self.end - self._start

    def room(self) -> memoryview:
        """Where the next receive may write.

        Messages handed out before are no longer good: call it only when done with them.
        """
        start, end = self._start, self.end
        if start == end:
            if start:
                self._move_marks(start)
                self._start = self.end = 0
            return self._first
        if len(self.buffer) - end < _ROOM:
            # The rest of a message needs more room: what is there moves to the front. A message is
            # at most `limit` long, so the room behind it is at least _ROOM then, if need be in a
            # buffer of twice the size.
            size = end - start
            self._view[:size] = self._view[start:end]
            self._move_marks(start)
            self._start, self.end = 0, size
            have = len(self.buffer)
            if have - size < _ROOM:
                self._first.release()
                self._view.release()
                self.buffer.extend(bytes(min(have, self._limit + _ROOM - have)))
                self._view = memoryview(self.buffer)
                self._first = self._view[:_ROOM]
        return self._view[self.end : self.end + _ROOM]

    def received(self, size: int, fds: list[int] | None = None, lost: bool = False) -> None:
        """Tell what came into `room`.

        Args:
            size: Bytes.
            fds: Descriptors that came along; the receiver owns them from now on.
            lost: The kernel dropped descriptors (MSG_CTRUNC).
        """
        self.end += size
        if fds or lost:
            self._marks.append((self.end, fds or [], lost))

    def feed(self, data: bytes | memoryview, fds: list[int] | None = None) -> None:
        """Copy bytes in, as if they had been received; at most the length of `room`."""
        room = self.room()
        room[: len(data)] = data
        self.received(len(data), fds)

    def messages(self) -> Iterator[Message]:
        """The messages that are complete, in order.

        May be asked anew at any time, also while an earlier iterator is suspended: a message is
        handed out once.

        Raises:
            FrameError: A header with an impossible size or type; nothing can follow.
        """
        unpack = _HEADER.unpack_from
        buffer = self.buffer
        while True:
            start = self._start
            have = self.end - start
            if self._fds or self.fds_lost:
                self._drop_fds()
            if have < HEADER:
                return
            msg_id, command, size, flags, error = unpack(buffer, start)
            if size < HEADER or size > self._limit or flags & 0xE:
                raise self._frame_error(msg_id, command, size, flags)
            if have < size:
                return
            end = start + size
            self._start = end
            if self._marks:
                self._collect_fds(end)
            yield msg_id, command, flags, error, start + HEADER, end

    def take_fds(self) -> list[int]:
        """Own the descriptors of the message at hand."""
        fds, self._fds = self._fds, []
        return fds

    def close(self) -> None:
        """Close every descriptor that nobody took, and forget what came."""
        self._drop_fds()
        while self._marks:
            close_fds(self._marks.popleft()[1])
        self._start = self.end = 0

    def _collect_fds(self, end: int) -> None:
        marks = self._marks
        while marks and marks[0][0] <= end:
            _, fds, lost = marks.popleft()
            self._fds += fds
            self.fds_lost |= lost

    def _drop_fds(self) -> None:
        self.fds_lost = False
        close_fds(self.take_fds())

    def _move_marks(self, by: int) -> None:
        if self._marks:
            self._marks = deque((end - by, fds, lost) for end, fds, lost in self._marks)

    def _frame_error(self, msg_id: int, command: int, size: int, flags: int) -> FrameError:
        if flags & 0xE:
            text = f"message type {flags & 0xF} is neither a command (0) nor a reply (1)"
        else:
            text = f"message size {size} is not within {HEADER}..{self._limit}"
        return FrameError(
            f"{command_name(command)} id {msg_id:#x}: {text}",
            msg_id=msg_id,
            command=command,
            answer=not flags & 0x10,
        )
