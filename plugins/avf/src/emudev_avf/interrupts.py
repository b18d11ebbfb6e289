"""Interrupt vectors: one word each, changed only by compare-and-exchange, from both sides.

The word holds whether the vector may fire, whether an event waits, and the eventfd that raises it
in the guest. A change and the decision to fire are one exchange, so that an event is never lost
between the side that enables and the side that has work; the eventfd is written by whoever won the
exchange.

Source: avf.md section 2.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from emudev_net.jit import inline, queue_kernel
from emudev_net.primitives import (
    Words,
    atomic_add64,
    compare_exchange64,
    exchange64,
    load64,
    load64_acquire,
    load64_relaxed,
    signal_eventfd,
)

from .words import P_DUE, P_RX_DUE, P_VECTORS, Q_PORT, V_ERRORS, V_SIGNALS, V_STATE, VECTOR_WORDS

__all__ = ["Vector", "change_vector", "notify"]

INTENA: Final = 1 << 0  #: the guest lets it fire
PENDING: Final = 1 << 1  #: an event waits
FORCED: Final = 1 << 2  #: the event is a software trigger, which needs no cause enable
CAUSE: Final = 1 << 3  #: the cause is enabled (vector 0: ICR0_ENA1; always for the others)
SIGNALLING: Final = 1 << 8  #: one of up to 255 writers of the eventfd that are still at it
SIGNALLING_MASK: Final = 0xFF00
FD_SHIFT: Final = 32  #: the eventfd plus one, 0 = none
FD_MASK: Final = -(1 << 32)

# DYN_CTL01 and DYN_CTLN1; avf.md 2.2.
DYN_CTL_INTENA: Final = 1 << 0
DYN_CTL_SWINT_TRIG: Final = 1 << 2


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
    while True:
        new = old & ~clear_bits | set_bits
        fire = (
            new & INTENA != 0
            and new & PENDING != 0
            and new & (CAUSE | FORCED) != 0
            and new >> FD_SHIFT != 0
        )
        if fire:
            new = (new & ~(INTENA | PENDING | FORCED)) + SIGNALLING
        seen = compare_exchange64(vector, old, new)
        if seen == old:
            break
        old = seen
    if not fire:
        return 0
    # The control side waits for SIGNALLING to go before the descriptor may be closed.
    if signal_eventfd((new >> FD_SHIFT) - 1) < 0:
        atomic_add64(vector + V_ERRORS, 1)
    atomic_add64(vector + V_SIGNALS, 1)
    atomic_add64(vector, -SIGNALLING)
    return 1


@inline
def raise_due(port: int) -> int:
    """Post an event on each vector that is marked as due, and return how many fired."""
    due = 0
    if load64_relaxed(port + P_DUE) != 0:
        due = exchange64(port + P_DUE, 0)
    if load64_relaxed(port + P_RX_DUE) != 0:
        due |= exchange64(port + P_RX_DUE, 0)
    vector = load64(port + P_VECTORS)
    fired = 0
    while due != 0:
        if due & 1:
            fired += change(vector, PENDING, 0)
        due >>= 1
        vector += 8 * VECTOR_WORDS
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


class Vector:
    """The control side of one vector. All methods are for the loop's thread.

    Args:
        words: The words of all vectors of the port.
        index: Number of this one; 0 is the mailbox's, whose cause must be enabled, too.
        paused: Makes a context within which no kernel of the port runs.
    """

    __slots__ = ("_address", "_at", "_paused", "_words", "index")

    def __init__(
        self,
        words: Words,
        index: int,
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.index = index
        self._paused = paused
        self._words = words
        self._at = VECTOR_WORDS * index
        self._address = words.address + 8 * self._at
        if index != 0:
            words[self._at + V_STATE // 8] = CAUSE

    def _change(self, set_bits: int, clear_bits: int) -> None:
        if change_vector.address:
            change_vector(self._address, set_bits, clear_bits)
        else:  # not atomic, but other threads run compiled kernels as soon as theirs are ready
            with self._paused():
                change_vector(self._address, set_bits, clear_bits)

    @property
    def enabled(self) -> bool:
        """Whether the guest lets it fire."""
        return bool(self._words[self._at + V_STATE // 8] & INTENA)

    @property
    def pending(self) -> bool:
        """Whether an event waits for the guest, or for an eventfd."""
        return bool(self._words[self._at + V_STATE // 8] & PENDING)

    @property
    def bound(self) -> bool:
        """Whether there is an eventfd."""
        return self._words[self._at + V_STATE // 8] >> FD_SHIFT != 0

    @property
    def signals(self) -> int:
        """Signals sent since the port was made."""
        return self._words[self._at + V_SIGNALS // 8]

    def bind(self, fd: int | None) -> None:
        """Set the eventfd that raises it; an event that waits fires at once if it may.

        Args:
            fd: Owned by the caller, which may close it when it has been replaced or unset here;
                None while the guest has none: events wait.
        """
        value = 0 if fd is None else fd + 1
        self._change(value << FD_SHIFT, FD_MASK)
        while self._words[self._at + V_STATE // 8] & SIGNALLING_MASK:
            time.sleep(0)

    def control(self, value: int) -> None:
        """Apply a write to DYN_CTL01 or DYN_CTLN1.

        CLEARPBA, the throttling fields and WB_ON_ITR have no effect: an event that waits is kept,
        nothing is ever throttled, and write-backs are immediate.
        """
        bits = INTENA if value & DYN_CTL_INTENA else 0
        if value & DYN_CTL_SWINT_TRIG:
            bits |= PENDING | FORCED
        self._change(bits, INTENA)

    def cause_enable(self, on: bool) -> None:
        """Apply bit 30 of ICR0_ENA1, for vector 0."""
        self._change(CAUSE if on else 0, CAUSE)

    def event(self) -> None:
        """Post an event: it fires now, or when the guest enables the vector."""
        self._change(PENDING, 0)

    def reset(self) -> None:
        """Forget what waits and disable, as all resets do (avf.md 2.4); the eventfd stays."""
        clear = INTENA | PENDING | FORCED | (CAUSE if self.index == 0 else 0)
        self._change(0, clear)
