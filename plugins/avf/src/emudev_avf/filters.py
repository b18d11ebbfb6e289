"""Which received frames are for this port: tables of MAC addresses and VLAN ids in words.

The control side builds a table and swaps its address into the port's words; a kernel that still
looks into the old one sees a whole table, too. The address table is an open hash with at most half
of its places taken, so that 300 multicast addresses cost a frame what one does.

Source: avf.md sections 4.5 (ADD_ETH_ADDR, CONFIG_PROMISCUOUS_MODE), 4.6 and 6.9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from emudev_net.jit import inline
from emudev_net.memory import signed
from emudev_net.primitives import Words, load64

from .words import P_MACS, P_PROMISCUOUS, P_VLANS

__all__ = ["accept_address", "accept_vlan", "mac_table", "outer_vlans", "vlan_table", "vlan_tables"]

BROADCAST: Final = 0xFFFF_FFFF_FFFF
EMPTY: Final = -1
# As CONFIG_PROMISCUOUS_MODE has them; avf.md 4.5.
PROMISCUOUS_UNICAST: Final = 1
PROMISCUOUS_MULTICAST: Final = 2

VLAN_WORDS: Final = 64  #: of a bit set of VLAN ids
#: Where the bit set of inner tags is; see `outer_vlans`.
INNER_VLANS: Final = 3 * 8 * VLAN_WORDS
ANY_VLAN: Final = -1

# The numbers of the UMBCAST field; avf.md 6.7.
CAST_UNICAST: Final = 0
CAST_MULTICAST: Final = 1
CAST_BROADCAST: Final = 2


@inline
def mac_hash(key: int) -> int:
    """A number of 30 bits that depends on all 48 of the address."""
    mixed = (key & 0xFF_FFFF) * 0x9E3B + (key >> 24) * 0x1C69_B3F
    return (mixed ^ mixed >> 17) & 0x3FFF_FFFF


def mac_table(addresses: Iterable[bytes]) -> Words:
    """Build the table of accepted addresses.

    Args:
        addresses: Of 6 bytes each.

    Returns:
        Word 0 is the mask of the hash, then the places: an address as a little-endian number, or
        `EMPTY`.
    """
    keys = sorted({int.from_bytes(address, "little") for address in addresses})
    size = 8
    while size < 2 * len(keys):
        size *= 2
    table = Words(1 + size)
    table[0] = size - 1
    for i in range(size):
        table[1 + i] = EMPTY
    for key in keys:
        place = mac_hash(key) & size - 1
        while table[1 + place] != EMPTY:
            place = place + 1 & size - 1
        table[1 + place] = key
    return table


def vlan_table(vids: Iterable[int]) -> Words:
    """Build the bit set of accepted VLAN ids (0 to 4095), 64 words; id 0 is always in it."""
    bits = 1
    for vid in vids:
        bits |= 1 << (vid & 0xFFF)
    table = Words(VLAN_WORDS)
    for i in range(VLAN_WORDS):
        table[i] = signed(bits >> 64 * i & 0xFFFF_FFFF_FFFF_FFFF)
    return table


def vlan_tables(*kinds: Iterable[int] | None) -> Words | None:
    """Build the bit sets of all kinds of tags, one behind the other.

    Args:
        kinds: The accepted ids of outer tags 0x8100, 0x88A8 and 0x9100, then of inner tags; None
            accepts all.

    Returns:
        None if everything is accepted.
    """
    if all(vids is None for vids in kinds):
        return None
    tables = Words(VLAN_WORDS * len(kinds))
    for i, vids in enumerate(kinds):
        for j, word in enumerate([-1] * VLAN_WORDS if vids is None else vlan_table(vids)):
            tables[VLAN_WORDS * i + j] = word
    return tables


@inline
def mac_known(table: int, key: int) -> int:
    """Whether an address is in the table at `table`; at most one look at each place."""
    mask = load64(table)
    place = mac_hash(key) & mask
    for _ in range(mask + 1):
        entry = load64(table + 8 + 8 * place)
        if entry == key:
            return 1
        if entry == EMPTY:
            return 0
        place = place + 1 & mask
    return 0


@inline
def accept_address(port: int, key: int) -> int:
    """What kind of address a frame goes to, if it is for this port.

    Args:
        port: Address of the port's words.
        key: Destination address, the 6 bytes read as a little-endian number.

    Returns:
        A `CAST_*`, or -1 if the frame is not for this port.
    """
    if key == BROADCAST:
        return CAST_BROADCAST
    promiscuous = load64(port + P_PROMISCUOUS)
    if key & 1:
        if promiscuous & PROMISCUOUS_MULTICAST or mac_known(load64(port + P_MACS), key):
            return CAST_MULTICAST
        return -1
    if promiscuous & PROMISCUOUS_UNICAST or mac_known(load64(port + P_MACS), key):
        return CAST_UNICAST
    return -1


@inline
def outer_vlans(tpid: int) -> int:
    """Where the bit set of a kind of outer tags is, bytes, or `ANY_VLAN` for another kind."""
    if tpid == 0x8100:
        return 0
    if tpid == 0x88A8:
        return 8 * VLAN_WORDS
    if tpid == 0x9100:
        return 16 * VLAN_WORDS
    return ANY_VLAN


@inline
def accept_vlan(port: int, kind: int, tci: int) -> int:
    """Whether a frame with this tag passes the VLAN filter; one without a tag always does.

    Args:
        port: Address of the port's words.
        kind: Of the tag: from `outer_vlans`, or `INNER_VLANS`.
        tci: The tag.
    """
    table = load64(port + P_VLANS)
    if table == 0 or kind < 0 or load64(port + P_PROMISCUOUS) & PROMISCUOUS_UNICAST:
        return 1
    vid = tci & 0xFFF
    return load64(table + kind + 8 * (vid >> 6)) >> (vid & 63) & 1
