"""A device for tests of transports: it answers everything and remembers what it was told.

Region 0 is plain memory of 4 KiB, region 1 has four doorbells from `DOORBELLS` on, region 2 is not
there, region 3 raises at each access. Interrupt group 0 has two maskable vectors.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from ..attributes import AttributeValue
from ..config import ProviderConfig
from ..errors import DeviceError
from ..events import Event, EventChannel
from ..hooks import hookimpl
from ..later import Later
from ..memory import EMPTY_TABLE, MemoryRegion, MemoryTable
from ..queues import DeviceInfo, Doorbell, IrqInfo, QueueInfo
from ..regions import DoorbellWindow, IrqGroup, RegionFlag, RegionInfo, ResetKind
from ..specs import ProviderContext, ProviderSpec

__all__ = ["DOORBELLS", "SPEC", "Exerciser", "ExerciserConfig"]

#: Offset of the first doorbell in region 1; they are 8 bytes apart.
DOORBELLS: Final = 0x40


class ExerciserConfig(ProviderConfig):
    """What it can be told.

    Attributes:
        faulty: Region 3 raises at each access.
    """

    faulty: bool = True


class Exerciser:
    """See the module.

    Attributes:
        memory: The bytes of region 0.
        table: The last memory table.
        told: What it was told, as tuples that start with the hook's name less ``emudev_``.
        rung: Values of the doorbells, in the order in which they were rung: (number, value).
        fds: Descriptors of the vectors that are bound.
        answer: What unmapping, reset and quiesce answer: True, or makes a `Later`.
    """

    def __init__(self, config: ExerciserConfig, context: ProviderContext) -> None:
        self.device = context.device
        self._faulty = config.faulty
        self.memory = bytearray(4096)
        self.table = EMPTY_TABLE
        self.told: list[tuple[Any, ...]] = []
        self.rung: list[tuple[int, int]] = []
        self.fds: dict[int, int] = {}
        self.answer: Callable[[], Later | bool] = lambda: True
        self._words = (ctypes.c_uint32 * 4)()
        base = ctypes.addressof(self._words)
        self.doorbells = tuple(Doorbell(i, base + 4 * i) for i in range(4))
        for bell in self.doorbells:
            self._listen_to(bell)

    def _listen_to(self, bell: Doorbell) -> None:
        bell.subscribe(lambda: self.rung.append((bell.id, bell.value)))

    @hookimpl
    def emudev_get_dev_info(self) -> DeviceInfo:
        """Four doorbells, two vectors, no queues."""
        return DeviceInfo(type="exerciser", vectors=2, doorbells=4, max_events=2)

    @hookimpl
    def emudev_get_regions(self) -> Sequence[RegionInfo]:
        """The four regions."""
        both = RegionFlag.READ | RegionFlag.WRITE
        window = DoorbellWindow(DOORBELLS, 8, self.doorbells)
        return (
            RegionInfo(0, 4096, both),
            RegionInfo(1, 4096, both, doorbells=(window,)),
            RegionInfo(2, 0),
            RegionInfo(3, 64, both),
        )

    @hookimpl
    def emudev_get_irq_groups(self) -> Sequence[IrqGroup]:
        """One group of two vectors."""
        return (IrqGroup(0, 2, maskable=True),)

    @hookimpl
    def emudev_region_read(self, region: int, offset: int, size: int) -> int:
        """Bytes of the memory; the others read as zero."""
        self._fault(region)
        data = self.memory[offset : offset + size] if region == 0 else b""
        return int.from_bytes(data, "little")

    @hookimpl
    def emudev_region_write(self, region: int, offset: int, size: int, value: int) -> bool:
        """Store, or ring."""
        self._fault(region)
        if region == 0:
            self.memory[offset : offset + size] = value.to_bytes(size, "little")
        elif region == 1 and offset >= DOORBELLS and (offset - DOORBELLS) % 8 == 0:
            number = (offset - DOORBELLS) // 8
            if number < len(self.doorbells):
                self.doorbells[number].write(value & 0xFFFF_FFFF)
        self.told.append(("region_write", region, offset, size, value))
        return True

    @hookimpl
    def emudev_region_read_bulk(self, region: int, offset: int, size: int) -> bytes:
        """Bytes of the memory."""
        self._fault(region)
        return bytes(self.memory[offset : offset + size]) if region == 0 else bytes(size)

    @hookimpl
    def emudev_region_write_bulk(self, region: int, offset: int, data: bytes) -> bool:
        """Store."""
        self._fault(region)
        if region == 0:
            self.memory[offset : offset + len(data)] = data
        return True

    def _fault(self, region: int) -> None:
        if region == 3 and self._faulty:
            raise RuntimeError("region 3 always fails")

    @hookimpl
    def emudev_dma_map(self, table: MemoryTable, region: MemoryRegion) -> None:
        """Keep the table."""
        self.table = table
        self.told.append(("dma_map", region.guest, region.size))

    @hookimpl
    def emudev_dma_unmap(self, table: MemoryTable, region: MemoryRegion) -> Later | bool:
        """Keep the table."""
        self.table = table
        self.told.append(("dma_unmap", region.guest, region.size))
        return self.answer()

    @hookimpl
    def emudev_get_mem_table(self) -> MemoryTable:
        """The last table."""
        return self.table

    @hookimpl
    def emudev_irq_bound(self, group: int, vector: int, fd: int | None) -> None:
        """Keep the descriptor."""
        self.told.append(("irq_bound", group, vector, fd is not None))
        if fd is None:
            self.fds.pop(vector, None)
        else:
            self.fds[vector] = fd

    @hookimpl
    def emudev_irq_masked(self, group: int, vector: int, masked: bool) -> None:
        """Remember it."""
        self.told.append(("irq_masked", group, vector, masked))

    @hookimpl
    def emudev_get_queue_info(self, queue: int) -> QueueInfo:
        """It has none."""
        raise DeviceError(f"no queue {queue}: it has none")

    @hookimpl
    def emudev_get_attr(self, name: str) -> AttributeValue:
        """It has none."""
        raise DeviceError(f"no attribute {name}: it has none")

    @hookimpl
    def emudev_set_attr(self, name: str, value: AttributeValue) -> bool:
        """It has none."""
        raise DeviceError(f"no attribute {name}: it has none")

    @hookimpl
    def emudev_get_irq_info(self, vector: int) -> IrqInfo:
        """A vector that is signalled whenever it is asked for."""
        if vector not in (0, 1):
            raise DeviceError(f"no vector {vector} (0 or 1)")
        return IrqInfo(vector, self.fds.get(vector), lambda: self.trigger(vector))

    @hookimpl
    def emudev_get_db_info(self, doorbell: int) -> Doorbell:
        """One of the four."""
        if not 0 <= doorbell < 4:
            raise DeviceError(f"no doorbell {doorbell} (0 to 3)")
        return self.doorbells[doorbell]

    def trigger(self, vector: int) -> None:
        """Signal a vector, if it is bound."""
        if vector in self.fds:
            os.eventfd_write(self.fds[vector], 1)

    @hookimpl
    def emudev_reset(self, kind: ResetKind) -> Later | bool:
        """Forget the memory."""
        self.memory[:] = bytes(4096)
        self.told.append(("reset", kind))
        return self.answer()

    @hookimpl
    def emudev_client_attached(self, client: str) -> None:
        """Remember it."""
        self.told.append(("client_attached",))

    @hookimpl
    def emudev_client_detached(self) -> None:
        """Remember it."""
        self.told.append(("client_detached",))

    @hookimpl
    def emudev_status_changed(self, what: str) -> None:
        """Remember it."""
        self.told.append(("status_changed", what))

    @hookimpl
    def emudev_subscribe_event(self, channel: EventChannel) -> bool:
        """The core keeps the channels."""
        return True

    def post(self, event: Event) -> None:
        """Post an event."""
        self.device.post_event(event)

    @hookimpl
    def emudev_save(self) -> dict[str, Any]:
        """The memory."""
        return {"version": 1, "memory": bytes(self.memory)}

    @hookimpl
    def emudev_restore(self, state: dict[str, Any]) -> bool:
        """The memory."""
        self.memory[:] = state["memory"]
        return True


#: The provider's record; its name is ``emu_exerciser``, over the loopback transport.
SPEC = ProviderSpec(
    name="emu_exerciser",
    summary="Answers everything, for tests",
    config=ExerciserConfig,
    build=Exerciser,
    transport="loopback",
)
