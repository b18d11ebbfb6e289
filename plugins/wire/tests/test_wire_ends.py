"""A wire between two devices in the hands of a test: links, stops, resets, ends that hang."""

import ctypes
import time

import pytest

from emudev_core import attributes
from emudev_core.events import Event, EventKind
from emudev_core.host import Host
from emudev_core.lifecycle import State
from emudev_core.plugins import Plugins, find_sources
from emudev_core.testing import loopback, port
from emudev_core.testing.builders import make_source
from emudev_core.testing.contract import turn_until
from emudev_net.flow_kernels import look, tell
from emudev_net.jit import compile_now, jit_wanted
from emudev_wire.backend import KERNELS

FRAME = bytes.fromhex("0300000000aa0252540000aa88b5") + bytes(range(100))


class Pair:
    """Two devices and the wire between them."""

    def __init__(self, host, keys="", queues=(1, 1), room=256):
        compile_now(KERNELS)
        self.host = host
        self.devices = [
            host.add(f"emu_port,id={n},queues={count},room={room}")
            for n, count in enumerate(queues)
        ]
        self.guests = [device.members[0].plugin for device in self.devices]
        self.wire = host.add(f"wire,a=port_emudev_0,b=port_emudev_1{keys}")

    def links(self):
        return [device.get_attr(attributes.LINK) for device in self.devices]

    def turn(self, times=4):
        for _ in range(times):
            self.host.loop.turn(0)

    def enable(self, end, enabled):
        self.guests[end].enable(enabled)
        self.turn()

    def received(self, end, pair=0):
        self.turn()
        return self.guests[end].received(pair)


@pytest.fixture
def host():
    own = make_source(loopback.SPEC, port.SPEC, distribution="emudev-core-testing")
    with Host(plugins=Plugins([*find_sources(), own])) as host:
        yield host


@pytest.fixture
def make(host):
    def make(*arguments, **options):
        pair = Pair(host, *arguments, **options)
        host.start()
        turn_until(host, lambda: pair.links() == [True, True])
        return pair

    return make


def test_a_link_is_there_while_both_ends_are_up(make):
    pair = make()
    assert pair.wire.up
    pair.enable(1, False)
    assert pair.links() == [False, True]  # each sees the other
    assert not pair.wire.up
    pair.enable(0, False)
    assert pair.links() == [False, False]
    pair.enable(1, True)
    assert pair.links() == [True, False]
    pair.enable(0, True)
    assert pair.links() == [True, True]
    assert pair.wire.up


@pytest.mark.parametrize("end", [0, 1])
def test_frames_for_an_end_that_is_down_are_dropped_and_counted(make, end):
    pair = make()
    pair.enable(1 - end, False)
    for _ in range(3):
        pair.guests[end].transmit(FRAME)
    pair.turn()
    assert pair.guests[end].waiting() == 0
    assert pair.received(1 - end) == []
    pair.enable(1 - end, True)
    pair.guests[end].transmit(FRAME)
    assert pair.received(1 - end) == [FRAME]
    stats = pair.wire.stats()["ab"[end]]
    assert (stats["received"], stats["sent"], stats["discarded"]) == (4, 1, 3)


@pytest.mark.parametrize("end", [0, 1])
def test_one_end_stops_and_starts_while_the_other_goes_on(make, end):
    pair = make()
    other = 1 - end
    for _ in range(2):
        pair.devices[end].stop()
        assert pair.links() == [False, False]
        pair.guests[other].transmit(FRAME)
        pair.turn()
        assert pair.guests[other].waiting() == 0
        assert pair.devices[other].state is State.STARTED
        pair.devices[end].start()
        turn_until(pair.host, lambda: pair.links() == [True, True])
        pair.guests[end].transmit(FRAME)
        assert pair.received(other) == [FRAME]
        pair.guests[other].transmit(FRAME)
        assert pair.received(end) == [FRAME]


def test_an_end_that_fails_takes_the_link_of_the_other(make):
    pair = make()
    pair.devices[0].fail("it broke")
    pair.turn()
    assert pair.devices[1].get_attr(attributes.LINK) is False
    pair.guests[1].transmit(FRAME)
    pair.turn()
    assert pair.guests[1].waiting() == 0
    assert pair.devices[1].state is State.STARTED


def test_an_end_that_is_closed_leaves_the_other_running(make):
    pair = make()
    pair.devices[0].close()
    pair.turn()
    assert pair.devices[1].get_attr(attributes.LINK) is False
    pair.guests[1].transmit(FRAME)
    pair.turn()
    assert pair.guests[1].waiting() == 0


def test_events_that_were_lost_have_both_ends_looked_at(make):
    pair = make()
    pair.guests[0].enabled = False
    pair.devices[0].post_event(Event(EventKind.OVERFLOW))
    pair.turn()
    assert pair.links() == [True, False]


def test_several_queues_lead_into_fewer_ones(make):
    pair = make(queues=(3, 1))
    for number in range(3):
        pair.guests[0].transmit(FRAME + bytes([number]), number)
    assert sorted(pair.received(1)) == [FRAME + bytes([n]) for n in range(3)]
    pair.guests[1].transmit(FRAME)
    assert pair.received(0, 0) == [FRAME]


def test_an_end_without_room_holds_the_other_up_and_is_waited_for(make):
    pair = make(",patience=60000", room=2)
    for number in range(5):
        pair.guests[0].transmit(FRAME + bytes([number]))
    pair.turn()
    assert pair.guests[0].waiting() == 3
    got = pair.guests[1].received()
    for _ in range(2):
        pair.guests[1]._pairs[0].bells[0].ring()  # as a guest does that posts buffers
        pair.turn()
        got += pair.guests[1].received()
    assert got == [FRAME + bytes([n]) for n in range(5)]
    assert pair.wire.stats()["a"]["dropped"] == 0
    assert pair.wire.stats()["a"]["blocked"] > 0


@pytest.mark.skipif(not jit_wanted(), reason="native code is compiled")
def test_doorbells_show_native_code_the_routes_and_what_waits_for_room(make):
    pair = make(",patience=60000", queues=(2, 1), room=2)

    def chain(end, number, direction):
        bell = pair.guests[end]._pairs[number].bells[direction]
        words = (ctypes.c_int64 * 5).from_address(bell.chain)
        return words[: 1 + 2 * words[0]]

    ways = [chain(0, 0, 1), chain(0, 1, 1), chain(1, 0, 1)]
    assert [way[:2] for way in ways] == [[1, look.address]] * 3
    assert len({way[2] for way in ways}) == 3
    rooms = [chain(end, 0, 0) for end in (0, 1)]
    assert [room[:2] for room in rooms] == [[1, tell.address]] * 2
    assert chain(0, 1, 0) == rooms[0]
    assert [tell(room[2], 0, 0) for room in rooms] == [0, 0]
    for _ in range(3):
        pair.guests[0].transmit(FRAME, 1)
    pair.turn()
    assert [tell(room[2], 0, 0) for room in rooms] == [0, 1]  # one way waits for room in end 1
    assert look(ways[1][2], 0, 0) == 0  # more frames of it have nothing done
    pair.guests[1].received()
    pair.guests[1]._pairs[0].bells[0].ring()
    pair.turn()
    assert [tell(room[2], 0, 0) for room in rooms] == [0, 0]
    for _ in range(5):
        pair.guests[0].transmit(FRAME)
    pair.turn()
    assert tell(rooms[1][2], 0, 0) == 1
    pair.enable(1, False)  # nobody waits for an end that is down
    assert tell(rooms[1][2], 0, 0) == 0
    pair.devices[0].stop()
    pair.turn()
    assert chain(0, 0, 1) == chain(0, 0, 0) == [0]


def test_an_end_that_hangs_does_not_hang_the_other(make):
    pair = make(",patience=10", room=2)
    for _ in range(20):
        pair.guests[0].transmit(FRAME)
    turn_until(pair.host, lambda: pair.guests[0].waiting() == 0)
    assert pair.wire.stats()["a"]["dropped"] == 18
    for _ in range(3):
        pair.guests[0].transmit(FRAME)
    pair.turn()
    assert pair.guests[0].waiting() == 0
    # Once something moves again, frames are waited for again.
    pair.guests[1].received()
    pair.guests[0].transmit(FRAME)
    pair.turn()
    time.sleep(0.03)
    pair.turn()
    pair.guests[0].transmit(FRAME)
    pair.guests[0].transmit(FRAME)
    pair.turn()
    assert pair.guests[0].waiting() == 1


def test_without_patience_what_finds_no_room_is_dropped_at_once(make):
    pair = make(",patience=0", room=2)
    for _ in range(5):
        pair.guests[0].transmit(FRAME)
    pair.turn()
    assert pair.guests[0].waiting() == 0
    assert pair.wire.stats()["a"]["dropped"] == 3
    assert pair.received(1) == [FRAME, FRAME]


def test_what_was_counted_survives_changes_of_the_routes(make):
    pair = make()
    for _ in range(3):
        pair.guests[0].transmit(FRAME)
        pair.turn()
        pair.enable(1, False)
        pair.enable(1, True)
    assert pair.wire.stats()["a"]["sent"] == 3
    assert pair.wire.stats()["b"]["received"] == 0
