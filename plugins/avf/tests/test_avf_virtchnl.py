"""Requests and replies, with payloads worked out by hand from avf.md sections 4.2 to 4.7."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_avf.config import AvfConfig
from emudev_avf.rings import TagPlace
from emudev_avf.testing.requests import (
    LINUX_CAPS,
    MAC,
    OFFER,
    VSI,
    Guest,
    configure,
    macs,
    select,
    setting,
    vlan_v2,
)
from emudev_core.events import EventKind

LINUX_7_CAPS = 0xBEBD8CF9
DPDK_CAPS = 0xBE0BC7E1


@pytest.fixture
def guest():
    made = Guest()
    made.negotiate()
    return made


# -- base


def test_version_always_succeeds_with_1_1():
    guest = Guest()
    for asked in ((1, 1), (1, 0), (2, 5)):
        assert guest.ask(1, struct.pack("<II", *asked)) == (0, struct.pack("<II", 1, 1))


def test_resources_have_the_golden_layout():
    """Worked out by hand: 4 pairs, 5 vectors, max_mtu 9728, caps, key 52, LUT 64; VSI 1, type 6.

    Linux 6.12 asks neither for the clock nor for many queues: & 0x1ABD8CF9 = 0x1A888CE1.
    """
    guest = Guest(mac="52:54:00:77:00:02")
    golden = "0100 0400 0500 0026 e18c881a 34000000 40000000"
    golden += "0100 0400 06000000 0000 525400770002"
    assert guest.negotiate() == (0, bytes.fromhex(golden))
    assert len(bytes.fromhex(golden)) == 36


@pytest.mark.parametrize("wanted", [LINUX_CAPS, LINUX_7_CAPS, DPDK_CAPS, 0xFFFF_FFFF])
def test_the_offer_is_granted_to_all_drivers(wanted):
    _, data = Guest().negotiate(wanted)
    assert struct.unpack_from("<I", data, 8) == (OFFER & wanted,)


def test_only_what_was_asked_for_is_granted():
    _, data = Guest().negotiate(0x0008_0001)
    assert struct.unpack_from("<I", data, 8) == (0x0008_0001,)


def test_quirk_13_of_both_vlan_kinds_only_the_second_is_granted():
    """Quirk 13: with both, Linux and DPDK choose differently."""
    guest = Guest(caps=OFFER | 0x10000)
    _, data = guest.negotiate(0x0001_8000)
    assert struct.unpack_from("<I", data, 8) == (0x8000,)
    _, data = guest.negotiate(0x0001_0000)
    assert struct.unpack_from("<I", data, 8) == (0x1_0000,)


def test_quirk_14_nothing_unimplemented_can_be_offered():
    """Quirks 13 and 14: RSS_AQ and IPSEC break drivers when they are granted."""
    for bit in (3, 8):
        with pytest.raises(ValueError, match="which is not implemented"):
            AvfConfig(caps=OFFER | 1 << bit)


def test_a_driver_of_1_0_asks_without_payload_and_gets_what_such_drivers_know():
    guest = Guest(caps=OFFER | 0x10000)
    guest.ask(1, struct.pack("<II", 1, 0))
    status, data = guest.ask(3)
    assert status == 0
    assert struct.unpack_from("<I", data, 8) == (0x0009_0001,)


@pytest.mark.parametrize(
    ("mtu", "reported"), [(9702, 9728), (9676, 9702), (1500, 1526), (1474, 1500)]
)
def test_fact_10_max_mtu_is_a_frame_size(mtu, reported):
    """Fact 10 and quirk 23: the guest's largest MTU is what is reported less 26."""
    _, data = Guest(mtu=mtu).negotiate()
    assert struct.unpack_from("<H", data, 6) == (reported,)


def test_fact_2_reset_is_the_only_request_without_reply(guest):
    """Fact 2: every request except RESET_VF gets one reply."""
    assert guest.send(2) == []
    assert guest.outside.resets == ["now"]


def test_quirk_11_resources_come_without_version_after_a_reset(guest):
    """Quirk 11: the version outlives a VF reset."""
    guest.vf.reset()
    status, data = guest.ask(3, struct.pack("<I", LINUX_CAPS))
    assert (status, len(data)) == (0, 36)


def test_statistics_are_12_counters(guest):
    status, data = guest.ask(15, select(0, 0))
    assert (status, data) == (0, bytes(96))


@pytest.mark.parametrize(
    "opcode",
    [0, 16, 17, *range(19, 23), *range(34, 45), 49, 50, *range(60, 136), 1000, 0x8000_0001,
     0xFFFF_FFFF],
)  # fmt: skip
def test_other_opcodes_are_not_supported_and_answered(guest, opcode):
    """Fact 2: same opcode, retval -64, no payload."""
    assert guest.send(opcode, b"x" * 100) == [(opcode, -64, b"")]


@pytest.mark.parametrize(
    ("opcode", "gate"),
    [(12, 16), (13, 16), (27, 16), (28, 16), (29, 6), (23, 19), (24, 19), (25, 19), (26, 19),
     (50, 9), (107, 9), (108, 9), (111, 9), (18, 27), (45, 27), (46, 27), (18, 19), (45, 19),
     (60, 31), (61, 31), *((op, 15) for op in range(51, 60))],
)  # fmt: skip
def test_a_request_whose_capability_was_not_granted_is_not_supported(opcode, gate):
    guest = Guest(caps=OFFER | 0x10000)
    guest.negotiate(0xFFFF_FFFF & ~(1 << gate))
    assert guest.send(opcode, bytes(64)) == [(opcode, -64, b"")]


# -- filters


OTHER = bytes.fromhex("020000000005")
MULTICAST = bytes.fromhex("333300000001")


def test_addresses_of_both_kinds_share_the_list(guest):
    message = macs((MAC, 1), (MULTICAST, 2)) + bytes(8)
    assert len(message) == 12 + 8 * 2
    assert guest.status(10, message) == 0
    assert guest.port.macs == {MAC, MULTICAST}
    assert guest.outside.events[-1].kind is EventKind.FILTER


def test_the_own_address_added_again_and_a_missing_one_deleted_succeed(guest):
    """A device that refused its own MAC received nothing afterwards."""
    for _ in range(2):
        assert guest.status(10, macs((MAC, 1))) == 0
    assert guest.port.macs == {MAC}
    for _ in range(2):
        assert guest.status(11, macs((MAC, 1))) == 0
    assert guest.port.macs == set()


def test_quirk_12_the_primary_address_is_what_resources_report_after_a_reset(guest):
    """Quirk 12 and the MAC rule: else a reset takes the guest's own address away."""
    guest.status(10, macs((OTHER, 1), (bytes.fromhex("020000000006"), 2)))
    guest.status(11, macs((MAC, 2)))
    guest.vf.reset()
    assert guest.ask(3, struct.pack("<I", LINUX_CAPS))[1][30:36] == OTHER
    guest.vf.reset(power=True)
    assert guest.ask(3, struct.pack("<I", LINUX_CAPS))[1][30:36] == MAC


def test_a_zero_address_and_wrong_counts_are_refused(guest):
    assert guest.status(10, macs((bytes(6), 1))) == -5
    assert guest.status(10, macs()) == -5
    assert guest.status(10, struct.pack("<HH", VSI, 2) + MAC + b"\1\0") == -5
    assert guest.status(10, macs((MAC, 1), vsi=7)) == -5
    assert guest.port.macs == set()


def test_the_list_takes_64_unicast_and_255_multicast_addresses_and_has_an_end(guest):
    """avf.md 4.5: 64 and 255; -18 when it is full, and then nothing is added."""
    for start in range(0, 1024, 128):
        batch = [(struct.pack(">HI", 0x0200, 1 + start + i), 2) for i in range(128)]
        assert guest.status(10, macs(*batch)) == 0
    assert guest.status(10, macs((MAC, 1))) == -18
    assert len(guest.port.macs) == 1024


@pytest.mark.parametrize(
    ("flags", "wanted"), [(3, (True, True)), (2, (False, True)), (0, (False, False))]
)
def test_promiscuous_modes_are_absolute(guest, flags, wanted):
    guest.status(14, struct.pack("<HH", VSI, 3))
    assert guest.status(14, struct.pack("<HH", VSI, flags)) == 0
    assert guest.port.promiscuous == wanted
    assert guest.status(14, struct.pack("<H", VSI)) == -5


# -- RSS


def test_key_and_table_reach_the_data_plane_in_their_legacy_lengths(guest):
    key, lut = bytes(range(1, 53)), bytes(i % 4 for i in range(64))
    assert guest.status(23, struct.pack("<HH", VSI, 52) + key + b"\0") == 0
    assert guest.status(24, struct.pack("<HH", VSI, 64) + lut + b"\0") == 0
    assert guest.port.rss == (key, lut, 0x8000_7E1F_8000_0000)
    assert guest.status(23, struct.pack("<HH", VSI, 0)) == 0
    assert guest.port.rss[0] == b""


@pytest.mark.parametrize(
    ("opcode", "message"),
    [
        (23, struct.pack("<HH", VSI, 40) + bytes(40)),
        (23, struct.pack("<HH", VSI, 52) + bytes(51)),
        (23, struct.pack("<HH", 9, 52) + bytes(52)),
        (24, struct.pack("<HH", VSI, 64) + bytes(63)),
        (24, struct.pack("<HH", VSI, 512) + bytes(512)),
        (24, struct.pack("<HH", VSI, 64) + bytes(63) + b"\4"),
        (26, struct.pack("<Q", 1 << 62)),
        (26, bytes(7)),
    ],
)
def test_a_hash_that_can_not_be_is_refused(guest, opcode, message):
    before = guest.port.rss
    assert guest.status(opcode, message) == -5
    assert guest.port.rss == before


def test_hashed_types_are_asked_and_set_as_dpdk_does(guest):
    """avf.md 4.7: SET_RSS_HENA(0) at init, then caps & wanted."""
    assert guest.status(26, struct.pack("<Q", 0)) == 0
    assert guest.port.rss[2] == 0
    status, data = guest.ask(25)
    assert (status, struct.unpack("<Q", data)) == (0, (0x8000_7E1F_8000_0000,))
    assert guest.status(26, struct.pack("<Q", 0x0000_7E1F_8000_0000)) == 0
    assert guest.port.rss[2] == 0x0000_7E1F_8000_0000


def test_without_rss_pf_the_registers_set_the_hash():
    """avf.md 7: Linux writes 0x80000000 / 0x80007A1E into the HENA registers."""
    guest = Guest()
    guest.negotiate(LINUX_CAPS & ~0x8_0000)
    key = [0x04030201 + 0x04040404 * i for i in range(13)]
    guest.vf.set_rss_registers([0x8000_0000, 0x8000_7A1E], key, [0x03020100] * 16)
    assert guest.port.rss == (bytes(range(1, 53)), bytes([0, 1, 2, 3] * 16), 0x8000_7A1E_8000_0000)


# -- resets and saving


def test_a_reset_clears_everything_but_what_lasts(guest):
    """avf.md 2.4."""
    configure(guest, 0)
    guest.status(8, select(1, 1))
    guest.status(10, macs((MAC, 1)))
    guest.status(14, struct.pack("<HH", VSI, 3))
    guest.status(52, vlan_v2(5))
    guest.status(54, setting())
    guest.status(23, struct.pack("<HH", VSI, 52) + bytes(range(1, 53)))
    guest.outside.events.clear()
    guest.vf.reset()
    assert not guest.port.rx[0].enabled
    assert guest.port.rx[0].length == 0
    assert guest.port.macs == set()
    assert guest.port.promiscuous == (False, False)
    assert guest.port.strip is TagPlace.NONE
    assert guest.port.rss[:2] == (b"", b"")
    assert EventKind.RESET in [e.kind for e in guest.outside.events]
    assert guest.send(52, vlan_v2(5)) == [(52, -64, b"")]  # nothing is granted any more


@settings(max_examples=300, deadline=None)
@given(
    opcode=st.one_of(st.integers(0, 140), st.integers(0, 0xFFFF_FFFF)),
    payload=st.binary(max_size=300),
    known=st.booleans(),
)
def test_fact_2_any_request_has_exactly_one_reply_and_never_raises(opcode, payload, known):
    """Fact 2 and quirk 5: random lengths, opcodes and counts; RESET_VF and REQUEST_QUEUES apart."""
    guest = _SHARED.setdefault(known, Guest(caps=OFFER | 0x10000))
    if known:
        guest.negotiate()
        payload = struct.pack("<H", VSI) + payload
    sent = guest.send(opcode, payload)
    silent = opcode == 2 or (opcode == 29 and guest.outside.resets.count("announced"))
    if silent and not sent:
        guest.outside.resets.clear()
        return
    assert [s[0] for s in sent if s[0] != 17 or opcode == 17] == [opcode]
    assert sent[0][1] <= 0


_SHARED = {}


@settings(max_examples=150, deadline=None)
@given(
    opcode=st.sampled_from([6, 7, 10, 11, 12, 23, 24, 52, 53]),
    count=st.integers(0, 0xFFFF),
    size=st.integers(0, 600),
)
def test_any_count_with_too_few_bytes_is_refused(opcode, count, size):
    guest = _SHARED.setdefault(True, Guest(caps=OFFER | 0x10000))
    guest.negotiate()
    element = {6: 64, 7: 12, 10: 8, 11: 8, 12: 2, 23: 1, 24: 1, 52: 32, 53: 32}[opcode]
    head = {6: 8, 7: 2, 52: 8, 53: 8}.get(opcode, 4)
    start = struct.pack("<H", count) if opcode == 7 else struct.pack("<HH", VSI, count)
    payload = (start.ljust(head, b"\0") + b"\1" * size)[: max(head, size)]
    if len(payload) < head + element * count:
        assert guest.status(opcode, payload) in (-5, -64)
