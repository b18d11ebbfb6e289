"""What the kernels of both directions share: descriptors, counters, interrupts that become due."""

from __future__ import annotations

from emudev_net.jit import inline
from emudev_net.memory import WRITE, translate
from emudev_net.primitives import atomic_or64, load64, load64_relaxed, store64, store64_release

from .words import (
    P_DUE,
    P_FAR,
    P_MEMORY,
    P_RX_DUE,
    Q_FAR,
    Q_MEMORY,
    Q_PORT,
    Q_RING,
    Q_RING_HOST,
    Q_VECTOR,
)

__all__ = ["add", "ask_messages", "mark_received", "mark_sent", "ring_entry"]


@inline
def ring_entry(state: int, index: int, size: int) -> int:
    """Host address of a descriptor, 0 if it is not in writable guest memory."""
    host = load64(state + Q_RING_HOST)
    if host != 0:
        return host + index * size
    memory = load64(state + Q_MEMORY)
    return translate(memory, load64(state + Q_RING) + index * size, size, WRITE)


@inline
def ask_messages(state: int) -> int:
    """Ask that a queue be mirrored, for a buffer that is not there: messages may reach it.

    Returns:
        1 if that may help; the packet waits. 0 if the buffer can't be had.
    """
    port = load64(state + Q_PORT)
    vector = load64(port + P_FAR)
    if vector == 0 or load64(state + Q_MEMORY) != load64(port + P_MEMORY):
        return 0
    store64(state + Q_FAR, 1)
    atomic_or64(port + P_DUE, 1 << vector)
    return 1


@inline
def add(address: int, value: int) -> None:
    """Add to a counter that one thread writes and others read."""
    store64(address, load64(address) + value)


@inline
def mark_sent(state: int) -> None:
    """Have the next notify raise a transmit queue's vector; other queues' threads do the same."""
    vector = load64(state + Q_VECTOR)
    if vector >= 0:
        atomic_or64(load64(state + Q_PORT) + P_DUE, 1 << vector)


@inline
def mark_received(state: int) -> None:
    """Have the next notify raise a receive queue's vector; only the push that is at it sets bits.

    A notify of another thread may take them between load and store: then one that was raised is
    raised again, by the notify behind this push.
    """
    vector = load64(state + Q_VECTOR)
    if vector >= 0:
        due = load64(state + Q_PORT) + P_RX_DUE
        store64_release(due, load64_relaxed(due) | 1 << vector)
