"""Requests and replies, with payloads worked out by hand from avf.md sections 4.2 to 4.7."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emudev_avf.config import AvfConfig
from emudev_avf.rings import Port, TagPlace
from emudev_avf.vf import Vf
from emudev_avf.virtchnl.dispatch import Dispatcher
from emudev_core.events import EventKind

MAC = bytes.fromhex("525400770002")
LINUX_CAPS = 0x1ABD8CF9
LINUX_7_CAPS = 0xBEBD8CF9
DPDK_CAPS = 0xBE0BC7E1
OFFER = 0xBE88CEE1
VSI = 1


class WatchedPort(Port):
    """The data plane, which remembers what it was told."""

    def set_macs(self, unicast, multicast):
        self.macs = {*unicast, *multicast}
        super().set_macs(unicast, multicast)

    def set_promiscuous(self, unicast, multicast):
        self.promiscuous = (unicast, multicast)
        super().set_promiscuous(unicast, multicast)

    def set_vlan_filter(self, vids, *others):
        self.vids = None if vids is None else set(vids)
        super().set_vlan_filter(vids, *others)

    def set_vlan_offload(self, strip=TagPlace.NONE, *args, **keys):
        self.strip = strip
        super().set_vlan_offload(strip, *args, **keys)

    def set_rss(self, key, lut, hena, rules=None, function=0):
        self.rss = (key, lut, hena)
        self.rss_rules = (dict(rules or {}), function)
        super().set_rss(key, lut, hena, rules, function)


class Outside:
    """The device around the VF."""

    def __init__(self):
        self.sent = []
        self.events = []
        self.resets = []

    def send(self, opcode, status, payload):
        self.sent.append((opcode, status, payload))

    def begin_reset(self):
        self.resets.append("now")

    def announce_reset(self):
        self.resets.append("announced")

    def post(self, event):
        self.events.append(event)


class Guest:
    """A VF and its dispatcher, as a driver sees them."""

    def __init__(self, **keys):
        config = AvfConfig(**{"queues": 4, **keys})
        self.outside = Outside()
        self.port = WatchedPort(config.queues, config.queues + 1)
        self.vf = Vf(config, MAC, self.port, self.outside)
        self.dispatcher = Dispatcher(self.vf)

    def send(self, opcode, payload=b""):
        """Everything that the device sent in answer."""
        self.outside.sent.clear()
        self.dispatcher.receive(opcode, payload)
        return list(self.outside.sent)

    def ask(self, opcode, payload=b""):
        """Status and payload of the only reply."""
        sent = self.send(opcode, payload)
        assert [s[0] for s in sent] == [opcode], sent
        return sent[0][1], sent[0][2]

    def status(self, opcode, payload=b""):
        status, data = self.ask(opcode, payload)
        assert status == 0 or data == b""
        return status

    def negotiate(self, caps=LINUX_CAPS):
        assert self.ask(1, struct.pack("<II", 1, 1)) == (0, struct.pack("<II", 1, 1))
        return self.ask(3, struct.pack("<I", caps))


@pytest.fixture
def guest():
    made = Guest()
    made.negotiate()
    return made


def pair(
    queue=0, *, tx=(512, 0x1000_0000), rx=(512, 0x2000_0000), buffer=1536, frame=9728, crc=0,
    rxdid=0, split=0, vsi=VSI,
):  # fmt: skip
    return struct.pack(
        "<HHHHQQ HHIHHIIBBBBQiI",
        vsi, queue, tx[0], 0, tx[1], 0,
        vsi, queue, rx[0], 0, split, buffer, frame, crc, rxdid, 0, 0, rx[1], 0, 0,
    )  # fmt: skip


def queues(*pairs, vsi=VSI, count=None):
    """CONFIG_VSI_QUEUES; pack has no padding between the halves: 24 + 40 bytes."""
    return struct.pack("<HHI", vsi, len(pairs) if count is None else count, 0) + b"".join(pairs)


def select(rx, tx, vsi=VSI):
    return struct.pack("<HHII", vsi, 0, rx, tx)


def configure(guest, *numbers):
    pairs = [
        pair(n, tx=(512, 0x1000_0000 + (n << 16)), rx=(512, 0x2000_0000 + (n << 16)))
        for n in numbers
    ]
    assert guest.status(6, queues(*pairs)) == 0


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


# -- queues


def test_queues_are_configured_as_linux_sends_them(guest):
    """Quirk 9: the legacy length, one element longer; quirk 8: rxdid 0 means legacy 32 bytes."""
    message = queues(pair(0), pair(1)) + bytes(64)
    assert len(message) == 72 + 64 * 2
    assert guest.status(6, message) == 0
    assert (guest.port.rx[0].base, guest.port.rx[0].length) == (0x2000_0000, 512)
    assert (guest.port.tx[1].base, guest.port.tx[1].length) == (0x1000_0000, 512)
    assert guest.port.rx[2].length == 0


def test_quirk_8_rxdid_0_and_1_are_the_same_and_others_refused():
    """Quirk 8: rxdid 0 does not mean 16-byte descriptors. Without RX_FLEX_DESC there is no more."""
    guest = Guest()
    guest.negotiate(DPDK_CAPS & ~0x0400_0000)
    assert guest.status(6, queues(pair(rxdid=0))) == 0
    assert guest.status(6, queues(pair(rxdid=1))) == 0
    assert guest.status(6, queues(pair(rxdid=2))) == -5
    assert guest.status(6, queues(pair(rxdid=22))) == -5


def test_quirk_9_shorter_than_exact_is_refused_and_longer_is_fine(guest):
    """Quirk 9 and avf.md 4.2: accept len >= exact, ignore trailing bytes, reject shorter."""
    exact = queues(pair(0), pair(1))
    assert len(exact) == 8 + 64 * 2
    for length, status in (
        (len(exact) - 1, -5),
        (len(exact), 0),
        (len(exact) + 500, 0),
        (7, -5),
        (0, -5),
    ):
        assert guest.status(6, (exact + bytes(500))[:length]) == status


def test_quirk_19_ring_addresses_are_128_byte_aligned_and_may_be_above_4_gib(guest):
    """Quirk 19."""
    assert guest.status(6, queues(pair(tx=(64, 0x80), rx=(64, 0x7F_FFFF_FF80)))) == 0
    assert guest.port.rx[0].base == 0x7F_FFFF_FF80
    assert guest.status(6, queues(pair(tx=(64, 0x40)))) == -5
    assert guest.status(6, queues(pair(rx=(64, 0x1040)))) == -5


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue": 4},
        {"queue": 65535},
        {"vsi": 2},
        {"tx": (8168, 0x1000)},
        {"tx": (12, 0x1000)},
        {"tx": (0, 0x1000)},
        {"tx": (64, 0)},
        {"rx": (0x1_0020, 0x1000)},
        {"rx": (8, 0x1000)},
        {"rx": (0xFFFF_FFE0, 0x1000)},
        {"rx": (64, 0xFFFF_FFFF_FFFF_FF80)},
        {"buffer": 0},
        {"buffer": 1500},
        {"buffer": 16384},
        {"frame": 63},
        {"frame": 16383},
        {"split": 1},
    ],
)
def test_a_queue_that_can_not_be_is_refused_and_nothing_changes(guest, wrong):
    assert guest.status(6, queues(pair(0, tx=(64, 0x3000)), pair(**{"queue": 1, **wrong}))) == -5
    assert guest.port.tx[0].length == 0


def test_counts_that_can_not_be_are_refused(guest):
    assert guest.status(6, queues()) == -5
    assert guest.status(6, queues(*(pair(0) for _ in range(5)))) == -5
    assert guest.status(6, queues(pair(0), count=0xFFFF)) == -5


def test_a_half_without_ring_is_left_unconfigured(guest):
    """avf.md 4.5: DPDK with fewer RX than TX queues."""
    assert guest.status(6, queues(pair(0, rx=(0, 0), buffer=0, frame=0))) == 0
    assert guest.port.tx[0].length == 512
    assert guest.port.rx[0].length == 0


def test_queues_that_a_message_does_not_list_keep_theirs(guest):
    configure(guest, 0)
    configure(guest, 1)
    assert guest.port.rx[0].base == 0x2000_0000


def test_frames_keep_their_crc_only_where_that_was_granted(guest):
    assert guest.status(6, queues(pair(crc=1))) == 0
    assert guest.vf.state.rx[0].crc_disable
    other = Guest()
    other.negotiate(LINUX_CAPS & ~0x400)
    assert other.status(6, queues(pair(crc=1))) == -5


def test_single_halves_are_configured_too(guest):
    """CONFIG_TX_QUEUE and CONFIG_RX_QUEUE: the same 24 and 40 bytes."""
    message = pair(2)
    assert guest.status(4, message[:24]) == 0
    assert guest.status(5, message[24:]) == 0
    assert guest.status(4, message[:23]) == -5
    assert guest.status(5, message[24:63]) == -5
    assert (guest.port.tx[2].length, guest.port.rx[2].length) == (512, 512)


def test_fact_5_the_tail_of_a_queue_that_is_not_configured_is_kept(guest):
    """Fact 5 and quirk 6: RX tail before CONFIG and ENABLE, TX tail 0 before ENABLE (DPDK)."""
    guest.port.rx[0].doorbell.write(511)
    guest.port.tx[0].doorbell.write(0)
    configure(guest, 0)
    assert guest.status(8, select(1, 1)) == 0
    assert guest.port.rx[0].doorbell.value == 511


def irq_map(*entries):
    return struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHHHHH", VSI, vector, rx, tx, 0, 1) for vector, rx, tx in entries
    )


def test_fact_6_the_map_of_vectors_comes_first_and_stays(guest):
    """Fact 6 and quirk 7: before the queues, with vector 0 and empty maps; only a reset clears."""
    linux = irq_map((1, 0b0001, 0b0001), (2, 0b0010, 0b0010), (0, 0, 0)) + bytes(12)
    assert len(linux) == 14 + 12 * 3
    assert guest.status(7, linux) == 0
    for _ in range(2):
        configure(guest, 0, 1)
        assert guest.status(8, select(3, 3)) == 0
        assert guest.status(9, select(3, 3)) == 0
    assert [guest.port.rx[i].vector for i in range(4)] == [1, 2, None, None]
    assert guest.port.tx[1].vector == 2
    guest.vf.reset()
    assert guest.port.rx[0].vector is None


def test_the_map_says_which_throttles_a_vector_uses(guest):
    # avf.md 4.5: rxitr_idx and txitr_idx; 3 is none.
    entry = struct.pack("<HHHHHHH", 1, VSI, 1, 1, 1, 2, 3)
    assert guest.status(7, entry) == 0
    vector = guest.port.vectors[1]
    assert vector.throttle_of(True) == 2
    assert vector.throttle_of(False) == 3


def test_queues_absent_from_a_later_map_keep_their_vector(guest):
    assert guest.status(7, irq_map((1, 0b1111, 0))) == 0
    assert guest.status(7, irq_map((0, 0b0010, 0))) == 0
    assert [guest.port.rx[i].vector for i in range(4)] == [1, 0, 1, 1]


@pytest.mark.parametrize("entry", [(5, 1, 0), (0xFFFF, 1, 0), (1, 0b1_0000, 0), (1, 0, 0x8000)])
def test_vectors_and_queues_that_are_not_there_are_refused(guest, entry):
    assert guest.status(7, irq_map((1, 1, 1), entry)) == -5
    assert guest.port.rx[0].vector is None


def test_a_map_of_none_is_refused(guest):
    assert guest.status(7, irq_map()) == -5
    assert guest.status(7, b"\1") == -5


def test_enabling_and_disabling_is_told_to_the_backend(guest):
    configure(guest, 0, 1)
    guest.status(8, select(0b11, 0b01))
    told = [e for e in guest.outside.events if e.kind is EventKind.QUEUE_STATE]
    assert [(e.queue, e.value) for e in told] == [(0, 1), (2, 1), (1, 1)]
    guest.outside.events.clear()
    guest.status(9, select(0b01, 0b01))
    assert [(e.queue, e.value) for e in guest.outside.events] == [(0, 0), (1, 0)]
    assert [r.enabled for r in guest.port.rx] == [False, True, False, False]


def test_enabling_a_queue_that_is_not_configured_is_refused_and_harmless(guest):
    """avf.md 4.5: Linux does so after a failed configuration."""
    assert guest.send(8, select(1, 1)) == [(8, -5, b"")]
    assert not guest.port.rx[0].enabled


@pytest.mark.parametrize(("rx", "tx"), [(0, 0), (0x10, 0), (0, 0x8000_0000)])
@pytest.mark.parametrize("opcode", [8, 9])
def test_bit_sets_that_can_not_be_are_refused(guest, opcode, rx, tx):
    assert guest.status(opcode, select(rx, tx)) == -5


def test_disabling_a_disabled_queue_succeeds(guest):
    assert guest.status(9, select(0b1111, 0b1111)) == 0


def test_quirk_18_a_queue_is_off_when_its_disabling_is_answered(guest):
    """Quirk 18: with the reply the driver frees the memory."""
    configure(guest, 0)
    guest.status(8, select(1, 1))
    enabled = []
    send = guest.outside.send
    guest.outside.send = lambda *message: (
        enabled.append((guest.port.rx[0].enabled, guest.port.tx[0].enabled)), send(*message)
    )  # fmt: skip
    guest.dispatcher.receive(9, select(1, 1))
    assert enabled == [(False, False)]


def test_an_enabled_queue_is_not_configured_anew(guest):
    configure(guest, 0)
    guest.status(8, select(1, 1))
    assert guest.status(6, queues(pair(0, rx=(64, 0x5000)))) == -5
    assert guest.port.rx[0].length == 512


def link(speed, up):
    return (17, 0, struct.pack("<iIBxxxi", 1, speed, up, 0))


def test_fact_8_the_link_event_follows_the_enable_reply(guest):
    """Fact 8 and quirk 17: reply first, then the event; each time."""
    configure(guest, 0)
    guest.vf.set_link(True, 25_000)
    for _ in range(2):
        assert guest.send(8, select(1, 1)) == [(8, 0, b""), link(25_000, 1)]


def test_no_link_event_is_sent_while_the_link_is_down(guest):
    configure(guest, 0)
    assert guest.send(8, select(1, 1)) == [(8, 0, b"")]


def test_a_change_of_the_link_is_told_once_queues_are_enabled(guest):
    guest.outside.sent.clear()
    guest.vf.set_link(True, 25_000)
    assert guest.outside.sent == []
    configure(guest, 0)
    guest.send(8, select(1, 1))
    guest.outside.sent.clear()
    guest.vf.set_link(False, 25_000)
    guest.vf.set_link(False, 25_000)
    guest.vf.set_link(True, 10_000)
    assert guest.outside.sent == [link(0, 0), link(10_000, 1)]


def test_a_new_speed_is_told_while_the_link_is_up_and_else_when_it_comes_up(guest):
    configure(guest, 0)
    guest.send(8, select(1, 1))
    guest.vf.set_link(True, 25_000)
    guest.outside.sent.clear()
    guest.outside.events.clear()
    guest.vf.set_link(True, 10_000)
    assert guest.outside.sent == [link(10_000, 1)]
    guest.vf.set_link(True, 10_000)
    guest.vf.set_link(False, 10_000)
    guest.vf.set_link(False, 2500)
    assert guest.outside.sent == [link(10_000, 1), link(0, 0)]
    guest.vf.set_link(True, 2500)
    assert guest.outside.sent[2:] == [link(2500, 1)]
    told = [(event.kind, event.value, event.text) for event in guest.outside.events]
    assert told == [
        (EventKind.LINK, 1, "10000 Mbit/s"),
        (EventKind.LINK, 0, ""),
        (EventKind.LINK, 1, "2500 Mbit/s"),
    ]


@pytest.mark.parametrize(
    ("mbit", "flag"),
    [(100, 0x02), (1000, 0x04), (2500, 0x01), (5000, 0x80), (10_000, 0x08), (20_000, 0x20),
     (25_000, 0x40), (40_000, 0x10), (100_000, 0x10), (10, 0)],
)  # fmt: skip
def test_without_advanced_speeds_the_event_carries_a_flag(mbit, flag):
    """avf.md 4.5: the granted bit 7 decides."""
    guest = Guest()
    guest.negotiate(LINUX_CAPS & ~0x80)
    configure(guest, 0)
    guest.vf.set_link(True, mbit)
    assert guest.send(8, select(1, 1))[1] == link(flag, 1)


def test_quirk_24_a_request_for_queues_that_is_granted_has_no_reply(guest):
    """Quirk 24: the reset is announced instead, and the next resources say the new number."""
    assert guest.send(29, struct.pack("<H", 2)) == []
    assert guest.outside.resets == ["announced"]
    guest.vf.reset()
    _, data = guest.ask(3, struct.pack("<I", LINUX_CAPS))
    assert struct.unpack_from("<H", data, 2) == (2,)
    assert struct.unpack_from("<H", data, 22) == (2,)
    guest.vf.reset(power=True)
    _, data = guest.ask(3, struct.pack("<I", LINUX_CAPS))
    assert struct.unpack_from("<H", data, 2) == (4,)


def test_a_request_for_more_queues_than_there_are_is_told_the_most(guest):
    assert guest.send(29, struct.pack("<H", 5)) == [(29, 0, struct.pack("<H", 4))]
    assert guest.send(29, struct.pack("<H", 0)) == [(29, -5, b"")]
    assert guest.send(29, b"\1") == [(29, -5, b"")]
    assert guest.outside.resets == []


# -- filters


def macs(*addresses, vsi=VSI):
    return struct.pack("<HH", vsi, len(addresses)) + b"".join(
        address + bytes([kind, 0]) for address, kind in addresses
    )


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


# -- VLAN


def test_the_golden_vlan_capabilities(guest):
    """avf.md 4.6, the recommended reply: 0x80000001, 0x80000101 twice, all inner 0; 40 bytes."""
    status, data = guest.ask(51)
    words = struct.unpack("<IIIHHIIIIIB3s", data)
    assert status == 0
    assert len(data) == 40
    assert words[:3] == (0x8000_0001, 0, 1)
    assert words[3] >= 64
    assert words[5:] == (0x8000_0101, 0, 0x8000_0101, 0, 1, 0, bytes(3))


def vlan_v2(*vids, tpid=0x8100, inner=0, mask=0):
    return struct.pack("<HHI", VSI, len(vids), 0) + b"".join(
        struct.pack("<HHHHHHHH16x", inner, 0, 0, 0, vid, mask, tpid, 0) for vid in vids
    )


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


def setting(outer=1, inner=0):
    return struct.pack("<IIH6x", outer, inner, VSI)


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
