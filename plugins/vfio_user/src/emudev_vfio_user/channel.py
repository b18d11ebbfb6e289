"""Guest memory by message: DMA_READ and DMA_WRITE to the client.

One request is outstanding at a time, of at most `CHUNK` bytes: QEMU cuts replies off that exceed
its free socket buffer. Inside a handler (the client waits for its answer, and serves nobody
meanwhile) a read is refused and a write is queued until the answer is out; elsewhere both come
back when they are done, and commands of the client are served while they wait.

Source: vfio-user specification, "VFIO_USER_DMA_READ" and "VFIO_USER_DMA_WRITE".
"""

from __future__ import annotations

import errno as _errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from emudev_core.errors import MemoryAccessError
from emudev_core.later import LIMIT

from .messages import HEADER, Command, DmaAccess, Flags, Header

__all__ = ["CHUNK", "QUEUE_LIMIT", "MessageDma", "Link"]

log = logging.getLogger(__name__)

CHUNK: Final = 64 << 10  #: data of one request, bytes
QUEUE_LIMIT: Final = 4 << 20  #: data that may wait to be written, bytes


class Link:
    """How the channel reaches its connection; the session makes one.

    Args:
        send: Sends a command now; returns False if the connection has gone.
        serve: Serves the connection once, for at most the given seconds; returns whether it still
            is in a state in which replies are read.
        answering: Whether a handler is running whose client waits.
    """

    def __init__(
        self,
        send: Callable[[bytes], bool],
        serve: Callable[[float], bool],
        answering: Callable[[], bool],
    ) -> None:
        self.send = send
        self.serve = serve
        self.answering = answering


#: The link of a channel whose connection has gone. Tables of guest memory may outlive the session,
#: and must not keep it.
_CUT: Final = Link(lambda message: False, lambda seconds: False, lambda: False)


@attrs.define(eq=False)
class _Request:
    msg_id: int
    command: int
    address: int
    count: int
    data: bytes | None = None
    error: int | None = None
    done: bool = False


class MessageDma:
    """The `DmaChannel` of a session.

    Args:
        link: The connection.

    Attributes:
        chunk: Most data of one request, bytes; 0 as long as the client takes none.
        queued: Bytes of data that wait to be written.
        failed_writes: Queued writes that the client refused.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[tuple[int, bytes]] = deque()
        self.queued = 0
        self._pending: _Request | None = None
        self._next_id = 0
        self._waiting = False
        self._stuck = False
        self.chunk = CHUNK
        self.failed_writes = 0

    def read(self, address: int, size: int) -> bytes:
        """See `DmaChannel.read`.

        Raises:
            MemoryAccessError: Inside a handler, refused by the client, or not answered in time.
        """
        self._check(address, size)
        if self._link.answering():
            raise MemoryAccessError(
                address, size, "only messages reach it, and the client waits for this handler"
            )
        parts = []
        for at in range(address, address + size, self.chunk):
            count = min(self.chunk, address + size - at)
            self._drain(at, count)
            request = self._start(Command.DMA_READ, at, count, b"")
            self._await(request)
            if request.data is None:
                raise MemoryAccessError(at, count, _reason(request))
            parts.append(request.data)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """See `DmaChannel.write`.

        Raises:
            MemoryAccessError: The queue is full; or, outside a handler, refused by the client or
                not answered in time.
        """
        self._check(address, len(data))
        if self.queued + len(data) > QUEUE_LIMIT:
            raise MemoryAccessError(
                address, len(data), f"{self.queued} bytes wait already, at most {QUEUE_LIMIT} may"
            )
        if self._link.answering():
            self._queue.append((address, data))
            self.queued += len(data)
            return
        for at in range(0, len(data), self.chunk):
            piece = data[at : at + self.chunk]
            self._drain(address + at, len(piece))
            request = self._start(Command.DMA_WRITE, address + at, len(piece), piece)
            self._await(request)
            if not request.done or request.error is not None:
                raise MemoryAccessError(address + at, len(piece), _reason(request))

    def pump(self) -> None:
        """Send the next queued write if nothing is outstanding; called when no handler runs."""
        if self._pending is None and self._queue:
            address, data = self._queue.popleft()
            piece, rest = data[: self.chunk], data[self.chunk :]
            if rest:
                self._queue.appendleft((address + len(piece), rest))
            self.queued -= len(piece)
            self._start(Command.DMA_WRITE, address, len(piece), piece)

    def answered(self, msg_id: int, command: int, flags: int, error: int, payload: bytes) -> bool:
        """Take a reply; False if nobody waits for one like it."""
        request = self._pending
        if request is None or request.msg_id != msg_id or request.command != command:
            return False
        self._pending = None
        self._stuck = False
        request.done = True
        if flags & Flags.ERROR:
            request.error = error or _errno.EIO
        else:
            request.error = self._understand(request, payload)
        if request.error is not None and command == Command.DMA_WRITE:
            self.failed_writes += 1
            log.debug("DMA_WRITE to %#x: %s", request.address, os.strerror(request.error))
        return True

    def close(self) -> None:
        """Forget the connection and what waits; whoever waits, or asks later, is told."""
        self._forget()
        self._link = _CUT

    def _forget(self) -> None:
        self._queue.clear()
        self.queued = 0
        self._pending = None

    @staticmethod
    def _understand(request: _Request, payload: bytes) -> int | None:
        if request.command == Command.DMA_WRITE and not payload:
            return None  # a header alone: the first QEMU releases with vfio-user
        data = payload[DmaAccess.SIZE :]
        expected = request.count if request.command == Command.DMA_READ else 0
        if len(payload) < DmaAccess.SIZE or len(data) != expected:
            return _errno.EPROTO
        head = DmaAccess.unpack(payload)
        if (head.address, head.count) != (request.address, request.count):
            return _errno.EPROTO
        request.data = data
        return None

    def _check(self, address: int, size: int) -> None:
        if self.chunk <= 0:
            raise MemoryAccessError(address, size, "the client takes no DMA messages")
        if self._waiting and not self._link.answering():
            raise MemoryAccessError(address, size, "another DMA message is being waited for")
        if self._stuck:
            raise MemoryAccessError(address, size, "the client does not answer DMA messages")

    def _drain(self, address: int, size: int) -> None:
        """Wait until what was queued before, or given up on, is out of the way."""
        while self._pending is not None or self._queue:
            self.pump()
            request = self._pending
            if request is None:
                return
            self._await(request)
            if not request.done:
                raise MemoryAccessError(address, size, _reason(request))

    def _start(self, command: int, address: int, count: int, data: bytes) -> _Request:
        request = _Request(self._next_id, command, address, count)
        self._next_id = (self._next_id + 1) & 0xFFFF
        self._pending = request
        size = HEADER + DmaAccess.SIZE + len(data)
        head = Header(msg_id=request.msg_id, command=command, msg_size=size)
        if not self._link.send(head.pack() + DmaAccess(address, count).pack() + data):
            self._forget()
        return request

    def _await(self, request: _Request) -> None:
        deadline = time.monotonic() + LIMIT
        self._waiting = True
        try:
            while not request.done and self._pending is request:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._stuck = True
                    return
                if not self._link.serve(left):
                    return
        finally:
            self._waiting = False


def _reason(request: _Request) -> str:
    if request.error is not None:
        return f"the client refused: {os.strerror(request.error)}"
    return "the client did not answer, or has gone"
