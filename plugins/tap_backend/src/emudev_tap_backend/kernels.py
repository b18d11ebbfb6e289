"""Queue kernels of a TAP descriptor: frames the host sends (source), frames for the host (sink).

One system call a frame is what the kernel's interface allows; everything here stays small beside
it.

The *source* reads each frame, header and all, into an arena of memory of its own and remembers a
burst row for it; `peek` shows the rows that were not released, then reads more. Frames lie one
behind the other, so that a burst of small ones stays in few pages, while each read has room for the
largest frame. The arena is used from its start again when everything was released.

The *sink* writes each packet with one ``writev``: a ``struct virtio_net_hdr`` made from the row,
and the segments where they are.

The header: u8 flags, u8 gso_type, u16 hdr_len, gso_size, csum_start, csum_offset, little endian.
Source: virtio 1.2, 5.1.6; linux/virtio_net.h; linux/drivers/net/tun.c.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    ADDRESS,
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    LAST,
    LENGTH,
    OFFLOAD,
    ROW,
    csum_offset,
    csum_start,
    from_gso,
    gso_size,
    gso_type,
    header_length,
    offload_word,
    to_gso,
)
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import copy, load8, load16, load64, store8, store16, store64
from emudev_net.system_calls import errno, read, writev

__all__ = ["peek", "push", "release"]

# Words of both ends.
FD: Final = 0  #: descriptor
HEADER: Final = 1  #: bytes of header in front of each frame; 0 if there is none
FRAMES: Final = 2  #: moved
BYTES: Final = 3  #: moved, without headers
DROPPED: Final = 4  #: frames, for whatever reason
MALFORMED: Final = 5  #: of these, ones that can't be expressed on the other side
LAST_ERRNO: Final = 6  #: of the last call that failed, EAGAIN not counted
#: calls that failed by errno, `ERRNO_WORDS` words; the last one counts all above
ERRNOS: Final = 32
ERRNO_WORDS: Final = 160
# The source.
ARENA: Final = 8  #: address of the memory for frames
ARENA_SIZE: Final = 9  #: bytes
SLOT: Final = 10  #: bytes for the largest frame, header and one more byte included
CURSOR: Final = 11  #: where in the arena the next frame goes
ROWS: Final = 12  #: address of the rows of what was read and not released
CAPACITY: Final = 13  #: rows there
HEAD: Final = 14  #: the first row that was not released
TAIL: Final = 15  #: behind the last one
# The sink.
VECTORS: Final = 8  #: address of iovecs, 16 bytes each, the first one for the header
MAX_VECTORS: Final = 9
SCRATCH: Final = 10  #: address of `SCRATCH_BYTES` zero bytes for the header
SCRATCH_BYTES: Final = 64

WORDS: Final = ERRNOS + ERRNO_WORDS

EINTR: Final = 4
EAGAIN: Final = 11

# struct virtio_net_hdr
NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2

ETHERNET: Final = 14


@inline
def _add(state: int, word: int, amount: int) -> None:
    """Add to a counter."""
    at = state + 8 * word
    store64(at, load64(at) + amount)


@inline
def _failed(state: int) -> int:
    """Note the errno of a call that failed, unless it only says "not now"; returns it."""
    number = errno()
    if number != EAGAIN and number != EINTR:
        _add(state, ERRNOS + min(max(number, 0), ERRNO_WORDS - 1), 1)
        store64(state + 8 * LAST_ERRNO, number)
    return number


@inline
def _describe(row: int, header: int, frame: int, length: int) -> int:
    """Write the metadata of a received frame into its row; returns 1 if that is possible, else 0.

    Args:
        row: Address of the row.
        header: Address of its ``struct virtio_net_hdr``.
        frame: Address of the frame.
        length: Bytes of the frame.
    """
    said = load8(header)
    flags = FIRST | LAST
    start = 0
    offset = 0
    if said & NEEDS_CSUM:
        start = load16(header + 6)
        offset = load16(header + 8)
        if start + offset + 2 > length:
            return 0
        flags |= CSUM_WANTED
    elif said & DATA_VALID:
        flags |= CSUM_GOOD
    gso = to_gso(load8(header + 1))
    size = 0
    head = 0
    if gso != 0:
        # The length that the host gives is what lies in its first buffer, not what is header.
        kind = gso_type(gso)
        if kind == GSO_TCPV4 or kind == GSO_TCPV6:  # noqa: SIM109  # kernels know no tuples
            if start + 20 > length:
                return 0
            head = start + 4 * (load8(frame + start + 12) >> 4)
        elif kind == GSO_UDP_L4:
            head = start + 8
        else:
            return 0
        size = load16(header + 4)
        if size == 0 or start == 0 or head > length:
            return 0
    store64(row + FLAGS, flags | gso)
    store64(row + OFFLOAD, offload_word(start, offset, head, size))
    return 1


@queue_kernel
def peek(state: int, burst: int, capacity: int) -> int:
    """Show frames that the host sent; returns rows, one a frame.

    Frames that can't be described are dropped and counted. At most `capacity` calls of ``read`` are
    made beyond those that fill the burst.
    """
    fd = load64(state + 8 * FD)
    header = load64(state + 8 * HEADER)
    slot = load64(state + 8 * SLOT)
    arena = load64(state + 8 * ARENA)
    end = load64(state + 8 * ARENA_SIZE) - slot
    cursor = load64(state + 8 * CURSOR)
    rows = load64(state + 8 * ROWS)
    head = load64(state + 8 * HEAD)
    tail = load64(state + 8 * TAIL)
    room = min(load64(state + 8 * CAPACITY), head + capacity)
    tries = 2 * capacity
    dropped = 0
    while tail < room and cursor <= end and tries > 0:
        tries -= 1
        memory = arena + cursor
        got = read(fd, memory, slot)
        if got <= 0:
            if got < 0 and _failed(state) == EINTR:
                continue
            break
        length = got - header
        if length < ETHERNET or got >= slot:  # a read that fills the slot was cut off
            dropped += 1
            continue
        row = rows + tail * ROW
        frame = memory + header
        if header != 0:
            if _describe(row, memory, frame, length) == 0:
                dropped += 1
                continue
        else:
            store64(row + FLAGS, FIRST | LAST)
            store64(row + OFFLOAD, 0)
        store64(row + ADDRESS, frame)
        store64(row + LENGTH, length)
        tail += 1
        cursor += (got + 63) & ~63
    if dropped:
        _add(state, DROPPED, dropped)
        _add(state, MALFORMED, dropped)
    store64(state + 8 * CURSOR, cursor)
    store64(state + 8 * TAIL, tail)
    shown = min(tail - head, capacity)
    copy(burst, rows + head * ROW, shown * ROW)
    return shown


@queue_kernel
def release(state: int, burst: int, rows: int) -> int:
    """Forget the first `rows` rows that were shown; their memory is used again."""
    head = load64(state + 8 * HEAD)
    tail = load64(state + 8 * TAIL)
    table = load64(state + 8 * ROWS)
    rows = min(max(rows, 0), tail - head)
    moved = 0
    for i in range(rows):
        moved += load64(table + (head + i) * ROW + LENGTH)
    _add(state, FRAMES, rows)
    _add(state, BYTES, moved)
    head += rows
    if head == tail:
        head = 0
        store64(state + 8 * TAIL, 0)
        store64(state + 8 * CURSOR, 0)
    store64(state + 8 * HEAD, head)
    return 0


@inline
def _say(header: int, flags: int, word: int) -> None:
    """Write the ``struct virtio_net_hdr`` of a packet.

    Args:
        header: Where.
        flags: Flags of its first row.
        word: Offload word of its first row.
    """
    said = 0
    start = 0
    offset = 0
    if flags & CSUM_WANTED:
        said = NEEDS_CSUM
        start = csum_start(word)
        offset = csum_offset(word)
    elif flags & CSUM_GOOD:
        said = DATA_VALID
    gso = from_gso(flags)
    length = 0
    size = 0
    if gso != 0:
        length = header_length(word)
        size = gso_size(word)
    store8(header, said)
    store8(header + 1, gso)
    store16(header + 2, length)
    store16(header + 4, size)
    store16(header + 6, start)
    store16(header + 8, offset)


@queue_kernel
def push(state: int, burst: int, rows: int) -> int:
    """Write packets to the host; returns the rows that were taken, written or dropped.

    Fewer than given: the interface has no room now (EAGAIN). What it refuses otherwise is dropped,
    and counted by errno: EIO when it is down, EINVAL when it does not like the header.
    """
    fd = load64(state + 8 * FD)
    header = load64(state + 8 * HEADER)
    vectors = load64(state + 8 * VECTORS)
    most = load64(state + 8 * MAX_VECTORS)
    scratch = load64(state + 8 * SCRATCH)
    store64(vectors, scratch)
    store64(vectors + 8, header)
    first = 1 if header != 0 else 0
    frames = 0
    moved = 0
    dropped = 0
    done = 0
    while done < rows:
        row = burst + done * ROW
        flags = load64(row + FLAGS)
        if header != 0:
            _say(scratch, flags, load64(row + OFFLOAD))
        used = first
        total = 0
        at = row
        count = 0
        while True:
            count += 1
            length = load64(at + LENGTH)
            total += length
            if used < most:
                store64(vectors + used * 16, load64(at + ADDRESS))
                store64(vectors + used * 16 + 8, length)
            used += 1
            if load64(at + FLAGS) & LAST or done + count >= rows:
                break
            at += ROW
        if used > most:
            dropped += 1
            _add(state, MALFORMED, 1)
            done += count
            continue
        number = EINTR
        while number == EINTR:
            number = 0
            if writev(fd, vectors, used) < 0:
                number = _failed(state)
        if number == EAGAIN:
            break
        if number == 0:
            frames += 1
            moved += total
        else:
            dropped += 1
        done += count
    _add(state, FRAMES, frames)
    _add(state, BYTES, moved)
    _add(state, DROPPED, dropped)
    return done
