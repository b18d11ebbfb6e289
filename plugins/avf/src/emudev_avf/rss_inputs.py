"""Which fields of a frame its hash is made of, by packet type: from what a guest asked for.

Three things say it: the bit set of SET_RSS_HENA, rules of ADD_RSS_CFG, which go before it, and the
function of CONFIG_RSS_HFUNC. `rss_table` makes one table of them that a kernel looks a frame up in.

Source: avf.md sections 4.7 and 7.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from emudev_net.parse import (
    KIND_IPV4,
    KIND_IPV6,
    WHAT_FRAGMENT,
    WHAT_ICMP,
    WHAT_OTHER,
    WHAT_SCTP,
    WHAT_TCP,
    WHAT_UDP,
)

__all__ = ["ANY", "FIELDS", "PORTS", "RssField", "RssFunction", "rss_table"]


class RssField(enum.IntFlag):
    """What goes into a hash, and how: what words of the table hold beside two shorthands."""

    SRC = 4
    DST = 8
    SPORT = 16
    DPORT = 32
    SYMMETRIC = 64  #: pairs of source and destination are their exclusive or, twice
    XOR = 128  #: the exclusive or of all words, in place of Toeplitz


class RssFunction(enum.IntEnum):
    """Functions of CONFIG_RSS_HFUNC, and algorithms of ADD_RSS_CFG."""

    TOEPLITZ = 0
    XOR = 1
    TOEPLITZ_SYMMETRIC = 2
    XOR_SYMMETRIC = 3

    @property
    def how(self) -> RssField:
        """The bits of the table that stand for it."""
        bits = RssField(0)
        if self in (RssFunction.TOEPLITZ_SYMMETRIC, RssFunction.XOR_SYMMETRIC):
            bits |= RssField.SYMMETRIC
        if self in (RssFunction.XOR, RssFunction.XOR_SYMMETRIC):
            bits |= RssField.XOR
        return bits


#: Shorthands for what nearly all hashes are: Toeplitz of addresses and ports, or of addresses.
WHOLE: Final = 1
ADDRESSES: Final = 2
#: Words of the table: one for each `KIND_*` of the parser.
TABLE_WORDS: Final = 64
#: Beside a `KIND_IPV4` or `KIND_IPV6`, in place of a `WHAT_*`: a rule for whatever has no other.
ANY: Final = 15

PORTS: Final = RssField.SPORT | RssField.DPORT
FIELDS: Final = RssField.SRC | RssField.DST | PORTS
HOW: Final = RssField.SYMMETRIC | RssField.XOR
#: Types with ports.
WITH_PORTS: Final = (WHAT_TCP, WHAT_UDP, WHAT_SCTP)

#: Bits of the hash enable by type, for IPv4; those of a row are hashed alike.
HENA_IPV4: Final = {
    WHAT_UDP: 7 << 29,
    WHAT_TCP: 3 << 32,
    WHAT_SCTP: 1 << 34,
    WHAT_OTHER: 1 << 35,
    WHAT_ICMP: 1 << 35,
    WHAT_FRAGMENT: 1 << 36,
}
#: An IPv6 bit is the IPv4 bit of the same name, 10 further up.
HENA_IPV6_SHIFT: Final = 10


def rss_table(
    hena: int, rules: Mapping[int, int] | None = None, function: int = RssFunction.TOEPLITZ
) -> list[int]:
    """A word for each `KIND_*`: 0 (not hashed), `WHOLE`, `ADDRESSES`, or a set of `RssField`.

    Args:
        hena: Bit set of the packet types that are hashed over all their fields.
        rules: Sets of `RssField` by kind, or by kind with `ANY`; they go before `hena`.
        function: A `RssFunction` for all types.
    """
    how = RssFunction(function).how
    table = [0] * TABLE_WORDS
    for base, shift in ((KIND_IPV4, 0), (KIND_IPV6, HENA_IPV6_SHIFT)):
        for what, bits in HENA_IPV4.items():
            possible = FIELDS if what in WITH_PORTS else FIELDS & ~PORTS
            fields = RssField(0)
            for rule in (base + what, base + ANY):
                if rules and rule in rules:
                    fields = RssField(rules[rule] & int(possible | HOW))
                    break
            else:
                if hena & bits << shift:
                    fields = possible
            if fields & FIELDS:
                table[base + what] = _shorthand(fields | how)
    return table


def _shorthand(fields: RssField) -> int:
    """The word of a table for fields."""
    if fields == FIELDS:
        return WHOLE
    if fields == FIELDS & ~PORTS:
        return ADDRESSES
    return int(fields)
