"""Sixteen devices in one process: each lives, is reset, stops and fails by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("emudev_null", reason="the transport inproc, the backend echo")

from emudev_avf import rings
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.registers import MAP
from emudev_core import attributes
from emudev_core.host import Host
from emudev_core.lifecycle import State
from emudev_core.regions import ResetKind
from emudev_core.testing.contract import turn_until
from emudev_net.jit import compile_now
from emudev_pci.guest import GuestFunction

MANY = 16


class Nic:
    """A device with the backend echo, and its guest."""

    def __init__(self, host, number):
        self.host = host
        self.number = number
        self.device = host.add(f"emu_iavf,id={number},transport=inproc,queues=2")
        self.backend = host.add(f"echo,emu={self.device.name}")
        self.provider = self.device.members[0].plugin
        self.sent = 0
        self.function = self.driver = None

    def boot(self):
        self.function = GuestFunction(self.host.connect(self.device), {0: MAP})
        self.driver = AvfDriver(self.function, queues=2, ring=64)
        self.driver.probe()
        self.driver.open()

    def echo(self, count=3):
        """Frames that come back with their addresses swapped."""
        mac, peer = self.driver.resources.mac, bytes([2, 0, 0, 0, 0, self.number])
        for mark in range(count):
            body = b"\x88\xb5" + bytes([self.number, mark]) * 40
            self.driver.send(peer + mac + body)
            self.sent += 1
            back = None
            for queue in (0, 1) * 500:
                got = self.driver.receive(0.001, queue=queue)
                if got:
                    back = got[0].frame
                    break
            assert back == mac + peer + body, self.number

    def leave(self):
        if self.function is not None:
            self.function.close()
            self.function = None


@pytest.fixture
def nics():
    compile_now(rings.KERNELS)
    with Host() as host:
        made = [Nic(host, number) for number in range(MANY)]
        host.start()
        turn_until(host, lambda: all(n.device.get_attr(attributes.LINK) for n in made), 60)
        yield made
        for nic in made:
            nic.leave()


def test_all_of_them_work_at_the_same_time(nics):
    for nic in nics:
        nic.boot()
    for _ in range(3):
        for nic in nics:
            nic.echo(1)
    assert len({nic.driver.resources.mac for nic in nics}) == MANY
    for nic in nics:
        assert nic.driver.statistics().tx_unicast == nic.sent
        assert nic.driver.statistics().rx_unicast == nic.sent


def test_each_is_reset_stopped_and_started_by_itself(nics):
    for nic in nics:
        nic.boot()
        nic.echo(1)
    nics[1].driver.reset()
    nics[2].driver.function_level_reset()
    nics[3].provider.announce_reset()
    nics[4].provider.silent_reset()
    nics[5].device.reset(ResetKind.FUNCTION)
    nics[6].device.stop()
    nics[7].leave()
    untouched = [nic for nic in nics if nic.number not in range(3, 8)]
    for nic in untouched:
        nic.echo()
        assert nic.driver.link
    nics[6].device.start()
    turn_until(nics[6].host, lambda: nics[6].device.get_attr(attributes.LINK), 60)
    for nic in nics[3:8]:
        nic.leave()
        nic.boot()
    for nic in nics:
        nic.echo()
    assert all(nic.driver.statistics().rx_discards == 0 for nic in untouched)


def test_one_that_fails_or_is_closed_disturbs_no_other(nics):
    for nic in nics:
        nic.boot()
    nics[0].device.fail("it broke")
    nics[15].leave()
    nics[15].device.close()
    assert nics[0].device.state is State.ERROR
    for nic in nics[1:15]:
        nic.echo(2)
        assert nic.device.state is State.STARTED
        assert nic.driver.link


def test_kernels_are_compiled_once_for_all(nics):
    def kernels(nic):
        found = [nic.device.get_queue_info(queue).kernels for queue in range(4)]
        return [(k.peek, k.push, k.release, k.notify) for k in found]

    assert all(kernels(nic) == kernels(nics[0]) for nic in nics)


MEASURE = """
import time
from emudev_core.host import Host

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

with Host() as host:
    for number in range(16):
        if number == 1:
            before, start = resident(), time.process_time()
        host.add(f"emu_iavf,id={number},transport=inproc")
    host.start()
    print((resident() - before) // 15, (time.process_time() - start) / 15)
"""


def test_one_more_device_costs_little_memory_and_time():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=60, check=True
    )
    memory, seconds = done.stdout.split()
    # Half a megabyte and 20 ms on the machine on which it was written.
    assert int(memory) < 4 << 20
    assert float(seconds) < 0.5
