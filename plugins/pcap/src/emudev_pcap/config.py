"""What a user may say about a port of capture files."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from emudev_core import BackendConfig

__all__ = ["MAX_QUEUES", "PcapConfig"]

#: Queues of a port at most.
MAX_QUEUES = 64

File = Annotated[str, Meta(min_length=1)]


class PcapConfig(BackendConfig):
    """Configuration of ``net_pcap``; names as in DPDK where DPDK has the option."""

    rx_pcap: Annotated[
        File | None,
        Meta(description="pcap or pcapng file whose packets the port receives; unset: none"),
    ] = None
    tx_pcap: Annotated[
        File | None,
        Meta(description="file that sent packets are written to; unset: they are dropped"),
    ] = None
    infinite_rx: Annotated[
        bool, Meta(description="begin rx_pcap anew whenever all of it was received")
    ] = False
    rx_timing: Annotated[
        Literal["flat_out", "recorded"],
        Meta(
            description="flat_out: packets come as fast as they are fetched; recorded: with the"
            " gaps between their timestamps"
        ),
    ] = "flat_out"
    rx_rate: Annotated[
        Annotated[int, Meta(ge=1, le=10**9)] | None,
        Meta(
            description="packets come at this rate, whatever their timestamps; unset: as rx_timing"
            " says",
            extra_json_schema={"unit": "packets/s"},
        ),
    ] = None
    rx_memory: Annotated[
        int,
        Meta(
            ge=0,
            le=2**20,
            description="rx_pcap is kept in memory if it is not larger than this, else it is read"
            " while it is received",
            extra_json_schema={"unit": "MiB"},
        ),
    ] = 256
    rx_damaged: Annotated[
        Literal["refuse", "use"],
        Meta(
            description="what to do with an rx_pcap that is cut short or damaged: refuse it at"
            " start, or use what is whole before the damage"
        ),
    ] = "refuse"
    tx_format: Annotated[
        Literal["pcap", "pcapng"], Meta(description="format of tx_pcap; both with nanoseconds")
    ] = "pcap"
    tx_time: Annotated[
        Literal["sent", "packet"],
        Meta(
            description="timestamps in tx_pcap: sent: when the port took the packet; packet: the"
            " packet's own, such as that of the capture it comes from, where it has one"
        ),
    ] = "sent"
    tx_memory: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="what may wait to be written to tx_pcap, for each queue, a power of two;"
            " what does not fit is dropped and counted",
            extra_json_schema={"unit": "MiB"},
        ),
    ] = 16
    snaplen: Annotated[
        int,
        Meta(
            ge=64,
            le=262_144,
            description="bytes of a packet that are written to tx_pcap at most",
            extra_json_schema={"unit": "bytes"},
        ),
    ] = 262_144
    queues: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_QUEUES,
            description="queues of each direction that may be configured; packets of rx_pcap are"
            " spread by flow over those that are",
        ),
    ] = 16

    def __post_init__(self) -> None:
        """Refuse what can't go together.

        Raises:
            ValueError: With what would be right.
        """
        if self.rx_pcap is None and self.tx_pcap is None:
            raise ValueError(
                "neither rx_pcap nor tx_pcap is given: expected a file to read or write"
            )
        if self.rx_rate is not None and self.rx_timing == "recorded":
            raise ValueError("rx_rate: rx_timing=recorded has a rate of its own; give one of them")
        if self.tx_memory & (self.tx_memory - 1):
            raise ValueError("tx_memory: expected a power of two")
        if self.rx_pcap is not None and self.rx_pcap == self.tx_pcap:
            raise ValueError("tx_pcap: it is the file of rx_pcap, which would be overwritten")
