# ruff: noqa: B027 - a port overrides what it has something to do for
"""What a port overrides: `emudev_net.port.Port` calls it, and does everything else.

All on the loop's thread, but `counters`.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping

from emudev_core.queues import QueueKernels

from .port_records import PortInfo

__all__ = ["PortDriver"]


class PortDriver(abc.ABC):
    """See the module; three methods are a port's own in any case."""

    @abc.abstractmethod
    def describe(self) -> PortInfo:
        """What it is and can do, in any state but closed."""

    @abc.abstractmethod
    def source(self, queue: int) -> QueueKernels:
        """The kernels of a receive queue that is being set up: `peek` and `release`."""

    @abc.abstractmethod
    def sink(self, queue: int) -> QueueKernels:
        """The kernels of a transmit queue that is being set up: `push`."""

    def on_configure(self) -> None:
        """It is being configured: `config`, `rx_queues` and `tx_queues` are known; may raise."""

    def on_queue_setup(self, queue: int, descriptors: int, *, rx: bool) -> None:
        """A queue is being set up, of so many descriptors (0: as the port likes)."""

    def on_start(self) -> None:
        """It is being started; may raise, and then stays as it was."""

    def on_ready(self) -> None:
        """Its kernels are compiled, or stay as they are; at each start, before the link is up."""

    def on_stop(self) -> None:
        """It is being stopped: nobody runs its kernels any more."""

    def on_close(self) -> None:
        """It is being closed, stopped before."""

    def on_link(self, wanted: bool) -> None:
        """The application sets the link up or down, or the port starts or stops."""

    def on_polled(self, polled: bool) -> None:
        """Its user polls (and needs no `wake_rx`), or does not any more."""

    def on_mac(self, mac: bytes) -> None:
        """A new address; may raise, then the former one stays."""

    def on_promiscuous(self, on: bool) -> None:
        """A new mode; may raise, then the former one stays."""

    def on_all_multicast(self, on: bool) -> None:
        """A new mode; may raise, then the former one stays."""

    def on_mtu(self, mtu: int) -> None:
        """A new MTU, within range; may raise, then the former one stays."""

    @property
    def carrier(self) -> bool:
        """Whether the other end is there, for a port that can tell."""
        return True

    @property
    def speed(self) -> int:
        """Of its link, Mbit/s."""
        return 10_000

    def counters(self) -> Mapping[str, int]:
        """Further counters for `xstats`, which only grow; any thread."""
        return {}

    def gauges(self) -> Mapping[str, int]:
        """Further numbers for `xstats` that `reset_stats` leaves alone."""
        return {}
