"""``mac``: each frame goes to the peer of the port that sends it, from that port's own address.

Source: testpmd, macfwd.c.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import packet_rows
from emudev_net.jit import queue_kernel
from emudev_net.packet_function import OWN_WORDS, PacketFunction, copy_head, emit, head_size
from emudev_net.primitives import copy

from .parts import Part, StreamContext, pack_addresses

__all__ = ["KERNELS", "edit", "parts"]

# Own words: 12 bytes of addresses as they start a frame.
_ADDRESSES: Final = OWN_WORDS
_ETHERNET: Final = 14


@queue_kernel
def edit(state: int, burst: int, rows: int) -> int:
    """Set both addresses; a frame that has none is dropped."""
    row = 0
    out = 0
    while row < rows:
        end = row + packet_rows(burst, row, rows)
        size = head_size(burst, row, end)
        if size >= _ETHERNET:
            head = copy_head(state, burst, row, end, size)
            copy(head, state + _ADDRESSES, 12)
            out = emit(state, burst, row, end, out, head, size, size)
        row = end
    return out


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (edit,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    addresses = pack_addresses(context.peer, context.tx.mac)
    return (Part(context.source(), context.sink(), PacketFunction(edit, addresses)),)
