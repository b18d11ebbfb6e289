"""What goes out on a connection: gathered, sent in few calls, kept while the kernel is full.

A client that does not take what is sent to it is *choked*: nothing is read from it until it has,
and after `STALL` seconds without progress it is let go.
"""

from __future__ import annotations

import array
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from emudev_core.loop import Loop, Timer

__all__ = ["STALL", "Outbox"]

STALL: Final = 5.0  #: how long a client may leave its replies unread, seconds

_FLAGS: Final = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT


def _nothing(*_: object) -> None:
    """The callbacks of a closed outbox."""


class Outbox:
    """Outgoing messages of one socket.

    Args:
        loop: For the time that a client has.
        sock: Where they go; kept by the caller.
        look: Called when the client is choked: look whether the socket is writable, and `resume`.
        leave: Called with the reason when the connection is broken, or nothing was taken in time.

    Attributes:
        gathered: Messages for the next `flush`, in order; append to it.
        kept: What the kernel has not taken yet, with the descriptors that go along.
        kept_bytes: Bytes that the kernel has not taken yet.
        progress: Counts bytes that the kernel has taken.
    """

    __slots__ = (
        "_closed",
        "_leave",
        "_look",
        "_loop",
        "_send",
        "_sock",
        "_stall",
        "gathered",
        "kept",
        "kept_bytes",
        "progress",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        look: Callable[[], None],
        leave: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._send = sock.send
        self._look = look
        self._leave = leave
        self._stall: Timer | None = None
        self._closed = False
        self.gathered: list[bytes] = []
        self.kept: deque[tuple[memoryview, list[int]]] = deque()
        self.kept_bytes = 0
        self.progress = 0

    @property
    def choked(self) -> bool:
        """Whether the kernel did not take everything: wait until the socket is writable."""
        return bool(self.kept)

    def send(self, message: bytes) -> None:
        """Send one message now, behind what is there."""
        if self.gathered or self.kept:
            self.gathered.append(message)
            self.flush()
            return
        try:
            sent = self._send(message, _FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._leave(str(exc))
            return
        self.progress += sent
        if sent < len(message):
            self._keep(memoryview(message)[sent:], [])
            self._choke()

    def flush(self) -> None:
        """Send what is gathered."""
        gathered = self.gathered
        if not gathered:
            return
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        if self.kept:
            self._keep(memoryview(data), [])
            self._choke()
        else:
            self.send(data)

    def send_with_fds(self, data: bytes, fds: list[int]) -> None:
        """Send a message with descriptors, behind what is gathered; the caller keeps them open."""
        self.flush()
        if self._closed:
            return
        self._keep(memoryview(data), fds)
        if self._push() and self.kept:
            self._choke()

    def resume(self) -> bool:
        """Send what was kept, as far as the kernel takes it; whether that is all."""
        if not self._push() or self.kept:
            return False
        self._cancel()
        return True

    def close(self) -> None:
        """Send nothing more."""
        self._closed = True
        self._cancel()
        self.gathered.clear()
        # Whoever keeps this is what the callbacks belong to: no cycle may be left.
        self._look = _nothing
        self._leave = _nothing

    def _push(self) -> bool:
        """Send what was kept, as far as possible; False if the connection is broken."""
        while self.kept:
            data, fds = self.kept[0]
            try:
                if fds:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                    sent = self._sock.sendmsg([data], [rights], _FLAGS)
                else:
                    sent = self._send(data, _FLAGS)
            except BlockingIOError:
                return True
            except OSError as exc:
                self._leave(str(exc))
                return False
            self.progress += sent
            self.kept_bytes -= sent
            if sent < len(data):
                self.kept[0] = (data[sent:], [])
                return True
            self.kept.popleft()
        return True

    def _keep(self, data: memoryview, fds: list[int]) -> None:
        self.kept.append((data, fds))
        self.kept_bytes += len(data)

    def _choke(self) -> None:
        self._look()
        if self._stall is None:
            progress = self.progress
            self._stall = self._loop.call_later(STALL, lambda: self._stalled(progress))

    def _stalled(self, progress: int) -> None:
        self._stall = None
        if self._closed or not self.kept:
            return
        if self.progress == progress:
            self._leave(f"{self.kept_bytes} bytes of replies were not read for {STALL} s")
        else:
            self._choke()

    def _cancel(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
