"""Workers: lanes that fail, kernels that do not return, and what is refused."""

import threading

import pytest
import worker_parts
from worker_parts import FdQueue, Joined, endless, fd_release, needs_compiler, sleeping, until

from emudev_core.errors import BackendError, ConfigError
from emudev_core.loop import Loop
from emudev_core.queues import QueueKernels
from emudev_net import worker_kernels, workers
from emudev_net.flow import Flow
from emudev_net.jit import queue_kernel
from emudev_net.memory_queues import MemorySink
from emudev_net.primitives import Words, load64, load64_relaxed, pause, store64, store64_relaxed
from emudev_net.workers import WorkerPool

pytestmark = pytest.mark.usefixtures("compiled_mode")


@queue_kernel
def stuck(state, burst, capacity):
    """A source that does not come back until word 0 is set; word 1 says that it is inside."""
    store64_relaxed(state + 8, 1)
    while load64_relaxed(state) == 0:
        pause()
    return 0


@queue_kernel
def failing(state, burst, rows):
    """Word 0 is what it answers, word 1 counts the calls."""
    store64(state + 8, load64(state + 8) + 1)
    return load64(state)


KERNELS = (*worker_parts.KERNELS, stuck, failing)


class Stuck:
    """A source that does not come back; its words last as long as the flow that keeps it."""

    def __init__(self):
        self.words = Words(8)
        self.kernels = QueueKernels(self.words.address, stuck, None, fd_release, None)


@needs_compiler
@pytest.mark.parametrize("spin", [0, 50, 10_000_000])
def test_a_lane_that_fails_rests_and_is_told_and_the_others_go_on(make_pool, spin):
    pool = make_pool(spin=spin)
    loop = Loop()
    words, sink = Words(8), MemorySink(wrap=True, room=1 << 60)
    source = QueueKernels(words.address, failing, None, fd_release, None)
    told = []

    def failed(flow, code):
        told.append((flow, code, threading.current_thread()))

    bad = Flow(loop, source, MemorySink().kernels, on_failed=failed)
    worker = pool.workers[0]
    lanes = [worker.add(bad), worker.add(endless(sink)), worker.add(endless(sink), active=False)]
    pool.start()
    until(lambda: sink.frames > 1000)
    words[0] = -42
    bad.kick()
    until(lambda: loop.turn(0.01) or told)
    assert told == [(bad, -42, threading.current_thread())]
    at, calls = sink.frames, words[1]
    until(lambda: sink.frames > at + 1000)
    worker.set_active(lanes[0], False)
    worker.set_active(lanes[0], True)  # it has failed for good
    bad.kick()
    at = sink.frames
    until(lambda: sink.frames > at + 1000)
    assert words[1] == calls
    loop.turn(0.0)
    assert len(told) == 1
    worker.set_active(lanes[1], False)
    until(lambda: spin > 1000 or sleeping(worker))
    pool.close()
    bad.close()
    loop.close()


@needs_compiler
def test_a_kernel_that_does_not_return_is_an_error_not_a_wait(make_pool, monkeypatch):
    monkeypatch.setattr(workers, "LIMIT", 0.02)
    pool = make_pool()
    source = Stuck()
    words = source.words
    pool.workers[0].add(Joined(source, MemorySink()))
    pool.start()
    until(lambda: words[1])
    entered = False
    with pytest.raises(BackendError, match="emudev-test-0 did not come to rest"), pool.pause():
        entered = True
    assert not entered
    words[0] = 1


@needs_compiler
def test_flows_come_before_the_start(make_pool):
    pool = make_pool()
    pool.start()
    with pytest.raises(RuntimeError):
        pool.workers[0].add(endless(MemorySink()))


@needs_compiler
def test_a_flow_whose_kernels_are_not_compiled_is_refused(make_pool):
    def plain(state, burst, rows):
        return 0

    source = FdQueue(0)
    source.kernels = QueueKernels(0, queue_kernel(plain), None, queue_kernel(plain), None)
    with pytest.raises(ConfigError, match="compiled"):
        make_pool().workers[0].add(Joined(source, MemorySink()))


def test_without_a_compiler_there_are_no_workers(monkeypatch):
    monkeypatch.setenv("EMUDEV_JIT", "0")
    with pytest.raises(ConfigError, match="workers"):
        WorkerPool(1)


@needs_compiler
def test_workers_need_their_own_kernels_compiled(make_pool):
    address = worker_kernels.work.address
    worker_kernels.work.bind(0)
    try:
        with pytest.raises(ConfigError, match="compiled"):
            make_pool().start()
    finally:
        worker_kernels.work.bind(address)


@needs_compiler
@pytest.mark.parametrize("cpu", [-1, 1023, 1 << 40])
def test_a_cpu_that_is_not_there_is_refused(make_pool, cpu):
    with pytest.raises(ConfigError, match=f"CPU {cpu}"):
        make_pool(1, cpus=[cpu])
    with pytest.raises(ValueError, match="as many CPUs"):
        make_pool(2, cpus=[0])
