"""What the kernels of both directions share: descriptors, counters, interrupts that become due."""

from __future__ import annotations

from emudev_net.jit import inline
from emudev_net.memory import WRITE, translate
from emudev_net.primitives import load64, store64

from .words import P_DUE, P_MEMORY, Q_PORT, Q_RING, Q_RING_HOST, Q_VECTOR

__all__ = ["add", "mark_due", "ring_entry"]


@inline
def ring_entry(state: int, index: int, size: int) -> int:
    """Host address of a descriptor, 0 if it is not in writable guest memory."""
    host = load64(state + Q_RING_HOST)
    if host != 0:
        return host + index * size
    memory = load64(load64(state + Q_PORT) + P_MEMORY)
    return translate(memory, load64(state + Q_RING) + index * size, size, WRITE)


@inline
def add(address: int, value: int) -> None:
    """Add to a counter that one thread writes and others read."""
    store64(address, load64(address) + value)


@inline
def mark_due(state: int) -> None:
    """Have the next notify raise the queue's vector."""
    vector = load64(state + Q_VECTOR)
    if vector >= 0:
        due = load64(state + Q_PORT) + P_DUE
        store64(due, load64(due) | 1 << vector)
