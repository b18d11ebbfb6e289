"""Any sequence of steps against a model of what memif.md says, and counters that wrap."""

import ctypes
import itertools

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emudev_memif.plain_peer import Joined, PlainRing
from emudev_memif.rings import KERNELS, RingSet, Role, create, layout
from emudev_net.burst import Burst
from emudev_net.jit import compile_now, jit_wanted

SLOTS = 8
BUFFER = 256
LONGEST = 1000
PIECE = 100  # bytes of a piece of a peer that chains early


def pieces(frame, size):
    return -(-len(frame) // size)


@attrs.define
class Model:
    """What must come of it. A frame is known by its number, a packet by frame and pieces."""

    role: Role
    waiting: list = attrs.field(factory=list)  # sent by the peer, not released: frame, piece size
    arrived: list = attrs.field(factory=list)  # pushed, not yet received by the peer: frame, slots
    free: int = SLOTS  # slots that a push may use
    done: dict = attrs.field(factory=lambda: {"in": [0, 0], "out": [0, 0]})
    dropped: dict = attrs.field(factory=lambda: {"in": {}, "out": {}})

    def drop(self, way, reason):
        self.dropped[way][reason] = self.dropped[way].get(reason, 0) + 1

    def refused(self, frame, piece, room):
        """Why a packet is not shown, or None: what its pieces show first."""
        for i in range(pieces(frame, piece)):
            if (i + 1) * piece > LONGEST and len(frame) > LONGEST:
                return "length"
            if i == room:
                return "segments"
        return "length" if len(frame) < 14 else None

    def shown(self, capacity):
        """The packets that a peek shows."""
        found, rows = [], 0
        while len(found) < len(self.waiting) and rows < capacity:
            frame, piece = self.waiting[len(found)]
            reason = self.refused(frame, piece, capacity - rows)
            if reason is None:
                found.append((frame, piece))
                rows += pieces(frame, piece)
            elif found:
                break
            else:
                self.drop("in", reason)
                self.waiting.pop(0)
        return found

    def release(self, packets):
        for frame, _ in packets:
            assert self.waiting.pop(0)[0] == frame
            self.done["in"][0] += 1
            self.done["in"][1] += len(frame)

    def push(self, frames):
        """How many packets a push takes."""
        for taken, frame in enumerate(frames):
            if self.free == 0:
                return taken
            slots = pieces(frame, BUFFER)
            if len(frame) in (0, *range(LONGEST + 1, LONGEST + 1000)):
                self.drop("out", "length")
            elif slots > self.free:
                return taken
            else:
                self.free -= slots
                self.arrived.append((frame, slots))
                self.done["out"][0] += 1
                self.done["out"][1] += len(frame)
        return len(frames)


@pytest.fixture(params=[Role.SERVER, Role.CLIENT], ids=lambda role: role.value)
def role(request, compiled_or_plain):
    compiled_or_plain(*KERNELS)
    return request.param


sizes = st.lists(
    st.sampled_from([1, 13, 14, 60, 256, 257, 700, LONGEST, LONGEST + 1]), min_size=1, max_size=5
)
steps = st.one_of(
    st.tuples(st.just("send"), sizes, st.sampled_from([0, PIECE])),
    st.tuples(st.just("take"), st.integers(1, 12), st.integers(0, 12)),
    st.tuples(st.just("push"), sizes, st.sampled_from([0, 90])),
    st.tuples(st.just("receive"), st.just(0), st.just(0)),
)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=st.lists(steps, max_size=40))
def test_any_steps_lead_where_the_model_leads(role, plan):
    joined = Joined(role, log2_size=3, buffer_size=BUFFER, max_frame=LONGEST)
    model = Model(role)
    numbers = itertools.count(1)

    def make(size):
        return bytes([next(numbers) % 255 + 1]) * size

    for what, first, second in plan:
        if what == "send":
            for frame in map(make, first):
                if joined.peer.send(0, [frame], second):
                    model.waiting.append((frame, second or BUFFER))
        elif what == "take":
            found = model.shown(first)
            assert joined.peek(first) == [frame for frame, _ in found]
            part = found[:second]
            joined.release(sum(itertools.starmap(pieces, part)))
            model.release(part)
        elif what == "push":
            frames = [make(size) for size in first] + [b""]
            burst = Burst.of(frames, second)
            taken = model.push(frames)
            rows = [row for row in range(burst.count) if burst.words[8 * row + 2] & 1]
            assert joined.push(burst) == [*rows, burst.count][taken]
            assert joined.rings.held(0) == (taken < len(frames))
        else:
            assert joined.receive() == [frame for frame, _ in model.arrived]
            model.free += sum(slots for _, slots in model.arrived)
            model.arrived.clear()
        assert joined.peer.room() == SLOTS - sum(itertools.starmap(pieces, model.waiting))
        for queue, way in ((1, "in"), (0, "out")):
            stats = joined.rings.stats(queue)
            assert [stats.packets, stats.bytes] == model.done[way]
            assert {k: v for k, v in stats.dropped.items() if v} == model.dropped[way]
    assert joined.rings.broken is None
    joined.close()


@pytest.mark.skipif(not jit_wanted(), reason="65530 packets take too long where nothing compiles")
@pytest.mark.parametrize("log2_size", [1, 10, 14])
@pytest.mark.parametrize("sender", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize("fused", [False, True], ids=["burst", "fused"])
def test_counters_wrap(sender, log2_size, fused):
    compile_now(KERNELS)
    place = layout(1, 1, log2_size)
    memory = create(place)
    ends = {role: RingSet(role, 1) for role in Role}
    onward = Joined(Role.SERVER, log2_size=6)
    ends[Role.SERVER].attach(memory.regions, place.c2s, place.s2c, [-1], [-1])
    ends[Role.CLIENT].attach(memory.regions, place.c2s, place.s2c, [-1], [-1], place)
    receiver = Role.CLIENT if sender is Role.SERVER else Role.SERVER
    push, source = ends[sender].kernels(0), ends[receiver].kernels(1)
    ring = PlainRing(
        memory.address + (place.s2c if sender is Role.SERVER else place.c2s)[0].offset, log2_size
    )
    shown = Burst(256)
    source.peek(source.state, shown.address, 256)  # a client offers its buffers

    def cross(packets):
        """Packets pushed at one end and taken at the other."""
        burst = Burst.of(packets)
        at = 0
        found = []
        while at < burst.count:
            at += push.push(push.state, burst.address + 64 * at, burst.count - at)
            sink = onward.rings.kernels(0)
            if fused:
                assert source.forward[sink.kind](source.state, sink.state, 256) > 0
                found += onward.receive()
            else:
                rows = source.peek(source.state, shown.address, 256)
                found += [p.data for p in shown.packets(rows)]
                source.release(source.state, shown.address, rows)
        return found

    step = [bytes([i]) * 20 for i in range(min(64, 1 << log2_size))]
    offered = ctypes.string_at(onward.sink.address + 128, 16 * onward.sink.size)
    left = 65530
    while left:
        burst = step[: min(len(step), left)]
        cross_quickly(push, source, burst, shown, onward if fused else None, offered)
        left -= len(burst)
    assert ring.tail == 65530 if sender is Role.SERVER else ring.head == 65530
    for turn in range(5):
        sent = [bytes([turn, i]) * 10 for i in range(7)]
        assert cross(sent) == sent
    counter = ring.tail if sender is Role.SERVER else ring.head
    assert counter == (65530 + 35) % 65536
    stats = ends[receiver].stats(1)
    assert stats.packets == 65565
    assert stats.bytes == 65565 * 20
    assert stats == attrs.evolve(ends[sender].stats(0), dropped=stats.dropped)
    assert ends[sender].broken is None
    assert ends[receiver].broken is None
    for rings in ends.values():
        rings.close()
    onward.close()
    memory.close()


_bursts = {}


def cross_quickly(push, source, packets, shown, onward, offered):
    """Push packets and take them, without looking at them."""
    burst = _bursts.setdefault(len(packets), Burst.of(packets))
    assert push.push(push.state, burst.address, burst.count) == burst.count
    if onward is None:
        rows = source.peek(source.state, shown.address, 256)
        assert rows == burst.count
        source.release(source.state, shown.address, rows)
    else:
        sink = onward.rings.kernels(0)
        assert source.forward[sink.kind](source.state, sink.state, 256) == burst.count
        onward.sink.head = onward.sink.tail + onward.sink.size
        onward.peer.s2c_cursors[0] = onward.sink.tail
        ctypes.memmove(onward.sink.address + 128, offered, len(offered))
