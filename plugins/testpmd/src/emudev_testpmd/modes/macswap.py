"""``macswap``: each frame goes on with its two MAC addresses swapped.

Source: testpmd, macswap.c.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import packet_rows
from emudev_net.jit import queue_kernel
from emudev_net.packet_function import PacketFunction, copy_head, emit, head_size

from .headers import swap_mac
from .parts import Part, StreamContext

__all__ = ["KERNELS", "edit", "parts"]

_ETHERNET: Final = 14


@queue_kernel
def edit(state: int, burst: int, rows: int) -> int:
    """Swap the addresses; a frame that has none is dropped."""
    row = 0
    out = 0
    while row < rows:
        end = row + packet_rows(burst, row, rows)
        size = head_size(burst, row, end)
        if size >= _ETHERNET:
            head = copy_head(state, burst, row, end, size)
            swap_mac(head)
            out = emit(state, burst, row, end, out, head, size, size)
        row = end
    return out


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (edit,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    return (Part(context.source(), context.sink(), PacketFunction(edit)),)
