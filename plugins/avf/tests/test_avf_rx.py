"""Receive rings: frames become buffers and write-backs; expectations: avf.md 6.6 to 7."""

import struct
import zlib

import pytest

from emudev_avf.rings import Hold, TagPlace
from emudev_avf.testing import Guarded
from emudev_net.burst import (
    CSUM_BAD,
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    LAST,
    OUTER_VLAN_PRESENT,
    VLAN_PRESENT,
    Packet,
    offload_word,
    vlan_word,
)

# Bits of qword 1, by number as in avf.md 6.7.
DD, EOF, L2TAG1P, L3L4P, RXE, IPE, L4E = (1 << n for n in (0, 1, 2, 3, 19, 22, 23))
MAC = bytes.fromhex("525400770002")
OTHER = bytes.fromhex("525400770001")
# avf.md 7
KEY = (
    bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
    + bytes(12)
)  # fmt: skip
LINUX_HENA = 0x80007A1E_80000000
ALL_QUEUE_0 = bytes(64)


def ones_sum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(
    payload, protocol, *, source="66.9.149.187", target="161.142.100.80", fragment=0, bad=False
):
    addresses = bytes(int(n) for a in (source, target) for n in a.split("."))
    head = struct.pack(
        ">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0
    )  # fmt: skip
    value = ~ones_sum(head + addresses) & 0xFFFF ^ bad
    return head[:10] + value.to_bytes(2, "big") + addresses + payload


def ipv6(payload, protocol):
    source = bytes.fromhex("3ffe250102001fff") + bytes(7) + b"\x07"
    target = bytes.fromhex("3ffe250102000003") + bytes(7) + b"\x01"
    return struct.pack(">IHBB", 0x60000000, len(payload), protocol, 64) + source + target + payload


def finish(packet, addresses, protocol, offset):
    """A transport packet with its checksum, over pseudo header and packet (RFC 9293, 3.1)."""
    pseudo = addresses + struct.pack(">II", len(packet), protocol)
    value = ~ones_sum(pseudo + packet) & 0xFFFF
    return packet[:offset] + value.to_bytes(2, "big") + packet[offset + 2 :]


ADDRESSES4 = bytes([66, 9, 149, 187, 161, 142, 100, 80])


def tcp4(payload=b"", good=True):
    head = struct.pack(">HHIIBBHHH", 2794, 1766, 1, 2, 5 << 4, 0x10, 512, 0, 0)
    packet = finish(head + payload, ADDRESSES4, 6, 16)
    return ipv4(packet if good else packet[:-1] + bytes([packet[-1] ^ 1]), 6)


def udp4(payload=b"", checksum=None):
    head = struct.pack(">HHHH", 2794, 1766, 8 + len(payload), 0)
    packet = finish(head + payload, ADDRESSES4, 17, 6)
    if checksum is not None:
        packet = packet[:6] + checksum.to_bytes(2, "big") + packet[8:]
    return ipv4(packet, 17)


def ether(payload, kind=0x0800, target=MAC, tag=b""):
    return target + OTHER + tag + kind.to_bytes(2, "big") + payload


@pytest.fixture
def guest(guests):
    return guests()


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


# -- packet types and checksums


SCTP = struct.pack(">HHII", 1, 2, 3, 0) + bytes(4)
PTYPES = [
    (ether(bytes(50), 0x88B5), 1),
    (ether(bytes(50), 0x88F7), 2),
    (ether(bytes(50), 0x88CC), 6),
    (ether(bytes(50), 0x888E), 10),
    (ether(bytes(50), 0x0806), 11),
    (ether(ipv4(bytes(30), 17, fragment=0x2000)), 22),
    (ether(ipv4(bytes(30), 17, fragment=0x0010)), 22),
    (ether(ipv4(bytes(30), 47)), 23),
    (ether(udp4(b"abc")), 24),
    (ether(tcp4(b"abc")), 26),
    (ether(ipv4(SCTP, 132)), 27),
    (ether(ipv4(bytes(8), 1)), 28),
    (ether(ipv6(bytes([6, 0, 0, 1, 0, 0, 0, 1]) + bytes(20), 44), 0x86DD), 88),
    (ether(ipv6(bytes(20), 59), 0x86DD), 89),
    (ether(ipv6(bytes(20), 17), 0x86DD), 90),
    (ether(ipv6(bytes(20), 6), 0x86DD), 92),
    (ether(ipv6(SCTP, 132), 0x86DD), 93),
    (ether(ipv6(bytes(8), 58), 0x86DD), 94),
]  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "ptype"), PTYPES, ids=[str(p) + "-" + str(i) for i, (_, p) in enumerate(PTYPES)]
)
def test_packet_types(guest, frame, ptype):
    guest.post(2)
    guest.deliver(frame, frame[:12] + b"\x81\x00\x00\x05" + frame[12:])
    assert [done[0].ptype for _, done in guest.received()] == [ptype, ptype]


@pytest.mark.parametrize(
    ("frame", "flags", "want"),
    [
        (ether(tcp4(b"x" * 1001)), 0, L3L4P),
        (ether(tcp4(b"x" * 1001, good=False)), 0, L3L4P | L4E),
        (ether(tcp4(b"x" * 1001, good=False)), CSUM_GOOD, L3L4P),
        (ether(tcp4(b"x" * 10)), CSUM_BAD, L3L4P | L4E),
        (ether(tcp4()), 0, L3L4P),  # padded: the padding is not part of the sum
        (ether(udp4(b"x" * 333)), 0, L3L4P),
        (ether(udp4(b"x" * 333, checksum=0)), 0, L3L4P),  # none: RFC 768
        (ether(udp4(b"x" * 333, checksum=1)), 0, L3L4P | L4E),
        (ether(ipv4(bytes(30), 6, bad=True)), 0, L3L4P | IPE),
        (ether(ipv4(bytes(30), 47)), 0, L3L4P),
        (ether(ipv4(bytes(30), 17, fragment=0x2000)), 0, L3L4P),
        (ether(ipv4(SCTP, 132)), 0, 0),  # not verified
        (ether(ipv4(SCTP, 132)), CSUM_GOOD, L3L4P),
        (ether(bytes(50), 0x0806), 0, 0),
        (ether(udp4(b"x" * 333)[:-5]), 0, 0),  # cut off
    ],
    ids=lambda v: str(len(v)) if isinstance(v, bytes) else None,
)
@pytest.mark.parametrize("split", [0, 11, 64])
def test_checksums_are_verified_where_nobody_has(guest, frame, flags, want, split):
    guest.post(2)
    guest.deliver(Packet(frame, flags=FIRST | LAST | flags), split=split)
    ((data, (done,)),) = guest.received()
    assert data[: len(frame)] == frame
    assert done.qword1 & (L3L4P | IPE | L4E) == want


@pytest.mark.parametrize("size", [0, 1, 700, 1001, 3000])
@pytest.mark.parametrize("split", [0, 33, 77])
def test_a_checksum_left_to_us_is_completed_in_the_guests_copy(guests, size, split):
    guest = guests(buffer_size=1024)
    guest.post(5)
    good = ether(tcp4(b"y" * size))
    seed = ones_sum(ADDRESSES4 + struct.pack(">II", 20 + size, 6))
    asked = good[:50] + seed.to_bytes(2, "big") + good[52:]
    guest.deliver(
        Packet(asked, flags=FIRST | LAST | CSUM_WANTED, offload=offload_word(34, 16, 0, 0)),
        split=split,
    )
    ((data, done),) = guest.received()
    assert data[: len(good)] == good
    assert done[-1].qword1 & (L3L4P | L4E | IPE) == L3L4P


def test_a_completed_udp_checksum_is_never_zero(guest):
    # A payload for which the sum is 0xFFFF.
    guest.post(1)
    head = struct.pack(">HHHH", 0, 0, 10, 0)
    rest = ~ones_sum(ADDRESSES4 + struct.pack(">II", 10, 17) + head) & 0xFFFF
    seed = ones_sum(ADDRESSES4 + struct.pack(">II", 10, 17))
    packet = head[:6] + seed.to_bytes(2, "big") + rest.to_bytes(2, "big")
    guest.deliver(
        Packet(
            ether(ipv4(packet, 17)),
            flags=FIRST | LAST | CSUM_WANTED,
            offload=offload_word(34, 6, 0, 0),
        )
    )
    assert guest.received()[0][0][40:42] == b"\xff\xff"


@pytest.mark.parametrize(
    ("start", "offset"), [(34, 100), (90, 16), (34, 15), (2, 6), (65535, 65534)]
)
def test_an_impossible_checksum_request_is_dropped(guest, start, offset):
    guest.post(1)
    frame = ether(tcp4(b"x" * 20))
    guest.deliver(
        Packet(frame, flags=FIRST | LAST | CSUM_WANTED, offload=offload_word(start, offset, 0, 0))
    )
    assert guest.received() == []
    assert guest.port.rx[0].drops["source"] == 1


def test_the_frame_check_sequence_is_appended_if_wanted(guests):
    guest = guests(crc_disable=True, buffer_size=128)
    guest.post(8)
    frame = ether(bytes(range(240)), 0x88B5)
    guest.deliver(frame)
    ((data, done),) = guest.received()
    # IEEE 802.3: zlib's CRC-32, least significant byte first.
    assert data == frame + zlib.crc32(frame).to_bytes(4, "little")
    assert [d.length for d in done] == [128, 128, 2]
    assert guest.port.stats().rx_bytes == 254


# -- VLAN


TAG = b"\x81\x00\x60\x05"


def test_a_tag_stays_in_the_frame_unless_stripping_is_on(guest):
    guest.post(1)
    frame = ether(bytes(100), 0x88B5, tag=TAG)
    guest.deliver(frame)
    ((data, (done,)),) = guest.received()
    assert data == frame
    assert not done.qword1 & L2TAG1P


@pytest.mark.parametrize("split", [0, 5, 13, 15, 40])
@pytest.mark.parametrize("place", [TagPlace.L2TAG1, TagPlace.L2TAG2])
def test_a_tag_is_stripped_into_the_agreed_field(guest, place, split):
    guest.port.set_vlan_offload(place)
    guest.post(1)
    guest.deliver(ether(tcp4(b"x" * 100), tag=TAG), split=split)
    ((data, (done,)),) = guest.received()
    assert data == ether(tcp4(b"x" * 100))
    if place is TagPlace.L2TAG1:
        assert (done.l2tag1, done.ext_status, done.qword1 & L2TAG1P) == (0x6005, 0, L2TAG1P)
    else:
        assert (done.l2tag2_2, done.ext_status, done.qword1 & L2TAG1P) == (0x6005, 1, 0)
    assert done.ptype == 26
    assert done.qword1 & (L3L4P | L4E) == L3L4P


def test_a_stripped_frame_is_padded_again(guest):
    guest.port.set_vlan_offload(TagPlace.L2TAG1)
    guest.post(1)
    guest.deliver(ether(b"a" * 42, 0x88B5, tag=TAG))
    assert guest.received()[0][0] == ether(b"a" * 42, 0x88B5) + bytes(4)


def test_a_tag_beside_the_frame_is_delivered_as_one_in_it(guest):
    packet = Packet(
        ether(tcp4(b"x" * 100)),
        flags=FIRST | LAST | VLAN_PRESENT,
        vlan=vlan_word(0x6005, 0x8100, 0, 0),
    )
    guest.post(2)
    guest.deliver(packet)
    guest.port.set_vlan_offload(TagPlace.L2TAG1)
    guest.deliver(packet)
    inside, beside = guest.received()
    assert inside[0] == ether(tcp4(b"x" * 100), tag=TAG)
    assert beside[0] == ether(tcp4(b"x" * 100))
    assert beside[1][0].l2tag1 == 0x6005


def test_two_tags_beside_the_frame_go_into_it(guest):
    guest.post(1)
    guest.deliver(
        Packet(
            ether(bytes(100), 0x88B5),
            flags=FIRST | LAST | VLAN_PRESENT | OUTER_VLAN_PRESENT,
            vlan=vlan_word(0x6005, 0x8100, 0, 0x9007),
        )
    )
    assert guest.received()[0][0] == ether(bytes(100), 0x88B5, tag=b"\x88\xa8\x90\x07" + TAG)


def test_a_completed_checksum_follows_the_frame_when_a_tag_moves(guest):
    good = ether(tcp4(b"y" * 99))
    seed = ones_sum(ADDRESSES4 + struct.pack(">II", 119, 6))
    asked = good[:50] + seed.to_bytes(2, "big") + good[52:]
    guest.post(2)
    beside = Packet(
        asked,
        flags=FIRST | LAST | CSUM_WANTED | VLAN_PRESENT,
        offload=offload_word(34, 16, 0, 0),
        vlan=vlan_word(0x6005, 0x8100, 0, 0),
    )
    guest.deliver(beside)
    guest.port.set_vlan_offload(TagPlace.L2TAG1)
    inside = Packet(
        asked[:12] + TAG + asked[12:],
        flags=FIRST | LAST | CSUM_WANTED,
        offload=offload_word(38, 16, 0, 0),
    )
    guest.deliver(inside)
    first, second = guest.received()
    assert first[0] == ether(tcp4(b"y" * 99), tag=TAG)
    assert second[0] == good


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
