"""AVF guests and memif peers joined by a wire: traffic, offloads, queues, resets, workers."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from ipaddress import IPv4Address

import pytest

pytest.importorskip("emudev_avf")
pytest.importorskip("emudev_memif")
pytest.importorskip("emudev_null", reason="the transport inproc")

from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.driver.packets import checksum
from emudev_avf.driver.rings import Headers
from emudev_avf.registers import MAP
from emudev_core import attributes
from emudev_core.host import Host
from emudev_core.queues import rx_queue
from emudev_core.regions import ResetKind
from emudev_core.testing.contract import turn_until
from emudev_memif.testing import MemifClient
from emudev_net.jit import compile_now, jit_wanted
from emudev_pci.guest import GuestFunction
from emudev_wire.backend import WORKER_KERNELS

SOCKET = f"emudev-wire-{os.getpid()}"
HERE, THERE = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
GROUP = bytes.fromhex("ffffffffffff")

MODES = [
    "",
    pytest.param(
        ",workers=2",
        marks=pytest.mark.skipif(not jit_wanted(), reason="workers run compiled kernels only"),
    ),
]


class AvfEnd:
    """An AVF device and its guest."""

    def __init__(self, host, number, queues=1):
        self.host = host
        self.queues = queues
        self.device = host.add(f"emu_iavf,id={number},transport=inproc,queues={queues}")
        self.guest = None

    def boot(self):
        function = GuestFunction(self.host.connect(self.device), {0: MAP})
        self.guest = AvfDriver(function, queues=self.queues)
        self.guest.probe()
        self.mac = self.guest.resources.mac
        self.guest.open(wait=False)

    @property
    def link(self):
        self.guest.service()
        return self.guest.link

    def send(self, frame, **options):
        self.guest.send(frame, **options)

    def receive(self):
        found = [r for q in range(self.queues) for r in self.guest.receive(0.002, queue=q)]
        return [r.frame for r in found]

    def leave(self):
        self.guest.remove()
        self.guest.function.close()

    def vanish(self):
        self.guest.function.close()


class MemifEnd:
    """A memif interface that serves, and a peer made by hand."""

    def __init__(self, host, number):
        self.host = host
        self.number = number
        self.device = host.add(f"emu_memif,id={number},role=server,socket={SOCKET}")
        self.peer = None
        self.mac = bytes.fromhex("020000000042")

    def boot(self):
        """The peer tries until it is let in."""
        self.host.loop.turn(0)

    @property
    def link(self):
        if self.peer is None and self.device.get_attr(attributes.LINK):
            self.peer = MemifClient(self.host.loop.turn, b"\0" + SOCKET.encode(), self.number)
        return self.peer is not None and self.device.get_queue_info(rx_queue(0)).enabled

    def send(self, frame):
        turn_until(self.host, lambda: self.peer.send([frame]) == 1)

    def receive(self):
        self.host.loop.turn(0.002)
        return self.peer.receive()

    def leave(self):
        self.peer.close()
        self.peer = None
        turn_until(self.host, lambda: not self.device.get_queue_info(rx_queue(0)).enabled)

    vanish = leave


class Setup:
    def __init__(self, host, kinds, keys="", queues=(1, 1)):
        compile_now(WORKER_KERNELS)
        self.host = host
        self.ends = [
            AvfEnd(host, n, queues[n]) if kind == "avf" else MemifEnd(host, n)
            for n, kind in enumerate(kinds)
        ]
        a, b = (end.device.name for end in self.ends)
        self.wire = host.add(f"wire,a={a},b={b}{keys}")
        host.start()
        for end in self.ends:
            end.boot()
        self.connect()

    def connect(self):
        def up():
            links = [end.link for end in self.ends]  # both are served
            return all(links) and self.wire.up

        turn_until(self.host, up, 60)

    def pass_frames(self, count=20, size=200):
        """Frames both ways arrive as they are."""
        for source, sink in ((0, 1), (1, 0)):
            one, other = self.ends[source], self.ends[sink]
            head = other.mac + one.mac + b"\x88\xb5"
            sent = [head + bytes([n]) * size for n in range(count)]
            got = []
            for frame in sent:
                one.send(frame)
                got += other.receive()
            deadline = time.monotonic() + 5
            while len(got) < count:
                assert time.monotonic() < deadline, f"{len(got)} of {count} have arrived"
                got += other.receive()
            assert got == sent

    def close(self):
        for end in self.ends:
            if isinstance(end, AvfEnd) and end.guest is not None:
                end.guest.function.close()
            elif isinstance(end, MemifEnd) and end.peer is not None:
                end.peer.close()


@pytest.fixture
def make():
    with contextlib.ExitStack() as closing:
        host = closing.enter_context(Host())

        def make(*arguments, **options):
            setup = Setup(host, *arguments, **options)
            closing.callback(setup.close)
            return setup

        yield make


KINDS = [("avf", "avf"), ("avf", "memif"), ("memif", "avf"), ("memif", "memif")]


@pytest.mark.parametrize("keys", MODES)
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_frames_pass_both_ways_through_goodbye_and_return(make, kinds, keys):
    setup = make(kinds, keys)
    setup.pass_frames()
    for number, end in enumerate(setup.ends):
        other = setup.ends[1 - number]
        end.leave() if number else end.vanish()
        if "avf" in kinds:
            turn_until(setup.host, lambda other=other: not _link(other), 10)
        end.boot()
        setup.connect()
        setup.pass_frames()
    stats = setup.wire.stats()
    assert stats["a"]["sent"] == stats["b"]["sent"] == 60
    assert stats["a"]["malformed"] == stats["a"]["dropped"] == 0


def _link(end):
    if isinstance(end, MemifEnd):
        up = end.device.get_queue_info(rx_queue(0)).enabled
        if not up and end.peer is not None:
            end.peer.close()
            end.peer = None
        return up
    return end.link


def _tcp(one, other, payload):
    """A TCP frame whose checksum is left to the device."""
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 100, 0, 0)
    length = 40 + len(payload)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 6, 0, HERE.packed, THERE.packed)
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return other.mac + one.mac + b"\x08\x00" + ip + tcp + payload


def _primed(frame):
    """With the pseudo-header's sum where the checksum goes, as a driver leaves it."""
    total = 0xFFFF & ~checksum(frame[26:34] + struct.pack("!HH", 6, len(frame) - 34))
    return frame[:50] + struct.pack(">H", total) + frame[52:]


def _sum(frame):
    """0 if the TCP checksum of a frame is right."""
    return checksum(frame[26:34] + struct.pack("!HH", 6, len(frame) - 34) + frame[34:])


@pytest.mark.parametrize("kinds", [("avf", "avf"), ("avf", "memif")], ids="-".join)
def test_checksums_and_segments_that_are_left_to_the_device_arrive_done(make, kinds):
    setup = make(kinds)
    one, other = setup.ends
    payload, short = bytes(range(256)) * 12, b"a short one"
    one.send(_tcp(one, other, payload), headers=Headers(), mss=1024)
    one.send(_primed(_tcp(one, other, short)), headers=Headers())
    got = []
    turn_until(setup.host, lambda: got.extend(other.receive()) or len(got) == 4)
    assert [len(f) for f in got] == [54 + 1024] * 3 + [65]
    assert b"".join(f[54:] for f in got) == payload + short
    assert [_sum(f) for f in got] == [0] * 4
    # AVF takes a checksum that is still to be completed as it is, memif nothing.
    assert setup.wire.stats()["a"]["softened"] >= 1


def test_ends_with_different_numbers_of_queues_reach_each_other(make):
    setup = make(("avf", "avf"), queues=(4, 2))
    one, other = setup.ends
    head = other.mac + one.mac + b"\x88\xb5"
    sent = [head + bytes([n]) * 60 for n in range(4)]
    for queue, frame in enumerate(sent):
        one.send(frame, queue=queue)
    got = []
    turn_until(setup.host, lambda: got.extend(other.receive()) or len(got) == 4)
    assert sorted(got) == sent
    setup.pass_frames()


@pytest.mark.parametrize("keys", MODES)
def test_resets_of_one_end_leave_the_other_as_it_was(make, keys):
    setup = make(("avf", "avf"), keys, queues=(2, 1))
    one, other = setup.ends
    before = other.guest.statistics()
    for kind in ("driver", "function", "device"):
        if kind == "device":
            one.device.reset(ResetKind.FUNCTION)
            one.guest.function.enable()
            one.guest._wait_active(2)
            one.guest.admin.start()
            one.guest._get_resources()
            one.guest._enable_vector(0)
            one.guest.open(wait=False)
        else:
            {"driver": one.guest.reset, "function": one.guest.function_level_reset}[kind]()
        setup.connect()
        setup.pass_frames()
        assert other.device.state.value == "started"
    assert other.guest.statistics().rx_unicast - before.rx_unicast == 60
    assert other.guest.statistics().rx_discards == 0


def test_a_device_is_stopped_and_started_under_traffic(make):
    setup = make(("avf", "avf"), queues=(1, 1))
    one, other = setup.ends
    for _ in range(2):
        one.device.stop()
        turn_until(setup.host, lambda: not other.link)
        for n in range(10):
            other.send(one.mac + other.mac + b"\x88\xb5" + bytes([n]) * 60)
        one.device.start()
        one.vanish()
        one.boot()
        setup.connect()
        setup.pass_frames()
