"""A transport without a wire: the client calls the device in the same process.

It behaves as the contract of a transport asks and no more, so that providers and backends are
tested without any plugin.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Any

from ..config import TransportConfig
from ..device import Device
from ..errors import MemoryAccessError, PeerError, TransportError
from ..hooks import hookimpl
from ..later import Later
from ..lifecycle import State
from ..loop import Loop
from ..memory import EMPTY_TABLE, Mapping, MemoryRegion, MemoryTable
from ..regions import IrqGroup, RegionInfo, ResetKind
from ..specs import ConnectContext, TransportContext, TransportSpec

__all__ = ["SPEC", "LoopbackClient", "LoopbackTransport"]

_NUMBERS = (1, 2, 4, 8)


class _Channel:
    """Guest memory that has no descriptor: bytes that the client keeps."""

    def __init__(self, address: int, memory: bytearray | memoryview) -> None:
        self._address = address
        self._memory = memoryview(memory)

    def read(self, address: int, size: int) -> bytes:
        start = address - self._address
        return bytes(self._memory[start : start + size])

    def write(self, address: int, data: bytes) -> None:
        start = address - self._address
        self._memory[start : start + len(data)] = data


class LoopbackTransport:
    """The device's end: listens to nothing, and lets one client in at a time."""

    def __init__(self, config: TransportConfig, context: TransportContext) -> None:
        self._device = context.device
        self._client: LoopbackClient | None = None
        self.listening = False
        _LISTENING[context.device] = self

    @hookimpl
    def emudev_listen(self) -> str:
        """Let clients in."""
        self.listening = True
        return f"loopback:{self._device.name}"

    @hookimpl
    def emudev_unlisten(self) -> bool:
        """Let the client go."""
        if self._client is not None:
            self._client.close()
        self.listening = False
        return True

    @hookimpl
    def emudev_close(self) -> None:
        """Forget the device."""
        _LISTENING.pop(self._device, None)

    def attach(self, client: LoopbackClient) -> None:
        """Take a client in.

        Raises:
            TransportError: Not listening, or another one is attached.
        """
        if not self.listening or self._client is not None:
            raise TransportError(f"{self._device.name}: not listening, or a client is attached")
        self._client = client
        self._device.client_attached("loopback")

    def detach(self) -> None:
        """Forget the client."""
        self._client = None


#: The transports of this process by device: a client finds its own without a socket.
_LISTENING: dict[Device, LoopbackTransport] = {}


class LoopbackClient:
    """The guest's end; see `emudev_core.client.DeviceClient`.

    Args:
        device: The device, in this process.
        loop: The loop that serves it.
    """

    def __init__(self, device: Device, loop: Loop) -> None:
        self._device = device
        self._loop = loop
        self._mappings: dict[int, tuple[MemoryRegion, Mapping | None]] = {}
        self._bound: dict[tuple[int, int], int] = {}
        self._table = EMPTY_TABLE
        self._closed = False
        transport = _LISTENING.get(device)
        if transport is None:
            raise TransportError(f"{device.name}: not listening")
        self._transport = transport
        transport.attach(self)

    def regions(self) -> Sequence[RegionInfo]:
        """The device's regions."""
        return self._device.get_regions()

    def irq_groups(self) -> Sequence[IrqGroup]:
        """The device's groups of interrupts."""
        return self._device.get_irq_groups()

    def region_read(self, region: int, offset: int, size: int) -> bytes:
        """Read bytes of a region."""
        self._check(region, offset, size)
        if size in _NUMBERS and offset % size == 0:
            value = self._call("region_read", region, offset, size)
            return int(value).to_bytes(size, "little")
        return bytes(self._call("region_read_bulk", region, offset, size))

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write bytes to a region."""
        size = len(data)
        self._check(region, offset, size)
        if size == 4 and self._ring(region, offset, data):
            return
        if size in _NUMBERS and offset % size == 0:
            value = int.from_bytes(data, "little")
            self._call("region_write", region, offset, size, value)
        else:
            self._call("region_write_bulk", region, offset, data)

    def _ring(self, region: int, offset: int, data: bytes) -> bool:
        if not self._device.is_direct("emudev_region_write"):
            return False
        for window in self.regions()[region].doorbells:
            index, rest = divmod(offset - window.offset, window.stride)
            if rest == 0 and 0 <= index < len(window.doorbells):
                window.doorbells[index].write(int.from_bytes(data, "little"))
                return True
        return False

    def _check(self, region: int, offset: int, size: int) -> None:
        regions = self.regions()
        if not 0 <= region < len(regions) or not 0 <= offset <= regions[region].size - size:
            raise PeerError(f"region {region} has no {offset:#x}+{size:#x}")

    def _call(self, method: str, *arguments: Any) -> Any:
        if self._closed or self._device.state is State.ERROR:
            raise TransportError(f"{self._device.name}: nobody serves it any more")
        try:
            return getattr(self._device, method)(*arguments)
        except MemoryAccessError as exc:
            raise PeerError(str(exc), errno=14) from exc
        except Exception as exc:
            self._device.fail(exc, f"emudev_{method}")
            raise PeerError(str(exc), errno=5) from exc

    def _settle(self, answer: Later | bool) -> None:
        if isinstance(answer, Later):
            while not answer.done:
                self._loop.turn(0.01)
            if answer.error is not None:
                raise PeerError(str(answer.error), errno=5)

    def dma_map(
        self,
        address: int,
        size: int,
        *,
        fd: int | None = None,
        offset: int = 0,
        readable: bool = True,
        writable: bool = True,
        memory: bytearray | memoryview | None = None,
    ) -> None:
        """Give the device a range of guest memory."""
        if fd is None and memory is None:
            raise ValueError("expected a descriptor or memory")
        mapping = None
        if fd is not None:
            mapping = Mapping(fd, offset, size, readable=readable, writable=writable)
            region = MemoryRegion(address, size, mapping.address, readable, writable)
        else:
            assert memory is not None
            channel = _Channel(address, memory)
            region = MemoryRegion(address, size, None, readable, writable, channel)
        regions = [known for known, _ in self._mappings.values()]
        try:
            table = MemoryTable([*regions, region], self._table.generation + 1)
        except ValueError as exc:
            if mapping is not None:
                mapping.close()
            raise PeerError(str(exc)) from exc
        self._mappings[address] = (region, mapping)
        self._table = table
        self._device.dma_map(table, region)
        self._device.status_changed("memory")

    def dma_unmap(self, address: int, size: int) -> None:
        """Take a range back."""
        found = self._mappings.get(address)
        if found is None or found[0].size != size:
            raise PeerError(f"{address:#x}+{size:#x} is not mapped", errno=2)
        region, mapping = found
        rest = [known for known, _ in self._mappings.values() if known is not region]
        self._table = MemoryTable(rest, self._table.generation + 1)
        self._settle(self._device.dma_unmap(self._table, region))
        del self._mappings[address]
        if mapping is not None:
            mapping.close()
        self._device.status_changed("memory")

    def irq_bind(self, group: int, vector: int, fd: int | None) -> None:
        """Let a vector signal an eventfd, or unbind it."""
        groups = {g.index: g for g in self.irq_groups()}
        if group not in groups or not 0 <= vector < groups[group].count:
            raise PeerError(f"no vector {vector} in group {group}")
        former = self._bound.pop((group, vector), None)
        own = None if fd is None else os.dup(fd)
        if own is not None:
            self._bound[group, vector] = own
        self._device.irq_bound(group, vector, own)
        if former is not None:
            os.close(former)

    def irq_mask(self, group: int, vector: int, masked: bool) -> None:
        """Mask or unmask a vector."""
        self._device.irq_masked(group, vector, masked)

    def reset(self) -> None:
        """Reset the device."""
        self._settle(self._call("reset", ResetKind.POWER))

    def wait(self, fd: int, timeout: float) -> bool:
        """Turn the loop until `fd` is readable or the time is over."""
        deadline = time.monotonic() + timeout
        while True:
            self._loop.turn(0.0)
            left = deadline - time.monotonic()
            if select.select([fd], [], [], min(0.002, max(0.0, left)))[0]:
                return True
            if left <= 0:
                return False

    def pause(self, seconds: float) -> None:
        """Turn the loop for a while, at least once."""
        deadline = time.monotonic() + seconds
        while True:
            self._loop.turn(max(0.0, deadline - time.monotonic()))
            if time.monotonic() >= deadline:
                return

    def close(self) -> None:
        """Go away, with everything that was given. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for group, vector in list(self._bound):
            fd = self._bound.pop((group, vector))
            self._device.irq_bound(group, vector, None)
            os.close(fd)
        for address, (region, _) in list(self._mappings.items()):
            self.dma_unmap(address, region.size)
        self._settle(self._device.reset(ResetKind.CLIENT_GONE))
        self._device.client_detached()
        self._transport.detach()


def _connect(config: TransportConfig, context: ConnectContext) -> LoopbackClient:
    if context.device is None or context.loop is None:
        raise TransportError("loopback reaches devices of this process only")
    return LoopbackClient(context.device, context.loop)


#: The transport's record; its name is ``loopback``.
SPEC = TransportSpec(
    name="loopback",
    summary="Calls inside the process, for tests",
    config=TransportConfig,
    serve=LoopbackTransport,
    connect=_connect,
)
