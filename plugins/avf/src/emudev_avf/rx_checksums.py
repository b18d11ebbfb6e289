"""Kernel parts of receive that are about checksums: verify them, complete one.

A driver takes "checked and no error" as the truth, so that everything that is not known is verified
here; a checksum that the sender left to us is completed in the guest's copy. SCTP's is a CRC; a
field of zero, with which senders that agreed on it (RFC 9653) leave it away, is a wrong one to
hardware, and the guest's own to judge.

Source: avf.md sections 6.5 and 6.7; RFC 9260, appendix A.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    ADDRESS,
    CRC32C_WANTED,
    CSUM_BAD,
    CSUM_GOOD,
    CSUM_WANTED,
    LENGTH,
    ROW,
    csum_offset,
    csum_start,
)
from emudev_net.checksum import crc32c_rows, fold, pseudo_header_sum, sum16, swapped
from emudev_net.jit import inline
from emudev_net.parse import (
    KIND_IPV4,
    KIND_IPV6,
    OUT_KIND,
    OUT_L3,
    OUT_L4,
    OUT_PROTOCOL,
    WHAT_SCTP,
    WHAT_TCP,
    WHAT_UDP,
)
from emudev_net.primitives import load8, load16, load16be, load32, load64

from .descriptors import RX_ERR_IPE, RX_ERR_L4E, RX_L3L4P
from .rx_pieces import F_SHIFT, patch
from .words import P_CRC32C_TABLE

__all__ = ["checksum_status", "complete_checksum", "is_impossible", "sum_range"]

ETHERNET: Final = 14
SCTP_HEADER: Final = 12
SCTP_FIELD: Final = 8  #: offset of the checksum there


@inline
def sum_range(burst: int, row: int, offset: int, size: int) -> int:
    """Ones' complement sum of `size` bytes of the packet at `row`, from `offset` on, not folded."""
    total = 0
    done = 0
    while done < size:
        at = burst + row * ROW
        length = load64(at + LENGTH)
        if offset < length:
            part = min(length - offset, size - done)
            piece = sum16(load64(at + ADDRESS) + offset, part)
            total += swapped(piece) if done & 1 else fold(piece)
            done += part
            offset = 0
        else:
            offset -= length
        row += 1
    return total


@inline
def checksum_status(
    port: int, header: int, parsed: int, base: int, burst: int, row: int, limit: int, flags: int
) -> int:
    """What the write-back says of the checksums of a frame: checked or not, and errors.

    Args:
        port: Address of the port's words.
        header: Address of the frame's first bytes, as many as the parser saw.
        parsed: Address of what it found.
        base: Offset in the frame of what it was shown: 0, or that of a frame inside.
        burst: Address of the burst.
        row: First row of the frame.
        limit: Where what it was shown ends in the frame.
        flags: The frame's flags word; 0 to verify all.

    Returns:
        `RX_L3L4P` and error bits, or 0 if the guest has to check itself.
    """
    kind = load64(parsed + 8 * OUT_KIND)
    if kind < KIND_IPV4:
        return 0
    l3 = base + load64(parsed + 8 * OUT_L3)
    l4 = base + load64(parsed + 8 * OUT_L4)
    what = kind & 0xF
    good = flags & CSUM_GOOD
    if kind >= KIND_IPV6:
        version = 6
        end = l3 + 40 + load16be(header + l3 + 4)
    else:
        version = 4
        end = l3 + load16be(header + l3 + 2)
        size = (load8(header + l3) & 0xF) << 2
        if good == 0 and fold(sum16(header + l3, size)) != 0xFFFF:
            return RX_L3L4P | RX_ERR_IPE
    # A checksum that the sender left to us comes from this host: completed, or good as it is.
    if good or flags & (CSUM_WANTED | CRC32C_WANTED):
        return RX_L3L4P
    if flags & CSUM_BAD:
        return RX_L3L4P | RX_ERR_L4E
    if what < WHAT_TCP or what > WHAT_SCTP:
        return RX_L3L4P
    if l4 + 8 > end or end > limit:
        return 0
    if what == WHAT_SCTP:
        if l4 + SCTP_HEADER > end:
            return 0
        crc = crc32c_rows(load64(port + P_CRC32C_TABLE), burst, row, l4, end - l4)
        return RX_L3L4P if load32(header + l4 + SCTP_FIELD) == crc else RX_L3L4P | RX_ERR_L4E
    if what == WHAT_UDP and version == 4 and load16(header + l4 + 6) == 0:
        return RX_L3L4P
    seed = pseudo_header_sum(header + l3, version, load64(parsed + 8 * OUT_PROTOCOL), end - l4)
    if fold(seed + sum_range(burst, row, l4, end - l4)) != 0xFFFF:
        return RX_L3L4P | RX_ERR_L4E
    return RX_L3L4P


@inline
def is_impossible(flags: int, offload: int, total: int) -> int:
    """Whether the checksum that a frame of `total` bytes asks for can't be in it."""
    start = csum_start(offload)
    if flags & CRC32C_WANTED:
        return start < ETHERNET or start + SCTP_HEADER > total
    offset = csum_offset(offload)
    return offset & 1 or start + offset + 2 > total or start < ETHERNET


@inline
def complete_checksum(
    port: int, frame: int, burst: int, row: int, total: int, flags: int, offload: int
) -> None:
    """Store the checksum that a frame asks for into the guest's copy, which has been delivered.

    Args:
        port: Address of the port's words.
        frame: Address of the frame's record.
        burst: Address of the burst.
        row: First row of the frame.
        total: Bytes of the frame in the burst.
        flags: Its flags word; one of `CSUM_WANTED` and `CRC32C_WANTED` is set.
        offload: Its offload word, possible.
    """
    start = csum_start(offload)
    if flags & CRC32C_WANTED:
        size = 4
        offset = SCTP_FIELD
        value = crc32c_rows(load64(port + P_CRC32C_TABLE), burst, row, start, total - start)
    else:
        size = 2
        offset = csum_offset(offload)
        value = ~fold(sum_range(burst, row, start, total - start)) & 0xFFFF
        # Where the field's place says UDP, zero would mean "no checksum" (RFC 768).
        if value == 0 and offset == 6:
            value = 0xFFFF
    field = start + offset + load64(frame + F_SHIFT)
    for i in range(size):
        patch(frame, field + i, value >> 8 * i & 0xFF)
