"""Flows move packets until there is no more to do, no room, or enough done."""

import gc
import weakref

import pytest
from flow_parts import fill_up, tcp_request
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.loop import Loop
from emudev_core.queues import Offload, QueueKernels
from emudev_net import flow as flow_module
from emudev_net import memory_queues
from emudev_net.burst import CSUM_WANTED, Burst, Packet, offload_word
from emudev_net.flow import Flow, Outcome
from emudev_net.memory_queues import MemorySink, MemorySource

KERNELS = (*flow_module.KERNELS, *memory_queues.KERNELS)


def frames(count, size=60):
    return [bytes([i & 0xFF]) * (size + i % 7) for i in range(count)]


def test_all_packets_arrive_and_the_source_is_empty(kernels, loop):
    data = frames(600)
    source, sink = MemorySource(Burst.of(data, split=33)), MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels)
    assert flow.run() is Outcome.EMPTY
    assert [p.data for p in sink.packets()] == data
    assert flow.compiled == (kernels == "compiled")
    assert flow.rows == source.released > 600
    assert sink.signals == 1
    assert flow.run() is Outcome.EMPTY
    assert len(sink.packets()) == 600
    flow.close()


def test_a_full_sink_is_told_and_nothing_is_lost(kernels, loop):
    data = frames(50)
    source, sink = MemorySource(Burst.of(data, split=40)), MemorySink(room=4096)
    sink.room = 20
    blocked = []
    flow = Flow(loop, source.kernels, sink.kernels, on_blocked=lambda: blocked.append(1))
    assert flow.run() is Outcome.FULL
    assert blocked == [1]
    assert [p.data for p in sink.packets()] == data[:20]
    sink.room = 7
    assert flow.run() is Outcome.FULL
    sink.room = 100
    assert flow.run() is Outcome.EMPTY
    assert [p.data for p in sink.packets()] == data
    assert flow.stats()["blocked"] == 2
    flow.close()


def test_a_budget_lets_the_loop_do_other_things_in_between(kernels, loop):
    data = frames(1000)
    source, sink = MemorySource(Burst.of(data)), MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels, budget=300)
    flow.kick()
    seen = []
    while loop.turn(0.0):
        seen.append(sink.frames)
    # Whole bursts of 256 rows; the last turn finds nothing more.
    assert seen == [512, 1000, 1000]
    assert [p.data for p in sink.packets()] == data
    flow.close()


def test_kicking_twice_runs_once_and_a_closed_flow_never(kernels, loop):
    source, sink = MemorySource(Burst.of(frames(3))), MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels)
    flow.kick()
    flow.kick()
    loop.turn(0.0)
    assert flow.stats()["passes"] == 1
    flow.kick()
    flow.close()
    flow.close()
    flow.kick()
    loop.turn(0.0)
    assert flow.stats()["passes"] == 1
    assert flow.run() is Outcome.EMPTY


def test_requests_that_the_sink_does_not_take_are_done_in_between(kernels, loop):
    packet = tcp_request(5000, 1000)
    for takes, count in ((Offload.NONE, 5), (Offload.CSUM | Offload.TSO4, 1)):
        source, sink = MemorySource(Burst.of([b"a" * 60, packet, b"b" * 60])), MemorySink(takes)
        flow = Flow(loop, source.kernels, sink.kernels)
        assert flow.takes == takes
        assert flow.run() is Outcome.EMPTY
        got = sink.packets()
        assert len(got) == count + 2
        assert b"".join(p.data[54:] for p in got[1:-1]) == packet.data[54:]
        assert got[-1].data == b"b" * 60
        flow.close()


@given(rooms=st.lists(st.integers(0, 9), min_size=1, max_size=8), split=st.integers(300, 3000))
@settings(max_examples=25, deadline=None)
def test_a_sink_that_fills_up_anywhere_gets_each_segment_once(compiled_mode, rooms, split):
    loop = Loop(spin=0)
    try:
        packet = tcp_request(10000, 700)
        burst = Burst.of([packet, b"c" * 60, packet], split=split)
        source, sink = MemorySource(burst), MemorySink()
        flow = Flow(loop, source.kernels, sink.kernels)
        fill_up(flow, sink, rooms)
        got = [p.data for p in sink.packets()]
        assert len(got) == 15 + 1 + 15
        assert b"".join(d[54:] for d in got[:15]) == packet.data[54:]
        assert b"".join(d[54:] for d in got[16:]) == packet.data[54:]
        flow.close()
    finally:
        loop.close()


def test_malformed_packets_are_dropped_and_counted(kernels, loop):
    bad = Packet(b"x" * 60, flags=CSUM_WANTED, offload=offload_word(500, 0, 0, 0))
    source, sink = MemorySource(Burst.of([bad, b"y" * 60, bad], split=25)), MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels)
    assert flow.run() is Outcome.EMPTY
    assert [p.data for p in sink.packets()] == [b"y" * 60]
    assert flow.malformed == 2
    assert source.released == 9
    flow.close()


def test_kernels_of_another_make_are_called_in_python(loop):
    class Foreign:
        address = 0

        def __init__(self, kernel):
            self._kernel = kernel
            self.calls = 0

        def __call__(self, state, burst, rows, /):
            self.calls += 1
            return self._kernel(state, burst, rows)

    data = frames(5)
    source, sink = MemorySource(Burst.of(data)), MemorySink()
    push = Foreign(sink.kernels.push)
    kernels = QueueKernels(sink.kernels.state, None, push, None, None)
    flow = Flow(loop, source.kernels, kernels)
    assert flow.run() is Outcome.EMPTY
    assert [p.data for p in sink.packets()] == data
    assert push.calls == 1
    assert not flow.compiled
    flow.close()


def test_ends_that_lack_a_kernel_are_refused(loop):
    source, sink = MemorySource(Burst.of([b"x"])), MemorySink()
    with pytest.raises(ValueError, match="peek and release"):
        Flow(loop, sink.kernels, sink.kernels)
    with pytest.raises(ValueError, match="push"):
        Flow(loop, source.kernels, source.kernels)


def test_a_flow_takes_compiled_code_once_it_is_there(loop, compiled_or_plain, jit):
    source, sink = MemorySource(Burst.of(frames(4))), MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels)
    for kernel in KERNELS:
        kernel.bind(0)
    flow.run()
    assert not flow.compiled
    compiled_or_plain(*KERNELS)
    flow.run()
    assert flow.compiled == (jit == "compiled")
    flow.close()


def test_a_flow_keeps_its_ends_until_it_is_closed(loop):
    source, sink = MemorySource(Burst.of([b"x" * 60])), MemorySink()
    gone = [weakref.ref(source), weakref.ref(sink)]
    flow = Flow(loop, source.kernels, sink.kernels)
    del source, sink
    gc.collect()
    assert all(end() is not None for end in gone)
    assert flow.run() is Outcome.EMPTY
    assert gone[1]().frames == 1
    flow.close()
    gc.collect()
    assert [end() for end in gone] == [None, None]
