"""The transport: a listening socket in the core's loop, and one client at a time."""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

import attrs

from emudev_core.errors import TransportError
from emudev_core.hooks import hookimpl
from emudev_core.lifecycle import State
from emudev_core.loop import READ, Loop, Watch
from emudev_core.sections import Section
from emudev_core.sockets import ListeningSocket, listen
from emudev_net import sigbus

from .config import VfioUserConfig
from .sections import server_sections
from .served import ServedDevice
from .session import Session

__all__ = ["Server"]

log = logging.getLogger(__name__)

_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred. Source: unix(7).
_RETRY: Final = 0.1  # after a failed accept, seconds


@attrs.frozen
class Peer:
    """Who is at the other end of a socket.

    Attributes:
        pid: Of the process that connected, 0 if it is in another PID namespace.
        uid: Of its user.
    """

    pid: int
    uid: int

    def __str__(self) -> str:
        """For people."""
        return f"process {self.pid} of user {self.uid}"


class Server:
    """Serves one device at one socket. Hook implementations of `emudev_core.hooks.transport`.

    A second client is let in and its connection closed at once, so that it fails instead of
    waiting; one that comes while the last is being cleared away waits.

    Args:
        config: Where to listen.
        device: What to serve.
        loop: The process' loop.

    Attributes:
        session: Of the client that is there, if any.
        peer: Who that is, as far as the kernel tells.
        since: When it connected, seconds of the monotonic clock.
        clients: How many have been served so far.
        refused: How many were turned away.
    """

    def __init__(self, config: VfioUserConfig, device: ServedDevice, loop: Loop) -> None:
        self._config = config
        self._device = device
        self._loop = loop
        self._listening: ListeningSocket | None = None
        self._watch: Watch | None = None
        self._generation = 0
        self.session: Session | None = None
        self.peer: Peer | None = None
        self.since = 0.0
        self.clients = 0
        self.refused = 0

    @property
    def path(self) -> str:
        """The socket, as the user named it."""
        return self._config.path

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""
        return self._listening is not None

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

    @hookimpl
    def emudev_get_state(self) -> Sequence[Section]:
        """The socket, its client, memory and interrupts; see the hook."""
        return server_sections(self)

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
            log.warning("%s: refused a second client (%s)", self.address, _client(_peer(sock)))
            self.refused += 1
            sock.close()
            return
        if self._device.state is State.ERROR:
            log.warning("%s: refused a client: %s is in error", self.address, self._device.name)
            self.refused += 1
            sock.close()
            return
        self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        peer = _peer(sock)
        try:
            self.session = Session(
                self._device,
                self._loop,
                sock,
                _client(peer),
                self._gone,
                generation=self._generation,
            )
        except Exception as exc:
            sock.close()
            self._device.fail(exc, "emudev_get_regions")
            return
        self.peer = peer
        self.since = time.monotonic()
        self.clients += 1

    def _gone(self) -> None:
        if self.session is not None:
            self._generation = self.session.dma.table.generation
            self.session = self.peer = None
        if self._watch is not None:
            self._watch.set(READ)

    def _pause(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.set(0)
            self._loop.call_later(_RETRY, lambda: watch.set(READ))


def _peer(sock: socket.socket) -> Peer | None:
    """Whoever is at the other end, if the kernel tells."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid)


def _client(peer: Peer | None) -> str:
    """A name for it."""
    return "a client" if peer is None else str(peer)
