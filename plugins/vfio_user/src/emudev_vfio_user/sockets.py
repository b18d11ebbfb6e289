"""Listening sockets: paths, inherited descriptors, and socket files that somebody left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from emudev_core.errors import ConfigError, TransportError

__all__ = [
    "MAX_PATH",
    "ListeningSocket",
    "check_path",
    "descriptors",
    "inherited_fd",
    "open_socket",
]

MAX_PATH: Final = 107  #: bytes that fit sun_path with its NUL. Source: unix(7).
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START. Source: sd_listen_fds(3).
_BACKLOG: Final = 4


def check_path(path: str) -> None:
    """Check what a user gave as ``path``.

    Raises:
        ValueError: It is empty, holds a NUL, or does not fit ``sun_path``.
    """
    if path.startswith("fd:"):
        if path == "fd:":
            raise ValueError("fd: needs the name or the number of an inherited descriptor")
        return
    if not path or "\0" in path:
        raise ValueError("a socket's path can't be empty or hold a NUL byte")
    length = len(os.fsencode(path))
    if length > MAX_PATH:
        raise ValueError(
            f"socket path {path!r} has {length} bytes, at most {MAX_PATH} fit a socket's address"
        )


def inherited_fd(name: str, environment: Mapping[str, str] | None = None) -> int:
    """The number of an inherited descriptor.

    Args:
        name: A number, or a name from ``LISTEN_FDNAMES``.
        environment: Instead of the process' own.

    Raises:
        ConfigError: No such descriptor was handed over.

    Source: sd_listen_fds(3).
    """
    if name.isdecimal():
        return int(name)
    env = os.environ if environment is None else environment
    names = env.get("LISTEN_FDNAMES", "").split(":") if env.get("LISTEN_FDNAMES") else []
    pid = env.get("LISTEN_PID", "")
    count = env.get("LISTEN_FDS", "")
    if pid and pid != str(os.getpid()):
        names = []
    if count.isdecimal():
        names = names[: int(count)]
    if name not in names:
        have = ", ".join(names) or "none"
        raise ConfigError(
            f"no descriptor named {name!r} was handed over (LISTEN_FDNAMES has: {have})",
            where=f"path=fd:{name}",
        )
    return _FIRST_FD + names.index(name)


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors of what recvmsg(2) gave."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % 4
            fds += struct.unpack(f"{whole // 4}i", data[:whole])
    return fds


class ListeningSocket:
    """A listening socket, and the file that it made.

    Attributes:
        sock: Non-blocking; owned by this.
        path: The file, or None for an inherited descriptor.
    """

    def __init__(self, sock: socket.socket, path: str | None) -> None:
        self.sock = sock
        self.path = path
        self._file = _identity(path) if path is not None else None

    def close(self) -> None:
        """Stop listening; the file is removed if it still is the one that was made."""
        self.sock.close()
        if self.path is not None and self._file is not None and _identity(self.path) == self._file:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self._file = None


def open_socket(path: str, mode: int = 0o600) -> ListeningSocket:
    """Listen at a path, or on an inherited descriptor (``fd:NAME``).

    A socket file whose process has gone is replaced; nothing else is.

    Args:
        path: Where.
        mode: Permissions of the socket file.

    Raises:
        ConfigError: The path or descriptor can't be used for this.
        TransportError: The socket is in use, or the system refused.
    """
    if path.startswith("fd:"):
        return _inherit(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with _one_at_a_time(path):
            _bind(sock, path, mode)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
            return ListeningSocket(sock, path)
    except OSError as exc:
        sock.close()
        raise _explain(path, exc) from exc
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, path: str, mode: int) -> None:
    # The file gets the socket's own mode less the umask, which is the whole process': not touched,
    # since other threads make files too. What the umask took is given back when the file is there.
    # Source: Linux, unix_bind().
    os.fchmod(sock.fileno(), mode)
    try:
        sock.bind(path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        _remove_stale(path)
        sock.bind(path)
    os.chmod(path, mode)


def _remove_stale(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return  # its owner removed it just now
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} exists and is not a socket; remove it or choose another path")
    # A datagram socket can't connect to a listening stream socket, so this asks without being a
    # client: EPROTOTYPE if somebody has the address, ECONNREFUSED if its process has gone.
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


def _inherit(path: str) -> ListeningSocket:
    number = inherited_fd(path.removeprefix("fd:"))
    try:
        sock = socket.socket(fileno=os.dup(number))
    except OSError as exc:
        raise ConfigError(f"descriptor {number}: {exc.strerror}", where=f"path={path}") from exc
    listening = False
    with contextlib.suppress(OSError):
        listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listening:
        sock.close()
        raise ConfigError(
            f"descriptor {number} is not a listening unix stream socket", where=f"path={path}"
        )
    os.set_inheritable(sock.fileno(), False)
    sock.setblocking(False)
    return ListeningSocket(sock, None)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _explain(path: str, exc: OSError) -> TransportError | ConfigError:
    folder = os.path.dirname(path) or "."
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return ConfigError(f"can't make socket {path}: there is no folder {folder}")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return TransportError(f"no permission to make socket {path} in {folder}")
    if exc.errno == errno.EROFS:
        return TransportError(f"can't make socket {path}: {folder} is read-only")
    return TransportError(f"can't listen on socket {path}: {exc.strerror}")
