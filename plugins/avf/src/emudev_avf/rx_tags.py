"""Kernel parts of receive that are about the filter and VLAN tags: what of a frame is delivered.

Tags travel beside a frame (the burst's flags and VLAN word), in it, or both; seen together, those
beside come first. The first one is the outer tag, also where it is the only one, the second is the
inner tag. Each is taken out if its stripping is on, and otherwise delivered in the frame.

Source: avf.md sections 4.6 and 6.9.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import FLAGS, OUTER_VLAN_PRESENT, ROW, VLAN, VLAN_PRESENT
from emudev_net.jit import inline
from emudev_net.parse import OUT_TAGS
from emudev_net.primitives import (
    load16,
    load16be,
    load32,
    load64,
    shift_right64,
    store16be,
    store64,
)

from .descriptors import (
    RX_CRCP,
    RX_EXT_L2TAG2P,
    RX_L2TAG1_SHIFT,
    RX_L2TAG1P,
    RX_L2TAG2_2_SHIFT,
    RX_UMBCAST_SHIFT,
)
from .filters import INNER_VLANS, accept_address, accept_vlan, outer_vlans
from .rx_pieces import (
    F_ACCEPT,
    F_CAST,
    F_HEADER_COPY,
    F_LENGTH,
    F_PARSED,
    F_PIECES,
    F_QWORD0,
    F_QWORD1,
    F_QWORD2,
    F_QWORD3,
    F_SHIFT,
    F_TAGS,
    F_TCIS,
    F_TOTAL,
    F_ZERO,
    add_own_piece,
    add_pieces,
)
from .words import P_STRIP, P_STRIP_INNER, P_STRIP_TPID

__all__ = ["arrange"]

WIRE_FRAME: Final = 60  #: shorter frames are padded to this
TPID_VLAN: Final = 0x8100
TPID_OUTER: Final = 0x88A8
ADDRESSES: Final = 12  #: bytes in front of the first tag
TAG: Final = 4
STRIP_L2TAG1: Final = 1  #: `TagPlace.L2TAG1`

# What `arrange` answers.
REFUSED: Final = 0  #: its address is not one of ours
REFUSED_VLAN: Final = 1  #: its VLAN is not one of ours
ARRANGED: Final = 2


@inline
def take_tag(frame: int, place: int, tci: int) -> None:
    """Show a tag in the descriptor instead of in the frame."""
    if place == STRIP_L2TAG1:
        store64(frame + F_QWORD0, tci << RX_L2TAG1_SHIFT)
        store64(frame + F_QWORD1, load64(frame + F_QWORD1) | RX_L2TAG1P)
    else:
        store64(frame + F_QWORD2, RX_EXT_L2TAG2P | tci << RX_L2TAG2_2_SHIFT)


@inline
def arrange_tags(port: int, frame: int, burst: int, row: int, accepted: int) -> int:
    """Deal with the tags of a frame that has some; its pieces are listed.

    Returns:
        1, or 0 if the frame is of a VLAN that is not received.
    """
    header = frame + F_HEADER_COPY
    total = load64(frame + F_TOTAL)
    flags = load64(burst + row * ROW + FLAGS)
    tags = load64(burst + row * ROW + VLAN)
    inside = load64(frame + F_PARSED + 8 * OUT_TAGS)
    beside = 0
    # The first two of all tags, in order.
    tpid0 = 0
    tci0 = 0
    tpid1 = 0
    tci1 = 0
    if flags & VLAN_PRESENT:
        beside = 1
        tci0 = tags & 0xFFFF
        tpid0 = tags >> 16 & 0xFFFF
        if tpid0 == 0:
            tpid0 = TPID_VLAN
        if flags & OUTER_VLAN_PRESENT:
            beside = 2
            tpid1 = tpid0
            tci1 = tci0
            tpid0 = TPID_OUTER
            tci0 = shift_right64(tags, 48)
        elif inside > 0:
            tpid1 = load16be(header + ADDRESSES)
            tci1 = load16be(header + ADDRESSES + 2)
    else:
        tpid0 = load16be(header + ADDRESSES)
        tci0 = load16be(header + ADDRESSES + 2)
        if inside > 1:
            tpid1 = load16be(header + ADDRESSES + TAG)
            tci1 = load16be(header + ADDRESSES + TAG + 2)
    count = beside + inside
    store64(frame + F_TCIS, count | tpid0 << 16 | tci0 << 32 | tci1 << 48)
    if accepted == 0:
        if accept_vlan(port, outer_vlans(tpid0), tci0) == 0:
            return 0
        if tpid1 == TPID_VLAN and accept_vlan(port, INNER_VLANS, tci1) == 0:
            return 0
    strip0 = load64(port + P_STRIP) if tpid0 == load64(port + P_STRIP_TPID) else 0
    strip1 = load64(port + P_STRIP_INNER) if tpid1 == TPID_VLAN else 0
    if strip0:
        take_tag(frame, strip0, tci0)
    if strip1:
        take_tag(frame, strip1, tci1)
    add_pieces(frame, burst, row, 0, ADDRESSES)
    at = frame + F_TAGS
    own = 0
    if beside > 0 and strip0 == 0:
        store16be(at, tpid0)
        store16be(at + 2, tci0)
        own = TAG
    if beside > 1 and strip1 == 0:
        store16be(at + own, tpid1)
        store16be(at + own + 2, tci1)
        own += TAG
    if own:
        add_own_piece(frame, at, own)
    shift = own
    offset = ADDRESSES
    # Tags inside that are taken out: the first two places behind the addresses at most.
    if beside == 0 and strip0:
        offset += TAG
        shift -= TAG
    if beside < 2 and strip1:
        if beside == 0 and strip0 == 0:
            add_pieces(frame, burst, row, offset, TAG)
            offset += TAG
        offset += TAG
        shift -= TAG
    add_pieces(frame, burst, row, offset, total - offset)
    store64(frame + F_SHIFT, shift)
    return 1


@inline
def arrange(port: int, frame: int, burst: int, row: int, kept: int) -> int:
    """Filter a frame, and list the pieces of what is delivered of it: tags moved, padded.

    Args:
        port: Address of the port's words.
        frame: Address of the record.
        burst: Address of the burst.
        row: First row of the frame.
        kept: Bytes of frame check sequence to append, 0 or 4.

    Returns:
        `ARRANGED`, or why it is not for this port.
    """
    header = frame + F_HEADER_COPY
    total = load64(frame + F_TOTAL)
    accepted = load64(frame + F_ACCEPT)
    cast = accept_address(port, load32(header) | load16(header + 4) << 32)
    if cast < 0:
        if accepted == 0:
            return REFUSED
        cast = load16(header) & 1  # `CAST_UNICAST` or `CAST_MULTICAST`
    qword1 = cast << RX_UMBCAST_SHIFT
    if kept:
        qword1 |= RX_CRCP
    store64(frame + F_CAST, cast)
    store64(frame + F_QWORD0, 0)
    store64(frame + F_QWORD1, qword1)
    store64(frame + F_QWORD2, 0)
    store64(frame + F_QWORD3, 0)
    store64(frame + F_SHIFT, 0)
    store64(frame + F_TCIS, 0)
    store64(frame + F_PIECES, 0)
    if load64(burst + row * ROW + FLAGS) & VLAN_PRESENT or load64(frame + F_PARSED + 8 * OUT_TAGS):
        if arrange_tags(port, frame, burst, row, accepted) == 0:
            return REFUSED_VLAN
    else:
        add_pieces(frame, burst, row, 0, total)
    length = total + load64(frame + F_SHIFT)
    if length < WIRE_FRAME:
        add_own_piece(frame, frame + F_ZERO, WIRE_FRAME - length)
        length = WIRE_FRAME
    if kept:
        add_own_piece(frame, frame + F_ZERO, kept)
    store64(frame + F_LENGTH, length + kept)
    return ARRANGED
