"""What the kernels of both roles share: rows, counters, interrupts, packets that go nowhere.

Source: memif.md section 4, Interrupts and Ordering.
"""

from __future__ import annotations

from emudev_net.burst import ADDRESS, FLAGS, LAST, LENGTH, OFFLOAD, OWN, ROW, VLAN
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    copy,
    fence,
    fill,
    load16,
    load16_acquire,
    load64,
    load64_relaxed,
    store16,
    store64,
    store64_relaxed,
)
from emudev_net.system_calls import signal_eventfd

from .words import (
    BROKEN,
    DROP_LINK,
    MASK_INT,
    ON,
    Q_ARMED,
    Q_BYTES,
    Q_CURSOR,
    Q_DUE,
    Q_EPOCH,
    Q_FAULT,
    Q_FAULT_REASON,
    Q_HELD,
    Q_KICK,
    Q_PACKETS,
    Q_POLLED,
    Q_REASONS,
    Q_RING,
    Q_SHOWN_BYTES,
    Q_SHOWN_PACKETS,
    Q_SHOWN_ROWS,
    Q_STATE,
    RING_FLAGS,
    W_BYTES,
    W_ROW,
    W_ROWS,
    W_SLOTS,
    W_START,
)

__all__ = [
    "add",
    "all_dropped",
    "break_peer",
    "count_packets",
    "count_released",
    "count_sent",
    "disarm",
    "drop",
    "look_again",
    "measure",
    "notify",
    "own_word",
    "refuse",
    "store_shown",
    "take_part",
    "write_row",
]


@inline
def add(address: int, value: int) -> None:
    """Add to a counter that one thread writes and others read."""
    store64_relaxed(address, load64(address) + value)


@inline
def drop(state: int, reason: int, packets: int) -> None:
    """Count packets that are lost."""
    add(state + Q_REASONS + 8 * reason, packets)


@inline
def write_row(row: int, address: int, length: int, flags: int, own: int) -> None:
    """Write all eight words of a row; there is no metadata."""
    store64(row + ADDRESS, address)
    store64(row + LENGTH, length)
    store64(row + FLAGS, flags)
    store64(row + OFFLOAD, 0)
    fill(row + VLAN, 0, 32)
    store64(row + OWN, own)


@inline
def own_word(state: int, end: int) -> int:
    """What a row's own word says: the counter behind its slot, and the epoch of the ring."""
    return load64(state + Q_EPOCH) << 32 | (end & 0xFFFF)


# -- interrupts


@inline
def look_again(state: int, ring: int, counter: int, cursor: int) -> int:
    """Nothing was found: ask the peer for a signal, unless this side polls, and look once more.

    Args:
        state: Address of the queue's words.
        ring: Address of the ring.
        counter: Offset of the peer's counter in it.
        cursor: This side's counter.

    Returns:
        Slots that are ready after all; not checked.
    """
    armed = load64(state + Q_ARMED)
    if load64_relaxed(state + Q_POLLED) != 0:
        if armed != 0:
            store64(state + Q_ARMED, 0)
            store16(ring + RING_FLAGS, MASK_INT)
        return 0
    if armed != 0:
        return 0
    store64(state + Q_ARMED, 1)
    store16(ring + RING_FLAGS, 0)
    fence()
    return (load16_acquire(ring + counter) - cursor) & 0xFFFF


@inline
def all_dropped(state: int, ring: int, counter: int, cursor: int) -> None:
    """A peek found packets and shows none: leave the queue as if nothing had been found.

    What arrived meanwhile is for the next peek, so that no peer keeps a call busy for ever; this
    side signals itself for it. Arguments as for `look_again`.
    """
    if look_again(state, ring, counter, cursor) != 0:
        signal_eventfd(load64(state + Q_KICK))


@inline
def disarm(state: int, ring: int) -> None:
    """Packets were found: spare the peer the signals."""
    if load64(state + Q_ARMED) != 0:
        store64(state + Q_ARMED, 0)
        store16(ring + RING_FLAGS, MASK_INT)


@queue_kernel
def notify(state: int, _burst: int, _rows: int) -> int:
    """Write the ring's eventfd if something was published since the last call, and is waited for.

    Args:
        state: Address of the words of a queue that sends; of either role.
        _burst: Not used.
        _rows: Not used.

    Returns:
        0.
    """
    if load64(state + Q_DUE) == 0:
        return 0
    store64(state + Q_DUE, 0)
    if load64(state + Q_STATE) != ON:
        return 0
    fence()  # the counter was stored, the flags are loaded: the one order that must be asked for
    if load16(load64(state + Q_RING) + RING_FLAGS) & MASK_INT == 0:
        signal_eventfd(load64(state + Q_KICK))
    return 0


@inline
def break_peer(state: int, fault: int) -> int:
    """Stop the queue for good and tell the device; returns 0."""
    store64(state + Q_FAULT_REASON, fault)
    store64_relaxed(state + Q_STATE, BROKEN)
    signal_eventfd(load64(state + Q_FAULT))
    return 0


# -- receiving


@inline
def store_shown(state: int, rows: int, size: int, packets: int) -> None:
    """Remember what a peek has shown, which is nearly always what is released next."""
    store64(state + Q_SHOWN_ROWS, rows)
    store64(state + Q_SHOWN_BYTES, size)
    store64(state + Q_SHOWN_PACKETS, packets)


@inline
def count_packets(state: int, packets: int, size: int) -> None:
    """Add to the counters of what was completed."""
    add(state + Q_PACKETS, packets)
    add(state + Q_BYTES, size)


@inline
def count_released(state: int, burst: int, rows: int) -> int:
    """Add the packets of the first `rows` rows to the counters; returns how many they are."""
    packets = load64(state + Q_SHOWN_PACKETS)
    size = load64(state + Q_SHOWN_BYTES)
    if rows != load64(state + Q_SHOWN_ROWS):
        packets = 0
        size = 0
        for i in range(rows):
            row = burst + i * ROW
            size += load64(row + LENGTH)
            if load64(row + FLAGS) & LAST:
                packets += 1
    store64(state + Q_SHOWN_ROWS, 0)
    count_packets(state, packets, size)
    return packets


# -- sending


@inline
def refuse(state: int, burst: int, rows: int) -> int:
    """Drop the packets of all rows, since no peer is there; returns `rows`."""
    packets = 0
    for i in range(rows):
        if load64(burst + i * ROW + FLAGS) & LAST:
            packets += 1
    if packets != 0:
        drop(state, DROP_LINK, packets)
    store64(state + Q_HELD, 0)
    return rows


@inline
def measure(state: int, row: int, rows: int) -> int:
    """Find the rows (`W_ROWS`) of the packet that begins at a row, and begin to take its bytes.

    Args:
        state: Address of the queue's words.
        row: Address of its first row.
        rows: Rows there; a packet without end ends there.

    Returns:
        Bytes of the packet.
    """
    store64(state + W_SLOTS, 0)
    store64(state + W_ROW, row)
    store64(state + W_START, 0)
    count = 0
    total = 0
    while count < rows:
        total += load64(row + LENGTH)
        count += 1
        if load64(row + FLAGS) & LAST:
            break
        row += ROW
    store64(state + W_ROWS, count)
    store64(state + W_BYTES, total)
    return total


@inline
def take_part(state: int, to: int, size: int) -> None:
    """Copy the next bytes of the packet that was measured.

    Args:
        state: Address of the queue's words.
        to: Where to.
        size: Bytes; the packet has as many left.
    """
    row = load64(state + W_ROW)
    start = load64(state + W_START)
    while size > 0:
        part = min(size, load64(row + LENGTH) - start)
        copy(to, load64(row + ADDRESS) + start, part)
        to += part
        size -= part
        start += part
        if start >= load64(row + LENGTH):
            start = 0
            row += ROW
    store64(state + W_ROW, row)
    store64(state + W_START, start)


@inline
def count_sent(state: int, cursor: int, packets: int, size: int) -> None:
    """Note what a push has done; the ring's counter is stored already.

    Args:
        state: Address of the queue's words.
        cursor: This side's counter now, 16 bits.
        packets: Packets that were sent; slots may have been used up without any.
        size: Their bytes.
    """
    store64(state + Q_CURSOR, cursor)
    if packets != 0:
        store64(state + Q_DUE, 1)
        count_packets(state, packets, size)
