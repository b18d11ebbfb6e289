"""Transmit rings: what the guest queues becomes frames; expectations: avf.md 6.1 to 6.5."""

import struct

import pytest

from emudev_avf.testing import Guarded
from emudev_avf.testing.frames import ones_sum
from emudev_net.burst import (
    CRC32C_WANTED,
    CSUM_WANTED,
    OUTER_VLAN_PRESENT,
    VLAN_PRESENT,
    csum_offset,
    csum_start,
    gso_size,
    gso_type,
    header_length,
)

EOP, RS = 0x10, 0x20  # bits of qword 1
FRAME = bytes.fromhex("525400770002 525400770001 0800".replace(" ", "")) + bytes(range(100))


def ipv4(payload_length, protocol=6, *, length=None, checksum=None, ident=0x1234):
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x45, 0, 20 + payload_length if length is None else length, ident, 0x4000, 64, protocol, 0,
        bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]),
    )  # fmt: skip
    value = ~ones_sum(header) & 0xFFFF if checksum is None else checksum
    return header[:10] + value.to_bytes(2, "big") + header[12:]


def ipv6(payload_length, protocol=6, *, length=None):
    return struct.pack(
        ">IHBB16s16s",
        0x6000_0000, payload_length if length is None else length, protocol, 64,
        bytes([0xFD] + [0] * 14 + [1]), bytes([0xFD] + [0] * 14 + [2]),
    )  # fmt: skip


def tcp(checksum, flags=0x18):
    return struct.pack(
        ">HHIIBBHHH", 2794, 1766, 1000, 2000, 8 << 4, flags, 512, checksum, 0
    ) + bytes(12)


def ether(kind=0x0800):
    return bytes.fromhex("525400770002525400770001") + kind.to_bytes(2, "big")


def test_a_plain_frame_is_shown_where_it_lies_and_completed(guest):
    # Observed: one descriptor, cmd EOP|RS|ICRC = 0x7; write-back qword 0xF.
    address = guest.hold(FRAME)
    guest.put((address, 0x7 << 4 | len(FRAME) << 34))
    (packet,) = guest.peek()
    assert packet.data == FRAME
    assert packet.segments == (len(FRAME),)
    assert guest.burst.words[0] == guest.memory.host + address - guest.memory.guest
    assert guest.tx_qword1(0) == 0x7 << 4 | len(FRAME) << 34  # untouched before release
    guest.release()
    assert guest.tx_qword1(0) == 0xF
    assert guest.signals(1) == 1
    assert guest.peek() == []
    assert guest.port.stats()[6:] == (len(FRAME), 1, 0, 0, 0, 0)
    told = guest.port.kernels(1).stats()
    assert (told.packets, told.bytes, sum(told.dropped.values())) == (1, len(FRAME), 0)


def test_what_was_not_released_is_shown_again(guest):
    guest.send(FRAME)
    guest.send(FRAME[:60])
    first = guest.peek()
    assert guest.peek() == first
    guest.release(rows=1)
    assert [p.data for p in guest.peek()] == [FRAME[:60]]
    assert (guest.tx_qword1(0), guest.tx_qword1(1) & 0xF) == (0xF, 0)


@pytest.mark.parametrize("count", [1, 2, 8, 40])
def test_a_packet_of_many_descriptors_is_one_frame(guest, count):
    data = FRAME * 40
    sizes = [17] + [11] * (count - 1)
    guest.send(data[: sum(sizes)], pieces=sizes)
    (packet,) = guest.peek()
    assert packet.data[: sum(sizes)] == data[: sum(sizes)]
    assert packet.segments[:count] == tuple(sizes)
    guest.release()
    # RS is on the last descriptor only, and only that one is written back.
    assert [guest.tx_qword1(i) & 0xF for i in range(count)] == [0] * (count - 1) + [0xF]


def test_descriptors_wrap_around_the_end_of_the_ring(guests):
    guest = guests(length=32)
    for round_ in range(30):
        guest.send(FRAME[:70] + bytes([round_]), pieces=[20, 30])
        (packet,) = guest.peek()
        assert packet.data == FRAME[:70] + bytes([round_])
        guest.release()
    assert guest.port.tx[0].head == 90 % 32


def test_only_descriptors_with_rs_are_written_back(guest):
    # DPDK: cmd 0x5 without RS, RS every 32.
    guest.send(FRAME, command=0x5)
    guest.send(FRAME, command=0x7)
    guest.send(FRAME, command=0x5)
    assert len(guest.peek()) == 3
    guest.release()
    assert [guest.tx_qword1(i) & 0xF for i in range(3)] == [0, 0xF, 0]
    assert guest.signals(1) == 1


def test_no_interrupt_without_a_write_back(guest):
    guest.send(FRAME, command=0x5)
    guest.peek()
    guest.release()
    assert guest.signals(1) == 0


def test_a_packet_without_its_end_waits(guest):
    half = guest.hold(FRAME[:50])
    rest = guest.hold(FRAME[50:])
    guest.put((half, 4 << 4 | 50 << 34))
    assert guest.peek() == []
    guest.put((rest, 7 << 4 | len(FRAME) - 50 << 34))
    assert [p.data for p in guest.peek()] == [FRAME]


@pytest.mark.parametrize("size", [17, 42, 59])
def test_short_frames_are_padded_to_60(guest, size):
    guest.send(FRAME[:size])
    assert guest.peek()[0].data == FRAME[:size] + bytes(60 - size)


@pytest.mark.parametrize(
    ("descriptors", "reason"),
    [
        ([(0, 7 << 4 | 16 << 34)], "length"),  # below 17 bytes
        ([(0, 7 << 4)], "length"),  # an empty buffer
        ([(0, 5 << 4 | 16000 << 34)], "length"),  # more than the largest frame
        ([(-64, 7 << 4 | 100 << 34)], "address"),
        ([(1 << 62, 7 << 4 | 100 << 34)], "address"),
        ([(0, 8 | 0x20 | 0x10)], "type"),  # filter program
        ([(0, 7 << 4 | 1 << 12 | 100 << 34)], "offload"),  # L4T, no lengths
        ([(0, 0x107 << 4 | 100 << 34)], "offload"),
        ([(0, 0x147 << 4 | 0x20287 << 16 | 40 << 34)], "offload"),  # headers behind the end
        ([(0, 1), (0, 1), (0, 7 << 4 | 100 << 34)], "context"),
        ([(0, 4 << 4 | 50 << 34), (0, 1), (0, 7 << 4 | 50 << 34)], "context"),
        ([(0, 7 << 4 | 1 << 8 | 100 << 34)], "dummy"),
        ([(0, 4 << 4 | 20 << 34)] * 150 + [(0, 7 << 4 | 20 << 34)], "count"),
        # TSO with MSS 32, with another payload length, and without L4T.
        ([(0, 0x11 | 86 << 30 | 32 << 50), (0, 0x167 << 4 | 0x20287 << 16 | 152 << 34)], "offload"),
        ([(0, 0x11 | 80 << 30 | 64 << 50), (0, 0x167 << 4 | 0x20287 << 16 | 152 << 34)], "offload"),
        ([(0, 0x11 | 86 << 30 | 64 << 50), (0, 0x67 << 4 | 0x20287 << 16 | 152 << 34)], "offload"),
    ],
)  # fmt: skip
def test_what_cannot_be_sent_is_dropped_counted_and_completed(guests, descriptors, reason):
    guest = guests(length=256)
    start = guest.hold(FRAME * 200)
    fixed = [(start + q0 if q0 in (0,) else q0, q1) for q0, q1 in descriptors]
    guest.put(*fixed)
    guest.send(FRAME)
    assert [p.data for p in guest.peek()] == [FRAME]
    assert {k: v for k, v in guest.port.tx[0].drops.items() if v} == {reason: 1}
    last = guest.tx_qword1(len(fixed) - 1)
    assert last == (0xF if fixed[-1][1] & 0x20 else fixed[-1][1])
    guest.release()
    assert guest.port.tx[0].head == len(fixed) + 1
    assert guest.port.stats().tx_errors == (reason != "dummy")


def test_a_bad_packet_alone_raises_the_interrupt_by_itself(guest):
    guest.put((1 << 62, 7 << 4 | 100 << 34))
    assert guest.peek() == []
    assert guest.tx_qword1(0) == 0xF
    assert guest.signals(1) == 1


def test_a_bad_packet_behind_good_ones_is_counted_once(guest):
    guest.send(FRAME)
    guest.put((1 << 62, 7 << 4 | 100 << 34))
    for _ in range(3):
        assert len(guest.peek()) == 1
    assert guest.port.tx[0].drops["address"] == 0
    guest.release()
    assert guest.peek() == []
    assert guest.port.tx[0].drops["address"] == 1
    assert guest.tx_qword1(1) == 0xF


@pytest.mark.parametrize("tail", [64, 65, 0xFFFF_FFFF])
def test_a_tail_beyond_the_ring_stops_the_queue(guest, tail):
    guest.send(FRAME)
    guest.port.tx[0].doorbell.write(tail)
    assert guest.peek() == []
    assert guest.port.tx[0].stopped
    assert guest.port.tx[0].drops["tail"] == 1
    guest.port.tx[0].doorbell.write(1)
    assert guest.peek() == []
    guest.port.tx[0].disable()
    guest.port.tx[0].enable()
    assert len(guest.peek()) == 1


def test_a_tail_at_the_head_is_nothing_to_do(guest):
    guest.port.tx[0].doorbell.write(0)
    assert guest.peek() == []


def test_a_buffer_in_two_regions_becomes_two_rows(guest):
    end = guest.memory.guest + guest.memory.size
    more = Guarded(end, 4096)
    guest.add(more)
    guest.memory.write(end - 30, FRAME[:30])
    more.write(end, FRAME[30:])
    guest.put((end - 30, 7 << 4 | len(FRAME) << 34))
    (packet,) = guest.peek()
    assert (packet.data, packet.segments) == (FRAME, (30, len(FRAME) - 30))


def test_a_buffer_may_lie_in_memory_that_is_read_only(guest):
    rom = Guarded(0x10_0000, 4096, writable=False)
    guest.add(rom)
    guest.put((0x10_0000, 7 << 4 | 100 << 34))
    assert guest.peek()[0].data == bytes(100)


def test_a_ring_in_read_only_memory_is_never_written(guest):
    rom = Guarded(0x10_0000, 4096, writable=False)
    guest.add(rom)
    guest.port.tx[0].configure(0x10_0000, 32)
    guest.port.tx[0].enable()
    guest.port.tx[0].doorbell.write(5)
    assert guest.peek() == []


def test_a_tcp_checksum_request_follows_virtio(guest):
    # Observed: cmd 0x147 (TCPv4), offset 0x20287 = MACLEN 7, IPLEN 5, L4LEN 8.
    frame = ether() + ipv4(32 + 10) + tcp(0xABCD) + bytes(10)
    address = guest.hold(frame)
    guest.put((address, 0x147 << 4 | 0x20287 << 16 | len(frame) << 34))
    (packet,) = guest.peek()
    assert packet.data == frame
    assert packet.flags & CSUM_WANTED
    assert (csum_start(packet.offload), csum_offset(packet.offload)) == (34, 16)
    assert gso_type(packet.flags) == 0
    assert len(packet.segments) == 1  # nothing was copied


def test_udp_and_sctp_requests_have_their_offsets(guest):
    udp = ether(0x86DD) + ipv6(20, 17) + bytes(20)
    guest.send(udp, command=0x327, mac=14, ip=40, l4=8)
    sctp = ether() + ipv4(28, 132) + bytes(28)
    guest.send(sctp, command=0x247, mac=14, ip=20, l4=12)
    first, second = guest.peek()
    assert first.flags & CSUM_WANTED
    assert (csum_start(first.offload), csum_offset(first.offload)) == (54, 6)
    assert second.flags & CRC32C_WANTED
    assert not second.flags & CSUM_WANTED
    assert (csum_start(second.offload), csum_offset(second.offload)) == (34, 8)


def test_an_ipv4_checksum_request_is_done_in_a_copy_of_the_header(guest):
    # DPDK: cmd 0x165 = TCP, IPv4 with checksum, EOP, ICRC.
    frame = ether() + ipv4(32 + 10, checksum=0) + tcp(0xABCD) + bytes(10)
    guest.send(frame, command=0x167, mac=14, ip=20, l4=32)
    (packet,) = guest.peek()
    assert packet.data == ether() + ipv4(32 + 10) + tcp(0xABCD) + bytes(10)
    # The guest's memory has what it had.
    address = int.from_bytes(guest.memory.read(guest.entry(guest.port.tx[0], 0), 8), "little")
    assert guest.memory.read(address, len(frame)) == frame


def test_an_ip_checksum_alone_needs_no_transport_layer(guest):
    frame = ether() + ipv4(40, 99, checksum=0xDEAD) + bytes(40)
    guest.send(frame, command=0x67, mac=14, ip=20, pieces=[5, 9, 3, 10])
    (packet,) = guest.peek()
    assert packet.data == ether() + ipv4(40, 99) + bytes(40)


@pytest.mark.parametrize("pieces", [[], [66], [54], [66, 1000], [10, 20, 36, 100], [30, 50, 1000]])
@pytest.mark.parametrize("version", [4, 6])
def test_tso_is_handed_on_with_the_lengths_of_the_whole_frame(guest, version, pieces):
    # Observed: context cmd 0x1, TSO_LEN 2896, MSS 1448; data cmd 0x167. Linux: lengths and IPv4
    # checksum zero, the seed without a length.
    payload = bytes(i & 0xFF for i in range(2896))
    if version == 4:
        ip, want_ip = ipv4(0, length=0, checksum=0), ipv4(32 + 2896)
        addresses, kind, command, offset = ip[12:20], 0x0800, 0x167, 0x20287
    else:
        ip, want_ip = ipv6(0, length=0), ipv6(32 + 2896)
        addresses, kind, command, offset = ip[8:40], 0x86DD, 0x127, 0x20507
    seed = ones_sum(addresses + bytes([0, 6]))
    frame = ether(kind) + ip + tcp(seed) + payload
    guest.put((0, 0x1 | 0x1 << 4 | 2896 << 30 | 1448 << 50))
    sizes = [*pieces, len(frame) - sum(pieces)]
    at = 0
    for size in sizes:
        address = guest.hold(frame[at : at + size])
        at += size
        bits = command if at == len(frame) else command & ~3
        guest.put((address, bits << 4 | offset << 16 | size << 34))
    (packet,) = guest.peek()
    want_seed = ones_sum(addresses + bytes([0, 6]) + (32 + 2896).to_bytes(2, "big"))
    assert packet.data == ether(kind) + want_ip + tcp(want_seed) + payload
    header = 14 + len(ip) + 32
    assert packet.segments[0] == header
    assert gso_type(packet.flags) == (1 if version == 4 else 4)
    assert gso_size(packet.offload) == 1448
    assert header_length(packet.offload) == header
    assert (csum_start(packet.offload), csum_offset(packet.offload)) == (14 + len(ip), 16)
    assert packet.flags & CSUM_WANTED
    guest.release()
    assert guest.tx_qword1(len(sizes)) == 0xF
    assert guest.tx_qword1(0) & 0xF == 1  # the context descriptor is not written back
    stats = guest.port.stats()
    assert (stats.tx_unicast, stats.tx_bytes) == (2, 2896 + 2 * header)


def test_tso_of_one_segment_is_an_ordinary_checksum_request(guest):
    frame = ether() + ipv4(0, length=0, checksum=0) + tcp(0x1111) + bytes(500)
    guest.put((0, 0x11 | 500 << 30 | 1448 << 50))
    guest.send(frame, command=0x167, mac=14, ip=20, l4=32)
    (packet,) = guest.peek()
    assert gso_type(packet.flags) == 0
    assert packet.flags & CSUM_WANTED
    assert packet.data[14:34] == ipv4(532)


def test_uso_sets_the_length_of_the_datagram(guest):
    udp = struct.pack(">HHHH", 5000, 6000, 0, 0x2222)
    frame = ether() + ipv4(0, 17, length=0, checksum=0) + udp + bytes(3000)
    guest.put((0, 0x11 | 3000 << 30 | 1400 << 50))
    guest.send(frame, command=0x367, mac=14, ip=20, l4=8)
    (packet,) = guest.peek()
    assert gso_type(packet.flags) == 5
    assert gso_size(packet.offload) == 1400
    assert packet.data[14:34] == ipv4(3008, 17)
    seed = ones_sum((0x2222).to_bytes(2, "big") + (3008).to_bytes(2, "big"))
    assert packet.data[34:42] == struct.pack(">HHHH", 5000, 6000, 3008, seed)


def test_headers_that_contradict_the_request_are_dropped(guest):
    frame = ether() + ipv4(0, length=0, checksum=0) + tcp(0) + bytes(2000)
    guest.put((0, 0x11 | 2000 << 30 | 1000 << 50))
    guest.send(frame, command=0x127, mac=14, ip=40, l4=12)  # says IPv6
    assert guest.peek() == []
    assert guest.port.tx[0].drops["offload"] == 1


def test_vlan_by_l2tag1_by_l2tag2_and_both(guest):
    # Observed: cmd 0xF with L2TAG1; context qword0 0x0000000500000000, cmd 0x4 for VID 5.
    guest.send(FRAME, command=0xF, l2tag1=0x2005)
    guest.put((0x0000_0005_0000_0000, 1 | 0x4 << 4))
    guest.send(FRAME)
    guest.put((0x0000_0007_0000_0000, 1 | 0x4 << 4))
    guest.send(FRAME, command=0xF, l2tag1=0x8006)
    one, two, both = guest.peek()
    assert one.data == two.data == both.data == FRAME
    assert one.flags & VLAN_PRESENT
    assert one.vlan & 0xFFFF_FFFF == 0x8100_2005
    assert two.vlan & 0xFFFF_FFFF == 0x8100_0005
    assert not two.flags & OUTER_VLAN_PRESENT
    assert both.flags & OUTER_VLAN_PRESENT
    assert both.vlan & 0xFFFF_FFFF == 0x8100_8006
    assert both.vlan >> 48 & 0xFFFF == 7


def test_a_burst_takes_whole_packets_only(guest):
    for _ in range(5):
        guest.send(FRAME, pieces=[30, 30])
    assert len(guest.peek(rows=8)) == 2
    assert guest.rows == 6
    guest.release()
    assert len(guest.peek(rows=128)) == 3


def test_rows_of_before_a_disable_complete_nothing(guest):
    guest.send(FRAME)
    guest.peek()
    before = guest.memory.read(guest.memory.guest, guest.memory.size)
    guest.port.tx[0].disable()
    guest.release()
    guest.port.tx[0].enable()
    guest.release()
    assert guest.memory.read(guest.memory.guest, guest.memory.size) == before
    assert guest.signals(1) == 0


def test_nothing_is_touched_after_a_reset(guest):
    guest.send(FRAME)
    guest.peek()
    before = guest.memory.read(guest.memory.guest, guest.memory.size)
    guest.port.reset()
    guest.release()
    assert guest.peek() == []
    assert guest.memory.read(guest.memory.guest, guest.memory.size) == before
    assert guest.port.tx[0].doorbell.value == 0


def test_memory_that_went_away_is_not_read(guest):
    guest.send(FRAME)
    guest._regions.clear()
    guest.show()
    assert guest.peek() == []


def test_the_classes_of_addresses_are_counted(guest):
    for first in ("525400770002", "01005e000001", "ffffffffffff"):
        guest.send(bytes.fromhex(first) + bytes(54))
    guest.peek()
    guest.release()
    assert guest.port.stats()[6:10] == (180, 1, 1, 1)


def test_counters_only_grow(guest):
    guest.send(FRAME)
    guest.put((1 << 62, 7 << 4 | 100 << 34))
    guest.peek()
    guest.release()
    guest.peek()
    before = guest.port.stats()
    assert before.tx_unicast == before.tx_errors == 1
    guest.port.tx[0].configure(guest.port.tx[0].base, 64)
    guest.port.reset()
    assert guest.port.stats() == before


def test_a_tail_that_was_latched_before_a_ring_is_set_up_anew_means_nothing(guest):
    """Linux 6.12 writes no transmit tail when it opens a ring (`ethtool -G` under load)."""
    guest.send(FRAME)
    guest.peek()
    guest.release()
    tx = guest.port.tx[0]
    tx.disable()
    tx.doorbell.write(20)  # a doorbell of the old ring, still under way
    tx.configure(tx.base, 32)
    assert tx.enable()
    assert guest.peek() == []
    assert not tx.stopped
    assert sum(tx.drops.values()) == 0


def test_a_ring_that_is_not_configured_can_not_be_enabled(guests):
    guest = guests()
    guest.port.tx[0].configure(0, 0)
    assert not guest.port.tx[0].enable()
    assert guest.peek() == []
    with pytest.raises(ValueError, match="1 to 8160"):
        guest.port.tx[0].configure(guest.memory.guest, 8161)


def test_a_ring_that_does_not_lie_in_one_region_is_read_descriptor_by_descriptor(guest):
    end = guest.memory.guest + guest.memory.size
    more = Guarded(end, 4096)
    guest.add(more)
    frames = [guest.hold(FRAME[:60] + bytes([i])) for i in range(8)]
    base = end - 64
    ring = b"".join(struct.pack("<QQ", a, 7 << 4 | 61 << 34) for a in frames)
    guest.memory.write(base, ring[:64])
    more.write(end, ring[64:])
    guest.port.tx[0].configure(base, 32)
    guest.port.tx[0].enable()
    guest.port.tx[0].doorbell.write(8)
    assert [p.data[60] for p in guest.peek()] == list(range(8))
    guest.release()
    assert more.read(end + 3 * 16 + 8, 8) == (0xF).to_bytes(8, "little")
