"""Calls that wait until the guest's access at hand was answered, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from emudev_core.later import Later
from emudev_core.loop import Loop

__all__ = ["MAX_DEFERRED", "DeferredCalls"]

#: Calls that wait; a guest that makes more loses them.
MAX_DEFERRED: Final = 4096


class DeferredCalls:
    """The waiting calls of one function. On the loop's thread.

    They run at the end of the loop's turn; those that they add run in the next one.

    Args:
        loop: Runs them.
        failed: Told what a call raised; the next one runs, unless `clear` is called.

    Attributes:
        lost: Calls that were dropped because `MAX_DEFERRED` waited.
    """

    def __init__(self, loop: Loop, failed: Callable[[Exception], None]) -> None:
        self.lost = 0
        self._failed = failed
        self._calls: deque[Callable[[], object]] = deque()
        self._task = loop.task(self._run)
        self._quiet: Later | None = None

    def add(self, call: Callable[[], object]) -> None:
        """Let one wait behind the others."""
        if len(self._calls) >= MAX_DEFERRED:
            self.lost += 1
            return
        self._calls.append(call)
        self._task.mark()

    def clear(self) -> None:
        """Drop what waits."""
        self._calls.clear()

    def reset(self) -> None:
        """Drop what waits; nobody needs to wait for it any more."""
        self._calls.clear()
        self._end_quiet()

    def quiesce(self) -> Later | bool:
        """True if none waits, or what is finished when none does."""
        if not self._calls:
            return True
        if self._quiet is None:
            self._quiet = Later()
        return self._quiet

    def close(self) -> None:
        """Drop what waits, and run nothing more."""
        self._calls.clear()
        self._task.close()

    def _run(self) -> None:
        for _ in range(len(self._calls)):
            if not self._calls:
                break  # dropped by a reset meanwhile
            call = self._calls.popleft()
            try:
                call()
            except Exception as exc:
                self._failed(exc)
        if self._calls:
            self._task.mark()
        else:
            self._end_quiet()

    def _end_quiet(self) -> None:
        if self._quiet is not None:
            quiet, self._quiet = self._quiet, None
            quiet.finish()
