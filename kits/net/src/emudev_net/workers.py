"""Workers: threads that run flows beside the loop of the process; an option for several queues.

    pool = WorkerPool(2, "tap0")
    pool.workers[0].add(flow, source_fd=tap)
    pool.start()
    device.add_runner(pool)

Run to completion on the loop's thread is the default (`flow`): on a machine with few cores a
second thread costs a wake-up for each packet. A worker stays in one compiled loop over its flows
(`worker_kernels`), without the interpreter's lock; it sleeps when there is nothing to do, unless it
is told to poll.

Whoever changes what kernels look at keeps them at rest meanwhile: the provider of a device by
`Device.paused`, the owner of a pool by `WorkerPool.pause`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from emudev_core.errors import BackendError, ConfigError
from emudev_core.later import LIMIT
from emudev_core.queues import Shortcut

from . import worker_kernels as k
from .flow import Flow, pump
from .jit import jit_wanted
from .primitives import Words

__all__ = ["ROWS", "Worker", "WorkerPool"]

log = logging.getLogger(__name__)

#: Rows that a worker moves before it looks at its control word: any packet fits.
ROWS: Final = 128
#: How long an idle worker looks on before it sleeps, microseconds.
SPIN: Final = 50
#: How long the loop's thread looks for an answer before it lets others have the core, ns.
_LOOK: Final = 50_000

#: Signals that a thread must take itself, since its own instructions raise them.
_FAULTS: Final = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
    }
)


@attrs.frozen
class _Lane:
    flow: Flow
    source_fd: int
    sink_fd: int
    active: bool


def _may_run_on(cpu: int) -> bool:
    """Whether a thread can be bound to a CPU; this one may be bound to another already."""
    bound: list[int] = []

    def bind() -> None:
        with contextlib.suppress(OSError, ValueError, OverflowError):
            os.sched_setaffinity(0, {cpu})  # 0 is the thread itself
            bound.append(cpu)

    trial = threading.Thread(target=bind, name="emudev-cpu")
    trial.start()
    trial.join()
    return bool(bound)


class Worker:
    """A thread that runs flows. All methods are for the loop's thread, but `wake` and `room`.

    A flow of which a kernel fails rests from then on, and its `on_failed` is told on the loop's
    thread; the others go on.

    Args:
        name: Of its thread.
        polling: Never sleep: it takes a core for itself.
        spin: How long it looks on before it sleeps, microseconds.
        cpu: The one CPU that it runs on; None leaves that to the kernel.

    Attributes:
        name: As given.
        cpu: As given.

    Raises:
        ConfigError: The process may not run on that CPU.
    """

    def __init__(
        self, name: str, *, polling: bool = False, spin: int = SPIN, cpu: int | None = None
    ) -> None:
        if cpu is not None and not _may_run_on(cpu):
            have = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise ConfigError(f"no thread can run on CPU {cpu}; this one may on {have}", where=name)
        self.name = name
        self.cpu = cpu
        self._lanes: list[_Lane] = []
        self._table: Words | None = None
        self._polls: Words | None = None
        self._thread: threading.Thread | None = None
        self._number = 0
        self._control = 0
        self._holds = 0
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        words = self._words = Words(k.WORDS)
        words[k.EVENTFD // 8] = self._eventfd
        words[k.SPIN // 8] = 1000 * spin
        words[k.POLLING // 8] = int(polling)

    def add(
        self, flow: Flow, *, source_fd: int = -1, sink_fd: int = -1, active: bool = True
    ) -> int:
        """Give it a flow to run, before `start`.

        Args:
            flow: The caller keeps it, and closes it after this worker; its `kick` (and its
                `shortcut`, in compiled code) wakes this one, and does nothing once this is closed.
            source_fd: Readable when the source has more; -1: `flow.kick` says so.
            sink_fd: Writable when a sink that was full has room; -1: `room` says so.
            active: Whether frames move from the start.

        Returns:
            Number of its lane, for `set_active`.

        Raises:
            ConfigError: A kernel of the flow is not compiled.
            RuntimeError: It runs already.
        """
        if self._table is not None:
            raise RuntimeError(f"{self.name} runs already: flows come before")
        flow.hand_over(self.wake, ROWS, lambda: self.shortcut)
        self._lanes.append(_Lane(flow, source_fd, sink_fd, active))
        return len(self._lanes) - 1

    def start(self) -> None:
        """Begin; once.

        Raises:
            ConfigError: The kernels of workers are not compiled.
        """
        if not all(kernel.address for kernel in (*k.KERNELS, pump)):
            raise ConfigError("workers run compiled kernels only", hint="workers=0")
        table = self._table = Words(max(1, len(self._lanes)) * k.LANE // 8)
        self._polls = Words(1 + 2 * len(self._lanes))
        for i, lane in enumerate(self._lanes):
            at = i * k.LANE // 8
            table[at + k.FLOW // 8] = lane.flow.words.address
            table[at + k.ACTIVE // 8] = int(lane.active)
            table[at + k.SOURCE_FD // 8] = lane.source_fd
            table[at + k.SINK_FD // 8] = lane.sink_fd
        words = self._words
        words[k.TABLE // 8] = table.address
        words[k.COUNT // 8] = len(self._lanes)
        words[k.POLLS // 8] = self._polls.address
        words[k.PUMP // 8] = pump.address
        # It may outlive nothing that it works on: a process that ends without `close` stops it too.
        atexit.register(self.close)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()
        if self._holds:
            self._tell(k.PAUSE)

    def _run(self) -> None:
        # Those that ask the process to end have to interrupt the thread that handles them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        if self.cpu is not None:
            try:
                os.sched_setaffinity(0, {self.cpu})
            except OSError as error:  # the CPU was taken away meanwhile: it works anywhere
                log.warning("%s can't be bound to CPU %d: %s", self.name, self.cpu, error)
        while k.work(self._words.address, 0, 0):
            for lane in self._lanes:
                if lane.flow.failed:
                    lane.flow.loop.call_threadsafe(lane.flow.tell_failure)

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None

    def wake(self) -> None:
        """A source without descriptor may have more. Any thread; short."""
        k.wake(self._words.address, k.ANYTHING, 0)

    def room(self) -> None:
        """A sink without descriptor may have room again. Any thread; short."""
        k.wake(self._words.address, k.BLOCKED, 0)

    @property
    def shortcut(self) -> Shortcut:
        """What a wait outside of the interpreter may do in the place of `wake`.

        This worker has to be kept as long as it may be run, as the callback beside it does that is
        a method of this worker or of one of its flows.
        """
        return Shortcut(k.rouse.address, self._words.address)

    @property
    def room_shortcut(self) -> Shortcut:
        """What such a wait may do in the place of `room`; see `shortcut`."""
        return Shortcut(k.make_room.address, self._words.address)

    def set_active(self, lane: int, active: bool) -> None:
        """Let the frames of a lane move, or rest; those of one that has failed rest for good."""
        assert self._table is not None
        self.hold()
        try:
            self.settle()
            on = active and not self._lanes[lane].flow.failed
            self._table[(lane * k.LANE + k.ACTIVE) // 8] = int(on)
        finally:
            self.go_on()

    def outcome(self, lane: int) -> int:
        """What the last run of a lane's flow ended with, a `flow.Outcome`; any thread."""
        return 0 if self._table is None else self._table[(lane * k.LANE + k.OUTCOME) // 8]

    # -- resting

    def hold(self) -> None:
        """Ask it to rest; each call is undone by one of `go_on`."""
        self._holds += 1
        if self._holds == 1:
            self._tell(k.PAUSE)

    def settle(self) -> None:
        """Wait until it rests: no kernel is inside a call, and none is begun before `go_on`.

        Raises:
            BackendError: It did not within a second, which is far beyond what a burst takes.
        """
        self._wait(f"{self.name} did not come to rest within {LIMIT:g} s")

    def go_on(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        if self._holds == 0:
            self._tell(k.RUN)

    def _tell(self, command: int) -> None:
        if self._thread is None:
            return
        self._number += 1
        self._control = self._number << 2 | command
        k.tell(self._words.address, self._control, 0)

    def _wait(self, failure: str) -> None:
        if self._thread is None or k.answered(self._words.address, self._control, _LOOK):
            return
        end = time.monotonic() + LIMIT
        while not k.answered(self._words.address, self._control, _LOOK):
            if time.monotonic() > end:
                raise BackendError(failure)
            time.sleep(_LOOK / 1e9)  # it may wait for this core

    # -- the end

    def close(self) -> None:
        """End its thread; flows and descriptors stay as they are. A second call does nothing."""
        if self._thread is not None:
            self._tell(k.STOP)
            self._thread.join()
            self._thread = None
            atexit.unregister(self.close)
        if self._eventfd >= 0:
            # The number may soon be that of another file: nobody is to write to it any more.
            self._words[k.EVENTFD // 8] = -1
            os.close(self._eventfd)
            self._eventfd = -1

    def stats(self) -> dict[str, int]:
        """Looks at all its flows, and times it slept because it was idle, since the start."""
        words = self._words
        return {"passes": words[k.PASSES // 8], "sleeps": words[k.SLEEPS // 8]}


class WorkerPool:
    """Some workers: a `Runner` of a device. All methods are for the loop's thread.

    Args:
        count: Workers, at least 1.
        name: Of what they work for, for the names of their threads.
        polling: Never sleep: each takes a core for itself.
        spin: How long they look on before they sleep, microseconds.
        cpus: The CPU of each, `count` of them; None leaves that to the kernel.

    Attributes:
        workers: Give them flows before `start`; each flow, and all flows that share an end, one.

    Raises:
        ConfigError: Kernels are not compiled here, or a CPU is not one of the process.
        ValueError: There are not as many CPUs as workers.
    """

    def __init__(
        self,
        count: int,
        name: str = "flows",
        *,
        polling: bool = False,
        spin: int = SPIN,
        cpus: Sequence[int] | None = None,
    ) -> None:
        if cpus is not None and len(cpus) != count:
            raise ValueError(f"{count} workers need as many CPUs, not {len(cpus)}")
        if not jit_wanted():
            raise ConfigError(
                "workers run compiled kernels only; llvmlite is not installed, or EMUDEV_JIT=0",
                where="workers",
                hint="workers=0",
            )
        self.workers = tuple(
            Worker(
                f"emudev-{name}-{i}",
                polling=polling,
                spin=spin,
                cpu=None if cpus is None else cpus[i],
            )
            for i in range(count)
        )

    def start(self) -> None:
        """Begin; once.

        Raises:
            ConfigError: The kernels of workers are not compiled.
        """
        for worker in self.workers:
            worker.start()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Keep all of them at rest within the context; contexts may be nested.

        Raises:
            BackendError: One did not come to rest within a second.
        """
        for worker in self.workers:
            worker.hold()
        try:
            for worker in self.workers:
                worker.settle()
            yield
        finally:
            for worker in self.workers:
                worker.go_on()

    def room(self) -> None:
        """A sink without descriptor may have room again. Any thread; short."""
        for worker in self.workers:
            worker.room()

    def close(self) -> None:
        """End their threads; flows and descriptors stay as they are. A second call does nothing."""
        for worker in self.workers:
            worker.close()

    def stats(self) -> dict[str, int]:
        """The sum of `Worker.stats`."""
        total: dict[str, int] = {}
        for worker in self.workers:
            for name, value in worker.stats().items():
                total[name] = total.get(name, 0) + value
        return total
