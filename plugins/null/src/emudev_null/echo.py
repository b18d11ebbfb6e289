"""The backend ``echo``: a host that answers ARP and ping, and sends everything else back.

One flow a queue pair: the guest's transmit queue is its source, and a sink that turns frames around
and pushes them into the receive queue of the same number. While that has no room, the guest's
frames wait. `echo_kernels` has the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from emudev_core.errors import BackendError
from emudev_core.events import Event
from emudev_core.hooks import hookimpl
from emudev_core.queues import QueueKernel, QueueKernels, rx_queue, tx_queue
from emudev_net import flow
from emudev_net.burst import ROW
from emudev_net.jit import Compilation, Kernel, compile_all, jit_wanted
from emudev_net.primitives import Words, drop_handle, plain_handle

from . import echo_kernels as k
from .sink import QUEUES_CHANGED, refusal, set_link

if TYPE_CHECKING:
    from emudev_core.device import Device
    from emudev_core.specs import BackendContext

    from .config import EchoConfig

__all__ = ["EchoBackend", "EchoSink"]

log = logging.getLogger(__name__)

KERNELS: Final = (k.push, k.notify, *flow.KERNELS)


class _Plain:
    """A kernel that stays plain Python, for a sink whose receive queue is."""

    address = 0

    def __init__(self, kernel: Kernel) -> None:
        self._function = kernel.function

    def __call__(self, state: int, burst: int, rows: int, /) -> int:
        return self._function(state, burst, rows)


class EchoSink:
    """Turns the frames of one queue pair around.

    It calls the receive queue's kernels by address if they are compiled; then its own are used
    compiled, too. Else all of it is plain Python.

    Args:
        receive: Kernels of the receive queue.
        mac: Our own address, 6 bytes.

    Attributes:
        kernels: `push` and `notify`.

    Raises:
        ValueError: The receive queue has no push kernel.
    """

    def __init__(self, receive: QueueKernels, mac: bytes) -> None:
        if receive.push is None:
            raise ValueError("the receive queue has no push kernel")
        self._out = Words(k.OUT_ROWS * ROW // 8)
        self._slots = Words(k.PACKETS * k.SLOT // 8)
        self._notes = Words(k.OUT_ROWS * k.NOTE // 8)
        self._handles: list[int] = []
        compiled = all(kernel.address for kernel in _present(receive.push, receive.notify))
        words = self.words = Words(k.WORDS)
        words[k.MAC] = int.from_bytes(mac, "little")
        words[k.RX_STATE] = receive.state
        words[k.RX_PUSH] = self._reach(receive.push, compiled)
        if receive.notify is not None:
            words[k.RX_NOTIFY] = self._reach(receive.notify, compiled)
        words[k.OUT] = self._out.address
        words[k.SLOTS] = self._slots.address
        words[k.NOTES] = self._notes.address
        push: QueueKernel = k.push if compiled else _Plain(k.push)
        notify: QueueKernel = k.notify if compiled else _Plain(k.notify)
        self.kernels = QueueKernels(words.address, None, push, None, notify, receive.takes)

    def _reach(self, kernel: QueueKernel, compiled: bool) -> int:
        if compiled:
            return kernel.address
        self._handles.append(
            plain_handle(kernel.function if isinstance(kernel, Kernel) else kernel)
        )
        return self._handles[-1]

    @property
    def active(self) -> bool:
        """Whether frames are sent back; else they are dropped."""
        return bool(self.words[k.ACTIVE])

    @active.setter
    def active(self, active: bool) -> None:
        self.words[k.ACTIVE] = int(active)

    def stats(self) -> dict[str, int]:
        """Frames that were answered or sent back, and others."""
        return {"frames": self.words[k.FRAMES], "dropped": self.words[k.DROPPED]}

    def close(self) -> None:
        """Forget the receive queue."""
        while self._handles:
            drop_handle(self._handles.pop())


class EchoBackend:
    """See the module. On the loop's thread.

    Args:
        config: What the user said.
        context: The device, under ``emu``, and the loop.
    """

    def __init__(self, config: EchoConfig, context: BackendContext) -> None:
        self._mac = bytes.fromhex(config.mac.replace(":", ""))
        self._loop = context.loop
        self._device: Device | None = None
        self._compilation: Compilation | None = None
        self._sinks: list[EchoSink] = []
        self._flows: list[flow.Flow] = []
        self._sending: list[bool] = []
        self._undo: list[Callable[[], None]] = []

    @hookimpl
    def emudev_backend_offered(self, device: Device) -> str | None:
        """Can the device be served?"""
        return refusal(device)

    @hookimpl
    def emudev_backend_started(self, device: Device) -> None:
        """Compile what is not compiled yet; the link comes up when that is done."""
        self._device = device
        pairs = range(device.get_dev_info().max_queue_pairs)
        found: list[QueueKernel] = [*KERNELS]
        for queue in (number(pair) for pair in pairs for number in (rx_queue, tx_queue)):
            ends = device.get_queue_info(queue).kernels
            if ends is None:
                raise BackendError(f"{device.name}: queue {queue} carries no frames")
            found += _present(ends.peek, ends.push, ends.release, ends.notify)
        if not jit_wanted() or all(kernel.address for kernel in found):
            self._wire(device, None)
            return
        done = partial(self._wire, device)
        self._compilation = compile_all(
            found, lambda error: self._loop.call_threadsafe(partial(done, error))
        )

    @hookimpl
    def emudev_backend_stopped(self, device: Device) -> None:
        """Link down, and let go."""
        if self._compilation is not None:
            self._compilation.cancel()
            self._compilation = None
        set_link(device, False)
        self._device = None
        for undo in self._undo:
            undo()
        for one in self._flows:
            one.close()
        for sink in self._sinks:
            sink.close()
        self._undo.clear()
        self._flows.clear()
        self._sending.clear()
        self._sinks.clear()

    @hookimpl
    def emudev_backend_event(self, device: Device, event: Event) -> None:
        """Look at the queues when they change."""
        if event.kind in QUEUES_CHANGED:
            self._refresh()

    def stats(self) -> dict[str, int]:
        """Frames that were answered or sent back, and others, of all queues."""
        each = [sink.stats() for sink in self._sinks]
        return {key: sum(one[key] for one in each) for key in ("frames", "dropped")}

    def _wire(self, device: Device, error: Exception | None) -> None:
        """Let frames pass, unless the backend was stopped meanwhile."""
        if self._device is not device or self._flows:
            return
        if error is not None:
            log.warning("%s: echoes in plain Python: %s", device.name, error)
        for pair in range(device.get_dev_info().max_queue_pairs):
            receive, transmit = (device.get_queue_info(n(pair)) for n in (rx_queue, tx_queue))
            assert receive.kernels is not None
            assert transmit.kernels is not None
            sink = EchoSink(receive.kernels, self._mac)
            one = flow.Flow(self._loop, transmit.kernels, sink.kernels)
            self._sinks.append(sink)
            self._flows.append(one)
            self._sending.append(False)
            for info in (receive, transmit):  # frames, or room for what waited
                bell = device.get_db_info(info.doorbell)
                bell.subscribe(one.kick, one.shortcut)
                self._undo.append(partial(bell.unsubscribe, one.kick))
        self._refresh()
        set_link(device, True)

    def _refresh(self) -> None:
        """Follow the queues that are enabled now."""
        if self._device is None:
            return
        for pair, (sink, one) in enumerate(zip(self._sinks, self._flows, strict=True)):
            sink.active = self._device.get_queue_info(rx_queue(pair)).enabled
            sending = self._device.get_queue_info(tx_queue(pair)).enabled
            if sending and not self._sending[pair]:
                one.restart()
            self._sending[pair] = sending
            one.kick()


def _present(*kernels: QueueKernel | None) -> list[QueueKernel]:
    return [kernel for kernel in kernels if kernel is not None]
