"""The server as a library: the calls of the RFC, section by section of its table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emudev_core.errors import ConfigError, LifecycleError, PeerError, TransportError
from emudev_core.regions import IrqGroup, MapArea, RegionFlag, RegionInfo, ResetKind
from emudev_vfio_user import VfioUserClient, VfioUserServer
from emudev_vfio_user.api import DeviceDescription, Region, Resource

RW = RegionFlag.READ | RegionFlag.WRITE


class Notes:
    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def new_device(self, id: int) -> None:
        self.seen.append(("new", id))

    def destroy_device(self, id: int) -> None:
        self.seen.append(("destroy", id))

    def update_status(self, id: int) -> None:
        self.seen.append(("update", id))


class Store:
    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data

    def region(self, index: int) -> Region:
        return Region(RegionInfo(index, len(self.data), RW), self.read, self.write)


@pytest.fixture
def server() -> Iterator[VfioUserServer]:
    server = VfioUserServer()
    yield server
    server.close()


def _client(server: VfioUserServer, path: str) -> VfioUserClient:
    return VfioUserClient(path, loop=server.loop)


def test_a_device_is_registered_described_started_used_and_stopped(
    server: VfioUserServer, tmp_path: Path, memfd: Any, eventfds: Any
) -> None:
    path = str(tmp_path / "dev.sock")
    notes, bar = Notes(), Store(4096)
    resets: list[ResetKind] = []

    def reset(kind: ResetKind) -> bool:
        resets.append(kind)
        return True

    id = server.register(path, notes)
    server.set_dev_info(path, DeviceDescription(reset=reset))
    server.set_reg_info(path, [bar.region(0), Store(256).region(7)])
    server.set_irq_info(path, [IrqGroup(2, 4)])
    server.start(path)
    assert server.get_sock_addr(id) == path
    assert server.get_mem_table(id).regions == ()
    client = _client(server, path)
    assert notes.seen == [("new", id)]
    client.region_write(0, 3, b"odd")
    client.region_write(0, 8, b"even")
    assert client.region_read(0, 0, 12) == bar.data[:12] == b"\0\0\0odd\0\0even"
    client.dma_map(0x1000, 4096, fd=memfd(4096))
    client.irq_bind(2, 3, eventfds(1)[0])
    assert notes.seen[1:] == [("update", id)] * 2
    assert [r.guest for r in server.get_mem_table(id).regions] == [0x1000]
    irqs = server.get_irq(id)
    assert list(irqs) == [(2, 3)]
    client.reset()
    server.stop(path)
    assert notes.seen[-1] == ("destroy", id)
    assert resets == [ResetKind.POWER, ResetKind.CLIENT_GONE]
    assert not os.path.exists(path)
    assert server.get_irq(id) == {}
    server.unregister(path)
    with pytest.raises(ConfigError, match="not registered"):
        server.start(path)
    client.close()


def test_several_devices_are_served_at_once(server: VfioUserServer, tmp_path: Path) -> None:
    stores, clients = [], []
    for i in range(3):
        path = str(tmp_path / f"{i}.sock")
        stores.append(Store(4096))
        assert server.register(path, Notes()) == i
        server.set_reg_info(path, [stores[i].region(0)])
        server.start(path)
        clients.append(_client(server, path))
    for i, client in enumerate(clients):
        client.region_write(0, 0, bytes([i]) * 4)
    assert [bytes(s.data[:4]) for s in stores] == [bytes([i]) * 4 for i in range(3)]
    for client in clients:
        client.close()


def test_memory_of_a_region_is_handed_to_the_client(
    server: VfioUserServer, tmp_path: Path, memfd: Any
) -> None:
    path = str(tmp_path / "dev.sock")
    server.register(path, Notes())
    server.set_reg_info(path, [Store(0x4000).region(2)])
    fd = memfd(0x8000)
    server.set_resource(path, {2: Resource(fd, (MapArea(0x1000, 0x1000),), offset=0x4000)})
    server.start(path)
    client = _client(server, path)
    region = client.regions()[2]
    assert (region.fd_offset, region.areas) == (0x4000, (MapArea(0x1000, 0x1000),))
    client.close()


def test_a_started_device_is_not_changed(server: VfioUserServer, tmp_path: Path) -> None:
    path = str(tmp_path / "dev.sock")
    server.register(path, Notes())
    with pytest.raises(LifecycleError, match="set_reg_info comes before start"):
        server.start(path)
    server.set_reg_info(path, [Store(16).region(0)])
    server.start(path)
    for change in (
        lambda: server.set_reg_info(path, []),
        lambda: server.set_irq_info(path, []),
        lambda: server.set_resource(path, {}),
        lambda: server.set_dev_info(path, DeviceDescription()),
        lambda: server.start(path),
    ):
        with pytest.raises(LifecycleError, match="is started"):
            change()


def test_paths_are_checked_when_registered(server: VfioUserServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 107"):
        server.register("x" * 300, Notes())
    path = str(tmp_path / "dev.sock")
    server.register(path, Notes())
    with pytest.raises(ConfigError, match="registered already"):
        server.register(path, Notes())
    with pytest.raises(ConfigError, match="there is no device 9"):
        server.get_mem_table(9)


def test_a_socket_in_use_is_an_error_and_the_device_can_be_started_elsewhere(
    server: VfioUserServer, tmp_path: Path
) -> None:
    path = str(tmp_path / "dev.sock")
    other = VfioUserServer()
    for each in (other, server):
        each.register(path, Notes())
        each.set_reg_info(path, [Store(16).region(0)])
    other.start(path)
    with pytest.raises(TransportError, match="in use"):
        server.start(path)
    other.close()
    server.start(path)


def test_a_callback_that_raises_is_an_error_reply(server: VfioUserServer, tmp_path: Path) -> None:
    path = str(tmp_path / "dev.sock")

    def broken(offset: int, size: int) -> bytes:
        raise RuntimeError("broken")

    server.register(path, Notes())
    server.set_reg_info(path, [Region(RegionInfo(0, 16, RW), broken, lambda o, d: None)])
    server.start(path)
    client = _client(server, path)
    with pytest.raises(PeerError) as caught:
        client.region_read(0, 0, 4)
    assert caught.value.errno == 5
    client.close()
