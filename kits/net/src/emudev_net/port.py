"""Ports: what an application receives from and sends to, as DPDK's ethdevs are.

    port.configure(2, 2)                    # receive queues, transmit queues
    port.start()
    rows = port.rx_burst(0, burst)          # references, nothing is copied
    taken = other.tx_burst(0, burst, rows)
    port.rx_release(0, burst, taken)

Names and life follow ``rte_ethdev``: `configure`, `rx_queue_setup` and `tx_queue_setup`, `start`,
`stop`, `close`; statistics, link, MAC address, modes and MTU. Two ways lead to the packets:

- **Bursts from Python**: `rx_burst`, `rx_release`, `tx_burst`, with `emudev_net.burst.Burst`.
- **Queue kernels**: `rx_queue` and `tx_queue` give a source and a sink, for
  `emudev_net.flow.Flow`, for workers, or for a loop of one's own. They may be kept while the port
  is configured; who runs them lets them rest before `stop` (as DPDK's applications do), and adds
  itself as a runner (`add_runner`) if it runs them on another thread than the loop's.

An object that a backend's builder returns and that is a `Port` is a port for applications; it is
found among what `Host.add` returned, and numbered by its ``id``.

**Threads.** All methods are for the loop's thread, with these exceptions: bursts and kernels of a
queue may be used on any one thread at a time, different queues on different ones if
`PortInfo.parallel`, else all of a port on one; `stats` is for any thread.

**Writing one**: subclass `Port`, implement `describe`, `source` and `sink`, override what else
there is to do of `emudev_net.port_driver.PortDriver`, and call `update_link`, `wake_rx`, `wake_tx`,
`post` and `fail` when something happens. The suite `emudev_net.testing.PortContract` says what
applications rely on.

Source: DPDK 22.11, lib/ethdev/rte_ethdev.h.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from emudev_core.errors import BackendError, ConfigError, LifecycleError
from emudev_core.loop import Loop
from emudev_core.queues import Offload, QueueKernel, QueueKernels

from .burst import Burst
from .jit import Compilation, Kernel, jit_wanted
from .port_records import (
    LinkStatus,
    PortConfig,
    PortEvent,
    PortEventKind,
    PortInfo,
    PortState,
    PortStats,
    PortStep,
    step_port,
)
from .port_settings import PortSettings
from .port_stats import PortCounters

__all__ = [
    "LinkStatus",
    "Port",
    "PortConfig",
    "PortEvent",
    "PortEventKind",
    "PortInfo",
    "PortState",
    "PortStats",
]

log = logging.getLogger(__name__)

_CONFIG: Final = PortConfig()
_RUNNING: Final = (PortState.CONFIGURED, PortState.STARTED, PortState.STOPPED)


class Port(PortSettings):
    """See the module.

    Args:
        name: The backend's name, such as ``net_avfbe_0``.
        loop: The process' loop.
        mac: Its address at first; None makes one of its number.

    Attributes:
        name: As given.
        id: The number at the end of the name: the ``id=`` of its vdev string.
        loop: As given.
        state: Where it is in its life.
        error: Why it failed; empty unless it did.
        config: What `configure` was given.
        rx_queues: Receive queues configured.
        tx_queues: Transmit queues configured.
        link_wanted: What `set_link` was told; up at first.
        paused: ``with port.paused():`` keeps those at rest who run the port's kernels on other
            threads (`add_runner`); for the port, around what must not change under them.
    """

    def __init__(self, name: str, loop: Loop, mac: bytes | None = None) -> None:
        super().__init__(name, mac)
        self.loop = loop
        self.error = ""
        self.config = _CONFIG
        self.rx_queues = 0
        self.tx_queues = 0
        self._rx_ends: list[QueueKernels | None] = []
        self._tx_ends: list[QueueKernels | None] = []
        self._counters = PortCounters(self.counted, self.counters)
        self._compilation: Compilation | None = None

    def __repr__(self) -> str:
        return f"<port {self.name} {self.state.value}>"

    def counted(self) -> tuple[Sequence[QueueKernels | None], Sequence[QueueKernels | None]]:
        """The receive and the transmit queues whose counters are the port's; None: not set up.

        What a queue has counted only grows, over all that `configure` and `start` may do.
        """
        return self._rx_ends, self._tx_ends

    def kernels(self) -> Sequence[QueueKernel]:
        """All kernels of its queues that are set up, the shorter ways included: to be compiled."""
        found: dict[QueueKernel, None] = {}
        for ends in (*self._rx_ends, *self._tx_ends):
            if ends is not None:
                for kernel in (ends.peek, ends.push, ends.release, ends.notify):
                    if kernel is not None:
                        found[kernel] = None
                found.update(dict.fromkeys(ends.forward.values()))
        return list(found)

    def fail(self, reason: str, *, removed: bool = False) -> None:
        """Take the port down: what is behind it broke, or is gone for good.

        It can only be closed, or configured anew. Failed or closed already it stays as it is. Who
        runs its kernels lets them rest before.

        Args:
            reason: Why, for people.
            removed: It is gone.
        """
        if self.state in (PortState.FAILED, PortState.CLOSED):
            return
        if self.state is PortState.STARTED:
            try:
                self._halt()
            except Exception as error:  # it is broken: it may well not stop as it should
                log.warning("%s did not stop well: %s", self.name, error)
        self.error = reason
        self.state = step_port(self.state, PortStep.FAIL, self.name)
        log.error("%s is down: %s", self.name, reason)
        self.update_link()
        kind = PortEventKind.REMOVED if removed else PortEventKind.ERROR
        self.post(PortEvent(kind, text=reason))

    # -- life

    def info(self) -> PortInfo:
        """What it is and can do, and how many queues are configured."""
        return attrs.evolve(
            self.describe(), nb_rx_queues=self.rx_queues, nb_tx_queues=self.tx_queues
        )

    def configure(
        self, rx_queues: int = 1, tx_queues: int = 1, config: PortConfig = _CONFIG
    ) -> None:
        """Say how many queues are to be used, and how; queues that were set up are so no more.

        Args:
            rx_queues: 0 to `PortInfo.max_rx_queues`.
            tx_queues: 0 to `PortInfo.max_tx_queues`; not both are 0.
            config: See there.

        Raises:
            LifecycleError: It is started or closed.
            ConfigError: Out of range.
        """
        state = step_port(self.state, PortStep.CONFIGURE, self.name)
        info = self.describe()
        for what, given, most in (
            ("receive", rx_queues, info.max_rx_queues),
            ("transmit", tx_queues, info.max_tx_queues),
        ):
            if not 0 <= given <= most:
                raise ConfigError(
                    f"expected 0 to {most} {what} queues, came {given}", where=self.name
                )
        if rx_queues + tx_queues == 0:
            raise ConfigError("expected a queue, came none of either kind", where=self.name)
        if config.mtu is not None:
            self._check_mtu(config.mtu)
        self._forget_queues()
        self.rx_queues, self.tx_queues, self.config = rx_queues, tx_queues, config
        self._rx_ends = [None] * rx_queues
        self._tx_ends = [None] * tx_queues
        try:
            self.on_configure()
        except BaseException:
            self._forget_queues()
            raise
        self.error = ""
        if config.mtu is not None:
            self.set_mtu(config.mtu)
        if config.promiscuous is not None:
            self.set_promiscuous(config.promiscuous)
        self._enter(state)

    def rx_queue_setup(self, queue: int, descriptors: int = 0) -> None:
        """Set a receive queue up. `start` does it for those that were not.

        Args:
            queue: Below the number configured.
            descriptors: Its length; 0 as the port likes. Many ports have none of their own.

        Raises:
            LifecycleError: It is not configured, or started.
            ConfigError: No such queue.
        """
        self._check(queue, PortStep.SETUP, rx=True)
        self._set_up(queue, descriptors, rx=True)

    def tx_queue_setup(self, queue: int, descriptors: int = 0) -> None:
        """Set a transmit queue up; see `rx_queue_setup`."""
        self._check(queue, PortStep.SETUP, rx=False)
        self._set_up(queue, descriptors, rx=False)

    def start(self) -> None:
        """Let packets pass. The link comes up when the kernels are compiled and a peer is there.

        Raises:
            LifecycleError: It is not configured, or started already.
            EmudevError: What the port raised; it is as before.
        """
        state = step_port(self.state, PortStep.START, self.name)
        for queue, source in enumerate(self._rx_ends):
            if source is None:
                self._set_up(queue, 0, rx=True)
        for queue, sink in enumerate(self._tx_ends):
            if sink is None:
                self._set_up(queue, 0, rx=False)
        self.on_start()
        self._enter(state)
        if self._polled:
            self.on_polled(True)
        self._compile()

    def stop(self) -> None:
        """Let no packet pass; the queues stay set up. Whoever runs its kernels has stopped before.

        Raises:
            LifecycleError: It is not started.
        """
        state = step_port(self.state, PortStep.STOP, self.name)
        self._halt()
        self._enter(state)
        self.update_link()

    def close(self) -> None:
        """Stop if needed, and give everything back; a second call does nothing."""
        if self.state is PortState.CLOSED:
            return
        if self.state is PortState.STARTED:
            self.stop()
        if self._compilation is not None:
            self._compilation.cancel()
            self._compilation = None
        self.on_close()
        self._enter(step_port(self.state, PortStep.CLOSE, self.name))
        self._forget_queues()
        self._forget_listeners()

    def _enter(self, state: PortState) -> None:
        self.state = state
        self.post(PortEvent(PortEventKind.STATE, text=state.value))

    def _halt(self) -> None:
        self._compiled = False
        if self._compilation is not None:
            self._compilation.cancel()
            self._compilation = None
        if self._polled:
            self.on_polled(False)
        self.on_link(False)
        self.on_stop()

    def _forget_queues(self) -> None:
        self._rx_ends, self._tx_ends = [], []
        self.rx_queues = self.tx_queues = 0

    def _check(self, queue: int, step: PortStep, *, rx: bool) -> None:
        step_port(self.state, step, self.name)
        self._find(queue, rx=rx)

    def _find(self, queue: int, *, rx: bool) -> QueueKernels | None:
        ends = self._rx_ends if rx else self._tx_ends
        if not 0 <= queue < len(ends):
            kind = "receive" if rx else "transmit"
            raise ConfigError(f"no {kind} queue {queue} ({len(ends)} configured)", where=self.name)
        return ends[queue]

    def _set_up(self, queue: int, descriptors: int, *, rx: bool) -> None:
        self.on_queue_setup(queue, descriptors, rx=rx)
        if rx:
            source = self._rx_ends[queue] = self.source(queue)
            if source.peek is None or source.release is None:
                raise BackendError(f"{self.name}: receive queue {queue} gives no packets")
        else:
            sink = self.sink(queue)
            if sink.push is None:
                raise BackendError(f"{self.name}: transmit queue {queue} takes no packets")
            wanted = self.config.tx_offloads
            takes = sink.takes if wanted is None else sink.takes & wanted
            self._tx_ends[queue] = attrs.evolve(sink, takes=takes)

    # -- compilation

    @property
    def ready(self) -> bool:
        """Whether its kernels are as fast as they get; it is started, and the link may be up."""
        return self._compiled

    def _compile(self) -> None:
        kernels = self.kernels()
        pending = any(isinstance(k, Kernel) and not k.address for k in kernels)
        if not pending or not jit_wanted():
            self._ready(None)
            return

        def done(error: Exception | None) -> None:
            self.loop.call_threadsafe(partial(self._done, compilation, error))

        # `done` may be called before the name is bound: only by a thread, whose word comes later.
        compilation = Compilation(list(kernels), done, partial(log.info, "%s: %s", self.name))
        self._compilation = compilation
        compilation.start()

    def _done(self, compilation: Compilation, error: Exception | None) -> None:
        if compilation is self._compilation and self.state is PortState.STARTED:
            self._compilation = None
            self._ready(error)

    def _ready(self, error: Exception | None) -> None:
        if error is not None:
            log.warning("%s runs in plain Python: %s", self.name, error)
        self._compiled = True
        self.on_ready()
        self.on_link(self.link_wanted)
        self.update_link()
        for queue in range(self.rx_queues):
            self.wake_rx(queue)

    # -- packets

    def rx_queue(self, queue: int) -> QueueKernels:
        """The source of a receive queue that is set up; good until the next `configure`.

        Raises:
            LifecycleError: It is not set up.
            ConfigError: No such queue.
        """
        return self._kernels(queue, rx=True)

    def tx_queue(self, queue: int) -> QueueKernels:
        """The sink of a transmit queue that is set up; see `rx_queue`."""
        return self._kernels(queue, rx=False)

    def _kernels(self, queue: int, *, rx: bool) -> QueueKernels:
        if self.state not in _RUNNING:
            raise LifecycleError(f"{self.name} is {self.state.value}: it has no queues")
        ends = self._find(queue, rx=rx)
        if ends is None:
            kind = "receive" if rx else "transmit"
            raise LifecycleError(f"{self.name}: {kind} queue {queue} is not set up yet")
        return ends

    def _started(self, queue: int, *, rx: bool) -> QueueKernels:
        if self.state is not PortState.STARTED:
            raise LifecycleError(
                f"{self.name} is {self.state.value}: packets pass while it is started"
            )
        ends = self._find(queue, rx=rx)
        assert ends is not None
        return ends

    def rx_burst(self, queue: int, burst: Burst) -> int:
        """Look at the packets that have arrived; nothing is copied.

        Until `rx_release` they are shown again, and their memory stays.

        Args:
            queue: Receive queue.
            burst: Filled with as many whole packets as it has rows for; its `count` is set.

        Returns:
            Rows.

        Raises:
            LifecycleError: It is not started.
        """
        source = self._started(queue, rx=True)
        assert source.peek is not None
        burst.count = source.peek(source.state, burst.address, burst.rows)
        return burst.count

    def rx_release(self, queue: int, burst: Burst, rows: int | None = None) -> None:
        """Give back the first `rows` rows (all by default) that `rx_burst` showed.

        Raises:
            LifecycleError: It is not started.
        """
        source = self._started(queue, rx=True)
        assert source.release is not None
        source.release(source.state, burst.address, burst.count if rows is None else rows)
        if source.notify is not None:
            source.notify(source.state, 0, 0)

    def tx_burst(self, queue: int, burst: Burst, rows: int | None = None) -> int:
        """Send whole packets; their bytes are copied, so that the caller may release them.

        Requests (checksums, segmentation) that the port does not take as they are (`takes`) are the
        caller's to settle; a flow does.

        Args:
            queue: Transmit queue.
            burst: The packets.
            rows: Its first rows; `burst.count` by default.

        Returns:
            Rows taken, from the front; fewer than given means there is no room now.

        Raises:
            LifecycleError: It is not started.
        """
        sink = self._started(queue, rx=False)
        assert sink.push is not None
        taken = sink.push(sink.state, burst.address, burst.count if rows is None else rows)
        if sink.notify is not None:
            sink.notify(sink.state, 0, 0)
        return taken

    @property
    def takes(self) -> Offload:
        """What its transmit queues take as it is, as configured."""
        found = self.describe().tx_offloads
        wanted = self.config.tx_offloads
        return found if wanted is None else found & wanted

    # -- statistics

    def stats(self) -> PortStats:
        """Packets and bytes since the port was made, or `reset_stats`. Any thread."""
        return self._counters.stats()

    def xstats(self) -> dict[str, int]:
        """All counters, by the names that DPDK gives them.

        First those of `stats` and of each queue, then packets lost by reason, such as
        ``tx_dropped_length``, then the port's own (`counters` and
        `gauges`).
        """
        return {**self._counters.xstats(), **self.gauges()}

    def reset_stats(self) -> None:
        """Begin to count anew, `stats` and `xstats`."""
        self._counters.reset()
