"""Settings of the application: what the command line and the prompt change, checked when changed.

One frozen record; `Options.changed` makes the next one. `engine.Engine` takes it, uses it at each
start, and says by `Engine.set` what may be changed while packets move.

Names and ranges are those of DPDK 22.11's testpmd; `Source:` its user guide, "Testpmd Command-line
Options".
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from emudev_core.errors import ConfigError
from emudev_net.addresses import mac_text

__all__ = ["CSUM_LAYERS", "MAX_BURST", "MAX_SEGMENTS", "MODES", "Options", "Topology"]

#: Forwarding modes by the names that people type; `modes.make_stream` has what each does.
MODES: Final = (
    "io",
    "mac",
    "macswap",
    "rxonly",
    "txonly",
    "csum",
    "icmpecho",
    "flowgen",
    "5tswap",
)

#: Layers whose checksums the mode ``csum`` computes, or asks the port for.
CSUM_LAYERS: Final = ("ip", "udp", "tcp", "sctp")

MAX_BURST: Final = 512  #: packets; Source: testpmd.h, MAX_PKT_BURST
MAX_SEGMENTS: Final = 8  #: of a packet that is made; Source: testpmd.h, RTE_MAX_SEGS_PER_PKT
MAX_QUEUES: Final = 1024  #: of one kind and port; Source: rte_config.h, RTE_MAX_QUEUES_PER_PORT
MAX_PORTS: Final = 32  #: Source: rte_config.h, RTE_MAX_ETHPORTS
_MAX_SEGMENT: Final = 65535
_HEADERS: Final = 42  #: Ethernet, IPv4, UDP


class Topology(enum.Enum):
    """Which port forwards to which (``--port-topology``)."""

    PAIRED = "paired"  #: 0 and 1, 2 and 3; the last of an odd number with itself
    CHAINED = "chained"  #: 0 to 1, 1 to 2, the last to 0
    LOOP = "loop"  #: each to itself


def _range(low: int, high: int, unit: str = "") -> Any:
    """A validator: an integer within bounds."""

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            words = f"expected {low} to {high}{unit and ' ' + unit}, came {value}"
            raise ConfigError(words, where=_name(attribute))

    return check


def _name(attribute: attrs.Attribute[Any]) -> str:
    return attribute.name.replace("_", "-")


def _known(names: Iterable[str]) -> Any:
    known = tuple(names)

    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value not in known:
            raise ConfigError(
                f"expected one of {', '.join(known)}, came {value}", where=_name(attribute)
            )

    return check


def _check_segments(_: object, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    where = _name(attribute)
    if not 1 <= len(value) <= MAX_SEGMENTS:
        raise ConfigError(f"expected 1 to {MAX_SEGMENTS} lengths, came {len(value)}", where=where)
    for length in value:
        if not 1 <= length <= _MAX_SEGMENT:
            raise ConfigError(f"expected 1 to {_MAX_SEGMENT} bytes, came {length}", where=where)
    if sum(value) < _HEADERS:
        raise ConfigError(
            f"expected at least {_HEADERS} bytes in all (Ethernet, IPv4 and UDP headers), came "
            f"{sum(value)}",
            where=where,
        )
    if sum(value) > _MAX_SEGMENT:
        raise ConfigError(
            f"expected at most {_MAX_SEGMENT} bytes in all, came {sum(value)}", where=where
        )


def _check_pair(_: object, attribute: attrs.Attribute[Any], value: tuple[str, str]) -> None:
    for address in value:
        try:
            ipaddress.IPv4Address(address)
        except ValueError as error:
            raise ConfigError(
                f"expected two IPv4 addresses, came {address}", where=_name(attribute)
            ) from error


def _check_ports(_: object, attribute: attrs.Attribute[Any], value: tuple[int, int]) -> None:
    for port in value:
        _range(0, 65535)(_, attribute, port)


def _check_portlist(_: object, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    if len(set(value)) != len(value):
        raise ConfigError(
            f"expected each port once, came {','.join(map(str, value))}", where=_name(attribute)
        )
    for port in value:
        _range(0, MAX_PORTS - 1)(_, attribute, port)


def _check_cpus(_: object, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    if len(set(value)) != len(value):
        raise ConfigError(
            f"expected each CPU once, came {','.join(map(str, value))}", where=_name(attribute)
        )
    for cpu in value:
        _range(0, 4095)(_, attribute, cpu)


def _check_peers(_: object, attribute: attrs.Attribute[Any], value: Mapping[int, bytes]) -> None:
    for port, mac in value.items():
        _range(0, MAX_PORTS - 1)(_, attribute, port)
        if len(mac) != 6:
            raise ConfigError(
                f"expected 6 bytes for port {port}, came {mac_text(mac) or 'none'}",
                where=_name(attribute),
            )


def _check_csum(
    _: object, attribute: attrs.Attribute[Any], value: Mapping[int, frozenset[str]]
) -> None:
    for layers in value.values():
        for layer in sorted(layers):
            _known(CSUM_LAYERS)(_, attribute, layer)


@attrs.frozen(kw_only=True)
class Options:
    """All settings. Every value is checked when the record is made.

    Attributes:
        forward_mode: One of `MODES`.
        rxq: Receive queues of each port.
        txq: Transmit queues of each port.
        rxd: Descriptors of a receive queue; 0: as the port likes.
        txd: Descriptors of a transmit queue; 0: as the port likes.
        burst: Rows that a stream moves at one time; a packet is one row, or one for each segment.
        txpkts: Bytes of each segment of a packet that is made, without FCS.
        topology: Which port forwards to which.
        portmask: Ports that forward, a bit each; None: all. Others are started nevertheless.
        portlist: Ports that forward, in this order; None: all, or those of `portmask`.
        nb_cores: Threads that forward.
        cpus: CPUs of these threads, in order, one for each; empty: they are not pinned.
        interrupt: Who forwards sleeps when idle: threads, or the loop's if there is one core that
            needs no CPU of its own; False: threads poll, and take a CPU each for themselves.
        stats_period: Seconds between statistics on the screen; 0: none.
        auto_start: Forward from the start.
        interactive: There is a prompt.
        tx_first: Bursts that each stream sends before it forwards.
        eth_peer: Addresses that modes send to, by port; 02:00:00:00:00:NN for others.
        flowgen_flows: Destination addresses that ``flowgen`` goes through.
        flowgen_clones: Copies of each packet that ``flowgen`` sends behind it.
        tx_ip: Source and destination address of packets of ``txonly``.
        tx_udp: Their ports.
        txonly_multi_flow: ``txonly`` changes the source address from packet to packet.
        csum_hw: Layers by port whose checksums ``csum`` asks that port for; others it computes.
        mtu: Bytes; 0: as the ports have it.
        promiscuous: Ports get all frames.
        disable_link_check: Don't wait for links at the start.
    """

    forward_mode: str = attrs.field(default="io", validator=_known(MODES))
    rxq: int = attrs.field(default=1, validator=_range(0, MAX_QUEUES, "queues"))
    txq: int = attrs.field(default=1, validator=_range(0, MAX_QUEUES, "queues"))
    rxd: int = attrs.field(default=0, validator=_range(0, 65535, "descriptors"))
    txd: int = attrs.field(default=0, validator=_range(0, 65535, "descriptors"))
    burst: int = attrs.field(default=32, validator=_range(1, MAX_BURST, "packets"))
    txpkts: tuple[int, ...] = attrs.field(default=(64,), converter=tuple, validator=_check_segments)
    topology: Topology = attrs.field(
        default=Topology.PAIRED, validator=attrs.validators.instance_of(Topology)
    )
    portmask: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_range(1, (1 << MAX_PORTS) - 1))
    )
    portlist: tuple[int, ...] | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(tuple),
        validator=attrs.validators.optional(_check_portlist),
    )
    nb_cores: int = attrs.field(default=1, validator=_range(1, 128, "threads"))
    cpus: tuple[int, ...] = attrs.field(default=(), converter=tuple, validator=_check_cpus)
    interrupt: bool = False
    stats_period: float = attrs.field(default=0, validator=attrs.validators.ge(0))
    auto_start: bool = False
    interactive: bool = False
    tx_first: int = attrs.field(default=0, validator=_range(0, 1 << 31, "bursts"))
    eth_peer: Mapping[int, bytes] = attrs.field(
        factory=dict, converter=dict, validator=_check_peers
    )
    flowgen_flows: int = attrs.field(default=1024, validator=_range(1, 1 << 16, "flows"))
    flowgen_clones: int = attrs.field(default=0, validator=_range(0, MAX_BURST, "packets"))
    tx_ip: tuple[str, str] = attrs.field(
        default=("198.18.0.1", "198.18.0.2"), converter=tuple, validator=_check_pair
    )
    tx_udp: tuple[int, int] = attrs.field(default=(9, 9), converter=tuple, validator=_check_ports)
    txonly_multi_flow: bool = False
    csum_hw: Mapping[int, frozenset[str]] = attrs.field(
        factory=dict, converter=dict, validator=_check_csum
    )
    mtu: int = attrs.field(default=0, validator=_range(0, 65535, "bytes"))
    promiscuous: bool = True
    disable_link_check: bool = False

    def changed(self, **changes: Any) -> Options:
        """The record with other values.

        Raises:
            ConfigError: A value out of range, or an unknown name.
        """
        known = attrs.fields_dict(Options)
        for name in changes:
            if name not in known:
                raise ConfigError(f"expected a setting, came {name}", where="testpmd")
        return attrs.evolve(self, **changes)

    def peer(self, port: int) -> bytes:
        """The address that modes send to on a port.

        Source: testpmd.c, set_def_peer_eth_addrs: locally administered, the port in the last byte.
        """
        return self.eth_peer.get(port, bytes((2, 0, 0, 0, 0, port & 0xFF)))

    def forwarding(self, ports: Iterable[int]) -> tuple[int, ...]:
        """Which of the ports that there are forward, in order.

        Raises:
            ConfigError: `portmask` or `portlist` name one that is not there, or leave none.
        """
        present = sorted(ports)
        if self.portlist is not None:
            wanted: tuple[int, ...] = self.portlist
            where = "portlist"
        elif self.portmask is not None:
            mask = self.portmask
            wanted = tuple(i for i in range(MAX_PORTS) if mask >> i & 1)
            where = "portmask"
        else:
            return tuple(present)
        missing = [str(port) for port in wanted if port not in present]
        if missing:
            there = ", ".join(map(str, present)) or "none"
            raise ConfigError(f"no port {', '.join(missing)} (there are: {there})", where=where)
        if not wanted:
            raise ConfigError("expected at least one port, came none", where=where)
        return wanted
