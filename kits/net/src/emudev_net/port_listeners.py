"""Who listens to a port, and who runs its kernels: subscribers, sleepers, runners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager

from emudev_core.queues import Shortcut
from emudev_core.runners import Runner, Runners
from emudev_core.subscribers import Subscribers

from .port_driver import PortDriver
from .port_records import PortEvent, PortState

__all__ = ["PortListeners"]


class PortListeners(PortDriver):
    """The part of a port that tells others. For the loop's thread.

    Attributes:
        state: Where it is in its life.
        paused: ``with port.paused():`` keeps those at rest who run the port's kernels on other
            threads (`add_runner`); for the port, around what must not change under them.
    """

    def __init__(self) -> None:
        self.state = PortState.NEW
        self._polled = False
        self._subscribers: tuple[Callable[[PortEvent], None], ...] = ()
        self._wakes: defaultdict[tuple[bool, int], Subscribers] = defaultdict(Subscribers)
        self._runners = Runners()
        self.paused: Callable[[], AbstractContextManager[None]] = self._runners.paused

    # -- events

    def subscribe(self, callback: Callable[[PortEvent], None]) -> Callable[[], None]:
        """Be told what happens; on the loop's thread, and short.

        Returns:
            What undoes it.
        """
        self._subscribers += (callback,)

        def undo() -> None:
            self._subscribers = tuple(c for c in self._subscribers if c is not callback)

        return undo

    def post(self, event: PortEvent) -> None:
        """Tell the subscribers."""
        for callback in self._subscribers:
            callback(event)

    def wake_rx(self, queue: int) -> None:
        """Packets may be there, for those who sleep."""
        self._wakes[True, queue].call()

    def wake_tx(self, queue: int) -> None:
        """A transmit queue may have room again, for those who wait."""
        self._wakes[False, queue].call()

    # -- sleeping and polling

    def subscribe_rx(
        self, queue: int, callback: Callable[[], None], shortcut: Shortcut | None = None
    ) -> Callable[[], None]:
        """Be called on the loop's thread when packets may be there; short (mark a task).

        Also when the port is started and ready. While `polled` is set, calls may be left out.

        Args:
            queue: Receive queue.
            callback: What to call.
            shortcut: What may be run in its place while the loop sleeps (`Flow.shortcut`).

        Returns:
            What undoes it.
        """
        return self._wakes[True, queue].add(callback, shortcut)

    def subscribe_tx(
        self, queue: int, callback: Callable[[], None], shortcut: Shortcut | None = None
    ) -> Callable[[], None]:
        """Be called on the loop's thread when a full transmit queue may have room again.

        Args:
            queue: Transmit queue.
            callback: What to call.
            shortcut: What may be run in its place while the loop sleeps (`Flow.shortcut`).

        Returns:
            What undoes it.
        """
        return self._wakes[False, queue].add(callback, shortcut)

    def rx_subscribers(self, queue: int) -> Subscribers:
        """Whom `wake_rx` calls; for a port, as the shortcut of such a call (`Subscribers.add`)."""
        return self._wakes[True, queue]

    def tx_subscribers(self, queue: int) -> Subscribers:
        """Whom `wake_tx` calls; see `rx_subscribers`."""
        return self._wakes[False, queue]

    def rx_fd(self, queue: int) -> int:
        """A descriptor that is readable while packets wait, for workers; -1: there is none."""
        return -1

    def tx_fd(self, queue: int) -> int:
        """A descriptor that is writable while there is room, for workers; -1: there is none."""
        return -1

    @property
    def polled(self) -> bool:
        """Whether its user looks by itself again and again; then nobody needs to wake it."""
        return self._polled

    def set_polled(self, polled: bool) -> None:
        """Say that the receive queues are polled, or not any more; in any state."""
        if polled != self._polled:
            self._polled = polled
            if self.state is PortState.STARTED:
                self.on_polled(polled)

    def add_runner(self, runner: Runner) -> None:
        """Have whoever runs its kernels on another thread paused when something changes."""
        self._runners.add(runner)

    def remove_runner(self, runner: Runner) -> None:
        """Undo `add_runner`, once it runs no kernel of the port any more."""
        self._runners.remove(runner)

    def _forget_listeners(self) -> None:
        for subscribers in self._wakes.values():
            subscribers.clear()
        self._subscribers = ()
