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

from typing import Final

from .burst import (
    CRC32C_WANTED,
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    GSO_ECN,
    GSO_MASK,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    LAST,
    LENGTH,
    OFFLOAD,
    OUTER_VLAN_PRESENT,
    OWN,
    ROW,
    VLAN,
    VLAN_PRESENT,
    csum_offset,
    csum_start,
    frame_length,
    gso_size,
    gso_type,
    header_length,
    packet_rows,
)
from .checksum import (
    checksum_rows,
    crc32c_rows,
    fold,
    gather,
    ipv4_header_sum,
    pseudo_header_sum,
    sum16,
)
from .jit import inline
from .primitives import (
    copy,
    load8,
    load16be,
    load32,
    load32be,
    load64,
    store8,
    store16,
    store16be,
    store32,
    store32be,
    store64,
)

__all__ = [
    "HEADER",
    "NOTE",
    "S_CRC",
    "S_MALFORMED",
    "S_NOTES",
    "S_OUT",
    "S_OUT_CAPACITY",
    "S_RESUME",
    "S_SCRATCH",
    "S_TAKES",
    "SLOT",
    "STAGE_WORDS",
    "needs_software",
    "settle",
    "soften",
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

TCP_FIN: Final = 0x01
TCP_PSH: Final = 0x08
TCP_CWR: Final = 0x80


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
    if flags & CRC32C_WANTED:
        return 1
    if flags & (VLAN_PRESENT | OUTER_VLAN_PRESENT) and takes & TAKES_VLAN == 0:
        return 1
    if flags & CSUM_WANTED and takes & TAKES_CSUM == 0:
        return 1
    return _segments_wanted(flags, takes)


@inline
def _append(stage: int, out: int, address: int, size: int) -> int:
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
def _append_payload(stage: int, out: int, burst: int, end: int, size: int) -> int:
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
        out = _append(stage, out, load64(burst + row * 64) + offset, part)
        if out < 0:
            return -1
        offset += part
        size -= part
    store64(stage + 8 * S_CUT_ROW, row)
    store64(stage + 8 * S_CUT_OFFSET, offset)
    return out if size == 0 else -1


@inline
def _tag(target: int, flags: int, vlan: int) -> int:
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
def _move_addresses(header: int, to: int) -> None:
    """Move the 12 bytes of the MAC addresses 4 or 8 bytes down; the places overlap."""
    first = load64(header)
    second = load32(header + 8)
    store64(to, first)
    store32(to + 8, second)


@inline
def _finish(stage: int, first: int, out: int, metadata: int, flags: int, csum: int) -> int:
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
def _note(stage: int, out: int, rows: int, segments: int, own: int) -> None:
    """Note what is done when the packet that ends before row `out` is taken."""
    at = load64(stage + 8 * S_NOTES) + (out - 1) * NOTE
    store64(at + NOTE_ROWS, rows)
    store64(at + NOTE_SEGMENTS, segments)
    store64(at + NOTE_OWN, own)


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
def _cut(stage: int, burst: int, row: int, end: int, out: int, number: int) -> int:
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
            _move_addresses(header, start)
            _tag(start + 12, flags, load64(meta + VLAN))
        first = out
        made = _append(stage, out, start, size + shift)
        made = _append_payload(stage, made, burst, end, data)
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
            value += _swap_if_odd(checksum_rows(table, first + 1, made - first - 1, 0), size - l4)
            value = ~fold(value) & 0xFFFF
            store16(field, 0xFFFF if udp and value == 0 else value)
            kept |= CSUM_GOOD
        out = _finish(stage, first, made, meta, kept, word)
        number += 1
        position += data
        _note(stage, out, end if last else row, 0 if last else number, load64(meta + OWN))
    return out


@inline
def _swap_if_odd(total: int, offset: int) -> int:
    """The sum of bytes that start at an odd or even offset of what is summed."""
    folded = fold(total)
    if offset & 1:
        return (folded >> 8) | (folded & 0xFF) << 8
    return folded


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
    crc = flags & CRC32C_WANTED != 0
    sums = not crc and flags & CSUM_WANTED != 0 and takes & TAKES_CSUM == 0
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
        value = crc32c_rows(load64(stage + 8 * S_CRC), burst, row, end - row, start)
        store32(header + start + 8, value)
        flags = flags & ~(CRC32C_WANTED | CSUM_WANTED) | CSUM_GOOD
        csum = 0
    begin = header
    shift = 0
    if insert:
        shift = 4 * ((flags & VLAN_PRESENT != 0) + (flags & OUTER_VLAN_PRESENT != 0))
        begin = header - shift
        _move_addresses(header, begin)
        _tag(begin + 12, flags, load64(meta + VLAN))
        flags &= ~(VLAN_PRESENT | OUTER_VLAN_PRESENT)
        if flags & CSUM_WANTED:
            length = (csum >> 32) & 0xFFFF
            csum = csum & ~0xFFFF_0000_FFFF | (start + shift)
            csum |= (length + shift if length else 0) << 32
    store64(stage + 8 * S_CUT_ROW, row)
    store64(stage + 8 * S_CUT_OFFSET, head)
    made = _append(stage, out, begin, head + shift)
    if total > head:
        made = _append_payload(stage, made, burst, end, total - head)
    if made < 0:
        return out
    out = _finish(stage, out, made, meta, flags & ~(FIRST | LAST), csum)
    _note(stage, out, end, 0, 0)
    return out


@inline
def _hand_on(stage: int, burst: int, row: int, end: int, out: int) -> int:
    """Copy the rows of a packet that needs nothing; returns rows made, `out` without room."""
    if out + end - row > load64(stage + 8 * S_OUT_CAPACITY):
        return out
    copy(load64(stage + 8 * S_OUT) + out * 64, burst + row * 64, (end - row) * 64)
    out += end - row
    _note(stage, out, end, 0, 0)
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
            out = _cut(stage, burst, row, end, out, number)
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
