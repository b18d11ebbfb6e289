"""Answers that take time.

A handler never waits. A provider call for which work must be finished first (DMA unmap, reset,
quiesce) may return a `Later`: the transport then reads no further command from that connection
until it is done; other connections go on. After `LIMIT` seconds the device is put in error.

The device watches the clock (`Device.dma_unmap`, `Device.reset`, `Device.quiesce`): a `Later` that
is not done in time is finished with an error and `Device.fail` is called. A transport therefore
only parks the connection in `then`, and looks at `error`: after a failed unmapping it keeps the
mapping until the device is closed, since somebody may still work on it.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LIMIT", "Later"]

#: How long an answer may take, seconds; QEMU gives up after 5.
LIMIT = 1.0


class Later:
    """An answer to come, on the loop's thread."""

    __slots__ = ("_callbacks", "done", "error")

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Later], None]] = []
        self.done = False
        self.error: BaseException | None = None

    def finish(self, error: BaseException | None = None) -> None:
        """Give the answer, once; `error` makes it a failure. A second call is ignored."""
        if self.done:
            return
        self.done = True
        self.error = error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def then(self, callback: Callable[[Later], None]) -> None:
        """Call `callback(self)` when the answer is there, at once if it is already."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)
