"""Queue kernels of a receive queue: packets of a capture file, shown in the order of the file.

Each queue walks through the whole file with a cursor of its own (`records`), and shows the packets
that are its own; nothing is prepared, and no packet is copied. What lies in memory is all of the
file, or a window of it that `peek` moves on, with ``read``, once all that it showed was released.

Three things are left to the loop's thread, which the *bell* (an eventfd) tells: to go back to the
start of a file that is not all in memory, to wait until a packet is due, and to say that the file
ended or broke. Words say which; the loop looks at all of them.
"""

from __future__ import annotations

from typing import Final

from emudev_net.burst import (
    ADDRESS,
    FIRST,
    FLAGS,
    HASH,
    HASH_VALID,
    LAST,
    LENGTH,
    OFFLOAD,
    OWN,
    ROW,
    TIME,
    VLAN,
)
from emudev_net.jit import inline, queue_kernel
from emudev_net.parse import OUT_WORDS, parse
from emudev_net.primitives import copy, load64, load64_acquire, now_ns, store64, store64_release
from emudev_net.rss import hash_frame
from emudev_net.system_calls import errno, read, signal_eventfd

from . import faults, records
from .formats import MAX_BLOCK
from .records import (
    BASE,
    COUNT,
    CURSOR_WORDS,
    END,
    FAULT,
    FAULT_AT,
    FAULT_VALUE,
    FAULTY,
    FD,
    FILLED,
    HEAD,
    MORE,
    NEXT,
    OTHER,
    PACKET,
    ROOM,
    SIZE,
    START,
    WINDOW,
    step,
)

__all__ = ["KERNELS", "check", "peek", "release", "restart"]

# Words of a reader, as byte offsets, behind those of its cursor. Not changed while kernels run:
BELL: Final = 8 * (CURSOR_WORDS + 0)  #: eventfd
PACE: Final = 8 * (CURSOR_WORDS + 1)  #: `FLAT_OUT`, `RECORDED`, or packets per second
AGAIN: Final = 8 * (CURSOR_WORDS + 2)  #: 1: begin anew at the end
TOLERANT: Final = 8 * (CURSOR_WORDS + 3)  #: 1: damage is where the file ends
QUEUE: Final = 8 * (CURSOR_WORDS + 4)  #: number of the queue
QUEUES: Final = 8 * (CURSOR_WORDS + 5)  #: how many share the file
HASHES: Final = 8 * (CURSOR_WORDS + 6)  #: address of the table of the hash
SHOWN: Final = 8 * (CURSOR_WORDS + 7)  #: address of what `release` has to know of each row
# Written by the loop's thread at any time:
OPEN: Final = 8 * (CURSOR_WORDS + 8)  #: 0: nothing is shown
POLLED: Final = 8 * (CURSOR_WORDS + 9)  #: 1: nobody waits for the bell
# Written by kernels:
REWIND: Final = 8 * (CURSOR_WORDS + 16)  #: 1: the loop is asked to go back to the start
DUE: Final = 8 * (CURSOR_WORDS + 17)  #: when the next packet is due, ns, if the bell told
DONE: Final = 8 * (CURSOR_WORDS + 18)  #: 1: the end was reached, and it is not begun anew
ROWS: Final = 8 * (CURSOR_WORDS + 20)  #: that were shown last
RELEASED: Final = 8 * (CURSOR_WORDS + 21)  #: of these
SEEN: Final = 8 * (CURSOR_WORDS + 22)  #: packets of all queues before `HEAD`, since the start
COUNTED: Final = 8 * (CURSOR_WORDS + 23)  #: up to where records were counted in this pass
ANY: Final = 8 * (CURSOR_WORDS + 24)  #: 1: there is a packet in the file
BEGUN: Final = 8 * (CURSOR_WORDS + 25)  #: 1: `ORIGIN` and `STARTED` are set
ORIGIN: Final = 8 * (CURSOR_WORDS + 26)  #: the moment on the schedule of the first packet
STARTED: Final = 8 * (CURSOR_WORDS + 27)  #: when that one was due, ns
LATEST: Final = 8 * (CURSOR_WORDS + 28)  #: the moment on the schedule of the last packet shown
PASSES: Final = 8 * (CURSOR_WORDS + 29)  #: how often the end was reached
# Counters:
PACKETS: Final = 8 * (CURSOR_WORDS + 32)  #: released
BYTES: Final = 8 * (CURSOR_WORDS + 33)
SHORT: Final = 8 * (CURSOR_WORDS + 34)  #: left out, too short to be frames
TRUNCATED: Final = 8 * (CURSOR_WORDS + 35)  #: shown, though not all of them was captured
# What `check` found, and scratch:
LONGEST: Final = 8 * (CURSOR_WORDS + 36)
HASHED: Final = 8 * (CURSOR_WORDS + 37)  #: hash of the packet at hand, -1 if it has none
PARSED: Final = 8 * (CURSOR_WORDS + 40)
WORDS: Final = CURSOR_WORDS + 40 + OUT_WORDS

FLAT_OUT: Final = 0
RECORDED: Final = -1

#: What `SHOWN` has for each row: the offset behind it, `SEEN` behind it, and bytes up to there.
_MARK: Final = 24
#: Rows that are shown at one time.
MAX_ROWS: Final = 1024
MARK_WORDS: Final = MAX_ROWS * _MARK // 8

#: Bytes that are read at one time: they stay in the second cache until they are sent.
CHUNK: Final = 256 << 10
#: Bytes that are enough for the window: what is moved to its start never overlaps.
WINDOW_ROOM: Final = 2 * MAX_BLOCK + 2 * CHUNK
#: Shorter packets are no frames.
MIN_FRAME: Final = 14
#: Records that are passed in one call: others want their turn.
_PATIENCE: Final = 65_536
#: Who is later than this is not hurried: the rest of the schedule moves, ns.
_LATE: Final = 10_000_000
_SECOND: Final = 1_000_000_000
_EINTR: Final = 4
#: Bits of the faults that are damage.
_DAMAGE: Final = sum(1 << fault for fault in faults.DAMAGE)
_HEADERS: Final = 256


@inline
def _refill(reader: int, at: int) -> int:
    """Read more of the file, where `step` at the first record that is not done asked for more.

    Nothing that was shown is still in use. Returns 1 if there is more now, else 0: a fault.
    """
    window = load64(reader + WINDOW)
    base = load64(reader + BASE)
    filled = load64(reader + FILLED)
    passed = at - base
    rest = filled - passed
    if passed >= rest and passed > 0:
        copy(window, window + passed, rest)
        base = at
        filled = rest
        store64(reader + BASE, base)
        store64(reader + FILLED, filled)
    want = min(CHUNK, load64(reader + ROOM) - filled, load64(reader + SIZE) - base - filled)
    got = -1
    for _ in range(16):
        got = read(load64(reader + FD), window + filled, want)
        if got >= 0 or errno() != _EINTR:
            break
    if got <= 0:
        store64(reader + FAULT, faults.READ if got < 0 else faults.SHRANK)
        store64(reader + FAULT_AT, base + filled)
        store64(reader + FAULT_VALUE, errno() if got < 0 else 0)
        return 0
    store64(reader + FILLED, filled + got)
    return 1


@inline
def _back_to_start(reader: int) -> None:
    """Take the cursor to the first record, with nothing known of sections."""
    store64(reader + HEAD, load64(reader + START))
    store64(reader + COUNT, 0)
    store64(reader + COUNTED, 0)
    if load64(reader + PACE) == RECORDED:
        store64(reader + BEGUN, 0)
        store64(reader + LATEST, 0)


@inline
def _at_end(reader: int) -> int:
    """The file ends, nothing is shown; returns 1 if it begins anew at once, else 0."""
    store64(reader + PASSES, load64(reader + PASSES) + 1)
    if load64(reader + AGAIN) == 0 or load64(reader + ANY) == 0:
        store64(reader + DONE, 1)
    elif load64(reader + FD) >= 0:
        store64_release(reader + REWIND, 1)
    else:
        _back_to_start(reader)
        return 1
    signal_eventfd(load64(reader + BELL))
    return 0


@inline
def _broken(reader: int) -> int:
    """A fault at the first record that is not done; returns 1 if that is as good as the end."""
    if load64(reader + TOLERANT) and _DAMAGE >> load64(reader + FAULT) & 1:
        end = load64(reader + FAULT_AT)
        store64(reader + FAULT, 0)
        store64(reader + SIZE, end)
        store64(reader + FILLED, min(load64(reader + FILLED), end - load64(reader + BASE)))
        return 1
    signal_eventfd(load64(reader + BELL))
    return 0


@inline
def _queue_of(reader: int, data: int, length: int) -> int:
    """The number of the queue that a packet goes to; its hash is at `HASHED`."""
    hashed = -1
    if length >= MIN_FRAME:
        parse(data, min(length, _HEADERS), reader + PARSED)
        hashed = hash_frame(load64(reader + HASHES), data, reader + PARSED, 1)
    store64(reader + HASHED, hashed)
    return 0 if hashed < 0 else hashed * load64(reader + QUEUES) >> 32


@inline
def _wait(reader: int, pace: int, seen: int, now: int, rows: int) -> int:
    """When the packet at hand is due, ns, if that is to come; 0: it may be shown.

    Args:
        reader: Address of its words.
        pace: Not `FLAT_OUT`.
        seen: Packets before it.
        now: ns.
        rows: That are shown before it in this call.
    """
    if pace == RECORDED:
        moment = load64(reader + records.TIME)
    else:
        moment = seen // pace * _SECOND + seen % pace * _SECOND // pace
    if load64(reader + BEGUN) == 0:
        store64(reader + BEGUN, 1)
        store64(reader + ORIGIN, moment)
        store64(reader + STARTED, now)
        store64(reader + LATEST, moment)
    moment = max(moment, load64(reader + LATEST))  # time does not go back
    due = load64(reader + STARTED) + moment - load64(reader + ORIGIN)
    if due > now:
        return due
    if rows == 0 and now - due > _LATE:
        store64(reader + STARTED, load64(reader + STARTED) + now - due)
    store64(reader + LATEST, moment)
    return 0


@inline
def _show(reader: int, row: int, length: int) -> None:
    """Fill in the row of the packet at hand."""
    flags = FIRST | LAST
    hashed = 0
    if load64(reader + QUEUES) > 1 and load64(reader + HASHED) >= 0:
        flags |= HASH_VALID
        hashed = load64(reader + HASHED)
    store64(row + ADDRESS, load64(reader + records.DATA))
    store64(row + LENGTH, length)
    store64(row + FLAGS, flags)
    store64(row + OFFLOAD, 0)
    store64(row + VLAN, 0)
    store64(row + HASH, hashed)
    store64(row + OWN, load64(reader + NEXT))
    store64(row + TIME, load64(reader + records.TIME))


@inline
def _count(reader: int, at: int, short: int, mine: int) -> None:
    """Count a record the first time that it is looked at."""
    if at < load64(reader + COUNTED):
        return
    store64(reader + COUNTED, load64(reader + NEXT))
    if mine == 0:
        return
    if short:
        store64(reader + SHORT, load64(reader + SHORT) + 1)
    elif load64(reader + records.CAPTURED) < load64(reader + records.WIRE):
        store64(reader + TRUNCATED, load64(reader + TRUNCATED) + 1)


@queue_kernel
def peek(reader: int, burst: int, capacity: int) -> int:
    """Show the packets of this queue that were not released and are due; one row each."""
    if load64(reader + OPEN) == 0 or load64_acquire(reader + REWIND) or load64(reader + FAULT):
        return 0
    capacity = min(capacity, MAX_ROWS)
    pace = load64(reader + PACE)
    now = now_ns() if pace != FLAT_OUT else 0
    at = load64(reader + HEAD)
    seen = load64(reader + SEEN)
    marks = load64(reader + SHOWN)
    queue = load64(reader + QUEUE)
    shared = load64(reader + QUEUES) > 1
    due = 0
    busy = 0
    total = 0
    rows = 0
    passes = 0
    steps = 0
    while rows < capacity:
        steps += 1
        kind = step(reader, at, rows == 0)
        if kind == PACKET:
            data = load64(reader + records.DATA)
            length = load64(reader + records.CAPTURED)
            short = length < MIN_FRAME
            mine = 1
            if shared:
                mine = _queue_of(reader, data, length) == queue
            if mine and not short:
                if pace != FLAT_OUT:
                    due = _wait(reader, pace, seen, now, rows)
                    if due != 0:
                        break
                seen += 1
                _show(reader, burst + rows * ROW, length)
                total += length
                mark = marks + rows * _MARK
                store64(mark, load64(reader + NEXT))
                store64(mark + 8, seen)
                store64(mark + 16, total)
                rows += 1
            elif not short:
                if pace != FLAT_OUT and load64(reader + BEGUN) == 0:
                    _wait(reader, pace, seen, now, rows)  # the schedule is that of all queues
                seen += 1
            store64(reader + ANY, 1)
            _count(reader, at, short, mine)
        elif kind in (END, FAULTY):
            if rows > 0:
                store64(reader + FAULT, 0)  # it is found again once these are released
                break
            if kind == FAULTY and not _broken(reader):
                break
            passes += 1
            if load64(reader + DONE) or not _at_end(reader) or passes > 1:
                break
            at = load64(reader + HEAD)
            continue
        elif kind == MORE:
            if rows > 0:
                break
            if not _refill(reader, at) and not _broken(reader):
                break
            continue
        elif kind != OTHER:
            break
        at = load64(reader + NEXT)
        if rows == 0:
            store64(reader + HEAD, at)
            store64(reader + SEEN, seen)
            if steps >= _PATIENCE:
                busy = 1
                break
    # Asked once for each moment: the loop takes it out when it comes.
    asks = busy or (due != 0 and due != load64(reader + DUE))
    if rows == 0 and asks and load64(reader + POLLED) == 0:
        store64(reader + DUE, due)
        signal_eventfd(load64(reader + BELL))
    store64(reader + ROWS, rows)
    store64(reader + RELEASED, 0)
    return rows


@queue_kernel
def release(reader: int, burst: int, rows: int) -> int:
    """Be done with the first rows that were shown and not released."""
    released = load64(reader + RELEASED)
    rows = min(rows, load64(reader + ROWS) - released)
    if rows <= 0:
        return 0
    marks = load64(reader + SHOWN)
    last = marks + (released + rows - 1) * _MARK
    before = load64(marks + (released - 1) * _MARK + 16) if released > 0 else 0
    store64(reader + HEAD, load64(last))
    store64(reader + SEEN, load64(last + 8))
    store64(reader + RELEASED, released + rows)
    store64(reader + PACKETS, load64(reader + PACKETS) + rows)
    store64(reader + BYTES, load64(reader + BYTES) + load64(last + 16) - before)
    return 0


@queue_kernel
def restart(reader: int, _burst: int, forget: int) -> int:
    """Go back to the first record; a descriptor that is read from was put there before.

    Args:
        reader: Address of its words; nobody peeks meanwhile, or `REWIND` is 1.
        _burst: Not used.
        forget: 1: also forget the schedule, and that the end was reached.
    """
    _back_to_start(reader)
    if load64(reader + FD) >= 0:
        store64(reader + BASE, load64(reader + START))
        store64(reader + FILLED, 0)
    store64(reader + ROWS, 0)
    store64(reader + RELEASED, 0)
    if forget:
        store64(reader + SEEN, 0)
        store64(reader + BEGUN, 0)
        store64(reader + LATEST, 0)
        store64(reader + DUE, 0)
        store64(reader + DONE, 0)
        store64(reader + ANY, 0)
        store64(reader + FAULT, 0)
    store64_release(reader + REWIND, 0)
    return 0


@queue_kernel
def check(reader: int, _burst: int, budget: int) -> int:
    """Walk on through the file and count what is in it, for a reader that nobody peeks.

    Returns:
        `END`, `FAULTY`, or `MORE` after `budget` records.
    """
    at = load64(reader + HEAD)
    kind = MORE
    for _ in range(budget):
        kind = step(reader, at, 1)
        if kind == MORE:
            if not _refill(reader, at):
                kind = FAULTY
                break
            continue
        if kind not in (PACKET, OTHER):
            break
        if kind == PACKET:
            length = load64(reader + records.CAPTURED)
            time = load64(reader + records.TIME)
            if length < MIN_FRAME:
                store64(reader + SHORT, load64(reader + SHORT) + 1)
            else:
                if load64(reader + PACKETS) == 0:
                    store64(reader + ORIGIN, time)
                store64(reader + LATEST, max(load64(reader + LATEST), time))
                store64(reader + PACKETS, load64(reader + PACKETS) + 1)
                store64(reader + BYTES, load64(reader + BYTES) + length)
                store64(reader + LONGEST, max(load64(reader + LONGEST), length))
                if length < load64(reader + records.WIRE):
                    store64(reader + TRUNCATED, load64(reader + TRUNCATED) + 1)
        at = load64(reader + NEXT)
        kind = MORE
    store64(reader + HEAD, at)
    return kind


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (peek, release, restart, check)
