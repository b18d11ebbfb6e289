"""The transport: a listening socket in the core's loop, and one client at a time."""

from __future__ import annotations

import logging
import socket
import struct
from typing import Final

from emudev_core.errors import TransportError
from emudev_core.hooks import hookimpl
from emudev_core.lifecycle import State
from emudev_core.loop import READ, Loop, Watch
from emudev_core.sockets import ListeningSocket, listen
from emudev_net import sigbus

from .config import VfioUserConfig
from .served import ServedDevice
from .session import Session

__all__ = ["Server"]

log = logging.getLogger(__name__)

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred. Source: unix(7).
_RETRY: Final = 0.1  # after a failed accept, seconds


class Server:
    """Serves one device at one socket. Hook implementations of `emudev_core.hooks.transport`.

    A second client is let in and its connection closed at once, so that it fails instead of
    waiting; one that comes while the last is being cleared away waits.

    Args:
        config: Where to listen.
        device: What to serve.
        loop: The process' loop.
    """

    def __init__(self, config: VfioUserConfig, device: ServedDevice, loop: Loop) -> None:
        self._config = config
        self._device = device
        self._loop = loop
        self._listening: ListeningSocket | None = None
        self._watch: Watch | None = None
        self._generation = 0
        self.session: Session | None = None

    @property
    def address(self) -> str:
        """Where clients connect, for people and programs."""
        return f"vfio_user:{self._config.path}"

    @hookimpl
    def emudev_listen(self) -> str:
        """Listen; see the hook."""
        if self._listening is not None:
            raise TransportError(f"{self.address} is listening already")
        self._listening = listen(
            self._config.path,
            socket.SOCK_STREAM,
            where=f"path={self._config.path}",
            mode=self._config.file_mode,
        )
        self._watch = self._loop.watch(self._listening.sock.fileno(), self._accept, READ)
        sigbus.prepare()  # clients map memory: its guard is compiled until then
        return self.address

    @hookimpl
    def emudev_unlisten(self) -> bool:
        """Let the client go and remove the socket; see the hook."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        if self.session is not None:
            self.session.finish()
        return True

    @hookimpl
    def emudev_close(self) -> None:
        """Give everything back, also after a start that failed; see the hook."""
        self.emudev_unlisten()

    def _accept(self, events: int) -> None:
        if self._listening is None or self._watch is None:
            return
        if self.session is not None and self.session.hung_up:
            self._watch.set(0)  # the next client waits until the last one is cleared away
            return
        try:
            sock, _ = self._listening.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as exc:  # out of descriptors: try again soon instead of spinning
            log.error("%s: accept failed: %s", self.address, exc)
            self._pause()
            return
        if self.session is not None:
            log.warning("%s: refused a second client (%s)", self.address, _client(sock))
            sock.close()
            return
        if self._device.state is State.ERROR:
            log.warning("%s: refused a client: %s is in error", self.address, self._device.name)
            sock.close()
            return
        self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        try:
            self.session = Session(
                self._device,
                self._loop,
                sock,
                _client(sock),
                self._gone,
                generation=self._generation,
            )
        except Exception as exc:
            sock.close()
            self._device.fail(exc, "emudev_get_regions")

    def _gone(self) -> None:
        if self.session is not None:
            self._generation = self.session.dma.table.generation
            self.session = None
        if self._watch is not None:
            self._watch.set(READ)

    def _pause(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.set(0)
            self._loop.call_later(_RETRY, lambda: watch.set(READ))


def _client(sock: socket.socket) -> str:
    """A name for whoever is at the other end."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return "a client"
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return f"process {pid} of user {uid}"
