"""``mac``: each frame goes to the peer of the port that sends it, from that port's own address.

Source: testpmd, macfwd.c.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.packet_function import OWN_WORDS, PacketFunction
from emudev_net.primitives import copy

from .head_edit import edit_heads
from .parts import Part, StreamContext, pack_addresses

__all__ = ["KERNELS", "edit", "parts"]

# Own words: 12 bytes of addresses as they start a frame.
_ADDRESSES: Final = OWN_WORDS


@inline
def _address(state: int, head: int, size: int, flags: int) -> int:
    """Set both addresses."""
    copy(head, state + _ADDRESSES, 12)
    return 1


edit = edit_heads("mac", _address)


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (edit,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    addresses = pack_addresses(context.peer, context.tx.mac)
    return (Part(context.source(), context.sink(), PacketFunction(edit, addresses)),)
