"""Steps that are done once: each leaves a stamp with what it depends on, and a log."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import attrs

from .errors import LabError
from .process import tail

__all__ = ["Step", "Steps"]


@attrs.frozen
class Step:
    """One step.

    Attributes:
        name: Name of its stamp and its log.
        does: What it does, for people.
        key: What it depends on; another key, and it is done again.
        run: Does it; what it writes to the log is shown if it fails.
        after: Name of the step whose result it builds on; done again with it.
    """

    name: str
    does: str
    key: str
    run: Callable[[IO[bytes]], None]
    after: str = ""


class Steps:
    """Runs steps that are not done yet.

    Args:
        folder: Where stamps, logs and the lock are.
        say: Takes lines about the progress.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say
        self._keys: dict[str, str] = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running steps here meanwhile; waits for one that does."""
        (self.folder / "stamps").mkdir(parents=True, exist_ok=True)
        (self.folder / "log").mkdir(exist_ok=True)
        with open(self.folder / ".lock", "wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("waiting for another preparation of the same folder")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def run(self, step: Step) -> bool:
        """Do a step unless it was done before with the same key.

        Returns:
            Whether it was done now.

        Raises:
            LabError: It failed; the message ends with the tail of its log.
        """
        above = self._keys[step.after] if step.after else ""
        key = hashlib.sha256(f"{above}\n{step.key}".encode()).hexdigest()
        self._keys[step.name] = key
        stamp = self.folder / "stamps" / step.name
        if stamp.exists() and stamp.read_text() == key:
            return False
        stamp.unlink(missing_ok=True)
        self._say(f"{step.does} ...")
        begun = time.monotonic()
        log = self.folder / "log" / f"{step.name}.log"
        try:
            with open(log, "wb", buffering=0) as file:
                step.run(file)
        except (subprocess.CalledProcessError, OSError, LabError) as error:
            why = str(error)
            if isinstance(error, subprocess.CalledProcessError):
                why = f"{error.cmd[0]} ended with status {error.returncode}"
            raise LabError(f"{step.does}: {why}\n{tail(log)}\n(the log: {log})") from error
        stamp.write_text(key)
        self._say(f"{step.does}: done in {time.monotonic() - begun:.0f} s")
        return True
