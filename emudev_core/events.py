"""Events that a device posts, and the channels that carry them (RFC v1, event channel).

A channel is a bounded ring and a descriptor. The device posts, the subscriber drains. A subscriber
on the loop's own thread gives a `wake` function instead of watching the descriptor.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections import deque
from collections.abc import Callable, Iterator

import attrs

__all__ = ["Event", "EventChannel", "EventKind"]


class EventKind(enum.Enum):
    """What happened. A provider may post events of its own kind as `PRIVATE`."""

    QUEUE_STATE = "queue-state"  #: a queue was enabled or disabled; `queue`, `value` 1 or 0
    LINK = "link"  #: the link the guest sees changed, or its speed; `value` 1 or 0, `text`: speed
    CLIENT = "client"  #: a client attached (1) or detached (0)
    MEMORY = "memory"  #: the memory table changed; `value` is its generation
    IRQ = "irq"  #: a vector was bound, unbound, masked or unmasked; `queue` is its number
    RESET = "reset"  #: the device was reset: queues are gone, nothing may touch guest memory
    FILTER = "filter"  #: address, VLAN or promiscuous settings changed
    STATE = "state"  #: the lifecycle state changed
    ERROR = "error"  #: the device is in error; `text` says why
    OVERFLOW = "overflow"  #: the channel was full: events were lost, look at everything anew
    PRIVATE = "private"  #: the provider's own; `text` names it


@attrs.frozen
class Event:
    """One event.

    Attributes:
        kind: What happened.
        queue: Queue or vector concerned, -1 if none.
        value: Meaning by kind.
        text: For people, or the name of a private event.
    """

    kind: EventKind
    queue: int = -1
    value: int = 0
    text: str = ""


class EventChannel:
    """A bounded ring of events with a way to wake its reader.

    Args:
        wake: Called when the ring becomes non-empty, on the poster's thread (the loop's); it must
            be short, such as `Task.mark`. Without it, watch `fileno`.
        capacity: Events held; when it is full further ones are counted and one `OVERFLOW` is shown.
    """

    def __init__(self, wake: Callable[[], None] | None = None, capacity: int = 256) -> None:
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, not {capacity}")
        self._ring: deque[Event] = deque()
        self._wake = wake
        self._capacity = capacity
        self._fd: int | None = None
        self.lost = 0

    def fileno(self) -> int:
        """An eventfd, readable while events wait; made at the first call, owned by the channel."""
        if self._fd is None:
            self._fd = os.eventfd(len(self._ring), os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._fd

    def post(self, event: Event) -> None:
        """Append an event; a full ring loses it, counts it in `lost`, and ends in an `OVERFLOW`."""
        if len(self._ring) >= self._capacity - 1:
            self.lost += 1
            if self._ring[-1].kind is not EventKind.OVERFLOW:
                self._ring.append(Event(EventKind.OVERFLOW))
            return
        self._ring.append(event)
        if self._fd is not None:
            os.eventfd_write(self._fd, 1)
        if self._wake is not None and len(self._ring) == 1:
            self._wake()

    def drain(self) -> Iterator[Event]:
        """Take the events that wait, oldest first; ones posted meanwhile are taken too."""
        if self._fd is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)
        while self._ring:
            yield self._ring.popleft()

    def close(self) -> None:
        """Close the descriptor and drop what waits."""
        self._ring.clear()
        self._wake = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
