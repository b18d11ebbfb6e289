"""The one loop of a process: descriptors, timers, tasks, calls from other threads.

The host makes it and hands it to every builder; nobody else calls epoll, starts threads for I/O or
starts asyncio. All methods are for the loop's own thread except `call_threadsafe` and `stop`.

A turn: wait for descriptors; run their callbacks; run what is due; run the marked tasks. After a
turn that had work the loop looks again for `spin` microseconds before it sleeps: waking a sleeping
core costs a peer tens of microseconds, and a driver's next register access comes within a few.

Who knows a faster way to sleep gives the loop a `Sleeper`: an interpreter that has slept is cold,
and takes a tenth of a millisecond to its first answer. With one the loop looks on by itself only
for what it is told to expect: frames and doorbells are no earlier for it, and cost twice as much.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from .signals import SignalPipe

__all__ = ["READ", "WRITE", "Loop", "Sleeper", "Task", "Timer", "Watch"]

log = logging.getLogger(__name__)

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

#: Descriptors that one look reports: room is made for as many each time. The kernel goes on behind
#: them at the next look, so none is forgotten.
_AT_ONCE: Final = 32


class Watch:
    """A descriptor that the loop looks at; close it before the descriptor."""

    __slots__ = ("_events", "_loop", "callback", "fd")

    def __init__(self, loop: Loop, fd: int, callback: Callable[[int], None], events: int) -> None:
        self._loop = loop
        self._events = events
        self.fd = fd
        self.callback = callback

    def set(self, events: int) -> None:
        """Look for other events: `READ`, `WRITE`, both, or 0 for none (errors are still seen)."""
        if events != self._events and self._loop._watches.get(self.fd) is self:
            self._events = events
            self._loop._epoll.modify(self.fd, events)

    def close(self) -> None:
        """Stop looking. A second call does nothing; the callback does not run any more."""
        if self._loop._watches.get(self.fd) is self:
            del self._loop._watches[self.fd]
            try:
                self._loop._epoll.unregister(self.fd)
            except OSError:  # the descriptor was closed first: epoll has forgotten it already
                log.debug("descriptor %d was closed before its watch", self.fd)
        # Whoever keeps the watch is often what the callback belongs to: no cycle may be left.
        self.callback = _nothing


def _nothing(events: int) -> None:
    """The callback of a closed watch."""


class Timer:
    """A call at a time."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call. Cancelling one that has run does nothing."""
        self.callback = None


class Task:
    """Work that is done once at the end of a turn in which it was marked, however often."""

    __slots__ = ("_callback", "_loop", "_marked", "_run")

    def __init__(self, loop: Loop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback: Callable[[], None] | None = callback
        self._marked = False

    def mark(self) -> None:
        """Run at the end of this turn; from inside a task, in the next turn, without sleeping."""
        if not self._marked and self._callback is not None:
            self._marked = True
            self._loop._marked.append(self)

    def close(self) -> None:
        """Never run again."""
        self._callback = None

    def _fire(self) -> None:
        self._marked = False
        if self._callback is not None:
            self._callback()


class Sleeper(Protocol):
    """Waits in the place of a running loop, and serves meanwhile what needs no interpreter."""

    @property
    def ready(self) -> bool:
        """Whether it can be used now."""

    def sleep(self, epoll: int, deadline: int | None) -> list[tuple[int, int]]:
        """Wait until there is something for the loop to do.

        Args:
            epoll: Descriptor of the loop's epoll instance.
            deadline: When to come back at the latest, ns of the monotonic clock; None: never.

        Returns:
            Descriptors that are ready and were not served, with their events. May be empty at any
            time: after the deadline, after a signal, or when it has rung something.
        """


class Loop:
    """See the module.

    Args:
        spin: How long to look on after work before sleeping, microseconds; 0 sleeps at once. With a
            ready `sleeper` only while `expecting`.

    Attributes:
        sleeper: Waits while `run` has nothing to do; None: the loop does it itself.
        expecting: Set by a callback whose peer will ask for the next thing at once, such as a
            vCPU that has read a register: the loop looks on for that by itself, since from a
            sleeper it is some microseconds further to a callback. Good until the next work.
        on_error: Called with what a callback raised; True goes on, without the watch whose callback
            it was, anything else lets the exception out of `turn`. None lets all out.
    """

    def __init__(self, *, spin: int = 50) -> None:
        self.spin = spin
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        # Watched since the last wait: what epoll said then was about another file of that number.
        self._fresh: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._marked: deque[Task] = deque()
        self._soon: deque[Callable[[], None]] = deque()
        self._foreign: deque[Callable[[], None]] = deque()
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._waker, READ)
        self._stopping = False
        self._closed = False
        # Keeps another thread from writing to a waker that is closed meanwhile, or to what takes
        # its number. Reentrant: a signal handler may interrupt whoever holds it.
        self._waking = threading.RLock()
        self.sleeper: Sleeper | None = None
        self.expecting = False
        self.on_error: Callable[[Exception], bool] | None = None
        self._calling: Watch | None = None

    # -- what callers ask for

    def watch(self, fd: int, callback: Callable[[int], None], events: int = READ) -> Watch:
        """Call `callback(events)` whenever the descriptor is ready (level-triggered).

        The caller keeps the descriptor and closes the watch before it.

        Raises:
            ValueError: The descriptor is already watched.
        """
        if fd in self._watches:
            raise ValueError(f"descriptor {fd} is already watched")
        watch = Watch(self, fd, callback, events)
        self._epoll.register(fd, events)
        self._watches[fd] = watch
        self._fresh.add(fd)
        return watch

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call once, `delay` seconds from now."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call once, in the next turn, in order."""
        self._soon.append(callback)

    def call_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call once on the loop's thread; from any thread or signal handler."""
        self._foreign.append(callback)
        self._wake()

    def _wake(self) -> None:
        with self._waking:
            if not self._closed:
                os.eventfd_write(self._waker, 1)

    def task(self, callback: Callable[[], None]) -> Task:
        """A task that runs `callback` once in each turn in which it was marked."""
        return Task(self, callback)

    # -- running

    def run(self) -> None:
        """Turn until `stop`."""
        self._stopping = False
        # A signal that comes just before the thread sleeps is handled in Python after that, so it
        # has to end the sleep.
        with SignalPipe() as pipe, contextlib.ExitStack() as closing:
            if pipe.fd >= 0:
                closing.callback(self.watch(pipe.fd, pipe.drain).close)
            while not self._stopping:
                try:
                    self._run()
                except Exception as exc:
                    if not self._goes_on(exc):
                        raise

    def _run(self) -> None:
        """Turn until `stop`, as `turn(0.0)` does, with as little as can be between two looks."""
        spin = self.spin / 1e6
        clock = time.monotonic
        poll, epoll = self._epoll.poll, self._epoll.fileno()
        timers, fresh = self._timers, self._fresh
        marked, soon, foreign = self._marked, self._soon, self._foreign
        last = clock()
        while not self._stopping:
            if fresh:
                fresh.clear()
            sleeper = self.sleeper
            if sleeper is not None and not sleeper.ready:
                sleeper = None
            if sleeper is not None and not (self.expecting or marked or soon or foreign):
                deadline = int(1e9 * timers[0][0]) if timers and self._has_timer() else None
                self._work(sleeper.sleep(epoll, deadline))
                last = clock()
                continue
            found = poll(0.0, _AT_ONCE)
            if found or marked or soon or foreign or (timers and timers[0][0] <= clock()):
                self.expecting = False
                self._work(found)
                last = clock()
            elif clock() - last >= spin:
                self.expecting = False
                if sleeper is None:
                    self._turn(None)
                    last = clock()

    def stop(self) -> None:
        """End `run` after the present turn; from any thread or signal handler."""
        self._stopping = True
        self._wake()

    def turn(self, timeout: float | None = 0.0) -> bool:
        """One turn; sleep at most `timeout` seconds (None: until something happens) before it.

        Returns:
            Whether anything was done.
        """
        try:
            return self._turn(timeout)
        except Exception as exc:
            if not self._goes_on(exc):
                raise
            return True

    def _goes_on(self, exc: Exception) -> bool:
        """Whether the loop may go on after what a callback raised."""
        watch, self._calling = self._calling, None
        if self.on_error is None or not self.on_error(exc):
            return False
        if watch is not None:
            watch.close()  # its descriptor would be ready again at once, for ever
        return True

    def _turn(self, timeout: float | None) -> bool:
        if self._marked or self._soon or self._foreign:
            timeout = 0.0
        elif self._has_timer():
            left = max(0.0, self._timers[0][0] - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        if self._fresh:
            self._fresh.clear()
        return self._work(self._epoll.poll(timeout, _AT_ONCE))

    def _work(self, found: list[tuple[int, int]]) -> bool:
        """Serve the descriptors found, and all else that is due; whether there was anything."""
        busy = False
        for fd, events in found:
            busy = True
            watch = self._watches.get(fd)
            if watch is not None:
                if fd not in self._fresh:
                    self._calling = watch
                    watch.callback(events)
                    self._calling = None
            elif fd == self._waker:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
        if self._foreign:
            busy = True
            for _ in range(len(self._foreign)):
                self._foreign.popleft()()
        if self._soon:
            busy = True
            for _ in range(len(self._soon)):
                self._soon.popleft()()
        if self._timers and self._timers[0][0] <= time.monotonic():
            busy = True
            self._run_timers()
        if self._marked:
            busy = True
            for _ in range(len(self._marked)):
                self._marked.popleft()._fire()
        return busy

    def _has_timer(self) -> bool:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return bool(self._timers)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def close(self) -> None:
        """Give the loop's own descriptors back. What is still watched is forgotten, not closed."""
        with self._waking:
            if self._closed:
                return
            self._closed = True
            self._watches.clear()
            self._epoll.close()
            os.close(self._waker)
