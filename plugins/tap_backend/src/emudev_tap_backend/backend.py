"""The backend: a device at one end, a TAP interface at the other, and the link between the two.

- The link that the guest sees follows the interface: attached and administratively up. It is down
  until all kernels are compiled, which happens in the background.
- The carrier that the host sees follows the guest: a receive queue is enabled.
- An interface that is deleted takes the link down and is waited for: one of the same name that
  comes back is attached again, whoever made it. It is never made anew here: who deleted it had a
  reason.
- One that is moved to another network namespace still carries frames, but can't be watched any
  more: the link stays up until it is deleted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from emudev_core import attributes
from emudev_core.errors import BackendError, ConfigError, DeviceError, EmudevError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.queues import QueueKernel, rx_queue, tx_queue
from emudev_core.sections import Row, Section
from emudev_net import flow, worker_kernels
from emudev_net.jit import Compilation, Kernel, compile_all, jit_wanted

from . import kernels
from .config import TapConfig
from .links import Link, LinkChange, LinkMonitor, change_link, find_link
from .tap import Tap, plan
from .wiring import Wiring

if TYPE_CHECKING:
    from emudev_core.device import Device
    from emudev_core.specs import BackendContext

__all__ = ["KERNELS", "TapBackend"]

log = logging.getLogger(__name__)

#: Our own, and the loop that calls them.
KERNELS = (kernels.peek, kernels.push, kernels.release, *flow.KERNELS)

#: Those that workers need too.
WORKER_KERNELS = (*KERNELS, *worker_kernels.KERNELS)

#: Events after which the queues are looked at anew.
_QUEUES_CHANGED = (EventKind.QUEUE_STATE, EventKind.RESET, EventKind.OVERFLOW)


class TapBackend:
    """Joins one device to one TAP interface. On the loop's thread.

    Args:
        config: What the user said.
        context: The device, under ``emu``, and the loop.
    """

    def __init__(self, config: TapConfig, context: BackendContext) -> None:
        self._config = config
        self._loop = context.loop
        self._name = config.iface
        self._device: Device | None = None
        self._pairs = 0
        self._monitor: LinkMonitor | None = None
        self._tap: Tap | None = None
        self._wiring: Wiring | None = None
        self._compilation: Compilation | None = None
        self._kernels = WORKER_KERNELS if config.workers else KERNELS
        self._index = 0
        self._moved = False
        self._refused = 0  # number of an interface that came back and could not be attached
        self._admin_up = False  # of the interface
        self._up = False  # the link, as the device was told

    # -- hooks

    @hookimpl
    def emudev_backend_offered(self, device: Device) -> str | None:
        """Refuse a device without queues; a mistake in the configuration is raised here."""
        pairs = device.get_dev_info().max_queue_pairs
        if pairs == 0:
            return "it has no queues"
        if device.get_queue_info(rx_queue(0)).kernels is None:
            return "its queues carry no frames"
        wanted = plan(self._config, find_link(self._config.iface), pairs)
        return self._refuse_workers(device, min(self._config.workers, wanted.queues))

    def _refuse_workers(self, device: Device, count: int) -> str | None:
        """Why so many workers can't serve a device; None if they can.

        Raises:
            ConfigError: Nothing is compiled here.
        """
        if count == 0:
            return None
        if not jit_wanted():
            raise ConfigError(
                "workers run compiled kernels only; llvmlite is not installed, or EMUDEV_JIT=0",
                where="tap_backend: workers",
                hint="workers=0",
            )
        if count > 1 and not device.get_dev_info().parallel:
            return f"its queues are run by one thread at a time (workers={count}; workers=1 can)"
        return None

    @hookimpl
    def emudev_configure(self) -> None:
        """Begin to compile: nothing waits for it before frames are to pass."""
        if self._compilation is None:
            self._compilation = compile_all(self._kernels)

    @hookimpl
    def emudev_backend_started(self, device: Device) -> None:
        """Attach, create the interface if need be, and let frames pass."""
        self._device = device
        self._pairs = device.get_dev_info().max_queue_pairs
        try:
            self._monitor = LinkMonitor(self._loop, self._changed, self._look)
            self._attach(find_link(self._config.iface))
        except BaseException:
            self._close()
            raise

    @hookimpl
    def emudev_backend_stopped(self, device: Device) -> None:
        """Link down, then close everything; an interface that was created here goes."""
        self._admin_up = False
        self._set_link()
        self._close()

    @hookimpl
    def emudev_backend_event(self, device: Device, event: Event) -> None:
        """Follow the queues."""
        if event.kind in _QUEUES_CHANGED:
            self._refresh()

    # -- what others may look at

    @property
    def attached(self) -> bool:
        """Whether the interface is there."""
        return self._tap is not None

    def stats(self) -> dict[str, Any]:
        """Counters since the interface was attached: see `Wiring.stats`; empty while it is not."""
        return {} if self._wiring is None else self._wiring.stats()

    @hookimpl
    def emudev_get_state(self) -> list[Section]:
        """The interface, and its queues with their counters."""
        return [
            Section("tap", "the interface on the host", self._interface_rows),
            Section("tap-queues", "its queues, rx towards the guest", self._queue_rows),
        ]

    def _interface_rows(self) -> Iterator[Row]:
        tap = self._tap
        yield {
            "interface": self._name,
            "attached": tap is not None,
            "up": self._admin_up,
            "link": self._up,
            "queues": 0 if tap is None else len(tap.fds),
            "vnet_header": 0 if tap is None else tap.header,
            "takes": "" if tap is None else str(tap.takes),
            "malformed": self.stats().get("malformed", 0),
        }

    def _queue_rows(self) -> Iterator[Row]:
        counted = self.stats()
        for direction in ("rx", "tx"):
            for queue, counters in enumerate(counted.get(direction, ())):
                for name, value in counters.items():
                    yield {"queue": queue, "direction": direction, "counter": name, "value": value}

    # -- attaching

    def _attach(self, link: Link | None, *, again: bool = False) -> None:
        """Attach to `link`, or create the interface if it is None."""
        assert self._device is not None
        config = self._config
        wanted = plan(config, link, self._pairs, again=again)
        self._tap = Tap.open(config.iface, wanted, vnet_hdr=config.vnet_hdr, sndbuf=config.sndbuf)
        now = self._present()
        up = True if config.up and not wanted.exists else None
        mtu = None if config.mtu == now.mtu else config.mtu
        if mtu is not None or (up and not now.up):
            change_link(now.index, name=config.iface, mtu=mtu, up=up)
        if self._monitor is not None:
            self._monitor.skip()  # among it what was changed here, state by state
        now = self._present()
        self._index = now.index
        self._name = now.name
        self._moved = False
        self._tell_mtu(now.mtu)
        self._admin_up = now.up
        log.info(
            "%s: %s %s, %d of %d queues, MTU %d, %s",
            self._device.name,
            "attached to" if wanted.exists else "created",
            now.name,
            wanted.queues,
            self._pairs,
            now.mtu,
            "up" if now.up else "down",
        )
        self._compile()

    def _compile(self) -> None:
        """Let frames pass as soon as the kernels of both ends are compiled."""
        assert self._device is not None
        assert self._tap is not None
        found: list[QueueKernel | None] = [*self._kernels]
        for queue in (q(p) for p in range(self._pairs) for q in (rx_queue, tx_queue)):
            ends = self._device.get_queue_info(queue).kernels
            if ends is not None:
                found += [ends.peek, ends.push, ends.release, ends.notify]
        pending = any(isinstance(kernel, Kernel) and not kernel.address for kernel in found)
        if not pending or not jit_wanted():
            self._wire()
            return
        later = partial(self._compiled, self._tap)
        self._compilation = compile_all(
            found, lambda error: self._loop.call_threadsafe(partial(later, error))
        )

    def _compiled(self, tap: Tap, error: Exception | None) -> None:
        """The kernels are ready: let frames pass, unless `tap` has gone meanwhile."""
        if tap is not self._tap or self._device is None:
            return
        try:
            if error is not None:
                raise BackendError(f"{self._device.name}: kernels can't be compiled: {error}")
            self._wire()
        except EmudevError as reason:
            self._device.fail(str(reason))

    def _wire(self) -> None:
        """Let frames pass.

        Raises:
            BackendError: The kernels of the device can't be called.
        """
        assert self._device is not None
        assert self._tap is not None
        try:
            self._wiring = Wiring(
                self._device,
                self._tap,
                self._loop,
                self._lost,
                workers=self._config.workers,
                polling=self._config.polling,
            )
        except ValueError as error:
            raise BackendError(f"{self._device.name}: no frames can pass: {error}") from error
        self._refresh()
        self._set_link()

    def _present(self) -> Link:
        link = find_link(self._config.iface)
        if link is None:
            raise BackendError(f"interface {self._config.iface} went while it was attached")
        return link

    def _close(self) -> None:
        if self._compilation is not None:
            self._compilation.cancel()
            self._compilation = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._detach()
        self._device = None

    def _detach(self) -> None:
        if self._wiring is not None:
            self._wiring.close()
            self._wiring = None
        if self._tap is not None:
            self._tap.set_carrier(False)  # one that stays must not look connected
            self._tap.close()
            self._tap = None
        self._index = 0

    # -- the device

    def _refresh(self) -> None:
        """Follow the queues that are enabled now."""
        if self._wiring is not None:
            self._wiring.refresh()

    def _set_link(self) -> None:
        """Tell the device whether frames can pass now."""
        if self._device is None:
            return
        up = self._admin_up and self._wiring is not None
        if up != self._up:
            log.info("%s: link %s", self._device.name, "up" if up else "down")
        self._up = up
        try:
            self._device.set_attr(attributes.LINK, up)
        except DeviceError as error:
            log.debug("%s has no link to set: %s", self._device.name, error)

    def _tell_mtu(self, mtu: int) -> None:
        """Tell the interface's MTU to a device that wants to know it."""
        assert self._device is not None
        for info in self._device.get_attributes():
            if info.name == attributes.MTU and info.writable:
                with contextlib.suppress(DeviceError):  # out of its range: it keeps its own
                    self._device.set_attr(attributes.MTU, mtu)

    # -- the interface

    def _changed(self, change: LinkChange) -> None:
        """Something happened to some interface of the namespace."""
        link = change.link
        if self._tap is None:
            if link.name == self._config.iface and not change.gone:
                self._come_back(link)
        elif link.index == self._index and not self._moved:
            if change.gone:
                self._gone()
            else:
                self._follow(link)

    def _follow(self, link: Link) -> None:
        if link.name != self._name:
            log.warning("interface %s is called %s now", self._name, link.name)
            self._name = link.name
        if link.up != self._admin_up:
            self._admin_up = link.up
            self._set_link()

    def _gone(self) -> None:
        """The interface left this namespace: deleted, or moved."""
        assert self._tap is not None
        if self._tap.alive():
            log.warning(
                "interface %s was moved to another network namespace; its state can't be followed"
                " there, the link is up",
                self._name,
            )
            self._moved = True
            self._admin_up = True
            self._set_link()
        else:
            self._lost()

    def _lost(self) -> None:
        """The interface was deleted: link down, and wait for one of its name."""
        if self._tap is None:
            return
        log.warning("interface %s was deleted; the link is down until it comes back", self._name)
        self._detach()
        self._admin_up = False
        self._set_link()
        self._name = self._config.iface
        if self._monitor is not None:
            self._loop.call_soon(self._look)  # it may be back already

    def _come_back(self, link: Link) -> None:
        """Attach to an interface of the name that was lost; one that can't be is tried once."""
        if link.index == self._refused or not link.is_tap:
            return
        try:
            self._attach(link, again=True)
        except EmudevError as error:
            self._detach()
            self._refused = link.index
            log.warning("interface %s came back, but: %s", link.name, error)
        else:
            self._refused = 0

    def _look(self) -> None:
        """Ask for what was not told."""
        if self._monitor is None or self._moved:
            return
        try:
            link = find_link(self._name)
        except BackendError as error:
            log.warning("%s", error)
            return
        if self._tap is None:
            if link is not None:
                self._come_back(link)
        elif link is None or link.index != self._index:
            if not self._tap.alive():
                self._lost()
        else:
            self._follow(link)
