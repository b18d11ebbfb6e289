"""``macswap``: each frame goes on with its two MAC addresses swapped.

Source: testpmd, macswap.c.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.packet_function import PacketFunction

from .head_edit import edit_heads
from .headers import swap_mac
from .parts import Part, StreamContext

__all__ = ["KERNELS", "edit", "parts"]


@inline
def _swap(state: int, head: int, size: int, flags: int) -> int:
    """Swap the addresses."""
    swap_mac(head)
    return 1


edit = edit_heads("macswap", _swap)


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (edit,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    return (Part(context.source(), context.sink(), PacketFunction(edit)),)
