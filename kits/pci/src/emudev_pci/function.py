"""A PCI function: subclass it, declare ids, BARs and interrupts, and write handlers.

    class Dice(PciFunction):
        ids = PciIds(vendor=0x1234, device=0xD1CE, class_code=0x00FF00)
        bars = {0: MemoryBar(MAP)}
        msix = Msix(vectors=1, bar=1)

        @MAP.on_read("ROLL")
        def roll(self) -> int:
            return random.randint(1, self.regs.SIDES)

A declaration may depend on the configuration: set ``self.msix`` and its like before
``super().__init__``. Everything runs on the loop's thread; handlers never wait.

A guest's mistake never becomes an error of the device: guest memory that is not there, or bus
mastering that is disabled, ends a handler, sets the error bits in configuration space and is
counted in `faults`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emudev_core.attributes import AttributeInfo, AttributeTable, AttributeValue
from emudev_core.errors import DeviceError, MemoryAccessError
from emudev_core.events import Event, EventChannel, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.later import Later
from emudev_core.memory import EMPTY_TABLE, MemoryRegion, MemoryTable
from emudev_core.queues import DeviceInfo, Doorbell, IrqInfo, QueueInfo
from emudev_core.regions import IrqGroup, RegionInfo, ResetKind
from emudev_core.sections import Section, SectionTable
from emudev_core.specs import ProviderContext

from .bars import IoBar, MemoryBar
from .capabilities import Capability
from .config_events import ConfigEvents
from .config_space import ConfigSpace, PciIds
from .deferred_calls import DeferredCalls
from .handlers import check_maps, handlers_of
from .interrupts import IntxLine, IrqIndex, Msi, Msix, MsixTable, Vector
from .layout import CONFIG, Layout
from .overrides import Overrides
from .register_file import RegisterFile
from .registers import RegisterMap, RegisterMapError
from .saving import restore_function, save_function
from .sections import add_sections

__all__ = ["IoBar", "MemoryBar", "Msi", "Msix", "PciFunction", "PciIds"]

log = logging.getLogger(__name__)


class PciFunction(Overrides):
    """See the module, and `Overrides` for what a subclass may override.

    Args:
        config: The provider's configuration.
        context: What the host gives a builder.

    Attributes:
        ids: Who it is.
        bars: BARs by number.
        msix, msi: Message signalled interrupts, or None; `vectors` are as many as the larger has.
        intx: Whether there is INTA, `intx_line`.
        pcie: PCI Express endpoint with function level reset, 4096 bytes of configuration space.
        power: Power management.
        capabilities: Further ones, or others in the place of those two.
        config, context, name: Configuration, context, and name of the device.
        config_space: Configuration space.
        bar_regs: Register files by BAR; `regs` is that of the lowest BAR with a map.
        vectors: MSI-X or MSI vectors.
        attributes: What a backend may ask and set; add to it.
        sections: What `emudev ctl show` shows; add to it.
        table: Present guest memory; see `memory`.
        bus_master: Whether the guest lets the function reach its memory.
        client: Whether a client is attached.
        config_events: What writes to configuration space do.
        faults: Accesses to guest memory that failed.
        deferred: Calls that wait until the guest's access at hand was answered; see `defer`.
    """

    ids: PciIds = PciIds(0xFFFF, 0xFFFF, 0xFF0000)
    bars: Mapping[int, MemoryBar | IoBar] = {}
    msix: Msix | None = None
    msi: Msi | None = None
    intx: bool = False
    pcie: bool = True
    power: bool = True
    capabilities: Sequence[Capability] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for bar in cls.bars.values():
            if bar.map is not None:
                handlers_of(cls, bar.map)  # mistakes show at import

    @classmethod
    def register_maps(cls) -> list[RegisterMap]:
        """Its register maps, for ``emudev regs`` where `ProviderSpec.build` is the class."""
        return [bar.map for _, bar in sorted(cls.bars.items()) if bar.map is not None]

    def __init__(self, config: Any, context: ProviderContext) -> None:
        self.config = config
        self.context = context
        self.name = context.device.name
        self.layout = Layout(
            self.ids,
            self.bars,
            self.msix,
            self.msi,
            self.intx,
            self.pcie,
            self.power,
            self.capabilities,
        )
        self.config_space: ConfigSpace
        self.config_space, self.capability_offsets = self.layout.build()
        self.bar_regs: dict[int, RegisterFile] = {
            number: RegisterFile(bar.map, self, self.defer)
            for number, bar in sorted(self.bars.items())
            if bar.map is not None
        }
        check_maps(type(self), [file.map for file in self.bar_regs.values()])
        self.regs = next(
            iter(self.bar_regs.values()), RegisterFile(RegisterMap(f"{self.name}.none", 1, []))
        )
        count = max(self.msix.vectors if self.msix else 0, self.msi.vectors if self.msi else 0)
        self.vectors: tuple[Vector, ...] = tuple(Vector(i, self.on_vector) for i in range(count))
        self.intx_line = IntxLine()
        self.msix_table = MsixTable(self.msix, self.vectors) if self.msix is not None else None
        self._msix_bar = self.msix.bar if self.msix is not None else -1
        self.attributes = AttributeTable(self.name)
        self.sections = SectionTable()
        add_sections(self)
        self.table: MemoryTable = EMPTY_TABLE
        self.bus_master = False
        self.client = False
        self.faults = 0
        self.deferred = DeferredCalls(context.loop, self._deferred_failed)
        self.config_events = ConfigEvents(self)
        self._doorbells: dict[int, Doorbell] = {}
        self._regions: Sequence[RegionInfo] | None = None

    # -- what a subclass uses

    @property
    def memory(self) -> MemoryTable:
        """Guest memory as the function may reach it now: empty while it is no bus master."""
        return self.table if self.bus_master else EMPTY_TABLE

    def post_event(self, event: Event) -> None:
        """Post an event to the device's subscribers."""
        self.context.device.post_event(event)

    def defer(self, call: Callable[[], object]) -> None:
        """Call when the guest's access at hand was answered; a reset drops what waits."""
        self.deferred.add(call)

    def bind_doorbells(
        self, name: str, doorbells: Sequence[Doorbell], regs: RegisterFile | None = None
    ) -> None:
        """Let a row of registers be doorbells, which a transport may serve by itself.

        Args:
            name: A row of 4-byte registers without handlers.
            doorbells: For the first of the row; the rest stay plain registers. Their ids are
                unique within the device. They stay for its life: call this from the constructor.
            regs: Of which file; None: `regs`.

        Raises:
            RegisterMapError: See `RegisterFile.bind_doorbells`; or an id twice.
        """
        for bell in doorbells:
            if bell.id in self._doorbells:
                raise RegisterMapError(f"{self.name}: two doorbells have the id {bell.id}")
        (regs or self.regs).bind_doorbells(name, doorbells)
        self._doorbells.update({bell.id: bell for bell in doorbells})

    def _deferred_failed(self, exc: Exception) -> None:
        if isinstance(exc, MemoryAccessError):
            self._fault(exc)
        else:
            self.deferred.clear()
            self.context.device.fail(exc, "emudev_region_write")

    def _fault(self, exc: MemoryAccessError) -> None:
        self.faults += 1
        self.config_events.report_fault()
        log.debug("%s: %s", self.name, exc)

    # -- accesses

    @hookimpl
    def emudev_get_regions(self) -> Sequence[RegionInfo]:
        """The nine regions of a PCI function."""
        if self._regions is None:
            windows = {bar: file.doorbell_windows for bar, file in self.bar_regs.items()}
            self._regions = self.layout.regions(self.config_space.size, windows)
        return self._regions

    @hookimpl
    def emudev_get_irq_groups(self) -> Sequence[IrqGroup]:
        """INTx, MSI, MSI-X, ERR and REQ."""
        return self.layout.irq_groups()

    @hookimpl
    def emudev_region_read(self, region: int, offset: int, size: int) -> int:
        """A guest's read; plain registers first."""
        file = self.bar_regs.get(region)
        if file is not None:
            slot = file.plain_reads.get(offset << 4 | size)
            if slot is not None:
                return file.values[slot]
        try:
            if file is not None and region != self._msix_bar:
                return file.read(offset, size)
            if region == CONFIG:
                return self.config_space.read(offset, size)
            if region == self._msix_bar and self._in_table(offset, size):
                assert self.msix_table is not None
                return int.from_bytes(self.msix_table.read(offset, size), "little")
            if file is not None:
                return file.read(offset, size)
            return self.bar_read(region, offset, size) & (1 << 8 * size) - 1
        except MemoryAccessError as exc:
            self._fault(exc)
            return (1 << 8 * size) - 1

    @hookimpl
    def emudev_region_write(self, region: int, offset: int, size: int, value: int) -> Later | bool:
        """A guest's write; plain registers first."""
        file = self.bar_regs.get(region)
        if file is not None:
            slot = file.plain_writes.get(offset << 4 | size)
            if slot is not None:
                file.values[slot] = value
                return True
        try:
            if file is not None and region != self._msix_bar:
                file.write(offset, size, value)
            elif region == CONFIG:
                self.config_space.write(offset, size, value)
                return self.config_events.take_answer()
            elif region == self._msix_bar and self._in_table(offset, size):
                assert self.msix_table is not None
                self.msix_table.write(offset, value.to_bytes(size, "little"))
            elif file is not None:
                file.write(offset, size, value)
            else:
                self.bar_write(region, offset, size, value)
        except MemoryAccessError as exc:
            self._fault(exc)
        return True

    @hookimpl
    def emudev_region_read_bulk(self, region: int, offset: int, size: int) -> bytes:
        """A read of any length."""
        if region == CONFIG:
            return self.config_space.read_bytes(offset, size)
        parts = [
            self.emudev_region_read(region, at, length).to_bytes(length, "little")
            for at, length in self._pieces(region, offset, size)
        ]
        return b"".join(parts)

    @hookimpl
    def emudev_region_write_bulk(self, region: int, offset: int, data: bytes) -> Later | bool:
        """A write of any length."""
        if region == CONFIG:
            self.config_space.write_bytes(offset, data)
            return self.config_events.take_answer()
        for at, length in self._pieces(region, offset, len(data)):
            piece = data[at - offset : at - offset + length]
            self.emudev_region_write(region, at, length, int.from_bytes(piece, "little"))
        return True

    def _in_table(self, offset: int, size: int) -> bool:
        return self.msix_table is not None and self.msix_table.covers(offset, size)

    def _pieces(self, region: int, offset: int, size: int) -> list[tuple[int, int]]:
        """An access of any length as aligned ones of 4 bytes, or 8 where a register is so long."""
        file = self.bar_regs.get(region)
        pieces = []
        end = offset + size
        while offset < end:
            length = 4
            if file is not None and offset % 8 == 0:
                found = file.map.find(offset)
                length = 8 if found and file.map.instances[found[0][0]][0].size == 8 else 4
            length = min(length - offset % length, end - offset)
            pieces.append((offset, length))
            offset += length
        return pieces

    @hookimpl
    def emudev_get_suggestions(self) -> Sequence[str]:
        """Rows for what the guest accessed and no map declares."""
        return [row for file in self.bar_regs.values() for row in file.suggestions()]

    # -- guest memory

    @hookimpl
    def emudev_dma_map(self, table: MemoryTable, region: MemoryRegion) -> None:
        """Guest memory was added."""
        self._set_table(table)

    @hookimpl
    def emudev_dma_unmap(self, table: MemoryTable, region: MemoryRegion) -> Later | bool:
        """Guest memory is being taken away."""
        self._set_table(table)
        return self.on_unmap(table, region)

    def _set_table(self, table: MemoryTable) -> None:
        if table is self.table:
            return  # several regions go at once, and this is not the first
        with self.context.device.paused():  # nobody is at work in memory that may go
            self.table = table
            self.on_memory(table)
        self.post_event(Event(EventKind.MEMORY, value=table.generation))

    @hookimpl
    def emudev_get_mem_table(self) -> MemoryTable:
        """The present snapshot."""
        return self.table

    # -- interrupts

    @hookimpl
    def emudev_irq_bound(self, group: int, vector: int, fd: int | None) -> None:
        """A vector got a descriptor, or lost it."""
        if group == IrqIndex.INTX:
            self.intx_line.bind(fd)
        elif group in (IrqIndex.MSI, IrqIndex.MSIX) and 0 <= vector < len(self.vectors):
            self.vectors[vector].bind(fd, group)
        self.post_event(Event(EventKind.IRQ, queue=vector, value=int(fd is not None)))

    @hookimpl
    def emudev_irq_masked(self, group: int, vector: int, masked: bool) -> None:
        """A client masked or unmasked a vector."""
        if group == IrqIndex.INTX:
            self.intx_line.mask(masked)
        elif group in (IrqIndex.MSI, IrqIndex.MSIX) and 0 <= vector < len(self.vectors):
            self.vectors[vector].mask(masked)

    @hookimpl
    def emudev_irq_trigger(self, group: int, vector: int) -> None:
        """A client's loopback test."""
        if group == IrqIndex.INTX:
            self.intx_line.trigger()
        elif group in (IrqIndex.MSI, IrqIndex.MSIX) and 0 <= vector < len(self.vectors):
            self.vectors[vector].trigger()

    # -- resets and clients

    @hookimpl
    def emudev_reset(self, kind: ResetKind) -> Later | bool:
        """Reset the function; what stays is in `Overrides.on_reset`."""
        self.deferred.reset()
        answer = self.on_reset(kind)
        if isinstance(answer, Later) and not answer.done:
            answer.then(lambda done: self._finish_reset(kind))
        else:
            self._finish_reset(kind)
        return answer

    def _finish_reset(self, kind: ResetKind) -> None:
        self.deferred.clear()
        for file in self.bar_regs.values():
            file.reset()
        self.config_space.reset()
        if self.msix_table is not None:
            self.msix_table.reset()
        for vector in self.vectors:
            vector.reset()
        self.intx_line.reset()
        self.config_events.apply()
        self.after_reset(kind)
        self.post_event(Event(EventKind.RESET))

    @hookimpl
    def emudev_quiesce(self) -> Later | bool:
        """Finish the deferred calls."""
        return self.deferred.quiesce()

    @hookimpl
    def emudev_client_attached(self, client: str) -> None:
        """A client has come."""
        self.client = True
        self.on_client(True)
        self.post_event(Event(EventKind.CLIENT, value=1, text=client))

    @hookimpl
    def emudev_client_detached(self) -> None:
        """The client has gone."""
        self.client = False
        self.on_client(False)
        self.post_event(Event(EventKind.CLIENT, value=0))

    @hookimpl
    def emudev_close(self) -> None:
        """Give everything back."""
        self.deferred.close()
        self.on_close()

    # -- backends ask

    @hookimpl
    def emudev_get_dev_info(self) -> DeviceInfo:
        """What the function is; a device with queues says more."""
        return DeviceInfo(
            type=self.context.device.stem,
            max_events=len(EventKind),
            vectors=len(self.vectors),
            doorbells=len(self._doorbells),
        )

    @hookimpl
    def emudev_subscribe_event(self, channel: EventChannel) -> bool:
        """The device keeps the channels."""
        return True

    @hookimpl
    def emudev_unsubscribe_event(self, channel: EventChannel) -> bool:
        """The device keeps the channels."""
        return True

    @hookimpl
    def emudev_get_queue_info(self, queue: int) -> QueueInfo:
        """It has none."""
        raise DeviceError(f"{self.name} has no queue {queue}: it has no queues")

    @hookimpl
    def emudev_get_irq_info(self, vector: int) -> IrqInfo:
        """One of `vectors`."""
        if not 0 <= vector < len(self.vectors):
            raise DeviceError(f"{self.name} has no vector {vector}: it has {len(self.vectors)}")
        found = self.vectors[vector]
        return IrqInfo(vector, found.fd, found.trigger)

    @hookimpl
    def emudev_get_db_info(self, doorbell: int) -> Doorbell:
        """One of those that `bind_doorbells` was given."""
        found = self._doorbells.get(doorbell)
        if found is None:
            raise DeviceError(
                f"{self.name} has no doorbell {doorbell}: it has {len(self._doorbells)}"
            )
        return found

    @hookimpl
    def emudev_get_attributes(self) -> Sequence[AttributeInfo]:
        """Those of `attributes`."""
        return self.attributes.infos()

    @hookimpl
    def emudev_get_attr(self, name: str) -> AttributeValue:
        """One of `attributes`."""
        return self.attributes.get(name)

    @hookimpl
    def emudev_set_attr(self, name: str, value: AttributeValue) -> bool:
        """One of `attributes`."""
        self.attributes.set(name, value)
        return True

    @hookimpl
    def emudev_get_state(self) -> Sequence[Section]:
        """Those of `sections`."""
        return self.sections.all()

    @hookimpl
    def emudev_region_map(self, name: str, size: int) -> int:
        """It has none."""
        raise DeviceError(f"{self.name} has no region {name} to map")

    # -- saving

    @hookimpl
    def emudev_save(self) -> dict[str, Any]:
        """Registers, configuration space, interrupts, and what `save_state` adds."""
        return save_function(self)

    @hookimpl
    def emudev_restore(self, state: dict[str, Any]) -> bool:
        """Take back what `emudev_save` gave."""
        restore_function(self, state)
        return True
