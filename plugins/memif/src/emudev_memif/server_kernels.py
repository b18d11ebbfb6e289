"""Kernels of a server's rings: `peek` and `release` of a C2S ring, `push` of an S2C ring.

The memory is the client's, so nothing in it is believed: each field of a descriptor is loaded once,
its region and bounds are checked, then it is used. This side's counters live in the queue's words;
those in the ring are only told to the client, never read back. A client's head beyond the ring
stops the queue (`Q_STATE` `BROKEN`), a bad descriptor costs its packet, and its slots are given
back.

A packet of one buffer takes a short way through the loops. Everything else (chains, packets of
several segments, whatever is wrong) goes through `walk` and `place`.

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
    store16,
    store16_release,
    store32,
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
    DROP_BUFFER,
    DROP_CHAIN,
    DROP_LENGTH,
    DROP_REGION,
    DROP_SEGMENTS,
    FAULT_HEAD,
    MIN_FRAME,
    NEXT,
    ON,
    Q_CURSOR,
    Q_HELD,
    Q_MASK,
    Q_MAX_FRAME,
    Q_REGIONS,
    Q_RING,
    Q_STATE,
    REGIONS,
    RING_HEAD,
    RING_HEADER,
    RING_TAIL,
    UNUSUAL,
    W_BYTES,
    W_ROWS,
    W_SLOTS,
)

__all__ = ["KERNELS", "notify", "peek", "push", "release"]

#: The region index in a descriptor's first word, where `UNUSUAL` says that it is below 256.
REGION: Final = 0x00FF_0000

# What `place` answers; from `LOST` on, a reason for dropping the packet.
PLACED: Final = 0
NO_ROOM: Final = 1
LOST: Final = 16


# -- C2S: packets from the client


@inline
def walk(state: int, row: int, room: int, index: int, left: int, word0: int, word1: int) -> int:
    """Write the rows of one packet of whatever kind, and find its end.

    Args:
        state: Address of the queue's words.
        row: Address of the row for its first segment.
        room: Rows there.
        index: Counter of its first slot.
        left: Published slots from that on, at least 1.
        word0: The first half of its first descriptor, which is not loaded again.
        word1: The second half.

    Returns:
        Rows written, or -1 - the reason for dropping the packet. `W_SLOTS` and `W_BYTES` are set.
    """
    slots = load64(state + Q_RING) + RING_HEADER
    mask = load64(state + Q_MASK)
    table = load64(state + Q_REGIONS)
    most = load64(state + Q_MAX_FRAME)
    reason = -1
    count = 0
    total = 0
    while True:
        length = word0 >> 32 & 0xFFFF_FFFF
        region = word0 >> 16 & 0xFFFF
        offset = word1 & 0xFFFF_FFFF
        entry = table + 16 * (region & 0xFF)
        size = load64(entry + 8)
        count += 1
        total += length
        if reason < 0:
            if region >= REGIONS or size == 0:
                reason = DROP_REGION
            elif offset + length > size:
                reason = DROP_BOUNDS
            elif length == 0 or total > most:
                reason = DROP_LENGTH
            elif count > room:
                reason = DROP_SEGMENTS
            else:
                first = FIRST if count == 1 else 0
                own = own_word(state, index + count)
                write_row(row, load64(entry) + offset, length, first, own)
                row += ROW
        if word0 & NEXT == 0:
            break
        if count == left:
            if reason < 0:
                reason = DROP_CHAIN
            break
        slot = slots + ((index + count) & mask) * DESCRIPTOR
        word0 = load64_relaxed(slot)
        word1 = load64_relaxed(slot + 8)
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
def give_back(state: int, cursor: int, count: int) -> int:
    """Give back the slots of a packet that is not shown; returns the counter behind them."""
    ring = load64(state + Q_RING)
    mask = load64(state + Q_MASK)
    for i in range(count):
        store16(ring + RING_HEADER + ((cursor + i) & mask) * DESCRIPTOR, 0)
    cursor = (cursor + count) & 0xFFFF
    store64(state + Q_CURSOR, cursor)
    store16_release(ring + RING_TAIL, cursor)
    return cursor


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show the packets that the client has sent, without copying: one row for each descriptor.

    A packet that is not acceptable ends the burst if others are before it; if it is the first one,
    it is dropped, counted by reason, and its slots are given back. One with more segments than
    `capacity` has rows is dropped, too.

    Args:
        state: Address of the words of a queue.
        burst: Address of an ``int64[capacity, 8]`` table; see design, "The burst".
        capacity: Rows that may be written.

    Returns:
        Rows written, of whole packets; 0 if there are none, if nobody is connected, or if the peer
        is broken. They point into the client's memory, which the client can change at any time, and
        are good until the ring is detached.
    """
    if load64(state + Q_STATE) != ON:
        return 0
    ring = load64(state + Q_RING)
    cursor = load64(state + Q_CURSOR)
    ready = (load16_acquire(ring + RING_HEAD) - cursor) & 0xFFFF
    if ready == 0:
        ready = look_again(state, ring, RING_HEAD, cursor)
        if ready == 0:
            return 0
    mask = load64(state + Q_MASK)
    if ready > mask + 1:
        return break_peer(state, FAULT_HEAD)
    disarm(state, ring)
    slots = ring + RING_HEADER
    table = load64(state + Q_REGIONS)
    span = load64(state + Q_MAX_FRAME) - MIN_FRAME + 1
    epoch = own_word(state, 0)
    row = burst
    shown = 0
    packets = 0
    total = 0
    while shown < min(ready, capacity):
        slot = slots + ((cursor + shown) & mask) * DESCRIPTOR
        word0 = load64_relaxed(slot)
        word1 = load64_relaxed(slot + 8)
        length = word0 >> 32 & 0xFFFF_FFFF
        offset = word1 & 0xFFFF_FFFF
        entry = table + (word0 >> 16 & 0xFF) * 16
        if (
            word0 & UNUSUAL == 0
            and unsigned_below(length - MIN_FRAME, span)
            and offset + length <= load64(entry + 8)
        ):
            shown += 1
            own = epoch | ((cursor + shown) & 0xFFFF)
            write_row(row, load64(entry) + offset, length, FIRST | LAST, own)
            row += ROW
            packets += 1
            total += length
        else:
            room = capacity - shown
            took = walk(state, row, room, cursor + shown, ready - shown, word0, word1)
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
                cursor = give_back(state, cursor, took)
                ready -= took
    store_shown(state, shown, total, packets)
    if shown == 0:
        all_dropped(state, ring, RING_HEAD, cursor)
    return shown


@queue_kernel
def release(state: int, burst: int, rows: int) -> int:
    """Give the slots of the first `rows` rows back to the client.

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
    ring = load64(state + Q_RING)
    if count_released(state, burst, rows) != rows:
        # Chains: some senders keep the flags of a slot that they use again.
        mask = load64(state + Q_MASK)
        for i in range(rows):
            if load64(burst + i * ROW + FLAGS) & LAST == 0:
                store16(ring + RING_HEADER + ((cursor + i) & mask) * DESCRIPTOR, 0)
    store64(state + Q_CURSOR, end)
    store16_release(ring + RING_TAIL, end)
    return 0


# -- S2C: packets for the client


@inline
def empty(state: int, index: int, count: int) -> None:
    """Make slots say that they hold nothing."""
    slots = load64(state + Q_RING) + RING_HEADER
    mask = load64(state + Q_MASK)
    for i in range(count):
        slot = slots + ((index + i) & mask) * DESCRIPTOR
        store16(slot, 0)
        store32(slot + 4, 0)


@inline
def place(state: int, row: int, rows: int, index: int, left: int, word0: int, word1: int) -> int:
    """Put one packet of whatever kind into the client's buffers.

    Args:
        state: Address of the queue's words.
        row: Address of its first row.
        rows: Rows there.
        index: Counter of the first slot for it.
        left: Offered slots from that on, at least 1.
        word0: The first half of its first descriptor, which is not loaded again.
        word1: The second half.

    Returns:
        `PLACED`, `NO_ROOM`, or `LOST` plus the reason for dropping it. `W_ROWS` has its rows,
        `W_SLOTS` the slots that are done with it, `W_BYTES` its bytes.
    """
    slots = load64(state + Q_RING) + RING_HEADER
    mask = load64(state + Q_MASK)
    table = load64(state + Q_REGIONS)
    todo = measure(state, row, rows)
    if todo == 0 or todo > load64(state + Q_MAX_FRAME):
        return LOST + DROP_LENGTH
    count = 0
    while True:
        size = word0 >> 32 & 0xFFFF_FFFF
        region = word0 >> 16 & 0xFFFF
        offset = word1 & 0xFFFF_FFFF
        entry = table + 16 * (region & 0xFF)
        slot = slots + ((index + count) & mask) * DESCRIPTOR
        count += 1
        if region >= REGIONS or size == 0 or offset + size > load64(entry + 8):
            empty(state, index, count)
            store64(state + W_SLOTS, count)
            return LOST + DROP_BUFFER
        part = min(size, todo)
        take_part(state, load64(entry) + offset, part)
        todo -= part
        # A slot that is filled up keeps its length: one that is not published after all is as good
        # as it was.
        more = NEXT if todo > 0 else 0
        store64(slot, more | region << 16 | part << 32)
        if todo == 0:
            store64(state + W_SLOTS, count)
            return PLACED
        if count == left:
            # The whole ring is not enough, and it will not get larger.
            return LOST + DROP_LENGTH if left > mask else NO_ROOM
        slot = slots + ((index + count) & mask) * DESCRIPTOR
        word0 = load64_relaxed(slot)
        word1 = load64_relaxed(slot + 8)


@queue_kernel
def push(state: int, burst: int, rows: int) -> int:
    """Copy packets into the buffers that the client has offered; publish them with one store.

    A packet longer than a buffer is chained. Dropped and counted: empty or too long ones, ones for
    which the whole ring is not enough, ones that meet a buffer which does not exist (it is given
    back empty), and all of them while nobody is connected.

    Args:
        state: Address of the words of a queue.
        burst: Address of the burst; nothing may be left to do in it, such as checksums.
        rows: Rows of whole packets.

    Returns:
        Rows taken; fewer than given if the client has offered too few buffers.
    """
    if load64(state + Q_STATE) != ON:
        return refuse(state, burst, rows)
    ring = load64(state + Q_RING)
    cursor = load64(state + Q_CURSOR)
    mask = load64(state + Q_MASK)
    room = (load16_acquire(ring + RING_HEAD) - cursor) & 0xFFFF
    if room > mask + 1:
        break_peer(state, FAULT_HEAD)
        return refuse(state, burst, rows)
    slots = ring + RING_HEADER
    table = load64(state + Q_REGIONS)
    most = load64(state + Q_MAX_FRAME)
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
        slot = slots + ((cursor + used) & mask) * DESCRIPTOR
        word0 = load64_relaxed(slot)
        word1 = load64_relaxed(slot + 8)
        size = word0 >> 32 & 0xFFFF_FFFF
        offset = word1 & 0xFFFF_FFFF
        entry = table + (word0 >> 16 & 0xFF) * 16
        length = load64(row + LENGTH)
        if (
            load64(row + FLAGS) & LAST
            and unsigned_below(length - 1, min(size, most))
            and word0 & (UNUSUAL - NEXT) == 0
            and offset + size <= load64(entry + 8)
        ):
            copy(load64(entry) + offset, load64(row + ADDRESS), length)
            store64(slot, word0 & REGION | length << 32)
            used += 1
            done += 1
            row += ROW
            packets += 1
            total += length
        else:
            status = place(state, row, rows - done, cursor + used, room - used, word0, word1)
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
        store16_release(ring + RING_TAIL, cursor)
        count_sent(state, cursor, packets, total)
    store64(state + Q_HELD, held)
    return done


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (peek, release, push, notify)
