"""Peers that break the rules of memif.md section 8, data side. Memory ends at guard pages."""

import contextlib
import ctypes
import os
import random
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emudev_memif.plain_peer import Descriptor, Joined
from emudev_memif.rings import KERNELS, Role
from emudev_net.burst import Burst
from emudev_net.jit import compile_now, jit_wanted

SLOTS = 16
GOOD = bytes(range(60))


@pytest.fixture
def server(join_as):
    return join_as(Role.SERVER)


@pytest.fixture
def client(join_as):
    return join_as(Role.CLIENT)


def good(joined, slot=0):
    """A descriptor of a good packet in a slot's own buffer."""
    region, offset = joined.peer.place(0, slot)
    joined.peer.regions[region].write(offset, GOOD)
    return Descriptor(0, region, len(GOOD), offset)


def submit(joined, descriptors):
    """Publish descriptors on the C2S ring as they are."""
    ring = joined.peer.c2s[0]
    for i, descriptor in enumerate(descriptors):
        ring[ring.head + i] = descriptor
    ring.head += len(descriptors)


def fault(joined):
    """Whether the device was told."""
    with contextlib.suppress(BlockingIOError):
        return os.eventfd_read(joined.rings.fault_fd) > 0
    return False


# -- counters


@pytest.mark.parametrize("head", [SLOTS + 1, 1000, 32768, 65535])
def test_a_head_beyond_the_ring_stops_the_queue_and_tells_the_device(server, head):
    server.peer.c2s[0].head = head
    assert server.peek() == []
    assert fault(server)
    assert server.rings.broken == "queue 1: the peer's head is beyond the ring"
    server.peer.c2s[0].head = 1
    assert server.peek() == []
    assert not server.rings.connected(1)
    assert not fault(server)  # told once
    server.rings.detach()
    assert server.rings.broken is None
    server.join()
    submit(server, [good(server)])
    assert server.take() == [GOOD]


def test_a_head_beyond_the_ring_stops_the_other_queue_too(server):
    server.peer.s2c[0].head = SLOTS + 1
    assert server.push([GOOD, GOOD]) == 2
    assert fault(server)
    assert server.rings.broken == "queue 0: the peer's head is beyond the ring"
    assert server.drops(0) == {"link": 2}
    assert server.peer.s2c[0].tail == 0


def test_a_tail_beyond_what_was_offered_stops_a_client(client):
    client.peer.s2c[0].tail = SLOTS + 1
    assert client.peek() == []
    assert client.rings.broken == "queue 1: the peer's tail is beyond what it was offered"
    assert fault(client)


def test_a_tail_before_what_was_given_back_or_ahead_of_the_head_stops_a_client(client):
    client.push([GOOD])
    client.peer.c2s[0].tail = 2
    assert client.push([GOOD]) == 1
    assert client.rings.broken == "queue 0: the peer's tail is beyond what it was offered"
    assert client.drops(0) == {"link": 1}
    assert client.notify() == 0


def test_this_sides_counters_are_never_read_back(server, client):
    submit(server, [good(server)])
    server.peer.c2s[0].tail = 7
    assert server.take() == [GOOD]
    assert server.peer.c2s[0].tail == 1
    server.peer.s2c[0].tail = 9
    server.push([GOOD])
    assert server.peer.s2c[0].tail == 1
    client.peer.c2s[0].head = 9
    client.push([GOOD])
    assert client.peer.c2s[0].head == 1


# -- descriptors from a client


@pytest.mark.parametrize(
    ("region", "offset", "length", "reason"),
    [
        (4, 0, 60, "region"),  # regions 0 to 3 exist
        (255, 0, 60, "region"),
        (256, 0, 60, "region"),  # 0 in its low byte
        (0x102, 0, 60, "region"),
        (65535, 0, 60, "region"),
        (2, 0xFFFF_FFFF, 60, "bounds"),
        (2, 0xFFFF_FFFF, 0xFFFF_FFFF, "bounds"),
        (2, 0, 0xFFFF_FFFF, "bounds"),
        (2, 0xFFFF_FFC4, 60, "bounds"),  # the sum is 0 modulo 2**32
        (2, 0, 0, "length"),
        (2, 0, 13, "length"),
        (2, 0, 9729, "length"),
    ],
)
def test_a_bad_descriptor_costs_its_packet_and_its_slot_comes_back(
    server, region, offset, length, reason
):
    submit(server, [Descriptor(0, region, length, offset), good(server, 1)])
    assert server.peek() == [GOOD]
    assert server.drops(1) == {reason: 1}
    assert server.peer.c2s[0].tail == 1
    server.release()
    assert server.peer.room() == SLOTS
    assert server.rings.stats(1).packets == 1


def test_a_buffer_may_end_where_its_region_ends_and_not_one_byte_later(server):
    size = server.peer.regions[2].size
    submit(server, [Descriptor(0, 2, 60, size - 60), Descriptor(0, 2, 60, size - 59)])
    assert len(server.take()) == 1
    assert server.take() == []
    assert server.drops(1) == {"bounds": 1}


def test_the_shortest_and_the_longest_frame_are_taken(join_as):
    server = join_as(Role.SERVER, max_frame=1518)
    shapes = [(0, 2, 14, 0), (0, 2, 1518, 0), (0, 2, 1519, 0)]
    submit(server, [Descriptor(*shape) for shape in shapes])
    assert [len(frame) for frame in server.take()] == [14, 1518]
    assert server.take() == []
    assert server.drops(1) == {"length": 1}


def test_bad_packets_between_good_ones_are_counted_once_however_often_one_looks(server):
    bad = Descriptor(0, 99, 60, 0)
    submit(server, [good(server, 0), bad, good(server, 2), bad, bad, good(server, 5)])
    found = []
    for _ in range(6):
        server.peek()
        server.peek()
        found += server.take()
    assert found == [GOOD] * 3
    assert server.drops(1) == {"region": 3}
    assert server.peer.room() == SLOTS


def test_next_without_end_is_dropped_and_does_not_stall(server):
    first = good(server)
    submit(server, [first._replace(flags=1)] * SLOTS)
    assert server.peek() == []
    assert server.drops(1) == {"chain": 1}
    assert server.peer.room() == SLOTS
    submit(server, [good(server)])
    assert server.take() == [GOOD]


def test_next_on_the_last_published_slot_drops_that_packet_only(server):
    submit(server, [good(server, 0), good(server, 1)._replace(flags=1)])
    assert server.take() == [GOOD]
    assert server.take() == []
    assert server.drops(1) == {"chain": 1}
    # What comes now is a packet of its own, not the rest of that one.
    submit(server, [good(server, 2)])
    assert server.take() == [GOOD]


def test_a_chain_is_dropped_whole_for_one_bad_segment(server):
    for bad, reason in (
        (Descriptor(1, 77, 60, 0), "region"),
        (Descriptor(1, 2, 60, 0xFFFF_FF00), "bounds"),
        (Descriptor(1, 2, 0, 0), "length"),
    ):
        before = server.drops(1).get(reason, 0)
        more = good(server)._replace(flags=1)
        submit(server, [more, bad, good(server), good(server)])
        assert server.take() == [GOOD]
        assert server.drops(1)[reason] == before + 1
        assert server.peer.room() == SLOTS


def test_the_sum_of_a_chain_is_bounded_by_the_longest_frame(join_as):
    server = join_as(Role.SERVER, max_frame=1518)
    shapes = [(1, 2, 1000, 0), (0, 2, 518, 0), (1, 2, 1000, 0), (0, 2, 519, 0)]
    submit(server, [Descriptor(*shape) for shape in shapes])
    assert [len(frame) for frame in server.take()] == [1518]
    assert server.take() == []
    assert server.drops(1) == {"length": 1}
    huge = Descriptor(1, 2, 0xFFFF_FFFF, 0)
    submit(server, [huge] * 15 + [huge._replace(flags=0)])
    assert server.take() == []
    assert server.peer.room() == SLOTS


def test_a_chain_shorter_than_a_header_is_dropped(server):
    submit(server, [Descriptor(1, 2, 6, 0), Descriptor(0, 2, 7, 0)])
    assert server.take() == []
    assert server.drops(1) == {"length": 1}


def test_descriptors_that_change_after_the_look_change_nothing(server):
    submit(server, [good(server, 0), good(server, 1)])
    server.peek()
    for slot in range(2):
        server.peer.c2s[0][slot] = Descriptor(1, 9999, 0xFFFF_FFFF, 0xFFFF_FFFF)
    assert [p.data for p in server.burst.packets(server.rows)] == [GOOD, GOOD]
    server.release()
    assert (server.rings.stats(1).packets, server.rings.stats(1).bytes) == (2, 120)
    assert server.peer.c2s[0].tail == 2


# -- buffers that a client posts


@pytest.mark.parametrize(
    ("region", "offset", "length"),
    [
        (4, 0, 2048),
        (0x102, 0, 2048),
        (65535, 0, 2048),
        (3, 0xFFFF_FFFF, 2048),
        (3, 0, 0xFFFF_FFFF),
        (3, 0xFFFF_F800, 2048),
        (3, 0, 0),
    ],
)
def test_a_buffer_that_does_not_exist_costs_one_packet_and_comes_back_empty(
    server, region, offset, length
):
    before = server.sink[1]
    server.sink[1] = Descriptor(0, region, length, offset)
    other = bytes(range(1, 61))
    assert server.push([GOOD, other, GOOD]) == 3
    assert server.drops(0) == {"buffer": 1}
    assert server.sink[1] == Descriptor(0, region, 0, offset)
    server.sink[1] = before._replace(length=0)
    assert server.receive() == [GOOD, b"", GOOD]
    assert server.rings.stats(0).packets == 2


def test_a_bad_buffer_in_a_chain_gives_all_of_the_chain_back_empty(join_as):
    server = join_as(Role.SERVER, buffer_size=64)
    server.sink[2] = Descriptor(0, 99, 64, 0)
    assert server.push([bytes(300), GOOD]) == 2
    assert server.drops(0) == {"buffer": 1}
    assert [server.sink[i][:3:2] for i in range(4)] == [(0, 0), (0, 0), (0, 0), (0, 60)]
    assert server.sink.tail == 4


def test_a_buffer_that_ends_with_its_region_is_filled_and_one_beyond_is_not(server):
    size = server.peer.regions[3].size
    server.sink[0] = Descriptor(0, 3, 60, size - 60)
    server.sink[1] = Descriptor(0, 3, 61, size - 60)
    assert server.push([GOOD, GOOD]) == 2
    assert server.drops(0) == {"buffer": 1}
    assert server.peer.regions[3].read(size - 60, 60) == GOOD


def test_flags_of_posted_buffers_mean_nothing(server):
    server.sink[0] = server.sink[0]._replace(flags=0xFFFF)
    assert server.push([GOOD]) == 1
    assert server.receive() == [GOOD]
    assert server.sink[0].length == 2048  # offered again


def test_tiny_buffers_make_long_chains(join_as):
    server = join_as(Role.SERVER, log2_size=8)
    for slot in range(256):
        server.sink[slot] = server.sink[slot]._replace(length=1)
    assert server.push([bytes(range(200)), GOOD], split=70) == 3
    assert server.peer.receive() == [bytes(range(200))]
    assert server.rings.held(0)


# -- a server that misuses a client's memory


def test_a_length_beyond_what_was_offered_costs_the_packet(client):
    ring = client.peer.s2c[0]
    client.peer.send(0, [GOOD, GOOD, GOOD])
    ring[0] = ring[0]._replace(length=2049)
    ring[1] = ring[1]._replace(length=0xFFFF_FFFF)
    assert client.take() == [GOOD]
    assert client.drops(1) == {"bounds": 2}
    assert client.peer.room() == SLOTS
    assert {ring[i].length for i in range(SLOTS)} == {2048}


def test_a_server_that_moves_buffers_moves_nothing(client):
    ring = client.peer.s2c[0]
    client.peer.send(0, [GOOD])
    ring[0] = Descriptor(0, 0xFFFF, 60, 0xFFFF_FFFF)
    assert client.take() == [GOOD]


def test_chains_of_a_server_are_checked_as_those_of_a_client(client):
    ring = client.peer.s2c[0]
    client.peer.send(0, [GOOD, GOOD, GOOD, GOOD])
    ring[1] = ring[1]._replace(flags=1, length=0)
    ring[3] = ring[3]._replace(flags=1)
    assert client.take() == [GOOD]
    assert client.take() == []
    assert client.drops(1) == {"length": 1, "chain": 1}
    assert client.peer.room() == SLOTS


# -- anything


descriptors = st.builds(
    Descriptor,
    st.sampled_from([0, 0, 0, 1, 1, 2, 0xFFFF]),
    st.sampled_from([0, 1, 2, 2, 3, 3, 4, 255, 256, 0xFFFF]),
    st.sampled_from([0, 1, 13, 14, 60, 1518, 2048, 4096, 0x8000_0000, 0xFFFF_FFFF]),
    st.sampled_from([0, 64, 4000, 0x7FFF, 0x8000, 0x8800, 0xFFFF_F800, 0xFFFF_FFFF]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    c2s=st.lists(descriptors, min_size=SLOTS, max_size=SLOTS),
    s2c=st.lists(descriptors, min_size=SLOTS, max_size=SLOTS),
    heads=st.lists(st.integers(0, SLOTS + 1), min_size=1, max_size=4),
    sizes=st.lists(st.sampled_from([0, 1, 60, 1500, 5000]), min_size=1, max_size=20),
)
def test_no_descriptor_makes_a_kernel_leave_the_regions(join_as, c2s, s2c, heads, sizes):
    joined = join_as(Role.SERVER)
    ranges = [(r.address, r.address + r.size) for r in joined.peer.regions]
    for i in range(SLOTS):
        joined.peer.c2s[0][i] = c2s[i]
    packets = Burst.of([bytes(size) for size in sizes], split=700)
    for head in heads:
        joined.peer.c2s[0].head += head
        for i in range(SLOTS):
            joined.peer.s2c[0][i] = s2c[i]
        joined.peer.s2c[0].head += head
        joined.peek(20)
        for i in range(joined.rows):
            address, length = joined.burst.words.view[8 * i : 8 * i + 2]
            assert any(a <= address and address + length <= b for a, b in ranges)
        joined.release()
        assert 0 <= joined.push(packets) <= packets.count
        # Buffers lie over the rings, too: what was written there is not this side's business, but
        # its own counters are told anew with each publication.
    joined.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    s2c=st.lists(descriptors, min_size=SLOTS, max_size=SLOTS),
    steps=st.lists(st.integers(0, SLOTS + 1), min_size=1, max_size=6),
)
def test_no_server_makes_a_client_leave_its_buffers(join_as, s2c, steps):
    joined = join_as(Role.CLIENT)
    memory = joined.peer.memory
    first = memory.address + memory.layout.s2c_buffers[0]
    for step in steps:
        for i in range(SLOTS):
            joined.sink[i] = joined.source[i] = s2c[i]
        joined.source.tail += step
        joined.sink.tail += step % 2
        joined.peek(20)
        for i in range(joined.rows):
            address, length = joined.burst.words.view[8 * i : 8 * i + 2]
            slot, start = divmod(address - first, memory.layout.stride)
            assert 0 <= slot < SLOTS
            assert start == 0
            assert 0 < length <= 2048
        joined.release()
        joined.push([GOOD])
        if joined.rings.connected(1):
            assert joined.peer.room() <= SLOTS
    joined.close()


@pytest.mark.skipif(not jit_wanted(), reason="kernels are not compiled here")
def test_a_client_that_changes_descriptors_under_the_kernels_gains_nothing():
    compile_now(KERNELS)
    joined = Joined(Role.SERVER)
    ranges = [(r.address, r.address + r.size) for r in joined.peer.regions]
    stop = threading.Event()
    choice = random.Random(4)
    good_one, posted = good(joined), joined.sink[0]

    def meddle():
        words = [
            ctypes.c_uint64.from_address(ring.address + 128 + 8 * i)
            for ring in (joined.peer.c2s[0], joined.peer.s2c[0])
            for i in range(2 * SLOTS)
        ]
        values = [w.value for w in words]
        evil = [0, 1, 0xFFFF_FFFF_0002_0001, 0xFFFF_FFFF_0002_0000, 0x3C_0000_0000, 0x8800, 1 << 63]
        while not stop.is_set():
            i = choice.randrange(len(words))
            words[i].value = choice.choice([values[i], *evil])

    for i in range(SLOTS):
        joined.peer.c2s[0][i] = good_one
        joined.sink[i] = posted
    thread = threading.Thread(target=meddle)
    thread.start()
    packets = Burst.of([GOOD, bytes(3000)])
    end = time.monotonic() + 0.3
    try:
        while time.monotonic() < end and joined.rings.broken is None:
            joined.peer.c2s[0].head = joined.peer.c2s[0].tail + SLOTS
            joined.sink.head = joined.sink.tail + SLOTS
            kernels = joined.rings.kernels(1)
            rows = kernels.peek(kernels.state, joined.burst.address, 64)
            for i in range(rows):
                address, length = joined.burst.words.view[8 * i : 8 * i + 2]
                assert any(a <= address and address + length <= b for a, b in ranges)
            joined.release(rows)
            joined.push(packets)
    finally:
        stop.set()
        thread.join()
        joined.close()
