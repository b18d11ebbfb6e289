"""Flexible receive descriptors; expectations worked out by hand from avf.md 6.8.

What the auxiliary words hold is as DPDK's rte_pmd_iavf.h takes them apart.
"""

import struct
import zlib

import pytest

from emudev_avf.rings import TagPlace
from emudev_net.burst import (
    CSUM_GOOD,
    FIRST,
    LAST,
    OUTER_VLAN_PRESENT,
    VLAN_PRESENT,
    Packet,
    vlan_word,
)

MAC = bytes.fromhex("525400770002")
OTHER = bytes.fromhex("525400770001")
# Bits of status_error0.
DD, EOF, L3L4P, IPE, L4E, RXE, CRCP, RSS, L2TAG1P = (
    1 << n for n in (0, 1, 3, 4, 5, 10, 11, 12, 13)
)  # fmt: skip
KEY = (
    bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
    + bytes(12)
)  # fmt: skip
FORMATS = [2, 6, *range(16, 24), 25]

# A TCP segment, 66.9.149.187:2794 to 161.142.100.80:1766, whose hash avf.md 7 gives; TOS 0xB8, time
# to live 0x40, protocol 6; data offset 5, flags ACK and PSH.
IPV4 = bytes.fromhex("45b800280000000040060000420995bba18e6450")
TCP = bytes.fromhex("0aea06e600000001000000025018020000000000")
FRAME = MAC + OTHER + b"\x08\x00" + IPV4 + TCP
HASH = 0x51CCC178
# Traffic class 0xB8, flow label 0x12345, next header 59, hop limit 0x3F.
IPV6 = bytes.fromhex("6b81234500143b3f") + bytes(range(32)) + bytes(20)
FRAME6 = MAC + OTHER + b"\x86\xdd" + IPV6


def raw(guest, index=0):
    return guest.memory.read(guest.entry(guest.port.rx[0], index), 32)


def good(frame):
    return Packet(frame, flags=FIRST | LAST | CSUM_GOOD)


@pytest.mark.parametrize("rxdid", FORMATS)
def test_the_golden_bytes_of_each_format(guests, rxdid):
    guest = guests(rxdid=rxdid)
    guest.port.set_rss(KEY, bytes(64), 1 << 33)
    guest.port.set_vlan_offload(TagPlace.L2TAG1)
    guest.post(1)
    guest.deliver(good(FRAME[:12] + b"\x81\x00\xa0\x05" + FRAME[12:]))
    data = raw(guest)
    # 60 bytes: padded again without its tag; packet type 26.
    assert data[:8] == bytes([rxdid, 0]) + struct.pack("<HHH", 26, 60, 0)
    status = DD | EOF | L3L4P | RSS | L2TAG1P
    first, last = (0xFFFFFFFF, HASH) if rxdid in (22, 23) else (HASH, 0xFFFFFFFF)
    assert data[8:16] == struct.pack("<HHI", status, 0xA005, first)
    assert struct.unpack("<I", data[24:28]) == (last,)
    assert data[18:24] == bytes(6)  # no timestamp, no second tag
    if rxdid in (2, 6, 16, 22, 23):
        assert data[16:18] == bytes(2)
        assert data[28:] == bytes(4)


@pytest.mark.parametrize(
    ("rxdid", "frame", "valid", "words"),
    [
        (18, FRAME, 0xC000, (0x4006, 0x45B8)),
        (18, FRAME6, 0, (0, 0)),
        (19, FRAME6, 0xC000, (0x3B3F, 0x6B81)),
        (19, FRAME, 0, (0, 0)),
        (20, FRAME6, 0xC000, (0x2345, 0x6B81)),
        (20, FRAME, 0, (0, 0)),
        (21, FRAME, 0x4000, (0x5018, 0)),
        (21, FRAME6, 0, (0, 0)),
        (17, FRAME, 0, (0, 0)),
        (17, FRAME[:12] + b"\x81\x00\xa0\x05" + FRAME[12:], 0x8000, (0, 0xA005)),
        (17, FRAME[:12] + b"\x88\xa8\xa0\x05" + FRAME[12:], 0x4000, (0xA005, 0)),
        (17, FRAME[:12] + b"\x88\xa8\xa0\x05\x81\x00\x60\x07" + FRAME[12:], 0xC000,
         (0xA005, 0x6007)),
        (25, FRAME, 0, (14, 0xFFFF)),
        (25, FRAME[:12] + b"\x81\x00\xa0\x05" + FRAME[12:], 0, (18, 0xFFFF)),
        (25, MAC + OTHER + b"\x88\xb5" + bytes(50), 0, (0xFFFF, 0xFFFF)),
    ],
)  # fmt: skip
def test_the_auxiliary_words(guests, rxdid, frame, valid, words):
    guest = guests(rxdid=rxdid)
    guest.post(1)
    guest.deliver(frame)
    data = raw(guest)
    assert struct.unpack("<H", data[16:18]) == (valid,)
    assert struct.unpack("<HH", data[28:]) == words


def test_the_tags_of_a_frame_that_come_beside_it_are_auxiliary_words_too(guests):
    guest = guests(rxdid=17)
    guest.post(1)
    guest.deliver(
        Packet(
            FRAME,
            flags=FIRST | LAST | VLAN_PRESENT | OUTER_VLAN_PRESENT,
            vlan=vlan_word(0x6005, 0x8100, 0, 0x9007),
        )
    )
    assert struct.unpack("<HH", raw(guest)[28:]) == (0x9007, 0x6005)


def test_a_frame_of_several_buffers_says_all_at_its_end(guests):
    guest = guests(rxdid=22, buffer_size=128)
    guest.post(4)
    frame = MAC[:1].replace(b"\x52", b"\x53") + MAC[1:] + OTHER + b"\x88\xb5" + bytes(range(250))
    assert guest.deliver(frame) == 1
    ((data, done),) = guest.received()
    assert data == frame
    assert [d.pkt_len for d in done] == [128, 128, 8]
    assert [d.status_error0 for d in done] == [DD, DD, DD | EOF]
    assert [d.mirror_umbcast for d in done] == [0, 0, 1 << 6]
    assert [d.ptype_flags for d in done] == [1, 1, 1]
    assert [d.rxdid for d in done] == [22, 22, 22]
    assert done[2].hash == 0xFFFFFFFF
    assert done[2].flow == 0
    assert guest.signals(1) == 1


def test_two_tags_in_a_flexible_descriptor(guests):
    """The outer one in L2TAG1 and the inner one in L2TAG2_2, as DPDK takes them."""
    guest = guests(rxdid=22)
    guest.port.set_vlan_offload(TagPlace.L2TAG1, TagPlace.L2TAG2, strip_tpid=0x88A8)
    guest.post(1)
    guest.deliver(FRAME[:12] + b"\x88\xa8\xa0\x05\x81\x00\x60\x07" + FRAME[12:] + bytes(6))
    ((data, (done,)),) = guest.received()
    assert data == FRAME + bytes(6)
    assert done.status_error0 & L2TAG1P
    assert (done.l2tag1, done.l2tag2_1, done.l2tag2_2) == (0xA005, 0, 0x6007)
    assert done.status_error1 == 1 << 11


def test_errors_have_places_of_their_own(guests):
    guest = guests(rxdid=2)
    guest.post(3)
    guest.deliver(FRAME)  # neither checksum is right
    assert guest.received()[0][1][0].status_error0 == DD | EOF | L3L4P | IPE
    right = bytearray(FRAME)
    right[24:26] = struct.pack(">H", 0xFFFF ^ sum_of(bytes(FRAME[14:34])))
    guest.deliver(bytes(right))
    assert guest.received()[0][1][0].status_error0 == DD | EOF | L3L4P | L4E
    guest.post(1, addresses=[0x10])  # nobody's memory
    guest.deliver(FRAME, FRAME)
    taken = [done for _, parts in guest.received() for done in parts]
    assert [d.status_error0 for d in taken] == [DD | EOF | L3L4P | IPE, DD | EOF | RXE]
    assert [d.rxdid for d in taken] == [2, 2]
    assert taken[1].length == 0


def sum_of(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_frame_check_sequence_is_said_to_be_there(guests):
    guest = guests(rxdid=22, crc_disable=True)
    guest.post(1)
    guest.deliver(FRAME + bytes(6))
    ((data, (done,)),) = guest.received()
    assert data == FRAME + bytes(6) + zlib.crc32(FRAME + bytes(6)).to_bytes(4, "little")
    assert done.status_error0 & CRCP


@pytest.mark.parametrize("rxdid", [3, 7, 15, 24, 26, 255])
def test_formats_that_there_are_not_are_refused(guests, rxdid):
    with pytest.raises(ValueError, match="descriptor formats"):
        guests(rxdid=rxdid)


def test_each_queue_has_its_own_format(guests):
    guest = guests(2, rxdid=22)
    rx = guest.port.rx[1]
    rx.configure(rx.base, rx.length, 2048, 9728)
    rx.enable()
    guest.port.set_rss(KEY, bytes([1]) * 64, 1 << 33)
    guest.post(1, 0)
    guest.post(1, 1)
    guest.deliver(good(FRAME))
    data = guest.memory.read(guest.entry(rx, 0), 32)
    assert struct.unpack_from("<I", data, 4) == (HASH,)  # the legacy one
    guest.port.set_rss(KEY, bytes(64), 1 << 33)
    guest.deliver(good(FRAME))
    assert raw(guest)[0] == 22
