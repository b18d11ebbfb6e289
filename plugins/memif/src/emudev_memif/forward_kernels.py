"""Fused kernels: packets from one memif ring to another in one loop, without a burst between.

They do what `peek`, `push` and `release` of the two queues do, one packet at a time, with the same
checks, bytes and counters, but only for the usual packet: one buffer at the source that fits one
buffer at the sink. They stop in front of everything else, which the universal kernels deal with,
and begin nothing that those would end otherwise.

Source: datapath.md section 4, "Composition"; memif.md sections 4 and 8 (data side).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from emudev_net.jit import Kernel, inline, queue_kernel
from emudev_net.primitives import (
    copy,
    load16_acquire,
    load64,
    load64_relaxed,
    store16_release,
    store64,
    unsigned_below,
)

from .pieces import count_packets, count_sent, disarm
from .words import (
    DESCRIPTOR,
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
    Q_REGIONS,
    Q_RING,
    Q_SHOWN_ROWS,
    Q_STATE,
    Q_STRIDE,
    RING_HEAD,
    RING_HEADER,
    RING_TAIL,
    UNUSUAL,
)

__all__ = ["BY_SINK", "KERNELS"]

SERVER: Final = 1
CLIENT: Final = 0

_REGION: Final = 0x00FF_0000


@inline
def _ready(state: int, role: int) -> int:
    """Packets that a source has; 0 also for whatever its `peek` is to deal with."""
    if load64(state + Q_STATE) != ON:
        return 0
    cursor = load64(state + Q_CURSOR)
    mask = load64(state + Q_MASK)
    if role == CLIENT and load64(state + Q_HEAD) != (cursor + mask + 1) & 0xFFFF:
        return 0
    counter = RING_HEAD if role == SERVER else RING_TAIL
    ready = (load16_acquire(load64(state + Q_RING) + counter) - cursor) & 0xFFFF
    return ready if ready <= mask + 1 else 0


@inline
def _room(state: int, role: int) -> int:
    """Packets that a sink has room for; 0 also for whatever its `push` is to deal with."""
    if load64(state + Q_STATE) != ON:
        return 0
    cursor = load64(state + Q_CURSOR)
    slots = load64(state + Q_MASK) + 1
    ring = load64(state + Q_RING)
    if role == SERVER:
        room = (load16_acquire(ring + RING_HEAD) - cursor) & 0xFFFF
        return room if room <= slots else 0
    return max(slots - ((cursor - load16_acquire(ring + RING_TAIL)) & 0xFFFF), 0)


@inline
def _move(source: int, sink: int, rows: int, source_role: int, sink_role: int) -> int:
    """Move packets of one buffer; the roles are those of this side at either end, constants."""
    count = min(_ready(source, source_role), rows)
    if count <= 0:
        return 0
    count = min(count, _room(sink, sink_role))
    if count == 0:
        return 0
    from_ring = load64(source + Q_RING)
    from_slots = from_ring + RING_HEADER
    from_cursor = load64(source + Q_CURSOR)
    from_mask = load64(source + Q_MASK)
    from_table = load64(source + Q_REGIONS)
    from_buffers = load64(source + Q_BUFFERS)
    from_stride = load64(source + Q_STRIDE)
    to_ring = load64(sink + Q_RING)
    to_slots = to_ring + RING_HEADER
    to_cursor = load64(sink + Q_CURSOR)
    to_mask = load64(sink + Q_MASK)
    to_table = load64(sink + Q_REGIONS)
    to_buffers = load64(sink + Q_BUFFERS)
    to_stride = load64(sink + Q_STRIDE)
    # What goes back to a server, or on to it, beside the length.
    given = load64(source + Q_REGION) << 16 | load64(source + Q_CAPACITY) << 32
    given_offset = load64(source + Q_OFFSET)
    sent = load64(sink + Q_REGION) << 16
    sent_offset = load64(sink + Q_OFFSET)
    most = load64(source + Q_MAX_FRAME)
    if source_role == CLIENT:
        most = min(most, load64(source + Q_CAPACITY))
    span = most - MIN_FRAME + 1
    longest = load64(sink + Q_MAX_FRAME)
    if sink_role == CLIENT:
        longest = min(longest, load64(sink + Q_CAPACITY))
    done = 0
    total = 0
    while done < count:
        index = (from_cursor + done) & from_mask
        from_slot = from_slots + index * DESCRIPTOR
        word0 = load64_relaxed(from_slot)
        length = word0 >> 32 & 0xFFFF_FFFF
        if unsigned_below(length - MIN_FRAME, span) == 0:
            break
        if source_role == SERVER:
            offset = load64_relaxed(from_slot + 8) & 0xFFFF_FFFF
            entry = from_table + (word0 >> 16 & 0xFF) * 16
            if word0 & UNUSUAL != 0 or offset + length > load64(entry + 8):
                break
            address = load64(entry) + offset
        else:
            if word0 & NEXT != 0:
                break
            address = from_buffers + index * from_stride
        place = (to_cursor + done) & to_mask
        to_slot = to_slots + place * DESCRIPTOR
        if sink_role == SERVER:
            word0 = load64_relaxed(to_slot)
            offset = load64_relaxed(to_slot + 8) & 0xFFFF_FFFF
            size = word0 >> 32 & 0xFFFF_FFFF
            entry = to_table + (word0 >> 16 & 0xFF) * 16
            if length > min(size, longest) or word0 & (UNUSUAL - NEXT) != 0:
                break
            if offset + size > load64(entry + 8):
                break
            copy(load64(entry) + offset, address, length)
            store64(to_slot, word0 & _REGION | length << 32)
        else:
            if length > longest:
                break
            copy(to_buffers + place * to_stride, address, length)
            store64(to_slot, sent | length << 32)
            store64(to_slot + 8, sent_offset + place * to_stride)
        if source_role == CLIENT:
            store64(from_slot, given)
            store64(from_slot + 8, given_offset + index * from_stride)
        total += length
        done += 1
    if done == 0:
        return 0
    disarm(source, from_ring)
    # The sink's counter first: what it got is copied by then, and the source may be used again.
    to_cursor = (to_cursor + done) & 0xFFFF
    store16_release(to_ring + (RING_TAIL if sink_role == SERVER else RING_HEAD), to_cursor)
    count_sent(sink, to_cursor, done, total)
    store64(sink + Q_HELD, 0)
    from_cursor = (from_cursor + done) & 0xFFFF
    store64(source + Q_CURSOR, from_cursor)
    store64(source + Q_SHOWN_ROWS, 0)
    if source_role == SERVER:
        store16_release(from_ring + RING_TAIL, from_cursor)
    else:
        head = (from_cursor + from_mask + 1) & 0xFFFF
        store64(source + Q_HEAD, head)
        store16_release(from_ring + RING_HEAD, head)
    count_packets(source, done, total)
    return done


@queue_kernel
def server_to_server(source: int, sink: int, rows: int) -> int:
    """Move usual packets from a server's C2S ring to a server's S2C ring.

    Args:
        source: Address of the words of a queue that receives.
        sink: Address of the words of a queue that sends.
        rows: Packets at most; each is one row.

    Returns:
        Packets moved. Fewer than `rows`: the source has no more, the sink has no room, or the next
        packet is for `peek`, `push` and `release`.
    """
    return _move(source, sink, rows, SERVER, SERVER)


@queue_kernel
def server_to_client(source: int, sink: int, rows: int) -> int:
    """Move usual packets from a server's C2S ring to a client's C2S ring; see above."""
    return _move(source, sink, rows, SERVER, CLIENT)


@queue_kernel
def client_to_server(source: int, sink: int, rows: int) -> int:
    """Move usual packets from a client's S2C ring to a server's S2C ring; see above."""
    return _move(source, sink, rows, CLIENT, SERVER)


@queue_kernel
def client_to_client(source: int, sink: int, rows: int) -> int:
    """Move usual packets from a client's S2C ring to a client's C2S ring; see above."""
    return _move(source, sink, rows, CLIENT, CLIENT)


#: By the kind of the source: what `QueueKernels.forward` says.
BY_SINK: Final[Mapping[str, Mapping[str, Kernel]]] = {
    "memif-server-peek": {
        "memif-server-push": server_to_server,
        "memif-client-push": server_to_client,
    },
    "memif-client-peek": {
        "memif-server-push": client_to_server,
        "memif-client-push": client_to_client,
    },
}

#: The kernels of this module, for `compile_all`.
KERNELS: Final = (server_to_server, server_to_client, client_to_server, client_to_client)
