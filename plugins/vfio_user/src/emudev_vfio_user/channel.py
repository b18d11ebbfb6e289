"""Guest memory by message: DMA_READ and DMA_WRITE to the client.

Requests go out in the order in which they were made. A few may be outstanding at a time, of
`CHUNK` bytes together: QEMU cuts replies off that exceed its free socket buffer. One that is
*ordered* waits until all before it have been answered.

`fetch` and `store` tell a callback. `read` and `write` wait, and serve commands of the client
meanwhile; inside a handler (the client waits for its answer, and serves nobody meanwhile) a read
is refused and a write is queued until the answer is out.

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
from emudev_core.memory import DmaTicket

from .messages import HEADER, Command, DmaAccess, Flags, Header

__all__ = ["CHUNK", "DEPTH", "QUEUE_LIMIT", "MessageDma", "Link", "warn_unmapped"]

log = logging.getLogger(__name__)

CHUNK: Final = 64 << 10  #: data of all outstanding requests, bytes
DEPTH: Final = 32  #: outstanding requests
QUEUE_LIMIT: Final = 4 << 20  #: data that handlers may leave to be written, bytes


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
    command: int
    address: int
    count: int
    data: bytes = b""
    ordered: bool = True
    done: Callable[[_Request], None] | None = None
    left: bool = False  # a handler left it to be written
    msg_id: int = -1  # -1: not sent
    answer: bytes | None = None
    error: int | None = None
    finished: bool = False

    def finish(self, error: int | None) -> None:
        """Take the outcome, and tell whoever waits."""
        self.finished = True
        self.error = error
        done, self.done = self.done, None
        if done is not None:
            done(self)


class _Ticket:
    """The requests of one `fetch` or `store`, and what has come of them."""

    def __init__(self, requests: list[_Request], done: Callable[[list[_Request]], None]) -> None:
        self._requests = requests
        self._left = len(requests)
        self._done = done
        for request in requests:
            request.done = self._finished

    def _finished(self, _: _Request) -> None:
        self._left -= 1
        if self._left == 0:
            self._done(self._requests)

    def cancel(self) -> bool:
        """See `DmaTicket.cancel`."""
        if any(request.msg_id >= 0 for request in self._requests):
            for request in self._requests:
                if request.msg_id < 0 and not request.finished:
                    request.finish(_errno.ECANCELED)
            return False
        for request in self._requests:
            request.done = None
            request.finished = True
        return True


class MessageDma:
    """The `DmaChannel` of a session.

    Args:
        link: The connection.
        on_first: Called before the first message goes out: a person should know why all is slow.

    Attributes:
        chunk: Most data of one request, bytes; 0 as long as the client takes none.
        queued: Bytes of data that handlers have left to be written.
        failed_writes: Writes that the client refused.
        reads, writes: Messages that were sent.
        read_bytes, written_bytes: Data that they asked for, or had.
    """

    def __init__(self, link: Link, on_first: Callable[[int], None] | None = None) -> None:
        self._link = link
        self._on_first = on_first
        self._queue: deque[_Request] = deque()
        self._sent: dict[int, _Request] = {}
        self._bytes = 0  # outstanding
        self._next_id = 0
        self._waiting = False
        self._stuck = False
        self._closed = False
        self.queued = 0
        self.chunk = CHUNK
        self.failed_writes = 0
        self.reads = self.read_bytes = 0
        self.writes = self.written_bytes = 0

    @property
    def waits(self) -> bool:
        """Whether a request waits to be sent."""
        return bool(self._queue)

    @property
    def waiting(self) -> int:
        """Requests that wait to be sent."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Requests that were sent and not answered yet."""
        return len(self._sent)

    # -- telling a callback

    def fetch(self, address: int, size: int, done: Callable[[bytes | None], None]) -> DmaTicket:
        """See `DmaChannel.fetch`."""

        def finished(requests: list[_Request]) -> None:
            parts = [request.answer for request in requests if request.answer is not None]
            done(b"".join(parts) if len(parts) == len(requests) else None)

        return self._submit(Command.DMA_READ, address, size, b"", False, finished)

    def store(
        self, address: int, data: bytes, done: Callable[[bool], None], *, ordered: bool = False
    ) -> DmaTicket:
        """See `DmaChannel.store`."""

        def finished(requests: list[_Request]) -> None:
            done(all(request.error is None for request in requests))

        return self._submit(Command.DMA_WRITE, address, len(data), data, ordered, finished)

    def _submit(
        self,
        command: int,
        address: int,
        size: int,
        data: bytes,
        ordered: bool,
        done: Callable[[list[_Request]], None],
    ) -> DmaTicket:
        step = self.chunk if self.chunk > 0 else size
        requests = [
            _Request(command, at, min(step, address + size - at), ordered=ordered)
            for at in range(address, address + size, step)
        ]
        if data:
            for request in requests:
                start = request.address - address
                request.data = data[start : start + request.count]
        ticket = _Ticket(requests, done)
        if self._closed or self.chunk <= 0:
            for request in requests:
                request.finish(_errno.ENOTCONN)
            return ticket
        self._queue.extend(requests)
        if not self._link.answering():
            self.pump()
        return ticket

    # -- waiting

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
            request = _Request(Command.DMA_READ, at, count)
            self._await(request)
            if request.answer is None:
                raise MemoryAccessError(at, count, _reason(request))
            parts.append(request.answer)
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
        pieces = [
            _Request(Command.DMA_WRITE, address + at, len(piece), piece)
            for at in range(0, len(data), self.chunk)
            for piece in (data[at : at + self.chunk],)
        ]
        if self._link.answering():
            for request in pieces:
                request.left = True
                self.queued += request.count
                self._queue.append(request)
            return
        for request in pieces:
            self._await(request)
            if not request.finished or request.error is not None:
                raise MemoryAccessError(request.address, request.count, _reason(request))

    def pump(self) -> None:
        """Send what may be sent; called when no handler runs."""
        while self._queue:
            request = self._queue[0]
            if request.finished:  # cancelled
                self._queue.popleft()
                continue
            if self._sent and (
                request.ordered
                or len(self._sent) >= DEPTH
                or self._bytes + request.count > max(CHUNK, self.chunk)
            ):
                return
            self._queue.popleft()
            if not self._start(request):
                return

    def answered(self, msg_id: int, command: int, flags: int, error: int, payload: bytes) -> bool:
        """Take a reply; False if nobody waits for one like it."""
        request = self._sent.get(msg_id)
        if request is None or request.command != command:
            return False
        del self._sent[msg_id]
        self._bytes -= request.count
        self._stuck = False
        number = self._understand(request, payload) if not flags & Flags.ERROR else error
        if flags & Flags.ERROR and not number:
            number = _errno.EIO
        if number is not None and command == Command.DMA_WRITE:
            self.failed_writes += 1
            log.debug("DMA_WRITE to %#x: %s", request.address, os.strerror(number))
        request.finish(number)
        return True

    def close(self) -> None:
        """Forget the connection and what waits; whoever waits, or asks later, is told."""
        self._link = _CUT
        self._closed = True
        pending = [*self._sent.values(), *self._queue]
        self._queue.clear()
        self._sent.clear()
        self.queued = self._bytes = 0
        for request in pending:
            if not request.finished:
                request.finish(_errno.ENOTCONN)

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
        request.answer = data
        return None

    def _check(self, address: int, size: int) -> None:
        if self.chunk <= 0:
            raise MemoryAccessError(address, size, "the client takes no DMA messages")
        if self._waiting and not self._link.answering():
            raise MemoryAccessError(address, size, "another DMA message is being waited for")
        if self._stuck:
            raise MemoryAccessError(address, size, "the client does not answer DMA messages")

    def _start(self, request: _Request) -> bool:
        """Send a request; False if nothing can be sent now: then it is the first one again."""
        if self._on_first is not None:
            tell, self._on_first = self._on_first, None
            tell(request.address)
        while self._next_id in self._sent:
            self._next_id = (self._next_id + 1) & 0xFFFF
        request.msg_id = self._next_id
        self._next_id = (self._next_id + 1) & 0xFFFF
        self._sent[request.msg_id] = request
        self._bytes += request.count
        size = HEADER + DmaAccess.SIZE + len(request.data)
        head = Header(msg_id=request.msg_id, command=request.command, msg_size=size)
        payload = DmaAccess(request.address, request.count).pack() + request.data
        sent = self._link.send(head.pack() + payload)
        if not sent and self._sent.pop(request.msg_id, None) is not None:
            self._bytes -= request.count
            request.msg_id = -1
            self._queue.appendleft(request)
            return False
        if request.data:
            self.writes += 1
            self.written_bytes += request.count
        else:
            self.reads += 1
            self.read_bytes += request.count
        if request.left:
            self.queued -= request.count
            request.left = False
        return sent

    def _await(self, request: _Request) -> None:
        """Make a request, and wait until it is answered; what was asked for before goes first."""
        self._queue.append(request)
        deadline = time.monotonic() + LIMIT
        self._waiting = True
        try:
            self.pump()
            while not request.finished:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._stuck = True
                    return
                if not self._link.serve(left):
                    return
                self.pump()
        finally:
            self._waiting = False
            if request.msg_id < 0 and not request.finished and request in self._queue:
                self._queue.remove(request)


def warn_unmapped(device: str, client: str, address: int) -> None:
    """The one warning that a person gets: all goes on, slowly.

    Args:
        device: Its name.
        client: Name of the client.
        address: Guest address of the first access by message.
    """
    log.warning(
        "%s: %s has given memory that can't be mapped (at %#x), so it is reached by messages, "
        "slowly; for QEMU, add: -object memory-backend-memfd,id=mem,size=SIZE,share=on "
        "-machine memory-backend=mem  (SIZE as in -m)",
        device,
        client,
        address,
    )


def _reason(request: _Request) -> str:
    if request.error == _errno.ENOTCONN:
        return "the client did not answer, or has gone"
    if request.error is not None:
        return f"the client refused: {os.strerror(request.error)}"
    return "the client did not answer, or has gone"
