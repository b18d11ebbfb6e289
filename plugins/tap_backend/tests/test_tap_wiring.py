"""Flows over socket pairs in the place of TAP descriptors: room, waiting, and who wakes whom."""

import functools

import pytest
from fake_setup import Setup

from emudev_tap_backend.backend import KERNELS

PLAIN = bytes(10)


class TurnedSetup(Setup):
    """One whose frames move while its loop is turned."""

    kernels = KERNELS

    def turn(self, times=4):
        """Turn the loop until it rests; whether it did anything."""
        busy = False
        for _ in range(times):
            busy = self.loop.turn(0)
        return busy

    def arrived(self, queue=0):
        """Frames that reached the host, without headers."""
        frames = []
        while True:
            try:
                frames.append(self.tap.hosts[queue].recv(70000)[10:])
            except BlockingIOError:
                return frames


@pytest.fixture
def setup(make_setup):
    return functools.partial(make_setup, TurnedSetup)


def test_a_full_interface_is_waited_for_without_turning_in_circles(setup):
    s = setup()
    s.enable(0, 1)
    frames = [bytes([n]) * 20000 for n in range(60)]
    for frame in frames:
        s.nic.queues[1].send(frame)
    s.nic.queues[1].doorbell.ring()
    s.turn()
    assert 0 < len(s.nic.queues[1].to_send) < 60
    assert not s.turn()
    got = []
    for _ in range(60):
        got += s.arrived()
        s.turn()
    assert got == frames
    assert not s.turn()


def test_all_pairs_that_wait_for_a_shared_interface_go_on(setup):
    s = setup(pairs=2)
    s.enable(0, 1, 2, 3)
    for pair in (0, 1):
        for n in range(30):
            s.nic.queues[2 * pair + 1].send(bytes([100 * pair + n]) * 20000)
        s.nic.queues[2 * pair + 1].doorbell.ring()
    s.turn()
    assert not s.turn()
    got = []
    for _ in range(60):
        got += [frame[0] for frame in s.arrived()]
        s.turn()
    assert sorted(got) == [*range(30), *range(100, 130)]
    assert [n for n in got if n < 100] == [*range(30)]


def test_a_disabled_queue_leaves_its_frames_with_the_host(setup):
    s = setup()
    s.enable(1)
    s.tap.hosts[0].send(PLAIN + bytes(60))
    assert not s.turn()
    assert not s.nic.queues[0].got
    assert s.tap.carrier is False


def test_the_answer_of_the_host_goes_to_the_guest_in_the_turn_of_the_question(setup):
    s = setup()
    s.enable(0, 1)
    s.turn()

    def ask():
        s.tap.hosts[0].send(PLAIN + bytes(60))
        s.nic.queues[1].doorbell.ring()

    s.loop.call_soon(ask)
    s.loop.turn(0)
    assert len(s.nic.queues[0].got) == 1


def test_a_doorbell_does_not_look_for_frames_that_the_guest_has_no_room_for(setup):
    s = setup()
    s.enable(0, 1)
    s.nic.queues[0].room = 0
    s.tap.hosts[0].send(PLAIN + bytes(60))
    s.turn()
    pushes = s.nic.queues[0].pushes
    s.nic.queues[1].doorbell.ring()
    s.turn()
    assert s.nic.queues[0].pushes == pushes


def test_enabling_drops_what_waited_and_raises_the_carrier(setup):
    s = setup()
    s.tap.hosts[0].send(PLAIN + bytes(60))
    s.enable(0)
    assert s.tap.carrier is True
    s.tap.hosts[0].send(PLAIN + bytes([1]) * 60)
    s.turn()
    assert [data for data, _, _ in s.nic.queues[0].got] == [bytes([1]) * 60]
    assert s.wiring.stats()["rx"][0]["dropped"] == 1


def test_with_a_queue_each_only_those_of_the_guest_take_part(setup):
    s = setup(pairs=3, queues=3)
    s.enable(0, 1, 3)
    assert s.tap.queues == {0: True, 1: True, 2: False}
    for n in range(3):
        s.tap.hosts[n].send(PLAIN + bytes([n]) * 60)
    s.turn()
    assert [len(s.nic.queues[2 * n].got) for n in range(3)] == [1, 0, 0]
    s.enable(2, 4)
    s.tap.hosts[2].send(PLAIN + bytes([9]) * 60)
    s.turn()
    assert [len(s.nic.queues[2 * n].got) for n in range(3)] == [1, 0, 1]


def test_a_hundred_frames_without_room_are_kept_in_order(setup):
    s = setup()
    s.enable(0)
    s.nic.queues[0].room = 0
    sent = []
    for n in range(100):
        sent.append(bytes([n]) * (60 + n))
        s.tap.hosts[0].send(PLAIN + sent[-1])
    s.turn()
    assert not s.turn()
    for _ in range(100):
        s.nic.queues[0].room = 1
        s.nic.queues[0].doorbell.ring()
        s.turn()
    assert [data for data, _, _ in s.nic.queues[0].got] == sent


def test_disabling_forgets_what_was_read(setup):
    s = setup()
    s.enable(0)
    s.nic.queues[0].room = 0
    s.tap.hosts[0].send(PLAIN + bytes(60))
    s.turn()
    s.enable(0, enabled=False)
    s.nic.queues[0].room = 9
    s.enable(0)
    s.turn()
    assert s.nic.queues[0].got == []
    s.tap.hosts[0].send(PLAIN + bytes([7]) * 60)
    s.turn()
    assert len(s.nic.queues[0].got) == 1


def test_a_descriptor_in_error_is_told(setup):
    s = setup()
    s.enable(0, 1)
    s.tap.hosts[0].close()
    s.turn(1)
    assert s.losses >= 1


def test_closing_leaves_the_doorbells_alone(setup):
    s = setup()
    s.enable(0, 1)
    s.wiring.close()
    s.nic.queues[1].send(bytes(60))
    s.nic.queues[1].doorbell.ring()
    s.tap.hosts[0].send(PLAIN + bytes(60))
    assert not s.turn()
    assert s.arrived() == []
    assert len(s.nic.queues[1].doorbell.subscribers) == 0
