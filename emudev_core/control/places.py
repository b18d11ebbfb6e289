"""Where control sockets are: a folder of the user, a socket for each process.

`/run/emudev` for root, `$XDG_RUNTIME_DIR/emudev` for others, else `/tmp/emudev-UID`;
``EMUDEV_RUNTIME_DIR`` names another folder. Only its owner may enter.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from ..errors import TransportError
from ..sockets import is_bound, remove_stale

__all__ = ["default_path", "found_sockets", "make_folder", "runtime_folder"]


def runtime_folder() -> Path:
    """The folder of this user's sockets; it may not be there."""
    named = os.environ.get("EMUDEV_RUNTIME_DIR", "")
    if named:
        return Path(named)
    user = os.geteuid()
    if user == 0:
        return Path("/run/emudev")
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(session, "emudev") if session else Path(f"/tmp/emudev-{user}")


def make_folder() -> Path:
    """The folder of this user's sockets, made if need be.

    Raises:
        TransportError: It is not this user's alone: another one could put sockets there.
        OSError: It can't be made.
    """
    folder = runtime_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.geteuid()
        or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise TransportError(
            f"{folder}: expected a folder that only user {os.geteuid()} may write to, came "
            f"{stat.filemode(status.st_mode)} of user {status.st_uid}"
        )
    return folder


def default_path() -> Path:
    """The socket of this process, in a folder that is there; sockets of dead ones are removed.

    Raises:
        TransportError, OSError: See `make_folder`.
    """
    folder = make_folder()
    for path in folder.glob("*.sock"):
        with contextlib.suppress(OSError):  # of one that lives, or something else
            remove_stale(str(path))
    return folder / f"{os.getpid()}.sock"


def found_sockets() -> list[Path]:
    """The sockets of this user's processes that live, by number.

    Raises:
        TransportError: The folder is another user's, who lets nobody look into it.
    """
    folder = runtime_folder()
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as exc:
        raise TransportError(
            f"{folder}: permission denied: only its owner and root may look for control sockets"
        ) from exc
    sockets = [folder / name for name in names if name.endswith(".sock")]
    found = [path for path in sockets if _is_alive(path)]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _is_alive(path: Path) -> bool:
    try:
        return is_bound(str(path))
    except OSError:
        return True  # somebody else's (EACCES): there, all the same
