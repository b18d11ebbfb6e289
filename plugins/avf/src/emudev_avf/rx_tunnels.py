"""Kernel parts of receive that know tunnels: what a packet that carries another one is.

VXLAN and GENEVE on their own UDP ports, GRE, and IP in IP. Packet types say what is inside; the
hash and flow rules look at the outer headers only. A driver that reads such a type takes "checked"
to be about two checksums, whatever they are (Linux, but for IP in IP): that of the outer UDP header
and the one inside are verified both. With GRE the first may be GRE's own, or the second one that a
datagram inside carries in turn: these are left to the guest.

Source: avf.md 6.10; the types of tunnels as in Linux' table of packet types, which is that of the
hardware; RFC 2784, 2890, 7348, 8926.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import CRC32C_WANTED, CSUM_BAD, CSUM_GOOD, CSUM_WANTED, csum_start
from emudev_net.checksum import fold, pseudo_header_sum, sum16
from emudev_net.jit import inline
from emudev_net.parse import (
    KIND_IPV4,
    KIND_IPV6,
    OUT_KIND,
    OUT_L3,
    OUT_L4,
    OUT_PROTOCOL,
    OUT_TAGS,
    WHAT_OTHER,
    WHAT_UDP,
    parse,
)
from emudev_net.primitives import copy, load8, load16be, load64, store16be, store64

from .descriptors import RX_ERR_EIPE, RX_L3L4P
from .ptypes import PTYPE_IPV4, PTYPE_IPV6, ptype
from .rx_checksums import checksum_status, sum_range
from .rx_pieces import (
    F_HEADER_COPY,
    F_INNER,
    F_INNER_AT,
    F_LINEAR,
    F_PARSED,
    F_TOTAL,
    HEADER_BYTES,
)

__all__ = ["is_tunnel", "packet_type", "tunnel_status"]

VXLAN: Final = 4789
GENEVE: Final = 6081
IPPROTO_IPV4: Final = 4
IPPROTO_IPV6: Final = 41
IPPROTO_UDP: Final = 17
IPPROTO_GRE: Final = 47
GRE_CHECKSUM: Final = 0x8000
ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_IPV6: Final = 0x86DD
ETHERTYPE_BRIDGED: Final = 0x6558  #: an Ethernet frame inside
ETHERNET: Final = 14

#: Inside IPv4: IP in IP; the same in GRE or UDP; Ethernet there; and with a VLAN tag. Each begins
#: with 7 types of IPv4 and 7 of IPv6; all but the first have one in front for anything else.
PTYPE_IP_IP: Final = 29
PTYPE_GRENAT: Final = 43
PTYPE_GRENAT_MAC: Final = 58
PTYPE_GRENAT_MAC_VLAN: Final = 73
PTYPES_OF_IP: Final = 7
#: What a type is larger by if the outer header is IPv6.
OUTER_IPV6: Final = 66


@inline
def is_tunnel(number: int) -> int:
    """Whether a packet type is that of a tunnel."""
    return number >= PTYPE_IP_IP and (number < PTYPE_IPV6 or number >= PTYPE_IPV6 + PTYPES_OF_IP)


@inline
def of_ip(kind: int, base: int) -> int:
    """The type of IP inside, if `base` is that of a fragment of IPv4."""
    if kind >= KIND_IPV6:
        return base + PTYPES_OF_IP + ptype(kind) - PTYPE_IPV6
    return base + ptype(kind) - PTYPE_IPV4


@inline
def inside_ip(frame: int, at: int, size: int, ethertype: int, base: int) -> int:
    """The type of a packet with IP at `at`, or 0 if it is none."""
    room = frame + F_LINEAR
    size = min(size, HEADER_BYTES - ETHERNET)
    store64(frame + F_INNER_AT, at - frame - F_HEADER_COPY - ETHERNET)
    store16be(room + ETHERNET - 2, ethertype)
    copy(room + ETHERNET, at, size)
    kind = parse(room, ETHERNET + size, frame + F_INNER)
    if kind < KIND_IPV4:
        return 0
    return of_ip(kind, base)


@inline
def inside_ethernet(frame: int, at: int, size: int) -> int:
    """The type of a packet with an Ethernet frame at `at`, in GRE or UDP; 0 if it is none."""
    if size < ETHERNET:
        return 0
    store64(frame + F_INNER_AT, at - frame - F_HEADER_COPY)
    kind = parse(at, size, frame + F_INNER)
    base = PTYPE_GRENAT_MAC
    if load64(frame + F_INNER + 8 * OUT_TAGS) != 0:
        base = PTYPE_GRENAT_MAC_VLAN
    if kind < KIND_IPV4:
        return base
    return of_ip(kind, base + 1)


@inline
def inside(frame: int, at: int, size: int, ethertype: int) -> int:
    """The type of a packet with a payload of this ethertype at `at`, in GRE or UDP, or 0."""
    if ethertype == ETHERTYPE_BRIDGED:
        return inside_ethernet(frame, at, size)
    if ethertype == ETHERTYPE_IPV4 or ethertype == ETHERTYPE_IPV6:  # noqa: SIM109  # a kernel
        return inside_ip(frame, at, size, ethertype, PTYPE_GRENAT + 1)
    return 0


@inline
def tunnel_type(frame: int, kind: int) -> int:
    """The type of a packet over IPv4 that may be a tunnel, or 0 if it is not."""
    header = frame + F_HEADER_COPY
    l4 = load64(frame + F_PARSED + 8 * OUT_L4)
    limit = min(load64(frame + F_TOTAL), HEADER_BYTES)
    at = header + l4
    size = limit - l4
    if kind & 0xF == WHAT_UDP:
        port = load16be(at + 2)
        if (port != VXLAN and port != GENEVE) or size < 16:
            return 0
        if port == VXLAN:
            if load8(at + 8) & 8 == 0:  # no network identifier
                return 0
            return inside_ethernet(frame, at + 16, size - 16)
        options = 4 * (load8(at + 8) & 0x3F)
        if load8(at + 8) >> 6 != 0 or size < 16 + options:
            return 0
        return inside(frame, at + 16 + options, size - 16 - options, load16be(at + 10))
    protocol = load64(frame + F_PARSED + 8 * OUT_PROTOCOL)
    if l4 == 0:
        return 0
    if protocol == IPPROTO_IPV4:
        return inside_ip(frame, at, size, ETHERTYPE_IPV4, PTYPE_IP_IP)
    if protocol == IPPROTO_IPV6:
        return inside_ip(frame, at, size, ETHERTYPE_IPV6, PTYPE_IP_IP)
    if protocol == IPPROTO_GRE and size >= 4:
        bits = load16be(at)
        # Checksum, key and sequence number; routing and other versions are something else.
        length = 4 + 4 * ((bits >> 15) + (bits >> 13 & 1) + (bits >> 12 & 1))
        if bits & 0x4007 == 0 and size >= length:
            return inside(frame, at + length, size - length, load16be(at + 2))
    return 0


@inline
def packet_type(frame: int) -> int:
    """The type of a parsed frame, as the descriptor has it; avf.md 6.10."""
    kind = load64(frame + F_PARSED + 8 * OUT_KIND)
    if kind >= KIND_IPV4:
        what = kind & 0xF
        if what == WHAT_UDP or what == WHAT_OTHER:  # noqa: SIM109  # a kernel
            found = tunnel_type(frame, kind)
            if found != 0:
                return found + OUTER_IPV6 if kind >= KIND_IPV6 else found
    return ptype(kind)


@inline
def outer_is_good(frame: int, burst: int, row: int, end: int, flags: int, completed: int) -> int:
    """Whether what a tunnel has between its IP headers leaves only the inner checksum open.

    Args:
        frame: Address of the frame's record.
        burst: Address of the burst.
        row: First row of the frame.
        end: Where its outer packet ends.
        flags: Its flags word.
        completed: 1 if this host completes that checksum.
    """
    parsed = frame + F_PARSED
    header = frame + F_HEADER_COPY
    kind = load64(parsed + 8 * OUT_KIND)
    l4 = load64(parsed + 8 * OUT_L4)
    if kind & 0xF != WHAT_UDP:
        if load64(parsed + 8 * OUT_PROTOCOL) != IPPROTO_GRE:
            return 1
        datagram = load64(frame + F_INNER + 8 * OUT_KIND) & 0xF == WHAT_UDP
        return not (datagram or load16be(header + l4) & GRE_CHECKSUM)
    if load16be(header + l4 + 6) == 0 or flags & CSUM_GOOD or completed:
        return 1
    version = 6 if kind >= KIND_IPV6 else 4
    l3 = load64(parsed + 8 * OUT_L3)
    seed = pseudo_header_sum(header + l3, version, IPPROTO_UDP, end - l4)
    return fold(seed + sum_range(burst, row, l4, end - l4)) == 0xFFFF


@inline
def tunnel_status(port: int, frame: int, burst: int, row: int, flags: int, offload: int) -> int:
    """What the write-back of a tunnel says of its checksums.

    Args:
        port: Address of the port's words.
        frame: Address of the frame's record.
        burst: Address of the burst.
        row: First row of the frame.
        flags: Its flags word.
        offload: Its offload word.

    Returns:
        `RX_L3L4P` and error bits, or 0 if the guest has to check itself.
    """
    parsed = frame + F_PARSED
    l3 = load64(parsed + 8 * OUT_L3)
    l4 = load64(parsed + 8 * OUT_L4)
    header = frame + F_HEADER_COPY
    wanted = flags & (CSUM_WANTED | CRC32C_WANTED)
    if wanted and csum_start(offload) > l4:
        return RX_L3L4P
    if load64(parsed + 8 * OUT_KIND) >= KIND_IPV6:
        end = l3 + 40 + load16be(header + l3 + 4)
    else:
        end = l3 + load16be(header + l3 + 2)
        if fold(sum16(header + l3, (load8(header + l3) & 0xF) << 2)) != 0xFFFF:
            return RX_L3L4P | RX_ERR_EIPE
    if flags & CSUM_BAD or l4 + 8 > end or end > load64(frame + F_TOTAL):
        return 0
    if not outer_is_good(frame, burst, row, end, flags, wanted):
        return 0
    at = load64(frame + F_INNER_AT)
    return checksum_status(port, header, frame + F_INNER, at, burst, row, end, 0)
