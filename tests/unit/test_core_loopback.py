"""The rules that the client without a wire keeps beside those of the contract."""

import os

import pytest

from emudev_core import Host
from emudev_core.config import TransportConfig
from emudev_core.errors import MemoryAccessError, PeerError, TransportError
from emudev_core.later import Later
from emudev_core.specs import ConnectContext, TransportSpec
from emudev_core.testing import exerciser, loopback
from emudev_core.testing.builders import GuestMemory, make_plugins, open_descriptors

NOT_SERVED = TransportSpec(
    name="elsewhere", summary="", config=TransportConfig, serve=lambda config, context: object()
)


@pytest.fixture
def host():
    with Host(plugins=make_plugins(exerciser.SPEC, loopback.SPEC, NOT_SERVED)) as host:
        yield host


@pytest.fixture
def device(host):
    device = host.add("emu_exerciser,id=0")
    host.start()
    return device


@pytest.fixture
def provider(device):
    return device.members[0].plugin


@pytest.fixture
def client(host, device):
    client = host.connect(device)
    yield client
    client.close()


def test_a_second_client_is_refused_until_the_first_has_gone(host, device, client):
    with pytest.raises(TransportError, match="has a client already"):
        host.connect(device)
    client.close()
    host.connect(device).close()


def test_a_device_that_is_not_started_takes_no_client(host):
    device = host.add("emu_exerciser,id=1")
    with pytest.raises(TransportError, match="is not started"):
        host.connect(device)


def test_devices_elsewhere_are_out_of_reach(host):
    with pytest.raises(TransportError, match="own process"):
        loopback.connect(TransportConfig(), ConnectContext())
    device = host.add("emu_exerciser,id=1,transport=elsewhere")
    with pytest.raises(TransportError, match="served by another transport"):
        loopback.connect(TransportConfig(), ConnectContext(device, host.loop))


def test_memory_by_message_is_read_after_a_handler_only(client, provider, monkeypatch):
    memory = bytearray(b"guest memory    ")
    client.dma_map(0x1000, 16, memory=memory)
    seen = []

    def read(region, offset, size):
        with pytest.raises(MemoryAccessError, match="while the client waits"):
            provider.table.read(0x1000, 4)
        provider.table.write(0x1000, b"GUEST")
        seen.append(bytes(memory[:5]))
        return 0

    monkeypatch.setattr(provider, "emudev_region_read", read)
    provider.device.region_read = read
    client.region_read(0, 0, 4)
    assert seen == [b"guest"], "the write waits for the end of the handler"
    assert memory[:5] == b"GUEST"
    assert provider.table.read(0x1000, 5) == b"GUEST"


def test_memory_by_message_is_fetched_and_stored_in_the_next_turn(host, client, provider):
    memory = bytearray(b"guest memory    ")
    client.dma_map(0x1000, 16, memory=memory)
    channel = provider.table.regions[0].channel
    told = []
    channel.store(0x1000, b"GUEST", told.append)
    channel.fetch(0x1000, 8, told.append)
    assert channel.store(0x1000, b"x", told.append).cancel()
    assert told == []
    host.loop.turn(0)
    assert told == [True, b"GUEST me"]
    assert memory[:5] == b"GUEST"
    late = channel.fetch(0x1000, 1, told.append)
    client.dma_unmap(0x1000, 16)
    channel.store(0x1000, b"y", told.append)
    host.loop.turn(0)
    assert told[2:] == [None, False]
    assert not late.cancel()
    assert memory[:5] == b"GUEST"


@pytest.mark.parametrize(
    ("address", "size"), [(0x8000, 0x2000), (0xF000, 0x2000), (0x9000, 0x1000), (0x7000, 0x4000)]
)
def test_ranges_that_overlap_are_refused(client, provider, address, size):
    client.dma_map(0x8000, 0x8000, memory=bytearray(0x8000))
    with pytest.raises(PeerError, match="overlap"):
        client.dma_map(address, size, memory=bytearray(size))
    assert len(provider.table.regions) == 1


def test_ranges_that_cant_be_are_refused(client):
    memory = GuestMemory(4096)
    before = open_descriptors()
    with pytest.raises(PeerError, match="ends behind the file's end"):
        client.dma_map(0, 8192, fd=memory.fd)
    for address, size in ((1 << 64, 1), ((1 << 64) - 1, 2), (0, 0), (-1, 1)):
        with pytest.raises(PeerError, match="no range"):
            client.dma_map(address, size, memory=bytearray(2))
    client.dma_map((1 << 64) - 4096, 4096, fd=memory.fd)
    with pytest.raises(PeerError, match="was not mapped so"):
        client.dma_unmap((1 << 64) - 4096, 2048)
    with pytest.raises(ValueError, match="one of them"):
        client.dma_map(0, 1)
    assert open_descriptors() == before
    memory.close()


def test_memory_is_kept_while_somebody_may_still_use_it(host, client, provider):
    memory = GuestMemory(4096)
    client.dma_map(0, 4096, fd=memory.fd)
    address = provider.table.regions[0].host
    later = Later()
    provider.answer = lambda: later
    mapped = []

    def finish():
        mapped.append(_is_mapped(address))
        later.finish()

    host.loop.call_later(0.01, finish)
    client.dma_unmap(0, 4096)
    provider.answer = lambda: True
    assert mapped == [True]
    assert not _is_mapped(address)
    memory.close()


def test_vectors_that_are_not_there_are_refused(client):
    for group, vector in ((0, 2), (1, 0), (0, -1)):
        with pytest.raises(PeerError, match="no vector"):
            client.irq_bind(group, vector, None)
        with pytest.raises(PeerError, match="no vector"):
            client.irq_mask(group, vector, True)


def test_the_clients_own_descriptor_may_be_closed_after_binding(client, provider):
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    client.irq_bind(0, 0, fd)
    assert provider.fds[0] != fd
    os.close(fd)
    provider.trigger(0)


def test_a_closed_client_is_told_so(client):
    client.close()
    with pytest.raises(TransportError):
        client.region_read(0, 0, 4)


def _is_mapped(address: int) -> bool:
    with open("/proc/self/maps") as maps:
        ranges = (line.split()[0].split("-") for line in maps)
        return any(int(first, 16) <= address < int(end, 16) for first, end in ranges)
