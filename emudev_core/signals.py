"""SIGTERM and SIGINT as a request to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

__all__ = ["StopSignals"]

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
