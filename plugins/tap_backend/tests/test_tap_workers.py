"""Frames moved by workers: both ways, without room, over disabled queues, to the end of threads."""

import ctypes
import functools
import os
import socket
import struct
import threading
import time

import pytest
from fake_setup import Setup

from emudev_core.errors import BackendError, ConfigError
from emudev_net.jit import jit_wanted
from emudev_net.worker_kernels import rouse
from emudev_tap_backend.backend import WORKER_KERNELS

needs_compiler = pytest.mark.skipif(not jit_wanted(), reason="workers run compiled kernels only")

PLAIN = bytes(10)


class WorkingSetup(Setup):
    """One whose frames are moved by workers."""

    kernels = WORKER_KERNELS

    def lost(self):
        super().lost()
        self.wiring.close()

    def arrived(self, count, queue=0):
        """The next frames that reached the host, without headers."""
        return [self.tap.hosts[queue].recv(70000)[10:] for _ in range(count)]

    def until(self, condition, seconds=5.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            assert not self.loop.turn(0), "the loop has nothing to do with it"
            time.sleep(0.0005)


@pytest.fixture
def setup(make_setup):
    return functools.partial(make_setup, WorkingSetup, timeout=5, workers=1, polling=False)


def got(queue):
    return [data for data, _, _ in queue.got]


def threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("emudev-fake")]


@needs_compiler
@pytest.mark.parametrize("polling", [False, True])
def test_frames_pass_both_ways_without_the_loop(setup, polling):
    s = setup(polling=polling)
    s.enable(0, 1)
    frames = [bytes([n]) * (60 + n) for n in range(200)]
    for n, frame in enumerate(frames):
        s.nic.queues[1].send(frame)
        s.nic.queues[1].doorbell.ring()
        s.tap.hosts[0].send(PLAIN + frame)
        if n % 50 == 0:
            time.sleep(0.001)  # so that the worker sleeps
    assert s.arrived(200) == frames
    s.until(lambda: len(s.nic.queues[0].got) == 200)
    assert got(s.nic.queues[0]) == frames
    assert s.tap.carrier is True
    s.until(lambda: [s.wiring.stats()[way][0]["frames"] for way in ("rx", "tx")] == [200, 200])
    assert (s.wiring.stats()["workers"]["sleeps"] > 0) is not polling


@needs_compiler
def test_a_full_interface_is_waited_for(setup):
    s = setup()
    s.enable(0, 1)
    frames = [bytes([n]) * 20000 for n in range(60)]
    with s.device.paused():
        for frame in frames:
            s.nic.queues[1].send(frame)
    s.nic.queues[1].doorbell.ring()
    s.until(lambda: s.wiring.stats()["tx"][0]["frames"] > 0)
    time.sleep(0.005)
    assert 0 < len(s.nic.queues[1].to_send) < 60
    assert s.arrived(60) == frames


@needs_compiler
def test_frames_without_room_are_kept_in_order(setup):
    s = setup()
    s.enable(0)
    s.nic.queues[0].room = 0
    sent = [bytes([n]) * (60 + n) for n in range(100)]
    for frame in sent[:5]:
        s.tap.hosts[0].send(PLAIN + frame)
    time.sleep(0.002)
    assert s.nic.queues[0].got == []
    for n in range(100):
        for frame in sent[n + 5 : n + 6]:
            s.tap.hosts[0].send(PLAIN + frame)
        s.nic.queues[0].room = 1
        s.nic.queues[0].doorbell.ring()
        s.until(lambda: len(s.nic.queues[0].got) == n + 1)  # noqa: B023 - called at once
    assert got(s.nic.queues[0]) == sent


@needs_compiler
def test_a_disabled_queue_gets_nothing_and_what_waited_is_dropped(setup):
    s = setup()
    s.enable(1)
    s.tap.hosts[0].send(PLAIN + bytes(60))
    time.sleep(0.002)
    assert s.nic.queues[0].got == []
    assert s.tap.carrier is False
    s.enable(0)
    s.tap.hosts[0].send(PLAIN + bytes([1]) * 60)
    s.until(lambda: s.nic.queues[0].got)
    assert got(s.nic.queues[0]) == [bytes([1]) * 60]
    assert s.wiring.stats()["rx"][0]["dropped"] == 1


@needs_compiler
def test_each_queue_of_the_interface_belongs_to_one_worker(setup):
    s = setup(pairs=3, queues=3, workers=2)
    assert len(threads()) == 2
    s.enable(*range(6))
    for pair in range(3):
        s.nic.queues[2 * pair + 1].send(bytes([pair]) * 60)
        s.nic.queues[2 * pair + 1].doorbell.ring()
        s.tap.hosts[pair].send(PLAIN + bytes([pair + 10]) * 60)
    for pair in range(3):
        assert s.arrived(1, pair) == [bytes([pair]) * 60]
        s.until(lambda: s.nic.queues[2 * pair].got)  # noqa: B023 - called at once
        assert got(s.nic.queues[2 * pair]) == [bytes([pair + 10]) * 60]


@needs_compiler
def test_pairs_that_share_an_interface_share_a_worker(setup):
    s = setup(pairs=2, queues=1, workers=4)
    assert len(threads()) == 1
    s.enable(0, 1, 2, 3)
    for pair in (0, 1):
        s.nic.queues[2 * pair + 1].send(bytes([pair]) * 60)
        s.nic.queues[2 * pair + 1].doorbell.ring()
    assert sorted(s.arrived(2)) == [bytes(60), bytes([1]) * 60]


@needs_compiler
def test_doorbells_wake_workers_by_compiled_code(setup):
    s = setup(pairs=2, queues=2, workers=2)
    workers = s.wiring._pool.workers

    def chain(queue):
        words = (ctypes.c_int64 * 17).from_address(s.nic.queues[queue].doorbell.chain)
        return words[: 1 + 2 * max(0, words[0])]

    for pair, worker in enumerate(workers):
        cut = worker.shortcut
        assert cut.address == rouse.address != 0
        assert chain(2 * pair + 1) == [1, cut.address, cut.state]
        rooms = [one.room_shortcut for one in workers]  # any receive queue may have had no room
        assert chain(2 * pair) == [2, *(word for c in rooms for word in (c.address, c.state))]
    s.wiring.close()
    assert [chain(queue) for queue in range(4)] == [[0]] * 4


@needs_compiler
def test_a_descriptor_in_error_is_told_and_ends_the_workers(setup):
    s = setup()
    s.enable(0, 1)
    s.tap.hosts[0].close()
    s.loop.turn(1)
    assert s.losses == 1
    assert threads() == []


@needs_compiler
def test_closing_ends_the_threads_and_leaves_the_doorbells_alone(setup):
    s = setup(pairs=2, queues=2, workers=2)
    s.enable(0, 1, 2, 3)
    s.wiring.close()
    assert threads() == []
    assert len(s.nic.queues[1].doorbell.subscribers) == 0
    with s.device.paused():
        pass
    s.nic.queues[1].send(bytes(60))
    s.nic.queues[1].doorbell.ring()
    s.tap.hosts[0].send(PLAIN + bytes(60))
    time.sleep(0.002)
    assert not s.nic.queues[0].got
    assert s.nic.queues[1].to_send


@needs_compiler
def test_queues_come_and_go_under_traffic(setup):
    s = setup()
    for n in range(150):
        s.enable(0, 1)
        s.tap.hosts[0].send(PLAIN + n.to_bytes(2, "big") * 30)
        s.nic.queues[1].send(n.to_bytes(2, "big") * 30)
        s.nic.queues[1].doorbell.ring()
        if n % 3:
            time.sleep(0.0002)
        s.enable(0, 1, enabled=False)
        count = len(s.nic.queues[0].got)
        left = len(s.nic.queues[1].to_send)
        time.sleep(0.0001)
        assert len(s.nic.queues[0].got) == count
        assert len(s.nic.queues[1].to_send) == left
    s.enable(0, 1)
    sent = [n.to_bytes(2, "big") * 30 for n in range(150)]
    assert s.arrived(150) == sent
    seen = got(s.nic.queues[0])
    assert seen == [frame for frame in sent if frame in seen]


# -- with real interfaces


def plain(number):
    return bytes.fromhex("525400770002525400770001 88b5") + struct.pack(">H", number) * 23


def incoming(packets):
    while True:
        data, address = packets.recvfrom(70000)
        if address[2] != socket.PACKET_OUTGOING:
            return data


@needs_compiler
@pytest.mark.root
@pytest.mark.parametrize("polling", [False, True])
def test_a_worker_joins_a_nic_to_a_tap_interface(joined, host, polling):
    nic = joined.start(workers=1, polling=polling)
    joined.until(lambda: joined.backend.stats())
    packets = host.packets("tap0")
    sent = [plain(n) for n in range(100)]
    for frame in sent:
        nic.queues[1].send(frame)
        nic.queues[1].doorbell.ring()
        packets.send(PLAIN + frame)
    assert [incoming(packets)[10:] for _ in sent] == sent
    joined.until(lambda: len(nic.queues[0].got) == 100)
    assert got(nic.queues[0]) == sent
    assert "emudev-tap0-0" in {thread.name for thread in threading.enumerate()}
    before = set(os.listdir("/proc/self/fd"))
    joined.device.stop()
    assert "emudev-tap0-0" not in {thread.name for thread in threading.enumerate()}
    assert len(set(os.listdir("/proc/self/fd"))) < len(before)


@needs_compiler
@pytest.mark.root
def test_a_deleted_interface_ends_the_workers_and_comes_back_with_them(joined, host):
    nic = joined.start(workers=1)
    joined.until(lambda: joined.backend.stats())
    host.ip("link delete tap0")
    joined.until(lambda: not joined.backend.attached)
    assert "emudev-tap0-0" not in {thread.name for thread in threading.enumerate()}
    host.ip("tuntap add tap0 mode tap")
    host.ip("link set tap0 up")
    joined.until(lambda: joined.backend.stats() and nic.attributes["link"])
    packets = host.packets("tap0")
    nic.queues[1].send(plain(7))
    nic.queues[1].doorbell.ring()
    assert incoming(packets)[10:] == plain(7)


@needs_compiler
@pytest.mark.root
def test_several_workers_need_a_device_that_is_run_in_parallel(joined, host):
    with pytest.raises(BackendError, match="one thread at a time"):
        joined.start(pairs=2, workers=2)


@pytest.mark.root
def test_workers_are_refused_where_nothing_is_compiled(joined, host, monkeypatch):
    monkeypatch.setenv("EMUDEV_JIT", "0")
    with pytest.raises(ConfigError, match="EMUDEV_JIT"):
        joined.start(workers=1)
