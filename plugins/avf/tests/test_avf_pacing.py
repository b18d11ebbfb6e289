"""Pacing: a guest that polls gets so many frames for each time that it enables its interrupt.

And one that only listens is interrupted less often.

Nothing here measures time: that patience is over is said by the word that holds its end.
"""

import time

import pytest

from emudev_avf.hold_timer import HoldTimer
from emudev_avf.interrupts import LISTENS
from emudev_avf.pacing import GRANT
from emudev_avf.rings import Hold
from emudev_avf.words import P_LISTENER, P_UNANSWERED, V_LAST, V_PATIENCE, VECTOR_WORDS
from emudev_core.errors import ConfigError
from emudev_core.host import Host
from emudev_core.loop import Loop

INTENA = 1
HOUR = 3_600_000_000_000  # ns

ETHERNET = b"\xff" * 6 + bytes.fromhex("525400770001")
UDP = ETHERNET + bytes.fromhex(
    "0800 4500 0024 0001 0000 4011 96c7 0a000001 0a000002 1234 5678 0010 0000"
) + bytes(8 + 12)  # fmt: skip
TCP = ETHERNET + bytes.fromhex(
    "0800 4500 0028 0001 0000 4006 0000 0a000001 0a000002 1234 5678 00000001 00000000 5010 ffff"
    "0000 0000"
) + bytes(6)  # fmt: skip
SMALL = GRANT // 2 + 1


class Line:
    """A guest with a timer, its backend, and how often that was told to try again."""

    def __init__(self, guest):
        self.guest = guest
        self.loop = Loop(spin=0)
        self.timer = HoldTimer(self.loop, guest.port)
        self.rung = 0
        guest.post(200)
        guest.port.rx[0].doorbell.subscribe(self._ring)

    def _ring(self):
        self.rung += 1

    def enable(self):
        """What the device does at a write to DYN_CTLN1."""
        self.guest.port.vectors[1].control(INTENA)
        self.guest.port.look_on()

    def deliver(self, frame, count):
        """Frames that were taken of so many."""
        return self.guest.deliver(*[frame] * count)

    def patience_ends(self, when):
        self.guest.port._vector_words[VECTOR_WORDS + V_PATIENCE // 8] = when

    def interrupted_just_now(self):
        """Frames arrived and the guest has looked at them: no interval since then is over."""
        self.fired_at(0)
        self.enable()
        self.guest.signals(1)
        self.fired_at(time.monotonic_ns() + HOUR)
        self.enable()

    def fired_at(self, when):
        self.guest.port._vector_words[VECTOR_WORDS + V_LAST // 8] = when

    def close(self):
        self.timer.close()
        self.loop.close()


@pytest.fixture
def line(guests):
    line = Line(guests(1, 512))
    yield line
    line.close()


def test_a_guest_that_does_not_enable_gets_its_grant_and_no_more(line):
    assert line.deliver(UDP, GRANT + 10) == GRANT
    assert line.guest.port.hold is Hold.PACED
    assert line.deliver(UDP, 10) == 0
    assert len(line.guest.received()) == GRANT
    assert line.guest.port.stats().rx_discards == 0


def test_the_grant_counts_over_several_bursts(line):
    assert line.deliver(UDP, SMALL) == SMALL
    assert line.deliver(UDP, SMALL) == GRANT - SMALL


def test_what_is_left_goes_on_when_it_enables(line):
    line.deliver(UDP, GRANT + 1)
    assert line.rung == 0
    line.enable()
    assert line.rung == 1
    assert line.deliver(UDP, GRANT + 1) == GRANT
    line.enable()
    assert line.deliver(UDP, 1) == 1


def test_enabling_rings_nobody_if_nothing_waits(line):
    line.deliver(UDP, GRANT)
    line.enable()
    assert line.rung == 0


@pytest.mark.parametrize("frame", [TCP, ETHERNET + b"\x88\xb5" + bytes(60)])
def test_senders_that_wait_for_their_receivers_are_not_paced(line, frame):
    assert line.deliver(frame, GRANT + 10) == (GRANT + 10 if frame is TCP else GRANT)


def test_frames_that_are_not_for_the_guest_are_not_counted(line):
    line.guest.port.set_promiscuous(False, False)
    stranger = bytes.fromhex("525400000009") + UDP[6:]
    assert line.deliver(stranger, GRANT + 10) == GRANT + 10
    assert line.deliver(UDP, GRANT) == GRANT


def test_a_driver_that_polls_for_good_gets_more_each_time(line):
    line.deliver(UDP, GRANT + 1)
    line.patience_ends(time.monotonic_ns() + HOUR)
    assert line.deliver(UDP, 1) == 0
    line.patience_ends(1)
    assert line.deliver(UDP, 100) == 100
    line.enable()  # and is an ordinary one again when it enables
    assert line.deliver(UDP, GRANT + 1) == GRANT


def test_the_loop_looks_again_when_patience_is_over(line):
    line.deliver(UDP, GRANT + 1)
    while not line.rung:
        line.loop.turn(None)
    assert line.deliver(UDP, 1) == 1


def test_a_driver_that_never_enabled_is_not_paced(line):
    line.guest.port.vectors[1].reset()
    assert line.deliver(UDP, GRANT + 10) == GRANT + 10


def test_a_port_with_several_queues_is_not_paced(guests):
    guest = guests(2, 128)
    loop = Loop(spin=0)
    timer = HoldTimer(loop, guest.port)
    guest.post(100)
    assert guest.deliver(*[UDP] * (GRANT + 10)) == GRANT + 10
    timer.close()
    loop.close()


def test_without_a_timer_nobody_is_paced(guests):
    guest = guests(1, 128)
    guest.post(100)
    assert guest.deliver(*[UDP] * (GRANT + 10)) == GRANT + 10


@pytest.fixture
def listener(guests):
    line = Line(guests(1, 512, rx_usecs_high=8160))
    yield line
    line.close()


def test_a_guest_that_only_listens_waits_for_its_next_interrupt(listener):
    listener.deliver(UDP, LISTENS)
    listener.interrupted_just_now()
    listener.deliver(UDP, 1)
    assert listener.guest.signals(1) == 0
    assert len(listener.guest.received()) == LISTENS + 1
    listener.fired_at(0)
    listener.enable()
    assert listener.guest.signals(1) == 1


def test_the_first_datagrams_interrupt_at_once(listener):
    listener.deliver(UDP, LISTENS - 2)
    listener.interrupted_just_now()
    listener.deliver(UDP, 1)
    assert listener.guest.signals(1) == 1


def test_a_guest_that_answers_is_interrupted_at_once(listener):
    listener.deliver(UDP, LISTENS)
    listener.guest.send(UDP)
    listener.guest.peek()
    listener.guest.release()
    listener.interrupted_just_now()
    listener.deliver(UDP, 1)
    assert listener.guest.signals(1) == 1


def test_who_receives_what_waits_for_its_receiver_is_no_listener(listener):
    for _ in range(LISTENS):
        listener.deliver(TCP, 1)
    listener.interrupted_just_now()
    listener.deliver(UDP, 1)
    assert listener.guest.signals(1) == 1


def test_a_reset_ends_listening(listener):
    listener.deliver(UDP, LISTENS)
    port = listener.guest.port
    port.reset()
    assert port.words[P_UNANSWERED // 8] == 0


def test_without_an_interval_for_listeners_the_driver_decides(line):
    line.deliver(UDP, LISTENS)
    line.interrupted_just_now()
    line.deliver(UDP, 1)
    assert line.guest.signals(1) == 1


def test_the_interval_of_listeners_is_the_users(make):
    device = make(rx_usecs_high=500)
    assert device.avf.port.words[P_LISTENER // 8] == 500_000


def test_an_interval_that_no_throttle_has_is_refused():
    with Host() as host, pytest.raises(ConfigError, match="rx_usecs_high"):
        host.add("emu_iavf,id=0,transport=inproc,rx_usecs_high=8161")
