"""Packet types of the receive descriptor, from the parser's kinds.

Source: avf.md section 6.10.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.parse import (
    KIND_ARP,
    KIND_EAPOL,
    KIND_IPV4,
    KIND_IPV6,
    KIND_L2,
    KIND_LLDP,
    KIND_TIMESYNC,
    WHAT_FRAGMENT,
    WHAT_ICMP,
    WHAT_SCTP,
    WHAT_TCP,
    WHAT_UDP,
)

__all__ = ["ptype"]

PTYPE_UNKNOWN: Final = 0
PTYPE_L2: Final = 1
PTYPE_TIMESYNC: Final = 2
PTYPE_LLDP: Final = 6
PTYPE_EAPOL: Final = 10
PTYPE_ARP: Final = 11
#: Of IP, the first one: fragment; then other, UDP, (one unused), TCP, SCTP, ICMP.
PTYPE_IPV4: Final = 22
PTYPE_IPV6: Final = 88


@inline
def ptype(kind: int) -> int:
    """The packet type of a `KIND_*`; a VLAN tag does not change it."""
    if kind >= KIND_IPV4:
        base = PTYPE_IPV6 if kind >= KIND_IPV6 else PTYPE_IPV4
        what = kind & 0xF
        if what == WHAT_FRAGMENT:
            return base
        if what == WHAT_UDP:
            return base + 2
        if what == WHAT_TCP:
            return base + 4
        if what == WHAT_SCTP:
            return base + 5
        if what == WHAT_ICMP:
            return base + 6
        return base + 1
    if kind == KIND_L2:
        return PTYPE_L2
    if kind == KIND_ARP:
        return PTYPE_ARP
    if kind == KIND_LLDP:
        return PTYPE_LLDP
    if kind == KIND_TIMESYNC:
        return PTYPE_TIMESYNC
    if kind == KIND_EAPOL:
        return PTYPE_EAPOL
    return PTYPE_UNKNOWN
