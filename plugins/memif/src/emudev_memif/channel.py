"""One connection on the loop: a socket, and the protocol's end that speaks over it."""

from __future__ import annotations

import logging
import select
import socket
import struct
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from emudev_core.loop import READ, WRITE, Loop, Timer

from . import sockets
from .protocol import Closed, Event, MemifProtocol, State

__all__ = ["HANDSHAKE", "Channel", "peer_process"]

log = logging.getLogger(__name__)

#: How long a peer may take for its part of the handshake, seconds.
HANDSHAKE: Final = 5.0
#: Records read before other work of the loop gets its turn.
_AT_ONCE: Final = 64
_HANG_UP: Final = select.EPOLLHUP | select.EPOLLERR
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred. Source: unix(7).

_P = TypeVar("_P", bound=MemifProtocol)


class Channel(Generic[_P]):
    """See the module. On the loop's thread.

    Nothing is read while records wait to be sent, so that a peer that reads nothing can't make
    them pile up, and nothing between `pause` and `resume`.

    Args:
        loop: The process' loop.
        sock: Non-blocking; owned by this.
        protocol: The end; what it has to send first is sent at once.
        handler: Called with each event; `Closed` is the last, when the socket is closed already.

    Attributes:
        protocol: As given.
        handler: May be changed.
        peer: The process at the other end, for people.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        protocol: _P,
        handler: Callable[[Channel[_P], Event], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self.handler = handler
        self._paused = False
        self._open = True
        self._timer: Timer | None = None
        self.protocol = protocol
        self.peer = peer_process(sock)
        self._watch = loop.watch(sock.fileno(), self._ready, READ)
        self.limit(HANDSHAKE)
        self._flush()

    @property
    def open(self) -> bool:
        """Whether the connection is there."""
        return self._open

    def limit(self, seconds: float | None) -> None:
        """Give the peer so long from now on until the next call of this; None: for ever."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._open:
            self._timer = self._loop.call_later(seconds, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self.close(f"Timeout: no connection within {HANDSHAKE:g} s")

    def pause(self) -> None:
        """Read nothing until `resume`; the end of the connection is still seen."""
        self._paused = True
        self._arm()

    def resume(self) -> None:
        """Read again, and send what waits."""
        self._paused = False
        self._flush()

    def close(self, reason: str) -> None:
        """Tell the peer a reason and close; the handler gets the `Closed`. Twice is once."""
        if self._open:
            self._finish(self.protocol.refuse(reason))

    def abandon(self) -> None:
        """Close without a word to anybody."""
        if self._open:
            self.protocol.gone("this side went")
            self._shut()

    # -- the socket

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if not self._open:
            return
        if events & (READ | _HANG_UP):
            self._read(bool(events & _HANG_UP))

    def _read(self, hung_up: bool) -> None:
        if self._paused:
            # The peer can't be heard, but it is known to be there no more.
            if hung_up:
                self._finish(self.protocol.gone())
            return
        for _ in range(_AT_ONCE):
            try:
                record = sockets.receive(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._finish(self.protocol.gone(f"the connection broke: {exc.strerror}"))
                return
            if not record.data and not record.fds and (hung_up or self._ended()):
                self._finish(self.protocol.gone())
                return
            self._dispatch(self.protocol.receive(record.data, record.fds, record.truncated))
            if not self._open or self._paused or self.protocol.pending() is not None:
                return

    def _ended(self) -> bool:
        """Whether nothing was read since the peer has closed, not since it sent an empty record."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Closed):
                self._finish(event)
            else:
                self.handler(self, event)
        if self._open:
            self._flush()

    def _flush(self) -> None:
        while self._open:
            waiting = self.protocol.pending()
            if waiting is None:
                break
            try:
                sockets.send(self._sock, *waiting)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                self._finish(self.protocol.gone(f"the connection broke: {exc.strerror}"))
                return
            self.protocol.sent()
        self._arm()

    def _arm(self) -> None:
        if not self._open:
            return
        if self.protocol.pending() is not None:
            self._watch.set(WRITE)
        else:
            self._watch.set(0 if self._paused else READ)

    def _finish(self, event: Closed) -> None:
        if not self._open:
            return
        waiting = self.protocol.pending()
        if waiting is not None:  # the reason: sent if there is room, and not waited for
            try:
                sockets.send(self._sock, *waiting)
            except OSError as exc:
                log.debug("the reason could not be sent: %s", exc)
        self._shut()
        self.handler(self, event)

    def _shut(self) -> None:
        self._open = False
        self.limit(None)
        self._watch.close()
        self._sock.close()

    @property
    def connected(self) -> bool:
        """Whether the handshake is over and frames may flow."""
        return self.protocol.state is State.CONNECTED


def peer_process(sock: socket.socket) -> str:
    """A name for whoever is at the other end."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "a process"
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return f"process {pid} of user {uid}"
