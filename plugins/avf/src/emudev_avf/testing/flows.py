"""Patterns and rules of flows, frames to try them on, and where those frames go."""

from __future__ import annotations

import struct
from functools import partial
from typing import Final

from emudev_net.burst import FIRST, LAST, OUTER_VLAN_PRESENT, VLAN_PRESENT, Packet, vlan_word

from ..flow_patterns import build_match
from ..flow_rules import Action, Fate, FlowRule, Match, RuleKind
from ..virtchnl.proto_hdrs import HeaderType, ProtoHeader, ProtoHeaders
from . import frames
from .frames import MAC, OTHER, ether
from .ports import Guest

__all__ = [
    "HENA",
    "IP1",
    "IP2",
    "KEY",
    "MAC",
    "OTHER",
    "V6A",
    "V6B",
    "ether",
    "head",
    "hits",
    "ipv4",
    "ipv6",
    "masked",
    "match",
    "queue_of",
    "rule",
    "tagged",
    "tcp",
    "tcp4",
    "udp",
]

IP1: Final = bytes([192, 168, 76, 1])
IP2: Final = bytes([192, 168, 76, 2])
V6A: Final = bytes.fromhex("20010db8000000000000000000000001")
V6B: Final = bytes.fromhex("20010db8000000000000000000000002")
#: Of a hash that is on.
KEY: Final = bytes(range(1, 53))
HENA: Final = 0x80007E1F_80000000

#: Packets of `frames` between these addresses; those of IPv4 have the identification 7.
ipv4 = partial(frames.ipv4, source=IP1, target=IP2, ident=7)
ipv6 = partial(frames.ipv6, source=V6A, target=V6B)


def tcp(sport: int = 1000, dport: int = 7001) -> bytes:
    """A segment of 8 bytes, without a checksum."""
    return struct.pack(">HHIIBBHHH", sport, dport, 1, 2, 0x50, 0x10, 512, 0, 0) + bytes(8)


def udp(payload: bytes = bytes(8), sport: int = 1000, dport: int = 7001) -> bytes:
    """A datagram, without a checksum."""
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def tagged(frame: bytes, tci: int, tpid: int = 0x8100, outer: int | None = None) -> Packet:
    """A frame whose tags travel beside it."""
    flags = VLAN_PRESENT | (OUTER_VLAN_PRESENT if outer is not None else 0)
    return Packet(frame, FIRST | LAST | flags, vlan=vlan_word(tci, tpid, 0, outer or 0))


def head(kind: int, selector: int = 0, spec: bytes = b"") -> ProtoHeader:
    """A header of a pattern whose selected fields count."""
    return ProtoHeader(kind, selector, spec.ljust(64, b"\0"))


def masked(kind: int, spec: bytes = b"", mask: bytes = b"") -> ProtoHeader:
    """A header of a pattern whose masked bits count."""
    return ProtoHeader(kind, 0, spec.ljust(64, b"\0"), mask.ljust(64, b"\0"))


def match(*headers: ProtoHeader) -> Match:
    """What frames a pattern of headers means."""
    return build_match(ProtoHeaders(0, headers))


def rule(
    found: Match,
    action: Action | None = None,
    number: int = 1,
    priority: int = 0,
    kind: RuleKind = RuleKind.FDIR,
) -> FlowRule:
    """A rule; without an action it sends frames to queue 1."""
    return FlowRule(number, kind, priority, found, action or Action(Fate.QUEUE, 1))


def tcp4(dport: int = 7001) -> Match:
    """TCP over IPv4 to a port."""
    header = head(HeaderType.TCP, 2, struct.pack(">HH", 0, dport))
    return match(head(HeaderType.IPV4), header)


def queue_of(guest: Guest, *frames: bytes | Packet) -> list[int | None]:
    """The queue of each frame, of the first four, None for one that did not come."""
    found: list[int | None] = []
    for frame in frames:
        assert guest.deliver(frame) == 1
        got = [pair for pair in range(4) for _ in guest.received(pair)]
        assert len(got) <= 1
        found.append(got[0] if got else None)
    return found


def hits(guest: Guest, found: Match, *frames: bytes | Packet) -> list[bool]:
    """For each frame whether the match holds, told by the queue."""
    guest.port.set_rules([rule(found, Action(Fate.QUEUE, 3))])
    return [queue == 3 for queue in queue_of(guest, *frames)]
