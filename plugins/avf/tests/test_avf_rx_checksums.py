"""Packet types and checksums of received frames; expectations: avf.md 6.7 and 6.8."""

import struct
import zlib

import pytest

from emudev_avf.testing.frames import (
    ADDRESSES4,
    ether,
    ipv4,
    ipv6,
    ones_sum,
    tcp4,
    udp4,
)
from emudev_net.burst import (
    CSUM_BAD,
    CSUM_GOOD,
    CSUM_WANTED,
    FIRST,
    LAST,
    Packet,
    offload_word,
)

# Bits of qword 1, by number as in avf.md 6.7.
L3L4P, IPE, L4E = (1 << n for n in (3, 22, 23))


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
