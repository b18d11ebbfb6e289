"""The backend: a wire between two devices, as one would plug it between two NICs.

- **Link.** An end is *up* while its device is started and its peer has enabled a receive queue. The
  link that an end sees is up while the other end is up, so that both see it while both are. A
  device that can't enable queues without a link (`DeviceInfo.link_first`) gets it from another one
  of that kind as soon as that is started.
- **What is sent to an end that is down** is taken and dropped, as a cable does that leads nowhere:
  the sender gets its buffers back.
- **An end may be started, stopped, reset or fail at any time**; the other sees its link change, and
  nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from emudev_core import attributes
from emudev_core.device import Device
from emudev_core.errors import ConfigError, DeviceError, EmudevError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.lifecycle import State
from emudev_core.loop import Task
from emudev_core.queues import QueueKernel, rx_queue, tx_queue
from emudev_net import flow, worker_kernels
from emudev_net.jit import Compilation, Kernel, compile_all, jit_wanted

from . import kernels
from .routes import Usable, plan_routes
from .wiring import Wiring, kernels_of

if TYPE_CHECKING:
    from emudev_core.specs import BackendContext

    from .config import WireConfig

__all__ = ["KERNELS", "WORKER_KERNELS", "WireBackend"]

log = logging.getLogger(__name__)

#: Our own, and the loop that calls them.
KERNELS: Final = (*kernels.KERNELS, *flow.KERNELS)

#: Those that workers need too.
WORKER_KERNELS: Final = (*KERNELS, *worker_kernels.KERNELS)

#: Events after which the ends are looked at anew.
_LOOK: Final = (EventKind.QUEUE_STATE, EventKind.RESET, EventKind.OVERFLOW, EventKind.ERROR)


class _End:
    """One of the two devices.

    Attributes:
        running: It is started.
        ready: Its kernels are compiled, as far as they are to be.
        link: What it was told of its link.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.running = False
        self.ready = False
        self.link = False
        self.compilation: Compilation | None = None

    @property
    def usable(self) -> bool:
        """Whether its queues may be touched."""
        return self.running and self.ready and self.device.state is not State.ERROR

    @property
    def pairs(self) -> range:
        """Its queue pairs."""
        return range(self.device.get_dev_info().max_queue_pairs)

    def usable_queues(self) -> Usable:
        """Its queues that are enabled now."""
        if not self.usable:
            return Usable()
        ask = self.device.get_queue_info
        return Usable(
            receiving=tuple(pair for pair in self.pairs if ask(rx_queue(pair)).enabled),
            sending=tuple(pair for pair in self.pairs if ask(tx_queue(pair)).enabled),
        )

    def kernels(self) -> Iterator[QueueKernel | None]:
        """All kernels of its queues."""
        for pair in self.pairs:
            for queue in (rx_queue(pair), tx_queue(pair)):
                found = kernels_of(self.device, queue)
                yield from (found.peek, found.push, found.release, found.notify)
                yield from found.forward.values()


class WireBackend:
    """See the module. On the loop's thread.

    Args:
        config: What the user said.
        context: The devices, under ``a`` and ``b``, and the loop.

    Raises:
        ConfigError: Both ends are one device.
    """

    def __init__(self, config: WireConfig, context: BackendContext) -> None:
        a, b = context.devices["a"], context.devices["b"]
        if a is b:
            raise ConfigError(
                f"both ends are {a.name}: a wire joins two devices",
                where=context.name,
                hint="the backend echo sends frames back",
            )
        self._config = config
        self._name = context.name
        self._loop = context.loop
        self._ends = (_End(a), _End(b))
        self._kernels = WORKER_KERNELS if config.workers else KERNELS
        self._compilation: Compilation | None = None
        self._task: Task | None = None
        self._broken = False
        self._up = False
        self._wiring = Wiring(
            (a, b),
            context.loop,
            name=context.name,
            patience=config.patience,
            workers=config.workers,
            polling=config.polling,
            failed=self._failed,
        )

    def _end(self, device: Device) -> int:
        return 0 if device is self._ends[0].device else 1

    # -- hooks

    @hookimpl
    def emudev_backend_offered(self, device: Device) -> str | None:
        """Refuse a device whose queues carry no frames, or that workers can't serve."""
        info = device.get_dev_info()
        if info.max_queue_pairs == 0:
            return "it has no queues"
        for queue in (rx_queue(0), tx_queue(0)):
            if device.get_queue_info(queue).kernels is None:
                return "its queues carry no frames"
        if self._config.workers == 0:
            return None
        if not jit_wanted():
            raise ConfigError(
                "workers run compiled kernels only; llvmlite is not installed, or EMUDEV_JIT=0",
                where=f"{self._name}: workers",
                hint="workers=0",
            )
        if self._config.workers > 1 and not info.parallel:
            return (
                "its queues are run by one thread at a time "
                f"(workers={self._config.workers}; workers=1 can)"
            )
        return None

    @hookimpl
    def emudev_configure(self) -> None:
        """Begin to compile: nothing waits for it before frames are to pass."""
        if self._compilation is None:
            self._compilation = compile_all(self._kernels)

    @hookimpl
    def emudev_backend_started(self, device: Device) -> None:
        """One end is there."""
        number = self._end(device)
        end = self._ends[number]
        found = [*self._kernels, *end.kernels()]
        if self._task is None:
            self._task = self._loop.task(self._refresh)
        self._broken = False
        self._wiring.attach(number)
        end.running = True
        pending = any(isinstance(kernel, Kernel) and not kernel.address for kernel in found)
        if not pending or not jit_wanted():
            self._compiled(end, None)
            return
        done = partial(self._compiled, end)
        end.compilation = compile_all(
            found, lambda error: self._loop.call_threadsafe(partial(done, error))
        )

    @hookimpl
    def emudev_backend_stopped(self, device: Device) -> None:
        """One end goes: nothing touches it when this returns."""
        number = self._end(device)
        end = self._ends[number]
        end.running = end.ready = False
        if end.compilation is not None:
            end.compilation.cancel()
            end.compilation = None
        self._refresh()
        self._set_link(end, False)
        self._wiring.detach(number)
        if not any(other.running for other in self._ends):
            self._rest()

    def _rest(self) -> None:
        """Neither end is there."""
        self._wiring.close()
        if self._compilation is not None:
            self._compilation.cancel()
            self._compilation = None
        if self._task is not None:
            self._task.close()
            self._task = None

    @hookimpl
    def emudev_backend_event(self, device: Device, event: Event) -> None:
        """Follow the queues of an end."""
        if event.kind not in _LOOK or self._task is None:
            return
        number = self._end(device)
        if event.kind is not EventKind.QUEUE_STATE:
            self._wiring.restart(number)
        elif event.queue & 1:
            self._wiring.restart(number, event.queue >> 1)
        self._task.mark()  # a driver enables its queues one by one: they are looked at once

    # -- what others may look at

    @property
    def up(self) -> bool:
        """Whether frames pass: both ends are up, and the wire follows their queues."""
        return self._up

    def stats(self) -> dict[str, Any]:
        """Counters since the wire was made.

        Returns:
            ``a`` and ``b``: what became of the frames that this end has sent, see `Wiring.stats`;
            ``workers``, if there are any.
        """
        workers = self._wiring.worker_stats()
        return {
            "a": self._wiring.stats(0),
            "b": self._wiring.stats(1),
            **({"workers": workers} if workers else {}),
        }

    # -- following

    def _compiled(self, end: _End, error: Exception | None) -> None:
        """The kernels of an end are ready, unless it was stopped meanwhile."""
        if not end.running:
            return
        if error is not None and self._config.workers:
            end.device.fail(f"{end.device.name}: kernels can't be compiled: {error}")
            return
        if error is not None:
            log.warning("%s: frames pass in plain Python: %s", self._name, error)
        end.ready = True
        self._refresh()

    def _refresh(self) -> None:
        """Follow the queues that are enabled now, and tell both ends."""
        queues = [end.usable_queues() for end in self._ends]
        self._up = all(end.receiving for end in queues) and not self._broken
        try:
            self._wiring.follow(() if self._broken else plan_routes(queues))
        except EmudevError as reason:
            for end in self._ends:
                if end.running:
                    end.device.fail(str(reason))
            self._up = False
            return
        for end, other, there in (
            (self._ends[0], self._ends[1], queues[1]),
            (self._ends[1], self._ends[0], queues[0]),
        ):
            self._set_link(end, self._sees(end, other, there))

    def _sees(self, end: _End, other: _End, there: Usable) -> bool:
        """Whether an end is to see a link."""
        if self._broken or not other.usable:
            return False
        if there.receiving:
            return True
        first = [one.device.get_dev_info().link_first for one in (end, other)]
        return all(first)

    def _set_link(self, end: _End, up: bool) -> None:
        if end.link == up:
            return
        end.link = up
        log.info("%s: %s sees its link %s", self._name, end.device.name, "up" if up else "down")
        try:
            end.device.set_attr(attributes.LINK, up)
        except DeviceError as error:
            log.debug("%s has no link to set: %s", end.device.name, error)

    def _failed(self, code: int) -> None:
        """A kernel failed: nobody knows whose fault it was, so nothing moves any more."""
        log.warning("%s: a queue kernel failed and answered %d; the link is down", self._name, code)
        self._broken = True
        self._refresh()
