"""Kernel parts of receive that are about checksums: verify them, complete one.

A driver takes "checked and no error" as the truth, so that everything that is not known is verified
here; a checksum that the sender left to us is completed in the guest's copy.

Source: avf.md sections 6.5 and 6.7.
"""

from __future__ import annotations

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
from emudev_net.checksum import fold, pseudo_header_sum, sum16, swapped
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
from emudev_net.primitives import load8, load16, load16be, load64

from .descriptors import RX_ERR_IPE, RX_ERR_L4E, RX_L3L4P

__all__ = ["checksum_status", "completed_checksum", "sum_range"]


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
def checksum_status(header: int, parsed: int, burst: int, row: int, total: int, flags: int) -> int:
    """What the write-back says of the checksums of a frame: checked or not, and errors.

    Args:
        header: Address of the frame's first bytes, as many as the parser saw.
        parsed: Address of what it found.
        burst: Address of the burst.
        row: First row of the frame.
        total: Bytes of the frame in the burst.
        flags: Its flags word.

    Returns:
        `RX_L3L4P` and error bits, or 0 if the guest has to check itself.
    """
    kind = load64(parsed + 8 * OUT_KIND)
    if kind < KIND_IPV4:
        return 0
    l3 = load64(parsed + 8 * OUT_L3)
    l4 = load64(parsed + 8 * OUT_L4)
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
    if what == WHAT_SCTP:
        return 0
    if what != WHAT_TCP and what != WHAT_UDP:
        return RX_L3L4P
    if l4 + 8 > end or end > total:
        return 0
    if what == WHAT_UDP and version == 4 and load16(header + l4 + 6) == 0:
        return RX_L3L4P
    seed = pseudo_header_sum(header + l3, version, load64(parsed + 8 * OUT_PROTOCOL), end - l4)
    if fold(seed + sum_range(burst, row, l4, end - l4)) != 0xFFFF:
        return RX_L3L4P | RX_ERR_L4E
    return RX_L3L4P


@inline
def completed_checksum(burst: int, row: int, total: int, offload: int) -> int:
    """The checksum that a CSUM_WANTED request asks for, as the two bytes lie in memory."""
    start = csum_start(offload)
    value = ~fold(sum_range(burst, row, start, total - start)) & 0xFFFF
    # Where the field's place says UDP, zero would mean "no checksum" (RFC 768).
    if value == 0 and csum_offset(offload) == 6:
        return 0xFFFF
    return value
