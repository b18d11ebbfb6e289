"""Kernels of a transmit ring: `peek` shows frames, `release` completes descriptors.

`peek` walks from the head to the tail, packet by packet, and writes burst rows that point into
guest memory. It changes nothing that the guest sees, except for packets that can't be sent: they
are completed and counted as soon as they are the first of the ring, so that each is counted once.
Header copies, needed where lengths or checksums have to be put right, lie in the queue's scratch
until the next `peek`.

Each descriptor is read once, checked, then used; `release` reads the descriptors again to see which
of them ask for a report, and trusts nothing else in them.

Source: avf.md sections 6.1 to 6.5.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    ADDRESS,
    CRC32C_WANTED,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    GSO_MASK,
    HASH,
    LAST,
    LENGTH,
    OFFLOAD,
    OUTER_VLAN_PRESENT,
    OWN,
    ROW,
    TIME,
    VLAN,
    VLAN_PRESENT,
)
from emudev_net.jit import inline, queue_kernel
from emudev_net.memory import READ, span, translate
from emudev_net.primitives import (
    load8,
    load16,
    load32,
    load32_acquire,
    load64,
    load64_relaxed,
    store64,
    store64_relaxed,
    store64_release,
)

from .descriptors import (
    CTX_IL2TAG2,
    CTX_L2TAG2_SHIFT,
    CTX_TSO,
    DTYPE_CONTEXT,
    DTYPE_DATA,
    DTYPE_DONE,
    DTYPE_MASK,
    TX_DUMMY,
    TX_EOP,
    TX_IL2TAG1,
    TX_L2TAG1_SHIFT,
    TX_RS,
    TX_SIZE,
    TX_SIZE_MASK,
    TX_SIZE_SHIFT,
)
from .interrupts import raise_due
from .ring_memory import add, ask_messages, mark_sent, ring_entry
from .shaper import allowance, charge, hold
from .tx_offloads import BAD, FULL, PARTIAL, READY, prepare_checksum, prepare_segmentation, put_tag
from .words import (
    BAD_ADDRESS,
    BAD_CONTEXT,
    BAD_COUNT,
    BAD_LENGTH,
    BAD_TAIL,
    BAD_TYPE,
    DUMMY,
    ON,
    P_INSERT_OUTER,
    P_INSERT_TPID,
    P_INSERT_TPID2,
    P_MAX_FRAME,
    P_UNANSWERED,
    Q_BROADCAST,
    Q_BYTES,
    Q_DOORBELL,
    Q_ENABLED,
    Q_EPOCH,
    Q_HEAD,
    Q_LENGTH,
    Q_MEMORY,
    Q_MULTICAST,
    Q_PORT,
    Q_REASONS,
    Q_UNICAST,
    STOPPED,
    T_BUCKET,
    T_CLASS_BUCKET,
    T_CONTEXT,
    T_CONTEXT0,
    T_DATA,
    T_DROPS,
    T_FLAGS,
    T_NEXT,
    T_OFFLOAD,
    T_ROWS,
    T_SCRATCH,
    T_SCRATCH_USED,
    T_TOTAL,
)

__all__ = ["peek", "release"]

#: Most descriptors of a packet; drivers need up to 40 (avf.md 9.3).
MAX_DESCRIPTORS: Final = 128
#: Most rows of a packet; a caller that offers fewer may have to wait for ever.
MAX_ROWS: Final = 128
MIN_FRAME: Final = 17  #: shortest frame that hardware takes; avf.md 6.2
WIRE_FRAME: Final = 60  #: shorter ones are padded to this
TPID_OUTER: Final = 0x88A8  #: of the burst's outer tags


@inline
def emit(memory: int, burst: int, row: int, capacity: int, guest: int, size: int) -> int:
    """Write the rows of one buffer; it may lie in several regions that adjoin.

    Returns:
        The row behind, -1 if `capacity` is too small, or -2 if it is not all readable.
    """
    part = size
    host = translate(memory, guest, part, READ)  # nearly always in one region
    while size > 0:
        if host == 0:
            part = span(memory, guest, size, READ)
            host = translate(memory, guest, part, READ)
            if host == 0:
                return -2
        if row >= capacity:
            return -1
        at = burst + row * ROW
        store64(at + ADDRESS, host)
        store64(at + LENGTH, part)
        store64(at + FLAGS, 0)
        guest += part
        size -= part
        row += 1
        host = 0
    return row


@inline
def walk(state: int, burst: int, row: int, capacity: int, index: int, tail: int) -> int:
    """Read the descriptors of one packet from `index` on and write its rows from `row` on.

    The results are in the queue's words from `T_NEXT`; rows are good only if `READY` is returned.

    Returns:
        `READY`, `PARTIAL` (its end is not there yet), `FULL` (not enough rows), or `BAD` plus the
        reason for dropping it, with `T_NEXT` behind its last descriptor.
    """
    length = load64(state + Q_LENGTH)
    memory = load64(state + Q_MEMORY)
    start = row
    reason = -1
    count = 0
    pieces = 0
    total = 0
    data = 0
    context0 = 0
    context = 0
    ended = 0
    while index != tail and ended == 0:
        entry = ring_entry(state, index, TX_SIZE)
        if entry == 0:
            return PARTIAL
        qword0 = load64(entry)
        qword1 = load64(entry + 8)
        index += 1
        if index == length:
            index = 0
        count += 1
        kind = qword1 & DTYPE_MASK
        if kind == DTYPE_DATA:
            size = qword1 >> TX_SIZE_SHIFT & TX_SIZE_MASK
            if pieces == 0:
                data = qword1
            pieces += 1
            total += size
            if count > MAX_DESCRIPTORS:
                reason = BAD_COUNT
            elif size == 0:
                reason = BAD_LENGTH
            if reason < 0:
                row = emit(memory, burst, row, capacity, qword0, size)
                if row == -1:
                    if start > 0 or capacity < MAX_ROWS:
                        return FULL
                    reason = BAD_COUNT
                elif row == -2:
                    if ask_messages(state):
                        raise_due(load64(state + Q_PORT))
                        return PARTIAL
                    reason = BAD_ADDRESS
            if qword1 & TX_EOP:
                ended = 1
        elif kind == DTYPE_CONTEXT:
            if pieces != 0 or context != 0:
                reason = BAD_CONTEXT
            context0 = qword0
            context = qword1
        else:
            reason = BAD_TYPE
            ended = 1
    if ended == 0:
        if count <= MAX_DESCRIPTORS:
            return PARTIAL
        reason = BAD_COUNT
    store64(state + T_NEXT, index)
    if reason >= 0:
        return BAD + reason
    if data & TX_DUMMY:
        return BAD + DUMMY
    store64(state + T_ROWS, row)
    store64(state + T_TOTAL, total)
    store64(state + T_DATA, data)
    store64(state + T_CONTEXT, context)
    store64(state + T_CONTEXT0, context0)
    return READY


@inline
def finish(state: int, burst: int, row: int, capacity: int) -> int:
    """Fill in the metadata of the packet that `walk` found at `row`.

    Returns:
        `READY` with `T_ROWS` behind its last row, `FULL`, or `BAD` plus a reason.
    """
    port = load64(state + Q_PORT)
    total = load64(state + T_TOTAL)
    data = load64(state + T_DATA)
    context = load64(state + T_CONTEXT)
    if total < MIN_FRAME:
        return BAD + BAD_LENGTH
    if context & CTX_TSO:
        status = prepare_segmentation(state, burst, row, capacity)
    elif total > load64(port + P_MAX_FRAME):
        status = BAD + BAD_LENGTH
    else:
        status = prepare_checksum(state, burst, row, capacity)
    if status != READY:
        return status
    flags = load64(state + T_FLAGS) | FIRST
    end = load64(state + T_ROWS)
    # The CRC of SCTP covers the frame to its end, so padding would change it: left to the receiver.
    if total < WIRE_FRAME and flags & CRC32C_WANTED == 0:
        if end >= capacity:
            return FULL if row > 0 else BAD + BAD_COUNT
        at = burst + end * ROW
        store64(at + ADDRESS, load64(state + T_SCRATCH))
        store64(at + LENGTH, WIRE_FRAME - total)
        store64(at + FLAGS, 0)
        end += 1
        store64(state + T_ROWS, end)
    tag = 0
    offload = load64(state + T_OFFLOAD)
    if (data & TX_IL2TAG1) | (context & CTX_IL2TAG2):
        tag1 = data >> TX_L2TAG1_SHIFT & 0xFFFF
        tag2 = load64(state + T_CONTEXT0) >> CTX_L2TAG2_SHIFT & 0xFFFF
        flags |= VLAN_PRESENT
        if data & TX_IL2TAG1 == 0:
            tag = tag2 | load64(port + P_INSERT_TPID2) << 16
        elif context & CTX_IL2TAG2 == 0:
            tag = tag1 | load64(port + P_INSERT_TPID) << 16
        elif load64(port + P_INSERT_OUTER) == TPID_OUTER:
            flags |= OUTER_VLAN_PRESENT
            tag = tag1 | load64(port + P_INSERT_TPID) << 16 | tag2 << 48
        else:
            # A burst can't say any other ethertype of an outer tag: the inner one goes inside.
            tag = tag2 | load64(port + P_INSERT_OUTER) << 16
            if put_tag(state, burst, row, capacity, load64(port + P_INSERT_TPID), tag1) == 0:
                return FULL if row > 0 else BAD + BAD_COUNT
            end = load64(state + T_ROWS)
            if flags & (CSUM_WANTED | CRC32C_WANTED):
                offload += 4
            if flags & GSO_MASK:
                offload += 4 << 32
    at = burst + row * ROW
    store64(at + FLAGS, flags)
    store64(at + OFFLOAD, offload)
    store64(at + VLAN, tag)
    store64(at + HASH, 0)
    store64(at + TIME, 0)
    own = load64(state + T_NEXT) | load64(state + Q_EPOCH) << 32
    store64(at + OWN, own)
    at = burst + (end - 1) * ROW
    store64(at + FLAGS, load64(at + FLAGS) | LAST)
    store64(at + OWN, own)
    return READY


@inline
def complete(state: int, index: int, end: int) -> None:
    """Report the descriptors from `index` up to `end` that ask for it, and move the head."""
    length = load64(state + Q_LENGTH)
    reported = 0
    while index != end:
        entry = ring_entry(state, index, TX_SIZE)
        if entry != 0:
            qword1 = load64(entry + 8)
            if qword1 & TX_RS and qword1 & DTYPE_MASK != DTYPE_CONTEXT:
                store64_release(entry + 8, DTYPE_DONE)
                reported = 1
        index += 1
        if index == length:
            index = 0
    store64(state + Q_HEAD, end)
    if reported:
        mark_sent(state)


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show the packets that the guest has queued, without copying their payload.

    Args:
        state: Address of the words of a transmit queue.
        burst: Address of an ``int64[capacity, 8]`` table; see design, "The burst".
        capacity: Rows that may be written, at least `MAX_ROWS` to be sure of every packet.

    Returns:
        Rows written, of whole packets. They point into guest memory and the queue's scratch, and
        are good until the next `peek`, `release`, or change of the memory table.
    """
    if load64(state + Q_ENABLED) != ON:
        return 0
    tail = load32_acquire(load64(state + Q_DOORBELL))
    if tail >= load64(state + Q_LENGTH):
        add(state + Q_REASONS + 8 * BAD_TAIL, 1)
        store64(state + Q_ENABLED, STOPPED)
        return 0
    store64(state + T_SCRATCH_USED, load64(state + T_SCRATCH) + 64)
    index = load64(state + Q_HEAD)
    row = 0
    dropped = 0
    limited = load64(state + T_BUCKET) | load64(state + T_CLASS_BUCKET)
    left = 0
    if limited != 0 and index != tail:
        left = allowance(state)
    while index != tail:
        if limited != 0 and left < 0:
            hold(state)
            break
        status = walk(state, burst, row, capacity, index, tail)
        if status == READY:
            status = finish(state, burst, row, capacity)
        if status == READY:
            row = load64(state + T_ROWS)
            index = load64(state + T_NEXT)
            left -= load64(state + T_TOTAL)
        elif status < BAD or row > 0:
            break
        else:
            add(state + Q_REASONS + 8 * (status - BAD), 1)
            if status != BAD + DUMMY:
                add(state + T_DROPS, 1)
            end = load64(state + T_NEXT)
            complete(state, index, end)
            index = end
            dropped = 1
    if dropped and row == 0:
        # Nothing follows for which the caller would call notify.
        raise_due(load64(state + Q_PORT))
    return row


@inline
def count_packets(state: int, burst: int, rows: int) -> int:
    """Add whole packets to the statistics, segmented ones as they will be on the wire.

    Returns:
        Their bytes.
    """
    size = 0
    packet = 0
    first = burst
    for row in range(rows):
        at = burst + row * ROW
        flags = load64(at + FLAGS)
        if flags & FIRST:
            first = at
            packet = 0
        packet += load64(at + LENGTH)
        if flags & LAST:
            offload = load64(first + OFFLOAD)
            mss = offload >> 48 & 0xFFFF
            segments = 1
            if mss != 0:
                header = offload >> 32 & 0xFFFF
                segments = (packet - header + mss - 1) // mss
                packet += (segments - 1) * header
            size += packet
            counter = Q_UNICAST
            address = load64(first + ADDRESS)
            if load8(address) & 1:
                counter = Q_MULTICAST
                # A first piece below 6 bytes is a curiosity; it counts as multicast.
                if (
                    load64(first + LENGTH) >= 6
                    and load32(address) == 0xFFFF_FFFF
                    and load16(address + 4) == 0xFFFF
                ):
                    counter = Q_BROADCAST
            add(state + counter, segments)
    add(state + Q_BYTES, size)
    return size


@queue_kernel
def release(state: int, burst: int, rows: int) -> int:
    """Complete the packets of the first `rows` rows that `peek` showed.

    Descriptors that ask for it get the done mark, the head moves, and the vector becomes due. Rows
    of before a disable or a reset complete nothing.

    Args:
        state: Address of the words of a transmit queue.
        burst: Address of the burst, as `peek` left it.
        rows: Rows of whole packets, from the first one on.

    Returns:
        0.
    """
    if rows <= 0 or load64(state + Q_ENABLED) != ON:
        return 0
    own = load64(burst + (rows - 1) * ROW + OWN)
    end = own & 0xFFFF
    if own >> 32 != load64(state + Q_EPOCH) or end >= load64(state + Q_LENGTH):
        return 0
    size = count_packets(state, burst, rows)
    if load64(state + T_BUCKET) | load64(state + T_CLASS_BUCKET):
        charge(state, size)
    complete(state, load64(state + Q_HEAD), end)
    port = load64(state + Q_PORT)
    if load64_relaxed(port + P_UNANSWERED) != 0:
        store64_relaxed(port + P_UNANSWERED, 0)
    return 0
