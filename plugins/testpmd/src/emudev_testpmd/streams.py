"""Running streams: the flows of a stream, and who runs them: threads, or the loop.

A `RunningStream` owns the flows of its parts (`modes`) and tells what they counted. A `Runner` runs
all streams of a layout: `ThreadRunner` on the workers of the net kit, `LoopRunner` on the loop's
own thread. All methods are for the loop's thread.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import attrs

from emudev_core.errors import EmudevError
from emudev_core.loop import Loop
from emudev_net.burst import Burst
from emudev_net.flow import BUDGET, Flow
from emudev_net.jit import compile_now
from emudev_net.port import Port
from emudev_net.workers import Worker, WorkerPool

from .modes import Part, StreamContext, kernels_of, kernels_of_mode, parts_of
from .options import Options
from .records import Layout, StreamStats
from .topology import Stream

__all__ = [
    "LoopRunner",
    "Runner",
    "RunningStream",
    "ThreadRunner",
    "compile_streams",
    "make_runner",
]

#: Rows of a burst at most.
_MOST: Final = 512
#: Rows that the loop's thread moves in plain Python before other work gets its turn.
_PLAIN_BUDGET: Final = 128


class RunningStream:
    """A stream and its flows.

    Args:
        stream: Which queues it joins.
        options: The settings.
        rx: The port that it receives from.
        tx: The port that it sends to.
        loop: The process' loop.
        on_failed: Told when a kernel failed: this stream, and what the kernel answered.

    Attributes:
        stream: As given.
        rx: As given.
        tx: As given.
        parts: What the mode made.
        flows: One for each part.

    Raises:
        LifecycleError: A queue is not set up.
    """

    def __init__(
        self,
        stream: Stream,
        options: Options,
        rx: Port,
        tx: Port,
        *,
        loop: Loop,
        on_failed: Callable[[RunningStream, int], None],
    ) -> None:
        self.stream = stream
        self.rx = rx
        self.tx = tx
        self._loop = loop
        self._on_failed = on_failed
        self._context = StreamContext(stream, options, rx, tx)
        self.parts = parts_of(options.forward_mode, self._context)
        self.flows = tuple(self._flow(part) for part in self.parts)
        self._first_sent = 0
        self._first_dropped = 0
        self._base = StreamStats(stream)

    def _flow(self, part: Part) -> Flow:
        rows = min(self._context.options.burst * part.packet_rows, _MOST)
        return Flow(
            self._loop,
            part.source,
            part.sink,
            edit=part.edit,
            drop=True,
            rows=max(rows, part.packet_rows),
            on_failed=lambda flow, code: self._on_failed(self, code),
        )

    def send_first(self, bursts: int) -> None:
        """Send bursts of ``txonly`` packets now, on this thread; before a runner has the stream."""
        for part in parts_of("txonly", self._context) if bursts > 0 else ():
            source, sink = part.source, part.sink
            assert source.peek is not None
            assert source.release is not None
            assert sink.push is not None
            table = Burst(min(self._context.options.burst * part.packet_rows, _MOST))
            for _ in range(bursts):
                shown = source.peek(source.state, table.address, table.rows)
                taken = sink.push(sink.state, table.address, shown)
                source.release(source.state, table.address, shown)
                if sink.notify is not None:
                    sink.notify(sink.state, 0, 0)
                self._first_sent += taken // part.packet_rows
                self._first_dropped += (shown - taken) // part.packet_rows

    def stats(self) -> StreamStats:
        """What it did since it was made, or `clear`."""
        now, base = self._count(), self._base
        values = {
            field.name: getattr(now, field.name) - getattr(base, field.name)
            for field in attrs.fields(StreamStats)
            if field.name != "stream"
        }
        return StreamStats(self.stream, **values)

    def clear(self) -> None:
        """Count anew."""
        self._base = self._count()

    def _count(self) -> StreamStats:
        received = refused = bad_ip = bad_l4 = 0
        sent, dropped = self._first_sent, self._first_dropped
        for part, flow in zip(self.parts, self.flows, strict=True):
            counted = flow.stats()
            if part.receives:
                received += counted["received"]
                refused += counted["refused"]
            if part.sends:
                sent += counted["sent"]
                dropped += counted["dropped"] + counted["malformed"]
            if part.edit is not None and part.bad_ip is not None:
                bad_ip += part.edit[part.bad_ip]
            if part.edit is not None and part.bad_l4 is not None:
                bad_l4 += part.edit[part.bad_l4]
        return StreamStats(self.stream, received, sent, dropped, refused, bad_ip, bad_l4)

    def culprit(self) -> int:
        """The number of the port whose kernels failed; packets rest.

        A kernel that has failed answers so again: each end is asked for nothing.
        """
        table = Burst(1)
        sink, source = self._context.sink(), self._context.source()
        if source.peek is not None and source.peek(source.state, table.address, 0) < 0:
            return self.stream.rx_port
        if sink.push is not None and sink.push(sink.state, table.address, 0) < 0:
            return self.stream.tx_port
        return self.stream.rx_port

    def close(self) -> None:
        """Its flows are done; what they counted stays."""
        for flow in self.flows:
            flow.close()


def compile_streams(
    streams: Sequence[RunningStream], mode: str, progress: Callable[[str], None] | None
) -> str:
    """Compile what streams run.

    Args:
        streams: All that run at once.
        mode: Their forwarding mode.
        progress: Told in words when it takes longer.

    Returns:
        Why they run in plain Python, for people; empty if all is compiled.
    """
    kernels = kernels_of(part for stream in streams for part in stream.parts)
    ports = {p.name: p for s in streams for p in (s.rx, s.tx)}.values()
    try:
        for port in ports:  # as each does it itself: what is built is found by the next one
            compile_now(port.kernels(), progress)
        compile_now(kernels_of_mode(mode), progress)
        wanted = compile_now(kernels, progress)
    except EmudevError as error:
        return f"packets are moved in plain Python: {error}"
    if not wanted:
        return "packets are moved in plain Python (llvmlite is not installed, or EMUDEV_JIT=0)"
    rest = [k for k in kernels if not k.address]
    return f"packets are moved in plain Python: {rest[0]!r} is not compiled" if rest else ""


class Runner(abc.ABC):
    """Runs streams until it is closed; once."""

    @abc.abstractmethod
    def start(self) -> None:
        """Begin.

        Raises:
            EmudevError: A thread can't be started; nothing runs then.
        """

    @abc.abstractmethod
    def pause(self) -> AbstractContextManager[None]:
        """Keep all kernels at rest within the context; contexts may be nested."""

    @abc.abstractmethod
    def rest(self, stream: RunningStream) -> None:
        """Never run a stream again."""

    @abc.abstractmethod
    def close(self) -> None:
        """End; no kernel runs any more when this returns."""


class ThreadRunner(Runner):
    """Runs streams on worker threads.

    Args:
        layout: Who runs what.
        streams: In the layout's order.
        options: The settings.

    Raises:
        ConfigError: A CPU that there is not; a kernel that is not compiled.
    """

    def __init__(self, layout: Layout, streams: Sequence[RunningStream], options: Options) -> None:
        self._polling = not options.interrupt
        cpus = [core.cpu for core in layout.cores if core.cpu is not None]
        self._pool = WorkerPool(
            len(layout.cores), "testpmd", polling=self._polling, cpus=cpus or None
        )
        self._ports = list(dict.fromkeys(p for s in streams for p in (s.rx, s.tx)))
        self._lanes: dict[RunningStream, list[tuple[Worker, int]]] = {}
        self._undo: list[Callable[[], None]] = []
        left = iter(streams)
        try:
            for worker, core in zip(self._pool.workers, layout.cores, strict=True):
                for _ in core.streams:
                    self._give(worker, next(left))
        except EmudevError:
            self.close()
            raise

    def _give(self, worker: Worker, stream: RunningStream) -> None:
        lanes = self._lanes[stream] = []
        queue = stream.stream.rx_queue
        for part, flow in zip(stream.parts, stream.flows, strict=True):
            fd = stream.rx.rx_fd(queue) if part.receives else -1
            lanes.append((worker, worker.add(flow, source_fd=fd)))
            if part.receives:
                self._undo.append(stream.rx.subscribe_rx(queue, flow.kick, flow.shortcut))

    def start(self) -> None:
        """Begin."""
        for port in self._ports:
            port.set_polled(self._polling)
            port.add_runner(self._pool)
        self._pool.start()

    def pause(self) -> AbstractContextManager[None]:
        """Keep all threads at rest within the context."""
        return self._pool.pause()

    def rest(self, stream: RunningStream) -> None:
        """Never run a stream again."""
        for worker, lane in self._lanes[stream]:
            worker.set_active(lane, False)

    def close(self) -> None:
        """End the threads."""
        self._pool.close()
        for undo in self._undo:
            undo()
        self._undo.clear()
        for port in self._ports:
            port.remove_runner(self._pool)
            port.set_polled(False)


class LoopRunner(Runner):
    """Runs streams on the loop's thread, told by their ports.

    Compiled ones run while the loop sleeps, too, without the interpreter.

    Args:
        streams: All of them.
        compiled: Their kernels are.
    """

    def __init__(self, streams: Sequence[RunningStream], *, compiled: bool) -> None:
        self._streams = streams
        self._budget = BUDGET if compiled else _PLAIN_BUDGET
        self._undo: dict[RunningStream, list[Callable[[], None]]] = {}

    def start(self) -> None:
        """Begin."""
        for stream in self._streams:
            stream.rx.set_polled(False)
            undo = self._undo[stream] = []
            for part, flow in zip(stream.parts, stream.flows, strict=True):
                flow.budget = self._budget
                if part.receives:
                    queue = stream.stream.rx_queue
                    undo.append(stream.rx.subscribe_rx(queue, flow.kick, flow.shortcut))
                flow.kick()

    def pause(self) -> AbstractContextManager[None]:
        """This thread runs them: they rest already."""
        return nullcontext()

    def rest(self, stream: RunningStream) -> None:
        """Never run a stream again."""
        for undo in self._undo.pop(stream, []):
            undo()
        stream.close()

    def close(self) -> None:
        """End."""
        for stream in self._streams:
            self.rest(stream)


def make_runner(
    layout: Layout, streams: Sequence[RunningStream], options: Options, *, compiled: bool
) -> Runner:
    """A runner for a layout.

    Args:
        layout: Who runs what.
        streams: In the layout's order.
        options: The settings.
        compiled: Whether all kernels are.

    Raises:
        ConfigError: A CPU that there is not.
    """
    if layout.threads:
        return ThreadRunner(layout, streams, options)
    return LoopRunner(streams, compiled=compiled)
