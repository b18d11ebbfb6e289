"""Workers: frames arrive whole, pauses hold, sleepers are woken, threads end."""

import contextlib
import gc
import os
import random
import socket
import threading
import time
import weakref

import pytest

from emudev_core.device import Device
from emudev_core.errors import BackendError, ConfigError
from emudev_core.loop import Loop
from emudev_core.queues import Doorbell, Offload, QueueKernels, Shortcut
from emudev_net import flow as flows
from emudev_net import flow_kernels, memory_queues, worker_kernels, workers
from emudev_net.burst import ADDRESS, CSUM_WANTED, FIRST, FLAGS, LAST, LENGTH, Burst, Packet
from emudev_net.flow import Flow
from emudev_net.jit import compile_now, jit_wanted, queue_kernel
from emudev_net.memory_queues import MemorySink, MemorySource
from emudev_net.primitives import (
    Words,
    load64,
    load64_acquire,
    load64_relaxed,
    now_ns,
    pause,
    store64,
    store64_relaxed,
    store64_release,
)
from emudev_net.system_calls import read, write
from emudev_net.worker_kernels import _wake
from emudev_net.workers import Worker, WorkerPool

needs_compiler = pytest.mark.skipif(not jit_wanted(), reason="workers run compiled kernels only")


# A queue of a descriptor, one frame at a time: word 0 the descriptor, 1 a buffer, 2 bytes in it.


@queue_kernel
def fd_peek(state, burst, capacity):
    """Read a frame unless one is there."""
    if load64(state + 16) <= 0:
        store64(state + 16, read(load64(state), load64(state + 8), 2048))
    if load64(state + 16) <= 0:
        return 0
    store64(burst + ADDRESS, load64(state + 8))
    store64(burst + LENGTH, load64(state + 16))
    store64(burst + FLAGS, FIRST | LAST)
    return 1


@queue_kernel
def fd_release(state, burst, rows):
    """Forget the frame."""
    store64(state + 16, 0)
    return 0


@queue_kernel
def fd_push(state, burst, rows):
    """Write frames of one row each."""
    done = 0
    while done < rows:
        row = burst + 64 * done
        if write(load64(state), load64(row + ADDRESS), load64(row + LENGTH)) < 0:
            break
        done += 1
    return done


@queue_kernel
def stuck(state, burst, capacity):
    """A source that does not come back until word 0 is set; word 1 says that it is inside."""
    store64_relaxed(state + 8, 1)
    while load64_relaxed(state) == 0:
        pause()
    return 0


@queue_kernel
def play(state, rounds, burst):
    """Show the one packet of a source again and again, at any moment, and wake the worker.

    Words: 0 the worker, 1 the tail of the source, 2 its head. Returns the rounds played; fewer are
    played if one packet was not taken within a second.
    """
    worker = load64(state)
    tail = load64(state + 8)
    head = load64(state + 16)
    luck = 1
    for n in range(rounds):
        luck = (luck * 1103515245 + 12345) & 0x7FFF_FFFF
        for _ in range(luck >> 16 & 31):
            pause()
        store64_relaxed(head, 0)
        store64_release(tail, 1)
        _wake(worker, 3)
        start = now_ns()
        while load64_acquire(head) == 0:
            if now_ns() - start > 1_000_000_000:
                return n
        store64_release(tail, 0)
    return rounds


@queue_kernel
def failing(state, burst, rows):
    """Word 0 is what it answers, word 1 counts the calls."""
    store64(state + 8, load64(state + 8) + 1)
    return load64(state)


@pytest.fixture(autouse=True)
def _compiled():
    if jit_wanted():
        compile_now(
            [
                *flows.KERNELS,
                *worker_kernels.KERNELS,
                *memory_queues.KERNELS,
                fd_peek,
                fd_release,
                fd_push,
                stuck,
                play,
                failing,
            ]
        )


@pytest.fixture
def make_pool():
    """Makes pools that are closed after the test."""
    with contextlib.ExitStack() as closing:

        def make(count=1, **keys):
            pool = WorkerPool(count, "test", **keys)
            closing.callback(pool.close)
            return pool

        yield make


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.0002)


def frames(count, size=64):
    return [n.to_bytes(4, "big") * (size // 4) for n in range(count)]


def sleeping(worker):
    return worker._words[worker_kernels.SLEEPING // 8]


class Joined(Flow):
    """A flow that keeps what it joins."""

    def __init__(self, source, sink):
        self.loop = Loop()
        super().__init__(self.loop, source.kernels, sink.kernels)
        self.ends = (source, sink)
        self.loop.close()


class FdQueue:
    """Either end of a descriptor."""

    def __init__(self, fd):
        self._words, self._buffer = Words(8), Words(256)
        self._words[0], self._words[1] = fd, self._buffer.address
        self.kernels = QueueKernels(self._words.address, fd_peek, fd_push, fd_release, None)


class Stuck:
    """A source that does not come back; its words last as long as the flow that keeps it."""

    def __init__(self):
        self.words = Words(8)
        self.kernels = QueueKernels(self.words.address, stuck, None, fd_release, None)


def endless(sink):
    """A flow that is never done, of 60 packets again and again."""
    return Joined(MemorySource(Burst.of(frames(60)), again=1 << 60), sink)


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
def test_frames_move_on_after_the_outermost_of_nested_pauses(make_pool):
    pool = make_pool()
    sink = MemorySink(wrap=True, room=1 << 60)
    pool.workers[0].add(endless(sink))
    pool.start()
    with pool.pause():
        with pool.pause():
            at = sink.frames
        time.sleep(0.001)
        assert sink.frames == at
    until(lambda: sink.frames > at)


@needs_compiler
def test_an_error_within_a_pause_lets_frames_move_on(make_pool):
    pool = make_pool()
    sink = MemorySink(wrap=True, room=1 << 60)
    pool.workers[0].add(endless(sink))
    pool.start()
    with pytest.raises(ZeroDivisionError), pool.pause():
        raise ZeroDivisionError
    at = sink.frames
    until(lambda: sink.frames > at)


@needs_compiler
def test_a_provider_pauses_the_workers_of_its_device(make_pool):
    pool = make_pool()
    sink = MemorySink(wrap=True, room=1 << 60)
    pool.workers[0].add(endless(sink))
    pool.start()
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
def test_a_wake_up_is_never_lost_between_awake_and_asleep(make_pool):
    # Without a spin the worker is on its way to sleep all the time, and `play` comes at any moment.
    pool = make_pool(spin=0)
    rounds = 50_000
    source, sink = MemorySource(Burst.of(frames(1))), MemorySink(wrap=True, room=1 << 60)
    source.shown = 0
    worker = pool.workers[0]
    worker.add(Joined(source, sink))
    pool.start()
    game = Words(8)
    game[0] = worker._words.address
    game[1] = source.kernels.state + 16  # behind the last row that is shown
    game[2] = source.kernels.state + 8  # the first that was not released
    assert play(game.address, rounds, 0) == rounds
    until(lambda: sink.frames == rounds)
    sleeps = pool.stats()["sleeps"]
    assert 0 < sleeps < 2 * rounds


@needs_compiler
def test_a_kick_wakes_a_sleeper(make_pool):
    pool = make_pool()
    source, sink = MemorySource(Burst.of(frames(20))), MemorySink()
    source.shown = 0
    flow = Joined(source, sink)
    pool.workers[0].add(flow)
    pool.start()
    for n in range(1, 21):
        until(lambda: sleeping(pool.workers[0]))
        source.shown = n
        flow.kick()
        until(lambda: sink.frames == n)  # noqa: B023 - called at once


@needs_compiler
def test_the_shortcut_of_a_flow_wakes_the_worker_that_runs_it(make_pool):
    pool = make_pool()
    source, sink = MemorySource(Burst.of(frames(20))), MemorySink()
    source.shown = 0
    flow = Joined(source, sink)
    alone = flow.shortcut
    assert alone == Shortcut(flow_kernels.look.address, flow.words.address)
    pool.workers[0].add(flow)
    pool.start()
    assert flow.shortcut == pool.workers[0].shortcut != alone
    assert flow.shortcut.address == worker_kernels.rouse.address != 0
    for n in range(1, 21):
        until(lambda: sleeping(pool.workers[0]))
        source.shown = n
        assert worker_kernels.rouse(flow.shortcut.state, 0, 0) == 0
        until(lambda: sink.frames == n)  # noqa: B023 - called at once
    assert worker_kernels.rouse(flow.shortcut.state, 0, 0) == 0  # asleep, or not


@needs_compiler
def test_a_doorbell_keeps_the_worker_whose_words_its_chain_names(make_pool):
    source, sink = MemorySource(Burst.of(frames(1))), MemorySink()
    word = Words(1)
    bell = Doorbell(0, word.address)
    pool = WorkerPool(1, "kept")
    worker = weakref.ref(pool.workers[0])
    flow = Joined(source, sink)
    pool.workers[0].add(flow)
    pool.start()
    bell.subscribe(flow.kick, flow.shortcut)
    pool.close()
    flow.close()
    del pool, flow
    gc.collect()
    assert worker() is not None
    bell.close()
    gc.collect()
    assert worker() is None


@needs_compiler
@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("announced", [True, False])
def test_a_closed_worker_writes_to_no_descriptor_that_bears_its_number_now(started, announced):
    worker = Worker("gone")
    flow = Joined(MemorySource(Burst.of(frames(1))), MemorySink())
    worker.add(flow)
    if started:
        worker.start()
        until(lambda: sleeping(worker))
    number = worker._eventfd
    worker.close()
    assert sleeping(worker) == 0
    other = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        if other != number:
            os.dup2(other, number)
        if announced:  # as no thread leaves it behind
            worker._words[worker_kernels.SLEEPING // 8] = worker_kernels.ANYTHING
        worker_kernels.rouse(flow.shortcut.state, 0, 0)
        if announced:
            worker._words[worker_kernels.SLEEPING // 8] = worker_kernels.ANYTHING
        worker_kernels.make_room(worker.room_shortcut.state, 0, 0)
        flow.kick()
        worker.wake()
        worker.room()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
    finally:
        for fd in {other, number}:
            os.close(fd)


@needs_compiler
def test_an_idle_worker_sleeps_and_one_that_polls_does_not(make_pool):
    pools = [make_pool(), make_pool(polling=True)]
    for pool in pools:
        source = MemorySource(Burst.of(frames(1)))
        pool.workers[0].add(Joined(source, MemorySink()))
        pool.start()
    idle, busy = (pool.workers[0] for pool in pools)
    until(lambda: sleeping(idle) == worker_kernels.ASLEEP)
    at = [worker.stats()["passes"] for worker in (idle, busy)]
    until(lambda: busy.stats()["passes"] > at[1] + 100)
    assert idle.stats() == {"passes": at[0], "sleeps": 1}
    assert busy.stats()["sleeps"] == 0


@needs_compiler
def test_a_sleeper_is_woken_by_the_descriptor_of_a_source(make_pool):
    pool = make_pool(spin=0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        sink = MemorySink()
        source = FdQueue(ours.fileno())
        worker = pool.workers[0]
        worker.add(Joined(source, sink), source_fd=ours.fileno())
        pool.start()
        for n, frame in enumerate(frames(300)):
            if n % 10 == 0:
                until(lambda: sleeping(worker))
            theirs.send(frame)
            until(lambda: sink.frames == n + 1)  # noqa: B023 - called at once
        pool.close()
        assert [packet.data for packet in sink.packets()] == frames(300)


@needs_compiler
def test_a_full_sink_is_waited_for_by_its_descriptor(make_pool):
    pool = make_pool(spin=0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.settimeout(5)
        sent = frames(2000, size=400)
        source = MemorySource(Burst.of(sent))
        sink = FdQueue(ours.fileno())
        worker = pool.workers[0]
        worker.add(Joined(source, sink), sink_fd=ours.fileno())
        pool.start()
        until(lambda: sleeping(worker))
        assert 0 < source.released < 2000
        assert [theirs.recv(2048) for _ in sent] == sent


@needs_compiler
def test_a_full_sink_without_descriptor_is_waited_for_by_word(make_pool):
    pool = make_pool()
    source, sink = MemorySource(Burst.of(frames(100))), MemorySink(room=100)
    sink.room = 10
    worker = pool.workers[0]
    worker.add(Joined(source, sink))
    pool.start()
    until(lambda: sleeping(worker) == worker_kernels.ASLEEP | worker_kernels.BLOCKED)
    assert sink.frames == 10
    sink.room = 100
    pool.room()
    until(lambda: sink.frames == 100)
    until(lambda: sleeping(worker) == worker_kernels.ASLEEP)
    sleeps = pool.stats()["sleeps"]
    pool.room()  # nobody waits for that any more
    time.sleep(0.002)
    assert pool.stats()["sleeps"] == sleeps


@needs_compiler
def test_the_shortcut_for_room_wakes_those_who_wait_for_it_alone(make_pool):
    pool = make_pool()
    source, sink = MemorySource(Burst.of(frames(3))), MemorySink(room=100)
    sink.room = 2
    worker = pool.workers[0]
    worker.add(Joined(source, sink))
    pool.start()
    until(lambda: sleeping(worker) == worker_kernels.ANYTHING)
    sink.room = 100
    assert worker_kernels.make_room(worker.room_shortcut.state, 0, 0) == 0
    until(lambda: sink.frames == 3)
    until(lambda: sleeping(worker) == worker_kernels.ASLEEP)
    sleeps = pool.stats()["sleeps"]
    assert worker_kernels.make_room(worker.room_shortcut.state, 0, 0) == 0
    assert sleeping(worker) == worker_kernels.ASLEEP
    assert pool.stats()["sleeps"] == sleeps


@needs_compiler
def test_a_source_that_waits_for_room_is_not_looked_at(make_pool):
    pool = make_pool(spin=0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        sink = MemorySink()
        sink.room = 0
        source = FdQueue(ours.fileno())
        worker = pool.workers[0]
        worker.add(Joined(source, sink), source_fd=ours.fileno())
        pool.start()
        for frame in frames(5):
            theirs.send(frame)
        until(lambda: sleeping(worker) == worker_kernels.ASLEEP | worker_kernels.BLOCKED)
        sleeps = pool.stats()["sleeps"]
        time.sleep(0.01)
        assert pool.stats()["sleeps"] <= sleeps + 1
        sink.room = 100
        worker.room()
        until(lambda: sink.frames == 5)


@needs_compiler
def test_a_broken_descriptor_does_not_keep_a_worker_busy(make_pool):
    pool = make_pool(spin=0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.setblocking(False)
        source = FdQueue(ours.fileno())
        worker = pool.workers[0]
        worker.add(Joined(source, MemorySink()), source_fd=ours.fileno())
        pool.start()
        until(lambda: sleeping(worker))
        theirs.close()
        time.sleep(0.01)
        until(lambda: sleeping(worker))
        assert pool.stats()["sleeps"] < 10


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
@pytest.mark.parametrize("cpu", [-1, 1023, 1 << 40])
def test_a_cpu_that_is_not_there_is_refused(make_pool, cpu):
    with pytest.raises(ConfigError, match=f"CPU {cpu}"):
        make_pool(1, cpus=[cpu])
    with pytest.raises(ValueError, match="as many CPUs"):
        make_pool(2, cpus=[0])


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
