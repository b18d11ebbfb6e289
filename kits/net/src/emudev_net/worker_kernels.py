"""Kernels of a worker: the compiled loop, and how the loop's thread talks to it.

`work` goes over a table of flows and calls `flow.pump` for a burst of each. Idle,
it first looks on for some microseconds, then it sleeps in ``poll`` on an eventfd and on the
descriptors of its flows; one that polls never sleeps. It never takes the interpreter's lock.

**Control.** The loop's thread stores a control word (a command and a number that grows), the worker
looks at it before each burst, obeys, and stores it as its answer. After the answer to `PAUSE` no
kernel is inside a call, and none is begun until the next command.

**Sleep.** A worker announces that it sleeps, then looks a last time, then sleeps; who has work for
it stores that (a doorbell's tail, a control word), then looks whether it sleeps. With a full fence
between the two steps on both sides at least one of them sees the other: a wake-up is never lost,
and one that nobody needs costs no system call.
"""

from __future__ import annotations

from typing import Final

from . import flow_kernels as flow
from .jit import inline, queue_kernel
from .primitives import (
    call3,
    exchange64,
    fence,
    load16,
    load64,
    load64_acquire,
    load64_relaxed,
    now_ns,
    pause,
    store16,
    store32,
    store64,
    store64_relaxed,
    store64_release,
)
from .system_calls import poll, read, signal_eventfd

__all__ = ["KERNELS", "answered", "make_room", "rouse", "tell", "wake", "work"]

# Words of a worker. A cache line for each side.
CONTROL: Final = 8 * 0  #: what it is to do; written by the loop's thread
ANSWER: Final = 8 * 8  #: the control word that it obeys; written by the worker
SLEEPING: Final = 8 * 9  #: 0, or `ASLEEP` and perhaps `BLOCKED`
TABLE: Final = 8 * 16  #: address of its lanes; not changed from here on once it runs
COUNT: Final = 8 * 17  #: lanes
POLLS: Final = 8 * 18  #: address of ``struct pollfd``s: one of its own, two a lane
EVENTFD: Final = 8 * 19  #: -1 once it is closed
PUMP: Final = 8 * 20  #: address of the compiled `pump`
SPIN: Final = 8 * 21  #: ns
POLLING: Final = 8 * 22  #: 1 = never sleep
FAILURE: Final = 8 * 23  #: 1 = a lane has failed that nobody was told of; written by the worker
PASSES: Final = 8 * 24  #: looks at all lanes; counters are written by the worker
SLEEPS: Final = 8 * 25
DRAIN: Final = 8 * 32  #: where the eventfd's count is read to
WORDS: Final = 40

# A lane: a flow and who wakes it.
FLOW: Final = 8 * 0  #: address of the flow's words
ACTIVE: Final = 8 * 1  #: 0 = rests
SOURCE_FD: Final = 8 * 2  #: readable when the source has more; -1: a doorbell says so
SINK_FD: Final = 8 * 3  #: writable when the sink has room; -1: a doorbell says so
OUTCOME: Final = 8 * 4  #: of the last call; less than 0: a kernel has failed, the lane rests
LANE: Final = 64  #: bytes

# Commands, the low bits of a control word.
RUN: Final = 0
PAUSE: Final = 1
STOP: Final = 2
_COMMAND: Final = 3

# What a sleeper announces, and what wakes it.
ASLEEP: Final = 1
BLOCKED: Final = 2  #: a sink without descriptor has no room
ANYTHING: Final = ASLEEP | BLOCKED

_FULL: Final = 1  #: `flow.Outcome.FULL`
#: How long a paused worker looks on before it sleeps: changes that need a pause are short.
_REST_NS: Final = 20_000
#: Time between two looks of an idle worker: each takes cache lines from the peer.
_BREATH_NS: Final = 150

# Source: poll(2).
_POLLIN: Final = 0x01
_POLLOUT: Final = 0x04
_POLLBAD: Final = 0x38  # ERR, HUP, NVAL

_FLOW_ROWS: Final = 8 * flow.ROWS


@inline
def _wake(worker: int, reasons: int) -> int:
    """Wake a worker that sleeps and announced one of the reasons; 1 if it was asleep.

    What it is to see has been stored before.
    """
    fence()
    if load64_relaxed(worker + SLEEPING) & reasons == 0:
        return 0
    if exchange64(worker + SLEEPING, 0) == 0:  # somebody else wakes it
        return 0
    signal_eventfd(load64(worker + EVENTFD))
    return 1


@inline
def _look(worker: int, control: int) -> int:
    """Move a burst of each lane, until the control word changes; returns the rows moved."""
    count = load64(worker + COUNT)
    lane = load64(worker + TABLE)
    run = load64(worker + PUMP)
    moved = 0
    store64_relaxed(worker + PASSES, load64(worker + PASSES) + 1)
    for _ in range(count):
        if load64_acquire(worker + CONTROL) != control:
            break
        if load64(lane + ACTIVE) != 0:
            words = load64(lane + FLOW)
            before = load64(words + _FLOW_ROWS)
            outcome = call3(run, words, 0, 1)
            store64(lane + OUTCOME, outcome)
            if outcome < 0:
                store64(lane + ACTIVE, 0)
                store64(worker + FAILURE, 1)
            moved += load64(words + _FLOW_ROWS) - before
        lane += LANE
    return moved


@inline
def _watch(record: int, fd: int, events: int) -> None:
    """Fill in a ``struct pollfd``; one without events is not looked at."""
    store32(record, fd if events != 0 else -1)
    store16(record + 4, events)
    store16(record + 6, 0)


@inline
def _arrange(worker: int) -> int:
    """Fill in what the lanes wait for; returns what to announce."""
    count = load64(worker + COUNT)
    lane = load64(worker + TABLE)
    record = load64(worker + POLLS) + 8
    reasons = ASLEEP
    for _ in range(count):
        wanted = 0
        room = 0
        if load64(lane + ACTIVE) != 0:
            if load64(lane + OUTCOME) != _FULL:
                wanted = _POLLIN
            elif load64(lane + SINK_FD) >= 0:
                room = _POLLOUT
            else:
                reasons |= BLOCKED
        _watch(record, load64(lane + SOURCE_FD), wanted)
        _watch(record + 8, load64(lane + SINK_FD), room)
        lane += LANE
        record += 16
    return reasons


@inline
def _doze(worker: int, count: int) -> None:
    """Sleep on the first `count` records of the poll table; all announcements are made."""
    records = load64(worker + POLLS)
    _watch(records, load64(worker + EVENTFD), _POLLIN)
    ready = poll(records, count, -1)
    exchange64(worker + SLEEPING, 0)
    if ready > 0 and load16(records + 6) != 0:
        read(load64(worker + EVENTFD), worker + DRAIN, 8)


@inline
def _drop_bad(worker: int) -> None:
    """Look no more at descriptors that are broken: they would be ready for ever."""
    count = load64(worker + COUNT)
    lane = load64(worker + TABLE)
    record = load64(worker + POLLS) + 8
    for _ in range(count):
        if load16(record + 6) & _POLLBAD:
            store64(lane + SOURCE_FD, -1)
        if load16(record + 14) & _POLLBAD:
            store64(lane + SINK_FD, -1)
        lane += LANE
        record += 16


@inline
def _sleep(worker: int, control: int) -> None:
    """Sleep until there may be work, unless there is some by now."""
    store64_relaxed(worker + SLEEPING, ANYTHING)
    fence()
    if (
        load64_acquire(worker + CONTROL) != control
        or _look(worker, control) > 0
        or load64(worker + FAILURE) != 0
    ):
        exchange64(worker + SLEEPING, 0)
        return
    # Who has woken it since then has signalled the eventfd: nothing is lost by storing again.
    store64_relaxed(worker + SLEEPING, _arrange(worker))
    if load64_acquire(worker + CONTROL) == control:
        store64_relaxed(worker + SLEEPS, load64(worker + SLEEPS) + 1)
        _doze(worker, 1 + 2 * load64(worker + COUNT))
        _drop_bad(worker)
    else:
        exchange64(worker + SLEEPING, 0)


@inline
def _rest(worker: int, control: int) -> None:
    """Wait for another control word."""
    start = now_ns()
    while load64_acquire(worker + CONTROL) == control:
        if now_ns() - start < _REST_NS:
            pause()
        else:
            store64_relaxed(worker + SLEEPING, ASLEEP)
            fence()
            if load64_acquire(worker + CONTROL) == control:
                _doze(worker, 1)
            else:
                exchange64(worker + SLEEPING, 0)


@queue_kernel
def work(worker: int, _burst: int, _rows: int) -> int:
    """The loop of a worker, until it is told to stop.

    Args:
        worker: Address of its words.
        _burst: Not used.
        _rows: Not used.

    Returns:
        0 if it was told to stop; 1 if a kernel of a lane has failed: the others go on at the next
        call.
    """
    idle = 0  # since when, ns; 0 = it is not
    while True:
        control = load64_acquire(worker + CONTROL)
        if load64(worker + ANSWER) != control:
            store64_release(worker + ANSWER, control)
            idle = 0
        if control & _COMMAND == STOP:
            return 0
        if load64(worker + FAILURE) != 0:
            store64(worker + FAILURE, 0)
            return 1
        if control & _COMMAND == PAUSE:
            _rest(worker, control)
        elif _look(worker, control) > 0:
            idle = 0
        else:
            now = now_ns()
            if idle == 0:
                idle = now
            if load64(worker + POLLING) != 0 or now - idle < load64(worker + SPIN):
                while now_ns() - now < _BREATH_NS:
                    pause()
            else:
                _sleep(worker, control)
                idle = 0


@queue_kernel
def tell(worker: int, control: int, _rows: int) -> int:
    """Store a control word; returns 1 if the worker had to be woken for it, else 0."""
    store64_release(worker + CONTROL, control)
    return _wake(worker, ANYTHING)


@queue_kernel
def answered(worker: int, control: int, patience: int) -> int:
    """Wait at most `patience` ns for the answer to a control word; returns 1 if it has come."""
    start = now_ns()
    while load64_acquire(worker + ANSWER) != control:
        if now_ns() - start > patience:
            return 0
        pause()
    return 1


@queue_kernel
def wake(worker: int, reasons: int, _rows: int) -> int:
    """Wake the worker if it sleeps and announced one of the reasons; 1 if it was asleep, else 0."""
    return _wake(worker, reasons)


@queue_kernel
def rouse(worker: int, _burst: int, _rows: int) -> int:
    """The shortcut of a flow that a worker runs: wake the worker if it sleeps, whatever for.

    Returns:
        0: there is nothing else to do.
    """
    _wake(worker, ANYTHING)
    return 0


@queue_kernel
def make_room(worker: int, _burst: int, _rows: int) -> int:
    """The shortcut of `Worker.room`: wake it if it sleeps and a sink had no room; 0."""
    _wake(worker, BLOCKED)
    return 0


#: The kernels of this module, for `compile_all`; those of `flow` are needed, too.
KERNELS: Final = (work, tell, answered, wake, rouse, make_room)
