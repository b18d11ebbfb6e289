"""A guest whose memory can't be mapped: its rings are mirrored, and carried by messages."""

import shutil
import tempfile
import time

import pytest

from emudev_avf import rings
from emudev_avf.driver.netdev import AvfDriver
from emudev_avf.registers import MAP
from emudev_core import attributes
from emudev_core.host import Host
from emudev_net.testing import compiled_or_plain, jit  # noqa: F401  # fixtures
from emudev_pci.guest import GuestFunction

PEER = bytes.fromhex("020000000001")


class Machine:
    """A device served over vfio-user, its echoing backend, and a guest in this thread."""

    def __init__(self, folder, **keys):
        self.host = Host()
        more = "".join(f",{key}={value}" for key, value in keys.items())
        self.device = self.host.add(f"emu_iavf,id=0,path={folder}/s{more}")
        self.echo = self.host.add("echo,avf_emu_id=0")
        self.provider = self.device.members[0].plugin
        self.host.start()
        self.until(lambda: self.device.get_attr(attributes.LINK), 60)
        self.function = GuestFunction(self.host.connect(self.device), {0: MAP})
        self.client = self.function.client

    def until(self, condition, seconds=5.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came"
            self.host.loop.turn(0.01)

    def boot(self, by_message=lambda number: True, **options):
        """Bring the driver up; `by_message` says of each piece of memory whether it is mapped."""
        numbers = iter(range(1000))
        make = self.function.map_memory

        def map_memory(size, *args, **kwargs):
            return make(size, *args, by_message=by_message(next(numbers)), **kwargs)

        self.function.map_memory = map_memory
        self.function.enable()
        self.driver = AvfDriver(self.function, **options)
        self.driver.probe()
        self.driver.open()
        return self.driver

    def echoed(self, body, **options):
        """Send a frame, and take the one that comes back."""
        mac = self.driver.resources.mac
        self.driver.send(PEER + mac + body, **options)
        for _ in range(200):
            got = self.driver.receive(0.01)
            if got:
                assert [one.frame[:12] for one in got] == [mac + PEER] * len(got)
                return [one.frame[12:] for one in got]
        raise AssertionError("nothing came back")

    def close(self):
        self.function.close()
        self.host.close()


@pytest.fixture
def machine(compiled_or_plain):  # noqa: F811
    compiled_or_plain(*rings.KERNELS)
    folders, made = [], []

    def make(**keys):
        folders.append(tempfile.mkdtemp(prefix="emudev-"))
        made.append(Machine(folders[-1], **keys))
        return made[-1]

    yield make
    for one in made:
        one.close()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def body(size, seed=1):
    """A frame behind its addresses: the ethertype of local experiments, and a pattern."""
    return b"\x88\xb5" + bytes((i * 7 + seed) & 0xFF for i in range(size - 14))


@pytest.mark.parametrize("size", [60, 1514, 9000])
def test_frames_pass_both_ways_unharmed(machine, size):
    guest = machine()
    guest.boot()
    for seed in range(5):
        assert guest.echoed(body(size, seed)) == [body(size, seed)]


def test_more_frames_than_the_ring_holds_come_in_order(machine):
    guest = machine()
    driver = guest.boot(ring=64)
    mac = driver.resources.mac
    back = []
    for number in range(300):
        while driver.tx[0].reap() > 60:
            back += driver.receive(0.0)
            guest.host.loop.turn(0.0)
        driver.send(PEER + mac + body(100, number))
    end = time.monotonic() + 20
    while len(back) < 300 and time.monotonic() < end:
        back += driver.receive(0.05)
    assert [one.frame[12:] for one in back] == [body(100, number) for number in range(300)]
