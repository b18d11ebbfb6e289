"""``5tswap``: each frame goes on with source and destination swapped, on each layer.

MAC addresses, IPv4 or IPv6 addresses, UDP or TCP ports; it stops at the first layer that it does
not know. Swapping changes no checksum.

Deviation: what would be the ports of an IP fragment other than the first is left alone; testpmd
swaps those bytes of its payload.

Source: testpmd, 5tswap.c.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.packet_function import PacketFunction
from emudev_net.primitives import load8, load16be

from .head_edit import edit_heads
from .headers import (
    IPV4,
    IPV6,
    TCP,
    UDP,
    ethertype_at,
    ipv4_header,
    is_later_fragment,
    swap16_at,
    swap32_at,
    swap_mac,
)
from .parts import Part, StreamContext

__all__ = ["KERNELS", "edit", "parts"]


@inline
def _swap_ports(head: int, at: int, size: int, protocol: int) -> None:
    """Swap the ports of a UDP or TCP header."""
    if protocol in (UDP, TCP) and at + 4 <= size:
        swap16_at(head + at, head + at + 2)


@inline
def _swap_layers(head: int, size: int) -> None:
    """Swap what lies behind the MAC addresses."""
    at = ethertype_at(head, size)
    if at == 0:
        return
    kind = load16be(head + at)
    ip = at + 2
    if kind == IPV4:
        length = ipv4_header(head, ip, size)
        if length == 0:
            return
        swap32_at(head + ip + 12, head + ip + 16)
        if is_later_fragment(head + ip) == 0:
            _swap_ports(head, ip + length, size, load8(head + ip + 9))
    elif kind == IPV6 and ip + 40 <= size:
        for i in range(4):
            swap32_at(head + ip + 8 + 4 * i, head + ip + 24 + 4 * i)
        _swap_ports(head, ip + 40, size, load8(head + ip + 6))


@inline
def _swap(state: int, head: int, size: int, flags: int) -> int:
    """Swap on all layers that are there."""
    swap_mac(head)
    _swap_layers(head, size)
    return 1


edit = edit_heads("5tswap", _swap)


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (edit,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue."""
    return (Part(context.source(), context.sink(), PacketFunction(edit)),)
