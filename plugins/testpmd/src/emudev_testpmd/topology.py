"""Which queue forwards to which, and on which thread: exactly as DPDK 22.11's testpmd lays it out.

Pure functions over port numbers. Three layouts:

- ``icmpecho``: each receive queue answers on its own port; ports one after the other, all queues
  of each.
- several receive and transmit queues: as many streams for each port as the fewer of the two;
  queue by queue, in each queue port by port.
- else: queue 0 of each port.

Streams are dealt out to threads in runs; the threads that get one more are the last ones.

Source: DPDK 22.11, app/test-pmd/config.c: fwd_config_setup, setup_fwd_config_of_each_lcore,
fwd_topology_tx_port_get.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from .options import Options, Topology

__all__ = ["Stream", "deal", "gather", "is_odd_pairing", "other_port", "streams_of"]


@attrs.frozen
class Stream:
    """What one stream receives from and sends to.

    Attributes:
        rx_port: Number of the port that it receives from.
        rx_queue: Its queue.
        tx_port: Number of the port that it sends to.
        tx_queue: Its queue.
    """

    rx_port: int
    rx_queue: int
    tx_port: int
    tx_queue: int

    @property
    def label(self) -> str:
        """As testpmd shows it: ``P=0/Q=0 -> P=1/Q=0``."""
        return f"P={self.rx_port}/Q={self.rx_queue} -> P={self.tx_port}/Q={self.tx_queue}"


def other_port(index: int, count: int, topology: Topology) -> int:
    """The place in the list of forwarding ports that place `index` sends to.

    Args:
        index: 0 to `count` - 1.
        count: Forwarding ports.
        topology: How they are joined.
    """
    if topology is Topology.LOOP:
        return index
    if topology is Topology.CHAINED:
        return (index + 1) % count
    if index & 1:
        return index - 1
    return index + 1 if index + 1 < count else index


def is_odd_pairing(options: Options, ports: Sequence[int]) -> bool:
    """Whether the last port is paired with itself, which is worth a warning."""
    paired = options.topology is Topology.PAIRED and options.forward_mode != "icmpecho"
    return paired and len(ports) % 2 == 1


def streams_of(options: Options, ports: Sequence[int]) -> tuple[Stream, ...]:
    """The streams, in testpmd's order.

    Args:
        options: Mode, queues and topology count.
        ports: Numbers of the ports that forward, in order.
    """
    rxq, txq = options.rxq, options.txq
    # A mode of one direction only needs no queues of the other; testpmd counts one of them then.
    if options.forward_mode == "rxonly":
        txq = max(txq, 1)
    elif options.forward_mode == "txonly":
        rxq = max(rxq, 1)
    if options.forward_mode == "icmpecho":
        return tuple(Stream(p, q, p, q % max(txq, 1)) for p in ports for q in range(rxq))
    queues = min(rxq, txq) if rxq > 1 and txq > 1 else 1
    count = len(ports)
    return tuple(
        Stream(ports[i], q, ports[other_port(i, count, options.topology)], q)
        for q in range(queues)
        for i in range(count)
    )


def deal(streams: Sequence[Stream], options: Options, ports: int) -> list[list[Stream]]:
    """The streams of each thread, in order; threads that get none are left out.

    Args:
        streams: All of them.
        options: `nb_cores`, mode and queues count.
        ports: How many ports forward.
    """
    cores = options.nb_cores
    if options.forward_mode == "icmpecho":
        cores = min(cores, max(1, options.txq * ports))
    elif not (options.rxq > 1 and options.txq > 1):
        cores = min(cores, ports)
    cores = max(1, min(cores, len(streams)))
    each, extra = divmod(len(streams), cores)
    found: list[list[Stream]] = []
    at = 0
    for core in range(cores):
        size = each + (1 if core >= cores - extra else 0)
        found.append(list(streams[at : at + size]))
        at += size
    return found


def gather(dealt: Sequence[Sequence[Stream]], serial: Iterable[int]) -> list[list[Stream]]:
    """Bring streams onto one thread that must not run on several.

    Those are streams that share a transmit queue, and those of a port whose queues may only be used
    on one thread at a time; all go to the first thread that has one of them.

    Args:
        dealt: What `deal` made.
        serial: Numbers of the ports whose queues need one thread.
    """
    alone = set(serial)
    owner: dict[object, int] = {}  # a thing that needs one thread -> its group
    group: dict[int, int] = {}  # group -> the group that it was joined with

    def root(number: int) -> int:
        while group[number] != number:
            number = group[number]
        return number

    numbered = [(core, stream) for core, streams in enumerate(dealt) for stream in streams]
    for number, (_, stream) in enumerate(numbered):
        group[number] = number
        keys: list[object] = [
            ("rx", stream.rx_port, stream.rx_queue),
            ("tx", stream.tx_port, stream.tx_queue),
        ]
        keys += [p for p in (stream.rx_port, stream.tx_port) if p in alone]
        for key in keys:
            first = root(owner.setdefault(key, number))
            mine = root(number)
            group[max(first, mine)] = min(first, mine)
    found: list[list[Stream]] = [[] for _ in dealt]
    for number, (_, stream) in enumerate(numbered):
        found[numbered[root(number)][0]].append(stream)
    return [streams for streams in found if streams]
