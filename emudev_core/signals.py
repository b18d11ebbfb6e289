"""SIGTERM and SIGINT as a request to stop, and a descriptor that tells of any signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

__all__ = ["SignalPipe", "StopSignals"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Calls a function at SIGTERM and SIGINT while installed.

    A shell without job control starts background processes with SIGINT ignored; it is handled all
    the same. The function runs on the main thread between two steps of the interpreter and must be
    short.

    Args:
        stop: What to call.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._former: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Handle the signals from now on; outside the main thread, or twice, this does nothing."""
        if self._former or threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            self._former[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)
        self._former.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._stop()


class SignalPipe:
    """A descriptor that becomes readable at each signal that Python handles, within the context.

    Python runs handlers between two steps of the interpreter: of a signal that comes while it is
    outside of it, only this tells in time. Off the main thread there are no such signals, and no
    descriptor.

    Attributes:
        fd: The descriptor, -1 if there is none.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._end = -1
        self._former = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.fd, self._end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._former = signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        return self

    def drain(self, _events: int = 0) -> None:
        """Read what it tells: it is readable again at the next signal."""
        os.read(self.fd, 4096)

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            signal.set_wakeup_fd(self._former)
            os.close(self.fd)
            os.close(self._end)
            self.fd = self._end = -1
