"""Fused kernels against peek, push and release: the same bytes, descriptors and counters."""

import ctypes
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emudev_core.loop import Loop
from emudev_memif.plain_peer import Descriptor, Joined
from emudev_memif.rings import KERNELS, Role
from emudev_memif.words import QUEUE_WORDS
from emudev_net import flow
from emudev_net.jit import compile_now

SLOTS = 8
BUFFER = 256
LONGEST = 1000


class Way:
    """Two interfaces with their peers, and a way from the first to the second."""

    def __init__(self, roles, fused):
        self.ends = [
            Joined(role, log2_size=3, buffer_size=BUFFER, max_frame=longest)
            for role, longest in zip(roles, (LONGEST, 600), strict=True)
        ]
        self.source, self.sink = self.ends
        self.from_, self.to = self.source.rings.kernels(1), self.sink.rings.kernels(0)
        self.fused = fused
        self.short = 0  # packets that went the short way

    def universal(self):
        """One turn; whether there may be more."""
        burst = self.source.burst
        rows = self.from_.peek(self.from_.state, burst.address, 64)
        if rows == 0:
            return False
        taken = self.to.push(self.to.state, burst.address, rows)
        self.from_.release(self.from_.state, burst.address, taken)
        return taken == rows

    def run(self):
        more = True
        while more:
            if self.fused:
                kernel = self.from_.forward[self.to.kind]
                while moved := kernel(self.from_.state, self.to.state, 3):
                    assert moved <= 3
                    self.short += moved
            more = self.universal()
        self.to.notify(self.to.state, 0, 0)

    def spoil(self, which, slot, change):
        """Have a peer write nonsense where it may matter."""
        ring, role = self.source.source, self.source.rings.role
        if which == "sink":
            ring, role = self.sink.sink, self.sink.rings.role
            if role is Role.CLIENT:  # its buffers are its own
                return
        elif role is Role.CLIENT:  # only what was published: the plain server believes the rest
            sent = (ring.tail - ring.head) % 65536 % SLOTS
            if sent == 0:
                return
            slot = ring.head + slot % sent
        ring[slot] = Descriptor(**{**ring[slot]._asdict(), **change})

    def picture(self):
        """All that a peer, a user or a later kernel could see."""
        seen = []
        for end in self.ends:
            for queue in (0, 1):
                seen.append(end.rings.stats(queue))
                words = (ctypes.c_int64 * QUEUE_WORDS).from_address(end.rings.state(queue))
                # Addresses and eventfds differ, and so do leftovers of walks.
                seen.append([words[i] for i in (0, 2, 7, 8, 16, 17, 18, 19, 20, 21)])
            seen.append(end.rings.broken)
            if end.rings.role is Role.SERVER:
                seen += [region.read(0, region.size) for region in end.peer.regions]
            else:
                memory = end.peer.memory
                seen.append(ctypes.string_at(memory.address, memory.size))
        return seen

    def close(self):
        for end in self.ends:
            end.close()


@pytest.fixture(
    params=[(a, b) for a in Role for b in Role], ids=lambda p: f"{p[0].value}-{p[1].value}"
)
def roles(request, compiled_or_plain):
    compiled_or_plain(*KERNELS)
    return request.param


def frame(number, size):
    return bytes((number * 7 + i) % 256 for i in range(size))


def test_usual_packets_go_the_short_way(roles):
    way = Way(roles, True)
    sent = [frame(i, 60 + i) for i in range(6)]
    way.source.peer.send(0, sent)
    way.run()
    assert way.sink.receive() == sent
    assert way.short == 6
    assert way.source.rings.stats(1).packets == way.sink.rings.stats(0).packets == 6
    way.close()


def test_the_short_way_stops_in_front_of_a_chain_and_goes_on_behind_it(roles):
    way = Way(roles, True)
    sent = [frame(1, 60), frame(2, 500), frame(3, 60)]
    way.source.peer.send(0, sent)
    kernel = way.from_.forward[way.to.kind]
    assert kernel(way.from_.state, way.to.state, 64) == 1
    assert kernel(way.from_.state, way.to.state, 64) == 0
    way.run()
    assert way.sink.receive() == sent
    way.close()


def test_the_short_way_does_nothing_without_a_peer_at_either_end(roles):
    for gone in range(2):
        way = Way(roles, True)
        way.source.peer.send(0, [frame(1, 60)])
        way.ends[gone].rings.detach()
        kernel = way.from_.forward[way.to.kind]
        assert kernel(way.from_.state, way.to.state, 64) == 0
        way.close()


def test_rows_that_were_peeked_before_complete_nothing_after_the_short_way(roles):
    way = Way(roles, True)
    way.source.peer.send(0, [frame(1, 60), frame(2, 60)])
    way.source.peek()
    kernel = way.from_.forward[way.to.kind]
    assert kernel(way.from_.state, way.to.state, 1) == 1
    way.source.release()
    assert way.source.rings.stats(1).packets == 1
    assert way.source.peek() == [frame(2, 60)]
    way.close()


def test_a_flow_takes_the_short_way_for_what_is_usual_and_the_long_one_for_the_rest(roles, jit):
    if jit == "compiled":
        compile_now(flow.KERNELS)
    way = Way(roles, True)
    loop = Loop(spin=0)
    moving = flow.Flow(loop, way.from_, way.to, rows=4)
    sent = [frame(1, 60), frame(2, 500), frame(3, 60), frame(4, 13), frame(5, 256)]
    way.sink.sink.flags = 0
    way.source.peer.send(0, sent)
    assert moving.run() is flow.Outcome.EMPTY
    assert way.sink.receive() == [f for f in sent if len(f) > 13]
    assert way.source.rings.stats(1).packets == way.sink.rings.stats(0).packets == 4
    assert os.eventfd_read(way.sink.sink_fd) == 1
    moving.close()
    loop.close()
    way.close()


sends = st.lists(
    st.tuples(
        st.sampled_from([1, 13, 14, 60, 256, 257, 601, 1000, 1001]), st.sampled_from([0, 90])
    ),
    max_size=6,
)
spoils = st.lists(
    st.tuples(
        st.sampled_from(["source", "sink"]),
        st.integers(0, SLOTS - 1),
        st.sampled_from(
            [
                {"region": 9},
                {"region": 256},
                {"length": 0},
                {"length": 0xFFFF_FFFF},
                {"length": 40},
                {"flags": 1},
                {"flags": 0xFFFE},
                {"offset": 0xFFFF_FF00},
            ]
        ),
    ),
    max_size=3,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=st.lists(st.tuples(sends, spoils, st.booleans(), st.booleans()), max_size=8))
def test_the_short_way_leads_where_the_long_way_leads(roles, plan):
    ways = [Way(roles, fused) for fused in (False, True)]
    numbers = 0
    for frames, spoiled, received, wanted in plan:
        for way in ways:
            for i, (size, split) in enumerate(frames):
                way.source.peer.send(0, [frame(numbers + i, size)], split)
            for which, slot, change in spoiled:
                way.spoil(which, slot, change)
            way.sink.sink.flags = int(not wanted)
            way.run()
        numbers += len(frames)
        assert ways[0].picture() == ways[1].picture()
        if received:
            for way in ways:
                ring = way.sink.sink
                if way.sink.rings.role is Role.SERVER:
                    way.sink.peer.s2c_cursors[0] = ring.tail
                    way.sink.peer.offer(0)
                else:
                    way.sink.peer.c2s_cursors[0] = ring.tail = ring.head
            assert ways[0].picture() == ways[1].picture()
    for way in ways:
        way.close()
