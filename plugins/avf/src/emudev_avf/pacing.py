"""Pacing of what a guest receives: under a flood its applications get their turn, too.

A driver that finds frames each time it looks goes on looking and never enables its interrupt. A
guest with one processor then does nothing but take frames from the ring and drop them behind it:
the more is offered, the less arrives (receive livelock). So for each time that the driver enables
the vector, the queue gets `GRANT` frames. If there are more they wait in the backend, whose own
queue drops what is too much before it has cost anything, until the driver has found the ring empty
and enables the vector again.

- TCP and SCTP are not counted: their senders wait for their receivers.
- A driver that polls for good (a busy-polling socket) enables nothing. Each time that `PATIENCE`
  has gone by without it, the grant grows fourfold: such a driver is limited for a fraction of a
  second. One that has never enabled the vector since a reset (DPDK) is not limited at all.
- Nor is a port with several receive queues: one flood would hold them all.

Whoever changes `V_ENABLES` looks for `P_PACED` behind that, and a push that leaves frames does it
the other way round, so that one of them sees the other.

Source: avf.md 2.3; Mogul and Ramakrishnan, "Eliminating receive livelock in an interrupt-driven
kernel".
"""

from __future__ import annotations

from typing import Final

from emudev_net.jit import inline
from emudev_net.parse import KIND_IPV4, WHAT_SCTP, WHAT_TCP
from emudev_net.primitives import (
    fence,
    load64,
    load64_acquire,
    load64_relaxed,
    now_ns,
    store64,
    store64_relaxed,
)

from .interrupts import arm
from .words import (
    P_PACED,
    P_RX_ENABLED,
    P_RX_QUEUES,
    P_TIMER,
    P_UNANSWERED,
    P_VECTORS,
    Q_VECTOR,
    V_ENABLES,
    V_GIVEN,
    V_GRANT,
    V_PATIENCE,
    V_SEEN,
    VECTOR_WORDS,
)

__all__ = [
    "GRANT",
    "PATIENCE",
    "UNLIMITED",
    "count_given",
    "frames_allowed",
    "pacing_vector",
    "self_paced",
]

#: Frames for each enabling: below the 64 that Linux takes at one look, after which it looks again.
GRANT: Final = 48
#: How long frames wait for it, ns: longer than a guest takes for as many on a busy host.
PATIENCE: Final = 10_000_000
#: What the grant grows to.
MOST: Final = 1 << 20
UNLIMITED: Final = 1 << 40


@inline
def self_paced(kind: int) -> int:
    """1 for a packet kind of the parser whose sender waits for its receiver, else 0."""
    if kind < KIND_IPV4:
        return 0
    what = kind & 0xF
    if what == WHAT_TCP or what == WHAT_SCTP:  # noqa: SIM109  # kernels know no tuples
        return 1
    return 0


@inline
def pacing_vector(port: int) -> int:
    """Address of the vector by whose enabling a port is paced; 0 if it is not."""
    if load64_relaxed(port + P_TIMER) == 0 or load64(port + P_RX_ENABLED) != 1:
        return 0
    number = load64(load64(port + P_RX_QUEUES) + Q_VECTOR)
    if number < 0:
        return 0
    vector = load64(port + P_VECTORS) + 8 * VECTOR_WORDS * number
    if load64_relaxed(vector + V_ENABLES) == 0:
        return 0
    return vector


@inline
def count_given(port: int, vector: int, given: int) -> None:
    """Count frames that were delivered, of those that are paced."""
    store64(vector + V_GIVEN, load64(vector + V_GIVEN) + given)
    store64_relaxed(port + P_UNANSWERED, load64_relaxed(port + P_UNANSWERED) + given)


@inline
def frames_allowed(port: int, vector: int) -> int:
    """How many frames may be delivered now; 0: they wait, and the port will be looked at again."""
    enables = load64_acquire(vector + V_ENABLES)
    if enables != load64(vector + V_SEEN):
        store64(vector + V_SEEN, enables)
        store64(vector + V_GIVEN, 0)
        store64(vector + V_GRANT, GRANT)
        store64(vector + V_PATIENCE, 0)
    left = load64(vector + V_GRANT) - load64(vector + V_GIVEN)
    if left > 0:
        return left
    now = now_ns()
    until = load64(vector + V_PATIENCE)
    if until == 0:
        until = now + PATIENCE
        store64(vector + V_PATIENCE, until)
    elif now >= until:
        grant = min(4 * load64(vector + V_GRANT), MOST)
        store64(vector + V_GRANT, grant)
        store64(vector + V_GIVEN, 0)
        store64(vector + V_PATIENCE, 0)
        return grant
    store64_relaxed(port + P_PACED, 1)
    fence()
    if load64_acquire(vector + V_ENABLES) != enables:
        return GRANT
    arm(port, until)
    return 0
