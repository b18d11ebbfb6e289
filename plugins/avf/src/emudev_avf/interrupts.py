"""Kernels of interrupt vectors: one word each, changed by compare-and-exchange, from both sides.

The word holds whether the vector may fire, whether an event waits, and the eventfd that raises it
in the guest. A change and the decision to fire are one exchange, so that an event is never lost
between the side that enables and the side that has work; the eventfd is written by whoever won the
exchange.

**Moderation.** Each vector has three throttles (ITR), and an event belongs to one of them, or to
none. It fires at once if the vector has not fired for the time of that throttle; else it is held
until then. No thread waits for that: the time is stored in the port's words and in its timerfd
(`hold_timer`), and whoever comes by when it is over fires what was held: the next notify of any of
the port's queues, a write to the vector's control register, or the loop's thread.

A guest that only listens (it was given `LISTENS` frames, TCP aside, and has sent none since) is not
interrupted more often than `P_LISTENER` says, whatever its throttle: interrupting it for each
datagram costs it more than the datagram. Whoever waits for an answer is not held up by that.

Source: avf.md sections 2.2, 2.3 and 6.11.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    atomic_add64,
    compare_exchange64,
    exchange64,
    load32,
    load64,
    load64_acquire,
    load64_relaxed,
    now_ns,
    shift_right64,
    store64,
    store64_relaxed,
)
from emudev_net.system_calls import read, set_timer, signal_eventfd

from .words import (
    P_ARMED,
    P_DRAIN,
    P_DUE,
    P_LISTENER,
    P_PACED,
    P_RETRY,
    P_RX_DUE,
    P_TIMER,
    P_UNANSWERED,
    P_VECTOR_COUNT,
    P_VECTORS,
    Q_PORT,
    V_CONTROL,
    V_ENABLES,
    V_ERRORS,
    V_HELD,
    V_ITR,
    V_LAST,
    V_PORT,
    V_RX_EVENT,
    V_SIGNALS,
    V_TX_EVENT,
    VECTOR_WORDS,
)

__all__ = [
    "LONGEST",
    "NO_ITR",
    "UNIT",
    "change_vector",
    "control_alone",
    "control_vector",
    "fire_alone",
    "fire_held",
    "notify",
]

UNIT: Final = 2_000  #: of an interval in registers, ns
LONGEST: Final = 8160 // 2  #: interval that is applied, units; larger values count as this one
NO_ITR: Final = 3  #: index of no throttle
LISTENS: Final = 32  #: frames that a guest has not answered, from which on it is a listener

INTENA: Final = 1 << 0  #: the guest lets it fire
PENDING: Final = 1 << 1  #: an event waits that no throttle holds
FORCED: Final = 1 << 2  #: the event is a software trigger, which needs no cause enable
CAUSE: Final = 1 << 3  #: the cause is enabled (vector 0: ICR0_ENA1; always for the others)
THROTTLED: Final = 1 << 4  #: an event of throttle 0 waits; the next two bits: of 1 and 2
ANY_THROTTLED: Final = 7 * THROTTLED
ANY_EVENT: Final = PENDING | ANY_THROTTLED
SIGNALLING: Final = 1 << 8  #: one of up to 255 writers of the eventfd that are still at it
SIGNALLING_MASK: Final = 0xFF00
FD_SHIFT: Final = 32  #: the eventfd plus one, 0 = none
FD_MASK: Final = -(1 << 32)

# DYN_CTL01 and DYN_CTLN1; avf.md 2.2.
DYN_CTL_INTENA: Final = 1 << 0
DYN_CTL_SWINT_TRIG: Final = 1 << 2
DYN_CTL_ITR_INDX: Final = 3
DYN_CTL_INTERVAL: Final = 5
DYN_CTL_SW_ITR_INDX_ENA: Final = 1 << 24
DYN_CTL_SW_ITR_INDX: Final = 25
INTERVAL_MASK: Final = 0xFFF


@inline
def held_until(vector: int, state: int) -> int:
    """When the throttles let an event fire, ns; 0 if that is now.

    Args:
        vector: Address of the vector's words.
        state: Its word, with events of throttles only. The shortest of theirs counts.
    """
    port = load64(vector + V_PORT)
    if port == 0 or load64_relaxed(port + P_TIMER) == 0:
        return 0
    interval = LONGEST * UNIT
    for i in range(3):
        if state & THROTTLED << i:
            interval = min(interval, load64_relaxed(vector + V_ITR + 8 * i))
    if load64_relaxed(port + P_UNANSWERED) >= LISTENS:
        interval = max(interval, load64_relaxed(port + P_LISTENER))
    if interval == 0:
        return 0
    until = load64_relaxed(vector + V_LAST) + interval
    return until if until > now_ns() else 0


@inline
def arm(port: int, until: int) -> None:
    """Have what is held looked at when the clock shows `until`, ns, or before.

    The vector's word says by now that the event waits. Who looks takes the time away first: if it
    is still there, and not later, the event will be seen.
    """
    seen = load64_acquire(port + P_ARMED)
    while seen == 0 or until < seen:
        got = compare_exchange64(port + P_ARMED, seen, until)
        if got == seen:
            break
        seen = got
    if seen != 0 and seen <= until:
        return
    wanted = until
    while wanted != 0:
        set_timer(load64_relaxed(port + P_TIMER) - 1, wanted)
        # Another thread may have set an earlier time, and this one's has overwritten it.
        now = load64_acquire(port + P_ARMED)
        wanted = 0 if now == wanted else now


@inline
def change(vector: int, set_bits: int, clear_bits: int) -> int:
    """Clear and set bits of a vector's word, and fire if that is now due.

    Args:
        vector: Address of the vector's words.
        set_bits: Set after the clearing.
        clear_bits: May hold `FD_MASK`.

    Returns:
        1 if the eventfd was written, else 0.
    """
    old = load64_acquire(vector)
    until = 0
    while True:
        new = old & ~clear_bits | set_bits
        fire = (
            new & INTENA != 0
            and new & ANY_EVENT != 0
            and new & (CAUSE | FORCED) != 0
            and new >> FD_SHIFT != 0
        )
        until = 0
        if fire and new & PENDING == 0:
            until = held_until(vector, new)
        if fire and until == 0:
            new = (new & ~(INTENA | ANY_EVENT | FORCED)) + SIGNALLING
        seen = compare_exchange64(vector, old, new)
        if seen == old:
            break
        old = seen
    if not fire:
        return 0
    if until != 0:
        store64_relaxed(vector + V_HELD, load64_relaxed(vector + V_HELD) + 1)
        arm(load64(vector + V_PORT), until)
        return 0
    # Before the guest can enable it again.
    store64_relaxed(vector + V_LAST, now_ns())
    # The control side waits for SIGNALLING to go before the descriptor may be closed.
    if signal_eventfd((new >> FD_SHIFT) - 1) < 0:
        atomic_add64(vector + V_ERRORS, 1)
    atomic_add64(vector + V_SIGNALS, 1)
    atomic_add64(vector, -SIGNALLING)
    return 1


@inline
def look_at_held(port: int) -> int:
    """Fire what is held and due, and arm the timer for the rest; returns how many fired."""
    exchange64(port + P_ARMED, 0)
    vector = load64(port + P_VECTORS)
    fired = 0
    for _ in range(load64(port + P_VECTOR_COUNT)):
        state = load64_acquire(vector)
        if state & INTENA and state & ANY_THROTTLED:
            fired += change(vector, 0, 0)
        vector += 8 * VECTOR_WORDS
    retry = load64_relaxed(port + P_RETRY)
    if retry != 0:  # the timer is for this, too (`rx_patience`)
        arm(port, retry)
    return fired


@inline
def raise_due(port: int) -> int:
    """Post an event on each vector that is marked as due, and return how many fired."""
    sent = 0
    received = 0
    if load64_relaxed(port + P_DUE) != 0:
        sent = exchange64(port + P_DUE, 0)
    if load64_relaxed(port + P_RX_DUE) != 0:
        received = exchange64(port + P_RX_DUE, 0)
    vector = load64(port + P_VECTORS)
    fired = 0
    while sent | received != 0:
        events = 0
        if sent & 1:
            events = load64_relaxed(vector + V_TX_EVENT)
        if received & 1:
            events |= load64_relaxed(vector + V_RX_EVENT)
        if events != 0:
            fired += change(vector, events, 0)
        sent = shift_right64(sent, 1)
        received = shift_right64(received, 1)
        vector += 8 * VECTOR_WORDS
    armed = load64_relaxed(port + P_ARMED)
    if armed != 0 and armed <= now_ns():
        fired += look_at_held(port)
    return fired


@queue_kernel
def change_vector(vector: int, set_bits: int, clear_bits: int) -> int:
    """The control side's way to `change`."""
    return change(vector, set_bits, clear_bits)


@queue_kernel
def notify(state: int, _burst: int, _rows: int) -> int:
    """Raise the interrupts that became due since the last call, for all queues of the port.

    Args:
        state: Address of the words of any of its queues.

    Returns:
        0.
    """
    raise_due(load64(state + Q_PORT))
    return 0


@queue_kernel
def fire_held(port: int, _burst: int, _rows: int) -> int:
    """The loop's way to `look_at_held`, when the timerfd is readable.

    Args:
        port: Address of the port's words.
        _burst: Not used.
        _rows: Not used.

    Returns:
        How many fired.
    """
    timer = load64_relaxed(port + P_TIMER)
    if timer == 0:
        return 0
    read(timer - 1, port + P_DRAIN, 8)
    return look_at_held(port)


@inline
def control(vector: int, value: int) -> None:
    """Apply a write to the control register of a vector.

    CLEARPBA and WB_ON_ITR have no effect: an event that waits is kept, and write-backs are
    immediate. A software trigger is throttled if it names a throttle.
    """
    index = value >> DYN_CTL_ITR_INDX & 3
    if index != NO_ITR:
        interval = min(value >> DYN_CTL_INTERVAL & INTERVAL_MASK, LONGEST)
        store64_relaxed(vector + V_ITR + 8 * index, UNIT * interval)
    bits = 0
    if value & DYN_CTL_INTENA:
        bits = INTENA
        store64(vector + V_ENABLES, load64(vector + V_ENABLES) + 1)
    if value & DYN_CTL_SWINT_TRIG:
        index = NO_ITR
        if value & DYN_CTL_SW_ITR_INDX_ENA:
            index = value >> DYN_CTL_SW_ITR_INDX & 3
        bits |= FORCED
        bits |= PENDING if index == NO_ITR else THROTTLED << index
    change(vector, bits, INTENA)


@queue_kernel
def control_vector(vector: int, value: int, _rows: int) -> int:
    """Apply a write to DYN_CTL01 or DYN_CTLN1; see `control`."""
    control(vector, value)
    return 0


@queue_kernel
def control_alone(vector: int, _burst: int, _rows: int) -> int:
    """The shortcut of a write to DYN_CTLN1, which is in `V_CONTROL`.

    Returns:
        0; or 1 if frames wait for a vector to be enabled: then nothing is done.
    """
    port = load64(vector + V_PORT)
    if port != 0 and load64_relaxed(port + P_PACED) != 0:
        return 1
    control(vector, load32(vector + V_CONTROL))
    return 0


@queue_kernel
def fire_alone(port: int, _burst: int, _rows: int) -> int:
    """The shortcut of the timer, as long as it is for nothing but held events.

    Args:
        port: Address of the port's words.
        _burst: Not used.
        _rows: Not used.

    Returns:
        0; or 1 if frames may wait for the timer, too: then nothing is done.
    """
    timer = load64_relaxed(port + P_TIMER)
    if timer == 0 or load64_relaxed(port + P_RETRY) != 0 or load64_relaxed(port + P_PACED) != 0:
        return 1
    read(timer - 1, port + P_DRAIN, 8)
    look_at_held(port)
    return 0
