"""A wait outside of the interpreter: compiled code waits for the loop, and moves frames meanwhile.

What a guest in traffic asks for is nearly always the same: a message that stores a doorbell's
word, frames in a descriptor, each of which has a flow run. An interpreter that was just asleep
takes a tenth of a millisecond to that; this sleeps in ``epoll_wait``, does such work itself, and
sleeps again. For anything else it returns to the loop, which never notices more than that a
descriptor is ready:

    lane = FastWait.of(loop).add_flow(tap, flow.shortcut)
    ...
    lane.close()

It knows lanes of two kinds: a descriptor whose `Shortcut` is run when it is readable, and a stream
of vfio-user messages, of which it takes posted writes of 4 bytes to doorbells, as long as these
have shortcuts (`Doorbell.chain`). It looks at messages before it takes them, so whatever it does
not know is still there for the session.

Source: epoll_wait(2); recv(2), MSG_PEEK; vfio-user specification, "VFIO_USER_REGION_WRITE".
"""

from __future__ import annotations

import ctypes
import logging
import platform
import select
import socket
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from emudev_core.queues import Doorbell, Shortcut

from .jit import compile_all, inline, queue_kernel
from .primitives import (
    Words,
    call3,
    load16,
    load32,
    load64,
    now_ns,
    store32,
    store32_release,
    store64,
)
from .system_calls import epoll_wait, receive

if TYPE_CHECKING:
    from emudev_core.loop import Loop

__all__ = ["KERNELS", "FastWait", "Lane", "wait"]

log = logging.getLogger(__name__)

#: Records that one look reports.
_AT_ONCE: Final = 32
# struct epoll_event: packed on x86 alone. Source: epoll_ctl(2), <sys/epoll.h>.
_EVENT: Final = 12 if platform.machine() in ("x86_64", "AMD64") else 16
_DATA: Final = _EVENT - 8
_unpack: Final = struct.Struct("=II" if _EVENT == 12 else "=I4xI").unpack_from
_READABLE: Final = int(select.EPOLLIN)

# Words of a wait.
_EVENTS: Final = 8 * 0  #: address of the records
_LANES: Final = 8 * 1  #: address of the lanes
_COUNT: Final = 8 * 2  #: lanes
_DEADLINE: Final = 8 * 3  #: ns of the monotonic clock, 0 = none
_MESSAGES: Final = 8 * 4  #: address of memory for messages
_OWED: Final = 8 * 5  #: bells whose subscribers have to be called
_OWED_LIST: Final = 8 * 6  #: address of their numbers
_SLEEPS: Final = 8 * 7  #: counters
_SERVED: Final = 8 * 8
_WORDS: Final = 16

# A lane.
_FD: Final = 8 * 0
_USABLE: Final = 8 * 1  #: 0 = for the loop
_RUN: Final = 8 * 2  #: a function; 0 = a stream of messages
_STATE: Final = 8 * 3  #: its first argument
_BELLS: Final = 8 * 4  #: address of the stream's bells, in the order of region and offset
_BELL_COUNT: Final = 8 * 5
_LANE: Final = 64

# A bell of a stream.
_REGION: Final = 8 * 0
_OFFSET: Final = 8 * 1
_WORD: Final = 8 * 2  #: address of its word
_CHAIN: Final = 8 * 3  #: address of its `Doorbell.chain`
_NUMBER: Final = 8 * 4  #: of the bell, for `_OWED_LIST`
_RUNG: Final = 8 * 5  #: 1 while it waits to be told
_EVERY: Final = 8 * 6  #: 1 = it is told of each write, 0 = once of several that come together
_BELL: Final = 64

# A posted REGION_WRITE of 4 bytes: u16 id, u16 command, u32 size, u32 flags, u32 error, u64 offset,
# u32 region, u32 count, u32 data. Source: vfio-user specification, "Header", "REGION_WRITE".
_MESSAGE: Final = 36
_REGION_WRITE: Final = 10
_POSTED: Final = 0x10
#: Messages that are looked at together.
_BATCH: Final = 32

_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)
_TAKE: Final = int(socket.MSG_DONTWAIT)


@inline
def _find_lane(words: int, fd: int) -> int:
    """Address of the lane of a descriptor, 0 if there is none."""
    lane = load64(words + _LANES)
    for _ in range(load64(words + _COUNT)):
        if load64(lane + _FD) == fd:
            return lane
        lane += _LANE
    return 0


@inline
def _find_bell(lane: int, region: int, offset: int) -> int:
    """Address of the bell at a place of a region, 0 if there is none: a binary search."""
    bells = load64(lane + _BELLS)
    low = 0
    high = load64(lane + _BELL_COUNT)
    while low < high:
        middle = (low + high) >> 1
        bell = bells + middle * _BELL
        place = load64(bell + _OFFSET)
        if load64(bell + _REGION) == region:
            if place == offset:
                return bell
            if place < offset:
                low = middle + 1
            else:
                high = middle
        elif load64(bell + _REGION) < region:
            low = middle + 1
        else:
            high = middle
    return 0


@inline
def _named_bell(lane: int, message: int) -> int:
    """Address of the bell that a message stores to; 0 if it is any other message."""
    if (
        load16(message + 2) != _REGION_WRITE
        or load32(message + 4) != _MESSAGE
        or load32(message + 8) != _POSTED
        or load32(message + 28) != 4
    ):
        return 0
    return _find_bell(lane, load32(message + 24), load64(message + 16))


@inline
def _tell(words: int, bell: int) -> None:
    """Have the subscribers of a bell do their work, or note that they have to be called."""
    chain = load64(bell + _CHAIN)
    count = load64(chain)
    owed = 1 if count < 0 else 0
    for i in range(count):
        if call3(load64(chain + 8 + 16 * i), load64(chain + 16 + 16 * i), 0, 0) != 0:
            owed = 1
            break
    if owed != 0:
        known = load64(words + _OWED)
        store64(load64(words + _OWED_LIST) + 8 * known, load64(bell + _NUMBER))
        store64(words + _OWED, known + 1)


@inline
def _take_messages(words: int, lane: int) -> int:
    """Take doorbell writes from a stream; 1 if all that was there were such, else 0."""
    fd = load64(lane + _FD)
    first = load64(words + _MESSAGES)
    size = receive(fd, first, _BATCH * _MESSAGE, _PEEK)
    done = 0
    while size - done >= _MESSAGE:
        bell = _named_bell(lane, first + done)
        if bell == 0:
            break
        store32_release(load64(bell + _WORD), load32(first + done + 32))
        done += _MESSAGE
        if load64(bell + _EVERY) == 0:
            # The last word counts: told once, in the order of the first.
            store64(bell + _RUNG, 1)
        else:
            _tell(words, bell)
            if load64(words + _OWED) != 0:
                break
    if done == 0:
        return 0
    receive(fd, first, done, _TAKE)
    at = 0
    while at < done:
        bell = _named_bell(lane, first + at)
        if bell != 0 and load64(bell + _RUNG) != 0:
            store64(bell + _RUNG, 0)
            _tell(words, bell)
        at += _MESSAGE
    return 1 if done == size else 0


@inline
def _serve(words: int, record: int) -> int:
    """Do the work of a descriptor that is ready; 0 if the loop has to look at it, too."""
    lane = _find_lane(words, load32(record + _DATA))
    if lane == 0 or load32(record) != _READABLE or load64(lane + _USABLE) == 0:
        return 0
    run = load64(lane + _RUN)
    if run == 0:
        return _take_messages(words, lane)
    return 1 if call3(run, load64(lane + _STATE), 0, 0) == 0 else 0


@queue_kernel
def wait(words: int, epoll: int, _rows: int) -> int:
    """Sleep, and serve what can be served here, until something else is ready.

    Args:
        words: Address of the wait's words.
        epoll: Descriptor of the epoll instance.
        _rows: Not used.

    Returns:
        Records stored; those that were served have no events any more.
    """
    events = load64(words + _EVENTS)
    deadline = load64(words + _DEADLINE)
    store64(words + _OWED, 0)
    while True:
        timeout = -1
        if deadline != 0:
            timeout = max(0, deadline - now_ns() + 999_999) // 1_000_000
            timeout = min(timeout, 1 << 30)
        store64(words + _SLEEPS, load64(words + _SLEEPS) + 1)
        ready = epoll_wait(epoll, events, _AT_ONCE, timeout)
        if ready <= 0:
            return 0
        left = 0
        for i in range(ready):
            if load64(words + _OWED) == 0 and _serve(words, events + i * _EVENT) != 0:
                store32(events + i * _EVENT, 0)
                store64(words + _SERVED, load64(words + _SERVED) + 1)
            else:
                left += 1
        if left != 0 or load64(words + _OWED) != 0:
            return ready
        if deadline != 0 and now_ns() >= deadline:
            return 0


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (wait,)


class Lane:
    """A descriptor that a wait may serve. On the loop's thread."""

    def __init__(
        self,
        wait: FastWait,
        fd: int,
        usable: Callable[[], bool] | None,
        shortcut: Shortcut | None,
        bells: Mapping[tuple[int, int], Doorbell],
    ) -> None:
        self._wait = wait
        self.fd = fd
        self.usable = usable
        self.shortcut = shortcut if shortcut is not None and shortcut.address else None
        self.bells = [bells[place] for place in sorted(bells)]
        self.table = Words(max(1, len(bells)) * _BELL // 8)
        for i, (place, bell) in enumerate(zip(sorted(bells), self.bells, strict=True)):
            at = i * _BELL // 8
            self.table[at + _REGION // 8], self.table[at + _OFFSET // 8] = place
            self.table[at + _WORD // 8] = bell.address
            self.table[at + _CHAIN // 8] = bell.chain
            self.table[at + _EVERY // 8] = int(bell.every)

    def close(self) -> None:
        """Serve it no longer; before its descriptor is closed. A second call does nothing."""
        self._wait.drop(self)


class FastWait:
    """A `Sleeper`; one a loop, see `of`. All methods are for the loop's thread."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._asked: list[tuple[int, Callable[[], bool]]] = []
        self._bells: list[Doorbell] = []
        self._table = Words(1)
        self._owed = Words(1)
        self._events = ctypes.create_string_buffer(_AT_ONCE * _EVENT)
        self._messages = Words((_BATCH * _MESSAGE + 7) // 8)
        words = self._words = Words(_WORDS)
        words[_EVENTS // 8] = ctypes.addressof(self._events)
        words[_MESSAGES // 8] = self._messages.address
        compile_all(KERNELS, self._compiled)

    @staticmethod
    def _compiled(error: Exception | None) -> None:
        if error is not None:
            log.warning("the loop sleeps in the interpreter: %s", error)

    @classmethod
    def of(cls, loop: Loop) -> FastWait:
        """That of a loop; made, and given to the loop, at the first call."""
        if not isinstance(loop.sleeper, cls):
            loop.sleeper = cls()
        return loop.sleeper

    def add_flow(self, fd: int, shortcut: Shortcut) -> Lane:
        """Run a shortcut whenever a descriptor is readable.

        The loop watches it, and does the same work if the shortcut answers anything but 0.

        Args:
            fd: Kept by the caller.
            shortcut: Its state is kept by the caller until the lane is closed.
        """
        return self._add(Lane(self, fd, None, shortcut, {}))

    def add_stream(
        self, fd: int, bells: Mapping[tuple[int, int], Doorbell], usable: Callable[[], bool]
    ) -> Lane:
        """Take posted doorbell writes from a stream of vfio-user messages.

        The loop watches it, and takes all others.

        Args:
            fd: A connected socket, kept by the caller.
            bells: By region and offset; kept.
            usable: Asked before each sleep: whether the next byte is the first of a message, and
                nobody wants to see such writes.
        """
        return self._add(Lane(self, fd, usable, None, bells))

    def _add(self, lane: Lane) -> Lane:
        self._lanes.append(lane)
        self._arrange()
        return lane

    def drop(self, lane: Lane) -> None:
        """Undo an `add_flow` or `add_stream`."""
        if lane in self._lanes:
            self._lanes.remove(lane)
            lane.usable = None  # often a method of whoever keeps the lane: no cycle may be left
            self._arrange()

    def _arrange(self) -> None:
        """Make the table of lanes anew."""
        lanes = [lane for lane in self._lanes if lane.bells or lane.shortcut]
        table = self._table = Words(max(1, len(lanes)) * _LANE // 8)
        self._bells = [bell for lane in lanes for bell in lane.bells]
        # Of one round: as many bells of each stream as it has messages at a time, at most.
        self._owed = Words(max(1, len(self._bells)))
        self._asked = []
        number = 0
        for i, lane in enumerate(lanes):
            at = i * _LANE // 8
            table[at + _FD // 8] = lane.fd
            if lane.usable is not None:
                self._asked.append((at + _USABLE // 8, lane.usable))
            if lane.shortcut is not None:
                table[at + _USABLE // 8] = 1
                table[at + _RUN // 8] = lane.shortcut.address
                table[at + _STATE // 8] = lane.shortcut.state
            table[at + _BELLS // 8] = lane.table.address
            table[at + _BELL_COUNT // 8] = len(lane.bells)
            for n in range(len(lane.bells)):
                lane.table[(n * _BELL + _NUMBER) // 8] = number
                number += 1
        words = self._words
        words[_LANES // 8] = table.address
        words[_COUNT // 8] = len(lanes)
        words[_OWED_LIST // 8] = self._owed.address

    @property
    def ready(self) -> bool:
        """Whether it is compiled, and has something to serve."""
        return bool(wait.address and self._words[_COUNT // 8])

    def sleep(self, epoll: int, deadline: int | None) -> list[tuple[int, int]]:
        """See `Sleeper`."""
        words, table = self._words, self._table
        for at, usable in self._asked:
            table[at] = usable()
        words[_DEADLINE // 8] = 0 if deadline is None else max(1, deadline)
        count = wait(words.address, epoll, 0)
        found = [
            (fd, events)
            for events, fd in (_unpack(self._events, i * _EVENT) for i in range(count))
            if events
        ]
        for i in range(words[_OWED // 8]):
            self._bells[self._owed[i]].ring()
        return found

    def stats(self) -> dict[str, int]:
        """Times it slept, and descriptors that it served, since it was made."""
        words = self._words
        return {"sleeps": words[_SLEEPS // 8], "served": words[_SERVED // 8]}
