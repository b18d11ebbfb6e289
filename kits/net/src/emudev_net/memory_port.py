"""A port in plain memory: its other side is in the hands of the test.

    port = MemoryPort("net_memory_0", loop, queues=2)
    port.configure(2, 2)
    port.start()
    port.arrive([frame], queue=1)           # the application receives it from queue 1
    port.sent(queue=0)                      # what the application sent into queue 0

For tests of applications, measurements, and as the shortest example of a port. On a host it is the
backend ``net_memory`` of `SPEC`, which tests offer themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta

from emudev_core.config import BackendConfig
from emudev_core.loop import Loop
from emudev_core.queues import Offload, QueueKernels
from emudev_core.specs import BackendContext, BackendSpec

from .burst import Burst, Packet
from .memory_queues import MemorySink, MemorySource
from .port import Port, PortEvent, PortEventKind, PortInfo

__all__ = ["SPEC", "MemoryPort", "MemoryPortConfig"]

ALL_OFFLOADS: Final = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.USO | Offload.VLAN


class MemoryPort(Port):
    """See the module.

    Args:
        name: Of the port; a number at its end is its id.
        loop: The process' loop.
        queues: Receive, and transmit, queues at most.
        takes: What it takes as it is.
        room: Rows that wait in a receive queue at most, and packets in a transmit queue.

    Attributes:
        sources: What the receive queues are made of.
        sinks: What the transmit queues are made of.
    """

    def __init__(
        self,
        name: str,
        loop: Loop,
        *,
        queues: int = 1,
        takes: Offload = ALL_OFFLOADS,
        room: int = 4096,
    ) -> None:
        super().__init__(name, loop)
        self._takes = takes
        self._peer = True
        self.sources = [MemorySource(Burst(room)) for _ in range(queues)]
        self.sinks = [MemorySink(takes, room) for _ in range(queues)]

    def describe(self) -> PortInfo:
        """Any frame below 64 KiB."""
        return PortInfo(
            driver="net_memory",
            max_rx_queues=len(self.sources),
            max_tx_queues=len(self.sinks),
            max_frame=65_535,
            max_mtu=65_517,
            rx_offloads=ALL_OFFLOADS,
            tx_offloads=self._takes,
        )

    def source(self, queue: int) -> QueueKernels:
        """What `arrive` feeds."""
        return self.sources[queue].kernels

    def sink(self, queue: int) -> QueueKernels:
        """What `sent` empties."""
        return self.sinks[queue].kernels

    @property
    def carrier(self) -> bool:
        """Whether `set_peer` left a peer there."""
        return self._peer

    # -- the other side

    def arrive(self, packets: Iterable[bytes | Packet], queue: int = 0) -> None:
        """Let packets arrive for the application."""
        self.sources[queue].feed(packets)
        self.wake_rx(queue)

    def sent(self, queue: int = 0) -> list[Packet]:
        """Take what the application has sent, and make room for more."""
        found = self.sinks[queue].clear()
        self.wake_tx(queue)
        return found

    def set_peer(self, there: bool) -> None:
        """Let the peer go, or come back."""
        self._peer = there
        self.post(PortEvent(PortEventKind.PEER, value=int(there)))
        self.update_link()


class MemoryPortConfig(BackendConfig):
    """Keys of ``net_memory``."""

    queues: Annotated[int, Meta(ge=1, le=64, description="queues each way")] = 1


def _build(config: MemoryPortConfig, context: BackendContext) -> MemoryPort:
    return MemoryPort(context.name, context.loop, queues=config.queues)


#: The backend ``net_memory``, for `emudev_core.testing.builders.make_source`.
SPEC: Final = BackendSpec(
    name="net_memory",
    summary="A port in memory, for tests",
    config=MemoryPortConfig,
    build=_build,
    devices=(),
)
