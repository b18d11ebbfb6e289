"""A received frame on its way: its record, its pieces, and the places for them.

The record lies in the port's scratch, in words (`F_*`): numbers, a list of pieces (where the bytes
of the frame are, in order) and one of places (where they go).
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import ADDRESS, LENGTH, ROW
from emudev_net.checksum import crc_more
from emudev_net.jit import inline
from emudev_net.primitives import copy, load64, store8, store64

__all__ = [
    "add_own_piece",
    "add_pieces",
    "append_crc",
    "deliver_pieces",
    "patch",
]

#: Most rows of a frame.
MAX_PIECES: Final = 128
#: Most places of a frame: its buffers may lie in several regions each.
MAX_PLACES: Final = 32
#: Bytes of a frame that are copied for filter, parser and hash: the source may change them
#: meanwhile.
HEADER_BYTES: Final = 128

# The record of the frame at hand, in words of the port's scratch.
F_TOTAL: Final = 8 * 0  #: bytes in the burst
F_LENGTH: Final = 8 * 1  #: bytes to deliver
F_PTYPE: Final = 8 * 2  #: packet type, as the descriptor has it
F_TIME: Final = 8 * 3  #: when the push at hand began, ns since 1970; 0: nobody has asked
F_CAST: Final = 8 * 4
F_QWORD0: Final = 8 * 5
F_QWORD1: Final = 8 * 6
F_QWORD2: Final = 8 * 7
F_SHIFT: Final = 8 * 8  #: how far bytes behind the addresses move: -4 stripped, 4 inserted
F_PIECES: Final = 8 * 9
#: its VLAN tags, 16 bits each: how many, TPID of the first, TCI of the first and second
F_TCIS: Final = 8 * 11
F_NEED: Final = 8 * 12  #: buffers that it takes
#: flow id for its descriptor: the mark of its rule, or `flow_tables.NO_FLOW`
F_FLOW: Final = 8 * 13
F_ACCEPT: Final = 8 * 14  #: 1: a rule has it received whatever its addresses are
F_MATCHED: Final = 8 * 15  #: 1: a rule has decided about it
F_QWORD3: Final = 8 * 10
F_TAGS: Final = 8 * 16  #: bytes of one or two tags that are inserted
F_PARSED: Final = 8 * 24  #: what the parser found
F_ZERO: Final = 8 * 32  #: 64 zero bytes
F_ENTRIES: Final = 8 * 40  #: addresses of the descriptors
F_HEADER_COPY: Final = 8 * 48
F_PIECE_LIST: Final = F_HEADER_COPY + HEADER_BYTES
F_PLACE_LIST: Final = F_PIECE_LIST + 16 * (MAX_PIECES + 8)
# What flow rules ask about, and the frame's words that a lookup brings together.
F_FACTS: Final = F_PLACE_LIST + 16 * (MAX_PLACES + 8)
F_TAG_FACTS: Final = F_FACTS + 8
F_ANCHORS: Final = F_TAG_FACTS + 8  #: for each `Anchor` an address, and the end of what is there
F_KEY: Final = F_ANCHORS + 64
F_LINEAR: Final = F_KEY + 8 * 24  #: the first bytes with the tags in their place
#: what the parser found in a tunnel
F_INNER: Final = F_LINEAR + HEADER_BYTES + 32
F_INNER_AT: Final = F_INNER + 64  #: offset in the frame of what the parser was shown of it
SCRATCH_WORDS: Final = F_INNER_AT // 8 + 8


@inline
def add_pieces(frame: int, burst: int, row: int, offset: int, size: int) -> None:
    """Append the pieces that hold `size` bytes of the packet at `row`, from `offset` on."""
    count = load64(frame + F_PIECES)
    while size > 0:
        at = burst + row * ROW
        length = load64(at + LENGTH)
        if offset < length:
            part = min(length - offset, size)
            piece = frame + F_PIECE_LIST + 16 * count
            store64(piece, load64(at + ADDRESS) + offset)
            store64(piece + 8, part)
            count += 1
            size -= part
            offset = 0
        else:
            offset -= length
        row += 1
    store64(frame + F_PIECES, count)


@inline
def add_own_piece(frame: int, address: int, size: int) -> None:
    """Append a piece of our own memory."""
    count = load64(frame + F_PIECES)
    piece = frame + F_PIECE_LIST + 16 * count
    store64(piece, address)
    store64(piece + 8, size)
    store64(frame + F_PIECES, count + 1)


@inline
def deliver_pieces(frame: int) -> None:
    """Copy all pieces to all places; both hold `F_LENGTH` bytes."""
    left = load64(frame + F_LENGTH)
    piece = frame + F_PIECE_LIST
    place = frame + F_PLACE_LIST
    source = load64(piece)
    available = load64(piece + 8)
    target = load64(place)
    room = load64(place + 8)
    while left > 0:
        part = min(available, room)
        copy(target, source, part)
        left -= part
        source += part
        target += part
        available -= part
        room -= part
        if available == 0 and left > 0:
            piece += 16
            source = load64(piece)
            available = load64(piece + 8)
        if room == 0 and left > 0:
            place += 16
            target = load64(place)
            room = load64(place + 8)


@inline
def patch(frame: int, offset: int, value: int) -> None:
    """Store one byte into the delivered frame."""
    place = frame + F_PLACE_LIST
    while offset >= load64(place + 8):
        offset -= load64(place + 8)
        place += 16
    store8(load64(place) + offset, value)


@inline
def append_crc(table: int, frame: int) -> None:
    """Compute the frame check sequence over what was delivered, and store it behind it."""
    left = load64(frame + F_LENGTH) - 4
    end = left
    place = frame + F_PLACE_LIST
    value = 0xFFFF_FFFF
    while left > 0:
        part = min(load64(place + 8), left)
        value = crc_more(table, value, load64(place), part)
        left -= part
        place += 16
    value ^= 0xFFFF_FFFF
    for i in range(4):
        patch(frame, end + i, value >> 8 * i & 0xFF)
