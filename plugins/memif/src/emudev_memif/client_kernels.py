"""Kernels of a client's rings: `peek` and `release` of an S2C ring, `push` of a C2S ring.

The memory is this side's own, but the server writes in it: of a descriptor only length and flags
are taken from there, each loaded once; where a slot's buffer lies is known from the layout, and
restored whenever the slot is handed over. A server's tail that goes beyond what it was offered
stops the queue (`Q_STATE` `BROKEN`).

Source: memif.md sections 3.2, 3.3, 4 and 8 (data side).
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import ADDRESS, FIRST, FLAGS, LAST, LENGTH, OWN, ROW
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    copy,
    load16_acquire,
    load64,
    load64_relaxed,
    store16_release,
    store64,
    unsigned_below,
)

from .pieces import (
    all_dropped,
    break_peer,
    count_released,
    count_sent,
    disarm,
    drop,
    look_again,
    measure,
    notify,
    own_word,
    refuse,
    store_shown,
    take_part,
    write_row,
)
from .words import (
    DESCRIPTOR,
    DROP_BOUNDS,
    DROP_CHAIN,
    DROP_LENGTH,
    DROP_SEGMENTS,
    FAULT_TAIL,
    MIN_FRAME,
    NEXT,
    ON,
    Q_BUFFERS,
    Q_CAPACITY,
    Q_CURSOR,
    Q_HEAD,
    Q_HELD,
    Q_MASK,
    Q_MAX_FRAME,
    Q_OFFSET,
    Q_REGION,
    Q_RING,
    Q_STATE,
    Q_STRIDE,
    RING_HEAD,
    RING_HEADER,
    RING_TAIL,
    W_BYTES,
    W_ROWS,
    W_SLOTS,
)

__all__ = ["KERNELS", "notify", "peek", "push", "release"]

# What `place` answers; from `LOST` on, a reason for dropping the packet.
PLACED: Final = 0
NO_ROOM: Final = 1
LOST: Final = 16


# -- S2C: packets from the server


@inline
def walk(state: int, row: int, room: int, index: int, left: int, word0: int) -> int:
    """Write the rows of one packet of whatever kind, and find its end.

    Args:
        state: Address of the queue's words.
        row: Address of the row for its first segment.
        room: Rows there.
        index: Counter of its first slot.
        left: Published slots from that on, at least 1.
        word0: The first half of its first descriptor, which is not loaded again.

    Returns:
        Rows written, or -1 - the reason for dropping the packet. `W_SLOTS` and `W_BYTES` are set.
    """
    slots = load64(state + Q_RING) + RING_HEADER
    mask = load64(state + Q_MASK)
    buffers = load64(state + Q_BUFFERS)
    stride = load64(state + Q_STRIDE)
    size = load64(state + Q_CAPACITY)
    most = load64(state + Q_MAX_FRAME)
    reason = -1
    count = 0
    total = 0
    while True:
        length = word0 >> 32 & 0xFFFF_FFFF
        total += length
        if reason < 0:
            if length > size:
                reason = DROP_BOUNDS
            elif length == 0 or total > most:
                reason = DROP_LENGTH
            elif count >= room:
                reason = DROP_SEGMENTS
            else:
                first = FIRST if count == 0 else 0
                address = buffers + ((index + count) & mask) * stride
                write_row(row, address, length, first, own_word(state, index + count + 1))
                row += ROW
        count += 1
        if word0 & NEXT == 0:
            break
        if count == left:
            if reason < 0:
                reason = DROP_CHAIN
            break
        word0 = load64_relaxed(slots + ((index + count) & mask) * DESCRIPTOR)
    if reason < 0 and total < MIN_FRAME:
        reason = DROP_LENGTH
    store64(state + W_SLOTS, count)
    store64(state + W_BYTES, total)
    if reason >= 0:
        return -1 - reason
    row -= ROW
    store64(row + FLAGS, load64(row + FLAGS) | LAST)
    return count


@inline
def offer(state: int, cursor: int, count: int) -> int:
    """Restore slots and offer them to the server again; returns the counter behind them."""
    ring = load64(state + Q_RING)
    mask = load64(state + Q_MASK)
    offset = load64(state + Q_OFFSET)
    stride = load64(state + Q_STRIDE)
    word0 = load64(state + Q_REGION) << 16 | load64(state + Q_CAPACITY) << 32
    for i in range(cursor, cursor + count):
        slot = ring + RING_HEADER + (i & mask) * DESCRIPTOR
        store64(slot, word0)
        store64(slot + 8, offset + (i & mask) * stride)
    cursor = (cursor + count) & 0xFFFF
    head = (cursor + mask + 1) & 0xFFFF
    store64(state + Q_CURSOR, cursor)
    store64(state + Q_HEAD, head)
    store16_release(ring + RING_HEAD, head)
    return cursor


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show the packets that the server has sent, without copying: one row for each descriptor.

    The first call after the ring came up offers the server all buffers. A packet that is not
    acceptable ends the burst if others are before it; if it is the first one, it is dropped,
    counted by reason, and its slots are offered again. One with more segments than `capacity` has
    rows is dropped, too.

    Args:
        state: Address of the words of a queue.
        burst: Address of an ``int64[capacity, 8]`` table; see design, "The burst".
        capacity: Rows that may be written.

    Returns:
        Rows written, of whole packets; 0 if there are none, if nobody is connected, or if the peer
        is broken. They point into memory that the server can change at any time, and are good until
        the ring is detached.
    """
    if load64(state + Q_STATE) != ON:
        return 0
    ring = load64(state + Q_RING)
    cursor = load64(state + Q_CURSOR)
    mask = load64(state + Q_MASK)
    if load64(state + Q_HEAD) != (cursor + mask + 1) & 0xFFFF:
        offer(state, cursor, 0)
    ready = (load16_acquire(ring + RING_TAIL) - cursor) & 0xFFFF
    if ready == 0:
        ready = look_again(state, ring, RING_TAIL, cursor)
        if ready == 0:
            return 0
    if ready > mask + 1:
        return break_peer(state, FAULT_TAIL)
    disarm(state, ring)
    slots = ring + RING_HEADER
    buffers = load64(state + Q_BUFFERS)
    stride = load64(state + Q_STRIDE)
    span = min(load64(state + Q_MAX_FRAME), load64(state + Q_CAPACITY)) - MIN_FRAME + 1
    epoch = own_word(state, 0)
    row = burst
    shown = 0
    packets = 0
    total = 0
    while shown < min(ready, capacity):
        index = (cursor + shown) & mask
        word0 = load64_relaxed(slots + index * DESCRIPTOR)
        length = word0 >> 32 & 0xFFFF_FFFF
        if word0 & NEXT == 0 and unsigned_below(length - MIN_FRAME, span):
            shown += 1
            own = epoch | ((cursor + shown) & 0xFFFF)
            write_row(row, buffers + index * stride, length, FIRST | LAST, own)
            row += ROW
            packets += 1
            total += length
        else:
            took = walk(state, row, capacity - shown, cursor + shown, ready - shown, word0)
            if took > 0:
                shown += took
                row += took * ROW
                packets += 1
                total += load64(state + W_BYTES)
            elif shown > 0:
                break
            else:
                drop(state, -1 - took, 1)
                took = load64(state + W_SLOTS)
                cursor = offer(state, cursor, took)
                ready -= took
    store_shown(state, shown, total, packets)
    if shown == 0:
        all_dropped(state, ring, RING_TAIL, cursor)
    return shown


@queue_kernel
def release(state: int, burst: int, rows: int) -> int:
    """Offer the slots of the first `rows` rows to the server again.

    Rows of before a detach, or that are not the next ones, complete nothing.

    Args:
        state: Address of the words of the queue.
        burst: Address of the burst, as `peek` left it.
        rows: Rows of whole packets, from the first one on.

    Returns:
        0.
    """
    if rows <= 0 or load64(state + Q_STATE) != ON:
        return 0
    cursor = load64(state + Q_CURSOR)
    end = (cursor + rows) & 0xFFFF
    if load64(burst + (rows - 1) * ROW + OWN) != own_word(state, end):
        return 0
    count_released(state, burst, rows)
    offer(state, cursor, rows)
    return 0


# -- C2S: packets for the server


@inline
def place(state: int, row: int, rows: int, index: int, left: int) -> int:
    """Put one packet of whatever kind into buffers.

    Args:
        state: Address of the queue's words.
        row: Address of its first row.
        rows: Rows there.
        index: Counter of the first slot for it.
        left: Free slots from that on, at least 1.

    Returns:
        `PLACED`, `NO_ROOM`, or `LOST` plus the reason for dropping it. `W_ROWS` has its rows,
        `W_SLOTS` the slots that it takes, `W_BYTES` its bytes.
    """
    slots = load64(state + Q_RING) + RING_HEADER
    mask = load64(state + Q_MASK)
    size = load64(state + Q_CAPACITY)
    todo = measure(state, row, rows)
    if todo == 0 or todo > load64(state + Q_MAX_FRAME) or todo > size * (mask + 1):
        return LOST + DROP_LENGTH
    if todo > size * left:
        return NO_ROOM
    stride = load64(state + Q_STRIDE)
    region = load64(state + Q_REGION) << 16
    count = 0
    while todo > 0:
        at = ((index + count) & mask) * stride
        slot = slots + ((index + count) & mask) * DESCRIPTOR
        part = min(size, todo)
        take_part(state, load64(state + Q_BUFFERS) + at, part)
        todo -= part
        more = NEXT if todo > 0 else 0
        store64(slot, more | region | part << 32)
        store64(slot + 8, load64(state + Q_OFFSET) + at)
        count += 1
    store64(state + W_SLOTS, count)
    return PLACED


@queue_kernel
def push(state: int, burst: int, rows: int) -> int:
    """Copy packets into free buffers and hand them to the server with one store.

    A packet longer than a buffer is chained. Dropped and counted: empty or too long ones, ones for
    which the whole ring is not enough, and all of them while nobody is connected.

    Args:
        state: Address of the words of a queue.
        burst: Address of the burst; nothing may be left to do in it, such as checksums.
        rows: Rows of whole packets.

    Returns:
        Rows taken; fewer than given if the server has given back too few buffers.
    """
    if load64(state + Q_STATE) != ON:
        return refuse(state, burst, rows)
    ring = load64(state + Q_RING)
    cursor = load64(state + Q_CURSOR)
    mask = load64(state + Q_MASK)
    room = mask + 1 - ((cursor - load16_acquire(ring + RING_TAIL)) & 0xFFFF)
    if room < 0:
        break_peer(state, FAULT_TAIL)
        return refuse(state, burst, rows)
    slots = ring + RING_HEADER
    buffers = load64(state + Q_BUFFERS)
    stride = load64(state + Q_STRIDE)
    offset = load64(state + Q_OFFSET)
    region = load64(state + Q_REGION) << 16
    most = min(load64(state + Q_MAX_FRAME), load64(state + Q_CAPACITY))
    row = burst
    done = 0
    used = 0
    packets = 0
    total = 0
    held = 0
    while done < rows:
        if used == room:
            held = 1
            break
        length = load64(row + LENGTH)
        if load64(row + FLAGS) & LAST and unsigned_below(length - 1, most):
            index = (cursor + used) & mask
            at = index * stride
            copy(buffers + at, load64(row + ADDRESS), length)
            slot = slots + index * DESCRIPTOR
            store64(slot, region | length << 32)
            store64(slot + 8, offset + at)
            used += 1
            done += 1
            row += ROW
            packets += 1
            total += length
        else:
            status = place(state, row, rows - done, cursor + used, room - used)
            if status == NO_ROOM:
                held = 1
                break
            took = load64(state + W_ROWS)
            done += took
            row += took * ROW
            used += load64(state + W_SLOTS)
            if status == PLACED:
                packets += 1
                total += load64(state + W_BYTES)
            else:
                drop(state, status - LOST, 1)
    if used != 0:
        cursor = (cursor + used) & 0xFFFF
        store16_release(ring + RING_HEAD, cursor)
        count_sent(state, cursor, packets, total)
    store64(state + Q_HELD, held)
    return done


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (peek, release, push, notify)
