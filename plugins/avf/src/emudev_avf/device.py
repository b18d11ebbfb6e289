"""The AVF PCI function: configuration space, registers and interrupts around a virtual function.

A guest's access comes here as a register; what it means is in `mailbox`, `vf`, `virtchnl` and
`resets`, its packets are `rings`. Source: avf.md sections 1, 2 and 8.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from emudev_core.errors import DeviceError
from emudev_core.events import Event, EventKind
from emudev_core.hooks import hookimpl
from emudev_core.memory import MemoryRegion, MemoryTable
from emudev_core.queues import DeviceInfo, Direction, Doorbell, IrqInfo, QueueInfo
from emudev_core.regions import RegionInfo, ResetKind
from emudev_core.specs import ProviderContext
from emudev_net.addresses import default_mac, parse_station
from emudev_net.jit import Compilation
from emudev_pci.capabilities import pci_express
from emudev_pci.function import MemoryBar, Msix, PciFunction, PciIds

from .attributes import AUTO, UP, add_attributes
from .config import HEADERS, AvfConfig
from .history import History
from .hold_timer import HoldTimer
from .mailbox import ICR_ADMINQ, Mailbox
from .message_rings import MessagePlane
from .registers import ITR_STRIDE, MAP
from .resets import ResetEvent, Resets, ResetState
from .rings import Port
from .saving import restore_device, save_device
from .sections import add_sections
from .shaper import LimitWatch
from .tails import MappedTails, TailWatch
from .vf import Vf
from .virtchnl.dispatch import Dispatcher

__all__ = ["AvfDevice"]

log = logging.getLogger(__name__)

#: Bit 30 of VFINT_ICR0_ENA1.
CAUSE_ADMINQ: Final = 1 << 30
MSIX_BAR: Final = 3
#: Name of the region that `emudev_region_map` knows: the words of the transmit doorbells.
DOORBELLS: Final = "doorbells"


class AvfDevice(PciFunction):
    """One Intel Adaptive Virtual Function.

    Args:
        config: What the user asked for.
        context: What the host gives a builder.

    Attributes:
        port: The data plane.
        vf: What virtchnl requests set up.
        mailbox: The admin queues.
        messages: The queues in memory that can't be mapped.
        dispatcher: Answers requests.
        resets: Where a VF reset is.
        history: The last messages of the mailbox.
        backend_link: Whether the backend's end of the link is up.
        admin_link: Whether the link follows that; else what the user wants of it.
        ready: Whether the kernels are.
    """

    ids = PciIds(vendor=0x8086, device=0x1889, class_code=0x020000)
    bars = {  # noqa: RUF012 - declared once, never changed, as the PCI kit has it
        0: MemoryBar(MAP, wide=True, prefetchable=True),
        MSIX_BAR: MemoryBar(size=0x4000, wide=True, prefetchable=True),
    }
    power = False
    capabilities = (pci_express(at=0xA0),)

    def __init__(self, config: AvfConfig, context: ProviderContext) -> None:
        pairs = config.queues
        self.msix = Msix(vectors=config.vectors, bar=MSIX_BAR, table=0, pending=0x2000, at=0x70)
        super().__init__(config, context)
        self.config: AvfConfig = config
        mac = parse_station(config.mac) if config.mac else default_mac(self.name)
        self._tails = MappedTails() if config.doorbells == "mapped" else None
        self._watch: TailWatch | None = None
        self.port = Port(
            pairs,
            config.vectors,
            max_frame=config.mtu + HEADERS,
            paused=context.device.paused,
            tails=self._tails,
            on_polled=self._polled,
            rx_usecs_high=config.rx_usecs_high,
        )
        if self._tails is not None:
            self._watch = TailWatch(context.loop, [ring.doorbell for ring in self.port.tx])
        self._limit_watch: LimitWatch | None = None
        self._timer: HoldTimer | None = None
        self.vf = Vf(config, mac, self.port, self)
        self.history = History()
        self.dispatcher = Dispatcher(self.vf, self.history)
        self.mailbox = Mailbox(
            self.regs,
            lambda: self.memory,
            self.dispatcher.receive,
            self._mailbox_raised,
            self.defer,
            lambda: self.messages.busy,
        )
        self.messages = MessagePlane(context.loop, self.port, self.mailbox.receive_tail_written)
        self.resets = Resets(
            context.loop, self._clear, self._reset_changed, lambda: self.messages.busy
        )
        self.backend_link = False
        self.admin_link = AUTO
        self.ready = False
        self._compilation: Compilation | None = None
        self._running = False
        self._hash_task = context.loop.task(self.apply_hash_registers)
        self._hash_written = False
        # Tails latch in their words, whatever the state of the queue.
        self.bind_doorbells("QTX_TAIL1", [ring.doorbell for ring in self.port.tx])
        self.bind_doorbells("QRX_TAIL1", [ring.doorbell for ring in self.port.rx])
        # A driver enables its interrupt each time that it has looked at its rings.
        self._controls = [
            vector.register(2 * pairs + n) for n, vector in enumerate(self.port.vectors[1:])
        ]
        for n, bell in enumerate(self._controls):
            bell.subscribe(partial(self._control_queue_vector, n))
        if self._controls:
            self.bind_doorbells("VFINT_DYN_CTLN1", self._controls)
        add_attributes(self)
        add_sections(self)

    # -- doorbells that clients map

    @hookimpl
    def emudev_get_regions(self) -> Sequence[RegionInfo]:
        """Those of the function; transmit tails are mappable if the user said so."""
        regions = super().emudev_get_regions()
        if self._tails is None:
            return regions
        return [self._tails.region(info) if info.index == 0 else info for info in regions]

    def _polled(self, _: bool) -> None:
        if self._watch is not None:
            self._watch.update()

    def on_client(self, attached: bool) -> None:
        """A client may map the tails; the memory of one that has left is nobody's."""
        if self._tails is not None and self._watch is not None:
            self._watch.set_wanted(attached)
            if not attached:
                self._tails.renew(self.context.device.paused())

    # -- lifecycle

    @hookimpl
    def emudev_configure(self) -> None:
        """Compile the kernels in the background; the link stays down until they are ready."""
        if self._timer is None:
            self._timer = HoldTimer(self.context.loop, self.port)
            self._limit_watch = LimitWatch(self.context.loop, self.port.limits)
        self._compilation = self.port.compile(
            lambda error: self.context.loop.call_threadsafe(self._compiled),
            lambda text: log.info("%s: %s", self.name, text),
        )

    def _compiled(self) -> None:
        """The kernels are as fast as they get: plain ones serve where compiling failed."""
        self.ready = True
        if self._timer is not None:
            self._timer.compiled()
        for n, bell in enumerate(self._controls):
            bell.subscribers.clear()
            bell.subscribe(
                partial(self._control_queue_vector, n), self.port.vectors[n + 1].shortcut
            )
        self.update_link()

    @hookimpl
    def emudev_start(self) -> None:
        """Let the link follow the backend."""
        self._running = True
        self.update_link()

    @hookimpl
    def emudev_stop(self) -> None:
        """The link goes down."""
        self._running = False
        self.update_link()

    def on_close(self) -> None:
        """Stop the clock and the data plane."""
        if self._compilation is not None:
            self._compilation.cancel()
        self._hash_task.close()
        self.resets.cancel()
        self.mailbox.reset()
        if self._limit_watch is not None:
            self._limit_watch.close()
        if self._timer is not None:
            self._timer.close()
        self.port.close()
        self.messages.close()
        if self._watch is not None:
            self._watch.set_wanted(False)
        if self._tails is not None:
            self._tails.close()

    def update_link(self) -> None:
        """The link is up while the backend or the user says so, and the device can work."""
        wanted = self.backend_link if self.admin_link == AUTO else self.admin_link == UP
        up = wanted and self._running and self.ready
        self.vf.set_link(up, self.vf.speed)

    # -- guest memory and interrupts

    def on_memory(self, table: MemoryTable) -> None:
        """The data plane uses it from the next kernel call on."""
        self.port.set_memory(self.memory)

    def on_bus_master(self, enabled: bool) -> None:
        """No DMA while the guest has not allowed it."""
        self.port.set_memory(self.memory)

    def on_vector(self, vector: int, fd: int | None) -> None:
        """A vector with an event that waits fires now."""
        self.port.vectors[vector].bind(fd)

    def _mailbox_raised(self) -> None:
        self.regs.VFINT_ICR01 |= ICR_ADMINQ
        self.port.vectors[0].event()

    @MAP.on_write("VFINT_DYN_CTL01")
    def _control_mailbox_vector(self, value: int) -> None:
        self.port.vectors[0].control(value)

    @MAP.on_write("VFINT_ICR0_ENA1")
    def _enable_causes(self, value: int) -> None:
        self.port.vectors[0].cause_enable(bool(value & CAUSE_ADMINQ))

    def _control_queue_vector(self, index: int) -> None:
        self.port.vectors[index + 1].control(self._controls[index].value)
        self.port.look_on()

    @MAP.on_write("VFINT_ITR01")
    def _throttle_mailbox_vector(self, index: int, value: int) -> None:
        self.port.vectors[0].throttle(index, value)

    @MAP.on_read("VFINT_ITR01")
    def _mailbox_throttle(self, index: int) -> int:
        return self.port.vectors[0].intervals[index]

    @MAP.on_write("VFINT_ITRN1")
    def _throttle_queue_vector(self, index: int, value: int) -> None:
        throttle, vector = divmod(index, ITR_STRIDE)
        if vector + 1 < self.config.vectors:
            self.port.vectors[vector + 1].throttle(throttle, value)

    @MAP.on_read("VFINT_ITRN1")
    def _queue_throttle(self, index: int) -> int:
        throttle, vector = divmod(index, ITR_STRIDE)
        if vector + 1 < self.config.vectors:
            return self.port.vectors[vector + 1].intervals[throttle]
        return 0

    # -- mailbox

    @MAP.on_write("VF_ATQT1")
    def _send_tail_written(self, value: int) -> None:
        if self.resets.working:
            self.mailbox.send_tail_written()

    @MAP.on_write("VF_ARQT1")
    def _receive_tail_written(self, value: int) -> None:
        self.mailbox.receive_tail_written()

    # -- hash of a guest without RSS_PF

    @MAP.on_write("VFQF_HENA")
    @MAP.on_write("VFQF_HKEY")
    @MAP.on_write("VFQF_HLUT")
    def _hash_register_written(self, index: int, value: int) -> None:
        # A driver writes thirty of them in a row, and the tables of a key cost a millisecond.
        self._hash_written = True
        self._hash_task.mark()

    def apply_hash_registers(self) -> None:
        """Bring what was written to the registers of the hash to the data plane, if anything."""
        if self._hash_written:
            self._hash_written = False
            hena, key, lut = self.regs.VFQF_HENA, self.regs.VFQF_HKEY, self.regs.VFQF_HLUT
            self.vf.set_rss_registers(list(hena), list(key), list(lut))

    # -- what the virtual function asks of the device (`vf.Outside`)

    def send(self, opcode: int, status: int, payload: bytes) -> None:
        """Send a message to the guest."""
        self.history.sent(opcode, status, len(payload))
        self.mailbox.post(opcode, status, payload)

    def post(self, event: Event) -> None:
        """Tell the subscribers."""
        self.post_event(event)

    def begin_reset(self) -> None:
        """The guest asked by RESET_VF; during a reset there is nothing to be asked for."""
        if self.resets.working:
            self.resets.happen(ResetEvent.REQUEST)

    def announce_reset(self) -> None:
        """Tell the guest, and reset it when it had time to read that."""
        if self.resets.state is ResetState.ACTIVE:
            self.resets.happen(ResetEvent.ANNOUNCE)
            if self.mailbox.receiving:
                self.vf.send_reset_impending()

    def silent_reset(self) -> None:
        """Reset the guest without a word, as a PF that was reset itself does."""
        if self.resets.working:
            self.resets.happen(ResetEvent.SILENT)

    # -- resets

    def on_reset(self, kind: ResetKind) -> bool:
        """Function level resets keep what a VF reset keeps; all others nothing."""
        event = ResetEvent.FUNCTION if kind is ResetKind.FUNCTION else ResetEvent.POWER
        self.resets.happen(event)
        return True

    def _clear(self, event: ResetEvent) -> None:
        """What each reset does; when this returns nothing is stored in guest memory any more."""
        self._hash_written = False
        with self.context.device.paused():
            self.mailbox.reset()
            self.vf.reset(power=event is ResetEvent.POWER)
            self.regs.reset()
            for vector in self.port.vectors:
                vector.reset()

    def _reset_changed(self) -> None:
        self.regs.VFGEN_RSTAT = self.resets.rstat
        if self.resets.working:
            # Linux probes a VF whose reset is completed: what it sent meanwhile has waited.
            self.mailbox.send_tail_written()

    # -- backends ask

    @hookimpl
    def emudev_get_dev_info(self) -> DeviceInfo:
        """The size of the device."""
        return DeviceInfo(
            type="avf",
            max_queue_pairs=self.config.queues,
            max_events=len(EventKind),
            vectors=len(self.vectors),
            doorbells=2 * self.config.queues,
            max_frame=self.config.mtu + HEADERS,
            parallel=True,
        )

    @hookimpl
    def emudev_get_queue_info(self, queue: int) -> QueueInfo:
        """A ring and its kernels."""
        if not 0 <= queue < 2 * self.config.queues:
            raise DeviceError(f"{self.name} has no queue {queue}: it has {2 * self.config.queues}")
        receive = queue % 2 == 0
        ring = (self.port.rx if receive else self.port.tx)[queue // 2]
        return QueueInfo(
            queue=queue,
            direction=Direction.RX if receive else Direction.TX,
            base=ring.base,
            size=ring.length,
            doorbell=ring.doorbell.id,
            vector=ring.vector,
            enabled=ring.enabled,
            kernels=self.port.kernels(queue),
        )

    @hookimpl
    def emudev_get_irq_info(self, vector: int) -> IrqInfo:
        """A vector, raised by the rules of DYN_CTL."""
        if not 0 <= vector < len(self.vectors):
            raise DeviceError(f"{self.name} has no vector {vector}: it has {len(self.vectors)}")
        return IrqInfo(vector, self.vectors[vector].fd, self.port.vectors[vector].event)

    @hookimpl
    def emudev_get_db_info(self, doorbell: int) -> Doorbell:
        """Transmit doorbells first, then those of the receive queues."""
        pairs = self.config.queues
        if not 0 <= doorbell < 2 * pairs:
            raise DeviceError(f"{self.name} has no doorbell {doorbell}: it has {2 * pairs}")
        rings = self.port.tx if doorbell < pairs else self.port.rx
        return rings[doorbell % pairs].doorbell

    @hookimpl
    def emudev_region_map(self, name: str, size: int) -> int:
        """The words of the transmit doorbells; the first one is at the address."""
        if name != DOORBELLS:
            raise DeviceError(f"{self.name} has no region {name} to map (known: {DOORBELLS})")
        bells = [ring.doorbell for ring in self.port.tx]
        room = bells[-1].address + bells[-1].size - bells[0].address
        if not 0 < size <= room:
            raise DeviceError(f"{self.name}: region {name} has {room} bytes, not {size}")
        return bells[0].address

    # -- saving

    def save_state(self) -> dict[str, Any]:
        """What the VF remembers beside the registers."""
        return save_device(self)

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `save_state` gave."""
        restore_device(self, state)

    def on_unmap(self, table: MemoryTable, region: MemoryRegion) -> bool:
        """The data plane has let go of it, in `on_memory`: kernels rested, and know it no more."""
        return True
