"""Which queue of one end carries its frames into which queue of the other.

A frame that a peer sends by queue pair p arrives by receive queue p of the other end, if that is
enabled, else by one of those that are: both ends may have, and use, different numbers of queues.
A device may spread what it is given over its receive queues (AVF does, by RSS); then the number
does not matter. While the other end is down the frames go nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["NOWHERE", "Route", "Usable", "plan_routes"]

#: The sink of frames for an end that is down.
NOWHERE = -1


@attrs.frozen
class Usable:
    """The queue pairs of an end that can be used now.

    Attributes:
        receiving: Pairs of which the receive queue is enabled, ascending.
        sending: Pairs of which the transmit queue is enabled, ascending.
    """

    receiving: tuple[int, ...] = ()
    sending: tuple[int, ...] = ()


@attrs.frozen(order=True)
class Route:
    """The way of the frames of one transmit queue.

    Attributes:
        end: Whose queue it is, 0 or 1.
        pair: Its queue pair there.
        sink: Queue pair of the other end that they go to, or `NOWHERE`.
    """

    end: int
    pair: int
    sink: int


def plan_routes(ends: Sequence[Usable]) -> tuple[Route, ...]:
    """The routes of the two ends, in order."""
    return tuple(
        Route(end, pair, _sink(pair, ends[1 - end].receiving))
        for end in (0, 1)
        for pair in ends[end].sending
    )


def _sink(pair: int, receiving: Sequence[int]) -> int:
    if not receiving:
        return NOWHERE
    return pair if pair in receiving else receiving[pair % len(receiving)]
