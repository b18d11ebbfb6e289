"""Transmit tails in memory that a client maps: what it is shown, and who sees its stores."""

import ctypes
import mmap
import os

import pytest

from emudev_avf.config import AvfConfig
from emudev_avf.device import AvfDevice
from emudev_core.errors import ConfigError
from emudev_core.loop import Loop
from emudev_core.memory import Mapping
from emudev_core.regions import MapArea, RegionFlag
from emudev_core.registry import Registry
from emudev_core.specs import ProviderContext


class Client:
    """What a VMM does with the region: it maps the area with the descriptor that it was sent."""

    def __init__(self, device):
        self.info = device.get_regions()[0]
        self.fd = os.dup(self.info.fd)
        self.memory = Mapping(self.fd, 0, 4096)
        device.client_attached("a test")

    def store(self, queue, tail):
        """The guest's store to QTX_TAIL1, avf.md 2.1."""
        ctypes.c_uint32.from_address(self.memory.address + 4 * queue).value = tail

    def close(self):
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def loop():
    loop = Loop(spin=0)
    yield loop
    loop.close()


@pytest.fixture
def make(loop):
    made = []

    def make(**keys):
        registry = Registry(loop)
        device = registry.allocate("avf_emudev_0", "a test")
        context = ProviderContext(device=device, loop=loop, registry=registry)
        config = AvfConfig(queues=2, **keys)
        avf = AvfDevice(config, context)
        device.register(avf, "provider", "test 1.0")
        made.append(device)
        return device, avf

    yield make
    for device in made:
        device.close()


@pytest.fixture
def mapped(make):
    return make(doorbells="mapped")


@pytest.fixture
def client(mapped):
    client = Client(mapped[0])
    yield client
    client.close()


def turn_until(loop, condition):
    done = []
    timer = loop.call_later(5, lambda: done.append(1))
    while not condition():
        assert not done, "it did not happen in time"
        loop.turn(0.01)
    timer.cancel()


def test_nothing_can_be_mapped_unless_the_user_said_so(make):
    device, _ = make()
    info = device.get_regions()[0]
    assert (info.fd, info.areas, info.flags & RegionFlag.MMAP) == (None, (), 0)


def test_the_first_page_of_bar_0_can_be_mapped(client):
    assert client.info.areas == (MapArea(0, 4096),)
    assert client.info.flags & RegionFlag.MMAP
    assert client.info.size == 0x2_0000


def test_a_store_of_the_guest_is_the_tail(mapped, client):
    device, avf = mapped
    client.store(0, 5)
    client.store(1, 7)
    assert [ring.doorbell.value for ring in avf.port.tx] == [5, 7]
    assert [device.get_db_info(number).value for number in (0, 1)] == [5, 7]


def test_a_message_still_is_a_doorbell_of_the_same_word(mapped, client):
    device, avf = mapped
    rings = []
    avf.port.tx[1].doorbell.subscribe(lambda: rings.append(1))
    device.region_write(0, 4, 4, 9)
    assert rings == [1]
    assert avf.port.tx[1].doorbell.value == 9
    assert ctypes.c_uint32.from_address(client.memory.address + 4).value == 9


def test_a_queue_that_nobody_polls_is_looked_after(loop, mapped, client):
    _, avf = mapped
    rings = []
    avf.port.tx[1].doorbell.subscribe(lambda: rings.append(avf.port.tx[1].doorbell.value))
    client.store(1, 3)
    turn_until(loop, lambda: rings)
    assert rings == [3]  # once for each move
    client.store(1, 4)
    turn_until(loop, lambda: len(rings) > 1)
    assert rings == [3, 4]


def test_a_queue_that_is_polled_is_left_alone(loop, mapped, client):
    _, avf = mapped
    rings = []
    for ring in avf.port.tx:
        ring.doorbell.polled = True
        ring.doorbell.subscribe(lambda: rings.append(1))
    client.store(0, 3)
    done = []
    loop.call_later(0.05, lambda: done.append(1))
    while not done:
        loop.turn(0.01)
    assert rings == []
    avf.port.tx[0].doorbell.polled = False  # what was stored meanwhile is found
    turn_until(loop, lambda: rings)


def test_a_client_that_has_gone_rings_nobody_s_doorbell(mapped, client):
    device, avf = mapped
    client.store(0, 5)
    device.client_detached()
    assert avf.port.tx[0].doorbell.value == 0
    client.store(0, 6)
    assert avf.port.tx[0].doorbell.value == 0
    second = Client(device)
    try:
        second.store(0, 2)
        assert avf.port.tx[0].doorbell.value == 2
    finally:
        second.close()


def test_a_client_can_t_truncate_the_memory(client):
    for size in (0, 100, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(client.fd, size)


def test_a_reset_zeroes_what_the_guest_sees(mapped, client):
    _, avf = mapped
    client.store(0, 5)
    avf.port.reset()
    assert ctypes.c_uint32.from_address(client.memory.address).value == 0


def test_other_sizes_of_pages_are_refused_with_the_way_out(make, monkeypatch):
    monkeypatch.setattr(mmap, "PAGESIZE", 65536)
    with pytest.raises(ConfigError, match="4096 bytes, not 65536"):
        make(doorbells="mapped")
