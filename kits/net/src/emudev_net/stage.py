"""The software stage's words, and the rows that it makes.

The stage makes packets in a burst of its own: rows that point at header copies in its scratch and
at the untouched payload of the source. A note beside the last row of each packet says how far the
source has got once the sink has taken it.
"""

from __future__ import annotations

from typing import Final

from .burst import (
    FIRST,
    LAST,
    LENGTH,
    OUTER_VLAN_PRESENT,
    ROW,
    VLAN_PRESENT,
)
from .jit import (
    inline,
)
from .primitives import (
    load32,
    load64,
    store16be,
    store32,
    store64,
)

__all__ = [
    "HEADER",
    "NOTE",
    "NOTE_OWN",
    "NOTE_ROWS",
    "NOTE_SEGMENTS",
    "SLOT",
    "STAGE_WORDS",
    "S_CRC",
    "S_CUT_OFFSET",
    "S_CUT_ROW",
    "S_MALFORMED",
    "S_NOTES",
    "S_OUT",
    "S_OUT_CAPACITY",
    "S_RESUME",
    "S_RESUME_OWN",
    "S_SCRATCH",
    "S_TAKES",
    "TAKES_CRC32C",
    "TAKES_CSUM",
    "TAKES_TSO4",
    "TAKES_TSO6",
    "TAKES_USO",
    "TAKES_VLAN",
    "append_payload",
    "append_row",
    "finish_packet",
    "move_addresses",
    "write_note",
    "write_tags",
]

# Words of the stage.
S_TAKES: Final = 0  #: `Offload` of the sink
S_OUT: Final = 1  #: address of the burst that is made
S_OUT_CAPACITY: Final = 2  #: its rows
S_NOTES: Final = 3  #: address of `NOTE` bytes for each of its rows
S_SCRATCH: Final = 4  #: address of `SLOT` bytes for each of its rows
S_RESUME: Final = 5  #: segments of the first packet that the sink has already taken
S_CRC: Final = 6  #: address of the CRC-32C table
S_MALFORMED: Final = 7  #: packets dropped because their metadata does not fit their headers
# Where the payload of a frame has been cut up to.
S_CUT_ROW: Final = 8
S_CUT_OFFSET: Final = 9
S_RESUME_OWN: Final = 10  #: the source's own word of the frame that `S_RESUME` is about
STAGE_WORDS: Final = 16

# A note on a row that was made: what is done once the packet that ends there is taken.
NOTE: Final = 32  #: bytes
NOTE_ROWS: Final = 0  #: rows of the source that are done then
NOTE_SEGMENTS: Final = 8  #: and segments of the packet behind them
NOTE_OWN: Final = 16  #: the source's own word of that packet

HEADER: Final = 256  #: longest headers that are copied, bytes
SLOT: Final = 320  #: bytes of a header copy, with tags

TAKES_CSUM: Final = 1
TAKES_TSO4: Final = 2
TAKES_TSO6: Final = 4
TAKES_USO: Final = 8
TAKES_VLAN: Final = 16
TAKES_CRC32C: Final = 32


@inline
def append_row(stage: int, out: int, address: int, size: int) -> int:
    """Append a row; returns the number of rows then, or -1 if there is no room."""
    if out >= load64(stage + 8 * S_OUT_CAPACITY):
        return -1
    at = load64(stage + 8 * S_OUT) + out * 64
    store64(at, address)
    store64(at + 8, size)
    for i in range(2, 8):
        store64(at + 8 * i, 0)
    return out + 1


@inline
def append_payload(stage: int, out: int, burst: int, end: int, size: int) -> int:
    """Append rows for the next `size` bytes of payload, from where the last call ended."""
    row = load64(stage + 8 * S_CUT_ROW)
    offset = load64(stage + 8 * S_CUT_OFFSET)
    while size > 0 and row < end:
        have = load64(burst + row * ROW + LENGTH) - offset
        if have <= 0:
            offset -= load64(burst + row * ROW + LENGTH)
            row += 1
            continue
        part = min(have, size)
        out = append_row(stage, out, load64(burst + row * 64) + offset, part)
        if out < 0:
            return -1
        offset += part
        size -= part
    store64(stage + 8 * S_CUT_ROW, row)
    store64(stage + 8 * S_CUT_OFFSET, offset)
    return out if size == 0 else -1


@inline
def write_tags(target: int, flags: int, vlan: int) -> int:
    """Write the tags of a packet; returns their bytes."""
    size = 0
    if flags & OUTER_VLAN_PRESENT:
        store16be(target, 0x88A8)
        store16be(target + 2, (vlan >> 48) & 0xFFFF)
        size = 4
    if flags & VLAN_PRESENT:
        tpid = (vlan >> 16) & 0xFFFF
        store16be(target + size, tpid if tpid else 0x8100)
        store16be(target + size + 2, vlan & 0xFFFF)
        size += 4
    return size


@inline
def move_addresses(header: int, to: int) -> None:
    """Move the 12 bytes of the MAC addresses 4 or 8 bytes down; the places overlap."""
    first = load64(header)
    second = load32(header + 8)
    store64(to, first)
    store32(to + 8, second)


@inline
def finish_packet(stage: int, first: int, out: int, metadata: int, flags: int, csum: int) -> int:
    """Mark the rows `first`..`out` as one packet with the metadata of the source's row."""
    table = load64(stage + 8 * S_OUT)
    head = table + first * 64
    store64(head + 24, csum)
    for i in range(4, 8):
        store64(head + 8 * i, load64(metadata + 8 * i))
    store64(head + 16, flags | FIRST)
    last = table + (out - 1) * 64
    store64(last + 16, load64(last + 16) | LAST)
    return out


@inline
def write_note(stage: int, out: int, rows: int, segments: int, own: int) -> None:
    """Note what is done when the packet that ends before row `out` is taken."""
    at = load64(stage + 8 * S_NOTES) + (out - 1) * NOTE
    store64(at + NOTE_ROWS, rows)
    store64(at + NOTE_SEGMENTS, segments)
    store64(at + NOTE_OWN, own)
