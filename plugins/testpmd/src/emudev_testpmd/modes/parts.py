"""What a mode makes: the parts of a stream; and what it makes them of."""

from __future__ import annotations

import struct

import attrs

from emudev_core.queues import QueueKernels
from emudev_net.packet_function import PacketFunction
from emudev_net.port import Port

from ..options import Options
from ..topology import Stream

__all__ = ["Part", "StreamContext", "pack_addresses"]


@attrs.frozen
class StreamContext:
    """What a stream joins.

    Attributes:
        stream: Numbers of ports and queues.
        options: The settings.
        rx: The port that it receives from, queues set up.
        tx: The port that it sends to, queues set up.
    """

    stream: Stream
    options: Options
    rx: Port
    tx: Port

    def source(self) -> QueueKernels:
        """The receive queue."""
        return self.rx.rx_queue(self.stream.rx_queue)

    def sink(self) -> QueueKernels:
        """The transmit queue."""
        return self.tx.tx_queue(self.stream.tx_queue)

    @property
    def peer(self) -> bytes:
        """The address that packets are sent to."""
        return self.options.peer(self.stream.tx_port)


@attrs.frozen(eq=False)
class Part:
    """One way of packets; a flow runs it.

    Attributes:
        source: Where they come from.
        sink: Where they go.
        edit: What becomes of them, if anything.
        receives: The source is the stream's receive queue.
        sends: The sink is the stream's transmit queue.
        packet_rows: Rows of each packet of a source that makes them; 1 for a queue.
        kept: What has to live as long as the kernels run, such as memory of packets.
        bad_ip: Word of `edit` that counts wrong IP checksums, or None.
        bad_l4: Word of `edit` that counts wrong checksums above IP, or None.
    """

    source: QueueKernels
    sink: QueueKernels
    edit: PacketFunction | None = None
    receives: bool = True
    sends: bool = True
    packet_rows: int = 1
    kept: object = None
    bad_ip: int | None = None
    bad_l4: int | None = None


def pack_addresses(destination: bytes, source: bytes) -> tuple[int, int]:
    """Two MAC addresses as they start a frame, in two words (of 16 bytes the last 4 are zero)."""
    first, second = struct.unpack("<2q", destination + source + bytes(4))
    return first, second
