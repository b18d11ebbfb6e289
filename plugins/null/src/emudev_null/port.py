"""The port ``net_null``: it receives packets without end, and drops what is sent.

The smallest complete port, with DPDK's options: nothing is behind it, so what an application costs
can be measured by itself. Its kernels are compiled.

Source: DPDK 22.11, drivers/net/null/rte_eth_null.c.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from emudev_core.queues import Offload, QueueKernels, QueueStats
from emudev_net.burst import ADDRESS, FIRST, FLAGS, LAST, LENGTH, ROW
from emudev_net.port import Port, PortInfo
from emudev_net.port_records import ETHERNET_OVERHEAD
from emudev_net.primitives import Words

from . import port_kernels as k

if TYPE_CHECKING:
    from emudev_core.specs import BackendContext

    from .config import NullPortConfig

__all__ = ["NullPort"]

#: Packets that one look shows at most.
ROWS: Final = 512
#: Source: rte_eth_null.c takes as many queues as a build allows: RTE_MAX_QUEUES_PER_PORT.
MAX_QUEUES: Final = 1024
MAX_FRAME: Final = 65_535
TAKES: Final = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO | Offload.VLAN


class _End:
    """Words and memory of one queue."""

    def __init__(self, size: int, *, copy: bool) -> None:
        self._packet = ctypes.create_string_buffer(MAX_FRAME)
        words = self.words = Words(k.WORDS)
        words[k.PACKET] = ctypes.addressof(self._packet)
        words[k.SIZE] = size
        words[k.COPY] = int(copy)

    def stats(self) -> QueueStats:
        """What it counted; any thread."""
        return QueueStats(self.words[k.PACKETS], self.words[k.BYTES])


class _Source(_End):
    """A receive queue."""

    def __init__(self, size: int, *, copy: bool, rows: int) -> None:
        super().__init__(size, copy=copy)
        slot = (size + 63) & ~63
        self._arena = Words(max(1, rows * slot // 8 if copy else 0))
        self._table = Words(max(1, rows * ROW // 8))
        for i in range(rows):
            at = i * ROW // 8
            place = self._arena.address + i * slot if copy else self.words[k.PACKET]
            self._table[at + ADDRESS // 8] = place
            self._table[at + LENGTH // 8] = size
            self._table[at + FLAGS // 8] = FIRST | LAST
        self.words[k.TABLE] = self._table.address
        self.words[k.ROWS] = rows
        self.kernels = QueueKernels(
            self.words.address, k.peek, None, k.release, None, stats=self.stats
        )


class _Sink(_End):
    """A transmit queue."""

    def __init__(self, size: int, *, copy: bool) -> None:
        super().__init__(size, copy=copy)
        self.kernels = QueueKernels(
            self.words.address, None, k.push, None, None, TAKES, stats=self.stats
        )


class NullPort(Port):
    """See the module.

    Args:
        config: What the user said.
        context: The name and the loop.
    """

    def __init__(self, config: NullPortConfig, context: BackendContext) -> None:
        super().__init__(context.name, context.loop)
        self._config = config
        self._made_sources: dict[int, _Source] = {}
        self._made_sinks: dict[int, _Sink] = {}

    def describe(self) -> PortInfo:
        """Anything goes."""
        return PortInfo(
            driver="net_null",
            max_rx_queues=MAX_QUEUES,
            max_tx_queues=MAX_QUEUES,
            max_frame=MAX_FRAME,
            max_mtu=MAX_FRAME - ETHERNET_OVERHEAD,
            tx_offloads=TAKES,
        )

    def source(self, queue: int) -> QueueKernels:
        """Packets without end, or none."""
        config = self._config
        found = self._made_sources.get(queue)
        if found is None:
            rows = 0 if config.no_rx else ROWS
            found = _Source(config.size, copy=config.copy and not config.no_rx, rows=rows)
            self._made_sources[queue] = found
        return found.kernels

    def sink(self, queue: int) -> QueueKernels:
        """Where they go."""
        config = self._config
        found = self._made_sinks.get(queue)
        if found is None:
            found = _Sink(config.size, copy=config.copy and not config.no_rx)
            self._made_sinks[queue] = found
        return found.kernels
