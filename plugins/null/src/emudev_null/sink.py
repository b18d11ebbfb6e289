"""The backend ``null``: takes every frame of the guest, drops it, and counts.

The smallest complete backend: it says whether it can serve a device, follows its queues by events,
and moves rows of a burst by the queues' kernels. A backend whose frames go somewhere uses
`emudev_net.flow.Flow` for that, which runs compiled.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from emudev_core import attributes
from emudev_core.errors import DeviceError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.queues import QueueKernels, tx_queue

if TYPE_CHECKING:
    from emudev_core.device import Device
    from emudev_core.specs import BackendContext

__all__ = ["NullBackend", "set_link"]

ROWS: Final = 256  #: rows of the burst
ROW_WORDS: Final = 8  #: see design, "The burst"
LENGTH: Final = 1
FLAGS: Final = 2
LAST: Final = 2
#: Bursts for one queue before others get their turn.
BUDGET: Final = 16

#: Events after which the queues are looked at anew.
QUEUES_CHANGED: Final = (EventKind.QUEUE_STATE, EventKind.RESET, EventKind.OVERFLOW)


def set_link(device: Device, up: bool) -> None:
    """Tell a device that its link is up or down; one without a link does not mind."""
    if any(info.name == attributes.LINK and info.writable for info in device.get_attributes()):
        device.set_attr(attributes.LINK, up)


class NullBackend:
    """See the module. On the loop's thread.

    Args:
        context: The device, under ``emu``, and the loop.

    Attributes:
        frames: Frames taken.
        bytes: Their bytes.
    """

    def __init__(self, context: BackendContext) -> None:
        self._loop = context.loop
        self._burst = (ctypes.c_int64 * (ROWS * ROW_WORDS))()
        self._device: Device | None = None
        self._undo: list[Callable[[], None]] = []
        self._kicks: list[Callable[[], None]] = []
        self.frames = 0
        self.bytes = 0

    @hookimpl
    def emudev_backend_offered(self, device: Device) -> str | None:
        """Can the device be served?"""
        return refusal(device)

    @hookimpl
    def emudev_backend_started(self, device: Device) -> None:
        """Listen to the doorbells, and let the guest see a link."""
        self._device = device
        for pair in range(device.get_dev_info().max_queue_pairs):
            info = device.get_queue_info(tx_queue(pair))
            task = self._loop.task(partial(self._drain, tx_queue(pair)))
            bell = device.get_db_info(info.doorbell)
            bell.subscribe(task.mark)
            self._kicks.append(task.mark)
            self._undo += [partial(bell.unsubscribe, task.mark), task.close]
        set_link(device, True)

    @hookimpl
    def emudev_backend_stopped(self, device: Device) -> None:
        """Let go."""
        set_link(device, False)
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._kicks.clear()
        self._device = None

    @hookimpl
    def emudev_backend_event(self, device: Device, event: Event) -> None:
        """Look at the queues when they change."""
        if event.kind in QUEUES_CHANGED:
            for kick in self._kicks:
                kick()

    def stats(self) -> dict[str, int]:
        """Frames and bytes taken."""
        return {"frames": self.frames, "bytes": self.bytes}

    def _drain(self, queue: int) -> None:
        assert self._device is not None
        info = self._device.get_queue_info(queue)
        kernels = info.kernels
        if not info.enabled or kernels is None:
            return
        for _ in range(BUDGET):
            if not self._take(kernels):
                break
        else:
            self._kicks[queue // 2]()  # there may be more: after the others
        if kernels.notify is not None:
            kernels.notify(kernels.state, 0, 0)

    def _take(self, kernels: QueueKernels) -> int:
        """Take and drop one burst; returns its rows."""
        assert kernels.peek is not None
        assert kernels.release is not None
        burst = ctypes.addressof(self._burst)
        rows = kernels.peek(kernels.state, burst, ROWS)
        if rows:
            for row in range(rows):
                words = self._burst[row * ROW_WORDS : (row + 1) * ROW_WORDS]
                self.bytes += words[LENGTH]
                self.frames += words[FLAGS] & LAST == LAST
            kernels.release(kernels.state, burst, rows)
        return rows


def refusal(device: Device) -> str | None:
    """Why a backend for frames can't serve a device, or None if it can."""
    if device.get_dev_info().max_queue_pairs == 0:
        return "it has no queues"
    try:
        kernels = device.get_queue_info(tx_queue(0)).kernels
    except DeviceError as exc:
        return str(exc)
    return None if kernels is not None else "its queues carry no frames"
