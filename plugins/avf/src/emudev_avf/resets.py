"""Resets of the virtual function: states, events, the table, and the clock that drives it.

A guest sees a reset in VFGEN_RSTAT and by its mailbox being disabled. A VF reset, asked for by the
guest (RESET_VF) or by the PF side, takes a while: in progress (0), completed (1), active (2). A PF
reset may be announced before, so that the guest can come to rest. A function level reset and those
of the whole device are over when they are answered: the driver may look at RSTAT at once.

    guest:  ACTIVE ----RESET_VF----> IN_PROGRESS --due--> COMPLETED --due--> ACTIVE
    PF:     ACTIVE -announce-> ANNOUNCED --due-> IN_PROGRESS ...

`step` is pure; what a reset clears is in `vf` and `device`. Source: avf.md sections 0 (facts 4 and
9), 2.2, 2.4, 4.5 (RESET_VF, REQUEST_QUEUES) and 5.2.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from emudev_core.errors import LifecycleError

if TYPE_CHECKING:
    from emudev_core.loop import Loop, Timer

__all__ = ["NEXT", "RSTAT", "ResetEvent", "ResetState", "Resets", "mermaid", "step"]

#: How long the guest has between the announcement of a reset and the reset, seconds.
ANNOUNCEMENT: Final = 0.03
#: How long a VF reset is in progress, seconds. Long enough for a driver that polls each 5 ms.
DURATION: Final = 0.015
#: How much longer it is in progress at most, seconds; drivers wait for 5 and more.
PATIENCE: Final = 1.0
#: How long it stays completed before the PF side has enabled the VF again, seconds.
COMPLETION: Final = 0.001


class ResetState(enum.Enum):
    """Where a VF is in its reset."""

    ACTIVE = "active"
    ANNOUNCED = "announced"
    IN_PROGRESS = "in progress"
    COMPLETED = "completed"


class ResetEvent(enum.Enum):
    """What moves it on."""

    REQUEST = "request"  #: the guest asked by RESET_VF
    ANNOUNCE = "announce"  #: the PF side will reset the VF
    SILENT = "silent"  #: the PF side resets the VF without a word
    DUE = "due"  #: the time of the present state is over
    FUNCTION = "function"  #: function level reset
    POWER = "power"  #: reset of the whole device, or its client has gone


_S, _E = ResetState, ResetEvent

#: Every transition; what is not here is refused and leaves the state as it was.
NEXT: Final[Mapping[tuple[ResetState, ResetEvent], ResetState]] = {
    (_S.ACTIVE, _E.REQUEST): _S.IN_PROGRESS,
    (_S.ACTIVE, _E.ANNOUNCE): _S.ANNOUNCED,
    (_S.ACTIVE, _E.SILENT): _S.IN_PROGRESS,
    (_S.ANNOUNCED, _E.REQUEST): _S.IN_PROGRESS,
    (_S.ANNOUNCED, _E.SILENT): _S.IN_PROGRESS,
    (_S.ANNOUNCED, _E.DUE): _S.IN_PROGRESS,
    (_S.IN_PROGRESS, _E.DUE): _S.COMPLETED,
    (_S.COMPLETED, _E.DUE): _S.ACTIVE,
    **{(state, event): _S.ACTIVE for state in _S for event in (_E.FUNCTION, _E.POWER)},
}

#: What VFGEN_RSTAT reads in each state.
RSTAT: Final[Mapping[ResetState, int]] = {
    _S.ACTIVE: 2,
    _S.ANNOUNCED: 2,
    _S.IN_PROGRESS: 0,
    _S.COMPLETED: 1,
}

#: How long a state lasts by itself, seconds.
_LASTS: Final[Mapping[ResetState, float]] = {
    _S.ANNOUNCED: ANNOUNCEMENT,
    _S.IN_PROGRESS: DURATION,
    _S.COMPLETED: COMPLETION,
}


def step(state: ResetState, event: ResetEvent) -> ResetState:
    """The state after an event.

    Raises:
        LifecycleError: The event is not allowed in this state.
    """
    try:
        return NEXT[state, event]
    except KeyError:
        can = ", ".join(e.value for e in ResetEvent if (state, e) in NEXT)
        raise LifecycleError(
            f"a VF reset that is {state.value} takes no {event.value} (allowed: {can})"
        ) from None


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the documentation."""

    def name(state: ResetState) -> str:
        return state.name.lower()

    lines = [f"    {name(s)} --> {name(n)}: {e.value}" for (s, e), n in NEXT.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> active", *lines])


class Resets:
    """The reset machine of one device, with its timer. For the loop's thread.

    Args:
        loop: Runs the timer.
        clear: Called when a reset takes effect, with the event that caused it: DMA stops and the
            state goes before this returns.
        changed: Called after each change of state.
        busy: Whether something is with the client still that belongs before the reset: it is in
            progress as long, up to `PATIENCE`.

    Attributes:
        state: Where the VF is.
    """

    def __init__(
        self,
        loop: Loop,
        clear: Callable[[ResetEvent], None],
        changed: Callable[[], None],
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.state = ResetState.ACTIVE
        self._loop = loop
        self._clear = clear
        self._changed = changed
        self._busy = busy
        self._late = 0.0  # seconds that a reset has been in progress beyond its time
        self._timer: Timer | None = None

    @property
    def rstat(self) -> int:
        """What VFGEN_RSTAT reads."""
        return RSTAT[self.state]

    @property
    def working(self) -> bool:
        """Whether the guest's mailbox is served: not between the start of a reset and its end."""
        return self.state in (ResetState.ACTIVE, ResetState.ANNOUNCED)

    def happen(self, event: ResetEvent) -> None:
        """Take an event.

        Raises:
            LifecycleError: It is not allowed now.
        """
        state = step(self.state, event)
        self.cancel()
        self.state = state
        # COMPLETED and the ACTIVE after it belong to a reset that has been cleared for already.
        finishing = event is ResetEvent.DUE and state is not ResetState.IN_PROGRESS
        if not finishing and event is not ResetEvent.ANNOUNCE:
            self._clear(event)
        if state in _LASTS:
            self._timer = self._loop.call_later(_LASTS[state], self._due)
        self._changed()

    def restore(self, state: ResetState) -> None:
        """Take a saved state; its time starts anew."""
        self.cancel()
        self.state = state
        if state in _LASTS:
            self._timer = self._loop.call_later(_LASTS[state], self._due)

    def cancel(self) -> None:
        """Stop the clock."""
        self._late = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        if self.state is ResetState.IN_PROGRESS and self._busy() and self._late < PATIENCE:
            self._late += DURATION
            self._timer = self._loop.call_later(DURATION, self._due)
            return
        self.happen(ResetEvent.DUE)
