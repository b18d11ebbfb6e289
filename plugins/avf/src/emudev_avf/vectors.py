"""The control side of interrupt vectors: what registers, maps and transports change of them.

The word that decides whether a vector fires is changed by kernels, too: see `interrupts`.

Source: avf.md sections 2.2, 2.3 and 6.11.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from emudev_core.queues import Doorbell, Shortcut
from emudev_net.primitives import Words

from .interrupts import (
    ANY_EVENT,
    CAUSE,
    FD_MASK,
    FD_SHIFT,
    FORCED,
    INTENA,
    INTERVAL_MASK,
    LONGEST,
    NO_ITR,
    PENDING,
    SIGNALLING_MASK,
    THROTTLED,
    UNIT,
    change_vector,
    control_alone,
    control_vector,
)
from .words import (
    V_CONTROL,
    V_ENABLES,
    V_HELD,
    V_ITR,
    V_LAST,
    V_PORT,
    V_RX_EVENT,
    V_SIGNALS,
    V_STATE,
    V_TX_EVENT,
    VECTOR_WORDS,
)

__all__ = ["Vector"]


class Vector:
    """The control side of one vector. All methods are for the loop's thread.

    Args:
        words: The words of all vectors of the port.
        index: Number of this one; 0 is the mailbox's, whose cause must be enabled, too.
        paused: Makes a context within which no kernel of the port runs.
        port: Address of the port's words; 0: no event is ever held.
    """

    __slots__ = ("_address", "_at", "_paused", "_words", "index")

    def __init__(
        self,
        words: Words,
        index: int,
        paused: Callable[[], AbstractContextManager[None]] = nullcontext,
        port: int = 0,
    ) -> None:
        self.index = index
        self._paused = paused
        self._words = words
        self._at = VECTOR_WORDS * index
        self._address = words.address + 8 * self._at
        words[self._at + V_PORT // 8] = port
        if index != 0:
            words[self._at + V_STATE // 8] = CAUSE
        self._forget_throttles()

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
        return bool(self._words[self._at + V_STATE // 8] & ANY_EVENT)

    @property
    def bound(self) -> bool:
        """Whether there is an eventfd."""
        return self._words[self._at + V_STATE // 8] >> FD_SHIFT != 0

    @property
    def signals(self) -> int:
        """Signals sent since the port was made."""
        return self._words[self._at + V_SIGNALS // 8]

    @property
    def held(self) -> int:
        """Times that an event found its throttle's time not yet over."""
        return self._words[self._at + V_HELD // 8]

    @property
    def intervals(self) -> list[int]:
        """The three throttles, in units of 2 µs."""
        at = self._at + V_ITR // 8
        return [value // UNIT for value in self._words.view[at : at + 3]]

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

    def throttle(self, index: int, interval: int) -> None:
        """Apply a write to VFINT_ITRN1 or VFINT_ITR01; what is held by now fires when it is over.

        Args:
            index: 0 to 2.
            interval: In units of 2 µs; at most `LONGEST` is applied.
        """
        self._set_interval(index, interval)
        self._change(0, 0)

    def _set_interval(self, index: int, interval: int) -> None:
        interval &= INTERVAL_MASK
        self._words[self._at + V_ITR // 8 + index] = UNIT * min(interval, LONGEST)

    def throttle_queues(self, rx: bool, index: int) -> None:
        """Set the throttle that its receive, or its transmit queues use: 0 to 2, or `NO_ITR`."""
        bits = PENDING if index & 3 == NO_ITR else THROTTLED << (index & 3)
        self._words[self._at + (V_RX_EVENT if rx else V_TX_EVENT) // 8] = bits

    def throttle_of(self, rx: bool) -> int:
        """Which throttle its receive, or its transmit queues use."""
        bits = self._words[self._at + (V_RX_EVENT if rx else V_TX_EVENT) // 8]
        return NO_ITR if bits == PENDING else (bits // THROTTLED).bit_length() - 1

    def _forget_throttles(self) -> None:
        for index in range(3):
            self._words[self._at + V_ITR // 8 + index] = 0
        self._words[self._at + V_LAST // 8] = 0
        self._words[self._at + V_ENABLES // 8] = 0
        self.throttle_queues(True, 0)
        self.throttle_queues(False, 1)

    def arm(self) -> None:
        """Let it fire once more, for a vector that no guest knows of."""
        self._change(INTENA, 0)

    def control(self, value: int) -> None:
        """Apply a write to DYN_CTL01 or DYN_CTLN1; see the kernel `control`."""
        if control_vector.address:
            control_vector(self._address, value, 0)
        else:  # not atomic, as in `_change`
            with self._paused():
                control_vector(self._address, value, 0)

    def register(self, number: int) -> Doorbell:
        """Its control register as a doorbell, which a transport may serve by itself; not rung yet.

        Args:
            number: Id of the doorbell.
        """
        return Doorbell(number, self._address + V_CONTROL, every=True)

    @property
    def shortcut(self) -> Shortcut:
        """What may be run in the place of `control` after a write to `register`."""
        return Shortcut(control_alone.address, self._address)

    def restore(self, enabled: bool, pending: bool, intervals: Sequence[int]) -> None:
        """Take back what was saved; the throttles that queues use stay as they are."""
        self._change(0, INTENA | ANY_EVENT | FORCED)
        for index, interval in enumerate(intervals):
            self._set_interval(index, interval)
        self._change((INTENA if enabled else 0) | (PENDING if pending else 0), 0)

    def cause_enable(self, on: bool) -> None:
        """Apply bit 30 of ICR0_ENA1, for vector 0."""
        self._change(CAUSE if on else 0, CAUSE)

    def event(self) -> None:
        """Post an event without throttle: it fires now, or when the guest enables the vector."""
        self._change(PENDING, 0)

    def reset(self) -> None:
        """Forget what waits and disable, as all resets do (avf.md 2.4); the eventfd stays."""
        clear = INTENA | ANY_EVENT | FORCED | (CAUSE if self.index == 0 else 0)
        self._change(0, clear)
        self._forget_throttles()
