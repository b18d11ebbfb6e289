"""What testpmd prints, byte for byte where scripts read it. Text in, text out: nothing is printed.

Numbers that are not a port's or an engine's (thresholds of descriptors, sockets of memory) stand
as testpmd shows them for a port without such things.

Source: recorded from DPDK 22.11's ``dpdk-testpmd``; the tests hold the recordings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from emudev_net.port import LinkStatus, Port, PortStats
from emudev_net.port_records import SPEED_UNKNOWN

from .options import Options
from .rates import Rates
from .records import Core, Layout, PortTotals, StreamStats, Totals

__all__ = [
    "CLEAR",
    "core_number",
    "cores",
    "forward_configuration",
    "forward_statistics",
    "mac",
    "nic_statistics",
    "port_info",
    "port_summary",
    "port_xstats",
    "rxtx_configuration",
    "speed",
    "txpkts",
]

#: Empties a terminal, before each periodic display.
CLEAR: Final = "\x1b[2J\x1b[1;1H"

_FORWARD: Final = "-" * 22
_TOTAL: Final = "+" * 15
_NIC: Final = "#" * 24
_INFO: Final = "*" * 21

_SPEEDS: Final = {
    0: "None",
    10: "10 Mbps",
    100: "100 Mbps",
    1_000: "1 Gbps",
    2_500: "2.5 Gbps",
    5_000: "5 Gbps",
    10_000: "10 Gbps",
    20_000: "20 Gbps",
    25_000: "25 Gbps",
    40_000: "40 Gbps",
    50_000: "50 Gbps",
    56_000: "56 Gbps",
    100_000: "100 Gbps",
    200_000: "200 Gbps",
    400_000: "400 Gbps",
    SPEED_UNKNOWN: "Unknown",
}


def mac(address: bytes) -> str:
    """An address as testpmd writes it: ``52:54:00:12:34:5E``."""
    return ":".join(f"{byte:02X}" for byte in address)


def speed(mbps: int) -> str:
    """A speed in Mbit/s as testpmd writes it: ``10 Gbps``."""
    return _SPEEDS.get(mbps, "Invalid")


# -- statistics of ports


def nic_statistics(port: int, stats: PortStats, rates: Rates) -> str:
    """``show port stats`` of one port."""
    return (
        f"\n  {_NIC} NIC statistics for port {port:<2} {_NIC}\n"
        f"  RX-packets: {stats.ipackets:<10} RX-missed: {stats.imissed:<10} "
        f"RX-bytes:  {stats.ibytes}\n"
        f"  RX-errors: {stats.ierrors}\n"
        f"  RX-nombuf:  {stats.rx_nombuf:<10}\n"
        f"  TX-packets: {stats.opackets:<10} TX-errors: {stats.oerrors:<10} "
        f"TX-bytes:  {stats.obytes}\n"
        "\n"
        "  Throughput (since last show)\n"
        f"  Rx-pps: {rates.rx_pps:12}          Rx-bps: {rates.rx_bps:12}\n"
        f"  Tx-pps: {rates.tx_pps:12}          Tx-bps: {rates.tx_bps:12}\n"
        f"  {'#' * 76}\n"
    )


def port_xstats(port: int, counters: Mapping[str, int]) -> str:
    """``show port xstats`` of one port."""
    rows = "".join(f"{name}: {value}\n" for name, value in counters.items())
    return f"###### NIC extended statistics for port {port:<2}\n{rows}"


# -- totals of forwarding


def forward_statistics(totals: Totals) -> str:
    """What is printed when forwarding stops: streams if there are several a port, ports, all."""
    text = ""
    csum = totals.mode == "csum"
    if len(totals.streams) > len(totals.ports):
        text += "".join(_stream_totals(stats, csum=csum) for stats in totals.streams)
    text += "".join(_port_totals(port, csum=csum) for port in totals.ports)
    text += (
        f"\n  {_TOTAL} Accumulated forward statistics for all ports{_TOTAL}\n"
        f"{_totals('RX', totals.rx_packets, totals.rx_dropped)}"
        f"{_totals('TX', totals.tx_packets, totals.tx_dropped)}"
    )
    if totals.rx_nombuf:
        text += f"  RX-nombufs: {totals.rx_nombuf:<14}\n"
    return f"{text}  {'+' * 76}\n"


def _stream_totals(stats: StreamStats, *, csum: bool) -> str:
    """The totals of one stream; empty if nothing passed it."""
    if not stats.rx_packets and not stats.tx_packets and not stats.tx_dropped:
        return ""
    way = stats.stream
    text = (
        f"\n  ------- Forward Stats for RX Port={way.rx_port:2}/Queue={way.rx_queue:2}"
        f" -> TX Port={way.tx_port:2}/Queue={way.tx_queue:2} -------\n"
        f"  RX-packets: {stats.rx_packets:<14} TX-packets: {stats.tx_packets:<14}"
        f" TX-dropped: {stats.tx_dropped:<14}"
    )
    if csum:
        text += (
            f"  RX- bad IP checksum: {stats.rx_bad_ip_csum:<14}"
            f"  Rx- bad L4 checksum: {stats.rx_bad_l4_csum:<14}"
            f" Rx- bad outer L4 checksum: {0:<14}\n RX- bad outer IP checksum: {0:<14}"
        )
    return f"{text}\n"


def _port_totals(totals: PortTotals, *, csum: bool) -> str:
    stats = totals.stats
    text = (
        f"\n  {_FORWARD} Forward statistics for port {totals.port:<2} {_FORWARD}\n"
        f"{_totals('RX', stats.ipackets, stats.imissed)}"
    )
    if csum:
        text += (
            f"  Bad-ipcsum: {totals.rx_bad_ip_csum:<14} Bad-l4csum: {totals.rx_bad_l4_csum:<14}"
            f"Bad-outer-l4csum: {0:<14}\n  Bad-outer-ipcsum: {0:<14}\n"
        )
    if stats.ierrors or stats.rx_nombuf:
        text += f"  RX-error: {stats.ierrors}\n  RX-nombufs: {stats.rx_nombuf:<14}\n"
    # What the port took and then dropped itself was not sent either: testpmd has no such packets.
    sent = _totals("TX", stats.opackets, totals.tx_dropped + stats.oerrors)
    return f"{text}{sent}  {'-' * 76}\n"


def _totals(way: str, packets: int, dropped: int) -> str:
    return (
        f"  {way}-packets: {packets:<14} {way}-dropped: {dropped:<14}"
        f"{way}-total: {packets + dropped}\n"
    )


# -- ports


def port_summary(ports: Iterable[Port], available: int) -> str:
    """``show port summary``.

    Args:
        ports: Those to show.
        available: How many there are.
    """
    text = (
        f"Number of available ports: {available}\n"
        "Port MAC Address       Name         Driver         Status   Link\n"
    )
    for port in ports:
        link = port.link()
        text += (
            f"{port.id:<4} {mac(port.mac)} {port.name:<12} {port.info().driver:<14} "
            f"{'up' if link.up else 'down':<8} {speed(link.speed)}\n"
        )
    return text


def port_info(port: Port) -> str:
    """``show port info`` of one port."""
    info, link = port.info(), port.link()
    rx, tx = info.max_rx_queues, info.max_tx_queues
    return (
        f"\n{_INFO} Infos for port {port.id:<2} {_INFO}\n"
        f"MAC address: {mac(port.mac)}\n"
        f"Device name: {port.name}\n"
        f"Driver name: {info.driver}\n"
        "Firmware-version: not available\n"
        f"Devargs: {f'emu={info.device}' if info.device else ''}\n"
        "Connect to socket: 0\n"
        "memory allocation on the socket: 0\n"
        f"{_link(link)}"
        f"MTU: {port.mtu}\n"
        f"Promiscuous mode: {'enabled' if port.promiscuous else 'disabled'}\n"
        f"Allmulticast mode: {'enabled' if port.all_multicast else 'disabled'}\n"
        "Maximum number of MAC addresses: 1\n"
        "Maximum number of MAC addresses of hash filtering: 0\n"
        "VLAN offload: \n"
        "  strip off, filter off, extend off, qinq strip off\n"
        "No RSS offload flow type is supported.\n"
        "Minimum size of RX buffer: 0\n"
        f"Maximum configurable length of RX packet: {info.max_frame}\n"
        "Maximum configurable size of LRO aggregated packet: 0\n"
        f"{_queues('RX', info.nb_rx_queues, rx)}"
        f"{_queues('TX', info.nb_tx_queues, tx)}"
        "Max segment number per packet: 65535\n"
        "Max segment number per MTU/TSO: 65535\n"
        "Device capabilities: 0x0( )\n"
        "Device error handling mode: none\n"
    )


def _link(link: LinkStatus) -> str:
    return (
        f"Link status: {'up' if link.up else 'down'}\n"
        f"Link speed: {speed(link.speed)}\n"
        f"Link duplex: {'full-duplex' if link.full_duplex else 'half-duplex'}\n"
        f"Autoneg status: {'On' if link.autoneg else 'Off'}\n"
    )


def _queues(way: str, now: int, most: int) -> str:
    return (
        f"Current number of {way} queues: {now}\n"
        f"Max possible {way} queues: {most}\n"
        f"Max possible number of {way}Ds per queue: 65535\n"
        f"Min possible number of {way}Ds per queue: 0\n"
        f"{way}Ds number alignment: 1\n"
    )


# -- configuration


def core_number(core: Core) -> int:
    """The number that a thread is shown with: its CPU, else as if the loop's thread had CPU 0."""
    return core.number + 1 if core.cpu is None else core.cpu


def forward_configuration(layout: Layout, options: Options) -> str:
    """``show config fwd``: which queue's packets go where, thread by thread."""
    text = (
        f"{layout.mode} packet forwarding - ports={len(layout.ports)}"
        f" - cores={len(layout.cores)} - streams={len(layout.streams)}"
        " - NUMA support enabled, MP allocation mode: native\n"
    )
    for core in layout.cores:
        text += (
            f"Logical Core {core_number(core)} (socket 0) forwards packets on "
            f"{len(core.streams)} streams:\n"
        )
        for way in core.streams:
            text += (
                f"  RX P={way.rx_port}/Q={way.rx_queue} (socket 0) -> "
                f"TX P={way.tx_port}/Q={way.tx_queue} (socket 0) "
                f"peer={mac(options.peer(way.tx_port))}\n"
            )
    return f"{text}\n"


def rxtx_configuration(layout: Layout, options: Options, ports: Iterable[Port]) -> str:
    """``show config rxtx``; of a port's queues the first stands for all.

    Args:
        layout: Who forwards what.
        options: The settings.
        ports: All of them.
    """
    text = ""
    ports = tuple(ports)
    if layout.mode == "flowgen":
        flows = options.flowgen_flows
        text += "".join(f"  number of flows for port {n}: {flows}\n" for n in layout.ports)
    text += f"  {layout.mode} packet forwarding packets/burst={options.burst}\n"
    if layout.mode in ("flowgen", "txonly"):
        segments = options.txpkts
        text += f"  packet len={sum(segments)} - nb packet segments={len(segments)}\n"
    text += f"  nb forwarding cores={len(layout.cores)} - nb forwarding ports={len(layout.ports)}\n"
    for port in ports:
        text += (
            f"  port {port.id}: RX queue number: {port.rx_queues} "
            f"Tx queue number: {port.tx_queues}\n"
            "    Rx offloads=0x0 Tx offloads=0x0\n"
        )
        if port.rx_queues:
            text += (
                "    RX queue: 0\n"
                f"      RX desc={options.rxd} - RX free threshold=0\n"
                "      RX threshold registers: pthresh=0 hthresh=0  wthresh=0\n"
                "      RX Offloads=0x0\n"
            )
        if port.tx_queues:
            text += (
                "    TX queue: 0\n"
                f"      TX desc={options.txd} - TX free threshold=0\n"
                "      TX threshold registers: pthresh=0 hthresh=0  wthresh=0\n"
                "      TX offloads=0x0 - TX RS bit threshold=0\n"
            )
    return text


def txpkts(segments: Sequence[int]) -> str:
    """``show config txpkts``."""
    return (
        f"Number of segments: {len(segments)}\n"
        f"Segment sizes: {','.join(map(str, segments))}\n"
        "Split packet: off\n"
    )


def cores(layout: Layout) -> str:
    """``show config cores``."""
    numbers = "".join(f" {core_number(core):2}" for core in layout.cores)
    return f"List of forwarding lcores:{numbers}\n"
