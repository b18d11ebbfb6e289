"""The software stage: packets whose requests the sink does not take become plain frames.

A checksum to complete, a frame to segment, a tag to insert: each time a copy of the frame's headers
is changed in scratch memory, and rows that point at the untouched payload follow. So the payload is
copied once, by the sink; the guest's own memory is never written.

A 64 KiB frame becomes dozens of segments, more than a sink may have room for at one time. `soften`
therefore notes for each packet that it makes how far the source has got once that packet is taken,
and can go on in the middle of a frame.

Source: avf.md 6.5 (what hardware does); RFC 791, 793, 768, 9260.
"""

from __future__ import annotations

from .burst import (
    CRC32C_WANTED,
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    GSO_TCPV4,
    GSO_TCPV6,
    LAST,
    OFFLOAD,
    OUTER_VLAN_PRESENT,
    OWN,
    ROW,
    VLAN,
    VLAN_PRESENT,
    csum_offset,
    csum_start,
    frame_length,
    gso_type,
    packet_rows,
)
from .checksum import (
    checksum_rows,
    crc32c_rows,
    fold,
    gather,
)
from .jit import (
    inline,
)
from .primitives import (
    copy,
    load64,
    store16,
    store32,
    store64,
)
from .segment import (
    cut,
)
from .stage import (
    HEADER,
    NOTE,
    NOTE_OWN,
    NOTE_ROWS,
    NOTE_SEGMENTS,
    S_CRC,
    S_CUT_OFFSET,
    S_CUT_ROW,
    S_MALFORMED,
    S_NOTES,
    S_OUT,
    S_OUT_CAPACITY,
    S_RESUME,
    S_RESUME_OWN,
    S_SCRATCH,
    S_TAKES,
    SLOT,
    TAKES_CRC32C,
    TAKES_CSUM,
    TAKES_TSO4,
    TAKES_TSO6,
    TAKES_USO,
    TAKES_VLAN,
    append_payload,
    append_row,
    finish_packet,
    move_addresses,
    write_note,
    write_tags,
)

__all__ = ["needs_software", "settle", "soften"]


@inline
def _segments_wanted(flags: int, takes: int) -> int:
    """1 if the packet has to be segmented here."""
    gso = gso_type(flags)
    if gso == 0:
        return 0
    needed = TAKES_CSUM  # whoever segments computes checksums, too
    if gso == GSO_TCPV4:
        needed |= TAKES_TSO4
    elif gso == GSO_TCPV6:
        needed |= TAKES_TSO6
    else:
        needed |= TAKES_USO
    return 1 if takes & needed != needed else 0


@inline
def needs_software(flags: int, takes: int) -> int:
    """1 if a packet with these flags can't be given to a sink that takes `takes`."""
    if flags & CRC32C_WANTED and takes & TAKES_CRC32C == 0:
        return 1
    if flags & (VLAN_PRESENT | OUTER_VLAN_PRESENT) and takes & TAKES_VLAN == 0:
        return 1
    if flags & CSUM_WANTED and takes & TAKES_CSUM == 0:
        return 1
    return _segments_wanted(flags, takes)


@inline
def _mend(stage: int, burst: int, row: int, end: int, out: int) -> int:
    """Complete the checksum and insert the tags of one frame that is not segmented here.

    Returns:
        Rows made, `out` itself if there is no room, or -1 if the metadata does not fit the frame.
    """
    takes = load64(stage + 8 * S_TAKES)
    meta = burst + row * ROW
    flags = load64(meta + FLAGS)
    csum = load64(meta + OFFLOAD)
    total = frame_length(burst, row, end - row)
    start = csum_start(csum)
    offset = csum_offset(csum)
    crc = flags & CRC32C_WANTED != 0 and takes & TAKES_CRC32C == 0
    sums = flags & (CSUM_WANTED | CRC32C_WANTED) == CSUM_WANTED and takes & TAKES_CSUM == 0
    insert = takes & TAKES_VLAN == 0 and flags & (VLAN_PRESENT | OUTER_VLAN_PRESENT) != 0
    head = 12 if insert else 0
    if sums:
        head = max(head, start + offset + 2)
    if crc:
        head = max(head, start + 12)
    if head > HEADER or head > total:
        return -1
    if out >= load64(stage + 8 * S_OUT_CAPACITY):
        return out
    header = load64(stage + 8 * S_SCRATCH) + out * SLOT + 16
    gather(burst, row, end - row, 0, header, head)
    if sums:
        value = ~fold(checksum_rows(burst, row, end - row, start)) & 0xFFFF
        # A zero means "no checksum" in UDP; as a ones' complement number 0xFFFF is the same.
        store16(header + start + offset, 0xFFFF if value == 0 and offset == 6 else value)
        flags = flags & ~CSUM_WANTED | CSUM_GOOD
        csum = 0
    if crc:
        value = crc32c_rows(load64(stage + 8 * S_CRC), burst, row, start, total - start)
        store32(header + start + 8, value)
        flags = flags & ~(CRC32C_WANTED | CSUM_WANTED) | CSUM_GOOD
        csum = 0
    begin = header
    shift = 0
    if insert:
        shift = 4 * ((flags & VLAN_PRESENT != 0) + (flags & OUTER_VLAN_PRESENT != 0))
        begin = header - shift
        move_addresses(header, begin)
        write_tags(begin + 12, flags, load64(meta + VLAN))
        flags &= ~(VLAN_PRESENT | OUTER_VLAN_PRESENT)
        if flags & (CSUM_WANTED | CRC32C_WANTED):
            length = (csum >> 32) & 0xFFFF
            csum = csum & ~0xFFFF_0000_FFFF | (start + shift)
            csum |= (length + shift if length else 0) << 32
    store64(stage + 8 * S_CUT_ROW, row)
    store64(stage + 8 * S_CUT_OFFSET, head)
    made = append_row(stage, out, begin, head + shift)
    if total > head:
        made = append_payload(stage, made, burst, end, total - head)
    if made < 0:
        return out
    out = finish_packet(stage, out, made, meta, flags & ~(FIRST | LAST), csum)
    write_note(stage, out, end, 0, 0)
    return out


@inline
def _hand_on(stage: int, burst: int, row: int, end: int, out: int) -> int:
    """Copy the rows of a packet that needs nothing; returns rows made, `out` without room."""
    if out + end - row > load64(stage + 8 * S_OUT_CAPACITY):
        return out
    copy(load64(stage + 8 * S_OUT) + out * 64, burst + row * 64, (end - row) * 64)
    out += end - row
    write_note(stage, out, end, 0, 0)
    return out


@inline
def soften(stage: int, burst: int, rows: int) -> int:
    """Make plain packets of a burst's packets, as many as the stage has room for.

    Args:
        stage: Address of the stage's words.
        burst: Address of the source's burst.
        rows: Its rows, whole packets.

    Returns:
        Rows made in the stage's own burst, whole packets; each last row has a note. Less than 0:
        the first packet can't be expressed and was counted; so many rows of the source (negative)
        are done with it.
    """
    takes = load64(stage + 8 * S_TAKES)
    row = 0
    out = 0
    number = 0
    if rows > 0 and load64(stage + 8 * S_RESUME_OWN) == load64(burst + OWN):
        number = load64(stage + 8 * S_RESUME)
    while row < rows:
        end = row + packet_rows(burst, row, rows)
        flags = load64(burst + row * ROW + FLAGS)
        before = out
        if needs_software(flags, takes) == 0:
            out = _hand_on(stage, burst, row, end, out)
            whole = out > before
        elif _segments_wanted(flags, takes):
            out = cut(stage, burst, row, end, out, number)
            whole = (
                out > before
                and load64(load64(stage + 8 * S_NOTES) + (out - 1) * NOTE + NOTE_ROWS) == end
            )
        else:
            out = _mend(stage, burst, row, end, out)
            whole = out > before
        if out < 0:
            # Its rows are done with the packet in front of it, or with nothing.
            out = before
            if before == 0:
                store64(stage + 8 * S_MALFORMED, load64(stage + 8 * S_MALFORMED) + 1)
                store64(stage + 8 * S_RESUME, 0)
                return -end
            return out
        if not whole:
            return out
        number = 0
        row = end
    return out


@inline
def settle(stage: int, taken: int) -> int:
    """Note that the sink has taken some of what `soften` made.

    Args:
        stage: Address of the stage's words.
        taken: Rows it took, whole packets, at least 1.

    Returns:
        Rows of the source that are done; a frame that is only begun is not among them.
    """
    note = load64(stage + 8 * S_NOTES) + (taken - 1) * NOTE
    store64(stage + 8 * S_RESUME, load64(note + NOTE_SEGMENTS))
    store64(stage + 8 * S_RESUME_OWN, load64(note + NOTE_OWN))
    return load64(note + NOTE_ROWS)
