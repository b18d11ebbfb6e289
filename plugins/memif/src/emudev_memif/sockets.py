"""Addresses and sockets of the control channel: abstract names beside what the core listens on.

Source: memif.md 2.1; unix(7).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from typing import Final

import attrs

from emudev_core import sockets
from emudev_core.errors import TransportError
from emudev_core.sockets import INHERITED, ListeningSocket, check_address, descriptors, explain

__all__ = ["Address", "Record", "connect", "listen", "receive", "send"]

_BACKLOG: Final = 5
#: Room for all the descriptors that one record can carry (SCM_MAX_FD) and for credentials.
_ANCILLARY: Final = socket.CMSG_SPACE(253 * 4) + socket.CMSG_SPACE(12)
_ROOM: Final = 256  # bytes of a record that are read: enough to see that it is too long


@attrs.frozen
class Address:
    """Where a server listens.

    Attributes:
        name: Path, abstract name, or ``fd:NAME`` for an inherited listening socket.
        abstract: It is an abstract name, slashes included; no file appears.
    """

    name: str
    abstract: bool

    def check(self) -> None:
        """See that it can be an address.

        Raises:
            ValueError: It is empty, holds a NUL byte, or does not fit ``sun_path``.
        """
        check_address(self.name)

    @property
    def inherited(self) -> bool:
        """Whether it stands for a descriptor that this process was started with."""
        return self.name.startswith(INHERITED)

    @property
    def raw(self) -> bytes:
        """For bind(2) and connect(2); an abstract name has a NUL in front and none behind."""
        name = os.fsencode(self.name)
        return b"\0" + name if self.abstract else name

    def __str__(self) -> str:
        return f"abstract:{self.name}" if self.abstract and not self.inherited else self.name


def listen(address: Address, mode: int = 0o600, uid: int = -1, gid: int = -1) -> ListeningSocket:
    """Listen.

    A socket file whose process has gone is replaced; nothing else is.

    Args:
        address: Where.
        mode: Permissions of the socket file.
        uid: Its owner, -1 leaves it.
        gid: Its group, -1 leaves it.

    Returns:
        The caller's.

    Raises:
        ConfigError: The address can't be used for this.
        TransportError: It is in use, or the system refused.
    """
    if not address.abstract or address.inherited:
        where = f"socket={address}"
        return sockets.listen(
            address.name, socket.SOCK_SEQPACKET, where=where, mode=mode, uid=uid, gid=gid
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.bind(address.raw)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise explain(str(address), exc) from exc
        # What else there is of words is about folders, and an abstract name is in none.
        raise TransportError(f"can't listen on socket {address}: {exc.strerror or exc}") from exc
    return ListeningSocket(sock)


def connect(address: Address) -> socket.socket:
    """Connect to a server, without waiting.

    Raises:
        OSError: Nobody listens (ECONNREFUSED, ENOENT), or not now (EAGAIN).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.connect(address.raw)
    except BaseException:
        sock.close()
        raise
    return sock


# -- records


@attrs.frozen
class Record:
    """One record of the control channel.

    Attributes:
        data: Its bytes; none if the peer has closed, or sent an empty one.
        fds: The descriptors that came with it, close-on-exec; the receiver's.
        truncated: Descriptors were lost.
    """

    data: bytes
    fds: list[int]
    truncated: bool


def receive(sock: socket.socket) -> Record:
    """Take one record and all descriptors that came with it.

    Raises:
        OSError: As recvmsg(2); BlockingIOError if there is none.
    """
    data, ancillary, flags, _ = sock.recvmsg(_ROOM, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    return Record(data, descriptors(ancillary), bool(flags & socket.MSG_CTRUNC))


def send(sock: socket.socket, data: bytes, fd: int | None) -> None:
    """Send one record, with a descriptor that stays the caller's.

    Raises:
        OSError: As sendmsg(2); BlockingIOError if there is no room.
    """
    flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
    if fd is None:
        sock.send(data, flags)
    else:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        sock.sendmsg([data], [rights], flags)
