"""Where a client puts things, and what is refused; numbers worked out from memif.md section 3."""

import fcntl
import os
import struct

import pytest

from emudev_memif.plain_peer import PlainClient
from emudev_memif.rings import RingPlace, RingSet, Role, create, layout
from emudev_net.burst import Burst


def test_rings_come_first_then_a_buffer_for_each_descriptor():
    made = layout(2, 1, log2_size=4, buffer_size=2048)
    assert made.c2s == (RingPlace(0, 0, 4), RingPlace(0, 384, 4))  # 128 + 16 * 16
    assert made.s2c == (RingPlace(0, 768, 4),)
    assert made.c2s_buffers == (1152, 1152 + 32768)  # 16 * 2048
    assert made.s2c_buffers == (1152 + 65536,)
    assert made.size == 102400  # 1152 + 98304 up to whole pages


def test_buffers_are_never_nearer_than_newer_dpdk_servers_write():
    assert layout(1, 1, buffer_size=512).stride == 2048
    assert layout(1, 1, buffer_size=2048).stride == 2048
    assert layout(1, 1, buffer_size=2049).stride == 2112
    assert layout(1, 1, buffer_size=65535).stride == 65536


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"log2_size": 0}, "1 to 14, not 0"),
        ({"log2_size": 15}, "1 to 14, not 15"),
        ({"buffer_size": 63}, "64 to 65535 bytes, not 63"),
        ({"buffer_size": 65536}, "64 to 65535 bytes, not 65536"),
        ({"c2s": 0}, "1 to 256 rings each way, not 0"),
        ({"c2s": 4, "log2_size": 14, "buffer_size": 65535}, "reach 4 GiB"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        layout(**{"c2s": 1, "s2c": 1, **keys})


def test_the_memory_is_as_a_server_expects_it():
    made = layout(1, 1, log2_size=1, buffer_size=512)
    memory = create(made)
    assert fcntl.fcntl(memory.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    assert os.fstat(memory.fd).st_size == made.size
    data = os.pread(memory.fd, made.size, 0)
    for place, buffers in ((made.c2s[0], made.c2s_buffers[0]), (made.s2c[0], made.s2c_buffers[0])):
        ring = data[place.offset : place.offset + place.bytes]
        assert ring[:8] == bytes.fromhex("201fe303 0000 0000")
        assert ring[8:128] == bytes(120)
        for i in range(2):
            descriptor = struct.unpack_from("<HHIII", ring, 128 + 16 * i)
            assert descriptor == (0, 0, 512, buffers + 2048 * i, 0)
    memory.close()
    memory.close()
    assert memory.fd == -1


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (RingPlace(4, 0, 4), "there are 4 regions"),
        (RingPlace(-1, 0, 4), "there are 4 regions"),
        (RingPlace(0, 8, 4), "multiple of 16"),
        (RingPlace(0, -16, 4), "beyond its region"),
        (RingPlace(0, 3728, 4), "384 bytes at 0xe90 goes beyond its region of 4096"),
        (RingPlace(0, 0xFFFF_FFF0, 4), "beyond its region"),
        (RingPlace(0, 0, 0), "1 to 14, not 0"),
        (RingPlace(0, 0, 15), "1 to 14, not 15"),
    ],
)
def test_a_ring_that_cannot_be_is_refused_and_nothing_changes(place, message):
    rings = RingSet(Role.SERVER, 1)
    peer = PlainClient(1)
    peer.c2s_places = [place]
    with pytest.raises(ValueError, match=message):
        peer.join(rings)
    assert not rings.attached
    assert not any(rings.connected(queue) for queue in range(2))
    peer.c2s_places = [RingPlace(0, 3712, 4)]  # the last that fits
    peer.join(rings)
    assert rings.attached
    rings.close()
    peer.close()


def test_attaching_twice_or_with_numbers_that_do_not_fit_is_refused():
    rings = RingSet(Role.SERVER, 1)
    peer = PlainClient(1)
    peer.join(rings)
    with pytest.raises(ValueError, match="attached already"):
        peer.join(rings)
    rings.detach()
    rings.detach()
    regions = [(r.address, r.size) for r in peer.regions]
    places = (peer.c2s_places, peer.s2c_places)
    with pytest.raises(ValueError, match="1 and 1 rings, 0 and 1 eventfds"):
        rings.attach(regions, *places, [], [-1])
    with pytest.raises(ValueError, match="at most 256 regions, not 257"):
        rings.attach(regions * 64 + regions[:1], *places, [-1], [-1])
    with pytest.raises(ValueError, match="a server without one"):
        rings.attach(regions, *places, [-1], [-1], layout(1, 1))
    client = RingSet(Role.CLIENT, 1)
    with pytest.raises(ValueError, match="a client attaches with its layout"):
        client.attach(regions, *places, [-1], [-1])
    client.close()
    rings.close()
    peer.close()


@pytest.mark.parametrize("pairs", [0, 257])
def test_the_number_of_pairs_has_limits(pairs):
    with pytest.raises(ValueError, match=f"1 to 256 queue pairs, not {pairs}"):
        RingSet(Role.SERVER, pairs)


@pytest.mark.parametrize("longest", [13, 65536])
def test_the_longest_frame_has_limits(longest):
    rings = RingSet(Role.SERVER, 1)
    with pytest.raises(ValueError, match=f"14 to 65535 bytes without FCS, not {longest}"):
        rings.set_max_frame(longest)
    rings.close()


def test_all_of_256_regions_are_reachable():
    rings = RingSet(Role.SERVER, 1)
    peer = PlainClient(1)
    regions = [(r.address, r.size) for r in peer.regions]
    places = (peer.c2s_places, peer.s2c_places)
    rings.attach([*regions, *[(0, 0)] * 251, regions[2]], *places, peer.c2s_fds, peer.s2c_fds)
    peer.send(0, [bytes(range(60))])
    ring = peer.c2s[0]
    ring[0] = ring[0]._replace(region=255)
    burst = Burst(8)
    kernels = rings.kernels(1)
    shown = kernels.peek(kernels.state, burst.address, 8)
    assert [p.data for p in burst.packets(shown)] == [bytes(range(60))]
    rings.close()
    peer.close()
