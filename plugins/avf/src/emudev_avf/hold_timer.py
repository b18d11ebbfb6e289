"""The timer of what is held, interrupts and frames: a timerfd that kernels set for the loop.

When frames have waited for buffers long enough (`rx_patience`), it rings the receive doorbells, so
that whoever waits for room tries again.

Source: timerfd_create(2); `interrupts`, "Moderation".
"""

from __future__ import annotations

import ctypes
import os
import time
from typing import Final

from emudev_core.loop import Loop
from emudev_core.queues import Shortcut
from emudev_net.fast_wait import FastWait, Lane

from .interrupts import fire_alone, fire_held
from .rings import Port
from .words import P_ARMED, P_RETRY, P_TIMER

__all__ = ["HoldTimer"]

_libc: Final = ctypes.CDLL(None, use_errno=True)


class HoldTimer:
    """Lets the vectors of a port hold events; without one they fire at once. On the loop's thread.

    Args:
        loop: Fires what is held when the time has come, unless somebody was faster.
        port: Whose vectors.

    Raises:
        OSError: The system has no descriptor for it.
    """

    def __init__(self, loop: Loop, port: Port) -> None:
        self._port = port
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"no timer for interrupts: {os.strerror(number)}")
        self._watch = loop.watch(self._fd, self._over)
        self._loop = loop
        self._lane: Lane | None = None
        port.words[P_TIMER // 8] = self._fd + 1

    def compiled(self) -> None:
        """The kernels are: let a sleeping loop do without the interpreter what they can do alone.

        A second call does nothing.
        """
        if self._fd >= 0 and self._lane is None:
            shortcut = Shortcut(fire_alone.address, self._port.words.address)
            self._lane = FastWait.of(self._loop).add_flow(self._fd, shortcut)

    def _over(self, _events: int) -> None:
        words = self._port.words
        retry = words[P_RETRY // 8]
        over = 0 < retry <= time.monotonic_ns()
        if over:
            words[P_RETRY // 8] = 0
        self._fire()
        if over:
            for ring in self._port.rx:
                if ring.enabled:
                    ring.doorbell.ring()

        self._port.look_on()

    def _fire(self) -> None:
        if fire_held.address:
            fire_held(self._port.words.address, 0, 0)
        else:  # not atomic; others run compiled kernels
            with self._port.paused():
                fire_held(self._port.words.address, 0, 0)

    def close(self) -> None:
        """Hold nothing any more; what is held fires now. A second call does nothing."""
        if self._fd < 0:
            return
        with self._port.paused():
            self._port.words[P_TIMER // 8] = 0
            self._port.words[P_ARMED // 8] = 0
            self._port.words[P_RETRY // 8] = 0
            for vector in self._port.vectors:
                vector.throttle(0, 0)
        if self._lane is not None:
            self._lane.close()
        self._watch.close()
        os.close(self._fd)
        self._fd = -1
