"""Work in several steps, some of which a provider finishes later.

A procedure is a generator that yields each `Later` it has to wait for and returns its result. It
runs to the end at once if nothing has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Generic, TypeVar

from emudev_core.later import LIMIT, Later
from emudev_core.loop import Loop, Timer

__all__ = ["Procedure", "Run"]

T = TypeVar("T")

#: Yields what it waits for; the failure of a `Later`, or `TimeoutError`, is raised at the yield.
Procedure = Generator[Later, None, T]


class Run(Generic[T]):
    """Runs a procedure.

    Args:
        loop: Keeps the time.
        procedure: What to run.
        done: Called once with the result and None, or with None and the error; perhaps before the
            constructor returns.
        late: Called when an answer is overdue, before `TimeoutError` is raised in the procedure.
        limit: How long each answer may take, seconds.

    Attributes:
        finished: Whether `done` was called.
    """

    def __init__(
        self,
        loop: Loop,
        procedure: Procedure[T],
        done: Callable[[T | None, BaseException | None], None],
        late: Callable[[], None],
        limit: float = LIMIT,
    ) -> None:
        self._loop = loop
        self._procedure = procedure
        self._done = done
        self._late = late
        self._limit = limit
        self._awaited: Later | None = None
        self._timer: Timer | None = None
        self.finished = False
        self._advance(None)

    def _advance(self, error: BaseException | None) -> None:
        # A loop, not recursion: answers that are there already cost no stack.
        while True:
            try:
                later = next(self._procedure) if error is None else self._procedure.throw(error)
            except StopIteration as stop:
                self._finish(stop.value, None)
                return
            except Exception as exc:
                error = None  # its traceback holds this frame, and this frame must not hold it
                self._finish(None, exc)
                return
            if not later.done:
                break
            error = later.error
        self._awaited = later
        self._timer = self._loop.call_later(self._limit, self._expired)
        later.then(self._answered)

    def _answered(self, later: Later) -> None:
        if later is not self._awaited:
            return  # overdue: the procedure has gone on without it
        self._settle()
        self._advance(later.error)

    def _expired(self) -> None:
        self._settle()
        self._late()
        self._advance(TimeoutError(f"no answer within {self._limit} s"))

    def _settle(self) -> None:
        self._awaited = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self, result: T | None, error: BaseException | None) -> None:
        self.finished = True
        done = self._done
        # Whoever keeps the run is often what these belong to: no cycle may be left.
        del self._done, self._late, self._procedure
        done(result, error)
