"""A flow: one source of frames, one sink, and the loop that moves them, run to completion.

`pump` is the compiled loop: it calls the kernels of both ends through their addresses, puts the
software stage between where the sink does not take what the source asks for, and ends when the
source is empty, the sink has no room, or the budget is used up. `Flow` is its owner: a task of the
process' loop that a doorbell or a readable descriptor kicks.

    flow = Flow(loop, device_queue.kernels, tap_queue.kernels)
    doorbell.subscribe(flow.kick)

All of it runs on the loop's thread, without the interpreter's lock while frames move; or a worker
runs it (`workers`), and a kick only wakes that.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from emudev_core.errors import ConfigError
from emudev_core.loop import Loop
from emudev_core.queues import Offload, QueueKernel, QueueKernels

from .burst import FIRST, FLAGS, ROW, Burst
from .checksum import CRC32C_TABLE
from .jit import Kernel, inline, queue_kernel
from .primitives import Words, call3, drop_handle, load64, plain_handle, store64
from .software import needs_software, settle, soften
from .stage import (
    NOTE,
    S_CRC,
    S_MALFORMED,
    S_NOTES,
    S_OUT,
    S_OUT_CAPACITY,
    S_RESUME,
    S_SCRATCH,
    S_TAKES,
    SLOT,
    STAGE_WORDS,
)

__all__ = ["KERNELS", "Flow", "Outcome", "pump"]

# Words of a flow, behind those of its software stage.
SOURCE: Final = STAGE_WORDS + 0  #: state of the source
PEEK: Final = STAGE_WORDS + 1
RELEASE: Final = STAGE_WORDS + 2
SOURCE_NOTIFY: Final = STAGE_WORDS + 3
SINK: Final = STAGE_WORDS + 4  #: state of the sink
PUSH: Final = STAGE_WORDS + 5
SINK_NOTIFY: Final = STAGE_WORDS + 6
BURST: Final = STAGE_WORDS + 7  #: address of the burst that is peeked into
CAPACITY: Final = STAGE_WORDS + 8  #: its rows
# Counters.
ROWS: Final = STAGE_WORDS + 16  #: rows of the source that are done
PASSES: Final = STAGE_WORDS + 17  #: calls of `pump`
SOFTENED: Final = STAGE_WORDS + 18  #: bursts that went through the software stage
BLOCKED: Final = STAGE_WORDS + 19  #: calls that ended because the sink had no room
FLOW_WORDS: Final = STAGE_WORDS + 24

#: Rows that are peeked at one time; a packet may take 128 of them.
PEEK_ROWS: Final = 256
#: Rows that the software stage makes at one time: any packet fits, with a row for its headers.
STAGE_ROWS: Final = PEEK_ROWS + 16
#: Rows moved before other work of the loop gets its turn.
BUDGET: Final = 4096


class Outcome(enum.IntEnum):
    """Why a call of `pump` ended."""

    EMPTY = 0  #: the source has nothing more
    FULL = 1  #: the sink has no room
    BUDGET = 2  #: there may be more to do


@inline
def _notify(address: int, state: int) -> None:
    """Call a notify kernel if the end has one."""
    if address != 0:
        call3(address, state, 0, 0)


@inline
def _wants_software(burst: int, rows: int, takes: int) -> int:
    """1 if a packet of the burst has a request that the sink does not take."""
    for i in range(rows):
        flags = load64(burst + i * ROW + FLAGS)
        if flags & FIRST and needs_software(flags, takes):
            return 1
    return 0


@inline
def _push_softened(flow: int, burst: int, rows: int) -> int:
    """Give a burst to the sink through the software stage.

    Returns:
        Rows of the source that are done; -1 - rows if the sink had no room after those.
    """
    done = 0
    while done < rows:
        made = soften(flow, burst + done * ROW, rows - done)
        if made < 0:  # a packet that can't be expressed: counted, left out
            done -= made
            continue
        if made == 0:
            return -1 - done
        taken = call3(
            load64(flow + 8 * PUSH), load64(flow + 8 * SINK), load64(flow + 8 * S_OUT), made
        )
        if taken > 0:
            done += settle(flow, taken)
        if taken < made:
            return -1 - done
    return done


@queue_kernel
def pump(flow: int, _burst: int, budget: int) -> int:
    """Move packets from the flow's source to its sink.

    Args:
        flow: Address of the flow's words.
        _burst: Not used.
        budget: Rows after which to come back.

    Returns:
        An `Outcome`.
    """
    source = load64(flow + 8 * SOURCE)
    sink = load64(flow + 8 * SINK)
    burst = load64(flow + 8 * BURST)
    takes = load64(flow + 8 * S_TAKES)
    moved = 0
    outcome = 0
    while True:
        rows = call3(load64(flow + 8 * PEEK), source, burst, load64(flow + 8 * CAPACITY))
        if rows <= 0:
            break
        if load64(flow + 8 * S_RESUME) != 0 or _wants_software(burst, rows, takes):
            store64(flow + 8 * SOFTENED, load64(flow + 8 * SOFTENED) + 1)
            taken = _push_softened(flow, burst, rows)
            full = 0
            if taken < 0:
                full = 1
                taken = -1 - taken
        else:
            taken = call3(load64(flow + 8 * PUSH), sink, burst, rows)
            full = 1 if taken < rows else 0
        if taken > 0:
            call3(load64(flow + 8 * RELEASE), source, burst, taken)
            moved += taken
        if full:
            outcome = 1
            store64(flow + 8 * BLOCKED, load64(flow + 8 * BLOCKED) + 1)
            break
        if moved >= budget:
            outcome = 2
            break
    store64(flow + 8 * ROWS, load64(flow + 8 * ROWS) + moved)
    store64(flow + 8 * PASSES, load64(flow + 8 * PASSES) + 1)
    _notify(load64(flow + 8 * SOURCE_NOTIFY), source)
    _notify(load64(flow + 8 * SINK_NOTIFY), sink)
    return outcome


#: The kernels of this module, for `compile_all`.
KERNELS: Final = (pump,)


class Flow:
    """Moves the frames of one source into one sink. Loop thread only.

    Compiled code is used from the first run on at which `pump` and all kernels of both ends have
    addresses; before, or where nothing is compiled, the same code runs as plain Python.

    Args:
        loop: The process' loop.
        source: A queue with `peek` and `release`.
        sink: A queue with `push`; its `takes` says what needs no software stage.
        on_blocked: Called when the sink has no room: arrange for `kick` when it has.
        budget: Rows moved before other work of the loop gets its turn.

    Attributes:
        words: The flow's words; the counters are among them.

    Raises:
        ValueError: An end lacks a kernel that it needs.
    """

    def __init__(
        self,
        loop: Loop,
        source: QueueKernels,
        sink: QueueKernels,
        *,
        on_blocked: Callable[[], None] | None = None,
        budget: int = BUDGET,
    ) -> None:
        if source.peek is None or source.release is None:
            raise ValueError("the source of a flow has peek and release kernels; one is missing")
        if sink.push is None:
            raise ValueError("the sink of a flow has a push kernel; it is missing")
        self._kernels: tuple[tuple[int, QueueKernel | None], ...] = (
            (PEEK, source.peek),
            (RELEASE, source.release),
            (SOURCE_NOTIFY, source.notify),
            (PUSH, sink.push),
            (SINK_NOTIFY, sink.notify),
        )
        self._burst = Burst(PEEK_ROWS)
        self._stage = Burst(STAGE_ROWS)
        self._notes = Words(STAGE_ROWS * NOTE // 8)
        self._scratch = Words(STAGE_ROWS * SLOT // 8)
        self._on_blocked = on_blocked
        self._budget = budget
        self._task = loop.task(self._turn)
        self._mark: Callable[[], None] = self._task.mark
        self._closed = False
        self._handles: list[int] = []
        words = self.words = Words(FLOW_WORDS)
        words[S_TAKES] = int(sink.takes)
        words[S_OUT] = self._stage.address
        words[S_OUT_CAPACITY] = STAGE_ROWS
        words[S_NOTES] = self._notes.address
        words[S_SCRATCH] = self._scratch.address
        words[S_CRC] = CRC32C_TABLE.address
        words[SOURCE] = source.state
        words[SINK] = sink.state
        words[BURST] = self._burst.address
        words[CAPACITY] = PEEK_ROWS
        self._pump: Callable[[int, int, int], int] | None = None
        self._bind_plain()

    def _bind_plain(self) -> None:
        for index, kernel in self._kernels:
            if kernel is not None:
                run = kernel.function if isinstance(kernel, Kernel) else kernel
                handle = plain_handle(run)
                self._handles.append(handle)
                self.words[index] = handle

    def _bind(self) -> Callable[[int, int, int], int]:
        """Take the compiled code if all of it is there by now."""
        if not pump.address or any(k.address == 0 for _, k in self._kernels if k is not None):
            return pump.function
        for index, kernel in self._kernels:
            self.words[index] = 0 if kernel is None else kernel.address
        self._drop_handles()
        self._pump = pump
        return pump

    def _drop_handles(self) -> None:
        for handle in self._handles:
            drop_handle(handle)
        self._handles.clear()

    @property
    def compiled(self) -> bool:
        """Whether it runs compiled code."""
        return self._pump is not None

    @property
    def takes(self) -> Offload:
        """What the sink takes as it is; may be set, for a sink whose abilities change."""
        return Offload(self.words[S_TAKES])

    @takes.setter
    def takes(self, takes: Offload) -> None:
        self.words[S_TAKES] = int(takes)

    @property
    def rows(self) -> int:
        """Rows moved since the flow was made."""
        return self.words[ROWS]

    @property
    def malformed(self) -> int:
        """Packets that the software stage dropped, their requests did not fit their headers."""
        return self.words[S_MALFORMED]

    def stats(self) -> dict[str, int]:
        """Rows moved, calls, bursts through the software stage, times blocked, packets dropped."""
        words = self.words
        return {
            "rows": words[ROWS],
            "passes": words[PASSES],
            "softened": words[SOFTENED],
            "blocked": words[BLOCKED],
            "malformed": words[S_MALFORMED],
        }

    def kick(self) -> None:
        """Look for work at the end of this turn of the loop, or have its worker look."""
        if not self._closed:
            self._mark()

    def run(self) -> Outcome:
        """Look for work now, once."""
        if self._closed:
            return Outcome.EMPTY
        run = self._pump or self._bind()
        outcome = Outcome(run(self.words.address, 0, self._budget))
        if outcome is Outcome.BUDGET:
            self._task.mark()
        elif outcome is Outcome.FULL and self._on_blocked is not None:
            self._on_blocked()
        return outcome

    def _turn(self) -> None:
        self.run()

    def hand_over(self, wake: Callable[[], None], rows: int) -> None:
        """Let a worker run it from now on; nobody calls `run` any more, and nothing is called back.

        Args:
            wake: What `kick` does now.
            rows: Rows that are peeked at one time; a packet may take 128 of them.

        Raises:
            ConfigError: A kernel is not compiled: nobody but the loop's thread can run it.
        """
        if self._bind() is not pump:
            raise ConfigError(
                "workers run compiled kernels only, and some of these are not", hint="workers=0"
            )
        self.words[CAPACITY] = min(rows, PEEK_ROWS)
        self._mark = wake

    def restart(self) -> None:
        """Forget a frame that was half moved: the source was reset. Its worker rests meanwhile."""
        self.words[S_RESUME] = 0

    def close(self) -> None:
        """Never look again; both ends stay as they are."""
        if not self._closed:
            self._closed = True
            self._task.close()
            self._drop_handles()
