"""Processes of a run: started so that they can't outlive it, ended by their group, measured."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import attrs

__all__ = ["Completed", "Usage", "spawn", "stop", "tail", "usage"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Completed:
    """A command that ended.

    Attributes:
        status: Its exit status; 128 + N if signal N ended it.
        output: What it printed, standard error included.
    """

    status: int
    output: str


@attrs.frozen
class Usage:
    """What a process uses.

    Attributes:
        anonymous: Memory of its own, KiB (RssAnon).
        file: Mapped files, KiB (RssFile).
        shared: Shared memory, so guest memory that it touched, KiB (RssShmem).
        descriptors: Open file descriptors.
        threads: Threads.
        cpu: Processor time until now, its ended children excluded, s.
    """

    anonymous: int
    file: int
    shared: int
    descriptors: int
    threads: int
    cpu: float


def spawn(
    arguments: Sequence[str],
    *,
    log: IO[bytes] | int,
    errors: IO[bytes] | int = subprocess.STDOUT,
    environment: Mapping[str, str] | None = None,
    descriptors: Iterable[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own that dies when the calling thread dies.

    A session of its own keeps a terminal's Ctrl-C from it: whoever started it ends it, in order.

    Args:
        arguments: The program and its arguments.
        log: Where its standard output goes.
        errors: Where its standard error goes; default: there too.
        environment: Default: this process' own.
        descriptors: Further descriptors that it inherits; they stay the caller's.
    """
    # The parent may have died before its child asked to die with it: the shell looks for that.
    guard = ["sh", "-c", f'[ "$PPID" = {os.getpid()} ] && exec "$@"', "sh"]
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *guard, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=errors,
        env=environment,
        pass_fds=tuple(descriptors),
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], seconds: float = 5.0) -> bool:
    """End a process by SIGTERM, by SIGKILL after some seconds; the rest of its group dies too.

    Returns:
        Whether SIGTERM was enough.
    """
    polite = True
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            polite = False
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return polite


def usage(pid: int) -> Usage | None:
    """What a process uses, or None if there is none."""
    folder = Path(f"/proc/{pid}")
    try:
        status = (folder / "status").read_text()
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        descriptors = len(os.listdir(folder / "fd"))
    except OSError:
        return None
    values = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", status, re.M)}
    return Usage(
        anonymous=values.get("RssAnon", 0),
        file=values.get("RssFile", 0),
        shared=values.get("RssShmem", 0),
        descriptors=descriptors,
        threads=values.get("Threads", 0),
        cpu=(int(fields[11]) + int(fields[12])) / _TICKS,
    )


def tail(path: Path, lines: int = 25) -> str:
    """The last lines of a log; empty if there is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.replace("\r", "").splitlines()[-lines:])
