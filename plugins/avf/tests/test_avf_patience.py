"""Frames for one full queue of several: they wait for a moment, and hold nobody up for good."""

import time

import pytest

from emudev_avf.hold_timer import HoldTimer
from emudev_avf.interrupts import look_at_held
from emudev_avf.rings import Hold
from emudev_avf.rx_patience import PATIENCE
from emudev_avf.words import R_FULL_SINCE
from emudev_core.loop import Loop
from emudev_net.primitives import store64

# To all; another EtherType has no hash and is for queue 0, a UDP datagram for what the table says.
ETHERNET = b"\xff" * 6 + bytes.fromhex("525400770001")
ZERO = ETHERNET + b"\x88\xb5" + bytes(100)
ONE = ETHERNET + bytes.fromhex(
    "0800 4500 0024 0001 0000 4011 96c7 0a000001 0a000002 1234 5678 0010 0000"
) + bytes(8 + 12)  # fmt: skip
UDP_IPV4 = 1 << 31  # avf.md 4.6: bit 31 of the hash enable word


@pytest.fixture
def guest(guests):
    """A port of two queues with a timer, on a loop that does not spin."""
    guest = guests(2)
    guest.loop = Loop(spin=0)
    guest.port.set_rss(bytes(range(52)), bytes([1]) * 64, UDP_IPV4)
    timer = HoldTimer(guest.loop, guest.port)
    guest.rung = []
    guest.port.rx[0].doorbell.subscribe(lambda: guest.rung.append(time.monotonic_ns()))
    yield guest
    timer.close()
    guest.loop.close()


def full_since(guest, when):
    store64(guest.port.rx[0].state + R_FULL_SINCE, when)


def test_a_frame_waits_for_buffers_and_is_delivered_when_they_come(guest):
    guest.post(1, pair=1)
    assert guest.deliver(ZERO, ONE) == 0
    assert guest.port.hold is Hold.FULL
    guest.post(1)
    assert guest.deliver(ZERO, ONE) == 2
    assert [len(guest.received(pair)) for pair in (0, 1)] == [1, 1]
    assert guest.port.stats().rx_discards == 0


def test_who_waits_is_told_when_it_has_waited_long_enough(guest):
    begun = time.monotonic_ns()
    assert guest.deliver(ZERO) == 0
    while not guest.rung:
        guest.loop.turn(1.0)
        assert time.monotonic_ns() - begun < 2_000_000_000
    assert guest.rung[0] - begun >= PATIENCE
    # Trying again drops the frame; those behind it go on, and nothing waits any more.
    guest.post(1, pair=1)
    assert guest.deliver(ZERO, ONE) == 2
    assert guest.port.rx[0].drops["full"] == 1
    assert len(guest.received(1)) == 1


def test_a_queue_that_stays_full_holds_the_others_up_once(guest):
    full_since(guest, time.monotonic_ns() - PATIENCE - 1)
    guest.post(2, pair=1)
    assert guest.deliver(ZERO, ONE, ZERO, ZERO, ONE) == 5
    assert guest.port.rx[0].drops["full"] == 3
    # With room it is a queue like the others again.
    guest.post(1)
    assert guest.deliver(ZERO) == 1
    assert guest.deliver(ZERO) == 0


def test_a_queue_that_is_enabled_again_is_waited_for_again(guest):
    full_since(guest, 1)
    guest.port.rx[0].disable()
    guest.port.rx[0].enable()
    assert guest.deliver(ZERO) == 0


def test_the_timer_is_kept_for_it_when_interrupts_use_it_first(guest):
    assert guest.deliver(ZERO) == 0
    begun = time.monotonic_ns()
    look_at_held(guest.port.words.address)  # takes the armed time away, as a notify may
    while not guest.rung:
        guest.loop.turn(1.0)
        assert time.monotonic_ns() - begun < 2_000_000_000
