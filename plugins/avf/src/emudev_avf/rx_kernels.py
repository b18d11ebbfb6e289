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
    CRC32C_WANTED,
    CSUM_WANTED,
    FLAGS,
    LAST,
    LENGTH,
    OFFLOAD,
    ROW,
    VLAN,
)
from emudev_net.checksum import gather
from emudev_net.jit import inline, queue_kernel
from emudev_net.memory import WRITE, span, translate
from emudev_net.parse import OUT_KIND, parse
from emudev_net.primitives import (
    exchange64,
    load32_acquire,
    load64,
    pause,
    store64,
    store64_release,
)

from .descriptors import (
    RX_FLTSTAT_RSS,
    RX_HASH_SHIFT,
    RX_MAX_BUFFERS,
    RX_SIZE,
)
from .flow_tables import NO_FLOW, confine, find_rule, show_flow, steer, take_rule
from .interrupts import raise_due
from .pacing import UNLIMITED, count_given, frames_allowed, pacing_vector, self_paced
from .ring_memory import add, ask_messages, ring_entry
from .rss_kernels import choose_queue, hash_of
from .rx_checksums import checksum_status, complete_checksum, is_impossible
from .rx_patience import may_wait
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
    F_PTYPE,
    F_QWORD0,
    F_QWORD1,
    F_TIME,
    F_TOTAL,
    HEADER_BYTES,
    MAX_PIECES,
    MAX_PLACES,
    append_crc,
    deliver_pieces,
)
from .rx_tags import ARRANGED, REFUSED, arrange
from .rx_tunnels import is_tunnel, packet_type, tunnel_status
from .rx_writeback import reject, write_back
from .words import (
    HOLD_DISABLED,
    HOLD_FULL,
    HOLD_NONE,
    HOLD_PACED,
    P_CLASS0,
    P_CRC_TABLE,
    P_HOLD,
    P_LOCK,
    P_RULES,
    P_RX_ENABLED,
    P_RX_QUEUES,
    P_SCRATCH,
    Q_BYTES,
    Q_DOORBELL,
    Q_ENABLED,
    Q_HEAD,
    Q_LENGTH,
    Q_MEMORY,
    Q_PORT,
    Q_REASONS,
    Q_UNICAST,
    R_BUFFER_SIZE,
    R_FULL_SINCE,
    R_KEEP_CRC,
    R_LOST,
    R_MAX_PACKET,
    RX_ADDRESS,
    RX_BAD_TAIL,
    RX_DISABLED,
    RX_FILTERED,
    RX_FULL,
    RX_LENGTH,
    RX_RULE,
    RX_SOURCE,
    RX_VLAN_FILTERED,
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
def leave(queue: int, reason: int) -> int:
    """Count a frame that is not delivered; it is taken from the burst all the same."""
    add(queue + Q_REASONS + 8 * reason, 1)
    return TAKEN


@inline
def lose(queue: int, frame: int, reason: int) -> int:
    """Count a frame that was for the guest, and finds no way to it."""
    add(queue + R_LOST + 8 * load64(frame + F_CAST), 1)
    return leave(queue, reason)


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
    tail = load32_acquire(load64(queue + Q_DOORBELL))
    if tail >= ring:
        store64(queue + Q_ENABLED, STOPPED)
        return UNPLACED + RX_BAD_TAIL
    free = tail - head
    if free < 0:
        free += ring
    if free < need:
        return NO_ROOM
    memory = load64(queue + Q_MEMORY)
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
            if host == 0 and ask_messages(queue):
                raise_due(port)
                return NO_ROOM
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
def receive(port: int, burst: int, row: int, end: int) -> int:
    """Deliver the packet of the rows from `row` up to `end`, or drop and count it.

    Returns:
        `TAKEN`, or `HELD` if it is to wait for buffers.
    """
    frame = load64(port + P_SCRATCH)
    first = load64(port + P_RX_QUEUES)
    if look(frame, burst, row, end) == 0:
        return leave(first, RX_SOURCE)
    at = burst + row * ROW
    flags = load64(at + FLAGS)
    offload = load64(at + OFFLOAD)
    total = load64(frame + F_TOTAL)
    wanted = flags & (CSUM_WANTED | CRC32C_WANTED)
    if wanted and is_impossible(flags, offload, total):
        return leave(first, RX_SOURCE)
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
    seen = queue if queue != 0 else first
    arranged = arrange(port, frame, burst, row, kept)
    if arranged != ARRANGED:
        return leave(seen, RX_FILTERED if arranged == REFUSED else RX_VLAN_FILTERED)
    if rule != 0 and take_rule(port, rule):
        return leave(seen, RX_RULE)
    if queue == 0:
        return lose(first, frame, RX_DISABLED)
    length = load64(frame + F_LENGTH) - kept
    if length > load64(queue + R_MAX_PACKET):
        return lose(queue, frame, RX_LENGTH)
    found = find_places(port, queue, frame)
    if found == NO_ROOM:
        return HELD if may_wait(port, queue) else lose(queue, frame, RX_FULL)
    store64(queue + R_FULL_SINCE, 0)
    if found != PLACED:
        return lose(queue, frame, found - UNPLACED)
    kind = packet_type(frame)
    store64(frame + F_PTYPE, kind)
    qword1 = load64(frame + F_QWORD1)
    if is_tunnel(kind):
        qword1 |= tunnel_status(port, frame, burst, row, flags, offload)
    else:
        qword1 |= checksum_status(
            port, frame + F_HEADER_COPY, frame + F_PARSED, 0, burst, row, total, flags
        )
    if value >= 0:
        qword1 |= RX_FLTSTAT_RSS
        store64(frame + F_QWORD0, load64(frame + F_QWORD0) | value << RX_HASH_SHIFT)
    if rule != 0:
        qword1 |= show_flow(frame, value)
    store64(frame + F_QWORD1, qword1)
    deliver_pieces(frame)
    if wanted:
        complete_checksum(port, frame, burst, row, total, flags, offload)
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
    for which the guest has posted too few buffers ends the push; in a queue that has been full for
    long it is dropped if there are others, so that it does not stop them (`rx_patience`).

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
    store64(load64(port + P_SCRATCH) + F_TIME, 0)
    vector = pacing_vector(port)
    allowed = UNLIMITED if vector == 0 else 0
    queue = load64(port + P_RX_QUEUES)
    head = load64(queue + Q_HEAD)
    given = 0
    row = 0
    while row < rows:
        if given >= allowed:
            count_given(port, vector, given)
            given = 0
            allowed = frames_allowed(port, vector)
            if allowed == 0:
                store64(port + P_HOLD, HOLD_PACED)
                break
        end = row + 1
        while end < rows and load64(burst + (end - 1) * ROW + FLAGS) & LAST == 0:
            end += 1
        if receive(port, burst, row, end) == HELD:
            store64(port + P_HOLD, HOLD_FULL)
            break
        row = end
        if load64(queue + Q_HEAD) != head:
            head = load64(queue + Q_HEAD)
            kind = load64(load64(port + P_SCRATCH) + F_PARSED + 8 * OUT_KIND)
            given += 1 - self_paced(kind)
    if vector != 0:
        count_given(port, vector, given)
    store64_release(port + P_LOCK, 0)
    return row
