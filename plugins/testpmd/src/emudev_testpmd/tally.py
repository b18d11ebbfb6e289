"""What one run has done: counters of streams and ports, less what they were before it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import attrs

from emudev_net.port import PortStats

from .ports import PortTable
from .records import Layout, PortTotals, Totals
from .streams import RunningStream

__all__ = ["Tally"]


class Tally:
    """Counts from when it is made, or `clear`.

    Args:
        layout: Who forwards what.
        streams: All streams, in the layout's order.
        ports: The ports; one that forwards may be closed meanwhile, see `keep`.

    Attributes:
        streams: As given.
    """

    def __init__(self, layout: Layout, streams: Sequence[RunningStream], ports: PortTable) -> None:
        self.streams = streams
        self._layout = layout
        self._ports = ports
        self._kept: dict[int, PortStats] = {}
        self._base = {n: self._stats(n) for n in layout.ports}
        self._since = time.monotonic()

    def clear(self) -> None:
        """Count anew."""
        for stream in self.streams:
            stream.clear()
        self._base = {n: self._stats(n) for n in self._layout.ports}
        self._since = time.monotonic()

    def keep(self, number: int) -> None:
        """Remember what a port counted: it is about to be closed."""
        if number in self._base:
            self._kept[number] = self._ports[number].stats()

    def restart_port(self, number: int) -> None:
        """A port counts from zero now."""
        if number in self._base:
            self._base[number] = PortStats()

    def totals(self) -> Totals:
        """What was done until now."""
        streams = tuple(stream.stats() for stream in self.streams)
        ports = tuple(
            PortTotals(
                port=n,
                stats=_less(self._stats(n), self._base[n]),
                tx_dropped=sum(s.tx_dropped for s in streams if s.stream.tx_port == n),
                rx_bad_ip_csum=sum(s.rx_bad_ip_csum for s in streams if s.stream.rx_port == n),
                rx_bad_l4_csum=sum(s.rx_bad_l4_csum for s in streams if s.stream.rx_port == n),
            )
            for n in self._layout.ports
        )
        return Totals(self._layout.mode, streams, ports, time.monotonic() - self._since)

    def _stats(self, number: int) -> PortStats:
        if number in self._kept or number not in self._ports:
            return self._kept.get(number, PortStats())
        return self._ports[number].stats()


def _less(now: PortStats, base: PortStats) -> PortStats:
    """What was counted since `base`."""
    names = attrs.fields_dict(PortStats)
    return PortStats(**{n: getattr(now, n) - getattr(base, n) for n in names})
