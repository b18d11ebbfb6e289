"""Tags of received frames: stripped or left, in them or beside them; expectations: avf.md 6.6."""

import struct

import pytest

from emudev_avf.rings import TagPlace
from emudev_avf.testing.frames import (
    ADDRESSES4,
    ether,
    ones_sum,
    tcp4,
)
from emudev_net.burst import (
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
L2TAG1P, L3L4P, L4E = (1 << n for n in (2, 3, 23))


TAG = b"\x81\x00\x60\x05"


def test_a_tag_stays_in_the_frame_unless_stripping_is_on(guest):
    guest.post(1)
    frame = ether(bytes(100), 0x88B5, tags=TAG)
    guest.deliver(frame)
    ((data, (done,)),) = guest.received()
    assert data == frame
    assert not done.qword1 & L2TAG1P


@pytest.mark.parametrize("split", [0, 5, 13, 15, 40])
@pytest.mark.parametrize("place", [TagPlace.L2TAG1, TagPlace.L2TAG2])
def test_a_tag_is_stripped_into_the_agreed_field(guest, place, split):
    guest.port.set_vlan_offload(place)
    guest.post(1)
    guest.deliver(ether(tcp4(b"x" * 100), tags=TAG), split=split)
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
    guest.deliver(ether(b"a" * 42, 0x88B5, tags=TAG))
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
    assert inside[0] == ether(tcp4(b"x" * 100), tags=TAG)
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
    assert guest.received()[0][0] == ether(bytes(100), 0x88B5, tags=b"\x88\xa8\x90\x07" + TAG)


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
    assert first[0] == ether(tcp4(b"y" * 99), tags=TAG)
    assert second[0] == good
