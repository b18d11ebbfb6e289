"""Queue kernels of a transmit queue: packets become records in a ring of memory.

`push` writes whole records, as they will stand in the file, into the ring; the thread of
`emudev_pcap.writer` takes bytes out of it. `push` never waits: what finds no room is dropped and
counted, so that a slow disk slows nobody down.

**Sleep.** The writer announces what is to wake it (any record, or a ring that is half full), then
looks a last time, then sleeps; `notify` looks for an announcement after the records are in the
ring. With a full fence between the two steps on both sides at least one sees the other.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import ADDRESS, LENGTH, ROW, TIME, frame_length, packet_rows
from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    copy,
    exchange64,
    fence,
    load64,
    load64_acquire,
    load64_relaxed,
    now_ns,
    store32,
    store64,
    store64_release,
)
from emudev_net.system_calls import signal_eventfd

from .formats import BLOCK_ENHANCED, PCAPNG

__all__ = ["KERNELS", "announce", "notify", "push", "taken", "waiting"]

# Words of a transmit queue, as byte offsets. Not changed while kernels run:
RING: Final = 8 * 0  #: address of the ring
SIZE: Final = 8 * 1  #: its bytes, a power of two; 0: there is no file, packets are let go
FORMAT: Final = 8 * 2  #: `PCAP` or `PCAPNG`
SNAPLEN: Final = 8 * 3  #: bytes of a packet that are kept at most
CLOCK: Final = 8 * 4  #: ns since 1970 less the monotonic clock
KEEP: Final = 8 * 5  #: 1: a packet's own time is written, if it has one
BELL: Final = 8 * 6  #: eventfd of the writer
SCRATCH: Final = 8 * 7  #: address of `SCRATCH_BYTES` bytes
# Written by the loop's thread at any time:
OPEN: Final = 8 * 8  #: 0: the link is down, packets are dropped
# Written by `push`:
FILLED: Final = 8 * 16  #: bytes that were put into the ring
PACKETS: Final = 8 * 17
BYTES: Final = 8 * 18
FULL: Final = 8 * 19  #: dropped: no room
LINK: Final = 8 * 20  #: dropped: the link is down
BROKEN: Final = 8 * 21  #: dropped: the file can't be written
TRUNCATED: Final = 8 * 22  #: written, but not all of them
# Written by the writer, but for `SLEEPS`, which `notify` takes back:
TAKEN: Final = 8 * 24  #: bytes that were taken out of the ring
FAILED: Final = 8 * 25  #: 1: the file can't be written
SLEEPS: Final = 8 * 32  #: what is to wake the writer
WORDS: Final = 40

#: What the writer announces.
AWAKE: Final = 0
DOZES: Final = 1  #: wake it when the ring is half full
ASLEEP: Final = 2  #: wake it when there is a record

SCRATCH_BYTES: Final = 64
_PCAP_HEADER: Final = 16
_BLOCK_HEADER: Final = 28
_SECOND: Final = 1_000_000_000


@inline
def _put(queue: int, at: int, source: int, size: int) -> None:
    """Copy bytes into the ring, to where byte number `at` of all goes; its end may be between."""
    ring = load64(queue + RING)
    room = load64(queue + SIZE)
    offset = at & (room - 1)
    first = min(size, room - offset)
    copy(ring + offset, source, first)
    if first < size:
        copy(ring, source + first, size - first)


@inline
def _put_packet(queue: int, at: int, row: int, kept: int) -> None:
    """Copy the first `kept` bytes of a packet."""
    while kept > 0:
        part = min(kept, load64(row + LENGTH))
        _put(queue, at, load64(row + ADDRESS), part)
        at += part
        kept -= part
        row += ROW


@inline
def _pcap_record(queue: int, at: int, row: int, length: int, kept: int, time: int) -> None:
    """Write a record. Source: draft-ietf-opsawg-pcap, section 5."""
    header = load64(queue + SCRATCH)
    store32(header, time // _SECOND)
    store32(header + 4, time % _SECOND)
    store32(header + 8, kept)
    store32(header + 12, length)
    _put(queue, at, header, _PCAP_HEADER)
    _put_packet(queue, at + _PCAP_HEADER, row, kept)


@inline
def _block(queue: int, at: int, row: int, length: int, kept: int, time: int) -> None:
    """Write an enhanced packet block. Source: draft-ietf-opsawg-pcapng, section 4.3."""
    header = load64(queue + SCRATCH)
    padded = (kept + 3) & ~3
    size = _BLOCK_HEADER + padded + 4
    store32(header, BLOCK_ENHANCED)
    store32(header + 4, size)
    store32(header + 8, 0)
    store32(header + 12, time >> 32)
    store32(header + 16, time)
    store32(header + 20, kept)
    store32(header + 24, length)
    _put(queue, at, header, _BLOCK_HEADER)
    _put_packet(queue, at + _BLOCK_HEADER, row, kept)
    store32(header, 0)
    store32(header + 4, size)
    pad = padded - kept
    _put(queue, at + _BLOCK_HEADER + kept, header + 4 - pad, pad + 4)


@inline
def _add(queue: int, word: int, amount: int) -> None:
    if amount:
        store64(queue + word, load64(queue + word) + amount)


@queue_kernel
def push(queue: int, burst: int, rows: int) -> int:
    """Put packets into the ring, or drop and count them; takes all."""
    size = load64(queue + SIZE)
    ng = load64(queue + FORMAT) == PCAPNG
    snaplen = load64(queue + SNAPLEN)
    keep = load64(queue + KEEP)
    failed = load64_relaxed(queue + FAILED)
    up = load64_relaxed(queue + OPEN)
    filled = load64(queue + FILLED)
    room = size - (filled - load64_acquire(queue + TAKEN))
    now = now_ns() + load64(queue + CLOCK)
    packets = 0
    total = 0
    full = 0
    lost = 0
    truncated = 0
    done = 0
    while done < rows:
        count = packet_rows(burst, done, rows)
        length = frame_length(burst, done, count)
        kept = min(length, snaplen)
        need = _BLOCK_HEADER + ((kept + 3) & ~3) + 4 if ng else _PCAP_HEADER + kept
        if up == 0 or (failed and size):
            lost += 1
        elif size and need > room:
            full += 1
        else:
            if size:
                row = burst + done * ROW
                time = load64(row + TIME) if keep else 0
                if time <= 0:
                    time = now
                if ng:
                    _block(queue, filled, row, length, kept, time)
                else:
                    _pcap_record(queue, filled, row, length, kept, time)
                filled += need
                room -= need
                if kept < length:
                    truncated += 1
            packets += 1
            total += length
        done += count
    store64_release(queue + FILLED, filled)
    _add(queue, PACKETS, packets)
    _add(queue, BYTES, total)
    _add(queue, FULL, full)
    _add(queue, TRUNCATED, truncated)
    _add(queue, BROKEN if up else LINK, lost)
    return done


@queue_kernel
def notify(queue: int, _burst: int, _rows: int) -> int:
    """Wake the writer if it waits for what is in the ring now."""
    fence()
    sleeps = load64_relaxed(queue + SLEEPS)
    if sleeps == AWAKE:
        return 0
    used = load64(queue + FILLED) - load64_acquire(queue + TAKEN)
    if used == 0 or (sleeps == DOZES and 2 * used < load64(queue + SIZE)):
        return 0
    if exchange64(queue + SLEEPS, AWAKE) != AWAKE:
        signal_eventfd(load64(queue + BELL))
    return 0


@queue_kernel
def announce(queue: int, _burst: int, sleeps: int) -> int:
    """Say what is to wake the writer; returns the bytes in the ring. The writer's thread."""
    exchange64(queue + SLEEPS, sleeps)
    fence()
    return load64_acquire(queue + FILLED) - load64(queue + TAKEN)


@queue_kernel
def waiting(queue: int, _burst: int, _rows: int) -> int:
    """The bytes in the ring, whole records. The writer's thread."""
    return load64_acquire(queue + FILLED) - load64(queue + TAKEN)


@queue_kernel
def taken(queue: int, _burst: int, size: int) -> int:
    """Give bytes of the ring back. The writer's thread."""
    store64_release(queue + TAKEN, load64(queue + TAKEN) + size)
    return 0


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (push, notify, announce, waiting, taken)
