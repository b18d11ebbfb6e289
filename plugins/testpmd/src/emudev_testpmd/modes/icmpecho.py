"""``icmpecho``: answers ARP requests and pings (IPv4), and drops everything else.

- An ARP request for any address gets the port's own as the answer.
- An ICMP echo request, to whatever address, becomes a reply: addresses swapped on both layers; a
  request to a group is answered from the sender's neighbour address (the last two bits 1, or 2 if
  they were 1), since a group sends nothing.

One VLAN tag is looked behind.

Deviation: an IP fragment other than the first is dropped, whatever its payload looks like.

Source: testpmd, icmpecho.c; RFC 792, 826; RFC 1624 for the checksums.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import CSUM_WANTED
from emudev_net.checksum import fold, ipv4_header_sum
from emudev_net.jit import inline
from emudev_net.packet_function import OWN_WORDS, PacketFunction
from emudev_net.primitives import (
    copy,
    load8,
    load16,
    load16be,
    load32,
    load32be,
    store8,
    store16,
    store16be,
    store32,
    store32be,
)

from .head_edit import edit_heads
from .headers import ARP, ETHERNET, ICMP, IPV4, ipv4_header, is_later_fragment, swap32_at, swap_mac
from .parts import Part, StreamContext, pack_addresses

__all__ = ["KERNELS", "edit", "parts"]

# Own words: the port's address, 6 bytes.
_MAC: Final = OWN_WORDS
_VLAN: Final = 0x8100
_ECHO_REQUEST: Final = 8


@inline
def _answer_arp(head: int, at: int, size: int, mac: int) -> int:
    """Make a reply of an ARP request; 0 if it is none."""
    arp = head + at
    if at + 28 > size or load16be(arp) != 1 or load16be(arp + 2) != IPV4:
        return 0
    if load16be(arp + 4) != 0x0604 or load16be(arp + 6) != 1:
        return 0
    copy(head, head + 6, 6)
    copy(head + 6, mac, 6)
    store16be(arp + 6, 2)
    copy(arp + 18, arp + 8, 6)
    copy(arp + 8, mac, 6)
    swap32_at(arp + 14, arp + 24)
    return 1


@inline
def _answer_echo(head: int, at: int, size: int, flags: int) -> int:
    """Make a reply of an ICMP echo request; 0 if it is none."""
    ip = head + at
    length = ipv4_header(head, at, size)
    if length == 0 or at + length + 8 > size or load8(ip + 9) != ICMP or is_later_fragment(ip):
        return 0
    icmp = ip + length
    if load8(icmp) != _ECHO_REQUEST or load8(icmp + 1) != 0:
        return 0
    swap_mac(head)
    if load8(ip + 16) & 0xF0 == 0xE0:
        asker = load32be(ip + 12)
        near = 2 if asker & 3 == 1 else 1
        store32(ip + 16, load32(ip + 12))
        store32be(ip + 12, asker & ~3 | near)
        store16(ip + 10, ipv4_header_sum(ip, length))
    else:
        swap32_at(ip + 12, ip + 16)
    store8(icmp, 0)
    # A checksum that is still to be completed does not cover the type yet.
    if flags & CSUM_WANTED == 0:
        total = (~load16(icmp + 2) & 0xFFFF) + (~_ECHO_REQUEST & 0xFFFF)
        store16(icmp + 2, ~fold(total) & 0xFFFF)
    return 1


@inline
def _answer(state: int, head: int, size: int, flags: int) -> int:
    """Make the answer to a frame in place; 0 if it gets none."""
    at = ETHERNET
    kind = load16be(head + 12)
    if kind == _VLAN and size >= 18:
        kind = load16be(head + 16)
        at = 18
    if kind == ARP:
        return _answer_arp(head, at, size, state + _MAC)
    if kind == IPV4:
        return _answer_echo(head, at, size, flags)
    return 0


edit = edit_heads("icmpecho", _answer)


#: The kernels of this mode, for `compile_all`.
KERNELS: Final = (edit,)


def parts(context: StreamContext) -> tuple[Part, ...]:
    """Receive queue to transmit queue of the same port."""
    own = pack_addresses(context.tx.mac, bytes(6))
    return (Part(context.source(), context.sink(), PacketFunction(edit, own)),)
