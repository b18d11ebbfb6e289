"""What the engine tells: statistics of streams and ports, who does what, and what happened."""

from __future__ import annotations

import enum

import attrs

from emudev_core.errors import EmudevError
from emudev_net.port import PortStats

from .topology import Stream

__all__ = [
    "Core",
    "ForwardError",
    "Layout",
    "Notice",
    "NoticeKind",
    "PortTotals",
    "StreamStats",
    "Totals",
]


class ForwardError(EmudevError):
    """Something that can't be done now: packets move, or rest; a port is in another state."""


@attrs.frozen
class StreamStats:
    """What a stream did since forwarding was started.

    Attributes:
        stream: Which.
        rx_packets: Packets received.
        tx_packets: Packets that the transmit queue took.
        tx_dropped: Packets that were to be sent and were not: no room, or a request that did not
            fit the packet.
        refused: Packets that the mode itself dropped, such as those that ``icmpecho`` has no answer
            for.
        rx_bad_ip_csum: Packets whose IPv4 header checksum was wrong; counted by ``csum``.
        rx_bad_l4_csum: Packets whose UDP, TCP or SCTP checksum was wrong; counted by ``csum``.
    """

    stream: Stream
    rx_packets: int = 0
    tx_packets: int = 0
    tx_dropped: int = 0
    refused: int = 0
    rx_bad_ip_csum: int = 0
    rx_bad_l4_csum: int = 0


@attrs.frozen
class PortTotals:
    """What a port did since forwarding was started.

    Attributes:
        port: Its number.
        stats: Its own counters, less what they were then.
        tx_dropped: Sum of its streams' `StreamStats.tx_dropped`.
        rx_bad_ip_csum: Sum of its streams'.
        rx_bad_l4_csum: Sum of its streams'.
    """

    port: int
    stats: PortStats
    tx_dropped: int = 0
    rx_bad_ip_csum: int = 0
    rx_bad_l4_csum: int = 0

    @property
    def rx_total(self) -> int:
        """Packets received, and those that came too fast."""
        return self.stats.ipackets + self.stats.imissed

    @property
    def tx_total(self) -> int:
        """Packets sent, and those that should have been."""
        return self.stats.opackets + self.tx_dropped


@attrs.frozen
class Totals:
    """What was done since forwarding was started. Source: testpmd.c, fwd_stats_display.

    Attributes:
        mode: The forwarding mode.
        streams: In order.
        ports: Those that forward, in order.
        seconds: How long.
    """

    mode: str
    streams: tuple[StreamStats, ...]
    ports: tuple[PortTotals, ...]
    seconds: float = 0.0

    @property
    def rx_packets(self) -> int:
        """Packets received by all ports."""
        return sum(p.stats.ipackets for p in self.ports)

    @property
    def rx_dropped(self) -> int:
        """Packets that nobody fetched in time."""
        return sum(p.stats.imissed for p in self.ports)

    @property
    def rx_nombuf(self) -> int:
        """Packets for which a port had no memory."""
        return sum(p.stats.rx_nombuf for p in self.ports)

    @property
    def tx_packets(self) -> int:
        """Packets sent by all ports."""
        return sum(p.stats.opackets for p in self.ports)

    @property
    def tx_dropped(self) -> int:
        """Packets that were to be sent and were not, by streams and by ports."""
        return sum(p.tx_dropped + p.stats.oerrors for p in self.ports)


@attrs.frozen
class Core:
    """A thread that forwards.

    Attributes:
        number: 0 for the first.
        cpu: The CPU that it is pinned to; None: any.
        streams: What it runs, in order.
    """

    number: int
    cpu: int | None
    streams: tuple[Stream, ...]


@attrs.frozen
class Layout:
    """Who forwards what.

    Attributes:
        mode: The forwarding mode.
        ports: Numbers of the ports that forward, in order.
        cores: Threads; one, without a thread of its own, where the loop's runs the streams.
        threads: False: the streams run on the loop's thread.
        lonely: A port is paired with itself because their number is odd.
    """

    mode: str
    ports: tuple[int, ...]
    cores: tuple[Core, ...]
    threads: bool
    lonely: bool = False

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All, core by core."""
        return tuple(stream for core in self.cores for stream in core.streams)


class NoticeKind(enum.Enum):
    """What a notice is about."""

    LINK = "link"  #: a link came up or went down
    PORT = "port"  #: a port was started, stopped, closed or attached
    FAILED = "failed"  #: a port is down; others go on
    FORWARD = "forward"  #: forwarding, such as that it runs in plain Python


@attrs.frozen
class Notice:
    """Something that happened, for people and for whoever prints it.

    Attributes:
        kind: What it is about.
        text: One line.
        port: Number of the port, if it is about one.
    """

    kind: NoticeKind
    text: str
    port: int | None = None
