"""Kernels run by workers: several at a time, and none in the way of resets, disables and unmaps."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import random
import select
import struct
import tempfile
import threading
import time

import pytest

from emudev_avf import rings
from emudev_avf.descriptors import RX_SIZE, tx_data_qword1
from emudev_avf.driver.load import Load
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.registers import MAP
from emudev_avf.testing import Guest
from emudev_core import attributes
from emudev_core.hooks import hookimpl
from emudev_core.host import Host
from emudev_core.loop import Loop
from emudev_core.memory import EMPTY_TABLE, MemoryTable
from emudev_core.queues import rx_queue, tx_queue
from emudev_net import flow as flows
from emudev_net import worker_kernels
from emudev_net.flow import Flow
from emudev_net.jit import compile_now, jit_wanted
from emudev_net.workers import WorkerPool
from emudev_pci.guest import GuestFunction

pytestmark = pytest.mark.skipif(not jit_wanted(), reason="workers run compiled kernels only")

KERNELS = (*rings.KERNELS, *flows.KERNELS, *worker_kernels.KERNELS)
LENGTH = 512  # a worker needs several bursts for a ring
FRAMES = LENGTH - 1
SIZE = 700
MEMORY = 2 << 20
_libc = ctypes.CDLL(None)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Loopback:
    """A guest whose frames come back to it: a flow from each transmit queue to receive queue 0."""

    def __init__(self, pairs=1, *, polling=False, workers=1, **options):
        compile_now(KERNELS)
        self.guest = Guest(pairs, LENGTH, **{"size": MEMORY, **options})
        self.loop = Loop()
        self.loop.close()
        self.pool = WorkerPool(workers, "loopback", polling=polling)
        port = self.guest.port
        self.flows = []
        for pair in range(pairs):
            flow = Flow(self.loop, port.kernels(tx_queue(pair)), port.kernels(rx_queue(0)))
            worker = self.pool.workers[pair % workers]
            worker.add(flow)
            port.tx[pair].doorbell.subscribe(flow.kick)
            self.flows.append(flow)
        for ring in port.rx:
            ring.doorbell.subscribe(self.pool.room)
        port.paused = self.pool.pause
        self.pool.start()

    def close(self):
        self.pool.close()
        self.guest.close()


@pytest.fixture
def loopbacks():
    with contextlib.ExitStack() as closing:

        def make(*arguments, **options):
            made = Loopback(*arguments, **options)
            closing.callback(made.close)
            return made

        yield make


class Traffic:
    """A ring of frames to send and a ring of buffers, written into guest memory at once."""

    def __init__(self, guest):
        self.guest = guest
        self.tx, self.rx = guest.port.tx[0], guest.port.rx[0]
        self.bases = (self.tx.base, self.rx.base)
        self.frames = [
            bytes.fromhex("ffffffffffff52540077000188b5")
            + n.to_bytes(2, "big") * ((SIZE - 14) // 2)
            for n in range(FRAMES)
        ]
        self.buffers = [guest.take(2048) for _ in range(LENGTH)]
        self._tx = b""
        for frame in self.frames:
            self._tx += struct.pack("<QQ", guest.hold(frame), tx_data_qword1(SIZE, 7))
        self._rx = b"".join(struct.pack("<QQQQ", at, 0, 0, 0) for at in self.buffers)

    def begin(self):
        """Set both rings up and hand all frames and buffers to the device."""
        tx, rx = self.bases
        self.guest.memory.write(tx, self._tx)
        self.guest.memory.write(rx, self._rx)
        self.tx.configure(tx, LENGTH)
        self.rx.configure(rx, LENGTH, 2048, 9728)
        self.guest.port.set_promiscuous(True, True)
        self.tx.enable()
        self.rx.enable()
        self.rx.doorbell.write(FRAMES)
        self.tx.doorbell.write(FRAMES)

    def received(self):
        """Frames that were written back, each checked."""
        count = 0
        for n, buffer in enumerate(self.buffers[:FRAMES]):
            at = self.bases[1] + n * RX_SIZE
            (qword1,) = struct.unpack("<Q", self.guest.memory.read(at + 8, 8))
            if qword1 & 1 == 0:
                break
            assert self.guest.memory.read(buffer, SIZE) == self.frames[n]
            count += 1
        return count

    def snapshot(self):
        return self.guest.memory.read(self.guest.BASE, self.guest.memory.size)


def spin(microseconds):
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass


@pytest.mark.parametrize("polling", [True, False])
@pytest.mark.parametrize("stop", ["disable", "reset", "unmap"])
def test_nothing_is_stored_after_the_end_of_a_queue(loopbacks, stop, polling):
    guest = loopbacks(polling=polling).guest
    traffic = Traffic(guest)
    choose = random.Random(11)
    table = guest.port.memory
    caught = 0
    for n in range(2000):
        if n >= 120 and (caught or not polling):
            break
        traffic.begin()
        spin(choose.randrange(120))
        if stop == "unmap":
            guest.port.set_memory(EMPTY_TABLE)
            # Whoever touches it now ends the process.
            _libc.mprotect(guest.memory.host, guest.memory.size, 0)
            if n % 5 == 0:
                time.sleep(0.0002)
            _libc.mprotect(guest.memory.host, guest.memory.size, mmap.PROT_READ | mmap.PROT_WRITE)
            guest.port.set_memory(MemoryTable(table.regions, n + 2))
            traffic.tx.disable()
            traffic.rx.disable()
        else:
            if stop == "disable":
                traffic.rx.disable()
                traffic.tx.disable()
            else:
                guest.port.reset()
            seen = traffic.snapshot()
            if n % 5 == 0:
                time.sleep(0.0002)
            assert traffic.snapshot() == seen
        count = traffic.received()
        caught += 0 < count < FRAMES
    if polling:
        assert caught > 0, "none of the ends came in the middle of the traffic"


def test_filters_and_hash_change_under_traffic(loopbacks):
    guest = loopbacks(polling=True).guest
    traffic = Traffic(guest)
    port = guest.port
    for n in range(60):
        traffic.begin()
        port.set_macs({bytes([2, 0, 0, 0, 0, n & 0xFF])}, set())
        port.set_rss(bytes([n + 1]) * 52, bytes(64), -1 & 0xFFFF_FFFF)
        port.set_vlan_filter({n})
        port.set_rss(b"", b"", 0)
        port.set_vlan_filter(None)
        end = time.monotonic() + 5
        while traffic.received() < FRAMES:
            assert time.monotonic() < end


def test_two_workers_deliver_to_one_queue_and_lose_no_frame_and_no_interrupt(loopbacks):
    made = loopbacks(2, workers=2, size=4 << 20)
    guest = made.guest
    port = guest.port
    port.rx[1].disable()
    buffers = [guest.take(2048) for _ in range(LENGTH)]
    total = 3000
    sent = [0, 0]
    frames = {
        (pair, n): bytes.fromhex("ffffffffffff5254007700")
        + struct.pack(">BHB", pair, 0x88B5, 0)
        + struct.pack(">I", n) * 40
        for pair in range(2)
        for n in range(total)
    }
    slots = [[guest.take(256) for _ in range(LENGTH)] for _ in range(2)]
    guest.post(FRAMES, addresses=buffers)
    got = [[], []]
    ready = select.poll()
    ready.register(guest.eventfds[1], select.POLLIN)

    def send():
        for pair in range(2):
            ring = port.tx[pair]
            while sent[pair] < total and (guest.tx_tail[pair] + 1 - ring.head) % LENGTH:
                at = slots[pair][guest.tx_tail[pair]]
                frame = frames[pair, sent[pair]]
                guest.memory.write(at, frame)
                qword1 = tx_data_qword1(len(frame), 7)
                guest.put((at, qword1), pair=pair, ring_doorbell=False)
                sent[pair] += 1
            ring.doorbell.write(guest.tx_tail[pair])

    while min(len(x) for x in got) < total:
        send()
        assert ready.poll(2000), f"no interrupt: {[len(x) for x in got]} of {sent}"
        guest.signals(1)
        found = guest.received()
        for data, _ in found:
            pair = data[11]
            got[pair].append(data)
        if found:
            first = guest.rx_next[0] - len(found)
            again = [guest.posted[0][(first + i) % LENGTH] for i in range(len(found))]
            guest.post(len(found), addresses=again)
        port.vectors[1].control(1)
    for pair in range(2):
        assert got[pair] == [frames[pair, n] for n in range(total)]


class Looped:
    """A backend whose workers give each transmit queue's frames to the receive queue beside it."""

    def __init__(self, loop, workers):
        self.loop, self.workers = loop, workers
        self.pool = None

    @hookimpl
    def emudev_backend_started(self, device):
        compile_now(KERNELS)
        self.pool = WorkerPool(self.workers, "looped")
        self.flows = []
        for pair in range(device.get_dev_info().max_queue_pairs):
            source, sink = (device.get_queue_info(q(pair)) for q in (tx_queue, rx_queue))
            flow = Flow(self.loop, source.kernels, sink.kernels)
            self.pool.workers[pair % self.workers].add(flow)
            device.get_db_info(source.doorbell).subscribe(flow.kick)
            device.get_db_info(sink.doorbell).subscribe(self.pool.room)
            self.flows.append(flow)
        self.pool.start()
        device.add_runner(self.pool)
        device.set_attr(attributes.LINK, True)

    @hookimpl
    def emudev_backend_stopped(self, device):
        self.pool.close()
        device.remove_runner(self.pool)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_reference_driver_resets_a_device_under_traffic(workers):
    with tempfile.TemporaryDirectory() as folder, Host() as host:
        device = host.add(f"emu_iavf,id=0,queues=2,path={folder}/s")
        device.register(Looped(host.loop, workers), "looped_0")
        host.start()
        assert device.get_dev_info().parallel
        function = GuestFunction(host.connect(device), {0: MAP})
        driver = AvfDriver(function)
        driver.probe()
        driver.open()
        mac = driver.resources.mac
        tail = MAP.offset("QTX_TAIL1", 0)
        frame = mac + bytes.fromhex("525400770001 88b5") + bytes(range(256)) * 2
        for round_ in range(6):
            result = Load(driver, frame).run(0.05)
            assert result.sent > 0
            assert (result.received, result.bad) == (result.sent, 0)
            for _ in range(20):
                driver.tx[0].send(frame)
            function.bar[0].write32(tail, driver.tx[0].next)
            if round_ % 2:
                function.flr()
                pages = [ring.page for ring in (driver.rx[0], driver.tx[0])]
                seen = [page.read(0, 1 << 16) for page in pages]
                function.pause(0.002)
                assert [page.read(0, 1 << 16) for page in pages] == seen
                function.enable()
                driver._recover()
            else:
                driver.reset()
        driver.close()
        driver.remove()
        function.close()
        assert device.error == ""
    assert not [t for t in threading.enumerate() if t.name.startswith("emudev-looped")]
