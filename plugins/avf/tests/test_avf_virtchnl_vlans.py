"""Requests about VLANs, with payloads worked out by hand from avf.md section 4.6."""

import struct

import pytest

from emudev_avf.rings import TagPlace
from emudev_avf.testing.requests import (
    LINUX_CAPS,
    OFFER,
    VSI,
    Guest,
    setting,
    vlan_v2,
)


@pytest.fixture
def guest():
    made = Guest()
    made.negotiate()
    return made


def test_the_golden_vlan_capabilities(guest):
    """avf.md 4.6, the recommended reply: 0x80000001, 0x80000101 twice, all inner 0; 40 bytes."""
    status, data = guest.ask(51)
    words = struct.unpack("<IIIHHIIIIIB3s", data)
    assert status == 0
    assert len(data) == 40
    assert words[:3] == (0x8000_0001, 0, 1)
    assert words[3] >= 64
    assert words[5:] == (0x8000_0101, 0, 0x8000_0101, 0, 1, 0, bytes(3))


def test_unknown_vlans_are_dropped_and_added_ones_received(guest):
    """avf.md 4.6: Linux shows rx-vlan-filter on, so unknown ids are dropped."""
    assert guest.port.vids == set()
    assert guest.status(52, vlan_v2(5, 100)) == 0
    assert len(vlan_v2(5, 100)) == 8 + 32 * 2
    assert guest.status(52, vlan_v2(5)) == 0
    assert guest.port.vids == {5, 100}
    assert (
        guest.status(53, vlan_v2(5, 6)) == 0
    )  # 6 is absent: no error, or the driver resets for ever
    assert guest.port.vids == {100}


def test_every_id_can_be_added(guest):
    for start in range(1, 4095, 100):
        assert guest.status(52, vlan_v2(*range(start, min(start + 100, 4095)))) == 0
    assert guest.port.vids == set(range(1, 4095))


@pytest.mark.parametrize(
    "message",
    [vlan_v2(), vlan_v2(5)[:-1], vlan_v2(4096), vlan_v2(5, tpid=0x88A8), vlan_v2(5, inner=5),
     vlan_v2(5, mask=0xFFF)],
)  # fmt: skip
def test_filters_that_were_not_offered_are_refused(guest, message):
    assert guest.status(52, message) == -5
    assert guest.status(53, message) == -5
    assert guest.port.vids == set()


def test_stripping_and_insertion_follow_their_messages(guest):
    assert guest.port.strip is TagPlace.NONE
    assert guest.status(54, setting()) == 0
    assert guest.port.strip is TagPlace.L2TAG1
    assert guest.status(55, setting()) == 0
    assert guest.port.strip is TagPlace.NONE
    assert guest.status(56, setting()) == 0
    assert guest.status(57, setting()) == 0


def test_filtering_can_be_turned_off(guest):
    assert guest.status(59, setting()) == 0
    assert guest.port.vids is None
    assert guest.status(58, setting()) == 0
    assert guest.port.vids == set()


@pytest.mark.parametrize(
    "message", [setting(0), setting(2), setting(1, 1), setting(0, 1), setting()[:15]]
)
@pytest.mark.parametrize("opcode", range(54, 60))
def test_settings_that_were_not_offered_are_refused(guest, opcode, message):
    assert guest.status(opcode, message) == -5


def test_the_first_version_of_vlans_works_where_it_was_granted():
    guest = Guest(caps=OFFER | 0x10000)
    guest.negotiate(LINUX_CAPS & ~0x8000)
    message = struct.pack("<HHHHH", VSI, 2, 5, 6, 0)
    assert len(message) == 6 + 2 * 2
    assert guest.status(12, message) == 0
    assert guest.port.vids == {5, 6}
    assert guest.status(13, struct.pack("<HHH", VSI, 1, 7)) == 0
    assert guest.status(12, struct.pack("<HHH", VSI, 1, 4096)) == -5
    assert guest.status(12, struct.pack("<HH", VSI, 0)) == -5
    assert guest.status(27) == 0
    assert guest.port.strip is TagPlace.L2TAG1
    assert guest.status(28) == 0
    assert guest.port.strip is TagPlace.NONE


def test_a_guest_without_any_vlan_capability_receives_all_tags():
    guest = Guest()
    guest.negotiate(LINUX_CAPS & ~0x1_8000)
    assert guest.port.vids is None
