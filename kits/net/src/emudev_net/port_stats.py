"""The counters of a port: those of its queues, less what they were at the last reset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from emudev_core.queues import QueueKernels, QueueStats

from .port_records import PortStats

__all__ = ["MISSED", "NO_MEMORY", "PortCounters"]

#: Reasons of drops at a receive queue that have a counter of their own in `PortStats`.
MISSED: Final = "missed"
NO_MEMORY: Final = "nombuf"

_NOTHING: Final = QueueStats()
_Ends = Sequence[QueueKernels | None]


class PortCounters:
    """Counts for one port. `stats` and `xstats` are for any thread.

    Args:
        queues: Answers the receive and the transmit queues, None for those not set up.
        own: Answers further counters of the port, which only grow.
    """

    def __init__(
        self, queues: Callable[[], tuple[_Ends, _Ends]], own: Callable[[], Mapping[str, int]]
    ) -> None:
        self._queues = queues
        self._own = own
        self._base: dict[tuple[bool, int], QueueStats] = {}
        self._own_base: dict[str, int] = {}

    def _now(self) -> list[tuple[bool, int, QueueStats]]:
        rx, tx = self._queues()
        return [
            (is_rx, queue, _NOTHING if one is None or one.stats is None else one.stats())
            for is_rx, ends in ((True, rx), (False, tx))
            for queue, one in enumerate(ends)
        ]

    def queue_stats(self) -> list[tuple[bool, int, QueueStats]]:
        """Whether it is a receive queue, its number, what it counted since `reset`; each queue."""
        found = []
        for rx, queue, now in self._now():
            base = self._base.get((rx, queue), _NOTHING)
            dropped = {r: n - base.dropped.get(r, 0) for r, n in now.dropped.items()}
            stats = QueueStats(now.packets - base.packets, now.bytes - base.bytes, dropped)
            found.append((rx, queue, stats))
        return found

    def stats(self) -> PortStats:
        """The sums."""
        found = self.queue_stats()
        ins = [stats for rx, _, stats in found if rx]
        outs = [stats for rx, _, stats in found if not rx]
        missed = sum(stats.dropped.get(MISSED, 0) for stats in ins)
        no_memory = sum(stats.dropped.get(NO_MEMORY, 0) for stats in ins)
        return PortStats(
            ipackets=sum(stats.packets for stats in ins),
            opackets=sum(stats.packets for stats in outs),
            ibytes=sum(stats.bytes for stats in ins),
            obytes=sum(stats.bytes for stats in outs),
            imissed=missed,
            ierrors=sum(sum(stats.dropped.values()) for stats in ins) - missed - no_memory,
            oerrors=sum(sum(stats.dropped.values()) for stats in outs),
            rx_nombuf=no_memory,
        )

    def xstats(self) -> dict[str, int]:
        """All of it. Source: DPDK 22.11, lib/ethdev/rte_ethdev.c, ``eth_dev_stats_strings``."""
        total = self.stats()
        found = {
            "rx_good_packets": total.ipackets,
            "tx_good_packets": total.opackets,
            "rx_good_bytes": total.ibytes,
            "tx_good_bytes": total.obytes,
            "rx_missed_errors": total.imissed,
            "rx_errors": total.ierrors,
            "tx_errors": total.oerrors,
            "rx_mbuf_allocation_errors": total.rx_nombuf,
        }
        reasons: dict[str, int] = {}
        for rx, queue, stats in self.queue_stats():
            way = "rx" if rx else "tx"
            found[f"{way}_q{queue}_packets"] = stats.packets
            found[f"{way}_q{queue}_bytes"] = stats.bytes
            found[f"{way}_q{queue}_errors"] = sum(stats.dropped.values())
            for reason, count in stats.dropped.items():
                name = f"{way}_dropped_{reason.replace('-', '_').replace(' ', '_')}"
                reasons[name] = reasons.get(name, 0) + count
        found |= reasons
        for name, value in self._own().items():
            found[name] = value - self._own_base.get(name, 0)
        return found

    def reset(self) -> None:
        """Count from here on."""
        self._base |= {(rx, queue): stats for rx, queue, stats in self._now()}
        self._own_base = dict(self._own())
