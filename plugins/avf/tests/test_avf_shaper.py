"""Limits of transmit queues: what may be shown when, by a clock that the tests move.

Expected times are worked out by hand: a byte at R kbit/s takes 8,000,000 / R ns.
"""

import os
import select
import struct
import time

import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.rings import Port
from emudev_avf.shaper import LimitWatch
from emudev_avf.vf import Vf
from emudev_avf.virtchnl.dispatch import Dispatcher
from emudev_core.loop import Loop

FRAME = b"\x52\x54\0\0\0\1\x52\x54\0\0\0\2\x88\xb5" + bytes(986)
assert len(FRAME) == 1000
#: A byte takes 1000 ns at this rate, kbit/s; a frame a millisecond.
RATE = 8000


@pytest.fixture
def guest(guests):
    return guests(2, 256)


def send(guest, count, pair=0):
    for _ in range(count):
        address = guest.hold(FRAME)
        # DTYPE 0, EOP | RS, 1000 bytes
        guest.put((address, 0x3 << 4 | len(FRAME) << 34), pair=pair)


def free(guest, index=0):
    return guest.port.limits.buckets[index].free


def test_a_queue_without_limit_shows_everything(guest):
    send(guest, 100)
    assert len(guest.peek()) == 100


def test_a_limited_queue_shows_a_burst_of_10_ms_and_then_waits(guest):
    """After a rest of 10 ms or more: 10,000 bytes, so packets begin until those are used up."""
    guest.port.limits.limit_queue(0, RATE)
    send(guest, 100)
    shown = guest.peek()
    assert len(shown) == 11
    before = time.monotonic_ns()
    guest.release()
    after = time.monotonic_ns()
    # It lagged 10 ms behind, and moves on by 11 frames of a millisecond each.
    assert before + 1_000_000 <= free(guest) <= after + 1_000_000
    if time.monotonic_ns() < free(guest):
        assert guest.peek() == []
        assert guest.port.limits.buckets[0].held


def test_what_was_not_released_is_not_charged(guest):
    guest.port.limits.limit_queue(0, RATE)
    send(guest, 100)
    assert len(guest.peek()) == len(guest.peek()) == 11
    assert free(guest) == 0
    guest.release(rows=1)
    assert 0 < free(guest) <= time.monotonic_ns() - 9_000_000 + 50_000_000


def test_a_packet_that_begins_in_time_is_sent_whole_and_paid_for_later(guest):
    """1 kbit/s: a byte takes 8 ms, a frame 8 s."""
    guest.port.limits.limit_queue(0, 1)
    send(guest, 5)
    assert len(guest.peek()) == 1
    guest.release()
    assert guest.peek() == []
    assert 7.9e9 < free(guest) - time.monotonic_ns() < 8e9


def test_frames_that_wait_are_signalled_once(guest):
    guest.port.limits.limit_queue(0, 1)
    send(guest, 3)
    fd = guest.port.limits.fileno()
    guest.peek()
    assert os.eventfd_read(fd) == 1
    guest.release()
    for _ in range(3):
        assert guest.peek() == []
    assert select.select([fd], [], [], 0)[0] == []


def test_an_empty_queue_does_not_wait(guest):
    guest.port.limits.limit_queue(0, 1)
    send(guest, 1)
    assert len(guest.peek()) == 1
    guest.release()
    assert guest.peek() == []
    assert not guest.port.limits.buckets[0].held


def test_a_limit_is_of_its_queue_only(guest):
    guest.port.limits.limit_queue(0, 1)
    send(guest, 5, pair=0)
    send(guest, 5, pair=1)
    assert len(guest.peek(pair=0)) == 1
    assert len(guest.peek(pair=1)) == 5


def test_queues_of_a_class_share_its_limit(guest):
    guest.port.limits.limit_class("tc0", [0, 1], 1)
    send(guest, 2, pair=0)
    send(guest, 2, pair=1)
    assert len(guest.peek(pair=0)) == 1
    guest.release(pair=0)
    assert guest.peek(pair=1) == []
    assert guest.port.limits.buckets[0].held


def test_the_narrower_of_two_limits_holds(guest):
    guest.port.limits.limit_class("tc0", [0, 1], RATE)
    guest.port.limits.limit_queue(0, 1)
    send(guest, 20, pair=0)
    send(guest, 20, pair=1)
    assert len(guest.peek(pair=0)) == 1
    guest.release(pair=0)
    assert guest.peek(pair=0) == []
    assert len(guest.peek(pair=1)) in (9, 10, 11)


def test_segmented_packets_are_charged_as_they_are_on_the_wire(guest):
    """A context descriptor, 54 bytes of headers, 2000 of payload, MSS 500: 4 frames, 2216 bytes."""
    guest.port.limits.limit_queue(0, RATE)
    head = bytes.fromhex("5254000000015254000000020800")
    head += struct.pack(">BBHHHBBH", 0x45, 0, 2040, 1, 0, 64, 6, 0) + bytes(
        [10, 0, 0, 1, 10, 0, 0, 2]
    )
    head += struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 512, 0, 0)
    address = guest.hold(head + bytes(2000))
    guest.put((0, 0x1 | 0x1 << 4 | 2000 << 30 | 500 << 50))
    # DTYPE 0; EOP, RS; L4T TCP and IIPT IPv4 with checksum; MACLEN 7, IPLEN 5, L4LEN 5
    command = 0x3 | 1 << 8 | 3 << 5
    offsets = 7 | 5 << 7 | 5 << 14
    guest.put((address, command << 4 | offsets << 16 | 2054 << 34))
    (packet,) = guest.peek()
    start = time.monotonic_ns()
    guest.release()
    end = time.monotonic_ns()
    assert packet.data.endswith(bytes(2000))
    assert start - 10_000_000 + 2_216_000 <= free(guest) <= end - 10_000_000 + 2_216_000


def test_a_limit_that_goes_lets_its_queue_look_again(guest):
    guest.port.limits.limit_queue(0, 1)
    send(guest, 5)
    guest.peek()
    guest.release()
    assert guest.peek() == []
    rung = []
    guest.port.tx[0].doorbell.subscribe(lambda: rung.append(1))
    guest.port.limits.limit_queue(0, 0)
    assert rung == [1]
    assert len(guest.peek()) == 4
    assert guest.port.limits.buckets == []


def test_a_reset_forgets_the_limits(guest):
    guest.port.limits.limit_queue(0, 1)
    guest.port.limits.limit_class("tc0", [0, 1], 1)
    guest.port.reset()
    assert guest.port.limits.buckets == []
    assert guest.port.limits.queue_rates == {}


@pytest.mark.parametrize("rate", [-1, 400_000_001])
def test_rates_that_can_not_be_are_refused(guest, rate):
    with pytest.raises(ValueError, match="kbit/s"):
        guest.port.limits.limit_queue(0, rate)


def test_the_watch_rings_the_queues_when_their_bucket_is_free(guest):
    loop = Loop(spin=0)
    watch = LimitWatch(loop, guest.port.limits)
    try:
        rung = []
        guest.port.tx[0].doorbell.subscribe(lambda: rung.append(time.monotonic_ns()))
        guest.port.limits.limit_queue(0, 400)  # a frame takes 20 ms, a burst has 500 bytes
        send(guest, 2)
        rung.clear()
        assert len(guest.peek()) == 1
        guest.release()
        due = free(guest)
        assert guest.peek() == []
        deadline = time.monotonic() + 5
        while not rung and time.monotonic() < deadline:
            loop.turn(0.1)
        assert rung[0] >= due
        assert len(guest.peek()) == 1
    finally:
        watch.close()
        loop.close()


def test_a_burst_is_10_ms_at_full_speed(guest):
    """100,000 bytes at 80 Mbit/s: 100 frames, and one that begins in time."""
    guest.port.limits.limit_queue(0, 80_000)
    send(guest, 200)
    assert len(guest.peek()) == 101


# -- requests


class Driver:
    """A VF as a driver with QOS sees it."""

    def __init__(self, queues=4, caps=0xFFFF_FFFF, offer=0x2208_86E1):
        config = AvfConfig(queues=queues, caps=offer, link_speed=25_000)
        self.replies = []
        self.port = Port(queues, config.vectors)
        self.vf = Vf(config, bytes.fromhex("525400000001"), self.port, self)
        self.dispatcher = Dispatcher(self.vf)
        assert self.ask(3, struct.pack("<I", caps))[0] == 0

    def send(self, opcode, status, payload):
        self.replies.append((opcode, status, payload))

    def post(self, event):
        pass

    def ask(self, opcode, payload=b""):
        self.replies.clear()
        self.dispatcher.receive(opcode, payload)
        ((answered, status, data),) = self.replies
        assert answered == opcode
        return status, data


def bandwidth(*entries, vsi=1, count=None):
    """Queue, class, committed, peak."""
    head = struct.pack("<HH", vsi, len(entries) if count is None else count)
    return head + b"".join(struct.pack("<HBxII", *entry) for entry in entries)


def quanta(size, kind=0, start=0, count=1):
    return struct.pack("<HHiHH", size, 0, kind, start, count)


def tc_map(num_tc, pairs, *ranges, vsi=1):
    return struct.pack("<HHHH", vsi, num_tc, pairs, 0) + b"".join(
        struct.pack("<HH", *r) for r in ranges
    )


def test_the_golden_capabilities_of_one_class():
    """VSI 1, one element: class 0, priorities 0 to 7, strict, weight 1; a shaper; 25 Gbit/s."""
    golden = bytes.fromhex("01000100 00ff0001 00000000 00000000") + struct.pack("<I", 25_000_000)
    assert Driver().ask(66) == (0, golden + bytes(24))
    assert len(golden) + 24 == 4 + 40


def test_all_queues_are_mapped_to_the_one_class():
    driver = Driver()
    assert driver.ask(67, tc_map(1, 4, (0, 4))) == (0, tc_map(1, 4, (0, 0xFF)))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        tc_map(0, 4),
        tc_map(1, 4),
        tc_map(2, 4, (0, 2), (2, 2)),
        tc_map(1, 5, (0, 5)),
        tc_map(1, 4, (1, 3)),
        tc_map(1, 4, (0, 3)),
        tc_map(1, 0, (0, 0)),
        tc_map(1, 4, (0, 4), vsi=2),
    ],
)
def test_maps_that_can_not_be_are_refused(message):
    assert Driver().ask(67, message) == (-5, b"")


def test_limits_are_set_changed_and_taken_away():
    driver = Driver()
    assert driver.ask(112, bandwidth((0, 0, 0, 1000), (3, 0, 0, 50_000))) == (0, b"")
    assert driver.port.limits.queue_rates == {0: 1000, 3: 50_000}
    assert driver.ask(112, bandwidth((0, 0, 0, 2000))) == (0, b"")
    assert driver.port.limits.queue_rates == {0: 2000, 3: 50_000}
    assert driver.ask(112, bandwidth((3, 0, 0, 0))) == (0, b"")
    assert driver.port.limits.queue_rates == {0: 2000}
    assert driver.vf.state.queue_rates == {0: 2000}
    driver.vf.reset()
    assert driver.port.limits.queue_rates == driver.vf.state.queue_rates == {}


@pytest.mark.parametrize(
    "message",
    [
        b"",
        bandwidth(),
        bandwidth((0, 0, 0, 1000), count=2),
        bandwidth((0, 0, 0, 1000), vsi=3),
        bandwidth((4, 0, 0, 1000)),
        bandwidth((0, 1, 0, 1000)),
        bandwidth((0, 0, 1, 1000)),
        bandwidth((0, 0, 0, 400_000_001)),
        bandwidth((0, 0, 0, 1000), (4, 0, 0, 1000)),
    ],
)
def test_limits_that_can_not_be_are_refused_and_nothing_changes(message):
    driver = Driver()
    assert driver.ask(112, message) == (-5, b"")
    assert driver.port.limits.queue_rates == {}


def test_quanta_are_checked_and_accepted():
    driver = Driver()
    assert driver.ask(113, quanta(1024, count=4)) == (0, b"")
    assert driver.ask(113, quanta(256)) == driver.ask(113, quanta(4096)) == (0, b"")


@pytest.mark.parametrize(
    "message",
    [b"", quanta(0), quanta(192), quanta(1000), quanta(4160), quanta(1024, kind=1),
     quanta(1024, kind=2), quanta(1024, count=0), quanta(1024, start=1, count=4),
     quanta(1024)[:-1]],
)  # fmt: skip
def test_quanta_that_can_not_be_are_refused(message):
    assert Driver().ask(113, message) == (-5, b"")


@pytest.mark.parametrize("opcode", [66, 67, 112, 113])
def test_without_the_capability_there_is_no_quality_of_service(opcode):
    driver = Driver(caps=0xFFFF_FFFF & ~(1 << 29))
    assert driver.ask(opcode, bytes(64)) == (-64, b"")
