"""A vfio-user server as a library: the calls that the DPDK RFC gave its librte_vfio_user.

    server = VfioUserServer()
    server.register("/run/dice.sock", Notify())
    server.set_dev_info("/run/dice.sock", DeviceDescription())
    server.set_reg_info("/run/dice.sock", [Region(RegionInfo(0, 4096, RW), read=..., write=...)])
    server.start("/run/dice.sock")
    server.run()

No plugin and no `Device` is needed; the sessions are those of the transport. Everything runs on the
thread of the loop.

Source: the RFC of August 2020, "librte_vfio_user"; today's protocol instead of its draft.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from emudev_core.errors import ConfigError, LifecycleError
from emudev_core.later import Later
from emudev_core.lifecycle import State
from emudev_core.loop import Loop
from emudev_core.memory import EMPTY_TABLE, MemoryRegion, MemoryTable
from emudev_core.regions import IrqGroup, MapArea, RegionInfo, ResetKind
from emudev_core.sockets import check_address

from .config import VfioUserConfig
from .regions import check_regions
from .server import Server

__all__ = ["DeviceDescription", "NotifyOps", "Region", "Resource", "VfioUserServer"]

log = logging.getLogger(__name__)


class NotifyOps(Protocol):
    """What a server tells its user (RFC: ``rte_vfio_user_notify_ops``)."""

    def new_device(self, id: int, /) -> None:
        """A client has attached and the device may be used."""

    def destroy_device(self, id: int, /) -> None:
        """The client has gone; its memory and descriptors have been taken back."""

    def update_status(self, id: int, /) -> None:
        """Memory or interrupts changed: look at `get_mem_table` and `get_irq` anew."""


def _no_reset(kind: ResetKind) -> Later | bool:
    return True


def _no_unmap(table: MemoryTable, region: MemoryRegion) -> Later | bool:
    return True


@attrs.frozen
class DeviceDescription:
    """A device as a whole (RFC: ``vfio_device_info``).

    Attributes:
        reset: Called at a reset; may answer `Later`.
        release: Called before memory is unmapped, with the table without it; may answer `Later`.
        mask: Called with group, vector and whether it is masked.
        trigger: Called with group and vector that the client wants to be fired.
    """

    reset: Callable[[ResetKind], Later | bool] = _no_reset
    release: Callable[[MemoryTable, MemoryRegion], Later | bool] = _no_unmap
    mask: Callable[[int, int, bool], None] = lambda group, vector, masked: None
    trigger: Callable[[int, int], None] = lambda group, vector: None


@attrs.frozen
class Region:
    """A region and who answers accesses to it (RFC: ``rte_vfio_user_reg_info``).

    Attributes:
        info: Index, size and flags.
        read: ``read(offset, size) -> bytes`` of that size.
        write: ``write(offset, data)``.
    """

    info: RegionInfo
    read: Callable[[int, int], bytes]
    write: Callable[[int, bytes], None]


@attrs.frozen
class Resource:
    """Memory that a client may map instead of accessing a region by message.

    Attributes:
        fd: Its descriptor, kept by the caller while the server is registered.
        offset: Where the region starts in it, bytes.
        areas: The mappable parts, page aligned.
    """

    fd: int
    areas: tuple[MapArea, ...]
    offset: int = 0


class VfioUserServer:
    """See the module.

    Args:
        loop: The loop to serve in; without one, the server makes and closes its own.
        mode: Permissions of the socket files.
    """

    def __init__(self, loop: Loop | None = None, *, mode: int = 0o600) -> None:
        self.loop = loop or Loop()
        self._owns_loop = loop is None
        self._mode = f"{mode:04o}"
        self._ids = itertools.count()
        self._devices: dict[str, _Device] = {}

    def register(self, path: str, ops: NotifyOps) -> int:
        """Add a device at a socket path; nothing is opened yet.

        Returns:
            Its id, which `ops` are called with.

        Raises:
            ConfigError: The path can't be a socket's, or is registered already.
        """
        try:
            check_address(path)
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc
        if path in self._devices:
            raise ConfigError(f"socket {path} is registered already")
        device = _Device(next(self._ids), path, ops)
        device.server = Server(VfioUserConfig(path=path, mode=self._mode), device, self.loop)
        self._devices[path] = device
        return device.id

    def unregister(self, path: str) -> None:
        """Stop and forget a device."""
        self._find(path).server.emudev_unlisten()
        del self._devices[path]

    def start(self, path: str) -> None:
        """Listen.

        Raises:
            LifecycleError: Already started, or no regions were set.
            TransportError: The socket is in use, or the system refused.
        """
        device = self._find(path)
        if device.state is State.STARTED:
            raise LifecycleError(f"{path} is started already")
        if not device.regions:
            raise LifecycleError(f"{path}: set_reg_info comes before start")
        check_regions(device.get_regions())
        device.server.emudev_listen()
        device.state = State.STARTED

    def stop(self, path: str) -> None:
        """Let the client go and listen no more."""
        device = self._find(path)
        device.server.emudev_unlisten()
        device.state = State.STOPPED

    def get_sock_addr(self, id: int) -> str:
        """The socket path of a device."""
        return self._by_id(id).path

    def get_mem_table(self, id: int) -> MemoryTable:
        """The memory that the client has given, empty without one."""
        session = self._by_id(id).server.session
        return EMPTY_TABLE if session is None else session.dma.table

    def get_irq(self, id: int) -> Mapping[tuple[int, int], int]:
        """The eventfds that the client has bound, by group and vector; the server owns them."""
        session = self._by_id(id).server.session
        return {} if session is None else session.irqs.bound()

    def set_dev_info(self, path: str, info: DeviceDescription) -> None:
        """Say what happens to the device as a whole."""
        self._resting(path).description = info

    def set_reg_info(self, path: str, regions: Sequence[Region]) -> None:
        """Say which regions there are.

        Raises:
            LifecycleError: The device is started.
            ValueError: An index appears twice.
        """
        check_regions([region.info for region in regions])
        self._resting(path).regions = {region.info.index: region for region in regions}

    def set_irq_info(self, path: str, irqs: Sequence[IrqGroup]) -> None:
        """Say which groups of interrupts there are."""
        self._resting(path).irqs = tuple(irqs)

    def set_resource(self, path: str, resources: Mapping[int, Resource]) -> None:
        """Give memory to map, by region."""
        self._resting(path).resources = dict(resources)

    def run(self) -> None:
        """Serve until `loop.stop()`."""
        self.loop.run()

    def close(self) -> None:
        """Unregister everything."""
        for path in list(self._devices):
            self.unregister(path)
        if self._owns_loop:
            self.loop.close()

    def _find(self, path: str) -> _Device:
        try:
            return self._devices[path]
        except KeyError:
            raise ConfigError(f"socket {path} is not registered") from None

    def _by_id(self, id: int) -> _Device:
        for device in self._devices.values():
            if device.id == id:
                return device
        raise ConfigError(f"there is no device {id}")

    def _resting(self, path: str) -> _Device:
        device = self._find(path)
        if device.state is State.STARTED:
            raise LifecycleError(f"{path} is started: it can't be changed now")
        return device


class _Device:
    """What a session serves for `VfioUserServer`; fits `ServedDevice`."""

    server: Server

    def __init__(self, id: int, path: str, ops: NotifyOps) -> None:
        self.id = id
        self.path = path
        self.name = path
        self.ops = ops
        self.state = State.CONFIGURED
        self.description = DeviceDescription()
        self.regions: dict[int, Region] = {}
        self.irqs: tuple[IrqGroup, ...] = ()
        self.resources: dict[int, Resource] = {}

    def is_direct(self, hook: str) -> bool:
        return True

    def fail(self, reason: str | BaseException, hook: str = "") -> None:
        cause = reason if isinstance(reason, BaseException) else None
        log.error("%s is in error (%s): %s", self.name, hook, reason, exc_info=cause)
        self.state = State.ERROR

    def get_regions(self) -> list[RegionInfo]:
        found = []
        for index, region in self.regions.items():
            resource = self.resources.get(index)
            info = region.info
            if resource is not None:
                info = attrs.evolve(
                    info, fd=resource.fd, fd_offset=resource.offset, areas=resource.areas
                )
            found.append(info)
        return found

    def get_irq_groups(self) -> tuple[IrqGroup, ...]:
        return self.irqs

    def region_read(self, region: int, offset: int, size: int) -> int:
        return int.from_bytes(self.region_read_bulk(region, offset, size), "little")

    def region_write(self, region: int, offset: int, size: int, value: int) -> bool:
        return self.region_write_bulk(region, offset, value.to_bytes(size, "little"))

    def region_read_bulk(self, region: int, offset: int, size: int) -> bytes:
        data = self.regions[region].read(offset, size)
        if len(data) != size:
            raise ValueError(f"region {region}: read gave {len(data)} bytes of {size}")
        return data

    def region_write_bulk(self, region: int, offset: int, data: bytes) -> bool:
        self.regions[region].write(offset, data)
        return True

    def dma_map(self, table: MemoryTable, region: MemoryRegion) -> None:
        pass  # the session tells it as a change of status

    def dma_unmap(self, table: MemoryTable, region: MemoryRegion) -> Later | bool:
        return self.description.release(table, region)

    def irq_bound(self, group: int, vector: int, fd: int | None) -> None:
        pass  # the same

    def irq_masked(self, group: int, vector: int, masked: bool) -> None:
        self.description.mask(group, vector, masked)

    def irq_trigger(self, group: int, vector: int) -> None:
        self.description.trigger(group, vector)

    def reset(self, kind: ResetKind) -> Later | bool:
        return self.description.reset(kind)

    def client_attached(self, client: str) -> None:
        self.ops.new_device(self.id)

    def client_detached(self) -> None:
        self.ops.destroy_device(self.id)

    def status_changed(self, what: str) -> None:
        self.ops.update_status(self.id)
