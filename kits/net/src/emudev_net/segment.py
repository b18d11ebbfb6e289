"""Segmentation: a TCP or UDP frame of up to 64 KiB becomes frames that fit.

Each segment is a copy of the headers, put right, and rows that point at its part of the payload.

Source: avf.md 6.5 (what hardware does); RFC 791, 793, 768.
"""

from __future__ import annotations

from typing import Final

from .burst import (
    CRC32C_WANTED,
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    GSO_ECN,
    GSO_MASK,
    GSO_UDP_L4,
    LAST,
    OFFLOAD,
    OUTER_VLAN_PRESENT,
    OWN,
    ROW,
    VLAN,
    VLAN_PRESENT,
    csum_start,
    frame_length,
    gso_size,
    gso_type,
    header_length,
)
from .checksum import (
    checksum_rows,
    fold,
    gather,
    ipv4_header_sum,
    pseudo_header_sum,
    sum16,
    swapped,
)
from .jit import (
    inline,
)
from .primitives import (
    load8,
    load16be,
    load32be,
    load64,
    store8,
    store16,
    store16be,
    store32be,
    store64,
)
from .stage import (
    HEADER,
    S_CUT_OFFSET,
    S_CUT_ROW,
    S_OUT,
    S_OUT_CAPACITY,
    S_SCRATCH,
    S_TAKES,
    SLOT,
    TAKES_CSUM,
    TAKES_VLAN,
    append_payload,
    append_row,
    finish_packet,
    move_addresses,
    write_note,
    write_tags,
)

__all__ = ["cut"]

TCP_FIN: Final = 0x01
TCP_PSH: Final = 0x08
TCP_CWR: Final = 0x80


@inline
def _network_offset(header: int, size: int) -> int:
    """Offset of the IP header behind tags in the frame; 0 if it is not IP or too short."""
    at = 12
    kind = load16be(header + at)
    for _ in range(2):
        if (kind == 0x8100 or kind == 0x88A8) and at + 6 <= size:
            at += 4
            kind = load16be(header + at)
    if kind == 0x0800 and at + 22 <= size:
        return at + 2
    if kind == 0x86DD and at + 42 <= size:
        return at + 2
    return 0


@inline
def _fix_segment(
    header: int, l3: int, l4: int, size: int, data: int, number: int, mss: int, last: int, udp: int
) -> int:
    """Put lengths, numbers and flags of segment `number` right; its L4 checksum field becomes 0.

    Args:
        header: Address of the copied headers.
        l3: Offset of the IP header.
        l4: Offset of the transport header.
        size: Bytes of all headers.
        data: Payload bytes of this segment.
        number: Of the segment, from 0.
        mss: Payload bytes of a whole one.
        last: 1 for the last.
        udp: 1 for USO.

    Returns:
        Folded sum of the pseudo header.
    """
    version = load8(header + l3) >> 4
    if version == 4:
        store16be(header + l3 + 2, size - l3 + data)
        store16be(header + l3 + 4, (load16be(header + l3 + 4) + number) & 0xFFFF)
        store16(header + l3 + 10, 0)
        store16(header + l3 + 10, ipv4_header_sum(header + l3, l4 - l3))
    else:
        store16be(header + l3 + 4, size - l3 - 40 + data)
    if udp:
        store16be(header + l4 + 4, 8 + data)
        store16(header + l4 + 6, 0)
        return pseudo_header_sum(header + l3, version, 17, size - l4 + data)
    store32be(header + l4 + 4, (load32be(header + l4 + 4) + number * mss) & 0xFFFFFFFF)
    flags = load8(header + l4 + 13)
    if not last:
        flags &= ~(TCP_FIN | TCP_PSH)
    if number > 0:
        flags &= ~TCP_CWR
    store8(header + l4 + 13, flags & 0xFF)
    store16(header + l4 + 16, 0)
    return pseudo_header_sum(header + l3, version, 6, size - l4 + data)


@inline
def cut(stage: int, burst: int, row: int, end: int, out: int, number: int) -> int:
    """Make segments of the frame in rows `row`..`end` from `number` on, as room allows.

    Returns:
        Rows made so far (at least `out`), or -1 if the frame's metadata does not fit its headers.
        The note on the last row says whether the frame is done.
    """
    takes = load64(stage + 8 * S_TAKES)
    meta = burst + row * ROW
    flags = load64(meta + FLAGS)
    csum = load64(meta + OFFLOAD)
    size = header_length(csum)
    l4 = csum_start(csum)
    mss = gso_size(csum)
    udp = 1 if gso_type(flags) == GSO_UDP_L4 else 0
    total = frame_length(burst, row, end - row)
    scratch = load64(stage + 8 * S_SCRATCH)
    if out >= load64(stage + 8 * S_OUT_CAPACITY):
        return out
    probe = scratch + out * SLOT
    if size > HEADER or size < 14 or mss == 0 or total <= size:
        return -1
    if gather(burst, row, end - row, 0, probe, size) != size:
        return -1
    l3 = _network_offset(probe, size)
    if l3 == 0 or l4 < l3 + 20 or l4 + (8 if udp else 20) > size:
        return -1
    if not udp and l4 + (load8(probe + l4 + 12) >> 4) * 4 != size:
        return -1
    if udp and l4 + 8 != size:
        return -1
    insert = 0
    if takes & TAKES_VLAN == 0 and flags & (VLAN_PRESENT | OUTER_VLAN_PRESENT):
        insert = 1
    position = size + number * mss
    if position >= total:  # the source shows another frame than the one that was begun
        number = 0
        position = size
    store64(stage + 8 * S_CUT_ROW, row)
    store64(stage + 8 * S_CUT_OFFSET, position)
    while position < total:
        if out >= load64(stage + 8 * S_OUT_CAPACITY):
            break
        data = min(mss, total - position)
        last = 1 if position + data >= total else 0
        slot = scratch + out * SLOT
        header = slot + 16  # tags go in front of what is behind the addresses
        gather(burst, row, end - row, 0, header, size)
        seed = _fix_segment(header, l3, l4, size, data, number, mss, last, udp)
        start = header
        shift = 0
        if insert:
            shift = 4 * ((flags & VLAN_PRESENT != 0) + (flags & OUTER_VLAN_PRESENT != 0))
            start = header - shift
            move_addresses(header, start)
            write_tags(start + 12, flags, load64(meta + VLAN))
        first = out
        made = append_row(stage, out, start, size + shift)
        made = append_payload(stage, made, burst, end, data)
        if made < 0:
            break
        field = header + l4 + (6 if udp else 16)
        kept = flags & ~(GSO_MASK | GSO_ECN | FIRST | LAST | CSUM_WANTED | CRC32C_WANTED)
        if insert:
            kept &= ~(VLAN_PRESENT | OUTER_VLAN_PRESENT)
        word = 0
        if takes & TAKES_CSUM:
            store16(field, seed)
            kept |= CSUM_WANTED
            word = (l4 + shift) | (6 if udp else 16) << 16
        else:
            table = load64(stage + 8 * S_OUT)
            value = seed + sum16(header + l4, size - l4)
            rest = checksum_rows(table, first + 1, made - first - 1, 0)
            value += swapped(rest) if (size - l4) & 1 else fold(rest)
            value = ~fold(value) & 0xFFFF
            store16(field, 0xFFFF if udp and value == 0 else value)
            kept |= CSUM_GOOD
        out = finish_packet(stage, first, made, meta, kept, word)
        number += 1
        position += data
        write_note(stage, out, end if last else row, 0 if last else number, load64(meta + OWN))
    return out
