"""Receive rings: frames become buffers and write-backs; expectations: avf.md 6.6 to 7."""

import struct

import pytest

from emudev_avf.rings import Hold
from emudev_avf.testing import Guarded
from emudev_avf.testing.frames import (
    ether,
    ipv4,
    ipv6,
    tcp4,
    udp4,
)

# Bits of qword 1, by number as in avf.md 6.7.
DD, EOF, RXE = (1 << n for n in (0, 1, 19))
# avf.md 7
KEY = (
    bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
    + bytes(12)
)  # fmt: skip
LINUX_HENA = 0x80007A1E_80000000
ALL_QUEUE_0 = bytes(64)


def test_a_frame_is_written_before_its_descriptor_says_so(guest):
    guest.post(8)
    frame = ether(bytes(range(200)) + bytes(100), 0x88B5)
    assert guest.deliver(frame) == 1
    ((data, (done,)),) = guest.received()
    assert data == frame
    # PBUF 314, PTYPE 1 (L2 payload), DD and EOF; unicast; nothing checked.
    assert done.qword1 == 314 << 38 | 1 << 30 | 0x3
    assert (done.hash, done.l2tag1, done.ext_status, done.flex, done.fd_id) == (0, 0, 0, 0, 0)
    assert guest.signals(1) == 1
    assert guest.port.stats()[:5] == (314, 1, 0, 0, 0)


def test_one_interrupt_for_a_batch(guest):
    guest.post(20)
    assert guest.deliver(*[ether(bytes(100))] * 10) == 10
    assert len(guest.received()) == 10
    assert guest.signals(1) == 1
    assert guest.deliver(ether(bytes(100))) == 1
    assert guest.signals(1) == 0  # latched until the guest enables again
    guest.port.vectors[1].control(1)
    assert guest.signals(1) == 1


def test_short_frames_are_padded_to_60(guest):
    guest.post(2)
    guest.deliver(ether(b"abc", 0x88B5))
    assert guest.received()[0][0] == ether(b"abc", 0x88B5) + bytes(43)


@pytest.mark.parametrize("split", [0, 1, 7, 100, 1000])
@pytest.mark.parametrize(
    ("size", "buffers"),
    [
        (60, 1),
        (1023, 1),
        (1024, 1),
        (1025, 2),
        (2048, 2),
        (2049, 3),
        (4096, 4),
        (5119, 5),
        (5120, 5),
    ],
)
def test_exact_multiples_of_the_buffer_size_have_no_empty_tail(guests, size, buffers, split):
    split *= 1 + size // 120  # a frame has at most 128 pieces
    guest = guests(buffer_size=1024)
    guest.post(8)
    frame = ether(bytes(i * 7 & 0xFF for i in range(size - 14)), 0x88B5)
    assert guest.deliver(frame, split=split) == max(1, -(-size // (split or size)))
    ((data, done),) = guest.received()
    assert data == frame
    assert [d.length for d in done] == [1024] * (buffers - 1) + [size - 1024 * (buffers - 1)]
    assert [d.qword1 & 3 for d in done] == [1] * (buffers - 1) + [3]
    assert {d.ptype for d in done} == {1}


def test_six_buffers_are_too_many(guests):
    guest = guests(buffer_size=1024)
    guest.post(8)
    assert guest.deliver(ether(bytes(5107), 0x88B5)) == 1
    assert guest.received() == []
    assert guest.port.rx[0].drops["length"] == 1
    assert guest.port.stats().rx_discards == 1
    assert guest.port.rx[0].head == 0


def test_longer_than_max_pkt_size_is_dropped(guests):
    guest = guests(max_packet=1518)
    guest.post(4)
    guest.deliver(ether(bytes(1504)), ether(bytes(1505)))
    assert [len(d) for d, _ in guest.received()] == [1518]
    assert guest.port.rx[0].drops["length"] == 1


def test_frames_wrap_around_the_ring(guests):
    guest = guests(length=32, buffer_size=128)
    pool = [guest.take(128) for _ in range(3)]
    for i in range(40):
        guest.post(3, addresses=pool)
        frame = ether(bytes([i]) * 300, 0x88B5)
        assert guest.deliver(frame) == 1
        assert guest.received()[0][0] == frame
    assert guest.port.rx[0].head == 120 % 32


def test_too_few_descriptors_hold_the_frame_in_a_port_of_one_queue(guests):
    guest = guests(buffer_size=1024)
    guest.post(2)
    frames = [ether(bytes(100), 0x88B5), ether(bytes(1500), 0x88B5)]
    assert guest.deliver(*frames) == 1
    assert guest.port.hold is Hold.FULL
    assert len(guest.received()) == 1
    guest.post(1)
    assert guest.deliver(frames[1]) == 1
    assert guest.port.hold is Hold.NONE
    assert guest.received()[0][0] == frames[1]
    assert guest.port.stats().rx_discards == 0


def test_too_few_descriptors_drop_the_frame_in_a_port_of_several_queues(guests):
    guest = guests(2)
    assert guest.deliver(ether(bytes(100))) == 1
    assert guest.port.rx[0].drops["full"] == 1
    assert guest.port.stats().rx_discards == 1
    # DPDK takes the discarded ones from the sum of the received ones.
    assert guest.port.stats().rx_unicast == 1


def test_nothing_is_taken_while_no_queue_is_enabled(guest):
    guest.post(4)
    guest.port.rx[0].disable()
    before = guest.memory.read(guest.memory.guest, guest.memory.size)
    assert guest.deliver(ether(bytes(100))) == 0
    assert guest.port.hold is Hold.DISABLED
    assert guest.memory.read(guest.memory.guest, guest.memory.size) == before


def test_the_tail_may_be_written_before_the_queue_is_configured_and_enabled(guest):
    # avf.md 0, fact 5.
    base = guest.port.rx[0].base
    guest.port.rx[0].disable()
    guest.post(4)
    guest.port.rx[0].configure(base, 64, 2048, 9728)
    guest.port.rx[0].enable()
    assert guest.deliver(ether(bytes(100))) == 1
    assert len(guest.received()) == 1


def test_nothing_is_written_after_a_reset(guest):
    guest.post(4)
    guest.port.reset()
    before = guest.memory.read(guest.memory.guest, guest.memory.size)
    assert guest.deliver(ether(bytes(100))) == 0
    assert guest.memory.read(guest.memory.guest, guest.memory.size) == before


@pytest.mark.parametrize("tail", [64, 0xFFFF_FFFF])
def test_a_tail_beyond_the_ring_stops_the_queue(guest, tail):
    guest.port.rx[0].doorbell.write(tail)
    assert guest.deliver(ether(bytes(100))) == 1
    assert guest.port.rx[0].stopped
    assert guest.port.rx[0].drops["tail"] == 1


def test_an_unmapped_buffer_is_given_back_with_an_error(guest):
    good = guest.take(2048)
    guest.post(3, addresses=[0xDEAD_0000_0000, good, good])
    assert guest.deliver(ether(bytes(100)), ether(bytes(101), 0x88B5)) == 2
    bad, fine = guest.received()
    # RXE, EOF and DD, no data: a driver recycles the buffer.
    assert (bad[0], bad[1][0].qword1) == (b"", RXE | EOF | DD)
    assert fine[0] == ether(bytes(101), 0x88B5)
    assert guest.port.rx[0].drops["address"] == 1
    assert guest.signals(1) == 1


def test_a_bad_buffer_in_the_middle_leaves_no_partial_frame(guests):
    guest = guests(buffer_size=128)
    canary = guest.hold(b"\xa5" * 128)
    good = [guest.take(128) for _ in range(3)]
    guest.post(5, addresses=[canary, (1 << 64) - 64, *good])
    guest.deliver(ether(bytes(300)), ether(bytes(300), 0x88B5))
    first, second, third = guest.received()
    assert [p[0].qword1 for _, p in (first, second)] == [RXE | EOF | DD] * 2
    assert third[0] == ether(bytes(300), 0x88B5)
    assert guest.memory.read(canary, 128) == b"\xa5" * 128


def test_read_only_memory_is_never_written(guest):
    rom = Guarded(0x10_0000, 4096, writable=False)
    guest.add(rom)
    guest.post(1, addresses=[0x10_0000])
    guest.deliver(ether(bytes(100)))
    assert guest.received()[0][1][0].qword1 & RXE
    guest.port.rx[0].configure(0x10_0000, 32, 2048, 9728)
    guest.port.rx[0].doorbell.write(8)
    guest.port.rx[0].enable()
    assert guest.deliver(ether(bytes(100))) == 1
    assert guest.port.rx[0].drops["address"] == 2


def test_a_buffer_may_span_regions_that_adjoin(guest):
    end = guest.memory.guest + guest.memory.size
    more = Guarded(end, 4096)
    guest.add(more)
    frame = ether(bytes(range(256)) * 2, 0x88B5)
    guest.post(1, addresses=[end - 300])
    guest.deliver(frame)
    assert guest.memory.read(end - 300, 300) + more.read(end, len(frame) - 300) == frame


def test_a_ring_behind_pages_of_an_iommu_is_looked_up_by_the_descriptor(guest):
    # Three pages, one after the other for the guest; in this process they lie anywhere.
    pages = [Guarded(0x80_0000_0000 + 4096 * i, 4096) for i in (2, 0, 1)]
    for page in pages:
        guest.add(page)
    at = {page.guest: page for page in pages}
    buffers = [guest.take(2048) for _ in range(300)]
    for i, buffer in enumerate(buffers):
        where = 0x80_0000_0000 + 32 * i
        at[where & ~4095].write(where, struct.pack("<QQQQ", buffer, 0, 0, 0))
    rx = guest.port.rx[0]
    rx.configure(0x80_0000_0000, 384, 2048, 9728)
    rx.doorbell.write(300)
    rx.enable()
    frames = [ether(bytes([i & 0xFF]) * 100, 0x88B5) for i in range(299)]
    for start in range(0, 299, 50):
        guest.deliver(*frames[start : start + 50])
    for i, frame in enumerate(frames):
        where = 0x80_0000_0000 + 32 * i
        assert int.from_bytes(at[where & ~4095].read(where + 8, 8), "little") & 3 == 3
        assert guest.memory.read(buffers[i], len(frame)) == frame
    # One page goes under traffic: what is posted there can't be had any more.
    guest.port.set_memory(guest.port.memory.minus([at[0x80_0000_2000].region]))
    assert guest.deliver(frames[0]) == 1
    assert rx.drops["address"] == 1


# -- hash and queues


@pytest.mark.parametrize(
    ("frame", "value"),
    [
        (ether(tcp4(b"abc")), 0x51CCC178),
        (ether(udp4(b"abc")), 0x51CCC178),
        (ether(ipv4(bytes(20), 47)), 0x323E8FC2),
        (ether(ipv4(bytes(20), 17, fragment=0x2000)), 0x323E8FC2),
        (ether(ipv6(struct.pack(">HH", 2794, 1766) + bytes(20), 6), 0x86DD), 0x40207D3D),
        (ether(ipv6(struct.pack(">HH", 2794, 1766) + bytes(20), 17), 0x86DD), 0x40207D3D),
        (ether(ipv6(bytes(20), 59), 0x86DD), 0x2CC18CD5),
        (ether(bytes(60), 0x88B5), None),
        (ether(bytes(60), 0x0806), None),
    ],
    ids=["tcp4", "udp4", "other4", "fragment4", "tcp6", "udp6", "other6", "l2", "arp"],
)
def test_the_reference_vectors_of_the_hash(guest, frame, value):
    guest.port.set_rss(KEY, ALL_QUEUE_0, LINUX_HENA)
    guest.post(1)
    guest.deliver(frame)
    ((_, (done,)),) = guest.received()
    assert done.qword1 >> 12 & 3 == (0 if value is None else 3)
    assert done.hash == (value or 0)


@pytest.mark.parametrize(
    ("key", "lut", "hena"),
    [(bytes(52), ALL_QUEUE_0, LINUX_HENA), (b"", b"", LINUX_HENA), (KEY, b"", LINUX_HENA),
     (KEY, ALL_QUEUE_0, 0), (KEY, ALL_QUEUE_0, LINUX_HENA & ~(3 << 32))],
)  # fmt: skip
def test_without_key_table_or_type_there_is_no_hash(guest, key, lut, hena):
    guest.port.set_rss(key, lut, hena)
    guest.post(1)
    guest.deliver(ether(tcp4(b"abc")))
    ((_, (done,)),) = guest.received()
    assert (done.qword1 >> 12 & 3, done.hash) == (0, 0)


def test_the_table_chooses_the_queue_and_its_vector_fires(guests):
    guest = guests(2)
    lut = bytearray(64)
    lut[0x51CCC178 & 63] = 1
    guest.port.set_rss(KEY, bytes(lut), LINUX_HENA)
    guest.post(4, pair=0)
    guest.post(4, pair=1)
    guest.deliver(ether(tcp4(b"abc")), ether(ipv4(bytes(20), 47)), pair=0)
    assert len(guest.received(pair=1)) == 1
    assert len(guest.received(pair=0)) == 1
    assert (guest.signals(1), guest.signals(2)) == (1, 1)


def test_a_frame_for_a_queue_that_is_not_enabled_is_dropped(guests):
    guest = guests(2)
    guest.port.set_rss(KEY, bytes([1] * 64), LINUX_HENA)
    guest.port.rx[1].disable()
    guest.post(4)
    assert guest.deliver(ether(tcp4(b"abc"))) == 1
    assert guest.received() == []
    assert guest.port.stats().rx_discards == 1
    guest.port.set_rss(KEY, bytes([200] * 64), LINUX_HENA)
    assert guest.deliver(ether(tcp4(b"abc"))) == 1
    assert guest.port.stats().rx_discards == 2
