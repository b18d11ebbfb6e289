"""A small PCI device behind the transport, and the ends of its socket."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emudev_core.device import Device
from emudev_core.hooks import hookimpl
from emudev_core.later import Later
from emudev_core.loop import Loop
from emudev_core.memory import EMPTY_TABLE, MemoryTable
from emudev_core.queues import Doorbell
from emudev_core.regions import (
    DoorbellWindow,
    IrqGroup,
    MapArea,
    RegionFlag,
    RegionInfo,
    ResetKind,
)
from emudev_vfio_user.client import VfioUserClient
from emudev_vfio_user.config import VfioUserConfig
from emudev_vfio_user.server import Server

RW = RegionFlag.READ | RegionFlag.WRITE
BAR0 = 0x10000
DOORBELLS = 0x1000


def _config_space() -> tuple[bytearray, bytearray]:
    """Configuration space and its write mask, byte by byte; PCI 3.0 section 6.1, PM 1.2, MSI-X."""
    space, mask = bytearray(256), bytearray(256)

    def put(offset: int, layout: str, *values: int, writable: bool = False) -> None:
        struct.pack_into("<" + layout, space, offset, *values)
        if writable:
            mask[offset : offset + struct.calcsize(layout)] = b"\xff" * struct.calcsize(layout)

    put(0x00, "HHHH", 0x1234, 0xD1CE, 0, 0x0010)
    put(0x08, "BBBB", 1, 0, 0xFF, 0x00)
    struct.pack_into("<H", mask, 0x04, 0x0547)
    struct.pack_into("<I", mask, 0x10, 0xFFFF_FFFF & ~(BAR0 - 1))  # BAR 0, 64 KiB of memory
    struct.pack_into("<I", mask, 0x14, 0xFFFF_F000)  # BAR 1, 4 KiB: MSI-X table and PBA
    put(0x2C, "HH", 0x1234, 0x0001)
    put(0x34, "B", 0x40)
    put(0x3C, "B", 0, writable=True)
    put(0x3D, "B", 1)
    put(0x40, "BBHHH", 0x01, 0x48, 0x0003, 0x0008, 0)
    struct.pack_into("<H", mask, 0x44, 0x0003)
    put(0x48, "BBHII", 0x11, 0x00, 1, 0x0000_0001, 0x0000_0801)
    struct.pack_into("<H", mask, 0x4A, 0xC000)
    return space, mask


class PciModel:
    """A provider: BAR 0 is memory with doorbells at 0x1000, BAR 2 can be mapped; 3 vectors."""

    def __init__(self) -> None:
        self.config, self.mask = _config_space()
        self.bar0 = bytearray(BAR0)
        self.words = array.array("I", [0] * 4)
        base = self.words.buffer_info()[0]
        self.doorbells = tuple(Doorbell(i, base + 4 * i) for i in range(4))
        self.rings: list[int] = []
        for bell in self.doorbells:
            bell.subscribe(lambda bell=bell: self.rings.append(bell.id))
        self.fd: int | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.table: MemoryTable = EMPTY_TABLE
        self.answers: dict[str, Any] = {}  #: what hooks answer or raise instead of doing anything
        self.vectors: dict[tuple[int, int], int] = {}
        self.on_write: Callable[[int, int, int, int], None] = lambda *args: None

    def _answer(self, hook: str, default: Any) -> Any:
        answer = self.answers.get(hook, default)
        if callable(answer):
            answer = answer()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @hookimpl
    def emudev_get_regions(self) -> list[RegionInfo]:
        window = DoorbellWindow(DOORBELLS, 8, self.doorbells)
        regions = [
            RegionInfo(0, BAR0, RW, doorbells=(window,)),
            RegionInfo(1, 0x1000, RW),
            RegionInfo(7, 256, RW),
        ]
        if self.fd is not None:
            areas = (MapArea(0x1000, 0x1000),)
            regions.append(RegionInfo(2, 0x10000, RW, fd=self.fd, areas=areas))
        return regions

    @hookimpl
    def emudev_get_irq_groups(self) -> list[IrqGroup]:
        return [
            IrqGroup(0, 1, maskable=True, automasked=True),
            IrqGroup(2, 3),
            IrqGroup(3, 1),
            IrqGroup(4, 1),
        ]

    def _space(self, region: int) -> bytearray:
        return {0: self.bar0, 7: self.config}.get(region, bytearray(0x10000))

    @hookimpl
    def emudev_region_read(self, region: int, offset: int, size: int) -> int:
        self.calls.append(("read", region, offset, size))
        self._answer("region_read", None)
        return int.from_bytes(self._space(region)[offset : offset + size], "little")

    @hookimpl
    def emudev_region_write(self, region: int, offset: int, size: int, value: int) -> Any:
        self.calls.append(("write", region, offset, size, value))
        self._store(region, offset, value.to_bytes(size, "little"))
        self.on_write(region, offset, size, value)
        return self._answer("region_write", True)

    @hookimpl
    def emudev_region_read_bulk(self, region: int, offset: int, size: int) -> bytes:
        self.calls.append(("read_bulk", region, offset, size))
        return self._answer("region_read_bulk", bytes(self._space(region)[offset : offset + size]))

    @hookimpl
    def emudev_region_write_bulk(self, region: int, offset: int, data: bytes) -> bool:
        self.calls.append(("write_bulk", region, offset, data))
        self._store(region, offset, data)
        return True

    def _store(self, region: int, offset: int, data: bytes) -> None:
        if region == 7:
            for i, byte in enumerate(data, offset):
                self.config[i] = self.config[i] & ~self.mask[i] | byte & self.mask[i]
        else:
            self._space(region)[offset : offset + len(data)] = data

    @hookimpl
    def emudev_dma_map(self, table: MemoryTable, region: Any) -> None:
        self.table = table
        self.calls.append(("map", region.guest, region.size))

    @hookimpl
    def emudev_dma_unmap(self, table: MemoryTable, region: Any) -> Any:
        self.table = table
        self.calls.append(("unmap", region.guest, region.size))
        return self._answer("dma_unmap", True)

    @hookimpl
    def emudev_irq_bound(self, group: int, vector: int, fd: int | None) -> None:
        self.calls.append(("bound", group, vector, fd is not None))
        if fd is None:
            self.vectors.pop((group, vector), None)
        else:
            self.vectors[group, vector] = fd

    @hookimpl
    def emudev_irq_masked(self, group: int, vector: int, masked: bool) -> None:
        self.calls.append(("masked", group, vector, masked))

    @hookimpl
    def emudev_irq_trigger(self, group: int, vector: int) -> None:
        self.calls.append(("trigger", group, vector))

    @hookimpl
    def emudev_reset(self, kind: ResetKind) -> Any:
        self.calls.append(("reset", kind))
        return self._answer("reset", True)

    @hookimpl
    def emudev_client_attached(self, client: str) -> None:
        self.calls.append(("attached",))

    @hookimpl
    def emudev_client_detached(self) -> None:
        self.calls.append(("detached",))

    @hookimpl
    def emudev_status_changed(self, what: str) -> None:
        self.calls.append(("status", what))


class Bench:
    """One served device, and what a test needs to poke at it from the same thread."""

    def __init__(self, path: str, model: PciModel) -> None:
        self.path = path
        self.model = model
        self.loop = Loop()
        self.device = Device("model_emudev_0", 0, "model", self.loop)
        self.server = Server(VfioUserConfig(path=path), self.device, self.loop)
        self.device.register(model, "provider")
        self.device.register(self.server, "vfio_user")
        self.device.configure()
        self.device.start()
        self._open: list[Any] = []

    def turn(self, times: int = 8) -> None:
        for _ in range(times):
            self.loop.turn(0)

    def turn_until(self, condition: Callable[[], Any], timeout: float = 5.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            self.loop.turn(0.01)

    def client(self, **options: Any) -> VfioUserClient:
        client = VfioUserClient(self.path, loop=self.loop, **options)
        self._open.append(client)
        return client

    def raw(self, *, greet: bool = True) -> RawClient:
        raw = RawClient(self)
        self._open.append(raw)
        if greet:
            raw.greet()
        return raw

    def close(self) -> None:
        for end in self._open:
            end.close()
        self.device.close()
        self.turn()
        self.loop.close()


class RawClient:
    """Sends bytes as they are."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(bench.path)
        self.sock.setblocking(False)
        self.buffer = b""

    def greet(self) -> None:
        text = b'{"capabilities":{"max_msg_fds":8,"write_multiple":true}}\0'
        reply = self.call(1, struct.pack("<HH", 0, 0) + text)
        assert reply[3] == 1, reply

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        if fds:
            socket.send_fds(self.sock, [data], fds)
        else:
            self.sock.sendall(data)

    def command(
        self,
        command: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        msg_id: int = 1,
        fds: Any = None,
    ) -> None:
        head = struct.pack("<HHIII", msg_id, command, 16 + len(payload), flags, 0)
        self.send(head + payload, fds)

    def replies(self, turns: int = 8) -> list[tuple[int, int, int, int, int, bytes]]:
        """Whole messages that came: id, command, size, flags, error, payload."""
        self.bench.turn(turns)
        while True:
            try:
                data = self.sock.recv(1 << 20)
            except (BlockingIOError, ConnectionResetError):
                break
            if not data:
                break
            self.buffer += data
            self.bench.turn(2)
        found = []
        while len(self.buffer) >= 16:
            head = struct.unpack_from("<HHIII", self.buffer)
            if len(self.buffer) < head[2]:
                break
            found.append((*head, self.buffer[16 : head[2]]))
            self.buffer = self.buffer[head[2] :]
        return found

    def call(self, command: int, payload: bytes = b"", **options: Any) -> tuple[Any, ...]:
        self.command(command, payload, **options)
        replies = self.replies()
        assert len(replies) == 1, replies
        return replies[0]

    @property
    def closed(self) -> bool:
        self.bench.turn()
        try:
            return self.sock.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def model() -> PciModel:
    return PciModel()


@pytest.fixture
def bench(tmp_path: Path, model: PciModel) -> Iterator[Bench]:
    bench = Bench(str(tmp_path / "dev.sock"), model)
    yield bench
    bench.close()


@pytest.fixture
def memfd() -> Iterator[Callable[[int], int]]:
    """Makes memory files of a given size; closes them."""
    made: list[int] = []

    def make(size: int) -> int:
        fd = os.memfd_create("guest")
        made.append(fd)
        os.ftruncate(fd, size)
        return fd

    yield make
    for fd in made:
        os.close(fd)


@pytest.fixture
def eventfds() -> Iterator[Callable[[int], list[int]]]:
    """Makes eventfds; closes them."""
    made: list[int] = []

    def make(count: int) -> list[int]:
        fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        made.extend(fds)
        return fds

    yield make
    for fd in made:
        os.close(fd)


@pytest.fixture
def later() -> type[Later]:
    return Later
