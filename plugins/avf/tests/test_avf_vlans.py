"""VLANs in full: the four offers, one and two tags, both ways; expectations: avf.md 4.6 and 6.5."""

import struct

import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.rings import Port, TagPlace
from emudev_avf.vf import Vf
from emudev_avf.virtchnl.dispatch import Dispatcher
from emudev_net.burst import (
    CSUM_WANTED,
    FIRST,
    LAST,
    OUTER_VLAN_PRESENT,
    VLAN_PRESENT,
    Packet,
    vlan_word,
)

MAC = bytes.fromhex("525400770002")
OTHER = bytes.fromhex("525400770001")
DPDK_CAPS = 0xBE0BC7E1
BODY = bytes(range(100))
S5, C7, C9 = b"\x88\xa8\x20\x05", b"\x81\x00\x40\x07", b"\x81\x00\x00\x09"
N3 = b"\x91\x00\x00\x03"


def ether(tags=b"", kind=b"\x88\xb5"):
    return MAC + OTHER + tags + kind + BODY


def beside(frame, tci, tpid=0x8100, outer=None):
    flags = FIRST | LAST | VLAN_PRESENT | (0 if outer is None else OUTER_VLAN_PRESENT)
    return Packet(frame, flags=flags, vlan=vlan_word(tci, tpid, 0, outer or 0))


# -- receive


NO, ONE, TWO = TagPlace.NONE, TagPlace.L2TAG1, TagPlace.L2TAG2


@pytest.mark.parametrize("split", [0, 3, 15])
@pytest.mark.parametrize(
    ("strip", "tpid", "frame", "left", "tag1", "tag2"),
    [
        # A tag of the other ethertype stays.
        ((ONE, NO), 0x88A8, ether(C7), C7, None, None),
        ((ONE, NO), 0x88A8, ether(S5), b"", 0x2005, None),
        ((ONE, NO), 0x8100, ether(S5), S5, None, None),
        ((ONE, NO), 0x9100, ether(N3), b"", 3, None),
        # Two tags.
        ((ONE, NO), 0x88A8, ether(S5 + C7), C7, 0x2005, None),
        ((NO, TWO), 0x88A8, ether(S5 + C7), S5, None, 0x4007),
        ((ONE, TWO), 0x88A8, ether(S5 + C7), b"", 0x2005, 0x4007),
        ((ONE, TWO), 0x8100, ether(C7 + C9), b"", 0x4007, 9),
        ((ONE, TWO), 0x8100, ether(S5 + C7), S5, None, 0x4007),
        ((ONE, TWO), 0x88A8, ether(S5 + S5), S5, 0x2005, None),
        ((NO, NO), 0x8100, ether(S5 + C7), S5 + C7, None, None),
        # The only tag is never an inner one.
        ((NO, TWO), 0x8100, ether(C7), C7, None, None),
        # Three: the third is payload.
        ((ONE, TWO), 0x88A8, ether(S5 + C7 + C9), C9, 0x2005, 0x4007),
        # Tags that travel beside the frame come first.
        ((ONE, TWO), 0x8100, beside(ether(), 0x4007), b"", 0x4007, None),
        ((ONE, TWO), 0x88A8, beside(ether(C7), 0x2005, 0x88A8), b"", 0x2005, 0x4007),
        ((NO, TWO), 0x88A8, beside(ether(C7), 0x2005, 0x88A8), S5, None, 0x4007),
        ((ONE, NO), 0x88A8, beside(ether(C7), 0x2005, 0x88A8), C7, 0x2005, None),
        ((NO, NO), 0x88A8, beside(ether(C7), 0x2005, 0x88A8), S5 + C7, None, None),
        ((ONE, TWO), 0x88A8, beside(ether(), 0x4007, outer=0x2005), b"", 0x2005, 0x4007),
        ((NO, TWO), 0x88A8, beside(ether(), 0x4007, outer=0x2005), S5, None, 0x4007),
        ((ONE, NO), 0x88A8, beside(ether(), 0x4007, outer=0x2005), C7, 0x2005, None),
        ((ONE, TWO), 0x88A8, beside(ether(C9), 0x4007, outer=0x2005), C9, 0x2005, 0x4007),
    ],
)  # fmt: skip
def test_tags_are_taken_out_one_by_one(guests, strip, tpid, frame, left, tag1, tag2, split):
    guest = guests()
    guest.port.set_vlan_offload(*strip, strip_tpid=tpid)
    guest.post(1)
    guest.deliver(frame, split=split)
    ((data, (done,)),) = guest.received()
    assert data == ether(left)
    assert (done.l2tag1 if done.qword1 & 4 else None) == tag1
    assert (done.l2tag2_2 if done.ext_status & 1 else None) == tag2


def test_a_frame_too_short_for_its_tag_is_delivered_as_it_is(guests):
    guest = guests()
    guest.port.set_vlan_offload(TagPlace.L2TAG1, TagPlace.L2TAG2)
    guest.post(3)
    for frame in (ether()[:12] + b"\x81\x00", ether()[:12] + C7[:3], ether()[:12] + C7 + C9[:2]):
        guest.deliver(frame)
    data = [frame for frame, _ in guest.received()]
    assert data[0] == (ether()[:12] + b"\x81\x00").ljust(60, b"\0")
    assert data[1] == (ether()[:12] + C7[:3]).ljust(60, b"\0")
    assert data[2][:14] in (ether()[:12] + C9[:2], ether()[:12] + C7[:2])


def test_each_kind_of_tags_has_its_own_filter(guests):
    guest = guests()
    guest.port.set_promiscuous(False, False)
    guest.port.set_macs({MAC}, set())
    guest.port.set_vlan_filter({7}, {5}, None, {9})
    guest.post(16)
    wanted = [ether(), ether(C7), ether(S5), ether(N3), ether(C7 + C9), ether(S5 + C9)]
    refused = [ether(C9), ether(b"\x88\xa8\x00\x07"), ether(S5 + C7), ether(C9 + C9)]
    guest.deliver(*wanted, *refused)
    assert [frame for frame, _ in guest.received()] == wanted
    assert guest.port.rx[0].drops["vlan-filtered"] == 4
    assert guest.port.stats().rx_discards == 0


def test_frames_that_are_not_for_the_guest_are_counted_by_reason(guests):
    guest = guests(2)
    guest.port.set_promiscuous(False, False)
    guest.post(2)
    guest.deliver(ether(), OTHER + ether()[6:])
    guest.port.set_promiscuous(True, True)
    guest.port.rx[0].disable()
    guest.deliver(ether())
    stats = guest.port.kernels(0).stats()
    assert {k: n for k, n in stats.dropped.items() if n} == {"filtered": 2, "disabled": 1}
    assert guest.port.filtered == 2


# -- transmit


@pytest.mark.parametrize(
    ("insert", "one", "two", "both"),
    [
        ((0x8100, 0x8100, 0x88A8), 0x8100, 0x8100, (0x8100, True)),
        ((0x8100, 0x88A8, 0x88A8), 0x8100, 0x88A8, (0x8100, True)),
        ((0x8100, 0x9100, 0x9100), 0x8100, 0x9100, (0x9100, False)),
        ((0x8100, 0x8100, 0x8100), 0x8100, 0x8100, (0x8100, False)),
        ((0x88A8, 0x88A8, 0x88A8), 0x88A8, 0x88A8, (0x88A8, True)),
    ],
)
def test_tags_are_inserted_with_their_ethertypes(guests, insert, one, two, both):
    """With both, that of L2TAG2 is the outer one."""
    guest = guests()
    guest.port.set_vlan_offload(insert_tpids=insert)
    il2tag2 = (5 << 32, 1 | 4 << 4)
    guest.send(ether(), 0xF, l2tag1=6)
    guest.put(il2tag2)
    guest.send(ether(), 0x7)
    guest.put(il2tag2)
    guest.send(ether(), 0xF, l2tag1=6)
    first, second, third = guest.peek()
    assert first.vlan & 0xFFFF_FFFF == one << 16 | 6
    assert second.vlan & 0xFFFF_FFFF == two << 16 | 5
    tpid, outer = both
    assert bool(third.flags & OUTER_VLAN_PRESENT) is outer
    if outer:
        assert third.vlan & 0xFFFF_FFFF == tpid << 16 | 6
        assert third.vlan >> 48 & 0xFFFF == 5
        assert third.data == ether()
    else:
        assert third.vlan & 0xFFFF_FFFF == tpid << 16 | 5
        assert third.data == ether(b"\x81\x00\x00\x06")


@pytest.mark.parametrize("pieces", [[], [5], [12], [14, 40], [1] * 13])
def test_an_inner_tag_in_the_frame_moves_what_is_said_of_it(guests, pieces):
    guest = guests()
    guest.port.set_vlan_offload(insert_tpids=(0x8100, 0x8100, 0x8100))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 60, 1, 0, 64, 17, 0)
    frame = MAC + OTHER + b"\x08\x00" + head + bytes(range(1, 9)) + bytes(range(40))
    guest.put((5 << 32, 1 | 4 << 4))
    guest.send(frame, 0x34F, pieces, mac=14, ip=20, l4=8, l2tag1=6)
    (packet,) = guest.peek()
    assert packet.data == frame[:12] + b"\x81\x00\x00\x06" + frame[12:]
    assert packet.flags & CSUM_WANTED
    assert packet.offload & 0xFFFF_FFFF == 38 | 6 << 16
    guest.release()
    assert guest.port.stats().tx_bytes == len(frame) + 4


def test_an_inner_tag_in_the_frame_is_part_of_the_header_of_each_segment(guests):
    guest = guests()
    guest.port.set_vlan_offload(insert_tpids=(0x8100, 0x8100, 0x8100))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 0, 1, 0, 64, 6, 0) + bytes(range(1, 9))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 5 << 4, 0x10, 512, 0, 0)
    frame = MAC + OTHER + b"\x08\x00" + head + tcp + bytes(300)
    guest.put((5 << 32, 1 | 5 << 4 | 300 << 30 | 100 << 50))
    guest.send(frame, 0x16F, mac=14, ip=20, l4=20, l2tag1=6)
    (packet,) = guest.peek()
    assert packet.data[:18] == frame[:12] + b"\x81\x00\x00\x06" + frame[12:14]
    assert packet.offload & 0xFFFF_FFFF_FFFF_FFFF == 38 | 16 << 16 | 58 << 32 | 100 << 48
    guest.release()
    assert guest.port.stats()[6:8] == (300 + 3 * 58, 3)


# -- requests


class Driver:
    """A VF with an offer of VLANs, negotiated as DPDK does."""

    def __init__(self, vlan, wanted=DPDK_CAPS, **keys):
        self.sent = []
        config = AvfConfig(vlan=vlan, **keys)
        self.port = Port(1, 2)
        self.vf = Vf(config, MAC, self.port, self)
        self.dispatcher = Dispatcher(self.vf)
        self.ask(1, struct.pack("<II", 1, 1))
        self.ask(3, struct.pack("<I", wanted))

    def send(self, opcode, status, payload):
        self.sent.append((opcode, status, payload))

    def post(self, event):
        pass

    def ask(self, opcode, payload=b""):
        self.dispatcher.receive(opcode, payload)
        ((answered, status, data),) = self.sent
        self.sent.clear()
        assert answered == opcode
        return status, data

    def setting(self, opcode, outer=0, inner=0):
        return self.ask(opcode, struct.pack("<IIH6x", outer, inner, 1))[0]

    def filter(self, opcode, outer=(0, 0), inner=(0, 0)):
        message = struct.pack("<HHI", 1, 1, 0)
        message += struct.pack("<HHHHHHHH16x", inner[1], 0, inner[0], 0, outer[1], 0, outer[0], 0)
        return self.ask(opcode, message)[0]

    def state(self):
        return self.vf.state.vlan


CAPS = {
    "802.1q": (0x80000001, 0, 1, 0x80000101, 0, 0x80000101, 0, 1),
    "802.1ad": (0xA0000003, 0, 3, 0xC0000103, 0, 0xC0000103, 0, 1),
    "qinq": (0xA0000007, 1, 7, 0xC0000107, 0x80000401, 0xC0000207, 0x80000101, 1),
    "inner": (0, 0x80000001, 1, 0, 0x80000101, 0, 0x80000101, 1),
}


@pytest.mark.parametrize("vlan", CAPS)
def test_the_golden_capabilities_of_each_offer(vlan):
    """avf.md 4.6: the words are ethertypes, the place of the tag, and whether it can be toggled."""
    status, data = Driver(vlan).ask(51)
    words = struct.unpack("<IIIHHIIIIIB3s", data)
    assert status == 0
    assert words[:3] + words[5:10] == CAPS[vlan]
    assert words[3] >= 64
    assert words[10] == 0


@pytest.mark.parametrize(
    ("vlan", "good", "bad"),
    [
        ("802.1q", [(1, 0)], [(2, 0), (4, 0), (3, 0), (0, 1), (1, 1), (0, 0), (8, 0)]),
        ("802.1ad", [(1, 0), (2, 0)], [(4, 0), (3, 0), (0, 1), (1, 1), (0, 0)]),
        ("qinq", [(1, 0), (2, 0), (4, 0), (0, 1), (2, 1)], [(3, 0), (0, 2), (0, 0), (8, 1)]),
        ("inner", [(0, 1)], [(1, 0), (1, 1), (0, 2), (0, 0)]),
    ],
)
@pytest.mark.parametrize("opcode", [54, 55, 56, 57])
def test_settings_are_taken_as_far_as_they_were_offered(vlan, good, bad, opcode):
    driver = Driver(vlan)
    assert [driver.setting(opcode, *words) for words in good] == [0] * len(good)
    assert [driver.setting(opcode, *words) for words in bad] == [-5] * len(bad)


def test_one_ethertype_is_stripped_at_a_time_and_inserted_too():
    driver = Driver("802.1ad")
    assert driver.setting(54, 1) == 0
    assert (driver.state().strip, driver.state().insert) == (0x8100, 0x8100)
    assert driver.setting(54, 2) == 0
    assert (driver.state().strip, driver.state().insert) == (0x88A8, 0x88A8)
    assert driver.setting(55, 2) == 0
    assert driver.state().strip == 0
    assert driver.setting(56, 1) == 0
    assert driver.state().insert == 0x8100


def test_two_tags_are_set_one_by_one_or_together():
    driver = Driver("qinq")
    assert driver.setting(54, 2, 1) == 0
    assert (driver.state().strip, driver.state().strip_inner) == (0x88A8, True)
    assert driver.setting(55, 0, 1) == 0
    assert (driver.state().strip, driver.state().strip_inner) == (0x88A8, False)


def test_where_the_only_tag_is_called_inner_it_is_the_same_to_the_frames():
    driver = Driver("inner")
    assert driver.setting(54, 0, 1) == 0
    assert driver.filter(52, inner=(0x8100, 7)) == 0
    assert driver.filter(52, outer=(0x8100, 8)) == -5
    assert driver.state().strip == 0x8100
    assert driver.state().vids() == {7}
    assert driver.state().inner == set()


def test_filters_name_the_ethertype_of_their_tag():
    driver = Driver("qinq")
    assert driver.filter(52, outer=(0x88A8, 5), inner=(0x8100, 7)) == 0
    assert driver.filter(52, outer=(0x8100, 9)) == 0
    assert driver.filter(52, outer=(0x86DD, 9)) == -5
    assert driver.filter(52, inner=(0x88A8, 9)) == -5
    assert driver.filter(52, outer=(0x88A8, 4096)) == -5
    assert driver.filter(52) == -5
    assert driver.state().outer[0x88A8] == {5}
    assert driver.state().outer[0x8100] == {9}
    assert driver.state().inner == {7}
    assert driver.filter(53, outer=(0x88A8, 5), inner=(0x8100, 7)) == 0
    assert driver.state().outer[0x88A8] == set()
    assert driver.state().inner == set()


def test_filtering_is_turned_off_for_one_ethertype():
    driver = Driver("802.1ad")
    assert driver.setting(59, 2) == 0
    assert driver.state().unfiltered == 2
    assert driver.setting(58, 2) == 0
    assert driver.state().unfiltered == 0
    assert Driver("qinq").setting(59, 0, 1) == -5


def test_version_1_knows_nothing_of_the_choice():
    driver = Driver("qinq", DPDK_CAPS & ~0x8000, caps=0x1_0001)
    assert driver.ask(27)[0] == 0
    assert driver.state().strip == 0x8100
    assert driver.ask(12, struct.pack("<HHH", 1, 1, 7))[0] == 0
    assert driver.state().vids() == {7}
    assert driver.ask(51)[0] == -64


# -- descriptor formats


def test_the_formats_that_a_driver_is_told():
    """avf.md 4.10: bit 1 is always set; 2, 6 and 16 to 23 and 25 are those of 6.8."""
    status, data = Driver("802.1q").ask(44)
    assert (status, struct.unpack("<Q", data)) == (0, (0x2FF0046,))
    assert Driver("802.1q", DPDK_CAPS & ~0x0400_0000).ask(44)[0] == -64


@pytest.mark.parametrize(("rxdid", "status"), [(0, 0), (1, 0), (22, 0), (2, 0), (3, -5), (24, -5)])
def test_a_queue_gets_the_format_that_it_asks_for(rxdid, status):
    driver = Driver("802.1q")
    rx = struct.pack(
        "<HHIHHIIBBBBQiI", 1, 0, 512, 0, 0, 2048, 1518, 0, rxdid, 0, 0, 0x1_0000_0000, 0, 0
    )
    tx = struct.pack("<HHHHQQ", 1, 0, 0, 0, 0, 0)
    assert driver.ask(6, struct.pack("<HHI", 1, 1, 0) + tx + rx)[0] == status
    if status == 0:
        assert driver.vf.state.rx[0].rxdid == rxdid
