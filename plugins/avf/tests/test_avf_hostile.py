"""A guest that means harm: whatever is in the rings, nothing outside its memory is touched.

The guest's memory ends at pages that can't be touched, so that a stray access ends the test run.
"""

import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emudev_avf.testing import Guarded
from emudev_net.burst import Burst

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BASE = 0x1_0000_0000
SIZE = 1 << 16

near = st.one_of(
    st.integers(BASE - 64, BASE + 64),
    st.integers(BASE + SIZE - 64, BASE + SIZE + 64),
    st.integers(BASE, BASE + SIZE),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]),
)


@st.composite
def data_qword1(draw):
    """Mostly well-formed data descriptors, so that all of the kernel is reached."""
    command = draw(st.sampled_from([1, 3, 5, 7, 0xF, 0x65, 0x127, 0x147, 0x167, 0x247, 0x367, 4]))
    offset = draw(st.one_of(st.sampled_from([0, 0x20287, 0x20507]), st.integers(0, (1 << 18) - 1)))
    size = draw(st.one_of(st.integers(1, 200), st.integers(0, 16383)))
    return command << 4 | offset << 16 | size << 34


@st.composite
def context_qword1(draw):
    command = draw(st.integers(0, 7))
    length = draw(st.integers(0, 3000))
    return 1 | command << 4 | length << 30 | draw(st.integers(0, 2000)) << 50


anything = st.integers(0, (1 << 64) - 1)
descriptor = st.tuples(near, st.one_of(data_qword1(), data_qword1(), context_qword1(), anything))


@SETTINGS
@given(
    ring=st.lists(descriptor, min_size=32, max_size=32),
    tails=st.lists(st.one_of(st.integers(0, 31), st.integers(0, (1 << 32) - 1)), max_size=6),
    filler=st.binary(min_size=64, max_size=64),
)
def test_any_transmit_ring_is_survived_and_accounted_for(guests, ring, tails, filler):
    guest = guests(length=32, size=SIZE)
    guest.memory.write(BASE + 8192, filler * ((SIZE - 8192) // 64))
    base = guest.port.tx[0].base
    guest.memory.write(base, b"".join(struct.pack("<QQ", *d) for d in ring))
    before = guest.memory.read(BASE, SIZE)
    packets = 0
    for tail in tails:
        guest.port.tx[0].doorbell.write(tail)
        shown = guest.peek()
        packets += len(shown)
        assert all(17 <= len(p.data) <= 1 << 17 for p in shown)
        guest.release()
    after = guest.memory.read(BASE, SIZE)
    # Only qword 1 of descriptors that were data with RS (or of no known type) was written, as 0xF.
    for i, (qword0, qword1) in enumerate(ring):
        found = struct.unpack("<QQ", after[base - BASE + 16 * i : base - BASE + 16 * i + 16])
        assert found in ((qword0, qword1), (qword0, 0xF))
        if found[1] != qword1:
            assert qword1 & 0x20
            assert qword1 & 0xF != 1
    start, end = base - BASE, base - BASE + 512
    assert after[:start] + after[end:] == before[:start] + before[end:]
    assert guest.port.stats().tx_errors == sum(
        n for reason, n in guest.port.tx[0].drops.items() if reason not in ("tail", "dummy")
    )
    guest.close()


@SETTINGS
@given(
    addresses=st.lists(near, min_size=32, max_size=32),
    tail=st.one_of(st.integers(0, 31), st.integers(0, (1 << 32) - 1)),
    sizes=st.lists(st.integers(0, 6000), min_size=1, max_size=20),
    split=st.sampled_from([0, 50, 1000]),
    buffer_size=st.sampled_from([1, 128, 1024, 16256]),
)
def test_any_receive_ring_is_survived_and_accounted_for(
    guests, addresses, tail, sizes, split, buffer_size
):
    guest = guests(length=32, size=SIZE, buffer_size=buffer_size)
    guest.add(Guarded(0x4000, 4096, writable=False))
    ring = guest.port.rx[0]
    guest.memory.write(ring.base, b"".join(struct.pack("<QQQQ", a, 0, 0, 0) for a in addresses))
    ring.doorbell.write(tail)
    burst = Burst.of([bytes(n) for n in sizes], split, rows=256)
    taken = guest.push(burst)
    assert 0 <= taken <= burst.count
    stats = guest.port.stats()
    frames = len(burst.packets(taken))
    assert stats.rx_unicast + ring.stats().dropped.get("source", 0) == frames
    assert stats.rx_discards <= stats.rx_unicast
    guest.close()


@SETTINGS
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 700), anything, anything, anything), min_size=1, max_size=20
    ),
    content=st.binary(max_size=700),
)
def test_any_metadata_of_a_burst_is_survived(guests, rows, content):
    guest = guests(length=64, size=1 << 17)
    guest.post(30)
    source = Guarded(0, 4096)
    source.write(0, content)
    burst = Burst(len(rows))
    for i, (size, flags, offload, vlan) in enumerate(rows):
        values = (source.host + 4096 - size, size, flags, offload, vlan)
        for word, value in enumerate(values):
            burst.words[8 * i + word] = value - (1 << 64) if value >> 63 else value
    burst.count = len(rows)
    assert 0 <= guest.push(burst) <= len(rows)
    guest.close()
