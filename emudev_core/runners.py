"""Runners: whoever calls a device's queue kernels on a thread other than the loop's.

Kernels run on the loop's thread, between its callbacks, unless a backend has workers. Then what a
provider changes under the kernels (guest memory taken away, a queue that is set up, disabled or
reset, a table that they read) has to wait until no kernel is inside a call. A backend registers
its runner with `Device.add_runner`; a provider makes such changes within `Device.paused`:

    with device.paused():
        ...  # no kernel of this device runs here

Without runners that costs a function call and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol

__all__ = ["Runner", "Runners"]


class Runner(Protocol):
    """Calls queue kernels on threads of its own."""

    def pause(self) -> AbstractContextManager[None]:
        """Keep the kernels at rest within the context; contexts may be nested.

        Entering returns when no kernel is inside a call any more and none will be begun. That is
        bounded by a burst: typically below 100 us, never a wait for traffic.

        Raises:
            EmudevError: It did not come to rest in time; kernels may still run.
        """


_NOTHING: AbstractContextManager[None] = nullcontext()


class Runners:
    """The runners of one device. For the loop's thread."""

    __slots__ = ("_runners",)

    def __init__(self) -> None:
        self._runners: list[Runner] = []

    def add(self, runner: Runner) -> None:
        """Pause it from now on. One that is here already is not added twice."""
        if runner not in self._runners:
            self._runners.append(runner)

    def remove(self, runner: Runner) -> None:
        """Forget it; an unknown one is ignored."""
        if runner in self._runners:
            self._runners.remove(runner)

    def paused(self) -> AbstractContextManager[None]:
        """A context within which all of them are at rest.

        Raises:
            EmudevError: One of them did not come to rest; the others go on.
        """
        return self._pause() if self._runners else _NOTHING

    @contextmanager
    def _pause(self) -> Iterator[None]:
        with ExitStack() as stack:
            for runner in tuple(self._runners):
                stack.enter_context(runner.pause())
            yield
