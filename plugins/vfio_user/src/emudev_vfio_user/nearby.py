"""Clients in the process that serves their device.

Such a client runs only while it waits: its thread is the loop's. When a session waits for an
answer of its client (guest memory by message), it lets the clients of its loop answer, and nothing
else: the rest of the device must not run in the middle of one of its own handlers.
"""

from __future__ import annotations

import select
import weakref
from typing import Protocol

from emudev_core.loop import Loop

__all__ = ["Nearby", "join", "watch"]


class Nearby(Protocol):
    """A client that a session can let run."""

    @property
    def loop(self) -> Loop | None:
        """The loop that serves its device."""

    def fileno(self) -> int:
        """Its socket, -1 once it is closed."""

    def ready(self, events: int) -> None:
        """Take what has come, and answer."""


_clients: weakref.WeakSet[Nearby] = weakref.WeakSet()


def join(client: Nearby) -> None:
    """Let sessions of its loop know a client; it is forgotten with its last reference."""
    _clients.add(client)


def watch(loop: Loop, poll: select.poll) -> dict[int, Nearby]:
    """Look at the sockets of a loop's clients; the clients by descriptor."""
    found = {c.fileno(): c for c in _clients if c.loop is loop and c.fileno() >= 0}
    for fd in found:
        poll.register(fd, select.POLLIN)
    return found
