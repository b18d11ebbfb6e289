"""What a frame is: the parser that hashing, packet types and checksums share.

Looks at the first bytes of a frame in one piece (`checksum.gather` brings them together) and trusts
no length in them. Source: RFC 791, 8200, 9260; IEEE 802.1Q.
"""

from __future__ import annotations

from typing import Final

from .jit import inline
from .primitives import load8, load16be, store64

__all__ = [
    "HEADERS",
    "KIND_ARP",
    "KIND_EAPOL",
    "KIND_IPV4",
    "KIND_IPV6",
    "KIND_L2",
    "KIND_LLDP",
    "KIND_TIMESYNC",
    "KIND_UNKNOWN",
    "OUT_FRAGMENT",
    "OUT_KIND",
    "OUT_L3",
    "OUT_L4",
    "OUT_PROTOCOL",
    "OUT_TAGS",
    "OUT_WORDS",
    "WHAT_FRAGMENT",
    "WHAT_ICMP",
    "WHAT_OTHER",
    "WHAT_SCTP",
    "WHAT_TCP",
    "WHAT_UDP",
    "parse",
]

#: Bytes of a frame that are worth gathering for the parser.
HEADERS: Final = 256

# Kinds; for IP a base plus what is in it.
KIND_UNKNOWN: Final = 0  #: too short, or not what its ethertype says
KIND_L2: Final = 1
KIND_ARP: Final = 2
KIND_LLDP: Final = 3
KIND_TIMESYNC: Final = 4
KIND_EAPOL: Final = 5
KIND_IPV4: Final = 16
KIND_IPV6: Final = 32
WHAT_OTHER: Final = 0
WHAT_FRAGMENT: Final = 1
WHAT_TCP: Final = 2
WHAT_UDP: Final = 3
WHAT_SCTP: Final = 4
WHAT_ICMP: Final = 5

# Words of the result.
OUT_KIND: Final = 0
OUT_L3: Final = 1  #: offset of the IP header, 0 if there is none
OUT_L4: Final = 2  #: offset of the transport header, 0 if there is none or it is a fragment
OUT_PROTOCOL: Final = 3  #: IP protocol number
OUT_TAGS: Final = 4  #: VLAN tags in the frame
OUT_FRAGMENT: Final = 5  #: 1 for any fragment of a datagram
OUT_WORDS: Final = 8


@inline
def _transport(protocol: int, v6: int) -> int:
    if protocol == 6:
        return WHAT_TCP
    if protocol == 17:
        return WHAT_UDP
    if protocol == 132:
        return WHAT_SCTP
    if protocol == (58 if v6 else 1):
        return WHAT_ICMP
    return WHAT_OTHER


@inline
def _needed(what: int) -> int:
    """Bytes of transport header that have to be there."""
    if what == WHAT_TCP:
        return 20
    if what == WHAT_SCTP:
        return 12
    if what == WHAT_OTHER:
        return 0
    return 8


@inline
def parse(address: int, size: int, out: int) -> int:
    """Look at a frame.

    Args:
        address: Of its first byte.
        size: Bytes that may be looked at.
        out: Address of `OUT_WORDS` words for the result.

    Returns:
        The kind, also in the result.
    """
    for i in range(OUT_WORDS):
        store64(out + 8 * i, 0)
    if size < 14:
        return KIND_UNKNOWN
    at = 12
    kind = load16be(address + at)
    tags = 0
    while (kind == 0x8100 or kind == 0x88A8 or kind == 0x9100) and tags < 2:
        at += 4
        tags += 1
        if at + 2 > size:
            return KIND_UNKNOWN
        kind = load16be(address + at)
    store64(out + 8 * OUT_TAGS, tags)
    l3 = at + 2
    found = KIND_L2
    if kind == 0x0800:
        found = _parse_ipv4(address, size, l3, out)
    elif kind == 0x86DD:
        found = _parse_ipv6(address, size, l3, out)
    elif kind == 0x0806:
        found = KIND_ARP
    elif kind == 0x88CC:
        found = KIND_LLDP
    elif kind == 0x88F7:
        found = KIND_TIMESYNC
    elif kind == 0x888E:
        found = KIND_EAPOL
    store64(out + 8 * OUT_KIND, found)
    return found


@inline
def _parse_ipv4(address: int, size: int, l3: int, out: int) -> int:
    if l3 + 20 > size:
        return KIND_UNKNOWN
    first = load8(address + l3)
    header = (first & 0xF) * 4
    if first >> 4 != 4 or header < 20 or l3 + header > size:
        return KIND_UNKNOWN
    store64(out + 8 * OUT_L3, l3)
    protocol = load8(address + l3 + 9)
    store64(out + 8 * OUT_PROTOCOL, protocol)
    if load16be(address + l3 + 6) & 0x3FFF != 0:  # more fragments, or an offset
        store64(out + 8 * OUT_FRAGMENT, 1)
        return KIND_IPV4 + WHAT_FRAGMENT
    what = _transport(protocol, 0)
    if l3 + header + _needed(what) > size:
        return KIND_IPV4 + WHAT_OTHER
    store64(out + 8 * OUT_L4, l3 + header)
    return KIND_IPV4 + what


@inline
def _parse_ipv6(address: int, size: int, l3: int, out: int) -> int:
    if l3 + 40 > size or load8(address + l3) >> 4 != 6:
        return KIND_UNKNOWN
    store64(out + 8 * OUT_L3, l3)
    protocol = load8(address + l3 + 6)
    at = l3 + 40
    for _ in range(8):  # extension headers; more than eight are nobody's honest frame
        if protocol == 44:
            store64(out + 8 * OUT_PROTOCOL, protocol)
            store64(out + 8 * OUT_FRAGMENT, 1)
            return KIND_IPV6 + WHAT_FRAGMENT
        if protocol != 0 and protocol != 43 and protocol != 60 and protocol != 51:
            break
        if at + 8 > size:
            return KIND_IPV6 + WHAT_OTHER
        length = load8(address + at + 1)
        length = (length + 2) * 4 if protocol == 51 else (length + 1) * 8
        protocol = load8(address + at)
        at += length
    store64(out + 8 * OUT_PROTOCOL, protocol)
    what = _transport(protocol, 1)
    if at + _needed(what) > size:
        return KIND_IPV6 + WHAT_OTHER
    store64(out + 8 * OUT_L4, at)
    return KIND_IPV6 + what
