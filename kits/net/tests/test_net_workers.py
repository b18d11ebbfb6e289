"""Workers: frames arrive whole, pauses hold, threads end."""

import contextlib
import os
import random
import threading
import time

import pytest
import worker_parts
from worker_parts import Joined, endless, frames, needs_compiler, sleeping, until

from emudev_core.device import Device
from emudev_core.loop import Loop
from emudev_core.queues import Offload
from emudev_net import flow as flows
from emudev_net import workers
from emudev_net.burst import CSUM_WANTED, Burst, Packet
from emudev_net.flow import Flow
from emudev_net.memory_queues import MemorySink, MemorySource
from emudev_net.workers import Worker, WorkerPool

pytestmark = pytest.mark.usefixtures("compiled_mode")

KERNELS = worker_parts.KERNELS


@pytest.fixture
def busy(make_pool):
    """A pool of one worker that moves packets without end, and their sink."""
    pool = make_pool()
    sink = MemorySink(wrap=True, room=1 << 60)
    pool.workers[0].add(endless(sink))
    pool.start()
    return pool, sink


@needs_compiler
def test_frames_arrive_whole_and_in_order(make_pool):
    pool = make_pool(2)
    sinks = []
    for worker in pool.workers:
        for _ in range(2):
            source, sink = MemorySource(Burst.of(frames(1000), split=23)), MemorySink()
            sinks.append(sink)
            worker.add(Joined(source, sink))
    pool.start()
    until(lambda: all(sink.frames == 1000 for sink in sinks))
    pool.close()
    for sink in sinks:
        assert [packet.data for packet in sink.packets()] == frames(1000)
        assert sink.signals > 0


@needs_compiler
def test_requests_that_the_sink_does_not_take_are_done_in_software(make_pool):
    # The checksum field at 20 holds 0, so that it becomes that of the bytes from 14 on.
    data = bytes(14) + bytes.fromhex("0001f203f4f50000f6f7")
    wanted = Packet(data=data, flags=CSUM_WANTED, offload=14 | 6 << 16)
    pool = make_pool()
    sink = MemorySink(Offload.NONE)
    flow = Joined(MemorySource(Burst.of([wanted])), sink)
    pool.workers[0].add(flow)
    pool.start()
    until(lambda: sink.frames == 1)
    pool.close()
    # RFC 1071, section 3: these bytes sum to ddf2.
    assert sink.packets()[0].data == data[:20] + bytes.fromhex("220d") + data[22:]
    assert flow.stats()["softened"] == 1


@needs_compiler
@pytest.mark.parametrize("polling", [False, True])
def test_nothing_moves_within_thousands_of_pauses_under_traffic(make_pool, polling):
    pool = make_pool(2, polling=polling)
    sinks = [MemorySink(wrap=True, room=1 << 60) for _ in pool.workers]
    for worker, sink in zip(pool.workers, sinks, strict=True):
        worker.add(endless(sink))
    pool.start()
    choose = random.Random(7)
    waits = []
    moves = 0
    at = [0, 0]
    for _ in range(2500):
        if choose.random() < 0.1:
            time.sleep(0.0002)
        start = time.perf_counter()
        with pool.pause():
            waits.append(time.perf_counter() - start)
            former, at = at, [sink.frames for sink in sinks]
            moves += at != former
            if choose.random() < 0.02:
                time.sleep(0.0003)  # long enough for the workers to sleep
            assert [sink.frames for sink in sinks] == at
    assert moves > 100
    waits.sort()
    assert waits[len(waits) // 2] < 0.005


@needs_compiler
def test_frames_move_on_after_the_outermost_of_nested_pauses(busy):
    pool, sink = busy
    with pool.pause():
        with pool.pause():
            at = sink.frames
        time.sleep(0.001)
        assert sink.frames == at
    until(lambda: sink.frames > at)


@needs_compiler
def test_an_error_within_a_pause_lets_frames_move_on(busy):
    pool, sink = busy
    with pytest.raises(ZeroDivisionError), pool.pause():
        raise ZeroDivisionError
    at = sink.frames
    until(lambda: sink.frames > at)


@needs_compiler
def test_a_provider_pauses_the_workers_of_its_device(busy):
    pool, sink = busy
    device = Device("dice_emudev_0", 0, "dice")
    device.add_runner(pool)
    with device.paused():
        at = sink.frames
        time.sleep(0.001)
        assert sink.frames == at
    until(lambda: sink.frames > at)
    device.remove_runner(pool)
    at = sink.frames
    with device.paused():
        until(lambda: sink.frames > at)


@needs_compiler
def test_a_lane_rests_while_it_is_not_active(make_pool):
    pool = make_pool()
    sink = MemorySink()
    flow = Joined(MemorySource(Burst.of(frames(10))), sink)
    worker = pool.workers[0]
    lane = worker.add(flow, active=False)
    pool.start()
    flow.kick()
    time.sleep(0.002)
    assert sink.frames == 0
    worker.set_active(lane, True)
    until(lambda: sink.frames == 10)


@needs_compiler
@pytest.mark.parametrize("state", ["busy", "asleep", "paused"])
def test_threads_and_descriptors_are_gone_after_a_close(state):
    before = set(os.listdir("/proc/self/fd"))
    pool = WorkerPool(2, "closing")
    sink = MemorySink(wrap=True, room=1 << 60)
    if state != "asleep":
        pool.workers[0].add(endless(sink))
    pool.start()
    names = {thread.name for thread in threading.enumerate()}
    assert {"emudev-closing-0", "emudev-closing-1"} <= names
    with contextlib.ExitStack() as stack:
        if state == "paused":
            stack.enter_context(pool.pause())
        else:
            until(lambda: sleeping(pool.workers[1]))
        pool.close()
        pool.close()
        at = sink.frames
    assert not [t for t in threading.enumerate() if t.name.startswith("emudev-closing")]
    assert set(os.listdir("/proc/self/fd")) == before
    assert sink.frames == at


@needs_compiler
def test_a_worker_that_is_held_before_it_starts_waits(make_pool):
    pool = make_pool()
    sink = MemorySink(wrap=True, room=1 << 60)
    pool.workers[0].add(endless(sink))
    with pool.pause():
        pool.start()
        pool.workers[0].settle()
        at = sink.frames
        time.sleep(0.001)
        assert sink.frames == at
    until(lambda: sink.frames > at)


def affinity(worker):
    return os.sched_getaffinity(worker._thread.native_id)


@needs_compiler
def test_workers_stay_on_the_cpus_that_they_are_given(make_pool):
    cpus = sorted(os.sched_getaffinity(0))
    free = make_pool(1)
    bound = make_pool(2, cpus=[cpus[0], cpus[-1]])
    for pool in (free, bound):
        pool.start()
    until(lambda: [affinity(w) for w in bound.workers] == [{cpus[0]}, {cpus[-1]}])
    assert [w.cpu for w in bound.workers] == [cpus[0], cpus[-1]]
    assert affinity(free.workers[0]) == set(cpus)
    assert os.sched_getaffinity(0) == set(cpus)


@needs_compiler
def test_workers_move_bursts_of_the_rows_that_the_flow_was_told(make_pool):
    for rows, most in ((32, 32), (500, workers.ROWS)):
        loop = Loop()
        source, sink = MemorySource(Burst.of(frames(1000))), MemorySink()
        flow = Flow(loop, source.kernels, sink.kernels, rows=rows)
        worker = make_pool().workers[0]
        worker.add(flow)
        worker.start()
        until(lambda: sink.frames == 1000)  # noqa: B023 - called at once
        worker.close()
        assert flow.stats()["passes"] >= -(-1000 // most)
        assert flow.words[flows.k.CAPACITY] == most
        assert flow.stats()["sent"] == 1000
        flow.close()
        loop.close()


def test_an_unused_worker_gives_its_descriptor_back():
    before = set(os.listdir("/proc/self/fd"))
    worker = Worker("unused")
    worker.close()
    assert set(os.listdir("/proc/self/fd")) == before
