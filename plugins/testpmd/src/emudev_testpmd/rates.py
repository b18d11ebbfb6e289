"""How fast packets went since the last look: testpmd's ``Throughput (since last show)``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import attrs

from emudev_net.port import PortStats

__all__ = ["RateMeter", "Rates"]

_SECOND: Final = 1_000_000_000


@attrs.frozen
class Rates:
    """What a port moved in a second, on average.

    Attributes:
        rx_pps: Packets received, 1/s.
        tx_pps: Packets sent, 1/s.
        rx_bps: Bits received, 1/s, without FCS.
        tx_bps: Bits sent, 1/s, without FCS.
    """

    rx_pps: int = 0
    tx_pps: int = 0
    rx_bps: int = 0
    tx_bps: int = 0


class RateMeter:
    """Remembers the last look at each port. For the loop's thread.

    Args:
        clock: Answers nanoseconds that only grow.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._last: dict[int, tuple[int, PortStats]] = {}

    def look(self, port: int, stats: PortStats) -> Rates:
        """The rates since the last look at a port; at the first one all are 0.

        Counters that were set back meanwhile give 0, too.
        """
        now = self._clock()
        then, former = self._last.get(port, (now, stats))
        self._last[port] = now, stats
        return Rates(
            rx_pps=_rate(stats.ipackets, former.ipackets, now - then),
            tx_pps=_rate(stats.opackets, former.opackets, now - then),
            rx_bps=8 * _rate(stats.ibytes, former.ibytes, now - then),
            tx_bps=8 * _rate(stats.obytes, former.obytes, now - then),
        )


def _rate(now: int, then: int, nanoseconds: int) -> int:
    return (now - then) * _SECOND // nanoseconds if now > then and nanoseconds > 0 else 0
