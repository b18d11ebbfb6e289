"""Workers that sleep: who wakes them, when they wait for room, and that no wake-up is lost."""

import gc
import os
import socket
import time
import weakref

import pytest
import worker_parts
from worker_parts import FdQueue, Joined, frames, needs_compiler, sleeping, until

from emudev_core.queues import Doorbell, Shortcut
from emudev_net import flow_kernels, worker_kernels
from emudev_net.burst import Burst
from emudev_net.jit import queue_kernel
from emudev_net.memory_queues import MemorySink, MemorySource
from emudev_net.primitives import (
    Words,
    load64,
    load64_acquire,
    now_ns,
    pause,
    store64_relaxed,
    store64_release,
)
from emudev_net.worker_kernels import _wake
from emudev_net.workers import Worker, WorkerPool

pytestmark = pytest.mark.usefixtures("compiled_mode")


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


KERNELS = (*worker_parts.KERNELS, play)


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
