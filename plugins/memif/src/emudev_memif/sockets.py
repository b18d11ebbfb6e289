"""Addresses and sockets of the control channel: abstract names, paths, inherited descriptors.

Source: memif.md 2.1; unix(7), sd_listen_fds(3).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from emudev_core.errors import ConfigError, TransportError

__all__ = ["Address", "Listening", "Record", "connect", "listen", "receive", "send"]

MAX_NAME: Final = 107  #: bytes of an address: sun_path less its NUL, also for abstract names
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_BACKLOG: Final = 5
_INHERITED: Final = "fd:"
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
        if self.inherited:
            if self.name == _INHERITED:
                raise ValueError("fd: needs the name or the number of an inherited descriptor")
            return
        if not self.name or "\0" in self.name:
            raise ValueError("a socket's name can't be empty or hold a NUL byte")
        length = len(os.fsencode(self.name))
        if length > MAX_NAME:
            raise ValueError(
                f"socket {self.name!r} has {length} bytes, at most {MAX_NAME} fit an address"
            )

    @property
    def inherited(self) -> bool:
        """Whether it stands for a descriptor that this process was started with."""
        return self.name.startswith(_INHERITED)

    @property
    def raw(self) -> bytes:
        """For bind(2) and connect(2); an abstract name has a NUL in front and none behind."""
        name = os.fsencode(self.name)
        return b"\0" + name if self.abstract else name

    def __str__(self) -> str:
        return f"abstract:{self.name}" if self.abstract and not self.inherited else self.name


class Listening:
    """A listening socket, and the file that it made.

    Attributes:
        sock: Non-blocking; owned by this.
    """

    def __init__(self, sock: socket.socket, path: str | None) -> None:
        self.sock = sock
        self._path = path
        self._file = _identity(path) if path is not None else None

    def close(self) -> None:
        """Stop listening; the file is removed if it still is the one that was made."""
        self.sock.close()
        if self._path is not None and self._file and _identity(self._path) == self._file:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._file = None


def listen(address: Address, mode: int = 0o600, uid: int = -1, gid: int = -1) -> Listening:
    """Listen.

    A socket file whose process has gone is replaced; nothing else is.

    Args:
        address: Where.
        mode: Permissions of the socket file.
        uid: Its owner, -1 leaves it.
        gid: Its group, -1 leaves it.

    Raises:
        ConfigError: The address can't be used for this.
        TransportError: It is in use, or the system refused.
    """
    if address.inherited:
        return _inherit(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        if address.abstract:
            sock.bind(address.raw)
        else:
            with _one_at_a_time(address.name):
                _bind(sock, address.name, mode)
        made = Listening(sock, None if address.abstract else address.name)
    except OSError as exc:
        sock.close()
        raise _explain(address, exc) from exc
    except BaseException:
        sock.close()
        raise
    try:
        if not address.abstract and (uid, gid) != (-1, -1):
            os.chown(address.name, uid, gid)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        made.close()
        raise _explain(address, exc) from exc
    return made


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
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return Record(data, fds.tolist(), bool(flags & socket.MSG_CTRUNC))


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


# -- paths


def _bind(sock: socket.socket, path: str, mode: int) -> None:
    umask = os.umask(0o777 & ~mode)
    try:
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(path)
    finally:
        os.umask(umask)


def _remove_stale(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return  # its owner removed it just now
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} exists and is not a socket; remove it or choose another path")
    # A datagram socket can't connect to a listening one of another type, so this asks without being
    # a client: EPROTOTYPE if somebody has the address, ECONNREFUSED if its process has gone.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except OSError as exc:
            if exc.errno == errno.ECONNREFUSED:
                os.unlink(path)
                return
            if exc.errno == errno.ENOENT:
                return
            if exc.errno not in (errno.EPROTOTYPE, errno.EAGAIN):
                raise
    raise TransportError(f"socket {path} is in use: somebody listens on it")


@contextlib.contextmanager
def _one_at_a_time(path: str) -> Iterator[None]:
    """Keep two processes from replacing the same stale file; a folder can be locked like a file."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _explain(address: Address, exc: OSError) -> TransportError | ConfigError:
    if address.abstract:
        if exc.errno == errno.EADDRINUSE:
            return TransportError(f"socket {address} is in use: somebody listens on it")
        return TransportError(f"can't listen on socket {address}: {exc.strerror}")
    folder = os.path.dirname(address.name) or "."
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return ConfigError(f"can't make socket {address}: there is no folder {folder}")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return TransportError(f"no permission to make socket {address}, or to give it away")
    return TransportError(f"can't listen on socket {address}: {exc.strerror}")


# -- socket activation


def _inherit(address: Address, environment: Mapping[str, str] | None = None) -> Listening:
    where = f"socket={address.name}"
    name = address.name.removeprefix(_INHERITED)
    number = int(name) if name.isdecimal() else _named(name, where, environment)
    try:
        sock = socket.socket(fileno=os.dup(number))
    except OSError as exc:
        raise ConfigError(f"descriptor {number}: {exc.strerror}", where=where) from exc
    listening = False
    with contextlib.suppress(OSError):
        listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET or not listening:
        sock.close()
        raise ConfigError(
            f"descriptor {number} is not a listening unix seqpacket socket", where=where
        )
    os.set_inheritable(sock.fileno(), False)
    sock.setblocking(False)
    return Listening(sock, None)


def _named(name: str, where: str, environment: Mapping[str, str] | None) -> int:
    env = os.environ if environment is None else environment
    names = env.get("LISTEN_FDNAMES", "").split(":") if env.get("LISTEN_FDNAMES") else []
    if env.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        names = []
    count = env.get("LISTEN_FDS", "")
    names = names[: int(count)] if count.isdecimal() else names
    if name not in names:
        have = ", ".join(names) or "none"
        raise ConfigError(
            f"no descriptor named {name!r} was handed over (LISTEN_FDNAMES has: {have})",
            where=where,
        )
    return _FIRST_FD + names.index(name)
