"""The states of a device and every way from one to the next.

A device is allocated by name, configured once, started and stopped any number of times, closed, and
released. `close` is allowed everywhere except after itself. `fail` is what the host enters when a
provider raised or did not answer in time: the device serves nobody any more, and can only be
closed.

`step` is pure: it answers the next state or raises, and a refused event leaves everything as it
was. The actions behind the events are in `emudev_core.device` and `emudev_core.sequence`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from .errors import LifecycleError

__all__ = ["NEXT", "LifecycleEvent", "State", "allowed", "mermaid", "step"]


class State(enum.Enum):
    """Where a device is in its life."""

    ALLOCATED = "allocated"
    CONFIGURED = "configured"
    STARTED = "started"
    STOPPED = "stopped"
    ERROR = "error"
    CLOSED = "closed"


class LifecycleEvent(enum.Enum):
    """What moves it on."""

    CONFIGURE = "configure"
    START = "start"
    STOP = "stop"
    FAIL = "fail"
    CLOSE = "close"


_S, _E = State, LifecycleEvent

#: Every transition; what is not here is refused.
NEXT: Final[Mapping[tuple[State, LifecycleEvent], State]] = {
    (_S.ALLOCATED, _E.CONFIGURE): _S.CONFIGURED,
    (_S.CONFIGURED, _E.START): _S.STARTED,
    (_S.STARTED, _E.STOP): _S.STOPPED,
    (_S.STOPPED, _E.START): _S.STARTED,
    (_S.ALLOCATED, _E.FAIL): _S.ERROR,
    (_S.CONFIGURED, _E.FAIL): _S.ERROR,
    (_S.STARTED, _E.FAIL): _S.ERROR,
    (_S.STOPPED, _E.FAIL): _S.ERROR,
    (_S.ALLOCATED, _E.CLOSE): _S.CLOSED,
    (_S.CONFIGURED, _E.CLOSE): _S.CLOSED,
    (_S.STARTED, _E.CLOSE): _S.CLOSED,
    (_S.STOPPED, _E.CLOSE): _S.CLOSED,
    (_S.ERROR, _E.CLOSE): _S.CLOSED,
}


def allowed(state: State) -> list[LifecycleEvent]:
    """The events that a state takes, in the order of the enum."""
    return [event for event in LifecycleEvent if (state, event) in NEXT]


def step(state: State, event: LifecycleEvent, name: str = "device") -> State:
    """The state after an event.

    Raises:
        LifecycleError: The event is not allowed; the message names those that are.
    """
    try:
        return NEXT[state, event]
    except KeyError:
        can = ", ".join(e.value for e in allowed(state)) or "nothing more"
        raise LifecycleError(
            f"{name} is {state.value}: {event.value} is not allowed (allowed: {can})"
        ) from None


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> allocated"]
    lines += [f"    {s.value} --> {n.value}: {e.value}" for (s, e), n in NEXT.items()]
    return "\n".join([*lines, "    closed --> [*]"])
