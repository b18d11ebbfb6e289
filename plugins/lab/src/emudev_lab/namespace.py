"""A network namespace without a name: it lives as long as this process holds its descriptor."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from typing import Final

from .errors import LabError

__all__ = ["Namespace"]

_CLONE_NEWNET: Final = 0x40000000  # Source: linux/sched.h


class Namespace:
    """A new, empty network namespace.

    Nothing of it is visible in the file system, so that nothing is left even by SIGKILL: with the
    last process in it and this descriptor it is gone, its interfaces too.

    Raises:
        LabError: The kernel does not allow one.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        failure = 0

        def make() -> None:
            # unshare() changes only the thread that calls it, and this one ends here.
            nonlocal failure
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNET):
                failure = ctypes.get_errno()
            else:
                self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if self._descriptor < 0:
            raise LabError(f"no network namespace can be made here: {os.strerror(failure)}")

    def enter(self) -> list[str]:
        """The arguments to put before a command that shall run in the namespace."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._descriptor}", "--"]

    def processes(self) -> list[int]:
        """Ids of the processes that are in it."""
        mine = os.fstat(self._descriptor)
        found = []
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(f"/proc/{name}/ns/net"), mine):
                        found.append(int(name))
        return found

    def close(self) -> None:
        """End what still runs in it (all of it was started for this run), and let go of it."""
        if self._descriptor < 0:
            return
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(self._descriptor)
        self._descriptor = -1
