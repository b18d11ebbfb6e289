"""Where results go: as text like testpmd's, or as JSON, one object a line.

With JSON, standard output has nothing but objects; words for people go to standard error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import attrs

from emudev_net.port import LinkStatus, Port, PortStats
from emudev_net.port_records import SPEED_UNKNOWN

from . import layout
from .rates import Rates
from .records import PortTotals, StreamStats, Totals

__all__ = ["Output"]


class Output:
    """Writes results. For the loop's thread; every call is flushed.

    Args:
        as_json: Write objects instead of text.
        results: None: standard output.
        words: None: standard error.

    Attributes:
        as_json: As given.
    """

    def __init__(
        self, *, as_json: bool = False, results: TextIO | None = None, words: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self._results = sys.stdout if results is None else results
        self._words = sys.stderr if words is None else words

    def text(self, text: str) -> None:
        """What testpmd prints as a matter of course; no result for programs that read JSON."""
        stream = self._words if self.as_json else self._results
        stream.write(text)
        stream.flush()

    def error(self, text: str) -> None:
        """What could not be done."""
        self._words.write(f"{text}\n")
        self._words.flush()

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.error(f"emudev: {text}")

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        line = json.dumps({"type": kind, "time": round(time.time(), 6), **values})
        self._results.write(f"{line}\n")
        self._results.flush()

    def _either(self, text: str, kind: str, values: Mapping[str, Any]) -> None:
        if self.as_json:
            self._write(kind, values)
        else:
            self.text(text)

    # -- results

    def event(self, kind: str, text: str, **values: Any) -> None:
        """Something that happened: `text` for people, ``{"type": kind, ...}`` for programs."""
        self._either(text, kind, values)

    def statistics(self, ports: Mapping[int, tuple[Port, PortStats, Rates]], head: str) -> None:
        """Statistics of ports.

        Args:
            ports: By number.
            head: Text in front of them.
        """
        text = head + "".join(
            layout.nic_statistics(number, stats, rates)
            for number, (_, stats, rates) in ports.items()
        )
        rows = [
            {**_about(port), **attrs.asdict(stats), **attrs.asdict(rates)}
            for port, stats, rates in ports.values()
        ]
        self._either(text, "stats", {"ports": rows})

    def xstats(self, port: Port) -> None:
        """All counters of a port."""
        counters = port.xstats()
        values = {**_about(port), "xstats": counters}
        self._either(layout.port_xstats(port.id, counters), "xstats", values)

    def info(self, port: Port) -> None:
        """What a port is."""
        info = port.info()
        values = {
            **_about(port),
            "driver": info.driver,
            "device": info.device,
            "mtu": port.mtu,
            "promiscuous": port.promiscuous,
            "all_multicast": port.all_multicast,
            "max_frame": info.max_frame,
            "rx_queues": info.nb_rx_queues,
            "max_rx_queues": info.max_rx_queues,
            "tx_queues": info.nb_tx_queues,
            "max_tx_queues": info.max_tx_queues,
        }
        self._either(layout.port_info(port), "info", values)

    def summary(self, ports: list[Port], available: int) -> None:
        """A line for each port."""
        rows = [{**_about(port), "driver": port.info().driver} for port in ports]
        self._either(layout.port_summary(ports, available), "summary", {"ports": rows})

    def totals(self, totals: Totals) -> None:
        """What was done since forwarding was started."""
        values = {
            "mode": totals.mode,
            "seconds": round(totals.seconds, 6),
            "rx_packets": totals.rx_packets,
            "rx_dropped": totals.rx_dropped,
            "tx_packets": totals.tx_packets,
            "tx_dropped": totals.tx_dropped,
            "ports": [_port_totals(port) for port in totals.ports],
            "streams": [_stream(stream) for stream in totals.streams],
        }
        self._either(layout.forward_statistics(totals), "totals", values)


def _about(port: Port) -> dict[str, Any]:
    link: LinkStatus = port.link()
    known = link.speed != SPEED_UNKNOWN
    return {
        "port": port.id,
        "name": port.name,
        "mac": layout.mac(port.mac).lower(),
        "link": "up" if link.up else "down",
        "speed": link.speed if known else None,
    }


def _port_totals(totals: PortTotals) -> dict[str, Any]:
    stats = attrs.asdict(totals.stats)
    return {
        "port": totals.port,
        **stats,
        "tx_dropped": totals.tx_dropped,
        "rx_bad_ip_csum": totals.rx_bad_ip_csum,
        "rx_bad_l4_csum": totals.rx_bad_l4_csum,
    }


def _stream(stats: StreamStats) -> dict[str, Any]:
    values = attrs.asdict(stats, recurse=False)
    return {**attrs.asdict(values.pop("stream")), **values}
