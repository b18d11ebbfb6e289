"""Limits of what transmit queues may send: by queue, and by class of queues.

A bucket is one moment: when it is free again (`B_FREE`). What is sent moves it on by the time that
the bytes take at the bucket's rate; while it lies in the future nothing is sent. It never lags more
than `BURST` behind the present, so that is the longest burst at full speed. A packet that begins
in time is sent whole, and the next one waits the longer, so the rate holds whatever their sizes.

`peek` asks how many bytes may be shown (`allowance`), `release` says what was sent (`charge`). A
queue with no bucket asks nothing and says nothing. Where frames are left waiting, the kernel writes
an eventfd once; `LimitWatch` rings the doorbells of the bucket's queues when it is free, and costs
nothing otherwise.

Bytes are those of frames, without FCS, preamble and gap.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from emudev_net.jit import inline
from emudev_net.primitives import (
    Words,
    compare_exchange64,
    exchange64,
    load64,
    load64_acquire,
    now_ns,
)
from emudev_net.system_calls import signal_eventfd

from .words import T_BUCKET, T_CLASS_BUCKET

if TYPE_CHECKING:
    from emudev_core.loop import Loop, Timer

    from .queues import TxRing

__all__ = ["Bucket", "LimitWatch", "Limits", "allowance", "charge", "hold"]

B_FREE: Final = 8 * 0  #: CLOCK_MONOTONIC, ns; atomics only
B_RATE: Final = 8 * 1  #: kbit/s
B_HELD: Final = 8 * 2  #: 1: somebody waits and has signalled it; atomics only
B_FD: Final = 8 * 3  #: the eventfd
BUCKET_WORDS: Final = 8

#: Longest burst at full speed, ns. Twice what timers are late by, and then some.
BURST: Final = 10_000_000
#: ns for each byte at 1 kbit/s.
BYTE: Final = 8_000_000
#: More bytes than a burst has.
UNLIMITED: Final = 1 << 40
#: Largest rate, kbit/s: that of the fastest link that the configuration takes.
MAX_RATE: Final = 400_000_000


@inline
def bucket_allowance(bucket: int, now: int) -> int:
    """Bytes that a bucket lets go now; at most that of a `BURST`. -1: none."""
    free = load64_acquire(bucket + B_FREE)
    if free > now:
        return -1
    return min(now - free, BURST) * load64(bucket + B_RATE) // BYTE


@inline
def allowance(state: int) -> int:
    """Bytes that a queue with a bucket may show now: packets that begin within. -1: none."""
    now = now_ns()
    left = UNLIMITED
    bucket = load64(state + T_BUCKET)
    if bucket != 0:
        left = bucket_allowance(bucket, now)
    bucket = load64(state + T_CLASS_BUCKET)
    if bucket != 0:
        left = min(left, bucket_allowance(bucket, now))
    return left


@inline
def bucket_hold(bucket: int) -> None:
    """Have the bucket's queues rung when it is free."""
    if exchange64(bucket + B_HELD, 1) == 0:
        signal_eventfd(load64(bucket + B_FD))


@inline
def hold(state: int) -> None:
    """Frames wait for a bucket: have the queue rung."""
    bucket = load64(state + T_BUCKET)
    if bucket != 0:
        bucket_hold(bucket)
    bucket = load64(state + T_CLASS_BUCKET)
    if bucket != 0:
        bucket_hold(bucket)


@inline
def bucket_charge(bucket: int, size: int, now: int) -> None:
    """Take bytes from a bucket; other queues of a class do the same."""
    taken = size * BYTE // load64(bucket + B_RATE)
    free = load64_acquire(bucket + B_FREE)
    while True:
        seen = compare_exchange64(bucket + B_FREE, free, max(free, now - BURST) + taken)
        if seen == free:
            break
        free = seen


@inline
def charge(state: int, size: int) -> None:
    """Say that a queue with a bucket has sent so many bytes."""
    now = now_ns()
    bucket = load64(state + T_BUCKET)
    if bucket != 0:
        bucket_charge(bucket, size, now)
    bucket = load64(state + T_CLASS_BUCKET)
    if bucket != 0:
        bucket_charge(bucket, size, now)


class Bucket:
    """The control side of one bucket.

    Args:
        rate: kbit/s, 1 to `MAX_RATE`.
        rings: The queues that share it.
        fd: The eventfd that kernels write.

    Attributes:
        address: Of its words.
    """

    def __init__(self, rate: int, rings: Sequence[TxRing], fd: int) -> None:
        if not 0 < rate <= MAX_RATE:
            raise ValueError(f"a limit is 1 to {MAX_RATE} kbit/s, not {rate}")
        self._words = Words(BUCKET_WORDS)
        self.address = self._words.address
        self.rings = tuple(rings)
        self._words[B_RATE // 8] = rate
        self._words[B_FD // 8] = fd

    @property
    def rate(self) -> int:
        """kbit/s."""
        return self._words[B_RATE // 8]

    @property
    def free(self) -> int:
        """When it lets something go, CLOCK_MONOTONIC, ns."""
        return self._words[B_FREE // 8]

    @property
    def held(self) -> bool:
        """Whether frames wait for it."""
        return bool(self._words[B_HELD // 8])

    def ring(self) -> None:
        """It is free: let its queues look again."""
        self._words[B_HELD // 8] = 0
        for ring in self.rings:
            ring.doorbell.ring()


class Limits:
    """The limits of a port. For the loop's thread.

    Args:
        rings: All transmit rings.
        paused: Makes a context within which no kernel of the port runs.
    """

    def __init__(
        self, rings: Sequence[TxRing], paused: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._rings = rings
        self._paused = paused
        self._fd = -1
        self._buckets: dict[object, Bucket] = {}

    @property
    def buckets(self) -> list[Bucket]:
        """All that there are."""
        return list(self._buckets.values())

    @property
    def queue_rates(self) -> dict[int, int]:
        """Limits of queues by themselves, kbit/s by transmit queue."""
        return {key: b.rate for key, b in self._buckets.items() if isinstance(key, int)}

    def fileno(self) -> int:
        """An eventfd that is readable once frames wait; made at the first call, owned by this."""
        if self._fd < 0:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._fd

    def limit_queue(self, queue: int, rate: int) -> None:
        """Limit one transmit queue.

        Args:
            queue: Its number among the transmit queues.
            rate: kbit/s; 0: no limit.

        Raises:
            ValueError: There is no such rate.
        """
        self._set(queue, T_BUCKET, rate, [self._rings[queue]])

    def limit_class(self, name: str, queues: Sequence[int], rate: int) -> None:
        """Limit several transmit queues together; a queue is in one class at most.

        Args:
            name: Of the class, for a later change.
            queues: Their numbers among the transmit queues.
            rate: kbit/s; 0: no limit.

        Raises:
            ValueError: There is no such rate.
        """
        self._set(name, T_CLASS_BUCKET, rate, [self._rings[queue] for queue in queues])

    def _set(self, key: object, word: int, rate: int, rings: Sequence[TxRing]) -> None:
        bucket = Bucket(rate, rings, self.fileno()) if rate else None
        with self._paused():
            former = self._buckets.pop(key, None)
            for ring in former.rings if former is not None else ():
                ring.set_bucket(word, 0)
            for ring in rings:
                ring.set_bucket(word, 0 if bucket is None else bucket.address)
        if bucket is not None:
            self._buckets[key] = bucket
        if former is not None and former.held:
            former.ring()

    def clear(self) -> None:
        """Forget all limits, as resets do."""
        if not self._buckets:
            return
        with self._paused():
            for ring in self._rings:
                ring.set_bucket(T_BUCKET, 0)
                ring.set_bucket(T_CLASS_BUCKET, 0)
            self._buckets.clear()

    def close(self) -> None:
        """Forget all limits and close the eventfd; a second call does nothing."""
        self.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LimitWatch:
    """Rings the queues whose frames have waited. For the loop's thread.

    Args:
        loop: The process' loop.
        limits: Of a port.
    """

    def __init__(self, loop: Loop, limits: Limits) -> None:
        self._loop = loop
        self._limits = limits
        self._timer: Timer | None = None
        self._watch = loop.watch(limits.fileno(), self._signalled)

    def _signalled(self, _: int) -> None:
        try:
            os.eventfd_read(self._limits.fileno())
        except BlockingIOError:
            return
        self._ring()

    def _ring(self) -> None:
        """Ring the queues of the buckets that are free, and come back for the others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic_ns()
        later = [b for b in self._limits.buckets if b.held and b.free > now]
        for bucket in self._limits.buckets:
            if bucket.held and bucket not in later:
                bucket.ring()
        if later:
            delay = (min(b.free for b in later) - now) / 1e9
            self._timer = self._loop.call_later(delay, self._ring)

    def close(self) -> None:
        """Ring nobody any more."""
        self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
