"""Who looks after queues that sleep: eventfds of receiving rings, and a timer for what has none.

An eventfd rings the doorbell of its queue. Two things have no signal in memif: room in a ring that
was full, and a packet whose sender looked at the flags too early (DPDK and VPP lack a fence there).
A timer looks for both: every 2 ms while packets move. While none do it looks less and less often:
up to every 32 ms for room, which can be there at any time; up to every second for packets, since a
wake-up can be lost only while this side goes to sleep, and that was long ago. A peer that is
emptying a full ring right now has room again in microseconds, so for a moment that is looked for in
every turn of the loop. Queues whose user polls need none of this.

Source: memif.md 4, "Interrupts".
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from emudev_core.loop import READ, Loop, Timer, Watch
from emudev_core.queues import Doorbell

from .rings import RingSet

__all__ = ["FASTEST", "HELD", "SLOWEST", "Wakeups"]

FASTEST: Final = 0.002  #: between two looks while packets move, seconds
SLOWEST: Final = 1.0  #: while none do
HELD: Final = 0.032  #: at most while packets wait for room
SPIN: Final = 100e-6  #: how long room is looked for in every turn after packets have moved, seconds


class Wakeups:
    """See the module. On the loop's thread.

    Args:
        loop: The process' loop.
        rings: Tells what waits.
        doorbells: By queue number.
    """

    def __init__(self, loop: Loop, rings: RingSet, doorbells: Sequence[Doorbell]) -> None:
        self._loop = loop
        self._rings = rings
        self._doorbells = doorbells
        self._watches: dict[int, Watch] = {}
        self._received: dict[int, int] = {}  # eventfds of receiving rings
        self._attached = False
        self._timer: Timer | None = None
        self._period = FASTEST
        self._moved = -1
        self._task = loop.task(self._spin)
        self._spun = -1
        self._spin_end = 0.0
        # The eventfds come and go with the peer; these stay, and are readable while those are.
        self._signals = {queue: select.epoll() for queue in range(1, len(doorbells), 2)}
        for queue, signal in self._signals.items():
            doorbells[queue].signal_fd = signal.fileno()

    def attach(self, fds: Mapping[int, int]) -> None:
        """Begin, and ring every doorbell once: the rings are up.

        Args:
            fds: Eventfds of the receiving rings by queue number; they stay the caller's, open until
                `detach`.
        """
        self._attached = True
        for queue, fd in fds.items():
            events = 0 if self._doorbells[queue].polled else READ
            self._watches[queue] = self._loop.watch(fd, partial(self._kicked, queue, fd), events)
            self._signals[queue].register(fd, select.EPOLLIN)
            self._received[queue] = fd
        for doorbell in self._doorbells:
            doorbell.ring()
        self._hurry()

    def detach(self) -> None:
        """End; the descriptors may be closed. A second call does nothing."""
        self._attached = False
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        for queue, fd in self._received.items():
            self._signals[queue].unregister(fd)
        self._received.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Detach, and give the descriptors back. A second call does nothing."""
        self.detach()
        for queue, signal in self._signals.items():
            self._doorbells[queue].signal_fd = -1
            signal.close()

    def set_polled(self, queue: int, polled: bool) -> None:
        """Whoever runs a queue looks by itself from now on, or does not."""
        if queue & 1:
            self._rings.set_polled(queue, polled)
        watch = self._watches.get(queue)
        if watch is not None:
            watch.set(0 if polled else READ)
        if not polled:
            self._doorbells[queue].ring()
            self._hurry()

    def _kicked(self, queue: int, fd: int, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self._doorbells[queue].ring()
        self._task.mark()  # behind those that the doorbell has marked
        if self._period > FASTEST or self._timer is None:
            self._hurry()

    def _hurry(self) -> None:
        """Look soon."""
        self._period = FASTEST
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._attached and not all(bell.polled for bell in self._doorbells):
            self._timer = self._loop.call_later(FASTEST, self._look)

    def _look(self) -> None:
        self._timer = None
        sleeping = held = False
        for queue, doorbell in enumerate(self._doorbells):
            if doorbell.polled:
                continue
            sleeping = True
            if queue & 1:
                if self._rings.pending(queue):
                    doorbell.ring()
            elif self._rings.held(queue):
                held = True
                doorbell.ring()
        self._task.mark()
        moved = self._packets()
        slowest = HELD if held else SLOWEST
        self._period = FASTEST if moved != self._moved else min(2 * self._period, slowest)
        self._moved = moved
        if sleeping:
            self._timer = self._loop.call_later(self._period, self._look)

    def _packets(self) -> int:
        return sum(self._rings.stats(queue).packets for queue in range(len(self._doorbells)))

    def _spin(self) -> None:
        """Look for room in every turn, for as long as that gets packets on."""
        held = [
            bell
            for queue, bell in enumerate(self._doorbells)
            if not queue & 1 and not bell.polled and self._rings.held(queue)
        ]
        if not held or not self._attached:
            return
        moved, now = self._packets(), time.monotonic()
        if moved != self._spun:
            self._spun, self._spin_end = moved, now + SPIN
        elif now >= self._spin_end:
            return
        for bell in held:
            bell.ring()
        self._task.mark()
