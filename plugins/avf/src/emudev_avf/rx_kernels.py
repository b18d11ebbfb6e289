"""Kernel of a receive ring: `push` delivers frames into the buffers that the guest has posted.

A frame goes through filter, VLAN, checksum, hash and queue choice, and is then copied once, from
where it lies into the guest's buffers. All of a frame's buffers are looked up before anything is
written, so that a frame is delivered whole or not at all. What is known of the frame at hand lies
in a record in the port's scratch (`F_*`), with the list of pieces to copy and the list of places
to copy them to.

Source: avf.md sections 4.6, 6.6, 6.7, 6.9 and 7.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    CSUM_WANTED,
    FLAGS,
    LAST,
    LENGTH,
    OFFLOAD,
    OUTER_VLAN_PRESENT,
    ROW,
    VLAN,
    VLAN_PRESENT,
    csum_offset,
    csum_start,
)
from emudev_net.checksum import gather
from emudev_net.jit import inline, queue_kernel
from emudev_net.memory import WRITE, span, translate
from emudev_net.parse import OUT_KIND, parse
from emudev_net.primitives import (
    exchange64,
    load16,
    load16be,
    load32,
    load32_acquire,
    load64,
    pause,
    shift_right64,
    store16be,
    store64,
    store64_release,
)

from .descriptors import (
    RX_DD,
    RX_EOF,
    RX_ERR_RXE,
    RX_EXT_L2TAG2P,
    RX_FLTSTAT_RSS,
    RX_HASH_SHIFT,
    RX_L2TAG1_SHIFT,
    RX_L2TAG1P,
    RX_L2TAG2_2_SHIFT,
    RX_MAX_BUFFERS,
    RX_PBUF_SHIFT,
    RX_PTYPE_SHIFT,
    RX_SIZE,
    RX_UMBCAST_SHIFT,
)
from .filters import accept_address, accept_vlan
from .flow_tables import NO_FLOW, confine, find_rule, show_flow, steer, take_rule
from .ptypes import ptype
from .ring_memory import add, mark_received, ring_entry
from .rss_kernels import choose_queue, hash_of
from .rx_checksums import checksum_status, completed_checksum
from .rx_pieces import (
    F_ACCEPT,
    F_CAST,
    F_ENTRIES,
    F_FLOW,
    F_HEADER_COPY,
    F_LENGTH,
    F_MATCHED,
    F_NEED,
    F_PARSED,
    F_PIECES,
    F_PLACE_LIST,
    F_QWORD0,
    F_QWORD1,
    F_QWORD2,
    F_QWORD3,
    F_SHIFT,
    F_TAGS,
    F_TOTAL,
    F_ZERO,
    HEADER_BYTES,
    MAX_PIECES,
    MAX_PLACES,
    add_own_piece,
    add_pieces,
    append_crc,
    deliver_pieces,
    patch,
)
from .words import (
    HOLD_DISABLED,
    HOLD_FULL,
    HOLD_NONE,
    P_CLASS0,
    P_CRC_TABLE,
    P_FILTERED,
    P_HOLD,
    P_LOCK,
    P_MEMORY,
    P_NO_QUEUE,
    P_RULES,
    P_RX_ENABLED,
    P_RX_QUEUES,
    P_SCRATCH,
    P_STRIP,
    P_STRIP_TPID,
    Q_BYTES,
    Q_DROPS,
    Q_ENABLED,
    Q_HEAD,
    Q_LENGTH,
    Q_PORT,
    Q_REASONS,
    Q_TAIL,
    Q_UNICAST,
    R_BUFFER_SIZE,
    R_KEEP_CRC,
    R_MAX_PACKET,
    RX_ADDRESS,
    RX_BAD_TAIL,
    RX_FULL,
    RX_LENGTH,
    RX_SOURCE,
    STOPPED,
)

WIRE_FRAME: Final = 60  #: shorter frames are padded to this
ETHERNET: Final = 14
TPID_VLAN: Final = 0x8100

HELD: Final = 0
TAKEN: Final = 1

# What looking for buffers ends with; from UNPLACED on, a reason for dropping the frame.
PLACED: Final = 0
NO_ROOM: Final = 1
UNPLACED: Final = 16

STRIP_L2TAG1: Final = 1  #: `TagPlace.L2TAG1`
TPID_OUTER: Final = 0x88A8


@inline
def drop(queue: int, reason: int) -> int:
    """Count a frame that is not delivered; it is taken from the burst all the same."""
    add(queue + Q_REASONS + 8 * reason, 1)
    add(queue + Q_DROPS, 1)
    return TAKEN


@inline
def look(frame: int, burst: int, row: int, end: int) -> int:
    """Measure a frame, copy its first bytes, and parse them.

    Returns:
        1, or 0 if it can't be a frame.
    """
    total = 0
    for i in range(row, end):
        total += load64(burst + i * ROW + LENGTH)
    store64(frame + F_TOTAL, total)
    store64(frame + F_PIECES, 0)
    if end - row > MAX_PIECES or total < ETHERNET:
        return 0
    header = frame + F_HEADER_COPY
    size = gather(burst, row, end - row, 0, header, HEADER_BYTES)
    parse(header, size, frame + F_PARSED)
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
        1, or 0 if it is not for this port.
    """
    header = frame + F_HEADER_COPY
    total = load64(frame + F_TOTAL)
    accepted = load64(frame + F_ACCEPT)
    cast = accept_address(port, load32(header) | load16(header + 4) << 32)
    if cast < 0:
        if accepted == 0:
            return 0
        cast = load16(header) & 1  # `CAST_UNICAST` or `CAST_MULTICAST`
    flags = load64(burst + row * ROW + FLAGS)
    tags = load64(burst + row * ROW + VLAN)
    inside = 0
    tpid = 0
    tci = 0
    if flags & VLAN_PRESENT:
        tci = tags & 0xFFFF
        tpid = tags >> 16 & 0xFFFF
        if tpid == 0:
            tpid = TPID_VLAN
    elif total >= ETHERNET + 4:
        inside = 1
        tpid = load16be(header + 12)
        tci = load16be(header + 14)
    double = flags & VLAN_PRESENT and flags & OUTER_VLAN_PRESENT
    if tpid == TPID_VLAN and not double and accepted == 0 and accept_vlan(port, tci) == 0:
        return 0
    strip = load64(port + P_STRIP)
    if double or tpid != load64(port + P_STRIP_TPID):
        strip = 0
    qword0 = 0
    qword1 = cast << RX_UMBCAST_SHIFT
    qword2 = 0
    if strip == STRIP_L2TAG1:
        qword0 = tci << RX_L2TAG1_SHIFT
        qword1 |= RX_L2TAG1P
    elif strip != 0:
        qword2 = RX_EXT_L2TAG2P | tci << RX_L2TAG2_2_SHIFT
    shift = 0
    if inside and strip:
        shift = -4
        add_pieces(frame, burst, row, 0, 12)
        add_pieces(frame, burst, row, 16, total - 16)
    elif inside == 0 and flags & VLAN_PRESENT and strip == 0:
        at = frame + F_TAGS
        if double:
            store16be(at, TPID_OUTER)
            store16be(at + 2, shift_right64(tags, 48))
            shift = 4
        store16be(at + shift, tpid)
        store16be(at + shift + 2, tci)
        shift += 4
        add_pieces(frame, burst, row, 0, 12)
        add_own_piece(frame, at, shift)
        add_pieces(frame, burst, row, 12, total - 12)
    else:
        add_pieces(frame, burst, row, 0, total)
    length = total + shift
    if length < WIRE_FRAME:
        add_own_piece(frame, frame + F_ZERO, WIRE_FRAME - length)
        length = WIRE_FRAME
    if kept:
        add_own_piece(frame, frame + F_ZERO, kept)
    store64(frame + F_LENGTH, length + kept)
    store64(frame + F_SHIFT, shift)
    store64(frame + F_CAST, cast)
    store64(frame + F_QWORD0, qword0)
    store64(frame + F_QWORD1, qword1)
    store64(frame + F_QWORD2, qword2)
    store64(frame + F_QWORD3, 0)
    return 1


@inline
def reject(queue: int, frame: int, count: int) -> None:
    """Complete the next `count` descriptors as frames with an error and without data.

    The last of them has an address that can't be written: whoever posted it gets it back.
    """
    for i in range(count):
        entry = load64(frame + F_ENTRIES + 8 * i)
        store64(entry, 0)
        store64(entry + 16, 0)
        store64(entry + 24, 0)
        store64_release(entry + 8, RX_DD | RX_EOF | RX_ERR_RXE)
    head = load64(queue + Q_HEAD) + count
    length = load64(queue + Q_LENGTH)
    store64(queue + Q_HEAD, head - length if head >= length else head)
    mark_received(queue)


@inline
def find_places(port: int, queue: int, frame: int) -> int:
    """Look up the buffers of a frame.

    Returns:
        `PLACED`, `NO_ROOM`, or the reason for dropping the frame plus `UNPLACED`.
    """
    length = load64(frame + F_LENGTH)
    size = load64(queue + R_BUFFER_SIZE)
    need = (length + size - 1) // size
    if need > RX_MAX_BUFFERS:
        return UNPLACED + RX_LENGTH
    ring = load64(queue + Q_LENGTH)
    head = load64(queue + Q_HEAD)
    tail = load32_acquire(queue + Q_TAIL)
    if tail >= ring:
        store64(queue + Q_ENABLED, STOPPED)
        return UNPLACED + RX_BAD_TAIL
    free = tail - head
    if free < 0:
        free += ring
    if free < need:
        return NO_ROOM
    memory = load64(port + P_MEMORY)
    places = 0
    for i in range(need):
        index = head + i
        if index >= ring:
            index -= ring
        entry = ring_entry(queue, index, RX_SIZE)
        if entry == 0:
            return UNPLACED + RX_ADDRESS
        store64(frame + F_ENTRIES + 8 * i, entry)
        guest = load64(entry)
        part = min(size, length)
        length -= part
        got = part
        host = translate(memory, guest, got, WRITE)  # nearly always in one region
        while part > 0:
            if host == 0:
                got = span(memory, guest, part, WRITE)
                host = translate(memory, guest, got, WRITE)
            if host == 0 or places == MAX_PLACES:
                reject(queue, frame, i + 1)
                return UNPLACED + RX_ADDRESS
            place = frame + F_PLACE_LIST + 16 * places
            store64(place, host)
            store64(place + 8, got)
            places += 1
            guest += got
            part -= got
            host = 0
    store64(frame + F_NEED, need)
    return PLACED


@inline
def write_back(queue: int, frame: int) -> None:
    """Hand the descriptors of a delivered frame to the guest, in ring order."""
    need = load64(frame + F_NEED)
    size = load64(queue + R_BUFFER_SIZE)
    left = load64(frame + F_LENGTH)
    common = RX_DD | ptype(load64(frame + F_PARSED + 8 * OUT_KIND)) << RX_PTYPE_SHIFT
    for i in range(need - 1):
        entry = load64(frame + F_ENTRIES + 8 * i)
        store64(entry, 0)
        store64(entry + 16, 0)
        store64(entry + 24, 0)
        store64_release(entry + 8, common | size << RX_PBUF_SHIFT)
        left -= size
    entry = load64(frame + F_ENTRIES + 8 * need - 8)
    store64(entry, load64(frame + F_QWORD0))
    store64(entry + 16, load64(frame + F_QWORD2))
    store64(entry + 24, load64(frame + F_QWORD3))
    last = common | RX_EOF | left << RX_PBUF_SHIFT | load64(frame + F_QWORD1)
    store64_release(entry + 8, last)
    head = load64(queue + Q_HEAD) + need
    length = load64(queue + Q_LENGTH)
    store64(queue + Q_HEAD, head - length if head >= length else head)
    mark_received(queue)


@inline
def receive(port: int, burst: int, row: int, end: int) -> int:
    """Deliver the packet of the rows from `row` up to `end`, or drop and count it.

    Returns:
        `TAKEN`, or `HELD` if it is to wait for buffers.
    """
    frame = load64(port + P_SCRATCH)
    first = load64(port + P_RX_QUEUES)
    if look(frame, burst, row, end) == 0:
        return drop(first, RX_SOURCE)
    at = burst + row * ROW
    flags = load64(at + FLAGS)
    offload = load64(at + OFFLOAD)
    total = load64(frame + F_TOTAL)
    start = csum_start(offload)
    offset = csum_offset(offload)
    if flags & CSUM_WANTED and (offset & 1 or start + offset + 2 > total or start < ETHERNET):
        return drop(first, RX_SOURCE)
    store64(frame + F_FLOW, NO_FLOW)
    store64(frame + F_ACCEPT, 0)
    store64(frame + F_MATCHED, 0)
    rule = 0
    if load64(port + P_RULES) != 0:
        rule = find_rule(load64(port + P_RULES), frame, flags, load64(at + VLAN))
    value = hash_of(port, frame)
    queue = choose_queue(port, value)
    if rule != 0:
        queue = steer(port, rule, value, queue)
    elif load64(port + P_CLASS0) != 0:
        queue = confine(port, queue)
    kept = 0
    if queue != 0:
        kept = 4 * load64(queue + R_KEEP_CRC)
    if arrange(port, frame, burst, row, kept) == 0:
        add(port + P_FILTERED, 1)
        return TAKEN
    if rule != 0 and take_rule(port, rule):
        return TAKEN
    if queue == 0:
        add(port + P_NO_QUEUE, 1)
        return TAKEN
    length = load64(frame + F_LENGTH) - kept
    if length > load64(queue + R_MAX_PACKET):
        return drop(queue, RX_LENGTH)
    found = find_places(port, queue, frame)
    if found == NO_ROOM:
        if load64(port + P_RX_ENABLED) == 1:
            return HELD
        return drop(queue, RX_FULL)
    if found != PLACED:
        return drop(queue, found - UNPLACED)
    qword1 = load64(frame + F_QWORD1) | checksum_status(
        frame + F_HEADER_COPY, frame + F_PARSED, burst, row, total, flags
    )
    if value >= 0:
        qword1 |= RX_FLTSTAT_RSS
        store64(frame + F_QWORD0, load64(frame + F_QWORD0) | value << RX_HASH_SHIFT)
    if rule != 0:
        qword1 |= show_flow(frame, value)
    store64(frame + F_QWORD1, qword1)
    deliver_pieces(frame)
    if flags & CSUM_WANTED:
        checksum = completed_checksum(burst, row, total, offload)
        field = start + offset + load64(frame + F_SHIFT)
        patch(frame, field, checksum & 0xFF)
        patch(frame, field + 1, checksum >> 8)
    if kept:
        append_crc(load64(port + P_CRC_TABLE), frame)
    write_back(queue, frame)
    add(queue + Q_BYTES, length)
    add(queue + Q_UNICAST + 8 * load64(frame + F_CAST), 1)
    return TAKEN


@queue_kernel
def push(state: int, burst: int, rows: int) -> int:
    """Deliver the packets of a burst to the guest.

    Frames that are not for this port, or that can't be delivered, are taken and counted. A frame
    for which the guest has posted too few buffers ends the push if one receive queue is enabled,
    and is dropped if there are several, so that one full queue does not stop the others.

    Args:
        state: Address of the words of any receive queue of the port; the hash chooses.
        burst: Address of the burst; checksums may be left to this kernel, segmentation may not.
        rows: Rows of whole packets.

    Returns:
        Rows taken; the port's `P_HOLD` says why it is less.
    """
    port = load64(state + Q_PORT)
    if load64(port + P_RX_ENABLED) == 0:
        store64(port + P_HOLD, HOLD_DISABLED)
        return 0
    # Another thread may be in a push to another queue: it is over after a burst.
    while exchange64(port + P_LOCK, 1) != 0:
        pause()
    store64(port + P_HOLD, HOLD_NONE)
    row = 0
    while row < rows:
        end = row + 1
        while end < rows and load64(burst + (end - 1) * ROW + FLAGS) & LAST == 0:
            end += 1
        if receive(port, burst, row, end) == HELD:
            store64(port + P_HOLD, HOLD_FULL)
            break
        row = end
    store64_release(port + P_LOCK, 0)
    return row
