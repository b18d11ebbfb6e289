"""Listening unix sockets: paths, inherited descriptors, and files that dead processes left behind.

For the control socket and for every transport that listens at a path. A socket file whose process
has gone is replaced and nothing else is, two processes that start at once don't replace each
other's, and the umask, which is the whole process', stays as it is.

Source: unix(7), sd_listen_fds(3).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from .errors import ConfigError, TransportError

__all__ = [
    "INHERITED",
    "MAX_ADDRESS",
    "ListeningSocket",
    "check_address",
    "descriptors",
    "explain",
    "inherit",
    "inherited_fd",
    "is_bound",
    "listen",
    "listen_at",
    "remove_stale",
]

MAX_ADDRESS: Final = 107  #: bytes that fit sun_path with its NUL. Source: unix(7).
INHERITED: Final = "fd:"  #: in front of the name or the number of an inherited descriptor
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START. Source: sd_listen_fds(3).
_BACKLOG: Final = 5
_KINDS: Final = {socket.SOCK_STREAM: "stream", socket.SOCK_SEQPACKET: "seqpacket"}


def check_address(name: str) -> None:
    """Check what a user gave as a socket's path, abstract name, or ``fd:NAME``.

    Raises:
        ValueError: It is empty, holds a NUL, or does not fit ``sun_path``.
    """
    if name.startswith(INHERITED):
        if name == INHERITED:
            raise ValueError("fd: needs the name or the number of an inherited descriptor")
        return
    if not name or "\0" in name:
        raise ValueError("a socket's address can't be empty or hold a NUL byte")
    length = len(os.fsencode(name))
    if length > MAX_ADDRESS:
        raise ValueError(
            f"socket {name!r} has {length} bytes, at most {MAX_ADDRESS} fit an address"
        )


class ListeningSocket:
    """A listening socket, and the file that it made.

    Attributes:
        sock: Non-blocking; owned by this.
        path: The file, or None for an inherited descriptor or an abstract name.
    """

    def __init__(self, sock: socket.socket, path: str | None = None) -> None:
        self.sock = sock
        self.path = path
        self._file = None if path is None else _identity(path)

    def close(self) -> None:
        """Stop listening; the file is removed if it still is the one that was made.

        A second call does nothing.
        """
        self.sock.close()
        if self.path is not None and self._file is not None and _identity(self.path) == self._file:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._file = None


def listen(
    name: str,
    kind: socket.SocketKind,
    *,
    where: str,
    mode: int = 0o600,
    uid: int = -1,
    gid: int = -1,
) -> ListeningSocket:
    """Listen at a path, or on an inherited descriptor (``fd:NAME``).

    Args:
        name: Where.
        kind: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``.
        where: What the user gave, for errors, such as ``path=fd:avf0``.
        mode: Permissions of the socket file.
        uid: Its owner, -1 leaves it.
        gid: Its group, -1 leaves it.

    Returns:
        The caller's.

    Raises:
        ConfigError: The path or descriptor can't be used for this.
        TransportError: The socket is in use, or the system refused.
    """
    if name.startswith(INHERITED):
        return inherit(name, kind, where=where)
    try:
        return listen_at(name, kind, mode=mode, uid=uid, gid=gid)
    except OSError as exc:
        raise explain(name, exc, giving=(uid, gid) != (-1, -1)) from exc


def listen_at(
    path: str,
    kind: socket.SocketKind,
    *,
    mode: int = 0o600,
    uid: int = -1,
    gid: int = -1,
    backlog: int = _BACKLOG,
) -> ListeningSocket:
    """Listen at a path; a socket file whose process has gone is replaced, nothing else is.

    Args:
        path: Where.
        kind: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``.
        mode: Permissions of the socket file.
        uid: Its owner, -1 leaves it.
        gid: Its group, -1 leaves it.
        backlog: Clients that may wait to be accepted.

    Returns:
        The caller's.

    Raises:
        OSError: The system refused; EADDRINUSE if somebody has the address, EEXIST if something
            else than a socket is there. `explain` says it in words.
    """
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    made: ListeningSocket | None = None
    try:
        with _one_at_a_time(path):
            _bind(sock, path, mode)
            made = ListeningSocket(sock, path)
            # Nobody connects before listen(2): there is no moment in which the wrong ones might.
            os.chmod(path, mode)  # what the umask took is given back
            if (uid, gid) != (-1, -1):
                os.chown(path, uid, gid)
            sock.listen(backlog)
            sock.setblocking(False)
            return made
    except BaseException:
        (made or sock).close()
        raise


def _bind(sock: socket.socket, path: str, mode: int) -> None:
    # The file gets the socket's own mode less the umask, which is the whole process': not touched,
    # since other threads make files too. Source: Linux, unix_bind().
    os.fchmod(sock.fileno(), mode)
    try:
        sock.bind(path)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        remove_stale(path)
        sock.bind(path)


def remove_stale(path: str) -> None:
    """Remove the socket file of a process that has gone; nothing there is well, too.

    Raises:
        OSError: EEXIST if it is no socket, EADDRINUSE if somebody has it, or it can't be told or
            removed.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return  # its owner removed it just now
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    if is_bound(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def is_bound(path: str) -> bool:
    """Whether a process has the address of a socket file; it does not notice the question.

    Raises:
        OSError: It can't be told, such as EACCES for somebody else's.
    """
    # A datagram socket can't connect to one of another kind, so this asks without being a client:
    # EPROTOTYPE if somebody has the address, ECONNREFUSED if its process has gone.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except OSError as exc:
            if exc.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return False
            if exc.errno not in (errno.EPROTOTYPE, errno.EAGAIN):
                raise
    return True


@contextlib.contextmanager
def _one_at_a_time(path: str) -> Iterator[None]:
    """Keep two processes from replacing the same stale file; a folder can be locked like a file."""
    folder = -1
    with contextlib.suppress(PermissionError):  # may be written to and not read: can't be locked
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if folder >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        if folder >= 0:
            os.close(folder)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def explain(path: str, exc: OSError, *, giving: bool = False) -> ConfigError | TransportError:
    """An error of `listen_at` in words: what was expected, what came, where.

    Args:
        path: Where it should have listened.
        exc: The error.
        giving: The file had to be given to another owner or group.
    """
    folder = os.path.dirname(path) or "."
    if exc.errno == errno.EEXIST:
        return ConfigError(f"{path} exists and is not a socket; remove it or choose another path")
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return ConfigError(f"can't make socket {path}: there is no folder {folder}")
    if exc.errno == errno.EADDRINUSE:
        return TransportError(f"socket {path} is in use: somebody listens on it")
    if exc.errno in (errno.EACCES, errno.EPERM):
        gift = ", or to give it away" if giving else ""
        return TransportError(f"no permission to make socket {path} in {folder}{gift}")
    if exc.errno == errno.EROFS:
        return TransportError(f"can't make socket {path}: {folder} is read-only")
    return TransportError(f"can't listen on socket {path}: {exc.strerror or exc}")


# -- socket activation


def inherit(name: str, kind: socket.SocketKind, *, where: str) -> ListeningSocket:
    """Use a listening socket that this process was started with; its file is never removed.

    Args:
        name: ``fd:NAME`` or ``fd:NUMBER``.
        kind: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``.
        where: What the user gave, for errors.

    Returns:
        The caller's; the descriptor itself stays open for the next one.

    Raises:
        ConfigError: There is none, or it is something else.
    """
    number = inherited_fd(name, where=where)
    try:
        sock = _duplicate(number)
    except OSError as exc:
        raise ConfigError(f"descriptor {number}: {exc.strerror}", where=where) from exc
    listening = False
    with contextlib.suppress(OSError):
        listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if sock.family != socket.AF_UNIX or sock.type != kind or not listening:
        sock.close()
        raise ConfigError(
            f"descriptor {number} is not a listening unix {_KINDS[kind]} socket", where=where
        )
    sock.setblocking(False)
    return ListeningSocket(sock)


def _duplicate(number: int) -> socket.socket:
    own = os.dup(number)
    try:
        return socket.socket(fileno=own)
    except BaseException:
        os.close(own)
        raise


def inherited_fd(name: str, *, where: str, environment: Mapping[str, str] | None = None) -> int:
    """The number of an inherited descriptor.

    Args:
        name: ``fd:NUMBER``, or ``fd:NAME`` with a name from ``LISTEN_FDNAMES``.
        where: What the user gave, for errors.
        environment: Instead of the process' own.

    Raises:
        ConfigError: No such descriptor was handed over.

    Source: sd_listen_fds(3).
    """
    name = name.removeprefix(INHERITED)
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
            where=where,
        )
    return _FIRST_FD + names.index(name)


# -- descriptors in messages


def descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors (SCM_RIGHTS) in the ancillary data that recvmsg(2) gave; the caller's."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()
