"""A flow: one source of frames, one sink, and the loop that moves them, run to completion.

`Flow` is a task of the process' loop that a doorbell or a readable descriptor kicks. It owns the
words of the compiled loop (`flow_kernels.pump`), which calls the kernels of both ends and ends when
the source is empty, the sink has no room, or the budget is used up.

    flow = Flow(loop, device_queue.kernels, tap_queue.kernels)
    doorbell.subscribe(flow.kick)

All of it runs on the loop's thread, without the interpreter's lock while frames move; or a worker
runs it (`workers`), and a kick only wakes that.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import Final

from emudev_core.errors import ConfigError
from emudev_core.loop import Loop
from emudev_core.queues import Offload, QueueKernel, QueueKernels, Shortcut

from . import flow_kernels as k
from .burst import Burst
from .checksum import CRC32C_TABLE
from .flow_kernels import KERNELS, pump
from .jit import Kernel
from .packet_function import PacketFunction
from .primitives import Words, drop_handle, plain_handle
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
)

__all__ = ["BURST", "KERNELS", "Flow", "Outcome", "PacketFunction", "pump"]

log = logging.getLogger(__name__)

#: Rows that are peeked at one time by default, and at most.
BURST: Final = 256
MOST_ROWS: Final = 512
#: Rows that a packet may take.
PACKET_ROWS: Final = 128
#: Rows that the software stage makes at one time: any packet fits, with a row for its headers.
STAGE_ROWS: Final = 256 + 16
#: Rows moved before other work of the loop gets its turn.
BUDGET: Final = 4096


class Outcome(enum.IntEnum):
    """Why a run of a flow ended."""

    EMPTY = 0  #: the source has nothing more
    FULL = 1  #: the sink has no room
    BUDGET = 2  #: there may be more to do
    FAILED = 3  #: a kernel has failed: `Flow.failed` has its answer


class Flow:
    """Moves the frames of one source into one sink. Loop thread only.

    Compiled code is used from the first run on at which `pump` and all kernels of both ends (and
    the packet function) have addresses; before, or where nothing is compiled, the same code runs as
    plain Python.

    A kernel that answers a negative number has failed. The flow never moves a frame again, whoever
    runs it; `on_failed` is told once, on the loop's thread.

    Args:
        loop: The process' loop.
        source: A queue with `peek` and `release`, kept until this is closed, as is the sink. Its
            `forward` kernel for the sink's `kind` is used where there is one and no packet
            function: packets of one row go the short way.
        sink: A queue with `push`; its `takes` says what needs no software stage.
        edit: A packet function: what becomes of each packet on its way.
        drop: What the sink has no room for is dropped and counted; never waited for, so that
            `on_blocked` is never called.
        rows: Rows that are peeked at one time, 1 to 512: the burst. A packet of more rows, up to
            128, comes alone.
        on_blocked: Called when the sink has no room: arrange for `kick` when it has.
        on_failed: Called with this flow and what the kernel answered; None logs a warning.
        budget: Rows moved before other work of the loop gets its turn.

    Attributes:
        words: The flow's words; the counters are among them.
        edit: As given.
        loop: As given.

    Raises:
        ValueError: An end lacks a kernel that it needs; `rows` is out of range; the packet function
            belongs to another flow.
    """

    def __init__(
        self,
        loop: Loop,
        source: QueueKernels,
        sink: QueueKernels,
        *,
        edit: PacketFunction | None = None,
        drop: bool = False,
        rows: int = BURST,
        on_blocked: Callable[[], None] | None = None,
        on_failed: Callable[[Flow, int], None] | None = None,
        budget: int = BUDGET,
    ) -> None:
        if source.peek is None or source.release is None:
            raise ValueError("the source of a flow has peek and release kernels; one is missing")
        if sink.push is None:
            raise ValueError("the sink of a flow has a push kernel; it is missing")
        if not 1 <= rows <= MOST_ROWS:
            raise ValueError(f"a burst has 1 to {MOST_ROWS} rows, not {rows}")
        most = max(rows, PACKET_ROWS)
        if edit is not None:
            edit.attach(most)
        forward = source.forward.get(sink.kind) if sink.kind and edit is None else None
        self._kernels: tuple[tuple[int, QueueKernel | None], ...] = (
            (k.PEEK, source.peek),
            (k.RELEASE, source.release),
            (k.SOURCE_NOTIFY, source.notify),
            (k.PUSH, sink.push),
            (k.SINK_NOTIFY, sink.notify),
            (k.FORWARD, forward),
            (k.EDIT, None if edit is None else edit.kernel),
        )
        self.loop = loop
        self.edit = edit
        self._rows = rows
        self._burst = Burst(most)
        self._stage = Burst(STAGE_ROWS)
        self._notes = Words(STAGE_ROWS * NOTE // 8)
        self._scratch = Words(STAGE_ROWS * SLOT // 8)
        # What counts for a queue is often all that keeps its words.
        self._ends: tuple[QueueKernels, ...] = (source, sink)
        self._on_blocked = on_blocked
        self._on_failed = on_failed
        self._told = False
        self._task = loop.task(self._turn)
        self._mark: Callable[[], None] = self._task.mark
        self._shortcut: Callable[[], Shortcut] = self._look
        self._closed = False
        self._handles: list[int] = []
        words = self.words = Words(k.FLOW_WORDS)
        words[S_TAKES] = int(sink.takes)
        words[S_OUT] = self._stage.address
        words[S_OUT_CAPACITY] = STAGE_ROWS
        words[S_NOTES] = self._notes.address
        words[S_SCRATCH] = self._scratch.address
        words[S_CRC] = CRC32C_TABLE.address
        words[k.SOURCE] = source.state
        words[k.SINK] = sink.state
        words[k.BURST] = self._burst.address
        words[k.CAPACITY] = rows
        words[k.MOST] = most
        words[k.EDIT_WORDS] = 0 if edit is None else edit.words.address
        words[k.DROP] = int(drop)
        words[k.BUDGET] = budget
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
        if not pump.address or any(n.address == 0 for _, n in self._kernels if n is not None):
            return pump.function
        for index, kernel in self._kernels:
            self.words[index] = 0 if kernel is None else kernel.address
        self._drop_handles()
        self._pump = pump
        self.words[k.PUMP] = pump.address
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
    def shortcut(self) -> Shortcut:
        """What a wait outside of the interpreter may do in the place of `kick`.

        Good from when `KERNELS` (and those of workers, for a flow that a worker runs) are compiled.
        """
        return self._shortcut()

    def _look(self) -> Shortcut:
        return Shortcut(k.look.address, self.words.address)

    @property
    def budget(self) -> int:
        """Rows moved before other work of the loop gets its turn; may be set."""
        return self.words[k.BUDGET]

    @budget.setter
    def budget(self, budget: int) -> None:
        self.words[k.BUDGET] = budget

    @property
    def resting(self) -> bool:
        """Whether its shortcut has nothing to do; may be set, while nobody wants what it moves."""
        return bool(self.words[k.RESTING])

    @resting.setter
    def resting(self, resting: bool) -> None:
        self.words[k.RESTING] = int(resting)

    @property
    def drop(self) -> bool:
        """Whether what the sink has no room for is lost; may be set at any time, on any thread."""
        return bool(self.words[k.DROP])

    @drop.setter
    def drop(self, drop: bool) -> None:
        self.words[k.DROP] = int(drop)

    @property
    def rows(self) -> int:
        """Rows of the source that are done since the flow was made."""
        return self.words[k.ROWS]

    @property
    def malformed(self) -> int:
        """Packets that the software stage dropped, their requests did not fit their headers."""
        return self.words[S_MALFORMED]

    @property
    def failed(self) -> int:
        """What the kernel answered that failed, less than 0; 0 as long as none has."""
        return self.words[k.FAILED]

    def stats(self) -> dict[str, int]:
        """What it has counted since it was made.

        ``received`` packets of the source are done: ``sent`` were taken by the sink, ``dropped``
        found no room there (`drop`), ``refused`` were dropped by the packet function, ``malformed``
        by the software stage. ``rows`` of the source are done, in ``passes`` runs; ``softened``
        bursts went through the software stage, ``blocked`` times the sink had no room.
        """
        words = self.words
        return {
            "received": words[k.RECEIVED],
            "sent": words[k.SENT],
            "dropped": words[k.DROPPED],
            "refused": words[k.REFUSED],
            "malformed": words[S_MALFORMED],
            "rows": words[k.ROWS],
            "passes": words[k.PASSES],
            "softened": words[k.SOFTENED],
            "blocked": words[k.BLOCKED],
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
        answer = run(self.words.address, 0, self.words[k.BUDGET])
        if answer < 0:
            self.tell_failure()
            return Outcome.FAILED
        outcome = Outcome(answer)
        if outcome is Outcome.BUDGET:
            self._task.mark()
        elif outcome is Outcome.FULL and self._on_blocked is not None:
            self._on_blocked()
        return outcome

    def _turn(self) -> None:
        self.run()

    def tell_failure(self) -> None:
        """Tell `on_failed`, unless that was done, or the flow is closed; its worker's doing."""
        if self._told or self._closed:
            return
        self._told = True
        if self._on_failed is not None:
            self._on_failed(self, self.failed)
        else:
            log.warning("a flow has ended: one of its kernels failed and answered %d", self.failed)

    def hand_over(
        self, wake: Callable[[], None], rows: int, shortcut: Callable[[], Shortcut]
    ) -> None:
        """Let a worker run it from now on; nobody calls `run` any more, and `on_blocked` rests.

        Args:
            wake: What `kick` does now.
            rows: Rows that are peeked at one time at most.
            shortcut: Tells what does as `wake` in compiled code, on memory that `wake` keeps.

        Raises:
            ConfigError: A kernel is not compiled: nobody but the loop's thread can run it.
        """
        if self._bind() is not pump:
            raise ConfigError(
                "workers run compiled kernels only, and some of these are not", hint="workers=0"
            )
        self.words[k.CAPACITY] = min(rows, self._rows)
        self.words[k.MOST] = max(self.words[k.CAPACITY], PACKET_ROWS)
        self._mark = wake
        self._shortcut = shortcut
        self.words[k.PUMP] = 0

    def restart(self) -> None:
        """Forget a frame that was half moved: the source was reset. Its worker rests meanwhile."""
        self.words[S_RESUME] = 0

    def close(self) -> None:
        """Never look again; both ends stay as they are."""
        if not self._closed:
            self._closed = True
            self.words[k.PUMP] = 0
            self._task.close()
            self._drop_handles()
            self._ends = ()
