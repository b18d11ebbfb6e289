"""A device of many queues and the reference driver, end to end; queues with a limited rate."""

import struct
import subprocess
import sys
import time

import pytest

pytest.importorskip("emudev_null", reason="the transport inproc, the backend echo")

from emudev_avf.driver.netdev import LINUX_CAPS, AvfDriver
from emudev_avf.registers import MAP
from emudev_avf.rings import KERNELS
from emudev_core import attributes
from emudev_core.host import Host
from emudev_core.testing.contract import turn_until
from emudev_net.jit import compile_now
from emudev_pci.guest import GuestFunction

LARGE, QOS = 1 << 9, 1 << 29


class Nic:
    """A device with the backend echo, and its guest."""

    def __init__(self, host, pairs, caps):
        compile_now(KERNELS)
        self.host = host
        self.device = host.add(f"emu_iavf,id=0,transport=inproc,queues={pairs}")
        host.add("echo,emu=avf_emudev_0")
        host.start()
        turn_until(host, lambda: self.device.get_attr(attributes.LINK), 60)
        self.function = GuestFunction(host.connect(self.device), {0: MAP})
        self.driver = AvfDriver(self.function, queues=pairs, ring=64, caps=caps)
        self.driver.probe()
        self.driver.open()

    def udp(self, sport, size=60):
        """UDP over IPv4, without checksum.

        The address differs in many bits for each port, so that any key spreads the frames.
        """
        data = struct.pack(">HHHH", sport, 9, size - 34, 0) + bytes(size - 42)
        head = struct.pack(">BBHHHBBH", 0x45, 0, size - 14, 1, 0, 64, 17, 0)
        source = (sport * 2654435761 & 0xFF_FFFF | 10 << 24).to_bytes(4)
        peer, mac = bytes([2, 0, 0, 0, 0, 9]), self.driver.resources.mac
        return peer + mac + b"\x08\0" + head + source + bytes([10, 0, 0, 2]) + data


@pytest.fixture
def nics():
    made = []

    def make(pairs, caps=LINUX_CAPS):
        host = Host()
        made.append(host.__enter__())
        return Nic(host, pairs, caps)

    yield make
    for host in made:
        host.__exit__(None, None, None)


def spread(nic, frames):
    """Send a frame on each of the queues in turn; the queues that it comes back on."""
    driver = nic.driver
    pairs = len(driver.tx)
    for number in range(frames):
        driver.send(nic.udp(1000 + number), queue=number % pairs)
    found = {}
    for _ in range(200):
        for queue in range(pairs):
            for got in driver.rx[queue].receive():
                (port,) = struct.unpack_from(">H", got.frame, 36)  # echo swaps the ports
                found[port] = queue
        if len(found) == frames:
            break
        nic.function.pause(0.005)
    assert sorted(found) == [1000 + number for number in range(frames)]
    return set(found.values())


def test_40_queues_of_a_driver_that_asks_for_them(nics):
    nic = nics(40, LINUX_CAPS | LARGE)
    assert (nic.driver.resources.queue_pairs, nic.driver.resources.vectors) == (40, 41)
    assert len(spread(nic, 160)) > 30
    nic.driver.reset()
    assert nic.driver.resources.queue_pairs == 40
    assert len(spread(nic, 160)) > 30
    nic.driver.close()
    nic.driver.open()
    assert len(spread(nic, 80)) > 16


def test_a_driver_that_does_not_ask_uses_16_of_40(nics):
    nic = nics(40)
    assert nic.driver.resources.queue_pairs == len(nic.driver.tx) == 16
    assert len(spread(nic, 80)) > 8


def test_70_queues_share_62_vectors_and_are_all_hashed_to(nics):
    nic = nics(70, LINUX_CAPS | LARGE)
    res = nic.driver.resources
    assert (res.queue_pairs, res.vectors, res.lut) == (70, 63, 512)
    assert len(spread(nic, 210)) > 48


def test_a_limited_queue_sends_on_when_its_time_has_come(nics):
    """60 frames of 1000 bytes at 8 Mbit/s: a burst of 11, then one each millisecond."""
    nic = nics(2, LINUX_CAPS | QOS)
    driver = nic.driver
    driver.admin.request(112, struct.pack("<HHHBxII", 1, 1, 0, 0, 0, 8000))
    start = time.monotonic()
    for number in range(60):
        driver.send(nic.udp(number, 1000), queue=0)
    found = 0
    while found < 60:
        assert time.monotonic() < start + 30
        found += sum(len(driver.receive(0.002, queue=queue)) for queue in range(2))
    assert time.monotonic() - start > (60 - 11) * 0.001
    before = time.monotonic()
    for number in range(60):
        driver.send(nic.udp(number, 1000), queue=1)
    while found < 120:
        assert time.monotonic() < before + 30
        found += sum(len(driver.receive(0.002, queue=queue)) for queue in range(2))


def test_rules_of_the_hash_and_limits_are_saved_and_go_on(nics):
    nic = nics(2, LINUX_CAPS | QOS)
    admin = nic.driver.admin
    rule = struct.pack("<B3xI", 0, 2) + struct.pack("<iI64x", 4, 1) + struct.pack("<iI64x", 6, 0)
    admin.request(45, rule.ljust(2312, b"\0") + bytes(132))
    admin.request(18, struct.pack("<HHI", 1, 2, 0))
    admin.request(112, struct.pack("<HHHBxII", 1, 1, 1, 0, 0, 8000))
    saved = nic.device.save()
    other = nic.host.add("emu_iavf,id=1,transport=inproc,queues=2")
    nic.host.start()
    other.stop()
    other.restore(saved)
    assert other.save() == saved
    avf = other.members[0].plugin
    assert avf.port.limits.queue_rates == {1: 8000}
    assert avf.vf.state.rss_function == 2
    assert list(avf.vf.state.rss_rules.values()) == [4]  # the source address


MEASURE = """
import time
from emudev_core.host import Host

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

with Host() as host:
    host.add("emu_iavf,id=0,transport=inproc,queues=1")
    before, start = resident(), time.process_time()
    host.add("emu_iavf,id=1,transport=inproc,queues=256")
    host.add("echo,emu=avf_emudev_1")
    host.start()
    print(resident() - before, time.process_time() - start)
"""


def test_256_queues_cost_memory_and_time_in_proportion():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, check=True
    )
    memory, seconds = done.stdout.split()
    # 17 KiB a queue pair, most of it room for header copies; 20 ms in all where it was written.
    assert int(memory) < 256 * (128 << 10)
    assert float(seconds) < 2
