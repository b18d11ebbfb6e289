"""Helpers of packet functions over the copied head of a frame.

`head` is the address of its first `size` bytes; a helper never looks behind them.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.primitives import copy, load8, load16, load16be, load32, store16, store32

__all__ = [
    "ARP",
    "ETHERNET",
    "ICMP",
    "IPV4",
    "IPV6",
    "SCTP",
    "TCP",
    "UDP",
    "ethertype_at",
    "ipv4_header",
    "is_later_fragment",
    "swap16_at",
    "swap32_at",
    "swap_mac",
]

ETHERNET: Final = 14  #: bytes of a header without tags

IPV4: Final = 0x0800
ARP: Final = 0x0806
IPV6: Final = 0x86DD
_VLAN: Final = 0x8100
_QINQ: Final = 0x88A8

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
SCTP: Final = 132

_TAGS: Final = 4  #: that are looked behind at most


@inline
def swap_mac(head: int) -> None:
    """Swap the addresses of a frame of at least 12 bytes."""
    high = load32(head)
    low = load16(head + 4)
    copy(head, head + 6, 6)
    store32(head + 6, high)
    store16(head + 10, low)


@inline
def swap32_at(a: int, b: int) -> None:
    """Swap the 4 bytes at two addresses."""
    kept = load32(a)
    store32(a, load32(b))
    store32(b, kept)


@inline
def swap16_at(a: int, b: int) -> None:
    """Swap the 2 bytes at two addresses."""
    kept = load16(a)
    store16(a, load16(b))
    store16(b, kept)


@inline
def ethertype_at(head: int, size: int) -> int:
    """Where the ethertype is, behind any tags; 0 if the frame ends before."""
    at = 12
    for _ in range(_TAGS):
        if at + 2 > size:
            return 0
        kind = load16be(head + at)
        if kind != _VLAN and kind != _QINQ:
            break
        at += 4
    return at if at + 2 <= size else 0


@inline
def ipv4_header(head: int, at: int, size: int) -> int:
    """Bytes of the IPv4 header at offset `at`; 0 if there is no whole one."""
    if at + 20 > size or load8(head + at) >> 4 != 4:
        return 0
    length = 4 * (load8(head + at) & 15)
    return length if length >= 20 and at + length <= size else 0


@inline
def is_later_fragment(header: int) -> int:
    """Whether an IPv4 header is that of a fragment that is not the first: 1 or 0."""
    return 1 if load16be(header + 6) & 0x1FFF else 0
