"""Commands and replies of a client on one socket, and the device's messages in between.

The base of `client`. Nothing here knows what a command means, but for DMA_READ and DMA_WRITE,
which the client serves from the memory that it was given while it waits for anything.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Final, Self

import attrs

from emudev_core.errors import PeerError, TransportError
from emudev_core.loop import READ, Loop, Watch
from emudev_core.sockets import descriptors, inherited_fd

from . import nearby
from .messages import (
    HEADER,
    MAX_DATA,
    MAX_FDS,
    POSTED,
    REPLY,
    Command,
    DmaAccess,
    Flags,
    Header,
    command_name,
)
from .protocol import Receiver, close_fds, error_reply

__all__ = ["Exchange", "Memory", "Reply"]

_ANCILLARY: Final = socket.CMSG_SPACE(MAX_FDS * 4)
_RECEIVE: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


@attrs.frozen(eq=False)
class Reply:
    """A reply: the errno of an error, the payload, the descriptors, which the taker owns."""

    error: int | None
    payload: bytes
    fds: list[int]


@attrs.frozen(eq=False)
class Memory:
    """Memory that messages of the device reach."""

    size: int
    view: memoryview
    readable: bool
    writable: bool


class Exchange:
    """See the module.

    Args:
        where: Path of the device's socket, ``fd:NAME`` of an inherited listening one, or a
            connected socket, which is owned from now on.
        loop: The loop that serves the device, if it is in this process.
        timeout: How long an answer may take, seconds.

    Attributes:
        loop: As given.
        memory: What messages of the device reach, by guest address.
        dma_reads, dma_writes: Messages of the device that were served.

    Raises:
        TransportError: Nobody listens there.
    """

    def __init__(self, where: str | socket.socket, loop: Loop | None, timeout: float) -> None:
        self.loop = loop
        self._timeout = timeout
        self._sock = where if isinstance(where, socket.socket) else _connect(where)
        self._sock.setblocking(False)
        self._receiver = Receiver(MAX_DATA + 4096)
        self._next_id = 0
        self._replies: dict[int, Reply | None] = {}
        self._gone = ""
        self._watch: Watch | None = None
        self.memory: dict[int, Memory] = {}
        self.dma_reads = 0
        self.dma_writes = 0
        if loop is not None:
            nearby.join(self)
            self._watch = loop.watch(self._sock.fileno(), self.ready, READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- waiting

    def wait(self, fd: int, timeout: float) -> bool:
        """See `DeviceClient.wait`."""
        deadline = time.monotonic() + timeout
        while True:
            if _is_readable(fd):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._idle(left, fd)

    def pause(self, seconds: float) -> None:
        """See `DeviceClient.pause`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._idle(left, None)

    def fileno(self) -> int:
        """The socket; -1 once closed."""
        return self._sock.fileno()

    def ready(self, events: int) -> None:
        """Take what has come, and answer what the device asks for."""
        self._receive()

    def close(self) -> None:
        """Go away."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._sock.close()
        self._receiver.close()
        self._gone = self._gone or "the client is closed"
        for reply in self._replies.values():
            close_fds(reply.fds if reply is not None else ())
        self._replies.clear()

    # -- commands and replies

    def request(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a command and wait for its answer's payload; the caller keeps the descriptors.

        Raises:
            PeerError: The answer was an error; with its errno.
            TransportError: The device's end has gone, or does not answer.
        """
        return self._payload(self._submit(command, payload, fds))

    def _post(self, command: int, payload: bytes) -> None:
        msg_id = self._new_id(expected=False)
        head = Header(msg_id, command, HEADER + len(payload), POSTED)
        self._send(head.pack() + payload)

    def _submit(self, command: int, payload: bytes, fds: Sequence[int] = ()) -> int:
        msg_id = self._new_id()
        self._send(Header(msg_id, command, HEADER + len(payload)).pack() + payload, fds)
        return msg_id

    def _payload(self, msg_id: int) -> bytes:
        reply = self._collect(msg_id)
        close_fds(reply.fds)
        return reply.payload

    def _new_id(self, *, expected: bool = True) -> int:
        msg_id = self._next_id
        self._next_id = (msg_id + 1) & 0xFFFF
        if expected:
            self._replies[msg_id] = None
        return msg_id

    def _collect(self, msg_id: int) -> Reply:
        deadline = time.monotonic() + self._timeout
        while (reply := self._replies[msg_id]) is None:
            if self._gone:
                raise TransportError(f"the device's end has gone: {self._gone}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TransportError(f"no answer within {self._timeout} s")
            if not self._receive():
                self._idle(left, None)
        del self._replies[msg_id]
        if reply.error is not None:
            close_fds(reply.fds)
            raise PeerError(f"refused: {os.strerror(reply.error)}", errno=reply.error)
        return reply

    # -- the socket

    def _send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if self._gone:
            raise TransportError(f"the device's end has gone: {self._gone}")
        rest = memoryview(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        deadline = time.monotonic() + self._timeout
        while rest:
            try:
                sent = (
                    self._sock.sendmsg([rest], rights, _SEND)
                    if rights
                    else self._sock.send(rest, _SEND)
                )
            except BlockingIOError:
                # The device's end may be waiting for us to take its replies.
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TransportError(f"nothing was taken for {self._timeout} s") from None
                if not self._receive():
                    self._idle(min(left, 0.1), None, sending=True)
                continue
            except OSError as exc:
                self._receive()  # an answer that says why may have come before
                self._gone = self._gone or str(exc)
                raise TransportError(f"the device's end has gone: {exc}") from exc
            rest = rest[sent:]
            rights = []

    def _receive(self) -> bool:
        """Take what has come; whether there was anything."""
        if self._gone:
            return False
        try:
            size, ancillary, _, _ = self._sock.recvmsg_into(
                [self._receiver.room()], _ANCILLARY, _RECEIVE
            )
        except BlockingIOError:
            return False
        except OSError as exc:
            self._lose(str(exc))
            return False
        if not size:
            self._lose("end of stream")
            return False
        self._receiver.received(size, descriptors(ancillary))
        for msg_id, command, flags, error, at, end in self._receiver.messages():
            payload = bytes(memoryview(self._receiver.buffer)[at:end])
            if flags & Flags.REPLY:
                self._take_reply(msg_id, flags, error, payload)
            else:
                self._serve(msg_id, command, flags, payload)
        return True

    def _take_reply(self, msg_id: int, flags: int, error: int, payload: bytes) -> None:
        if msg_id not in self._replies:
            self._lose(f"a reply with the unknown id {msg_id:#x}")
            return
        number = (error or errno.EIO) if flags & Flags.ERROR else None
        self._replies[msg_id] = Reply(number, payload, self._receiver.take_fds())

    def _lose(self, reason: str) -> None:
        self._gone = reason
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _idle(self, seconds: float, fd: int | None, *, sending: bool = False) -> None:
        """Let the device's end run until something may have come."""
        if self.loop is not None:
            self._turn(self.loop, seconds, fd)
            return
        poll = select.poll()
        if not self._gone:
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if sending else 0))
        if fd is not None:
            poll.register(fd, select.POLLIN)
        if poll.poll(seconds * 1000) and not self._gone:
            self._receive()

    @staticmethod
    def _turn(loop: Loop, seconds: float, fd: int | None) -> None:
        watch: Watch | None = None
        if fd is not None:
            try:
                watch = loop.watch(fd, lambda events: None, READ)
            except ValueError:  # the loop looks at it already
                seconds = min(seconds, 0.01)
        try:
            loop.turn(min(seconds, 0.05))
        finally:
            if watch is not None:
                watch.close()

    # -- what the device asks for

    def _serve(self, msg_id: int, command: int, flags: int, payload: bytes) -> None:
        try:
            answer = self._answer(command, payload)
        except PeerError as exc:
            self._send(error_reply(msg_id, command, exc.errno))
            return
        if not flags & Flags.NO_REPLY:
            self._send(Header(msg_id, command, HEADER + len(answer), REPLY).pack() + answer)

    def _answer(self, command: int, payload: bytes) -> bytes:
        if command not in (Command.DMA_READ, Command.DMA_WRITE):
            raise PeerError(f"{command_name(command)} to a client", errno=errno.ENOSYS)
        access = DmaAccess.unpack(payload)
        data = payload[DmaAccess.SIZE :]
        if access.count > MAX_DATA or (command == Command.DMA_WRITE and access.count > len(data)):
            raise PeerError(f"{access.count} bytes", errno=errno.E2BIG)
        for view, start, part in self._pieces(access, command == Command.DMA_WRITE):
            if command == Command.DMA_WRITE:
                view[:] = data[start : start + part]
            else:
                data += view
        if command == Command.DMA_READ:
            self.dma_reads += 1
            return access.pack() + data
        self.dma_writes += 1
        return access.pack()

    def _pieces(self, access: DmaAccess, write: bool) -> Iterator[tuple[memoryview, int, int]]:
        """Views of the memory of an access, where they start in it, and their length."""
        done = 0
        while done < access.count:
            at = access.address + done
            for address, memory in self.memory.items():
                allowed = memory.writable if write else memory.readable
                if allowed and address <= at < address + memory.size:
                    part = min(access.count - done, address + memory.size - at)
                    yield memory.view[at - address : at - address + part], done, part
                    done += part
                    break
            else:
                raise PeerError(f"no memory at {at:#x}", errno=errno.ENODEV)


def _connect(path: str) -> socket.socket:
    if path.startswith("fd:"):
        number = os.dup(inherited_fd(path, where=f"path={path}"))
        with socket.socket(fileno=number) as listening:
            path = listening.getsockname()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError as exc:
        sock.close()
        raise TransportError(f"can't connect to {path}: {exc.strerror}") from exc
    return sock


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
