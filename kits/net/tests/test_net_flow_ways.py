"""The ways of a flow: dropping, bursts of a size, fused kernels, failures; and what it counts."""

import itertools

import attrs
import pytest
from flow_parts import tcp_request
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_core.loop import Loop
from emudev_core.queues import QueueKernels
from emudev_net import flow as flow_module
from emudev_net import memory_queues
from emudev_net.burst import (
    ADDRESS,
    CSUM_WANTED,
    FIRST,
    FLAGS,
    LAST,
    ROW,
    Burst,
    Packet,
    offload_word,
)
from emudev_net.flow import Flow, Outcome
from emudev_net.jit import queue_kernel
from emudev_net.memory_queues import MemorySink, MemorySource
from emudev_net.primitives import Words, load64, store64


@queue_kernel
def peek_one(state, burst, capacity):
    """Count looks in word 0, remember the smallest capacity in word 1; nothing to show."""
    store64(state, load64(state) + 1)
    store64(state + 8, min(load64(state + 8), capacity))
    return 0


# A ring of packets, one row each, for a source that has a fused kernel. Words: 0 address of its
# rows, 1 the next, 2 behind the last one, 3 packets that the fused kernel moved, 4 how many it
# moves at one time.


@queue_kernel
def ring_peek(state, burst, capacity):
    """Show what is left."""
    next_ = load64(state + 8)
    rows = min(capacity, load64(state + 16) - next_)
    for i in range(rows):
        at = load64(state) + (next_ + i) * ROW
        for word in range(8):
            store64(burst + i * ROW + 8 * word, load64(at + 8 * word))
    return rows


@queue_kernel
def ring_release(state, burst, rows):
    """Go on."""
    store64(state + 8, load64(state + 8) + rows)
    return 0


@queue_kernel
def ring_forward(state, sink, rows):
    """Move packets without requests into a `tally`, while it has room."""
    done = 0
    next_ = load64(state + 8)
    most = min(rows, load64(state + 16) - next_, load64(state + 32))
    while done < most and load64(sink + 8) > 0:
        at = load64(state) + (next_ + done) * ROW
        if load64(at + FLAGS) != FIRST | LAST:
            break
        store64(sink + 8, load64(sink + 8) - 1)
        store64(sink, load64(sink) * 31 + load64(load64(at + ADDRESS)))
        done += 1
    store64(state + 8, next_ + done)
    store64(state + 24, load64(state + 24) + done)
    return done


@queue_kernel
def tally(state, burst, rows):
    """Add packets up in word 0, in order; word 1 is the room, 2 the packets with a request."""
    done = 0
    while done < rows and load64(state + 8) > 0:
        row = burst + done * ROW
        store64(state + 8, load64(state + 8) - 1)
        store64(state, load64(state) * 31 + load64(load64(row + ADDRESS)))
        done += 1
    return done


@queue_kernel
def answer_peek(state, burst, capacity):
    """Word 0."""
    return load64(state)


@queue_kernel
def answer_release(state, burst, rows):
    """Word 1."""
    return load64(state + 8)


@queue_kernel
def answer_push(state, burst, rows):
    """Word 2."""
    return load64(state + 16)


@queue_kernel
def answer_notify(state, burst, rows):
    """Word 3."""
    return load64(state + 24)


@queue_kernel
def answer_forward(state, sink, rows):
    """Word 4."""
    return load64(state + 32)


MINE = (
    peek_one,
    ring_peek,
    ring_release,
    ring_forward,
    tally,
    answer_peek,
    answer_release,
    answer_push,
    answer_notify,
    answer_forward,
)
KERNELS = (*flow_module.KERNELS, *memory_queues.KERNELS, *MINE)


def numbers(flow, *names):
    stats = flow.stats()
    return tuple(stats[name] for name in names)


class Ring:
    """A source with a fused kernel, and the sink that it is for."""

    def __init__(self, packets, at_once=1 << 30):
        self._burst = Burst.of(packets)
        self.words = Words(8)
        self.words[0], self.words[2] = self._burst.address, self._burst.count
        self.words[4] = at_once
        self.kernels = QueueKernels(
            self.words.address,
            ring_peek,
            None,
            ring_release,
            None,
            forward={"tally": ring_forward},
        )


class Tally:
    def __init__(self, room=1 << 30):
        self.words = Words(8)
        self.words[1] = room
        self.kernels = QueueKernels(self.words.address, None, tally, None, None, kind="tally")


def test_a_flow_that_drops_never_waits_for_room(kernels, loop):
    data = [bytes([i]) * 60 for i in range(50)]
    source, sink = MemorySource(Burst.of(data, split=40)), MemorySink()
    sink.room = 20
    flow = Flow(loop, source.kernels, sink.kernels, drop=True, on_blocked=lambda: 1 / 0)
    assert flow.run() is Outcome.EMPTY
    assert [p.data for p in sink.packets()] == data[:20]
    assert source.released == 100
    assert numbers(flow, "received", "sent", "dropped", "rows") == (50, 20, 30, 100)
    assert sink.signals >= 1
    flow.close()


def test_a_sink_that_is_full_is_told_before_all_is_dropped(kernels, loop):
    source, sink = MemorySource(Burst.of([b"x" * 60] * 100)), MemorySink()
    sink.room = 10
    flow = Flow(loop, source.kernels, sink.kernels, drop=True, rows=20)
    flow.run()
    assert numbers(flow, "sent", "dropped", "blocked") == (10, 90, 5)
    assert sink.signals == 6  # each time there was no room, and at the end
    flow.close()


def test_a_frame_that_is_cut_in_half_by_a_full_sink_is_dropped_whole(kernels, loop):
    packets = [tcp_request(5000, 1000), tcp_request(3000, 1000), b"z" * 60]
    source, sink = MemorySource(Burst.of(packets)), MemorySink()
    sink.room = 7
    flow = Flow(loop, source.kernels, sink.kernels, drop=True)
    assert flow.run() is Outcome.EMPTY
    assert numbers(flow, "received", "sent", "dropped") == (3, 1, 2)
    # What comes later begins anew, it is not taken for the rest of the frame.
    source._words[1] = 0
    sink.room = 100
    assert flow.run() is Outcome.EMPTY
    assert len(sink.packets()) == 7 + 5 + 3 + 1
    assert numbers(flow, "received", "sent", "dropped") == (6, 4, 2)
    flow.close()


@pytest.mark.parametrize("split", [0, 25])
def test_packets_are_counted_not_rows(kernels, loop, split):
    bad = Packet(b"x" * 60, flags=CSUM_WANTED, offload=offload_word(500, 0, 0, 0))
    packets = [b"a" * 70, bad, tcp_request(4000, 500), b"b" * 70, bad]
    source, sink = MemorySource(Burst.of(packets, split=split)), MemorySink()
    for room in (1, 3, 2, 50):
        sink.room = room
        if room == 1:
            flow = Flow(loop, source.kernels, sink.kernels)
        flow.run()
    assert numbers(flow, "received", "sent", "malformed", "dropped") == (5, 3, 2, 0)
    assert len(sink.packets()) == 1 + 8 + 1
    flow.close()


def test_a_burst_has_the_rows_that_were_asked_for(kernels, loop):
    source, sink = MemorySource(Burst.of([b"x" * 60] * 100)), MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels, rows=32, budget=1)
    seen = []
    while flow.run() is Outcome.BUDGET:
        seen.append(sink.frames)
    assert seen == [32, 64, 96, 100]
    flow.close()
    with pytest.raises(ValueError, match="1 to 512"):
        Flow(loop, source.kernels, sink.kernels, rows=0)


def test_a_packet_of_more_rows_than_a_burst_comes_alone(kernels, loop):
    long, short = bytes(range(128)), b"y" * 3
    source = MemorySource(Burst.of([short, short, long, short, long, long], split=1))
    sink = MemorySink()
    flow = Flow(loop, source.kernels, sink.kernels, rows=4, budget=1)
    seen = [0]
    while flow.run() is Outcome.BUDGET:
        seen.append(sink.frames)
    assert [p.data for p in sink.packets()] == [short, short, long, short, long, long]
    assert seen == list(range(7))
    flow.close()


def test_the_second_look_for_a_long_packet_is_for_small_bursts_only(kernels, loop):
    for rows, looks in ((32, 2), (127, 2), (128, 1), (512, 1)):
        words = Words(8)
        words[1] = 1 << 30
        source = QueueKernels(words.address, peek_one, None, ring_release, None)
        flow = Flow(loop, source, MemorySink().kernels, rows=rows)
        flow.run()
        assert (words[0], words[1]) == (looks, rows)
        flow.close()


def eights(count):
    return [n.to_bytes(8, "little") for n in range(count)]


def test_a_fused_kernel_moves_what_it_can_and_the_universal_way_the_rest(kernels, loop):
    plain = eights(300)
    packets = [Packet(d, hash=n) for n, d in enumerate(plain)]
    for n in (17, 18, 200):  # flags that the fused kernel does not know
        packets[n] = Packet(plain[n], flags=FIRST | LAST | 1 << 6)
    ring, sink = Ring(packets), Tally()
    flow = Flow(loop, ring.kernels, sink.kernels, rows=32)
    assert flow.run() is Outcome.EMPTY
    oracle, without = Ring(plain), Tally()
    assert Flow(loop, attrs.evolve(oracle.kernels, forward={}), without.kernels).run() == 0
    assert sink.words[0] == without.words[0] != 0
    assert ring.words[1] == 300
    assert 0 < ring.words[3] < 300
    assert numbers(flow, "received", "sent", "rows") == (300, 300, 300)
    assert flow.compiled == (kernels == "compiled")
    flow.close()


@given(
    rooms=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    odd=st.sets(st.integers(0, 99)),
    drop=st.booleans(),
    rows=st.integers(1, 40),
    at_once=st.integers(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_fused_or_not_the_result_is_the_same(compiled_mode, rooms, odd, drop, rows, at_once):
    loop = Loop(spin=0)
    flags = FIRST | LAST
    packets = [Packet(d, flags=flags | (n in odd) << 6) for n, d in enumerate(eights(100))]
    try:
        results = []
        for fused in (True, False):
            ring, sink = Ring(packets, at_once), Tally()
            kernels = ring.kernels if fused else attrs.evolve(ring.kernels, forward={})
            flow = Flow(loop, kernels, sink.kernels, drop=drop, rows=rows)
            for room in itertools.cycle([*rooms, 1]):
                sink.words[1] = room
                if flow.run() is Outcome.EMPTY:
                    break
            assert numbers(flow, "received") == (100,)
            assert sum(numbers(flow, "sent", "dropped")) == 100
            results.append((sink.words[0], flow.stats()["sent"]))
            flow.close()
        assert results[0] == results[1]
    finally:
        loop.close()


def test_a_fused_kernel_keeps_to_the_budget(kernels, loop):
    ring, sink = Ring(eights(200)), Tally()
    flow = Flow(loop, ring.kernels, sink.kernels, rows=32, budget=64)
    assert flow.run() is Outcome.BUDGET
    assert ring.words[1] == 64
    flow.close()


def test_a_fused_kernel_rests_where_packets_are_edited_or_the_sink_is_of_another_kind(
    kernels, loop
):
    from emudev_net.packet_function import python_function

    for keys, kind in (({"edit": python_function(lambda d: d)}, "tally"), ({}, ""), ({}, "x")):
        ring, sink = Ring(eights(20)), Tally()
        ends = attrs.evolve(sink.kernels, kind=kind)
        flow = Flow(loop, ring.kernels, ends, **keys)
        assert flow.run() is Outcome.EMPTY
        assert ring.words[1] == 20
        assert ring.words[3] == 0
        flow.close()


@pytest.mark.parametrize("which", range(5))
def test_a_negative_answer_of_any_kernel_ends_the_flow(kernels, loop, which, caplog):
    frame = Burst.of([b"x" * 60])
    words = Words(8)
    words[0] = 1
    words[2] = 1
    words[which] = -7 - which
    source = QueueKernels(
        words.address,
        answer_peek,
        None,
        answer_release,
        None,
        forward={"answer": answer_forward},
    )
    sink = QueueKernels(words.address, None, answer_push, None, answer_notify, kind="answer")
    flow = Flow(loop, source, sink, budget=1)
    flow.words[flow_module.k.BURST] = frame.address
    assert flow.run() is Outcome.FAILED
    assert flow.failed == -7 - which
    assert f"answered {-7 - which}" in caplog.text
    passes = flow.stats()["passes"]
    caplog.clear()
    assert flow.run() is Outcome.FAILED
    assert flow.stats()["passes"] == passes  # it never runs again
    assert not caplog.records
    flow.close()


def test_a_push_that_fails_in_the_software_stage_ends_the_flow_too(kernels, loop):
    told = []
    words = Words(8)
    words[2] = -3
    source = MemorySource(Burst.of([tcp_request(3000, 1000)]))
    sink = QueueKernels(words.address, None, answer_push, None, None)
    flow = Flow(loop, source.kernels, sink, on_failed=lambda f, code: told.append(code))
    flow.kick()
    loop.turn(0.0)
    assert told == [-3]
    flow.kick()
    loop.turn(0.0)
    assert told == [-3]
    flow.close()
