"""The control socket of a process: who may connect, and what each client may cost.

Runs on the process' loop beside the data, so every step is short: a client's request is done piece
by piece, one piece a turn of the loop, and nothing waits for a client. A client that sends what is
no request, too much, or reads too slowly harms only its own connection.

Only the owner of the process and root may connect: the socket has mode 0600, and the credentials
that the kernel tells of the peer (SO_PEERCRED) are looked at, too. Source: unix(7).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from .. import __version__
from ..closing import Closing
from ..device import Device
from ..errors import DecodeError, TransportError
from ..events import EventChannel
from ..loop import READ, WRITE, Loop, Timer, Watch
from ..registry import Registry
from ..sockets import listen_at
from .answers import Refusal, answer, find_device
from .places import default_path
from .protocol import (
    MAX_LINE,
    VERSION,
    Done,
    Error,
    ErrorKind,
    EventRecord,
    Follow,
    Hello,
    Reply,
    decode_request,
    encode,
    id_of,
)

__all__ = ["MAX_CLIENTS", "MAX_WAITING", "PATIENCE", "ControlServer"]

log = logging.getLogger(__name__)

#: Clients at a time; a further one is told so and let go.
MAX_CLIENTS: Final = 16
#: Bytes that may wait for a client to read them.
MAX_WAITING: Final = 4 << 20
#: Bytes of replies that may wait while further requests of the client are looked at.
FULL: Final = 64 << 10
#: How long a client may read nothing while something waits for it, seconds.
PATIENCE: Final = 5.0

_CREDENTIALS: Final = struct.Struct("3i")
_WHY: Final = {
    errno.EADDRINUSE: "another process listens there",
    errno.EEXIST: "expected a socket or nothing there",
}


class ControlServer(Closing):
    """See the module. For the loop's thread; `close` before the loop.

    Args:
        registry: The devices.
        loop: The process' loop.
        path: The socket to make; None for one of this process in `places.runtime_folder`.

    Attributes:
        path: Where it listens.
        refused: Connections of other users.

    Raises:
        TransportError: Somebody listens there, or it is something else than a socket.
        OSError: It can't be made.
    """

    def __init__(
        self, registry: Registry, loop: Loop, path: str | os.PathLike[str] | None = None
    ) -> None:
        self.registry = registry
        self.loop = loop
        self.path = default_path() if path is None else Path(path)
        self.refused = 0
        self._pause: Timer | None = None
        self._clients: set[_Connection] = set()
        try:
            self._listening = listen_at(
                str(self.path), socket.SOCK_STREAM, mode=0o600, backlog=MAX_CLIENTS
            )
        except OSError as exc:
            why = _WHY.get(exc.errno or 0) or exc.strerror or exc
            raise TransportError(f"control socket {self.path}: {why}") from exc
        self._watch: Watch | None = loop.watch(self._listening.sock.fileno(), self._accept)

    def close(self) -> None:
        """Let all clients go and remove the socket. A second call does nothing."""
        if self._watch is None:
            return
        self._watch.close()
        self._watch = None
        if self._pause is not None:
            self._pause.cancel()
        for client in tuple(self._clients):
            client.close()
        self._listening.close()

    def _accept(self, _: int) -> None:
        try:
            peer, _address = self._listening.sock.accept()
        except OSError as exc:  # gone again, or no descriptor is left: data goes first
            log.debug("control: accept: %s", exc)
            if exc.errno in (errno.EMFILE, errno.ENFILE) and self._watch is not None:
                self._watch.set(0)
                self._pause = self.loop.call_later(1.0, self._resume)
            return
        peer.setblocking(False)
        try:
            _pid, user, _group = _CREDENTIALS.unpack(
                peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        except OSError as exc:
            log.debug("control: credentials: %s", exc)
            peer.close()
            return
        owner = os.geteuid()
        if user not in (0, owner):
            self.refused += 1
            message = f"only user {owner} and root may connect"
            _turn_away(peer, "permission", message, f"user {owner} or 0", f"user {user}")
        elif len(self._clients) >= MAX_CLIENTS:
            message = f"{MAX_CLIENTS} clients are connected already"
            _turn_away(peer, "busy", message)
        else:
            client = _Connection(self, peer)
            self._clients.add(client)
            client.greet()

    def _resume(self) -> None:
        self._pause = None
        if self._watch is not None:
            self._watch.set(READ)

    def forget(self, client: _Connection) -> None:
        """A connection has closed itself."""
        self._clients.discard(client)


def _turn_away(peer: socket.socket, kind: ErrorKind, *words: str) -> None:
    with peer, contextlib.suppress(OSError):
        peer.send(encode(Refusal(kind, *words).reply(0)))


class _Connection:
    """One client."""

    def __init__(self, server: ControlServer, peer: socket.socket) -> None:
        self._server = server
        self._socket = peer
        self._in = bytearray()
        self._out = bytearray()
        self._answer: Generator[None, None, Reply] | None = None
        self._following: dict[Device, EventChannel] = {}
        self._follow_id = 0
        self._timer: Timer | None = None
        self._ended = False  # the client has said all that it wants to say
        self._dying = False  # close as soon as all is sent
        self._closed = False
        self._task = server.loop.task(self._go_on)
        self._watch = server.loop.watch(peer.fileno(), self._ready)

    def greet(self) -> None:
        """Say the first line."""
        self._send(Hello(version=VERSION, emudev=__version__, pid=os.getpid()))

    # -- the socket

    def _ready(self, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self.close()  # nobody is there to read an answer
            return
        if events & WRITE:
            self._flush()
        if not self._closed and events & READ:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(MAX_LINE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            # A client may have said its last word before it reads our answers.
            self._ended = True
            if self._finished:
                self.close()
                return
        if not self._dying:
            self._in += data
        self._task.mark()
        self._look()

    def _send(self, message: Reply) -> None:
        if self._closed:
            return
        try:
            line = encode(message)
        except Exception as exc:  # what a plugin answered is no plain value
            log.exception("a reply of the control socket can't be encoded")
            line = encode(Error(id=message.id, kind="internal", message=f"no JSON: {exc}"))
        self._out += line
        if len(self._out) > MAX_WAITING:
            log.warning("control: a client that does not read is let go")
            self.close()
            return
        self._flush()

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._socket.send(memoryview(self._out)[:262144])
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            del self._out[:sent]
            self._rest()
        if self._out:
            if self._timer is None:
                self._timer = self._server.loop.call_later(PATIENCE, self._expire)
        elif self._dying or self._finished:
            self.close()
            return
        else:
            self._task.mark()
        self._look()

    @property
    def _finished(self) -> bool:
        """Whether the client wants nothing more and has got everything."""
        busy = self._in or self._out or self._answer is not None or self._following
        return self._ended and not busy

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        log.warning("control: a client that did not read for %g s is let go", PATIENCE)
        self.close()

    def _look(self) -> None:
        """Watch for what can be dealt with now: no more requests while the last ones wait."""
        if self._closed:
            return
        full = len(self._in) >= MAX_LINE or len(self._out) > FULL
        reading = not (full or self._ended)
        self._watch.set((READ if reading else 0) | (WRITE if self._out else 0))

    def close(self) -> None:
        """Forget the client. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._rest()
        self._task.close()
        self._watch.close()
        self._socket.close()
        if self._answer is not None:
            self._answer.close()
        for device, channel in self._following.items():
            with contextlib.suppress(Exception):  # a device that was closed has forgotten it
                device.unsubscribe_event(channel)
            channel.close()
        self._following.clear()
        self._server.forget(self)

    # -- requests, one piece a turn

    def _go_on(self) -> None:
        if self._answer is not None:
            try:
                next(self._answer)
            except StopIteration as done:
                self._answer = None
                self._send(done.value)
        elif len(self._out) <= FULL and not self._dying:
            self._take()
        if self._closed:
            return
        if self._answer is not None or (b"\n" in self._in and len(self._out) <= FULL):
            self._task.mark()
        self._look()

    def _take(self) -> None:
        """Begin with the next line, if there is a whole one."""
        end = self._in.find(b"\n", 0, MAX_LINE)
        if end < 0:
            if len(self._in) >= MAX_LINE:
                came = f"{len(self._in)} bytes without a newline"
                message = f"a request has at most {MAX_LINE} bytes, and ends with a newline"
                self._die(Refusal("request", message, f"at most {MAX_LINE} bytes", came).reply(0))
            elif self._ended:
                self._in.clear()
                self._flush()
            return
        line = bytes(self._in[:end])
        del self._in[: end + 1]
        if not line.strip():
            return
        try:
            request = decode_request(line)
        except DecodeError as exc:
            came = line[:200].decode("utf-8", "replace")
            self._send(Refusal("request", str(exc), "see --schema", came).reply(id_of(line)))
            return
        if isinstance(request, Follow):
            self._follow(request)
        else:
            self._answer = answer(self._server.registry, request)

    def _die(self, last: Error) -> None:
        self._dying = True
        self._in.clear()
        self._send(last)

    # -- events

    def _follow(self, request: Follow) -> None:
        registry = self._server.registry
        try:
            devices = [find_device(registry, request.device)] if request.device else list(registry)
            for device in devices:
                if device not in self._following:
                    self._subscribe(device)
        except Refusal as exc:
            self._send(exc.reply(request.id))
            return
        except Exception as exc:
            log.exception("control: following events failed")
            self._send(Error(id=request.id, kind="internal", message=f"no events: {exc}"))
            return
        self._follow_id = request.id
        self._send(Done(id=request.id, device=request.device, text="following"))

    def _subscribe(self, device: Device) -> None:
        task = self._server.loop.task(lambda: self._deliver(device))
        channel = EventChannel(task.mark)
        device.subscribe_event(channel)
        self._following[device] = channel

    def _deliver(self, device: Device) -> None:
        channel = self._following.get(device)
        if channel is None:
            return
        for event in channel.drain():
            self._send(
                EventRecord(
                    id=self._follow_id,
                    device=device.name,
                    kind=event.kind.value,
                    queue=event.queue,
                    value=event.value,
                    text=event.text,
                    time=time.time(),
                )
            )
