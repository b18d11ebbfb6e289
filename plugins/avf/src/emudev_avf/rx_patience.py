"""What happens to a frame when the guest has posted too few buffers in one of several queues.

It waits for a moment, as all that come behind it do: a guest whose processors are busy elsewhere,
or that is just changing its rings, posts buffers within some milliseconds, and until then the
backend has more room than the ring. A queue that stays full for longer than `PATIENCE` loses its
frames until it has room again, so that nobody holds the other queues up for good. With one queue
there are no others: its frames wait for as long as it takes.

The end of a wait is nobody's event, so the port's timer is set for it (`hold_timer`), which then
rings the receive doorbells.
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.primitives import load64, load64_relaxed, now_ns, store64, store64_relaxed

from .interrupts import arm
from .words import P_RETRY, P_RX_ENABLED, P_TIMER, R_FULL_SINCE

__all__ = ["PATIENCE", "may_wait"]

#: How long a full queue may hold up the others, ns: the time that a busy machine with a few guests
#: takes until it runs a virtual processor again.
PATIENCE: Final = 50_000_000


@inline
def may_wait(port: int, queue: int) -> int:
    """Whether a frame is to wait for buffers in this queue; 0 if it is to be dropped."""
    if load64(port + P_RX_ENABLED) == 1:
        return 1
    if load64_relaxed(port + P_TIMER) == 0:
        return 0
    now = now_ns()
    since = load64(queue + R_FULL_SINCE)
    if since == 0:
        since = now
        store64(queue + R_FULL_SINCE, now)
    until = since + PATIENCE
    if now >= until:
        return 0
    store64_relaxed(port + P_RETRY, until)
    arm(port, until)
    return 1
