"""``flowgen``: sends packets to many addresses in turn, and drops what it receives.

The destination address and the header checksum are written into each packet as it is shown; there
are as many packets in memory as a burst has. The packets are 4 bytes shorter than `Options.txpkts`
says, since testpmd counts an FCS here (and only here), and in one segment.

Source: testpmd, flowgen.c; the header fields as recorded from DPDK 22.11.
"""

from __future__ import annotations

import ctypes
from typing import Final

from emudev_core.queues import QueueKernels
from emudev_net.burst import ADDRESS, FIRST, FLAGS, LAST, LENGTH, ROW
from emudev_net.checksum import fold
from emudev_net.jit import queue_kernel
from emudev_net.primitives import Words, copy, load64, store16, store16be, store64, swap16

from .parts import Part, StreamContext
from .rxonly import DISCARD, take
from .txonly import udp_frame

__all__ = ["KERNELS", "FlowSource", "parts", "peek", "release"]

# Words of the source.
_TABLE: Final = 0  #: address of a row for each packet in memory
_PACKETS: Final = 8  #: how many
_NEXT: Final = 16  #: the flow of the packet that is shown first
_FLOWS: Final = 24
_GROUP: Final = 32  #: a packet and its clones
_SUM: Final = 40  #: of the IPv4 header without checksum and the low half of the destination

_MACS: Final = (bytes.fromhex("000102030401"), bytes.fromhex("000102030400"))
_SOURCE: Final = bytes((10, 254, 0, 0))
_DESTINATION: Final = bytes((10, 253, 0, 0))  #: the flow is added to it
_PORTS: Final = (1000, 1001)
_FCS: Final = 4
_SHORTEST: Final = 42
# Offsets in a frame.
_CHECKSUM: Final = 24
_LOW_HALF: Final = 32
#: Packets in memory at most: what workers look at in one go.
_MOST: Final = 128


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show the next packets; there is no end of them.

    A burst begins with a packet of its own; clones of it go to the same address, and the flow
    counts on nevertheless.
    """
    table = load64(state + _TABLE)
    flows = load64(state + _FLOWS)
    group = load64(state + _GROUP)
    total = load64(state + _SUM)
    packets = min(capacity, load64(state + _PACKETS))
    copy(burst, table, packets * ROW)
    flow = load64(state + _NEXT)
    shown = flow
    left = 0
    for i in range(packets):
        if left == 0:
            shown = flow
            left = group
        left -= 1
        frame = load64(burst + i * ROW + ADDRESS)
        store16be(frame + _LOW_HALF, shown)
        store16(frame + _CHECKSUM, ~fold(total + swap16(shown)) & 0xFFFF)
        flow += 1
        if flow >= flows:
            flow = 0
    return packets


@queue_kernel
def release(state: int, burst: int, rows: int) -> int:
    """Go on behind these."""
    flow = load64(state + _NEXT) + rows
    flows = load64(state + _FLOWS)
    store64(state + _NEXT, flow % flows)
    return 0


class FlowSource:
    """A source of packets to many addresses.

    Args:
        size: Bytes of a packet, at least 42.
        flows: Addresses.
        clones: Copies behind each packet.
        burst: Packets of a burst.

    Attributes:
        kernels: `peek` and `release`.
    """

    def __init__(self, size: int, flows: int, clones: int, burst: int) -> None:
        packets = min(burst, _MOST)
        frame = udp_frame(size, _MACS, (_SOURCE, _DESTINATION), _PORTS)
        self._memory = [ctypes.create_string_buffer(frame, size) for _ in range(packets)]
        self._table = Words(8 * packets)
        for i, memory in enumerate(self._memory):
            self._table[8 * i + ADDRESS // 8] = ctypes.addressof(memory)
            self._table[8 * i + LENGTH // 8] = size
            self._table[8 * i + FLAGS // 8] = FIRST | LAST
        header = frame[14:24] + b"\0\0" + frame[26:32]
        words = self._words = Words(8)
        words[_TABLE // 8] = self._table.address
        words[_PACKETS // 8] = packets
        words[_FLOWS // 8] = flows
        words[_GROUP // 8] = min(clones, burst) + 1
        words[_SUM // 8] = sum(
            int.from_bytes(header[i : i + 2], "little") for i in range(0, len(header), 2)
        )
        self.kernels = QueueKernels(words.address, peek, None, release, None)


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (peek, release, take)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to nowhere, and prepared packets to the transmit queue."""
    options = context.options
    size = max(sum(options.txpkts) - _FCS, _SHORTEST)
    made = FlowSource(size, options.flowgen_flows, options.flowgen_clones, options.burst)
    return (
        Part(context.source(), DISCARD, sends=False),
        Part(made.kernels, context.sink(), receives=False, kept=made),
    )
