"""What goes out on a connection: gathered, sent in few calls, kept while the kernel is full."""

from __future__ import annotations

import array
import socket
from collections import deque
from typing import Final

__all__ = ["Outbox"]

_FLAGS: Final = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT


class Outbox:
    """Outgoing messages of one socket.

    Args:
        sock: Where they go; kept by the caller.

    Attributes:
        gathered: Messages for the next `flush`, in order; append to it.
        kept: What the kernel has not taken yet, with the descriptors that go along.
        kept_bytes: Bytes that the kernel has not taken yet.
        progress: Counts bytes that the kernel has taken.
    """

    __slots__ = ("_send", "_sock", "gathered", "kept", "kept_bytes", "progress")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._send = sock.send
        self.gathered: list[bytes] = []
        self.kept: deque[tuple[memoryview, list[int]]] = deque()
        self.kept_bytes = 0
        self.progress = 0

    @property
    def choked(self) -> bool:
        """Whether the kernel did not take everything: wait until the socket is writable."""
        return bool(self.kept)

    def send(self, message: bytes) -> None:
        """Send one message now, behind what is there.

        Raises:
            OSError: The connection is broken.
        """
        if self.gathered or self.kept:
            self.gathered.append(message)
            self.flush()
            return
        try:
            sent = self._send(message, _FLAGS)
        except BlockingIOError:
            sent = 0
        self.progress += sent
        if sent < len(message):
            self._keep(memoryview(message)[sent:], [])

    def flush(self) -> None:
        """Send what is gathered.

        Raises:
            OSError: The connection is broken.
        """
        gathered = self.gathered
        if not gathered:
            return
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        gathered.clear()
        if self.kept:
            self._keep(memoryview(data), [])
        else:
            self.send(data)

    def send_with_fds(self, data: bytes, fds: list[int]) -> None:
        """Send a message with descriptors, behind what is gathered; the caller keeps them open.

        Raises:
            OSError: The connection is broken.
        """
        self.flush()
        self._keep(memoryview(data), fds)
        self.resume()

    def resume(self) -> None:
        """Send what was kept, as far as the kernel takes it.

        Raises:
            OSError: The connection is broken.
        """
        while self.kept:
            data, fds = self.kept[0]
            try:
                if fds:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                    sent = self._sock.sendmsg([data], [rights], _FLAGS)
                else:
                    sent = self._send(data, _FLAGS)
            except BlockingIOError:
                return
            self.progress += sent
            self.kept_bytes -= sent
            if sent < len(data):
                self.kept[0] = (data[sent:], [])
                return
            self.kept.popleft()

    def _keep(self, data: memoryview, fds: list[int]) -> None:
        self.kept.append((data, fds))
        self.kept_bytes += len(data)
