"""Requests about queues and vectors, with payloads worked out by hand from avf.md section 4.5."""

import struct

import pytest

from emudev_avf.testing.requests import (
    LINUX_CAPS,
    VSI,
    Guest,
    configure,
    link,
    pair,
    queues,
    select,
)
from emudev_core.events import EventKind

DPDK_CAPS = 0xBE0BC7E1


@pytest.fixture
def guest():
    made = Guest()
    made.negotiate()
    return made


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
